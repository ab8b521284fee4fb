"""Kind ``superb``: SUPERB's tasks of whole utterances (KS, IC, SID, ER), by its own head and search
(`probe.heads.linear.superb_head`).

Metric: accuracy, utterances of which every label is right / utterances (higher is better). Several
columns in ``label`` are several softmaxes on one head, as for the three slots of SUPERB's IC. The
learning rate and the step are those of the best dev accuracy; with ``balanced``, of the best dev
accuracy with every class weighted alike, which is what SUPERB's balanced drawing of dev rows
estimates.

There is one score: of the learned sum of layers, without standardisation. The layers of the sum
are those that SUPERB sums: the input of the first block and the output of every block, the last one
after the final LayerNorm where the model has one. A model with one layer has a sum of one.

Control ``majority``: always the most frequent training labels.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from probe.errors import ProbeError, listed
from probe.evaluation.dataset import Features, Problem, Score, summed_layers, whole_sum
from probe.evaluation.kind import AtLeastOne, Count, Kind, Main, Rate, Settings, Several
from probe.evaluation.labelled_rows import LabelledRows, labelled_rows
from probe.evaluation.questions import Answers
from probe.evaluation.tasks import Task
from probe.heads.linear.superb_head import SuperbHead, SuperbTraining, fit_superb
from probe.measures.counts import ratio_counts
from probe.measures.metrics import ACCURACY
from probe.records import NO_LAYER

HEAD = "superb"
RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
Place = slice | np.ndarray  # of rows
TRAINING_FIELDS = ("learning_rates", "steps", "evaluate_every", "batch_size", "hidden", "balanced")


class SuperbSettings(Settings):
    """See docs/task-keys.md."""

    label: AtLeastOne[str] = ("speaker",)
    view: Literal["mean"] = "mean"
    learning_rates: AtLeastOne[Rate] = RATES
    steps: Count = 200_000
    evaluate_every: Count = 4_000
    batch_size: Count = 32
    hidden: int = Field(256, ge=1, le=1 << 14)
    balanced: bool = False
    dev_share: float = Field(0.0, ge=0, lt=1)
    controls: Several[Literal["majority"]] = ("majority",)

    @property
    def predicted_column(self) -> str:
        """See `probe.evaluation.kind.Settings`."""
        return self.label[0] if len(self.label) == 1 else ""


@dataclass(frozen=True)
class Rows(LabelledRows):
    """The rows of a task with their labels.

    Attributes:
        targets: (row, label) int64, positions in ``classes``.
        classes: of each label, sorted.
        at_train, at_dev: the rows that train and that choose; slices where the splits say so, so
            that these rows are not copied.
    """

    targets: np.ndarray
    classes: list[list[str]]
    at_train: Place
    at_dev: Place


def run(task: Task[SuperbSettings], problem: Problem, features: Features) -> Iterator[Score]:
    """The score of the learned sum on dev and on each test set.

    Raises:
        ProbeError: one class only, no rows in a split, labels in dev or test that training does not
            have, or layers that do not fit into memory.
    """
    settings = task.settings
    rows = _rows(task, problem)
    if "majority" in settings.controls:
        yield from _majority(settings, rows)
    answers: Answers[str, None] = Answers(
        [],
        name=str,
        n_steps=lambda _: 0,
        read=lambda _: None,
        score=lambda *_: (),
        sum_steps=settings.steps * len(settings.learning_rates),
        score_sum=lambda: _of_sum(task, problem, features, rows),
    )
    yield from answers.scores(problem, [])


def check(task: Task[SuperbSettings], problem: Problem) -> None:
    """Refuses what `run` would refuse, without features.

    Raises:
        ProbeError: see `run`.
    """
    _rows(task, problem)


def _rows(task: Task[SuperbSettings], problem: Problem) -> Rows:
    settings = task.settings
    first, *others = settings.label
    rows = labelled_rows(task.name, problem, first, filled=others)
    parts = {name: part for name, part in rows.parts().items() if part or problem.strict}
    for name, part in parts.items():
        if not part:
            raise ProbeError(f"{task.name}: no {name} rows with {listed(list(settings.label))}.")
    at_train, at_dev = _chosen_rows(settings, rows)
    classes, targets = [], []
    for column in settings.label:
        labels = np.array([item.label(column) for item in rows.utterances])
        known = np.unique(labels[at_train]).tolist()
        if len(known) < 2:
            raise ProbeError(
                f"{task.name}: all training rows have {column} {known[0]!r}; expected two classes "
                "or more."
            )
        if unseen := np.setdiff1d(labels, known).tolist():
            raise ProbeError(
                f"{task.name}: {column} {listed(unseen)} not in training. Give these labels "
                "training rows, or take their rows out."
            )
        classes.append(known)
        targets.append(np.searchsorted(known, labels))
    return Rows(
        **vars(rows), targets=np.array(targets).T, classes=classes, at_train=at_train, at_dev=at_dev
    )


def _chosen_rows(settings: SuperbSettings, rows: LabelledRows) -> tuple[Place, Place]:
    """The rows that train and those that choose: as the splits say, or, with ``dev_share``, a
    random share of both together (always the same one).
    """
    if not settings.dev_share:
        return rows.train, rows.dev
    both = np.r_[rows.train, rows.dev]
    order = np.random.default_rng([0, len(both)]).permutation(both)
    n_dev = max(1, round(settings.dev_share * len(both)))
    return np.sort(order[n_dev:]), np.sort(order[:n_dev])


def _of_sum(
    task: Task[SuperbSettings], problem: Problem, features: Features, rows: Rows
) -> Iterator[Score]:
    settings = task.settings
    layers = summed_layers(features.layers)
    widths = {layer: features.store.layers[layer] for layer in layers}
    summed = whole_sum(task.name, features, widths, len(rows.utterances), problem.memory_bytes)
    values = np.stack(
        [features.read(layer, rows.utterances).values for layer in summed.layers], axis=1
    ).astype(np.float32, copy=False)
    dev, dev_targets = values[rows.at_dev], rows.targets[rows.at_dev]

    def dev_value(head: SuperbHead) -> float:
        hits = (head.predict(dev) == dev_targets).all(axis=1)
        return _mean_of_classes(hits, dev_targets) if settings.balanced else float(hits.mean())

    fields = {name: getattr(settings, name) for name in TRAINING_FIELDS}
    fitted = fit_superb(
        values[rows.at_train],
        rows.targets[rows.at_train],
        dev_value,
        SuperbTraining(**fields),
        problem.seed,
        problem.device,
        problem.progress.step,
    )
    name = "dev_uar" if settings.balanced else "dev_accuracy"
    search = [
        {"learning_rate": entry["learning_rate"], "steps": entry["steps"], name: entry["dev_value"]}
        for entry in fitted.search
    ]
    common = {**summed.fields(fitted.head.shares), "search": search, "chosen": fitted.chosen}
    yield from _scores(rows, common, fitted.head.predict(values))


def _mean_of_classes(hits: np.ndarray, targets: np.ndarray) -> float:
    """The mean over classes of the share of hits."""
    _, classes = np.unique(targets, axis=0, return_inverse=True)
    classes = classes.reshape(-1)
    return float((np.bincount(classes, hits) / np.bincount(classes)).mean())


def _majority(settings: SuperbSettings, rows: Rows) -> Iterator[Score]:
    frequent = Counter(map(tuple, rows.targets[rows.at_train].tolist())).most_common(1)[0][0]
    predicted = np.tile(np.array(frequent), (len(rows.targets), 1))
    yield from _scores(rows, {"layer": NO_LAYER, "control": "majority"}, predicted)


def _scores(rows: Rows, common: dict[str, Any], predicted: np.ndarray) -> Iterator[Score]:
    everywhere = np.arange(len(rows.utterances))
    n_train = len(everywhere[rows.at_train])
    places: list[tuple[str, str, Place]] = [("dev", "", rows.at_dev)]
    places += [("test", name, place) for name, place in rows.tests.items()]
    for split, test, place in places:
        at = everywhere[place]
        hits = (predicted[at] == rows.targets[at]).all(axis=1)
        blocks = [rows.blocks[i] for i in at]
        yield Score(
            head=HEAD,
            split=split,
            test_domain=test,
            metric=ACCURACY.name,
            select_by=ACCURACY.name,
            higher_is_better=True,
            counts=ratio_counts(blocks, hits.astype(int).tolist(), [1] * len(hits))
            if len(at)
            else None,
            n=len(at),
            n_train=n_train,
            excluded=rows.excluded,
            outcomes=[_outcome(rows, predicted, int(i)) for i in at],
            **common,
        )


def _outcome(rows: Rows, predicted: np.ndarray, row: int) -> dict[str, Any]:
    def text(targets: np.ndarray) -> str:
        return " | ".join(names[i] for names, i in zip(rows.classes, targets, strict=True))

    return {
        "key": rows.utterances[row].key,
        "label": text(rows.targets[row]),
        "predicted": text(predicted[row]),
    }


KIND = Kind(
    "superb",
    SuperbSettings,
    run,
    check,
    lambda _: Main(HEAD, ACCURACY.name, ACCURACY.name, higher_is_better=True),
    metrics=(ACCURACY.name,),
)
