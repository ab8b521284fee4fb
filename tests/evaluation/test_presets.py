"""Every task with a protocol runs on a miniature of its corpus in the true layout."""

import functools
import json
import os
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from preset_page import MARK, PAGE, table
from presets import MINIATURES
from runs import run

from probe.cli import cli
from probe.data.corpus import Utterance
from probe.errors import ProbeError, UsageError
from probe.evaluation.blocks import BY_SPEAKER
from probe.evaluation.kinds import superb
from probe.evaluation.tasks import Task, open_task
from probe.extraction.extract import extract
from probe.protocols import NOT_OFFERED, Protocol, protocols
from probe.records import frame_of
from probe.reporting.scores import Scores

SHORT = {"steps": 30, "evaluate_every": 15, "learning_rates": (1e-1, 1e-3), "epochs": 1}
SHORT |= {"hidden": 8, "layers": 1, "embedding": 8, "hidden_sizes": (8,), "l2": (1e-2,)}
SHORT |= {"dev_trials": 30, "online_code": False, "budgets": ()}
CONDITIONS = ("clean", "telephone")

# One of each kind and corpus runs by default.
QUICK = ("superb-ks", "superb-ic", "superb-asr", "timit-phones", "asvspoof-la", "voxceleb-verify")
PRESETS = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.nightly)
    for name in sorted(
        protocols().keys() - {"librispeech-own-ctc"}
    )  # tests/evaluation/test_ctc_heads.py
]


