"""The speech-like corpus that ``probe demo`` and the tests generate, so that no audio is shipped.

48 invented speakers say ten invented words. A voice is a source and a filter: glottal pulses with
jitter, shimmer and breath drive a cascade of four resonators, the formants, that glide from sound
to sound; fricatives and bursts are bands of noise. Speakers differ in pitch, length of the vocal
tract, pace, breathiness and spectral tilt. Words are spelled as they sound, so letters are the
labels of their sounds, and each letter occurs in at least two words. Every speaker says every word
once in each of two domains:

    clean      16 kHz FLAC, a little background noise
    telephone  8 kHz WAV, 300-3400 Hz, line noise, mu-law

Two manifests split the same 960 files. ``words.csv`` asks what is said: its test speakers are in no
other split. ``voices.csv`` asks who says it: all speakers are in all splits, with other words.
``sounds.csv`` says when each sound of an utterance begins and ends.

Conventions: samples are float64 in -1..1, shape (time,); control tracks have a frame every 5 ms.
All randomness comes from generators seeded by ``seed`` and the place of use.

Sources: D. H. Klatt, Software for a cascade/parallel formant synthesizer, JASA 67 (1980), for the
resonators and targets; D. H. Klatt and L. C. Klatt, JASA 87 (1990), for the glottal pulse; ITU-T
G.711 for the companding law.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from scipy.linalg.blas import dtbsv
from scipy.ndimage import gaussian_filter1d
from scipy.signal import butter, lfilter, sosfilt

from probe.files import write_atomically

RATE_HZ = 16000
TELEPHONE_RATE_HZ = 8000
FRAME_SAMPLES = 80  # 5 ms

WORDS = (*("sani", "nafi", "sola", "tuk", "kelom"), *("fumet", "lika", "mosu", "tenol", "fakim"))
DOMAINS = ("clean", "telephone")
N_SPEAKERS = 48
N_TRAIN_SPEAKERS, N_DEV_SPEAKERS = 16, 8  # of words.csv; the other 24 are test
N_TRAIN_WORDS, N_DEV_WORDS = 6, 2  # of voices.csv

COLUMNS = ("path", "text", "speaker", "domain", "split", "duration_s", "sex")
SOUND_COLUMNS = ("path", "start", "end", "label")

TELEPHONE_BAND = butter(4, (300, 3400), "bandpass", fs=TELEPHONE_RATE_HZ, output="sos")
DURATION_JITTER = 0.10  # standard deviations of logarithms, drawn per sound
FORMANT_JITTER = 0.04

Samples = NDArray[np.float64]


@dataclass(frozen=True)
class SyntheticCorpus:
    """The files that were written; the audio lies beside them and is named relative to them."""

    words: Path
    voices: Path
    sounds: Path


@dataclass(frozen=True)
class Segment:
    """A stretch of sound that vocal tract and sources aim at; levels relative to a vowel's."""

    duration_s: float
    formants_hz: tuple[float, float, float, float]
    voicing: float = 0.0
    friction: float = 0.0
    friction_hz: float = 0.0
    friction_width_hz: float = 0.0


SILENCE = Segment(0.075, (500, 1500, 2500, 3500))
LETTERS: dict[str, tuple[Segment, ...]] = {
    "a": (Segment(0.100, (730, 1250, 2500, 3500), 1.0),),
    "e": (Segment(0.095, (500, 1850, 2550, 3550), 1.0),),
    "i": (Segment(0.085, (310, 2250, 2950, 3600), 1.0),),
    "o": (Segment(0.095, (480, 920, 2450, 3400), 1.0),),
    "u": (Segment(0.085, (330, 900, 2300, 3350), 1.0),),
    "l": (Segment(0.065, (370, 1100, 2750, 3500), 0.5),),
    "m": (Segment(0.070, (260, 1050, 2200, 3300), 0.35),),
    "n": (Segment(0.070, (260, 1550, 2500, 3500), 0.35),),
    "s": (Segment(0.090, (330, 1600, 2550, 3500), 0.0, 0.30, 5200, 1600),),
    "f": (Segment(0.085, (320, 1050, 2200, 3300), 0.0, 0.12, 3500, 6000),),
    "t": (
        Segment(0.050, (330, 1700, 2600, 3500)),
        Segment(0.025, (350, 1700, 2600, 3500), 0.0, 0.35, 3800, 2400),
    ),
    "k": (
        Segment(0.050, (300, 1900, 2300, 3400)),
        Segment(0.030, (330, 1900, 2300, 3400), 0.0, 0.35, 1900, 700),
    ),
}


