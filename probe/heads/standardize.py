"""Standardisation with training statistics: every head sees features of mean 0 and standard deviation 1.

Layers differ in scale by orders of magnitude (some pre-LN models have very small top layers), and a regularised or gradient-trained
head is not invariant to scale.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Standardizer:
    """Mean and scale of each dimension, (dim,) float32 each."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, chunk_rows: int = 1 << 14) -> "Standardizer":
        """Statistics of (row, dim) values, taken in float64; a constant dimension keeps its scale."""
        total = np.zeros(rows.shape[1])
        for start in range(0, len(rows), chunk_rows):
            total += rows[start : start + chunk_rows].sum(axis=0, dtype=np.float64)
        mean = total / len(rows)
        squares = np.zeros(rows.shape[1])
        for start in range(0, len(rows), chunk_rows):
            squares += np.square(rows[start : start + chunk_rows] - mean).sum(axis=0)
        scale = np.sqrt(squares / len(rows))
        constant = scale <= 1e-7 * np.maximum(np.abs(mean), 1e-30)
        return cls(mean.astype(np.float32), np.where(constant, 1.0, scale).astype(np.float32))

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """(row, dim) float32."""
        return (rows.astype(np.float32) - self.mean) / self.scale
