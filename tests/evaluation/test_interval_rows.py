"""Intervals as rows: a word or a phone is the mean of its frames, and is classified as an utterance
is.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import FIELD, RATE_HZ
from runs import run
from words import HOP_S, N_FRAMES, write_words

from probe.data.corpus import load_corpus
from probe.data.intervals import LABEL
from probe.errors import ProbeError, UsageError
from probe.evaluation.dataset import Features, Problem, block_of
from probe.evaluation.interval_rows import intervals_as_rows, with_intervals
from probe.evaluation.run import Run
from probe.evaluation.tasks import open_task
from probe.evaluation.trial_lists import load_labels
from probe.records import NO_LAYER
from probe.store.stores import select_store


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """See `words.write_words`."""
    return write_words(tmp_path)


def task_of(folder: Path, **settings: Any) -> Path:
    settings = {"kind": "classify", "view": "interval", "label": "label", "l2": [1e-2]} | settings
    settings = {"weighted": False, "controls": ["majority"]} | settings
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    (folder / "own.toml").write_text("\n".join(lines) + "\n")
    return folder / "own.toml"


def run_in(folder: Path, **settings: Any) -> Run:
    return run(
        task_of(folder, **settings),
        "planted",
        folder / "corpus.csv",
        folder / "features",
        folder / "results",
        labels=folder / "phones.csv",
    )


def problem_in(folder: Path, **settings: Any) -> tuple[Features, Problem]:
    """All utterances as training rows, each as its intervals."""
    corpus, task = load_corpus(folder / "corpus.csv"), open_task(task_of(folder, **settings))
    features = Features(
        {"clean": select_store(folder / "features", "planted", "frames")}, "frames", corpus
    )
    durations_s = {key: item.duration_s for key, item in features.keyed.items()}
    intervals = load_labels(task, corpus, durations_s, folder / "phones.csv")
    problem = Problem(corpus.utterances, (), {}, intervals=intervals, columns=corpus.columns)
    return features, intervals_as_rows(problem, task.settings)


def test_a_row_is_the_mean_of_the_frames_whose_centres_lie_in_its_interval(world: Path) -> None:
    times = [(0.0, 0.0125), (0.0125, 0.0325), (0.1, 0.2), (0.2, 0.204), (0.5, 0.8), (0.8, 0.815)]
    lines = [f"0.wav,{start},{end},x" for start, end in times]
    (world / "phones.csv").write_text("path,start,end,label\n" + "\n".join(lines) + "\n")
    frames, problem = problem_in(world)
    features = with_intervals(frames, problem.rows)
    centres_s = FIELD / RATE_HZ / 2 + np.arange(N_FRAMES) * HOP_S
    (whole,) = frames.read("1", [problem.train[0].source])  # type: ignore[attr-defined]
    for row, (start, end) in zip(problem.train, times, strict=True):
        inside = (centres_s >= start - 1e-9) & (centres_s < end - 1e-9)
        if not inside.any():
            inside = np.arange(N_FRAMES) == np.abs(centres_s - (start + end) / 2).argmin()
        (vector,) = features.read("1", [row]).values
        assert vector == pytest.approx(whole[inside].mean(axis=0), abs=1e-6)
    assert [features.of(row).n_rows for row in problem.train] == [1, 1, 5, 1, 15, 1]


def test_an_interval_has_the_columns_of_its_utterance_and_its_block(world: Path) -> None:
    _, problem = problem_in(world, tier="word", ignore=["", "aba"])
    rows = [row for row in problem.train if row.key.startswith("0.wav#")]
    assert len(rows) == 4 and rows[0].key == "0.wav#t=0,0.18"
    assert {row.speaker for row in rows} == {"train0"} == {block_of(row) for row in rows}
    assert {row.label(LABEL) for row in problem.train} == {"", "cab", "bac", "abc"}
    (world / "corpus.csv").write_text(
        (world / "corpus.csv").read_text().replace("0.wav,,train0", "0.wav,,")
    )
    _, problem = problem_in(world)
    blocks = {block_of(row) for row in problem.train if row.key.startswith("0.wav#")}
    assert blocks == {"utterance 0.wav"}


def test_the_planted_layer_tells_phones_apart_with_all_controls(world: Path) -> None:
    done = run_in(world, types="word", controls=["majority", "shuffled"], budgets=["4"])
    test = {
        (item.layer, item.control, item.budget): item
        for item in done.records
        if item.split == "test"
    }
    assert test["1", "", ""].value > 0.85 and test["0", "", ""].value < 0.6
    assert test["1", "", ""].n == 6 * 12 and test["1", "", ""].n_blocks == 3
    assert test["1", "shuffled", ""].value < 0.6
    assert ("1", "types", "") in test and (NO_LAYER, "majority", "") in test
    assert test["1", "", "4"].n_train == 4
    assert (
        len({item.trials_sha256 for item in done.records}) == 1 and test["1", "", ""].trials_sha256
    )


def test_an_ignored_label_is_ignored_in_any_case_and_in_angle_brackets(world: Path) -> None:
    _, problem = problem_in(world, ignore=["A", "<b>"])
    assert {row.label(LABEL) for row in problem.train} == {"", "c"}


def test_labels_that_training_lacks_are_errors(world: Path) -> None:
    text = (world / "phones.csv").read_text()
    rows = text.splitlines()
    last = rows[-1].split(",")
    rows[-1] = ",".join([*last[:3], "zz", last[4]])
    (world / "phones.csv").write_text("\n".join(rows) + "\n")
    done = run_in(world)
    (record,) = [item for item in done.records if (item.layer, item.split) == ("1", "test")]
    assert record.n == 72 and record.value < 1
    note = "1 interval with labels that training does not have: 'zz'"
    assert record.note == note
    (majority,) = [r for r in done.records if (r.control, r.split) == ("majority", "test")]
    assert majority.note == note


def test_utterances_without_intervals_are_counted(world: Path) -> None:
    rows = (world / "phones.csv").read_text().splitlines()
    kept = [row for row in rows if not row.startswith(("0.wav", "1.wav", "23.wav"))]
    (world / "phones.csv").write_text("\n".join(kept) + "\n")
    assert {item.excluded["no intervals"] for item in run_in(world).records} == {3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"view": "mean", "tier": "word"},
            r"view: found 'mean'; expected 'interval' with labels over time \(labels, tier",
        ),
        ({"label": "sentence"}, "no column 'sentence' that can be a label; it has .*label"),
    ],
)
def test_settings_that_do_not_agree_are_refused(
    world: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ProbeError, match=message):
        run_in(world, **settings)


def test_intervals_need_labels_over_time(world: Path) -> None:
    with pytest.raises(UsageError, match="own: needs --labels, a CSV file with the columns"):
        run(task_of(world), "planted", world / "corpus.csv", world / "features", world / "results")
    assert open_task(task_of(world)).view == "frames"
    usual = {"view": "mean", "label": "speaker", "l2": [1e-4], "weighted": True}
    assert "tier" not in open_task(task_of(world, **usual)).settings.hashed()
