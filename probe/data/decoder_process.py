"""The other end of ``--isolate-decode``: a process that decodes what it is asked for, one file
after another, until it dies.

It imports numpy, soundfile and soxr, no torch. Requests come on stdin, answers go to stdout: each a
head (`HEAD`: mark, length) and that many bytes of JSON; samples follow as plain float32. Whatever
reads an answer trusts nothing in it (`probe.data.guarded_decoding`).
"""

import contextlib
import json
import os
import resource
import signal
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probe.data.audio import Audio, header_duration_s, load_audio
from probe.data.audio_bytes import Deadline
from probe.errors import UtteranceError

HEAD = struct.Struct("<4sI")
MARK = b"prb1"
MOST_REASON = 2000  # characters
# Ends a process whose parent is gone or stuck; the parent does not wait so long.
LAST_RESORT_S = 30


@dataclass(frozen=True)
class Request:
    """One file to decode, or to be asked for its header's duration (``rate_hz`` 0)."""

    path: str
    rate_hz: int
    duration_s: float | None
    root: str | None
    timeout_s: float


def answer(request: Request) -> Audio | float | None:
    """The audio, or the seconds that the header claims.

    Raises:
        UtteranceError: as `load_audio`.
    """
    root = Path(request.root) if request.root is not None else None
    if not request.rate_hz:
        return header_duration_s(Path(request.path), root=root)
    deadline = Deadline(request.timeout_s)
    return load_audio(
        Path(request.path), request.rate_hz, request.duration_s, root=root, deadline=deadline
    )


def packed(value: dict[str, Any]) -> bytes:
    """A message: head and JSON. Paths that are not UTF-8 survive as escapes."""
    body = json.dumps(value).encode()
    return HEAD.pack(MARK, len(body)) + body


def main() -> None:
    """Answers until stdin ends."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the parent, which ends this process by closing stdin
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(
        OSError
    ):  # where memory runs out, one utterance is to be lost, not the run
        Path("/proc/self/oom_score_adj").write_text("500")
    requests, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    sys.stderr = os.fdopen(os.dup(2), "w")
    for printed in (
        1,
        2,
    ):  # what a library prints is no answer, and damaged MP3 make libmpg123 print a lot
        os.dup2(os.open(os.devnull, os.O_WRONLY), printed)
    _write(answers, packed({"ready": True}))
    while head := requests.read(HEAD.size):
        request = Request(**json.loads(requests.read(HEAD.unpack(head)[1])))
        signal.setitimer(signal.ITIMER_REAL, request.timeout_s + LAST_RESORT_S)
        samples = np.zeros(0, np.float32)
        try:
            found = answer(request)
            if isinstance(found, Audio):
                samples = found.samples
                fields = {**vars(found), "samples": len(samples)}
            else:
                fields = {"seconds": found}
        except UtteranceError as error:
            cause = error.__cause__
            fields = {
                "refused": str(error)[:MOST_REASON],
                "late": isinstance(cause, TimeoutError),
                "unreadable": isinstance(cause, OSError),
            }
        _write(answers, packed(fields))
        _write(answers, samples.data.cast("B") if len(samples) else b"")
        signal.setitimer(signal.ITIMER_REAL, 0)


def _write(descriptor: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.exit(1)
