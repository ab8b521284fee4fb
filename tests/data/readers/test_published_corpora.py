"""Readers of corpora with lists of their own: Speech Commands, Fluent Speech Commands, IEMOCAP,
ASVspoof, TIMIT, and VoxCeleb1's speakers for verification.
"""

import logging
import re
from collections import Counter
from pathlib import Path

import presets
import pytest

from probe.data.corpus import load_corpus
from probe.data.intervals import load_intervals
from probe.errors import ProbeError


def test_speech_commands_has_twelve_classes_and_its_own_test_set(tmp_path: Path) -> None:
    presets.speech_commands(tmp_path)
    corpus = load_corpus(
        f"speechcommands:{tmp_path}#speech_commands_v0.01,test=speech_commands_test_set_v0.01"
    )
    n = Counter((item.split, item.label("keyword")) for item in corpus.utterances)
    assert n["train", "_unknown_"] == 4 and n["test", "_unknown_"] == 2, "also in .wav.wav"
    assert (n["train", "_silence_"], n["dev", "_silence_"], n["test", "_silence_"]) == (8, 1, 1)
    assert n["test", "yes"] == 2, "the release's own test recordings are left out"
    (silence,) = [
        i for i in corpus.utterances if i.label("word") == "_silence_" and i.split == "test"
    ]
    assert silence.speaker == "", "noise has no speaker, whatever its name is"
    assert {item.text for item in corpus.utterances if item.split == "test"} == {"yes", "no", ""}


def test_a_release_of_speech_commands_alone_has_its_lists_as_splits(tmp_path: Path) -> None:
    presets.speech_commands(tmp_path)
    corpus = load_corpus(tmp_path / "speech_commands_v0.01")
    splits = {item.key: item.split for item in corpus.utterances}
    assert (
        splits["yes/0000000f_nohash_0.wav"] == "test"
        and splits["bed/00000004_nohash_0.wav"] == "dev"
    )
    assert Counter(
        splits[f"_background_noise_/white_noise.wav#{second}"] for second in range(10)
    ) == {"train": 8, "dev": 1, "test": 1}
    (one,) = [item for item in corpus.utterances if item.key == "no/00000001_nohash_0.wav"]
    assert (one.speaker, one.text) == ("00000001", "no")


def test_fluent_speech_commands_has_slots_and_an_intent(tmp_path: Path) -> None:
    presets.fluent(tmp_path)
    corpus = load_corpus(tmp_path)
    assert Counter(item.split for item in corpus.utterances) == {"train": 15, "dev": 3, "test": 6}
    first = corpus.utterances[0]
    assert (first.speaker, first.text, first.label("intent")) == (
        "s0",
        "Say it",
        "activate|lights|kitchen",
    )


def test_speakers_of_iemocap_are_those_of_the_turn(tmp_path: Path) -> None:
    presets.iemocap(tmp_path)
    corpus = load_corpus(tmp_path)
    turns = {item.key: item for item in corpus.utterances}
    assert len(turns) == 45 and {item.label("session") for item in turns.values()} == {
        f"Session{n}" for n in range(1, 6)
    }
    excited = turns["Ses01F_impro01_M001"]
    assert (excited.speaker, excited.label("emotion"), excited.label("emotion4")) == (
        "Ses01M",
        "exc",
        "hap",
    )
    assert excited.text == "Excuse me." and excited.label("valence") == "2.5000"
    assert turns["Ses01F_impro01_F008"].label("emotion4") == "", "no agreement, no class"


def test_asvspoof_reads_only_what_its_lists_name(tmp_path: Path) -> None:
    presets.asvspoof(tmp_path)
    corpus = load_corpus(f"asvspoof:{tmp_path}")
    assert Counter((i.split, i.label("key")) for i in corpus.utterances) == {
        (split, key): 6 for split in ("train", "dev", "test") for key in ("bonafide", "spoof")
    }
    assert {i.label("attack") for i in corpus.utterances if i.split == "test"} == {"", "A07"}


