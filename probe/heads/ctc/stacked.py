"""CTC heads with stacked weights: the logits of all learning rates of a layer, and of all layers,
at once.

Weights are those of a `probe.heads.ctc.modules.CTCHead` by the same names, each (rate, ...). Heads
of single frames are one product a layer; bidirectional LSTMs of all layers go through time together
(`probe.heads.ctc.grouped_lstm`).
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from probe.heads.ctc.grouped_lstm import LSTMs, bidirectional
from probe.heads.ctc.loss import Scratch
from probe.heads.ctc.modules import ACTIVATIONS, HeadSettings

Weights = Mapping[str, Tensor]


def stacked_logits(
    settings: HeadSettings,
    weights: Sequence[Weights],
    frames: Sequence[Tensor],
    lengths: Tensor,
    training: bool,
    scratch: Scratch | None = None,
) -> list[Tensor]:
    """Layer -> (batch, frame, rate, symbol); meaningless past an utterance's length.

    Args:
        weights: of each layer.
        frames: layer -> (batch, frame, dim) as its heads read them, of one length.
        lengths: (batch,) int64.
        training: whether dropout is on. All heads share its masks, which are those that each draws
            alone.
        scratch: its memory is used until the next call; gradients must be taken before.
    """
    if settings.head == "bilstm":
        return _of_lstms(settings, weights, frames, lengths, training, scratch or Scratch())
    return [
        _of_single_frames(settings, own, rows) for own, rows in zip(weights, frames, strict=True)
    ]


def kept_bytes(settings: HeadSettings, n_frames: int) -> int:
    """Bytes that one LSTM head keeps for the gradients of a batch of so many frames, float32; 0 of
    heads of single frames.

    For each unit four gates, cell, its tanh, hidden state; the outputs of both directions side by
    side and after dropout; their gradients.
    """
    is_lstm = settings.head == "bilstm"
    return 4 * n_frames * settings.n_layers * 2 * settings.hidden * 12 if is_lstm else 0


def _of_single_frames(settings: HeadSettings, weights: Weights, frames: Tensor) -> Tensor:
    """(batch, frame, dim) -> (batch, frame, rate, symbol)."""
    values = list(weights.values())
    first, *others = zip(values[::2], values[1::2], strict=True)
    outputs = F.linear(frames, first[0].flatten(0, 1), first[1].flatten())
    outputs = outputs.unflatten(2, (len(first[0]), -1))
    for weight, bias in others:
        inputs = ACTIVATIONS[settings.activation](outputs)
        outputs = torch.einsum("btri,roi->btro", inputs, weight) + bias
    return outputs


def _of_lstms(
    settings: HeadSettings,
    weights: Sequence[Weights],
    frames: Sequence[Tensor],
    lengths: Tensor,
    training: bool,
    scratch: Scratch,
) -> list[Tensor]:
    n_rates = [len(own["projection.bias"]) for own in weights]
    rows: Sequence[Tensor] = [item.transpose(0, 1).contiguous()[None] for item in frames]
    for number in range(settings.n_layers):
        pairs = [
            (_lstms(own, f"layers.{number}.ahead"), _lstms(own, f"layers.{number}.back"))
            for own in weights
        ]
        outputs = bidirectional(rows, pairs, lengths, scratch.within(f"LSTM {number}"))
        _, n_frames, n_batch, width = outputs.shape
        if training and settings.dropout:
            mask = F.dropout(outputs.new_ones(n_batch, n_frames, width), settings.dropout)
            outputs = outputs * mask.transpose(0, 1)
        rows = outputs.split(n_rates)
    weight, bias = (
        torch.cat([own[f"projection.{name}"] for own in weights]) for name in ("weight", "bias")
    )
    logits = torch.baddbmm(bias[:, None], outputs.flatten(1, 2), weight.transpose(1, 2))
    return list(logits.unflatten(1, (n_frames, n_batch)).permute(2, 1, 0, 3).split(n_rates, dim=2))


def _lstms(weights: Weights, name: str) -> LSTMs:
    """Those of one direction, by the names of ``torch.nn.LSTM``."""
    return LSTMs(
        weights[f"{name}.weight_ih_l0"],
        weights[f"{name}.weight_hh_l0"],
        weights[f"{name}.bias_ih_l0"] + weights[f"{name}.bias_hh_l0"],
    )
