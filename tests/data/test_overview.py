"""`probe data`: what a corpus holds and what is wrong with it."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from probe.cli import cli
from probe.data import audio, recordings
from probe.data.corpus import Corpus, Origin, Utterance, load_corpus
from probe.data.excerpts import Excerpt
from probe.data.manifest import write_manifest
from probe.data.overview import Overview, overview
from probe.errors import UtteranceError

SPEECH = os.environ.get("PROBE_SPEECH", "")


def said(shown: Overview, topic: str = "") -> str:
    """The notes on a topic, or all of them, as one text."""
    return "\n".join(
        f"{note.fact} -> {note.advice}" for note in shown.notes if topic in ("", note.topic)
    )


def wave(path: Path, rate_hz: int = 16_000, seconds: float = 0.5, channels: int = 1) -> None:
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (int(rate_hz * seconds), channels))
    soundfile.write(path, noise, rate_hz)


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., Corpus]:
    """A corpus of ten real files of these rates, changed by ``spoil`` before it is read."""

    def write(
        *rates_hz: int, spoil: Callable[[Path], None] = lambda folder: None, duration_s: str = ""
    ) -> Corpus:
        lines = ["path,text,speaker,domain,split,duration_s"]
        for number in range(10):
            wave(tmp_path / f"{number}.wav", rates_hz[number % len(rates_hz)])
            lines.append(f"{number}.wav,word,s{number % 2},d,train,{duration_s}")
        spoil(tmp_path)
        (tmp_path / "corpus.csv").write_text("\n".join(lines) + "\n")
        return load_corpus(tmp_path / "corpus.csv")

    return write


# The audio


def test_rates_levels_and_durations_are_those_of_the_files(recorded: Callable[..., Corpus]) -> None:
    def spoil(folder: Path) -> None:
        tone = 0.5 * np.sin(2 * np.pi * 100 * np.arange(16_000) / 16_000)
        soundfile.write(folder / "0.wav", np.stack([tone, tone], axis=1), 16_000, subtype="FLOAT")

    shown = overview(recorded(16_000, 8000, spoil=spoil))
    assert shown.sound is not None
    assert shown.sound.rates_hz == {16_000: 5, 8000: 5}
    assert shown.sound.channels == {1: 9, 2: 1}
    first = shown.sound.files["0.wav"]
    assert first.level_db == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.01)
    assert first.peak_db == pytest.approx(20 * np.log10(0.5), abs=0.01)
    assert first.floor_db == pytest.approx(first.level_db, abs=0.5)  # a tone has no pauses
    assert shown.durations_s["longest"] == 1.0 and shown.durations_s["median"] == 0.5
    assert shown.groups["hours"].tolist() == pytest.approx([5.5 / 3600])
    assert "5 of 8000 Hz, 5 of 16000 Hz" in said(shown, "sound")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda whole: whole[:1000], "truncated: the WAV header promises 16000 bytes"),
        (lambda whole: whole[:40] + b"\0\0\0\0", "no samples in it"),
        (lambda whole: b"", "the file is empty (0 bytes)"),
        (lambda whole: b"no audio at all", "cannot be decoded: Format not recognised"),
        (lambda whole: whole[:24] + b"\1\0\0\0" + whole[28:], "sample rate 1 Hz; expected"),
    ],
)
def test_a_damaged_file_is_named_with_its_reason_and_ends_in_code_3(
    recorded: Callable[..., Corpus], content: Callable[[bytes], bytes], reason: str
) -> None:
    def spoil(folder: Path) -> None:
        (folder / "3.wav").write_bytes(content((folder / "3.wav").read_bytes()))

    corpus = recorded(16_000, spoil=spoil)
    shown = overview(corpus)
    assert "1 utterance cannot be used, such as\n3.wav: " + reason in said(shown, "sound")
    assert f"({corpus.folder / 'corpus.csv'} line 5)" in said(shown, "sound")
    assert shown.sound is not None and len(shown.sound.files) == 9
    done = CliRunner().invoke(cli, ["data", corpus.source])
    assert done.exit_code == 3 and "9 of 10 utterances decoded" in done.output


def test_utterances_shorter_than_a_frame_are_named(recorded: Callable[..., Corpus]) -> None:
    def spoil(folder: Path) -> None:
        wave(folder / "4.wav", 8000, 0.024)
        wave(folder / "5.wav", 8000, 0.026)

    notes = said(overview(recorded(8000, spoil=spoil)), "sound")
    assert "1 utterance shorter than the 0.025 s of one frame of most models: 4.wav." in notes


def test_a_file_of_another_length_than_the_manifest_says_is_named(
    recorded: Callable[..., Corpus],
) -> None:
    assert "is this column in samples?" in said(overview(recorded(16_000, duration_s="8000")))


def test_at_most_so_many_files_are_decoded_evenly_spread(recorded: Callable[..., Corpus]) -> None:
    decoded: list[int] = []
    shown = overview(recorded(16_000), most_files=4, progress=decoded.append)
    assert shown.sound is not None
    assert list(shown.sound.files) == ["0.wav", "2.wav", "5.wav", "7.wav"]
    assert sum(decoded) == 4
    nothing = overview(recorded(16_000), most_files=0)
    assert nothing.sound is None and nothing.groups["hours"].isna().all()


@pytest.mark.parametrize(("gain", "quieter"), [(0.1, True), (0.9, False)])
def test_a_speaker_of_another_level_is_named(
    recorded: Callable[..., Corpus], gain: float, quieter: bool
) -> None:
    def spoil(folder: Path) -> None:
        for number in range(1, 10, 2):
            samples, rate_hz = soundfile.read(folder / f"{number}.wav")
            soundfile.write(folder / f"{number}.wav", gain * samples, rate_hz)

    notes = said(overview(recorded(16_000, spoil=spoil)), "sound")
    assert ("s1 -20 dB" in notes) is quieter


def test_samples_at_full_scale_are_said(recorded: Callable[..., Corpus]) -> None:
    def spoil(folder: Path) -> None:
        samples, rate_hz = soundfile.read(folder / "6.wav", dtype="int16")
        samples[7] = 32767
        soundfile.write(folder / "6.wav", samples, rate_hz)

    notes = said(overview(recorded(16_000, spoil=spoil)), "sound")
    assert "full scale: samples at the largest value in 1 file (6.wav)" in notes


@pytest.mark.parametrize(("gain", "unequal"), [(0.1, True), (0.9, False)])
def test_channels_of_different_levels_are_named(tmp_path: Path, gain: float, unequal: bool) -> None:
    tone = 0.5 * np.sin(np.arange(16_000))
    soundfile.write(tmp_path / "a.wav", np.stack([tone, gain * tone], axis=1), 16_000)
    (tmp_path / "c.csv").write_text("path,channel\na.wav,\na.wav,1\n")
    shown = overview(tmp_path / "c.csv")
    assert ("1 utterance: a.wav +20 dB." in said(shown, "sound")) is unequal
    assert shown.sound is not None
    assert shown.sound.files["a.wav#channel=1"].level_db == pytest.approx(-9.03, abs=0.01)


def test_a_recording_of_many_excerpts_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 80_000), 16_000)
    rows = "".join(f"a.wav,{n / 10},{n / 10 + 0.1}\n" for n in reversed(range(50)))
    (tmp_path / "c.csv").write_text(f"path,start,end\n{rows}")
    opened: list[str] = []
    open_recording = recordings.Recording

    def count(path: Path, *others: object) -> Any:
        opened.append(path.name)
        return open_recording(path, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(recordings, "Recording", count)
    shown = overview(tmp_path / "c.csv")
    assert shown.sound is not None and len(shown.sound.files) == 50 and opened == ["a.wav"]


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UtteranceError, match="not a regular file"):
        audio.read_header(tmp_path)
    with pytest.raises(UtteranceError, match="cannot be read: No such file"):
        audio.read_header(tmp_path / "none.wav")


# The splits


def splits_of(tmp_path: Path, *rows: str) -> Overview:
    """The overview of rows ``name,split,speaker,text``; equal numbers in names are equal audio."""
    lines = ["path,split,speaker,text,domain,duration_s"]
    for row in rows:
        name = row.partition(",")[0]
        number = int("".join(filter(str.isdigit, name)))
        tone = 0.1 * np.sin(np.arange(1600) * number / 50)
        soundfile.write(tmp_path / name, tone, 16_000)
        lines.append(f"{row},d,")
    (tmp_path / "c.csv").write_text("\n".join(lines) + "\n")
    return overview(tmp_path / "c.csv")


def test_speakers_texts_and_audio_that_splits_share_are_counted(tmp_path: Path) -> None:
    shown = splits_of(
        tmp_path, "a1.wav,train,x,one", "b1.wav,test,x,two", "c2.wav,dev,y,two", "d3.wav,test,z,one"
    )
    assert shown.shared.to_dict("records") == [
        {"splits": "train and dev", "speakers": 0, "texts": 0, "audio": 0},
        {"splits": "train and test", "speakers": 1, "texts": 1, "audio": 1},
        {"splits": "dev and test", "speakers": 0, "texts": 1, "audio": 0},
    ]
    assert "train and test share the audio of 1 file, byte by byte" in said(shown, "splits")


@pytest.mark.parametrize(
    ("names", "alike"), [(("x-1_s0", "x-1_s1"), True), (("x-1_s0", "x-2_s1"), False)]
)
def test_files_of_a_speaker_that_may_come_from_one_recording_are_said(
    tmp_path: Path, names: tuple[str, str], alike: bool
) -> None:
    shown = splits_of(tmp_path, f"{names[0]}.wav,train,x,", f"{names[1]}.wav,test,x,")
    assert ("all files of 1 speaker" in said(shown, "splits")) is alike


def test_a_missing_split_is_said(tmp_path: Path) -> None:
    shown = splits_of(tmp_path, "a1.wav,test,x,")
    assert "there are no utterances of split train and dev." in said(shown, "splits")


def test_a_corpus_of_noise_alone_is_shown(tmp_path: Path) -> None:
    shown = splits_of(tmp_path, "a1.wav,noise,,")
    assert shown.groups["utterances"].tolist() == [1] and not shown.notes


# The transcripts and the labels


def corpus_of(*texts: str, **columns: list[str]) -> Overview:
    """The overview of utterances without files: ``train: seven`` is a transcript of train; more
    columns by name.
    """
    rows = []
    for number, (split, text) in enumerate(item.split(": ", 1) for item in texts):
        values = {name: column[number] for name, column in columns.items()}
        speaker, domain = values.pop("speaker", "s"), values.pop("domain", "d")
        rows.append(Utterance(f"u{number}", "a.wav", text, speaker, domain, split, None, values))
    extra = [name for name in columns if name not in ("speaker", "domain")]
    corpus = Corpus("c", "", tuple(rows), ("text", "speaker", "domain", "split", *extra))
    return overview(corpus, most_files=0)


CLEAN = ("train: seven six", "train: nine", "dev: six", "test: seven")


def test_transcripts_are_counted() -> None:
    shown = corpus_of(*CLEAN)
    assert shown.text == {
        "transcripts": 4,
        "different": 4,
        "words": 5,
        "vocabulary": 3,
        "characters": 7,
    }
    assert not said(shown, "text")


def test_characters_that_train_does_not_have_are_named() -> None:
    notes = said(corpus_of(*CLEAN, "test: six’s", "dev: sexy"), "text")
    assert "'’' (U+2019 right single quotation mark) 1 times, first in u4" in notes
    assert "'y' 1 times, first in u5" in notes
    assert "'x'" not in notes
    assert not said(corpus_of("dev: six", "test: nine"), "text")


def test_repeated_transcripts_that_are_written_in_two_ways_are_named() -> None:
    words = ["train: z\u00e9ro", "train: two", "train: two", "train: z\u00e9ro", "dev: two"]
    more = ["dev: ze\u0301ro", "test: Two", "test: two", "test: two"]
    notes = said(corpus_of(*words, *more), "text")
    assert "'z\u00e9ro' (2) and 'ze\u0301ro' (1), 'two' (5) and 'Two' (1) differ only by" in notes
    sentences = ["train: one two", "train: three", "dev: four", "test: One two"]
    assert "differ only" not in said(corpus_of(*sentences), "text")


@pytest.mark.parametrize("other", ["anna ", "ANNA", "ａnna", "an na"])
def test_a_label_written_in_two_ways_is_named(other: str) -> None:
    notes = said(corpus_of(*CLEAN, speaker=["anna", "anna", other, other]), "labels")
    assert (f"'anna' (2) and {other!r} (2) differ only" in notes) is (other != "an na")


def test_labels_are_counted_by_value_and_split() -> None:
    shown = corpus_of(*CLEAN, sex=["f", "m", "f", "f"], session=["1", "2", "3", "4"])
    assert shown.labels["sex"] == {"f": {"train": 1, "dev": 1, "test": 1}, "m": {"train": 1}}
    assert "session" not in shown.labels  # every value is another one


# The command


def by_path(utterance: Utterance) -> Utterance:
    """The utterance with its whole path as its file: which part is its folder hangs on the
    manifest's place.
    """
    return replace(utterance, file=str(utterance.path), origin=Origin())


def test_the_written_manifest_gives_the_same_corpus(
    recorded: Callable[..., Corpus], tmp_path: Path
) -> None:
    corpus = recorded(16_000, duration_s="0.5")
    (tmp_path / "elsewhere").mkdir()
    for to in (tmp_path / "frozen.csv", tmp_path / "elsewhere" / "frozen.csv"):
        done = CliRunner().invoke(cli, ["data", corpus.source, "--write", str(to)])
        assert done.exit_code == 0, done.output
        assert [*map(by_path, load_corpus(to).utterances)] == [*map(by_path, corpus.utterances)]


def test_excerpts_and_further_columns_are_written(tmp_path: Path) -> None:
    wave(tmp_path / "a.wav")
    path, unknown = tmp_path / "a.wav", ("", "", "", "")
    utterances = (
        Utterance("u1", str(path), *unknown, extra={"sex": "f"}, excerpt=Excerpt(0.1, 0.25, 1)),
        Utterance("u2", str(path), *unknown, extra={"sex": "m, or f"}),
    )
    columns = ("text", "speaker", "domain", "split", "sex")
    write_manifest(Corpus("c", "", utterances, columns), tmp_path / "c.csv")
    header, first, second = (tmp_path / "c.csv").read_text().splitlines()
    assert header == "id,path,text,speaker,domain,split,duration_s,start,end,channel,sex"
    assert first == "u1,a.wav,,,,,,0.1,0.25,1,f" and second == 'u2,a.wav,,,,,,,,,"m, or f"'


def test_the_overview_is_data_a_screen_and_a_picture(
    recorded: Callable[..., Corpus], tmp_path: Path
) -> None:
    corpus = recorded(16_000)
    picture = tmp_path / "corpus.svg"
    done = CliRunner().invoke(
        cli, ["data", corpus.source, "--format", "json", "--to", str(picture)]
    )
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert shown["groups"][0]["utterances"] == 10 and shown["sound"]["rates_hz"] == {"16000": 10}
    assert picture.read_text().count('<g id="axes_') == 4
    wrong = CliRunner().invoke(cli, ["data", corpus.source, "--write", "corpus.txt"])
    assert "expected a name that ends in .csv" in str(wrong.exception)


@pytest.mark.skipif(not SPEECH, reason="PROBE_SPEECH names no folder")
def test_real_corpora_have_the_properties_that_are_known_of_them() -> None:
    digits = overview(Path(SPEECH) / "digits_crossdomain.csv", most_files=400)
    assert re.search(
        r"1 speaker against the median of the others: fsdd-theo -(18|19|20) dB", said(digits)
    )
    shown = overview(Path(SPEECH) / "commands.csv")
    assert shown.sound is not None and len(shown.sound.full_scale) == 7
    noise = overview(Path(SPEECH) / "noise.csv")
    assert noise.sound is not None
    assert -50 < noise.sound.quantiles("level_db")["median"] < -44
    speakers = overview(Path(SPEECH) / "speakers_shared.csv", most_files=1)
    assert "all files of 72 speakers have names that begin alike" in said(speakers, "splits")
