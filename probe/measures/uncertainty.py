"""How sure a score is: what each block (speaker) contributes to its variance, and the interval that
follows.

Aim: estimate how much a value would change with other speakers and, if there are several trainings,
with another training.

Every score has one vector, by how much each block moves it; the sum of its squares is the variance
due to blocks. Differences, means and ratios of scores of the same utterances are computed from
these vectors, so that what makes a speaker hard for both cancels.

* Ratios of sums (accuracy, WER): the cluster-robust variance CR2 of a mean (Bell & McCaffrey 2002,
  "Bias reduction in standard errors for linear regression with multi-stage samples", Survey
  Methodology 28; Pustejovsky & Tipton 2018, Journal of Business & Economic Statistics 36).
* All else (EER, AUC, correlations, averages over classes and tags): the delete-one-block jackknife,
  in which all trials with an end in a block are left out (Efron & Tibshirani 1993, "An introduction
  to the bootstrap", chapter 11; MacKinnon, Nielsen & Webb 2023, Journal of Econometrics 232).

The degrees of freedom are Satterthwaite's. The intervals are those of `probe.measures.intervals`,
and ``docs/statistics.md`` reports their coverage.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from probe.errors import ProbeError
from probe.measures.block_weights import block_sizes, class_sizes, values_without_each_block
from probe.measures.bootstrap import N_RESAMPLES, percentiles
from probe.measures.counts import (
    Counts,
    form_of,
    independent_units,
    per_seed,
    utterances_of,
    value_of,
)
from probe.measures.intervals import (
    CONFIDENCE,
    INTERVALS,
    Ends,
    Scale,
    least_error,
    student_quantile,
)
from probe.measures.metrics import EER, metric_of

Floats = NDArray[np.float64]
Method = Literal["speakers", "percentile"]

ROUNDING = 1e-12
FEWEST_BLOCKS = 6  # fewer have no interval
FEW_BLOCKS = 20  # tables mark scores with fewer blocks


@dataclass(frozen=True)
class Estimate:
    """A measure with its interval.

    Attributes:
        value: None if it is undefined; ``note`` gives the reason.
        low, high: the interval; None if there is none.
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
class MeasuredScore:
    """A score, or a sum of scores of the same blocks, with the sources of its uncertainty.

    Attributes:
        value: the score, the mean over seeds.
        contributions: (block,) by how much each block moves the value; the sum of squares is the
            variance due to blocks. NaN if it is unknown.
        freedom: degrees of freedom of that variance.
        of_seeds: (seed,) the value of each training.
        utterances: hash of what was scored, in proportion; only scores with equal hashes can be
            added.
        lowest, highest: bounds of the value.
        units: see `probe.measures.counts.independent_units`.
        scale: on which the interval is taken; sums and differences have the plain one.
        pooled: whether scores of the same blocks may belong to different utterances.
    """

    value: float
    contributions: Floats
    freedom: float
    of_seeds: Floats
    utterances: str
    lowest: float = -math.inf
    highest: float = math.inf
    units: float | None = None
    scale: Scale = "plain"
    pooled: bool = False

    def __add__(self, other: "MeasuredScore | float") -> "MeasuredScore":
        if not isinstance(other, MeasuredScore):
            return replace(
                self,
                value=self.value + other,
                of_seeds=self.of_seeds + other,
                lowest=self.lowest + other,
                highest=self.highest + other,
                scale="plain",
            )
        if self.utterances != other.utterances or len(self.of_seeds) != len(other.of_seeds):
            raise ProbeError(
                "the two scores are not of the same utterances: a paired difference needs the same "
                "blocks and denominators, or the same trials, and the same seeds. Run both on one "
                "manifest and trial list, and see what each of them left out."
            )
        return MeasuredScore(
            self.value + other.value,
            self.contributions + other.contributions,
            min(self.freedom, other.freedom),
            self.of_seeds + other.of_seeds,
            self.utterances,
            self.lowest + other.lowest,
            self.highest + other.highest,
            self._units_with(other),
            "plain",
            self.pooled,
        )

    def _units_with(self, other: "MeasuredScore") -> float | None:
        if not (self.units and other.units):
            return None
        if self.pooled:  # variances of other utterances add up
            return 1 / (1 / self.units + 1 / other.units)
        return min(self.units, other.units)

    def __mul__(self, factor: float) -> "MeasuredScore":
        lowest, highest = sorted((self.lowest * factor, self.highest * factor))
        return replace(
            self,
            value=self.value * factor,
            contributions=self.contributions * factor,
            of_seeds=self.of_seeds * factor,
            lowest=lowest,
            highest=highest,
            scale="plain",
        )

    def __neg__(self) -> "MeasuredScore":
        return self * -1

    def __sub__(self, other: "MeasuredScore | float") -> "MeasuredScore":
        return self + (-other)

    @property
    def variance_of_seeds(self) -> float:
        """s^2 / S, with s the standard deviation over S seeds; 0 for one."""
        n_seeds = len(self.of_seeds)
        return float(np.var(self.of_seeds, ddof=1)) / n_seeds if n_seeds > 1 else 0.0

    @property
    def is_constant(self) -> bool:
        """Whether the value is the same whichever blocks and seeds are scored."""
        spread = self.contributions, self.of_seeds - self.value
        return all(bool((np.abs(moves) <= ROUNDING).all()) for moves in spread)

    @property
    def variance_of_blocks(self) -> float:
        """The variance due to blocks, NaN if it is unknown; on the plain scale at least that of
        `probe.measures.intervals.least_error`.
        """
        variance = float(np.square(self.contributions).sum())
        if self.scale != "plain" or math.isnan(variance):
            return variance
        return max(variance, least_error(self.value, self.units) ** 2)

    @property
    def variance(self) -> float:
        """The variance due to blocks and seeds; NaN if it is unknown."""
        return self.variance_of_blocks + self.variance_of_seeds

    def covariance_with(self, other: "MeasuredScore") -> float:
        """The covariance of two scores, due to blocks and seeds."""
        of_blocks = float(self.contributions @ other.contributions)
        n_seeds = len(self.of_seeds)
        if n_seeds == 1:
            return of_blocks
        return of_blocks + float(np.cov(self.of_seeds, other.of_seeds)[0, 1]) / n_seeds

    @property
    def all_freedom(self) -> float:
        """The degrees of freedom of `variance` (Satterthwaite 1946, Biometrics Bulletin 2)."""
        of_blocks, of_seeds = self.variance_of_blocks, self.variance_of_seeds
        if not of_seeds > 0:
            return self.freedom
        return (of_blocks + of_seeds) ** 2 / (
            of_blocks**2 / self.freedom + of_seeds**2 / (len(self.of_seeds) - 1)
        )

    @property
    def error(self) -> float:
        """The standard error."""
        return math.sqrt(self.variance)

    def quantile(self, confidence: float = CONFIDENCE) -> float:
        """Student's quantile for the interval."""
        return student_quantile(self.all_freedom, confidence)

    def ends(self, confidence: float = CONFIDENCE) -> Ends:
        """The interval; None if there is none (see `interval`)."""
        quantile = self.quantile(confidence)
        if math.isnan(self.variance) or math.isnan(quantile):
            return None
        about = (self.value, self.variance, self.all_freedom, self.units, confidence)
        ends = INTERVALS[self.scale](*about)
        return ends and (max(self.lowest, ends[0]), min(self.highest, ends[1]))

    def estimate(self, confidence: float = CONFIDENCE) -> Estimate:
        """The value with its interval, without ends if there is none."""
        return Estimate(self.value, *(self.ends(confidence) or ()))


