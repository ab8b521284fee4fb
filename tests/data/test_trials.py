"""Trial lists: what is read, every refusal with its line, and seeded pairs without a list."""

import hashlib
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from probe.data import trials
from probe.data.corpus import Corpus, Utterance, load_corpus
from probe.data.trials import draw_trials, load_trials
from probe.errors import ProbeError


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Four utterances with ids u0 ... u3 of speakers a, a, b, b in data/wav/."""
    (tmp_path / "data" / "wav").mkdir(parents=True)
    rows = ["id,path,text,speaker,domain,split,duration_s"]
    for i, speaker in enumerate("aabb"):
        (tmp_path / "data" / "wav" / f"{i}.wav").touch()
        rows.append(f"u{i},wav/{i}.wav,,{speaker},,test,")
    (tmp_path / "data" / "corpus.csv").write_text("\n".join(rows))
    return load_corpus(tmp_path / "data" / "corpus.csv")


def write(folder: Path, *rows: str, header: str = "enroll,test,label") -> Path:
    path = folder / "trials.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_trials_name_utterances_by_key(tmp_path: Path, corpus: Corpus) -> None:
    path = write(tmp_path, "u0,u1,1", "u0,u2,0", "u3,u2,1")
    found = load_trials(path, corpus)
    assert [(trial.enroll.key, trial.test.key, trial.target) for trial in found.trials] == [
        ("u0", "u1", True),
        ("u0", "u2", False),
        ("u3", "u2", True),
    ]
    assert (found.name, found.sha256) == ("trials", hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("where", ["data", "elsewhere/deep"])
def test_trials_name_utterances_by_paths_relative_to_the_list(
    tmp_path: Path, corpus: Corpus, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / where
    folder.mkdir(parents=True, exist_ok=True)
    names = [os.path.relpath(tmp_path / "data" / "wav" / f"{i}.wav", folder) for i in range(4)]
    path = write(folder, f"{names[0]},{names[1]},1", f"./{names[0]},{names[3]},0")
    monkeypatch.chdir(tmp_path)
    found = load_trials(path.relative_to(tmp_path), corpus)
    assert [(trial.enroll.key, trial.test.key) for trial in found.trials] == [
        ("u0", "u1"),
        ("u0", "u3"),
    ]


def test_trials_name_utterances_by_absolute_paths(tmp_path: Path, corpus: Corpus) -> None:
    names = [item.path for item in corpus.utterances]
    found = load_trials(write(tmp_path, f"{names[0]},{names[1]},1", f"{names[0]},u2,0"), corpus)
    assert [trial.test.key for trial in found.trials] == ["u1", "u2"]


def test_a_key_goes_before_a_path(tmp_path: Path) -> None:
    names = ("one.wav", "two.wav", "three.wav")
    for name in names:
        (tmp_path / name).touch()
    rows = ["two.wav,one.wav,,a,,test,", "x,two.wav,,a,,test,", "y,three.wav,,b,,test,"]
    (tmp_path / "corpus.csv").write_text(
        "\n".join(["id,path,text,speaker,domain,split,duration_s", *rows])
    )
    found = load_trials(
        write(tmp_path, "two.wav,x,1", "x,y,0"), load_corpus(tmp_path / "corpus.csv")
    )
    assert found.trials[0].enroll.path.name == "one.wav"


def test_columns_may_come_in_any_order_with_others_and_a_byte_order_mark(
    tmp_path: Path, corpus: Corpus
) -> None:
    path = tmp_path / "trials.csv"
    path.write_text("label,note,test,enroll\n1,x,u1,u0\n0,y,u2,u0\n", encoding="utf-8-sig")
    assert [trial.test.key for trial in load_trials(path, corpus).trials] == ["u1", "u2"]


# Refusals


@pytest.mark.parametrize("label", ["", "target", "2", "true", " 1", "1.0"])
def test_another_label_is_refused(tmp_path: Path, corpus: Corpus, label: str) -> None:
    path = write(tmp_path, "u0,u1,1", f"u0,u2,{label}")
    with pytest.raises(
        ProbeError,
        match=re.escape(f"{path} line 3: label {label!r}; expected 1 (same speaker) or 0."),
    ):
        load_trials(path, corpus)


def test_an_unknown_utterance_is_refused_with_its_line(tmp_path: Path, corpus: Corpus) -> None:
    path = write(tmp_path, "u0,u1,1", "", "u0,u7,0")
    message = (
        f"{path} line 4: 'u7' is not in the corpus corpus. Name utterances as the "
        f"manifest does, or by paths"
    )
    with pytest.raises(ProbeError, match=re.escape(message)):
        load_trials(path, corpus)


def test_an_utterance_that_a_limit_left_out_is_refused(tmp_path: Path, corpus: Corpus) -> None:
    path = write(tmp_path, "u0,u1,1", "u2,u3,0")
    with pytest.raises(ProbeError, match=r"is not in the corpus .*do not use --limit with trials"):
        load_trials(path, corpus.limited(1))


@pytest.mark.parametrize("row", ["1,u0", "1", "1,,u1"])
def test_a_short_row_is_refused(tmp_path: Path, corpus: Corpus, row: str) -> None:
    path = write(tmp_path, row, "0,u0,u2", header="label,enroll,test")
    with pytest.raises(ProbeError, match=r"line 2: (. fields; the header has 3|'' is not in the)"):
        load_trials(path, corpus)


@pytest.mark.parametrize("column", ["enroll", "test", "label"])
def test_a_missing_column_is_refused(tmp_path: Path, corpus: Corpus, column: str) -> None:
    header = "enroll,test,label".replace(column, "other")
    with pytest.raises(
        ProbeError,
        match=f"line 1: column {column} missing; found .*other.*; expected enroll,test,label",
    ):
        load_trials(write(tmp_path, "u0,u1,1", header=header), corpus)


def in_voxceleb_form(folder: Path, text: str) -> Path:
    path = folder / "veri_test.txt"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "1 u0 u1\n0 u0 u2\n",
        "1\tu0\tu1\n0\tu0\tu2",
        "\ufeff1 u0 u1\r\n0 u0 u2\r\n",
        "\n 1  u0   u1 \n\n0 u0 u2\n\n",
    ],
    ids=["plain", "tabs, no last line end", "BOM and CRLF", "blank lines and wide gaps"],
)
def test_voxceleb_s_form_is_told_from_csv_by_its_content(
    tmp_path: Path, corpus: Corpus, text: str
) -> None:
    found = load_trials(in_voxceleb_form(tmp_path, text), corpus)
    assert [(trial.enroll.key, trial.test.key, trial.target) for trial in found.trials] == [
        ("u0", "u1", True),
        ("u0", "u2", False),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "1 u0 u1\n\n0 u0\n",
            r"veri_test\.txt line 3: 2 fields \('0 u0'\); expected `label path1 path2`",
        ),
        (
            "1 u0 u1\n0 u0 my file.wav",
            r"line 2: 4 fields .*Paths with spaces need CSV with the header enroll,test,label",
        ),
        ("1 u0 u1\nu0 u2 0\n", r"line 2: label 'u0'; expected 1 \(same speaker\) or 0"),
        ("enroll test label\nu0 u1 1\n", r"line 1: label 'enroll'"),
        ("1 u0 u1\r\n0 u0 u9\r\n", r"line 2: 'u9' is not in the corpus corpus"),
        ("1 u0 u1\n0 u0 u2\n0 u1 u0\n", r"line 3: 'u1' and 'u0' have label 0, but 1 in line 1"),
    ],
)
def test_faults_in_voxceleb_s_form_are_named_with_their_line(
    tmp_path: Path, corpus: Corpus, text: str, message: str
) -> None:
    with pytest.raises(ProbeError, match=message):
        load_trials(in_voxceleb_form(tmp_path, text), corpus)


def test_paths_with_spaces_and_commas_stand_in_csv(tmp_path: Path) -> None:
    for name in ("my file.wav", "b, c.wav"):
        (tmp_path / name).touch()
    (tmp_path / "corpus.csv").write_text(
        'path,text,speaker,domain,split,duration_s\nmy file.wav,,a,,test,\n"b, c.wav",,b,,test,\n'
    )
    path = tmp_path / "list.csv"
    path.write_bytes(
        b'\xef\xbb\xbfenroll,test,label\r\nmy file.wav,"b, c.wav",0\r\nmy file.wav,my '
        b"file.wav,1\r\n"
    )
    found = load_trials(path, load_corpus(tmp_path / "corpus.csv"))
    assert [(trial.test.path.name, trial.target) for trial in found.trials] == [
        ("b, c.wav", False),
        ("my file.wav", True),
    ]


def test_trials_that_stand_twice_are_kept_and_counted(
    tmp_path: Path, corpus: Corpus, caplog: pytest.LogCaptureFixture
) -> None:
    found = load_trials(write(tmp_path, "u0,u1,1", "u0,u2,0", "u2,u0,0", "u0,u1,1"), corpus)
    assert len(found.trials) == 4
    assert "2 of 4 trials occur more than once, in either order" in caplog.text


def test_an_empty_list_is_refused(tmp_path: Path, corpus: Corpus) -> None:
    (tmp_path / "trials.csv").touch()
    with pytest.raises(ProbeError, match="line 1: column enroll, test, label missing"):
        load_trials(tmp_path / "trials.csv", corpus)


def test_another_encoding_is_refused(tmp_path: Path, corpus: Corpus) -> None:
    (tmp_path / "trials.csv").write_bytes("enroll,test,label\nu0,größe,1\n".encode("latin-1"))
    with pytest.raises(
        ProbeError, match=r"trials\.csv line 2: byte 0xf6 is not UTF-8\. Save the file as UTF-8"
    ):
        load_trials(tmp_path / "trials.csv", corpus)


def test_a_table_between_tabs_is_not_taken_for_the_other_form(
    tmp_path: Path, corpus: Corpus
) -> None:
    (tmp_path / "trials.csv").write_text("enroll\ttest\tlabel\nu0\tu1\t1\n")
    with pytest.raises(
        ProbeError, match=r"trials\.csv line 1: the columns are separated by tabs; expected commas"
    ):
        load_trials(tmp_path / "trials.csv", corpus)


def test_a_list_that_is_not_there_is_refused(tmp_path: Path, corpus: Corpus) -> None:
    with pytest.raises(
        ProbeError,
        match=r"gone\.csv: does not exist; expected a CSV trial list with the columns "
        r"enroll,test,label",
    ):
        load_trials(tmp_path / "gone.csv", corpus)


@pytest.mark.parametrize(
    ("rows", "counts"),
    [(["u0,u1,1", "u2,u3,1"], "2 of 2"), (["u0,u2,0"], "0 of 1"), ([], "0 of 0")],
)
def test_trials_of_one_kind_are_refused(
    tmp_path: Path, corpus: Corpus, rows: list[str], counts: str
) -> None:
    with pytest.raises(
        ProbeError, match=f"{counts} trials are targets; expected some of both kinds"
    ):
        load_trials(write(tmp_path, *rows), corpus)


# Drawn pairs


def speakers(n_speakers: int, n_each: int) -> list[Utterance]:
    return [
        Utterance(f"{speaker}-{i}", f"{speaker}-{i}.wav", "", f"s{speaker}", "", "dev")
        for i in range(n_each)
        for speaker in range(n_speakers)
    ]


def pairs(drawn: trials.TrialList) -> list[tuple[str, str]]:
    return [(trial.enroll.key, trial.test.key) for trial in drawn.trials]


@pytest.mark.parametrize(
    "n_speakers", [20, 300], ids=["all pairs listed", "too many pairs to list"]
)
def test_drawn_trials_are_right_distinct_and_a_third_of_them_targets(n_speakers: int) -> None:
    drawn = draw_trials(speakers(n_speakers, 10), 600, seed=1)
    assert len(set(pairs(drawn))) == len(drawn.trials) == 600
    assert sum(trial.target for trial in drawn.trials) == 200
    for trial in drawn.trials:
        assert trial.enroll.key != trial.test.key
        assert trial.target == (trial.enroll.speaker == trial.test.speaker)
    used = Counter(trial.enroll.speaker for trial in drawn.trials if trial.target)
    assert len(used) >= min(n_speakers, 100), "targets of one or a few speakers only"


@pytest.mark.parametrize("n_speakers", [20, 300])
def test_drawn_trials_are_the_same_for_the_same_seed_only(n_speakers: int) -> None:
    dev = speakers(n_speakers, 10)
    assert draw_trials(dev, 600, seed=1) == draw_trials(dev, 600, seed=1)
    other = draw_trials(dev, 600, seed=2)
    assert pairs(other) != pairs(draw_trials(dev, 600, seed=1))
    assert other.sha256 != draw_trials(dev, 600, seed=1).sha256


def test_pairs_that_are_taken_are_not_drawn() -> None:
    dev = speakers(3, 2)
    taken = {
        frozenset((trial.enroll.key, trial.test.key))
        for trial in draw_trials(dev, 6, seed=0).trials
    }
    left = {
        frozenset((trial.enroll.key, trial.test.key))
        for trial in draw_trials(dev, 600, seed=0, taken=taken).trials
    }
    assert left and not left & taken and len(left | taken) == 15


def test_fewer_trials_are_drawn_where_there_are_no_more_pairs() -> None:
    drawn = draw_trials(speakers(3, 2), 600, seed=0)
    assert Counter(trial.target for trial in drawn.trials) == {True: 3, False: 12}


def test_utterances_of_unknown_speakers_are_in_no_drawn_trial() -> None:
    unknown = [Utterance(f"x{i}", f"x{i}.wav", "", "", "", "dev") for i in range(20)]
    drawn = draw_trials(unknown + speakers(3, 3), 600, seed=0)
    assert all(trial.enroll.speaker and trial.test.speaker for trial in drawn.trials)


@pytest.mark.parametrize(
    ("dev", "message"),
    [
        (speakers(1, 5), r"5 dev utterances of 1 speakers \(s0\)"),
        (speakers(5, 1), r"5 dev utterances of 5 speakers \(s0, s1, s2, s3, s4\)"),
        ([], "0 dev utterances of 0 speakers"),
    ],
)
def test_one_speaker_or_one_utterance_each_is_refused(dev: list[Utterance], message: str) -> None:
    with pytest.raises(
        ProbeError,
        match=message + r".*; expected two\s+speakers at least, .*Give a list with --dev-trials",
    ):
        draw_trials(dev, 600, seed=0)
