"""Every effect by name: its settings, what does it, whether it draws, and what it does to the
length.

An effect whose samples change by a change of code gets a new version, which is part of every recipe
with it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from probe.data.conditions import channels, filters, noise, rooms, time_effects
from probe.data.conditions.noise_sources import Scene

MP3_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
DIGITS = 10  # of a number; others are rounded away
OPUS_RATES_HZ = (8000, 12000, 16000, 24000, 48000)


@dataclass(frozen=True)
class Number:
    """A setting that is a number; without a default it has to be given."""

    unit: str
    lowest: float
    highest: float
    default: float | None = None
    whole: bool = False

    def show(self, value: float) -> str:
        """As the canonical text has it."""
        return f"{value:.{DIGITS}g}{self.unit if self.unit == 'dB' else ''}"


@dataclass(frozen=True)
class Word:
    """A setting that is one of some words."""

    choices: tuple[str, ...]
    default: str

    def show(self, value: str) -> str:
        """As the canonical text has it."""
        return value


@dataclass(frozen=True)
class File:
    """A setting that is a sound file or a manifest; only its name is shown, its content is in the
    recipe.
    """

    default: None = None

    def show(self, value: Path) -> str:
        """As the canonical text has it."""
        return value.name


@dataclass(frozen=True)
class Effect:
    """What can be done to samples.

    Attributes:
        apply: ((time,) float64, settings, scene) -> (time,).
        draws: whether anything is random.
        level: the setting that stands after ``@``.
        needs: ``files``, ``corpus`` (for babble) or nothing.
        shortest_s: what each of the files must last.
        library: whose version decides samples.
        stretch: settings -> length after, length before being 1.
        check: settings -> why they will not do, empty where they will.
    """

    parameters: Mapping[str, Number | Word | File]
    apply: Callable[[np.ndarray, Mapping[str, Any], Scene], np.ndarray]
    example: str
    draws: bool = False
    level: str = ""
    needs: str = ""
    shortest_s: float = 0.0
    library: str = ""
    version: int = 1
    stretch: Callable[[Mapping[str, Any]], float] = field(default=lambda _: 1.0)
    check: Callable[[Mapping[str, Any]], str] | None = None


def _codec(
    apply: Callable[[np.ndarray, Mapping[str, Any], Scene], np.ndarray],
    example: str,
    container: str,
    coding: str,
    rates_hz: tuple[int, ...] = (),
    highest: float = 1.0,
    version: int = 1,
) -> Effect:
    """A codec of libsndfile with a compression from 0 (best) on."""

    def check(settings: Mapping[str, Any]) -> str:
        rate_hz = settings["rate"]
        wrong = (
            f"{container} {coding} has no {rate_hz} Hz; expected one of {rates_hz}"
            if rates_hz and rate_hz not in rates_hz
            else ""
        )
        return wrong or channels.missing_codec(container, coding)

    parameters = {
        "compression": Number("", 0, highest, 0.5),
        "rate": Number("Hz", 8000, 48_000, 16_000, whole=True),
    }
    return Effect(parameters, apply, example, library="libsndfile", version=version, check=check)


LEVEL = Word(("rms", "active"), "rms")
SNR = Number("dB", -50, 100)
FACTOR = Number("", 0.25, 4)


def _slower(settings: Mapping[str, Any]) -> float:
    return 1 / settings["factor"]


def _burst_too_short(settings: Mapping[str, Any]) -> str:
    share, burst = settings["share"] / 100, settings["burst"]
    possible = burst == 0 or (burst >= 1 and share <= burst / (1 + burst))
    return (
        ""
        if possible
        else "burst is the mean number of packets lost in a row; expected at least 1 and share / (100 - share)"
    )


def _band_too_narrow(settings: Mapping[str, Any]) -> str:
    width_hz = settings["high"] - settings["low"]
    return (
        ""
        if width_hz >= channels.NARROWEST_HZ
        else f"low is not below high by {channels.NARROWEST_HZ:g} Hz"
    )


# Where a name has a colon, what follows it is a kind, or the setting that tells this effect from
# its namesakes.
EFFECTS: dict[str, Effect] = {
    "noise:white": Effect(
        {"level": LEVEL, "snr": SNR}, noise.add_white, "noise:white@10dB", True, "snr"
    ),
    "noise:pink": Effect(
        {"level": LEVEL, "snr": SNR}, noise.add_pink, "noise:pink@10dB", True, "snr"
    ),
    "noise:babble": Effect(
        {"talkers": Number("", 1, 20, 6, whole=True), "level": LEVEL, "snr": SNR},
        noise.add_babble,
        "noise:babble,talkers=6@10dB",
        True,
        "snr",
        "corpus",
    ),
    "noise:files": Effect(
        {"files": File(), "level": LEVEL, "snr": SNR},
        noise.add_files,
        "noise:files=noise.csv@10dB",
        True,
        "snr",
        "files",
        shortest_s=0.1,
    ),
    "reverb:rt60": Effect(
        {"rt60": Number("s", 0.05, 10), "drr": Number("dB", -40, 40, 0)},
        rooms.reverberate_simulated,
        "reverb:rt60=0.6",
        True,
        version=2,
    ),
    "reverb:files": Effect(
        {"files": File()}, rooms.reverberate_measured, "reverb:files=rooms.csv", True, needs="files"
    ),
    "telephone": Effect({"law": Word(("mu", "a"), "mu")}, channels.telephone, "telephone"),
    "gsm": Effect(
        {},
        channels.gsm,
        "gsm",
        library="libsndfile",
        check=lambda _: channels.missing_codec("WAV", "GSM610"),
    ),
    "mp3": _codec(
        channels.mp3, "mp3:0.75", "MP3", "MPEG_LAYER_III", MP3_RATES_HZ, highest=0.99, version=2
    ),
    "opus": _codec(channels.opus, "opus:0.9", "OGG", "OPUS", OPUS_RATES_HZ),
    "vorbis": _codec(channels.vorbis, "vorbis:0.9", "OGG", "VORBIS"),
    "lowpass": Effect(
        {"hz": Number("Hz", 50, 24_000)}, channels.lowpass, "lowpass:4000", version=2
    ),
    "highpass": Effect(
        {"hz": Number("Hz", 50, 24_000)}, channels.highpass, "highpass:500", version=2
    ),
    "bandpass": Effect(
        {"low": Number("Hz", 50, 24_000), "high": Number("Hz", 50, 24_000)},
        channels.bandpass,
        "bandpass:low=300,high=3400",
        version=2,
        check=_band_too_narrow,
    ),
    "resample": Effect({"hz": Number("Hz", 1000, 48_000)}, channels.resample, "resample:8000"),
    "gain": Effect({"db": Number("dB", -100, 100)}, channels.gain, "gain:-20dB"),
    "gain:factor": Effect(
        {"factor": Number("", 1e-5, 1e5)}, channels.gain_factor, "gain:factor=10"
    ),
    "clip": Effect({}, channels.clip, "clip"),
    "clip:below": Effect({"below": Number("dB", 0, 100)}, channels.clip_below, "clip:below=6dB"),
    "loss": Effect(
        {
            "share": Number("%", 0, 100),
            "packet": Number("ms", 1, 1000, 20),
            "burst": Number("", 0, 1000, 0),
        },
        channels.lose_packets,
        "loss:10%,burst=2",
        True,
        check=_burst_too_short,
    ),
    "speed": Effect({"factor": FACTOR}, time_effects.speed, "speed:1.25", stretch=_slower),
    "tempo": Effect(
        {"factor": Number("", 0.25, time_effects.FASTEST)},
        time_effects.tempo,
        "tempo:1.25",
        stretch=_slower,
    ),
    "pitch": Effect({"semitones": Number("st", -12, 24)}, time_effects.pitch, "pitch:-3"),
    "echo": Effect(
        {"delay": Number("ms", 1, 5000), "decay": Number("", 0, 1, 0.5)},
        filters.echo,
        "echo:250,decay=0.5",
    ),
    "tremolo": Effect(
        {"depth": Number("%", 0, 100), "rate": Number("Hz", 0.1, 100, 20)},
        filters.tremolo,
        "tremolo:50,rate=20",
    ),
    "bass": Effect({"db": Number("dB", -60, 60)}, filters.bass, "bass:20dB"),
    "treble": Effect({"db": Number("dB", -60, 60)}, filters.treble, "treble:10dB"),
    "chorus": Effect({"delay": Number("ms", 5, 500)}, filters.chorus, "chorus:50"),
    "phaser": Effect({"decay": Number("", 0, 0.99)}, filters.phaser, "phaser:0.5"),
}
