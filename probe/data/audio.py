"""Decoding: a file's bytes -> mono float32 samples at the rate a model wants.

libsndfile accepts truncated files (`probe.data.containers`), header-only files, NaN samples and
absurd rates without complaint, so each is checked. The bytes that are hashed are the bytes that are
decoded. Resampling is soxr HQ (torchaudio's default aliases an 8.5 kHz tone at -11 dB when going
from 48 to 16 kHz, soxr HQ at -136 dB).

A file is decoded and resampled by blocks whose size does not depend on what its header claims. In
memory are its bytes, one block and the samples that are returned.
"""

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from probe.data.audio_bytes import (
    MOST_BYTES,
    Deadline,
    Read,
    cannot_be_read,
    open_regular,
    read_regular,
    reader_of,
)
from probe.data.containers import FLAC_UNKNOWN, Ending, ending_of, refuse_fewer, refuse_short
from probe.data.sound_flags import DAMAGED, NO_END, Levels
from probe.errors import UtteranceError
from probe.foreign_files import HEAD_BYTES, true_form

SETTINGS = {"decoder": "soundfile", "downmix": "mean", "resampler": "soxr HQ"}
RATES_HZ = (1000, 768_000)
LONGEST_S = 8 * 3600
BLOCK_SAMPLES = 1 << 20  # of all channels together
# Manifests round durations to a tenth of a second at worst.
TOLERANCE_S, TOLERANCE_SHARE = 0.1, 0.01
# Format -> libsndfile's names of the container and of the coding inside, where that is optional.
FORMATS = {
    "wav": ("WAV", ""),
    "flac": ("FLAC", ""),
    "mp3": ("MP3", ""),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "aiff": ("AIFF", ""),
    "sph": ("NIST", ""),
}


