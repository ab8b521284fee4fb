"""Intervals by resampling blocks.

Aim: how far a value would move with other speakers, and with another training where there are several.

Source: bootstrap for WER, paired by resampling the same utterances for both systems: Bisani & Ney 2004, "Bootstrap estimates for
confidence intervals in ASR performance evaluation". Blocks instead of utterances, since utterances of one speaker correlate:
Liu et al. 2019, arXiv 1912.09508.

Conventions: B blocks are drawn with replacement B times, so that each has a weight 0, 1, 2 ... (a resample). A ratio's sums are
weighted by it. A trial counts weight[enroll] * weight[test] times, as if each draw of a speaker were a new one; where both ends
are the same block it counts weight[block] times, for a draw brings each trial within the block once. Random numbers come from the
seed and the number of blocks alone, so equal counts and seed give equal bits, and scores of the same blocks share their resamples.
Resamples without a value (no target drawn, denominators 0) are left out.

The standard error se is the standard deviation of the resampled values times sqrt(E / (E - 1)), since B draws from B blocks vary by
a factor (B - 1) / B too little. E is B for trials and, for ratios, the number of blocks of equal size that would weigh as much:
(sum of denominators)^2 / (sum of their squares). An interval is value +- t * se, with t the quantile of Student's distribution:

* of a ratio on the scale of logits, and of logarithms where it can exceed 1, for an error rate varies the more the higher it is:
  expit(logit(v) +- t * se / (v * (1 - v))), exp(log(v) +- t * se / v);
* of trials on the scale of the value itself, clipped to 0 .. 1.

The degrees of freedom are those of se as an estimate: E - 1, and of a ratio fewer where few blocks bring most of the variance,
2 B / (k - (B - 3) / (B - 1)) with k the kurtosis of what the blocks contribute (O'Neill 2014, "Some useful moment results in sampling
problems", The American Statistician 68).

Blocks that all have the same value (no error at all, say) do not vary, and the interval would have width 0. So the interval of a
ratio of whole numbers is never narrower than Wilson's for as many independent units (Wilson 1927): 36 of 36 correct gives 90.4 to
100 %. An EER's is never narrower than that of 4 / (1 / targets + 1 / non-targets) units, whose variance is that of an EER of
independent trials where the two densities are equal at the threshold.

A score of several seeds (`probe.measures.counts.several`) is the mean over them. Its variance is se^2, of that mean over resampled
blocks, plus s^2 / S, with s the standard deviation over S seeds (S - 1 below); its degrees of freedom are Welch and Satterthwaite's.
What blocks and seeds do together is counted twice, so the interval is rather too wide.

``docs/statistics.md`` says how often all this held the truth.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtri, stdtrit

from probe.errors import ProbeError
from probe.measures.counts import Counts, TrialMetric, is_trials, per_seed, trial_metric, value_of
from probe.measures.verification import MANY

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

TOO_FEW_BLOCKS = 3  # of equal size; so many, or fewer, have no interval (docs/statistics.md)
FEW_BLOCKS = 20  # below it a table warns
CELLS_AT_ONCE = 1 << 22  # of (resample, block); bounds the memory to some 100 MB when every utterance is a block
TRIALS_AT_ONCE = 1 << 15  # of (resample, trial): small arrays stay in a cache and use their memory again
# A score that rests on one block (the only one with targets, say) has no value in 25 to 50 % of its resamples, one that rests on
# two blocks in 14 % at most; the rest of the resamples would all hold that block and understate the variation.
MOST_LEFT_OUT = 0.2


@dataclass(frozen=True)
class Scores:
    """Scores of the same utterances, or their differences, and what their uncertainty derives from.

    Attributes:
        values: (score,)
        resampled: (resample, score) NaN where a resample has no value.
        shares: (score, block) by how much each block moves the value; None for trials and differences.
        of_seeds: (seed, score) the value of each training.
        n_blocks: of equal size that would weigh as much, see `effective_blocks`.
        units: of differences, see `units_of`; None of scores, which have their own floor.
    """

    values: Floats
    resampled: Floats
    shares: Floats | None
    of_seeds: Floats
    n_blocks: float
    units: float | None = None

    def less(self, index: int, units: float | None = None) -> "Scores":
        """The differences of all scores from one of them, paired by resample, block and seed; ``units`` as in `least_error`."""

        def from_it(array: Floats) -> Floats:
            return array - array[:, [index]]

        values = self.values - self.values[index]
        resampled, of_seeds = from_it(self.resampled), from_it(self.of_seeds)
        return replace(self, values=values, resampled=resampled, shares=None, of_seeds=of_seeds, units=units)

    def errors(self) -> tuple[Floats, Floats]:
        """Standard errors and their degrees of freedom, (score,) each; an error is NaN where blocks are too few to tell."""
        errors, freedom = standard_errors(self.resampled, self.n_blocks), self._freedom()
        errors = np.maximum(errors, [least_error(value, self.units) for value in self.values])  # NaN stays
        n_seeds = len(self.of_seeds)
        if n_seeds == 1:
            return errors, freedom
        of_blocks, of_seeds = np.square(errors), np.var(self.of_seeds, axis=0, ddof=1) / n_seeds
        both = of_blocks + of_seeds
        below = np.square(of_blocks) / freedom + np.square(of_seeds) / (n_seeds - 1)
        return np.sqrt(both), np.divide(np.square(both), below, out=freedom, where=below > 0)

    def _freedom(self) -> Floats:
        usual = np.full(len(self.values), max(self.n_blocks - 1, 0.0))
        if self.shares is None or (n := self.shares.shape[1]) < 2:
            return usual
        squares = np.square(self.shares)
        fourth, second = np.square(squares).mean(axis=1), np.square(squares.mean(axis=1))
        below = fourth - second * (n - 3) / (n - 1)
        return np.minimum(usual, np.divide(2 * n * second, below, out=usual.copy(), where=second > 0))


def sampled(counts: Sequence[Counts], seed: int = 0, n_resamples: int = 1000, metric: str = "eer") -> Scores:
    """Scores of the same utterances with their values in the same resamples.

    Args:
        counts: see `probe.records` and `probe.measures.counts.several`; of the same utterances
            (`probe.measures.counts.check_same_utterances`).
        seed, n_resamples, metric: see `interval`.

    Raises:
        ProbeError: counts without a value.
    """
    of_seeds = [_of_one_seed(part, seed, n_resamples, metric) for part in zip(*map(per_seed, counts), strict=True)]
    shares = [part.shares for part in of_seeds if part.shares is not None]
    values = np.stack([part.values for part in of_seeds])
    return Scores(
        values.mean(axis=0),
        np.mean([part.resampled for part in of_seeds], axis=0),
        np.mean(shares, axis=0) if shares else None,
        values,
        of_seeds[0].n_blocks,
    )


def _of_one_seed(counts: Sequence[Counts], seed: int, n_resamples: int, metric: str) -> Scores:
    values = np.array([value_of(item, metric) for item in counts])
    draws = _weights(len(counts[0]["block"]), seed, n_resamples)
    shares = None
    if is_trials(counts[0]):
        of_resample = [_trial_values(item, metric) for item in counts]
        resampled = [np.stack([take(weights) for take in of_resample], axis=1) for weights in draws]
    else:
        numerators = np.array([item["numerator"] for item in counts], np.float64)
        denominator = np.array(counts[0]["denominator"], np.float64)
        resampled = [_ratios(weights, numerators, denominator) for weights in draws]
        shares = (numerators - values[:, None] * denominator) / denominator.sum()
    none = np.empty((0, len(counts)))
    return Scores(values, np.concatenate([none, *resampled]), shares, values[None], effective_blocks(counts[0]))


def interval(
    counts: Counts, seed: int = 0, n_resamples: int = 1000, confidence: float = 0.95, metric: str = "eer"
) -> tuple[float, float] | None:
    """The confidence interval of ``value_of(counts, metric)``, or None where blocks are too few to tell.

    Too few: `TOO_FEW_BLOCKS` or fewer, counted as `effective_blocks` does, or so few that more than a fifth of the resamples has no
    value (the score rests on one block), or that a cost or an amount is the same in all of them.
    The ends stay where the value can be: 0 from below; 1 from above for a metric of trials, and for a ratio where no block
    has a numerator above its denominator (a WER can exceed 1).

    Args:
        counts: see `probe.records`.
        seed: of the resamples.
        n_resamples: how many; 1,000 leave some 2 % of noise in the width.
        confidence: a fraction in (0, 1).
        metric: of trials, see `probe.measures.counts.value_of`.

    Raises:
        ProbeError: the counts have no value, or ``confidence`` is no such fraction.
    """
    found = sampled([counts], seed, n_resamples, metric)
    half = float(half_widths(found, confidence)[0])
    if np.isnan(half) or (half == 0 and units_of(counts, metric) is None):
        return None
    return _ends(counts, float(found.values[0]), half, confidence, metric)


def half_widths(scores: Scores, confidence: float) -> Floats:
    """Half the widths of symmetric intervals, (score,), NaN where blocks are too few.

    Raises:
        ProbeError: ``confidence`` is no fraction between 0 and 1.
    """
    errors, freedom = scores.errors()
    return _quantiles(freedom, confidence) * errors


def half_width(resampled: Floats, n_blocks: float, confidence: float) -> float | None:
    """Half the width of a symmetric interval from (resample,) values, NaN where there is none; None where blocks are too few."""
    half = float((_quantiles(np.array([n_blocks - 1]), confidence) * standard_errors(resampled[:, None], n_blocks))[0])
    return None if np.isnan(half) else half


def standard_errors(resampled: Floats, n_blocks: float) -> Floats:
    """Standard errors, (score,), of (resample, score) values; NaN where blocks are too few to tell."""
    valid = np.isfinite(resampled)
    enough = valid.sum(axis=0) >= max(2, (1 - MOST_LEFT_OUT) * len(resampled))
    if n_blocks <= TOO_FEW_BLOCKS or not enough.any():
        return np.full(resampled.shape[1], np.nan)
    spread = np.std(resampled, axis=0, ddof=1)
    for column in np.flatnonzero(enough & ~valid.all(axis=0)):
        spread[column] = np.std(resampled[valid[:, column], column], ddof=1)
    return np.where(enough, spread * np.sqrt(n_blocks / (n_blocks - 1)), np.nan)


def effective_blocks(counts: Counts) -> float:
    """The number of blocks of equal size that would weigh as much as these."""
    counts = per_seed(counts)[0]
    if is_trials(counts):
        return len(counts["block"])
    sizes = np.array(counts["denominator"], float)
    return float(sizes.sum() ** 2 / np.square(sizes).sum())


def resamples(counts: Counts, seed: int = 0, n_resamples: int = 1000, metric: str = "eer") -> Floats:
    """The value in each resample: (resample,) with NaN where there is none.

    For measures made of several scores: scores of the same blocks have the same resamples under one seed, so what is computed of
    their values, resample by resample, keeps what moves them together.
    """
    return sampled([counts], seed, n_resamples, metric).resampled[:, 0]


def highest(counts: Counts) -> float:
    """The most that a value can be: 1, or no bound where it is an amount or a block has a numerator above its denominator."""
    if is_trials(counts):
        return 1.0
    pairs = [pair for part in per_seed(counts) for pair in zip(part["numerator"], part["denominator"], strict=True)]
    bounded = all(isinstance(amount, int) and amount <= units for amount, units in pairs)
    return 1.0 if bounded else float("inf")


def wilson_interval(numerator: float, denominator: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of ``numerator`` successes among ``denominator`` independent units."""
    z = float(ndtri((1 + confidence) / 2))
    value, weight = numerator / denominator, z * z / denominator
    middle = (value + weight / 2) / (1 + weight)
    half = z * np.sqrt(value * (1 - value) / denominator + weight / (4 * denominator)) / (1 + weight)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def _ends(counts: Counts, value: float, half: float, confidence: float, metric: str) -> tuple[float, float]:
    """The ends of an interval on the scale that suits its value, see the module."""
    bound = highest(counts)
    if is_trials(counts):
        low, high = max(0.0, value - half), min(bound, value + half)
    elif half == 0:
        low, high = value, value
    elif bound == 1:
        on_scale = half / (value * (1 - value))
        low, high = float(expit(logit(value) - on_scale)), float(expit(logit(value) + on_scale))
    else:
        low, high = value * np.exp(-half / value), value * np.exp(half / value)
    units = units_of(counts, metric)
    if units is None or value > 1:
        return low, high
    least_low, least_high = wilson_interval(value * units, units, confidence)
    return min(low, least_low), max(high, least_high)


