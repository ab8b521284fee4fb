"""LibriSpeech and Libri-Light's limited subsets: what is read, and every refusal."""

from pathlib import Path

import pytest
import torchaudio

from probe.data.corpus import load_corpus
from probe.errors import ProbeError


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    root = tmp_path / "LibriSpeech"
    chapters = {
        "dev-clean/84/121123": ["GO DO YOU HEAR", "BUT IN LESS THAN FIVE MINUTES"],
        "dev-clean/174/50561": ["FORGOTTEN TOO"],
        "dev-other/116/288045": ["AS I APPROACHED"],
        "test-clean/61/70968": ["HE BEGAN A CONFUSED COMPLAINT"],
        "train-clean-100/19/198": ["NORTHANGER ABBEY"],
    }
    for chapter, texts in chapters.items():
        folder = root / chapter
        folder.mkdir(parents=True)
        stem = "-".join(chapter.split("/")[1:])
        (folder / f"{stem}.trans.txt").write_text(
            "".join(f"{stem}-{i:04} {text}\n" for i, text in enumerate(texts))
        )
        for i in range(len(texts)):
            (folder / f"{stem}-{i:04}.flac").touch()
    speakers = [
        ";ID  |SEX| SUBSET           |MINUTES| NAME",
        "84   | F | dev-clean        |  8.0  | Christie | Nowlan",
    ]
    (root / "SPEAKERS.TXT").write_text(
        "\n".join([*speakers, "61   | M | test-clean       |  8.0  | Paul-Gabriel Wiener", ""])
    )
    (root / "intro-notes.txt").touch()
    return root


def test_a_librispeech_folder_gives_text_speaker_domain_and_split(librispeech: Path) -> None:
    corpus = load_corpus(
        f"librispeech:{librispeech}#dev-clean,test-clean,dev-other,train-clean-100"
    )
    by_key = {item.key: item for item in corpus.utterances}
    assert len(by_key) == 6
    first = by_key["84-121123-0001"]
    assert (first.text, first.speaker, first.domain) == (
        "BUT IN LESS THAN FIVE MINUTES",
        "ls-84",
        "librispeech-clean",
    )
    assert first.path == librispeech / "dev-clean/84/121123/84-121123-0001.flac"
    splits = {item.label("subset"): item.split for item in corpus.utterances}
    assert splits == {
        "dev-clean": "dev",
        "test-clean": "test",
        "dev-other": "dev",
        "train-clean-100": "train",
    }
    assert by_key["116-288045-0000"].domain == "librispeech-other"
    assert corpus.name == "librispeech-dev-clean+test-clean+dev-other+train-clean-100"


def test_librispeechs_speakers_file_gives_the_sex_where_it_is_there(librispeech: Path) -> None:
    corpus = load_corpus(f"librispeech:{librispeech}#dev-clean,test-clean")
    sexes = {item.speaker: item.label("sex") for item in corpus.utterances}
    assert sexes == {"ls-84": "F", "ls-174": "", "ls-61": "M"}
    assert {"subset", "chapter", "sex"} < set(corpus.columns)
    (librispeech / "SPEAKERS.TXT").unlink()
    assert {
        item.label("sex") for item in load_corpus(f"librispeech:{librispeech}#dev-clean").utterances
    } == {""}


def test_a_librispeech_sha256_follows_the_rows(librispeech: Path) -> None:
    before = load_corpus(f"librispeech:{librispeech}#dev-clean").sha256
    assert load_corpus(f"librispeech:{librispeech}#dev-clean").sha256 == before
    transcript = librispeech / "dev-clean/174/50561/174-50561.trans.txt"
    transcript.write_text("174-50561-0000 FORGOTTEN TWO\n")
    assert load_corpus(f"librispeech:{librispeech}#dev-clean").sha256 != before


def test_a_librispeech_subset_named_twice_comes_once(librispeech: Path) -> None:
    corpus = load_corpus(f"librispeech:{librispeech}#dev-clean, dev-clean")
    assert len(corpus.utterances) == len({item.key for item in corpus.utterances}) == 3


def test_an_unknown_librispeech_subset_is_refused_with_the_ones_that_are_there(
    librispeech: Path,
) -> None:
    known = "dev-clean, dev-other, test-clean, train-clean-100"
    with pytest.raises(
        ProbeError,
        match=f"subset dev-cleen not found in {librispeech}; found {known}. Write "
        f"librispeech:ROOT#",
    ):
        load_corpus(f"librispeech:{librispeech}#dev-cleen,test-clean")


