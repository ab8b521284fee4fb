"""Comparisons of scores of the same utterances: differences, their p-values, and which scores are
tied with the best.

Aim: to say of two models, layers or conditions whether they differ, and of several which are not
significantly worse than the best.

Conventions: all comparisons are paired. Blocks (speakers) are resampled for both scores together,
so what makes a speaker hard for both cancels; so does, by seed, what a seed does to both. A
difference has the interval difference +- t * se, with the se and E - 1 degrees of freedom of
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
# How often at most, of comparisons in which nothing differs, anything is called better or worse.
LEVEL = 0.05


@dataclass(frozen=True)
class Paired:
    """The difference between two scores of the same utterances.

    Attributes:
        difference: a - b.
        low, high: its interval; None where there are too few blocks (see
            `probe.measures.uncertainty.interval`). 0 inside: the difference is not significant.
        probability: of improvement: share of resamples where a > b, ties counted half; None with
            the interval. With few blocks it is too sure of itself, as percentiles are: decide by
            the interval or by ``p``.
        p: two-sided p-value of no difference; None with the interval.
        n_blocks: blocks resampled.
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
    """The difference a - b, its interval, its p-value and how often a > b, both scores taken on the
    same resampled blocks.

    What moves both scores together (hard speakers) cancels, so this shows differences that two
    overlapping intervals hide. Whether higher is better depends on the metric. No difference has a
    width of 0: see `probe.measures.bootstrap.least_error`.

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
    """(score,) two-sided p-values of no difference, 1 where two scores agree in every block.

    NaN where blocks are too few, or where costs or amounts differ by the same in every block:
    nothing is left to take an error from.
    """
    errors, freedom = differences.errors()
    sizes = np.abs(differences.values)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stdtr(freedom, -np.abs(differences.values / errors))
    p = np.where(errors > ROUNDING, p, np.where(sizes <= ROUNDING, 1.0, np.nan))
    return np.where(np.isnan(errors), np.nan, p)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order of ``p``: those at or below a level hold together at
    that level.
    """
    return _step_down(np.asarray(p, float), [len(p) - step for step in range(len(p))])


def best_and_tied(
    counts: Sequence[Counts],
    higher_is_better: bool,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
    metric: str = EER.name,
) -> tuple[int, list[bool]]:
    """`tied_with_best` of counts of the same utterances, one a score.

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
    """The position of the best of several scores, and for each whether it is tied with it, that is
    not significantly worse. The best is tied.

    Each other score is compared with the best, and p-values are adjusted step by step as Holm's,
    but by m (m + 1) / 2 instead of m where m comparisons are left: the best was chosen from the
    data, so any two of the m + 1 scores that are left might have been compared. With Holm's own
    factors an equally good score is called worse more often than ``level`` when there are more than
    two. Where blocks are too few, all scores are tied.
    """
    best = int(np.argmax(scores.values if higher_is_better else -scores.values))
    p = np.delete(p_values(scores.differences_from(best)), best)
    factors = [m * (m + 1) / 2 for m in range(len(p), 0, -1)]
    adjusted = _step_down(np.where(np.isnan(p), 1.0, p), factors)
    adjusted.insert(best, 1.0)
    return best, [value > level for value in adjusted]


def _step_down(p: Floats, factors: Sequence[float]) -> list[float]:
    """The p-values, from the smallest up, times the factors; none below the one before, none above
    1.
    """
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.asarray(factors, float)))
    return adjusted.tolist()
