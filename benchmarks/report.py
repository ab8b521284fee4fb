"""Seconds and bytes of `probe report` for many records: models x layers x tasks x conditions of made-up accuracies.

    python benchmarks/report.py --models 20 --layers 25 --tasks 12 --conditions 8

The scores are drawn, not measured: a hump over layers, a loss for every condition, ten utterances of each of twenty speakers. A dev
score stands beside every test score, the same under every condition, as where training is on clean audio.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from probe.records import Record, write_records

SPEAKERS, UTTERANCES_EACH = 20, 10
CONDITIONS = ["clean", "telephone", *(f"noise:babble@{level}dB" for level in (20, 15, 10, 5, 0)), "reverb:rt60=0.6"]


def drawn_records(models: int, layers: int, tasks: int, conditions: int, seed: int = 0) -> Iterator[list[Record]]:
    """The records of each model, task and condition: a dev and a test score of every layer."""
    draw = np.random.default_rng(seed)
    blocks = [f"{number:012x}" for number in range(SPEAKERS)]
    total = SPEAKERS * UTTERANCES_EACH
    for model, task in itertools.product(range(models), range(tasks)):
        best, skill = draw.uniform(0.2, 0.9), draw.uniform(0.5, 0.95)
        drawn: dict[tuple[int, str, int], list[int]] = {}
        for number, condition in enumerate(CONDITIONS[:conditions]):
            records = []
            for layer, split in itertools.product(range(layers), ("dev", "test")):
                lost = 0.05 * number if split == "test" else 0.0
                hit = np.clip(skill - 0.6 * (layer / max(1, layers - 1) - best) ** 2 - lost, 0.02, 0.98)
                place = (layer, split, number if split == "test" else 0)
                correct = drawn.setdefault(place, draw.binomial(UTTERANCES_EACH, hit, SPEAKERS).tolist())
                value = sum(correct) / total
                records.append(
                    Record(
                        model=f"org/model-{model:02d}",
                        revision="1" * 40,
                        layer=str(layer),
                        layer_index=layer,
                        depth=layer / max(1, layers - 1),
                        final_layer=str(layers - 1),
                        head="linear",
                        task=f"task-{task:02d}",
                        task_version=1,
                        kind="classify",
                        corpus="drawn",
                        condition=condition,
                        split=split,
                        seed=0,
                        metric="accuracy",
                        value=value,
                        low=max(0.0, value - 0.06),
                        high=min(1.0, value + 0.06),
                        n=total,
                        n_blocks=SPEAKERS,
                        counts={"block": blocks, "numerator": correct, "denominator": [UTTERANCES_EACH] * SPEAKERS},
                        higher_is_better=True,
                        select_by="accuracy",
                        recipe="c" * 64,
                        task_sha256="a" * 64,
                        manifest_sha256="b" * 64,
                    )
                )
            yield records


def main() -> None:
    """Writes the records, reports them in a process of its own, and prints what it took."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("models", 20), ("layers", 25), ("tasks", 12), ("conditions", 8)):
        asked.add_argument(f"--{name}", type=int, default=default)
    asked.add_argument("--to", type=Path, help="Keep records and page here.")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.to or Path(temporary)
        total = 0
        for number, records in enumerate(drawn_records(given.models, given.layers, given.tasks, given.conditions)):
            write_records(folder / "results" / f"{number:05d}.jsonl", records)
            total += len(records)
        page, started, before = folder / "report.html", time.monotonic(), os.times()
        command = [sys.executable, "-m", "probe", "report", "--from", str(folder / "results"), "--to", str(page)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds, after = time.monotonic() - started, os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        print(
            f"{total} records, half of them test scores: {seconds:.1f} s, {cpu:.1f} s of CPU, {page.stat().st_size / 1e6:.2f} MB"
        )


if __name__ == "__main__":
    main()
