"""Jobs and an engine for tests; workers in other processes import this file."""

import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe.engines.engine import Answer, Batch, End, Engine
from probe.engines.worker import Worker
from probe.errors import ProbeError, UsageError


@dataclass(frozen=True)
class Toy:
    """Each job is a number or a fault, and its result is the number of the process.

    Attributes:
        marks: a folder that gets a file for each attempt at a job.
        refusal: why the work cannot be opened; a `UsageError` with ``usage``.
        opened: a folder that gets a file for each time that the work is opened.
    """

    marks: Path | None = None
    refusal: str = ""
    usage: bool = False
    opened: Path | None = None

    def open(self) -> Callable[[Sequence[str]], list[int]]:
        """Return what does several jobs."""
        if self.refusal:
            raise UsageError(self.refusal) if self.usage else ProbeError(self.refusal)
        if self.opened is not None:
            (self.opened / str(len(list(self.opened.iterdir())))).touch()
        return lambda jobs: [self.do(job) for job in jobs]

    def do(self, job: str) -> int:
        """Do a job: "killed" once or always, "frozen" once, "slow", "hung", "wrong", "refused", or
        any other.
        """
        attempt = 0
        if self.marks is not None:
            attempt = len(list(self.marks.glob(f"{job}.*")))
            (self.marks / f"{job}.{attempt}").touch()
        if job == "always killed" or (job == "once killed" and attempt == 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if job == "once frozen" and attempt == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
        if job == "slow":
            time.sleep(8)
        if job == "hung" and attempt == 0:
            time.sleep(600)
        if job == "wrong":
            raise ValueError("a fault of the code")
        if job == "refused":
            raise ProbeError("a fault of the data")
        return os.getpid()


class Simulated(Engine):
    """Workers in this process, to which everything is pickled. A batch with a job that is named in
    ``deadly`` ends its worker.
    """

    def __init__(self, n_workers: int, deadly: tuple[str, ...] = (), **limits: Any) -> None:
        super().__init__(n_workers, **limits)
        self.deadly = deadly
        self.given: list[Batch] = []
        self.ended: list[int] = []
        self.pending: dict[int, Batch] = {}
        self.workers: dict[int, Worker] = {}
        self.versions: dict[int, int] = {}

    def give(self, batches: Mapping[int, Batch]) -> None:
        """Keep the batches."""
        self.given += batches.values()
        self.pending |= batches

    def answers(self, timeout_s: float) -> Iterator[tuple[int, Answer]]:
        """Do all batches without a job "hung"."""
        for number in list(self.pending):
            if "hung" in self.pending[number].jobs:
                continue
            batch = pickle.loads(pickle.dumps(self.pending.pop(number)))
            if any(str(job).endswith(name) for job in batch.jobs for name in self.deadly):
                yield number, End("was killed")
                continue
            content = None if self.versions.get(number) == self.version else self.content
            self.versions[number] = self.version
            worker = self.workers.setdefault(number, Worker())
            yield number, worker.answer(content, batch.jobs)

    def end(self, worker: int) -> None:
        """Forget a worker."""
        for of_workers in (self.pending, self.workers, self.versions):
            of_workers.pop(worker, None)
        self.ended.append(worker)

    def close(self) -> None:
        """Do nothing."""
