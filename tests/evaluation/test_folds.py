"""Cross-validation: pooled scores equal a loop of runs made by hand, and nothing is lost on the way
to the record.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from exhaustive import mostly_nightly
from planted import HOP, RATE_HZ, extracted
from runs import run
from scored import with_counts

from probe.cli import cli
from probe.data.corpus import load_corpus
from probe.errors import ProbeError
from probe.evaluation.dataset import Score
from probe.evaluation.folds import pooled
from probe.evaluation.tasks import open_task
from probe.measures.counts import pooled_counts, ratio_counts, value_of
from probe.measures.uncertainty import interval
from probe.pipeline import bench
from probe.record_check import check_records
from probe.records import (
    PER_FOLD,
    Record,
    chosen_layers,
    frame_of,
    iterate_records,
    read_records,
    write_records,
)
from probe.reporting.scores import Scores
from probe.reporting.tables.score_tables import search_table

LETTERS = "abcd"
SESSIONS = ["1", "2", "3", "10"]
DIM = 6
COLUMNS = "path,text,speaker,domain,split,duration_s,session,mood"
TASKS: Mapping[str, dict[str, Any]] = {
    "classify": {"label": "mood", "view": "mean", "l2": [0.01, 1.0], "budgets": ["12"]},
    "transcribe": {"epochs": 8, "learning_rates": [0.1], "weighted": False, "batch_size": 8},
    "frames": {"l2": [0.01, 1.0], "labels": "letters.csv", "controls": ["majority", "shuffled"]},
}
# For tests of what becomes of the scores.
QUICK = {"label": "mood", "view": "mean", "l2": [0.01, 1.0], "weighted": False}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 utterances of 12 speakers in four sessions with two layers: noise, and codes of letters
    and of the mood.
    """
    folder = tmp_path_factory.mktemp("folds")
    generator = np.random.default_rng(0)
    codes = generator.standard_normal((len(LETTERS) + 2, DIM))
    rows, spans, layers = [COLUMNS], ["path,start,end,label"], {"0": [], "1": []}
    for i in range(48):
        text, mood = "".join(generator.choice(list(LETTERS), 4)), i % 2
        (folder / f"{i}.wav").touch()
        rows.append(
            f"{i}.wav,{text},s{i % 12},,{'train' if i % 3 else ''},,{SESSIONS[i % 4]},"
            f"{'glad' if mood else 'sad'}"
        )
        frames = np.repeat(["abcd".index(letter) for letter in text], 4)
        for position, letter in enumerate(text):
            start, end = (4 * n * HOP / RATE_HZ for n in (position, position + 1))
            spans.append(f"{i}.wav,{start:.3f},{end:.3f},{letter}")
        noise = generator.standard_normal((2, len(frames), DIM))
        layers["0"].append(noise[0])
        layers["1"].append(codes[frames] + 0.5 * codes[4 + mood] + 0.7 * noise[1])
    (folder / "corpus.csv").write_text("\n".join(rows))
    (folder / "letters.csv").write_text("\n".join(spans))
    extracted(folder / "features", layers, folder / "corpus.csv")
    return folder


def task(folder: Path, kind: str, **settings: Any) -> Path:
    path = folder / f"{kind}.toml"
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    path.write_text("\n".join([f'kind = "{kind}"', *lines]))
    return path


def by_hand(world: Path, to: Path, kind: str) -> Iterator[list[Record]]:
    """The records of one run for each fold, on a manifest with that fold's split."""
    header, *rows = (world / "corpus.csv").read_text().splitlines()
    for number, tested in enumerate(SESSIONS):
        chosen_on = SESSIONS[(number + 1) % len(SESSIONS)]
        lines = [header]
        for row in rows:
            fields = row.split(",")
            fields[4] = {tested: "test", chosen_on: "dev"}.get(fields[6], "train")
            lines.append(",".join(fields))
        manifest = world / f"fold{number}.csv"
        manifest.write_text("\n".join(lines))
        name = task(world, kind, **TASKS[kind])
        yield run(name, "planted", manifest, world / "features", to).records


def place(record: Record) -> tuple[str, ...]:
    return (record.head, record.split, record.metric, record.control, record.budget)


