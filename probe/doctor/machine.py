"""This machine: libraries, devices and their speed, decoders, the hub and its cache, the disk."""

import os
import platform
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING

from probe.doctor.findings import Finding, Findings
from probe.environment import allowed_cores, cpu_quota, package_versions, processor, usable_cores
from probe.errors import listed
from probe.version import __version__

if TYPE_CHECKING:
    import torch

PACKAGE = "layerprobe"
GIB, GB, MB = 1 << 30, 10**9, 10**6
GEMM_BUDGET_S = 0.4
# GFLOP per second of audio, and bytes per hour in float16: 13 layers of 768 values and 25 of 1024,
# each 20 ms.
MODELS = {"base": (14.8, 13 * 768 * 2 * 50 * 3600), "large": (52.0, 25 * 1024 * 2 * 50 * 3600)}
WRITTEN_BYTES, WRITE_BLOCK_BYTES, WRITE_LIMIT_S = 64 << 20, 8 << 20, 3.0
SLOW_DISK = 50 * MB
# Each library is imported through its door in the house; torch comes first, the others need it.
IMPORTS: dict[str, Callable[[], object]] = {
    "torch": lambda: import_module("torch"),
    "torchaudio": lambda: import_module("probe.models.spectral"),
    "transformers": lambda: import_module("probe.models.sources.checkpoints"),
    "soundfile, soxr": lambda: import_module("probe.data.audio"),
    "h5py": lambda: import_module("probe.store.shards"),
    "scikit-learn": lambda: import_module("probe.heads.linear.linear_probe"),
    "pandas": lambda: import_module("probe.reporting.filters"),
    "jiwer": lambda: import_module("probe.measures.transcription"),
}


def versions() -> Findings:
    """Compare installed versions with the declared ranges, and import every library."""
    declared = _declared()
    problems = [*_misfits(declared), *_import_failures(declared)]
    installed = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    summary = "" if problems else f": all {len(declared)} requirements are met and load"
    yield Finding("versions", "ok", f"layerprobe {__version__}; {installed}{summary}")
    if not declared:
        text = "layerprobe is not installed, so the versions that it supports are unknown."
        yield Finding("versions", "note", text, "In its checkout: pip install -e .")
    yield from problems


def fits(version: str, wanted: str) -> bool:
    """Return whether a version such as ``2.14.1+cu130`` is in a range such as ``>=2.11,<2.15``."""
    for operator, bound_text in re.findall(r"(>=|<)\s*([\d.]+)", wanted):
        left, right = (
            [int(part) for part in re.findall(r"\d+", re.match(r"[\d.]*", text)[0])]  # type: ignore[index]
            for text in (version, bound_text)
        )
        width = max(len(left), len(right))
        left, right = (numbers + [0] * (width - len(numbers)) for numbers in (left, right))
        if (left >= right) != (operator == ">="):
            return False
    return True


def _declared() -> dict[str, str]:
    """Package -> range, as the installed package declares them; Python is among them."""
    try:
        lines = metadata.requires(PACKAGE) or []
        declared = {"Python": metadata.metadata(PACKAGE)["Requires-Python"] or ""}
    except metadata.PackageNotFoundError:
        return {}
    for line in lines:
        if match := re.fullmatch(r"([\w.-]+)([^;]*)", line):  # a marker belongs to an extra
            declared[match[1]] = ",".join(sorted(match[2].split(","), reverse=True))
    return declared


def _misfits(declared: Mapping[str, str]) -> Iterator[Finding]:
    for name, wanted in declared.items():
        advice = f'pip install "{name}{wanted}"'
        if name == "Python":
            advice = "Make a virtual environment with a newer Python and install layerprobe there."
        try:
            version = platform.python_version() if name == "Python" else metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding("versions", "problem", f"{name} is not installed.", advice)
            continue
        if not fits(version, wanted):
            yield Finding("versions", "problem", f"{name} {version} is outside {wanted}.", advice)


