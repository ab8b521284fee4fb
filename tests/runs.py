"""Runs of tasks with flat arguments, which belong to `Scope` where it has them, else `Training`."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from probe.evaluation import run as module
from probe.evaluation.run import Run, Training
from probe.evaluation.trial_lists import Scope

OF_SCOPE = {item.name for item in fields(Scope)}


def run(task: Any, model: Any, corpus: Any, features: Path, results: Path, **flat: Any) -> Run:
    """`probe.run`, whose groups of arguments are made here."""
    scope = Scope(**{name: value for name, value in flat.items() if name in OF_SCOPE})
    training = Training(**{name: value for name, value in flat.items() if name not in OF_SCOPE})
    return module.run(task, model, corpus, features, results, scope, training)
