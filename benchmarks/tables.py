"""How long tables of many records take: synthetic scores of 20 models x 25 layers x 12 tasks x 4 or 8 conditions.

    python benchmarks/tables.py [--to FOLDER] [--conditions 4] [--profile COMMAND]

Prints seconds (of the clock, and of the CPU) for reading and for each table, in processes of their own as `probe table` runs. Each
test score has a dev score beside it, so 4 of the conditions make 48,000 records, all 8 make 96,000. Values are random; nothing is
measured of models.
"""

import argparse
import cProfile
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from probe.records import Record, read_records, write_records

MODELS, LAYERS, TASKS, BLOCKS = 20, 25, 12, 20
COMMANDS = {
    "table": [],
    "table --format csv": ["--format", "csv"],
    "--by models": ["--by", "models"],
    "--by layers": ["--by", "layers", "--filter", "model=org/model-00"],
    "--by conditions": ["--by", "conditions"],
    "--layers --format csv": ["--layers", "--format", "csv"],
    "--pivot model,task+condition": ["--pivot", "model,task+condition"],
}


def write_synthetic(to: Path, conditions: int) -> int:
    """The number of records written: a dev and a test record per model, layer, task and condition."""
    generator = np.random.default_rng(0)
    n = 0
    for model in range(MODELS):
        for task in range(TASKS):
            for condition in range(conditions):
                records = [
                    synthetic(generator, model, layer, task, condition, split)
                    for layer in range(LAYERS)
                    for split in ("dev", "test")
                ]
                write_records(to / f"{model}-{task}-{condition}.jsonl", records)
                n += len(records)
    return n


def synthetic(generator: np.random.Generator, model: int, layer: int, task: int, condition: int, split: str) -> Record:
    """A record with the counts of 20 speakers."""
    right = generator.integers(0, 21, BLOCKS)
    value = float(right.sum() / (20 * BLOCKS))
    return Record(
        model=f"org/model-{model:02}",
        revision=f"{model:040x}",
        layer=str(layer),
        layer_index=layer,
        depth=layer / (LAYERS - 1),
        final_layer="24",
        head="linear",
        task=f"task-{task:02}",
        task_version=1,
        kind="classify",
        corpus="corpus",
        condition="clean" if condition == 0 else f"noise:white@{5 * condition}dB",
        condition_seed=0,
        split=split,
        seed=0,
        metric="accuracy",
        value=value,
        low=max(0.0, value - 0.05),
        high=min(1.0, value + 0.05),
        n=20 * BLOCKS,
        n_blocks=BLOCKS,
        counts={
            "block": [f"{block:012x}" for block in range(BLOCKS)],
            "numerator": right.tolist(),
            "denominator": [20] * BLOCKS,
        },
        higher_is_better=True,
        select_by="accuracy",
        chosen={"l2": 0.01},
        search=[{"l2": l2, "accuracy": value} for l2 in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)],
        statistics={"rms": 1.0, "effective_rank": 30.0, "anisotropy": 0.1, "outlier_dims": 0.0},
        recipe=f"{condition:064x}",
        task_sha256=f"{task:064x}",
        manifest_sha256="b" * 64,
        code={"version": "0", "commit": "0"},
        packages={"torch": "0", "numpy": "0"},
        device="cpu",
    )


def main() -> None:
    """Writes the records where they are missing, and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, help="folder of the records; a temporary one if left out")
    parser.add_argument("--conditions", type=int, default=4, help="4: 48,000 records; 8: 96,000")
    parser.add_argument("--profile", metavar="COMMAND", choices=list(COMMANDS), help="where the time of one command goes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        to = arguments.to or Path(temporary)
        if not list(to.glob("*.jsonl")):
            write_synthetic(to, arguments.conditions)
        if arguments.profile:
            profiled(to, arguments.profile)
        else:
            measured(to)


def measured(folder: Path) -> None:
    """Prints the seconds of every command."""
    size = sum(path.stat().st_size for path in folder.glob("*.jsonl"))
    start, start_cpu = time.perf_counter(), time.process_time()
    n = len(read_records(folder))
    seconds = {"seconds": round(time.perf_counter() - start, 2), "cpu_s": round(time.process_time() - start_cpu, 2)}
    print(json.dumps({"records": n, "MB": round(size / 1e6, 1), "reading": seconds}), flush=True)
    for name, options in COMMANDS.items():
        start, before = time.perf_counter(), os.times()
        command = [sys.executable, "-m", "probe", "table", "--from", str(folder), *options]
        done = subprocess.run(command, capture_output=True, check=True)
        after = os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        shown = {"command": name, "seconds": round(time.perf_counter() - start, 2), "cpu_s": round(cpu, 2)}
        print(json.dumps(shown | {"bytes": len(done.stdout)}), flush=True)


def profiled(folder: Path, command: str) -> None:
    """Prints the functions that take most of a command's time."""
    from probe.cli import cli

    profile = cProfile.Profile()
    profile.enable()
    cli.main(["table", "--from", str(folder), *COMMANDS[command]], standalone_mode=False)
    profile.disable()
    pstats.Stats(profile, stream=sys.stderr).sort_stats("cumulative").print_stats(45)


if __name__ == "__main__":
    main()
