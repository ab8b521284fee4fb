"""Labels over time: intervals of utterances, from one file or from a folder of files.

`probe.data.time_labels.files` knows the forms of the files. Labels are of recordings: those of an
utterance that is an excerpt are shifted to its start, and cut at its ends. A file names a recording
as the manifest does, by a path relative to the file, without its ending, or, if no other recording
has it, by the bare file name; labels that are named by the ``id`` of an excerpt have times from its
start. A TextGrid has the name of its recording with the ending replaced and lies in the folder
where the recording lies in the corpus (``clips/a.wav``: ``clips/a.TextGrid``), or anywhere beneath
it if no other has its name. Intervals of one recording may leave gaps and must not overlap; speaker
turns may, if the task derives its labels from them.
"""

import hashlib
import itertools
import logging
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from probe.brief import brief, counted
from probe.data.corpus import Corpus, Utterance
from probe.data.time_labels.files import EXPECTED, ROUNDING_S, TIER, of_tier, read_labels
from probe.data.time_labels.interval import Interval
from probe.data.time_labels.recordings import Recording, Recordings, is_whole, name_of, recording_of
from probe.errors import ProbeError, listed, refuse_problems
from probe.files import sha256_of_file, sha256_of_json

log = logging.getLogger("probe")

LABEL = "label"  # the column that the label of an interval is, see `LabelledInterval`
BEYOND_S = 0.02  # by which an interval may end after its audio: aligners count in frames
NO_INTERVALS = "no intervals"  # why a record excludes an utterance
ABSURD = 20  # times as long as the audio: no alignment is off by that much

Derivation = Callable[[Sequence[Interval]], list[Interval]]  # from the turns of a recording


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


@dataclass(frozen=True, repr=False)
class LabelledInterval(Utterance):
    """An interval of an utterance; its speaker, split, condition and columns are those of the
    utterance, and it has the column `LABEL`.

    Attributes:
        source: the utterance.
        start_s, end_s: from the start of the utterance.
    """

    source: Utterance | None = None
    start_s: float = 0.0
    end_s: float = 0.0


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


@dataclass(frozen=True)
class _Labels:
    """What was read.

    Attributes:
        of_utterances: key -> intervals whose times are from the start of the utterance.
        of_recordings: recording -> intervals.
        sha256: see `IntervalSet`.
        unknown: names that the corpus does not have.
    """

    of_utterances: Mapping[str, list[Interval]]
    of_recordings: Mapping[Recording, list[Interval]]
    sha256: str
    unknown: Sequence[str]


def load_intervals(
    path: Path | str,
    corpus: Corpus,
    durations_s: Mapping[str, float],
    tier: str = TIER,
    types: str = "",
    derive: Derivation | None = None,
    beyond_s: float = BEYOND_S,
) -> IntervalSet:
    """The intervals of the utterances of ``durations_s``.

    Args:
        corpus: tells utterances that are not asked for from those that nobody knows; the latter are
            named and counted in a warning.
        durations_s: key -> how long the audio is.
        tier: the one with the labels, see `probe.data.time_labels.files`.
        types: a further column, or tier, for `Spans.types`.
        derive: makes the intervals of speaker turns, which may overlap.
        beyond_s: how far an interval may end after its audio.

    Raises:
        ProbeError: the file is missing or unreadable, has no such column or tier, or names no
            utterance; or intervals overlap, end before they start, or lie outside of their audio:
            the first eight are named with their lines.
    """
    path = Path(path)
    if not path.exists():
        raise ProbeError(
            f"{path}: does not exist; expected {EXPECTED}. Give another with --labels."
        )
    read = _read_folder if path.is_dir() else _read_file
    labels = read(path, corpus, durations_s, tier, types)
    places = _Places(labels, derive, beyond_s)
    spans: dict[str, Spans] = {}
    for utterance in corpus.utterances:
        if utterance.key in durations_s:
            intervals = places.of(utterance, durations_s[utterance.key])
            if intervals:
                spans[utterance.key] = _spans(intervals, bool(types))
    n_unusable = counted(len(places.problems), "unusable interval")
    refuse_problems([*places.problems], f"{path}: {n_unusable}")
    missing = tuple(key for key in durations_s if key not in spans)
    examples, names = listed(list(missing), 3), listed([*labels.unknown], 3)
    if not spans:
        raise ProbeError(
            f"{path}: no intervals for any of the {len(missing)} utterances of {corpus.name} "
            f"({examples}); found {names or 'none'}. Name utterances as the manifest does."
        )
    if n := len(labels.unknown):
        log.warning("%s: %d utterances are not in %s: %s", path, n, corpus.name, names)
    if missing:
        n = len(missing)
        log.warning("%s: no intervals for %d utterances, they are left out: %s", path, n, examples)
    spans = {key: spans[key] for key in durations_s if key in spans}
    return IntervalSet(path.stem, labels.sha256, spans, missing)


