"""The report: what it says, and that the page works in a browser, with hostile names too."""

import base64
import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, Browser, browser
from click.testing import CliRunner
from test_tables import crossing, curve, frame, plain, record

import probe
from probe.cli import cli
from probe.records import Record, outcomes_path, read_records, write_records
from probe.reporting.report.page import content, page, write_report
from probe.reporting.report.summary import answers, headline
from probe.reporting.report.utterances import WORST, error_rows, outcome_faults
from probe.reporting.scores import Scores
from probe.reporting.text import one_line
from probe.reporting.ties import BEST, IN_SET

HOSTILE = [
    "<script>window.hacked=1</script>",
    "</script><script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "<svg/onload=window.hacked=1>",
    "<iframe srcdoc='<script>parent.hacked=1</script>'>",
    "<style>*{display:none}</style>",
    "<base href=//evil.example>",
    "<meta http-equiv=refresh content=0>",
    "<a href=javascript:window.hacked=1>x</a>",
    "javascript:window.hacked=1",
    "<!--",
    "--><b>",
    "]]>",
    "&lt;b&gt;&amp;&#60;",
    '"><b onmouseover=window.hacked=1>',
    "' onfocus='window.hacked=1' autofocus='",
    "`${window.hacked=1}`",
    "${window.hacked=1}",
    "{{script}}",
    "{{data}}",
    "\\u003cscript\\u003e",
    "\\",
    "__proto__",
    "constructor",
    "(mean)",
    "\u202egnp.exe",
    "line\u2028end\u2029and\nmore\r\n",
    "nul\0 bell\a esc\x1b[31m",
    "$(touch x); `id` | rm -rf *",
    "x" * 300,
    "שלום עולם مرحبا",
]


def chosen_of(records: pd.DataFrame) -> pd.DataFrame:
    return Scores.of(records).chosen()


def asked(model: str, task: str, values: list[float], **changed: Any) -> list[Record]:
    """A curve, with what chance gives beside it."""
    chance = record(
        model=model,
        task=task,
        layer="none",
        layer_index=-1,
        control="majority",
        value=0.1,
        **changed,
    )
    return [*curve(values, values, model=model, task=task, **changed), chance]


def counted(item: Record) -> Record:
    """A record with counts of ten speakers that give its value."""
    share = [round(10 * (item.value or 0.0))] * 10
    counts = {
        "block": [f"{number:012x}" for number in range(10)],
        "numerator": share,
        "denominator": [10] * 10,
    }
    return Record(**{**asdict(item), "counts": counts})


def disturbed() -> list[Record]:
    """Two models heard clean, over the telephone and in noise; ten speakers."""
    heard = {"clean": 0.0, "telephone": 0.2, "noise:babble@10dB": 0.3}
    return [
        counted(item)
        for model, values in (("org/a", [0.5, 0.9, 0.7]), ("org/b", [0.4, 0.6, 0.5]))
        for condition, lost in heard.items()
        for item in asked(model, "words", [value - lost for value in values], condition=condition)
    ]


def outcomes_beside(folder: Path, records: list[Record], lines: list[dict[str, Any]]) -> None:
    """Writes records and outcomes as `probe run` does."""
    write_records(folder / "a.jsonl", records)
    (folder / "outcomes").mkdir(exist_ok=True)
    head = {"layer": "1", "head": records[0].head, "train_domain": "", "test_domain": ""}
    (folder / "outcomes" / "a.jsonl").write_text(
        "".join(json.dumps(head | line) + "\n" for line in lines)
    )


def in_words(answer: dict[str, Any]) -> str:
    return " ".join([*answer["lead"], *answer["more"]])


def test_records_of_all_heads_are_counted_and_those_of_headline_heads_are_scored() -> None:
    headline_records = asked("org/a", "words", [0.5, 0.9, 0.7])
    other = record(model="org/a", task="words", head="cosine", headline=False, n=300)
    data = content(frame(*headline_records, other))
    assert data["n_records"] == sum(data["code"]["records"]) == len(headline_records) + 1
    assert 300 in data["corpora"]["n"]
    assert set(data["scores"]["head"]) == {"linear"}


def test_the_page_says_which_models_are_baselines_and_what_its_metric_is() -> None:
    error: dict[str, Any] = {"metric": "cer", "select_by": "cer", "higher_is_better": False}
    found = content(
        frame(
            *(
                item
                for name in ("fbank", "random:org/a")
                for item in asked(name, "words", [0.5] * 3, **error)
            )
        )
    )
    assert found["baselines"].endswith(
        "fbank (filter banks), computed without a network; random, the architecture with "
        "random weights."
    )
    assert found["answers"][0]["about"].startswith("Character error rate (cer): lower is better.")
    assert content(frame(*asked("org/fbank", "words", [0.5] * 3)))["baselines"] == ""


