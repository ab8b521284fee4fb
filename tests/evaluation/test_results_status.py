"""Runs that share a folder of records: one of them trains, the others wait; `probe status`."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import quick, run

from probe.evaluation.results_status import status_of_results
from probe.extraction.extract import extract
from probe.extraction.settings import Running
from probe.store.claims import Claims

NAME = "fbank__word-id__tones__clean"


def test_a_run_waits_for_the_one_that_trains_the_same_and_takes_its_records(
    tones: Callable[..., Path],
    tmp_path: Path,
    at_commit: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "probe")
    at_commit("a" * 12)
    corpus, features, results = tones(), tmp_path / "features", tmp_path / "results"
    extract("fbank", corpus, features, running=Running(device="cpu", check=False))
    task = quick("word-id")
    with Claims(results) as claims:
        claims.take(NAME)
        thread = threading.Thread(target=run, args=(task, "fbank", corpus, features, results))
        thread.start()
        while "waits for process" not in caplog.text:
            time.sleep(0.01)
        (status,) = status_of_results(results)
        assert (status.planned, status.done, status.running) == (None, 0, [NAME])
    thread.join()
    (status,) = status_of_results(results)
    assert (status.done, status.running, list(status.begun)) == (1, [], [])
    run(task, "fbank", corpus, features, results)
    assert "there already" in caplog.text
    assert sorted(path.name for path in results.iterdir()) == [f"{NAME}.jsonl", "outcomes"]


def test_an_interrupted_training_is_named(tmp_path: Path) -> None:
    (tmp_path / ".unfinished" / f"{NAME}-{'0' * 16}").mkdir(parents=True)
    (status,) = status_of_results(tmp_path)
    assert status.begun == [NAME]
    with Claims(tmp_path) as claims:
        claims.take(NAME)
        (status,) = status_of_results(tmp_path)
        assert (status.running, status.begun) == ([NAME], [])
