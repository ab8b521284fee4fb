"""`probe doctor`: every finding can be made and can be absent; nothing that is broken breaks the
doctor.
"""

import errno
import http.server
import json
import os
import shutil
import socket
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from exhaustive import mostly_nightly

from probe.cli import cli
from probe.data import audio
from probe.doctor import machine
from probe.doctor.examine import examine
from probe.doctor.findings import WIDEST, Finding, screen
from probe.errors import UsageError
from probe.models.sources import hub


def said(findings: Iterable[Finding], status: str = "") -> str:
    """The findings of a status, or all of them, as one text."""
    return "\n".join(
        f"{item.finding} -> {item.advice}" for item in findings if status in ("", item.status)
    )


def statuses(findings: Iterable[Finding]) -> set[str]:
    return {item.status for item in findings}


# The screen


def test_the_screen_names_a_topic_once_wraps_and_counts() -> None:
    long = Finding("disk", "note", "word " * 60 + "\nsecond line", "advice " * 30)
    blocks = list(
        screen(
            [Finding("hub", "ok", "answers"), long, Finding("disk", "problem", "full", "empty it")]
        )
    )
    lines = "\n".join(blocks).splitlines()
    assert all(len(line) <= WIDEST for line in lines)
    assert sum(line.startswith("disk") for line in lines) == 1
    assert any(line.strip() == "second line" for line in lines)
    assert sum("→" in line for line in lines) == 2
    assert lines[-1] == "1 problem, 1 note"


def test_the_screen_shows_each_finding_as_soon_as_it_is_known() -> None:
    def findings() -> Iterator[Finding]:
        yield Finding("hub", "ok", "first")
        pytest.fail("the second was asked for before the first was shown")

    assert "first" in next(screen(findings()))


# Versions


