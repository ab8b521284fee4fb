"""One linear probe out of several strengths of the l2 penalty: the one that is best on dev."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from probe.errors import ProbeError
from probe.heads.linear.linear_probe import LinearProbe
from probe.measures.block_sums import class_counts
from probe.measures.counts import trial_counts, value_of
from probe.measures.metrics import ACCURACY, AUC, EER, metric_of

# Rows that are judged by blocks are so many at a time: a product's last bits depend on how many
# rows it has.
JUDGED_ROWS = 4096

# (row,) bool, whether a probe is right, and (row,) float64, the truth's log-probability; NaN where
# the probe has no such class.
Judged = tuple[np.ndarray, np.ndarray]


def best_of(
    search: Sequence[dict[str, Any]], metric: str = ACCURACY.name, loss: str = "dev_cross_entropy"
) -> int:
    """The entry that dev picks: the best value of the metric, and among equals the lowest loss; one
    without a value only where none has one.
    """
    sign = -1 if metric_of(metric).higher_is_better else 1

    def rank(position: int) -> tuple[float, float]:
        value = search[position][f"dev_{metric}"]
        return np.inf if value is None else sign * value, search[position][loss]

    return min(range(len(search)), key=rank)


def best_for_codes(search: Sequence[dict[str, Any]]) -> int:
    """The entry of the lowest dev cross-entropy: a code pays for probabilities, not for errors."""
    return min(range(len(search)), key=lambda position: search[position]["dev_cross_entropy"])


def on_dev(probe: Any, rows: Any, truth: np.ndarray, metric: str = ACCURACY.name) -> dict[str, Any]:
    """One strength's entry of the search, of a probe that reads ``rows``, from (row,) labels.

    Labels that the probe does not know are errors, and have no cross-entropy. The value of a metric
    that is undefined on these rows is None.
    """
    line = entry(probe, *judge(probe, rows, truth))
    if metric != ACCURACY.name:
        try:
            line[f"dev_{metric}"] = _value(metric, probe, rows, truth)
        except ProbeError:
            line[f"dev_{metric}"] = None
    return line


def _value(metric: str, probe: Any, rows: Any, truth: np.ndarray) -> float:
    """A probe's value of a metric on (row,) labels.

    Raises:
        ProbeError: it is undefined.
    """
    block = ["dev"] * len(truth)
    if metric in (AUC.name, EER.name):
        target = truth == probe.classes_[1]
        return value_of(trial_counts(block, block, target, log_odds(probe, rows)), metric)
    classes = np.union1d(probe.classes_, truth).tolist()
    guesses = [str(guess) for guess in probe.predict(rows)]
    return value_of(class_counts(block, truth.tolist(), guesses, classes), metric)


def log_odds(probe: Any, rows: Any) -> np.ndarray:
    """(row,) log odds of the second of two classes."""
    both = probe.predict_log_proba(rows)
    odds: np.ndarray = both[:, 1] - both[:, 0]
    return odds


def entry(probe: Any, hits: np.ndarray, log_probabilities: np.ndarray) -> dict[str, Any]:
    """One strength's entry of the search from what `judged` says of dev."""
    entropies = -log_probabilities[~np.isnan(log_probabilities)]
    warning = {} if probe.converged_ else {"converged": False}
    return {
        "l2": probe.l2,
        "dev_accuracy": float(np.mean(hits)),
        "dev_cross_entropy": float(entropies.mean()) if len(entropies) else 0.0,
        "iterations": probe.n_iter_,
    } | warning


def judged(
    probes: Sequence[LinearProbe], blocks: Iterable[np.ndarray], labels: np.ndarray
) -> list[Judged]:
    """What each probe makes of rows that need not be in memory; the same wherever blocks end.

    All probes judge a block before the next one is asked for.

    Args:
        blocks: (row, dim) each, one after the other.
        labels: (row,) of all blocks together.
    """
    results = [(np.zeros(len(labels), bool), np.full(len(labels), np.nan)) for _ in probes]
    start = 0
    for rows in cut(blocks, JUDGED_ROWS):
        here = slice(start, start + len(rows))
        for probe, (hits, log_probabilities) in zip(probes, results, strict=True):
            hits[here], log_probabilities[here] = judge(probe, rows, labels[here])
        start += len(rows)
    return results


def judge(probe: Any, rows: Any, truth: np.ndarray) -> Judged:
    """What one probe makes of rows in memory."""
    scores = probe.predict_log_proba(rows)
    columns = np.searchsorted(probe.classes_, truth).clip(max=len(probe.classes_) - 1)
    known = probe.classes_[columns] == truth
    return known & (scores.argmax(axis=1) == columns), np.where(
        known, scores[np.arange(len(truth)), columns], np.nan
    )


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
