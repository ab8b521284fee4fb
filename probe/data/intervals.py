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
from probe.data.audio_bytes import refuse_rows_in_quotes
from probe.data.corpus import Corpus
from probe.data.table_text import decoded_table, refuse_other_separator, table_rows
from probe.data.textgrid import Interval, read_textgrid
from probe.errors import ProbeError, listed
from probe.files import sha256_of_file, sha256_of_json

log = logging.getLogger("probe")

COLUMNS = ("path", "start", "end", "label")
EXPECTED = f"a CSV file with the columns {','.join(COLUMNS)}, or a folder of TextGrid files"
MOST_PROBLEMS_SHOWN = 8
BEYOND_S = 0.02  # by which an interval may end after its audio: aligners count in frames
ROUNDING_S = 1e-6  # by which intervals may overlap: times are written with few digits
ABSURD = 20  # times as long as the audio: no alignment is off by that much

Found = dict[str, list[tuple[Interval, str]]]  # key -> intervals with their types


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
        """(time,) seconds -> (time,) int64, the interval that each lies in, -1 for none; a start
        belongs to its interval.
        """
        found = np.searchsorted(self.starts_s, times_s, side="right") - 1
        inside = (found >= 0) & (times_s < self.ends_s[found.clip(0)])
        return np.where(inside, found, -1)


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
        ProbeError: nothing there, not readable, no such column or tier, no utterance known; or
            intervals that overlap, end before they start, or lie outside of their audio: counted,
            the first eight with their lines.
    """
    path = Path(path)
    if path.is_dir():
        found, sha256, unknown = _from_folder(path, corpus, durations_s, tier, types)
    elif path.is_file():
        found, sha256, unknown = _from_csv(path, corpus, types)
    else:
        raise ProbeError(
            f"{path}: does not exist; expected {EXPECTED}. Give another with --labels."
        )
    problems = [
        text
        for key in durations_s
        for text in _problems(found.get(key, []), durations_s[key], beyond_s)
    ]
    if problems:
        rest = len(problems) - MOST_PROBLEMS_SHOWN
        more = [f"... and {rest} more problems"] if rest > 0 else []
        raise ProbeError(
            "\n".join(
                [
                    f"{path}: {len(problems)} unusable intervals",
                    *problems[:MOST_PROBLEMS_SHOWN],
                    *more,
                ]
            )
        )
    spans = {key: _spans(found[key], bool(types)) for key in durations_s if found.get(key)}
    missing = tuple(key for key in durations_s if key not in spans)
    if not spans:
        raise ProbeError(
            f"{path}: no intervals for any of the {len(missing)} utterances of {corpus.name} ({listed(list(missing), 3)}); "
            f"found {listed(unknown, 3) or 'none'}. Name utterances as the manifest does."
        )
    if unknown:
        log.warning(
            "%s: %d utterances are not in %s: %s",
            path,
            len(unknown),
            corpus.name,
            listed(unknown, 3),
        )
    if missing:
        log.warning(
            "%s: no intervals for %d utterances, they are left out: %s",
            path,
            len(missing),
            listed(list(missing), 3),
        )
    return IntervalSet(path.stem, sha256, spans, missing)


def _from_csv(path: Path, corpus: Corpus, types: str) -> tuple[Found, str, list[str]]:
    """Intervals, the file's sha256, and names that the corpus does not have."""
    content = path.read_bytes()
    text = decoded_table(path, content)
    refuse_other_separator(path, text, COLUMNS)
    header, rows = table_rows(path, text)
    lacking = [name for name in (*COLUMNS, *([types] if types else [])) if name not in header]
    if lacking:
        what = (
            f"types = {types!r} asks for it"
            if lacking == [types]
            else f"expected {','.join(COLUMNS)} and any others"
        )
        raise ProbeError(
            f"{path} line 1: column {', '.join(lacking)} missing; found {', '.join(header) or 'an empty file'}; {what}. Add the column."
        )
    keys = {os.fspath(item.path.resolve()): item.key for item in corpus.utterances}
    keys |= {item.key: item.key for item in corpus.utterances}
    key_of: dict[str, str] = {}  # of the names in the file
    found: Found = defaultdict(list)
    for line, row in rows:
        where, name = f"{path} line {line}", row["path"]
        values = [row[column] for column in header]
        refuse_rows_in_quotes(where, values, lambda text: text in keys)
        if name not in key_of:
            key_of[name] = _key(name, path.parent, keys)
        interval = Interval(
            _seconds(where, "start", row), _seconds(where, "end", row), row["label"].strip(), where
        )
        if key_of[name]:
            found[key_of[name]].append((interval, row[types].strip() if types else ""))
    return (
        found,
        hashlib.sha256(content).hexdigest(),
        [name for name, key in key_of.items() if not key],
    )