def test_the_answer_names_the_best_model_its_layer_the_next_and_who_is_near_chance() -> None:
    records = [
        *asked("org/a", "words", [0.5, 0.9, 0.7], n_blocks=10),
        *asked("org/b", "words", [0.4, 0.6, 0.5], n_blocks=10),
        *asked("org/c", "words", [0.1, 0.12, 0.1], n_blocks=10),
    ]
    rows = chosen_of(frame(*records))
    rows["mark"] = np.where(
        rows["model"] == "org/a", BEST, ""
    )  # counts of one kind for all would tie them
    rows["chance"] = np.where(rows["model"] == "org/c", "at chance", "")
    (answer,) = answers(rows)
    assert in_words(answer).strip() == (
        "org/a (layer 1) scores best. Its last layer (2) scores 70.0 %. "
        "org/b (layer 1) follows with 60.0 % [55.0, 65.0]. "
        "Not significantly better than chance: org/c."
    )
    assert answer["score"] == ["90.0 %", "[85.0, 95.0]"]
    assert (
        answer["about"]
        == "Accuracy: higher is better. The scores rest on 200 items of 10 blocks (such as "
        "speakers)."
    )
    assert answer["caution"].startswith("Only 10 blocks (such as speakers): the intervals")


def test_the_answer_names_what_its_blocks_are() -> None:
    records = asked("org/a", "words", [0.5, 0.9, 0.7], n_blocks=10, block_kind="recording")
    rows = chosen_of(frame(*records)).assign(layer_set="1-2", layer_share=0.6)
    (answer,) = answers(rows)
    assert answer["about"].endswith("The scores rest on 200 items of 10 recordings.")
    assert answer["caution"].startswith("Only 10 recordings: ")
    assert "When dev recordings are resampled, layer 1 is chosen in 60 %" in in_words(answer)


def test_a_preset_says_how_it_differs_from_its_protocol() -> None:
    preset, plain = answers(
        chosen_of(
            frame(
                *asked("org/a", "superb-ks", [0.5, 0.9, 0.7], n_blocks=40),
                *asked("org/a", "words", [0.5, 0.9, 0.7], n_blocks=40),
            )
        )
    )
    assert preset["protocol"].startswith("SUPERB KS") and len(preset["deviations"]) == 4
    assert (plain["protocol"], plain["deviations"]) == ("", [])


def test_many_speakers_need_no_caution_and_a_lone_model_wins_nothing() -> None:
    (answer,) = answers(chosen_of(frame(*asked("org/a", "words", [0.5, 0.9, 0.7], n_blocks=40))))
    assert answer["caution"] == ""
    assert "is the only model" in in_words(answer) and answer["set"] == []
    assert headline([choice("a", "a"), choice("b", "a"), answer]) == [
        "a may be the best in every task (95 % model confidence sets)."
    ]


def test_a_model_of_the_set_is_named() -> None:
    rows = chosen_of(
        frame(*asked("org/a", "words", [0.5, 0.9, 0.7]), *asked("org/b", "words", [0.4, 0.88, 0.5]))
    )
    rows["mark"] = [BEST, IN_SET]
    (answer,) = answers(rows)
    assert "Also in the 95 % model confidence set: org/b (layer 1) 88.0 %." in in_words(answer)
    assert "follows" not in in_words(answer)


def test_no_model_is_called_best_where_models_were_scored_on_different_utterances() -> None:
    twice = {"numerator": [12] * 10, "denominator": [20] * 10}
    heard = [{}, {"condition": "telephone"}]
    records = [
        counted(item) for at in heard for item in asked("fbank", "words", [0.1, 0.3, 0.2], **at)
    ]
    other = [
        counted(item) for at in heard for item in asked("org/b", "words", [0.4, 0.6, 0.5], **at)
    ]
    records += [
        replace(item, counts=item.counts | twice) if item.value == 0.6 else item for item in other
    ]
    (answer,) = answers(chosen_of(frame(*records)))
    assert in_words(answer).strip() == (
        "No model is called best because the models were scored on different utterances: "
        "fbank (layer 1) 30.0 %, org/b (layer 1) 60.0 %."
    )
    assert answer["set"] == []
    assert answer["elsewhere"][0]["who"] == "No model"
    better = [
        replace(item, model="org/a", value=0.9)
        for item in records
        if item.model == "fbank" and item.value == 0.3
    ]
    better = [replace(item, counts=item.counts | {"numerator": [9] * 10}) for item in better]
    (answer,) = answers(chosen_of(frame(*records, *better)))
    assert "Not compared because of other test utterances: org/b (layer 1) 60.0 %." in in_words(
        answer
    )


def test_other_conditions_stand_below_the_clean_score_the_milder_first() -> None:
    (answer,) = answers(chosen_of(frame(*disturbed())))
    assert answer["lead"][0] == ""
    assert [there["where"] for there in answer["elsewhere"]] == ["noise:babble@10dB", "telephone"]
    assert answer["elsewhere"][1]["who"] == "org/a (layer 1)"
    assert answer["elsewhere"][1]["what"] == "70.0 % [58.3, 80.0]"


