"""What is committed in results/ is what its records make, is small, and tells of nobody."""

import gzip
import json
import re
import shutil
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from probe.data.corpus import load_corpus
from probe.data.synthetic import write_synthetic_corpus
from probe.demo import TWIN, story
from probe.files import sha256_of_file
from probe.models.sources.known import NANO
from probe.record_check import check_records
from probe.records import read_records
from probe.reporting.figures.style import missing_matplotlib
from probe.reporting.scores import Scores
from probe.reporting.tables.files import write_tables
from probe.reporting.tables.similarity_tables import read_similarity

RESULTS = Path(__file__).resolve().parent.parent / "results"
README = (RESULTS.parent / "README.md").read_text(encoding="utf-8")
INPUTS = (
    "README.md",
    "records/*.jsonl.gz",
    "similarity/*.json",
    "demo/*.jsonl.gz",
    "demo/outcomes/*.jsonl",
)
PICTURES = (".png", ".svg")
NOISE = "doing_the_dishes.flac"
PROBED = "phone-frames accuracy ↑"  # a column of the tables of encoders
PEOPLE = ("fsdd-", "ls-", "george")


def script(path: Path) -> Any:
    """The module of a script that no package holds."""
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made(folder: Path) -> set[str]:
    """Names of the files below a folder of results that are made of records."""
    files = {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.suffix in (".md", ".csv", ".html", *PICTURES)
    }
    return {name for name in files if name.split("/")[0] not in ("benchmarks", "published")}


def shown(path: Path) -> bytes:
    """What must be equal: of a picture the hash of what it shows, all bytes of anything else."""
    content = path.read_bytes()
    found = re.search(rb"data sha256 (\w{64})", content) if path.suffix in PICTURES else None
    return found[1] if found else content


def tables(page: str) -> list[list[dict[str, str]]]:
    """The tables of a Markdown page, row by row: column -> cell."""
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", page, flags=re.MULTILINE):
        head, _, *rows = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
        ]
        found.append([dict(zip(head, row, strict=True)) for row in rows if len(row) == len(head)])
    return found


def test_committed_texts_of_the_demo_are_those_of_its_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The small form of the next test: without pictures, of the demo alone."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # so that nothing is drawn
    paths = write_tables(read_records(RESULTS / "demo"), tmp_path)
    assert len(paths) > 6
    differing = [p.name for p in paths if shown(p) != shown(RESULTS / "demo" / p.name)]
    assert not differing, "run `make tables`"


@pytest.mark.nightly
@pytest.mark.skipif(bool(missing_matplotlib()), reason=missing_matplotlib())
def test_committed_tables_figures_and_report_are_those_of_the_committed_records(
    tmp_path: Path,
) -> None:
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    for path in [path for pattern in INPUTS for path in RESULTS.glob(pattern)]:
        copy = tmp_path / "results" / path.relative_to(RESULTS)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    script(RESULTS / "make_tables.py").rebuild(tmp_path / "results")
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == README, "run `make tables`"
    assert made(tmp_path / "results") == made(RESULTS), (
        "run `make tables`, and remove what it does not write"
    )
    differing = {
        name
        for name in made(RESULTS)
        if shown(tmp_path / "results" / name) != shown(RESULTS / name)
    }
    assert not differing, "run `make tables`"


def test_the_tables_of_both_pages_are_those_of_the_committed_records() -> None:
    make_tables = script(RESULTS / "make_tables.py")
    texts = make_tables.tables(
        read_records(RESULTS / "records"), read_similarity(RESULTS / "similarity")
    )
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert (make_tables.filled(page, texts), make_tables.filled(README, texts)) == (page, README), (
        "run `make tables`"
    )
    # Both pages have tables of models and tasks, and what the README shows is rows of the other.
    (whole,) = [table for table in tables(page) if {"model", PROBED} <= table[0].keys()]
    (short,) = [table for table in tables(README) if PROBED in table[0]]
    assert len(short) >= 6
    assert all(any(row.items() <= other.items() for other in whole) for row in short)


def test_committed_results_are_small() -> None:
    sizes = {
        path: path.stat().st_size
        for ending in (*PICTURES, ".html", ".md")
        for path in RESULTS.rglob(f"*{ending}")
    }
    assert len(sizes) > 10
    assert not {path.name for path, size in sizes.items() if size >= 500_000}
    assert sum(path.stat().st_size for path in (RESULTS / "records").iterdir()) < 3_000_000


