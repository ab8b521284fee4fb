"""Spectrograms of utterances under conditions, in grey: a row per condition, a column per
utterance.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from probe.data.conditions.audition import RATE_HZ, Example
from probe.reporting.figures.style import shortened, write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOW_SAMPLES, HOP_SAMPLES = 400, 160
RANGE_DB = 70.0
WIDTH, HEIGHT = 3.45, 1.4  # inches, of a panel
LONGEST = 30  # characters of a name


def spectrogram_db(samples: np.ndarray) -> np.ndarray:
    """(frequency, frame) power in dB of its largest, at least `-RANGE_DB`: Hann windows of 25 ms
    every 10 ms.
    """
    padded = np.pad(np.asarray(samples, np.float64), (0, max(0, WINDOW_SAMPLES - len(samples))))
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES)[::HOP_SAMPLES]
    power = np.abs(np.fft.rfft(windows * np.hanning(WINDOW_SAMPLES)).T) ** 2
    largest = power.max()
    return 10 * np.log10(np.maximum(power / (largest or 1.0), 10 ** (-RANGE_DB / 10)))


def draw_spectrograms(examples: Sequence[Example], to: Path) -> None:
    """Draws the examples; each panel is black at its own loudest point, and its title has its
    level.

    Raises:
        ProbeError: see `probe.reporting.figures.style.write_figure`.
        OSError: the file cannot be written.
    """
    write_figure(lambda: _figure(examples), to)


def _figure(examples: Sequence[Example]) -> "Figure":
    from matplotlib.figure import Figure

    conditions = list(dict.fromkeys(item.condition for item in examples))
    keys = list(dict.fromkeys(item.key for item in examples))
    longest_s = {
        key: max(len(item.samples) for item in examples if item.key == key) / RATE_HZ
        for key in keys
    }
    figure = Figure(
        figsize=(WIDTH * len(keys) + 0.5, HEIGHT * len(conditions) + 0.6), layout="constrained"
    )
    grid = figure.subplots(len(conditions), len(keys), squeeze=False)
    for item in examples:
        row, column = conditions.index(item.condition), keys.index(item.key)
        axes = grid[row][column]
        extent = (0.0, max(len(item.samples), WINDOW_SAMPLES) / RATE_HZ, 0.0, RATE_HZ / 2000)
        axes.imshow(
            spectrogram_db(item.samples),
            origin="lower",
            aspect="auto",
            cmap="gray_r",
            vmin=-RANGE_DB,
            extent=extent,
        )
        axes.set(xlim=(0, longest_s[item.key]), title=_title(item, row == 0))
        axes.grid(visible=False)
        axes.tick_params(labelbottom=row == len(conditions) - 1, labelleft=column == 0)
    figure.supxlabel("time (s)")
    figure.supylabel("frequency (kHz)")
    return figure


def _title(item: Example, first: bool) -> str:
    """Condition, level and SNR; above the first row the utterance, too."""
    snr = "" if item.snr_db is None else f", SNR {item.snr_db:.1f} dB"
    key = f"{shortened(item.key, LONGEST)}\n" if first else ""
    return f"{key}{shortened(item.condition, LONGEST)}: {item.level_db:.1f} dB{snr}"
