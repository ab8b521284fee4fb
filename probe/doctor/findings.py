"""A finding, and its layout on a screen."""

import itertools
import shutil
import textwrap
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

WIDEST = 110
TOPIC_WIDTH, STATUS_WIDTH = 10, 9


@dataclass(frozen=True)
class Finding:
    """The result of one examination.

    Attributes:
        topic: ``versions``, ``devices``, ``decoders``, ``hub``, ``disk`` or ``model``.
        status: ``ok``; ``note`` for something to know; ``problem`` for something that will fail or
            falsify a number.
        finding: the fact.
        advice: how to fix it; empty if there is nothing to do.
    """

    topic: str
    status: str
    finding: str
    advice: str = ""


Findings = Generator[Finding, None, None]


def screen(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield the lines of each finding as soon as it is known, fitted to the terminal, then the
    number of problems and notes.
    """
    width = min(shutil.get_terminal_size((WIDEST, 24)).columns, WIDEST)
    counts = {"problem": 0, "note": 0}
    for topic, of_topic in itertools.groupby(findings, key=lambda item: item.topic):
        for number, item in enumerate(of_topic):
            if item.status in counts:
                counts[item.status] += 1
            head = f"{'' if number else topic:<{TOPIC_WIDTH}}{item.status:<{STATUS_WIDTH}}"
            indent = " " * len(head)
            lines = [*item.finding.splitlines(), *(f"→ {line}" for line in [item.advice] if line)]
            text = "\n".join(
                textwrap.fill(
                    line,
                    width,
                    initial_indent=indent,
                    subsequent_indent=indent + "  " * line.startswith("→"),
                    break_on_hyphens=False,
                    break_long_words=False,
                )
                for line in lines
            )
            yield head + text[len(head) :]
    yield ", ".join(f"{n or 'no'} {word}{'' if n == 1 else 's'}" for word, n in counts.items())