def test_timit_has_the_usual_sets_and_its_phones_fold_to_39(tmp_path: Path) -> None:
    presets.timit(tmp_path)
    corpus = load_corpus(tmp_path)
    splits = {item.speaker: item.split for item in corpus.utterances}
    assert splits == {"fcjf0": "train", "mdac0": "train", "faks0": "dev", "mdab0": "test"}
    assert not any("SA1" in item.key for item in corpus.utterances)
    assert corpus.utterances[0].text == "She had."
    durations_s = {item.key: 0.4 for item in corpus.utterances}
    labels = load_intervals(tmp_path, corpus, durations_s, "phones39", "words")
    spans = labels.spans[corpus.utterances[0].key]
    assert list(spans.labels) == ["sil", "ih", "", "sil", "sh"]
    assert list(spans.types) == ["", "she", "she", "she", "she"]
    raw = load_intervals(tmp_path, corpus, durations_s)
    assert list(raw.spans[corpus.utterances[0].key].labels) == ["h#", "ix", "q", "tcl", "zh"]


def test_the_39_classes_are_those_of_lee_and_hon() -> None:
    from probe.data.time_labels.timit import CLASSES

    own = "aa ae ah aw ay b ch d dh dx eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th "
    own += "uh uw v w y z"
    assert len(own.split()) == 38 and len(CLASSES) + 38 == 61, "61 phones, of which 38 are classes"
    assert set(CLASSES.values()) - {""} <= {*own.split(), "sil"}


def test_voxceleb_is_divided_by_speakers_for_verification(tmp_path: Path) -> None:
    presets.voxceleb(tmp_path)
    corpus = load_corpus(f"voxceleb:{tmp_path}#verification")
    splits = {item.speaker: item.split for item in corpus.utterances}
    assert [name for name, split in splits.items() if split == "test"] == ["id10270", "id10271"]
    assert [name for name, split in splits.items() if split == "dev"] == [
        "id10008",
        "id10020",
        "id10032",
    ]
    assert corpus.name == "voxceleb1-verification"


@pytest.mark.parametrize(
    ("form", "spoil", "source", "message"),
    [
        (
            "speechcommands",
            lambda root: None,
            "speechcommands:{root}#speech_commands_v0.01,speech_commands_test_set_v0.01",
            "has no validation_list.txt.*Write test= before",
        ),
        (
            "speechcommands",
            lambda root: presets.text_file(
                root / "speech_commands_v0.01/testing_list.txt", "yes/none.wav"
            ),
            "{root}/speech_commands_v0.01",
            r"testing_list.txt line 1: .*yes/none.wav does not exist",
        ),
        ("fluent", lambda root: None, "fluent:{root}#train", "has no parts; write fluent:"),
        (
            "fluent",
            lambda root: presets.text_file(root / "data/train_data.csv", "path", "a.wav"),
            "fluent:{root}",
            "train_data.csv line 2: no column action, object, location, speaker; expected",
        ),
        (
            "iemocap",
            lambda root: presets.text_file(
                root / "Session2/dialog/EmoEvaluation/Ses02F_impro01.txt", "[1.0 - 2.0] a neu"
            ),
            "{root}",
            r"Ses02F_impro01.txt line 1: '\[1.0 - 2.0\] a neu'; expected `\[start - end\]",
        ),
        ("iemocap", lambda root: None, "iemocap:{root}#Session9", "Session9 in .*found Session1"),
        (
            "asvspoof",
            lambda root: presets.text_file(
                root / "ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.dev.trl.txt",
                "LA_0001 LA_D_1 bonafide",
            ),
            "{root}",
            r"cm.dev.trl.txt line 1: .*; expected `speaker recording environment attack key`",
        ),
        ("timit", lambda root: None, "timit:{root}/TRAIN", "expected the folders TRAIN and TEST"),
        (
            "timit",
            lambda root: presets.text_file(root / "TRAIN/DR1/FCJF0/SI1027.PHN", "0 16.5 h#"),
            "labels",
            r"SI1027.PHN line 1: '0 16.5 h#'; expected `START END LABEL` in samples",
        ),
    ],
)
def test_a_damaged_corpus_is_refused_with_its_place(
    tmp_path: Path, form: str, spoil, source: str, message: str
) -> None:
    presets.MINIATURES[form](tmp_path)
    spoil(tmp_path)
    with pytest.raises(ProbeError) as error:
        if source == "labels":
            corpus = load_corpus(f"{form}:{tmp_path}")
            load_intervals(tmp_path, corpus, {i.key: 0.4 for i in corpus.utterances}, "phones39")
        else:
            load_corpus(source.format(root=tmp_path))
    assert re.search(message, str(error.value), re.DOTALL), error.value


def test_every_form_is_recognised_without_its_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "probe")
    for form in ("fluent", "iemocap", "asvspoof", "timit"):
        presets.MINIATURES[form](tmp_path / form)
        load_corpus(tmp_path / form)
        assert f"read as {form}" in caplog.text
