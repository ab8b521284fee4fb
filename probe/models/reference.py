"""The reference implementation: transformers' own forward, every layer tapped by hooks, one
utterance at a time.

What a layer is must not depend on the version of transformers (4.x puts the final LayerNorm into
``hidden_states[-1]``, 5.x does not), so ``hidden_states`` is not used: layer 0 is what the first
block is given, layer i what block i returns, ``final`` what the encoder returns in models with a
final LayerNorm (pre-LN, "stable layer norm"). In post-LN models ``final`` is an alias of layer N.
Families whose modules have other names, or do other things before the first block or after the
last, are subclasses (`probe.models.families`).

Families without a packed form have long audio cut (`Chunking`): the front-end sees all of it,
``model.encoder`` one window after the other. Positional convolutions are part of that in SEW: layer
0 is as uncut where the context is longer than they reach.

Utterances run one at a time. Padding changes every frame of the group-norm models (GroupNorm takes
its statistics over it) and of data2vec (five stacked positional convolutions leak it) whatever the
mask says, and on a CPU batching gains nothing.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from probe.models.encoder import CONV, CTC, Chunking, ModelInfo, brief_of
from probe.models.windows import windows

NORMALIZE_EPSILON = 1e-7
EPSILON = "normalize_epsilon"  # among a model's settings, and in its configuration
NORMALIZED_SAMPLES = 2**22  # at a time


class TransformersEncoder:
    """A speech encoder of transformers; satisfies `probe.models.encoder.Encoder`."""

    implementation = "reference"
    precision = "fp32"
    chunking: Chunking | None = None
    rows = 1

    def __init__(self, model: Any, info: ModelInfo, extractor: Any, head: Any = None) -> None:
        """Wraps an encoder without head that is in evaluation mode and on its device.

        Args:
            extractor: transformers' own preprocessor of this checkpoint.
            head: the linear layer of a CTC checkpoint, over the final output.
        """
        self.info = info
        self.device = next(model.parameters()).device
        self.model = model
        self.again: Callable[[], TransformersEncoder] | None = (
            None  # opens the same checkpoint afresh
        )
        self.extractor = extractor
        self._head = head

    def __repr__(self) -> str:
        return brief_of(self)

    @property
    def _blocks(self) -> Any:
        return self.model.encoder.layers

    @property
    def _final_norm(self) -> Any:
        return self.model.encoder.layer_norm

    def n_frames(self, n_samples: int) -> int:
        """Frames that ``n_samples`` samples give."""
        return self.info.grid.n_frames(n_samples)

    def chunked(self, chunking: Chunking | None) -> Self:
        """The same encoder, weights shared, with other windows."""
        other = copy.copy(self)
        other.chunking = chunking
        return other

    @torch.inference_mode()
    def encode(
        self, waveforms: Tensor, lengths: Tensor, layers: Sequence[str]
    ) -> tuple[list[Tensor], Tensor]:
        """See `probe.models.encoder.Encoder.encode`."""
        alone = [
            self._encode_one(wave[:length], layers)
            for wave, length in zip(waveforms, lengths.tolist(), strict=True)
        ]
        of_layers = list(zip(*alone, strict=True))
        n_frames = torch.tensor([[len(frames) for frames in of_layer] for of_layer in of_layers])
        return [
            torch.nn.utils.rnn.pad_sequence(list(of_layer), batch_first=True)
            for of_layer in of_layers
        ], n_frames

    @torch.inference_mode()
    def by_transformers(self, wave: Tensor, exact: bool = True) -> dict[str, Tensor]:
        """Every layer by another way than `encode`, to compare it with: transformers' preprocessor
        and its ``hidden_states``.

        Args:
            wave: (time,) float32.
            exact: applies the preprocessor's formula to float64 samples. As it is usually called it
                works in float32, whose rounding alone can move a frame by 1e-5 and, with an offset
                in the audio, by more.

        Returns:
            Layer -> (frame, dim); ``final`` in post-LN models too, and `CTC` where there is a head.
        """
        samples = wave.cpu().numpy()
        if not exact:
            called = self.extractor(
                samples, sampling_rate=self.extractor.sampling_rate, return_tensors="pt"
            )
            values = called.input_values
        elif self.extractor.do_normalize:
            values = torch.tensor(
                self.extractor.zero_mean_unit_var_norm([samples.astype("float64")], None)[0]
            )[None]
        else:
            values = wave[None]
        values = values.float().to(self.device)
        encoded = self.model(values, output_hidden_states=True, return_dict=True)
        layers = {str(index): frames[0] for index, frames in enumerate(encoded.hidden_states)}
        layers |= {
            CONV: self.model.feature_extractor(values)[0].T,
            "final": encoded.last_hidden_state[0],
        }
        return layers | ({CTC: self._head(layers["final"])} if self._head is not None else {})

    @torch.inference_mode()
    def final_of(self, last: Tensor, n_frames: int) -> Tensor:
        """The final output, (``n_frames``, dim), that follows from the last block's (frame, dim),
        by the weights after it alone.
        """
        norm = self._final_norm
        return torch.nn.functional.layer_norm(
            last, norm.normalized_shape, norm.weight, norm.bias, norm.eps
        )

    def _encode_one(self, wave: Tensor, layers: Sequence[str]) -> list[Tensor]:
        """(time,) -> one (frame, dim) per layer."""
        values = (normalized(wave, epsilon_of(self.info)) if self.info.normalize else wave)[None]
        tapped: dict[str, Tensor] = {}
        conv = self.model.feature_extractor.register_forward_hook(_tap_conv(tapped))
        try:
            self._run_cut(values, tapped)
        finally:
            conv.remove()
        return [tapped[name] for name in layers]

    def _run_cut(self, values: Tensor, tapped: dict[str, Tensor]) -> None:
        """As `_run`; of long audio the transformer sees one window after the other, and what is
        kept of each is joined.
        """
        transformer = self.model.encoder
        whole, factor = transformer.forward, getattr(self.model.config, "squeeze_factor", 1)
        names = [str(i) for i in range(len(self._blocks) + 1)]

        def forward(hidden: Tensor, *positional: Any, **named: Any) -> Any:
            n_frames, parts = hidden.shape[1] // factor, []
            for window in windows(
                n_frames, self.chunking, self.info.rate_hz / self.info.hop_samples
            ):
                stop = (
                    window.stop * factor if window.stop < n_frames else None
                )  # frames that do not fill the factor are the last's
                output = whole(hidden[:, window.start * factor : stop], *positional, **named)
                first, last = window.kept_from - window.start, window.kept_to - window.start
                kept = {name: tapped[name][first:last] for name in names}
                stop = last * factor if window.kept_to < n_frames else None
                parts.append(kept | {"final": output.last_hidden_state[0, first * factor : stop]})
            joined = (
                parts[0]
                if len(parts) == 1
                else {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            )
            tapped.update(joined)
            return type(output)(last_hidden_state=joined["final"][None])

        transformer.forward = forward
        try:
            self._run(values, tapped)
        finally:
            del transformer.forward

    def _run(self, values: Tensor, tapped: dict[str, Tensor]) -> None:
        """Runs the module on its input, one utterance, and taps (frame, dim) of the numbered
        layers, ``final`` and the head.
        """
        blocks = self._blocks
        hooks = [blocks[0].register_forward_pre_hook(_tap_input(tapped, "0"), with_kwargs=True)]
        hooks += [
            block.register_forward_hook(_tap_output(tapped, str(i)))
            for i, block in enumerate(blocks, start=1)
        ]
        try:
            tapped["final"] = self.model(values, return_dict=True).last_hidden_state[0]
        finally:
            for hook in hooks:
                hook.remove()
        if self._head is not None:
            tapped[CTC] = self._head(tapped["final"])


def _tap_input(tapped: dict[str, Tensor], name: str) -> Any:
    def hook(_module: Any, positional: tuple, named: Mapping[str, Any]) -> None:
        tapped[name] = (positional[0] if positional else named["hidden_states"])[0]

    return hook


def _tap_output(tapped: dict[str, Tensor], name: str) -> Any:
    def hook(_module: Any, _inputs: Any, output: Any) -> None:
        tapped[name] = (output[0] if isinstance(output, tuple) else output)[0]

    return hook


def _tap_conv(tapped: dict[str, Tensor]) -> Any:
    def hook(_module: Any, _inputs: Any, output: Tensor) -> None:
        tapped[CONV] = output[0].T

    return hook


def epsilon_of(info: ModelInfo) -> float:
    """What is added to the variance of a waveform that is normalised: transformers' constant,
    unless the model has its own.
    """
    return float(info.settings.get(EPSILON, NORMALIZE_EPSILON))


def normalized(wave: Tensor, epsilon: float = NORMALIZE_EPSILON) -> Tensor:
    """A waveform (time,) of zero mean and unit variance, float32, by way of float64; memory in
    float64 does not grow with length.
    """
    blocks = wave.split(NORMALIZED_SAMPLES)
    mean = sum(block.double().sum() for block in blocks) / len(wave)
    variance = sum((block.double() - mean).square().sum() for block in blocks) / len(wave)
    scale = (variance + epsilon).sqrt()
    result = torch.empty_like(wave)
    for block, into in zip(blocks, result.split(NORMALIZED_SAMPLES), strict=True):
        into[:] = (block.double() - mean) / scale
    return result


def count_frames(n_samples: int, kernels: Sequence[tuple[int, int]]) -> int:
    """Frames after a stack of unpadded convolutions given as (kernel, stride)."""
    for kernel, stride in kernels:
        n_samples = (n_samples - kernel) // stride + 1
    return max(0, n_samples)


def receptive_field(kernels: Sequence[tuple[int, int]]) -> int:
    """Samples that one frame needs."""
    samples = 1
    for kernel, stride in reversed(kernels):
        samples = (samples - 1) * stride + kernel
    return samples
