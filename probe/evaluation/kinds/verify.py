"""Kind ``verify``: speaker verification on lists of trials, on every layer.

Metrics: EER (``eer`` by linear interpolation of the ROC, or ``eer_hull``), and minDCF at priors of
0.01 and 0.05, which has no value on a list with fewer than 10 / prior non-targets, Cllr of scores
that are calibrated on dev, and min Cllr; lower is better. The layer, and the setting of a trained
head, are those of the best dev EER. Backends: `probe.evaluation.kinds.verification_backends`;
tables show PLDA, or the cosine where training has too few speakers for it (`usual_headline`).

Scores may be normalised with a cohort, the training utterances of speakers that occur in no trial:

* ``s-norm``: the mean of the score standardised by the enrolment's scores with the cohort, and by
  the test's;
* ``as-norm``: the same with the ``cohort_top`` highest of these scores on each side (Matejka et al.
  2017).

Everything that is fitted is fitted on training rows. Control ``shuffled``: the same scores against
shuffled answers; what learns from speakers learns from shuffled ones.

SUPERB's ASV differs: it reports the best test checkpoint, and reads a learned sum of layers.
"""

import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from probe.data.corpus import Utterance
from probe.data.trials import Trial
from probe.errors import ProbeError
from probe.evaluation.dataset import Features, Problem, Score, block_of, shuffled
from probe.evaluation.kind import (
    SEEDS,
    AtLeastOne,
    Count,
    Kind,
    Main,
    ProjectedSettings,
    Rate,
    Several,
)
from probe.evaluation.kinds.verification_backends import (
    ON_FRAMES,
    ON_SPEAKERS,
    TRAINED_BACKENDS,
    Backend,
    LayerRows,
    Material,
    cohort_of,
    fitted,
    n_steps_of,
    place_of,
    why_none,
)
from probe.evaluation.questions import Answers
from probe.evaluation.tasks import Task
from probe.heads.speaker.lda import LEAST_SPEAKERS
from probe.measures.calibration import calibration
from probe.measures.counts import scored_trials, trial_counts, value_of
from probe.measures.detection import DEFINITIONS, why_too_short
from probe.measures.metrics import CLLR, EER, EER_HULL, MIN_CLLR, MIN_DCF_01, MIN_DCF_05

log = logging.getLogger("probe")

COSTS = (MIN_DCF_01.name, MIN_DCF_05.name, CLLR.name, MIN_CLLR.name)
LEAST_COHORT = 10

METRIC_OF = {"interpolated": EER.name, "convex-hull": EER_HULL.name}

List = tuple[str, str]  # split and name
DEV: List = ("dev", "")


