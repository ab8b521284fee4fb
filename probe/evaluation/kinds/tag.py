"""Kind ``tag``: several labels for one utterance, or soft ones, from pooled features, by
one-vs-rest logistic regression on every layer (`probe.heads.linear.tagging`).

``label`` names one column with tags between semicolons (``happy;angry``; ``none`` for an utterance
without any), or two or more columns, one for each tag, with numbers from 0 to 1, such as the share
of annotators who gave the tag. Training takes the numbers as they are; metrics count 0.5 and more
as the tag.

Metrics: ``map``, the mean over tags of average precision (higher is better), which selects, and
``tag_f1`` beside it, the mean over tags of F1 where a probability of 0.5 and more predicts the tag
(`probe.measures.tags`). Tags that no utterance of a set has are left out of its means and named in
the record. The strength of the l2 penalty is the one with the best dev value of ``map``; among
equals the one with the lowest dev cross-entropy.

Beside every layer:

* layer ``weighted``: a learned sum of all layers of one width (`probe.heads.linear.weighted_sum`);
* controls: ``majority``, each tag's share of the training utterances as its score for all;
  ``shuffled``, trained on shuffled labels;
* budgets: the same with some of the training labels (`probe.data.label_budgets`); dev and test stay
  whole.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from probe.data.corpus import Utterance
from probe.data.label_budgets import UtteranceBudget
from probe.errors import ProbeError, listed
from probe.evaluation.dataset import Features, Problem, Score, refuse_empty
from probe.evaluation.kind import AtLeastOne, Kind, Main, ProjectedSettings, Rate, Several
from probe.evaluation.labelled_rows import LabelledRows, cell_of, labelled_rows
from probe.evaluation.linear_search import CROSS_ENTROPY, STRENGTHS
from probe.evaluation.tasks import Task
from probe.evaluation.utterance_probes import Question, UtteranceProbes
from probe.heads.linear.tagging import fit_tag_strengths, probabilities, share_odds, tag_head
from probe.measures.counts import Counts, influence_counts
from probe.measures.metrics import MAP, TAG_F1
from probe.measures.tags import mean_average_precision, tag_f1
from probe.records import NO_LAYER

log = logging.getLogger("probe")

Floats = NDArray[np.float64]
METRICS = (MAP.name, TAG_F1.name)
HEAD = "tags"
SEPARATOR = ";"
NO_TAG = "none"
THRESHOLD = 0.5  # of probabilities and of soft labels


class Settings(ProjectedSettings):
    """See docs/task-keys.md."""

    NO_FOLDS: ClassVar = "average precision ranks the utterances of one fold"

    label: AtLeastOne[str] = ("tags",)
    view: Literal["mean", "meanstd"] = "meanstd"
    l2: AtLeastOne[Rate] = STRENGTHS
    standardize: bool = True
    weighted: bool = True
    controls: Several[Literal["majority", "shuffled"]] = ("majority", "shuffled")
    budgets: Several[UtteranceBudget] = ()

    @property
    def predicted_column(self) -> str:
        """See `probe.evaluation.kind.Settings`."""
        return self.label[0]


@dataclass(frozen=True)
class Rows(LabelledRows):
    """The rows of a task with their labels.

    Attributes:
        tags: their names, sorted, or the columns in the order of the task.
        labels: (row, tag) from 0 to 1.
    """

    tags: list[str]
    labels: Floats


def run(task: Task[Settings], problem: Problem, features: Features) -> Iterator[Score]:
    """Scores of every layer on dev and on each test set.

    Raises:
        ProbeError: a label that is no list of tags or no number from 0 to 1, tags of dev or test
            that training does not have, or no rows in a split.
    """
    settings = task.settings
    rows = _rows(task, problem)
    labels = rows.labels
    probes = UtteranceProbes(
        task=task,
        problem=problem,
        features=features,
        rows=rows,
        head=HEAD,
        metric=MAP.name,
        fit=lambda values, truth, strengths: fit_tag_strengths(
            *(values, truth, strengths, settings.standardize), lambda: problem.progress.step(0)
        ),
        sum_head=lambda _: tag_head(),
        on_dev=lambda probe, values, truth: on_dev(probe, probe.predict(values), truth),
        scores=lambda fields, question, probe, values: _scores(
            fields, rows, question, probe.predict(values)
        ),
    )
    if "majority" in settings.controls:
        question = Question(labels, control="majority")
        odds = np.tile(share_odds(labels[rows.train]), (len(labels), 1))
        fields = probes.fields(question) | {"layer": NO_LAYER}
        yield from _scores(fields, rows, question, odds)
    questions = [Question(labels)]
    if "shuffled" in settings.controls:
        questions.append(probes.shuffled(labels))
    questions += probes.budgets(
        labels, lambda some: "" if np.ptp(some, axis=0).any() else "labels that are all equal"
    )
    yield from probes.answers(questions).scores(problem, features.layers)


def check(task: Task[Settings], problem: Problem) -> None:
    """Refuses what `run` would refuse, without features.

    Raises:
        ProbeError: see `run`.
    """
    _rows(task, problem)


def on_dev(probe: Any, odds: Floats, labels: Floats) -> tuple[dict[str, Any], Floats]:
    """One strength's entry of the search, from (row, tag) log odds and labels of dev, and the
    (row,) losses.
    """
    entropy = np.logaddexp(0, odds) - labels * odds
    precision = mean_average_precision(["dev"] * len(odds), labels >= THRESHOLD, odds)[0]
    line = {
        "l2": probe.l2,
        f"dev_{MAP.name}": None if np.isnan(precision) else float(precision),
        CROSS_ENTROPY: float(entropy.mean()),
    }
    return line, entropy.mean(axis=1)


def _rows(task: Task[Settings], problem: Problem) -> Rows:
    """What is trained on and scored.

    Raises:
        ProbeError: see `run`.
    """
    columns = task.settings.label
    rows = labelled_rows(task.name, problem, columns[0], filled=columns[1:])
    place = (rows.utterances, rows.train, rows.dev, rows.tests, rows.excluded, rows.of_blocks)
    for name, part in rows.tests.items():
        refuse_empty(task.name, columns[0], {"test": (problem.tests[name], rows.utterances[part])})
    if len(columns) > 1:
        numbers = [
            [_share(task.name, item, column) for column in columns] for item in rows.utterances
        ]
        tags, labels = list(columns), np.array(numbers)
    else:
        of_rows = [tags_of(task.name, item, columns[0]) for item in rows.utterances]
        tags = sorted(set().union(*of_rows[rows.train]))
        _refuse_unseen(task.name, columns[0], rows, of_rows, set(tags))
        labels = np.array([[float(tag in own) for tag in tags] for own in of_rows])
        if tags and max(map(len, of_rows[rows.train])) < 2:
            log.warning(
                "%s: no training utterance has two tags in %s. Several tags stand between "
                "semicolons; if each utterance has one label, use kind classify.",
                *(task.name, columns[0]),
            )
    train, dev = labels[rows.train], labels[rows.dev]
    if not train.size or not np.ptp(train, axis=0).any():
        raise ProbeError(
            f"{task.name}: {', '.join(columns)} is the same in all {len(train)} training rows; "
            "expected a tag that some of them have and others do not."
        )
    if not (dev >= THRESHOLD).any():
        raise ProbeError(
            f"{task.name}: none of the {len(dev)} dev rows has a tag ({', '.join(columns)}); "
            "dev chooses the settings by it."
        )
    return Rows(*place, tags, labels)


def tags_of(task: str, utterance: Utterance, column: str) -> frozenset[str]:
    """The tags of an utterance, none where its label is ``none``.

    Raises:
        ProbeError: an empty tag, or ``none`` beside another one.
    """
    tags = [tag.strip() for tag in utterance.label(column).split(SEPARATOR)]
    if "" in tags:
        raise ProbeError(
            f"{task}: {cell_of(utterance, column)}, which has an empty tag; expected tags between "
            f"semicolons, such as 'happy;angry', or {NO_TAG!r}."
        )
    if NO_TAG in tags and len(tags) > 1:
        raise ProbeError(
            f"{task}: {cell_of(utterance, column)}; {NO_TAG!r} says that there is no tag, and "
            "cannot stand beside another one."
        )
    return frozenset(tags) - {NO_TAG}


def _share(task: str, utterance: Utterance, column: str) -> float:
    try:
        value = float(utterance.label(column))
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ProbeError(
            f"{task}: {cell_of(utterance, column)}; expected a number from 0 to 1 in each column "
            "of a tag. Tags as text stand in one column, between semicolons."
        )
    return value


def _refuse_unseen(
    task: str, column: str, rows: LabelledRows, of_rows: Sequence[frozenset[str]], known: set[str]
) -> None:
    """Refuses tags of dev or test that no training utterance has."""
    keyed = {id(item): tags for item, tags in zip(rows.utterances, of_rows, strict=True)}
    for name, part in rows.parts().items():
        for item in part:
            if unseen := sorted(keyed[id(item)] - known):
                raise ProbeError(
                    f"{task}: {name}: {cell_of(item, column)}; no training row has the tag "
                    f"{listed(unseen)}. Give it training rows, or take it out."
                )


def _scores(
    common: dict[str, Any], rows: Rows, question: Question, odds: Floats
) -> Iterator[Score]:
    """On dev and on each test set, from the (row, tag) log odds of all rows."""
    for split, test, place in rows.scored:
        labels, here = question.labels[place], odds[place]
        has_tag = labels >= THRESHOLD
        absent = [tag for k, tag in enumerate(rows.tags) if not has_tag[:, k].any()]
        note = f"left out, since no {split} utterance has them: {', '.join(absent)}"
        guesses = probabilities(here)
        notes = [common.get("note", ""), note if absent else ""]
        outcomes = [
            {
                "key": item.key,
                "label": _text(rows.tags, has),
                "predicted": _text(rows.tags, guess >= THRESHOLD),
                "true_shares": dict(zip(rows.tags, true.tolist(), strict=True)),
                "probabilities": dict(zip(rows.tags, guess.round(6).tolist(), strict=True)),
            }
            for item, has, true, guess in zip(
                rows.utterances[place], has_tag, labels, guesses, strict=True
            )
        ]
        for metric in METRICS:
            yield Score(
                **{**common, "note": "; ".join(filter(None, notes))},
                split=split,
                test_domain=test,
                metric=metric,
                higher_is_better=True,
                counts=_counts(metric, rows.blocks[place], has_tag, here),
                n=len(labels),
                outcomes=outcomes if metric == MAP.name else (),
            )


def _text(tags: Sequence[str], has_tag: NDArray[np.bool_]) -> str:
    """The tags of an utterance as a manifest has them."""
    return SEPARATOR.join(tag for k, tag in enumerate(tags) if has_tag[k]) or NO_TAG


def _counts(
    metric: str, blocks: Sequence[str], has_tag: NDArray[np.bool_], odds: Floats
) -> Counts | None:
    """The counts of a metric; None where no utterance has a tag."""
    if not has_tag.any():
        return None
    values = (
        mean_average_precision(blocks, has_tag, odds)
        if metric == MAP.name
        else tag_f1(blocks, has_tag, probabilities(odds) >= THRESHOLD)
    )
    return influence_counts(blocks, has_tag.sum(axis=1), values)


KIND = Kind(
    "tag",
    Settings,
    run,
    check,
    lambda _: Main(HEAD, MAP.name, MAP.name, higher_is_better=True),
    metrics=METRICS,
)
