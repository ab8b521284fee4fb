"""The benchmarks run, on a small model; what they measure is not looked at here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.slow
def test_extraction_is_measured_and_recorded(tmp_path: Path) -> None:
    line = [
        sys.executable,
        FOLDER / "extraction.py",
        "--model",
        "random:data2vec-audio-tiny",
        "--utterances",
        "3",
        "--rounds",
        "2",
    ]
    done = subprocess.run(
        [*map(str, line), "--to", str(tmp_path / "record.json")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "| probe bf16, nothing written |" in done.stdout
    record = json.loads((tmp_path / "record.json").read_text())
    assert all(len(item["wall_s"]) == 2 for item in record["seconds"].values())
    assert record["errors"]["fp32"]["in company"] == 0
    assert record["errors"]["fp32"]["against transformers"] < 1e-5


@pytest.mark.slow
def test_ways_of_storing_are_measured() -> None:
    line = [
        sys.executable,
        FOLDER / "store.py",
        "--model",
        "random:data2vec-audio-tiny",
        "--seconds",
        "5",
        "--rounds",
        "2",
    ]
    done = subprocess.run([*map(str, line)], capture_output=True, text=True, check=True)
    assert "| a gzipped dataset per utterance |" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--layers", "2", "--dim", "16", "--epochs", "2", "--rounds", "2"],
        ["--head", "mlp", "--layers", "2", "--dim", "16", "--epochs", "2", "--rounds", "2"],
        [
            "--head",
            "bilstm",
            "--layers",
            "2",
            "--dim",
            "16",
            "--hidden",
            "8",
            "--epochs",
            "2",
            "--rounds",
            "2",
        ],
        [
            "--step",
            "--lstm-layers",
            "2",
            "--layers",
            "2",
            "--dim",
            "16",
            "--hidden",
            "8",
            "--rounds",
            "2",
        ],
        ["--loss", "--layers", "2"],
    ],
)
def test_ctc_heads_are_measured(options: list[str]) -> None:
    line = [sys.executable, FOLDER / "ctc.py", "--utterances", "16", *options]
    done = subprocess.run([*map(str, line)], capture_output=True, text=True, check=True)
    assert "| one at a time |" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--trials", "60"]])
def test_tables_and_a_report_of_drawn_records_are_measured(
    tmp_path: Path, options: list[str]
) -> None:
    line = [
        sys.executable,
        FOLDER / "tables.py",
        "--models",
        "2",
        "--layers",
        "3",
        "--tasks",
        "2",
        "--conditions",
        "2",
        *options,
    ]
    done = subprocess.run(
        [*map(str, line), "--to", str(tmp_path)], capture_output=True, text=True, check=True
    )
    reading, *commands = map(json.loads, done.stdout.splitlines())
    assert (
        reading["records"] == 48
        and len(commands) == 8
        and all(command["bytes"] for command in commands)
    )
    assert (tmp_path / "report.html").stat().st_size < 200_000
