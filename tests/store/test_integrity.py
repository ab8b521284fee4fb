"""Verifying names every damaged file and nothing else; the commands that it prints give back the
very bytes.
"""

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import soundfile
from exhaustive import mostly_nightly
from mending import mend, remove_damaged
from windows import Windows, extract, files_of, write_audio, write_manifest

from probe.errors import ProbeError
from probe.extraction.settings import Storing
from probe.files import read_json, write_json
from probe.store.feature_store import FeatureStore
from probe.store.integrity import Verification, store_folders, verify_store

NAMES = ["short.wav", "a.wav", "b.wav", "long.wav", "c.wav", "d.wav", "e.wav"]
FORMS: list[dict[str, str]] = [{}, {"view": "meanstd"}, {"dtype": "int8", "compression": "gzip"}]
ORIGINALS: dict[str, Path] = {}


@pytest.fixture(params=FORMS, ids=["frames", "meanstd", "int8-gzip"])
def extracted(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    shards_of: Callable[..., None],
) -> tuple[Path, Path]:
    """A store of three plans with a job of failures only, jobs of several utterances and (frames)
    one in parts; its manifest. It is extracted once and copied for each test.
    """
    shards_of(48 * 50)
    shards_of(audio_s=2.0)
    form = json.dumps(request.param)
    if form not in ORIGINALS:
        ORIGINALS[form] = tmp_path_factory.mktemp("original")
        extract_original(ORIGINALS[form], Storing(**request.param))
    shutil.copytree(ORIGINALS[form], tmp_path, dirs_exist_ok=True)
    [store] = store_folders(tmp_path / "features")
    return store, tmp_path / "audio" / "all.csv"


def extract_original(root: Path, storing: Storing) -> None:
    folder = root / "audio"
    folder.mkdir()
    for position, name in enumerate(NAMES):
        write_audio(
            folder / name, {"short.wav": 100, "long.wav": 30_000}.get(name, 800 + 240 * position)
        )
    for n in (1, 5, 7):
        manifest = write_manifest(folder, NAMES[:n])
        extract(Windows(), manifest, root / "features", storing=storing)


mostly_frames = pytest.mark.parametrize(
    "extracted", mostly_nightly(FORMS, [{}]), indirect=True, ids=["frames", "meanstd", "int8-gzip"]
)
only_frames = pytest.mark.parametrize("extracted", [{}], indirect=True, ids=["frames"])


def damage_of(store: Path) -> dict[str, str]:
    return {item.file: item.problem for item in verify_store(store).damage}


def notes_of(store: Path) -> dict[str, str]:
    return {item.file: item.problem for item in verify_store(store).findings if not item.damage}


