"""Read torchaudio's bundles (``torchaudio:WAV2VEC2_BASE``) of wav2vec 2.0, HuBERT and WavLM: the
same weights from a second source.

``torchaudio.pipelines`` defines the bundles. Their weights come from torchaudio's address through
torch hub's cache and are read as plain tensors. They get the names of transformers' class, so
layers (including ``0``, which torchaudio's own ``extract_features`` does not return), packed form
and checks are those of any other checkpoint. Waveforms are normalised as in the bundle: each
utterance separately, with 1e-5 added to the variance.
"""

import contextlib
import functools
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchaudio
import transformers
from torch import Tensor

from probe.errors import ProbeError
from probe.models.reference import EPSILON, TransformersEncoder
from probe.models.sources import hub
from probe.models.sources.checkpoints import Converted, converted_encoder
from probe.models.sources.configurations import Location
from probe.models.sources.keys import WEIGHT_NORM, convolutions, renamed
from probe.models.sources.known import TORCHAUDIO, close_names
from probe.models.sources.preprocessor import first_line
from probe.models.sources.weights import are_weights, hashed

ADDRESS = "https://download.pytorch.org/torchaudio/models/"
NORMALIZE_EPSILON = 1e-5  # epsilon of torch's layer_norm, which a bundle applies to the waveform
# Substitutions from torchaudio's to transformers' names, applied in order.
NAMES = (
    (r"^encoder\.feature_projection\.", "feature_projection."),
    (r"^encoder\.transformer\.", "encoder."),
    (r"\.attention\.attention\.", ".attention."),
    *WEIGHT_NORM,
    (r"^aux\.", "lm_head."),
)
# Query, key and value of WavLM, stacked in one weight.
JOINT = re.compile(r"(.*)\.in_proj_(weight|bias)")
# The names of torchaudio's sizes in transformers.
SIZES = {
    "encoder_embed_dim": "hidden_size",
    "encoder_num_layers": "num_hidden_layers",
    "encoder_num_heads": "num_attention_heads",
    "encoder_ff_interm_features": "intermediate_size",
    "extractor_conv_bias": "conv_bias",
    "encoder_layer_norm_first": "do_stable_layer_norm",
    "encoder_pos_conv_kernel": "num_conv_pos_embeddings",
    "encoder_pos_conv_groups": "num_conv_pos_embedding_groups",
}
WAVLM_SIZES = {"encoder_num_buckets": "num_buckets", "encoder_max_distance": "max_bucket_distance"}


@functools.cache
def bundles() -> dict[str, Any]:
    """Return every encoder in ``torchaudio.pipelines`` by name."""
    items = {name: getattr(torchaudio.pipelines, name) for name in dir(torchaudio.pipelines)}
    kinds = ("Wav2Vec2", "WavLM")
    return {key: item for key, item in items.items() if getattr(item, "_model_type", "") in kinds}


def bundle_of(name: str) -> Any:
    """Return the bundle that ``torchaudio:NAME`` stands for.

    Raises:
        ProbeError: there is no such bundle.
    """
    catalogue = bundles()
    if bundle := catalogue.get(name.removeprefix(TORCHAUDIO)):
        return bundle
    close = close_names(name, tuple(TORCHAUDIO + item for item in catalogue))
    hints = [f" Did you mean {item!r}?" for item in close if item.startswith(TORCHAUDIO)]
    raise ProbeError(
        f"{name}: torchaudio {torchaudio.__version__} has no such encoder.{''.join(hints[:1])} "
        f"Its encoders are {', '.join(catalogue)}."
    )


def architecture_of(name: str) -> tuple[Any, bool]:
    """Return transformers' configuration of a bundle's encoder, and whether its waveforms are
    normalised; see `bundle_of` for errors.
    """
    bundle = bundle_of(name)
    sizes = bundle._params
    family = "hubert" if "HUBERT" in name else "wav2vec2"
    settings = {by: sizes[ours] for ours, by in SIZES.items()}
    if bundle._model_type == "WavLM":
        family = "wavlm"
        settings |= {by: sizes[ours] for ours, by in WAVLM_SIZES.items()}
    settings["feat_extract_norm"] = sizes["extractor_mode"].removesuffix("_norm")
    settings |= convolutions(sizes["extractor_conv_layer_config"])
    settings[EPSILON] = NORMALIZE_EPSILON
    return transformers.AutoConfig.for_model(family, **settings), bool(bundle._normalize_waveform)


def bundle_encoder(name: str, device: str, sha256: str | None = None) -> TransformersEncoder:
    """Return the encoder of ``torchaudio:NAME``, with its CTC head if it has one.

    Args:
        sha256: expected SHA-256 of the weight file.

    Raises:
        ProbeError: there is no such bundle, or its weights are neither in torch hub's cache nor can
            be fetched, are damaged, or have another hash.
    """
    config, normalize = architecture_of(name)
    file, state = _weights_of(name)
    labels = getattr(bundle_of(name), "_labels", ())
    texts = [label.replace("|", " ") for label in labels]
    converted = Converted(
        config=config,
        tensors=_renamed(state),
        normalize=normalize,
        writes=("", *texts) if labels else (),  # the first is the blank
    )
    location = Location(name, file.parent, file.name)
    encoder = converted_encoder(location, hashed(file, sha256), converted, device)
    encoder.again = functools.partial(bundle_encoder, name, device, sha256)
    return encoder


def _weights_of(name: str) -> tuple[Path, Mapping[str, Tensor]]:
    """Return a bundle's file in torch hub's cache, after fetching it if necessary, and its weights
    by torchaudio's names.
    """
    bundle = bundle_of(name)
    address = bundle._path if bundle._path.startswith("https") else ADDRESS + bundle._path
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(address).path).name
    if not file.is_file() and (hub.is_offline() or not hub.answers(hub.TIMEOUT_S, address)):
        why = "HF_HUB_OFFLINE is set" if hub.is_offline() else "there is no answer from there"
        raise ProbeError(
            f"{name}: its weights are not at {file}, and {why}: {address}. Fetch that file where "
            "there is a network and put it there (TORCH_HOME says where torch hub's cache is); "
            f"random:{name} works without."
        )
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torch hub reports there what it fetches
            loading = {"map_location": "cpu", "weights_only": True, "progress": sys.stderr.isatty()}
            state = bundle._get_state_dict(loading)
        if not isinstance(state, Mapping) or not are_weights(state):
            raise ValueError("other things than weights")
    except Exception as error:  # transport, zip files, pickles and tensors raise many kinds
        reason = first_line(error)
        if "weights_only" in reason:  # torch advises to open it anyway
            reason = "it is none, or holds more"
        advice = "Try again" if isinstance(error, OSError) else "Remove it and try again"
        raise ProbeError(
            f"{name}: {file} cannot be fetched or read as plain weights ({reason}). {advice}."
        ) from error
    return file, state


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights by transformers' names."""
    tensors: dict[str, Tensor] = {}
    for name, weight in state.items():
        name = renamed(name, NAMES)
        if joint := JOINT.fullmatch(name):
            for part, of_part in zip("qkv", weight.chunk(3), strict=True):
                tensors[f"{joint[1]}.{part}_proj.{joint[2]}"] = of_part
        else:
            tensors[name] = weight
    return tensors
