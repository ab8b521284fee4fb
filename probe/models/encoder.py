"""The contract of every model, the properties that a model declares, and the names of layers."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from probe.brief import brief, counted
from probe.environment import processor
from probe.errors import ProbeError, UsageError
from probe.model_names import ModelName
from probe.models.frames import FrameGrid

CTC = "ctc"  # the layer that holds the scores of the checkpoint's own CTC head, (frame, symbol)
CONV = "conv"  # the layer that holds the front-end's output before its projection
PLUGIN = "plugin"  # the family of models that are somebody else's code; their names begin so
ASSUMED = "are assumed"  # in a note of a model whose folder has no preprocessor
USUAL_GRID = FrameGrid(320, 400, 400)  # of wav2vec 2.0


@dataclass(frozen=True)
class ModelInfo:
    """The properties of a model that decide the values of its features.

    Attributes:
        id: the name without revision: ``org/name``, the last part of a folder's or a
            file's path, ``torchaudio:NAME``, ``random:org/name``, ``fbank``.
        revision: resolved commit, first digits of the hash of a folder's or a file's weights, a
            bundle's file, seed of random weights, or version of a spectral front-end.
        weights_sha256: of the weights' files (random weights: of their values); empty where there
            are no weights.
        family: transformers' ``model_type`` (`probe.models.sources.known.FAMILIES`), ``spectral``,
            or ``plugin``.
        layers: name -> width, in order; see FACTS on what a layer is: ``0`` is the input of the
            first block, ``i`` the output of block i, ``final`` the output after the final LayerNorm
            where that differs from the last block's.
        on_request: further layers, name -> width, that are given only where they are asked for by
            name: `CONV`.
        aliases: names of layers that are another layer: ``final`` -> ``12`` in post-LN models.
        rate_hz: sampling rate of the waveforms it wants.
        normalize: whether each waveform is brought to zero mean and unit variance.
        grid: where the frames of the layers stand; what is shorter than its ``min_samples`` gives
            no frame in some layer.
        other_grids: layer -> grid, for layers whose frames stand elsewhere.
        parameters: number of parameters of the encoder.
        settings: everything else that decides values.
        ctc: the checkpoint's own CTC head: ``writes``, the text of each symbol (a character, a
            space for the word boundary, nothing for the blank and other special symbols), and
            ``alphabet``, the characters among them; empty where there is none.
        weights: the file they came from, and what its hash was compared with; empty where there is
            none.
        left_out: names of weights in the file that the encoder has no place for, such as a
            pretraining head's.
        notes: what a user should know about the loading, one sentence each.
        spec: the text that opens it again (`probe.model_names.ModelName.resolved`); empty if
            unknown.
        requested: the name that the user opened it by; None if unknown.
    """

    id: str
    revision: str
    weights_sha256: str
    family: str
    layers: Mapping[str, int]
    on_request: Mapping[str, int] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    rate_hz: int = 16_000
    normalize: bool = False
    grid: FrameGrid = USUAL_GRID
    other_grids: Mapping[str, FrameGrid] = field(default_factory=dict)
    parameters: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    ctc: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    spec: str = ""
    requested: ModelName | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        layers = counted(len(self.layers), "layer")
        return brief(self, self.id, self.revision[:12], self.family, layers, f"{self.rate_hz} Hz")

    @property
    def every_layer(self) -> dict[str, int]:
        """Name -> width, in order from the audio on: those on request, then ``layers``."""
        return {**self.on_request, **self.layers}

    def n_frames(self, n_samples: int, layer: str = "") -> int:
        """Return how many frames ``n_samples`` samples give in a layer; without its name, in the
        layers without a grid of their own.
        """
        return self.other_grids.get(layer, self.grid).n_frames(n_samples)


@dataclass(frozen=True)
class Chunking:
    """How attention over long audio is cut.

    Attributes:
        above_s: shorter utterances stay whole.
        chunk_s: the part of each window whose frames are kept.
        context_s: the part of each window on both sides of the chunk.
    """

    above_s: float
    chunk_s: float
    context_s: float

    def __post_init__(self) -> None:
        chunk_s, context_s = self.chunk_s, self.context_s
        if not (self.above_s >= 0 and 0 < chunk_s < math.inf and 0 <= context_s < math.inf):
            raise UsageError(
                f"chunks of {chunk_s} s with {context_s} s of context above {self.above_s} s; "
                "expected more than 0 s (--chunk-s 0 leaves audio whole), and 0 s or more."
            )


@runtime_checkable
class Encoder(Protocol):
    """The batch contract: waveforms and lengths in, per-layer frames and lengths out.

    An utterance's frames do not depend on its batch mates.

    Attributes:
        implementation: ``reference`` (the library's own forward) or ``packed``
            (`probe.models.packed`).
        precision: ``fp32``, ``tf32`` or ``bf16``.
        chunking: how attention over long audio is cut; None where it never is.
        rows: how many frames it computes together, 1 for utterance by utterance; callers lower it
            where memory is short.
    """

    info: ModelInfo
    device: torch.device
    implementation: str
    precision: str
    chunking: Chunking | None
    rows: int

    def encode(
        self, waveforms: Tensor, lengths: Tensor, layers: Sequence[str]
    ) -> tuple[list[Tensor], Tensor]:
        """Return the frames of ``layers``.

        Args:
            waveforms: (batch, time) float32 on the encoder's device, at ``info.rate_hz``; samples
                past a length are ignored.
            lengths: (batch,) int64, samples of each utterance, ``info.grid.min_samples`` or more.
            layers: names out of ``info.every_layer``; also `CTC` where ``info.ctc`` is not empty.

        Returns:
            One (batch, frame, dim) float32 tensor per layer, and the valid frames as (layer, batch)
            int64. Frames past a length are 0.
        """
        ...


def pieces_of(
    encoder: Encoder, waveforms: Sequence[Tensor], layers: Sequence[str]
) -> Iterator[list[Tensor]]:
    """Yield frames of utterances without padding: (row, dim) per layer, the rows of all utterances
    in order, as many at a time as suits.

    An encoder whose layers are all on one grid may have a method ``pieces(waveforms, layers)`` of
    its own that does so; others are given one utterance at a time, and each is a piece.

    Args:
        waveforms: (time,) float32 each, on the encoder's device.

    Raises:
        ProbeError: it gives other numbers of frames than its ``info`` says.
    """
    info, own = encoder.info, getattr(encoder, "pieces", None)
    if own is not None:
        n_rows = 0
        for piece in own(waveforms, layers):
            n_rows += len(piece[0])
            yield piece
        expected = sum(info.n_frames(len(wave)) for wave in waveforms)
        _refuse_another_number(info, n_rows, expected, "these utterances")
        return
    for wave in waveforms:
        with torch.inference_mode():
            frames, _ = encoder.encode(wave[None], torch.tensor([len(wave)]), layers)
        for layer, of_layer in zip(layers, frames, strict=True):
            expected = info.n_frames(len(wave), layer)
            _refuse_another_number(info, of_layer.shape[1], expected, f"{len(wave)} samples")
        yield [of_layer[0] for of_layer in frames]


def _refuse_another_number(info: ModelInfo, n_rows: int, expected: int, of: str) -> None:
    if n_rows != expected:
        raise ProbeError(
            f"{info.id}: {n_rows} frames of {of} where its grid gives {expected}. "
            "Make them agree; otherwise frames cannot be assigned to utterances."
        )


def padded(of_layers: Sequence[Sequence[Tensor]]) -> tuple[list[Tensor], Tensor]:
    """Return what `Encoder.encode` returns, given each layer's (frame, dim) of every utterance."""
    n_frames = torch.tensor([[len(frames) for frames in of_layer] for of_layer in of_layers])
    pad = torch.nn.utils.rnn.pad_sequence
    return [pad(list(of_layer), batch_first=True) for of_layer in of_layers], n_frames


def out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice; torch's allocator for CPUs has no exception of its own."""
    has_kind = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return has_kind or "DefaultCPUAllocator: " in str(error)


def greedy_text(best: Iterable[int], writes: Sequence[str]) -> str:
    """Return the greedy transcript of a CTC head: repeats merged.

    transformers' tokenizer is not used: it merges double letters too when it skips special symbols
    (``HELO``).

    Args:
        best: the best symbol of each frame of the layer `CTC`.
        writes: see `ModelInfo.ctc`.
    """
    return " ".join("".join(writes[symbol] for symbol, _ in itertools.groupby(best)).split())


def device_name(device: torch.device) -> str:
    """The GPU's or the processor's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def brief_of(encoder: Encoder) -> str:
    """The line that a notebook shows: the model, its layers, implementation and precision."""
    layers = counted(len(encoder.info.layers), "layer")
    computed = f"{encoder.implementation}, {encoder.precision}"
    return brief(encoder, encoder.info.id, layers, computed, str(encoder.device))
