"""Ridge regression on vectors, for numeric labels such as age, pitch or a rating.

The objective is ``mean squared error / 2 + l2 / 2 * ||W||^2`` without a penalty on the bias, so the
meaning of ``l2`` does not depend on the number of rows, as in `probe.heads.linear.linear_probe`;
scikit-learn's ``alpha`` is ``l2 * rows``. ``l2 = 0`` is ordinary least squares, with the shortest
weights if several fit equally well. All strengths come from one eigendecomposition of the rows'
second moments, in float64.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from probe.heads.linear.rows import BLOCK_ROWS, RowTable, Standardizer, as_rows, refill

# Without a penalty, directions whose eigenvalue is below this share of the largest one are rounding
# errors.
SMALLEST_DIRECTION = 1e-13


class RidgeProbe(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """A linear regression with scikit-learn's interface.

    Args:
        l2: strength of the penalty; see the module.
        standardize: whether to standardise the features with training statistics.

    Attributes:
        coef_: (dim,) weights for the original features; (target, dim) if ``y`` has two axes.
        intercept_: one number; (target,) if ``y`` has two axes.
    """

    def __init__(self, l2: float = 1e-2, standardize: bool = True) -> None:
        self.l2 = l2
        self.standardize = standardize

    def fit(self, X: np.ndarray, y: np.ndarray) -> "RidgeProbe":
        """Train on (row, dim) features and (row,) or (row, target) numbers."""
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        (solution,) = fit_ridge_strengths(X, y, [self.l2], self.standardize)
        self.coef_: np.ndarray = solution.coef_
        self.intercept_: np.ndarray | float = solution.intercept_
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return (row,) numbers, or (row, target) if ``y`` had two axes in training."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return X @ self.coef_.T + self.intercept_


def fit_ridge(rows: np.ndarray, targets: np.ndarray, l2: float) -> RidgeProbe:
    """A `RidgeProbe` of one strength above 0 on (row, dim) features as they are and (row,) numbers;
    by Cholesky's factors, several times faster than the decomposition that serves all strengths.
    """
    mean, centre = rows.mean(axis=0, dtype=np.float64), targets.mean()
    wide = rows - mean
    n_rows, dim = wide.shape
    few = n_rows < dim  # then the smaller matrix is that of the rows
    square = wide @ wide.T if few else wide.T @ wide
    square.flat[:: len(square) + 1] += l2 * n_rows
    factor = cho_factor(square, overwrite_a=True, check_finite=False)
    deviations = targets - centre
    weights = wide.T @ cho_solve(factor, deviations) if few else None
    probe = RidgeProbe(l2, standardize=False)
    probe.coef_ = cho_solve(factor, wide.T @ deviations) if weights is None else weights
    probe.intercept_ = float(centre - mean @ probe.coef_)
    probe.n_features_in_ = dim
    return probe


@dataclass(frozen=True)
class _Moments:
    """Moments of the standardised rows ``X`` and of the targets ``Y`` minus their means.

    Attributes:
        values: (direction,) eigenvalues of ``X'X`` that exceed rounding errors.
        vectors: (dim, direction).
        products: (direction, target) ``vectors' X' Y``.
    """

    values: np.ndarray
    vectors: np.ndarray
    products: np.ndarray


def fit_ridge_strengths(
    rows: np.ndarray | RowTable,
    targets: np.ndarray,
    strengths: Sequence[float],
    standardize: bool = True,
    tick: Callable[[], Any] = lambda: None,
) -> list[RidgeProbe]:
    """Return one `RidgeProbe` per l2 strength for the same (row, dim) features, from one
    eigendecomposition.

    Args:
        rows: an array, or a table that is read twice in blocks; it is held in memory if it has
            fewer rows than dimensions.
        targets: (row,) or (row, target) numbers.
        tick: called after each block of rows.

    Raises:
        ValueError: a strength is negative, or the numbers of targets and rows differ.
    """
    rows, targets = as_rows(rows), np.asarray(targets, np.float64)
    n_rows, dim = rows.shape
    if len(targets) != n_rows:
        raise ValueError(f"expected a target for each of {n_rows} rows. Found {len(targets)}")
    if min(strengths) < 0:
        raise ValueError(f"expected l2 strengths of 0 or more. Found {min(strengths)}")
    scaler = Standardizer.of(rows)
    scale = (scaler.scale if standardize else np.ones(dim)).astype(np.float64)
    centre = targets.mean(axis=0)
    wide = (targets - centre).reshape(n_rows, -1)
    blocks = _blocks(rows, scaler.mean.astype(np.float64), scale, tick)
    offset, moments = (
        _by_rows(blocks, wide, dim) if n_rows < dim else _by_dimensions(blocks, wide, dim)
    )
    probes = []
    for l2 in strengths:
        weights = moments.vectors @ (moments.products / (moments.values + l2 * n_rows)[:, None])
        probe = RidgeProbe(l2, standardize)
        probe.coef_ = (weights.T / scale).reshape(*targets.shape[1:], dim)
        bias = centre - probe.coef_ @ (scaler.mean + offset * scale)
        probe.intercept_ = bias if targets.ndim > 1 else float(bias)
        probe.n_features_in_ = dim
        probes.append(probe)
    return probes


def _blocks(
    rows: RowTable, mean: np.ndarray, scale: np.ndarray, tick: Callable[[], Any]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of the first row and the standardised (row, dim) float64 block, which is
    valid until the next one.
    """
    buffer, start = np.empty((BLOCK_ROWS, len(mean))), 0
    for block in refill(rows, lambda start, stop: buffer[: stop - start]):
        block -= mean
        block /= scale
        yield start, block
        start += len(block)
        tick()


def _by_dimensions(
    blocks: Iterator[tuple[int, np.ndarray]], targets: np.ndarray, dim: int
) -> tuple[np.ndarray, _Moments]:
    """Return the residual mean (dim,) of the rows and their moments, from ``X'X``."""
    gram, products, total = np.zeros((dim, dim)), np.zeros((dim, targets.shape[1])), np.zeros(dim)
    for start, block in blocks:
        gram += block.T @ block
        products += block.T @ targets[start : start + len(block)]
        total += block.sum(axis=0)
    mean = total / len(targets)
    values, vectors = eigh(gram - len(targets) * np.outer(mean, mean))
    is_kept = _above_rounding(values)
    return mean, _Moments(values[is_kept], vectors[:, is_kept], vectors[:, is_kept].T @ products)


def _by_rows(
    blocks: Iterator[tuple[int, np.ndarray]], targets: np.ndarray, dim: int
) -> tuple[np.ndarray, _Moments]:
    """Return the same from ``XX'``, which is smaller if there are fewer rows than dimensions."""
    rows = np.empty((len(targets), dim))
    for start, block in blocks:
        rows[start : start + len(block)] = block
    mean = rows.mean(axis=0)
    rows -= mean
    values, sides = eigh(rows @ rows.T)
    is_kept = _above_rounding(values)
    lengths = np.sqrt(values[is_kept])
    return mean, _Moments(
        values[is_kept],
        rows.T @ sides[:, is_kept] / lengths,
        lengths[:, None] * (sides[:, is_kept].T @ targets),
    )


def _above_rounding(values: np.ndarray) -> np.ndarray:
    """Return (direction,) bool, whether an eigenvalue exceeds rounding errors."""
    return values > max(SMALLEST_DIRECTION * values[-1], np.finfo(np.float64).tiny)
