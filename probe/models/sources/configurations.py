"""Locations of checkpoints, and their configurations."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from probe.errors import ProbeError
from probe.foreign_files import refuse_foreign
from probe.models.families import LOG_MEL
from probe.models.sources import adapters, hub, preprocessor
from probe.models.sources.keys import refuse_quantised
from probe.models.sources.known import FAMILIES, Known
from probe.models.sources.preprocessor import first_line
from probe.models.sources.vocabulary import TOKENIZER_FILES
from probe.models.sources.weights import WEIGHT_FILES


@dataclass(frozen=True)
class Location:
    """The location of a checkpoint.

    Attributes:
        id: the model's spec without its revision.
        folder: folder of the files.
        commit: resolved commit, or its substitute; empty if the hash of the weights replaces it.
    """

    id: str
    folder: Path
    commit: str = ""


def config_of_known(row: Known) -> Any:
    """Return the transformers configuration of a row of the catalogue."""
    return transformers.AutoConfig.for_model(row.family, **row.config())


def config_of(location: Location) -> Any:
    """Return the configuration in a checkpoint's folder.

    Raises:
        ProbeError: the configuration is missing or unreadable, or describes a model that this
            project cannot open.
    """
    file = location.folder / "config.json"
    if not file.is_file():
        adapters.refuse_peft(location.folder)
        raise ProbeError(
            f"{location.folder}: no config.json; expected a checkpoint folder as save_pretrained "
            "writes it."
        )
    try:
        config = transformers.AutoConfig.from_pretrained(location.folder, trust_remote_code=False)
    except Exception as error:  # it may hold anything, and each fault of it raises its own kind
        refuse_foreign(file, error)
        code = " Remote code is never run." if "trust_remote_code" in str(error) else ""
        raise ProbeError(
            f"{location.id}: its config.json cannot be used ({first_line(error)}).{code}"
        ) from error
    if config.model_type not in FAMILIES:
        raise ProbeError(
            f"{location.id}: {_what_it_reads(config.model_type)}. Supported: {', '.join(FAMILIES)}."
        )
    if str(getattr(config, "_attn_implementation", "")).startswith("flash"):
        config._attn_implementation = "sdpa"  # the same attention without a further library
    fault = ""
    if config.num_hidden_layers < 1:
        fault = f"num_hidden_layers {config.num_hidden_layers}; expected 1 or more"
    elif config.model_type not in LOG_MEL and min([*config.conv_kernel, *config.conv_stride]) < 1:
        sizes = f"conv_kernel {config.conv_kernel}, conv_stride {config.conv_stride}"
        fault = f"{sizes}; expected 1 or more each"
    if fault:
        raise ProbeError(f"{location.id}: its config.json has {fault}.")
    return config


def _what_it_reads(model_type: str) -> str:
    """Describe a model of a type that cannot be opened."""
    from transformers.models.auto import modeling_auto

    def is_for(*tasks: str) -> bool:
        names = [f"MODEL_FOR_{task}_MAPPING_NAMES" for task in tasks]
        return any(model_type in getattr(modeling_auto, name) for name in names)

    if is_for("CTC", "AUDIO_CLASSIFICATION", "SPEECH_SEQ_2_SEQ", "AUDIO_XVECTOR"):
        return f"a speech model of type {model_type!r}, which this version cannot open"
    if is_for("MASKED_LM", "CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "SEQUENCE_CLASSIFICATION"):
        return f"reads text, not speech (model type {model_type!r})"
    if is_for("IMAGE_CLASSIFICATION", "IMAGE"):
        return f"reads images, not speech (model type {model_type!r})"
    return f"no speech encoder that this version knows (model type {model_type!r})"


def from_hub(identifier: str, revision: str | None, weights: bool) -> Location:
    """Fetch a checkpoint's configuration (and weights) into the hub's cache, or find them there.

    Raises:
        ProbeError: see `probe.models.sources.hub.Repository.fetch`; or the configuration cannot be
            used.
    """
    repository = hub.Repository(identifier, revision)
    others = (*preprocessor.PREPROCESSOR_FILES, *TOKENIZER_FILES, adapters.PEFT_FILE)
    folder = repository.fetch(["config.json", *others])
    if weights:
        # Read the configuration first, before fetching gigabytes of a model that cannot be opened.
        config = config_of(Location(identifier, folder, folder.name))
        refuse_quantised(repository.name, config)
        single, index, *pickled = WEIGHT_FILES
        folder = repository.fetch([single, index, "model-*.safetensors"])
        if not any((folder / file).exists() for file in (single, index)):
            folder = repository.fetch([*pickled, "pytorch_model-*.bin"])
        if language := adapters.language_of(folder, config):
            folder = repository.fetch(adapters.adapter_files(language))
    return Location(identifier, folder, folder.name)
