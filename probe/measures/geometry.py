"""The shape of one layer's features: numbers that may explain a curve of scores.

They describe the rows that a head reads, so those of ``meanstd`` and of ``frames`` are not
comparable. Rows come in blocks of (row, dim); sums are taken in float64, relative to the first row,
and merged by Chan et al. (1983), so that a large common offset costs no digits and the size of
blocks changes nothing. An undefined statistic is left out, never NaN; rows that are not finite have
none. Values are rounded to six digits because sums over threads differ in the last ones.

* ``rms``: root of the mean square of all values.
* ``effective_rank``: exp of the entropy of the covariance's eigenvalues, scaled to sum to 1 (Roy &
  Vetterli 2007; RankMe takes singular values of the features themselves, the square roots, and is
  higher). From 1 to the number of dimensions, and below the number of rows. Undefined where nothing
  varies.
* ``anisotropy``: mean cosine of all pairs of different rows (Ethayarajh 2019, who samples pairs):
  (|s|^2 - n) / (n (n - 1)) with the sum s of n rows of length 1. 0 where directions are spread
  evenly, 1 where all are one. Rows of zeros do not count; undefined below two others.
* ``outlier_dims``: share of dimensions whose rms is above the mean of all dimensions' by more than
  three of their standard deviations. Kovaleva et al. (2021) look for them among the weights and
  biases of LayerNorms, which are a feature's deviation and mean; its rms holds both. Ten dimensions
  or fewer cannot have one.
"""

import numpy as np

OUTLIER_DEVIATIONS = 3.0
ROUNDING = 1e-9


class Geometry:
    """Sums over one layer's rows.

    Attributes:
        n: rows so far.
    """

    def __init__(self) -> None:
        self.n = 0
        self._origin = np.zeros(0)
        self._mean = np.zeros(0)  # of what is folded, from the origin
        self._scatter = np.zeros((0, 0))  # sum of outer products from the mean
        self._n_folded = 0
        self._waiting: list[np.ndarray] = []
        self._n_directed = 0
        self._directions = np.zeros(0)

    def add(self, rows: np.ndarray) -> None:
        """Add (row, dim) float."""
        if not len(rows):
            return
        wide = rows.astype(np.float64)
        if not self.n:
            self._origin, self._directions = wide[0].copy(), np.zeros(wide.shape[1])
        self.n += len(wide)
        lengths = np.linalg.norm(wide, axis=1)
        self._n_directed += int(np.count_nonzero(lengths))
        self._directions += (1 / lengths[lengths > 0]) @ wide[lengths > 0]
        self._waiting.append(wide - self._origin)
        if self.n - self._n_folded > wide.shape[1]:
            self._fold()

    def _fold(self) -> None:
        """Merge the waiting rows into mean and scatter."""
        rows = np.concatenate(self._waiting)
        self._waiting = []
        mean = rows.mean(axis=0)
        rows -= mean
        if not self._n_folded:
            self._mean, self._scatter, self._n_folded = mean, _products(rows), len(rows)
            return
        n = self._n_folded + len(rows)
        step = mean - self._mean
        self._scatter += _products(rows) + np.outer(step, step) * (self._n_folded * len(rows) / n)
        self._mean = self._mean + step * (len(rows) / n)
        self._n_folded = n

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """(dim,) mean and (dim, dim) population covariance, of at least one row."""
        if self._waiting:
            self._fold()
        return self._origin + self._mean, self._scatter / self.n

    def statistics(self) -> dict[str, float]:
        """Those statistics that are defined, by name; see the module."""
        if not self.n:
            return {}
        mean, variances, products = self._spread()
        squares = variances + mean**2
        if not np.isfinite(squares).all():
            return {}
        import torch  # its import takes two seconds

        spectrum = torch.linalg.eigvalsh(torch.from_numpy(products)).numpy()
        rms = np.sqrt(squares)
        # Dimensions that differ by less than ROUNDING differ by rounding.
        bound = rms.mean() * (1 + ROUNDING) + OUTLIER_DEVIATIONS * rms.std()
        statistics = {"rms": np.sqrt(squares.mean()), "outlier_dims": np.mean(rms > bound)}
        spectrum = spectrum[spectrum > 0]
        if spectrum.sum() > 0:
            shares = spectrum / spectrum.sum()
            statistics["effective_rank"] = np.exp(-np.sum(shares * np.log(shares)))
        n = self._n_directed
        if n > 1:
            statistics["anisotropy"] = (self._directions @ self._directions - n) / (n * (n - 1))
        finite = {name: value for name, value in statistics.items() if np.isfinite(value)}
        return {name: float(f"{value:.6g}") for name, value in finite.items()}

    def _spread(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(dim,) mean and variances, and a matrix with the covariance's eigenvalues: the smaller
        one, where rows are few.
        """
        if self._n_folded:
            mean, covariance = self.moments()
            return mean, covariance.diagonal(), covariance
        rows = np.concatenate(self._waiting)
        mean = rows.mean(axis=0)
        rows -= mean
        return self._origin + mean, np.square(rows).mean(axis=0), _products(rows.T) / self.n


def _products(rows: np.ndarray) -> np.ndarray:
    """``rows.T @ rows`` by torch: NumPy's threads spin and are many times as slow on shared
    cores.
    """
    import torch  # its import takes two seconds

    values = torch.from_numpy(rows)
    return (values.T @ values).numpy()
