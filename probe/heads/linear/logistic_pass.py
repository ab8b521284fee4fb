"""One pass over standardised rows, which computes products, losses and errors while a block of rows
is in the cache.

Shapes: n rows, d dimensions, c classes. The bias is the last row of the weights: (d + 1, c).
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
    """Logits (n, c) of every row, and their last move."""

    now: Tensor
    moved: Tensor

    def shift(self, distance: float) -> None:
        """Move the logits by ``distance`` along the last direction."""
        for start in range(0, len(self.now), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            self.now[block].add_(self.moved[block], alpha=distance)

    def slope(
        self, targets: Tensor, distance: float, weights: Tensor | None = None
    ) -> tuple[float, float]:
        """Return the mean cross-entropy and its slope at ``distance`` along the last direction;
        ``weights`` are the row weights of `visit`.
        """
        loss = slope = 0.0
        for start in range(0, len(targets), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            logits = torch.add(self.now[block], self.moved[block], alpha=distance)
            of_block = None if weights is None else weights[block]
            block_loss, errors = cross_entropy(logits, targets[block], of_block)
            loss += block_loss
            slope += float((errors * self.moved[block]).sum())
        return loss / len(targets), slope / len(targets)


def cross_entropy(
    logits: Tensor, targets: Tensor, weights: Tensor | None = None
) -> tuple[float, Tensor]:
    """Return the summed loss and the errors (row, c), which are probabilities minus the truth, for
    logits (row, c) and classes (row,). Row ``weights`` (row,) multiply both.
    """
    errors = logits.softmax(1)
    truth = targets[:, None]
    right = errors.gather(1, truth)
    losses = -right.log()
    if (rare := right < SMALLEST_PROBABILITY).any():
        exact = logits.logsumexp(1, keepdim=True) - logits.gather(1, truth)
        losses = torch.where(rare, exact, losses)
    errors.scatter_(1, truth, right - 1)
    if weights is not None:
        losses *= weights[:, None]
        errors *= weights[:, None]
    return float(losses.sum(dtype=torch.float64)), errors


def visit(
    inputs: StandardizedRows,
    targets: Tensor,
    logits: Logits,
    direction: Tensor | None,
    factor: torch.dtype,
    tick: Callable[[], None],
    row_weights: Tensor | None = None,
) -> tuple[float, Tensor]:
    """Move all logits by a whole step along ``direction`` (d + 1, c) (None does not move them) and
    return the mean cross-entropy and its gradient (d + 1, c).

    Args:
        factor: dtype of the products' factors; products of lower precision are summed in the
            precision of the rows.
        tick: called after each block.
        row_weights: (row,) of mean 1; all 1 where None.
    """
    n_rows, dim = inputs.shape
    loss, gradient = 0.0, logits.now.new_zeros(dim + 1, logits.now.shape[1])
    if direction is not None:
        weights, bias = direction[:-1].to(factor), direction[-1]
    for start, rows in inputs.blocks():
        block = slice(start, start + len(rows))
        factors, now = rows.to(factor), logits.now[block]
        if direction is not None:
            moved = torch.add(factors @ weights, bias, out=logits.moved[block])
            now += moved
        of_block = None if row_weights is None else row_weights[block]
        block_loss, errors = cross_entropy(now, targets[block], of_block)
        loss += block_loss
        gradient[-1] += errors.sum(0)
        if factor == inputs.dtype:
            gradient[:-1].addmm_(factors.T, errors)
        else:
            gradient[:-1] += factors.T @ errors.to(factor)
        tick()
    return loss / n_rows, gradient.div_(n_rows)
