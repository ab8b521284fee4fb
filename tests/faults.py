"""Stores and records under faults: ``python tests/faults.py KIND [--n N] [--seed S]`` prints one
JSON line.

A small corpus is extracted into a store of several shards, again and again, in forked processes
that are killed or failed on purpose. After each, what was committed must read back, the same
command must complete the store, and its bytes must be those of a run that nothing disturbed.
``calls`` counts the calls that change files (through tests/shim.c, preloaded) and strikes each of
them with an I/O error, a full disk, a short write (writes only) and SIGKILL. ``records`` strikes a
file of records, which replaces one of another question, and its outcomes in the same way: they must
belong together, be named, or be written again. ``refusals`` keeps sound files from being read or
locked: nothing of them may be called damaged, removed or changed. ``writers`` are several runs into
one store at the same time.
"""

import argparse
import atexit
import ctypes
import errno
import hashlib
import importlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from scored import record

from probe import cli
from probe.errors import ProbeError
from probe.extraction import extract as extraction
from probe.extraction import plan
from probe.extraction.settings import Running
from probe.record_check import check_records
from probe.records import iterate_records, outcomes_path, sha256_of_outcomes, write_records
from probe.reporting.report.utterances import error_rows, outcome_faults
from probe.store.feature_store import FeatureStore

N_FILES, SHARD_BYTES = 14, 12_000
FOREIGN = (
    ".shard-00001.h5.4242-deadbeef.tmp"  # a temporary of some other run, which nobody may remove
)
KINDS = {"EIO": 1, "ENOSPC": 2, "short write": 3, "SIGKILL": 4}


def make_corpus(folder: Path) -> Path:
    """A manifest of noise of several lengths."""
    generator = np.random.default_rng(0)
    lines = ["path,text,speaker,domain,split,duration_s"]
    for number in range(N_FILES):
        samples = generator.integers(-9000, 9000, 1600 + 331 * number).astype(np.int16)
        soundfile.write(folder / f"{number}.wav", samples, 16_000)
        lines.append(f"{number}.wav,one,ann,near,train,{len(samples) / 16_000}")
    manifest = folder / "corpus.csv"
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return manifest


def extract(manifest: Path, to: Path) -> None:
    """One run, in this process."""
    extraction.extract("fbank", manifest, to, running=Running(device="cpu"))


def forked(work: Callable[[], int]) -> int:
    """A child's process id; the child ends with what ``work`` returns, 1 after a message for
    people, 99 after anything else.
    """
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        code = work()
    except (ProbeError, OSError) as error:
        print(str(error).splitlines()[0], file=sys.stderr)
        code = 1
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 98
    finally:
        os._exit(code)


def ended(child: int, limit_s: float = 60.0) -> int:
    """The child's exit code, negative for a signal; 97 where it was killed after the limit."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 97


def content(root: Path) -> dict[str, bytes]:
    """Every file of the stores but temporaries."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".tmp")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def readable(root: Path) -> tuple[int, int]:
    """(committed utterances that read back finite, shards that do not)."""
    utterances = broken = 0
    for path in root.glob("*/*/recipe.json"):
        store = FeatureStore(path.parent)
        for job in store.jobs:
            keys = [
                key for key in job.keys if job.number in store.complete and key in store.utterances
            ]
            try:
                values = store.layer("0", keys).values if keys else np.zeros(0)
                assert np.isfinite(values).all()
                utterances += len(keys)
            except (ProbeError, AssertionError):
                broken += 1
    return utterances, broken


