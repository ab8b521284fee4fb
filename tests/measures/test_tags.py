"""Metrics of several tags per utterance, and the counts of what is no function of sums."""

import json
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from probe.errors import ProbeError
from probe.measures.bootstrap import resamples
from probe.measures.counts import check_same_utterances, influence_counts, pooled_counts, value_of
from probe.measures.degradation import degradation
from probe.measures.groups import compare_groups
from probe.measures.tags import mean_average_precision, tag_f1
from probe.measures.uncertainty import interval, measure

RNG = np.random.default_rng(0)
BLOCKS = [f"speaker {i}" for i in RNG.integers(12, size=200)]
HAS_TAG = RNG.random((200, 5)) < np.array([0.5, 0.3, 0.1, 0.05, 0.0])
SCORES = (HAS_TAG + RNG.standard_normal((200, 5))).round(1)  # with ties


def sklearn_map(has_tag: np.ndarray, scores: np.ndarray) -> float:
    occurs = has_tag.any(axis=0)
    return float(average_precision_score(has_tag[:, occurs], scores[:, occurs], average="macro"))


def test_mean_average_precision_is_scikit_learns_with_ties_and_without_absent_tags() -> None:
    values = mean_average_precision(BLOCKS, HAS_TAG, SCORES)
    assert values[0] == pytest.approx(sklearn_map(HAS_TAG, SCORES), abs=1e-12)


def test_the_values_without_each_speaker_are_those_of_the_other_utterances(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = mean_average_precision(BLOCKS, HAS_TAG, SCORES)
    f1 = tag_f1(BLOCKS, HAS_TAG, SCORES >= 0.5)
    for k, name in enumerate(sorted(set(BLOCKS)), start=1):
        rest = np.array(BLOCKS) != name
        occurs = HAS_TAG[rest].any(axis=0)
        assert whole[k] == pytest.approx(sklearn_map(HAS_TAG[rest], SCORES[rest]), abs=1e-12)
        guesses = (SCORES >= 0.5)[rest][:, occurs]
        true = HAS_TAG[rest][:, occurs]
        assert f1[k] == pytest.approx(f1_score(true, guesses, average="macro", zero_division=0))
    monkeypatch.setattr("probe.measures.tags.CELLS_AT_ONCE", 300)  # a few blocks at a time
    np.testing.assert_array_equal(mean_average_precision(BLOCKS, HAS_TAG, SCORES), whole)


def test_f1_of_tags_is_scikit_learns() -> None:
    value = tag_f1(BLOCKS, HAS_TAG[:, :4], SCORES[:, :4] >= 0.5)[0]
    expected = f1_score(HAS_TAG[:, :4], SCORES[:, :4] >= 0.5, average="macro")
    assert value == pytest.approx(expected)


def counts_of(scores: np.ndarray) -> dict[str, Any]:
    values = mean_average_precision(BLOCKS, HAS_TAG, scores)
    return influence_counts(BLOCKS, HAS_TAG.sum(axis=1), values)


def test_counts_of_influences_give_value_interval_and_paired_differences() -> None:
    better, worse = counts_of(SCORES), counts_of(SCORES + 2 * RNG.standard_normal(SCORES.shape))
    assert json.loads(json.dumps(better)) == better
    value = value_of(better, "map")
    low, high = interval(better, metric="map") or (0, 0)
    assert 0 < low < value < high < 1
    without = mean_average_precision(BLOCKS, HAS_TAG, SCORES)[1:]
    error = np.sqrt(11 / 12 * np.square(without - without.mean()).sum())  # Miller 1974
    assert measure(better, "map").error == pytest.approx(error)
    check_same_utterances(better, worse)
    difference = measure(better, "map") - measure(worse, "map")
    assert difference.value == pytest.approx(value - value_of(worse, "map"))
    assert np.std(resamples(better, metric="map")) == pytest.approx(error, rel=0.15)


def test_other_utterances_cannot_be_paired_and_folds_cannot_be_pooled() -> None:
    one = counts_of(SCORES)
    other = influence_counts(
        BLOCKS, HAS_TAG[:, :2].sum(axis=1), mean_average_precision(BLOCKS, HAS_TAG, SCORES)
    )
    with pytest.raises(ProbeError, match="the two scores differ in tags"):
        check_same_utterances(one, other)
    with pytest.raises(ProbeError, match="ranks of several folds cannot be pooled"):
        pooled_counts([one, one])
    groups = compare_groups(one, ["a", "b"] * 6, higher_is_better=True, metric="map")
    assert list(groups.all) == [] and "groups are not compared" in groups.spread.note


def test_tags_of_one_speaker_only_have_a_value_and_no_interval() -> None:
    has_tag = HAS_TAG & (np.array(BLOCKS) == BLOCKS[0])[:, None]
    values = mean_average_precision(BLOCKS, has_tag, SCORES)
    counts = influence_counts(BLOCKS, has_tag.sum(axis=1), values)
    assert set(counts["influence"]) == {None}
    assert value_of(counts, "map") == values[0] > 0
    assert interval(counts, metric="map") is None


def test_a_value_that_is_undefined_has_no_counts() -> None:
    with pytest.raises(ProbeError, match="expected a value and one without each of 12 blocks"):
        influence_counts(BLOCKS, HAS_TAG.sum(axis=1), np.full(13, np.nan))


def test_a_loss_between_sets_of_other_speakers_has_an_interval() -> None:
    one, other = counts_of(SCORES), counts_of(SCORES + 2 * RNG.standard_normal(SCORES.shape))
    other["block"] = [f"{i:012x}" for i in range(12)]
    over = sorted([*one["block"], *other["block"]])
    clean, noisy = (measure(counts, "map", over) for counts in (one, other))
    loss = degradation(clean, noisy, higher_is_better=True).estimate()
    assert loss.value == pytest.approx(value_of(one, "map") - value_of(other, "map"))
    assert loss.low is not None and loss.high is not None and loss.low < loss.value < loss.high
