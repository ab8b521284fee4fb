"""Every effect by name: its settings, the function that applies it, whether it is random, and how
it changes the length.

If a change of the code changes an effect's samples, the effect gets a new version, which is part of
every recipe with the effect.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from probe.data.conditions import channels, filters, noise, time_effects
from probe.data.conditions.noise_sources import Apply, Scene, Settings

MP3_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
DIGITS = 10  # significant digits of a number
OPUS_RATES_HZ = (8000, 12000, 16000, 24000, 48000)


@dataclass(frozen=True)
class Number:
    """A numeric setting; it is required if it has no default."""

    unit: str
    lowest: float
    highest: float
    default: float | None = None
    whole: bool = False

    def show(self, value: float) -> str:
        """The value in the canonical text."""
        return f"{value:.{DIGITS}g}{self.unit if self.unit == 'dB' else ''}"


@dataclass(frozen=True)
class Word:
    """A setting with a choice of words."""

    choices: tuple[str, ...]
    default: str

    def show(self, value: str) -> str:
        """The value in the canonical text."""
        return value


@dataclass(frozen=True)
class File:
    """A setting that is a sound file or a manifest: the text holds its name, the recipe its
    SHA-256.
    """

    default: None = None

    def show(self, value: Path) -> str:
        """The value in the canonical text."""
        return value.name


@dataclass(frozen=True)
class Effect:
    """A change of samples that a step can apply.

    Attributes:
        draws: whether the effect draws random numbers.
        level: name of the setting after ``@``.
        needs: ``files``, ``corpus`` (for babble) or nothing.
        shortest_s: minimum duration of each file.
        library: library whose version affects the samples.
        stretch: returns the length after the effect relative to the length before, for given
            settings.
        check: returns why settings are refused, empty if they are valid.
    """

    parameters: Mapping[str, Number | Word | File]
    apply: Apply
    example: str
    draws: bool = False
    level: str = ""
    needs: str = ""
    shortest_s: float = 0.0
    library: str = ""
    version: int = 1
    stretch: Callable[[Settings], float] = field(default=lambda _: 1.0)
    check: Callable[[Settings], str] | None = None


def _codec(
    example: str,
    container: str,
    coding: str,
    rates_hz: tuple[int, ...] = (),
    highest: float = 1.0,
    version: int = 1,
    **options: str,
) -> Effect:
    """Return the effect of a libsndfile codec, with a compression from 0 (best quality)."""

    def check(settings: Settings) -> str:
        rate_hz = settings["rate"]
        if rates_hz and rate_hz not in rates_hz:
            return f"{container} {coding} has no {rate_hz} Hz; expected one of {rates_hz}"
        return channels.missing_codec(container, coding)

    compression = Number("", 0, highest, 0.5)
    rate = Number("Hz", 8000, 48_000, 16_000, whole=True)
    return Effect(
        {"compression": compression, "rate": rate},
        channels.codec(container, coding, **options),
        example,
        library="libsndfile",
        version=version,
        check=check,
    )


def _band(low: str | float, high: str | float) -> Apply:
    """Return a band filter between two frequencies, each the name of a setting, 0 or infinity."""

    def apply(samples: np.ndarray, settings: Settings, scene: Scene) -> np.ndarray:
        low_hz, high_hz = (
            settings[edge] if isinstance(edge, str) else edge for edge in (low, high)
        )
        return channels.band_limited(samples, low_hz, min(high_hz, scene.rate_hz), scene.rate_hz)

    return apply


def _noise(
    apply: Apply,
    example: str,
    parameters: Mapping[str, Number | Word | File] | None = None,
    needs: str = "",
) -> Effect:
    """Return the effect that adds noise at a signal-to-noise ratio."""
    level, snr = Word(("rms", "active"), "rms"), Number("dB", -50, 100)
    parameters = {**(parameters or {}), "level": level, "snr": snr}
    shortest_s = 0.1 if needs == "files" else 0.0
    return Effect(parameters, apply, example, True, "snr", needs, shortest_s)


FACTOR, FREQUENCY = Number("", 0.25, 4), Number("Hz", 50, 24_000)


def _slower(settings: Settings) -> float:
    return 1 / settings["factor"]


def _burst_too_short(settings: Settings) -> str:
    share, burst = settings["share"] / 100, settings["burst"]
    if burst == 0 or (burst >= 1 and share <= burst / (1 + burst)):
        return ""
    return (
        "burst is the mean number of packets lost in a row; "
        "expected at least 1 and share / (100 - share)"
    )


def _band_too_narrow(settings: Settings) -> str:
    if settings["high"] - settings["low"] >= channels.NARROWEST_HZ:
        return ""
    return f"low is not below high by {channels.NARROWEST_HZ:g} Hz"


# The part of a name after a colon is a kind, or the setting that distinguishes effects with one
# name.
EFFECTS: dict[str, Effect] = {
    "noise:white": _noise(noise.add_white, "noise:white@10dB"),
    "noise:pink": _noise(noise.add_pink, "noise:pink@10dB"),
    "noise:babble": _noise(
        noise.add_babble,
        "noise:babble,talkers=6@10dB",
        {"talkers": Number("", 1, 20, 6, whole=True)},
        needs="corpus",
    ),
    "noise:files": _noise(
        noise.add_files, "noise:files=noise.csv@10dB", {"files": File()}, needs="files"
    ),
    "reverb:rt60": Effect(
        {"rt60": Number("s", 0.05, 10), "drr": Number("dB", -40, 40, 0)},
        filters.reverberate_simulated,
        "reverb:rt60=0.6",
        True,
        version=2,
    ),
    "reverb:files": Effect(
        {"files": File()},
        filters.reverberate_measured,
        "reverb:files=rooms.csv",
        True,
        needs="files",
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
        "mp3:0.75", "MP3", "MPEG_LAYER_III", MP3_RATES_HZ, 0.99, 2, bitrate_mode="CONSTANT"
    ),
    "opus": _codec("opus:0.9", "OGG", "OPUS", OPUS_RATES_HZ),
    "vorbis": _codec("vorbis:0.9", "OGG", "VORBIS"),
    "lowpass": Effect({"hz": FREQUENCY}, _band(0, "hz"), "lowpass:4000", version=2),
    "highpass": Effect({"hz": FREQUENCY}, _band("hz", np.inf), "highpass:500", version=2),
    "bandpass": Effect(
        {"low": FREQUENCY, "high": FREQUENCY},
        _band("low", "high"),
        "bandpass:low=300,high=3400",
        version=2,
        check=_band_too_narrow,
    ),
    "resample": Effect({"hz": Number("Hz", 1000, 48_000)}, channels.resample, "resample:8000"),
    "gain": Effect(
        {"db": Number("dB", -100, 100)},
        lambda samples, settings, _: samples * 10 ** (settings["db"] / 20),
        "gain:-20dB",
    ),
    "gain:factor": Effect(
        {"factor": Number("", 1e-5, 1e5)},
        lambda samples, settings, _: samples * settings["factor"],
        "gain:factor=10",
    ),
    "clip": Effect({}, lambda samples, *_: np.clip(samples, -1, 1), "clip"),
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
