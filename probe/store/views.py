"""Views: what is kept of an utterance's frames, and which view can be computed from which.

``frames``, ``frames:k`` (every k-th frame, the first included), ``mean``, ``meanstd`` (mean and
population standard deviation over time, side by side), ``segments:n`` (the means of n stretches of
equal length).
"""

import itertools
import re

import numpy as np

from probe.errors import UsageError

# With examples of those that take a number.
VIEWS = ("frames", "frames:2", "segments:10", "meanstd", "mean")
MOST = 1000


def parse_view(view: str) -> tuple[str, int]:
    """(``frames``, k), (``segments``, n), (``mean``, 1) or (``meanstd``, 1).

    Raises:
        UsageError: no view.
    """
    kind, _, number = view.partition(":")
    n = int(number) if re.fullmatch(r"[1-9]\d{0,3}", number) and int(number) <= MOST else 0
    if view in ("frames", "mean", "meanstd"):
        return view, 1
    if (kind == "frames" and n > 1) or (kind == "segments" and n):
        return kind, n
    raise UsageError(
        f"view {view!r}: expected frames, frames:k (every k-th frame, k from 2), segments:n, "
        f"meanstd or mean; numbers to {MOST}."
    )


def pool(frames: np.ndarray, view: str) -> np.ndarray:
    """One utterance's view of its frames.

    Args:
        frames: (frame, dim) float, at least one frame.

    Returns:
        (row, dim) float32, (1, 2 * dim) for ``meanstd``; statistics are taken in float64. Segment i
        of n holds the frames from i * frame // n on, at least one.
    """
    kind, n = parse_view(view)
    if kind == "frames":
        return frames[::n]
    wide = frames.astype(np.float64)
    if kind == "meanstd":
        return np.concatenate([wide.mean(axis=0), wide.std(axis=0)])[None].astype(np.float32)
    bounds = np.arange(n + 1) * len(wide) // n
    rows = [
        wide[start : max(stop, start + 1)].mean(axis=0)
        for start, stop in itertools.pairwise(bounds)
    ]
    return np.stack(rows).astype(np.float32)


def n_rows(n_frames: int, view: str) -> int:
    """Rows of an utterance of ``n_frames`` frames."""
    kind, n = parse_view(view)
    return -(-n_frames // n) if kind == "frames" else n


def row_width(dim: int, view: str) -> int:
    """Numbers in a row."""
    return 2 * dim if view == "meanstd" else dim


def serves(stored: str, wanted: str) -> int | None:
    """How directly a stored view gives the wanted one, 0 best; None if it cannot.

    Every k-th frame replaces ``frames`` if there is nothing better: a head then sees a longer hop.
    It gives no statistics.
    """
    if stored == wanted:
        return 0
    if stored == "meanstd" and wanted == "mean":
        return 1
    if stored == "frames":
        return 2
    return 3 if wanted == "frames" and parse_view(stored)[0] == "frames" else None
