"""CTC heads: learn planted frames, cannot learn shuffled ones, do not depend on batch mates, repeat
for a seed.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from exhaustive import mostly_nightly
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from probe.errors import ProbeError
from probe.heads.ctc import ctc_probe
from probe.heads.ctc.ctc_probe import CTCProbe, CTCTraining
from probe.heads.ctc.modules import (
    BidirectionalLayer,
    CTCHead,
    HeadSettings,
    WeightedSum,
    with_neighbours,
)
from probe.heads.ctc.spec_augment import draw_masks
from probe.heads.linear.context import join_frames, stack_context

WORDS = ("ab", "cda", "b d", "aac")


def planted(n: int, seed: int) -> tuple[list[np.ndarray], list[str]]:
    """Utterances whose every character is three noisy frames of its own, after one frame of
    silence.
    """
    generator = np.random.default_rng(seed)
    codes = np.random.default_rng(7).standard_normal((6, 12)) * 3
    frames, texts = [], []
    for _ in range(n):
        text = " ".join(generator.choice(WORDS, size=2))
        symbols = [symbol for character in text for symbol in (5, *[" abcd".index(character)] * 3)]
        frames.append(
            (codes[symbols] + 0.3 * generator.standard_normal((len(symbols), 12))).astype(
                np.float32
            )
        )
        texts.append(text)
    return frames, texts


@pytest.mark.parametrize("head", mostly_nightly(["linear", "mlp", "bilstm"], ["linear"]))
def test_learns_planted_frames(head: str) -> None:
    train, dev, test = planted(120, 0), planted(30, 1), planted(30, 2)
    probe = CTCProbe(
        HeadSettings(head, hidden=32), CTCTraining([3e-2], epochs=80, patience=20)
    ).fit(*train, *dev)
    errors = sum(
        reference != text
        for reference, text in zip(test[1], probe.transcribe(test[0]), strict=True)
    )
    assert probe.chosen_["dev_cer"] < 0.02
    assert errors <= 3


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_context_lets_a_head_read_what_only_both_neighbours_tell(head: str) -> None:
    def split(n: int, seed: int) -> tuple[list[np.ndarray], list[str]]:
        """A letter is a mark between two frames, each of which tells one of its two bits, and then
        silence.
        """
        generator = np.random.default_rng(seed)
        frames, texts = [], []
        for _ in range(n):
            letters = generator.integers(0, 4, size=5)
            rows = [row for letter in letters for row in (1 + letter // 2, 0, 3 + letter % 2, 5)]
            frames.append(
                (3 * np.eye(6)[rows] + 0.1 * generator.standard_normal((len(rows), 6))).astype(
                    np.float32
                )
            )
            texts.append("".join("abcd"[letter] for letter in letters))
        return frames, texts

    train, dev = split(60, 0), split(20, 1)
    blind, seeing = (
        CTCProbe(
            HeadSettings(head, context=context, hidden_sizes=(16,)), CTCTraining([3e-2], epochs=25)
        ).fit(*train, *dev)
        for context in (0, 1)
    )
    assert seeing.chosen_["dev_cer"] < 0.02
    assert blind.chosen_["dev_cer"] > 0.3


@pytest.mark.parametrize("context", [0, 1, 3])
def test_neighbours_in_a_padded_batch_are_those_of_each_utterance(context: int) -> None:
    lengths = torch.tensor([7, 1, 4])
    frames = torch.randn(3, 7, 2)
    found = with_neighbours(frames, lengths, context)
    for i, length in enumerate(lengths.tolist()):
        np.testing.assert_array_equal(
            found[i, :length], stack_context(frames[i, :length].numpy(), context)
        )


@pytest.mark.parametrize("head", mostly_nightly(["linear", "mlp", "bilstm"], ["linear", "mlp"]))
def test_a_sum_of_equal_layers_is_the_layer(head: str) -> None:
    train, dev = planted(40, 0), planted(10, 1)
    settings = HeadSettings(head, hidden=6, dropout=0.0, hidden_sizes=(6,), join=2)
    training = CTCTraining(epochs=5, spec_augment=True)
    one = CTCProbe(settings, training).fit(*train, *dev)
    three = [([np.tile(rows, (1, 3)) for rows in frames], texts) for frames, texts in (train, dev)]
    mixed = CTCProbe(replace(settings, n_mixed=3), training).fit(*three[0], *three[1])
    assert mixed.search_ == one.search_
    assert mixed.shares_ == pytest.approx([1 / 3] * 3)
    assert one.shares_ == []
    for key, weight in one.model_.state_dict().items():
        torch.testing.assert_close(mixed.model_.state_dict()[key], weight, rtol=1e-3, atol=1e-4)


def test_a_sum_weighs_whole_layers_whatever_was_joined() -> None:
    mix = WeightedSum(n_layers=2, join=2)
    mix.scores.data = torch.tensor([0.0, float(np.log(3))])
    first, second = torch.randn(1, 4, 3), torch.randn(1, 4, 3)
    joined = join_frames(torch.cat([first, second], dim=2)[0].numpy(), 2)
    expected = join_frames((first / 4 + 3 * second / 4)[0].numpy(), 2)
    torch.testing.assert_close(
        mix(torch.from_numpy(joined)[None])[0].detach(), torch.from_numpy(expected)
    )


def test_masks_hide_spans_within_their_bounds_and_depend_on_seed_epoch_and_utterance_alone() -> (
    None
):
    lengths = [300, 40, 3]
    time, dims = draw_masks(1, 2, [5, 6, 7], lengths, 100)
    for place, (utterance, length) in enumerate(zip([5, 6, 7], lengths, strict=True)):
        alone = draw_masks(1, 2, [utterance], [length], 100)
        assert torch.equal(time[place, :length], alone[0][0])
        assert torch.equal(dims[place], alone[1][0])
        assert (time[place, length:] == 1).all()
    for other in (
        draw_masks(0, 2, [5], [300], 100),
        draw_masks(1, 3, [5], [300], 100),
        draw_masks(1, 2, [6], [300], 100),
    ):
        assert not torch.equal(other[0][0], time[0, :300])
    many = [draw_masks(0, epoch, [0], [300], 768) for epoch in range(300)]
    hidden = [(int((time == 0).sum()), int((dims == 0).sum())) for time, dims in many]
    assert 40 < max(n for n, _ in hidden) <= 80
    assert 100 < max(n for _, n in hidden) <= 200
    assert 30 < np.mean([n for n, _ in hidden]) < 45
    short = [int((draw_masks(0, epoch, [0], [20], 10)[0] == 0).sum()) for epoch in range(100)]
    assert max(short) <= 8, "a span is at most a fifth of an utterance"


def test_nothing_is_hidden_from_a_head_outside_training(monkeypatch: pytest.MonkeyPatch) -> None:
    train, dev = planted(20, 0), planted(5, 1)
    shapes = []
    draw = ctc_probe.draw_masks
    monkeypatch.setattr(
        ctc_probe,
        "draw_masks",
        lambda *arguments: (shapes.append(arguments[2:]), draw(*arguments))[1],
    )
    probe = CTCProbe("linear", CTCTraining([1e-1], epochs=3, spec_augment=True)).fit(*train, *dev)
    assert sorted(i for utterances, *_ in shapes for i in utterances) == sorted(3 * list(range(20)))
    assert {dim for *_, dim in shapes} == {12}
    n_drawn = len(shapes)
    assert probe.transcribe(dev[0]) == probe.transcribe(dev[0])
    assert len(shapes) == n_drawn
    plain = CTCProbe("linear", CTCTraining([1e-1], epochs=3)).fit(*train, *dev)
    assert not torch.equal(plain.model_.projection.weight, probe.model_.projection.weight)


def test_superbs_heads_can_be_made() -> None:
    asr = CTCHead(HeadSettings("bilstm", hidden=1024, n_layers=2, dropout=0.2), 768, 29)
    assert [layer.ahead.hidden_size for layer in asr.layers] == [1024, 1024]  # type: ignore[union-attr]
    assert asr.projection.weight.shape == (29, 2048)
    phones = CTCHead(HeadSettings("mlp", hidden_sizes=(256,), activation="none"), 768, 72)
    frames, lengths = torch.randn(1, 5, 768), torch.tensor([5])
    torch.nn.init.normal_(phones.projection.weight)
    expected = phones.projection(phones.hidden[0](frames))
    torch.testing.assert_close(phones(frames, lengths), expected)


@pytest.mark.parametrize("head", mostly_nightly(["linear", "bilstm"], ["linear"]))
def test_shuffled_transcripts_cannot_be_learned(head: str) -> None:
    (frames, texts), dev, test = planted(120, 0), planted(30, 1), planted(60, 2)
    shuffled = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))]
    probe = CTCProbe(HeadSettings(head, hidden=32), CTCTraining([1e-2], epochs=15)).fit(
        frames, shuffled, *dev
    )
    assert sum(a == b for a, b in zip(test[1], probe.transcribe(test[0]), strict=True)) <= 6


@pytest.mark.parametrize("head", mostly_nightly(["linear", "mlp", "bilstm"], ["linear", "mlp"]))
def test_equal_seeds_give_equal_results_and_leave_global_state_alone(head: str) -> None:
    train, dev = planted(40, 0), planted(10, 1)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    settings = HeadSettings(head, hidden=8, dropout=0.3)
    training = CTCTraining(epochs=4, spec_augment=True)
    first, again = (CTCProbe(settings, training, seed=3).fit(*train, *dev) for _ in range(2))
    assert first.search_ == again.search_
    for a, b in zip(first.model_.parameters(), again.model_.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert torch.equal(before, torch.random.get_rng_state())
    other = CTCProbe(settings, training, seed=4).fit(*train, *dev)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(first.model_.parameters(), other.model_.parameters(), strict=True)
    )


def test_bidirectional_layer_equals_lstm_on_packed_sequences() -> None:
    layer, reference = BidirectionalLayer(5, 7), nn.LSTM(5, 7, batch_first=True, bidirectional=True)
    back = {f"{name}_reverse": weight for name, weight in layer.back.state_dict().items()}
    reference.load_state_dict({**layer.ahead.state_dict(), **back})
    frames, lengths = torch.randn(4, 9, 5), torch.tensor([9, 3, 1, 6])
    packed = nn.utils.rnn.pack_padded_sequence(
        frames, lengths, batch_first=True, enforce_sorted=False
    )
    expected, _ = nn.utils.rnn.pad_packed_sequence(reference(packed)[0], batch_first=True)
    found = layer(frames, lengths)
    for i, length in enumerate(lengths):
        torch.testing.assert_close(found[i, :length], expected[i, :length], atol=1e-6, rtol=1e-5)


def test_logits_do_not_depend_on_batch_mates() -> None:
    head = CTCHead(HeadSettings("bilstm", hidden=8, n_layers=2, dropout=0.5), 6, 4).eval()
    frames, lengths = torch.randn(3, 20, 6), torch.tensor([20, 11, 4])
    together = head(frames, lengths)
    for i, length in enumerate(lengths):
        alone = head(frames[i : i + 1, :length], lengths[i : i + 1])
        torch.testing.assert_close(together[i, :length], alone[0], atol=1e-6, rtol=1e-5)


def test_every_learning_rate_is_in_the_search_and_dev_picks() -> None:
    train, dev = planted(60, 0), planted(15, 1)
    probe = CTCProbe("linear", CTCTraining([1e-5, 5e-2], epochs=20)).fit(*train, *dev)
    assert [entry["learning_rate"] for entry in probe.search_] == [1e-5, 5e-2]
    assert probe.chosen_ == min(probe.search_, key=lambda entry: entry["dev_cer"])
    assert probe.chosen_["learning_rate"] == 5e-2


def test_utterances_too_short_for_their_labels_are_left_out_and_named() -> None:
    frames, texts = planted(20, 0)
    frames[3] = frames[3][:2]
    probe = CTCProbe(training=CTCTraining(epochs=2)).fit(frames, texts, *planted(5, 1))
    assert probe.too_short_ == [3]
    with pytest.raises(ProbeError, match="fewer frames than its labels need"):
        CTCProbe(training=CTCTraining(epochs=1)).fit(
            [rows[:1] for rows in frames], texts, *planted(5, 1)
        )


def test_empty_transcripts_are_refused() -> None:
    frames, texts = planted(4, 0)
    with pytest.raises(ProbeError, match="all training transcripts are empty"):
        CTCProbe().fit(frames, ["", " ", "", ""], frames, texts)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"head": "gru"}, "linear, mlp, bilstm"),
        ({"hidden": 2048}, "1..1024"),
        ({"n_layers": 3}, "1 or 2"),
        ({"context": 21}, "0..20"),
        ({"activation": "tanh"}, "relu, none"),
    ],
)
def test_heads_out_of_bounds_are_refused(keywords: dict, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        HeadSettings(**keywords)


@given(st.integers(1, 20), st.integers(1, 5))
def test_joined_frames_hold_every_frame_in_order(n_frames: int, join: int) -> None:
    frames = np.arange(2 * n_frames, dtype=np.float32).reshape(n_frames, 2)
    joined = join_frames(frames, join)
    assert joined.shape == (-(-n_frames // join), 2 * join)
    np.testing.assert_array_equal(joined.reshape(-1, 2)[:n_frames], frames)


def test_context_puts_each_frame_between_its_neighbours() -> None:
    frames = np.arange(6.0).reshape(3, 2)
    stacked = stack_context(frames, 1)
    assert stacked.tolist() == [[0, 1, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5], [2, 3, 4, 5, 4, 5]]
    assert stack_context(frames, 0).tolist() == frames.tolist()
    assert stack_context(frames[:0], 2).shape == (0, 10)
