"""Decoding: a file's bytes -> mono float32 samples at the rate a model wants.

libsndfile accepts header-only files and NaN samples without complaint, so both are refused; see
`probe.data.sound_files` for other checks. The bytes that are hashed are the bytes that are decoded.
Resampling is soxr HQ (torchaudio's default aliases an 8.5 kHz tone at -11 dB when going
from 48 to 16 kHz, soxr HQ at -136 dB).

A file is decoded and resampled by blocks whose size does not depend on what its header claims. In
memory are its bytes, one block and the samples that are returned.
"""

import hashlib
import logging
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from probe.data.archives import member_of, start_of
from probe.data.audio_bytes import (
    Deadline,
    Read,
    cannot_be_read,
    open_regular,
    read_regular,
    reader_of,
    status_of,
)
from probe.data.excerpts import WHOLE, Excerpt
from probe.data.promises import compare_durations, refuse_beyond, refuse_channel, sample_bounds
from probe.data.sound_files import Tape, open_sound, refusing
from probe.data.sound_flags import DAMAGED, NO_END, Levels
from probe.errors import UtteranceError
from probe.remote.paths import RemotePath
from probe.remote.ranges import RangeReader

log = logging.getLogger("probe")

SETTINGS = {"decoder": "soundfile", "downmix": "mean", "resampler": "soxr HQ"}
LONGEST_S = 8 * 3600
BLOCK_SAMPLES = 1 << 20  # of all channels together
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
    """A decoded file, or an excerpt of one.

    Attributes:
        samples: (time,) float32 at the requested rate.
        sha256: of the file's bytes; of an excerpt, see `probe.data.excerpts.Excerpt.sha256`.
        file_bytes, mtime_ns: size and modification time of the file, hints that it is unchanged.
        native_rate_hz: the file's own rate.
        duration_s: seconds at the native rate.
        flags: what is unusual about the sound (`probe.data.sound_flags`).
        decoder: the libraries that decoded it, with their versions; empty for libsndfile.
    """

    samples: np.ndarray
    sha256: str
    file_bytes: int
    mtime_ns: int
    native_rate_hz: int
    duration_s: float
    flags: tuple[str, ...] = ()
    decoder: str = ""


@dataclass(frozen=True)
class Header:
    """What a file claims about itself.

    Attributes:
        rate_hz: the file's own rate.
        channels: 1 for mono.
        n_samples: of one channel of the file or excerpt; an estimate in MP3, 0 where the file does
            not say.
    """

    rate_hz: int
    channels: int
    n_samples: int


