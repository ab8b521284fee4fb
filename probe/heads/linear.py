"""Multinomial logistic regression on vectors: pooled utterances, or frames.

Minimised is ``mean cross-entropy + l2 / 2 * ||W||^2`` (the bias is free), so ``l2`` means the same whatever the number of rows;
scikit-learn's ``C`` is ``1 / (l2 * rows)``. As there, two classes share one vector of weights. `probe.heads.logistic` solves the
problems of several strengths together.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from probe.heads.logistic import solve
from probe.heads.standardize import Standardizer

# By which share of the loss a further step may still improve it. Stopping early is not harmless: on cepstra it changed which strength
# dev picked, and the test score by three points.
TOLERANCE = {"float64": 1e-9, "float32": 1e-6}


class LinearProbe(ClassifierMixin, BaseEstimator):
    """A linear classifier with scikit-learn's interface.

    Args:
        l2: strength of the penalty, see the module.
        standardize: whether to standardise with training statistics; False takes features as they are.
        max_iter: of L-BFGS.
        tol: see `probe.heads.logistic.solve`.

    Attributes:
        classes_: (class,) labels, sorted.
        coef_: (class, dim) weights for the features as they were given.
        intercept_: (class,).
        objective_: what was minimised, at its end.
    """

    def __init__(self, l2: float = 1e-2, standardize: bool = True, max_iter: int = 1000, tol: float = 1e-9) -> None:
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
        self.objective_: float = fitted.objective_
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
        log_probabilities = self.predict_log_proba(X)
        return self.classes_[log_probabilities.argmax(axis=1)]


def fit_strengths(
    rows: np.ndarray,
    labels: np.ndarray,
    strengths: Sequence[float],
    standardize: bool = True,
    max_iter: int = 1000,
    tol: float | None = None,
    device: str = "cpu",
) -> list[LinearProbe]:
    """One `LinearProbe` per l2 strength on the same (row, dim) features, all solved together.

    Args:
        tol: see `probe.heads.logistic.solve`; `TOLERANCE` of the rows' precision where None. float32 rows are solved in float32.
    """
    classes, targets = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"LinearProbe needs samples of at least 2 classes; the data holds one class: {classes[0]!r}")
    scaler = Standardizer.of(rows)
    scale = scaler.scale if standardize else np.ones(rows.shape[1])
    inputs = torch.from_numpy(((rows - scaler.mean) / scale).astype(rows.dtype)).to(device)
    # Two classes: softmax halves the one vector of weights, and so the penalty.
    penalties = [2 * l2 if len(classes) == 2 else l2 for l2 in strengths]
    tol = TOLERANCE[rows.dtype.name] if tol is None else tol
    solutions = solve(inputs, torch.from_numpy(targets).to(device), len(classes), penalties, tol, max_iter)
    probes = []
    for l2, solution in zip(strengths, solutions, strict=True):
        probe = LinearProbe(l2, standardize, max_iter, tol)
        probe.classes_ = classes
        probe.coef_ = solution.weights.double().cpu().numpy().T / scale
        probe.intercept_ = solution.bias.double().cpu().numpy() - probe.coef_ @ scaler.mean
        probe.n_iter_ = solution.n_iterations
        probe.objective_ = solution.objective
        probe.n_features_in_ = rows.shape[1]
        probes.append(probe)
    return probes
