"""Channels: telephone, codecs, lost packets, lower rates, levels, clipping. All keep the length and
add no delay.

libsndfile writes and reads the codecs in memory. It removes their delay (GSM and G.711 have none),
except for MP3 without a tag, whose delay this module removes; additional samples at the end are cut
off. A channel has a full scale: samples beyond it are clipped before the codec.
"""

import io
from typing import Any

import numpy as np
import soundfile
import soxr

from probe.data.conditions.noise_sources import Apply, Scene, Settings
from probe.errors import UtteranceError

TELEPHONE_HZ, TELEPHONE_BAND_HZ = 8000, (300.0, 3400.0)
LAWS = {"mu": "ULAW", "a": "ALAW"}
# Width of a filter's slope between pass and stop band, which drops 60 dB; it is narrower near an
# end of the spectrum or the other edge.
SLOPE_HZ, NARROWEST_HZ, STOP_DB = 200.0, 1.0, 60.0
# Delay in samples of the encoder (576) and the decoder (529). With LAME's tag libsndfile removes
# it, but low bit rates have no room for a tag.
MP3_DELAY = 1105


def resampled(samples: np.ndarray, from_hz: float, to_hz: float, n_samples: int) -> np.ndarray:
    """Return (n_samples,) samples at another rate, resampled by soxr HQ; an additional sample is
    cut and a missing one is 0.
    """
    if from_hz != to_hz:
        samples = soxr.resample(np.asarray(samples, np.float64), from_hz, to_hz, quality="HQ")
    return np.pad(samples[:n_samples], (0, max(0, n_samples - len(samples))))


def band_limited(samples: np.ndarray, low_hz: float, high_hz: float, rate_hz: int) -> np.ndarray:
    """Keep the frequencies from ``low_hz`` to ``high_hz`` with linear phase and no delay: -6 dB at
    the edges, -57 dB from half a slope beyond them.

    The slope is 200 Hz, or the smallest distance of an edge from 0, from half the rate or from the
    other edge. An edge has no effect unless it is at least 1 Hz above 0 and below half the rate; a
    lower edge above that leaves nothing.
    """
    from scipy.signal import firwin, oaconvolve  # its import takes a second

    highest_hz = rate_hz / 2 - NARROWEST_HZ
    edges = [edge for edge in (low_hz, high_hz) if NARROWEST_HZ <= edge <= highest_hz]
    if low_hz > highest_hz:
        return np.zeros(len(samples))
    if not edges:
        return samples
    slope_hz = min(SLOPE_HZ, edges[0], rate_hz / 2 - edges[-1], *np.diff(edges))
    n_taps = int((STOP_DB - 7.95) / (2.285 * 2 * np.pi * slope_hz / rate_hz)) // 2 * 2 + 1
    pass_zero = {1: "lowpass" if edges[0] == high_hz else "highpass", 2: "bandpass"}[len(edges)]
    taps = firwin(
        n_taps, edges, window=("kaiser", 0.1102 * (STOP_DB - 8.7)), pass_zero=pass_zero, fs=rate_hz
    )
    return oaconvolve(samples, taps)[n_taps // 2 : n_taps // 2 + len(samples)]


def telephone(samples: np.ndarray, settings: Settings, scene: Scene) -> np.ndarray:
    """Send the speech through a telephone: 300 to 3400 Hz at 8 kHz, 8 bits of ITU-T G.711."""
    narrow = band_limited(samples, *TELEPHONE_BAND_HZ, scene.rate_hz)
    return _through(narrow, scene.rate_hz, TELEPHONE_HZ, "WAV", LAWS[settings["law"]])


def gsm(samples: np.ndarray, _: Settings, scene: Scene) -> np.ndarray:
    """Send 300 to 3400 Hz at 8 kHz through GSM 06.10 full rate, 13 kbit/s."""
    narrow = band_limited(samples, *TELEPHONE_BAND_HZ, scene.rate_hz)
    return _through(narrow, scene.rate_hz, TELEPHONE_HZ, "WAV", "GSM610")


def codec(container: str, coding: str, **options: str) -> Apply:
    """Return a libsndfile codec with the settings ``compression`` and ``rate``."""

    def apply(samples: np.ndarray, settings: Settings, scene: Scene) -> np.ndarray:
        arguments = {**options, "compression_level": settings["compression"]}
        return _through(samples, scene.rate_hz, settings["rate"], container, coding, **arguments)

    return apply


def missing_codec(container: str, coding: str) -> str:
    """Return why a codec is not available; empty if the installed libsndfile has it."""
    formats = soundfile.available_formats()
    if container in formats and coding in soundfile.available_subtypes(container):
        return ""
    version = soundfile.__libsndfile_version__
    return f"libsndfile {version} here has no {coding}; install another soundfile"


def _through(
    samples: np.ndarray, rate_hz: int, codec_hz: int, container: str, coding: str, **options: Any
) -> np.ndarray:
    """Write and read the samples at a codec's rate.

    Raises:
        UtteranceError: the codec refuses these samples.
    """
    n_coded = max(1, round(len(samples) * codec_hz / rate_hz))
    narrow = np.clip(resampled(samples, rate_hz, codec_hz, n_coded), -1, 1)
    content = io.BytesIO()
    try:
        soundfile.write(content, narrow, codec_hz, format=container, subtype=coding, **options)
        content.seek(0)
        decoded = soundfile.read(content, dtype="float64")[0]
    except soundfile.SoundFileError as error:
        raise UtteranceError(
            f"{coding} at {codec_hz} Hz refuses its {n_coded} samples: {error}"
        ) from error
    first = MP3_DELAY if container == "MP3" and len(decoded) > n_coded else 0
    return resampled(decoded[first : first + n_coded], codec_hz, rate_hz, len(samples))


def resample(samples: np.ndarray, settings: Settings, scene: Scene) -> np.ndarray:
    """Resample to a lower rate and back."""
    low_hz, rate_hz, n_samples = settings["hz"], scene.rate_hz, len(samples)
    n_low = max(1, round(n_samples * low_hz / rate_hz))
    return resampled(resampled(samples, rate_hz, low_hz, n_low), low_hz, rate_hz, n_samples)


def clip_below(samples: np.ndarray, settings: Settings, scene: Scene) -> np.ndarray:
    """Clip the samples at a level in dB below the utterance's peak."""
    peak = np.abs(samples).max() * 10 ** (-settings["below"] / 20)
    return np.clip(samples, -peak, peak)


def lose_packets(samples: np.ndarray, settings: Settings, scene: Scene) -> np.ndarray:
    """Replace some packets by zeros; bursts follow E. N. Gilbert's chain (1960)."""
    share = settings["share"] / 100
    n_packet = max(1, round(settings["packet"] / 1000 * scene.rate_hz))
    # Probabilities that a burst ends after a packet and that a new one begins.
    ends = 1 / settings["burst"] if settings["burst"] else 1 - share
    begins = share * ends / (1 - share) if share < 1 else 1.0
    lost: list[bool] = []
    chance = share
    for draw in scene.generator.random(-(-len(samples) // n_packet)):
        lost.append(bool(draw < chance))
        chance = 1 - ends if lost[-1] else begins
    return np.where(np.repeat(lost, n_packet)[: len(samples)], 0.0, samples)
