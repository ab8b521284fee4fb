"""What is particular to a family of transformers: the grid of its frames, its final output, its
input.

SEW, SEW-D: blocks see frames joined in pairs (``squeeze_factor``); ``final`` is brought back to the
    frame rate of the front-end, and its last frame is 0 where that gives an odd number.
w2v-BERT 2.0: the input is log-mel energies of each utterance, normalised per band, two 10 ms frames
    side by side; there is no other front-end.
Whisper: the input is log-mel energies of 30 s, audio and the zeros after it. Frame i is centred at
    sample 320 i; those whose centre lies in the audio are kept, ceil(samples / 320) of them. Longer
    audio is cut (`probe.models.windows`) into windows of at most 30 s, each an input of its own:
    levels are clipped at 80 dB below the loudest of a window, and positions count from its
    beginning. Layer 0 has the positions in it.

Log-mel energies are those of transformers' own preprocessor. Everything else is as in wav2vec 2.0
(`probe.models.reference`).
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor

from probe.errors import ProbeError, UsageError
from probe.models.encoder import CONV, CTC, Chunking, ModelInfo
from probe.models.frames import FrameGrid
from probe.models.reference import TransformersEncoder, joined, tap_output
from probe.models.sources.known import SQUEEZED
from probe.models.windows import Window, windows

LOG_MEL = ("wav2vec2-bert", "whisper")
# A final output that is not the last block's, whatever `do_stable_layer_norm` says.
OWN_FINAL = (*SQUEEZED, "wav2vec2-conformer", "whisper")
MEL_HOP, MEL_WINDOW = 160, 400
MEL_STRIDE = 2


def has_own_final(config: Any) -> bool:
    """Whether ``final`` is a layer of its own; otherwise it is an alias of the last block."""
    return config.model_type in OWN_FINAL or bool(getattr(config, "do_stable_layer_norm", False))


def grids_of(config: Any) -> tuple[FrameGrid, dict[str, FrameGrid]]:
    """Return the grid of the numbered layers, and the grids of layers that have another."""
    hop = MEL_STRIDE * MEL_HOP
    if config.model_type == "whisper":
        return FrameGrid(hop, 1, 1), {}
    if config.model_type in LOG_MEL:
        field = MEL_WINDOW + (MEL_STRIDE - 1) * MEL_HOP
        return FrameGrid(hop, field, field), {}
    kernels = list(zip(config.conv_kernel, config.conv_stride, strict=True))
    conv = FrameGrid.of_convolutions(kernels)
    if config.model_type in SQUEEZED:
        factor = config.squeeze_factor
        squeezed = FrameGrid.of_convolutions([*kernels, (factor, factor)])
        return squeezed, dict.fromkeys((CONV, "final", CTC), conv)
    return conv, {}


def conv_width(config: Any) -> int:
    """Return the width of the convolutional front-end's output; 0 where the family has none."""
    if config.model_type == "whisper":
        return int(config.d_model)
    return 0 if config.model_type in LOG_MEL else int(config.conv_dim[-1])


