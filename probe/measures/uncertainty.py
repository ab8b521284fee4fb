"""Intervals from blocks.

Aim: how far a value would move with other speakers, and with another training where there are
several.

Source: bootstrap for WER, paired by resampling the same utterances for both systems: Bisani & Ney
2004, "Bootstrap estimates for confidence intervals in ASR performance evaluation". Blocks instead
of utterances, since utterances of one speaker correlate: Liu et al. 2019, arXiv 1912.09508.

Conventions: B blocks are drawn with replacement B times, so that each has a weight 0, 1, 2 ... (a
resample). A ratio's sums are weighted by it. A trial counts weight[enroll] * weight[test] times, as
if each draw of a speaker were a new one; where both ends are the same block it counts weight[block]
times, for a draw brings each trial within the block once. Random numbers come from the seed and the
number of blocks alone, so equal counts and seed give equal bits, and scores of the same blocks
share their resamples. Resamples without a value (no target drawn, denominators 0) are left out.

The squared standard error se^2 of a ratio is E / (E - 1) times the sum of the squares of what
blocks contribute, (n - v d) / (sum of d) with a block's numerator n and denominator d; E = (sum of
d)^2 / (sum of d^2) is the number of blocks of equal size that would weigh as much. Of trials it is
E / (E - 1) times the variance of the resampled values, with E by the trial ends of each speaker, of
targets or of non-targets, whichever is less. Resampling both ends of a trial counts three times
what is of a pair of speakers alone (Owen 2007, "The pigeonhole bootstrap"); so of an EER twice P,
the sum of the squares of what pairs contribute (`_of_pairs`), is taken off, and P is left at least.
The factor is then E / (E - 3): trials of one speaker lose 1 / E of their variance and those of two
4 / E, for the mean that contributions are taken from is of the same two speakers.

The interval of a share (accuracy, WER, EER) or an amount holds every p that a test would not
reject, given how much scores vary where p is the truth (a score interval, as Wilson's of 1927):

    (v - p)^2 <= t^2 * (s(p) / n + between * s(p)^2),    s(p) = p * (1 - p), or p where v can exceed 1

The first term is the noise of n independent units: words, utterances, 4 / (1 / targets + 1 /
non-targets) trials of an EER (its variance where the two densities are equal at the threshold),
none of amounts. The second is what blocks differ in, in proportion to s(p): the harder a test, the
further are speakers apart. ``between`` makes both add up to se^2 at p = v, and is not below 0. So
no share has a width of 0: 36 of 36 correct by 36 speakers gives 89.7 to 100 %. Blocks cannot differ
by more than all or nothing: of a share the right side is no more than that of E units, t^2 * s(p) /
E with E - 1 degrees of freedom. Where v can exceed 1 the upper end is v * exp(1.2 * t * se / v) at
most. A detection cost has v +- t * se, clipped to 0 .. 1.

t is the quantile of Student's distribution with the degrees of freedom of se as an estimate: E - 1,
and of a ratio fewer where few blocks bring most of the variance, 2 B / (mean(I^2) + 2 / (B - 1))
with, of each block's contribution x,

    I = x^2 / mean(x^2) - 1 - noise * s'(v) / s(v) * x * B / (sum of denominators),    noise = s(v) / n / se^2, or 1 if that is less

what it moves log(se^2) by beyond what the noise of units does through v. Without the last term
(amounts) this is O'Neill 2014, "Some useful moment results in sampling problems", The American
Statistician 68; with it one success among many failures, which cannot but bring all of the
variance, costs nothing.

A score of several seeds (`probe.measures.counts.several`) is the mean over them. Its variance is
se^2, of that mean over blocks, plus s^2 / S, with s the standard deviation over S seeds, which does
not depend on p. Of the two quantiles, with the degrees of freedom of se and with S - 1, the mean
weighted by the two variances is taken (Cochran & Cox 1957, "Experimental Designs"): two seeds that
agree by chance then do not pass for many.

``docs/statistics.md`` says how often all this held the truth.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import ndtri, stdtridf, stdtrit

from probe.errors import ProbeError
from probe.measures.counts import Counts, TrialMetric, is_trials, per_seed, trial_metric, value_of
from probe.measures.detection import MANY
from probe.measures.metrics import EER, EER_HULL

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

TOO_FEW_BLOCKS = 3  # of equal size; so many, or fewer, have no interval (docs/statistics.md)
FEW_BLOCKS = 20  # below it a table warns
CONFIDENCE = 0.95
MOST_ON_LOGS = 1.2  # t * se / v: the most that an upper end without a bound is above the value, on the scale of logarithms
CELLS_AT_ONCE = (
    1 << 22
)  # of (resample, block); bounds the memory to some 100 MB when every utterance is a block
TRIALS_AT_ONCE = (
    1 << 15
)  # of (resample, trial): small arrays stay in a cache and use their memory again
# A score that rests on one block (the only one with targets, say) has no value in 25 to 50 % of its
# resamples, one that rests on two blocks in 14 % at most; the rest of the resamples would all hold
# that block and understate the variation.
MOST_LEFT_OUT = 0.2
LOST_OF_PAIRS = 3  # of E blocks, of trials whose two speakers are both drawn
EDGE = 1e-9  # from 0 and 1, where nothing varies and every value would be rejected
MEANS = ("values", "shares", "resampled", "freedom")  # over seeds


@dataclass(frozen=True)
class Scores:
    """Scores of the same utterances, or their differences, and what their uncertainty derives from.

    Attributes:
        values: (score,)
        shares: (score, block) by how much each block moves a ratio; of EERs (score, pair), see
            `_of_pairs`; (score, 0) of costs.
        resampled: (resample, score) of trials, NaN where a resample has no value; (0, score) of
            ratios.
        freedom: (score,) degrees of freedom of the blocks' standard error.
        of_seeds: (seed, score) the value of each training.
        n_blocks: of equal size that would weigh as much, see `effective_blocks`.
        units: of differences, see `units_of`; None of scores, which have their own floor.
    """

    values: Floats
    shares: Floats
    resampled: Floats
    freedom: Floats
    of_seeds: Floats
    n_blocks: float
    units: float | None = None

    def less(self, index: int, units: float | None = None) -> "Scores":
        """The differences of all scores from one of them, paired by resample, block and seed;
        ``units`` as in `least_error`.
        """
        return Scores(
            self.values - self.values[index],
            self.shares - self.shares[[index]],
            self.resampled - self.resampled[:, [index]],
            np.full_like(self.freedom, max(self.n_blocks - 1, 0.0)),
            self.of_seeds - self.of_seeds[:, [index]],
            self.n_blocks,
            units,
        )

    def errors(self) -> tuple[Floats, Floats]:
        """Standard errors and their degrees of freedom, (score,) each; an error is NaN where blocks
        are too few to tell.
        """
        of_blocks, of_seeds = self.components()
        if len(self.of_seeds) == 1:
            return np.sqrt(of_blocks), self.freedom
        at = (1 + CONFIDENCE) / 2
        both, quantiles = (
            of_blocks + of_seeds,
            (stdtrit(self.freedom, at), stdtrit(len(self.of_seeds) - 1, at)),
        )
        mean = np.divide(
            of_blocks * quantiles[0] + of_seeds * quantiles[1],
            both,
            out=quantiles[0],
            where=both > 0,
        )
        return np.sqrt(both), stdtridf(at, mean)

    def components(self) -> tuple[Floats, Floats]:
        """What blocks and what seeds make the values vary by, (score,) each; NaN where blocks are
        too few to tell.
        """
        squares, lost = np.square(self.shares).sum(axis=1), 1
        if len(self.resampled):
            lost = LOST_OF_PAIRS if self.shares.size else 1
            squares = np.maximum(variances(self.resampled, self.n_blocks) - 2 * squares, squares)
        if self.n_blocks <= TOO_FEW_BLOCKS:
            squares = np.full_like(squares, np.nan)
        least = np.square([least_error(value, self.units) for value in self.values])
        of_blocks = np.maximum(
            squares * self.n_blocks / max(self.n_blocks - lost, 1), least
        )  # NaN stays
        n_seeds = len(self.of_seeds)
        return of_blocks, np.var(
            self.of_seeds, axis=0, ddof=1
        ) / n_seeds if n_seeds > 1 else np.zeros_like(of_blocks)


def sampled(
    counts: Sequence[Counts], seed: int = 0, n_resamples: int = 1000, metric: str = EER.name
) -> Scores:
    """Scores of the same utterances, and their values in the same resamples where they are of
    trials.

    Args:
        counts: see `probe.records` and `probe.measures.counts.several`; of the same utterances
            (`probe.measures.counts.check_same_utterances`).
        seed, n_resamples, metric: see `interval`.

    Raises:
        ProbeError: counts without a value.
    """
    parts = [
        _of_one_seed(part, seed, n_resamples, metric)
        for part in zip(*map(per_seed, counts), strict=True)
    ]
    means = {name: np.mean([getattr(part, name) for part in parts], axis=0) for name in MEANS}
    return replace(parts[0], **means, of_seeds=np.concatenate([part.of_seeds for part in parts]))


def _of_one_seed(counts: Sequence[Counts], seed: int, n_resamples: int, metric: str) -> Scores:
    values = np.array([value_of(item, metric) for item in counts])
    n_blocks = effective_blocks(counts[0])
    freedom, resampled = np.full(len(counts), max(n_blocks - 1, 0.0)), np.zeros((0, len(counts)))
    if is_trials(counts[0]):
        resampled = np.stack(
            [resamples(item, seed, n_resamples, metric) for item in counts], axis=1
        )
        shares = (
            np.stack([_of_pairs(item) for item in counts])
            if metric in (EER.name, EER_HULL.name)
            else np.zeros((len(counts), 0))
        )
    else:
        denominator = np.array(counts[0]["denominator"], np.float64)
        numerators = np.array([item["numerator"] for item in counts], np.float64)[
            :, denominator > 0
        ]
        denominator = denominator[denominator > 0]
        shares = (numerators - values[:, None] * denominator) / denominator.sum()
        bends = [
            _bend(*of_score)
            for of_score in zip(counts, values, np.square(shares).sum(axis=1), strict=True)
        ]
        freedom = np.minimum(freedom, _freedom(shares, np.array(bends)))
    return Scores(values, shares, resampled, freedom, values[None], n_blocks)


def _freedom(shares: Floats, bends: Floats) -> Floats:
    """(score,) degrees of freedom of variances of unequal blocks.

    Args:
        shares: (score, block) by how much each block moves the value.
        bends: (score,) see `_bend`.
    """
    n = shares.shape[1]
    squares = np.square(shares)
    second = squares.mean(axis=1, keepdims=True)
    with np.errstate(
        invalid="ignore", divide="ignore"
    ):  # blocks that do not vary leave nothing to lose
        moved = squares / second - 1 - bends[:, None] * n * shares
        found: Floats = np.nan_to_num(
            2 * n / (np.square(moved).mean(axis=1) + 2 / max(n - 1, 1)), nan=np.inf
        )
    return found


def _bend(counts: Counts, value: float, variance: float) -> float:
    """By how much the logarithm of a ratio's variance moves with its value, as far as noise of
    independent units does it.
    """
    units, most = units_of(counts, ""), highest(counts)
    if units is None or not 0 < value < most:
        return 0.0
    spread, slope = (value * (1 - value), 1 - 2 * value) if most == 1 else (value, 1.0)
    return slope / max(spread, units * variance)


def _of_pairs(counts: Counts) -> Floats:
    """By how much the non-target trials of each pair of speakers move the EER: (pair,).

    It is what they move the rate of false acceptances by at the threshold, times the share that
    misses have in the change of the two rates around it, where they differ by no more than the EER:
    1/2 where targets and non-targets are equally dense.
    """
    enroll, test, rank = (np.array(counts[key], np.int64) for key in ("enroll", "test", "rank"))
    target = np.array(counts["target"], bool)
    misses, acceptances = (_above(rank[kind], int(rank.max()) + 1) for kind in (target, ~target))
    misses = 1 - misses
    threshold = int(np.argmin(np.abs(misses - acceptances)))
    near = np.flatnonzero(
        np.abs(misses - acceptances) <= max(misses[threshold], acceptances[threshold])
    )
    changes = [float(np.ptp(rates[near])) for rates in (misses, acceptances)]
    slope = changes[0] / sum(changes) if any(changes) else 0.5
    accepted = (rank > threshold)[~target].astype(float)
    one, other = enroll[~target], test[~target]
    pair = np.unique(
        np.minimum(one, other) * len(counts["block"]) + np.maximum(one, other), return_inverse=True
    )[1]
    moved = np.bincount(pair, slope * (accepted - accepted.mean()) / len(accepted))
    found: Floats = np.where(np.bincount(pair, one != other) > 0, moved, 0)
    return found


def _above(rank: Ints, n_ranks: int) -> Floats:
    """(rank,) the share of trials above each rank."""
    return 1 - np.cumsum(np.bincount(rank, minlength=n_ranks)) / len(rank)


def interval(
    counts: Counts,
    seed: int = 0,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    metric: str = EER.name,
) -> tuple[float, float] | None:
    """The confidence interval of ``value_of(counts, metric)``, or None where blocks are too few to
    tell.

    Too few: `TOO_FEW_BLOCKS` or fewer, counted as `effective_blocks` does, or so few that more than
    a fifth of the resamples has no value (the score rests on one block), or that a cost or an
    amount is the same in all blocks. The ends stay where the value can be: 0 from below; 1 from
    above for a metric of trials, and for a ratio where no block has a numerator above its
    denominator (a WER can exceed 1).

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
    value, units, most = float(found.values[0]), units_of(counts, metric), highest(counts)
    (of_blocks,), (of_seeds,) = found.components()
    quantile = float(_quantiles(found.errors()[1], confidence)[0])
    error = quantile * float(np.sqrt(of_blocks + of_seeds))
    if np.isnan(error) or (error == 0 and units is None):
        return None
    if is_trials(counts) and units is None:
        return max(0.0, value - error), min(1.0, value + error)
    spread = (lambda p: p * (1 - p)) if most == 1 else (lambda p: p)
    noise = 1 / units if units else 0.0
    between = (
        max(0.0, of_blocks - noise * spread(value)) / spread(value) ** 2 if spread(value) else 0.0
    )
    of_units = (
        _quantiles(np.array([found.n_blocks - 1]), confidence)[0] ** 2 / found.n_blocks
        if most == 1
        else np.inf
    )

    def rejected(p: float) -> float:
        """Above 0 where ``p`` is outside."""
        of_p = min(
            quantile**2 * (noise * spread(p) + between * spread(p) ** 2), of_units * spread(p)
        )
        return float((value - p) ** 2 - of_p - quantile**2 * of_seeds)

    def end(outermost: float) -> float:
        inside = min(max(value, EDGE), 1 - EDGE) if most == 1 else value
        return float(outermost if rejected(outermost) <= 0 else brentq(rejected, inside, outermost))

    return end(0.0), end(1.0 if most == 1 else value * np.exp(MOST_ON_LOGS * error / value))


