"""ABX, neighbours and units find the layer in which phones stand apart, without training."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from runs import run
from words import N_FRAMES, SPLITS, write_words

from probe.cli import cli
from probe.errors import ProbeError
from probe.evaluation.run import Run
from probe.evaluation.tasks import open_task
from probe.record_check import check_records
from probe.records import Record


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """See `words.write_words`; speakers are shared by the splits."""
    return write_words(tmp_path, "shared")


def task_of(folder: Path, kind: str, **settings: Any) -> Path:
    lines = [f"{key} = {json.dumps(value)}" for key, value in {"kind": kind, **settings}.items()]
    (folder / "own.toml").write_text("\n".join(lines) + "\n")
    return folder / "own.toml"


def run_in(folder: Path, kind: str, **settings: Any) -> Run:
    done = run(
        task_of(folder, kind, **settings),
        "planted",
        folder / "corpus.csv",
        folder / "features",
        folder / "results",
        labels=folder / "phones.csv",
    )
    assert check_records(done.paths)[1] == []
    return done


def of_test(done: Run) -> dict[tuple[str, str, str], Record]:
    return {
        (item.layer, item.head, item.metric): item for item in done.records if item.split == "test"
    }


@pytest.mark.parametrize("pooling", ["none", "mean"])
def test_abx_is_at_chance_without_phones_and_better_with_them(world: Path, pooling: str) -> None:
    test = of_test(run_in(world, "discriminate", pooling=pooling))
    for head in ("abx-within", "abx-across"):
        random, planted = (test[layer, head, "abx_error"] for layer in "01")
        assert abs(random.value - 0.5) < 0.08 and planted.value < 0.25
        assert planted.n_blocks == 3 and planted.n == 3 * 3 * 2, "pairs of labels of each speaker"
        assert planted.n_train == 0 and planted.shared_speakers is None
    assert test["1", "abx-within", "abx_error"].headline


def test_tables_show_abx_within_and_across_speakers(world: Path) -> None:
    run_in(world, "discriminate", pooling="mean", most=3)
    table = (
        CliRunner()
        .invoke(cli, ["table", "--from", str(world / "results"), "--format", "md"])
        .stdout
    )
    assert "abx-within" in table and "abx-across" in table


def relabelled(world: Path, speakers: set[str], phone: str, label: str) -> None:
    """Gives a phone another label in the utterances of some speakers."""
    rows = (world / "phones.csv").read_text().splitlines()
    changed = []
    for row in rows[1:]:
        cells = row.split(",")
        is_theirs = str(int(cells[0].partition(".")[0]) % 3) in speakers
        changed.append(
            ",".join([*cells[:3], label, *cells[4:]]) if is_theirs and cells[3] == phone else row
        )
    (world / "phones.csv").write_text("\n".join([rows[0], *changed]) + "\n")


def test_neighbours_of_labels_that_only_one_speaker_has_are_refused_or_noted(world: Path) -> None:
    relabelled(world, {"0"}, "a", "own")
    record = of_test(run_in(world, "discriminate", method="knn"))["1", "knn", "accuracy"]
    assert re.fullmatch(
        r"\d+ intervals with labels that no other speaker has in training: 'own'", record.note
    )
    for speaker in "012":
        for phone in "abc":
            relabelled(world, {speaker}, phone, phone + speaker)
    with pytest.raises(ProbeError, match="dev: no interval has a label that another speaker has"):
        run_in(world, "discriminate", method="knn")


def test_nearest_neighbours_are_of_other_speakers(world: Path) -> None:
    done = run_in(world, "discriminate", method="knn", neighbours=[1, 5])
    test = of_test(done)
    assert test["1", "knn", "accuracy"].value > 0.75 > 0.6 > test["0", "knn", "accuracy"].value
    record = test["1", "knn", "accuracy"]
    assert record.n == 72 and record.shared_speakers == 0
    assert [entry["neighbours"] for entry in record.search] == [1, 5]
    (dev,) = [r for r in done.records if (r.layer, r.split) == ("1", "dev")]
    assert dev.value == max(entry["dev_accuracy"] for entry in record.search)


def test_units_say_more_of_phones_in_the_planted_layer_and_are_written(world: Path) -> None:
    settings = {"n_units": 8, "units_to": str(world / "units")}
    test = of_test(run_in(world, "cluster", **settings))
    for metric in ("pnmi", "phone_purity", "cluster_purity"):
        random, planted = (test[layer, "k-means", metric] for layer in "01")
        assert planted.n == sum(planted.counts["denominator"]) == 6 * 36
        assert planted.n_blocks == 3
        if metric != "cluster_purity":
            assert planted.value > random.value + 0.1
    (keys,) = (world / "units").rglob("1/test.keys")
    lines = (keys.parent / "test.km").read_text().splitlines()
    assert keys.read_text().split() == [f"{i}.wav" for i, s in enumerate(SPLITS) if s == "test"]
    assert [len(line.split()) for line in lines] == [N_FRAMES] * 6
    assert {int(unit) for line in lines for unit in line.split()} <= set(range(8))
    tasks = [open_task(task_of(world, "cluster", n_units=8, units_to=to)) for to in ("", "x")]
    assert tasks[0].sha256 == tasks[1].sha256


def test_scores_repeat_with_their_seed(world: Path) -> None:
    first, again = (run_in(world, "discriminate", most=3) for _ in "ab")
    assert [r.counts for r in first.records] == [r.counts for r in again.records]


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({}, ("0,,", ",,"), "utterances have no speaker .* Fill the column speaker"),
        ({"ignore": ["a", "b"]}, ("wav", "wav"), "all intervals have the label 'c'; expected two"),
        ({"ignore": ["a", "b", "c"]}, ("wav", "wav"), "no dev rows with labelled intervals"),
        ({"most": 1}, ("wav", "wav"), "most: found 1; expected 2 or more"),
        ({"method": "svm"}, ("wav", "wav"), "method: found 'svm'; expected 'abx' or 'knn'"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    world: Path, settings: dict[str, Any], change: tuple[str, str], message: str
) -> None:
    manifest = world / "corpus.csv"
    manifest.write_text(manifest.read_text().replace(*change))
    with pytest.raises(ProbeError, match=message):
        run_in(world, "discriminate", **settings)
