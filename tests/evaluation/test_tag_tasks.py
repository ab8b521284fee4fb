"""Tasks of utterances with several tags, or with soft labels."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score
from test_numbers_and_classes import N, asked, only, outcomes_of, planted

from probe.errors import ProbeError
from probe.evaluation.tasks import open_task
from probe.record_check import check_records
from probe.records import Record, read_records
from probe.reporting.report.page import content

HAS = np.random.default_rng(7).random((N, 2)) < 0.4  # angry, happy
TAGS = [";".join(np.array(["angry", "happy"])[has]) or "none" for has in HAS]
SIGNAL = 3 * HAS.astype(float) @ np.array([[1.0, 0.3, 0.0], [0.0, 0.3, 1.0]])
TASK = 'kind = "tag"\nview = "mean"\nl2 = [1e-2, 1e-1]\n'


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    """A folder, and the records of two tags that layer 1 holds with little noise."""
    folder = tmp_path_factory.mktemp("tags")
    columns = {
        "tags": ["", *TAGS[1:]],  # the first is unknown
        "angry": HAS[:, 0].astype(int).tolist(),
        "happy": ["", *HAS[1:, 1].astype(int)],
    }
    manifest = planted(folder, columns, SIGNAL)
    return folder, asked(folder, TASK + 'budgets = ["60"]\n', manifest)


def test_two_planted_tags_are_recovered_and_the_controls_are_not(
    tagged: tuple[Path, list[Record]],
) -> None:
    folder, records = tagged
    of_task = only(records, split="test", metric="map", control="", budget="")
    values = {record.layer: record.value for record in of_task}
    assert values["1"] > 0.95 > values["2"] > values["0"]
    assert values["weighted"] > 0.95
    (test,) = [record for record in of_task if record.layer == "1"]
    assert test.low is not None and test.high is not None and test.low < test.value < test.high
    assert (test.head, test.select_by, test.n, test.n_train) == ("tags", "map", 120, 239)
    assert test.excluded == {"no tags": 1}
    assert [entry["l2"] for entry in test.search] == [1e-2, 1e-1]
    (majority,) = only(records, split="test", metric="map", control="majority")
    assert majority.value == pytest.approx(HAS[-120:].mean())
    (shuffled,) = only(records, split="test", metric="map", control="shuffled", layer="1")
    assert shuffled.value < 0.8
    (budget,) = only(records, split="test", metric="map", budget="60", layer="1")
    assert budget.n_train == 60 and budget.value > 0.9
    (file,) = (folder / "results").glob("*.jsonl")
    assert check_records([file])[1] == []


def test_records_agree_with_scikit_learn_on_their_outcomes(
    tagged: tuple[Path, list[Record]],
) -> None:
    folder, records = tagged
    (file,) = (folder / "results").glob("*.jsonl")
    lines = outcomes_of(file)
    truth, guess = (
        np.array([list(line[name].values()) for line in lines])
        for name in ("true_shares", "probabilities")
    )
    np.testing.assert_array_equal(truth, HAS[-120:])
    assert [line["label"] for line in lines] == TAGS[-120:]
    worst = content(read_records(folder / "results"), [folder / "results"])["errors"]
    assert set(worst["reference"]) <= set(TAGS)
    layer = lines[0]["layer"]
    found = {
        record.metric: record.value
        for record in only(records, split="test", layer=layer, control="", budget="")
    }
    assert found["map"] == pytest.approx(average_precision_score(truth, guess), abs=1e-4)
    assert found["tag_f1"] == pytest.approx(f1_score(truth, guess >= 0.5, average="macro"))


def test_a_list_of_tags_equals_one_column_of_each(tagged: tuple[Path, list[Record]]) -> None:
    folder, records = tagged
    text = TASK + 'label = ["angry", "happy"]\nweighted = false\n'
    columns = asked(folder, text, folder / "corpus.csv")
    for split in ("dev", "test"):
        for metric in ("map", "tag_f1"):
            both = [
                only(of, split=split, metric=metric, control="", budget="", head="tags", layer="1")
                for of in (records, columns)
            ]
            assert [one.value for one in both[0]] == [one.value for one in both[1]]
    assert columns[0].excluded == {"no happy": 1}


def test_soft_labels_train_as_they_are_and_count_from_one_half(tmp_path: Path) -> None:
    shares = np.where(HAS, 0.5, 0.25)
    columns = {"angry": shares[:, 0].tolist(), "happy": shares[:, 1].tolist()}
    manifest = planted(tmp_path, columns, SIGNAL)
    records = asked(tmp_path, TASK + 'label = ["angry", "happy"]\nweighted = false\n', manifest)
    (test,) = only(records, split="test", metric="map", layer="1", control="")
    assert test.value > 0.95
    probabilities = np.array(
        [
            list(line["probabilities"].values())
            for line in outcomes_of(next((tmp_path / "results").glob("*.jsonl")))
        ]
    )
    assert probabilities.max() < 0.9  # no annotators agreed on any


def test_a_tag_that_test_lacks_is_left_out_and_named(tmp_path: Path) -> None:
    tags = [
        *TAGS[:-120],
        *(tag.replace("angry;", "").replace("angry", "none") for tag in TAGS[-120:]),
    ]
    records = asked(
        tmp_path, TASK + "weighted = false\n", planted(tmp_path, {"tags": tags}, SIGNAL)
    )
    (test,) = only(records, split="test", metric="map", layer="1", control="")
    assert test.note == "left out, since no test utterance has them: angry"
    assert test.value > 0.95


def test_one_tag_for_each_utterance_is_a_task_of_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tags = ["angry" if has else "happy" for has in HAS[:, 0]]
    with caplog.at_level(logging.WARNING, "probe"):
        asked(tmp_path, TASK + "weighted = false\n", planted(tmp_path, {"tags": tags}, SIGNAL))
    assert "if each utterance has one label, use kind classify" in caplog.text


@pytest.mark.parametrize(
    ("label", "column", "message"),
    [
        (
            "tags",
            ["a;;b", *TAGS[1:]],
            r"csv line 2: tags of train0.wav is 'a;;b', which has an empty",
        ),
        ("tags", ["none;a", *TAGS[1:]], r"tags of train0.wav is 'none;a'; 'none' says"),
        (
            "tags",
            [*TAGS[:-1], "sad"],
            r"line 481: tags of test119.wav is 'sad'; no training row has",
        ),
        ("tags", ["none"] * N, "tags is the same in all 240 training rows"),
        ("tags", [*TAGS[:240], *["none"] * 240], "none of the 120 dev rows has a tag"),
        ("tags,other", ["1.5"] + ["1"] * (N - 1), r"tags of train0.wav is '1.5'; expected a numb"),
        ("tags,other", ["a;b"] + ["1"] * (N - 1), r"tags of train0.wav is 'a;b'; expected a numb"),
        ("tags,absent", ["1"] * N, "the manifest has no column 'absent'"),
    ],
)
def test_labels_that_are_no_tags_are_refused(
    tmp_path: Path, label: str, column: list[str], message: str
) -> None:
    manifest = planted(tmp_path, {"tags": column, "other": ["0"] * N}, np.zeros((N, 2)))
    with pytest.raises(ProbeError, match=message):
        asked(tmp_path, TASK + f"label = {json.dumps(label.split(','))}\n", manifest)


def test_folds_of_tags_are_refused(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('kind = "tag"\nfolds = "session"\n')
    with pytest.raises(ProbeError, match="no folds: average precision ranks"):
        open_task(tmp_path / "own.toml")
