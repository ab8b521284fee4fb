"""Kind ``discriminate``: how well labelled intervals, such as phones or words, stand apart in every
layer, without training.

``method = "abx"``: the ABX error (`probe.measures.abx`), lower is better, 50 % is chance; heads
``abx-within`` (A, B and X of one speaker) and ``abx-across`` (X of another one). Of each label and
speaker at most ``most`` intervals are drawn. With ``pooling = "none"`` intervals are compared by
dynamic time warping of their frames, with ``"mean"`` by the means of their frames. ``n`` counts
cells: a pair of labels of a speaker.

``method = "knn"``: accuracy of the most frequent label among the nearest training intervals of
other speakers (`probe.measures.neighbours`), by the cosine of means; the number of neighbours is
chosen on dev.

The layer is chosen on dev in both. The test set has the speakers that it has: nothing is learned.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from probe.brief import counted
from probe.data.corpus import Utterance
from probe.data.intervals import LABEL
from probe.errors import ProbeError, listed
from probe.evaluation.dataset import Features, Problem, Score, block_of, labelled, refuse_empty
from probe.evaluation.kind import AtLeastOne, Count, Kind, Main, TimeLabelSettings
from probe.evaluation.questions import Answers
from probe.evaluation.tasks import Task
from probe.measures.abx import Cell, Tokens, across_speakers, within_speakers
from probe.measures.counts import amount_counts, ratio_counts
from probe.measures.metrics import ABX_ERROR, ACCURACY
from probe.measures.neighbours import neighbour_labels

MOST_X_SPEAKERS = 5  # ZeroSpeech's, for each speaker of A and B

Rows = Sequence[Utterance]


class Settings(TimeLabelSettings):
    """See docs/task-keys.md."""

    method: Literal["abx", "knn"] = "abx"
    speakers: AtLeastOne[Literal["within", "across"]] = ("within", "across")
    pooling: Literal["none", "mean"] = "none"
    most: int = Field(10, ge=2, le=10**6)
    neighbours: AtLeastOne[Count] = (1, 5, 10, 20)

    @property
    def view(self) -> str:
        """Always intervals."""
        return "interval"


def run(task: Task[Settings], problem: Problem, features: Features) -> Iterator[Score]:
    """Scores of every layer on dev and on each test set.

    Raises:
        ProbeError: see `check`.
    """
    check(task, problem)
    excluded: Counter[str] = Counter()
    sets = _sets(task, problem, excluded)
    common = {"excluded": dict(excluded), "higher_is_better": _main(task.settings).higher_is_better}
    if task.settings.method == "knn":
        train = labelled(problem.train, LABEL, excluded)
        score = _neighbours(task, problem, common, sets, train, features)
        questions = ["knn"]
    else:
        sets = {name: _drawn(rows, task.settings.most, problem.seed) for name, rows in sets.items()}
        score = _abx(task, problem, common, sets, features)
        questions = [f"abx-{name}" for name in task.settings.speakers]
    answers = Answers(questions, name=str, n_steps=lambda _: 1, read=lambda _: None, score=score)
    yield from answers.scores(problem, features.layers)


def check(task: Task[Settings], problem: Problem) -> None:
    """Refuses, without features, splits without labelled intervals, a single label, and intervals
    without a speaker.

    Raises:
        ProbeError: see above.
    """
    sets = _sets(task, problem, Counter())
    for name, rows in sets.items():
        labels = {row.label(LABEL) for row in rows}
        if len(labels) == 1 and (problem.strict or name == "dev"):
            raise ProbeError(
                f"{task.name}: {name.strip()}: all intervals have the label {min(labels)!r}; "
                "expected two labels or more."
            )
        if nameless := sorted({row.key.partition("#")[0] for row in rows if not row.speaker}):
            raise ProbeError(
                f"{task.name}: {len(nameless)} utterances have no speaker ({listed(nameless, 3)}); "
                "intervals are compared within and across speakers. Fill the column speaker."
            )
    if task.settings.method == "knn":
        speakers = _speakers(labelled(problem.train, LABEL, Counter()))
        for name, rows in sets.items():
            is_needed = rows and (problem.strict or name == "dev")
            if is_needed and len(_hopeless(rows, speakers)) == len(rows):
                raise ProbeError(
                    f"{task.name}: {name.strip()}: no interval has a label that another speaker "
                    "has in training, and neighbours are of other speakers, so no answer can "
                    "be right. Give labels training intervals of two speakers or more."
                )


def _sets(task: Task[Settings], problem: Problem, excluded: Counter[str]) -> dict[str, list[Any]]:
    """``dev`` and ``test`` with the name of each test set -> its intervals with a label.

    Raises:
        ProbeError: none in a split (in a test set: where the problem is strict).
    """
    parts = {"dev": (problem.dev, excluded)} | {
        f"test {name}": (problem.tests[name], tally)
        for name, tally in problem.tallies(excluded).items()
    }
    sets = {name: labelled(rows, LABEL, tally) for name, (rows, tally) in parts.items()}
    needed = {
        name.strip(): (parts[name][0], rows)
        for name, rows in sets.items()
        if name == "dev" or problem.strict
    }
    if task.settings.method == "knn":
        needed["train"] = (problem.train, labelled(problem.train, LABEL, Counter()))
    refuse_empty(task.name, "labelled intervals", needed)
    return sets


def _speakers(train: Rows) -> dict[str, set[str]]:
    """Label -> the speakers of its training intervals."""
    speakers: dict[str, set[str]] = {}
    for row in train:
        speakers.setdefault(row.label(LABEL), set()).add(row.speaker)
    return speakers


def _hopeless(rows: Rows, speakers: Mapping[str, set[str]]) -> list[str]:
    """The labels of the intervals whose label no other speaker has in training: each is an
    error.
    """
    labels = [(row.label(LABEL), row.speaker) for row in rows]
    return [label for label, speaker in labels if not speakers.get(label, set()) - {speaker}]


def _note(rows: Rows, speakers: Mapping[str, set[str]]) -> str:
    hopeless = _hopeless(rows, speakers)
    names = listed([repr(label) for label in sorted({*hopeless})])
    n = counted(len(hopeless), "interval")
    return f"{n} with labels that no other speaker has in training: {names}" if hopeless else ""


def _drawn(rows: Rows, most: int, seed: int) -> list[Utterance]:
    """At most ``most`` intervals of each label and speaker, drawn at random."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault((row.speaker, row.label(LABEL)), []).append(i)
    generator = np.random.default_rng([seed, len(rows)])
    chosen = [
        int(i) for _, group in sorted(groups.items()) for i in generator.permutation(group)[:most]
    ]
    return [rows[i] for i in sorted(chosen)]


