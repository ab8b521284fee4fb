"""Decoding with a time limit for each file and, on request, in a process of its own.

Files are decoded by a thread that is abandoned when the file takes too long, since a read from
a dead server cannot be ended from outside. Without isolation, a crash of the decoder ends the
program. With isolation, the thread asks a child process, which keeps decoding file after file. The
child is killed when a file takes too long, and replaced when it dies. The samples are the same bits
either way.

A request and its answer are one message of JSON each; samples follow as a message of float32. The
child runs this module, imports no torch, and ends when its connection closes.
"""

import contextlib
import functools
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np

from probe.data.audio import Audio, header_duration_s
from probe.data.audio_bytes import Deadline
from probe.data.excerpts import WHOLE, Excerpt
from probe.data.recordings import Recordings
from probe.errors import ProbeError, UsageError, UtteranceError
from probe.remote.paths import RemotePath, audio_path

log = logging.getLogger("probe")

TIMEOUT_S = 60.0
LONGEST_TIMEOUT_S = 86_400.0
# Extra time before a thread or child is given up: it checks the clock itself between blocks.
GRACE_S = 2.0
START_S = 120.0
LAST_RESORT_S = 30  # after which a child ends itself, in case its parent is gone or stuck
CHILD = (sys.executable, "-P", "-m", "probe.data.guarded_decoding")


@dataclass(frozen=True)
class Request:
    """An excerpt of a file to decode, or only to read its duration from the header (``rate_hz`` 0).

    Attributes:
        more_to_come: whether the recording stays open for further excerpts.
    """

    path: str
    rate_hz: int
    duration_s: float | None
    root: str | None
    timeout_s: float
    excerpt: Excerpt = WHOLE
    more_to_come: bool = False


def answer(request: Request, recordings: Recordings) -> Audio | float | None:
    """The audio, or the seconds that the header claims.

    Raises:
        UtteranceError: as `probe.data.audio.load_audio`.
    """
    path, root = audio_path(request.path), Path(request.root) if request.root is not None else None
    if not request.rate_hz:
        return header_duration_s(path, request.excerpt, root=root)
    recordings.root = root
    return recordings.load(
        path,
        request.rate_hz,
        request.duration_s,
        excerpt=request.excerpt,
        more_to_come=request.more_to_come,
        deadline=Deadline(request.timeout_s),
    )


class Decoder:
    """Decodes one file at a time, and holds a recording open while more excerpts of it are to come.
    A context manager: leaving it ends its thread and process.

    Args:
        root: the folder that every file must lie in, with symbolic links resolved.
        isolate: decode in a child process.
        timeout_s: for one file.

    Raises:
        UsageError: ``timeout_s`` is out of range.
    """

    def __init__(
        self, root: Path | None = None, isolate: bool = False, timeout_s: float = TIMEOUT_S
    ) -> None:
        if not 0 < timeout_s <= LONGEST_TIMEOUT_S:
            raise UsageError(
                f"--decode-timeout {timeout_s}: expected more than 0 and at most "
                f"{LONGEST_TIMEOUT_S:.0f} seconds."
            )
        self.root, self.isolate, self.timeout_s = root, isolate, timeout_s
        self._child: _Child | None = None
        self._recordings = Recordings()
        self._tasks: queue.SimpleQueue[Any] | None = None
        self._outcome: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def load(
        self,
        path: Path,
        rate_hz: int,
        duration_s: float | None = None,
        *,
        excerpt: Excerpt = WHOLE,
        more_to_come: bool = False,
    ) -> Audio:
        """A file's audio, as `probe.data.audio.load_audio` gives it.

        Args:
            more_to_come: whether further excerpts of the recording will be asked for; it is then
                read once.

        Raises:
            UtteranceError: as there; or decoding took too long, or the child process died. Where
                that says nothing about the audio, the error's cause is an ``OSError``.
            ProbeError: the child process does not start.
        """
        return self._ask(path, rate_hz, duration_s, excerpt, more_to_come)

    def header_duration_s(self, path: Path, excerpt: Excerpt = WHOLE) -> float | None:
        """Seconds that a file's header claims of an excerpt; None where it claims nothing usable in
        time.
        """
        try:
            return self._ask(path, 0, None, excerpt, False)
        except UtteranceError:
            return None

    def _ask(
        self,
        path: Path,
        rate_hz: int,
        duration_s: float | None,
        excerpt: Excerpt,
        more_to_come: bool,
    ) -> Any:
        root = os.path.realpath(self.root) if self.root is not None else None
        # Unlike Path.resolve, abspath follows no symbolic link.
        place = str(path) if isinstance(path, RemotePath) else os.path.abspath(path)  # noqa: PTH100
        request = Request(place, rate_hz, duration_s, root, self.timeout_s, excerpt, more_to_come)
        if not self.isolate:
            # A thread that was given up keeps its own.
            return self._within(
                self.timeout_s, functools.partial(answer, request, self._recordings)
            )
        if self._child is None or not self._child.is_alive:
            self.close()
            self._child = _Child()
            try:
                self._within(START_S, self._child.receive)
            except UtteranceError as error:
                raise ProbeError(
                    f"--isolate-decode: {error}, before it decoded anything. Leave the option out."
                ) from error
        try:
            return self._within(self.timeout_s, functools.partial(self._child.answer, request))
        except UtteranceError as error:
            if isinstance(error.__cause__, ChildProcessError):
                log.info("%s: %s", path, error)
                self.close()
            raise

    def _within(self, seconds: float, function: Callable[[], Any]) -> Any:
        """What ``function`` returns or raises in a thread that is abandoned when time is over."""
        outcome: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._outcome = outcome
        tasks = self._tasks  # another thread may close this decoder meanwhile
        if tasks is None:
            tasks = self._tasks = queue.SimpleQueue()
            # A daemon does not keep the program from ending.
            threading.Thread(target=_work, args=(tasks,), name="decoder", daemon=True).start()
        tasks.put((function, outcome))
        try:
            value, error = outcome.get(timeout=seconds + GRACE_S)
        except queue.Empty:
            self.close()
            value, error = None, Deadline(seconds).missed()
        if error is not None:
            raise error
        return value

    def close(self) -> None:
        """Ends the thread and the process, and releases a caller that still waits."""
        self._recordings = Recordings()
        self._outcome.put((None, UtteranceError("the decoder was closed")))
        if self._tasks is not None:
            self._tasks.put(None)
            self._tasks = None
        if self._child is not None:
            self._child.close()
            self._child = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _work(tasks: queue.SimpleQueue) -> None:
    """Put what each function returns or raises into its outcome."""
    while (task := tasks.get()) is not None:
        function, outcome = task
        try:
            outcome.put((function(), None))
        except Exception as error:  # raised again by the caller
            outcome.put((None, error))
        del task, function, outcome  # otherwise the pipe of a dead child would stay open


