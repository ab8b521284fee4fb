"""Which score of a table is best, and which are tied with it.

A score is tied that is not shown to be worse than the best on the same test utterances, see
`probe.measures.comparison.best_and_tied`. Where blocks are too few to show anything, or a record
holds no counts, all are tied: the best is then the highest (or lowest) number and no winner.
Nothing is marked where a rival that was scored on other utterances has a better number, or where no
two rivals were scored on the same ones: the best is not known then. Layers are compared on the test
scores that they describe: which layer to take, dev has said.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probe.measures.confidence_set import LEVEL, confidence_set
from probe.measures.counts import utterances_of
from probe.measures.metrics import metric_of
from probe.records import COMBINED, OWN_HEADS, QUESTION, SCORE

BEST, TIED = "best", "tied"
OTHERS = "scored on other utterances than the rest, so not compared"
NO_BEST = "not called best: a score on other utterances is better"

Column = NDArray[Any]


def models_marked(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with ``mark``: `BEST` and `TIED` among several models on one question and metric,
    empty elsewhere.

    Values that are printed alike are all best. A checkpoint's own head does not take part: it was
    trained on other data than the probes. Of models that were scored on different utterances those
    that most agree in are compared; the others get a note, and so does the best of those compared
    where another has a better score.

    Args:
        rows: with ``counts`` and ``seed`` besides the columns that are shown.
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
        else:
            mark[compared] = _of_contest(columns, compared, printed[compared] == best)
    return rows.assign(mark=mark, note=note)


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
    columns: dict[str, Column], group: Sequence[int], best: NDArray[np.bool_]
) -> list[str]:
    """The marks of scores of the same utterances; ``best`` says which are printed as the best."""
    at = group[0]
    counts, metric = columns["counts"][group].tolist(), columns["metric"][at]
    tied = [True] * len(group)
    if counts[0] and len(group) > 1:
        p = confidence_set(counts, metric, int(columns["seed"][at]))
        tied = [value > LEVEL for value in p]
    marks = np.where(tied, TIED, "").astype(object)
    marks[best] = BEST
    return list(marks)
