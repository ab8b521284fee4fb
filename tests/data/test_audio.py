"""Decoding: what comes out has the right rate, length and level, and everything unusable is refused
with a reason.
"""

import hashlib
import io
import os
import re
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
from probe.data.audio import header_duration_s, load_audio, read_header
from probe.errors import UtteranceError

Samples = NDArray[np.float32]


def tone(frequency_hz: float, rate_hz: int, seconds: float = 1.0) -> Samples:
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * frequency_hz * time)).astype(np.float32)


def encoded(
    samples: NDArray, rate_hz: int = 16_000, container: str = "WAV", subtype: str | None = None
) -> bytes:
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


@pytest.mark.parametrize(
    ("native_hz", "wanted_hz"), [(8000, 16_000), (44_100, 16_000), (48_000, 16_000), (16_000, 8000)]
)
def test_resampling_keeps_the_duration_the_tone_and_the_level(
    tmp_path: Path, native_hz: int, wanted_hz: int
) -> None:
    path = write(tmp_path, encoded(tone(440, native_hz, seconds=2), native_hz))
    loaded = load_audio(path, wanted_hz)
    assert len(loaded.samples) == 2 * wanted_hz
    assert (loaded.native_rate_hz, loaded.duration_s) == (native_hz, 2.0)
    assert strongest_hz(loaded.samples, wanted_hz) == pytest.approx(440, abs=0.5)
    middle = slice(wanted_hz // 4, -wanted_hz // 4)
    np.testing.assert_allclose(
        loaded.samples[middle], tone(440, wanted_hz, seconds=2)[middle], atol=2e-3
    )


def test_resampling_does_not_fold_high_tones_down(tmp_path: Path) -> None:
    samples = load_audio(
        write(tmp_path, encoded(tone(8500, 48_000), 48_000, subtype="FLOAT")), 16_000
    ).samples
    middle = samples[4000:-4000]
    assert 20 * np.log10(np.sqrt(np.mean(middle**2)) / 0.3) < -80


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right, third = tone(300, 16_000), tone(500, 16_000), tone(700, 16_000)
    loaded = load_audio(
        write(tmp_path, encoded(np.stack([left, right, third], axis=1), subtype="FLOAT")), 16_000
    )
    assert loaded.samples.shape == (16_000,)
    np.testing.assert_allclose(loaded.samples, (left + right + third) / 3, atol=1e-6)


def test_a_file_longer_than_a_block_comes_back_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, encoded(NOISE, subtype="FLOAT"))
    monkeypatch.setattr(audio, "BLOCK_SAMPLES", 7)
    np.testing.assert_array_equal(load_audio(path, 16_000).samples, NOISE)


def test_the_sha256_and_the_hints_are_the_files(tmp_path: Path) -> None:
    path = write(tmp_path, encoded(NOISE))
    loaded = load_audio(path, 8000)
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (loaded.file_bytes, loaded.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)


@pytest.mark.parametrize(
    "subtype", ["PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT", "DOUBLE", "ULAW", "ALAW"]
)
def test_every_wav_encoding_gives_samples_between_minus_one_and_one(
    tmp_path: Path, subtype: str
) -> None:
    samples = load_audio(
        write(tmp_path, encoded(tone(440, 16_000), subtype=subtype)), 16_000
    ).samples
    np.testing.assert_allclose(samples, tone(440, 16_000), atol=0.02)


@pytest.mark.parametrize("container", ["FLAC", "AIFF", "AU", "CAF", "W64", "RF64", "NIST", "WAVEX"])
def test_other_containers_give_the_same_samples(tmp_path: Path, container: str) -> None:
    samples = load_audio(
        write(tmp_path, encoded(NOISE, container=container, subtype="PCM_16")), 16_000
    ).samples
    np.testing.assert_allclose(samples, NOISE, atol=2**-15)


