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
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from probe.heads.linear.logistic_pass import Logits, StandardizedRows, visit
from probe.heads.linear.newton import Optimum, is_small, solve_small

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
    if start is not None and basis is not None:
        start = basis.T @ start[0].to(basis), start[1]
    if is_small(*inputs.shape, n_classes, len(strengths)):
        rows = torch.cat([block.double() for _, block in inputs.blocks()])
        begin = None if start is None else torch.cat([start[0].to(rows), start[1].to(rows)[None]])
        how = (tol, max_iter, tick, row_weights, begin)
        ended = solve_small(rows, targets, n_classes, strengths, *how)
    else:
        problems = _Problems(inputs, targets, n_classes, strengths, tick, row_weights)
        ended = problems.run(tol, max_iter, start)
    solutions = []
    for end in ended:
        weights = end.point[:-1].to(inputs.dtype)
        weights = weights if basis is None else basis @ weights
        bias = end.point[-1].to(inputs.dtype)
        solutions.append(Solution(weights, bias, end.objective, end.n_iterations, end.converged))
    return solutions


def state_bytes(n_rows: int, n_classes: int, itemsize: int) -> int:
    """Return the bytes that one strength takes while it is solved (`logistic_pass.Logits`)."""
    return 2 * n_rows * n_classes * itemsize


@dataclass
class _Descent:
    """The state of the problems. A point holds the weights in the axes of the Gram matrix, with the
    bias as its last row. What is one number for each problem is an array of numpy, whose operations
    take a tenth of the time of a tensor's.

    Attributes:
        l2: (s,) float64.
        point, gradient: (d + 1, s, c).
        loss: (s,) float64, including the penalty.
        small: (s,) number of successive steps with too small a gain.
        iterations: (s,).
        curvature, axes: (s, d + 1, c) and (s, c, c); the curvature that is assumed without pairs,
            in the eigenvectors of the classes' covariance.
        pairs: what L-BFGS knows of the curvature.
    """

    l2: np.ndarray
    point: Tensor
    gradient: Tensor
    loss: np.ndarray
    small: np.ndarray
    iterations: np.ndarray
    curvature: Tensor
    axes: Tensor
    pairs: "_Pairs"

    def subset(self, problems: list[int]) -> "_Descent":
        """Return the state of some of the problems."""
        return _Descent(
            self.l2[problems],
            self.point[:, problems],
            self.gradient[:, problems],
            self.loss[problems],
            self.small[problems],
            self.iterations[problems],
            self.curvature[problems],
            self.axes[problems],
            self.pairs.subset(problems),
        )

    def start_metric(self, gradient: Tensor) -> Tensor:
        """Return the inverse of ``G x M + l2`` times gradients (..., s, d + 1, c)."""
        return (gradient @ self.axes / self.curvature) @ self.axes.mT

    def direction(self) -> Tensor:
        """Return L-BFGS's estimate of the inverse curvature times the negative gradient
        (d + 1, s, c).
        """
        gradient = self.gradient.transpose(0, 1).contiguous()
        if not self.pairs:
            return self.start_metric(gradient).neg_().transpose(0, 1).contiguous()
        change, product = self.pairs.newest(gradient.shape)

        def at_start(gradient: Tensor) -> Tensor:
            # Scaled to the latest curvature: the mean covariance ignores that confident rows weigh
            # less, which made whole steps too long.
            result, of_change = self.start_metric(torch.stack([gradient, change]))
            scale = (change * of_change).sum((1, 2), dtype=torch.float64) / product
            factor = torch.where(scale > 0, 1 / scale, 1.0).to(result.dtype)
            return result.mul_(factor[:, None, None])

        result = self.pairs.inverse_curvature(gradient, at_start)
        return result.neg_().transpose(0, 1).contiguous()


def _together(several: Sequence[_Descent]) -> _Descent:
    """Merge the problems, without their pairs, because pairs of rounded gradients at other points
    mislead.
    """
    point = torch.cat([one.point for one in several], dim=1)
    return _Descent(
        np.concatenate([one.l2 for one in several]),
        point,
        torch.cat([one.gradient for one in several], dim=1),
        np.concatenate([one.loss for one in several]),
        np.concatenate([one.small for one in several]),
        np.concatenate([one.iterations for one in several]),
        torch.cat([one.curvature for one in several]),
        torch.cat([one.axes for one in several]),
        _Pairs.of(point),
    )


