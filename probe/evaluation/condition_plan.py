"""Under which conditions a task is trained and tested: what is done to the audio of its rows.

A task's ``disturb`` says what the conditions are for:

* ``test``: trained and chosen on clean audio, once, and tested under each condition;
* ``train``: trained and chosen under each condition, tested on clean audio;
* ``both``: trained, chosen and tested under each condition;
* ``mixed``: trained and chosen on all conditions together, tested under each.

Domain shift across ``condition`` is trained on each condition and tested on each.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from probe.data.conditions.condition import Condition, parse_condition
from probe.data.conditions.grammar import CLEAN
from probe.data.corpus import Corpus, Utterance
from probe.data.trials import Trial
from probe.errors import UsageError
from probe.evaluation.blocks import BY_SPEAKER, Blocks
from probe.evaluation.tasks import Task
from probe.records import SEVERAL, hashed_block

# Columns with more values than this do not make groups, nor do those that name or describe single
# utterances.
MOST_GROUPS = 20
NO_GROUPS = ("speaker", "text", "split")


@dataclass(frozen=True)
class Hearing:
    """One training and its tests.

    Attributes:
        train: conditions of the rows for training and for choosing.
        tests: of the rows for testing.
        apart: whether each of ``tests`` is a test of its own.
    """

    train: tuple[str, ...]
    tests: tuple[str, ...]
    apart: bool = True

    @property
    def conditions(self) -> tuple[str, ...]:
        """All of them, those of training first."""
        return tuple(dict.fromkeys([*self.train, *self.tests]))

    @property
    def train_condition(self) -> str:
        """What records call that of training."""
        return self.train[0] if len(self.train) == 1 else SEVERAL

    @property
    def names(self) -> dict[str, str]:
        """Test set -> what records call its condition; a test alone has no name."""
        if len(self.tests) == 1:
            return {"": self.tests[0]}
        return {name: name for name in self.tests} if self.apart else {"": SEVERAL}

    def splits(self, condition: str) -> set[str]:
        """Splits of the rows that are heard under a condition."""
        return {
            *(("train", "dev") if condition in self.train else ()),
            *(("test",) if condition in self.tests else ()),
        }

    def rows(self, utterances: Sequence[Utterance]) -> list[Utterance]:
        """Rows of training or of dev, as they are heard."""
        return [item for condition in self.train for item in heard(utterances, condition)]

    def test_sets(self, utterances: Sequence[Utterance]) -> dict[str, list[Utterance]]:
        """Test set -> its rows, as they are heard."""
        if not self.apart:
            return {"": [item for condition in self.tests for item in heard(utterances, condition)]}
        return {name: heard(utterances, condition) for name, condition in self.names.items()}

    def heard(self, corpus: Corpus) -> list[Utterance]:
        """All rows of a corpus, as they are heard, trials aside."""
        return [
            under(item, condition)
            for condition in self.conditions
            for item in corpus.utterances
            if item.split in self.splits(condition)
        ]

    def dev_trials(self, trials: Sequence[Trial]) -> list[Trial]:
        """Trials for choosing, both ends as training is heard."""
        return [
            Trial(under(trial.enroll, condition), under(trial.test, condition), trial.target)
            for condition in self.train
            for trial in trials
        ]

    def trials(self, trials: Sequence[Trial], enroll: str) -> dict[str, list[Trial]]:
        """Test set -> its trials.

        Args:
            enroll: ``clean`` where enrolled utterances are clean if anything is, ``same`` where
                they are heard as the others.
        """
        clean = enroll == CLEAN and CLEAN in self.conditions
        return {
            name: [
                Trial(
                    under(trial.enroll, CLEAN if clean else condition),
                    under(trial.test, condition),
                    trial.target,
                )
                for trial in trials
            ]
            for name, condition in self.names.items()
        }


def under(utterance: Utterance, condition: str) -> Utterance:
    """The same row under a condition."""
    return (
        utterance if utterance.condition == condition else replace(utterance, condition=condition)
    )


def heard(utterances: Iterable[Utterance], condition: str) -> list[Utterance]:
    """The same rows under a condition."""
    return [under(item, condition) for item in utterances]


def asked_under(task: Task[Any], conditions: Sequence[str | Condition] | None = None) -> Task[Any]:
    """The task under these conditions in the place of its own, if any; where they decide a
    training, its name tells them.
    """
    own, names = (
        list(dict.fromkeys(map(named, some)))
        for some in (task.settings.conditions, conditions or ())
    )
    changed = task.settings.trains_across and names and set(names) != set(own)
    name = f"{task.name}:conditions={','.join(sorted(names))}" if changed else task.name
    settings = task.settings.model_copy(update={"conditions": tuple(names or own)})
    return replace(task, name=name, settings=settings)


def hearings(task: Task[Any]) -> list[Hearing]:
    """The trainings that a task needs under its conditions."""
    names = tuple(dict.fromkeys(map(named, task.settings.conditions)))
    domains = task.settings.domain_column
    if domains == "condition":
        return [Hearing(names, names, apart=False)]
    whole = {
        "test": [Hearing((CLEAN,), names)],
        "train": [Hearing((name,), (CLEAN,)) for name in names],
        "both": [Hearing((name,), (name,)) for name in names],
        "mixed": [Hearing(names, names, apart=task.settings.predicted_column != "condition")],
    }[task.settings.disturb]
    if domains:  # the test sets are domains
        return [Hearing(hearing.train, (name,)) for hearing in whole for name in hearing.tests]
    return whole


def named(condition: str | Condition) -> str:
    """The name that stores know a condition by: its canonical text, or the text itself where it
    was declared as a name of its own.
    """
    if isinstance(condition, Condition):
        return condition.name
    try:
        return parse_condition(condition).name
    except UsageError:
        return condition


def groups_of(corpus: Corpus, blocks: Blocks = BY_SPEAKER) -> dict[str, dict[str, str]]:
    """Column -> block as records name it -> its value in that column.

    Only columns with 2 to `MOST_GROUPS` values, and of them the blocks that have one value
    throughout.
    """
    groups: dict[str, dict[str, str]] = {}
    for column in corpus.columns:
        values: dict[str, set[str]] = {}
        for item in corpus.utterances:
            values.setdefault(hashed_block(blocks.of(item)), set()).add(item.label(column))
        if column not in NO_GROUPS and 2 <= len(set.union(*values.values()) - {""}) <= MOST_GROUPS:
            groups[column] = {
                block: next(iter(names)) for block, names in values.items() if len(names) == 1
            }
    return groups


def of_blocks(
    groups: Mapping[str, Mapping[str, str]], blocks: Collection[str]
) -> dict[str, list[str]]:
    """Column -> value for each of the blocks, for columns in which they all have one."""
    return {
        column: [value_of[block] for block in blocks]
        for column, value_of in groups.items()
        if all(value_of.get(block) for block in blocks)
    }
