"""The level of samples, over the whole utterance or during speech.

numpy computes the sums, and not a product of vectors, because sums in BLAS depend on its number of
threads.
"""

import numpy as np

from probe.data.sound_flags import SILENT_PEAK

# ITU-T P.56, method B: time constant of the envelope and hangover in seconds, margin between level
# and threshold in dB.
ENVELOPE_S, HANGOVER_S, MARGIN_DB = 0.03, 0.2, 15.9
# Thresholds are powers of two from full scale, or from a louder envelope, down to this value; the
# standard has 15, for 16-bit samples.
LOWEST_THRESHOLD = -23


def rms(samples: np.ndarray) -> float:
    """Return the root mean square of (time,) samples; 1 is a square wave at full scale, and no
    samples give 0.
    """
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0


def decibels(ratio: float) -> float:
    """Return a ratio of amplitudes in dB; minus infinity for 0."""
    return float(20 * np.log10(ratio)) if ratio > 0 else -np.inf


def is_silent(samples: np.ndarray) -> bool:
    """Return whether all samples are below half a step of 16 bits."""
    return len(samples) == 0 or bool(np.abs(samples).max() < SILENT_PEAK)


def active_rms(samples: np.ndarray, rate_hz: int) -> float:
    """Return the root mean square of the parts with speech: the active level of ITU-T P.56, method
    B; 0 for silence.

    The envelope is the absolute value, smoothed twice. Samples are active while the envelope is
    above a threshold and for the next 200 ms. The result is the level whose threshold, 15.9 dB
    below it, yields exactly this level.
    """
    from scipy.signal import lfilter  # its import takes a second

    if is_silent(samples):
        return 0.0
    decay = np.exp(-1 / (ENVELOPE_S * rate_hz))
    envelope = np.abs(np.asarray(samples, np.float64))
    for _ in range(2):
        envelope = lfilter([1 - decay], [1, -decay], envelope)
    power = np.sum(np.square(samples, dtype=np.float64))
    time, hangover = np.arange(len(samples)), round(HANGOVER_S * rate_hz)
    last_db = last_margin = None
    highest = max(0, int(np.ceil(np.log2(envelope.max()))))
    for threshold in 2.0 ** np.arange(
        highest, LOWEST_THRESHOLD - 1, -1
    ):  # the level falls and the margin grows
        last_loud = np.maximum.accumulate(np.where(envelope >= threshold, time, -hangover - 1))
        n_active = np.count_nonzero(time - last_loud <= hangover)
        if not n_active:
            continue
        level_db = 10 * np.log10(power / n_active)
        margin = level_db - 20 * np.log10(threshold)
        if margin >= MARGIN_DB:
            if last_db is None or last_margin is None:
                return float(10 ** (level_db / 20))
            share = (MARGIN_DB - last_margin) / (margin - last_margin)
            return float(10 ** ((last_db + share * (level_db - last_db)) / 20))
        last_db, last_margin = level_db, margin
    return rms(samples)
