"""Plug-ins for three trained encoders of the Python package index.

    pip install --no-deps -r recipes/encoders/requirements.txt
    cd recipes/encoders && probe check plugin:encoders:GE2E

The classes keep the contract of docs/plugins.md. Each utterance is encoded alone, so batch mates
and padding cannot change its frames. ``random:plugin:encoders:GE2E`` is the untrained twin.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
import torchaudio
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence


def package_file(package: str, name: str) -> Path:
    """Return the path of a file in an installed package, without importing the package.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"the package {package} is missing: "
            "pip install --no-deps -r recipes/encoders/requirements.txt"
        )
    return Path(spec.submodule_search_locations[0]) / name


def encode_each(
    encode: Callable[[Tensor], list[Tensor]], waveforms: Tensor, lengths: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Encode each utterance alone.

    Args:
        encode: (time,) float32 -> one (frame, dim) tensor per layer.
        waveforms: (batch, time) float32; samples past a length are ignored.
        lengths: (batch,) int64.

    Returns:
        One (batch, frame, dim) tensor per layer, and the valid frames as (batch,) int64.
    """
    items = [encode(wave[:n]) for wave, n in zip(waveforms, lengths.tolist(), strict=True)]
    n_frames = torch.tensor([len(layers[0]) for layers in items])
    layers = [pad_sequence(list(layer), batch_first=True) for layer in zip(*items, strict=True)]
    return layers, n_frames


class GE2E(nn.Module):
    """Resemblyzer's speaker encoder (Apache-2.0): 40 mel energies, three LSTMs of 256 cells.

    Source: L. Wan et al., Generalized end-to-end loss for speaker verification, ICASSP 2018;
    github.com/resemble-ai/Resemblyzer. Resemblyzer cuts silences and averages pieces of 1.6 s; here
    every frame is kept and the LSTMs read the utterance as a whole. Layer 0 holds the mel energies,
    ``final`` the output of the last linear layer for each frame, before the norm.
    """

    sample_rate, hop_samples, version = 16_000, 160, "1"
    layer_widths: Mapping[str, int] = {"0": 40, "1": 256, "2": 256, "3": 256, "final": 256}

    def __init__(self) -> None:
        super().__init__()
        self.mel = torchaudio.transforms.MelSpectrogram(
            16_000,
            n_fft=400,
            hop_length=160,
            n_mels=40,
            norm="slaney",
            mel_scale="slaney",
            pad_mode="constant",
        )
        self.lstms = nn.ModuleList(
            nn.LSTM(width, 256, batch_first=True) for width in (40, 256, 256)
        )
        self.linear = nn.Linear(256, 256)
        path = package_file("resemblyzer", "pretrained.pt")
        weights = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
        for i, lstm in enumerate(self.lstms):
            lstm.load_state_dict(
                {key: weights[f"lstm.{key.removesuffix('0')}{i}"] for key in lstm.state_dict()}
            )
        self.linear.load_state_dict({key: weights[f"linear.{key}"] for key in ("weight", "bias")})

    def layers(self, wave: Tensor) -> list[Tensor]:
        """Return the (frame, dim) tensor of every layer of one (time,) waveform."""
        level = wave.square().mean().sqrt().clamp_min(1e-9)
        wave = wave * (10 ** (-30 / 20) / level).clamp_min(1)  # raised to -30 dBFS, never lowered
        frames = self.mel(wave).T
        layers = [frames]
        for lstm in self.lstms:
            frames, _ = lstm(frames)
            layers.append(frames)
        return [*layers, torch.relu(self.linear(frames))]

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        return encode_each(self.layers, waveforms, lengths)


class DistillMOS(nn.Module):
    """Distill-MOS (Microsoft, MIT): rates speech quality with six convolutions and seven blocks.

    Source: B. Stahl and H. Gamper, Distillation and pruning for scalable self-supervised
    representation-based speech quality assessment, ICASSP 2025; github.com/microsoft/Distill-MOS.
    The model reads pieces of 7.68 s, shorter ones padded with zeros, and each piece has its own
    level. The package places overlapping pieces; here one follows the other. Layer 0 is the input
    of the first block, with positions.
    """

    sample_rate, hop_samples, min_samples, version = 16_000, 320, 160, "1"
    layer_widths: Mapping[str, int] = {"conv": 1024, **{str(i): 200 for i in range(8)}}
    piece = 122_880  # samples

    def __init__(self) -> None:
        super().__init__()
        package_file("distillmos", "sqa.py")
        from distillmos.sqa import ConvTransformerSQAModel

        self.net = ConvTransformerSQAModel(segmenting_in_forward=False)

    def layers_of_piece(self, wave: Tensor) -> list[Tensor]:
        """Return the (frame, dim) tensor of every layer of at most 7.68 s."""
        wave_padded = functional.pad(wave, (0, self.piece - len(wave)))[None]
        head = self.net.transformer_pool_attn
        transformer = head.transformer
        conv = self.net.cnn(wave_padded / (wave_padded.abs().max() + 1e-8))  # (1, dim, frame)
        frames = transformer.norm(head.norm_input(conv)).transpose(1, 2)
        frames = transformer.position_encoding(transformer.linear_proj(frames))
        layers = [conv.transpose(1, 2), frames]
        for block in transformer.transformer_encoder.layers:
            frames = block(frames)
            layers.append(frames)
        n_frames = 1 + (len(wave) - 160) // 320
        return [layer[0, :n_frames] for layer in layers]

    def layers(self, wave: Tensor) -> list[Tensor]:
        """Return the (frame, dim) tensor of every layer of one (time,) waveform."""
        pieces = [self.layers_of_piece(piece) for piece in wave.split(self.piece)]
        return [torch.cat(layer) for layer in zip(*pieces, strict=True)]

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        return encode_each(self.layers, waveforms, lengths)


class SileroVAD(nn.Module):
    """Silero VAD 6 (MIT): says where speech is, with four convolutions and an LSTM.

    Source: Silero Team, github.com/snakers4/silero-vad. The model reads pieces of 512 samples with
    64 samples of the past; a last piece that is not complete is left out. A layer has one frame per
    piece: layers 0 to 2 have several positions in it (4, 4 and 2), which stand one after the other.
    Layer 0 holds the magnitudes of the spectrum, layers 1 to 4 the convolutions, 5 the LSTM. The
    weights are those of the safetensors file; the TorchScript file of the package holds others.
    """

    sample_rate, hop_samples, min_samples, version = 16_000, 512, 512, "1"
    layer_widths: Mapping[str, int] = {"0": 516, "1": 512, "2": 128, "3": 64, "4": 128, "5": 128}

    def __init__(self) -> None:
        super().__init__()
        shapes = ((129, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(inputs, outputs, 3, stride, padding=1) for inputs, outputs, stride in shapes
        )
        self.lstm = nn.LSTM(128, 128, batch_first=True)
        weights = load_file(package_file("silero_vad", "data/silero_vad_16k.safetensors"))
        self.register_buffer("spectrum", weights["stft_conv.weight"])  # windowed cosines and sines
        for i, convolution in enumerate(self.convolutions, start=1):
            convolution.load_state_dict(
                {key: weights[f"conv{i}.{key}"] for key in ("weight", "bias")}
            )
        self.lstm.load_state_dict(
            {key: weights[f"lstm_cell.{key.removesuffix('_l0')}"] for key in self.lstm.state_dict()}
        )

    def layers(self, wave: Tensor) -> list[Tensor]:
        """Return the (frame, dim) tensor of every layer of one (time,) waveform."""
        pieces = functional.pad(wave, (64, 0)).unfold(0, 64 + 512, 512)
        pieces = functional.pad(pieces[:, None], (0, 64), mode="reflect")
        real, imaginary = functional.conv1d(pieces, self.spectrum, stride=128).chunk(2, dim=1)
        frames = (real.square() + imaginary.square()).sqrt()  # (piece, dim, position)
        layers = [frames]
        for convolution in self.convolutions:
            frames = torch.relu(convolution(frames))
            layers.append(frames)
        states, _ = self.lstm(frames[None, :, :, 0])
        return [*(layer.flatten(1) for layer in layers), states[0]]

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        return encode_each(self.layers, waveforms, lengths)
