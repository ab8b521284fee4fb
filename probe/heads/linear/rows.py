"""Rows of features that need not be in memory, and their standardisation: what linear probes and
ridge probes read.

A source hands out its rows in blocks of any size; every reader here cuts them anew to a number of
rows of its own. So results are the same bit for bit wherever the rows come from.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

BLOCK_ROWS = 2048  # a block's products with the weights of some strengths stay in a core's cache


class RowTable(Protocol):
    """A (row, dim) table that is read in blocks, as often as needed."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dimensions."""

    def blocks(self) -> Iterator[np.ndarray]:
        """All rows in order as (row, dim) arrays, float16, float32 or float64; anew with each
        call.
        """


class ArrayRows:
    """The rows of an array in memory.

    Args:
        array: (row, dim) float16, float32 or float64.
        block_rows: rows of each block.
    """

    def __init__(self, array: np.ndarray, block_rows: int = BLOCK_ROWS) -> None:
        self.array, self.block_rows = array, block_rows

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dimensions."""
        n_rows, dim = self.array.shape
        return n_rows, dim

    def blocks(self) -> Iterator[np.ndarray]:
        """Views of the array, in order."""
        for start in range(0, len(self.array), self.block_rows):
            yield self.array[start : start + self.block_rows]


def as_rows(rows: np.ndarray | RowTable) -> RowTable:
    """An array's rows, or the table itself.

    Raises:
        ValueError: not two axes, or no row.
    """
    if len(rows.shape) != 2 or not rows.shape[0]:
        raise ValueError(
            f"expected rows of shape (row, dim) with one row or more. Found {tuple(rows.shape)}"
        )
    return ArrayRows(rows) if isinstance(rows, np.ndarray) else rows


def precision(rows: RowTable) -> np.dtype:
    """The dtype to compute in: float64 for float64 rows, otherwise float32."""
    dtype = next(iter(rows.blocks())).dtype
    if dtype.kind != "f":
        raise ValueError(f"expected rows of float16, float32 or float64. Found {dtype.name}")
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def refill(
    rows: RowTable, memory_for: Callable[[int, int], np.ndarray], block_rows: int = BLOCK_ROWS
) -> Iterator[np.ndarray]:
    """All rows in order, in blocks of ``block_rows`` (fewer in the last).

    Args:
        memory_for: gives the (stop - start, dim) array to fill with rows start to stop, of any
            dtype; it may be the same memory each time.

    Raises:
        ValueError: the blocks hold more or fewer rows than ``rows.shape`` says, or rows of another
            width.
    """
    n_rows, dim = rows.shape
    source = iter(rows.blocks())
    rest = np.empty((0, dim), np.float32)
    for start in range(0, n_rows, block_rows):
        target = memory_for(start, min(start + block_rows, n_rows))
        n_filled = 0
        while n_filled < len(target):
            while not len(rest):
                rest = _next_block(source, n_rows, start + n_filled, dim)
            n = min(len(rest), len(target) - n_filled)
            target[n_filled : n_filled + n] = rest[:n]
            rest, n_filled = rest[n:], n_filled + n
        yield target
    if len(rest) or any(len(block) for block in source):
        raise ValueError(
            f"rows of shape {(n_rows, dim)} gave more than {n_rows} rows in their blocks"
        )


def _next_block(source: Iterator[np.ndarray], n_rows: int, n_read: int, dim: int) -> np.ndarray:
    block = next(source, None)
    if block is None:
        raise ValueError(f"rows of shape {(n_rows, dim)} gave only {n_read} rows in their blocks")
    if block.ndim != 2 or block.shape[1] != dim:
        raise ValueError(f"rows of shape {(n_rows, dim)} gave a block of shape {block.shape}")
    return block


@dataclass(frozen=True)
class Standardizer:
    """Mean and scale of each dimension of the training rows, (dim,) float32 each.

    Layers differ in scale by orders of magnitude (some pre-LN models have very small top layers),
    and a regularised or gradient-trained head is not invariant to scale.
    """

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray | RowTable, chunk_rows: int = BLOCK_ROWS) -> "Standardizer":
        """Statistics of (row, dim) values, taken in float64 in one pass over them; a constant
        dimension keeps its scale.

        Each chunk's sum of squares is that around its own mean, and the chunks are merged (Chan,
        Golub and LeVeque 1983), so a mean far from 0 costs no digits.
        """
        rows = as_rows(rows)
        buffer = np.empty((chunk_rows, rows.shape[1]))
        mean, squares, n_read = np.zeros(rows.shape[1]), np.zeros(rows.shape[1]), 0
        for chunk in refill(rows, lambda start, stop: buffer[: stop - start], chunk_rows):
            chunk_mean = chunk.mean(axis=0)
            chunk -= chunk_mean
            total, shift = n_read + len(chunk), chunk_mean - mean
            between = shift**2 * (n_read * len(chunk) / total)
            squares += np.einsum("rd,rd->d", chunk, chunk) + between
            mean += shift * (len(chunk) / total)
            n_read = total
        scale = np.sqrt(squares / n_read)
        constant = scale <= 1e-7 * np.maximum(np.abs(mean), 1e-30)
        return cls(mean.astype(np.float32), np.where(constant, 1.0, scale).astype(np.float32))

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """(row, dim) float32."""
        return (rows.astype(np.float32) - self.mean) / self.scale
