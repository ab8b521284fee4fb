"""The search over l2 strengths that kinds with linear probes share: by dev accuracy, among equals by dev cross-entropy."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from probe.heads.linear import LinearProbe

# Rows are judged so many at a time, wherever blocks end: a product's last bits depend on how many rows it has.
JUDGED_ROWS = 4096

Judged = tuple[np.ndarray, np.ndarray]


def on_dev(probes: Sequence[LinearProbe], found: Sequence[Judged]) -> list[dict[str, float]]:
    """Each strength's entry of the search; classes that training does not have count as errors and not in the cross-entropy."""
    entries = []
    for probe, (hits, log_probabilities) in zip(probes, found, strict=True):
        known = log_probabilities[~np.isnan(log_probabilities)]
        entries.append(
            {
                "l2": probe.l2,
                "dev_accuracy": float(np.mean(hits)),
                "dev_cross_entropy": float(-known.mean()) if len(known) else float(np.finfo(float).max),
                "iterations": probe.n_iter_,
            }
        )
    return entries


def best_of(search: Sequence[Mapping[str, float]]) -> int:
    """Position of the entry that dev picks."""
    return min(range(len(search)), key=lambda i: (-search[i]["dev_accuracy"], search[i]["dev_cross_entropy"]))


def judged(probes: Sequence[LinearProbe], blocks: Iterable[np.ndarray], labels: np.ndarray) -> list[Judged]:
    """For each probe (row,) bool, whether it is right, and (row,) float64, the truth's log-probability (NaN: no class of its).

    All probes judge a block before the next one is asked for; the result does not depend on where blocks end.

    Args:
        blocks: (row, dim) each, one after the other.
        labels: (row,) of all blocks together.
    """
    found = [(np.zeros(len(labels), bool), np.full(len(labels), np.nan)) for _ in probes]
    start = 0
    for rows in cut(blocks, JUDGED_ROWS):
        truth = labels[start : start + len(rows)]
        for probe, (hits, log_probabilities) in zip(probes, found, strict=True):
            scores = probe.predict_log_proba(rows)
            columns = np.searchsorted(probe.classes_, truth).clip(max=len(probe.classes_) - 1)
            known = probe.classes_[columns] == truth
            hits[start : start + len(rows)] = known & (scores.argmax(axis=1) == columns)
            log_probabilities[start : start + len(rows)][known] = scores[known, columns[known]]
        start += len(rows)
    return found


def cut(blocks: Iterable[np.ndarray], n_rows: int) -> Iterator[np.ndarray]:
    """The same rows in blocks of ``n_rows`` each, but for the last."""
    waiting: list[np.ndarray] = []
    held = 0
    for block in blocks:
        while held + len(block) >= n_rows:
            first, block = block[: n_rows - held], block[n_rows - held :]
            yield np.concatenate([*waiting, first]) if waiting else first
            waiting, held = [], 0
        if len(block):
            waiting.append(block)
            held += len(block)
    if waiting:
        yield np.concatenate(waiting)
