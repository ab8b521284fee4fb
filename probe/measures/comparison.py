"""Comparisons of scores of the same utterances: differences, their p-values, and which scores are
tied with the best.

Aim: decide whether two models, layers or conditions differ significantly, and which of several are
not significantly worse than the best.

Conventions: all comparisons are paired. Blocks (speakers) are resampled for both scores together,
so effects of a speaker on both scores cancel; so do effects of a seed. A difference has the
interval difference +- t * se, with the se and E - 1 degrees of freedom of
`probe.measures.uncertainty`, and the two-sided p-value of t = difference / se: below 0.05 where 0
lies outside the 95 % interval.

Sources: Bisani & Ney 2004 (probability of improvement); Holm 1979, "A simple sequentially rejective
multiple test procedure".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from probe.brief import brief, counted, figure
from probe.measures.bootstrap import CONFIDENCE, N_RESAMPLES, resamples, student_quantiles
from probe.measures.counts import Counts, check_same_utterances, highest_value
from probe.measures.metrics import EER, metric_of
from probe.measures.uncertainty import MeasuredScores, measure

Floats = NDArray[np.float64]

ROUNDING = 1e-12
# Largest probability that a comparison without any difference calls something better or worse.
LEVEL = 0.05


@dataclass(frozen=True)
class Paired:
    """The difference between two scores of the same utterances.

    Attributes:
        difference: a - b.
        low, high: interval of the difference; None if there are too few blocks (see
            `probe.measures.uncertainty.interval`). If it contains 0, the difference is not
            significant.
        probability: probability of improvement, the share of resamples with a > b, where ties count
            half; None without an interval. Like percentiles, it is overconfident with few blocks:
            decide by the interval or by ``p``.
        p: two-sided p-value of no difference; None without an interval.
        n_blocks: number of resampled blocks.
    """

    difference: float
    low: float | None
    high: float | None
    probability: float | None
    p: float | None
    n_blocks: int

    def __repr__(self) -> str:
        ends = "no interval" if self.low is None else f"[{figure(self.low)}, {figure(self.high)}]"
        p = "" if self.p is None else f"p = {figure(self.p)}"
        return brief(self, f"{figure(self.difference)} {ends}", p, counted(self.n_blocks, "block"))


def paired_difference(
    a: Counts,
    b: Counts,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
    metric: str = EER.name,
) -> Paired:
    """Return the difference a - b with its interval, p-value and probability of improvement, with
    both scores on the same resampled blocks.

    Common effects on both scores (difficult speakers) cancel, so this detects differences that two
    overlapping intervals hide. Whether higher is better depends on the metric. The interval never
    has a width of 0: see `probe.measures.bootstrap.least_error`.

    Args:
        a, b: counts of the same utterances or the same list of trials.
        seed, n_resamples, confidence, metric: see `probe.measures.uncertainty.interval`.

    Raises:
        ProbeError: the counts are not of the same utterances (other blocks, other denominators,
            other trials, another form), or as `probe.measures.uncertainty.interval`.
    """
    check_same_utterances(a, b)
    differences = measure([a, b], seed, n_resamples, metric).differences_from(1)
    difference, n_blocks = float(differences.values[0]), len(a["block"])
    errors, freedom = differences.errors()
    half = float((student_quantiles(freedom, confidence) * errors)[0])
    p = float(p_values(differences)[0])
    if np.isnan(half) or np.isnan(p):
        return Paired(difference, None, None, None, None, n_blocks)
    resampled = np.subtract(*(resamples(counts, seed, n_resamples, metric) for counts in (a, b)))
    valid = resampled[np.isfinite(resampled)]
    probability = float(np.mean(valid > 0) + np.mean(valid == 0) / 2)
    lowest = metric_of(metric).lowest
    low = max(lowest - highest_value(b), difference - half)
    high = min(highest_value(a) - lowest, difference + half)
    return Paired(difference, low, high, probability, p, n_blocks)


def p_values(differences: MeasuredScores) -> Floats:
    """Return (score,) two-sided p-values of no difference, 1 if two scores agree in every block.

    They are NaN if there are too few blocks, or if costs or amounts differ by the same value in
    every block, which leaves no variation for an error.
    """
    errors, freedom = differences.errors()
    sizes = np.abs(differences.values)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stdtr(freedom, -np.abs(differences.values / errors))
    p = np.where(errors > ROUNDING, p, np.where(sizes <= ROUNDING, 1.0, np.nan))
    return np.where(np.isnan(errors), np.nan, p)


def holm(p: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values in the order of ``p``: those at or below a level are jointly
    significant at that level.
    """
    return _step_down(np.asarray(p, float), [len(p) - step for step in range(len(p))])


def best_and_tied(
    counts: Sequence[Counts],
    higher_is_better: bool,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
    metric: str = EER.name,
) -> tuple[int, list[bool]]:
    """Apply `tied_with_best` to the counts of several scores of the same utterances.

    Args:
        seed, n_resamples, metric: see `probe.measures.uncertainty.interval`.

    Raises:
        ProbeError: scores of other utterances, or as `probe.measures.uncertainty.interval`.
    """
    for other in counts[1:]:
        check_same_utterances(counts[0], other)
    return tied_with_best(measure(counts, seed, n_resamples, metric), higher_is_better)


def tied_with_best(
    scores: MeasuredScores, higher_is_better: bool, level: float = LEVEL
) -> tuple[int, list[bool]]:
    """Return the position of the best of several scores, and for each score whether it is tied with
    the best, that is, not significantly worse. The best is tied with itself.

    Each other score is compared with the best, and p-values are adjusted step by step as Holm's,
    but by m (m + 1) / 2 instead of m where m comparisons are left: the best was chosen from the
    data, so any two of the m + 1 scores that are left might have been compared. With Holm's own
    factors and more than two scores, an equally good score is called worse more often than
    ``level``. If there are too few blocks, all scores are tied.
    """
    best = int(np.argmax(scores.values if higher_is_better else -scores.values))
    p = np.delete(p_values(scores.differences_from(best)), best)
    factors = [m * (m + 1) / 2 for m in range(len(p), 0, -1)]
    adjusted = _step_down(np.where(np.isnan(p), 1.0, p), factors)
    adjusted.insert(best, 1.0)
    return best, [value > level for value in adjusted]


def _step_down(p: Floats, factors: Sequence[float]) -> list[float]:
    """Return the p-values, from the smallest up, times the factors; none is below the previous one
    or above 1.
    """
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.asarray(factors, float)))
    return adjusted.tolist()
