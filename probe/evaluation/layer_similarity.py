"""Compares the layers of two stores, and writes what was found: one file per comparison.

Three forms, by what is compared:

    conditions   a model under `clean` and the same model under another condition, each layer with itself: cosine and relative
                 distance of all frames, CKA and PWCCA of a sample of them
    models       every layer of a model with every layer of another, under the same condition: CKA and PWCCA
    layers       every layer of a model with every layer of itself: CKA and PWCCA

`probe.measures.representations` defines the measures, `probe.evaluation.aligned_rows` which rows
belong together.

A file, ``results/similarity/<model>__<condition>__<other>__<other
condition>__<corpus>__<view>__<split>.json``, is JSON with sorted keys; equal features, settings,
code and libraries give equal bytes. It holds no name of an utterance or a speaker.

    format               1
    form                 conditions, models or layers
    model, other         each: name, revision, condition, recipe (sha256), layers, widths, hop_s
    corpus, manifest_sha256, split, view
    alignment            how rows were found to belong together
    n_rows, n_sampled, n_utterances, n_blocks, n_groups   pairs of rows, those in the sample, speakers, groups of the jackknife
    left_out             reason -> utterances or rows
    settings             seed, sample, epsilon, least_ratio, safe_ratio
    notes                what a reader must know
    cells                one per pair of layers: layer, other_layer, and per measure value, low, high (null where not defined):
                         cka, pwcca (with chance), and of conditions cosine (with unrelated, the
                         mean cosine of two clean rows of this layer) and distance
    code, packages
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probe.data.corpus import Corpus, load_corpus
from probe.environment import code_version, package_versions
from probe.errors import UsageError, listed
from probe.evaluation.aligned_rows import Pairs, batches, pair_up
from probe.evaluation.condition_plan import heard, named
from probe.evaluation.dataset import Features, block_of
from probe.evaluation.model_stores import name_of, stores_under
from probe.evaluation.progress import progress_of
from probe.files import file_name, require_writable, write_atomically
from probe.measures.counts import Counts, amount_counts
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
        """Numbers in a row of a layer, as it is compared."""
        store = self.features.store
        dim = store.layers[layer] // row_width(1, store.view)
        return row_width(dim, self.features.view)

    def described(self) -> dict[str, Any]:
        """What the file says of it."""
        store = self.features.store
        return {
            "name": self.model,
            "revision": store.recipe["model"]["revision"],
            "condition": self.condition,
            "recipe": store.recipe_sha256,
            "layers": self.layers,
            "widths": [self.width(layer) for layer in self.layers],
            "hop_s": round(self.features.hop_s, 9),
        }


def similarity(
    model: str | ModelName,
    corpus: str | Path | Corpus,
    features: str | Path,
    results: str | Path,
    *,
    conditions: Sequence[str] = (),
    against: str | ModelName | None = None,
    split: str = "test",
    view: str = "frames",
    layers: str | None = None,
    n_sample: int = 20_000,
    seed: int = 0,
    limit: int | None = None,
    memory_bytes: int = 4_000_000_000,
) -> list[Path]:
    """Compares a model with itself under conditions, with another model, or its layers with each
    other; see the module.

    Args:
        model: SPEC or NAME=SPEC, as `probe.run` takes it.
        corpus: a manifest, ``librispeech:ROOT#subsets``, or a corpus that is loaded.
        features: the folder of stores.
        results: receives ``similarity/*.json``.
        conditions: without ``against``, each is compared with clean; with it, both models are
            compared under each.
        against: another model.
        split: of the manifest, or ``all``.
        view: ``frames``, or a pooled view: ``mean``, ``meanstd``, ``segments:n``.
        layers: of the model, such as ``0-12,final``; of the other model all are compared.
        n_sample: pairs of rows for CKA and PWCCA.
        seed: of the sample and the bootstrap.
        limit: at most so many utterances of each split.
        memory_bytes: for features that are held at a time.

    Returns:
        The files written, one per comparison.

    Raises:
        ProbeError: features are missing, or do not belong together.
        UsageError: an unknown split, a view with a stride, a layer that is not there, clean against
            clean.
    """
    if parse_view(view)[0] == "frames" and view != "frames":
        raise UsageError(
            f"--view {view}: expected frames (a store with a stride serves it), mean, meanstd or segments:n."
        )
    require_writable(Path(results))
    if n_sample < LEAST_ROWS:
        raise UsageError(
            f"--sample {n_sample}: expected {LEAST_ROWS} rows or more; thousands for PWCCA."
        )
    conditions = list(dict.fromkeys(map(named, conditions)))
    if against is None and CLEAN in conditions:
        raise UsageError(
            "--condition clean: every condition is compared with clean; name the others."
        )
    whole = corpus if isinstance(corpus, Corpus) else load_corpus(corpus)
    corpus = whole.limited(limit)
    splits = sorted({item.split for item in corpus.utterances})
    if split not in (*splits, "all"):
        raise UsageError(
            f"--split {split}: {corpus.name} has {', '.join(splits)}; expected one of them, or all."
        )

    first, *other = distinct_models([model] if against is None else [model, against])

    def side(model: ModelName, condition: str, wanted: str | None) -> Side:
        keys = [item.key for item in corpus.utterances]
        store = stores_under(Path(features), model, view, [condition], keys)[condition]
        name = name_of(model, store)
        found = Features({condition: store}, view, corpus)
        found.require(
            corpus.name,
            heard([item for item in corpus.utterances if split in (item.split, "all")], condition),
        )
        names = choose_layers(wanted, list(store.layers), store.aliases, name)
        part = max(found.on_grids(), key=lambda part: len(set(names).intersection(part.layers)))
        if apart := [layer for layer in names if layer not in part.layers]:
            log.warning(
                "%s: layers %s have other frames than the rest and are left out; --layers names them",
                name,
                listed(apart),
            )
        return Side(name, part, [layer for layer in names if layer in part.layers])

    if against is not None:
        second = other[0] if other else first
        sides = [
            (side(first, each, layers), side(second, each, None)) for each in conditions or (CLEAN,)
        ]
    elif conditions:
        clean = side(first, CLEAN, layers)
        sides = [(clean, side(first, each, layers)) for each in conditions]
    else:
        clean = side(first, CLEAN, layers)
        sides = [(clean, clean)]
    settings = {
        "seed": seed,
        "sample": n_sample,
        "epsilon": EPSILON,
        "least_ratio": LEAST_RATIO,
        "safe_ratio": SAFE_RATIO,
    }
    paths = []
    for a, b in sides:
        found = _compared(a, b, corpus, split, settings, memory_bytes)
        parts = (a.model, a.condition, b.model, b.condition, corpus.name, view, split)
        stem = "__".join(file_name(part) for part in parts)
        stem = stem if len(stem) <= LONGEST_STEM else file_name(stem)
        path = Path(results) / "similarity" / f"{stem}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(found, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(path, (text + "\n").encode())
        paths.append(path)
    return paths


def _compared(
    a: Side, b: Side, corpus: Corpus, split: str, settings: dict[str, Any], memory_bytes: int
) -> dict[str, Any]:
    """The content of the file of one comparison."""
    form = (
        "layers"
        if a is b
        else "models"
        if a.model != b.model or a.condition == b.condition
        else "conditions"
    )
    utterances = [item for item in corpus.utterances if split in (item.split, "all")]
    pairs = pair_up(a.features, b.features, utterances, settings["sample"], settings["seed"])
    left_out = dict(pairs.left_out)
    if form == "conditions":
        layers = [layer for layer in a.layers if layer in b.layers]
        cells = list(_conditions(a, b, layers, pairs, settings["seed"], memory_bytes, left_out))
    else:
        cells = list(_matrix(a, b, pairs, memory_bytes))
    n_sampled = sum(map(len, pairs.sampled))
    notes = _notes(a, b, n_sampled, len(pairs.bounds) - 1)
    for note in notes:
        log.warning("%s (%s), %s (%s): %s", a.model, a.condition, b.model, b.condition, note)
    return {
        "format": FORMAT,
        "form": form,
        "model": a.described(),
        "other": b.described(),
        "corpus": corpus.name,
        "manifest_sha256": corpus.sha256,
        "split": split,
        "view": a.features.view,
        "alignment": pairs.alignment,
        "n_rows": pairs.n_rows,
        "n_sampled": n_sampled,
        "n_utterances": len(pairs.utterances),
        "n_blocks": len({block_of(item) for item in pairs.utterances}),
        "n_groups": len(pairs.bounds) - 1,
        "left_out": left_out,
        "settings": settings,
        "notes": notes,
        "cells": cells,
        "code": code_version(),
        "packages": package_versions(),
    }


def _notes(a: Side, b: Side, n_rows: int, n_groups: int) -> list[str]:
    """What a reader must know: too few rows or speakers."""
    notes = []
    widest = max(side.width(layer) for side in (a, b) for layer in side.layers)
    if not enough_rows(n_rows, widest):
        notes.append(
            f"no PWCCA of layers wider than {n_rows // LEAST_RATIO}: {n_rows} rows, expected {LEAST_RATIO} per dimension"
        )
    elif n_rows < SAFE_RATIO * widest:
        notes.append(
            f"PWCCA is too high: {n_rows} rows of up to {widest} dimensions, {SAFE_RATIO} per dimension are safer (see its chance)"
        )
    if n_groups < 2:
        notes.append("no intervals: all utterances are of one speaker")
    return notes


def _conditions(
    a: Side,
    b: Side,
    layers: Sequence[str],
    pairs: Pairs,
    seed: int,
    memory_bytes: int,
    left_out: dict[str, int],
) -> Iterator[dict[str, Any]]:
    """A cell of each layer, clean and disturbed."""
    blocks = [block_of(item) for item in pairs.utterances]
    undefined = 0
    with progress_of(f"{a.model}, {b.condition}") as progress:
        progress.add(len(layers))
        for layer in layers:
            progress.note(f"layer {layer}")
            moved = Moved(len(blocks), a.width(layer))
            samples: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
            rows = zip(
                _rows(a, layer, pairs, 0, memory_bytes // 8),
                _rows(b, layer, pairs, 1, memory_bytes // 8),
                strict=True,
            )
            for position, (clean, disturbed) in enumerate(rows):
                moved.add(position, clean, disturbed)
                for sample, of_side in zip(samples, (clean, disturbed), strict=True):
                    sample.append(of_side[pairs.sampled[position]])
            one, other = (
                Sample(np.concatenate(sample).astype(np.float32), pairs.bounds)
                for sample in samples
            )
            undefined = max(undefined, moved.undefined)
            yield (
                {"layer": layer, "other_layer": layer}
                | _cell(_compare(one, other))
                | moved.cell(blocks, seed)
            )
            progress.step()
    if undefined:
        left_out["rows of length 0"] = undefined


class Moved:
    """Sums of cosine and relative distance of the rows of one layer, per utterance."""

    def __init__(self, n_utterances: int, width: int) -> None:
        self.cosine, self.distance = np.zeros((2, n_utterances))
        self.n = np.zeros(n_utterances, np.int64)
        self.direction = np.zeros(width)
        self.undefined = 0

    def add(self, position: int, clean: np.ndarray, disturbed: np.ndarray) -> None:
        """Takes in the (row, dim) of one utterance."""
        cosine, distance = cosine_and_distance(clean, disturbed)
        there = np.isfinite(cosine) & np.isfinite(distance)
        self.undefined += int((~there).sum())
        self.cosine[position], self.distance[position] = cosine[there].sum(), distance[there].sum()
        self.n[position] = there.sum()
        wide = clean[there].astype(np.float64)
        self.direction += (wide / np.linalg.norm(wide, axis=1, keepdims=True)).sum(axis=0)

    def cell(self, blocks: Sequence[str], seed: int) -> dict[str, Any]:
        """Mean cosine, mean relative distance, and the mean cosine of two different clean rows."""
        n = int(self.n.sum())
        if not n:
            nothing = _interval_of(None, None, None)
            return {"cosine": nothing | {"unrelated": None}, "distance": nothing}
        # An interval's ends are at least 0, as a cosine need not be: taken of 1 - cosine.
        turned = _mean_counts(blocks, self.n - self.cosine, self.n)
        moved = _mean_counts(blocks, self.distance, self.n)
        ends, ends_distance = interval(turned, seed=seed), interval(moved, seed=seed)
        low, high = (max(-1.0, 1 - ends[1]), 1 - ends[0]) if ends else (None, None)
        unrelated = (
            _rounded(float(self.direction @ self.direction - n) / (n * (n - 1))) if n > 1 else None
        )
        return {
            "cosine": _interval_of(float(self.cosine.sum()) / n, low, high)
            | {"unrelated": unrelated},
            "distance": _interval_of(
                float(self.distance.sum()) / n, *(ends_distance or (None, None))
            ),
        }


def _mean_counts(blocks: Sequence[str], amounts: np.ndarray, n: np.ndarray) -> Counts:
    """Counts of the mean of an amount per row, from its sums over utterances."""
    sums = amount_counts(blocks, np.maximum(amounts, 0))  # rounding may leave less than 0
    rows = amount_counts(blocks, n)
    return sums | {"denominator": [int(count) for count in rows["numerator"]]}


def _matrix(a: Side, b: Side, pairs: Pairs, memory_bytes: int) -> Iterator[dict[str, Any]]:
    """A cell of each pair of layers; the layers of ``a`` are held as many at a time as fit, those
    of ``b`` one by one.
    """
    n_sampled = sum(map(len, pairs.sampled))
    widest = max(side.width(layer) for side in (a, b) for layer in side.layers)
    # Rows in float32, and the axes of each jackknife sample.
    n_bytes = 4 * n_sampled * widest + 8 * len(pairs.bounds) * (
        widest**2 * enough_rows(n_sampled, widest) + n_sampled
    )
    at_once = max(1, int(memory_bytes * 3 / 4) // n_bytes - 1)

    def sample(side: Side, layer: str, which: int) -> Sample:
        rows = _rows(side, layer, pairs, which, memory_bytes // 8)
        return Sample(
            np.concatenate([of[chosen] for of, chosen in zip(rows, pairs.sampled, strict=True)]),
            pairs.bounds,
        )

    cells: dict[tuple[str, str], dict[str, Any]] = {}
    same = a is b
    total = len(a.layers) * (len(a.layers) + 1) // 2 if same else len(a.layers) * len(b.layers)
    with progress_of(f"{a.model}, {b.model}") as progress:
        progress.add(total)
        for start in range(0, len(a.layers), at_once):
            held = {layer: sample(a, layer, 0) for layer in a.layers[start : start + at_once]}
            for column, other in enumerate(b.layers):
                rows = [
                    layer
                    for row, layer in enumerate(a.layers)
                    if layer in held and not (same and row > column)
                ]
                beside = (
                    held[other] if same and other in held else sample(b, other, 1) if rows else None
                )
                for layer in rows:
                    assert beside is not None
                    found = _compare(held[layer], beside)
                    cells[layer, other] = _cell(found)
                    if same:
                        cells[other, layer] = _cell(
                            Comparison(found.cka, found.reversed_pwcca, found.pwcca)
                        )
                    progress.step()
    for layer in a.layers:
        yield from (
            {"layer": layer, "other_layer": other} | cells[layer, other] for other in b.layers
        )


def _rows(side: Side, layer: str, pairs: Pairs, which: int, n_bytes: int) -> Iterator[np.ndarray]:
    """(pair, dim) of each utterance, read by batches."""
    width, known = side.features.store.layers[layer], side.features.keyed
    for positions in batches(side.features, pairs.utterances, width, min(READ_BYTES, n_bytes)):
        stored = [known[pairs.utterances[position].key] for position in positions]
        for position, rows in zip(positions, side.features.stored_rows(layer, stored), strict=True):
            yield pairs.ranges[position][which].of(rows)


def _compare(one: Sample, other: Sample) -> Comparison:
    if len(one.values) >= LEAST_ROWS:
        return compare(one, other)
    nothing = Estimate(None)
    return Comparison(nothing, nothing, nothing)


def _cell(found: Comparison) -> dict[str, Any]:
    return {
        "cka": _interval_of(found.cka.value, found.cka.low, found.cka.high),
        "pwcca": {name: _rounded(value) for name, value in asdict(found.pwcca).items()},
    }


def _interval_of(
    value: float | None, low: float | None, high: float | None
) -> dict[str, float | None]:
    return {"value": _rounded(value), "low": _rounded(low), "high": _rounded(high)}


def _rounded(value: float | None) -> float | None:
    """To 6 digits: what lies beyond is the order of summation."""
    return None if value is None else float(f"{value:.6g}")
