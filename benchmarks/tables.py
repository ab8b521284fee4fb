"""How long tables of many records take: 48,000 synthetic test scores, 20 models x 25 layers x 12 tasks x 8 conditions.

    python benchmarks/tables.py [--to FOLDER] [--profile] [--with-dev]

Prints seconds for reading and for each table, in processes of their own as `probe table` runs. Half of the 48,000 records are of
split dev unless ``--with-dev`` puts a dev record beside each of 48,000 test records. Values are random; nothing is measured of models.
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

MODELS, LAYERS, TASKS, CONDITIONS, BLOCKS = 20, 25, 12, 8, 20
COMMANDS = {
    "table": [],
    "table --format csv": ["--format", "csv"],
    "--by models": ["--by", "models"],
    "--by layers": ["--by", "layers", "--filter", "model=org/model-00"],
    "--by conditions": ["--by", "conditions"],
    "--layers --format csv": ["--layers", "--format", "csv"],
    "--pivot model,task+condition": ["--pivot", "model,task+condition"],
}


def write_synthetic(to: Path, layers: int) -> int:
    """The number of records written: a dev and a test record per model, layer, task and condition."""
    generator = np.random.default_rng(0)
    n = 0
    for model in range(MODELS):
        for task in range(TASKS):
            for condition in range(CONDITIONS):
                records = [
                    synthetic(generator, model, layer, task, condition, split) for layer in range(layers) for split in ("dev", "test")
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
    parser.add_argument("--with-dev", action="store_true", help="48,000 test records and as many of dev")
    parser.add_argument("--profile", metavar="COMMAND", choices=list(COMMANDS), help="where the time of one command goes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        to = arguments.to or Path(temporary)
        if not list(to.glob("*.jsonl")):
            write_synthetic(to, LAYERS)
        if arguments.profile:
            profiled(to, arguments.profile)
        else:
            measured(to)


def measured(folder: Path) -> None:
    """Prints the seconds of every command."""
    size = sum(path.stat().st_size for path in folder.glob("*.jsonl"))
    start = time.perf_counter()
    n = len(read_records(folder))
    print(json.dumps({"records": n, "MB": round(size / 1e6, 1), "read_s": round(time.perf_counter() - start, 2)}))
    for name, options in COMMANDS.items():
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "probe", "table", "--from", str(folder), *options], capture_output=True, env=os.environ, check=True
        )
        print(json.dumps({"command": name, "seconds": round(time.perf_counter() - start, 2), "bytes": len(done.stdout)}))


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