def units_of(counts: Counts, metric: str) -> float | None:
    """The independent units that a value rests on at best; None for amounts and costs, which are no share of units."""
    first = per_seed(counts)[0]
    if not is_trials(counts):
        return sum(first["denominator"]) if all(isinstance(amount, int) for amount in first["numerator"]) else None
    n_targets, n = int(np.sum(first["target"])), len(first["target"])
    return 4 * n_targets * (n - n_targets) / n if metric.startswith("eer") else None


def least_error(difference: float, units: float | None) -> float:
    """The standard error that a difference of shares of ``units`` has at least: if all that differ do so in one direction.

    With two more of each kind (Agresti & Coull 1998), so that it is not 0 where nothing, or everything, differs.
    """
    if not units:
        return 0.0
    share = (min(abs(difference), 1.0) * units + 2) / (units + 4)
    return float(np.sqrt(share * (1 - share) / (units + 4)))


def _quantiles(freedom: Floats, confidence: float) -> Floats:
    """Quantiles of Student's distribution for two-sided intervals."""
    if not 0 < confidence < 1:
        raise ProbeError(f"confidence {confidence}: expected a fraction between 0 and 1, such as 0.95.")
    found: Floats = stdtrit(freedom, (1 + confidence) / 2)
    return found


def _weights(n_blocks: int, seed: int, n_resamples: int) -> Iterable[Ints]:
    """How many times each block is drawn: (resample, block), rows sum to ``n_blocks``, some of the resamples at a time."""
    if n_blocks * n_resamples <= CELLS_AT_ONCE:
        return [_drawn(n_blocks, seed, n_resamples)]
    return _draws(n_blocks, seed, n_resamples)


