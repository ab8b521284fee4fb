"""Kind ``classify``: one label per utterance from pooled features, by multinomial logistic regression on every layer.

Metric: accuracy, correct / utterances (higher is better). The strength of the l2 penalty is the one with the best dev accuracy;
among equals the one with the lowest dev cross-entropy. SUPERB's SID differs in training: one learned sum of layers, SGD on crops.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from probe.data.corpus import Utterance
from probe.errors import ProbeError, listed
from probe.evaluation.linear_search import best_of, judged, on_dev
from probe.evaluation.problem import Features, Problem, Score, block_of, labelled, refuse_empty, shuffled
from probe.evaluation.tasks import Task
from probe.heads.linear import fit_strengths
from probe.measures.counts import ratio_counts

LONGEST_SHOWN = 40
METRIC = {"metric": "accuracy", "higher_is_better": True, "select_by": "accuracy", "head": "linear"}


def run(task: Task, problem: Problem, features: Features) -> Iterator[Score]:
    """Scores of every layer on dev and on each test set.

    Raises:
        ProbeError: one class only, no rows in a split, or classes in dev or test that training does not have.
    """
    column, strengths = task.settings["label"], task.settings["l2"]
    if column not in problem.columns:
        raise ProbeError(f"{task.name}: the manifest has no column {column!r} to predict; it has {', '.join(problem.columns)}.")
    excluded: Counter[str] = Counter()
    train, dev = (labelled(rows, column, excluded) for rows in (problem.train, problem.dev))
    tests = {name: labelled(rows, column, excluded) for name, rows in problem.tests.items()}
    refuse_empty(task.name, train, dev, column)
    classes = sorted({item.label(column) for item in train})
    if len(classes) < 2:
        raise ProbeError(f"{task.name}: all training rows have {column} {classes[0]!r}; expected two classes or more.")
    if reason := _impossible(classes, dev, column):
        raise ProbeError(f"{task.name}: dev: {reason}.")
    impossible = {name: reason for name, rows in tests.items() if (reason := _impossible(classes, rows, column))}
    if impossible and problem.strict:
        raise ProbeError(
            f"{task.name}: test: {next(iter(impossible.values()))}. Give it training rows, or take it out of the test rows."
        )
    train_labels, dev_labels = ([item.label(column) for item in rows] for rows in (train, dev))
    if task.settings["control"]:
        train_labels, dev_labels = shuffled(train_labels, problem.seed), shuffled(dev_labels, problem.seed)
    everyone = [*train, *dev, *(item for rows in tests.values() for item in rows)]
    for layer in features.layers:
        problem.tick(f"layer {layer}")
        rows = features.read(layer, everyone).values.astype(np.float64)
        probes = fit_strengths(rows[: len(train)], np.array(train_labels), strengths, task.settings["standardize"])
        dev_rows = rows[len(train) : len(train) + len(dev)]
        search = on_dev(probes, judged(probes, [dev_rows], np.array(dev_labels)))
        best = best_of(search)
        common = {**METRIC, "layer": layer, "search": search, "chosen": {"l2": strengths[best]}, "excluded": dict(excluded)}
        yield _score(common, "dev", dev, dev_labels, probes[best].predict(dev_rows))
        start = len(train) + len(dev)
        for name, utterances in tests.items():
            if name in impossible:
                yield Score(**common, split="test", test_domain=name, counts=None, n=len(utterances), note=impossible[name])
            else:
                predicted = probes[best].predict(rows[start : start + len(utterances)])
                yield _score(
                    {**common, "test_domain": name}, "test", utterances, [item.label(column) for item in utterances], predicted
                )
            start += len(utterances)


def _impossible(classes: Sequence[str], rows: Sequence[Utterance], column: str) -> str:
    """Why these rows cannot be scored by a probe of ``classes``; empty where they can."""
    if not rows:
        return f"no rows with {column}"
    unseen = sorted({item.label(column) for item in rows} - set(classes))
    names = listed([name if len(name) <= LONGEST_SHOWN else f"{name[:LONGEST_SHOWN]}…" for name in unseen])
    return f"{column} {names} not in training" if unseen else ""


def _score(common: dict, split: str, utterances: Sequence[Utterance], labels: Sequence[str], predicted: np.ndarray) -> Score:
    correct = [int(label == guess) for label, guess in zip(labels, predicted, strict=True)]
    outcomes = [
        {"key": item.key, "label": label, "predicted": str(guess)}
        for item, label, guess in zip(utterances, labels, predicted, strict=True)
    ]
    counts = ratio_counts([block_of(item) for item in utterances], correct, [1] * len(correct))
    return Score(**common, split=split, counts=counts, n=len(correct), outcomes=outcomes)
