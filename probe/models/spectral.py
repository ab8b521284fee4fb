"""Spectral baselines: log-mel filter banks and cepstra, one layer called ``0``.

``fbank``: Kaldi's 80 log-mel energies (``torchaudio.compliance.kaldi.fbank``, no dither, samples in
16-bit range). ``mfcc``: ``torchaudio.transforms.MFCC``, 20 coefficients of 40 mel bands from 60 to
7600 Hz. Both: audio scaled to rms 0.05 first (the pretrained models normalise their waveforms too,
so the level is no cue for either); 25 ms windows every 10 ms at 16 kHz, whole windows only, so
``frames = 1 + (samples - 400) // 160``. SUPERB's fbank differs: deltas, and mean and variance
normalised per utterance, which leaves nothing to a mean over time.
"""

from collections.abc import Iterator, Sequence

import torch
import torchaudio
from torch import Tensor

from probe.models.encoder import Chunking, ModelInfo, brief_of, padded
from probe.models.frames import FrameGrid

GRID = FrameGrid(hop_samples=160, field_samples=400, min_samples=400)
RATE_HZ = 16_000
RMS = 0.05
TILE_FRAMES = 6000
REVISION = "1"


class SpectralEncoder:
    """``fbank`` or ``mfcc``; satisfies `probe.models.encoder.Encoder`."""

    implementation, precision = "reference", "fp32"
    chunking: Chunking | None = None
    rows = 1

    def __init__(self, name: str, device: torch.device) -> None:
        self.device = device
        widths, window = {"fbank": 80, "mfcc": 20}, GRID.field_samples
        self.info = ModelInfo(
            id=name,
            revision=REVISION,
            weights_sha256="",
            family="spectral",
            layers={"0": widths[name]},
            grid=GRID,
            settings={"window_samples": window, "rms": RMS},
        )
        # Cepstra are not taken by tiles: values are cut at 80 dB below the utterance's loudest one.
        self._mfcc = torchaudio.transforms.MFCC(
            sample_rate=RATE_HZ,
            n_mfcc=20,
            melkwargs={
                "n_fft": window,
                "hop_length": GRID.hop_samples,
                "n_mels": 40,
                "f_min": 60.0,
                "f_max": 7600.0,
                "center": False,
            },
        ).to(device)

    def __repr__(self) -> str:
        return brief_of(self)

    def encode(
        self, waveforms: Tensor, lengths: Tensor, layers: Sequence[str]
    ) -> tuple[list[Tensor], Tensor]:
        """See `probe.models.encoder.Encoder.encode`."""
        frames_of = self._fbank if self.info.id == "fbank" else self._mfcc_of
        frames = [
            frames_of(_at_rms(wave[:length]))
            for wave, length in zip(waveforms, lengths.tolist(), strict=True)
        ]
        return padded([frames for _ in layers])

    def _fbank(self, wave: Tensor) -> Tensor:
        """(time,) -> (frame, 80)."""
        settings = {"num_mel_bins": 80, "sample_frequency": RATE_HZ, "dither": 0.0}
        energies = torchaudio.compliance.kaldi.fbank  # 25 ms windows every 10 ms
        return torch.cat([energies(tile[None] * 2**15, **settings) for tile in _tiles(wave)])

    def _mfcc_of(self, wave: Tensor) -> Tensor:
        """(time,) -> (frame, 20)."""
        energies = torch.cat([self._mfcc.MelSpectrogram(tile) for tile in _tiles(wave)], dim=1)
        return self._mfcc.amplitude_to_DB(energies).T @ self._mfcc.dct_mat


def _tiles(wave: Tensor) -> Iterator[Tensor]:
    """Cut (time,) into stretches of `TILE_FRAMES` frames each, so that memory does not grow much
    with a file's length.
    """
    hop, n_frames = GRID.hop_samples, GRID.n_frames(len(wave))
    for first in range(0, n_frames, TILE_FRAMES):
        last = min(first + TILE_FRAMES, n_frames) - 1
        yield wave[first * hop : last * hop + GRID.field_samples]


def _at_rms(wave: Tensor) -> Tensor:
    """Scale (time,) to `RMS`; digital silence stays silence."""
    return wave * (RMS / wave.square().mean().sqrt().clamp_min(1e-12))
