"""What is unusual about the sound is noticed, whatever the file's coding and the size of the
blocks; ordinary sound is not.
"""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from exhaustive import mostly_nightly
from hostile import FORMATS, RATE_HZ, small_files, speechlike

from probe.cli import cli
from probe.data import audio
from probe.data.audio import load_audio
from probe.data.sound_flags import Levels
from probe.extraction.extract import extract
from probe.extraction.settings import Running, Storing
from probe.files import read_json, write_json
from probe.store.stores import describe_store, open_store

SOUND = speechlike(2)[:, 0]


def flags_of(folder: Path, samples: np.ndarray, coding: str = "PCM_16") -> tuple[str, ...]:
    path = folder / "a.wav"
    soundfile.write(path, samples, RATE_HZ, subtype=coding)
    return load_audio(path, RATE_HZ).flags


def with_pause(share: float) -> np.ndarray:
    samples = SOUND.copy()
    samples[: round(share * len(samples))] = 0
    return samples


@pytest.mark.parametrize("name", FORMATS)
def test_ordinary_sound_has_no_flags_in_any_format(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").write_bytes(small_files(1.0)[name])
    assert load_audio(tmp_path / "a", RATE_HZ).flags == ()


@pytest.mark.parametrize(
    ("samples", "flags"),
    [
        (np.zeros(8000, np.float32), ("silence",)),
        (with_pause(0.4), ()),
        (with_pause(0.6), ("silence",)),
        (np.clip(4 * SOUND, -1, 1), ("clipped",)),
        (SOUND / np.abs(SOUND).max(), ()),
        (np.sin(2 * np.pi * 60 * np.arange(RATE_HZ) / RATE_HZ), ()),
        (SOUND + 0.2, ("constant offset",)),
        (SOUND + 0.01, ()),
        (np.full(8000, 0.3), ("constant offset",)),
        (np.stack([SOUND, 0 * SOUND], axis=1), ("dead channel",)),
        (np.stack([SOUND, 0.01 * SOUND], axis=1), ()),
        (np.stack([SOUND, -SOUND], axis=1), ("antiphase",)),
        (np.stack([SOUND + 0.01, 0.01 - SOUND], axis=1), ("antiphase",)),
        (np.stack([SOUND + 0.05, 0.05 - SOUND], axis=1), ("constant offset", "antiphase")),
        (np.stack([SOUND, -SOUND, 0 * SOUND], axis=1), ("dead channel", "antiphase")),
        (np.stack([SOUND, -0.5 * SOUND], axis=1), ()),
        (np.stack([SOUND, speechlike(2, seed=1)[:, 0]], axis=1), ()),
        (np.zeros((8000, 2)), ("silence",)),
        (np.clip(np.stack([4 * SOUND, 0 * SOUND], axis=1), -1, 1), ("clipped", "dead channel")),
    ],
)
def test_a_planted_fault_is_named_and_nothing_else_is(
    tmp_path: Path, samples: np.ndarray, flags: tuple[str, ...]
) -> None:
    assert flags_of(tmp_path, samples) == flags


@pytest.mark.parametrize("coding", ["PCM_U8", "PCM_24", "FLOAT", "ULAW", "ALAW"])
def test_clipping_shows_at_full_scale_of_every_coding(tmp_path: Path, coding: str) -> None:
    assert "clipped" in flags_of(tmp_path, np.clip(4 * SOUND, -1, 1), coding)


@pytest.mark.parametrize(
    ("gain", "flags"),
    [(8, ("above full scale",)), (32_767, ("above full scale",)), (1.4, ())],
    ids=["8", "16 bits", "loud"],
)
def test_a_peak_far_above_full_scale_is_named(
    tmp_path: Path, gain: float, flags: tuple[str, ...]
) -> None:
    assert flags_of(tmp_path, gain * SOUND / np.abs(SOUND).max(), "FLOAT") == flags
    integers = np.round(gain * SOUND / np.abs(SOUND).max())
    assert gain < 2 or flags_of(tmp_path, integers, "DOUBLE") == flags, (
        "equal integers are no clipping"
    )


@pytest.mark.parametrize("block", mostly_nightly([1, 2, 3, 7, 1000], [7, 1000]))
def test_the_size_of_the_blocks_changes_no_flag_and_no_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, block: int
) -> None:
    samples = np.clip(np.stack([6 * SOUND, -6 * SOUND], axis=1), -1, 1)[:3000].astype(np.float32)
    whole, parts = Levels(2), Levels(2)
    whole.add(samples, samples.mean(axis=1))
    for start in range(0, len(samples), block):
        part = samples[start : start + block]
        parts.add(part, part.mean(axis=1))
    assert (parts.n_flat, parts.n_silent, parts.peak, parts.n_samples) == (
        whole.n_flat,
        whole.n_silent,
        whole.peak,
        3000,
    )
    assert parts.rms == pytest.approx(whole.rms)
    assert parts.flags == whole.flags == ("clipped", "antiphase")
    monkeypatch.setattr(audio, "BLOCK_SAMPLES", block)
    assert flags_of(tmp_path, samples) == ("clipped", "antiphase")