def half_widths(scores: Scores, confidence: float) -> Floats:
    """Half the widths of symmetric intervals, (score,), NaN where blocks are too few.

    Raises:
        ProbeError: ``confidence`` is no fraction between 0 and 1.
    """
    errors, freedom = scores.errors()
    return _quantiles(freedom, confidence) * errors


def half_width(resampled: Floats, n_blocks: float, confidence: float) -> float | None:
    """Half the width of a symmetric interval from (resample,) values, NaN where there is none; None
    where blocks are too few.
    """
    error = np.sqrt(variances(resampled[:, None], n_blocks) * n_blocks / max(n_blocks - 1, 1))
    half = float((_quantiles(np.array([n_blocks - 1]), confidence) * error)[0])
    return None if np.isnan(half) else half


def variances(resampled: Floats, n_blocks: float) -> Floats:
    """(score,) variances of (resample, score) values; NaN where blocks are too few to tell."""
    valid = np.isfinite(resampled)
    enough = valid.sum(axis=0) >= max(2, (1 - MOST_LEFT_OUT) * len(resampled))
    if n_blocks <= TOO_FEW_BLOCKS or not enough.any():
        return np.full(resampled.shape[1], np.nan)
    spread = np.var(resampled, axis=0, ddof=1)
    for column in np.flatnonzero(enough & ~valid.all(axis=0)):
        spread[column] = np.var(resampled[valid[:, column], column], ddof=1)
    return np.where(enough, spread, np.nan)


