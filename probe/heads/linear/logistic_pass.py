"""One pass over standardised rows, which computes products, losses and errors of all problems while
a block of rows is in the cache.

Shapes: n rows, d dimensions, s strengths, c classes. The bias is the last row of the weights:
(d + 1, s, c).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probe.heads.linear.rows import BLOCK_ROWS, RowTable, refill

# Below this value a float32 probability and its logarithm lose digits.
SMALLEST_PROBABILITY = 1e-30


class StandardizedRows:
    """(row, dim) standardised rows in blocks of `BLOCK_ROWS`, kept in memory or read in each pass.

    Args:
        rows: the original rows.
        mean, scale: (dim,) mean that is subtracted and scale that the difference is divided by.
        dtype: dtype of the blocks; float16 and float32 rows are standardised in float32.
        keep: whether to hold all rows in memory on the device; otherwise each pass reads the
            source.
        device: device of the blocks.
    """

    def __init__(
        self,
        rows: RowTable,
        mean: np.ndarray,
        scale: np.ndarray,
        dtype: torch.dtype,
        keep: bool,
        device: str = "cpu",
    ) -> None:
        self.shape, self.dtype, self.device = rows.shape, dtype, torch.device(device)
        self._rows = rows
        self._mean, self._scale = (
            torch.from_numpy(mean).to(dtype),
            torch.from_numpy(scale).to(dtype),
        )
        self._kept: Tensor | None = None
        self.basis: Tensor | None = None
        if keep:
            kept = torch.empty(self.shape, dtype=dtype, device=self.device)
            on_cpu = self.device.type == "cpu"
            for start, block in self._read(kept if on_cpu else None):
                if not on_cpu:  # on a CPU the block is already part of it
                    kept[start : start + len(block)] = block
            self._kept = kept

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the number of the first row and the (row, dim) block; a block is valid until the
        next one.
        """
        if self._kept is None:
            yield from self._read(None)
        else:
            for start in range(0, self.shape[0], BLOCK_ROWS):
                yield start, self._kept[start : start + BLOCK_ROWS]

    def _read(self, target: Tensor | None) -> Iterator[tuple[int, Tensor]]:
        """Yield standardised blocks of the source, in the memory of ``target`` or in reused memory
        of one block.
        """
        if target is None:
            buffer = torch.empty(BLOCK_ROWS, self.shape[1], dtype=self.dtype).numpy()
            blocks = refill(self._rows, lambda start, stop: buffer[: stop - start])
        else:
            array = target.numpy()
            blocks = refill(self._rows, lambda start, stop: array[start:stop])
        start = 0
        for filled in blocks:
            block = torch.from_numpy(filled).sub_(self._mean).div_(self._scale)
            yield start, block.to(self.device)
            start += len(block)

    def rotate_into_span(self) -> None:
        """Rotate rows in memory that are fewer than their dimensions into their span; ``basis`` is
        (dim, direction) with orthonormal columns.

        The penalty is invariant to a rotation, and directions outside the span carry no weight at
        an optimum. The method uses Householder's QR of the rows; their squares would lose
        directions that a weak penalty needs.
        """
        assert self._kept is not None, "only kept rows can be rotated"
        basis, triangle = torch.linalg.qr(self._kept.T.double())
        self._kept = triangle.T.to(self.dtype).contiguous()
        self.shape = len(self._kept), basis.shape[1]
        self.basis = basis.to(self.dtype)


