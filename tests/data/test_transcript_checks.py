"""Odd transcripts: what nobody sees and what training does not have is counted and named."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import run

from probe.data.corpus import Corpus, Utterance
from probe.data.overview import overview
from probe.data.transcript_checks import (
    empty,
    hidden,
    mixed_scripts,
    named,
    scripts,
    unseen,
    warnings,
)
from probe.extraction.extract import extract
from probe.extraction.settings import Running


def rows(*texts: str) -> list[Utterance]:
    return [Utterance(f"u{n}", "a.wav", text, "", "", "train") for n, text in enumerate(texts)]


def test_empty_transcripts_are_those_without_anything_to_see() -> None:
    assert empty(rows("one", "", "  ", "two")) == ["u1", "u2"]


@pytest.mark.parametrize(
    "character",
    ["\t", "\n", "\x00", "\x7f", "\u00a0", "\u200b", "\u202e", "\ufeff", "\u2028", "\u3000"],
)
def test_a_character_that_nobody_sees_is_found_with_its_place(character: str) -> None:
    [found] = hidden(rows("one", f"o{character}ne{character}", f"two{character}"))
    assert (found.what, found.count, found.keys) == (character, 3, ["u1", "u2"])
    assert f"U+{ord(character):04X}" in named(character)


@pytest.mark.parametrize("text", ["one two", "naïve", "می‌روم", "क्‍ष", "東京 タワー", "👍"])
def test_what_belongs_to_a_script_is_not_hidden(text: str) -> None:
    assert hidden(rows(text)) == []


@pytest.mark.parametrize(
    ("word", "spelled"),
    [
        ("c\u0430t", "Latin c t, Cyrillic \u0430"),
        ("\u039fK", "Greek \u039f, Latin K"),
        ("\u043cir", "Cyrillic \u043c, Latin i r"),
    ],
)
def test_a_word_of_two_scripts_that_look_alike_is_found_and_spelled_out(
    word: str, spelled: str
) -> None:
    [found] = mixed_scripts(rows("cat", f"a {word}, and {word}"))
    assert (found.what, found.count, found.keys) == (word, 2, ["u1"])
    assert scripts(word) == spelled


@pytest.mark.parametrize(
    "text",
    [
        "\u043a\u043e\u0442 cat",
        "größe",
        "Tシャツ",
        "サッカーのW杯",
        "iPhoneใหม่",
        "5\u043c",
        "\u043f\u043e-English",
        "ﬁne",
        "Ａb",
    ],
)
def test_whole_words_in_other_scripts_and_ordinary_mixtures_are_not_mixed(text: str) -> None:
    assert mixed_scripts(rows(text)) == []


def test_characters_that_training_does_not_have_are_counted_the_most_frequent_first() -> None:
    found = unseen([("a", "six"), ("b", "qüq"), ("c", "ü q")], set("six "))
    assert [(item.what, item.count, item.keys) for item in found] == [
        ("q", 3, ["b", "c"]),
        ("ü", 2, ["b", "c"]),
    ]


def test_a_sound_corpus_warns_of_nothing() -> None:
    assert list(warnings(rows("one", "größe"))) == []


def test_the_overview_names_look_alikes() -> None:
    corpus = Corpus("c", "", tuple(rows("cat", "c\u0430t")), ("text",))
    [note] = [item for item in overview(corpus, most_files=0).notes if "look alike" in item.fact]
    assert "'c\u0430t' in u1 (Latin c t, Cyrillic \u0430)" in note.fact


def test_a_task_that_transcribes_warns_once_of_odd_text(
    tones: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = tones(words=2, speakers=2)
    text = (
        manifest.read_text()
        .replace(",ba,s0,", ",b\u0430,s0,")
        .replace("0-1-2.wav,ba", "0-1-2.wav,")
        .replace("1-0-5.wav,do", "1-0-5.wav,d\u00f6")
    )
    manifest.write_text(text, encoding="utf-8")
    extract("mfcc", manifest, tmp_path / "features", running=Running(check=False))
    task = tmp_path / "quick.toml"
    task.write_text(
        'version = 1\nkind = "transcribe"\ndescription = "quick"\nepochs = 1\n'
        "learning_rates = [1e-2]\n"
    )
    with caplog.at_level(logging.WARNING, "probe"):
        run(task, "mfcc", manifest, tmp_path / "features", tmp_path / "results")
        run("speaker-id", "mfcc", manifest, tmp_path / "features", tmp_path / "results")
    messages = [record.getMessage() for record in caplog.records]
    assert (
        sum(
            "1 of 24 transcripts are empty and left out: near-0-1-2.wav" in item
            for item in messages
        )
        == 1
    )
    assert (
        sum("'b\u0430' in near-0-0-0.wav (Latin b, Cyrillic \u0430)" in item for item in messages)
        == 1
    )
    [unseen_line] = [item for item in messages if "characters not in training" in item]
    assert (
        "'\u00f6' (U+00F6 latin small letter o with diaeresis) 1 times, first in near-1-0-5.wav"
        in unseen_line
    )
