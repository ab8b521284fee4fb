"""Formats of the extra ``[ffmpeg]``: the same audio and the same excerpts through the same door."""

import io
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile
from hostile import speechlike

from probe.data import ffmpeg
from probe.data.audio import load_audio, read_header
from probe.data.excerpts import Excerpt
from probe.data.guarded_decoding import Decoder
from probe.data.recordings import Recordings
from probe.errors import UtteranceError
from probe.extraction.extract import extract
from probe.files import read_json

av = pytest.importorskip("av", reason="m4a, mp4, webm, wma: pip install layerprobe[ffmpeg]")

# Name -> container, coding, rate.
FORMS = {
    "a.m4a": ("ipod", "aac", 16_000),
    "lossless.m4a": ("ipod", "alac", 44_100),
    "a.mp4": ("mp4", "aac", 44_100),
    "a.webm": ("webm", "libopus", 48_000),
    "a.wma": ("asf", "wmav2", 22_050),
    "a.aac": ("adts", "aac", 16_000),
}


def encoded(name: str, samples: np.ndarray, n_streams: int = 1) -> bytes:
    """(time, channel) samples in a format, by FFmpeg itself."""
    container, coding, rate_hz = FORMS[name]
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    content = io.BytesIO()
    with av.open(content, "w", format=container) as output:
        streams = [output.add_stream(coding, rate=rate_hz) for _ in range(n_streams)]
        for stream in streams:
            stream.layout = layout
            stream.bit_rate = 96_000
        for stream in streams:
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples.T), format="fltp", layout=layout
            )
            frame.sample_rate, frame.pts = rate_hz, 0
            if not stream.codec_context.is_open:
                stream.codec_context.open()
            convert = av.AudioResampler(stream.format, layout, rate_hz, stream.frame_size or 1024)
            for part in [*convert.resample(frame), *convert.resample(None)]:
                output.mux(stream.encode(part))
            output.mux(stream.encode(None))
    return content.getvalue()


@pytest.mark.parametrize("name", FORMS)
def test_a_file_comes_back_at_its_own_rate_with_the_sound_in_its_place(
    tmp_path: Path, name: str
) -> None:
    rate_hz = FORMS[name][2]
    sound = speechlike(2, rate_hz, 2)
    (tmp_path / name).write_bytes(encoded(name, sound))
    audio = load_audio(tmp_path / name, rate_hz)
    assert audio.native_rate_hz == rate_hz and abs(audio.duration_s - 2) < 0.15
    header = read_header(tmp_path / name)
    assert (header.rate_hz, header.channels) == (rate_hz, 2)
    n = min(len(sound), len(audio.samples))
    mono = sound.mean(axis=1)[:n]
    spectrum = np.fft.rfft(mono) * np.conj(np.fft.rfft(audio.samples[:n]))
    delay = (np.argmax(np.fft.irfft(spectrum)) + n // 2) % n - n // 2
    at_most = {"a.aac": 2200, "a.wma": 4200}.get(name, 8)  # these do not say how much precedes
    assert abs(delay) <= at_most
    if name == "lossless.m4a":
        np.testing.assert_allclose(audio.samples, mono, atol=1e-4)


@pytest.mark.parametrize("name", FORMS)
def test_an_excerpt_has_the_samples_of_the_whole(tmp_path: Path, name: str) -> None:
    rate_hz = FORMS[name][2]
    path = tmp_path / name
    path.write_bytes(encoded(name, speechlike(2, rate_hz, 2)))
    recordings = Recordings()
    for channel in (None, 2):
        whole = load_audio(path, rate_hz, excerpt=Excerpt(channel=channel)).samples
        for start_s, end_s in [(0.5, 1.0), (0.0, 0.3), (1.2, 1.9)]:
            excerpt = Excerpt(start_s, end_s, channel)
            audio = recordings.load(path, rate_hz, excerpt=excerpt, more_to_come=True)
            expected = whole[round(start_s * rate_hz) : round(end_s * rate_hz)]
            np.testing.assert_array_equal(audio.samples, expected)
    with Decoder(isolate=True) as decoder:
        np.testing.assert_array_equal(
            decoder.load(path, rate_hz, excerpt=excerpt).samples, audio.samples
        )


def test_a_file_that_is_cut_off_or_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.webm"
    content = encoded("a.webm", speechlike(4, 48_000, 1))
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UtteranceError, match=r"truncated|cannot be decoded: .* \(FFmpeg\)"):
        load_audio(path, 16_000)
    path = tmp_path / "a.m4a"
    content = encoded("a.m4a", speechlike(4, 16_000, 1))
    path.write_bytes(content[: len(content) // 2])  # what the file holds is listed at its end
    with pytest.raises(UtteranceError, match=r"cannot be decoded: .* \(FFmpeg\)"):
        load_audio(path, 16_000)


def test_two_audio_streams_are_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(encoded("a.mp4", speechlike(1, 44_100), n_streams=2))
    with pytest.raises(UtteranceError, match=r"2 audio streams; expected one\. Write the one that"):
        load_audio(path, 16_000)


def test_shards_name_the_decoder_of_their_audio_and_the_recipe_does_not(tmp_path: Path) -> None:
    sound = speechlike(1, 16_000)
    (tmp_path / "a.m4a").write_bytes(encoded("a.m4a", sound))
    soundfile.write(tmp_path / "b.wav", sound, 16_000)
    environments, recipes = [], set()
    for name in ("a.m4a", "b.wav"):
        (tmp_path / "corpus.csv").write_text(f"path\n{name}\n")
        store = extract("mfcc", tmp_path / "corpus.csv", tmp_path / name[0]).store
        with h5py.File(next(store.glob("shard-*.h5"))) as shard:
            environments.append(json.loads(shard.attrs["environment"]))
        recipes.add(read_json(store / "recipe.json")["sha256"])
    (decoder,) = environments[0].pop("decoders")
    assert decoder.startswith(f"PyAV {av.__version__}, libavcodec ")
    assert environments[0] == environments[1] and len(recipes) == 1


def test_without_the_extra_the_message_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ffmpeg, "is_installed", lambda: False)
    path = tmp_path / "a.m4a"
    path.write_bytes(encoded("a.m4a", speechlike(1, 16_000)))
    with pytest.raises(UtteranceError, match=r"M4A, .*pip install layerprobe\[ffmpeg\]"):
        load_audio(path, 16_000)
