"""LSTMs run together are ``torch.nn.LSTM`` on packed sequences, values and gradients."""

import pytest
import torch
from torch import Tensor, nn

from probe.heads.ctc import grouped_lstm
from probe.heads.ctc.grouped_lstm import LSTMs, bidirectional
from probe.heads.ctc.loss import Scratch
from probe.heads.ctc.modules import HeadSettings
from probe.heads.ctc.stacked import kept_bytes, stacked_logits

HIDDEN, BATCH = 7, 4


def heads_of(n: int, dim: int) -> list[nn.LSTM]:
    return [
        nn.LSTM(dim, HIDDEN, batch_first=True, bidirectional=True, dtype=torch.float64)
        for _ in range(n)
    ]


def stacked(heads: list[nn.LSTM], ending: str = "") -> LSTMs:
    """One direction of the heads; gradients go through to their weights."""

    def of(name: str) -> Tensor:
        return torch.stack([getattr(head, f"{name}_l0{ending}") for head in heads])

    return LSTMs(of("weight_ih"), of("weight_hh"), of("bias_ih") + of("bias_hh"))


def together(
    frames: list[Tensor], sets: list[list[nn.LSTM]], lengths: Tensor, scratch: Scratch | None = None
) -> Tensor:
    return bidirectional(
        frames, [(stacked(heads), stacked(heads, "_reverse")) for heads in sets], lengths, scratch
    )


def packed(frames: Tensor, head: nn.LSTM, lengths: Tensor) -> Tensor:
    """(frame, batch, dim) -> (frame, batch, 2 * hidden), 0 past a length."""
    rows = nn.utils.rnn.pack_padded_sequence(frames, lengths, enforce_sorted=False)
    return nn.utils.rnn.pad_packed_sequence(
        head(rows)[0], batch_first=False, total_length=len(frames)
    )[0]


@pytest.mark.parametrize("cache_bytes", [1, 3 * 4 * HIDDEN * HIDDEN * 8, 1 << 30])
@pytest.mark.parametrize("lengths", [[9, 3, 1, 6], [1, 1, 1, 1], [9, 9, 9, 9]])
def test_heads_of_shared_and_of_own_frames_are_lstms_on_packed_sequences(
    lengths: list[int], cache_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouped_lstm, "CACHE_BYTES", cache_bytes)
    torch.manual_seed(0)
    sets = [heads_of(2, 5), heads_of(3, 6)]
    shared, own = (
        torch.randn(n, max(lengths), BATCH, dim, dtype=torch.float64, requires_grad=True)
        for n, dim in ((1, 5), (3, 6))
    )
    n = torch.tensor(lengths)
    found = together([shared, own], sets, n)
    expected = torch.stack(
        [packed(shared[0], head, n) for head in sets[0]]
        + [packed(rows, head, n) for rows, head in zip(own, sets[1], strict=True)]
    )
    valid = (torch.arange(max(lengths))[:, None] < n)[None, :, :, None]
    torch.testing.assert_close(found * valid, expected)
    outer = torch.randn_like(expected) * valid
    inputs = [
        shared,
        own,
        *(weight for heads in sets for head in heads for weight in head.parameters()),
    ]
    for a, b in zip(
        torch.autograd.grad(found, inputs, outer),
        torch.autograd.grad(expected, inputs, outer),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_what_was_overwritten_is_not_differentiated_again() -> None:
    frames, heads, lengths = (
        torch.randn(1, 5, BATCH, 3, dtype=torch.float64),
        heads_of(2, 3),
        torch.tensor([5, 4, 3, 2]),
    )
    scratch = Scratch()
    first = together([frames], [heads], lengths, scratch)
    again = together([frames], [heads], lengths, scratch)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        first.sum().backward()
    again.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        again.sum().backward()


@pytest.mark.parametrize("n_layers", [1, 2])
def test_what_a_head_keeps_for_its_gradients_is_what_memory_is_bounded_by(n_layers: int) -> None:
    settings = HeadSettings("bilstm", hidden=32, n_layers=n_layers, dropout=0.1)
    n_rates, n_frames, dim = 3, 40, 4
    weights = {
        "projection.weight": torch.randn(n_rates, 6, 64),
        "projection.bias": torch.randn(n_rates, 6),
    }
    for number, width in enumerate([dim, 64][:n_layers]):
        for direction in ("ahead", "back"):
            for name, shape in {
                "weight_ih": (128, width),
                "weight_hh": (128, 32),
                "bias_ih": (128,),
                "bias_hh": (128,),
            }.items():
                weights[f"layers.{number}.{direction}.{name}_l0"] = 0.1 * torch.randn(
                    n_rates, *shape
                )
    weights = {name: weight.requires_grad_() for name, weight in weights.items()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        (logits,) = stacked_logits(
            settings,
            [weights],
            [torch.randn(BATCH, n_frames, dim)],
            torch.full((BATCH,), n_frames),
            True,
        )
    assert logits.shape == (BATCH, n_frames, n_rates, 6)
    limit = n_rates * kept_bytes(settings, BATCH * n_frames)
    n_weight_bytes = sum(weight.nbytes for weight in weights.values())
    assert 0.5 * limit < sum(kept.values()) - n_weight_bytes < limit
