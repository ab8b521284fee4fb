"""Kind ``classify``: one label per utterance from pooled features, by multinomial logistic
regression on every layer.

Metric: accuracy, correct / utterances (higher is better). The strength of the l2 penalty is the one
with the best dev accuracy; among equals the one with the lowest dev cross-entropy. SUPERB's SID
differs in training: one learned sum of layers, SGD on crops.

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
  lowest dev cross-entropy; dev labels are given, not sent;
* budgets: the same with some of the training labels (`probe.data.label_budgets`); dev and
  test stay whole.
"""

import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from probe.data.corpus import Utterance
from probe.data.intervals import LabelledInterval
from probe.data.label_budgets import Budget, in_drawn_order
from probe.data.time_labels.files import TIER
from probe.errors import ProbeError, listed
from probe.evaluation.dataset import (
    Features,
    Problem,
    Score,
    block_of,
    labelled,
    layer_sum,
    refuse_empty,
    shuffled,
)
from probe.evaluation.kind import (
    AtLeastOne,
    Kind,
    Main,
    ProjectedSettings,
    Rate,
    Several,
    TimeLabelSettings,
)
from probe.evaluation.linear_search import Chosen, best_of, on_dev, search_strengths
from probe.evaluation.questions import Answers, budgets
from probe.evaluation.tasks import Task
from probe.heads.linear.codelength import FRACTIONS, online_code
from probe.heads.linear.rows import Standardizer
from probe.heads.linear.weighted_sum import MOST_STEPS, fit_weighted
from probe.measures.counts import amount_counts, ratio_counts
from probe.measures.metrics import ACCURACY, CODELENGTH
from probe.records import NO_LAYER
from probe.store.views import row_width

log = logging.getLogger("probe")

LONGEST_SHOWN = 40
MOST_NUMBERS = 20  # whole numbers that are names of classes, such as digits or grades
BINS = (
    "No kind predicts numbers yet: put them into a few bins, such as low, middle and high, in "
    "another column, and name that one."
)
METRIC: dict[str, Any] = {
    "metric": ACCURACY.name,
    "higher_is_better": True,
    "select_by": ACCURACY.name,
    "head": "linear",
}
CODE: dict[str, Any] = {**METRIC, "metric": CODELENGTH.name, "higher_is_better": False}


class Settings(TimeLabelSettings, ProjectedSettings):
    """See tasks/README.md."""

    label: str = "speaker"
    view: Literal["mean", "meanstd", "interval"] = Field("meanstd", validate_default=True)
    l2: AtLeastOne[Rate] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    standardize: bool = True
    weighted: bool = True
    controls: Several[Literal["majority", "shuffled"]] = ("majority", "shuffled")
    online_code: bool = False
    budgets: Several[Budget] = ()

    UNHASHED: ClassVar = {**ProjectedSettings.UNHASHED, "labels": "", "tier": TIER, "ignore": ("",)}

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


@dataclass(frozen=True)
class Rows:
    """The utterances of a task in one line: training, dev, and each test set, with their labels.

    Attributes:
        train, dev: where they stand in ``utterances``; ``tests``: name -> where.
        impossible: test set -> why it cannot be scored.
    """

    utterances: list[Utterance]
    labels: list[str]
    train: slice
    dev: slice
    tests: dict[str, slice]
    impossible: dict[str, str]
    excluded: dict[str, int]


@dataclass(frozen=True)
class Question:
    """Labels to learn, and which training rows may be learnt from.

    Attributes:
        labels: of all rows.
        chosen: positions of training rows; all where None.
        sends_labels: whether the question is what the training labels cost as a code.
    """

    labels: Sequence[str]
    control: str = ""
    budget: str = ""
    chosen: list[int] | None = None
    sends_labels: bool = False

    @property
    def name(self) -> str:
        """Different for each question."""
        return f"{self.control} {self.budget}{'code' * self.sends_labels}"


def run(task: Task[Settings], problem: Problem, features: Features) -> Iterator[Score]:
    """Scores of every layer on dev and on each test set.

    Raises:
        ProbeError: one class only, no rows in a split, or classes in dev or test that training does
            not have.
    """
    settings = task.settings
    rows = _rows(task, problem)
    if "majority" in settings.controls:
        yield from _majority(rows)
    questions = _questions(task, problem, features, rows)
    if settings.online_code:
        questions.append(Question(rows.labels, sends_labels=True))
    n_strengths = len(settings.l2)

    def score(question: Question, layer: str, values: np.ndarray) -> Iterator[Score]:
        if question.sends_labels:
            yield _codelength(task, problem, rows, values, layer)
            return
        chosen = _search(task, problem, rows, question, values, settings.standardize)
        common = _common(rows, question) | _of_probe(chosen.search, chosen.probe)
        predicted = chosen.probe.predict(values)
        yield from _scores(common | {"layer": layer}, rows, question, predicted)
        problem.progress.step(n_strengths)

    answers = Answers(
        questions,
        name=lambda question: question.name,
        n_steps=lambda one: n_strengths * (len(FRACTIONS) - 1 if one.sends_labels else 1),
        read=lambda layer: features.read(layer, rows.utterances).values.astype(np.float64),
        score=score,
        sum_steps=n_strengths * MOST_STEPS if settings.weighted and settings.standardize else 0,
        score_sum=lambda: _weighted(task, problem, features, rows),
    )
    yield from answers.scores(problem, features.layers)


