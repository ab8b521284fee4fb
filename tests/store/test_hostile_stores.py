"""A store may come from anywhere: what it declares is checked before it is believed, and every
refusal is one clear error.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from exhaustive import mostly_nightly
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_stores import ENVIRONMENT, add, random_frames, recipe, write_parts

from probe.errors import ProbeError
from probe.files import read_json, write_json
from probe.store.feature_store import FeatureStore
from probe.store.integrity import verify_store
from probe.store.stores import create_store, describe_store, find_stores, open_store

KEYS = "abcdef"
SHARD, INDEX, PLAN, RECIPE = "shard-00000.h5", "shard-00000.json", "plan-00000.json", "recipe.json"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    """A sound store of one shard, each layer in several chunks."""
    monkeypatch.setattr("probe.store.shards.CHUNK_BYTES", 64)
    made = create_store(tmp_path / "features", "org/small", recipe(), ENVIRONMENT)
    add(made, random_frames(KEYS), columns={"text": list("uvwxyz")})
    return made


def read_all(path: Path) -> None:
    """Everything that a reader may do."""
    opened = open_store(path)
    describe_store(opened)
    for layer in opened.layers:
        opened.layer(layer)


# --- HDF5

Tamper = Callable[[h5py.File, Path], None]


def of_type(dtype: Any, fill: Any = None) -> Tamper:
    def replace(file: h5py.File, _: Path) -> None:
        shape = file["layers/0"].shape
        del file["layers/0"]
        values = file.create_dataset("layers/0", shape, dtype)
        if fill is not None:
            values[:] = fill

    replace.__name__ = f"of type {dtype}"
    return replace


def of_shape(*shape: int) -> Tamper:
    def replace(file: h5py.File, _: Path) -> None:
        del file["layers/0"]
        file["layers/0"] = np.zeros(shape, np.float16)

    replace.__name__ = f"of shape {shape}"
    return replace


def soft_link_of_the_group(file: h5py.File, _: Path) -> None:
    file.move("layers", "other")
    file["layers"] = h5py.SoftLink("/other")


def external_offsets(file: h5py.File, outside: Path) -> None:
    del file["offsets/0"]
    file["offsets/0"] = h5py.ExternalLink(str(outside), "offsets/0")


def raw_bytes_of_another_file(file: h5py.File, outside: Path) -> None:
    shape = file["layers/0"].shape
    del file["layers/0"]
    file.create_dataset(
        "layers/0", shape, np.float16, external=[(str(outside), 0, h5py.h5f.UNLIMITED)]
    )


def virtual_offsets(file: h5py.File, outside: Path) -> None:
    shape = file["offsets/0"].shape
    del file["offsets/0"]
    layout = h5py.VirtualLayout(shape, np.int64)
    layout[:] = h5py.VirtualSource(str(outside), "offsets/0", shape)
    file.create_virtual_dataset("offsets/0", layout)


def offsets_of(change: Callable[[np.ndarray], np.ndarray]) -> Tamper:
    def replace(file: h5py.File, _: Path) -> None:
        values = change(file["offsets/0"][:])
        del file["offsets/0"]
        file["offsets/0"] = values

    return replace


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (of_type(h5py.string_dtype(), "x"), r"layers/0 is text of variable length"),
        (of_type([("a", np.float16), ("b", np.int64)]), r"layers/0 is \[\('a'"),
        (of_type(np.float32), r"layers/0 is float32 of shape .*; the index expects float16"),
        (of_shape(), r"layers/0 is no array"),
        (of_shape(5, 3, 1), r"of shape \(5, 3, 1\); the index expects"),
        (soft_link_of_the_group, r"layers/0 is missing or a link"),
        (external_offsets, r"offsets/0 is missing or a link"),
        (raw_bytes_of_another_file, r"layers/0 is not stored in this file"),
        (virtual_offsets, r"offsets/0 is not stored in this file"),
        (
            offsets_of(lambda offsets: offsets * 2),
            r"offsets/0 divides the rows in another way than the index",
        ),
    ],
    ids=lambda item: getattr(item, "__name__", None),
)
def test_a_shard_that_is_not_plain_data_is_refused_with_the_reason(
    store: FeatureStore, tmp_path: Path, tamper: Tamper, message: str
) -> None:
    outside = tmp_path / "outside.h5"
    shutil.copy(store.path / SHARD, outside)
    with h5py.File(store.path / SHARD, "r+") as file:
        tamper(file, outside)
    with pytest.raises(ProbeError, match=message) as refused:
        store.layer("0")
    assert str(refused.value).startswith(f"{store.path / SHARD}: ")
    index = read_json(store.path / INDEX)  # and with an index that agrees as far as it can
    write_json(store.path / INDEX, index | {"bytes": (store.path / SHARD).stat().st_size})
    with pytest.raises(ProbeError, match=message):
        open_store(store.path).layer("0")
    assert [item.file for item in verify_store(store.path).damage] == [SHARD]


def test_rows_that_no_memory_holds_are_one_error(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "empty", full)
    with pytest.raises(
        ProbeError, match=r"\d+ rows of 3 do not fit into memory\. Read fewer keys at a time"
    ):
        store.layer("0")


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "endless JSON"])
def test_what_is_no_plain_file_is_not_read(store: FeatureStore, kind: str) -> None:
    for name in (PLAN, INDEX, SHARD, RECIPE):
        path = store.path / name
        content = path.read_bytes()
        path.unlink()
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "device":
            path.symlink_to("/dev/zero")
        else:
            with path.open("wb") as file:
                file.truncate(1 << 41)  # no byte of it on the disk
        with pytest.raises(ProbeError, match=name.replace(".", r"\.")):
            read_all(store.path)
        assert verify_store(store.path).damage
        path.rmdir() if kind == "folder" else path.unlink()
        path.write_bytes(content)
    read_all(store.path)


# --- JSON


def change(path: Path, where: tuple[Any, ...], value: Any) -> None:
    """Sets one entry of a JSON file and writes its new checksum beside it."""
    content = read_json(path)
    place: Any = content
    for step in where[:-1]:
        place = place[step]
    if value is ...:
        del place[where[-1]]
    else:
        place[where[-1]] = value
    write_json(path, content)


U = ("utterances", 0)


@pytest.mark.parametrize(
    ("name", "where", "value", "message"),
    [
        (INDEX, (*U, "rows"), -1, r"utterances\[0\]\.rows: found -1; expected 0 or more"),
        (INDEX, (*U, "rows"), "3", r"utterances\[0\]\.rows: found '3'; expected a whole number"),
        (INDEX, (*U, "surprise"), 1, r"unknown key 'utterances\[0\]\.surprise'"),
        (INDEX, ("shard",), "../shard-00000", r"is the index of '\.\./shard-00000'; expected"),
        (INDEX, ("bytes",), 5, r"missing or not the 5 bytes"),
        (INDEX, ("format",), 2, "format: found 2; expected 1"),
        (INDEX, ("dtypes",), {}, "layers ; expected 0, 1, 2"),
        (INDEX, ("dtypes", "0"), "object", r"dtypes\.0: found 'object'"),
        (PLAN, ("jobs", 0, "number"), -1, r"jobs\[0\]\.number: found -1"),
        (PLAN, ("jobs", 0, "keys"), [], r"jobs\[0\]\.keys: found \[\]; expected 1 or more"),
        (PLAN, ("jobs",), [{"number": 0, "keys": ["a"], "parts": 1}] * 2, "two plans name job 0"),
        (PLAN, ("format",), None, "format: found None; expected 1"),
        (RECIPE, ("environment",), None, "environment: found None; expected an object"),
        (RECIPE, ("recipe", "view"), "segments:0", "recipe.view 'segments:0': expected"),
        (RECIPE, ("recipe", "model", "revision"), ..., r"recipe\.model\.revision: found nothing"),
        (RECIPE, ("sha256",), "0" * 64, "does not have the sha256"),
    ],
)
def test_json_that_lies_is_one_clear_error(
    store: FeatureStore, name: str, where: tuple[Any, ...], value: Any, message: str
) -> None:
    change(store.path / name, where, value)
    with pytest.raises(ProbeError, match=message) as refused:
        read_all(store.path)
    assert "\n" not in str(refused.value)
    assert verify_store(store.path).damage


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "[" * 100_000,
        '{"a":' * 100_000,
        "{",
        '{"checksum": NaN}',
        '{"a": 1e999}',
        "1" * 10_000,
        '"\\ud800"',
        "\0",
        "\ufeff{}",
    ],
)
@pytest.mark.parametrize("name", [INDEX, PLAN, RECIPE, "certificate.json"])
def test_json_of_any_form_is_one_clear_error(store: FeatureStore, name: str, text: str) -> None:
    (store.path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ProbeError, match=rf"{name}: damaged or not readable"):
        read_all(store.path)
    assert [item.file for item in verify_store(store.path).damage] == [name]


def test_plans_and_certificates_of_other_names_and_forms_are_named(store: FeatureStore) -> None:
    write_json(store.path / "certificate.json", {"quick": "yes"})
    with pytest.raises(
        ProbeError, match=r"certificate\.json: quick: found 'yes'; expected true or false"
    ):
        read_all(store.path)
    (store.path / "certificate.json").unlink()
    shutil.copy(store.path / PLAN, store.path / "plan-00000 (copy).json")
    with pytest.raises(
        ProbeError, match=r"plan-00000 \(copy\)\.json: expected a name such as plan-00000\.json"
    ):
        read_all(store.path)


def test_parts_that_do_not_fit_together_are_refused_or_left_out(tmp_path: Path) -> None:
    made = create_store(tmp_path, "org/small", recipe(layers=["0"]), ENVIRONMENT)
    write_parts(made, np.ones((10, 3), np.float32), [3, 6, 10])
    path = made.path / "shard-00000.2of3.json"
    index = read_json(path)
    write_json(path, index | {"shard": "shard-00000.1of3"})
    with pytest.raises(ProbeError, match=r"shard-00000\.2of3\.json: is"):
        read_all(made.path)
    write_json(path, index | {"utterances": index["utterances"] * 2})
    assert open_store(made.path).keys == []  # its audio is not that of the others


# Any value anywhere, with the right checksum: a reader refuses in words, or reads what the index
# and the shard agree on.
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(
        [-1, 0, 1, 2**31, 2**63, 2**64, 10**30, "../x", "float16", "shard-00000", "frames"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)


def places(value: Any, so_far: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to every entry of a JSON value."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for step, item in inner:
        yield (*so_far, step)
        yield from places(item, (*so_far, step))


@pytest.mark.parametrize("n", mostly_nightly([8, 300], [8]))
def test_no_value_in_any_json_is_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, n: int
) -> None:
    root = tmp_path_factory.mktemp("hostile")
    made = create_store(root, "org/small", recipe(), ENVIRONMENT)
    add(made, random_frames("ab"))
    certificate = {"quick": True, "passed": True, "findings": [{"check": "x", "result": "ok"}]}
    write_json(made.path / "certificate.json", certificate)

    @given(st.data())
    @settings(max_examples=n, deadline=None, suppress_health_check=list(HealthCheck))
    def holds(data: st.DataObject) -> None:
        changed_anywhere(made.path, data)

    holds()


def changed_anywhere(path: Path, data: st.DataObject) -> None:
    """Changes one value, reads and verifies the store, and puts the value back."""
    name = data.draw(st.sampled_from([INDEX, PLAN, RECIPE, "certificate.json"]))
    before = (path / name).read_bytes()
    where = data.draw(st.sampled_from(list(places(read_json(path / name)))))
    try:
        change(path / name, where, data.draw(st.just(...) | VALUES))
        try:
            for found in find_stores(path):
                describe_store(found)
                for layer in found.layers:
                    found.layer(layer)
        except ProbeError:
            pass
        verify_store(path)
    finally:
        (path / name).write_bytes(before)
