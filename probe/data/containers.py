"""Where the audio of a file ends: by what the file says, and by what is in it.

libsndfile corrects a wrong size, or stops where the header says, and reports it only in its log.
So what the header promises is compared with the bytes of the file before libsndfile sees them. A
file that ends too early, or that has more audio than would be read, is refused. A file that never
knew its own length (written to a pipe, or by a recorder that was interrupted) is read to its end
and flagged.

Sources: WAVE, RF64 (EBU 3306), AIFF (Apple 1989), AU (Sun), CAF (Apple), Ogg (RFC 3533), the Xing
and VBRI tags of MP3.
"""

import re
import struct
from dataclasses import dataclass

import soundfile

from probe.data import mp3_frames
from probe.data.audio_bytes import Read, reader_of
from probe.errors import UtteranceError

# Chunks before the audio; a file of 4 GB could hold 500 million empty ones.
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
# Samples; a FLAC header has 36 bits for them, libsndfile reports more where they are zero.
FLAC_UNKNOWN = 1 << 36
FLAC_BEGINS = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")


@dataclass(frozen=True)
class Ending:
    """How a file ends.

    Attributes:
        known: whether the file says where its audio ends.
        mends: (position, bytes) that make libsndfile read to the end of the file.
        damaged: whether bytes in the middle are no frames (MP3), which the decoder skips.
        start, prefix: libsndfile reads ``prefix`` and then the file from ``start`` on. The prefix
            is a tag that counts the frames of an MP3 without one: otherwise libsndfile stops where
            the file would end if all of its frames were as large as the first.
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
    form, kind = head[:4], head[8:]
    if form in (b"RIFF", b"RIFX") and kind == b"WAVE":
        return _riff(read, n_bytes, b"data", "<" if form == b"RIFF" else ">")
    if form == b"FORM" and kind in (b"AIFF", b"AIFC"):
        return _riff(read, n_bytes, b"SSND", ">")
    if form in (b"RF64", b"BW64") and kind == b"WAVE":
        return _rf64(read, n_bytes)
    if form in (b".snd", b"dns."):
        return _au(head, n_bytes, ">" if form == b".snd" else "<")
    if form == b"caff":
        return _caf(read, n_bytes)
    if form == b"riff":  # Sony Wave64; libsndfile reads it to the end of the file
        size = int.from_bytes(read(16, 8), "little")
        return Ending(known=0 < size < UNKNOWN_64)
    if form == b"fLaC":  # 36 bits count the samples
        return Ending(known=bool(int.from_bytes(read(21, 5), "big") & FLAC_UNKNOWN - 1))
    if form == b"OggS":
        return _ogg(read, n_bytes)
    if head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] >= 0xE0):
        return _mp3(read, n_bytes)
    return Ending()


def _truncated(form: str, n_promised: int, n: int, unit: str = "bytes of audio") -> UtteranceError:
    return UtteranceError(
        f"truncated: the {form} header promises {n_promised} {unit}, {n} are there"
    )


def _joined(what: str, ending: str) -> UtteranceError:
    return UtteranceError(
        f"several {what} one after the other, of which only the first would be read. "
        f"Join them into one (ffmpeg -i in.{ending} out.wav)"
    )


def _unknown(place: int, layout: str, *numbers: int) -> Ending:
    """The ending of a file without a length, which libsndfile reads with these numbers instead."""
    return Ending(known=False, mends=((place, struct.pack(layout, *numbers)),))


def _is_unknown(size: int) -> bool:
    """Whether a size of 32 bits stands for a length unknown when the header was written."""
    return any(low <= size <= high for low, high in UNKNOWN_32)


def _find_chunk(read: Read, name: bytes, layout: str, position: int = 12) -> tuple[int, int] | None:
    """(position of the content, size) of the first chunk of this name; None where there is none.

    Args:
        layout: of a chunk's name and size; chunks with a size of 32 bits have even lengths.
        position: of the first chunk.
    """
    header = struct.Struct(layout)
    for _ in range(MOST_CHUNKS):
        chunk = read(position, header.size)
        if len(chunk) < header.size:
            return None
        chunk_name, size = header.unpack(chunk)
        position += header.size
        if chunk_name == name:
            return position, size
        position += size + (size % 2 if header.size == 8 else 0)
    raise UtteranceError(f"more than {MOST_CHUNKS} chunks before the audio")


def _is_chunks(read: Read, position: int, n_bytes: int, order: str) -> bool:
    """Whether the file holds only chunks from a position on, or too little to be audio."""
    for _ in range(MOST_CHUNKS):
        if n_bytes - position < 8:
            return True
        name, size = struct.unpack(order + "4sI", read(position, 8))
        position += 8 + size + size % 2
        is_name = re.fullmatch(rb"[ -~]{4}", name) and name not in (b"RIFF", b"FORM")
        if not is_name or position > n_bytes + 1:
            return False
    return False


def _riff(read: Read, n_bytes: int, name: bytes, order: str) -> Ending:
    """WAV and AIFF. A chunk SSND begins with 8 bytes that are no samples."""
    chunk = _find_chunk(read, name, order + "4sI")
    if chunk is None:
        if name == b"SSND":
            return Ending()
        raise UtteranceError("truncated: a WAV file without a data chunk")
    position, size = chunk
    n_rest, n_before = n_bytes - position, 8 if name == b"SSND" else 0
    if size in (0, n_before) and not _is_chunks(read, position + n_before, n_bytes, order):
        return _unknown(position - 4, order + "I", min(n_rest, 0xFFFF_FFFF))
    if size > n_rest and _is_unknown(size):
        return Ending(known=False)
    if name == b"data":  # libsndfile notices a cut AIFF
        if size > n_rest:
            raise _truncated("WAV", size, n_rest)
        _refuse_more(read, position + size + size % 2, n_bytes, size, order)
    return Ending()


def _refuse_more(read: Read, position: int, n_bytes: int, size: int, order: str) -> None:
    """Raises where much follows the audio of a WAV that is no chunk, no tag and no padding."""
    n_rest = n_bytes - position
    if n_rest <= max(PADDING_BYTES, size // 100) or _is_chunks(read, position, n_bytes, order):
        return
    sample = read(position, PADDING_BYTES)
    if sample.startswith(TAGS) or not sample.strip(b"\0"):
        return
    raise UtteranceError(
        f"the WAV header promises {size} bytes of audio, but {n_rest} bytes of something else "
        "follow; was the recording interrupted, or were two files joined? Repair the header "
        "(ffmpeg -ignore_length 1 -i in.wav out.wav)"
    )


def _rf64(read: Read, n_bytes: int) -> Ending:
    """RF64: the chunk ds64 has the sizes of the file and the audio, and the number of samples."""
    sizes, data = _find_chunk(read, b"ds64", "<4sI"), _find_chunk(read, b"data", "<4sI")
    if sizes is None or data is None or data[1] != 0xFFFF_FFFF:
        return Ending()
    place, n_rest = sizes[0], n_bytes - data[0]
    size = int.from_bytes(read(place + 8, 8), "little")
    if n_rest > 0 and (size == 0 or size >= UNKNOWN_64):
        return _unknown(place, "<QQQ", n_bytes - 8, n_rest, 0)
    return Ending()


def _au(head: bytes, n_bytes: int, order: str) -> Ending:
    start, size = struct.unpack(order + "II", head[4:12].ljust(8, b"\0"))
    n_rest = n_bytes - start
    if n_rest > 0 and (size == 0 or (n_rest < size and _is_unknown(size))):
        return _unknown(8, ">I", 0xFFFF_FFFF)
    return Ending()


def _caf(read: Read, n_bytes: int) -> Ending:
    data = _find_chunk(read, b"data", ">4sQ", position=8)
    if data is not None:
        position, size = data
        n_rest = n_bytes - position
        if n_rest > 4 and (size in (0, 4) or size >= UNKNOWN_64):  # 4 bytes of it count edits
            return _unknown(position - 8, ">Q", n_rest)
    return Ending()


def _ogg(read: Read, n_bytes: int) -> Ending:
    """Ogg: the last page is whole, marked as last, and of a stream that begins with the file."""
    serials, _ = _ogg_beginnings(read)
    start = max(0, n_bytes - OGG_TAIL_BYTES)
    tail = read(start, OGG_TAIL_BYTES)
    place = tail.rfind(b"OggS")
    while place >= 0 and n_bytes - start - place >= OGG_PAGE.size:
        page = _ogg_page(read, start + place)
        if page is not None:
            flags, serial, end = page
            if end > n_bytes:
                position = start + place
                raise _truncated("last Ogg page's", end - position, n_bytes - position, "bytes")
            if serials and serial not in serials:
                raise _joined("Ogg streams", "ogg")
            return Ending(known=bool(flags & OGG_ENDS))
        place = tail.rfind(b"OggS", 0, place)
    return Ending(known=False)


def _ogg_beginnings(read: Read) -> tuple[set[int], int]:
    """(serial numbers of the streams that begin with the file, end of their first pages)."""
    serials: set[int] = set()
    position = 0
    while (page := _ogg_page(read, position)) is not None and page[0] & OGG_BEGINS:
        serials.add(page[1])
        position = page[2]
    return serials, position


def _ogg_page(read: Read, position: int) -> tuple[int, int, int] | None:
    """(flags, serial number of the stream, end) of the Ogg page at a position; None without one."""
    head = read(position, OGG_PAGE.size)
    if len(head) < OGG_PAGE.size:
        return None
    mark, version, flags, _, serial, _, _, n_parts = OGG_PAGE.unpack(head)
    if mark != b"OggS" or version:
        return None
    parts = read(position + OGG_PAGE.size, n_parts)
    return flags, serial, position + OGG_PAGE.size + n_parts + sum(parts)


def _mp3(read: Read, n_bytes: int) -> Ending:
    """The tag in the first frame of an MP3 says how many bytes follow from there on."""
    start = mp3_frames.first_frame(read)
    if start is None:
        return Ending()
    n_rest = n_bytes - start
    n_frames, is_constant, is_complete, is_damaged = mp3_frames.walk(read, start, n_bytes)
    promised, place = mp3_frames.promised_bytes(read(start, 256))
    if not promised:
        if mp3_frames.has_count(read) or is_constant:
            return Ending(known=is_complete, damaged=is_damaged)
        prefix = mp3_frames.xing_frame(read(start, 4), n_frames, n_rest)
        return Ending(is_complete, (), is_damaged, start, prefix)
    if n_rest < promised:
        raise _truncated("MP3", promised, n_rest)
    behind = mp3_frames.behind_tags(read, start + promised)
    is_second = mp3_frames.are_alike(read(start, 4), read(behind, 4))
    if n_bytes - behind > PADDING_BYTES and is_second:
        raise _joined("MP3 files", "mp3")
    # Without this, libmpg123 prints a warning about the size, without the name of the file. It
    # takes a tag of ID3v1 off by itself.
    has_id3v1 = read(n_bytes - mp3_frames.ID3V1_BYTES, 3) == b"TAG"
    size = n_rest - (mp3_frames.ID3V1_BYTES if has_id3v1 else 0)
    mends = ((start + place, struct.pack(">I", size)),) if size > promised else ()
    return Ending(mends=mends, damaged=is_damaged)


def refuse_short(file: soundfile.SoundFile, head: bytes) -> None:
    """Raises where the header of an open file promises more than libsndfile found on opening it.

    libsndfile corrects ``frames`` to what is there, and says so in its log: ``SSND : 32008 (should
    be 25008)``.

    Args:
        head: the first 1,024 bytes.
    """
    if file.format in ("WAV", "WAVEX"):  # compared before
        return
    unit, log = "samples", file.extra_info
    if file.format == "NIST":
        counts = re.findall(r"\nsample_count -i (\d+)", head.decode("latin-1"))
        sizes = [(count, file.frames) for count in counts]
    elif file.format in ("AVR", "MPC2K"):
        counts = re.findall(r"(?m)^\s*Frames\s*: (\d+)$", log)
        sizes = [(count, file.frames) for count in counts]
    else:
        unit, sizes = "bytes", re.findall(r": (\d+) \(should be (\d+)\)", log)
    for promised, actual in sizes:
        if int(actual) < int(promised) and not _is_unknown(int(promised)):
            raise _truncated(file.format, int(promised), int(actual), unit)


def refuse_fewer(file: soundfile.SoundFile, content: bytes, n_samples: int) -> None:
    """Raises where fewer samples were decoded than promised, or another stream follows."""
    promised, form, read = file.frames, file.format, reader_of(content)
    if form == "FLAC":
        if n_samples < promised < FLAC_UNKNOWN:
            raise _truncated("FLAC", promised, n_samples, "samples")
        if len(FLAC_BEGINS.findall(content)) > 1:
            raise _joined("FLAC files", "flac")
    if form == "OGG" and OGG_STREAM_BEGINS.search(content, _ogg_beginnings(read)[1]):
        raise _joined("Ogg streams", "ogg")
    is_cut = n_samples < promised - mp3_frames.FRAME_SAMPLES
    if form == "MP3" and is_cut and mp3_frames.has_count(read):
        raise _truncated("MP3", promised, n_samples, "samples")
