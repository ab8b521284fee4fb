"""Rows that are excerpts, from the corpus to the store: each has the features of its own sound, and
a recording is read once.
"""

import csv
import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from exhaustive import mostly_nightly
from hostile import RATE_HZ, speechlike
from windows import Windows, extract

from probe.cli import cli
from probe.data import audio_bytes, recordings
from probe.data.audio import Audio, load_audio
from probe.data.conditions.audition import hear
from probe.data.conditions.noise_sources import open_pool, open_sounds
from probe.data.corpus import Corpus, Names, load_corpus, noise_rows
from probe.data.excerpts import Excerpt
from probe.data.guarded_decoding import Decoder
from probe.data.readers import registry
from probe.data.readers.reading import Reading, Row
from probe.errors import ProbeError
from probe.extraction.extract import Extraction
from probe.extraction.plan import make_plan
from probe.extraction.read_ahead import decoded
from probe.extraction.settings import Content
from probe.store.export import export
from probe.store.stores import open_store

Rows = list[dict[str, Any]]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Rows], Corpus]:
    """A corpus of rows, whatever reads them."""

    def loaded(rows: Rows) -> Corpus:
        texts = [{name: str(value) for name, value in row.items()} for row in rows]
        columns = list(dict.fromkeys(name for row in texts for name in row))
        lines = [Row(f"rows.csv line {number}", row) for number, row in enumerate(texts, start=2)]
        reading = Reading("rows", "0" * 64, tmp_path, columns, lines)
        monkeypatch.setattr(registry, "read", lambda text: reading)
        return load_corpus("rows.csv")

    return loaded


@pytest.fixture
def recording(tmp_path: Path) -> np.ndarray:
    """(time, channel) samples of ``long.wav``, four seconds of two channels, as it is read."""
    path = tmp_path / "long.wav"
    soundfile.write(path, speechlike(4, channels=2), RATE_HZ)
    return soundfile.read(path, dtype="float32")[0]


def features(done: Extraction, key: str) -> np.ndarray:
    [values] = open_store(done.store).layer("1", [key])
    return values


def test_rows_of_one_file_have_the_features_of_the_files_that_are_cut_out(
    tmp_path: Path, load: Callable[[Rows], Corpus], recording: np.ndarray
) -> None:
    parts = {
        "first": ({"start": 0.5, "end": 1.25}, recording[8000:20_000].mean(axis=1)),
        "later": ({"start": 1.25, "end": 2.0}, recording[20_000:32_000].mean(axis=1)),
        "left": ({"start": 1.25, "end": 2.0, "channel": "left"}, recording[20_000:32_000, 0]),
        "right": ({"start": 1.25, "end": 2.0, "channel": 2}, recording[20_000:32_000, 1]),
        "rest": ({"start": 3.5, "channel": "B"}, recording[56_000:, 1]),
        "whole": ({}, recording.mean(axis=1)),
    }
    (tmp_path / "cut").mkdir()
    for name, (_, samples) in parts.items():
        soundfile.write(tmp_path / "cut" / f"{name}.wav", samples, RATE_HZ, subtype="FLOAT")
    rows = [{"path": "long.wav", "id": name, **columns} for name, (columns, _) in parts.items()]
    done = extract(Windows(), load(rows), tmp_path / "features")
    assert not done.failures and done.plan.audio_s == pytest.approx(0.75 * 4 + 0.5 + 4)
    cut = load([{"path": f"cut/{name}.wav", "id": name} for name in parts])
    files = extract(Windows(), cut, tmp_path / "other")
    for name in parts:
        np.testing.assert_array_equal(features(done, name), features(files, name))
    assert len({features(done, name).tobytes() for name in parts}) == len(parts)


