"""What a plan of millions of utterances and a store of thousands of shards cost. One command each:

    python benchmarks/scale.py plan --utterances 10000000
    python benchmarks/scale.py store --shards 20000 --each 10 --folder FOLDER
    python benchmarks/scale.py sizes

    plan    a corpus in memory, without transcripts, is planned for wav2vec2-base (13 layers of 768)
            and the plan is written and read again
    store   a store with small layers and entries of the usual size is written once into FOLDER, then
            opened, and one layer of one split (a tenth of the utterances) is read; --url opens a
            copy of it on object storage instead
    sizes   the table of docs/scale.md: bytes and objects by the format, times by docs/speed.md

Each prints seconds by the clock and of a core, and the peak of memory of its process.
"""

import argparse
import hashlib
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from probe.data.corpus import Corpus, Origin, Utterance
from probe.extraction.plan import INDEX_BYTES, SHARD_AUDIO_S, make_plan
from probe.extraction.settings import SHARD_BYTES, Storing
from probe.files import sealed_json
from probe.models.encoder import ModelInfo
from probe.store.feature_store import FeatureStore
from probe.store.shards import ShardContent, shard_bytes
from probe.store.stores import create_store, open_store

MEAN_S = 12.3  # of an utterance, as in LibriSpeech
SIZES = {"base": (13, 768), "large": (25, 1024)}
VIEWS = {"frames float16": ("frames", 2), "frames int8": ("frames", 1), "mean float16": ("mean", 2)}
HOURS = (1_000, 60_000, 1_000_000)


def memory_gb() -> float:
    """The largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Prints what the block took: by the clock, and of one core."""
    start, start_cpu = time.perf_counter(), time.process_time()
    yield
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
    print(f"{name:44} {wall_s:7.1f} s ({cpu_s:.1f} s of a core), peak {memory_gb():.2f} GB")


def encoder_of(n_layers: int = 13, width: int = 768) -> Any:
    """What a plan asks of an encoder."""
    layers = {str(number): width for number in range(n_layers)}
    return SimpleNamespace(info=ModelInfo("base", "1", "", "wav2vec2", layers))


def corpus_of(n: int) -> Corpus:
    """A corpus of LibriSpeech's names and lengths, without transcripts."""
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.gamma(4.0, MEAN_S / 4, n), 1.0, 35.0)
    lengths = (lengths * 200).round() / 200  # LibriSpeech's are multiples of 5 ms
    origin = Origin("/data/speech/", "corpus.csv line")
    known: dict[float, float] = {}  # a corpus has each duration once
    speakers = [f"speaker-{number}" for number in range(10_000)]

    def utterances() -> Iterator[Utterance]:
        for number, seconds in enumerate(lengths.tolist()):
            key = f"{number // 5000}/{number // 50}/{number:08d}.flac"
            labels = ("", speakers[number % 10_000], "read", "train")
            duration_s = known.setdefault(seconds, seconds)
            yield Utterance(key, key, *labels, duration_s, origin=origin, number=number + 2)

    return Corpus("corpus", "0" * 64, tuple(utterances()), ("text", "speaker", "domain", "split"))


def recipe_of(n_layers: int, width: int) -> dict[str, Any]:
    """The recipe of a store."""
    model = {"id": "base", "revision": "1", "weights_sha256": "", "family": "test", "aliases": {}}
    model |= {"rate_hz": 16_000, "hop_samples": 320}
    layers = [[str(number), width] for number in range(n_layers)]
    return {"model": model, "layers": layers, "view": "mean", "condition": "clean", "audio": {}}


def begun_store(folder: Path) -> FeatureStore:
    """A store without a plan."""
    environment = {"packages": {}, "device": "cpu", "threads": 1}
    return create_store(folder, "base", recipe_of(13, 8), environment)


def plan(n: int) -> None:
    """Plan a large corpus."""
    with timed(f"corpus of {n:,} utterances in memory"):
        corpus = corpus_of(n)
    encoder = encoder_of()
    content = Storing().content(list(encoder.info.layers))
    with tempfile.TemporaryDirectory() as folder:
        store = begun_store(Path(folder))
        with timed("make_plan"):
            made = make_plan(corpus, encoder, content, store, Path(folder))
        print(f"{len(made.fresh):,} shards, {made.n_bytes / 1e12:.2f} TB")
        with timed("the plan written"):
            store.add_plan(made.fresh)
        n_bytes = sum(path.stat().st_size for path in store.path.glob("plan-*.json"))
        print(f"{len(list(store.path.glob('plan-*.json')))} files, {n_bytes / 1e6:.0f} MB")
        del made
        with timed("the store opened with it"):
            opened = FeatureStore(store.path)
        assert sum(len(job.keys) for job in opened.jobs) == n


