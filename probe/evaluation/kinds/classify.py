"""Kind ``classify``: one label per utterance from pooled features, by multinomial logistic
regression on every layer.

Metric: accuracy, correct / utterances (higher is better), unless ``metric`` names another one:
``uar`` (unweighted average recall, or balanced accuracy), ``macro_f1`` or, of two classes, ``auc``
or ``eer`` (lower is better). Then all of them stand beside it; the second class in the order of
names is the positive one, and its log odds are the scores. The strength of the l2 penalty is picked
on dev, see `probe.evaluation.linear_search`.
SUPERB's SID differs in training: one learned sum of layers, SGD on crops.

``class_weight = "balanced"`` gives every class the same weight in training, as in scikit-learn:
rows / (classes * rows of the class); codelengths are of unweighted probes.

Beside every layer:

* layer ``weighted``: a learned sum of all layers of one width (`probe.heads.linear.weighted_sum`);
* controls: ``majority``, always the most frequent training label; ``shuffled``, trained on shuffled
  labels; ``types``, a label drawn at random for each type (each value of the column ``types``) from
  the training labels, the same in every split. A probe that does as well on ``types`` as on the
  task has learnt the types by heart, and accuracy less this is its selectivity (Hewitt & Liang
  2019);
* ``codelength``: bits per training label of an online code (`probe.heads.linear.codelength`), lower
  is better. Both sides know the features, so rows are standardised with the statistics of all
  training rows, whatever portion a probe is trained on. Each portion's strength is the one with the
  lowest dev cross-entropy; dev labels are given, not sent (`probe.evaluation.kinds.label_code`);
* budgets: the same with some of the training labels (`probe.data.label_budgets`); dev and
  test stay whole.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from probe.brief import counted
from probe.data.label_budgets import Budget
from probe.data.time_labels.files import TIER
from probe.errors import listed
from probe.evaluation.dataset import Features, Problem, Score
from probe.evaluation.kind import (
    AtLeastOne,
    Kind,
    Main,
    ProjectedSettings,
    Rate,
    Several,
    TimeLabelSettings,
)
from probe.evaluation.kinds.class_rows import OF_CLASSES, OF_TWO_CLASSES, ClassRows, class_rows
from probe.evaluation.kinds.label_code import codelength
from probe.evaluation.linear_search import STRENGTHS, log_odds, on_dev
from probe.evaluation.questions import draw_seeds
from probe.evaluation.tasks import Task
from probe.evaluation.utterance_probes import Question, UtteranceProbes
from probe.heads.linear.codelength import FRACTIONS
from probe.heads.linear.linear_probe import Solving, fit_strengths
from probe.heads.linear.weighted_sum import logistic_head
from probe.measures.block_sums import class_counts
from probe.measures.counts import Counts, ratio_counts, trial_counts
from probe.measures.metrics import ACCURACY, CODELENGTH, metric_of
from probe.records import NO_LAYER, hashed_block

log = logging.getLogger("probe")

HEAD = "linear"


class Settings(TimeLabelSettings, ProjectedSettings):
    """See docs/task-keys.md."""

    label: str = "speaker"
    view: Literal["mean", "meanstd", "interval"] = Field("meanstd", validate_default=True)
    l2: AtLeastOne[Rate] = STRENGTHS
    metric: Literal["accuracy", "uar", "macro_f1", "auc", "eer"] = "accuracy"
    class_weight: Literal["none", "balanced"] = "none"
    standardize: bool = True
    weighted: bool = True
    controls: Several[Literal["majority", "shuffled"]] = ("majority", "shuffled")
    online_code: bool = False
    budgets: Several[Budget] = ()

    UNHASHED: ClassVar[dict[str, object]] = {
        **ProjectedSettings.UNHASHED,
        "labels": "",
        "tier": TIER,
        "ignore": ("",),
        "metric": "accuracy",
        "class_weight": "none",
    }

    @field_validator("label", mode="before")
    @classmethod
    def _is_one_column(cls, label: object) -> object:
        if isinstance(label, list):
            raise ValueError("one column; kind tag learns several labels of one utterance")
        return label

    @field_validator("view")
    @classmethod
    def _of_intervals(cls, view: str, info: ValidationInfo) -> str:
        usual = {name: cls.UNHASHED[name] for name in ("labels", "tier", "ignore")}
        if view != "interval" and any(
            info.data.get(name, usual[name]) != usual[name] for name in usual
        ):
            raise ValueError("'interval' with labels over time (labels, tier, ignore)")
        return view

    @property
    def needs(self) -> frozenset[str]:
        """See `probe.evaluation.kind.Settings`."""
        return frozenset({"labels"} if self.view == "interval" else ())

    @property
    def predicted_column(self) -> str:
        """See `probe.evaluation.kind.Settings`."""
        return self.label


class Code(Question):
    """What the training labels cost as a code."""

    @property
    def name(self) -> str:
        """See `Question`."""
        return "code"


def run(task: Task[Settings], problem: Problem, features: Features) -> Iterator[Score]:
    """Scores of every layer on dev and on each test set.

    Raises:
        ProbeError: one class only, no rows in a split, or classes in dev or test that training does
            not have.
    """
    settings = task.settings
    rows = class_rows(task, problem)
    labels, n_strengths = rows.labels, len(settings.l2)
    solving = Solving(device=problem.device, class_weight=settings.class_weight)
    probes = UtteranceProbes(
        task=task,
        problem=problem,
        features=features,
        rows=rows,
        head=HEAD,
        metric=settings.metric,
        fit=lambda values, truth, strengths: fit_strengths(
            *(values, truth, strengths, settings.standardize, solving),
            tick=lambda: problem.progress.step(0),
        ),
        sum_head=lambda _: logistic_head(solving),
        on_dev=lambda probe, values, truth: on_dev(probe, values, truth, settings.metric),
        scores=lambda fields, question, probe, values: _scores(
            settings, fields, rows, question, _answer(rows, probe, values)
        ),
        n_steps=n_strengths,
    )
    if "majority" in settings.controls:
        question = Question(labels, control="majority")
        fields = probes.fields(question) | {"layer": NO_LAYER}
        yield from _scores(settings, fields, rows, question, _majority(rows))
    questions = [Question(labels)]
    if "shuffled" in settings.controls:
        questions.append(probes.shuffled(labels))
    questions += _types(task, problem, rows)
    questions += probes.budgets(
        *(labels, lambda some: "fewer than two classes" if len({*some}) < 2 else ""),
        classes=labels[rows.train].tolist(),
    )
    answers = probes.answers(questions)
    if settings.online_code:

        def score(question: Question, layer: str, values: np.ndarray) -> Iterator[Score]:
            if isinstance(question, Code):
                yield codelength(task, problem, rows, values, layer)
            else:
                yield from probes.of_layer(question, layer, values)

        answers = replace(
            answers,
            questions=[*questions, Code(labels)],
            n_steps=lambda one: n_strengths * (len(FRACTIONS) - 1 if isinstance(one, Code) else 1),
            score=score,
        )
    yield from answers.scores(problem, features.layers)


def check(task: Task[Settings], problem: Problem) -> None:
    """Refuses what `run` would refuse, without features.

    Raises:
        ProbeError: see `run`.
    """
    class_rows(task, problem)


def _types(task: Task[Settings], problem: Problem, rows: ClassRows) -> list[Question]:
    """The control of types, if there is one."""
    if not (column := task.settings.types):
        return []
    types = [item.label(column) for item in rows.utterances]
    pool = rows.labels[rows.train].tolist()
    draws = [np.array(drawn_labels(types, pool, seed)) for seed in draw_seeds(problem.seed)]
    draws = [drawn for drawn in draws if len(set(drawn[rows.train])) > 1]
    if draws:
        return [Question(draws[0], control="types", further_draws=draws[1:])]
    log.warning(
        "%s: control types: all types drew one label; it needs more of them, or another seed",
        task.name,
    )
    return []


def drawn_labels(types: Sequence[str], labels: Sequence[str], seed: int) -> list[str]:
    """For each of ``types`` a label drawn from ``labels``: equal types have equal labels, in
    whatever order they come.
    """
    drawn: dict[str, str] = {}
    pool = sorted(labels)
    for name in types:
        if name not in drawn:
            generator = np.random.default_rng([seed, *name.encode()])
            drawn[name] = pool[generator.integers(len(pool))]
    return [drawn[name] for name in types]


@dataclass(frozen=True)
class Answer:
    """What a probe says of all rows.

    Attributes:
        predicted: (row,) labels.
        scores: (row,) of two classes the log odds of the second; None of more classes.
    """

    predicted: Sequence[str]
    scores: np.ndarray | None


def _answer(rows: ClassRows, probe: Any, values: Any) -> Answer:
    predicted = [str(guess) for guess in probe.predict(values)]
    return Answer(predicted, log_odds(probe, values) if len(rows.classes) == 2 else None)


def _metrics(settings: Settings, rows: ClassRows) -> list[str]:
    """The metrics that are recorded, the one that chooses first."""
    if settings.metric == ACCURACY.name:
        return [ACCURACY.name]
    names = OF_CLASSES + (OF_TWO_CLASSES if len(rows.classes) == 2 else ())
    return sorted(names, key=lambda name: name != settings.metric)


def _scores(
    settings: Settings, common: dict[str, Any], rows: ClassRows, question: Question, answer: Answer
) -> Iterator[Score]:
    """On dev and on each test set, from the answers for all rows."""
    for split, test, place in rows.scored:
        why = rows.impossible.get(test, "") if split == "test" else ""
        is_real = question.control in ("", "majority")
        unseen = _unseen(settings, rows, place) if is_real else ""
        note = "; ".join(filter(None, [common.get("note", ""), unseen]))
        for metric in _metrics(settings, rows):
            about = common | {
                "split": split,
                "test_domain": test,
                "metric": metric,
                "higher_is_better": metric_of(metric).higher_is_better,
                "note": note,
            }
            if why:
                n = place.stop - place.start
                yield Score(**{**about, "note": why}, counts=None, n=n)
            else:
                yield _score(settings, about, rows, question, place, answer)


def _unseen(settings: Settings, rows: ClassRows, place: slice) -> str:
    """A note on labels that training does not have, which only intervals may have."""
    unseen = [label for label in rows.labels[place].tolist() if label not in rows.trained]
    names = sorted({hashed_block(name) if settings.label == "speaker" else name for name in unseen})
    return (
        f"{counted(len(unseen), 'interval')} with labels that training does not have: "
        f"{listed([repr(name) for name in names])}"
        if unseen
        else ""
    )


def _score(
    settings: Settings,
    about: dict[str, Any],
    rows: ClassRows,
    question: Question,
    place: slice,
    answer: Answer,
) -> Score:
    labels, guesses = question.labels[place].tolist(), answer.predicted[place]
    outcomes: list[dict[str, Any]] = []
    if about["metric"] == settings.metric:
        outcomes = [
            {"key": item.key, "label": label, "predicted": guess}
            for item, label, guess in zip(rows.utterances[place], labels, guesses, strict=True)
        ]
    counts = _counts(settings, about["metric"], rows, question, place, answer)
    if counts is None:
        both = " and ".join(rows.classes)
        about = {**about, "note": f"no utterances of both {both}: it is undefined"}
    return Score(**about, counts=counts, n=len(labels), outcomes=outcomes)


def _counts(
    settings: Settings,
    metric: str,
    rows: ClassRows,
    question: Question,
    place: slice,
    answer: Answer,
) -> Counts | None:
    """The counts of a metric; None where it is undefined."""
    blocks, guesses = rows.blocks[place], answer.predicted[place]
    labels = question.labels[place].tolist()
    if metric == ACCURACY.name:
        correct = [int(label == guess) for label, guess in zip(labels, guesses, strict=True)]
        return ratio_counts(blocks, correct, [1] * len(correct))
    if metric in OF_TWO_CLASSES:
        target = [int(label == rows.classes[1]) for label in labels]
        assert answer.scores is not None, "scores of two classes"
        counts = trial_counts(blocks, blocks, target, answer.scores[place])
        return counts if 0 < sum(target) < len(target) else None
    # Words and phones of intervals are an open set, so test may have others.
    counts = class_counts(blocks, labels, guesses, rows.known)
    if settings.label == "speaker":  # records name nobody
        counts["class"] = [hashed_block(name) for name in counts["class"]]
    return counts


def _majority(rows: ClassRows) -> Answer:
    """The most frequent training label, always; the first in order among equally frequent ones."""
    frequency = Counter(sorted(rows.labels[rows.train].tolist()))
    predicted = [frequency.most_common(1)[0][0]] * len(rows.labels)
    return Answer(predicted, np.zeros(len(predicted)))


KIND = Kind(
    "classify",
    Settings,
    run,
    check,
    lambda settings: Main(
        HEAD, settings.metric, settings.metric, metric_of(settings.metric).higher_is_better
    ),
    metrics=(*OF_CLASSES, *OF_TWO_CLASSES, CODELENGTH.name),
    by_domain=True,
)