def test_where_the_best_is_at_chance_that_is_said() -> None:
    records = [*asked("org/a", "words", [0.1, 0.12, 0.1]), *asked("org/b", "words", [0.1] * 3)]
    (answer,) = answers(chosen_of(frame(*records)).assign(chance="at chance"))
    assert in_words(answer).startswith(
        " No model is called best because none is significantly better than chance: org/a"
    )


def test_no_model_is_called_best_where_none_was_tested() -> None:
    records = [*asked("org/a", "words", [0.5, 0.9, 0.7]), *asked("org/b", "words", [0.4] * 3)]
    (answer,) = answers(chosen_of(frame(*records)))
    assert in_words(answer).strip() == (
        "No model is called best because the models were not tested against each other (too few "
        "blocks, or no interval): org/a (layer 1) 90.0 %, org/b (layer 0) 40.0 %."
    )
    assert answer["set"] == []


def choice(title: str, *of_set: str, chance: bool = False) -> dict[str, Any]:
    """What the headline reads of an answer."""
    return {"title": title, "place": f"{title}, digits", "set": list(of_set), "chance": chance}


def test_the_headline_names_the_models_that_may_be_the_best_in_every_task_and_in_each() -> None:
    found = headline([choice("x", "a", "b"), choice("y", "b"), choice("z", "b", "a")])
    assert found == [
        "b may be the best in every task (95 % model confidence sets).",
        "x, z: a, b",
        "y: b",
    ]
    found = headline([choice("x", "a"), choice("y", "b"), choice("z", "c", chance=True)])
    assert found == [
        "No model is the best choice for every task. These may be the best, by 95 % model "
        "confidence sets:",
        "x: a",
        "y: b",
        "z: no model is significantly better than chance",
    ]
    assert headline([choice("x", "a"), choice("z", "b", chance=True)]) == []


def test_tasks_of_one_name_are_told_apart_by_their_corpus_in_the_headline() -> None:
    found = headline([choice("x", "a"), {**choice("x", "b"), "place": "x, other"}])
    assert found[1:] == ["x, digits: a", "x, other: b"]


def test_of_several_best_each_has_its_own_interval_and_one_in_the_set_its_name() -> None:
    heard = [{}, {"condition": "telephone"}]
    rows = chosen_of(
        frame(
            *(
                item
                for name in ("org/a", "org/b", "org/c")
                for at in heard
                for item in asked(name, "words", [0.5, 0.9, 0.7], **at)
            )
        )
    )
    rows["mark"] = np.where(rows["model"] == "org/c", IN_SET, BEST)
    rows.loc[rows["model"] == "org/b", "low"] = 0.7
    (answer,) = answers(rows)
    both = "org/a 90.0 % [85.0, 95.0], org/b 90.0 % [70.0, 95.0]"
    assert (answer["lead"][2], answer["score"]) == (f"score best: {both}.", ["", ""])
    assert answer["more"][:2] == [
        "The last layer of org/a (2) scores 70.0 %.",
        "The last layer of org/b (2) scores 70.0 %.",
    ]
    assert "Also in the 95 % model confidence set: org/c" in answer["more"][2]
    assert answer["elsewhere"][0]["what"] == f"{both}, also in the set: org/c"


def test_scores_and_curves_are_those_of_the_tables_in_percent() -> None:
    found = content(frame(*plain()))
    (words,) = [
        at for at, question in enumerate(found["questions"]) if question["task"] == "digits"
    ]
    scores = pd.DataFrame(found["scores"])
    row = scores[(scores["q"] == words) & (scores["model"] == "org/a")].iloc[0]
    assert (row["layer"], row["value"], row["low"], row["mark"], row["last"]) == (
        "1",
        74.0,
        69.0,
        "not tested",
        83.0,
    )
    (curve_of,) = [
        item for item in found["curves"] if item["q"] == words and item["model"] == "org/b"
    ]
    assert (curve_of["layers"], curve_of["value"], curve_of["chosen"]) == (
        ["0", "1", "final"],
        [61.0, 68.0, 83.0],
        1,
    )
    (lone,) = [item for item in found["curves"] if item["q"] == words and item["model"] == "fbank"]
    assert (lone["low"], lone["chosen"]) == ([None], 0)


def test_what_is_lost_under_a_condition_stands_with_its_interval() -> None:
    lost = pd.DataFrame(content(frame(*disturbed()))["conditions"])
    row = lost[(lost["model"] == "org/a") & (lost["condition"] == "telephone")].iloc[0]
    assert (row["layer"], row["value"], row["loss"]) == ("1", 70.0, 20.0)
    assert row["loss_low"] <= 20 <= row["loss_high"]
    assert list(dict.fromkeys(lost["condition"])) == [
        "clean",
        "noise:babble@10dB",
        "telephone",
        "(mean)",
    ]


