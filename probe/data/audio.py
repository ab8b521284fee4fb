"""Decoding: a file's bytes -> mono float32 samples at the rate a model wants.

libsndfile accepts truncated files (`probe.data.containers`), header-only files, NaN samples and
absurd rates without a word, so each is checked. The bytes that are hashed are the bytes that are
decoded. Resampling is soxr HQ (torchaudio's default aliases an 8.5 kHz tone at -11 dB when going
from 48 to 16 kHz, soxr HQ at -136 dB).

A file is decoded and resampled by blocks whose size does not depend on what its header claims; in
memory are its bytes, one block and the samples that come back.
"""

import hashlib
import io
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from probe.data.audio_bytes import MOST_BYTES, Deadline, cannot_be_read, open_regular, read_regular
from probe.data.containers import FLAC_UNKNOWN, Ending, Read, ending_of, refuse_fewer, refuse_short
from probe.data.sound_flags import DAMAGED, NO_END, Levels
from probe.errors import UtteranceError
from probe.foreign_files import HEAD_BYTES, true_form

SETTINGS = {"decoder": "soundfile", "downmix": "mean", "resampler": "soxr HQ"}
RATES_HZ = (1000, 768_000)
LONGEST_S = 8 * 3600
BLOCK_SAMPLES = 1 << 20  # of all channels together
# Manifests round durations to a tenth of a second at worst.
DURATION_TOLERANCE = (0.1, 0.01)
# Format -> libsndfile's name of the container and of the coding inside, where that is not always
# built in.
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
        samples: (time,) float32 at the rate that was asked for.
        sha256: of the file's bytes.
        file_bytes, mtime_ns: size and time of change of the file, hints that it is unchanged.
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

    soundfile seeks to where it is after every block. That fails at the end of FLAC which has not
    the samples of its header, and makes libmpg123 decode the next frames without the bits that they
    have in those before.
    """

    def seekable(self) -> bool:
        """Whether soundfile may seek."""
        return False


class _Content(io.RawIOBase):
    """A file's bytes for libsndfile, with sizes mended; a damaged file makes it seek to before the
    beginning, which ends nowhere.
    """

    def __init__(self, read: Read, n_bytes: int, ending: Ending) -> None:
        super().__init__()
        self._read, self._ending, self._position = read, ending, 0
        self._n_bytes = len(ending.prefix) + n_bytes - ending.start

    def readinto(self, buffer: Any, /) -> int:
        """Fills a buffer from the present position on; returns how many bytes there were."""
        prefix = self._ending.prefix[self._position : self._position + len(buffer)]
        block = prefix
        if len(prefix) < len(buffer):
            place = self._ending.start + self._position + len(prefix) - len(self._ending.prefix)
            block += self._read(place, len(buffer) - len(prefix))
        buffer[: len(block)] = block
        for place, mended in self._ending.mends:
            for position, byte in enumerate(mended, start=place - self._position):
                if 0 <= position < len(block):
                    buffer[position : position + 1] = bytes((byte,))
        self._position += len(block)
        return len(block)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Moves to a position, or to the end where the position is none."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._n_bytes}[whence]
        self._position = base + offset if 0 <= base + offset < MOST_BYTES else self._n_bytes
        return self._position

    def tell(self, /) -> int:
        """The present position."""
        return self._position


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
        duration_s: seconds that the manifest promises; a file that lasts longer or shorter is
            refused.
        root: the folder that the file must lie in.
        deadline: looked at between blocks; `probe.data.guarded_decoding` also bounds what happens
            within one.

    Raises:
        UtteranceError: not a regular file, unreadable, empty, truncated, non-finite, too long, or
            not as long as promised.
    """
    content, status = read_regular(path, root, deadline)
    ending = ending_of(lambda start, n: content[start : start + n], len(content))
    try:
        samples, n_samples, native_rate_hz, levels = _decode(content, ending, rate_hz, deadline)
    except soundfile.LibsndfileError as error:
        raise _cannot_be_decoded(error, content[:HEAD_BYTES]) from error
    except (soundfile.SoundFileError, ValueError, OverflowError) as error:
        raise UtteranceError(f"cannot be decoded: {error}") from error
    except MemoryError as error:
        raise UtteranceError(f"more audio than memory: {len(content)} bytes of file") from error
    seconds = n_samples / native_rate_hz
    if duration_s is not None:
        _compare_durations(seconds, duration_s)
    digest = hashlib.sha256(content).hexdigest()
    flags = (
        *levels.flags,
        *([] if ending.known else [NO_END]),
        *([DAMAGED] if ending.damaged else []),
    )
    return Audio(
        samples, digest, status.st_size, status.st_mtime_ns, native_rate_hz, seconds, flags
    )


def _cannot_be_decoded(error: soundfile.LibsndfileError, head: bytes) -> UtteranceError:
    """What to raise where libsndfile refuses a file: what the file is, or libsndfile's reason
    without an address in memory.
    """
    what, remedy = true_form(head)
    return UtteranceError(
        f"cannot be decoded: {f'the file is {what}. {remedy}' if what else error.error_string.rstrip('.')}"
    )


