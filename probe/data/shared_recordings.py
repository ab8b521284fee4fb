"""Recordings in more than one split: no sound may be in two, otherwise the test is not a test.

Excerpts that do not overlap, or that are of different channels, may be in different splits; they
share speakers, room and microphone, so they are named.
"""

from collections.abc import Iterator
from typing import NamedTuple

from probe.brief import counted
from probe.data.excerpts import ROUNDING_S, WHOLE, Excerpt
from probe.errors import listed


class _Use(NamedTuple):
    """A row that uses a recording; ``written`` is its path in the manifest."""

    where: str
    split: str
    excerpt: Excerpt
    written: str

    @property
    def stop_s(self) -> float:
        return float("inf") if self.excerpt.end_s is None else self.excerpt.end_s

    def overlaps(self, later: "_Use") -> bool:
        """Whether it shares sound with an excerpt that does not begin before it."""
        channels = {self.excerpt.channel, later.excerpt.channel}
        is_same_channel = None in channels or len(channels) == 1
        return is_same_channel and self.stop_s - later.excerpt.start_s > ROUNDING_S


class SharedRecordings:
    """Which rows use which recording, of the rows that were added."""

    def __init__(self) -> None:
        # Most recordings have one use; making a `_Use` takes longer than the rest of `add`.
        self._first: dict[str | tuple[str, str], tuple[str, str, Excerpt, str]] = {}
        self._several: dict[str | tuple[str, str], list[_Use]] = {}

    def add(self, where: str, file: str, split: str, excerpt: Excerpt, written: str) -> None:
        """Add a row.

        Args:
            where: file and line.
            file: the recording's file, with symbolic links resolved.
            written: its path as the row has it.
        """
        recording = (file, excerpt.member) if excerpt.member else file
        use = (where, split, excerpt, written)
        first = self._first.setdefault(recording, use)
        if first is not use:
            self._several.setdefault(recording, [_Use(*first)]).append(_Use(*use))

    def problems(self) -> Iterator[str]:
        """What is wrong: sound that is in two splits."""
        for uses in self._shared():
            for earlier, later in _overlaps(uses):
                place = beside(earlier.where, later.where)
                yield (
                    f"{later.where}: {_name(later)} is in split {later.split!r} here and in "
                    f"{earlier.split!r} on {place}. A recording may be in one split only, "
                    f"otherwise the test is not a test; {_remedy(later)}"
                )

    def note(self) -> str:
        """What to say of recordings of which several splits have excerpts; empty without one."""
        first_uses = [uses[0] for uses in self._shared()]
        if not first_uses:
            return ""
        file = first_uses[0].where.rsplit(" ", 2)[0]
        return (
            f"{file}: excerpts of {counted(len(first_uses), 'recording')} are in more than one "
            f"split ({listed([item.written for item in first_uses], 3)}). They do not overlap, but "
            "share speakers, room and microphone: scores say nothing about new recordings."
        )

    def _shared(self) -> Iterator[list[_Use]]:
        for uses in self._several.values():
            if any(item.split != uses[0].split for item in uses):
                yield uses


def _name(use: _Use) -> str:
    excerpt = use.excerpt
    return use.written if excerpt == WHOLE else f"{use.written}#{excerpt}"


def _remedy(use: _Use) -> str:
    if use.excerpt == WHOLE:
        return "remove one of the rows."
    return "their excerpts overlap, so correct their times or remove one of the rows."


def _overlaps(uses: list[_Use]) -> Iterator[tuple[_Use, _Use]]:
    """Two uses in different splits that share sound, the one that stands first in the corpus first;
    at most one pair for each use.

    One pass in the order of start: of each split and channel, the excerpt that ends last is kept.
    """
    order = {id(item): position for position, item in enumerate(uses)}
    last: dict[tuple[str, int | None], _Use] = {}
    for use in sorted(uses, key=lambda item: item.excerpt.start_s):
        for (split, _), earlier in last.items():
            if split != use.split and earlier.overlaps(use):
                first, second = sorted((earlier, use), key=lambda item: order[id(item)])
                yield first, second
                break
        place = use.split, use.excerpt.channel
        if place not in last or last[place].stop_s < use.stop_s:
            last[place] = use


def beside(first: str, where: str) -> str:
    """A place as a message about another place names it: without a file that is the same."""
    file, unit, number = first.rsplit(" ", 2)
    return f"{unit} {number}" if where.startswith(f"{file} {unit} ") else first
