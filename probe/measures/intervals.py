"""Confidence intervals of a value from its variance, its degrees of freedom and its number of
units.

Each function takes a value v, the variance V due to blocks and seeds, the degrees of freedom of V,
and n, the independent units that v would rest on if blocks did not differ (utterances, words), or
None where no such number exists. V is taken to be at least the variance of n independent units,
since blocks cannot be more alike than these except by chance. Quantiles are Student's.
``docs/statistics.md`` reports the coverage.

Returns: the two ends, or None where V says nothing (0, without units).
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy.special import betaincinv, expit, gammaincinv, logit, ndtri, stdtrit

from probe.errors import ProbeError

CONFIDENCE = 0.95
Ends = tuple[float, float] | None
Scale = Literal["share", "rate", "logit", "fisher", "plain", "none"]


def student_quantile(freedom: float, confidence: float) -> float:
    """The quantile of Student's distribution for a two-sided interval.

    Raises:
        ProbeError: ``confidence`` is not a fraction between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ProbeError(
            f"confidence {confidence}: expected a fraction between 0 and 1, such as 0.95."
        )
    at, of_normal = (1 + confidence) / 2, freedom == np.inf
    return float(ndtri(at) if of_normal else stdtrit(freedom, at))


def share_interval(
    v: float, variance: float, freedom: float, n: float | None, confidence: float = CONFIDENCE
) -> Ends:
    """The interval of a share: Clopper and Pearson's with the effective number of units.

    Source: Korn & Graubard 1998, "Confidence intervals for proportions with small expected number
    of positive counts estimated from survey data", Survey Methodology 24; the same as
    ``svyciprop(method="beta")`` of R's package survey.
    """
    n_effective = _effective_units(v, v * (1 - v), variance, freedom, n, confidence)
    if n_effective is None:
        return None
    hits, tail = v * n_effective, (1 - confidence) / 2
    misses = n_effective - hits
    low = betaincinv(hits, misses + 1, tail) if hits > 0 else 0.0
    high = betaincinv(hits + 1, misses, 1 - tail) if misses > 0 else 1.0
    return float(low), float(high)


def rate_interval(
    v: float, variance: float, freedom: float, n: float | None, confidence: float = CONFIDENCE
) -> Ends:
    """The interval of a rate or an amount >= 0 without an upper bound: the exact interval of a
    Poisson rate (Garwood 1936, Biometrika 28) with the effective number of units.

    Source: Fay & Feuer 1997, "Confidence intervals for directly standardized rates: a method based
    on the gamma distribution", Statistics in Medicine 16. The noise of a unit is taken as that of a
    word that is right or wrong, v (1 - v), and 1/4 above a half, since most errors of a word error
    rate are substitutions and deletions.
    """
    if n is not None and v > 0:
        n *= v / (v * (1 - v) if v < 0.5 else 0.25)
    n_effective = _effective_units(v, v, variance, freedom, n, confidence)
    if n_effective is None:
        return None
    events, tail = v * n_effective, (1 - confidence) / 2
    low = gammaincinv(events, tail) / n_effective if events > 0 else 0.0
    return float(low), float(gammaincinv(events + 1, 1 - tail) / n_effective)


def _effective_units(
    v: float,
    variance_of_unit: float,
    variance: float,
    freedom: float,
    n: float | None,
    confidence: float,
) -> float | None:
    """The number of independent units with this variance, n at most, times (z / t)^2 (Dean & Pagano
    2015, Journal of Survey Statistics and Methodology 3).
    """
    known = [] if n is None else [n]
    if variance > 0 and variance_of_unit > 0:
        known.append(variance_of_unit / variance)
    if not known:
        return None
    z = float(ndtri((1 + confidence) / 2))
    return min(known) * (z / student_quantile(freedom, confidence)) ** 2


def logit_interval(
    v: float, variance: float, freedom: float, n: float | None, confidence: float = CONFIDENCE
) -> Ends:
    """The symmetric interval on the logit scale; that of `share_interval` for 0 and 1."""
    spread = v * (1 - v)
    if not spread:
        return share_interval(v, variance, freedom, n, confidence)
    variance = max(variance, spread / n) if n else variance
    half = student_quantile(freedom, confidence) * np.sqrt(variance) / spread
    low, high = expit(logit(v) + np.array([-half, half])).tolist()
    return (low, high) if half else None


def fisher_interval(
    v: float, variance: float, freedom: float, n: float | None, confidence: float = CONFIDENCE
) -> Ends:
    """The symmetric interval of a correlation on Fisher's scale z = artanh v."""
    spread = 1 - v * v
    if spread <= 0:
        return None
    half = student_quantile(freedom, confidence) * np.sqrt(variance) / spread
    low, high = np.tanh(np.arctanh(v) + np.array([-half, half])).tolist()
    return (low, high) if half else None


def plain_interval(
    v: float, variance: float, freedom: float, n: float | None, confidence: float = CONFIDENCE
) -> Ends:
    """v +- t * se."""
    half = student_quantile(freedom, confidence) * float(np.sqrt(variance))
    return (v - half, v + half) if half else None


def least_error(difference: float, n: float | None) -> float:
    """The smallest standard error of a difference d of shares of n units.

    It is sqrt(p (1 - p) / (n + 4)) with p = (|d| n + 2) / (n + 4), as if all differing units
    differed in one direction, with two more units of each kind (Agresti & Coull 1998). It is
    therefore not 0 if nothing or everything differs.
    """
    if not n:
        return 0.0
    share = (min(abs(difference), 1.0) * n + 2) / (n + 4)
    return float(np.sqrt(share * (1 - share) / (n + 4)))


def no_interval(
    v: float, variance: float, freedom: float, n: float | None, confidence: float = CONFIDENCE
) -> Ends:
    """None, for values whose interval is known not to hold."""
    return None


INTERVALS: dict[Scale, Callable[..., Ends]] = {
    "share": share_interval,
    "rate": rate_interval,
    "logit": logit_interval,
    "fisher": fisher_interval,
    "plain": plain_interval,
    "none": no_interval,
}
