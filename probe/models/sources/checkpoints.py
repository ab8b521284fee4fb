"""Load checkpoints of the families in `probe.models.sources.known.FAMILIES` through transformers.

The module refuses checkpoints that would silently give wrong features: weights that are missing,
have another shape, are not finite, or belong to the encoder but have no place in it. Architecture
and weights decide whether a checkpoint has a CTC head; tokenizer files do not (the repository of
wav2vec2-base has those, but no head).
"""

import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# Without this setting, a thread asks the hub to convert .bin files.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")

import torch
import transformers
from torch import Tensor

from probe.errors import ProbeError, listed
from probe.model_names import own_name
from probe.models.encoder import CONV, ModelInfo
from probe.models.families import (
    ENCODERS,
    LOG_MEL,
    conv_width,
    grids_of,
    has_own_final,
    mel_extractor,
)
from probe.models.reference import EPSILON, TransformersEncoder
from probe.models.sources import adapters, preprocessor
from probe.models.sources.configurations import Location, config_of
from probe.models.sources.fitting import encoder_weights, refuse_non_finite, refuse_other_weights
from probe.models.sources.keys import (
    left_out_notes,
    refuse_quantised,
    refuse_quantised_names,
    refuse_unmerged,
    unwrapped,
)
from probe.models.sources.preprocessor import first_line
from probe.models.sources.vocabulary import written_by
from probe.models.sources.weights import REVISION_DIGITS, Weights, find_weights, sha256_of_tensors

WHISPER = transformers.models.whisper.modeling_whisper.WhisperEncoder
# Prefixes of the encoder's weights in a complete Whisper.
WHISPER_PREFIXES = ("model.encoder.", "encoder.", "")


@dataclass(frozen=True, kw_only=True)
class About:
    """Information on a checkpoint besides its configuration and weights.

    Attributes:
        writes: see `ModelInfo.ctc`; empty if there is no head or it is not run.
        left_out: the file's names of weights that are not used.
        notes: see `ModelInfo.notes`.
        normalize: whether waveforms are normalised; None if the checkpoint's folder says it.
    """

    writes: tuple[str, ...] = ()
    left_out: Sequence[str] = ()
    notes: Sequence[str] = ()
    normalize: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Converted(About):
    """A checkpoint of another format in transformers' terms.

    Attributes:
        config: transformers' configuration.
        tensors: all weights of the encoder, named as in transformers' class without a head; with
            ``writes`` also ``lm_head.weight`` and ``lm_head.bias``.
    """

    config: Any
    tensors: Mapping[str, Tensor]


def made_of(config: Any) -> Any:
    """Return a float32 encoder for a configuration, with weights drawn from torch's generator."""
    is_whisper = config.model_type == "whisper"
    make = WHISPER._from_config if is_whisper else transformers.AutoModel.from_config
    return make(config, dtype=torch.float32)


def pretrained_encoder(
    location: Location, device: str, sha256: str | None = None
) -> TransformersEncoder:
    """Return the encoder of a checkpoint, and the head of a CTC checkpoint.

    Args:
        sha256: expected SHA-256 of the weights.

    Raises:
        ProbeError: the weights are missing, damaged, unreadable or not finite, or do not fit the
            configuration.
    """
    adapters.refuse_peft(location.folder)
    config = config_of(location)
    refuse_quantised(location.id, config)
    notes = list[str]()
    language = adapters.language_of(location.folder, config)
    adapter = adapters.adapter_of(location.folder, config, language, notes)
    weights = find_weights(location.folder, sha256, [adapter] if adapter else [])
    notes += weights.notes()
    headless = _why_headless(config)
    model, loading = _load(config, weights, not headless, notes)
    unusable = refuse_other_weights(weights.file, config, loading)
    unusable += refuse_non_finite(weights.file, model)
    unexpected = sorted(loading["unexpected_keys"])
    notes += left_out_notes(unexpected)
    if getattr(config, "auto_map", None):
        notes.append(
            "code comes with the checkpoint (auto_map); it was not run, transformers' own class "
            "was taken"
        )
    if unusable:
        headless = f"{listed(unusable)} missing, NaN or infinite"
    if headless and (unusable or any(name.startswith(adapters.HEAD) for name in unexpected)):
        notes.append(f"its CTC head is not run: {headless}")
    writes: tuple[str, ...] = ()
    if not headless:
        writes = written_by(location.folder, model.lm_head.out_features, language, notes)
    about = About(writes=writes, left_out=unexpected, notes=notes)
    encoder = _encoder(location, model, device, weights, about)
    encoder.again = functools.partial(pretrained_encoder, location, device, sha256)
    return encoder