@pytest.mark.parametrize(
    ("container", "subtype", "rate_hz"),
    [("MP3", "MPEG_LAYER_III", 16_000), ("OGG", "VORBIS", 16_000), ("OGG", "OPUS", 48_000)],
)
def test_lossy_formats_give_the_tone_at_about_its_length(
    tmp_path: Path, container: str, subtype: str, rate_hz: int
) -> None:
    if subtype not in soundfile.available_subtypes(container):
        pytest.skip(f"this libsndfile does not write {subtype}")
    path = write(tmp_path, encoded(tone(440, rate_hz), rate_hz, container, subtype))
    samples = load_audio(path, 16_000, duration_s=1.0).samples
    assert len(samples) == pytest.approx(16_000, abs=1600)
    assert strongest_hz(samples, 16_000) == pytest.approx(440, abs=2)


def patched(content: bytes, mark: bytes, offset: int, form: str, *numbers: int) -> bytes:
    """A file with other numbers ``offset`` bytes behind the first ``mark``."""
    changed = bytearray(content)
    struct.pack_into(form, changed, content.index(mark) + offset, *numbers)
    return bytes(changed)


# What programs write that stream, and recorders that were interrupted: the container, and where its
# sizes stand.
STREAMED: dict[str, tuple[str, bytes, int, str, tuple[int, ...]]] = {
    "wav, 0": ("WAV", b"data", 4, "<I", (0,)),
    "wav, sox": ("WAV", b"data", 4, "<I", (0x7FFF_F000,)),
    "wav, arecord": ("WAV", b"data", 4, "<I", (0x8000_0000,)),
    "wav, ffmpeg": ("WAV", b"data", 4, "<I", (0xFFFF_FFFF,)),
    "aiff, 0": ("AIFF", b"SSND", 4, ">I", (0,)),
    "aiff, 8": ("AIFF", b"SSND", 4, ">I", (8,)),
    "aiff, sox": ("AIFF", b"SSND", 4, ">I", (0x7F00_0008,)),
    "au, unknown": ("AU", b".snd", 8, ">I", (0xFFFF_FFFF,)),
    "au, 0": ("AU", b".snd", 8, ">I", (0,)),
    "au, largest": ("AU", b".snd", 8, ">I", (0x7FFF_FFFF,)),
    "caf, unknown": ("CAF", b"data", 4, ">Q", (2**64 - 1,)),
    "caf, 0": ("CAF", b"data", 4, ">Q", (0,)),
    "rf64, 0": ("RF64", b"ds64", 8, "<QQQ", (0, 0, 0)),
    "rf64, unknown": ("RF64", b"ds64", 8, "<QQQ", (2**64 - 1, 2**64 - 1, 2**64 - 1)),
    "w64, 0": ("W64", b"riff", 16, "<Q", (0,)),
}


@pytest.mark.parametrize("name", STREAMED)
def test_a_file_that_does_not_know_its_length_is_read_to_its_end_and_flagged(
    tmp_path: Path, name: str
) -> None:
    container, mark, offset, form, numbers = STREAMED[name]
    content = encoded(NOISE, container=container, subtype="PCM_16")
    sound = load_audio(write(tmp_path, content), 16_000)
    path = write(tmp_path, patched(content, mark, offset, form, *numbers))
    streamed = load_audio(path, 16_000)
    np.testing.assert_array_equal(streamed.samples, sound.samples)
    assert (sound.flags, streamed.flags) == ((), ("no end mark",))
    assert read_header(path).n_samples == len(NOISE)


def test_the_size_of_the_whole_file_decides_nothing(tmp_path: Path) -> None:
    for container, mark, form in (("WAV", b"RIFF", "<I"), ("AIFF", b"FORM", ">I")):
        for size in (0, 0xFFFF_FFFF):
            content = patched(
                encoded(NOISE, container=container, subtype="PCM_16"), mark, 4, form, size
            )
            loaded = load_audio(write(tmp_path, content), 16_000)
            assert (len(loaded.samples), loaded.flags) == (len(NOISE), ())


