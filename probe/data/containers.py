"""Where the audio of a file ends: by what the file says, and by what is there.

libsndfile corrects a wrong size to what is there, or stops where the header says, without a word
except in its log. Here, what the header promises is compared with the bytes of the file before
libsndfile sees them. A file that ends too early, or that has more audio than would be read, is
refused. A file that never knew its own length (written to a pipe, or by a recorder that was
interrupted) is read to its end and flagged.

Sources: WAVE, RF64 (EBU 3306), AIFF (Apple 1989), AU (Sun), CAF (Apple), Ogg (RFC 3533), the Xing
and VBRI tags of MP3.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

import soundfile

from probe.errors import UtteranceError

# Gives the bytes of a file from a position on, at most so many.
Read = Callable[[int, int], bytes]

# Chunks before a WAV's audio; a file of 4 GB could hold 500 million empty ones.
MOST_CHUNKS = 10_000
# Programs that write to a pipe put a number near these into the size (sox: 0x7F000008, 0x7FFFF000;
# arecord: 0x80000000; ffmpeg: -1).
UNKNOWN_32 = ((0x7F00_0000, 0x8000_0000), (0xFFFF_0000, 0xFFFF_FFFF))
UNKNOWN_64 = 1 << 62
# Bytes behind the audio that are no chunk are padding or a tag up to here, or up to a hundredth of
# the audio.
PADDING_BYTES = 4096
TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS")
# An Ogg page has at most 65,307 bytes; so many from the end hold the beginning of the last one.
OGG_TAIL_BYTES = 2 * 65_307
OGG_PAGE = struct.Struct("<4sBBqIIIB")
OGG_BEGINS, OGG_ENDS = 2, 4
OGG_STREAM_BEGINS = re.compile(rb"OggS\0[\x02\x06]")
FLAC_UNKNOWN = (
    1 << 36
)  # samples; a header has 36 bits for them, libsndfile has more where they are zero
FLAC_BEGINS = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
# MP3 players look for the first frame in so many bytes.
MP3_SEARCH_BYTES = 4096
MP3_KBPS = {
    True: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
ID3V1_BYTES = 128
# Samples of an MP3 frame at most: what an encoder may count too many, such as the frame of its own
# tag.
MP3_FRAME_SAMPLES = 1152


@dataclass(frozen=True)
class Ending:
    """How a file ends.

    Attributes:
        known: whether the file says where its audio ends.
        mends: (position, bytes) that make libsndfile read to the end of the file.
        damaged: whether bytes in the middle are no frames (MP3), which the decoder skips.
        start, prefix: libsndfile reads ``prefix`` and then the file from ``start`` on. It is a tag
            that counts the frames of an MP3 which has none: otherwise libsndfile stops where the
            file would end if all of its frames were as large as the first.
    """

    known: bool = True
    mends: tuple[tuple[int, bytes], ...] = ()
    damaged: bool = False
    start: int = 0
    prefix: bytes = b""


def ending_of(read: Read, n_bytes: int) -> Ending:
    """How a file of ``n_bytes`` ends.

    Raises:
        UtteranceError: the audio is cut off, or more audio follows than libsndfile would read.
    """
    head = read(0, 12)
    if head[:4] in (b"RIFF", b"RIFX") and head[8:] == b"WAVE":
        return _wav(read, n_bytes, "<" if head[:4] == b"RIFF" else ">")
    if head[:4] in (b"RF64", b"BW64") and head[8:] == b"WAVE":
        return _rf64(read, n_bytes)
    if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        return _aiff(read, n_bytes)
    if head[:4] in (b".snd", b"dns."):
        return _au(head, n_bytes, ">" if head[:4] == b".snd" else "<")
    if head[:4] == b"caff":
        return _caf(read, n_bytes)
    if head[:4] == b"riff":  # Sony Wave64; libsndfile reads it to the end of the file
        size = int.from_bytes(read(16, 8), "little")
        return Ending(known=0 < size < UNKNOWN_64)
    if head[:4] == b"fLaC":  # 36 bits count the samples
        return Ending(known=bool(int.from_bytes(read(21, 5), "big") & (1 << 36) - 1))
    if head[:4] == b"OggS":
        return _ogg(read, n_bytes)
    if head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] >= 0xE0):
        return _mp3(read, n_bytes)
    return Ending()


def _is_unknown(size: int) -> bool:
    """Whether a size of 32 bits stands for a length that was not known when the header was written."""
    return any(low <= size <= high for low, high in UNKNOWN_32)


def _find_chunk(read: Read, name: bytes, order: str) -> tuple[int, int] | None:
    """(position of the content, size) of the first chunk of this name behind a RIFF or FORM header;
    None where there is none.
    """
    position = 12
    for _ in range(MOST_CHUNKS):
        chunk = read(position, 8)
        if len(chunk) < 8:
            return None
        found, size = struct.unpack(order + "4sI", chunk)
        position += 8
        if found == name:
            return position, size
        position += size + size % 2
    raise UtteranceError(f"more than {MOST_CHUNKS} chunks before the audio of a WAV file")


def _is_chunks(read: Read, position: int, n_bytes: int, order: str) -> bool:
    """Whether what stands from a position to the end of the file is chunks, or too little to be
    audio.
    """
    for _ in range(MOST_CHUNKS):
        if n_bytes - position < 8:
            return True
        name, size = struct.unpack(order + "4sI", read(position, 8))
        position += 8 + size + size % 2
        if (
            not re.fullmatch(rb"[ -~]{4}", name)
            or name in (b"RIFF", b"FORM")
            or position > n_bytes + 1
        ):
            return False
    return False


def _truncated(
    form: str, promised: int, there: int, unit: str = "bytes of audio"
) -> UtteranceError:
    return UtteranceError(
        f"truncated: the {form} header promises {promised} {unit}, {there} are there"
    )


def _joined(what: str, ending: str) -> UtteranceError:
    return UtteranceError(
        f"several {what} one after the other, of which only the first would be read. Join them into one (ffmpeg -i in.{ending} out.wav)"
    )


def _wav(read: Read, n_bytes: int, order: str) -> Ending:
    data = _find_chunk(read, b"data", order)
    if data is None:
        raise UtteranceError("truncated: a WAV file without a data chunk")
    position, size = data
    there = n_bytes - position
    if size == 0 and not _is_chunks(read, position, n_bytes, order):
        return Ending(
            known=False, mends=((position - 4, struct.pack(order + "I", min(there, 0xFFFF_FFFF))),)
        )
    if size > there:
        if not _is_unknown(size):
            raise _truncated("WAV", size, there)
        return Ending(known=False)
    _refuse_more(read, position + size + size % 2, n_bytes, size, order)
    return Ending()


def _refuse_more(read: Read, position: int, n_bytes: int, size: int, order: str) -> None:
    """Raises where much follows the audio of a WAV that is no chunk, no tag and no padding."""
    rest = n_bytes - position
    if rest <= max(PADDING_BYTES, size // 100) or _is_chunks(read, position, n_bytes, order):
        return
    sample = read(position, PADDING_BYTES)
    if sample.startswith(TAGS) or not sample.strip(b"\0"):
        return
    raise UtteranceError(
        f"the WAV header promises {size} bytes of audio, but {rest} bytes of something else follow; was the recording "
        "interrupted, or were two files joined? Repair the header (ffmpeg -ignore_length 1 -i in.wav out.wav)"
    )


def _rf64(read: Read, n_bytes: int) -> Ending:
    """RF64 has its sizes in the chunk ds64: of the file, of the audio, and the number of samples."""
    sizes, data = _find_chunk(read, b"ds64", "<"), _find_data_of_rf64(read)
    if sizes is None or data is None:
        return Ending()
    place, position = sizes[0], data
    size = int.from_bytes(read(place + 8, 8), "little")
    there = n_bytes - position
    if there > 0 and (size == 0 or size >= UNKNOWN_64):
        return Ending(known=False, mends=((place, struct.pack("<QQQ", n_bytes - 8, there, 0)),))
    return Ending()


def _find_data_of_rf64(read: Read) -> int | None:
    """Where the audio of an RF64 file begins, if the size of its chunk is that of ds64."""
    data = _find_chunk(read, b"data", "<")
    return data[0] if data is not None and data[1] == 0xFFFF_FFFF else None


def _aiff(read: Read, n_bytes: int) -> Ending:
    sound = _find_chunk(read, b"SSND", ">")
    if sound is None:
        return Ending()
    position, size = sound  # of 8 bytes that say where in a block the samples begin, and of samples
    there = n_bytes - position
    if size in (0, 8) and there > 8 and not _is_chunks(read, position + 8, n_bytes, ">"):
        return Ending(
            known=False, mends=((position - 4, struct.pack(">I", min(there, 0xFFFF_FFFF))),)
        )
    return Ending(known=not (there < size and _is_unknown(size)))


def _au(head: bytes, n_bytes: int, order: str) -> Ending:
    start, size = struct.unpack(order + "II", head[4:12].ljust(8, b"\0"))
    there = n_bytes - start
    if there > 0 and (size == 0 or (there < size and _is_unknown(size))):
        return Ending(known=False, mends=((8, b"\xff\xff\xff\xff"),))
    return Ending()


def _caf(read: Read, n_bytes: int) -> Ending:
    position = 8
    for _ in range(MOST_CHUNKS):
        chunk = read(position, 12)
        if len(chunk) < 12:
            break
        name, size = struct.unpack(">4sQ", chunk)
        position += 12
        if name == b"data":
            there = n_bytes - position
            if there > 4 and (size in (0, 4) or size >= UNKNOWN_64):  # 4 bytes of it count edits
                return Ending(known=False, mends=((position - 8, struct.pack(">Q", there)),))
            break
        position += size
    return Ending()


def _ogg(read: Read, n_bytes: int) -> Ending:
    """The last page is whole, and says that it is the last; it belongs to a stream that begins at
    the beginning of the file.
    """
    serials, _ = _ogg_beginnings(read)
    start = max(0, n_bytes - OGG_TAIL_BYTES)
    tail = read(start, OGG_TAIL_BYTES)
    place = tail.rfind(b"OggS")
    while place >= 0 and n_bytes - start - place >= OGG_PAGE.size:
        page = _ogg_page(read, start + place)
        if page is not None:
            if page[2] > n_bytes:
                raise _truncated(
                    "last Ogg page's", page[2] - start - place, n_bytes - start - place, "bytes"
                )
            if serials and page[1] not in serials:
                raise _joined("Ogg streams", "ogg")
            return Ending(known=bool(page[0] & OGG_ENDS))
        place = tail.rfind(b"OggS", 0, place)
    return Ending(known=False)


def _ogg_beginnings(read: Read) -> tuple[set[int], int]:
    """(serial numbers of the streams that begin at the beginning of an Ogg file, where their first
    pages end).
    """
    serials: set[int] = set()
    position = 0
    while (page := _ogg_page(read, position)) is not None and page[0] & OGG_BEGINS:
        serials.add(page[1])
        position = page[2]
    return serials, position


def _ogg_page(read: Read, position: int) -> tuple[int, int, int] | None:
    """(flags, serial number of the stream, end of the page) of the Ogg page at a position; None
    where there is none.
    """
    head = read(position, OGG_PAGE.size)
    if len(head) < OGG_PAGE.size:
        return None
    mark, version, flags, _, serial, _, _, n_parts = OGG_PAGE.unpack(head)
    if mark != b"OggS" or version:
        return None
    parts = read(position + OGG_PAGE.size, n_parts)
    return flags, serial, position + OGG_PAGE.size + n_parts + sum(parts)


def _mp3(read: Read, n_bytes: int) -> Ending:
    """The tag Xing, Info or VBRI in the first frame says how many bytes follow from there on."""
    start = _behind_tags(read, 0)
    first = _mp3_frame(read(start, MP3_SEARCH_BYTES))
    if first is None:
        return Ending()
    start += first
    n_frames, is_constant, complete, damaged = _walk_mp3(read, start, n_bytes)
    promised, place = _mp3_bytes(read(start, 256))
    if not promised:
        if _has_count(read) or is_constant:
            return Ending(known=complete, damaged=damaged)
        return Ending(
            complete, (), damaged, start, _xing(read(start, 4), n_frames, n_bytes - start)
        )
    there = n_bytes - start
    if there < promised:
        raise _truncated("MP3", promised, there)
    behind = _behind_tags(read, start + promised)
    if n_bytes - behind > PADDING_BYTES and _alike(read(start, 4), read(behind, 4)):
        raise _joined("MP3 files", "mp3")
    # Without this, libmpg123 prints a warning about the size, without the name of the file. It
    # takes a tag of ID3v1 off by itself.
    size = there - (ID3V1_BYTES if read(n_bytes - ID3V1_BYTES, 3) == b"TAG" else 0)
    return Ending(
        mends=((start + place, struct.pack(">I", size)),) if size > promised else (),
        damaged=damaged,
    )


def _walk_mp3(read: Read, start: int, n_bytes: int) -> tuple[int, bool, bool, bool]:
    """(frames from the first on, whether all have one bit rate, whether the last is complete,
    whether others stand between them).
    """
    first, position, n_frames, damaged = read(start, 4), start, 0, False
    rates: set[int] = set()
    while position < n_bytes:
        head = read(position, 4)
        if not _alike(first, head):
            skipped = _next_frames(read, position, first)
            if skipped is None:
                return n_frames, len(rates) < 2, True, damaged
            position, damaged = position + skipped, True
            continue
        size = _mp3_frame_bytes(head)
        if not size:  # of a rate that the header does not say
            return 0, True, True, damaged
        rates.add(head[2] >> 4)
        position += size
        n_frames += 1
    return n_frames, len(rates) < 2, position == n_bytes, damaged


def _xing(head: bytes, n_frames: int, n_bytes: int) -> bytes:
    """A frame with the tag Xing: so many frames and bytes follow.

    Args:
        head: of a frame of the file; the tag's has its version, layer, rate and channels, no
            checksum, and room for the tag.
    """
    head = bytes((head[0], head[1] | 1, 0xE0 | head[2] & 0x0C, head[3]))
    size = _mp3_frame_bytes(head)
    tag = b"Xing" + struct.pack(">III", 3, n_frames, size + n_bytes)
    return (head + bytes(_side_bytes(head)) + tag).ljust(size, b"\0")


def _next_frames(read: Read, position: int, first: bytes) -> int | None:
    """How far two frames in a row are from a position; None where there are none near, as behind
    the end of the audio.
    """
    area = read(position, MP3_SEARCH_BYTES)
    for found in re.finditer(re.escape(first[:1]), area):
        head = area[found.start() : found.start() + 4]
        size = _mp3_frame_bytes(head) if _alike(first, head) else 0
        if size and _alike(first, read(position + found.start() + size, 4)):
            return found.start()
    return None


def _mp3_frame_bytes(head: bytes) -> int:
    """The size of a frame of layer III by its header; 0 where it does not say."""
    version, kbps, rate = (head[1] >> 3) & 3, head[2] >> 4, (head[2] >> 2) & 3
    if not 0 < kbps < 15 or rate == 3 or version == 1:
        return 0
    is_first = version == 3
    rate_hz = (44_100, 48_000, 32_000)[rate] // {3: 1, 2: 2, 0: 4}[version]
    return (144_000 if is_first else 72_000) * MP3_KBPS[is_first][kbps - 1] // rate_hz + (
        (head[2] >> 1) & 1
    )


def _behind_tags(read: Read, position: int) -> int:
    """The position behind the ID3v2 tags that begin at a position."""
    while len(head := read(position, 10)) == 10 and head[:3] == b"ID3":
        size = sum((byte & 0x7F) << 7 * (3 - number) for number, byte in enumerate(head[6:]))
        position += 10 + size + (10 if head[5] & 0x10 else 0)
    return position


def _mp3_frame(content: bytes) -> int | None:
    """Where the first header of an MPEG layer III frame stands; None where there is none."""
    for found in re.finditer(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][\x10-\xef]", content):
        if content[found.start() + 2] & 0x0C != 0x0C:
            return found.start()
    return None


def _alike(one: bytes, other: bytes) -> bool:
    """Whether two frame headers have one version, layer and rate."""
    return (
        len(other) == 4
        and one[:1] == other[:1]
        and one[1] >> 1 == other[1] >> 1
        and not (one[2] ^ other[2]) & 0x0C
    )


def _mp3_bytes(frame: bytes) -> tuple[int, int]:
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


def _side_bytes(head: bytes) -> int:
    """Bytes between the header of a frame of layer III and its tag."""
    is_first, is_mono = head[1] & 0x18 == 0x18, head[3] >> 6 == 3
    return {(True, False): 32, (True, True): 17, (False, False): 17, (False, True): 9}[
        is_first, is_mono
    ]


def refuse_short(file: soundfile.SoundFile, head: bytes) -> None:
    """Raises where the header of an open file promises more than libsndfile found when it opened
    it.

    libsndfile corrects ``frames`` to what is there, and says so in its log: ``SSND : 32008 (should
    be 25008)``.

    Args:
        head: the first 1,024 bytes.
    """
    unit, sizes = "bytes", re.findall(r": (\d+) \(should be (\d+)\)", file.extra_info)
    if file.format == "NIST":
        unit = "samples"
        sizes = [
            (said.decode(), file.frames) for said in re.findall(rb"\nsample_count -i (\d+)", head)
        ]
    elif file.format in ("AVR", "MPC2K"):
        unit = "samples"
        sizes = [
            (said, file.frames)
            for said in re.findall(r"(?m)^\s*Frames\s*: (\d+)$", file.extra_info)
        ]
    elif file.format in ("WAV", "WAVEX"):  # compared before
        return
    for said, there in sizes:
        if int(there) < int(said) and not _is_unknown(int(said)):
            raise _truncated(file.format, int(said), int(there), unit)


def refuse_fewer(file: soundfile.SoundFile, content: bytes, promised: int, n_samples: int) -> None:
    """Raises where fewer samples were decoded than the header promised, or another stream follows
    the one that was read.

    Args:
        content: of the file.
        promised: samples of one channel, as libsndfile took them from the header.
        n_samples: those that were decoded.
    """
    if file.format == "FLAC":
        if n_samples < promised < FLAC_UNKNOWN:
            raise _truncated("FLAC", promised, n_samples, "samples")
        if len(FLAC_BEGINS.findall(content)) > 1:
            raise _joined("FLAC files", "flac")
    if file.format == "OGG" and OGG_STREAM_BEGINS.search(
        content, _ogg_beginnings(_reader(content))[1]
    ):
        raise _joined("Ogg streams", "ogg")
    if (
        file.format == "MP3"
        and n_samples < promised - MP3_FRAME_SAMPLES
        and _has_count(_reader(content))
    ):
        raise _truncated("MP3", promised, n_samples, "samples")


def _reader(content: bytes) -> Read:
    return lambda start, n: content[start : start + n]


def _has_count(read: Read) -> bool:
    """Whether the first frame of an MP3 has a tag; otherwise, libmpg123 estimates the number of
    samples.
    """
    start = _behind_tags(read, 0)
    head = read(start, MP3_SEARCH_BYTES + 64)
    first = _mp3_frame(head)
    return first is not None and bool(re.search(rb"Xing|Info|VBRI", head[first : first + 64]))
