"""Counts: what a value derives from, in the two forms that records hold."""

import json
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

from probe.errors import ProbeError
from probe.measures.counts import is_trials, ratio_counts, trial_counts, value_of
from probe.measures.detection import eer
from probe.records import hashed_block

NAMES = ["ann", "bob", "cem"]
utterances = st.lists(
    st.tuples(st.sampled_from(NAMES), st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=30
)


def test_a_ratio_sums_by_block_and_hashes_names() -> None:
    counts = ratio_counts(["ann", "bob", "ann"], [1, 0, 2], np.array([4, 5, 6]))
    by_block = dict(
        zip(
            counts["block"],
            zip(counts["numerator"], counts["denominator"], strict=True),
            strict=True,
        )
    )
    assert by_block == {hashed_block("ann"): (3, 10), hashed_block("bob"): (0, 5)}
    assert value_of(counts) == 0.2


@given(utterances, st.randoms())
def test_the_order_of_utterances_does_not_change_a_ratio(
    rows: list[tuple[str, int, int]], random: Random
) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    counts = ratio_counts(*zip(*rows, strict=True))
    assert counts == ratio_counts(*zip(*shuffled, strict=True))
    assert counts["block"] == sorted(counts["block"])
    assert value_of(counts) == sum(row[1] for row in rows) / sum(row[2] for row in rows)


def test_accuracy_is_sklearn_s() -> None:
    generator = np.random.default_rng(0)
    truth, found = generator.integers(5, size=(2, 100))
    counts = ratio_counts(
        [f"speaker {i % 7}" for i in range(100)], truth == found, np.ones(100, int)
    )
    assert value_of(counts) == accuracy_score(truth, found)


def test_trials_keep_their_order_and_the_value_of_their_scores() -> None:
    enroll, test, target, scores = (
        ["cem", "bob", "ann", "cem"],
        ["cem", "cem", "ann", "ann"],
        [1, 0, 1, 0],
        [0.5, 0.7, 0.9, 0.5],
    )
    counts = trial_counts(enroll, test, target, scores)
    assert counts["block"] == sorted(map(hashed_block, NAMES))
    assert [counts["block"][i] for i in counts["enroll"]] == list(map(hashed_block, enroll))
    assert [counts["block"][i] for i in counts["test"]] == list(map(hashed_block, test))
    assert (counts["target"], counts["rank"]) == ([1, 0, 1, 0], [0, 1, 2, 0])
    assert value_of(counts) == eer(target, scores) == 0.5


def test_counts_are_plain_values_without_names() -> None:
    ratio = ratio_counts(NAMES, np.array([True, False, True]), np.ones(3, np.int32))
    trials = trial_counts(
        NAMES, NAMES[::-1], np.array([False, True, False]), np.array([1, 2, 3], np.float32)
    )
    for counts in (ratio, trials):
        assert json.loads(json.dumps(counts)) == counts
        assert {type(value) for key in counts if key != "block" for value in counts[key]} == {int}
        assert not any(name in json.dumps(counts) for name in NAMES)
    assert (is_trials(ratio), is_trials(trials)) == (False, True)


@pytest.mark.parametrize(
    ("numerator", "denominator"),
    [([0.5, 1.0], [1, 1]), ([1, 1], [1, -1]), ([1], [1, 1]), ([[1, 1]], [1, 1]), ([], [1, 1])],
)
def test_numbers_that_are_not_counts_are_refused(numerator: list, denominator: list) -> None:
    with pytest.raises(ProbeError, match=r"whole number >= 0 for each of 2 utterances.*not rates"):
        ratio_counts(["ann", "bob"], numerator, denominator)


def test_a_trial_needs_two_blocks() -> None:
    with pytest.raises(ProbeError, match="2 and 1 blocks for 2 trials"):
        trial_counts(["ann", "bob"], ["ann"], [1, 0], [1.0, 0.0])


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (ratio_counts(["ann"], [3], [0]), "denominators of 1 blocks sum to 0"),
        (ratio_counts([], [], []), "denominators of 0 blocks sum to 0"),
        (trial_counts(["ann"], ["ann"], [1], [0.0]), "1 target and 0 non-target"),
        ({}, "none of the forms"),
        ({"block": [], "numerator": []}, r"keys \['block', 'numerator'\]"),
    ],
)
def test_counts_without_a_value_are_named(counts: dict, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        value_of(counts)
