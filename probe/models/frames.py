"""How many frames a model gives of so many samples: ``1 + (samples - field) // hop`` from a
shortest length on.

Unpadded convolutions have a field as wide as what one frame sees, centred windows one of 0 samples.
Of a model that says nothing of this it is found by running the model at some forty lengths, no
longer than it takes.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from probe.errors import ProbeError

MOST_S = 32
ENOUGH_FRAMES = 4


@dataclass(frozen=True)
class FrameLaw:
    """Frames of a length; no frames below ``min_samples``."""

    hop_samples: int
    field_samples: int
    min_samples: int

    def n_frames(self, n_samples: int) -> int:
        """Frames that ``n_samples`` samples give."""
        return (
            0
            if n_samples < self.min_samples
            else 1 + (n_samples - self.field_samples) // self.hop_samples
        )


def measured_law(
    count: Callable[[int], int],
    rate_hz: int,
    hop_samples: int | None = None,
    min_samples: int | None = None,
) -> FrameLaw:
    """The law that the lengths follow at which ``count`` changes.

    Args:
        count: runs the model on so many samples and counts its frames; 0 where it refuses so few.
        hop_samples: what the model declares, which is believed here (`probe.models.check` compares
            it); measured where None.
        min_samples: the same, of the shortest length.

    Raises:
        ProbeError: too few frames of half a minute, or, where the hop is measured, frames that come
            at no regular distance.
    """
    count = functools.cache(count)
    longest = rate_hz
    while count(longest) < ENOUGH_FRAMES:
        if longest >= MOST_S * rate_hz:
            raise ProbeError(
                f"{count(longest)} frames of {MOST_S} s of audio; expected frames over time, {ENOUGH_FRAMES} or more."
            )
        longest *= 2
    shortest = min_samples or _first(lambda n: count(n) > 0, 0, longest)
    while (
        count(longest) < count(shortest) + ENOUGH_FRAMES
    ):  # which changes even where the shortest length gives many frames
        if longest >= 2 * MOST_S * rate_hz:
            raise ProbeError(
                f"{count(shortest)} frames of {shortest} samples and {count(longest)} of {longest}; expected more. "
                "A model that pads its input to one length has to give the frames of the audio alone."
            )
        longest *= 2
    first = _first(lambda n: count(n) > count(shortest), shortest, longest)
    if hop_samples is None:
        hop_samples = _first(lambda n: count(n) > count(first), first, longest) - first
        steps = (longest - first) // hop_samples
        for more, n in ((0, first), (1, first + hop_samples), (steps, first + steps * hop_samples)):
            if (found := (count(n - 1) - count(first), count(n) - count(first))) != (
                more - 1,
                more,
            ):
                raise ProbeError(
                    f"frames come at no regular distance: {first} samples give {count(first)}, {n - 1} and {n} samples {found[0]:+d} "
                    f"and {found[1]:+d}, where one more every {hop_samples} samples would be {more - 1:+d} and {more:+d}."
                )
    field = first - (count(first) - 1) * hop_samples
    return FrameLaw(hop_samples, field, max(shortest, field, 1))


def _first(holds: Callable[[int], bool], after: int, until: int) -> int:
    """The first number above ``after`` that holds, where ``until`` does and all above the first do;
    ``until`` where none does.
    """
    while until - after > 1:
        middle = (after + until) // 2
        after, until = (after, middle) if holds(middle) else (middle, until)
    return until
