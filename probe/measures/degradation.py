"""Robustness: the loss of a score under other conditions, and the part of a gap that another model
recovers, each with an interval.

Conventions: what each block contributes to scores of the same blocks is added and subtracted
(`probe.measures.uncertainty`), so ``clean - disturbed`` is a paired difference, in which common
effects of a speaker cancel. Sums and differences of scores have the interval value +- t * se of
that module; ratios have Fieller's (1954): all r for which ``top - r * bottom`` is not significantly
different from 0. A ratio whose
``bottom`` is not significantly different from 0 is undefined: nearly any value would be compatible
with the scores. ``docs/robustness.md`` reports the coverage of the intervals.

Sources: Shah et al., Speech Robust Bench, arXiv 2403.07937 (WERD, NWER, NWERD, WERV); Taori et al.
2020, arXiv 2007.00644 (effective robustness). The gap recovered is our own definition.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, expit, logit

from probe.measures.intervals import CONFIDENCE, student_quantile
from probe.measures.uncertainty import Estimate, MeasuredScore

Floats = NDArray[np.float64]

FEWEST_MODELS = 5  # smallest number of models for a fitted line


def ratio(top: MeasuredScore, bottom: MeasuredScore) -> Estimate:
    """Return ``top / bottom`` with Fieller's interval.

    r is in the interval if (top - r bottom)^2 <= tt - 2 r tb + r^2 bb, with t^2 times the variances
    and the covariance on the right: between the roots of a r^2 - 2 b r + c. The ratio is undefined
    if 0 lies in the interval of ``bottom``, and has no ends if there are too few blocks.
    """
    both = top + bottom
    if math.isnan(both.variance):
        if not bottom.value:
            return Estimate(None, note="division by 0")
        return Estimate(top.value / bottom.value)
    t2 = both.quantile() ** 2
    tt, bb = (t2 * replace(score, scale="plain").variance for score in (top, bottom))
    tb = t2 * top.covariance_with(bottom)
    a, b, c = bottom.value**2 - bb, top.value * bottom.value - tb, top.value**2 - tt
    if a <= 0:
        return Estimate(None, note="what it is divided by lies within its noise")
    root = float(np.sqrt(max(0.0, b * b - a * c)))
    return Estimate(top.value / bottom.value, float((b - root) / a), float((b + root) / a))


def degradation(
    clean: MeasuredScore, disturbed: MeasuredScore, higher_is_better: bool
) -> MeasuredScore:
    """Return the loss of a score, positive if it is worse under the condition, in the unit of the
    metric (a fraction).
    """
    return clean - disturbed if higher_is_better else disturbed - clean


def relative_degradation(
    clean: MeasuredScore, disturbed: MeasuredScore, higher_is_better: bool
) -> Estimate:
    """Return the degradation relative to the clean score: 0.5 halves an accuracy, 1.0 doubles an
    error rate.
    """
    return ratio(degradation(clean, disturbed, higher_is_better), clean)


def margin_lost(
    loss: MeasuredScore, clean: MeasuredScore, chance: MeasuredScore | float, higher_is_better: bool
) -> Estimate:
    """Return the degradation relative to the clean score's margin over chance: 0 keeps the margin,
    1 loses all of it.

    It is undefined at chance, where there is nothing to lose, and therefore distinguishes an
    invariant layer from an uninformative one.
    """
    return ratio(loss, clean - chance if higher_is_better else -clean + chance)


def normalised_error(
    model: MeasuredScore, baseline: MeasuredScore, higher_is_better: bool
) -> Estimate:
    """Return Speech Robust Bench's NWER as in its paper: the error divided by the error of a
    baseline model on the same utterances and condition; the error of an accuracy is 1 - accuracy.

    The authors' code instead divides by a difficulty of the condition from DNSMOS and PESQ of its
    audio; this function does not.
    """
    if higher_is_better:
        return ratio(-model + 1, -baseline + 1)
    return ratio(model, baseline)


def normalised_degradation(loss: MeasuredScore, baseline_loss: MeasuredScore) -> Estimate:
    """Return NWERD, which is WERD / WERD of the baseline; it is undefined unless the baseline's own
    degradation is significantly above 0.
    """
    if baseline_loss.value <= 0:
        return Estimate(None, note="the baseline loses nothing")
    return ratio(loss, baseline_loss).at_least(0)


def variance(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Return WERV, the sample variance (divided by K - 1) of an error rate over K samplings of
    condition and training.

    The interval assumes normal values (chi squared with K - 1 degrees of freedom). WERV is
    undefined for one sampling.
    """
    n = len(values)
    if n < 2:
        return Estimate(None, note="one sampling: a variance needs two or more seeds")
    value = float(np.var(values, ddof=1))
    if not value:
        note = "all samplings are equal, so nothing tells how far off the variance is"
        return Estimate(value, note=note)
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = ((n - 1) * value / chdtri(n - 1, tails)).tolist()
    return Estimate(value, low, high)