def test_pictures_of_the_readme_are_committed_ones() -> None:
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert "results/curves.png" in pictures
    assert all(name.removeprefix("results/") in made(RESULTS) for name in pictures)


def test_the_readme_shows_what_the_demo_prints_of_the_committed_records() -> None:
    lines = story(Scores.of(read_records(RESULTS / "demo")))
    assert "\n".join(lines[:6]) in README
    assert all(len(line) <= 80 for line in lines)


def test_the_story_of_the_demo_follows_the_records_whatever_they_say() -> None:
    """With the trained encoder and its twin changing names, the twin is the better one."""
    records = read_records(RESULTS / "demo")
    told = " ".join(story(Scores.of(records)))
    assert "above random weights" in told and "below random weights" not in told
    names = {NANO: TWIN, TWIN: NANO}
    changed = records.assign(model=records["model"].replace(names))
    told = " ".join(story(Scores.of(changed)))
    assert "below random weights" in told and "above random weights" not in told
    same = pd.concat(
        [records[records["model"] != TWIN], records[records["model"] == NANO].assign(model=TWIN)]
    )
    assert "not clearly apart from random weights (+0.0 points" in " ".join(story(Scores.of(same)))


def report_payload() -> str:
    page = (RESULTS / "demo" / "report.html").read_text(encoding="utf-8")
    (payload,) = re.findall(r'id="payload">(.*?)</script>', page)
    return payload


def test_the_committed_report_names_no_person() -> None:
    payload = report_payload()
    assert len(json.loads(payload)["errors"]["key"]) > 100
    assert not {word for word in PEOPLE if word in payload}


@pytest.mark.nightly
def test_the_committed_demo_is_of_synthetic_speech_alone(tmp_path: Path) -> None:
    synthetic = write_synthetic_corpus(tmp_path)
    manifests = (synthetic.words, synthetic.voices)
    assert set(read_records(RESULTS / "demo")["manifest_sha256"]) == set(
        map(sha256_of_file, manifests)
    )
    rows = {item.key: item for path in manifests for item in load_corpus(path).utterances}
    errors = json.loads(report_payload())["errors"]
    for key, speaker, reference in zip(
        errors["key"], errors["speaker"], errors["reference"], strict=True
    ):
        pair = [rows[end] for end in key.split(" – ")]
        assert len(pair) == 2 or (
            speaker == pair[0].speaker
            and (reference in (pair[0].text, speaker) or reference.endswith(" frames"))
        )
    lines = [
        line
        for path in RESULTS.glob("demo/outcomes/*.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    told = [json.loads(line) for line in lines]
    assert {
        one[name] for one in told for name in ("key", "enroll", "test") if name in one
    } <= rows.keys()
    assert {one["speaker"] for one in told if "speaker" in one} <= {
        item.speaker for item in rows.values()
    }


def test_committed_records_name_no_speaker_and_no_folder() -> None:
    paths = sorted((RESULTS / "records").glob("*.jsonl.gz"))
    assert len(paths) > 30
    for path in paths:
        text = gzip.decompress(path.read_bytes()).decode().replace(NOISE, "")
        for word in (*PEOPLE, ".wav", ".flac", '"/', "=/"):
            assert word not in text, path.name


@pytest.mark.nightly
def test_committed_records_pass_their_check() -> None:
    assert check_records([RESULTS / "records"])[1] == []


@pytest.mark.parametrize(
    ("label", "corpus"), [("speaker", "speakers_shared"), ("text", "digits_shared")]
)
def test_probes_beside_those_of_scikit_learn_are_shown_as_measured(label: str, corpus: str) -> None:
    equality = script(RESULTS.parent / "benchmarks" / "equality.py")
    rows = pd.read_csv(RESULTS / "benchmarks" / f"scikit-learn-{label}.csv", dtype={"layer": str})
    page = (RESULTS / "benchmarks" / f"scikit-learn-{label}.md").read_text(encoding="utf-8")
    assert equality.page(rows, corpus) == page
    assert (rows["equal"] >= 0.98).all()  # of 72 and 200 test rows: one may lie on an edge
    assert (rows["objective"] < 1e-4).all()
