"""The committed tables are those of the committed records."""

import shutil
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pandas as pd
import pytest

from probe.records import NO_LAYER, WEIGHTED, iterate_records, read_records
from probe.reporting.curves import curves_figure, usual_rows
from probe.reporting.det import det_figure, det_rows
from probe.reporting.figures import digest
from probe.reporting.rows import layer_rows
from probe.reporting.similarity import write_similarity
from probe.reporting.tables import write_tables

RESULTS = Path(__file__).resolve().parent.parent / "results"
TABLES = ["table.md", "table.csv", "layers.md", "layers.csv", "domains.md", "budgets.md", "budgets.csv"]
TABLES += ["robustness.md", "robustness.csv", "robustness_layers.md", "robustness_layers.csv"]
TABLES += ["robustness_gaps.csv", "robustness_groups.csv"]
NOISE = "doing_the_dishes.flac"


def test_committed_tables_are_those_of_the_committed_records(tmp_path: Path) -> None:
    write_tables(read_records(RESULTS), tmp_path)
    for name in TABLES:
        assert (tmp_path / name).read_text(encoding="utf-8") == (RESULTS / name).read_text(encoding="utf-8"), (
            f"run `make tables` ({name})"
        )


def test_committed_pictures_are_small_and_show_the_committed_records() -> None:
    pictures = [path for ending in ("png", "svg") for path in RESULTS.rglob(f"*.{ending}")]
    assert pictures and max(path.stat().st_size for path in pictures) < 500_000
    records = read_records(RESULTS)
    made = {"curves.svg": curves_figure(usual_rows(layer_rows(records))), "det.svg": det_figure(det_rows(records))}
    for name, figure in made.items():
        assert f"data sha256 {digest(figure)}" in (RESULTS / name).read_text(encoding="utf-8"), f"run `make tables` ({name})"


def test_committed_similarity_tables_are_those_of_the_committed_files(tmp_path: Path) -> None:
    shutil.copytree(RESULTS / "similarity", tmp_path / "similarity")
    for name in ("similarity.md", "similarity.csv"):
        (tmp_path / "similarity" / name).unlink()
    write_similarity(tmp_path / "similarity")
    for name in ("similarity.md", "similarity.csv"):
        assert (tmp_path / "similarity" / name).read_bytes() == (RESULTS / "similarity" / name).read_bytes(), "run `make tables`"


def test_committed_records_name_no_speaker_and_no_folder() -> None:
    for path in [*RESULTS.glob("*.jsonl"), *RESULTS.glob("similarity/*.json")]:
        text = path.read_text(encoding="utf-8").replace(NOISE, "")
        for word in ("fsdd-", "ls-", "george", ".wav", ".flac"):
            assert word not in text, path.name


@pytest.mark.parametrize("name", ["facebook/wav2vec2-base", "facebook/wav2vec2-large-robust"])
def test_committed_records_hold_every_layer(name: str) -> None:
    records = [record for path in RESULTS.glob("*.jsonl") for record in iterate_records(path) if record.model == f"random:{name}"]
    pooled = {"speaker-id", "word-id", "speaker-verify", "domain-shift"}
    assert {record.task for record in records} >= pooled | {"strings-small"}
    layers = [*map(str, range(13)), *([] if "base" in name else [*map(str, range(13, 25)), "final"])]
    for task in pooled:
        assert {record.layer for record in records if record.task == task} - {NO_LAYER, WEIGHTED} == set(layers)


@pytest.mark.parametrize(("label", "corpus"), [("speaker", "speakers_shared"), ("text", "digits_shared")])
def test_probes_beside_those_of_scikit_learn_are_shown_as_measured(label: str, corpus: str) -> None:
    spec = spec_from_file_location("equality", RESULTS.parent / "benchmarks" / "equality.py")
    assert spec is not None and spec.loader is not None
    equality = module_from_spec(spec)
    spec.loader.exec_module(equality)
    rows = pd.read_csv(RESULTS / "benchmarks" / f"scikit-learn-{label}.csv", dtype={"layer": str})
    page = (RESULTS / "benchmarks" / f"scikit-learn-{label}.md").read_text(encoding="utf-8")
    assert equality.page(rows, corpus) == page
    assert (rows["equal"] >= 0.98).all()  # of 72 and 200 test rows: one may lie on an edge
    assert (rows["objective"] < 1e-4).all()
