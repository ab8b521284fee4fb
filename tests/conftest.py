"""What several tests share: small corpora, real recordings, quiet threads."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several processes of tests share the cores

# isort: split
import huggingface_hub.constants
import pytest
import torch
from small_models import FAMILIES, OTHER_FAMILIES, write_checkpoint
from tones import write_tones

from probe import cli
from probe.extraction import plan

OF_PROCESS = {"capture_output": True, "text": True, "timeout": 900, "check": False}

torch.set_num_threads(1)
os.environ["PROBE_CACHE"] = (
    ""  # no certificate of another run, and none is left in the user's cache
)


@pytest.fixture(scope="session")
def speech() -> Path:
    """The folder of real recordings; tests that need it are skipped without it."""
    folder = os.environ.get("PROBE_SPEECH")
    if not folder:
        pytest.skip("real recordings: set PROBE_SPEECH to their folder")
    return Path(folder)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One small checkpoint folder per family with a packed form, with a preprocessor; not to be
    changed.
    """
    return _checkpoints(tmp_path_factory, FAMILIES)


@pytest.fixture(scope="session")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same of Whisper and the families without one."""
    return _checkpoints(tmp_path_factory, OTHER_FAMILIES)


def _checkpoints(
    tmp_path_factory: pytest.TempPathFactory, families: Iterable[str]
) -> dict[str, Path]:
    folders = {family: tmp_path_factory.mktemp(family.replace(" ", "-")) for family in families}
    for family, folder in folders.items():
        write_checkpoint(family, folder)
    return folders


@pytest.fixture
def tones(tmp_path: Path) -> Callable[..., Path]:
    """Writes a corpus of tones into the test's folder (see `tones.write_tones`)."""
    return partial(write_tones, tmp_path)


@pytest.fixture
def shards_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Bounds the bytes, or the seconds of audio, of the shards that are planned from now on."""

    def bound(n_bytes: int | None = None, audio_s: float | None = None) -> None:
        for name, most in (("SHARD_BYTES", n_bytes), ("SHARD_AUDIO_S", audio_s)):
            if most is not None:
                monkeypatch.setattr(plan, name, most)

    return bound


@pytest.fixture
def at_commit(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the commit of the code that runs from now on, as records name it."""

    def name(commit: str) -> None:
        version = {"version": "1", "commit": commit}
        monkeypatch.setattr("probe.evaluation.provenance.code_version", lambda: version)

    return name


@pytest.fixture
def hub_settings(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what huggingface_hub reads from the environment when it is imported."""

    def change(
        cache: Path | None = None, offline: bool | None = None, endpoint: str | None = None
    ) -> None:
        values = {"HF_HUB_CACHE": cache and str(cache), "HF_HUB_OFFLINE": offline}
        for name, value in (values | {"ENDPOINT": endpoint}).items():
            if value is not None:
                monkeypatch.setattr(huggingface_hub.constants, name, value)

    return change


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess]:
    """Runs ``probe`` in this process, or in one of its own where ``env`` is given."""

    def run(*arguments: object, **keywords: Any) -> subprocess.CompletedProcess:
        line = list(map(str, arguments))
        if "env" in keywords:
            return subprocess.run([sys.executable, "-m", "probe", *line], **(OF_PROCESS | keywords))
        stdout, stderr = io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(keywords.get("cwd", ".")),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            code = cli.run(line)
        return subprocess.CompletedProcess(line, code, stdout.getvalue(), stderr.getvalue())

    return run
