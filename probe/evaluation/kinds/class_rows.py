"""The rows of a task of classes, and the labels that it refuses."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from probe.data.corpus import Utterance
from probe.data.intervals import LabelledInterval
from probe.errors import ProbeError, listed
from probe.evaluation.dataset import Problem, refuse_empty
from probe.evaluation.labelled_rows import LabelledRows, labelled_rows
from probe.evaluation.tasks import Task
from probe.measures.metrics import ACCURACY, AUC, EER, MACRO_F1, UAR

log = logging.getLogger("probe")

LONGEST_SHOWN = 40
MOST_NUMBERS = 20  # whole numbers that are names of classes, such as digits or grades
BINS = (
    'Kind regress predicts numbers: use the task age-regress with --label, or kind = "regress" in '
    "a task of your own. To classify, put the numbers into a few bins, such as low, middle and "
    "high, in another column, and name that one."
)
OF_CLASSES = (ACCURACY.name, UAR.name, MACRO_F1.name)
OF_TWO_CLASSES = (AUC.name, EER.name)


@dataclass(frozen=True)
class ClassRows(LabelledRows):
    """The rows of a task with their labels.

    Attributes:
        labels: (row,) text.
        impossible: test set -> why it cannot be scored.
        classes: of training, sorted.
    """

    labels: np.ndarray
    impossible: dict[str, str]
    classes: list[str]

    @cached_property
    def known(self) -> list[str]:
        """The classes of all rows, sorted."""
        return sorted({*self.labels.tolist()})

    @cached_property
    def trained(self) -> frozenset[str]:
        """The classes of training."""
        return frozenset(self.classes)


def class_rows(task: Task[Any], problem: Problem) -> ClassRows:
    """What is trained on and scored.

    Raises:
        ProbeError: one class only, no rows in a split, classes in dev or test that training does
            not have, or a metric of two classes where there are more.
    """
    column, metric = task.settings.label, task.settings.metric
    rows = labelled_rows(task.name, problem, column, [*filter(None, [task.settings.types])])
    train, dev = rows.utterances[rows.train], rows.utterances[rows.dev]
    tests = {name: rows.utterances[place] for name, place in rows.tests.items()}
    classes = sorted({item.label(column) for item in train})
    if len(classes) < 2:
        raise ProbeError(
            f"{task.name}: all training rows have {column} {classes[0]!r}; expected two classes "
            "or more."
        )
    if metric in OF_TWO_CLASSES and len(classes) > 2:
        raise ProbeError(
            f"{task.name}: metric {metric} is of two classes, and {column} has {len(classes)} in "
            f"training ({listed(classes)}). Use uar or macro_f1."
        )
    if types := task.settings.types:
        nameless = [
            item.key
            for part in (train, dev, *tests.values())
            for item in part
            if not item.label(types)
        ]
        if nameless:
            raise ProbeError(
                f"{task.name}: types: {len(nameless)} utterances have no {types} "
                f"({listed(nameless, 3)}). Fill the column, or leave types out."
            )
    impossible = {
        name: reason
        for name, part in tests.items()
        if (reason := _impossible(classes, part, column))
    }
    refused, parts = {"dev": _impossible(classes, dev, column)}, {"dev": dev}
    if impossible and problem.strict:
        name, refused["test"] = next(iter(impossible.items()))
        refuse_empty(task.name, column, {"test": (problem.tests[name], tests[name])})
        parts["test"] = tests[name]
    for split, reason in refused.items():
        if reason:
            raise ProbeError(
                f"{task.name}: {split}: {reason}. {_remedy(classes, parts[split], column)}"
            )
    if _are_numbers(classes):
        log.warning(
            "%s: the values of %s are numbers, and each of the %d is a class of its own. %s",
            *(task.name, column, len(classes), BINS),
        )
    labels = np.array([item.label(column) for item in rows.utterances])
    parts_of_rows = (
        rows.utterances,
        rows.train,
        rows.dev,
        rows.tests,
        rows.excluded,
        rows.of_blocks,
    )
    return ClassRows(*parts_of_rows, labels, impossible, classes)


def _impossible(classes: Sequence[str], rows: Sequence[Utterance], column: str) -> str:
    """Why these rows cannot be scored by a probe of ``classes``; empty where they can."""
    if not rows:
        return f"no rows with {column}"
    if isinstance(rows[0], LabelledInterval):
        return ""  # words and phones are an open set: those that training lacks count as errors
    unseen = sorted({item.label(column) for item in rows} - set(classes))
    names = listed(
        [name if len(name) <= LONGEST_SHOWN else f"{name[:LONGEST_SHOWN]}…" for name in unseen]
    )
    return f"{column} {names} not in training" if unseen else ""


def _remedy(classes: Sequence[str], rows: Sequence[Utterance], column: str) -> str:
    """What to do about labels that training does not have."""
    if _are_numbers([*classes, *(item.label(column) for item in rows)]):
        return f"These labels are numbers, and each of them is a class of its own. {BINS}"
    return "Give these labels training rows, or take their rows out."


def _are_numbers(labels: Sequence[str]) -> bool:
    """Whether labels are values on a scale: numbers with fractions, or more whole ones than
    `MOST_NUMBERS`.
    """
    try:
        values = {float(label) for label in labels}
    except ValueError:
        return False
    return len(values) > MOST_NUMBERS or not all(value.is_integer() for value in values)
