"""Tasks and kinds: what is refused, what is chosen on dev, what leaks, what is planted."""

import io
import itertools
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from click.testing import CliRunner
from runs import quick, run
from scored import layer_rows, summary_rows
from tones import write_tones

from probe.cli import cli
from probe.data.corpus import load_corpus
from probe.errors import ProbeError, UsageError
from probe.evaluation.kinds.classify import Settings
from probe.evaluation.progress import Progress, progress_of
from probe.evaluation.run import Run
from probe.evaluation.tasks import log_columns, open_task, same_question
from probe.evaluation.trial_lists import Scope
from probe.evaluation.unfinished import Unfinished
from probe.extraction.extract import extract
from probe.extraction.settings import Extracting, Running, Storing
from probe.measures.counts import value_of
from probe.models.encoder import ModelInfo
from probe.models.frames import FrameGrid
from probe.pipeline import bench
from probe.protocols import ready_summaries, ready_tasks
from probe.records import frame_of, read_records
from probe.reporting.tables.score_tables import search_table, to_csv, to_markdown


class PlantedEncoder:
    """Three layers: noise, the tones' spectrum, and the spectrum under noise. Layer ``1`` is the
    good one.
    """

    import torch

    implementation, precision, chunking = "reference", "fp32", None
    rows = 1
    device = torch.device("cpu")
    info = ModelInfo(
        "planted", "1", "", "test", {"0": 24, "1": 24, "2": 24}, grid=FrameGrid(160, 400, 400)
    )

    def encode(self, waveforms, lengths, layers):  # type: ignore[no-untyped-def]
        import torch

        frames = waveforms[0].unfold(0, 400, 160)
        spectrum = torch.fft.rfft(frames * torch.hann_window(400)).abs().log1p()
        bands = torch.nn.functional.adaptive_avg_pool1d(spectrum[None], 24)[0]
        generator = torch.Generator().manual_seed(int(1e6 * float(waveforms.abs().sum())) % 2**31)
        noise = torch.randn(bands.shape, generator=generator)
        values = {"0": noise, "1": bands, "2": bands + noise.mean(0) * bands.std() * 3}
        return [values[name][None] for name in layers], torch.full((len(layers), 1), len(bands))


def write_planted(
    folder: Path, view: str = "meanstd", layers: str | None = None, **shape: Any
) -> Path:
    """Extracts planted features of a corpus of tones; returns its manifest."""
    manifest = write_tones(folder, **shape)
    extract(
        PlantedEncoder(),
        manifest,
        folder / "features",
        storing=Storing(view=view, layers=layers),
        running=Running(check=False),
    )
    return manifest