@dataclass(frozen=True)
class Speaker:
    """A voice."""

    name: str
    sex: str
    pitch_hz: float  # median
    pitch_range: float  # semitones
    tract: float  # factor on every formant: a short tract is above 1
    upper_formants: float  # a further factor on the third and fourth
    pace: float  # factor on durations
    breath: float  # noise in the source, as a fraction of the pulses
    tilt: float  # pole of the source's low-pass, 0..1


SHARED_RANGES = {
    "pitch_range": (1.5, 5.0),
    "upper_formants": (0.88, 1.12),
    "pace": (0.85, 1.15),
    "breath": (0.03, 0.8),
    "tilt": (0.1, 0.95),
}
FEMALE_RANGES = {"pitch_hz": (150.0, 245.0), "tract": (0.98, 1.25)}
MALE_RANGES = {"pitch_hz": (90.0, 170.0), "tract": (0.85, 1.10)}


class Sound(NamedTuple):
    """A letter of an utterance, from ``start`` to ``end`` in seconds."""

    start: float
    end: float
    letter: str


@dataclass(frozen=True)
class Utterance:
    """The file of a word, its 16-bit samples, and its sounds."""

    path: str
    word: str
    speaker: Speaker
    domain: str
    samples: NDArray[np.int16]
    rate_hz: int
    sounds: tuple[Sound, ...]

    def row(self, split: str) -> tuple[str, ...]:
        """The manifest's columns."""
        duration, speaker = f"{len(self.samples) / self.rate_hz:.4f}", self.speaker
        return (self.path, self.word, speaker.name, self.domain, split, duration, speaker.sex)


def write_synthetic_corpus(folder: str | Path, seed: int = 0) -> SyntheticCorpus:
    """The manifests and sounds of a corpus generated into ``folder``, which is created if needed.

    Equal seeds give equal bytes. The manifests are written last: in a new folder, where they exist
    the audio is complete.

    Raises:
        OSError: a file cannot be written.
        ValueError: ``seed`` is negative.
    """
    folder = Path(folder)
    utterances = [
        utterance
        for number, speaker in enumerate(make_speakers(np.random.default_rng([seed, 0])))
        for utterance in speaker_utterances(speaker, np.random.default_rng([seed, 1, number]))
    ]
    for utterance in utterances:
        path = folder / utterance.path
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, utterance.samples, utterance.rate_hz, subtype="PCM_16")
    paths = SyntheticCorpus(
        words=folder / "words.csv", voices=folder / "voices.csv", sounds=folder / "sounds.csv"
    )
    sounds = [
        (one.path, f"{start:.4f}", f"{end:.4f}", letter)
        for one in utterances
        for start, end, letter in one.sounds
    ]
    write_csv(paths.sounds, SOUND_COLUMNS, sounds)
    write_csv(paths.voices, COLUMNS, [one.row(split_of_word(one.word)) for one in utterances])
    write_csv(paths.words, COLUMNS, [one.row(split_of_speaker(one.speaker)) for one in utterances])
    return paths


def split_of_speaker(speaker: "Speaker") -> str:
    """The split of ``words.csv``."""
    number = int(speaker.name[1:])
    if number < N_TRAIN_SPEAKERS:
        return "train"
    return "dev" if number < N_TRAIN_SPEAKERS + N_DEV_SPEAKERS else "test"


def split_of_word(word: str) -> str:
    """The split of ``voices.csv``."""
    number = WORDS.index(word)
    if number < N_TRAIN_WORDS:
        return "train"
    return "dev" if number < N_TRAIN_WORDS + N_DEV_WORDS else "test"


