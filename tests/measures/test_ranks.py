"""Ranks over tasks: Demsar's published example, and scipy's tests."""

import numpy as np
import pytest
from scipy.stats import friedmanchisquare

from probe.measures.ranks import alike, borda_counts, critical_difference, friedman_p, task_ranks

# Ranks of four classifiers on 14 data sets (Demsar 2006, table 6).
DEMSAR = np.array(
    [
        *[[4, 3, 2, 1], [1, 2, 3, 4], [4, 1, 2, 3], [4, 1, 3, 2], [4, 2, 3, 1]],
        *[[1, 2.5, 4, 2.5], [3, 2, 4, 1], [2.5, 2.5, 4, 1], [4, 3, 2, 1], [2.5] * 4],
        *[[4, 2.5, 1, 2.5], [3, 2, 4, 1], [4, 1, 2, 3], [3, 1, 4, 2]],
    ]
)
TASKS = [f"task {number}" for number in range(14)]


def test_ranks_and_critical_difference_are_those_of_the_published_example() -> None:
    ranks = task_ranks(-DEMSAR, TASKS)
    assert ranks == pytest.approx(DEMSAR)
    assert ranks.mean(axis=0) == pytest.approx([3.143, 2.0, 2.893, 1.964], abs=5e-4)
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=5e-3)
    assert critical_difference(4, 14, 0.10) == pytest.approx(1.12, abs=5e-3)
    assert friedman_p(ranks) == friedmanchisquare(*DEMSAR.T).pvalue < 0.05


def test_a_task_with_several_conditions_counts_once() -> None:
    goodness = np.array([[3.0, 2, 1], [3, 1, 2], [3, 1, 2], [1, 2, 3]])
    ranks = task_ranks(goodness, ["a", "a", "a", "b"])
    assert ranks.tolist() == [[1, 3, 2], [3, 2, 1]]
    assert task_ranks(np.stack([goodness, -goodness]), ["a", "a", "a", "b"]).shape == (2, 2, 3)


def test_borda_counts_beaten_models_and_half_for_ties() -> None:
    assert borda_counts(np.array([[1.0, 2, 3], [1.5, 1.5, 3]])).tolist() == [3.5, 2.5, 0]


def test_groups_are_the_largest_that_do_not_differ() -> None:
    assert alike([1.0, 1.5, 2.4, 4.0], 1.0) == [(0, 1), (1, 2)]
    assert alike([1.0, 3.0], 1.0) == []


def test_two_models_or_equal_scores_have_no_test() -> None:
    assert np.isnan(friedman_p(DEMSAR[:, :2])) and np.isnan(friedman_p(np.full((5, 3), 2.0)))
