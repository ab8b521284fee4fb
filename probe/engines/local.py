"""Workers on this machine, each of them a process."""

import contextlib
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from signal import Signals

from probe.engines.engine import Answer, Batch, End, Engine

GRACE_S = 10.0  # in which a worker releases its claims
SILENCE_S = 300.0  # after which a worker without a sign of life is ended


@dataclass
class _Process:
    """A worker.

    Attributes:
        heard: when it was started, or last sent something (`time.monotonic`).
        version: of the work that it has.
    """

    process: subprocess.Popen[str]
    connection: Connection
    heard: float
    version: int = 0


class Local(Engine):
    """Workers on this machine.

    Args:
        n_cores: threads that each worker computes with; None leaves them to its environment.
        gpus: values of ``CUDA_VISIBLE_DEVICES``, which are dealt to the workers in turn.
    """

    def __init__(
        self,
        n_workers: int,
        n_cores: int | None = None,
        gpus: Sequence[str] = (),
        limit_s: float | None = None,
    ) -> None:
        super().__init__(n_workers, limit_s)
        self._n_cores, self._gpus = n_cores, gpus
        self._processes: dict[int, _Process] = {}

    def give(self, batches: Mapping[int, Batch]) -> None:
        """See `Engine.give`."""
        for number, batch in batches.items():
            worker = self._processes.get(number) or self._start(number)
            content = None if worker.version == self.version else self.content
            worker.version = self.version
            with contextlib.suppress(BrokenPipeError, ConnectionError):  # it has ended: see answers
                worker.connection.send((content, batch.jobs))

    def answers(self, timeout_s: float) -> Iterator[tuple[int, Answer]]:
        """See `Engine.answers`."""
        numbers = {worker.connection: number for number, worker in self._processes.items()}
        ready, now = wait(list(numbers), timeout_s), time.monotonic()
        for connection, number in numbers.items():
            worker = self._processes[number]
            if connection in ready:
                worker.heard = now
                try:
                    answer = connection.recv()
                except (EOFError, OSError):
                    answer = End(self._reason(worker.process))
                if answer is not None:
                    yield number, answer
            elif now - worker.heard > SILENCE_S:
                yield number, End(f"gave no sign of life for {SILENCE_S:.0f} s")

    def end(self, worker: int) -> None:
        """See `Engine.end`."""
        if worker in self._processes:
            self._end([self._processes.pop(worker)])

    def close(self) -> None:
        """See `Engine.close`."""
        self._end([self._processes.pop(number) for number in list(self._processes)])

    def _start(self, number: int) -> _Process:
        ours, theirs = multiprocessing.Pipe()
        variables = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        if self._n_cores is not None:
            variables["OMP_NUM_THREADS"] = str(self._n_cores)
        if self._gpus:
            variables["CUDA_VISIBLE_DEVICES"] = self._gpus[number % len(self._gpus)]
        process = subprocess.Popen(  # noqa: S603 (this interpreter)
            [sys.executable, "-m", "probe.engines.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        theirs.close()
        threading.Thread(target=_forward, args=(process, number), daemon=True).start()
        self._processes[number] = _Process(process, ours, time.monotonic())
        return self._processes[number]

    @staticmethod
    def _reason(process: subprocess.Popen[str]) -> str:
        """Why a process has ended."""
        try:
            code = process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        if code >= 0:
            return f"ended with exit code {code}"
        name = Signals(-code).name
        memory = ", as the system does when memory runs out" if name == "SIGKILL" else ""
        return f"was killed by {name}{memory}"

    @staticmethod
    def _end(workers: Sequence[_Process]) -> None:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            try:
                worker.process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.connection.close()


def _forward(process: subprocess.Popen[str], number: int) -> None:
    """Write the lines of a worker to stderr, with its number."""
    from tqdm import tqdm

    assert process.stdout is not None
    for line in process.stdout:
        tqdm.write(f"worker {number + 1}: {line.rstrip()}", file=sys.stderr)
