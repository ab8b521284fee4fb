"""What a result was computed with: versions, processor, commit. It loads no heavy library."""

import functools
import os
import platform
import signal
import subprocess
from importlib import metadata
from pathlib import Path

from probe.errors import ProbeError
from probe.version import __version__

PACKAGES = (
    "torch",
    "torchaudio",
    "transformers",
    "numpy",
    "scikit-learn",
    "h5py",
    "soundfile",
    "soxr",
    "jiwer",
)


def require_posix() -> None:
    """Refuse a system without the signals of schedulers.

    Raises:
        ProbeError: the system is not supported.
    """
    if not hasattr(signal, "SIGUSR1"):
        raise ProbeError(
            f"this system ({platform.system() or 'unknown'}) is not supported: layerprobe runs on "
            "Linux and macOS, and on Windows through WSL (the Windows Subsystem for Linux)."
        )


@functools.cache
def package_versions() -> dict[str, str]:
    """Installed versions of Python and of every library that affects results."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


@functools.cache
def code_version() -> dict[str, str]:
    """The version of this package and its commit (``+`` with uncommitted changes), if known."""
    return {"version": __version__, "commit": commit_of(Path(__file__).resolve().parent)}


def commit_of(package: Path) -> str:
    """The commit of the checkout around ``package``, ``+`` with changes; empty without git."""

    def git(arguments: str) -> str:
        command = ["git", *arguments.split()]
        return subprocess.run(  # noqa: S603
            command, cwd=package, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    if not (package.parent / ".git").exists():
        return ""
    try:
        commit, changes = git("rev-parse --short=12 HEAD"), git("status --porcelain -- .")
        return f"{commit}+" if changes else commit
    except (OSError, subprocess.SubprocessError):
        return ""


@functools.cache
def processor() -> str:
    """The processor's name, with the number of cores this process may use."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name
        )
    except OSError:
        name = name or "unknown"
    return f"{name} ({allowed_cores()} cores)"


def allowed_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_cores(cores: int, quota: float | None) -> int:
    """Threads that can compute at once on ``cores`` under a quota (see `cpu_quota`)."""
    return cores if quota is None else min(cores, max(1, round(quota)))


def cpu_quota(
    groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> float | None:
    """The number of cores that the control groups (version 1 or 2) allow; None without a limit."""
    quotas = []
    for line in _read(groups).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / controllers
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(mount):
                break
            words = (
                _read(folder / "cpu.max")
                or _read(folder / "cpu.cfs_quota_us") + _read(folder / "cpu.cfs_period_us")
            ).split()
            if len(words) == 2 and words[0] not in ("max", "-1"):
                quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