def test_flac_that_was_streamed_is_read_to_its_end_and_flagged(tmp_path: Path) -> None:
    content = encoded(NOISE, container="FLAC")
    uncounted = content[:21] + bytes((content[21] & 0xF0, 0, 0, 0, 0)) + content[26:]
    path = write(tmp_path, uncounted)
    loaded = load_audio(path, 16_000, len(NOISE) / 16_000)
    np.testing.assert_array_equal(
        loaded.samples, load_audio(write(tmp_path, content), 16_000).samples
    )
    assert loaded.flags == ("no end mark",)
    assert read_header(write(tmp_path, uncounted), 0.1).n_samples == 0


def test_tags_behind_the_audio_are_no_audio(tmp_path: Path) -> None:
    tag = b"TAG" + bytes(125)
    for container in ("WAV", "FLAC", "MP3"):
        content = encoded(tone(440, 16_000), container=container)
        plain, tagged = (
            load_audio(write(tmp_path, item), 16_000) for item in (content, content + tag)
        )
        np.testing.assert_array_equal(plain.samples, tagged.samples)
        assert tagged.flags == ()


# More audio than is read


@pytest.mark.parametrize(
    ("container", "subtype", "what"),
    [
        (
            "WAV",
            "PCM_16",
            "bytes of something else follow; was the recording interrupted, or were two "
            "files joined",
        ),
        (
            "FLAC",
            "PCM_16",
            "several FLAC files one after the other, of which only the first would be read",
        ),
        ("MP3", "MPEG_LAYER_III", "several MP3 files one after the other"),
        ("OGG", "VORBIS", "several Ogg streams one after the other"),
        ("OGG", "OPUS", "several Ogg streams one after the other"),
    ],
)
def test_files_that_were_joined_are_refused_since_only_the_first_would_be_read(
    tmp_path: Path, container: str, subtype: str, what: str
) -> None:
    one, other = (
        encoded(tone(440, 48_000, seconds), 48_000, container, subtype) for seconds in (1, 2)
    )
    with pytest.raises(UtteranceError, match=what):
        load_audio(write(tmp_path, one + other), 16_000)
    with pytest.raises(UtteranceError, match=what):
        load_audio(write(tmp_path, one + one), 16_000)


def test_a_wav_whose_header_was_written_too_early_is_refused(tmp_path: Path) -> None:
    content = encoded(np.tile(NOISE, 10))
    with pytest.raises(
        UtteranceError,
        match="the WAV header promises 2000 bytes of audio, but 28000 bytes of something "
        "else follow",
    ):
        load_audio(write(tmp_path, patched(content, b"data", 4, "<I", 2000)), 16_000)


def mp3(
    seconds: float, rate_hz: int = 16_000, mode: str = "CONSTANT", tagged: bool = True
) -> bytes:
    """A rising noise as MP3; without the tag, its first frame is gone."""
    samples = NOISE[np.arange(round(seconds * rate_hz)) % len(NOISE)] * np.linspace(
        0.01, 1, round(seconds * rate_hz)
    )
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format="MP3", bitrate_mode=mode, compression_level=0.5)
    content = file.getvalue()
    return content if tagged else content[content.index(content[:2], 64) :]


@pytest.mark.parametrize("rate_hz", [8000, 16_000, 44_100])
def test_mp3_of_variable_rate_without_a_tag_is_read_to_its_end(
    tmp_path: Path, rate_hz: int
) -> None:
    path = write(tmp_path, mp3(20, rate_hz, "VARIABLE", tagged=False))
    assert load_audio(path, rate_hz).duration_s == pytest.approx(20, abs=0.2)
    assert read_header(path).n_samples / rate_hz == pytest.approx(20, abs=0.2)