def _key(name: str, folder: Path, keys: Mapping[str, str]) -> str:
    """The key of the utterance that a row names; empty where there is none."""
    return (
        keys.get(name)
        or keys.get(os.path.normpath(name))
        or keys.get(os.fspath((folder / name).resolve()))
        or ""
    )


def _seconds(where: str, column: str, row: Mapping[str, str]) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ProbeError(f"{where}: {column} {row[column]!r}; expected seconds such as 0.25.")
    return value


def _from_folder(
    folder: Path, corpus: Corpus, wanted: Mapping[str, float], tier: str, types: str
) -> tuple[Found, str, list[str]]:
    """Intervals, a sha256 of the files that were read, and files that belong to no utterance."""
    files = {path.relative_to(folder): path for path in sorted(folder.rglob("*.TextGrid"))}
    by_name: dict[str, list[Path]] = defaultdict(list)
    for place in files:
        by_name[place.name].append(place)
    found: Found = {}
    known: set[Path] = set()
    shas: dict[str, str] = {}
    for utterance in corpus.utterances:
        place = Path(utterance.key).with_suffix(".TextGrid")
        if place not in files:
            alike = by_name[place.name]
            if len(alike) != 1:
                continue
            place = alike[0]
        if place in known:
            raise ProbeError(
                f"{folder / place}: belongs to two utterances, {utterance.key} is one. Put each where its audio lies."
            )
        known.add(place)
        if utterance.key in wanted:
            found[utterance.key] = _of_tier(files[place], tier, types)
            shas[utterance.key] = sha256_of_file(files[place])
    return (
        found,
        sha256_of_json([tier, shas]),
        [os.fspath(place) for place in files if place not in known],
    )


def _of_tier(path: Path, tier: str, types: str) -> list[tuple[Interval, str]]:
    """The intervals of a tier, each with the label that the tier ``types`` has at its middle."""
    tiers = read_textgrid(path)
    for name in (tier, types):
        if name and name not in tiers:
            have = ", ".join(repr(item) for item in tiers) or "no tiers of intervals"
            raise ProbeError(
                f"{path}: no tier {name!r}; it has {have}. Name one of them in the task (tier, types)."
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
    found: Sequence[tuple[Interval, str]], duration_s: float, beyond_s: float
) -> list[str]:
    """What is wrong with the intervals of one utterance."""
    problems: list[str] = []
    for item, _ in found:
        if not item.start_s < item.end_s:
            problems.append(
                f"{item.where}: ends at {item.end_s:g} s and starts at {item.start_s:g} s; expected it to end later."
            )
        elif item.start_s < 0:
            problems.append(f"{item.where}: starts at {item.start_s:g} s; expected 0 or later.")
        elif item.end_s > duration_s + beyond_s + ROUNDING_S:
            absurd = item.end_s > ABSURD * duration_s
            hint = (
                "is this column in samples or milliseconds?"
                if absurd
                else "does it belong to another file?"
            )
            problems.append(
                f"{item.where}: ends at {item.end_s:g} s, but its audio lasts {duration_s:.3f} s; {hint}"
            )
    in_order = sorted((item for item, _ in found), key=lambda item: item.start_s)
    for one, other in itertools.pairwise(in_order):
        if other.start_s < one.end_s - ROUNDING_S and other.start_s < other.end_s:
            problems.append(
                f"{other.where}: starts at {other.start_s:g} s, before the interval of line {one.where.rpartition(' ')[2]} "
                f"ends ({one.end_s:g} s); expected intervals without overlap."
            )
    return problems


def _spans(found: Sequence[tuple[Interval, str]], typed: bool) -> Spans:
    in_order = sorted(found, key=lambda pair: pair[0].start_s)
    labels = tuple(item.label for item, _ in in_order)
    near = ["", *labels, ""]
    types = (
        tuple(kind for _, kind in in_order)
        if typed
        else tuple("\t".join(near[i : i + 3]) for i in range(len(labels)))
    )
    return Spans(
        np.array([item.start_s for item, _ in in_order]),
        np.array([item.end_s for item, _ in in_order]),
        labels,
        types,
    )
