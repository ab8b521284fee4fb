"""One reader for every form of a file of labels over time: CSV, TextGrid, PHN, CTM and RTTM.

The form follows from the file's ending, or else from its content. CSV is UTF-8 with the columns
``path,start,end`` and one for each tier; it may instead have the columns ``label`` and ``tier``,
which says to which tier a row belongs. CTM and RTTM have one tier, whatever the task calls it.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from probe.data.csv_tables import decoded_table, table_rows
from probe.data.time_labels.interval import Interval
from probe.data.time_labels.nist import ctm_labels, is_ctm, is_rttm, rttm_labels
from probe.data.time_labels.textgrid import read_textgrid
from probe.data.time_labels.timit import ENDING as PHN
from probe.data.time_labels.timit import read_phn
from probe.errors import ProbeError

TIER = "phones"  # that a task reads where it names none; a CSV file may call it ``label``
TIMES = ("path", "start", "end")
EXPECTED = (
    f"a CSV file with the columns {','.join(TIMES)},label, a CTM or RTTM file, or a folder of "
    "TextGrid, PHN, CTM or RTTM files"
)
ROUNDING_S = 1e-6  # by which intervals may overlap: times are written with few digits
HEAD = 1 << 16  # characters of a file that show its form

Labels = Iterator[tuple[str, Interval]]  # the recording's name, and one of its labels


def read_labels(
    path: Path, content: bytes, tier: str, types: str, knows: Callable[[str], bool]
) -> Labels:
    """The labels in one file, each with the name of its recording; of a TextGrid that is its own
    name without the ending.

    Args:
        content: of the file.
        tier: the one with the labels.
        types: a further column, or tier, for `Interval.type`.
        knows: whether a text names an utterance.

    Raises:
        ProbeError: another form, or a damaged file, with the line.
    """
    form = _form(path, content)
    if form == "textgrid":
        yield from ((path.stem, item) for item in of_tier(path, tier, types))
    elif form == "csv":
        yield from _csv_labels(path, decoded_table(path, content), tier, types, knows)
    else:
        if types:
            raise ProbeError(
                f"{path}: types = {types!r}: a {form.upper()} file has no second tier. Leave types "
                "out of the task, or give a CSV file or TextGrids."
            )
        text = decoded_table(path, content, f"a {form.upper()} file")
        yield from (rttm_labels if form == "rttm" else ctm_labels)(path, text)


def _form(path: Path, content: bytes) -> str:
    """csv, textgrid, ctm or rttm."""
    form = path.suffix.lower().lstrip(".")
    if form in ("csv", "textgrid", "ctm", "rttm"):
        return form
    head = content[:HEAD].decode("utf-8-sig", "replace")
    if is_rttm(head):
        return "rttm"
    return "ctm" if is_ctm(head) else "csv"


def of_tier(path: Path, tier: str, types: str) -> list[Interval]:
    """The intervals of a tier of a TextGrid or a PHN file, each with the label that the tier
    ``types`` has at its middle.

    Raises:
        ProbeError: the file has no such tier, or is damaged.
    """
    tiers = (read_phn if path.suffix.lower() == PHN else read_textgrid)(path)
    for name in (tier, types):
        if name and name not in tiers:
            known = ", ".join(repr(item) for item in tiers) or "no tiers of intervals"
            raise ProbeError(
                f"{path}: no tier {name!r}; it has {known}. "
                "Name one of them in the task (tier, types)."
            )
    if not types:
        return tiers[tier]
    around = sorted(tiers[types], key=lambda item: item.start_s)
    starts_s = np.array([item.start_s for item in around])
    typed = []
    for item in tiers[tier]:
        middle_s = (item.start_s + item.end_s) / 2
        place = int(np.searchsorted(starts_s, middle_s, side="right")) - 1
        is_inside = place >= 0 and middle_s < around[place].end_s
        typed.append(replace(item, type=around[place].label if is_inside else ""))
    return typed


def _csv_labels(
    path: Path, text: str, tier: str, types: str, knows: Callable[[str], bool]
) -> Labels:
    header = [name.strip(' "') for name in next(iter(text.splitlines()), "").split(",")]
    in_rows = "tier" in header and tier not in header
    column = tier if tier in header or not (in_rows or tier == TIER) else "label"
    expected, remedy = [*TIMES, column], "Add the column."
    if column == tier:
        remedy = f"The task asks for tier = {tier!r}."
    if types:
        expected, remedy = [*expected, types], f"The task asks for types = {types!r}."
    _, rows = table_rows(path, text, expected, knows, remedy)
    if in_rows:
        tiers = {row["tier"]: None for _, row in rows}
        rows = [(line, row) for line, row in rows if row["tier"] == tier]
        if tiers and not rows:
            raise ProbeError(
                f"{path}: no rows of tier {tier!r}; the column tier has "
                f"{', '.join(map(repr, tiers))}. Name one of them in the task (tier)."
            )
    intervals: dict[str, list[Interval]] = defaultdict(list)
    for line, row in rows:
        where = f"{path} line {line}"
        start_s, end_s = _seconds(where, "start", row), _seconds(where, "end", row)
        kind = row[types].strip() if types else ""
        interval = Interval(start_s, end_s, row[column].strip(), where, kind)
        intervals[row["path"]].append(interval)
    for name, of_name in intervals.items():
        joined = of_name if column == "label" else _joined(of_name)
        yield from ((name, item) for item in joined)


def _joined(intervals: Sequence[Interval]) -> list[Interval]:
    """The intervals of a tier whose labels stand beside those of a finer one: neighbours with one
    label are one interval.
    """
    in_order = sorted(intervals, key=lambda item: item.start_s)
    joined = in_order[:1]
    for before, item in itertools.pairwise(in_order):
        if item.label == before.label and abs(item.start_s - before.end_s) <= ROUNDING_S:
            joined[-1] = replace(joined[-1], end_s=item.end_s)
        else:
            joined.append(item)
    return joined


def _seconds(where: str, column: str, row: Mapping[str, str]) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ProbeError(f"{where}: {column} {row[column]!r}; expected seconds such as 0.25.")
    return value
