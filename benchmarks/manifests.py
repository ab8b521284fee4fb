"""How long a large manifest takes to be read and checked, without touching audio. One command:

    python benchmarks/manifests.py [--rows 1000000] [--forms csv jsonl] [--folder DIR]

Each form is read in a process of its own by `probe.load_corpus`; every row names a file of its own,
a thousand to a folder. Prints seconds from the call to the corpus, on the clock and of the
processor, seconds from the start of Python to the first progress on a terminal, and the peak memory
of the process with everything that it has imported.
"""

import argparse
import json
import os
import pty
import resource
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path

PER_FOLDER = 1000
WORDS = "zero one two three four five six seven eight nine"


def rows(n_rows: int) -> Iterator[dict[str, object]]:
    """The rows of a manifest."""
    for i in range(n_rows):
        yield {
            "path": f"clips/{i // PER_FOLDER:04}/utterance_{i:07}.flac",
            "text": f"{WORDS} {i}",
            "speaker": f"speaker-{i % 5000:04}",
            "domain": "read",
            "split": ("train", "train", "train", "dev", "test")[i % 5],
            "duration_s": 2 + i % 1000 / 100,
        }


def write(folder: Path, n_rows: int) -> None:
    """Writes the manifests and empty files in place of audio."""
    for number in range(0, n_rows, PER_FOLDER):
        (folder / f"clips/{number // PER_FOLDER:04}").mkdir(parents=True)
    with (folder / "corpus.csv").open("w") as table, (folder / "corpus.jsonl").open("w") as lines:
        for row in rows(n_rows):
            if table.tell() == 0:
                table.write(",".join(row) + "\n")
            table.write(",".join(map(str, row.values())) + "\n")
            lines.write(json.dumps(row) + "\n")
            (folder / str(row["path"])).touch()


def one(manifest: str) -> None:
    """Prints seconds and MB of reading one manifest."""
    import probe

    start, cpu_start = time.perf_counter(), time.process_time()
    corpus = probe.load_corpus(manifest)
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(len(corpus.utterances), seconds, cpu_s, megabytes)


def measured(manifest: Path) -> tuple[str, ...]:
    """What `one` prints of a manifest, and seconds to the first progress."""
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 80))  # a bar as wide as a terminal without a size is empty
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, __file__, "--one", str(manifest)],
        stdout=subprocess.PIPE,
        stderr=end,
        text=True,
    )
    os.close(end)
    first_s = float("nan")
    try:
        if os.read(terminal, 1):
            first_s = time.perf_counter() - start
        while os.read(terminal, 65536):
            pass
    except OSError:  # the other end was closed
        pass
    printed, _ = child.communicate()
    return (*printed.split(), str(first_s))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--forms", nargs="*", default=["csv", "jsonl"])
    parser.add_argument("--folder", type=Path, help="where the files are made (default: temporary)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        one(chosen.one)
        return
    with tempfile.TemporaryDirectory(dir=chosen.folder) as temporary:
        write(Path(temporary), chosen.rows)
        print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
        print("| form | rows | seconds | CPU s | peak MB | first progress, s |")
        print("|---|--:|--:|--:|--:|--:|")
        for form in chosen.forms:
            n, *figures = measured(Path(temporary) / f"corpus.{form}")
            cells = [form, n, *(f"{float(item):.1f}" for item in figures)]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
