"""URLs as paths: on fsspec's memory, and on an S3 server with faults."""

import os
import pickle
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from object_storage import Server, s3  # noqa: F401 - a fixture

from probe.data.corpus import load_corpus
from probe.errors import ProbeError, UsageError
from probe.files import read_json, statuses_in, write_json
from probe.remote.paths import AudioPath, RemotePath, as_path, audio_path
from probe.remote.ranges import RangeReader, read_all

pytest.importorskip("fsspec")


@pytest.fixture
def memory() -> Path:
    """A new folder in fsspec's memory."""
    return as_path(f"memory://{uuid.uuid4().hex}")


def test_a_url_keeps_its_form_under_the_operations_of_paths() -> None:
    path = as_path("s3://bucket/a/b.json")
    assert isinstance(path, RemotePath)
    assert str(path / "c") == "s3://bucket/a/b.json/c"
    assert str(path.parent) == "s3://bucket/a"
    assert str(path.with_name("d")) == "s3://bucket/a/d"
    assert (path.name, path.stem, path.suffix) == ("b.json", "b", ".json")
    assert path == as_path("s3://bucket/a/b.json") and hash(path) == hash(as_path(str(path)))
    assert str(pickle.loads(pickle.dumps(path))) == str(path)
    assert as_path(path) is path


def test_what_is_no_url_is_a_local_path() -> None:
    for text in ("a/b", "/a/b", "s3:/a", "kaldi:data#train", "a://", "C:\\a"):
        assert not isinstance(as_path(text), RemotePath)
    assert as_path("file:///a/b") == Path("/a/b")
    assert isinstance(audio_path("s3://a/b.wav"), AudioPath)
    assert not isinstance(audio_path("/a/b.wav"), RemotePath)


def test_the_operating_system_never_gets_a_url() -> None:
    with pytest.raises(UsageError, match=r"s3://bucket/a: a URL cannot be used for this; name a"):
        os.stat(as_path("s3://bucket/a"))  # noqa: PTH116


