"""Newton's method for small logistic regressions, all strengths of the penalty together.

With some hundred weights, the whole matrix of second derivatives is cheap, and a dozen steps reach
the optimum. L-BFGS (`probe.heads.linear.logistic`) takes hundreds of steps there, each of which
costs more in calls than in arithmetic. Small problems are common: label budgets, and the first
portions of a codelength.

Shapes: n rows, d dimensions, s strengths, c classes. A point holds the weights, with the bias as
its last row: (s, d + 1, c).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Where the matrices of a step take more products than this, L-BFGS takes less time.
MOST_PRODUCTS = 300_000_000
MOST_ROWS = 1000  # they are copied
HALVINGS = 40  # of a step
SMALLEST_LOSS = 1e-12
RIDGE = 1e-12  # of the biases, which have no curvature where all rows are certain


@dataclass(frozen=True)
class Optimum:
    """The end of one problem, with its point (d + 1, c); see `probe.heads.linear.logistic`."""

    point: Tensor
    objective: float
    n_iterations: int
    converged: bool


def is_small(n_rows: int, dim: int, n_classes: int, n_strengths: int) -> bool:
    """Return whether Newton's method takes less time than L-BFGS."""
    n_weights = (dim + 1) * n_classes
    n_products = n_strengths * n_weights**2 * max(n_rows, n_weights)
    return n_rows <= MOST_ROWS and n_products <= MOST_PRODUCTS


def solve_small(
    rows: Tensor,
    targets: Tensor,
    n_classes: int,
    strengths: Sequence[float],
    tol: float,
    max_iter: int,
    tick: Callable[[], Any],
    row_weights: Tensor | None = None,
    start: Tensor | None = None,
) -> list[Optimum]:
    """Return one `Optimum` for each of ``strengths``.

    Args:
        rows: (row, dim) float64.
        tol, tick, row_weights: see `probe.heads.linear.logistic.solve`.
        start: (dim + 1, class) weights and bias of every problem to start from, unless zero weights
            have a smaller loss: where all rows are certain, there is no curvature to follow.
    """
    problem = _Problem(rows, targets, n_classes, row_weights)
    l2 = rows.new_tensor(strengths)
    point = rows.new_zeros(len(l2), rows.shape[1] + 1, n_classes)
    point[:, -1] = problem.truth.sum(0).log()
    if start is not None:
        started = start.expand_as(point)
        is_better = problem.losses(started, l2)[0] < problem.losses(point, l2)[0]
        point = torch.where(is_better[:, None, None], started, point)
    number = list(range(len(l2)))
    ended: dict[int, Optimum] = {}
    loss, errors, shares = problem.losses(point, l2)
    for n_iterations in range(max_iter + 1):
        gradient = problem.gradient(point, l2, errors)
        step = problem.step(gradient, l2, shares)
        slope = (gradient * step).sum((1, 2))
        done = (0.5 * slope <= tol * loss.clamp_min(SMALLEST_LOSS)).tolist()
        for index, is_done in enumerate(done):
            if is_done or n_iterations == max_iter:
                result = Optimum(point[index], float(loss[index]), n_iterations, is_done)
                ended[number[index]] = result
        active = [index for index, is_done in enumerate(done) if not is_done]
        if not active or n_iterations == max_iter:
            break
        number = [number[index] for index in active]
        l2, point, loss = l2[active], point[active], loss[active]
        step, slope = step[active], slope[active]
        length = torch.ones_like(loss)
        for _ in range(HALVINGS):
            new = point - length[:, None, None] * step
            new_loss, errors, shares = problem.losses(new, l2)
            worse = new_loss > loss - 1e-4 * length * slope + 1e-7 * loss
            if not worse.any():
                break
            length = torch.where(worse, length / 2, length)
        point, loss = new, new_loss
        tick()
    return [ended[index] for index in range(len(strengths))]


class _Problem:
    """The rows with their classes.

    Attributes:
        truth: (n, c) the share of each row in the mean, in the column of its class.
    """

    def __init__(
        self, rows: Tensor, targets: Tensor, n_classes: int, row_weights: Tensor | None
    ) -> None:
        self._rows = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
        share = rows.new_ones(len(rows)) if row_weights is None else row_weights.to(rows)
        self._share = (share / len(rows))[:, None]
        self.truth = torch.nn.functional.one_hot(targets, n_classes) * self._share

    def losses(self, point: Tensor, l2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the losses with the penalty (s,), the errors and the probabilities (s, n, c)."""
        log_shares = (self._rows @ point).log_softmax(2)
        shares = log_shares.exp()
        penalty = 0.5 * l2 * point[:, :-1].square().sum((1, 2))
        loss = penalty - (self.truth * log_shares).sum((1, 2))
        return loss, shares * self._share - self.truth, shares

    def gradient(self, point: Tensor, l2: Tensor, errors: Tensor) -> Tensor:
        """Return the gradients (s, d + 1, c)."""
        gradient = self._rows.T @ errors
        gradient[:, :-1] += l2[:, None, None] * point[:, :-1]
        return gradient

    def step(self, gradient: Tensor, l2: Tensor, shares: Tensor) -> Tensor:
        """Return the inverses of the second derivatives times the gradients (s, d + 1, c)."""
        n_problems, n_weights, n_classes = gradient.shape
        each = self._rows[:, :, None] * shares[:, :, None, :]  # (s, n, d + 1, c)
        scaled = each.flatten(2)
        curvature = (scaled * self._share).mT @ scaled
        curvature = curvature.neg_().view(n_problems, n_weights, n_classes, n_weights, n_classes)
        own = torch.einsum("snic,nj->sijc", each, self._rows * self._share)
        curvature.diagonal(dim1=2, dim2=4).add_(own)
        curvature[:, -1, :, -1, :] += 1 / n_classes  # the biases may move together at no cost
        curvature = curvature.flatten(3).flatten(1, 2)
        ridge = l2[:, None, None].expand(-1, n_weights, n_classes).clone()
        ridge[:, -1] = RIDGE
        curvature.diagonal(dim1=1, dim2=2).add_(ridge.flatten(1))
        factor = torch.linalg.cholesky(curvature)
        return torch.cholesky_solve(gradient.flatten(1)[:, :, None], factor).view_as(gradient)
