"""Open sound files: libsndfile's samples in the order of a file, checked against what it promises.

libsndfile accepts truncated files (`probe.data.containers`) and absurd rates without complaint, so
both are refused here. Formats that it lacks are decoded by `probe.data.ffmpeg`.
"""

import io
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import soundfile

from probe.data import ffmpeg
from probe.data.audio_bytes import MOST_BYTES, Deadline, Read
from probe.data.containers import FLAC_UNKNOWN, ending_of, refuse_fewer, refuse_short
from probe.errors import UtteranceError
from probe.foreign_files import HEAD_BYTES, true_form

RATES_HZ = (1000, 768_000)
BLOCK_SAMPLES = 1 << 20  # of all channels together
# Values of all channels together that are kept for steps back: 131 s of mono at 16 kHz, 8 MB.
RECENT_SAMPLES = 1 << 21
# Codings in which a sample's place in the file follows from its number.
EXACT_SEEK = ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")


class Sound(Protocol):
    """An open sound file, which is decoded from its beginning to its end.

    Attributes:
        rate_hz: the file's own rate.
        channels: 1 for mono.
        n_samples: of each channel as the file claims; an estimate in MP3, None where it does not
            say.
        has_length: whether ``n_samples`` is no estimate.
        has_end: whether the file says where its audio ends.
        is_damaged: whether bytes in the middle are no audio, which the decoder skips.
        is_seekable: whether `seek` is exact and cheap.
        decoder: the libraries that decode it, with their versions; empty for libsndfile.
    """

    rate_hz: int
    channels: int
    n_samples: int | None
    has_length: bool
    has_end: bool
    is_damaged: bool
    is_seekable: bool
    decoder: str

    def read(self, n_samples: int) -> np.ndarray:
        """(time, channel) float32: the next samples, none at the end."""

    def seek(self, position: int) -> None:
        """Go on from a sample, which is at most the last one."""

    def check_end(self, n_samples: int) -> None:
        """Raise an `UtteranceError` where so many samples are fewer than the file promises."""

    def close(self) -> None:
        """Release the decoder."""


class _Onward(soundfile.SoundFile):
    """A file that is read from its beginning to its end.

    soundfile seeks to its own position after every block. That fails at the end of FLAC with fewer
    samples than its header says, and makes libmpg123 decode the next frames without the bits that
    they have in those before.
    """

    def seekable(self) -> bool:
        """Whether soundfile may seek."""
        return False


