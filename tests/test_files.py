"""Files and records: whole or not there, told apart from damaged ones, and read back as they were
written.
"""

import errno
import hashlib
import json
import os
import socket
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exhaustive import mostly_nightly
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scored import record

from probe.errors import ProbeError
from probe.files import (
    canonical_json,
    file_name,
    json_value,
    path_text,
    read_json,
    require_writable,
    sha256_of_file,
    sha256_of_json,
    write_atomically,
    write_json,
)
from probe.records import (
    FIELDS,
    chosen_layers,
    frame_of,
    hashed_block,
    iterate_records,
    read_records,
    source_dev,
    write_records,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
one_folder_will_do = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


# --- atomic writes
# ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1 << 21])
def test_an_atomic_write_leaves_the_data_and_nothing_else(tmp_path: Path, size: int) -> None:
    data = np.random.default_rng(0).bytes(size)
    write_atomically(tmp_path / "a.bin", b"something older and longer" * 3)
    write_atomically(tmp_path / "a.bin", data)
    assert (tmp_path / "a.bin").read_bytes() == data
    assert [item.name for item in tmp_path.iterdir()] == ["a.bin"]
    assert sha256_of_file(tmp_path / "a.bin") == hashlib.sha256(data).hexdigest()


def test_an_atomic_write_goes_on_after_a_short_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data)[:7]))
    write_atomically(tmp_path / "a.bin", bytes(range(100)))
    assert (tmp_path / "a.bin").read_bytes() == bytes(range(100))


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_an_atomic_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "a.bin"
    write_atomically(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space left"):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.bin"]


def test_data_reach_the_disk_before_the_name_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def noted(name: str) -> Callable[..., Any]:
        original = getattr(os, name)
        return lambda *arguments: (calls.append(name), original(*arguments))[1]

    for name in ("write", "fsync", "replace"):
        monkeypatch.setattr(os, name, noted(name))
    write_atomically(tmp_path / "a.bin", b"data")
    assert calls == ["write", "fsync", "replace", "fsync"]


def test_only_the_temporary_file_of_this_write_is_touched(tmp_path: Path) -> None:
    other = tmp_path / ".a.bin.12345-deadbeef.tmp"
    other.write_bytes(b"another writer is busy here")
    write_atomically(tmp_path / "a.bin", b"data")
    assert other.read_bytes() == b"another writer is busy here"


def test_trying_whether_a_folder_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    require_writable(tmp_path / "not" / "there")
    require_writable(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "beneath"):
        with pytest.raises(
            ProbeError,
            match=rf"{folder}: nothing can be written here \(Not a directory\)\. Make the folder",
        ):
            require_writable(folder)


# --- JSON
# ------------------------------------------------------------------------------


@given(
    value=st.dictionaries(texts.filter(lambda name: name != "checksum"), json_values, max_size=4)
)
@one_folder_will_do
def test_an_object_comes_back_as_it_was_written(tmp_path: Path, value: dict[str, Any]) -> None:
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


def test_an_object_that_an_earlier_version_sealed_is_read_and_checked(tmp_path: Path) -> None:
    value = {"rows": 49, "key": "élan"}
    sealed = {**value, "checksum": sha256_of_json(value)}
    text = json.dumps(sealed, ensure_ascii=False, indent=1) + "\n"
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert read_json(tmp_path / "a.json") == value
    (tmp_path / "a.json").write_text(text.replace("49", "48"), encoding="utf-8")
    with pytest.raises(ProbeError, match="do not have its checksum"):
        read_json(tmp_path / "a.json")


@given(value=st.dictionaries(texts, json_values, max_size=4))
def test_equal_objects_have_equal_hashes_in_any_order(value: dict[str, Any]) -> None:
    turned = dict(reversed(value.items()))
    assert canonical_json(value) == canonical_json(turned)
    assert sha256_of_json(value) == sha256_of_json(turned)


