"""Decoding: a file's bytes -> mono float32 samples at the rate a model wants.

libsndfile accepts truncated WAV, header-only files, NaN samples and absurd rates without a word, so each is checked here. The bytes
that are hashed are the bytes that are decoded. Resampling is soxr HQ (torchaudio's default aliases an 8.5 kHz tone at -11 dB when
going from 48 to 16 kHz, soxr HQ at -136 dB).
"""

import hashlib
import io
import mmap
import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from probe.errors import UtteranceError

SETTINGS = {"decoder": "soundfile", "downmix": "mean", "resampler": "soxr HQ"}
RATES_HZ = (1000, 768_000)
LONGEST_S = 8 * 3600
BLOCK_SAMPLES = 1 << 20
# Manifests round durations to a tenth of a second at worst.
DURATION_TOLERANCE = (0.1, 0.01)
# Sizes from here on are written by programs that stream and do not know the length yet.
UNKNOWN_BYTES = 0xFFFF_FF00
# Format -> libsndfile's name of the container and of the coding inside, where that is not always built in.
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
    """

    samples: np.ndarray
    sha256: str
    file_bytes: int
    mtime_ns: int
    native_rate_hz: int
    duration_s: float


@dataclass(frozen=True)
class Header:
    """What a file claims about itself.

    Attributes:
        rate_hz: the file's own rate.
        channels: 1 for mono.
        n_samples: of one channel; an estimate in MP3, absurdly many in a truncated Ogg.
    """

    rate_hz: int
    channels: int
    n_samples: int


def load_audio(path: Path, rate_hz: int, duration_s: float | None = None) -> Audio:
    """A file's audio, down-mixed to mono and resampled to ``rate_hz``.

    Args:
        duration_s: seconds that the manifest promises; a file that lasts longer or shorter is refused.

    Raises:
        UtteranceError: unreadable, empty, truncated, non-finite, or not as long as promised.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UtteranceError("not a regular file")
        content = path.read_bytes()
    except OSError as error:
        raise UtteranceError(f"cannot be read: {error.strerror}") from error
    if not content:
        raise UtteranceError("the file is empty (0 bytes)")
    _refuse_truncated_wav(content)
    samples, native_rate_hz = _decode(content)
    seconds = len(samples) / native_rate_hz
    if duration_s is not None:
        _compare_durations(seconds, duration_s)
    if native_rate_hz != rate_hz:
        samples = soxr.resample(samples, native_rate_hz, rate_hz, quality="HQ")
    digest = hashlib.sha256(content).hexdigest()
    return Audio(np.ascontiguousarray(samples), digest, status.st_size, status.st_mtime_ns, native_rate_hz, seconds)


def _decode(content: bytes) -> tuple[np.ndarray, int]:
    """((time,) float32 mean of the channels, rate in Hz)."""
    blocks: list[np.ndarray] = []
    n_samples = 0
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            rate_hz = file.samplerate
            if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
                raise UtteranceError(f"sample rate {rate_hz} Hz; expected {RATES_HZ[0]} to {RATES_HZ[1]} Hz")
            while len(block := file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)):
                n_samples += len(block)
                if n_samples > LONGEST_S * rate_hz:
                    raise UtteranceError(f"longer than {LONGEST_S // 3600} hours; cut it into utterances")
                blocks.append(block.mean(axis=1))
            _refuse_truncated(file, content, n_samples)
    except soundfile.LibsndfileError as error:  # without its prefix, which names an address in memory
        raise UtteranceError(f"cannot be decoded: {error.error_string.rstrip('.')}") from error
    if n_samples == 0:
        raise UtteranceError("no samples in it (a header alone, or cut off)")
    samples = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    if not np.isfinite(samples).all():
        raise UtteranceError(f"{np.count_nonzero(~np.isfinite(samples))} samples are NaN or infinite")
    return samples, rate_hz