def _read_file(
    path: Path, corpus: Corpus, _: Mapping[str, float], tier: str, types: str
) -> _Labels:
    content = path.read_bytes()
    recordings = Recordings(corpus, path.parent)
    rows = read_labels(path, content, tier, types, recordings.knows)
    return _by_place(rows, recordings, hashlib.sha256(content).hexdigest())


def _by_place(rows: Iterable[tuple[str, Interval]], recordings: Recordings, sha256: str) -> _Labels:
    of_utterances: dict[str, list[Interval]] = defaultdict(list)
    of_recordings: dict[Recording, list[Interval]] = defaultdict(list)
    unknown: dict[str, None] = {}
    for name, interval in rows:
        place = recordings.get(name)
        if place is None:
            unknown[name] = None
        elif isinstance(place, Utterance):
            of_utterances[place.key].append(interval)
        else:
            of_recordings[place].append(interval)
    return _Labels(of_utterances, of_recordings, sha256, list(unknown))


def _read_folder(
    folder: Path, corpus: Corpus, durations_s: Mapping[str, float], tier: str, types: str
) -> _Labels:
    """The labels in a folder of TextGrids, or of PHN, CTM or RTTM files.

    Raises:
        ProbeError: it has several forms.
    """
    forms = {
        name: sorted(folder.rglob(f"*.{name}"))
        for name in ("TextGrid", "PHN", "phn", "ctm", "rttm")
    }
    present = [name for name, files in forms.items() if files]
    if len(present) > 1:
        raise ProbeError(
            f"{folder}: holds {' and '.join(f'{name} files' for name in present)}; expected one "
            "form. Put each form into a folder of its own."
        )
    form = present[0] if present else "TextGrid"
    if form in ("TextGrid", "PHN", "phn"):
        return _read_by_name(folder, forms[form], corpus, durations_s, (tier, types))
    recordings = Recordings(corpus, folder)
    contents = {path: path.read_bytes() for path in forms[present[0]]}
    rows = itertools.chain.from_iterable(
        read_labels(path, content, tier, types, recordings.knows)
        for path, content in contents.items()
    )
    shas = {
        os.fspath(path.relative_to(folder)): hashlib.sha256(content).hexdigest()
        for path, content in contents.items()
    }
    return _by_place(rows, recordings, sha256_of_json(shas))


def _read_by_name(
    folder: Path,
    paths: Sequence[Path],
    corpus: Corpus,
    durations_s: Mapping[str, float],
    tiers: tuple[str, str],
) -> _Labels:
    """The labels in a folder of files of one form, one for each recording; only those of utterances
    that are asked for are read.

    Raises:
        ProbeError: one belongs to two recordings, or is damaged.
    """
    files = {path.relative_to(folder): path for path in paths}
    ending = paths[0].suffix if paths else ".TextGrid"
    by_name: dict[str, list[Path]] = defaultdict(list)
    for place in files:
        by_name[place.name].append(place)

    def place_of(name: str) -> Path | None:
        place = Path(name).with_suffix(ending)
        if place in files:
            return place
        alike = by_name.get(place.name, [])
        return alike[0] if len(alike) == 1 else None

    of_utterances: dict[str, list[Interval]] = {}
    of_recordings: dict[Recording, list[Interval]] = {}
    shas: dict[str, str] = {}
    owners: dict[Path, str | Recording] = {}
    for utterance in corpus.utterances:
        recording = recording_of(utterance)
        own, is_own = place_of(utterance.key), True
        if own is None and not is_whole(utterance):
            own, is_own = place_of(name_of(recording, corpus)), False
        if own is None:
            continue
        if owners.setdefault(own, utterance.key if is_own else recording) not in (
            utterance.key,
            recording,
        ):
            raise ProbeError(
                f"{folder / own}: belongs to two utterances, {utterance.key} is one. "
                "Put each where its audio lies."
            )
        if utterance.key not in durations_s or recording in of_recordings:
            continue
        intervals = of_tier(files[own], *tiers)
        name = utterance.key if is_own else name_of(recording, corpus)
        shas[name] = sha256_of_file(files[own])
        if is_own:
            of_utterances[name] = intervals
        else:
            of_recordings[recording] = intervals
    unknown = [os.fspath(place) for place in files if place not in owners]
    return _Labels(of_utterances, of_recordings, sha256_of_json([tiers[0], shas]), unknown)