def test_trainings_on_one_domain_stand_with_their_tests_on_others() -> None:
    across = pd.DataFrame(content(frame(*crossing()))["domains"])
    row = across[(across["train_domain"] == "read") & (across["test_domain"] == "far")].iloc[0]
    assert (row["layer"], row["value"]) == ("1", 60.0)
    assert "no class in both domains" in set(across["note"])


def test_commands_can_be_given_to_a_shell() -> None:
    model, task, corpus = "$(touch x) 'y'", "words:label=sex; rm *", "my corpus"
    records = asked(
        model,
        task,
        [0.5, 0.9, 0.7],
        corpus=corpus,
        kind="verify",
        seed=3,
        condition="noise:white@5dB",
        condition_seed=2,
    )
    remark, extract, noisy, run, *_ = content(frame(*records))["commands"]
    assert remark.startswith("# Some records do not hold the arguments")
    common = ["probe", "extract", "--model", model, "--corpus", "my corpus.csv"]
    common += ["--to", "features/", "--view", "VIEW"]
    assert shlex.split(extract) == common
    drawn = ["--condition", "noise:white@5dB", "--condition-seed", "2"]
    assert shlex.split(noisy) == common + drawn
    words = shlex.split(run)
    assert words[:3] == ["probe", "run", "words"]
    assert words[words.index("--label") + 1] == "sex; rm *"
    assert words[words.index("--seed") + 1] == "3" and "--trials" in words
    assert "--dev-trials" not in words, "no record tells a list from drawn trials"


def test_records_of_every_seed_have_a_folder_of_their_own_and_tables_read_all() -> None:
    records = [
        item for seed in (0, 1) for item in asked("org/a", "words", [0.5, 0.9, 0.7], seed=seed)
    ]
    *_, first, second, table, report = map(shlex.split, content(frame(*records))["commands"])
    assert [line[line.index("--to") + 1] for line in (first, second)] == [
        "results/seed0/",
        "results/seed1/",
    ]
    for line in (table, report):
        assert [line[at + 1] for at, word in enumerate(line) if word == "--from"] == [
            "results/seed0/",
            "results/seed1/",
        ]


def test_the_page_does_not_say_that_records_lack_what_the_commands_repeat() -> None:
    page = (Path(probe.__file__).parent / "reporting" / "report" / "report.html").read_text(
        encoding="utf-8"
    )
    note = page.split('id="repeat-title"')[1].split("</p>")[0]
    assert "every option" in note and "put yours in" not in note and "--dtype" not in note


def test_commands_repeat_exactly_what_records_hold() -> None:
    arguments: dict[str, Any] = {
        "task": "own tasks/it's.toml",
        "overrides": {"label": "sex; rm *"},
        "corpus": "my corpus.csv",
        "trials": "lists/trials.csv",
        "dev_trials": None,
        "labels": None,
        "conditions": ["clean", "noise:white@5dB"],
        "device": "cpu",
        "seed": 3,
        "limit": 40,
        "memory_bytes": 4_000_000_000,
    }
    extraction = {
        "view": "meanstd",
        "layers": "0,1,2",
        "dtype": "float32",
        "chunk_s": 20.0,
        "context_s": 2.5,
        "ctc": True,
    }
    extraction |= {"condition": "noise:white@5dB", "condition_seed": 2, "compression": "none"}
    records = [
        replace(
            item,
            arguments={
                **arguments,
                "model": model,
                "extraction": {**extraction, "model": f"{model}@main"},
            },
        )
        for model in ("org/a", "$(touch x)")
        for item in asked(model, "words", [0.5, 0.9, 0.7], seed=3)
    ]
    lines = [shlex.split(line) for line in content(frame(*records))["commands"]]
    same = [
        "--corpus",
        "my corpus.csv",
        "--to",
        "features/",
        "--layers",
        "0,1,2",
        "--view",
        "meanstd",
        "--dtype",
        "float32",
    ]
    same += [
        "--ctc",
        "--context-s",
        "2.5",
        "--condition",
        "noise:white@5dB",
        "--condition-seed",
        "2",
        "--limit",
        "40",
    ]
    assert sorted(lines[:2]) == [
        ["probe", "extract", "--model", f"{name}@main", *same] for name in ("$(touch x)", "org/a")
    ]
    assert lines[2] == [
        *(
            "probe",
            "run",
            "own tasks/it's.toml",
            "--model",
            "$(touch x)",
            "--model",
            "org/a",
            "--corpus",
            "my corpus.csv",
        ),
        *(
            "--label",
            "sex; rm *",
            "--condition",
            "clean",
            "--condition",
            "noise:white@5dB",
            "--trials",
            "lists/trials.csv",
        ),
        *(
            "--device",
            "cpu",
            "--seed",
            "3",
            "--limit",
            "40",
            "--from",
            "features/",
            "--to",
            "results/",
        ),
    ]
    assert [line[1] for line in lines[3:]] == ["table", "report"]
    for _, name, *words in lines:
        cli.commands[name].make_context(name, words)  # the command line understands them


