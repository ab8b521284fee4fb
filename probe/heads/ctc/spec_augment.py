"""SpecAugment on features (Park et al. 2019): spans of time and of dimensions are hidden from a
head while it trains.

What is hidden is 0, the mean of standardised features. Number and largest widths are those of
SUPERB's ASR (2 spans of up to 40 frames, 4 of up to 50 of 768 dimensions), the latter as a share so
that models of any width can be compared; a span of time also ends at a fifth of its utterance (the
paper's p), because utterances here may be short. No time warping: the paper found it to matter
least.

Spans are drawn from the seed, the epoch and the utterance alone, so that neither the other layers
nor the batch decide them.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

N_TIME_SPANS, MOST_FRAMES, MOST_TIME = 2, 40, 0.2
N_DIM_SPANS, MOST_DIMS = 4, 50 / 768

Masks = tuple[Tensor, Tensor]


def draw_masks(
    seed: int, epoch: int, utterances: Sequence[int], lengths: Sequence[int], dim: int
) -> Masks:
    """(batch, frame) and (batch, dim) float32: 0 where something is hidden, otherwise 1.

    Args:
        utterances: number of each in the training set.
        lengths: frames of each.
    """
    time = np.ones((len(lengths), max(lengths)), np.float32)
    dims = np.ones((len(lengths), dim), np.float32)
    for row, (utterance, length) in enumerate(zip(utterances, lengths, strict=True)):
        generator = np.random.default_rng([seed, epoch, utterance])
        widest = min(MOST_FRAMES, int(MOST_TIME * length))
        _hide(time[row, :length], generator.random((N_TIME_SPANS, 2)), widest)
        _hide(dims[row], generator.random((N_DIM_SPANS, 2)), int(MOST_DIMS * dim))
    return torch.from_numpy(time), torch.from_numpy(dims)


def _hide(row: np.ndarray, draws: np.ndarray, widest: int) -> None:
    """Zeros in spans of 0 to ``widest`` places; a draw is two numbers in 0..1, for its width and
    its start.
    """
    for width, start in zip((draws[:, 0] * (widest + 1)).astype(int), draws[:, 1], strict=True):
        first = int(start * (len(row) - width + 1))
        row[first : first + width] = 0
