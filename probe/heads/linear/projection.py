"""Linear maps of a layer to fewer dimensions, so that models of different widths are compared at
equal capacity.

``pca``: the directions of largest variance of the training rows, centred, not scaled. ``random``:
an orthonormal basis of a random subspace, scaled by sqrt(dim / width), which keeps squared
distances on average (Johnson & Lindenstrauss 1984); it looks at no data.
"""

from dataclasses import dataclass

import numpy as np
import torch

from probe.errors import ProbeError

PROJECTIONS = ("pca", "random")


@dataclass(frozen=True)
class Projection:
    """A map from (row, dim) to (row, width).

    Attributes:
        mean: (dim,) float32, what is subtracted first.
        weights: (dim, width) float32.
        variance: the share of the training rows' variance that is kept; None where they have none.
    """

    mean: np.ndarray
    weights: np.ndarray
    variance: float | None = None

    def apply(self, rows: np.ndarray, chunk_rows: int = 1 << 14) -> np.ndarray:
        """(row, width) float32."""
        out = np.empty((len(rows), self.weights.shape[1]), np.float32)
        for start in range(0, len(rows), chunk_rows):
            part = slice(start, start + chunk_rows)
            centred = torch.from_numpy(rows[part].astype(np.float32) - self.mean)
            out[part] = (centred @ torch.from_numpy(self.weights)).numpy()
        return out


def fit_projection(
    how: str, width: int, seed: int, n_rows: int, mean: np.ndarray, covariance: np.ndarray
) -> Projection:
    """Fits a projection to ``width`` dimensions.

    Args:
        how: one of `PROJECTIONS`.
        seed: of ``random``; equal seeds, dims and widths give equal maps, whatever the rows.
        n_rows: the number of rows that mean and covariance are of.
        mean, covariance: (dim,) and (dim, dim) float64 of the training rows.

    Raises:
        ProbeError: there are not so many dimensions, or too few rows to find so many principal
            components.
    """
    dim = len(mean)
    if width > dim:
        raise ProbeError(
            f"{dim} dimensions cannot be projected to {width}. Set project to {dim} or less"
        )
    if how == "pca" and width > n_rows - 1:
        raise ProbeError(
            f"{n_rows} training rows have {n_rows - 1} principal components, {width} are asked for."
            ' Set project to less, or projection = "random"'
        )
    basis = principal(covariance, width) if how == "pca" else orthonormal(dim, width, seed)
    total = float(np.trace(covariance))
    variance = float(np.einsum("dw,dw->", basis, covariance @ basis)) / total if total > 0 else None
    if how == "pca":
        return Projection(mean.astype(np.float32), basis.astype(np.float32), variance)
    return Projection(
        np.zeros(dim, np.float32), (basis * np.sqrt(dim / width)).astype(np.float32), variance
    )


def principal(covariance: np.ndarray, width: int) -> np.ndarray:
    """(dim, width) eigenvectors of the largest eigenvalues, largest first; the largest entry of
    each is positive.
    """
    vectors = torch.linalg.eigh(torch.from_numpy(covariance))[1].numpy()[:, ::-1][:, :width]
    return vectors * _signs(vectors[np.abs(vectors).argmax(axis=0), np.arange(width)])


def orthonormal(dim: int, width: int, seed: int) -> np.ndarray:
    """(dim, width) columns of length 1 at right angles, uniformly random (QR of a Gaussian matrix,
    with the signs of R undone).
    """
    gaussian = np.random.default_rng([seed, dim, width]).standard_normal((dim, width))
    basis, triangle = np.linalg.qr(gaussian)
    return basis * _signs(np.diag(triangle))


def _signs(values: np.ndarray) -> np.ndarray:
    return np.where(values < 0, -1.0, 1.0)
