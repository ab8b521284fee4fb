"""Kind ``regress``: one number per utterance (age, arousal, a rating, mean pitch) from pooled
features, by ridge regression on every layer.

Metric: ``ccc``, Lin's concordance (higher is better), or the one that ``metric`` names; Pearson's
and Spearman's correlation, R2 and the mean absolute error in the label's unit stand beside it
(`probe.measures.block_sums`). The strength of the l2 penalty is the one with the best dev value of
the metric; among equals the one with the lowest dev mean squared error. All strengths come from one
decomposition (`probe.heads.linear.ridge`).

Beside every layer:

* layer ``weighted``: a learned sum of all layers of one width (`probe.heads.linear.weighted_sum`);
* controls: ``mean``, always the mean of the training labels, for which correlations are undefined;
  ``shuffled``, trained on shuffled labels;
* budgets: the same with some of the training labels (`probe.data.label_budgets`); dev and
  test stay whole.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from probe.data.label_budgets import UtteranceBudget
from probe.errors import ProbeError, refuse_problems
from probe.evaluation.dataset import Features, Problem, Score, lacking
from probe.evaluation.kind import AtLeastOne, Kind, Main, ProjectedSettings, Rate, Several
from probe.evaluation.labelled_rows import LabelledRows, cell_of, labelled_rows
from probe.evaluation.linear_search import STRENGTHS
from probe.evaluation.tasks import Task
from probe.evaluation.utterance_probes import Question, UtteranceProbes
from probe.heads.linear.ridge import fit_ridge_strengths
from probe.heads.linear.weighted_sum import ridge_head
from probe.measures.block_sums import moment_counts
from probe.measures.counts import Counts, amount_counts, value_of
from probe.measures.metrics import CCC, MAE, PEARSON, R2, SPEARMAN, metric_of
from probe.records import NO_LAYER

Floats = NDArray[np.float64]
METRICS = (CCC.name, PEARSON.name, SPEARMAN.name, MAE.name, R2.name)
ALL_EQUAL = "all predictions, or all true values, are equal: it is undefined"
HEAD = "ridge"
MEAN_SQUARED_ERROR = "dev_mean_squared_error"
MOST_OFFSET = 100_000  # beyond it the sums of squares lose the digits of the spread


class Settings(ProjectedSettings):
    """See docs/task-keys.md."""

    label: str = "age"
    view: Literal["mean", "meanstd"] = "meanstd"
    metric: Literal["ccc", "pearson", "spearman", "mae", "r2"] = "ccc"
    l2: AtLeastOne[Rate] = (*STRENGTHS, 100.0, 1000.0)
    standardize: bool = True
    weighted: bool = True
    controls: Several[Literal["mean", "shuffled"]] = ("mean", "shuffled")
    budgets: Several[UtteranceBudget] = ()

    @property
    def predicted_column(self) -> str:
        """See `probe.evaluation.kind.Settings`."""
        return self.label


def run(task: Task[Settings], problem: Problem, features: Features) -> Iterator[Score]:
    """Scores of every layer on dev and on each test set.

    Raises:
        ProbeError: a label that is no number, labels of training or dev that are all equal, or no
            rows in a split.
    """
    settings = task.settings
    rows, labels = _rows(task, problem)
    probes = UtteranceProbes(
        task=task,
        problem=problem,
        features=features,
        rows=rows,
        head=HEAD,
        metric=settings.metric,
        loss=MEAN_SQUARED_ERROR,
        fit=lambda values, truth, strengths: fit_ridge_strengths(
            *(values, truth, strengths, settings.standardize), lambda: problem.progress.step(0)
        ),
        sum_head=ridge_head,
        on_dev=lambda probe, values, truth: on_dev(
            settings.metric, probe.l2, truth, probe.predict(values)
        ),
        scores=lambda fields, question, probe, values: _scores(
            settings, fields, rows, question, probe.predict(values)
        ),
    )
    if "mean" in settings.controls:
        question = Question(labels, control="mean")
        predicted = np.full(len(labels), labels[rows.train].mean())
        fields = probes.fields(question) | {"layer": NO_LAYER}
        yield from _scores(settings, fields, rows, question, predicted)
    questions = [Question(labels)]
    if "shuffled" in settings.controls:
        questions.append(probes.shuffled(labels))
    questions += probes.budgets(
        labels, lambda some: "labels that are all equal" if np.ptp(some) == 0 else ""
    )
    yield from probes.answers(questions).scores(problem, features.layers)


def check(task: Task[Settings], problem: Problem) -> None:
    """Refuses what `run` would refuse, without features.

    Raises:
        ProbeError: see `run`.
    """
    _rows(task, problem)


def on_dev(
    metric: str, l2: float, truth: Floats, predicted: Floats
) -> tuple[dict[str, float | None], Floats]:
    """One strength's entry of the search: the value of the metric, None where it is undefined, and
    the mean squared error; and the (row,) squared errors.
    """
    counts = _counts(metric, ["dev"] * len(truth), truth, predicted)
    value = None if counts is None else value_of(counts, metric)
    errors = np.square(truth - predicted)
    line = {"l2": l2, f"dev_{metric}": value, MEAN_SQUARED_ERROR: float(errors.mean())}
    return line, errors


def _rows(task: Task[Settings], problem: Problem) -> tuple[LabelledRows, Floats]:
    """What is trained on and scored, and its labels, (row,).

    Raises:
        ProbeError: see `run`.
    """
    column = task.settings.label
    rows = labelled_rows(task.name, problem, column)
    wrong = [item for item in rows.utterances if not _is_number(item.label(column))]
    problems = [
        f"{cell_of(item, column)}; expected a number such as 31.5, with a point and without a unit."
        for item in wrong
    ]
    refuse_problems(
        [*dict.fromkeys(problems)],  # of an utterance under several conditions one
        f"{task.name}: some values of {column} are not numbers. Correct them, or leave them empty "
        "where they are unknown. Kind classify predicts names.",
    )
    labels = np.array([float(item.label(column)) for item in rows.utterances])
    for name, place in (("train", rows.train), ("dev", rows.dev)):
        if np.ptp(labels[place]) == 0:
            raise ProbeError(
                f"{task.name}: {column} is {labels[place][0]:g} in all {len(labels[place])} {name} "
                "rows; expected two values or more."
            )
    if abs(labels.mean()) > MOST_OFFSET * labels.std():
        raise ProbeError(
            f"{task.name}: the mean of {column}, {labels.mean():g}, is more than {MOST_OFFSET:,} "
            f"times its spread, {labels.std():g}. Subtract a constant from all values."
        )
    if problem.strict:
        for name, place in rows.tests.items():
            if place.stop == place.start:
                split = " ".join(filter(None, ("test", name)))
                n_rows = len(problem.tests[name])
                raise ProbeError(f"{task.name}: {lacking(split, n_rows, column)}")
    return rows, labels


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _scores(
    settings: Settings,
    common: dict[str, Any],
    rows: LabelledRows,
    question: Question,
    predicted: Floats,
) -> Iterator[Score]:
    """On dev and on each test set, from the predictions for all rows; the main metric comes
    first.
    """
    names = sorted(METRICS, key=lambda name: name != settings.metric)
    for split, test, place in rows.scored:
        truth, guesses = question.labels[place], predicted[place]
        outcomes = [
            {"key": item.key, "true_value": float(true), "predicted_value": float(guess)}
            for item, true, guess in zip(rows.utterances[place], truth, guesses, strict=True)
        ]
        for name in names:
            counts = _counts(name, rows.blocks[place], truth, guesses) if len(truth) else None
            note = f"no rows with {settings.label}" if not len(truth) else ALL_EQUAL
            note = note if counts is None else common.get("note", "")
            yield Score(
                **{**common, "note": note},
                split=split,
                test_domain=test,
                metric=name,
                higher_is_better=metric_of(name).higher_is_better,
                counts=counts,
                n=len(truth),
                outcomes=outcomes if name == settings.metric else (),
            )


def _counts(metric: str, blocks: Sequence[str], truth: Floats, predicted: Floats) -> Counts | None:
    """The counts of a metric; None where it is undefined."""
    if metric == MAE.name:
        return amount_counts(blocks, np.abs(truth - predicted))
    counts = moment_counts(blocks, truth, predicted, ranks=metric == SPEARMAN.name)
    try:
        value_of(counts, metric)
    except ProbeError:
        return None
    return counts


KIND = Kind(
    "regress",
    Settings,
    run,
    check,
    lambda settings: Main(
        HEAD, settings.metric, settings.metric, metric_of(settings.metric).higher_is_better
    ),
    metrics=METRICS,
    by_domain=True,
)
