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

from probe.models.encoder import Chunking, ModelInfo, brief_of

WINDOW_SAMPLES = 400
HOP_SAMPLES = 160
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
        widths = {"fbank": 80, "mfcc": 20}
        settings = {"window_samples": WINDOW_SAMPLES, "rms": RMS}
        self.info = ModelInfo(
            id=name,
            revision=REVISION,
            weights_sha256="",
            family="spectral",
            layers={"0": widths[name]},
            hop_samples=HOP_SAMPLES,
            min_samples=WINDOW_SAMPLES,
            settings=settings,
        )
        # Its cut at 80 dB below the utterance's loudest value is why the cepstra are not taken by
        # tiles.
        self._mfcc = torchaudio.transforms.MFCC(
            sample_rate=RATE_HZ,
            n_mfcc=20,
            melkwargs={
                "n_fft": WINDOW_SAMPLES,
                "hop_length": HOP_SAMPLES,
                "n_mels": 40,
                "f_min": 60.0,
                "f_max": 7600.0,
                "center": False,
            },
        ).to(device)

    def __repr__(self) -> str:
        return brief_of(self)

    def n_frames(self, n_samples: int) -> int:
        """Frames that ``n_samples`` samples give."""
        return max(0, 1 + (n_samples - WINDOW_SAMPLES) // HOP_SAMPLES)

    def encode(
        self, waveforms: Tensor, lengths: Tensor, layers: Sequence[str]
    ) -> tuple[list[Tensor], Tensor]:
        """See `probe.models.encoder.Encoder.encode`."""
        frame_of = self._fbank_frames if self.info.id == "fbank" else self._mfcc_frames
        frames = [
            frame_of(_at_rms(wave[:length]))
            for wave, length in zip(waveforms, lengths.tolist(), strict=True)
        ]
        n_frames = torch.tensor([len(item) for item in frames])
        padded = torch.nn.utils.rnn.pad_sequence(frames, batch_first=True)
        return [padded for _ in layers], n_frames.repeat(len(layers), 1)

    def _fbank_frames(self, wave: Tensor) -> Tensor:
        """(time,) -> (frame, 80)."""

        def of_tile(tile: Tensor) -> Tensor:
            return torchaudio.compliance.kaldi.fbank(
                tile[None] * 2**15,
                num_mel_bins=80,
                sample_frequency=RATE_HZ,
                frame_length=25.0,
                frame_shift=10.0,
                dither=0.0,
            )

        return torch.cat([of_tile(tile) for tile in _tiles(wave)])

    def _mfcc_frames(self, wave: Tensor) -> Tensor:
        """(time,) -> (frame, 20)."""
        energies = torch.cat([self._mfcc.MelSpectrogram(tile) for tile in _tiles(wave)], dim=1)
        return self._mfcc.amplitude_to_DB(energies).T @ self._mfcc.dct_mat


def _tiles(wave: Tensor) -> Iterator[Tensor]:
    """(time,) in stretches that give `TILE_FRAMES` frames each, so that memory does not grow much
    with a file's length.
    """
    n_frames = 1 + (len(wave) - WINDOW_SAMPLES) // HOP_SAMPLES
    for first in range(0, n_frames, TILE_FRAMES):
        stop = min(first + TILE_FRAMES, n_frames)
        yield wave[first * HOP_SAMPLES : (stop - 1) * HOP_SAMPLES + WINDOW_SAMPLES]


def _at_rms(wave: Tensor) -> Tensor:
    """(time,) scaled to `RMS`; digital silence stays silence."""
    return wave * (RMS / wave.square().mean().sqrt().clamp_min(1e-12))
