"""What a worker does with the batches that it is given, on every engine; and the process that is a
worker of the engine on this machine.
"""

import contextlib
import logging
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from probe.engines.engine import Answer, Do, End, Refusal, Results
from probe.errors import EXIT_TERMINATED, ProbeError, UsageError

GRACE_S = 10.0  # for releasing claims
BEAT_S = 2.0  # between two signs of life


class Worker:
    """A worker, which keeps the work that it has opened."""

    def __init__(self) -> None:
        self._do: Do | None = None
        log_warnings()

    def answer(self, content: bytes | None, jobs: Sequence[Any]) -> Answer:
        """Do a batch.

        Args:
            content: pickled work; None means that of the batch before.
        """
        try:
            if content is not None:
                self._do = None  # frees a model before the next one is opened
                self._do = pickle.loads(content).open()  # noqa: S301 (from this package's driver)
        except ProbeError as error:
            return Refusal(str(error), isinstance(error, UsageError), at_open=True)
        except Exception as error:
            return self._end(error)
        assert self._do is not None
        try:
            return Results(list(self._do(jobs)))
        except ProbeError as error:
            return Refusal(str(error), isinstance(error, UsageError), at_open=False)
        except Exception as error:
            return self._end(error)

    def _end(self, error: Exception) -> End:
        """The end after an error that is no `ProbeError`, such as a GPU without memory: what the
        process holds cannot be trusted any more.
        """
        traceback.print_exc()
        first_line = (str(error).splitlines() or [""])[0]
        return End(f"ended with {type(error).__name__}: {first_line}")


def log_warnings() -> None:
    """Write the warnings of this package to stderr, in a process that has no command line."""
    log = logging.getLogger("probe")
    if not log.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.WARNING)
        log.propagate = False


def end_on_signals() -> None:
    """Let the signals with which schedulers announce the end of a job end this process, with its
    claims released.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(EXIT_TERMINATED)

    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, stop)


def serve(connection: Connection) -> None:
    """Answer the batches that come through a connection, until its other end is closed, and send
    None every `BEAT_S` seconds as a sign of life.
    """
    sending = threading.Lock()
    batches: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def receive() -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                batches.put(connection.recv_bytes())
        os.kill(os.getpid(), signal.SIGTERM)  # the driver has ended
        time.sleep(GRACE_S)
        os._exit(EXIT_TERMINATED)

    def send(answer: Answer | None) -> None:
        with sending:
            connection.send(answer)

    def beat() -> None:
        with contextlib.suppress(OSError):  # the driver has ended: see receive
            while True:
                time.sleep(BEAT_S)
                send(None)

    end_on_signals()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver ends its workers
    worker = Worker()
    for call in (receive, beat):
        threading.Thread(target=call, name=call.__name__, daemon=True).start()
    while True:
        # In this thread: an error, such as a module that cannot be imported, ends the worker.
        batch = pickle.loads(batches.get())  # noqa: S301 (from this package's driver)
        send(worker.answer(*batch))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
