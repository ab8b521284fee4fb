"""Whatever a decoder does to itself costs one utterance; isolated or not, the samples are the same;
paths stay in the root.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from exhaustive import mostly_nightly
from hostile import FORMATS, RATE_HZ, small_files, speechlike

from probe.cli import cli
from probe.data import audio_bytes
from probe.data import guarded_decoding as decoders
from probe.data.audio import load_audio
from probe.data.corpus import load_corpus
from probe.data.guarded_decoding import Decoder
from probe.errors import ProbeError, UsageError, UtteranceError
from probe.extraction.extract import extract
from probe.extraction.settings import Decoding, Running, Storing
from probe.store.stores import open_store

# A decoder process in whose library faults are planted: what it does depends on the name of the
# file.
PLANTED = """
import os, signal, time
from multiprocessing.connection import Connection
from probe.data import guarded_decoding

plain_answer, plain_send, current = guarded_decoding.answer, Connection.send_bytes, [""]

def answer(request, recordings):
    fault = current[0] = os.path.basename(request.path).removesuffix(".wav")
    if fault == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif fault == "exits":
        os._exit(7)
    elif fault == "hangs":
        time.sleep(3600)
    elif fault == "prints":
        os.write(1, b"printed"), os.write(2, b"printed")
    elif fault == "raises":
        raise ZeroDivisionError("a bug")
    return plain_answer(request, recordings)

def send_bytes(self, content):
    if current[0] == "babbles":
        content = b"what was the question?"
    if current[0] == "lists":
        content = b"[1, 2]"
    plain_send(self, content)

