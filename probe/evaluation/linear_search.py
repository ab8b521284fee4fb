"""One linear probe out of several strengths of the l2 penalty: the one that is best on dev."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.errors import ProbeError
from probe.heads.linear.linear_probe import SOLVING, LinearProbe, Solving, fit_strengths
from probe.measures.block_sums import class_counts
from probe.measures.counts import trial_counts, value_of
from probe.measures.metrics import ACCURACY, AUC, EER, metric_of

# Rows that are judged by blocks are so many at a time: a product's last bits depend on how many
# rows it has.
JUDGED_ROWS = 4096

# (row,) bool, whether a probe is right, and (row,) float64, the truth's log-probability; NaN where
# the probe has no such class.
Judged = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Chosen:
    """The probe that dev picked, and every strength that was tried."""

    probe: LinearProbe
    search: list[dict[str, Any]]
    tried: list[LinearProbe]

    def for_codes(self) -> LinearProbe:
        """The lowest dev cross-entropy: a code pays for probabilities, not for errors."""
        return self.tried[
            min(range(len(self.tried)), key=lambda i: self.search[i]["dev_cross_entropy"])
        ]


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is tried, and how dev picks one.

    Attributes:
        strengths: of the l2 penalty.
        standardize: whether rows are standardised with training statistics.
        metric: whose best dev value picks.
        solving: see `probe.heads.linear.linear_probe.Solving`.
    """

    strengths: Sequence[float]
    standardize: bool = True
    metric: str = ACCURACY.name
    solving: Solving = SOLVING


def search_strengths(
    rows: np.ndarray,
    labels: Sequence[str],
    dev_rows: np.ndarray,
    dev_labels: Sequence[str],
    search: Search,
    tick: Callable[[], Any] = lambda: None,
) -> Chosen:
    """Fits every strength on (row, dim) and takes the best dev value; among equals the lowest dev
    cross-entropy.
    """
    probes = fit_strengths(
        *(rows, np.array(labels), search.strengths, search.standardize, search.solving), tick=tick
    )
    tried = [on_dev(probe, dev_rows, dev_labels, search.metric) for probe in probes]
    return Chosen(probes[best_of(tried, search.metric)], tried, probes)


def best_of(search: Sequence[dict[str, Any]], metric: str = ACCURACY.name) -> int:
    """The entry that dev picks; one without a value only where none has one."""

    def rank(position: int) -> tuple[float, float]:
        value = search[position][f"dev_{metric}"]
        sign = -1 if metric_of(metric).higher_is_better else 1
        return np.inf if value is None else sign * value, search[position]["dev_cross_entropy"]

    return min(range(len(search)), key=rank)


def on_dev(
    probe: Any, rows: Any, labels: Sequence[str], metric: str = ACCURACY.name
) -> dict[str, Any]:
    """One strength's entry of the search, of a probe that reads ``rows``.

    Labels that the probe does not know are errors, and have no cross-entropy. The value of a metric
    that is undefined on these rows is None.
    """
    truth = np.array(labels)
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