@dataclass(frozen=True)
class Audio:
    """A decoded file.

    Attributes:
        samples: (time,) float32 at the requested rate.
        sha256: of the file's bytes.
        file_bytes, mtime_ns: size and modification time of the file, hints that it is unchanged.
        native_rate_hz: the file's own rate.
        duration_s: seconds at the native rate.
        flags: what is unusual about the sound (`probe.data.sound_flags`).
    """

    samples: np.ndarray
    sha256: str
    file_bytes: int
    mtime_ns: int
    native_rate_hz: int
    duration_s: float
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Header:
    """What a file claims about itself.

    Attributes:
        rate_hz: the file's own rate.
        channels: 1 for mono.
        n_samples: of one channel; an estimate in MP3, 0 where the file does not say.
    """

    rate_hz: int
    channels: int
    n_samples: int


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
    """A file's bytes for libsndfile, with the mends of its ending."""

    def __init__(self, read: Read, n_bytes: int, ending: Ending) -> None:
        super().__init__()
        self._read, self._ending, self._position = read, ending, 0
        self._n_bytes = len(ending.prefix) + n_bytes - ending.start

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer from the present position on; return how many bytes there were."""
        prefix = self._ending.prefix
        block = prefix[self._position : self._position + len(buffer)]
        if len(block) < len(buffer):
            place = self._ending.start + self._position + len(block) - len(prefix)
            block += self._read(place, len(buffer) - len(block))
        buffer[: len(block)] = block
        for place, mended in self._ending.mends:
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


@contextmanager
def _opened(read: Read, n_bytes: int) -> Iterator[tuple[soundfile.SoundFile, Ending]]:
    """A sound file and its ending, with a plausible rate and as long as its header says.

    Raises:
        UtteranceError: from here or within the context, for whatever libsndfile and soxr raise.
    """
    try:
        ending = ending_of(read, n_bytes)
        with _Onward(_Content(read, n_bytes, ending)) as file:
            if not RATES_HZ[0] <= file.samplerate <= RATES_HZ[1]:
                expected = f"{RATES_HZ[0]} to {RATES_HZ[1]} Hz"
                raise UtteranceError(f"sample rate {file.samplerate} Hz; expected {expected}")
            refuse_short(file, read(0, HEAD_BYTES))
            yield file, ending
    except soundfile.LibsndfileError as error:
        content, remedy = true_form(read(0, HEAD_BYTES))
        # The text of the error itself has an address in memory.
        reason = f"the file is {content}. {remedy}" if content else error.error_string.rstrip(".")
        raise UtteranceError(f"cannot be decoded: {reason}") from error
    except (soundfile.SoundFileError, ValueError, OverflowError) as error:
        raise UtteranceError(f"cannot be decoded: {error}") from error
    except MemoryError as error:
        raise UtteranceError(f"more audio than memory: {n_bytes} bytes of file") from error


def load_audio(
    path: Path,
    rate_hz: int,
    duration_s: float | None = None,
    *,
    root: Path | None = None,
    deadline: Deadline | None = None,
) -> Audio:
    """A file's audio, down-mixed to mono and resampled to ``rate_hz``.

    Args:
        duration_s: seconds that the manifest promises; a file that is longer or shorter is refused.
        root: the folder that the file must lie in.
        deadline: checked between blocks; `probe.data.guarded_decoding` also limits the time within
            a block.

    Raises:
        UtteranceError: not a regular file, unreadable, empty, truncated, non-finite, too long, or
            not as long as promised.
    """
    content, status = read_regular(path, root, deadline)
    with _opened(reader_of(content), len(content)) as (file, ending):
        samples, levels = _decode(file, content, rate_hz, deadline)
        native_hz = file.samplerate
    seconds = levels.n_samples / native_hz
    if duration_s is not None:
        _compare_durations(seconds, duration_s)
    flags = [*levels.flags]
    if not ending.known:
        flags.append(NO_END)
    if ending.damaged:
        flags.append(DAMAGED)
    digest = hashlib.sha256(content).hexdigest()
    size, mtime_ns = status.st_size, status.st_mtime_ns
    return Audio(samples, digest, size, mtime_ns, native_hz, seconds, tuple(flags))


def _decode(
    file: soundfile.SoundFile, content: bytes, rate_hz: int, deadline: Deadline | None
) -> tuple[np.ndarray, Levels]:
    """((time,) float32 mean of the channels at ``rate_hz``, levels at the native rate)."""
    native_hz, most = file.samplerate, LONGEST_S * file.samplerate + 1
    # Behind the samples that a FLAC header counts there may be tags, which are no audio.
    if file.format == "FLAC" and file.frames < FLAC_UNKNOWN:
        most = file.frames
    # By blocks it gives the same bits as at once, and a file of 8 hours at 768 kHz needs no more
    # memory than one at 16 kHz.
    resampler = None
    if native_hz != rate_hz:
        resampler = soxr.ResampleStream(native_hz, rate_hz, 1, dtype="float32", quality="HQ")
    levels = Levels(file.channels)
    blocks: list[np.ndarray] = []
    n_bad, block_samples = 0, max(1, BLOCK_SAMPLES // file.channels)

    def next_block() -> np.ndarray:
        n_samples = min(block_samples, most - levels.n_samples)
        return file.read(n_samples, dtype="float32", always_2d=True)

    while len(block := next_block()):
        if deadline is not None:
            deadline.check()
        with np.errstate(all="ignore"):  # infinity is refused below
            mono = block.mean(axis=1)
        levels.add(block, mono)
        if levels.n_samples > LONGEST_S * native_hz:
            raise UtteranceError(f"longer than {LONGEST_S // 3600} hours; cut it into utterances")
        n_bad += int(np.count_nonzero(~np.isfinite(mono)))
        if not n_bad:
            blocks.append(mono if resampler is None else resampler.resample_chunk(mono))
    refuse_fewer(file, content, levels.n_samples)
    if levels.n_samples == 0:
        raise UtteranceError("no samples in it (a header alone, or cut off)")
    if n_bad:
        raise UtteranceError(f"{n_bad} samples are NaN or infinite")
    if resampler is not None:
        blocks.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    samples = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    # Samples near the largest float become infinite when resampled. NaN wins in max and min, which
    # need no memory.
    if len(samples) and not np.isfinite([samples.max(), samples.min()]).all():
        raise UtteranceError(
            "NaN or infinite after resampling; "
            f"the largest sample is {levels.peak:.3g} times full scale"
        )
    return samples, levels


def _compare_durations(seconds: float, promised_s: float) -> None:
    if abs(seconds - promised_s) <= max(TOLERANCE_S, TOLERANCE_SHARE * promised_s):
        return
    guess = "is the manifest from another version of the file?"
    if promised_s > 500 * seconds:
        guess = "is this column in samples?"
    elif promised_s > seconds:
        guess = "is the file truncated?"
    raise UtteranceError(
        f"duration_s is {promised_s:g} in the manifest, the audio lasts {seconds:g} s; {guess}"
    )


def read_header(path: Path, duration_s: float | None = None, *, root: Path | None = None) -> Header:
    """What a file's header claims, without decoding it: damage further on is not seen.

    Args:
        duration_s: seconds that the manifest promises; not compared with MP3 and Ogg, whose headers
            do not say.
        root: the folder that the file must lie in.

    Raises:
        UtteranceError: not a regular file, unreadable, empty, a truncated WAV, an absurd rate, or
            not as long as promised.
    """
    with open_regular(path, root) as (descriptor, status):
        if status.st_size == 0:
            raise UtteranceError("the file is empty (0 bytes)")

        def read(start: int, n: int) -> bytes:
            return os.pread(descriptor, n, start)

        try:
            with _opened(read, status.st_size) as (file, _):
                rate_hz, channels, n_samples = file.samplerate, file.channels, file.frames
                has_length = file.format not in ("MP3", "OGG")
        except OSError as error:
            raise cannot_be_read(error) from error
    if n_samples == 0:
        raise UtteranceError("no samples in it (a header alone, or cut off)")
    if n_samples >= FLAC_UNKNOWN:
        return Header(rate_hz, channels, 0)
    if duration_s is not None and has_length:
        _compare_durations(n_samples / rate_hz, duration_s)
    return Header(rate_hz, channels, n_samples)


def header_duration_s(path: Path, *, root: Path | None = None) -> float | None:
    """Seconds that a file's header claims, for estimates; None where it claims nothing usable."""
    try:
        header = read_header(path, root=root)
    except UtteranceError:
        return None
    seconds = header.n_samples / header.rate_hz
    return seconds if 0 < seconds <= LONGEST_S else None


def formats() -> dict[str, bool]:
    """Common formats, and whether the installed libsndfile reads each."""
    containers = soundfile.available_formats()
    return {
        name: container in containers
        and (not coding or coding in soundfile.available_subtypes(container))
        for name, (container, coding) in FORMATS.items()
    }


def resamples() -> bool:
    """Whether soxr turns a tone of 1 kHz at 48 kHz into the same tone at 16 kHz, within -60 dB."""
    tone, expected = (
        np.sin(2 * np.pi * 1000 * np.arange(rate_hz // 10) / rate_hz)
        for rate_hz in (48_000, 16_000)
    )
    samples = soxr.resample(tone.astype(np.float32), 48_000, 16_000, quality="HQ")
    middle = slice(len(expected) // 4, -len(expected) // 4)  # the ends ring
    return samples.shape == expected.shape and bool(np.abs(samples - expected)[middle].max() < 1e-3)
