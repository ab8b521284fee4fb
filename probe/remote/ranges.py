"""Parts of a remote object, and many small objects at the same time."""

import errno
import functools
import io
import os
from collections.abc import Sequence
from typing import Any

from probe.garbage import uncollected
from probe.remote.answers import reporting
from probe.remote.paths import RemotePath

BLOCK_BYTES = 1 << 14  # of small reads: HDF5 asks for its metadata in pieces of some hundred bytes
MOST_BLOCKS = 256
PIECE_BYTES = 1 << 23  # of large reads, which are made of pieces that are fetched at the same time
NEAR_BYTES = 1 << 12  # ranges with no more between them are fetched as one


class RangeReader(io.RawIOBase):
    """Reads parts of an object, each part by one request, and small ones by blocks that are kept.

    Attributes:
        path: of the object.
        error: what kept a part from being read; HDF5 loses it on the way.
        n_requests, n_bytes: made and received so far.
    """

    def __init__(self, path: RemotePath, content: bytes | None = None) -> None:
        """Ask for the size.

        Args:
            content: the whole object, where it was fetched before; then nothing is asked.
        """
        self.path = path
        self.error: OSError | None = None
        self.n_requests = self.n_bytes = 0
        self._size = path.stat().st_size if content is None else len(content)
        self._position = 0
        # First byte -> bytes that `fetch` keeps.
        self._pieces: dict[int, bytes] = {} if content is None else {0: content}
        self._block = functools.lru_cache(MOST_BLOCKS)(self._fetched_block)

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position of the next byte."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; only the end of the object leaves a part of it unfilled."""
        room = memoryview(buffer).cast("B")
        data = self.range(self._position, self._position + len(room))
        room[: len(data)] = data
        self._position += len(data)
        return len(data)

    def range(self, first: int, stop: int) -> bytes:
        """The bytes from ``first`` to before ``stop``, or to the end of the object."""
        stop = min(stop, self._size)
        if first >= stop:
            return b""
        for start, piece in self._pieces.items():
            if start <= first and stop <= start + len(piece):
                return piece[first - start : stop - start]
        if stop - first >= BLOCK_BYTES:
            return b"".join(self._get(_cut([(first, stop)])))
        numbers = range(first // BLOCK_BYTES, (stop - 1) // BLOCK_BYTES + 1)
        data = b"".join(map(self._block, numbers))
        start = numbers[0] * BLOCK_BYTES
        return data[first - start : stop - start]

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Get (first byte, byte behind the last) of some parts at the same time, and keep them
        in place of those that were kept before.
        """
        wholes = _merged(ranges)
        cut = _cut(wholes)
        pieces = dict(zip(cut, self._get(cut), strict=True))
        self._pieces = {
            first: b"".join(piece for (at, _), piece in pieces.items() if first <= at < stop)
            for first, stop in wholes
        }

    def _fetched_block(self, number: int) -> bytes:
        start = number * BLOCK_BYTES
        return self._get([(start, min(start + BLOCK_BYTES, self._size))])[0]

    def _get(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        # HDF5 reads while h5py's lock is held. Where the thread of fsspec that gets the bytes
        # collects an object of h5py at that time, it waits for this lock for ever (h5py issue
        # 2019).
        try:
            with reporting(self.path), uncollected():
                files, name = self.path.place()
                starts, stops = map(list, zip(*ranges, strict=True))
                parts = files.cat_ranges([name] * len(ranges), starts, stops, on_error="return")
                for part, (first, stop) in zip(parts, ranges, strict=True):
                    if isinstance(part, BaseException):
                        raise part
                    if len(part) != stop - first:
                        text = f"{len(part)} of the {stop - first} bytes from {first} on came"
                        raise OSError(errno.EIO, text)
        except OSError as error:
            self.error = error
            raise
        self.n_requests += len(ranges)
        self.n_bytes += sum(map(len, parts))
        return list(map(bytes, parts))


def read_all(paths: Sequence[RemotePath]) -> list[bytes | OSError]:
    """The content of objects of one file system, many of which are read at the same time; for one
    that cannot be read, the reason.
    """
    if not paths:
        return []
    with reporting(paths[0]):
        files, _ = paths[0].place()
        names = [files._strip_protocol(str(path)) for path in paths]
        nothing: list[None] = [None] * len(names)
        contents = files.cat_ranges(names, nothing, nothing, on_error="return")
    results: list[bytes | OSError] = []
    for path, content in zip(paths, contents, strict=True):
        try:
            with reporting(path):
                if isinstance(content, BaseException):
                    raise content
            results.append(bytes(content))
        except OSError as error:
            results.append(error)
    return results


def _merged(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges in order, with those that are near one another merged."""
    merged: list[tuple[int, int]] = []
    for first, stop in sorted(ranges):
        if merged and first - merged[-1][1] <= NEAR_BYTES:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((first, stop))
    return merged


def _cut(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges of at most `PIECE_BYTES` each."""
    return [
        (start, min(start + PIECE_BYTES, stop))
        for first, stop in ranges
        for start in range(first, stop, PIECE_BYTES)
    ]