def test_a_table_on_the_command_line_gives_each_of_its_excerpts_its_own_features(
    tmp_path: Path, recording: np.ndarray
) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "long.wav", "in/long.wav")
    lines = [
        "id,path,start,end,channel,member",
        "a,long.wav,0.5,1.25,,",
        "b,long.wav,1.25,2,,",
        "c,long.wav,1.25,2.5,,",
        "d,long.wav,1.25,2,A,",
        "e,long.wav,1.25,2,2,",
        "f,x.tar,1.25,2,2,in/long.wav",
    ]
    (tmp_path / "my.csv").write_text("\n".join(lines) + "\n")
    command = f"extract --model fbank --corpus {tmp_path}/my.csv --to {tmp_path}/features"
    result = CliRunner().invoke(cli, command.split())
    assert result.exit_code == 0, result.output
    store = open_store(tmp_path / "features")
    rows = dict(zip("abcdef", store.layer("0", list("abcdef")), strict=True))
    assert len({rows[key].tobytes() for key in "abcde"}) == 5
    np.testing.assert_array_equal(rows["e"], rows["f"])


def test_a_row_whose_excerpt_changes_is_extracted_again_and_only_that_row(
    tmp_path: Path, load: Callable[[Rows], Corpus], recording: np.ndarray
) -> None:
    a, b = ({"path": "long.wav", "id": name, "start": 0, "end": 1} for name in "ab")
    changes: list[dict[str, Any]] = [{"start": 0.5}, {"end": 2}, {"channel": 1}, {"channel": 2}]
    to = tmp_path / "features"
    assert extract(Windows(), load([a, b]), to).extracted == 2
    assert extract(Windows(), load([a, b]), to).extracted == 0
    before = {}
    for change in changes:
        corpus = load([a, {**b, **change}])
        assert len(extract(Windows(), corpus, to, dry_run=True).plan.todo) == 1
        done = extract(Windows(), corpus, to)
        assert done.extracted == 1
        store = open_store(done.store)
        stored = [
            store.match(item.key, item.path, str(item.excerpt), item.audio_sha256)
            for item in corpus.utterances
        ]
        assert None not in stored
        before[str(change)] = features(done, "b").tobytes()
    assert len(set(before.values())) == len(changes)
    done = extract(Windows(), load([a, b]), to)  # the first version is still there
    assert done.extracted == 0
    assert open_store(done.store).match("a", tmp_path / "long.wav") is None  # a whole file is not


def test_a_store_of_whole_files_says_nothing_of_excerpts(
    tmp_path: Path, load: Callable[[Rows], Corpus], recording: np.ndarray
) -> None:
    corpus = load([{"path": "long.wav"}, {"path": "long.wav", "start": 9}])
    done = extract(Windows(), corpus, tmp_path / "features")
    [index] = [json.loads(path.read_text()) for path in done.store.glob("shard-*.json")]
    assert "excerpt" not in index["utterances"][0]
    assert index["failures"][0]["excerpt"] == "t=9.0"
    assert done.failures[0].reason.startswith("start is 9 s in the manifest, the recording lasts")
    again = extract(Windows(), corpus, tmp_path / "features")
    assert again.plan.present == 1 and len(again.plan.failed) == 1 and not again.plan.todo
    mended = load([{"path": "long.wav"}, {"path": "long.wav", "id": "long.wav#t=9.0", "start": 1}])
    assert extract(Windows(), mended, tmp_path / "features").extracted == 1


