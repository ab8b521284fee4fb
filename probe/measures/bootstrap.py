"""Cluster bootstrap by speaker, as papers on speech recognition report it.

B blocks are drawn with replacement B times, and the interval lies between two percentiles of the
values. With fewer than about 40 speakers such intervals are too narrow (``docs/statistics.md``).

Sources: resampling of the same utterances for two systems, Bisani & Ney 2004, "Bootstrap estimates
for confidence intervals in ASR performance evaluation"; blocks instead of utterances, since
utterances of one speaker correlate, Liu et al. 2019, arXiv 1912.09508.

Random numbers come from the seed and the number of blocks alone: scores of the same blocks share
their resamples, so a difference taken resample by resample is paired.
"""

import functools
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from probe.measures.block_weights import weighted_value
from probe.measures.counts import Counts, per_seed
from probe.measures.metrics import EER

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

N_RESAMPLES = 1000
# A score that rests on one block (the only one with targets, say) has no value in 25 to 50 % of its
# resamples, one that rests on two blocks in 14 % at most; the rest of the resamples would all hold
# that block and understate the variation.
MOST_LEFT_OUT = 0.2
# Number of (resample, block) cells at once: about 100 MB if every utterance is a block.
CELLS_AT_ONCE = 1 << 22


def percentiles(
    counts: Counts, metric: str, confidence: float, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> tuple[float, float] | None:
    """The interval between percentiles of the resampled values; None where more than
    `MOST_LEFT_OUT` of them is undefined.
    """
    values = resamples(counts, seed, n_resamples, metric)
    defined = values[np.isfinite(values)]
    if len(defined) < (1 - MOST_LEFT_OUT) * len(values):
        return None
    tail = 50 * (1 - confidence)
    low, high = np.percentile(defined, [tail, 100 - tail]).tolist()
    return low, high


def resamples(
    counts: Counts, seed: int = 0, n_resamples: int = N_RESAMPLES, metric: str = EER.name
) -> Floats:
    """(resample,) the value in each resample, averaged over seeds; NaN where it is undefined."""
    parts = []
    for part in per_seed(counts):
        value = weighted_value(part, metric)
        weights = block_weights(len(part["block"]), seed, n_resamples)
        parts.append(np.concatenate([np.empty(0), *map(value, weights)]))
    return np.asarray(np.mean(parts, axis=0))


def block_weights(n_blocks: int, seed: int, n_resamples: int) -> Iterable[Ints]:
    """Yield how many times each block is drawn, (resample, block), for some of the resamples at a
    time; rows sum to ``n_blocks``.
    """
    if n_blocks * n_resamples <= CELLS_AT_ONCE:
        return [_all_draws(n_blocks, seed, n_resamples)]
    return _draws(n_blocks, seed, n_resamples)


@functools.lru_cache(maxsize=4)  # tables take thousands of scores of the same blocks
def _all_draws(n_blocks: int, seed: int, n_resamples: int) -> Ints:
    return np.concatenate(list(_draws(n_blocks, seed, n_resamples)))


def _draws(n_blocks: int, seed: int, n_resamples: int) -> Iterator[Ints]:
    generator = np.random.default_rng(seed)
    n_rows = max(1, CELLS_AT_ONCE // n_blocks)
    for first in range(0, n_resamples, n_rows):
        rows = np.arange(min(n_rows, n_resamples - first))
        drawn = generator.integers(n_blocks, size=(len(rows), n_blocks)) + n_blocks * rows[:, None]
        yield np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