class Trial:
    """One folder with its corpus and the result of an undisturbed run."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="probe-faults-"))
        self.manifest = make_corpus(self.folder)
        whole = self.folder / "whole"
        self.run(whole)  # in this process, so that the children inherit what is read once
        self.expected = content(whole)
        began = time.monotonic()
        assert ended(forked(lambda: self.run(self.target()))) == 0
        self.seconds = time.monotonic() - began
        self.found: Counter[str] = Counter()
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)

    def run(self, to: Path) -> int:
        extract(self.manifest, to)
        return 0

    def target(self) -> Path:
        """A fresh folder of stores."""
        path = self.folder / "features"
        shutil.rmtree(path, ignore_errors=True)
        return path

    def plant_foreign(self, to: Path) -> None:
        for store in to.glob("*/*"):
            (store / FOREIGN).write_bytes(b"another run's")

    def judge(self, to: Path) -> None:
        """Counts what was lost, resumes, and compares with the undisturbed run."""
        before, broken = readable(to)
        self.found["unreadable shards"] += broken
        self.plant_foreign(to)
        stores = list(to.glob("*/*"))
        code = ended(forked(lambda: self.run(to)))
        after, broken = readable(to)
        self.found["resumes that failed"] += code != 0
        self.found["unreadable shards"] += broken
        self.found["utterances lost"] += max(0, before - after) + (N_FILES - after)
        self.found["stores that differ"] += content(to) != self.expected
        self.found["foreign temporaries removed"] += sum(
            not (store / FOREIGN).exists() for store in stores
        )
        self.found["trials"] += 1


def kills(n: int, generator: random.Random) -> Counter[str]:
    """kill -9 at random moments."""
    trial = Trial()
    for _ in range(n):
        to = trial.target()
        child = forked(lambda to=to: trial.run(to))  # type: ignore[misc]
        waited_s = generator.uniform(0, 1.1 * trial.seconds)
        time.sleep(waited_s)
        os.kill(child, signal.SIGKILL)
        is_hit = ended(child) == -signal.SIGKILL
        trial.found["killed before the end"] += is_hit
        if not is_hit:  # a run takes less, now that the machine has less to do
            trial.seconds = min(trial.seconds, waited_s)
        trial.judge(to)
    return trial.found


def calls(n: int, generator: random.Random) -> Counter[str]:
    """Each fault at every call that changes a file, or at ``n`` of them drawn at random."""
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
    trial = Trial()

    def armed(to: Path, kind: int, at: int) -> int:
        shim.fault_arm(str(to).encode(), kind, ctypes.c_long(at))
        trial.run(to)
        (trial.folder / "calls").write_text(str(shim.fault_calls()))
        return 0

    assert ended(forked(lambda: armed(trial.target(), 0, -1))) == 0
    n_calls = int((trial.folder / "calls").read_text())
    for kind, at in places(n_calls, n, generator):
        to = trial.target()
        code = ended(forked(lambda to=to, kind=kind, at=at: armed(to, KINDS[kind], at)))  # type: ignore[misc]
        expected = (-signal.SIGKILL,) if kind == "SIGKILL" else (0, 1)
        trial.found["crashes"] += code not in expected
        trial.judge(to)
    trial.found["calls"] = n_calls
    return trial.found


def places(n_calls: int, n: int, generator: random.Random) -> list[tuple[str, int]]:
    """Each fault at each of the calls, or ``n`` of these places drawn at random."""
    every = [(kind, at) for kind in KINDS for at in range(n_calls)]
    return generator.sample(every, min(n, len(every))) if n else every


def records(n: int, generator: random.Random) -> Counter[str]:
    """Each fault at every call that changes a file while records and outcomes replace others."""
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
    folder = Path(tempfile.mkdtemp(prefix="probe-faults-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    to = folder / "results"
    path, counts = to / "a.jsonl", Counter[str]()

    def write(seed: int) -> int:
        outcomes = outcomes_of(seed)
        digest = hashlib.sha256(outcomes).hexdigest()
        write_records(path, [record(seed=seed, outcomes_sha256=digest)], outcomes)
        return 0

    def outcomes_of(seed: int) -> bytes:
        said = {
            "layer": "0",
            "head": "linear",
            "train_domain": "",
            "test_domain": "",
            "key": f"seed {seed}",
        }
        return json.dumps(said | {"label": "yes", "predicted": "no"}).encode() + b"\n"

    def armed(kind: int, at: int) -> int:
        shim.fault_arm(str(to).encode(), kind, ctypes.c_long(at))
        write(1)
        (folder / "calls").write_text(str(shim.fault_calls()))
        return 0

    def before() -> None:
        shutil.rmtree(to, ignore_errors=True)
        write(0)

    before()
    old = path.read_bytes()
    assert ended(forked(lambda: armed(0, -1))) == 0
    new, n_calls = path.read_bytes(), int((folder / "calls").read_text())
    for kind, at in places(n_calls, n, generator):
        before()
        code = ended(forked(lambda kind=kind, at=at: armed(KINDS[kind], at)))  # type: ignore[misc]
        counts["crashes"] += code not in ((-signal.SIGKILL,) if kind == "SIGKILL" else (0, 1))
        counts["records absent or cut"] += path.read_bytes() not in (old, new)
        (item,) = iterate_records(path)
        together = outcomes_path(path).read_bytes() == outcomes_of(item.seed)
        counts["pairs broken on the way"] += not together
        named = any(finding.field == "outcomes_sha256" for finding in check_records([to])[1])
        counts["broken pairs that nothing names"] += (
            named == together or bool(outcome_faults([to])) == together
        )
        counts["outcomes of other records shown"] += any(
            row["key"] != f"seed {item.seed}" for row in error_rows([to])
        )
        counts["broken pairs taken for finished"] += (
            item.outcomes_sha256 == sha256_of_outcomes(path)
        ) != together
        counts["resumes that failed"] += ended(forked(lambda: write(1))) != 0
        counts["pairs that differ"] += (path.read_bytes(), outcomes_path(path).read_bytes()) != (
            new,
            outcomes_of(1),
        )
        kept = [
            {item.read_bytes() for item in place.glob("*.old")} for place in (to, to / "outcomes")
        ]
        counts["records or outcomes lost"] += kept != [{old}, {outcomes_of(0)}]
        counts["trials"] += 1
    return counts + Counter({"calls": n_calls})


def sizes(n: int, generator: random.Random) -> Counter[str]:
    """A disk that is full at a random size: RLIMIT_FSIZE, which fails a write at that size of a
    file.
    """
    trial = Trial()
    largest = max(map(len, trial.expected.values()))

    def limited(to: Path, size: int, errors: Path) -> int:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.argv = [
            "probe",
            "-q",
            "extract",
            "--model",
            "fbank",
            "--corpus",
            str(trial.manifest),
            "--to",
            str(to),
        ]
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        cli.main()

    for _ in range(n):
        to, errors = trial.target(), trial.folder / "stderr"
        size = generator.randrange(1, largest)
        code = ended(forked(lambda to=to, size=size, errors=errors: limited(to, size, errors)))  # type: ignore[misc]
        said = errors.read_text()[:size]
        trial.found["codes other than 1"] += code != 1
        whole = size > 300  # the message itself is written to a file of limited size
        trial.found["messages that are not one line with the bytes needed"] += whole and not (
            said.count("\n") == 1 and os.strerror(errno.EFBIG) in said and "bytes" in said
        )
        trial.judge(to)
    return trial.found


def writers(n: int, generator: random.Random) -> Counter[str]:
    """Four runs into one store at once; one of them is killed at a random moment."""
    trial = Trial()
    for _ in range(n):
        to = trial.target()
        killed, *others = [forked(lambda to=to: trial.run(to)) for _ in range(4)]  # type: ignore[misc]
        time.sleep(generator.uniform(0, 1.1 * trial.seconds))
        os.kill(killed, signal.SIGKILL)
        codes = [ended(child) for child in others]
        trial.found["killed before the end"] += ended(killed) == -signal.SIGKILL
        trial.found["runs that failed"] += sum(code != 0 for code in codes)
        trial.judge(to)
    return trial.found


def signals(n: int, generator: random.Random) -> Counter[str]:
    """Ctrl-C, SIGTERM and SIGUSR1 at random moments of ``probe extract``, ``n`` each."""
    trial = Trial()

    def command(to: Path) -> int:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.dup2(2, 1)
        sys.argv = [
            "probe",
            "extract",
            "--model",
            "fbank",
            "--corpus",
            str(trial.manifest),
            "--to",
            str(to),
        ]
        cli.main()

    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)):
        hits = 0
        for _ in range(20 * n):
            if hits == n:
                break
            to = trial.target()
            child = forked(lambda to=to: command(to))  # type: ignore[misc]
            time.sleep(
                generator.uniform(0.02, trial.seconds)
            )  # the first moments belong to the fork
            os.kill(child, number)
            began = time.monotonic()
            found = ended(child)
            hits += found != 0
            trial.found["ended by themselves"] += found == 0
            trial.found["hit"] += found != 0
            trial.found["other codes"] += found not in (0, code)
            trial.found["ends after 10 s"] += time.monotonic() - began > 10
            trial.found["temporaries left"] += len(list(to.rglob("*.tmp")))
            trial.judge(to)
    return trial.found


def refusals(n: int, generator: random.Random) -> Counter[str]:
    """Each error at the opening of files and at each read, or at ``n`` reads drawn at random; and a
    file system without locks, which nothing of ours needs.
    """
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
    trial = Trial()
    importlib.import_module("probe.pipeline")  # once, and not in every child
    root, said = trial.folder / "whole", trial.folder / "said"
    (store,) = root.glob("*/*")

    def command(refusal: tuple[str, int, bool, int], arguments: list[str | Path]) -> int:
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(1, 2)
        text, error, opening, number = refusal
        shim.fault_refuse(
            str(trial.folder).encode(), text.encode(), error, int(opening), ctypes.c_long(number)
        )
        sys.argv = ["probe", *map(str, arguments)]
        try:
            cli.main()
        finally:
            (trial.folder / "reads").write_text(str(shim.fault_reads()))

    def done(refusal: tuple[str, int, bool, int], *arguments: str | Path) -> int:
        return ended(forked(lambda: command(refusal, [*arguments])))

    assert done((".h5", 0, False, 0), "verify", store) == 0
    n_reads = int((trial.folder / "reads").read_text())
    errors = (errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE)
    refused = [
        (text, error, opening, 0)
        for text in (".h5", ".json")
        for error in errors
        for opening in (True, False)
    ]
    refused += [(".h5", errno.EIO, False, number) for number in range(1, n_reads)]
    for refusal in refused if n == 0 else [refused[0], *generator.sample(refused, n - 1)]:
        for arguments in (["verify", store], ["export", store, "--to", trial.folder / "out"]):
            code = done(refusal, *arguments)
            text = said.read_text()
            named = os.strerror(refusal[1]) in text
            trial.found["ended without naming the error"] += arguments[0] == "verify" and (
                code != 1 or not named
            )
            trial.found["crashes"] += code not in (0, 1) or "Traceback" in text
            trial.found["called damaged"] += bool(
                re.search(r"(?i)damage|remove (?!nothing)|fetch", text)
            )
            trial.found["stores that differ"] += content(root) != trial.expected
            trial.found["trials"] += 1
            (trial.folder / "out").unlink(missing_ok=True)
    unlocked = ("no file", errno.ENOLCK, False, 0)
    to = trial.target()
    trial.found["crashes"] += (
        done(unlocked, "extract", "--model", "fbank", "--corpus", trial.manifest, "--to", to) != 0
    )
    trial.found["words of missing locks"] += "lock" in said.read_text()
    trial.found["stores that differ"] += content(to) != trial.expected
    trial.found["crashes"] += done(unlocked, "verify", to) != 0
    trial.found["crashes"] += (
        done(unlocked, "export", next(to.glob("*/*")), "--to", trial.folder / "out") != 0
    )
    return trial.found


TRIALS = {
    trial.__name__: trial for trial in (kills, calls, records, sizes, writers, signals, refusals)
}


def main() -> None:
    """Runs one kind of trial and prints what it counted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=TRIALS)
    parser.add_argument("--n", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.kind in ("calls", "records", "refusals") and "LD_PRELOAD" not in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            shim = Path(folder) / "shim.so"
            source = Path(__file__).with_name("shim.c")
            subprocess.run(
                ["cc", "-shared", "-fPIC", "-O1", "-o", shim, source, "-ldl"], check=True
            )
            sys.exit(
                subprocess.call(
                    [sys.executable, *sys.argv], env={**os.environ, "LD_PRELOAD": str(shim)}
                )
            )
    torch.set_num_threads(1)  # forks must not inherit a pool of threads
    plan.SHARD_BYTES = SHARD_BYTES
    began = time.monotonic()
    found = TRIALS[given.kind](given.n, random.Random(given.seed))
    print(json.dumps({**found, "seconds": round(time.monotonic() - began, 1)}))


if __name__ == "__main__":
    main()