def effective_blocks(counts: Counts) -> float:
    """The number of blocks of equal size that would weigh as much; of trials by their ends, the
    lesser of targets and others.
    """
    counts = per_seed(counts)[0]
    if not is_trials(counts):
        return _effective(counts["denominator"])
    ends, target = (
        np.array([counts["enroll"], counts["test"]], np.int64),
        np.array(counts["target"], bool),
    )
    return min(_effective(np.bincount(ends[:, kind].ravel())) for kind in (target, ~target))


def _effective(sizes: ArrayLike) -> float:
    weights = np.asarray(sizes, np.float64)
    return float(weights.sum() ** 2 / np.square(weights).sum())


def resamples(
    counts: Counts, seed: int = 0, n_resamples: int = 1000, metric: str = EER.name
) -> Floats:
    """The value in each resample: (resample,) with NaN where there is none.

    For measures made of several scores: scores of the same blocks have the same resamples under one
    seed, so what is computed of their values, resample by resample, keeps what moves them together.
    """
    if "seeds" in counts:
        return np.asarray(
            np.mean(
                [resamples(part, seed, n_resamples, metric) for part in per_seed(counts)], axis=0
            )
        )
    draws = _weights(len(counts["block"]), seed, n_resamples)
    if is_trials(counts):
        take = _trial_values(counts, metric)
    else:
        amounts = [np.array(counts[name], np.float64) for name in ("numerator", "denominator")]
        take = functools.partial(_ratios, amounts[0], amounts[1])
    return np.concatenate([np.empty(0), *map(take, draws)])


