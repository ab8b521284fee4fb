"""Errors a user can mend, and the exit codes they end in.

Every message says where, what was found, what was expected and what to do; the command line prints
it without a traceback.
"""

import re

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


ALIKE = 3  # problems of one cause that are shown one by one


class ProbeError(Exception):
    """A mistake or a fault that ends the command."""


class UsageError(ProbeError):
    """An option or an argument that cannot be understood."""


class UnreadError(ProbeError):
    """A file that something outside it (the disk, permissions, memory ...) keeps from being read:
    nothing is known of its content.
    """


class UtteranceError(ProbeError):
    """One utterance that cannot be used; it is recorded with this reason and the run goes on."""


def listed(items: list[str], most: int = 5) -> str:
    """The first ``most`` items joined by commas, with the count of the rest."""
    rest = len(items) - most
    return ", ".join(items[:most]) + (f" and {rest} more" if rest > 0 else "")


def refuse_problems(problems: list[str], heading: str = "", most: int = 8) -> None:
    """Raise a `ProbeError` with the first ``most`` problems, a line each, where there are any.

    Of more than `ALIKE` problems that differ only in places, names and numbers, the first is shown
    with the count of the others.
    """
    if not problems:
        return
    causes: dict[str, list[str]] = {}
    for problem in problems:
        causes.setdefault(_cause(problem), []).append(problem)
    lines: dict[str, int] = {}  # -> number of problems that it stands for
    for problem in problems:
        alike = causes[_cause(problem)]
        if len(alike) <= ALIKE:
            lines[problem] = 1
        elif problem is alike[0]:
            lines[f"{problem} ({len(alike) - 1} more like this)"] = len(alike)
    n_rest = sum([*lines.values()][most:])
    more = [f"... and {n_rest} more problems"] if n_rest else []
    raise ProbeError("\n".join([*filter(None, [heading]), *[*lines][:most], *more]))


def _cause(problem: str) -> str:
    """The words of a problem without its place, and without what is quoted, a path or a number."""
    text = problem.partition(": ")[2] or problem
    text = re.sub(r"(?<!\w)('[^']*'|\"[^\"]*\"|`[^`]*`)", "", text)
    return " ".join(word for word in text.split() if word.strip(".,;:()").isalpha())
