"""Kind ``frames``: a label for every frame, by multinomial logistic regression on every layer.

Labels are intervals of time (`probe.data.intervals`), or derived from speaker turns
(`probe.data.time_labels.derived`). The frames that are learnt from and scored
are those of the task's grid, ``grid_ms`` apart, the same for every model: frame k of an utterance
stands at (k + 3/4) * ``grid_ms``. Its label is that of the interval in which it lies; frames in
none, or with a label that the task ignores, are left out and counted. A layer answers for a frame
of the grid with that of its own frames whose centre is nearest (the earlier one of two), and with
its last one after its end. So labels and counts depend on the intervals alone, and models of any
hop, field or stride are scored on the same frames. At 20 ms the grid has frames at 15, 35, 55 ms
...: the families whose frames are centred at 12.5 + 20 i ms, at 12.5 + 10 i ms and at 20 i ms all
have one within 5 ms, and none of them has two that are equally near.

Metric: accuracy, correct frames / frames (higher is better), per speaker; of derived labels, which
are two, ``uar`` on request, the mean of their recalls, with accuracy beside it. ``class_weight =
"balanced"`` gives both labels the same weight in training. Labels that training does
not have count as errors. The strength of the l2 penalty is picked on dev, see
`probe.evaluation.linear_search`.

Controls, which say what of an accuracy is not the layer's doing:
    majority  the most frequent training label, always; it stands beside the linear head.
    shuffled  trained and chosen with the labels of the intervals permuted (frames of one interval
              keep one label); derived labels are permuted frame by frame, since their intervals,
              turns and pauses, are of very unequal durations.
    types     a control task (Hewitt & Liang 2019): every type, such as a word, has a label drawn at
              random from the distribution of the training frames, the same in every split. The
              accuracy on the task less this one is the probe's selectivity.
"""

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from probe.data.intervals import Derivation
from probe.data.label_budgets import UtteranceBudget
from probe.data.time_labels.derived import changes, speech_and_nonspeech
from probe.evaluation.dataset import Features, Problem, Score, block_of, layer_sum
from probe.evaluation.kind import (
    AtLeastOne,
    Kind,
    Main,
    ProjectedSettings,
    Rate,
    Several,
    TimeLabelSettings,
)
from probe.evaluation.kinds.frame_questions import Question, questions_of, with_budgets
from probe.evaluation.kinds.labelled_frames import (
    Labelled,
    check_labels,
    labelled_sets,
    refuse_one_label,
)
from probe.evaluation.kinds.row_reader import READ_BYTES, StoredRows
from probe.evaluation.linear_search import (
    STRENGTHS,
    Judged,
    best_of,
    choice_of,
    entry,
    judge,
    judged,
)
from probe.evaluation.questions import Answers, mean_of_draws
from probe.evaluation.tasks import Task
from probe.heads.ctc.modules import MOST_CONTEXT
from probe.heads.linear.linear_probe import LinearProbe, Solving, fit_strengths
from probe.heads.linear.weighted_sum import MOST_STEPS, fit_weighted, logistic_head
from probe.measures.block_sums import class_counts
from probe.measures.counts import Counts, ratio_counts
from probe.measures.metrics import ACCURACY, UAR
from probe.records import NO_LAYER

METRIC: dict[str, Any] = {
    "metric": ACCURACY.name,
    "higher_is_better": True,
    "select_by": ACCURACY.name,
    "head": "linear",
}


class Settings(TimeLabelSettings, ProjectedSettings):
    """See docs/task-keys.md."""

    l2: AtLeastOne[Rate] = STRENGTHS
    standardize: bool = True
    context: int = Field(0, ge=0, le=MOST_CONTEXT)
    max_frames: int = Field(0, ge=0, le=10**10)
    grid_ms: float = Field(20.0, ge=1, le=1000)
    weighted: bool = True
    controls: Several[Literal["majority", "shuffled", "types"]] = ("majority",)
    budgets: Several[UtteranceBudget] = ()
    derive: Literal["", "speech", "change"] = ""
    collar_ms: float = Field(50.0, ge=1, le=10_000)

    metric: Literal["accuracy", "uar"] = "accuracy"
    class_weight: Literal["none", "balanced"] = "none"

    UNHASHED: ClassVar = {
        **ProjectedSettings.UNHASHED,
        "derive": "",
        "collar_ms": 50.0,
        "metric": "accuracy",
        "class_weight": "none",
    }

    @field_validator("derive")
    @classmethod
    def _without_types(cls, derive: str, info: ValidationInfo) -> str:
        typed = info.data.get("types", "") or "types" in info.data.get("controls", ())
        if derive and typed:
            raise ValueError("no derived labels with types, which are of labels that are read")
        return derive

    @field_validator("collar_ms")
    @classmethod
    def _of_changes(cls, collar_ms: float, info: ValidationInfo) -> float:
        if info.data.get("derive") != "change":
            raise ValueError("no collar without derive = 'change'")
        return collar_ms

    @field_validator("metric")
    @classmethod
    def _of_two_labels(cls, metric: str, info: ValidationInfo) -> str:
        if metric == UAR.name and not info.data.get("derive"):
            raise ValueError("'accuracy' without derive; the average recall is of two labels")
        return metric

    @property
    def derivation(self) -> Derivation | None:
        """See `TimeLabelSettings`."""
        if self.derive == "change":
            return functools.partial(changes, collar_s=self.collar_ms / 1000)
        return speech_and_nonspeech if self.derive else None

    @property
    def view(self) -> str:
        """Always whole frames."""
        return "frames"


