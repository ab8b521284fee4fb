"""Stores of features that a test makes up."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from probe.data.corpus import load_corpus
from probe.store.feature_store import FeatureStore
from probe.store.shards import ShardContent
from probe.store.stores import create_store

RATE_HZ, HOP, FIELD = 16_000, 320, 400


def extracted(
    root: Path,
    layers: Mapping[str, Sequence[np.ndarray]],
    manifest: Path,
    stride: int = 1,
    per_shard: int = 3,
    **changed: Any,
) -> None:
    """Writes (frame, dim) of each utterance, per layer, as a store; the last utterances come first.

    The model is ``planted``, or what ``changed`` says.
    """
    utterances = load_corpus(manifest).utterances
    widths = [[name, arrays[0].shape[1]] for name, arrays in layers.items()]
    model = {
        "id": "planted",
        "revision": "1",
        "weights_sha256": "",
        "family": "test",
        "aliases": {},
    } | {"rate_hz": RATE_HZ, "hop_samples": HOP}
    recipe = {
        "model": model,
        "layers": widths,
        "view": "frames",
        "condition": "clean",
        "audio": {},
        "dtype": "float16",
    } | changed
    store = create_store(
        root,
        recipe["model"]["id"],
        recipe,
        {"packages": {}, "code": "", "device": "", "threads": 1},
    )
    order = list(reversed(range(len(utterances))))
    groups = [order[i : i + per_shard] for i in range(0, len(order), per_shard)]
    for job, group in zip(
        store.add_plan([(tuple(utterances[i].key for i in g), 1) for g in groups]),
        groups,
        strict=True,
    ):
        [name] = job.shard_names()
        _write(store, name, utterances, group, layers, stride)
    store.refresh()


def _write(
    store: FeatureStore,
    name: str,
    utterances: Sequence[Any],
    group: list[int],
    layers: Mapping[str, Any],
    stride: int,
) -> None:
    keys = [utterances[i].key for i in group]
    shas = [hashlib.sha256(key.encode()).hexdigest() for key in keys]
    frames = {
        layer: [arrays[i].astype(np.float32) for i in group] for layer, arrays in layers.items()
    }
    entries = []
    for i, sha in zip(group, shas, strict=True):
        status, rows = utterances[i].path.stat(), len(next(iter(layers.values()))[i])
        audio = {
            "audio_sha256": sha,
            "audio_bytes": status.st_size,
            "audio_mtime_ns": status.st_mtime_ns,
        }
        hop = store.recipe["model"]["hop_samples"]
        lengths = {
            "duration_s": ((rows * stride - 1) * hop + FIELD) / RATE_HZ,
            "n_frames": rows * stride,
            "rows": rows,
        }
        entries.append({"key": utterances[i].key} | audio | lengths)
    store.write_shard(name, ShardContent(keys, shas, frames, {}, store.recipe, {}), entries, [])
