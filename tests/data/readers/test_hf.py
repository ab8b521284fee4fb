"""Datasets of Hugging Face without network: saved ones, folders of Parquet, folders of audio."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from probe.data.corpus import load_corpus
from probe.errors import ProbeError

datasets = pytest.importorskip("datasets", reason="the extra [hf] is not installed")

TYPES = {
    "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
    "sentence": datasets.Value("string"),
    "client_id": datasets.Value("int32"),
    "emotion": datasets.ClassLabel(names=["calm", "angry"]),
    "path": datasets.Value("string"),
    "age": datasets.Value("float32"),
    "embedding": datasets.Array2D((1, 2), "float32"),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    return tmp_path / "cache" / "layerprobe" / "corpora"


def sound(n: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.full(n, 0.1), 16_000, format="FLAC")
    return file.getvalue()


def dataset(folder: Path, n: int = 3) -> Any:
    """Rows with bytes, the last one with a file, which is embedded where the rows are saved."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "last.flac").write_bytes(sound(100))
    values = {
        "audio": [
            *({"bytes": sound(1600 + i), "path": f"clip{i}.flac"} for i in range(n - 1)),
            {"bytes": None, "path": str(folder / "last.flac")},
        ],
        "sentence": [f"text {i}" for i in range(n)],
        "client_id": list(range(n)),
        "emotion": [i % 2 for i in range(n - 1)] + [None],
        "path": [f"clip{i}.mp3" for i in range(n)],
        "age": [40.0, None, 2.5][:n],
        "embedding": [[[0.0, 1.0]]] * n,
    }
    plain = datasets.Dataset.from_dict(values, features=datasets.Features(TYPES))
    return plain.cast_column("audio", datasets.Audio(16_000))


def test_a_saved_dataset_is_read_with_its_classes_and_files(tmp_path: Path, cache: Path) -> None:
    data = datasets.DatasetDict(
        {"train": dataset(tmp_path / "a"), "validation": dataset(tmp_path / "b", 2)}
    )
    data.save_to_disk(tmp_path / "saved")
    corpus = load_corpus(tmp_path / "saved")
    assert [
        (item.text, item.speaker, item.split, item.label("emotion"), item.label("age"))
        for item in corpus.utterances
    ] == [
        ("text 0", "0", "train", "calm", "40"),
        ("text 1", "1", "train", "angry", ""),
        ("text 2", "2", "train", "", "2.5"),
        ("text 0", "0", "dev", "calm", "40"),
        ("text 1", "1", "dev", "", ""),
    ]
    paths = [item.path for item in corpus.utterances]
    assert [path.read_bytes() for path in paths[:3]] == [sound(1600), sound(1601), sound(100)]
    assert all(path.is_relative_to(cache) for path in paths)
    assert corpus.utterances[0].label("original_path") == "clip0.mp3"
    assert "embedding" not in corpus.columns


def test_the_audio_is_written_once(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset(tmp_path / "a").save_to_disk(tmp_path / "train")
    first = load_corpus(f"hf:{tmp_path}/train")
    times = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    monkeypatch.setattr("probe.data.readers.hf.write_audio", None)
    again = load_corpus(f"hf:{tmp_path}/train#train")
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == times
    assert [item.path for item in again.utterances] == [item.path for item in first.utterances]
    assert first.sha256 == again.sha256
    assert len(list(cache.iterdir())) == 1, "no folder of an unfinished copy"


def test_a_folder_of_parquet_is_streamed(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    for split in ("train", "test"):
        dataset(tmp_path / "a").to_parquet(
            tmp_path / "repository" / f"{split}-00000-of-00001.parquet"
        )
    corpus = load_corpus(f"hf:{tmp_path}/repository#test")
    assert [(i.text, i.split, i.label("emotion")) for i in corpus.utterances][:2] == [
        ("text 0", "test", "calm"),
        ("text 1", "test", "angry"),
    ]
    assert corpus.utterances[1].path.read_bytes() == sound(1601)
    assert corpus.name == "repository-test"


def test_a_folder_of_audio_is_read_where_it_is(tmp_path: Path) -> None:
    for name in ("train/yes/1.flac", "train/no/2.flac", "test/no/3.flac"):
        (tmp_path / "words" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "words" / name).write_bytes(sound(10))
    corpus = load_corpus(f"hf:{tmp_path}/words#train,dev=test")
    assert {(item.path, item.split) for item in corpus.utterances} == {
        (tmp_path / "words/train/yes/1.flac", "train"),
        (tmp_path / "words/train/no/2.flac", "train"),
        (tmp_path / "words/test/no/3.flac", "dev"),
    }


def test_what_cannot_be_read_is_refused(tmp_path: Path, cache: Path) -> None:
    dataset(tmp_path / "a").save_to_disk(tmp_path / "train")
    with pytest.raises(ProbeError, match=r"no split tset; found train\."):
        load_corpus(f"hf:{tmp_path}/train#test=tset")
    dataset(tmp_path / "a").remove_columns("audio").save_to_disk(tmp_path / "x")
    with pytest.raises(ProbeError, match=r"0 columns of audio \(none\); found sentence, client_id"):
        load_corpus(f"hf:{tmp_path}/x#train=x")
    assert len(list(cache.iterdir())) == 0
    with pytest.raises(ProbeError, match=r"gone does not exist; expected a folder, or org/name"):
        load_corpus(f"hf:{tmp_path}/gone#train")
    dataset(tmp_path / "a").save_to_disk(tmp_path / "mine")
    with pytest.raises(ProbeError, match=r"which split is mine\? Write train=mine, or dev or test"):
        load_corpus(f"hf:{tmp_path}/mine")


def test_audio_that_is_not_there_is_refused_with_its_row(tmp_path: Path) -> None:
    types = datasets.Features({"audio": datasets.Audio(), "text": datasets.Value("string")})
    data = datasets.Dataset.from_dict({"audio": [None], "text": ["x"]}, features=types)
    data.save_to_disk(tmp_path / "train")
    with pytest.raises(ProbeError, match=r"train row 1: no audio \(neither bytes nor a path\)"):
        load_corpus(f"hf:{tmp_path}/train")


def test_a_plain_install_is_told_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ProbeError, match=r"Run `pip install layerprobe\[hf\]`"):
        load_corpus(f"hf:{tmp_path}/train")
