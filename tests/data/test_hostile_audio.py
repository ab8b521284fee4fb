"""Hostile audio: whatever a file holds or is, decoding gives samples or a reason, within a time and
a bound on memory.
"""

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile
from exhaustive import mostly_nightly
from hostile import RATE_HZ, mutated, small_files, speechlike

from probe.data import audio_bytes
from probe.data import guarded_decoding as decoders
from probe.data.audio import header_duration_s, load_audio, read_header
from probe.data.guarded_decoding import Decoder
from probe.errors import UtteranceError

ADDRESS_SPACE = 2 << 30
# A decoder process that cannot take more than 2 GB of addresses and notes its process id in a file
# beside it.
BOUNDED = f"""
import os, resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({ADDRESS_SPACE}, {ADDRESS_SPACE}))
with open(sys.argv[1], "a") as file:
    print(os.getpid(), file=file)
from probe.data.guarded_decoding import main
main()
"""


@dataclass
class Tally:
    """What came of many decodes."""

    decodes: int = 0
    sound: int = 0
    crashes: int = 0
    hangs: int = 0
    starts: int = 0
    peak_mb: float = 0.0
    seconds: float = 0.0
    reasons: Counter = field(default_factory=Counter)
    worst: list[tuple[int, str]] = field(default_factory=list)


