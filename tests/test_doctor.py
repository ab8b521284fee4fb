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

import huggingface_hub.constants
import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from exhaustive import mostly_nightly

from probe.cli import cli
from probe.data import audio
from probe.data.corpus import Corpus, Utterance, load_corpus
from probe.doctor import corpus as corpora
from probe.doctor import machine
from probe.doctor.examine import examine
from probe.doctor.findings import WIDEST, Finding, screen
from probe.errors import UsageError, UtteranceError
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
    assert "built for the same CUDA version" in done.stdout
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


def test_every_format_is_what_libsndfile_writes_and_reads(tmp_path: Path) -> None:
    for name, works in audio.formats().items():
        container, coding = audio.FORMATS[name]
        if works:
            soundfile.write(
                tmp_path / name, np.zeros(4800), 48_000, format=container, subtype=coding or None
            )
            assert audio.read_header(tmp_path / name).rate_hz == 48_000
    assert "wav flac mp3 ogg opus aiff sph; not m4a" in said(machine.decoders(), "ok")
    assert "ffmpeg -i in.m4a -ar 16000 -ac 1 out.wav" in said(machine.decoders(), "ok")


def test_a_format_that_libsndfile_lacks_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundfile, "available_subtypes", lambda container: {"VORBIS": "Vorbis"})
    monkeypatch.setattr(
        soundfile,
        "available_formats",
        lambda: dict.fromkeys(["WAV", "FLAC", "OGG", "AIFF", "NIST"], ""),
    )
    found = list(machine.decoders())
    assert "does not read mp3 opus." in said(found, "note")
    assert "wav flac ogg aiff sph; not" in said(found, "ok")


def test_a_resampler_that_changes_a_tone_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert audio.resamples()
    monkeypatch.setattr(
        audio.soxr, "resample", lambda samples, *rates, quality: samples[::3] * 1.01
    )
    assert not audio.resamples()
    assert "soxr" in said(machine.decoders(), "problem")


