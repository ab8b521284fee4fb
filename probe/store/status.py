"""How far the runs that share a folder have come: read from plans, indexes and claims."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from probe.files import files_named, statuses_in
from probe.store.claims import ENDING, Owner, read_claim, renewed_at
from probe.store.feature_store import FeatureStore, Job


@dataclass(frozen=True)
class Worker:
    """A run, and what it works at.

    Attributes:
        claims: names of its claims.
        end: why the run counts as ended; empty while it is alive.
    """

    owner: Owner
    claims: Sequence[str]
    end: str

    def as_json(self) -> dict[str, Any]:
        """The run in plain values."""
        owner = {"host": self.owner.host, "process": self.owner.pid, "user": self.owner.user}
        return owner | {"since": self.owner.since, "ended": self.end, "claims": list(self.claims)}


@dataclass(frozen=True)
class Status:
    """How far the work in one folder has come.

    Attributes:
        planned: number of jobs; None where no plan lies in the folder.
        done: number of jobs that are complete.
        running: jobs that living runs have claimed.
        begun: jobs that were begun and are neither complete nor running, where that is known.
        workers: runs that have claims, also those that were killed.
        items: utterances that are complete, and that are planned.
        failures: key -> reason of each utterance without features.
        per_hour: utterances that the living runs complete in an hour; None if it is not known.
    """

    place: Path
    planned: int | None
    done: int
    running: Sequence[str]
    begun: Sequence[str] = ()
    workers: Sequence[Worker] = ()
    items: tuple[int, int] = (0, 0)
    failures: Mapping[str, str] = field(default_factory=dict)
    per_hour: float | None = None

    @property
    def missing(self) -> int | None:
        """Number of jobs that are neither complete nor running; None if it is not known."""
        return None if self.planned is None else self.planned - self.done - len(self.running)

    @property
    def left_s(self) -> float | None:
        """Seconds until everything is complete at the present rate; None if it is not known."""
        done, planned = self.items
        return 3600 * (planned - done) / self.per_hour if self.per_hour else None

    def as_json(self) -> dict[str, Any]:
        """The status in plain values."""
        done, planned = self.items
        of_utterances = {"utterances": planned, "utterances_done": done} if planned else {}
        rate = {"utterances_per_hour": self.per_hour, "seconds_left": self.left_s}
        return {
            "place": str(self.place),
            "planned": self.planned,
            "done": self.done,
            "running": list(self.running),
            "begun": list(self.begun),
            "missing": self.missing,
            "workers": [item.as_json() for item in self.workers],
            **of_utterances,
            **(rate if of_utterances else {}),
            "failures": dict(self.failures),
        }


def workers_in(folder: Path) -> list[Worker]:
    """The runs that have claims in a folder, those that are alive first.

    Raises:
        UnreadError: a claim cannot be read.
    """
    claims: dict[Owner, list[str]] = {}
    ages_s: dict[Owner, float] = {}
    for path in files_named(folder, f"*{ENDING}") if folder.is_dir() else []:
        if owner := read_claim(path):
            try:
                age_s = time.time() - renewed_at(path, owner)
            except FileNotFoundError:  # it was released meanwhile
                continue
            claims.setdefault(owner, []).append(path.name.removesuffix(ENDING))
            ages_s[owner] = min(age_s, ages_s.get(owner, age_s))
    workers = [Worker(owner, names, owner.end(ages_s[owner])) for owner, names in claims.items()]
    return sorted(workers, key=lambda worker: bool(worker.end))


def claimed_names(workers: Collection[Worker]) -> list[str]:
    """What the living ones of some runs have claimed."""
    return [name for worker in workers if not worker.end for name in worker.claims]


def status_of_store(folder: Path) -> Status:
    """How far the shards of a store have come.

    Raises:
        ProbeError: no store, or one that is damaged.
    """
    workers = workers_in(folder)  # first: a shard that is completed meanwhile is not missing
    store = FeatureStore(folder)
    complete = [job for job in store.jobs if job.number in store.complete]
    rest = {job.name for job in store.jobs if job.number not in store.complete}
    alive = [worker.owner.since for worker in workers if not worker.end]
    return Status(
        folder,
        len(store.jobs),
        len(complete),
        running=[name for name in claimed_names(workers) if name in rest],
        workers=workers,
        items=(_n_utterances(complete), _n_utterances(store.jobs)),
        failures={key: failure.reason for key, failure in store.failures.items()},
        per_hour=_per_hour(store, complete, min(alive)) if alive else None,
    )


def _n_utterances(jobs: Collection[Job]) -> int:
    return sum(len(job.keys) for job in jobs)


def _per_hour(store: FeatureStore, complete: Collection[Job], since: float) -> float | None:
    """Utterances that are completed in an hour, by those since a time in seconds since 1970; None
    if there are none.
    """
    files = statuses_in(store.path)
    last = {job: files.get(f"{job.shard_names()[-1]}.json") for job in complete}
    recent = [job for job, status in last.items() if status and status.st_mtime >= since]
    hours = (time.time() - since) / 3600
    return _n_utterances(recent) / hours if recent and hours > 0 else None