def run(task: Task[Settings], problem: Problem, features: Features) -> Iterator[Score]:
    """Scores of every layer, and of the controls, on dev and on each test set.

    Raises:
        ProbeError: no labelled frames in a split, or one class only.
    """
    excluded: Counter[str] = Counter()
    sets = labelled_sets(task, problem, features, excluded)
    classes = sorted(set(sets["train"].labels))
    refuse_one_label(task, classes)
    questions = list(questions_of(task, sets, classes, problem.seed))
    own = questions[0]
    questions += with_budgets(task, problem, features, sets, own)
    common = {**METRIC, "select_by": task.settings.metric, "excluded": dict(excluded)}
    yield from _majority(common, sets, own)
    settings = task.settings

    def stored(layer: str, item: Labelled, hold: bool) -> StoredRows:
        memory_bytes = problem.memory_bytes // 2
        return StoredRows(features, layer, item.chosen, settings.context, memory_bytes, hold)

    def score(question: Question, layer: str, rows: Mapping[str, StoredRows]) -> Iterator[Score]:
        if question.train:
            rows = {**rows, "train": stored(layer, question.train, hold=True)}
        yield from _answers(task, problem, {**common, "layer": layer}, sets, rows, question)

    answers = Answers(
        questions,
        name=lambda question: f"{question.control} {question.budget}",
        n_steps=lambda _: len(settings.l2),
        read=lambda layer: {
            name: stored(layer, item, hold=name == "train") for name, item in sets.items()
        },
        score=score,
        sum_steps=len(settings.l2) * MOST_STEPS
        if settings.weighted and settings.standardize
        else 0,
        score_sum=lambda: _weighted(task, problem, features, common, sets, own),
    )
    yield from answers.scores(problem, features.layers)


def _weighted(
    task: Task[Settings],
    problem: Problem,
    features: Features,
    common: Mapping[str, Any],
    sets: Mapping[str, Labelled],
    question: Question,
) -> Iterator[Score]:
    """Scores of the learned sum of layers, if there is one; its rows are held in memory."""
    context = task.settings.context
    stored = {
        name: {
            layer: StoredRows(features, layer, item.chosen, context, READ_BYTES, hold=False)
            for layer in features.layers
        }
        for name, item in sets.items()
    }
    widths = {layer: rows.shape[1] for layer, rows in stored["train"].items()}
    n_rows = sum(len(item.owners) for item in sets.values())
    summed = layer_sum(task.name, features, widths, n_rows, problem.memory_bytes)
    if summed is None:
        return
    held = {
        name: [
            np.concatenate([np.zeros((0, widths[layer]), np.float32), *of_set[layer].blocks()])
            for layer in summed.layers
        ]
        for name, of_set in stored.items()
    }
    probes = fit_weighted(
        held["train"],
        question.targets["train"],
        task.settings.l2,
        logistic_head(_solving(task, problem)),
        problem.progress.step,
    )
    of_dev = [judge(probe, held["dev"], question.targets["dev"]) for probe in probes]
    best, choice = _choice(task, probes, of_dev, sets["dev"], question)
    probe = probes[best]
    about = summed.fields(probe.shares) | choice
    common = {**common, **about, "n_train": len(question.targets["train"])}
    for name, item in sets.items():
        if name != "train":
            hits = (
                judge(probe, held[name], question.targets[name])[0]
                if len(item.owners)
                else np.zeros(0, bool)
            )
            yield from _scores(common, name, item, question, hits)


def _majority(
    common: Mapping[str, Any], sets: Mapping[str, Labelled], question: Question
) -> Iterator[Score]:
    """Scores of the most frequent training label."""
    most = int(np.bincount(question.targets["train"]).argmax())
    fields = {
        **common,
        "layer": NO_LAYER,
        "control": "majority",
        "n_train": len(question.targets["train"]),
        "note": f"always {question.classes[most]!r}",
    }
    for name in sets:
        if name != "train":
            hits = question.targets[name] == most
            yield from _scores(fields, name, sets[name], question, hits)


