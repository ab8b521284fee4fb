"""A store may come from anywhere: what it declares is checked before it is believed, and every
refusal is one clear error.
"""

import os
import shutil
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_stores import ENVIRONMENT, WIDTHS, add, random_frames, recipe, write_parts

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


@pytest.fixture
def peak() -> Iterator[Callable[[], int]]:
    """The most bytes that Python and numpy held at once since the test began."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


# --- HDF5
# -------------------------------------------------------------------------------------------------------------------------

Tamper = Callable[[h5py.File, Path], None]


def dataset(file: h5py.File, name: str, **keywords: Any) -> np.ndarray:
    """Replaces a dataset by one of these properties without writing a value; returns the values
    that were there.
    """
    values = file[name][:]
    del file[name]
    file.create_dataset(
        name,
        **(
            {"shape": values.shape, "dtype": values.dtype, "chunks": (2, *values.shape[1:])}
            | keywords
        ),
    )
    return values


def missing_chunks(file: h5py.File, _: Path) -> None:
    values = dataset(file, "layers/0", fletcher32=True)
    file["layers/0"][:4] = values[:4]


def no_chunk_at_all(file: h5py.File, _: Path) -> None:
    dataset(file, "layers/0", fletcher32=True, fillvalue=1)


def nothing_written_in_one_piece(file: h5py.File, _: Path) -> None:
    dataset(file, "layers/0", chunks=None)


def far_more_rows(file: h5py.File, _: Path) -> None:
    values = dataset(file, "layers/0", shape=(1 << 40, 3), chunks=(2, 3))
    file["layers/0"][: len(values)] = values


def wider(file: h5py.File, _: Path) -> None:
    n = len(file["layers/0"])
    dataset(file, "layers/0", shape=(n, 1 << 30), chunks=(1, 1 << 20))


def bomb(file: h5py.File, _: Path) -> None:
    dataset(
        file,
        "layers/0",
        shape=(1 << 22, 3),
        chunks=(1 << 18, 3),
        compression="gzip",
        shuffle=True,
        fletcher32=True,
    )
    file["layers/0"][:] = np.zeros((1 << 22, 3), np.float16)


def huge_chunks(file: h5py.File, _: Path) -> None:
    values = dataset(file, "layers/0", maxshape=(None, 3), chunks=(1 << 22, 3), compression="gzip")
    file["layers/0"][:] = values


def inflating_chunk(file: h5py.File, _: Path) -> None:
    values = dataset(file, "layers/0", compression="gzip")
    file["layers/0"][:] = values
    file.flush()
    file["layers/0"].id.write_direct_chunk((0, 0), b"\0" * 100_000)


def chunk_that_inflates_further(file: h5py.File, _: Path) -> None:
    values = dataset(file, "layers/0", compression="gzip")
    file["layers/0"][:] = values
    file.flush()
    file["layers/0"].id.write_direct_chunk((0, 0), zlib.compress(bytes(40_000), 9))


def chunk_with_something_behind(file: h5py.File, _: Path) -> None:
    values = dataset(file, "layers/0", compression="gzip")
    file["layers/0"][:] = values
    file.flush()
    file["layers/0"].id.write_direct_chunk((0, 0), zlib.compress(values[:2].tobytes(), 9) + b"more")


def chunk_without_its_filters(file: h5py.File, _: Path) -> None:
    values = dataset(file, "layers/0", fletcher32=True)
    file["layers/0"].id.write_direct_chunk((0, 0), bytes(range(16)), filter_mask=1)
    file["layers/0"][2:] = values[2:]


def lzf(file: h5py.File, _: Path) -> None:
    values = dataset(file, "layers/0", compression="lzf")
    file["layers/0"][:] = values


def scale_offset(file: h5py.File, _: Path) -> None:
    values = file["offsets/0"][:]
    del file["offsets/0"]
    file.create_dataset("offsets/0", data=values, chunks=values.shape, scaleoffset=8)


def unknown_filter(file: h5py.File, _: Path) -> None:
    settings = h5p.create(h5p.DATASET_CREATE)
    shape = file["layers/0"].shape
    settings.set_chunk(shape)
    settings.set_filter(32_001, h5py.h5z.FLAG_OPTIONAL, (2, 2, 2, 2))  # blosc
    del file["layers/0"]
    space = h5s.create_simple(shape)
    h5d.create(file["layers"].id, b"0", h5t.IEEE_F16LE, space, settings)


def of_type(dtype: Any, fill: Any = None) -> Tamper:
    def replace(file: h5py.File, _: Path) -> None:
        shape = file["layers/0"].shape
        del file["layers/0"]
        values = file.create_dataset("layers/0", shape, dtype)
        if fill is not None:
            values[:] = fill

    replace.__name__ = f"of type {dtype}"
    return replace


def bent_floats(file: h5py.File, _: Path) -> None:
    kind = h5t.IEEE_F16LE.copy()
    kind.set_ebias(3)
    shape = file["layers/0"].shape
    del file["layers/0"]
    values = h5d.create(file["layers"].id, b"0", kind, h5s.create_simple(shape))
    values.write(h5s.ALL, h5s.ALL, np.ones(shape, np.float16))


def of_shape(*shape: int) -> Tamper:
    def replace(file: h5py.File, _: Path) -> None:
        del file["layers/0"]
        file["layers/0"] = np.zeros(shape, np.float16)

    replace.__name__ = f"of shape {shape}"
    return replace


def second_name(file: h5py.File, _: Path) -> None:
    del file["layers/0"]
    file["layers/0"] = file["layers/1"]


def cycle(file: h5py.File, _: Path) -> None:
    file.move("layers", "other")
    file["layers"] = file["other"]
    file["other/self"] = file["other"]


def root_in_itself(file: h5py.File, _: Path) -> None:
    file["0"] = file["layers/0"][:]
    del file["layers"]
    file["layers"] = file["/"]


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


def no_offsets(file: h5py.File, _: Path) -> None:
    del file["offsets/0"]


def no_space_at_all(file: h5py.File, _: Path) -> None:
    del file["layers/0"]
    file["layers/0"] = h5py.Empty(np.float16)


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (missing_chunks, r"layers/0 declares \d+ chunks and 2 are stored"),
        (no_chunk_at_all, r"layers/0 declares \d+ chunks and 0 are stored"),
        (nothing_written_in_one_piece, r"layers/0 declares \d+ bytes and 0 are stored"),
        (
            far_more_rows,
            r"layers/0 is float16 of shape \(1099511627776, 3\); the index expects float16 of shape",
        ),
        (wider, r"layers/0 is float16 of shape \(\d+, 1073741824\)"),
        (bomb, r"layers/0 is float16 of shape \(4194304, 3\)"),
        (huge_chunks, r"declares chunks of \(4194304, 3\)"),
        (inflating_chunk, r"layers/0 has a chunk of 100000 bytes"),
        (
            chunk_that_inflates_further,
            r"layers/0 has a chunk that does not inflate to its 12 bytes",
        ),
        (
            chunk_with_something_behind,
            r"layers/0 has a chunk that does not inflate to its 12 bytes",
        ),
        (chunk_without_its_filters, r"layers/0 has a chunk of 16 bytes \(filters left out: 1\)"),
        (lzf, r"HDF5 filters \[32000\]; shards have 3, 2, 1 only"),
        (scale_offset, r"offsets/0 is stored with HDF5 filters \[6\]"),
        (unknown_filter, r"HDF5 filters \[32001\]"),
        (of_type(h5py.string_dtype(), "x"), r"layers/0 is text of variable length"),
        (of_type(h5py.vlen_dtype(np.float16)), r"layers/0 is object of shape"),
        (of_type(h5py.ref_dtype), r"layers/0 is object of shape"),
        (of_type([("a", np.float16), ("b", np.int64)]), r"layers/0 is \[\('a'"),
        (of_type(h5py.enum_dtype({"a": 1}, "i1")), r"layers/0 is int8 of shape"),
        (
            of_type(np.dtype((np.float16, (2,)))),
            r"layers/0 is \('<f2', \(2,\)\)|layers/0 is \(.*float16",
        ),
        (of_type(np.dtype("V2")), r"layers/0 is \|V2"),
        (of_type(np.complex64), r"layers/0 is complex64|layers/0 is \[\('r'"),
        (of_type(np.float64), r"layers/0 is float64"),
        (of_type(np.float32), r"layers/0 is float32 of shape .*; the index expects float16"),
        (bent_floats, r"layers/0 is float16 of shape|layers/0 is float"),
        (of_shape(), r"layers/0 has no rows but is a single value"),
        (of_shape(5), r"of shape \(5,\); the index expects"),
        (of_shape(5, 3, 1), r"of shape \(5, 3, 1\); the index expects"),
        (of_shape(0, 3), r"of shape \(0, 3\); the index expects"),
        (no_space_at_all, r"layers/0 is float16 of shape None|layers/0"),
        (second_name, r"layers/0 has a second name in this file"),
        (cycle, r"layers has a second name in this file"),
        (root_in_itself, r"layers has a second name in this file"),
        (soft_link_of_the_group, r"layers is missing or a link"),
        (external_offsets, r"offsets/0 is missing or a link"),
        (raw_bytes_of_another_file, r"layers/0 is not stored in this file"),
        (virtual_offsets, r"offsets/0 is not stored in this file"),
        (
            offsets_of(lambda offsets: offsets[::-1]),
            r"offsets/0 divides the rows in another way than the index",
        ),
        (
            offsets_of(lambda offsets: offsets * 2),
            r"offsets/0 divides the rows in another way than the index",
        ),
        (
            offsets_of(lambda offsets: offsets[:-1]),
            r"offsets/0 is int64 of shape \(6,\); the index expects int64 of shape \(7,\)",
        ),
        (offsets_of(lambda offsets: offsets.astype(float)), r"offsets/0 is float64"),
        (no_offsets, r"offsets/0 is missing or a link"),
    ],
    ids=lambda item: getattr(item, "__name__", None),
)
def test_a_shard_that_is_not_plain_data_is_refused_with_the_reason(
    store: FeatureStore, tmp_path: Path, tamper: Tamper, message: str, peak: Callable[[], int]
) -> None:
    outside = tmp_path / "outside.h5"
    shutil.copy(store.path / SHARD, outside)
    with h5py.File(store.path / SHARD, "r+") as file:
        tamper(file, outside)
    tracemalloc.reset_peak()
    with pytest.raises(ProbeError, match=message) as refused:
        store.layer("0")
    assert str(refused.value).startswith(f"{store.path / SHARD}: ")
    assert peak() < 1 << 24
    index = read_json(store.path / INDEX)  # and with an index that agrees as far as it can
    write_json(store.path / INDEX, index | {"bytes": (store.path / SHARD).stat().st_size})
    with pytest.raises(ProbeError, match=message):
        open_store(store.path).layer("0")
    assert [item.file for item in verify_store(store.path).damage] == [SHARD]


def test_a_bomb_whose_index_agrees_is_refused_before_it_is_inflated(
    store: FeatureStore, peak: Callable[[], int]
) -> None:
    index = read_json(store.path / INDEX)
    for rows in (1 << 28, 1 << 39):
        index["utterances"][0]["rows"] = rows
        write_json(store.path / INDEX, index)
        with pytest.raises(
            ProbeError, match=rf"promises \d+ bytes of values in a file of {index['bytes']}"
        ):
            open_store(store.path)
        assert "promises" in verify_store(store.path).damage[0].problem
    assert peak() < 1 << 24


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


def test_compressed_shards_and_big_endian_numbers_are_plain_data(store: FeatureStore) -> None:
    right = {layer: store.layer(layer).values for layer in WIDTHS}
    with h5py.File(store.path / SHARD, "r+") as file:
        for layer in WIDTHS:
            values = dataset(
                file,
                f"layers/{layer}",
                dtype=">f2",
                compression="gzip",
                shuffle=True,
                fletcher32=True,
            )
            file[f"layers/{layer}"][:] = values
    for layer, values in right.items():
        np.testing.assert_array_equal(store.layer(layer).values, values)


# --- JSON
# -------------------------------------------------------------------------------------------------------------------------


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
        (INDEX, (*U, "rows"), -1, "rows from -1 to"),
        (INDEX, (*U, "rows"), 1 << 62, "rows from 1 to 4611686018427387904|rows from"),
        (INDEX, (*U, "rows"), 10**400, "rows from|damaged"),
        (INDEX, (*U, "rows"), 1.0, r"utterances\[0\]\.rows is '1\.0'; expected a whole number"),
        (INDEX, (*U, "rows"), True, r"utterances\[0\]\.rows is 'True'; expected a whole number"),
        (INDEX, (*U, "rows"), "3", r"utterances\[0\]\.rows is '3'; expected a whole number"),
        (INDEX, (*U, "rows"), ..., r"utterances\[0\]\.rows is 'missing'"),
        (INDEX, (*U, "n_frames"), -5, "n_frames from -5"),
        (INDEX, (*U, "key"), 7, r"utterances\[0\]\.key is '7'; expected text"),
        (
            INDEX,
            (*U, "duration_s"),
            None,
            "duration_s is 'None'; expected a whole number or a number",
        ),
        (INDEX, (*U, "audio_sha256"), ["x"], "audio_sha256 is"),
        (
            INDEX,
            (*U, "surprise"),
            1,
            r"utterances\[0\]\.surprise is '1'; this version knows no such entry",
        ),
        (INDEX, (*U, "pieces"), [], "this version knows no such entry"),
        (INDEX, (*U, "native_rate_hz"), "x", r"native_rate_hz is 'x'; expected a whole number"),
        (INDEX, U, "utterance", r"utterances\[0\] is no object but str"),
        (INDEX, ("utterances",), {}, "utterances is '{}'; expected a list"),
        (INDEX, ("utterances",), [], "for 0 utterances"),
        (INDEX, ("failures",), [{"key": "a"}], r"failures\[0\]\.reason is 'missing'"),
        (INDEX, ("failures",), ["a"], r"failures\[0\] is no object but str"),
        (
            INDEX,
            ("shard",),
            "../shard-00000",
            r"is the index of '\.\./shard-00000'; expected 'shard-00000'",
        ),
        (INDEX, ("shard",), "/etc/passwd", "is the index of '/etc/passwd'"),
        (INDEX, ("shard",), "shard-00001", "is the index of 'shard-00001'"),
        (INDEX, ("shard",), 0, "shard is '0'; expected text"),
        (INDEX, ("bytes",), -1, "-1 bytes with sha256"),
        (INDEX, ("bytes",), 0, "0 bytes with sha256"),
        (INDEX, ("bytes",), 1 << 70, "bytes with sha256"),
        (INDEX, ("bytes",), 5, r"missing or not the 5 bytes"),
        (INDEX, ("sha256",), "x" * 64, "bytes with sha256 'xxx"),
        (INDEX, ("format",), "1", "format 1; this version reads 1"),
        (INDEX, ("format",), 2, "format 2; this version reads 1"),
        (INDEX, ("part",), [0, 1 << 60], r"is part \[0, 1152921504606846976\]; expected \[0, 1\]"),
        (INDEX, ("part",), [True], r"is part \[True\]"),
        (INDEX, ("part",), [False, True], r"is part \[False, True\]"),
        (INDEX, ("dtypes",), {}, "layers ; expected 0, 1, 2"),
        (INDEX, ("dtypes", "0"), "object", "layers 0 object, 1 float16"),
        (INDEX, ("dtypes", "0"), "float64", "layers 0 float64"),
        (INDEX, ("dtypes", "0"), ["float16"], r"layers 0 \['float16'\]"),
        (INDEX, ("dtypes", "../0"), "float16", "expected 0, 1, 2"),
        (PLAN, ("jobs",), {}, "expected a plan"),
        (PLAN, ("jobs", 0), 3, r"jobs\[0\] is no object"),
        (PLAN, ("jobs", 0, "number"), -1, r"jobs\[0\] has number -1"),
        (
            PLAN,
            ("jobs", 0, "number"),
            "../../x",
            r"jobs\[0\]\.number is '\.\./\.\./x'; expected a whole number",
        ),
        (PLAN, ("jobs", 0, "number"), 1 << 80, r"jobs\[0\] has number"),
        (PLAN, ("jobs", 0, "parts"), 0, "and 0 parts"),
        (PLAN, ("jobs", 0, "parts"), 10**15, "and 1000000000000000 parts"),
        (PLAN, ("jobs", 0, "parts"), 1.5, r"parts is '1\.5'"),
        (PLAN, ("jobs", 0, "keys"), [], "is no list of different ids"),
        (PLAN, ("jobs", 0, "keys"), [["a"]], "is no list of different ids"),
        (PLAN, ("jobs", 0, "keys"), ["a", "a"], "is no list of different ids"),
        (PLAN, ("jobs", 0, "keys"), "abc", r"keys is 'abc'; expected a list"),
        (
            PLAN,
            ("jobs",),
            [{"number": 0, "keys": ["a"], "parts": 1}] * 2,
            "two plans name job 0|two shards would have one name",
        ),
        (
            PLAN,
            ("jobs",),
            [{"number": n, "keys": ["a"], "parts": 900_000} for n in (1, 2)],
            "name more than 1000000 shards",
        ),
        (PLAN, ("format",), None, "expected a plan of format 1"),
        (RECIPE, ("recipe",), [], "recipe is"),
        (RECIPE, ("requested",), 3, "requested is '3'; expected text"),
        (RECIPE, ("environment",), None, "environment is 'None'; expected an object"),
        (RECIPE, ("environment", "packages"), 1, r"environment\.packages is '1'"),
        (RECIPE, ("recipe", "layers"), [["0", -3]], r"recipe\.layers is no list"),
        (RECIPE, ("recipe", "layers"), [["0", 1 << 60]], r"recipe\.layers is no list"),
        (RECIPE, ("recipe", "layers"), [["a/b", 3]], r"recipe\.layers is no list"),
        (RECIPE, ("recipe", "layers"), [["0", 3], ["0", 3]], r"recipe\.layers is no list"),
        (RECIPE, ("recipe", "layers"), ["03"], r"recipe\.layers is no list"),
        (RECIPE, ("recipe", "layers"), [], r"recipe\.layers is no list"),
        (RECIPE, ("recipe", "view"), "segments:0", "recipe.view 'segments:0': expected"),
        (RECIPE, ("recipe", "view"), 1, r"recipe\.view is '1'"),
        (RECIPE, ("recipe", "model"), "x", r"recipe\.model is 'x'"),
        (RECIPE, ("recipe", "model", "aliases"), {"final": ["2"]}, r"recipe\.model\.aliases names"),
        (RECIPE, ("recipe", "model", "revision"), ..., r"recipe\.model\.revision is 'missing'"),
        (RECIPE, ("sha256",), 1, "sha256 is '1'; expected text"),
        (RECIPE, ("sha256",), "0" * 64, "does not have the sha256"),
    ],
)
def test_json_that_lies_is_one_clear_error(
    store: FeatureStore,
    name: str,
    where: tuple[Any, ...],
    value: Any,
    message: str,
    peak: Callable[[], int],
) -> None:
    change(store.path / name, where, value)
    with pytest.raises(ProbeError, match=message) as refused:
        read_all(store.path)
    assert "\n" not in str(refused.value)
    assert verify_store(store.path).damage
    assert peak() < 1 << 24


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
        ProbeError, match=r"certificate\.json: quick is 'yes'; expected true or false"
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
    for wrong in ({"part": [0, 3]}, {"part": [1, 4]}, {"shard": "shard-00000.1of3"}):
        write_json(path, index | wrong)
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


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_value_in_any_json_is_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.getbasetemp() / "hostile"
    if not root.exists():
        made = create_store(root, "org/small", recipe(), ENVIRONMENT)
        add(made, random_frames("ab"))
        write_json(
            made.path / "certificate.json",
            {"quick": True, "passed": True, "findings": [{"check": "x", "result": "ok"}]},
        )
    [path] = root.glob("*/*")
    name = data.draw(st.sampled_from([INDEX, PLAN, RECIPE, "certificate.json"]))
    before = (path / name).read_bytes()
    where = data.draw(st.sampled_from(list(places(read_json(path / name)))))
    try:
        change(path / name, where, data.draw(st.just(...) | VALUES))
        try:
            for found in find_stores(root):
                describe_store(found)
                for layer in found.layers:
                    found.layer(layer)
        except ProbeError:
            pass
        verify_store(path)
    finally:
        (path / name).write_bytes(before)
