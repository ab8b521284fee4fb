"""Read fairseq checkpoints (``file.pt``) of wav2vec 2.0, HuBERT and data2vec-audio, and WavLM's
original files.

`probe.models.sources.pickles` opens a file. This module converts its configuration (``cfg``, or
``args`` in files of 2020) to that of the transformers class and renames its weights, so layers,
packed form and checks are those of any other checkpoint. From a fine-tuned file it takes the
encoder, and also the CTC head if the file holds the dictionary.

The configuration must contain everything that the weights do not show: the number of heads, strides
and the places of LayerNorms. Sizes are compared with the weights, and missing or additional weights
of the encoder are refused. Waveforms are normalised as in transformers, which adds 1e-7 to the
variance; fairseq adds 1e-5, a difference of 0.2 % in level at an rms of 0.05 (docs/checkpoints.md
describes its effect).

Names and defaults: https://github.com/facebookresearch/fairseq (``models/wav2vec``,
``models/hubert``, ``data2vec_audio.py``) and https://github.com/microsoft/unilm/tree/master/wavlm.
"""

import argparse
import ast
import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from probe.errors import ProbeError, listed
from probe.model_names import ENDING
from probe.models.encoder import ASSUMED
from probe.models.reference import TransformersEncoder
from probe.models.sources.checkpoints import Converted, converted_encoder
from probe.models.sources.configurations import Location
from probe.models.sources.keys import WEIGHT_NORM, convolutions, renamed
from probe.models.sources.pickles import Dictionary, open_pickle
from probe.models.sources.preprocessor import RATE_HZ
from probe.models.sources.weights import hashed

