"""Linear probes beside scikit-learn's on the same features: are they the same? One command:

    python benchmarks/equality.py --from features/ --corpus corpus.csv --label speaker --model
    MODEL... --to results/benchmarks

For every layer: the strength that dev picks, the test accuracy of our probe and of
`sklearn.linear_model.LogisticRegression` (L-BFGS run to tolerance 1e-8 on the same standardised
float64 rows), the share of test rows on which both say the same, and how far our objective lies
above or below scikit-learn's. Writes ``scikit-learn-LABEL.csv`` and a table of it,
``scikit-learn-LABEL.md``.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from probe.data.corpus import load_corpus
from probe.evaluation.linear_search import best_of, on_dev
from probe.files import write_atomically
from probe.heads.linear.linear_probe import fit_strengths
from probe.heads.linear.rows import Standardizer
from probe.store.stores import select_store

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
HEAD = """# Linear probes and scikit-learn's

Test accuracy in percent of our probe and of scikit-learn's logistic regression (L-BFGS to tolerance 1e-8) with the same l2 on the
same standardised features of {corpus}; how many test rows both label alike; our objective above (+) or below (-) scikit-learn's.

"""


def objective(
    coef: np.ndarray, intercept: np.ndarray, rows: np.ndarray, labels: np.ndarray, l2: float
) -> float:
    """Mean cross-entropy + l2 / 2 * ||W||^2."""
    logits = rows @ coef.T + intercept
    logits -= logits.max(axis=1, keepdims=True)
    log_sums = np.log(np.exp(logits).sum(axis=1))
    return float(
        (log_sums - logits[np.arange(len(rows)), labels]).mean() + 0.5 * l2 * np.square(coef).sum()
    )


def layers_of(
    model: str, corpus: str, label: str, features: Path, every: int
) -> Iterator[dict[str, Any]]:
    """One row per layer."""
    utterances = [item for item in load_corpus(corpus).utterances if item.label(label)]
    store = select_store(features, model, "meanstd", keys=[item.key for item in utterances])
    parts = {
        split: [item for item in utterances if item.split == split]
        for split in ("train", "dev", "test")
    }
    for layer in list(store.layers)[::every]:
        rows = {
            split: store.layer(layer, [item.key for item in items], "meanstd").values.astype(
                np.float64
            )
            for split, items in parts.items()
        }
        labels = {
            split: np.array([item.label(label) for item in items]) for split, items in parts.items()
        }
        probes = fit_strengths(rows["train"], labels["train"], STRENGTHS)
        ours = probes[best_of([on_dev(probe, rows["dev"], labels["dev"]) for probe in probes])]
        scaler = Standardizer.of(rows["train"])
        inputs = {split: (values - scaler.mean) / scaler.scale for split, values in rows.items()}
        theirs = LogisticRegression(C=1 / (ours.l2 * len(rows["train"])), tol=1e-8, max_iter=20_000)
        theirs.fit(inputs["train"], labels["train"])
        said = ours.predict(rows["test"]), theirs.predict(inputs["test"])
        codes = np.searchsorted(ours.classes_, labels["train"])
        reached = objective(theirs.coef_, theirs.intercept_, inputs["train"], codes, ours.l2)
        coef = ours.coef_ * scaler.scale
        own = objective(
            coef, ours.intercept_ + ours.coef_ @ scaler.mean, inputs["train"], codes, ours.l2
        )
        yield {
            "model": model,
            "layer": layer,
            "l2": ours.l2,
            "n": len(labels["test"]),
            "probe": float(np.mean(said[0] == labels["test"])),
            "scikit-learn": float(np.mean(said[1] == labels["test"])),
            "equal": float(np.mean(said[0] == said[1])),
            "objective": own / reached - 1,
            "iterations": int(theirs.n_iter_.max()),
        }


def page(rows: pd.DataFrame, corpus: str) -> str:
    """The table."""
    lines = [
        "| model | layer | l2 | probe | scikit-learn | alike | objective |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows.to_dict("records"):
        scores = " | ".join(f"{100 * row[name]:.1f}" for name in ("probe", "scikit-learn", "equal"))
        lines.append(
            f"| {row['model']} | {row['layer']} | {row['l2']:g} | {scores} | {row['objective']:+.0e} |"
        )
    return HEAD.format(corpus=corpus) + "\n".join(lines) + "\n"


def main() -> None:
    """Compares, prints, writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="features", type=Path, required=True)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--label", default="speaker")
    parser.add_argument("--model", nargs="+", required=True)
    parser.add_argument("--every", type=int, default=1, help="Take every so manieth layer.")
    parser.add_argument("--to", type=Path, required=True)
    chosen = parser.parse_args()
    rows = []
    for model in chosen.model:
        for row in layers_of(model, chosen.corpus, chosen.label, chosen.features, chosen.every):
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
    found = pd.DataFrame(rows)
    chosen.to.mkdir(parents=True, exist_ok=True)
    name = f"scikit-learn-{chosen.label}"
    write_atomically(
        chosen.to / f"{name}.csv", found.to_csv(index=False, lineterminator="\n").encode()
    )
    write_atomically(chosen.to / f"{name}.md", page(found, Path(chosen.corpus).stem).encode())
    worst = found["objective"].abs().max()
    print(
        f"{len(found)} layers; predictions alike {found['equal'].min():.4f} at least; objectives within {worst:.0e}"
    )


if __name__ == "__main__":
    main()
