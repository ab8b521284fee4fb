"""The jobs of a plan, which several runs may write at the same time.

A run claims a job just before it reads the audio of the job, and leaves jobs that another run has
claimed to that run. In the end it waits for them, so that all jobs are complete when it returns,
and extracts those whose run ended without them.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from probe.data.corpus import Utterance
from probe.extraction.forward import Piece
from probe.extraction.gather import Shards, Tally, write_job
from probe.extraction.plan import Plan
from probe.extraction.write_behind import Writer
from probe.store.claims import pauses_s
from probe.store.feature_store import Failure, Job

Pieces = Iterator[Piece | Failure]


@dataclass(frozen=True)
class SharedJobs:
    """What writing jobs needs.

    Attributes:
        shards: where the shards go; the jobs are claimed in its ``claims``.
        pieces: opens the pieces of utterances, which it takes from an iterator as late as it can.
        tally: of what this run extracts.
    """

    plan: Plan
    shards: Shards
    pieces: Callable[[Iterator[Utterance]], AbstractContextManager[Pieces]]
    tally: Tally

    def write(self, jobs: Sequence[Job]) -> list[Failure]:
        """Complete all jobs; returns the failures in jobs that other runs completed."""
        failures: list[Failure] = []
        pause_s = pauses_s()
        while rest := self._write_free(jobs, failures):
            jobs = rest
            self.shards.claims.say_waiting()
            time.sleep(next(pause_s))
        return failures

    def _write_free(self, jobs: Sequence[Job], failures: list[Failure]) -> list[Job]:
        """Write the jobs that no other run has claimed; returns those of other runs.

        Args:
            failures: those in jobs that other runs have completed meanwhile are added.
        """
        utterances = {item.key: item for item in self.plan.todo}
        store, claims = self.shards.store, self.shards.claims
        claimed: deque[Job] = deque()
        others: list[Job] = []

        def free() -> Iterator[Utterance]:
            for job in jobs:
                if not claims.take(job.name):
                    others.append(job)
                elif (finished := store.failures_of(job)) is not None:
                    claims.release(job.name)
                    failures.extend(finished)
                else:
                    claimed.append(job)
                    yield from (utterances[key] for key in job.keys)

        with Writer() as write, self.pieces(free()) as pieces:
            shards = replace(self.shards, write=write)
            for piece in pieces:
                write_job(shards, claimed.popleft(), itertools.chain([piece], pieces), self.tally)
        return others
