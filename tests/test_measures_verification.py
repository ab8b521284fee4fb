"""The equal error rate: definition, ties, weights, parity with sklearn's ROC."""

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
from probe.measures.verification import eer, eer_of_ranks, ranked

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
    return float(false_accept[crossing - 1] + share * (false_accept[crossing] - false_accept[crossing - 1]))


@pytest.mark.parametrize(
    ("target", "scores", "expected"),
    [
        ([0, 0, 1, 1], [1, 2, 3, 4], 0.0),
        ([1, 1, 0, 0], [1, 2, 3, 4], 1.0),
        ([0, 1, 0, 1], [1, 2, 3, 4], 0.5),
        ([0, 0, 1, 0, 1, 1], [1, 2, 3, 4, 5, 6], 1 / 3),
        # One tie of 1 target and 1 non-target among 2 and 2: the ROC runs from (0, 1/2) to (1/2, 1).
        ([0, 0, 1, 1], [1, 2, 2, 3], 0.25),
        # 1 target and 2 non-targets tie at the top of 2 and 3: the ROC runs from (0, 0) to (2/3, 1/2), x = 1 - 3x/4.
        ([0, 1, 0, 0, 1], [1, 0, 2, 2, 2], 4 / 7),
        ([0, 1, 1], [5, 5, 5], 0.5),
    ],
)
def test_eer_is_what_the_hand_computes(target: list[int], scores: list[int], expected: float) -> None:
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


@given(trials, st.data())
def test_a_weight_is_a_number_of_copies(rows: list[tuple[bool, int]], data: st.DataObject) -> None:
    target, scores = columns(rows)
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows))))
    copies = np.repeat(np.arange(len(rows)), weights)
    if len(set(target[copies])) < 2:
        with pytest.raises(ProbeError, match="needs both"):
            eer(target, scores, weights)
    else:
        assert eer(target, scores, weights) == eer(target[copies], scores[copies])


@settings(max_examples=20)
@given(trials)
def test_ranks_without_trials_do_no_harm(rows: list[tuple[bool, int]]) -> None:
    target, scores = columns(rows)
    spread = [np.bincount(3 * scores[kind] + 20, minlength=60) for kind in (target, ~target)]
    assert eer_of_ranks(*spread) == eer(target, scores)


def test_ranks_are_dense_and_shared_by_ties() -> None:
    target, ranks = ranked([1, 0, 1, 0], [0.5, -1.0, 0.5, 9.0])
    assert target.tolist() == [True, False, True, False]
    assert ranks.tolist() == [1, 0, 1, 2]


@pytest.mark.parametrize(
    ("target", "scores", "weights", "message"),
    [
        ([1, 1], [0.1, 0.2], None, "2 target and 0 non-target trials"),
        ([0, 0], [0.1, 0.2], None, "0 target and 2 non-target trials"),
        ([], [], None, "0 target and 0 non-target trials"),
        ([1, 0, 0], [0.1, 0.2, np.nan], None, r"trial 2 \(counted from 0\): its score is nan; 1 of 3"),
        ([1, 0], [np.inf, 0.2], None, r"trial 0 \(counted from 0\): its score is inf"),
        ([1, 0, 1], [0.1, 0.2], None, re.escape("targets of shape (3,), scores of shape (2,)")),
        ([0.3, 0.2], [1, 0], None, "are targets and scores exchanged"),
        ([1, 0], [0.1, 0.2], [1.5, 1.0], "weights: found float64"),
        ([1, 0], [0.1, 0.2], [1, -1], "whole number >= 0 for each of 2 trials"),
        ([1, 0], [0.1, 0.2], [1], re.escape("shape (1,)")),
    ],
)
def test_what_has_no_eer_is_named(target: list, scores: list, weights: list | None, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        eer(target, scores, weights)