@pytest.mark.parametrize("kind", mostly_nightly(TASKS, ["classify"]))
def test_pooled_counts_equal_a_loop_of_runs_by_hand(world: Path, tmp_path: Path, kind: str) -> None:
    name = task(world, kind, **TASKS[kind], folds="session")
    records = run(name, "planted", world / "corpus.csv", world / "features", tmp_path / "a").records
    loop = list(by_hand(world, tmp_path / "b", kind))
    layers = {record.layer for record in records} - {PER_FOLD}
    choices = [chosen_layers(frame_of(some)) for some in loop]
    chosen = [
        {(row.head, row.budget): row.chosen_layer for row in rows.itertuples()} for rows in choices
    ]
    for record in records:
        is_choice = record.layer == PER_FOLD
        folds = []
        for some, choice in zip(loop, chosen, strict=True):
            layer = choice[record.head, record.budget] if is_choice else record.layer
            folds += [one for one in some if (one.layer, *place(one)) == (layer, *place(record))]
        if not record.counts:  # metrics of ranks, whose heads differ
            assert "not pooled" in record.note
            continue
        if "numerator" in record.counts:
            sums: Counter[tuple[str, str]] = Counter()
            for one in folds:
                for key in ("numerator", "denominator"):
                    numbers = zip(one.counts["block"], one.counts[key], strict=True)
                    sums.update({(block, key): n for block, n in numbers})
            assert sums == {
                (block, key): n
                for key in ("numerator", "denominator")
                for block, n in zip(record.counts["block"], record.counts[key], strict=True)
            }
        assert record.counts == pooled_counts([one.counts for one in folds])
        assert record.value == value_of(record.counts, record.metric)
        ends = interval(record.counts, record.metric) or (None, None)
        assert (record.low, record.high) == ends
        assert [entry["fold"] for entry in record.folds] == SESSIONS
        for name in ("layer", "value", "n", "n_train", "chosen"):
            assert [entry[name] for entry in record.folds] == [getattr(one, name) for one in folds]
        assert record.n == sum(one.n for one in folds)
        tried = [
            {"fold": fold, **entry}
            for fold, one in zip(SESSIONS, folds, strict=True)
            for entry in one.search
        ]
        assert record.search == ([] if is_choice and not record.control else tried)
    answered = {(record.layer, *place(record)) for record in records}
    of_layers = {(one.layer, *place(one)) for one in loop[0]}
    if kind == "transcribe":  # its control has the layer that was chosen, perhaps the same in all
        of_layers = {one for one in of_layers if "shuffled" not in one or one in answered}
    of_choice = {(PER_FOLD, *place(one)) for one in loop[0] if one.layer in layers - {"none"}}
    assert answered == of_layers | of_choice
    assert check_records([tmp_path / "a"])[1] == []


def test_records_of_folds_are_read_again_and_make_tables(world: Path, tmp_path: Path) -> None:
    name = task(world, "classify", **QUICK)
    done = run(
        open_task(name, {"folds": "speaker:3:seed=2"}),
        *("planted", world / "corpus.csv", world / "features", tmp_path),
    )
    assert list(iterate_records(done.path)) == done.records
    assert {record.task for record in done.records} == {"classify:folds=speaker:3:seed=2"}
    assert {len(record.folds) for record in done.records} == {3}
    (row,) = Scores.of(read_records(tmp_path)).chosen().to_dict("records")
    assert (row["layer"], row["n"], row["n_blocks"]) == (PER_FOLD, 48, 12)
    assert row["note"] == "layers that folds chose: 1 (3)"
    assert not np.isnan(row["shuffled"])
    assert row["value"] > 0.8
    table = search_table(read_records(tmp_path))
    rows = [line.split("|") for line in table.splitlines() if "✓" in line]
    assert Counter(row[5].strip() for row in rows) == {"1": 2, "2": 2, "3": 2}
    outcomes = [json.loads(line) for line in (tmp_path / "outcomes" / done.path.name).open()]
    assert sorted(outcome["key"] for outcome in outcomes) == sorted(f"{i}.wav" for i in range(48))
    assert {outcome["fold"] for outcome in outcomes} == {"1", "2", "3"}


def test_speakers_of_a_fold_are_compared_with_its_own_training(world: Path, tmp_path: Path) -> None:
    """Folds of recordings share speakers with training; folds of speakers share none."""
    name = task(world, "classify", **QUICK)
    for folds, n_shared in (("recording:4", 12), ("speaker:4", 0)):
        records = run(
            open_task(name, {"folds": folds}),
            *("planted", world / "corpus.csv", world / "features", tmp_path),
        ).records
        trained = [one for one in records if one.n_train and one.split == "test"]
        assert {record.shared_speakers for record in trained} == {n_shared}


