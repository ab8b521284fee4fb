"""The rows of a task that has one label for each utterance: those that train, choose and are
scored.

Rows without the label are left out and counted.
"""

import difflib
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from probe.data.corpus import Utterance
from probe.errors import ProbeError
from probe.evaluation.blocks import Blocks
from probe.evaluation.dataset import Problem, labelled, refuse_empty

NO_LABELS = ("split", "condition")  # columns of a problem that messages do not offer


@dataclass(frozen=True)
class LabelledRows:
    """The utterances of a task in one line: training, dev, and each test set.

    Attributes:
        train, dev: where they stand in ``utterances``; ``tests``: name -> where.
        excluded: utterances left out, by reason.
        of_blocks: what is resampled together.
    """

    utterances: list[Utterance]
    train: slice
    dev: slice
    tests: dict[str, slice]
    excluded: dict[str, int]
    of_blocks: Blocks

    @cached_property
    def blocks(self) -> list[str]:
        """(utterance,) see `probe.evaluation.blocks.Blocks.of`."""
        return [self.of_blocks.of(item) for item in self.utterances]

    @property
    def scored(self) -> list[tuple[str, str, slice]]:
        """Dev and the test sets: split, name of the test set, place."""
        return [("dev", "", self.dev), *(("test", *item) for item in self.tests.items())]

    def parts(self) -> dict[str, list[Utterance]]:
        """Training, dev and test sets as messages name them -> their utterances."""
        tests = {" ".join(filter(None, ("test", name))): at for name, at in self.tests.items()}
        places = {"train": self.train, "dev": self.dev, **tests}
        return {name: self.utterances[place] for name, place in places.items()}


def cell_of(utterance: Utterance, column: str) -> str:
    """The value of an utterance in a column and its place, the beginning of a message:
    ``corpus.csv line 2: age of a.wav is 'old'``.
    """
    place = f"{utterance.where}: " if utterance.where else ""
    return f"{place}{column} of {utterance.key} is {utterance.label(column)!r}"


def labelled_rows(
    task: str, problem: Problem, column: str, others: Sequence[str] = (), filled: Sequence[str] = ()
) -> LabelledRows:
    """The rows that have a value in ``column``.

    Args:
        others: further columns that the manifest must have.
        filled: further columns in which each row must have a value.

    Raises:
        ProbeError: a column that the manifest lacks, or no rows to train on or to choose on.
    """
    for name in (column, *others, *filled):
        if name not in problem.columns:
            known = [item for item in problem.columns if item not in NO_LABELS]
            close = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ProbeError(
                f"{task}: the manifest has no column {name!r} that can be a label; it has "
                f"{', '.join(known)}.{hint} Name one with --label or in the task's file."
            )
    excluded: Counter[str] = Counter()

    def kept(part: Sequence[Utterance], tally: Counter[str]) -> list[Utterance]:
        rows = labelled(part, column, tally)
        for name in filled:
            rows = labelled(rows, name, tally)
        return rows

    train, dev = kept(problem.train, excluded), kept(problem.dev, excluded)
    tests = {
        name: kept(problem.tests[name], tally) for name, tally in problem.tallies(excluded).items()
    }
    refuse_empty(task, column, {"train": (problem.train, train), "dev": (problem.dev, dev)})
    all_parts = [train, dev, *tests.values()]
    ends = np.cumsum([0, *map(len, all_parts)]).tolist()
    places = [slice(start, stop) for start, stop in itertools.pairwise(ends)]
    return LabelledRows(
        [item for part in all_parts for item in part],
        places[0],
        places[1],
        dict(zip(tests, places[2:], strict=True)),
        dict(excluded),
        problem.blocks,
    )
