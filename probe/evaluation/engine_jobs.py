"""Training and scoring as jobs: pairs of a model and a task, in this process or on an engine."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from probe.data.corpus import Corpus
from probe.engines.engine import Engine
from probe.errors import ProbeError
from probe.evaluation.run import Run, Training, run
from probe.evaluation.tasks import Task
from probe.evaluation.trial_lists import Scope
from probe.model_names import ModelName
from probe.records import iterate_records


@dataclass(frozen=True)
class Pair:
    """A model, and the number of a task among `Asking.tasks`."""

    model: ModelName
    number: int
    task: str

    def __str__(self) -> str:
        return f"{self.model.name}, {self.task}"


@dataclass(frozen=True)
class Asking:
    """How tasks are asked of models, as `probe.engines.engine.Work`; its jobs are `Pair`."""

    tasks: Sequence[Task[Any]]
    corpus: Corpus
    features: Path
    results: Path
    scope: Scope
    training: Training

    def open(self) -> Callable[[Sequence[Pair]], list[Run]]:
        """Return what does several jobs; records stay in their files."""
        return lambda pairs: [replace(self.run(pair), records=[]) for pair in pairs]

    def pairs(self, model: ModelName) -> list[Pair]:
        """The jobs of a model."""
        return [Pair(model, number, task.name) for number, task in enumerate(self.tasks)]

    def run(self, pair: Pair, place: str = "") -> Run:
        """Train and score."""
        task = self.tasks[pair.number]
        where = (self.features, self.results)
        return run(task, pair.model, self.corpus, *where, self.scope, self.training, place)


Finished = tuple[Pair, Run | ProbeError]  # a pair with what it wrote, or why it could not be asked


def finished_here(
    asking: Asking, pairs: Sequence[Pair], n_before: int, n_all: int
) -> Iterator[Finished]:
    """Yield each pair with what it wrote, or with why it could not be asked.

    Args:
        n_before: number of pairs before these, among ``n_all``, for the progress.
    """
    for number, pair in enumerate(pairs, start=n_before + 1):
        try:
            yield pair, asking.run(pair, f"task {number} of {n_all}")
        except ProbeError as error:
            yield pair, error


def finished_on(engine: Engine, asking: Asking, pairs: Sequence[Pair]) -> Iterator[Finished]:
    """The same on the workers of an engine."""
    outcomes = {item.job: item for item in engine.run(asking, pairs, most=1, title="train")}
    for pair in pairs:
        outcome = outcomes[pair]
        if outcome.error:
            yield pair, outcome.error
        else:
            records = [record for path in outcome.result.paths for record in iterate_records(path)]
            yield pair, replace(outcome.result, records=records)
