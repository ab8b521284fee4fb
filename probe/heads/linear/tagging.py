"""One-vs-rest logistic regression on vectors, for utterances that have several tags, or soft ones.

The objective of each class is ``mean binary cross-entropy + l2 / 2 * ||w||^2`` without a penalty on
the bias, so the meaning of ``l2`` does not depend on the number of rows; scikit-learn's ``C`` is
``1 / (l2 * rows)``. Targets may be any number from 0 to 1, such as the share of annotators who gave
the tag. The classes do not interact, so that the sum of their objectives is minimised together, by
L-BFGS in float64. The weights stand in the axes of the rows' second moments, each axis scaled by
the square root of the largest curvature that its objective can have: with this scale the layers of
speech models, which are ill-conditioned, take tens of iterations.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.optimize import OptimizeResult, minimize
from scipy.special import expit

from probe.heads.linear.rows import Standardizer
from probe.heads.linear.weighted_sum import Head

Floats = NDArray[np.float64]

MOST_ITERATIONS = 2000
FLAT = 1e-6  # a gradient below it, in the scaled axes, ends the search
TOLERANCE = 1e-10  # and so does a step that gains less than this
SMALLEST_DIRECTION = 1e-13  # directions below this share of the largest one are rounding errors


@dataclass(frozen=True)
class TagProbe:
    """One logistic regression for each class.

    Attributes:
        l2: strength of the penalty.
        coef_: (class, dim) weights for the original features.
        intercept_: (class,).
        objective_: the sum over classes of the loss including the penalty.
        n_iter_: number of L-BFGS iterations.
        converged_: False if `MOST_ITERATIONS` was reached.
    """

    l2: float
    coef_: Floats
    intercept_: Floats
    objective_: float
    n_iter_: int
    converged_: bool

    def predict(self, rows: np.ndarray) -> Floats:
        """Return (row, class) log odds that a row has the class."""
        odds: Floats = rows @ self.coef_.T + self.intercept_
        return odds


def fit_tag_strengths(
    rows: np.ndarray,
    targets: np.ndarray,
    strengths: Sequence[float],
    standardize: bool = True,
    tick: Callable[[], Any] = lambda: None,
) -> list[TagProbe]:
    """Return one `TagProbe` per l2 strength for the same rows, from one eigendecomposition.

    A class that all rows have, or none, gets weights of 0 and the log odds of its share with half a
    row added to both sides.

    Args:
        rows: (row, dim) features.
        targets: (row, class) numbers from 0 to 1.
        tick: called after each pass over the rows.

    Raises:
        ValueError: the shapes do not fit, a target is not from 0 to 1, or a strength is not above
            0.
    """
    goals = np.asarray(targets, np.float64)
    if goals.ndim != 2 or len(goals) != len(rows) or not ((goals >= 0) & (goals <= 1)).all():
        raise ValueError(
            f"expected (row, class) targets from 0 to 1 for {len(rows)} rows. Found {goals.shape}"
        )
    if not len(strengths) or min(strengths) <= 0:
        raise ValueError(f"expected one strength or more, all above 0. Found {list(strengths)}")
    scaler = Standardizer.of(rows)
    mean = scaler.mean.astype(np.float64)
    scale = scaler.scale.astype(np.float64) if standardize else np.ones(len(mean))
    wide = (rows - mean) / scale
    axes, spread = _axes(wide)
    inputs = wide @ axes
    shares = goals.mean(axis=0)
    varies = (shares > 0) & (shares < 1)
    odds = share_odds(goals)
    point = np.zeros((inputs.shape[1] + 1, int(varies.sum())))
    point[-1] = odds[varies]
    probes: dict[float, TagProbe] = {}
    for l2 in sorted(strengths, reverse=True):  # each starts from the next larger one
        curvature = np.append(spread / 4 + l2, 0.25)
        point, end = _solve(inputs, goals[:, varies], l2, curvature, point, tick)
        weights, bias = np.zeros((len(shares), len(mean))), odds.copy()
        weights[varies] = (axes @ point[:-1]).T / scale
        bias[varies] = point[-1] - weights[varies] @ mean
        probes[l2] = TagProbe(l2, weights, bias, float(end.fun), int(end.nit), bool(end.success))
    return [probes[l2] for l2 in strengths]


def share_odds(targets: np.ndarray) -> Floats:
    """Return (class,) log odds of the classes' shares of (row, class) targets, with half a row
    added to both sides.
    """
    sums = targets.sum(axis=0)
    odds: Floats = np.log((sums + 0.5) / (len(targets) - sums + 0.5))
    return odds


def probabilities(odds: Floats) -> Floats:
    """Return the probabilities of log odds."""
    shares: Floats = expit(odds)
    return shares


def _solve(
    inputs: Floats,
    goals: Floats,
    l2: float,
    curvature: Floats,
    start: Floats,
    tick: Callable[[], Any],
) -> tuple[Floats, OptimizeResult]:
    """Return the optimum, (axis + 1, class) weights with the bias as the last row, and what the
    search says of it.

    Args:
        curvature: (axis + 1,) of the objective at most.
    """
    scale = np.sqrt(curvature)[:, None]

    def loss(scaled: Floats) -> tuple[float, Floats]:
        point = scaled.reshape(start.shape) / scale
        weights = point[:-1]
        odds = inputs @ weights + point[-1]
        # log(1 + e^x) - y x, without an overflow.
        fitted = np.logaddexp(0, odds) - goals * odds
        errors = (expit(odds) - goals) / len(goals)
        gradient = np.vstack([inputs.T @ errors + l2 * weights, errors.sum(axis=0)])
        tick()
        objective = fitted.sum() / len(goals) + l2 / 2 * np.vdot(weights, weights)
        return float(objective), (gradient / scale).ravel()

    options = {
        "maxiter": MOST_ITERATIONS,
        "maxfun": 2 * MOST_ITERATIONS,
        "gtol": FLAT,
        "ftol": TOLERANCE,
    }
    first = (start * scale).ravel()
    end = minimize(loss, first, jac=True, method="L-BFGS-B", options=options)
    return end.x.reshape(start.shape) / scale, end


def _axes(rows: Floats) -> tuple[Floats, Floats]:
    """Return (dim, axis) orthonormal axes and the (axis,) mean squares of the rows along them."""
    n_rows, dim = rows.shape
    few = n_rows < dim  # then the smaller matrix is that of the rows
    values, vectors = eigh((rows @ rows.T if few else rows.T @ rows) / n_rows)
    kept = values > max(SMALLEST_DIRECTION * values[-1], np.finfo(np.float64).tiny)
    values, vectors = values[kept], vectors[:, kept]
    return (rows.T @ vectors / np.sqrt(values * n_rows) if few else vectors), values


def tag_head() -> Head:
    """The same on a learned sum of layers, see `probe.heads.linear.weighted_sum`."""

    def fit(rows: np.ndarray, targets: np.ndarray, l2: float, _: Any) -> tuple[TagProbe, float]:
        (probe,) = fit_tag_strengths(rows, targets, [l2], standardize=False)
        return probe, probe.objective_

    def errors(probe: TagProbe, rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
        gradient: np.ndarray = (expit(probe.predict(rows)) - targets) / len(rows)
        return gradient

    return Head(fit, errors)
