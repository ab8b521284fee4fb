"""Standardisation with training statistics: every head sees features of mean 0 and standard
deviation 1.

Layers differ in scale by orders of magnitude (some pre-LN models have very small top layers), and a
regularised or gradient-trained head is not invariant to scale.
"""

from dataclasses import dataclass

import numpy as np

from probe.heads.linear.rows import BLOCK_ROWS, Rows, as_rows, refill


@dataclass(frozen=True)
class Standardizer:
    """Mean and scale of each dimension, (dim,) float32 each."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray | Rows, chunk_rows: int = BLOCK_ROWS) -> "Standardizer":
        """Statistics of (row, dim) values, taken in float64 in one pass over them; a constant
        dimension keeps its scale.

        Each chunk's sum of squares is that around its own mean, and the chunks are merged (Chan,
        Golub and LeVeque 1983), so a mean far from 0 costs no digits.
        """
        rows = as_rows(rows)
        buffer = np.empty((chunk_rows, rows.shape[1]))
        mean, squares, seen = np.zeros(rows.shape[1]), np.zeros(rows.shape[1]), 0
        for chunk in refill(rows, lambda start, stop: buffer[: stop - start], chunk_rows):
            here = chunk.mean(axis=0)
            chunk -= here
            total, apart = seen + len(chunk), here - mean
            squares += np.einsum("rd,rd->d", chunk, chunk) + apart**2 * (seen * len(chunk) / total)
            mean += apart * (len(chunk) / total)
            seen = total
        scale = np.sqrt(squares / seen)
        constant = scale <= 1e-7 * np.maximum(np.abs(mean), 1e-30)
        return cls(mean.astype(np.float32), np.where(constant, 1.0, scale).astype(np.float32))

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """(row, dim) float32."""
        return (rows.astype(np.float32) - self.mean) / self.scale
