"""Decoding that may fail in any way and costs one utterance: a time for each file, and on request a
process of its own.

Without isolation, files are decoded by a thread that is given up when a file takes too long (a read
from a server that is gone cannot be ended from outside); a crash of the decoder ends the program.
With it, a child process decodes: it is killed when a file takes too long, and when it dies, another
takes its place. The samples are the same bits either way.
"""

import json
import logging
import math
import os
import queue
import re
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np

from probe.data.audio import LONGEST_S, Audio
from probe.data.audio_bytes import Deadline
from probe.data.decoder_process import HEAD, MARK, Request, answer, packed
from probe.data.sound_flags import FLAGS
from probe.errors import ProbeError, UsageError, UtteranceError

log = logging.getLogger("probe")

TIMEOUT_S = 60.0
LONGEST_TIMEOUT_S = 86_400.0
# What a thread or child gets beyond its time before it is given up: it looks at the clock itself
# between blocks.
GRACE_S = 2.0
START_S = 120.0
MOST_HEAD_BYTES = 1 << 16
CHILD = (sys.executable, "-P", "-m", "probe.data.decoder_process")


class Decoder:
    """Decodes one file at a time. A context manager: leaving it ends its thread or process.

    Args:
        root: the folder that every file must lie in, with symbolic links resolved.
        isolate: decode in a child process.
        timeout_s: for one file.

    Raises:
        UsageError: a time that is none.
    """

    def __init__(
        self, root: Path | None = None, isolate: bool = False, timeout_s: float = TIMEOUT_S
    ) -> None:
        if not 0 < timeout_s <= LONGEST_TIMEOUT_S:
            raise UsageError(
                f"--decode-timeout {timeout_s}: expected more than 0 and at most {LONGEST_TIMEOUT_S:.0f} seconds."
            )
        self.root, self.timeout_s = root, timeout_s
        self._worker: _Child | _Thread = _Child() if isolate else _Thread()

    def load(self, path: Path, rate_hz: int, duration_s: float | None = None) -> Audio:
        """A file's audio, as `probe.data.audio.load_audio` gives it.

        Raises:
            UtteranceError: as there; or it took too long, or the child process died of it. Where
                that says nothing about the audio, the error's cause is an ``OSError``.
            ProbeError: the child process does not start.
        """
        found = self._worker.ask(self._request(path, rate_hz, duration_s))
        if not isinstance(found, Audio):
            raise UtteranceError("the decoder gave no audio")
        return found

    def header_duration_s(self, path: Path) -> float | None:
        """Seconds that a file's header claims; None where it claims nothing usable, or does not in
        time.
        """
        try:
            found = self._worker.ask(self._request(path, 0, None))
        except UtteranceError:
            return None
        return found if isinstance(found, float) else None

    def _request(self, path: Path, rate_hz: int, duration_s: float | None) -> Request:
        root = os.path.realpath(self.root) if self.root is not None else None
        return Request(os.path.abspath(path), rate_hz, duration_s, root, self.timeout_s)  # noqa: PTH100 - resolves no link

    def close(self) -> None:
        """Ends the thread or the process."""
        self._worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Thread:
    """A thread of this process; it does not keep the program from ending."""

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue | None = None
        self._box: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

    def ask(self, request: Request) -> Audio | float | None:
        if self._requests is None:
            self._requests = queue.SimpleQueue()
            threading.Thread(
                target=_serve, args=(self._requests,), name="decoder", daemon=True
            ).start()
        box: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()
        self._box = box
        self._requests.put((request, box))
        try:
            found, error = box.get(timeout=request.timeout_s + GRACE_S)
        except queue.Empty:
            self.close()  # it ends when the read does, if ever
            found, error = None, Deadline(request.timeout_s).missed()
        if error is not None:
            raise error
        return found

    def close(self) -> None:
        if self._requests is not None:
            self._requests.put(None)
            self._requests = None
            self._box.put((None, UtteranceError("the decoder was closed")))  # for whoever waits


def _serve(requests: queue.SimpleQueue) -> None:
    while (item := requests.get()) is not None:
        request, box = item
        try:
            box.put((answer(request), None))
        except Exception as error:  # raised by the one who asked
            box.put((None, error))