def _refuse_truncated_wav(content: bytes | mmap.mmap) -> None:
    """Raises where a WAV's data chunk is shorter than its header says (libsndfile reads on without a word)."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return
    position = 12
    while position + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, position)
        position += 8
        if name == b"data":
            there = len(content) - position
            if there < size < UNKNOWN_BYTES:
                raise UtteranceError(f"truncated: the WAV header promises {size} bytes of audio, {there} are there")
            return
        position += size + size % 2
    raise UtteranceError("truncated: a WAV file without a data chunk")


def _refuse_truncated(file: soundfile.SoundFile, content: bytes, n_samples: int) -> None:
    """Raises where the header of another container promises more than is there (mp3 and ogg promise nothing exact).

    libsndfile corrects ``frames`` to what is there, without a word except in its log: ``SSND : 32008 (should be 25008)``.
    """
    unit, sizes = "samples", []
    if file.format == "FLAC":
        sizes = [(file.frames, n_samples)]
    elif file.format == "NIST":
        sizes = [(int(said), n_samples) for said in re.findall(rb"\nsample_count -i (\d+)", content[:1024])]
    elif file.format in ("AIFF", "AU", "CAF", "W64", "RF64"):
        unit, sizes = "bytes", re.findall(r": (\d+) \(should be (\d+)\)", file.extra_info)
    for said, there in sizes:
        if int(there) < int(said) < UNKNOWN_BYTES:
            raise UtteranceError(f"truncated: the {file.format} header promises {said} {unit}, {there} are there")


def _compare_durations(found_s: float, promised_s: float) -> None:
    tolerance_s = max(DURATION_TOLERANCE[0], DURATION_TOLERANCE[1] * promised_s)
    if abs(found_s - promised_s) <= tolerance_s:
        return
    if found_s < promised_s:
        guess = "is this column in samples?" if promised_s > 500 * found_s else "is the file truncated?"
    else:
        guess = "is the manifest from another version of the file?"
    raise UtteranceError(f"duration_s is {promised_s:g} in the manifest, the audio lasts {found_s:g} s; {guess}")


def header_duration_s(path: Path) -> float | None:
    """Seconds that a file's header claims: good for plans and estimates only. None where it claims nothing usable."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        info = soundfile.info(path)
    except (soundfile.LibsndfileError, RuntimeError, OSError):
        return None
    seconds = info.frames / info.samplerate if info.samplerate > 0 else -1.0
    return seconds if 0 < seconds <= LONGEST_S else None


def read_header(path: Path, duration_s: float | None = None) -> Header:
    """What a file's header claims, without decoding it: damage further on is not seen.

    Args:
        duration_s: seconds that the manifest promises; not compared with MP3 and Ogg, whose headers do not say.

    Raises:
        UtteranceError: unreadable, empty, a truncated WAV, an absurd rate, or not as long as promised.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UtteranceError("not a regular file")
        if status.st_size == 0:
            raise UtteranceError("the file is empty (0 bytes)")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _refuse_truncated_wav(content)
        info = soundfile.info(path)
    except OSError as error:
        raise UtteranceError(f"cannot be read: {error.strerror}") from error
    except soundfile.LibsndfileError as error:
        raise UtteranceError(f"cannot be decoded: {error.error_string.rstrip('.')}") from error
    if not RATES_HZ[0] <= info.samplerate <= RATES_HZ[1]:
        raise UtteranceError(f"sample rate {info.samplerate} Hz; expected {RATES_HZ[0]} to {RATES_HZ[1]} Hz")
    if info.frames == 0:
        raise UtteranceError("no samples in it (a header alone, or cut off)")
    if duration_s is not None and info.format not in ("MP3", "OGG"):
        _compare_durations(info.frames / info.samplerate, duration_s)
    return Header(info.samplerate, info.channels, info.frames)


def formats() -> dict[str, bool]:
    """Common formats, and whether the libsndfile that is installed here reads each."""
    containers = soundfile.available_formats()
    return {
        name: container in containers and (not coding or coding in soundfile.available_subtypes(container))
        for name, (container, coding) in FORMATS.items()
    }


def resamples() -> bool:
    """Whether soxr makes the same tone at 16 kHz out of a tone of 1 kHz at 48 kHz, within -60 dB."""
    tone, wanted = (np.sin(2 * np.pi * 1000 * np.arange(rate_hz // 10) / rate_hz) for rate_hz in (48_000, 16_000))
    resampled = soxr.resample(tone.astype(np.float32), 48_000, 16_000, quality="HQ")
    middle = slice(len(wanted) // 4, -len(wanted) // 4)  # the ends ring
    return resampled.shape == wanted.shape and bool(np.abs(resampled - wanted)[middle].max() < 1e-3)
