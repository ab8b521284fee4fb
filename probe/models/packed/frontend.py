"""Audio -> frames: the convolutions, as products over overlapping rows, in tiles.

A convolution of kernel k and stride s over frames that lie one after the other, (time, dim), is one
product: row t of its input is ``frames[s t : s t + k]``, flattened, a view of the memory there is.
An utterance runs in tiles of `TILE` resulting frames, each with the few hundred samples more that
its last frames reach, so memory does not grow with length and nothing is approximated.

The group norm of the first convolution takes each channel's mean and variance over the whole
utterance. Both follow from the audio alone: with the k samples of a patch p, mean m and covariance
C of all patches, a channel with weights w has mean w m and variance w C w. Those are taken in
float64 once, and the norm becomes part of the first convolution's weights and bias.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from probe.models.frames import FrameGrid
from probe.models.packed.products import Norm, Product

TILE = 200
BLOCK = 2**16  # patches at a time, in float64


class FrontEnd:
    """The convolutional feature extractor of one model."""

    def __init__(self, layers: Any, dtype: torch.dtype) -> None:
        """``layers`` are transformers' modules; products after the first convolution are in
        ``dtype``, the first in float32.
        """
        self.kernels = [(layer.conv.kernel_size[0], layer.conv.stride[0]) for layer in layers]
        self.grid = FrameGrid.of_convolutions(self.kernels)
        norms = [getattr(layer, "layer_norm", None) for layer in layers]
        self.group_norm = norms[0] if isinstance(norms[0], torch.nn.GroupNorm) else None
        is_norm = torch.nn.LayerNorm
        self.norms = [Norm(norm) if isinstance(norm, is_norm) else None for norm in norms]
        self.first = layers[0].conv
        self.products = [
            Product(
                _rows_of(layer.conv.weight),
                layer.conv.bias,
                dtype if index else torch.float32,
                norm is None,
                parts=4 if index else 1,
            )
            for index, (layer, norm) in enumerate(zip(layers, self.norms, strict=True))
        ]

    def __call__(self, wave: Tensor) -> Tensor:
        """(time,) float32, one utterance of at least the receptive field -> (frame, dim) in the
        products' dtype.
        """
        first = self._fold(wave) if self.group_norm is not None else self.products[0]
        n_frames = self.grid.n_frames(len(wave))
        last = self.products[-1]
        dtype = torch.float32 if self.norms[-1] else last.dtype
        frames = wave.new_empty(n_frames, last.n_out, dtype=dtype)
        hop, field = self.grid.hop_samples, self.grid.field_samples
        for start in range(0, n_frames, TILE):
            stop = min(start + TILE, n_frames)
            frames[start:stop] = self._tile(wave[start * hop : (stop - 1) * hop + field], first)
        return frames

    def _tile(self, samples: Tensor, first: Product) -> Tensor:
        """(time,) -> (frame, dim): the whole stack on a stretch of audio."""
        frames = samples[:, None]
        products = [first, *self.products[1:]]
        for (kernel, stride), product, norm in zip(self.kernels, products, self.norms, strict=True):
            frames = product(_patches(frames.to(product.dtype), kernel, stride))
            if norm is not None:
                frames = F.gelu(norm(frames))
        return frames

    def _fold(self, wave: Tensor) -> Product:
        """The first convolution and its group norm for one utterance (time,), as one product."""
        norm, (kernel, stride) = self.group_norm, self.kernels[0]
        assert norm is not None
        mean, covariance = patch_statistics(wave, kernel, stride)
        weight = _rows_of(self.first.weight).double()
        variance = ((weight @ covariance) * weight).sum(1).clamp(min=0)
        scale = norm.weight.double() / (variance + norm.eps).sqrt()
        # The convolution's own bias goes with the mean.
        shift = norm.bias.double() - scale * (weight @ mean)
        return Product((scale[:, None] * weight).float(), shift.float(), torch.float32, gelu=True)


def patch_statistics(wave: Tensor, kernel: int, stride: int) -> tuple[Tensor, Tensor]:
    """Mean (kernel,) and covariance (kernel, kernel), float64, of all patches of a (time,)
    waveform.
    """
    patches = _patches(wave[:, None], kernel, stride)
    origin = patches[0].double()  # any point near the data, so that an offset costs no digits
    total, squares = torch.zeros_like(origin), origin.new_zeros(kernel, kernel)
    for block in patches.split(BLOCK):
        centred = block.double() - origin
        total += centred.sum(0)
        squares += centred.T @ centred
    mean = total / len(patches)
    return mean + origin, squares / len(patches) - torch.outer(mean, mean)


def _patches(frames: Tensor, kernel: int, stride: int) -> Tensor:
    """(time, dim), contiguous -> (patch, kernel x dim), a view: what a convolution sees at each
    step.
    """
    n_patches, dim = (len(frames) - kernel) // stride + 1, frames.shape[1]
    return frames.contiguous().as_strided((n_patches, kernel * dim), (stride * dim, 1))


def _rows_of(weight: Tensor) -> Tensor:
    """A convolution's (out, in, kernel) -> (out, kernel x in), in the order of `_patches`."""
    return weight.detach().transpose(1, 2).reshape(len(weight), -1)
