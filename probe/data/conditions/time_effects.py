"""Speed, tempo and pitch. Speed and tempo change the length to ``round(samples / factor)``; pitch
keeps it.
"""

import numpy as np

from probe.data.conditions.channels import resampled
from probe.data.conditions.noise_sources import Scene, Settings

# Length of the overlapping frames in tempo, and the largest shift of a frame to fit the previous
# one.
FRAME_S, SEARCH_S = 0.03, 0.01
FASTEST = 2.0  # above it, frames would skip some of the speech


def speed(samples: np.ndarray, settings: Settings, scene: Scene) -> np.ndarray:
    """Change speed and pitch by resampling. Time t of the result is time t * factor of the
    speech.
    """
    factor = settings["factor"]
    return resampled(samples, scene.rate_hz * factor, scene.rate_hz, round(len(samples) / factor))


def tempo(samples: np.ndarray, settings: Settings, scene: Scene) -> np.ndarray:
    """Change the tempo but not the pitch. Time t of the result is time t * factor of the speech,
    within 20 ms.
    """
    return _stretched(
        samples, settings["factor"], round(len(samples) / settings["factor"]), scene.rate_hz
    )


def pitch(samples: np.ndarray, settings: Settings, scene: Scene) -> np.ndarray:
    """Shift the pitch by semitones at the same length, by changing tempo and then speed. Formants
    move too.
    """
    ratio = 2 ** (settings["semitones"] / 12)
    longer = _stretched(samples, 1 / ratio, round(len(samples) * ratio), scene.rate_hz)
    return resampled(longer, scene.rate_hz * ratio, scene.rate_hz, len(samples))


def _stretched(samples: np.ndarray, factor: float, n_after: int, rate_hz: int) -> np.ndarray:
    """Return (n_after,) samples from overlapping frames that continue each other (WSOLA; Verhelst,
    Roelands, 1993).
    """
    hop = max(1, round(FRAME_S * rate_hz / 2))
    n_frame, reach = 2 * hop, round(SEARCH_S * rate_hz)
    # Two of these windows, a hop apart, sum to 1.
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_frame) / n_frame)
    n_frames = -(-n_after // hop) + 1
    # The middle of frame i is sample i * hop of the result and i * hop * factor of the speech;
    # zeros make room on both sides.
    before = n_frame + reach
    last = round((n_frames + 1) * hop * factor) + 2 * n_frame + 2 * reach
    padded = np.pad(samples, (before, max(0, last - len(samples)) + n_frame))
    after = np.zeros((n_frames + 1) * hop)
    place = before - hop
    for number in range(n_frames):
        middle = before + round(number * hop * factor) - hop
        if number:
            target = padded[place + hop : place + hop + n_frame]
            region = padded[middle - reach : middle + reach + n_frame]
            sums = np.concatenate([[0.0], np.cumsum(region**2)])
            energies = np.sqrt(np.maximum(sums[n_frame:] - sums[:-n_frame], 1e-12))
            fits = np.correlate(region, target, mode="valid") / energies
            place = middle - reach + int(np.argmax(fits)) if fits.max() > 0 else middle
        after[number * hop : number * hop + n_frame] += window * padded[place : place + n_frame]
    return after[hop : hop + n_after]
