"""How fast probes are trained, beside scikit-learn, as time to an equal objective. One command:

    python benchmarks/probes.py [--rounds 5] [--only frames] [--layers 13] [--rows 50000] [--device cuda]
    [--tols 1e-4 1e-5] [--no-memory] [--to FILE]

    pooled   ``--layers`` layers of 768, 10,000 rows, 100 classes, 5 strengths
    frames   one layer of 768, 200,000 rows, 40 classes, 3 strengths

Features are synthetic: a spectrum that falls like that of speech models' layers (ill-conditioned,
standardised afterwards), classes of unequal size that overlap. scikit-learn (L-BFGS, as many
processes as cores, one BLAS thread each) fits each layer and strength by itself on the standardised
rows, once with each of ``--tols``; 1e-4 is its default. All ways take turns in every round. Their
objectives are compared in float64, and the largest relative distance from the best known one stands
beside each way's time: a ratio means something where scikit-learn came as near as the probe, or
within 1e-4 of the best. Peak memory is that of one more fit, each way in a process of its own,
beyond what the data take.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn.linear_model import LogisticRegression

from probe.environment import package_versions
from probe.heads.linear.linear_probe import Solving, fit_strengths
from probe.heads.linear.rows import Standardizer
from probe.models.encoder import device_name

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
SIZES = {"pooled": (10_000, 768, 100, STRENGTHS), "frames": (200_000, 768, 40, STRENGTHS[1:4])}


def features(n_rows: int, dim: int, n_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(row, dim) float32 and (row,) labels."""
    generator = np.random.default_rng(seed)
    weights = 1 / np.arange(1, n_classes + 1) ** 0.5
    labels = generator.choice(n_classes, n_rows, p=weights / weights.sum())
    spectrum = 1 / np.arange(1, dim + 1) ** 0.75
    mixing = np.linalg.qr(generator.normal(size=(dim, dim)))[0].astype(np.float32)
    centres = generator.normal(size=(n_classes, dim)) * 0.35
    rows = (centres[labels] + generator.normal(size=(n_rows, dim))) * spectrum
    return rows.astype(np.float32) @ mixing, labels


def standardised(rows: np.ndarray) -> np.ndarray:
    """As the probe does it."""
    return Standardizer.of(rows).apply(rows)


def objective(
    coef: np.ndarray, intercept: np.ndarray, rows: np.ndarray, labels: np.ndarray, l2: float
) -> float:
    """Mean cross-entropy + l2 / 2 * ||W||^2, in float64."""
    total = 0.0
    for start in range(0, len(rows), 20_000):
        logits = (
            rows[start : start + 20_000].astype(np.float64) @ coef.T.astype(np.float64) + intercept
        )
        logits -= logits.max(axis=1, keepdims=True)
        total += float(
            (
                np.log(np.exp(logits).sum(axis=1))
                - logits[np.arange(len(logits)), labels[start : start + 20_000]]
            ).sum()
        )
    return total / len(rows) + 0.5 * l2 * float(np.square(coef).sum())


