"""Metrics of numbers and of classes are those of scikit-learn and scipy, and their intervals are
jackknifes.
"""

import json
import warnings

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr, t
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score, r2_score

from probe.errors import ProbeError
from probe.measures.block_sums import class_counts, class_units, confusion, moment_counts
from probe.measures.block_weights import values_without_each_block
from probe.measures.comparison import paired_difference
from probe.measures.confidence_set import confidence_set
from probe.measures.counts import (
    Counts,
    check_same_utterances,
    pooled_counts,
    several,
    utterances_of,
    value_of,
)
from probe.measures.groups import compare_groups
from probe.measures.uncertainty import interval, measure


def numbers(generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted numbers with ties, of any scale and offset."""
    centre, spread = generator.normal() * 100, generator.lognormal()
    truth = generator.normal(centre, spread, n).round(1)
    predicted = centre + generator.normal() * (truth - centre) + generator.normal(0, 3, n)
    return truth, predicted.round(2)


def speakers(generator: np.random.Generator, n: int, n_blocks: int = 8) -> list[str]:
    return [f"s{i}" for i in np.arange(n) % n_blocks]


def test_metrics_of_numbers_are_those_of_scipy_and_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        n = int(generator.integers(3, 60))
        truth, predicted = numbers(generator, n)
        if np.ptp(truth) == 0 or np.ptp(predicted) == 0:
            continue
        counts = moment_counts(speakers(generator, n), truth, predicted)
        ranks = moment_counts(speakers(generator, n), truth, predicted, ranks=True)
        covariance = np.cov(truth, predicted, bias=True)[0, 1]
        distance = (truth.mean() - predicted.mean()) ** 2
        lin = 2 * covariance / (truth.var() + predicted.var() + distance)
        assert value_of(counts, "ccc") == pytest.approx(lin, abs=1e-8)
        assert value_of(counts, "pearson") == pytest.approx(pearsonr(truth, predicted)[0], abs=1e-8)
        assert value_of(ranks, "spearman") == pytest.approx(
            spearmanr(truth, predicted)[0], abs=1e-9
        )
        assert value_of(counts, "r2") == pytest.approx(r2_score(truth, predicted), rel=1e-8)


def test_metrics_of_classes_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(1)
    for _ in range(50):
        n, n_classes = int(generator.integers(3, 60)), int(generator.integers(2, 6))
        truth, predicted = generator.integers(n_classes, size=(2, n)).astype(str)
        classes = [str(i) for i in range(n_classes)] + ["never"]
        counts = class_counts(speakers(generator, n), truth, predicted, classes)
        with warnings.catch_warnings():  # of classes that are predicted only
            warnings.simplefilter("ignore")
            uar = balanced_accuracy_score(truth, predicted)
        assert value_of(counts, "uar") == pytest.approx(uar)
        assert value_of(counts, "macro_f1") == pytest.approx(
            f1_score(truth, predicted, average="macro")
        )
        assert np.array_equal(confusion(counts), confusion_matrix(truth, predicted, labels=classes))
        assert json.loads(json.dumps(counts)) == counts


def test_an_offset_of_ten_thousand_spreads_costs_no_printed_digit() -> None:
    generator = np.random.default_rng(2)
    truth = generator.standard_normal(40)
    predicted = truth + generator.standard_normal(40)
    names = ["a"] * 40
    far = [moment_counts(names, truth + shift, predicted + shift) for shift in (0.0, 1e4)]
    near, shifted = (value_of(counts, "ccc") for counts in far)
    assert shifted == pytest.approx(near, abs=1e-6)


def test_pooled_folds_are_the_counts_of_all_utterances() -> None:
    generator = np.random.default_rng(10)
    truth, predicted = numbers(generator, 60)
    classes = generator.integers(3, size=(2, 60)).astype(str).tolist()
    names = speakers(generator, 60)
    for metric in ("ccc", "macro_f1"):
        parts = [slice(0, 25), slice(25, 60)]
        if metric == "ccc":
            made = [moment_counts(names[at], truth[at], predicted[at]) for at in parts]
            whole = moment_counts(names, truth, predicted)
        else:
            made = [class_counts(names[at], *(one[at] for one in classes), "012") for at in parts]
            whole = class_counts(names, *classes, "012")
        pooled = pooled_counts(made)
        assert pooled["block"] == whole["block"]
        assert value_of(pooled, metric) == pytest.approx(value_of(whole, metric))
        assert interval(pooled, metric=metric) == pytest.approx(interval(whole, metric=metric))


def test_constant_predictions_have_a_concordance_of_0_and_no_correlation() -> None:
    counts = moment_counts(list("abcd"), [1.0, 2.0, 3.0, 5.0], [0.1] * 4)
    assert value_of(counts, "ccc") == 0
    with pytest.raises(ProbeError, match="pearson is undefined: there are no utterances, or all"):
        value_of(counts, "pearson")


@pytest.mark.parametrize("metric", ["ccc", "r2", "uar", "macro_f1"])
def test_the_jackknife_leaves_each_block_out_once(metric: str) -> None:
    """By hand: the value without each block, from the utterances of the others."""
    generator = np.random.default_rng(3)
    names = np.array(speakers(generator, 50))

    def counts_of(kept: np.ndarray) -> Counts:
        if metric in ("ccc", "r2"):
            truth, predicted = numbers(np.random.default_rng(4), 50)
            return moment_counts(names[kept].tolist(), truth[kept], predicted[kept])
        truth, predicted = np.random.default_rng(4).integers(3, size=(2, 50)).astype(str)
        return class_counts(names[kept].tolist(), truth[kept], predicted[kept], ["0", "1", "2"])

    counts = counts_of(names != "")
    without = np.array([value_of(counts_of(names != name), metric) for name in sorted(set(names))])
    assert sorted(values_without_each_block(counts, metric)) == pytest.approx(sorted(without))
    variance = 7 / 8 * np.square(without - without.mean()).sum()
    assert measure(counts, metric).variance == pytest.approx(variance)


def test_the_interval_of_a_correlation_is_symmetric_on_fisher_s_scale() -> None:
    generator = np.random.default_rng(5)
    truth, predicted = numbers(generator, 80)
    counts = moment_counts(speakers(generator, 80), truth, predicted)  # 8 equal blocks
    ends = interval(counts, metric="ccc")
    assert ends is not None
    low, high = np.arctanh(ends)
    score = measure(counts, "ccc")
    assert score.freedom == pytest.approx(7)
    assert (low + high) / 2 == pytest.approx(np.arctanh(score.value))
    half = t.ppf(0.975, 7) * np.sqrt(score.variance) / (1 - score.value**2)
    assert (high - low) / 2 == pytest.approx(half)


def test_five_speakers_have_no_interval() -> None:
    generator = np.random.default_rng(6)
    truth, predicted = numbers(generator, 60)
    for n_blocks, known in ((5, False), (6, True)):
        counts = moment_counts(speakers(generator, 60, n_blocks), truth, predicted)
        for metric in ("ccc", "pearson", "r2"):
            assert (interval(counts, metric=metric) is not None) is known


def test_classes_that_are_all_right_have_an_interval_of_as_many_utterances() -> None:
    names = [f"s{i}" for i in range(36)]
    truth = ["a", "b"] * 18
    counts = class_counts(names, truth, truth, ["a", "b"])
    assert class_units(counts) == 36
    ends = interval(counts, metric="uar")
    assert ends is not None and ends[1] == 1 and 0.88 < ends[0] < 0.91


def test_differences_of_numbers_are_paired_and_need_the_same_truth() -> None:
    generator = np.random.default_rng(7)
    truth = generator.normal(40, 10, 240)
    names = speakers(generator, 240, 12)
    good, bad = (
        moment_counts(names, truth, truth + generator.normal(0, size, 240)) for size in (2, 12)
    )
    found = paired_difference(good, bad, metric="ccc")
    assert found.p is not None and found.p < 1e-3
    assert found.low is not None and found.low > 0
    assert confidence_set([bad, good], "pearson") == [pytest.approx(0, abs=0.01), 1.0]
    assert utterances_of(good) == utterances_of(bad)
    other = moment_counts(names, truth + generator.normal(0, 1, 240), truth)
    assert utterances_of(other) != utterances_of(good)
    with pytest.raises(ProbeError, match="differ in truth"):
        check_same_utterances(good, other)


def test_groups_and_seeds_of_sums_are_told_apart() -> None:
    generator = np.random.default_rng(8)
    truth = generator.integers(3, size=480).astype(str)
    names = speakers(generator, 480, 24)
    seeds = []
    for _ in range(2):
        wrong = generator.random(480) < np.where(np.arange(480) % 2, 0.6, 0.1)
        guess = np.where(wrong, generator.integers(3, size=480).astype(str), truth)
        seeds.append(class_counts(names, truth.tolist(), guess.tolist(), ["0", "1", "2"]))
    both = several(seeds)
    assert value_of(both, "uar") == np.mean([value_of(one, "uar") for one in seeds])
    ends = interval(both, metric="uar")
    assert ends is not None and ends[0] < value_of(both, "uar") < ends[1]
    digests = dict(zip(*_named(seeds[0], names), strict=True))
    groups = ["odd" if int(digests[digest][1:]) % 2 else "even" for digest in seeds[0]["block"]]
    found = compare_groups(seeds[0], groups, higher_is_better=True, metric="macro_f1")
    assert found.worst is not None and found.worst.name == "odd"
    assert found.spread.low is not None and found.spread.low > 0


def _named(counts: Counts, names: list[str]) -> tuple[list[str], list[str]]:
    from probe.records import hashed_block

    distinct = sorted(set(names), key=hashed_block)
    return counts["block"], distinct


def test_an_average_recall_that_equals_the_accuracy_prints_the_same_number() -> None:
    for right, other in ((n, 1135 - n) for n in range(200, 935)):  # of 1000 each: 0.5675
        truth = ["a"] * 1000 + ["b"] * 1000
        guesses = ["a"] * right + ["b"] * (1000 - right) + ["b"] * other + ["a"] * (1000 - other)
        assert value_of(class_counts(["s"] * 2000, truth, guesses, ["a", "b"]), "uar") == 0.5675


def test_intervals_of_concordance_hold_the_truth() -> None:
    """400 corpora of 12 speakers; benchmarks/coverage.py has the table."""
    generator = np.random.default_rng(9)
    held = 0
    for _ in range(400):
        speaker = np.repeat(np.arange(12), 10)
        truth = generator.normal(0, 1, 12)[speaker]
        predicted = 0.7 * truth + generator.normal(0, 0.4, 12)[speaker]
        predicted += generator.normal(0, 0.3, 120)
        counts = moment_counts([f"s{i}" for i in speaker], truth, predicted)
        ends = interval(counts, metric="ccc")
        assert ends is not None
        expected = 2 * 0.7 / (1 + 0.49 + 0.16 + 0.09)
        held += ends[0] <= expected <= ends[1]
    assert 0.9 < held / 400 < 0.99


def test_numbers_and_classes_that_cannot_be_counted_are_refused() -> None:
    with pytest.raises(ProbeError, match="not all finite; expected a true and a predicted number"):
        moment_counts(["a", "b"], [1.0, np.nan], [1.0, 2.0])
    with pytest.raises(ProbeError, match="class 'c'; expected one of the 2 classes"):
        class_counts(["a"], ["a"], ["c"], ["a", "b"])
    with pytest.raises(ProbeError, match="metric 'eer' of sums; expected one of ccc"):
        value_of(moment_counts(["a", "b"], [1.0, 2.0], [1.0, 2.0]))