def gap_recovered(
    a: MeasuredScore, b: MeasuredScore, c: MeasuredScore, higher_is_better: bool
) -> Estimate:
    """Return (A - B) / (A - C), the part of the gap between out-of-domain and in-domain training
    that another model recovers. This definition is our own.

    All scores are on the test rows of the target domain. Values below 0 (worse than A) and above 1
    (better than C) are possible. The result is undefined unless C is significantly better than A.

    Args:
        a: the first model, trained on the other domain.
        b: the second model, trained on the other domain.
        c: the first or the second model (there are two versions of this measure), trained on the
            target domain.
    """
    gap = degradation(c, a, higher_is_better)
    estimate = gap.estimate()
    if estimate.low is None:
        return Estimate(None, note="too few blocks to tell whether there is a gap")
    if estimate.low > 0:
        return ratio(degradation(b, a, higher_is_better), gap)
    if estimate.beyond_noise:
        return Estimate(None, note="no gap to recover: in-domain training is the worse")
    return Estimate(None, note="no gap to recover: it lies within its noise")


def effective_robustness(
    points: Mapping[str, tuple[float, float]], confidence: float = CONFIDENCE
) -> dict[str, Estimate]:
    """Return for each model how far its disturbed score lies above the prediction from its clean
    score, as a fraction; above 0 is better.

    The prediction is a straight line over the other models on logit axes (each model is left out of
    its own line), and the interval is that of a least-squares prediction: an interval without 0
    means that the model deviates from the line by more than the scatter of the others.

    Args:
        points: (clean, disturbed) of each model, as accuracies or 1 - error.

    Returns:
        One estimate per model; undefined with fewer than `FEWEST_MODELS` scores strictly between 0
        and 1.
    """
    usable = {
        name: logit(np.array(point))
        for name, point in points.items()
        if all(0 < value < 1 for value in point)
    }
    if len(usable) < FEWEST_MODELS:
        note = f"{len(usable)} models with scores between 0 and 1; a line needs {FEWEST_MODELS}"
        return {name: Estimate(None, note=note) for name in points}
    estimates = {}
    for name in points:
        others = np.array([point for other, point in usable.items() if other != name])
        if name not in usable:
            note = "a score of 0 or 1 has no place on a logit axis"
            estimates[name] = Estimate(None, note=note)
        elif np.ptp(others[:, 0]) == 0:
            note = "the other models' clean scores are all equal: no line"
            estimates[name] = Estimate(None, note=note)
        else:
            estimates[name] = _above_line(others, usable[name][0], points[name][1], confidence)
    return estimates


def _above_line(others: Floats, x: float, disturbed: float, confidence: float) -> Estimate:
    """Return the distance of a score from the line through ``others``, (model, 2) on logit axes."""
    n, (mean_x, mean_y) = len(others), others.mean(axis=0)
    from_x, from_y = (others - [mean_x, mean_y]).T
    slope = from_x @ from_y / (from_x @ from_x)
    predicted = mean_y + slope * (x - mean_x)
    scatter = np.square(from_y - slope * from_x).sum() / (n - 2)
    se = np.sqrt(scatter * (1 + 1 / n + (x - mean_x) ** 2 / (from_x @ from_x)))
    half = student_quantile(n - 2, confidence) * se
    value, low, high = (disturbed - expit(predicted + np.array([0, half, -half]))).tolist()
    return Estimate(value, low, high)
