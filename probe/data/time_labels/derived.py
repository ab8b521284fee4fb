"""Labels derived from speaker turns: where there is speech, and where the speaker changes.

Turns may overlap. Intervals that are derived cover all of the recording and do not overlap.
"""

import itertools
import math
from collections.abc import Sequence

from probe.data.time_labels.interval import Interval

SPEECH, NONSPEECH = "speech", "nonspeech"
CHANGE, SAME = "change", "same"


def speech_and_nonspeech(turns: Sequence[Interval]) -> list[Interval]:
    """``speech`` where anybody speaks, ``nonspeech`` elsewhere, from 0 s on without an end."""
    stretches = _united([(item.start_s, item.end_s) for item in turns])
    return _alternating(stretches, SPEECH, NONSPEECH, turns[0].where)


def changes(turns: Sequence[Interval], collar_s: float) -> list[Interval]:
    """``change`` within ``collar_s`` of a change of speaker, ``same`` elsewhere, from 0 s on
    without an end.

    A change is the start of a turn of another speaker than the one who spoke last; pauses between
    them do not matter. Frames around it are labelled alike since a single frame is neither found
    nor annotated exactly (Yin, Bredin & Barras 2017, "Speaker change detection in broadcast TV
    using bidirectional long short-term memory networks").
    """
    stretches = _united(
        [(max(0.0, time_s - collar_s), time_s + collar_s) for time_s in change_times_s(turns)]
    )
    return _alternating(stretches, CHANGE, SAME, turns[0].where)


def change_times_s(turns: Sequence[Interval]) -> list[float]:
    """Seconds at which a turn starts whose speaker is not among those who spoke last before."""
    in_order = sorted(turns, key=lambda item: item.start_s)
    times_s: list[float] = []
    last_end_s: dict[str, float] = {}  # speaker -> the end of the turns that started before
    for start_s, group in itertools.groupby(in_order, key=lambda item: item.start_s):
        starting = list(group)
        spoke_s = {name: min(end_s, start_s) for name, end_s in last_end_s.items()}
        latest_s = max(spoke_s.values(), default=-math.inf)
        last = {name for name, end_s in spoke_s.items() if end_s == latest_s}
        if last and not {item.label for item in starting} <= last:
            times_s.append(start_s)
        for item in starting:
            last_end_s[item.label] = max(last_end_s.get(item.label, -math.inf), item.end_s)
    return times_s


def _united(stretches: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The stretches of time in order, those that touch or overlap as one."""
    united: list[tuple[float, float]] = []
    for start_s, end_s in sorted(stretches):
        if united and start_s <= united[-1][1]:
            united[-1] = (united[-1][0], max(united[-1][1], end_s))
        else:
            united.append((start_s, end_s))
    return united


def _alternating(
    stretches: Sequence[tuple[float, float]], inside: str, outside: str, where: str
) -> list[Interval]:
    intervals: list[Interval] = []
    position_s = 0.0
    for start_s, end_s in stretches:
        if position_s < start_s:
            intervals.append(Interval(position_s, start_s, outside, where))
        intervals.append(Interval(start_s, end_s, inside, where))
        position_s = end_s
    intervals.append(Interval(position_s, math.inf, outside, where))
    return intervals
