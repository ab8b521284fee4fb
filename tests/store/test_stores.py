"""The feature store: what goes in comes out or an error does, plain h5py opens it, and only whole
shards count.
"""

import errno
import fcntl
import hashlib
import itertools
import json
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from exhaustive import mostly_nightly
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probe.errors import ProbeError, UnreadError, UsageError
from probe.extraction.pooling import quantised
from probe.files import read_json, write_json
from probe.store.feature_store import Failure, FeatureStore, LayerArray
from probe.store.integrity import verify_store
from probe.store.shards import ShardContent, half_if_faithful, merge_runs
from probe.store.stores import (
    create_store,
    describe_store,
    find_stores,
    open_store,
    select_store,
    store_path,
)
from probe.store.views import VIEWS, n_rows, parse_view, pool, serves

Frames = dict[str, dict[str, np.ndarray]]  # layer -> key -> (frame, dim)

WIDTHS = {"0": 3, "1": 5, "2": 4}
ENVIRONMENT = {"packages": {"python": "3"}, "code": "0", "device": "a processor", "threads": 1}


def recipe(
    view: str = "frames",
    layers: Sequence[str] = tuple(WIDTHS),
    condition: str = "clean",
    dtype: str = "float16",
    compression: str = "none",
    **model: Any,
) -> dict[str, Any]:
    """A recipe like the ones of extraction; ``model`` changes what is said of the model."""
    usual = {
        "id": "org/small",
        "revision": "a" * 40,
        "weights_sha256": "b" * 64,
        "family": "wav2vec2",
        "aliases": {"final": "2"},
        "rate_hz": 16_000,
        "hop_samples": 320,
    }
    layer_widths = [[name, WIDTHS[name]] for name in layers]
    of_audio = {"condition": condition, "audio": {"decoder": "x"}}
    packing = {"dtype": dtype} | ({"compression": compression} if compression != "none" else {})
    return {"model": usual | model, "layers": layer_widths, "view": view, **of_audio, **packing}


def random_frames(
    keys: Sequence[str], seed: int = 0, scale: float = 1.0, layers: Sequence[str] = tuple(WIDTHS)
) -> Frames:
    """Normal values for utterances of 1 to 9 frames."""
    generator = np.random.default_rng(seed)
    lengths = {key: int(generator.integers(1, 10)) for key in keys}
    return {
        name: {
            key: (scale * generator.normal(size=(lengths[key], WIDTHS[name]))).astype(np.float32)
            for key in keys
        }
        for name in layers
    }


def sha_of(key: str, version: int = 0) -> str:
    return hashlib.sha256(f"{key} {version}".encode()).hexdigest()


def entry(key: str, n_frames: int, rows: int, version: int = 0) -> dict[str, Any]:
    """What an index says of an utterance."""
    return {
        "key": key,
        "audio_sha256": sha_of(key, version),
        "audio_bytes": 100 + version,
        "audio_mtime_ns": version,
        "duration_s": 0.02 * n_frames,
        "n_frames": n_frames,
        "rows": rows,
    }


def add(
    store: FeatureStore,
    frames: Frames,
    version: int = 0,
    columns: dict[str, Sequence[str]] | None = None,
) -> str:
    """Writes one shard with every utterance of ``frames``, pooled as the store wants; returns its
    name.
    """
    keys = list(next(iter(frames.values())))
    [job] = store.add_plan([(tuple(keys), 1)])
    [name] = job.shard_names()
    stored = {
        layer: [pool(of_key[key], store.view) for key in keys] for layer, of_key in frames.items()
    }
    lengths = [len(next(iter(frames.values()))[key]) for key in keys]
    scales: dict[str, Any] = {}
    if store.recipe["dtype"] == "int8":
        both = {
            layer: [quantised(torch.from_numpy(rows)) for rows in of_layer]
            for layer, of_layer in stored.items()
        }
        stored, scales = (
            {layer: [pair[i].numpy() for pair in pairs] for layer, pairs in both.items()}
            for i in (0, 1)
        )
    shas = [sha_of(key, version) for key in keys]
    content = ShardContent(
        keys, shas, stored, columns or {}, store.recipe, ENVIRONMENT, scales=scales
    )
    entries = [
        entry(key, n, n_rows(n, store.view), version) for key, n in zip(keys, lengths, strict=True)
    ]
    store.write_shard(name, content, entries, [])
    store.refresh()
    return name


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., FeatureStore]:
    """Begins a store in the test's folder."""

    def begin(requested: str = "org/small", root: str = "features", **changed: Any) -> FeatureStore:
        return create_store(tmp_path / root, requested, recipe(**changed), ENVIRONMENT)

    return begin


def assert_holds(array: LayerArray, expected: Sequence[np.ndarray], exact: bool = False) -> None:
    """Each utterance's rows are those, up to float16."""
    assert len(array.keys) == len(expected) == len(array.offsets) - 1
    for found, wanted in zip(array, expected, strict=True):
        assert found.shape == wanted.shape
        np.testing.assert_allclose(
            found.astype(np.float64), wanted, rtol=0 if exact else 1e-3, atol=0 if exact else 2e-3
        )


# --- round trip