# The hub


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Points the hub at an address, with an empty cache."""

    def point(address: str) -> None:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

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
    online: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    online("http://hub.invalid")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
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


# The audio


def wave(path: Path, rate_hz: int = 16_000, seconds: float = 0.5, channels: int = 1) -> None:
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (int(rate_hz * seconds), channels))
    soundfile.write(path, noise, rate_hz)


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., Corpus]:
    """A corpus of ten real files of these rates, changed by ``spoil`` before it is read."""

    def write(
        *rates_hz: int, spoil: Callable[[Path], None] = lambda folder: None, duration_s: str = ""
    ) -> Corpus:
        lines = ["path,text,speaker,domain,split,duration_s"]
        for number in range(10):
            wave(tmp_path / f"{number}.wav", rates_hz[number % len(rates_hz)])
            lines.append(f"{number}.wav,word,s,d,train,{duration_s}")
        spoil(tmp_path)
        (tmp_path / "corpus.csv").write_text("\n".join(lines) + "\n")
        return load_corpus(tmp_path / "corpus.csv")

    return write


def test_audio_at_the_models_rate_is_ok(recorded: Callable[..., Corpus]) -> None:
    found = list(corpora.audio(recorded(16_000, duration_s="0.5"), 16_000, 400))
    assert statuses(found) == {"ok"}
    assert said(found).startswith("10 of 10 files have 16000 Hz, the model's rate")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda whole: whole[:1000], "truncated: the WAV header promises 16000 bytes"),
        (lambda whole: whole[:40], "truncated: a WAV file without a data chunk"),
        (lambda whole: whole[:44], "truncated: the WAV header promises"),
        (lambda whole: whole[:40] + b"\0\0\0\0", "no samples in it"),
        (lambda whole: b"", "the file is empty (0 bytes)"),
        (lambda whole: b"no audio at all", "cannot be decoded: Format not recognised"),
        (lambda whole: whole[:24] + b"\1\0\0\0" + whole[28:], "sample rate 1 Hz; expected"),
    ],
)
def test_a_damaged_file_is_a_problem_with_its_reason(
    recorded: Callable[..., Corpus], content: Callable[[bytes], bytes], reason: str
) -> None:
    def spoil(folder: Path) -> None:
        (folder / "3.wav").write_bytes(content((folder / "3.wav").read_bytes()))

    found = list(corpora.audio(recorded(16_000, spoil=spoil), 16_000, 400))
    assert "unusable: 1 of 10 files, such as\n3.wav: " + reason in said(found, "problem")
    assert "exit code 3" in said(found, "problem")
    assert "9 of 10 files have 16000 Hz" in said(found, "ok")


def test_audio_at_another_rate_is_a_note(recorded: Callable[..., Corpus]) -> None:
    found = list(corpora.audio(recorded(8000, 8000, 16_000), 16_000, 400))
    assert "7 of 10 files have 8000 Hz, not 16000" in said(found, "note")
    assert "nothing above 4000 Hz remains. -> Do not compare" in said(found, "note")
    assert "3 of 10 files have 16000 Hz, the model's rate" in said(found, "ok")
    found = list(corpora.audio(recorded(16_000), 8000, 200))
    assert "nothing above 4000 Hz remains" in said(found, "note")


def test_files_that_are_too_short_for_a_frame_are_named(recorded: Callable[..., Corpus]) -> None:
    def spoil(folder: Path) -> None:
        wave(folder / "4.wav", 8000, 0.024)
        wave(folder / "5.wav", 8000, 0.026)

    found = list(corpora.audio(recorded(8000, spoil=spoil), 16_000, 400))
    assert "shorter than the 0.025 s of one frame: 1 of 10 files (4.wav)" in said(found, "problem")


def test_a_file_of_another_length_than_the_manifest_says_is_a_problem(
    recorded: Callable[..., Corpus],
) -> None:
    assert "is this column in samples?" in said(
        corpora.audio(recorded(16_000, duration_s="8000"), 16_000, 400), "problem"
    )


def test_files_in_formats_that_are_not_read_come_with_the_command_that_converts_them(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A \0\0\0\0")
    (tmp_path / "c.csv").write_text("path,text,speaker,domain,split,duration_s\na.m4a,,,,train,\n")
    assert "ffmpeg -i in.m4a" in said(
        corpora.audio(load_corpus(tmp_path / "c.csv"), 16_000, 400), "problem"
    )


def test_cut_files_of_every_container_and_damage_behind_the_header_are_problems(
    recorded: Callable[..., Corpus],
) -> None:
    def spoil(folder: Path) -> None:
        for number, container in enumerate(("AIFF", "AU", "FLAC", "MP3", "OGG")):
            path = folder / f"{number}.wav"
            samples, rate_hz = soundfile.read(path)
            soundfile.write(path, samples, rate_hz, format=container)
            os.truncate(path, path.stat().st_size - 1000)

    problems = said(corpora.audio(recorded(16_000, spoil=spoil), 16_000, 400), "problem")
    assert (
        "unusable: 5 of 10 files, such as\n0.wav: truncated: the AIFF header promises" in problems
    )


def test_many_files_are_looked_at_evenly(
    recorded: Callable[..., Corpus], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = recorded(16_000)
    monkeypatch.setattr(corpora, "MOST_FILES", 4)
    assert "4 of 4 files (evenly chosen)" in said(corpora.audio(corpus, 16_000, 400))
    assert [item.key for item in corpora.spread(corpus.utterances, 4)] == [
        "0.wav",
        "2.wav",
        "5.wav",
        "7.wav",
    ]
    assert len(corpora.spread(corpus.utterances, 400)) == 10


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UtteranceError, match="not a regular file"):
        audio.read_header(tmp_path)
    with pytest.raises(UtteranceError, match="cannot be read: No such file"):
        audio.read_header(tmp_path / "none.wav")


# The transcripts


def corpus_of(*texts: str, **columns: list[str]) -> Corpus:
    """A corpus without files: ``train: seven`` is a transcript of train; more columns by name."""
    rows = []
    for number, (split, text) in enumerate(item.split(": ", 1) for item in texts):
        values = {name: column[number] for name, column in columns.items()}
        speaker, domain = values.pop("speaker", "s"), values.pop("domain", "d")
        rows.append(
            Utterance(f"u{number}", Path("a.wav"), text, speaker, domain, split, None, values)
        )
    extra = [name for name in columns if name not in ("speaker", "domain")]
    return Corpus("c", "", tuple(rows), ("text", "speaker", "domain", "split", *extra))


CLEAN = ("train: seven six", "train: nine", "dev: six", "test: seven")


def test_clean_transcripts_are_ok() -> None:
    found = list(corpora.text(corpus_of(*CLEAN)))
    assert statuses(found) == {"ok"}
    assert "4 transcripts of 7 characters" in said(found)


def test_characters_that_train_does_not_have_are_a_problem() -> None:
    found = list(corpora.text(corpus_of(*CLEAN, "test: six’s", "dev: sexy")))
    problems = said(found, "problem")
    assert "'’' (U+2019 right single quotation mark) 1 times, first in u4" in problems
    assert "'y' 1 times, first in u5" in problems
    assert "'x'" not in problems
    assert statuses(corpora.text(corpus_of("dev: six", "test: nine"))) == {"ok"}


def test_a_corpus_without_transcripts_is_a_note() -> None:
    assert "there are no transcripts" in said(corpora.text(corpus_of("train: ", "test: ")), "note")


def test_splits_are_counted_and_a_missing_one_is_a_note(tmp_path: Path) -> None:
    manifest = tmp_path / "c.csv"
    for name in ("a.wav", "b.wav"):
        wave(tmp_path / name)
    manifest.write_text(
        "path,text,speaker,domain,split,duration_s\na.wav,,,,test,\nb.wav,,,,test,\n"
    )
    assert "c: 2 utterances (0 train, 0 dev, 2 test): nothing in train and dev" in said(
        corpora.load(str(manifest)), "note"
    )


# The labels


@pytest.mark.parametrize("other", ["anna ", "ANNA", "ａnna", "an na"])
def test_a_label_written_in_two_ways_is_a_problem(other: str) -> None:
    found = list(corpora.labels(corpus_of(*CLEAN, speaker=["anna", "anna", other, other])))
    assert (f"'anna' (2) and {other!r} (2) differ only" in said(found, "problem")) is (
        other != "an na"
    )


def test_a_column_whose_values_never_come_back_is_no_label() -> None:
    found = list(corpora.labels(corpus_of(*CLEAN, session=["S1", "s1", "S2", "S3"])))
    assert "session" not in said(found)


# The command


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, online: Callable[[str], None]) -> None:
    """The machine's part without its measurements."""
    online("")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(machine, "IMPORTS", {})
    monkeypatch.setattr(machine, "gemm_gflops", lambda place, dtype: 100.0)
    monkeypatch.setattr(machine, "write_speed", lambda folder: 1e9)


