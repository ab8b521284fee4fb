"""Seconds and bytes of tables and of the report for many records: models x layers x tasks x
conditions, 48,000 test scores.

    python benchmarks/tables.py [--models 20 --layers 25 --tasks 12 --conditions 8] [--trials N]
    [--only report] [--to FOLDER]

Prints seconds (of the clock, and of the CPU) for reading and for each command, in processes of
their own. The scores are drawn, not measured: a hump over layers, a loss for every condition, ten
utterances of each of twenty speakers. A dev score stands beside every test score, the same under
every condition, as where training is on clean audio. With ``--trials`` they are EERs of so many
trials.
"""

import argparse
import cProfile
import itertools
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from probe.measures.counts import trial_counts, value_of
from probe.records import Record, read_records, write_records

SPEAKERS, UTTERANCES_EACH = 20, 10
CONDITIONS = [
    "clean",
    "telephone",
    *(f"noise:babble@{level}dB" for level in (20, 15, 10, 5, 0)),
    "reverb:rt60=0.6",
]
COMMANDS = {
    "table": ["table"],
    "csv": ["table", "--format", "csv"],
    "models": ["table", "--by", "models"],
    "layers": ["table", "--by", "layers", "--filter", "model=org/model-00"],
    "conditions": ["table", "--by", "conditions"],
    "every-layer": ["table", "--every-layer", "--format", "csv"],
    "pivot": ["table", "--pivot", "model,task+condition"],
    "report": ["report"],
}


def write_drawn(to: Path, given: argparse.Namespace, seed: int = 0) -> None:
    """A file of records for each model, task and condition: a dev and a test score of every layer."""
    draw = np.random.default_rng(seed)
    for model, task in itertools.product(range(given.models), range(given.tasks)):
        best, skill = draw.uniform(0.2, 0.9), draw.uniform(0.5, 0.95)
        of_dev: dict[int, dict[str, Any]] = {}
        for number, condition in enumerate(CONDITIONS[: given.conditions]):
            records = []
            for layer, split in itertools.product(range(given.layers), ("dev", "test")):
                lost = 0.05 * number if split == "test" else 0.0
                hit = np.clip(
                    skill - 0.6 * (layer / max(1, given.layers - 1) - best) ** 2 - lost, 0.02, 0.98
                )
                drawn = (
                    drawn_trials(draw, hit, given.trials) if given.trials else drawn_hits(draw, hit)
                )
                counts = of_dev.setdefault(layer, drawn) if split == "dev" else drawn
                about = {
                    "model": f"org/model-{model:02d}",
                    "task": f"task-{task:02d}",
                    "condition": condition,
                    "split": split,
                }
                records.append(record(counts, layer, given.layers, **about))
            write_records(to / f"{model}-{task}-{number}.jsonl", records)


def drawn_hits(draw: np.random.Generator, hit: float) -> dict[str, Any]:
    """The counts of an accuracy."""
    blocks = [f"{number:012x}" for number in range(SPEAKERS)]
    correct = draw.binomial(UTTERANCES_EACH, hit, SPEAKERS).tolist()
    return {"block": blocks, "numerator": correct, "denominator": [UTTERANCES_EACH] * SPEAKERS}


def drawn_trials(draw: np.random.Generator, hit: float, n: int) -> dict[str, Any]:
    """The counts of an EER, half of its trials targets: the same list every time."""
    ends = np.random.default_rng(0).integers(SPEAKERS, size=(2, n))
    ends[1, : n // 2] = ends[0, : n // 2]
    target = ends[0] == ends[1]
    return trial_counts(
        *(list(map(str, side)) for side in ends), target, 4 * hit * target + draw.normal(size=n)
    )


def record(counts: dict[str, Any], layer: int, layers: int, **about: Any) -> Record:
    """The record of these counts, with a search and statistics as records have them."""
    metric, value = "eer" if "rank" in counts else "accuracy", value_of(counts)
    return Record(
        **about,
        revision="1" * 40,
        layer=str(layer),
        layer_index=layer,
        depth=layer / max(1, layers - 1),
        final_layer=str(layers - 1),
        head="linear",
        task_version=1,
        kind="classify",
        corpus="drawn",
        seed=0,
        metric=metric,
        value=value,
        low=max(0.0, value - 0.06),
        high=min(1.0, value + 0.06),
        n=len(counts["rank"]) if "rank" in counts else SPEAKERS * UTTERANCES_EACH,
        n_blocks=SPEAKERS,
        counts=counts,
        higher_is_better=metric == "accuracy",
        select_by=metric,
        chosen={"l2": 0.01},
        search=[{"l2": l2, f"dev_{metric}": value} for l2 in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)],
        statistics={"rms": 1.0, "effective_rank": 30.0, "anisotropy": 0.1, "outlier_dims": 0.0},
        recipe="c" * 64,
        task_sha256="a" * 64,
        manifest_sha256="b" * 64,
        code={"version": "0", "commit": "0"},
        packages={"torch": "0", "numpy": "0"},
        device="cpu",
    )


def main() -> None:
    """Writes the records where they are missing, and measures."""
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (
        ("models", 20),
        ("layers", 25),
        ("tasks", 12),
        ("conditions", 8),
        ("trials", 0),
    ):
        asked.add_argument(f"--{name}", type=int, default=default)
    asked.add_argument(
        "--to", type=Path, help="Keep records and page here; records that are there are taken."
    )
    asked.add_argument(
        "--only", choices=list(COMMANDS), action="append", help="These commands; repeat."
    )
    asked.add_argument(
        "--profile", choices=list(COMMANDS), help="Where the time of one command goes."
    )
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.to or Path(temporary)
        if not list((folder / "results").glob("*.jsonl")):
            write_drawn(folder / "results", given)
        if given.profile:
            profiled(folder, given.profile)
        else:
            print(json.dumps(reading(folder / "results")), flush=True)
            for name in given.only or COMMANDS:
                print(json.dumps(measured(folder, name)), flush=True)


def line_of(folder: Path, name: str) -> list[str]:
    """The words of a command."""
    to = ["--to", str(folder / "report.html")] if name == "report" else []
    return [*COMMANDS[name], "--from", str(folder / "results"), *to]


def reading(folder: Path) -> dict[str, Any]:
    """How many records there are, and what reading them takes."""
    size = sum(path.stat().st_size for path in folder.glob("*.jsonl"))
    start, before = time.perf_counter(), time.process_time()
    n = len(read_records(folder))
    seconds = {
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_s": round(time.process_time() - before, 2),
    }
    return {"records": n, "MB": round(size / 1e6, 1), "reading": seconds}


def measured(folder: Path, name: str) -> dict[str, Any]:
    """What a command takes, and the bytes of what it prints, or of the page."""
    start, before = time.perf_counter(), os.times()
    done = subprocess.run(
        [sys.executable, "-m", "probe", *line_of(folder, name)], capture_output=True, check=True
    )
    seconds, after = time.perf_counter() - start, os.times()
    cpu = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    n_bytes = (folder / "report.html").stat().st_size if name == "report" else len(done.stdout)
    return {"command": name, "seconds": round(seconds, 2), "cpu_s": round(cpu, 2), "bytes": n_bytes}


def profiled(folder: Path, name: str) -> None:
    """Prints the functions that take most of a command's time."""
    from probe.cli import cli

    profile = cProfile.Profile()
    profile.enable()
    cli.main(line_of(folder, name), standalone_mode=False)
    profile.disable()
    pstats.Stats(profile, stream=sys.stderr).sort_stats("cumulative").print_stats(45)


if __name__ == "__main__":
    main()
