"""Closed forms of intervals are scipy's exact intervals and the textbooks' formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from probe.errors import ProbeError
from probe.measures.counts import amount_counts, ratio_counts
from probe.measures.intervals import (
    fisher_interval,
    least_error,
    logit_interval,
    plain_interval,
    rate_interval,
    share_interval,
    student_quantile,
)
from probe.measures.uncertainty import interval

INFINITE = float("inf")


def of_errors(errors: list[int], each: int, metric: str = "accuracy") -> tuple[float, float]:
    """The interval in percent, of speakers with these numbers of errors."""
    names = [f"s{i}" for i in range(len(errors))]
    hits = [each - n if metric == "accuracy" else n for n in errors]
    low, high = interval(ratio_counts(names, hits, [each] * len(errors)), metric) or (0, 0)
    return round(100 * low, 1), round(100 * high, 1)


@pytest.mark.parametrize(("right", "n"), [(0, 20), (3, 20), (20, 20), (71, 72)])
def test_the_share_of_independent_units_has_clopper_and_pearson_s_interval(
    right: int, n: int
) -> None:
    exact = stats.binomtest(right, n).proportion_ci(method="exact")
    assert share_interval(right / n, 0.0, INFINITE, n) == pytest.approx((exact.low, exact.high))


@pytest.mark.parametrize("events", [0, 1, 7])
def test_the_rate_of_independent_events_has_garwood_s_interval(events: int) -> None:
    low = stats.chi2.ppf(0.025, 2 * events) / 2 / 50 if events else 0
    high = stats.chi2.ppf(0.975, 2 * events + 2) / 2 / 50
    variance, n = (events / 50**2, None) if events else (0.0, 50)
    assert rate_interval(events / 50, variance, INFINITE, n) == pytest.approx((low, high))


def test_words_that_are_right_or_wrong_limit_the_effective_number_of_a_rate() -> None:
    """A quarter is the most that the variance of such a word can be."""
    low, high = rate_interval(0.8, 0.0, INFINITE, 72) or (0, 0)
    n = 72 * 0.8 / 0.25
    assert low == pytest.approx(stats.gamma.ppf(0.025, 0.8 * n) / n)
    assert high == pytest.approx(stats.gamma.ppf(0.975, 0.8 * n + 1) / n)


def test_an_effective_number_of_units_takes_the_place_of_the_number() -> None:
    """Korn and Graubard's formula with scipy's distributions."""
    value, variance, freedom = 0.8, 0.004, 9.0
    n = value * (1 - value) / variance * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, freedom)) ** 2
    low = stats.beta.ppf(0.025, value * n, n - value * n + 1)
    high = stats.beta.ppf(0.975, value * n + 1, n - value * n)
    assert share_interval(value, variance, freedom, 200) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("errors", "each", "ends"),
    [
        ([2] + [0] * 11, 20, (94.6, 100.0)),  # before: 70.1 to 99.8
        ([1, 1] + [0] * 10, 20, (96.6, 99.9)),
        ([10] + [0] * 11, 20, (74.9, 100.0)),  # before: 65.7 to 99.1
        ([2] + [0] * 39, 10, (97.1, 100.0)),  # before: 89.8 to 99.9
        ([1, 1] + [0] * 38, 10, (98.1, 99.9)),
    ],
)
def test_errors_of_one_speaker_do_not_make_an_interval_collapse(
    errors: list[int], each: int, ends: tuple[float, float]
) -> None:
    assert of_errors(errors, each) == pytest.approx(ends, abs=0.1)


def test_four_speakers_have_no_interval() -> None:
    assert interval(ratio_counts(list("abcd"), [50, 50, 50, 48], [50] * 4), "accuracy") is None


def test_values_at_the_edge_have_an_interval_of_their_units() -> None:
    low, high = of_errors([0] * 36, 1)
    assert (low, high) == pytest.approx((89.6, 100.0), abs=0.2)
    low, high = of_errors([0] * 12, 100, "wer")
    assert low == 0 and 0.3 < high < 0.5


def test_symmetric_scales_are_their_textbook_formulas() -> None:
    t = stats.t.ppf(0.975, 11)
    low, high = logit_interval(0.1, 0.0004, 11, None) or (0, 0)
    half = t * 0.02 / 0.09
    assert np.log([low / (1 - low), high / (1 - high)]) == pytest.approx(
        [np.log(0.1 / 0.9) - half, np.log(0.1 / 0.9) + half]
    )
    low, high = fisher_interval(0.6, 0.01, 11, None) or (0, 0)
    assert np.arctanh([low, high]) == pytest.approx(
        np.arctanh(0.6) + np.array([-1, 1]) * t * 0.1 / 0.64
    )
    assert plain_interval(0.3, 0.01, 11, None) == pytest.approx((0.3 - t * 0.1, 0.3 + t * 0.1))


def test_an_eer_is_no_surer_than_independent_trials() -> None:
    assert logit_interval(0.1, 0.0, 11, 400) == logit_interval(0.1, 0.1 * 0.9 / 400, 11, 400)
    assert logit_interval(0.0, 0.0, 11, 400) == share_interval(0.0, 0.0, 11, 400)


def test_amounts_that_do_not_vary_have_no_interval() -> None:
    assert interval(amount_counts(list("abcdefg"), [2.0] * 7), "mae") is None


@given(st.floats(0, 1), st.floats(1e-6, 0.2), st.floats(2, 50), st.integers(10, 10_000))
def test_a_share_lies_in_its_interval(
    value: float, variance: float, freedom: float, n: int
) -> None:
    low, high = share_interval(value, variance, freedom, n) or (1, 0)
    assert 0 <= low <= value <= high <= 1


def test_the_least_error_is_agresti_and_coull_s() -> None:
    share = (6 + 2) / 124
    assert least_error(0.05, 120) == pytest.approx((share * (1 - share) / 124) ** 0.5)
    assert least_error(0.05, None) == 0


@pytest.mark.parametrize("confidence", [95, 1.0, 0.0, float("nan")])
def test_a_confidence_in_percent_is_refused(confidence: float) -> None:
    with pytest.raises(ProbeError, match=r"expected a fraction between 0 and 1, such as 0.95"):
        student_quantile(9, confidence)
