"""What several tests share: small corpora, real recordings, quiet threads."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import probe  # noqa: F401 (sets how OpenMP threads wait, before torch is loaded)

# isort: split
import numpy as np
import pytest
import soundfile
import torch
from small_models import FAMILIES, write_checkpoint

torch.set_num_threads(1)

RATE_HZ = 16_000


@pytest.fixture(scope="session")
def speech() -> Path:
    """The folder of real recordings; tests that need it are skipped without it."""
    folder = os.environ.get("PROBE_SPEECH")
    if not folder:
        pytest.skip("real recordings: set PROBE_SPEECH to their folder")
    return Path(folder)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One small checkpoint folder per family, with a preprocessor; not to be changed."""
    folders = {family: tmp_path_factory.mktemp(family.replace(" ", "-")) for family in FAMILIES}
    for family, folder in folders.items():
        write_checkpoint(family, folder)
    return folders


@pytest.fixture
def tones(tmp_path: Path) -> Callable[..., Path]:
    """Writes a corpus of tones, one pitch per word and one overtone per speaker, and returns its manifest."""

    def write(words: int = 3, speakers: int = 4, repetitions: int = 6, domains: tuple[str, ...] = ("near",)) -> Path:
        generator = np.random.default_rng(0)
        lines = ["path,text,speaker,domain,split,duration_s,room"]
        splits = ["train"] * (repetitions - 2) + ["dev", "test"]
        for domain in domains:
            for word in range(words):
                for speaker in range(speakers):
                    for repetition, split in enumerate(splits):
                        time = np.arange(int(0.3 * RATE_HZ)) / RATE_HZ
                        wave = np.sin(2 * np.pi * (300 + 400 * word) * time) + np.sin(2 * np.pi * (2500 + 500 * speaker) * time)
                        wave = 0.1 * wave + 0.01 * generator.standard_normal(len(time))
                        name = f"{domain}-{word}-{speaker}-{repetition}.wav"
                        soundfile.write(tmp_path / name, wave, RATE_HZ)
                        text = ("ba", "do", "ke", "mu")[word]
                        lines.append(f"{name},{text},s{speaker},{domain},{split},0.3,room{word % 2}")
        manifest = tmp_path / "tones.csv"
        manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return manifest

    return write


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess]:
    """Runs ``probe`` in a process of its own."""

    def run(*arguments: object, **keywords: object) -> subprocess.CompletedProcess:
        line = [sys.executable, "-m", "probe", *map(str, arguments)]
        return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False, **keywords)  # type: ignore[call-overload]

    return run