@pytest.mark.parametrize("n_bits", mostly_nightly([1, 8], [1]))
def test_no_flipped_bit_in_a_json_file_changes_what_is_read(tmp_path: Path, n_bits: int) -> None:
    path = tmp_path / "a.json"
    value = {"rows": 49, "key": "élan", "nested": {"list": [1, 2.5, None]}}
    write_json(path, value)
    content = path.read_bytes()
    refused = 0
    for position in range(len(content)):
        for bit in range(n_bits):
            damaged = bytearray(content)
            damaged[position] ^= 1 << (position + bit) % 8
            path.write_bytes(damaged)
            try:
                assert read_json(path) == value
            except ProbeError:
                refused += 1
    assert refused > 0.9 * n_bits * len(content)  # the rest is white space


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"3", b'{"a": 1}', b'{"a": 1, "checksum": "0"}', b"\xff\xfe{}"]
)
def test_a_json_file_without_its_checksum_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(
        ProbeError,
        match=r"a\.json: damaged or not readable .*Remove it and run `probe extract` again",
    ):
        read_json(path)


def test_a_json_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ProbeError, match=r"a\.json: not there; expected a folder that `probe extract` wrote"
    ):
        read_json(tmp_path / "a.json")


def test_numbers_that_json_cannot_hold_are_not_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"value": float("nan")})


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("facebook/wav2vec2-base", "facebook--wav2vec2-base"),
        ("random:org/name@1", "random--org--name@1"),
        ("speaker-id:label=sex", "speaker-id--label=sex"),
    ],
)
def test_a_name_becomes_one_component_of_a_path(text: str, name: str) -> None:
    assert file_name(text) == name


@given(texts)
def test_no_name_leads_out_of_its_folder(text: str) -> None:
    name = file_name(text)
    assert name
    assert "/" not in name
    assert not name.startswith((".", "-"))
    assert len(name.encode()) <= 80


def test_different_names_stay_different() -> None:
    names = [
        "a b",
        "a  b",
        "a-b",
        "a--b",
        "a/b",
        "ä",
        "ö",
        "",
        "/",
        "..",
        "x" * 70,
        "x" * 71,
        "models/w2v stable",
        "models/w2v stable ü",
    ]
    assert len({file_name(name) for name in names}) == len(names)


def test_a_name_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(ProbeError, match=r"'t\\udce9': this name is not UTF-8\. Rename"):
        file_name(os.fsdecode(b"t\xe9"))


def test_a_path_that_is_not_utf_8_has_a_text_that_is() -> None:
    assert path_text(Path(os.fsdecode(b"t\xe9/\xc3\xa9"))) == "t\\xe9/é"


@pytest.mark.parametrize(
    "text", [b'["\\ud800"]', b'{"\\uDFFF": 1}', b'"\xed\xa0\x80"', b'"\xff"', b"{"]
)
def test_json_that_cannot_be_written_again_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        json_value(text)


def test_json_with_characters_beyond_16_bits_is_read() -> None:
    assert json_value(b'"\\ud83d\\ude00 \xf0\x9f\x98\x80 \xed\x9f\xbf"') == "😀 😀 \ud7ff"


# --- records
# ------------------------------------------------------------------------------


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    written = [
        record(),
        record(
            value=None,
            low=None,
            note="too few speakers",
            counts={"block": ["ab"], "numerator": [1], "denominator": [3]},
        ),
        record(
            value=1 / 3,
            search=[{"C": 1e-3, "accuracy": 0.25}],
            excluded={"no text": 2},
            code={"version": "0"},
            seconds=0.1,
        ),
    ]
    write_records(tmp_path / "new" / "a.jsonl", written)
    assert list(iterate_records(tmp_path / "new" / "a.jsonl")) == written


