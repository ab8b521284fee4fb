"""Windows of long audio: frames that are computed together, and which of them are kept."""

from collections.abc import Iterator
from typing import NamedTuple

from probe.models.encoder import Chunking


class Window(NamedTuple):
    """Frames that see each other, and which of them are kept."""

    start: int
    stop: int
    kept_from: int
    kept_to: int


def windows(
    n_frames: int, cut: Chunking | None, rate_hz: float, start: int = 0
) -> Iterator[Window]:
    """Yield the windows of an utterance of ``n_frames`` frames.

    Args:
        cut: None leaves it whole.
        rate_hz: frames per second.
        start: the number of its first frame.
    """
    stop = start + n_frames
    if cut is None or n_frames <= cut.above_s * rate_hz:
        yield Window(start, stop, start, stop)
        return
    chunk, context = max(1, round(cut.chunk_s * rate_hz)), round(cut.context_s * rate_hz)
    for kept_from in range(start, stop, chunk):
        kept_to = min(kept_from + chunk, stop)
        first, last = max(start, kept_from - context), min(stop, kept_to + context)
        yield Window(first, last, kept_from, kept_to)
