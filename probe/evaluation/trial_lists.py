"""The lists that come beside a corpus: trials of a verification task, labels over time of a task on
frames.
"""

import itertools
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from probe.data.conditions.condition import Condition
from probe.data.corpus import Corpus
from probe.data.intervals import BEYOND_S, IntervalSet, load_intervals
from probe.data.time_labels.files import EXPECTED
from probe.data.trials import Trial, TrialList, draw_trials, load_trials
from probe.errors import ProbeError, UsageError, listed
from probe.evaluation.condition_plan import Hearing
from probe.evaluation.dataset import Features
from probe.evaluation.tasks import Task

log = logging.getLogger("probe")


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What of a corpus a task is asked of, and with which lists.

    Attributes:
        trials, dev_trials: lists for verification; without ``dev_trials`` seeded pairs of dev rows
            are drawn.
        labels: over time, a file or a folder (`probe.data.intervals`), in the place of the one that
            the task names; its sha256 stands where that of a list of trials does.
        conditions: to be asked under, in the place of the task's own; each has its own store. What
            is disturbed is the task's (`probe.evaluation.condition_plan`). Where all of them train
            together they are part of the task's name.
        limit: at most so many utterances of each split, the ones that `probe.extract` takes; part
            of the corpus' name in records.
    """

    trials: str | Path | None = None
    dev_trials: str | Path | None = None
    labels: str | Path | None = None
    conditions: Sequence[str | Condition] | None = None
    limit: int | None = None


SCOPE = Scope()


def trial_lists(
    task: Task[Any], corpus: Corpus, features: Features, hearing: Hearing, scope: Scope, seed: int
) -> dict[str, TrialList]:
    """The dev and test trials of a verification task; trials whose utterances have no features are
    left out.
    """
    failed = {item.key for item in features.failed}
    lists = chosen_trials(task, corpus, failed, scope, seed)
    if not lists:
        return {}
    _warn_of_trials(lists)
    trials = [
        *hearing.dev_trials(lists["dev"].trials),
        *itertools.chain(*hearing.trials(lists["test"].trials, task.settings.enroll).values()),
    ]
    features.require(corpus.name, [end for trial in trials for end in (trial.enroll, trial.test)])
    for split, item in lists.items():
        usable = tuple(
            trial for trial in item.trials if not {trial.enroll.key, trial.test.key} & failed
        )
        if n_failed := len(item.trials) - len(usable):
            log.warning("%s: %d trials left out, their extraction failed", item.name, n_failed)
        _refuse_one_sided(item.name, usable, n_failed)
        lists[split] = replace(item, trials=usable)
    return lists


def chosen_trials(
    task: Task[Any], corpus: Corpus, failed: Collection[str], scope: Scope, seed: int
) -> dict[str, TrialList]:
    """The dev and test trials of a verification task; of another task none.

    Args:
        failed: keys of utterances that no dev trial is drawn of.

    Raises:
        ProbeError: no list, one that cannot be used, or trials that choose the layer and report it
            too.
    """
    if "trials" not in task.needs:
        return {}
    if scope.trials is None:
        raise UsageError(
            f"{task.name}: needs --trials, a CSV list with the columns enroll,test,label, or "
            "lines `label path1 path2`."
        )
    dev_rows = [
        item for item in corpus.utterances if item.split == "dev" and item.key not in failed
    ]
    tested = load_trials(scope.trials, corpus)
    if scope.dev_trials:
        chosen = load_trials(scope.dev_trials, corpus)
    else:
        taken = {frozenset((trial.enroll.key, trial.test.key)) for trial in tested.trials}
        chosen = draw_trials(dev_rows, task.settings.dev_trials, seed, taken)
    lists = {"dev": chosen, "test": tested}
    _refuse_common(lists)
    return lists


def intervals_of(
    task: Task[Any], corpus: Corpus, features: Features, given: str | Path | None
) -> IntervalSet | None:
    """The labels over time that a task of kind frames wants.

    Args:
        corpus: without limit.
    """
    durations_s = {key: stored.duration_s for (_, key), stored in features.stored.items()}
    return load_labels(task, corpus, durations_s, given)


def load_labels(
    task: Task[Any],
    corpus: Corpus,
    durations_s: Mapping[str, float],
    given: str | Path | None,
    beyond_s: float = BEYOND_S,
) -> IntervalSet | None:
    """The labels over time that a task of kind frames wants; None for another kind.

    Args:
        corpus, durations_s, beyond_s: see `probe.data.intervals.load_intervals`.
        given: in the place of the file that the task names.

    Raises:
        ProbeError: none are named, or they cannot be used.
    """
    settings = task.inner.settings
    if "labels" not in task.needs:
        return None
    path = Path(given) if given else corpus.folder / settings.labels
    if not given and not settings.labels:
        raise UsageError(f"{task.name}: needs --labels, {EXPECTED}, or the key labels in the task.")
    tiers = (settings.tier, settings.types)
    return load_intervals(path, corpus, durations_s, *tiers, settings.derivation, beyond_s)


def _refuse_common(lists: dict[str, TrialList]) -> None:
    """Refuses trials that choose the layer and report it too."""
    pairs = {
        name: {frozenset((trial.enroll.key, trial.test.key)) for trial in item.trials}
        for name, item in lists.items()
    }
    if common := pairs["dev"] & pairs["test"]:
        raise ProbeError(
            f"{lists['dev'].name}: {len(common)} of its trials are in {lists['test'].name} too; "
            "the layer would be chosen on the "
            "trials that are reported. Give lists without common trials, or leave --dev-trials out."
        )


def _warn_of_trials(lists: dict[str, TrialList]) -> None:
    """Warns of what makes a trial too easy or wrong."""
    speakers_of = {
        name: {end.speaker for trial in item.trials for end in (trial.enroll, trial.test)}
        for name, item in lists.items()
    }
    if both := sorted(speakers_of["dev"] & speakers_of["test"] - {""}):
        log.warning(
            "%s: %d speakers are in %s too (%s): the layer is chosen on voices that are reported",
            *(lists["dev"].name, len(both), lists["test"].name, listed(both, 3)),
        )
    for item in lists.values():
        ends = [(trial, trial.enroll, trial.test) for trial in item.trials]
        counts = {
            "have an utterance of split train": sum(
                "train" in (one.split, other.split) for _, one, other in ends
            ),
            "have a label against the manifest's speakers": sum(
                bool(one.speaker and other.speaker)
                and trial.target != (one.speaker == other.speaker)
                for trial, one, other in ends
            ),
            "compare an utterance with itself": sum(one.key == other.key for _, one, other in ends),
        }
        for what, n in counts.items():
            if n:
                log.warning("%s: %d of %d trials %s", item.name, n, len(ends), what)


def _refuse_one_sided(name: str, trials: Sequence[Trial], n_failed: int) -> None:
    kinds = Counter(trial.target for trial in trials)
    if not (kinds[True] and kinds[False]):
        why = f"the extraction of {n_failed} trials failed; " if n_failed else ""
        raise ProbeError(
            f"{name}: {why}{kinds[True]} target and {kinds[False]} other trials are left; "
            "expected some of both."
        )
