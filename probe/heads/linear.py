"""Multinomial logistic regression on one vector per utterance.

Minimised is ``mean cross-entropy + l2 / 2 * ||W||^2`` (the bias is free), so ``l2`` means the same whatever the number of rows;
scikit-learn's ``C`` is ``1 / (l2 * rows)``. The problem is convex and solved to convergence by scikit-learn's L-BFGS. With fewer
rows than dimensions the rows are rotated into their own span first: the penalty is invariant to rotation, so the solution is the
same and the problem smaller.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from probe.heads.standardize import Standardizer


class LinearProbe(ClassifierMixin, BaseEstimator):
    """A linear classifier with scikit-learn's interface.

    Args:
        l2: strength of the penalty, see the module.
        standardize: whether to standardise with training statistics; False takes features as they are.
        max_iter, tol: of L-BFGS.

    Attributes:
        classes_: (class,) labels, sorted.
        coef_: (class, dim) weights for the features as they were given.
        intercept_: (class,).
    """

    def __init__(self, l2: float = 1e-2, standardize: bool = True, max_iter: int = 3000, tol: float = 1e-5) -> None:
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
    max_iter: int = 3000,
    tol: float = 1e-5,
) -> list[LinearProbe]:
    """One `LinearProbe` per l2 strength on the same (row, dim) float64 features, each started from its stronger neighbour."""
    scaler = Standardizer.of(rows) if standardize else Standardizer(np.zeros(rows.shape[1]), np.ones(rows.shape[1]))
    inputs = (rows - scaler.mean) / scaler.scale
    rotation = None
    if len(inputs) < inputs.shape[1]:
        left, singular, rotation = np.linalg.svd(inputs, full_matrices=False)
        inputs = left * singular
    if len(np.unique(labels)) < 2:
        raise ValueError(f"LinearProbe needs samples of at least 2 classes; the data holds one class: {labels[0]!r}")
    solver = LogisticRegression(warm_start=True, max_iter=max_iter, tol=tol)
    probes: dict[float, LinearProbe] = {}
    for l2 in sorted(set(strengths), reverse=True):
        solver.set_params(C=1.0 / (l2 * len(inputs)))
        solver.fit(inputs, labels)
        coefficients = solver.coef_ if rotation is None else solver.coef_ @ rotation
        intercept = solver.intercept_
        if len(solver.classes_) == 2:  # scikit-learn keeps one row of logits for two classes
            coefficients, intercept = np.vstack([-coefficients, coefficients]) / 2, np.concatenate([-intercept, intercept]) / 2
        probe = LinearProbe(l2, standardize, max_iter, tol)
        probe.classes_ = solver.classes_
        probe.coef_ = coefficients / scaler.scale
        probe.intercept_ = intercept - probe.coef_ @ scaler.mean
        probe.n_iter_ = int(np.max(solver.n_iter_))
        probe.n_features_in_ = rows.shape[1]
        probes[l2] = probe
    return [probes[l2] for l2 in strengths]