@pytest.mark.parametrize("kind", ["file", "member"])
def test_a_recording_that_was_only_touched_is_known_by_its_content_read_once(
    tmp_path: Path,
    load: Callable[[Rows], Corpus],
    recording: np.ndarray,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, place = tmp_path / "long.wav", {"path": "long.wav"}
    if kind == "member":
        path, place = tmp_path / "x.tar", {"path": "x.tar", "member": "long.wav"}
        with tarfile.open(path, "w") as tar:
            tar.add(tmp_path / "long.wav", "long.wav")
    rows = [{**place, "id": n, "start": n / 10, "end": n / 10 + 0.5} for n in range(5)]
    corpus = load(rows)
    assert extract(Windows(), corpus, tmp_path / "features").extracted == 5
    os.utime(path, ns=(time.time_ns(), time.time_ns()))
    hashed: list[Path] = []
    name = "sha256_of_file" if kind == "file" else "read_regular"
    plain = getattr(audio_bytes, name)

    def counted(place: Path, *args: Any, **how: Any) -> Any:
        hashed.append(place)
        return plain(place, *args, **how)

    monkeypatch.setattr(f"probe.data.audio_bytes.{name}", counted)
    assert extract(Windows(), corpus, tmp_path / "features").plan.present == 5
    assert hashed == [path]


@pytest.mark.parametrize("workers", [1, 3])
def test_every_recording_is_read_once_by_whichever_decoder(
    tmp_path: Path,
    load: Callable[[Rows], Corpus],
    recording: np.ndarray,
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"{number}.wav" for number in range(3)]
    for name in names:
        shutil.copyfile(tmp_path / "long.wav", tmp_path / name)
    rows: Rows = [
        {"path": name, "start": n / 10, "end": n / 10 + 0.1} for name in names for n in range(30)
    ]
    if workers == 3:  # as many recordings in turn as there are decoders
        rows = [rows[number % 3 * 30 + number // 3] for number in range(90)]
    opened: list[str] = []
    plain = recordings.Recording

    def counted(path: Path, *args: Any) -> Any:
        opened.append(path.name)
        return plain(path, *args)

    monkeypatch.setattr(recordings, "Recording", counted)
    corpus = load(rows)
    sounds = decoded(corpus.utterances, 8000, [Decoder() for _ in range(workers)], workers, 10**9)
    for utterance, sound in sounds:
        assert isinstance(sound, Audio)
        assert len(sound.samples) == 800 and sound.duration_s == 0.1
        wanted = load_audio(tmp_path / "long.wav", 8000, excerpt=utterance.excerpt)
        np.testing.assert_array_equal(sound.samples, wanted.samples)
    assert sorted(opened) == names


def test_plans_count_the_seconds_of_excerpts(
    tmp_path: Path, load: Callable[[Rows], Corpus], recording: np.ndarray
) -> None:
    rows = [
        {"path": "long.wav", "start": 1, "end": 1.5},
        {"path": "long.wav", "start": 1},
        {"path": "long.wav", "channel": 1},
    ]
    plan = make_plan(load(rows), Windows(), Content(("0",), "mean"), None, tmp_path)
    assert plan.audio_s == 0.5 + 3 + 4


# Splits


ROW = {"path": "long.wav"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {}),
        ({}, {"start": 1, "end": 2}),
        ({"start": 1}, {"start": 3.9, "end": 4}),
        ({"start": 1, "end": 2}, {"start": 1.9, "end": 3}),
        ({"start": 0, "end": 4}, {"start": 1, "end": 2}),
        ({"channel": 1}, {"start": 1, "end": 2, "channel": 1}),
        ({"channel": 1}, {"start": 1, "end": 2}),
    ],
)
def test_sound_in_two_splits_is_refused_with_both_lines(
    load: Callable[[Rows], Corpus], recording: np.ndarray, one: dict, other: dict
) -> None:
    for first, second in ((one, other), (other, one)):
        rows = [{**ROW, "id": 1, "split": "train", **first}, {**ROW, "split": "test", **second}]
        message = (
            r"rows\.csv line 3: long\.wav.* is in split 'test' here and in 'train' on line 2\. "
            "A recording may be in one split only"
        )
        with pytest.raises(ProbeError, match=message):
            load(rows)
        load([{**row, "split": "train"} for row in rows])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"end": 2}, {"start": 2}),
        ({"start": 1, "end": 2}, {"start": 1.9999, "end": 3}),
        ({"channel": 1}, {"channel": 2}),
        ({"channel": 1, "end": 1}, {"channel": 1, "start": 1}),
    ],
)
def test_a_recording_that_two_splits_share_without_overlap_is_named(
    load: Callable[[Rows], Corpus],
    recording: np.ndarray,
    caplog: pytest.LogCaptureFixture,
    one: dict,
    other: dict,
) -> None:
    rows = [{**ROW, "id": 1, "split": "train", **one}, {**ROW, "split": "test", **other}]
    assert len(load(rows).utterances) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "rows.csv: excerpts of 1 recording are in more than one split (long.wav). They do not "
        "overlap, but share speakers, room and microphone: scores say nothing about new recordings."
    ]


