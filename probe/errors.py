"""Errors a user can mend, and the exit codes they end in.

Every message says where, what was found, what was expected and what to do; the command line prints
it without a traceback.
"""

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


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
    """Raise a `ProbeError` with the first ``most`` problems, a line each, where there are any."""
    if problems:
        n_rest = len(problems) - most
        more = [f"... and {n_rest} more problems"] if n_rest > 0 else []
        raise ProbeError("\n".join([*filter(None, [heading]), *problems[:most], *more]))