def highest(counts: Counts) -> float:
    """The most that a value can be: 1, or no bound where it is an amount or a block has a numerator
    above its denominator.
    """
    if is_trials(counts):
        return 1.0
    pairs = [
        pair
        for part in per_seed(counts)
        for pair in zip(part["numerator"], part["denominator"], strict=True)
    ]
    bounded = all(isinstance(amount, int) and amount <= units for amount, units in pairs)
    return 1.0 if bounded else float("inf")


def wilson_interval(
    numerator: float, denominator: float, confidence: float = 0.95
) -> tuple[float, float]:
    """Wilson's score interval of ``numerator`` successes among ``denominator`` independent units."""
    z = float(ndtri((1 + confidence) / 2))
    value, weight = numerator / denominator, z * z / denominator
    middle = (value + weight / 2) / (1 + weight)
    half = (
        z * np.sqrt(value * (1 - value) / denominator + weight / (4 * denominator)) / (1 + weight)
    )
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def units_of(counts: Counts, metric: str) -> float | None:
    """The independent units that a value rests on at best; None for amounts and costs, which are no
    share of units.
    """
    first = per_seed(counts)[0]
    if not is_trials(counts):
        return (
            sum(first["denominator"])
            if all(isinstance(amount, int) for amount in first["numerator"])
            else None
        )
    n_targets, n = int(np.sum(first["target"])), len(first["target"])
    return 4 * n_targets * (n - n_targets) / n if metric in (EER.name, EER_HULL.name) else None


