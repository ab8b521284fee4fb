"""Where frames stand and how many there are: the one home of frame counting.

From a shortest length on, a model gives ``1 + (samples - field) // hop`` frames. Unpadded
convolutions have a field as wide as what one frame sees; centred windows have one of 0 samples. The
grid of a model that declares nothing is measured by running the model at some forty lengths.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from probe.errors import ProbeError

MOST_S = 32
ENOUGH_FRAMES = 4


@dataclass(frozen=True)
class FrameGrid:
    """Frame i is centred at ``i * hop_samples + field_samples / 2`` samples.

    Attributes:
        hop_samples: distance from one frame to the next.
        field_samples: what one frame of the front-end sees; 0 where its windows are centred on
            samples 0, hop, 2 hop ...
        min_samples: the shortest waveform that gives a frame.
    """

    hop_samples: int
    field_samples: int
    min_samples: int

    @classmethod
    def of_convolutions(cls, kernels: Sequence[tuple[int, int]]) -> "FrameGrid":
        """The grid of a stack of unpadded convolutions given as (kernel, stride)."""
        hop, field = 1, 1
        for kernel, stride in kernels:
            field += (kernel - 1) * hop
            hop *= stride
        return cls(hop, field, field)

    def n_frames(self, n_samples: int) -> int:
        """Return the number of frames of ``n_samples`` samples."""
        if n_samples < self.min_samples:
            return 0
        return 1 + (n_samples - self.field_samples) // self.hop_samples


def measured_grid(
    count: Callable[[int], int],
    rate_hz: int,
    hop_samples: int | None = None,
    min_samples: int | None = None,
) -> FrameGrid:
    """Return the grid that follows from the lengths at which ``count`` changes.

    Args:
        count: runs the model on so many samples and counts its frames; 0 where it refuses so few.
        hop_samples: what the model declares (`probe.models.check` compares it); None measures it.
        min_samples: the same for the shortest length.

    Raises:
        ProbeError: half a minute gives too few frames, or, where the hop is measured, frames come
            at no regular distance.
    """
    count = functools.cache(count)
    longest = _doubled(rate_hz, MOST_S * rate_hz, lambda n: count(n) >= ENOUGH_FRAMES)
    if not longest:
        raise ProbeError(
            f"{count(MOST_S * rate_hz)} frames of {MOST_S} s of audio; expected frames over time, "
            f"{ENOUGH_FRAMES} or more."
        )
    shortest = min_samples or _first(lambda n: count(n) > 0, 0, longest)
    # The count must change even where the shortest length gives many frames.
    most = 2 * MOST_S * rate_hz
    longer = _doubled(longest, most, lambda n: count(n) >= count(shortest) + ENOUGH_FRAMES)
    if not longer:
        raise ProbeError(
            f"{count(shortest)} frames of {shortest} samples and {count(most)} of {most}; expected "
            "more. A model that pads its input to one length has to give the frames of the audio "
            "alone."
        )
    first = _first(lambda n: count(n) > count(shortest), shortest, longer)
    hop = hop_samples or _measured_hop(count, first, longer)
    field = first - (count(first) - 1) * hop
    return FrameGrid(hop, field, max(shortest, field, 1))


def _measured_hop(count: Callable[[int], int], first: int, longest: int) -> int:
    hop = _first(lambda n: count(n) > count(first), first, longest) - first
    steps = (longest - first) // hop
    for more, n in ((0, first), (1, first + hop), (steps, first + steps * hop)):
        before, after = count(n - 1) - count(first), count(n) - count(first)
        if (before, after) != (more - 1, more):
            raise ProbeError(
                f"frames come at no regular distance: {first} samples give {count(first)}, {n - 1} "
                f"and {n} samples {before:+d} and {after:+d}, where one more every {hop} samples "
                f"would be {more - 1:+d} and {more:+d}."
            )
    return hop


def _doubled(start: int, most: int, holds: Callable[[int], bool]) -> int:
    """Return ``start`` doubled until it holds; 0 where it does not hold at ``most`` or above."""
    while not holds(start):
        if start >= most:
            return 0
        start *= 2
    return start


def _first(holds: Callable[[int], bool], after: int, until: int) -> int:
    """Return the first number above ``after`` that holds, by bisection; ``until`` where none
    does.
    """
    while until - after > 1:
        middle = (after + until) // 2
        after, until = (after, middle) if holds(middle) else (middle, until)
    return until
