"""Normalisers of transcripts: what each keeps, and that the documentation shows it."""

import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.data.text_normalisers import NORMALISERS, superb
from probe.data.transcript_checks import convention_differences

PAGE = Path(__file__).parent.parent.parent / "docs" / "transcription.md"


def test_the_table_of_the_documentation_shows_what_each_normaliser_does() -> None:
    page = PAGE.read_text(encoding="utf-8")
    (example,) = re.findall(r'\| `normalize` \| keeps \| "(.*)" becomes \|', page)
    rows = re.findall(r"^\| `(\w+)` \| [^|]* \| ([^|]*) \|$", page, flags=re.MULTILINE)
    shown = {name: text for name, text in rows if name in NORMALISERS}
    assert shown == {name: normaliser(example) for name, normaliser in NORMALISERS.items()}


@pytest.mark.parametrize("name", ["none", "lower", "letters", "superb"])
@given(text=st.text(max_size=20))
def test_a_normalised_text_stays_as_it_is(name: str, text: str) -> None:
    once = NORMALISERS[name](text)
    assert NORMALISERS[name](once) == once


@given(text=st.text(max_size=20))
def test_superb_writes_the_symbols_of_its_vocabulary_only(text: str) -> None:
    assert re.fullmatch("([A-Z']+( [A-Z']+)*)?", superb(text))


def test_composed_and_decomposed_letters_are_one() -> None:
    for name in ("lower", "letters", "superb", "english"):
        assert NORMALISERS[name]("Cafe\u0301") == NORMALISERS[name]("Caf\u00e9") != ""


def test_a_normaliser_is_named_with_its_version_and_that_of_its_library() -> None:
    assert NORMALISERS["superb"].source == NORMALISERS["superb"].label == "superb 1"
    version = sys.modules["transformers"].__version__
    assert NORMALISERS["english"].source == f"english 1 (transformers {version})"
    assert NORMALISERS["english"].label == "english 1"


def test_the_english_normaliser_leaves_periods_of_an_ellipsis_as_the_library_does() -> None:
    assert [NORMALISERS["english"](text) for text in ("6.", "6...", "6…")] == ["6", "6 .", "6 .."]


UPPER, SENTENCE, LOWER = "HELLO THERE OLD FRIEND", "Hello there, old friend.", "hello there"


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        (UPPER, LOWER, ["0.0% of the letters are capitals, 100.0% in training"]),
        (
            LOWER,
            SENTENCE,
            [
                "5.3% of the letters are capitals, 0.0% in training",
                "9.5% of the characters are punctuation, 0.0% in training",
            ],
        ),
        (UPPER, UPPER, []),
        (LOWER, "it's 5", []),
        (SENTENCE, "Well, well.", []),
        ("你好", "你好", []),
    ],
)
def test_other_conventions_are_described(train: str, test: str, expected: list[str]) -> None:
    assert list(convention_differences([train] * 20, [test] * 20)) == expected


def test_a_few_words_without_capitals_are_no_other_convention() -> None:
    assert list(convention_differences([SENTENCE] * 20, ["hello there"])) == []
    assert list(convention_differences([SENTENCE], [])) == []
