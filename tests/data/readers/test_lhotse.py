"""Lhotse's manifests, written by the library itself."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from probe.data.corpus import Corpus, load_corpus
from probe.data.excerpts import Excerpt
from probe.errors import ProbeError

lhotse = pytest.importorskip("lhotse", reason="the extra [lhotse] is not installed")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "layerprobe" / "corpora"


def recordings(folder: Path) -> Any:
    """A stereo recording of 2 s and a mono one of 1 s."""
    folder.mkdir(parents=True, exist_ok=True)
    tone = np.linspace(-0.5, 0.5, 32_000)
    soundfile.write(folder / "call.wav", np.stack([tone, -tone], axis=1), 16_000)
    soundfile.write(folder / "word.flac", tone[:16_000], 16_000)
    files = [lhotse.Recording.from_file(folder / name) for name in ("call.wav", "word.flac")]
    return lhotse.RecordingSet.from_recordings(files)


def supervisions() -> Any:
    segment = lhotse.SupervisionSegment
    items = [
        segment("u1", "call", 0.25, 0.5, channel=1, text="hi", speaker="s1", gender="f"),
        segment("u2", "call", 0.0, 2.0, channel=[0, 1], custom={"accent": "Irish", "n": 3}),
        segment("u3", "word", 0.0, 1.0, text="yes", speaker="s2", language="en"),
    ]
    return lhotse.SupervisionSet.from_segments(items)


EXPECTED = {
    "u1": ("call.wav", Excerpt(0.25, 0.75, 2)),
    "u2": ("call.wav", Excerpt()),
    "u3": ("word.flac", Excerpt()),
}


def excerpts(corpus: Corpus) -> dict[str, tuple[str, Excerpt]]:
    return {item.key: (item.path.name, item.excerpt) for item in corpus.utterances}


def write(folder: Path, *parts: str, prefix: str = "corpus") -> Path:
    """A folder as `lhotse prepare` writes it."""
    folder.mkdir(exist_ok=True)
    for part in parts:
        recordings(folder / f"audio-{part}").to_file(
            folder / f"{prefix}_recordings_{part}.jsonl.gz"
        )
        supervisions().to_file(folder / f"{prefix}_supervisions_{part}.jsonl.gz")
    return folder


def test_supervisions_are_excerpts_of_recordings(tmp_path: Path) -> None:
    corpus = load_corpus(write(tmp_path / "x", "TRAIN"))
    assert excerpts(corpus) == EXPECTED
    first, second, third = corpus.utterances
    assert (first.text, first.speaker, first.split, first.label("gender")) == (
        "hi",
        "s1",
        "train",
        "f",
    )
    assert (second.label("accent"), second.label("n")) == ("Irish", "3")
    assert (third.label("language"), third.label("part")) == ("en", "TRAIN")


def test_parts_are_those_of_the_recipes(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", "TRAIN", "core")
    with pytest.raises(ProbeError, match=r"the part 'core' has no word for one split"):
        load_corpus(folder)
    with pytest.raises(ProbeError, match=r"id 'u1' occurs on .* already"):
        load_corpus(f"lhotse:{folder}#TRAIN,test=core")
    assert {item.split for item in load_corpus(f"{folder}#test=core").utterances} == {"test"}
    with pytest.raises(ProbeError, match=r"no manifests of the part DEV in .*found TRAIN, core\."):
        load_corpus(f"lhotse:{folder}#DEV,dev=DEV")
    write(folder, "TRAIN", prefix="other")
    with pytest.raises(
        ProbeError, match=r"the part TRAIN may be corpus_recordings_TRAIN\.jsonl\.gz, o"
    ):
        load_corpus(f"lhotse:{folder}#TRAIN")


def test_cuts_and_recordings_alone_are_read(tmp_path: Path) -> None:
    cuts = lhotse.CutSet.from_manifests(recordings(tmp_path), supervisions())
    cuts.to_file(tmp_path / "cuts_dev.jsonl.gz")
    corpus = load_corpus(tmp_path / "cuts_dev.jsonl.gz")
    assert excerpts(corpus) == EXPECTED
    assert {item.split for item in corpus.utterances} == {"dev"}
    windows = cuts.cut_into_windows(0.5).filter(
        lambda cut: not cut.supervisions or cut.start == 0.5
    )
    windows.to_file(tmp_path / "cuts_test.jsonl")
    assert excerpts(load_corpus(tmp_path / "cuts_test.jsonl"))["u1"] == (
        "call.wav",
        Excerpt(0.5, 0.75, 2),
    )
    recordings(tmp_path).to_file(tmp_path / "recordings.jsonl.gz")
    assert excerpts(load_corpus(f"lhotse:{tmp_path}/recordings.jsonl.gz")) == {
        "call": ("call.wav", Excerpt()),
        "word": ("word.flac", Excerpt()),
    }


def test_the_excerpts_are_what_lhotse_loads(tmp_path: Path) -> None:
    cuts = lhotse.CutSet.from_manifests(recordings(tmp_path), supervisions())
    cuts.to_file(tmp_path / "cuts_dev.jsonl.gz")
    for item in load_corpus(tmp_path / "cuts_dev.jsonl.gz").utterances:
        (cut,) = [
            trimmed
            for trimmed in cuts.trim_to_supervisions(keep_overlapping=False)
            if trimmed.supervisions[0].id == item.key
        ]
        samples, rate_hz = soundfile.read(item.path, always_2d=True)
        start = round(item.excerpt.start_s * rate_hz)
        end = round((item.excerpt.end_s or 1e9) * rate_hz)
        channels = [item.excerpt.channel - 1] if item.excerpt.channel else range(samples.shape[1])
        np.testing.assert_allclose(
            samples[start:end, list(channels)].T, cut.load_audio(), atol=1e-4
        )


def test_the_audio_of_a_shar_folder_is_written_once(tmp_path: Path, cache: Path) -> None:
    cuts = lhotse.CutSet.from_manifests(recordings(tmp_path), supervisions())
    (tmp_path / "train").mkdir()
    cuts.to_shar(tmp_path / "train", fields={"recording": "flac"}, shard_size=1)
    corpus = load_corpus(tmp_path / "train")
    assert {key: excerpt for key, (_, excerpt) in excerpts(corpus).items()} == {
        key: excerpt for key, (_, excerpt) in EXPECTED.items()
    }
    assert {item.split for item in corpus.utterances} == {"train"}
    files = sorted(cache.rglob("*.flac"))
    assert [soundfile.info(file).channels for file in files] == [2, 1]
    times = [file.stat().st_mtime_ns for file in files]
    load_corpus(f"lhotse:{tmp_path}/train")
    assert [file.stat().st_mtime_ns for file in sorted(cache.rglob("*.flac"))] == times


def test_a_command_that_changes_the_format_is_its_file(tmp_path: Path) -> None:
    (item, _) = recordings(tmp_path)
    for command, message in (
        (f"sph2pipe -f wav -c 2 {tmp_path}/call.wav |", ""),
        (f"sox {tmp_path}/call.wav -t wav - speed 2 |", "which changes the sound (speed 2)"),
    ):
        item.sources[0].type, item.sources[0].source = "command", command
        item.sources[0].channels = [0]
        lhotse.RecordingSet.from_recordings([item]).to_file(tmp_path / "recordings_dev.jsonl")
        if message:
            with pytest.raises(ProbeError, match=re.escape(message)):
                load_corpus(tmp_path / "recordings_dev.jsonl")
        else:
            corpus = load_corpus(tmp_path / "recordings_dev.jsonl")
            assert excerpts(corpus) == {"call": ("call.wav", Excerpt(channel=2))}


def test_what_changes_the_sound_or_is_no_file_is_refused(tmp_path: Path) -> None:
    plain = lhotse.CutSet.from_manifests(recordings(tmp_path), supervisions())
    url = lhotse.CutSet.from_cuts([plain[1]])
    url[0].recording.sources[0].type, url[0].recording.sources[0].source = "url", "https://x/a.wav"
    refused = {
        "the recording call_sp1.1 is changed as it is loaded (Speed": plain.perturb_speed(1.1),
        "is a MixedCut; expected a MonoCut or MultiCut": lhotse.CutSet.from_cuts(
            [plain[0].mix(plain[1])]
        ),
        "the recording word: its audio is of type url (https://x/a.wav); expected a file": url,
    }
    for message, cuts in refused.items():
        cuts.to_file(tmp_path / "cuts_dev.jsonl")
        with pytest.raises(ProbeError, match=re.escape(message) + ".*[Ss]ave the audio"):
            load_corpus(tmp_path / "cuts_dev.jsonl")


def test_damaged_manifests_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", "train")
    (folder / "corpus_supervisions_train.jsonl.gz").rename(tmp_path / "x_supervisions_dev.jsonl.gz")
    with pytest.raises(ProbeError, match=r"SupervisionSet alone; expected recordings beside"):
        load_corpus(tmp_path / "x_supervisions_dev.jsonl.gz")
    (tmp_path / "x_supervisions_dev.jsonl.gz").unlink()
    (tmp_path / "cuts_dev.jsonl").write_text('{"id": "x", "start": 0\n')
    with pytest.raises(
        ProbeError, match=r"cuts_dev\.jsonl: lhotse cannot read it \(.*lhotse valid"
    ):
        load_corpus(tmp_path / "cuts_dev.jsonl")
    supervision = lhotse.SupervisionSegment("u9", "gone", 0, 1)
    lhotse.SupervisionSet.from_segments([supervision]).to_file(
        folder / "corpus_supervisions_train.jsonl.gz"
    )
    with pytest.raises(ProbeError, match=r"supervision u9 is of the recording gone, which is not"):
        load_corpus(folder)
    with pytest.raises(ProbeError, match=r"no manifests in .*lhotse prepare"):
        load_corpus(f"lhotse:{folder / 'audio-train'}")


def test_a_plain_install_is_told_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "x", "train")
    monkeypatch.setitem(sys.modules, "lhotse", None)
    with pytest.raises(ProbeError, match=r"Run `pip install layerprobe\[lhotse\]`"):
        load_corpus(folder)
