"""Linear discriminant analysis of speakers, on one vector per utterance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

LEAST_SPEAKERS = 10
MOST_COMPONENTS = 200


@dataclass(frozen=True)
class DiscriminantProjection:
    """Principal components followed by LDA with Ledoit-Wolf shrinkage, because the within-speaker
    scatter is singular for wide layers.
    """

    components: "PCA"
    discriminant: "LinearDiscriminantAnalysis"

    @classmethod
    def fit(cls, rows: np.ndarray, speakers: Sequence[str]) -> "DiscriminantProjection":
        """Fit the projection to (row, dim) vectors of at least `LEAST_SPEAKERS` speakers."""
        from sklearn.decomposition import PCA  # imported in half a second
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        n_components = min(MOST_COMPONENTS, rows.shape[1], len(rows) - len(set(speakers)))
        components = PCA(n_components, svd_solver="full").fit(rows)
        discriminant = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto")
        return cls(components, discriminant.fit(components.transform(rows), np.array(speakers)))

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """Project (row, dim) to (row, at most speakers - 1)."""
        return self.discriminant.transform(self.components.transform(rows))