def test_counts_of_trials_come_back_as_arrays_and_are_small_on_disk(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    n = 40_000
    counts = {
        "block": ["ab", "cd"],
        "enroll": generator.integers(2, size=n).tolist(),
        "test": generator.integers(2, size=n).tolist(),
        "target": generator.integers(2, size=n).tolist(),
        "rank": generator.permutation(n).tolist(),
    }
    path = tmp_path / "a.jsonl"
    write_records(path, [record(metric="eer", counts=counts)])
    (found,) = iterate_records(path)
    assert all(np.array_equal(found.counts[name], counts[name]) for name in counts)
    assert path.stat().st_size < 200_000
    path.write_text(path.read_text().replace('"rank":"', '"rank":"A'))
    with pytest.raises(ProbeError, match="line 1: its counts cannot be read"):
        list(iterate_records(path))


def test_columns_that_stand_in_a_file_already_are_not_written_again(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    lists = {
        name: generator.integers(2, size=3000).tolist() for name in ("enroll", "test", "target")
    }
    counts = [
        {"block": ["ab", "cd"], **lists, "rank": generator.permutation(3000).tolist()}
        for _ in range(3)
    ]
    path = tmp_path / "a.jsonl"
    write_records(
        path,
        [
            record(metric=metric, counts=of_layer)
            for of_layer in counts
            for metric in ("eer", "min_dcf_0.01")
        ],
    )
    found = list(iterate_records(path))
    assert len(found) == 6
    for i, item in enumerate(found):
        assert {
            name: np.asarray(column).tolist() for name, column in item.counts.items()
        } == counts[i // 2] | {"block": ["ab", "cd"]}
    sizes = [len(line) for line in path.read_text().splitlines()]
    assert max(sizes[1::2]) < 0.2 * sizes[0], "nothing is new in another metric of the same trials"
    assert max(sizes[2::2]) < 0.9 * sizes[0], "only the ranks are new in another layer"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(
        ProbeError,
        match=r"line 1: its counts cannot be read \(.* is sha256:\w{16}, which no earlier line",
    ):
        list(iterate_records(path))


@given(names=st.lists(texts, min_size=1, max_size=4))
@one_folder_will_do
def test_any_name_survives_the_round_trip(tmp_path: Path, names: list[str]) -> None:
    written = [record(train_domain=name, counts={"block": [name]}) for name in names]
    write_records(tmp_path / "a.jsonl", written)
    assert list(iterate_records(tmp_path / "a.jsonl")) == written


@pytest.mark.parametrize(
    "separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c", "\r", "\n", "\r\n"]
)
def test_a_name_with_a_line_separator_survives_the_round_trip(
    tmp_path: Path, separator: str
) -> None:
    written = [record(test_domain=f"near{separator}far"), record()]
    write_records(tmp_path / "a.jsonl", written)
    assert list(iterate_records(tmp_path / "a.jsonl")) == written


def test_a_second_run_replaces_its_records(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", [record(value=0.1), record(value=0.2)])
    write_records(tmp_path / "a.jsonl", [record(value=0.3)])
    assert [item.value for item in iterate_records(tmp_path / "a.jsonl")] == [0.3]


def test_equal_records_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_records(tmp_path / f"{name}.jsonl", [record(), record(layer="1")])
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_a_folder_of_records_is_one_table(tmp_path: Path) -> None:
    write_records(tmp_path / "b.jsonl", [record(model="org/b")])
    write_records(tmp_path / "a.jsonl", [record(layer="0"), record(layer="1")])
    (tmp_path / "table.md").write_text("not a record")
    table = read_records(tmp_path)
    assert list(table["model"]) == ["org/a", "org/a", "org/b"]
    assert list(table["layer"]) == ["0", "1", "0"]
    assert set(table.columns) == FIELDS | {"file"}
    assert list(table["file"]) == [
        str(tmp_path / name) for name in ("a.jsonl", "a.jsonl", "b.jsonl")
    ]


def test_equal_texts_of_a_table_are_one_object(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", [record(layer=str(number)) for number in range(3)])
    table = read_records(tmp_path)
    assert (
        len({id(name) for name in table["recipe"].tolist()}) == 1
        and len({id(name) for name in table["layer"].tolist()}) == 3
    )


def test_a_folder_without_records_is_named(tmp_path: Path) -> None:
    found = {tmp_path: "no records .* in this folder"}
    found |= {tmp_path / name: "does not exist" for name in ("missing", "missing.jsonl")}
    for path, what in found.items():
        with pytest.raises(ProbeError, match=rf"{path}: {what}; expected a folder"):
            read_records(path)


def changed_line(**changed: Any) -> str:
    return json.dumps(asdict(record()) | changed)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 2: not JSON .*Remove the file and run its task again"),
        ("", r"line 2: not JSON"),
        (
            "[]",
            r"line 2: this line is JSON, but no record: it has no field `format`\. Move the file",
        ),
        (
            changed_line(format=1),
            r"line 2: record format 1; this version reads 4\. Run its task again",
        ),
        ('{"key": "a", "label": "x"}', r"line 2: this line is JSON, but no record"),
        (
            changed_line(polling="mean"),
            r"line 2: fields \['polling'\] missing or unknown\. Run its task again",
        ),
        (json.dumps({"format": 4}), r"line 2: fields \[.*'model'.*\] missing or unknown"),
    ],
)
def test_a_line_that_is_no_record_is_named_with_its_number(
    tmp_path: Path, line: str, message: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        "\n".join([canonical_json(asdict(record())), line, canonical_json(asdict(record()))]) + "\n"
    )
    with pytest.raises(ProbeError, match=rf"a\.jsonl {message}"):
        list(iterate_records(path))


def test_a_record_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        canonical_json(asdict(record())).encode()
        + b"\n"
        + changed_line().encode().replace(b"digits", b"d\xffgits")
    )
    with pytest.raises(ProbeError, match=r"a\.jsonl line 2: not JSON"):
        read_records(path)


def test_names_of_speakers_are_hashed() -> None:
    assert hashed_block("ann") == hashed_block("ann")
    assert hashed_block("ann") != hashed_block("bob")
    assert len(hashed_block("ann")) == 12
    assert "ann" not in hashed_block("ann")


def test_the_layer_is_chosen_on_dev_and_ties_go_to_the_lowest() -> None:
    scores = {"dev": [0.5, 0.9, 0.9], "test": [1.0, 0.2, 0.3]}
    records = [
        record(layer=str(layer), layer_index=layer, split=split, value=value)
        for split, values in scores.items()
        for layer, value in enumerate(values)
    ]
    chosen = chosen_layers(frame_of(reversed(records)))
    assert list(chosen["chosen_layer"]) == ["1"]
    worse_is_better = [replace(item, higher_is_better=False) for item in records]
    assert list(chosen_layers(frame_of(worse_is_better))["chosen_layer"]) == ["0"]


def test_layers_are_chosen_on_the_dev_rows_of_the_source_domain() -> None:
    records = frame_of(
        record(
            layer=str(layer),
            layer_index=layer,
            split="dev",
            train_domain="near",
            test_domain=domain,
            value=value,
        )
        for domain, values in {"near": (0.4, 0.6), "far": (0.9, 0.1)}.items()
        for layer, value in enumerate(values)
    )
    assert set(source_dev(records)["test_domain"]) == {"near"}
    assert list(chosen_layers(records)["chosen_layer"]) == ["1"]


def test_a_layer_without_a_dev_score_is_not_chosen() -> None:
    records = [
        record(split="dev", value=None),
        record(layer="1", layer_index=1, split="dev", value=0.1),
    ]
    assert list(chosen_layers(frame_of(records))["chosen_layer"]) == ["1"]


@pytest.mark.parametrize("path", [Path(), Path("folder")])
def test_a_folder_is_no_file(tmp_path: Path, path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ProbeError, match=r"a folder\. Name a file"):
        write_atomically(path if path == Path() else tmp_path / path, b"data")


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_is_no_file_is_not_replaced_by_one(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path has few bytes
    path = Path("there")
    if kind == "pipe":
        os.mkfifo(path)
    else:
        socket.socket(socket.AF_UNIX).bind(str(path))
    mode = path.stat().st_mode
    with pytest.raises(
        ProbeError, match=r"there: a device, pipe or socket, which a file would replace"
    ):
        write_atomically(path, b"data")
    assert path.stat().st_mode == mode


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "a.html"
    link.symlink_to(tmp_path / "real" / "b.html")
    for data in (b"new", b"newer"):  # at first there is nothing where it leads
        write_atomically(link, data)
        assert link.is_symlink() and (tmp_path / "real" / "b.html").read_bytes() == data


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("value", "0.9", "float or int"),
        ("model", None, "expected str"),
        ("n", 10**400, "expected int"),
        ("headline", 1, "expected bool"),
    ],
)
def test_values_that_no_table_could_be_made_of_are_named(
    tmp_path: Path, name: str, value: object, expected: str
) -> None:
    write_records(tmp_path / "a.jsonl", [record()])
    line = json.loads((tmp_path / "a.jsonl").read_text(encoding="utf-8"))
    (tmp_path / "a.jsonl").write_text(json.dumps({**line, name: value}) + "\n", encoding="utf-8")
    with pytest.raises(
        ProbeError, match=rf"in the field {name}; .*{expected}.*records PATH --check"
    ):
        read_records(tmp_path)
