"""The sounds of conditions: files of noise and impulse responses, and utterances for babble.

All of them are read when a condition is opened: their SHA-256 hashes are part of its recipe, and a
silent sound is an error. Sounds that do not fit into `KEPT_BYTES` are read again when they are
drawn.
"""

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from probe.data.conditions.loudness import is_silent
from probe.data.corpus import Corpus, Utterance, noise_rows
from probe.data.excerpts import WHOLE, Excerpt
from probe.data.recordings import Recordings
from probe.errors import ProbeError, UtteranceError

KEPT_BYTES = 256_000_000
POOL = 40  # largest number of utterances for babble
# Only the first part of longer utterances is used, which keeps the pool small.
LONGEST_TALK_S = 60


@dataclass(frozen=True)
class Sounds:
    """Sound files, or excerpts of them, at one rate.

    Attributes:
        places: each file and which part of it.
        sha256s: hash of each file or excerpt.
        speakers: the speaker in each file; empty if that does not matter.
        speaker_of: speaker of every utterance of the corpus by key, for babble.
    """

    places: Sequence[tuple[Path, Excerpt]]
    sha256s: Sequence[str]
    rate_hz: int
    root: Path | None = None
    speakers: Sequence[str] = ()
    speaker_of: Mapping[str, str] = field(default_factory=dict)
    kept: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def load(self, number: int) -> np.ndarray:
        """Return the (time,) float32 samples of one file, which must not be modified.

        Raises:
            ProbeError: the file changed after it was opened.
        """
        if (samples := self.kept.get(number)) is not None:
            return samples
        samples, sha256 = _read(self.places[number], self.rate_hz, Recordings(self.root))
        if sha256 != self.sha256s[number]:
            name = _name(self.places[number])
            raise ProbeError(f"{name}: changed while features were extracted with it. Start again.")
        return samples


Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Scene:
    """Inputs of an effect besides samples and settings.

    Attributes:
        generator: random generator of this step for this utterance.
        key: key of the utterance.
        sounds: sounds of this step; None for an effect without sounds.
    """

    rate_hz: int
    generator: np.random.Generator
    key: str
    sounds: Sounds | None = None


# (time,) float64 samples, settings, scene -> (time,) samples.
Apply = Callable[[np.ndarray, Settings, Scene], np.ndarray]


def open_sounds(
    path: Path, rate_hz: int, root: Path | None = None, shortest_s: float = 0.0
) -> Sounds:
    """Open a sound file, or the rows of split ``noise`` of a manifest.

    Raises:
        ProbeError: a file is missing, unreadable, silent or shorter than ``shortest_s``, or there
            are no such rows.
    """
    places = [(path, WHOLE)]
    if path.suffix.lower() == ".csv":
        places = [(item.path, item.excerpt) for item in noise_rows(path, root)]
    sha256s, kept, n_bytes = [], {}, 0
    recordings = Recordings(root)
    for number, place in enumerate(places):
        samples, sha256 = _read(place, rate_hz, recordings)
        item = _name(place)
        if is_silent(samples):
            raise ProbeError(f"{item}: silent, so it can be no noise and no room. Remove it.")
        if len(samples) < shortest_s * rate_hz:
            length = f"{1000 * len(samples) / rate_hz:.3g} ms"
            raise ProbeError(
                f"{item}: {length} of sound; expected at least {shortest_s:g} s of noise. "
                "Remove it."
            )
        if shortest_s and is_silent(samples - samples.mean()):
            raise ProbeError(
                f"{item}: one value throughout, which is inaudible; expected noise. Remove it."
            )
        sha256s.append(sha256)
        if n_bytes + samples.nbytes <= KEPT_BYTES:
            kept[number] = samples
            n_bytes += samples.nbytes
    return Sounds(places, sha256s, rate_hz, root, kept=kept)


def open_pool(corpus: Corpus, rate_hz: int, seed: int, root: Path | None = None) -> Sounds:
    """Open up to `POOL` utterances for babble, from split train or, if that has no rows, from all
    splits.

    The speakers take turns, in an order that depends on ``seed`` and the names; silent and
    unreadable utterances are skipped.

    Raises:
        ProbeError: fewer than two speakers are known, or no utterance is usable.
    """

    def rank(name: str) -> bytes:
        return hashlib.sha256(f"{seed} {name}".encode()).digest()

    names = sorted({item.speaker for item in corpus.utterances} - {""})
    if len(names) < 2:
        raise ProbeError(
            f"{corpus.name}: noise:babble needs two speakers; "
            f"the column speaker names {', '.join(names) or 'none'}."
        )
    train = [item for item in corpus.utterances if item.split == "train"]
    of_speaker: dict[str, list[Utterance]] = {}
    for utterance in sorted(train or corpus.utterances, key=lambda item: rank(item.key)):
        of_speaker.setdefault(utterance.speaker, []).append(utterance)
    speakers = sorted(of_speaker.keys() - {""}, key=rank)
    in_turn = itertools.zip_longest(*(of_speaker[name] for name in speakers))
    pool: list[Utterance] = []
    kept: dict[int, np.ndarray] = {}
    sha256s: list[str] = []
    recordings = Recordings(root)
    for utterance in filter(None, itertools.chain.from_iterable(in_turn)):
        if len(pool) == POOL:
            break
        try:
            samples, sha256 = _read((utterance.path, utterance.excerpt), rate_hz, recordings)
        except ProbeError:
            continue
        samples = samples[: LONGEST_TALK_S * rate_hz].copy()
        if not is_silent(samples):
            kept[len(pool)] = samples
            pool.append(utterance)
            sha256s.append(sha256)
    if not pool:
        raise ProbeError(
            f"{corpus.name}: noise:babble found no utterance of a known speaker that can be read "
            "and is not silent."
        )
    return Sounds(
        [(utterance.path, utterance.excerpt) for utterance in pool],
        sha256s,
        rate_hz,
        root,
        [utterance.speaker for utterance in pool],
        {item.key: item.speaker for item in corpus.utterances},
        kept,
    )


def _name(place: tuple[Path, Excerpt]) -> str:
    return "#".join(filter(None, map(str, place)))


def _read(
    place: tuple[Path, Excerpt], rate_hz: int, recordings: Recordings
) -> tuple[np.ndarray, str]:
    path, excerpt = place
    try:
        audio = recordings.load(path, rate_hz, excerpt=excerpt, more_to_come=excerpt != WHOLE)
    except UtteranceError as error:
        raise ProbeError(f"{_name(place)}: {error}. Correct it or remove it.") from error
    return audio.samples, audio.sha256
