"""Compare the layers of a store with labels of intervals, or with vectors of these labels.

With labels alone, the other side of CCA is their one-hot rows (CCA-phone, CCA-word), and k-means
units of each layer give the mutual information with the labels (MI-phone, MI-word). With vectors it
is the vector of each row's label (CCA-AGWE, CCA-GloVe ...; Pasad et al. 2021, arXiv 2107.04734, and
2024, arXiv 2307.00162). Test rows have labels of training rows, so a layer that only knows which
label it is correlates with any vectors: ``chance`` is the highest value of `N_SHUFFLES` random
orders of the vectors over the labels, so a value above it has p = 0.05 in a permutation test
(a control task, Hewitt & Liang 2019, arXiv 1909.03368). Dev chooses among the epsilons of the true
order.

Labels have equal shares of the sample, as published: at most ``n_sample`` / labels rows of each,
drawn at random. One-hot rows are of the `MOST_LABELS` most frequent labels that have a row for each
part at least. All that is left out is counted.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from probe.data.corpus import Utterance
from probe.data.intervals import LABEL
from probe.data.label_vectors import LabelVectors, load_vectors
from probe.errors import ProbeError, listed
from probe.evaluation.aligned_rows import Pairs, pair_up, stored_rows
from probe.evaluation.progress import progress_of
from probe.evaluation.similarity_files import Cell, file_content, of_cca, rounded, with_chance
from probe.evaluation.similarity_sides import READ_BYTES, Side, Sides
from probe.measures.held_out_cca import N_PARTS, HeldOutSide, held_out_cca, parts_of
from probe.measures.representations import Sample, compare
from probe.measures.units import held_out_information

log = logging.getLogger("probe")

MOST_LABELS = 500  # Pasad et al. take the 500 most frequent words
UNITS_PER_LABEL = 10  # about as published: 500 units of 39 phones, 5000 of 500 words
N_SHUFFLES = 19
ROWS_PER_UNIT = 20  # of the rows that units are fitted to, where rows are few


@dataclass(frozen=True)
class LabelComparison:
    """The layers of one side, and the labels of its intervals."""

    a: Side
    sides: Sides
    left_out: dict[str, int] = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """The content of the file.

        Raises:
            ProbeError: too few labels have enough rows, or vectors are unusable.
        """
        comparing, intervals = self.sides.comparing, self.sides.intervals
        assert intervals is not None
        rows = self.sides.rows()
        vectors = None
        if comparing.vectors:
            vectors = load_vectors(comparing.vectors, {row.label(LABEL) for row in rows})
        chosen = self.chosen(rows, vectors)
        pairs = pair_up(self.a.features, self.a.features, chosen, len(chosen), comparing.seed)
        labels = [row.label(LABEL) for row in pairs.utterances]
        targets = _one_hot(labels) if vectors is None else _vectors_of(labels, vectors)
        n_units = min(UNITS_PER_LABEL * len(set(labels)), len(labels) // 2 // ROWS_PER_UNIT)
        other: dict[str, Any] = {
            "name": self.sides.settings.tier if vectors is None else vectors.name,
            "condition": self.a.condition,
            "sha256": intervals.sha256,
            "labels": len(set(labels)),
            "widths": [targets.shape[1]],
        }
        other |= {} if vectors is None else {"vectors_sha256": vectors.sha256}
        form = "labels" if vectors is None else "vectors"
        content = file_content(self.sides, form, self.a, other, pairs)
        content["settings"] |= {"units": n_units} if vectors is None else {}
        for note in content["notes"]:
            log.warning("%s, %s: %s", self.a.model, other["name"], note)
        content["cells"] = list(self.cells(pairs, labels, targets, n_units))
        content["left_out"] |= self.left_out
        return content

    def chosen(self, rows: Sequence[Utterance], vectors: LabelVectors | None) -> list[Utterance]:
        """The rows that are compared.

        Raises:
            ProbeError: fewer than two labels have enough rows.
        """
        stored = self.a.features.keyed
        rows = [row for row in rows if row.key in stored]
        counts = Counter(row.label(LABEL) for row in rows)
        if vectors is None:
            common = [label for label, n in counts.most_common() if n >= N_PARTS]
            reason = f"rows of labels with fewer than {N_PARTS} rows, or beyond {MOST_LABELS}"
            kept = set(common[:MOST_LABELS])
        else:
            reason, kept = "rows of labels without a vector", set(vectors.of_labels)
            if missing := sorted(counts.keys() - kept):
                log.warning(
                    "%s: no vectors for %d of %d labels, their rows are left out: %s",
                    *(self.sides.comparing.vectors, len(missing), len(counts), listed(missing)),
                )
        usable = [row for row in rows if row.label(LABEL) in kept]
        if len(kept) < 2 or len(usable) < 2 * N_PARTS:
            raise ProbeError(
                f"{self.sides.comparing.labels}: {len(usable)} rows of {len(kept)} labels can be "
                f"compared ({len(rows)} rows of {len(counts)} labels in all); expected two labels "
                f"with {N_PARTS} rows each or more. Take more utterances (--only all), or another "
                "--tier."
            )
        most = max(N_PARTS, self.sides.comparing.n_sample // len(kept))
        order = np.random.default_rng([self.sides.comparing.seed, len(usable)])
        taken: Counter[str] = Counter()
        positions = []
        for i in order.permutation(len(usable)).tolist():
            label = usable[i].label(LABEL)
            positions += [i] if taken[label] < most else []
            taken[label] += 1
        if dropped := len(rows) - len(usable):
            self.left_out[reason] = dropped
        if dropped := len(usable) - len(positions):
            self.left_out[f"rows beyond {most} of one label"] = dropped
        return [usable[i] for i in sorted(positions)]

    def cells(
        self, pairs: Pairs, labels: Sequence[str], targets: np.ndarray, n_units: int
    ) -> Iterator[Cell]:
        """A cell per layer."""
        comparing, features = self.sides.comparing, self.a.features
        parts = parts_of(labels, comparing.seed)
        other = HeldOutSide(Sample(targets, pairs.bounds), parts)
        shuffled: list[HeldOutSide] = []
        if comparing.vectors:
            generator = np.random.default_rng([comparing.seed, len(labels)])
            shuffled = [
                HeldOutSide(Sample(_shuffled(labels, targets, generator), pairs.bounds), parts)
                for _ in range(N_SHUFFLES)
            ]
        n_bytes = min(READ_BYTES, comparing.memory_bytes // 8)
        with progress_of(f"{self.a.model}, {comparing.labels}") as progress:
            progress.add(len(self.a.layers))
            for layer in self.a.layers:
                progress.note(f"layer {layer}")
                read = stored_rows(features, layer, pairs.utterances, n_bytes)
                rows = np.concatenate([of_interval for _, of_interval in read]).astype(np.float32)
                sample = Sample(rows, pairs.bounds)
                cell: Cell = {"layer": layer, "other_layer": ""}
                side = HeldOutSide(sample, parts)
                result = held_out_cca(side, other)[0]
                cell["cca"] = of_cca(result)
                if shuffled and result.epsilons:
                    epsilons = sorted(set(result.epsilons))
                    orders = [held_out_cca(side, item, epsilons)[0] for item in shuffled]
                    values = [order.estimate.value for order in orders]
                    cell["cca"]["chance"] = rounded(max(value or 0.0 for value in values))
                cell["pwcca"] = with_chance(compare(sample, other.sample).pwcca)
                if not comparing.vectors:
                    information = held_out_information(
                        *(rows, labels, parts, n_units, pairs.bounds, comparing.seed)
                    )
                    cell["mi"] = with_chance(information)
                yield cell
                progress.step()


def _one_hot(labels: Sequence[str]) -> np.ndarray:
    """(row, label) float64."""
    names, numbers = np.unique(np.asarray(labels), return_inverse=True)
    return np.asarray(np.eye(len(names))[numbers])


def _vectors_of(labels: Sequence[str], vectors: LabelVectors) -> np.ndarray:
    """(row, dim) float64."""
    return np.stack([vectors.of_labels[label] for label in labels])


def _shuffled(
    labels: Sequence[str], targets: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """(row, dim) the vectors of the rows' labels after a random permutation of labels."""
    _, first, numbers = np.unique(np.asarray(labels), return_index=True, return_inverse=True)
    return np.asarray(targets[first[generator.permutation(len(first))]][numbers])
