"""Values of scores with weighted blocks: what the jackknife and the bootstrap have in common.

Conventions: a block of weight w counts w times. The sums of a ratio, of moments or of classes, and
influences, are weighted by it. A trial counts weight[enroll] * weight[test] times, as if each draw
of a speaker were a new speaker; where both ends are the same block it counts weight[block] times,
for a draw brings each trial within the block once. A weight of 0 leaves the block out. Values that
are then undefined (no target left, denominators 0) are NaN.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from probe.measures.block_sums import block_sums, sum_metric
from probe.measures.counts import Counts, form_of, trial_metric

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Number of (row, trial) cells at once: small arrays stay in a cache and reuse their memory.
TRIALS_AT_ONCE = 1 << 15


def block_sizes(counts: Counts) -> Floats:
    """(block,) what each block weighs: denominators, utterances, or ends of trials."""
    form = form_of(counts)
    if form == "trials":
        ends = np.array([counts["enroll"], counts["test"]], np.int64)
        return np.bincount(ends.ravel(), minlength=len(counts["block"])).astype(np.float64)
    if form == "classes":
        return class_sizes(counts).sum(axis=1)
    return np.asarray(counts["denominator" if form == "ratio" else "n"], np.float64)


def class_sizes(counts: Counts) -> Floats:
    """(block, class) how many utterances have each class."""
    return block_sums(counts)[:, : len(counts["class"])]


def weighted_value(counts: Counts, metric: str) -> Callable[[Ints], Floats]:
    """Return a function from (row, block) weights to the (row,) values of one seed's counts."""
    of_form = {"trials": _of_trials, "influences": _of_influences}
    return of_form.get(form_of(counts), _of_sums)(counts, metric)


def values_without_each_block(counts: Counts, metric: str) -> Floats:
    """(block,) the value of one seed's counts without each block."""
    if form_of(counts) != "trials":
        sums = block_sums(counts)
        return sum_metric(counts, metric)(sums.sum(axis=0) - sums)
    n_blocks = len(counts["block"])
    value, rows = weighted_value(counts, metric), _rows_at_once(counts)
    parts = []
    for first in range(0, n_blocks, rows):
        weights = np.ones((min(rows, n_blocks - first), n_blocks), np.int64)
        weights[np.arange(len(weights)), first + np.arange(len(weights))] = 0
        parts.append(value(weights))
    return np.concatenate(parts)


def _of_influences(counts: Counts, _: str) -> Callable[[Ints], Floats]:
    """The linear approximation by the influences of the blocks (Efron & Tibshirani 1993, section
    20.5).
    """
    influence = np.asarray(counts["influence"], np.float64)
    return lambda weights: np.asarray(counts["value"] + (weights - 1.0) @ influence)


def _of_sums(counts: Counts, metric: str) -> Callable[[Ints], Floats]:
    """Sums of integers are exact in float64."""
    columns, function = block_sums(counts).T.copy(), sum_metric(counts, metric)

    def values(weights: Ints) -> Floats:
        weights = weights.astype(np.float64)
        return function(np.stack([weights @ of_block for of_block in columns], axis=1))

    return values


def _of_trials(counts: Counts, metric: str) -> Callable[[Ints], Floats]:
    measure = trial_metric(metric, counts)
    enroll, test, rank = (np.array(counts[key], np.int64) for key in ("enroll", "test", "rank"))
    target, n_ranks = np.array(counts["target"], bool), int(rank.max()) + 1
    pairs, pair_of_trial = np.unique(enroll * len(counts["block"]) + test, return_inverse=True)
    one, other = np.divmod(pairs, len(counts["block"]))

    def accumulator(kind: NDArray[np.bool_]) -> Callable[[Ints], Ints]:
        """Return a function from (row, pair) weights to (row, rank) numbers of trials of a kind at
        this rank or below.
        """
        by_rank = np.flatnonzero(kind)[np.argsort(rank[kind])]
        pair = pair_of_trial[by_rank]
        ends = np.searchsorted(rank[by_rank], np.arange(n_ranks), side="right")

        def cumulative(weights: Ints) -> Ints:
            sums = np.zeros((len(weights), len(pair) + 1), np.int64)
            np.cumsum(weights.take(pair, axis=1), axis=1, out=sums[:, 1:])
            return sums.take(ends, axis=1)

        return cumulative

    missed_targets, rejected_others = accumulator(target), accumulator(~target)

    def some_values(weights: Ints) -> Floats:
        pair_weights = weights[:, one] * np.where(one == other, 1, weights[:, other])
        missed, rejected = missed_targets(pair_weights), rejected_others(pair_weights)
        both = (missed[:, -1] > 0) & (rejected[:, -1] > 0)
        values = np.full(len(weights), np.nan)
        if both.any():
            values[both] = measure(missed[both], rejected[both])
        return values

    rows = _rows_at_once(counts)
    return lambda weights: np.concatenate(
        [some_values(weights[i : i + rows]) for i in range(0, len(weights), rows)]
    )


def _rows_at_once(trials: Counts) -> int:
    return max(1, TRIALS_AT_ONCE // len(trials["rank"]))
