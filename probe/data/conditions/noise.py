"""Additive noise at a measured signal-to-noise ratio.

The SNR in dB is 20 log10 of the ratio between the root mean squares of the speech and of the added
noise, both over the whole utterance; with ``active``, the speech has its active level (ITU-T P.56).
The noise is scaled, and the speech is unchanged. Samples beyond full scale are not clipped. A
silent utterance has no level and is refused.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from probe.data.conditions.loudness import active_rms, is_silent, rms
from probe.data.conditions.noise_sources import Scene, Settings
from probe.errors import UtteranceError

SEAM_S = 0.01
LOWEST_PINK_HZ = 20.0
MOST_DRAWS = 20


def add_white(samples: np.ndarray, settings: Settings, scene: Scene) -> np.ndarray:
    """Add Gaussian noise, equally strong at all frequencies."""
    return _mixed(samples, scene.generator.standard_normal(len(samples)), settings, scene)


def add_pink(samples: np.ndarray, settings: Settings, scene: Scene) -> np.ndarray:
    """Add Gaussian noise without an offset that falls by 3 dB per octave above 20 Hz."""
    from scipy import fft

    n_samples = len(samples)
    frequencies = fft.rfftfreq(n_samples, 1 / scene.rate_hz)
    spectrum = fft.rfft(scene.generator.standard_normal(n_samples)) / np.sqrt(
        np.maximum(frequencies, LOWEST_PINK_HZ)
    )
    if n_samples > 1:
        spectrum[0] = 0
    return _mixed(samples, fft.irfft(spectrum, n_samples), settings, scene)


def add_babble(samples: np.ndarray, settings: Settings, scene: Scene) -> np.ndarray:
    """Add the sum of equally loud utterances of other speakers, each from a random position.

    They come from as many different speakers as possible.

    Raises:
        UtteranceError: the speaker of the utterance is unknown, or the pool has no other speaker.
    """
    sounds = scene.sounds
    assert sounds is not None
    speaker = sounds.speaker_of.get(scene.key, "")
    others = [number for number, name in enumerate(sounds.speakers) if name != speaker]
    if not speaker or not others:
        reason = f"only {speaker} is in the pool" if speaker else "its speaker is unknown"
        raise UtteranceError(f"noise:babble: {reason}")
    order = _in_turn(scene.generator.permutation(others).tolist(), sounds.speakers)
    babble = np.zeros(len(samples))
    for talker in range(settings["talkers"]):  # some speak twice if there are too few
        stretch = _stretch(sounds.load(order[talker % len(order)]), len(samples), scene)
        babble += stretch / rms(stretch)
    return _mixed(samples, babble, settings, scene)


def _in_turn(numbers: Sequence[int], speakers: Sequence[str]) -> list[int]:
    """Reorder the numbers, so that every speaker comes once before any speaker comes twice."""
    counts: Counter[str] = Counter()
    turns = []
    for number in numbers:
        turns.append((counts[speakers[number]], number))
        counts[speakers[number]] += 1
    return [number for _, number in sorted(turns, key=lambda item: item[0])]


def add_files(samples: np.ndarray, settings: Settings, scene: Scene) -> np.ndarray:
    """Add a random stretch of a random file."""
    assert scene.sounds is not None
    number = int(scene.generator.integers(len(scene.sounds.places)))
    return _mixed(
        samples, _stretch(scene.sounds.load(number), len(samples), scene), settings, scene
    )


def _stretch(sound: np.ndarray, n_samples: int, scene: Scene) -> np.ndarray:
    """Return a random stretch of a sound, (n_samples,) float64, that is not silent.

    A short sound is repeated. Its end fades into its beginning over 10 ms at equal power, to avoid
    clicks.

    Raises:
        UtteranceError: too many stretches are silent.
    """
    loop = np.asarray(sound, np.float64)
    if len(loop) < n_samples:
        n_seam = min(round(SEAM_S * scene.rate_hz), len(loop) // 2)
        angle = np.pi / 2 * (np.arange(n_seam) + 0.5) / max(1, n_seam)
        blended = loop[len(loop) - n_seam :] * np.cos(angle) + loop[:n_seam] * np.sin(angle)
        loop = np.concatenate([blended, loop[n_seam : len(loop) - n_seam]])
    repeats = len(loop) < n_samples
    for _ in range(MOST_DRAWS):
        start = int(scene.generator.integers(len(loop) if repeats else len(loop) - n_samples + 1))
        stretch = np.take(loop, np.arange(start, start + n_samples), mode="wrap")
        if not is_silent(stretch):
            return stretch
    raise UtteranceError(
        f"{MOST_DRAWS} random stretches of noise are all silent; the files need less silence"
    )


def _mixed(samples: np.ndarray, noise: np.ndarray, settings: Settings, scene: Scene) -> np.ndarray:
    """Return the sum of speech and noise at the requested ratio."""
    if is_silent(samples):
        raise UtteranceError("silent: it has no level that a signal-to-noise ratio could be of")
    level = active_rms(samples, scene.rate_hz) if settings["level"] == "active" else rms(samples)
    return samples + noise * (level / rms(noise) * 10 ** (-settings["snr"] / 20))
