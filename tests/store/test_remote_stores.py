"""Stores on object storage: the bytes, the requests and the claims."""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from object_storage import Server, s3  # noqa: F401 - a fixture
from runs import quick

from probe.data.corpus import load_corpus
from probe.errors import ProbeError, UnreadError
from probe.extraction.extract import extract
from probe.extraction.settings import Extracting, Running
from probe.pipeline import bench
from probe.remote.paths import RemotePath, as_path
from probe.store.claims import SILENT_S, Claims, this_run
from probe.store.feature_store import FeatureStore
from probe.store.shards import ShardContent, read_rows, shard_bytes
from probe.store.status import status_of_store
from probe.store.stores import open_store

ELSEWHERE = replace(this_run(), host="node7", machine="another boot", token="other")


def contents(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of the files in a store; the time is no part of a plan or a shard."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def upload(folder: Path, bucket: str) -> str:
    """Copies a corpus; returns the URL of its folder."""
    target = as_path(f"{bucket}/corpus")
    for path in folder.iterdir():
        place = target / path.name
        assert isinstance(place, RemotePath)
        place.write(path.read_bytes())
    return str(target)


def test_a_store_on_s3_has_the_bytes_of_one_on_a_disk(
    s3: Server,  # noqa: F811
    tones: Callable[..., Path],
    tmp_path: Path,
    shards_of: Callable[..., None],
    command: Callable,
) -> None:
    shards_of(audio_s=3.0)
    manifest = tones(words=2, speakers=2)
    bucket = s3.bucket()
    here = extract("fbank", manifest, tmp_path / "features").store
    there = extract("fbank", manifest, f"{bucket}/features").store
    assert contents(there) == contents(here)
    n_shards = len(list(here.glob("shard-*.h5")))
    assert n_shards > 1
    assert s3.count("PUT", ".h5") == n_shards
    again = extract("fbank", manifest, f"{bucket}/features")
    assert again.plan.present == 24 and s3.count("PUT", ".h5") == n_shards
    for one, other in zip(open_store(here, "0"), open_store(str(there), "0"), strict=True):
        assert (one == other).all()
    status = status_of_store(there)
    assert (status.done, status.missing, status.workers) == (n_shards, 0, [])
    done = command("verify", f"{bucket}/features")
    assert done.returncode == 0 and f"sound; {n_shards} shards" in done.stdout
    shard = as_path(f"{there}/shard-00001.h5")
    assert isinstance(shard, RemotePath)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write(bytes(data))
    done = command("verify", f"{bucket}/features")
    assert done.returncode == 1 and "shard-00001.h5: its bytes do not have the sha" in done.stdout


def test_a_corpus_on_s3_gives_the_shards_of_one_on_a_disk(
    s3: Server,  # noqa: F811
    tones: Callable[..., Path],
    tmp_path: Path,
) -> None:
    manifest = tones(words=1, speakers=2)
    corpus = upload(tmp_path, s3.bucket())
    here = extract("mfcc", manifest, tmp_path / "here").store
    url = f"{corpus}/{manifest.name}"
    there = extract("mfcc", url, tmp_path / "there").store
    assert (there / "shard-00000.h5").read_bytes() == (here / "shard-00000.h5").read_bytes()
    assert extract("mfcc", url, tmp_path / "there").plan.present == 12
    rows = manifest.read_text().replace("\nnear", f"\n{corpus}/near")
    (tmp_path / "mixed.csv").write_text(rows)
    mixed = load_corpus(tmp_path / "mixed.csv")
    assert [item.path for item in mixed.utterances] == [
        item.path for item in load_corpus(url).utterances
    ]
    (tmp_path / "mixed.csv").write_text(rows.replace("near-0-0-0", "absent"))
    with pytest.raises(ProbeError, match=r"line 2: s3://.*/absent.wav does not exist"):
        load_corpus(tmp_path / "mixed.csv")


def layered(n_layers: int = 4, n_rows: int = 4000, width: int = 256) -> ShardContent:
    """A shard of two utterances; each layer has 2 MB."""
    generator = np.random.default_rng(0)
    half = n_rows // 2
    frames = {
        str(layer): [generator.standard_normal((half, width)).astype(np.float32) for _ in "ab"]
        for layer in range(n_layers)
    }
    return ShardContent(["a", "b"], ["0" * 64] * 2, frames, {}, {}, {})


def test_one_layer_costs_the_bytes_of_one_layer(s3: Server) -> None:  # noqa: F811
    content = layered()
    data, dtypes = shard_bytes(content)
    path = as_path(f"{s3.bucket()}/shard-00000.h5")
    assert isinstance(path, RemotePath)
    path.write(data)
    s3.requests.clear()
    values = np.empty((4000, 256), np.float16)
    sha256 = hashlib.sha256(data).hexdigest()
    offsets = np.array([0, 2000, 4000])
    read_rows(path, "2", [(0, 4000, 0)], values, offsets, dtypes["2"], sha256)
    assert (values == np.concatenate(content.frames["2"]).astype(np.float16)).all()
    n_bytes = sum(n for method, _, n in s3.requests if method == "GET")
    assert values.nbytes < n_bytes < 1.2 * values.nbytes
    assert s3.count("GET") <= 12


@pytest.mark.parametrize("fault", ["unavailable", "reset", "half", "forbidden"])
def test_a_fault_that_stays_is_no_damage(
    s3: Server,  # noqa: F811
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import s3fs

    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    data, dtypes = shard_bytes(layered(1, 400, 8))
    path = as_path(f"{s3.bucket()}/shard-00000.h5")
    assert isinstance(path, RemotePath)
    path.write(data)
    values = np.empty((400, 8), np.float16)
    s3.fail(fault, 1000, "GET", ".h5")
    with pytest.raises(UnreadError, match=r"cannot be read now .* remove nothing"):
        read_rows(path, "0", [(0, 400, 0)], values, np.array([0, 200, 400]), dtypes["0"], "")
    s3.times = 0
    read_rows(path, "0", [(0, 400, 0)], values, np.array([0, 200, 400]), dtypes["0"], "")


def test_a_claim_on_s3_has_one_owner(s3: Server) -> None:  # noqa: F811
    folder = as_path(f"{s3.bucket()}/store")
    with Claims(folder) as first, Claims(folder) as second:
        assert first.take("shard-00000") and not second.take("shard-00000")
        assert second.holders["shard-00000"].token != second._owner.token
        first.release("shard-00000")
        assert second.take("shard-00000")
    assert list(folder.parent.glob("*/*")) == []


def test_a_silent_owner_on_s3_loses_its_claim(
    s3: Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = as_path(f"{s3.bucket()}/store")
    owner = json.dumps(asdict(ELSEWHERE)).encode()
    claim, sign = folder / "shard-00000.claim", folder / ".run.claim.other.tmp"
    for path in (claim, sign):
        assert isinstance(path, RemotePath)
        path.write(owner)
    with Claims(folder) as claims:
        assert not claims.take("shard-00000")
        monkeypatch.setattr("probe.store.claims.SILENT_S", -10.0)
        assert claims.take("shard-00000")
    assert SILENT_S > 0


def test_storage_that_creates_what_exists_is_named(
    s3: Server,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = as_path(f"{s3.bucket()}/store")
    s3.ignores_conditions = True
    try:
        with caplog.at_level(logging.WARNING), Claims(folder) as claims:
            claims.take("shard-00000")
    finally:
        s3.ignores_conditions = False
    assert "Let one run at a time work here" in caplog.text
    caplog.clear()
    with Claims(folder) as claims:
        assert claims.take("shard-00000")
    assert caplog.text == ""


def test_a_store_opens_with_few_requests(
    s3: Server,  # noqa: F811
    tones: Callable[..., Path],
    shards_of: Callable[..., None],
) -> None:
    shards_of(audio_s=0.3)
    store = extract("mfcc", tones(words=2, speakers=1), f"{s3.bucket()}/features").store
    n_shards = 12
    s3.requests.clear()
    assert len(FeatureStore(store).dtypes) == n_shards
    assert len(s3.requests) == n_shards + 3  # recipe, listing, plan, and an index for each shard


def test_small_shards_are_read_with_a_request_each(
    s3: Server,  # noqa: F811
    tones: Callable[..., Path],
    tmp_path: Path,
    shards_of: Callable[..., None],
) -> None:
    shards_of(audio_s=0.6)
    manifest = tones(words=1, speakers=1)
    here = open_store(extract("mfcc", manifest, tmp_path / "features").store)
    there = open_store(str(extract("mfcc", manifest, f"{s3.bucket()}/features").store))
    s3.requests.clear()
    values = there.layer("0")
    assert (values.values == here.layer("0").values).all() and values.keys == here.keys
    assert [method for method, _, _ in s3.requests] == ["GET"] * len(there.dtypes)
    shard = as_path(f"{there.path}/shard-00001.h5")
    shard.unlink()
    with pytest.raises(
        ProbeError, match=r"shard-00001.h5: damaged or not readable .*does not exist"
    ):
        there.layer("0")


def test_records_on_s3_are_those_on_a_disk(
    s3: Server,  # noqa: F811
    tones: Callable[..., Path],
    tmp_path: Path,
    command: Callable,
) -> None:
    manifest = tones(words=2, speakers=2)
    extract("mfcc", manifest, tmp_path / "features")
    tables = []
    for results in (str(tmp_path / "results"), f"{s3.bucket()}/results"):
        options = ("--model", "mfcc", "--corpus", manifest, "--from", tmp_path / "features")
        assert command("run", "word-id", *options, "--to", results).returncode == 0
        tables.append(command("table", "--from", results, "--format", "csv").stdout)
    assert tables[0] == tables[1] and "word-id" in tables[0]


def test_a_bench_on_s3_gives_the_tables_of_one_on_a_disk(
    s3: Server,  # noqa: F811
    tones: Callable[..., Path],
    tmp_path: Path,
) -> None:
    manifest = tones(words=2, speakers=2)
    to = as_path(f"{s3.bucket()}/out")
    extracting = Extracting(running=Running(check=False))
    for place in (tmp_path / "out", to):
        bench(["mfcc"], [quick("word-id", view="mean")], manifest, place, extracting=extracting)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"features", "results", "table.csv", "curves.svg"} <= names
    assert {path.name for path in to.iterdir()} == names
    for name in ("table.csv", "layers.csv", "curves.svg"):
        assert (to / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
