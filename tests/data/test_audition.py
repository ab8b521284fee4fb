"""probe listen: the files and the picture are there, nothing clips, and the printed levels are
those of the files.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from probe.cli import cli
from probe.data.conditions.audition import RATE_HZ, Example, listen
from probe.errors import ProbeError
from probe.reporting.figures.spectrograms import RANGE_DB, draw_spectrograms, spectrogram_db


def test_examples_are_written_with_one_gain_and_measured_levels(
    tones: Callable[..., Path], tmp_path: Path
) -> None:
    texts = ("clean", "noise:white@5dB", "gain:30dB", "tempo:0.5+noise:pink@-3dB")
    line = ["listen", str(tones()), "--to", str(tmp_path / "heard"), "--n", "2", "--format", "json"]
    done = CliRunner(catch_exceptions=False).invoke(
        cli, [*line, *(item for text in texts for item in ("--condition", text))]
    )
    assert done.exit_code == 0
    printed = json.loads(done.stdout)
    assert [item["condition"] for item in printed["examples"]] == list(texts) * 2
    assert len({item["utterance"] for item in printed["examples"]}) == 2
    assert [item["snr_db"] for item in printed["examples"]] == pytest.approx(
        [None, 5, None, -3] * 2, abs=0.01
    )
    assert [item["seconds"] for item in printed["examples"]] == [0.3, 0.3, 0.3, 0.6] * 2
    assert printed["gain_db"] < -5, "30 dB more is beyond full scale"
    for item in printed["examples"]:
        samples, rate_hz = soundfile.read(item["file"])
        assert (rate_hz, soundfile.info(item["file"]).subtype) == (RATE_HZ, "PCM_16")
        assert np.abs(samples).max() < 0.995
        level_db = 20 * np.log10(np.sqrt(np.mean(samples**2)))
        assert level_db == pytest.approx(item["level_db"] + printed["gain_db"], abs=0.1)


def test_the_picture_has_a_panel_for_each(tones: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    small = listen(tones(), ["telephone"], tmp_path / "a", n=1)
    large = listen(tones(), ["telephone", "clip"], tmp_path / "b", n=3)
    assert (len(small.files), len(large.files)) == (2, 9)
    pictures = [tmp_path / "a.png", tmp_path / "b.png"]
    for listening, picture in zip((small, large), pictures, strict=True):
        draw_spectrograms(listening.examples, picture)
    heads = [picture.read_bytes()[:24] for picture in pictures]
    assert all(head.startswith(b"\x89PNG") for head in heads)
    widths, heights = (
        [int.from_bytes(head[place : place + 4]) for head in heads] for place in (16, 20)
    )
    assert widths[1] > 2 * widths[0] and heights[1] > 1.3 * heights[0]


def test_a_spectrogram_shows_a_tone_where_it_is() -> None:
    wave = np.concatenate(
        [np.zeros(RATE_HZ // 2), np.sin(2 * np.pi * 2000 * np.arange(RATE_HZ // 2) / RATE_HZ)]
    )
    shown = spectrogram_db(wave)
    assert shown.shape == (201, 98)
    assert np.argmax(shown[:, 80]) == 50  # of 40 Hz each
    assert shown.max() == 0 and np.all(shown[:, :40] == -RANGE_DB)
    assert spectrogram_db(np.zeros(10)).max() == -RANGE_DB


def test_what_cannot_be_heard_is_said(
    tones: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tones(words=1, speakers=1, repetitions=3)
    for path in manifest.parent.glob("*.wav"):
        soundfile.write(path, np.zeros(4800), RATE_HZ)
    with pytest.raises(ProbeError, match=r"tones: no utterance can be used: near.*silent"):
        listen(manifest, ["noise:white@0dB"], tmp_path / "a")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ProbeError, match="figures need matplotlib"):
        draw_spectrograms([Example("a", "clean", np.zeros(1000, np.float32))], tmp_path / "a.png")


def test_the_command_prints_a_table(tones: Callable[..., Path], tmp_path: Path) -> None:
    line = ["listen", str(tones()), "--to", str(tmp_path / "heard"), "--n", "1"]
    done = CliRunner().invoke(cli, [*line, "--condition", "noise:white@7dB"])
    assert done.exit_code == 0, done.stderr
    head, clean, noisy = done.stdout.splitlines()
    assert head.split() == [
        "utterance",
        "condition",
        "seconds",
        "level",
        "dBFS",
        "SNR",
        "dB",
        "file",
    ]
    assert clean.split()[1] == "clean" and clean.split()[-2] == "-"
    assert float(noisy.split()[-2]) == pytest.approx(7, abs=0.01)
    assert all((tmp_path / "heard" / line.split()[-1]).is_file() for line in (clean, noisy))
    assert "2 files, lowered by 0.0 dB so that none clips" in done.stderr
