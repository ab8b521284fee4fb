"""The kinds of tasks by their names."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from probe.evaluation.dataset import Features, Problem, Score
from probe.evaluation.kinds import classify, frames, shift, transcribe, verify
from probe.evaluation.tasks import Task


@dataclass(frozen=True)
class Kind:
    """What answers a question.

    Attributes:
        check: refuses what ``run`` would refuse, without features, so that nothing is extracted for
            it.
        run: yields the scores.
    """

    check: Callable[[Task, Problem], None]
    run: Callable[[Task, Problem, Features], Iterator[Score]]


def _wrapped(task: Task) -> Kind:
    """The kind of the task that a ``shift`` wraps."""
    assert task.of is not None
    return KINDS[task.of.kind]


KINDS = {
    "classify": Kind(classify.check, classify.run),
    "transcribe": Kind(transcribe.check, transcribe.run),
    "verify": Kind(verify.check, verify.run),
    "frames": Kind(frames.check, frames.run),
    "shift": Kind(
        lambda task, problem: shift.check(task, problem, _wrapped(task).check),
        lambda task, problem, features: shift.run(task, problem, features, _wrapped(task).run),
    ),
}
