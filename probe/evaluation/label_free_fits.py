"""What is fitted on the training rows of a layer without their labels: its statistics, and the
projection to a common width.

Statistics are those of the layer itself, before a projection. Both are taken of at most `MOST_ROWS`
rows, whole utterances in an order that the seed draws; the last one is cut.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from probe.data.corpus import Utterance
from probe.errors import ProbeError
from probe.heads.linear.projection import Projection, fit_projection
from probe.measures.geometry import Geometry

MOST_ROWS = 20_000
BLOCK_ROWS = 4096
# A row's float64 copies while its block is added, and the values that were read.
BYTES_PER_VALUE = 32

Rows = Callable[[Sequence[Utterance]], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Fit:
    """Of one layer: ``statistics`` for records, and the ``projection``, None where none was asked
    for.
    """

    statistics: dict[str, float]
    projection: Projection | None = None


@dataclass(frozen=True)
class Fitting:
    """What is fitted, and on which rows.

    Attributes:
        train: utterances, in the manifest's order.
        width: that layers are projected to; 0 leaves them as they are.
        how: ``pca`` or ``random``.
        seed: draws the rows and the random projection.
        memory_bytes: that blocks of rows may take.
    """

    train: Sequence[Utterance] = ()
    width: int = 0
    how: str = "pca"
    seed: int = 0
    memory_bytes: int = 4 << 30

    def drawn(self, n_rows: Callable[[Utterance], int]) -> list[Utterance]:
        """Utterances that have `MOST_ROWS` rows together, or all; ``n_rows`` counts them."""
        order = np.random.default_rng([self.seed, len(self.train)]).permutation(len(self.train))
        ends = np.cumsum([n_rows(self.train[i]) for i in order])
        return [self.train[i] for i in order[: 1 + int(np.searchsorted(ends, MOST_ROWS))]]

    def fit(
        self,
        layer: str,
        drawn: Sequence[Utterance],
        dim: int,
        n_read: Callable[[Utterance], int],
        rows: Rows,
    ) -> Fit:
        """The fit of one layer.

        Args:
            drawn: see `drawn`.
            dim: width of the layer's rows.
            n_read: rows that are read for an utterance, which a pooled view has more of than it
                gives.
            rows: gives the (row, dim) values of some utterances, in their order.

        Raises:
            ProbeError: the rows cannot be projected.
        """
        geometry = Geometry()
        most = max(1, min(BLOCK_ROWS, self.memory_bytes // (BYTES_PER_VALUE * dim)))
        for group in _groups(drawn, n_read, most):
            block = np.concatenate(list(rows(group)))
            geometry.add(block[: MOST_ROWS - geometry.n])
        statistics = geometry.statistics()
        if not self.width:
            return Fit(statistics)
        if not geometry.n:
            raise ProbeError(f"layer {layer}: no training rows to fit project = {self.width} on.")
        try:
            projection = fit_projection(
                self.how, self.width, self.seed, geometry.n, *geometry.moments()
            )
        except ProbeError as error:
            raise ProbeError(f"layer {layer}: {error}.") from None
        if projection.variance is not None:
            statistics["projected_variance"] = float(f"{projection.variance:.6g}")
        return Fit(statistics, projection)


def _groups(
    utterances: Sequence[Utterance], n_read: Callable[[Utterance], int], most: int
) -> Iterator[list[Utterance]]:
    """Neighbours with at most ``most`` rows together, or one utterance alone."""
    group: list[Utterance] = []
    total = 0
    for item in utterances:
        if group and total + n_read(item) > most:
            yield group
            group, total = [], 0
        group.append(item)
        total += n_read(item)
    if group:
        yield group
