"""CTC heads with stacked weights, which compute the logits of all learning rates and layers at
once.

Weights have the names of those in `probe.heads.ctc.modules.CTCHead` and the shapes (rate, ...).
Heads of single frames take one product per layer; the bidirectional LSTMs of all layers run through
time together (`probe.heads.ctc.grouped_lstm`).
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
    """Return the logits (batch, frame, rate, symbol) of each layer; values past an utterance's
    length are undefined.

    Args:
        weights: the stacked weights of each layer.
        frames: the input (batch, frame, dim) of each layer's heads, all with one number of frames.
        lengths: (batch,) int64.
        training: whether dropout is on. All heads share its masks, which equal those that each head
            draws alone.
        scratch: memory that is in use until the next call; compute gradients before that.
    """
    if settings.head == "bilstm":
        return _of_lstms(settings, weights, frames, lengths, training, scratch or Scratch())
    return [
        _of_single_frames(settings, own, rows) for own, rows in zip(weights, frames, strict=True)
    ]


def kept_bytes(settings: HeadSettings, n_frames: int) -> int:
    """Return the bytes that one LSTM head keeps for the gradients of a batch of this many float32
    frames; 0 for heads of single frames.

    A head keeps four gates, the cell, its tanh and the hidden state of each unit, the outputs of
    both directions before and after dropout, and their gradients.
    """
    is_lstm = settings.head == "bilstm"
    return 4 * n_frames * settings.n_layers * 2 * settings.hidden * 12 if is_lstm else 0


def _of_single_frames(settings: HeadSettings, weights: Weights, frames: Tensor) -> Tensor:
    """Return (batch, frame, rate, symbol) logits for frames (batch, frame, dim)."""
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
    """Return the LSTMs of one direction from weights with the names of ``torch.nn.LSTM``."""
    return LSTMs(
        weights[f"{name}.weight_ih_l0"],
        weights[f"{name}.weight_hh_l0"],
        weights[f"{name}.bias_ih_l0"] + weights[f"{name}.bias_hh_l0"],
    )
