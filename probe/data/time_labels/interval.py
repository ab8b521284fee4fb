"""A label and its time, as every reader of labels over time returns it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interval:
    """A label and its time.

    Attributes:
        start_s, end_s: seconds from the start of the recording.
        where: the file and the line that it comes from.
        type: what a control draws a label for, see `probe.data.intervals.Spans`.
        channel: of the recording, counted from 1; None where the file does not say.
    """

    start_s: float
    end_s: float
    label: str
    where: str
    type: str = ""
    channel: int | None = None
