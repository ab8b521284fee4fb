"""A finding, and how findings look on a screen."""

import itertools
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

WIDTH = 110
TOPIC_WIDTH, STATUS_WIDTH = 10, 9


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: ``versions``, ``devices``, ``decoders``, ``hub``, ``disk``, ``model``, ``corpus``,
            ``audio``, ``text``, ``labels``.
        status: ``ok``; ``note`` for what one should know; ``problem`` for what will fail or spoil a
            number.
        finding: what was found.
        advice: what to do; empty where there is nothing to do.
    """

    topic: str
    status: str
    finding: str
    advice: str = ""


def screen(findings: Iterable[Finding]) -> Iterator[str]:
    """One block of lines per finding, as they come, and a last line that counts: at most 110
    columns wide.
    """
    counts = {"problem": 0, "note": 0}
    for topic, of_topic in itertools.groupby(findings, key=lambda item: item.topic):
        for number, item in enumerate(of_topic):
            counts[item.status] = counts.get(item.status, 0) + 1
            head = f"{topic if number == 0 else '':<{TOPIC_WIDTH}}{item.status:<{STATUS_WIDTH}}"
            body = _wrapped(item.finding) + [
                ("→ " if n == 0 else "  ") + line
                for n, line in enumerate(_wrapped(item.advice, indent=2))
            ]
            yield "\n".join(
                (head if n == 0 else " " * len(head)) + line for n, line in enumerate(body)
            )
    yield ", ".join(
        f"{n or 'no'} {word}{'' if n == 1 else 's'}"
        for word, n in counts.items()
        if word in ("problem", "note")
    )


def _wrapped(text: str, indent: int = 0) -> list[str]:
    """Lines that fit beside the topic and the status; the text's own line breaks stay."""
    width = WIDTH - TOPIC_WIDTH - STATUS_WIDTH - indent
    return [
        piece
        for line in text.splitlines()
        for piece in textwrap.wrap(line, width, break_on_hyphens=False, break_long_words=False)
        or [""]
    ]
