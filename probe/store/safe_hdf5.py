"""What must hold of an HDF5 dataset before its values are read: a shard may come from anywhere.

HDF5 follows links into other files, computes datasets from other files, returns fill values for
what was never written, and allocates what a header declares. So a dataset is read only where its
path is made of plain groups of this file, its type and shape are those that the index promises, its
filters are those of every HDF5 library, and every chunk is stored. The library itself is not
hardened against crafted files: this keeps its readers from believing them, it is no sandbox.
"""

import errno
import functools
import math
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5g, h5l, h5o, h5p, h5s, h5t, h5z

from probe.errors import ProbeError
from probe.files import unread
from probe.store.index_schema import INFLATED, USUAL_BYTES

TEXT = "S"  # among dtypes: bytes of a fixed length
FILTERS = (h5z.FILTER_FLETCHER32, h5z.FILTER_SHUFFLE, h5z.FILTER_DEFLATE)
# What h5py raises for a file that is damaged or not HDF5, and for one that cannot be read
# (`system_error` tells which).
DAMAGE = (OSError, RuntimeError, KeyError, TypeError, ValueError, OverflowError, MemoryError)
ADVICE = "This is damaged, or no shard of layerprobe."


@contextmanager
def opened(path: Path, cache_bytes: int = 1 << 20) -> Iterator[h5f.FileID]:
    """An HDF5 file to read from; ``h5py.File`` takes twice as long. It is closed once nothing in it
    is referred to any more.

    Raises:
        UnreadError: it, or something in it while the block runs, cannot be read for a reason that
            is not in the file.
        DAMAGE: no HDF5 file.
    """
    try:
        file = _opened(path, cache_bytes)
        try:
            yield file
        except BaseException:
            h5py.File(file).close()  # with everything in it, which the traceback refers to
            raise
        file.close()
    except DAMAGE as error:
        if (reason := system_error(error)) is not None:
            raise unread(path, reason) from error
        raise


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
    """A dataset whose values lie in this file, all of them, in the type and shape that are
    expected.

    Args:
        name: with the groups it is in.
        path: of the file, for messages.
        dtypes: that are allowed: numpy's names, or `TEXT`.
        shape: that it must have; any where None.

    Raises:
        ProbeError: the reason, before any value is read.
    """
    identifier = _plain_object(file, name, path)
    if not isinstance(identifier, h5d.DatasetID):
        raise ProbeError(f"{path}: {name} is not stored in this file but a group. {ADVICE}")
    settings = identifier.get_create_plist()
    if (
        settings.get_layout() not in (h5d.CHUNKED, h5d.CONTIGUOUS, h5d.COMPACT)
        or settings.get_external_count()
    ):
        raise ProbeError(
            f"{path}: {name} is not stored in this file but virtual or external. {ADVICE}"
        )
    kind = identifier.get_type()
    found = identifier.shape
    if not found:
        raise ProbeError(f"{path}: {name} has no rows but is a single value. {ADVICE}")
    if not any(_is_type(kind, dtype) for dtype in dtypes) or (
        shape is not None and tuple(shape) != found
    ):
        expected = f"{' or '.join(dtypes)} of shape {tuple(shape) if shape is not None else 'any'}"
        raise ProbeError(
            f"{path}: {name} is {_type_name(kind)} of shape {found}; the index expects {expected}. Extract again."
        )
    if reason := _not_stored(identifier, settings, found, kind.get_size(), file.get_filesize()):
        raise ProbeError(f"{path}: {name} {reason}. {ADVICE}")
    return identifier


def trusted_attribute(file: h5f.FileID, name: str, path: Path) -> np.ndarray:
    """An attribute of the file: integers, or bytes of a fixed length. Anything else may be a
    reference into a damaged heap.

    Raises:
        ProbeError: missing, or of another type.
    """
    root = h5o.open(file, b"/")
    if not h5a.exists(root, name.encode()):
        raise ProbeError(f"{path}: has no attribute {name}. {ADVICE}")
    found = h5a.open(root, name.encode())
    kind = found.get_type()
    if not (isinstance(kind, h5t.TypeIntegerID) or _is_type(kind, TEXT)) or len(found.shape) > 1:
        raise ProbeError(
            f"{path}: attribute {name} is {_type_name(kind)} of shape {found.shape}. {ADVICE}"
        )
    value = np.empty(found.shape, found.dtype)
    found.read(value)
    return value


