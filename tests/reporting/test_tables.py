"""Tables: which layer is shown, what may stand beside what, and how it is printed.

The expected Markdown lies in tests/golden/reporting; after a wanted change rebuild it with
GOLDEN=write python -m pytest tests/reporting/test_tables.py and read the difference.
"""

import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scored import domain_matrices, frame, layer_rows, record, summary_rows, verified

from probe.errors import ProbeError
from probe.records import Record, read_records, write_records
from probe.reporting.filters import comparable
from probe.reporting.scores import Scores, seed_notes
from probe.reporting.tables import files
from probe.reporting.tables.files import write_tables
from probe.reporting.tables.score_tables import layers_by_question, to_csv, to_json, to_markdown

GOLDEN = Path(__file__).parents[1] / "golden" / "reporting"


def curve(
    dev: Sequence[float | None], test: Sequence[float | None], layers: str = "0 1 2", **changed: Any
) -> Iterator[Record]:
    """Dev and test records of every layer; dev only where a domain is tested on itself."""
    names = layers.split()
    final = changed.pop("final_layer", names[-1])
    for index, (layer, dev_value, test_value) in enumerate(zip(names, dev, test, strict=True)):
        for split, value in (("dev", dev_value), ("test", test_value)):
            known = changed.get("low", ...) is ... and value is not None
            bounds = (
                {"low": value - 0.05, "high": value + 0.05} if known and value is not None else {}
            )
            made = record(
                layer=layer,
                layer_index=index,
                final_layer=final,
                split=split,
                value=value,
                **(bounds | changed),
            )
            if split == "test" or made.train_domain == made.test_domain:
                yield made


def plain() -> list[Record]:
    """Two models and a spectral baseline, classified and transcribed; dev and test prefer different
    layers.
    """
    transcribe: dict[str, Any] = {
        "task": "connected",
        "kind": "transcribe",
        "corpus": "strings",
        "head": "ctc",
        "select_by": "cer",
    }
    records: list[Record] = []
    for model, shift, layers in (("org/a", 0.0, "0 1 2"), ("org/b", 0.06, "0 1 final")):
        records += curve([0.6, 0.8 - shift, 0.7], [0.61, 0.74 - shift, 0.83], layers, model=model)
        for metric, scale in (("cer", 1), ("wer", 2)):
            values = [scale * (0.3 + shift), scale * 0.12, scale * (0.11 + shift)]
            worse = {"metric": metric, "model": model, "higher_is_better": False}
            records += curve(
                values, [value + 0.02 for value in values], layers, **transcribe, **worse
            )
    return [
        *records,
        *curve(
            [0.4], [0.41], "0", model="fbank", low=None, note="no interval: one speaker", n_blocks=1
        ),
    ]


def crossing() -> list[Record]:
    """Two domains; on the source's dev data layer 1 wins for `read`, layer 2 for `far`; `far`
    shares no class with `read`.
    """
    task: dict[str, Any] = {"task": "emotion", "model": "org/a"}
    return [
        *curve([0.5, 0.9, 0.6], [0.5, 0.85, 0.6], train_domain="read", test_domain="read", **task),
        *curve([0.0, 0.0, 0.0], [0.4, 0.6, 0.75], train_domain="read", test_domain="far", **task),
        *curve([0.5, 0.6, 0.7], [0.5, 0.9, 0.65], train_domain="far", test_domain="far", **task),
        *curve(
            [None] * 3,
            [None] * 3,
            train_domain="far",
            test_domain="read",
            note="no class in both domains",
            **task,
        ),
    ]


def only(rows: pd.DataFrame) -> dict[Any, Any]:
    assert len(rows) == 1
    return rows.iloc[0].to_dict()


def test_the_layer_is_chosen_on_dev_and_the_value_is_of_test() -> None:
    row = only(summary_rows(frame(*curve(dev=[0.5, 0.9, 0.6], test=[0.5, 0.7, 0.8]))))
    assert (row["layer"], row["value"], row["low"]) == ("1", 0.7, pytest.approx(0.65))


def test_a_lower_dev_error_is_better() -> None:
    changed: dict[str, Any] = {"metric": "eer", "select_by": "eer", "higher_is_better": False}
    row = only(summary_rows(frame(*curve(dev=[0.3, 0.1, 0.2], test=[0.05, 0.2, 0.01], **changed))))
    assert (row["layer"], row["value"]) == ("1", 0.2)


def test_equal_dev_values_go_to_the_lowest_layer_whatever_the_order_of_records() -> None:
    records = [*curve(dev=[0.5, 0.9, 0.9], test=[0.5, 0.6, 0.8])]
    for order in (records, records[::-1]):
        assert only(summary_rows(frame(*order)))["layer"] == "1"


def test_every_metric_is_shown_at_the_layer_that_select_by_chooses() -> None:
    changed: dict[str, Any] = {"select_by": "cer", "higher_is_better": False}
    cer = curve(dev=[0.3, 0.1, 0.2], test=[0.31, 0.11, 0.21], metric="cer", **changed)
    wer = curve(dev=[0.6, 0.5, 0.05], test=[0.61, 0.51, 0.06], metric="wer", **changed)
    rows = summary_rows(frame(*cer, *wer))
    assert rows[["metric", "layer", "value"]].to_numpy().tolist() == [
        ["cer", "1", 0.11],
        ["wer", "1", 0.51],
    ]


