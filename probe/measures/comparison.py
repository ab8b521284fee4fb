"""Comparisons of scores of the same utterances: differences and their p-values.

Conventions: all comparisons are paired. What each block (speaker) contributes to both scores is
subtracted (`probe.measures.uncertainty`), so effects of a speaker on both cancel; so do effects of
a seed. A difference d has the interval d +- t * se and the two-sided p-value of t = d / se: below
0.05 where 0 lies outside the 95 % interval.

Source: Holm 1979, "A simple sequentially rejective multiple test procedure", Scandinavian Journal
of Statistics 6.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from probe.brief import brief, counted, figure
from probe.measures.counts import Counts, check_same_utterances
from probe.measures.intervals import CONFIDENCE
from probe.measures.metrics import EER
from probe.measures.uncertainty import MeasuredScore, measure

ROUNDING = 1e-12
# Largest probability that a comparison without any difference calls something better or worse.
LEVEL = 0.05
# How a score stands to what a model without knowledge would score.
ABOVE, AT_CHANCE, UNKNOWN = "", "at chance", "unknown"


@dataclass(frozen=True)
class Paired:
    """The difference between two scores of the same utterances.

    Attributes:
        difference: a - b.
        low, high: interval of the difference; None if there is none (see
            `probe.measures.uncertainty.interval`). If it contains 0, the difference is not
            significant.
        p: two-sided p-value of no difference; None without an interval.
        n_blocks: number of blocks.
    """

    difference: float
    low: float | None
    high: float | None
    p: float | None
    n_blocks: int

    def __repr__(self) -> str:
        ends = "no interval" if self.low is None else f"[{figure(self.low)}, {figure(self.high)}]"
        p = "" if self.p is None else f"p = {figure(self.p)}"
        return brief(self, f"{figure(self.difference)} {ends}", p, counted(self.n_blocks, "block"))


def paired_difference(
    a: Counts, b: Counts, metric: str = EER.name, confidence: float = CONFIDENCE
) -> Paired:
    """Return the difference a - b with its interval and p-value.

    Common effects on both scores (difficult speakers) cancel, so this detects differences that two
    overlapping intervals hide. Whether higher is better depends on the metric. The interval never
    has a width of 0: see `probe.measures.intervals.least_error`.

    Args:
        a, b: counts of the same utterances or the same list of trials.
        metric, confidence: see `probe.measures.uncertainty.interval`.

    Raises:
        ProbeError: the counts are not of the same utterances (other blocks, other denominators,
            other trials, another form), or as `probe.measures.uncertainty.interval`.
    """
    check_same_utterances(a, b)
    difference = measure(a, metric) - measure(b, metric)
    p, n_blocks = p_value(difference), len(a["block"])
    if math.isnan(p):
        return Paired(difference.value, None, None, None, n_blocks)
    low, high = difference.ends(confidence) or (difference.value, difference.value)
    return Paired(difference.value, low, high, p, n_blocks)


def beside_chance(
    score: MeasuredScore | None, chance: MeasuredScore | float | None, higher_is_better: bool
) -> str:
    """Return `ABOVE` if a score is significantly better than chance, else `AT_CHANCE`; `UNKNOWN`
    without a score, without a chance level, or without an interval of a better score.

    Where chance is one number, the score's own interval decides, so that no score is called better
    than a level that its interval holds. A control that varies is compared paired.

    Args:
        chance: a control of the same utterances, or a known level. A control that has the same
            value whichever blocks and seeds are scored, such as the UAR of a majority class, is a
            level.

    Raises:
        ProbeError: the control is of other utterances.
    """
    if score is None or chance is None:
        return UNKNOWN
    sign = 1 if higher_is_better else -1
    above = (score - chance) * sign
    low = above.estimate().low
    if not isinstance(chance, MeasuredScore) or chance.is_constant:
        level = chance.value if isinstance(chance, MeasuredScore) else chance
        low = min((sign * (end - level) for end in score.ends() or ()), default=None)
    if above.value <= 0 or (low is not None and low <= 0):
        return AT_CHANCE
    return UNKNOWN if low is None else ABOVE


def p_value(difference: MeasuredScore) -> float:
    """Return the two-sided p-value of no difference, 1 if two scores agree in every block.

    It is NaN if there is no standard error, or if amounts differ by the same value in every block,
    which leaves no variation for one.
    """
    error, size = difference.error, abs(difference.value)
    if math.isnan(error):
        return math.nan
    if error <= ROUNDING:
        return 1.0 if size <= ROUNDING else math.nan
    return float(2 * stdtr(difference.all_freedom, -size / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values in the order of ``p_values``: those at or below a level are
    jointly significant at that level.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    steps = p[order] * (len(p) - np.arange(len(p)))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted.tolist()
