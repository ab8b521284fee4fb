"""fairseq's manifests: what is read, and every refusal with its file, line and remedy."""

import re
from pathlib import Path

import pytest

from probe.data.corpus import load_corpus
from probe.errors import ProbeError

FILES = {
    "train.tsv": "{audio}\na/1.flac\t16000\na/2.flac\t24000\n",
    "train.wrd": "HELLO THERE\nYES\n",
    "train.ltr": "H E L L O | T H E R E |\nY E S |\n",
    "train.phn": "HH AH L OW DH EH R\nY EH S\n",
    "valid.tsv": "{audio}\r\nb/3.flac\t8000\r\n",
    "valid.ltr": "N O |\r\n",
}


def manifest(tmp_path: Path, **changes: str) -> Path:
    """A folder of manifests, and the audio elsewhere."""
    for name in ("a/1.flac", "a/2.flac", "b/3.flac"):
        (tmp_path / "audio" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "audio" / name).touch()
    (tmp_path / "manifest").mkdir()
    for name, text in (FILES | changes).items():
        content = text.replace("{audio}", str(tmp_path / "audio")).encode()
        (tmp_path / "manifest" / name).write_bytes(content)
    return tmp_path / "manifest"


def test_parts_become_splits_with_text_and_phones(tmp_path: Path) -> None:
    corpus = load_corpus(f"{manifest(tmp_path)}#train,valid")
    assert [(i.path.name, i.split, i.text, i.label("phones")) for i in corpus.utterances] == [
        ("1.flac", "train", "HELLO THERE", "HH AH L OW DH EH R"),
        ("2.flac", "train", "YES", "Y EH S"),
        ("3.flac", "dev", "NO", ""),
    ]
    assert corpus.utterances[1].label("samples") == "24000"
    assert corpus.name == "manifest-train+valid"


def test_one_file_is_a_corpus_of_the_split_that_its_name_says(tmp_path: Path) -> None:
    corpus = load_corpus(manifest(tmp_path) / "valid.tsv")
    assert [(item.path, item.split) for item in corpus.utterances] == [
        (tmp_path / "audio/b/3.flac", "dev")
    ]


def test_a_relative_folder_is_looked_for_above_the_manifest(tmp_path: Path) -> None:
    corpus = load_corpus(
        manifest(tmp_path, **{"train.tsv": "audio\na/1.flac\t1\na/2.flac\t2\n"}) / "train.tsv"
    )
    assert corpus.utterances[0].path == tmp_path / "audio/a/1.flac"


def test_an_empty_line_is_an_empty_text(tmp_path: Path) -> None:
    root = manifest(tmp_path, **{"train.wrd": "\nYES\n"})
    assert [item.text for item in load_corpus(f"{root}#train").utterances] == ["", "YES"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.wrd": "HELLO\n"}, "train.wrd: 1 lines, but {root}/train.tsv names 2 files"),
        ({"train.phn": "A\nB\nC\n"}, "train.phn: 3 lines, but "),
        (
            {"train.tsv": "{audio}\na/1.flac\na/2.flac\t1\n"},
            "train.tsv line 2: 'a/1.flac'; expected",
        ),
        (
            {"train.tsv": "path\tn\na/1.flac\t1\na/2.flac\t1\n"},
            "train.tsv line 1: 'path\\tn'; expected",
        ),
        (
            {"train.tsv": "{audio}\nx.zip:1:2\t5\na/2.flac\t1\n"},
            "train.tsv line 2: x.zip:1:2 is a part",
        ),
        ({"train.tsv": "{audio}\na/9.flac\t5\na/2.flac\t1\n"}, "{root}/train.tsv line 2: "),
        ({"train.tsv": "{audio}\na/1.flac\t5\na/1.flac\t1\n"}, "train.tsv line 3: id "),
    ],
)
def test_a_damaged_manifest_is_refused(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    root = manifest(tmp_path, **changes)
    with pytest.raises(ProbeError, match=re.escape(message.replace("{root}", str(root)))):
        load_corpus(f"fairseq:{root}#train")


def test_a_folder_without_parts_is_refused_with_the_ones_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match=r"no parts named; found train, valid in .*Write fairseq:"):
        load_corpus(manifest(tmp_path))
    with pytest.raises(ProbeError, match=r"test\.tsv: does not exist"):
        load_corpus(f"fairseq:{tmp_path / 'manifest'}#test")
