"""Checks of what a model declares of itself: weights, configuration, input.

Each takes the encoder, the same checkpoint opened afresh (None: there is none), and whether it is
the quick form.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from probe.errors import listed
from probe.model_names import RANDOM
from probe.models.certificate import FAIL, NOTE, PASS, SKIPPED, Finding
from probe.models.encoder import ASSUMED, PLUGIN, Encoder
from probe.models.sources.known import UNUSED, Known, known_models

# What an encoder declares of itself that a checkpoint opened afresh must declare too.
DECLARED = (
    *("weights_sha256", "family", "layers", "on_request", "aliases", "rate_hz", "normalize"),
    *("grid", "other_grids", "parameters", "settings", "ctc"),
)
ABSURD_WEIGHT = 1e6
# Buffers of BatchNorm that decide values as weights do.
VARIANCE = "running_var"
STATISTICS = ("running_mean", VARIANCE)


def config_of(encoder: Encoder) -> Any:
    """The transformers configuration of the model; None where it has none."""
    return getattr(getattr(encoder, "model", None), "config", None)


def row_of(encoder: Encoder) -> Known | None:
    """The catalogue's row of a model's name."""
    return known_models().get(encoder.info.id.removeprefix(RANDOM))


def _by_shape(encoder: Encoder) -> Known | None:
    """The first row of the same family and configuration."""
    for row in known_models().values():
        if row.family == encoder.info.family and not _differences(row, config_of(encoder)):
            return row
    return None


def _differences(row: Known, config: Any) -> dict[str, Any]:
    """The entries of a row's configuration that have another value in ``config``."""
    entries = row.config().items()
    return {name: value for name, value in entries if getattr(config, name, None) != value}


def check_reopened(encoder: Encoder, twin: Any, _: bool) -> Iterator[Finding]:
    """What the encoder declares, and every weight in memory, against the checkpoint reopened."""
    if twin is None:
        text = "not compared with the checkpoint opened afresh"
        yield Finding("reopened", SKIPPED, text, "the whole form compares it where it can")
        return
    differences = [
        name for name in DECLARED if getattr(encoder.info, name) != getattr(twin.info, name)
    ]
    weights = encoder.model.state_dict()  # type: ignore[attr-defined]
    others = twin.model.state_dict()
    differences += sorted(weights.keys() ^ others.keys())
    common = [key for key in weights if key in others]
    differences += [key for key in common if not _same(weights[key], others[key])]
    text = f"{len(weights)} arrays of weights and every declared property are equal"
    if differences:
        text = f"differs in {listed(differences, 3)}"
    yield Finding.of("reopened", not differences, text, "equal to the checkpoint opened afresh")


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two arrays of weights are equal; a NaN is equal to a NaN."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())


def check_weights(encoder: Encoder, _twin: Any, _: bool) -> Iterator[Finding]:
    """Whether the weights are finite and those that were expected."""
    info = encoder.info
    if not info.weights_sha256:
        yield Finding("weights", SKIPPED, "none")
        return
    yield Finding("weights", PASS, f"{info.weights}, sha256 {info.weights_sha256[:12]}...")
    if info.family == PLUGIN:
        yield Finding("keys", SKIPPED, "a plug-in loads its weights by itself")
    else:
        left_out = f"{len(info.left_out) or 'none'} left out"
        left_out += f": {listed(list(info.left_out), 3)}" if info.left_out else ""
        expected = "none of the encoder missing, none of it left out"
        yield Finding("keys", PASS, f"none missing, {left_out}", expected)
    module = getattr(encoder, "model", None)
    if module is None:
        return
    largest, name, faults = 0.0, "", []
    for key, weight in _weights_of(module):
        if not torch.isfinite(weight).all():
            faults.append(key)
        elif weight.numel() and (size := _magnitude(key, weight)) > largest:
            largest, name = size, key
    text = (
        f"NaN or infinite: {listed(faults, 3)}" if faults else f"largest {largest:.3g}, in {name}"
    )
    expected = f"finite, below {ABSURD_WEIGHT:g} (a flipped bit is not)"
    is_sound = not faults and largest < ABSURD_WEIGHT
    yield Finding.of("values of weights", is_sound, text, expected)


