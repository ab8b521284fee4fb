"""Concatenate neighbouring frames, for heads that read single frames."""

import numpy as np


def join_frames(frames: np.ndarray, join: int) -> np.ndarray:
    """Concatenate neighbours: (frame, dim) becomes (ceil(frame / join), join * dim). The last frame
    is repeated to fill the last row.
    """
    if join == 1:
        return frames
    padding = np.repeat(frames[-1:], -len(frames) % join, axis=0)
    complete = np.concatenate([frames, padding])
    return complete.reshape(len(complete) // join, join * frames.shape[1])


def stack_context(frames: np.ndarray, context: int) -> np.ndarray:
    """Add the neighbours to each frame, earliest first: (frame, dim) becomes (frame, (2 * context +
    1) * dim). The first and last frames are repeated.
    """
    if context == 0 or not len(frames):
        return np.tile(frames, (1, 2 * context + 1))
    near = np.arange(len(frames))[:, None] + np.arange(-context, context + 1)
    return frames[near.clip(0, len(frames) - 1)].reshape(len(frames), -1)
