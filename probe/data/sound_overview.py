"""How the audio of a corpus sounds: rates, channels, levels, noise floors, flags, damage."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from probe.brief import brief, counted
from probe.data.audio import Audio, read_header
from probe.data.audio_bytes import Deadline
from probe.data.corpus import Utterance
from probe.data.excerpts import Excerpt
from probe.data.recordings import Recordings
from probe.environment import allowed_cores
from probe.errors import UtteranceError

MOST_FILES = 2000
TIMEOUT_S = 60.0  # for one file
FRAME_S = 0.025
FLOOR_SHARE = 0.1  # of the frames, which are quieter than the noise floor
FULL_SCALE_DB = -0.001  # the largest value of 16 bits is -0.0003 dBFS
CHANNEL_DIFFERENCE_DB = 6.0
SILENCE_DB = -100.0  # the level of digital silence


@dataclass(frozen=True, slots=True)
class FileSound:
    """One utterance.

    Attributes:
        level_db, peak_db: root mean square and largest value, in dB of full scale (dBFS).
        floor_db: level that a tenth of its frames of 25 ms stay below, in dBFS.
        difference_db: level of the first channel less that of the second; None where the utterance
            has one channel.
    """

    sha256: str
    seconds: float
    rate_hz: int
    channels: int
    level_db: float
    peak_db: float
    floor_db: float
    flags: tuple[str, ...]
    difference_db: float | None = None


@dataclass(frozen=True)
class Sound:
    """The utterances that were decoded.

    Attributes:
        files: key -> how it sounds.
        unusable: key -> why it cannot be used, and on which line of the manifest it is.
        n_utterances: of the corpus.
    """

    files: dict[str, FileSound]
    unusable: dict[str, str]
    n_utterances: int

    def __repr__(self) -> str:
        return brief(self, counted(len(self.files), "file"), f"{len(self.unusable)} cannot be used")

    @property
    def rates_hz(self) -> Counter[int]:
        """Rate in Hz -> number of files."""
        return Counter(item.rate_hz for item in self.files.values())

    @property
    def channels(self) -> Counter[int]:
        """Number of channels -> number of files."""
        return Counter(item.channels for item in self.files.values())

    @property
    def flags(self) -> dict[str, list[str]]:
        """What is unusual (`probe.data.sound_flags`) -> keys."""
        keys: dict[str, list[str]] = defaultdict(list)
        for key, item in self.files.items():
            for flag in item.flags:
                keys[flag].append(key)
        return dict(keys)

    @property
    def full_scale(self) -> list[str]:
        """Keys of files with samples at the largest value, which may be clipped."""
        return [key for key, item in self.files.items() if item.peak_db >= FULL_SCALE_DB]

    @property
    def unequal_channels(self) -> dict[str, float]:
        """Key -> level of the first channel less that of the second in dB, where they differ by
        `CHANNEL_DIFFERENCE_DB` or more.
        """
        return {
            key: item.difference_db
            for key, item in self.files.items()
            if item.difference_db is not None and abs(item.difference_db) >= CHANNEL_DIFFERENCE_DB
        }

    def quantiles(self, name: str) -> dict[str, float]:
        """The 5th, 50th and 95th percentile of an attribute; empty without files."""
        values = [getattr(item, name) for item in self.files.values()]
        percentiles = np.percentile(values, (5, 50, 95)) if values else ()
        return dict(zip(("5 %", "median", "95 %"), map(float, percentiles), strict=False))

    def summary(self) -> dict[str, Any]:
        """Everything in plain values, for JSON."""
        return {
            "utterances": self.n_utterances,
            "decoded": len(self.files),
            "rates_hz": {str(rate): n for rate, n in sorted(self.rates_hz.items())},
            "channels": {str(channels): n for channels, n in sorted(self.channels.items())},
            **{
                name: {key: round(value, 2) for key, value in self.quantiles(name).items()}
                for name in ("level_db", "peak_db", "floor_db")
            },
            "full_scale": self.full_scale,
            "unequal_channels": self.unequal_channels,
            "flags": self.flags,
            "unusable": self.unusable,
        }


def examine_sound(
    utterances: Sequence[Utterance],
    most_files: int,
    root: Path | None = None,
    progress: Callable[[int], object] = lambda n: None,
) -> Sound:
    """Decodes at most ``most_files`` utterances, evenly spread, at their own rates.

    Args:
        root: the folder that all audio must lie in.
        progress: called with 1 after each utterance.
    """
    n = min(most_files, len(utterances))
    chosen = [utterances[number * len(utterances) // n] for number in range(n)]
    groups: dict[tuple[Path, str], list[Utterance]] = defaultdict(list)
    for utterance in chosen:
        groups[utterance.path, utterance.excerpt.member].append(utterance)
    results: dict[str, FileSound | str] = {}

    def examine(group: Sequence[Utterance]) -> None:
        """Decode the excerpts of one recording in the order of their starts."""
        recordings = Recordings(root)
        for utterance in sorted(group, key=lambda item: item.excerpt.start_s):
            try:
                results[utterance.key] = _file_sound(utterance, recordings)
            except UtteranceError as error:
                results[utterance.key] = str(error)
            progress(1)
        recordings.close()

    with ThreadPoolExecutor(min(8, allowed_cores())) as threads:
        list(threads.map(examine, groups.values()))
    files: dict[str, FileSound] = {}
    unusable: dict[str, str] = {}
    for utterance in chosen:
        result = results[utterance.key]
        if isinstance(result, str):
            unusable[utterance.key] = f"{result} ({utterance.where})" if utterance.where else result
        else:
            files[utterance.key] = result
    return Sound(files, unusable, len(utterances))


def _file_sound(utterance: Utterance, recordings: Recordings) -> FileSound:
    path, duration_s, excerpt = utterance.path, utterance.duration_s, utterance.excerpt
    header = read_header(path, duration_s, excerpt=excerpt, root=recordings.root)

    def load(part: Excerpt) -> Audio:
        deadline = Deadline(TIMEOUT_S)
        return recordings.load(
            path, header.rate_hz, duration_s, excerpt=part, more_to_come=True, deadline=deadline
        )

    audio = load(excerpt)
    difference_db = None
    if header.channels > 1 and excerpt.channel is None:
        first, second = (_level_db(load(replace(excerpt, channel=n)).samples) for n in (1, 2))
        difference_db = first - second
    samples = audio.samples.astype(np.float64)
    n_frame = max(1, int(FRAME_S * header.rate_hz))
    frames = samples[: len(samples) // n_frame * n_frame].reshape(-1, n_frame)
    powers = np.mean(np.square(frames if len(frames) else samples[None]), axis=1)
    return FileSound(
        audio.sha256,
        audio.duration_s,
        audio.native_rate_hz,
        header.channels,
        _level_db(samples),
        decibels(float(np.square(samples).max())),
        decibels(float(np.quantile(powers, FLOOR_SHARE))),
        audio.flags,
        difference_db,
    )


def _level_db(samples: np.ndarray) -> float:
    return decibels(float(np.mean(np.square(samples, dtype=np.float64))))


def decibels(power: float) -> float:
    """A power in dB of full scale, at least `SILENCE_DB`."""
    return max(SILENCE_DB, 10 * float(np.log10(max(power, 1e-30))))
