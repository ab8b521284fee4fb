"""Reverberation: the speech convolved with an impulse response, simulated or measured.

The direct sound stays where it was, so nothing is delayed; what rings on after the end is cut off.
The whole keeps the level of the speech without the room.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.signal import oaconvolve

from probe.data.conditions.loudness import rms
from probe.data.conditions.noise_sources import Scene

DECAY = np.log(1000)  # of the amplitude over the reverberation time: 60 dB


def simulated_response(
    rt60_s: float, drr_db: float, rate_hz: int, generator: np.random.Generator
) -> np.ndarray:
    """(time,) impulse response of a room that is drawn: the direct sound, then Gaussian noise that
    decays by 60 dB in ``rt60_s``.

    The statistical model of J.-D. Polack (thesis, Le Mans 1988): all frequencies decay alike, there
    are no single reflections.

    Args:
        drr_db: energy of the direct sound against that of all that follows.
    """
    n_samples = max(2, round(1.1 * rt60_s * rate_hz))
    time = np.arange(1, n_samples) / rate_hz
    tail = generator.standard_normal(n_samples - 1) * np.exp(-DECAY * time / rt60_s)
    tail *= 10 ** (-drr_db / 20) / np.sqrt(np.sum(tail**2))
    return np.concatenate([[1.0], tail])


def reverberate_simulated(
    samples: np.ndarray, settings: Mapping[str, Any], scene: Scene
) -> np.ndarray:
    """The speech in a room drawn for this utterance."""
    response = simulated_response(settings["rt60"], settings["drr"], scene.rate_hz, scene.generator)
    return _heard_in(samples, response, 0)


def reverberate_measured(
    samples: np.ndarray, settings: Mapping[str, Any], scene: Scene
) -> np.ndarray:
    """The speech in a room whose impulse response is drawn from files."""
    assert scene.sounds is not None
    response = scene.sounds.load(int(scene.generator.integers(len(scene.sounds.paths))))
    return _heard_in(samples, response, int(np.argmax(np.abs(response))))


def _heard_in(samples: np.ndarray, response: np.ndarray, direct: int) -> np.ndarray:
    """The speech in a room whose direct sound is this sample of its response."""
    heard = oaconvolve(samples, np.asarray(response, np.float64))[direct : direct + len(samples)]
    level = rms(heard)
    return heard * (rms(samples) / level) if level > 0 else heard