def in_segments(frames: np.ndarray, n: int) -> np.ndarray:
    """Means of ``n`` stretches, the slow way."""
    starts = [i * len(frames) // n for i in range(n + 1)]
    return np.stack(
        [frames[a:b].mean(axis=0) if b > a else frames[a] for a, b in itertools.pairwise(starts)]
    )


@pytest.mark.parametrize("view", VIEWS)
def test_what_was_stored_is_read_back(make: Callable[..., FeatureStore], view: str) -> None:
    store = make(view=view)
    frames = random_frames(["a", "b", "c", "d"])
    add(store, frames)
    for layer, of_key in frames.items():
        expected = {
            "frames": list(of_key.values()),
            "frames:2": [item[::2] for item in of_key.values()],
            "segments:10": [in_segments(item, 10) for item in of_key.values()],
            "mean": [item.mean(axis=0)[None] for item in of_key.values()],
            "meanstd": [
                np.concatenate([item.mean(axis=0), item.std(axis=0)])[None]
                for item in of_key.values()
            ],
        }[view]
        array = open_store(store.path).layer(layer)
        assert array.keys == list(of_key)
        assert array.values.dtype == np.float16
        assert_holds(array, expected)


@given(
    order=st.permutations(["a", "b", "c", "d", "e", "f"]), n=st.integers(0, 6), twice=st.booleans()
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_keys_are_read_in_any_order_and_number(
    tmp_path: Path, order: list[str], n: int, twice: bool
) -> None:
    store = create_store(tmp_path, "org/small", recipe(), ENVIRONMENT)
    frames = random_frames("abcdef")
    if not store.keys:
        add(store, {layer: {key: of_key[key] for key in "abc"} for layer, of_key in frames.items()})
        add(store, {layer: {key: of_key[key] for key in "def"} for layer, of_key in frames.items()})
    keys = order[:n] * (1 + twice)
    array = store.layer("1", keys)
    assert array.keys == keys
    assert_holds(array, [frames["1"][key] for key in keys])


def test_a_stored_layer_is_an_array_with_offsets_and_keys(
    make: Callable[..., FeatureStore],
) -> None:
    store = make()
    frames = random_frames(["a", "b"])
    add(store, frames)
    array = open_store(store.path, layer="0")
    lengths = [len(item) for item in frames["0"].values()]
    assert array.offsets.dtype == np.int64
    assert list(array.offsets) == [0, lengths[0], sum(lengths)]
    assert array.values.shape == (sum(lengths), WIDTHS["0"])
    assert store.layers == WIDTHS


def test_an_alias_stands_for_its_layer(make: Callable[..., FeatureStore]) -> None:
    store = make()
    add(store, random_frames(["a", "b"]))
    np.testing.assert_array_equal(store.layer("final").values, store.layer("2").values)


def test_an_unknown_layer_is_refused_with_the_layers_there(
    make: Callable[..., FeatureStore],
) -> None:
    store = make(layers=["0", "1"])
    add(store, random_frames(["a"], layers=["0", "1"]))
    for name in ("13", "final"):
        with pytest.raises(ProbeError, match=rf"layer {name} asked for; the store holds 0, 1\. "):
            store.layer(name)


def test_unknown_keys_are_refused_by_name(make: Callable[..., FeatureStore]) -> None:
    store = make()
    add(store, random_frames(["a"]))
    with pytest.raises(
        ProbeError,
        match=r"no features of b, c\. Run `probe extract` with the manifest that has them",
    ):
        store.layer("0", ["a", "b", "c"])


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), max_size=8))
def test_merging_runs_copies_the_same_rows(pieces: list[tuple[int, int]]) -> None:
    position, given_pieces = 0, []
    for first, length in pieces:
        given_pieces.append((first, first + length, position))
        position += length
    source, plain, merged = np.arange(30), np.full(position, -1), np.full(position, -1)
    for into, runs in ((plain, given_pieces), (merged, merge_runs(given_pieces))):
        for first, stop, start in runs:
            into[start : start + stop - first] = source[first:stop]
    np.testing.assert_array_equal(plain, merged)
    assert len(merge_runs(given_pieces)) <= len(given_pieces)


def test_utterances_that_adjoin_are_read_in_one_piece() -> None:
    assert merge_runs([(5, 9, 5), (0, 5, 0), (9, 10, 30)]) == [(0, 9, 0), (9, 10, 30)]


# --- inside a shard


def test_plain_h5py_reads_a_shard(make: Callable[..., FeatureStore]) -> None:
    store = make()
    frames = random_frames(["a", "größe.wav"])
    name = add(store, frames, columns={"text": ["one", "zwölf"], "speaker": ["", ""]})
    with h5py.File(store.path / f"{name}.h5") as file:
        assert set(file) == {"layers", "offsets", "keys", "audio_sha256", "manifest"}
        assert set(file["layers"]) == set(file["offsets"]) == set(WIDTHS)
        for layer, of_key in frames.items():
            values, offsets = file[f"layers/{layer}"], file[f"offsets/{layer}"][:]
            assert values.dtype == np.float16
            assert values.fletcher32
            assert values.compression is None
            for number, wanted in enumerate(of_key.values()):
                np.testing.assert_array_equal(
                    values[offsets[number] : offsets[number + 1]], wanted.astype(np.float16)
                )
        assert [key.decode() for key in file["keys"][:]] == ["a", "größe.wav"]
        assert file["keys"].dtype.kind == "S"
        assert [item.decode() for item in file["audio_sha256"][:]] == [
            sha_of("a"),
            sha_of("größe.wav"),
        ]
        assert [item.decode() for item in file["manifest/text"][:]] == ["one", "zwölf"]
        assert file.attrs["format"] == 1
        assert "org/small" in json.loads(file.attrs["recipe"])["model"]["id"]
        assert "packages" in json.loads(file.attrs["environment"])


def test_the_index_holds_the_shard_s_sha256(make: Callable[..., FeatureStore]) -> None:
    store = make()
    name = add(store, random_frames(["a"]))
    content = (store.path / f"{name}.h5").read_bytes()
    index = read_json(store.path / f"{name}.json")
    assert index["sha256"] == hashlib.sha256(content).hexdigest()
    assert index["bytes"] == len(content)


