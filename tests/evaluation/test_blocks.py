"""What is resampled together."""

import pytest

from probe.data.corpus import Utterance
from probe.data.excerpts import Excerpt
from probe.evaluation.blocks import blocks_of


def rows(n=4, **columns):
    return [
        Utterance(
            f"u{i}", f"/data/u{i}.wav", "", f"s{i % 2}", "", "test",
            extra={name: values[i] for name, values in columns.items()},
        )
        for i in range(n)
    ]  # fmt: skip


def test_blocks_are_speakers_unless_the_label_is_the_speaker():
    blocks = blocks_of("text", rows(session="aabb"))
    assert (blocks.kind, blocks.of(rows()[3])) == ("speaker", "s1")
    assert blocks_of("speaker", rows()).kind == "utterance"


def test_blocks_say_when_each_test_speaker_was_recorded_in_one_session():
    assert blocks_of("text", rows(chapter="abab")).kind == "speaker in one session"
    assert blocks_of("text", rows(chapter="aaab")).kind == "speaker"
    assert blocks_of("text", rows(chapter=["a", "b", "a", ""])).kind == "speaker"
    one = blocks_of("text", rows(session="abab"))
    assert one.of(rows()[3]) == "s1"


@pytest.mark.parametrize("column", ["session", "recording", "video"])
def test_sessions_of_one_speaker_are_the_blocks_where_the_label_is_the_speaker(column):
    items = rows(**{column: "aaab"})
    blocks = blocks_of("speaker", items)
    assert blocks.kind == ("recording" if column == "recording" else "session")
    assert [blocks.of(item) for item in items] == [
        *(f"{column} a of {name}" for name in ("s0", "s1", "s0")),
        f"{column} b of s1",
    ]


def test_a_column_that_some_rows_lack_names_no_sessions():
    assert blocks_of("speaker", rows(session=["a", "", "a", "b"])).kind == "utterance"


def test_excerpts_of_one_file_are_one_recording():
    items = [
        Utterance(f"u{i}", f"/data/{i // 2}.wav", "", "s", "", "test", excerpt=Excerpt(i, i + 1))
        for i in range(4)
    ]
    blocks = blocks_of("speaker", items)
    assert blocks.kind == "recording"
    assert [blocks.of(item) for item in items] == ["utterance u0"] * 2 + ["utterance u2"] * 2


def test_an_utterance_stands_alone_where_no_speaker_is_known():
    items = [Utterance("u", "/data/u.wav", "", "", "", "test")]
    assert (blocks_of("text", items).kind, blocks_of("text", items).of(items[0])) == (
        "utterance",
        "utterance u",
    )
