"""Which score of a table is best, and which are tied with it.

A score is tied that is not shown to be worse than the best on the same test utterances, see
`probe.measures.comparison.best_and_tied`. Where blocks are too few to show anything, or a record holds no counts, all are tied: the
best is then the highest (or lowest) number and no winner. Layers are compared on the test scores that they describe: which layer to
take, dev has said.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probe.measures.comparison import tied_with_best
from probe.measures.counts import is_trials, utterances_of
from probe.measures.uncertainty import sampled, units_of
from probe.records import OWN_HEAD, WEIGHTED

BEST, TIED = "best", "tied"
BITS = "codelength"  # the metric that is not in percent
COMPARED = ["task", "corpus", "condition", "train_condition", "metric", "train_domain", "test_domain"]
CURVE = [*COMPARED, "model", "head"]
N_RESAMPLES, N_RESAMPLES_OF_TRIALS = 1000, 200  # a thousand EERs take 0.1 s
OTHERS = "scored on other utterances than the rest, so not compared"

Column = NDArray[Any]


def models_marked(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with ``mark``: `BEST` and `TIED` among several models within `COMPARED`, empty elsewhere.

    Values that are printed alike are all best. A checkpoint's own head is a reference outside the contest: it was trained on other
    data than the probes. Of models that were scored on different utterances those that most agree in are compared; the others get a
    note.

    Args:
        rows: with ``counts`` and ``seed`` beside the columns that are shown.
    """
    return _marked(rows, COMPARED, "model", rows["head"] != OWN_HEAD)


def layers_marked(rows: pd.DataFrame) -> pd.DataFrame:
    """As `models_marked`, among the single layers of one model and head."""
    return _marked(rows, CURVE, "layer", rows["layer"] != WEIGHTED)


def _marked(rows: pd.DataFrame, within: list[str], rival: str, may: "pd.Series[bool]") -> pd.DataFrame:
    columns = {name: rows[name].to_numpy() for name in (rival, "metric", "value", "higher_is_better", "counts", "seed", "n")}
    mark, note = np.full(len(rows), "", object), rows["note"].to_numpy(object).copy()
    allowed = (may & rows["value"].notna()).to_numpy()
    for positions in map(np.asarray, rows.groupby(within, sort=False).indices.values()):
        contest = positions[allowed[positions]]
        if len(set(columns[rival][contest])) < 2:
            continue
        compared, *others = _by_utterances(columns, rival, contest)
        for group in others:
            note[group] = [f"{text}; {OTHERS}" if text else OTHERS for text in note[group]]
        mark[compared] = _of_contest(columns, compared)
    return rows.assign(mark=mark, note=note)


def _by_utterances(columns: dict[str, Column], rival: str, contest: NDArray[np.int64]) -> list[list[int]]:
    """Positions by the utterances that were scored; first those that most rivals, and then most utterances, agree in."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for position in contest:
        counts = columns["counts"][position]
        groups[utterances_of(counts) if counts else None].append(int(position))
    return sorted(groups.values(), key=lambda group: (-len(set(columns[rival][group])), -columns["n"][group[0]]))


def _of_contest(columns: dict[str, Column], group: Sequence[int]) -> list[str]:
    """The marks of scores of the same utterances."""
    at = group[0]
    counts, metric, higher = columns["counts"][group].tolist(), columns["metric"][at], bool(columns["higher_is_better"][at])
    values = columns["value"][group].astype(float) * (1 if higher else -1)
    printed = np.round(values, 2) if metric == BITS else np.round(100 * values, 1)
    tied = [True] * len(group)
    if counts[0] and len(group) > 1:
        n_resamples = N_RESAMPLES_OF_TRIALS if is_trials(counts[0]) else N_RESAMPLES
        resampled = sampled(counts, int(columns["seed"][at]), n_resamples, metric)
        _, tied = tied_with_best(resampled, higher, units=units_of(counts[0], metric))
    best = printed == printed.max()
    return [BEST if is_best else TIED if is_tied else "" for is_best, is_tied in zip(best, tied, strict=True)]
