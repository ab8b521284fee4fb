"""What is particular to a family of transformers: the grid of its frames, its final output, its
input.

    SEW, SEW-D      blocks see frames joined in pairs (``squeeze_factor``); ``final`` is brought back to the frame rate of the
                    front-end, its last frame 0 where that gives an odd number.
    w2v-BERT 2.0    log-mel energies of each utterance, normalised per band, two 10 ms frames side by side; no other front-end.
    Whisper         log-mel energies of 30 s, audio and the zeros after it. Frame i is centred at sample 320 i; those whose centre
                    lies in the audio are kept, ceil(samples / 320) of them. Longer audio is cut
                    (`probe.models.windows`) into windows of 30 s at most, each of which is an input
                    of its own: levels are clipped at 80 dB below the loudest of a window, and
                    positions count from its beginning. Layer 0 has the positions in it.

Log-mel energies are those of transformers' own preprocessor. Everything else is as in wav2vec 2.0
(`probe.models.reference`).
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor

from probe.errors import ProbeError, UsageError
from probe.models.encoder import CONV, CTC, Chunking, Grid, ModelInfo
from probe.models.reference import TransformersEncoder, receptive_field
from probe.models.sources.known import SQUEEZED
from probe.models.windows import windows

LOG_MEL = ("wav2vec2-bert", "whisper")
# A final output that is not the last block's, whatever `do_stable_layer_norm` says.
OWN_FINAL = (*SQUEEZED, "wav2vec2-conformer", "whisper")
MEL_HOP, MEL_WINDOW = 160, 400
MEL_STRIDE = 2


def has_own_final(config: Any) -> bool:
    """Whether ``final`` is a layer of its own; an alias of the last block otherwise."""
    return config.model_type in OWN_FINAL or bool(getattr(config, "do_stable_layer_norm", False))


def grids_of(config: Any) -> tuple[Grid, dict[str, Grid]]:
    """The grid of the numbered layers, and those of layers that have another."""
    if config.model_type == "whisper":
        return Grid(MEL_STRIDE * MEL_HOP, 1), {}
    if config.model_type in LOG_MEL:
        return Grid(MEL_STRIDE * MEL_HOP, MEL_WINDOW + (MEL_STRIDE - 1) * MEL_HOP), {}
    conv = Grid(
        math.prod(config.conv_stride),
        receptive_field(list(zip(config.conv_kernel, config.conv_stride, strict=True))),
    )
    if config.model_type in SQUEEZED:
        factor = config.squeeze_factor
        squeezed = Grid(
            conv.hop_samples * factor, conv.field_samples + (factor - 1) * conv.hop_samples
        )
        return squeezed, dict.fromkeys((CONV, "final", CTC), conv)
    return conv, {}


def conv_width(config: Any) -> int:
    """Width of the convolutional front-end's output; 0 where the family has none."""
    if config.model_type == "whisper":
        return int(config.d_model)
    return 0 if config.model_type in LOG_MEL else int(config.conv_dim[-1])


def mel_extractor(config: Any, settings: Mapping[str, Any], rate_hz: int, where: str) -> Any:
    """transformers' own preprocessor of a model that takes log-mel energies.

    Args:
        settings: of the checkpoint's preprocessor; empty where it has none, and what the family was
            trained with is taken.
        where: names the checkpoint, for messages.

    Raises:
        ProbeError: settings that do not fit the model.
    """
    needs = {"sampling_rate": rate_hz, "dither": 0.0}
    if config.model_type == "whisper":
        seconds = config.max_source_positions * MEL_STRIDE * MEL_HOP // rate_hz
        needs |= {
            "feature_size": config.num_mel_bins,
            "chunk_length": seconds,
            "hop_length": MEL_HOP,
            "n_fft": MEL_WINDOW,
        }
    else:
        bins = config.feature_projection_input_dim // MEL_STRIDE
        needs |= {"feature_size": bins, "num_mel_bins": bins, "stride": MEL_STRIDE}
    if odd := {
        name: settings[name] for name, value in needs.items() if settings.get(name, value) != value
    }:
        found, expected = (", ".join(f"{name} {of[name]}" for name in odd) for of in (odd, needs))
        raise ProbeError(
            f"{where}: its preprocessor has {found}; this model takes {expected}. Fetch both files again."
        )
    made = (
        transformers.WhisperFeatureExtractor
        if config.model_type == "whisper"
        else transformers.SeamlessM4TFeatureExtractor
    )
    return made.from_dict({**needs, **settings})


class SqueezedEncoder(TransformersEncoder):
    """SEW and SEW-D: blocks at a fraction of the frame rate."""

    @property
    def _blocks(self) -> Any:
        encoder = self.model.encoder
        return encoder.encoder.layer if hasattr(encoder, "encoder") else encoder.layers

    @torch.inference_mode()
    def final_of(self, last: Tensor, n_frames: int) -> Tensor:
        """See `TransformersEncoder.final_of`."""
        frames = self.model.encoder.upsample(last[None])[0]
        return torch.nn.functional.pad(frames, (0, 0, 0, n_frames - len(frames)))


