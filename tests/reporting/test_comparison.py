"""Comparing runs and models: what is paired, what is said of it, and what may have changed it."""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from scored import HOSTILE, frame, layers, scored, verified, with_counts

from probe.cli import cli
from probe.errors import ProbeError
from probe.measures.comparison import paired_difference
from probe.measures.counts import amount_counts
from probe.records import Record, write_records
from probe.reporting.scores import Scores
from probe.reporting.tables.comparison import (
    COLUMNS,
    Comparison,
    compare_models,
    compare_runs,
    to_json,
    to_markdown,
)
from probe.reporting.text import escaped, one_line


def compared(
    before: Sequence[Record], after: Sequence[Record], layers: bool = False, all_heads: bool = False
) -> Comparison:
    return compare_runs(
        "before",
        Scores.of(frame(*before), all_heads),
        "after",
        Scores.of(frame(*after), all_heads),
        layers,
    )


def verdicts(found: Comparison) -> list[str]:
    return list(found.rows["verdict"])


def bits(amounts: Sequence[float], **changed: Any) -> Record:
    blocks = [f"speaker {i}" for i in range(len(amounts))]
    return with_counts(
        amount_counts(blocks, amounts),
        split="train",
        metric="codelength",
        higher_is_better=False,
        **changed,
    )


def test_a_difference_is_that_of_paired_difference_and_has_the_direction_of_the_metric() -> None:
    before, after = layers([5], [5]), layers([6], [6])
    row = compared(before, after).rows.iloc[0]
    expected = paired_difference(after[1].counts, before[1].counts, "accuracy")
    assert (row["difference"], row["low"], row["high"]) == (
        expected.difference,
        expected.low,
        expected.high,
    )
    assert (row["verdict"], row["p"]) == ("better", expected.p)
    back = compared(after, before).rows.iloc[0]
    assert (back["verdict"], back["difference"]) == ("worse", -row["difference"])


def test_a_lower_error_is_better() -> None:
    before, after = (
        layers([n], [n], metric="wer", select_by="wer", higher_is_better=False) for n in (5, 4)
    )
    row = compared(before, after).rows.iloc[0]
    assert (row["verdict"], row["difference"] < 0) == ("better", True)
    assert verdicts(compared(after, before)) == ["worse"]


def test_what_is_not_certain_is_not_told_apart() -> None:
    hits = [3, 8, 5, 9, 4, 6, 7, 2]
    before = [scored(hits, split=split) for split in ("dev", "test")]
    after = [scored(hits[::-1], split=split) for split in ("dev", "test")]
    row = compared(before, [replace(item, counts=item.counts) for item in after]).rows.iloc[0]
    assert row["verdict"] == "not significantly different" and row["low"] <= 0 <= row["high"]


def test_verdicts_hold_for_all_scores_of_a_comparison_together() -> None:
    """A difference that is shown alone is not shown as one of ten, by tasks or by layers; identical
    scores do not count.
    """

    def side(hits: list[int], **changed: Any) -> list[Record]:
        return [scored(hits, split=split, **changed) for split in ("dev", "test")]

    old, new = [5, 6, 4, 7, 5, 6, 4, 5], [6, 8, 4, 8, 7, 6, 5, 5]
    alone = compared(side(old), side(new)).rows.iloc[0]
    assert alone["verdict"] == "better" and 0.005 < alone["p"] == alone["p_adjusted"] < 0.05
    of_tasks, of_layers = (
        compared(
            [item for name in several for item in side(old, **name)],
            [item for name in several for item in side(new, **name)],
            True,
        )
        for several in (
            [{"task": f"task {i}"} for i in range(10)],
            [{"layer": str(i), "layer_index": i} for i in range(10)],
        )
    )
    for found in (of_tasks, of_layers):
        assert verdicts(found) == ["not significantly different"] * 10
        assert (found.rows["low"] > 0).all() and found.rows["p_adjusted"].to_list() == [
            min(1, 10 * alone["p"])
        ] * 10
    beside_equal = [item for i in range(9) for item in side(old, task=f"task {i}")]
    assert verdicts(compared([*beside_equal, *side(old)], [*beside_equal, *side(new)])) == [
        "better",
        *["identical"] * 9,
    ]


def test_equal_counts_are_identical_whatever_else_changed() -> None:
    records = [*layers([5, 6], [5, 6]), *verified()]
    again = [
        replace(item, code={"version": "0.2.0", "commit": "f" * 12}, seconds=9.0)
        for item in records
    ]
    found = compared(records, again)
    assert verdicts(found) == ["identical"] * 2
    assert [(item["what"], item["a"], item["b"], item["scores"]) for item in found.changes] == [
        ("code commit", "0123456789ab", "f" * 12, 2),
        ("code version", "0.1.0", "0.2.0", 2),
    ]
    assert (
        "2 scores compared: 0 better, 0 worse, 0 not significantly different, 2 identical."
        in found.summary()
    )


