"""Independent jobs on several workers, wherever the workers are.

An engine is given `Work` and a list of jobs, hands the jobs to its workers in batches, and yields
an `Outcome` for each job. It does not know what a job does. A job can be done again at any time and
then has the same result, so nothing is lost when a worker ends in the middle of a batch: the batch
is split in two halves, which are done anew. A job counts as the cause only if its worker ended
while it was alone; it is tried three times.
"""

import logging
import pickle
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

from tqdm import tqdm

from probe.engines.share import WHOLE, Share
from probe.errors import ProbeError, UsageError, listed

log = logging.getLogger("probe")

TRIES = 3
# So many batches that end in a row, with none finished between them, are no accident.
ENDS_IN_A_ROW = 10
LOOK_S = 1.0  # between two looks at the time limits
# A worker is reported once it takes so many times as long as any job before, and so long at least.
SLOW_FACTOR, SLOW_S = 10, 600.0

Do = Callable[[Sequence[Any]], Sequence[Any]]


class Work(Protocol):
    """What workers do. It is sent to each of them with `pickle`, as jobs and results are."""

    def open(self) -> Do:
        """Return the function that does several jobs and returns their results in order.

        Each worker calls it once and keeps what the function holds, such as an open model.
        """
        ...


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        result: of the job; None if there is an error.
        error: why there is no result.
        is_refusal: whether the job itself raised the error; otherwise its workers ended.
    """

    job: Any
    result: Any = None
    error: ProbeError | None = None
    is_refusal: bool = False


@dataclass(frozen=True)
class Results:
    """The answer of a worker that has done its batch."""

    values: Sequence[Any]


@dataclass(frozen=True)
class Refusal:
    """The answer of a worker to which a `ProbeError` came.

    Attributes:
        is_usage: whether it was a `UsageError`.
        at_open: whether the work could not even be opened.
    """

    text: str
    is_usage: bool
    at_open: bool

    @property
    def error(self) -> ProbeError:
        """The same error in this process."""
        return UsageError(self.text) if self.is_usage else ProbeError(self.text)


@dataclass(frozen=True)
class End:
    """The end of a worker, with the reason as the end of a sentence: "was killed by signal 9"."""

    reason: str


Answer = Results | Refusal | End


@dataclass(frozen=True)
class Batch:
    """Jobs that one worker does; ``n_ends`` counts the workers that ended with this batch alone."""

    jobs: tuple[Any, ...]
    n_ends: int = 0

    def __str__(self) -> str:
        return listed([str(job) for job in self.jobs], 1)

    def halves(self) -> "list[Batch]":
        """The two halves, or nothing for a single job."""
        middle = len(self.jobs) // 2
        return [Batch(self.jobs[:middle]), Batch(self.jobs[middle:])] if middle else []


class Engine(ABC):
    """Workers that do jobs. A context manager: leaving it ends the workers.

    Attributes:
        n_workers: how many batches are done at a time.
        limit_s: a worker that takes longer for a job is ended; None means no limit.
    """

    divides_once: ClassVar[bool] = False  # whether workers get all of their jobs in one batch

    def __init__(self, n_workers: int, limit_s: float | None = None) -> None:
        self.n_workers, self.limit_s = n_workers, limit_s
        self.content = b""  # the pickled work
        self.version = 0  # of the content

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def give(self, batches: Mapping[int, Batch]) -> None:
        """Give batches to free workers, which are numbers from 0, and start workers as needed.

        Raises:
            ProbeError: workers cannot be started.
        """

    @abstractmethod
    def answers(self, timeout_s: float) -> Iterable[tuple[int, Answer]]:
        """Return the workers that have answered, as soon as there is one or the time is over."""

    @abstractmethod
    def end(self, worker: int) -> None:
        """End a worker; a batch that is given to it later starts a new one."""

    @abstractmethod
    def close(self) -> None:
        """End all workers."""

    def has_begun(self, worker: int) -> bool:
        """Whether a worker with a batch runs already, so that its time counts."""
        return True

    def run(self, work: Work, jobs: Sequence[Any], most: int, title: str) -> Iterator[Outcome]:
        """Yield the outcome of each job, in the order in which they come.

        Args:
            jobs: hashable, and named in messages by ``str``.
            most: number of jobs in a batch, at most.
            title: of the progress bar.

        Raises:
            ProbeError: workers cannot be started or cannot open the work, or no worker gets on.
        """
        content = pickle.dumps(work)
        if content != self.content:  # else workers keep what they have opened
            self.content, self.version = content, self.version + 1
        dispatch = _Dispatch(self, most, deque(jobs))
        try:
            with tqdm(total=len(jobs), desc=title, unit=" jobs", disable=None) as bar:
                for outcome in dispatch.outcomes():
                    bar.update()
                    yield outcome
        finally:  # the caller may have stopped
            for worker in dispatch.busy:
                self.end(worker)


@dataclass(frozen=True)
class Division:
    """How the jobs of a command are divided.

    Attributes:
        share: the jobs that belong to this run.
        engine: whose workers do them; None means this process.
    """

    share: Share = WHOLE
    engine: Engine | None = None


ALL = Division()


class _Dispatch:
    """The jobs of one call of `Engine.run`.

    Attributes:
        busy: worker -> its batch.
    """

    def __init__(self, engine: Engine, most: int, waiting: deque[Any]) -> None:
        self.engine, self.most, self.waiting = engine, most, waiting
        self.again: deque[Batch] = deque()
        self.busy: dict[int, Batch] = {}
        self._since: dict[int, float] = {}
        self._longest_s: float | None = None  # of a job that was finished
        self._reported: set[int] = set()  # workers, see `_report_slow`
        self._ends_in_a_row = 0

    def outcomes(self) -> Iterator[Outcome]:
        """See `Engine.run`."""
        while self.waiting or self.again or self.busy:
            if batches := self._next():
                self.busy.update(batches)
                self.engine.give(batches)
            for worker, answer in self.engine.answers(LOOK_S):
                if worker not in self.busy:  # it has ended while it had no batch
                    self.engine.end(worker)
                    continue
                batch, taken_s = self._freed(worker)
                if isinstance(answer, Results):
                    self._longest_s = max(self._longest_s or 0.0, taken_s / len(batch.jobs))
                yield from self._outcomes_of(worker, batch, answer)
            self._report_slow()
            for worker in self._late():
                self.engine.end(worker)
                batch, _ = self._freed(worker)
                reason = f"took longer than the {self.engine.limit_s:g} s that --job-limit allows"
                yield from self._after_end(worker, batch, reason)

    def _next(self) -> dict[int, Batch]:
        """The next batches of the workers that are free."""
        free = [worker for worker in range(self.engine.n_workers) if worker not in self.busy]
        batches: dict[int, Batch] = {}
        for position, worker in enumerate(free):
            if self.waiting:
                # Batches become smaller, so that all workers end at about the same time.
                part = 2 * self.engine.n_workers
                size = min(self.most, -(-len(self.waiting) // part))
                if self.engine.divides_once:
                    size = -(-len(self.waiting) // (len(free) - position))
                batches[worker] = Batch(tuple(self.waiting.popleft() for _ in range(size)))
            elif self.again:
                batches[worker] = self.again.popleft()
        return batches

    def _outcomes_of(self, worker: int, batch: Batch, answer: Answer) -> Iterator[Outcome]:
        if isinstance(answer, Results):
            self._ends_in_a_row = 0
            yield from map(Outcome, batch.jobs, answer.values)
        elif isinstance(answer, End):
            self.engine.end(worker)
            yield from self._after_end(worker, batch, answer.reason)
        elif answer.at_open:
            self.engine.end(worker)  # it has nothing open
            raise answer.error
        elif halves := batch.halves():
            self.again.extend(halves)
        else:
            yield Outcome(batch.jobs[0], error=answer.error, is_refusal=True)

    def _after_end(self, worker: int, batch: Batch, reason: str) -> Iterator[Outcome]:
        """Try a batch again whose worker has ended, or give up its only job."""
        self._ends_in_a_row += 1
        if self._ends_in_a_row >= max(ENDS_IN_A_ROW, 3 * self.engine.n_workers):
            raise ProbeError(
                f"{self._ends_in_a_row} workers in a row ended without finishing a job; the last "
                f"one {reason}. Nothing that was finished before is lost."
            )
        halves = batch.halves()
        n_ends = batch.n_ends + 1
        if halves or n_ends < TRIES:
            attempt = f"attempt {n_ends + 1} of {TRIES} follows"
            again = "both halves are tried again" if halves else attempt
            log.warning("%s: worker %d %s; %s", batch, worker + 1, reason, again)
            self.again.extend(halves or [replace(batch, n_ends=n_ends)])
        else:
            text = f"{n_ends} workers ended while they did this job; the last one {reason}"
            yield Outcome(batch.jobs[0], error=ProbeError(text))

    def _taken(self) -> dict[int, float]:
        """Seconds that workers have taken for their batches so far."""
        now = time.monotonic()
        for worker in self.busy:
            if worker not in self._since and self.engine.has_begun(worker):
                self._since[worker] = now
        return {worker: now - since for worker, since in self._since.items()}

    def _freed(self, worker: int) -> tuple[Batch, float]:
        """The batch that a worker had, and the seconds that it has taken."""
        self._reported.discard(worker)
        now = time.monotonic()
        return self.busy.pop(worker), now - self._since.pop(worker, now)

    def _late(self) -> list[int]:
        """The workers that have taken too long."""
        limit_s = self.engine.limit_s
        if limit_s is None:
            return []
        taken = self._taken().items()
        return [
            worker for worker, taken_s in taken if taken_s > limit_s * len(self.busy[worker].jobs)
        ]

    def _report_slow(self) -> None:
        """Warn of a worker that takes far longer than all before, once for each batch. How long a
        job may take is not known, so only a limit that the user sets ends it.
        """
        if self._longest_s is None or self.engine.divides_once:
            return
        for worker, taken_s in self._taken().items():
            batch = self.busy[worker]
            usual_s = self._longest_s * len(batch.jobs)
            if taken_s > max(SLOW_S, SLOW_FACTOR * usual_s) and worker not in self._reported:
                self._reported.add(worker)
                log.warning(
                    "%s: worker %d has taken %.0f s, and a job before took %.0f s at most. If it "
                    "hangs, stop this command and start it again with --job-limit SECONDS; what is "
                    "finished stays.",
                    batch,
                    worker + 1,
                    taken_s,
                    self._longest_s,
                )
