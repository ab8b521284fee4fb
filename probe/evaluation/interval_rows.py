"""Intervals as rows: each labelled interval of an utterance, such as a word or a phone, stands for
an utterance of its own.

Its vector is the mean of the frames whose centres lie in it; an interval between two centres has
the frame that is nearest to its middle. So every model has the same rows, whatever its frame rate.
The labels are read when the task is run, so a store of frames serves every set of labels.
"""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from probe.data.corpus import Utterance
from probe.data.intervals import LABEL, NO_INTERVALS, LabelledInterval, Spans
from probe.evaluation.dataset import Features, Problem
from probe.evaluation.frame_times import first_centre_s
from probe.evaluation.kind import TimeLabelSettings
from probe.evaluation.kinds.row_reader import part_of
from probe.store.feature_store import Stored

ROUNDING = 1e-6  # of frames: a centre that is so near to an end lies on it


def intervals_as_rows(problem: Problem, settings: TimeLabelSettings) -> Problem:
    """The problem with the labelled intervals of its utterances in their place; those with an
    ignored label have an empty one. Utterances without intervals are counted as excluded.
    """
    assert problem.intervals is not None
    spans = problem.intervals.spans

    def rows(utterances: Sequence[Utterance]) -> list[Utterance]:
        return list(labelled_rows(utterances, spans, settings))

    parts = (problem.train, problem.dev, *problem.tests.values())
    without = {item.key for part in parts for item in part if item.key not in spans}
    return replace(
        problem,
        excluded={NO_INTERVALS: len(without)} if without else {},
        train=rows(problem.train),
        dev=rows(problem.dev),
        tests={name: rows(part) for name, part in problem.tests.items()},
        columns=tuple(dict.fromkeys([*problem.columns, LABEL, *filter(None, [settings.types])])),
    )


def labelled_rows(
    utterances: Iterable[Utterance],
    spans: Mapping[str, Spans],
    settings: TimeLabelSettings,
    third: bool = False,
) -> list[LabelledInterval]:
    """The labelled intervals of the utterances that have some; an ignored label is empty.

    Args:
        spans: key -> intervals.
        third: whether a row is the middle third of its interval.
    """
    return [
        row
        for item in utterances
        if item.key in spans
        for row in _rows(item, spans[item.key], settings, third)
    ]


def _rows(
    utterance: Utterance, spans: Spans, settings: TimeLabelSettings, third: bool
) -> list[LabelledInterval]:
    shared = {name: getattr(utterance, name) for name in Utterance.__dataclass_fields__}
    rows = []
    for i, label in enumerate(spans.labels):
        start_s, end_s = float(spans.starts_s[i]), float(spans.ends_s[i])
        columns = {LABEL: "" if settings.ignores(label) else label}
        if settings.types:
            columns[settings.types] = spans.types[i]
        if third:
            start_s, end_s = start_s + (end_s - start_s) / 3, end_s - (end_s - start_s) / 3
        changed = {
            "key": f"{utterance.key}#t={start_s:.6g},{end_s:.6g}",
            "duration_s": end_s - start_s,
            "extra": {**utterance.extra, **columns},
        }
        about = {"source": utterance, "start_s": start_s, "end_s": end_s}
        rows.append(LabelledInterval(**{**shared, **changed, **about}))
    return rows


def with_intervals(features: Features, rows: Iterable[Utterance]) -> Features:
    """The same features with the mean of the frames of each labelled interval among the rows.

    Args:
        features: frames of layers that stand alike, see `Features.on_grids`.
    """
    first_s = first_centre_s(features)
    parts = {
        (row.condition, row.key): _part(features, row, first_s)
        for row in rows
        if isinstance(row, LabelledInterval)
    }
    other = copy.copy(features)
    other.view, other.stored = "mean", features.stored | parts
    return other


def _part(features: Features, row: LabelledInterval, first_s: float) -> Stored:
    """The stored frames of an interval."""
    assert row.source is not None
    stored = features.of(row.source)
    stretch = features.stores[row.condition].stretch
    start, end = (
        (time_s * stretch - first_s) / features.hop_s for time_s in (row.start_s, row.end_s)
    )
    first, stop = (math.ceil(place - ROUNDING) for place in (start, end))
    first, stop = max(first, 0), min(stop, stored.n_rows)
    if first >= stop:
        nearest = math.ceil((start + end) / 2 - 0.5 - ROUNDING)
        first = min(max(nearest, 0), stored.n_rows - 1)
        stop = first + 1
    return part_of(stored, first, stop)._replace(duration_s=row.end_s - row.start_s)