@pytest.mark.usefixtures("quick")
def test_a_clean_corpus_and_a_model_end_in_code_0_on_a_screen(tones: Callable[..., Path]) -> None:
    done = CliRunner().invoke(
        cli, ["doctor", "--model", "random:data2vec-audio-tiny", "--corpus", str(tones())]
    )
    assert done.exit_code == 0, done.output
    assert "layers 0..3 (final is 3)" in " ".join(done.output.split())
    assert "72 utterances (48 train, 12 dev, 12 test)" in done.output
    assert max(map(len, done.output.splitlines())) <= WIDEST
    assert done.output.splitlines()[-1].startswith("no problems, ")


@pytest.mark.usefixtures("quick")
def test_any_problem_ends_in_code_1(tones: Callable[..., Path]) -> None:
    manifest = tones()
    manifest.write_text(manifest.read_text().replace(",s1,", ",S0,", 1))
    done = CliRunner().invoke(cli, ["doctor", "--corpus", str(manifest), "--format", "json"])
    assert done.exit_code == 1
    found = json.loads(done.output)
    assert [item["topic"] for item in found if item["status"] == "problem"] == ["labels"]
    assert {"topic", "status", "finding", "advice"} == set(found[0])


@pytest.mark.usefixtures("quick")
def test_a_model_or_a_corpus_that_cannot_be_opened_is_a_problem_in_its_own_words(
    tmp_path: Path,
) -> None:
    found = list(examine("mfc", str(tmp_path / "none.csv")))
    problems = said(found, "problem")
    assert "Did you mean 'mfcc'?" in problems
    assert "none.csv: does not exist" in problems
    assert "could not be examined" not in problems
    assert not {"audio", "text", "labels"} & {item.topic for item in found}


def test_a_device_that_is_not_there_is_a_mistake_before_anything_is_printed() -> None:
    with pytest.raises(UsageError, match="--device cuda:99: cannot be used"):
        next(examine(device="cuda:99"))