# Prefixes of the encoder and of the CTC head in a fine-tuned model.
TUNED, HEAD, HEAD_PARTS = "w2v_encoder.w2v_model.", "w2v_encoder.proj.", ("weight", "bias")
MOST_CONVOLUTIONS = 64
# Settings that decide values, with the choices that transformers' classes support; the first is
# fairseq's default.
KNOWN: dict[str, tuple[Any, ...]] = {
    "extractor_mode": ("default", "layer_norm"),
    "activation_fn": ("gelu",),
    "layer_type": ("transformer",),
    "quantize_input": (False,),
    "crop_seq_to_multiple": (1,),
    "sample_rate": (RATE_HZ,),
}
# For each size of transformers: fairseq's name, its type, and its default if it has one.
SIZES: dict[str, tuple[Any, ...]] = {
    "hidden_size": ("encoder_embed_dim", int),
    "num_hidden_layers": ("encoder_layers", int),
    "num_attention_heads": ("encoder_attention_heads", int),
    "intermediate_size": ("encoder_ffn_embed_dim", int),
    "conv_bias": ("conv_bias", bool, False),
    "num_conv_pos_embedding_groups": ("conv_pos_groups", int, 16),
}
# Weights that only pretraining uses, including data2vec's teacher.
PRETRAINING = re.compile(
    r"(quantizer|input_quantizer|project_q|project_inp|final_proj|target_glu|label_embs_concat"
    r"|_ema)(\.|$)"
)
BLOCKS, PROJECTION = "encoder.layers.", "feature_projection.projection."
STACKED = re.compile(r"encoder\.pos_conv_embed\.layers\..*conv\.weight")
# Substitutions from fairseq's to transformers' names, applied in order.
NAMES = (
    (r"^mask_emb$", "masked_spec_embed"),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.0\.", r"\1.conv."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.2\.(1\.)?(?=weight|bias)", r"\1.layer_norm."),
    (r"^encoder\.pos_conv\.(\d+)\.0\.", r"encoder.pos_conv_embed.layers.\1.conv."),
    *WEIGHT_NORM,
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.self_attn\.", ".attention."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
    (r"\.relative_attention_bias\.", ".rel_attn_embed."),
    (r"\.grep_linear\.", ".gru_rel_pos_linear."),
    (r"\.grep_a$", ".gru_rel_pos_const"),
)
# The positional convolution, alone or after a batch norm.
ALONE = ((r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),)
AFTER_NORM = (
    (r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.batch_norm."),
    (r"^encoder\.pos_conv\.1\.", ALONE[0][1]),
)


def file_of(name: str) -> Path | None:
    """Return the file that a model's name stands for, or None if it does not name a file.

    Raises:
        ProbeError: the file does not exist.
    """
    # Path.is_dir raises if the name is too long for a file.
    if not name.endswith(ENDING) or os.path.isdir(name):  # noqa: PTH112
        return None
    if not os.path.isfile(name):  # noqa: PTH113
        raise ProbeError(
            f"{name}: no such file. Expected a checkpoint of fairseq's, a folder, or org/name on "
            "the hub."
        )
    return Path(name)


def file_encoder(file: Path, device: str, sha256: str | None = None) -> TransformersEncoder:
    """Return the encoder in a file.

    Args:
        sha256: expected SHA-256 of the file.

    Raises:
        ProbeError: `open_pickle` refuses the file, the configuration is incomplete, or the weights
            do not fit it.
    """
    weights = hashed(file, sha256)
    encoder = converted_encoder(Location(str(file), file.parent), weights, _read(file), device)
    encoder.again = functools.partial(file_encoder, file, device, sha256)
    return encoder


def architecture_of(file: Path) -> tuple[Any, bool]:
    """Return transformers' configuration of the model in a file, and whether its waveforms are
    normalised; see `file_encoder` for errors.
    """
    converted = _read(file)
    return converted.config, bool(converted.normalize)


def _read(file: Path) -> Converted:
    """Return the content of a file in transformers' terms."""
    state = open_pickle(file)
    if not isinstance(state, Mapping) or not isinstance(state.get("model"), Mapping):
        holds = f"is a {type(state).__name__}"
        holds = f"holds {listed(list(map(str, state)))}" if isinstance(state, Mapping) else holds
        raise ProbeError(
            f"{file}: {holds}; expected a checkpoint of fairseq's, with cfg (or args) and model."
        )
    settings, model, task = _settings(file, state)
    named, notes = dict(state["model"]), list[str]()
    prefix = TUNED if any(name.startswith(TUNED) for name in named) else ""
    inner = {name: name.removeprefix(prefix) for name in named if name.startswith(prefix)}
    encoder = {by: named[name] for name, by in inner.items() if not PRETRAINING.match(by)}
    left_out = [name for name in named if inner.get(name) not in encoder]
    if odd := [name for name, weight in encoder.items() if not isinstance(weight, Tensor)]:
        raise ProbeError(
            f"{file}: {listed(odd)} are no arrays of weights. Is this a checkpoint of fairseq's?"
        )
    if not any(name.startswith(BLOCKS) for name in encoder):
        raise ProbeError(
            f"{file}: a model of kind {model.get('_name') or model.get('arch')!r}; none of its "
            "weights are blocks of an encoder that this version can read. Expected wav2vec2, "
            "hubert, data2vec_audio or WavLM, or wav2vec_ctc or hubert_ctc made of them."
        )
    positions = AFTER_NORM if "encoder.pos_conv.0.running_mean" in encoder else ALONE
    tensors = {renamed(name, (*NAMES, *positions)): weight for name, weight in encoder.items()}
    config = _config(file, settings, task, tensors)
    tensors |= _identity(config, tensors)
    writes = _written(state, named, model, notes)
    if writes:
        tensors |= {f"lm_head.{part}": named[HEAD + part] for part in HEAD_PARTS}
        left_out = [name for name in left_out if name.removeprefix(HEAD) not in HEAD_PARTS]
    return Converted(
        config=config,
        tensors=tensors,
        normalize=_normalize(task, settings, notes),
        left_out=left_out,
        notes=notes,
        writes=writes,
    )


def _identity(config: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return identity weights in place of a missing projection: fairseq projects only between
    different widths, except in data2vec.
    """
    width = config.hidden_size
    if config.model_type == "data2vec-audio" or any(
        name.startswith(PROJECTION) for name in tensors
    ):
        return {}
    # A width that the weights do not have takes no memory.
    query = tensors.get(f"{BLOCKS}0.attention.q_proj.weight")
    if config.conv_dim[-1] != width or query is None or query.shape != (width, width):
        return {}
    return {f"{PROJECTION}weight": torch.eye(width), f"{PROJECTION}bias": torch.zeros(width)}


def _settings(
    file: Path, state: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return the settings of the encoder, of the model around it and of the task; files of 2020 and
    of WavLM have one flat set of names.

    A fine-tuned model holds the settings of the pretrained model as ``w2v_args``.

    Raises:
        ProbeError: the file has no settings, or a fine-tuned model has none of the encoder.
    """
    content = _plain(state.get("cfg")) or _plain(state.get("args"))
    if not content:
        raise ProbeError(
            f"{file}: no configuration; expected cfg or args beside the weights, as fairseq saves "
            "them."
        )
    model, task = _plain(content.get("model")) or content, _plain(content.get("task")) or content
    if "w2v_args" not in model:
        return model, model, task
    if not (pretrained := _plain(model["w2v_args"])):
        raise ProbeError(
            f"{file}: a fine-tuned model without the settings of the pretrained one (w2v_args "
            f"{model['w2v_args']!r}). Put them in, from the file that it was made from (w2v_path "
            f"{model.get('w2v_path')!r}): docs/checkpoints.md says how."
        )
    return _plain(pretrained.get("model")) or pretrained, model, task


def _plain(settings: Any) -> dict[str, Any]:
    """Return a configuration as a dictionary from a mapping or from attributes; anything else gives
    an empty one.
    """
    if isinstance(settings, argparse.Namespace):
        settings = vars(settings)
    return dict(settings) if isinstance(settings, Mapping) else {}


def _config(
    file: Path, settings: Mapping[str, Any], task: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Any:
    """Return transformers' configuration of an encoder.

    Raises:
        ProbeError: a necessary setting is missing, or transformers' class does not support its
            value.
    """

    def setting(name: str, kind: type, default: Any = None) -> Any:
        value = settings.get(name, default)
        if type(value) is not kind:
            raise ProbeError(
                f"{file}: its configuration has {name} {value!r}; expected a value of type "
                f"{kind.__name__}."
            )
        return value

    n_blocks = len({name.split(".")[2] for name in tensors if name.startswith(BLOCKS)})
    if setting("encoder_layers", int) != n_blocks:
        raise ProbeError(
            f"{file}: its configuration has encoder_layers {settings['encoder_layers']}, its "
            f"weights {n_blocks} blocks. One of the two is not this checkpoint's."
        )
    for name, known in KNOWN.items():
        if (value := settings.get(name, task.get(name, known[0]))) not in known:
            raise ProbeError(
                f"{file}: its configuration has {name} {value!r}; this version can read "
                f"{', '.join(map(repr, known))}."
            )
    front_end = convolutions(_convolutions(file, setting("conv_feature_layers", str)))
    sizes = {by: setting(*ours) for by, ours in SIZES.items()}
    kernel, pre_ln = setting("conv_pos", int, 128), setting("layer_norm_first", bool)
    by_layer = settings.get("extractor_mode", KNOWN["extractor_mode"][0]) == "layer_norm"
    family, own = "wav2vec2", dict[str, Any]()
    if n_convolutions := sum(STACKED.fullmatch(name) is not None for name in tensors):
        if pre_ln or not by_layer:
            raise ProbeError(
                f"{file}: stacked positional convolutions with layer_norm_first {pre_ln}, "
                f"extractor_mode {settings.get('extractor_mode')!r}; expected False and "
                "'layer_norm', as in data2vec-audio."
            )
        family, own = "data2vec-audio", {"conv_pos_kernel_size": max(3, kernel // n_convolutions)}
    else:
        norm = "layer" if by_layer else "group"
        own = {"feat_extract_norm": norm, "do_stable_layer_norm": pre_ln}
        if "encoder.layers.0.attention.gru_rel_pos_const" in tensors:
            family = "wavlm"
            own["num_buckets"] = setting("num_buckets", int)
            own["max_bucket_distance"] = setting("max_distance", int)
        elif "hubert" in str(settings.get("_name") or settings.get("arch")):
            family = "hubert"
            own["conv_pos_batch_norm"] = "encoder.pos_conv_embed.batch_norm.running_mean" in tensors
    own["num_conv_pos_embeddings"] = n_convolutions or kernel
    return transformers.AutoConfig.for_model(family, **front_end, **sizes, **own)


def _convolutions(file: Path, text: str) -> list[tuple[int, int, int]]:
    """Return (width, kernel, stride) of each convolution from an expression such as ``[(512, 10,
    5)] + [(512, 3, 2)] * 4``, without running it.

    Raises:
        ProbeError: it is no such expression.
    """

    def value(node: ast.expr) -> list[Any]:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            layers = value(node.left) + value(node.right)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            layers = value(node.left) * min(ast.literal_eval(node.right), MOST_CONVOLUTIONS)
        else:
            layers = list(ast.literal_eval(node))
        if not 0 < len(layers) <= MOST_CONVOLUTIONS:
            raise ValueError
        return layers

    try:
        items = value(ast.parse(text, mode="eval").body)
        layers = [(int(width), int(kernel), int(stride)) for width, kernel, stride in items]
        if min(map(min, layers)) < 1:
            raise ValueError
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise ProbeError(
            f"{file}: its configuration has conv_feature_layers {text[:80]!r}; expected a list "
            "such as [(512, 10, 5)] + [(512, 3, 2)] * 4 of widths, kernels and strides."
        ) from error
    return layers


def _normalize(task: Mapping[str, Any], settings: Mapping[str, Any], notes: list[str]) -> bool:
    """Return whether waveforms are normalised; add a note if the front-end has to decide because
    the configuration does not say it.
    """
    setting = task.get("normalize", settings.get("normalize"))
    if isinstance(setting, bool):
        return setting
    normalize = settings.get("extractor_mode") == "layer_norm"
    words = "normalised waveforms" if normalize else "waveforms as they are"
    notes.append(
        f"its configuration does not say whether waveforms are normalised: {words} {ASSUMED}, as "
        "in others of its kind"
    )
    return normalize


def _written(
    state: Mapping[str, Any], named: Mapping[str, Any], model: Mapping[str, Any], notes: list[str]
) -> tuple[str, ...]:
    """Return the text of each symbol of a CTC head; empty without a head, and empty with a note if
    the head was changed or the dictionary is missing.
    """
    if any(not isinstance(named.get(HEAD + part), Tensor) for part in HEAD_PARTS):
        return ()
    if weight := model.get("blank_weight"):
        notes.append(
            f"its CTC head is not run: fairseq changes its blank afterwards (blank_weight "
            f"{weight!r}, blank_mode {model.get('blank_mode')!r})"
        )
        return ()
    n_symbols = len(named[f"{HEAD}weight"])
    dictionary = _plain(state.get("task_state")).get("target_dictionary")
    symbols = getattr(dictionary, "symbols", None) if isinstance(dictionary, Dictionary) else None
    symbols = symbols if isinstance(symbols, list) else []
    texts = [symbol for symbol in symbols if isinstance(symbol, str)]
    if not len(texts) == len(symbols) == n_symbols:
        notes.append(
            f"its CTC head is not run: the file holds no dictionary of its {n_symbols} symbols"
        )
        return ()
    return tuple(
        "" if re.fullmatch("<.*>", text) else re.sub("[|\u2581]", " ", text) for text in texts
    )
