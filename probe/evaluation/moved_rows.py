"""How far rows move between clean and disturbed audio: mean cosine and relative distance."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from probe.evaluation.similarity_files import Cell, interval_of, rounded
from probe.measures.counts import Counts, amount_counts
from probe.measures.metrics import MAE
from probe.measures.representations import Estimate, cosine_and_distance
from probe.measures.uncertainty import interval


class Moved:
    """Sums of cosine and relative distance of the rows of one layer, per utterance."""

    def __init__(self) -> None:
        self.sums: list[tuple[float, float, int]] = []  # cosine, distance, rows
        self.direction: Any = 0.0
        self.undefined = 0

    def add(self, clean: np.ndarray, disturbed: np.ndarray) -> None:
        """Add the (row, dim) of one utterance."""
        cosine, distance = cosine_and_distance(clean, disturbed)
        defined = np.isfinite(cosine) & np.isfinite(distance)
        n = int(defined.sum())
        self.undefined += len(defined) - n
        self.sums.append((float(cosine[defined].sum()), float(distance[defined].sum()), n))
        wide = clean[defined].astype(np.float64)
        self.direction += (wide / np.linalg.norm(wide, axis=1, keepdims=True)).sum(axis=0)

    def cell(self, blocks: Sequence[str]) -> Cell:
        """Mean cosine, mean relative distance, and the mean cosine of two different clean rows."""
        cosine, distance, n_rows = np.array(self.sums).T
        n = int(n_rows.sum())
        if not n:
            nothing = interval_of(Estimate(None))
            return {"cosine": nothing | {"unrelated": None}, "distance": nothing}
        # Amounts must not be negative, as a cosine may be: take those of 1 - cosine.
        turned = interval(_mean_counts(blocks, n_rows - cosine, n_rows), MAE.name)
        ends = (max(-1.0, 1 - turned[1]), 1 - turned[0]) if turned else (None, None)
        moved = interval(_mean_counts(blocks, distance, n_rows), MAE.name) or (None, None)
        unrelated = float(self.direction @ self.direction - n) / (n * (n - 1)) if n > 1 else None
        of_cosine = interval_of(Estimate(float(cosine.sum()) / n, *ends))
        return {
            "cosine": of_cosine | {"unrelated": rounded(unrelated)},
            "distance": interval_of(Estimate(float(distance.sum()) / n, *moved)),
        }


def _mean_counts(blocks: Sequence[str], amounts: np.ndarray, n: np.ndarray) -> Counts:
    """Counts of the mean of an amount per row, from its sums over utterances."""
    sums = amount_counts(blocks, np.maximum(amounts, 0))  # rounding may leave less than 0
    n_rows = amount_counts(blocks, n)["numerator"]
    return sums | {"denominator": list(map(int, n_rows))}
