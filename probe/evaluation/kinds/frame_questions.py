"""What kind ``frames`` asks of a layer: the task itself, its controls and its budgets."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from probe.errors import listed
from probe.evaluation.dataset import Features, Problem, shuffled
from probe.evaluation.kinds.labelled_frames import Labelled
from probe.evaluation.questions import budgets, draw_seeds
from probe.evaluation.tasks import Task


@dataclass(frozen=True)
class Question:
    """The task itself or a control: for each set of frames (row,) int64, classes from 0 or -1 for
    one that training lacks.

    Attributes:
        classes: the labels of training, sorted.
        notes: set -> what a reader must know.
        budget: of training labels; empty for all.
        train: the training frames that a budget pays for; None for all.
        further_draws: of a control, its questions with labels that are drawn again.
    """

    control: str
    classes: Sequence[str]
    targets: Mapping[str, np.ndarray]
    notes: Mapping[str, str]
    budget: str = ""
    train: Labelled | None = None
    further_draws: Sequence["Question"] = ()


def questions_of(
    task: Task[Any], sets: Mapping[str, Labelled], classes: Sequence[str], seed: int
) -> Iterator[Question]:
    """The task, and the controls that are trained."""
    truth = {name: _codes(item.labels, classes) for name, item in sets.items()}
    notes = {name: _unseen(item, truth[name]) for name, item in sets.items()}
    own = Question("", classes, _of_rows(sets, truth), notes)
    yield own
    if "shuffled" in task.settings.controls:
        yield _of_draws(lambda seed: _shuffled(task, sets, truth, own, seed), seed)
    if "types" in task.settings.controls:
        yield _of_draws(lambda seed: _types(sets, truth, classes, seed), seed)


def _of_draws(draw: Callable[[int], Question], seed: int) -> Question:
    """A control with all of its draws; those that drew one label only come last, and are left out
    if there are others.
    """
    draws = [draw(of_draw) for of_draw in draw_seeds(seed)]
    usable = [item for item in draws if len(np.unique(item.targets["train"])) > 1] or draws[:1]
    return replace(usable[0], further_draws=usable[1:])


def _shuffled(
    task: Task[Any],
    sets: Mapping[str, Labelled],
    truth: Mapping[str, np.ndarray],
    own: Question,
    seed: int,
) -> Question:
    """The labels of training and dev in a random order."""
    by_frame = bool(task.settings.derive)
    permuted = {
        name: _permuted(truth[name], sets[name].segments, by_frame, seed)
        for name in ("train", "dev")
    }
    return Question("shuffled", own.classes, {**own.targets, **permuted}, {})


def _types(
    sets: Mapping[str, Labelled], truth: Mapping[str, np.ndarray], classes: Sequence[str], seed: int
) -> Question:
    """A label drawn at random for each type."""
    shares = np.bincount(truth["train"][sets["train"].segments], minlength=len(classes)).cumsum()
    drawn = {
        kind: drawn_class(kind, shares, seed)
        for kind in {kind for item in sets.values() for kind in item.types}
    }
    targets = {
        name: np.array([drawn[kind] for kind in item.types], np.int64)
        for name, item in sets.items()
    }
    is_known = {
        name: np.isin(item.types, sets["train"].types)[item.segments] for name, item in sets.items()
    }
    notes = {
        name: f"{rows.sum()} of {len(rows)} frames are of types that training has"
        for name, rows in is_known.items()
    }
    return Question("types", classes, _of_rows(sets, targets), notes)


def _of_rows(
    sets: Mapping[str, Labelled], of_segments: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """For each set the (row,) classes of its (segment,) classes."""
    return {name: of_segments[name][item.segments] for name, item in sets.items()}


def _permuted(codes: np.ndarray, segments: np.ndarray, by_frame: bool, seed: int) -> np.ndarray:
    """(row,) classes at random: one for each (segment,) interval, or for each frame."""
    if not by_frame:
        return np.array(shuffled(codes.tolist(), seed))[segments]
    targets = codes[segments]
    in_order = np.argsort(segments, kind="stable")  # that of the manifest, whatever the store's
    targets[in_order] = shuffled(targets[in_order].tolist(), seed)
    return targets


def _codes(labels: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """(segment,) int64 positions in ``classes``, -1 for labels that are not there."""
    position = {name: i for i, name in enumerate(classes)}
    return np.array([position.get(label, -1) for label in labels], np.int64)


def _unseen(item: Labelled, codes: np.ndarray) -> str:
    """A note on labels that training does not have, which can only be errors."""
    names = sorted({label for label, code in zip(item.labels, codes, strict=True) if code < 0})
    n = int((codes[item.segments] < 0).sum())
    return (
        f"{n} frames with labels that training does not have: "
        f"{listed([repr(name) for name in names])}"
        if n
        else ""
    )


def drawn_class(kind: str, shares: np.ndarray, seed: int) -> int:
    """A class at random, by (class,) cumulated counts; the same whichever other types there are."""
    digest = hashlib.sha256(f"{seed} {kind}".encode()).digest()
    return int(
        np.searchsorted(
            shares, int.from_bytes(digest[:6], "big") / 2**48 * shares[-1], side="right"
        )
    )


def with_budgets(
    task: Task[Any],
    problem: Problem,
    features: Features,
    sets: Mapping[str, Labelled],
    own: Question,
) -> Iterator[Question]:
    """The task with some of the training utterances, which is no more than it has."""
    whole = sets["train"]
    utterances = [item.utterance for item in whole.chosen]

    def lacks(positions: list[int]) -> str:
        segments = whole.part(positions).segments
        return "fewer than two labels" if len({whole.labels[i] for i in segments}) < 2 else ""

    keys = [item.key for item in utterances]
    for budget, paid in budgets(task, problem, features, utterances, keys, lacks):
        train = whole.part(paid)
        targets = {**own.targets, "train": _codes(train.labels, own.classes)[train.segments]}
        yield replace(own, targets=targets, budget=budget, train=train)