def test_equal_values_of_other_outcomes_are_not_identical() -> None:
    before, after = (
        [scored(hits * 2, split=split) for split in ("dev", "test")]
        for hits in ([4, 6, 5], [6, 4, 5])
    )
    assert verdicts(compared(before, after)) == ["not significantly different"]


def test_too_few_blocks_are_not_tested_and_counted_apart() -> None:
    before, after = ([scored([hits], split=split) for split in ("dev", "test")] for hits in (1, 9))
    found = compared(before, after)
    row = found.rows.iloc[0]
    assert (row["verdict"], row["note"], row["difference"]) == (
        "not tested",
        "too few blocks (1)",
        0.8,
    )
    assert "0 not significantly different, 0 identical; 1 not tested." in found.summary()


def test_other_utterances_are_not_paired() -> None:
    before, after = layers([5], [5], n_speakers=12), layers([9], [9], n_speakers=11)
    row = compared(before, after).rows.iloc[0]
    assert row["verdict"] == "not paired" and "differ in block" in row["note"]
    assert pd.isna(row["difference"]) and row["value_b"] > row["value_a"]
    without = [
        replace(item, value=None, counts={}, note="no such class") if item.split == "test" else item
        for item in before
    ]
    row = compared(before, without).rows.iloc[0]
    assert (row["verdict"], row["note"]) == ("not paired", "no such class")
    no_dev = [item for item in before if item.split == "test"]
    assert verdicts(compared(before, no_dev)) == ["not paired"]


def test_what_one_side_has_alone_is_said() -> None:
    before = [*layers([5], [5]), *layers([5], [5], task="words")]
    after = [
        *layers([5], [5]),
        *layers([5], [5], condition="telephone"),
        *layers([5], [5], model="org/b"),
    ]
    found = compared(before, after)
    assert verdicts(found) == ["identical", "only in A", "only in B", "only in B"]
    page = to_markdown(found)
    assert "## Only in A\n\n* org/a, words, spoken, clean: 1\n" in page
    assert (
        "* org/a, digits, spoken, telephone: 1\n" in page
        and "* org/b, digits, spoken, clean: 1\n" in page
    )


def test_sides_without_a_common_score_are_an_error_that_says_what_differs() -> None:
    """It was "0 scores compared" with exit code 0, in CI too."""
    before = layers([5], [5])
    with pytest.raises(ProbeError, match=r"no score in common.*: corpus spoken in A, read in B.$"):
        compared(before, layers([5], [5], corpus="read"))
    with pytest.raises(ProbeError, match="task digits in A, words in B; corpus spoken in A, read"):
        compared(before, layers([5], [5], corpus="read", task="words"))
    crossed = [layers([5], [5], task=task, corpus=corpus) for task, corpus in ("ax", "by", "ay")]
    with pytest.raises(ProbeError, match="no score agrees in all of task, corpus"):
        compared([*crossed[0], *crossed[1]], crossed[2])


def test_scores_of_which_none_has_an_interval_are_listed() -> None:
    before, after = (layers([n], [n], n_speakers=4) for n in (5, 7))
    found = compared(before, after)
    assert found.rows[["low", "high", "p"]].isna().all(axis=None)
    assert "| +20.0 |" in to_markdown(found)


def test_each_side_has_the_layer_that_its_dev_chose_and_a_move_is_said() -> None:
    before, after = layers([5, 6, 6], [5, 7, 6]), layers([5, 6, 6], [5, 6, 7])
    found = compared(before, after)
    row = found.rows.iloc[0]
    assert (row["layer_a"], row["layer_b"]) == ("1", "2")
    assert "dev chose another layer for 1" in found.summary()
    assert "| 1 → 2 |" in to_markdown(replace(found, rows=found.rows.assign(verdict="worse")))
    found = compared(layers([6], [6]), after)  # the only layer of a model is no choice
    assert found.rows["layer_a"].ne(found.rows["layer_b"]).all()
    assert "another layer" not in found.summary()
    by_layer = compared(before, after, layers=True)
    assert list(by_layer.rows["layer_a"]) == list(by_layer.rows["layer_b"]) == ["0", "1", "2"]
    assert "another layer" not in by_layer.summary()