def write_store(folder: Path, n_shards: int, each: int) -> None:
    """Write a store of small layers, whose entries have the usual size; without waiting for the
    disk, and with the same values in all shards.
    """
    store = begun_store(folder)
    generator = np.random.default_rng(0)
    names = [f"{n // 5000}/{n // 50}/{n:08d}.flac" for n in range(n_shards * each)]
    jobs = store.add_plan([(tuple(names[at : at + each]), 1) for at in range(0, len(names), each)])
    rows = {
        layer: list(generator.standard_normal((each, 1, 8), np.float32)) for layer in store.layers
    }
    hashes = ["0" * 64] * each
    content = ShardContent(jobs[0].keys, hashes, rows, {}, store.recipe, store.environment)
    data, dtypes = shard_bytes(content)
    for job in jobs:
        entries = [
            {
                "key": key,
                "audio_sha256": f"{hash(key) & (1 << 63) - 1:064x}",
                "audio_bytes": 196_844,
                "audio_mtime_ns": 1_700_000_000_123_456_789,
                "duration_s": MEAN_S,
                "n_frames": 615,
                "rows": 1,
                "native_rate_hz": 16_000,
                "flags": [],
            }
            for key in job.keys
        ]
        index = {"format": 1, "shard": job.name, "bytes": len(data), "part": [0, 1]}
        index |= {"sha256": hashlib.sha256(data).hexdigest(), "dtypes": dtypes}
        index |= {"utterances": entries, "failures": []}
        (store.path / f"{job.name}.h5").write_bytes(data)
        (store.path / f"{job.name}.json").write_bytes(sealed_json(index))


def measure_store(place: str, n_shards: int, each: int) -> None:
    """Open a store and read one layer of a split."""
    with timed(f"opened: {n_shards:,} shards, {n_shards * each:,} utterances"):
        store = open_store(place)
    assert len(store.dtypes) == n_shards
    keys = store.keys[: len(store.keys) // 10]
    with timed(f"one layer of {len(keys):,} utterances read"):
        store.layer("6", keys)


def sizes() -> None:
    """Print bytes and shards of large corpora."""
    print("| model, view | " + " | ".join(f"{hours:,} h" for hours in HOURS) + " |")
    for model, (n_layers, width) in SIZES.items():
        for name, (view, value_bytes) in VIEWS.items():
            rows = 50 * MEAN_S if view == "frames" else 1
            of_values = n_layers * width * rows
            scales = 4 * n_layers * rows if value_bytes == 1 else 0
            entry = 2 * INDEX_BYTES
            of_utterance = value_bytes * of_values + scales + entry
            each = min(SHARD_BYTES // (4 * of_values), SHARD_AUDIO_S // MEAN_S)
            cells = []
            for hours in HOURS:
                n = hours * 3600 / MEAN_S
                cells.append(f"{n * of_utterance / 1e12:,.3g} TB, {n / each:,.0f} shards")
            print(f"| {model}, {name} | " + " | ".join(cells) + " |")


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["plan", "store", "sizes"])
    parser.add_argument("--utterances", type=int, default=10_000_000)
    parser.add_argument("--shards", type=int, default=20_000)
    parser.add_argument("--each", type=int, default=10, help="utterances in a shard")
    parser.add_argument("--folder", type=Path, help="where the store is, or will be")
    parser.add_argument("--url", help="a copy of that folder")
    options = parser.parse_args()
    if options.what == "plan":
        plan(options.utterances)
    elif options.what == "sizes":
        sizes()
    else:
        folder = options.folder or Path(tempfile.mkdtemp())
        if not options.url and not any(folder.glob("*/*/recipe.json")):
            with timed("written"):
                write_store(folder, options.shards, options.each)
        measure_store(options.url or str(folder), options.shards, options.each)


if __name__ == "__main__":
    sys.exit(main())
