"""Workers as jobs of SLURM: through submitit's processes of this machine, and on a real cluster of
one node, which is started where SLURM is installed and the user is root.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_jobs import Toy

from probe.engines import slurm
from probe.engines.slurm import Slurm
from probe.errors import ProbeError

pytest.importorskip("submitit", reason="submitit is not installed")

HERE = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "QUEUE_S", 1.0)
    monkeypatch.setattr(slurm, "LATE_S", 3.0)


CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A SLURM of one node."""
    programs = ("munged", "slurmctld", "slurmd", "sbatch", "runuser")
    missing = [name for name in programs if not shutil.which(name)]
    if missing or os.getuid() != 0:
        pytest.skip(f"a SLURM of one node needs root and {', '.join(missing or programs)}")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    ports = (free_port(), free_port())
    how = {"host": socket.gethostname(), "folder": folder, "cores": os.cpu_count(), "ports": ports}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**how), encoding="utf-8")
    munge = Path("/run/munge/test.pid")  # where none runs already
    if subprocess.run(["pgrep", "-x", "munged"], capture_output=True).returncode != 0:
        munge.parent.mkdir(exist_ok=True)
        shutil.chown(munge.parent, "munge")
        line = ["runuser", "-u", "munge", "--", "munged", "--force", f"--pid-file={munge}"]
        subprocess.run(line, check=True)
    path = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    try:
        for daemon in ("slurmctld", "slurmd"):
            subprocess.run([daemon, "-f", str(folder / "slurm.conf")], check=True)
        until = time.monotonic() + 60
        while "idle" not in subprocess.run(["sinfo"], capture_output=True, text=True).stdout:
            if time.monotonic() > until:
                pytest.skip("the SLURM of one node does not start")
            time.sleep(0.5)
        yield
    finally:
        for pid in (folder / "slurmd.pid", folder / "slurmctld.pid", munge):
            if pid.exists():
                os.kill(int(pid.read_text()), 15)
        os.environ.pop("SLURM_CONF")
        if path is not None:
            os.environ["SLURM_CONF"] = path


def require_all_done(engine: Slurm, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Do jobs, of which one ends its worker once, and one always."""
    (tmp_path / "marks").mkdir()
    jobs = [*map(str, range(6)), "once killed", "always killed"]
    with engine:
        done = {item.job: item for item in engine.run(Toy(tmp_path / "marks"), jobs, 8, "test")}
    assert set(done) == set(jobs)
    assert [name for name, item in done.items() if item.error] == ["always killed"]
    assert "3 workers ended while they did this job" in str(done["always killed"].error)
    assert "ended without an answer as job" in caplog.text


@pytest.mark.nightly
def test_processes_of_this_machine_do_the_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    require_all_done(Slurm(2, tmp_path, cluster="local"), tmp_path, caplog)
    assert list((tmp_path / ".slurm").iterdir()), "the logs of what has failed are kept"


def test_logs_are_removed_when_nothing_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    with Slurm(1, tmp_path, cluster="local") as engine:
        [outcome] = engine.run(Toy(), ["1"], 1, "test")
    assert outcome.error is None
    assert not list(tmp_path.iterdir())


@pytest.mark.nightly
def test_a_real_cluster_does_the_jobs(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    require_all_done(Slurm(2, tmp_path), tmp_path, caplog)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"options": {"partition": "none"}}, "sbatch refuses the jobs: invalid partition"),
        ({"n_gpus": 1}, "sbatch refuses the jobs: Invalid generic resource"),
        ({"n_cores": 1000}, "would wait for ever .PartitionConfig"),
    ],
)
def test_what_a_real_cluster_does_not_have_is_refused(
    cluster: None, tmp_path: Path, how: dict[str, object], message: str
) -> None:
    with (
        pytest.raises(ProbeError, match=message),
        Slurm(1, tmp_path, **how) as engine,  # type: ignore[arg-type]
    ):
        list(engine.run(Toy(), ["1"], 1, "test"))


@pytest.mark.nightly
def test_a_requeued_task_starts_again(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    with Slurm(1, tmp_path) as engine:
        outcomes = engine.run(Toy(tmp_path), ["hung"], 1, "test")
        requeued = False
        answers = engine.answers

        def answers_with_a_requeue(timeout_s: float) -> object:
            nonlocal requeued
            if not requeued and (tmp_path / "hung.0").exists():
                [job] = engine._jobs.values()
                subprocess.run(["scontrol", "requeue", str(job.job_id)], check=True)
                until = time.monotonic() + 30
                while slurm._queue()[str(job.job_id)] != "BeginTime":  # type: ignore[index]
                    assert time.monotonic() < until
                    time.sleep(0.2)
                now = ["scontrol", "update", f"JobId={job.job_id}", "StartTime=now"]
                subprocess.run(now, check=True)  # after two minutes otherwise
                requeued = True
            return answers(timeout_s)

        monkeypatch.setattr(engine, "answers", answers_with_a_requeue)
        [outcome] = outcomes
    assert outcome.error is None
    assert requeued
    assert (tmp_path / "hung.1").exists()
