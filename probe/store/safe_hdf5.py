"""Read HDF5 files that may be damaged. The module distinguishes errors of the disk from damage, and
reads a dataset only if it lies in the file itself, with the type and the shape that the index
names.

Links, virtual and external datasets are refused, so a store never makes a reader open another file.
"""

import errno
import functools
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5fd, h5g, h5l, h5o, h5p, h5s, h5t

from probe.errors import ProbeError
from probe.files import unread
from probe.remote.paths import RemotePath
from probe.remote.ranges import RangeReader

TEXT = "S"  # among dtypes: bytes of a fixed length
# What h5py raises for a file that is damaged or not HDF5, and for one that cannot be read
# (`system_error` tells which).
DAMAGE = (OSError, RuntimeError, KeyError, TypeError, ValueError, OverflowError, MemoryError)
ADVICE = "This is damaged, or no shard of layerprobe."


def source_of(path: Path, content: bytes | OSError | None = None) -> "Path | RangeReader":
    """What `opened` reads: the path, or for a remote shard a reader of parts of it.

    Args:
        content: of a remote shard that was fetched as a whole, or why it cannot be.

    Raises:
        UnreadError: the remote shard cannot be asked for.
    """
    try:
        if isinstance(content, OSError):
            raise content
        return RangeReader(path, content) if isinstance(path, RemotePath) else path
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unread(path, error) from error


@contextmanager
def opened(source: Path | RangeReader, cache_bytes: int = 1 << 20) -> Iterator[h5f.FileID]:
    """An HDF5 file to read from; ``h5py.File`` takes twice as long. It is closed once nothing in it
    is referred to any more.

    Raises:
        UnreadError: it, or something in it while the block runs, cannot be read for a reason that
            is not in the file.
        DAMAGE: no HDF5 file.
    """
    path, reader = (source.path, source) if isinstance(source, RangeReader) else (source, None)
    try:
        file = _opened(path, cache_bytes) if reader is None else _opened_reader(reader, cache_bytes)
        try:
            yield file
        except BaseException:
            h5py.File(file).close()  # with everything in it, which the traceback refers to
            raise
        file.close()
    except DAMAGE as error:
        if reader is not None and reader.error is not None:
            raise unread(path, reader.error) from error
        if (reason := system_error(error)) is not None:
            raise unread(path, reason) from error
        raise


def _opened_reader(reader: RangeReader, cache_bytes: int) -> h5f.FileID:
    access = _access(cache_bytes, None).copy()
    access.set_fileobj_driver(h5fd.fileobj_driver, reader)
    try:
        return h5f.open(str(reader.path).encode(), h5f.ACC_RDONLY, access)
    finally:
        # The traceback of an error would keep it, and with it the reader that keeps the error. HDF5
        # frees what is left when the process ends, and calls Python, which has ended before.
        del access


