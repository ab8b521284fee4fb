"""Which engine a command uses: its options, checked before anything is done."""

import os
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from probe.engines.engine import Engine
from probe.environment import allowed_cores, cpu_quota, usable_cores
from probe.errors import UsageError
from probe.remote.paths import RemotePath


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """The options of an engine.

    Attributes:
        engine: ``local``, ``ray`` or ``slurm``.
        n_workers: jobs that are done at a time; one ``local`` job is done in this process.
        n_cores: for each worker; None means one on a cluster, and an equal part of the cores here.
        ray_address: see `probe.engines.ray.Ray`.
        slurm: options of sbatch, each ``NAME=VALUE``.
        limit_s: for each job.

    Raises:
        UsageError: an option would be ignored, or is not understood.
    """

    engine: str = "local"
    n_workers: int = 1
    n_cores: int | None = None
    ray_address: str | None = None
    slurm: Sequence[str] = ()
    limit_s: float | None = None

    def __post_init__(self) -> None:
        if self.ray_address is not None and self.engine != "ray":
            raise UsageError(f"--ray-address {self.ray_address}: only --engine ray has one.")
        if self.slurm and self.engine != "slurm":
            raise UsageError(f"--slurm {self.slurm[0]}: only --engine slurm has such options.")
        if self.is_this_process:
            for name, value in (("--cpus", self.n_cores), ("--job-limit", self.limit_s)):
                if value is not None:
                    raise UsageError(
                        f"{name} {value:g}: there are no workers that it could apply to. "
                        "Add --jobs 2 or more."
                    )
        if self.engine == "slurm" and self.limit_s is not None:
            raise UsageError(
                f"--job-limit {self.limit_s:g}: SLURM limits its tasks itself; use --slurm "
                "time=4:00:00."
            )
        _ = self.sbatch_options

    @property
    def is_this_process(self) -> bool:
        """Whether there are no workers."""
        return self.engine == "local" and self.n_workers == 1

    @property
    def sbatch_options(self) -> dict[str, str]:
        """Name -> value."""
        own = {"array", "output", "error", "signal", "cpus-per-task", "chdir", "wrap"}
        options = {}
        for text in self.slurm:
            match = re.fullmatch(r"-*([a-z][a-z-]*)=(.+)", text)
            if match is None:
                raise UsageError(
                    f"--slurm {text}: expected an option of sbatch, NAME=VALUE, such as "
                    "partition=gpu, time=4:00:00 or mem=16G."
                )
            name, value = match.groups()
            if name in own:
                advice = "; use --cpus" if name == "cpus-per-task" else ""
                raise UsageError(f"--slurm {text}: layerprobe sets {name} itself{advice}.")
            options[name] = value
        return options

    def refuse_plan(self) -> None:
        """Refuse to make a plan, which needs no workers.

        Raises:
            UsageError: there are workers.
        """
        if not self.is_this_process:
            raise UsageError(
                "--dry-run plans in this process; leave it or --engine and --jobs out."
            )

    def open(self, device: str | None, folder: Path) -> AbstractContextManager[Engine | None]:
        """Return the engine as a context manager, which gives None if there are no workers.

        Args:
            device: of the jobs; ``cuda`` on a cluster gives each worker a GPU.
            folder: which the jobs write to. The logs of SLURM's tasks lie there, or in the working
                folder if it is a URL.

        Raises:
            ProbeError: the engine cannot be had.
        """
        if self.is_this_process:
            return nullcontext()
        if self.engine == "local":
            from probe.engines.local import Local

            gpus = _gpus() if device in (None, "cuda") else []
            return Local(self.n_workers, self._local_cores(), gpus, self.limit_s)
        if device is not None and re.fullmatch(r"cuda:\d+", device):
            raise UsageError(
                f"--device {device}: the cluster chooses the GPU of each worker; use --device cuda."
            )
        n_gpus = int(device == "cuda")
        n_cores = self.n_cores or 1
        if self.engine == "ray":
            from probe.engines.ray import Ray

            return Ray(self.n_workers, n_cores, n_gpus, self.ray_address, self.limit_s)
        from probe.engines.slurm import Slurm

        disk = Path() if isinstance(folder, RemotePath) else folder
        return Slurm(self.n_workers, disk, n_cores, n_gpus, self.sbatch_options)

    def _local_cores(self) -> int | None:
        if self.n_cores is None and "OMP_NUM_THREADS" in os.environ:
            return None
        cores = usable_cores(allowed_cores(), cpu_quota())
        return self.n_cores or max(1, cores // self.n_workers)


def _gpus() -> list[str]:
    """The values of ``CUDA_VISIBLE_DEVICES`` that stand for one GPU each."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    return [str(number) for number in range(torch.cuda.device_count())]
