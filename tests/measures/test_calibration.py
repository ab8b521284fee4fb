"""Cllr, min Cllr and the calibration of scores, beside plain implementations."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from probe.errors import ProbeError
from probe.measures.calibration import calibration
from probe.measures.counts import is_trials, scored_trials, trial_counts, value_of

trials = st.lists(st.tuples(st.booleans(), st.integers(-4, 4)), min_size=2, max_size=14).filter(
    lambda rows: 0 < sum(kind for kind, _ in rows) < len(rows)
)


def drawn(n: int, apart: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    target = generator.random(n) < 0.2
    return target, generator.normal(size=n) + apart * target


def cllr(target: np.ndarray, scores: np.ndarray, slope: float, offset: float) -> float:
    counts = trial_counts(["a"] * len(target), ["b"] * len(target), target, scores)
    return value_of(scored_trials(counts, scores, (slope, offset)), "cllr")


def cllr_by_loop(target: np.ndarray, ratios: np.ndarray) -> float:
    """The definition, trial by trial."""
    both = list(zip(ratios, target, strict=True))
    of_targets = [math.log2(1 + math.exp(-x)) for x, kind in both if kind]
    of_others = [math.log2(1 + math.exp(x)) for x, kind in both if not kind]
    return (sum(of_targets) / len(of_targets) + sum(of_others) / len(of_others)) / 2


def min_cllr_by_loop(rows: list[tuple[bool, int]]) -> float:
    """Pool adjacent violators in exact fractions, then the cost of each trial's ratio."""
    pools: list[list[int]] = []  # targets, non-targets
    for score in sorted({score for _, score in rows}):
        kinds = [kind for kind, other in rows if other == score]
        pools.append([sum(kinds), len(kinds) - sum(kinds)])
        while len(pools) > 1 and Fraction(pools[-2][0], sum(pools[-2])) >= Fraction(
            pools[-1][0], sum(pools[-1])
        ):
            last = pools.pop()
            pools[-1] = [pools[-1][0] + last[0], pools[-1][1] + last[1]]
    n_targets = sum(kind for kind, _ in rows)
    n_others = len(rows) - n_targets
    cost = 0.0
    for targets, others in pools:
        odds = Fraction(targets, n_targets), Fraction(others, n_others)
        if targets:
            cost += float(odds[0]) * math.log2(1 + odds[1] / odds[0])
        if others:
            cost += float(odds[1]) * math.log2(1 + odds[0] / odds[1])
    return cost / 2


@pytest.mark.parametrize(("slope", "offset"), [(1.0, 0.0), (0.3, -2.0), (5.0, 1.0)])
def test_cllr_is_that_of_a_plain_loop(slope: float, offset: float) -> None:
    target, scores = drawn(300, 1.5)
    expected = cllr_by_loop(target, slope * scores + offset)
    assert cllr(target, scores, slope, offset) == pytest.approx(expected, rel=1e-6)


def test_cllr_is_1_without_knowledge_0_if_perfect_and_without_bound_if_misleading() -> None:
    target, scores = drawn(100, 0.0)
    sure = np.where(target, 40.0, -40.0)
    assert cllr(target, scores, 0.0, 0.0) == pytest.approx(1)
    assert cllr(target, sure, 1.0, 0.0) == pytest.approx(0, abs=1e-12)
    assert cllr(target, -sure, 1.0, 0.0) == pytest.approx(40 / math.log(2))


@settings(deadline=None)  # the first call imports scikit-learn
@given(trials)
def test_min_cllr_is_that_of_exact_pooling(rows: list[tuple[bool, int]]) -> None:
    target, scores = (np.array(column) for column in zip(*rows, strict=True))
    counts = trial_counts(["a"] * len(rows), ["b"] * len(rows), target, scores)
    found = value_of(counts, "min_cllr")
    assert found == pytest.approx(min_cllr_by_loop(rows), abs=1e-12)
    assert 0 <= found <= 1
    slope, offset = calibration(target, scores)
    assert found <= cllr(target, scores, slope, offset) + 1e-12


@pytest.mark.parametrize("n", [40, 1000])
def test_the_calibration_has_the_lowest_cost_of_softened_labels(n: int) -> None:
    target, scores = drawn(n, 2.0)
    soft = {kind: (np.sum(target == kind) + 1) / (np.sum(target == kind) + 2) for kind in (0, 1)}

    def cost(line: np.ndarray) -> float:
        ratio = line[0] * scores + line[1]
        right = np.logaddexp(0, np.where(target, -ratio, ratio))
        wrong = np.logaddexp(0, np.where(target, ratio, -ratio))
        share = np.where(target, soft[1], soft[0])
        each = share * right + (1 - share) * wrong
        return float(each[target].mean() + each[~target].mean())

    best = minimize(cost, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-13})
    assert calibration(target, scores) == pytest.approx(tuple(best.x), abs=1e-4)


def test_calibrated_ratios_of_normal_scores_are_the_true_ones() -> None:
    target, scores = drawn(100_000, 2.0)  # log N(s; 2, 1) / N(s; 0, 1) = 2 s - 2
    assert calibration(target, scores) == pytest.approx((2.0, -2.0), abs=0.1)


def test_the_unit_and_the_origin_of_scores_do_not_matter() -> None:
    target, scores = drawn(500, 1.0)
    slope, offset = calibration(target, scores)
    assert calibration(target, 1e4 * scores + 7e5) == pytest.approx(
        (slope / 1e4, offset - slope * 70), rel=1e-5
    )


@pytest.mark.parametrize("scale", [1.0, 0.0, -1.0])
def test_scores_that_separate_mean_nothing_or_mislead_have_a_finite_calibration(
    scale: float,
) -> None:
    target = np.arange(40) < 10
    slope, offset = calibration(target, scale * target)
    assert math.isfinite(slope) and math.isfinite(offset)
    assert (slope > 0) == (scale > 0)
    assert cllr(target, scale * target, slope, offset) == pytest.approx(
        0.05 if scale > 0 else 1, abs=0.05
    )


def test_cllr_needs_scores() -> None:
    target, scores = drawn(30, 1.0)
    counts = trial_counts(["a"] * 30, ["b"] * 30, target, scores)
    with pytest.raises(ProbeError, match="cllr: the counts hold ranks of trials and no scores"):
        value_of(counts, "cllr")
    scored = scored_trials(counts, scores, (1.0, 0.0))
    assert is_trials(scored)
    assert value_of(scored, "eer") == value_of(counts, "eer")
