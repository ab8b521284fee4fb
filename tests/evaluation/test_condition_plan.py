"""Tasks under conditions: what is trained on which audio, what is tested on which, and what the
records say of it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from runs import quick, run

from probe.cli import cli
from probe.data.corpus import load_corpus
from probe.data.synthetic import write_synthetic_corpus
from probe.errors import ProbeError
from probe.pipeline import bench
from probe.records import read_records
from probe.reporting.tables.files import write_tables
from tests.planted import extracted

WORDS = ("one", "two", "three", "four")
DIM = 6
NOISE = "noise:white@0dB"
SLOW = "speed:0.5"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """48 utterances of 6 speakers of two sexes, 24 to train on."""
    rows = ["path,text,speaker,domain,split,duration_s,sex,accent"]
    for i in range(48):
        split = ("train", "train", "dev", "test")[i // 4 % 4]
        path = f"u{i}.wav"
        (tmp_path / path).write_bytes(b"x")
        speaker = i % 6
        domain, sex = "near" if speaker < 3 else "far", "FM"[speaker % 2]
        rows.append(f"{path},{WORDS[i % 4]},s{speaker},{domain},{split},,{sex},{i // 4 % 3}")
    manifest = tmp_path / "words.csv"
    manifest.write_text("\n".join(rows) + "\n")
    return manifest


def signal(strength: float, seed: int, n_frames: int = 8) -> list[np.ndarray]:
    """(frame, dim) of the utterances, in which the word is as clear as ``strength`` says."""
    generator = np.random.default_rng(seed)
    codes = 4 * np.random.default_rng(99).standard_normal((4, DIM))
    return [strength * codes[i % 4] + generator.standard_normal((n_frames, DIM)) for i in range(48)]


@pytest.fixture
def features(corpus: Path) -> Path:
    """Layer 0 does not mind the noise; layer 1, a little clearer on clean audio, loses the word in
    it.
    """
    root = corpus.parent / "features"
    extracted(root, {"0": signal(1, 0), "1": signal(1.5, 1)}, corpus)
    extracted(root, {"0": signal(1, 2), "1": signal(0, 3)}, corpus, condition=NOISE)
    return root


def asked(
    corpus: Path, features: Path, task: str = "word-id", *conditions: str, **overrides: Any
) -> Any:
    to = corpus.parent / "results"
    return run(
        quick(task, **overrides), "planted", corpus, features, to, conditions=conditions or None
    )


def values(records: Any, metric: str = "accuracy", **equal: Any) -> dict[str, float]:
    """Layer -> value of the records that agree in ``equal``."""
    rows = read_records(*records.paths)
    rows = rows[(rows["metric"] == metric) & (rows["control"] == "") & (rows["budget"] == "")]
    for name, value in equal.items():
        rows = rows[rows[name] == value]
    assert rows["layer"].is_unique
    return dict(zip(rows["layer"], rows["value"], strict=True))


def test_a_layer_that_does_not_mind_the_noise_keeps_its_score_and_the_other_falls_to_chance(
    corpus: Path, features: Path
) -> None:
    done = asked(corpus, features, "word-id", "clean", NOISE)
    assert [path.name for path in done.paths] == [
        "planted__word-id__words__clean.jsonl",
        next(path.name for path in done.paths if "white" in path.name),
    ]
    clean, noisy = (values(done, condition=name, split="test") for name in ("clean", NOISE))
    assert clean["0"] == clean["1"] == noisy["0"] == 1
    assert noisy["1"] <= 0.6
    # Trained and chosen on clean audio, once: both files hold the same dev scores.
    assert values(done, condition="clean", split="dev") == values(
        done, condition=NOISE, split="dev"
    )
    rows = read_records(*done.paths)
    assert set(rows["train_condition"]) == {"clean"} and set(rows["test_domain"]) == {""}


def test_the_report_says_which_layer_keeps_its_score(corpus: Path, features: Path) -> None:
    done = asked(corpus, features, "word-id", "clean", NOISE)
    write_tables(read_records(*done.paths), corpus.parent, all_measures=True)
    page = (corpus.parent / "robustness_layers.md").read_text(encoding="utf-8")
    marks = {
        cells[1].strip(): cells[2].strip()
        for line in page.splitlines()
        if len(cells := line.split("|")) > 3
    }
    assert "◆" in marks["0"] and not {"◆", "◇"} & set(marks["1"])
    rows = pd.read_csv(corpus.parent / "robustness_layers.csv", dtype={"layer": str})
    lost = rows[rows["condition"] == NOISE].set_index("layer")["margin_lost"]
    assert lost["0"] == 0 and lost["1"] > 0.5
    assert (corpus.parent / "robustness.png").exists()


def test_scores_under_a_condition_are_those_of_the_condition_asked_alone(
    corpus: Path, features: Path
) -> None:
    together = asked(corpus, features, "word-id", "clean", NOISE)
    lines = [path.read_text() for path in together.paths]
    for i, name in enumerate(("clean", NOISE)):
        alone = asked(corpus, features, "word-id", name)
        [path] = alone.paths
        assert path == together.paths[i]
        strip = [{**json.loads(line), "seconds": 0} for line in path.read_text().splitlines()]
        assert strip == [{**json.loads(line), "seconds": 0} for line in lines[i].splitlines()]


def test_controls_of_clean_training_stand_beside_clean_tests_and_others_beside_theirs(
    corpus: Path, features: Path
) -> None:
    for disturb in ("train", "both", "mixed"):
        done = asked(corpus, features, "word-id", NOISE, disturb=disturb, budgets=True)
        rows = read_records(*done.paths)
        assert {"", "majority", "shuffled"} == set(rows["control"]) and set(rows["budget"]) > {""}
    rows = read_records(*asked(corpus, features, "word-id", "clean", NOISE, budgets=True).paths)
    assert {"", "majority", "shuffled"} == set(rows[rows["condition"] == "clean"]["control"])
    assert {"", "majority"} == set(rows[rows["condition"] == NOISE]["control"])
    assert (
        set(rows[rows["condition"] == "clean"]["budget"])
        > {""}
        == set(rows[rows["condition"] == NOISE]["budget"])
    )


def test_trainings_under_different_sets_of_conditions_are_different_questions(
    corpus: Path, features: Path
) -> None:
    both = asked(corpus, features, "word-id", "clean", NOISE, disturb="mixed")
    clean = asked(corpus, features, "word-id", "clean", disturb="mixed")
    other = asked(corpus, features, "word-id", NOISE, "clean", disturb="mixed")
    assert other.paths[1] == both.paths[0] and not set(clean.paths) & set(both.paths)
    tasks, hashes = (
        {getattr(records[0], name) for records in (both.records, clean.records)}
        for name in ("task", "task_sha256")
    )
    assert (
        tasks == {f"word-id:disturb=mixed:conditions=clean,{NOISE}", "word-id:disturb=mixed"}
        and len(hashes) == 2
    )
    # With a test, or a training, of its own a condition changes nothing of the others.
    for disturb in ("test", "both"):
        some, more = (
            asked(corpus, features, "word-id", *names, disturb=disturb)
            for names in (("clean",), ("clean", NOISE))
        )
        assert some.paths[0] == more.paths[0]
        assert some.records[0].task_sha256 == more.records[0].task_sha256


@pytest.mark.parametrize(
    ("disturb", "train", "test"),
    [("train", NOISE, "clean"), ("both", NOISE, NOISE), ("mixed", "several", NOISE)],
)
def test_a_task_says_which_rows_are_disturbed(
    corpus: Path, features: Path, disturb: str, train: str, test: str
) -> None:
    done = asked(corpus, features, "word-id", "clean", NOISE, disturb=disturb)
    found = values(done, train_condition=train, condition=test, split="test")
    # Layer 1 has no word in its noisy rows: nothing can be learnt from them, nor read in them.
    assert found["0"] == 1 and found["1"] <= 0.6
    rows = read_records(*done.paths)
    pairs = set(zip(rows["train_condition"], rows["condition"], strict=True))
    assert (
        pairs
        == {
            "train": {("clean", "clean"), (NOISE, "clean")},
            "both": {("clean", "clean"), (NOISE, NOISE)},
            "mixed": {("several", "clean"), ("several", NOISE)},
        }[disturb]
    )
    assert len(done.paths) == len(set(done.paths)) == 2
    n_train = set(
        rows[(rows["layer"] == "0") & (rows["control"] == "") & (rows["budget"] == "")]["n_train"]
    )
    assert n_train == {48 if disturb == "mixed" else 24}


def test_conditions_can_be_the_domains_of_a_matrix(
    corpus: Path, features: Path, tmp_path: Path
) -> None:
    path = tmp_path / "noise-shift.toml"
    path.write_text(
        f'kind = "shift"\nof = "word-id"\nacross = "condition"\nconditions = ["clean", "{NOISE}"]\n'
    )
    done = asked(corpus, features, str(path))
    [name] = {path.name for path in done.paths}
    assert name == "planted__noise-shift__words__several.jsonl"
    found = {
        (train, test): values(done, train_domain=train, test_domain=test, split="test")
        for train in ("clean", NOISE)
        for test in ("clean", NOISE)
    }
    assert all(cell["0"] == 1 for cell in found.values())
    assert found["clean", "clean"]["1"] == 1
    assert max(cell["1"] for place, cell in found.items() if NOISE in place) <= 0.6
    with pytest.raises(
        ProbeError, match=r"domains 'clean'; expected two or more conditions, such as --condition"
    ):
        asked(corpus, features, str(path), "clean")


def test_how_much_of_the_condition_a_layer_holds(corpus: Path, features: Path) -> None:
    """The condition as the label: only layer 1 can tell, which the noise empties."""
    task = corpus.parent / "which.toml"
    task.write_text(
        'kind = "classify"\nlabel = "condition"\ndisturb = "mixed"\nconditions = ["clean", '
        '"noise:white@0dB"]\n'
    )
    done = asked(corpus, features, str(task))
    found = values(done, split="test")
    assert found["1"] >= 0.85 and found["0"] <= 0.75
    rows = read_records(*done.paths)
    assert set(rows["condition"]) == set(rows["train_condition"]) == {"several"}
    tested = rows[(rows["split"] == "test") & (rows["layer"] == "0") & (rows["control"] == "")]
    assert set(tested["n"]) == {24}


def test_stored_features_of_each_condition_belong_to_the_recipe(
    corpus: Path, features: Path
) -> None:
    rows = read_records(*asked(corpus, features, "word-id", "clean", NOISE).paths)
    of = rows.groupby("condition")["recipe"].agg(set)
    assert len(of["clean"]) == len(of[NOISE]) == 1 and of["clean"] != of[NOISE]
    both = read_records(*asked(corpus, features, "word-id", NOISE, disturb="both").paths)
    [noisy_alone] = set(both["recipe"])
    assert noisy_alone not in of["clean"] | of[NOISE]


def test_a_condition_without_features_is_named(corpus: Path, features: Path) -> None:
    with pytest.raises(
        ProbeError,
        match=r"no features of planted that give meanstd \(telephone\); found .*noise:white@0dB",
    ):
        asked(corpus, features, "word-id", "clean", "telephone")
    extracted(features, {"0": signal(1, 0)}, corpus, condition="telephone")
    with pytest.raises(
        ProbeError, match=r"layers 0; .* has 0, 1\. Extract all conditions with the same --layers"
    ):
        asked(corpus, features, "word-id", "clean", "telephone")


def test_groups_of_blocks_are_columns_in_which_every_speaker_has_one_value(
    corpus: Path, features: Path
) -> None:
    rows = read_records(*asked(corpus, features, "word-id", "clean", NOISE).paths)
    for row in rows[(rows["split"] == "test") & (rows["control"] == "")].itertuples():
        assert set(row.groups) == {"sex", "domain"}  # accents change within a speaker
        assert len(row.groups["sex"]) == len(row.counts["block"]) == 6
        assert sorted(row.groups["sex"]) == ["F", "F", "F", "M", "M", "M"]
    assert not any(rows[rows["split"] == "dev"]["groups"].map(bool))


def test_a_finished_file_is_not_written_again_and_a_missing_condition_is_added(
    corpus: Path, features: Path, at_commit: Callable[[str], None]
) -> None:
    at_commit("abc")

    def again(*conditions: str) -> tuple[list[Path], list[int]]:
        to = corpus.parent / "results"
        done = run(
            *(quick("word-id"), "planted", corpus, features, to), conditions=conditions, again=False
        )
        return done.paths, [path.stat().st_mtime_ns for path in done.paths]

    _, first = again("clean")
    paths, second = again("clean", NOISE)
    assert len(paths) == 2
    assert again("clean", NOISE)[1] == second
    assert first[0] < second[0]  # trained anew, as the missing condition's heads had to be


def test_labels_over_time_follow_a_sound_that_lasts_longer(corpus: Path) -> None:
    """At half the speed every frame has a neighbour with its label, at twice its time."""
    root = corpus.parent / "features"
    generator = np.random.default_rng(0)
    codes = 4 * generator.standard_normal((2, DIM))

    def two_halves(n_frames: int, seed: int) -> list[np.ndarray]:
        noise = np.random.default_rng(seed)
        return [
            codes[(np.arange(n_frames) >= n_frames // 2).astype(int)]
            + noise.standard_normal((n_frames, DIM))
            for _ in range(48)
        ]

    extracted(root, {"0": two_halves(20, 0)}, corpus)
    recipe = {
        "condition": SLOW,
        "disturbance": {"text": SLOW, "seed": None, "stretch": 2.0, "steps": []},
    }
    extracted(root, {"0": two_halves(40, 1)}, corpus, **recipe)
    intervals = corpus.parent / "halves.csv"
    lines = [
        f"u{i}.wav,{start},{start + 0.2:.2f},{label}"
        for i in range(48)
        for start, label in ((0.0, "a"), (0.2, "b"))
    ]
    intervals.write_text("path,start,end,label\n" + "\n".join(lines) + "\n")
    task = corpus.parent / "halves.toml"
    task.write_text('kind = "frames"\nlabels = "halves.csv"\ncontrols = []\nweighted = false\n')
    done = run(task, "planted", corpus, root, corpus.parent / "results", conditions=["clean", SLOW])
    clean, slow = (values(done, condition=name, split="test")["0"] for name in ("clean", SLOW))
    assert clean > 0.9 and slow > 0.9


def test_an_utterance_is_left_out_once_under_however_many_conditions(
    corpus: Path, features: Path
) -> None:
    manifest = corpus.with_name("gaps.csv")
    lines = corpus.read_text().splitlines()
    lines[13:15] = [
        line.replace(",one,", ",,").replace(",two,", ",,") for line in lines[13:15]
    ]  # of the test rows
    manifest.write_text("\n".join(lines) + "\n")
    rows = read_records(*asked(manifest, features, "word-id", "clean", NOISE).paths)
    assert [row for row in rows["excluded"] if row != {"no text": 2}] == []


@pytest.mark.nightly
def test_a_bench_extracts_what_its_tasks_hear_and_no_more(tmp_path: Path) -> None:
    """Under noise the test rows alone, as heads are trained on clean audio; everything where
    training is disturbed too.
    """
    made = write_synthetic_corpus(tmp_path / "audio")
    task = tmp_path / "words.toml"
    task.write_text(
        'kind = "classify"\nlabel = "text"\ncontrols = []\nconditions = ["clean", '
        '"noise:white@10.0dB"]\n'
    )
    done = bench(["mfcc"], [task], made.words, tmp_path / "out")
    rows = read_records(tmp_path / "out" / "results")
    assert set(rows["condition"]) == {"clean", "noise:white@10dB"} and not done.refused
    n = {
        split: sum(item.split == split for item in load_corpus(made.words).utterances)
        for split in ("train", "dev", "test")
    }
    assert [item.extracted for item in done.extractions] == [sum(n.values()), n["test"]]
    both = tmp_path / "both.toml"
    both.write_text(task.read_text() + 'disturb = "both"\n')
    done = bench(["mfcc"], [both], made.words, tmp_path / "out")
    assert [item.extracted for item in done.extractions] == [0, n["train"] + n["dev"]]
    asked_for = [
        "bench",
        "--model",
        "mfcc",
        "--task",
        str(task),
        "--corpus",
        str(made.words),
        "--to",
        str(tmp_path / "out"),
    ]
    result = CliRunner().invoke(cli, [*asked_for, "--disturb", "both"])
    assert result.exit_code == 0, result.output
    assert {"words:disturb=both", "both"} <= set(read_records(tmp_path / "out" / "results")["task"])
    with pytest.raises(ProbeError, match=r"no features of mfcc that give meanstd \(telephone\)"):
        run(
            "word-id",
            "mfcc",
            made.words,
            tmp_path / "out" / "features",
            tmp_path / "r",
            conditions=["telephone"],
        )


def test_rows_that_were_not_extracted_under_a_condition_are_named(
    corpus: Path, features: Path
) -> None:
    """All of the corpus is not needed: what is heard is."""
    part = corpus.with_name("part.csv")
    lines = corpus.read_text().splitlines()
    part.write_text(
        "\n".join([lines[0], *(line for line in lines[1:] if ",test," in line)][:-2]) + "\n"
    )
    extracted(
        features, {"0": signal(1, 0)[:10], "1": signal(1, 1)[:10]}, part, condition="telephone"
    )
    with pytest.raises(
        ProbeError, match=r"2 of 12 utterances of words have no features \(u46.wav, u47.wav\)"
    ):
        asked(corpus, features, "word-id", "telephone")
