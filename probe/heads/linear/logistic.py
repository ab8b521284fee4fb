"""The solver of `probe.heads.linear.linear_probe`: many multinomial logistic regressions on the
same rows, solved together.

The objective for a strength ``l2`` is ``mean cross-entropy + l2 / 2 * ||W||^2``, without a penalty
on the bias. The problems are convex. Their weights lie side by side, so each pass over the rows is
one wide matrix product for all of them. L-BFGS runs on all problems at once, with separate steps:

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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from probe.heads.linear.logistic_pass import Logits, StandardizedRows, visit

GRAM_ROWS = 20  # rows per dimension
SMALLEST_VARIANCE = 1e-3  # variance of a class indicator, times the number of classes
CONFUSION_ROWS = 4096
REFRESHED = (1, 3, 8, 16, 32)  # iterations that recompute the covariance of the classes
MEMORY = 10  # number of pairs that L-BFGS keeps
STEPS = 8  # steps of a line search
FLAT = 0.5  # a step is long enough when this share of the slope is gone
# Smaller losses are indistinguishable, because probabilities near 1 are rounded.
SMALLEST_LOSS = {torch.float32: 1e-2, torch.float64: 1e-12}
MOST_ROUGH = 40  # largest number of iterations with rounded products
ROUGH = 1e-3  # products are rounded while a step is worth more than this share of the loss


@dataclass(frozen=True)
class Solution:
    """The optimum of one problem.

    Attributes:
        weights: (dim, class).
        bias: (class,).
        objective: the loss including the penalty.
        n_iterations: number of L-BFGS iterations.
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
        start: (dim, class) weights and (class,) bias of every problem to start from; None starts
            from zero weights.
    """
    if inputs.shape[0] < inputs.shape[1]:
        inputs.rotate_into_span()
    basis = inputs.basis
    problems = _Problems(inputs, targets, n_classes, strengths, tick, row_weights)
    if start is not None and basis is not None:
        start = basis.T @ start[0].to(basis), start[1]
    ended = problems.run(tol, max_iter, start)
    solutions = []
    for point, loss, n_iterations, converged in ended:
        weights = point[:-1] if basis is None else basis @ point[:-1]
        solutions.append(Solution(weights, point[-1], loss, n_iterations, converged))
    return solutions


def state_bytes(n_rows: int, n_classes: int, itemsize: int) -> int:
    """Return the bytes that one strength takes while it is solved (`logistic_pass.Logits`)."""
    return 2 * n_rows * n_classes * itemsize


@dataclass
class _Descent:
    """The state of the problems. A point holds the weights in the axes of the Gram matrix, with the
    bias as its last row.

    Attributes:
        l2: (s,) float64.
        point, gradient: (s, d + 1, c).
        loss: (s,) float64, including the penalty.
        small: (s,) number of successive steps with too small a gain.
        iterations: (s,).
        spread, axes: (s, c) and (s, c, c), eigenvalues and eigenvectors of the classes' covariance.
        pairs: pairs of L-BFGS: moves and changes of the gradient (s, d + 1, c), and the inverse of
            their products (s,).
    """

    l2: Tensor
    point: Tensor
    gradient: Tensor
    loss: Tensor
    small: Tensor
    iterations: Tensor
    spread: Tensor
    axes: Tensor
    pairs: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list, kw_only=True)

    def subset(self, problems: list[int]) -> "_Descent":
        """Return the state of some of the problems."""
        pairs = [
            (move[problems], change[problems], inv[problems]) for move, change, inv in self.pairs
        ]
        return _Descent(*(item[problems] for item in self.tensors()), pairs=pairs)

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all fields except the pairs, in order."""
        state = (self.l2, self.point, self.gradient, self.loss, self.small, self.iterations)
        return (*state, self.spread, self.axes)


def _together(several: Sequence[_Descent]) -> _Descent:
    """Merge the problems, without their pairs, because pairs of rounded gradients at other points
    mislead.
    """
    columns = zip(*(one.tensors() for one in several), strict=True)
    return _Descent(*(torch.cat(column) for column in columns))


