"""A whole extraction takes bounded memory and no growing number of files, however long a file and
however many there are.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE_HZ = 16_000

if not Path("/proc/self/status").exists():
    pytest.skip("reads memory from /proc", allow_module_level=True)


def shards_done(features: Path) -> float:
    """Part of the planned shards that are there; -1 before there is a plan."""
    plans = [json.loads(path.read_text()) for path in features.glob("*/*/plan-*.json")]
    planned = sum(job["parts"] for plan in plans for job in plan["jobs"])
    return len(list(features.glob("*/*/shard-*.json"))) / planned if planned else -1


def watched(*arguments: object) -> list[tuple[float, int]]:
    """Runs ``probe`` and looks every 20 ms while it writes its store: (resident MB, open files)."""
    seen: list[tuple[float, int]] = []
    line = [sys.executable, "-m", "probe", "-q", "extract", *map(str, arguments)]
    with subprocess.Popen(line, stdout=subprocess.DEVNULL) as process:
        folder = Path(f"/proc/{process.pid}")
        store = Path(str(arguments[arguments.index("--to") + 1]))
        while process.poll() is None:
            try:
                lines = (folder / "status").read_text().splitlines()
                resident = (
                    next((int(item.split()[1]) for item in lines if item.startswith("VmRSS")), 0)
                    / 1024
                )
                if resident and 0 <= shards_done(store) < 1:
                    seen.append((resident, len(list((folder / "fd").iterdir()))))
            except (FileNotFoundError, ProcessLookupError):  # it has just ended
                break
            time.sleep(0.02)
    assert process.returncode == 0
    return seen


def write_corpus(folder: Path, durations_s: list[float]) -> Path:
    """Noise; a file of each duration, and a manifest that names it as often as it is asked for."""
    generator = np.random.default_rng(0)
    lines = ["id,path,text,speaker,domain,split,duration_s"]
    for number, seconds in enumerate(durations_s):
        name = f"{seconds}-{number % 50}.wav"
        if not (folder / name).exists():
            soundfile.write(
                folder / name, generator.normal(0, 0.1, int(seconds * RATE_HZ)), RATE_HZ
            )
        lines.append(f"{number},{name},,,,train,")
    manifest = folder / "corpus.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


@pytest.mark.parametrize(
    "minutes",
    [pytest.param(2, marks=pytest.mark.nightly), pytest.param(20, marks=pytest.mark.slow)],
)
def test_a_long_file_takes_a_few_times_its_samples(tmp_path: Path, minutes: int) -> None:
    peaks = []
    for name, durations_s in [("short", [1.0] * 200), ("long", [60.0 * minutes])]:
        (folder := tmp_path / name).mkdir()
        seen = watched(
            "--model",
            "fbank",
            "--corpus",
            write_corpus(folder, durations_s),
            "--to",
            folder / "features",
        )
        peaks.append(max(resident for resident, _ in seen))
    short, long = peaks
    samples_mb = 4 * 60 * minutes * RATE_HZ / 1e6
    more_mb = long - short
    print(
        f"\n{minutes} minutes, {samples_mb:.0f} MB of samples: {more_mb:.0f} MB more than "
        f"files of a second ({short:.0f} MB)"
    )
    assert more_mb < 60 + 5 * samples_mb


@pytest.mark.parametrize(
    "n", [pytest.param(1600, marks=pytest.mark.nightly), pytest.param(5000, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("isolated", [False, True], ids=["here", "isolated"])
def test_many_files_take_no_more_memory_and_files_than_a_few(
    tmp_path: Path, n: int, isolated: bool
) -> None:
    manifest = write_corpus(tmp_path, [2.0, 0.5] * (n // 2))
    seen = watched(
        "--model",
        "fbank",
        "--corpus",
        manifest,
        "--to",
        tmp_path / "features",
        *(["--isolate-decode"] if isolated else []),
    )
    half = len(seen) // 2  # the first half holds a whole shard, which is built in memory
    first_mb, first_files = (max(column) for column in zip(*seen[:half], strict=True))
    last_mb, last_files = (max(column) for column in zip(*seen[half:], strict=True))
    print(
        f"\n{n} files: at most {first_mb:.1f} MB and {first_files} open files in the "
        f"first half, {last_mb:.1f} and {last_files} after"
    )
    assert last_mb < first_mb + 30
    assert last_files <= first_files + 1  # the shard that is being written
