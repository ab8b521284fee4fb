"""Labels over time: intervals of utterances, from one CSV file or from a folder of Praat TextGrids.

CSV is UTF-8 with the columns ``path,start,end,label`` and any others; ``path`` names an utterance
as the manifest does (or is relative to the CSV file), times are seconds. A TextGrid has the name of
its utterance with the extension replaced and lies in the folder where the utterance lies in the
corpus (``clips/a.wav``: ``clips/a.TextGrid``), or anywhere beneath it if no other has its name.
Intervals of one utterance may leave gaps and must not overlap.
"""

import hashlib
import itertools
import logging
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from probe.brief import brief, counted
from probe.data.corpus import Corpus, Names
from probe.data.csv_tables import decoded_table, table_rows
from probe.data.textgrid import Interval, read_textgrid
from probe.errors import ProbeError, listed, refuse_problems
from probe.files import sha256_of_file, sha256_of_json

log = logging.getLogger("probe")

COLUMNS = ("path", "start", "end", "label")
EXPECTED = f"a CSV file with the columns {','.join(COLUMNS)}, or a folder of TextGrid files"
BEYOND_S = 0.02  # by which an interval may end after its audio: aligners count in frames
ROUNDING_S = 1e-6  # by which intervals may overlap: times are written with few digits
ABSURD = 20  # times as long as the audio: no alignment is off by that much

Intervals = dict[str, list[tuple[Interval, str]]]  # key -> intervals with their types


@dataclass(frozen=True)
class Spans:
    """The intervals of one utterance in order of time.

    Attributes:
        starts_s, ends_s: (interval,) float64.
        labels: one each.
        types: what a control draws a label for (Hewitt & Liang): the column or tier that was asked
            for, else the label with its neighbours.
    """

    starts_s: np.ndarray
    ends_s: np.ndarray
    labels: tuple[str, ...]
    types: tuple[str, ...]

    def __repr__(self) -> str:
        return brief(self, counted(len(self.labels), "interval"))

    def at(self, times_s: np.ndarray) -> np.ndarray:
        """(time,) seconds -> (time,) int64, the interval [start, end) of each; -1 for none."""
        number = np.searchsorted(self.starts_s, times_s, side="right") - 1
        is_inside = (number >= 0) & (times_s < self.ends_s[number.clip(0)])
        return np.where(is_inside, number, -1)


@dataclass(frozen=True)
class IntervalSet:
    """The intervals of a corpus.

    Attributes:
        sha256: of the CSV file's bytes, or of the TextGrids that were read.
        spans: key -> intervals.
        missing: keys of utterances without any.
    """

    name: str
    sha256: str
    spans: Mapping[str, Spans]
    missing: tuple[str, ...]

    def __repr__(self) -> str:
        n = sum(len(spans.labels) for spans in self.spans.values())
        where = f"{counted(n, 'interval')} of {counted(len(self.spans), 'utterance')}"
        return brief(
            self, self.name, where, f"{len(self.missing)} without any" if self.missing else ""
        )


def load_intervals(
    path: Path | str,
    corpus: Corpus,
    durations_s: Mapping[str, float],
    tier: str = "phones",
    types: str = "",
    beyond_s: float = BEYOND_S,
) -> IntervalSet:
    """The intervals of the utterances of ``durations_s``.

    Args:
        corpus: tells utterances that are not asked for from those that nobody knows; the latter are
            named and counted in a warning.
        durations_s: key -> how long the audio is.
        tier: of TextGrids, the one with the labels.
        types: a further column, or tier, for `Spans.types`.
        beyond_s: how far an interval may end after its audio.

    Raises:
        ProbeError: the file is missing or unreadable, has no such column or tier, or names no
            utterance; or intervals overlap, end before they start, or lie outside of their audio:
            the first eight are named with their lines.
    """
    path = Path(path)
    if path.is_dir():
        intervals, sha256, unknown = _from_folder(path, corpus, durations_s, tier, types)
    elif path.is_file():
        intervals, sha256, unknown = _from_csv(path, corpus, types)
    else:
        raise ProbeError(
            f"{path}: does not exist; expected {EXPECTED}. Give another with --labels."
        )
    problems = [
        text
        for key in durations_s
        for text in _problems(intervals.get(key, []), durations_s[key], beyond_s)
    ]
    refuse_problems(problems, f"{path}: {len(problems)} unusable intervals")
    spans = {key: _spans(intervals[key], bool(types)) for key in durations_s if intervals.get(key)}
    missing = tuple(key for key in durations_s if key not in spans)
    examples, names = listed(list(missing), 3), listed(unknown, 3)
    if not spans:
        raise ProbeError(
            f"{path}: no intervals for any of the {len(missing)} utterances of {corpus.name} "
            f"({examples}); found {names or 'none'}. Name utterances as the manifest does."
        )
    if unknown:
        log.warning("%s: %d utterances are not in %s: %s", path, len(unknown), corpus.name, names)
    if missing:
        n = len(missing)
        log.warning("%s: no intervals for %d utterances, they are left out: %s", path, n, examples)
    return IntervalSet(path.stem, sha256, spans, missing)