def measure(
    counts: Counts, metric: str = EER.name, over: Sequence[str] | None = None
) -> MeasuredScore:
    """The score of counts, with what each block contributes to its variance.

    Args:
        counts: see `probe.records` and `probe.measures.counts.several`.
        metric: see `probe.measures.counts.value_of`; it also decides the scale of the interval.
        over: names of blocks, including those of ``counts``, for a comparison of scores of
            different utterances (two domains).

    Raises:
        ProbeError: the counts have no value.
    """
    seeds = per_seed(counts)
    values = np.array([value_of(part, metric) for part in seeds])
    known = metric_of(metric)
    contributions, freedom = _contributions(seeds, metric)
    utterances: object = _weights_of(seeds[0])
    if over is not None:
        place = {name: index for index, name in enumerate(over)}
        of_all = np.zeros(len(over))
        of_all[[place[name] for name in counts["block"]]] = contributions
        contributions, utterances = of_all, tuple(over)
    return MeasuredScore(
        float(values.mean()),
        contributions,
        freedom,
        values,
        hashlib.sha256(repr(utterances).encode()).hexdigest(),
        known.lowest,
        known.highest,
        independent_units(counts, metric),
        known.interval_scale,
        over is not None,
    )


def _weights_of(counts: Counts) -> object:
    """What scores share whose blocks have the same weights; a control whose labels were drawn five
    times counts every utterance five times.
    """
    form = form_of(counts)
    if form not in ("ratio", "classes"):
        return utterances_of(counts)
    sizes = np.asarray(counts["denominator"]) if form == "ratio" else class_sizes(counts)
    whole = sizes.astype(np.int64)
    return tuple(counts["block"]), (whole // max(1, np.gcd.reduce(whole.ravel()))).tobytes()


def _contributions(seeds: Sequence[Counts], metric: str) -> tuple[Floats, float]:
    """(block,) see `MeasuredScore`, the mean over seeds, and the degrees of freedom."""
    form, n_blocks = form_of(seeds[0]), len(seeds[0]["block"])
    sizes = block_sizes(seeds[0])
    n_scored = int(np.sum(sizes > 0))
    if n_scored < FEWEST_BLOCKS or metric_of(metric).interval_scale == "none":
        return np.full(n_blocks, np.nan), np.nan
    if form == "ratio":
        parts = [_corrected_residuals(part) for part in seeds]
    elif form == "influences":
        factor = math.sqrt(n_blocks / (n_blocks - 1))
        parts = [factor * np.array(part["influence"], np.float64) for part in seeds]
    else:
        parts = [_jackknifed(values_without_each_block(part, metric)) for part in seeds]
    if form == "trials":  # both ends of a trial count
        return np.mean(parts, axis=0), n_scored - 1.0
    return np.mean(parts, axis=0), _freedom(sizes)


def _corrected_residuals(counts: Counts) -> Floats:
    """(block,) (k - v n) / N / sqrt(1 - n / N), of a ratio v = sum k / N: the residuals of CR2."""
    numerator, denominator = (
        np.asarray(counts[name], np.float64) for name in ("numerator", "denominator")
    )
    total = denominator.sum()
    weights = denominator / total
    residuals: Floats = (numerator - numerator.sum() * weights) / total / np.sqrt(1 - weights)
    return residuals


def _jackknifed(without: Floats) -> Floats:
    """(block,) the same of another function, from its values without each block."""
    n_blocks = len(without)
    moved: Floats = math.sqrt((n_blocks - 1) / n_blocks) * (without.mean() - without)
    return moved


def _freedom(sizes: ArrayLike) -> float:
    """Bell and McCaffrey's degrees of freedom of a mean over blocks of these sizes; for equal ones
    their number less 1.
    """
    weights = np.asarray(sizes, np.float64) / np.sum(sizes)
    leverages = weights / np.sqrt(1 - weights)
    squares = np.square(weights).sum() + np.square(leverages).sum() ** 2
    return float(1 / (squares - (leverages**4).sum()))


def interval(
    counts: Counts,
    metric: str = EER.name,
    confidence: float = CONFIDENCE,
    method: Method = "speakers",
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Ends:
    """The confidence interval of ``value_of(counts, metric)``, or None.

    There is none with fewer than `FEWEST_BLOCKS` blocks, where the value without some block is
    undefined (all targets are of one speaker), for a detection cost or a codelength, and where an
    amount is the same in all blocks.

    Args:
        counts, metric: see `measure`.
        confidence: a fraction in (0, 1).
        method: ``speakers`` is that of the module; ``percentile`` are percentiles of resampled
            blocks, which are too narrow below about 40 blocks, see `probe.measures.bootstrap`.
        seed, n_resamples: of the percentiles.

    Raises:
        ProbeError: the counts have no value, or ``confidence`` is not in (0, 1).
    """
    student_quantile(1.0, confidence)
    score = measure(counts, metric)
    if method == "speakers":
        return score.ends(confidence)
    if np.isnan(score.contributions).any():
        return None
    return percentiles(counts, metric, confidence, seed, n_resamples)