@dataclass
class Logits:
    """Logits (n, s, c) of every row, and their last move."""

    now: Tensor
    moved: Tensor

    @classmethod
    def at(cls, bias: Tensor, n_rows: int) -> "Logits":
        """Return logits in which every row has the bias (s, c)."""
        return cls(bias.repeat(n_rows, 1, 1), bias.new_empty(n_rows, *bias.shape))

    def keep(self, problems: list[int]) -> None:
        """Keep only some of the problems."""
        self.moved = self.moved.new_empty(0)  # frees its memory for the copy
        self.now = self.now[:, problems]
        self.moved = torch.empty_like(self.now)

    def shift(self, distance: np.ndarray) -> None:
        """Move the logits by ``distance`` (s,) along the last direction."""
        shift = torch.from_numpy(distance).to(self.now)[:, None]
        for start in range(0, len(self.now), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            self.now[block].addcmul_(self.moved[block], shift)

    def slopes(
        self, targets: Tensor, distance: np.ndarray, weights: Tensor | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean cross-entropy and its slope, (s,) float64 each, at ``distance`` (s,)
        along the last direction; ``weights`` are the row weights of `visit`.
        """
        n_rows = len(targets)
        shift = torch.from_numpy(distance).to(self.now)[:, None]
        loss, slope = np.zeros(len(distance)), np.zeros(len(distance))
        for start in range(0, n_rows, BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            moved = self.moved[block]
            logits = torch.addcmul(self.now[block], moved, shift)
            of_block = None if weights is None else weights[block]
            losses, errors = cross_entropy(logits, targets[block], of_block)
            loss += losses.cpu().numpy()
            slope += (errors * moved).sum((0, 2)).double().cpu().numpy()
        return loss / n_rows, slope / n_rows


def cross_entropy(
    logits: Tensor, targets: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return summed losses (s,) float64 and errors (row, s, c), which are probabilities minus the
    truth, for logits (row, s, c) and classes (row,). Row ``weights`` (row,) multiply both.
    """
    errors = logits.softmax(2)
    truth = targets[:, None, None].expand(-1, logits.shape[1], 1)
    right = errors.gather(2, truth)
    losses = -right.log()
    if (rare := right < SMALLEST_PROBABILITY).any():
        exact = logits.logsumexp(2, keepdim=True) - logits.gather(2, truth)
        losses = torch.where(rare, exact, losses)
    errors.scatter_(2, truth, right - 1)
    if weights is not None:
        losses *= weights[:, None, None]
        errors *= weights[:, None, None]
    return losses.sum((0, 2), dtype=torch.float64), errors


def visit(
    inputs: StandardizedRows,
    targets: Tensor,
    logits: Logits,
    direction: Tensor | None,
    factor: torch.dtype,
    tick: Callable[[], None],
    row_weights: Tensor | None = None,
) -> tuple[np.ndarray, Tensor]:
    """Move all logits by a whole step along ``direction`` (d + 1, s, c) (None does not move them)
    and return the mean cross-entropy (s,) float64 and its gradient (d + 1, s, c).

    Args:
        factor: dtype of the products' factors; products of lower precision are summed in the
            precision of the rows.
        tick: called after each block.
        row_weights: (row,) of mean 1; all 1 where None.
    """
    n_rows, dim = inputs.shape
    if direction is not None:
        weights, bias = direction[:-1].flatten(1).to(factor), direction[-1].flatten()
    loss = torch.zeros(logits.now.shape[1], dtype=torch.float64, device=inputs.device)
    gradient = logits.now.new_zeros(dim + 1, *logits.now.shape[1:])
    of_weights, of_bias = gradient[:-1].flatten(1), gradient[-1].flatten()
    for start, rows in inputs.blocks():
        block = slice(start, start + len(rows))
        factors, now = rows.to(factor), logits.now[block]
        if direction is not None:
            moved = logits.moved[block]
            torch.add(factors @ weights, bias, out=moved.flatten(1))
            now += moved
        of_block = None if row_weights is None else row_weights[block]
        losses, errors = cross_entropy(now, targets[block], of_block)
        loss += losses
        of_bias += errors.flatten(1).sum(0)
        if factor == inputs.dtype:
            of_weights.addmm_(factors.T, errors.flatten(1))
        else:
            of_weights += factors.T @ errors.flatten(1).to(factor)
        tick()
    return (loss / n_rows).cpu().numpy(), gradient.div_(n_rows)