def test_each_model_and_head_has_its_own_layer() -> None:
    best = {("org/a", "linear"): 0, ("org/a", "mlp"): 1, ("org/b", "linear"): 2}
    records = [
        item
        for (model, head), layer in best.items()
        for item in curve(
            [0.5 + 0.4 * (index == layer) for index in range(3)], [0.5] * 3, model=model, head=head
        )
    ]
    rows = summary_rows(frame(*records))
    assert {
        (row["model"], row["head"]): int(row["layer"]) for row in rows.to_dict("records")
    } == best


def test_across_domains_the_layer_is_chosen_on_the_dev_data_of_the_source() -> None:
    rows = summary_rows(frame(*crossing())).set_index(["train_domain", "test_domain"])
    assert rows["layer"].to_dict() == {
        ("far", "far"): "2",
        ("far", "read"): "2",
        ("read", "far"): "1",
        ("read", "read"): "1",
    }
    assert rows.loc[("read", "far"), "value"] == 0.6  # not 0.75, which the target would have chosen


def test_dev_data_of_a_target_domain_chooses_nothing() -> None:
    target = record(
        layer="2",
        layer_index=2,
        split="dev",
        value=1.0,
        task="emotion",
        train_domain="read",
        test_domain="far",
    )
    for table in (summary_rows, layer_rows):
        pd.testing.assert_frame_equal(table(frame(*crossing(), target)), table(frame(*crossing())))


def test_only_headline_heads_are_shown_unless_all_are_asked_for() -> None:
    records = frame(
        *curve([0.5] * 3, [0.5] * 3), *curve([0.6] * 3, [0.6] * 3, head="mdl", headline=False)
    )
    assert list(summary_rows(records)["head"]) == ["linear"]
    assert list(summary_rows(records, all_heads=True)["head"]) == ["linear", "mdl"]
    assert set(layer_rows(records)["head"]) == {"linear"}
    assert set(layer_rows(records, all_heads=True)["head"]) == {"linear", "mdl"}


def test_last_and_final_are_shown_beside_the_chosen_layer() -> None:
    row = only(summary_rows(frame(*curve([0.9, 0.5, 0.4], [0.8, 0.6, 0.7], "2 10 final"))))
    assert (row["layer"], row["last_layer"], row["last_value"], row["final_value"]) == (
        "2",
        "10",
        0.6,
        0.7,
    )


def test_final_is_the_last_layer_where_the_record_says_so() -> None:
    row = only(summary_rows(frame(*curve([0.9, 0.5, 0.4], [0.8, 0.6, 0.7]))))
    assert (row["last_layer"], row["last_value"], row["final_value"]) == ("2", 0.7, 0.7)


def test_final_is_unknown_where_only_some_layers_were_run() -> None:
    for final in ("", "12", "final"):
        some = curve([0.9, 0.5, 0.4], [0.8, 0.6, 0.7], final_layer=final)
        assert pd.isna(only(summary_rows(frame(*some)))["final_value"])


def test_a_cell_without_a_value_keeps_its_row_and_note() -> None:
    row = only(
        summary_rows(frame(*curve([None] * 3, [None] * 3, note="plda left out: 3 speakers")))
    )
    assert (
        pd.isna(row["layer"])
        and pd.isna(row["value"])
        and row["note"] == "plda left out: 3 speakers"
    )


def test_without_dev_scores_no_layer_is_chosen_and_the_note_says_so() -> None:
    records = [item for item in curve([0.5] * 3, [0.6] * 3) if item.split == "test"]
    row = only(summary_rows(frame(*records)))
    assert (
        pd.isna(row["value"]) and row["note"] == "no dev score of accuracy, so no layer is chosen"
    )


def test_a_chosen_layer_without_a_test_record_is_named() -> None:
    records = [
        item
        for item in curve([0.5, 0.9, 0.5], [0.6] * 3)
        if (item.split, item.layer) != ("test", "1")
    ]
    row = only(summary_rows(frame(*records)))
    assert pd.isna(row["value"]) and row["note"] == "no test score at layer 1"


def test_values_that_are_not_finite_are_missing() -> None:
    records = frame(*curve([float("nan"), float("inf"), 0.3], [0.1, 0.2, float("inf")]))
    row = only(summary_rows(records))
    assert row["layer"] == "2" and pd.isna(row["value"])
    assert json.loads(to_json(summary_rows(records)))[0]["value"] is None


def test_layer_rows_put_the_dev_value_beside_the_test_value() -> None:
    rows = layer_rows(frame(*curve(dev=[0.5, 0.9, 0.6], test=[0.51, 0.7, 0.8])))
    assert rows[["layer", "value", "dev_value", "chosen"]].to_numpy().tolist() == [
        ["0", 0.51, 0.5, False],
        ["1", 0.7, 0.9, True],
        ["2", 0.8, 0.6, False],
    ]