def by_scikit_learn(
    rows: np.ndarray, labels: np.ndarray, l2: float, tol: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias."""
    fitted = LogisticRegression(C=1 / (l2 * len(rows)), tol=tol, max_iter=2000).fit(rows, labels)
    return fitted.coef_, fitted.intercept_


def of_all(
    inputs: list[np.ndarray], labels: list[np.ndarray], strengths: tuple[float, ...], tol: float
) -> list[Any]:
    """scikit-learn's weights and biases for every layer and strength, layer by layer."""
    jobs = [
        delayed(by_scikit_learn)(rows, truth, l2, tol)
        for rows, truth in zip(inputs, labels, strict=True)
        for l2 in strengths
    ]
    return Parallel(n_jobs=os.cpu_count())(jobs)


def of_probes(
    layers: list[np.ndarray], labels: list[np.ndarray], strengths: tuple[float, ...], device: str
) -> list[Any]:
    """Each layer's probes, as they are called: with their own standardising."""
    return [
        fit_strengths(rows, truth, strengths, solving=Solving(device=device))
        for rows, truth in zip(layers, labels, strict=True)
    ]


def compared(
    name: str, n_layers: int, rounds: int, tols: list[float], device: str
) -> dict[str, Any]:
    """Seconds of each way in every round, and each way's largest relative distance from the best
    objective of each problem.
    """
    n_rows, dim, n_classes, strengths = SIZES[name]
    drawn = [features(n_rows, dim, n_classes, seed) for seed in range(n_layers)]
    layers, labels = [rows for rows, _ in drawn], [truth for _, truth in drawn]
    inputs = [standardised(rows) for rows in layers]
    ways: dict[str, Callable[[], list[Any]]] = {
        "probe": partial(of_probes, layers, labels, strengths, device)
    }
    ways |= {
        f"scikit-learn, tol {tol:g}": partial(of_all, inputs, labels, strengths, tol)
        for tol in tols
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    loads, ended = [], {}
    of_all(
        [inputs[0][:2000]], [labels[0][:2000]], strengths, 1.0
    )  # starts scikit-learn's processes
    of_probes([layers[0][:2000]], [labels[0][:2000]], strengths, device)
    for number in range(rounds):
        for way, run in ways.items():
            start = time.perf_counter()
            ended[way] = run()
            seconds[way].append(time.perf_counter() - start)
        loads.append(os.getloadavg()[0])
        print(
            f"{name}: round {number + 1}: "
            + ", ".join(f"{way} {taken[-1]:.1f} s" for way, taken in seconds.items()),
            flush=True,
        )
    iterations = [[probe.n_iter_ for probe in probes] for probes in ended["probe"]]
    scalers = [Standardizer.of(rows) for rows in layers]
    ended["probe"] = [
        (probe.coef_ * scaler.scale, probe.intercept_ + probe.coef_ @ scaler.mean)
        for probes, scaler in zip(ended["probe"], scalers, strict=True)
        for probe in probes
    ]
    distances = _distances(ended, inputs, labels, strengths)
    ratios = {}
    for way, taken in seconds.items():
        ratios[way] = [theirs / ours for theirs, ours in zip(taken, seconds["probe"], strict=True)]
        print(
            f"{name}: {way}: {statistics.median(taken):.1f} s, {statistics.median(ratios[way]):.2f} times the probe's "
            f"({min(ratios[way]):.2f} - {max(ratios[way]):.2f}); objective above the best: {distances[way]:.1e}",
            flush=True,
        )
    found = {
        "seconds": seconds,
        "ratios": ratios,
        "distances": distances,
        "iterations": iterations,
        "loads": loads,
    }
    return found | {
        "layers": n_layers,
        "rows": n_rows,
        "dim": dim,
        "classes": n_classes,
        "strengths": strengths,
    }


def _distances(
    ended: dict[str, list[Any]],
    inputs: list[np.ndarray],
    labels: list[np.ndarray],
    strengths: tuple[float, ...],
) -> dict[str, float]:
    """Each way's largest relative distance from the best objective of each problem."""
    largest = dict.fromkeys(ended, 0.0)
    for index in range(len(inputs) * len(strengths)):
        layer, l2 = index // len(strengths), strengths[index % len(strengths)]
        values = {
            way: objective(*fits[index], inputs[layer], labels[layer], l2)
            for way, fits in ended.items()
        }
        for way, value in values.items():
            largest[way] = max(largest[way], value / min(values.values()) - 1)
    return largest


def peak_bytes() -> int:
    """The most memory that this process had."""
    own = Path(
        "/proc/self/status"
    )  # on Linux ru_maxrss remembers the process that started this one
    if own.exists():
        return int(own.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def peak_of(folder: Path, way: str, device: str) -> int:
    """Bytes that one layer's fit takes beyond its data: all strengths by the probe, one strength by
    scikit-learn.
    """
    rows, labels = np.load(folder / "rows.npy"), np.load(folder / "labels.npy")
    strengths = STRENGTHS[1:4]
    for n_rows in (4000, len(rows)):
        before = peak_bytes()  # in the end: after a small fit, for libraries and their buffers
        if way == "probe":
            solving = Solving(device=device, max_iter=5)
            fit_strengths(rows[:n_rows], labels[:n_rows], strengths, solving=solving)
        else:
            LogisticRegression(C=1 / (strengths[0] * n_rows), max_iter=5).fit(
                rows[:n_rows], labels[:n_rows]
            )
    return peak_bytes() - before


def peaks(name: str, device: str) -> dict[str, int]:
    """`peak_of` for both, each in a process of its own, which reads the data (drawing them would
    take more memory than fitting).
    """
    n_rows, dim, n_classes, _ = SIZES[name]
    rows, labels = features(n_rows, dim, n_classes, 0)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "rows.npy", standardised(rows))
        np.save(Path(folder) / "labels.npy", labels)
        for way in ("probe", "scikit-learn"):
            command = [sys.executable, __file__, "--peak-of", folder, way, "--device", device]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[way] = int(done.stdout.split()[-1])
            print(f"{name}: {way}: {found[way] / 1e6:.0f} MB beyond the data", flush=True)
    return found


def main() -> None:
    """Measures, prints, writes a record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=13, help="Of the pooled part.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--tols",
        type=float,
        nargs="+",
        default=[1e-4, 1e-5],
        help="scikit-learn's; 1e-4 is its default.",
    )
    parser.add_argument(
        "--peak-of",
        nargs=2,
        metavar=("FOLDER", "WAY"),
        help="Only print the bytes that one fit takes (for itself).",
    )
    parser.add_argument("--only", choices=list(SIZES))
    parser.add_argument("--rows", type=int, help="Fewer rows than a part has.")
    parser.add_argument("--no-memory", action="store_true", help="Do not measure peak memory.")
    parser.add_argument("--to", type=Path, help="Also write a JSON record here.")
    chosen = parser.parse_args()
    if chosen.peak_of:
        print(peak_of(Path(chosen.peak_of[0]), chosen.peak_of[1], chosen.device))
        return
    record: dict[str, Any] = {
        "benchmark": "probes",
        "device": device_name(torch.device(chosen.device)),
        "system": platform.platform(terse=True),
    }
    record |= {"packages": package_versions(), "tols": chosen.tols}
    for name in [chosen.only] if chosen.only else list(SIZES):
        SIZES[name] = (chosen.rows or SIZES[name][0], *SIZES[name][1:])
        record[name] = compared(
            name,
            chosen.layers if name == "pooled" else 1,
            chosen.rounds,
            chosen.tols,
            chosen.device,
        )
        if not chosen.no_memory:
            record[name]["peak_bytes"] = peaks(name, chosen.device)
    if chosen.to:
        chosen.to.write_text(json.dumps(record | {"load": os.getloadavg()[0]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
