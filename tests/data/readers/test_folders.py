"""Folders and archives of audio without a list, and Hugging Face's audiofolder."""

import logging
import re
import zipfile
from pathlib import Path

import pytest

from probe.data.corpus import Corpus, load_corpus
from probe.data.readers import registry
from probe.errors import ProbeError


def folder(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def labels(corpus: Corpus) -> dict[str, tuple[str, str]]:
    return {item.key: (item.split, item.label("label")) for item in corpus.utterances}


def test_a_folder_per_label_gives_the_label(tmp_path: Path) -> None:
    corpus = load_corpus(folder(tmp_path / "words", "yes/1.wav", "no/1.wav", "no/2.flac"))
    assert labels(corpus) == {
        "no/1.wav": ("", "no"),
        "no/2.flac": ("", "no"),
        "yes/1.wav": ("", "yes"),
    }
    assert corpus.name == "words"
    assert corpus.columns == ("split", "label")


def test_folders_named_after_splits_stand_above_the_labels(tmp_path: Path) -> None:
    root = folder(tmp_path, "train/yes/1.wav", "train/no/2.wav", "validation/yes/3.wav")
    assert labels(load_corpus(f"folder:{root}")) == {
        "train/no/2.wav": ("train", "no"),
        "train/yes/1.wav": ("train", "yes"),
        "validation/yes/3.wav": ("dev", "yes"),
    }


def test_folders_of_splits_alone_are_no_labels(tmp_path: Path) -> None:
    corpus = load_corpus(folder(tmp_path, "train/1.wav", "test/2.wav"))
    assert labels(corpus) == {"test/2.wav": ("test", ""), "train/1.wav": ("train", "")}
    assert "label" not in corpus.columns


def test_the_class_noise_of_a_corpus_is_a_label(tmp_path: Path) -> None:
    corpus = load_corpus(folder(tmp_path, "music/1.wav", "noise/2.wav", "speech/3.wav"))
    assert set(labels(corpus).values()) == {("", "music"), ("", "noise"), ("", "speech")}


def test_folders_that_all_files_share_say_nothing(tmp_path: Path) -> None:
    corpus = load_corpus(folder(tmp_path, "audio/wav/yes/1.wav", "audio/wav/no/1.wav"))
    assert {label for _, label in labels(corpus).values()} == {"yes", "no"}


def test_parts_say_which_folder_is_which_split(tmp_path: Path) -> None:
    root = folder(tmp_path, "a/yes/1.wav", "a/no/2.wav", "dev/yes/3.wav", "other/yes/4.wav")
    assert labels(load_corpus(f"folder:{root}#train=a,dev")) == {
        "a/no/2.wav": ("train", "no"),
        "a/yes/1.wav": ("train", "yes"),
        "dev/yes/3.wav": ("dev", ""),
    }
    with pytest.raises(ProbeError, match=r"no audio in the folder b; found the folders a, dev, ot"):
        load_corpus(f"folder:{root}#train=b")


def test_folders_of_which_only_some_are_splits_are_refused(tmp_path: Path) -> None:
    root = folder(tmp_path, "train/1.wav", "extra/2.wav", "3.wav")
    message = "the folders train are named after splits, but not extra, files beside them. Say"
    with pytest.raises(ProbeError, match=re.escape(message)):
        load_corpus(f"folder:{root}")


def test_numbers_in_names_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    corpus = load_corpus(folder(tmp_path, "take10.wav", "take2.wav", "take1.wav"))
    assert [item.key for item in corpus.utterances] == ["take1.wav", "take2.wav", "take10.wav"]


def test_what_is_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ("yes/1.WAV", "no/2.wav", ".cache/3.wav", "yes/._1.wav", "README.txt", "no/2.lab")
    with caplog.at_level(logging.INFO, "probe"):
        corpus = load_corpus(folder(tmp_path, *names))
    assert sorted(labels(corpus)) == ["no/2.wav", "yes/1.WAV"]
    assert "read as folder (folder or ZIP of audio)" in caplog.text
    assert re.search(r"files that are left out: 2 hidden files, 1 \.(txt|lab), 1 \.", caplog.text)
    assert "2 audio files: column label with 2 values (no, yes)" in caplog.text


def test_tables_that_may_be_manifests_are_left_out_only_on_request(tmp_path: Path) -> None:
    names = ("clips/1.mp3", "dev.tsv", "other.tsv", "test.tsv", "train.tsv")
    folder(tmp_path / "cv", *(f"en/{name}" for name in names))
    message = (
        f"{tmp_path}/cv: audio, and tables that may be its manifests: en/dev.tsv, en/other.tsv, "
        "en/test.tsv, en/train.tsv. Name the tables that are meant, such as "
        f"csv:{tmp_path}/cv/en#train,dev,test; or read the audio files without their texts: "
        f"folder:{tmp_path}/cv."
    )
    with pytest.raises(ProbeError, match=f"^{re.escape(message)}$"):
        load_corpus(tmp_path / "cv")
    assert list(labels(load_corpus(f"folder:{tmp_path}/cv"))) == ["en/clips/1.mp3"]
    folder(tmp_path / "words", "yes/1.wav", "yes/1.csv", ".x.csv")
    assert list(labels(load_corpus(tmp_path / "words"))) == ["yes/1.wav"]
    folder(tmp_path / "words", "all.csv")
    with pytest.raises(ProbeError, match=rf"such as csv:{tmp_path}/words/all\.csv; or read"):
        load_corpus(tmp_path / "words")


def test_a_loop_of_links_is_walked_once(tmp_path: Path) -> None:
    (folder(tmp_path, "yes/1.wav", "no/2.wav") / "yes" / "again").symlink_to(tmp_path)
    assert sorted(labels(load_corpus(tmp_path))) == ["no/2.wav", "yes/1.wav"]


def test_a_zip_is_read_as_the_folder_that_it_holds(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "words.zip", "w") as archive:
        for name in ("words/yes/1.wav", "words/no/1.wav", "__MACOSX/words/yes/._1.wav"):
            archive.writestr(name, b"RIFF")
    corpus = load_corpus(tmp_path / "words.zip")
    assert labels(corpus) == {
        "words.zip#words/no/1.wav": ("", "no"),
        "words.zip#words/yes/1.wav": ("", "yes"),
    }
    assert {item.excerpt.member for item in corpus.utterances} == {
        "words/no/1.wav",
        "words/yes/1.wav",
    }


def test_splits_may_lie_in_one_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "words.zip", "w") as archive:
        for name in ("train/1.wav", "test/2.wav"):
            archive.writestr(name, b"RIFF")
    reading = registry.read(str(tmp_path / "words.zip"))
    assert [row.values["split"] for row in reading.rows] == ["test", "train"]