def test_an_interrupted_run_goes_on_within_a_fold(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from probe.evaluation import provenance
    from probe.evaluation.kinds import classify

    code = {"version": "0", "commit": "0" * 12}
    monkeypatch.setattr(provenance, "code_version", lambda: code)
    name = task(world, "classify", **QUICK, budgets=["12"], folds="session")
    arguments = ("planted", world / "corpus.csv", world / "features")
    searched, search = [0], classify.fit_strengths

    def counted(*given: Any, **how: Any) -> Any:
        searched[0] += 1
        return search(*given, **how)

    with monkeypatch.context() as patched:
        patched.setattr(classify, "fit_strengths", counted)
        whole = run(name, *arguments, tmp_path / "a").records
    n_searches, searched[0] = searched[0], 0

    def interrupted(*given: Any, **how: Any) -> Any:
        searched[0] += 1
        if searched[0] == 9:
            raise KeyboardInterrupt
        return search(*given, **how)

    monkeypatch.setattr(classify, "fit_strengths", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(name, *arguments, tmp_path / "b")
    records = run(name, *arguments, tmp_path / "b").records
    unlike = {"seconds": 0.0, "arguments": {}}
    assert [replace(one, **unlike) for one in records] == [replace(one, **unlike) for one in whole]
    assert searched[0] == n_searches + 1


def test_the_log_says_that_the_column_split_is_ignored(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = task(world, "classify", **QUICK, folds="session")
    with caplog.at_level(logging.INFO, "probe"):
        run(name, "planted", world / "corpus.csv", world / "features", tmp_path)
    assert "4 folds by session, each with its number of rows: 1 (12), 2 (12)" in caplog.text
    assert "the column split of corpus is ignored" in caplog.text


@pytest.mark.parametrize(
    ("name", "folds", "message"),
    [
        ("speaker-verify", "speaker:5", "expected no folds: a trial may pair"),
        ("domain-shift", "speaker:5", "expected no folds: domains are trained"),
        ("word-id", "speaker:2", "folds: found 'speaker:2'; expected 3 or more"),
        ("word-id", "session:seed=1", "expected the column that names the folds"),
    ],
)
def test_folds_that_a_task_cannot_have_are_refused(name: str, folds: str, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        open_task(name, {"folds": folds})


def test_a_shift_wraps_no_task_with_folds(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('kind = "classify"\nfolds = "session"')
    (tmp_path / "shift.toml").write_text('kind = "shift"\nof = "own.toml"')
    with pytest.raises(ProbeError, match="Wrap a task without folds"):
        open_task(tmp_path / "shift.toml")


def test_an_error_names_its_fold(world: Path, tmp_path: Path) -> None:
    name = task(world, "classify", **QUICK | {"label": "speaker"}, folds="session")
    with pytest.raises(ProbeError, match=r"^classify: fold 1: dev: speaker s1, s5, s9 not in"):
        run(name, "planted", world / "corpus.csv", world / "features", tmp_path)


def test_folds_are_part_of_the_hash_and_no_folds_are_not() -> None:
    plain, sessions, groups = (
        open_task("word-id", {"folds": folds}) for folds in (None, "session", "speaker:5")
    )
    assert "folds" not in plain.settings.hashed()
    assert len({plain.sha256, sessions.sha256, groups.sha256}) == 3
    assert open_task("word-id", {"folds": "speaker:5:seed=0"}).sha256 == groups.sha256


def test_a_bench_extracts_all_rows_for_folds(tones: Callable[..., Path], tmp_path: Path) -> None:
    """Also with a manifest whose rows have no split."""
    manifest = tones()
    lines = manifest.read_text().splitlines()
    place = lines[0].split(",").index("split")
    rows = [line.split(",") for line in lines]
    manifest.write_text(
        "\n".join(
            ",".join([*row[:place], "split" if row is rows[0] else "", *row[place + 1 :]])
            for row in rows
        )
    )
    corpus = load_corpus(manifest)
    assert {item.split for item in corpus.utterances} == {""}
    own = task(tmp_path, "classify", label="text", l2=[0.1], folds="recording:4", weighted=False)
    done = bench(["mfcc"], [open_task(own)], corpus, tmp_path / "out")
    assert done.refused == []
    records = read_records(tmp_path / "out" / "results")
    tested = records[(records["split"] == "test") & (records["control"] != "shuffled")]
    assert set(tested["n"]) == {len(corpus.utterances)}


def test_a_score_that_some_folds_lack_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def score(layer: str, **changed: Any) -> Score:
        common = {"layer": layer, "head": "linear", "split": "test", "metric": "accuracy"}
        common |= {"higher_is_better": True, "select_by": "accuracy", "n": 2}
        return Score(**{**common, "counts": ratio_counts(["a", "b"], [1, 1], [1, 1]), **changed})

    scores = pooled(
        {"1": [score("0"), score("0", budget="1h")], "2": [score("0")], "3": [score("0")]}
    )
    assert [one.budget for one in scores] == [""]
    assert scores[0].counts == ratio_counts(["a", "b"], [3, 3], [3, 3])
    assert "accuracy of head linear, budget 1h: only in folds 1; left out" in caplog.text
    lacking = {"1": [score("0", counts=None, note="no rows", n=0)], "2": [score("0")]}
    (one,) = pooled(lacking)
    assert (one.value, one.note, one.n) == (1.0, "fold 1: no rows", 2)


def test_each_fold_chooses_its_own_layer() -> None:
    """Also for a control that is trained at the chosen layer only."""

    def score(layer: str, hits: int, **changed: Any) -> Score:
        common = {"layer": layer, "head": "ctc", "metric": "accuracy", "select_by": "accuracy"}
        common |= {"higher_is_better": True, "n": 2, "split": "dev"}
        return Score(**{**common, "counts": ratio_counts(["a"], [hits], [2]), **changed})

    folds = {
        "1": [score("0", 1), score("5", 2), score("5", 0, control="shuffled")],
        "2": [score("0", 2), score("5", 1), score("0", 1, control="shuffled")],
    }
    folds = {
        fold: [*scores, score("0", 1, split="test"), score("5", 0, split="test")]
        for fold, scores in folds.items()
    }
    scores = {(one.layer, one.split, one.control): one for one in pooled(folds)}
    assert {place: one.value for place, one in scores.items()} == {
        ("0", "dev", ""): 0.75,
        ("5", "dev", ""): 0.75,
        ("0", "test", ""): 0.5,
        ("5", "test", ""): 0.0,
        (PER_FOLD, "dev", ""): 1.0,
        (PER_FOLD, "dev", "shuffled"): 0.25,
        (PER_FOLD, "test", ""): 0.25,
    }
    assert scores[PER_FOLD, "test", ""].note == "layers that folds chose: 5 (1), 0 (1)"
    assert [entry["layer"] for entry in scores[PER_FOLD, "test", ""].folds] == ["5", "0"]


def test_trials_are_not_pooled() -> None:
    counts = {"block": ["a"], "enroll": [0], "test": [0], "target": [1], "rank": [0]}
    with pytest.raises(ProbeError, match="cannot be pooled"):
        pooled_counts([counts, counts])


def test_a_choice_that_is_not_the_best_of_its_fold_is_found(tmp_path: Path) -> None:
    counts = ratio_counts(["a", "b"], [1, 1], [2, 2])
    folds = [{"fold": name, "value": 0.5, "n": 2, "n_train": 4} for name in ("1", "2")]
    search = [
        {"fold": name, "l2": l2, "dev_accuracy": value}
        for name, values in (("1", (0.5, 0.6)), ("2", (0.9, 0.8)))
        for l2, value in zip((0.1, 1.0), values, strict=True)
    ]
    choices = [1.0, 0.1]
    for right in (True, False):
        chosen = [{"l2": l2} for l2 in (choices if right else reversed(choices))]
        records = [
            with_counts(
                counts,
                split=split,
                search=search,
                folds=[{**fold, "chosen": one} for fold, one in zip(folds, chosen, strict=True)],
            )
            for split in ("dev", "test")
        ]
        write_records(tmp_path / "a.jsonl", records)
        findings = [one.field for one in check_records([tmp_path / "a.jsonl"])[1]]
        assert findings == ([] if right else ["chosen"] * 4)


def test_the_command_line_cross_validates(world: Path, tmp_path: Path) -> None:
    name = task(world, "classify", **QUICK)
    words = ["run", str(name), "--model", "planted", "--corpus", str(world / "corpus.csv")]
    words += ["--from", str(world / "features"), "--to", str(tmp_path), "--folds", "session"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    assert "classify:folds=session" in result.output
