"""Calibration of verification scores, and the cost of log-likelihood ratios (Cllr).

Cllr (``cllr``) is the mean cost, in bits, of reading calibrated scores as log-likelihood ratios
(Brummer & du Preez 2006, "Application-independent evaluation of speaker detection", Computer Speech
& Language 20): with l the ratio of a trial, natural logarithms,

    (mean over targets of log2(1 + exp(-l)) + mean over non-targets of log2(1 + exp(l))) / 2

0 is perfect, 1 the cost of a system without any knowledge (l = 0), and more than 1 that of a
misleading one. min Cllr (``min_cllr``, `probe.measures.detection.min_cllrs`) is the lowest that an
increasing function of the same scores could reach on the same trials; the difference is the loss by
calibration.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def calibration(target: ArrayLike, scores: ArrayLike) -> tuple[float, float]:
    """The slope and the offset by which scores become log-likelihood ratios, slope * s + offset.

    They minimise Cllr, which is logistic regression with both kinds of trials weighted alike
    (Brummer & du Preez 2006). The true labels are softened as by Platt 1999, "Probabilistic outputs
    for support vector machines": without that, scores that separate the kinds would get an infinite
    slope. A slope below 0 would contradict what scores mean; it becomes 0.

    Args:
        target: (trial,) bool or 0/1, some of each.
        scores: (trial,) finite.
    """
    # Imported here, because tables need not wait for it.
    from sklearn.linear_model import LogisticRegression

    is_target, values = np.asarray(target, bool), np.asarray(scores, np.float64)
    n_targets, n_others = int(is_target.sum()), int((~is_target).sum())
    share = np.where(is_target, (n_targets + 1) / (n_targets + 2), 1 / (n_others + 2))
    weight = np.where(is_target, 1 / n_targets, 1 / n_others)
    mean, deviation = values.mean(), values.std()
    slope = 0.0
    if deviation > 0:
        standard = (values - mean) / deviation
        # Each trial counts once as a target, with its share, and once as a non-target.
        model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=1000)
        model.fit(
            np.concatenate([standard, standard])[:, None],
            np.repeat([1, 0], len(values)),
            np.concatenate([weight * share, weight * (1 - share)]),
        )
        slope, offset = float(model.coef_[0, 0]), float(model.intercept_[0])
    if slope <= 0:
        return 0.0, float(logit(np.average(share, weights=weight)))
    slope /= deviation
    return float(slope), float(offset - slope * mean)


def cllrs(missed: Ints, rejected: Ints, ratios: ArrayLike) -> Floats:
    """(row,) Cllr, see the module; lower is better.

    Args:
        missed, rejected: see `probe.measures.detection`.
        ratios: (rank,) the log-likelihood ratio of each rank, natural logarithms.
    """
    ratio = np.asarray(ratios, np.float64)
    targets, others = (np.diff(counts, axis=1, prepend=0) for counts in (missed, rejected))
    of_targets = targets @ np.logaddexp(0, -ratio) / missed[:, -1]
    of_others = others @ np.logaddexp(0, ratio) / rejected[:, -1]
    values: Floats = (of_targets + of_others) / (2 * np.log(2))
    return values