def test_the_worst_transcripts_come_first_with_speaker_and_duration(tmp_path: Path) -> None:
    said = [("a", "one two", "one two"), ("b", "one two", "one too"), ("c", "one two", "")]
    lines = [
        {"key": key, "reference": right, "hypothesis": text, "speaker": "ann", "duration_s": 1.5}
        for key, right, text in said
    ]
    outcomes_beside(tmp_path, asked("org/a", "words", [0.5, 0.9, 0.7]), lines)
    rows = error_rows([tmp_path])
    assert [(row["key"], row["speaker"], row["duration_s"]) for row in rows] == [
        ("c", "ann", 1.5),
        ("b", "ann", 1.5),
    ]
    assert [row["badness"] for row in rows] == [1.0, 0.5]
    assert [(row["models_wrong"], row["models"]) for row in rows] == [(1, 1), (1, 1)]


def test_models_that_fail_are_counted_within_a_seed(tmp_path: Path) -> None:
    lines = [{"key": "a", "label": "yes", "predicted": "no"}]
    for model in ("org/a", "org/b"):
        for seed in (0, 1):
            outcomes_beside(
                tmp_path / f"{model}{seed}",
                asked(model, "words", [0.5, 0.9, 0.7], seed=seed),
                lines,
            )
    rows = error_rows(sorted(path.parent for path in tmp_path.glob("org/*/a.jsonl")))
    assert sorted((row["model"], row["seed"]) for row in rows) == [
        ("org/a", 0),
        ("org/a", 1),
        ("org/b", 0),
        ("org/b", 1),
    ]
    assert {(row["models_wrong"], row["models"]) for row in rows} == {(2, 2)}


def test_of_several_seeds_the_conditions_say_which_stands_there() -> None:
    elsewhere = asked("org/a", "sex", [0.5, 0.9, 0.7], seed=1)
    assert content(frame(*disturbed(), *elsewhere))["sampling"] == ""
    other = [
        Record(**{**asdict(item), "seed": 1}) for item in disturbed() if item.condition == "clean"
    ]
    assert (
        "(0), so values and layers may differ" in content(frame(*disturbed(), *other))["sampling"]
    )


def test_under_conditions_the_layer_is_that_of_the_seed_shown() -> None:
    of_seed = {0: [0.5, 0.8, 0.7], 1: [0.5, 0.6, 0.9]}
    records = [
        counted(item)
        for seed, values in of_seed.items()
        for condition in ("clean", "telephone")
        for item in asked("org/a", "words", values, seed=seed, condition=condition)
    ]
    assert set(content(frame(*records))["conditions"]["layer"]) == {"1"}


def test_features_of_several_recipes_name_the_tasks_that_read_them() -> None:
    found = content(
        frame(
            *asked("fbank", "words", [0.5] * 3, recipe="a" * 64),
            *asked("fbank", "sex", [0.5] * 3, recipe="b" * 64),
        )
    )
    assert list(zip(found["recipes"]["recipe"], found["recipes"]["task"], strict=True)) == [
        ("a" * 8, "words"),
        ("b" * 8, "sex"),
    ]


def test_wrong_classes_frames_and_trials_are_told_in_their_own_words(tmp_path: Path) -> None:
    classes = [
        {"key": f"{number:03d}", "label": "yes", "predicted": "no"} for number in range(WORST + 5)
    ]
    frames = [{"key": "f", "frames": 10, "correct": 4}, {"key": "g", "frames": 10, "correct": 10}]
    pairs = [(1, 0.9), (1, 0.2), (1, 0.7), (0, 0.1), (0, 0.5), (0, 0.3)]
    trials = [
        {"enroll": f"e{at}", "test": "t", "label": label, "score": score}
        for at, (label, score) in enumerate(pairs)
    ]
    found = []
    for at, lines in enumerate((classes, frames, trials)):
        (tmp_path / str(at)).mkdir()
        outcomes_beside(tmp_path / str(at), asked("org/a", "words", [0.5, 0.9, 0.7]), lines)
        found.append(error_rows([tmp_path / str(at)]))
    assert len(found[0]) == WORST and found[0][0]["hypothesis"] == "no"
    assert [(row["hypothesis"], row["badness"]) for row in found[1]] == [("4 correct", 0.6)]
    assert [row["key"] for row in found[2]] == ["e1 – t", "e4 – t"], (
        "wrong at the threshold of the EER, not whatever has others beyond it"
    )
    assert found[2][1]["hypothesis"] == "score 0.5, above 33 % of the same speaker trials"


