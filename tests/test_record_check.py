"""Checking records: sound ones are let through, each thing that is wrong is found at its place, the
page says what is checked.
"""

import gzip
import hashlib
import json
import math
import os
import random
import re
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin

import numpy as np
import pytest
from click.testing import CliRunner
from scored import HOSTILE, layers, scored, verified, with_counts

from probe.cli import cli
from probe.errors import ProbeError
from probe.evaluation.kinds.registry import kinds
from probe.measures.counts import amount_counts, scored_trials, trial_counts, value_of
from probe.measures.metrics import METRICS
from probe.record_check import VALUES, check_records, contents
from probe.records import WEIGHTED, Record, outcomes_path, read_records, write_records

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
FIELDS_PAGE = (ROOT / "docs" / "record-fields.md").read_text(encoding="utf-8")
LINES = 6


def type_name(kind: Any) -> str:
    """A field's type as docs/record-fields.md writes it, in the words of JSON."""
    arguments = get_args(kind)
    if isinstance(kind, types.UnionType):
        return " or ".join(map(type_name, arguments))
    if get_origin(kind) is list:
        return f"list of {type_name(arguments[0])}"
    if get_origin(kind) is dict:
        return "object" if arguments[1] is Any else f"object of {type_name(arguments[1])}"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return "null" if kind is type(None) else names[kind]


def sound() -> list[Record]:
    return layers(test=[5, 7, 6], dev=[5, 7, 6])


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The lines of `sound`."""
    path = tmp_path_factory.mktemp("sound") / "a.jsonl"
    write_records(path, sound())
    return path.read_bytes()


def found(path: Path) -> list[tuple[int, str, str, str]]:
    n_lines, findings = check_records([path])
    assert n_lines
    return [(item.line, item.field, item.found, item.expected) for item in findings]


def changed(path: Path, line: int, change: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrites a line of a file of records by hand."""
    lines = [json.loads(text) for text in path.read_bytes().splitlines()]
    change(lines[line - 1])
    path.write_text("".join(json.dumps(item) + "\n" for item in lines), encoding="utf-8")


def test_sound_records_have_no_finding(tmp_path: Path) -> None:
    codelength = with_counts(
        amount_counts(["a", "a", "b", "c"], [1.5, 2.25, 0.5, 3.0]),
        split="train",
        metric="codelength",
        higher_is_better=False,
        curve=[{"n": 4, "n_train": 0, "bits": 7.25}],
    )
    weighted = [
        replace(record, layer=WEIGHTED, layer_weights={"0": 0.25, "1": 0.75})
        for record in sound()[:2]
    ]
    write_records(tmp_path / "a.jsonl", [*sound(), codelength, *weighted])
    write_records(tmp_path / "b.jsonl", verified())
    missing = scored(
        [5, 5], value=None, low=None, high=None, note="no class in both domains", n_blocks=0
    )
    write_records(tmp_path / "c.jsonl", [replace(missing, counts={}, task="other")])
    assert check_records([tmp_path]) == (12, [])


