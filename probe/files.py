"""Names, hashes and atomic writes: what every format on disk has in common."""

import contextlib
import fnmatch
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from probe.errors import ProbeError, UnreadError
from probe.remote.paths import RemotePath
from probe.remote.ranges import read_all

BLOCK_BYTES = 1 << 20
LARGEST_JSON = 1 << 28
SEAL = '\n "checksum": "'
UNLIMITED = 1 << 62  # bytes
# Half of a surrogate pair is no character and has no UTF-8; JSON may hold it, escaped or not.
HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")
LONGEST_NAME = 60  # three of them and more make a file's name, which may have 255 bytes


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old content or the new, never a part.

    Plain ``os.write`` to a temporary name of this process, fsync, rename, fsync of the folder: a
    full disk is an ``OSError`` here and leaves what was there before. A link is followed; a device
    or a pipe, which a file would replace, is refused. A remote object is one request.

    Raises:
        OSError: as the operating system reports it, with the bytes that were to be written; the
            temporary file is removed.
        ProbeError: ``path`` is a folder, a device, a pipe or a socket.
    """
    if isinstance(path, RemotePath):
        path.write(data)
        return
    if path.is_symlink():
        path = path.resolve()
    if not path.name or (path.exists() and not path.is_file()):
        device = "a device, pipe or socket, which a file would replace"
        raise ProbeError(f"{path}: {'a folder' if path.is_dir() else device}. Name a file.")
    try:
        _write_and_rename(path, data)
    except OSError as error:
        reason = f"{error.strerror}, {len(data)} bytes to write"
        with contextlib.suppress(OSError):
            reason += f", {free_bytes(path.parent)} free"
        raise OSError(error.errno, reason, str(path)) from error


def _write_and_rename(path: Path, data: bytes) -> None:
    temporary = temporary_name(path)
    try:
        write_new(temporary, data)
        temporary.replace(path)
    except FileExistsError:  # another run's
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_new(path: Path, data: bytes) -> None:
    """Create a file that does not exist yet, write it and wait until it is on the disk; for a
    remote object see `probe.remote.paths.RemotePath.write`.

    Raises:
        FileExistsError: it exists, and stays as it is.
        OSError: as the operating system reports it; the file is removed.
    """
    if isinstance(path, RemotePath):
        path.write(data, create=True)
        return
    try:
        # A signal may come while it is made.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except FileExistsError:  # another run's
        raise
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def free_bytes(path: Path) -> int:
    """Room on the disk where ``path`` is, or would be; `UNLIMITED` for a remote place."""
    if isinstance(path, RemotePath):
        return UNLIMITED
    return shutil.disk_usage(_nearest(path.resolve())).free


def _nearest(path: Path) -> Path:
    """The path itself, or the nearest one above that exists."""
    return next(place for place in [path, *path.absolute().parents] if os.path.lexists(place))


def require_writable(folder: Path) -> None:
    """Try whether a file can be written into a folder, or into the nearest one above that exists.

    Call it before work whose result is written there; it leaves nothing.

    Raises:
        ProbeError: no file can be written.
    """
    try:
        if isinstance(folder, RemotePath):
            trial = temporary_name(folder / "trial")
            write_new(trial, b"x")
            trial.unlink()
            return
        with tempfile.TemporaryFile(dir=_nearest(folder)) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        raise unwritable(folder, error) from error


def unwritable(folder: Path, error: OSError) -> ProbeError:
    """The error of a folder that takes no file."""
    return ProbeError(
        f"{folder}: nothing can be written here ({error.strerror}). "
        "Make the folder writable or make room, or name another folder."
    )


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that no other run uses and readers ignore."""
    name = os.fsencode(path.name)[:100].decode(errors="ignore")  # a name may have 255 bytes
    return path.with_name(f".{name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unread(path: Path, error: BaseException) -> UnreadError:
    """The error of a file that cannot be read for a reason that is not in the file."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return UnreadError(
        f"{path}: cannot be read now ({reason}). This says nothing about its content, so remove "
        "nothing. Correct what prevents reading (disk, network, permissions, open files, memory), "
        "and run the same command again."
    )


def files_named(folder: Path, pattern: str) -> list[Path]:
    """The files in a folder whose names have a pattern, sorted; `Path.glob` gives none where the
    folder cannot be listed.

    Raises:
        OSError: the folder cannot be listed.
    """
    return sorted(path for path in folder.iterdir() if fnmatch.fnmatchcase(path.name, pattern))


def statuses_in(folder: Path) -> dict[str, os.stat_result]:
    """Name -> status of what is in a folder, by one listing.

    Raises:
        OSError: the folder cannot be listed.
    """
    if isinstance(folder, RemotePath):
        return folder.entries()
    statuses = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # it was removed meanwhile
                statuses[entry.name] = entry.stat()
    return statuses


def is_plain(status: os.stat_result) -> bool:
    """Whether a file can hold JSON: a regular one of at most `LARGEST_JSON` bytes."""
    return stat.S_ISREG(status.st_mode) and status.st_size <= LARGEST_JSON


def contents_of(paths: Sequence[Path]) -> list[bytes | OSError]:
    """The content of small files in one folder, those of a remote one at the same time; for one
    that cannot be read, the reason.
    """
    remote = [path for path in paths if isinstance(path, RemotePath)]
    if len(remote) == len(paths):
        return read_all(remote)
    contents: list[bytes | OSError] = []
    for path in paths:
        try:
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - takes half as long
                contents.append(file.read())
        except OSError as error:
            contents.append(error)
    return contents


def sha256_of_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read by blocks.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """JSON that is equal for equal values: sorted keys, no spaces, finite numbers only."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def path_text(path: Path) -> str:
    r"""A path as UTF-8; bytes of it that are not become escapes such as ``\xe9``."""
    if isinstance(path, RemotePath):
        return str(path)
    return os.fsencode(path).decode(errors="backslashreplace")


def is_utf8(text: str) -> bool:
    """Whether a text has a UTF-8 form; a name of a file that is not UTF-8 has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def json_value(text: bytes) -> Any:
    """The value of JSON whose texts can be written again.

    Raises:
        ValueError: not JSON, or half of a surrogate pair in a text.
        RecursionError: too deep.
    """
    value = json.loads(text)
    if HALF_CHARACTER.search(text):
        canonical_json(value).encode()
    return value


def sha256_of_json(value: Any) -> str:
    """Hex sha256 of ``value``'s canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_name(text: str) -> str:
    """``text`` as one component of a path: ``random:org/name`` becomes ``random--org--name``.

    Different texts have different names (but for ``/`` and ``:``, which are alike): one that holds
    anything but letters, digits, ``._+=@-`` and single ``/`` or ``:``, or is too long, gets 8
    digits of its hash at the end.

    Raises:
        ProbeError: bytes that are no UTF-8, which a path may have and no record can hold.
    """
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise ProbeError(f"{text!r}: this name is not UTF-8. Rename the file or folder.") from error
    name = re.sub(r"[^A-Za-z0-9._+=@-]+", "--", text)
    plain = (
        re.fullmatch(r"[A-Za-z0-9_+=@](-?[A-Za-z0-9._+=@]|[/:](?=[A-Za-z0-9_+=@]))*", text)
        and len(name) <= LONGEST_NAME
    )
    digits = hashlib.sha256(encoded).hexdigest()[:8]
    return name if plain else f"{name[:LONGEST_NAME].strip('-.')}-{digits}".lstrip("-")


def sealed_json(value: Mapping[str, Any]) -> bytes:
    """An object as indented JSON, whose last entry is the sha256 of the text without it."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    digest = hashlib.sha256(text.encode()).hexdigest()
    comma = "," if value else ""
    return f'{text[:-1].rstrip()}{comma}{SEAL}{digest}"\n}}\n'.encode()


def _unsealed(content: bytes) -> dict[str, Any]:
    """The object of `sealed_json`. Earlier versions sealed the canonical form of the entries, which
    takes ten times as long to check.

    Raises:
        ValueError: not JSON, or without its checksum.
        RecursionError: too deep.
    """
    before, seal, after = content.rpartition(SEAL.encode())
    text = before.removesuffix(b",") + (b"\n}" if before.endswith(b",") else b"}")
    is_sealed = bool(seal) and after == f'{hashlib.sha256(text).hexdigest()}"\n}}\n'.encode()
    value = _parsed(text if is_sealed else content)
    is_object = isinstance(value, dict)
    if not is_sealed and not (is_object and value.pop("checksum", None) == sha256_of_json(value)):
        raise ValueError("its entries do not have its checksum")
    return dict(value)


def _parsed(text: bytes) -> Any:
    """The value of JSON, by pydantic's parser, which takes a third of the time; what it refuses is
    read by the standard library, which accepts more and says where the fault is.
    """
    from pydantic_core import from_json  # after the start of the command line

    try:
        return from_json(text)
    except ValueError:
        return json.loads(text.decode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object atomically, with a checksum (`sealed_json`)."""
    write_atomically(path, sealed_json(value))


def read_json(path: Path, content: bytes | OSError | None = None) -> dict[str, Any]:
    """The object that `write_json` wrote.

    Args:
        content: of the file, or why it cannot be read, where that is known already.

    Raises:
        ProbeError: not there, not readable as JSON, or without the checksum of its entries.
        UnreadError: the operating system does not let it be read.
    """
    try:
        if isinstance(content, OSError):
            raise content
        is_local = not isinstance(path, RemotePath)  # there, each question is a request
        if content is None and is_local and not is_plain(path.stat()):
            raise ValueError(f"no plain file of at most {LARGEST_JSON} bytes")
        return _unsealed(path.read_bytes() if content is None else content)
    except FileNotFoundError as error:
        raise ProbeError(
            f"{path}: not there; expected a folder that `probe extract` wrote."
        ) from error
    except (OSError, MemoryError) as error:
        raise unread(path, error) from error
    except (ValueError, RecursionError) as error:
        raise ProbeError(
            f"{path}: damaged or not readable ({error}). Remove it and run `probe extract` again."
        ) from error
