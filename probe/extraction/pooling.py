"""Views of an utterance whose frames come piece by piece, computed where the frames are; `probe.store.views` says what each is."""

import torch
from torch import Tensor

from probe.store.views import parse_view


class Pooling:
    """Turns the frames of one layer of one utterance into rows of a view."""

    def __init__(self, view: str, n_frames: int) -> None:
        """``n_frames`` in all pieces together."""
        self.kind, self.n = parse_view(view)
        self.n_frames, self.seen = n_frames, 0
        self._sums: list[Tensor] = []

    def add(self, frames: Tensor) -> Tensor | None:
        """The next frames, (frame, dim) float32 -> the rows that they complete, (row, dim) float32, if any.

        Statistics are sums in float64, of distances from the first frame where a variance comes of them.
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
        """Segment i of n holds the frames from i * frame // n on, at least one: differences of running sums at its two ends."""
        if not self._sums:
            bounds = torch.arange(self.n + 1) * self.n_frames // self.n
            self._ends = [bounds[:-1], torch.maximum(bounds[1:], bounds[:-1] + 1)]
            self._sums = [frames.new_zeros(self.n, frames.shape[1], dtype=torch.float64) for _ in self._ends]
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
