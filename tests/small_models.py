"""Small checkpoints of every family: the true classes and front-end, few and narrow layers, seeded
weights.
"""

from pathlib import Path
from typing import Any

import torch
import transformers

SIZES: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "conv_dim": [12] * 7,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 10,
    "num_codevectors_per_group": 4,
    "codevector_dim": 8,
    "proj_codevector_dim": 8,
}
POST_LN = {
    "feat_extract_norm": "group",
    "do_stable_layer_norm": False,
    "conv_bias": False,
    "num_conv_pos_embeddings": 8,
}
PRE_LN = {
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
    "num_conv_pos_embeddings": 8,
}
DATA2VEC = {"num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 7}
FAMILIES: dict[str, tuple[type, dict[str, Any]]] = {
    "wav2vec2 post-LN": (transformers.Wav2Vec2Config, POST_LN),
    "wav2vec2 pre-LN": (transformers.Wav2Vec2Config, PRE_LN),
    "data2vec-audio": (transformers.Data2VecAudioConfig, DATA2VEC),
    "hubert post-LN": (transformers.HubertConfig, POST_LN),
    "hubert pre-LN": (transformers.HubertConfig, PRE_LN),
    "hubert batch norm": (transformers.HubertConfig, POST_LN | {"conv_pos_batch_norm": True}),
    "distilhubert": (transformers.HubertConfig, POST_LN | {"feat_proj_layer_norm": False}),
    "wavlm post-LN": (transformers.WavLMConfig, POST_LN),
    "wavlm pre-LN": (transformers.WavLMConfig, PRE_LN),
    "unispeech pre-LN": (transformers.UniSpeechConfig, PRE_LN),
    "unispeech-sat post-LN": (transformers.UniSpeechSatConfig, POST_LN),
}
CONFORMER = {"feat_extract_norm": "layer", "conv_bias": True, "conv_depthwise_kernel_size": 7}
# Computed by transformers' own forward alone.
OTHER_FAMILIES: dict[str, tuple[type, dict[str, Any]]] = {
    "wav2vec2-conformer relative": (
        transformers.Wav2Vec2ConformerConfig,
        CONFORMER | {"position_embeddings_type": "relative"},
    ),
    "wav2vec2-conformer rotary": (
        transformers.Wav2Vec2ConformerConfig,
        CONFORMER | {"position_embeddings_type": "rotary"},
    ),
    "sew": (transformers.SEWConfig, {"conv_dim": [12] * 13, "num_conv_pos_embeddings": 8}),
    "sew-d": (
        transformers.SEWDConfig,
        {"conv_dim": [12] * 13, "num_conv_pos_embeddings": 8, "position_buckets": 16},
    ),
    "w2v-bert 2.0": (transformers.Wav2Vec2BertConfig, {"conv_depthwise_kernel_size": 7}),
    "whisper": (
        transformers.WhisperConfig,
        {"d_model": 24, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 40}
        | {
            "decoder_layers": 1,
            "decoder_attention_heads": 2,
            "decoder_ffn_dim": 40,
            "vocab_size": 60,
        }
        | {
            "pad_token_id": 50,
            "bos_token_id": 51,
            "eos_token_id": 51,
            "decoder_start_token_id": 52,
        },
    ),
}
EXTRACTOR = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
EXTRACTORS = {
    "w2v-bert 2.0": transformers.SeamlessM4TFeatureExtractor(),
    "whisper": transformers.WhisperFeatureExtractor(),
}


def write_checkpoint(family: str, folder: Path) -> None:
    """Writes a checkpoint with its preprocessor as ``save_pretrained`` does."""
    config_class, settings = (FAMILIES | OTHER_FAMILIES)[family]
    torch.manual_seed(7)
    sizes = {} if family == "whisper" else SIZES
    model = transformers.AutoModel.from_config(config_class(**sizes | settings))
    with torch.no_grad():
        for weight in (
            model.parameters()
        ):  # biases and LayerNorms are 0 and 1 otherwise, and would hide a missing one
            weight.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(folder)
    EXTRACTORS.get(family, EXTRACTOR).save_pretrained(folder)
