"""Neighbouring frames put side by side, for heads that read single frames."""

import numpy as np


def join_frames(frames: np.ndarray, join: int) -> np.ndarray:
    """(frame, dim) -> (ceil(frame / join), join * dim): neighbours side by side; the last frame is
    repeated to fill the last row.
    """
    if join == 1:
        return frames
    padding = np.repeat(frames[-1:], -len(frames) % join, axis=0)
    complete = np.concatenate([frames, padding])
    return complete.reshape(len(complete) // join, join * frames.shape[1])


def stack_context(frames: np.ndarray, context: int) -> np.ndarray:
    """(frame, dim) -> (frame, (2 * context + 1) * dim): each with its neighbours, earliest first;
    the ends are repeated.
    """
    if context == 0 or not len(frames):
        return np.tile(frames, (1, 2 * context + 1))
    near = np.arange(len(frames))[:, None] + np.arange(-context, context + 1)
    return frames[near.clip(0, len(frames) - 1)].reshape(len(frames), -1)