def least_error(difference: float, units: float | None) -> float:
    """The standard error that a difference of shares of ``units`` has at least: if all that differ
    do so in one direction.

    With two more of each kind (Agresti & Coull 1998), so that it is not 0 where nothing, or
    everything, differs.
    """
    if not units:
        return 0.0
    share = (min(abs(difference), 1.0) * units + 2) / (units + 4)
    return float(np.sqrt(share * (1 - share) / (units + 4)))


def _quantiles(freedom: Floats, confidence: float) -> Floats:
    """Quantiles of Student's distribution for two-sided intervals."""
    if not 0 < confidence < 1:
        raise ProbeError(
            f"confidence {confidence}: expected a fraction between 0 and 1, such as 0.95."
        )
    found: Floats = stdtrit(freedom, (1 + confidence) / 2)
    return found


def _weights(n_blocks: int, seed: int, n_resamples: int) -> Iterable[Ints]:
    """How many times each block is drawn: (resample, block), rows sum to ``n_blocks``, some of the
    resamples at a time.
    """
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


def _ratios(numerator: Floats, denominator: Floats, weights: Ints) -> Floats:
    """(resample,) from (block,) twice and (resample, block); sums of whole numbers are exact in
    float64.
    """
    above, below = (weights.astype(np.float64) @ amounts for amounts in (numerator, denominator))
    return np.divide(above, below, out=np.full(len(weights), np.nan), where=below > 0)


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
        pair, ends = (
            of_pair[chosen],
            np.searchsorted(rank[chosen], np.arange(n_ranks), side="right"),
        )

        def below(times: Ints) -> Ints:
            """(resample, rank) trials of this kind at this rank or below."""
            sums = np.zeros((len(times), len(pair) + 1), np.int64)
            np.cumsum(times.take(pair, axis=1), axis=1, out=sums[:, 1:])
            return sums.take(ends, axis=1)

        return below

    below_targets, below_others = counter(target), counter(~target)

    def values(weights: Ints) -> Floats:
        times = weights[:, one] * np.where(
            within, 1, weights[:, other]
        )  # of a trial of each pair of blocks
        missed, rejected = below_targets(times), below_others(times)
        both = (missed[:, -1] > 0) & (rejected[:, -1] > 0)
        if both.all():
            return many(missed, rejected)
        found = np.full(len(weights), np.nan)
        found[both] = many(missed[both], rejected[both])
        return found

    at_once = max(1, TRIALS_AT_ONCE // len(rank))
    return lambda weights: np.concatenate(
        [values(weights[i : i + at_once]) for i in range(0, len(weights), at_once)]
    )


def _one_by_one(measure: TrialMetric, missed: Ints, rejected: Ints) -> Floats:
    at_rank = (np.diff(sums, axis=1, prepend=0) for sums in (missed, rejected))
    return np.array(
        [measure(targets, others) for targets, others in zip(*at_rank, strict=True)], np.float64
    )
