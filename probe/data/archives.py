"""Audio files within tar and ZIP archives: where the bytes of a member are.

Nothing is unpacked. A tar's members lie in it as they are; its headers are read once. Those of a
ZIP archive are stored or deflated, and listed at its end. An archive that is compressed as a whole
would have to be decompressed up to each member, so it is refused.
"""

import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from probe.errors import UtteranceError
from probe.foreign_files import HEAD_BYTES, true_form

# Archives whose list of members is kept; a list of 10,000 names takes 3 MB.
MOST_LISTS = 16
ZIP_HEADER = struct.Struct("<4s5H3L2H")
TAR_AT, TAR_MARK, ZIP_MARKS = 257, b"ustar", (b"PK\x03\x04", b"PK\x05\x06")


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.

    Attributes:
        start: in a tar, of its bytes; in a ZIP archive, of its header.
        n_stored, n_bytes: bytes in the archive, and of the file itself.
        crc: checksum of the bytes in a ZIP archive; None in a tar.
        is_deflated: whether the bytes are compressed.
        problem: why it cannot be read.
    """

    start: int
    n_stored: int
    n_bytes: int
    crc: int | None = None
    is_deflated: bool = False
    problem: str = ""


class _Range(io.RawIOBase):
    """A file by its descriptor, with a position of its own."""

    def __init__(self, descriptor: int, n_bytes: int) -> None:
        super().__init__()
        self._descriptor, self._n_bytes, self._position = descriptor, n_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        block = os.pread(self._descriptor, len(buffer), self._position)
        buffer[: len(block)] = block
        self._position += len(block)
        return len(block)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._position = offset + (0, self._position, self._n_bytes)[whence]
        return self._position

    def tell(self, /) -> int:
        return self._position


def member_of(descriptor: int, status: os.stat_result, name: str) -> Member:
    """Where a member of an open archive is.

    Raises:
        UtteranceError: no archive, a compressed tar, no such member, or one that is no plain file.
        OSError: it cannot be read.
    """
    state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    members = _members(descriptor, state)
    member = members.get(name) or members.get(f"./{name}")
    if member is None:
        few = ", ".join(list(members)[:3])
        raise UtteranceError(
            f"the archive has no member {name!r}, but {len(members)} others ({few} ...); "
            "correct the name or the archive"
        )
    if member.problem:
        raise UtteranceError(f"member {name!r} {member.problem}")
    return member


_lists: dict[tuple[int, ...], Mapping[str, Member]] = {}


def _members(descriptor: int, state: tuple[int, ...]) -> Mapping[str, Member]:
    """Name -> member of the archive that has this device, number, size and time of change."""
    if (members := _lists.get(state)) is None:
        if len(_lists) >= MOST_LISTS:
            _lists.pop(next(iter(_lists)), None)
        members = _lists[state] = _listed(descriptor, state[2])
    return members


def _listed(descriptor: int, n_bytes: int) -> Mapping[str, Member]:
    head = os.pread(descriptor, HEAD_BYTES, 0)
    file = io.BufferedReader(_Range(descriptor, n_bytes))
    try:
        if head.startswith(ZIP_MARKS):
            with zipfile.ZipFile(file) as archive:
                return {item.filename: _of_zip(item) for item in archive.infolist()}
        if head.startswith(TAR_MARK, TAR_AT):
            with tarfile.open(fileobj=file, mode="r:") as tar:
                return {item.name: _of_tar(item, n_bytes) for item in tar}
    except (tarfile.TarError, zipfile.BadZipFile, ValueError, EOFError) as error:
        raise UtteranceError(f"the archive is damaged: {error}. Fetch it again") from error
    content, remedy = true_form(head)
    if remedy.startswith("Unpack it with"):
        raise UtteranceError(
            f"the archive is {content}, so every member would need all bytes before it. "
            f"{remedy}, and name the tar"
        )
    raise UtteranceError(
        f"{content or 'not an archive'}; expected a tar or a ZIP archive, as the row names a member"
    )


def _of_tar(item: tarfile.TarInfo, n_bytes: int) -> Member:
    problem = ""
    if not item.isreg() or item.issparse():
        problem = "is no plain file (a folder, a link or a sparse file). Put the file itself there"
    elif item.offset_data + item.size > n_bytes:
        problem = "is cut off at the end of the archive. Fetch it again"
    return Member(item.offset_data, item.size, item.size, problem=problem)


def _of_zip(item: zipfile.ZipInfo) -> Member:
    problem = ""
    if item.flag_bits & 1:
        problem = "is encrypted. Unpack the archive"
    elif item.is_dir() or stat.S_ISLNK(item.external_attr >> 16):
        problem = "is no plain file. Put the file itself there"
    elif item.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        problem = f"is compressed by method {item.compress_type}. Unpack the archive"
    deflated = item.compress_type == zipfile.ZIP_DEFLATED
    return Member(
        item.header_offset, item.compress_size, item.file_size, item.CRC, deflated, problem
    )


def start_of(descriptor: int, member: Member) -> int:
    """Where the stored bytes of a member begin."""
    if member.crc is None:
        return member.start
    header = os.pread(descriptor, ZIP_HEADER.size, member.start)
    if len(header) < ZIP_HEADER.size or not header.startswith(ZIP_MARKS[0]):
        raise UtteranceError("the archive is damaged: a header is missing. Fetch it again")
    *_, name_length, extra_length = ZIP_HEADER.unpack(header)
    return member.start + ZIP_HEADER.size + int(name_length) + int(extra_length)


def unpacked(member: Member, stored: bytes) -> bytes:
    """The file of its stored bytes.

    Raises:
        UtteranceError: damaged.
    """
    content = stored
    if member.is_deflated:
        decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            content = decompressor.decompress(stored, member.n_bytes + 1)
        except zlib.error as error:
            raise UtteranceError(f"the archive is damaged: {error}. Fetch it again") from error
    is_wrong = member.crc is not None and zlib.crc32(content) != member.crc
    if len(content) != member.n_bytes or is_wrong:
        raise UtteranceError("the archive is damaged: a checksum is wrong. Fetch it again")
    return content
