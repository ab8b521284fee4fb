"""How time and memory grow with the length of a file and with the number of utterances. One
command:

    python benchmarks/growth.py [--model random:facebook/wav2vec2-base] [--minutes 0.1 1 5 10 20]
    [--utterances 100 1000 10000 100000]

Each length is one `probe.extract` of one file of noise, frames of every layer, in a process of its
own; its peak memory is what it takes beyond the open model. Each number of utterances is a manifest
with durations, all of one file that is not decoded: the time to load it, to plan, and to open a
store that holds as many (views of one row, indexes as `probe.extract` writes them).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

import probe
from probe.extraction.extract import environment_of, recipe_of
from probe.extraction.settings import Running, Storing
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


def one_file(model: str, minutes: float) -> None:
    """Prints seconds, and MB beyond the open model, of extracting one file."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        soundfile.write(
            folder / "a.wav",
            np.random.default_rng(0).normal(0, 0.1, int(60 * minutes * RATE_HZ)),
            RATE_HZ,
        )
        (folder / "corpus.csv").write_text(f"{HEAD}\na.wav,,,,train,{60 * minutes}\n")
        encoder = probe.open_model(model, "cpu")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before, start = resident_mb("VmRSS"), time.perf_counter()
        done = probe.extract(
            encoder, folder / "corpus.csv", folder / "features", running=Running(check=False)
        )
        assert done.extracted == 1
        print(f"{time.perf_counter() - start} {resident_mb('VmHWM') - before}")


def many_utterances(n: int) -> tuple[float, float, float]:
    """Seconds to load a manifest, to plan, and to open a store of so many utterances."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        soundfile.write(folder / "a.wav", np.zeros(RATE_HZ), RATE_HZ)
        lines = [
            f"id,{HEAD}",
            *(f"u{number},a.wav,some words,s{number % 300},near,train,6.0" for number in range(n)),
        ]
        (folder / "corpus.csv").write_text("\n".join(lines) + "\n")
        encoder = probe.open_model("mfcc", "cpu")
        start = time.perf_counter()
        corpus = probe.load_corpus(folder / "corpus.csv")
        load_s = time.perf_counter() - start
        start = time.perf_counter()
        probe.extract(
            encoder, corpus, folder / "features", dry_run=True, storing=Storing(view="mean")
        )
        plan_s = time.perf_counter() - start
        recipe = recipe_of(encoder, ["0"], Storing(view="mean"))
        store = create_store(folder / "features", "mfcc", recipe, environment_of(encoder))
        keys = [item.key for item in corpus.utterances]
        chunks = [keys[first : first + PER_SHARD] for first in range(0, n, PER_SHARD)]
        for job in store.add_plan([(tuple(chunk), 1) for chunk in chunks]):
            rows = {"0": [np.ones((1, 20), np.float32)] * len(job.keys)}
            content = ShardContent(
                job.keys, ["0" * 64] * len(job.keys), rows, {}, recipe, store.environment
            )
            entry = {
                "audio_sha256": "0" * 64,
                "audio_bytes": 0,
                "audio_mtime_ns": 0,
                "duration_s": 6.0,
                "n_frames": 600,
                "rows": 1,
            }
            store.write_shard(
                job.shard_names()[0], content, [{"key": key} | entry for key in job.keys], []
            )
        start = time.perf_counter()
        assert len(FeatureStore(store.path).keys) == n
        return load_s, plan_s, time.perf_counter() - start


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="random:facebook/wav2vec2-base")
    parser.add_argument("--minutes", type=float, nargs="*", default=[0.1, 1, 5, 10, 20])
    parser.add_argument("--utterances", type=int, nargs="*", default=[100, 1000, 10_000, 100_000])
    parser.add_argument("--one", type=float, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        one_file(chosen.model, chosen.one)
        return
    print(f"{chosen.model}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print(
        "| minutes in one file | seconds | x real time | MB beyond the model |\n|--:|--:|--:|--:|",
        flush=True,
    )
    for minutes in chosen.minutes:
        line = [sys.executable, __file__, "--model", chosen.model, "--one", str(minutes)]
        seconds, megabytes = map(
            float,
            subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()[-2:],
        )
        print(
            f"| {minutes:g} | {seconds:.1f} | {60 * minutes / seconds:.1f} | {megabytes:.0f} |",
            flush=True,
        )
    print("\n| utterances | manifest loaded, s | planned, s | store opened, s |\n|--:|--:|--:|--:|")
    for n in chosen.utterances:
        print(
            f"| {n} | " + " | ".join(f"{item:.2f}" for item in many_utterances(n)) + " |",
            flush=True,
        )


if __name__ == "__main__":
    main()