@pytest.fixture
def pids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes decoder processes bounded; returns the file where each leaves its process id."""
    script = tmp_path / "bounded.py"
    script.write_text(BOUNDED)
    monkeypatch.setattr(
        decoders, "CHILD", (sys.executable, "-P", str(script), str(tmp_path / "pids"))
    )
    monkeypatch.setenv(
        "OPENBLAS_NUM_THREADS", "1"
    )  # its threads take addresses that are counted here
    return tmp_path / "pids"


def decode_all(contents: Iterator[bytes], pids: Path, folder: Path) -> Tally:
    """Decodes each in the bounded process, with and without knowing how long it should be."""
    tally = Tally()
    started = time.monotonic()
    with Decoder(isolate=True, timeout_s=20) as decoder:
        for number, content in enumerate(contents):
            path = folder / f"{number % 64}.audio"
            path.write_bytes(content)
            tally.decodes += 1
            try:
                loaded = decoder.load(path, RATE_HZ, 0.4 if number % 2 else None)
                assert np.isfinite(loaded.samples).all()
                tally.sound += 1
            except UtteranceError as error:
                assert len(str(error)) > 10, "a failure without a reason"
                assert "more audio than memory" not in str(error), (
                    "memory was taken that a header asked for"
                )
                tally.crashes += "decoder process" in str(error)
                tally.hangs += "took longer than" in str(error)
                if "decoder process" in str(error) or "took longer than" in str(error):
                    tally.worst.append((number, str(error)))
                tally.reasons[" ".join(str(error).split()[:3])] += 1
        started_pids = pids.read_text().split()
        tally.starts = len(started_pids)
        lines = Path(f"/proc/{started_pids[-1]}/status").read_text().splitlines()
        tally.peak_mb = (
            next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
        )
    tally.seconds = time.monotonic() - started
    return tally


def mutants(n: int, seed: int = 0) -> Iterator[bytes]:
    generator = np.random.default_rng(seed)
    files = list(small_files().values())
    for number in range(n):
        yield mutated(files[number % len(files)], generator)


def assert_harmless(tally: Tally, n: int) -> None:
    assert tally.worst == [], "crashes and hangs, by the number of the mutant"
    assert (tally.decodes, tally.crashes, tally.hangs, tally.starts) == (n, 0, 0, 1)
    assert tally.sound + sum(tally.reasons.values()) == n
    assert n / 20 < tally.sound < n / 2, (
        "mutants should be neither all sound nor all beyond recognition"
    )
    assert tally.peak_mb < 400


@pytest.mark.parametrize("n", mostly_nightly([80, 600], [80]))
def test_damaged_files_of_every_format_end_in_samples_or_a_reason(
    pids: Path, tmp_path: Path, n: int
) -> None:
    assert_harmless(decode_all(mutants(n), pids, tmp_path), n)


@pytest.mark.slow
def test_twenty_thousand_damaged_files_crash_nothing_and_hang_nowhere(
    pids: Path, tmp_path: Path
) -> None:
    tally = decode_all(mutants(20_000, seed=1), pids, tmp_path)
    print(
        f"\ndecodes {tally.decodes}, sound {tally.sound}, crashes {tally.crashes}, hangs "
        f"{tally.hangs}, "
        f"peak {tally.peak_mb:.0f} MB resident, {tally.seconds:.0f} s; "
        f"{len(tally.reasons)} kinds of reasons"
    )
    for reason, n in tally.reasons.most_common(12):
        print(f"  {n:6d} {reason} ...")
    assert_harmless(tally, 20_000)


def test_samples_near_the_largest_float_are_refused_when_resampling_makes_them_infinite(
    tmp_path: Path,
) -> None:
    samples = np.full(4000, 3e38, np.float32)
    samples[::2] *= -1
    soundfile.write(tmp_path / "a.wav", samples, 44_100, subtype="FLOAT")
    load_audio(tmp_path / "a.wav", 44_100)
    with pytest.raises(
        UtteranceError,
        match=r"NaN or infinite after resampling; the largest sample is 3e\+38 times full scale",
    ):
        load_audio(tmp_path / "a.wav", RATE_HZ)


# Truncation


def cuts(n: int, files: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """(format, cut file)."""
    generator = np.random.default_rng(2)
    names = list(files)
    for number in range(n):
        name = names[number % len(names)]
        yield name, files[name][: int(generator.integers(len(files[name])))]


def unflagged(n: int, folder: Path) -> tuple[Counter, Counter]:
    """(cuts, those that came through without a flag) by format; nobody says how long the files
    should be.
    """
    seen, through = Counter(), Counter()
    for name, content in cuts(n, small_files(2.0)):
        path = folder / "cut.audio"
        path.write_bytes(content)
        seen[name] += 1
        with contextlib.suppress(UtteranceError):
            through[name] += "no end mark" not in load_audio(path, RATE_HZ).flags
    return seen, +through


def test_every_cut_is_flagged(tmp_path: Path) -> None:
    assert unflagged(64, tmp_path) == (Counter(dict.fromkeys(small_files(), 8)), Counter())


def test_a_big_endian_wav_is_flagged_too_when_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, speechlike(0.4), RATE_HZ, format="WAV", endian="BIG")
    assert path.read_bytes()[:4] == b"RIFX"
    load_audio(path, RATE_HZ)
    os.truncate(path, 9000)
    with pytest.raises(
        UtteranceError,
        match="truncated: the WAV header promises 12800 bytes of audio, 8956 are there",
    ):
        load_audio(path, RATE_HZ)


def test_a_wav_of_nothing_but_empty_chunks_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF\xff\xff\xff\x00WAVE" + b"junk\0\0\0\0" * 3_000_000)
    started = time.monotonic()
    for refuse in (read_header, lambda path: load_audio(path, RATE_HZ)):
        with pytest.raises(UtteranceError, match="more than 10000 chunks before the audio"):
            refuse(path)
    assert time.monotonic() - started < 1


@pytest.mark.slow
def test_five_hundred_cuts_are_flagged(tmp_path: Path) -> None:
    seen, through = unflagged(504, tmp_path)
    print(f"\ncuts {seen.total()}, not flagged {through.total()}")
    assert not through


# What is no file


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def bound_socket(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    return path


def link(path: Path, to: str) -> Path:
    path.symlink_to(to)
    return path


def sized(path: Path, n_bytes: int) -> Path:
    path.touch()
    os.truncate(path, n_bytes)
    return path


def unreadable(path: Path) -> Path:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    path.touch(mode=0)
    return path


SPECIAL: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a FIFO": (fifo, "not a regular file"),
    "a FIFO behind a link": (
        lambda path: link(path, str(fifo(path.with_name("pipe")))),
        "not a regular file",
    ),
    "a folder": (lambda path: path.parent, "not a regular file"),
    "a device": (lambda path: link(path, "/dev/zero"), "not a regular file"),
    "a terminal": (lambda path: Path("/dev/tty"), "not a regular file|cannot be read"),
    "a socket": (bound_socket, "not a regular file"),
    "a loop of links": (
        lambda path: link(path, path.name),
        "cannot be read: Too many levels of symbolic links",
    ),
    "a dangling link": (lambda path: link(path, "gone"), "cannot be read: No such file"),
    "an empty file": (lambda path: sized(path, 0), r"the file is empty \(0 bytes\)"),
    "a byte": (lambda path: sized(path, 1), "cannot be decoded"),
    "10 GB of nothing": (
        lambda path: sized(path, 10_000_000_000),
        r"10\.0 GB; expected at most 4\.3 GB",
    ),
    "a name too long for a file": (
        lambda path: path.with_name("x" * 300),
        "cannot be read: File name too long",
    ),
    "a file that may not be read": (unreadable, "cannot be read: Permission denied"),
}


@pytest.fixture(scope="module")
def ways() -> Iterator[dict[str, Callable]]:
    """The ways to decode a file, all of which have to end within a few seconds."""
    with Decoder(timeout_s=5) as thread, Decoder(isolate=True, timeout_s=5) as child:
        yield {"by itself": load_audio, "in a thread": thread.load, "in a process": child.load}


@pytest.mark.parametrize(
    ("what", "way"),
    mostly_nightly(
        itertools.product(SPECIAL, ["by itself", "in a thread", "in a process"]),
        [*((what, "by itself") for what in SPECIAL), ("a FIFO", "in a process")],
    ),
)
def test_what_is_no_regular_file_is_refused_at_once(
    what: str, way: str, ways: dict[str, Callable], tmp_path: Path
) -> None:
    make, message = SPECIAL[what]
    path = make(tmp_path / "a.wav")
    started = time.monotonic()
    with pytest.raises(UtteranceError, match=message):
        ways[way](path, RATE_HZ)
    assert header_duration_s(path) is None
    with pytest.raises(UtteranceError):
        read_header(path)
    assert time.monotonic() - started < 3


@pytest.fixture
def on_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[Path], None]], Path]:
    """A sound file to which something is done between the look at it and its opening."""
    path = tmp_path / "a.wav"
    soundfile.write(path, speechlike(0.4), RATE_HZ)
    plain_open = os.open

    def arrange(change: Callable[[Path], None]) -> Path:
        def open_after(place: Path, *arguments: int) -> int:
            if place == path:
                change(path)
            return plain_open(place, *arguments)

        monkeypatch.setattr(audio_bytes.os, "open", open_after)
        return path

    return arrange


def test_a_file_exchanged_for_a_fifo_between_looking_and_opening_is_refused(
    on_open: Callable,
) -> None:
    path = on_open(lambda path: (path.unlink(), os.mkfifo(path)))
    with pytest.raises(UtteranceError, match="not a regular file"):
        load_audio(path, RATE_HZ)


def test_a_file_removed_meanwhile_is_refused(on_open: Callable) -> None:
    with pytest.raises(UtteranceError, match="cannot be read: No such file"):
        load_audio(on_open(Path.unlink), RATE_HZ)


def test_a_file_exchanged_for_a_link_that_leads_out_of_the_root_is_refused(
    on_open: Callable, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "b.wav"
    soundfile.write(outside, speechlike(0.4), RATE_HZ)
    path = on_open(lambda path: (path.unlink(), path.symlink_to(outside)))
    with pytest.raises(UtteranceError, match="cannot be read: Too many levels of symbolic links"):
        load_audio(path, RATE_HZ, root=tmp_path)


@pytest.mark.parametrize(
    "change", [lambda file: file.write(b"more"), lambda file: file.truncate(300)]
)
def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, speechlike(0.4), RATE_HZ)
    plain_read = os.read

    def read_then_change(descriptor: int, n: int) -> bytes:
        block = plain_read(descriptor, min(n, 1000))
        with path.open("ab") as file:
            change(file)
        return block

    monkeypatch.setattr(audio_bytes.os, "read", read_then_change)
    with pytest.raises(UtteranceError, match="changed while it was read"):
        load_audio(path, RATE_HZ)


# Memory and open files


def measured(script: str, *arguments: object) -> dict:
    """What a script prints as JSON, run in a process of its own."""
    watch = """