class Recording:
    """A file whose excerpts are decoded one after the other: it is read and hashed once, and
    decoded once if the excerpts are asked for in the order of time.

    Attributes:
        sha256: of the file's bytes, or of the member's.
        status: of the file.
    """

    def __init__(
        self,
        path: Path,
        member: str = "",
        root: Path | None = None,
        deadline: Deadline | None = None,
    ) -> None:
        content, self.status = read_regular(path, root, deadline, member)
        self._content, self._path = content, path
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._end_is_checked = False
        self._tape = self._opened()

    def _refusing(self) -> AbstractContextManager[None]:
        return refusing(reader_of(self._content), len(self._content))

    def reopen(self) -> None:
        """Begin to decode at the beginning again."""
        self._tape.close()
        self._tape = self._opened()

    def _opened(self) -> Tape:
        read, n_bytes = reader_of(self._content), len(self._content)
        with self._refusing():
            return Tape(lambda: open_sound(read, n_bytes))

    def load(
        self,
        rate_hz: int,
        excerpt: Excerpt = WHOLE,
        duration_s: float | None = None,
        deadline: Deadline | None = None,
    ) -> Audio:
        """An excerpt's audio, see `load_audio`."""
        with self._refusing():
            samples, levels = self._decode(rate_hz, excerpt, deadline)
        sound = self._tape.sound
        seconds = levels.n_samples / sound.rate_hz
        if duration_s is not None:
            compare_durations(seconds, duration_s)
        flags = [*levels.flags]
        if not sound.has_end and excerpt.end_s is None:
            flags.append(NO_END)
        if sound.is_damaged:
            flags.append(DAMAGED)
        identity = excerpt.sha256(self.sha256), self.status.st_size, self.status.st_mtime_ns
        return Audio(samples, *identity, sound.rate_hz, seconds, tuple(flags), sound.decoder)

    def _decode(
        self, rate_hz: int, excerpt: Excerpt, deadline: Deadline | None
    ) -> tuple[np.ndarray, Levels]:
        """((time,) float32 mean of the channels at ``rate_hz``, levels at the native rate)."""
        tape, native_hz, channels = self._tape, self._tape.sound.rate_hz, self._tape.sound.channels
        first, stop = sample_bounds(excerpt, native_hz)
        refuse_channel(excerpt, channels)
        self._go_to(first, deadline)
        most = LONGEST_S * native_hz + 1 if stop is None else stop - first
        # By blocks it gives the same bits as at once, and a file of 8 hours at 768 kHz needs no
        # more memory than one at 16 kHz.
        resampler = None
        if native_hz != rate_hz:
            resampler = soxr.ResampleStream(native_hz, rate_hz, 1, dtype="float32", quality="HQ")
        channels = 1 if excerpt.channel else channels
        levels = Levels(channels)
        blocks: list[np.ndarray] = []
        n_bad, block_samples = 0, max(1, BLOCK_SAMPLES // channels)
        while len(block := tape.read(min(block_samples, most - levels.n_samples))):
            if deadline is not None:
                deadline.check()
            if excerpt.channel:
                block = np.ascontiguousarray(block[:, excerpt.channel - 1 : excerpt.channel])
            with np.errstate(all="ignore"):  # infinity is refused below
                mono = block.mean(axis=1)
            levels.add(block, mono)
            if levels.n_samples > LONGEST_S * native_hz:
                raise UtteranceError(
                    f"longer than {LONGEST_S // 3600} hours; cut it into utterances, or name its "
                    "parts in columns start and end"
                )
            n_bad += int(np.count_nonzero(~np.isfinite(mono)))
            if not n_bad:
                blocks.append(mono if resampler is None else resampler.resample_chunk(mono))
        if stop is None or levels.n_samples < stop - first:
            if not self._end_is_checked:  # it searches all bytes
                tape.sound.check_end(tape.position)
                self._end_is_checked = True
            refuse_beyond(excerpt, first, tape.position, native_hz)
        if levels.n_samples == 0:
            raise UtteranceError("no samples in it (a header alone, or cut off)")
        if n_bad:
            raise UtteranceError(f"{n_bad} samples are NaN or infinite")
        if resampler is not None:
            blocks.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        samples = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        # Samples near the largest float become infinite when resampled. NaN wins in max and min,
        # which need no memory.
        if len(samples) and not np.isfinite([samples.max(), samples.min()]).all():
            raise UtteranceError(
                "NaN or infinite after resampling; "
                f"the largest sample is {levels.peak:.3g} times full scale"
            )
        return samples, levels

    def _go_to(self, position: int, deadline: Deadline | None) -> None:
        before = self._tape.n_restarts
        self._tape.go_to(position, deadline)
        if self._tape.n_restarts == 1 and before == 0:
            log.warning(
                "%s: its excerpts go back in time and its format has no exact seek, so it is "
                "decoded again from its beginning. Order the rows of a recording by start.",
                self._path,
            )

    def close(self) -> None:
        """Release the decoder and the file's bytes."""
        self._tape.close()
        self._content = b""


def state_of(status: os.stat_result) -> tuple[int, ...]:
    """What shows that a file is another one: device, number, size and time of change."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def load_audio(
    path: Path,
    rate_hz: int,
    duration_s: float | None = None,
    *,
    excerpt: Excerpt = WHOLE,
    root: Path | None = None,
    deadline: Deadline | None = None,
) -> Audio:
    """A file's audio, or that of an excerpt, down-mixed to mono and resampled to ``rate_hz``.

    Args:
        duration_s: seconds that the manifest promises; audio that is longer or shorter is refused.
        excerpt: the part that is meant. Its first sample is the one nearest to its start, the
            first behind it the one nearest to its end; it is resampled like a file of its own.
        root: the folder that the file must lie in.
        deadline: checked between blocks; `probe.data.guarded_decoding` also limits the time within
            a block.

    Raises:
        UtteranceError: not a regular file, unreadable, empty, truncated, non-finite, too long, not
            as long as promised, or an excerpt that is not in it.
    """
    recording = Recording(path, excerpt.member, root, deadline)
    try:
        return recording.load(rate_hz, excerpt, duration_s, deadline)
    finally:
        recording.close()


def read_header(
    path: Path,
    duration_s: float | None = None,
    *,
    excerpt: Excerpt = WHOLE,
    root: Path | None = None,
) -> Header:
    """What a file's header claims, without decoding it: damage further on is not seen.

    Args:
        duration_s: seconds that the manifest promises; not compared with MP3 and Ogg, whose headers
            do not say.
        excerpt: the part whose samples are counted.
        root: the folder that the file must lie in.

    Raises:
        UtteranceError: not a regular file, unreadable, empty, a truncated WAV, an absurd rate, not
            as long as promised, or an excerpt that is not in it.
    """
    if isinstance(path, RemotePath):
        return _remote_header(path, duration_s, excerpt, root)
    with open_regular(path, root) as (descriptor, status):
        first, n_bytes = 0, status.st_size
        try:
            if excerpt.member:
                member = member_of(descriptor, status, excerpt.member)
                if member.is_deflated:
                    content, _ = read_regular(path, root, member=excerpt.member)
                    return _header(reader_of(content), len(content), duration_s, excerpt)
                first, n_bytes = start_of(descriptor, member), member.n_bytes
            if n_bytes == 0:
                raise UtteranceError("the file is empty (0 bytes)")

            def read(start: int, n: int) -> bytes:
                return os.pread(descriptor, max(0, min(n, n_bytes - start)), first + start)

            return _header(read, n_bytes, duration_s, excerpt)
        except OSError as error:
            raise cannot_be_read(error) from error


def _remote_header(
    path: RemotePath, duration_s: float | None, excerpt: Excerpt, root: Path | None
) -> Header:
    n_bytes = status_of(path, root).st_size
    if n_bytes == 0:
        raise UtteranceError("the file is empty (0 bytes)")
    try:
        parts = RangeReader(path)
        return _header(
            lambda start, n: parts.range(max(0, start), start + n), n_bytes, duration_s, excerpt
        )
    except OSError as error:
        raise cannot_be_read(error) from error


def _header(read: Read, n_bytes: int, duration_s: float | None, excerpt: Excerpt) -> Header:
    with refusing(read, n_bytes):
        sound = open_sound(read, n_bytes)
    sound.close()
    n_samples, rate_hz = sound.n_samples, sound.rate_hz
    if n_samples == 0:
        raise UtteranceError("no samples in it (a header alone, or cut off)")
    refuse_channel(excerpt, sound.channels)
    first, stop = sample_bounds(excerpt, rate_hz)
    if n_samples is None:
        return Header(rate_hz, sound.channels, 0 if stop is None else stop - first)
    if sound.has_length:
        refuse_beyond(excerpt, first, n_samples, rate_hz)
    n_samples = max(0, (n_samples if stop is None else min(stop, n_samples)) - first)
    if duration_s is not None and sound.has_length:
        compare_durations(n_samples / rate_hz, duration_s)
    return Header(rate_hz, sound.channels, n_samples)


def header_duration_s(
    path: Path, excerpt: Excerpt = WHOLE, *, root: Path | None = None
) -> float | None:
    """Seconds that a file's header claims, for estimates; None where it claims nothing usable."""
    try:
        header = read_header(path, excerpt=excerpt, root=root)
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
