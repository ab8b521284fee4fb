"""Real speech: however the work is divided, and wherever it is written, stores have the same bytes
and records differ only in what they say about their run.
"""

import json
import os
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine_runs import ENGINES, EXTRACTING, SmallShards, engine_of
from object_storage import s3  # noqa: F401 - a fixture
from runs import quick

from probe.data.conditions.condition import parse_condition
from probe.data.corpus import load_corpus
from probe.engines.engine import ALL, Division
from probe.engines.share import WHOLE, Share
from probe.extraction import plan
from probe.extraction.engine_jobs import Extractions, extract_on
from probe.model_names import ModelName
from probe.pipeline import run_tasks
from probe.remote.paths import as_path
from probe.store.stores import find_stores

pytestmark = pytest.mark.nightly

MODELS = [ModelName.parse(name) for name in ("fbank", "layerprobe/data2vec-audio-nano")]
CONDITIONS = ("clean", "noise:white@10dB")
OF_A_RUN = {"seconds", "created", "arguments"}


def work_of(speech: Path, to: Path, share: Share = WHOLE) -> Extractions:
    """Stores of all real utterances, with shards of a minute."""
    extracting = replace(EXTRACTING, storing=replace(EXTRACTING.storing, share=share))
    steps = SmallShards([parse_condition(text) for text in CONDITIONS], extracting, audio_s=60.0)
    return Extractions(steps, load_corpus(speech / "speakers_disjoint.csv"), to, extracting)


def extract_here(work: Extractions) -> None:
    """Write the stores in this process."""
    for model in MODELS:
        for step in work.steps(model):
            work.extract(step)


def score(speech: Path, to: Path, division: Division = ALL) -> None:
    """Write records into a folder beside the stores."""
    tasks = [quick("speaker-id", view="mean", label="sex")]
    manifest = speech / "speakers_disjoint.csv"
    run_tasks(MODELS, tasks, manifest, to / "features", to / "results", division=division)


def contents(to: Path) -> dict[str, Any]:
    """The files of all stores, and the records without what differs from run to run."""
    files: dict[str, Any] = {}
    for store in find_stores(to / "features"):
        for path in store.path.iterdir():
            files[f"{store.path.parent.name}/{store.path.name}/{path.name}"] = path.read_bytes()
    for path in (to / "results").glob("*.jsonl"):
        files[path.name] = [
            {key: value for key, value in json.loads(line).items() if key not in OF_A_RUN}
            for line in path.read_text().splitlines()
        ]
    return files


@pytest.fixture(scope="module")
def expected(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What one process writes."""
    to = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "SHARD_AUDIO_S", 60.0)
        extract_here(work_of(speech, to / "features"))
        score(speech, to)
        yield contents(to)


def test_shares_in_any_order_write_the_bytes_of_one_process(
    expected: dict[str, Any], speech: Path, tmp_path: Path
) -> None:
    shares = [Share(index, 7) for index in range(1, 8)]
    random.Random(0).shuffle(shares)
    for share in shares:
        extract_here(work_of(speech, tmp_path / "features", share))
    for share in shares:
        score(speech, tmp_path, Division(share))
    assert contents(tmp_path) == expected


@pytest.mark.parametrize("name", ENGINES)
def test_two_workers_of_an_engine_write_the_bytes_of_one_process(
    name: str,
    expected: dict[str, Any],
    speech: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    with engine_of(name, tmp_path / "logs") as engine:
        done = extract_on(engine, work_of(speech, tmp_path / "features"), MODELS)
        assert not [of_model.problems for of_model in done.values() if of_model.problems]
        score(speech, tmp_path, Division(engine=engine))
    assert contents(tmp_path) == expected


def test_object_storage_has_the_bytes_of_a_disk(
    expected: dict[str, Any], speech: Path, request: pytest.FixtureRequest
) -> None:
    to = as_path(request.getfixturevalue("s3").bucket())
    extract_here(work_of(speech, to / "features"))
    score(speech, to)
    assert contents(to) == expected
