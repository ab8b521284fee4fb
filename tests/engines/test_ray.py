"""Workers on Ray. A cluster of this machine is started only in the nightly tests."""

import os
import signal
import socket
from pathlib import Path

import pytest
from toy_jobs import Toy

from probe.errors import ProbeError

pytest.importorskip("ray", reason="Ray is not installed")

from probe.engines.ray import Ray


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nowhere", "--ray-address nowhere: expected HOST:PORT"),
        ("ray://127.0.0.1:10001", "is not supported; run the command on a node of the cluster"),
    ],
)
def test_an_address_that_is_none_is_refused(address: str, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        Ray(1, address=address)


def test_an_address_that_nobody_answers_is_refused_at_once() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(ProbeError, match=f"{address}: nobody answers .Connection refused"):
            Ray(1, address=address)


@pytest.mark.nightly
def test_a_cluster_does_jobs_whose_workers_are_killed_or_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    jobs = [*map(str, range(20)), "once killed", "hung"]
    with Ray(2, limit_s=20.0) as engine:
        done = {item.job: item for item in engine.run(Toy(tmp_path), jobs, 8, "test")}
    assert set(done) == set(jobs)
    assert not [item for item in done.values() if item.error]
    assert "worker" in caplog.text and "ended (ActorDiedError" in caplog.text
    assert "took longer than the 20 s that --job-limit allows" in caplog.text
    assert os.getpid() not in {item.result for item in done.values()}


@pytest.mark.nightly
def test_workers_without_a_place_are_refused_and_sigterm_keeps_its_meaning() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ProbeError, match=r"do not fit: the cluster has 1 node with .* room for 0"):
        Ray(1, n_gpus=1)
    assert signal.getsignal(signal.SIGTERM) == before