def copy_rows(values: h5d.DatasetID, first: int, stop: int, into: np.ndarray) -> None:
    """Copies rows of a dataset into ``into`` (C-contiguous, of their shape), at a third of
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


def dataset_names(file: h5f.FileID, path: Path) -> Iterator[str]:
    """Names of everything in the file that is no group.

    Raises:
        ProbeError: a link to elsewhere, an object with two names (a cycle is one), groups in groups
            in groups.
    """
    waiting = [""]
    while waiting:
        above = waiting.pop()
        for part in sorted(h5o.open(file, (above or "/").encode())):
            name = f"{above}/{part.decode()}".lstrip("/")
            if name.count("/") > 1:
                raise ProbeError(f"{path}: {name} lies deeper than anything in a shard. {ADVICE}")
            if isinstance(_plain_object(file, name, path), h5g.GroupID):
                waiting.append(name)
            else:
                yield name


def _plain_object(file: h5f.FileID, name: str, path: Path) -> h5g.GroupID | h5d.DatasetID:
    """What ``name`` stands for, reached over hard links to objects that have no second name."""
    here = file
    done = ""
    for part in name.split("/"):
        done = f"{done}/{part}".lstrip("/")
        step = part.encode()
        if (
            not isinstance(here, h5f.FileID | h5g.GroupID)
            or not here.links.exists(step)
            or here.links.get_info(step).type != h5l.TYPE_HARD
        ):
            raise ProbeError(
                f"{path}: {done} is missing or a link; shards hold plain datasets only. {ADVICE}"
            )
        here = h5o.open(here, step)
        if h5o.get_info(here).rc != 1:
            raise ProbeError(f"{path}: {done} has a second name in this file. {ADVICE}")
    return here


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


def _not_stored(
    identifier: h5d.DatasetID,
    settings: h5p.PropDCID,
    shape: tuple[int, ...],
    item_bytes: int,
    file_bytes: int,
) -> str:
    """Why a dataset is not what it declares to be; empty where all of it is stored."""
    declared = math.prod(shape) * item_bytes
    if declared > max(USUAL_BYTES, INFLATED * file_bytes):
        return f"declares {declared} bytes in a file of {file_bytes}"
    if settings.get_layout() != h5d.CHUNKED:
        stored = identifier.get_storage_size()
        return (
            f"declares {declared} bytes and {stored} are stored"
            if declared and not declared <= stored <= file_bytes
            else ""
        )
    filters = [settings.get_filter(number)[0] for number in range(settings.get_nfilters())]
    if any(item not in FILTERS or filters.count(item) > 1 for item in filters):
        return f"is stored with HDF5 filters {filters}; shards have {', '.join(map(str, FILTERS))} only, each once"
    chunk = settings.get_chunk()
    if any(length > whole for length, whole in zip(chunk, shape, strict=True)):
        return f"of shape {shape} declares chunks of {chunk}"
    packed = h5z.FILTER_DEFLATE in filters
    chunk_bytes = math.prod(chunk) * item_bytes + 4 * (h5z.FILTER_FLETCHER32 in filters)
    # Only deflate may be left out of a chunk (where it would make it larger).
    skippable = 1 << filters.index(h5z.FILTER_DEFLATE) if packed else 0
    stored = n_chunks = 0
    for item in _chunks(identifier):
        n_chunks += 1
        stored += item.size
        deflated = packed and not item.filter_mask
        if item.filter_mask & ~skippable or not (
            item.size == chunk_bytes or (deflated and 0 < item.size < 2 * chunk_bytes + 64)
        ):
            return f"has a chunk of {item.size} bytes (filters left out: {item.filter_mask}); expected {chunk_bytes}"
        if deflated and not _inflates_to(
            identifier, item.chunk_offset, filters, math.prod(chunk) * item_bytes
        ):
            return f"has a chunk that does not inflate to its {chunk_bytes} bytes"
    expected = math.prod(-(-whole // length) for whole, length in zip(shape, chunk, strict=True))
    if n_chunks != expected or stored > file_bytes:
        return f"declares {expected} chunks and {n_chunks} are stored, {stored} bytes in a file of {file_bytes}"
    return ""


def _inflates_to(
    identifier: h5d.DatasetID, offset: tuple[int, ...], filters: Sequence[int], n_bytes: int
) -> bool:
    """Whether a deflated chunk gives just so many bytes; HDF5 itself makes room for as much as
    comes out.

    Args:
        filters: in the order they were applied in; a checksum before deflation is deflated with the
            values, one after it is not.
    """
    _, raw = identifier.read_direct_chunk(offset)
    if h5z.FILTER_FLETCHER32 in filters:
        if filters.index(h5z.FILTER_FLETCHER32) < filters.index(h5z.FILTER_DEFLATE):
            n_bytes += 4
        else:
            raw = raw[:-4]
    inflating = zlib.decompressobj()
    try:
        whole = len(inflating.decompress(raw, n_bytes + 1)) == n_bytes
    except zlib.error:
        return False
    return whole and inflating.eof and not inflating.unused_data


def _chunks(identifier: h5d.DatasetID) -> list[h5d.StoreInfo]:
    """Where each stored chunk lies."""
    found: list[h5d.StoreInfo] = []
    if hasattr(identifier, "chunk_iter"):  # HDF5 1.14
        identifier.chunk_iter(found.append)
        return found
    return [identifier.get_chunk_info(number) for number in range(identifier.get_num_chunks())]
