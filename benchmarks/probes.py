"""How fast probes are trained, beside scikit-learn at an equal objective. One command:

    python benchmarks/probes.py [--rounds 3] [--layers 13] [--device cuda] [--to FILE]

    pooled   ``--layers`` layers of 768, 10,000 rows, 100 classes, 5 strengths
    frames   one layer of 768, 200,000 rows, 40 classes, 3 strengths

Features are synthetic: a spectrum that falls like that of speech models' layers (ill-conditioned, standardised afterwards), classes
of unequal size that overlap. scikit-learn (L-BFGS, as many processes as cores) fits each layer and strength by itself on the
standardised rows. Both take turns in every round; what is compared is the time to an objective, so the largest relative distance of
either from the best known one stands beside it.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from sklearn.linear_model import LogisticRegression

from probe.environment import package_versions, processor
from probe.heads.linear import fit_strengths
from probe.heads.standardize import Standardizer

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


def objective(coef: np.ndarray, intercept: np.ndarray, rows: np.ndarray, labels: np.ndarray, l2: float) -> float:
    """Mean cross-entropy + l2 / 2 * ||W||^2, in float64."""
    total = 0.0
    for start in range(0, len(rows), 20_000):
        logits = rows[start : start + 20_000].astype(np.float64) @ coef.T.astype(np.float64) + intercept
        logits -= logits.max(axis=1, keepdims=True)
        total += float(
            (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(logits)), labels[start : start + 20_000]]).sum()
        )
    return total / len(rows) + 0.5 * l2 * float(np.square(coef).sum())


def by_scikit_learn(rows: np.ndarray, labels: np.ndarray, l2: float, tol: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias."""
    fitted = LogisticRegression(C=1 / (l2 * len(rows)), tol=tol, max_iter=2000).fit(rows, labels)
    return fitted.coef_, fitted.intercept_


def compared(name: str, n_layers: int, rounds: int, tol: float, device: str) -> dict[str, Any]:
    """Seconds of both in every round, and their objectives' relative distances from the better one of each problem."""
    n_rows, dim, n_classes, strengths = SIZES[name]
    layers = [features(n_rows, dim, n_classes, seed) for seed in range(n_layers)]
    inputs = [standardised(rows) for rows, _ in layers]
    found: dict[str, Any] = {"probe": [], "scikit-learn": []}
    for number in range(rounds):
        start = time.perf_counter()
        ours = [fit_strengths(rows, labels, strengths, device=device) for rows, labels in layers]
        found["probe"].append(time.perf_counter() - start)
        start = time.perf_counter()
        jobs = [
            delayed(by_scikit_learn)(rows, labels, l2, tol)
            for rows, (_, labels) in zip(inputs, layers, strict=True)
            for l2 in strengths
        ]
        theirs = Parallel(n_jobs=os.cpu_count())(jobs)
        found["scikit-learn"].append(time.perf_counter() - start)
        print(f"{name}: round {number + 1}: {found['probe'][-1]:.1f} s against {found['scikit-learn'][-1]:.1f} s", flush=True)
    distances: dict[str, list[float]] = {"probe": [], "scikit-learn": []}
    for index, (fitted, rows, (_, labels)) in enumerate(zip(ours, inputs, layers, strict=True)):
        scaler = Standardizer.of(layers[index][0])
        for number, (l2, probe) in enumerate(zip(strengths, fitted, strict=True)):
            coef = probe.coef_ * scaler.scale
            values = {
                "probe": objective(coef, probe.intercept_ + probe.coef_ @ scaler.mean, rows, labels, l2),
                "scikit-learn": objective(*theirs[index * len(strengths) + number], rows, labels, l2),
            }
            for way, value in values.items():
                distances[way].append(value / min(values.values()) - 1)
    found["distance"] = {way: max(values) for way, values in distances.items()}
    found["iterations"] = [probe.n_iter_ for probe in ours[0]]
    ratios = [theirs_s / ours_s for theirs_s, ours_s in zip(found["scikit-learn"], found["probe"], strict=True)]
    print(
        f"{name}: {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} - {max(ratios):.2f}); objective above the best: "
        + ", ".join(f"{way} {value:.1e}" for way, value in found["distance"].items()),
        flush=True,
    )
    return found | {"ratio": ratios, "layers": n_layers, "rows": n_rows, "dim": dim, "classes": n_classes, "strengths": strengths}


def main() -> None:
    """Measures, prints, writes a record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=13, help="Of the pooled part.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tol", type=float, default=1e-4, help="scikit-learn's; 1e-4 is its default.")
    parser.add_argument("--only", choices=list(SIZES))
    parser.add_argument("--to", type=Path, help="Also write a JSON record here.")
    chosen = parser.parse_args()
    record: dict[str, Any] = {"benchmark": "probes", "device": processor(), "system": platform.platform(terse=True)}
    record |= {"packages": package_versions(), "tol": chosen.tol}
    for name in [chosen.only] if chosen.only else SIZES:
        record[name] = compared(name, chosen.layers if name == "pooled" else 1, chosen.rounds, chosen.tol, chosen.device)
    if chosen.to:
        chosen.to.write_text(json.dumps(record | {"load": os.getloadavg()[0]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
