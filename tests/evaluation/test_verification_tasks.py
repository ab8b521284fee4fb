"""Kind ``verify``: every backend on planted speakers, normalisation, what is fitted on what, what
the records say.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exhaustive import mostly_nightly
from planted import extracted
from runs import run

from probe.data.corpus import load_corpus
from probe.data.trials import load_trials
from probe.errors import ProbeError
from probe.evaluation.dataset import Features, Problem
from probe.evaluation.kinds import verify
from probe.evaluation.kinds.verification_backends import Voices
from probe.evaluation.run import Run
from probe.evaluation.tasks import open_task
from probe.measures.calibration import calibration
from probe.measures.counts import value_of
from probe.measures.detection import DEFINITIONS
from probe.measures.uncertainty import interval
from probe.records import Record, iterate_records
from probe.store.stores import select_store

DIM, N_EACH = 12, 4
SPLITS = {"train": 30, "dev": 10, "test": 10}
COSTS = ("min_dcf_0.01", "min_dcf_0.05", "cllr", "min_cllr")
POOLED = ["cosine", "cosine-standardised", "lda", "plda", "am-softmax"]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus whose speakers differ in four dimensions, under noise that is strong in the others;
    layer ``0`` is noise alone.

    In the features of ``loud`` the means say nothing.
    """
    folder = tmp_path_factory.mktemp("verify")
    generator = np.random.default_rng(0)
    lines, layers = ["path,text,speaker,domain,split,duration_s"], {"0": [], "1": []}
    loud: list[np.ndarray] = []
    for split, n_speakers in SPLITS.items():
        for number in range(n_speakers):
            voice = np.append(generator.normal(size=4), np.zeros(DIM - 4))
            for take in range(N_EACH):
                name = f"{split}-{number}-{take}.wav"
                (folder / name).write_bytes(name.encode())
                lines.append(f"{name},,{split}{number},,{split},")
                noise = generator.normal(size=DIM) * np.where(np.arange(DIM) < 4, 0.2, 1.5)
                n_frames = int(generator.integers(16, 30))
                layers["0"].append(generator.normal(size=(n_frames, DIM)))
                loud.append(generator.normal(size=(n_frames, 4)) * np.exp(1.5 * voice[:4]))
                layers["1"].append(voice + noise + 0.2 * generator.normal(size=(n_frames, DIM)))
    (folder / "corpus.csv").write_text("\n".join(lines) + "\n")
    extracted(folder / "features", layers, folder / "corpus.csv", per_shard=50)
    extracted(folder / "loud", {"0": loud}, folder / "corpus.csv", per_shard=50)
    for split in ("dev", "test"):
        rows = [
            f"{int(a == b)} {split}-{a}-{i}.wav {split}-{b}-{j}.wav"
            for a in range(10)
            for b in range(10)
            for i, j in ((0, 1), (2, 3), (1, 3))
        ]
        (folder / f"{split}.txt").write_text("\n".join(rows) + "\n")
    return folder


def task_of(tmp_path: Path, **keys: Any) -> Path:
    path = tmp_path / "own.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        "\n".join(['kind = "verify"', *(f"{key} = {_toml(value)}" for key, value in keys.items())])
        + "\n"
    )
    return path


def _toml(value: Any) -> str:
    return repr(value) if not isinstance(value, str) else f'"{value}"'


def ran(planted: Path, tmp_path: Path, **keys: Any) -> Run:
    lists = {"trials": planted / "test.txt", "dev_trials": planted / "dev.txt"}
    task = task_of(tmp_path, **({"view": "mean"} | keys))
    return run(
        task, "planted", planted / "corpus.csv", planted / "features", tmp_path / "results", **lists
    )


def values(
    records: list[Record], metric: str = "eer", control: str = "", split: str = "test"
) -> dict[tuple[str, str], float]:
    kept = [
        r
        for r in records
        if (r.metric, r.control, r.split) == (metric, control, split) and r.value is not None
    ]
    return {(r.head, r.layer): r.value for r in kept}