def test_controls_dev_scores_and_other_heads_are_left_out() -> None:
    records = layers([5], [5])
    control = [replace(item, control="shuffled") for item in records]
    other = [replace(item, head="lda", headline=False) for item in records]
    assert len(compared([*records, *control, *other], records).rows) == 1
    assert len(compared([*records, *control, *other], [*records, *other], all_heads=True).rows) == 2


def test_codelengths_are_compared_in_bits_without_an_interval() -> None:
    before, after = (
        [bits([3.0, 4.0, 3.5, 3.2]), *layers([5], [5])],
        [bits([2.0, 3.1, 2.4, 2.3]), *layers([5], [5])],
    )
    found = compared(before, after)
    assert verdicts(found) == ["not tested", "identical"]
    page = to_markdown(found)
    assert "-0.97" in page and "-0.97 [" not in page and "no interval of this metric" in page


def test_what_changed_stands_first_and_larger_differences_before_smaller() -> None:
    tasks = {"same": (5, 5), "little": (5, 6), "much": (3, 7), "down": (7, 6)}
    before, after = (
        [
            item
            for task, hits in tasks.items()
            for item in layers([hits[side]], [hits[side]], task=task)
        ]
        for side in (0, 1)
    )
    found = compared(before, after)
    assert list(found.rows["task"]) == ["down", "much", "little", "same"]
    assert verdicts(found) == ["worse", "better", "better", "identical"]


def test_every_change_in_what_scores_rest_on_is_listed() -> None:
    changes: dict[str, Any] = {
        "recipe": "e" * 64,
        "task_version": 2,
        "seed": 3,
        "condition_seed": 7,
        "revision": "2" * 40,
    }
    changes |= {
        "task_sha256": "e" * 64,
        "manifest_sha256": "f" * 64,
        "trials_sha256": "1" * 64,
        "device": "cuda",
        "n_train": 9,
    }
    after = layers([5], [5], **changes, packages={"torch": "2.15.0", "numpy": "2.0"})
    told = {
        item["what"]: (item["a"], item["b"]) for item in compared(layers([5], [5]), after).changes
    }
    assert told.keys() == {*changes, "package torch", "package numpy"}
    assert told["condition_seed"] == ("none", "7") and told["package numpy"] == ("none", "2.0")
    assert told["package torch"] == ("2.14.1", "2.15.0")


def test_two_models_of_one_folder_are_compared() -> None:
    records = frame(
        *layers([5], [5]),
        *layers([7], [7], model="org/b", recipe="d" * 64),
        *layers([5], [5], model="org/c"),
    )
    found = compare_models(Scores.of(records), "org/a", "org/b", layers=False)
    assert verdicts(found) == ["better"] and found.changes == []
    assert list(found.rows["model"]) == ["org/a → org/b"]
    with pytest.raises(
        ProbeError, match="no records of org/x; there are records of: org/a, org/b, org/c"
    ):
        compare_models(Scores.of(records), "org/a", "org/x", layers=False)


def test_speakers_of_training_are_noted() -> None:
    found = compared(
        layers([5], [5]), [replace(item, shared_speakers=4) for item in layers([7], [7])]
    )
    assert list(found.rows["note"]) == ["4 of its speakers are in training too"]


def test_of_a_side_that_mixes_questions_what_contradicts_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mixed = [*layers([5], [5]), *layers([5], [5], model="org/b", task_sha256="0" * 64)]
    assert list(compared(mixed, mixed).rows["model"]) == ["org/a"]
    assert "task_sha256 differs" in caplog.text