def _weights_of(module: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield everything in a module that multiplies or shifts a frame: parameters, and statistics of
    BatchNorm.

    Other buffers are no weights: counters (``num_batches_tracked``) may be of any size and masks of
    attention hold -inf. A vector that is used in training alone may hold anything.
    """
    for key, parameter in module.named_parameters():
        if key.rpartition(".")[2] not in UNUSED:
            yield key, parameter
    for key, buffer in module.named_buffers():
        if key.rpartition(".")[2] in STATISTICS:
            yield key, buffer


def _magnitude(key: str, weight: Tensor) -> float:
    """The largest absolute value of a weight; of variances the largest deviation, as BatchNorm
    divides by that.
    """
    largest = float(weight.detach().abs().max())
    return largest**0.5 if key.endswith(VARIANCE) else largest


def check_parameters(encoder: Encoder, _twin: Any, _: bool) -> Iterator[Finding]:
    """The number of parameters against the catalogue's; only a certain row of this very name makes
    a difference a failure.
    """
    n_parameters, namesake = encoder.info.parameters, row_of(encoder)
    row = namesake or _by_shape(encoder)
    if not n_parameters:
        yield Finding("parameters", SKIPPED, "none")
    elif row is None:
        expected = "the catalogue has no model of this shape"
        yield Finding("parameters", SKIPPED, f"{n_parameters:,}", expected)
    else:
        expected = f"{row.parameters:,} as {row.model} ({row.certain})"
        otherwise = FAIL if namesake and namesake.certain == "yes" else NOTE
        result = PASS if n_parameters == row.parameters else otherwise
        yield Finding("parameters", result, f"{n_parameters:,}", expected)


def check_configuration(encoder: Encoder, _twin: Any, _: bool) -> Iterator[Finding]:
    """The configuration against the catalogue's: weights fit another number of heads, or another
    place of the LayerNorms, as well.
    """
    row, config = row_of(encoder), config_of(encoder)
    if row is None or config is None:
        yield Finding("configuration", SKIPPED, "not in the catalogue by this name")
        return
    differences = _differences(row, config)
    text = ", ".join(f"{name} {getattr(config, name, None)}" for name in differences)
    text = text or f"{len(row.config())} sizes and kinds"
    expected = ", ".join(f"{name} {value}" for name, value in differences.items()) or "the same"
    expected = f"{expected} in the catalogue ({row.certain})"
    yield Finding("configuration", NOTE if differences else PASS, text, expected)


def check_input(encoder: Encoder, _twin: Any, _: bool) -> Iterator[Finding]:
    """Rate and normalisation as declared against the preprocessor's, which decides, and the
    catalogue's.
    """
    info, row, extractor = encoder.info, row_of(encoder), getattr(encoder, "extractor", None)
    text = _input_text(info.rate_hz, info.normalize)
    if extractor is None:
        yield Finding("input", SKIPPED, text, "no preprocessor to compare with")
        return
    normalizes = "input_values" in extractor.model_input_names and bool(extractor.do_normalize)
    rate_hz = extractor.sampling_rate
    result, expected = PASS, f"its preprocessor: {_input_text(rate_hz, normalizes)}"
    if (rate_hz, normalizes) != (info.rate_hz, info.normalize):
        result = FAIL
    elif ASSUMED in " ".join(info.notes):
        result, expected = NOTE, "a preprocessor_config.json that says so"
    elif info.rate_hz != 16_000:
        result, expected = NOTE, "16000 Hz"
    elif row and normalizes != row.normalize:
        result = NOTE
        expected += f"; the catalogue ({row.certain}): {_input_text(16_000, row.normalize)}"
    yield Finding("input", result, text, expected)


def _input_text(rate_hz: int, normalize: bool) -> str:
    return f"{rate_hz} Hz, {'waveforms normalised' if normalize else 'waveforms as they are'}"