def _answers(
    task: Task[Settings],
    problem: Problem,
    common: Mapping[str, Any],
    sets: Mapping[str, Labelled],
    rows: Mapping[str, StoredRows],
    question: Question,
) -> Iterator[Score]:
    """Scores of one layer on one question."""
    common = {
        **common,
        "control": question.control,
        "budget": question.budget,
        "n_train": len(question.targets["train"]),
    }
    if len(np.unique(question.targets["train"])) < 2:
        note = (
            f"control {question.control}: all training frames drew one label; it needs more "
            "types, or another seed"
        )
        for name in sets:
            if name != "train":
                yield from _scores({**common, "note": note}, name, sets[name], question, None)
        return
    probes = _fitted(task, problem, rows["train"], question, task.settings.l2)
    problem.progress.step(len(task.settings.l2))
    of_dev = judged(probes, rows["dev"].blocks(), question.targets["dev"])
    best, choice = _choice(task, probes, of_dev, sets["dev"], question)
    common |= choice
    draws = [[*_of_probe(problem, common, sets, rows, question, probes[best])]]
    for other in question.further_draws:  # with the strength of the first draw
        (probe,) = _fitted(task, problem, rows["train"], other, [probes[best].l2])
        draws.append([*_of_probe(problem, common, sets, rows, other, probe)])
    yield from mean_of_draws(draws)


def _fitted(
    task: Task[Settings],
    problem: Problem,
    train: StoredRows,
    question: Question,
    strengths: Sequence[float],
) -> list[LinearProbe]:
    """A probe for each strength."""
    return fit_strengths(
        *(train, question.targets["train"], strengths, task.settings.standardize),
        _solving(task, problem),
        memory_bytes=problem.memory_bytes // 2,  # the other half is for rows as they are stored
        tick=lambda: problem.progress.step(0),
    )


def _of_probe(
    problem: Problem,
    common: Mapping[str, Any],
    sets: Mapping[str, Labelled],
    rows: Mapping[str, StoredRows],
    question: Question,
    probe: LinearProbe,
) -> Iterator[Score]:
    """The scores of a probe on dev and on each test set."""
    for name in sets:
        if name != "train":
            problem.progress.step(0)
            ((hits, _),) = judged([probe], rows[name].blocks(), question.targets[name])
            yield from _scores(common, name, sets[name], question, hits)


def _solving(task: Task[Settings], problem: Problem) -> Solving:
    return Solving(device=problem.device, class_weight=task.settings.class_weight)


def _choice(
    task: Task[Settings],
    probes: Sequence[Any],
    of_dev: Sequence[Judged],
    dev: Labelled,
    question: Question,
) -> tuple[int, dict[str, Any]]:
    """The position of the probe that dev picks, and what records say of the search; the average
    recall too where that selects.
    """
    search = [entry(probe, *item) for probe, item in zip(probes, of_dev, strict=True)]
    if task.settings.metric == UAR.name:
        truth = question.targets["dev"]
        for line, (hits, _) in zip(search, of_dev, strict=True):
            recalls = [float(hits[truth == label].mean()) for label in np.unique(truth)]
            line["dev_uar"] = float(np.mean(recalls))
    best = best_of(search, task.settings.metric)
    losses = [-log_probabilities for _, log_probabilities in of_dev]
    return best, choice_of(search, losses, best, dev.owners)


def _scores(
    common: Mapping[str, Any],
    name: str,
    item: Labelled,
    question: Question,
    hits: np.ndarray | None,
) -> Iterator[Score]:
    """The scores of a set of frames from (row,) bool; without value for an empty set."""
    split, _, domain = name.partition(" ")
    notes = filter(None, [common.get("note", ""), question.notes.get(name, "")])
    fields = {**common, "split": split, "test_domain": domain, "n": len(item.owners)}
    fields["note"] = "; ".join(notes)
    if hits is None or not len(hits):
        note = common["note"] if hits is None else "no labelled frames"
        yield Score(**{**fields, "note": note, "metric": common["select_by"]}, counts=None)
        return
    if common["select_by"] == UAR.name:
        counts = _recall_counts(item, question.targets[name], question.classes, hits)
        yield Score(**{**fields, "metric": UAR.name}, counts=counts)
    correct = np.bincount(item.owners, weights=hits, minlength=len(item.chosen)).astype(np.int64)
    utterances = [(one.utterance, len(one.frames)) for one in item.chosen]
    outcomes = [
        {"key": utterance.key, "frames": n, "correct": int(right)}
        for (utterance, n), right in zip(utterances, correct, strict=True)
    ]
    counts = ratio_counts(
        [block_of(utterance) for utterance, _ in utterances], correct, [n for _, n in utterances]
    )
    yield Score(**fields, counts=counts, outcomes=outcomes)


def _recall_counts(
    item: Labelled, truth: np.ndarray, classes: Sequence[str], hits: np.ndarray
) -> Counts:
    """The confusion of two derived labels, from (row,) classes; what is no hit is the other one."""
    predicted = np.where(hits, truth, 1 - truth)
    blocks = [block_of(one.utterance) for one in item.chosen]
    labels, guesses = ([classes[i] for i in codes] for codes in (truth, predicted))
    return class_counts([blocks[i] for i in item.owners], labels, guesses, classes)


KIND = Kind(
    "frames",
    Settings,
    run,
    check_labels,
    lambda settings: Main("linear", settings.metric, settings.metric, higher_is_better=True),
    metrics=(ACCURACY.name, UAR.name),
    needs=frozenset({"labels"}),
    by_domain=True,
)