@dataclass(frozen=True)
class _Ordered:
    """Intervals in order of time, with their (interval,) starts and ends in seconds."""

    intervals: Sequence[Interval]
    starts_s: np.ndarray
    ends_s: np.ndarray

    def between(self, start_s: float, end_s: float) -> list[Interval]:
        """Those that lie in a stretch of time at least in part, cut at its ends and shifted to its
        start.
        """
        first = int(np.searchsorted(self.ends_s, start_s + ROUNDING_S, side="right"))
        stop = int(np.searchsorted(self.starts_s, end_s - ROUNDING_S, side="left"))
        return [
            replace(
                item,
                start_s=max(item.start_s - start_s, 0.0),
                end_s=min(item.end_s, end_s) - start_s,
            )
            for item in self.intervals[first:stop]
        ]


class _Places:
    """The intervals of each utterance, and what is wrong with those that were read."""

    def __init__(self, labels: _Labels, derive: Derivation | None, beyond_s: float) -> None:
        self.problems: dict[str, None] = {}
        self._labels, self._derive, self._beyond_s = labels, derive, beyond_s
        self._ordered: dict[tuple[Recording, int | None], _Ordered] = {}

    def of(self, utterance: Utterance, duration_s: float) -> list[Interval]:
        """The intervals of an utterance in order; times are from its start."""
        own = self._labels.of_utterances.get(utterance.key)
        if own is not None:
            self._check(own, duration_s)
            whole = self._in_order(own)
            return whole.between(0.0, duration_s) if self._derive else list(whole.intervals)
        excerpt, recording = utterance.excerpt, recording_of(utterance)
        place = (recording, excerpt.channel)
        end_s = excerpt.start_s + duration_s
        if place not in self._ordered or excerpt.end_s is None:
            of_channel = [
                item
                for item in self._labels.of_recordings.get(recording, [])
                if None in (item.channel, excerpt.channel) or item.channel == excerpt.channel
            ]
            self._check(of_channel, end_s if excerpt.end_s is None else math.inf)
            self._ordered[place] = self._in_order(of_channel)
        ordered = self._ordered[place]
        if excerpt.end_s is None and not self._derive:
            end_s = math.inf  # as far as the check has let them go
        return ordered.between(excerpt.start_s, end_s)

    def _in_order(self, intervals: Sequence[Interval]) -> _Ordered:
        if self._derive is not None and intervals:
            intervals = self._derive(intervals)
        in_order = sorted(intervals, key=lambda item: item.start_s)
        starts_s, ends_s = (
            np.array([getattr(item, name) for item in in_order]) for name in ("start_s", "end_s")
        )
        return _Ordered(in_order, starts_s, ends_s)

    def _check(self, intervals: Sequence[Interval], duration_s: float) -> None:
        """Adds what is wrong with the intervals of one recording."""
        for item in intervals:
            if reason := _problem(item, duration_s, self._beyond_s):
                self.problems[f"{item.where}: {reason}"] = None
        if self._derive is None:
            self.problems |= dict.fromkeys(_overlaps(intervals))


def _overlaps(intervals: Sequence[Interval]) -> Iterator[str]:
    in_order = sorted(intervals, key=lambda item: item.start_s)
    for one, other in itertools.pairwise(in_order):
        if other.start_s < one.end_s - ROUNDING_S and other.start_s < other.end_s:
            line = one.where.rpartition(" ")[2]
            yield (
                f"{other.where}: starts at {other.start_s:g} s, before the interval of line {line} "
                f"ends ({one.end_s:g} s); expected intervals without overlap. Only tasks that "
                "derive their labels from speaker turns (derive) read overlapping ones."
            )


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


def _spans(intervals: Sequence[Interval], typed: bool) -> Spans:
    in_order = sorted(intervals, key=lambda item: item.start_s)
    labels = tuple(item.label for item in in_order)
    types = tuple(item.type for item in in_order)
    if not typed:
        padded = ["", *labels, ""]
        types = tuple("\t".join(padded[i : i + 3]) for i in range(len(labels)))
    starts_s, ends_s = (
        np.array([getattr(item, name) for item in in_order]) for name in ("start_s", "end_s")
    )
    return Spans(starts_s, ends_s, labels, types)