WRONG: list[tuple[str, object, str, str]] = [
    ("model", "", "model", "not empty"),
    ("model", 7, "model", "text"),
    ("layer_index", -2, "layer_index", "-1 or more"),
    ("layer_index", 1.0, "layer_index", "whole number"),
    ("layer_index", True, "layer_index", "whole number"),
    ("depth", 1.5, "depth", "null or 0 to 1"),
    ("depth", "1", "depth", "a number"),
    ("task_version", 0, "task_version", "1 or more"),
    ("kind", "", "kind", "not empty"),
    ("control", "nothing", "control", "one of (empty), majority"),
    ("n_train", -1, "n_train", "0 or more"),
    ("split", "train", "split", "train for codelengths"),
    ("split", "all", "split", "one of dev, test, train"),
    ("seed", -1, "seed", "0 or more"),
    ("seed", 1, "seed", "0, as in the file's first line"),
    ("metric", "f1", "metric", "one of accuracy"),
    ("metric", "eer", "higher_is_better", "False for eer"),
    ("metric", "eer", "counts", "trials for eer"),
    ("value", 1.5, "value", "0 to 1 for accuracy"),
    ("value", -0.1, "value", "0 to 1 for accuracy"),
    ("value", 0.01, "value", "within its interval"),
    ("value", 0.6667, "value", "by the counts"),
    ("value", float("nan"), "value", "a finite number"),
    ("value", None, "note", "why there is no value"),
    ("low", None, "low, high", "both or neither"),
    ("high", float("inf"), "high", "a finite number"),
    ("n", 119, "n", "120, by the counts"),
    ("n_blocks", 11, "n_blocks", "12, the number of blocks"),
    ("groups", {"sex": ["f"]}, "groups", "a value for each of 12 blocks"),
    ("groups", {"sex": "f"}, "groups.sex", "a list"),
    ("counts", {}, "counts", "block, denominator, numerator"),
    (
        "counts",
        {"block": ["0" * 12], "numerator": [1.5], "denominator": [2]},
        "counts",
        "whole numbers",
    ),
    ("counts", {"block": ["0" * 12], "numerator": [-1], "denominator": [2]}, "counts", "0 or more"),
    (
        "counts",
        {"block": ["0" * 12], "numerator": [1, 1], "denominator": [2]},
        "counts",
        "one entry a block",
    ),
    (
        "counts",
        {"block": ["0" * 12], "numerator": [3], "denominator": [2]},
        "counts",
        "at most the denominators",
    ),
    (
        "counts",
        {"block": ["0" * 12], "numerator": [0], "denominator": [0]},
        "counts",
        "what has a value",
    ),
    (
        "counts",
        {"block": ["0" * 12], "numerator": [1], "denominator": [10**30]},
        "counts",
        "whole numbers",
    ),
    (
        "counts",
        {"block": ["anna"], "numerator": [1], "denominator": [2]},
        "counts",
        "12 hex digits",
    ),
    (
        "counts",
        {"block": ["1" * 12, "0" * 12], "numerator": [1, 1], "denominator": [2, 2]},
        "counts",
        "in order",
    ),
    ("counts", {"block": [], "rank": 3}, "line", "its counts cannot be read"),
    ("higher_is_better", False, "higher_is_better", "True for accuracy"),
    ("higher_is_better", 1, "higher_is_better", "true or false"),
    ("select_by", "loss", "select_by", "one of accuracy"),
    ("chosen", {"l2": 3.0}, "chosen", "an entry of the search"),
    ("chosen", {"l2": 0.01}, "chosen", "the best of the search, 0.6"),
    ("search", ["l2"], "search[0]", "an object"),
    ("layer_weights", {"0": 1.0}, "layer_weights", "shares where the layer is weighted"),
    ("curve", [{"n": 1}], "curve", "nothing but for a codelength"),
    ("excluded", {"too short": -1}, "excluded", "counts of 0 or more"),
    ("recipe", "c" * 63, "recipe", "64 hex digits"),
    ("recipe", "C" * 64, "recipe", "64 hex digits"),
    ("recipe", "d" * 64, "recipe", "as in the file's first line"),
    ("task_sha256", "", "task_sha256", "64 hex digits"),
    ("manifest_sha256", "../x", "manifest_sha256", "64 hex digits"),
    ("trials_sha256", "abc", "trials_sha256", "empty or 64 hex digits"),
    ("code", {"version": "1"}, "code", "version and commit"),
    ("packages", {"torch": 2}, "packages.torch", "text"),
    ("seconds", -0.1, "seconds", "0 or more"),
    (
        "format",
        2,
        "line",
        "record format 2; this version reads 4. Run its task again: format 2 has no condition "
        "of training",
    ),
    ("format", 1, "line", "format 1 has no controls"),
    ("format", 99, "line", "record format 99"),
    ("extra", 1, "line", "fields ['extra'] missing or unknown"),
    ("task", "other", "task", "digits, as in the file's first line"),
    ("layer", "1", "line", "each once; the first is"),
    ("layer", "9", "split", "a dev score of accuracy in the same file"),
]


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"), WRONG, ids=lambda value: str(value)[:20]
)
def test_what_is_wrong_is_found_at_its_line_and_field(
    tmp_path: Path, lines: bytes, name: str, value: object, field: str, expected: str
) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines)
    changed(tmp_path / "a.jsonl", LINES, lambda line: line.update({name: value}))
    told = found(tmp_path)
    assert any(
        line == LINES and at == field and expected in should for line, at, _, should in told
    ), told
    assert {line for line, *_ in told} == {LINES}


