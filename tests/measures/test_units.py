"""Purity and PNMI equal their definitions and scikit-learn; neighbours are of other speakers."""

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score
from sklearn.neighbors import KNeighborsClassifier

from probe.measures.neighbours import neighbour_labels
from probe.measures.units import fit_units, score_units


def test_the_measures_of_a_small_table_are_those_computed_by_hand() -> None:
    labels = ["a"] * 4 + ["b"] * 2
    scores = score_units(np.array([7, 7, 7, 9, 9, 9]), labels)
    assert scores.phone_hits.sum() == 3 + 2  # a of unit 7, b of unit 9
    assert scores.cluster_hits.sum() == 3 + 2
    assert score_units(np.array([1, 1, 1, 1, 0, 0]), labels).information.mean() == pytest.approx(1)
    assert score_units(np.zeros(6, int), labels).information == pytest.approx(0)
    assert score_units(np.arange(6), ["a"] * 6).information == pytest.approx(0)


def test_the_mean_information_is_mutual_information_over_entropy() -> None:
    generator = np.random.default_rng(1)
    labels = generator.choice(list("abcdef"), 3000, p=[0.4, 0.2, 0.2, 0.1, 0.05, 0.05])
    units = (np.char.count(labels, "a") * 3 + generator.integers(0, 9, 3000)).astype(np.int64)
    scores = score_units(units, labels.tolist())
    entropy = mutual_info_score(labels, labels)
    assert scores.information.mean() == pytest.approx(mutual_info_score(labels, units) / entropy)
    assert (scores.information >= 0).all()
    table = np.array([[np.sum((units == z) & (labels == y)) for y in "abcdef"] for z in range(12)])
    assert scores.phone_hits.sum() == table.max(axis=1).sum()
    assert scores.cluster_hits.sum() == table.max(axis=0).sum()


def test_units_find_separate_clouds_and_repeat_with_the_seed() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 500)
    rows = 8 * np.eye(4)[labels] + generator.standard_normal((500, 4))
    units = fit_units(rows, 4, seed=3).predict(rows.astype(np.float32))
    assert score_units(units, labels.astype(str).tolist()).information.mean() > 0.95
    again = fit_units(rows, 4, seed=3).predict(rows.astype(np.float32))
    assert (units == again).all()


def test_neighbours_of_the_same_speaker_are_left_out() -> None:
    generator = np.random.default_rng(5)
    references, queries = generator.standard_normal((40, 6)), generator.standard_normal((12, 6))
    labels = generator.choice(list("xyz"), 40)
    known, asked = np.array(["p", "q", "r", "s"] * 10), np.array(["p", "q", "t"] * 4)
    answers = neighbour_labels(references, labels, queries, (known, asked), [1, 3, 99])
    for k, found in answers.items():
        for i, answer in enumerate(found):
            others = known != asked[i]
            model = KNeighborsClassifier(min(k, others.sum()), metric="cosine", algorithm="brute")
            expected = model.fit(references[others], labels[others]).predict(queries[[i]])
            assert answer == expected[0]
    alone = neighbour_labels(references[:1], labels[:1], queries[:1], (known[:1], known[:1]), [1])
    assert alone[1].tolist() == [""]
