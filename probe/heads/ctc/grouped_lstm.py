"""Run the LSTMs of many heads together, with one batched product per frame and an explicit backward
pass.

The contributions of the frames and the gradients of the weights are large products outside the loop
over time. Both directions of a bidirectional layer share the loop: the backward direction reads the
frames reversed. A reversed utterance begins with its padding; the input gates are closed there, so
that the state stays 0 until the utterance's last frame. The result equals that of ``torch.nn.LSTM``
on packed sequences, up to rounding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probe.heads.ctc.loss import Scratch

# Number of recurrent weights that run through time together on a CPU; more would leave its cache
# before the next frame.
CACHE_BYTES = 4 << 20


@dataclass(frozen=True)
class LSTMs:
    """Weights of heads that read the same frames, or frames of the same shape, with torch's names
    and order of gates.

    Attributes:
        weight_ih: (head, 4 * hidden, dim).
        weight_hh: (head, 4 * hidden, hidden).
        bias: (head, 4 * hidden), the sum of both biases.
    """

    weight_ih: Tensor
    weight_hh: Tensor
    bias: Tensor


Pair = tuple[LSTMs, LSTMs]


def bidirectional(
    frames: Sequence[Tensor], pairs: Sequence[Pair], lengths: Tensor, scratch: Scratch | None = None
) -> Tensor:
    """Return the outputs (head, frame, batch, 2 * hidden) of all heads in the order of the pairs;
    values past an utterance's length are undefined.

    Args:
        frames: for each pair (1, frame, batch, dim) if its heads read the same frames, otherwise
            (head, frame, batch, dim).
        pairs: forward and backward LSTMs with one hidden size.
        lengths: (batch,) int64.
        scratch: memory that is in use until the next call; compute gradients before that.
    """
    device, n_pairs = frames[0].device, len(pairs)
    past = torch.arange(frames[0].shape[1], device=device)[:, None] >= lengths.to(device)
    lstms = [pair[direction] for direction in (0, 1) for pair in pairs]
    rows = [*frames, *(item.flip(1) for item in frames)]
    shut = [torch.zeros_like(past)] * n_pairs + [past.flip(0)] * n_pairs
    weight_hh = torch.cat([item.weight_hh for item in lstms])
    bias = torch.cat([item.bias for item in lstms])
    hidden = _LSTMs.apply(
        scratch or Scratch(), shut, weight_hh, bias, *rows, *(item.weight_ih for item in lstms)
    )
    ahead, back = hidden.chunk(2)
    return torch.cat([ahead, back.flip(1)], dim=3)


class _LSTMs(torch.autograd.Function):
    """One direction of all heads, which can be differentiated once.

    The backward pass overwrites the tensors that the forward pass kept; autograd detects a second
    use of them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        scratch: Scratch,
        shut: Sequence[Tensor],
        weight_hh: Tensor,
        bias: Tensor,
        *sets: Tensor,
    ) -> Tensor:
        """Return (head, frame, batch, hidden) for sets of heads with frames (1 or head, frame,
        batch, dim) and weights (head, 4 * hidden, dim).

        Args:
            shut: (frame, batch) for each set, the places where its input gates are closed.
        """
        frames, weights = sets[: len(shut)], sets[len(shut) :]
        _, n_frames, n_batch, _ = frames[0].shape
        n_heads, _, size = weight_hh.shape
        gates = scratch.take("gates", (n_heads, n_frames, n_batch, 4 * size), weight_hh)
        heads = [len(weight) for weight in weights]
        for rows, weight, offset, closed, entering in zip(
            frames, weights, bias.split(heads), shut, gates.split(heads), strict=True
        ):
            for i, of_head in enumerate(rows.flatten(1, 2).expand(len(weight), -1, -1)):
                torch.addmm(offset[i], of_head, weight[i].T, out=entering[i].flatten(0, 1))
            entering[..., :size].masked_fill_(closed[:, :, None], -torch.inf)
        cells, squashed = (
            scratch.take(name, (n_heads, n_frames, n_batch, size), gates)
            for name in ("cells", "squashed")
        )
        hidden = torch.empty_like(cells)
        for part in _cached_parts(weight_hh):
            states = (cells[part], squashed[part], hidden[part])
            _forward(gates[part], weight_hh[part], *states, scratch)
        ctx.scratch, ctx.n_sets = scratch, len(shut)
        ctx.save_for_backward(gates, cells, squashed, hidden, weight_hh, *sets)
        return hidden

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        gates, cells, squashed, hidden, weight_hh, *sets = ctx.saved_tensors
        frames, weights = sets[: ctx.n_sets], sets[ctx.n_sets :]
        for part in _cached_parts(weight_hh):
            states = (gates[part], cells[part], squashed[part])
            _backward(outer[part], *states, weight_hh[part], ctx.scratch)
        of_hh = torch.bmm(gates[:, 1:].flatten(1, 2).transpose(1, 2), hidden[:, :-1].flatten(1, 2))
        of_frames: list[Tensor | None] = []
        of_ih = []
        parts = gates.flatten(1, 2).split([len(weight) for weight in weights])
        for rows, weight, of_gates, is_needed in zip(
            frames, weights, parts, ctx.needs_input_grad[4:], strict=False
        ):
            inputs = rows.flatten(1, 2).expand(len(weight), -1, -1)
            of_ih.append(_products(of_gates.transpose(1, 2), inputs))
            of_frames.append(None)
            if is_needed:
                of_rows = _products(of_gates, weight).unflatten(1, rows.shape[1:3])
                of_frames[-1] = of_rows.sum_to_size(rows.shape)
        return None, None, of_hh, gates.sum((1, 2)), *of_frames, *of_ih


