"""The files and functions that the pages on the code name exist, and their examples run."""

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from planted import extracted
from runs import run
from scored import frame, record

from probe.evaluation.kinds.registry import kinds
from probe.measures.metrics import Metric
from probe.reporting.scores import Scores
from probe.reporting.tables.grid import to_markdown

ROOT = Path(__file__).parents[1]
PAGES = [
    (ROOT / "docs" / name).read_text(encoding="utf-8")
    for name in ("architecture.md", "extending.md")
]
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGES[1], re.S)


def example(part: str) -> dict[str, Any]:
    """The names that the example with this text defines."""
    [code] = [text for text in EXAMPLES if part in text]
    module = ModuleType("example")
    module.__dict__["Metric"] = Metric
    sys.modules["example"] = module
    exec(compile(code, "docs/extending.md", "exec"), module.__dict__)
    return vars(module)


@pytest.mark.parametrize("page", PAGES, ids=("architecture", "extending"))
def test_the_files_and_functions_that_a_page_names_exist(page: str) -> None:
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_]+|[a-z_]+)\.py(?:: ([\w.]+))?`", page)
    assert len(named) > 10
    for path, name in named:
        files = [ROOT / f"{path}.py", ROOT / "probe" / f"{path}.py"]
        siblings = (ROOT / "probe").rglob(f"{path}.py")
        file = next((file for file in [*files, *siblings] if file.exists()), None)
        assert file is not None, path
        if not name or file.is_relative_to(ROOT / "tests"):
            continue
        module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
        value: Any = module
        for part in name.split("."):
            value = getattr(value, part)


def test_the_example_of_a_kind_runs_to_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = example("class NearestSettings")["KIND"]
    monkeypatch.setitem(kinds(), kind.name, kind)
    generator = np.random.default_rng(0)
    lines = ["path,text,speaker,domain,split,duration_s"]
    layers: dict[str, list[np.ndarray]] = {"0": [], "1": []}
    for i in range(24):
        (tmp_path / f"{i}.wav").touch()
        lines.append(f"{i}.wav,,s{i % 2},,{('train', 'dev', 'test')[i % 3]},")
        noise = generator.normal(size=(2, 8, 4))
        layers["0"].append(noise[0])
        layers["1"].append(noise[1] + 5 * (i % 2))
    (tmp_path / "corpus.csv").write_text("\n".join(lines) + "\n")
    extracted(tmp_path / "features", layers, tmp_path / "corpus.csv")
    (tmp_path / "own.toml").write_text('kind = "nearest"\n')
    done = run(
        *(tmp_path / "own.toml", "planted", tmp_path / "corpus.csv"),
        *(tmp_path / "features", tmp_path / "results"),
    )
    values = {(item.layer, item.split): item.value for item in done.records if not item.control}
    assert {item.control for item in done.records} == {"", "shuffled"}
    assert values["1", "test"] == 1 > (values["0", "test"] or 0)


def test_the_example_of_a_metric_is_one() -> None:
    names = example("NEARNESS = Metric")
    assert names["NEARNESS"].text(0.5) == "50.0"
    counts = example("counts = ratio_counts(blocks=[")["counts"]
    assert sorted(counts["numerator"]) == [7, 9]


def test_the_example_of_a_table_prints() -> None:
    rows = [
        record(layer=layer, layer_index=int(layer), split=split, value=value)
        for layer, value in (("0", 0.9), ("1", 0.7))
        for split in ("dev", "test")
    ]
    grid = example("def gain_grid")["gain_grid"](Scores.of(frame(*rows)))
    assert "+20.0" in to_markdown([grid])
