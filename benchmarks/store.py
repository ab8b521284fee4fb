"""What each way of storing features costs: bytes, seconds to write, seconds to read a layer, beside
plain h5py. One command:

    python benchmarks/store.py [--seconds 84] [--rounds 7]

Frames of all layers of a wav2vec2-base with random weights over synthetic speech are written once
in every form, and one layer is read again and again, the forms taking turns; the files are in the
page cache. Prints a Markdown table of medians with the smallest and largest value, and how the
machine was loaded.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

import probe
from probe.data.audio import load_audio
from probe.data.synthetic import write_synthetic_corpus
from probe.extraction.extract import environment_of, recipe_of
from probe.extraction.pooling import as_stored
from probe.extraction.settings import Storing
from probe.models.encoder import Encoder
from probe.store.feature_store import FeatureStore
from probe.store.shards import ShardContent
from probe.store.stores import create_store
from probe.store.views import pool

LAYER = "2"
FORMS: dict[str, dict[str, str]] = {
    "frames, float16": {},
    "frames, float32": {"dtype": "float32"},
    "frames, int8": {"dtype": "int8"},
    "frames, float16, gzip": {"compression": "gzip"},
    "frames, int8, gzip": {"dtype": "int8", "compression": "gzip"},
    "frames:2, float16": {"view": "frames:2"},
    "segments:10, float16": {"view": "segments:10"},
    "meanstd, float16": {"view": "meanstd"},
    "mean, float16": {"view": "mean"},
}
SHARD_UTTERANCES = 100


def frames_of(encoder: Encoder, folder: Path, seconds: float) -> dict[str, list[np.ndarray]]:
    """Layer -> (frame, dim) float32 of each utterance, about ``seconds`` of audio in all."""
    corpus = probe.load_corpus(write_synthetic_corpus(folder, 0).words)
    frames: dict[str, list[np.ndarray]] = {name: [] for name in encoder.info.layers}
    for item in corpus.utterances:
        samples = torch.from_numpy(load_audio(item.path, encoder.info.rate_hz).samples)
        layers, _ = encoder.encode(samples[None], torch.tensor([len(samples)]), list(frames))
        for name, of_layer in zip(frames, layers, strict=True):
            frames[name].append(of_layer[0].numpy())
        seconds -= len(samples) / encoder.info.rate_hz
        if seconds <= 0:
            break
    return frames


def write_store(
    root: Path, encoder: Encoder, frames: dict[str, list[np.ndarray]], form: dict[str, str]
) -> FeatureStore:
    """A store of these frames as `probe.extract` writes it, fsync included."""
    view = form.get("view", "frames")
    settings = {name: value for name, value in form.items() if name != "view"}
    recipe = recipe_of(encoder, list(frames), Storing(view=view, **settings))
    store = create_store(root, encoder.info.id, recipe, environment_of(encoder))
    n = len(frames[LAYER])
    for first in range(0, n, SHARD_UTTERANCES):
        keys = [f"u{number}" for number in range(first, min(n, first + SHARD_UTTERANCES))]
        (job,) = store.add_plan([(tuple(keys), 1)])
        rows = {
            name: [pool(item, view) for item in of_layer[first : first + SHARD_UTTERANCES]]
            for name, of_layer in frames.items()
        }
        stored = [
            as_stored([torch.from_numpy(item[i]) for item in rows.values()], recipe["dtype"], True)
            for i in range(len(keys))
        ]
        packed, scales = (
            {name: [item[i] for item in stored] for i, name in enumerate(rows, start)}
            if start < len(stored[0])
            else {}
            for start in (0, len(rows))
        )
        content = ShardContent(
            keys, ["0" * 64] * len(keys), packed, {}, recipe, store.environment, scales=scales
        )
        entries = [
            {
                "key": key,
                "audio_sha256": "0" * 64,
                "audio_bytes": 0,
                "audio_mtime_ns": 0,
                "duration_s": 1.0,
                "n_frames": len(item),
            }
            | {"rows": len(pooled)}
            for key, item, pooled in zip(keys, frames[LAYER][first:], rows[LAYER], strict=False)
        ]
        store.write_shard(job.shard_names()[0], content, entries, [])
    store.refresh()
    return store


def write_one_by_one(path: Path, frames: dict[str, list[np.ndarray]]) -> Callable[[], Any]:
    """The usual way: a gzipped float32 dataset for each utterance and layer. Returns how a layer is
    read.
    """
    with h5py.File(path, "w") as file:
        for name, of_layer in frames.items():
            for number, item in enumerate(of_layer):
                file.create_dataset(f"u{number}/{name}", data=item, compression="gzip")
        file.flush()
    with path.open("rb") as written:
        os.fsync(written.fileno())

    def read() -> None:
        with h5py.File(path) as file:
            np.concatenate([file[f"u{number}/{LAYER}"][:] for number in range(len(frames[LAYER]))])

    return read


def read_plainly(store: FeatureStore) -> Callable[[], Any]:
    """The same shards by plain h5py, nothing checked but HDF5's own checksums."""

    def read() -> None:
        arrays = []
        for path in sorted(store.path.glob("shard-*.h5")):
            with h5py.File(path) as file:
                arrays.append(file[f"layers/{LAYER}"][:])
        np.concatenate(arrays)

    return read


def timed(work: Callable[[], Any]) -> float:
    """Seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=84.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--model", default="random:facebook/wav2vec2-base")
    chosen = parser.parse_args()
    encoder = probe.open_model(chosen.model, "cpu")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        frames = frames_of(encoder, folder / "audio", chosen.seconds)
        n_frames = sum(map(len, frames[LAYER]))
        readers: dict[str, Callable[[], Any]] = {}
        written: dict[str, tuple[float, int]] = {}
        for name, form in FORMS.items():
            start = time.perf_counter()
            store = write_store(folder / name.replace(":", "-"), encoder, frames, form)
            written[name] = (
                time.perf_counter() - start,
                sum(path.stat().st_size for path in store.path.glob("shard-*.h5")),
            )
            readers[name] = lambda store=store: store.layer(LAYER)  # type: ignore[misc]
            if name == "frames, float16":
                readers["the same by plain h5py"] = read_plainly(store)
        start = time.perf_counter()
        readers["a gzipped dataset per utterance"] = write_one_by_one(folder / "usual.h5", frames)
        written["a gzipped dataset per utterance"] = (
            time.perf_counter() - start,
            (folder / "usual.h5").stat().st_size,
        )
        seconds: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(chosen.rounds):
            for name, read in readers.items():
                seconds[name].append(timed(read))
    utterances = len(frames[LAYER])
    print(
        f"{encoder.info.id}, {len(frames)} layers, {utterances} utterances, {n_frames} frames; {chosen.rounds} rounds; ",
        end="",
    )
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| | MB | written, s | layer read, ms (smallest - largest) |\n|---|--:|--:|--:|")
    for name, measured in seconds.items():
        write_s, n_bytes = written.get(name, (None, None))
        cells = (
            ["", ""]
            if write_s is None or n_bytes is None
            else [f"{n_bytes / 1e6:.1f}", f"{write_s:.2f}"]
        )
        ms = [1000 * item for item in measured]
        print(
            f"| {name} | {cells[0]} | {cells[1]} | {statistics.median(ms):.2f} ({min(ms):.2f} - {max(ms):.2f}) |"
        )


if __name__ == "__main__":
    main()