def test_a_damaged_archive_and_folders_without_audio_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ProbeError, match=r"x\.zip: not readable as a ZIP archive \(.*Fetch it"):
        load_corpus(f"folder:{tmp_path / 'x.zip'}")
    with pytest.raises(ProbeError, match=r"no audio files; found 1 of \.zip; expected names that"):
        load_corpus(f"folder:{tmp_path}")
    with pytest.raises(ProbeError, match=r"gone does not exist; expected a folder or a ZIP"):
        load_corpus(f"folder:{tmp_path / 'gone'}")


def test_the_form_of_a_folder_with_its_own_files_is_not_folder(tmp_path: Path) -> None:
    folder(tmp_path, "a/1.wav", "a/2.wav")
    (tmp_path / "wav.scp").write_text(f"u1 {tmp_path}/a/1.wav\n")
    assert load_corpus(tmp_path).name.startswith("kaldi-")


# audiofolder


def test_metadata_names_files_and_further_columns(tmp_path: Path) -> None:
    folder(tmp_path, "data/1.wav", "data/2.wav")
    rows = 'file_name,transcription,accent\ndata/1.wav,one,Irish\ndata/2.wav,"two, three",\n'
    (tmp_path / "metadata.csv").write_text(rows)
    corpus = load_corpus(tmp_path)
    assert [(i.path, i.text, i.label("accent")) for i in corpus.utterances] == [
        (tmp_path / "data/1.wav", "one", "Irish"),
        (tmp_path / "data/2.wav", "two, three", ""),
    ]
    assert corpus.name == tmp_path.name


def test_each_split_may_have_its_own_metadata(tmp_path: Path) -> None:
    folder(tmp_path, "train/1.wav", "test/1.wav")
    line = '{{"file_name": "1.wav", "text": "{}"}}\n'
    for split in ("train", "test"):
        (tmp_path / split / "metadata.jsonl").write_text(line.format(split))
    for source in (str(tmp_path), f"audiofolder:{tmp_path}#train,test"):
        corpus = load_corpus(source)
        assert {item.key: (item.split, item.text) for item in corpus.utterances} == {
            "train/1.wav": ("train", "train"),
            "test/1.wav": ("test", "test"),
        }


def test_a_file_that_metadata_names_and_that_is_not_there_is_refused(tmp_path: Path) -> None:
    folder(tmp_path, "1.wav")
    (tmp_path / "metadata.csv").write_text("file_name,text\n1.wav,x\n3.wav,y\n")
    with pytest.raises(ProbeError, match=r"metadata\.csv line 3: .*3\.wav does not exist"):
        load_corpus(tmp_path)


def test_audio_that_metadata_does_not_name_is_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder(tmp_path, "1.wav", "2.wav", "3.wav")
    (tmp_path / "metadata.csv").write_text("file_name,text\n1.wav,x\n")
    with caplog.at_level(logging.INFO, "probe"):
        assert len(load_corpus(tmp_path).utterances) == 1
    assert "2 audio files that no table names are left out" in caplog.text


def test_an_audiofolder_without_metadata_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match=r"no metadata\.csv or metadata\.jsonl in "):
        load_corpus(f"audiofolder:{folder(tmp_path, '1.wav')}")