def test_outcomes_without_records_are_left_out_and_damaged_ones_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes_beside(
        tmp_path,
        asked("org/a", "words", [0.5, 0.9, 0.7]),
        [{"key": "a", "label": "x", "predicted": "y"}],
    )
    (tmp_path / "outcomes" / "other.jsonl").write_text("no JSON")
    assert len(error_rows([tmp_path])) == 1
    for damaged in ('{"layer": "1"', '{"layer": "\\ud800"}'):
        caplog.clear()
        (tmp_path / "outcomes" / "a.jsonl").write_text(damaged)
        assert error_rows([tmp_path]) == []
        assert re.search(r"a.jsonl line 1: no outcome .* give --no-outcomes", caplog.text)


def test_records_in_a_folder_whose_name_is_not_utf_8_are_reported(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"t\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("the file system has names in UTF-8 only")
    records = [
        item for seed in (0, 1) for item in asked("org/a", "words", [0.5, 0.9, 0.7], seed=seed)
    ]
    lines = [{"key": "a", "label": "x", "predicted": "y"}]
    outcomes_beside(folder, records, lines)
    data = content(read_records(folder), [folder])
    assert data["n_records"] == len(records) and data["errors"]["key"] == ["a"]


def test_outcomes_of_other_records_are_not_shown_but_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = {
        "layer": "1",
        "head": "linear",
        "train_domain": "",
        "test_domain": "",
        "key": "a",
        "label": "x",
        "predicted": "y",
    }
    line = json.dumps(said).encode() + b"\n"
    digest = hashlib.sha256(line).hexdigest()
    records = [
        replace(item, outcomes_sha256=digest) for item in asked("org/a", "words", [0.5, 0.9, 0.7])
    ]
    path = tmp_path / "a.jsonl"
    write_records(path, records, line)
    for place in (tmp_path, path):  # a folder, or one file of it
        assert len(error_rows([place])) == 1 and outcome_faults([place]) == []
    outcomes_path(path).write_bytes(line.replace(b'"y"', b'"z"'))
    assert error_rows([tmp_path]) == []
    (note,) = content(frame(*records), [tmp_path])["errors_left_out"]
    assert note.startswith("outcomes/a.jsonl is damaged or belongs to other records")
    assert content(frame(*records), [tmp_path], outcomes=False)["errors_left_out"] == []
    outcomes_path(path).unlink()
    write_report(frame(*records), tmp_path / "page.html", [tmp_path])
    assert (
        "outcomes/a.jsonl is missing; its errors are not shown. Run the task again." in caplog.text
    )


def test_the_page_holds_one_script_and_one_style_and_the_policy_their_hashes() -> None:
    html = page(content(frame(*plain())))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy and policy[1].startswith("default-src 'none'; ")
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy[1]
    assert not re.search(r"(?:src|href)=[\"'](?!#)", html)


def test_the_command_writes_the_page_and_leaves_outcomes_out_on_request(tmp_path: Path) -> None:
    lines = [{"key": "clips/anna.wav", "label": "x", "predicted": "y", "speaker": "Anna Secret"}]
    outcomes_beside(tmp_path, asked("org/a", "words", [0.5, 0.9, 0.7]), lines)
    for options, there in (((), True), (("--no-outcomes",), False)):
        line = [
            "report",
            "--from",
            str(tmp_path),
            "--to",
            str(tmp_path / "new" / "page.html"),
            "--title",
            "Ours & theirs",
            *options,
        ]
        done = CliRunner().invoke(cli, line, catch_exceptions=False)
        assert done.output == f"{tmp_path / 'new' / 'page.html'}\n"
        html = (tmp_path / "new" / "page.html").read_text()
        assert ("Anna Secret" in html, "clips/anna.wav" in html) == (there, there)
        assert "Ours \\u0026 theirs" in html
        assert len(html) < 500_000


def test_equal_records_give_an_equal_page(tmp_path: Path) -> None:
    pages = [
        write_report(frame(*disturbed()), tmp_path / name).read_bytes()
        for name in ("a.html", "b.html")
    ]
    assert pages[0] == pages[1]


def in_browser(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test nightly, where there is a browser."""
    no_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: the page is not opened")
    return pytest.mark.nightly(no_browser(test))


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every section."""
    folder = tmp_path_factory.mktemp("report")
    lines = [
        {
            "key": f"{name}.wav",
            "label": "yes",
            "predicted": "no",
            "speaker": name,
            "duration_s": 1.2,
        }
        for name in ("ann", "ben")
    ]
    outcomes_beside(folder, disturbed(), lines)
    return write_report(
        frame(*disturbed(), *crossing(), *plain()), folder / "report.html", [folder]
    )


def texts(tab: Browser, selector: str) -> list[str]:
    return tab.run(
        f"[...document.querySelectorAll({json.dumps(selector)})].map(node => node.textContent)"
    )


@in_browser
def test_the_page_opens_without_an_error_or_a_request(tab: Browser, shown: Path) -> None:
    tab.open(shown)
    assert tab.problems == []
    assert tab.requests == [shown.as_uri()]
    titles = [
        "Layers",
        "Answer",
        "Scores",
        "Conditions",
        "Domains",
        "Errors",
        "Data",
        "How the numbers were made",
        "Run it again",
    ]
    assert texts(tab, "main h2") == texts(tab, "nav a") == titles
    assert "org/a (layer 1) scores best" in " ".join(texts(tab, ".lead"))


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_picture_of_the_page_is_not_blank(tab: Browser, shown: Path, scheme: str) -> None:
    tab.send(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
    )
    tab.open(shown)
    picture = tab.screenshot()
    ground, ink = tab.run(
        "(style => [style.backgroundColor, style.color])(getComputedStyle(document.body))"
    )
    bright = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ground, ink)]
    assert len(picture) > 30_000
    assert (
        (bright[0] > 600 > 200 > bright[1])
        if scheme == "light"
        else (bright[0] < 200 < 600 < bright[1])
    )
    tab.send("Emulation.setEmulatedMedia", features=[])


