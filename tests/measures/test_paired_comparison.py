"""Comparisons: p-values, Holm's procedure, several seeds; coverage, as the benchmark has it."""

import importlib.util
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from exhaustive import mostly_nightly
from scipy import stats

from probe.errors import ProbeError
from probe.measures.comparison import ABOVE, AT_CHANCE, beside_chance, holm, paired_difference
from probe.measures.counts import Counts, several, value_of
from probe.measures.uncertainty import interval, measure


def benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_benchmark", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there for annotations
    spec.loader.exec_module(module)
    return module


coverage = benchmark()


def counts_of(numerator: Sequence[int], each: int = 20) -> Counts:
    n = len(numerator)
    return {
        "block": [f"s{i}" for i in range(n)],
        "numerator": list(numerator),
        "denominator": [each] * n,
    }


def drawn(number: int, n_models: int, n_blocks: int = 12, gap: float = 0.0) -> list[Counts]:
    found: list[Counts] = coverage.accuracy(
        np.random.default_rng([number, n_models]), n_blocks, n_models, gap=gap
    ).counts
    return found


@pytest.mark.parametrize(
    ("score", "n_simulations"),
    mostly_nightly(
        [
            *[("accuracy of 80 %, Beta", 800), ("accuracy of 80 %, logit-normal", 800)],
            *[("WER, Gamma", 500), ("WER, Gamma", 120), ("WER, log-normal", 500)],
            *[("EER, additive", 200), ("EER, embeddings", 200)],
        ],
        [("WER, Gamma", 120)],
    ),
)
def test_intervals_hold_the_truth(score: str, n_simulations: int) -> None:
    error = 2.6 * math.sqrt(0.95 * 0.05 / n_simulations)  # 99 % of the time
    found = coverage.coverage(score, 20, n_simulations)
    assert 0.925 - error <= found.held <= 0.98 + error and found.none == 0


def test_the_truth_of_the_simulated_trials_is_their_eer() -> None:
    corpus = coverage.eer(np.random.default_rng(0), 1500, 1)
    assert value_of(corpus.counts[0]) == pytest.approx(corpus.truth, abs=0.01)


def test_p_values_of_equally_good_models_are_uniform() -> None:
    p = [paired_difference(*drawn(number, 2), "accuracy").p for number in range(600)]
    assert stats.kstest(p, "uniform").statistic < 1.63 / math.sqrt(600)  # 99 % of the time


def test_p_values_show_a_planted_difference() -> None:
    found = [paired_difference(*drawn(number, 2, 40, gap=0.1), "accuracy") for number in range(60)]
    assert (
        np.mean([item.p is not None and item.p < 0.05 and item.difference > 0 for item in found])
        > 0.9
    )


def test_p_is_below_the_level_where_0_is_outside_the_interval() -> None:
    for number in range(100):
        found = paired_difference(*drawn(number, 2, gap=0.05), "accuracy")
        assert found.low is not None and found.high is not None and found.p is not None
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high)


def test_the_p_value_is_that_of_a_paired_t_test_over_equal_blocks() -> None:
    a, b = [12, 15, 9, 18, 14, 16, 11, 13, 17, 10], [10, 14, 10, 15, 11, 16, 10, 10, 15, 10]
    found = paired_difference(counts_of(a), counts_of(b), "accuracy")
    assert found.p == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_a_difference_that_does_not_vary_is_no_surer_than_its_utterances_allow() -> None:
    found = paired_difference(
        counts_of([15] * 6), counts_of([14] * 6), "accuracy"
    )  # 6 of 120 utterances
    share = (6 + 2) / (120 + 4)
    error = (share * (1 - share) / 124) ** 0.5
    assert found.low == pytest.approx(0.05 - stats.t(5).ppf(0.975) * error)
    assert found.p == pytest.approx(2 * stats.t(5).sf(0.05 / error))


def test_a_constant_chance_level_is_held_against_the_interval_of_the_score() -> None:
    hits = [20, 20, 20, 20, 20, 20, 5, 6]
    score, varying = (measure(counts_of(k), "accuracy") for k in (hits, [5, 15] * 4))
    constant = measure(counts_of([10] * 8), "accuracy")
    low, high = score.ends() or (0.0, 1.0)
    paired = (score - constant).ends() or (0.0, 0.0)
    assert low < 0.5 < high and paired[0] > 0  # the paired interval alone would say "above"
    assert beside_chance(score, 0.5, True) == beside_chance(score, constant, True) == AT_CHANCE
    assert beside_chance(score, low - 0.01, True) == ABOVE
    assert beside_chance(score, high + 0.01, False) == ABOVE
    assert not varying.is_constant and constant.is_constant


def test_holm_is_statsmodels_holm() -> None:
    # multipletests([0.01, 0.04, 0.03, 0.005, 0.2], method="holm") of statsmodels
    assert holm([0.01, 0.04, 0.03, 0.005, 0.2]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.2])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


@pytest.mark.nightly
def test_equally_good_models_are_seldom_told_apart_in_any_of_ten_scores() -> None:
    n = 300
    together, alone = coverage.called_different(12, 10, n)
    assert together <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / n) and alone > 0.25


def test_models_are_compared_seed_by_seed() -> None:
    a = [counts_of([12, 15, 9, 18, 14, 16, 11, 13]), counts_of([16, 18, 14, 19, 17, 19, 15, 18])]
    b = [
        {**item, "numerator": [n - 1 - i % 2 for i, n in enumerate(item["numerator"])]}
        for item in a
    ]
    found = paired_difference(several(a), several(b), "accuracy")
    assert found.difference == pytest.approx(0.075)
    assert found.p is not None and found.p < 0.02  # what a seed does to both cancels
    with pytest.raises(
        ProbeError, match=r"one score is of 2 seeds, the other of 1\. Run both with the same seeds"
    ):
        paired_difference(several(a), b[0])


@pytest.mark.nightly
def test_intervals_over_seeds_hold_the_truth() -> None:
    held, n = 0, 400
    for number in range(n):
        generator = np.random.default_rng(number)
        speakers, seeds = (
            0.7 + 0.1 * generator.standard_normal(15),
            0.03 * generator.standard_normal(3),
        )
        trained = [
            counts_of(generator.binomial(20, np.clip(speakers + seed, 0, 1)).tolist())
            for seed in seeds
        ]
        low, high = interval(several(trained), "accuracy") or (0, 0)
        held += low <= 0.7 <= high
    assert 0.92 <= held / n <= 0.99
