"""Adding a kind is adding one object: a toy kind with a toy metric, from a task file to a table."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from planted import extracted
from runs import run

from probe.cli import cli
from probe.data.corpus import load_corpus
from probe.errors import ProbeError
from probe.evaluation.dataset import Features, Problem, Score, block_of
from probe.evaluation.kind import AtLeastOne, Kind, Main, Rate, Settings
from probe.evaluation.kinds import registry
from probe.evaluation.kinds.registry import kinds
from probe.evaluation.questions import Answers
from probe.evaluation.tasks import Task, open_task
from probe.measures.counts import ratio_counts
from probe.measures.metrics import METRICS, Metric

NEARNESS = Metric("nearness", "nearness", higher_is_better=True, chance=0.5)


class ToySettings(Settings):
    """Which of two speakers is it, by the nearest mean of ``power``?"""

    view: str = "mean"
    power: AtLeastOne[Rate] = (1.0, 2.0)


def _run(task: Task[ToySettings], problem: Problem, features: Features) -> Iterator[Score]:
    parts = {"train": problem.train, "dev": problem.dev, "test": problem.tests[""]}

    def score(control: str, layer: str, rows: dict[str, np.ndarray]) -> Iterator[Score]:
        labels = np.array([item.speaker for item in parts["train"]])
        names = sorted(set(labels))
        means = np.stack([rows["train"][labels == name].mean(axis=0) for name in names])
        for split in ("dev", "test"):
            distances = ((rows[split][:, None] - means) ** 2).sum(axis=2)
            chosen = [names[i] for i in distances.argmin(axis=1)]
            hits = [
                int(item.speaker == name) for item, name in zip(parts[split], chosen, strict=True)
            ]
            blocks = [block_of(item) for item in parts[split]]
            yield Score(
                **vars(_main(task.settings)),
                layer=layer,
                split=split,
                control=control,
                counts=ratio_counts(blocks, hits, [1] * len(hits)),
                n=len(hits),
                n_train=len(labels),
            )

    answers = Answers(
        [""],
        name=str,
        n_steps=lambda _: 1,
        read=lambda layer: {
            split: features.read(layer, items).values for split, items in parts.items()
        },
        score=score,
    )
    yield from answers.scores(problem, features.layers)


def _main(_: ToySettings) -> Main:
    return Main("nearest-mean", "nearness", "nearness", higher_is_better=True)


TOY = Kind("toy", ToySettings, _run, lambda task, problem: None, _main, metrics=("nearness",))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus of two speakers that layer ``1`` tells apart, and a task of the toy kind."""
    monkeypatch.setitem(kinds(), "toy", TOY)
    monkeypatch.setitem(METRICS, "nearness", NEARNESS)
    generator = np.random.default_rng(0)
    lines = ["path,text,speaker,domain,split,duration_s"]
    layers: dict[str, list[np.ndarray]] = {"0": [], "1": []}
    for i in range(48):
        name, split = f"{i}.wav", ("train", "dev", "test")[i % 3]
        (tmp_path / name).touch()
        lines.append(f"{name},,s{i % 2},,{split},")
        noise = generator.normal(size=(2, 8, 4))
        layers["0"].append(noise[0])
        layers["1"].append(noise[1] + 3 * (i % 2))
    (tmp_path / "corpus.csv").write_text("\n".join(lines) + "\n")
    extracted(tmp_path / "features", layers, tmp_path / "corpus.csv")
    (tmp_path / "own.toml").write_text('kind = "toy"\npower = 2.0\n')
    return tmp_path


def test_a_toy_kind_with_a_toy_metric_runs_from_its_task_file_to_a_table(folder: Path) -> None:
    done = run(
        folder / "own.toml",
        "planted",
        folder / "corpus.csv",
        folder / "features",
        folder / "results",
    )
    values = {(record.layer, record.split): record.value for record in done.records}
    assert values["1", "test"] == 1 > (values["0", "test"] or 0)
    assert {record.kind for record in done.records} == {"toy"}
    shown = CliRunner().invoke(
        cli, ["table", "--from", str(folder / "results"), "--format", "json"]
    )
    assert shown.exit_code == 0, shown.output
    [row] = json.loads(shown.stdout)
    assert (row["metric"], row["layer"], row["head"]) == ("nearness", "1", "nearest-mean")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("power = []", r"power: found \[\]; expected 1 or more entries"),
        ("power = [1, 1.0]", "power: .*each entry once"),
        ("power = 0.0", r"power: found 0.0; expected 1e-12 or more"),
        ("powr = 1.0", "unknown key 'powr'. Did you mean 'power'"),
        ('disturb = "tset"', "disturb: found 'tset'; expected 'test', 'train', 'both' or 'mixed'"),
    ],
)
def test_its_settings_are_checked(folder: Path, line: str, message: str) -> None:
    (folder / "wrong.toml").write_text(f'kind = "toy"\n{line}\n')
    with pytest.raises(ProbeError, match=rf"wrong.toml: {message}"):
        open_task(folder / "wrong.toml")


def test_domain_shift_refuses_a_kind_that_cannot_be_trained_by_domain(folder: Path) -> None:
    (folder / "shift.toml").write_text('kind = "shift"\nof = "own.toml"\n')
    with pytest.raises(ProbeError, match="of kind toy; domain shift wraps tasks of kind classify"):
        open_task(folder / "shift.toml")


def test_nothing_that_is_no_kind_is_found(folder: Path) -> None:
    files = {path.stem for path in Path(registry.__file__).parent.glob("*.py")}
    assert {"classify", "frames", "shift", "toy", "transcribe", "verify"} <= set(kinds())
    assert set(kinds()) - {"toy"} < files
    assert load_corpus(folder / "corpus.csv").utterances


def test_the_help_of_label_names_every_kind_that_has_this_key() -> None:
    text = " ".join(
        CliRunner().invoke(cli, ["run", "--help"], env={"COLUMNS": "300"}).stdout.split()
    )
    named = re.search(r"Manifest column to predict \((.*?)\)", text)
    own = [name for name, kind in kinds().items() if "label" in kind.settings.model_fields]
    assert named and sorted(named[1].split(", ")) == sorted([*own, "shift"])
