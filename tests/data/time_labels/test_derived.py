"""Speech and speaker changes from turns that overlap."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.data.time_labels.derived import change_times_s, changes, speech_and_nonspeech
from probe.data.time_labels.interval import Interval


def turns(*items: tuple[float, float, str]) -> list[Interval]:
    return [Interval(*item, "x.rttm line 1") for item in items]


def plain(intervals: list[Interval]) -> list[tuple[float, float, str]]:
    return [(item.start_s, item.end_s, item.label) for item in intervals]


def test_speech_is_where_anybody_speaks() -> None:
    assert plain(
        speech_and_nonspeech(turns((3, 4, "b"), (1, 2, "a"), (1.5, 2.5, "b"), (4, 5, "a")))
    ) == [
        (0, 1, "nonspeech"),
        (1, 2.5, "speech"),
        (2.5, 3, "nonspeech"),
        (3, 5, "speech"),
        (5, math.inf, "nonspeech"),
    ]
    assert plain(speech_and_nonspeech(turns((0, 1, "a"))))[0] == (0, 1, "speech")


@pytest.mark.parametrize(
    ("items", "times_s"),
    [
        ([(1, 2, "a")], []),
        ([(1, 2, "a"), (2, 3, "b")], [2]),
        ([(1, 2, "a"), (5, 6, "a"), (7, 8, "b"), (9, 10, "a")], [7, 9]),
        ([(0, 10, "a"), (3, 4, "b")], [3]),
        # The speaker of the long turn goes on after an interruption: no change.
        ([(0, 10, "a"), (3, 4, "b"), (10.2, 12, "a")], [3]),
        ([(0, 5, "a"), (4, 6, "b"), (6.5, 7, "b")], [4]),
        ([(0, 5, "a"), (0, 5, "b"), (5, 6, "a"), (6, 7, "b")], [6]),
        ([(0, 5, "a"), (5, 6, "a"), (5, 6, "b")], [5]),
    ],
)
def test_a_change_is_the_start_of_another_speaker_than_the_last(
    items: list[tuple[float, float, str]], times_s: list[float]
) -> None:
    assert change_times_s(turns(*items)) == times_s
    assert change_times_s(turns(*reversed(items))) == times_s


def test_changes_have_a_collar_on_both_sides() -> None:
    items = turns((0, 1, "a"), (1, 1.08, "b"), (1.08, 3, "a"), (3, 4, "b"))
    assert plain(changes(items, 0.05)) == [
        (0, 0.95, "same"),
        (0.95, pytest.approx(1.13), "change"),
        (pytest.approx(1.13), 2.95, "same"),
        (2.95, 3.05, "change"),
        (3.05, math.inf, "same"),
    ]
    assert plain(changes(turns((0, 1, "a")), 0.05)) == [(0, math.inf, "same")]


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(1, 20), st.sampled_from("abc")),
        min_size=1,
        max_size=12,
    )
)
def test_derived_intervals_cover_all_time_once(items: list[tuple[int, int, str]]) -> None:
    made = turns(*[(start, start + n, name) for start, n, name in items])
    speech = speech_and_nonspeech(made)
    for intervals in (speech, changes(made, 0.4)):
        assert intervals[0].start_s == 0 and intervals[-1].end_s == math.inf
        for one, other in itertools.pairwise(intervals):
            assert one.end_s == other.start_s and one.label != other.label
    for second in range(80):
        labels = [item.label for item in speech if item.start_s <= second < item.end_s]
        speaks = any(item.start_s <= second < item.end_s for item in made)
        assert labels == ["speech" if speaks else "nonspeech"]
