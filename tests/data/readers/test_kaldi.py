"""Kaldi's data directories: what is read, and every refusal with its file, line and remedy."""

import re
from pathlib import Path

import pytest

from probe.data.corpus import Corpus, load_corpus
from probe.data.excerpts import Excerpt
from probe.data.readers.pipes import sound_of
from probe.errors import ProbeError

# Two calls with two sides each, as Switchboard's recipe prepares them.
SWITCHBOARD = {
    "wav.scp": "sw1-A /tools/sph2pipe -f wav -p -c 1 {audio}/sw1.sph |\n"
    "sw1-B /tools/sph2pipe -f wav -p -c 2 {audio}/sw1.sph |\n",
    "segments": "sw1-A_000-250 sw1-A 0.00 2.50\nsw1-B_100-175 sw1-B 1.00 1.75\n",
    "text": "sw1-A_000-250 hello there\nsw1-B_100-175 [laughter]\n",
    "utt2spk": "sw1-A_000-250 sw1-A\nsw1-B_100-175 sw1-B\n",
    "spk2gender": "sw1-A f\nsw1-B m\n",
    "reco2file_and_channel": "sw1-A sw1 A\nsw1-B sw1 B\n",
}
# Whole files, without segments.
DIGITS = {
    "wav.scp": "a-1 {audio}/1.wav\nb-2 {audio}/2.flac\n",
    "text": "a-1 one\nb-2 two\n",
    "utt2spk": "a-1 a\nb-2 b\n",
}


def directory(folder: Path, files: dict[str, str], **changes: str) -> Path:
    """A data directory and the audio beside it; a file of `changes` that is empty is left out."""
    audio = folder.parent / "audio"
    audio.mkdir(parents=True, exist_ok=True)
    for name in ("sw1.sph", "1.wav", "2.flac"):
        (audio / name).touch()
    folder.mkdir(parents=True)
    for name, text in (files | changes).items():
        if text:
            (folder / name).write_text(text.replace("{audio}", str(audio)), encoding="utf-8")
    return folder


def excerpts(corpus: Corpus) -> dict[str, tuple[str, Excerpt]]:
    return {item.key: (item.path.name, item.excerpt) for item in corpus.utterances}


def test_segments_and_pipes_become_excerpts_of_the_files(tmp_path: Path) -> None:
    corpus = load_corpus(f"kaldi:{directory(tmp_path / 'train', SWITCHBOARD)}")
    assert excerpts(corpus) == {
        "sw1-A_000-250": ("sw1.sph", Excerpt(0.0, 2.5, 1)),
        "sw1-B_100-175": ("sw1.sph", Excerpt(1.0, 1.75, 2)),
    }
    first = corpus.utterances[0]
    assert (first.text, first.speaker, first.split) == ("hello there", "sw1-A", "train")
    assert first.label("gender") == "f"
    assert corpus.name == "kaldi-train"


def test_a_directory_without_segments_has_whole_files(tmp_path: Path) -> None:
    corpus = load_corpus(directory(tmp_path / "eval2000", DIGITS))
    assert excerpts(corpus) == {"a-1": ("1.wav", Excerpt()), "b-2": ("2.flac", Excerpt())}
    assert {item.split for item in corpus.utterances} == {"test"}


def test_parts_are_data_directories_with_splits(tmp_path: Path) -> None:
    for part in ("train_nodup", "dev", "rt03"):
        wav = f"{part}-1 {{audio}}/{part}.wav\n"
        directory(tmp_path / part, {"wav.scp": wav})
        (tmp_path / "audio" / f"{part}.wav").touch()
    corpus = load_corpus(f"kaldi:{tmp_path}#train_nodup,dev,test=rt03")
    assert {item.label("part"): item.split for item in corpus.utterances} == {
        "train_nodup": "train",
        "dev": "dev",
        "rt03": "test",
    }
    assert corpus.name == "kaldi-train_nodup+dev+rt03"
    with pytest.raises(ProbeError, match=r"part 'rt03' has no word for one split.* train=rt03"):
        load_corpus(f"kaldi:{tmp_path}#rt03")
    with pytest.raises(ProbeError, match=r"no wav\.scp in .*found dev, rt03, train_nodup\. Name"):
        load_corpus(f"kaldi:{tmp_path}")