def test_blocks_change_no_sample_of_mp3_but_by_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, mp3(5))
    whole = load_audio(path, 16_000).samples
    monkeypatch.setattr(audio, "BLOCK_SAMPLES", 5000)
    np.testing.assert_allclose(load_audio(path, 16_000).samples, whole, atol=1e-6)


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
def test_a_wav_cut_anywhere_is_refused(
    tmp_path_factory: pytest.TempPathFactory, subtype: str, data: st.DataObject
) -> None:
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
    with pytest.raises(
        UtteranceError,
        match=f"truncated: the {container} header promises|cannot be decoded: .*lost sync",
    ):
        load_audio(write(tmp_path, content[: int(kept * len(content))]), 16_000)


def test_a_truncated_ogg_is_refused(tmp_path: Path) -> None:
    content = encoded(tone(440, 16_000), container="OGG", subtype="VORBIS")
    for kept in (0.3, 0.6, 0.99):
        with pytest.raises(
            UtteranceError, match=r"cannot be decoded|no samples in it|truncated: the last Ogg page"
        ):
            load_audio(write(tmp_path, content[: int(kept * len(content))]), 16_000)


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("missing", [1, 100, 1000, 5000])
def test_a_cut_mp3_with_a_tag_is_refused(
    tmp_path: Path, mode: str, missing: int, capfd: pytest.CaptureFixture
) -> None:
    content = mp3(5, mode=mode)
    path = write(tmp_path, content[:-missing])
    message = (
        rf"truncated: the MP3 header promises \d+ bytes of audio, "
        rf"{len(content) - missing} are there"
    )
    for refuse in (read_header, lambda path: load_audio(path, 16_000)):
        with pytest.raises(UtteranceError, match=message):
            refuse(path)
    assert capfd.readouterr().err == "", "libmpg123 warns without the name of the file"


def test_a_cut_mp3_without_the_number_of_bytes_is_refused_by_its_frames(tmp_path: Path) -> None:
    content = mp3(5)
    flags = content.index(b"Info" if b"Info" in content else b"Xing") + 7
    assert content[flags] & 3 == 3
    no_bytes = content[:flags] + bytes((1,)) + content[flags + 1 :]
    with pytest.raises(
        UtteranceError, match=r"truncated: the MP3 header promises \d+ samples, \d+ are there"
    ):
        load_audio(write(tmp_path, no_bytes[:-4000]), 16_000)


def test_an_mp3_without_a_tag_is_flagged_where_its_last_frame_is_cut(tmp_path: Path) -> None:
    content = mp3(5, tagged=False)
    assert load_audio(write(tmp_path, content), 16_000).flags == ()
    assert load_audio(write(tmp_path, content[:-1050]), 16_000).flags == ("no end mark",)


