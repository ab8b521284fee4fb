"""Multinomial logistic regression on vectors, which are pooled utterances or frames.

The objective is ``mean cross-entropy + l2 / 2 * ||W||^2`` without a penalty on the bias, so the
meaning of ``l2`` does not depend on the number of rows; scikit-learn's ``C`` is ``1 / (l2 *
rows)``. As in scikit-learn, two classes share one vector of weights, and rows may be weighted by
their class (``class_weight``). `probe.heads.linear.logistic` solves the problems of several
strengths, one from the solution of another.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from probe.heads.linear.logistic import Solution, solve, state_bytes
from probe.heads.linear.logistic_pass import StandardizedRows
from probe.heads.linear.rows import RowTable, Standardizer, as_rows, precision

# The solver stops when a further step would improve the loss by less than this share. Stopping
# earlier is harmful: on cepstra it changed which strength was best on dev, and the test score by
# three points. At 1e-6 in float32, more than one prediction in a thousand still differed.
TOLERANCE = {"float64": 1e-9, "float32": 2e-7}
MEMORY_BYTES = 4 << 30
# Largest scale of rows that are not standardised; above it, float32 ends far from the optimum.
LARGEST_SCALE = 16.0


class LinearProbe(ClassifierMixin, BaseEstimator):
    """A linear classifier with scikit-learn's interface.

    Args:
        l2: strength of the penalty; see the module.
        standardize: whether to standardise the features with training statistics.
        max_iter: largest number of L-BFGS iterations.
        tol: see `probe.heads.linear.logistic.solve`.

    Attributes:
        classes_: (class,) labels, sorted.
        coef_: (class, dim) weights for the original features.
        intercept_: (class,).
        objective_: final loss including the penalty.
        converged_: False if ``max_iter`` was reached before ``tol``.
    """

    def __init__(
        self, l2: float = 1e-2, standardize: bool = True, max_iter: int = 1000, tol: float = 1e-9
    ) -> None:
        self.l2 = l2
        self.standardize = standardize
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, X: np.ndarray, y: Sequence[Any]) -> "LinearProbe":
        """Train on (row, dim) features and (row,) labels."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        solving = Solving(max_iter=self.max_iter, tol=self.tol)
        (solution,) = fit_strengths(X, np.asarray(y), [self.l2], self.standardize, solving)
        self._take(solution)
        if not self.converged_:
            warnings.warn(
                f"not converged after {self.max_iter} iterations; raise max_iter or l2",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return (row, class) logits or, for two classes, (row,) logits of the second class, as in
        scikit-learn.
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_log_proba(self, X: np.ndarray) -> np.ndarray:
        """Return (row, class) natural logarithms of probabilities; -inf for a class without
        training rows.
        """
        logits = self._logits(X)
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return (row, class) probabilities."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the most probable label of each row."""
        best = self.predict_log_proba(X).argmax(axis=1)
        return self.classes_[best]

    def _logits(self, X: np.ndarray) -> np.ndarray:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return X @ self.coef_.T + self.intercept_

    def _take(self, other: "LinearProbe") -> None:
        """Copy the learned attributes of another probe."""
        self.classes_: np.ndarray = other.classes_
        self.coef_: np.ndarray = other.coef_
        self.intercept_: np.ndarray = other.intercept_
        self.n_iter_: int = other.n_iter_
        self.objective_: float = other.objective_
        self.converged_: bool = other.converged_


@dataclass(frozen=True, kw_only=True)
class Solving:
    """Settings of the solver of linear probes.

    Attributes:
        max_iter: largest number of L-BFGS iterations.
        tol: see `probe.heads.linear.logistic.solve`; None means `TOLERANCE` of the rows' precision.
        device: torch device of the products.
        class_weight: "balanced" gives all classes the same weight, as in scikit-learn: the weight
            of a row is rows / (classes * rows of its class).
        start: a probe of the same labels and dimensions to start from; it changes the result within
            ``tol``. None starts from zero weights.
    """

    max_iter: int = 1000
    tol: float | None = None
    device: str = "cpu"
    class_weight: Literal["none", "balanced"] = "none"
    start: "LinearProbe | None" = None


SOLVING = Solving()


def fit_strengths(
    rows: np.ndarray | RowTable,
    labels: np.ndarray,
    strengths: Sequence[float],
    standardize: bool = True,
    solving: Solving = SOLVING,
    classes: Sequence[Any] | np.ndarray | None = None,
    memory_bytes: int = MEMORY_BYTES,
    tick: Callable[[], Any] = lambda: None,
) -> list[LinearProbe]:
    """Return one `LinearProbe` per l2 strength for the same (row, dim) features, each solved from
    the solution of the next stronger one.

    The probes are bitwise the same for any division of the rows into blocks, whether the rows are
    in memory or not.

    Args:
        rows: an array, or a table that is read in blocks. The solver uses float64 for float64 rows
            and float32 for others. It also uses float64 if there are fewer rows than dimensions
            (losses become tiny), or if the rows are not standardised and have a scale far from 1.
        labels: (row,).
        solving: settings of the solver.
        classes: the probes' ``classes_``, sorted and without repeats; a class without a label gets
            probability 0. None takes the classes of the labels.
        memory_bytes: memory for the standardised rows and the logits (8 bytes for each row and
            class). Rows that do not fit beside the logits are read again in each pass.
        tick: called after each block of rows, to keep a progress bar alive.

    Raises:
        ValueError: the labels have fewer than two classes, are not in ``classes``, or differ in
            number from the rows; the rows do not have the shape they declare or are not finite; or
            a strength is not above 0.
    """
    rows = as_rows(rows)
    known, targets = _targets(labels, classes, rows.shape[0])
    present, of_present = np.unique(targets, return_inverse=True)
    if len(present) < 2:
        raise ValueError(
            "LinearProbe needs samples of at least 2 classes; the data holds one class: "
            f"{known[present[0]]!r}"
        )
    if not len(strengths) or not all(l2 > 0 for l2 in strengths):
        raise ValueError(f"expected one strength or more, all above 0. Found {list(strengths)}")
    dtype = precision(rows)
    tol = TOLERANCE[dtype.name] if solving.tol is None else solving.tol
    scaler = Standardizer.of(rows)
    if not (np.isfinite(scaler.mean).all() and np.isfinite(scaler.scale).all()):
        raise ValueError("expected finite rows. Found NaN, infinity, or values beyond float32")
    is_far = not 1 / LARGEST_SCALE < scaler.scale.max() < LARGEST_SCALE
    if (is_far and not standardize) or rows.shape[0] < rows.shape[1]:
        dtype = np.dtype(np.float64)
    scale = scaler.scale if standardize else np.ones_like(scaler.scale)
    state = state_bytes(rows.shape[0], len(present), dtype.itemsize)
    fits = rows.shape[0] * rows.shape[1] * dtype.itemsize + state <= memory_bytes
    # Rows that are fewer than the dimensions are rotated into their span, so all of them must be in
    # memory.
    keep = fits or rows.shape[0] < rows.shape[1]
    torch_dtype = torch.float64 if dtype == np.float64 else torch.float32
    inputs = StandardizedRows(rows, scaler.mean, scale, torch_dtype, keep, solving.device)
    # With two classes, softmax splits the one vector of weights in halves, which halves the
    # penalty.
    penalties = [2 * l2 if len(known) == 2 else l2 for l2 in strengths]
    on_device = torch.from_numpy(of_present).to(solving.device)
    weights = None
    if solving.class_weight == "balanced":
        weights = torch.from_numpy(balanced_weights(of_present)).to(solving.device)
    begin = None
    if solving.start is not None:
        coef, intercept = solving.start.coef_[present], solving.start.intercept_[present]
        begin = torch.from_numpy((coef * scale).T), torch.from_numpy(intercept + coef @ scaler.mean)
    how = (penalties, tol, solving.max_iter, tick, weights, begin)
    solutions = solve(inputs, on_device, len(present), *how)
    probes = [LinearProbe(l2, standardize, solving.max_iter, tol) for l2 in strengths]
    for probe, solution in zip(probes, solutions, strict=True):
        _set_solution(probe, solution, known, present, scaler.mean, scale)
    return probes


def balanced_weights(labels: np.ndarray) -> np.ndarray:
    """(row,) the weight of each label, of mean 1; all classes that occur have the same sum."""
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weights: np.ndarray = (len(labels) / (len(counts) * counts))[classes]
    return weights


def _targets(
    labels: np.ndarray, classes: Sequence[Any] | np.ndarray | None, n_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes and the index of each label."""
    if len(labels) != n_rows:
        raise ValueError(f"expected a label for each of {n_rows} rows. Found {len(labels)} labels")
    occurring, targets = np.unique(labels, return_inverse=True)
    if classes is None:
        return occurring, targets
    known = np.asarray(classes)
    if not np.array_equal(known, np.unique(known)):
        raise ValueError("classes must be sorted and without repeats")
    foreign = occurring[~np.isin(occurring, known)]
    if len(foreign):
        raise ValueError(f"label {str(foreign[0])!r} is not among the {len(known)} classes given")
    return known, np.searchsorted(known, occurring)[targets]


def _set_solution(
    probe: LinearProbe,
    solution: Solution,
    classes: np.ndarray,
    present: np.ndarray,
    mean: np.ndarray,
    scale: np.ndarray,
) -> None:
    """Set the solution for the ``present`` classes; the others get a bias of -inf."""
    probe.classes_ = classes
    probe.coef_ = np.zeros((len(classes), len(mean)))
    probe.coef_[present] = solution.weights.double().cpu().numpy().T / scale
    probe.intercept_ = np.full(len(classes), -np.inf)
    probe.intercept_[present] = solution.bias.double().cpu().numpy() - probe.coef_[present] @ mean
    probe.n_iter_ = solution.n_iterations
    probe.objective_, probe.converged_ = solution.objective, solution.converged
    probe.n_features_in_ = len(mean)


def fit_layers(
    layers: np.ndarray | Iterable[np.ndarray | RowTable] | Mapping[Any, np.ndarray | RowTable],
    labels: np.ndarray,
    strengths: Sequence[float],
    on_layer: Callable[[Any], Any] = lambda layer: None,
    standardize: bool = True,
    solving: Solving = SOLVING,
    classes: Sequence[Any] | np.ndarray | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> dict[Any, list[LinearProbe]]:
    """Fit linear probes on every layer, one `LinearProbe` per layer and l2 strength.

    Args:
        layers: a (layer, row, dim) array, or the rows of each layer as an array or a table, in a
            sequence (a generator may read one layer at a time) or in a mapping by name.
        labels: (row,), the same for all layers.
        on_layer: called with each layer's name or number before it is solved.
        standardize, solving, classes, memory_bytes: see `fit_strengths`.

    Returns:
        The probes of each layer in the order of ``strengths``, by the layer's name, or by its
        number if ``layers`` has no names.
    """
    # Layers share no rows, so solving them together would save no product: on a CPU, a batched
    # product of 13 layers (4,000 x 768 by 768 x 500) took as long as 13 products (median of 9:
    # 0.99). All layers would also have to be in memory at once.
    probes = {}
    for name, rows in layers.items() if isinstance(layers, Mapping) else enumerate(layers):
        on_layer(name)
        probes[name] = fit_strengths(
            rows, labels, strengths, standardize, solving, classes, memory_bytes
        )
    return probes
