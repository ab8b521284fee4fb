"""What fsspec and the libraries behind it answer, as the operating system would: the status of an
object, and errors of one line.
"""

import contextlib
import errno
import hashlib
import io
import os
import stat
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from probe.errors import ProbeError


def status_of(info: dict[str, Any]) -> os.stat_result:
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


def is_refused_condition(error: BaseException) -> bool:
    """Whether a server refused to create what is there (412); some do not say which condition."""
    response = getattr(error.__cause__, "response", None) or {}
    return "PreconditionFailed" in str(response.get("Error", {}).get("Code", ""))


NUMBERS = {
    FileNotFoundError: errno.ENOENT,
    FileExistsError: errno.EEXIST,
    NotADirectoryError: errno.ENOTDIR,
}


@contextlib.contextmanager
def reporting(path: Path) -> Iterator[None]:
    """Turn whatever a file system raises into an ``OSError`` of one line with the URL."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, NotADirectoryError) as error:
        if error.filename == str(path):
            raise
        number = NUMBERS[type(error)]
        # Without the server's words, the text is but the name of the object.
        reason = reason_of(error) if error.__cause__ is not None else os.strerror(number)
        raise type(error)(number, reason, str(path)) from error
    except (ProbeError, MemoryError, io.UnsupportedOperation):
        raise
    except Exception as error:  # of any library behind fsspec
        kind = PermissionError if _is_about_rights(error) else OSError
        number = errno.EACCES if kind is PermissionError else errno.EIO
        raise kind(number, reason_of(error), str(path)) from error


def _is_about_rights(error: BaseException) -> bool:
    return isinstance(error, PermissionError) or "Credentials" in type(error).__name__


def reason_of(error: BaseException) -> str:
    """What an error says, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    line = " ".join(str(text).split())[:300].rstrip(".")
    if _is_about_rights(error):
        return f"{line}; check the credentials, which are taken from the environment"
    return line
