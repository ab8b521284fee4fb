"""VoxCeleb1 with its split for identification, and its trial lists."""

import re
from pathlib import Path

import pytest
from torchaudio.datasets import VoxCeleb1Identification

from probe.data.corpus import load_corpus
from probe.data.trials import load_trials
from probe.errors import ProbeError

UTTERANCES = {
    "id10001/1zcIwhmdeo4/00001.wav": "1",
    "id10001/1zcIwhmdeo4/00002.wav": "2",
    "id10270/5r0dWxy17C8/00001.wav": "3",
    "id10270/5r0dWxy17C8/00002.wav": "3",
}
LINES = [f"{number} {name}" for name, number in UTTERANCES.items()]


def unpacked(root: Path, folders: dict[str, str], lines: list[str]) -> Path:
    """A root with the speakers in their folders."""
    for name in UTTERANCES:
        path = root / folders.get(name.split("/")[0], "wav") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / "iden_split.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize(
    "folders",
    [{}, {"id10001": "dev/wav", "id10270": "test/wav"}, {"id10001": "vox1_dev_wav/wav"}],
    ids=["wav", "dev and test", "the archives' names"],
)
def test_the_list_gives_splits_and_names(tmp_path: Path, folders: dict[str, str]) -> None:
    corpus = load_corpus(unpacked(tmp_path, folders, LINES))
    splits = {item.key: (item.split, item.speaker) for item in corpus.utterances}
    assert splits == {
        name: ({"1": "train", "2": "dev", "3": "test"}[number], name.split("/")[0])
        for name, number in UTTERANCES.items()
    }
    assert corpus.utterances[0].label("video") == "1zcIwhmdeo4"
    assert corpus.name == "voxceleb1"


def test_the_splits_are_those_that_torchaudio_reads(tmp_path: Path) -> None:
    root = unpacked(tmp_path, {}, LINES)
    corpus = load_corpus(f"voxceleb:{root}")
    for split in ("train", "dev", "test"):
        theirs = VoxCeleb1Identification(root, split, meta_url=f"file://{root}/iden_split.txt")
        paths = {str(root / "wav" / theirs.get_metadata(i)[0]) for i in range(len(theirs))}
        assert paths == {str(item.path) for item in corpus.utterances if item.split == split}


def test_the_table_of_speakers_gives_gender_and_nationality(tmp_path: Path) -> None:
    root = unpacked(tmp_path, {}, LINES)
    header = "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet"
    (root / "vox1_meta.csv").write_text(f"{header}\nid10001\tA.J._Buckley\tm\tIreland\tdev\n")
    first, *_, last = load_corpus(root).utterances
    assert (first.label("gender"), first.label("nationality")) == ("m", "Ireland")
    assert last.label("gender") == ""


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["4 id10001/a/1.wav"], "iden_split.txt line 1: '4 id10001/a/1.wav'; expected `1 speaker"),
        (
            [*LINES, LINES[0]],
            "iden_split.txt line 5: id10001/1zcIwhmdeo4/00001.wav occurs on line 1",
        ),
        (["1 id9/a/1.wav"], "iden_split.txt line 1: no folder of id9 in "),
        (["1 id10001/a/1.wav"], "iden_split.txt line 1: {root}/wav/id10001/a/1.wav does not exist"),
    ],
)
def test_a_damaged_list_is_refused_with_its_line(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    root = unpacked(tmp_path, {}, lines)
    with pytest.raises(ProbeError, match=re.escape(message.replace("{root}", str(root)))):
        load_corpus(root)


def test_a_folder_without_the_list_is_refused(tmp_path: Path) -> None:
    (unpacked(tmp_path, {}, LINES) / "iden_split.txt").unlink()
    with pytest.raises(ProbeError, match=r"iden_split\.txt does not exist; found no \.txt\. Put"):
        load_corpus(f"voxceleb:{tmp_path}")


@pytest.mark.parametrize(
    "form",
    ["{label} {a} {b}", "{a} {b} {word}", "{a}\t{b}\t{word}"],
    ids=["VoxCeleb", "Kaldi", "tabs"],
)
def test_trial_lists_name_utterances_as_the_list_does(tmp_path: Path, form: str) -> None:
    corpus = load_corpus(unpacked(tmp_path, {}, LINES))
    names = list(UTTERANCES)
    pairs = [(names[0], names[1], True), (names[0], names[2], False), (names[2], names[3], True)]
    lines = [
        form.format(label=int(same), word="target" if same else "nontarget", a=a, b=b)
        for a, b, same in pairs
    ]
    (tmp_path / "trials").write_text("\n".join(lines) + "\n")
    trials = load_trials(tmp_path / "trials", corpus).trials
    assert [(item.enroll.key, item.test.key, item.target) for item in trials] == pairs


def test_a_line_of_kaldis_lists_that_has_another_word_is_refused(tmp_path: Path) -> None:
    corpus = load_corpus(unpacked(tmp_path, {}, LINES))
    a, b, *_ = UTTERANCES
    (tmp_path / "trials").write_text(f"{a} {b} target\n{a} {b} imposter\n")
    with pytest.raises(
        ProbeError, match=r"trials line 2: 3 fields .*expected `path1 path2 target`"
    ):
        load_trials(tmp_path / "trials", corpus)
