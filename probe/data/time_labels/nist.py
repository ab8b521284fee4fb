"""NIST's labels over time: CTM (words or phones) and RTTM (speaker turns).

Both have one label a line, fields between spaces or tabs, comments after ``;;``, and times in
seconds. CTM (https://github.com/usnistgov/SCTK, doc/infmts.htm)::

    RECORDING CHANNEL START DURATION WORD [CONFIDENCE ...]

RTTM (NIST 2009, "The 2009 (RT-09) Rich Transcription Meeting Recognition Evaluation Plan",
appendix A); turns may overlap, and of the types of objects only ``SPEAKER`` is read::

    SPEAKER RECORDING CHANNEL START DURATION <NA> <NA> NAME <NA> [<NA>]
"""

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from probe.data.time_labels.interval import Interval
from probe.errors import ProbeError

log = logging.getLogger("probe")

RTTM_TYPES = (
    *("SPEAKER", "SEGMENT", "NOSCORE", "NO_RT_METADATA", "LEXEME", "NON-LEX", "NON-SPEECH"),
    *("FILLER", "EDIT", "IP", "SU", "CB", "A/P", "SPKR-INFO"),
)
RTTM_FORM = "SPEAKER RECORDING CHANNEL START DURATION <NA> <NA> NAME <NA> <NA>"
CTM_FORM = "RECORDING CHANNEL START DURATION WORD [CONFIDENCE]"
CHANNELS = {"a": 1, "b": 2}

Labels = Iterator[tuple[str, Interval]]  # the recording's name, and one of its labels


def rttm_labels(path: Path, text: str) -> Labels:
    """The speaker turns in an RTTM file.

    Raises:
        ProbeError: a line of another form, with its number.
    """
    remedy = "Names must not contain spaces."
    n_empty = 0
    for where, fields in _lines(path, text):
        if fields[0] not in RTTM_TYPES:
            raise ProbeError(f"{where}: type {fields[0]!r}; expected {RTTM_FORM}.")
        if fields[0] != "SPEAKER":
            continue
        if not 8 <= len(fields) <= 10:
            raise ProbeError(f"{where}: {len(fields)} fields; expected {RTTM_FORM}. {remedy}")
        start_s, end_s = _times(where, fields[3:5], f"{RTTM_FORM}. {remedy}")
        n_empty += start_s == end_s
        if start_s != end_s:
            channel = _channel(fields[2])
            yield fields[1], Interval(start_s, end_s, fields[7], where, channel=channel)
    _warn_of_empty(path, n_empty)


def ctm_labels(path: Path, text: str) -> Labels:
    """The words or phones in a CTM file.

    Raises:
        ProbeError: a line of another form, with its number.
    """
    remedy = "Remove alternatives (<ALT>) and spaces in names."
    n_empty = 0
    for where, fields in _lines(path, text):
        if not 5 <= len(fields) <= 8:
            raise ProbeError(f"{where}: {len(fields)} fields; expected {CTM_FORM}. {remedy}")
        start_s, end_s = _times(where, fields[2:4], f"{CTM_FORM}. {remedy}")
        n_empty += start_s == end_s
        if start_s != end_s:
            channel = _channel(fields[1])
            yield fields[0], Interval(start_s, end_s, fields[4], where, channel=channel)
    _warn_of_empty(path, n_empty)


def is_rttm(text: str) -> bool:
    """Whether the first line that is no comment has the form of RTTM."""
    fields = _first(text)
    return len(fields) >= 8 and fields[0] in RTTM_TYPES


def is_ctm(text: str) -> bool:
    """Whether the first line that is no comment has the form of CTM."""
    fields = _first(text)
    return 5 <= len(fields) <= 8 and all(math.isfinite(_number(item)) for item in fields[2:4])


def _first(text: str) -> list[str]:
    return next((fields for _, fields in _lines(Path(), text)), [])


def _lines(path: Path, text: str) -> Iterator[tuple[str, list[str]]]:
    """The place and the fields of each line that is not empty and no comment."""
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if fields and not fields[0].startswith(";;"):
            yield f"{path} line {number}", fields


def _times(where: str, fields: Sequence[str], expected: str) -> tuple[float, float]:
    """Start and end, from start and duration."""
    start_s, duration_s = map(_number, fields)
    for name, text, value in zip(("start", "duration"), fields, (start_s, duration_s), strict=True):
        if not 0 <= value < math.inf:
            raise ProbeError(f"{where}: {name} {text!r}; expected seconds, in {expected}")
    return start_s, start_s + duration_s


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _channel(text: str) -> int | None:
    """The number of a channel; None where the text names none, such as ``<NA>``."""
    return CHANNELS.get(text.lower()) or (int(text) if text.isdecimal() else 0) or None


def _warn_of_empty(path: Path, n_empty: int) -> None:
    if n_empty:
        log.warning("%s: %d lines have a duration of 0 and are left out", path, n_empty)
