"""CTC heads: learn planted frames, cannot learn shuffled ones, do not depend on batch mates, repeat for a seed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from probe.errors import ProbeError
from probe.heads.context import join_frames, stack_context
from probe.heads.ctc import CTCProbe
from probe.heads.ctc_head import BidirectionalLayer, CTCHead, HeadSettings
from probe.heads.vocabulary import Vocabulary, edit_distances, frames_needed

WORDS = ("ab", "cda", "b d", "aac")


def planted(n: int, seed: int) -> tuple[list[np.ndarray], list[str]]:
    """Utterances whose every character is three noisy frames of its own, after one frame of silence."""
    generator = np.random.default_rng(seed)
    codes = np.random.default_rng(7).standard_normal((6, 12)) * 3
    frames, texts = [], []
    for _ in range(n):
        text = " ".join(generator.choice(WORDS, size=2))
        symbols = [symbol for character in text for symbol in (5, *[" abcd".index(character)] * 3)]
        frames.append((codes[symbols] + 0.3 * generator.standard_normal((len(symbols), 12))).astype(np.float32))
        texts.append(text)
    return frames, texts


@pytest.mark.parametrize("head", ["linear", "bilstm"])
def test_learns_planted_frames(head: str) -> None:
    train, dev, test = planted(120, 0), planted(30, 1), planted(30, 2)
    probe = CTCProbe(head, epochs=80, hidden=32, patience=20, learning_rates=[3e-2]).fit(*train, *dev)
    errors = sum(reference != text for reference, text in zip(test[1], probe.transcribe(test[0]), strict=True))
    assert probe.chosen_["dev_cer"] < 0.02
    assert errors <= 3


def test_shuffled_transcripts_cannot_be_learned() -> None:
    (frames, texts), dev, test = planted(120, 0), planted(30, 1), planted(60, 2)
    shuffled = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))]
    probe = CTCProbe("bilstm", epochs=15, hidden=32, learning_rates=[1e-2]).fit(frames, shuffled, *dev)
    assert sum(a == b for a, b in zip(test[1], probe.transcribe(test[0]), strict=True)) <= 6


def test_equal_seeds_give_equal_results_and_leave_global_state_alone() -> None:
    train, dev = planted(40, 0), planted(10, 1)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again = (CTCProbe("bilstm", epochs=4, hidden=8, dropout=0.3, seed=3).fit(*train, *dev) for _ in range(2))
    assert first.search_ == again.search_
    for a, b in zip(first.model_.parameters(), again.model_.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert torch.equal(before, torch.random.get_rng_state())
    other = CTCProbe("bilstm", epochs=4, hidden=8, dropout=0.3, seed=4).fit(*train, *dev)
    assert any(not torch.equal(a, b) for a, b in zip(first.model_.parameters(), other.model_.parameters(), strict=True))


def test_bidirectional_layer_equals_lstm_on_packed_sequences() -> None:
    layer, reference = BidirectionalLayer(5, 7), nn.LSTM(5, 7, batch_first=True, bidirectional=True)
    back = {f"{name}_reverse": weight for name, weight in layer.back.state_dict().items()}
    reference.load_state_dict({**layer.ahead.state_dict(), **back})
    frames, lengths = torch.randn(4, 9, 5), torch.tensor([9, 3, 1, 6])
    packed = nn.utils.rnn.pack_padded_sequence(frames, lengths, batch_first=True, enforce_sorted=False)
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
    probe = CTCProbe("linear", learning_rates=[1e-5, 5e-2], epochs=20).fit(*train, *dev)
    assert [entry["learning_rate"] for entry in probe.search_] == [1e-5, 5e-2]
    assert probe.chosen_ == min(probe.search_, key=lambda entry: entry["dev_cer"])
    assert probe.chosen_["learning_rate"] == 5e-2


def test_utterances_too_short_for_their_labels_are_left_out_and_named() -> None:
    frames, texts = planted(20, 0)
    frames[3] = frames[3][:2]
    probe = CTCProbe(epochs=2).fit(frames, texts, *planted(5, 1))
    assert probe.too_short_ == [3]
    with pytest.raises(ProbeError, match="fewer frames than its labels need"):
        CTCProbe(epochs=1).fit([rows[:1] for rows in frames], texts, *planted(5, 1))


def test_empty_transcripts_are_refused() -> None:
    frames, texts = planted(4, 0)
    with pytest.raises(ProbeError, match="all training transcripts are empty"):
        CTCProbe().fit(frames, ["", " ", "", ""], frames, texts)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [({"head": "gru"}, "linear, mlp, bilstm"), ({"hidden": 2048}, "1..1024"), ({"n_layers": 3}, "1 or 2")],
)
def test_heads_out_of_bounds_are_refused(keywords: dict, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        CTCProbe(**keywords)


@given(st.lists(st.sampled_from("ab c"), min_size=1, max_size=8).map("".join).filter(str.strip))
def test_greedy_decoding_inverts_an_alignment(text: str) -> None:
    vocabulary = Vocabulary.of(["ab c"])
    labels = vocabulary.encode(text)
    path = [symbol for label in labels for symbol in (label, label, 0)]
    assert vocabulary.decode_greedy(path) == text.strip()
    shortest: list[int] = []
    for label in labels:
        shortest += [0, label] if shortest and shortest[-1] == label else [label]
    assert len(shortest) == frames_needed(labels)
    assert vocabulary.decode_greedy(shortest) == text.strip()


def test_unknown_characters_are_left_out_of_labels() -> None:
    assert Vocabulary.of(["ba"]).encode("abx") == [1, 2]


@given(st.integers(1, 20), st.integers(1, 5))
def test_joined_frames_hold_every_frame_in_order(n_frames: int, join: int) -> None:
    frames = np.arange(2 * n_frames, dtype=np.float32).reshape(n_frames, 2)
    joined = join_frames(frames, join)
    assert joined.shape == (-(-n_frames // join), 2 * join)
    np.testing.assert_array_equal(joined.reshape(-1, 2)[:n_frames], frames)


@given(st.text("ab c", max_size=9), st.lists(st.text("ab cé", max_size=9), min_size=1, max_size=4))
def test_edit_distances_are_torchaudios(reference: str, hypotheses: list[str]) -> None:
    from torchaudio.functional import edit_distance

    assert edit_distances(reference, hypotheses).tolist() == [edit_distance(reference, text) for text in hypotheses]


def test_context_puts_each_frame_between_its_neighbours() -> None:
    frames = np.arange(6.0).reshape(3, 2)
    stacked = stack_context(frames, 1)
    assert stacked.tolist() == [[0, 1, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5], [2, 3, 4, 5, 4, 5]]
    assert stack_context(frames, 0).tolist() == frames.tolist()
    assert stack_context(frames[:0], 2).shape == (0, 10)