def _import_failures(declared: Mapping[str, str]) -> Iterator[Finding]:
    for library, load in IMPORTS.items():
        try:
            load()
        except Exception as error:  # ImportError, OSError of a shared library, RuntimeError
            reason = (str(error) or type(error).__name__).splitlines()[0]
            packages = ["torch", "torchaudio"] if library == "torchaudio" else library.split(", ")
            ranges = " ".join(f'"{name}{declared.get(name, "")}"' for name in packages)
            advice = f"pip install --force-reinstall {ranges}"
            if library == "torchaudio":
                advice = (
                    "torch and torchaudio must be built for the same CUDA version. Install both at "
                    f"once, from one index: {advice}"
                )
            yield Finding("versions", "problem", f"{library} cannot be imported: {reason}", advice)
            if library == "torch":
                return


def devices(device: str | None = None) -> Findings:
    """Name GPUs, processor and threads, and measure how fast models will run."""
    import torch

    from probe.models.catalogue import choose_device

    yield from _gpus()
    threads, usable = torch.get_num_threads(), usable_cores(allowed_cores(), cpu_quota())
    text = f"{processor()}; torch computes on {threads} thread{'s' if threads > 1 else ''}"
    yield Finding("devices", "ok", text)
    if threads > usable:
        text = f"torch starts {threads} threads on {usable} usable cores: they wait for each other."
        yield Finding("devices", "note", text, f"Set OMP_NUM_THREADS={usable}.")
    place = torch.device(choose_device(device))
    single, half = (gemm_gflops(place, dtype) for dtype in (torch.float32, torch.bfloat16))
    speeds = ", ".join(
        f"{single / gflop:.3g} x real time for a {name} model"
        for name, (gflop, _) in MODELS.items()
    )
    text = (
        f"matrix products on {place}: {single:.0f} GFLOP/s in float32, {half:.0f} in bfloat16; "
        f"float32 gives at most {speeds}"
    )
    yield Finding("devices", "ok", text)


def _gpus() -> Iterator[Finding]:
    import torch

    cuda = torch.version.cuda
    build = f"torch {torch.__version__}, built for {f'CUDA {cuda}' if cuda else 'CPUs only'}"
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(number)
            text = f"cuda:{number} {gpu.name}, {gpu.total_memory / GIB:.0f} GiB; {build}"
            yield Finding("devices", "ok", text)
    elif not nvidia_driver():
        yield Finding("devices", "ok", f"no NVIDIA driver, so everything runs on the CPU; {build}")
    elif os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        text = "CUDA_VISIBLE_DEVICES hides the GPUs of this machine."
        yield Finding("devices", "note", text, "Unset CUDA_VISIBLE_DEVICES to use them.")
    else:
        advice = "Install torch and torchaudio for CUDA, both at once from one index."
        if cuda:
            advice = f"Run nvidia-smi; the driver may be older than CUDA {cuda} needs: update it."
        text = f"an NVIDIA driver is here, but {build}, finds no GPU."
        yield Finding("devices", "problem", text, advice)


def nvidia_driver() -> bool:
    """Return whether an NVIDIA driver is installed."""
    return os.path.exists("/proc/driver/nvidia/version") or shutil.which("nvidia-smi") is not None  # noqa: PTH110 (never raises)


def gemm_gflops(place: "torch.device", dtype: "torch.dtype") -> float:
    """Return the median speed of square matrix products, in 10^9 operations per second."""
    import torch

    size = 4096 if place.type == "cuda" else 768
    matrix = torch.randn(size, size, device=place, dtype=dtype)
    seconds: list[float] = []
    with torch.inference_mode():
        while len(seconds) < 2 or (sum(seconds) < GEMM_BUDGET_S and len(seconds) < 15):
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            if place.type == "cuda":
                torch.cuda.synchronize(place)
            seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds[1:]) / 1e9  # the first one prepares


def decoders() -> Findings:
    """Name the readable audio formats, and try the resampler."""
    from probe.data import ffmpeg
    from probe.data.audio import formats, resamples

    readable = formats()
    text, advice = " ".join(name for name, works in readable.items() if works), ""
    if ffmpeg.is_installed():
        text += " m4a mp4 aac wma webm"
    else:
        text += "; not m4a mp4 aac wma webm"
        advice = (
            "For those: pip install layerprobe[ffmpeg]. Or convert them: "
            "ffmpeg -i in.m4a -ar 16000 -ac 1 out.wav"
        )
    yield Finding("decoders", "ok", text, advice)
    if missing := [name for name, works in readable.items() if not works]:
        text = f"the installed libsndfile does not read {' '.join(missing)}."
        yield Finding("decoders", "note", text, "pip install --force-reinstall soundfile")
    if not resamples():
        text = "soxr changes a tone when it resamples it."
        yield Finding("decoders", "problem", text, "pip install --force-reinstall soxr")


