"""Whether a task can be asked of a corpus, as far as that is known before there are features."""

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from probe.data.corpus import Corpus, Utterance
from probe.data.intervals import IntervalSet
from probe.data.trials import TrialList
from probe.errors import ProbeError, UsageError
from probe.evaluation.blocks import blocks_of
from probe.evaluation.condition_plan import Hearing, asked_under, hearings
from probe.evaluation.dataset import Problem
from probe.evaluation.folds import folds_of, named_in_errors
from probe.evaluation.interval_rows import intervals_as_rows
from probe.evaluation.model_stores import stores_under
from probe.evaluation.tasks import Task
from probe.evaluation.trial_lists import SCOPE, Scope, chosen_trials, load_labels
from probe.model_names import ModelName
from probe.store.feature_store import FeatureStore

log = logging.getLogger("probe")

T = TypeVar("T")

ROUNDED_S = (
    1.0  # by which an interval may end after the duration in a manifest, which may be rounded
)


def problem_of(
    task: Task[Any],
    corpus: Corpus,
    hearing: Hearing,
    lists: Mapping[str, TrialList],
    intervals: IntervalSet | None,
    usable: Callable[[Iterable[Utterance]], list[Utterance]] = list,
) -> Problem:
    """The rows of one training and its tests, as they are heard.

    Args:
        usable: gives those that can be used.
    """
    by_split = {
        split: [item for item in corpus.utterances if item.split == split]
        for split in ("train", "dev", "test")
    }
    problem = Problem(
        train=usable(hearing.rows(by_split["train"])),
        dev=usable(hearing.rows(by_split["dev"])),
        tests={name: usable(rows) for name, rows in hearing.test_sets(by_split["test"]).items()},
        dev_trials=hearing.dev_trials(lists["dev"].trials) if lists else (),
        trials=hearing.trials(lists["test"].trials, task.settings.enroll) if lists else {},
        intervals=intervals,
        columns=(*corpus.columns, "condition"),
        blocks=blocks_of(task.inner.settings.predicted_column, corpus.utterances),
    )
    return intervals_as_rows(problem, task.inner.settings) if task.has_intervals else problem


def check(task: Task[Any], corpus: Corpus, scope: Scope = SCOPE, seed: int = 0) -> None:
    """Refuses a task that `probe.evaluation.run.run` would refuse whatever the features are.

    Raises:
        ProbeError: a list, a label, a column, a split or a domain is missing, or an extra that the
            task needs is not installed.
    """
    task = asked_under(task, scope.conditions)
    limited = corpus.limited(scope.limit)
    with _warnings_held_back():
        lists = chosen_trials(task, limited, set(), scope, seed)
        lengths_s = {item.key: item.duration_s or math.inf for item in limited.utterances}
        intervals = load_labels(task, corpus, lengths_s, scope.labels, ROUNDED_S)
        folds = folds_of(task, limited)
        for hearing, (fold, part) in itertools.product(hearings(task), folds.items()):
            with named_in_errors(task, fold):
                task.kind.check(task, problem_of(task, part, hearing, lists, intervals))


def stores_of(
    task: Task[Any], model: str | ModelName, corpus: Corpus, features: Path
) -> dict[str, FeatureStore]:
    """Condition -> the store that a task, which is open under its conditions, reads of a model.

    Raises:
        ProbeError: there is none under a condition.
    """
    keys = [item.key for item in corpus.utterances]
    names = dict.fromkeys(name for hearing in hearings(task) for name in hearing.conditions)
    return stores_under(features, ModelName.parse(model), task.view, names, keys)


def askable(
    questions: Mapping[str, T], check_one: Callable[[T], object]
) -> tuple[list[T], list[str]]:
    """The questions that can be asked, and why the others cannot, which is logged.

    Args:
        questions: name -> question, such as a task.
        check_one: raises where a question cannot be asked.

    Raises:
        ProbeError: no question can be asked; a `UsageError` where all reasons are such.
    """
    possible: list[T] = []
    errors: dict[str, ProbeError] = {}
    for name, question in questions.items():
        try:
            check_one(question)
        except ProbeError as error:
            errors[name] = error
        else:
            possible.append(question)
    if len(errors) == len(questions) == 1:
        raise next(iter(errors.values()))
    reasons = [f"{name}: {str(error).removeprefix(f'{name}: ')}" for name, error in errors.items()]
    if errors and not possible:
        usage = all(isinstance(error, UsageError) for error in errors.values())
        text = "\n".join([f"none of {len(questions)} tasks can be asked", *reasons])
        raise UsageError(text) if usage else ProbeError(text)
    for reason in reasons:
        log.error("%s", reason)
    return possible, reasons


@contextmanager
def _warnings_held_back() -> Iterator[None]:
    """Keeps warnings out of the log: the run itself says them."""

    def refused(_: logging.LogRecord) -> bool:
        return False

    log.addFilter(refused)
    try:
        yield
    finally:
        log.removeFilter(refused)
