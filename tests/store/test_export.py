"""An export holds what the store holds, and h5py, numpy and csv alone read it."""

import csv
import errno
import json
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from exhaustive import mostly_nightly
from faults import ended, forked
from windows import Windows, extract, files_of, write_audio, write_manifest

import probe
from probe.errors import ProbeError
from probe.extraction.settings import Storing
from probe.store.feature_store import FeatureStore

NAMES = ["a.wav", "ü.wav", "long.wav", "c.wav"]
STORES: list[dict[str, Any]] = [
    {},
    {"view": "meanstd"},
    {"view": "frames:2"},
    {"dtype": "int8", "compression": "gzip"},
]


@pytest.fixture(params=STORES, ids=["frames", "meanstd", "stride", "int8-gzip"])
def extracted(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shards_of: Callable[..., None],
) -> tuple[FeatureStore, Path]:
    """A store of several shards with an utterance in parts, read and written by blocks of a few
    rows; and its manifest.
    """
    shards_of(48 * 50)
    monkeypatch.setattr("probe.store.export.BLOCK_BYTES", 1500)
    for position, name in enumerate(NAMES):
        write_audio(tmp_path / name, 30_000 if name == "long.wav" else 800 + 240 * position)
    manifest = write_manifest(tmp_path, NAMES)
    keywords = dict(request.param)
    widths = dict(zip("012", keywords.pop("widths", (4, 4, 4)), strict=True))
    done = extract(
        Windows(layers=widths), manifest, tmp_path / "features", storing=Storing(**keywords)
    )
    return FeatureStore(done.store), manifest


only_frames = pytest.mark.parametrize("extracted", [{}], indirect=True, ids=["frames"])


def rows_of(store: FeatureStore, key: str, layer: str) -> np.ndarray:
    return store.layer(layer, [key]).values.astype(np.float32)


def test_one_file_holds_every_layer_packed(
    extracted: tuple[FeatureStore, Path], tmp_path: Path
) -> None:
    store, manifest = extracted
    assert (
        probe.export(store, tmp_path / "out" / "all.h5", corpus=probe.load_corpus(manifest)) == []
    )
    with h5py.File(tmp_path / "out" / "all.h5") as file:
        assert [key.decode() for key in file["keys"][:]] == NAMES
        assert [text.decode() for text in file["audio_sha256"][:]] == [
            store.utterances[key][-1].audio_sha256 for key in NAMES
        ]
        assert sorted(file["layers"]) == sorted(store.layers)
        for layer in store.layers:
            values, offsets = file[f"layers/{layer}"], file[f"offsets/{layer}"][:]
            assert values.dtype == np.float32
            assert values.id.get_offset() is not None  # one piece that can be memory-mapped
            for key, first, stop in zip(NAMES, offsets[:-1], offsets[1:], strict=True):
                np.testing.assert_array_equal(values[first:stop], rows_of(store, key, layer))
            assert offsets[-1] == len(values)
        speakers = [item.label("speaker") for item in probe.load_corpus(manifest).utterances]
        assert [text.decode() for text in file["manifest/speaker"][:]] == speakers
        assert json.loads(file.attrs["recipe"]) == store.recipe


