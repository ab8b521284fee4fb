"""Views: what of an utterance's frames is kept, and which view can be computed from which."""

import numpy as np

VIEWS = ("frames", "mean", "meanstd")
# view -> views it can be computed from, itself first
SERVED_BY = {"frames": ("frames",), "meanstd": ("meanstd", "frames"), "mean": ("mean", "meanstd", "frames")}


def pool(frames: np.ndarray, view: str) -> np.ndarray:
    """One utterance's view of its frames.

    Args:
        frames: (frame, dim) float, at least one frame.
        view: ``frames``, ``mean``, ``meanstd`` (mean and population standard deviation over time, side by side).

    Returns:
        (frame, dim), (1, dim) or (1, 2 * dim) float32; statistics are taken in float64.
    """
    if view == "frames":
        return frames
    wide = frames.astype(np.float64)
    rows = [wide.mean(axis=0)] if view == "mean" else [wide.mean(axis=0), wide.std(axis=0)]
    return np.concatenate(rows)[None].astype(np.float32)
