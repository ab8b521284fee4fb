"""The packed implementation: our own forward of the wav2vec 2.0 family, with the weights of a
transformers module.

Utterances are not padded. Their frames lie one after the other, (row, dim), with offsets; what
treats every frame alike (linear layers, norms) runs over all rows at once, what mixes frames
(front-end, positional convolution, attention) runs per utterance. So an utterance's frames do not
depend on its batch mates: on a CPU they are the same bits. On a GPU products of different sizes may
round differently.

With bf16, products are in bfloat16 and everything between blocks (the residual stream, LayerNorms)
in float32.

Attention over long audio is cut into windows that see some seconds more on both sides (`Chunking`);
layer 0 stays exact. Unchunked, time grows with the square of an utterance's length; chunked, memory
beyond layer 0 does not grow at all.
"""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from probe.models.encoder import CONV, CTC, Chunking, padded
from probe.models.packed.attention import Attention, PositionBias
from probe.models.packed.frontend import FrontEnd
from probe.models.packed.positional import Positional
from probe.models.packed.products import Norm, Product, dtype_of, exactly, on_one_thread
from probe.models.reference import TransformersEncoder, epsilon_of, normalized
from probe.models.windows import Window, windows

# Rows that run through the blocks together, and through the feed-forward layers of longer windows:
# what a CPU's cache holds of them, and enough to make up for the start of a GPU's kernels.
ROWS = {"cpu": 2048, "cuda": 32_768}


class PackedForm(TransformersEncoder):
    """What the packed encoders of all families have in common. The module stays as it is, for
    comparison by `probe.models.check`.

    Attributes:
        precision: ``fp32``, ``tf32`` or ``bf16``.
        chunking: None where attention always sees whole utterances.
        rows: frames that run through the blocks together; less takes less memory. On a CPU it
            decides no bit.
    """

    implementation = "packed"
    network_class: "type[Network]"

    def __init__(
        self,
        reference: TransformersEncoder,
        precision: str = "fp32",
        chunking: Chunking | None = None,
    ) -> None:
        """Takes over a reference encoder, whose configuration `probe.models.packed.support` must
        allow.

        The weights are copied into the layout of the products at the first use, not here.

        Raises:
            UsageError: a precision that the device does not have.
        """
        super().__init__(reference.model, reference.info, reference.extractor, reference._head)
        self.again = reference.again
        self.precision, self.chunking, self.rows = precision, chunking, ROWS[self.device.type]
        self._dtype = dtype_of(precision, self.device)
        self._network: Network | None = None

    @property
    def network(self) -> "Network":
        """The weights in the layout of the products."""
        if self._network is None:
            with on_one_thread():
                self._network = self.network_class(self.model, self._head, self._dtype)
        return self._network

    @torch.inference_mode()
    def encode(
        self, waveforms: Tensor, lengths: Tensor, layers: Sequence[str]
    ) -> tuple[list[Tensor], Tensor]:
        """See `probe.models.encoder.Encoder.encode`."""
        alone = [wave[:length] for wave, length in zip(waveforms, lengths.tolist(), strict=True)]
        packed, offsets = self.encode_packed(alone, layers)
        n_frames = offsets.diff().tolist()
        return padded([frames.split(n_frames) for frames in packed])

    @torch.inference_mode()
    def encode_packed(
        self, waveforms: Sequence[Tensor], layers: Sequence[str]
    ) -> tuple[list[Tensor], Tensor]:
        """Frames of the layers that are asked for, without padding.

        Args:
            waveforms: (time,) float32 each, on the encoder's device, at ``info.rate_hz``, at least
                ``info.grid.min_samples`` long.
            layers: names out of ``info.layers``; also `CTC` where ``info.ctc`` is not empty.

        Returns:
            One (row, dim) float32 tensor per layer, the frames of all utterances one after the
            other, and the row at which each utterance begins, with the number of rows at the end,
            as (utterance + 1,) int64 on the CPU.
        """
        pieces = list(zip(*self.pieces(waveforms, layers), strict=True))
        offsets = torch.tensor([0, *(self.info.n_frames(len(wave)) for wave in waveforms)]).cumsum(
            0
        )
        return [torch.cat(parts) if len(parts) > 1 else parts[0] for parts in pieces], offsets

    def pieces(self, waveforms: Sequence[Tensor], layers: Sequence[str]) -> Iterator[list[Tensor]]:
        """See `probe.models.encoder.pieces_of`: the rows of `encode_packed` in order."""
        raise NotImplementedError


