"""The input of a checkpoint: sampling rate, normalisation, log-mel energies."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers

from probe.errors import ProbeError
from probe.foreign_files import refuse_foreign
from probe.models.encoder import ASSUMED
from probe.models.families import LOG_MEL
from probe.models.reference import EPSILON

PREPROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")  # second: transformers 5
RATE_HZ, NORMALIZE = 16_000, True  # defaults if no file says it


def preprocessor_of(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """Return the file in a checkpoint's folder that describes the input, and its content; empty if
    there is none.

    Raises:
        ProbeError: such a file cannot be read.
    """
    for file in (folder / name for name in PREPROCESSOR_FILES):
        if not file.is_file():
            continue
        try:
            settings = json.loads(file.read_text(encoding="utf-8"))
            settings = dict(settings.get("feature_extractor", settings))
        except (OSError, ValueError, AttributeError, TypeError) as error:
            refuse_foreign(file, error)
            raise ProbeError(
                f"{file}: cannot be read as a preprocessor's JSON ({first_line(error)}). Fetch the "
                "file again."
            ) from error
        if "sampling_rate" in settings or "do_normalize" in settings:
            return file, settings
    return None, {}


def input_of(folder: Path, config: Any, notes: list[str]) -> tuple[int, bool, dict[str, Any]]:
    """Return the sampling rate, whether waveforms are normalised, and all settings in the
    checkpoint's folder; add a note if it has none.

    Raises:
        ProbeError: such a file cannot be read, or has invalid values.
    """
    file, settings = preprocessor_of(folder)
    is_mel = config.model_type in LOG_MEL
    if file is None:
        what = "the log-mel energies that the family was trained with"
        what = what if is_mel else "normalised waveforms"
        notes.append(f"no preprocessor_config.json: {RATE_HZ} Hz and {what} {ASSUMED}")
    rate_hz = settings.get("sampling_rate", RATE_HZ)
    normalize = settings.get("do_normalize", NORMALIZE)
    if type(rate_hz) is not int or not 1000 <= rate_hz <= 768_000:
        raise ProbeError(
            f"{file}: sampling_rate {rate_hz!r}; expected Hz such as 16000. Fetch the file again."
        )
    if not isinstance(normalize, bool):
        raise ProbeError(
            f"{file}: do_normalize {normalize!r}; expected true or false. Fetch the file again."
        )
    return rate_hz, normalize and not is_mel, settings


def waveform_extractor(
    folder: Path | None, rate_hz: int, normalize: bool, settings: Mapping[str, Any]
) -> Any:
    """Return transformers' preprocessor of waveforms, read from the folder if it has one, otherwise
    made from the defaults.
    """
    if folder and (folder / PREPROCESSOR_FILES[0]).is_file():
        return transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder)
    extractor = transformers.Wav2Vec2FeatureExtractor(sampling_rate=rate_hz, do_normalize=normalize)
    if (epsilon := settings.get(EPSILON)) is not None:
        extractor.zero_mean_unit_var_norm = lambda waves, *_, **__: [
            (wave - wave.mean()) / (wave.var() + epsilon) ** 0.5 for wave in waves
        ]
    return extractor


def energies_settings(extractor: Any) -> dict[str, Any]:
    """Return the settings that decide a preprocessor's log-mel energies, by their names there."""
    names = ("feature_size", "hop_length", "n_fft", "chunk_length", "stride", "padding_value")
    return {name: getattr(extractor, name) for name in names if hasattr(extractor, name)}


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, with the second line if the first ends in a
    colon.
    """
    lines = str(error).splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in lines[: 1 + lines[0].endswith(":")])