def check(task: Task[Settings], problem: Problem) -> None:
    """Refuses what `run` would refuse, without features.

    Raises:
        ProbeError: see `run`.
    """
    _rows(task, problem)


def _rows(task: Task[Settings], problem: Problem) -> Rows:
    """What is trained on and scored.

    Raises:
        ProbeError: see `run`.
    """
    column = task.settings.label
    for name in filter(None, (column, task.settings.types)):
        if name not in problem.columns:
            raise ProbeError(
                f"{task.name}: the manifest has no column {name!r} that can be a label; it has "
                f"{', '.join(problem.columns)}."
            )
    excluded: Counter[str] = Counter()
    train, dev = (labelled(part, column, excluded) for part in (problem.train, problem.dev))
    tests = {
        name: labelled(problem.tests[name], column, tally)
        for name, tally in problem.tallies(excluded).items()
    }
    refuse_empty(task.name, column, {"train": (problem.train, train), "dev": (problem.dev, dev)})
    classes = sorted({item.label(column) for item in train})
    if len(classes) < 2:
        raise ProbeError(
            f"{task.name}: all training rows have {column} {classes[0]!r}; expected two classes "
            "or more."
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
    all_parts = [train, dev, *tests.values()]
    ends = np.cumsum([0, *map(len, all_parts)]).tolist()
    places = [slice(start, stop) for start, stop in itertools.pairwise(ends)]
    utterances = [item for part in all_parts for item in part]
    labels = [item.label(column) for item in utterances]
    return Rows(
        utterances,
        labels,
        places[0],
        places[1],
        dict(zip(tests, places[2:], strict=True)),
        impossible,
        dict(excluded),
    )


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


def _questions(
    task: Task[Settings], problem: Problem, features: Features, rows: Rows
) -> list[Question]:
    """The task itself, its controls, its budgets."""
    questions = [Question(rows.labels)]
    train = rows.utterances[rows.train]
    labels = rows.labels[rows.train]
    if "shuffled" in task.settings.controls:
        dev = shuffled(rows.labels[rows.dev], problem.seed)
        rest = rows.labels[rows.dev.stop :]
        questions.append(
            Question([*shuffled(labels, problem.seed), *dev, *rest], control="shuffled")
        )
    if column := task.settings.types:
        types = [item.label(column) for item in rows.utterances]
        drawn = drawn_labels(types, labels, problem.seed)
        if len(set(drawn[rows.train])) > 1:
            questions.append(Question(drawn, control="types"))
        else:
            log.warning(
                "%s: control types: all types drew one label; it needs more of them, or another "
                "seed",
                task.name,
            )
    paid = budgets(
        *(task, problem, features, train, labels),
        lacks=lambda chosen: (
            "fewer than two classes" if len({labels[i] for i in chosen}) < 2 else ""
        ),
    )
    questions += [Question(rows.labels, budget=budget, chosen=chosen) for budget, chosen in paid]
    return questions


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


def _search(
    task: Task[Settings],
    problem: Problem,
    rows: Rows,
    question: Question,
    values: np.ndarray,
    standardize: bool,
) -> Chosen:
    """The probe of one question that dev picks, from (row, dim) of all rows."""
    train, labels = values[rows.train], question.labels[rows.train]
    if question.chosen is not None:
        train, labels = train[question.chosen], [labels[i] for i in question.chosen]
    return search_strengths(
        train,
        labels,
        values[rows.dev],
        question.labels[rows.dev],
        task.settings.l2,
        standardize,
        problem.device,
        lambda: problem.progress.step(0),
    )


def _common(rows: Rows, question: Question) -> dict[str, Any]:
    """What all scores of a question share."""
    n_train = len(rows.labels[rows.train]) if question.chosen is None else len(question.chosen)
    return {
        **METRIC,
        "control": question.control,
        "budget": question.budget,
        "n_train": n_train,
        "excluded": rows.excluded,
    }


def _of_probe(search: list[dict[str, Any]], probe: Any) -> dict[str, Any]:
    return {"search": search, "chosen": {"l2": probe.l2}}


def _scores(
    common: dict[str, Any], rows: Rows, question: Question, predicted: Any
) -> Iterator[Score]:
    """On dev and on each test set, from the predictions for all rows."""
    yield _score(common | {"split": "dev"}, rows, question, rows.dev, predicted)
    for name, place in rows.tests.items():
        about = common | {"split": "test", "test_domain": name}
        if name in rows.impossible:
            yield Score(
                **{**about, "note": rows.impossible[name]}, counts=None, n=place.stop - place.start
            )
        else:
            yield _score(about, rows, question, place, predicted)


def _score(
    about: dict[str, Any], rows: Rows, question: Question, place: slice, predicted: Sequence[str]
) -> Score:
    utterances, labels, guesses = (
        rows.utterances[place],
        question.labels[place],
        [str(guess) for guess in predicted[place]],
    )
    correct = [int(label == guess) for label, guess in zip(labels, guesses, strict=True)]
    outcomes = [
        {"key": item.key, "label": label, "predicted": guess}
        for item, label, guess in zip(utterances, labels, guesses, strict=True)
    ]
    counts = ratio_counts([block_of(item) for item in utterances], correct, [1] * len(correct))
    return Score(**about, counts=counts, n=len(correct), outcomes=outcomes)


def _majority(rows: Rows) -> Iterator[Score]:
    """What always saying the most frequent training label gives; the first in order among equally
    frequent ones.
    """
    frequency = Counter(sorted(rows.labels[rows.train]))
    question = Question(rows.labels, control="majority")
    predicted = [frequency.most_common(1)[0][0]] * len(rows.labels)
    yield from _scores(_common(rows, question) | {"layer": NO_LAYER}, rows, question, predicted)


def _codelength(
    task: Task[Settings], problem: Problem, rows: Rows, values: np.ndarray, layer: str
) -> Score:
    """What the training labels cost, sent in drawn order."""
    train = rows.utterances[rows.train]
    order = np.array(in_drawn_order([item.key for item in train], problem.seed))
    labels = [rows.labels[rows.train][i] for i in order]
    if task.settings.standardize:
        scaler = Standardizer.of(values[rows.train])
        values = (values - scaler.mean) / scaler.scale  # in float64, as they are

    def learn(known: np.ndarray, sent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        question = Question(rows.labels, chosen=order[known].tolist())
        probe = _search(task, problem, rows, question, values, standardize=False).for_codes()
        problem.progress.step(len(task.settings.l2))
        return probe.classes_, probe.predict_log_proba(values[rows.train][order[sent]])

    portions = online_code(labels, learn)
    bits = np.concatenate([portion.bits for portion in portions])
    curve = [
        {"n_train": portion.n_train, "n": len(portion.bits), "bits": float(portion.bits.sum())}
        for portion in portions
    ]
    n_classes = len(set(labels))
    return Score(
        **CODE,
        layer=layer,
        split="train",
        counts=amount_counts([block_of(train[i]) for i in order], bits),
        n=len(bits),
        n_train=len(bits),
        curve=curve,
        excluded=rows.excluded,
        note=f"{n_classes} classes: {np.log2(n_classes):.2f} bits by the uniform code",
    )


def _weighted(
    task: Task[Settings], problem: Problem, features: Features, rows: Rows
) -> Iterator[Score]:
    """Scores of a learned sum of layers of one width; none where there is no such sum."""
    widths = {
        layer: features.fitting.width or row_width(features.store.layers[layer], features.view)
        for layer in features.layers
    }
    n_rows = len(rows.utterances)
    summed = layer_sum(task.name, features, widths, n_rows, problem.memory_bytes)
    if summed is None:
        return
    question = Question(rows.labels)
    of_sum = [features.read(layer, rows.utterances).values for layer in summed.layers]
    train = [values[rows.train] for values in of_sum]
    probes = fit_weighted(
        train, rows.labels[rows.train], task.settings.l2, problem.device, problem.progress.step
    )
    dev = [values[rows.dev] for values in of_sum]
    search = [on_dev(probe, dev, rows.labels[rows.dev]) for probe in probes]
    best = probes[best_of(search)]
    common = _common(rows, question) | summed.fields(best.shares) | _of_probe(search, best)
    yield from _scores(common, rows, question, best.predict(of_sum))


KIND = Kind(
    "classify",
    Settings,
    run,
    check,
    lambda _: Main("linear", ACCURACY.name, ACCURACY.name, higher_is_better=True),
    metrics=(ACCURACY.name, CODELENGTH.name),
    by_domain=True,
)
