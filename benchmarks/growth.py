"""How time and memory grow with the length of a file, the number of utterances and the number of
layers. One command:

    python benchmarks/growth.py [--model random:facebook/wav2vec2-base] [--minutes 0.1 1 10]
    [--utterances 100 1000 10000 100000] [--layers 0 3 6 9 12] [--rounds 3] [--to FOLDER]

    minutes      one `probe.extract` of one file of noise, frames of every layer
    utterances   a manifest with durations, all of one file that is not decoded: the time to load it,
                 to plan, to write a store of as many utterances (views of one row), to open the store,
                 and to train linear probes (256 dimensions, 10 classes, 8 strengths) on as many rows
    layers       one `probe.extract` of a file of half a minute that stores this layer alone

Each measurement runs in a process of its own, whose peak of memory stands beside it (for a length
what it takes beyond the open model); the median of the rounds is printed. With --to FOLDER,
``growth.json`` there has every round, and ``growth.svg`` shows the medians over utterances and layers.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import torch

import probe
from probe.evaluation.linear_search import STRENGTHS
from probe.extraction.extract import environment_of, recipe_of
from probe.extraction.settings import Running, Storing
from probe.models.encoder import device_name
from probe.store.feature_store import FeatureStore
from probe.store.shards import ShardContent
from probe.store.stores import create_store

RATE_HZ = 16_000
HEAD = "path,text,speaker,domain,split,duration_s"
PER_SHARD = 100  # about ten minutes of audio


def resident_mb(field: str) -> float:
    """A line of /proc/self/status."""
    return next(
        int(line.split()[1]) / 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(field)
    )


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Keep the seconds that the block takes under a name."""
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def one_file(model: str, minutes: float, layers: str | None = None) -> dict[str, float]:
    """Seconds, and MB beyond the open model, of extracting one file."""
    taken: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        samples = np.random.default_rng(0).normal(0, 0.1, int(60 * minutes * RATE_HZ))
        soundfile.write(folder / "a.wav", samples, RATE_HZ)
        (folder / "corpus.csv").write_text(f"{HEAD}\na.wav,,,,train,{60 * minutes}\n")
        encoder = probe.open_model(model, "cpu")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = resident_mb("VmRSS")
        with timed(taken, "extract"):
            done = probe.extract(
                encoder,
                folder / "corpus.csv",
                folder / "features",
                storing=Storing(layers=layers),
                running=Running(check=False),
            )
        assert done.extracted == 1
        return taken | {"MB": resident_mb("VmHWM") - before}


def utterances(n: int) -> dict[str, float]:
    """Seconds of each step with so many utterances, and the peak of memory in MB."""
    taken: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        soundfile.write(folder / "a.wav", np.zeros(RATE_HZ), RATE_HZ)
        rows = (f"u{i},a.wav,some words,s{i % 300},near,train,6.0" for i in range(n))
        (folder / "corpus.csv").write_text("\n".join([f"id,{HEAD}", *rows]) + "\n")
        encoder, storing = probe.open_model("mfcc", "cpu"), Storing(view="mean")
        with timed(taken, "load the manifest"):
            corpus = probe.load_corpus(folder / "corpus.csv")
        with timed(taken, "plan"):
            probe.extract(encoder, corpus, folder / "features", dry_run=True, storing=storing)
        recipe = recipe_of(encoder, ["0"], storing)
        store = create_store(folder / "features", "mfcc", recipe, environment_of(encoder))
        keys = [item.key for item in corpus.utterances]
        with timed(taken, "write a store"):
            write(store, [keys[first : first + PER_SHARD] for first in range(0, n, PER_SHARD)])
        with timed(taken, "open the store"):
            assert len(FeatureStore(store.path).keys) == n
    generator = np.random.default_rng(0)
    values = generator.standard_normal((n, 256), np.float32)
    labels = (values[:, :10] + generator.standard_normal((n, 10))).argmax(1)
    with timed(taken, "train probes"):
        probe.fit_strengths(values, labels, STRENGTHS)
    return taken | {"MB": resident_mb("VmHWM")}


def write(store: FeatureStore, chunks: list[list[str]]) -> None:
    """Write shards of views of one row, with entries of the usual form."""
    entry = {"audio_sha256": "0" * 64, "audio_bytes": 0, "audio_mtime_ns": 0, "duration_s": 6.0}
    entry |= {"n_frames": 600, "rows": 1}
    for job in store.add_plan([(tuple(chunk), 1) for chunk in chunks]):
        rows = {"0": [np.ones((1, 20), np.float32)] * len(job.keys)}
        hashes = ["0" * 64] * len(job.keys)
        content = ShardContent(job.keys, hashes, rows, {}, store.recipe, store.environment)
        store.write_shard(job.name, content, [{"key": key} | entry for key in job.keys], [])


def measure(what: str, size: float, model: str) -> dict[str, float]:
    """One measurement, in this process."""
    if what == "utterances":
        return utterances(int(size))
    return one_file(model, size) if what == "minutes" else one_file(model, 0.5, f"{size:g}")


def draw(medians: dict[str, dict[float, dict[str, float]]], path: Path) -> None:
    """The medians over utterances and layers as curves of seconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    titles = {"utterances": "utterances", "layers": "layer that is stored alone"}
    for axes, (what, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        by_size = medians[what]
        for name in next(iter(by_size.values())):
            if name != "MB":
                seconds = [taken[name] for taken in by_size.values()]
                axes.plot(list(by_size), seconds, marker="o", label=name)
        axes.set(xlabel=title, ylabel="seconds")
        axes.grid(alpha=0.3)
        if what == "layers":
            axes.set_ylim(bottom=0)
        else:
            axes.set(xscale="log", yscale="log")
            axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="random:facebook/wav2vec2-base")
    parser.add_argument("--minutes", type=float, nargs="*", default=[0.1, 1, 10])
    parser.add_argument("--utterances", type=float, nargs="*", default=[100, 1000, 10_000, 100_000])
    parser.add_argument("--layers", type=float, nargs="*", default=[0, 3, 6, 9, 12])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--to", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measure(chosen.one[0], float(chosen.one[1]), chosen.model)))
        return
    about = {
        "model": chosen.model,
        "processor": device_name(torch.device("cpu")),
        "load": os.getloadavg()[0],
    }
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    rounds: dict[str, dict[str, list[dict[str, float]]]] = {}
    medians: dict[str, dict[float, dict[str, float]]] = {}
    for what in ("minutes", "utterances", "layers"):
        for size in getattr(chosen, what):
            line = [sys.executable, __file__, "--model", chosen.model, "--one", what, str(size)]
            found = []
            for _ in range(chosen.rounds):
                done = subprocess.run(line, capture_output=True, text=True, check=True)
                found.append(json.loads(done.stdout.splitlines()[-1]))
            rounds.setdefault(what, {})[f"{size:g}"] = found
            median = {name: statistics.median(one[name] for one in found) for name in found[0]}
            medians.setdefault(what, {})[size] = median
            texts = ", ".join(f"{name} {value:.2f}" for name, value in median.items())
            print(f"{size:g} {what}: {texts}", flush=True)
    if chosen.to:
        text = json.dumps(about | {"rounds": rounds}, indent=1)
        (chosen.to / "growth.json").write_text(f"{text}\n", encoding="utf-8")
        draw(medians, chosen.to / "growth.svg")


if __name__ == "__main__":
    main()
