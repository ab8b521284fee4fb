"""`probe status`: what is done, running, failed and missing, while runs work and after a kill."""

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from windows import Interrupted, Windows, extract, write_audio, write_manifest

from probe.commands import status as command_module
from probe.errors import ProbeError
from probe.store.claims import SILENT_S, Claims, this_run
from probe.store.status import status_of_store

Command = Callable[..., CompletedProcess]
LENGTHS = {f"{name}.wav": 800 for name in "abcdef"}


@pytest.fixture
def half(tmp_path: Path, shards_of: Callable[..., None]) -> Path:
    """A store of six utterances in five shards, of which two are complete with three utterances;
    one of these has failed.
    """
    shards_of(48 * 4)
    for name, n_samples in LENGTHS.items():
        write_audio(tmp_path / name, 100 if name == "b.wav" else n_samples)
    with pytest.raises(Interrupted):
        extract(Windows(dies_at=2), write_manifest(tmp_path, LENGTHS), tmp_path / "features")
    (store,) = (tmp_path / "features").glob("*/*")
    return store


def test_what_is_done_running_failed_and_missing(half: Path, command: Command) -> None:
    with Claims(half) as claims:
        claims.take("shard-00004")
        done = command("status", half)
        status = json.loads(command("status", half.parent.parent, "--format", "json").stdout)
    assert "shards      2 of 5 complete, 1 being written, 2 missing" in done.stdout
    assert re.search(rf"run 1 +process {os.getpid()} of .*, since \d s: shard-00004", done.stdout)
    assert re.search(r"b\.wav +too short", done.stdout)
    (status,) = status
    assert (status["planned"], status["done"], status["missing"]) == (5, 2, 2)
    assert (status["utterances"], status["utterances_done"]) == (6, 3)
    assert status["running"] == ["shard-00004"]
    assert list(status["failures"]) == ["b.wav"]
    assert status["workers"][0]["process"] == os.getpid()


def test_a_killed_run_is_named_and_its_shards_are_missing(half: Path, command: Command) -> None:
    owner = replace(this_run(), host="node7", machine="another boot", pid=7)
    claim = half / "shard-00003.claim"
    claim.write_text(json.dumps(asdict(owner)), encoding="utf-8")
    os.utime(claim, (time.time() - SILENT_S - 60,) * 2)
    status = status_of_store(half)
    assert (status.done, status.running, status.missing) == (2, [], 3)
    assert (status.per_hour, status.left_s) == (None, None)
    text = r"process 7 of \S+ on node7 has given no sign of life for 36\d s; the next run takes "
    assert re.search(text + "over shard-00003", command("status", half).stdout)


def test_the_rate_is_that_of_the_runs_that_work_now(half: Path) -> None:
    shards = sorted(half.glob("shard-*.json"))
    os.utime(shards[0], (0, 0))  # an earlier run's
    with Claims(half) as claims:
        claims.take("shard-00005")
        path = half / "shard-00005.claim"
        owner = replace(this_run(), since=time.time() - 1800)
        path.write_text(json.dumps(asdict(owner)), encoding="utf-8")
        status = status_of_store(half)
    assert status.per_hour == pytest.approx(2, rel=0.01)  # one in half an hour
    assert status.left_s == pytest.approx(3 * 1800, rel=0.01)


def test_watching_ends_when_nobody_works(
    half: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = Claims(half)
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            claims.release("shard-00003")

    monkeypatch.setattr(command_module.time, "sleep", pause)
    with claims:
        claims.take("shard-00003")
        done = command("status", half, "--watch")
    assert pauses == [5.0, 5.0]
    assert done.stdout.count("being written") == 3


def test_a_folder_without_stores_or_records_is_named(tmp_path: Path, command: Command) -> None:
    done = command("status", tmp_path)
    assert done.returncode == 1
    assert "no feature store and no records here; expected a folder that" in done.stderr
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.jsonl").touch()
    assert "files    1 complete, 0 in training" in command("status", tmp_path).stdout


def test_a_store_that_is_damaged_is_named(half: Path) -> None:
    (half / "recipe.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ProbeError, match=r"recipe\.json: damaged"):
        status_of_store(half)
