"""Echo, tremolo, shelves, chorus, phaser, as SoX's manual describes them (not its sample values).
All keep the length.

Echo and chorus cut off what rings on after the end. Nothing is clipped: SoX clips at full scale,
which is a step ``clip`` of its own.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.signal import lfilter

from probe.data.conditions.noise_sources import Scene

BASS_HZ, TREBLE_HZ, SHELF_SLOPE = 100.0, 3000.0, 0.5
CHORUS_SWEEP_S = 0.002


def echo(samples: np.ndarray, settings: Mapping[str, Any], scene: Scene) -> np.ndarray:
    """The speech and one echo of it."""
    n_delay = round(settings["delay"] / 1000 * scene.rate_hz)
    return samples + settings["decay"] * np.pad(samples, (n_delay, 0))[: len(samples)]


def tremolo(samples: np.ndarray, settings: Mapping[str, Any], scene: Scene) -> np.ndarray:
    """Its loudness swings between full and 1 - depth, so many times a second; it begins at full."""
    phase = 2 * np.pi * settings["rate"] * np.arange(len(samples)) / scene.rate_hz
    return samples * (1 - settings["depth"] / 100 * (0.5 - 0.5 * np.cos(phase)))


def bass(samples: np.ndarray, settings: Mapping[str, Any], scene: Scene) -> np.ndarray:
    """A shelf below 100 Hz."""
    return _shelf(samples, settings["db"], BASS_HZ, 1.0, scene.rate_hz)


def treble(samples: np.ndarray, settings: Mapping[str, Any], scene: Scene) -> np.ndarray:
    """A shelf above 3 kHz."""
    return _shelf(samples, settings["db"], TREBLE_HZ, -1.0, scene.rate_hz)


def _shelf(
    samples: np.ndarray, gain_db: float, middle_hz: float, side: float, rate_hz: int
) -> np.ndarray:
    """A shelving filter of second order, of R. Bristow-Johnson's Audio EQ Cookbook; ``side`` 1: low
    shelf, -1: high shelf.

    With A = 10^(gain/40), c = cos w0 and r = 2 sqrt(A) alpha (for the high shelf c is -c, and odd coefficients change their sign):
        b = A ((A+1) - (A-1)c + r), 2A ((A-1) - (A+1)c), A ((A+1) - (A-1)c - r)
        a =    (A+1) + (A-1)c + r,  -2 ((A-1) + (A+1)c),    (A+1) + (A-1)c - r
    """
    angle = 2 * np.pi * min(middle_hz, 0.49 * rate_hz) / rate_hz
    size = 10 ** (gain_db / 40)
    alpha = np.sin(angle) / 2 * np.sqrt((size + 1 / size) * (1 / SHELF_SLOPE - 1) + 2)
    root, c = 2 * np.sqrt(size) * alpha, side * np.cos(angle)
    up, down = size + 1, size - 1
    b = [
        size * (up - down * c + root),
        side * 2 * size * (down - up * c),
        size * (up - down * c - root),
    ]
    a = [up + down * c + root, side * -2 * (down + up * c), up + down * c - root]
    return lfilter(b, a, samples)


def chorus(samples: np.ndarray, settings: Mapping[str, Any], scene: Scene) -> np.ndarray:
    """The speech and two later voices, whose delays sweep over 2 ms: the first as a triangle, the
    second, 10 ms later, as a sine.

    Gains 0.7 before and 0.9 after, decays 0.4 and 0.3, sweeps of 0.25 and 0.4 Hz.
    """
    time = np.arange(len(samples)) / scene.rate_hz
    first = 1 - np.abs(1 - 2 * (0.25 * time % 1))
    second = 0.5 - 0.5 * np.cos(2 * np.pi * 0.4 * time)
    whole = 0.7 * samples
    for decay, later_s, sweep in ((0.4, 0.0, first), (0.3, 0.01, second)):
        heard_s = time - settings["delay"] / 1000 - later_s - CHORUS_SWEEP_S * sweep
        whole += decay * np.interp(heard_s, time, samples, left=0.0)
    return 0.9 * whole


def phaser(samples: np.ndarray, settings: Mapping[str, Any], scene: Scene) -> np.ndarray:
    """The speech and what came out up to 3 ms before: the delay sweeps twice a second as a
    triangle. Gains 0.6 before, 0.8 after.
    """
    time = np.arange(len(samples)) / scene.rate_hz
    longest = max(1, round(0.003 * scene.rate_hz))
    sweep = 1 - np.abs(1 - 2 * (2 * time % 1))
    delays = (longest - np.rint((longest - 1) * sweep).astype(int)).tolist()
    decay = settings["decay"]
    out = [0.0] * longest  # silence before
    for value, delay in zip((0.6 * samples).tolist(), delays, strict=True):
        out.append(value + decay * out[-delay])
    return 0.8 * np.array(out[longest:])