def flip(path: Path, position: int | None = None) -> None:
    """Turns one bit, of the middle byte where none is named."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 0x10
    path.write_bytes(content)


def values_of(store: Path) -> dict[str, bytes]:
    """Every value of every layer, by utterance and layer."""
    opened = FeatureStore(store)
    return {
        f"{key} {layer}": values.tobytes()
        for layer in opened.layers
        for key, values in zip(opened.keys, opened.layer(layer), strict=True)
    }


# --- what verify finds


def test_a_sound_store_is_sound_and_stays_as_it_is(extracted: tuple[Path, Path]) -> None:
    store, _ = extracted
    before = files_of(store)
    found = verify_store(store)
    assert found.findings == ()
    assert found.shards == len(list(store.glob("shard-*.json"))) >= 4
    assert found.lines() == [
        f"{store}: sound; {found.shards} shards, {found.n_bytes / 1e6:.1f} MB read"
    ]
    assert files_of(store) == before


def one_of_each_kind(paths: Iterable[Path]) -> list[Path]:
    """The last file of each kind: recipe, plan, shard, index."""
    return list({path.name.split("-")[0] + path.suffix: path for path in sorted(paths)}.values())


@pytest.mark.parametrize("choose", mostly_nightly([one_of_each_kind, sorted], [one_of_each_kind]))
@mostly_frames
def test_every_file_that_is_damaged_is_named_and_no_other(
    extracted: tuple[Path, Path], choose: Callable[[Iterable[Path]], list[Path]]
) -> None:
    store, _ = extracted
    for path in choose(store.iterdir()):
        content = path.read_bytes()
        for damaged in (b"", content[: len(content) // 2], content[:-2], content + b"x"):
            path.write_bytes(damaged)
            assert list(damage_of(store)) == [path.name], path.name
        path.write_bytes(content)
        flip(path)
        assert list(damage_of(store)) == [path.name], path.name
        path.write_bytes(content)
    assert damage_of(store) == {}


def some_damage(content: bytes, generator: np.random.Generator) -> bytes:
    """One flipped bit; now and then a cut, or a block of zeros."""
    kind = generator.integers(10)
    position = int(generator.integers(len(content)))
    if kind == 0:
        return content[:position]
    damaged = bytearray(content)
    if kind == 1:
        damaged[position : position + 64] = bytes(len(damaged[position : position + 64]))
    else:
        damaged[position] ^= 1 << generator.integers(8)
    return bytes(damaged)


@pytest.mark.parametrize(
    "n",
    [
        18,
        pytest.param(300, marks=pytest.mark.nightly),
        pytest.param(10_000, marks=pytest.mark.slow),
    ],
)
def test_no_wrong_value_is_read_and_every_damaged_file_is_named(
    extracted: tuple[Path, Path], n: int
) -> None:
    store, _ = extracted
    right = values_of(store)
    generator = np.random.default_rng(n)
    files = sorted(store.iterdir())
    shards = [path for path in files if path.suffix == ".h5"]
    wrong, unnamed, read, done = [], [], 0, 0
    while done < -(-n // len(FORMS)):
        among = shards if done % 4 else files
        path = among[generator.integers(len(among))]
        content = path.read_bytes()
        damaged = some_damage(content, generator)
        if damaged == content:
            continue
        done += 1
        path.write_bytes(damaged)
        try:
            found = values_of(store)
            read += 1
            wrong += [
                f"{path.name} {key}" for key, values in found.items() if values != right.get(key)
            ]
        except ProbeError:
            pass
        named = damage_of(store)
        if path.suffix == ".h5" and list(named) != [
            path.name
        ]:  # another form of the same JSON is no damage
            unnamed.append(path.name)
        path.write_bytes(content)
    print(
        f"\n{done} damaged files, {read} read without an error, {len(wrong)} wrong "
        f"values, {len(unnamed)} not named"
    )
    assert wrong == []
    assert unnamed == []
    assert 0 < read < done
    assert values_of(store) == right


def reseal(store: Path, change: Callable[[h5py.File], None], **entries: Any) -> str:
    """Changes a shard and writes an index with its new sha256, as someone would who wants it to
    look sound.
    """
    path = store / "shard-00001.h5"
    with h5py.File(path, "r+") as file:
        change(file)
    index = read_json(path.with_suffix(".json")) | entries
    content = path.read_bytes()
    write_json(
        path.with_suffix(".json"),
        index | {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()},
    )
    return path.name


def written(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[h5py.File], None]:
    """Replaces a dataset by another with its layout."""

    def replace(file: h5py.File) -> None:
        values = change(file[name][:])
        del file[name]
        file.create_dataset(name, data=values, chunks=values.shape, fletcher32=True)

    return replace


def attribute(name: str, value: Any) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.__setitem__(name, value)


@only_frames
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (written("keys", lambda keys: keys[::-1]), "keys differs from its index"),
        (
            written("audio_sha256", lambda items: np.char.replace(items, b"a", b"b")),
            "audio_sha256 differs from its index",
        ),
        (
            written("offsets/1", lambda items: items + np.array([0, 1, 0])),
            "offsets/1 divide the rows in another way than its index",
        ),
        (
            written("layers/1", lambda values: values.astype(np.float32)),
            "layers/1 is float32 of shape",
        ),
        (
            written("layers/1", lambda values: values * np.float16(np.nan)),
            "layers/1 has values that are not finite",
        ),
        (lambda file: file.__delitem__("layers/1"), "layers/1 is missing or a link"),
        (attribute("format", 7), "is of another format than 1"),
        (attribute("recipe", np.bytes_(b"{}")), "holds another recipe than the store"),
        (lambda file: file.attrs.__delitem__("recipe"), "has no attribute recipe"),
        (attribute("part", [1, 2]), "is part [1, 2]; its index says [0, 1]"),
        (attribute("environment", np.bytes_(b"{")), "has no environment as JSON"),
    ],
)
def test_contents_that_are_not_what_the_index_says_are_named(
    extracted: tuple[Path, Path], change: Callable[[h5py.File], None], problem: str
) -> None:
    store, _ = extracted
    name = reseal(store, change)
    found = damage_of(store)
    assert list(found) == [name]
    assert problem in found[name]


@pytest.mark.parametrize("extracted", [{"dtype": "int8"}], indirect=True, ids=["int8"])
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda file: file.__delitem__("scales/1"), "scales/1 is missing or a link"),
        (
            written("scales/1", lambda values: values * np.float32(np.inf)),
            "scales/1 are not all finite numbers from 0 on",
        ),
    ],
)
def test_scales_that_are_none_are_named_and_not_read(
    extracted: tuple[Path, Path], change: Callable[[h5py.File], None], problem: str
) -> None:
    store, _ = extracted
    name = reseal(store, change)
    assert problem in damage_of(store)[name]
    with pytest.raises(ProbeError, match=problem):
        FeatureStore(store).layer("1")


@only_frames
def test_indexes_that_do_not_fit_their_plan_are_named(extracted: tuple[Path, Path]) -> None:
    store, _ = extracted
    path = store / "shard-00001.json"
    index = read_json(path)
    for change, problem in [
        (
            {"utterances": index["utterances"][:1]},
            "holds 1 utterances or failures that are not the 2 of its plan",
        ),
        (
            {"utterances": [index["utterances"][0], index["utterances"][1] | {"n_frames": 1}]},
            "b.wav has 6 rows; expected 1",
        ),
    ]:
        write_json(path, index | change)
        assert problem in damage_of(store)[path.name]


@only_frames
def test_what_is_missing_or_left_over_is_a_note(extracted: tuple[Path, Path]) -> None:
    store, _ = extracted
    last = max(store.glob("shard-*.h5"))
    last.with_suffix(".json").unlink()
    (store / ".shard-00001.h5.1-deadbeef.tmp").write_bytes(b"half")
    shutil.copy(store / "shard-00001.h5", store / "shard-00077.h5")
    found = verify_store(store)
    assert found.damage == []
    notes = notes_of(store)
    assert set(notes) == {last.name, ".shard-00001.h5.1-deadbeef.tmp", "shard-00077.h5"}
    assert "counts for nothing" in notes[last.name]
    assert "planned and missing, 1 of" in notes[last.name]
    assert (store / ".shard-00001.h5.1-deadbeef.tmp").exists()
    assert all(": note: " in line for line in found.lines()[1:])


@only_frames
def test_an_index_without_its_shard_is_damage(extracted: tuple[Path, Path]) -> None:
    store, _ = extracted
    (store / "shard-00001.h5").unlink()
    assert damage_of(store) == {"shard-00001.h5": "missing"}


@only_frames
def test_a_plan_that_is_gone_is_missed_where_shards_are_left_that_nothing_else_holds(
    extracted: tuple[Path, Path],
) -> None:
    store, manifest = extracted
    before = files_of(store)
    (store / "plan-00002.json").unlink()
    found = damage_of(store)
    assert list(found) == ["plan-00002.json"]
    assert "missing: shard-00004" in found["plan-00002.json"]
    extract(Windows(), manifest, store.parent.parent)  # writes it again
    assert files_of(store) == before
    for name in ("shard-00004.h5", "shard-00004.json"):
        (store / name.replace("00004", "00099")).write_bytes(
            before[name].replace(b"00004", b"00099")
        )
    assert damage_of(store) == {}
    assert "no plan that can be read names this shard" in notes_of(store)["shard-00099.json"]


@only_frames
def test_two_plans_with_one_number_are_damage(extracted: tuple[Path, Path]) -> None:
    store, _ = extracted
    shutil.copy(store / "plan-00001.json", store / "plan-00007.json")
    assert (
        "two plans name job 1, so two shards would have one name"
        in damage_of(store)["plan-00007.json"]
    )


@only_frames
def test_a_store_that_cannot_be_opened_is_named_with_what_to_do(
    extracted: tuple[Path, Path],
) -> None:
    store, _ = extracted
    flip(store / "recipe.json")
    flip(store / "shard-00002.1of4.h5")
    found = damage_of(store)
    assert list(found) == ["recipe.json", "shard-00002.1of4.h5"]
    assert (
        "put a copy of it back, or move the folder aside and run `probe extract` again"
        in found["recipe.json"]
    )
    (store / "recipe.json").unlink()
    assert store_folders(store.parent.parent) == [store]
    assert verify_store(store).commands() == []


def test_a_folder_without_a_store_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="no feature store here or two folders below"):
        store_folders(tmp_path)


# --- mending


def harm_of(paths: Iterable[Path]) -> Iterator[tuple[str, Callable[[], None]]]:
    """Every way to damage shards and their indexes."""
    for path in paths:
        yield f"flip {path.name}", functools.partial(flip, path)
        if path.suffix == ".h5":
            yield (
                f"cut {path.name}",
                functools.partial(lambda path: os.truncate(path, path.stat().st_size // 2), path),
            )
            yield f"remove {path.name}", path.unlink


@pytest.mark.parametrize("choose", mostly_nightly([one_of_each_kind, sorted], [one_of_each_kind]))
@mostly_frames
def test_a_store_without_its_damaged_files_is_extracted_again_to_the_bytes_it_had(
    extracted: tuple[Path, Path], choose: Callable[[Iterable[Path]], list[Path]]
) -> None:
    store, manifest = extracted
    before = files_of(store)
    for what, harm in harm_of(choose(store.glob("shard-*"))):
        harm()
        assert damage_of(store), what
        assert remove_damaged(store).startswith("probe extract --model windows --corpus CSV ")
        done = extract(Windows(), manifest, store.parent.parent, storing=of_store(store))
        assert verify_store(store).damage == [], what
        assert done.store == store
        assert files_of(store) == before, what


@only_frames
@pytest.mark.parametrize("number", range(3))
def test_a_store_without_its_damaged_plan_is_extracted_again(
    extracted: tuple[Path, Path], number: int
) -> None:
    store, manifest = extracted
    flip(store / f"plan-{number:05d}.json")
    remove_damaged(store)
    extract(Windows(), manifest, store.parent.parent)
    assert verify_store(store).damage == []
    assert set(FeatureStore(store).keys) == set(NAMES[1:])


def of_store(store: Path) -> Storing:
    recipe = FeatureStore(store).recipe
    compression = recipe.get("compression", "none")
    return Storing(view=recipe["view"], dtype=recipe["dtype"], compression=compression)


def test_only_the_damaged_shards_are_extracted_again(extracted: tuple[Path, Path]) -> None:
    store, manifest = extracted
    before = files_of(store)
    jobs = [path for path in sorted(store.glob("shard-*.json")) if read_json(path)["utterances"]]
    first, last = read_json(jobs[0]), read_json(jobs[-1])
    flip(jobs[0])
    flip(jobs[-1].with_suffix(".h5"))
    remove_damaged(store)
    encoder = Windows()
    extract(encoder, manifest, store.parent.parent, storing=of_store(store))
    assert len(encoder.seen) == len(
        {item["key"] for index in (first, last) for item in index["utterances"]}
    )
    assert files_of(store) == before


# --- the command


def test_the_command_verifies_every_store_and_says_how_to_mend_it_beneath_a_folder(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    for name in "ab":
        soundfile.write(
            tmp_path / f"{name}.wav", np.random.default_rng(ord(name)).normal(0, 0.1, 8000), 16_000
        )
    manifest = write_manifest(tmp_path, ["a.wav", "b.wav"])
    features = tmp_path / "features"
    done = command(
        "extract", "--model", "mfcc", "--model", "fbank", "--corpus", manifest, "--to", features
    )
    assert done.returncode == 0, done.stderr
    before = files_of(features)
    assert sum(name.endswith("certificate.json") for name in before) == 2
    done = command("verify", features)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
    assert all(": sound; 1 shards, " in line for line in done.stdout.splitlines())

    [shard, other] = sorted(features.rglob("shard-*.h5"))
    flip(shard)
    flip(other.with_name("certificate.json"))
    done = command("verify", features, "--format", "json")
    assert done.returncode == 1
    first, second = json.loads(done.stdout)
    assert (first["sound"], list(first["damage"]), first["notes"]) == (False, [shard.name], {})
    assert list(second["damage"]) == ["certificate.json"]
    done = command("verify", shard.parent)
    assert done.stdout.startswith(f"{shard.parent}: DAMAGED, 1 files; 1 shards")
    assert f"{shard}: its bytes do not have the sha256 in its index" in done.stdout

    assert f"rm {shard} {shard.with_suffix('.json')}" in done.stdout
    for folder in (shard.parent, other.parent):
        mend(folder, manifest)
    assert command("verify", features).returncode == 0
    after = files_of(features)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} <= {
        str(path.relative_to(features)) for path in features.rglob("certificate.json")
    }
    assert command("verify", tmp_path / "nowhere").returncode == 1


def test_a_verification_says_what_a_reader_needs_in_json(tmp_path: Path) -> None:
    empty = Verification(tmp_path, 0, 0, (), None)
    assert json.loads(json.dumps(empty.as_json())) == {
        "store": str(tmp_path),
        "sound": True,
        "unread": {},
        "shards": 0,
        "bytes": 0,
        "damage": {},
        "notes": {},
        "commands": [],
    }