class _Content(io.RawIOBase):
    """A file's bytes for a decoder, with mends of its ending."""

    def __init__(
        self,
        read: Read,
        n_bytes: int,
        start: int = 0,
        prefix: bytes = b"",
        mends: tuple[tuple[int, bytes], ...] = (),
    ) -> None:
        super().__init__()
        self._read, self._start, self._prefix, self._mends = read, start, prefix, mends
        self._position, self._n_bytes = 0, len(prefix) + n_bytes - start

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """Any position can be read next."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer from the present position on; return how many bytes there were."""
        block = self._prefix[self._position : self._position + len(buffer)]
        if len(block) < len(buffer):
            place = self._start + self._position + len(block) - len(self._prefix)
            block += self._read(place, len(buffer) - len(block))
        buffer[: len(block)] = block
        for place, mended in self._mends:
            for position, byte in enumerate(mended, start=place - self._position):
                if 0 <= position < len(block):
                    buffer[position : position + 1] = bytes((byte,))
        self._position += len(block)
        return len(block)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to a position, or to the end where there is no such position.

        A damaged file makes libsndfile seek to before the beginning, which would never end.
        """
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._n_bytes}[whence]
        self._position = base + offset if 0 <= base + offset < MOST_BYTES else self._n_bytes
        return self._position

    def tell(self, /) -> int:
        """The present position."""
        return self._position


class _Sndfile:
    """A file that libsndfile decodes."""

    decoder = ""

    def __init__(self, read: Read, n_bytes: int) -> None:
        ending = ending_of(read, n_bytes)
        content = _Content(read, n_bytes, ending.start, ending.prefix, ending.mends)
        self._file, self._bytes, self._n_bytes = _Onward(content), read, n_bytes
        self.rate_hz, self.channels = self._file.samplerate, self._file.channels
        frames, form = self._file.frames, self._file.format
        self.n_samples = frames if frames < FLAC_UNKNOWN else None
        self.has_length = form not in ("MP3", "OGG")
        self.has_end, self.is_damaged = ending.known, ending.damaged
        self.is_seekable = self._file.subtype in EXACT_SEEK and self.n_samples is not None
        # Behind the samples that a FLAC header counts there may be tags, which are no audio.
        self._n_left = frames if form == "FLAC" else FLAC_UNKNOWN
        refuse_short(self._file, read(0, HEAD_BYTES))

    def read(self, n_samples: int) -> np.ndarray:
        """(time, channel) float32: the next samples, none at the end."""
        block = self._file.read(min(n_samples, self._n_left), dtype="float32", always_2d=True)
        self._n_left -= len(block)
        return block

    def seek(self, position: int) -> None:
        """Go on from a sample, which is at most the last one."""
        self._n_left += self._file.tell() - position
        self._file.seek(position)

    def check_end(self, n_samples: int) -> None:
        """Raise an `UtteranceError` where so many samples are fewer than the file promises."""
        refuse_fewer(self._file, self._bytes(0, self._n_bytes), n_samples)

    def close(self) -> None:
        """Release the decoder."""
        self._file.close()


def open_sound(read: Read, n_bytes: int) -> Sound:
    """A sound file with a plausible rate and as long as its header says; to be called and used
    within `refusing`.

    Raises:
        UtteranceError: truncated, an absurd rate, or a format without a decoder.
    """
    head = read(0, HEAD_BYTES)
    sound: Sound
    if (container := ffmpeg.container_of(head)) and ffmpeg.is_installed():
        sound = ffmpeg.FfmpegSound(_Content(read, n_bytes), container)
    else:
        sound = _Sndfile(read, n_bytes)
    if not RATES_HZ[0] <= sound.rate_hz <= RATES_HZ[1]:
        expected = f"{RATES_HZ[0]} to {RATES_HZ[1]} Hz"
        raise UtteranceError(f"sample rate {sound.rate_hz} Hz; expected {expected}")
    return sound


@contextmanager
def refusing(read: Read, n_bytes: int) -> Iterator[None]:
    """A context in which whatever libsndfile and soxr raise becomes an `UtteranceError`."""
    try:
        yield
    except soundfile.LibsndfileError as error:
        content, remedy = true_form(read(0, HEAD_BYTES))
        # The text of the error itself has an address in memory.
        reason = f"the file is {content}. {remedy}" if content else error.error_string.rstrip(".")
        raise UtteranceError(f"cannot be decoded: {reason}") from error
    except (soundfile.SoundFileError, ValueError, OverflowError) as error:
        raise UtteranceError(f"cannot be decoded: {error}") from error
    except MemoryError as error:
        raise UtteranceError(f"more audio than memory: {n_bytes} bytes of file") from error


class Tape:
    """The samples of a sound file by their position.

    Forward it decodes whatever lies between. Back it seeks where the format has an exact seek, or
    takes samples that were decoded lately, or begins again; samples are the same on every way.

    Attributes:
        sound: the open file.
        position: of the next sample.
        n_restarts: how often it began again.
    """

    def __init__(self, open_again: Callable[[], Sound]) -> None:
        self._open_again = open_again
        self.sound = open_again()
        self.position = self.n_restarts = 0
        self._decoded = 0  # position of the decoder
        self._recent: deque[tuple[int, np.ndarray]] = deque()
        self._n_recent = 0
        self.block_samples = max(1, BLOCK_SAMPLES // self.sound.channels)

    def go_to(self, position: int, deadline: Deadline | None = None) -> None:
        """Make ``position`` the next sample, or the end of the file where that comes first."""
        sound = self.sound
        if sound.is_seekable:
            if position != self._decoded:
                self._decoded = min(position, sound.n_samples or 0)
                sound.seek(self._decoded)
            self.position = self._decoded
            return
        if position < self._decoded and not (self._recent and self._recent[0][0] <= position):
            sound.close()
            self.sound = self._open_again()
            self.n_restarts += 1
            self._forget()
        self.position = min(position, self._decoded)
        while self.position < position:
            if deadline is not None:
                deadline.check()
            if not len(self._next(min(self.block_samples, position - self.position))):
                break

    def read(self, n_samples: int) -> np.ndarray:
        """(time, channel) float32: exactly so many samples, or fewer at the end of the file."""
        blocks = [self._next(n_samples)]
        n = len(blocks[0])
        while 0 < n < n_samples and len(blocks[-1]):
            blocks.append(self._next(n_samples - n))
            n += len(blocks[-1])
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    def _next(self, n_samples: int) -> np.ndarray:
        """At most so many samples, none only at the end."""
        if self.position < self._decoded:
            start, recent = next(
                item for item in self._recent if item[0] + len(item[1]) > self.position
            )
            block = recent[self.position - start :][:n_samples]
        else:
            block = self.sound.read(n_samples)
            self._decoded += len(block)
            if not self.sound.is_seekable:
                self._remember(block)
        self.position += len(block)
        return block

    def _remember(self, block: np.ndarray) -> None:
        self._recent.append((self._decoded - len(block), block))
        self._n_recent += block.size
        while self._recent and self._n_recent - self._recent[0][1].size >= RECENT_SAMPLES:
            self._n_recent -= self._recent.popleft()[1].size

    def _forget(self) -> None:
        self._recent.clear()
        self._decoded = self._n_recent = 0

    def close(self) -> None:
        """Close the file."""
        self.sound.close()
        self._forget()
