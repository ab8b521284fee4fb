"""How sure a choice among several scores is: how often each is the best if speakers are resampled.

Aim: a layer is chosen by its dev score; with other dev speakers, another layer might have been.

Source: the bootstrap inclusion frequencies of Sauerbrei & Schumacher 1992, "A bootstrap resampling
procedure for model building", Statistics in Medicine 11. Blocks (speakers) are drawn with
replacement, see `probe.measures.bootstrap`; all scores share the draws.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from probe.measures.block_sums import block_sums, sum_metric
from probe.measures.block_weights import block_sizes, weighted_value
from probe.measures.bootstrap import MOST_LEFT_OUT, N_RESAMPLES, block_weights
from probe.measures.counts import Counts, form_of, per_seed, utterances_of
from probe.measures.metrics import metric_of
from probe.measures.uncertainty import FEWEST_BLOCKS

Floats = NDArray[np.float64]

MOST_CHOICES = 0.9  # the share of choices that `smallest_set` covers
DIGITS = 12  # values that agree in so many are equal


def choice_shares(
    counts: Sequence[Counts], metric: str, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> list[float] | None:
    """The share of resamples in which each score is the best; of equal ones it is the first.

    Args:
        counts: of each score, in the order that decides ties.
        metric: decides whether higher is better.
        seed, n_resamples: of the drawn blocks.

    Returns:
        (score,) fractions that sum to 1. None if they are unknown: the scores are of fewer than
        `probe.measures.uncertainty.FEWEST_BLOCKS` blocks, of different utterances, or undefined in
        too many resamples.
    """
    seeds = [per_seed(item) for item in counts]
    first = seeds[0][0]
    if np.count_nonzero(block_sizes(first)) < FEWEST_BLOCKS:
        return None
    if any(utterances_of(item) != utterances_of(counts[0]) for item in counts[1:]):
        return None
    draws = block_weights(len(first["block"]), seed, n_resamples)
    values = np.concatenate([_values(seeds, metric, weights) for weights in draws]).round(DIGITS)
    defined = values[np.isfinite(values).all(axis=1)]
    if len(defined) < (1 - MOST_LEFT_OUT) * n_resamples:
        return None
    losses = -defined if metric_of(metric).higher_is_better else defined
    times = np.bincount(losses.argmin(axis=1), minlength=len(counts))
    shares: list[float] = (times / len(defined)).tolist()
    return shares


def smallest_set(shares: Sequence[float]) -> list[int]:
    """The positions of the fewest shares that sum to `MOST_CHOICES` or more; of equal ones the
    first belong to it.
    """
    largest_first = np.argsort(-np.asarray(shares), kind="stable")
    sums = np.cumsum(np.asarray(shares)[largest_first])
    n = 1 + int(np.searchsorted(sums, MOST_CHOICES - 10.0**-DIGITS))
    return sorted(largest_first[:n].tolist())


def _values(seeds: Sequence[Sequence[Counts]], metric: str, weights: NDArray[np.int64]) -> Floats:
    """(resample, score) the values of scores, each a sequence of seeds; means over seeds."""
    of_seeds = [_of_one_seed(parts, metric, weights) for parts in zip(*seeds, strict=True)]
    return np.asarray(np.mean(of_seeds, axis=0))


def _of_one_seed(parts: Sequence[Counts], metric: str, weights: NDArray[np.int64]) -> Floats:
    if form_of(parts[0]) in ("trials", "influences"):
        return np.stack([weighted_value(part, metric)(weights) for part in parts], axis=1)
    sums = np.concatenate([block_sums(part) for part in parts], axis=1)
    # One product for all scores: (resample, block) @ (block, score * sum).
    drawn = (weights.astype(np.float64) @ sums).reshape(len(weights) * len(parts), -1)
    return sum_metric(parts[0], metric)(drawn).reshape(len(weights), len(parts))
