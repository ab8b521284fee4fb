"""Probes of tasks that predict something of each utterance from one vector: on every layer, on the
learned sum of layers, and for controls and budgets.

A kind says how its probes are trained, what one strength of their penalty is worth on dev, and what
is scored. Here dev picks the strength, and the questions are made and asked.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from probe.evaluation.dataset import Features, Problem, Score, layer_sum, shuffled
from probe.evaluation.labelled_rows import LabelledRows
from probe.evaluation.linear_search import CROSS_ENTROPY, best_of, choice_of
from probe.evaluation.questions import Answers, budgets, draw_seeds, mean_of_draws
from probe.evaluation.tasks import Task
from probe.heads.linear.weighted_sum import MOST_STEPS, Head, fit_weighted
from probe.store.views import row_width


@dataclass(frozen=True)
class Question:
    """Labels to learn, and which training rows may be learnt from.

    Attributes:
        labels: (row,) or (row, class) of all rows.
        chosen: positions of training rows; all where None.
        further_draws: of a control, the labels of its other draws.
    """

    labels: np.ndarray
    control: str = ""
    budget: str = ""
    chosen: list[int] | None = None
    further_draws: Sequence[np.ndarray] = ()

    @property
    def name(self) -> str:
        """Different for each question."""
        return f"{self.control} {self.budget}"

    def training(self, rows: LabelledRows, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What may be learnt from of the (row, dim) values of all rows, and its labels."""
        train, labels = values[rows.train], self.labels[rows.train]
        return (train, labels) if self.chosen is None else (train[self.chosen], labels[self.chosen])


@dataclass(frozen=True, kw_only=True)
class UtteranceProbes:
    """How a kind trains, chooses and scores its probes.

    A probe has ``l2``, the strength of its penalty.

    Attributes:
        task: its settings have ``l2``, ``standardize``, ``weighted`` and ``budgets``.
        rows: what is trained on and scored.
        head: the name of the probes in records.
        metric: the one that selects.
        loss: the key of the search that decides, see `probe.evaluation.linear_search`.
        fit: (row, dim) training rows, their labels and strengths -> a probe for each strength.
        sum_head: training labels -> what is trained on a learned sum of layers.
        on_dev: a probe, its rows of dev and their labels -> its entry of the search, and the (row,)
            losses of dev.
        scores: the fields that all scores of a question share, the question, its probe and what the
            probe reads of all rows -> the scores.
        n_steps: that one question takes on one layer, see `probe.evaluation.progress`.
    """

    task: Task[Any]
    problem: Problem
    features: Features
    rows: LabelledRows
    head: str
    metric: str
    loss: str = CROSS_ENTROPY
    fit: Callable[[np.ndarray, np.ndarray, Sequence[float]], Sequence[Any]]
    sum_head: Callable[[np.ndarray], Head]
    on_dev: Callable[[Any, Any, np.ndarray], tuple[dict[str, Any], np.ndarray]]
    scores: Callable[[dict[str, Any], Question, Any, Any], Iterator[Score]]
    n_steps: int = 1

    def answers(self, questions: Sequence[Question]) -> Answers[Question, np.ndarray]:
        """The questions, to be asked of every layer, and the first one of the learned sum."""
        settings = self.task.settings
        has_sum = settings.weighted and settings.standardize
        return Answers(
            questions,
            name=lambda question: question.name,
            n_steps=lambda _: self.n_steps,
            read=lambda layer: self.features.read(layer, self.rows.utterances).values.astype(
                np.float64
            ),
            score=self.of_layer,
            sum_steps=len(settings.l2) * MOST_STEPS if has_sum else 0,
            score_sum=lambda: self.of_sum(questions[0]),
        )

    def of_layer(self, question: Question, layer: str, values: np.ndarray) -> Iterator[Score]:
        """The scores of a question on one layer, from (row, dim) of all rows. The strength of
        further draws is that of the first one.
        """
        settings = self.task.settings
        probes = self.fit(*question.training(self.rows, values), settings.l2)
        best, search = self._choice(question, probes, values[self.rows.dev])
        fields = self.fields(question) | {"layer": layer, **search}
        draws = [[*self.scores(fields, question, best, values)]]
        for labels in question.further_draws:
            other = replace(question, labels=labels)
            (probe,) = self.fit(*other.training(self.rows, values), [best.l2])
            draws.append([*self.scores(fields, other, probe, values)])
        yield from mean_of_draws(draws)
        self.problem.progress.step(self.n_steps)

    def of_sum(self, question: Question) -> Iterator[Score]:
        """The scores of a learned sum of layers of one width; none where there is no such sum."""
        features, rows = self.features, self.rows
        widths = {
            layer: features.fitting.width or row_width(features.store.layers[layer], features.view)
            for layer in features.layers
        }
        task, n_rows = self.task, len(rows.utterances)
        summed = layer_sum(task.name, features, widths, n_rows, self.problem.memory_bytes)
        if summed is None:
            return
        of_sum = [features.read(layer, rows.utterances).values for layer in summed.layers]
        train, dev = ([values[place] for values in of_sum] for place in (rows.train, rows.dev))
        labels, tick = question.labels[rows.train], self.problem.progress.step
        probes = fit_weighted(train, labels, task.settings.l2, self.sum_head(labels), tick)
        best, search = self._choice(question, probes, dev)
        about = summed.fields(best.shares) | search
        yield from self.scores(self.fields(question) | about, question, best, of_sum)

    def _choice(
        self, question: Question, probes: Sequence[Any], dev: Any
    ) -> tuple[Any, dict[str, Any]]:
        """The probe that dev picks, and what records say of the search."""
        labels = question.labels[self.rows.dev]
        search, losses = zip(*(self.on_dev(probe, dev, labels) for probe in probes), strict=True)
        best = best_of(search, self.metric, self.loss)
        return probes[best], choice_of(search, losses, best, loss=self.loss)

    def fields(self, question: Question) -> dict[str, Any]:
        """What all scores of a question share."""
        n_train = self.rows.train.stop if question.chosen is None else len(question.chosen)
        return {
            "head": self.head,
            "select_by": self.metric,
            "control": question.control,
            "budget": question.budget,
            "n_train": n_train,
            "excluded": self.rows.excluded,
        }

    def shuffled(self, labels: np.ndarray) -> Question:
        """The control whose labels of training and of dev are in a random order."""
        draws = []
        for seed in draw_seeds(self.problem.seed):
            mixed = labels.copy()
            for place in (self.rows.train, self.rows.dev):
                mixed[place] = shuffled(labels[place].tolist(), seed)
            draws.append(mixed)
        return Question(draws[0], control="shuffled", further_draws=draws[1:])

    def budgets(
        self, labels: np.ndarray, lacks: Callable[[np.ndarray], str], classes: Sequence[str] = ()
    ) -> Iterator[Question]:
        """The task with each of its budgets of training labels.

        Args:
            lacks: says why some labels are too few to learn from, or nothing.
            classes: (training row,) for budgets per class.
        """
        train, utterances = labels[self.rows.train], self.rows.utterances[self.rows.train]
        paid = budgets(
            *(self.task, self.problem, self.features, utterances),
            classes or [""] * len(utterances),
            lacks=lambda chosen: lacks(train[chosen]),
        )
        for budget, chosen in paid:
            yield Question(labels, budget=budget, chosen=chosen)
