"""Self-attention: one product for queries, keys, values (and WavLM's gates) of all utterances, the
rest utterance by utterance.

By torch's own attention, or by plain products, `QUERIES` queries at a time, where those are faster
(measured in bfloat16 on a CPU 1.2 times, in float32 0.8 times) or a bias is added. Where only some
queries of an utterance are requested, all that share a tile of queries with them are computed, so
that a query's bits do not depend on which others are requested. WavLM adds a bias
that depends on the distance between key and query alone, scaled by a gate per query and head. One
row per distance holds it; with the queries of a block in reversed order its rows for successive
queries begin one further each, so the (query, key) bias is a view of that row and is never written
out.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from probe.models.packed.products import Product, inner_dtype

QUERIES = 128


class Attention:
    """The attention of one block."""

    def __init__(self, module: Any, dtype: torch.dtype, tile: int | None = None) -> None:
        """``module`` is transformers'; products, scores and weighted sums are in ``dtype``.

        Args:
            tile: queries that are computed together, a multiple of `QUERIES`; None takes all of an
                utterance, and then none can be left out.
        """
        self.heads, self.tile = module.num_heads, tile
        query, key, value = module.q_proj, module.k_proj, module.v_proj
        scale = 1 / math.sqrt(query.out_features // self.heads)
        weights = [scale * query.weight, key.weight, value.weight]
        # Whisper's keys have no bias.
        key_bias = torch.zeros_like(query.bias) if key.bias is None else key.bias
        biases = [scale * query.bias, key_bias, value.bias]
        if hasattr(module, "gru_rel_pos_linear"):  # WavLM's
            # Eight numbers per head, of which four and four are summed: two columns per head in the
            # product of all.
            self.gate_constant = module.gru_rel_pos_const.detach().flatten()
            linear = module.gru_rel_pos_linear
            sums = linear.weight.view(2, 4, -1).sum(1), linear.bias.view(2, 4).sum(1)
            for weight, bias in zip(*sums, strict=True):
                weights.append(torch.block_diag(*[weight[None]] * self.heads))
                biases.append(bias.expand(self.heads))
        self.project = Product(torch.cat(weights), torch.cat(biases), dtype)
        self.out = Product(module.out_proj.weight, module.out_proj.bias, dtype)

    def __call__(
        self,
        rows: Tensor,
        lengths: Sequence[int],
        bias: Tensor | None,
        queries: Sequence[slice] | None = None,
    ) -> Tensor:
        """What attention adds to each frame.

        Args:
            rows: (row, dim), the frames of several utterances, one after the other.
            lengths: frames of each.
            bias: (head, distance), `PositionBias`'s, or None.
            queries: the frames of each utterance that are requested; None requests all.

        Returns:
            (row, dim) of the requested frames in the product's dtype.
        """
        dim = rows.shape[1]
        projected = self.project(rows)
        spans = queries or [slice(0, length) for length in lengths]
        sizes = [span.stop - span.start for span in spans]
        mixed = projected.new_empty(sum(sizes), dim)
        for part, span, into in zip(
            projected.split(list(lengths)), spans, mixed.split(sizes), strict=True
        ):
            # (row, which x head x width) -> (which, head, row, width)
            three = part[:, : 3 * dim].view(len(part), 3, self.heads, -1).permute(1, 2, 0, 3)
            query, key, value = three
            result = into.view(len(into), self.heads, -1).transpose(0, 1)
            gates = None if bias is None else self._gates(part[:, 3 * dim :])
            if self.tile is None:
                _attend(query, key, value, result, gates, bias)
            else:
                _attend_in_tiles(query, key, value, result, span, self.tile)
        return self.out(mixed)

    def _gates(self, columns: Tensor) -> Tensor:
        """(row, 2 x head) -> (head, row, 1) float32."""
        first, second = columns.float().sigmoid().chunk(2, dim=1)
        return (first * (second * self.gate_constant - 1) + 2).T[:, :, None]


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    result: Tensor,
    gates: Tensor | None,
    bias: Tensor | None,
) -> None:
    """Writes one utterance's weighted sums into ``result``; it, query, key, value (head, row,
    width); the rest as in `Attention`.
    """
    inner = inner_dtype(query.dtype, query.device)
    query, key, value = query.to(inner), key.to(inner), value.to(inner)
    if bias is None and (inner == torch.float32 or query.is_cuda):
        one = query[None], key[None], value[None]
        result[:] = F.scaled_dot_product_attention(*one, scale=1.0)[0]
        return
    # bfloat16 products would copy them each time.
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    n_rows, keys = query.shape[1], key.transpose(1, 2)
    for start in range(0, n_rows, QUERIES):
        stop = min(start + QUERIES, n_rows)
        if gates is None or bias is None:
            scores = torch.bmm(query[:, start:stop], keys)
            result[:, start:stop] = torch.bmm(scores.softmax(-1), value)
            continue
        scores = torch.bmm(query[:, start:stop].flip(1), keys)
        # Row r of the reversed block is query stop - 1 - r, whose distance to key 0 stands in
        # column middle - (stop - 1 - r).
        middle = bias.shape[1] // 2
        by_distance = bias[:, middle - stop + 1 :].unfold(1, n_rows, 1)[:, : stop - start]
        scores = torch.addcmul(scores.float(), gates[:, start:stop].flip(1), by_distance)
        result[:, start:stop] = torch.bmm(scores.softmax(-1).to(value.dtype), value).flip(1)


def _attend_in_tiles(
    query: Tensor, key: Tensor, value: Tensor, result: Tensor, span: slice, tile: int
) -> None:
    """As `_attend` without a bias, for the queries of ``span`` alone, the rows of ``result``."""
    n_rows = query.shape[1]
    for start in range(span.start // tile * tile, span.stop, tile):
        stop = min(start + tile, n_rows)
        mixed = torch.empty_like(query[:, start:stop])
        _attend(query[:, start:stop], key, value, mixed, None, None)
        first, last = max(start, span.start), min(stop, span.stop)
        result[:, first - span.start : last - span.start] = mixed[:, first - start : last - start]


class PositionBias:
    """WavLM's bias of each head by the distance from query to key; its first block's weights serve
    all blocks.
    """

    def __init__(self, module: Any) -> None:
        """``module`` is transformers' attention of the first block."""
        self.module = module

    def __call__(self, length: int) -> Tensor:
        """(head, 2 length - 1) float32: distances -(length - 1) to length - 1, the middle column
        for 0.
        """
        embedding = self.module.rel_attn_embed.weight
        distances = torch.arange(1 - length, length, device=embedding.device)
        return embedding[self.module._relative_positions_bucket(distances)].T.contiguous()