class _Child:
    """A child process, started when the first file is asked for and again after it died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._deadline = Deadline(START_S)

    def ask(self, request: Request) -> Audio | float | None:
        try:
            process = self._send(request)
        except BrokenPipeError:  # it died between two files; that is nobody's fault
            self.close()
            process = self._send(request)
        try:
            fields = self._head(process)
            if "refused" in fields:
                return _refuse(fields)
            if "seconds" in fields:
                return None if fields["seconds"] is None else float(fields["seconds"])
            return self._audio(process, request, fields)
        except (EOFError, TimeoutError, LookupError, TypeError, ValueError) as error:
            reason = self._end(process, error)
            log.info("%s: %s", request.path, reason)
            raise reason from reason.__cause__

    def _send(self, request: Request) -> subprocess.Popen:
        process = self._process or self._start()
        _stdin(process).write(packed(vars(request)))
        self._deadline = Deadline(request.timeout_s)
        self._deadline.at += GRACE_S
        return process

    def _start(self) -> subprocess.Popen:
        """A process that says it is ready."""
        above = str(Path(__file__).resolve().parents[2])
        found = os.pathsep.join(filter(None, [above, os.environ.get("PYTHONPATH", "")]))
        self._process = process = subprocess.Popen(  # noqa: S603 - a fixed command of this very package
            CHILD,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": found},
        )
        self._deadline = Deadline(START_S)
        try:
            if self._head(process) != {"ready": True}:
                raise ValueError
        except (EOFError, TimeoutError, ValueError) as error:
            reason = self._end(process, error)
            raise ProbeError(
                f"--isolate-decode: {reason}, before it decoded anything. Leave the option out."
            ) from error
        return process

    def _head(self, process: subprocess.Popen) -> dict[str, Any]:
        """The JSON of the next message."""
        head = bytearray(HEAD.size)
        self._fill(process, memoryview(head))
        mark, length = HEAD.unpack(head)
        if mark != MARK or length > MOST_HEAD_BYTES:
            raise ValueError("no message")
        body = bytearray(length)
        self._fill(process, memoryview(body))
        value = json.loads(body)
        if not isinstance(value, dict):
            raise ValueError("no object")
        return value

    def _audio(self, process: subprocess.Popen, request: Request, fields: dict[str, Any]) -> Audio:
        """The audio that follows a message, with every field looked at."""
        n_samples, seconds = int(fields.pop("samples")), float(fields["duration_s"])
        flags = tuple(fields.pop("flags"))
        sound = Audio(np.zeros(0, np.float32), **fields, flags=flags)
        plain = all(
            isinstance(value, int) and value >= 0
            for value in (sound.file_bytes, sound.native_rate_hz)
        )
        promised = abs(n_samples - seconds * request.rate_hz) <= 2 + seconds  # soxr rounds
        if not (plain and promised and 0 < seconds <= LONGEST_S and set(flags) <= set(FLAGS)):
            raise ValueError("fields that cannot be")
        if not (isinstance(sound.mtime_ns, int) and re.fullmatch("[0-9a-f]{64}", sound.sha256)):
            raise ValueError("fields that cannot be")
        samples = np.empty(n_samples, np.float32)
        if n_samples:
            self._fill(process, samples.data.cast("B"))
        if not np.isfinite(samples).all():
            raise ValueError("samples that are no numbers")
        return replace(sound, samples=samples)

    def _fill(self, process: subprocess.Popen, rest: memoryview) -> None:
        """Reads just so many bytes.

        Raises:
            EOFError, TimeoutError: the process ended before, or the time did.
        """
        descriptor = process.stdout.fileno() if process.stdout else -1
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while rest:
            left_s = self._deadline.at - time.monotonic()
            if left_s <= 0 or not poll.poll(math.ceil(left_s * 1000)):
                raise TimeoutError
            n_read = os.readv(descriptor, [rest])
            if not n_read:
                raise EOFError
            rest = rest[n_read:]

    def _end(self, process: subprocess.Popen, error: Exception) -> UtteranceError:
        """Ends a process that went wrong; returns what is to be said about it."""
        if isinstance(error, EOFError):
            try:
                code = process.wait(5)
            except subprocess.TimeoutExpired:
                code = None
        self.close()
        if isinstance(error, TimeoutError):
            return self._deadline.missed()
        if not isinstance(error, EOFError) or code is None:
            reason = UtteranceError(f"the decoder process answered nonsense ({error})")
        elif code < 0:
            reason = UtteranceError(f"the decoder process died with {_signal_name(-code)}")
        else:
            reason = UtteranceError(f"the decoder process ended with exit code {code}")
        reason.__cause__ = ChildProcessError(
            str(reason)
        )  # it may have been killed from outside: worth another try
        return reason

    def close(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()  # it has nothing to put in order
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _refuse(fields: dict[str, Any]) -> NoReturn:
    """Raises what the child raised."""
    reason = UtteranceError(str(fields["refused"]))
    if fields.get("late"):
        reason.__cause__ = TimeoutError(str(reason))
    elif fields.get("unreadable"):
        reason.__cause__ = OSError(str(reason))
    raise reason


def _stdin(process: subprocess.Popen) -> Any:
    return process.stdin


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
