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

import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from probe.models.encoder import CONV, CTC, Chunking, ModelInfo, brief_of, padded
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
        # Opens the same checkpoint afresh.
        self.again: Callable[[], TransformersEncoder] | None = None
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

    @property
    def ctc_head(self) -> np.ndarray | None:
        """(symbol, dim + 1) float32, the weights of the CTC head with the bias behind each row;
        None where there is no head.
        """
        if self._head is None:
            return None
        weights = torch.cat([self._head.weight, self._head.bias[:, None]], dim=1)
        return np.asarray(weights.detach().float().cpu().numpy())

    @property
    def frame_rate_hz(self) -> float:
        """Frames per second."""
        return self.info.rate_hz / self.info.grid.hop_samples

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
        return padded([list(of_layer) for of_layer in zip(*alone, strict=True)])

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
        if not exact:
            values = self._preprocessed(wave).input_values
        elif self.extractor.do_normalize:
            samples = wave.cpu().numpy().astype("float64")
            (values,) = self.extractor.zero_mean_unit_var_norm([samples], None)
            values = torch.tensor(values)[None]
        else:
            values = wave[None]
        values = values.float().to(self.device)
        encoded = self.model(values, output_hidden_states=True, return_dict=True)
        layers = {str(index): frames[0] for index, frames in enumerate(encoded.hidden_states)}
        layers[CONV] = self.model.feature_extractor(values)[0].T
        return layers | self._last_layers(encoded.last_hidden_state[0])

    def _last_layers(self, final: Tensor) -> dict[str, Tensor]:
        """The layer ``final`` and, where there is a head, `CTC`."""
        return {"final": final} | ({CTC: self._head(final)} if self._head is not None else {})

    def _preprocessed(self, wave: Tensor, **settings: bool | int | str) -> Any:
        """What transformers' own preprocessor makes of a waveform, (1, ...) tensors."""
        rate_hz = self.extractor.sampling_rate
        samples = wave.cpu().numpy()
        return self.extractor(samples, sampling_rate=rate_hz, return_tensors="pt", **settings)

    @torch.inference_mode()
    def final_of(self, last: Tensor, n_frames: int) -> Tensor:
        """The final output, (``n_frames``, dim), that follows from the last block's (frame, dim),
        by the weights after it alone.
        """
        norm = self._final_norm
        shape = norm.normalized_shape
        return torch.nn.functional.layer_norm(last, shape, norm.weight, norm.bias, norm.eps)

    def _encode_one(self, wave: Tensor, layers: Sequence[str]) -> list[Tensor]:
        """(time,) -> one (frame, dim) per layer."""
        values = (normalized(wave, epsilon_of(self.info)) if self.info.normalize else wave)[None]
        tapped: dict[str, Tensor] = {}
        tap = tap_output(tapped, CONV, lambda output: output.mT)
        with self.model.feature_extractor.register_forward_hook(tap):
            self._run_cut(values, tapped)
        return [tapped[name] for name in layers]

    def _run_cut(self, values: Tensor, tapped: dict[str, Tensor]) -> None:
        """As `_run`, but the transformer sees long audio one window after the other, and what is
        kept of each is joined.
        """
        transformer = self.model.encoder
        whole, factor = transformer.forward, getattr(self.model.config, "squeeze_factor", 1)
        names = [str(i) for i in range(len(self._blocks) + 1)]

        def forward(hidden: Tensor, *positional: Any, **named: Any) -> Any:
            n_frames, parts = hidden.shape[1] // factor, []
            for window in windows(n_frames, self.chunking, self.frame_rate_hz):
                # The last window also takes the frames that do not fill the factor.
                stop = window.stop * factor if window.stop < n_frames else None
                output = whole(hidden[:, window.start * factor : stop], *positional, **named)
                first, last = window.kept_from - window.start, window.kept_to - window.start
                stop = last * factor if window.kept_to < n_frames else None
                final = output.last_hidden_state[0, first * factor : stop]
                parts.append({name: tapped[name][first:last] for name in names} | {"final": final})
            tapped.update(joined(parts))
            return type(output)(last_hidden_state=tapped["final"][None])

        transformer.forward = forward
        try:
            self._run(values, tapped)
        finally:
            del transformer.forward

    def _run(self, values: Tensor, tapped: dict[str, Tensor]) -> None:
        """Run the module on its input, one utterance, and tap (frame, dim) of the numbered layers,
        ``final`` and the head.
        """

        def tap_input(_module: Any, positional: tuple, named: Mapping[str, Any]) -> None:
            tapped["0"] = (positional[0] if positional else named["hidden_states"])[0]

        with contextlib.ExitStack() as hooks:
            first = self._blocks[0]
            hooks.enter_context(first.register_forward_pre_hook(tap_input, with_kwargs=True))
            for i, block in enumerate(self._blocks, start=1):
                hooks.enter_context(block.register_forward_hook(tap_output(tapped, str(i))))
            final = self.model(values, return_dict=True).last_hidden_state[0]
        tapped.update(self._last_layers(final))


def tap_output(
    tapped: dict[str, Tensor], name: str, change: Callable[[Tensor], Tensor] = lambda output: output
) -> Any:
    """Return a hook that keeps a module's output, changed, as (frame, dim)."""

    def hook(_module: Any, _inputs: Any, output: Any) -> None:
        tapped[name] = change(output[0] if isinstance(output, tuple) else output)[0]

    return hook


def joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Concatenate each layer of the windows of an utterance."""
    if len(parts) == 1:
        return parts[0]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def epsilon_of(info: ModelInfo) -> float:
    """Return what is added to a waveform's variance when it is normalised: transformers' constant
    unless the model has its own.
    """
    return float(info.settings.get(EPSILON, NORMALIZE_EPSILON))


def normalized(wave: Tensor, epsilon: float = NORMALIZE_EPSILON) -> Tensor:
    """Return a waveform (time,) with zero mean and unit variance, float32, computed in float64
    block by block.
    """
    blocks = wave.split(NORMALIZED_SAMPLES)
    mean = sum(block.double().sum() for block in blocks) / len(wave)
    variance = sum((block.double() - mean).square().sum() for block in blocks) / len(wave)
    scale = (variance + epsilon).sqrt()
    result = torch.empty_like(wave)
    for block, into in zip(blocks, result.split(NORMALIZED_SAMPLES), strict=True):
        into[:] = (block.double() - mean) / scale
    return result