def _products(left: Tensor, right: Tensor) -> Tensor:
    """Multiply (head, n, k) by (head, k, m) head by head, because a batched product on a CPU gives
    each head a single core.
    """
    results = left.new_empty(len(left), left.shape[1], right.shape[2])
    for one, other, result in zip(left, right, results, strict=True):
        torch.mm(one, other, out=result)
    return results


def _cached_parts(weight_hh: Tensor) -> Iterator[slice]:
    """Yield the slices of heads that run through time together."""
    n_heads = n_at_once = len(weight_hh)
    if weight_hh.device.type == "cpu":
        n_at_once = max(1, CACHE_BYTES // weight_hh[0].nbytes)
    for first in range(0, n_heads, n_at_once):
        yield slice(first, first + n_at_once)


def _forward(
    gates: Tensor,
    weight_hh: Tensor,
    cells: Tensor,
    squashed: Tensor,
    hidden: Tensor,
    scratch: Scratch,
) -> None:
    """Fill in the cells, their tanh and the hidden states; ``gates`` change from inputs of the
    sigmoids to their values.

    One sigmoid serves all gates, because tanh(x) = 2 sigmoid(2 x) - 1: the input of the cell's
    candidate is doubled.
    """
    size = weight_hh.shape[2]
    candidate = slice(2 * size, 3 * size)
    weights = weight_hh.clone()
    weights[:, candidate] *= 2
    gates[..., candidate] *= 2
    recurrent = scratch.take("step", gates[:, 0].shape, gates)
    for t in range(gates.shape[1]):
        now, cell = gates[:, t], cells[:, t]
        if t:
            now += torch.bmm(hidden[:, t - 1], weights.transpose(1, 2), out=recurrent)
        i, f, g, o = now.sigmoid_().chunk(4, dim=2)
        if t:
            torch.mul(f, cells[:, t - 1], out=cell)
        else:
            cell.zero_()
        cell.addcmul_(i, g, value=2).sub_(i)
        torch.mul(o, torch.tanh(cell, out=squashed[:, t]), out=hidden[:, t])


def _backward(
    outer: Tensor,
    gates: Tensor,
    cells: Tensor,
    squashed: Tensor,
    weight_hh: Tensor,
    scratch: Scratch,
) -> None:
    """Compute gradients; ``gates`` change from values of the sigmoids to gradients of their inputs.

    Args:
        outer: (head, frame, batch, hidden) gradient of the hidden states.
    """
    inner = scratch.take("step", gates[:, 0].shape, gates)  # gradients of the gates' values
    of_i, of_f, of_g, of_o = inner.chunk(4, dim=2)
    of_hidden, of_cell, through = (
        scratch.take(name, cells[:, 0].shape, cells) for name in ("of hidden", "of cell", "through")
    )
    of_hidden.zero_()
    of_cell.zero_()
    for t in reversed(range(gates.shape[1])):
        now, tanh = gates[:, t], squashed[:, t]
        i, f, g, o = now.chunk(4, dim=2)
        of_hidden += outer[:, t]
        torch.mul(of_hidden, o, out=through)
        of_cell += through
        torch.mul(of_hidden, tanh, out=of_o)
        of_cell.addcmul_(through.mul_(tanh), tanh, value=-1)
        torch.mul(of_cell, g, out=of_i).mul_(2).sub_(of_cell)
        torch.mul(of_cell, i, out=of_g).mul_(4)
        if t:
            torch.mul(of_cell, cells[:, t - 1], out=of_f)
        else:
            of_f.zero_()
        of_cell *= f
        now.addcmul_(now, now, value=-1)  # sigmoid' = s - s^2
        now *= inner
        if t:
            torch.bmm(now, weight_hh, out=of_hidden)
