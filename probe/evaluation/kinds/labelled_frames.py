"""The labelled frames of a corpus on the grid of a task, see `probe.evaluation.kinds.frames`."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from probe.data.corpus import Utterance
from probe.data.intervals import NO_INTERVALS, Spans
from probe.errors import ProbeError
from probe.evaluation.dataset import Features, Problem, refuse_empty
from probe.evaluation.frame_times import first_centre_s
from probe.evaluation.kinds.row_reader import Chosen, in_store_order
from probe.evaluation.tasks import Task

FIRST = 0.75  # where the first frame of the grid stands, in steps of it
ROUNDING = 1e-6  # of steps: centres that are so near to the middle are in the middle


@dataclass(frozen=True)
class Labelled:
    """The labelled frames of some utterances, those of the grid.

    Rows stand in the order of the store, segments in that of the manifest.

    A segment is an interval that has a row.

    Attributes:
        chosen: utterances with the frames of the layers that answer for them.
        owners: (row,) int64, position in ``chosen``.
        segments: (row,) int64, position in ``labels`` and ``types``.
        labels, types: (segment,) text.
    """

    chosen: Sequence[Chosen]
    owners: np.ndarray
    segments: np.ndarray
    labels: Sequence[str]
    types: Sequence[str]

    def part(self, positions: Sequence[int]) -> "Labelled":
        """The frames of the utterances at these positions in ``chosen``."""
        rows = np.isin(self.owners, positions)
        owners = np.searchsorted(np.array(positions, np.int64), self.owners[rows])
        return replace(
            self,
            chosen=[self.chosen[i] for i in positions],
            owners=owners,
            segments=self.segments[rows],
        )


def check_labels(task: Task[Any], problem: Problem) -> None:
    """Refuses, without features, splits in which no utterance has a labelled interval, and a single
    label.

    Raises:
        ProbeError: names the split, or the label.
    """
    assert problem.intervals is not None
    spans = problem.intervals.spans
    rows = {"train": problem.train, "dev": problem.dev} | {
        f"test {name}": part for name, part in problem.tests.items()
    }
    labels = {
        name: {
            label
            for item in part
            if item.key in spans
            for label in spans[item.key].labels
            if not task.settings.ignores(label)
        }
        for name, part in rows.items()
    }
    _refuse_none(task, problem, {name: (part, [*labels[name]]) for name, part in rows.items()})
    refuse_one_label(task, labels["train"])


def refuse_one_label(task: Task[Any], classes: Collection[str]) -> None:
    """Refuses training frames of a single label.

    Raises:
        ProbeError: names the label.
    """
    if len(classes) < 2:
        raise ProbeError(
            f"{task.name}: all training frames have the label {min(classes)!r}; expected two "
            "labels or more."
        )


def _refuse_none(
    task: Task[Any], problem: Problem, sets: Mapping[str, tuple[Sequence[object], Sequence[object]]]
) -> None:
    """Raises where a set has no labelled frames; a test set only where the problem is strict."""
    needed = {
        name.strip(): item
        for name, item in sets.items()
        if problem.strict or not name.startswith("test")
    }
    refuse_empty(task.name, "labelled frames", needed)


def labelled_sets(
    task: Task[Any], problem: Problem, features: Features, excluded: Counter[str]
) -> dict[str, Labelled]:
    """``train``, ``dev`` and ``test`` with the name of each test set -> its frames.

    Raises:
        ProbeError: none in a split (in a test set: where the problem is strict).
    """
    most = task.settings.max_frames
    splits = {"train": (problem.train, excluded, most), "dev": (problem.dev, excluded, 0)}
    splits |= {
        f"test {name}": (problem.tests[name], tally, 0)
        for name, tally in problem.tallies(excluded).items()
    }
    sets = {
        name: _labelled(utterances, task, problem, features, tally, most_here)
        for name, (utterances, tally, most_here) in splits.items()
    }
    _refuse_none(
        task, problem, {name: (splits[name][0], item.chosen) for name, item in sets.items()}
    )
    return sets


def _labelled(
    utterances: Sequence[Utterance],
    task: Task[Any],
    problem: Problem,
    features: Features,
    excluded: Counter[str],
    most: int,
) -> Labelled:
    """The frames of these utterances that have a label, at most ``most`` of them (0: all), drawn at
    random.
    """
    assert problem.intervals is not None
    spans, step_s = problem.intervals.spans, task.settings.grid_ms / 1000
    known = [item for item in utterances if item.key in spans]
    excluded[NO_INTERVALS] += len(utterances) - len(known)
    grids_s = [_grid_s(spans[item.key], features.of(item).duration_s, step_s) for item in known]
    places: list[np.ndarray] = []  # of each utterance (frame,): the interval it lies in, or -1
    for item, times_s in zip(known, grids_s, strict=True):
        intervals = spans[item.key].at(times_s)
        labels_here = map(task.settings.ignores, spans[item.key].labels)
        is_ignored = np.array([*labels_here])[intervals] & (intervals >= 0)
        excluded["frames in no interval"] += int((intervals < 0).sum())
        excluded["frames with an ignored label"] += int(is_ignored.sum())
        places.append(np.where(is_ignored, -1, intervals))
    places = _drawn(places, most, problem.seed, excluded)
    for reason in [reason for reason, count in excluded.items() if not count]:
        del excluded[reason]
    chosen, segments = [], []
    labels: list[str] = []
    types: list[str] = []
    first_s = first_centre_s(features)
    for item, times_s, intervals in zip(known, grids_s, places, strict=True):
        rows = np.flatnonzero(intervals >= 0)
        present, local = np.unique(intervals[rows], return_inverse=True)
        sound_s = times_s[rows] * features.stores[item.condition].stretch
        chosen.append(
            Chosen(item, _nearest(sound_s, first_s, features.hop_s, features.of(item).n_rows))
        )
        segments.append(local + len(labels))
        labels += [spans[item.key].labels[i] for i in present]
        types += [spans[item.key].types[i] for i in present]
    order = [i for i in in_store_order(features, known) if len(segments[i])]
    empty = np.zeros(0, np.int64)
    owners = np.repeat(np.arange(len(order)), [len(segments[i]) for i in order])
    return Labelled(
        [chosen[i] for i in order],
        owners,
        np.concatenate([empty, *(segments[i] for i in order)]),
        labels,
        types,
    )


def _grid_s(spans: Spans, duration_s: float, step_s: float) -> np.ndarray:
    """(frame,) seconds of the grid, to the end of the audio and of its intervals."""
    end_s = max(duration_s, float(spans.ends_s[-1]))
    return (np.arange(max(0, math.ceil(end_s / step_s - FIRST))) + FIRST) * step_s


def _nearest(times_s: np.ndarray, first_s: float, hop_s: float, n_frames: int) -> np.ndarray:
    """(time,) int64, the nearest of ``n_frames`` centres ``hop_s`` apart; the earlier of two."""
    return (
        np.ceil((times_s - first_s) / hop_s - 0.5 - ROUNDING).clip(0, n_frames - 1).astype(np.int64)
    )


def _drawn(
    places: list[np.ndarray], most: int, seed: int, excluded: Counter[str]
) -> list[np.ndarray]:
    """``places`` with all but ``most`` labelled frames at -1."""
    whole = np.concatenate([np.zeros(0, np.int64), *places])
    rows = np.flatnonzero(whole >= 0)
    if not most or len(rows) <= most:
        return places
    excluded["frames beyond max_frames"] += len(rows) - most
    whole[np.random.default_rng([seed, len(rows)]).permutation(rows)[most:]] = -1
    return np.split(whole, np.cumsum([len(item) for item in places])[:-1])