@pytest.fixture(scope="module")
def answered(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return ran(planted, tmp_path_factory.mktemp("answered"), backends=POOLED, epochs=20)


def test_what_learns_from_speakers_finds_the_planted_layer_and_beats_what_does_not(
    answered: Run,
) -> None:
    found = values(answered.records)
    assert set(found) == {(head, layer) for head in POOLED for layer in "01"}
    for head in ("lda", "plda", "am-softmax"):
        assert found[head, "1"] < found["cosine-standardised", "1"] - 0.05
    assert min(value for (_, layer), value in found.items() if layer == "0") > 0.25
    assert found["plda", "1"] <= 0.15


def test_shuffled_answers_are_at_chance(answered: Run) -> None:
    for value in values(answered.records, control="shuffled").values():
        assert 0.3 < value < 0.7


def test_every_metric_can_be_recomputed_from_the_record_and_says_its_definition(
    answered: Run,
) -> None:
    read = list(iterate_records(answered.path))
    assert {record.metric for record in read} == {"eer", *COSTS}
    for record in read:
        if record.counts:
            assert record.value == value_of(record.counts, record.metric)
            ends = interval(record.counts, record.metric) or (None, None)
            assert (record.low, record.high) == ends
        assert record.chosen["definition"] == DEFINITIONS[record.metric]
        assert (record.n, record.select_by, record.higher_is_better) == (300, "eer", False)
        assert record.n_blocks == (10 if record.counts else 0)


def test_a_min_dcf_of_fewer_than_ten_expected_false_acceptances_has_no_value(answered: Run) -> None:
    """The lists have 270 non-targets: 200 and 1,000 are needed."""
    notes = {
        metric: {(r.value is None, r.note) for r in answered.records if r.metric == metric}
        for metric in ("eer", "min_dcf_0.05", "min_dcf_0.01")
    }
    assert notes["eer"] == notes["min_dcf_0.05"] == {(False, "")}
    assert notes["min_dcf_0.01"] == {(True, "270 non-target trials; min_dcf_0.01 needs 1,000")}


def test_cllr_is_of_scores_that_are_calibrated_on_dev_and_kept(answered: Run) -> None:
    of_place: dict[tuple[str, str, str], dict[str, Record]] = {}
    for record in iterate_records(answered.path):
        if record.metric == "cllr":
            place = (record.head, record.layer, record.control)
            of_place.setdefault(place, {})[record.split] = record
    assert len(of_place) == len(POOLED) * 2 * 2
    for dev, test in (both.values() for both in of_place.values()):
        scores = np.asarray(dev.counts["score"])[dev.counts["rank"]]
        fitted = calibration(dev.counts["target"], scores)
        assert test.counts["calibration"] == dev.counts["calibration"] == pytest.approx(fitted)
    planted_layer = [r for (_, layer, _), r in of_place.items() if layer == "1"]
    assert max(both["test"].value or 9 for both in planted_layer if not both["test"].control) < 1
    lowest = values(answered.records, "min_cllr")
    assert all(
        lowest[head, layer] <= (of_place[head, layer, ""]["test"].value or 0) + 1e-6
        for head, layer in lowest
    )
    outcomes = answered.path.parent / "outcomes" / answered.path.name
    said = [json.loads(line) for line in outcomes.read_text().splitlines()]
    assert {line["head"] for line in said} == set(POOLED)
    for head in POOLED:
        lines = [line for line in said if line["head"] == head]
        counts = of_place[head, lines[0]["layer"], ""]["test"].counts
        kept = np.asarray(counts["score"])[counts["rank"]]
        np.testing.assert_array_equal(kept, np.float32([line["score"] for line in lines]))


def test_a_list_of_trials_is_written_once(answered: Run) -> None:
    lines = answered.path.read_text().splitlines()
    assert len(lines) == len(POOLED) * 2 * 2 * 2 * 5
    assert sum('"enroll":"e' in line for line in lines) == 2, "one for dev, one for test"
    assert sum('"rank":"e' in line for line in lines) <= len(lines) / 3


def test_the_search_of_a_trained_head_is_in_the_record_and_dev_picks_from_it(answered: Run) -> None:
    own = [
        r
        for r in answered.records
        if r.head == "am-softmax" and not r.control and r.split == "dev" and r.metric == "eer"
    ]
    for record in own:
        grid = [(entry["learning_rate"], entry["epochs"]) for entry in record.search]
        assert grid == [
            (rate, epochs) for rate in (1e-2, 3e-3, 1e-3) for epochs in (4, 8, 12, 16, 20)
        ]
        best = min(record.search, key=lambda entry: entry["dev_eer"])
        assert record.value == best["dev_eer"]
        assert {name: record.chosen[name] for name in ("learning_rate", "epochs")} == {
            name: best[name] for name in ("learning_rate", "epochs")
        }
    assert not any(r.search for r in answered.records if r.head != "am-softmax")


def test_the_headline_is_plda_or_what_the_task_says(
    planted: Path, tmp_path: Path, answered: Run
) -> None:
    assert {r.head for r in answered.records if r.headline} == {"plda"}
    other = ran(planted, tmp_path, backends=["cosine", "lda"], headline="lda", controls=[])
    assert {r.head for r in other.records if r.headline} == {"lda"}


@pytest.mark.parametrize(
    ("n_speakers", "n_single", "backends", "expected"),
    [
        (10, 0, ["cosine", "cosine-standardised", "lda", "plda"], "plda"),
        (9, 0, ["cosine", "cosine-standardised", "lda", "plda"], "cosine"),
        (9, 5, ["cosine", "plda"], "cosine"),
        (0, 0, ["lda", "plda"], "lda"),
        (10, 0, ["lda", "cosine"], "cosine"),
        (10, 0, ["cosine-standardised", "lda"], "cosine-standardised"),
    ],
)
def test_without_ten_speakers_of_two_utterances_the_headline_is_the_cosine(
    planted: Path, n_speakers: int, n_single: int, backends: list[str], expected: str
) -> None:
    train = [u for u in load_corpus(planted / "corpus.csv").utterances if u.split == "train"]
    several = [u for u in train if int(u.speaker.removeprefix("train")) < n_speakers]
    rest = [u for u in train if u not in several]
    assert verify.usual_headline(backends, [*several, *rest[::4][:n_single]]) == expected


def test_the_convex_hull_is_a_metric_of_its_own(
    planted: Path, tmp_path: Path, answered: Run
) -> None:
    done = ran(planted, tmp_path, backends=["cosine"], eer="convex-hull", controls=[])
    assert {(r.metric, r.select_by) for r in done.records} == {
        (name, "eer_hull") for name in ("eer_hull", *COSTS)
    }
    polygon = values(answered.records)
    assert all(value <= polygon[place] for place, value in values(done.records, "eer_hull").items())
    assert {r.chosen["definition"] for r in done.records if r.metric == "eer_hull"} == {
        "convex hull of the ROC"
    }


# Normalisation


@pytest.mark.parametrize(("how", "top"), [("s-norm", 200), ("as-norm", 7), ("as-norm", 500)])
def test_normalised_scores_are_those_of_a_plain_loop(how: str, top: int) -> None:
    generator = np.random.default_rng(1)
    voices = Voices(generator.normal(size=(6, 5)), generator.normal(size=6))
    cohort = Voices(generator.normal(size=(40, 5)), generator.normal(size=40))
    mean, deviation = voices.against(cohort, top if how == "as-norm" else 40)
    for i in range(6):
        scores = [
            float(voices.vectors[i] @ cohort.vectors[j] + voices.offsets[i] + cohort.offsets[j])
            for j in range(40)
        ]
        kept = sorted(scores)[-min(top, 40) :] if how == "as-norm" else scores
        assert (mean[i], deviation[i]) == (
            pytest.approx(np.mean(kept)),
            pytest.approx(np.std(kept)),
        )


@pytest.mark.parametrize("how", mostly_nightly(["s-norm", "as-norm"], ["as-norm"]))
def test_scores_are_normalised_on_both_sides_with_speakers_of_no_trial(
    planted: Path, tmp_path: Path, how: str
) -> None:
    done = ran(
        planted, tmp_path, backends=POOLED, normalise=how, cohort_top=20, epochs=5, controls=[]
    )
    found = values(done.records)
    assert found["plda", "1"] <= 0.2
    chosen = done.records[0].chosen
    top = 120 if how == "s-norm" else 20
    assert (chosen["normalise"], chosen["cohort"], chosen["cohort_top"]) == (how, 120, top)
    outcomes = (tmp_path / "results" / "outcomes" / done.path.name).read_text()
    corpus = load_corpus(planted / "corpus.csv")
    store = select_store(
        planted / "features", "planted", "mean", keys=[item.key for item in corpus.utterances]
    )
    features = Features({"clean": store}, "mean", corpus)
    rows = {
        item.key: features.read("1", [item]).values[0].astype(float) for item in corpus.utterances
    }
    unit = {key: row / np.linalg.norm(row) for key, row in rows.items()}
    train = np.stack([unit[item.key] for item in corpus.utterances if item.split == "train"])
    first, second = "test-0-0.wav", "test-3-1.wav"
    parts = []
    for key in (first, second):
        against = np.sort(train @ unit[key])[-top:]
        parts.append((unit[first] @ unit[second] - against.mean()) / against.std())
    expected = sum(parts) / 2
    said = [
        line
        for line in outcomes.splitlines()
        if f'"enroll": "{first}", "test": "{second}"' in line and '"cosine"' in line
    ]
    assert len(said) == 1
    assert f"{expected:.9f}"[:8] in said[0]


def test_without_a_cohort_the_reason_stands_in_the_record(planted: Path, tmp_path: Path) -> None:
    few = tmp_path / "corpus.csv"
    lines = (planted / "corpus.csv").read_text().splitlines()
    few.write_text(
        "\n".join(
            line
            for line in lines
            if "train-" not in line or "train-0-" in line or "train-1-" in line
        )
        + "\n"
    )
    for line in few.read_text().splitlines()[1:]:
        (tmp_path / line.split(",")[0]).symlink_to(planted / line.split(",")[0])
    task = task_of(
        tmp_path, view="mean", backends=["cosine", "plda"], normalise="s-norm", controls=[]
    )
    lists = {}
    for split in ("dev", "test"):
        (tmp_path / f"{split}.txt").write_text((planted / f"{split}.txt").read_text())
        lists[split] = tmp_path / f"{split}.txt"
    done = run(
        task,
        "planted",
        few,
        planted / "features",
        tmp_path / "r",
        trials=lists["test"],
        dev_trials=lists["dev"],
    )
    notes = {r.head: r.note for r in done.records}
    assert notes["cosine"] == "8 training utterances of speakers in no trial; s-norm needs 10"
    assert notes["plda"] == "2 training speakers occur in no trial; PLDA needs 10"
    assert all(r.value is None for r in done.records)


# What is fitted on what


def problem_of(planted: Path, **changed: Any) -> tuple[Problem, Features]:
    corpus = load_corpus(planted / "corpus.csv")
    store = select_store(
        planted / "features", "planted", "mean", keys=[item.key for item in corpus.utterances]
    )
    train = [item for item in corpus.utterances if item.split == "train"]
    dev, test = (load_trials(planted / f"{split}.txt", corpus).trials for split in ("dev", "test"))
    return Problem(train, [], {}, dev, {"": test}, **changed), Features(
        {"clean": store}, "mean", corpus
    )


def scores_of(
    task: Path, problem: Problem, features: Features
) -> dict[tuple[str, str, str, str, str], float | None]:
    found = verify.run(open_task(task), problem, features)
    return {(s.head, s.layer, s.split, s.test_domain, s.metric): s.value for s in found}


def test_speakers_of_trials_teach_nothing_and_are_counted(planted: Path, tmp_path: Path) -> None:
    task = task_of(tmp_path, view="mean", backends=["cosine", "lda", "plda"], controls=[])
    problem, features = problem_of(planted)
    speaker = problem.trials[""][0].enroll.speaker
    taken = [
        replace(item, speaker=speaker) if item.speaker == "train0" else item
        for item in problem.train
    ]
    nameless = [replace(item, speaker="") if item.speaker == "train1" else item for item in taken]
    scores = list(verify.run(open_task(task), replace(problem, train=nameless), features))
    by_head = {score.head: score for score in scores}
    assert (
        by_head["plda"].excluded
        == by_head["lda"].excluded
        == {"speaker in a trial": 4, "no speaker": 4}
    )
    assert by_head["plda"].n_train == 112
    assert by_head["cosine"].excluded == {}
    without = [item for item in problem.train if item.speaker not in ("train0", "train1")]
    kept = verify.run(open_task(task), replace(problem, train=without), features)
    # LDA and PLDA differ by the standardiser alone, which reads all training rows.
    assert {s.head: s.n_train for s in kept} == {"cosine": 0, "lda": 112, "plda": 112}


def test_test_trials_have_no_influence_on_dev_nor_on_each_other(
    planted: Path, tmp_path: Path
) -> None:
    task = task_of(tmp_path, view="mean", backends=["plda", "am-softmax"], epochs=4, controls=[])
    problem, features = problem_of(planted)
    whole = scores_of(task, problem, features)
    part = problem.trials[""][:60]
    named = scores_of(task, replace(problem, trials={"a": part, "b": problem.trials[""]}), features)
    for (head, layer, split, name, metric), value in whole.items():
        assert named[head, layer, split, "b" if split == "test" else name, metric] == value
    assert named["plda", "1", "test", "a", "eer"] is not None


def test_ends_heard_under_another_condition_are_read_under_it(
    planted: Path, tmp_path: Path
) -> None:
    task = task_of(tmp_path, view="mean", backends=["cosine"], controls=[])
    problem, features = problem_of(planted)
    clean = problem.trials[""]
    noisy = [replace(trial, test=replace(trial.test, condition="noise")) for trial in clean]

    class Heard(Features):
        """Under noise every utterance is the same vector but for a little."""

        def read(self, layer: str, utterances: Any) -> Any:
            array = super().read(layer, utterances)
            heard = np.array([item.condition == "noise" for item in utterances])
            return replace(
                array,
                values=np.where(heard[:, None], np.arange(DIM) - array.values / 50, array.values),
            )

    other = Heard(
        {"clean": features.store, "noise": features.store},
        "mean",
        load_corpus(planted / "corpus.csv"),
    )
    found = scores_of(task, replace(problem, trials={"": clean, "noise": noisy}), other)
    plain = scores_of(task, problem, features)
    assert found["cosine", "1", "test", "", "eer"] == plain["cosine", "1", "test", "", "eer"]
    assert (
        abs(found["cosine", "1", "test", "noise", "eer"] - plain["cosine", "1", "test", "", "eer"])
        > 0.05
    )  # type: ignore[operator]


def test_an_x_vector_learns_from_frames_whether_they_are_held_or_not(
    planted: Path, tmp_path: Path
) -> None:
    keys: Mapping[str, Any] = {
        "embedding": 64,
        "epochs": 20,
        "learning_rates": [1e-3],
        "batch_size": 20,
        "crop_s": 0.32,
    }
    task = task_of(
        tmp_path, view="frames", backends=["xvector"], scale=15.0, margin=0.1, controls=[], **keys
    )
    means = task_of(tmp_path / "means", view="mean", backends=["cosine"], controls=[])
    corpus, lists = (
        planted / "corpus.csv",
        {"trials": planted / "test.txt", "dev_trials": planted / "dev.txt"},
    )
    held, read, deaf = (
        run(
            asked,
            "planted",
            corpus,
            planted / "loud",
            tmp_path / name,
            memory_bytes=memory_bytes,
            **lists,
        )
        for name, asked, memory_bytes in (
            ("a", task, 4 << 30),
            ("b", task, 1),
            ("c", means, 4 << 30),
        )
    )
    assert values(held.records)["xvector", "0"] < values(deaf.records)["cosine", "0"] - 0.1
    assert {r.headline for r in held.records} == {True}
    assert [(r.value, r.search, r.statistics) for r in held.records] == [
        (r.value, r.search, r.statistics) for r in read.records
    ]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"view": "frames"},
            r"own.toml: backends: found \('cosine', .*'plda'\); expected backends that read view = "
            r"'frames': xvector needs 'frames'",
        ),
        (
            {"backends": ["lda", "xvector"]},
            r"backends: found \['lda', 'xvector'\]; expected backends that read view = 'meanstd': "
            r"xvector needs 'frames', .*make it two tasks",
        ),
        (
            {"backends": ["lda"], "headline": "plda"},
            "headline: found 'plda'; expected one of the task's backends: lda",
        ),
        ({"eer": "nearest"}, "eer: found 'nearest'; expected 'interpolated' or 'convex-hull'"),
        (
            {"normalise": "t-norm"},
            "normalise: found 't-norm'; expected 'none', 's-norm' or 'as-norm'",
        ),
        ({"plda_input": "raw"}, "plda_input: found 'raw'; expected 'lda' or 'whitening'"),
        ({"cohort_top": 1}, "cohort_top: found 1; expected 2 or more"),
        ({"margin": -1.0}, "margin: found -1.0; expected 0.0 or more"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    tmp_path: Path, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(ProbeError, match=message):
        open_task(task_of(tmp_path, **keys))


def test_voices_in_both_lists_are_named(
    planted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ran(planted, tmp_path, backends=["cosine"], controls=[])
    assert "speakers are in" not in caplog.text
    more = tmp_path / "dev.csv"
    both = (
        "enroll,test,label\n{0}/test-0-0.wav,{0}/test-0-2.wav,1\n"
        "{0}/dev-0-0.wav,{0}/test-0-1.wav,0\n"
    )
    more.write_text(both.format(planted))
    task, lists = (
        task_of(tmp_path, view="mean", backends=["cosine"]),
        {"trials": planted / "test.txt", "dev_trials": more},
    )
    run(task, "planted", planted / "corpus.csv", planted / "features", tmp_path / "r", **lists)
    assert (
        "dev: 1 speakers are in test too (test0): the layer is chosen on voices that are reported"
        in caplog.text
    )