def test_seeds_are_compared_by_their_mean() -> None:
    """Two seeds on each side make one score; equal counts of both are identical."""
    before = [*layers([5], [5]), *layers([6], [6], seed=1)]
    after = [*layers([7], [7]), *layers([8], [8], seed=1)]
    row = compared(before, after).rows.iloc[0]
    assert row["verdict"] == "better" and row["difference"] == pytest.approx(0.2, abs=0.02)
    assert verdicts(compared(before, before)) == ["identical"]


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Two folders of records; one task is worse in the second, two are equal, one is new."""
    for name, hits in (("before", 6), ("after", 4)):
        write_records(tmp_path / name / "a.jsonl", layers([hits], [hits]))
        write_records(tmp_path / name / "b.jsonl", layers([5], [5], task="words"))
        write_records(tmp_path / name / "c.jsonl", verified())
    write_records(tmp_path / "after" / "d.jsonl", layers([5], [5], task="new"))
    return [str(tmp_path / "before"), str(tmp_path / "after")]


def test_the_command_prints_three_forms(folders: list[str]) -> None:
    page = CliRunner().invoke(cli, ["compare", *folders])
    assert page.exit_code == 0
    assert (
        "3 scores compared: 0 better, 1 worse, 0 not significantly different, 2 identical; 1 "
        "only in B." in page.stdout
    )
    rows = list(
        csv.DictReader(
            io.StringIO(CliRunner().invoke(cli, ["compare", *folders, "--format", "csv"]).stdout)
        )
    )
    assert [row["verdict"] for row in rows] == ["worse", "identical", "identical", "only in B"]
    assert list(rows[0]) == COLUMNS and float(rows[0]["difference"]) == pytest.approx(-0.2)
    told = json.loads(CliRunner().invoke(cli, ["compare", *folders, "--format", "json"]).stdout)
    assert told["summary"]["worse"] == 1 and told["rows"][3]["value_a"] is None


def test_only_what_is_worse_fails_a_check(folders: list[str]) -> None:
    assert CliRunner().invoke(cli, ["compare", *folders, "--fail-on", "worse"]).exit_code == 1
    assert CliRunner().invoke(cli, ["compare", *folders[::-1], "--fail-on", "worse"]).exit_code == 0
    assert (
        CliRunner().invoke(cli, ["compare", folders[0], folders[0], "--fail-on", "worse"]).exit_code
        == 0
    )


def test_the_command_wants_two_folders_or_two_models(folders: list[str]) -> None:
    both = [*folders, "--from", folders[0], "--model", "a", "--model", "b"]
    for line in (
        [],
        folders[:1],
        ["--from", folders[0], "--model", "org/a"],
        both,
        ["--model", "a", "--model", "b"],
    ):
        assert "two folders of records" in str(
            CliRunner().invoke(cli, ["compare", *line]).exception
        )


def test_a_page_of_equal_runs_has_no_table(folders: list[str]) -> None:
    page = CliRunner().invoke(cli, ["compare", folders[0], folders[0]]).stdout
    assert "|" not in page and "## Identical" in page
    assert "Recipes, tasks, code, packages and seeds are the same." in page


def test_names_cannot_break_what_is_printed(tmp_path: Path) -> None:
    for folder, hits in (("before", 1), ("after", 9)):
        for number, name in enumerate(HOSTILE):
            named: dict[str, Any] = {
                "model": name,
                "task": name,
                "corpus": name,
                "condition": name,
                "head": name,
            }
            named |= {"device": name + folder, "note": name, "packages": {name: folder}}
            write_records(tmp_path / folder / f"{number}.jsonl", layers([hits], [hits], **named))
    write_records(
        tmp_path / "before" / "alone.jsonl",
        [item for name in HOSTILE for item in layers([5], [5], model=name)],
    )
    sides = [str(tmp_path / "before"), str(tmp_path / "after")]
    printed = {
        form: CliRunner().invoke(cli, ["compare", *sides, "--format", form])
        for form in ("md", "csv", "json")
    }
    for done in printed.values():
        assert done.exit_code == 0
        assert not [char for char in done.output if not char.isprintable() and char != "\n"]
    tables = [
        part.splitlines() for part in printed["md"].stdout.split("\n\n") if part.startswith("| ")
    ]
    assert [len(lines) for lines in tables] == [2 + 2 * len(HOSTILE), 2 + len(HOSTILE)]
    for lines in tables:
        bars = [line.replace("\\\\", "").replace("\\|", "").count("|") for line in lines]
        assert bars == [bars[0]] * len(lines)
    assert len(
        re.findall(r"^\* .*, digits, spoken, clean: 1$", printed["md"].stdout, flags=re.MULTILINE)
    ) == len(HOSTILE)
    rows = list(csv.DictReader(io.StringIO(printed["csv"].stdout, newline="")))
    better = [row["task"] for row in rows if row["verdict"] == "better"]
    assert sorted(better) == sorted(map(one_line, HOSTILE))
    assert {row["verdict"] for row in rows if row["task"] == "digits"} == {"only in A"}
    told = json.loads(printed["json"].stdout)
    assert sorted(row["task"] for row in told["rows"] if row["verdict"] == "better") == sorted(
        HOSTILE
    )


def test_names_of_the_two_sides_cannot_break_a_page() -> None:
    records = layers([5], [5])
    equal = compared(records, records)
    for name in HOSTILE:
        found = replace(equal, a=name, b=name)
        assert to_markdown(found).split("\n")[2:5] == [
            f"A: {escaped(name)}  ",
            f"B: {escaped(name)}",
            "",
        ]
        assert json.loads(to_json(found))["a"] == name
