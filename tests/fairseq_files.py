"""Files as fairseq writes them, made from transformers' models by the names the other way round."""

import argparse
import re
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# transformers' names -> fairseq's.
NAMES = (
    (r"^masked_spec_embed$", "mask_emb"),
    (r"^feature_projection\.layer_norm\.", "layer_norm."),
    (r"^feature_projection\.projection\.", "post_extract_proj."),
    (r"(conv_layers\.\d+)\.conv\.", r"\1.0."),
    (r"^encoder\.pos_conv_embed\.layers\.(\d+)\.conv\.", r"encoder.pos_conv.\1.0."),
    (r"\.parametrizations\.weight\.original0$", ".weight_g"),
    (r"\.parametrizations\.weight\.original1$", ".weight_v"),
    (r"\.attention\.rel_attn_embed\.", ".self_attn.relative_attention_bias."),
    (r"\.attention\.gru_rel_pos_linear\.", ".self_attn.grep_linear."),
    (r"\.attention\.gru_rel_pos_const$", ".self_attn.grep_a"),
    (r"\.attention\.", ".self_attn."),
    (r"(layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
    (r"\.feed_forward\.intermediate_dense\.", ".fc1."),
    (r"\.feed_forward\.output_dense\.", ".fc2."),
)


def fairseq_weights(model: Any) -> dict[str, Tensor]:
    """The weights of a transformers encoder under fairseq's names."""
    by_group = getattr(model.config, "feat_extract_norm", "layer") == "group"
    batch_norm = getattr(model.config, "conv_pos_batch_norm", False)
    named = {}
    for name, weight in model.state_dict().items():
        name = re.sub(
            r"(conv_layers\.\d+)\.layer_norm\.", r"\1.2." if by_group else r"\1.2.1.", name
        )
        name = re.sub(r"pos_conv_embed\.batch_norm\.", "pos_conv.0.", name)
        name = re.sub(
            r"pos_conv_embed\.conv\.", "pos_conv.1." if batch_norm else "pos_conv.0.", name
        )
        for pattern, by in NAMES:
            name = re.sub(pattern, by, name)
        named[name] = weight.clone()
    return named


def fairseq_settings(config: Any) -> dict[str, Any]:
    """The settings of fairseq's model for a transformers configuration."""
    layers = list(zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True))
    stacked = config.model_type == "data2vec-audio"
    settings = {
        "_name": config.model_type.replace("-", "_"),
        "extractor_mode": "layer_norm"
        if stacked or config.feat_extract_norm == "layer"
        else "default",
        "layer_norm_first": not stacked and config.do_stable_layer_norm,
        "encoder_layers": config.num_hidden_layers,
        "encoder_embed_dim": config.hidden_size,
        "encoder_ffn_embed_dim": config.intermediate_size,
        "encoder_attention_heads": config.num_attention_heads,
        "activation_fn": "gelu",
        "conv_feature_layers": f"[{layers[0]}] + "
        + " + ".join(f"[{layer}] * 1" for layer in layers[1:]),
        "conv_bias": config.conv_bias,
        "conv_pos": config.num_conv_pos_embeddings,
        "conv_pos_groups": config.num_conv_pos_embedding_groups,
        "dropout": 0.1,
    }
    if stacked:
        depth = config.num_conv_pos_embeddings
        settings |= {"conv_pos": depth * config.conv_pos_kernel_size, "pos_conv_depth": depth}
    if config.model_type == "wavlm":
        settings |= {"num_buckets": config.num_buckets, "max_distance": config.max_bucket_distance}
    return settings


def fairseq_file(
    file: Path, encoder: Any, /, normalize: bool = True, **changes: Any
) -> dict[str, Any]:
    """Writes a pretrained model as fairseq does since 2021; what was written, of which ``changes``
    are other entries.
    """
    cfg = {
        "model": fairseq_settings(encoder.config),
        "task": {"_name": "audio_pretraining", "normalize": normalize, "sample_rate": 16000},
    }
    state = {
        "args": None,
        "cfg": cfg,
        "model": fairseq_weights(encoder),
        "extra_state": {"epoch": 1},
    } | changes
    torch.save(state, file)
    return state


class Dictionary:
    """fairseq's class of symbols, as far as it is stored."""

    def __init__(self, symbols: list[str]) -> None:
        self.symbols = symbols
        self.indices = {symbol: index for index, symbol in enumerate(symbols)}


@contextmanager
def fairseq_dictionary() -> Iterator[type[Dictionary]]:
    """The class under the name that fairseq gives it, for as long as something is written."""
    names = ("fairseq", "fairseq.data", "fairseq.data.dictionary")
    module, qualname = Dictionary.__module__, Dictionary.__qualname__
    sys.modules |= {name: types.ModuleType(name) for name in names}
    sys.modules[names[-1]].Dictionary = Dictionary  # type: ignore[attr-defined]
    Dictionary.__module__ = names[-1]
    try:
        yield Dictionary
    finally:
        Dictionary.__module__, Dictionary.__qualname__ = module, qualname
        for name in names:
            del sys.modules[name]


def as_namespace(settings: Mapping[str, Any]) -> argparse.Namespace:
    """Settings as the files of 2020 hold them."""
    return argparse.Namespace(**settings)
