"""Probabilistic linear discriminant analysis: the two-covariance model of speakers and utterances.

A vector is x = m + y + e with a speaker's part y ~ N(0, B), which is the same in all utterances of
the speaker, and an utterance's part e ~ N(0, W). The score of two vectors is the log-likelihood
ratio of one common y against two different ones (Brummer & de Villiers 2010, "The speaker
partitioning problem"); higher means more likely one speaker.

B and W are estimated in closed form by analysis of variance, unbiased also where speakers have
different numbers of utterances:

    W = within-speaker scatter / (N - K)
    B = (between-speaker scatter / (K - 1) - W) / n0,      n0 = (N - sum n_k^2 / N) / (K - 1)

with N rows, K speakers, n_k rows of speaker k. W is then shrunk towards a multiple of the identity
(Ledoit & Wolf 2004, with the shrinkage for N - K independent rows), and directions of B that are
negative in the basis of W become 0. If all n_k are equal, expectation maximisation would reach the
same result in more steps.

If LDA or whitening was fitted on the same training rows, the scores are not calibrated: they order
trials, but are not reliable log-likelihood ratios.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh


@dataclass(frozen=True)
class TwoCovariance:
    """The model, in the basis where W is the identity and B is diagonal.

    Attributes:
        mean: (dim,) m.
        basis: (dim, dim) V with V' W V = 1 and V' B V = diag(``spread``).
        spread: (dim,) variances between speakers, descending, in units of the variance of
            utterances.
    """

    mean: np.ndarray
    basis: np.ndarray
    spread: np.ndarray

    @classmethod
    def fit(cls, rows: np.ndarray, speakers: Sequence[str]) -> "TwoCovariance":
        """Fit the model to (row, dim) vectors of at least two speakers, with more rows than
        speakers.
        """
        vectors = np.asarray(rows, np.float64)
        _, speaker, n_rows = np.unique(np.array(speakers), return_inverse=True, return_counts=True)
        n, n_speakers, mean = len(vectors), len(n_rows), vectors.mean(axis=0)
        centres = np.zeros((n_speakers, vectors.shape[1]))
        np.add.at(centres, speaker, vectors)
        centres /= n_rows[:, None]
        residuals = vectors - centres[speaker]
        deviations = (centres - mean) * np.sqrt(n_rows)[:, None]
        within = residuals.T @ residuals / (n - n_speakers)
        n_0 = (n - np.square(n_rows).sum() / n) / (n_speakers - 1)
        between = (deviations.T @ deviations / (n_speakers - 1) - within) / n_0
        # Residuals of K means count as N - K independent rows; the shrinkage decreases with that
        # number.
        from sklearn.covariance import ledoit_wolf_shrinkage  # imported in half a second

        shrinkage = ledoit_wolf_shrinkage(residuals, assume_centered=True) * n / (n - n_speakers)
        shrinkage = min(1.0, shrinkage)
        target = shrinkage * np.trace(within) / len(mean) * np.eye(len(mean))
        within = (1 - shrinkage) * within + target
        return cls.of(mean, between, within)

    @classmethod
    def of(cls, mean: np.ndarray, between: np.ndarray, within: np.ndarray) -> "TwoCovariance":
        """Return the model for known (dim, dim) covariances; ``within`` must be positive
        definite.
        """
        spread, basis = eigh(between, within)
        return cls(mean, basis[:, ::-1], np.maximum(spread[::-1], 0))

    @property
    def between(self) -> np.ndarray:
        """(dim, dim) B."""
        inverse = np.linalg.inv(self.basis)
        return inverse.T @ (self.spread[:, None] * inverse)

    @property
    def within(self) -> np.ndarray:
        """(dim, dim) W."""
        inverse = np.linalg.inv(self.basis)
        return inverse.T @ inverse

    def embed(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return vectors (row, dim) and offsets (row,); the ratio of rows i and j is vectors[i] .
        vectors[j] + offsets[i] + offsets[j].

        The dimensions of the basis are independent. With t = 1 + s for a spread s, two vectors of
        one speaker have the covariance [[t, s], [s, t]], two vectors of different speakers have
        [[t, 0], [0, t]], and the ratio of the two Gaussians is

            log t - log(1 + 2 s) / 2 - s^2 (u^2 + v^2) / (2 t (1 + 2 s)) + s u v / (1 + 2 s)
        """
        inside = (np.asarray(rows, np.float64) - self.mean) @ self.basis
        total, both = 1 + self.spread, 1 + 2 * self.spread
        constant = (np.log(total) - np.log(both) / 2).sum() / 2  # each vector carries half of it
        offsets = constant - np.square(inside) @ (self.spread**2 / (2 * total * both))
        return inside * np.sqrt(self.spread / both), offsets


@dataclass(frozen=True)
class Whitening:
    """Principal components, each scaled to variance 1."""

    mean: np.ndarray
    weights: np.ndarray

    @classmethod
    def fit(cls, rows: np.ndarray, width: int) -> "Whitening":
        """Fit the ``width`` largest components of (row, dim), or fewer if the rows have fewer."""
        wide = np.asarray(rows, np.float64)
        mean = wide.mean(axis=0)
        _, values, axes = np.linalg.svd(wide - mean, full_matrices=False)
        n_found = min(width, int((values > 1e-6 * values[0]).sum()))
        return cls(mean, axes[:n_found].T * (np.sqrt(len(wide) - 1) / values[:n_found]))

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """Map (row, dim) to (row, width)."""
        return (np.asarray(rows, np.float64) - self.mean) @ self.weights