class _Child:
    """A child process that decodes, as its parent sees it."""

    def __init__(self) -> None:
        self._connection, other = Pipe()
        package_folder = str(Path(__file__).resolve().parents[2])
        search_path = [package_folder, os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(  # noqa: S603 - a fixed command of this very package
            [*CHILD, str(other.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[other.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, search_path))},
        )
        other.close()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def answer(self, request: Request) -> Audio | float | None:
        """The child's answer to a request.

        Raises:
            UtteranceError: what the child raised; its cause is a ``ChildProcessError`` where the
                child died or answered nonsense.
        """
        with contextlib.suppress(BrokenPipeError):  # reading says how it died
            self._connection.send_bytes(json.dumps(asdict(request)).encode())
        fields = self.receive()
        if "refused" in fields:
            reason = str(fields["refused"])
            raise UtteranceError(reason) from (OSError(reason) if fields["unreadable"] else None)
        if "seconds" in fields:
            return fields["seconds"]
        samples = np.frombuffer(bytearray(self.receive(is_samples=True)), np.float32)
        if not np.isfinite(samples).all():
            self._give_up("answered with samples that are not finite")
        return Audio(**{**fields, "samples": samples, "flags": tuple(fields["flags"])})

    def receive(self, is_samples: bool = False) -> Any:
        """The next message: a JSON object, or the bytes of samples."""
        try:
            content = self._connection.recv_bytes()
            return content if is_samples else dict(json.loads(content))
        except (EOFError, ConnectionError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            code = self._process.returncode
            if code is not None and -code in set(signal.Signals):
                self._give_up(f"died with {signal.Signals(-code).name}")
            self._give_up(f"ended with exit code {code}")
        except (OSError, TypeError, ValueError) as error:
            self._give_up(f"answered nonsense ({error})")

    def _give_up(self, what: str) -> NoReturn:
        """Raises; the cause says that retrying may help, since the child may have been killed."""
        raise UtteranceError(f"the decoder process {what}") from ChildProcessError(what)

    def close(self) -> None:
        self._process.kill()  # it has nothing to clean up; the thread that reads closes the pipe
        self._process.wait()


def main() -> None:
    """Decode in the child process whatever the connection asks for, until it closes."""
    import resource  # POSIX only, and this module is imported on every system

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends this process
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # if memory runs out, lose one utterance and not the run
        Path("/proc/self/oom_score_adj").write_text("500")
    # Damaged MP3 files make libmpg123 print a lot to the standard error; keep it for tracebacks.
    sys.stderr = os.fdopen(os.dup(2), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    connection = Connection(int(sys.argv[-1]))
    connection.send_bytes(b"{}")
    recordings = Recordings()
    while True:
        try:
            fields = json.loads(connection.recv_bytes())
            request = Request(**{**fields, "excerpt": Excerpt(**fields["excerpt"])})
        except (EOFError, ConnectionError):
            return
        signal.setitimer(signal.ITIMER_REAL, request.timeout_s + LAST_RESORT_S)
        samples = None
        try:
            value = answer(request, recordings)
            fields = {"seconds": value}
            if isinstance(value, Audio):
                samples, fields = value.samples, {**vars(value), "samples": None}
        except UtteranceError as error:
            unreadable = isinstance(error.__cause__, OSError | MemoryError)
            fields = {"refused": str(error), "unreadable": unreadable}
        connection.send_bytes(json.dumps(fields).encode())
        if samples is not None:
            connection.send_bytes(samples.data.cast("B") if len(samples) else b"")
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main()