def make_speakers(rng: np.random.Generator) -> list[Speaker]:
    """The speakers, ``f f m m ...``; within a sex every trait is spread evenly over its range."""
    ranges = {"f": SHARED_RANGES | FEMALE_RANGES, "m": SHARED_RANGES | MALE_RANGES}
    n = N_SPEAKERS // 2
    traits = {
        (sex, trait): rng.permutation(np.geomspace(low, high, n)).tolist()
        for sex, table in ranges.items()
        for trait, (low, high) in table.items()
    }
    speakers = []
    for number, sex in enumerate("ffmm" * (N_SPEAKERS // 4)):
        values = {trait: traits[sex, trait].pop() for trait in ranges[sex]}
        speakers.append(Speaker(f"s{number:02d}", sex, **values))
    return speakers


def speaker_utterances(speaker: Speaker, rng: np.random.Generator) -> list[Utterance]:
    """Everything the speaker says, rendered."""
    utterances = []
    for word, domain in product(WORDS, DOMAINS):
        speech, sounds = speak(word, speaker, rng)
        samples, rate_hz, suffix = record(speech, rng), RATE_HZ, "flac"
        if domain == "telephone":
            samples, rate_hz, suffix = telephone(samples, rng), TELEPHONE_RATE_HZ, "wav"
        path = f"audio/{domain}/{speaker.name}-{word}.{suffix}"
        utterances.append(
            Utterance(path, word, speaker, domain, as_int16(samples), rate_hz, sounds)
        )
    return utterances


def speak(
    word: str, speaker: Speaker, rng: np.random.Generator
) -> tuple[Samples, tuple[Sound, ...]]:
    """A word said once, with silence at both ends and an rms near 1; its sounds."""
    segments = [SILENCE, *(segment for letter in word for segment in LETTERS[letter]), SILENCE]
    seconds = np.array([segment.duration_s for segment in segments])
    seconds *= speaker.pace * rng.lognormal(0, DURATION_JITTER, len(segments))
    n_frames = np.maximum(2, np.round(seconds * RATE_HZ / FRAME_SAMPLES)).astype(int)
    path = np.repeat(np.arange(len(segments)), n_frames)  # (frame,) -> segment

    # Targets are steps; smoothing makes them glide, and keeps short sounds from reaching their aim
    # (coarticulation).
    targets = np.array([segment.formants_hz for segment in segments], dtype=float)
    targets *= rng.lognormal(0, FORMANT_JITTER, targets.shape)
    targets *= speaker.tract * np.array([1.0, 1.0, speaker.upper_formants, speaker.upper_formants])
    formants = gaussian_filter1d(targets[path], sigma=4, axis=0, mode="nearest")
    voicing = gaussian_filter1d(
        np.array([segment.voicing for segment in segments])[path], sigma=2, mode="nearest"
    )

    speech = resonate(glottis(per_sample(voicing), speaker, rng), formants)
    speech /= rms(speech) + 1e-9
    for place, segment in enumerate(segments):
        if segment.friction:
            gate = per_sample(
                gaussian_filter1d((path == place).astype(float), sigma=1.0, mode="nearest")
            )
            speech += segment.friction * gate * friction(segment, speaker, len(speech), rng)
    ends = np.cumsum(n_frames) * FRAME_SAMPLES / RATE_HZ
    last = np.cumsum([len(LETTERS[letter]) for letter in word])  # the segment that ends a letter
    bounds = [ends[0], *ends[last]]
    return speech, tuple(map(Sound, bounds, bounds[1:], word))


def glottis(voicing: Samples, speaker: Speaker, rng: np.random.Generator) -> Samples:
    """The source, (time,): the derivative of the glottal flow, plus breath while the glottis is
    open.

    In a period of phase p the flow rises as p^2 - p^3/q and is 0 after the open quotient q, so
        source(p) = 2 p - 3 p^2 / q    for p < q
    """
    n = len(voicing)
    time = np.linspace(0, 1, n)
    declination, accent, place = rng.normal(0.5, 0.25), rng.normal(0, 0.5), rng.uniform(0.2, 0.8)
    contour = declination * (0.5 - time) + accent * np.exp(-(((time - place) / 0.2) ** 2))
    pitch_hz = speaker.pitch_hz * rng.lognormal(0, 0.04) * 2 ** (speaker.pitch_range * contour / 12)

    period = np.cumsum(pitch_hz / RATE_HZ).astype(int)
    jitter = 1 + 0.015 * rng.standard_normal(period[-1] + 1)  # one draw per period
    pitch_hz *= jitter[period]
    cycles = np.cumsum(pitch_hz / RATE_HZ)
    period, phase = cycles.astype(int), cycles % 1
    shimmer = (1 + 0.08 * rng.standard_normal(period[-1] + 1))[period]

    open_quotient = 0.6
    is_open = phase < open_quotient
    pulses = is_open * (2 * phase - 3 * phase**2 / open_quotient) * shimmer
    breath = speaker.breath * rng.standard_normal(n) * np.where(is_open, 1.0, 0.3)
    tilt = min(0.97, speaker.tilt * rng.lognormal(0, 0.05))
    return voicing * lfilter([1 - tilt], [1, -tilt], pulses + breath)


def resonate(source: Samples, formants_hz: Samples) -> Samples:
    """``source``, (time,), through four resonators in a row whose centres, (frame, 4), glide.

    A resonator of centre f and bandwidth w has poles r e^(+-i theta),
    r = exp(-pi w / rate), theta = 2 pi f / rate:
        y[t] = gain x[t] - a y[t-1] - b y[t-2],  a = -2 r cos(theta),  b = r^2,  gain = 1 + a + b
    With a and b different at every t this is a banded triangular system in y, and forward
    substitution is the filter.
    """
    speech = source
    for centre_hz in map(per_sample, formants_hz.T):
        r = np.exp(-np.pi * (50 + centre_hz / 25) / RATE_HZ)
        a, b = -2 * r * np.cos(2 * np.pi * centre_hz / RATE_HZ), r**2
        diagonals = np.ones((3, len(speech)))
        diagonals[1, :-1], diagonals[2, :-2] = a[1:], b[2:]
        speech = dtbsv(2, diagonals, (1 + a + b) * speech, lower=1)
    return speech


def friction(segment: Segment, speaker: Speaker, n: int, rng: np.random.Generator) -> Samples:
    """The (n,) noise of a fricative or burst: a band of rms 1, centred by the vocal tract."""
    low_hz = segment.friction_hz * speaker.tract - segment.friction_width_hz / 2
    high_hz = segment.friction_hz * speaker.tract + segment.friction_width_hz / 2
    band = butter(1, (max(low_hz, 200), min(high_hz, 7800)), "bandpass", fs=RATE_HZ)
    noise = lfilter(*band, rng.standard_normal(n))
    return noise / rms(noise)


def record(speech: Samples, rng: np.random.Generator) -> Samples:
    """``speech`` at a random level, -26 +- 3 dB, in a room with low-pass noise some 35 dB below."""
    noise = lfilter([0.3], [1, -0.7], rng.standard_normal(len(speech)))
    noise *= decibel(rng.normal(-35, 1)) * rms(speech) / rms(noise)
    mixture = speech + noise
    return unclipped(mixture * decibel(rng.normal(-26, 3)) / rms(mixture))


def telephone(samples: Samples, rng: np.random.Generator) -> Samples:
    """The samples at 8 kHz: band-passed, with line noise 25 dB below, companded to 8 bits."""
    narrow = soxr.resample(samples, RATE_HZ, TELEPHONE_RATE_HZ)
    narrow = sosfilt(TELEPHONE_BAND, narrow)
    narrow += decibel(rng.normal(-25, 3)) * rms(narrow) * rng.standard_normal(len(narrow))
    narrow = unclipped(narrow)
    mu = 255.0
    squeezed = np.sign(narrow) * np.log1p(mu * np.abs(narrow)) / np.log1p(mu)
    steps = np.round(squeezed * 127) / 127
    return np.sign(steps) * np.expm1(np.abs(steps) * np.log1p(mu)) / mu


def per_sample(track: Samples) -> Samples:
    """A control track, one value per 5 ms, drawn out to one per sample."""
    n = len(track) * FRAME_SAMPLES
    return np.interp(np.arange(n) / FRAME_SAMPLES - 0.5, np.arange(len(track)), track)


def rms(samples: Samples) -> float:
    """The root of the mean square."""
    return float(np.sqrt(np.mean(samples**2)))


def unclipped(samples: Samples) -> Samples:
    """``samples``, quieter where their peak is above 0.9."""
    return samples * min(1.0, 0.9 / float(np.abs(samples).max()))


def decibel(level: float) -> float:
    """The amplitude ratio of a level in dB."""
    return 10.0 ** (level / 20)


def as_int16(samples: Samples) -> NDArray[np.int16]:
    """``samples`` rounded to 16 bits."""
    return np.round(samples * 32767).astype(np.int16)


def write_csv(path: Path, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Write a UTF-8 CSV with a header, whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    write_atomically(path, text.getvalue().encode())
