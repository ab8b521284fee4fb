"""What blocks contribute to the variance of a score, its interval and its differences from others:
equal to plain loops and textbook formulas, and their coverage.
"""

import math

import numpy as np
import pytest
from exhaustive import mostly_nightly
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from probe.errors import ProbeError
from probe.measures import block_weights, bootstrap
from probe.measures.block_weights import values_without_each_block
from probe.measures.bootstrap import block_weights as drawn_weights
from probe.measures.bootstrap import resamples
from probe.measures.comparison import paired_difference
from probe.measures.counts import Counts, ratio_counts, several, trial_counts, value_of
from probe.measures.detection import TRIAL_METRICS
from probe.measures.uncertainty import FEWEST_BLOCKS, interval, measure

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


@pytest.mark.parametrize(
    ("n_blocks", "least"), mostly_nightly([(12, 0.93), (40, 0.93)], [(12, 0.93)])
)
def test_95_percent_intervals_hold_the_truth_about_95_times_in_100(
    n_blocks: int, least: float
) -> None:
    ends = [interval(simulated_accuracy(n_blocks, seed), "accuracy") for seed in range(1000)]
    assert least <= np.mean([low <= 0.8 <= high for low, high in filter(None, ends)]) <= 0.975


def test_percentiles_are_those_of_the_resampled_values_and_too_narrow_for_few_speakers() -> None:
    counts = [simulated_accuracy(12, seed) for seed in range(600)]
    ends = [interval(c, "accuracy", method="percentile", n_resamples=400) for c in counts]
    assert ends[3] == pytest.approx(np.percentile(resamples(counts[3], 0, 400), [2.5, 97.5]))
    assert np.mean([low <= 0.8 <= high for low, high in filter(None, ends)]) < 0.92


def test_the_variance_of_a_ratio_is_that_of_linear_regression_with_cr2() -> None:
    """The mean of unequal blocks as a regression on a constant: residuals of a block of n units are
    divided by the square root of 1 - n / N, Bell and McCaffrey's degrees of freedom from matrices.
    """
    hits, n = np.array([3, 18, 2, 9, 30, 11, 7]), np.array([5, 20, 10, 9, 40, 16, 7])
    total = n.sum()
    score = measure(ratio(hits.tolist(), n.tolist()), "accuracy")
    residuals = hits - hits.sum() / total * n
    assert score.variance == pytest.approx((residuals**2 / (1 - n / total)).sum() / total**2)
    ones = np.ones((total, 1))
    block = np.repeat(np.arange(7), n)
    residual_maker = np.eye(total) - ones @ ones.T / total
    gradient = np.stack(
        [
            residual_maker[block == g].T @ np.ones(n[g]) / total / math.sqrt(1 - n[g] / total)
            for g in range(7)
        ]
    )
    gram = gradient @ gradient.T
    assert score.freedom == pytest.approx(np.trace(gram) ** 2 / np.square(gram).sum())


def test_equal_blocks_have_the_variance_of_a_mean_and_one_degree_of_freedom_less() -> None:
    hits = [12, 15, 9, 18, 14, 16, 11, 13, 17, 10]
    score = measure(ratio(hits, [20] * 10), "accuracy")
    assert score.error == pytest.approx(np.std(np.array(hits) / 20, ddof=1) / math.sqrt(10))
    assert score.freedom == pytest.approx(9)


@pytest.mark.parametrize("metric", TRIAL_METRICS)
def test_the_jackknife_leaves_out_all_trials_of_a_speaker(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_weights, "TRIALS_AT_ONCE", 1000)  # two speakers at once
    counts = simulated_trials(8, seed=3)
    ends = [np.array(counts[end]) for end in ("enroll", "test")]
    plain = []
    for block in range(8):
        kept = (ends[0] != block) & (ends[1] != block)
        columns = {key: np.array(counts[key])[kept] for key in ("target", "rank")}
        trials = {"block": [], "enroll": ends[0][kept], "test": ends[1][kept], **columns}
        plain.append(value_of(trials, metric))
    without = values_without_each_block(counts, metric)
    assert without.tolist() == plain
    if metric == "eer":
        variance = 7 / 8 * np.square(without - without.mean()).sum()
        assert measure(counts, metric).variance == pytest.approx(variance)


@settings(max_examples=25)
@given(blocks_of_hits)
def test_resampled_ratios_are_those_of_a_plain_loop(rows: list[tuple[int, int]]) -> None:
    counts = ratio([row[0] for row in rows], [row[1] for row in rows])
    (weights,) = drawn_weights(len(rows), 7, 20)
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
    monkeypatch.setattr(block_weights, "TRIALS_AT_ONCE", 1500)  # three resamples
    counts = simulated_trials(3, seed=3)
    (weights,) = drawn_weights(3, 7, 20)
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
    at_once = resamples(counts)
    monkeypatch.setattr(bootstrap, "CELLS_AT_ONCE", 25)
    assert resamples(counts).tolist() == at_once.tolist()


@settings(max_examples=25)
@given(blocks_of_hits)
def test_an_interval_holds_its_value_and_stays_where_the_value_can_be(
    rows: list[tuple[int, int]],
) -> None:
    counts = ratio([min(row) for row in rows], [row[1] for row in rows])
    low, high = interval(counts, "accuracy") or (0.0, 1.0)
    assert 0 <= low <= value_of(counts) <= high <= 1


def test_a_word_error_rate_may_reach_above_1() -> None:
    low, high = interval(ratio([5, 20, 3, 8, 6, 9], [10] * 6), "wer") or (0, 0)
    assert low < 0.85
    assert high > 1


