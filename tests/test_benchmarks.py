"""The benchmarks run, on a small model; what they measure is not looked at here."""

import json
import os
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


@pytest.mark.nightly
def test_the_script_for_gpus_runs_through_on_a_cpu(tmp_path: Path) -> None:
    line = ["bash", str(FOLDER / "gpu.sh"), str(tmp_path / "gpu.json"), "--dry"]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert {name: step["exit_code"] for name, step in record["steps"].items()} == dict.fromkeys(
        ("tests", "base", "large", "probes", "ctc", "disk"), 0
    )
    for size in ("base", "large"):
        ways = record[size]["summary"]
        assert len(ways) == 4
        assert all(
            item["share_of_peak"] > 0 and item["ratio_to_padded"] > 0 for item in ways.values()
        )
    assert record["probes"]["frames"]["rows"] == 2000
    assert record["ctc"]["epoch_seconds"].keys() == {"together", "one at a time"}
