"""Small bundles after torchaudio's: the same classes and front-ends, few and narrow layers."""

import dataclasses
from typing import Any

import torchaudio

# After which small ones are made.
AFTER = (
    "WAV2VEC2_BASE",
    "WAV2VEC2_ASR_LARGE_LV60K_960H",
    "HUBERT_LARGE",
    "VOXPOPULI_ASR_BASE_10K_EN",
    "WAVLM_BASE",
    "WAVLM_LARGE",
    "MMS_FA",
)
SMALL = {
    "encoder_num_layers": 3,
    "encoder_embed_dim": 24,
    "encoder_num_heads": 2,
    "encoder_ff_interm_features": 40,
}


def small_bundle(name: str) -> Any:
    """A small bundle after a real one."""
    real = getattr(torchaudio.pipelines, name)
    layers = [
        (12, kernel, stride) for _, kernel, stride in real._params["extractor_conv_layer_config"]
    ]
    sizes = {
        "extractor_conv_layer_config": layers,
        "encoder_pos_conv_kernel": 8,
        "encoder_pos_conv_groups": 4,
    }
    if real._model_type == "WavLM":
        sizes |= {
            "encoder_num_buckets": 32,
            "encoder_max_distance": 100,
        }  # buckets of several distances within few frames
    return dataclasses.replace(real, _path=f"{name}.pth", _params=real._params | SMALL | sizes)
