"""Nothing committed is lost, nothing damaged is read: extraction and records under injected faults,
see tests/faults.py.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What no fault may cause; each trial counts these.
NEVER = (
    *(
        "unreadable shards",
        "resumes that failed",
        "utterances lost",
        "stores that differ",
        "foreign temporaries removed",
    ),
    *(
        "crashes",
        "runs that failed",
        "codes other than 1",
        "other codes",
        "ends after 10 s",
        "temporaries left",
    ),
    *(
        "messages that are not one line with the bytes needed",
        "called damaged",
        "ended without naming the error",
    ),
    "words of missing locks",
    *(
        "records absent or cut",
        "broken pairs that nothing names",
        "outcomes of other records shown",
    ),
    *("broken pairs taken for finished", "pairs that differ", "records or outcomes lost"),
)
# Kind -> number of trials by default, every night, and in the long form (0: every place).
NUMBERS = {
    "kills": (8, 16, 200),
    "calls": (8, 40, 0),
    "records": (16, 16, 0),
    "sizes": (2, 6, 50),
    "writers": (1, 2, 25),
    "signals": (1, 3, 50),
    "refusals": (1, 3, 0),
}


def counted(kind: str, n: int) -> dict[str, float]:
    """What one kind of trial counts, in a process of its own."""
    if kind in ("calls", "records", "refusals") and not (
        shutil.which("cc") and sys.platform == "linux"
    ):
        pytest.skip("striking I/O calls needs a C compiler and Linux")
    command = [sys.executable, str(ROOT / "tests" / "faults.py"), kind, "--n", str(n)]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(kind, json.dumps(found))
    return found


def judged(kind: str, n: int) -> None:
    found = counted(kind, n)
    assert found["trials"] >= n * (3 if kind == "signals" else 1)
    assert {name: found[name] for name in NEVER if found.get(name)} == {}
    if kind == "kills":
        assert found["killed before the end"] >= n / 2, (
            "most kills must hit a run that is still going"
        )
    if kind == "signals":
        assert found["hit"] == 3 * n
    if kind == "calls":
        assert found["calls"] > 100
    if kind == "records":
        assert found["pairs broken on the way"], "some strikes must hit between the two files"


@pytest.mark.parametrize("kind", ["kills", "calls", "records", "signals"])
def test_a_fault_loses_nothing_and_the_same_command_continues(kind: str) -> None:
    judged(kind, NUMBERS[kind][0])


@pytest.mark.nightly
@pytest.mark.parametrize("kind", NUMBERS)
def test_more_faults_lose_nothing_and_the_same_command_continues(kind: str) -> None:
    judged(kind, NUMBERS[kind][1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", NUMBERS)
def test_many_faults_lose_nothing_and_the_same_command_continues(kind: str) -> None:
    judged(kind, NUMBERS[kind][2])
