"""The solver of `probe.heads.linear.linear_probe`: multinomial logistic regressions on the same
rows, one for each strength of the penalty.

The objective for a strength ``l2`` is ``mean cross-entropy + l2 / 2 * ||W||^2``, without a penalty
on the bias. The problems are convex. They are solved from the strongest penalty to the weakest,
each from the solution of the one before: a weak penalty alone needs several times as many
iterations. Small problems are solved by Newton's method (`probe.heads.linear.newton`), others by
L-BFGS:

* The initial metric assumes a curvature of the form ``G x M + l2``, with the Gram matrix G of the
  rows divided by n and the mean covariance M of the classes under the current probabilities (both
  from a part of the rows). It is exact at the start, where all rows have the same probabilities,
  and M is recomputed after some iterations. Layers of speech models are ill-conditioned, and the
  predictions become confident: with this metric, the solver takes tens of iterations where plain
  L-BFGS takes thousands.
* An iteration visits the rows once (`probe.heads.linear.logistic_pass`): while a block is in the
  cache, its logits move by a whole step and its errors enter the next gradient. The rows may
  therefore be on a disk; only the logits stay in memory.
* If a whole step is rejected, a line search on the logits, which are linear in the step, and a
  second visit follow.
* Far from the optimum, products use rounded factors; the solver recomputes logits and gradient in
  full precision before it ends.
* If there are fewer rows than dimensions, the rows are first rotated into their span.

A problem ends when the expected gain of a further step is a small share of the loss, twice in a
row.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from probe.heads.linear.logistic_pass import Logits, StandardizedRows, visit
from probe.heads.linear.newton import Optimum, SmallProblem, is_small

GRAM_ROWS = 20  # rows per dimension
SMALLEST_VARIANCE = 1e-3  # variance of a class indicator, times the number of classes
CONFUSION_ROWS = 4096
REFRESHED = (1, 3, 8, 16, 32)  # iterations that recompute the covariance of the classes
# Pairs that L-BFGS keeps: more of them save iterations, so small problems keep many.
FEWEST_PAIRS, MOST_PAIRS = 10, 100
PAIR_BYTES = 16 << 20
STEPS = 8  # steps of a line search
FLAT = 0.5  # a step is long enough when this share of the slope is gone
# Smaller losses are indistinguishable, because probabilities near 1 are rounded.
SMALLEST_LOSS = {torch.float32: 1e-2, torch.float64: 1e-12}
FEWEST_ROUNDED = 1000  # rows: of fewer, products take less time than what is around them
MOST_ROUGH = 40  # largest number of iterations with rounded products
ROUGH = 1e-3  # products are rounded while a step is worth more than this share of the loss


@dataclass(frozen=True)
class Solution:
    """The optimum of one problem.

    Attributes:
        weights: (dim, class).
        bias: (class,).
        objective: the loss including the penalty.
        n_iterations: number of iterations of L-BFGS or Newton's method.
        converged: False if ``max_iter`` was reached.
    """

    weights: Tensor
    bias: Tensor
    objective: float
    n_iterations: int
    converged: bool


def solve(
    inputs: StandardizedRows,
    targets: Tensor,
    n_classes: int,
    strengths: Sequence[float],
    tol: float = 1e-9,
    max_iter: int = 1000,
    tick: Callable[[], Any] = lambda: None,
    row_weights: Tensor | None = None,
    start: tuple[Tensor, Tensor] | None = None,
) -> list[Solution]:
    """Return one `Solution` for each of ``strengths``.

    Args:
        inputs: rows whose dimensions have mean 0; they are kept in memory if they are fewer than
            their dimensions.
        targets: (row,) int64, classes from 0, on the inputs' device.
        tol: the solver stops when a further step would gain less than this share of the loss.
        tick: called after each block of rows.
        row_weights: (row,) of mean 1, by which each row counts; all 1 where None.
        start: (dim, class) weights and (class,) bias from which the strongest penalty starts; None
            starts from zero weights.
    """
    if inputs.shape[0] < inputs.shape[1]:
        inputs.rotate_into_span()
    basis, point = inputs.basis, None
    if start is not None:
        weights = start[0] if basis is None else basis.T @ start[0].to(basis)
        point = torch.cat([weights, start[1].to(weights)[None]]).to(inputs.device)
    problem: SmallProblem | _Problem
    if is_small(*inputs.shape, n_classes):
        rows = torch.cat([block.double() for _, block in inputs.blocks()])
        problem = SmallProblem(rows, targets, n_classes, row_weights, tick)
    else:
        problem = _Problem(inputs, targets, n_classes, row_weights, tick)
    solutions = {}
    for l2 in sorted(set(strengths), reverse=True):
        end = problem.solve(l2, tol, max_iter, point)
        point = end.point
        weights, bias = point[:-1].to(inputs.dtype), point[-1].to(inputs.dtype)
        if basis is not None:
            weights = basis @ weights
        solutions[l2] = Solution(weights, bias, end.objective, end.n_iterations, end.converged)
    return [solutions[l2] for l2 in strengths]


def state_bytes(n_rows: int, n_classes: int, itemsize: int) -> int:
    """Return the bytes that a problem takes beside its rows (`logistic_pass.Logits`)."""
    return 2 * n_rows * n_classes * itemsize


class _Pairs:
    """The last moves of the point and the changes of the gradient along them, side by side.

    The inverse curvature that L-BFGS makes of them is applied as a few products of matrices
    (Byrd, Nocedal & Schnabel 1994, "Representations of quasi-Newton matrices"): the two loops over
    the pairs are the solutions of two triangular systems. The pairs lie in a ring.
    """

    def __init__(self, point: Tensor) -> None:
        n_bytes = 2 * point.numel() * point.itemsize
        n = min(MOST_PAIRS, max(FEWEST_PAIRS, PAIR_BYTES // max(1, n_bytes)))
        self._moves = point.new_empty(n, point.numel())
        self._changes = torch.empty_like(self._moves)
        self._products = point.new_empty(n, n, dtype=torch.float64)  # moves times changes
        self._order: list[int] = []  # the places that are in use, oldest first

    def __len__(self) -> int:
        return len(self._order)

    def clear(self) -> None:
        """Forget all pairs."""
        self._order = []

    def add(self, move: Tensor, change: Tensor) -> None:
        """Add a pair (d + 1, c) in place of the oldest."""
        is_full = len(self._order) == len(self._moves)
        place = self._order.pop(0) if is_full else len(self._order)
        self._order.append(place)
        self._moves[place], self._changes[place] = move.flatten(), change.flatten()
        n = len(self._order)
        self._products[place, :n] = self._changes[:n] @ self._moves[place]
        self._products[:n, place] = self._moves[:n] @ self._changes[place]

    def newest(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Return the change of the newest pair (d + 1, c), and its product with the move."""
        place = self._order[-1]
        return self._changes[place].view(shape), self._products[place, place]

    def inverse_curvature(self, gradient: Tensor, at_start: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the inverse curvature times the gradient (d + 1, c), where ``at_start`` multiplies
        by the one that is assumed without pairs.
        """
        n, by_age = len(self._order), self._order
        by_place = sorted(range(n), key=by_age.__getitem__)
        moves, changes = self._moves[:n], self._changes[:n]
        products = self._products[by_age][:, by_age]
        triangle, rest = products.triu(), gradient.flatten()
        along = (moves @ rest)[by_age, None].double()
        share = torch.linalg.solve_triangular(triangle, along, upper=True)[:, 0]
        rest = rest - share[by_place].to(rest.dtype) @ changes
        result = at_start(rest.view(gradient.shape)).flatten()
        wanted = products.diagonal() * share - (changes @ result)[by_age].double()
        correction = torch.linalg.solve_triangular(triangle.mT, wanted[:, None], upper=False)
        return (result + correction[by_place, 0].to(rest.dtype) @ moves).view(gradient.shape)


class _Trial(NamedTuple):
    """What a step leads to.

    Attributes:
        loss: with the penalty.
        slope: of the loss along the step.
    """

    loss: float
    slope: float


@dataclass
class _Descent:
    """The state of a problem. A point holds the weights in the axes of the Gram matrix, with the
    bias as its last row.

    Attributes:
        point, gradient: (d + 1, c).
        loss: including the penalty.
        curvature, axes: (d + 1, c) and (c, c); the curvature that is assumed without pairs, in the
            eigenvectors of the classes' covariance.
        pairs: what L-BFGS knows of the curvature.
        iterations: how many there were.
        converged: whether a further step would gain too little.
    """

    point: Tensor
    gradient: Tensor
    loss: float
    curvature: Tensor
    axes: Tensor
    pairs: _Pairs
    iterations: int = 0
    converged: bool = False

    def start_metric(self, gradient: Tensor) -> Tensor:
        """Return the inverse of ``G x M + l2`` times gradients (..., d + 1, c)."""
        return (gradient @ self.axes / self.curvature) @ self.axes.mT

    def direction(self) -> Tensor:
        """Return L-BFGS's estimate of the inverse curvature times the negative gradient."""
        if not self.pairs:
            return self.start_metric(self.gradient).neg_()
        change, product = self.pairs.newest(self.gradient.shape)

        def at_start(gradient: Tensor) -> Tensor:
            # Scaled to the latest curvature: the mean covariance ignores that confident rows weigh
            # less, which made whole steps too long.
            result, of_change = self.start_metric(torch.stack([gradient, change]))
            scale = _dot(change, of_change) / float(product)
            return result / scale if scale > 0 else result

        return self.pairs.inverse_curvature(self.gradient, at_start).neg_()


class _Problem:
    """The rows with their classes. Shapes: n rows, d dimensions, c classes."""

    def __init__(
        self,
        inputs: StandardizedRows,
        targets: Tensor,
        n_classes: int,
        row_weights: Tensor | None,
        tick: Callable[[], Any],
    ) -> None:
        self.inputs, self.targets, self.n_classes, self.tick = inputs, targets, n_classes, tick
        self.weights = None if row_weights is None else row_weights.to(inputs.dtype)
        n_rows, dim = inputs.shape
        gram = torch.zeros(dim, dim, dtype=torch.float64, device=inputs.device)
        self.sums = torch.zeros(n_classes, dim, dtype=inputs.dtype, device=inputs.device)
        every = max(1, n_rows // max(1, GRAM_ROWS * dim))
        for start, block in inputs.blocks():
            wide = block[-start % every :: every].double()
            if self.weights is not None:
                weights = self.weights[start : start + len(block), None]
                wide = wide * weights[-start % every :: every].double().sqrt()
                block = block * weights
            gram += wide.T @ wide
            self.sums.index_add_(0, targets[start : start + len(block)], block)
            tick()
        spread, axes = torch.linalg.eigh(gram / (1 + (n_rows - 1) // every))
        self.spread, self.axes = spread.clamp_min(0).to(inputs.dtype), axes.to(inputs.dtype)
        self.logits = Logits(*(self.sums.new_empty(n_rows, n_classes) for _ in range(2)))

    def solve(self, l2: float, tol: float, max_iter: int, start: Tensor | None) -> Optimum:
        """Return the optimum for a strength, from the point (d + 1, c) ``start`` on."""
        state, factor = self._start(), _rounded(self.inputs)
        if start is not None:
            start = start.to(self.sums)
            state.point = torch.cat([self.axes.T @ start[:-1], start[-1:]])
        if factor != self.inputs.dtype:
            self._descend(state, l2, factor, max(tol, ROUGH), min(max_iter, MOST_ROUGH))
        self._descend(state, l2, self.inputs.dtype, tol, max_iter)
        point = torch.cat([self.axes @ state.point[:-1], state.point[-1:]])
        return Optimum(point, state.loss, state.iterations, state.converged)

    def _start(self) -> _Descent:
        """Return the state at zero weights, with a bias from the shares of the classes."""
        (n_rows, dim), like = self.inputs.shape, self.sums
        weights = None if self.weights is None else self.weights.double()
        shares = torch.bincount(self.targets, weights, self.n_classes).double() / n_rows
        point = like.new_zeros(dim + 1, self.n_classes)
        point[-1] = shares.log().to(like.dtype)
        # All rows have the same errors except for their truth, so no product is needed.
        gradient = torch.zeros_like(point)
        gradient[:-1] = (
            self.axes.T @ (self.sums.sum(0)[:, None] * shares.to(like.dtype) - self.sums.T) / n_rows
        )
        loss = -float((shares * shares.log()).sum())
        axes = like.new_empty(self.n_classes, self.n_classes)
        return _Descent(point, gradient, loss, torch.empty_like(point), axes, _Pairs(point))

    def _descend(
        self, state: _Descent, l2: float, factor: torch.dtype, tol: float, max_iter: int
    ) -> None:
        """Go on until a further step gains no more than ``tol`` of the loss, with products of dtype
        ``factor``.
        """
        times = 2 if factor == self.inputs.dtype else 1  # in a row
        self.logits.now[:] = state.point[-1]
        if state.point[:-1].any():
            self._afresh(state, l2)
        state.pairs.clear()  # pairs of rounded gradients at other points mislead
        n_small, state.converged = 0, False
        while True:
            if state.iterations + 1 in REFRESHED or not state.pairs:
                self._assume_curvature(state, l2)
            direction = state.direction()
            slope = _dot(state.gradient, direction)
            if state.pairs and slope >= 0:  # rounding has spoiled the pairs
                state.pairs.clear()
                direction = state.direction()
                slope = _dot(state.gradient, direction)
            worth = tol * max(state.loss, SMALLEST_LOSS[self.inputs.dtype])
            n_small = n_small + 1 if -0.5 * slope <= worth else 0
            state.converged = n_small >= times
            if state.converged or state.iterations >= max_iter:
                return
            self._advance(state, l2, direction, slope, factor)

    def _afresh(self, state: _Descent, l2: float) -> None:
        """Recompute logits, loss and gradient of the current point in full precision."""
        self.logits.now.zero_()
        self._penalise(state, l2, state.point, *self._visit(state.point, self.inputs.dtype))

    def _visit(self, direction: Tensor | None, factor: torch.dtype) -> tuple[float, Tensor]:
        """Call `visit` with direction and gradient in the axes of the Gram matrix."""
        if direction is not None:
            direction = torch.cat([self.axes @ direction[:-1], direction[-1:]])
        how = (self.targets, self.logits, direction, factor, self.tick, self.weights)
        fitted, gradient = visit(self.inputs, *how)
        return fitted, torch.cat([self.axes.T @ gradient[:-1], gradient[-1:]])

    @staticmethod
    def _penalise(
        state: _Descent, l2: float, point: Tensor, fitted: float, gradient: Tensor
    ) -> None:
        """Set a point with its mean cross-entropy and gradient, and add the penalty."""
        gradient[:-1].add_(point[:-1], alpha=l2)
        state.loss = fitted + 0.5 * l2 * _dot(point[:-1], point[:-1])
        state.point, state.gradient = point, gradient

    def _advance(
        self, state: _Descent, l2: float, direction: Tensor, slope: float, factor: torch.dtype
    ) -> None:
        """Take one step of L-BFGS, a whole one if it is good enough."""
        before, loss, start = state.gradient, state.loss, state.point
        self._penalise(state, l2, start + direction, *self._visit(direction, factor))
        whole = _Trial(state.loss, _dot(state.gradient, direction))
        move = direction
        if not _judge_step(loss, slope, 1.0, whole)[1]:
            step = self._search(start, direction, loss, slope, l2, whole)
            self.logits.shift(step - 1)
            move = step * direction
            self._penalise(state, l2, start + move, *self._visit(None, factor))
        state.iterations += 1
        length = _dot(move, move)
        if length == 0:
            state.pairs.clear()
            return
        change = state.gradient - before
        if _dot(move, change) > 1e-14 * length:  # there is curvature above rounding
            state.pairs.add(move, change)

    def _search(
        self, start: Tensor, direction: Tensor, loss: float, slope: float, l2: float, end: _Trial
    ) -> float:
        """Return a step length from bisection and secants on the slope, or 0 if no step is better.

        Args:
            end: what step 1, at which the logits are, leads to.
        """
        weights, towards = start[:-1], direction[:-1]
        square, cross, rate = _dot(weights, weights), _dot(weights, towards), _dot(towards, towards)
        low, low_slope, high = 0.0, slope, math.inf
        step, good = 1.0, 0.0
        for _ in range(STEPS):
            worse, enough = _judge_step(loss, slope, step, end)
            good = good if worse else step
            if enough:
                break
            secant = math.nan
            if not worse and end.slope != low_slope:
                secant = low + (step - low) * low_slope / (low_slope - end.slope)
            if worse or end.slope > 0:
                high = step
            else:
                low, low_slope = step, end.slope
            if math.isinf(high):
                step *= 2.5
            else:
                inside = secant if math.isfinite(secant) else (low + high) / 2
                step = min(max(inside, low + 0.1 * (high - low)), low + 0.9 * (high - low))
            fitted, end_slope = self.logits.slope(self.targets, step - 1, self.weights)
            end = _Trial(
                fitted + 0.5 * l2 * (square + 2 * step * cross + step**2 * rate),
                end_slope + l2 * (cross + step * rate),
            )
        return good

    def _assume_curvature(self, state: _Descent, l2: float) -> None:
        """Set the curvature of `_Descent.start_metric` from the classes' mean covariance ``diag(p)
        - p p'`` under the current probabilities.
        """
        every = max(1, len(self.logits.now) // CONFUSION_ROWS)
        shares = self.logits.now[::every].softmax(1)
        weighted = shares if self.weights is None else shares * self.weights[::every, None]
        products = (weighted.T @ shares).double() / len(shares)
        means = torch.diag(weighted.mean(0, dtype=torch.float64))
        spread, axes = torch.linalg.eigh(means - products)
        spread = spread.clamp_min(0).to(shares.dtype)[None]
        of_bias = spread.clamp_min(SMALLEST_VARIANCE / self.n_classes)
        state.curvature = torch.cat([self.spread[:, None] * spread + l2, of_bias])
        state.axes = axes.to(shares.dtype)


def _rounded(inputs: StandardizedRows) -> torch.dtype:
    """Return the dtype of product factors far from the optimum: half the bits if the processor
    multiplies those faster, and the products are what takes the time.
    """
    if inputs.device.type != "cpu" or inputs.shape[0] < FEWEST_ROUNDED:
        return inputs.dtype
    if inputs.dtype == torch.float64:
        return torch.float32
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else inputs.dtype


def _judge_step(loss: float, slope: float, step: float, end: _Trial) -> tuple[bool, bool]:
    """Return whether a step is worse than its start and whether it is good enough."""
    worse = not end.loss <= loss + 1e-4 * step * slope + 1e-7 * abs(loss)
    return worse, abs(end.slope) <= FLAT * abs(slope) and not worse


def _dot(first: Tensor, second: Tensor) -> float:
    """Return the product of two tensors, summed in float64."""
    return float((first * second).sum(dtype=torch.float64))