def test_unsorted_files_are_read_in_the_order_of_the_segments(tmp_path: Path) -> None:
    changes = {
        "text": "b-2 two\na-1 one\n",
        "utt2spk": "b-2 b\na-1 a\n",
        "wav.scp": "b-2 {audio}/2.flac\na-1 {audio}/1.wav\n",
    }
    corpus = load_corpus(directory(tmp_path / "dev", DIGITS, **changes))
    assert [(item.key, item.text, item.speaker) for item in corpus.utterances] == [
        ("b-2", "two", "b"),
        ("a-1", "one", "a"),
    ]


def test_tabs_line_ends_of_windows_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    text = "\ufeffa-1\tein\u00a0Wort \u2028 mehr\r\nb-2  zwei\tdrei\r\n"
    corpus = load_corpus(directory(tmp_path / "dev", DIGITS, text=text))
    texts = [item.text for item in corpus.utterances]
    assert texts == ["ein\u00a0Wort \u2028 mehr", "zwei\tdrei"]


def test_an_id_alone_has_an_empty_text(tmp_path: Path) -> None:
    corpus = load_corpus(directory(tmp_path / "dev", DIGITS, text="a-1 one\nb-2\n"))
    assert [item.text for item in corpus.utterances] == ["one", ""]


def test_relative_paths_are_relative_to_the_folder_that_the_recipe_runs_in(tmp_path: Path) -> None:
    folder = directory(tmp_path / "s5" / "data" / "train", DIGITS)
    (folder / "wav.scp").write_text("a-1 data/audio/1.wav\nb-2 data/audio/2.flac\n")
    paths = [item.path for item in load_corpus(folder).utterances]
    assert paths == [tmp_path / "s5/data/audio" / name for name in ("1.wav", "2.flac")]


def test_a_segment_may_end_with_the_file_and_name_its_channel_from_0(tmp_path: Path) -> None:
    changes = {"segments": "u1 a-1 0.5 -1\nu2 b-2 0 1 1\n", "text": "", "utt2spk": ""}
    corpus = load_corpus(directory(tmp_path / "dev", DIGITS, **changes))
    assert [item.excerpt for item in corpus.utterances] == [Excerpt(0.5), Excerpt(0.0, 1.0, 2)]


@pytest.mark.parametrize(
    ("command", "channel"),
    [
        ("sph2pipe -f wav -c 2 {audio}/sw1.sph |", 2),
        ("sox {audio}/1.wav -t wav - remix 2 |", 2),
        ("sox {audio}/1.wav -c 1 -t wav - |", None),
        ("ffmpeg -i {audio}/1.wav -ac 1 -f wav - |", None),
    ],
)
def test_the_channel_of_a_segment_is_counted_in_what_the_command_writes(
    tmp_path: Path, command: str, channel: int | None
) -> None:
    files = {"wav.scp": f"r {command}\n", "segments": "u1 r 0 1 0\nu2 r 1 2\n"}
    corpus = load_corpus(directory(tmp_path / "a" / "dev", files))
    assert [item.excerpt.channel for item in corpus.utterances] == [channel, channel]
    files["segments"] = "u1 r 0 1 0\nu2 r 1 2 1\n"
    message = (
        r"segments line 2: channel 1, counted from 0; the command of 'r' in wav\.scp writes one"
    )
    with pytest.raises(ProbeError, match=message):
        load_corpus(directory(tmp_path / "b" / "dev", files))


@pytest.mark.parametrize(
    ("line", "written"),
    [
        ("sw1-B sph2pipe -f wav -c 1 {audio}/sw1.sph |", "channel 1"),
        ("sw1-B sox {audio}/1.wav -c 1 -t wav - |", "the mean of all channels"),
    ],
)
def test_a_side_that_contradicts_the_command_is_refused(
    tmp_path: Path, line: str, written: str
) -> None:
    files = {"wav.scp": f"{line}\n", "reco2file_and_channel": "sw1-B 1 B\n"}
    message = (
        rf"reco2file_and_channel line 1: 'sw1-B' is channel 2, counted from 1, but .* {written}\."
    )
    with pytest.raises(ProbeError, match=message):
        load_corpus(directory(tmp_path / "dev", files))


