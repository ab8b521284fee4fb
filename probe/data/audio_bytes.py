"""A file's bytes, whatever stands at its path: regular files only, within a folder, a size and a
time.

A path in a manifest is not to be trusted: it may name a FIFO that nobody writes to, a device, a
file of 10 GB, or something outside the corpus. Everything that reads audio opens it here.
"""

import io
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from probe.errors import ProbeError, UtteranceError

# WAV's own limit, and 12 hours of 16-bit stereo at 24 kHz. A file is held in memory while it is
# decoded.
MOST_BYTES = 1 << 32
READ_BYTES = 1 << 20


def refuse_rows_in_quotes(
    where: str, values: Iterable[str], is_utterance: Callable[[str], bool]
) -> None:
    """Refuse a CSV row with a field that holds other rows: a double quote was never closed.

    Args:
        where: the file and the line, for the message.
        values: the fields of the row.
        is_utterance: whether a text names an utterance, as a field of each row does.

    Raises:
        ProbeError: a field goes over several lines, and a later one names an utterance.
    """
    for line in (line for value in values for line in value.splitlines()[1:]):
        if any(is_utterance(field.strip(' "')) for field in line.split(",") if field):
            raise ProbeError(
                f"{where}: a quoted field goes on to the row {line[:60]!r}; expected its closing "
                'double quote before. Close it, or write a quote that is part of a text as "" '
                "within a quoted field."
            )


class Deadline:
    """A time by which a file has to be decoded.

    Attributes:
        seconds: how long it was given.
        at: the time on `time.monotonic`.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.at = time.monotonic() + seconds

    def check(self) -> None:
        """Raises where the time is over."""
        if time.monotonic() > self.at:
            raise self.missed()

    def missed(self) -> UtteranceError:
        """What to raise; its cause says that this tells nothing about the audio."""
        error = UtteranceError(
            f"decoding took longer than {self.seconds:g} s; a sound file needs a longer --decode-timeout"
        )
        error.__cause__ = TimeoutError(self.seconds)
        return error


@contextmanager
def open_regular(path: Path, root: Path | None = None) -> Iterator[tuple[int, os.stat_result]]:
    """(descriptor, status) of a regular file, open for reading; closed afterwards.

    Nothing here waits: a FIFO opens at once with ``O_NONBLOCK``; what is judged is the descriptor
    that will be read, not the path, which may be exchanged meanwhile.

    Args:
        root: the folder that the file must lie in, with all symbolic links resolved.

    Raises:
        UtteranceError: not there, not to be read, not a regular file, or outside ``root``.
    """
    try:
        place = path if root is None else Path(os.path.realpath(path))
        if root is not None:
            refuse_outside(place, root)
        if not stat.S_ISREG(
            place.stat().st_mode
        ):  # without opening it: opening a device may do something
            raise UtteranceError("not a regular file")
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        descriptor = os.open(place, flags if root is None else flags | os.O_NOFOLLOW)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise cannot_be_read(error) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UtteranceError("not a regular file")
        opened = Path(
            f"/proc/self/fd/{descriptor}"
        )  # where the kernel tells it, a folder on the way was not exchanged either
        if root is not None and opened.is_symlink():
            refuse_outside(opened.readlink(), root)
        yield descriptor, status
    finally:
        os.close(descriptor)


def refuse_outside(place: Path, root: Path) -> None:
    """Raises where ``place``, whose symbolic links are resolved, is not in the folder ``root``."""
    if not place.is_relative_to(os.path.realpath(root)):
        raise UtteranceError(f"leads to {place}, which is outside --audio-root {root}")


def cannot_be_read(error: Exception) -> UtteranceError:
    """What to raise for an error of the operating system."""
    return UtteranceError(f"cannot be read: {getattr(error, 'strerror', None) or error}")


def read_regular(
    path: Path, root: Path | None = None, deadline: Deadline | None = None
) -> tuple[bytes, os.stat_result]:
    """(content, status) of a regular file, read by blocks; never more than `MOST_BYTES`.

    Raises:
        UtteranceError: as `open_regular`; or empty, too big, changed while it was read, or not
            there in time.
    """
    with open_regular(path, root) as (descriptor, status):
        if status.st_size == 0:
            raise UtteranceError("the file is empty (0 bytes)")
        if status.st_size > MOST_BYTES:
            raise UtteranceError(
                f"{status.st_size / 1e9:.1f} GB; expected at most {MOST_BYTES / 1e9:.1f} GB. Cut it into utterances"
            )
        content = io.BytesIO()  # gives its bytes without a second copy, unlike joining blocks
        left = status.st_size + 1  # one more shows that the file has grown
        try:
            while left and (block := os.read(descriptor, min(left, READ_BYTES))):
                content.write(block)
                left -= len(block)
                if deadline is not None:
                    deadline.check()
            after = os.fstat(descriptor)
        except OSError as error:
            raise cannot_be_read(error) from error
    if left != 1 or (after.st_size, after.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
        raise UtteranceError("changed while it was read")
    return content.getvalue(), status
