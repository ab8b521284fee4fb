"""Workers that are tasks of SLURM's job arrays, through submitit.

Each batch is a task of an array. A task that SLURM preempts and requeues starts again by itself,
and one that ends without an answer is submitted again.
"""

import contextlib
import getpass
import io
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from probe.engines.engine import Answer, Batch, End, Engine
from probe.engines.worker import Worker, end_on_signals
from probe.errors import ProbeError
from probe.files import require_writable

log = logging.getLogger("probe")

LOOK_S = 2.0  # between two looks for answers
QUEUE_S = 10.0  # between two questions to SLURM
LATE_S = 15.0  # after which no file of a task that is not in the queue comes any more
FOLDER = ".slurm"
# Reasons for which SLURM never starts a task that it has accepted.
HOPELESS = {
    *("PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit", "BadConstraints"),
    *("InvalidAccount", "InvalidQOS", "AccountNotAllowed", "QOSNotAllowed", "JobHoldMaxRequeue"),
}


class Slurm(Engine):
    """Tasks of job arrays.

    Args:
        folder: on a disk that all nodes see; it gets a folder ``.slurm`` with logs, which is
            removed when nothing has failed.
        options: of sbatch, such as ``{"partition": "gpu", "time": "4:00:00"}``.
        cluster: ``slurm``, or ``local`` for processes of this machine, which is for tests.

    Raises:
        ProbeError: submitit or SLURM is not installed.
    """

    divides_once = True

    def __init__(
        self,
        n_workers: int,
        folder: Path,
        n_cores: int = 1,
        n_gpus: int = 0,
        options: Mapping[str, str] | None = None,
        cluster: str = "slurm",
    ) -> None:
        super().__init__(n_workers)
        try:
            import submitit
        except ImportError as error:
            raise ProbeError(
                "--engine slurm: submitit is not installed. Install it: "
                "pip install 'layerprobe[slurm]'."
            ) from error
        for program in ("sbatch", "srun") if cluster == "slurm" else ():
            if not shutil.which(program):
                raise ProbeError(
                    f"--engine slurm: there is no {program} here; run this on a login node."
                )
        self._is_slurm = cluster == "slurm"
        require_writable(folder)
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        self._folder = (folder / FOLDER / name).absolute()
        self._folder.mkdir(parents=True)
        setup = [f"export OMP_NUM_THREADS={n_cores}"]
        if self._is_slurm:
            own = {"gres": f"gpu:{n_gpus}"} if n_gpus else {}
            self._executor = submitit.SlurmExecutor(self._folder)
            self._executor.update_parameters(
                job_name="probe",
                time=None,  # the partition's, or that of the options
                cpus_per_task=n_cores,
                setup=setup,
                additional_parameters={**own, "requeue": True, **(options or {})},
            )
        else:
            self._executor = submitit.LocalExecutor(self._folder)
            self._executor.update_parameters(timeout_min=24 * 60, setup=setup)
        self._jobs: dict[int, Any] = {}
        self._absent_since: dict[int, float] = {}
        self._asked = 0.0
        self._written = 0  # version of the work that lies in the folder
        self._is_clean = True

    def give(self, batches: Mapping[int, Batch]) -> None:
        """See `Engine.give`."""
        content = self._folder / f"work-{self.version}.pickle"
        if self._written != self.version:
            content.write_bytes(self.content)
            self._written = self.version
        tasks = [Task(content, batch.jobs) for batch in batches.values()]
        try:
            # submitit also prints what sbatch says.
            with contextlib.redirect_stderr(io.StringIO()), self._executor.batch():
                jobs = [self._executor.submit(task) for task in tasks]
        except Exception as error:  # submitit has several kinds
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reasons = [line for line in lines if line.startswith("sbatch: error")] or lines[-1:]
            text = "; ".join(line.removeprefix("sbatch: error: ") for line in reasons)
            raise ProbeError(f"--engine slurm: sbatch refuses the jobs: {text}") from error
        self._jobs.update(zip(batches, jobs, strict=True))
        ids = ", ".join(str(job.job_id) for job in jobs[:1])
        log.info("slurm: submitted %s with %d tasks; logs in %s", ids, len(jobs), self._folder)

    def answers(self, timeout_s: float) -> Iterator[tuple[int, Answer]]:
        """See `Engine.answers`."""
        time.sleep(min(timeout_s, LOOK_S))
        names = {path.name for path in self._folder.iterdir()}  # a listing is never out of date
        for worker, job in list(self._jobs.items()):
            if job.paths.result_pickle.name in names:
                del self._jobs[worker]
                yield worker, job.result()
        for worker in self._gone():
            job = self._jobs.pop(worker)
            self._is_clean = False
            yield worker, End(f"ended without an answer as job {job.job_id} ({_last_line(job)})")

    def end(self, worker: int) -> None:
        """See `Engine.end`."""
        if job := self._jobs.pop(worker, None):
            self._is_clean = False
            if self._is_slurm:
                job.cancel(check=False)
            elif job._process is not None:
                job._process.terminate()

    def close(self) -> None:
        """See `Engine.close`."""
        for worker in list(self._jobs):
            self.end(worker)
        if self._is_clean:
            shutil.rmtree(self._folder, ignore_errors=True)
            if not any(self._folder.parent.iterdir()):
                self._folder.parent.rmdir()

    def _gone(self) -> list[int]:
        """The workers that are not in the queue any more and have not answered.

        Raises:
            ProbeError: SLURM will never start one.
        """
        now = time.monotonic()
        if now - self._asked >= (QUEUE_S if self._is_slurm else LOOK_S):
            self._asked = now
            queue = _queue() if self._is_slurm else self._running()
            for worker, job in self._jobs.items():
                reason = None if queue is None else queue.get(str(job.job_id), "gone")
                if reason in HOPELESS:
                    raise ProbeError(
                        f"--engine slurm: job {job.job_id} would wait for ever ({reason}). Change "
                        "--cpus or --slurm; `sinfo` and `scontrol show partition` show what there "
                        "is."
                    )
                if reason == "gone":
                    self._absent_since.setdefault(worker, now)
                else:
                    self._absent_since.pop(worker, None)
        late_s = LATE_S if self._is_slurm else LOOK_S
        gone = [
            worker
            for worker, since in self._absent_since.items()
            if worker in self._jobs and now - since > late_s
        ]
        for worker in gone:
            del self._absent_since[worker]
        return gone

    def _running(self) -> dict[str, str]:
        """The same as `_queue` for processes of this machine."""
        jobs = self._jobs.values()
        return {str(job.job_id): "" for job in jobs if job._process.poll() is None}


class Task:
    """A batch with the work, as submitit calls it on a node."""

    def __init__(self, content: Path, jobs: tuple[Any, ...]) -> None:
        self.content, self.jobs = content, jobs

    def __call__(self) -> Answer:
        """Do the batch. The signals of SLURM end it; what is finished stays finished."""
        end_on_signals()
        try:
            return Worker().answer(self.content.read_bytes(), self.jobs)
        except SystemExit:
            text = "ended by a signal, as for preemption, cancellation or the time limit"
            print(text, file=sys.stderr, flush=True)
            raise


def _queue() -> dict[str, str] | None:
    """Id -> the reason for waiting, of this user's tasks; None if SLURM does not answer."""
    command = ["squeue", "--noheader", "--array", "--format=%i|%r", f"--user={getpass.getuser()}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    pairs = (line.strip().partition("|") for line in done.stdout.splitlines())
    return {job: reason for job, _, reason in pairs}


def _last_line(job: Any) -> str:
    """The last line of a task's log, and where the log is."""
    try:
        lines = job.paths.stderr.read_text(errors="replace").split("\n")
    except OSError:
        lines = []
    return next((f"{line.strip()}; " for line in reversed(lines) if line.strip()), "") + str(
        job.paths.stderr
    )