def test_an_mp3_with_something_else_between_its_frames_is_flagged(tmp_path: Path) -> None:
    content = mp3(5)
    place = content.index(content[:2], len(content) // 2)
    damaged = content[:place] + bytes(4) + content[place + 4 :]
    assert load_audio(write(tmp_path, damaged), 16_000).flags == ("damaged frames",)


def test_an_ogg_that_ends_with_a_page_but_without_the_mark_is_flagged(tmp_path: Path) -> None:
    for subtype in ("VORBIS", "OPUS"):
        content = encoded(np.tile(NOISE, 200), 48_000, "OGG", subtype)
        assert load_audio(write(tmp_path, content), 16_000).flags == ()
        path = write(tmp_path, content[: content.rindex(b"OggS")])
        assert load_audio(path, 16_000).flags == ("no end mark",)
        with pytest.raises(
            UtteranceError,
            match=r"truncated: the last Ogg page's header promises \d+ bytes, \d+ are there",
        ):
            read_header(write(tmp_path, content[:-1]))


@pytest.mark.parametrize(
    "container", ["AIFF", "AU", "CAF", "W64", "RF64", "NIST", "SVX", "AVR", "MPC2K"]
)
def test_a_header_alone_shows_that_a_file_is_cut(tmp_path: Path, container: str) -> None:
    content = encoded(np.tile(NOISE, 10), container=container, subtype="PCM_16")
    assert read_header(write(tmp_path, content)).n_samples == 15_000
    for kept in (0.5, 0.999):
        path = write(tmp_path, content[: int(kept * len(content))])
        for refuse in (read_header, lambda path: load_audio(path, 16_000)):
            with pytest.raises(
                UtteranceError,
                match=f"truncated: the {container} header promises|cannot be decoded: .*malformed",
            ):
                refuse(path)


def test_flac_that_promises_more_than_it_has_is_refused(tmp_path: Path) -> None:
    content = encoded(NOISE, container="FLAC")
    promising = content[:24] + (1600).to_bytes(2, "big") + content[26:]
    with pytest.raises(
        UtteranceError, match="truncated: the FLAC header promises 1600 samples, 1500 are there"
    ):
        load_audio(write(tmp_path, promising), 16_000)


# Refusals


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d",
            "a Git LFS pointer. Run `git lfs pull`",
        ),
        (b"<!DOCTYPE html>\n<html>", "a web page (HTML). Fetch the file itself"),
        (b'{"message": "404"}', "JSON. Fetch the file itself"),
        (b"\x1f\x8b\x08" + bytes(50), "compressed by gzip. Unpack it with gunzip"),
        (
            b"\0\0\0\x20ftypM4A " + bytes(50),
            "MP4 or M4A, which libsndfile does not read. "
            "Install its decoder (pip install layerprobe[ffmpeg])",
        ),
        (
            b"\x1a\x45\xdf\xa3" + bytes(50),
            "WebM or Matroska, which libsndfile does not read. Install its decoder",
        ),
        (
            b"\xff\xf1\x50\x80" + bytes(300),
            "AAC, which libsndfile does not read. Install its decoder",
        ),
        (
            b"NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n".ljust(
                2000
            ),
            "compressed by Shorten",
        ),
        (
            bytes(4096),
            "nothing but zero bytes, as an interrupted copy leaves. Fetch the file again",
        ),
    ],
)
def test_a_file_that_is_something_else_is_called_what_it_is(
    tmp_path: Path, content: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("probe.data.ffmpeg.is_installed", lambda: False)
    path = write(tmp_path, content, "a.wav")
    for refuse in (read_header, lambda path: load_audio(path, 16_000)):
        with pytest.raises(
            UtteranceError, match="cannot be decoded: the file is .*" + re.escape(message)
        ):
            refuse(path)


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
    with pytest.raises(
        UtteranceError, match=f"sample rate {rate_hz} Hz; expected 1000 to 768000 Hz"
    ):
        load_audio(write(tmp_path, bytes(content)), 16_000)


def test_a_file_beyond_the_longest_length_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio, "LONGEST_S", 1)
    with pytest.raises(UtteranceError, match=r"longer than .* hours; cut it into utterances"):
        load_audio(write(tmp_path, encoded(tone(440, 8000, seconds=1.1), 8000)), 16_000)


@pytest.mark.parametrize(
    "content", [b"zero one two", b"\x89PNG\r\n\x1a\n" + bytes(500), bytes(4096)]
)
def test_what_is_no_audio_is_refused_with_a_reason_that_is_the_same_every_time(
    tmp_path: Path, content: bytes
) -> None:
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
    with pytest.raises(
        UtteranceError, match="duration_s is 61 in the manifest, the audio lasts 60 s"
    ):
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
def test_another_duration_than_the_manifests_is_refused_with_a_guess(
    tmp_path: Path, promised_s: float, guess: str
) -> None:
    message = f"duration_s is {promised_s:g} in the manifest, the audio lasts 1 s; {guess}"
    with pytest.raises(UtteranceError, match=message):
        load_audio(write(tmp_path, encoded(tone(440, 8000), 8000)), 16_000, promised_s)


def test_a_headers_duration_is_an_estimate_for_plans(tmp_path: Path) -> None:
    path = write(tmp_path, encoded(tone(440, 8000, seconds=1.5), 8000))
    assert header_duration_s(path) == 1.5
    assert header_duration_s(write(tmp_path, b"no audio")) is None
    assert header_duration_s(write(tmp_path, b"")) is None