def test_layer_rows_across_domains_show_the_dev_value_of_the_source() -> None:
    rows = layer_rows(frame(*crossing()))
    rows = rows[(rows["train_domain"] == "read") & (rows["test_domain"] == "far")]
    assert list(rows["dev_value"]) == [0.5, 0.9, 0.6] and list(rows["chosen"]) == [
        False,
        True,
        False,
    ]


def test_layers_are_ordered_by_their_index_and_not_by_their_name() -> None:
    rows = layer_rows(frame(*curve([0.5] * 4, [0.5] * 4, "conv 2 10 final")))
    assert list(rows["layer"]) == ["conv", "2", "10", "final"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"task_version": 2},
            r"task digits, corpus spoken-digits, condition clean: task_version differs: 1 "
            r"\(org/a\); 2 \(org/b\)",
        ),
        ({"task_sha256": "e" * 64}, r"task_sha256 differs: aaaaaaaa \(org/a\); eeeeeeee \(org/b\)"),
        (
            {"manifest_sha256": "e" * 64},
            r"manifest_sha256 differs: bbbbbbbb \(org/a\); eeeeeeee \(org/b\)",
        ),
        (
            {"trials_sha256": "e" * 64},
            r"split test: trials_sha256 differs: none \(org/a\); eeeeeeee \(org/b\)",
        ),
        ({"seed": 7}, r"set of seeds differs: 0 \(org/a\); 7 \(org/b\)"),
        (
            {"model": "org/a", "recipe": "e" * 64, "layer": "1"},
            r"model org/a, task digits.*: recipe differs: cccccccc \(org/a\); eeee",
        ),
        (
            {"model": "org/a", "revision": "seed 1", "layer": "1"},
            r"revision differs: 11111111 \(org/a\); seed 1 \(org/a\)",
        ),
    ],
)
def test_a_file_that_contradicts_the_others_is_left_out_by_name(
    changed: dict[str, Any], message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_records(tmp_path / "a.jsonl", [record()])
    write_records(tmp_path / "b.jsonl", [record(**({"model": "org/b"} | changed))])
    os.utime(tmp_path / "b.jsonl", (1, 1))  # among equals the newest file stays
    records = read_records(tmp_path)
    alone = read_records(tmp_path / "a.jsonl")
    pd.testing.assert_frame_equal(comparable(records), comparable(alone))
    assert re.search(message, caplog.text)
    assert f"Left out: {tmp_path / 'b.jsonl'}." in caplog.text
    assert (
        "Run the tasks again for all of these models, or keep the records in separate folders"
        in caplog.text
    )


@pytest.mark.parametrize("table", [summary_rows, layer_rows])
def test_every_table_leaves_out_a_file_that_contradicts_the_others(
    table: Callable[[pd.DataFrame], pd.DataFrame], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_records(tmp_path / "a.jsonl", [record()])
    write_records(tmp_path / "b.jsonl", [record(model="org/b", task_sha256="e" * 64)])
    os.utime(tmp_path / "b.jsonl", (1, 1))
    records = read_records(tmp_path)
    pd.testing.assert_frame_equal(table(records), table(read_records(tmp_path / "a.jsonl")))
    assert f"Left out: {tmp_path / 'b.jsonl'}." in caplog.text


def test_what_most_models_then_most_files_then_the_newest_file_have_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "abc":  # org/c alone is of another manifest, and newest
        write_records(
            tmp_path / f"{name}.jsonl",
            [record(model=f"org/{name}", manifest_sha256=("e" if name == "c" else "b") * 64)],
        )
        os.utime(tmp_path / f"{name}.jsonl", (ord(name), ord(name)))
    assert set(comparable(read_records(tmp_path))["model"]) == {"org/a", "org/b"}
    (tmp_path / "a.jsonl").unlink()
    assert set(comparable(read_records(tmp_path))["model"]) == {"org/c"}
    write_records(tmp_path / "b1.jsonl", [record(model="org/b", seed=1)])
    write_records(tmp_path / "c1.jsonl", [record(model="org/c", seed=1, manifest_sha256="e" * 64)])
    write_records(tmp_path / "b2.jsonl", [record(model="org/b", seed=2)])
    caplog.clear()
    assert set(comparable(read_records(tmp_path))["model"]) == {"org/b"}
    assert f"{tmp_path / 'c.jsonl'}, {tmp_path / 'c1.jsonl'}" in caplog.text


def test_a_score_that_stands_in_two_files_is_shown_from_the_newest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_records(tmp_path / "new.jsonl", [record(value=0.7)])
    write_records(tmp_path / "old.jsonl", [record(value=0.6), record(layer="1", layer_index=1)])
    os.utime(tmp_path / "old.jsonl", (1, 1))
    assert comparable(read_records(tmp_path))["value"].tolist() == [0.7]
    assert (
        f"1 scores appear twice. The newest file stays. Left out: {tmp_path / 'old.jsonl'}."
        in caplog.text
    )
    caplog.clear()
    write_records(tmp_path / "old.jsonl", [record(value=0.6), record(value=0.5)])
    assert comparable(read_records(tmp_path / "old.jsonl"))["value"].tolist() == [0.6]
    assert (
        f"1 scores appear twice in one file, of {tmp_path / 'old.jsonl'}; the first of each "
        f"is shown" in caplog.text
    )


def test_a_folder_that_is_named_twice_is_read_once(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", [record()])
    assert len(read_records(tmp_path, tmp_path / "a.jsonl", tmp_path / ".")) == 1


def test_no_records_are_refused(tmp_path: Path) -> None:
    write_records(tmp_path / "empty.jsonl", [])
    with pytest.raises(ProbeError, match="hold no records"):
        write_tables(read_records(tmp_path), tmp_path / "tables")


def test_what_may_differ_is_not_refused() -> None:
    other = {"task_sha256": "e" * 64, "manifest_sha256": "e" * 64, "recipe": "e" * 64}
    records = frame(
        record(),
        record(task="speaker", **other),
        record(condition="noise-10db", **other),
        record(corpus="strings", **other),
        record(model="org/b", recipe="e" * 64, revision="2" * 40),
        record(split="dev", trials_sha256="e" * 64),
    )
    assert comparable(records) is records


@pytest.mark.parametrize("name", ["table.md", "layers.md", "domains.md"])
def test_markdown_is_as_expected(name: str, tmp_path: Path) -> None:
    write_records(tmp_path / "records.jsonl", crossing() if name == "domains.md" else plain())
    records = read_records(tmp_path)
    found = {
        "table.md": lambda: to_markdown(summary_rows(records), layers=False),
        "layers.md": lambda: to_markdown(layer_rows(records), layers=True),
        "domains.md": lambda: domain_matrices(records),
    }[name]()
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.mkdir(parents=True, exist_ok=True)
        (GOLDEN / name).write_text(found, encoding="utf-8")
    assert found == (GOLDEN / name).read_text(encoding="utf-8")


def test_every_layer_stands_below_its_question() -> None:
    rows = layer_rows(frame(*plain(), *crossing()))
    page = layers_by_question(rows)
    titles = re.findall("^## (.*)$", page, flags=re.MULTILINE)
    assert (
        len(titles)
        == len(set(titles))
        == rows.groupby(["task", "metric", "test_domain", "train_domain"]).ngroups
    )
    assert any(title.endswith("read → far, accuracy ↑") for title in titles)
    assert page.count("\n| org/") + page.count("\n| fbank") + page.count("\n| mfcc") == len(rows)
    assert "| task " not in page and "| metric" not in page and "| train domain" not in page
    assert layers_by_question(rows[:0]) == "No test scores.\n"


def header(records: pd.DataFrame) -> list[str]:
    return [
        cell.strip()
        for cell in to_markdown(summary_rows(records), layers=False)
        .splitlines()[0]
        .strip("|")
        .split("|")
    ]


def test_columns_that_say_nothing_are_left_out() -> None:
    usual = [
        "task",
        "metric ",
        "model",
        "head",
        "layer",
        "% [95 % interval]",
        "last (layer)",
        "final",
        "n",
        "blocks",
    ]
    records = [*curve([0.5] * 3, [0.6] * 3)]
    assert header(frame(*records)) == [name.strip() for name in usual]
    more = frame(
        *records,
        *curve([0.5] * 3, [0.6] * 3, condition="noise-10db", corpus="other", note="so", task="t"),
    )
    assert {"condition", "corpus", "note"} < set(header(more))
    assert {"train domain", "test domain"} < set(header(frame(*crossing())))


def bold(*records: Record) -> list[bool]:
    return [
        "**" in line
        for line in to_markdown(summary_rows(frame(*records)), layers=False).splitlines()[2:]
        if line.startswith("|")
    ]


def test_the_best_of_several_models_is_bold_and_one_alone_is_not() -> None:
    a, b = scored(BAD), scored(GOOD, model="org/b")
    assert bold(*a) == [False]
    assert bold(*a, *b) == [False, True]
    lower: dict[str, Any] = {"metric": "wer", "select_by": "wer", "higher_is_better": False}
    assert bold(*(replace(item, **lower) for item in [*a, *b])) == [True, False]
    missing = curve([None], [None], "0", model="org/b")
    assert bold(*a, *missing) == [False, False]


def test_values_that_print_alike_are_both_bold() -> None:
    models = [scored(hits, model=model) for model, hits in (("a", GOOD), ("b", GOOD[::-1]))]
    assert bold(*(item for of_model in models for item in of_model)) == [True, True]


def test_names_cannot_break_a_table() -> None:
    name = "a|b\\\n| <b>*`c\x1b[31m\u2028d"
    records = frame(
        *curve(
            [0.5], [0.6], "0", model=name, task=name, note=name, train_domain=name, test_domain=name
        )
    )
    tables = [
        to_markdown(summary_rows(records), layers=False),
        to_markdown(layer_rows(records), layers=True),
        "\n".join(line for line in domain_matrices(records).split("\n") if line.startswith("|"))
        + "\n",
    ]
    for table in tables:
        lines = table.split("\n")[:-1]
        assert len(lines) == 3 and "\x1b" not in table and "\u2028" not in table
        bars = [line.replace("\\\\", "").replace("\\|", "").count("|") for line in lines]
        assert bars == [bars[0]] * 3
        assert "a\\|b\\\\ \\| \\<b>\\*\\`c [31m d" in table


def test_lines_of_a_table_are_equally_long() -> None:
    for rows, layers in (
        (summary_rows(frame(*plain())), False),
        (layer_rows(frame(*plain())), True),
    ):
        assert (
            len(
                {
                    len(line)
                    for line in to_markdown(rows, layers).splitlines()
                    if line.startswith("|")
                }
            )
            == 1
        )


def test_no_test_scores_make_a_sentence_and_no_table() -> None:
    assert (
        to_markdown(summary_rows(frame(record(split="dev"))), layers=False) == "No test scores.\n"
    )


def test_json_holds_fractions_and_null() -> None:
    rows = json.loads(
        to_json(summary_rows(frame(*plain(), *curve([None], [None], "0", model="org/z"))))
    )
    found = {(row["task"], row["metric"], row["model"]): row for row in rows}
    assert (
        found["digits", "accuracy", "org/a"]
        | {"task": "digits", "layer": "1", "value": 0.74, "n": 200}
        == found["digits", "accuracy", "org/a"]
    )
    empty = found["digits", "accuracy", "org/z"]
    assert (empty["layer"], empty["value"], empty["low"], empty["n"]) == (None, None, None, 200)
    assert "NaN" not in to_json(layer_rows(frame(*plain())))


def test_csv_holds_the_fractions_of_the_records() -> None:
    rows = pd.read_csv(io.StringIO(to_csv(layer_rows(frame(*plain())))), dtype={"layer": str})
    values = {
        (item.task, item.metric, item.model, item.layer): item.value
        for item in plain()
        if item.split == "test"
    }
    assert {
        (row.task, row.metric, row.model, row.layer): row.value for row in rows.itertuples()
    } == pytest.approx(values, rel=1e-9)


def test_the_last_digits_of_a_float_do_not_reach_csv_and_json() -> None:
    rows = [pd.DataFrame({"value": [value, np.nan], "n": [3, 4]}) for value in (0.1 + 0.2, 0.3)]
    assert to_csv(rows[0]) == to_csv(rows[1]) == "value,n\n0.3,3\n,4\n"
    assert to_json(rows[0]) == to_json(rows[1])


def with_shape(**changed: Any) -> list[Record]:
    shape = {
        "rms": 0.123456,
        "effective_rank": 9.71,
        "anisotropy": 0.4567,
        "outlier_dims": 0.00651,
        "projected_variance": 0.9,
    }
    return [
        replace(item, depth=item.layer_index / 2, statistics=shape)
        for item in curve([0.5] * 3, [0.6] * 3, **changed)
    ]


def test_a_layers_statistics_stand_beside_its_score_where_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # so that nothing is drawn
    names = ["depth", "rms", "effective_rank", "anisotropy", "outlier_dims"]
    write_records(tmp_path / "a.jsonl", [*with_shape(), *curve([0.2], [0.25], "0", model="fbank")])
    rows = layer_rows(read_records(tmp_path))
    assert rows[rows["layer"] == "1"][names].to_numpy().tolist() == [
        [0.5, 0.123456, 9.71, 0.4567, 0.00651]
    ]
    assert rows[rows["model"] == "fbank"][names].isna().all(axis=None)
    found = pd.read_csv(io.StringIO(to_csv(rows)))
    pd.testing.assert_frame_equal(found[names], rows[names], check_column_type=False)
    assert {name: json.loads(to_json(rows))[0][name] for name in names} == dict.fromkeys(names)
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in to_markdown(rows, layers=True).splitlines()
    ]
    start = lines[0].index("depth")
    assert lines[0][start : start + 5] == ["depth", "rms", "rank", "anisotropy", "outliers %"]
    assert [line[start : start + 5] for line in lines[2:4]] == [
        ["–"] * 5,
        ["0.00", "0.123", "10", "0.46", "0.7"],
    ]
    assert "anisotropy" not in to_markdown(layer_rows(frame(*plain())), layers=True)
    for records, explained in ((frame(*with_shape()), True), (frame(*plain()), False)):
        write_tables(records, tmp_path / "tables")
        assert (
            "mean cosine" in (tmp_path / "tables" / "layers.md").read_text(encoding="utf-8")
        ) == explained


def test_outlier_dimensions_are_shown_on_request_alone(tmp_path: Path) -> None:
    scores = Scores.of(frame(*with_shape()))
    for all_measures in (False, True):
        write_tables(scores, tmp_path, all_measures=all_measures)
        of_files = ["layers.md", "layers.csv"]
        texts = [(tmp_path / name).read_text(encoding="utf-8") for name in of_files]
        forms = ("md", "latex", "csv", "json")
        texts += [files.scores(scores, form, True, all_measures=all_measures) for form in forms]
        for text in texts:
            assert "anisotropy" in text and ("outlier" in text) == all_measures


def test_the_gap_is_positive_where_an_error_rises_out_of_domain() -> None:
    error: dict[str, Any] = {
        "metric": "wer",
        "select_by": "wer",
        "higher_is_better": False,
        "train_domain": "x",
    }
    records = frame(
        *curve([0.1], [0.1], "0", test_domain="x", **error),
        *curve([0.0], [0.25], "0", test_domain="y", **error),
    )
    assert "25.0 (+15.0)" in domain_matrices(records)


def test_there_is_no_gap_without_the_score_at_home() -> None:
    records = [
        item for item in crossing() if item.split == "dev" or item.test_domain != item.train_domain
    ]
    assert "60.0 " in domain_matrices(frame(*records)) and "(+" not in domain_matrices(
        frame(*records)
    )


def test_the_order_of_records_does_not_matter() -> None:
    records = [*plain(), *crossing()]
    for table in (summary_rows, layer_rows, domain_matrices):
        assert str(table(frame(*records))) == str(table(frame(*records[::-1])))


def test_written_tables_are_named_and_those_of_another_run_are_gone(tmp_path: Path) -> None:
    write_records(tmp_path / "results" / "a.jsonl", [*plain(), *crossing()])
    names = [
        "table.md",
        "table.csv",
        "layers.md",
        "layers.csv",
        "domains.md",
        "curves.png",
        "curves.svg",
    ]
    names += ["robustness.md", "robustness_gaps.csv"]
    paths = write_tables(read_records(tmp_path / "results"), tmp_path / "tables")
    assert [path.name for path in paths] == names and all(path.stat().st_size for path in paths)
    nothing = [
        *curve([None] * 3, [None] * 3),
        *curve([0.5] * 3, [0.5] * 3, head="mdl", headline=False),
    ]
    write_records(tmp_path / "results" / "a.jsonl", nothing)
    assert [
        path.name for path in write_tables(read_records(tmp_path / "results"), tmp_path / "tables")
    ] == names[:4]
    assert {path.name for path in (tmp_path / "tables").iterdir()} == set(names[:4])


def test_tables_are_a_function_of_the_records_on_disk(tmp_path: Path) -> None:
    records = [*plain(), *crossing()]
    write_records(tmp_path / "a.jsonl", records)
    pd.testing.assert_frame_equal(
        summary_rows(read_records(tmp_path)), summary_rows(frame(*records))
    )


def test_a_weighted_sum_is_shown_beside_the_chosen_layer_even_where_it_is_better_on_dev() -> None:
    records = [
        *curve([0.5, 0.7, 0.6], [0.5, 0.7, 0.6]),
        *curve([0.9], [0.8], "weighted", final_layer="2"),
    ]
    row = only(summary_rows(frame(*records)))
    assert (row["layer"], row["value"], row["weighted_value"]) == ("1", 0.7, 0.8)


def scored(hits: Sequence[int], **changed: Any) -> list[Record]:
    """Dev and test records of one layer, scored on 20 utterances of each of several speakers."""
    counts = {
        "block": [f"{i:012x}" for i in range(len(hits))],
        "numerator": list(hits),
        "denominator": [20] * len(hits),
    }
    value = sum(hits) / (20 * len(hits))
    about: dict[str, Any] = {
        "value": value,
        "low": value - 0.1,
        "high": value + 0.1,
        "n": 20 * len(hits),
        "n_blocks": len(hits),
    }
    return [
        record(split="dev", **(about | changed)),
        record(split="test", counts=counts, **(about | changed)),
    ]


GOOD = [18, 17, 19, 18, 16, 19, 17, 18, 19, 17, 18, 18]
AS_GOOD = [18, 18, 18, 17, 17, 19, 18, 17, 18, 17, 18, 18]
BAD = [12, 11, 14, 12, 10, 13, 12, 12, 15, 11, 12, 13]


def marks_of(*records: Record) -> dict[str, str]:
    rows = summary_rows(frame(*records))
    return dict(zip(rows["model"], rows["mark"], strict=True))


def test_models_that_may_be_the_best_are_in_the_set() -> None:
    records = [
        *scored(GOOD, model="good"),
        *scored(AS_GOOD, model="as good"),
        *scored(BAD, model="bad"),
    ]
    assert marks_of(*records) == {"good": "best", "as good": "in set", "bad": ""}
    errors = [
        replace(item, higher_is_better=False, metric="wer", select_by="wer") for item in records
    ]
    assert marks_of(*errors) == {"good": "", "as good": "", "bad": "best"}


def test_models_that_cannot_be_tested_have_no_mark_and_are_not_called_best() -> None:
    few = [*scored(GOOD[:5], model="good"), *scored(BAD[:5], model="bad")]
    costs = [
        item
        for model in ("good", "bad")
        for item in verified(model=model, metric="min_cllr", select_by="min_cllr")
    ]
    for records in (few, costs):
        assert marks_of(*records) == {"good": "not tested", "bad": "not tested"}
        text = to_markdown(summary_rows(frame(*records)), layers=False)
        assert "**" not in text and "<ins>" not in text
        assert text.count("| not tested") == 2 and "* not tested, so none is called best" in text
    assert "**" in to_markdown(
        summary_rows(frame(*scored(GOOD[:6], model="a"), *scored(BAD[:6], model="b"))), False
    )


def test_a_model_that_was_scored_on_other_utterances_is_not_compared_and_a_note_says_so() -> None:
    records = [
        *scored(BAD[:-1], model="fewer"),
        *scored(AS_GOOD, model="as good"),
        *scored(BAD, model="bad"),
    ]
    assert marks_of(*records) == {"fewer": "", "as good": "best", "bad": ""}
    rows = summary_rows(frame(*records)).set_index("model")
    assert (
        rows.loc["fewer", "note"] == "scored on other utterances than the rest, so not compared"
        and not rows.loc["bad", "note"]
    )


def test_nothing_is_best_where_a_score_on_other_utterances_is_better() -> None:
    records = [
        *scored(GOOD[:-1], model="fewer"),
        *scored(BAD, model="bad"),
        *scored(BAD, model="as bad"),
    ]
    assert marks_of(*records) == {"fewer": "", "bad": "", "as bad": ""}
    notes = summary_rows(frame(*records)).set_index("model")["note"]
    assert notes["fewer"].startswith("scored on other utterances")
    assert (
        notes["bad"] == notes["as bad"] == "not called best: a score on other utterances is better"
    )
    errors = [
        replace(item, higher_is_better=False, metric="wer", select_by="wer") for item in records
    ]
    assert marks_of(*errors) == {"fewer": "", "bad": "best", "as bad": "best"}


def test_nothing_is_best_where_no_two_models_were_scored_on_the_same_utterances() -> None:
    often = [
        replace(item, counts={**item.counts, "denominator": [40] * 12})
        for item in scored(BAD, model="often")
    ]
    records = [*often, *scored(GOOD, model="good")]
    assert marks_of(*records) == {"often": "", "good": ""}
    assert set(summary_rows(frame(*records))["note"]) == {
        "scored on other utterances than the rest, so not compared"
    }


def controlled(hits: Sequence[int], control: Sequence[int], **changed: Any) -> list[Record]:
    """As `scored`, with a control of shuffled labels."""
    return [*scored(hits, **changed), scored(control, control="shuffled", **changed)[1]]


def test_nothing_is_marked_where_no_model_is_better_than_its_control() -> None:
    shuffled = [hits + 1 for hits in BAD]
    low = [*controlled(BAD, shuffled, model="a"), *controlled(AS_GOOD, GOOD, model="b")]
    rows = summary_rows(frame(*low))
    assert set(rows["mark"]) == {""} and set(rows["chance"]) == {"at chance"}
    high = [*controlled(BAD, shuffled, model="a"), *controlled(GOOD, BAD, model="b")]
    rows = summary_rows(frame(*high))
    assert list(rows["mark"]) == ["", "best"] and list(rows["chance"]) == ["at chance", ""]
    assert set(summary_rows(frame(*scored(GOOD)))["chance"]) == {"unknown"}


def test_nothing_is_marked_where_error_rates_reach_the_metrics_chance_level() -> None:
    records = [*scored([20, 19, 21] * 4, model="a"), *scored([19, 20, 21] * 4, model="b")]
    errors = [
        replace(item, higher_is_better=False, metric="wer", select_by="wer") for item in records
    ]
    assert marks_of(*errors) == {"a": "", "b": ""}


def test_layers_at_chance_are_not_marked() -> None:
    records = [
        item
        for layer, hits in enumerate((BAD, BAD[::-1]))
        for item in controlled(hits, BAD, layer=str(layer), layer_index=layer)
    ]
    rows = layer_rows(frame(*records))
    assert set(rows["mark"]) == {""} and set(rows["chance"]) == {"at chance"}


def test_one_model_alone_and_own_heads_have_no_mark() -> None:
    assert marks_of(*scored(GOOD)) == {"org/a": ""}
    assert marks_of(*scored(BAD), *scored(GOOD, model="org/b", head="own-ctc")) == {
        "org/a": "",
        "org/b": "",
    }


def test_layers_are_marked_within_their_model() -> None:
    hits = {
        ("org/a", "0"): BAD,
        ("org/a", "1"): GOOD,
        ("org/a", "2"): AS_GOOD,
        ("org/b", "0"): BAD,
        ("org/b", "1"): BAD,
    }
    records = [
        item
        for (model, layer), of_layer in hits.items()
        for item in scored(of_layer, model=model, layer=layer, layer_index=int(layer))
    ]
    rows = layer_rows(frame(*records, *scored([20] * 12, layer="weighted", layer_index=9)))
    found = {(row["model"], row["layer"]): row["mark"] for row in rows.to_dict("records")}
    assert [found[place] for place in hits] == ["", "best", "in set", "best", "best"] and found[
        "org/a", "weighted"
    ] == ""


def test_few_blocks_are_marked_in_rows_and_below_the_table() -> None:
    few, enough = summary_rows(frame(*scored(GOOD))), summary_rows(frame(*scored(GOOD * 2)))
    assert (list(few["few"]), list(enough["few"])) == ([True], [False])
    assert "]† |" in to_markdown(few, layers=False) and "fewer than 20 blocks" in to_markdown(
        few, layers=False
    )
    assert "†" not in to_markdown(enough, layers=False)


def test_scores_without_an_interval_have_a_footnote_of_their_own() -> None:
    bare = to_markdown(summary_rows(frame(*scored(GOOD[:3], low=None, high=None))), layers=False)
    assert " † |" in bare and "fewer than 20 blocks" not in bare
    assert "† without an interval: fewer than 6 blocks (such as speakers) in test" in bare
    assert "without an interval" not in to_markdown(
        summary_rows(frame(*scored(GOOD))), layers=False
    )


def test_the_head_of_scores_names_their_unit() -> None:
    shares = scored(GOOD)
    codes = [
        replace(item, metric="codelength", higher_is_better=False, low=None, high=None)
        for item in shares
    ]
    assert "% [95 % interval]" in header(frame(*shares))
    both = summary_rows(frame(*shares, *codes))
    text = to_markdown(both, layers=False)
    assert "score [95 % interval]" in text and "% [95 % interval]" not in text
    assert "* codelengths are in bits per label, all else in percent\n" in text
    alone = to_markdown(both[both["metric"] == "codelength"], layers=False)
    assert "bits per label" in alone and "interval]" not in alone


def test_speakers_of_training_are_not_counted_as_few_speakers_of_a_codelength() -> None:
    records = [replace(item, metric="codelength") for item in scored(GOOD[:4])]
    assert not summary_rows(frame(*records))["few"].any()


def test_a_score_without_an_interval_says_that_blocks_are_too_few() -> None:
    row = only(summary_rows(frame(*scored(GOOD[:3], low=None, high=None))))
    assert row["note"] == "too few blocks for an interval"


def test_seeds_are_one_row_with_their_mean_and_the_layer_that_is_best_on_average() -> None:
    first = [*scored(GOOD), *scored(BAD, layer="1", layer_index=1)]
    second = [
        *scored(AS_GOOD, seed=1),
        *scored([hits + 1 for hits in GOOD], layer="1", layer_index=1, seed=1),
    ]
    row = only(summary_rows(frame(*first, *second)))
    assert (row["layer"], row["n_seeds"]) == ("0", 2)
    assert row["value"] == pytest.approx((sum(GOOD) + sum(AS_GOOD)) / 480)
    assert row["low"] < row["value"] < row["high"]
    shares = np.array([sum(GOOD), sum(AS_GOOD)]) / 240
    assert row["seed_sd"] == pytest.approx(shares.std(ddof=1))
    assert "seeds" in header(frame(*first, *second)) and "seeds" not in header(frame(*first))
    wide = only(summary_rows(frame(*scored(GOOD), *scored(BAD, seed=1))))
    assert wide["high"] - wide["low"] > 3 * (row["high"] - row["low"])


def test_one_seed_of_a_head_that_is_trained_by_gradient_is_marked() -> None:
    rows = summary_rows(frame(*scored(GOOD, head="ctc-linear")))
    assert "one seed" in to_markdown(rows, layers=False)
    assert seed_notes(rows) == [
        "one seed of ctc-linear: another seed gives another score; see --seeds"
    ]
    convex = summary_rows(frame(*scored(GOOD)))
    assert "one seed" not in to_markdown(convex, layers=False) and not seed_notes(convex)


def test_a_model_without_one_of_the_seeds_is_named_and_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    records = [*scored(GOOD), *scored(GOOD, seed=1), *scored(BAD, model="org/b")]
    assert set(summary_rows(frame(*records))["model"]) == {"org/a"}
    assert re.search(
        r"set of seeds differs: 0 \(org/b\); 0, 1 \(org/a\).*Left out: the records of org/b",
        caplog.text,
    )


def test_a_layer_without_one_of_the_seeds_is_named_and_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    records = [*scored(GOOD), *scored(GOOD, seed=1), *scored(BAD, layer="1", layer_index=1)]
    assert set(layer_rows(frame(*records))["layer"]) == {"0"}
    assert (
        "do not exist for every seed and are left out: org/a, digits, clean, layer 1, dev: "
        "only seed 0" in caplog.text
    )


def test_seeds_that_were_scored_on_other_utterances_have_no_interval() -> None:
    row = only(summary_rows(frame(*scored(GOOD), *scored(GOOD[:-1], seed=1))))
    assert (
        pd.isna(row["low"])
        and row["note"] == "the seeds were scored on different utterances, so no interval"
    )


def test_a_value_that_one_seed_lacks_is_missing() -> None:
    lacking = [
        replace(item, value=None, counts={}, low=None, high=None, note="no class")
        for item in scored(GOOD, seed=1)
    ]
    rows = layer_rows(frame(*scored(GOOD), *lacking))
    assert rows["value"].isna().all() and list(rows["note"]) == ["no class"]
    of_gradient = rows.assign(head="ctc-linear")
    assert list(of_gradient["n_seeds"]) == [2]
    assert "one seed" not in to_markdown(of_gradient, layers=True)
