"""Word and character errors: parity with jiwer, empty cases, white space."""

import jiwer
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from probe.measures.counts import ratio_counts, value_of
from probe.measures.transcription import character_errors, word_errors

sentences = st.lists(
    st.sampled_from(["a", "b", "ab", "the", "cat", "cät", "don't"]), max_size=8
).map(" ".join)
pairs = st.lists(st.tuples(sentences, sentences), min_size=1, max_size=10)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "words", "characters"),
    [
        ("the cat sat", "the cat sat", (0, 3), (0, 11)),
        ("the cat sat", "the mat", (2, 3), (5, 11)),
        ("a cat", "a bat s", (2, 2), (3, 5)),
        ("ab", "a b", (2, 1), (1, 2)),
        ("a b", "", (2, 2), (3, 3)),
        ("", "a b", (2, 0), (3, 0)),
        ("", "", (0, 0), (0, 0)),
        ("A b.", "a b", (2, 2), (2, 4)),
    ],
)
def test_errors_are_what_the_hand_counts(
    reference: str, hypothesis: str, words: tuple[int, int], characters: tuple[int, int]
) -> None:
    assert word_errors(reference, hypothesis) == words
    assert character_errors(reference, hypothesis) == characters


@given(pairs)
def test_corpus_rates_agree_with_jiwer(rows: list[tuple[str, str]]) -> None:
    references, hypotheses = [row[0] for row in rows], [row[1] for row in rows]
    assume(any(references))
    for errors_of, rate in ((word_errors, jiwer.wer), (character_errors, jiwer.cer)):
        errors, units = zip(*(errors_of(*row) for row in rows), strict=True)
        ours = value_of(ratio_counts([str(i % 3) for i in range(len(rows))], errors, units))
        assert ours == pytest.approx(rate(references, hypotheses), abs=1e-15)


@given(sentences, sentences)
def test_errors_are_symmetric_and_units_are_the_reference_s(one: str, other: str) -> None:
    for errors_of, length in (
        (word_errors, lambda text: len(text.split())),
        (character_errors, len),
    ):
        forth, back = errors_of(one, other), errors_of(other, one)
        assert forth[0] == back[0]
        assert (forth[1], back[1]) == (length(one), length(other))


def test_any_white_space_separates_words_where_jiwer_keeps_a_lone_tab() -> None:
    assert word_errors(" a\tb\u00a0\n c ", "a b c") == (0, 3)
    assert character_errors(" a\tb\u00a0\n c ", "a b c") == (0, 5)
    assert jiwer.wer("a\tb", "a b") == 2.0
