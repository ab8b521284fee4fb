"""Workers on this machine: what happens when they, or their driver, end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from toy_jobs import Toy

from probe.engines import local, worker
from probe.engines.local import Local

DRIVER = """
import sys
from pathlib import Path
from toy_jobs import Toy
from probe.engines.local import Local
jobs = [str(number) for number in range(6)] + ["hung"]
with Local(2) as engine:
    for outcome in engine.run(Toy(Path(sys.argv[1])), jobs, 1, "test"):
        print(outcome.result, flush=True)
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_killed_and_a_hung_worker_cost_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [*map(str, range(20)), "once killed", "hung"]
    with Local(2, n_cores=1, limit_s=1.0) as engine:
        done = {item.job: item for item in engine.run(Toy(tmp_path), jobs, 8, "test")}
        pids = {item.result for item in done.values()}
    assert set(done) == set(jobs)
    assert not [item for item in done.values() if item.error]
    assert "was killed by SIGKILL, as the system does when memory runs out" in caplog.text
    assert "took longer than the 1 s" in caplog.text
    assert not any(map(is_running, pids)), "leaving the engine ends its workers"


def test_a_frozen_worker_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "SILENCE_S", 3 * worker.BEAT_S)
    with Local(2, n_cores=1) as engine:
        done = list(engine.run(Toy(tmp_path), ["once frozen", "slow"], 1, "test"))
    assert [item.error for item in done] == [None, None]
    assert "once frozen: worker 1 gave no sign of life for 6 s; attempt 2 of 3" in caplog.text
    assert "slow" not in caplog.text, "a worker that computes gives signs of life"


def test_a_worker_that_ends_without_a_batch_costs_nothing(tmp_path: Path) -> None:
    with Local(2, n_cores=1) as engine:
        outcomes = engine.run(Toy(tmp_path), ["0", "slow"], 1, "test")
        first = next(outcomes)
        os.kill(first.result, signal.SIGKILL)
        [second] = outcomes
    assert (first.job, second.job, second.error) == ("0", "slow", None)


def test_jobs_that_a_worker_cannot_import_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Job(str):
        __slots__ = ()

    nowhere = ModuleType("nowhere")
    Job.__module__, Job.__qualname__, nowhere.Job = "nowhere", "Job", Job  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nowhere", nowhere)
    with Local(1, n_cores=1, limit_s=60.0) as engine:
        [outcome] = engine.run(Toy(), [Job("1")], 1, "test")
    assert "the last one ended with exit code 1" in str(outcome.error)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_driver(tmp_path: Path, number: int) -> None:
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert driver.stdout is not None
    pids = {int(driver.stdout.readline()) for _ in range(6)}
    driver.send_signal(number)
    driver.wait(30)
    until = time.monotonic() + 20
    while any(map(is_running, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(is_running, pids))
    driver.stdout.close()


def test_gpus_are_dealt_to_workers_and_cores_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Process:
        def __init__(self, command: list[str], **how: object) -> None:
            started.append(how["env"])
            self.stdout: list[str] = []

    monkeypatch.setattr(subprocess, "Popen", Process)
    engine = Local(3, n_cores=4, gpus=["0", "GPU-b"])
    for number in range(3):
        engine._start(number)
    assert [item["CUDA_VISIBLE_DEVICES"] for item in started] == ["0", "GPU-b", "0"]
    assert {item["OMP_NUM_THREADS"] for item in started} == {"4"}
