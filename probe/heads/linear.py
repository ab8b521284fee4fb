"""Multinomial logistic regression on one vector per utterance.

Minimised is ``mean cross-entropy + l2 / 2 * ||W||^2`` (the bias is free), so ``l2`` means the same whatever the number of rows;
scikit-learn's ``C`` is ``1 / (l2 * rows)``. As there, two classes share one vector of weights.

The problem is convex; L-BFGS (scipy) solves it in coordinates in which it is round. With the rows ``X = U S R`` (singular values S),
the penalty is invariant to the rotation R, which also drops the directions that no row has. Along direction i the curvature is about
``c S_i^2 / n + l2`` (c: variance of a class indicator at the start), so each is scaled by the root of that. Layers of speech models
are ill-conditioned, and this takes tens of iterations where plain L-BFGS takes thousands.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from probe.heads.standardize import Standardizer

# Directions weaker than this share of the strongest are rounding errors.
SMALLEST_DIRECTION = 1e-9
# Multiplications in one product below which threads cost more than they give (15 times more on a busy machine).
WORTH_THREADS = 10**8


class LinearProbe(ClassifierMixin, BaseEstimator):
    """A linear classifier with scikit-learn's interface.

    Args:
        l2: strength of the penalty, see the module.
        standardize: whether to standardise with training statistics; False takes features as they are.
        max_iter: of L-BFGS.
        tol: largest entry of the gradient at the end, in the scaled coordinates.

    Attributes:
        classes_: (class,) labels, sorted.
        coef_: (class, dim) weights for the features as they were given.
        intercept_: (class,).
    """

    def __init__(self, l2: float = 1e-2, standardize: bool = True, max_iter: int = 1000, tol: float = 1e-7) -> None:
        self.l2 = l2
        self.standardize = standardize
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, X: np.ndarray, y: Sequence[Any]) -> "LinearProbe":
        """Trains on (row, dim) features and (row,) labels."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        (fitted,) = fit_strengths(X, np.asarray(y), [self.l2], self.standardize, self.max_iter, self.tol)
        self.classes_: np.ndarray = fitted.classes_
        self.coef_: np.ndarray = fitted.coef_
        self.intercept_: np.ndarray = fitted.intercept_
        self.n_iter_: int = fitted.n_iter_
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """(row, class) logits; (row,) logits of the second class where there are two, as scikit-learn has it."""
        check_is_fitted(self)
        logits = validate_data(self, X, dtype=np.float64, reset=False) @ self.coef_.T + self.intercept_
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_log_proba(self, X: np.ndarray) -> np.ndarray:
        """(row, class) natural logarithms of probabilities."""
        check_is_fitted(self)
        logits = validate_data(self, X, dtype=np.float64, reset=False) @ self.coef_.T + self.intercept_
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """(row, class) probabilities."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: np.ndarray) -> np.ndarray:
        """(row,) the most probable label."""
        return self.classes_[self.predict_log_proba(X).argmax(axis=1)]


def fit_strengths(
    rows: np.ndarray,
    labels: np.ndarray,
    strengths: Sequence[float],
    standardize: bool = True,
    max_iter: int = 1000,
    tol: float = 1e-7,
) -> list[LinearProbe]:
    """One `LinearProbe` per l2 strength on the same (row, dim) float64 features, each started from its stronger neighbour."""
    classes, targets = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"LinearProbe needs samples of at least 2 classes; the data holds one class: {classes[0]!r}")
    scaler = Standardizer.of(rows) if standardize else Standardizer(np.zeros(rows.shape[1]), np.ones(rows.shape[1]))
    coordinates, singular, rotation = _rotated((rows - scaler.mean) / scaler.scale)
    weights, bias = np.zeros((len(singular), len(classes))), np.zeros(len(classes))
    probes: dict[float, LinearProbe] = {}
    n_threads = None if coordinates.size * len(classes) > WORTH_THREADS else 1
    for l2 in sorted(set(strengths), reverse=True):
        # Two classes: softmax halves the one vector of weights, and so the penalty.
        penalty = 2 * l2 if len(classes) == 2 else l2
        with threadpool_limits(n_threads, user_api="blas"):
            weights, bias, n_iterations = _minimum(coordinates, singular, targets, penalty, weights, bias, max_iter, tol)
        probe = LinearProbe(l2, standardize, max_iter, tol)
        probe.classes_ = classes
        probe.coef_ = weights.T @ rotation / scaler.scale
        probe.intercept_ = bias - probe.coef_ @ scaler.mean
        probe.n_iter_ = n_iterations
        probe.n_features_in_ = rows.shape[1]
        probes[l2] = probe
    return [probes[l2] for l2 in strengths]


def _rotated(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, dim) -> coordinates (row, direction) with orthogonal columns, their norms, and the rotation (direction, dim)."""
    wide = len(inputs) < inputs.shape[1]
    squares, vectors = np.linalg.eigh(inputs @ inputs.T if wide else inputs.T @ inputs)
    kept = squares > SMALLEST_DIRECTION * max(squares[-1], np.finfo(float).tiny)
    singular, vectors = np.sqrt(squares[kept]), vectors[:, kept]
    if wide:
        return vectors * singular, singular, vectors.T @ inputs / singular[:, None]
    return inputs @ vectors, singular, vectors.T


def _minimum(
    coordinates: np.ndarray,
    singular: np.ndarray,
    targets: np.ndarray,
    l2: float,
    weights: np.ndarray,
    bias: np.ndarray,
    max_iter: int,
    tol: float,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Weights (direction, class), bias (class,) and the number of iterations, started from ``weights`` and ``bias``."""
    n_rows, n_classes = len(coordinates), len(bias)
    curvature = (n_classes - 1) / n_classes**2
    scale = 1 / np.sqrt(curvature * np.append(singular**2 / n_rows, 1.0) + np.append(np.full(len(singular), l2), 0.0))[:, None]
    inputs = np.column_stack([coordinates, np.ones(n_rows)]) * scale.T
    penalty = l2 * scale**2
    penalty[-1] = 0.0
    row = np.arange(n_rows)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        point = flat.reshape(-1, n_classes)
        logits = inputs @ point
        logits -= logits.max(axis=1, keepdims=True)
        exponentials = np.exp(logits)
        totals = exponentials.sum(axis=1, keepdims=True)
        loss = np.mean(np.log(totals[:, 0]) - logits[row, targets]) + 0.5 * np.sum(penalty * point**2)
        errors = exponentials / totals
        errors[row, targets] -= 1
        return float(loss), (inputs.T @ errors / n_rows + penalty * point).ravel()

    start = (np.vstack([weights, bias]) / scale).ravel()
    limits = {"maxiter": max_iter, "maxfun": 2 * max_iter, "gtol": tol, "ftol": 0.0, "maxcor": 20}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=limits)
    point = found.x.reshape(-1, n_classes) * scale
    return point[:-1], point[-1], int(found.nit)
