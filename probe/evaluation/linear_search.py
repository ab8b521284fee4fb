"""One linear probe out of several strengths of the l2 penalty: the one that is best on dev."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.heads.linear import LinearProbe, fit_strengths


@dataclass(frozen=True)
class Chosen:
    """The probe that dev picked, and every strength that was tried."""

    probe: LinearProbe
    search: list[dict[str, Any]]


def search_strengths(
    rows: np.ndarray,
    labels: Sequence[str],
    dev_rows: np.ndarray,
    dev_labels: Sequence[str],
    strengths: Sequence[float],
    standardize: bool = True,
    device: str = "cpu",
) -> Chosen:
    """Fits every strength on (row, dim) and takes the best dev accuracy; among equals the lowest dev cross-entropy."""
    probes = fit_strengths(rows, np.array(labels), strengths, standardize, device=device)
    search = [on_dev(probe, dev_rows, dev_labels) for probe in probes]
    return Chosen(probes[best_of(search)], search)


def best_of(search: Sequence[dict[str, Any]]) -> int:
    """The entry that dev picks."""
    return min(range(len(search)), key=lambda i: (-search[i]["dev_accuracy"], search[i]["dev_cross_entropy"]))


def on_dev(probe: Any, rows: Any, labels: Sequence[str]) -> dict[str, Any]:
    """One strength's entry of the search, of a probe that reads ``rows``.

    Labels that the probe does not know are errors, and have no cross-entropy.
    """
    log_probabilities = probe.predict_log_proba(rows)
    truth = np.array(labels)
    known = np.isin(truth, probe.classes_)
    columns = np.searchsorted(probe.classes_, truth[known])
    entropies = -log_probabilities[known.nonzero()[0], columns]
    return {
        "l2": probe.l2,
        "dev_accuracy": float(np.mean(probe.classes_[log_probabilities.argmax(axis=1)] == truth)),
        "dev_cross_entropy": float(entropies.mean()) if known.any() else 0.0,
        "iterations": probe.n_iter_,
    }