def mel_extractor(config: Any, settings: Mapping[str, Any], rate_hz: int, where: str) -> Any:
    """Return transformers' own preprocessor of a model that takes log-mel energies.

    Args:
        settings: of the checkpoint's preprocessor; what the family was trained with where empty.
        where: names the checkpoint, for messages.

    Raises:
        ProbeError: settings that do not fit the model.
    """
    extractor_class: Any = transformers.SeamlessM4TFeatureExtractor
    needs = {"sampling_rate": rate_hz, "dither": 0.0}
    if config.model_type == "whisper":
        extractor_class = transformers.WhisperFeatureExtractor
        seconds = config.max_source_positions * MEL_STRIDE * MEL_HOP // rate_hz
        needs |= {"feature_size": config.num_mel_bins, "chunk_length": seconds}
        needs |= {"hop_length": MEL_HOP, "n_fft": MEL_WINDOW}
    else:
        bins = config.feature_projection_input_dim // MEL_STRIDE
        needs |= {"feature_size": bins, "num_mel_bins": bins, "stride": MEL_STRIDE}
    if odd := [name for name, value in needs.items() if settings.get(name, value) != value]:
        actual, expected = (
            ", ".join(f"{name} {of[name]}" for name in odd) for of in (settings, needs)
        )
        raise ProbeError(
            f"{where}: its preprocessor has {actual}; this model takes {expected}. "
            "Fetch both files again."
        )
    return extractor_class.from_dict({**needs, **settings})


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

    def _energies(self, wave: Tensor) -> dict[str, Tensor]:
        """(time,) -> (1, frame, 160), with a mask over its frames: the last lacks its second half
        where their number is odd.
        """
        called = self._preprocessed(wave, return_attention_mask=True)
        return {name: called[name].to(self.device) for name in ("input_features", "attention_mask")}

    @torch.inference_mode()
    def by_transformers(self, wave: Tensor, exact: bool = True) -> dict[str, Tensor]:
        """See `TransformersEncoder.by_transformers`; here the preprocessor's mask leaves out what
        `encode` cuts off.
        """
        energies = self._energies(wave)
        encoded = self.model(**energies, output_hidden_states=True, return_dict=True)
        n = int(energies["attention_mask"].sum())
        layers = {str(i): frames[0, :n] for i, frames in enumerate(encoded.hidden_states)}
        return layers | self._last_layers(encoded.last_hidden_state[0, :n])

    def _encode_one(self, wave: Tensor, layers: Sequence[str]) -> list[Tensor]:
        tapped: dict[str, Tensor] = {}
        n_frames = self.info.n_frames(len(wave))
        self._run_cut(self._energies(wave)["input_features"][:, :n_frames], tapped)
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
        """Cut audio that is longer than one input in another way.

        Raises:
            UsageError: windows that are longer than an input.
        """
        if chunking is None or chunking.chunk_s + 2 * chunking.context_s > self.window_s:
            request = "--chunk-s 0"
            if chunking:
                window_s = chunking.chunk_s + 2 * chunking.context_s
                request = f"windows of {window_s:g} s (--chunk-s and twice --context-s)"
            raise UsageError(
                f"{self.info.id}: {request}; it hears {self.window_s:g} s at a time. Expected no "
                "more, and more than 0 s."
            )
        self.chunking = replace(chunking, above_s=self.window_s)

    def _windows(self, n_samples: int) -> list[Window]:
        return list(windows(self.info.n_frames(n_samples), self.chunking, self.frame_rate_hz))

    def padded_samples(self, n_samples: int) -> int:
        """Return how many samples the model computes for ``n_samples`` samples: every window is
        brought to the length of an input.
        """
        return len(self._windows(n_samples)) * int(self.extractor.n_samples)

    def _inputs(self, wave: Tensor) -> Iterator[tuple[Tensor, slice]]:
        """(time,) -> the samples of each window, and which frames of it are kept."""
        hop = self.info.grid.hop_samples
        for start, stop, kept_from, kept_to in self._windows(len(wave)):
            yield wave[start * hop : stop * hop], slice(kept_from - start, kept_to - start)

    def _energies(self, samples: Tensor) -> Tensor:
        """(time,) of a window -> (1, band, mel frame) of a whole input."""
        energies: Tensor = self._preprocessed(samples).input_features
        return energies.to(self.device)

    @torch.inference_mode()
    def by_transformers(self, wave: Tensor, exact: bool = True) -> dict[str, Tensor]:
        """See `TransformersEncoder.by_transformers`; the last of the ``hidden_states`` is
        ``final``, so the last block runs again.
        """
        parts = []
        for samples, kept in self._inputs(wave):
            encoded = self.model(
                self._energies(samples), output_hidden_states=True, return_dict=True
            )
            *states, _ = encoded.hidden_states
            last = self._blocks[-1](states[-1], None)
            states.append(last[0] if isinstance(last, tuple) else last)
            layers = {str(i): item[0, kept] for i, item in enumerate(states)}
            layers[CONV] = (states[0][0] - self.model.embed_positions.weight)[kept]
            parts.append(layers | {"final": encoded.last_hidden_state[0, kept]})
        return joined(parts)

    @torch.inference_mode()
    def pieces(self, waveforms: Sequence[Tensor], layers: Sequence[str]) -> Iterator[list[Tensor]]:
        """See `probe.models.encoder.pieces_of`; a piece is what is kept of a window."""
        for samples, kept in itertools.chain.from_iterable(map(self._inputs, waveforms)):
            tapped: dict[str, Tensor] = {}
            tap = tap_output(tapped, CONV, lambda output: torch.nn.functional.gelu(output).mT)
            with self.model.conv2.register_forward_hook(tap):
                self._run(self._energies(samples), tapped)
            yield [tapped[name][kept] for name in layers]

    def _encode_one(self, wave: Tensor, layers: Sequence[str]) -> list[Tensor]:
        return [torch.cat(parts) for parts in zip(*self.pieces([wave], layers), strict=True)]


ENCODERS: dict[str, type[TransformersEncoder]] = {
    **dict.fromkeys(SQUEEZED, SqueezedEncoder),
    "wav2vec2-bert": BertEncoder,
    "whisper": WhisperEncoder,
}
