"""Rows of features that need not be in memory: what linear probes, ridge probes and the
standardiser read.

A source hands its rows out in blocks of any size; every reader here cuts them anew to a number of
rows of its own. So what is computed is the same bit for bit wherever the rows come from.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

BLOCK_ROWS = 2048  # a block's products with the weights of some strengths stay in a core's cache


class Rows(Protocol):
    """A (row, dim) table that is read in blocks, as often as one likes."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dimensions."""

    def blocks(self) -> Iterator[np.ndarray]:
        """All rows in order as (row, dim) arrays, float16 or float32 (float64 is taken too); anew
        with each call.
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


def as_rows(rows: np.ndarray | Rows) -> Rows:
    """An array's rows, or the rows themselves.

    Raises:
        ValueError: not two axes, or no row.
    """
    if len(rows.shape) != 2 or not rows.shape[0]:
        raise ValueError(
            f"expected rows of shape (row, dim) with one row or more. Found {tuple(rows.shape)}"
        )
    return ArrayRows(rows) if isinstance(rows, np.ndarray) else rows


def precision(rows: Rows) -> np.dtype:
    """What to compute in: float64 for float64 rows, otherwise float32."""
    found = next(iter(rows.blocks())).dtype
    if found.kind != "f":
        raise ValueError(f"expected rows of float16, float32 or float64. Found {found.name}")
    return np.dtype(np.float64 if found == np.float64 else np.float32)


def refill(
    rows: Rows, room: Callable[[int, int], np.ndarray], block_rows: int = BLOCK_ROWS
) -> Iterator[np.ndarray]:
    """All rows in order, in blocks of ``block_rows`` (fewer in the last).

    Args:
        room: gives the (stop - start, dim) array to fill with rows start to stop, of any dtype; it
            may be the same memory each time.

    Raises:
        ValueError: the blocks hold more or fewer rows than ``rows.shape`` says, or rows of another
            width.
    """
    n_rows, dim = rows.shape
    source = iter(rows.blocks())
    rest = np.empty((0, dim), np.float32)
    for start in range(0, n_rows, block_rows):
        filling = room(start, min(start + block_rows, n_rows))
        filled = 0
        while filled < len(filling):
            while not len(rest):
                rest = _next(source, n_rows, start + filled, dim)
            taken = min(len(rest), len(filling) - filled)
            filling[filled : filled + taken] = rest[:taken]
            rest, filled = rest[taken:], filled + taken
        yield filling
    if len(rest) or any(len(block) for block in source):
        raise ValueError(
            f"rows of shape {(n_rows, dim)} gave more than {n_rows} rows in their blocks"
        )


def _next(source: Iterator[np.ndarray], n_rows: int, given: int, dim: int) -> np.ndarray:
    block = next(source, None)
    if block is None:
        raise ValueError(f"rows of shape {(n_rows, dim)} gave only {given} rows in their blocks")
    if block.ndim != 2 or block.shape[1] != dim:
        raise ValueError(f"rows of shape {(n_rows, dim)} gave a block of shape {block.shape}")
    return block
