"""Decoding: what comes out has the right rate, length and level, and everything unusable is refused with a reason."""

import hashlib
import io
import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from probe.data import audio
from probe.data.audio import header_duration_s, load_audio
from probe.errors import UtteranceError

Samples = NDArray[np.float32]


def tone(frequency_hz: float, rate_hz: int, seconds: float = 1.0) -> Samples:
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * frequency_hz * time)).astype(np.float32)


def encoded(samples: NDArray, rate_hz: int = 16_000, container: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=container, subtype=subtype)
    return file.getvalue()


def write(folder: Path, content: bytes, name: str = "a.audio") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def strongest_hz(samples: Samples, rate_hz: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate_hz / len(samples))


NOISE = (0.1 * np.random.default_rng(0).standard_normal(1500)).astype(np.float32)


# What comes out


def test_samples_at_the_models_rate_come_back_as_they_are(tmp_path: Path) -> None:
    loaded = load_audio(write(tmp_path, encoded(NOISE, subtype="FLOAT")), 16_000)
    np.testing.assert_array_equal(loaded.samples, NOISE)
    assert loaded.samples.dtype == np.float32
    assert (loaded.native_rate_hz, loaded.duration_s) == (16_000, 1500 / 16_000)


@pytest.mark.parametrize(("native_hz", "wanted_hz"), [(8000, 16_000), (44_100, 16_000), (48_000, 16_000), (16_000, 8000)])
def test_resampling_keeps_the_duration_the_tone_and_the_level(tmp_path: Path, native_hz: int, wanted_hz: int) -> None:
    path = write(tmp_path, encoded(tone(440, native_hz, seconds=2), native_hz))
    loaded = load_audio(path, wanted_hz)
    assert len(loaded.samples) == 2 * wanted_hz
    assert (loaded.native_rate_hz, loaded.duration_s) == (native_hz, 2.0)
    assert strongest_hz(loaded.samples, wanted_hz) == pytest.approx(440, abs=0.5)
    middle = slice(wanted_hz // 4, -wanted_hz // 4)
    np.testing.assert_allclose(loaded.samples[middle], tone(440, wanted_hz, seconds=2)[middle], atol=2e-3)


def test_resampling_does_not_fold_high_tones_down(tmp_path: Path) -> None:
    samples = load_audio(write(tmp_path, encoded(tone(8500, 48_000), 48_000, subtype="FLOAT")), 16_000).samples
    middle = samples[4000:-4000]
    assert 20 * np.log10(np.sqrt(np.mean(middle**2)) / 0.3) < -80


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right, third = tone(300, 16_000), tone(500, 16_000), tone(700, 16_000)
    loaded = load_audio(write(tmp_path, encoded(np.stack([left, right, third], axis=1), subtype="FLOAT")), 16_000)
    assert loaded.samples.shape == (16_000,)
    np.testing.assert_allclose(loaded.samples, (left + right + third) / 3, atol=1e-6)


def test_a_file_longer_than_a_block_comes_back_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, encoded(NOISE, subtype="FLOAT"))
    monkeypatch.setattr(audio, "BLOCK_SAMPLES", 7)
    np.testing.assert_array_equal(load_audio(path, 16_000).samples, NOISE)