def _why_headless(config: Any) -> str:
    """Return why a checkpoint's CTC head cannot be run, empty if it can. An adapter after the
    encoder's last layer is one reason: it is not among the layers.
    """
    classes = getattr(config, "architectures", None)
    architecture = str(classes[0]) if isinstance(classes, list) and classes else ""
    has_adapter = _drop_adapter(config)
    if not architecture.endswith("ForCTC"):
        return f"config.json names the class {architecture or 'of no model'}, which has none"
    return "it reads the output of an adapter" if has_adapter else ""


def _drop_adapter(config: Any) -> bool:
    options = ("add_adapter", "use_intermediate_ffn_before_adapter")
    chosen = [name for name in options if getattr(config, name, False)]
    for name in chosen:
        setattr(config, name, False)
    return bool(chosen)


def _load(
    config: Any, weights: Weights, has_head: bool, notes: list[str]
) -> tuple[Any, dict[str, Any]]:
    """Return the model with its weights, and transformers' report on the loading.

    Only the hashed files are read; transformers would also read other files in the folder.
    """
    tensors = weights.tensors()
    refuse_unmerged(weights.file, tensors)
    refuse_quantised_names(weights.file, tensors)
    make = transformers.AutoModelForCTC.from_config if has_head else made_of
    try:
        # These weights are replaced afterwards, so they are made on a device without memory.
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            skeleton = make(config)
        expected, prefix = encoder_weights(skeleton), f"{skeleton.base_model_prefix}."
        usual = WHISPER_PREFIXES if config.model_type == "whisper" else (prefix, "")
        names, note = unwrapped(weights.file, tensors, expected, usual)
        notes += [note] if note else []
        tensors = {_in_class(names[name], config): weight for name, weight in tensors.items()}
        for adapter in weights.overrides:
            tensors = adapters.with_adapter(tensors, adapter, expected, prefix, has_head)
            if has_head:
                config.vocab_size = len(tensors[f"{adapters.HEAD}weight"])
        # transformers draws weights that the file lacks, even if none of them is used.
        with torch.random.fork_rng(devices=[]), _quiet_transformers():
            return type(skeleton).from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # this module refuses them by name
            )
    except ProbeError:
        raise
    except Exception as error:  # impossible sizes and transformers raise many kinds
        raise ProbeError(
            f"{weights.file}: the weights cannot be loaded into the model that config.json "
            f"describes ({first_line(error)}). Fetch both files again, or correct config.json."
        ) from error


def _in_class(name: str, config: Any) -> str:
    """Return the name that a weight of a complete model has in the class that this module makes."""
    if config.model_type != "whisper":
        return name
    return name.removeprefix(next(prefix for prefix in WHISPER_PREFIXES if name.startswith(prefix)))


def converted_encoder(
    location: Location, weights: Weights, converted: Converted, device: str
) -> TransformersEncoder:
    """Return the encoder with the weights of a file in another format.

    Args:
        location: where the checkpoint lies; its folder is not read.
        weights: the file of the weights.

    Raises:
        ProbeError: weights of the encoder are missing, additional, of another shape than in the
            configuration, or not finite.
    """
    config, tensors, writes = converted.config, converted.tensors, converted.writes
    config.vocab_size = len(writes) or config.vocab_size
    model_class = transformers.AutoModelForCTC if writes else transformers.AutoModel
    with _refusing_sizes(location), torch.device("meta"):  # wrong sizes take no memory there
        skeleton = encoder_weights(model_class.from_config(config))
    shapes = {name: weight.shape for name, weight in skeleton.items()}
    common = shapes.keys() & tensors.keys()
    loading = {
        "missing_keys": shapes.keys() - tensors.keys(),
        "mismatched_keys": [name for name in common if tensors[name].shape != shapes[name]],
        "unexpected_keys": tensors.keys() - shapes.keys(),
    }
    unusable = refuse_other_weights(weights.file, config, loading, inside=re.compile(""))
    with torch.random.fork_rng(devices=[]):
        model = model_class.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in encoder_weights(model).items():
            is_read = name in tensors and name not in unusable
            weight.copy_(tensors[name]) if is_read else weight.zero_()
    unusable += refuse_non_finite(weights.file, model)
    notes = [*converted.notes]
    if unusable:
        notes.append(f"its CTC head is not run: {listed(unusable)} missing, NaN or infinite")
    left_out = sorted(converted.left_out)
    notes += left_out_notes(left_out)
    writes = () if unusable else writes
    about = replace(converted, writes=writes, left_out=left_out, notes=notes)
    return _encoder(location, model, device, weights, about)