class _Problems:
    """The problems of one call. Shapes: s strengths, n rows, d dimensions, c classes."""

    def __init__(
        self,
        inputs: StandardizedRows,
        targets: Tensor,
        n_classes: int,
        strengths: Sequence[float],
        tick: Callable[[], Any],
        row_weights: Tensor | None = None,
    ) -> None:
        self.inputs, self.targets, self.tick = inputs, targets, tick
        self.weights = None if row_weights is None else row_weights.to(inputs.dtype)
        self.n_classes, self.strengths = n_classes, strengths
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

    def run(
        self, tol: float, max_iter: int, start: tuple[Tensor, Tensor] | None = None
    ) -> list[tuple[Tensor, float, int, bool]]:
        """Return for each problem its point (d + 1, c), objective, number of iterations and whether
        it converged.
        """
        problems, factor = self._start(), _rounded(self.inputs)
        if start is not None:
            weights, bias = (item.to(problems.point) for item in start)
            problems.point[:] = torch.cat([self.axes.T @ weights, bias[None]])
        if factor != self.inputs.dtype:
            problems = self._descend(problems, factor, max(tol, ROUGH), min(max_iter, MOST_ROUGH))
        problems = self._descend(problems, self.inputs.dtype, tol, max_iter)
        points = torch.cat([self.axes @ problems.point[:, :-1], problems.point[:, -1:]], dim=1)
        converged = (problems.small >= 2).tolist()
        columns = (points, problems.loss.tolist(), problems.iterations.tolist(), converged)
        return list(zip(*columns, strict=True))

    def _start(self) -> "_Descent":
        """Return the state at zero weights, with a bias from the shares of the classes."""
        (n_rows, dim), like, n_strengths = self.inputs.shape, self.sums, len(self.strengths)
        weights = None if self.weights is None else self.weights.double()
        shares = torch.bincount(self.targets, weights, self.n_classes).double() / n_rows
        point = like.new_zeros(n_strengths, dim + 1, self.n_classes)
        point[:, -1] = shares.log().to(like.dtype)
        # All rows have the same errors except for their truth, so no product is needed.
        gradient = torch.zeros_like(point)
        gradient[:, :-1] = (
            self.axes.T @ (self.sums.sum(0)[:, None] * shares.to(like.dtype) - self.sums.T) / n_rows
        )
        loss = -(shares * shares.log()).sum().repeat(n_strengths)
        l2 = torch.tensor(self.strengths, dtype=torch.float64, device=like.device)
        none = torch.zeros(n_strengths, dtype=torch.int64, device=like.device)
        axes = like.new_zeros(n_strengths, self.n_classes, self.n_classes)
        return _Descent(l2, point, gradient, loss, none, none, axes[:, 0], axes)

    def _descend(
        self, problems: "_Descent", factor: torch.dtype, tol: float, max_iter: int
    ) -> "_Descent":
        """Solve each problem until a further step gains no more than ``tol`` of its loss, with
        products of dtype ``factor``.
        """
        times = 2 if factor == self.inputs.dtype else 1  # in a row
        number = torch.arange(len(problems.l2), device=self.sums.device)
        ended: list[_Descent] = [problems] * len(number)
        logits = Logits.at(problems.point[:, -1], self.inputs.shape[0])
        if problems.point[:, :-1].any():
            self._afresh(problems, logits)
        problems.small = torch.zeros_like(problems.small)
        for _ in range(max_iter + 1):
            if int(problems.iterations.max()) + 1 in REFRESHED or not problems.pairs:
                problems.spread, problems.axes = self._confusion(logits.now)
            direction = -self._metric(problems)
            slope = _dots(problems.gradient, direction)
            if problems.pairs and (slope >= 0).any():  # rounding has spoiled the pairs
                problems.pairs = []
                direction = -self._metric(problems)
                slope = _dots(problems.gradient, direction)
            worth = tol * problems.loss.clamp_min(SMALLEST_LOSS[self.inputs.dtype])
            problems.small = torch.where(-0.5 * slope <= worth, problems.small + 1, 0)
            done = (problems.small >= times) | (problems.iterations >= max_iter)
            for index in done.nonzero()[:, 0].tolist():
                ended[int(number[index])] = problems.subset([index])
            if done.all():
                break
            if done.any():
                active = (~done).nonzero()[:, 0].tolist()
                problems, number = problems.subset(active), number[active]
                direction, slope = direction[active], slope[active]
                logits.keep(active)
            self._advance(problems, logits, direction, slope, factor)
        return _together(ended)

    def _afresh(self, problems: _Descent, logits: Logits) -> None:
        """Recompute logits, loss and gradient of the current points in full precision."""
        logits.now.zero_()
        fitted, gradient = self._visit(logits, problems.point, self.inputs.dtype)
        self._penalise(problems, problems.point, fitted, gradient)

    def _visit(
        self, logits: Logits, direction: Tensor | None, factor: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Call `visit` with direction and gradient in the axes of the Gram matrix."""
        if direction is not None:
            direction = torch.cat([self.axes @ direction[:, :-1], direction[:, -1:]], dim=1)
        fitted, gradient = visit(
            self.inputs, self.targets, logits, direction, factor, self.tick, self.weights
        )
        return fitted, torch.cat([self.axes.T @ gradient[:, :-1], gradient[:, -1:]], dim=1)

    def _penalise(
        self, problems: _Descent, point: Tensor, fitted: Tensor, gradient: Tensor
    ) -> None:
        """Set a point with its mean cross-entropy and gradient, and add the penalty."""
        weights = point[:, :-1]
        gradient[:, :-1] += problems.l2.to(weights.dtype)[:, None, None] * weights
        problems.loss = fitted + 0.5 * problems.l2 * _dots(weights, weights)
        problems.point, problems.gradient = point, gradient

    def _advance(
        self,
        problems: _Descent,
        logits: Logits,
        direction: Tensor,
        slope: Tensor,
        factor: torch.dtype,
    ) -> None:
        """Take one step of L-BFGS, a whole one if it is good enough."""
        before, loss, start = problems.gradient, problems.loss, problems.point
        fitted, gradient = self._visit(logits, direction, factor)
        self._penalise(problems, start + direction, fitted, gradient)
        end_slope = _dots(problems.gradient, direction)
        _, enough = _judge_step(loss, slope, 1.0, problems.loss, end_slope)
        move = direction
        if not enough.all():
            step = self._search(start, direction, logits, loss, slope, problems.l2)
            logits.shift(step - 1)
            fitted, gradient = self._visit(logits, None, factor)
            move = step.to(direction.dtype)[:, None, None] * direction
            self._penalise(problems, start + move, fitted, gradient)
        change = problems.gradient - before
        products = _dots(move, change)
        # A pair without curvature above rounding has no weight.
        inverse = torch.where(products > 1e-14 * _dots(move, move), 1 / products, 0.0)
        problems.iterations = problems.iterations + 1
        pairs = [*problems.pairs[-MEMORY + 1 :], (move, change, inverse)]
        problems.pairs = pairs if _dots(move, move).all() else []

    def _search(
        self,
        start: Tensor,
        direction: Tensor,
        logits: Logits,
        loss: Tensor,
        slope: Tensor,
        l2: Tensor,
    ) -> Tensor:
        """Return step lengths (s,) float64 from bisection and secants on the slope, or 0 if no step
        is better. The logits are at step 1.
        """
        weights, towards = start[:, :-1], direction[:, :-1]
        square, cross = _dots(weights, weights), _dots(weights, towards)
        rate = _dots(towards, towards)
        low, low_slope = torch.zeros_like(slope), slope
        high = torch.full_like(slope, float("inf"))
        step, good = torch.ones_like(slope), torch.zeros_like(slope)
        for _ in range(STEPS):
            fitted, end_slope = logits.slopes(self.targets, step - 1, self.weights)
            end_loss = fitted + 0.5 * l2 * (square + 2 * step * cross + step**2 * rate)
            end_slope = end_slope + l2 * (cross + step * rate)
            worse, enough = _judge_step(loss, slope, step, end_loss, end_slope)
            good = torch.where(worse, good, step)
            if enough.all():
                break
            too_far = worse | (end_slope > 0)
            high = torch.where(~enough & too_far, step, high)
            low_slope = torch.where(~enough & ~too_far, end_slope, low_slope)
            low = torch.where(~enough & ~too_far, step, low)
            secant = low + (step - low) * low_slope / (low_slope - end_slope)
            inside = torch.where(worse | ~secant.isfinite(), (low + high) / 2, secant)
            inside = inside.clamp(low + 0.1 * (high - low), low + 0.9 * (high - low))
            step = torch.where(enough, step, torch.where(high.isinf(), 2.5 * step, inside))
        return good

    def _confusion(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return spread (s, c) and axes (s, c, c) of the classes' mean covariance ``diag(p) - p
        p'`` under the current probabilities.
        """
        every = max(1, len(logits) // CONFUSION_ROWS)
        shares = logits[::every].softmax(2)
        weighted = shares
        if self.weights is not None:
            weighted = shares * self.weights[::every, None, None]
        products = torch.einsum("nsi,nsj->sij", weighted, shares).double() / len(shares)
        means = torch.diag_embed(weighted.mean(0, dtype=torch.float64))
        spread, axes = torch.linalg.eigh(means - products)
        return spread.clamp_min(0).to(logits.dtype), axes.to(logits.dtype)

    def _metric(self, problems: _Descent) -> Tensor:
        """Return L-BFGS's estimate of the inverse curvature times the gradient (s, d + 1, c)."""
        rest = problems.gradient.clone()
        shares = []
        for move, change, inverse in reversed(problems.pairs):
            share = (inverse * _dots(move, rest)).to(rest.dtype)[:, None, None]
            rest -= share * change
            shares.append(share)
        result = self._start_metric(problems, rest)
        if problems.pairs:
            # Scale to the latest curvature: the mean covariance ignores that confident rows weigh
            # less, which made whole steps too long.
            _, change, inverse = problems.pairs[-1]
            scale = inverse * _dots(change, self._start_metric(problems, change))
            result *= torch.where(scale > 0, 1 / scale, 1.0).to(rest.dtype)[:, None, None]
        for (move, change, inverse), share in zip(problems.pairs, reversed(shares), strict=True):
            correction = (inverse * _dots(change, result)).to(rest.dtype)[:, None, None]
            result += (share - correction) * move
        return result

    def _start_metric(self, problems: _Descent, gradient: Tensor) -> Tensor:
        """Return the inverse of ``G x M + l2`` times a gradient (s, d + 1, c)."""
        spread, axes = problems.spread[:, None], problems.axes
        curvature = self.spread[:, None] * spread + problems.l2.to(gradient.dtype)[:, None, None]
        of_weights = (gradient[:, :-1] @ axes / curvature) @ axes.mT
        spread = spread.clamp_min(SMALLEST_VARIANCE / self.n_classes)
        of_bias = (gradient[:, -1:] @ axes / spread) @ axes.mT
        return torch.cat([of_weights, of_bias], dim=1)


def _rounded(inputs: StandardizedRows) -> torch.dtype:
    """Return the dtype of product factors far from the optimum: half the bits if the processor
    multiplies those faster.
    """
    if inputs.device.type != "cpu":
        return inputs.dtype
    if inputs.dtype == torch.float64:
        return torch.float32
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else inputs.dtype


def _judge_step(
    loss: Tensor, slope: Tensor, step: Tensor | float, end_loss: Tensor, end_slope: Tensor
) -> tuple[Tensor, Tensor]:
    """Return whether a step is worse than its start and whether it is good enough, (s,) each."""
    worse = end_loss > loss + 1e-4 * step * slope + 1e-7 * loss.abs()
    return worse, (end_slope.abs() <= FLAT * slope.abs()) & ~worse


def _dots(first: Tensor, second: Tensor) -> Tensor:
    """Return the products (s,) float64 of two (s, d, c) tensors."""
    return (first * second).flatten(1).sum(1, dtype=torch.float64)
