"""Several runs write into one store: each shard once, the same bytes, whoever is killed."""

import logging
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from windows import Windows, extract, files_of, write_audio, write_manifest

from probe.data.corpus import load_corpus
from probe.engines.share import Share
from probe.errors import ProbeError, UsageError
from probe.extraction.settings import Storing
from probe.store.claims import PLAN, Claims
from probe.store.integrity import verify_store
from probe.store.stores import find_stores

LENGTHS = {f"{name}.wav": 800 + 240 * number for number, name in enumerate("abcdefg")}
WAIT_S = 60


@pytest.fixture
def manifest(tmp_path: Path, shards_of: Callable[..., None]) -> Path:
    """Seven files, of which one fails, in shards of one to three."""
    shards_of(48 * 20)
    (tmp_path / "audio").mkdir()
    for name, n_samples in LENGTHS.items():
        write_audio(tmp_path / "audio" / name, 100 if name == "d.wav" else n_samples)
    return write_manifest(tmp_path / "audio", LENGTHS)


def child(work: Callable[[], object]) -> int:
    """The process id of a child that ends with 0 once some work is done."""
    process = os.fork()
    if process:
        return process
    code = 99
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def wait_until(true: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


class Slow(Windows):
    """Waits for a file before it encodes the first utterance; leaves one to say that it waits."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def encode(self, *arguments: Any) -> Any:
        (self.folder / "waits").touch()
        wait_until((self.folder / "go on").exists)
        return super().encode(*arguments)


class Noting(Windows):
    """Adds the lengths of what it has encoded to a file."""

    def __init__(self, notes: Path) -> None:
        super().__init__()
        self.notes = notes

    def encode(self, *arguments: Any) -> Any:
        frames = super().encode(*arguments)
        with self.notes.open("a", encoding="utf-8") as file:
            file.write(f"{self.seen[-1]}\n")
        return frames


def test_runs_at_the_same_time_write_the_bytes_of_one_run_and_nothing_twice(
    manifest: Path, tmp_path: Path
) -> None:
    extract(Windows(), manifest, tmp_path / "one")
    notes = tmp_path / "notes"
    processes = [
        child(lambda: extract(Noting(notes), manifest, tmp_path / "several")) for _ in range(3)
    ]
    assert [os.waitpid(process, 0)[1] for process in processes] == [0, 0, 0]
    assert files_of(tmp_path / "several") == files_of(tmp_path / "one")
    n_samples = sorted(map(int, notes.read_text(encoding="utf-8").split()))
    assert n_samples == sorted(n for name, n in LENGTHS.items() if name != "d.wav")
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_shards_of_a_killed_run_are_written_at_once_by_one_that_waits_for_it(
    manifest: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "probe")
    extract(Windows(), manifest, tmp_path / "one")
    process = child(lambda: extract(Slow(tmp_path), manifest, tmp_path / "several"))
    wait_until((tmp_path / "waits").exists)
    killer = child(
        lambda: (time.sleep(0.3), os.kill(process, signal.SIGKILL))  # it is a zombie afterwards
    )
    done = extract(Windows(), manifest, tmp_path / "several")
    for pid in (killer, process):
        os.waitpid(pid, 0)
    assert done.extracted == len(LENGTHS) - 1
    assert files_of(tmp_path / "several") == files_of(tmp_path / "one")
    assert f"waits for process {process} of" in caplog.text
    assert f"takes over the work of process {process} of" in caplog.text


def test_a_run_waits_for_the_work_of_others_and_reports_its_failures(
    manifest: Path, tmp_path: Path
) -> None:
    process = child(lambda: extract(Slow(tmp_path), manifest, tmp_path / "features"))
    wait_until((tmp_path / "waits").exists)
    other = child(lambda: (time.sleep(0.2), (tmp_path / "go on").touch()))
    done = extract(Windows(), manifest, tmp_path / "features")
    (store,) = find_stores(tmp_path / "features")
    assert len(store.keys) == len(LENGTHS) - 1
    assert len(store.complete) == len(store.jobs)
    assert [failure.key for failure in done.failures] == ["d.wav"]
    for pid in (other, process):
        assert os.waitpid(pid, 0)[1] == 0


def test_a_run_that_lost_its_claim_ends_without_writing(manifest: Path, tmp_path: Path) -> None:
    class Frozen(Windows):
        """Another run takes its claims over while it sleeps."""

        def encode(self, *arguments: Any) -> Any:
            for claim in tmp_path.rglob("shard-*.claim"):
                claim.unlink()
            return super().encode(*arguments)

    with pytest.raises(ProbeError, match="the claim of this run was removed"):
        extract(Frozen(), manifest, tmp_path / "features")
    assert not list(tmp_path.rglob("shard-*.h5"))


def test_one_run_plans_while_the_others_wait(manifest: Path, tmp_path: Path) -> None:
    extract(Windows(), load_corpus(manifest).limited(1), tmp_path / "features")
    (store,) = (tmp_path / "features").glob("*/*")
    with Claims(store) as claims:
        claims.take(PLAN)
        process = child(lambda: extract(Windows(), manifest, tmp_path / "features"))
        time.sleep(0.3)
        assert len(list(store.glob("plan-*.json"))) == 1
    assert os.waitpid(process, 0)[1] == 0
    assert len(list(store.glob("plan-*.json"))) == 2
    assert not verify_store(store).damage


@pytest.mark.parametrize("counts", [[3, 7], [7, 3], [2]])
def test_shares_in_any_order_and_number_give_the_bytes_of_one_run(
    manifest: Path, tmp_path: Path, counts: list[int]
) -> None:
    extract(Windows(), manifest, tmp_path / "one")
    shares = [Share(index, count) for count in counts for index in range(1, count + 1)]
    random.Random(str(counts)).shuffle(shares)
    n_extracted = []
    for share in shares:
        storing = Storing(share=share)
        n_extracted.append(
            extract(Windows(), manifest, tmp_path / "shares", storing=storing).extracted
        )
    assert sum(n_extracted) == len(LENGTHS) - 1
    assert sum(n > 0 for n in n_extracted) > 1
    assert files_of(tmp_path / "shares") == files_of(tmp_path / "one")


def test_a_share_says_what_it_has_and_a_dry_run_has_none(
    manifest: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "probe")
    sizes = []
    for index in (1, 2, 3):
        storing = Storing(share=Share(index, 3))
        sizes.append(len(extract(Windows(), manifest, tmp_path / "f", storing=storing).plan.todo))
        assert f"share {index}/3 has" in caplog.text
    assert sum(sizes) == len(LENGTHS)
    with pytest.raises(UsageError, match="--shard 1/3: --dry-run plans for all shares"):
        extract(
            Windows(), manifest, tmp_path / "f", storing=Storing(share=Share(1, 3)), dry_run=True
        )