class BertEncoder(TransformersEncoder):
    """w2v-BERT 2.0."""

    def _energies(self, wave: Tensor) -> Mapping[str, Tensor]:
        """(time,) -> (1, frame, 160), with a mask over its frames: the last lacks its second half
        where their number is odd.
        """
        samples, rate_hz = wave.cpu().numpy(), self.extractor.sampling_rate
        called = self.extractor(
            samples, sampling_rate=rate_hz, return_attention_mask=True, return_tensors="pt"
        )
        return {
            "input_features": called.input_features.to(self.device),
            "attention_mask": called.attention_mask.to(self.device),
        }

    @torch.inference_mode()
    def by_transformers(self, wave: Tensor, exact: bool = True) -> dict[str, Tensor]:
        """See `TransformersEncoder.by_transformers`; here the preprocessor's mask leaves out what
        `encode` cuts off.
        """
        energies = self._energies(wave)
        encoded = self.model(**energies, output_hidden_states=True, return_dict=True)
        n_frames = int(energies["attention_mask"].sum())
        layers = {
            str(index): frames[0, :n_frames] for index, frames in enumerate(encoded.hidden_states)
        }
        layers["final"] = encoded.last_hidden_state[0, :n_frames]
        return layers | ({CTC: self._head(layers["final"])} if self._head is not None else {})

    def _encode_one(self, wave: Tensor, layers: Sequence[str]) -> list[Tensor]:
        tapped: dict[str, Tensor] = {}
        self._run_cut(self._energies(wave)["input_features"][:, : self.n_frames(len(wave))], tapped)
        return [tapped[name] for name in layers]


class WhisperEncoder(TransformersEncoder):
    """Whisper's encoder; its decoder is not loaded."""

    def __init__(self, model: Any, info: ModelInfo, extractor: Any, head: Any = None) -> None:
        """See `TransformersEncoder`."""
        super().__init__(model, info, extractor, head)
        self.window_s = extractor.n_samples / info.rate_hz
        self.chunking = Chunking(self.window_s, self.window_s * 2 / 3, self.window_s / 6)

    @property
    def _blocks(self) -> Any:
        return self.model.layers

    @property
    def _final_norm(self) -> Any:
        return self.model.layer_norm

    def cut(self, chunking: Chunking | None) -> None:
        """Has audio that is longer than one input cut in another way.

        Raises:
            UsageError: windows that are longer than an input.
        """
        asked = 0.0 if chunking is None else chunking.chunk_s + 2 * chunking.context_s
        if chunking is None or asked > self.window_s:
            found = (
                f"windows of {asked:g} s (--chunk-s and twice --context-s)"
                if chunking
                else "--chunk-s 0"
            )
            raise UsageError(
                f"{self.info.id}: {found}; it hears {self.window_s:g} s at a time. Expected no more, and more than 0 s."
            )
        self.chunking = replace(chunking, above_s=self.window_s)

    def padded_samples(self, n_samples: int) -> int:
        """Samples that the model computes for ``n_samples`` samples: every window is brought to the
        length of an input.
        """
        n_windows = len(
            list(
                windows(
                    self.n_frames(n_samples),
                    self.chunking,
                    self.info.rate_hz / self.info.hop_samples,
                )
            )
        )
        return n_windows * int(self.extractor.n_samples)

    def _inputs(self, wave: Tensor) -> Iterator[tuple[Tensor, slice]]:
        """(time,) -> energies (1, band, 3000) of each window, and which frames of it are kept."""
        hop = self.info.hop_samples
        for window in windows(self.n_frames(len(wave)), self.chunking, self.info.rate_hz / hop):
            samples = wave[window.start * hop : window.stop * hop].cpu().numpy()
            called = self.extractor(
                samples, sampling_rate=self.extractor.sampling_rate, return_tensors="pt"
            )
            yield (
                called.input_features.to(self.device),
                slice(window.kept_from - window.start, window.kept_to - window.start),
            )

    @torch.inference_mode()
    def by_transformers(self, wave: Tensor, exact: bool = True) -> dict[str, Tensor]:
        """See `TransformersEncoder.by_transformers`; the last of the ``hidden_states`` is
        ``final``, so the last block runs again.
        """
        parts = []
        for energies, kept in self._inputs(wave):
            encoded = self.model(energies, output_hidden_states=True, return_dict=True)
            states = [
                *encoded.hidden_states[:-1],
                self._blocks[-1](encoded.hidden_states[-2], None),
            ]
            layers = {
                str(i): (item[0] if isinstance(item, tuple) else item)[0, kept]
                for i, item in enumerate(states)
            }
            layers[CONV] = (encoded.hidden_states[0][0] - self.model.embed_positions.weight)[kept]
            parts.append(layers | {"final": encoded.last_hidden_state[0, kept]})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    @torch.inference_mode()
    def pieces(self, waveforms: Sequence[Tensor], layers: Sequence[str]) -> Iterator[list[Tensor]]:
        """See `probe.models.encoder.pieces_of`; a piece is what is kept of a window."""
        for energies, kept in itertools.chain.from_iterable(map(self._inputs, waveforms)):
            tapped: dict[str, Tensor] = {}
            conv = self.model.conv2.register_forward_hook(_tap_gelu(tapped))
            try:
                self._run(energies, tapped)
            finally:
                conv.remove()
            yield [tapped[name][kept] for name in layers]

    def _encode_one(self, wave: Tensor, layers: Sequence[str]) -> list[Tensor]:
        return [torch.cat(parts) for parts in zip(*self.pieces([wave], layers), strict=True)]


def _tap_gelu(tapped: dict[str, Tensor]) -> Any:
    def hook(_module: Any, _inputs: Any, output: Tensor) -> None:
        tapped[CONV] = torch.nn.functional.gelu(output)[0].T

    return hook


ENCODERS: dict[str, type[TransformersEncoder]] = {
    **dict.fromkeys(SQUEEZED, SqueezedEncoder),
    "wav2vec2-bert": BertEncoder,
    "whisper": WhisperEncoder,
}