def random_encoder(
    location: Location, config: Any, device: str, normalize: bool | None = None
) -> TransformersEncoder:
    """Return an encoder of this architecture with random weights, without changing the global
    random state.

    Args:
        location: where the architecture comes from. Its commit is ``seed <number>``; its folder
            holds the preprocessor unless ``normalize`` is given.
    """
    _drop_adapter(config)
    with _refusing_sizes(location), torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the GPUs too.
        torch.default_generator.manual_seed(int(location.commit.split()[1]))
        model = made_of(config)
    weights = Weights(Path(), sha256_of_tensors(model.state_dict()))
    encoder = _encoder(location, model, device, weights, About(normalize=normalize))
    encoder.again = functools.partial(random_encoder, location, config, device, normalize)
    return encoder


@contextmanager
def _refusing_sizes(location: Location) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # impossible sizes raise many kinds
        raise ProbeError(
            f"{location.id}: no model can be made from its configuration ({first_line(error)})."
        ) from error


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bar and report on keys, which repeat our messages."""
    log = transformers.utils.logging
    had_bar, verbosity = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar()
    log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if had_bar:
            log.enable_progress_bar()


def _encoder(
    location: Location, model: Any, device: str, weights: Weights, about: About
) -> TransformersEncoder:
    """Return the encoder of a model with or without a head."""
    notes, writes = list(about.notes), about.writes
    encoder, config = model.base_model, model.config
    folder = location.folder if about.normalize is None else None
    rate_hz, normalize = preprocessor.RATE_HZ, bool(about.normalize)
    mel_settings: dict[str, Any] = {}
    if folder is not None:
        rate_hz, normalize, mel_settings = preprocessor.input_of(folder, config, notes)
    model.eval().to(device)
    n_blocks, width = config.num_hidden_layers, config.hidden_size
    layers = dict.fromkeys(map(str, range(n_blocks + 1)), width)
    layers |= {"final": width} if has_own_final(config) else {}
    settings = {"attention": config._attn_implementation}
    if config.model_type in LOG_MEL:
        extractor = mel_extractor(config, mel_settings, rate_hz, location.id)
        settings["energies"] = preprocessor.energies_settings(extractor)
    if about.normalize and (epsilon := getattr(config, EPSILON, 0)):
        settings[EPSILON] = epsilon
    if config.model_type not in LOG_MEL:
        extractor = preprocessor.waveform_extractor(folder, rate_hz, normalize, settings)
    grid, other_grids = grids_of(config)
    against = f", its sha256 compared with {weights.against}" if weights.against else ""
    files = " and ".join(path.name for path in (weights.file, *weights.overrides))
    of_conv = conv_width(config)
    info = ModelInfo(
        id=own_name(location.id),
        revision=location.commit or weights.sha256[:REVISION_DIGITS],
        weights_sha256=weights.sha256,
        family=config.model_type,
        layers=layers,
        on_request={CONV: of_conv} if of_conv else {},
        aliases={} if "final" in layers else {"final": str(n_blocks)},
        rate_hz=rate_hz,
        normalize=normalize,
        grid=grid,
        other_grids=other_grids,
        parameters=sum(weight.numel() for weight in encoder.parameters()),
        settings=settings,
        ctc={"writes": writes, "alphabet": "".join(sorted(set("".join(writes))))} if writes else {},
        weights=f"{files}{against}" if weights.file.name else "drawn at random",
        left_out=tuple(about.left_out),
        notes=tuple(notes),
    )
    encoder_class = ENCODERS.get(config.model_type, TransformersEncoder)
    return encoder_class(encoder, info, extractor, model.lm_head if writes else None)