@pytest.mark.parametrize(
    ("wav", "sides", "channels"),
    [
        ("c-A {audio}/c.wav\nc-B {audio}/c.wav\n", "c-A c A\nc-B c B\n", [1, 2]),
        ("c-A {audio}/c.wav\nc-B {audio}/c.wav\n", "c-A c 1\nc-B c 2\n", [1, 2]),
        ("c-A {audio}/c-A.wav\nc-B {audio}/c-B.wav\n", "c-A c A\nc-B c B\n", [None, None]),
        ("c-B {audio}/c-B.wav\n", "c-B c B\n", [None]),
        ("c-B {audio}/c.wav\n", "c-B c B\n", [2]),
    ],
    ids=["one file", "numbers", "a file for each side", "the file of one side", "one side"],
)
def test_the_side_of_a_call_is_a_channel_unless_it_has_a_file_of_its_own(
    tmp_path: Path, wav: str, sides: str, channels: list[int | None]
) -> None:
    folder = directory(tmp_path / "dev", {"wav.scp": wav, "reco2file_and_channel": sides})
    for name in ("c", "c-A", "c-B"):
        (tmp_path / "audio" / f"{name}.wav").touch()
    assert [item.excerpt.channel for item in load_corpus(folder).utterances] == channels


def test_files_by_utterance_or_speaker_become_columns(tmp_path: Path) -> None:
    changes = {"utt2lang": "a-1 de\n", "spk2age": "b 40\n", "utt2domain": "a-1 x\nb-2 y\n"}
    changes |= {"utt2num_frames": "a-1 40\n", "spk2utt": "a a-1\nb b-2\n"}
    corpus = load_corpus(directory(tmp_path / "dev", DIGITS, **changes))
    labels = [
        [item.label(name) for name in ("lang", "age", "domain")] for item in corpus.utterances
    ]
    assert labels == [["de", "", "x"], ["", "40", "y"]]
    assert "num_frames" not in corpus.columns


DAMAGED = {
    "a doubled id": ({"text": "a-1 one\nb-2 two\na-1 x\n"}, "text line 3: 'a-1' occurs on line 1"),
    "a text without audio": (
        {"text": "a-1 one\nb-2 two\nc-3 x\n"},
        "text line 3: 'c-3' has no audio in segments or wav.scp. Correct it, or run utils/fix_data",
    ),
    "an utterance without text": ({"text": "a-1 one\n"}, "wav.scp line 2: 'b-2' is not in "),
    "an utterance without speaker": ({"utt2spk": "b-2 b\n"}, "wav.scp line 1: 'a-1' is not in "),
    "a segment of no recording": (
        {"segments": "a-1 a-1 0 1\nb-2 gone 0 1\n"},
        "segments line 2: the recording 'gone' is not in wav.scp",
    ),
    "a segment without its end": (
        {"segments": "a-1 a-1 0 1\nb-2 b-2 0\n"},
        "segments line 2: b-2 b-2 0; expected `utterance recording start end`",
    ),
    "a segment that ends before it starts": (
        {"segments": "a-1 a-1 2 1\nb-2 b-2 0 1\n"},
        "segments line 1: end 1 is not after start 2",
    ),
    "times that are no numbers": (
        {"segments": "a-1 a-1 0 x\nb-2 b-2 0 1\n"},
        "segments line 1: end 'x'; expected seconds",
    ),
    "an archive of Kaldi": (
        {"wav.scp": "a-1 {audio}/1.wav\nb-2 raw/wav.1.ark:1234\n"},
        "wav.scp line 2: raw/wav.1.ark:1234 is a place in an archive of Kaldi",
    ),
    "a command that changes the sound": (
        {"wav.scp": "a-1 {audio}/1.wav\nb-2 sox {audio}/2.flac -t wav - speed 1.1 |\n"},
        "wav.scp line 2: the command 'sox {audio}/2.flac -t wav - speed 1.1 |' changes the sound",
    ),
    "audio that is not there": (
        {"wav.scp": "a-1 {audio}/1.wav\nb-2 {audio}/3.flac\n"},
        "wav.scp line 2: {audio}/3.flac does not exist",
    ),
    "no audio": (
        {"wav.scp": "a-1 {audio}/1.wav\nb-2\n"},
        "wav.scp line 2: 'b-2' has no audio file",
    ),
    "a side that is none": (
        {"reco2file_and_channel": "a-1 a C\n"},
        "reco2file_and_channel line 1: a-1 a C; expected `recording file A`",
    ),
    "a column with a meaning": ({"utt2text": "a-1 x\n"}, "utt2text: the column text has a meaning"),
}