@pytest.mark.parametrize(
    ("version", "wanted", "fitting"),
    [
        ("2.14.1+cu130", ">=2.11,<2.15", True),
        ("2.15.0", ">=2.11,<2.15", False),
        ("2.15.0.dev20261101", ">=2.11,<2.15", False),
        ("2.9", ">=2.11", False),
        ("2.11", ">=2.11.0", True),
        ("5.0.0rc1", ">=5.0,<6", True),
        ("anything", "", True),
    ],
)
def test_a_version_is_in_or_outside_a_range(version: str, wanted: str, fitting: bool) -> None:
    assert machine.fits(version, wanted) is fitting


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Sets the versions that are installed, beside declared ranges of torch and pandas; nothing is
    imported.
    """

    def install(versions: dict[str, str]) -> None:
        def version(name: str) -> str:
            if name not in versions:
                raise metadata.PackageNotFoundError(name)
            return versions[name]

        lines = ["torch<2.15,>=2.11", "pandas>=2.2", 'ruff>=99; extra == "dev"']
        monkeypatch.setattr(metadata, "requires", lambda name: lines)
        monkeypatch.setattr(metadata, "metadata", lambda name: {"Requires-Python": ">=3.11"})
        monkeypatch.setattr(metadata, "version", version)
        monkeypatch.setattr(machine, "IMPORTS", {})

    return install


def test_versions_that_fit_together_are_ok(declared: Callable[[dict[str, str]], None]) -> None:
    declared({"torch": "2.14.1", "pandas": "3.0"})
    found = list(machine.versions())
    assert statuses(found) == {"ok"}
    assert "all 3 requirements are met" in said(found)


def test_a_version_outside_its_range_and_a_missing_package_are_problems(
    declared: Callable[[dict[str, str]], None],
) -> None:
    declared({"torch": "2.15.0+cu132"})
    problems = said(machine.versions(), "problem")
    assert (
        'torch 2.15.0+cu132 is outside >=2.11,<2.15. -> pip install "torch>=2.11,<2.15"' in problems
    )
    assert 'pandas is not installed. -> pip install "pandas>=2.2"' in problems
    assert "ruff" not in problems
    assert "are met" not in said(machine.versions())


def test_a_folder_that_is_not_installed_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "IMPORTS", {})
    monkeypatch.setattr(machine, "PACKAGE", "layerprobe-of-another-name")
    found = list(machine.versions())
    assert statuses(found) == {"ok", "note"}
    assert "pip install -e ." in said(found, "note")


@pytest.mark.parametrize(
    ("library", "door", "name"),
    mostly_nightly(
        [
            ("torchaudio", "probe.models.spectral", "torchaudio"),
            ("transformers", "probe.models.sources.checkpoints", "transformers"),
            ("soundfile", "probe.data.audio", "soxr"),
            ("h5py", "probe.store.shards", "h5py"),
            ("scikit-learn", "probe.heads.linear.linear_probe", "sklearn.base"),
            ("pandas", "probe.reporting.filters", "pandas"),
            ("jiwer", "probe.measures.transcription", "jiwer"),
        ],
        [
            ("h5py", "probe.store.shards", "h5py"),
            ("jiwer", "probe.measures.transcription", "jiwer"),
        ],
    ),
)
def test_a_library_that_does_not_load_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, library: str, door: str, name: str
) -> None:
    monkeypatch.delitem(sys.modules, door, raising=False)
    monkeypatch.setitem(sys.modules, name, None)
    problems = said(machine.versions(), "problem")
    assert f"{library}" in problems
    assert "cannot be imported" in problems
    assert "pip install --force-reinstall" in problems
    assert ("same CUDA version" in problems) is (library == "torchaudio")


def test_nothing_else_is_tried_where_torch_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise OSError("libcudart.so.13: cannot open shared object file\nand a second line")

    monkeypatch.setattr(
        machine, "IMPORTS", {"torch": broken, "torchaudio": lambda: pytest.fail("was tried")}
    )
    problems = said(machine.versions(), "problem")
    assert (
        "torch cannot be imported: libcudart.so.13: cannot open shared object file -> " in problems
    )


@pytest.mark.nightly
def test_a_torchaudio_built_for_another_cuda_is_one_problem_and_the_rest_is_examined(
    command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torchaudio.py").write_text(
        "raise RuntimeError('compiled with different CUDA versions. PyTorch has 13.2')"
    )
    places = [str(tmp_path), str(Path(machine.__file__).parents[2])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "HF_HUB_OFFLINE": "1"}
    done = command("doctor", "--to", tmp_path, "--model", "mfcc", env=environment)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    text = " ".join(done.stdout.split())  # lines are wrapped
    assert "torchaudio cannot be imported: compiled with different CUDA versions" in text
    assert "built for the same CUDA version" in text
    assert [
        word
        for word in ("devices", "decoders", "hub", "disk", "model")
        if f"\n{word} " not in done.stdout
    ] == []
    assert "could not be examined (RuntimeError" in done.stdout
    assert len(done.stdout.splitlines()) <= 50


# Devices


def test_this_machine_has_a_device_and_a_measured_speed() -> None:
    start = time.process_time()
    found = list(machine.devices("cpu"))
    assert time.process_time() - start < 5
    assert statuses(found) <= {"ok", "note"}
    assert "GFLOP/s in float32" in said(found, "ok")
    assert machine.gemm_gflops(torch.device("cpu"), torch.float32) > 0.1


@pytest.mark.parametrize(
    ("driver", "cuda", "hidden", "status", "message"),
    [
        (False, "13.0", None, "ok", "no NVIDIA driver, so everything runs on the CPU"),
        (True, None, None, "problem", "finds no GPU. -> Install torch and torchaudio for CUDA"),
        (True, "13.2", None, "problem", "finds no GPU"),
        (True, "13.0", "", "note", "hides the GPUs"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_named(
    monkeypatch: pytest.MonkeyPatch,
    driver: bool,
    cuda: str | None,
    hidden: str | None,
    status: str,
    message: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(machine, "nvidia_driver", lambda: driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    first = next(machine.devices("cpu"))
    assert first.status == status
    assert message in said([first])


def test_gpus_are_named_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = namedtuple("Properties", "name total_memory")("NVIDIA H200", 139 << 30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: properties)
    monkeypatch.setattr(machine, "gemm_gflops", lambda place, dtype: 100.0)
    found = list(machine.devices("cpu"))[:2]
    assert [item.finding.split(";")[0] for item in found] == [
        f"cuda:{n} NVIDIA H200, 139 GiB" for n in (0, 1)
    ]


def test_more_threads_than_cores_are_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gemm_gflops", lambda place, dtype: 148.0)
    monkeypatch.setattr(machine, "cpu_quota", lambda: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(machine, "allowed_cores", lambda: 4)
    found = list(machine.devices("cpu"))
    assert "torch starts 8 threads on 4 usable cores" in said(found, "note")
    assert "Set OMP_NUM_THREADS=4" in said(found, "note")
    assert "10 x real time for a base model" in said(found, "ok")
    monkeypatch.setattr(machine, "allowed_cores", lambda: 8)
    assert "note" not in statuses(machine.devices("cpu"))


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/\n", {"cpu.max": "250000 100000"}, 2.5),
        (
            "0::/pod/box\n",
            {"pod/cpu.max": "200000 100000", "pod/box/cpu.max": "400000 100000"},
            2.0,
        ),
        ("0::/elsewhere\n", {"cpu.max": "100000 100000"}, 1.0),
        (
            "4:memory:/x\n3:cpu,cpuacct:/b\n",
            {
                "cpu,cpuacct/b/cpu.cfs_quota_us": "150000\n",
                "cpu,cpuacct/b/cpu.cfs_period_us": "100000",
            },
            1.5,
        ),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("", {}, None),
    ],
)
def test_a_quota_is_found_in_both_versions_of_control_groups(
    tmp_path: Path, groups: str, files: dict[str, str], quota: float | None
) -> None:
    (tmp_path / "groups").write_text(groups)
    for name, content in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(content)
    assert machine.cpu_quota(tmp_path / "groups", tmp_path / "fs") == quota


# Decoders


def test_every_format_is_what_libsndfile_writes_and_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, works in audio.formats().items():
        container, coding = audio.FORMATS[name]
        if works:
            soundfile.write(
                tmp_path / name, np.zeros(4800), 48_000, format=container, subtype=coding or None
            )
            assert audio.read_header(tmp_path / name).rate_hz == 48_000
    monkeypatch.setattr("probe.data.ffmpeg.is_installed", lambda: False)
    assert "wav flac mp3 ogg opus aiff sph; not m4a" in said(machine.decoders(), "ok")
    assert "pip install layerprobe[ffmpeg]" in said(machine.decoders(), "ok")
    assert "ffmpeg -i in.m4a -ar 16000 -ac 1 out.wav" in said(machine.decoders(), "ok")
    monkeypatch.setattr("probe.data.ffmpeg.is_installed", lambda: True)
    assert "wav flac mp3 ogg opus aiff sph m4a mp4" in said(machine.decoders(), "ok")


def test_a_format_that_libsndfile_lacks_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundfile, "available_subtypes", lambda container: {"VORBIS": "Vorbis"})
    monkeypatch.setattr(
        soundfile,
        "available_formats",
        lambda: dict.fromkeys(["WAV", "FLAC", "OGG", "AIFF", "NIST"], ""),
    )
    found = list(machine.decoders())
    assert "does not read mp3 opus." in said(found, "note")
    assert said(found, "ok").startswith("wav flac ogg aiff sph")


def test_a_resampler_that_changes_a_tone_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert audio.resamples()
    monkeypatch.setattr(
        audio.soxr, "resample", lambda samples, *rates, quality: samples[::3] * 1.01
    )
    assert not audio.resamples()
    assert "soxr" in said(machine.decoders(), "problem")


# The hub


@pytest.fixture
def online(hub_settings: Callable[..., None], tmp_path: Path) -> Callable[[str], None]:
    """Points the hub at an address, with an empty cache."""

    def point(address: str) -> None:
        hub_settings(tmp_path / "cache", offline=False, endpoint=address)

    return point


@pytest.mark.parametrize(
    ("status", "finding"), [(200, ""), (404, "HTTP status 404"), (503, "HTTP status 503")]
)
def test_a_hub_is_what_answers_with_success(
    online: Callable[[str], None], status: int, finding: str
) -> None:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        online(f"http://127.0.0.1:{server.server_port}")
        assert hub.why_unreachable() == finding
        found = list(machine.hub())
        server.shutdown()
    assert (" answers ->" in said(found, "ok")) is not bool(finding)
    assert finding in said(found, "note")


def test_a_port_that_is_closed_is_a_note_with_advice(online: Callable[[str], None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    online(f"http://127.0.0.1:{port}")
    notes = said(machine.hub(), "note")
    assert f"http://127.0.0.1:{port} does not answer" in notes
    assert "HF_HUB_OFFLINE=1" in notes


def test_a_hub_that_swallows_everything_is_given_up_in_time(online: Callable[[str], None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # it listens and never accepts
        online(f"http://127.0.0.1:{server.getsockname()[1]}")
        start = time.perf_counter()
        assert hub.why_unreachable()
        assert time.perf_counter() - start < 4


def test_a_name_that_is_never_looked_up_is_given_up_in_time(
    online: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    def hang(*_: object, **__: object) -> None:
        over.wait(20)
        raise OSError("given up")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    online("http://hub.invalid")
    start = time.perf_counter()
    assert hub.why_unreachable(limit_s=0.5) == "no answer within 0.5 s"
    assert time.perf_counter() - start < 2
    over.set()


def test_offline_is_a_note_and_nobody_is_asked(
    online: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    hub_settings: Callable[..., None],
) -> None:
    online("http://hub.invalid")
    hub_settings(offline=True)
    monkeypatch.setattr(hub, "why_unreachable", lambda: pytest.fail("was asked"))
    assert "HF_HUB_OFFLINE is set" in said(machine.hub(), "note")


def test_the_cache_lists_its_models(online: Callable[[str], None], tmp_path: Path) -> None:
    online("")
    assert hub.cache() == hub.Cache(tmp_path / "cache", 0, (), ())
    snapshot = tmp_path / "cache" / "models--org--name" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("x" * 5000)
    (tmp_path / "cache" / "models--org--broken").mkdir()
    found = hub.cache()
    assert found.models == ("org/name",)
    assert found.n_bytes == 5000
    assert len(found.damaged) == 1
    findings = list(machine.hub())
    assert "1 models (org/name)" in said(findings, "ok")


def test_a_cache_that_cannot_be_written_to_or_is_full_is_said(
    online: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    online("")
    usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 10**9))
    assert "make room" in said(machine.hub(), "note")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "Set HF_HUB_CACHE" in said(machine.hub(), "problem")


# The disk


def test_write_speed_leaves_nothing_behind(tmp_path: Path) -> None:
    assert machine.write_speed(tmp_path) > 1e5
    assert not list(tmp_path.iterdir())


def test_a_folder_with_room_is_ok_and_need_not_exist_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 360 * 10**9))
    monkeypatch.setattr(machine, "write_speed", lambda folder: 5e8)
    found = list(machine.disk(tmp_path / "a" / "b"))
    assert statuses(found) == {"ok"}
    assert (
        f"{tmp_path}: 360 GB free, written at 500 MB/s. Room for the frames of about 100 hours"
        in said(found)
    )
    assert "of 39 for a large one" in said(found)


@pytest.mark.parametrize(
    ("free", "speed", "message"),
    [(20 * 10**9, 5e8, "--view meanstd"), (360 * 10**9, 2e7, "20 MB/s is slow")],
)
def test_a_small_or_slow_disk_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, speed: float, message: str
) -> None:
    usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, free))
    monkeypatch.setattr(machine, "write_speed", lambda folder: speed)
    found = list(machine.disk(tmp_path))
    assert message in said(found, "note")
    assert "problem" not in statuses(found)


def test_a_path_below_a_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file; features need a folder. -> Name another" in said(
        machine.disk(tmp_path / "file" / "features"), "problem"
    )


@pytest.mark.parametrize(("call", "code"), [("open", errno.EROFS), ("fsync", errno.ENOSPC)])
def test_a_folder_that_cannot_be_written_to_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    def fail(*_: Any, **__: Any) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    found = list(machine.disk(tmp_path))
    monkeypatch.undo()
    assert f"cannot be written to: {os.strerror(code)}." in said(found, "problem")
    assert not list(tmp_path.iterdir())


# The command


@pytest.fixture
def quick(
    monkeypatch: pytest.MonkeyPatch,
    hub_settings: Callable[..., None],
    online: Callable[[str], None],
) -> None:
    """The machine's part without its measurements."""
    online("")
    hub_settings(offline=True)
    monkeypatch.setattr(machine, "IMPORTS", {})
    monkeypatch.setattr(machine, "gemm_gflops", lambda place, dtype: 100.0)
    monkeypatch.setattr(machine, "write_speed", lambda folder: 1e9)


@pytest.mark.usefixtures("quick")
def test_a_model_that_opens_ends_in_code_0_on_a_screen() -> None:
    done = CliRunner().invoke(cli, ["doctor", "--model", "random:data2vec-audio-tiny"])
    assert done.exit_code == 0, done.output
    assert "layers 0..3 (final is 3)" in " ".join(done.output.split())
    assert max(map(len, done.output.splitlines())) <= WIDEST
    assert done.output.splitlines()[-1].startswith("no problems, ")


@pytest.mark.usefixtures("quick")
def test_a_model_that_cannot_be_opened_is_a_problem_and_ends_in_code_1() -> None:
    done = CliRunner().invoke(cli, ["doctor", "--model", "mfc", "--format", "json"])
    assert done.exit_code == 1
    problems = [item for item in json.loads(done.output) if item["status"] == "problem"]
    assert [item["topic"] for item in problems] == ["model"]
    assert {"topic", "status", "finding", "advice"} == set(problems[0])
    assert "Did you mean 'mfcc'?" in problems[0]["finding"]


def test_a_device_that_is_not_there_is_a_mistake_before_anything_is_printed() -> None:
    with pytest.raises(UsageError, match="--device cuda:99: cannot be used"):
        next(examine(device="cuda:99"))
