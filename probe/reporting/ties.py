"""Which score of a table is best, and which others may be.

The scores of one question are marked that are in its 95 % model confidence set
(`probe.measures.confidence_set`): it holds the best of the compared models, or layers, with a
probability of 95 %. Scores that cannot be tested are marked `NOT_TESTED`, and none of them is best:
their blocks are too few, their metric has no variance, or a record holds no counts.

Nothing is marked where all scores are at chance, that is not significantly better than the best
control (majority, mean, shuffled labels), paired, and than the metric's chance level. Nothing is
marked either where a rival that was scored on other utterances has a better number, or where no two
rivals were scored on the same ones: the best is not known then. Layers are compared on the test
scores that they describe: which layer to take, dev has said.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probe.measures.comparison import ABOVE, AT_CHANCE, UNKNOWN, beside_chance
from probe.measures.confidence_set import LEVEL, p_values_in_set
from probe.measures.counts import Counts, utterances_of
from probe.measures.metrics import metric_of
from probe.measures.uncertainty import FEWEST_BLOCKS, MeasuredScore, measure
from probe.records import COMBINED, OWN_HEADS, QUESTION, SCORE

BEST, IN_SET, NOT_TESTED = "best", "in set", "not tested"
SET = "in the 95 % model confidence set"
NOT_TESTED_NOTE = (
    f"{NOT_TESTED}, so none is called best: fewer than {FEWEST_BLOCKS} blocks (such as speakers), "
    "a metric without an interval, or no counts"
)
OTHERS = "scored on other utterances than the rest, so not compared"
NO_BEST = "not called best: a score on other utterances is better"

Column = NDArray[Any]


def models_marked(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with ``chance`` (see `probe.measures.comparison.beside_chance`) and ``mark``: `BEST`
    and `IN_SET`, or `NOT_TESTED`, among several models on one question and metric, empty elsewhere.

    Values that are printed alike are all best. A checkpoint's own head does not take part: it was
    trained on other data than the probes. Of models that were scored on different utterances those
    that most agree in are compared; the others get a note, and so does the best of those compared
    where another has a better score.

    Args:
        rows: with ``counts``, ``seed`` and ``controls`` besides the columns that are shown.
    """
    return _marked(rows, [*QUESTION, "metric"], "model", ~rows["head"].isin(OWN_HEADS))


def layers_marked(rows: pd.DataFrame) -> pd.DataFrame:
    """As `models_marked`, among the single layers of one model and head."""
    return _marked(rows, SCORE, "layer", ~rows["layer"].isin(COMBINED))


def _marked(
    rows: pd.DataFrame, within: list[str], rival: str, may: "pd.Series[bool]"
) -> pd.DataFrame:
    names = (rival, "metric", "value", "higher_is_better", "counts", "seed", "n")
    columns = {name: rows[name].to_numpy() for name in names}
    printed = _printed(rows)
    scores = _measured(rows)
    chance = _beside_controls(rows, scores)
    mark, note = np.full(len(rows), "", object), rows["note"].to_numpy(object).copy()
    allowed = (may & rows["value"].notna()).to_numpy()
    for positions in map(np.asarray, rows.groupby(within, sort=False).indices.values()):
        contest = positions[allowed[positions]]
        if len(set(columns[rival][contest])) < 2:
            continue
        compared, *others = _by_utterances(columns, rival, contest)
        if others and len(set(columns[rival][compared])) < 2:
            compared, others = [], [compared, *others]
        apart = [position for group in others for position in group]
        note[apart] = _with(OTHERS, note[apart])
        if not compared:
            continue
        best = printed[compared].max()
        if max(printed[apart], default=-np.inf) > best:
            unmarked = np.array(compared)[printed[compared] == best]
            note[unmarked] = _with(NO_BEST, note[unmarked])
        elif any(chance[position] != AT_CHANCE for position in compared):
            seed = int(columns["seed"][compared[0]])
            rivals = [scores[position] for position in compared]
            higher = bool(columns["higher_is_better"][compared[0]])
            mark[compared] = _of_contest(rivals, higher, seed, printed[compared] == best)
    return rows.assign(mark=mark, note=note, chance=chance)


def _measured(rows: pd.DataFrame) -> list[MeasuredScore | None]:
    """The scores of rows that have a value and counts."""
    return [
        measure(counts, metric) if counts and pd.notna(value) else None
        for counts, metric, value in zip(rows["counts"], rows["metric"], rows["value"], strict=True)
    ]


def _beside_controls(rows: pd.DataFrame, scores: Sequence[MeasuredScore | None]) -> list[str]:
    """How each score stands to the best of its controls and the metric's chance level."""
    measured: dict[int, MeasuredScore] = {}  # a majority class is the control of every layer

    def control(counts: Counts, metric: str) -> MeasuredScore:
        if id(counts) not in measured:
            measured[id(counts)] = measure(counts, metric)
        return measured[id(counts)]

    levels = []
    columns = (rows[name] for name in ("metric", "higher_is_better", "controls"))
    for score, metric, higher, controls in zip(scores, *columns, strict=True):
        known = metric_of(metric).chance
        candidates: list[MeasuredScore | float] = [] if known is None else [known]
        if score is not None:
            measured_controls = (control(counts, metric) for counts in controls)
            same = (item for item in measured_controls if item.utterances == score.utterances)
            candidates += [item for item in same if len(item.of_seeds) == len(score.of_seeds)]
        words = {beside_chance(score, level, bool(higher)) for level in candidates} or {UNKNOWN}
        levels.append(next((word for word in (AT_CHANCE, UNKNOWN) if word in words), ABOVE))
    return levels


def _with(text: str, notes: Column) -> list[str]:
    """The notes, each with ``text`` at its end."""
    return [f"{note}; {text}" if note else text for note in notes]


def _printed(rows: pd.DataFrame) -> NDArray[np.float64]:
    """(score,) values as printed, negative where lower is better: the highest is the best."""
    values = [
        metric_of(metric).rounded(value)
        for metric, value in zip(rows["metric"], rows["value"], strict=True)
    ]
    return np.where(rows["higher_is_better"].astype(bool), 1, -1) * np.array(values, float)


def _by_utterances(
    columns: dict[str, Column], rival: str, contest: NDArray[np.int64]
) -> list[list[int]]:
    """Positions by the utterances that were scored; first those that most rivals, and then most
    utterances, agree in.
    """
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for position in contest:
        counts = columns["counts"][position]
        groups[utterances_of(counts) if counts else None].append(int(position))
    return sorted(
        groups.values(),
        key=lambda group: (-len(set(columns[rival][group])), -columns["n"][group[0]]),
    )


def _of_contest(
    scores: Sequence[MeasuredScore | None],
    higher_is_better: bool,
    seed: int,
    best: NDArray[np.bool_],
) -> list[str]:
    """The marks of scores of the same utterances; ``best`` says which are printed as the best."""
    tested = [score for score in scores if score is not None and not math.isnan(score.variance)]
    if len(tested) < len(scores):
        return [NOT_TESTED] * len(scores)
    in_set = [p > LEVEL for p in p_values_in_set(tested, higher_is_better, seed)]
    marks = np.where(in_set, IN_SET, "").astype(object)
    marks[best] = BEST
    return list(marks)
