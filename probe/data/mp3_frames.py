"""Frames of MPEG layer III: where they stand, how long they are, and what the tag of the first one
(Xing, Info or VBRI) promises about the rest.
"""

import re
import struct

from probe.data.audio_bytes import Read

# MP3 players look for the first frame in so many bytes.
SEARCH_BYTES = 4096
KBPS = {
    True: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
ID3V1_BYTES = 128
# The most samples of a frame: encoders count up to that many too many, such as their tag's frame.
FRAME_SAMPLES = 1152
FRAME = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][\x10-\xef]")


def behind_tags(read: Read, position: int) -> int:
    """The position behind the ID3v2 tags that begin at a position."""
    while len(head := read(position, 10)) == 10 and head[:3] == b"ID3":
        size = sum((byte & 0x7F) << 7 * (3 - number) for number, byte in enumerate(head[6:]))
        position += 10 + size + (10 if head[5] & 0x10 else 0)
    return position


def first_frame(read: Read) -> int | None:
    """The position of the first frame behind the tags; None where there is none."""
    start = behind_tags(read, 0)
    area = read(start, SEARCH_BYTES)
    for match in FRAME.finditer(area):
        if match[0][2] & 0x0C != 0x0C:
            return start + match.start()
    return None


def frame_bytes(head: bytes) -> int:
    """The size of a frame by its header; 0 where it does not say."""
    version, kbps, rate = (head[1] >> 3) & 3, head[2] >> 4, (head[2] >> 2) & 3
    if not 0 < kbps < 15 or rate == 3 or version == 1:
        return 0
    is_first = version == 3
    rate_hz = (44_100, 48_000, 32_000)[rate] // {3: 1, 2: 2, 0: 4}[version]
    padding = (head[2] >> 1) & 1
    return (144_000 if is_first else 72_000) * KBPS[is_first][kbps - 1] // rate_hz + padding


def are_alike(one: bytes, other: bytes) -> bool:
    """Whether two frame headers have one version, layer and rate."""
    return (
        len(other) == 4
        and one[:1] == other[:1]
        and one[1] >> 1 == other[1] >> 1
        and not (one[2] ^ other[2]) & 0x0C
    )


def walk(read: Read, start: int, n_bytes: int) -> tuple[int, bool, bool, bool]:
    """(frames, whether of one bit rate, whether the last is whole, whether bytes intervene)."""
    first, position, n_frames, is_damaged = read(start, 4), start, 0, False
    rates: set[int] = set()
    while position < n_bytes:
        head = read(position, 4)
        if not are_alike(first, head):
            n_skipped = _next_frames(read, position, first)
            if n_skipped is None:
                return n_frames, len(rates) < 2, True, is_damaged
            position, is_damaged = position + n_skipped, True
            continue
        size = frame_bytes(head)
        if not size:  # the header does not say the bit rate
            return 0, True, True, is_damaged
        rates.add(head[2] >> 4)
        position += size
        n_frames += 1
    return n_frames, len(rates) < 2, position == n_bytes, is_damaged


def _next_frames(read: Read, position: int, first: bytes) -> int | None:
    """The distance from a position to the next two frames in a row; None behind the audio's end."""
    area = read(position, SEARCH_BYTES)
    for match in re.finditer(re.escape(first[:1]), area):
        head = area[match.start() : match.start() + 4]
        size = frame_bytes(head) if are_alike(first, head) else 0
        if size and are_alike(first, read(position + match.start() + size, 4)):
            return match.start()
    return None


def promised_bytes(frame: bytes) -> tuple[int, int]:
    """(bytes that the tag of the first frame promises, where the number stands in the frame); zeros
    where it promises none.
    """
    if len(frame) < 64:
        return 0, 0
    plain = 4 + _side_bytes(frame)
    for place in (plain, plain + 2):  # with a checksum
        if frame[place : place + 4] in (b"Xing", b"Info"):
            flags = int.from_bytes(frame[place + 4 : place + 8], "big")
            place += 12 if flags & 1 else 8
            return (int.from_bytes(frame[place : place + 4], "big"), place) if flags & 2 else (0, 0)
    if frame[36:40] == b"VBRI":
        return int.from_bytes(frame[46:50], "big"), 46
    return 0, 0


def has_count(read: Read) -> bool:
    """Whether the first frame has a tag; otherwise, libmpg123 estimates the number of samples."""
    start = first_frame(read)
    return start is not None and bool(re.search(rb"Xing|Info|VBRI", read(start, 64)))


def xing_frame(head: bytes, n_frames: int, n_bytes: int) -> bytes:
    """A frame with the tag Xing, which says that so many frames and bytes follow.

    Args:
        head: of a frame of the file; the tag's has its version, layer, rate and channels, no
            checksum, and room for the tag.
    """
    head = bytes((head[0], head[1] | 1, 0xE0 | head[2] & 0x0C, head[3]))
    size = frame_bytes(head)
    tag = b"Xing" + struct.pack(">III", 3, n_frames, size + n_bytes)
    return (head + bytes(_side_bytes(head)) + tag).ljust(size, b"\0")


def _side_bytes(head: bytes) -> int:
    """Bytes between the header of a frame and its tag."""
    is_first, is_mono = head[1] & 0x18 == 0x18, head[3] >> 6 == 3
    if is_first != is_mono:
        return 32 if is_first else 9
    return 17
