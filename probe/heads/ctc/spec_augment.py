"""SpecAugment on features (Park et al. 2019), which masks spans of time and of dimensions in
training.

Masked values are 0, the mean of standardised features. The number of spans and their largest widths
are those of SUPERB's ASR: 2 spans of up to 40 frames, and 4 of up to 50 of 768 dimensions. The
latter is a share of the width, so that models of any width can be compared. A span of time is also
at most a fifth of its utterance (the paper's p), because utterances may be short. The module leaves
out time warping, which the paper found to matter least.

The spans depend only on the seed, the epoch and the utterance, and not on the other layers or the
batch.
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
    """Return masks (batch, frame) and (batch, dim), float32: 0 for masked places, 1 for the others.

    Args:
        utterances: position of each utterance in the training set.
        lengths: number of frames of each utterance.
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
    """Write zeros into spans of 0 to ``widest`` places; a draw is two numbers in 0..1, for the
    width and the start of a span.
    """
    for width, start in zip((draws[:, 0] * (widest + 1)).astype(int), draws[:, 1], strict=True):
        first = int(start * (len(row) - width + 1))
        row[first : first + width] = 0