@functools.lru_cache(maxsize=4)  # tables take thousands of scores of the same blocks
def _drawn(n_blocks: int, seed: int, n_resamples: int) -> Ints:
    return np.concatenate(list(_draws(n_blocks, seed, n_resamples)))


def _draws(n_blocks: int, seed: int, n_resamples: int) -> Iterator[Ints]:
    generator = np.random.default_rng(seed)
    n_rows = max(1, CELLS_AT_ONCE // n_blocks)
    for first in range(0, n_resamples, n_rows):
        rows = np.arange(min(n_rows, n_resamples - first))
        drawn = generator.integers(n_blocks, size=(len(rows), n_blocks)) + n_blocks * rows[:, None]
        yield np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)


def _ratios(weights: Ints, numerators: Floats, denominator: Floats) -> Floats:
    """(resample, score) from (resample, block), (score, block) and (block,); sums of whole numbers are exact in float64."""
    times = weights.astype(np.float64)
    below = (times @ denominator)[:, None]
    return np.divide(times @ numerators.T, below, out=np.full((len(times), len(numerators)), np.nan), where=below > 0)


def _trial_values(counts: Counts, metric: str) -> Callable[[Ints], Floats]:
    measure = trial_metric(metric)
    many = MANY.get(metric) or (lambda missed, rejected: _one_by_one(measure, missed, rejected))
    enroll, test, rank = (np.array(counts[key], np.int64) for key in ("enroll", "test", "rank"))
    target, n_ranks = np.array(counts["target"], bool), int(rank.max()) + 1
    pairs, of_pair = np.unique(enroll * len(counts["block"]) + test, return_inverse=True)
    one, other = np.divmod(pairs, len(counts["block"]))
    within = one == other

    def counter(kind: NDArray[np.bool_]) -> Callable[[Ints], Ints]:
        # In the order of the ranks, so that those at a rank or below are a sum from the start.
        chosen = np.flatnonzero(kind)[np.argsort(rank[kind])]
        pair, ends = of_pair[chosen], np.searchsorted(rank[chosen], np.arange(n_ranks), side="right")

        def below(times: Ints) -> Ints:
            """(resample, rank) trials of this kind at this rank or below."""
            sums = np.zeros((len(times), len(pair) + 1), np.int64)
            np.cumsum(times.take(pair, axis=1), axis=1, out=sums[:, 1:])
            return sums.take(ends, axis=1)

        return below

    below_targets, below_others = counter(target), counter(~target)

    def values(weights: Ints) -> Floats:
        times = weights[:, one] * np.where(within, 1, weights[:, other])  # of a trial of each pair of blocks
        missed, rejected = below_targets(times), below_others(times)
        both = (missed[:, -1] > 0) & (rejected[:, -1] > 0)
        if both.all():
            return many(missed, rejected)
        found = np.full(len(weights), np.nan)
        found[both] = many(missed[both], rejected[both])
        return found

    at_once = max(1, TRIALS_AT_ONCE // len(rank))
    return lambda weights: np.concatenate([values(weights[i : i + at_once]) for i in range(0, len(weights), at_once)])


def _one_by_one(measure: TrialMetric, missed: Ints, rejected: Ints) -> Floats:
    at_rank = (np.diff(sums, axis=1, prepend=0) for sums in (missed, rejected))
    return np.array([measure(targets, others) for targets, others in zip(*at_rank, strict=True)], np.float64)
