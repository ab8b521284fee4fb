"""Objects of a remote store as paths: ``s3://``, ``gs://``, ``hf://``, ``memory://`` and any other
URL that fsspec knows. This module is the one door to fsspec, which only a URL loads.

`as_path` turns a text into a path, and `RemotePath` has the operations of `pathlib.Path` that
stores, corpora and records need. An object is written by one request and is there as a whole or
not at all. Credentials and endpoints come from where fsspec and its file systems look for them
(environment, configuration files).

A listing is never taken from a cache, since other runs may write. `AudioPath` is the exception:
the audio of a corpus does not change while a command runs, and a folder of it is listed once.
"""

import contextlib
import errno
import fnmatch
import functools
import hashlib
import io
import os
import re
import stat
from collections.abc import Generator, Iterator, Sequence
from datetime import datetime
from pathlib import Path, PosixPath
from typing import IO, Any, Self

from probe.errors import ProbeError, UsageError
from probe.garbage import uncollected

URL = re.compile(r"([a-z][a-z0-9+.-]*)://(?=[^/])")
# File systems whose creation of an object can be bound to the condition that there is none.
CONDITIONAL = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"}
ONE_REQUEST = {"s3": {"chunksize": 5 << 30}, "s3a": {"chunksize": 5 << 30}}
# Of an address that nobody answers, botocore's own setting takes 10 s to say so.
TRIES = {"retries": {"mode": "standard", "max_attempts": 2}}
BLOCK_BYTES = 1 << 14  # of small reads: HDF5 asks for its metadata in pieces of some hundred bytes
MOST_BLOCKS = 256
PIECE_BYTES = 1 << 23  # of large reads, which are made of pieces that are fetched at the same time
FEW_FILES = 16
NEAR_BYTES = 1 << 12  # ranges with no more between them are fetched as one


def is_url(text: str) -> bool:
    """Whether a text names a remote place: ``SCHEME://`` and more, but not ``file://``."""
    match = URL.match(text)
    return match is not None and match[1] != "file"


def as_path(place: Path | str) -> Path:
    """The path that a text names: a `RemotePath` for a URL; a path stays as it is."""
    if isinstance(place, Path):
        return place
    if place.startswith("file:///"):
        return Path(place.removeprefix("file://"))
    return RemotePath(place) if is_url(place) else Path(place)


def audio_path(file: str) -> Path:
    """The path of an audio file; of a remote one, the status comes from a listing."""
    return AudioPath(file) if "://" in file and is_url(file) else Path(file)