def hub() -> Findings:
    """Ask the hub for an answer, and measure its cache."""
    from probe.models.sources import hub

    works = "only the cache, folders, random:, fbank and mfcc work."
    if hub.is_offline():
        text = f"HF_HUB_OFFLINE is set: {works}"
        yield Finding("hub", "note", text, "Unset it to fetch models.")
    elif reason := hub.why_unreachable():
        text = f"{hub.endpoint()} does not answer as the hub does ({reason}): {works}"
        advice = (
            "Set HTTPS_PROXY if there is a proxy, HF_ENDPOINT if there is a mirror; or copy a "
            "checkpoint's folder here and set HF_HUB_OFFLINE=1 so that nothing waits."
        )
        yield Finding("hub", "note", text, advice)
    else:
        yield Finding("hub", "ok", f"{hub.endpoint()} answers")
    cache = hub.cache()
    folder = _existing(cache.folder)
    free = shutil.disk_usage(folder).free
    names = f" ({listed(list(cache.models), 4)})" if cache.models else ""
    text = (
        f"cache {cache.folder}: {len(cache.models)} models{names}, {cache.n_bytes / GB:.1f} GB; "
        f"{free / GB:.0f} GB free"
    )
    if not os.access(folder, os.W_OK):
        text = f"cache {cache.folder}: cannot be written, so no model can be fetched."
        yield Finding("hub", "problem", text, "Set HF_HUB_CACHE to another folder.")
    elif free < 2 * GB:
        advice = "A base model takes 0.4 GB, a large one 1.3 GB: make room, or set HF_HUB_CACHE."
        yield Finding("hub", "note", text, advice)
    else:
        yield Finding("hub", "ok", text)


def disk(to: Path) -> Findings:
    """Measure free space and write speed of the folder for features."""
    folder = _existing(to.absolute())
    advice = "Name another folder with --to."
    if not folder.is_dir():
        text = f"{folder} is a file; features need a folder."
        yield Finding("disk", "problem", text, advice)
        return
    try:
        free, speed = shutil.disk_usage(folder).free, write_speed(folder)
    except OSError as error:
        text = f"{folder} cannot be written to: {error.strerror or error}."
        yield Finding("disk", "problem", text, f"{advice[:-1]}, or make room.")
        return
    hours = {name: free / n_bytes for name, (_, n_bytes) in MODELS.items()}
    text = (
        f"{folder}: {free / GB:.0f} GB free, written at {speed / MB:.0f} MB/s. Room for the frames "
        f"of about {hours['base']:.0f} hours of audio for a base model, of {hours['large']:.0f} "
        "for a large one"
    )
    little = hours["base"] < 10
    advice = "`--view meanstd` and `--layers` need far less; or name another disk with --to."
    yield Finding("disk", "note" if little else "ok", text, advice if little else "")
    if speed < SLOW_DISK:
        text = (
            f"{speed / MB:.0f} MB/s is slow: frames of a base model are 1 MB per second of audio."
        )
        yield Finding("disk", "note", text, "Name a local disk with --to, or use `--view meanstd`.")


def _existing(path: Path) -> Path:
    """The nearest ancestor that exists, or the path itself."""
    while not os.path.exists(path) and path != path.parent:  # noqa: PTH110 (Path.exists raises below a folder that is closed)
        path = path.parent
    return path


def write_speed(folder: Path) -> float:
    """Return the bytes per second that a nameless file of up to 64 MB is written and fsynced with.

    Raises:
        OSError: the folder cannot be written, or is full.
    """
    block = os.urandom(WRITE_BLOCK_BYTES)  # some file systems compress
    written, start = 0, time.perf_counter()
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        while written < WRITTEN_BYTES and time.perf_counter() - start < WRITE_LIMIT_S:
            written += file.write(block)
            os.fsync(file.fileno())
        return written / (time.perf_counter() - start)