@pytest.fixture(scope="session")
def root_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Form of a corpus -> the folder of its miniature."""

    @functools.cache
    def root(form: str) -> Path:
        folder = tmp_path_factory.mktemp(form)
        MINIATURES[form](folder)
        return folder

    return root


def small(task: Task) -> Task:
    """A task with the smallest heads and the shortest training."""
    if task.of is not None:
        return replace(task, of=small(task.of))
    known = SHORT.keys() & type(task.settings).model_fields.keys()
    conditions = tuple(name for name in task.settings.conditions if name in CONDITIONS)
    changes = {key: SHORT[key] for key in known} | {"conditions": conditions}
    return replace(task, settings=task.settings.model_copy(update=changes))


def on_disk(protocol: Protocol, root: Path) -> tuple[str, dict[str, Any]]:
    """The corpus and the lists of a protocol for its miniature."""
    words = shlex.split(protocol.options.replace("ROOT", str(root)))
    lists = {word.removeprefix("--"): Path(words[i + 1]) for i, word in enumerate(words[::2])}
    return protocol.corpus.replace("ROOT", str(root)), lists


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_runs_from_its_corpus_to_a_score(
    name: str,
    root_of: Callable[[str], Path],
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = f"tiny={folders['wav2vec2 post-LN']}"
    protocol = protocols()[name]
    root = root_of(protocol.corpus.partition(":")[0])
    monkeypatch.chdir(root)  # lexicons lie there
    corpus, lists = on_disk(protocol, root)
    task = small(open_task(name))
    for condition in task.inner.settings.conditions:
        extract(model, corpus, tmp_path / "features", condition=condition)
    done = run(task, model, corpus, tmp_path / "features", tmp_path / "results", **lists)
    rows = frame_of(done.records)
    tested = rows[(rows["split"] == "test") & (rows["control"] == "") & rows["value"].notna()]
    assert len(tested) and set(tested["task"]) == {name}
    if name.startswith("superb-") and name != "superb-asv":
        assert set(tested["layer"]) == {"weighted"}, "SUPERB's score is of the sum of layers"


def test_clean_names_are_the_same_questions_with_statistics_that_hold() -> None:
    assert open_task("clean-ks").name == "word-id:label=keyword"
    assert open_task("clean-er").name == "iemocap-er"
    for name, protocol in protocols().items():
        if name.startswith("superb-"):
            twin = open_task(name.replace("superb-", "clean-"))
            assert twin.kind.name != "superb" and f"--label {twin.overrides.get('label')}" in (
                protocol.clean if twin.overrides else "--label None"
            )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("superb-sf", "task superb-sf: not offered: slot filling needs"),
        ("asr-ctc-superb", "Did you mean 'superb-asr'"),
        ("clean-xy", "no ready task"),
    ],
)
def test_what_is_not_offered_is_named(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_task(name)


def test_a_task_shows_its_protocol() -> None:
    shown = CliRunner().invoke(cli, ["tasks", "superb-ks"])
    assert shown.exit_code == 0, shown.output
    assert (
        "Command: probe bench --model M --task superb-ks --corpus 'speechcommands:" in shown.output
    )
    for sentence in protocols()["superb-ks"].deviations:
        assert sentence in shown.output
    as_json = CliRunner().invoke(cli, ["tasks", "superb-ks", "--format", "json"])
    assert json.loads(as_json.stdout)["protocol"]["clean"] == "word-id --label keyword"


def test_every_command_of_a_protocol_is_understood(tmp_path: Path) -> None:
    for name, protocol in protocols().items():
        words = shlex.split(protocol.command(name).replace("ROOT", str(tmp_path)))
        for option in words:
            if option.startswith(str(tmp_path)):
                Path(option).touch()
        cli.commands["bench"].make_context("bench", words[2:])


@pytest.fixture
def spoken(tmp_path: Path, folders: dict[str, Path]) -> tuple[str, str, Path]:
    """A model, Fluent Speech Commands, and its features."""
    root = tmp_path / "corpus"
    MINIATURES["fluent"](root)
    model = f"tiny={folders['wav2vec2 post-LN']}"
    extract(model, f"fluent:{root}", tmp_path / "features")
    return model, f"fluent:{root}", tmp_path / "features"


def test_an_intent_is_right_if_every_slot_is(spoken: tuple[str, str, Path], tmp_path: Path) -> None:
    done = run(small(open_task("superb-ic")), *spoken, tmp_path / "results")
    (score,) = [one for one in done.records if one.split == "test" and not one.control]
    outcomes = (tmp_path / "results" / "outcomes").glob("*superb-ic*")
    lines = [json.loads(line) for path in outcomes for line in path.read_text().splitlines()]
    right = [line["label"] == line["predicted"] for line in lines if "label" in line]
    assert len(right) == score.n == 6 and score.value == sum(right) / 6
    assert all(line["label"].count(" | ") == 2 for line in lines if "label" in line)
    assert {*score.layer_weights} == {"0", "1", "2", "3"}
    assert sum(score.layer_weights.values()) == pytest.approx(1, abs=1e-4)
    assert {entry["learning_rate"] for entry in score.search} == {1e-1, 1e-3}
    (shown,) = Scores.of(frame_of(done.records)).chosen().itertuples()
    assert (shown.layer, shown.value) == ("weighted", score.value)


def test_one_wrong_slot_makes_an_error() -> None:
    items = [Utterance(key, Path(key), "", key, "", "") for key in "abc"]
    rows = superb.Rows(
        *(items, slice(0, 1), slice(1, 2), {"": slice(1, 3)}, {}, BY_SPEAKER),
        targets=np.array([[0, 0], [0, 1], [1, 1]]),
        classes=[["on", "off"], ["hall", "attic"]],
        at_train=slice(0, 1),
        at_dev=slice(1, 2),
    )
    predicted = np.array([[0, 0], [0, 0], [1, 1]])
    dev, test = superb._scores(rows, {"layer": "weighted"}, predicted)
    assert (dev.value, test.value, test.n_train) == (0, 0.5, 1)
    assert test.outcomes[0] == {"key": "b", "label": "on | attic", "predicted": "on | hall"}


def test_layers_that_do_not_fit_are_refused_with_their_size(
    spoken: tuple[str, str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ProbeError, match="superb-ic: no weighted sum of 4 layers: all layers take"):
        run(small(open_task("superb-ic")), *spoken, tmp_path / "results", memory_bytes=1000)


def test_a_share_of_dev_is_drawn_from_training_and_dev(
    spoken: tuple[str, str, Path], tmp_path: Path
) -> None:
    task = small(open_task("superb-ic", {"label": "action"}))
    task = replace(task, settings=task.settings.model_copy(update={"dev_share": 0.5}))
    done = run(task, *spoken, tmp_path / "results")
    counts = {(one.split, one.n, one.n_train) for one in done.records if not one.control}
    assert counts == {("dev", 9, 9), ("test", 6, 9)}


def test_the_page_of_presets_is_that_of_the_task_files() -> None:
    head, _ = PAGE.read_text(encoding="utf-8").split(MARK)
    expected = f"{head}{MARK}\n\n{table()}"
    if os.environ.get("GOLDEN") == "write":
        PAGE.write_text(expected, encoding="utf-8")
        return
    assert PAGE.read_text(encoding="utf-8") == expected, "make golden rewrites docs/presets.md"
    assert all(f"`{name}`" in head for name in NOT_OFFERED)
