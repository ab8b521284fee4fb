"""Many multinomial logistic regressions on the same rows, solved together: the solver beneath `probe.heads.linear`.

For each strength ``l2`` minimised is ``mean cross-entropy + l2 / 2 * ||W||^2`` (the bias is free). The problems are convex. Their
weights stand side by side, so each pass over the rows is one wide matrix product for all of them; L-BFGS runs in all at once, each
with steps of its own:

* The metric it starts from is that of a curvature of the form ``G x M + l2``: the Gram matrix G of the rows over n, and the classes'
  mean covariance M under the present probabilities (both of some rows only). That is exact at the start, where all rows have the same
  probabilities, and M is taken anew after some iterations. Layers of speech models are ill-conditioned, and classes grow certain:
  with this metric it takes tens of iterations where plain L-BFGS takes thousands.
* Logits are linear in the weights: along a direction P they move by ``rows @ P``, computed once, so that no step of a line search
  costs a product. An iteration is two passes over the rows, whatever the line search does.
* With fewer rows than dimensions the rows are rotated into their span first: the penalty is invariant to that, and the directions
  that no row has carry no weight at the optimum.

A problem ends when what L-BFGS expects to gain by a further step is a small share of the loss, twice in a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

GRAM_ROWS = 20  # for each dimension
SMALLEST_VARIANCE = 1e-3  # of a class indicator, times the number of classes
CONFUSION_ROWS = 4096
REFRESHED = (1, 3, 8, 16, 32)  # iterations that look at the probabilities again
MEMORY = 10  # pairs that L-BFGS keeps
SMALLEST_DIRECTION = 1e-9  # directions weaker than this share of the strongest are rounding errors
STEPS = 8  # of a line search
FLAT = 0.5  # a step is long enough when this share of the slope is gone


@dataclass(frozen=True)
class Solution:
    """One problem's optimum.

    Attributes:
        weights: (dim, class).
        bias: (class,).
        objective: the loss with its penalty.
        n_iterations: of L-BFGS.
        converged: False where ``max_iter`` ended it.
    """

    weights: Tensor
    bias: Tensor
    objective: float
    n_iterations: int
    converged: bool


def solve(
    rows: Tensor, targets: Tensor, n_classes: int, strengths: Sequence[float], tol: float = 1e-9, max_iter: int = 1000
) -> list[Solution]:
    """One `Solution` for each of ``strengths``.

    Args:
        rows: (row, dim) float32 or float64, every dimension of mean 0; the precision of everything that is computed.
        targets: (row,) int64, classes from 0.
        tol: share of the loss that a further step must not be worth.
    """
    basis = _span(rows) if len(rows) < rows.shape[1] else None
    problem = _Problems(rows if basis is None else rows @ basis, targets, n_classes, rows.new_tensor(strengths))
    weights, bias, losses, iterations, converged = problem.run(tol, max_iter)
    if basis is not None:
        weights = torch.einsum("dr,src->sdc", basis, weights)
    return [Solution(*item) for item in zip(weights, bias, losses.tolist(), iterations.tolist(), converged.tolist(), strict=True)]


def _span(rows: Tensor) -> Tensor:
    """(row, dim) of fewer rows than dimensions -> (dim, direction), orthonormal columns that span the rows."""
    squares, vectors = torch.linalg.eigh((rows @ rows.T).double())
    kept = squares > SMALLEST_DIRECTION * squares[-1].clamp_min(torch.finfo(torch.float64).tiny)
    return (rows.T.double() @ (vectors[:, kept] / squares[kept].sqrt())).to(rows.dtype)


class _Problems:
    """The problems of one call. Shapes: s strengths, n rows, d dimensions, c classes; weights (s, d, c), logits (n, s, c)."""

    def __init__(self, rows: Tensor, targets: Tensor, n_classes: int, strengths: Tensor) -> None:
        self.rows, self.targets, self.n_classes, self.strengths = rows, targets, n_classes, strengths
        n_rows, dim = rows.shape
        self.some = slice(None, None, max(1, n_rows // max(1, GRAM_ROWS * dim)))
        some = rows[self.some]
        spread, axes = torch.linalg.eigh((some.T @ some).double() / len(some))
        self.spread, self.axes = spread.clamp_min(0).to(rows.dtype), axes.to(rows.dtype)

    def times(self, weights: Tensor) -> Tensor:
        """(s, d, c) -> (n, s, c): one product with all weights side by side."""
        wide = weights.transpose(0, 1).reshape(weights.shape[1], -1)
        return (self.rows @ wide).view(len(self.rows), *weights.shape[::2])

    def back(self, errors: Tensor) -> Tensor:
        """(n, s, c) -> (s, d, c)."""
        return (self.rows.T @ errors.flatten(1)).view(-1, *errors.shape[1:]).transpose(0, 1)

    def losses(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """(n, s, c) -> mean cross-entropy (s,) float64, and the errors, probabilities less the truth over n, in new memory."""
        log_probabilities = logits.log_softmax(2)
        truth = self.targets[:, None, None].expand(-1, logits.shape[1], 1)
        loss = -log_probabilities.gather(2, truth)[:, :, 0].double().mean(0)
        errors = log_probabilities.exp_()
        errors.scatter_add_(2, truth, errors.new_full((), -1.0).expand_as(truth))
        return loss, errors.div_(len(logits))

    def run(self, tol: float, max_iter: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Weights (s, d, c), bias (s, c), objective, iterations and whether it converged (s,)."""
        rows, n_classes, dim = self.rows, self.n_classes, self.rows.shape[1]
        n_all = len(self.strengths)
        # A point is weights and, in its last row, the bias: (s, d + 1, c).
        best = rows.new_zeros(n_all, dim + 1, n_classes)
        objective = torch.zeros(n_all, dtype=torch.float64, device=rows.device)
        iterations = torch.zeros(n_all, dtype=torch.int64, device=rows.device)
        converged = torch.zeros(n_all, dtype=torch.bool, device=rows.device)
        active = torch.arange(n_all, device=rows.device)  # problems that go on
        # It starts where no dimension says anything, at the classes' shares.
        point = best.clone()
        point[:, -1] = torch.bincount(self.targets, minlength=n_classes).div(len(rows)).log().to(rows.dtype)
        logits = point[:, -1].repeat(len(rows), 1, 1)
        loss, errors = self.losses(logits)
        gradient = self._gradient(point, errors, active)
        pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # moves, changes of the gradient, 1 / their products
        small = torch.zeros(n_all, dtype=torch.int64, device=rows.device)
        for iteration in range(1, max_iter + 1):
            if iteration in REFRESHED:
                confusion = self._confusion(logits)
            direction = -self._metric(gradient, pairs, confusion, active)
            slope = _dots(gradient, direction)
            small = torch.where(-0.5 * slope <= tol * loss, small + 1, 0)
            done = small >= 2
            iterations[active] = iteration - 1
            best[active], objective[active], converged[active] = point, loss, done
            if done.any():
                kept = (~done).nonzero()[:, 0]
                if not len(kept):
                    break
                active, small, point, gradient, loss = (item[kept] for item in (active, small, point, gradient, loss))
                confusion = confusion[0][kept], confusion[1][kept]
                direction, slope, logits = direction[kept], slope[kept], logits[:, kept]
                pairs = [(move[kept], change[kept], inverse[kept]) for move, change, inverse in pairs]
            moved = self.times(direction[:, :-1]) + direction[:, -1]
            step, loss, errors = self._search(point, direction, logits, moved, loss, slope, active)
            logits = logits.add_(moved * step[:, None])
            move = step[:, None, None] * direction
            point = point + move
            before, gradient = gradient, self._gradient(point, errors, active)
            change = gradient - before
            products = _dots(move, change)
            # A pair that says nothing (no curvature left above rounding) has no weight.
            inverse = torch.where(products > 1e-14 * _dots(move, move), 1 / products, 0.0)
            pairs = [*pairs[-MEMORY + 1 :], (move, change, inverse)]
        return best[:, :-1], best[:, -1], objective, iterations, converged

    def _confusion(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Spread (s, c) and axes (s, c, c) of the classes' mean covariance ``diag(p) - p p'`` under the present probabilities."""
        some = logits[:: max(1, len(logits) // CONFUSION_ROWS)].softmax(2).double()
        products = torch.einsum("nsi,nsj->sij", some, some) / len(some)
        between, turned = torch.linalg.eigh(torch.diag_embed(some.mean(0)) - products)
        return between.clamp_min(0).to(logits.dtype), turned.to(logits.dtype)

    def _gradient(self, point: Tensor, errors: Tensor, active: Tensor) -> Tensor:
        """(s, d + 1, c)."""
        of_weights = self.back(errors) + self.strengths[active][:, None, None] * point[:, :-1]
        return torch.cat([of_weights, errors.sum(0)[:, None]], dim=1)

    def _metric(
        self, gradient: Tensor, pairs: Sequence[tuple[Tensor, Tensor, Tensor]], confusion: tuple[Tensor, Tensor], active: Tensor
    ) -> Tensor:
        """The inverse curvature that L-BFGS believes in, times the gradient (s, d + 1, c)."""
        rest = gradient.clone()
        shares = []
        for move, change, inverse in reversed(pairs):
            share = (inverse * _dots(move, rest)).to(rest.dtype)[:, None, None]
            rest -= share * change
            shares.append(share)
        between, turned = confusion
        curvature = self.spread[:, None] * between[:, None] + self.strengths[active][:, None, None]
        first = self.axes @ (self.axes.T @ rest[:, :-1] @ turned / curvature) @ turned.mT
        of_bias = (rest[:, -1:] @ turned / between[:, None].clamp_min(SMALLEST_VARIANCE / self.n_classes)) @ turned.mT
        result = torch.cat([first, of_bias], dim=1)
        for (move, change, inverse), share in zip(pairs, reversed(shares), strict=True):
            result += (share - (inverse * _dots(change, result)).to(rest.dtype)[:, None, None]) * move
        return result

    def _search(
        self, point: Tensor, direction: Tensor, logits: Tensor, moved: Tensor, loss: Tensor, slope: Tensor, active: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Step lengths (s,), the losses there with their penalties, and the errors there; bisection and secants on the slope."""
        l2 = self.strengths[active].double()
        weights, towards = point[:, :-1], direction[:, :-1]
        square, cross, rate = _dots(weights, weights), _dots(weights, towards), _dots(towards, towards)
        low, low_slope = torch.zeros_like(slope), slope
        high = torch.full_like(slope, float("inf"))
        step = torch.ones_like(slope)
        for _ in range(STEPS):
            fitted, errors = self.losses(logits + moved * step.to(moved.dtype)[:, None])
            there = fitted + 0.5 * l2 * (square + 2 * step * cross + step**2 * rate)
            steep = (errors * moved).sum((0, 2)).double() + l2 * (cross + step * rate)
            worse = there > loss + 1e-4 * step * slope + 1e-7 * loss.abs()
            enough = (steep.abs() <= FLAT * slope.abs()) & ~worse
            if enough.all():
                break
            too_far = worse | (steep > 0)
            high = torch.where(~enough & too_far, step, high)
            low_slope = torch.where(~enough & ~too_far, steep, low_slope)
            low = torch.where(~enough & ~too_far, step, low)
            secant = low + (step - low) * low_slope / (low_slope - steep)
            inside = torch.where(worse | ~secant.isfinite(), (low + high) / 2, secant)
            inside = inside.clamp(low + 0.1 * (high - low), low + 0.9 * (high - low))
            step = torch.where(enough, step, torch.where(high.isinf(), 2.5 * step, inside))
        return step.to(moved.dtype), there, errors


def _dots(first: Tensor, second: Tensor) -> Tensor:
    """(s, d, c) twice -> (s,) float64."""
    return (first * second).flatten(1).sum(1, dtype=torch.float64)
