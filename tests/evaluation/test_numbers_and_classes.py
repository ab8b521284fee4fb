"""Tasks that predict numbers, and what tasks of classes record beside accuracy."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from planted import extracted
from runs import run
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from probe.cli import cli
from probe.errors import ProbeError
from probe.evaluation.tasks import open_task
from probe.measures.block_sums import confusion
from probe.record_check import check_records
from probe.records import Record, outcomes_path, read_records
from probe.reporting.report.page import content

SIZES = {"train": 240, "dev": 120, "test": 120}
N = sum(SIZES.values())
SHARES = (0.0, 1.0, 0.4)  # of the signal, in each layer


def planted(folder: Path, columns: dict[str, Sequence[object]], signal: np.ndarray) -> Path:
    """A manifest of 12 speakers a split with further columns, and a store of one frame for each
    utterance: (utterance, dim) of signal and noise.
    """
    names = list(columns)
    lines = [",".join(["path,text,speaker,domain,split,duration_s", *names])]
    number = 0
    for split, n in SIZES.items():
        for i in range(n):
            (folder / f"{split}{i}.wav").touch()
            own = [str(columns[name][number]) for name in names]
            lines.append(",".join([f"{split}{i}.wav,,{split}{i % 12},,{split},1.0", *own]))
            number += 1
    (folder / "corpus.csv").write_text("\n".join(lines) + "\n")
    noise = np.random.default_rng(1).standard_normal((len(SHARES), *signal.shape))
    values = {str(k): list((share * signal + noise[k])[:, None]) for k, share in enumerate(SHARES)}
    extracted(folder / "features", values, folder / "corpus.csv", per_shard=1000)
    return folder / "corpus.csv"


def asked(folder: Path, task: str, manifest: Path) -> list[Record]:
    (folder / "own.toml").write_text(task)
    return run(
        folder / "own.toml", "planted", manifest, folder / "features", folder / "results"
    ).records


def outcomes_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in outcomes_path(file).read_text().splitlines()]


def only(records: list[Record], **wanted: object) -> list[Record]:
    return [
        record
        for record in records
        if all(getattr(record, name) == value for name, value in wanted.items())
    ]


AGES = 45 + 12 * np.random.default_rng(0).standard_normal(N).round(2)
AGE = """kind = "regress"
label = "age"
view = "mean"
budgets = ["60"]
"""


@pytest.fixture(scope="module")
def ages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    """A folder, and the records of ages that layer 1 holds with little noise."""
    folder = tmp_path_factory.mktemp("ages")
    direction = np.random.default_rng(2).standard_normal(6)
    direction *= 2 / np.linalg.norm(direction)
    signal = (AGES[:, None] - 45) / 12 * direction
    labels = [*AGES.tolist()]
    labels[3] = ""  # unknown
    manifest = planted(folder, {"age": labels}, signal)
    return folder, asked(folder, AGE, manifest)


def test_a_planted_number_is_predicted_and_its_interval_holds_the_truth(
    ages: tuple[Path, list[Record]],
) -> None:
    """The best linear prediction of a signal of variance 4 in noise of variance 1 has a share of
    4 / 5 of the variance.
    """
    _, records = ages
    (test,) = only(records, split="test", layer="1", metric="ccc", control="", budget="")
    share = 4 / 5
    assert test.low is not None and test.high is not None and test.value is not None
    assert test.low <= 2 * share / (1 + share) <= test.high
    assert test.low < test.value < test.high
    (r2,) = only(records, split="test", layer="1", metric="r2", control="", budget="")
    assert r2.low is not None and r2.high is not None and r2.low <= share <= r2.high
    values = {
        record.layer: record.value
        for record in only(records, split="test", metric="ccc", control="", budget="")
    }
    assert values["1"] > values["2"] > values["0"]
    assert values["weighted"] > values["2"]
    assert (test.head, test.select_by, test.n, test.n_train) == ("ridge", "ccc", 120, 239)
    assert test.excluded == {"no age": 1}
    assert len(test.search) == 10
    assert max(entry["dev_ccc"] for entry in test.search) == next(
        entry["dev_ccc"] for entry in test.search if entry["l2"] == test.chosen["l2"]
    )


def test_records_of_numbers_agree_with_their_outcomes_and_the_check(
    ages: tuple[Path, list[Record]],
) -> None:
    folder, records = ages
    (file,) = (folder / "results").glob("*.jsonl")
    outcomes = [line for line in outcomes_of(file) if line["head"] == "ridge"]
    truth, guess = (
        np.array([line[name] for line in outcomes]) for name in ("true_value", "predicted_value")
    )
    found = {
        record.metric: record.value
        for record in only(records, split="test", layer="1", control="", budget="")
    }
    assert found["mae"] == pytest.approx(np.abs(truth - guess).mean())
    assert found["pearson"] == pytest.approx(np.corrcoef(truth, guess)[0, 1])
    n_lines, findings = check_records([file])
    assert (n_lines, findings) == (len(records), [])


def test_always_the_mean_and_shuffled_numbers_say_nothing(ages: tuple[Path, list[Record]]) -> None:
    _, records = ages
    mean = {record.metric: record for record in only(records, split="test", control="mean")}
    assert mean["ccc"].value == 0
    assert mean["mae"].value == pytest.approx(12 * np.sqrt(2 / np.pi), rel=0.2)
    assert mean["pearson"].value is None
    assert "it is undefined" in mean["pearson"].note
    (shuffled,) = only(records, split="test", control="shuffled", layer="1", metric="ccc")
    assert abs(shuffled.value or 0) < 0.3
    (budget,) = only(records, split="test", budget="60", layer="1", metric="ccc")
    assert budget.n_train == 60


def test_tables_print_numbers_in_their_units(ages: tuple[Path, list[Record]]) -> None:
    folder, _ = ages
    done = CliRunner().invoke(
        cli, ["table", "--from", str(folder / "results"), "--format", "md"], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    cells = {
        line.split("|")[2].strip(): [cell.strip() for cell in line.split("|")]
        for line in done.stdout.splitlines()
        if line.startswith("| own")
    }
    head = next(line for line in done.stdout.splitlines() if line.startswith("| task"))
    names = [cell.strip() for cell in head.split("|")]
    score, mean = names.index("score [95 % interval]"), names.index("mean")
    assert cells["ccc ↑"][score].startswith("0.8")
    assert len(cells["mae ↓"][score].split()[0]) == 4  # such as 4.52
    assert cells["mae ↓"][mean].startswith(("8.", "9.", "10.", "11."))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["old"] * N, r"corpus.csv line 2: age of train0.wav is 'old'; .*\(479 more like this\)"),
        (["31,5"] + ["30"] * (N - 1), "line 2: age of train0.wav is '31,5'; .* with a point"),
        (["30"] * (N - 1) + ["nan"], f"line {N + 1}: age of test119.wav is 'nan'; expected a num"),
        (["30"] * N, "age is 30 in all 240 train rows; expected two values or more"),
    ],
)
def test_labels_that_are_no_numbers_are_refused(
    tmp_path: Path, column: list[str], message: str
) -> None:
    quoted = [f'"{value}"' for value in column]
    manifest = planted(tmp_path, {"age": quoted}, np.zeros((N, 2)))
    with pytest.raises(ProbeError, match=message):
        asked(tmp_path, AGE, manifest)


SEXES = np.where(np.random.default_rng(5).random(N) < 0.2, "f", "m")
SEX = 'kind = "classify"\nlabel = "sex"\nview = "mean"\nl2 = [1e-2, 1]\n'


@pytest.fixture(scope="module")
def sexes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder and a manifest of two classes, of which one is rare."""
    folder = tmp_path_factory.mktemp("sexes")
    signal = np.where(SEXES == "f", 1.0, 0.0)[:, None] * np.array([1.5, 0.5, 0.0])
    return folder, planted(folder, {"sex": SEXES.tolist()}, signal)


