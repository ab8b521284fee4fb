"""Runs of tasks with flat arguments, which belong to `Scope` where it has them, else `Training`."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from probe.evaluation import run as module
from probe.evaluation.run import Run, Training
from probe.evaluation.tasks import Task, open_task
from probe.evaluation.trial_lists import Scope

OF_SCOPE = {item.name for item in fields(Scope)}


def run(task: Any, model: Any, corpus: Any, features: Path, results: Path, **flat: Any) -> Run:
    """`probe.run`, whose groups of arguments are made here."""
    number = flat.pop("number", "")
    scope = Scope(**{name: value for name, value in flat.items() if name in OF_SCOPE})
    training = Training(**{name: value for name, value in flat.items() if name not in OF_SCOPE})
    return module.run(task, model, corpus, features, results, scope, training, number)


def quick(name: str, budgets: bool = False, **overrides: Any) -> Task[Any]:
    """A task under its own name, but with one strength of the penalty, without a learned sum of
    layers or codes, and with its budgets only on request: for tests of what is done with its
    scores.
    """
    task = open_task(name, overrides)
    if task.of is not None:
        return replace(task, of=_quick(task.of, budgets))
    return _quick(task, budgets)


def _quick(task: Task[Any], budgets: bool) -> Task[Any]:
    settings = {"l2": (1e-1,), "weighted": False, "online_code": False}
    settings |= {} if budgets else {"budgets": ()}
    known = settings.keys() & type(task.settings).model_fields.keys()
    changed = task.settings.model_copy(update={key: settings[key] for key in known})
    return replace(task, settings=changed)
