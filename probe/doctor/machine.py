"""The machine: devices, threads and their speed, decoders, the hub and its cache, the disk."""

import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from probe.doctor.findings import Finding
from probe.environment import allowed_cores, cpu_quota, processor, usable_cores
from probe.errors import listed

if TYPE_CHECKING:
    import torch

GIB, GB, MB = 1 << 30, 10**9, 10**6
GEMM_BUDGET_S = 0.4
# GFLOP per second of audio, and bytes per hour in float16: 13 layers of 768 values and 25 of 1024,
# each 20 ms.
MODELS = {"base": (14.8, 13 * 768 * 2 * 50 * 3600), "large": (52.0, 25 * 1024 * 2 * 50 * 3600)}
WRITTEN_BYTES, WRITE_BLOCK_BYTES, WRITE_LIMIT_S = 64 << 20, 8 << 20, 3.0
LITTLE_BYTES = GB
SLOW_DISK = 50 * MB


def devices(device: str | None = None) -> Iterator[Finding]:
    """GPUs, processor and threads, and how fast they multiply matrices."""
    import torch

    from probe.models.catalogue import choose_device

    yield from _gpus()
    yield from _threads(torch.get_num_threads())
    place = torch.device(choose_device(device))
    single, half = (gemm_gflops(place, dtype) for dtype in (torch.float32, torch.bfloat16))
    reach = ", ".join(
        f"{single / gflop:.3g} x real time for a {name} model"
        for name, (gflop, _) in MODELS.items()
    )
    text = f"matrix products on {place}: {single:.0f} GFLOP/s in float32, {half:.0f} in bfloat16; float32 at best gives {reach}"
    yield Finding("devices", "ok", text)
    if half <= single:
        text = f"bfloat16 is not faster than float32 on this {'GPU' if place.type == 'cuda' else 'processor'}."
        yield Finding("devices", "note", text, "Compute in float32, the default.")


def _gpus() -> Iterator[Finding]:
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    build = f"torch {torch.__version__}, built for {'CUDA ' + torch.version.cuda if torch.version.cuda else 'CPUs only'}"
    for number in range(torch.cuda.device_count() if usable else 0):
        properties = torch.cuda.get_device_properties(number)
        yield Finding(
            "devices",
            "ok",
            f"cuda:{number} {properties.name}, {properties.total_memory / GIB:.0f} GiB; {build}",
        )
    if usable:
        return
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not nvidia_driver():
        yield Finding("devices", "ok", f"no NVIDIA driver, so everything runs on the CPU; {build}")
    elif hidden is not None and hidden.strip() in ("", "-1"):
        text = f"CUDA_VISIBLE_DEVICES={hidden} hides the GPUs of this machine."
        yield Finding("devices", "note", text, "Unset CUDA_VISIBLE_DEVICES to use them.")
    elif torch.version.cuda is None:
        text = f"an NVIDIA driver is here, but {build}."
        yield Finding(
            "devices",
            "problem",
            text,
            "Install torch and torchaudio for CUDA, both at once from one index.",
        )
    else:
        reason = f" ({str(said[0].message).splitlines()[0]})" if said else ""
        advice = f"Run nvidia-smi: no GPU listed, or a driver older than CUDA {torch.version.cuda} needs? Update the driver."
        yield Finding(
            "devices",
            "problem",
            f"an NVIDIA driver is here, but {build}, finds no GPU{reason}.",
            advice,
        )


def nvidia_driver() -> bool:
    """Whether an NVIDIA driver is installed on this machine."""
    return os.path.exists("/proc/driver/nvidia/version") or shutil.which("nvidia-smi") is not None  # noqa: PTH110 (never raises)