class RemotePath(PosixPath):
    """The URL of an object, or of the folder that the slashes in its name make.

    Operations raise ``FileNotFoundError`` where there is no object, and otherwise an ``OSError``
    whose text says in one line what the server or the network answered.
    """

    _cached = False  # whether listings may be taken from fsspec's cache

    def __str__(self) -> str:
        scheme, *rest = self.parts
        return f"{scheme}//{'/'.join(rest)}"

    def __fspath__(self) -> str:
        raise UsageError(
            f"{self}: a URL cannot be used for this; name a local path. docs/object-storage.md "
            "lists what can lie on object storage."
        )

    @property
    def scheme(self) -> str:
        """Which file system it is on."""
        return self.parts[0].removesuffix(":")

    @property
    def is_conditional(self) -> bool:
        """Whether `write` can be bound to the condition that there is no such object."""
        return self.scheme in CONDITIONAL

    def _place(self) -> tuple[Any, str]:
        """The file system of this process and the name in it; fsspec keeps the file systems."""
        try:
            import fsspec

            options: dict[str, Any] = {"use_listings_cache": self._cached}
            if self.scheme in ("s3", "s3a"):
                # With more, each object that is read as a whole costs a request for its size.
                options["max_concurrency"] = 1
                own = "config_kwargs" in fsspec.config.conf.get(self.scheme, {})
                if not own and not {"AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"} & os.environ.keys():
                    options["config_kwargs"] = TRIES
            return fsspec.core.url_to_fs(str(self), **options)
        except ImportError as error:
            raise ProbeError(
                f"{self}: needs a library that is not installed ({error}). Run `pip install "
                "'layerprobe[remote]'`, and the file system's own library where it is not S3."
            ) from error
        except ValueError as error:
            raise UsageError(f"{self}: {_reason(error)}.") from error

    def _fresh(self) -> tuple[Any, str]:
        place = self._place()
        if not self._cached:
            place[0].invalidate_cache()
        return place

    def _info(self) -> dict[str, Any]:
        with _reporting(self):
            files, name = self._fresh()
            return dict(files.info(name))

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Size and time of change; where there is no time, a number made from the version."""
        return _status(self._info())

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is an object of this name, or one below it."""
        try:
            self._info()
        except FileNotFoundError:
            return False
        return True

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is an object of this name."""
        try:
            return self._info()["type"] == "file"
        except FileNotFoundError:
            return False

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is an object below it."""
        try:
            return self._info()["type"] == "directory"
        except FileNotFoundError:
            return False

    def is_symlink(self) -> bool:
        """False: there are no links."""
        return False

    def resolve(self, strict: bool = False) -> Self:
        """Itself."""
        return self

    def absolute(self) -> Self:
        """Itself."""
        return self

    def entries(self) -> dict[str, os.stat_result]:
        """Name -> status of all objects and folders in this folder.

        Raises:
            FileNotFoundError: there is nothing below it.
        """
        with _reporting(self):
            files, name = self._fresh()
            infos = files.ls(name, detail=True)
        own = name.rstrip("/")
        items = {item["name"].rstrip("/"): item for item in infos}
        if items.keys() == {own} and items[own]["type"] == "file":
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self))
        return {
            path.rpartition("/")[2]: _status(item) for path, item in items.items() if path != own
        }

    def iterdir(self) -> Generator[Self, None, None]:
        """What is in this folder."""
        return (self / name for name in self.entries())

    def glob(self, pattern: str, **_options: Any) -> Generator[Self, None, None]:
        """Objects and folders with a pattern such as ``*/*/recipe.json``; none where there is no
        such folder. A slash at its end asks for folders.
        """
        first, slash, rest = pattern.partition("/")
        if not re.search(r"[*?\[]", first):
            below = self / first
            if rest:
                yield from below.glob(rest)
            elif below.exists():
                yield below
            return
        try:
            entries = self.entries()
        except (FileNotFoundError, NotADirectoryError):
            self._refuse_missing_root()
            return
        for name, status in entries.items():
            if fnmatch.fnmatchcase(name, first) and (not slash or stat.S_ISDIR(status.st_mode)):
                if rest:
                    yield from (self / name).glob(rest)
                else:
                    yield self / name

    def _refuse_missing_root(self) -> None:
        """Raises where not even the bucket of a missing folder is there."""
        root = RemotePath(*self.parts[:2])
        if self.scheme == "memory":
            return
        try:
            with _reporting(root):
                files, name = root._fresh()
                files.ls(name, detail=True)
        except FileNotFoundError as error:
            raise ProbeError(
                f"{self}: {root} does not exist ({error.strerror}). Create it, or correct the name."
            ) from error

    def read_bytes(self) -> bytes:
        """All of an object."""
        with _reporting(self):
            files, name = self._place()
            return bytes(files.cat_file(name))

    def read_text(self, encoding: str | None = None, errors: str | None = None, *_: Any) -> str:
        """All of an object as text."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def open(self, mode: str = "r", *_: Any, **options: Any) -> IO[Any]:  # type: ignore[override]
        """An object to read from, piece by piece."""
        if "r" not in mode or "+" in mode:
            raise io.UnsupportedOperation(f"{self}: an object is written as a whole")
        raw = io.BufferedReader(RangeReader(self), PIECE_BYTES)
        return raw if "b" in mode else io.TextIOWrapper(raw, options.get("encoding") or "utf-8")

    def write(self, data: bytes, create: bool = False) -> None:
        """Write an object by one request.

        Args:
            create: only if there is none of this name. Where `is_conditional` is false, this is
                asked before, and two runs may be told yes at the same time.

        Raises:
            FileExistsError: with ``create``, there is one.
        """
        with _reporting(self):
            files, name = self._place()
            options: dict[str, Any] = dict(ONE_REQUEST.get(self.scheme, {}))
            if create and self.is_conditional:
                options["mode"] = "create"
            elif create and self.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self))
            try:
                files.pipe_file(name, data, **options)
            except OSError as error:
                if create and _is_refused_condition(error):
                    raise FileExistsError(
                        errno.EEXIST, os.strerror(errno.EEXIST), str(self)
                    ) from error
                raise

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove an object."""
        try:
            with _reporting(self):
                files, name = self._place()
                files.rm_file(name)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there once an object is in it."""

    def rmdir(self) -> None:
        """Nothing: a folder is gone with the last object in it."""

    def replace(self, target: Any) -> Any:
        """Refused: object stores do not rename."""
        raise io.UnsupportedOperation(f"{self}: an object cannot be renamed")

    rename = replace


class AudioPath(RemotePath):
    """A remote audio file; its status comes from the listing of its folder where there is one."""

    _cached = True


class RemoteFolders:
    """Whether remote files exist; a folder is listed once when more than a few are asked for."""

    def __init__(self) -> None:
        self._n_asked: dict[Path, int] = {}
        self._names: dict[Path, set[str]] = {}

    def has_file(self, path: Path) -> bool:
        """Whether there is such an object. HTTP has no listings: there, all but the first files of
        a folder are taken to be there.

        Raises:
            OSError: the server does not say it.
        """
        assert isinstance(path, RemotePath)
        folder = path.parent
        self._n_asked[folder] = self._n_asked.get(folder, 0) + 1
        if self._n_asked[folder] <= FEW_FILES:
            return path.is_file()
        if path.scheme in ("http", "https"):
            return True
        if folder not in self._names:
            try:
                entries = path.parent.entries()
            except FileNotFoundError:
                entries = {}
            self._names[folder] = {
                name for name, status in entries.items() if stat.S_ISREG(status.st_mode)
            }
        return path.name in self._names[folder]


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
            with _reporting(self.path), uncollected():
                files, name = self.path._place()
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
    with _reporting(paths[0]):
        files, _ = paths[0]._place()
        names = [files._strip_protocol(str(path)) for path in paths]
        nothing: list[None] = [None] * len(names)
        contents = files.cat_ranges(names, nothing, nothing, on_error="return")
    results: list[bytes | OSError] = []
    for path, content in zip(paths, contents, strict=True):
        try:
            with _reporting(path):
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


def _status(info: dict[str, Any]) -> os.stat_result:
    """What an entry of fsspec says, as the operating system would."""
    kind = stat.S_IFDIR if info.get("type") == "directory" else stat.S_IFREG
    time_ns = _time_ns(info)
    seconds = time_ns // 10**9
    numbers = (kind | 0o644, 0, 0, 1, 0, 0, int(info.get("size") or 0), *[seconds] * 3)
    times = {"st_atime": time_ns / 1e9, "st_mtime": time_ns / 1e9, "st_ctime": time_ns / 1e9}
    nanoseconds = {f"{name}_ns": time_ns for name in times}
    return os.stat_result(numbers, {**times, **nanoseconds})


def _time_ns(info: dict[str, Any]) -> int:
    """Nanoseconds since 1970 of the last change; without a time, a number that another version
    of the object does not have.
    """
    for name in ("LastModified", "mtime", "updated", "last_modified", "created"):
        value = info.get(name)
        with contextlib.suppress(ValueError, TypeError):
            if isinstance(value, str):
                value = datetime.fromisoformat(value.replace("Z", "+00:00"))
            if isinstance(value, datetime):
                return round(value.timestamp() * 1e6) * 1000
            if isinstance(value, int | float):
                return round(value * 1e6) * 1000
    version = [str(info.get(name, "")) for name in ("ETag", "blob_id", "sha256", "generation")]
    return int(hashlib.sha256("".join(version).encode()).hexdigest()[:12], 16)


def _is_refused_condition(error: BaseException) -> bool:
    """Whether a server refused to create what is there (412); some do not say which condition."""
    response = getattr(error.__cause__, "response", None) or {}
    return "PreconditionFailed" in str(response.get("Error", {}).get("Code", ""))


NUMBERS = {
    FileNotFoundError: errno.ENOENT,
    FileExistsError: errno.EEXIST,
    NotADirectoryError: errno.ENOTDIR,
}


@contextlib.contextmanager
def _reporting(path: Path) -> Iterator[None]:
    """Turn whatever a file system raises into an ``OSError`` of one line with the URL."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, NotADirectoryError) as error:
        if error.filename == str(path):
            raise
        number = NUMBERS[type(error)]
        # Without the server's words, the text is but the name of the object.
        reason = _reason(error) if error.__cause__ is not None else os.strerror(number)
        raise type(error)(number, reason, str(path)) from error
    except (ProbeError, MemoryError, io.UnsupportedOperation):
        raise
    except Exception as error:  # of any library behind fsspec
        kind = PermissionError if _is_about_rights(error) else OSError
        number = errno.EACCES if kind is PermissionError else errno.EIO
        raise kind(number, _reason(error), str(path)) from error


def _is_about_rights(error: BaseException) -> bool:
    return isinstance(error, PermissionError) or "Credentials" in type(error).__name__


def _reason(error: BaseException) -> str:
    """What an error says, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    line = " ".join(str(text).split())[:300].rstrip(".")
    if _is_about_rights(error):
        return f"{line}; check the credentials, which are taken from the environment"
    return line
