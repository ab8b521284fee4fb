"""Project layers to fewer dimensions, so that models of different widths are compared at equal
capacity.

``pca`` takes the directions of largest variance of the training rows, centred but not scaled.
``random`` takes an orthonormal basis of a random subspace, scaled by sqrt(dim / width), which
preserves squared distances on average (Johnson & Lindenstrauss 1984) and does not depend on the
data.
"""

from dataclasses import dataclass

import numpy as np

from probe.errors import ProbeError


@dataclass(frozen=True)
class Projection:
    """A map from (row, dim) to (row, width).

    Attributes:
        mean: (dim,) float32, subtracted before the projection.
        weights: (dim, width) float32.
        variance: share of the training rows' variance that the projection keeps; None if they have
            no variance.
    """

    mean: np.ndarray
    weights: np.ndarray
    variance: float | None = None

    def apply(self, rows: np.ndarray, chunk_rows: int = 1 << 14) -> np.ndarray:
        """Return the projected rows, (row, width) float32."""
        import torch  # its import takes two seconds

        out = np.empty((len(rows), self.weights.shape[1]), np.float32)
        for start in range(0, len(rows), chunk_rows):
            part = slice(start, start + chunk_rows)
            centred = torch.from_numpy(rows[part].astype(np.float32) - self.mean)
            out[part] = (centred @ torch.from_numpy(self.weights)).numpy()
        return out


def fit_projection(
    how: str, width: int, seed: int, n_rows: int, mean: np.ndarray, covariance: np.ndarray
) -> Projection:
    """Fit a projection to ``width`` dimensions.

    Args:
        how: ``pca`` or ``random``.
        seed: random seed of ``random``; equal seeds, dims and widths give equal maps for any rows.
        n_rows: number of rows behind mean and covariance.
        mean, covariance: (dim,) and (dim, dim) float64 of the training rows.

    Raises:
        ProbeError: ``width`` is above the number of dimensions, or above the number of principal
            components that the rows can have.
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
    """Return (dim, width) eigenvectors, largest eigenvalue first; the largest entry of each is
    positive.
    """
    import torch  # its import takes two seconds

    vectors = torch.linalg.eigh(torch.from_numpy(covariance))[1].numpy()[:, ::-1][:, :width]
    return vectors * _signs(vectors[np.abs(vectors).argmax(axis=0), np.arange(width)])


def orthonormal(dim: int, width: int, seed: int) -> np.ndarray:
    """Return (dim, width) uniformly random orthonormal columns, from the QR decomposition of a
    Gaussian matrix with the signs of R removed.
    """
    gaussian = np.random.default_rng([seed, dim, width]).standard_normal((dim, width))
    basis, triangle = np.linalg.qr(gaussian)
    return basis * _signs(np.diag(triangle))


def _signs(values: np.ndarray) -> np.ndarray:
    return np.where(values < 0, -1.0, 1.0)