def test_a_wider_confidence_is_a_wider_interval() -> None:
    counts = simulated_accuracy(12, seed=0)
    low, high = interval(counts, "accuracy") or (0, 0)
    wider = interval(counts, "accuracy", confidence=0.99) or (1, 0)
    assert wider[0] < low < high < wider[1]


@pytest.mark.parametrize(
    "counts",
    [
        ratio([3], [4]),
        ratio([3] * 5 + [0], [4] * 5 + [0]),  # nothing in the sixth block
        ratio([3] * 5, [4] * 5),
        trial_counts(
            ["a"] * 6 + list("bcdef"), list("aabcdefbcde"), [1, 1] + [0] * 9, np.arange(11.0)
        ),  # targets of one speaker
    ],
)
@pytest.mark.parametrize("method", ["speakers", "percentile"])
def test_too_few_blocks_have_no_interval(counts: Counts, method: str) -> None:
    metric = "eer" if "target" in counts else "accuracy"
    assert interval(counts, metric, method=method) is None  # type: ignore[arg-type]
    paired = paired_difference(counts, counts, metric)
    assert (paired.difference, paired.low, paired.high, paired.p) == (0, None, None, None)


def test_six_blocks_have_one() -> None:
    assert interval(ratio([3, 2, 4, 3, 1, 2], [4] * FEWEST_BLOCKS), "accuracy") is not None


def test_detection_costs_and_codelengths_have_no_interval() -> None:
    assert interval(simulated_trials(12, seed=0), "min_dcf_0.01") is None
    assert interval(ratio([3, 2, 4, 3, 1, 2], [4] * 6), "codelength") is None


def test_one_score_against_itself_is_a_tie() -> None:
    for counts, metric in (
        (simulated_accuracy(12, seed=0), "accuracy"),
        (simulated_trials(8, seed=0), "eer"),
    ):
        paired = paired_difference(counts, counts, metric)
        assert (paired.difference, paired.p) == (0, 1)
        assert paired.high is not None and paired.low == -paired.high and 0 < paired.high < 0.1
        assert paired.n_blocks == len(counts["block"])


@pytest.mark.parametrize("form", ["ratio", "trials"])
def test_exchanging_the_two_scores_mirrors_their_difference(form: str) -> None:
    if form == "ratio":
        a, metric = simulated_accuracy(12, seed=1), "accuracy"
        b = {**a, "numerator": [max(0, n - i % 3) for i, n in enumerate(a["numerator"])]}
    else:
        a, metric = simulated_trials(8, seed=1), "eer"
        b = {**a, "rank": np.random.default_rng(0).permutation(a["rank"]).tolist()}
    forth, back = paired_difference(a, b, metric), paired_difference(b, a, metric)
    assert forth.difference == value_of(a) - value_of(b) == -back.difference
    assert (forth.low, forth.high) == pytest.approx((-(back.high or 0), -(back.low or 0)))


def test_pairing_shows_a_difference_that_two_intervals_hide() -> None:
    a = simulated_accuracy(12, seed=0)
    b = {**a, "numerator": [n - 1 for n in a["numerator"]]}
    of_a, of_b = interval(a, "accuracy") or (0, 0), interval(b, "accuracy") or (0, 0)
    assert of_a[0] < of_b[1]
    paired = paired_difference(a, b, "accuracy")
    assert paired.low is not None and paired.low > 0


def test_an_interval_and_a_difference_do_not_contradict_each_other() -> None:
    """Few errors of few speakers in clean speech, all wrong in noise: the loss must not exclude
    values of the clean score that its own interval contains by much.
    """
    clean = ratio([26, 3, 1, 5, 0, 2], [236] * 6)
    noisy = {**clean, "numerator": [236] * 6}
    _, high = interval(clean, "cer") or (0, 0)
    loss = paired_difference(noisy, clean, "cer")
    assert loss.low is not None
    assert 1 - loss.low == pytest.approx(high, abs=0.05)


def test_seeds_add_their_variance_and_satterthwaite_s_degrees_of_freedom() -> None:
    one = ratio([12, 15, 9, 18, 14, 16, 11, 13, 17, 10], [20] * 10)
    two = ratio([12, 16, 9, 18, 15, 15, 12, 13, 17, 11], [20] * 10)
    both = several([one, two])
    score = measure(both, "accuracy")
    values = [value_of(one), value_of(two)]
    assert score.value == pytest.approx(np.mean(values))
    means = (np.array(one["numerator"]) + np.array(two["numerator"])) / 40
    of_blocks, of_seeds = np.var(means, ddof=1) / 10, np.var(values, ddof=1) / 2
    assert score.variance == pytest.approx(of_blocks + of_seeds)
    freedom = (of_blocks + of_seeds) ** 2 / (of_blocks**2 / 9 + of_seeds**2)
    assert score.all_freedom == pytest.approx(freedom)
    n = score.value * (1 - score.value) / score.variance
    n *= (stats.norm.ppf(0.975) / stats.t.ppf(0.975, freedom)) ** 2
    low = stats.beta.ppf(0.025, score.value * n, n - score.value * n + 1)
    assert (interval(both, "accuracy") or (0, 0))[0] == pytest.approx(low)


def test_seeds_that_agree_add_nothing_to_the_interval() -> None:
    one = ratio([12, 15, 9, 18, 14, 16, 11, 13, 17, 10], [20] * 10)
    assert interval(several([one] * 3), "accuracy") == pytest.approx(interval(one, "accuracy"))


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


def test_a_confidence_in_percent_is_refused() -> None:
    with pytest.raises(ProbeError, match=r"expected a fraction between 0 and 1, such as 0.95"):
        interval(RATIO, "accuracy", confidence=95)


def test_an_interval_of_nothing_is_named() -> None:
    with pytest.raises(ProbeError, match="sum to 0"):
        interval(ratio([0, 0], [0, 0]), "accuracy")