@pytest.mark.parametrize("suffix", ["", "#", "#,"])
def test_librispeech_without_subsets_is_refused(librispeech: Path, suffix: str) -> None:
    with pytest.raises(ProbeError, match=r"no subsets named in .*found dev-clean"):
        load_corpus(f"librispeech:{librispeech}{suffix}")


def test_a_librispeech_root_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match=r"subset dev-clean not found in .*found no subsets"):
        load_corpus(f"librispeech:{tmp_path / 'gone'}#dev-clean")


def test_a_librispeech_subset_that_names_no_split_is_refused(librispeech: Path) -> None:
    (librispeech / "my-own").mkdir()
    with pytest.raises(
        ProbeError, match="subset my-own starts with 'my'; expected train-, dev- or test-"
    ):
        load_corpus(f"librispeech:{librispeech}#my-own")


def test_a_librispeech_subset_without_transcripts_is_refused(librispeech: Path) -> None:
    (librispeech / "test-other").mkdir()
    with pytest.raises(
        ProbeError,
        match=r"test-other: no \*/\*/\*\.trans\.txt; expected LibriSpeech's "
        r"speaker/chapter folders",
    ):
        load_corpus(f"librispeech:{librispeech}#test-other")


def test_a_missing_flac_is_refused_with_the_transcripts_line(librispeech: Path) -> None:
    (librispeech / "dev-clean/84/121123/84-121123-0001.flac").unlink()
    with pytest.raises(
        ProbeError, match=r"84-121123\.trans\.txt line 2: 84-121123-0001\.flac not found beside it"
    ):
        load_corpus(f"librispeech:{librispeech}#dev-clean")


def test_a_transcript_in_another_encoding_is_refused(librispeech: Path) -> None:
    (librispeech / "dev-clean/174/50561/174-50561.trans.txt").write_bytes(b"174-50561-0000 \xff\n")
    with pytest.raises(ProbeError, match=r"174-50561\.trans\.txt line 1: byte 0xff is not UTF-8"):
        load_corpus(f"librispeech:{librispeech}#dev-clean")


# Libri-Light's limited subsets


@pytest.fixture
def limited(tmp_path: Path) -> Path:
    """Two of the six folders of 10 minutes, and the 9 hours beside them."""
    root = tmp_path / "librispeech_finetuning"
    for i, chapter in enumerate(["1h/0/clean/10/1", "1h/1/other/11/2", "9h/clean/12/3"]):
        stem = "-".join(chapter.split("/")[-2:])
        (root / chapter).mkdir(parents=True)
        (root / chapter / f"{stem}.trans.txt").write_text(f"{stem}-0000 TEXT {i}\n")
        (root / chapter / f"{stem}-0000.flac").touch()
    return root


@pytest.mark.parametrize(
    ("subset", "n_utterances"), [("10min", 1), ("1h", 2), ("10h", 3), ("1h/1", 1), ("9h", 1)]
)
def test_the_limited_subsets_are_training_data(
    limited: Path, subset: str, n_utterances: int
) -> None:
    corpus = load_corpus(f"librispeech:{limited}#{subset}")
    assert [item.split for item in corpus.utterances] == ["train"] * n_utterances
    if subset in ("10min", "1h", "10h"):
        theirs = torchaudio.datasets.LibriLightLimited(limited.parent, subset)
        keys = {name for _, name in theirs._fileids_paths}
        assert keys == {item.key for item in corpus.utterances}


def test_the_domain_of_a_limited_subset_is_its_folder(limited: Path) -> None:
    domains = {i.key: i.domain for i in load_corpus(f"librispeech:{limited}#10h").utterances}
    assert domains == {
        "10-1-0000": "librispeech-clean",
        "11-2-0000": "librispeech-other",
        "12-3-0000": "librispeech-clean",
    }


def test_librispeech_tests_what_the_limited_subsets_trained(
    limited: Path, librispeech: Path
) -> None:
    corpus = load_corpus(
        f"librispeech:{limited.parent}#librispeech_finetuning/10min,LibriSpeech/dev-clean,"
        "test=LibriSpeech/dev-other"
    )
    assert [item.split for item in corpus.utterances] == ["train", "dev", "dev", "dev", "test"]
    assert corpus.name == (
        "librispeech-librispeech_finetuning-10min+LibriSpeech-dev-clean+LibriSpeech-dev-other"
    )


def test_a_limited_subset_without_its_folders_is_refused(limited: Path) -> None:
    (limited / "9h").rename(limited / "gone")
    with pytest.raises(ProbeError, match=r"subset 10h not found in .*found 10min, 1h"):
        load_corpus(f"librispeech:{limited}#10h")