class Network:
    """One module's weights, ready for packed execution.

    Attributes:
        skips_rows: whether the last block that is needed computes only the rows that are kept.
    """

    skips_rows = False

    def __init__(self, model: Any, head: Any, dtype: torch.dtype) -> None:
        """``model`` is transformers' encoder, ``head`` the linear layer of its CTC head or None."""
        projection, encoder = model.feature_projection, model.encoder
        self.pre_ln = bool(getattr(model.config, "do_stable_layer_norm", False))
        self.front_end = FrontEnd(model.feature_extractor.conv_layers, dtype)
        has_norm = hasattr(projection, "layer_norm")
        self.projection_norm = Norm(projection.layer_norm) if has_norm else None
        self.projection = Product(projection.projection.weight, projection.projection.bias, dtype)
        self.positional = Positional(encoder.pos_conv_embed)
        self.norm = Norm(encoder.layer_norm)
        self.blocks = [Block(block, self.pre_ln, dtype) for block in encoder.layers]
        attention = encoder.layers[0].attention
        has_bias = hasattr(attention, "rel_attn_embed")
        self.position_bias = PositionBias(attention) if has_bias else None
        self.head = None if head is None else Product(head.weight, head.bias, torch.float32)

    def begin(
        self, waves: Sequence[Tensor], with_conv: bool
    ) -> tuple[dict[str, Tensor], list[int]]:
        """Utterances, each (time,) float32 -> layer 0 (and `CONV`) of all, (row, dim) float32, and
        the frames of each.
        """
        extracted = [self.front_end(wave) for wave in waves]
        n_frames = [len(frames) for frames in extracted]
        rows = torch.cat(extracted) if len(extracted) > 1 else extracted[0]
        tapped = {CONV: rows.float()} if with_conv else {}
        # An hour's layer 0 is half a gigabyte: what is needed no more goes, and sums and norms are
        # taken in place.
        del extracted
        hidden = rows.new_empty(len(rows), self.projection.n_out, dtype=torch.float32)
        at_once = ROWS[rows.device.type]
        for some, into in zip(rows.split(at_once), hidden.split(at_once), strict=True):
            into[:] = self.projection(self.projection_norm(some) if self.projection_norm else some)
        del rows
        for frames in hidden.split(n_frames):
            frames += self.positional(frames)
        for some in hidden.split(at_once) if not self.pre_ln else ():
            some[:] = self.norm(some)
        return tapped | {"0": hidden}, n_frames

    def run(
        self, begun: Mapping[str, Tensor], windows: Sequence[Window], layers: Sequence[str]
    ) -> list[Tensor]:
        """What `begin` gave, (row, dim) each -> the kept rows of ``windows``, (row, dim) float32
        for each of ``layers``.
        """
        lengths = [window.stop - window.start for window in windows]
        bias = self.position_bias(max(lengths)) if self.position_bias else None
        tapped = {
            name: torch.cat([rows[window.start : window.stop] for window in windows])
            for name, rows in begun.items()
        }
        hidden = tapped["0"]
        kept = [
            slice(window.kept_from - window.start, window.kept_to - window.start)
            for window in windows
        ]
        n_kept = sum(span.stop - span.start for span in kept)
        numbers = [
            int(name) if name.isdecimal() else len(self.blocks) for name in layers if name != CONV
        ]
        last = max(numbers, default=0)
        for number, block in enumerate(self.blocks[:last], start=1):
            skips = self.skips_rows and number == last
            hidden = block(hidden, lengths, bias, kept if skips else None)
            if str(number) in layers:
                tapped[str(number)] = hidden
        if "final" in layers or CTC in layers:
            tapped["final"] = self.norm(hidden) if self.pre_ln else hidden
        if CTC in layers and self.head is not None:
            tapped[CTC] = self.head(tapped["final"])
        return [
            tapped[name] if len(tapped[name]) == n_kept else _rows_of(tapped[name], lengths, kept)
            for name in layers
        ]