def _decode(
    content: bytes, ending: Ending, rate_hz: int, deadline: Deadline | None
) -> tuple[np.ndarray, int, int, Levels]:
    """((time,) float32 mean of the channels at ``rate_hz``, samples at the native rate, that rate,
    what they are like).
    """
    blocks: list[np.ndarray] = []
    n_samples = n_bad = 0
    with _Onward(
        _Content(lambda start, n: content[start : start + n], len(content), ending)
    ) as file:
        native_hz, promised = file.samplerate, file.frames
        _refuse_rate(native_hz)
        refuse_short(file, content[:HEAD_BYTES])
        # By blocks it gives the same bits as at once, and a file of 8 hours at 768 kHz needs no
        # more memory than one at 16 kHz.
        resampler = (
            soxr.ResampleStream(native_hz, rate_hz, 1, dtype="float32", quality="HQ")
            if native_hz != rate_hz
            else None
        )
        levels = Levels(file.channels)
        block_samples = max(1, BLOCK_SAMPLES // file.channels)
        # Behind the samples that a FLAC header counts there may be tags, which are no audio.
        most = (
            promised
            if file.format == "FLAC" and promised < FLAC_UNKNOWN
            else LONGEST_S * native_hz + 1
        )
        while len(
            block := file.read(
                min(block_samples, most - n_samples), dtype="float32", always_2d=True
            )
        ):
            if deadline is not None:
                deadline.check()
            n_samples += len(block)
            if n_samples > LONGEST_S * native_hz:
                raise UtteranceError(
                    f"longer than {LONGEST_S // 3600} hours; cut it into utterances"
                )
            with np.errstate(all="ignore"):  # infinity is refused below
                mono = block.mean(axis=1)
            levels.add(block, mono)
            n_bad += int(np.count_nonzero(~np.isfinite(mono)))
            if not n_bad:
                blocks.append(mono if resampler is None else resampler.resample_chunk(mono))
        refuse_fewer(file, content, promised, n_samples)
    if n_samples == 0:
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
            f"NaN or infinite after resampling; the largest sample is {levels.peak:.3g} times full scale"
        )
    return samples, n_samples, native_hz, levels


def _refuse_rate(rate_hz: int) -> None:
    if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
        raise UtteranceError(
            f"sample rate {rate_hz} Hz; expected {RATES_HZ[0]} to {RATES_HZ[1]} Hz"
        )


def _compare_durations(found_s: float, promised_s: float) -> None:
    tolerance_s = max(DURATION_TOLERANCE[0], DURATION_TOLERANCE[1] * promised_s)
    if abs(found_s - promised_s) <= tolerance_s:
        return
    if found_s < promised_s:
        guess = (
            "is this column in samples?" if promised_s > 500 * found_s else "is the file truncated?"
        )
    else:
        guess = "is the manifest from another version of the file?"
    raise UtteranceError(
        f"duration_s is {promised_s:g} in the manifest, the audio lasts {found_s:g} s; {guess}"
    )


def header_duration_s(path: Path, *, root: Path | None = None) -> float | None:
    """Seconds that a file's header claims: good for plans and estimates only. None where it claims
    nothing usable.
    """
    try:
        with open_regular(path, root) as (descriptor, status):

            def read(start: int, n: int) -> bytes:
                return os.pread(descriptor, n, start)

            ending = ending_of(
                read, status.st_size
            )  # a cut file is refused here, before libmpg123 warns of it without a name
            with soundfile.SoundFile(_Content(read, status.st_size, ending)) as file:
                seconds = file.frames / file.samplerate if file.samplerate > 0 else -1.0
    except (UtteranceError, soundfile.SoundFileError, ValueError, OverflowError, OSError):
        return None
    return seconds if 0 < seconds <= LONGEST_S else None


def read_header(path: Path, duration_s: float | None = None) -> Header:
    """What a file's header claims, without decoding it: damage further on is not seen.

    Args:
        duration_s: seconds that the manifest promises; not compared with MP3 and Ogg, whose headers
            do not say.

    Raises:
        UtteranceError: not a regular file, unreadable, empty, a truncated WAV, an absurd rate, or
            not as long as promised.
    """
    try:
        with open_regular(path) as (descriptor, status):
            if status.st_size == 0:
                raise UtteranceError("the file is empty (0 bytes)")

            def read(start: int, n: int) -> bytes:
                return os.pread(descriptor, n, start)

            ending, head = ending_of(read, status.st_size), read(0, HEAD_BYTES)
            with soundfile.SoundFile(_Content(read, status.st_size, ending)) as file:
                header, form = Header(file.samplerate, file.channels, file.frames), file.format
                refuse_short(file, head)
    except OSError as error:
        raise cannot_be_read(error) from error
    except soundfile.LibsndfileError as error:
        raise _cannot_be_decoded(error, head) from error
    _refuse_rate(header.rate_hz)
    if header.n_samples == 0:
        raise UtteranceError("no samples in it (a header alone, or cut off)")
    if header.n_samples >= FLAC_UNKNOWN:
        header = replace(header, n_samples=0)
    elif duration_s is not None and form not in ("MP3", "OGG"):
        _compare_durations(header.n_samples / header.rate_hz, duration_s)
    return header


def formats() -> dict[str, bool]:
    """Common formats, and whether the libsndfile that is installed here reads each."""
    containers = soundfile.available_formats()
    return {
        name: container in containers
        and (not coding or coding in soundfile.available_subtypes(container))
        for name, (container, coding) in FORMATS.items()
    }


def resamples() -> bool:
    """Whether soxr makes the same tone at 16 kHz out of a tone of 1 kHz at 48 kHz, within -60 dB."""
    tone, wanted = (
        np.sin(2 * np.pi * 1000 * np.arange(rate_hz // 10) / rate_hz)
        for rate_hz in (48_000, 16_000)
    )
    resampled = soxr.resample(tone.astype(np.float32), 48_000, 16_000, quality="HQ")
    middle = slice(len(wanted) // 4, -len(wanted) // 4)  # the ends ring
    return resampled.shape == wanted.shape and bool(np.abs(resampled - wanted)[middle].max() < 1e-3)