import json, os, sys
def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
def peak_mb():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3
def n_open():
    return len(os.listdir("/proc/self/fd"))
"""
    line = [sys.executable, "-c", watch + script, *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


LONG = """
from pathlib import Path
from probe.data.audio import load_audio
load_audio(Path(sys.argv[2]), 16000)
before = peak_mb()
n = len(load_audio(Path(sys.argv[1]), 16000).samples)
print(json.dumps({"extra_mb": peak_mb() - before, "samples_mb": 4 * n / 1e6}))
"""


def long_file_measures(folder: Path, minutes: float) -> tuple[dict, float]:
    """(figures, MB of the file) for a FLAC file of 48 kHz stereo."""
    path, short = folder / "long.flac", folder / "short.flac"
    soundfile.write(short, speechlike(1, 48_000, 2), 48_000)
    with soundfile.SoundFile(path, "w", 48_000, 2, subtype="PCM_16") as file:
        for seed in range(round(6 * minutes)):
            file.write(speechlike(10, 48_000, 2, seed))
    return measured(LONG, path, short), path.stat().st_size / 1e6


def assert_bounded(found: dict, file_mb: float) -> None:
    """The file's bytes, what comes back, and that again while it is put together; not the 6 times
    as many native samples.
    """
    assert found["extra_mb"] < 1.02 * file_mb + 2 * found["samples_mb"] + 15


@pytest.mark.nightly
def test_a_long_file_takes_no_more_memory_than_its_bytes_and_what_comes_back(
    tmp_path: Path,
) -> None:
    assert_bounded(*long_file_measures(tmp_path, 2))


@pytest.mark.slow
def test_a_file_of_twenty_minutes_takes_no_more_memory_than_its_bytes_and_what_comes_back(
    tmp_path: Path,
) -> None:
    found, file_mb = long_file_measures(tmp_path, 20)
    print(
        f"\n20 minutes of 48 kHz stereo: file {file_mb:.0f} MB, samples "
        f"{found['samples_mb']:.0f} MB, "
        f"{found['extra_mb']:.0f} MB at the peak beyond a file of a second"
    )
    assert_bounded(found, file_mb)


MANY = """
from pathlib import Path
from probe.data.guarded_decoding import Decoder
from probe.errors import UtteranceError
paths, rounds = sorted(Path(sys.argv[1]).iterdir()), int(sys.argv[2])
seen = []
with Decoder(isolate=sys.argv[3] == "isolated") as decoder:
    for number in range(rounds):
        try:
            decoder.load(paths[number % len(paths)], 16000)
        except UtteranceError:
            pass
        if number in (rounds // 5, rounds - 1):
            seen.append((resident_mb(), n_open()))
print(json.dumps(seen))
"""


@pytest.mark.parametrize(
    ("n_files", "how"),
    [
        (200, "isolated"),
        pytest.param(500, "here", marks=pytest.mark.nightly),
        pytest.param(5000, "here", marks=pytest.mark.slow),
        pytest.param(5000, "isolated", marks=pytest.mark.slow),
    ],
)
def test_many_files_leave_neither_memory_nor_open_files_behind(
    tmp_path: Path, n_files: int, how: str
) -> None:
    generator = np.random.default_rng(0)
    for name, content in small_files().items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / f"{name} broken").write_bytes(mutated(content, generator))
    fifo(tmp_path / "pipe")
    (early_mb, early_open), (late_mb, late_open) = measured(MANY, tmp_path, n_files, how)
    print(
        f"\n{n_files} files {how}: {early_mb:.1f} MB after a fifth, {late_mb:.1f} MB at "
        f"the end, {late_open} open files"
    )
    assert late_open == early_open
    assert late_mb - early_mb < 5
