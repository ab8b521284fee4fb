"""Claims: one run has each of them, whatever the file system lacks and whoever is killed."""

import errno
import json
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from probe.errors import ProbeError, UnreadError
from probe.store import claims as module
from probe.store.claims import SILENT_S, Claims, Owner, read_claim, this_run

ELSEWHERE = replace(this_run(), host="node7", machine="another boot", token="other")


def child(work: Callable[[], object]) -> int:
    """The process id of a child that does some work and ends with 0 if that is true, else 1."""
    process = os.fork()
    if process:
        return process
    code = 99
    try:
        code = 0 if work() else 1
    finally:
        os._exit(code)


def claim_of(owner: Owner, path: Path, age_s: float = 0) -> Path:
    """A claim of another run, which gave its last sign of life some seconds ago."""
    path.write_text(json.dumps(asdict(owner)), encoding="utf-8")
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def killed_owner(folder: Path, name: str) -> int:
    """Has a child take a claim and be killed; returns its process id. Nobody has reaped it yet."""

    def work() -> None:
        Claims(folder).take(name)
        os.kill(os.getpid(), signal.SIGKILL)

    process = child(work)
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    return process


def refusing(number: int) -> Callable[..., Any]:
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refused


def test_a_claim_has_one_owner_until_it_is_released(tmp_path: Path) -> None:
    with Claims(tmp_path / "store") as first, Claims(tmp_path / "store") as second:
        assert first.take("shard-00000")
        assert not second.take("shard-00000")
        assert second.holders["shard-00000"].pid == os.getpid()
        assert second.take("shard-00001")
        first.release("shard-00000")
        assert second.take("shard-00000")
        assert second.holders == {}
    assert list((tmp_path / "store").iterdir()) == []


def test_what_a_killed_process_had_claimed_is_taken_over_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = killed_owner(tmp_path, "shard-00000")
    with Claims(tmp_path) as claims:
        assert claims.take("shard-00000")
    assert f"takes over the work of process {process} of " in caplog.text
    assert "which has ended" in caplog.text
    os.waitpid(process, 0)


def test_leftovers_of_killed_processes_are_swept_and_living_ones_stay(tmp_path: Path) -> None:
    process = killed_owner(tmp_path, "shard-00000")
    os.waitpid(process, 0)
    with Claims(tmp_path) as living, Claims(tmp_path) as claims:
        assert living.take("shard-00001")
        claims.sweep()
        names = sorted(path.name for path in tmp_path.iterdir())
        assert [name for name in names if not name.startswith(".")] == ["shard-00001.claim"]
        assert not any(f".{process}-" in name for name in names)


def test_another_host_is_dead_after_a_time_or_when_the_user_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for age_s, dead_hosts, taken in [
        (0, (), False),
        (SILENT_S - 10, (), False),
        (SILENT_S + 10, (), True),
        (0, ("node8",), False),
        (0, ("node8", "node7"), True),
    ]:
        claim_of(ELSEWHERE, tmp_path / "shard-00000.claim", age_s)
        with Claims(tmp_path, dead_hosts) as claims:
            assert claims.take("shard-00000") == taken, (age_s, dead_hosts)
    assert "on node7, which has given no sign of life for 310 s" in caplog.text
    assert "on node7, which has ended, as --take-over says" in caplog.text


def test_a_process_of_another_container_on_this_host_is_not_looked_up_here(tmp_path: Path) -> None:
    process = child(lambda: True)
    os.waitpid(process, 0)
    ended = replace(this_run(), pid=process, token="other")
    claim_of(replace(ended, machine="another namespace"), tmp_path / "a.claim")
    claim_of(ended, tmp_path / "b.claim")
    with Claims(tmp_path) as claims:
        assert not claims.take("a")
        assert claims.take("b")


def test_a_process_that_has_the_number_of_the_owner_is_another_one(tmp_path: Path) -> None:
    claim_of(replace(this_run(), start="1", token="other"), tmp_path / "a.claim")
    claim_of(replace(this_run(), token="other"), tmp_path / "b.claim")
    with Claims(tmp_path) as claims:
        assert claims.take("a")
        assert not claims.take("b")


