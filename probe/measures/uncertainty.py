"""Confidence intervals of scores, from the counts of blocks (speakers).

Aim: estimate how much a value would change with other speakers and, if there are several trainings,
with another training.

The squared standard error of a ratio comes from what each block contributes to it
(`MeasuredScores.variances`), that of another function of sums from the jackknife
(`probe.measures.jackknife`), that of a metric of trials from the bootstrap. Intervals of shares are
score intervals, as Wilson's of 1927 (`interval`); those of concordance and correlations are
symmetric on Fisher's scale z = artanh v. ``docs/statistics.md`` derives the intervals and reports
their coverage.

Conventions: E is the number of blocks of equal size with the same weight
(`probe.measures.bootstrap.effective_blocks`). Equal counts and seed give equal bits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtri, stdtridf

from probe.measures.block_sums import block_sums, sum_metric
from probe.measures.bootstrap import (
    CONFIDENCE,
    N_RESAMPLES,
    TOO_FEW_BLOCKS,
    effective_blocks,
    least_error,
    resamples,
    student_quantiles,
    variances,
)
from probe.measures.counts import (
    Counts,
    form_of,
    highest_value,
    independent_units,
    is_trials,
    per_seed,
    value_of,
)
from probe.measures.jackknife import jackknife
from probe.measures.metrics import EER, metric_of

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

FEW_BLOCKS = 20  # tables mark scores with fewer blocks
# Moments need more blocks, because the variance of second moments is poorly known with few.
FEWEST_OF_MOMENTS = 6
# The most that an upper end without a bound is above the value, as a multiple of t * se / v on the
# scale of logarithms.
MOST_ON_LOGS = 1.2
# Of E blocks, trials of one speaker lose 1 / E of their variance and those of two speakers 4 / E,
# for the mean that contributions are taken from is of the same two speakers: E - 3 lies between.
LOST_OF_PAIRS = 3
# Distance from 0 and 1, where nothing varies and every value would be rejected.
EDGE = 1e-9
MEANS = ("values", "contributions", "resampled", "freedom")  # over seeds


@dataclass(frozen=True)
class MeasuredScores:
    """Scores of the same utterances, or their differences from one of them, with the sources of
    their uncertainty.

    Attributes:
        values: (score,)
        contributions: (score, block) by how much each block moves a ratio or another function of
            sums; of EERs (score, pair), see `_pair_contributions`; (score, 0) of costs. NaN where
            blocks are too few.
        resampled: (resample, score) of trials, NaN where a resample has no value; (0, score) of
            all else.
        freedom: (score,) degrees of freedom of the blocks' standard error.
        of_seeds: (seed, score) the value of each training.
        n_blocks: E, see the module.
        units: see `probe.measures.counts.independent_units`.
        are_differences: whether the values are differences, whose error has the floor of
            `probe.measures.bootstrap.least_error`; scores have one of their own.
    """

    values: Floats
    contributions: Floats
    resampled: Floats
    freedom: Floats
    of_seeds: Floats
    n_blocks: float
    units: float | None
    are_differences: bool = False

    def differences_from(self, index: int) -> "MeasuredScores":
        """Return the differences of all scores from one of them, paired by resample, block and
        seed.
        """
        return replace(
            self,
            values=self.values - self.values[index],
            contributions=self.contributions - self.contributions[[index]],
            resampled=self.resampled - self.resampled[:, [index]],
            freedom=np.full_like(self.freedom, max(self.n_blocks - 1, 0.0)),
            of_seeds=self.of_seeds - self.of_seeds[:, [index]],
            are_differences=True,
        )

    def errors(self) -> tuple[Floats, Floats]:
        """Return standard errors and their degrees of freedom, (score,) each; an error is NaN if
        there are too few blocks.

        Of the quantiles of Student's distribution for blocks and for S - 1 of S seeds, the mean
        weighted by the two variances is taken (Cochran & Cox 1957, "Experimental Designs"): two
        seeds that agree by chance then do not pass for many.
        """
        of_blocks, of_seeds = self.variances()
        if len(self.of_seeds) == 1:
            return np.sqrt(of_blocks), self.freedom
        total = of_blocks + of_seeds
        for_blocks = student_quantiles(self.freedom, CONFIDENCE)
        for_seeds = student_quantiles(len(self.of_seeds) - 1, CONFIDENCE)
        mean = np.divide(
            of_blocks * for_blocks + of_seeds * for_seeds, total, out=for_blocks, where=total > 0
        )
        return np.sqrt(total), stdtridf((1 + CONFIDENCE) / 2, mean)

    def variances(self) -> tuple[Floats, Floats]:
        """Return the variances of the values due to blocks and due to seeds, (score,) each; NaN if
        there are too few blocks.

        Due to blocks: of a ratio v = sum n / sum d over blocks

            E / (E - 1) * sum of ((n - v d) / sum d)^2

        of another function of sums the same of `probe.measures.jackknife.jackknife`, and of trials
        E / (E - 1) times the variance of the resampled values. Resampling both ends of a trial
        counts three times what is of a pair of speakers alone (Owen 2007, "The pigeonhole
        bootstrap"); so of an EER twice P, the sum of the squares of what pairs contribute, is taken
        off, P is left at least, and the factor is E / (E - 3).

        Due to seeds: s^2 / S, with s the standard deviation over S seeds.
        """
        squares, n_lost = np.square(self.contributions).sum(axis=1), 1
        if len(self.resampled):
            n_lost = LOST_OF_PAIRS if self.contributions.size else 1
            squares = np.maximum(variances(self.resampled, self.n_blocks) - 2 * squares, squares)
        if self.n_blocks <= TOO_FEW_BLOCKS:
            squares = np.full_like(squares, np.nan)
        units = self.units if self.are_differences else None
        least = np.square([least_error(value, units) for value in self.values])
        # NaN stays.
        of_blocks = np.maximum(squares * self.n_blocks / max(self.n_blocks - n_lost, 1), least)
        n_seeds = len(self.of_seeds)
        if n_seeds == 1:
            return of_blocks, np.zeros_like(of_blocks)
        return of_blocks, np.var(self.of_seeds, axis=0, ddof=1) / n_seeds


Scale = Callable[[Floats], Floats]


def _plain(values: Floats) -> Floats:
    return values


def _fisher(values: Floats) -> Floats:
    """Fisher's z, finite at -1 and 1 too."""
    z: Floats = np.arctanh(np.clip(values, EDGE - 1, 1 - EDGE))
    return z


def measure(
    counts: Sequence[Counts],
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
    metric: str = EER.name,
    scale: Scale = _plain,
) -> MeasuredScores:
    """Measure scores of the same utterances, and their values in the same resamples if they are
    scores of trials.

    Args:
        counts: see `probe.records` and `probe.measures.counts.several`; of the same utterances
            (`probe.measures.counts.check_same_utterances`).
        seed, n_resamples, metric: see `interval`.
        scale: on which values and contributions are taken, of moments.

    Raises:
        ProbeError: the counts have no value.
    """
    of_seeds = zip(*map(per_seed, counts), strict=True)
    if form_of(counts[0]) == "moments":
        parts = [_measure_moments(part, metric, scale) for part in of_seeds]
    else:
        parts = [_measure_one_seed(part, seed, n_resamples, metric) for part in of_seeds]
    means = {name: np.mean([getattr(part, name) for part in parts], axis=0) for name in MEANS}
    return replace(
        parts[0],
        **means,
        of_seeds=np.concatenate([part.of_seeds for part in parts]),
        units=independent_units(counts[0], metric),
    )


def _measure_one_seed(
    counts: Sequence[Counts], seed: int, n_resamples: int, metric: str
) -> MeasuredScores:
    values = np.array([value_of(item, metric) for item in counts])
    n_blocks = effective_blocks(counts[0])
    freedom, resampled = np.full(len(counts), max(n_blocks - 1, 0.0)), np.zeros((0, len(counts)))
    if not is_trials(counts[0]):
        if form_of(counts[0]) == "ratio":
            contributions = _block_contributions(counts, values)
        elif form_of(counts[0]) == "influences":
            contributions = np.array([item["influence"] for item in counts], np.float64)
        else:
            contributions = _jackknifed(counts, metric, _plain)
        freedom = np.minimum(freedom, _freedom(counts, values, contributions))
    else:
        of_scores = [resamples(item, seed, n_resamples, metric) for item in counts]
        resampled, contributions = np.stack(of_scores, axis=1), np.zeros((len(counts), 0))
        if metric_of(metric).is_eer:
            contributions = np.stack([_pair_contributions(item) for item in counts])
    return MeasuredScores(values, contributions, resampled, freedom, values[None], n_blocks, None)


def _measure_moments(counts: Sequence[Counts], metric: str, scale: Scale) -> MeasuredScores:
    values = scale(np.array([value_of(item, metric) for item in counts]))
    contributions = _jackknifed(counts, metric, scale)
    n_blocks = effective_blocks(counts[0])
    if len(counts[0]["block"]) < FEWEST_OF_MOMENTS:
        contributions = np.full_like(contributions, np.nan)
    freedom, none = np.full(len(counts), n_blocks - 1), np.zeros((0, len(counts)))
    return MeasuredScores(values, contributions, none, freedom, values[None], n_blocks, None)


def _jackknifed(counts: Sequence[Counts], metric: str, scale: Scale) -> Floats:
    """(score, block) see `probe.measures.jackknife.jackknife`."""
    function = sum_metric(counts[0], metric)
    return np.stack(
        [jackknife(block_sums(item), lambda sums: scale(function(sums))) for item in counts]
    )


def _block_contributions(counts: Sequence[Counts], values: Floats) -> Floats:
    """(score, block) (n - v d) / sum d of a ratio v, for blocks with a denominator."""
    denominator = np.array(counts[0]["denominator"], np.float64)
    scored = denominator > 0
    numerators = np.array([item["numerator"] for item in counts], np.float64)[:, scored]
    denominator = denominator[scored]
    contributions: Floats = (numerators - values[:, None] * denominator) / denominator.sum()
    return contributions


def _freedom(counts: Sequence[Counts], values: Floats, contributions: Floats) -> Floats:
    """(score,) degrees of freedom of variances where few blocks bring most of them:
    2 B / (mean(I^2) + 2 / (B - 1)) with, of each block's contribution x,

        I = x^2 / mean(x^2) - 1 - w * s'(v) / s(v) * x * B

    what it moves log(se^2) by beyond what the noise of units does through v (see `_noise_slope`).
    Without the last term (amounts) this is O'Neill 2014, "Some useful moment results in sampling
    problems", The American Statistician 68; with it one success among many failures, which cannot
    but bring all of the variance, costs nothing.
    """
    n = contributions.shape[1]
    squares = np.square(contributions)
    slopes = np.array(
        [
            _noise_slope(*of_score)
            for of_score in zip(counts, values, squares.sum(axis=1), strict=True)
        ]
    )
    # Blocks that do not vary leave nothing to lose.
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_square = squares.mean(axis=1, keepdims=True)
        influence = squares / mean_square - 1 - slopes[:, None] * n * contributions
        freedom: Floats = np.nan_to_num(
            2 * n / (np.square(influence).mean(axis=1) + 2 / max(n - 1, 1)), nan=np.inf
        )
    return freedom


def _noise_slope(counts: Counts, value: float, variance: float) -> float:
    """w * s'(v) / s(v): by how much the logarithm of a ratio's variance moves with its value v, as
    far as the noise of n independent units does it.

    s(p) = p (1 - p), or p where v can exceed 1; w = s(v) / n / variance, 1 at most.
    """
    units, most = independent_units(counts, ""), highest_value(counts)
    if units is None or not 0 < value < most:
        return 0.0
    spread, slope = (value * (1 - value), 1 - 2 * value) if most == 1 else (value, 1.0)
    return slope / max(spread, units * variance)


def _pair_contributions(counts: Counts) -> Floats:
    """By how much the non-target trials of each pair of speakers move the EER: (pair,).

    It is what they move the rate of false acceptances by at the threshold, times the share that
    misses have in the change of the two rates around it, where they differ by no more than the EER:
    1/2 where targets and non-targets are equally dense.
    """
    enroll, test, rank = (np.array(counts[key], np.int64) for key in ("enroll", "test", "rank"))
    target = np.array(counts["target"], bool)
    n_ranks = int(rank.max()) + 1
    misses = 1 - _share_above(rank[target], n_ranks)
    acceptances = _share_above(rank[~target], n_ranks)
    gaps = np.abs(misses - acceptances)
    threshold = int(np.argmin(gaps))
    near = np.flatnonzero(gaps <= max(misses[threshold], acceptances[threshold]))
    changes = [float(np.ptp(rates[near])) for rates in (misses, acceptances)]
    slope = changes[0] / sum(changes) if any(changes) else 0.5
    accepted = (rank > threshold)[~target].astype(float)
    one, other = enroll[~target], test[~target]
    pairs = np.minimum(one, other) * len(counts["block"]) + np.maximum(one, other)
    pair = np.unique(pairs, return_inverse=True)[1]
    moved = np.bincount(pair, slope * (accepted - accepted.mean()) / len(accepted))
    contributions: Floats = np.where(np.bincount(pair, one != other) > 0, moved, 0)
    return contributions


def _share_above(rank: Ints, n_ranks: int) -> Floats:
    """(rank,) the share of trials above each rank."""
    return 1 - np.cumsum(np.bincount(rank, minlength=n_ranks)) / len(rank)


def interval(
    counts: Counts,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
    metric: str = EER.name,
) -> tuple[float, float] | None:
    """Return the confidence interval of ``value_of(counts, metric)``, or None if there are too few
    blocks.

    Too few: `probe.measures.bootstrap.TOO_FEW_BLOCKS` or fewer effective blocks, or so few that
    more than a fifth of the resamples has no value (the score rests on one block), or that a cost
    or an amount is the same in all blocks. The ends stay where the value can be: 0 from below; 1
    from above for a metric of trials, and for a ratio where no block has a numerator above its
    denominator (a WER can exceed 1). A detection cost has v +- t * se, a coefficient of numbers
    that on its scale, all else the score interval of `_ScoreTest`; of influences, whose units have
    no number, with the v (1 - v) / se^2 units of the same variance (Korn & Graubard 1998,
    "Confidence intervals for proportions with small expected number of positive counts").
    Coefficients need
    `FEWEST_OF_MOMENTS` blocks.

    Args:
        counts: see `probe.records`.
        seed: of the resamples.
        n_resamples: number of resamples; 1,000 leave about 2 % of noise in the width.
        confidence: a fraction in (0, 1).
        metric: of trials, see `probe.measures.counts.value_of`.

    Raises:
        ProbeError: the counts have no value, or ``confidence`` is not in (0, 1).
    """
    if form_of(counts) == "moments":
        return _interval_of_moments(counts, metric, confidence)
    score = measure([counts], seed, n_resamples, metric)
    value, units, most = float(score.values[0]), score.units, highest_value(counts)
    (of_blocks,), (of_seeds,) = score.variances()
    quantile = float(student_quantiles(score.errors()[1], confidence)[0])
    error = quantile * float(np.sqrt(of_blocks + of_seeds))
    if np.isnan(error) or (error == 0 and units is None):
        return None
    if is_trials(counts) and units is None:
        return max(0.0, value - error), min(1.0, value + error)
    is_share = most == 1
    of_units = np.inf
    if is_share:
        of_units = student_quantiles(np.array([score.n_blocks - 1]), confidence)[0] ** 2
        of_units /= score.n_blocks
    noise = 1 / units if units else 0.0
    if form_of(counts) == "influences" and 0 < value < 1:
        noise = of_blocks / (value * (1 - value))
    test = _ScoreTest(value, quantile, noise, of_blocks, of_seeds, of_units, is_share)
    highest = 1.0 if is_share else value * np.exp(MOST_ON_LOGS * error / value)
    return test.end(0.0), test.end(highest)


def _interval_of_moments(
    counts: Counts, metric: str, confidence: float
) -> tuple[float, float] | None:
    """v +- t * se, of concordance and correlations on Fisher's scale."""
    bounded = metric_of(metric).lowest == -1
    score = measure([counts], metric=metric, scale=_fisher if bounded else _plain)
    (error,), freedom = score.errors()
    if np.isnan(error) or error == 0:
        return None
    half = float(student_quantiles(freedom, confidence)[0] * error)
    ends = score.values[0] - half, score.values[0] + half
    low, high = (float(np.tanh(end) if bounded else end) for end in ends)
    return low, min(high, 1.0)


@dataclass(frozen=True)
class _ScoreTest:
    """The test whose acceptance region is the interval: it does not reject p if

        (v - p)^2 <= t^2 * (s(p) / n + between * s(p)^2) + t^2 * s^2 / S

    with s(p) = p (1 - p), or p where v can exceed 1. The first term is the noise of n independent
    units, none of amounts. The second is what blocks differ in, in proportion to s(p): the harder a
    test, the further speakers are apart. ``between`` makes both add up to the blocks' variance at p
    = v, and is not below 0, so no share has a width of 0. Blocks cannot differ by more than all or
    nothing: of a share these two terms are no more than those of E units, t^2 * s(p) / E with
    E - 1 degrees of freedom. The third, of S seeds, does not depend on p.

    Attributes:
        value, quantile: v and t.
        noise: 1 / n.
        of_blocks, of_seeds: variances.
        of_units: t^2 / E of a share.
        is_share: whether v cannot exceed 1.
    """

    value: float
    quantile: float
    noise: float
    of_blocks: float
    of_seeds: float
    of_units: float
    is_share: bool

    def spread(self, p: float) -> float:
        """s(p)."""
        return p * (1 - p) if self.is_share else p

    @property
    def between(self) -> float:
        """The variance between blocks beyond the noise of units, as a multiple of s(v)^2."""
        spread = self.spread(self.value)
        return max(0.0, self.of_blocks - self.noise * spread) / spread**2 if spread else 0.0

    def excess(self, p: float) -> float:
        """Return a number that is above 0 if the test rejects ``p``."""
        spread = self.spread(p)
        of_p = min(
            self.quantile**2 * (self.noise * spread + self.between * spread**2),
            self.of_units * spread,
        )
        return float((self.value - p) ** 2 - of_p - self.quantile**2 * self.of_seeds)

    def end(self, outermost: float) -> float:
        """Return the end of the interval between the value and ``outermost``."""
        if self.excess(outermost) <= 0:
            return float(outermost)
        inside = min(max(self.value, EDGE), 1 - EDGE) if self.is_share else self.value
        return float(brentq(self.excess, inside, outermost))


def wilson_interval(
    numerator: float, denominator: float, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return Wilson's score interval for ``numerator`` successes among ``denominator`` units."""
    z = float(ndtri((1 + confidence) / 2))
    value, weight = numerator / denominator, z * z / denominator
    middle = (value + weight / 2) / (1 + weight)
    half = (
        z * np.sqrt(value * (1 - value) / denominator + weight / (4 * denominator)) / (1 + weight)
    )
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))