def fetch_rows(
    reader: RangeReader, values: h5d.DatasetID, runs: Sequence[tuple[int, int, int]]
) -> None:
    """Get the chunks that hold some rows of a dataset at the same time, before they are read.

    Args:
        runs: (first row, stop row, anything) each.
    """
    step = chunk_rows(values)
    numbers = {
        number for first, stop, _ in runs for number in range(first // step, -(-stop // step))
    }
    ranges = []
    for number in sorted(numbers):
        chunk = values.get_chunk_info_by_coord((number * step,) + (0,) * (values.rank - 1))
        if chunk.byte_offset is not None:
            ranges.append((chunk.byte_offset, chunk.byte_offset + chunk.size))
    reader.fetch(ranges)


def _opened(path: Path, cache_bytes: int) -> h5f.FileID:
    """A file that is open. A shard never changes, so it takes no lock, which some file systems do
    not have.

    Where this process has the file open already, HDF5 wants it to be opened in the same way.
    """
    for locking in (False, None):
        try:
            return h5f.open(os.fsencode(path), h5f.ACC_RDONLY, _access(cache_bytes, locking))
        except OSError as error:
            if system_error(error) is not None:
                raise
    return h5f.open(os.fsencode(path), h5f.ACC_RDONLY, _access(cache_bytes, locking=True))


def system_error(error: BaseException) -> OSError | MemoryError | None:
    """The failure of the operating system or of memory behind an error, which then says nothing
    about the content of a file.

    HDF5 raises any kind of error for it, with the number of the operating system's error in its
    text. A damaged address ends in an invalid argument, so that counts as damage.
    """
    if isinstance(error, MemoryError):
        return error
    number = getattr(error, "errno", None)
    if number is None and (match := re.search(r"\berrno = (\d+)", str(error))):
        number = int(match[1])
    return None if number in (None, 0, errno.EINVAL) else OSError(number, os.strerror(number))


@functools.cache
def _access(cache_bytes: int, locking: bool | None) -> h5p.PropFAID:
    """How a file is opened: with room for that many bytes of chunks per dataset; ``locking`` as in
    `h5py.File`.
    """
    access = h5p.create(h5p.FILE_ACCESS)
    metadata, slots, _, preemption = access.get_cache()
    access.set_cache(metadata, slots, cache_bytes, preemption)
    if locking is not None and hasattr(access, "set_file_locking"):  # HDF5 1.10.7, 1.12.1
        access.set_file_locking(locking, False)
    return access


def trusted_dataset(
    file: h5f.FileID,
    name: str,
    path: Path,
    dtypes: Sequence[str],
    shape: Sequence[int] | None = None,
) -> h5d.DatasetID:
    """A dataset whose values lie in this file, in an expected type and shape.

    Args:
        name: name of the dataset, including its groups.
        path: path of the file, for messages.
        dtypes: allowed types, by numpy's names or `TEXT`.
        shape: expected shape; None allows any.

    Raises:
        ProbeError: the reason, before any value is read.
    """
    item = file
    for part in name.split("/"):
        if not _has_hard_link(item, part.encode()):
            raise ProbeError(f"{path}: {name} is missing or a link. {ADVICE}")
        item = h5o.open(item, part.encode())
    if not isinstance(item, h5d.DatasetID) or not item.shape:
        raise ProbeError(f"{path}: {name} is no array. {ADVICE}")
    settings = item.get_create_plist()
    if settings.get_layout() == h5d.VIRTUAL or settings.get_external_count():
        raise ProbeError(f"{path}: {name} is not stored in this file. {ADVICE}")
    kind = item.get_type()
    if not any(_is_type(kind, dtype) for dtype in dtypes) or (
        shape is not None and tuple(shape) != item.shape
    ):
        expected = f"{' or '.join(dtypes)} of shape {tuple(shape) if shape is not None else 'any'}"
        raise ProbeError(
            f"{path}: {name} is {_type_name(kind)} of shape {item.shape}; the index expects "
            f"{expected}. Extract again."
        )
    return item


def _has_hard_link(parent: h5f.FileID | h5g.GroupID, name: bytes) -> bool:
    return (
        isinstance(parent, h5f.FileID | h5g.GroupID)
        and parent.links.exists(name)
        and parent.links.get_info(name).type == h5l.TYPE_HARD
    )


def trusted_attribute(file: h5f.FileID, name: str, path: Path) -> np.ndarray:
    """An attribute of the file: integers, or bytes of a fixed length. Anything else may be a
    reference into a damaged heap.

    Raises:
        ProbeError: missing, or of another type.
    """
    root = h5o.open(file, b"/")
    if not h5a.exists(root, name.encode()):
        raise ProbeError(f"{path}: has no attribute {name}. {ADVICE}")
    attribute = h5a.open(root, name.encode())
    kind = attribute.get_type()
    if (
        not (isinstance(kind, h5t.TypeIntegerID) or _is_type(kind, TEXT))
        or len(attribute.shape) > 1
    ):
        raise ProbeError(
            f"{path}: attribute {name} is {_type_name(kind)} of shape {attribute.shape}. {ADVICE}"
        )
    value = np.empty(attribute.shape, attribute.dtype)
    attribute.read(value)
    return value


def copy_rows(values: h5d.DatasetID, first: int, stop: int, into: np.ndarray) -> None:
    """Copy rows of a dataset into ``into`` (C-contiguous, of their shape), at a third of
    ``read_direct``'s overhead.
    """
    rows = values.get_space()
    rows.select_hyperslab((first,) + (0,) * (into.ndim - 1), into.shape)
    values.read(h5s.create_simple(into.shape), rows, into)


def all_rows(values: h5d.DatasetID) -> np.ndarray:
    """A dataset's values."""
    return h5py.Dataset(values)[()]


def usable_scales(scales: np.ndarray) -> bool:
    """Whether int8 values times these (row,) float32 scales are finite."""
    return bool(((scales >= 0) & (scales <= np.finfo(np.float32).max / 128)).all())


def chunk_rows(values: h5d.DatasetID) -> int:
    """Rows in each of a dataset's chunks; all rows where it has none."""
    settings = values.get_create_plist()
    return (
        settings.get_chunk()[0] if settings.get_layout() == h5d.CHUNKED else max(1, values.shape[0])
    )


def dataset_names(file: h5f.FileID) -> list[str]:
    """Return the names of all datasets in the file, without those behind links."""
    names: list[str] = []

    def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            names.append(name)

    h5py.File(file).visititems(add)
    return names


def _is_type(kind: h5t.TypeID, dtype: str) -> bool:
    """Whether a stored type is exactly this one, in either order of bytes."""
    if dtype == TEXT:
        return isinstance(kind, h5t.TypeStringID) and not kind.is_variable_str()
    return any(kind.equal(known) for known in _stored_types(dtype))


@functools.cache
def _stored_types(dtype: str) -> list[h5t.TypeID]:
    """A numpy type as HDF5 knows it, little-endian and big-endian."""
    plain = np.dtype(dtype)
    return [h5t.py_create(plain.newbyteorder("<")), h5t.py_create(plain.newbyteorder(">"))]


def _type_name(kind: h5t.TypeID) -> str:
    """A stored type in words."""
    if isinstance(kind, h5t.TypeStringID) and kind.is_variable_str():
        return "text of variable length"
    try:
        return str(kind.dtype)
    except DAMAGE:
        return "a type that numpy does not have"