def test_local_paths_load_no_fsspec(tmp_path: Path) -> None:
    script = (
        "import sys; from probe.store.stores import find_stores\n"
        f"assert find_stores({str(tmp_path)!r}) == []\n"
        "print('fsspec' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_a_process_that_could_not_read_a_remote_shard_ends_without_a_crash() -> None:
    script = """
from fsspec.implementations.memory import MemoryFileSystem
from probe.errors import UnreadError
from probe.remote.paths import as_path
from probe.store.safe_hdf5 import opened, source_of

def fail(*_, **__):
    raise OSError(5, "no network")

path = as_path("memory://folder/shard.h5")
path.write(bytes(100_000))
MemoryFileSystem.cat_ranges = fail
try:
    with opened(source_of(path)):
        pass
except UnreadError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.returncode
    assert "cannot be read now (no network)" in done.stdout


def test_json_goes_there_and_back(memory: Path) -> None:
    write_json(memory / "a" / "x.json", {"one": 1})
    assert read_json(memory / "a" / "x.json") == {"one": 1}
    assert [str(item) for item in memory.glob("*/x.json")] == [str(memory / "a" / "x.json")]
    assert list(memory.glob("*/")) == [memory / "a"]
    assert (memory / "a").is_dir() and (memory / "a" / "x.json").is_file()
    size = len((memory / "a" / "x.json").read_bytes())
    assert {name: item.st_size for name, item in statuses_in(memory / "a").items()} == {
        "x.json": size
    }
    (memory / "a" / "x.json").unlink()
    assert not (memory / "a" / "x.json").exists()


def test_an_object_is_created_once(memory: Path) -> None:
    path = memory / "one"
    assert isinstance(path, RemotePath)
    path.write(b"first", create=True)
    with pytest.raises(FileExistsError):
        path.write(b"second", create=True)
    assert path.read_bytes() == b"first"


def test_parts_of_an_object_are_its_bytes(memory: Path) -> None:
    content = os.urandom(300_000)
    path = memory / "bytes"
    assert isinstance(path, RemotePath)
    path.write(content)
    reader = RangeReader(path)
    for first, stop in ((0, 1), (16_000, 17_000), (10, 200_000), (299_990, 300_500), (5, 5)):
        assert reader.range(first, stop) == content[first:stop]
    n = reader.n_requests
    reader.fetch([(1000, 90_000), (100_000, 150_000)])
    assert reader.range(2000, 80_000) == content[2000:80_000]
    assert reader.range(100_000, 150_000) == content[100_000:150_000]
    assert reader.n_requests == n + 2
    with path.open("rb") as file:
        assert file.read(10) == content[:10] and file.read() == content[10:]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense://a/b", "Protocol not known: nonsense"),
        ("gs://bucket/b", r"pip install 'layerprobe\[remote\]'"),
    ],
)
def test_a_file_system_that_is_not_there_is_named(url: str, message: str) -> None:
    if url.startswith("gs"):
        pytest.importorskip("fsspec")
        try:
            import gcsfs  # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip("gcsfs is installed")
    with pytest.raises(ProbeError, match=message):
        as_path(url).exists()


def test_a_url_that_a_command_cannot_use_is_refused(command: Callable) -> None:
    done = command("plot", "layers", "--from", "results", "--to", "s3://bucket/curves.png")
    assert done.returncode == 2
    assert "s3://bucket/curves.png is a URL; name a local path here" in done.stderr
    with pytest.raises(ProbeError, match="a table can lie on object storage"):
        load_corpus("s3://bucket/LibriSpeech#dev-clean")


@pytest.mark.parametrize("fault", ["slow", "unavailable", "reset", "half"])
def test_faults_that_pass_are_survived(s3: Server, fault: str) -> None:  # noqa: F811
    content = os.urandom(50_000)
    path = as_path(f"{s3.bucket()}/a/b")
    assert isinstance(path, RemotePath)
    path.write(content)
    s3.fail(fault, 1, "GET", "/b")
    assert path.read_bytes() == content
    s3.fail(fault, 1, "GET", "/b")
    assert RangeReader(path).range(100, 40_000) == content[100:40_000]
    s3.fail(fault, 0 if fault == "half" else 1, "PUT", "/b")
    path.write(content[::-1])
    assert path.read_bytes() == content[::-1]
    assert s3.times == 0


def test_many_objects_are_read_at_once_and_each_fault_is_its_own(s3: Server) -> None:  # noqa: F811
    folder = as_path(f"{s3.bucket()}/a")
    paths = [folder / str(number) for number in range(20)]
    for path in paths:
        assert isinstance(path, RemotePath)
        path.write(path.name.encode())
    paths[3].unlink()
    contents = read_all(paths)
    assert isinstance(contents[3], FileNotFoundError)
    assert contents[:3] + contents[4:] == [path.name.encode() for path in paths if path != paths[3]]


def test_a_listing_is_never_an_old_one(s3: Server) -> None:  # noqa: F811
    import boto3

    folder = as_path(f"{s3.bucket()}/a")
    assert isinstance(folder, RemotePath)
    (folder / "one").write(b"1")  # type: ignore[attr-defined]
    assert list(folder.entries()) == ["one"]
    boto3.client("s3").put_object(Bucket=folder.parts[1], Key="a/two", Body=b"22")
    assert list(folder.entries()) == ["one", "two"]
    assert (folder / "two").exists()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("forbidden", "The access key does not exist.; check the credentials"),
        ("nobody", "Could not connect to the endpoint URL"),
        ("bucket", "does not exist"),
    ],
)
def test_what_keeps_a_store_from_being_read_is_one_line_at_once(
    s3: Server,  # noqa: F811
    fault: str,
    message: str,
    command: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = s3.bucket()
    if fault == "nobody":
        import s3fs

        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        s3fs.S3FileSystem.clear_instance_cache()
    elif fault == "bucket":
        url = "s3://bucket-that-nobody-made"
    else:
        s3.fail(fault, 1000, "GET")
    start = time.monotonic()
    done = command("show", f"{url}/features")
    s3.times = 0
    if fault == "nobody":
        s3fs.S3FileSystem.clear_instance_cache()
    assert done.returncode == 1 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert url in done.stderr and message.replace(".;", ";") in done.stderr
    assert time.monotonic() - start < 8