def test_a_task_by_recall_has_accuracy_f1_and_the_confusion_beside_it(
    sexes: tuple[Path, Path],
) -> None:
    folder, manifest = sexes
    records = asked(folder, SEX + 'metric = "uar"\n', manifest)
    found = {record.metric: record for record in only(records, split="test", layer="1", control="")}
    assert set(found) == {"uar", "accuracy", "macro_f1", "auc", "eer"}
    (file,) = (folder / "results").glob("*.jsonl")
    lines = outcomes_of(file)
    truth, guess = ([line[name] for line in lines] for name in ("label", "predicted"))
    assert found["uar"].value == pytest.approx(balanced_accuracy_score(truth, guess))
    assert found["macro_f1"].value == pytest.approx(f1_score(truth, guess, average="macro"))
    assert found["accuracy"].value == np.mean(np.array(truth) == guess)
    assert found["uar"].counts["class"] == ["f", "m"]
    assert confusion(found["uar"].counts).sum() == 120
    assert {record.select_by for record in records} == {"uar"}
    majority = {record.metric: record.value for record in only(records, control="majority")}
    assert (majority["uar"], majority["auc"], majority["eer"]) == (0.5, 0.5, 0.5)
    assert check_records([file])[1] == []


def test_the_report_has_the_confusions_and_the_worst_numbers(
    sexes: tuple[Path, Path], ages: tuple[Path, list[Record]]
) -> None:
    folder, manifest = sexes
    asked(folder, SEX + 'metric = "uar"\n', manifest)
    page = content(read_records(folder / "results"), [folder / "results"])
    (entry,) = page["confusions"]
    assert (entry["model"], entry["layer"], entry["classes"]) == ("planted", "1", ["f", "m"])
    assert np.sum(entry["counts"]) == 120
    results = ages[0] / "results"
    page = content(read_records(results), [results])
    assert page["confusions"] == []
    assert page["questions"][0]["digits"] == 3 and page["questions"][0]["unit"] == ""
    worst = page["errors"]
    error = abs(float(worst["reference"][0]) - float(worst["hypothesis"][0]))
    last = abs(float(worst["reference"][-1]) - float(worst["hypothesis"][-1]))
    assert error > last and worst["wrong"][0] > 99


