"""Cluster bootstrap by speaker: values of scores for blocks drawn with replacement.

Sources: resampling of the same utterances for two systems, Bisani & Ney 2004, "Bootstrap estimates
for confidence intervals in ASR performance evaluation"; blocks instead of utterances, since
utterances of one speaker correlate, Liu et al. 2019, arXiv 1912.09508.

Conventions: B blocks are drawn with replacement B times, so each has a weight 0, 1, 2 ... in a
resample. The sums of a ratio, of moments or of classes, and influences, are weighted by it. A trial
counts weight[enroll] * weight[test] times, as if each draw of a speaker were a new speaker; where
both ends are the same block it counts weight[block] times, for a draw brings each trial within the
block once.

Random numbers come from the seed and the number of blocks alone: scores of the same blocks
share their resamples, so a difference taken resample by resample is paired. Resamples without a
value (no target drawn, denominators 0) are NaN and left out.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from probe.errors import ProbeError
from probe.measures.block_sums import block_sums, sum_metric
from probe.measures.counts import (
    Counts,
    form_of,
    highest_value,
    independent_units,
    is_trials,
    per_seed,
    trial_metric,
    utterances_of,
    value_of,
)
from probe.measures.metrics import EER, metric_of

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

CONFIDENCE = 0.95
N_RESAMPLES = 1000
# This many blocks of equal size, or fewer, have no interval (docs/statistics.md).
TOO_FEW_BLOCKS = 3
# A score that rests on one block (the only one with targets, say) has no value in 25 to 50 % of its
# resamples, one that rests on two blocks in 14 % at most; the rest of the resamples would all hold
# that block and understate the variation.
MOST_LEFT_OUT = 0.2
# Number of (resample, block) cells at once: about 100 MB if every utterance is a block.
CELLS_AT_ONCE = 1 << 22
# Number of (resample, trial) cells at once: small arrays stay in a cache and reuse their memory.
TRIALS_AT_ONCE = 1 << 15


def effective_blocks(counts: Counts) -> float:
    """Return (sum of sizes)^2 / (sum of sizes^2), the number of blocks of equal size with the same
    weight; for trials, the sizes count ends, and the smaller number of targets and non-targets is
    taken.
    """
    counts = per_seed(counts)[0]
    if not is_trials(counts):
        return _effective(block_sizes(counts))
    ends = np.array([counts["enroll"], counts["test"]], np.int64)
    target = np.array(counts["target"], bool)
    return min(_effective(np.bincount(ends[:, kind].ravel())) for kind in (target, ~target))


def block_sizes(counts: Counts) -> Floats:
    """(block,) what each block weighs: denominators, or utterances."""
    form = form_of(counts)
    if form == "classes":
        return block_sums(counts)[:, : len(counts["class"])].sum(axis=1)
    return np.asarray(counts["denominator" if form == "ratio" else "n"], np.float64)


def _effective(sizes: ArrayLike) -> float:
    weights = np.asarray(sizes, np.float64)
    return float(weights.sum() ** 2 / np.square(weights).sum())


def resamples(
    counts: Counts, seed: int = 0, n_resamples: int = N_RESAMPLES, metric: str = EER.name
) -> Floats:
    """Return (resample,) the value in each resample, averaged over seeds; NaN if it is
    undefined.
    """
    if "seeds" in counts:
        return np.asarray(
            np.mean(
                [resamples(part, seed, n_resamples, metric) for part in per_seed(counts)], axis=0
            )
        )
    weights = block_weights(len(counts["block"]), seed, n_resamples)
    of_form = {"trials": _trial_values, "influences": _linear_values}
    values = of_form.get(form_of(counts), _sum_values)(counts, metric)
    return np.concatenate([np.empty(0), *map(values, weights)])


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


def _linear_values(counts: Counts, _: str) -> Callable[[Ints], Floats]:
    """Return a function from (resample, block) weights to (resample,) values: the linear
    approximation by the influences of the blocks (Efron & Tibshirani 1993, section 20.5).
    """
    influence = np.asarray(counts["influence"], np.float64)
    return lambda weights: np.asarray(counts["value"] + (weights - 1.0) @ influence)


def _sum_values(counts: Counts, metric: str) -> Callable[[Ints], Floats]:
    """Return a function from (resample, block) weights to (resample,) values; sums of integers are
    exact in float64.
    """
    columns, function = block_sums(counts).T.copy(), sum_metric(counts, metric)

    def values(weights: Ints) -> Floats:
        weights = weights.astype(np.float64)
        return function(np.stack([weights @ of_block for of_block in columns], axis=1))

    return values


def _trial_values(counts: Counts, metric: str) -> Callable[[Ints], Floats]:
    """Return a function from (resample, block) weights to (resample,) values of a metric of
    trials.
    """
    measure = trial_metric(metric)
    enroll, test, rank = (np.array(counts[key], np.int64) for key in ("enroll", "test", "rank"))
    target, n_ranks = np.array(counts["target"], bool), int(rank.max()) + 1
    pairs, pair_of_trial = np.unique(enroll * len(counts["block"]) + test, return_inverse=True)
    one, other = np.divmod(pairs, len(counts["block"]))

    def accumulator(kind: NDArray[np.bool_]) -> Callable[[Ints], Ints]:
        """Return a function from (resample, pair) weights to (resample, rank) numbers of trials of
        a kind at this rank or below.
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

    n_at_once = max(1, TRIALS_AT_ONCE // len(rank))
    return lambda weights: np.concatenate(
        [some_values(weights[i : i + n_at_once]) for i in range(0, len(weights), n_at_once)]
    )


def variances(resampled: Floats, n_blocks: float) -> Floats:
    """Return (score,) variances of (resample, score) values; NaN if there are too few blocks."""
    valid = np.isfinite(resampled)
    enough = valid.sum(axis=0) >= max(2, (1 - MOST_LEFT_OUT) * len(resampled))
    if n_blocks <= TOO_FEW_BLOCKS or not enough.any():
        return np.full(resampled.shape[1], np.nan)
    spread = np.var(resampled, axis=0, ddof=1)
    for column in np.flatnonzero(enough & ~valid.all(axis=0)):
        spread[column] = np.var(resampled[valid[:, column], column], ddof=1)
    return np.where(enough, spread, np.nan)


def student_quantiles(freedom: ArrayLike, confidence: float) -> Floats:
    """Return quantiles of Student's distribution for two-sided intervals.

    Raises:
        ProbeError: ``confidence`` is not a fraction between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ProbeError(
            f"confidence {confidence}: expected a fraction between 0 and 1, such as 0.95."
        )
    quantiles: Floats = stdtrit(freedom, (1 + confidence) / 2)
    return quantiles


def least_error(difference: float, units: float | None) -> float:
    """Return the smallest standard error of a difference d of shares of n units.

    It is sqrt(p (1 - p) / (n + 4)) with p = (|d| n + 2) / (n + 4), as if all differing units
    differed in one direction, with two more units of each kind (Agresti & Coull 1998). It is
    therefore not 0 if nothing or everything differs.
    """
    if not units:
        return 0.0
    share = (min(abs(difference), 1.0) * units + 2) / (units + 4)
    return float(np.sqrt(share * (1 - share) / (units + 4)))


@dataclass(frozen=True)
class Estimate:
    """A measure with its interval.

    Attributes:
        value: None if it is undefined; ``note`` gives the reason.
        low, high: the interval; None if there are too few blocks.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval is known and excludes 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def at_least(self, least: float) -> "Estimate":
        """Return the estimate with value and ends of at least ``least``."""
        value, low, high = (
            None if end is None else max(end, least) for end in (self.value, self.low, self.high)
        )
        return replace(self, value=value, low=low, high=high)


@dataclass(frozen=True)
class SampledScore:
    """A score, or a sum of scores, with its values in resamples.

    Attributes:
        value: the score.
        resampled: (resample,) values; NaN if undefined.
        n_blocks: see `effective_blocks`.
        blocks: hash of the resampled blocks; only scores with equal hashes can be added.
        least, most: bounds of the value.
        units: see `probe.measures.counts.independent_units`.
        unpaired: whether scores of the same blocks may belong to different utterances.
    """

    value: float
    resampled: Floats
    n_blocks: float
    blocks: str
    least: float = -math.inf
    most: float = math.inf
    units: float | None = None
    unpaired: bool = False

    def __add__(self, other: "SampledScore | float") -> "SampledScore":
        if not isinstance(other, SampledScore):
            return replace(
                self,
                value=self.value + other,
                resampled=self.resampled + other,
                least=self.least + other,
                most=self.most + other,
            )
        if self.blocks != other.blocks:
            raise ProbeError(
                "the two scores are not of the same utterances: a paired difference needs the same "
                "blocks and denominators, or the same trials. Run both on one manifest and trial "
                "list, and see what each of them left out."
            )
        return SampledScore(
            self.value + other.value,
            self.resampled + other.resampled,
            min(self.n_blocks, other.n_blocks),
            self.blocks,
            self.least + other.least,
            self.most + other.most,
            self._units_with(other),
            self.unpaired,
        )

    def _units_with(self, other: "SampledScore") -> float | None:
        if not (self.units and other.units):
            return None
        if self.unpaired:  # variances of other utterances add up
            return 1 / (1 / self.units + 1 / other.units)
        return min(self.units, other.units)

    def __mul__(self, factor: float) -> "SampledScore":
        least, most = sorted((self.least * factor, self.most * factor))
        return replace(
            self,
            value=self.value * factor,
            resampled=self.resampled * factor,
            least=least,
            most=most,
        )

    def __neg__(self) -> "SampledScore":
        return self * -1

    def __sub__(self, other: "SampledScore | float") -> "SampledScore":
        return self + (-other)

    @property
    def least_error(self) -> float:
        """The smallest standard error of the value."""
        return least_error(self.value, self.units)

    def half_width(self, confidence: float = CONFIDENCE) -> float | None:
        """Return t * se * sqrt(E / (E - 1)) of the resamples; None if the E blocks are too few."""
        n = self.n_blocks
        error = np.sqrt(variances(self.resampled[:, None], n) * n / max(n - 1, 1))
        half = float((student_quantiles(np.array([n - 1]), confidence) * error)[0])
        return None if np.isnan(half) else half

    def estimate(self, confidence: float = CONFIDENCE) -> Estimate:
        """Return the value with its interval, without ends if there are too few blocks."""
        half = self.half_width(confidence)
        if half is None:
            return Estimate(self.value)
        quantile = float(student_quantiles(self.n_blocks - 1, confidence))
        half = max(half, quantile * self.least_error)
        return Estimate(
            self.value, max(self.least, self.value - half), min(self.most, self.value + half)
        )


def sample_score(
    counts: Counts, seed: int = 0, over: Sequence[str] | None = None, metric: str = EER.name
) -> SampledScore:
    """Return the value of ``counts`` and its values in resamples of blocks.

    Args:
        counts: see `probe.records`.
        seed: random seed of the resamples.
        over: names of blocks to draw from, including those of ``counts``, for a comparison of
            scores of different utterances (two domains); None draws from the blocks of ``counts``.
        metric: metric of trials; see `probe.measures.counts.value_of`.

    Raises:
        ProbeError: the counts have no value.
    """
    spread = counts if over is None else _over_blocks(counts, over)
    identity = utterances_of(spread) if over is None else tuple(spread["block"])
    return SampledScore(
        value_of(counts, metric),
        resamples(spread, seed, N_RESAMPLES, metric),
        effective_blocks(counts),
        hashlib.sha256(repr(identity).encode()).hexdigest(),
        metric_of(metric).lowest,
        highest_value(counts),
        independent_units(counts, metric),
        over is not None,
    )


def _over_blocks(counts: Counts, over: Sequence[str]) -> Counts:
    """Return the same counts over more blocks."""
    place = {name: index for index, name in enumerate(over)}
    places = np.array([place[name] for name in counts["block"]], np.int64)
    form = form_of(counts)
    if form == "trials":
        moved = {end: places[np.asarray(counts[end], np.int64)] for end in ("enroll", "test")}
        return {**counts, **moved, "block": list(over)}
    if form == "classes":
        return {**counts, "at": places[np.asarray(counts["at"], np.int64)], "block": list(over)}
    single = {name: counts[name] for name in ("value",) if name in counts}
    wider: dict[str, list[Any]] = {
        name: [0] * len(over) for name in counts if name not in ("block", *single)
    }
    for name, values in wider.items():
        for index, amount in zip(places, counts[name], strict=True):
            values[index] = amount
    return {**wider, **single, "block": list(over)}