@pytest.mark.parametrize(
    ("column", "position", "value", "expected"),
    [
        ("enroll", 0, 6, "0 or more, below 6"),
        ("test", 0, -1, "0 or more, below 6"),
        ("target", 0, 2, "0 or more, below 2"),
        ("rank", 0, 99, "dense ranks"),
        ("rank", 0, -1, "0 or more"),
    ],
)
def test_trials_that_are_malformed_are_found(
    tmp_path: Path, column: str, position: int, value: int, expected: str
) -> None:
    records = verified()
    counts = {name: list(values) for name, values in records[1].counts.items()}
    counts[column][position] = value
    write_records(tmp_path / "a.jsonl", [records[0], replace(records[1], counts=counts)])
    assert [(line, field) for line, field, _, should in found(tmp_path) if expected in should] == [
        (2, "counts")
    ]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, ""),
        ({"score": slice(1, None)}, "finite scores, one a rank, none below the last"),
        ({"score": -1.0}, "none below the last"),
        ({"score": math.nan}, "finite scores"),
        ({"calibration": [1.0]}, "a slope and an offset"),
        ({"calibration": [1, 0.5]}, "a slope and an offset"),
        ({"calibration": [-1.0, 0.5]}, "a slope of 0 or more"),
        ({"calibration": [3.0, 0.5]}, "by the counts"),
    ],
)
def test_scores_and_their_calibration_are_checked(
    tmp_path: Path, changed: dict[str, Any], expected: str
) -> None:
    records = []
    for record in verified():
        ranks = np.asarray(record.counts["rank"], np.float64)
        counts = scored_trials(record.counts, ranks, (0.5, -1.0))
        value = value_of(counts, "cllr")
        about = {"metric": "cllr", "select_by": "cllr", "low": None, "high": None, "value": value}
        records.append(replace(record, counts=counts, **about))
    edit, score = changed.get("score", slice(None)), records[1].counts["score"]
    score = score[edit] if isinstance(edit, slice) else [*score[:-1], edit]
    counts = records[1].counts | changed | {"score": score}
    write_records(tmp_path / "a.jsonl", [records[0], replace(records[1], counts=counts)])
    findings = found(tmp_path)
    assert len(findings) == bool(changed)
    assert all(expected in should for *_, should in findings)


def test_exchanged_ranks_do_not_give_the_value(tmp_path: Path) -> None:
    records = verified()
    counts = {**records[1].counts, "rank": records[1].counts["rank"][::-1]}
    write_records(tmp_path / "a.jsonl", [records[0], replace(records[1], counts=counts)])
    assert [item[:2] for item in found(tmp_path)] == [(2, "value")]