@in_browser
def test_a_press_on_a_heading_sorts_and_another_turns_around(tab: Browser, shown: Path) -> None:
    tab.open(shown)
    score = texts(tab, "#scores thead th").index("score")
    cells = f"#scores tbody tr td:nth-child({score + 1}) span > span"
    tab.click("#scores thead button", score)
    down = [float(value) for value in texts(tab, cells) if value != "–"]
    assert down == sorted(down, reverse=True) and len(set(down)) > 3
    assert (
        tab.run("document.querySelector('#scores [aria-sort]').getAttribute('aria-sort')")
        == "descending"
    )
    tab.press("Enter")  # the focus is on the button
    assert [float(value) for value in texts(tab, cells) if value != "–"] == sorted(down)
    assert (
        tab.run("document.querySelector('#scores [aria-sort]').getAttribute('aria-sort')")
        == "ascending"
    )


@in_browser
def test_typing_filters_the_scores(tab: Browser, shown: Path) -> None:
    tab.open(shown)
    before = len(texts(tab, "#scores tbody tr"))
    tab.click("#scores input[type=search]")
    tab.type("org/b telephone")
    rows = texts(tab, "#scores tbody tr")
    assert before > len(rows) == 1 and "telephone" in rows[0]
    assert texts(tab, "#scores [role=status]")[0].startswith("1 of ")


@in_browser
def test_pointing_and_arrow_keys_read_values_and_boxes_hide_models(
    tab: Browser, shown: Path
) -> None:
    tab.open(shown)
    tab.run(
        "(select => { select.value = [...select.options].find(one => one.text === 'words · "
        "spoken-digits · accuracy').value;"
        "select.dispatchEvent(new Event('change')); })(document.querySelector('#layers select'))"
    )
    tab.settle()
    tab.hover("#layers .chart circle", 0)
    assert texts(tab, "#layers .readout") == [
        "org/a, layer 0: 50.0 % [38.2, 61.8]; on development data 50.0; "
        "0.0 % of resamples choose it"
    ]
    tab.run("document.querySelector('#layers .chart').focus()")
    tab.press("ArrowRight")
    assert texts(tab, "#layers .readout") == [
        "org/a, layer 1: 90.0 % [80.9, 95.7]; on development data 90.0; the chosen layer; "
        "100.0 % of resamples choose it"
    ]
    tab.press("ArrowDown")
    assert texts(tab, "#layers .readout")[0].startswith("org/b, layer 1: 60.0 %")
    assert tab.run("document.querySelectorAll('#layers polyline.curve').length") == 2
    tab.click("#layers input[type=checkbox]", 1)
    assert tab.run("document.querySelectorAll('#layers polyline.curve').length") == 1
    tab.press("ArrowDown")
    assert len(texts(tab, "#layers details tbody tr")) == 6, (
        "every point stands in the table beside the chart"
    )


@in_browser
def test_the_page_can_be_read_without_sight_or_mouse(tab: Browser, shown: Path) -> None:
    tab.open(shown)
    number_of = {
        "tables without a caption": "'table', node => !node.caption?.textContent",
        "headings of columns without scope": "'thead th:not([scope=col])'",
        "rows without a heading": "'tbody tr:not(:has(th[scope=row]))'",
        "controls without a label": "'input, select', node => !node.labels.length",
        "sections without a name": "'main > section', node => "
        "!document.getElementById(node.getAttribute('aria-labelledby'))?.textContent",
        "charts that no key reaches": "'.chart:not([tabindex=\"0\"][aria-label])'",
        "charts without a table": "'section:has(.chart):not(:has(table))'",
        "buttons that are none": "'[onclick], div[role=button]'",
    }
    count = (
        "((nodes, fits = () => true) => [...document.querySelectorAll(nodes)].filter(fits).length)"
    )
    bare = {what: tab.run(f"{count}({nodes})") for what, nodes in number_of.items()}
    assert bare == dict.fromkeys(number_of, 0)
    assert tab.run(
        "['header', 'nav', 'main', 'footer', 'h1'].every(name => "
        "document.querySelectorAll(name).length === 1)"
    )
    tab.press("Tab")
    assert tab.run("document.activeElement.textContent") == "Skip to the results"
    assert tab.run("getComputedStyle(document.activeElement).outlineStyle") == "solid", (
        "the focus is visible"
    )


