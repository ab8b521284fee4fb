"""Objects of a remote store as paths: ``s3://``, ``gs://``, ``hf://``, ``memory://`` and any other
URL that fsspec knows.

`as_path` turns a text into a path, and `RemotePath` has the operations of `pathlib.Path` that
stores, corpora and records need. An object is written by one request and is there as a whole or
not at all. Credentials and endpoints come from where fsspec and its file systems look for them
(environment, configuration files).

A listing is never taken from a cache, since other runs may write. `AudioPath` is the exception:
the audio of a corpus does not change while a command runs, and a folder of it is listed once.
"""

import errno
import fnmatch
import io
import os
import re
import stat
from collections.abc import Generator
from pathlib import Path, PosixPath
from typing import IO, Any, Self

from probe.errors import ProbeError, UsageError
from probe.remote.answers import is_refused_condition, reason_of, reporting, status_of

URL = re.compile(r"([a-z][a-z0-9+.-]*)://(?=[^/])")
# File systems whose creation of an object can be bound to the condition that there is none.
CONDITIONAL = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"}
ONE_REQUEST = {"s3": {"chunksize": 5 << 30}, "s3a": {"chunksize": 5 << 30}}
# Of an address that nobody answers, botocore's own setting takes 10 s to say so.
TRIES = {"retries": {"mode": "standard", "max_attempts": 2}}
FEW_FILES = 16


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

    def place(self) -> tuple[Any, str]:
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
            raise UsageError(f"{self}: {reason_of(error)}.") from error

    def _fresh(self) -> tuple[Any, str]:
        place = self.place()
        if not self._cached:
            place[0].invalidate_cache()
        return place

    def _info(self) -> dict[str, Any]:
        with reporting(self):
            files, name = self._fresh()
            return dict(files.info(name))

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Size and time of change; where there is no time, a number made from the version."""
        return status_of(self._info())

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
        with reporting(self):
            files, name = self._fresh()
            infos = files.ls(name, detail=True)
        own = name.rstrip("/")
        items = {item["name"].rstrip("/"): item for item in infos}
        if items.keys() == {own} and items[own]["type"] == "file":
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self))
        return {
            path.rpartition("/")[2]: status_of(item) for path, item in items.items() if path != own
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
            with reporting(root):
                files, name = root._fresh()
                files.ls(name, detail=True)
        except FileNotFoundError as error:
            raise ProbeError(
                f"{self}: {root} does not exist ({error.strerror}). Create it, or correct the name."
            ) from error

    def read_bytes(self) -> bytes:
        """All of an object."""
        with reporting(self):
            files, name = self.place()
            return bytes(files.cat_file(name))

    def read_text(self, encoding: str | None = None, errors: str | None = None, *_: Any) -> str:
        """All of an object as text."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def open(self, mode: str = "r", *_: Any, **options: Any) -> IO[Any]:  # type: ignore[override]
        """An object to read from, piece by piece."""
        if "r" not in mode or "+" in mode:
            raise io.UnsupportedOperation(f"{self}: an object is written as a whole")
        from probe.remote.ranges import PIECE_BYTES, RangeReader  # which imports this module

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
        with reporting(self):
            files, name = self.place()
            options: dict[str, Any] = dict(ONE_REQUEST.get(self.scheme, {}))
            if create and self.is_conditional:
                options["mode"] = "create"
            elif create and self.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self))
            try:
                files.pipe_file(name, data, **options)
            except OSError as error:
                if create and is_refused_condition(error):
                    raise FileExistsError(
                        errno.EEXIST, os.strerror(errno.EEXIST), str(self)
                    ) from error
                raise

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove an object."""
        try:
            with reporting(self):
                files, name = self.place()
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