def test_a_score_in_two_files_is_named_with_the_first(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", sound())
    write_records(tmp_path / "b.jsonl", sound())
    told = found(tmp_path)
    assert [item[:2] for item in told] == [(line, "line") for line in range(1, LINES + 1)]
    assert f"the first is {tmp_path / 'a.jsonl'}:1" in told[0][3]


def test_a_training_has_one_dev_score_under_all_conditions(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", sound())
    write_records(
        tmp_path / "b.jsonl", layers(test=[3, 3, 3], dev=[5, 7, 6], condition="telephone")
    )
    assert found(tmp_path) == []
    write_records(
        tmp_path / "b.jsonl", layers(test=[3, 3, 3], dev=[5, 7, 5], condition="telephone")
    )
    ((line, field, _, expected),) = found(tmp_path)
    assert (line, field) == (5, "value") and "one dev score under all conditions" in expected


def test_dev_and_test_of_one_training_have_one_choice(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", sound())
    changed(tmp_path / "a.jsonl", 2, lambda line: line.update(chosen={}))
    ((line, field, _, expected),) = found(tmp_path)
    assert (line, field) == (2, "chosen") and "one training has one choice" in expected


def test_lines_that_are_no_records_are_found_and_the_rest_is_still_read(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", sound())
    good = (tmp_path / "a.jsonl").read_bytes().splitlines()
    half = good[1].replace(b'"note":""', b'"note":"\\ud800"')
    bad = [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, half]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*good, *bad]) + b"\n")
    told = found(tmp_path)
    assert [item[:2] for item in told] == [(LINES + 1 + i, "line") for i in range(len(bad))]


def test_no_mutation_of_a_line_ends_in_a_traceback(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", [*sound()[:2]])
    write_records(tmp_path / "b.jsonl", verified())
    draw = random.Random(0)
    odd = [None, True, -1, 0, 1e308, "", "x", [], {}, [1], {"a": 1}, [[]], 10**400]
    n_found = 0
    for _ in range(100):
        file = tmp_path / draw.choice("ab")
        lines = [
            json.loads(line)
            for line in file.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for _ in range(draw.randint(1, 3)):
            line = draw.choice(lines)
            inside = draw.choice(
                [
                    line,
                    line["counts"] if isinstance(line["counts"], dict) and line["counts"] else line,
                ]
            )
            inside[draw.choice(sorted(inside))] = draw.choice(odd)
        (tmp_path / "mutated.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
        )
        n_found += len(check_records([tmp_path / "mutated.jsonl"])[1]) > 0
    assert n_found > 70


def test_the_page_has_every_field_with_its_type_and_what_it_must_be() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| ([^|]*) \| ([^|]*) \| ([^|]+) \|$", FIELDS_PAGE, flags=re.MULTILINE
    )
    expected = [
        (item.name, type_name(item.type), VALUES.get(item.name, ("",))[0])
        for item in fields(Record)
    ]
    assert [(name, kind, must.strip()) for name, kind, must, _ in rows] == expected
    assert all(meaning.strip() for *_, meaning in rows)
    assert all(
        item.default is not MISSING
        or item.default_factory is not MISSING
        or item.name in FIELDS_PAGE
        for item in fields(Record)
    )


def test_columns_that_repeat_one_of_the_same_line_are_read_in_any_process(tmp_path: Path) -> None:
    """Trials of utterances have equal ends; sets of names have another order in each process."""
    names = [f"s{i}" for i in range(12)]
    counts = trial_counts(names, names, [i % 2 for i in range(12)], list(range(12)))
    about = {"metric": "auc", "select_by": "auc", "n": 12, "n_blocks": 12}
    write_records(tmp_path / "a.jsonl", [with_counts(counts, **about)])
    code = (
        "import sys; from probe.records import read_records; print(len(read_records(sys.argv[1])))"
    )
    for seed in ("1", "2", "3"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "a.jsonl")],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "1\n"


def test_the_page_names_every_metric_and_the_check_knows_what_tasks_write() -> None:
    assert set(METRICS) >= {metric for kind in kinds().values() for metric in kind.metrics}
    assert all(f"`{metric}`" in PAGE for metric in METRICS)


def test_the_command_reports_places_and_ends_with_1(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", sound())
    done = CliRunner().invoke(cli, ["records", str(tmp_path), "--check"])
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "6 records, 0 findings\n")
    changed(tmp_path / "a.jsonl", 4, lambda line: line.update(n=7))
    done = CliRunner().invoke(cli, ["records", str(tmp_path / "a.jsonl"), "--check"])
    assert done.exit_code == 1
    assert done.stdout == f"{tmp_path / 'a.jsonl'}:4: n: found 7; expected 120, by the counts\n"
    done = CliRunner().invoke(cli, ["records", str(tmp_path), "--check", "--format", "json"])
    assert done.exit_code == 1
    assert [item["line"] for item in json.loads(done.stdout)] == [4]


def test_the_command_lists_what_is_there(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", sound())
    write_records(tmp_path / "b.jsonl", verified())
    listed = contents([tmp_path])
    assert [
        (item["task"], item["records"], item["layers"], item["metrics"]) for item in listed
    ] == [("digits", 6, 3, "accuracy"), ("verify", 2, 1, "eer")]
    done = CliRunner().invoke(cli, ["records", str(tmp_path)])
    assert done.exit_code == 0 and len(done.stdout.splitlines()) == 3
    assert "2 files, 8 records, 1 model, 2 tasks" in done.stderr
    assert (
        json.loads(CliRunner().invoke(cli, ["records", str(tmp_path), "--format", "json"]).stdout)
        == listed
    )


def test_outcomes_that_are_not_those_of_the_records_are_found(tmp_path: Path) -> None:
    path, outcomes = tmp_path / "a.jsonl", b'{"key": "a"}\n'
    digest = hashlib.sha256(outcomes).hexdigest()
    write_records(path, [replace(item, outcomes_sha256=digest) for item in sound()], outcomes)
    assert check_records([tmp_path]) == (LINES, [])
    outcomes_path(path).write_bytes(b"another run's")
    ((line, field, _, _),) = found(path)
    assert (line, field) == (1, "outcomes_sha256")
    done = CliRunner().invoke(cli, ["records", str(tmp_path), "--check"])
    assert (
        done.exit_code == 1
        and "but outcomes/a.jsonl is damaged or belongs to other records" in done.stdout
    )
    outcomes_path(path).unlink()
    assert "but outcomes/a.jsonl is missing" in str(check_records([tmp_path])[1])
    outcomes_path(path).parent.rmdir()  # as records are handed on without names of people
    assert check_records([tmp_path]) == (LINES, [])
    changed(path, 3, lambda item: item.update(outcomes_sha256=""))
    assert [item[:2] for item in found(path)] == [(3, "outcomes_sha256")]


def test_compressed_records_are_read_and_checked_like_plain_ones(
    tmp_path: Path, lines: bytes
) -> None:
    plain, packed = tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"
    plain.write_bytes(lines)
    table = read_records(tmp_path).drop(columns="file")
    packed.write_bytes(gzip.compress(lines))
    with pytest.raises(ProbeError, match=r"a\.jsonl\.gz: the same records also stand uncompressed"):
        read_records(tmp_path)
    plain.unlink()
    assert read_records(tmp_path).drop(columns="file").astype(str).equals(table.astype(str))
    assert check_records([tmp_path]) == (LINES, [])
    packed.write_bytes(gzip.compress(lines.replace(b'"n":', b'"n":1')))
    assert check_records([packed])[1]
    packed.write_bytes(gzip.compress(lines)[:-9])
    with pytest.raises(ProbeError, match=r"a\.jsonl\.gz: no gzip file, or a damaged one"):
        read_records(tmp_path)


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    for line in (
        ["--to", "x"],
        ["--export", "hf"],
        ["--dataset", "a=b/c"],
        ["--check", "--export", "hf", "--to", "x"],
    ):
        done = CliRunner().invoke(cli, ["records", str(tmp_path), *line])
        assert isinstance(done.exception, ProbeError) and "--export" in str(done.exception)


def test_names_from_files_command_no_terminal(tmp_path: Path, lines: bytes) -> None:
    for number, name in enumerate(HOSTILE):
        named = [
            json.loads(line) | {"model": name, "task": name, "condition": name}
            for line in lines.splitlines()
        ]
        named[5] |= {"model": f"other {name}", "control": name}
        text = "".join(json.dumps(line) + "\n" for line in named)
        (tmp_path / f"{number:02}.jsonl").write_text(text, encoding="utf-8")
    printed = {
        line: CliRunner().invoke(cli, ["records", str(tmp_path), *line.split()])
        for line in ("", "--format json", "--check")
    }
    printed["both"] = CliRunner().invoke(
        cli, ["records", str(tmp_path), "--check", "--format", "json"]
    )
    for done in printed.values():
        assert not [char for char in done.output if not char.isprintable() and char != "\n"]
    assert len(printed[""].stdout.splitlines()) == 1 + len(HOSTILE)
    assert [item["task"] for item in json.loads(printed["--format json"].stdout)] == HOSTILE
    told = printed["--check"].stdout.splitlines()
    assert told and all(
        re.match(re.escape(str(tmp_path)) + r"/\d\d\.jsonl:6: (model|control|split): found ", text)
        for text in told
    )
    assert len(json.loads(printed["both"].stdout)) == len(told)
