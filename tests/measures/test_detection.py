"""Measures of verification: definitions, ties, parity with sklearn's ROC and with plain
loops.
"""

import re
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_curve

from probe.errors import ProbeError
from probe.measures.comparison import paired_difference
from probe.measures.counts import trial_counts, value_of
from probe.measures.detection import (
    TRIAL_METRICS,
    cumulative_trials,
    det_curve,
    eer,
    eers,
    hull_eers,
    min_dcfs,
    ranked,
)
from probe.measures.metrics import metric_of
from probe.measures.uncertainty import interval

trials = st.lists(st.tuples(st.booleans(), st.integers(-6, 6)), min_size=2, max_size=40).filter(
    lambda rows: len({target for target, _ in rows}) == 2
)


def columns(rows: list[tuple[bool, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([row[0] for row in rows]), np.array([row[1] for row in rows])


def eer_by_roc(target: np.ndarray, scores: np.ndarray) -> float:
    """sklearn's ROC, cut by hand where it meets the diagonal."""
    false_accept, true_accept, _ = roc_curve(target, scores)
    gap = false_accept - (1 - true_accept)
    crossing = int(np.argmax(gap >= 0))
    share = -gap[crossing - 1] / (gap[crossing] - gap[crossing - 1])
    return float(
        false_accept[crossing - 1] + share * (false_accept[crossing] - false_accept[crossing - 1])
    )


@pytest.mark.parametrize(
    ("target", "scores", "expected"),
    [
        ([0, 0, 1, 1], [1, 2, 3, 4], 0.0),
        ([1, 1, 0, 0], [1, 2, 3, 4], 1.0),
        ([0, 1, 0, 1], [1, 2, 3, 4], 0.5),
        ([0, 0, 1, 0, 1, 1], [1, 2, 3, 4, 5, 6], 1 / 3),
        # One tie of 1 target and 1 non-target among 2 and 2: the ROC runs from (0, 1/2) to (1/2,
        # 1).
        ([0, 0, 1, 1], [1, 2, 2, 3], 0.25),
        # 1 target and 2 non-targets tie at the top of 2 and 3: the ROC runs from (0, 0) to (2/3,
        # 1/2), x = 1 - 3x/4.
        ([0, 1, 0, 0, 1], [1, 0, 2, 2, 2], 4 / 7),
        ([0, 1, 1], [5, 5, 5], 0.5),
    ],
)
def test_eer_is_what_the_hand_computes(
    target: list[int], scores: list[int], expected: float
) -> None:
    assert eer(target, scores) == expected


@given(trials)
def test_eer_agrees_with_the_roc_of_sklearn(rows: list[tuple[bool, int]]) -> None:
    target, scores = columns(rows)
    assert eer(target, scores) == pytest.approx(eer_by_roc(target, scores), abs=1e-12)


def test_eer_agrees_with_a_root_finder_on_the_roc() -> None:
    generator = np.random.default_rng(0)
    target = generator.random(3000) < 0.3
    scores = np.round(generator.normal(size=3000) + 1.5 * target, 2)
    false_accept, true_accept, _ = roc_curve(target, scores)
    curve = interp1d(false_accept, true_accept)
    assert eer(target, scores) == pytest.approx(brentq(lambda x: 1 - x - curve(x), 0, 1), abs=1e-9)


@given(trials, st.randoms())
def test_the_order_of_trials_changes_no_bit(rows: list[tuple[bool, int]], random: Random) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert eer(*columns(shuffled)) == eer(*columns(rows))


@given(trials)
def test_a_monotone_transform_of_the_scores_changes_no_bit(rows: list[tuple[bool, int]]) -> None:
    target, scores = columns(rows)
    assert eer(target, np.exp(scores / 3) - 100) == eer(target, scores)


@given(trials)
def test_exchanging_the_kinds_and_the_sign_changes_no_bit(rows: list[tuple[bool, int]]) -> None:
    target, scores = columns(rows)
    assert eer(~target, -scores) == eer(target, scores)
    assert eer(target, -scores) == pytest.approx(1 - eer(target, scores), abs=1e-15)


@settings(max_examples=20)
@given(trials)
def test_ranks_without_trials_do_no_harm(rows: list[tuple[bool, int]]) -> None:
    target, scores = columns(rows)
    sparse = [
        np.cumsum(np.bincount(3 * scores[kind] + 20, minlength=60))[None]
        for kind in (target, ~target)
    ]
    assert eers(*sparse) == eer(target, scores)
    assert hull_eers(*sparse) == hull_eers(*cumulative_trials(target, scores))


def test_ranks_are_dense_and_shared_by_ties() -> None:
    target, ranks = ranked([1, 0, 1, 0], [0.5, -1.0, 0.5, 9.0])
    assert target.tolist() == [True, False, True, False]
    assert ranks.tolist() == [1, 0, 1, 2]


@pytest.mark.parametrize(
    ("target", "scores", "message"),
    [
        ([1, 1], [0.1, 0.2], "2 target and 0 non-target trials"),
        ([0, 0], [0.1, 0.2], "0 target and 2 non-target trials"),
        ([], [], "0 target and 0 non-target trials"),
        ([1, 0, 0], [0.1, 0.2, np.nan], r"trial 2 \(counted from 0\): its score is nan; 1 of 3"),
        ([1, 0], [np.inf, 0.2], r"trial 0 \(counted from 0\): its score is inf"),
        ([1, 0, 1], [0.1, 0.2], re.escape("targets of shape (3,), scores of shape (2,)")),
        ([0.3, 0.2], [1, 0], "are targets and scores exchanged"),
    ],
)
def test_what_has_no_eer_is_named(target: list, scores: list, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        eer(target, scores)


# minDCF, the convex hull and the DET curve, beside plain loops over all thresholds

TIED = ([1, 0, 1, 1, 0, 0, 1, 0], [3, 3, 2, 5, 2, 1, 1, 0])
EQUAL = ([1, 0, 0, 1, 0], [7, 7, 7, 7, 7])
ONE_TARGET = ([0, 0, 1, 0, 0], [1, 2, 3, 3, 4])
GOLDEN = {
    # Thresholds 5, 3, 2, 1: misses 3/4, 2/4, 1/4, 0; false acceptances 0, 1/4, 2/4, 3/4.
    "ties": (*TIED, {"eer": 0.375, "eer_hull": 0.375, "min_dcf_0.01": 0.75, "min_dcf_0.05": 0.75}),
    "all equal": (*EQUAL, {"eer": 0.5, "eer_hull": 0.5, "min_dcf_0.01": 1.0, "min_dcf_0.05": 1.0}),
    # One non-target above the target, one beside it: the ROC runs (1/4, 1), (1/2, 0); x = 1 - 4 (x
    # - 1/4).
    "a single target": (
        *ONE_TARGET,
        {"eer": 0.4, "eer_hull": 1 / 3, "min_dcf_0.01": 1.0, "min_dcf_0.05": 1.0},
    ),
    "perfect": (
        [0, 1, 0, 1],
        [1, 3, 2, 4],
        {"eer": 0.0, "eer_hull": 0.0, "min_dcf_0.01": 0.0, "min_dcf_0.05": 0.0},
    ),
    "wrong way": (
        [1, 1, 0, 0],
        [1, 2, 3, 4],
        {"eer": 1.0, "eer_hull": 0.5, "min_dcf_0.01": 1.0, "min_dcf_0.05": 1.0},
    ),
}


def rates(target: np.ndarray, scores: np.ndarray) -> list[tuple[float, float]]:
    """(false acceptance rate, miss rate) of accepting all at or above each score, and of accepting
    none.
    """
    thresholds = [*sorted(set(scores.tolist())), np.inf]
    return [
        (float(np.mean(scores[~target] >= t)), float(np.mean(scores[target] < t)))
        for t in thresholds
    ]


def cost_by_loop(
    target: np.ndarray, scores: np.ndarray, p: float, c_miss: float = 1.0, c_fa: float = 1.0
) -> float:
    costs = [
        c_miss * p * miss + c_fa * (1 - p) * accepted for accepted, miss in rates(target, scores)
    ]
    return min(costs) / min(c_miss * p, c_fa * (1 - p))


def hull_eer_by_segments(target: np.ndarray, scores: np.ndarray) -> float:
    """The lowest crossing of the diagonal by a line between any two points of the ROC: the hull is
    below all of them.
    """
    points = rates(target, scores)
    crossings = [x for x, y in points if x == y]
    for x_1, y_1 in points:
        for x_2, y_2 in points:
            if y_1 < x_1 and y_2 > x_2:
                share = (x_1 - y_1) / ((x_1 - y_1) + (y_2 - x_2))
                crossings.append(x_1 + share * (x_2 - x_1))
    return min(crossings)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_trials_have_the_values_that_the_hand_computes(name: str) -> None:
    target, scores, expected = GOLDEN[name]
    counts = trial_counts(["a"] * len(target), ["b"] * len(target), target, scores)
    assert {metric: value_of(counts, metric) for metric in expected} == pytest.approx(
        expected, abs=1e-15
    )
    kinds, values = np.array(target, bool), np.array(scores)
    assert expected["min_dcf_0.01"] == pytest.approx(cost_by_loop(kinds, values, 0.01))
    assert expected["eer_hull"] == pytest.approx(hull_eer_by_segments(kinds, values))
    assert expected["eer"] == pytest.approx(eer_by_roc(kinds, values))


@given(
    trials,
    st.sampled_from([0.01, 0.05, 0.3, 0.9]),
    st.sampled_from([0.5, 1.0, 10.0]),
    st.sampled_from([1.0, 3.0]),
)
def test_min_dcf_is_that_of_a_plain_loop(
    rows: list[tuple[bool, int]], p: float, c_miss: float, c_fa: float
) -> None:
    target, scores = columns(rows)
    (found,) = min_dcfs(*cumulative_trials(target, scores), p, c_miss, c_fa)
    assert found == pytest.approx(cost_by_loop(target, scores, p, c_miss, c_fa), abs=1e-12)
    assert 0 <= found <= 1


@given(trials)
def test_the_hull_s_eer_is_that_of_a_plain_loop_and_never_above_the_polygon_s(
    rows: list[tuple[bool, int]],
) -> None:
    target, scores = columns(rows)
    (hull_eer,) = hull_eers(*cumulative_trials(target, scores))
    assert hull_eer == pytest.approx(hull_eer_by_segments(target, scores), abs=1e-12)
    assert hull_eer <= eer(target, scores) + 1e-15


@given(trials, st.randoms())
def test_order_and_transform_change_no_bit_of_min_dcf_and_hull(
    rows: list[tuple[bool, int]], random: Random
) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    target, scores = columns(rows)
    mixed_target, mixed = columns(shuffled)
    one, other = (
        trial_counts(["a"] * len(rows), ["b"] * len(rows), kind, values)
        for kind, values in ((target, scores), (mixed_target, np.exp(mixed / 3)))
    )
    for metric in TRIAL_METRICS:
        assert value_of(one, metric) == value_of(other, metric)


@given(trials)
def test_the_det_curve_holds_the_rates_of_every_threshold(rows: list[tuple[bool, int]]) -> None:
    target, scores = columns(rows)
    accepted, missed = det_curve(target, scores)
    assert np.allclose(
        np.stack([accepted, missed], axis=1), rates(target, scores), rtol=0, atol=1e-15
    )
    assert (accepted[0], missed[0], accepted[-1], missed[-1]) == (1, 0, 0, 1)


def test_what_has_no_cost_is_named() -> None:
    with pytest.raises(
        ProbeError,
        match=r"metric 'accuracy' of trials; expected one of eer, eer_hull, min_dcf_0\.01",
    ):
        value_of(trial_counts(["a", "b"], ["a", "a"], [1, 0], [1.0, 0.0]), "accuracy")
    with pytest.raises(ProbeError, match="0 target and 2 non-target trials"):
        det_curve([0, 0], [1, 2])


RATES = [name for name in TRIAL_METRICS if metric_of(name).interval_scale == "logit"]


@pytest.mark.parametrize("metric", RATES)
def test_intervals_hold_the_value_and_a_score_does_not_differ_from_itself(metric: str) -> None:
    generator = np.random.default_rng(1)
    enroll, test = generator.integers(20, size=(2, 400))
    counts = trial_counts(
        *([f"s{i}" for i in side] for side in (enroll, test)),
        enroll == test,
        generator.normal(size=400) + 2 * (enroll == test),
    )
    low, high = interval(counts, metric) or (1, 0)
    assert low < value_of(counts, metric) < high <= 1
    same = paired_difference(counts, counts, metric)
    assert (
        same.difference == 0
        and same.high is not None
        and same.low == -same.high
        and same.high < 0.05
    )


def test_metrics_of_one_list_have_intervals_of_their_own() -> None:
    generator = np.random.default_rng(2)
    enroll, test = generator.integers(20, size=(2, 400))
    names = [[f"s{i}" for i in side] for side in (enroll, test)]
    counts = trial_counts(*names, enroll == test, generator.normal(size=400) + (enroll == test))
    assert len({interval(counts, metric) for metric in RATES}) == len(RATES)


@pytest.mark.parametrize("apart", [10.0, 0.0])
def test_costs_have_no_interval_and_eers_are_no_surer_than_their_trials(apart: float) -> None:
    pairs = [(i, j) for i in range(6) for j in range(6)]
    target = np.array([i == j for i, j in pairs])
    counts = trial_counts(
        [f"s{i}" for i, _ in pairs], [f"s{j}" for _, j in pairs], target, apart * target
    )
    assert interval(counts, metric="min_dcf_0.01") is None
    found = interval(counts, metric="eer")
    assert found is not None and found[1] - found[0] > 0.1
