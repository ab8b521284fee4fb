"""The table of the terminal: one line for each task and model, within the width of the screen."""

from dataclasses import replace
from typing import Any

import pytest
from scored import HOSTILE, frame, layers
from test_tables import crossing, plain

from probe.reporting.scores import Scores
from probe.reporting.tables.terminal import terminal_table


def lines_of(records: list[Any], width: int) -> list[str]:
    return terminal_table(Scores.of(frame(*records)), width).splitlines()


def test_a_wide_screen_shows_one_line_for_each_task_and_model() -> None:
    lines = lines_of(plain(), 120)
    head, *rows, few, untested, note = lines
    assert few.startswith("† without an interval: fewer than 6")
    assert untested.startswith("not tested") and note.startswith("layer 2 (?)")
    assert head.split() == ["task", "metric", "model", "score", "95", "%", "interval", "layer"]
    assert [row.split()[0] for row in rows] == ["connected", "connected", *["digits"] * 3]
    assert [row.split()[1:4:2] for row in rows[2:5]] == [
        ["accuracy", "fbank"],
        ["accuracy", "org/a"],
        ["accuracy", "org/b"],
    ]
    assert rows[3].split()[4:] == ["74.0", "[69.0,", "79.0]", "1", "(?)", "not", "tested"]


def test_a_narrow_screen_shows_the_task_above_its_models() -> None:
    model = "org/" + "long" * 12
    lines = lines_of([*plain(), *layers([5], [5], model=model, corpus="spoken-digits")], 60)
    assert "digits, accuracy ↑" in lines and max(map(len, lines)) <= 60
    shortened = [line for line in lines if "…" in line]
    assert len(shortened) == 1 and shortened[0].startswith("  org/long")


def test_three_tasks_of_three_models_take_a_line_each_on_eighty_columns() -> None:
    records = [
        record
        for task in ("speaker-id", "speaker-verify", "word-id")
        for model in ("fbank", "mfcc", "random:data2vec-audio-tiny")
        for record in layers([5], [5], task=task, model=model)
    ]
    lines = lines_of(records, 80)
    assert len(lines) <= 11 and max(map(len, lines)) <= 80
    assert sum("random:d…dio-tiny" in line for line in lines) == 3


@pytest.mark.parametrize("width", [80, 120])
def test_conditions_and_domains_have_lines_of_their_own(width: int) -> None:
    noisy = [replace(item, condition="noise:white@10dB") for item in plain()]
    text = "\n".join(lines_of([*plain(), *noisy, *crossing()], width))
    assert text.count("noise:white@10dB") == (5 if width == 120 else 2)
    assert "read → far" in text and "– org/a, emotion: no class in both domains" in text


@pytest.mark.parametrize("width", [80, 120])
def test_names_command_no_terminal(width: int) -> None:
    records = [item for name in HOSTILE for item in layers([5], [5], model=name, task=name)]
    text = terminal_table(Scores.of(frame(*records)), width)
    assert all(char.isprintable() or char == "\n" for char in text)


def test_without_test_scores_there_is_a_sentence() -> None:
    (dev, _) = layers([5], [5])
    assert lines_of([dev], 80) == ["No test scores."]