def _threads(torch_threads: int) -> Iterator[Finding]:
    cores = allowed_cores()
    quota = cpu_quota()
    yield Finding(
        "devices",
        "ok",
        f"{processor()}; torch computes on {torch_threads} thread{'s' if torch_threads > 1 else ''}",
    )
    usable = usable_cores(cores, quota)
    if usable < cores and torch_threads > usable:
        text = f"a quota allows {quota:g} of the {cores} cores, torch starts {torch_threads} threads: they wait for each other."
        yield Finding("devices", "note", text, f"Set OMP_NUM_THREADS={usable}.")
    elif torch_threads > usable:
        text = f"torch starts {torch_threads} threads on {usable} usable cores: they wait for each other."
        yield Finding("devices", "note", text, f"Set OMP_NUM_THREADS={usable}.")
    asked = os.environ.get("OMP_NUM_THREADS")
    if asked is not None and not asked.replace(",", "").isdigit():
        text = f"OMP_NUM_THREADS={asked!r} is not a number of threads."
        yield Finding("devices", "note", text, f"Set OMP_NUM_THREADS={usable}, or unset it.")
    elif asked is not None and int(asked.split(",")[0]) < usable:
        text = f"OMP_NUM_THREADS={asked} leaves some of the {usable} usable cores idle."
        yield Finding("devices", "note", text, "Unset it, unless other jobs use those cores.")
    if os.environ.get("OMP_WAIT_POLICY", "").upper() == "ACTIVE":
        text = "OMP_WAIT_POLICY=ACTIVE: on a shared machine spinning threads are up to a hundred times slower."
        yield Finding("devices", "note", text, "Unset it; layerprobe then sets PASSIVE.")


def gemm_gflops(
    place: "torch.device", dtype: "torch.dtype", budget_s: float = GEMM_BUDGET_S
) -> float:
    """Median speed of several square matrix products within ``budget_s``, in 10^9 operations per
    second.
    """
    import torch

    size = 4096 if place.type == "cuda" else 768
    matrix = torch.randn(size, size, device=place, dtype=dtype)
    seconds: list[float] = []
    with torch.inference_mode():
        while len(seconds) < 2 or (sum(seconds) < budget_s and len(seconds) < 15):
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            if place.type == "cuda":
                torch.cuda.synchronize(place)
            seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds[1:]) / 1e9  # the first one prepares


def decoders() -> Iterator[Finding]:
    """Formats that can be read here, and whether resampling works."""
    from probe.data.audio import formats, resamples

    found = formats()
    ffmpeg = "" if shutil.which("ffmpeg") else " (ffmpeg is not installed here)"
    convert = f"ffmpeg -i in.m4a -ar 16000 -ac 1 out.wav{ffmpeg}"
    readable = " ".join(name for name, works in found.items() if works)
    yield Finding(
        "decoders", "ok", f"{readable}; not m4a aac wma webm", f"Convert those: {convert}"
    )
    if missing := [name for name, works in found.items() if not works]:
        text = f"the libsndfile installed here does not read {' '.join(missing)}."
        yield Finding(
            "decoders",
            "note",
            text,
            "pip install --force-reinstall soundfile brings a libsndfile that does.",
        )
    if not resamples():
        text = "soxr does not give a tone back when it resamples one."
        yield Finding("decoders", "problem", text, "pip install --force-reinstall soxr")