@pytest.mark.parametrize(("changes", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_directory_is_refused_with_file_and_line(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    folder = directory(tmp_path / "dev", DIGITS, **changes)
    text = message.replace("{audio}", str(tmp_path / "audio"))
    with pytest.raises(ProbeError, match="(?m)^" + re.escape(f"{folder}/{text}")):
        load_corpus(folder)


def test_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    folder = directory(tmp_path / "dev", DIGITS)
    (folder / "text").write_bytes(b"a-1 one\nb-2 z\xfcrich\n")
    with pytest.raises(ProbeError, match=r"text line 2: byte 0xfc is not UTF-8\. Save"):
        load_corpus(folder)
    (folder / "text").write_bytes("a-1 one\nb-2 two\n".encode("utf-16-le"))
    with pytest.raises(ProbeError, match=r"text line 1: a NUL character; .*UTF-16"):
        load_corpus(folder)


def test_the_hash_follows_the_rows_and_not_where_the_audio_lies(tmp_path: Path) -> None:
    here = load_corpus(directory(tmp_path / "here" / "dev", DIGITS))
    there = load_corpus(directory(tmp_path / "there" / "dev", DIGITS))
    other = load_corpus(directory(tmp_path / "x" / "dev", DIGITS, text="a-1 one\nb-2 too\n"))
    assert here.sha256 == there.sha256 != other.sha256


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("sph2pipe -f wav -p -c 1 a.sph |", ("a.sph", "1")),
        ("$KALDI/sph2pipe -f wav a.sph |", None),
        ("/opt/kaldi/tools/sph2pipe_v2.5/sph2pipe -f wav 'my a.wv1'|", ("my a.wv1", "")),
        ("sph2pipe -f wav -t 1:2 a.sph |", None),
        ("sph2pipe -f wav -u a.sph |", None),
        ("flac -c -d -s /d/a.flac |", ("/d/a.flac", "")),
        ("flac -dcs a.flac 2>/dev/null |", ("a.flac", "")),
        ("flac -c a.wav |", None),
        ("flac -d -c --skip=100 a.flac |", None),
        ("sox a.flac -t wav - |", ("a.flac", "")),
        ("/usr/bin/sox -t mp3 a.mp3 -r 16k -c 1 -b 16 -t wav - |", ("a.mp3", "mean")),
        ("sox a.wav -r 8000 -t wav - |", None),
        ("sox a.wav -t wav - remix 2 |", ("a.wav", "2")),
        ("sox a.wav -t wav - remix 1,2 rate 16000 |", ("a.wav", "mean")),
        ("sox -v 0.5 a.wav -t wav - |", None),
        ("sox a.wav -t wav - trim 0 1 |", None),
        ("sox a.wav b.wav -t wav - |", None),
        ("sox -r 8000 -e mu-law -t raw a.raw -t wav - |", None),
        ("ffmpeg -i a.mp3 -f wav -ar 16000 -ab 16 - |", ("a.mp3", "")),
        ("ffmpeg -v 8 -i a.m4a -ac 1 -acodec pcm_s16le -f wav pipe:1 |", ("a.m4a", "mean")),
        ("ffmpeg -ss 3 -i a.wav -f wav - |", None),
        ("ffmpeg -i a.wav -i b.wav -f wav - |", None),
        ("sph2pipe -f wav -c 2 a.sph | sox -t wav - -r 16000 -t wav - |", ("a.sph", "2")),
        ("sph2pipe -f wav -c 2 a.sph | sox -t wav - -c 1 -t wav - |", ("a.sph", "2")),
        ("sox a.wav -c 1 -t wav - | sox -t wav - -t wav - remix 2 |", None),
        ("sox a.wav -t wav - remix 1 | sox -t wav - -t wav - remix 1 |", None),
        ("cat a.wav |", ("a.wav", "")),
        ("cat a.wav b.wav |", None),
        ("cat a.wav | wav-reverberate --shift-output=true - - |", None),
        ("sox $(ls a*) -t wav - |", None),
        ("rm -rf / ; cat a.wav |", None),
        ("gunzip -c a.wav.gz |", None),
        ("sox 'a.wav -t wav - |", None),
        ("|", None),
    ],
)
def test_a_command_is_understood_or_refused_and_never_run(
    command: str, expected: tuple[str, str] | None
) -> None:
    if expected is None:
        with pytest.raises(ValueError, match=r"^[a-z]"):
            sound_of(command)
    else:
        assert sound_of(command) == expected
