"""Newton's method for small logistic regressions.

With some hundred weights, the whole matrix of second derivatives is cheap, and a few steps reach
the optimum. L-BFGS (`probe.heads.linear.logistic`) takes tens of steps there, each of which costs
more in calls than in arithmetic. Small problems are common: label budgets, and the first portions
of a codelength.

Shapes: n rows, d dimensions, c classes. A point holds the weights, with the bias as its last row:
(d + 1, c).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MOST_WEIGHTS = 500  # (d + 1) * c; above it, L-BFGS takes less time
MOST_ROWS = 1000  # they are copied
HALVINGS = 40  # of a step
SMALLEST_LOSS = 1e-12
RIDGE = 1e-12  # of the biases, which have no curvature where all rows are certain


@dataclass(frozen=True)
class Optimum:
    """The end of one problem.

    Attributes:
        point: (d + 1, c).
        objective: the loss including the penalty.
        n_iterations: how many steps there were.
        converged: False if the largest number of steps was reached.
    """

    point: Tensor
    objective: float
    n_iterations: int
    converged: bool


def is_small(n_rows: int, dim: int, n_classes: int) -> bool:
    """Return whether Newton's method takes less time than L-BFGS."""
    return n_rows <= MOST_ROWS and (dim + 1) * n_classes <= MOST_WEIGHTS


class SmallProblem:
    """The rows with their classes.

    Args:
        rows: (n, d) float64.
        targets, n_classes, row_weights, tick: see `probe.heads.linear.logistic.solve`.
    """

    def __init__(
        self,
        rows: Tensor,
        targets: Tensor,
        n_classes: int,
        row_weights: Tensor | None,
        tick: Callable[[], Any],
    ) -> None:
        self._rows = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
        share = rows.new_ones(len(rows)) if row_weights is None else row_weights.to(rows)
        self._share = (share / len(rows))[:, None]
        self._truth = torch.nn.functional.one_hot(targets, n_classes) * self._share
        self._tick = tick

    def solve(self, l2: float, tol: float, max_iter: int, start: Tensor | None) -> Optimum:
        """Return the optimum for a strength.

        Args:
            tol: the solver stops when a further step would gain less than this share of the loss.
            start: a point to start from, unless zero weights have a smaller loss: where all rows
                are certain, there is no curvature to follow.
        """
        point = self._rows.new_zeros(self._rows.shape[1], self._truth.shape[1])
        point[-1] = self._truth.sum(0).log()
        loss, shares = self._loss(point, l2)
        if start is not None:
            started = start.to(point)
            of_start, start_shares = self._loss(started, l2)
            if of_start < loss:
                point, loss, shares = started, of_start, start_shares
        for n_iterations in range(max_iter + 1):
            step, slope = self._step(point, l2, shares)
            converged = 0.5 * slope <= tol * max(loss, SMALLEST_LOSS)
            if converged or n_iterations == max_iter:
                break
            length, before, begin = 1.0, loss, point
            for _ in range(HALVINGS):
                point = begin - length * step
                loss, shares = self._loss(point, l2)
                if loss <= before - 1e-4 * length * slope + 1e-7 * before:
                    break
                length /= 2
            self._tick()
        return Optimum(point, loss, n_iterations, converged)

    def _loss(self, point: Tensor, l2: float) -> tuple[float, Tensor]:
        """Return the loss with the penalty, and the probabilities (n, c)."""
        log_shares = (self._rows @ point).log_softmax(1)
        penalty = 0.5 * l2 * point[:-1].square().sum()
        return float(penalty - (self._truth * log_shares).sum()), log_shares.exp()

    def _step(self, point: Tensor, l2: float, shares: Tensor) -> tuple[Tensor, float]:
        """Return the inverse of the second derivatives times the gradient, and the product of this
        step with the gradient.
        """
        gradient = self._rows.T @ (shares * self._share - self._truth)
        gradient[:-1] += l2 * point[:-1]
        n_weights, n_classes = point.shape
        each = (self._rows[:, :, None] * shares[:, None]).flatten(1)
        curvature = -((each * self._share).T @ each)
        by_class = curvature.view(n_weights, n_classes, n_weights, n_classes)
        own = (self._rows * self._share).T @ each  # within each class
        by_class.diagonal(dim1=1, dim2=3).add_(own.view(n_weights, n_weights, n_classes))
        by_class[-1, :, -1] += 1 / n_classes  # the biases may move together at no cost
        ridge = torch.full_like(point, l2)
        ridge[-1] = RIDGE
        curvature.diagonal().add_(ridge.flatten())
        factor = torch.linalg.cholesky(curvature)
        step = torch.cholesky_solve(gradient.flatten()[:, None], factor).view_as(point)
        return step, float((gradient * step).sum())