def test_equal_input_gives_equal_bytes(make: Callable[..., FeatureStore]) -> None:
    stores = [make(root=root) for root in ("one", "two")]
    for store in stores:
        add(store, random_frames(["a", "b"]), columns={"text": ["x", "y"]})
    names = sorted(path.name for path in stores[0].path.iterdir())
    assert names == ["plan-00000.json", "recipe.json", "shard-00000.h5", "shard-00000.json"]
    for name in names:
        assert (stores[0].path / name).read_bytes() == (stores[1].path / name).read_bytes(), name


@pytest.mark.parametrize(
    "columns",
    [["", "text"], ["text", "", "."], ["a/b", "a_b", "a.b"], ["..", ".", "/", "_"], ["größe"]],
)
def test_odd_column_names_do_not_stop_a_shard(
    make: Callable[..., FeatureStore], columns: list[str]
) -> None:
    store = make()
    name = add(
        store, random_frames(["a"]), columns={column: [f"value of {column}"] for column in columns}
    )
    with h5py.File(store.path / f"{name}.h5") as file:
        values = {item[0].decode() for item in file["manifest"].values()}
    assert values == {f"value of {column}" for column in columns}
    assert_holds(store.layer("0"), list(random_frames(["a"])["0"].values()))


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(1.0, "float16"), (1e-2, "float16"), (1e6, "float32"), (1e-6, "float32"), (1e30, "float32")],
)
def test_a_layer_that_float16_would_bend_stays_float32(
    make: Callable[..., FeatureStore], scale: float, dtype: str
) -> None:
    store = make()
    frames = random_frames(["a", "b"])
    bent = random_frames(["a", "b"], scale=scale)
    add(store, {"0": frames["0"], "1": bent["1"], "2": frames["2"]})
    array = store.layer("1")
    assert array.values.dtype == dtype
    assert store.layer("0").values.dtype == np.float16
    for found, wanted in zip(array, bent["1"].values(), strict=True):
        np.testing.assert_allclose(
            found,
            wanted,
            rtol=0 if dtype == "float32" else 1e-3,
            atol=0 if dtype == "float32" else 1e-6,
        )


def test_one_value_beyond_float16_keeps_the_layer_unclipped() -> None:
    values = np.ones((1000, 8), np.float32)
    assert half_if_faithful(values).dtype == np.float16
    values[500, 3] = 65_520.0  # rounds to infinity
    np.testing.assert_array_equal(half_if_faithful(values), values)
    assert half_if_faithful(values).dtype == np.float32


def test_zeros_are_float16() -> None:
    assert half_if_faithful(np.zeros((3, 4), np.float32)).dtype == np.float16


def test_layers_of_both_dtypes_are_read_as_one_array(make: Callable[..., FeatureStore]) -> None:
    store = make()
    small, large = random_frames(["a"]), random_frames(["b"], scale=1e6)
    add(store, small)
    add(store, large)
    array = store.layer("0", ["b", "a"])
    assert array.values.dtype == np.float32
    first, second = array
    np.testing.assert_array_equal(first, large["0"]["b"])
    np.testing.assert_array_equal(second, small["0"]["a"].astype(np.float16))
    assert store.layer("0", ["a"]).values.dtype == np.float16


# --- views


@pytest.mark.parametrize(
    ("held", "asked"),
    [(held, asked) for asked in VIEWS for held in VIEWS if serves(held, asked) is not None],
)
def test_a_richer_view_serves_a_poorer_one(
    make: Callable[..., FeatureStore], held: str, asked: str
) -> None:
    store = make(view=held)
    frames = random_frames(["a", "b", "c"])
    add(store, frames)
    array = store.layer("1", ["c", "a"], view=asked)
    as_asked = held if parse_view(held)[0] == "frames" and asked == "frames" else asked
    assert_holds(array, [pool(frames["1"][key], as_asked) for key in ("c", "a")])
    assert array.values.shape[1] == WIDTHS["1"] * (2 if asked == "meanstd" else 1)
    assert store.layer("1", [], view=asked).values.shape == (0, array.values.shape[1])


@pytest.mark.parametrize(
    ("held", "asked"),
    [
        ("mean", "meanstd"),
        ("mean", "frames"),
        ("meanstd", "frames"),
        ("frames:2", "mean"),
        ("segments:10", "mean"),
    ],
)
def test_a_poorer_view_does_not_serve_a_richer_one(
    make: Callable[..., FeatureStore], held: str, asked: str
) -> None:
    store = make(view=held)
    add(store, random_frames(["a"]))
    with pytest.raises(
        ProbeError, match=f"holds {held}, which cannot give {asked}. Extract with --view {asked}"
    ):
        store.layer("0", view=asked)


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize(
    ("dtype", "stored", "read"), [("int8", "int8", "float32"), ("float32", "float32", "float32")]
)
def test_other_dtypes_are_stored_and_read(
    make: Callable[..., FeatureStore], dtype: str, stored: str, read: str, compression: str
) -> None:
    store = make(dtype=dtype, compression=compression)
    frames = random_frames(["a", "b", "c"])
    name = add(store, frames)
    with h5py.File(store.path / f"{name}.h5") as file:
        assert file["layers/1"].dtype == stored
        assert file["layers/1"].compression == (compression if compression != "none" else None)
        if dtype == "int8":
            rows = file["layers/1"][:] * file["scales/1"][:][:, None]
            np.testing.assert_array_equal(rows, store.layer("1").values)
    array = store.layer("1", ["c", "a"])
    assert array.values.dtype == read
    for found, key in zip(array, ("c", "a"), strict=True):
        wanted = frames["1"][key]
        bound = np.abs(wanted).max(axis=1, keepdims=True) / 253 if dtype == "int8" else 0
        assert (np.abs(found - wanted) <= bound).all()