guarded_decoding.answer, Connection.send_bytes = answer, send_bytes
guarded_decoding.main()
"""
FAULTS = {
    "segfault": "the decoder process died with SIGSEGV",
    "exits": "the decoder process ended with exit code 7",
    "raises": "the decoder process ended with exit code 1",
    "hangs": r"decoding took longer than 0\.4 s; a sound file needs a longer --decode-timeout",
    "babbles": "the decoder process answered nonsense",
    "lists": "the decoder process answered nonsense",
}


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoder processes have faults planted in them."""
    (tmp_path / "planted.py").write_text(PLANTED)
    monkeypatch.setattr(decoders, "CHILD", (sys.executable, "-P", str(tmp_path / "planted.py")))
    monkeypatch.setattr(decoders, "GRACE_S", 0.1)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a second of sound under a name."""

    def sound(name: str) -> Path:
        soundfile.write(tmp_path / name, speechlike(1), RATE_HZ)
        return tmp_path / name

    return sound


@pytest.mark.parametrize("rate_hz", mostly_nightly([16_000, 8000], [8000]))
def test_isolated_or_not_the_same_comes_back_bit_for_bit(tmp_path: Path, rate_hz: int) -> None:
    with Decoder() as here, Decoder(isolate=True) as apart:
        for name, content in small_files().items():
            path = tmp_path / name
            path.write_bytes(content)
            wanted, one, other = (
                load_audio(path, rate_hz),
                here.load(path, rate_hz, 0.4),
                apart.load(path, rate_hz, 0.4),
            )
            np.testing.assert_array_equal(one.samples, wanted.samples)
            np.testing.assert_array_equal(other.samples, wanted.samples)
            assert other.samples.dtype == np.float32
            assert (
                {**vars(other), "samples": 0}
                == {**vars(one), "samples": 0}
                == {**vars(wanted), "samples": 0}
            )
            assert apart.header_duration_s(path) == here.header_duration_s(path)
    assert len(list(tmp_path.iterdir())) == len(FORMATS)


@pytest.mark.parametrize("isolate", [False, True])
def test_a_refusal_is_the_same_and_says_whether_the_file_could_be_read(
    tmp_path: Path, isolate: bool
) -> None:
    (tmp_path / "no audio").write_text("zero one two")
    with Decoder(isolate=isolate) as decoder:
        with pytest.raises(UtteranceError, match="cannot be decoded: Format not recogni") as broken:
            decoder.load(tmp_path / "no audio", RATE_HZ)
        with pytest.raises(UtteranceError, match="cannot be read: No such file") as gone:
            decoder.load(tmp_path / "gone", RATE_HZ)
        assert decoder.header_duration_s(tmp_path / "no audio") is None
    assert not isinstance(broken.value.__cause__, OSError)
    assert isinstance(gone.value.__cause__, OSError)


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize("fault", mostly_nightly(FAULTS, ["segfault", "hangs", "babbles"]))
def test_a_fault_of_the_decoder_process_costs_one_utterance(
    fault: str, write: Callable[[str], Path]
) -> None:
    bad, good = write(f"{fault}.wav"), write("good.wav")
    with Decoder(isolate=True, timeout_s=0.4) as decoder:
        before = decoder.load(good, RATE_HZ)
        for _ in range(2):
            with pytest.raises(UtteranceError, match=FAULTS[fault]) as caught:
                decoder.load(bad, RATE_HZ)
            assert isinstance(caught.value.__cause__, OSError), "it is worth another try"
            np.testing.assert_array_equal(decoder.load(good, RATE_HZ).samples, before.samples)


@pytest.mark.usefixtures("planted")
def test_what_the_library_prints_is_no_answer(write: Callable[[str], Path]) -> None:
    with Decoder(isolate=True) as decoder:
        assert len(decoder.load(write("prints.wav"), RATE_HZ).samples) == RATE_HZ


@pytest.mark.usefixtures("planted")
def test_a_crash_while_extracting_is_a_recorded_failure_that_is_tried_again(
    write: Callable[[str], Path], tmp_path: Path
) -> None:
    names = ["a.wav", "segfault.wav", "b.wav"]
    rows = [f"{write(name).name},one,s,near,train,1" for name in names]
    (tmp_path / "c.csv").write_text(
        "\n".join(["path,text,speaker,domain,split,duration_s", *rows]) + "\n"
    )
    for extracted in (2, 0):
        done = extract(
            "mfcc",
            tmp_path / "c.csv",
            tmp_path / "f",
            storing=Storing(view="mean"),
            running=Running(check=False),
            decoding=Decoding(isolate=True),
        )
        assert [(item.key, item.reason) for item in done.failures] == [
            ("segfault.wav", "the decoder process died with SIGSEGV")
        ]
        assert done.extracted == extracted
    done = extract(
        "mfcc",
        tmp_path / "c.csv",
        tmp_path / "f",
        storing=Storing(view="mean"),
        running=Running(check=False),
    )
    assert (done.extracted, done.failures) == (1, [])
    assert set(open_store(done.store).keys) == set(names)


def test_a_process_that_is_killed_between_two_files_costs_nothing(
    write: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import os\nfrom probe.data.guarded_decoding import main\n"
        "print(os.getpid(), file=open({!r}, 'a'), flush=True)\nmain()"
    )
    (tmp_path / "child.py").write_text(script.format(str(tmp_path / "pids")))
    monkeypatch.setattr(decoders, "CHILD", (sys.executable, "-P", str(tmp_path / "child.py")))
    good = write("good.wav")
    with Decoder(isolate=True) as decoder:
        decoder.load(good, RATE_HZ)
        os.kill(int((tmp_path / "pids").read_text()), signal.SIGKILL)
        time.sleep(0.2)
        assert len(decoder.load(good, RATE_HZ).samples) == RATE_HZ
        last = int((tmp_path / "pids").read_text().split()[-1])
    assert not Path(f"/proc/{last}").exists(), "the process outlived its decoder"


def test_a_process_that_does_not_start_ends_the_run_and_not_one_utterance_after_the_other(
    write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders, "CHILD", (sys.executable, "-c", "raise SystemExit(3)"))
    message = (
        "^--isolate-decode: the decoder process ended with exit code 3, before it decoded anything"
    )
    with Decoder(isolate=True) as decoder, pytest.raises(ProbeError, match=message) as caught:
        decoder.load(write("good.wav"), RATE_HZ)
    assert not isinstance(caught.value, UtteranceError)


def test_the_decoder_process_loads_no_torch() -> None:
    script = (
        "import probe.data.guarded_decoding, sys; "
        "print(*sorted({'torch', 'transformers', 'h5py'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


# Time


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A name whose reading never ends, as from a server that is gone, until the test does."""
    plain, release = os.read, threading.Event()

    def read(descriptor: int, n: int) -> bytes:
        if "stuck" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            release.wait(30)
        return plain(descriptor, n)

    monkeypatch.setattr(audio_bytes.os, "read", read)
    yield Path("stuck.wav")
    release.set()


def test_a_read_that_never_ends_is_given_up(
    stuck: Path, write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders, "GRACE_S", 0.1)
    good, bad = write("good.wav"), write(stuck.name)
    started = time.monotonic()
    with Decoder(timeout_s=0.3) as decoder:
        for _ in range(2):
            with pytest.raises(
                UtteranceError, match=r"decoding took longer than 0\.3 s; .*--decode-timeout"
            ) as caught:
                decoder.load(bad, RATE_HZ)
            assert isinstance(caught.value.__cause__, TimeoutError)
            assert len(decoder.load(good, RATE_HZ).samples) == RATE_HZ
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("isolate", [False, True])
def test_a_file_that_takes_too_long_is_given_up_between_blocks(
    tmp_path: Path, isolate: bool
) -> None:
    with soundfile.SoundFile(tmp_path / "long.flac", "w", RATE_HZ, 1) as file:
        for _ in range(20):
            file.write(np.zeros(60 * RATE_HZ, np.float32))
    with Decoder(isolate=isolate, timeout_s=0.02) as decoder:
        decoder.header_duration_s(tmp_path / "long.flac")  # starts the process
        started = time.monotonic()
        with pytest.raises(UtteranceError, match=r"decoding took longer than 0\.02 s"):
            decoder.load(tmp_path / "long.flac", 8000)
        assert time.monotonic() - started < decoders.GRACE_S


# The root


