"""Stores and records that the workers of an engine write are those of one process."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from engine_runs import ENGINES, extract_slowly, workers_of
from runs import quick
from toy_jobs import Simulated
from windows import write_audio, write_manifest

from probe.data.conditions.condition import parse_condition
from probe.data.corpus import load_corpus
from probe.engines.engine import ALL, Division, Engine
from probe.engines.local import Local
from probe.engines.share import Share
from probe.extraction.engine_jobs import EachCondition, Extractions, OfModel, extract_on
from probe.extraction.settings import Extracting, Running, Storing
from probe.model_names import ModelName
from probe.pipeline import bench, run_tasks
from probe.store.integrity import verify_store
from probe.store.stores import find_stores

FBANK, MFCC = ModelName.parse("fbank"), ModelName.parse("mfcc")
CONDITIONS = ("clean", "noise:white@10dB")
OF_A_RUN = {"seconds", "created", "arguments"}  # provenance that differs from run to run


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def records_of(folder: Path) -> dict[str, list[Any]]:
    return {
        path.name: [
            {key: value for key, value in json.loads(line).items() if key not in OF_A_RUN}
            for line in path.read_text().splitlines()
        ]
        for path in sorted(folder.glob("*.jsonl"))
    }


def write(
    manifest: Path, to: Path, engine: Engine, share: Share = ALL.share
) -> dict[ModelName, OfModel]:
    storing, running = Storing(view="frames", share=share), Running(check=False)
    extracting = Extracting(storing=storing, running=running)
    conditions = [parse_condition(text) for text in CONDITIONS]
    steps = EachCondition(conditions, extracting)
    work = Extractions(steps, load_corpus(manifest), to, extracting)
    return extract_on(engine, work, [FBANK])


@pytest.fixture
def alone(tones: Callable[..., Path], shards_of: Callable[..., None]) -> Path:
    """The manifest; the stores that one worker writes lie in ``alone/`` beside it."""
    shards_of(audio_s=3.0)
    manifest = tones(words=2, speakers=3)
    write(manifest, manifest.parent / "alone", Simulated(1))
    return manifest


def test_workers_write_the_same_bytes_in_any_division(alone: Path, tmp_path: Path) -> None:
    write(alone, tmp_path / "three", Simulated(3))
    for index in (2, 1, 3):
        write(alone, tmp_path / "shares", Simulated(2), Share(index, 3))
    expected = files_of(tmp_path / "alone")
    assert len([name for name in expected if name.endswith(".h5")]) == 2 * 4
    assert files_of(tmp_path / "three") == files_of(tmp_path / "shares") == expected


def test_what_is_unusual_about_the_sound_is_said_by_the_driver(
    tmp_path: Path, shards_of: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    shards_of(audio_s=1.0)
    noise = np.random.default_rng(0).standard_normal(4000)
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", 0.01 * noise + 0.2, 8000)
    manifest = tmp_path / "corpus.csv"
    manifest.write_text("path\na.wav\nb.wav\n")
    with caplog.at_level("INFO", "probe"), Local(1) as engine:
        write(manifest, tmp_path / "features", engine)
    said = [text for text in caplog.messages if "unusual sound" in text or "resampled" in text]
    resampled = "2 utterances resampled from 8000 to 16000 Hz; nothing above 4000 Hz is in them"
    assert said.count(resampled) == len(CONDITIONS)
    assert sum("constant offset 2" in text for text in said) == len(CONDITIONS)


def test_a_shard_that_ends_each_worker_is_named_and_costs_no_other(
    alone: Path, tmp_path: Path
) -> None:
    done = write(alone, tmp_path / "to", Simulated(2, deadly=("shard-00002",)))
    assert len(done[FBANK].problems) == 2
    assert "shard-00002: 3 workers ended while they did this job" in done[FBANK].problems[0]
    lost = files_of(tmp_path / "alone").keys() - files_of(tmp_path / "to").keys()
    assert {name.rpartition("/")[2] for name in lost} == {"shard-00002.h5", "shard-00002.json"}
    done = write(alone, tmp_path / "to", Simulated(2))
    assert sum(item.extracted for item in done[FBANK].extractions) == 2 * 10
    assert files_of(tmp_path / "to") == files_of(tmp_path / "alone")


def test_tasks_on_workers_give_the_records_of_one_process(alone: Path, tmp_path: Path) -> None:
    tasks = [quick("word-id", view="mean"), quick("speaker-id", view="mean")]
    arguments = ([FBANK], tasks, alone, tmp_path / "alone")
    one = run_tasks(*arguments, tmp_path / "one")
    two = run_tasks(*arguments, tmp_path / "two", division=Division(engine=Simulated(2)))
    assert records_of(tmp_path / "one") == records_of(tmp_path / "two")
    assert [path.name for path in one.paths] == [path.name for path in two.paths]
    assert len(one.records) == len(two.records) > 0


def test_a_bench_on_workers_gives_the_records_of_one_process(
    tones: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("probe.pipeline.write_tables", lambda *_: [])
    tasks, alone = [quick("word-id", view="mean")], tones(words=2, speakers=3)
    extracting = Extracting(running=Running(check=False))
    names = [FBANK, MFCC, ModelName.parse("no-such-model")]
    one = bench(names, tasks, alone, tmp_path / "one", extracting=extracting)
    extracting = replace(extracting, engine=Simulated(2))
    two = bench(names, tasks, alone, tmp_path / "two", extracting=extracting)
    assert files_of(tmp_path / "one" / "features") == files_of(tmp_path / "two" / "features")
    assert records_of(tmp_path / "one" / "results") == records_of(tmp_path / "two" / "results")
    assert len(one.refused) == len(two.refused) == 1
    assert "no-such-model" in two.refused[0]


@pytest.mark.nightly
@pytest.mark.parametrize("name", ENGINES)
def test_killed_workers_and_drivers_lose_and_double_nothing(
    name: str,
    tmp_path: Path,
    shards_of: Callable[..., None],
    n_workers: int = 8,
    n_drivers: int = 2,
) -> None:
    """Kills workers at random moments, and from time to time the driver."""
    shards_of(audio_s=0.1)
    lengths = {f"{number}.wav": 1600 + 160 * (number % 7) for number in range(10 * n_workers)}
    (tmp_path / "audio").mkdir()
    for number, (path, n_samples) in enumerate(lengths.items()):
        write_audio(tmp_path / "audio" / path, n_samples, seed=number)
    manifest = write_manifest(tmp_path / "audio", lengths)
    extract_slowly(Simulated(1), manifest, tmp_path / "undisturbed")
    manifest.with_name("slow").touch()
    draw, log = random.Random(0), tmp_path / "log"
    script = "import engine_runs; engine_runs.main()"
    command = [sys.executable, "-c", script, name, str(manifest), str(tmp_path / "to")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    killed = drivers = n_before = 0
    for _ in range(2 * n_workers):
        with log.open("ab") as file:
            driver = subprocess.Popen(command, env=environment, stderr=file, stdout=file)
        while driver.poll() is None and killed < n_workers:
            time.sleep(0.05)
            n_shards = len(list(tmp_path.glob("to/*/*/shard-*.h5")))
            if n_shards > n_before and (workers := workers_of(driver.pid, name)):
                time.sleep(draw.uniform(0, 0.5))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(draw.choice(workers), signal.SIGKILL)
                n_before, killed = n_shards, killed + 1
                if killed * (n_drivers + 1) >= (drivers + 1) * n_workers and drivers < n_drivers:
                    driver.kill()
                    drivers += 1
        if killed == n_workers:
            manifest.with_name("slow").unlink(missing_ok=True)
        if driver.wait(300) == 0:
            break
    text = log.read_text(errors="replace")
    assert (killed, drivers, driver.returncode) == (n_workers, n_drivers, 0)
    assert text.count("tried again") + text.count("follows") >= n_workers / 2
    [store] = find_stores(tmp_path / "to")
    assert not verify_store(store.path).damage
    # A killed worker leaves the temporary file that it was writing; `probe verify` names it.
    files = files_of(tmp_path / "to").items()
    assert {
        path: data for path, data in files if ".slurm" not in path and not path.endswith(".tmp")
    } == files_of(tmp_path / "undisturbed")