@pytest.mark.parametrize("n", mostly_nightly([5000, 200_000], [5000]))
def test_excerpts_of_one_recording_are_compared_in_one_pass(
    load: Callable[[Rows], Corpus], recording: np.ndarray, n: int
) -> None:
    rows = [
        {**ROW, "start": number, "end": number + 1, "split": ("train", "test")[number % 2]}
        for number in range(n)
    ]
    started = time.monotonic()
    assert len(load(rows).utterances) == n
    assert time.monotonic() - started < n / 1000
    rows[700]["end"] = 701.5
    with pytest.raises(ProbeError, match=r"line 703: long\.wav#t=701\.0,702\.0 is in split"):
        load(rows)


# Everything else that reads audio


def test_lists_name_an_excerpt_by_its_id_or_by_path_and_times(
    tmp_path: Path, load: Callable[[Rows], Corpus], recording: np.ndarray
) -> None:
    rows = [{**ROW, "start": 1, "end": 2}, {**ROW, "id": "mine", "channel": 2}]
    names = Names(load(rows), tmp_path)
    first, second = load(rows).utterances
    assert first.key == "long.wav#t=1.0,2.0" and names.get(first.key) == first
    assert names.get(f"{tmp_path}/long.wav#t=1.0,2.0") == first
    assert names.get("mine") == names.get("long.wav#channel=2") == second
    assert names.get("long.wav") is None  # the corpus does not have the whole recording


def test_noise_may_be_an_excerpt(
    tmp_path: Path, load: Callable[[Rows], Corpus], recording: np.ndarray
) -> None:
    with pytest.raises(ProbeError, match="no utterances"):
        load([{**ROW, "split": "noise", "start": 1, "end": 2}])
    [row] = noise_rows(Path("rows.csv"))
    assert row.excerpt == Excerpt(1, 2)
    sounds = open_sounds(Path("rows.csv"), RATE_HZ)
    np.testing.assert_array_equal(sounds.load(0), recording[16_000:32_000].mean(axis=1))
    sounds.kept.clear()
    np.testing.assert_array_equal(sounds.load(0), recording[16_000:32_000].mean(axis=1))


def test_babble_and_examples_are_of_the_excerpts(
    tmp_path: Path, load: Callable[[Rows], Corpus], recording: np.ndarray
) -> None:
    rows = [
        {**ROW, "id": n, "speaker": f"s{n}", "start": n, "end": n + 1, "text": ""} for n in range(3)
    ]
    corpus = load(rows)
    pool = open_pool(corpus, RATE_HZ, 0)
    assert len(set(pool.sha256s)) == 3
    assert sorted(len(pool.load(n)) for n in range(3)) == [16_000] * 3
    [example] = hear(corpus, [], 1)
    start = int(example.key) * RATE_HZ
    np.testing.assert_array_equal(example.samples, recording[start : start + 16_000].mean(axis=1))


def test_an_export_tells_the_audio_of_excerpts_apart(
    tmp_path: Path, load: Callable[[Rows], Corpus], recording: np.ndarray
) -> None:
    corpus = load([{**ROW, "id": n, "start": n, "end": n + 1} for n in range(3)])
    done = extract(Windows(), corpus, tmp_path / "features")
    assert export(done.store, tmp_path / "out", "npy", layers="0", corpus=corpus) == []
    with (tmp_path / "out" / "index.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["duration_s"] for row in table] == ["1.0"] * 3
    assert len({row["audio_sha256"] for row in table}) == 3
