"""Excerpts: the part of an audio file that an utterance is.

An excerpt has a start and an end in seconds of the file, a channel, and the name of the file within
an archive; each of them is optional. Its text follows the W3C's Media Fragments (``t=12.5,14``).
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

# The reserved columns of a corpus; `Excerpt.of_columns` reads them and nothing else does.
EXCERPT_COLUMNS = ("start", "end", "channel", "member")
# Neighbours whose times were rounded to milliseconds do not overlap.
ROUNDING_S = 1e-3
LETTERS = {"a": 1, "b": 2, "l": 1, "r": 2, "left": 1, "right": 2}


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A part of an audio file; the default is the whole file with the mean of its channels.

    Attributes:
        start_s: where it starts, in seconds of the file.
        end_s: where it ends; None at the end of the file.
        channel: the only channel of it, counted from 1; None for the mean of all.
        member: the name of the audio file within an archive whose path the utterance has.
    """

    start_s: float = 0.0
    end_s: float | None = None
    channel: int | None = None
    member: str = ""

    def __str__(self) -> str:
        """The text that names it after a path; empty for a whole file."""
        times = ""
        if self.start_s or self.end_s is not None:
            end = "" if self.end_s is None else f",{float(self.end_s)!r}"
            times = f"t={float(self.start_s)!r}{end}"
        channel = "" if self.channel is None else f"channel={self.channel}"
        return "&".join(filter(None, [self.member, times, channel]))

    @property
    def duration_s(self) -> float | None:
        """Seconds from its start to its end; None where it ends with the file."""
        return None if self.end_s is None else round(self.end_s - self.start_s, 6)

    def sha256(self, file_sha256: str) -> str:
        """What identifies its audio: the sha256 of the file, or of that and the text of the part.

        Args:
            file_sha256: of the bytes of the file, or of the member of an archive.
        """
        part = str(replace(self, member=""))
        return hashlib.sha256(f"{file_sha256} {part}".encode()).hexdigest() if part else file_sha256

    @classmethod
    def of_columns(cls, values: Mapping[str, str]) -> Self:
        """The excerpt in a row's columns ``start``, ``end`` (seconds), ``channel`` and ``member``;
        an empty or missing one says nothing.

        Raises:
            ValueError: what was found and what was expected, in words.
        """
        start_s = _seconds(values, "start") or 0.0
        end_s = _seconds(values, "end")
        if end_s is not None and end_s <= start_s:
            raise ValueError(f"end {end_s:g} is not after start {start_s:g}; expected seconds")
        return cls(start_s, end_s, _channel(values), values.get("member", ""))


WHOLE = Excerpt()


def _seconds(values: Mapping[str, str], column: str) -> float | None:
    text = values.get(column, "").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{column} {text!r}; expected seconds such as 3.25, or nothing")
    return seconds + 0.0  # never -0


def _channel(values: Mapping[str, str]) -> int | None:
    text = values.get("channel", "").strip().lower()
    if not text:
        return None
    if text in LETTERS:
        return LETTERS[text]
    if not re.fullmatch(r"[1-9]\d{0,2}(\.0*)?", text):  # pandas writes 1.0 beside empty values
        raise ValueError(
            f"channel {text!r}; expected a number counted from 1, A or B, left or right, or "
            "nothing for the mean of all channels. Rename a column of labels to label_channel"
        )
    return int(text.partition(".")[0])