def hub() -> Iterator[Finding]:
    """Whether the hub answers, and what its cache holds."""
    from probe.models.sources import hub

    if hub.is_offline():
        text = "HF_HUB_OFFLINE is set: only the cache, folders, random:, fbank and mfcc work."
        yield Finding("hub", "note", text, "Unset it to fetch models.")
    elif reason := hub.why_unreachable():
        text = f"{hub.endpoint()} does not answer as the hub does ({reason}): only the cache, folders, random:, fbank and mfcc work."
        advice = (
            "Set HTTPS_PROXY where there is a proxy, HF_ENDPOINT where there is a mirror; or copy a checkpoint's folder here, "
            "and set HF_HUB_OFFLINE=1 so that nothing waits."
        )
        yield Finding("hub", "note", text, advice)
    else:
        yield Finding("hub", "ok", f"{hub.endpoint()} answers")
    cache = hub.cache()
    above = _existing(cache.folder)
    names = f"{len(cache.models)} models" + (
        f" ({listed(list(cache.models), 4)})" if cache.models else ""
    )
    free = shutil.disk_usage(above).free
    text = f"cache {cache.folder}: {names}, {cache.n_bytes / GB:.1f} GB; {free / GB:.0f} GB free"
    if not os.access(above, os.W_OK):
        text = (
            f"cache {cache.folder}: {names}; it cannot be written to, so no model can be fetched."
        )
        yield Finding("hub", "problem", text, "Set HF_HUB_CACHE to a folder that can.")
    elif free < 2 * GB:
        advice = "A base model takes 0.4 GB, a large one 1.3 GB: make room, or set HF_HUB_CACHE to a folder on another disk."
        yield Finding("hub", "note", text, advice)
    else:
        yield Finding("hub", "ok", text)
    if cache.damaged:
        text = f"{len(cache.damaged)} entries of the cache cannot be read: {listed(list(cache.damaged), 2)}"
        yield Finding(
            "hub",
            "note",
            text,
            "Where permissions and disk are sound, remove their folders; they are fetched again.",
        )


def disk(to: Path) -> Iterator[Finding]:
    """Free space and write speed where features would go."""
    folder = _existing(to.absolute())
    if not folder.is_dir():
        yield Finding(
            "disk",
            "problem",
            f"{folder} is a file; features need a folder.",
            "Name another folder with --to.",
        )
        return
    try:
        free = shutil.disk_usage(folder).free
        speed = write_speed(folder)
    except OSError as error:
        text = f"{folder} cannot be written to: {error.strerror or error}."
        yield Finding("disk", "problem", text, "Name another folder with --to, or make room.")
        return
    hours = {name: free / n_bytes for name, (_, n_bytes) in MODELS.items()}
    space = f"frames of about {hours['base']:.0f} hours of audio for a base model, of {hours['large']:.0f} for a large one"
    text = (
        f"{folder}: {free / GB:.0f} GB free, written at {speed / MB:.0f} MB/s. Room for the {space}"
    )
    if hours["base"] < 10:
        yield Finding(
            "disk",
            "note",
            text,
            "`--view meanstd` and `--layers` need far less; or name another disk with --to.",
        )
    else:
        yield Finding("disk", "ok", text)
    if speed < SLOW_DISK:
        text = f"{speed / MB:.0f} MB/s is slow: frames of a base model are 1 MB per second of audio, of a large one 2.6 MB."
        yield Finding("disk", "note", text, "Name a local disk with --to, or use `--view meanstd`.")
    temporary = Path(tempfile.gettempdir())
    if (free := shutil.disk_usage(temporary).free) < LITTLE_BYTES:
        text = f"the folder of temporary files, {temporary}, has {free / GB:.1f} GB free."
        yield Finding("disk", "note", text, "Make room, or set TMPDIR to another folder.")


def _existing(path: Path) -> Path:
    """The nearest ancestor that exists, or the path itself."""
    while not os.path.exists(path) and path != path.parent:  # noqa: PTH110 (Path.exists raises below a folder that is closed)
        path = path.parent
    return path


def write_speed(folder: Path) -> float:
    """Bytes per second written and fsynced, from 64 MB, or less where that takes long; the file has
    no name and leaves nothing.

    Raises:
        OSError: the folder cannot be written to, or is full.
    """
    block = os.urandom(WRITE_BLOCK_BYTES)  # some file systems compress
    written, start = 0, time.perf_counter()
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        while written < WRITTEN_BYTES and time.perf_counter() - start < WRITE_LIMIT_S:
            written += file.write(block)
            os.fsync(file.fileno())
        return written / (time.perf_counter() - start)