def _from_csv(path: Path, corpus: Corpus, types: str) -> tuple[Intervals, str, list[str]]:
    """Intervals, the file's sha256, and names that the corpus does not have."""
    content = path.read_bytes()
    names = Names(corpus, path.parent)
    expected, remedy = [*COLUMNS], "Add the column."
    if types:
        expected, remedy = [*COLUMNS, types], f"The task asks for types = {types!r}."
    _, rows = table_rows(path, decoded_table(path, content), expected, names.knows, remedy)
    intervals: Intervals = defaultdict(list)
    unknown: dict[str, None] = {}
    for line, row in rows:
        where = f"{path} line {line}"
        start_s, end_s = _seconds(where, "start", row), _seconds(where, "end", row)
        if utterance := names.get(row["path"]):
            interval = Interval(start_s, end_s, row["label"].strip(), where)
            intervals[utterance.key].append((interval, row[types].strip() if types else ""))
        else:
            unknown[row["path"]] = None
    return intervals, hashlib.sha256(content).hexdigest(), list(unknown)


def _seconds(where: str, column: str, row: Mapping[str, str]) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ProbeError(f"{where}: {column} {row[column]!r}; expected seconds such as 0.25.")
    return value


def _from_folder(
    folder: Path, corpus: Corpus, durations_s: Mapping[str, float], tier: str, types: str
) -> tuple[Intervals, str, list[str]]:
    """Intervals, a sha256 of the files that were read, and files that belong to no utterance."""
    files = {path.relative_to(folder): path for path in sorted(folder.rglob("*.TextGrid"))}
    by_name: dict[str, list[Path]] = defaultdict(list)
    for place in files:
        by_name[place.name].append(place)
    intervals: Intervals = {}
    shas: dict[str, str] = {}
    places: set[Path] = set()
    for utterance in corpus.utterances:
        place = Path(utterance.key).with_suffix(".TextGrid")
        if place not in files:
            if len(by_name[place.name]) != 1:
                continue
            place = by_name[place.name][0]
        if place in places:
            raise ProbeError(
                f"{folder / place}: belongs to two utterances, {utterance.key} is one. "
                "Put each where its audio lies."
            )
        places.add(place)
        if utterance.key in durations_s:
            intervals[utterance.key] = _of_tier(files[place], tier, types)
            shas[utterance.key] = sha256_of_file(files[place])
    unknown = [os.fspath(place) for place in files if place not in places]
    return intervals, sha256_of_json([tier, shas]), unknown


def _of_tier(path: Path, tier: str, types: str) -> list[tuple[Interval, str]]:
    """The intervals of a tier, each with the label that the tier ``types`` has at its middle."""
    tiers = read_textgrid(path)
    for name in (tier, types):
        if name and name not in tiers:
            known = ", ".join(repr(item) for item in tiers) or "no tiers of intervals"
            raise ProbeError(
                f"{path}: no tier {name!r}; it has {known}. "
                "Name one of them in the task (tier, types)."
            )
    if not types:
        return [(item, "") for item in tiers[tier]]
    around = _spans([(item, "") for item in tiers[types]], True)
    middles = np.array([(item.start_s + item.end_s) / 2 for item in tiers[tier]])
    labels = [*around.labels, ""]  # -1, in none, is the last
    return [
        (item, labels[place]) for item, place in zip(tiers[tier], around.at(middles), strict=True)
    ]


def _problems(
    intervals: Sequence[tuple[Interval, str]], duration_s: float, beyond_s: float
) -> list[str]:
    """What is wrong with the intervals of one utterance."""
    in_order = sorted((item for item, _ in intervals), key=lambda item: item.start_s)
    problems = [
        f"{item.where}: {reason}"
        for item, _ in intervals
        if (reason := _problem(item, duration_s, beyond_s))
    ]
    for one, other in itertools.pairwise(in_order):
        if other.start_s < one.end_s - ROUNDING_S and other.start_s < other.end_s:
            line = one.where.rpartition(" ")[2]
            problems.append(
                f"{other.where}: starts at {other.start_s:g} s, before the interval of line {line} "
                f"ends ({one.end_s:g} s); expected intervals without overlap."
            )
    return problems


def _problem(item: Interval, duration_s: float, beyond_s: float) -> str:
    """What is wrong with one interval; empty where nothing is."""
    if not item.start_s < item.end_s:
        return (
            f"ends at {item.end_s:g} s and starts at {item.start_s:g} s; expected it to end later."
        )
    if item.start_s < 0:
        return f"starts at {item.start_s:g} s; expected 0 or later."
    if item.end_s <= duration_s + beyond_s + ROUNDING_S:
        return ""
    is_absurd = item.end_s > ABSURD * duration_s
    unit, file = "is this column in samples or milliseconds?", "does it belong to another file?"
    hint = unit if is_absurd else file
    return f"ends at {item.end_s:g} s, but its audio lasts {duration_s:.3f} s; {hint}"


def _spans(intervals: Sequence[tuple[Interval, str]], typed: bool) -> Spans:
    in_order = sorted(intervals, key=lambda pair: pair[0].start_s)
    labels = tuple(item.label for item, _ in in_order)
    types = tuple(kind for _, kind in in_order)
    if not typed:
        padded = ["", *labels, ""]
        types = tuple("\t".join(padded[i : i + 3]) for i in range(len(labels)))
    starts_s, ends_s = (
        np.array([getattr(item, name) for item, _ in in_order]) for name in ("start_s", "end_s")
    )
    return Spans(starts_s, ends_s, labels, types)