def test_a_folder_holds_an_array_per_layer_and_an_index(
    extracted: tuple[FeatureStore, Path], tmp_path: Path
) -> None:
    store, manifest = extracted
    probe.export(
        store.path, tmp_path / "out", "npy", corpus=probe.load_corpus(manifest), layers="0,final"
    )
    splits = {item.key: item.label("split") for item in probe.load_corpus(manifest).utterances}
    assert len(set(splits.values())) > 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "0.npy",
        "2.npy",
        "index.csv",
        "recipe.json",
    ]
    with (tmp_path / "out" / "index.csv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert [row["key"] for row in rows] == NAMES
    for layer in ("0", "2"):
        values = np.load(tmp_path / "out" / f"{layer}.npy", mmap_mode="r")
        assert values.dtype == np.float32
        assert int(rows[-1]["stop_row"]) == len(values)
        for row in rows:
            of_key = values[int(row["first_row"]) : int(row["stop_row"])]
            np.testing.assert_array_equal(of_key, rows_of(store, row["key"], layer))
            stored = store.utterances[row["key"]][-1]
            assert (row["audio_sha256"], int(row["n_frames"])) == (
                stored.audio_sha256,
                stored.n_frames,
            )
            assert float(row["duration_s"]) == stored.duration_s
            assert row["split"] == splits[row["key"]]
    assert json.loads((tmp_path / "out" / "recipe.json").read_text()) == store.recipe


def test_sentences_are_layer_by_frame_by_dim(
    extracted: tuple[FeatureStore, Path], tmp_path: Path
) -> None:
    store, _ = extracted
    probe.export(store, tmp_path / "out.h5", "sentences")
    with h5py.File(tmp_path / "out.h5") as file:
        index = json.loads(file["sentence_to_index"][0])
        assert list(index) == store.keys
        assert sorted(file) == sorted([*index.values(), "sentence_to_index"])
        for key, name in index.items():
            assert file[name].shape == (
                len(store.layers),
                store.utterances[key][-1].n_rows,
                next(iter(store.layers.values())),
            )
            for position, layer in enumerate(store.layers):
                np.testing.assert_array_equal(file[name][position], rows_of(store, key, layer))


@only_frames
@pytest.mark.parametrize("form", ["hdf5", "npy", "sentences"])
def test_half_precision_is_kept_where_all_is_stored_so(
    extracted: tuple[FeatureStore, Path], tmp_path: Path, form: str
) -> None:
    store, _ = extracted
    probe.export(store, tmp_path / "out", form, dtype="float16", layers="1")
    wanted = store.layer("1").values
    if form == "npy":
        found = np.load(tmp_path / "out" / "1.npy")
    else:
        with h5py.File(tmp_path / "out") as file:
            found = (
                file["layers/1"][:]
                if form == "hdf5"
                else np.concatenate([file[str(n)][0] for n in range(len(NAMES))])
            )
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    "extracted", [{"dtype": "int8"}, {"dtype": "float32"}], indirect=True, ids=["int8", "float32"]
)
def test_half_precision_of_what_is_not_stored_so_is_refused(
    extracted: tuple[FeatureStore, Path], tmp_path: Path
) -> None:
    store, _ = extracted
    with pytest.raises(
        ProbeError,
        match=r"layer 0, 1, 2 is not stored as float16, which would change values\. Use float32\.",
    ):
        probe.export(store, tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()


@only_frames
def test_a_corpus_chooses_utterances_their_order_and_their_version(
    extracted: tuple[FeatureStore, Path], tmp_path: Path
) -> None:
    store, manifest = extracted
    before = rows_of(store, "a.wav", "1")
    content = (tmp_path / "a.wav").read_bytes()
    write_audio(tmp_path / "a.wav", 1600, seed=9)
    extract(Windows(layers=dict.fromkeys("012", 4)), manifest, store.path.parent.parent)
    (tmp_path / "a.wav").write_bytes(content)
    write_audio(tmp_path / "new.wav", 900)
    chosen = write_manifest(tmp_path, ["c.wav", "new.wav", "a.wav"], "some.csv")
    assert probe.export(store.path, tmp_path / "out", "npy", corpus=probe.load_corpus(chosen)) == [
        "new.wav"
    ]
    with (tmp_path / "out" / "index.csv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert [row["key"] for row in rows] == ["c.wav", "a.wav"]
    values = np.load(tmp_path / "out" / "1.npy")
    np.testing.assert_array_equal(
        values[int(rows[1]["first_row"]) : int(rows[1]["stop_row"])], before
    )


@only_frames
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    extracted: tuple[FeatureStore, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = extracted
    (tmp_path / "there").mkdir()
    with pytest.raises(
        ProbeError, match=r"there: is there already, and an export replaces nothing"
    ):
        probe.export(store, tmp_path / "there", "npy")
    with pytest.raises(
        ProbeError, match=r"--layers 7: .* has no layer '7'; it has 0\.\.2 \(final is 2\)"
    ):
        probe.export(store, tmp_path / "out", layers="7")
    write_audio(tmp_path / "new.wav", 900)
    with pytest.raises(ProbeError, match="no utterances to export"):
        corpus = probe.load_corpus(write_manifest(tmp_path, ["new.wav"], "none.csv"))
        probe.export(store, tmp_path / "out", corpus=corpus)
    shard = next(iter(sorted(store.path.glob("shard-*.h5"))))
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    for form in ("hdf5", "npy", "sentences"):
        with pytest.raises(ProbeError, match=r"shard-00000\.h5"):
            probe.export(store, tmp_path / "out", form)
    shard.write_bytes(content)
    monkeypatch.setattr("probe.store.export.free_bytes", lambda _: 10)
    with pytest.raises(
        ProbeError, match=r"\d+ bytes to write, 10 free\. Use another disk or fewer --layers"
    ):
        probe.export(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("extracted", [{"widths": (4, 4, 6)}], indirect=True, ids=["frames"])
def test_sentences_of_layers_of_several_widths_are_refused(
    extracted: tuple[FeatureStore, Path], tmp_path: Path
) -> None:
    store, _ = extracted
    with pytest.raises(
        ProbeError, match=r"sentences need layers of one width; 0 has 4, 1 has 4, 2 has 6\. Choose"
    ):
        probe.export(store, tmp_path / "out", "sentences")
    probe.export(store, tmp_path / "out", "sentences", layers="0,1")


@only_frames
@pytest.mark.parametrize("n_limits", mostly_nightly([4, 40], [4]))
@pytest.mark.parametrize("form", mostly_nightly(["hdf5", "npy", "sentences"], ["hdf5", "npy"]))
def test_a_disk_that_is_full_ends_in_an_error_and_leaves_nothing(
    extracted: tuple[FeatureStore, Path], tmp_path: Path, form: str, n_limits: int
) -> None:
    store, _ = extracted
    probe.export(store, tmp_path / "whole", form)
    size = max(
        path.stat().st_size
        for path in ([tmp_path / "whole"] if form != "npy" else (tmp_path / "whole").iterdir())
    )

    def limited(limit: int) -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            probe.export(store, tmp_path / "out", form)
        except OSError as error:
            said = re.search(r"File too large, \d+ bytes and more to write, \d+ free", str(error))
            return (
                7
                if error.errno == errno.EFBIG and error.filename == str(tmp_path / "out") and said
                else 8
            )
        return 0

    for limit in [1, 500, *range(1000, size, max(1, size // n_limits)), size - 1, size]:
        assert ended(forked(lambda limit=limit: limited(limit))) == (0 if limit == size else 7), (
            limit
        )  # type: ignore[misc]
        assert not list(tmp_path.glob(".*.tmp"))
        assert (tmp_path / "out").exists() == (limit == size)


@only_frames
def test_an_export_that_is_killed_is_never_taken_for_a_whole_one(
    extracted: tuple[FeatureStore, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = extracted
    before = files_of(store.path)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    for form in ("hdf5", "npy", "sentences"):
        with pytest.raises(KeyboardInterrupt):
            probe.export(store, tmp_path / "out", form, tick=interrupt)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*.tmp"))
    assert files_of(store.path) == before


@only_frames
def test_the_command_says_where_the_export_is_and_what_is_missing(
    extracted: tuple[FeatureStore, Path], tmp_path: Path, command: Callable[..., Any]
) -> None:
    store, manifest = extracted
    done = command("export", store.path.parent.parent, "--to", tmp_path / "out.h5")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'out.h5'}\n"), done.stderr
    done = command("export", store.path, "--to", tmp_path / "out.h5", "--corpus", manifest)
    assert done.returncode == 1
    assert "is there already" in done.stderr
    write_audio(tmp_path / "new.wav", 900)
    manifest.write_text(manifest.read_text() + "new.wav,one,ann,near,test,\n")
    done = command(
        "export", store.path, "--to", tmp_path / "out", "--format", "npy", "--corpus", manifest
    )
    assert done.returncode == 3
    assert "not extracted: 1 utterances failed: new.wav" in done.stderr
    assert (tmp_path / "out" / "index.csv").exists()
    assert command("export", tmp_path / "nowhere", "--to", tmp_path / "x").returncode == 1
    assert command("export", store.path, "--to", tmp_path / "x", "--format", "zip").returncode == 2


@only_frames
def test_columns_of_the_manifest_keep_their_values_whatever_they_are_called(
    extracted: tuple[FeatureStore, Path], tmp_path: Path
) -> None:
    store, manifest = extracted
    lines = manifest.read_text().splitlines()
    added = [
        line + end
        for line, end in zip(
            lines, [",key,manifest_key", *(f",one{n},two{n}" for n in range(9))], strict=False
        )
    ]
    manifest.write_text("\n".join(added) + "\n")
    probe.export(store, tmp_path / "out", "npy", corpus=probe.load_corpus(manifest))
    with (tmp_path / "out" / "index.csv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert [row["manifest_key"] for row in rows] == [f"one{n}" for n in range(len(NAMES))]
    assert [row["manifest_manifest_key"] for row in rows] == [f"two{n}" for n in range(len(NAMES))]


@only_frames
def test_a_long_name_of_an_export_is_a_name(
    extracted: tuple[FeatureStore, Path], tmp_path: Path
) -> None:
    store, _ = extracted
    probe.export(store, tmp_path / ("名" * 84), "npy")
    assert (tmp_path / ("名" * 84) / "index.csv").exists()


@only_frames
def test_texts_of_any_language_are_read_as_such(
    extracted: tuple[FeatureStore, Path], tmp_path: Path
) -> None:
    store, _ = extracted
    probe.export(store, tmp_path / "out.h5")
    for path in (tmp_path / "out.h5", store.path / "shard-00000.h5"):
        with h5py.File(path) as file:
            assert set(file["keys"].asstr()[:]) <= set(NAMES)
