"""Compare the layers of two stores, and write one file per comparison.

docs/similarity.md explains the three forms (``conditions``, ``models``, ``layers``) and the
measures. A file, ``results/similarity/<model>__<condition>__<other>__<other
condition>__<corpus>__<view>__<split>.json``, is JSON with sorted keys and holds no name of an
utterance or a speaker:

    format               1
    form                 conditions, models or layers
    model, other         each: name, revision, condition, recipe (sha256), layers, widths, hop_s
    corpus, manifest_sha256, split, view
    alignment            how rows were aligned
    n_rows, n_sampled    pairs of rows, and those in the sample
    n_utterances, n_blocks, n_groups    blocks are speakers; groups are those of the jackknife
    left_out             reason -> utterances or rows
    settings             seed, sample, epsilon, least_ratio, safe_ratio
    notes                what a reader must know
    cells                one per pair of layers: layer, other_layer, and per measure value, low,
                         high (null where undefined): cka, pwcca (with chance), and of conditions
                         distance and cosine (with unrelated, the mean of two clean rows)
    code, packages
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from probe.data.corpus import Corpus, Utterance, load_corpus
from probe.environment import code_version, package_versions
from probe.errors import UsageError, listed
from probe.evaluation.aligned_rows import Pairs, batches, pair_up
from probe.evaluation.condition_plan import heard, named
from probe.evaluation.dataset import Features, block_of
from probe.evaluation.model_stores import name_of, stores_under
from probe.evaluation.progress import progress_of
from probe.files import file_name, require_writable, write_atomically
from probe.measures.counts import Counts, amount_counts
from probe.measures.metrics import MAE
from probe.measures.representations import (
    EPSILON,
    LEAST_RATIO,
    LEAST_ROWS,
    SAFE_RATIO,
    Comparison,
    Estimate,
    Sample,
    compare,
    cosine_and_distance,
    enough_rows,
)
from probe.measures.uncertainty import interval
from probe.model_names import ModelName, distinct_models
from probe.store.layer_names import choose_layers
from probe.store.views import parse_view, row_width

log = logging.getLogger("probe")

FORMAT = 1
CLEAN = "clean"
READ_BYTES = 64 << 20
LONGEST_STEM = 200
Cell = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """Which rows and layers are compared, and with how much memory.

    Attributes:
        split: of the manifest, or ``all``.
        view: ``frames``, or a pooled view: ``mean``, ``meanstd``, ``segments:n``.
        layers: of the model, such as ``0-12,final``; of another model all are compared.
        n_sample: pairs of rows for CKA and PWCCA.
        seed: random seed for the sample and the bootstrap.
        limit: at most this many utterances of each split.
        memory_bytes: for features that are held at a time.
    """

    split: str = "test"
    view: str = "frames"
    layers: str | None = None
    n_sample: int = 20_000
    seed: int = 0
    limit: int | None = None
    memory_bytes: int = 4_000_000_000

    def __post_init__(self) -> None:
        if parse_view(self.view)[0] == "frames" and self.view != "frames":
            raise UsageError(
                f"--view {self.view}: expected frames (a store with a stride serves it), mean, "
                "meanstd or segments:n."
            )
        if self.n_sample < LEAST_ROWS:
            raise UsageError(
                f"--sample {self.n_sample}: expected {LEAST_ROWS} rows or more; PWCCA needs "
                "thousands."
            )


@dataclass(frozen=True)
class Side:
    """Layers of one model under one condition."""

    model: str
    features: Features
    layers: list[str]

    @property
    def condition(self) -> str:
        """What was done to the audio."""
        return self.features.store.recipe["condition"]

    def width(self, layer: str) -> int:
        """Numbers in a row of a layer, in the view of the comparison."""
        store = self.features.store
        dim = store.layers[layer] // row_width(1, store.view)
        return row_width(dim, self.features.view)

    def described(self) -> dict[str, Any]:
        """What the file says of this side."""
        store = self.features.store
        return {
            "name": self.model,
            "revision": store.recipe["model"]["revision"],
            "condition": self.condition,
            "recipe": store.recipe_sha256,
            "layers": self.layers,
            "widths": list(map(self.width, self.layers)),
            "hop_s": round(self.features.hop_s, 9),
        }


@dataclass(frozen=True)
class LayerComparison:
    """Two sides (one object for the layers of one model) and what is compared of them."""

    a: Side
    b: Side
    corpus: Corpus
    comparing: Comparing
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

    def write(self, results: Path) -> Path:
        """Compare, and write the file."""
        names = [name for side in (self.a, self.b) for name in (side.model, side.condition)]
        names += [self.corpus.name, self.comparing.view, self.comparing.split]
        stem = "__".join(map(file_name, names))
        stem = stem if len(stem) <= LONGEST_STEM else file_name(stem)
        path = results / "similarity" / f"{stem}.json"
        form: Any = {"sort_keys": True, "indent": 1, "ensure_ascii": False, "allow_nan": False}
        text = json.dumps(self.content(), **form)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (text + "\n").encode())
        return path

    def content(self) -> dict[str, Any]:
        """The content of the file."""
        a, b, comparing = self.a, self.b, self.comparing
        utterances = _of_split(self.corpus, comparing.split)
        pairs = pair_up(a.features, b.features, utterances, comparing.n_sample, comparing.seed)
        self.left_out.update(pairs.left_out)
        cells = self.moved_cells(pairs) if self.form == "conditions" else self.matrix_cells(pairs)
        notes = self.notes(pairs)
        for note in notes:
            log.warning("%s (%s), %s (%s): %s", a.model, a.condition, b.model, b.condition, note)
        return {
            "format": FORMAT,
            "form": self.form,
            "model": a.described(),
            "other": b.described(),
            "corpus": self.corpus.name,
            "manifest_sha256": self.corpus.sha256,
            "split": comparing.split,
            "view": a.features.view,
            "alignment": pairs.alignment,
            "n_rows": pairs.n_rows,
            "n_sampled": pairs.n_sampled,
            "n_utterances": len(pairs.utterances),
            "n_blocks": len({block_of(item) for item in pairs.utterances}),
            "n_groups": pairs.n_groups,
            "settings": {
                "seed": comparing.seed,
                "sample": comparing.n_sample,
                "epsilon": EPSILON,
                "least_ratio": LEAST_RATIO,
                "safe_ratio": SAFE_RATIO,
            },
            "notes": notes,
            "cells": list(cells),
            "left_out": self.left_out,
            "code": code_version(),
            "packages": package_versions(),
        }

    def notes(self, pairs: Pairs) -> list[str]:
        """Whether rows or speakers are too few."""
        notes, n_rows = [], pairs.n_sampled
        if not enough_rows(n_rows, self.widest):
            notes.append(
                f"no PWCCA of layers wider than {n_rows // LEAST_RATIO}: {n_rows} rows, expected "
                f"{LEAST_RATIO} per dimension"
            )
        elif n_rows < SAFE_RATIO * self.widest:
            notes.append(
                f"PWCCA is too high: {n_rows} rows of up to {self.widest} dimensions, {SAFE_RATIO} "
                "per dimension are safer (see its chance)"
            )
        if pairs.n_groups < 2:
            notes.append("no intervals: all utterances are of one speaker")
        return notes

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
                result = _compare(_sample(clean_rows, pairs), _sample(disturbed_rows, pairs))
                cell = {"layer": layer, "other_layer": layer} | _cell(result)
                yield cell | moved.cell(blocks, self.comparing.seed)
                progress.step()
        if undefined:
            self.left_out["rows of length 0"] = undefined

    def matrix_cells(self, pairs: Pairs) -> Iterator[Cell]:
        """A cell per pair of layers.

        As many layers of ``a`` as fit in memory are held at a time, and those of ``b`` one by one.
        """
        a, b, same = self.a, self.b, self.a is self.b
        # Rows in float32, and the axes of each jackknife sample.
        n_sampled = pairs.n_sampled
        n_axes = self.widest**2 * enough_rows(n_sampled, self.widest) + n_sampled
        n_bytes = 4 * n_sampled * self.widest + 8 * (pairs.n_groups + 1) * n_axes
        at_once = max(1, int(self.comparing.memory_bytes * 3 / 4) // n_bytes - 1)

        def sample(layer: str, side: int) -> Sample:
            parts = zip(self.side_rows(layer, pairs, side), pairs.sampled, strict=True)
            return _sample([rows[chosen] for rows, chosen in parts], pairs)

        cells: dict[tuple[str, str], Cell] = {}
        with progress_of(f"{a.model}, {b.model}") as progress:
            n = len(a.layers)
            progress.add(n * (n + 1) // 2 if same else n * len(b.layers))
            for start in range(0, n, at_once):
                held = {layer: sample(layer, 0) for layer in a.layers[start : start + at_once]}
                for column, other in enumerate(b.layers):
                    # A matrix of one model is symmetric but for PWCCA, which comes in both orders.
                    rows = [layer for layer in held if not same or a.layers.index(layer) <= column]
                    if not rows:
                        continue
                    of_other = held[other] if same and other in held else sample(other, 1)
                    for layer in rows:
                        result = _compare(held[layer], of_other)
                        cells[layer, other] = _cell(result)
                        if same:
                            cells[other, layer] = _cell(
                                Comparison(result.cka, result.reversed_pwcca, result.pwcca)
                            )
                        progress.step()
        for layer in a.layers:
            for other in b.layers:
                yield {"layer": layer, "other_layer": other} | cells[layer, other]

    def side_rows(self, layer: str, pairs: Pairs, side: int) -> Iterator[np.ndarray]:
        """(pair, dim) of each utterance on a side, read in batches."""
        features = (self.a, self.b)[side].features
        n_bytes = min(READ_BYTES, self.comparing.memory_bytes // 8)
        width, keyed = features.store.layers[layer], features.keyed
        for positions in batches(features, pairs.utterances, width, n_bytes):
            stored = [keyed[pairs.utterances[position].key] for position in positions]
            arrays = features.stored_rows(layer, stored)
            for position, rows in zip(positions, arrays, strict=True):
                yield pairs.ranges[position][side].of(rows)


def similarity(
    model: str | ModelName,
    corpus: str | Path | Corpus,
    features: str | Path,
    results: str | Path,
    *,
    conditions: Sequence[str] = (),
    against: str | ModelName | None = None,
    comparing: Comparing = Comparing(),
) -> list[Path]:
    """Compare a model with itself under conditions, with another model, or its layers with each
    other; see the module.

    Args:
        model: SPEC or NAME=SPEC, as `probe.run` takes it.
        corpus: a manifest, ``librispeech:ROOT#subsets``, or a corpus that is loaded.
        features: the folder of stores.
        results: receives ``similarity/*.json``.
        conditions: without ``against``, each is compared with clean; with it, both models are
            compared under each.
        against: another model.
        comparing: which rows and layers are compared.

    Returns:
        The files written, one per comparison.

    Raises:
        ProbeError: features are missing, or do not belong together.
        UsageError: an unknown split or layer, or clean is compared with clean.
    """
    require_writable(Path(results))
    conditions = list(dict.fromkeys(map(named, conditions)))
    if against is None and CLEAN in conditions:
        raise UsageError(
            "--condition clean: every condition is compared with clean; name the others."
        )
    whole = corpus if isinstance(corpus, Corpus) else load_corpus(corpus)
    corpus = whole.limited(comparing.limit)
    splits = sorted({item.split for item in corpus.utterances})
    if comparing.split not in (*splits, "all"):
        raise UsageError(
            f"--only {comparing.split}: {corpus.name} has {', '.join(splits)}; expected one of "
            "them, or all."
        )
    keys = [item.key for item in corpus.utterances]

    def side(model: ModelName, condition: str, wanted: str | None) -> Side:
        """The wanted layers of a model whose frames are aligned with each other."""
        store = stores_under(Path(features), model, comparing.view, [condition], keys)[condition]
        name = name_of(model, store)
        of_model = Features({condition: store}, comparing.view, corpus)
        of_model.require(corpus.name, heard(_of_split(corpus, comparing.split), condition))
        layers = set(choose_layers(wanted, list(store.layers), store.aliases, name))
        part = max(of_model.on_grids(), key=lambda part: len(layers.intersection(part.layers)))
        if apart := layers.difference(part.layers):
            log.warning(
                "%s: layers %s have other frames than the rest and are left out; select them with "
                "--layers",
                *(name, listed([layer for layer in store.layers if layer in apart])),
            )
        return Side(name, part, [layer for layer in store.layers if layer in layers - apart])

    first, *others = distinct_models([model] if against is None else [model, against])
    if against is not None:
        second = others[0] if others else first
        names = conditions or [CLEAN]
        sides = [(side(first, name, comparing.layers), side(second, name, None)) for name in names]
    else:
        clean = side(first, CLEAN, comparing.layers)
        sides = [(clean, side(first, name, comparing.layers)) for name in conditions]
        sides = sides or [(clean, clean)]
    return [LayerComparison(a, b, corpus, comparing).write(Path(results)) for a, b in sides]


def _of_split(corpus: Corpus, split: str) -> list[Utterance]:
    return [item for item in corpus.utterances if split in (item.split, "all")]


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

    def cell(self, blocks: Sequence[str], seed: int) -> Cell:
        """Mean cosine, mean relative distance, and the mean cosine of two different clean rows."""
        cosine, distance, n_rows = np.array(self.sums).T
        n = int(n_rows.sum())
        if not n:
            nothing = _interval_of(Estimate(None))
            return {"cosine": nothing | {"unrelated": None}, "distance": nothing}
        # Amounts must not be negative, as a cosine may be: take those of 1 - cosine.
        turned = interval(_mean_counts(blocks, n_rows - cosine, n_rows), MAE.name)
        ends = (max(-1.0, 1 - turned[1]), 1 - turned[0]) if turned else (None, None)
        moved = interval(_mean_counts(blocks, distance, n_rows), MAE.name) or (None, None)
        unrelated = float(self.direction @ self.direction - n) / (n * (n - 1)) if n > 1 else None
        of_cosine = _interval_of(Estimate(float(cosine.sum()) / n, *ends))
        return {
            "cosine": of_cosine | {"unrelated": _rounded(unrelated)},
            "distance": _interval_of(Estimate(float(distance.sum()) / n, *moved)),
        }


def _mean_counts(blocks: Sequence[str], amounts: np.ndarray, n: np.ndarray) -> Counts:
    """Counts of the mean of an amount per row, from its sums over utterances."""
    sums = amount_counts(blocks, np.maximum(amounts, 0))  # rounding may leave less than 0
    n_rows = amount_counts(blocks, n)["numerator"]
    return sums | {"denominator": list(map(int, n_rows))}


def _sample(rows: Sequence[np.ndarray], pairs: Pairs) -> Sample:
    return Sample(np.concatenate(rows).astype(np.float32), pairs.bounds)


def _compare(one: Sample, other: Sample) -> Comparison:
    if len(one.values) >= LEAST_ROWS:
        return compare(one, other)
    return Comparison(Estimate(None), Estimate(None), Estimate(None))


def _cell(result: Comparison) -> Cell:
    pwcca = {name: _rounded(value) for name, value in asdict(result.pwcca).items()}
    return {"cka": _interval_of(result.cka), "pwcca": pwcca}


def _interval_of(estimate: Estimate) -> dict[str, float | None]:
    return {name: _rounded(getattr(estimate, name)) for name in ("value", "low", "high")}


def _rounded(value: float | None) -> float | None:
    """To 6 digits, beyond which the order of summation decides."""
    return None if value is None else float(f"{value:.6g}")
