"""One linear probe out of several strengths of the l2 penalty: the one that is best on dev.

Where accuracy is the metric, dev picks the strength of the lowest cross-entropy, a strictly proper
score (Gneiting & Raftery 2007): accuracy on a small dev set is flat over several strengths and
jumps with single utterances. Other metrics pick by their own value, and ties by the loss.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
CROSS_ENTROPY = "dev_cross_entropy"
DIFFERENCE_ERROR = "dev_difference_error"  # of an entry's loss less that of the chosen entry
# One strength for each decade: trained features want small ones, features at chance large ones.
STRENGTHS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)

# (row,) bool, whether a probe is right, and (row,) float64, the truth's log-probability; NaN where
# the probe has no such class.
Judged = tuple[np.ndarray, np.ndarray]


def best_of(
    search: Sequence[Mapping[str, Any]], metric: str = ACCURACY.name, loss: str = CROSS_ENTROPY
) -> int:
    """The entry that dev picks, see the module; one without a value only where none has one."""
    sign = -1 if metric_of(metric).higher_is_better else 1

    def rank(position: int) -> tuple[float, float]:
        value = search[position][f"dev_{metric}"]
        value = np.inf if value is None else sign * value
        both = (value, search[position][loss])
        return both[::-1] if metric == ACCURACY.name else both

    return min(range(len(search)), key=rank)


def best_for_codes(search: Sequence[Mapping[str, Any]]) -> int:
    """The entry of the lowest dev cross-entropy: a code pays for probabilities, not for errors."""
    return min(range(len(search)), key=lambda position: search[position][CROSS_ENTROPY])


def choice_of(
    search: Sequence[dict[str, Any]],
    losses: Sequence[np.ndarray],
    best: int,
    owners: np.ndarray | None = None,
    loss: str = CROSS_ENTROPY,
) -> dict[str, Any]:
    """What records say of a search: its entries, and the setting that was chosen with its loss.

    Args:
        losses: (row,) of dev for each entry; NaN where a row has none.
        best: the entry that was chosen.
        owners: (row,) which rows belong together, such as the frames of an utterance; each row
            stands alone where None.
    """
    entries = [
        line | {DIFFERENCE_ERROR: difference_error(own, losses[best], owners)}
        for line, own in zip(search, losses, strict=True)
    ]
    return {"search": entries, "chosen": {name: search[best][name] for name in ("l2", loss)}}


def difference_error(
    losses: np.ndarray, others: np.ndarray, owners: np.ndarray | None = None
) -> float:
    """The standard error of the mean difference of two (row,) losses of the same rows; rows of one
    owner may depend on each other. It is 0 where no row has a loss.
    """
    differences = losses - others
    known = ~np.isnan(differences)
    differences = differences[known]
    n = len(differences)
    if not n:
        return 0.0
    excess = differences - differences.mean()
    if owners is not None:
        excess = np.bincount(owners[known], weights=excess)
    return float(np.sqrt(np.square(excess).sum()) / n)


def on_dev(
    probe: Any, rows: Any, truth: np.ndarray, metric: str = ACCURACY.name
) -> tuple[dict[str, Any], np.ndarray]:
    """One strength's entry of the search, of a probe that reads ``rows``, from (row,) labels; and
    the (row,) losses.

    Labels that the probe does not know are errors, and have no cross-entropy. The value of a metric
    that is undefined on these rows is None.
    """
    hits, log_probabilities = judge(probe, rows, truth)
    line = entry(probe, hits, log_probabilities)
    if metric != ACCURACY.name:
        try:
            line[f"dev_{metric}"] = _value(metric, probe, rows, truth)
        except ProbeError:
            line[f"dev_{metric}"] = None
    return line, -log_probabilities


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
        CROSS_ENTROPY: float(entropies.mean()) if len(entropies) else 0.0,
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
