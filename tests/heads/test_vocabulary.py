"""Symbols and pronunciations: what is encoded comes back, what cannot be read is named."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.data.text_normalisers import letters
from probe.errors import ProbeError
from probe.heads.ctc.lexicon import pronounced, read_lexicon
from probe.heads.ctc.vocabulary import Vocabulary, edit_distances, frames_needed, symbol_error_rates


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


@given(st.text("ab c", max_size=9), st.lists(st.text("ab cé", max_size=9), min_size=1, max_size=4))
def test_edit_distances_are_torchaudios(reference: str, hypotheses: list[str]) -> None:
    from torchaudio.functional import edit_distance

    assert edit_distances(reference, hypotheses).tolist() == [
        edit_distance(reference, text) for text in hypotheses
    ]


def test_phones_are_encoded_and_decoded_as_words_of_a_text() -> None:
    vocabulary = Vocabulary.of(["HH AH0", "AH0 L"], " ")
    assert vocabulary.symbols == ("AH0", "HH", "L")
    assert vocabulary.encode("HH AH0 ZH L") == [2, 1, 3]
    assert vocabulary.decode_greedy([0, 2, 2, 0, 1, 0, 1]) == "HH AH0 AH0"
    assert vocabulary.size == 4


def test_error_rates_count_symbols() -> None:
    assert symbol_error_rates(["HH AH0", "L"], [["HH AH1", "L"], ["", "L L"]], " ") == [1 / 3, 1.0]
    assert symbol_error_rates(["ab", "c"], [["ab", "d"]]) == [1 / 3]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don\u2019t  STOP!", "don't stop"),
        ("well-known\t(very)", "well known very"),
        ("Straße 12", "strasse 12"),
        ("हिन्दी", "हिन्दी"),
        ("e\u0301t\u00e9", "été"),
        ("...", ""),
    ],
)
def test_letters_keep_letters_digits_and_apostrophes(text: str, expected: str) -> None:
    assert letters(text) == expected
    assert letters(letters(text)) == expected


def test_lexicons_of_cmudict_and_kaldi_are_read_with_the_first_pronunciation(
    tmp_path: Path,
) -> None:
    path = tmp_path / "lexicon.txt"
    path.write_text(
        ";;; a comment\nREAD  R EH1 D\nREAD(2)  R IY1 D\n\nit's\tIH1 T S\na AH0\na EY1\n",
        encoding="utf-8",
    )
    assert read_lexicon(path) == {
        "read": ("R", "EH1", "D"),
        "it's": ("IH1", "T", "S"),
        "a": ("AH0",),
    }


def test_words_are_looked_up_as_they_stand_then_by_their_letters() -> None:
    lexicon = {"stop": ("S", "T"), "x-ray": ("X",), "well": ("W",), "it's": ("I",)}
    assert pronounced("Stop! x-ray well-known IT\u2019S", lexicon) == ("S T X W <unk> I", ["known"])
    assert pronounced(" ... ", lexicon) == ("", [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"HELLO\n", "lexicon.txt line 1: 'HELLO' has no phones"),
        (b";;; nothing\n\n", "lexicon.txt: no words"),
        (b"A AH\n\xff\xfe\n", "lexicon is not UTF-8"),
        (b"A AH\nB <unk>\n", "line 2: <unk> is what unknown words are called"),
    ],
)
def test_faulty_lexicons_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "lexicon.txt"
    path.write_bytes(content)
    with pytest.raises(ProbeError, match=message):
        read_lexicon(path)


def test_a_lexicon_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match=r"none.txt: no lexicon here \(No such file"):
        read_lexicon(tmp_path / "none.txt")