def test_a_run_is_refused_while_another_one_takes_a_claim_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_of(ELSEWHERE, tmp_path / "a.claim", SILENT_S + 10)
    first, second = Claims(tmp_path), Claims(tmp_path)
    create = Claims._create
    answers = []

    def watched(self: Claims, path: Path) -> bool:
        if self is first and path.suffix == ".tmp":  # what will replace the stale claim
            answers.append(second.take("a"))
        return create(self, path)

    monkeypatch.setattr(Claims, "_create", watched)
    with first, second:
        assert first.take("a")
        assert answers == [False]
        first.require("a")


def test_a_run_that_is_late_does_not_take_the_claim_of_a_faster_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = claim_of(ELSEWHERE, tmp_path / "a.claim", SILENT_S + 10)
    fast, late = Claims(tmp_path), Claims(tmp_path)
    end = Owner.end

    def overtaken(owner: Owner, *arguments: Any) -> str:
        reason = end(owner, *arguments)
        if reason:  # between the look at the stale claim and its replacement
            monkeypatch.setattr(Owner, "end", end)
            assert fast.take("a")
        return reason

    monkeypatch.setattr(Owner, "end", overtaken)
    with fast, late:
        assert not late.take("a")
        fast.require("a")
        assert path.exists()


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_hard_links_has_claims_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "link", refusing(number))
    claim_of(ELSEWHERE, tmp_path / "b.claim", SILENT_S + 10)
    (tmp_path / "c.claim").touch()  # its owner is about to write it
    with Claims(tmp_path) as first, Claims(tmp_path) as second:
        assert first.take("a")
        assert not second.take("a")
        assert first.take("b")
        first.require("b")
        assert not first.take("c")
    assert [path.name for path in tmp_path.iterdir()] == ["c.claim"]
    os.utime(tmp_path / "c.claim", (0, 0))
    with Claims(tmp_path) as claims:
        assert claims.take("c")


@pytest.mark.parametrize("links", [True, False])
def test_a_long_run_renews_its_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.01)
    if not links:
        monkeypatch.setattr(os, "link", refusing(errno.EPERM))
    with Claims(tmp_path) as claims:
        claims.take("a")
        os.utime(tmp_path / "a.claim", (0, 0))
        end = time.monotonic() + 5
        while (tmp_path / "a.claim").stat().st_mtime == 0:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_a_run_whose_claim_was_taken_over_writes_nothing_more(tmp_path: Path) -> None:
    with Claims(tmp_path) as claims:
        claims.take("a")
        claim_of(ELSEWHERE, tmp_path / "b.claim").replace(tmp_path / "a.claim")
        with pytest.raises(ProbeError, match=r"was taken over by process \d+ of .* on node7, bec"):
            claims.require("a")
    assert read_claim(tmp_path / "a.claim") == ELSEWHERE  # it was not released for the other run


def test_waiting_is_logged_once_and_ends_when_the_owner_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "probe")
    process = child(lambda: Claims(tmp_path).take("plan") and (time.sleep(60) or True))
    while not (tmp_path / "plan.claim").exists():
        time.sleep(0.005)
    killer = child(lambda: time.sleep(0.3) or os.kill(process, signal.SIGKILL) or True)
    with Claims(tmp_path) as claims:
        claims.wait_for("plan")
    os.waitpid(process, 0)
    os.waitpid(killer, 0)
    assert caplog.text.count(f"waits for process {process} of ") == 1


def test_a_claim_that_cannot_be_read_is_not_called_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_of(ELSEWHERE, tmp_path / "a.claim", SILENT_S + 10)
    with Claims(tmp_path) as claims:
        monkeypatch.setattr(Path, "read_bytes", refusing(errno.EIO))
        with pytest.raises(UnreadError, match=r"a\.claim: cannot be read now \(Input/output"):
            claims.take("a")
    assert (tmp_path / "a.claim").exists()


def test_a_folder_that_takes_no_claim_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", refusing(errno.EROFS))
    with (
        pytest.raises(ProbeError, match=r"nothing can be written here \(Read-only file system\)"),
        Claims(tmp_path) as claims,
    ):
        claims.take("a")
    assert list(tmp_path.iterdir()) == []
