"""Compare the layers of two stores, or of one store and labels, and write one file per comparison.

docs/similarity.md explains the forms (``conditions``, ``models``, ``layers``, ``labels`` and
``vectors``) and the measures, `probe.evaluation.similarity_files` what a file holds.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from probe.data.corpus import Corpus, load_corpus
from probe.errors import UsageError
from probe.evaluation.aligned_rows import Pairs, pair_up, stored_rows
from probe.evaluation.condition_plan import named
from probe.evaluation.dataset import block_of
from probe.evaluation.label_similarity import LabelComparison
from probe.evaluation.moved_rows import Moved
from probe.evaluation.progress import progress_of
from probe.evaluation.similarity_files import (
    Cell,
    file_content,
    interval_of,
    of_cca,
    with_chance,
    written,
)
from probe.evaluation.similarity_sides import COMPARING, READ_BYTES, Comparing, Side, Sides
from probe.files import require_writable
from probe.measures.held_out_cca import (
    N_PARTS,
    N_TRIALS,
    HeldOutSide,
    HeldOutValue,
    held_out_cca,
    parts_of,
)
from probe.measures.representations import LEAST_ROWS, Comparison, Estimate, Sample, compare
from probe.model_names import ModelName, distinct_models
from probe.remote.paths import as_path

log = logging.getLogger("probe")

CLEAN = "clean"


@dataclass(frozen=True)
class LayerComparison:
    """Two sides (one object for the layers of one model) and what is compared of them."""

    a: Side
    b: Side
    sides: Sides
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def form(self) -> str:
        """``layers``, ``models`` or ``conditions``."""
        if self.a is self.b:
            return "layers"
        is_one_model = self.a.model == self.b.model and self.a.condition != self.b.condition
        return "conditions" if is_one_model else "models"

    @property
    def widest(self) -> int:
        """The largest width of a layer of either side."""
        return max(side.width(layer) for side in (self.a, self.b) for layer in side.layers)

    def content(self) -> dict[str, Any]:
        """The content of the file."""
        a, b, comparing = self.a, self.b, self.sides.comparing
        rows = self.sides.rows()
        pairs = pair_up(a.features, b.features, rows, comparing.n_sample, comparing.seed)
        content = file_content(self.sides, self.form, a, b.described(), pairs)
        for note in content["notes"]:
            log.warning("%s (%s), %s (%s): %s", a.model, a.condition, b.model, b.condition, note)
        cells = self.moved_cells(pairs) if self.form == "conditions" else self.matrix_cells(pairs)
        content["cells"] = list(cells)
        content["left_out"] |= self.left_out
        return content

    def moved_cells(self, pairs: Pairs) -> Iterator[Cell]:
        """A cell per layer, clean and under the condition."""
        blocks = [block_of(item) for item in pairs.utterances]
        layers = [layer for layer in self.a.layers if layer in self.b.layers]
        undefined = 0
        with progress_of(f"{self.a.model}, {self.b.condition}") as progress:
            progress.add(len(layers))
            for layer in layers:
                progress.note(f"layer {layer}")
                moved = Moved()
                clean_rows, disturbed_rows = [], []
                sides = (self.side_rows(layer, pairs, side) for side in (0, 1))
                for clean, disturbed, sampled in zip(*sides, pairs.sampled, strict=True):
                    moved.add(clean, disturbed)
                    clean_rows.append(clean[sampled])
                    disturbed_rows.append(disturbed[sampled])
                undefined = max(undefined, moved.undefined)
                rows = [self.held(part, pairs) for part in (clean_rows, disturbed_rows)]
                cell = {"layer": layer, "other_layer": layer} | self.compared(*rows)[0]
                yield cell | moved.cell(blocks)
                progress.step()
        if undefined:
            self.left_out["rows of length 0"] = undefined

    def matrix_cells(self, pairs: Pairs) -> Iterator[Cell]:
        """A cell per pair of layers.

        As many layers of ``a`` as fit in memory are held at a time, and those of ``b`` one by one.
        """
        a, b, same = self.a, self.b, self.a is self.b
        at_once = max(1, int(self.sides.comparing.memory_bytes * 3 / 4) // self.n_bytes(pairs) - 1)

        def rows_of(layer: str, side: int) -> HeldOutSide:
            of_side = zip(self.side_rows(layer, pairs, side), pairs.sampled, strict=True)
            return self.held([rows[chosen] for rows, chosen in of_side], pairs)

        cells: dict[tuple[str, str], Cell] = {}
        with progress_of(f"{a.model}, {b.model}") as progress:
            n = len(a.layers)
            progress.add(n * (n + 1) // 2 if same else n * len(b.layers))
            for start in range(0, n, at_once):
                held = {layer: rows_of(layer, 0) for layer in a.layers[start : start + at_once]}
                for column, other in enumerate(b.layers):
                    # A matrix of one model is symmetric but for CCA, which comes in both orders.
                    rows = [layer for layer in held if not same or a.layers.index(layer) <= column]
                    if not rows:
                        continue
                    of_other = held[other] if same and other in held else rows_of(other, 1)
                    for layer in rows:
                        cells[layer, other], turned = self.compared(held[layer], of_other)
                        if same and layer != other:
                            cells[other, layer] = turned
                        progress.step()
        for layer in a.layers:
            for other in b.layers:
                yield {"layer": layer, "other_layer": other} | cells[layer, other]

    def n_bytes(self, pairs: Pairs) -> int:
        """What one layer takes: rows in float32, those of dev and test in float64, the axes of each
        trial, and squared lengths (and axes) of each jackknife sample.
        """
        n, width, n_samples = pairs.n_sampled, self.widest, pairs.n_groups + 1
        n_axes = N_TRIALS + n_samples * self.sides.comparing.in_sample
        share = 2 * N_TRIALS / N_PARTS
        return int(4 * n * width + 8 * (n * width * share + n_axes * width**2 + n * n_samples))

    def held(self, rows: Sequence[np.ndarray], pairs: Pairs) -> HeldOutSide:
        """The sampled rows of one side, in their parts."""
        sample = Sample(np.concatenate(rows).astype(np.float32), pairs.bounds)
        seed = self.sides.comparing.seed
        return HeldOutSide(sample, parts_of([""] * len(sample.values), seed))

    def compared(self, one: HeldOutSide, other: HeldOutSide) -> tuple[Cell, Cell]:
        """The measures of two layers, and those of the layers in the other order."""
        if len(one.parts) < LEAST_ROWS:
            none = Estimate(None)
            result, held_out = Comparison(none, none, none), (HeldOutValue(none),) * 2
        else:
            in_sample = self.sides.comparing.in_sample
            result = compare(one.sample, other.sample, with_pwcca=in_sample)
            held_out = held_out_cca(one, other)
        first, second = (
            {"cka": interval_of(result.cka), "cca": of_cca(value)} for value in held_out
        )
        if self.sides.comparing.in_sample:
            first["pwcca"] = with_chance(result.pwcca)
            second["pwcca"] = with_chance(result.reversed_pwcca)
        return first, second

    def side_rows(self, layer: str, pairs: Pairs, side: int) -> Iterator[np.ndarray]:
        """(pair, dim) of each utterance on a side, read in batches."""
        features = (self.a, self.b)[side].features
        n_bytes = min(READ_BYTES, self.sides.comparing.memory_bytes // 8)
        for position, rows in stored_rows(features, layer, pairs.utterances, n_bytes):
            yield pairs.ranges[position][side].of(rows)


def similarity(
    model: str | ModelName,
    corpus: str | Path | Corpus,
    features: str | Path,
    results: str | Path,
    *,
    conditions: Sequence[str] = (),
    against: str | ModelName | None = None,
    comparing: Comparing = COMPARING,
) -> list[Path]:
    """Compare a model with itself under conditions, with another model, with labels or their
    vectors, or its layers with each other; see the module.

    Args:
        model: SPEC or NAME=SPEC, as `probe.run` takes it.
        corpus: a manifest, ``librispeech:ROOT#subsets``, or a corpus that is loaded.
        features: the folder of stores.
        results: receives ``similarity/*.json``.
        conditions: without ``against``, each is compared with clean; with it, both models are
            compared under each.
        against: another model.
        comparing: which rows and layers are compared. With labels, and neither conditions nor
            another model, every layer is compared with the labels.

    Returns:
        The files written, one per comparison.

    Raises:
        ProbeError: features are missing, or do not belong together; labels or vectors are unusable.
        UsageError: an unknown split or layer, or clean is compared with clean.
    """
    require_writable(Path(results))
    conditions = list(dict.fromkeys(map(named, conditions)))
    if against is None and CLEAN in conditions:
        raise UsageError(
            "--condition clean: every condition is compared with clean; name the others."
        )
    if comparing.vectors and (conditions or against is not None):
        raise UsageError(
            "--vectors: compares layers with the vectors of labels; leave --against and "
            "--condition out."
        )
    whole = corpus if isinstance(corpus, Corpus) else load_corpus(corpus)
    sides = Sides(whole, as_path(features), comparing)
    first, *others = distinct_models([model] if against is None else [model, against])
    if comparing.labels and not conditions and against is None:
        of_model = sides.side(first, CLEAN, comparing.layers)
        return [written(LabelComparison(of_model, sides).content(), Path(results))]
    if against is not None:
        second = others[0] if others else first
        pairs = [
            (sides.side(first, name, comparing.layers), sides.side(second, name, None))
            for name in conditions or [CLEAN]
        ]
    else:
        clean = sides.side(first, CLEAN, comparing.layers)
        pairs = [(clean, sides.side(first, name, comparing.layers)) for name in conditions]
        pairs = pairs or [(clean, clean)]
    return [written(LayerComparison(a, b, sides).content(), Path(results)) for a, b in pairs]
