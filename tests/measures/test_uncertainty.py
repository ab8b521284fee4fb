"""Intervals and paired differences: coverage, agreement with a plain loop, what cannot be told."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from exhaustive import mostly_nightly
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from probe.errors import ProbeError
from probe.measures import bootstrap
from probe.measures.bootstrap import block_weights, effective_blocks, resamples, variances
from probe.measures.comparison import paired_difference
from probe.measures.counts import Counts, amount_counts, ratio_counts, trial_counts, value_of
from probe.measures.detection import TRIAL_METRICS
from probe.measures.uncertainty import interval, measure, wilson_interval

blocks_of_hits = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 20)), min_size=2, max_size=12
)


def ratio(numerator: list[int], denominator: list[int]) -> Counts:
    return ratio_counts([f"speaker {i}" for i in range(len(numerator))], numerator, denominator)


def simulated_accuracy(n_blocks: int, seed: int) -> Counts:
    """Speakers of accuracy 0.8 on average, of very different lengths."""
    generator = np.random.default_rng([n_blocks, seed])
    n = np.maximum(1, 20 * generator.lognormal(0, 0.5, n_blocks)).astype(int)
    return ratio(generator.binomial(n, generator.beta(6.4, 1.6, n_blocks)).tolist(), n.tolist())


def simulated_trials(n_blocks: int, seed: int, n: int = 400, shift: float = 1.5) -> Counts:
    generator = np.random.default_rng(seed)
    enroll = generator.integers(n_blocks, size=n)
    target = generator.random(n) < 0.5
    test = np.where(target, enroll, (enroll + generator.integers(1, n_blocks, size=n)) % n_blocks)
    scores = (
        generator.normal(size=n) + shift * target + 0.5 * generator.normal(size=n_blocks)[enroll]
    )
    return trial_counts([f"s{i}" for i in enroll], [f"s{i}" for i in test], target, scores)


def coverage(intervals: list[tuple[float, float] | None]) -> float:
    return float(np.mean([low <= 0.8 <= high for low, high in filter(None, intervals)]))


@pytest.mark.parametrize(
    ("n_blocks", "least"), mostly_nightly([(12, 0.91), (40, 0.92)], [(12, 0.91)])
)
def test_95_percent_intervals_hold_the_truth_about_95_times_in_100(
    n_blocks: int, least: float
) -> None:
    found = [
        interval(simulated_accuracy(n_blocks, seed), seed, n_resamples=400) for seed in range(1000)
    ]
    assert least <= coverage(found) <= 0.97


def test_percentiles_alone_would_be_too_narrow_for_few_speakers() -> None:
    resampled = [resamples(simulated_accuracy(12, seed), seed, 400) for seed in range(1000)]
    assert coverage([tuple(np.percentile(values, [2.5, 97.5])) for values in resampled]) < 0.9


def variance_at(
    p: float, value: float, units: int, variance: float, spread: Callable[[float], float]
) -> float:
    """By hand: the noise of units, and what blocks differ in beyond it, in proportion to the
    spread.
    """
    between = (variance - spread(value) / units) / spread(value) ** 2
    return spread(p) / units + between * spread(p) ** 2


def test_the_ends_of_an_interval_are_what_a_test_would_just_not_reject() -> None:
    hits = [12, 15, 9, 18, 14, 16, 11, 13, 17, 10]
    ends = interval(ratio(hits, [20] * 10), n_resamples=20_000) or (0, 0)
    variance = np.var(np.array(hits) / 20, ddof=1) / 10
    for p in ends:
        t = abs(p - 0.675) / math.sqrt(variance_at(p, 0.675, 200, variance, lambda p: p * (1 - p)))
        assert t == pytest.approx(2.262157, rel=0.02)
    assert ends[0] < 0.675 < ends[1]


def test_a_rate_that_can_exceed_1_spreads_in_proportion_to_itself() -> None:
    errors = [12, 15, 9, 18, 14, 22, 11, 13, 17, 19]
    ends = interval(ratio(errors, [20] * 10), n_resamples=20_000) or (0, 0)
    variance = np.var(np.array(errors) / 20, ddof=1) / 10
    for p in ends:
        t = abs(p - 0.75) / math.sqrt(variance_at(p, 0.75, 200, variance, lambda p: p))
        assert t == pytest.approx(2.262157, rel=0.02)
    assert ends[0] < 0.75 < ends[1]


def test_an_upper_end_without_a_bound_stays_within_reach() -> None:
    amounts = [0.1, 0.2, 50.0, 0.1, 0.3, 0.2]
    low, high = interval(amount_counts(list("abcdef"), amounts)) or (0, 0)
    mean = np.mean(amounts)
    t = stats.t.ppf(0.975, 2 * 6 / (stats.kurtosis(amounts, fisher=False) - 3 / 5))
    assert high == pytest.approx(
        mean * math.exp(1.2 * t * np.std(amounts, ddof=1) / math.sqrt(6) / mean)
    )
    assert 0 < low < mean


@pytest.mark.parametrize(
    "counts",
    [
        ratio([5, 20, 3, 8, 6], [10] * 5),
        ratio([5, 9, 3, 8, 6], [10] * 5),
        amount_counts(list("abcde"), [1.0, 2.0, 1.5, 1.0, 3.0]),
    ],
)
def test_ends_are_plain_numbers(counts: Counts) -> None:
    assert [type(end) for end in interval(counts) or ()] == [float, float]


def test_blocks_differ_by_no_more_than_all_or_nothing() -> None:
    """Two errors of one of 40 speakers say no more than one speaker of 40 who fails."""
    low, high = interval(ratio([18] + [20] * 39, [20] * 40)) or (0, 0)
    assert low > 0.9 and high > 0.999
    t = stats.t.ppf(0.975, 39)
    assert (0.9975 - low) / math.sqrt(low * (1 - low) / 40) == pytest.approx(t)  # the bound itself


def test_trials_among_few_speakers_count_as_few_blocks() -> None:
    target = [1] * 20 + [0] * 20
    enroll = [f"s{i}" for i in range(20)] + [f"s{i % 2}" for i in range(20)]
    test = [f"s{i}" for i in range(20)] + [f"s{2 + i % 2}" for i in range(20)]
    counts = trial_counts(enroll, test, target, np.arange(40.0) % 7)
    assert effective_blocks(counts) == pytest.approx(4)


def test_a_block_that_brings_most_of_the_variance_costs_degrees_of_freedom() -> None:
    even, odd = ratio([14, 16] * 10, [20] * 20), ratio([10] * 18 + [7, 13], [20] * 20)
    (freedom_even,), (freedom_odd,) = (measure([counts]).errors()[1] for counts in (even, odd))
    assert freedom_even == 19
    assert freedom_odd == pytest.approx(
        2 * 20 / (10 - 17 / 19)
    )  # of two blocks in twenty the kurtosis is 10; no slope at 1/2


@pytest.mark.parametrize(("right", "n"), [(1, 72), (71, 72), (3, 200), (20, 40)])
def test_right_or_wrong_once_a_speaker_is_nearly_wilson_s_interval(right: int, n: int) -> None:
    found, wilson = (
        interval(ratio([1] * right + [0] * (n - right), [1] * n), n_resamples=20_000),
        wilson_interval(right, n),
    )
    assert found == pytest.approx(wilson, abs=0.012)
    assert found is not None and found[0] <= wilson[0] and found[1] >= wilson[1]


def test_trials_of_many_pairs_have_the_error_of_independent_ones() -> None:
    """Of scores without any effect of a speaker: resampling both ends alone counts the noise of
    non-targets three times.
    """
    pairs = [(i, j) for i in range(40) for j in range(i + 1, 40)]
    ends = [(i, i) for i in range(40) for _ in range(20)] + pairs
    target, names = (
        np.arange(len(ends)) < 800,
        [[f"s{end[side]}" for end in ends] for side in (0, 1)],
    )
    alone, corrected = [], []
    for seed in range(12):
        scores = np.random.default_rng(seed).normal(size=len(ends)) + 2 * target
        found = measure([trial_counts(*names, target, scores)], n_resamples=300)
        independent = found.values[0] * (1 - found.values[0]) * (1 / 800 + 1 / 780) / 4
        alone.append(variances(found.resampled, 40)[0] / independent)
        corrected.append(found.errors()[0][0] ** 2 / independent)
    assert 1.7 < np.mean(alone) < 2.5
    assert 0.8 < np.mean(corrected) < 1.4


def test_an_eer_of_0_has_an_interval_as_wide_as_that_of_as_many_independent_trials() -> None:
    counts = trial_counts(
        list("abcdefgh") * 2, [*"abcdefgh", *"bcdefgha"], [1] * 8 + [0] * 8, [1.0] * 8 + [0.0] * 8
    )
    low, high = interval(counts) or (1, 0)
    assert low == 0
    assert high == pytest.approx(
        2.364624**2 / (16 + 2.364624**2)
    )  # Wilson's, with Student's quantile of 7


@settings(max_examples=25)
@given(blocks_of_hits)
def test_resampled_ratios_are_those_of_a_plain_loop(rows: list[tuple[int, int]]) -> None:
    counts = ratio([row[0] for row in rows], [row[1] for row in rows])
    (weights,) = block_weights(len(rows), 7, 20)
    assert (weights.sum(axis=1) == len(rows)).all()
    plain = [
        value_of(
            {
                "block": [],
                "numerator": np.repeat(counts["numerator"], w),
                "denominator": np.repeat(counts["denominator"], w),
            }
        )
        for w in weights
    ]
    assert resamples(counts, 7, 20).tolist() == plain


@pytest.mark.parametrize("metric", TRIAL_METRICS)
def test_resampled_trials_are_those_of_a_plain_loop(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "TRIALS_AT_ONCE", 1500)  # three resamples
    counts = simulated_trials(3, seed=3)
    (weights,) = block_weights(3, 7, 20)
    plain = []
    for w in weights:
        pairs = zip(counts["enroll"], counts["test"], strict=True)
        times = np.array([int(w[e]) if e == t else int(w[e] * w[t]) for e, t in pairs])
        copies = {key: np.repeat(counts[key], times) for key in counts if key != "block"}
        both = 0 < sum(copies["target"]) < len(copies["target"])
        plain.append(value_of({"block": [], **copies}, metric) if both else float("nan"))
    assert np.isnan(plain).any() and not np.isnan(plain).all()
    np.testing.assert_array_equal(resamples(counts, 7, 20, metric), plain)


def test_resamples_do_not_depend_on_how_many_are_held_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = simulated_accuracy(12, seed=0)
    at_once = interval(counts)
    monkeypatch.setattr(bootstrap, "CELLS_AT_ONCE", 25)
    assert interval(counts) == at_once


def test_the_seed_alone_decides_and_only_of_trials() -> None:
    trials, ratios = simulated_trials(8, seed=0), simulated_accuracy(8, seed=0)
    np.random.seed(1)
    first = interval(trials, seed=5, n_resamples=50, metric="min_dcf_0.05")
    np.random.seed(2)
    assert interval(trials, seed=5, n_resamples=50, metric="min_dcf_0.05") == first
    assert interval(trials, seed=6, n_resamples=50, metric="min_dcf_0.05") != first
    assert interval(ratios, seed=5) == interval(ratios, seed=6)


@settings(max_examples=25)
@given(blocks_of_hits)
def test_an_interval_holds_its_value_and_stays_where_the_value_can_be(
    rows: list[tuple[int, int]],
) -> None:
    counts = ratio([min(row) for row in rows], [row[1] for row in rows])
    low, high = interval(counts, n_resamples=100) or (0.0, 1.0)
    assert 0 <= low <= value_of(counts) <= high <= 1


def test_a_word_error_rate_may_reach_above_1() -> None:
    low, high = interval(ratio([5, 20, 3, 8, 6], [10] * 5)) or (0, 0)
    assert low < 0.84
    assert high > 1


def test_a_wider_confidence_is_a_wider_interval() -> None:
    counts = simulated_accuracy(12, seed=0)
    low, high = interval(counts, confidence=0.95) or (0, 0)
    wider = interval(counts, confidence=0.99) or (1, 0)
    assert wider[0] < low < high < wider[1]


@pytest.mark.parametrize(
    "counts",
    [
        ratio([3], [4]),
        ratio([3, 0], [4, 0]),  # nothing in the other block
        ratio([3, 2, 1], [4, 4, 4]),
        ratio([3, 2, 1, 1], [9, 3, 3, 3]),  # one weighs as much as the others
        trial_counts(
            ["a", "a", "b", "b"], ["a", "b", "b", "a"], [1, 0, 1, 0], [2.0, 0.0, 3.0, 1.0]
        ),  # a pair, or no non-target
        trial_counts(
            ["a"] * 6, list("aabcde"), [1, 1, 0, 0, 0, 0], [2.0, 0.0, 3.0, 1.0, 0.5, 0.2]
        ),  # targets of one speaker
    ],
)
def test_too_few_blocks_have_no_interval(counts: Counts) -> None:
    assert interval(counts) is None
    paired = paired_difference(counts, counts)
    assert (paired.difference, paired.low, paired.high, paired.probability, paired.p) == (
        0,
        None,
        None,
        None,
        None,
    )


def test_one_score_against_itself_is_a_tie() -> None:
    for counts in (simulated_accuracy(12, seed=0), simulated_trials(8, seed=0)):
        paired = paired_difference(counts, counts, n_resamples=100)
        assert (paired.difference, paired.probability, paired.p) == (0, 0.5, 1)
        assert paired.high is not None and paired.low == -paired.high and 0 < paired.high < 0.1
        assert paired.n_blocks == len(counts["block"])


@pytest.mark.parametrize("form", ["ratio", "trials"])
def test_exchanging_the_two_scores_mirrors_their_difference(form: str) -> None:
    if form == "ratio":
        a = simulated_accuracy(12, seed=1)
        b = {**a, "numerator": [max(0, n - i % 3) for i, n in enumerate(a["numerator"])]}
    else:
        a = simulated_trials(8, seed=1)
        b = {**a, "rank": np.random.default_rng(0).permutation(a["rank"]).tolist()}
    forth, back = paired_difference(a, b, n_resamples=200), paired_difference(b, a, n_resamples=200)
    assert forth.difference == value_of(a) - value_of(b) == -back.difference
    assert (forth.low, forth.high) == (-(back.high or 0), -(back.low or 0))
    assert forth.probability == pytest.approx(1 - (back.probability or 0))


def test_pairing_shows_a_difference_that_two_intervals_hide() -> None:
    a = simulated_accuracy(12, seed=0)
    b = {**a, "numerator": [n - 1 for n in a["numerator"]]}
    of_a, of_b = interval(a) or (0, 0), interval(b) or (0, 0)
    assert of_a[0] < of_b[1]
    paired = paired_difference(a, b)
    assert paired.low is not None
    assert paired.low > 0
    assert paired.probability == 1


def test_a_paired_interval_of_two_equal_models_holds_0_about_95_times_in_100() -> None:
    held = 0
    for seed in range(300):
        generator = np.random.default_rng(seed)
        rates = generator.beta(6.4, 1.6, 12)
        a, b = (ratio(generator.binomial(20, rates).tolist(), [20] * 12) for _ in range(2))
        paired = paired_difference(a, b, seed, n_resamples=300)
        held += (
            paired.low <= 0 <= paired.high
            if paired.low is not None and paired.high is not None
            else 0
        )
    assert 0.92 <= held / 300 <= 0.98


RATIO, TRIALS = ratio([1, 2, 3], [4, 5, 6]), simulated_trials(4, seed=0, n=30)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (
            RATIO,
            ratio([1, 2], [4, 5]),
            r"differ in block, denominator \(3 and 2 blocks\).*on the same utterances",
        ),
        (RATIO, ratio([1, 2, 3], [4, 5, 7]), r"differ in denominator \(3 and 3 blocks\)"),
        (TRIALS, {**TRIALS, "target": TRIALS["target"][::-1]}, r"differ in target \("),
        (
            TRIALS,
            {**TRIALS, "enroll": TRIALS["test"], "test": TRIALS["enroll"]},
            "differ in enroll, test",
        ),
        (RATIO, TRIALS, "counts of one score are a ratio of sums, those of the other trials"),
    ],
)
def test_scores_of_other_utterances_are_not_compared(a: Counts, b: Counts, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        paired_difference(a, b)


@pytest.mark.parametrize("confidence", [95, 1.0, 0.0, float("nan")])
def test_a_confidence_in_percent_is_refused(confidence: float) -> None:
    with pytest.raises(ProbeError, match=r"expected a fraction between 0 and 1, such as 0.95"):
        interval(RATIO, confidence=confidence)


def test_an_interval_of_nothing_is_named() -> None:
    with pytest.raises(ProbeError, match="sum to 0"):
        interval(ratio([0, 0], [0, 0]))