@in_browser
def test_the_page_fits_a_phone(tab: Browser, shown: Path) -> None:
    tab.open(shown, width=360, height=740)
    assert tab.run("document.documentElement.scrollWidth") <= 360
    assert (
        tab.run("document.querySelector('#layers .chart svg').getBoundingClientRect().width") > 280
    )


@in_browser
def test_paper_holds_every_column_and_row(tab: Browser, tmp_path: Path) -> None:
    records = []
    for n in range(60):
        place = {
            "corpus": f"corpus-{n}",
            "head": f"ctc-{n}",
            "note": "a few words of note" * (n % 2),
        }
        place |= {"condition": f"noise:files=doing_the_dishes.flac@{n}dB"}
        for model in ("org/a-model-with-a-long-name", "fbank"):
            records += asked(model, f"task-{n}", [0.5, 0.9, 0.7 + n / 1000], **place)
    landscape = 1046  # 277 mm at 96 dots per inch
    tab.open(write_report(frame(*records), tmp_path / "report.html"), width=landscape)
    tab.send("Emulation.setEmulatedMedia", media="print")
    tab.run("dispatchEvent(new Event('beforeprint'))")
    tab.settle()
    ends = "[...document.querySelectorAll('table')].map(node => node.getBoundingClientRect().right)"
    rows, columns = len(texts(tab, "#scores tbody tr")), len(texts(tab, "#scores thead th"))
    edge = tab.run(f"Math.max(...{ends})")
    tab.send("Emulation.setEmulatedMedia", media="")
    assert (rows, columns) == (120, 15)
    assert edge <= landscape


@in_browser
def test_hostile_names_are_text(tab: Browser, tmp_path: Path) -> None:
    records = list(map(counted, asked("org/a", "heard", [0.5, 0.9, 0.7], corpus="one")))
    for number, text in enumerate(HOSTILE):
        here = {"corpus": f"corpus {text}", "note": text, "revision": text}
        records += asked(text, "words", [0.5, 0.9, 0.7], **(here | {"corpus": "one"}))
        records += asked("org/a", f"{text}{number}", [0.5, 0.9, 0.7], **here)
        records += map(
            counted, asked("org/a", "heard", [0.4, 0.8, 0.7], corpus="one", condition=text)
        )
        records += curve(
            [0.5, 0.9, 0.6], [0.5, 0.8, 0.6], task="moved", train_domain=text, test_domain=text
        )
    lines = [
        {"key": text, "reference": text, "hypothesis": f"{text} said", "speaker": text}
        for text in HOSTILE
    ]
    outcomes_beside(tmp_path, asked("org/a", "words", [0.5, 0.9, 0.7], corpus="one"), lines)
    tab.open(write_report(frame(*records), tmp_path / "report.html", [tmp_path], title=HOSTILE[1]))
    assert tab.problems == [] and len(tab.requests) == 1
    tab.run("document.querySelectorAll('button').forEach(node => node.click())")
    assert tab.run("document.querySelectorAll('script').length") == 2
    assert (
        tab.run(
            "document.querySelectorAll('img, iframe, object, embed, base, b, style:not(head "
            "style)').length"
        )
        == 0
    )
    assert (
        tab.run(
            "[...document.querySelectorAll('*')].some(node => [...node.attributes].some(one "
            "=> one.name.startsWith('on')))"
        )
        is False
    )
    assert tab.run(
        "[...document.querySelectorAll('a')].every(node => "
        "node.getAttribute('href').startsWith('#'))"
    )
    assert tab.run("typeof window.hacked") == "undefined"
    assert tab.run("document.documentElement.scrollWidth") <= 1280
    names, keys = texts(tab, "#scores tbody th"), texts(tab, "#errors tbody th")
    for text in HOSTILE:
        assert one_line(text) in names and one_line(text) in keys, text
    assert tab.problems == []


@in_browser
def test_the_policy_stops_a_script_that_got_in(tab: Browser, shown: Path) -> None:
    tab.open(shown)
    tab.run(
        "(node => { node.textContent = 'window.hacked = 1'; document.body.append(node); "
        "})(document.createElement('script'))"
    )
    tab.run(
        "document.body.insertAdjacentHTML('beforeend', '<img "
        'src="https://evil.example/x.png" onerror="window.hacked = 2">\')'
    )
    tab.run("new Promise(done => setTimeout(done, 100))")
    assert tab.run("typeof window.hacked") == "undefined"
    assert len(tab.requests) == 1
    assert any("Content Security Policy" in text for text in tab.problems)
