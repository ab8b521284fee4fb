"""A file's bytes, whatever stands at its path: regular files only, within a folder, a size and a
time limit.

A path in a manifest is not to be trusted: it may name a FIFO that nobody writes to, a device, a
file of 10 GB, or something outside the corpus. Everything that reads audio opens it here.
"""

import functools
import hashlib
import io
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from probe.data.archives import member_of, start_of, unpacked
from probe.errors import UtteranceError
from probe.files import sha256_of_file
from probe.remote.paths import RemotePath

# Returns the bytes of a file from a position on, at most so many.
Read = Callable[[int, int], bytes]
# WAV's own limit, and 12 hours of 16-bit stereo at 24 kHz. A file is held in memory while it is
# decoded.
MOST_BYTES = 1 << 32
READ_BYTES = 1 << 20


def reader_of(content: bytes) -> Read:
    """Reads from bytes in memory."""
    return lambda start, n: content[start : start + n]


class Deadline:
    """A time by which a file has to be decoded, so many seconds from now."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._end = seconds, time.monotonic() + seconds

    def check(self) -> None:
        """Raises where the time is over."""
        if time.monotonic() > self._end:
            raise self.missed()

    def missed(self) -> UtteranceError:
        """The error to raise; its cause says that it reveals nothing about the audio."""
        error = UtteranceError(
            f"decoding took longer than {self._seconds:g} s; "
            "a sound file needs a longer --decode-timeout"
        )
        error.__cause__ = TimeoutError(self._seconds)
        return error


@contextmanager
def open_regular(path: Path, root: Path | None = None) -> Iterator[tuple[int, os.stat_result]]:
    """(descriptor, status) of a regular file, open for reading; closed afterwards.

    Nothing here waits: a FIFO opens at once with ``O_NONBLOCK``. The descriptor that will be read
    is checked, not only the path, which may be exchanged meanwhile.

    Args:
        root: the folder that the file must lie in, with all symbolic links resolved.

    Raises:
        UtteranceError: missing, unreadable, not a regular file, or outside ``root``.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        place = path
        if root is not None:
            place, flags = Path(os.path.realpath(path)), flags | os.O_NOFOLLOW
            refuse_outside(place, root)
        _refuse_irregular(place.stat())  # before opening it: opening a device may do something
        descriptor = os.open(place, flags)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise cannot_be_read(error) from error
    try:
        status = os.fstat(descriptor)
        _refuse_irregular(status)
        # Where the kernel names the file, no folder on the way was exchanged either.
        name = Path(f"/proc/self/fd/{descriptor}")
        if root is not None and name.is_symlink():
            refuse_outside(name.readlink(), root)
        yield descriptor, status
    finally:
        os.close(descriptor)


def status_of(path: Path, root: Path | None = None) -> os.stat_result:
    """The status of a regular file or of a remote object, see `open_regular`."""
    if not isinstance(path, RemotePath):
        with open_regular(path, root) as (_, status):
            return status
    if root is not None:
        raise UtteranceError(f"is remote, and --audio-root allows only files in {root}")
    try:
        return path.stat()
    except OSError as error:
        raise cannot_be_read(error) from error


def _refuse_irregular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UtteranceError("not a regular file")


def refuse_outside(place: Path, root: Path) -> None:
    """Raises where ``place``, whose symbolic links are resolved, is not in the folder ``root``."""
    if not place.is_relative_to(os.path.realpath(root)):
        raise UtteranceError(f"leads to {place}, which is outside --audio-root {root}")


def cannot_be_read(error: Exception) -> UtteranceError:
    """The error to raise for one of the operating system."""
    return UtteranceError(f"cannot be read: {getattr(error, 'strerror', None) or error}")


def read_regular(
    path: Path, root: Path | None = None, deadline: Deadline | None = None, member: str = ""
) -> tuple[bytes, os.stat_result]:
    """(content, status) of a regular file, read by blocks; never more than `MOST_BYTES`.

    Args:
        member: the name of a file within an archive: its content is returned, with the status of
            the archive.

    Raises:
        UtteranceError: as `open_regular`; or empty, too big, changed while it was read, read too
            slowly, or a member that `probe.data.archives` refuses.
    """
    if isinstance(path, RemotePath):
        return _read_remote(path, root, deadline, member)
    with open_regular(path, root) as (descriptor, status):
        if status.st_size == 0:
            raise UtteranceError("the file is empty (0 bytes)")
        try:
            if member:
                place = member_of(descriptor, status, member)
                _refuse_large(max(place.n_bytes, place.n_stored))
                start = start_of(descriptor, place)
                content = _blocks(descriptor, start, place.n_stored, deadline)
            else:
                _refuse_large(status.st_size)
                # One more byte shows that the file has grown.
                content = _blocks(descriptor, 0, status.st_size + 1, deadline)
            after = os.fstat(descriptor)
        except OSError as error:
            raise cannot_be_read(error) from error
    is_same = (after.st_size, after.st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    if not is_same or len(content) != (place.n_stored if member else status.st_size):
        raise UtteranceError("changed while it was read")
    content = unpacked(place, content) if member else content
    if not content:
        raise UtteranceError("the file is empty (0 bytes)")
    return content, status


def _read_remote(
    path: RemotePath, root: Path | None, deadline: Deadline | None, member: str
) -> tuple[bytes, os.stat_result]:
    if member:
        raise UtteranceError(
            "a member of a remote archive cannot be read; copy the archive to a disk"
        )
    status = status_of(path, root)
    if status.st_size == 0:
        raise UtteranceError("the file is empty (0 bytes)")
    _refuse_large(status.st_size)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise cannot_be_read(error) from error
    if deadline is not None:
        deadline.check()
    if len(content) != status.st_size:
        raise UtteranceError("changed while it was read")
    return content, status


def _refuse_large(n_bytes: int) -> None:
    if n_bytes > MOST_BYTES:
        raise UtteranceError(
            f"{n_bytes / 1e9:.1f} GB; expected at most {MOST_BYTES / 1e9:.1f} GB. "
            "Cut it into utterances"
        )


def _blocks(descriptor: int, start: int, n_bytes: int, deadline: Deadline | None) -> bytes:
    """So many bytes from a position on, or fewer at the end of the file."""
    os.lseek(descriptor, start, os.SEEK_SET)
    content = io.BytesIO()  # gives its bytes without a second copy, unlike joining blocks
    while n_bytes and (block := os.read(descriptor, min(n_bytes, READ_BYTES))):
        content.write(block)
        n_bytes -= len(block)
        if deadline is not None:
            deadline.check()
    return content.getvalue()


def sha256_of_audio(path: Path, member: str = "") -> str:
    """Hex sha256 of a file's bytes, or of a member's within an archive; read again only where the
    file has changed.

    Raises:
        OSError: it cannot be read.
    """
    status = path.stat()
    return _sha256(path, member, (status.st_ino, status.st_size, status.st_mtime_ns))


@functools.lru_cache(1024)
def _sha256(path: Path, member: str, state: tuple[int, ...]) -> str:
    """``state`` is not read: where it differs, the file is another one."""
    if not member:
        return sha256_of_file(path)
    try:
        return hashlib.sha256(read_regular(path, member=member)[0]).hexdigest()
    except UtteranceError as error:
        raise OSError(str(error)) from error