class Settings(ProjectedSettings):
    """See docs/task-keys.md. An empty headline stands for `usual_headline`."""

    view: Literal["mean", "meanstd", "frames"] = "meanstd"
    backends: AtLeastOne[
        Literal["cosine", "cosine-standardised", "lda", "plda", "am-softmax", "xvector"]
    ] = Field(("cosine", "cosine-standardised", "lda", "plda"), validate_default=True)
    headline: str = ""
    dev_trials: Count = 300
    enroll: Literal["clean", "same"] = "clean"
    eer: Literal["interpolated", "convex-hull"] = "interpolated"
    normalise: Literal["none", "s-norm", "as-norm"] = "none"
    cohort_top: int = Field(200, ge=2, le=10**6)
    plda_input: Literal["lda", "whitening"] = "lda"
    learning_rates: AtLeastOne[Rate] = (1e-2, 3e-3, 1e-3)
    epochs: Count = 50
    batch_size: Count = 50
    embedding: int = Field(256, ge=1, le=1 << 14)
    scale: float = Field(30.0, ge=1e-3, le=1e6)
    margin: float = Field(0.4, ge=0, le=2)
    crop_s: float = Field(8.0, ge=0.1, le=3600)
    controls: Several[Literal["shuffled"]] = ("shuffled",)

    UNHASHED: ClassVar = {**ProjectedSettings.UNHASHED, "enroll": "clean"}
    NO_FOLDS: ClassVar = "a trial may pair utterances of two folds"

    @field_validator("backends")
    @classmethod
    def _read_the_view(cls, backends: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        view = info.data.get("view", "")
        if any((name in ON_FRAMES) != (view == "frames") for name in backends):
            raise ValueError(
                f"backends that read view = {view!r}: {', '.join(ON_FRAMES)} needs 'frames', the "
                "others need 'mean' or 'meanstd'; make it two tasks"
            )
        return backends

    @field_validator("headline")
    @classmethod
    def _one_of_them(cls, headline: str, info: ValidationInfo) -> str:
        backends = info.data.get("backends", (headline,))
        if headline and headline not in backends:
            raise ValueError(f"one of the task's backends: {', '.join(backends)}")
        # Without PLDA it does not depend on the corpus.
        return headline or ("" if "plda" in backends else usual_headline(backends, ()))

    @property
    def usual_seeds(self) -> int:
        """See `probe.evaluation.kind.Settings`."""
        return SEEDS if set(self.backends) & set(TRAINED_BACKENDS) else 1

    @property
    def selects(self) -> str:
        """The metric that dev chooses by."""
        return METRIC_OF[self.eer]


@dataclass(frozen=True)
class Question:
    """The trials with their answers, true or shuffled.

    Attributes:
        control: see `probe.records.Record`.
        trials: list -> its trials.
        targets: list -> the answers.
        speakers: of the training utterances that speakers are learned from.
    """

    control: str
    trials: Mapping[List, Sequence[Trial]]
    targets: Mapping[List, Sequence[bool]]
    speakers: Sequence[str]


@dataclass(frozen=True)
class Answer:
    """The scores of one backend with the setting that dev picked; without scores where ``note``
    says why.
    """

    chosen: Mapping[str, Any]
    search: Sequence[Mapping[str, Any]]
    scores: Mapping[List, np.ndarray]
    note: str = ""


def run(task: Task[Settings], problem: Problem, features: Features) -> Iterator[Score]:
    """EER and minDCF of every layer and backend on dev trials and on each list of test trials."""
    trials: dict[List, Sequence[Trial]] = {DEV: problem.dev_trials}
    trials |= {("test", name): of_name for name, of_name in problem.trials.items()}
    ends = [
        end
        for of_list in trials.values()
        for trial in of_list
        for end in (trial.enroll, trial.test)
    ]
    in_trials = {end.speaker for end in ends}
    unseen = [item for item in problem.train if item.speaker and item.speaker not in in_trials]
    if nameless := len({place_of(end) for end in ends if not end.speaker}):
        log.warning(
            "%s: %d utterances of trials have no speaker: training may hold theirs unseen",
            task.name,
            nameless,
        )
    excluded = Counter(
        "speaker in a trial" if item.speaker else "no speaker" for item in problem.train
    )
    excluded["speaker in a trial"] -= len(unseen)
    excluded = +excluded
    headline = task.settings.headline or usual_headline(task.settings.backends, unseen)
    questions = list(_questions(task, problem, trials, [item.speaker for item in unseen]))
    utterances = list({place_of(item): item for item in [*ends, *problem.train]}.values())

    def score(one: tuple[str, Question], layer: str, rows: LayerRows) -> Iterator[Score]:
        backend, question = one
        material = Material(rows, problem.train, unseen, question.speakers)
        done = problem.progress.done
        answer = _answer(backend, task, problem, material, question)
        if problem.progress.done == done:  # fitted in one go
            problem.progress.step()
        learns = backend in ON_SPEAKERS or task.settings.normalise != "none"
        n_learned = len(unseen if backend in ON_SPEAKERS else problem.train)
        shared = {
            "layer": layer,
            "head": backend,
            "headline": backend == headline,
            "learns_other_speakers": backend in ON_SPEAKERS,
            "n_train": 0 if backend == "cosine" else n_learned,
            "excluded": dict(excluded) if learns else {},
        }
        yield from _scores(task, question, answer, shared)

    answers = Answers(
        list(itertools.product(task.settings.backends, questions)),
        name=lambda one: f"{one[0]}, {one[1].control}",
        n_steps=lambda one: n_steps_of(one[0], task, len(unseen)),
        read=lambda layer: LayerRows(features, layer, utterances, problem.memory_bytes),
        score=score,
    )
    yield from answers.scores(problem, features.layers)


def check(task: Task[Settings], problem: Problem) -> None:
    """Refuses lists without trials.

    Raises:
        ProbeError: there are none to choose on, or none to report.
    """
    for name, trials in (
        ("dev", problem.dev_trials),
        *(("test", trials) for trials in problem.trials.values()),
    ):
        if not trials:
            raise ProbeError(
                f"{task.name}: no {name} trials. Give lists with --trials and --dev-trials."
            )


def usual_headline(backends: Sequence[str], unseen: Sequence[Utterance]) -> str:
    """The backend that tables show if the task names none: PLDA, or the cosine of the vectors as
    they are where PLDA has fewer than `LEAST_SPEAKERS` training speakers with two utterances or
    more; the first backend if the task does not have that one.

    Args:
        unseen: training utterances of speakers that occur in no trial.
    """
    n_utterances = Counter(item.speaker for item in unseen)
    n_speakers = sum(n > 1 for n in n_utterances.values())
    usual = "plda" if "plda" in backends and n_speakers >= LEAST_SPEAKERS else "cosine"
    return usual if usual in backends else backends[0]


def _questions(
    task: Task[Settings],
    problem: Problem,
    trials: Mapping[List, Sequence[Trial]],
    speakers: Sequence[str],
) -> Iterator[Question]:
    targets = {name: [trial.target for trial in of_list] for name, of_list in trials.items()}
    yield Question("", trials, targets, speakers)
    if "shuffled" in task.settings.controls:
        mixed = {name: shuffled(flags, problem.seed) for name, flags in targets.items()}
        yield Question("shuffled", trials, mixed, shuffled(speakers, problem.seed))


def _answer(
    backend: str, task: Task[Settings], problem: Problem, material: Material, question: Question
) -> Answer:
    """The scores of all lists with the setting of the lowest dev EER, the first of equals."""
    how = task.settings.normalise
    cohort = cohort_of(material.unseen, problem.seed) if how != "none" else []
    note = why_none(backend, material)
    if not note and how != "none" and len(cohort) < LEAST_COHORT:
        note = f"{len(cohort)} training utterances of speakers in no trial; "
        note += f"{how} needs {LEAST_COHORT}"
    if note:
        return Answer({}, [], {}, note)
    top = task.settings.cohort_top if how == "as-norm" else len(cohort)
    chosen: dict[str, Any] = {"normalise": how}
    if cohort:
        chosen |= {"cohort": len(cohort), "cohort_top": min(top, len(cohort))}
    if backend == "plda":
        chosen["plda_input"] = task.settings.plda_input
    best: dict[str, Any] = {}
    scores: dict[List, np.ndarray] = {}
    search = []
    metric = task.settings.selects
    for setting, embed in fitted(backend, task, problem, material):
        on_dev = _scored(embed, question.trials[DEV], cohort, top)
        value = value_of(_counts(question, DEV, on_dev), metric)
        search.append({**setting, f"dev_{metric}": value})
        if len(search) == 1 or value < best[f"dev_{metric}"]:
            best = search[-1]
            others = {
                name: _scored(embed, trials, cohort, top)
                for name, trials in question.trials.items()
                if name != DEV
            }
            scores = {DEV: on_dev} | others
    setting = {name: value for name, value in best.items() if name != f"dev_{metric}"}
    return Answer(chosen | setting, search if setting else [], scores)


def _scored(embed: Backend, trials: Sequence[Trial], cohort: Sequence[Any], top: int) -> np.ndarray:
    """(trial,) scores, normalised where there is a cohort."""
    ends = {place_of(end): end for trial in trials for end in (trial.enroll, trial.test)}
    row_of = {place: row for row, place in enumerate(ends)}
    enroll = [row_of[place_of(trial.enroll)] for trial in trials]
    test = [row_of[place_of(trial.test)] for trial in trials]
    voices = embed(list(ends.values()))
    scores = voices.scores(enroll, test)
    if not cohort:
        return scores
    mean, deviation = voices.against(embed(cohort), top)
    return (
        (scores - mean[enroll]) / deviation[enroll] + (scores - mean[test]) / deviation[test]
    ) / 2


def _counts(question: Question, name: List, scores: np.ndarray) -> dict[str, Any]:
    trials = question.trials[name]
    enroll, test = (
        [block_of(trial.enroll) for trial in trials],
        [block_of(trial.test) for trial in trials],
    )
    return trial_counts(enroll, test, question.targets[name], scores)


def _scores(
    task: Task[Settings], question: Question, answer: Answer, shared: Mapping[str, Any]
) -> Iterator[Score]:
    """One score for each list and metric; all metrics of a list hold the same counts, those of Cllr
    also the scores and their calibration, which is fitted on dev.
    """
    selects = task.settings.selects
    if answer.scores:
        to_ratios = calibration(question.targets[DEV], answer.scores[DEV])
    for name, trials in question.trials.items():
        counts = _counts(question, name, answer.scores[name]) if answer.scores else None
        n_others = len(trials) - sum(question.targets[name])
        for metric in (selects, *COSTS):
            too_short = why_too_short(metric, n_others)
            of_metric = None if too_short else counts
            if counts and metric == CLLR.name:
                of_metric = scored_trials(counts, answer.scores[name], to_ratios)
            yield Score(
                **shared,
                split=name[0],
                test_domain=name[1],
                control=question.control,
                metric=metric,
                select_by=selects,
                higher_is_better=False,
                n=len(trials),
                counts=of_metric,
                chosen={"definition": DEFINITIONS[metric], **answer.chosen},
                search=answer.search,
                note=answer.note or too_short,
                outcomes=_outcomes(question, name, answer) if counts and metric == selects else (),
            )


def _outcomes(question: Question, name: List, answer: Answer) -> list[dict[str, Any]]:
    return [
        {
            "enroll": trial.enroll.key,
            "test": trial.test.key,
            "label": int(target),
            "score": float(score),
        }
        for trial, target, score in zip(
            question.trials[name], question.targets[name], answer.scores[name], strict=True
        )
    ]


KIND = Kind(
    "verify",
    Settings,
    run,
    check,
    lambda settings: Main(
        settings.headline or settings.backends[0],
        settings.selects,
        settings.selects,
        higher_is_better=False,
    ),
    metrics=(*METRIC_OF.values(), *COSTS),
    needs=frozenset({"trials"}),
)
