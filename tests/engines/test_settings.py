"""Options of engines: those that would be ignored, or that cannot be had, are refused."""

from pathlib import Path
from typing import Any

import pytest

from probe.engines.local import Local
from probe.engines.settings import EngineSettings
from probe.errors import ProbeError, UsageError
from probe.remote.paths import as_path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ray_address": "a:1"}, "--ray-address a:1: only --engine ray has one"),
        ({"slurm": ["mem=4G"], "n_workers": 2}, "--slurm mem=4G: only --engine slurm"),
        ({"n_cores": 2}, "--cpus 2: there are no workers"),
        ({"limit_s": 60.0}, "--job-limit 60: there are no workers"),
        ({"engine": "slurm", "limit_s": 60.0}, "use --slurm time="),
        ({"engine": "slurm", "slurm": ["mem"]}, "--slurm mem: expected an option of sbatch"),
        ({"engine": "slurm", "slurm": ["array=1-3"]}, "layerprobe sets array itself"),
        ({"engine": "slurm", "slurm": ["cpus-per-task=3"]}, "use --cpus"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EngineSettings(**options)


@pytest.mark.parametrize("engine", ["ray", "slurm"])
def test_a_cluster_chooses_the_gpu_of_a_worker(engine: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="use --device cuda"):
        EngineSettings(engine=engine).open("cuda:1", tmp_path)


def test_one_local_job_is_this_process(tmp_path: Path) -> None:
    with EngineSettings().open(None, tmp_path) as engine:
        assert engine is None


def test_workers_share_the_cores_and_the_visible_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr("probe.engines.settings.allowed_cores", lambda: 9)
    monkeypatch.setattr("probe.engines.settings.cpu_quota", lambda: None)
    settings = EngineSettings(n_workers=2)
    for device, gpus in ((None, ["3", "5"]), ("cuda", ["3", "5"]), ("cpu", []), ("cuda:1", [])):
        engine = settings.open(device, tmp_path)
        assert isinstance(engine, Local)
        assert (engine._n_cores, list(engine._gpus)) == (4, gpus)


def test_slurm_is_refused_where_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("sbatch", "srun"):
        with pytest.raises(ProbeError, match=rf"not installed|there is no {name} here"):
            EngineSettings(engine="slurm").open(None, tmp_path)
        (tmp_path / name).touch(0o755)


def test_the_logs_of_slurm_lie_on_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    for name in ("sbatch", "srun"):
        (tmp_path / name).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    settings = EngineSettings(engine="slurm", n_workers=2)
    with settings.open(None, as_path("memory://features")):
        assert list((tmp_path / ".slurm").iterdir())
