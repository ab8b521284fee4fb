"""Views of an utterance whose frames come piece by piece, and their form in the store, computed on
the model's device.

`probe.store.views` defines the views.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from probe.store.views import parse_view

LARGEST_FLOAT16, SAFE_RMS = 65_504.0, 2e-4


class Pooling:
    """Turns the frames of one layer of one utterance into rows of a view."""

    def __init__(self, view: str, n_frames: int) -> None:
        """``n_frames`` in all pieces together."""
        self.kind, self.n = parse_view(view)
        self.n_frames, self.seen = n_frames, 0
        self._sums: list[Tensor] = []

    def add(self, frames: Tensor) -> Tensor | None:
        """The rows that the next frames complete, if any: (frame, dim) -> (row, dim) float32.

        Statistics are float64 sums of the distances from the first frame.
        """
        start, self.seen = self.seen, self.seen + len(frames)
        if self.kind == "frames":
            return frames[-start % self.n :: self.n].contiguous()
        if self.kind == "segments":
            return self._segments(frames, start)
        wide = frames.double()
        if not self._sums:
            self._sums = [wide[0].clone(), torch.zeros_like(wide[0]), torch.zeros_like(wide[0])]
        origin, total, squares = self._sums
        wide -= origin
        total += wide.sum(0)
        if self.kind == "meanstd":
            squares += wide.square_().sum(0)
        if self.seen < self.n_frames:
            return None
        mean = total / self.n_frames
        if self.kind == "mean":
            return (mean + origin)[None].float()
        deviation = (squares / self.n_frames - mean.square()).clamp_min_(0).sqrt()
        return torch.cat([mean + origin, deviation])[None].float()

    def _segments(self, frames: Tensor, start: int) -> Tensor | None:
        """Means from differences of running sums; segment i of n begins at frame i * frame // n and
        has at least one frame.
        """
        if not self._sums:
            bounds = torch.arange(self.n + 1) * self.n_frames // self.n
            self._ends = [bounds[:-1], torch.maximum(bounds[1:], bounds[:-1] + 1)]
            self._sums = [
                frames.new_zeros(self.n, frames.shape[1], dtype=torch.float64) for _ in self._ends
            ]
            self._running = frames.new_zeros(1, frames.shape[1], dtype=torch.float64)
        running = torch.cat([self._running, frames.double()]).cumsum(0)
        for ends, sums in zip(self._ends, self._sums, strict=True):
            here = (ends >= start) & (ends <= self.seen)
            sums[here.to(sums.device)] = running[(ends[here] - start).to(running.device)]
        self._running = running[-1:]
        if self.seen < self.n_frames:
            return None
        widths = (self._ends[1] - self._ends[0]).to(frames.device)
        return ((self._sums[1] - self._sums[0]) / widths[:, None]).float()


def as_stored(rows: Sequence[Tensor], dtype: str, whole: bool) -> list[np.ndarray]:
    """Rows of each layer, (row, dim) float32, in the form that a shard keeps, on the CPU.

    ``int8``: the values of all layers, then the scales of all, (row,) float32 each. ``float16``:
    those layers of a whole utterance of which it is sure that it changes them by no more than its
    rounding; `probe.store.shards` decides the others, as float32.

    Args:
        whole: whether these are all rows of an utterance, so that how it came in pieces decides
            nothing.
    """
    if dtype == "int8":
        packed, scales = zip(*map(quantised, rows), strict=True)
        rows = [*packed, *scales]
    elif dtype == "float16" and whole and len(rows[0]) > 1:
        faithful = torch.stack([_surely_faithful(item) for item in rows]).tolist()
        rows = [item.half() if sure else item for item, sure in zip(rows, faithful, strict=True)]
    return [item.cpu().numpy() for item in rows]


def _surely_faithful(rows: Tensor) -> Tensor:
    """Whether float16 changes (row, dim) float32 by no more than its rounding, as a bool without
    dimensions; False where in doubt.

    It rounds a normal value by at most 2^-11 of itself, a smaller one by 2^-25: with a large enough
    rms that is faithful.
    """
    smallest, largest = rows.aminmax()
    safe = rows.square().sum(0).min() > SAFE_RMS**2 * len(rows)
    return safe & (torch.maximum(-smallest, largest) <= LARGEST_FLOAT16)


def quantised(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(row, dim) int8 and (row,) float32 scales whose product is at most ``max |row| / 254`` from
    each value (plus float32 rounding).

    A scale per row follows loud and quiet frames; a few dimensions much larger than the others cost
    the others precision.
    """
    scales = rows.abs().amax(dim=1) / 127
    steps = torch.where(scales[:, None] > 0, rows / scales[:, None], 0.0)
    return steps.round_().clamp_(-127, 127).to(torch.int8), scales
