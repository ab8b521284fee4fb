"""Tables of feature rows, in memory or not, and their standardisation for linear and ridge probes.

A source yields its rows in blocks of any size, and every reader divides them again into blocks of
its own size. Results are therefore bitwise the same for every source.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

BLOCK_ROWS = (
    2048  # the products of a block with the weights of some strengths fit into a core's cache
)

FLOOR = 0.1  # of the mean variance, below which `Whitener` hardly amplifies a direction further


class RowTable(Protocol):
    """A (row, dim) table that can be read in blocks any number of times."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dimensions."""

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield all rows in order as (row, dim) arrays of float16, float32 or float64; each call
        starts again.
        """


class ArrayRows:
    """The rows of an array in memory.

    Args:
        array: (row, dim) float16, float32 or float64.
        block_rows: number of rows in a block.
    """

    def __init__(self, array: np.ndarray, block_rows: int = BLOCK_ROWS) -> None:
        self.array, self.block_rows = array, block_rows

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dimensions."""
        n_rows, dim = self.array.shape
        return n_rows, dim

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield views of the array, in order."""
        for start in range(0, len(self.array), self.block_rows):
            yield self.array[start : start + self.block_rows]


def as_rows(rows: np.ndarray | RowTable) -> RowTable:
    """Return the rows of an array, or the table itself.

    Raises:
        ValueError: the table does not have two axes, or has no row.
    """
    if len(rows.shape) != 2 or not rows.shape[0]:
        raise ValueError(
            f"expected rows of shape (row, dim) with one row or more. Found {tuple(rows.shape)}"
        )
    return ArrayRows(rows) if isinstance(rows, np.ndarray) else rows


def precision(rows: RowTable) -> np.dtype:
    """Return the dtype for computations: float64 for float64 rows, otherwise float32."""
    dtype = next(iter(rows.blocks())).dtype
    if dtype.kind != "f":
        raise ValueError(f"expected rows of float16, float32 or float64. Found {dtype.name}")
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def refill(
    rows: RowTable, memory_for: Callable[[int, int], np.ndarray], block_rows: int = BLOCK_ROWS
) -> Iterator[np.ndarray]:
    """Yield all rows in order, in blocks of ``block_rows`` rows (the last may have fewer).

    Args:
        memory_for: returns the (stop - start, dim) array, of any dtype, for rows start to stop; it
            may return the same memory each time.

    Raises:
        ValueError: the number or width of the rows in the blocks differs from ``rows.shape``.
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
        """Return the statistics of (row, dim) values, computed in float64 in one pass; a constant
        dimension keeps its scale.

        The sum of squares of each chunk is taken around the chunk's mean, and the chunks are merged
        (Chan, Golub and LeVeque 1983), so a mean far from 0 loses no digits.
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
        """Return the standardised rows, (row, dim) float32."""
        return (rows.astype(np.float32) - self.mean) / self.scale


@dataclass(frozen=True)
class Whitener:
    """The map that gives the training rows mean 0 and directions of about equal variance.

    The map is symmetric (ZCA, Bell & Sejnowski 1997), so each dimension still stands for the same
    feature. It does not change which linear heads exist; it changes how fast gradients find them:
    neighbouring filter banks are so strongly correlated that the outcome of a short training hangs
    on rounding.

    Attributes:
        standardizer: mean and scale of each dimension.
        matrix: (dim, dim) float32, applied to standardised rows.
    """

    standardizer: Standardizer
    matrix: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray | RowTable) -> "Whitener":
        """Return the map for (row, dim) values, computed in float64 in two passes.

        A direction of variance v, whose mean over directions is m, is divided by the root of
        v + `FLOOR` m. So weak directions, which hold mostly noise, stay weak.
        """
        rows = as_rows(rows)
        standardizer = Standardizer.of(rows)
        products = np.zeros((rows.shape[1], rows.shape[1]))
        for block in rows.blocks():
            values = standardizer.apply(block).astype(np.float64)
            products += values.T @ values
        variances, directions = np.linalg.eigh(products / rows.shape[0])
        scale = np.sqrt(variances.clip(min=0) + FLOOR * max(variances.mean(), 1e-30))
        return cls(standardizer, ((directions / scale) @ directions.T).astype(np.float32))

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """Return the whitened rows, (row, dim) float32."""
        return self.standardizer.apply(rows) @ self.matrix