@pytest.fixture
def planted(tmp_path: Path) -> Callable[..., Path]:
    """Writes planted features into the test's folder."""
    return partial(write_planted, tmp_path)


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A manifest and the whole task ``word-id`` on its planted features; not to be changed."""
    folder = tmp_path_factory.mktemp("answered")
    manifest = write_planted(folder)
    return manifest, run("word-id", "planted", manifest, folder / "features", folder / "results")


def scores(path: Path, control: str = "", budget: str = "") -> dict[tuple[str, str], float]:
    table = read_records(path)
    table = table[(table["control"] == control) & (table["budget"] == budget)]
    return {(row.layer, row.split): row.value for row in table.itertuples()}


def test_the_planted_layer_is_found_and_noise_is_at_chance(
    planted: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = planted(words=4, repetitions=8)
    task = quick("speaker-id")
    done = run(task, "planted", manifest, tmp_path / "features", tmp_path / "results")
    value = scores(done.path)
    assert value["1", "test"] == 1.0
    assert value["0", "test"] < 0.6
    control = scores(done.path, "shuffled")
    assert control["1", "test"] < 0.65
    assert scores(done.path, "majority") == {("none", "dev"): 0.25, ("none", "test"): 0.25}


def test_records_hold_counts_search_and_hashes_that_reproduce_the_value(
    answered: tuple[Path, Run],
) -> None:
    _, done = answered
    assert {record.control for record in done.records} == {"", "majority", "shuffled"}
    for record in done.records:
        assert record.value == value_of(record.counts)
        assert (record.low, record.high) == (None, None)  # of four speakers
        assert record.n_blocks == 4
        assert record.n == sum(record.counts["denominator"])
        assert record.n_train == (15 if record.budget else 48)
        assert len(record.recipe) == len(record.task_sha256) == len(record.manifest_sha256) == 64
        if record.control == "majority" or record.metric == "codelength":
            assert not record.search
            continue
        assert [entry["l2"] for entry in record.search] == list(Settings().l2)
        best = min(record.search, key=lambda entry: entry["dev_cross_entropy"])
        assert record.chosen["l2"] == best["l2"]
    assert "s0" not in done.path.read_text()


def test_every_setting_that_was_tried_can_be_printed(answered: tuple[Path, Run]) -> None:
    _, done = answered
    lines = search_table(frame_of(done.records)).splitlines()
    assert lines[0] == "planted, word-id, linear: every setting that was tried"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:]]
    layers = ["0", "1", "2", "weighted"]
    assert [row[:2] for row in rows] == [
        [layer, f"{l2:.4g}"] for layer in layers for l2 in list(Settings().l2)
    ]
    picked = {row[0]: row[1] for row in rows if row[-1] == "✓"}
    own = [
        record for record in done.records if record.search and not (record.control or record.budget)
    ]
    assert picked == {record.layer: f"{record.chosen['l2']:.4g}" for record in own}


def test_a_run_repeats_exactly(planted: Callable[..., Path], tmp_path: Path) -> None:
    manifest = planted()
    first, again = (
        run(quick("word-id"), "planted", manifest, tmp_path / "features", tmp_path / name)
        for name in "ab"
    )
    assert [(r.value, r.low, r.high, r.search) for r in first.records] == [
        (r.value, r.low, r.high, r.search) for r in again.records
    ]


def test_test_rows_have_no_influence_on_what_is_chosen(
    answered: tuple[Path, Run], tmp_path: Path
) -> None:
    original, before = answered
    lines = original.read_text().splitlines()
    words = iter(
        np.random.default_rng(1).permutation(
            [line.split(",")[1] for line in lines if ",test," in line]
        )
    )
    changed = [
        ",".join([line.split(",")[0], next(words), *line.split(",")[2:]])
        if ",test," in line
        else line
        for line in lines
    ]
    shutil.copytree(original.parent, tmp_path, dirs_exist_ok=True)
    manifest = tmp_path / original.name
    manifest.write_text("\n".join(changed) + "\n")
    after = run("word-id", "planted", manifest, tmp_path / "features", tmp_path / "after")
    choices = [[(r.layer, r.chosen, r.search) for r in done.records] for done in (before, after)]
    assert choices[0] == choices[1]
    assert scores(before.path) != scores(after.path)


def edited(manifest: Path, edit: Callable[[list[str]], list[str] | None]) -> Path:
    rows = [line.split(",") for line in manifest.read_text().splitlines()]
    kept = [rows[0], *filter(None, (edit(row) for row in rows[1:]))]
    manifest.write_text("\n".join(",".join(row) for row in kept) + "\n")
    return manifest


def test_columns_that_nothing_reads_are_named(
    tones: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    corpus = load_corpus(tones())
    with caplog.at_level(logging.INFO, "probe"):
        log_columns(corpus)
        log_columns(corpus, [open_task("speaker-id")])
        log_columns(corpus, [open_task("speaker-id"), open_task("gender-id", {"label": "room"})])
    assert caplog.messages == [
        f"{corpus.name}: further columns, which tasks can ask for as labels: room",
        f"{corpus.name}: these tasks do not use the columns room",
    ]


def test_an_empty_session_is_named_and_sessions_that_are_blocks_are_not_unread(
    tones: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    manifest = tones()
    manifest.write_text(manifest.read_text().replace(",room", ",session", 1))
    corpus = load_corpus(manifest)
    with caplog.at_level(logging.INFO, "probe"):
        log_columns(corpus, [open_task("speaker-id")])
    assert not caplog.messages
    lines = manifest.read_text().splitlines()
    lines[5] = lines[5].rpartition(",")[0] + ","
    manifest.write_text("\n".join(lines) + "\n")
    with caplog.at_level(logging.WARNING, "probe"):
        log_columns(load_corpus(manifest), [open_task("word-id")])
        assert not caplog.messages
        log_columns(load_corpus(manifest), [open_task("speaker-id")])
    (message,) = caplog.messages
    assert re.search(
        r"csv line 6: session is empty \(in 1 of \d+ rows\). The blocks of intervals therefore are "
        "utterances instead of sessions in tasks that predict the speaker",
        message,
    )


def test_what_cannot_be_classified_is_refused_with_names(
    planted: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = planted()
    original = manifest.read_text()

    def refused(
        edit: Callable[[list[str]], list[str] | None], message: str, label: str = "speaker"
    ) -> None:
        manifest.write_text(original)
        task = open_task("speaker-id", {"label": label})
        with pytest.raises(ProbeError, match=message):
            run(
                task, "planted", edited(manifest, edit), tmp_path / "features", tmp_path / "results"
            )

    refused(
        lambda row: row if row[4] != "train" or row[2] != "s2" else None,
        "speaker s2 not in training",
    )
    refused(lambda row: row if row[4] != "dev" else None, "no dev rows\\. Give some rows split dev")
    refused(
        lambda row: row if row[4] != "test" else None, "no test rows\\. Give some rows split test"
    )
    refused(
        lambda row: row if row[4] != "test" else [*row[:2], "", *row[3:]],
        "none of the 12 test rows has any",
    )
    refused(lambda row: row if row[2] == "s1" else None, "all training rows have speaker 's1'")
    refused(
        lambda row: row,
        "no column 'accent' that can be a label; it has text, speaker",
        label="accent",
    )
    refused(
        lambda row: row,
        "it has text, speaker, domain, [^.]*room\\. Did you mean 'speaker'\\? Name one",
        label="spaeker",
    )


def test_numbers_as_labels_are_named_as_such(
    planted: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = planted()
    original = manifest.read_text()
    task = quick("speaker-id", label="room")
    numbers = itertools.count()
    edited(manifest, lambda row: [*row[:6], f"{next(numbers) / 7:.3f}"])
    with pytest.raises(
        ProbeError,
        match=r"These labels are numbers.*Kind regress predicts numbers.*into a few bins",
    ):
        run(task, "planted", manifest, tmp_path / "features", tmp_path / "results")
    manifest.write_text(original)
    edited(manifest, lambda row: [*row[:6], f"{row[6].removeprefix('room')}.5"])
    run(task, "planted", manifest, tmp_path / "features", tmp_path / "results")
    assert "the values of room are numbers, and each of the 2 is a class of its own" in caplog.text
    manifest.write_text(original)
    edited(
        manifest, lambda row: [*row[:6], row[6].removeprefix("room") if row[4] == "train" else "7"]
    )
    with pytest.raises(
        ProbeError,
        match=r"room 7 not in training\. Give these labels training rows, or take their rows out",
    ):
        run(
            task, "planted", manifest, tmp_path / "features", tmp_path / "results"
        )  # names of classes, not a scale


def test_what_is_left_out_is_said_once(
    planted: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = edited(
        planted(), lambda row: [row[0], "" if row[0].endswith("-0.wav") else row[1], *row[2:]]
    )
    done = run(quick("word-id"), "planted", manifest, tmp_path / "features", tmp_path / "results")
    n = max(record.excluded["no text"] for record in done.records)
    said = [
        message for message in caplog.messages if "left out" in message and "no text" in message
    ]
    assert said == [f"word-id, planted: these were left out: {n} (no text)"] and n > 0


def test_speakers_of_training_are_counted_said_and_marked(
    planted: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = planted()
    done = run(quick("word-id"), "planted", manifest, tmp_path / "features", tmp_path / "results")
    assert {record.shared_speakers for record in done.records if record.split != "train"} == {4}
    (said,) = [message for message in caplog.messages if "4 of 4 test speakers" in message]
    assert said.endswith("run this task with --split speaker:80/10/10 or --folds speaker.")
    table = to_markdown(summary_rows(read_records(done.path)), layers=False)
    assert "‡ |" in table and "\n* ‡ some or all of the speakers are in training too" in table
    rows = pd.read_csv(io.StringIO(to_csv(layer_rows(read_records(done.path)))))
    assert set(rows.loc[rows["metric"] == "accuracy", "shared_speakers"]) == {4}
    caplog.clear()
    known = run(
        quick("speaker-id"), "planted", manifest, tmp_path / "features", tmp_path / "results"
    )  # the point of the task
    apart = edited(manifest, lambda row: [*row[:2], f"{row[2]}-{row[4]}", *row[3:]])
    other = run(quick("word-id"), "planted", apart, tmp_path / "features", tmp_path / "apart")
    assert {record.shared_speakers for record in known.records} == {None}
    assert {record.shared_speakers for record in other.records if record.split != "train"} == {0}
    for path in (known.path, other.path):
        table = to_markdown(summary_rows(read_records(path)), layers=False)
        assert "‡" not in table and "shared_speakers" not in to_csv(
            summary_rows(read_records(path))
        )
    assert "in training too" not in caplog.text


def test_a_failed_extraction_is_named_before_anything_else(
    tones: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = tones()
    rows = [line.split(",") for line in manifest.read_text().splitlines()[1:]]
    for row in rows:
        if row[4] == "train":
            (manifest.parent / row[0]).write_bytes(b"")
    for view in ("meanstd", "frames"):
        extract(
            PlantedEncoder(),
            manifest,
            tmp_path / "features",
            storing=Storing(view=view),
            running=Running(check=False),
        )
    for task in ("word-id", "asr-ctc", "domain-shift"):
        with pytest.raises(
            ProbeError,
            match=r"extraction of all 48 train utterances of tones failed \(.*the file is empty",
        ):
            run(task, "planted", manifest, tmp_path / "features", tmp_path / "results")


def test_any_column_can_be_the_label(planted: Callable[..., Path], tmp_path: Path) -> None:
    task = quick("speaker-id", label="room")
    done = run(task, "planted", planted(), tmp_path / "features", tmp_path / "results")
    assert done.path.name.startswith("planted__speaker-id--label=room__")
    assert scores(done.path)["1", "test"] == 1.0


def test_missing_features_are_named_with_the_remedy(
    planted: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = planted()
    with pytest.raises(ProbeError, match=r"no features of mfcc.*Run `probe extract --model mfcc"):
        run("word-id", "mfcc", manifest, tmp_path / "features", tmp_path / "results")
    extra = manifest.parent / "extra.wav"
    extra.write_bytes((manifest.parent / "near-0-0-0.wav").read_bytes())
    manifest.write_text(manifest.read_text() + "extra.wav,ba,s0,near,train,0.3,room0\n")
    with pytest.raises(
        ProbeError, match=r"1 of 73 utterances of tones have no features \(extra.wav\)"
    ):
        run("word-id", "planted", manifest, tmp_path / "features", tmp_path / "results")


def test_failed_utterances_are_left_out_and_counted(
    tones: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = tones()
    (manifest.parent / "near-1-2-0.wav").write_bytes(b"")
    result = extract(
        PlantedEncoder(),
        manifest,
        tmp_path / "features",
        storing=Storing(view="meanstd"),
        running=Running(check=False),
    )
    assert [(failure.key, failure.reason) for failure in result.failures] == [
        ("near-1-2-0.wav", "the file is empty (0 bytes)")
    ]
    done = run(quick("word-id"), "planted", manifest, tmp_path / "features", tmp_path / "results")
    assert done.left_out == ["near-1-2-0.wav"]
    assert all(record.excluded == {"failed at extraction": 1} for record in done.records)


def test_transcribe_reads_planted_frames_and_writes_both_rates(
    planted: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = planted("frames", layers="1", words=3, repetitions=8)
    task = tmp_path / "own.toml"
    task.write_text(
        'kind = "transcribe"\nhead = "bilstm"\nhidden = 24\nepochs = 35\nlearning_rates = '
        "[2e-2]\nbatch_size = 8\n"
    )
    done = run(task, "planted", manifest, tmp_path / "features", tmp_path / "results")
    table = read_records(done.path)
    assert set(table["metric"]) == {"wer", "cer"}
    assert set(table["select_by"]) == {"cer"}
    good = table[
        (table["layer"] == "1") & (table["split"] == "test") & (table["metric"] == "wer")
    ].set_index("control")
    assert good["value"][""] < 0.1
    assert good["value"]["shuffled"] > 0.5
    outcomes = [
        json.loads(line)
        for line in (tmp_path / "results" / "outcomes" / done.path.name).read_text().splitlines()
    ]
    assert {outcome["layer"] for outcome in outcomes} == {outcomes[0]["layer"]}
    assert all({"key", "reference", "hypothesis"} <= outcome.keys() for outcome in outcomes)
    assert {
        (outcome["key"], outcome["speaker"], outcome["duration_s"]) for outcome in outcomes
    } == {
        (item.key, item.speaker, item.duration_s)
        for item in load_corpus(manifest).utterances
        if item.split == "test"
    }


def test_transcribe_refuses_text_it_cannot_use(
    planted: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = edited(planted("frames"), lambda row: [row[0], "", *row[2:]])
    with pytest.raises(
        ProbeError, match="asr-ctc: no train rows with text: none of the 48 train rows has any"
    ):
        run("asr-ctc", "planted", manifest, tmp_path / "features", tmp_path / "results")


def test_a_ctc_head_is_not_trained_on_a_handful_of_sentences(
    planted: Callable[..., Path], tmp_path: Path
) -> None:
    rows = itertools.count()
    manifest = edited(
        planted("frames"), lambda row: row if row[4] != "train" or next(rows) < 1 else None
    )
    with pytest.raises(ProbeError, match="1 of 1 train rows have text; a CTC head needs 5 or more"):
        run("asr-ctc", "planted", manifest, tmp_path / "features", tmp_path / "results")


def test_characters_that_training_lacks_are_counted_and_named(
    planted: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = edited(
        planted("frames"),
        lambda row: [row[0], "qü", *row[2:]] if row[0] == "near-0-0-5.wav" else row,
    )
    task = tmp_path / "short.toml"
    task.write_text('kind = "transcribe"\nepochs = 1\nlearning_rates = 0.01\nweighted = false\n')
    done = run(task, "planted", manifest, tmp_path / "features", tmp_path / "results")
    assert {record.note for record in done.records if record.split == "test"} == {
        "2 characters not in training: 'q', 'ü'"
    }


def trial_list(path: Path, rows: list[tuple[str, str, int]]) -> Path:
    path.write_text("enroll,test,label\n" + "".join(f"{a},{b},{label}\n" for a, b, label in rows))
    return path


def test_verify_scores_every_backend_and_leaves_lda_out_with_the_reason(
    planted: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = planted()
    rows = [
        (f"near-0-{a}-5.wav", f"near-0-{b}-4.wav", int(a == b)) for a in range(4) for b in range(4)
    ]
    trials = trial_list(manifest.parent / "trials.csv", rows)
    done = run(
        "speaker-verify",
        "planted",
        manifest,
        tmp_path / "features",
        tmp_path / "results",
        trials=trials,
    )
    table = read_records(done.path)
    shown = (
        (table["split"] == "test")
        & (table["layer"] == "1")
        & (table["control"] == "")
        & (table["metric"] == "eer")
    )
    test = table[shown].set_index("head")
    assert test.loc["cosine", "value"] == 0.0
    assert test.loc["cosine-standardised", "value"] <= 0.25
    assert np.isnan(test.loc["lda", "value"])
    assert test.loc["lda", "note"] == "0 training speakers occur in no trial; LDA needs 10"
    assert list(test.index[test["headline"]]) == ["cosine"]
    with pytest.raises(UsageError, match="needs --trials"):
        run("speaker-verify", "planted", manifest, tmp_path / "features", tmp_path / "results")


def test_lda_is_fitted_on_speakers_outside_the_trials(
    planted: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = planted(words=2, speakers=14)
    rows = [
        (f"near-{w}-{a}-5.wav", f"near-{v}-{b}-4.wav", int(a == b))
        for w in (0, 1)
        for v in (0, 1)
        for a in (0, 1)
        for b in (0, 1)
    ]
    trials = trial_list(manifest.parent / "trials.csv", rows)
    dev = [(f"near-0-{a}-4.wav", f"near-1-{b}-4.wav", int(a == b)) for a in (0, 1) for b in (0, 1)]
    lists = {"trials": trials, "dev_trials": trial_list(manifest.parent / "dev.csv", dev)}
    done = run(
        "speaker-verify", "planted", manifest, tmp_path / "features", tmp_path / "results", **lists
    )
    values = {
        (r.head, r.layer, r.control): r.value
        for r in done.records
        if r.split == "test" and r.metric == "eer"
    }
    assert values["lda", "1", ""] == 0.0
    assert values["lda", "1", "shuffled"] > 0.2


def test_trials_that_choose_and_report_are_refused_and_odd_ones_named(
    planted: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = planted()
    rows = [
        (f"near-0-{a}-5.wav", f"near-0-{b}-4.wav", int(a == b)) for a in range(4) for b in range(4)
    ]
    trials = trial_list(manifest.parent / "trials.csv", rows)
    swapped = trial_list(
        manifest.parent / "swapped.csv", [(b, a, label) for a, b, label in rows[:5]]
    )
    folders = (manifest, tmp_path / "features", tmp_path / "results")
    with pytest.raises(ProbeError, match="swapped: 5 of its trials are in trials too"):
        run("speaker-verify", "planted", *folders, trials=trials, dev_trials=swapped)
    odd = [*rows, ("near-0-0-0.wav", "near-0-1-0.wav", 1), ("near-0-0-5.wav", "near-0-0-5.wav", 1)]
    run("speaker-verify", "planted", *folders, trials=trial_list(manifest.parent / "odd.csv", odd))
    for what in (
        "1 of 18 trials have an utterance of split train",
        "1 of 18 trials have a label against",
        "1 of 18 trials compare an",
    ):
        assert what in caplog.text


def test_recordings_in_two_splits_under_two_names_are_named(
    tones: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = tones()
    (tmp_path / "near-0-0-5.wav").write_bytes((tmp_path / "near-0-0-0.wav").read_bytes())
    extract(
        PlantedEncoder(),
        manifest,
        tmp_path / "features",
        storing=Storing(view="meanstd"),
        running=Running(check=False),
    )
    run(quick("word-id"), "planted", manifest, tmp_path / "features", tmp_path / "results")
    assert (
        "1 recordings are in more than one split, byte for byte: near-0-0-0.wav = near-0-0-5.wav"
        in caplog.text
    )


def test_records_of_another_question_are_kept(
    planted: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders = ("planted", planted(), tmp_path / "features", tmp_path / "results")
    whole = run(quick("word-id"), *folders).path.read_bytes()
    assert run(quick("word-id"), *folders).path.name in {
        path.name for path in (tmp_path / "results").iterdir()
    }
    assert not list((tmp_path / "results").glob("*.old"))
    (outcomes,) = (tmp_path / "results" / "outcomes").iterdir()
    before = outcomes.read_bytes()
    edited(folders[1], lambda row: row if not row[0].endswith("near-0-0-5.wav") else None)
    other = run(quick("word-id"), *folders)
    assert "they are kept as" in caplog.text
    (kept_outcomes,) = (tmp_path / "results" / "outcomes").glob("*.old")
    assert kept_outcomes.read_bytes() == before != outcomes.read_bytes()
    (kept,) = (tmp_path / "results").glob("*.old")
    assert kept.name.startswith(other.path.name)
    assert (
        json.loads(kept.read_bytes().splitlines()[0])["counts"]
        == json.loads(whole.splitlines()[0])["counts"]
    )


def test_domain_shift_trains_on_each_domain_and_dashes_what_cannot_be(
    planted: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = planted(domains=("near", "far", "odd"))
    # "odd" is a test domain only; "far" has a word in test that its own training lacks
    edited(manifest, lambda row: row if row[3] != "odd" or row[4] == "test" else None)
    edited(manifest, lambda row: row if row[3:5] != ["far", "train"] or row[1] != "ke" else None)
    edited(manifest, lambda row: row if row[3:5] != ["far", "dev"] or row[1] != "ke" else None)
    done = run(
        quick("domain-shift"), "planted", manifest, tmp_path / "features", tmp_path / "results"
    )
    cells = {
        (r.train_domain, r.test_domain): r
        for r in done.records
        if r.split == "test" and r.layer == "1" and not r.control
    }
    assert set(cells) == {
        (source, target) for source in ("near", "far") for target in ("near", "far", "odd")
    }
    assert cells["near", "odd"].value == 1.0
    assert cells["far", "near"].value is None
    assert cells["far", "near"].note == "text ke not in training"
    dev = {(r.train_domain, r.test_domain) for r in done.records if r.split == "dev"}
    assert dev == {("near", "near"), ("far", "far")}


def test_domain_shift_needs_two_named_domains(planted: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(
        ProbeError, match="expected two or more names in the manifest's column domain"
    ):
        run("domain-shift", "planted", planted(), tmp_path / "features", tmp_path / "results")


def test_limit_takes_the_same_utterances_at_every_stage(
    tones: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = tones()
    result = extract(
        PlantedEncoder(),
        manifest,
        tmp_path / "features",
        storing=Storing(view="meanstd", limit=8),
        running=Running(check=False),
    )
    assert result.extracted == 24
    done = run(
        quick("word-id"), "planted", manifest, tmp_path / "features", tmp_path / "results", limit=8
    )
    of_one_draw = [record for record in done.records if record.control != "shuffled"]
    assert {record.n for record in of_one_draw} == {8}
    assert done.records[0].manifest_sha256 != load_corpus(manifest).sha256


def test_manifests_of_one_stem_keep_records_of_their_own(
    planted: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = planted()
    second = tmp_path / "b" / first.name
    shutil.copytree(first.parent, second.parent)
    rows = first.read_text().splitlines()
    second.write_text("\n".join(rows[:-1]) + "\n")

    def names(manifest: Path) -> tuple[str, str]:
        done = run(
            quick("word-id"), "planted", manifest, tmp_path / "features", tmp_path / "results"
        )
        return done.records[0].corpus, done.path.name

    corpus, file = names(first)
    assert names(second) == (f"b/{corpus}", file.replace(f"__{corpus}__", f"__b--{corpus}__"))
    assert f"records of this one have the name b/{corpus}" in caplog.text
    assert names(first) == (corpus, file), "a name does not depend on who came last"
    assert names(second)[0] == f"b/{corpus}"
    first.write_text("\n".join([rows[0], *rows[2:]]) + "\n")
    assert names(first) == (corpus, file), "an edited manifest keeps its name"


def test_a_limited_run_lives_apart_from_the_full_one(
    planted: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = planted()
    whole = run(quick("word-id"), "planted", manifest, tmp_path / "features", tmp_path / "results")
    before = whole.path.read_bytes()
    limited = run(
        quick("word-id"), "planted", manifest, tmp_path / "features", tmp_path / "results", limit=8
    )
    assert whole.path.read_bytes() == before and limited.path != whole.path
    assert sorted(path.name for path in (tmp_path / "results").glob("*.jsonl*")) == [
        "planted__word-id__tones--limit=8__clean.jsonl",
        "planted__word-id__tones__clean.jsonl",
    ]
    assert ({r.limit for r in whole.records}, {r.limit for r in limited.records}) == ({None}, {8})
    rows = summary_rows(read_records(tmp_path / "results"))
    assert set(rows["corpus"]) == {"tones", "tones:limit=8"}
    more = run(
        quick("word-id"),
        "planted",
        manifest,
        tmp_path / "features",
        tmp_path / "results",
        limit=1000,
        again=True,
    )
    assert more.path == whole.path and {r.limit for r in more.records} == {
        None
    }  # such a limit takes all


# --- task files
# ------------------------------------------------------------


def test_every_ready_task_opens_and_says_what_it_asks() -> None:
    tasks = {name: open_task(name) for name in ready_tasks()}
    assert ready_summaries() == [
        {"task": task.name, "kind": task.kind.name, "description": task.description}
        for task in tasks.values()
    ]
    assert {"speaker-id", "word-id", "asr-ctc", "speaker-verify", "domain-shift"} <= tasks.keys()
    assert all(task.description for task in tasks.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('kind = "classify"\nlabl = "text"', r"unknown key 'labl'. Did you mean 'label'\?"),
        ('kind = "clasify"', "own.toml: kind 'clasify'; expected one of classify, .*, verify"),
        ('label = "text"', "kind None; expected one of"),
        ('kind = "classify"\nl2 = "1e-3"', r"own.toml: l2: found '1e-3'; expected a number\."),
        ('kind = "classify"\nl2 = []', r"l2: found \[\]; expected 1 or more entries"),
        ('kind = "classify"\nl2 = [0.0]', r"l2\[0\]: found 0.0; expected 1e-12 or more"),
        (
            'kind = "classify"\nview = "frames"',
            "view: found 'frames'; expected 'mean', 'meanstd' or 'interval'",
        ),
        (
            'kind = "transcribe"\nhead = "gru"',
            "head: found 'gru'; expected 'linear', 'mlp', 'bilstm' or 'own'",
        ),
        ('kind = "transcribe"\nhidden = 2048', "hidden: found 2048; expected at most 1024"),
        ('kind = "transcribe"\nepochs = true', "epochs: found True; expected a whole number"),
        (
            'kind = "shift"\nof = "speaker-verify"',
            "own.toml: of = 'speaker-verify' is of kind verify; domain shift wraps tasks of kind "
            "classify, .*frames, .*transcribe",
        ),
        ('kind = "shift"\nof = "nothing"', "task 'nothing': no ready task"),
        ("kind = classify", "not TOML"),
    ],
)
def test_faulty_task_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(ProbeError, match=message):
        open_task(path)


def test_an_unknown_task_says_what_is_close() -> None:
    with pytest.raises(UsageError, match=r"task 'speaker-ID'.*Did you mean 'speaker-id'\?"):
        open_task("speaker-ID")


def test_layout_and_description_do_not_change_a_tasks_hash(tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{name}.toml" for name in "abc")
    first.write_text('kind = "classify"\nlabel = "text"\n')
    second.write_text(
        '# a comment\nlabel="text"\nkind="classify"\nl2 = [1e-6, 1e-5, 1e-4, '
        '1e-3, 1e-2, 0.1, 1, 10]\ndescription="x"'
    )
    third.write_text('kind = "classify"\nlabel = "text"\nversion = 2\n')
    assert open_task(first).sha256 == open_task(second).sha256 != open_task(third).sha256


def test_overrides_become_part_of_the_name_and_reach_a_wrapped_task() -> None:
    assert open_task("asr-ctc", {"head": "bilstm"}).name == "asr-ctc:head=bilstm"
    assert open_task("asr-ctc", {"head": "bilstm"}).settings.learning_rates == (1e-2, 3e-3, 1e-3)
    shifted = open_task("domain-shift", {"label": "room"})
    assert shifted.of is not None
    assert shifted.of.settings.label == "room"
    with pytest.raises(
        UsageError, match="--head: task speaker-id is of kind classify, which has no head"
    ):
        open_task("speaker-id", {"head": "linear"})


QUICK = {
    "classify": (
        'kind = "classify"\nlabel = "text"\nview = "mean"\nl2 = [1e-1]\nbudgets = ["2/class"]\n'
    ),
    "transcribe": (
        'kind = "transcribe"\nepochs = 2\nlearning_rates = [1e-2, 1e-3]\nbudgets = ["10"]\n'
    ),
    "verify": (
        'kind = "verify"\nview = "mean"\nbackends = ["cosine", "am-softmax"]\nlearning_rates = '
        "[1e-2]\nepochs = 2\n"
    ),
    "frames": 'kind = "frames"\nlabels = "labels.csv"\nl2 = [1e-1]\ncontrols = []\n',
    "shift": 'kind = "shift"\nof = "inner.toml"\nacross = "room"\n',
}
INNER = """kind = "classify"
label = "speaker"
view = "mean"
l2 = [1e-1]
controls = []
weighted = false
online_code = true
"""


def beside(manifest: Path) -> dict[str, Path]:
    """Labels over time and trials beside a corpus of tones."""
    rows = load_corpus(manifest).utterances
    lines = [f"{item.key},0,0.15,{item.text}\n{item.key},0.15,0.3,late\n" for item in rows]
    (manifest.parent / "labels.csv").write_text("path,start,end,label\n" + "".join(lines))
    (manifest.parent / "inner.toml").write_text(INNER)
    tests = [item for item in rows if item.split == "test" and item.speaker in ("s0", "s1")]
    pairs = [
        (a.key, b.key, int(a.speaker == b.speaker)) for a in tests for b in tests if a.key < b.key
    ]
    return {"trials": trial_list(manifest.parent / "trials.csv", pairs)}


def test_an_equal_manifest_of_other_audio_is_another_question(
    tmp_path: Path, at_commit: Callable[[str], None]
) -> None:
    at_commit("c")
    records = {}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_tones(tmp_path / name)
    for path in (tmp_path / "b").rglob("*.wav"):
        samples, rate_hz = soundfile.read(path)
        soundfile.write(path, 0.5 * samples, rate_hz)
    for name in ("a", "b"):
        manifest, features = tmp_path / name / "tones.csv", tmp_path / "features"
        extract(
            PlantedEncoder(),
            manifest,
            features,
            storing=Storing(view="meanstd"),
            running=Running(check=False),
        )
        done = run(quick("word-id"), "planted", manifest, features, tmp_path / "results")
        records[name] = done.records[0]
    assert records["a"].manifest_sha256 == records["b"].manifest_sha256
    assert records["a"].audio_sha256 != records["b"].audio_sha256
    assert len(list((tmp_path / "results").glob("*.old"))) == 1


@pytest.mark.parametrize("kind", sorted(QUICK))
def test_an_interrupted_run_goes_on_from_its_finished_parts(
    planted: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at_commit: Callable[[str], None],
    kind: str,
) -> None:
    at_commit("c")
    manifest = planted("frames", words=2, speakers=4, repetitions=4)
    lists = {name: path for name, path in beside(manifest).items() if kind == "verify"}
    task = tmp_path / "quick.toml"
    task.write_text(QUICK[kind])
    keep, kept = Unfinished.keep, []

    def train(folder: str, until: int | None = None, **changed: object) -> dict[str, str]:
        kept.clear()

        def stop(self: Unfinished, part: str, *rest: object) -> None:
            keep(self, part, *rest)  # type: ignore[arg-type]
            kept.append(part)
            if len(kept) == until:
                raise KeyboardInterrupt

        monkeypatch.setattr(Unfinished, "keep", stop)
        how = {"memory_bytes": 150_000, "device": "cpu", **lists, **changed}
        run(task, "planted", manifest, tmp_path / "features", tmp_path / folder, **how)  # type: ignore[arg-type]
        files = [path for path in sorted((tmp_path / folder).rglob("*")) if path.is_file()]
        return {
            path.name + path.parent.name[:3]: re.sub(r'"seconds":[\d.]+', "", path.read_text())
            for path in files
        }

    whole = train("whole")
    parts = list(kept)
    assert len(parts) > 3
    assert not (tmp_path / "whole" / ".unfinished").exists()
    with pytest.raises(KeyboardInterrupt):
        train("again", until=2)
    with pytest.raises(KeyboardInterrupt):
        train("again", until=1)
    folder = next((tmp_path / "again" / ".unfinished").iterdir())
    assert len(list(folder.iterdir())) == 3
    damaged = max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    damaged.write_text(damaged.read_text()[:-20])
    assert {name.replace("aga", "who"): text for name, text in train("again").items()} == whole
    assert kept == parts[2:]
    assert not (tmp_path / "again" / ".unfinished").exists()


def test_the_finished_parts_of_another_question_are_not_taken(
    planted: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at_commit: Callable[[str], None],
) -> None:
    manifest = planted("mean", words=2, repetitions=3)
    task = tmp_path / "quick.toml"
    task.write_text(INNER)
    keep, kept = Unfinished.keep, []

    def n_trained(commit: str, until: int | None = None, **changed: object) -> int:
        kept.clear()

        def stop(self: Unfinished, part: str, *rest: object) -> None:
            keep(self, part, *rest)  # type: ignore[arg-type]
            kept.append(part)
            if len(kept) == until:
                raise KeyboardInterrupt

        monkeypatch.setattr(Unfinished, "keep", stop)
        at_commit(commit)
        run(task, "planted", manifest, tmp_path / "features", tmp_path / "results", **changed)  # type: ignore[arg-type]
        return len(kept)

    with pytest.raises(KeyboardInterrupt):
        n_trained("a", until=2)
    assert n_trained("b") == 6, "other code"
    assert n_trained("a", seed=1) == 6, "another seed"
    assert n_trained("a+") == 6, "changed code has no version"
    assert n_trained("a", again=True) == 4
    task.write_text(INNER.replace("1e-1", "1e-3"))
    assert n_trained("a") == 6, "another task"


@pytest.mark.parametrize("kind", sorted(QUICK))
def test_progress_counts_the_work_and_ends_where_it_is_done(
    planted: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    manifest = planted("frames", words=2, speakers=4, repetitions=4)
    lists = beside(manifest)
    task = tmp_path / "quick.toml"
    task.write_text(QUICK[kind])
    seen: list[tuple[int, int]] = []
    whole: list[Progress] = []

    @contextmanager
    def watched(title: str) -> Iterator[Progress]:
        assert title == "quick planted (task 3 of 12)"
        whole.append(Progress(lambda progress: seen.append((progress.done, progress.expected))))
        yield whole[0]

    monkeypatch.setattr("probe.evaluation.run.progress_of", watched)
    trials = lists["trials"] if kind == "verify" else None
    run(
        *(task, "planted", manifest, tmp_path / "features", tmp_path / "results"),
        trials=trials,
        number="task 3 of 12",
        device="cpu",  # type: ignore[arg-type]
    )
    (progress,) = whole
    assert progress.done == progress.expected == progress.total
    steps = [done for done, _ in seen]
    assert steps == sorted(steps)
    largest = max(after - before for before, after in pairwise(steps))
    assert largest <= progress.expected / 3, "no step is a third of the work"


def test_progress_in_a_batch_log_is_a_line_now_and_then_with_the_time_left() -> None:
    now, log = [0.0], StringIO()
    with progress_of("speaker-id org/a (task 3 of 12)", log, lambda: now[0]) as progress:
        progress.add(100)
        progress.note("layer 2")
        for _ in range(70):
            now[0] += 1
            progress.step()
        progress.add(-10)
    lines = log.getvalue().splitlines()
    assert lines == [
        f"speaker-id org/a (task 3 of 12): {n} %, {n} of 100 steps, layer 2, {n} s gone, about "
        f"{100 - n} s left"
        for n in (30, 60)
    ]
    assert progress.left_s == 20
    assert Progress().left == "time left unknown"


def test_parts_that_have_not_begun_are_expected_to_be_like_the_others() -> None:
    progress = Progress()
    progress.split(3)
    progress.begin()
    progress.add(10)
    assert progress.expected == 30
    progress.begin()
    progress.add(20)
    assert progress.expected == 45


REFUSED = {
    "labels": ('kind = "frames"\nlabels = "none.csv"\n', "none.csv: does not exist"),
    "keys": (
        'kind = "frames"\nlabels = "strange.csv"\n',
        "no intervals for any of the 72 utterances",
    ),
    "column": ('kind = "classify"\nlabel = "dialect"\n', "no column 'dialect'"),
    "trials": ('kind = "verify"\n', "needs --trials"),
    "domains": ('kind = "shift"\nof = "word-id"\nacross = "speaker_sex"\n', "no such column"),
    "lexicon": (
        'kind = "transcribe"\nunits = "phones"\nlexicon = "own.txt"\n',
        "words not in the lexicon",
    ),
    "beam": ('kind = "transcribe"\ndecoding = "beam"\nwords = "own.txt"\n', "beam search"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_a_bench_refuses_before_it_extracts(
    tones: Callable[..., Path], tmp_path: Path, case: str
) -> None:
    manifest = tones()
    (tmp_path / "strange.csv").write_text("path,start,end,label\nother.wav,0,0.1,a\n")
    (tmp_path / "own.txt").write_text("XYZ x y z\n")
    text, message = REFUSED[case]
    task = tmp_path / "own.toml"
    task.write_text(text)
    with pytest.raises(ProbeError, match=message):
        bench(["mfcc"], [task], manifest, tmp_path / "out")
    assert not (tmp_path / "out" / "features").exists()


def test_a_bench_names_a_task_that_cannot_be_asked_first_and_goes_on(
    tones: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest, task, quick = tones(), tmp_path / "own.toml", tmp_path / "quick.toml"
    task.write_text('kind = "classify"\nlabel = "dialect"\n')
    quick.write_text(
        'kind = "classify"\nlabel = "text"\nl2 = [1e-1]\ncontrols = []\nweighted = false\n'
    )
    with caplog.at_level("INFO"):
        done = bench(["mfcc"], [quick, task], manifest, tmp_path / "out")
    messages = [item.message for item in caplog.records]
    refusal, plan = (
        next(i for i, text in enumerate(messages) if part in text)
        for part in ("no column 'dialect'", "to extract")
    )
    assert refusal < plan
    assert [reason.split(":")[0] for reason in done.refused] == ["own"]
    assert len(list((tmp_path / "out" / "results").glob("*.jsonl"))) == 1
    other = tmp_path / "other.toml"
    other.write_text('kind = "verify"\n')
    with pytest.raises(
        ProbeError, match=r"none of 2 tasks can be asked\nown: .*\nother: needs --trials"
    ):
        bench(["mfcc"], [task, other], manifest, tmp_path / "more")


@pytest.mark.parametrize(
    ("models", "how", "message"),
    [
        (
            ["mfcc", "fbank"],
            {"extracting": Extracting(storing=Storing(layers="0,7"))},
            "has no layer '7'",
        ),
        (["mfcc", "random:nobody/none"], {}, "nobody/none"),
        (["mfcc", "fbank"], {"scope": Scope(conditions=["noise:files=none.wav@5dB"])}, "none.wav"),
    ],
)
def test_a_bench_looks_at_every_model_before_it_extracts_from_one(
    tones: Callable[..., Path],
    tmp_path: Path,
    models: list[str],
    how: dict[str, object],
    message: str,
) -> None:
    done = bench(models, ["word-id"], tones(words=2), tmp_path / "out", dry_run=True, **how)  # type: ignore[arg-type]
    assert message in done.refused[-1]
    assert done.refused[-1].startswith(models[-1])


def test_a_bench_refuses_a_projection_to_more_dimensions_than_a_layer_has(
    tones: Callable[..., Path], tmp_path: Path
) -> None:
    task = open_task("word-id", {"project": 100_000})
    done = bench(["mfcc"], [task], tones(words=2), tmp_path / "out")
    assert (
        "layer 0 has 40 dimensions (meanstd); they cannot be projected to 100000. Set project to "
        "40 or less." in done.refused[0]
    )
    assert not list(tmp_path.glob("out/features/*"))


def test_another_name_of_a_question_is_told_and_an_override_without_effect_gives_none(
    planted: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert open_task("asr-ctc", {"head": "linear"}).name == "asr-ctc"
    assert (
        open_task("domain-shift", {"disturb": "test", "label": "room"}).name
        == "domain-shift:label=room"
    )
    assert same_question(open_task("asr-ctc", {"head": "mlp"})) == "asr-ctc-mlp"
    assert (
        same_question(open_task("gender-id", {"label": "room"}))
        == same_question(open_task("gender-id"))
        == ""
    )
    manifest = planted(domains=("near", "far"), repetitions=3, words=2)
    with caplog.at_level("INFO"):
        run(
            open_task("gender-id", {"label": "domain"}),
            "planted",
            manifest,
            tmp_path / "features",
            tmp_path / "results",
        )
    assert (
        "gender-id:label=domain: asks the same question as the ready task domain-id" in caplog.text
    )


def test_a_run_names_what_has_no_features_before_it_trains(
    planted: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest, task = planted(words=2, repetitions=3), tmp_path / "quick.toml"
    task.write_text(INNER.replace('"mean"', '"meanstd"'))
    words = [
        "run",
        str(task),
        "--corpus",
        str(manifest),
        "--from",
        str(tmp_path / "features"),
        "--to",
        str(tmp_path / "results"),
    ]
    with caplog.at_level("INFO"):
        done = CliRunner().invoke(cli, [*words, "--model", "planted", "--model", "other"])
    assert done.exit_code == 1
    assert "other, quick: " in next(
        item.message for item in caplog.records if item.levelname == "ERROR"
    )
    assert "no features of other" in done.output
    assert len(list((tmp_path / "results").glob("*.jsonl"))) == 1
    done = CliRunner().invoke(
        cli, [*words, "--model", "planted", "--model", "other", "--label", "dialect"]
    )
    assert "no column 'dialect'" in str(done.exception)


def test_a_bench_refuses_a_folder_that_it_cannot_write_before_it_extracts(
    tones: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results").write_text("a file")
    with pytest.raises((ProbeError, OSError), match="results"):
        bench(["mfcc"], ["word-id"], tones(words=2, repetitions=3), tmp_path / "out")
    assert not (tmp_path / "out" / "features").exists()