@pytest.fixture
def odd_corpus(tmp_path: Path) -> Path:
    """A manifest of five sounds, of which three are odd."""
    kinds: dict[str, np.ndarray] = {
        "good": SOUND,
        "flat": np.clip(4 * SOUND, -1, 1),
        "mute": 0 * SOUND,
        "anti": np.stack([SOUND, -SOUND], axis=1),
        "fine": 0.5 * SOUND,
    }
    lines = ["path,text,speaker,domain,split,duration_s"]
    for name, samples in kinds.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE_HZ)
        lines.append(f"{name}.wav,one,s,near,train,2.0")
    (tmp_path / "odd.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "odd.csv"


def test_odd_sound_is_extracted_and_shown(odd_corpus: Path, tmp_path: Path) -> None:
    done = extract(
        "mfcc",
        odd_corpus,
        tmp_path / "features",
        storing=Storing(view="mean"),
        running=Running(check=False),
    )
    assert (done.extracted, done.failures) == (5, [])
    store = open_store(done.store)
    assert store.utterances["flat.wav"][0].flags == ("clipped",)
    assert store.utterances["good.wav"][0].flags == ()
    sound = "antiphase 1 (anti.wav); clipped 1 (flat.wav); silence 1 (mute.wav)"
    assert describe_store(store)["sound"] == sound
    assert sound in CliRunner().invoke(cli, ["show", str(done.store)]).stdout


def test_a_file_whose_frames_the_decoder_skips_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = small_files(2.0)["mp3"]
    place = content.index(content[:2], len(content) // 2)
    (tmp_path / "a.mp3").write_bytes(content[:place] + bytes(4) + content[place + 4 :])
    (tmp_path / "odd.csv").write_text(
        "path,text,speaker,domain,split,duration_s\na.mp3,,,,train,\n"
    )
    extract(
        "mfcc",
        tmp_path / "odd.csv",
        tmp_path / "features",
        storing=Storing(view="mean"),
        running=Running(check=False),
    )
    assert (
        "a.mp3: damaged frames in the middle, which the decoder skips; fetch the file again"
        in caplog.messages
    )


def test_a_store_of_an_earlier_version_opens_without_flags(
    odd_corpus: Path, tmp_path: Path
) -> None:
    done = extract(
        "mfcc",
        odd_corpus,
        tmp_path / "features",
        storing=Storing(view="mean"),
        running=Running(check=False),
    )
    for path in done.store.glob("shard-*.json"):
        index = read_json(path)
        for item in index["utterances"]:
            del item["flags"]
        write_json(path, index)
    store = open_store(done.store)
    assert store.utterances["flat.wav"][0].flags is None
    assert describe_store(store)["sound"] == "5 not looked at (an earlier version's)"
    assert (
        extract(
            "mfcc",
            odd_corpus,
            tmp_path / "features",
            storing=Storing(view="mean"),
            running=Running(check=False),
        ).extracted
        == 0
    )
