"""Filters that keep the length: reverberation, echo, tremolo, shelves, chorus, phaser.

Reverberation convolves the speech with an impulse response, simulated or measured. The direct sound
stays where it was, so nothing is delayed, and the level stays that of the speech without the room.
The other filters follow SoX's manual (sample values differ). The tail after the end of the
utterance is cut off. Nothing is clipped; SoX clips at full scale, which is the separate step
``clip`` here.
"""

import numpy as np

from probe.data.conditions.loudness import rms
from probe.data.conditions.noise_sources import Scene, Settings

DECAY = np.log(1000)  # decay of the amplitude over the reverberation time: 60 dB
BASS_HZ, TREBLE_HZ, SHELF_SLOPE = 100.0, 3000.0, 0.5
CHORUS_SWEEP_S = 0.002


def echo(samples: np.ndarray, settings: Settings, scene: Scene) -> np.ndarray:
    """Add one echo to the speech."""
    n_delay = round(settings["delay"] / 1000 * scene.rate_hz)
    return samples + settings["decay"] * np.pad(samples, (n_delay, 0))[: len(samples)]


def tremolo(samples: np.ndarray, settings: Settings, scene: Scene) -> np.ndarray:
    """Vary the amplitude between 1 and 1 - depth with a frequency in Hz, starting at 1."""
    phase = 2 * np.pi * settings["rate"] * np.arange(len(samples)) / scene.rate_hz
    return samples * (1 - settings["depth"] / 100 * (0.5 - 0.5 * np.cos(phase)))


def bass(samples: np.ndarray, settings: Settings, scene: Scene) -> np.ndarray:
    """Amplify with a shelving filter below 100 Hz."""
    return _shelf(samples, settings["db"], BASS_HZ, 1.0, scene.rate_hz)


def treble(samples: np.ndarray, settings: Settings, scene: Scene) -> np.ndarray:
    """Amplify with a shelving filter above 3 kHz."""
    return _shelf(samples, settings["db"], TREBLE_HZ, -1.0, scene.rate_hz)


def _shelf(
    samples: np.ndarray, gain_db: float, middle_hz: float, side: float, rate_hz: int
) -> np.ndarray:
    """Apply a second-order shelving filter from R. Bristow-Johnson's Audio EQ Cookbook; ``side`` is
    1 for a low and -1 for a high shelf.

    With A = 10^(gain/40), c = cos w0 and r = 2 sqrt(A) alpha (for the high shelf c is -c, and odd
    coefficients change their sign):
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
    from scipy.signal import lfilter  # its import takes a second

    return lfilter(b, a, samples)


def chorus(samples: np.ndarray, settings: Settings, scene: Scene) -> np.ndarray:
    """Add two delayed voices to the speech. Their delays sweep over 2 ms: the first as a triangle,
    the second, 10 ms later, as a sine.

    Gains 0.7 before and 0.9 after, decays 0.4 and 0.3, sweeps of 0.25 and 0.4 Hz.
    """
    time = np.arange(len(samples)) / scene.rate_hz
    first = 1 - np.abs(1 - 2 * (0.25 * time % 1))
    second = 0.5 - 0.5 * np.cos(2 * np.pi * 0.4 * time)
    whole = 0.7 * samples
    for decay, later_s, sweep in ((0.4, 0.0, first), (0.3, 0.01, second)):
        source_s = time - settings["delay"] / 1000 - later_s - CHORUS_SWEEP_S * sweep
        whole += decay * np.interp(source_s, time, samples, left=0.0)
    return 0.9 * whole


def phaser(samples: np.ndarray, settings: Settings, scene: Scene) -> np.ndarray:
    """Apply feedback with a delay of up to 3 ms, which sweeps twice per second as a triangle, with
    gains 0.6 before and 0.8 after.
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


def simulated_response(
    rt60_s: float, drr_db: float, rate_hz: int, generator: np.random.Generator
) -> np.ndarray:
    """Return the (time,) impulse response of a random room: the direct sound, then Gaussian noise
    that decays by 60 dB in ``rt60_s`` seconds.

    This is the statistical model of J.-D. Polack (thesis, Le Mans 1988): all frequencies decay
    equally, and there are no single reflections.

    Args:
        drr_db: ratio of the energy of the direct sound to that of the rest.
    """
    n_samples = max(2, round(1.1 * rt60_s * rate_hz))
    time = np.arange(1, n_samples) / rate_hz
    tail = generator.standard_normal(n_samples - 1) * np.exp(-DECAY * time / rt60_s)
    tail *= 10 ** (-drr_db / 20) / np.sqrt(np.sum(tail**2))
    return np.concatenate([[1.0], tail])


def reverberate_simulated(samples: np.ndarray, settings: Settings, scene: Scene) -> np.ndarray:
    """Place the speech in a random room."""
    response = simulated_response(settings["rt60"], settings["drr"], scene.rate_hz, scene.generator)
    return _convolved(samples, response, 0)


def reverberate_measured(samples: np.ndarray, settings: Settings, scene: Scene) -> np.ndarray:
    """Place the speech in a room whose impulse response is drawn from files."""
    assert scene.sounds is not None
    response = scene.sounds.load(int(scene.generator.integers(len(scene.sounds.places))))
    return _convolved(samples, response, int(np.argmax(np.abs(response))))


def _convolved(samples: np.ndarray, response: np.ndarray, direct: int) -> np.ndarray:
    """Convolve the speech with the response of a room; ``direct`` is the position of the direct
    sound.
    """
    from scipy.signal import oaconvolve  # its import takes a second

    whole = oaconvolve(samples, np.asarray(response, np.float64))
    reverberant = whole[direct : direct + len(samples)]
    level = rms(reverberant)
    return reverberant * (rms(samples) / level) if level > 0 else reverberant