def test_every_kth_frame_lengthens_the_hop(make: Callable[..., FeatureStore]) -> None:
    assert make(view="frames:3").hop_s("0") == pytest.approx(3 * make().hop_s("0"))
    assert make(view="meanstd").hop_s("0") == make().hop_s("0")


@pytest.mark.parametrize(
    "view",
    [
        "",
        "max",
        "frames:1",
        "frames:0",
        "frames:-2",
        "segments",
        "segments:0",
        "mean:2",
        "frames:9999",
    ],
)
def test_a_view_that_is_none_is_refused(view: str) -> None:
    with pytest.raises(UsageError, match="expected frames, frames:k"):
        parse_view(view)


def test_one_frame_has_no_spread() -> None:
    np.testing.assert_array_equal(pool(np.float32([[3, 4]]), "meanstd"), np.float32([[3, 4, 0, 0]]))


# --- finding stores


def test_a_store_is_opened_from_a_folder_above(
    make: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    store = make()
    add(store, random_frames(["a"]))
    for path in (store.path, store.path.parent, tmp_path / "features", str(store.path)):
        assert open_store(path).path == store.path
    assert (
        store.path
        == tmp_path / "features" / "org--small" / f"frames-clean-{store.recipe_sha256[:8]}"
    )


def test_several_stores_or_none_are_an_error(
    make: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(
            ProbeError,
            match=r"expected one feature store, found none\. Name the folder that holds "
            r"recipe\.json",
        ):
            open_store(path)
    make()
    make(view="mean")
    with pytest.raises(
        ProbeError,
        match=r"expected one feature store, found .*frames-clean-\w{8}, .*mean-clean-\w{8}\. Name",
    ):
        open_store(tmp_path / "features")


def test_an_equal_recipe_is_the_same_folder_and_another_is_not(
    make: Callable[..., FeatureStore],
) -> None:
    assert make().path == make().path
    changes: list[dict[str, Any]] = [
        {},
        {"view": "mean"},
        {"layers": ["0", "1"]},
        {"condition": "noise at 10 dB"},
        {"revision": "c" * 40},
        {"weights_sha256": "c" * 64},
        {"rate_hz": 8000},
    ]
    assert len({make(**changed).path for changed in changes}) == len(changes)


def test_the_hash_of_a_recipe_does_not_depend_on_its_order() -> None:
    turned = dict(reversed(recipe().items()))
    assert store_path(Path("x"), recipe()) == store_path(Path("x"), turned)


def test_the_store_of_the_view_itself_is_chosen_before_a_richer_one(
    make: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    frames, meanstd = make(), make(view="meanstd")
    root = tmp_path / "features"
    assert select_store(root, "org/small", "frames").path == frames.path
    assert select_store(root, "org/small", "meanstd").path == meanstd.path
    assert select_store(root, "org/small", "mean").path == meanstd.path
    mean = make(view="mean")
    assert select_store(root, "org/small", "mean").path == mean.path


def test_the_store_with_the_most_layers_is_chosen(
    make: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    make(layers=["0"])
    whole = make()
    make(layers=["1", "2"])
    assert select_store(tmp_path / "features", "org/small", "mean").path == whole.path


def test_the_store_that_has_the_utterances_is_chosen_first(
    make: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    make(view="mean")
    frames = make()
    add(frames, random_frames(["a", "b"]))
    assert (
        select_store(tmp_path / "features", "org/small", "mean", keys=["a", "b"]).path
        == frames.path
    )


def test_the_store_of_another_condition_is_not_chosen(
    make: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    clean, noisy = make(), make(condition="noise")
    assert select_store(tmp_path / "features", "org/small", "mean", "clean").path == clean.path
    assert select_store(tmp_path / "features", "org/small", "mean", "noise").path == noisy.path
    with pytest.raises(ProbeError, match=r"no features of org/small that give mean \(telephone\)"):
        select_store(tmp_path / "features", "org/small", "mean", "telephone")


def test_a_revision_names_its_store_and_without_one_two_are_an_error(
    make: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    first = make("org/small@main", revision="1" * 40)
    second = make("org/small@v2", revision="2" * 40)
    root = tmp_path / "features"
    for name, store in [("main", first), ("v2", second), ("1111", first), ("2" * 40, second)]:
        assert select_store(root, f"org/small@{name}", "mean").path == store.path
    with pytest.raises(
        ProbeError,
        match=r"2 stores of different models are called org/small; they differ in "
        r"revision.*@\d{12}",
    ):
        select_store(root, "org/small", "mean")
    with pytest.raises(ProbeError, match="no features of org/small@3333"):
        select_store(root, "org/small@3333", "mean")


def test_each_seed_of_random_weights_has_its_own_store(
    make: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    stores = {
        name: make(name, id="random:x", revision=f"seed {name.partition('@')[2] or 0}")
        for name in ("random:x", "random:x@1", "random:x@10")
    }
    for name, store in stores.items():
        assert select_store(tmp_path / "features", name, "mean").path == store.path


def test_a_model_without_features_is_named_with_what_is_there(
    make: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    with pytest.raises(
        ProbeError,
        match=r"no features of mfcc that give mean \(clean\); found no store\. Run `probe "
        r"extract --model mfcc",
    ):
        select_store(tmp_path, "mfcc", "mean")
    make(view="mean")
    with pytest.raises(
        ProbeError, match=r"that give frames \(clean\); found org/small \(mean, clean\)\. Run"
    ):
        select_store(tmp_path / "features", "org/small", "frames")


def test_a_store_is_described_for_people(make: Callable[..., FeatureStore]) -> None:
    store = make()
    add(store, random_frames(["a", "b"]))
    store.add_plan([(("c",), 3)])
    described = describe_store(store)
    assert described["utterances"].startswith("2 (")
    assert described["layers"] == "0, 1, 2 (final is 2)"
    assert described["shards"].startswith("1 complete, 3 planned and missing")
    assert described["failures"] == "0"
    assert described["dtype"] == "float16"


# --- versions


def versions_of(store: FeatureStore, path: Path, contents: Sequence[bytes]) -> list[str]:
    """Stores a version of utterance ``a`` for each content of its file; returns the shards."""
    names = []
    for number, content in enumerate(contents):
        path.write_bytes(content)
        os.utime(path, ns=(number, number))
        [job] = store.add_plan([(("a",), 1)])
        [name] = job.shard_names()
        rows = np.full((number + 1, 3), number, np.float32)
        sha256 = hashlib.sha256(content).hexdigest()
        index = entry("a", len(rows), len(rows)) | {
            "audio_sha256": sha256,
            "audio_bytes": len(content),
            "audio_mtime_ns": number,
        }
        store.write_shard(
            name,
            ShardContent(["a"], [sha256], {"0": [rows]}, {}, store.recipe, ENVIRONMENT),
            [index],
            [],
        )
        names.append(name)
    store.refresh()
    return names


def test_the_version_that_belongs_to_a_file_is_found(
    make: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    store, path = make(layers=["0"]), tmp_path / "a.wav"
    names = versions_of(store, path, [b"first", b"other", b"longer one"])
    for number, content in enumerate([b"first", b"other", b"longer one"]):
        path.write_bytes(content)  # with another time of change, so the content decides
        stored = store.match("a", path)
        assert stored is not None
        assert stored.pieces[0][0] == names[number]
        assert set(store.read("0", [stored]).values.ravel()) == {number}
    path.write_bytes(b"never seen")
    assert store.match("a", path) is None
    path.write_bytes(b"12345")
    assert store.match("a", path) is None
    assert store.match("b", path) is None
    assert set(store.layer("0", ["a"]).values.ravel()) == {2}


def test_an_unchanged_file_is_not_read_to_be_recognised(
    make: Callable[..., FeatureStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, path = make(layers=["0"]), tmp_path / "a.wav"
    versions_of(store, path, [b"first"])
    monkeypatch.setattr(
        "probe.store.feature_store.sha256_of_file", lambda _: pytest.fail("the file was read")
    )
    assert store.match("a", path) is not None
    path.write_bytes(b"of another size")
    assert store.match("a", path) is None


def test_features_are_found_when_the_audio_is_gone_unless_versions_differ(
    make: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    store, path = make(layers=["0"]), tmp_path / "a.wav"
    versions_of(store, path, [b"first"])
    path.unlink()
    assert store.match("a", path) is not None
    versions_of(store, path, [b"first", b"other"])
    path.unlink()
    with pytest.raises(
        ProbeError,
        match=r"a is stored in 3 versions, and .*a\.wav cannot tell which is meant \(No such file",
    ):
        store.match("a", path)


def test_a_file_that_cannot_be_read_matches_nothing(
    make: Callable[..., FeatureStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, path = make(layers=["0"]), tmp_path / "a.wav"
    versions_of(store, path, [b"first"])
    os.utime(path, ns=(77, 77))

    def broken(_: Path) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("probe.store.feature_store.sha256_of_file", broken)
    assert store.match("a", path) is None


def test_a_failure_counts_while_its_file_is_the_same(
    make: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    store, path = make(), tmp_path / "a.wav"
    path.write_bytes(b"short")
    [job] = store.add_plan([(("a",), 1)])
    failure = Failure("a", "too short", 5, path.stat().st_mtime_ns)
    empty = ShardContent([], [], {}, {}, store.recipe, ENVIRONMENT)
    assert store.write_shard(job.shard_names()[0], empty, [], [failure]) == 0
    store = open_store(store.path)
    assert store.complete == {0}
    assert store.failure("a", path) == failure
    assert store.failure("b", path) is None
    path.unlink()
    assert store.failure("a", path) == failure
    path.write_bytes(b"longer")
    assert store.failure("a", path) is None
    assert "too short" in describe_store(store).values()


# --- completeness, parts, plans


def write_parts(
    store: FeatureStore,
    frames: np.ndarray,
    cuts: Sequence[int],
    version: int = 0,
    only: Sequence[int] = (0, 1, 2),
) -> list[str]:
    """Writes those parts (numbered in ``only``) of a long utterance whose parts end at ``cuts``;
    returns the shards' names.
    """
    job = store.jobs[-1] if store.jobs else store.add_plan([(("long",), len(cuts))])[0]
    bounds = list(zip([0, *cuts], cuts, strict=False))
    for part, (name, (start, stop)) in enumerate(zip(job.shard_names(), bounds, strict=True)):
        if part in only:
            content = ShardContent(
                ["long"],
                [sha_of("long", version)],
                {"0": [frames[start:stop]]},
                {},
                store.recipe,
                ENVIRONMENT,
                (part, len(cuts)),
            )
            store.write_shard(
                name, content, [entry("long", len(frames), stop - start, version)], []
            )
    store.refresh()
    return job.shard_names()


@pytest.mark.parametrize("cuts", [[3, 6, 10], [0, 0, 10], [0, 9, 10], [10, 10, 10]])
def test_a_long_utterance_is_read_across_its_shards(
    make: Callable[..., FeatureStore], cuts: list[int]
) -> None:
    store = make(layers=["0"])
    frames = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    names = write_parts(store, frames, cuts)
    assert names == ["shard-00000.1of3", "shard-00000.2of3", "shard-00000.3of3"]
    array = store.layer("0")
    assert array.keys == ["long"]
    np.testing.assert_array_equal(array.values, frames.astype(np.float16))


def test_a_long_utterance_counts_when_all_its_parts_are_there(
    make: Callable[..., FeatureStore],
) -> None:
    store = make(layers=["0"])
    frames = np.ones((10, 3), np.float32)
    write_parts(store, frames, [3, 6, 10])
    (store.path / "shard-00000.2of3.json").unlink()
    store.refresh()
    assert store.keys == []
    assert store.complete == set()


def test_parts_of_different_audio_do_not_count_together(make: Callable[..., FeatureStore]) -> None:
    store = make(layers=["0"])
    write_parts(store, np.zeros((10, 3), np.float32), [3, 6, 10])
    write_parts(store, np.ones((7, 3), np.float32), [2, 4, 7], version=1, only=[0])
    assert store.keys == []
    write_parts(store, np.ones((7, 3), np.float32), [2, 4, 7], version=1)
    assert set(store.layer("0").values.ravel()) == {1}


def test_no_temporary_file_counts_as_a_shard(make: Callable[..., FeatureStore]) -> None:
    store = make()
    name = add(store, random_frames(["a"]))
    data = (store.path / f"{name}.h5").read_bytes()
    store.add_plan([(("b",), 1)])
    for leftover in (
        ".shard-00001.h5.1-deadbeef.tmp",
        ".shard-00001.json.1-deadbeef.tmp",
        ".plan-00002.json.1-deadbeef.tmp",
    ):
        (store.path / leftover).write_bytes(data)
    (store.path / "shard-00001.h5").write_bytes(data)  # and none without its index
    store.refresh()
    assert store.keys == ["a"]
    assert store.complete == {0}
    assert [path.path for path in find_stores(store.path)] == [store.path]


def test_a_plan_never_replaces_an_earlier_one(make: Callable[..., FeatureStore]) -> None:
    store = make()
    for key in "abc":
        add(store, random_frames([key]))
    (store.path / "plan-00000.json").unlink()
    store = open_store(store.path)
    later = (store.path / "plan-00002.json").read_bytes()
    [job] = store.add_plan([(("d",), 1)])
    assert job.number == 3
    assert (store.path / "plan-00002.json").read_bytes() == later
    assert (store.path / "plan-00003.json").exists()


def test_a_large_plan_is_several_files(
    make: Callable[..., FeatureStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("probe.store.feature_store.PLAN_KEYS", 3)
    store = make()
    planned = store.add_plan([(("a", "b"), 1), (("c",), 2), (("d",), 1), (("e", "f", "g"), 1)])
    assert [path.name for path in sorted(store.path.glob("plan-*"))] == [
        "plan-00000.json",
        "plan-00001.json",
    ]
    assert open_store(store.path).jobs == planned == store.jobs
    assert [job.number for job in planned] == [0, 1, 2, 3]
    assert verify_store(store.path).state == "sound"


def test_a_shard_is_read_without_a_lock_of_its_own(make: Callable[..., FeatureStore]) -> None:
    store = make()
    frames = random_frames("ab")
    add(store, frames)
    with (store.path / "shard-00000.h5").open("rb") as shard:
        fcntl.flock(shard, fcntl.LOCK_EX)
        assert len(store.layer("0").values)
        assert not verify_store(store.path).damage


@pytest.mark.parametrize("locking", [True, False, None])
def test_a_shard_that_this_process_has_open_is_read_too(
    make: Callable[..., FeatureStore], locking: bool | None
) -> None:
    store = make()
    add(store, random_frames("ab"))
    with h5py.File(store.path / "shard-00000.h5", locking=locking) as file:
        assert np.array_equal(store.layer("0").values, file["layers/0"][:])


def test_a_part_that_is_written_again_never_stands_beside_its_old_index(
    make: Callable[..., FeatureStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make()
    [job] = store.add_plan([(("a",), 2)])

    def write_first_part(n_frames: int, version: int) -> None:
        """The first half of an utterance, whose audio has another length in each version."""
        rows = {
            layer: [np.ones((n_frames // 2, width), np.float32)] for layer, width in WIDTHS.items()
        }
        content = ShardContent(
            ["a"], [sha_of("a", version)], rows, {}, store.recipe, ENVIRONMENT, (0, 2)
        )
        store.write_shard(
            job.shard_names()[0], content, [entry("a", n_frames, n_frames // 2, version)], []
        )

    write_first_part(40, 0)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("probe.store.feature_store.write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            write_first_part(4000, 1)
    reopened = FeatureStore(store.path)
    assert (reopened.keys, reopened.complete) == ([], set())
    assert not verify_store(store.path).damage


def test_a_store_and_its_arrays_are_one_short_line_each(make: Callable[..., FeatureStore]) -> None:
    store = make()
    assert (
        repr(store) == f"FeatureStore({store.path}, 0 utterances, 3 layers of 3, 4 or 5, float16)"
    )
    add(store, random_frames([f"utterance-{number}" for number in range(50)]))
    assert (
        repr(store) == f"FeatureStore({store.path}, 50 utterances, 3 layers of 3, 4 or 5, float16)"
    )
    array = store.layer("1")
    assert repr(array) == f"LayerArray(50 utterances, {len(array.values)} rows of 5, float16)"


# --- what cannot be read is not damaged


@contextmanager
def no_more_files() -> Iterator[None]:
    """Has the process open no further file meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_shard_that_cannot_be_opened_now_is_not_called_damaged(
    make: Callable[..., FeatureStore],
) -> None:
    store = make()
    add(store, random_frames("ab"))
    with (
        no_more_files(),
        pytest.raises(
            UnreadError,
            match=r"shard-00000\.h5: cannot be read now \(Too many open files\)\. .*remove nothing",
        ),
    ):
        store.layer("0")
    with (
        no_more_files(),
        pytest.raises(
            UnreadError,
            match=r"recipe\.json: cannot be read now \(Too many open files\)\. .*remove nothing",
        ),
    ):
        FeatureStore(store.path)
    with no_more_files(), pytest.raises(OSError, match="Too many open files"):
        store.refresh()


# --- damage


@pytest.fixture
def filled(
    make: Callable[..., FeatureStore], monkeypatch: pytest.MonkeyPatch
) -> tuple[FeatureStore, Frames]:
    """A store of one shard with float16 and float32 layers in several chunks each."""
    monkeypatch.setattr("probe.store.shards.CHUNK_BYTES", 64)
    store = make()
    frames = random_frames("abcdef")
    frames["1"] = {key: item * np.float32(1e6) for key, item in frames["1"].items()}
    add(store, frames, columns={"text": list("uvwxyz")})
    return store, frames


def read_everything(path: Path) -> dict[str, tuple[list[str], list[int], bytes]]:
    store = FeatureStore(path)
    arrays = {layer: store.layer(layer) for layer in WIDTHS}
    return {
        layer: (array.keys, list(array.offsets), array.values.tobytes())
        for layer, array in arrays.items()
    }


@pytest.mark.parametrize(
    "name", ["shard-00000.h5", "shard-00000.json", "plan-00000.json", "recipe.json"]
)
@pytest.mark.parametrize("n", mostly_nightly([50, 300], [50]))
def test_flipped_bits_give_an_error_or_the_right_values(
    filled: tuple[FeatureStore, Frames], name: str, n: int
) -> None:
    path = filled[0].path
    right = read_everything(path)
    content = (path / name).read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for position in generator.choice(len(content), min(n, len(content)), replace=False):
        damaged = bytearray(content)
        damaged[position] ^= 1 << generator.integers(8)
        (path / name).write_bytes(damaged)
        try:
            assert read_everything(path) == right, f"byte {position} of {name}"
        except ProbeError:
            refused += 1
    assert refused > n // 15
    (path / name).write_bytes(content)
    assert read_everything(path) == right


def test_a_flipped_bit_in_every_value_is_noticed(filled: tuple[FeatureStore, Frames]) -> None:
    store, _ = filled
    path = store.path / "shard-00000.h5"
    content = path.read_bytes()
    for layer in WIDTHS:
        with h5py.File(path) as file:
            chunk = file[f"layers/{layer}"].id.get_chunk_info(0)
        for position in range(chunk.byte_offset, chunk.byte_offset + chunk.size, 7):
            damaged = bytearray(content)
            damaged[position] ^= 0x10
            path.write_bytes(damaged)
            with pytest.raises(
                ProbeError,
                match=r"shard-00000\.h5: damaged or not readable .*Remove it with its \.json",
            ):
                store.layer(layer)
        path.write_bytes(content)


def test_overwritten_blocks_give_an_error_or_the_right_values(
    filled: tuple[FeatureStore, Frames],
) -> None:
    path = filled[0].path
    right = read_everything(path)
    shard = path / "shard-00000.h5"
    content = shard.read_bytes()
    generator = np.random.default_rng(1)
    for start in range(0, len(content), 256):
        for block in (b"\0" * 256, b"\xff" * 256, generator.bytes(256)):
            damaged = (content[:start] + block + content[start + 256 :])[: len(content)]
            shard.write_bytes(damaged)
            try:
                assert read_everything(path) == right
            except ProbeError:
                continue


@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
@pytest.mark.parametrize(
    "form", [{}, {"dtype": "float32"}, {"dtype": "int8"}, {"compression": "gzip"}]
)
def test_a_chunk_that_was_lost_with_its_checksum_is_never_read_as_zeros(
    make: Callable[..., FeatureStore],
    monkeypatch: pytest.MonkeyPatch,
    form: dict[str, str],
    fill: bytes,
) -> None:
    monkeypatch.setattr("probe.store.shards.CHUNK_BYTES", 64)
    store = make()
    store = create_store(store.path.parent.parent, "org/small", recipe() | form, ENVIRONMENT)
    add(store, random_frames("abcdef"))
    path = store.path / "shard-00000.h5"
    content = path.read_bytes()
    with h5py.File(path) as file:
        names = [
            f"{group}/{layer}"
            for group in ("layers", "scales")
            for layer in WIDTHS
            if f"{group}/{layer}" in file
        ]
        chunks = [
            (name, file[name].id.get_chunk_info(i))
            for name in names
            for i in range(file[name].id.get_num_chunks())
        ]
    assert len(chunks) > 3 * 2
    for name, chunk in chunks:
        lost = (
            content[: chunk.byte_offset]
            + fill * chunk.size
            + content[chunk.byte_offset + chunk.size :]
        )
        path.write_bytes(lost)
        with pytest.raises(ProbeError, match=r"damaged(, or no shard| or not readable)"):
            store.layer(name.partition("/")[2])


def test_rows_of_zeros_are_values_like_others(make: Callable[..., FeatureStore]) -> None:
    store = make()
    frames = random_frames("ab") | {
        "1": {key: 0 * item for key, item in random_frames("ab")["1"].items()}
    }
    add(store, frames)
    assert not store.layer("1").values.any()


@pytest.mark.parametrize("keep", [0, 1, 0.5, 0.99])
def test_a_truncated_shard_is_refused_by_name(
    filled: tuple[FeatureStore, Frames], keep: float
) -> None:
    store, _ = filled
    shard = store.path / "shard-00000.h5"
    content = shard.read_bytes()
    shard.write_bytes(content[: int(keep if keep == 1 else keep * len(content))])
    with pytest.raises(
        ProbeError,
        match=r"shard-00000\.h5: missing or not the \d+ bytes its index names\. Remove "
        r"shard-00000\.json",
    ):
        open_store(store.path)
    with pytest.raises(ProbeError, match=r"shard-00000\.h5: damaged or not readable"):
        store.layer("0")


def test_a_missing_shard_is_refused_by_name(filled: tuple[FeatureStore, Frames]) -> None:
    store, _ = filled
    (store.path / "shard-00000.h5").unlink()
    with pytest.raises(ProbeError, match=r"shard-00000\.h5: missing or not the"):
        open_store(store.path)


def test_a_store_of_another_format_is_refused(make: Callable[..., FeatureStore]) -> None:
    store = make()
    head = read_json(store.path / "recipe.json")
    write_json(store.path / "recipe.json", head | {"format": 99})
    with pytest.raises(ProbeError, match=r"store format 99; this version reads 1\. Extract again"):
        open_store(store.path)


def test_a_recipe_that_is_not_the_one_that_was_hashed_is_refused(
    make: Callable[..., FeatureStore],
) -> None:
    store = make()
    head = read_json(store.path / "recipe.json")
    write_json(store.path / "recipe.json", head | {"recipe": head["recipe"] | {"view": "mean"}})
    with pytest.raises(
        ProbeError, match=r"recipe\.json: the recipe does not have the sha256 beside it"
    ):
        open_store(store.path)


def soft_link(file: h5py.File, _: Path) -> None:
    file["elsewhere"] = file["layers/0"][:]
    del file["layers/0"]
    file["layers/0"] = h5py.SoftLink("/elsewhere")


def external_link(file: h5py.File, other: Path) -> None:
    del file["layers/0"]
    file["layers/0"] = h5py.ExternalLink(str(other), "layers/0")


def external_link_of_the_group(file: h5py.File, other: Path) -> None:
    del file["layers"]
    file["layers"] = h5py.ExternalLink(str(other), "layers")


def virtual_dataset(file: h5py.File, other: Path) -> None:
    shape = file["layers/0"].shape
    del file["layers/0"]
    layout = h5py.VirtualLayout(shape, np.float16)
    layout[:] = h5py.VirtualSource(str(other), "layers/0", shape)
    file.create_virtual_dataset("layers/0", layout)


def external_storage(file: h5py.File, other: Path) -> None:
    shape = file["layers/0"].shape
    del file["layers/0"]
    file.create_dataset(
        "layers/0", shape, np.float16, external=[(str(other), 0, h5py.h5f.UNLIMITED)]
    )


def group_in_its_place(file: h5py.File, _: Path) -> None:
    del file["layers/0"]
    file.create_group("layers/0")


def nothing_there(file: h5py.File, _: Path) -> None:
    del file["layers/0"]


def other_shape(file: h5py.File, _: Path) -> None:
    rows = len(file["layers/0"])
    del file["layers/0"]
    file["layers/0"] = np.zeros((rows, 7), np.float16)


def fewer_rows(file: h5py.File, _: Path) -> None:
    del file["layers/0"]
    file["layers/0"] = np.zeros((1, 3), np.float16)


def whole_numbers(file: h5py.File, _: Path) -> None:
    shape = file["layers/0"].shape
    del file["layers/0"]
    file["layers/0"] = np.zeros(shape, np.int64)


def texts(file: h5py.File, _: Path) -> None:
    shape = file["layers/0"].shape
    del file["layers/0"]
    file["layers/0"] = np.full(shape, b"x")


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (soft_link, "layers/0 is missing or a link"),
        (external_link, "layers/0 is missing or a link"),
        (external_link_of_the_group, "layers/0 is missing or a link"),
        (virtual_dataset, "is not stored in this file"),
        (external_storage, "is not stored in this file"),
        (group_in_its_place, "layers/0 is no array"),
        (nothing_there, "layers/0 is missing or a link"),
        (other_shape, "the index expects float16 of shape"),
        (fewer_rows, "the index expects float16 of shape"),
        (whole_numbers, "is int64 of shape"),
        (texts, r"is \|S1 of shape"),
    ],
)
def test_a_shard_that_points_elsewhere_or_holds_other_things_is_refused(
    filled: tuple[FeatureStore, Frames],
    make: Callable[..., FeatureStore],
    tamper: Callable[..., None],
    message: str,
) -> None:
    store, frames = filled
    other = make(root="other")
    add(other, frames)
    with h5py.File(store.path / "shard-00000.h5", "r+") as file:
        tamper(file, other.path / "shard-00000.h5")
    with pytest.raises(ProbeError, match=message):
        store.layer("0")


# --- a disk that fails


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_full_disk_is_an_error_that_loses_nothing(
    filled: tuple[FeatureStore, Frames], monkeypatch: pytest.MonkeyPatch, call: str, after: int
) -> None:
    store, _ = filled
    right = read_everything(store.path)
    before = {path.name: path.read_bytes() for path in store.path.iterdir()}
    original, left = getattr(os, call), [after]

    def full(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space left on device"):
            add(store, random_frames(["new"]))
    assert not list(store.path.glob(".*"))
    assert {name: (store.path / name).read_bytes() for name in before} == before
    assert read_everything(store.path) == right
    assert FeatureStore(store.path).complete == {0}
