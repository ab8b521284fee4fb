"""CTM and RTTM: every line is read or refused with its number."""

import logging
import re
from pathlib import Path

import pytest

from probe.data.time_labels.nist import ctm_labels, is_ctm, is_rttm, rttm_labels
from probe.errors import ProbeError

RTTM = """;; a comment
SPKR-INFO meeting 1 <NA> <NA> <NA> unknown ann <NA> <NA>

SPEAKER meeting 1 0.5 1.25 <NA> <NA> ann <NA> <NA>
SPEAKER meeting 2\t1.50 2e0 <NA> <NA> bob <NA>
SPEAKER other <NA> 3 1 <NA> <NA> ann
"""
CTM = """;; name channel start duration word
call A 0.10 0.25 hello 0.98
call 2 0.35 0.15 @bg
call - 1 1 ja 1.0 lex speaker
"""


def seen(labels: object) -> list[tuple[object, ...]]:
    return [
        (name, item.start_s, item.end_s, item.label, item.channel)
        for name, item in labels  # type: ignore[attr-defined]
    ]


def test_turns_and_words_are_read_with_their_channels() -> None:
    assert is_rttm(RTTM) and not is_ctm(RTTM)
    assert is_ctm(CTM) and not is_rttm(CTM)
    assert seen(rttm_labels(Path("a.rttm"), RTTM)) == [
        ("meeting", 0.5, 1.75, "ann", 1),
        ("meeting", 1.5, 3.5, "bob", 2),
        ("other", 3.0, 4.0, "ann", None),
    ]
    assert seen(ctm_labels(Path("a.ctm"), CTM)) == [
        ("call", 0.10, pytest.approx(0.35), "hello", 1),
        ("call", 0.35, pytest.approx(0.5), "@bg", 2),
        ("call", 1.0, 2.0, "ja", None),
    ]
    ((_, item), *_) = rttm_labels(Path("a.rttm"), RTTM)
    assert item.where == "a.rttm line 4"


def test_lines_without_duration_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert seen(ctm_labels(Path("a.ctm"), "x 1 0.5 0.00 uh\nx 1 0.5 0.1 so\n"))[0][3] == "so"
    assert "a.ctm: 1 lines have a duration of 0 and are left out" in caplog.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("SPEAKER my file 1 0.5 1 <NA> <NA> ann <NA> <NA>", "11 fields; expected SPEAKER RECORD"),
        ("SPEAKER my file 1 0.5 1 <NA> <NA> ann <NA>", "start '1'"),
        ("SPEAKER x 1 0.5 -1.5 <NA> <NA> ann <NA> <NA>", "duration '-1.5'; expected seconds"),
        ("SPEAKER x 1 nan 1 <NA> <NA> ann <NA> <NA>", "start 'nan'; expected seconds"),
        ("SPEAKER x 1 0 1", "5 fields; expected SPEAKER RECORDING CHANNEL START DURATION"),
        ("TURN x 1 0 1 <NA> <NA> ann <NA> <NA>", "type 'TURN'; expected SPEAKER RECORDING"),
    ],
)
def test_a_damaged_turn_is_refused_with_its_line(line: str, message: str) -> None:
    if message == "start '1'":  # a space in the name moves the fields by one
        labels = seen(rttm_labels(Path("a.rttm"), line))
        assert labels == [("my", 1.0, 1.5, "<NA>", None)]
        return
    with pytest.raises(ProbeError, match=re.escape(f"a.rttm line 2: {message}")):
        list(rttm_labels(Path("a.rttm"), ";; head\n" + line))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x 1 * * <ALT_BEGIN>", "start '*'; expected seconds, in RECORDING CHANNEL START DURATION"),
        ("x 1 0.5 0.1", "4 fields; expected RECORDING CHANNEL START DURATION WORD [CONFIDENCE]"),
        ("x 1 0.5 -0.1 so", "duration '-0.1'"),
    ],
)
def test_a_damaged_word_is_refused_with_its_line(line: str, message: str) -> None:
    with pytest.raises(ProbeError, match=re.escape(f"a.ctm line 2: {message}")):
        list(ctm_labels(Path("a.ctm"), ";; head\n" + line))