def test_auc_is_scikit_learn_s(sexes: tuple[Path, Path]) -> None:
    folder, manifest = sexes
    records = asked(folder, SEX + 'metric = "auc"\n', manifest)
    (test,) = only(records, split="test", layer="1", control="", metric="auc")
    target, rank = test.counts["target"], test.counts["rank"]
    assert test.value == pytest.approx(roc_auc_score(target, rank))
    assert test.low is not None and test.high is not None and test.low < test.value < test.high
    assert np.mean(target) == np.mean(SEXES[-120:] == "m")


def test_balanced_classes_raise_the_recall_of_the_rare_one(sexes: tuple[Path, Path]) -> None:
    folder, manifest = sexes

    def recall_of_rare(task: str) -> float:
        records = asked(folder, SEX + 'metric = "uar"\n' + task, manifest)
        (test,) = only(records, split="test", layer="1", control="", metric="uar")
        matrix = confusion(test.counts)
        return float(matrix[0, 0] / matrix[0].sum())

    assert recall_of_rare('class_weight = "balanced"\n') > recall_of_rare("") + 0.1


def test_a_task_by_accuracy_has_nothing_else_and_its_hash_stays(sexes: tuple[Path, Path]) -> None:
    folder, manifest = sexes
    records = asked(folder, SEX, manifest)
    assert {record.metric for record in records} == {"accuracy"}
    hashes = {name: open_task(name).sha256[:12] for name in ("speaker-id", "word-id", "gender-id")}
    assert hashes == {
        "speaker-id": "e44851fd8da4",
        "word-id": "07e2ae5a4729",
        "gender-id": "52e58b93b9b7",
    }
    (folder / "uar.toml").write_text(SEX + 'metric = "uar"\n')
    assert open_task(folder / "uar.toml").sha256 != records[0].task_sha256


def test_several_columns_of_labels_are_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('kind = "classify"\nlabel = ["a", "b"]\n')
    with pytest.raises(
        ProbeError, match=r"label: found \['a', 'b'\]; expected one column; kind tag"
    ):
        open_task(tmp_path / "own.toml")


def test_classes_in_two_spellings_are_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = [("f", "m", "F")[i % 3] for i in range(N)]
    manifest = planted(tmp_path, {"sex": labels, "age": labels}, np.zeros((N, 2)))
    asked(tmp_path, SEX, manifest)
    (text,) = [line for line in caplog.messages if "Unicode form" in line]
    assert text.startswith(
        "corpus: sex: 'f' (160) and 'F' (160) differ only by case, spaces or Unicode form; each "
    )


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_records_of_a_control_without_a_value_on_dev_pass_their_check(
    tmp_path: Path, metric: str
) -> None:
    manifest = planted(tmp_path, {"age": AGES.tolist()}, np.zeros((N, 2)))
    text = f'kind = "regress"\nview = "mean"\nmetric = "{metric}"\nweighted = false\nl2 = 1.0\n'
    records = asked(tmp_path, text, manifest)
    (dev,) = only(records, split="dev", control="mean", metric=metric)
    assert dev.value is None and "undefined" in dev.note
    assert check_records([tmp_path / "results"])[1] == []


def test_a_metric_of_two_classes_is_refused_for_more(tmp_path: Path) -> None:
    labels = [f"c{i % 3}" for i in range(N)]
    manifest = planted(tmp_path, {"sex": labels}, np.zeros((N, 2)))
    with pytest.raises(ProbeError, match="metric auc is of two classes, and sex has 3 in training"):
        asked(tmp_path, SEX + 'metric = "auc"\n', manifest)


def test_names_of_speakers_are_not_in_records(tmp_path: Path) -> None:
    manifest = planted(tmp_path, {}, np.zeros((N, 2)))
    lines = manifest.read_text().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    for number, row in enumerate(rows):
        row[2] = f"ann{number % 12}"
    manifest.write_text("\n".join([lines[0], *map(",".join, rows)]) + "\n")
    text = 'kind = "classify"\nview = "mean"\nl2 = 1.0\nmetric = "macro_f1"\nweighted = false\n'
    records = asked(tmp_path, text, manifest)
    (file,) = (tmp_path / "results").glob("*.jsonl")
    assert "ann1" not in file.read_text()
    assert len(only(records, metric="uar", split="test", layer="1")[0].counts["class"]) == 12