def test_the_sha256_and_the_hints_are_the_files(tmp_path: Path) -> None:
    path = write(tmp_path, encoded(NOISE))
    loaded = load_audio(path, 8000)
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (loaded.file_bytes, loaded.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT", "DOUBLE", "ULAW", "ALAW"])
def test_every_wav_encoding_gives_samples_between_minus_one_and_one(tmp_path: Path, subtype: str) -> None:
    samples = load_audio(write(tmp_path, encoded(tone(440, 16_000), subtype=subtype)), 16_000).samples
    np.testing.assert_allclose(samples, tone(440, 16_000), atol=0.02)


@pytest.mark.parametrize("container", ["FLAC", "AIFF", "AU", "CAF", "W64", "RF64", "NIST", "WAVEX"])
def test_other_containers_give_the_same_samples(tmp_path: Path, container: str) -> None:
    samples = load_audio(write(tmp_path, encoded(NOISE, container=container, subtype="PCM_16")), 16_000).samples
    np.testing.assert_allclose(samples, NOISE, atol=2**-15)


@pytest.mark.parametrize(
    ("container", "subtype", "rate_hz"),
    [("MP3", "MPEG_LAYER_III", 16_000), ("OGG", "VORBIS", 16_000), ("OGG", "OPUS", 48_000)],
)
def test_lossy_formats_give_the_tone_at_about_its_length(tmp_path: Path, container: str, subtype: str, rate_hz: int) -> None:
    if subtype not in soundfile.available_subtypes(container):
        pytest.skip(f"this libsndfile does not write {subtype}")
    path = write(tmp_path, encoded(tone(440, rate_hz), rate_hz, container, subtype))
    samples = load_audio(path, 16_000, duration_s=1.0).samples
    assert len(samples) == pytest.approx(16_000, abs=1600)
    assert strongest_hz(samples, 16_000) == pytest.approx(440, abs=2)


def test_a_streamed_wav_that_does_not_know_its_length_is_read(tmp_path: Path) -> None:
    content = bytearray(encoded(NOISE))
    for position in (4, 40):
        struct.pack_into("<I", content, position, 0xFFFF_FFFF)
    assert len(load_audio(write(tmp_path, bytes(content)), 16_000).samples) == len(NOISE)


def test_chunks_before_and_after_the_audio_are_skipped(tmp_path: Path) -> None:
    content = encoded(NOISE)
    odd = struct.pack("<4sI", b"LIST", 5) + b"INFO!\0"
    body = content[12:36] + odd + content[36:] + odd
    riff = b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE"
    assert len(load_audio(write(tmp_path, riff + body), 16_000).samples) == len(NOISE)


# Truncation


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_wav_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, subtype: str, data: st.DataObject) -> None:
    content = encoded(np.stack([NOISE, NOISE], axis=1), subtype=subtype)
    cut = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(UtteranceError, match=r"truncated: |cannot be decoded: |the file is empty"):
        load_audio(write(tmp_path_factory.getbasetemp(), content[:cut]), 16_000)


def test_every_cut_of_a_wavs_data_chunk_names_the_bytes_that_are_missing(tmp_path: Path) -> None:
    content = encoded(NOISE[:300])
    for n_left in range(600):
        message = f"^truncated: the WAV header promises 600 bytes of audio, {n_left} are there$"
        with pytest.raises(UtteranceError, match=message):
            load_audio(write(tmp_path, content[: 44 + n_left]), 16_000)
    assert len(load_audio(write(tmp_path, content), 16_000).samples) == 300


def test_a_wav_cut_in_its_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UtteranceError, match="truncated: a WAV file without a data chunk"):
        load_audio(write(tmp_path, encoded(NOISE)[:40]), 16_000)


@pytest.mark.parametrize("container", ["FLAC", "AIFF", "AU", "W64", "RF64", "NIST"])
@pytest.mark.parametrize("kept", [0.5, 0.9, 0.999])
def test_other_containers_are_refused_when_cut(tmp_path: Path, container: str, kept: float) -> None:
    content = encoded(NOISE, container=container, subtype="PCM_16")
    with pytest.raises(UtteranceError, match=f"truncated: the {container} header promises|cannot be decoded: .*lost sync"):
        load_audio(write(tmp_path, content[: int(kept * len(content))]), 16_000)


def test_a_truncated_ogg_is_refused(tmp_path: Path) -> None:
    content = encoded(tone(440, 16_000), container="OGG", subtype="VORBIS")
    for kept in (0.3, 0.6, 0.99):
        with pytest.raises(UtteranceError, match=r"cannot be decoded|no samples in it"):
            load_audio(write(tmp_path, content[: int(kept * len(content))]), 16_000)


# Refusals


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UtteranceError, match=r"the file is empty \(0 bytes\)"):
        load_audio(write(tmp_path, b""), 16_000)


@pytest.mark.parametrize("container", ["WAV", "AIFF", "AU", "W64"])
def test_a_header_alone_is_refused(tmp_path: Path, container: str) -> None:
    content = encoded(np.zeros(0, np.float32), container=container, subtype="PCM_16")
    with pytest.raises(UtteranceError, match=r"no samples in it \(a header alone, or cut off\)"):
        load_audio(write(tmp_path, content), 16_000)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_samples_are_refused_and_counted(tmp_path: Path, value: float) -> None:
    samples = NOISE.copy()
    samples[[3, 700]] = value
    with pytest.raises(UtteranceError, match="2 samples are NaN or infinite"):
        load_audio(write(tmp_path, encoded(samples, subtype="FLOAT")), 16_000)


