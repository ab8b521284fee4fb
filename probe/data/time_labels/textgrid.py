"""Praat's TextGrid: labels over time in tiers, in the long and the short text form.

Both forms are the same sequence of values. Praat reads numbers, texts in double quotes and flags
such as ``<exists>`` that stand free, and takes everything else (``xmin =``, ``intervals [3]:``) and
what follows ``!`` for comments; so does this reader. Times are seconds. Encoding: UTF-16, or UTF-8
with or without its mark.
"""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from probe.data.time_labels.interval import Interval
from probe.errors import ProbeError

VALUE = re.compile(
    r'"(?P<text>(?:[^"]|"")*)"'
    r"|(?<!\S)(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?!\S)"
    r"|(?<!\S)<(?P<flag>\w+)>(?!\S)"
    r"|!.*"
)
HINT = "Save it from Praat as a text file."


def read_textgrid(path: Path) -> dict[str, list[Interval]]:
    """Name -> intervals of every interval tier, in order; tiers of points are skipped, of equal
    names the first is taken.

    Raises:
        ProbeError: another encoding, no TextGrid, or not as many values as it promises, with the
            line.
    """
    values = _Values(path, _decoded(path))
    is_text_file = values.text("ooTextFile").startswith("ooTextFile")
    if not is_text_file or values.text("TextGrid") != "TextGrid":
        raise ProbeError(f"{path}: no TextGrid in text form. {HINT}")
    values.number(), values.number()
    tiers: dict[str, list[Interval]] = {}
    if values.take("flag", "<exists>") != "exists":
        return tiers
    for _ in range(int(values.number("how many tiers follow"))):
        kind, name = values.text("the class of a tier"), values.text("the name of a tier")
        if kind not in ("IntervalTier", "TextTier"):
            raise ProbeError(
                f"{path} line {values.line}: tier of class {kind!r}; "
                f"expected IntervalTier or TextTier. {HINT}"
            )
        values.number(), values.number()
        intervals: list[Interval] = []
        for _ in range(int(values.number("how many intervals follow"))):
            start_s, where = values.number(), f"{path} line {values.line}"
            end_s = values.number() if kind == "IntervalTier" else start_s
            intervals.append(Interval(start_s, end_s, values.text("a label"), where))
        if kind == "IntervalTier":
            tiers.setdefault(name, intervals)
    return tiers


def _decoded(path: Path) -> str:
    content = path.read_bytes()
    encoding = "utf-8-sig"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif b"\0" in content[:2]:  # no mark, but every other byte of plain letters is 0
        encoding = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ProbeError(
            f"{path}: byte {error.start} is not {encoding.upper()}. "
            "Save it from Praat as UTF-8 or UTF-16."
        ) from error


class _Values:
    """The values of a file, one after the other; ``line`` is that of the last one."""

    def __init__(self, path: Path, content: str) -> None:
        self.path, self.line = path, 1
        self._rest = self._scan(content)

    def _scan(self, content: str) -> Iterator[re.Match[str]]:
        position = 0
        for match in VALUE.finditer(content):
            if match.lastgroup:
                self.line += content.count("\n", position, match.start())
                position = match.start()
                yield match

    def take(self, group: str, what: str) -> str:
        """The next value, which has to be of a group of `VALUE`."""
        match = next(self._rest, None)
        if match is None or match.lastgroup != group:
            value = "the end of the file" if match is None else repr(match[0])
            raise ProbeError(
                f"{self.path} line {self.line}: found {value}; expected {what}. "
                f"Is the file whole? {HINT}"
            )
        return match[group]

    def text(self, what: str) -> str:
        """A text without its quotes and outer spaces."""
        return self.take("text", what).replace('""', '"').strip()

    def number(self, what: str = "seconds") -> float:
        """A number."""
        return float(self.take("number", what))