class _Pairs:
    """The last moves of the points and the changes of the gradients along them, side by side.

    The inverse curvature that L-BFGS makes of them is applied as a few products of matrices
    (Byrd, Nocedal & Schnabel 1994, "Representations of quasi-Newton matrices"): the two loops over
    the pairs are the solutions of two triangular systems. The pairs lie in a ring.
    """

    def __init__(self, moves: Tensor, changes: Tensor, products: Tensor, order: list[int]) -> None:
        self._moves, self._changes = moves, changes  # (s, pair, (d + 1) * c)
        self._products = products  # (s, pair, pair) float64: moves times changes
        self._order = order  # the places that are in use, oldest first

    @classmethod
    def of(cls, point: Tensor) -> "_Pairs":
        """Return no pairs, with room for those of points (d + 1, s, c)."""
        n_rows, n_problems, n_classes = point.shape
        n_bytes = 2 * point.numel() * point.itemsize
        n = min(MOST_PAIRS, max(FEWEST_PAIRS, PAIR_BYTES // max(1, n_bytes)))
        moves, changes = (point.new_empty(n_problems, n, n_rows * n_classes) for _ in range(2))
        return cls(moves, changes, moves.new_empty(n_problems, n, n, dtype=torch.float64), [])

    def __len__(self) -> int:
        return len(self._order)

    def clear(self) -> None:
        """Forget all pairs."""
        self._order = []

    def subset(self, problems: list[int]) -> "_Pairs":
        """Return the pairs of some of the problems."""
        used = slice(0, len(self._order))
        pairs = _Pairs(
            self._moves.new_empty(len(problems), *self._moves.shape[1:]),
            self._changes.new_empty(len(problems), *self._changes.shape[1:]),
            self._products.new_empty(len(problems), *self._products.shape[1:]),
            [*self._order],
        )
        pairs._moves[:, used] = self._moves[problems, used]
        pairs._changes[:, used] = self._changes[problems, used]
        pairs._products[:, used, used] = self._products[problems, used, used]
        return pairs

    def add(self, move: Tensor, change: Tensor, is_curved: np.ndarray) -> None:
        """Add a pair (d + 1, s, c) in place of the oldest; it has no effect on problems in which it
        is not curved (s,).
        """
        n_places = self._moves.shape[1]
        place = len(self._order) if len(self._order) < n_places else self._order.pop(0)
        self._order.append(place)
        for array, tensor in ((self._moves, move), (self._changes, change)):
            array[:, place].view(len(array), len(tensor), -1).copy_(tensor.transpose(0, 1))
        flat = [] if is_curved.all() else (~is_curved).nonzero()[0].tolist()
        if flat:
            self._moves[flat, place] = self._changes[flat, place] = 0
        used = slice(0, len(self._order))
        self._products[:, place, used] = _times(self._changes[:, used], self._moves[:, place])
        self._products[:, used, place] = _times(self._moves[:, used], self._changes[:, place])
        if flat:
            self._products[flat, place, place] = 1

    def newest(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Return the change of the newest pair (s, d + 1, c), and its product with the move."""
        place = self._order[-1]
        return self._changes[:, place].view(shape), self._products[:, place, place]

    def inverse_curvature(self, gradient: Tensor, at_start: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the inverse curvature times the gradient (s, d + 1, c), where ``at_start``
        multiplies by the one that is assumed without pairs.
        """
        n = len(self._order)
        moves, changes = self._moves[:, :n], self._changes[:, :n]
        products = self._products[:, :n, :n]
        order = by_place = None
        if self._order[0] != 0:  # the ring has come round
            order = torch.tensor(self._order, device=gradient.device)
            by_place = order.argsort()
        products = _sorted(_sorted(products, order).mT, order).mT  # by age
        triangle = products.triu()
        rest = gradient.flatten(1)
        share = torch.linalg.solve_triangular(
            triangle, _sorted(_times(moves, rest), order)[..., None], upper=True
        )[..., 0]
        rest = rest - _sum(_sorted(share, by_place), changes)
        result = at_start(rest.view(gradient.shape)).flatten(1)
        wanted = products.diagonal(dim1=1, dim2=2) * share - _sorted(_times(changes, result), order)
        correction = torch.linalg.solve_triangular(triangle.mT, wanted[..., None], upper=False)
        result += _sum(_sorted(correction[..., 0], by_place), moves)
        return result.view(gradient.shape)


def _sorted(items: Tensor, order: Tensor | None) -> Tensor:
    """Return (s, pair, ...) in another order; None leaves it as it is."""
    return items if order is None else items[:, order]


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Return (s, pair) float64, the products of (s, pair, n) rows and (s, n)."""
    return torch.bmm(matrix, vector[:, :, None])[..., 0].double()


def _sum(share: Tensor, matrix: Tensor) -> Tensor:
    """Return (s, n), the sums of (s, pair, n) rows with the weights (s, pair)."""
    return torch.bmm(share.to(matrix.dtype)[:, None], matrix)[:, 0]


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
    ) -> list[Optimum]:
        """Return the end of each problem."""
        problems, factor = self._start(), _rounded(self.inputs)
        if start is not None:
            weights, bias = (item.to(problems.point) for item in start)
            problems.point[:] = torch.cat([self.axes.T @ weights, bias[None]])[:, None]
        waves = _waves(problems.l2, WAVE)
        ended = []
        for wave in waves:
            one = problems.subset(wave)
            if ended:
                one.point[:] = ended[-1].point[:, -1:]
            if factor != self.inputs.dtype:
                one = self._descend(one, factor, max(tol, ROUGH), min(max_iter, MOST_ROUGH))
            ended.append(self._descend(one, self.inputs.dtype, tol, max_iter))
        problems = _together(ended)
        problems = problems.subset(np.argsort(np.concatenate(waves)).tolist())
        points = problems.point.transpose(0, 1)
        points = torch.cat([self.axes @ points[:, :-1], points[:, -1:]], dim=1)
        converged = (problems.small >= 2).tolist()
        columns = (points, problems.loss.tolist(), problems.iterations.tolist(), converged)
        return [Optimum(*end) for end in zip(*columns, strict=True)]

    def _start(self) -> "_Descent":
        """Return the state at zero weights, with a bias from the shares of the classes."""
        (n_rows, dim), like, n_strengths = self.inputs.shape, self.sums, len(self.strengths)
        weights = None if self.weights is None else self.weights.double()
        shares = torch.bincount(self.targets, weights, self.n_classes).double() / n_rows
        point = like.new_zeros(dim + 1, n_strengths, self.n_classes)
        point[-1] = shares.log().to(like.dtype)
        # All rows have the same errors except for their truth, so no product is needed.
        gradient = torch.zeros_like(point)
        gradient[:-1] = (
            self.axes.T @ (self.sums.sum(0)[:, None] * shares.to(like.dtype) - self.sums.T) / n_rows
        )[:, None]
        loss = -float((shares * shares.log()).sum())
        return _Descent(
            np.array(self.strengths, float),
            point,
            gradient,
            np.full(n_strengths, loss),
            np.zeros(n_strengths, int),
            np.zeros(n_strengths, int),
            like.new_empty(n_strengths, dim + 1, self.n_classes),
            like.new_empty(n_strengths, self.n_classes, self.n_classes),
            _Pairs.of(point),
        )

    def _descend(
        self, problems: "_Descent", factor: torch.dtype, tol: float, max_iter: int
    ) -> "_Descent":
        """Solve each problem until a further step gains no more than ``tol`` of its loss, with
        products of dtype ``factor``.
        """
        times = 2 if factor == self.inputs.dtype else 1  # in a row
        number = np.arange(len(problems.l2))
        ended: list[_Descent] = [problems] * len(number)
        logits = Logits.at(problems.point[-1], self.inputs.shape[0])
        if problems.point[:-1].any():
            self._afresh(problems, logits)
        problems.small = np.zeros_like(problems.small)
        for _ in range(max_iter + 1):
            if int(problems.iterations.max()) + 1 in REFRESHED or not problems.pairs:
                self._assume_curvature(problems, logits.now)
            direction = problems.direction()
            slope = _dots(problems.gradient, direction)
            if problems.pairs and (slope >= 0).any():  # rounding has spoiled the pairs
                problems.pairs.clear()
                direction = problems.direction()
                slope = _dots(problems.gradient, direction)
            worth = tol * problems.loss.clip(SMALLEST_LOSS[self.inputs.dtype])
            problems.small = np.where(-0.5 * slope <= worth, problems.small + 1, 0)
            done = (problems.small >= times) | (problems.iterations >= max_iter)
            for index in done.nonzero()[0].tolist():
                ended[number[index]] = problems.subset([index])
            if done.all():
                break
            if done.any():
                active = (~done).nonzero()[0].tolist()
                problems, number = problems.subset(active), number[active]
                direction, slope = direction[:, active], slope[active]
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
    ) -> tuple[np.ndarray, Tensor]:
        """Call `visit` with direction and gradient in the axes of the Gram matrix."""
        if direction is not None:
            turned = torch.empty_like(direction)
            torch.mm(self.axes, direction[:-1].flatten(1), out=turned[:-1].flatten(1))
            turned[-1] = direction[-1]
            direction = turned
        fitted, gradient = visit(
            self.inputs, self.targets, logits, direction, factor, self.tick, self.weights
        )
        turned = torch.empty_like(gradient)
        torch.mm(self.axes.T, gradient[:-1].flatten(1), out=turned[:-1].flatten(1))
        turned[-1] = gradient[-1]
        return fitted, turned

    def _penalise(
        self, problems: _Descent, point: Tensor, fitted: np.ndarray, gradient: Tensor
    ) -> None:
        """Set a point with its mean cross-entropy and gradient, and add the penalty."""
        weights = point[:-1]
        gradient[:-1].addcmul_(weights, _column(problems.l2, weights))
        problems.loss = fitted + 0.5 * problems.l2 * _dots(weights, weights)
        problems.point, problems.gradient = point, gradient

    def _advance(
        self,
        problems: _Descent,
        logits: Logits,
        direction: Tensor,
        slope: np.ndarray,
        factor: torch.dtype,
    ) -> None:
        """Take one step of L-BFGS, a whole one if it is good enough."""
        before, loss, start = problems.gradient, problems.loss, problems.point
        fitted, gradient = self._visit(logits, direction, factor)
        self._penalise(problems, start + direction, fitted, gradient)
        whole = _Trial(problems.loss, _dots(problems.gradient, direction))
        _, enough = _judge_step(loss, slope, np.ones_like(slope), whole)
        move = direction
        if not enough.all():
            step = self._search(start, direction, logits, loss, slope, problems.l2, whole)
            logits.shift(step - 1)
            fitted, gradient = self._visit(logits, None, factor)
            move = direction * _column(step, direction)
            self._penalise(problems, start + move, fitted, gradient)
        problems.iterations = problems.iterations + 1
        lengths = _dots(move, move)
        if not lengths.all():
            problems.pairs.clear()
            return
        change = problems.gradient - before
        # A pair without curvature above rounding has no weight.
        problems.pairs.add(move, change, _dots(move, change) > 1e-14 * lengths)

    def _search(
        self,
        start: Tensor,
        direction: Tensor,
        logits: Logits,
        loss: np.ndarray,
        slope: np.ndarray,
        l2: np.ndarray,
        whole: "_Trial",
    ) -> np.ndarray:
        """Return step lengths (s,) float64 from bisection and secants on the slope, or 0 if no step
        is better. The logits are at step 1, which ``whole`` tells about.
        """
        weights, towards = start[:-1], direction[:-1]
        square, cross = _dots(weights, weights), _dots(weights, towards)
        rate = _dots(towards, towards)
        low, low_slope = np.zeros_like(slope), slope
        high = np.full_like(slope, np.inf)
        step, good, end = np.ones_like(slope), np.zeros_like(slope), whole
        for _ in range(STEPS):
            worse, enough = _judge_step(loss, slope, step, end)
            good = np.where(worse, good, step)
            if enough.all():
                break
            too_far = worse | (end.slope > 0)
            high = np.where(~enough & too_far, step, high)
            low_slope = np.where(~enough & ~too_far, end.slope, low_slope)
            low = np.where(~enough & ~too_far, step, low)
            with np.errstate(divide="ignore", invalid="ignore"):
                secant = low + (step - low) * low_slope / (low_slope - end.slope)
                inside = np.where(worse | ~np.isfinite(secant), (low + high) / 2, secant)
                inside = inside.clip(low + 0.1 * (high - low), low + 0.9 * (high - low))
            step = np.where(enough, step, np.where(np.isinf(high), 2.5 * step, inside))
            fitted, end_slope = logits.slopes(self.targets, step - 1, self.weights)
            end = _Trial(
                fitted + 0.5 * l2 * (square + 2 * step * cross + step**2 * rate),
                end_slope + l2 * (cross + step * rate),
            )
        return good

    def _assume_curvature(self, problems: _Descent, logits: Tensor) -> None:
        """Set the curvature of `_Descent.start_metric` from the classes' mean covariance ``diag(p)
        - p p'`` under the current probabilities.
        """
        every = max(1, len(logits) // CONFUSION_ROWS)
        shares = logits[::every].softmax(2)
        weighted = shares
        if self.weights is not None:
            weighted = shares * self.weights[::every, None, None]
        products = torch.einsum("nsi,nsj->sij", weighted, shares).double() / len(shares)
        means = torch.diag_embed(weighted.mean(0, dtype=torch.float64))
        spread, axes = torch.linalg.eigh(means - products)
        spread = spread.clamp_min(0).to(logits.dtype)[:, None]
        l2 = _column(problems.l2, logits)[:, :, None]
        of_bias = spread.clamp_min(SMALLEST_VARIANCE / self.n_classes)
        problems.curvature = torch.cat([self.spread[:, None] * spread + l2, of_bias], dim=1)
        problems.axes = axes.to(logits.dtype)


import os
WAVE=os.environ.get('WAVE','all')
def _waves(l2, wave):
    order=np.argsort(-l2, kind='stable').tolist()
    if wave=='all': return [order]
    if wave=='one': return [[i] for i in order]
    first=[i for i in order if l2[i]>=float(wave)]
    return ([first] if first else [])+[[i] for i in order if l2[i]<float(wave)]


def _rounded(inputs: StandardizedRows) -> torch.dtype:
    """Return the dtype of product factors far from the optimum: half the bits if the processor
    multiplies those faster, and the products are what takes the time.
    """
    if inputs.device.type != "cpu" or inputs.shape[0] < FEWEST_ROUNDED:
        return inputs.dtype
    if inputs.dtype == torch.float64:
        return torch.float32
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else inputs.dtype


class _Trial(NamedTuple):
    """What a step leads to: the loss with the penalty, and its slope along the step, (s,) each."""

    loss: np.ndarray
    slope: np.ndarray


def _judge_step(
    loss: np.ndarray, slope: np.ndarray, step: np.ndarray, end: _Trial
) -> tuple[np.ndarray, np.ndarray]:
    """Return whether a step is worse than its start and whether it is good enough, (s,) each."""
    worse = end.loss > loss + 1e-4 * step * slope + 1e-7 * np.abs(loss)
    return worse, (np.abs(end.slope) <= FLAT * np.abs(slope)) & ~worse


def _dots(first: Tensor, second: Tensor) -> np.ndarray:
    """Return the products (s,) float64 of two (d, s, c) tensors."""
    products: np.ndarray = (first * second).sum((0, 2), dtype=torch.float64).cpu().numpy()
    return products


def _column(numbers: np.ndarray, like: Tensor) -> Tensor:
    """Return one number for each problem (s,) as (s, 1), in the dtype and on the device of
    ``like``.
    """
    return torch.from_numpy(numbers).to(like)[:, None]
