"""The loop that asks a task's questions of every layer.

A question is what heads learn: the task itself, a control, or the task with a part of its training
data. A kind says what its questions are and scores one of them on one layer; here they are counted
for the progress, kept for a run that is interrupted, and followed by the learned sum of layers.
"""

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from probe.data.corpus import Utterance
from probe.data.label_budgets import within_budget
from probe.evaluation.dataset import Features, Problem, Score
from probe.evaluation.tasks import Task
from probe.evaluation.unfinished import part_of
from probe.measures.counts import form_of, pooled_counts
from probe.records import WEIGHTED

log = logging.getLogger("probe")

DRAWS = 5  # of the labels of a control

Q = TypeVar("Q")  # a kind's questions
R = TypeVar("R")  # what it reads of a layer


@dataclass(frozen=True)
class Answers(Generic[Q, R]):
    """How a kind answers its questions.

    Attributes:
        name: of a question, different for each.
        n_steps: that a question takes on one layer, see `probe.evaluation.progress`.
        read: what all questions need of a layer; it is read once, and only if one is not answered.
        score: the scores of a question on a layer, and on those after it that are trained together
            with it.
        sum_steps: that the learned sum of layers takes; 0 where none is asked for.
        score_sum: its scores, none where there is no such sum.
    """

    questions: Sequence[Q]
    name: Callable[[Q], str]
    n_steps: Callable[[Q], int]
    read: Callable[[str], R]
    score: Callable[[Q, str, R], Iterable[Score]]
    sum_steps: int = 0
    score_sum: Callable[[], Iterable[Score]] = tuple

    def scores(self, problem: Problem, layers: Sequence[str]) -> Iterator[Score]:
        """The scores of every layer on every question, then those of the sum."""
        self.announce(problem, len(layers))
        yield from self.of_layers(problem, layers)

    def announce(self, problem: Problem, n_layers: int) -> None:
        """Announces the steps of some layers and of the sum."""
        n_steps = sum(map(self.n_steps, self.questions))
        problem.progress.add(n_steps * n_layers + self.sum_steps)

    def of_layers(self, problem: Problem, layers: Sequence[str]) -> Iterator[Score]:
        """See `scores`, of steps that are announced."""
        answered: set[tuple[str, str]] = set()
        for layer in layers:
            problem.progress.note(f"layer {layer}")
            rows = functools.cache(functools.partial(self.read, layer))
            for question in self.questions:
                name = self.name(question)
                if (layer, name) in answered:
                    continue
                make = functools.partial(self._score, question, layer, rows)
                scores = part_of(problem, f"layer {layer}: {name}", self.n_steps(question), make)
                answered |= {(score.layer, name) for score in scores}
                yield from scores
        if self.sum_steps:
            problem.progress.note("weighted sum of layers")
            yield from part_of(problem, f"layer {WEIGHTED}", self.sum_steps, self.score_sum)

    def _score(self, question: Q, layer: str, rows: Callable[[], R]) -> Iterable[Score]:
        return self.score(question, layer, rows())


def draw_seeds(seed: int) -> list[int]:
    """The seed of each draw of a control's labels; that of the first one is ``seed``."""
    return [seed + 1_000_003 * number for number in range(DRAWS)]


def mean_of_draws(draws: Sequence[Sequence[Score]]) -> Iterator[Score]:
    """The scores of a control whose labels were drawn several times: their counts are those of all
    draws together, so that the value is the mean, and ``n`` counts every draw.

    Trials, and a mean average precision, are ranks within one draw: of these the first one is kept.

    Args:
        draws: the same scores in the same order for each draw.
    """
    for of_draws in zip(*draws, strict=True):
        first = of_draws[0]
        counts = [dict(score.counts) for score in of_draws if score.counts is not None]
        if len(counts) < max(2, len(of_draws)) or form_of(counts[0]) in ("trials", "influences"):
            yield first
            continue
        note = "; ".join(filter(None, [first.note, f"mean of {len(counts)} draws"]))
        n = sum(score.n for score in of_draws)
        yield replace(first, counts=pooled_counts(counts), n=n, note=note)


def budgets(
    task: Task[Any],
    problem: Problem,
    features: Features,
    utterances: Sequence[Utterance],
    labels: Sequence[str],
    lacks: Callable[[list[int]], str],
) -> Iterator[tuple[str, list[int]]]:
    """Each budget of the task with the positions of the training utterances that it pays for; one
    that is no question is logged and left out.

    Args:
        labels: one for each utterance, for budgets per label.
        lacks: says why some utterances are too few, or nothing.
    """
    keys = [item.key for item in utterances]
    durations_s = [features.of(item).duration_s for item in utterances]
    for budget in task.settings.budgets:
        chosen = within_budget(budget, keys, labels, durations_s, problem.seed)
        if chosen is None:
            text = "%s: the budget %s is skipped, because the training rows are no more than that"
            log.info(text, task.name, budget)
        elif reason := lacks(chosen):
            text = "%s: the budget %s is skipped, because it pays for %s"
            log.warning(text, task.name, budget, reason)
        else:
            yield budget, chosen