class PackedEncoder(PackedForm):
    """An encoder of the wav2vec 2.0 family with the packed forward."""

    network_class = Network

    @torch.inference_mode()
    def pieces(self, waveforms: Sequence[Tensor], layers: Sequence[str]) -> Iterator[list[Tensor]]:
        """The rows of `encode_packed` in order, a few thousand at a time: (row, dim) per layer.

        Of a chunked utterance, with a caller that keeps no piece, memory beyond the audio is layer
        0, `CONV` where that is asked for, and a constant.
        """
        network = self.network
        with exactly(self.precision):
            epsilon = epsilon_of(self.info)
            to_input = functools.partial(normalized, epsilon=epsilon)
            waves = list(map(to_input if self.info.normalize else torch.clone, waveforms))
            tapped, n_frames = network.begin(waves, CONV in layers)
        for group in _grouped(self._windows(n_frames), self.rows):
            with exactly(self.precision):
                yield network.run(tapped, group, layers)

    def _windows(self, n_frames: Sequence[int]) -> Iterator[Window]:
        """The windows of utterances of so many frames, one after the other."""
        for start, stop in itertools.pairwise(itertools.accumulate(n_frames, initial=0)):
            yield from windows(stop - start, self.chunking, self.frame_rate_hz, start)


class Block:
    """One transformer block."""

    def __init__(
        self, module: Any, pre_ln: bool, dtype: torch.dtype, tile: int | None = None
    ) -> None:
        """``module`` is transformers'; ``pre_ln`` says whether its LayerNorms come before or after
        what they belong to; ``tile`` as in `Attention`.
        """
        self.pre_ln = pre_ln
        if hasattr(module, "self_attn"):  # Whisper's names
            attention, attention_norm = module.self_attn, module.self_attn_layer_norm
            inner, outer = module.fc1, module.fc2
        else:
            attention, attention_norm = module.attention, module.layer_norm
            inner, outer = module.feed_forward.intermediate_dense, module.feed_forward.output_dense
        self.attention = Attention(attention, dtype, tile)
        self.attention_norm, self.norm = Norm(attention_norm), Norm(module.final_layer_norm)
        self.inner = Product(inner.weight, inner.bias, dtype, gelu=True)
        self.outer = Product(outer.weight, outer.bias, dtype)

    def __call__(
        self,
        hidden: Tensor,
        lengths: Sequence[int],
        bias: Tensor | None,
        queries: Sequence[slice] | None = None,
    ) -> Tensor:
        """(row, dim) float32 -> (row, dim) of the requested frames, a new tensor; ``lengths``,
        ``bias`` and ``queries`` as in `Attention`.
        """
        at_once = ROWS[hidden.device.type]
        requested = hidden if queries is None else _rows_of(hidden, lengths, queries)
        if self.pre_ln:
            normed = self.attention_norm(hidden)
            hidden = requested + self.attention(normed, lengths, bias, queries)
            parts = hidden.split(at_once)
            return torch.cat([rows + self.outer(self.inner(self.norm(rows))) for rows in parts])
        added = self.attention(hidden, lengths, bias, queries)
        hidden = self.attention_norm(requested + added)
        parts = hidden.split(at_once)
        return torch.cat([self.norm(rows + self.outer(self.inner(rows))) for rows in parts])


def _rows_of(rows: Tensor, lengths: Sequence[int], spans: Sequence[slice]) -> Tensor:
    """(row, dim) of several utterances -> the rows of each one's span, one after the other."""
    parts = zip(rows.split(list(lengths)), spans, strict=True)
    return torch.cat([part[span] for part, span in parts])


def _grouped(windows: Iterator[Window], most_rows: int) -> Iterator[list[Window]]:
    """Consecutive windows that together have at most ``most_rows`` rows, or one that has more."""
    group: list[Window] = []
    for window in windows:
        if group and sum(item.stop - item.start for item in [*group, window]) > most_rows:
            yield group
            group = []
        group.append(window)
    if group:
        yield group
