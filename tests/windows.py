"""An encoder for tests of extraction and stores that keeps count of what it is given, and files for
it.

It takes one utterance at a time, so it would not pass a model's check.
"""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from probe.data.audio import load_audio
from probe.extraction.extract import extract as extract_checked
from probe.extraction.settings import Running
from probe.models.encoder import ModelInfo
from probe.models.frames import FrameGrid

RATE_HZ = 16_000
HOP, WINDOW = 160, 400
extract = functools.partial(extract_checked, running=Running(check=False))


class Interrupted(Exception):
    """What `Windows` raises in the middle."""


class Windows:
    """An encoder whose layer ``i`` is the first samples of each window, times ``i + 1``; notes what
    it was given.

    Attributes:
        seen: number of samples of each utterance it encoded, in order.
        dies_at: raises instead of encoding its ``dies_at``-th utterance.
        poison: an utterance of so many samples gets NaN in its last layer.
    """

    implementation, precision, chunking = "reference", "fp32", None
    rows = 1

    def __init__(self, dies_at: int | None = None, poison: int | None = None, **info: Any) -> None:
        usual: dict[str, Any] = {
            "layers": {"0": 3, "1": 5, "2": 4},
            "aliases": {"final": "2"},
            "grid": FrameGrid(HOP, WINDOW, WINDOW),
        }
        self.info = ModelInfo(
            id="windows", revision="1", weights_sha256="", family="fake", **(usual | info)
        )
        self.device = torch.device("cpu")
        self.dies_at, self.poison = dies_at, poison
        self.seen: list[int] = []

    def encode(
        self, waveforms: torch.Tensor, lengths: torch.Tensor, layers: Sequence[str]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        if len(self.seen) == self.dies_at:
            raise Interrupted
        self.seen.append(int(lengths[0]))
        windows = waveforms.unfold(1, WINDOW, HOP)
        frames = [
            windows[:, :, : self.info.layers[name]] * (list(self.info.layers).index(name) + 1)
            for name in layers
        ]
        if self.seen[-1] == self.poison:
            frames[-1] = frames[-1].clone()
            frames[-1][0, 0, 0] = float("nan")
        return frames, torch.tensor([[self.info.n_frames(self.seen[-1])]] * len(layers))

    def direct(self, path: Path, layer: str) -> np.ndarray:
        """(frame, dim) of one file, without extraction."""
        samples = load_audio(path, RATE_HZ).samples
        starts = range(0, len(samples) - WINDOW + 1, HOP)
        factor = np.float32(list(self.info.layers).index(layer) + 1)
        return (
            np.stack([samples[start : start + self.info.layers[layer]] for start in starts])
            * factor
        )


def write_audio(path: Path, n_samples: int, seed: int | None = None) -> None:
    """Noise that fits 16 bits exactly; its seed is its length where none is given."""
    values = np.random.default_rng(n_samples if seed is None else seed).integers(
        -9000, 9000, n_samples
    )
    soundfile.write(path, values.astype(np.int16), RATE_HZ)


def write_manifest(
    folder: Path,
    paths: Iterable[str],
    name: str = "all.csv",
    seconds: Sequence[float] | None = None,
) -> Path:
    """A manifest of these paths, in turn of the train, dev and test split."""
    paths = list(paths)
    durations = seconds or [""] * len(paths)
    rows = zip(paths, durations, strict=True)
    lines = [
        f"{path},one,ann,near,{('train', 'dev', 'test')[i % 3]},{value}"
        for i, (path, value) in enumerate(rows)
    ]
    manifest = folder / name
    manifest.write_text(
        "\n".join(["path,text,speaker,domain,split,duration_s", *lines]) + "\n", encoding="utf-8"
    )
    return manifest


def files_of(root: Path) -> dict[str, bytes]:
    """Everything beneath a folder except locks and leftovers of killed processes."""
    paths = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".tmp"]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}
