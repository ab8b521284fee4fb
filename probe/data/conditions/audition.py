"""A few utterances under each condition with measured levels, for listening and for figures."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from probe.brief import brief, counted
from probe.data.audio import load_audio
from probe.data.conditions.condition import Condition, Disturbance, open_condition, parse_condition
from probe.data.conditions.grammar import CLEAN
from probe.data.conditions.loudness import decibels, rms
from probe.data.corpus import Corpus, Utterance, by_hash, load_corpus
from probe.errors import ProbeError, UtteranceError, listed
from probe.files import file_name, require_writable

log = logging.getLogger("probe")

RATE_HZ = 16_000
LARGEST = 0.99  # largest sample that is written


@dataclass(frozen=True)
class Example:
    """An utterance under a condition.

    Attributes:
        samples: (time,) float32 at `RATE_HZ`.
        snr_db: signal-to-noise ratio of the last step that adds noise, measured from the signal
            before it and the noise it adds; None without such a step.
    """

    key: str
    condition: str
    samples: np.ndarray
    snr_db: float | None = None

    def __repr__(self) -> str:
        snr = "" if self.snr_db is None else f"{self.snr_db:.1f} dB SNR"
        return brief(self, self.key, self.condition, f"{len(self.samples) / RATE_HZ:.2f} s", snr)

    @property
    def level_db(self) -> float:
        """Root mean square in dB relative to full scale."""
        return decibels(rms(self.samples))

    @property
    def file_name(self) -> str:
        """Name of the WAV file."""
        return f"{file_name(self.key)}--{file_name(self.condition)}.wav"


def hear(
    corpus: Corpus, conditions: Sequence[Condition], n: int, audio_root: Path | None = None
) -> list[Example]:
    """Return ``n`` utterances, clean and under each condition, one utterance after the other.

    They are the usable utterances whose keys have the smallest hashes.

    Raises:
        ProbeError: the sounds of a condition cannot be read, or no utterance is usable.
    """
    opened = [open_condition(item, RATE_HZ, corpus, audio_root) for item in conditions]
    disturbances = [item for item in opened if item is not None]
    examples: list[Example] = []
    refused: list[str] = []
    for utterance in by_hash(corpus.utterances):
        if len(examples) == n * (1 + len(disturbances)):
            break
        try:
            examples += _examples(utterance, disturbances, audio_root)
        except UtteranceError as error:
            refused.append(f"{utterance.key} ({error})")
    if not examples:
        raise ProbeError(f"{corpus.name}: no utterance can be used: {listed(refused)}.")
    if refused:
        n_refused, text = len(refused), listed(refused, 3)
        log.warning("%s: skipped %d utterances: %s", corpus.name, n_refused, text)
    return examples


def _examples(
    utterance: Utterance, disturbances: Sequence[Disturbance], audio_root: Path | None
) -> list[Example]:
    """Return one utterance, clean and under each condition."""
    key, duration_s, excerpt = utterance.key, utterance.duration_s, utterance.excerpt
    audio = load_audio(utterance.path, RATE_HZ, duration_s, excerpt=excerpt, root=audio_root)
    clean = audio.samples
    examples = [Example(key, CLEAN, clean)]
    for disturbance in disturbances:
        snr_db, before = None, np.asarray(clean, np.float64)
        for step, after in disturbance.stages(clean, key):
            if step.effect.level == "snr":
                snr_db = decibels(rms(before) / rms(after - before))
            before = after
        changed = disturbance.apply(clean, key)
        examples.append(Example(key, disturbance.condition.name, changed, snr_db))
    return examples


def write_examples(examples: Sequence[Example], folder: Path) -> tuple[list[Path], float]:
    """Write each example as a 16-bit WAV; return the paths and the gain in dB.

    All share one gain, just low enough that none clips, so differences in level remain.
    """
    peak = max(float(np.abs(item.samples).max()) for item in examples)
    gain = min(1.0, LARGEST / peak) if peak > 0 else 1.0
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / item.file_name for item in examples]
    for path, item in zip(paths, examples, strict=True):
        soundfile.write(path, item.samples * gain, RATE_HZ, format="WAV", subtype="PCM_16")
    return paths, decibels(gain)


@dataclass(frozen=True)
class Listening:
    """The files that `listen` wrote.

    Attributes:
        files: one WAV per example, in the same order.
        gain_db: common change of level, 0 or less.
    """

    examples: list[Example]
    files: list[Path]
    gain_db: float

    def __repr__(self) -> str:
        folder = str(self.files[0].parent) if self.files else ""
        return brief(self, counted(len(self.examples), "example"), folder)


def listen(
    corpus: str | Path | Corpus,
    conditions: Sequence[str | Condition],
    to: str | Path,
    n: int = 3,
    audio_root: str | Path | None = None,
) -> Listening:
    """Write ``n`` utterances, clean and under each condition, as WAV files into the folder ``to``.

    Raises:
        ProbeError: the corpus or a condition cannot be used.
    """
    require_writable(Path(to))
    loaded = corpus if isinstance(corpus, Corpus) else load_corpus(corpus, audio_root)
    parsed = [parse_condition(item) if isinstance(item, str) else item for item in conditions]
    examples = hear(loaded, parsed, n, Path(audio_root) if audio_root else None)
    files, gain_db = write_examples(examples, Path(to))
    return Listening(examples, files, gain_db)