def _tokens(task: Task[Settings], features: Features, layer: str, rows: Rows) -> dict[str, Tokens]:
    """Speaker -> the frames of the intervals, or their means."""
    if task.settings.pooling == "mean":
        frames = [vector[None] for vector in features.read(layer, rows).values]
    else:
        frames = features.whole_rows(layer, rows)
    places: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        places.setdefault(row.speaker, []).append(i)
    return {
        speaker: Tokens([frames[i] for i in of], [rows[i].label(LABEL) for i in of])
        for speaker, of in sorted(places.items())
    }


def _abx(
    task: Task[Settings],
    problem: Problem,
    common: Mapping[str, Any],
    sets: Mapping[str, Rows],
    features: Features,
) -> Callable[[str, str, None], Iterator[Score]]:
    """What scores a question on a layer."""

    def score(question: str, layer: str, _: None) -> Iterator[Score]:
        for name, rows in sets.items():
            cells: list[Cell] = []
            if rows:
                tokens = _tokens(task, features, layer, rows)
                cells = list(
                    within_speakers(tokens)
                    if question == "abx-within"
                    else across_speakers(tokens, MOST_X_SPEAKERS, problem.seed)
                )
            about = {**common, "layer": layer, "head": question, "n": len(cells)}
            about |= _of_set(name) | {"metric": ABX_ERROR.name, "select_by": ABX_ERROR.name}
            if not cells:
                yield Score(**about, counts=None, note="no two intervals of one label to compare")
                continue
            counts = amount_counts([cell.speaker for cell in cells], [cell.error for cell in cells])
            yield Score(**about, counts=counts)
        problem.progress.step()

    return score


def _neighbours(
    task: Task[Settings],
    problem: Problem,
    common: Mapping[str, Any],
    sets: Mapping[str, Rows],
    train: Rows,
    features: Features,
) -> Callable[[str, str, None], Iterator[Score]]:
    """What scores the nearest neighbours on a layer."""
    labels = np.array([row.label(LABEL) for row in train])
    known = np.array([row.speaker for row in train])
    notes = {name: _note(rows, _speakers(train)) for name, rows in sets.items()}

    def score(_: str, layer: str, __: None) -> Iterator[Score]:
        references = features.read(layer, train).values.astype(np.float32)
        sizes = task.settings.neighbours
        search: list[dict[str, Any]] = []
        best = sizes[0]
        for name, rows in sets.items():
            queries = features.read(layer, rows).values.astype(np.float32)
            asked = np.array([row.speaker for row in rows])
            truth = np.array([row.label(LABEL) for row in rows])
            wanted = sizes if name == "dev" else [best]
            answers = neighbour_labels(references, labels, queries, (known, asked), wanted)
            hits = {k: answer == truth for k, answer in answers.items()}
            if name == "dev":
                search = [{"neighbours": k, "dev_accuracy": float(np.mean(hits[k]))} for k in sizes]
                best = max(search, key=lambda entry: entry["dev_accuracy"])["neighbours"]
            correct = hits[best].astype(int)
            outcomes = [
                {"key": row.key, "label": row.label(LABEL), "predicted": str(answer)}
                for row, answer in zip(rows, answers[best], strict=True)
            ]
            about = {**common, "layer": layer, "head": "knn", "n": len(rows)} | _of_set(name)
            yield Score(
                **about,
                metric=ACCURACY.name,
                select_by=ACCURACY.name,
                counts=ratio_counts([block_of(row) for row in rows], correct, [1] * len(rows))
                if rows
                else None,
                n_train=len(train),
                note=notes[name],
                learns_other_speakers=True,
                search=search,
                chosen={"neighbours": best},
                outcomes=outcomes,
            )
        problem.progress.step()

    return score


def _of_set(name: str) -> dict[str, str]:
    split, _, test = name.partition(" ")
    return {"split": split, "test_domain": test}


def _main(settings: Settings) -> Main:
    if settings.method == "knn":
        return Main("knn", ACCURACY.name, ACCURACY.name, higher_is_better=True)
    head = f"abx-{settings.speakers[0]}"
    return Main(head, ABX_ERROR.name, ABX_ERROR.name, higher_is_better=False)


KIND = Kind(
    "discriminate",
    Settings,
    run,
    check,
    _main,
    metrics=(ABX_ERROR.name, ACCURACY.name),
    needs=frozenset({"labels"}),
    by_domain=True,
)