def test_a_nan_in_one_channel_is_refused(tmp_path: Path) -> None:
    samples = np.stack([NOISE, NOISE], axis=1)
    samples[5, 1] = np.nan
    with pytest.raises(UtteranceError, match="1 samples are NaN"):
        load_audio(write(tmp_path, encoded(samples, subtype="FLOAT")), 8000)


@pytest.mark.parametrize("rate_hz", [1, 999, 768_001, 2_000_000_000])
def test_an_absurd_rate_is_refused(tmp_path: Path, rate_hz: int) -> None:
    content = bytearray(encoded(NOISE))
    struct.pack_into("<I", content, 24, rate_hz)
    with pytest.raises(UtteranceError, match=f"sample rate {rate_hz} Hz; expected 1000 to 768000 Hz"):
        load_audio(write(tmp_path, bytes(content)), 16_000)


def test_a_file_beyond_the_longest_length_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "LONGEST_S", 1)
    with pytest.raises(UtteranceError, match=r"longer than .* hours; cut it into utterances"):
        load_audio(write(tmp_path, encoded(tone(440, 8000, seconds=1.1), 8000)), 16_000)


@pytest.mark.parametrize("content", [b"zero one two", b"\x89PNG\r\n\x1a\n" + bytes(500), bytes(4096)])
def test_what_is_no_audio_is_refused_with_a_reason_that_is_the_same_every_time(tmp_path: Path, content: bytes) -> None:
    reasons = set()
    for _ in range(3):
        with pytest.raises(UtteranceError, match="cannot be decoded: ") as caught:
            load_audio(write(tmp_path, content), 16_000)
        reasons.add(str(caught.value))
    assert len(reasons) == 1
    assert "object at 0x" not in reasons.pop()


@pytest.fixture
def five_seconds() -> Iterator[None]:
    """Fails a test that waits for something that never comes."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("still waiting after 5 s"))
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("five_seconds")
def test_a_fifo_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(UtteranceError, match="not a regular file"):
        load_audio(tmp_path / "pipe.wav", 16_000)
    assert header_duration_s(tmp_path / "pipe.wav") is None


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UtteranceError, match="not a regular file"):
        load_audio(tmp_path, 16_000)
    assert header_duration_s(tmp_path) is None


def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UtteranceError, match="cannot be read: No such file"):
        load_audio(tmp_path / "gone.wav", 16_000)
    assert header_duration_s(tmp_path / "gone.wav") is None


# Durations


@pytest.mark.parametrize("promised_s", [1.0, 0.91, 1.09])
def test_a_duration_within_rounding_is_accepted(tmp_path: Path, promised_s: float) -> None:
    load_audio(write(tmp_path, encoded(tone(440, 16_000))), 16_000, promised_s)


def test_a_long_files_duration_may_be_off_by_a_hundredth(tmp_path: Path) -> None:
    path = write(tmp_path, encoded(np.zeros(60 * 8000, np.float32), 8000))
    load_audio(path, 8000, 60.5)
    with pytest.raises(UtteranceError, match="duration_s is 61 in the manifest, the audio lasts 60 s"):
        load_audio(path, 8000, 61)


@pytest.mark.parametrize(
    ("promised_s", "guess"),
    [
        (16_000, r"is this column in samples\?"),
        (8000, r"is this column in samples\?"),
        (2.5, r"is the file truncated\?"),
        (0.5, r"is the manifest from another version of the file\?"),
    ],
)
def test_another_duration_than_the_manifests_is_refused_with_a_guess(tmp_path: Path, promised_s: float, guess: str) -> None:
    message = f"duration_s is {promised_s:g} in the manifest, the audio lasts 1 s; {guess}"
    with pytest.raises(UtteranceError, match=message):
        load_audio(write(tmp_path, encoded(tone(440, 8000), 8000)), 16_000, promised_s)


def test_a_headers_duration_is_an_estimate_for_plans(tmp_path: Path) -> None:
    path = write(tmp_path, encoded(tone(440, 8000, seconds=1.5), 8000))
    assert header_duration_s(path) == 1.5
    assert header_duration_s(write(tmp_path, b"no audio")) is None
    assert header_duration_s(write(tmp_path, b"")) is None