@pytest.fixture
def tree(tmp_path: Path, write: Callable[[str], Path]) -> Path:
    """corpus/ with a sound, links that stay inside and links that lead outside, where secret.wav
    lies.
    """
    root = tmp_path / "corpus"
    (root / "sub").mkdir(parents=True)
    write("secret.wav")
    write("corpus/good.wav")
    write("corpus/sub/deep.wav")
    (root / "inside.wav").symlink_to("sub/deep.wav")
    (root / "link.wav").symlink_to(tmp_path / "secret.wav")
    (root / "up").symlink_to("..")
    (tmp_path / "corpus-2").mkdir()
    write("corpus-2/near.wav")
    return root


OUTSIDE = [
    "../secret.wav",
    "sub/../../secret.wav",
    "link.wav",
    "up/secret.wav",
    "{tmp}/secret.wav",
    "../corpus-2/near.wav",
]
OUTSIDE += ["/etc/passwd", "../not there"]
INSIDE = [
    "good.wav",
    "./sub/../good.wav",
    "inside.wav",
    "{tmp}/corpus/good.wav",
    "up/corpus/good.wav",
    "../corpus/sub/deep.wav",
]


def manifest_of(root: Path, path: str) -> Path:
    row = f"{path.format(tmp=root.parent)},one,s,near,train,1"
    (root / "m.csv").write_text(
        f"path,text,speaker,domain,split,duration_s\ngood.wav,one,s,near,train,1\n{row}\n"
    )
    return root / "m.csv"


@pytest.mark.parametrize(
    ("path", "isolate"), [*((path, False) for path in OUTSIDE), ("link.wav", True)]
)
def test_a_path_that_leads_out_of_the_root_is_refused_with_its_line(
    tree: Path, path: str, isolate: bool
) -> None:
    message = (
        r"(?s)m\.csv line 3: .* leads to /.*, which is outside --audio-root "
        r".*corpus\. Correct it or remove the row\."
    )
    with pytest.raises(ProbeError, match=message):
        load_corpus(manifest_of(tree, path), tree)
    file = tree / path.format(tmp=tree.parent)
    with Decoder(tree, isolate) as decoder:
        with pytest.raises(UtteranceError, match="which is outside --audio-root"):
            decoder.load(file, RATE_HZ)
        assert decoder.header_duration_s(file) is None


@pytest.mark.parametrize("path", INSIDE)
def test_a_path_that_ends_in_the_root_is_read(tree: Path, path: str) -> None:
    with Decoder(tree) as decoder:
        assert len(decoder.load(tree / path.format(tmp=tree.parent), RATE_HZ).samples) == RATE_HZ
    if "good" not in path:
        assert len(load_corpus(manifest_of(tree, path), tree).utterances) == 2


def test_the_root_may_be_a_link_itself_and_must_be_a_folder(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(tree)
    assert len(load_corpus(manifest_of(tree, "inside.wav"), tmp_path / "alias").utterances) == 2
    with Decoder(tmp_path / "alias") as decoder:
        decoder.load(tmp_path / "alias" / "good.wav", RATE_HZ)
    with pytest.raises(ProbeError, match=r"--audio-root .*good\.wav: not a folder"):
        load_corpus(manifest_of(tree, "inside.wav"), tree / "good.wav")


def test_without_a_root_paths_may_lead_anywhere(tree: Path) -> None:
    assert len(load_corpus(manifest_of(tree, "../secret.wav")).utterances) == 2


def test_the_options_reach_extraction_from_the_command_line(tree: Path) -> None:
    line = ["extract", "--model", "mfcc", "--view", "mean", "--no-check", "--to", str(tree / "f")]

    def run(path: str, *options: str) -> Result:
        corpus = ["--corpus", str(manifest_of(tree, path)), "--isolate-decode"]
        return CliRunner().invoke(cli, [*line, *corpus, *options])

    done = run("inside.wav", "--audio-root", str(tree), "--decode-timeout", "50")
    assert done.exit_code == 0, done.output
    done = run("link.wav", "--audio-root", str(tree))
    assert isinstance(done.exception, ProbeError)
    assert "outside --audio-root" in str(done.exception)
    done = run("inside.wav", "--decode-timeout", "0")
    assert done.exit_code == 2 or isinstance(done.exception, UsageError)


def test_a_loaded_corpus_is_held_to_the_root_too(tree: Path) -> None:
    corpus = load_corpus(manifest_of(tree, "link.wav"))
    done = extract(
        "mfcc",
        corpus,
        tree / "f",
        storing=Storing(view="mean"),
        running=Running(check=False),
        decoding=Decoding(audio_root=tree),
    )
    assert done.extracted == 1
    [failure] = done.failures
    assert failure.key == "link.wav"
    assert "outside --audio-root" in failure.reason


@pytest.mark.parametrize("timeout_s", [float("nan"), float("inf"), 1e308, 0.0, -1.0])
def test_a_time_that_is_none_is_refused(timeout_s: float) -> None:
    with pytest.raises(
        UsageError, match=r"--decode-timeout .*: expected more than 0 and at most 86400 seconds"
    ):
        Decoder(timeout_s=timeout_s)
