"""Controls whose labels are drawn several times."""

from typing import Any

import numpy as np
import pytest

from probe.evaluation.dataset import Score
from probe.evaluation.questions import DRAWS, draw_seeds, mean_of_draws
from probe.measures.comparison import paired_difference
from probe.measures.counts import as_often, ratio_counts, trial_counts

SPEAKERS = [f"s{i}" for i in range(8) for _ in range(10)]


def score(hits: np.ndarray, **fields: Any) -> Score:
    about = {"layer": "3", "split": "test", "metric": "accuracy", "select_by": "accuracy"}
    counts = ratio_counts(SPEAKERS, hits.tolist(), [1] * len(hits))
    about |= {"higher_is_better": True, "head": "linear", "counts": counts, "n": len(hits)}
    return Score(**(about | {"control": "types"} | fields))


def test_the_value_of_a_control_is_the_mean_of_its_draws() -> None:
    generator = np.random.default_rng(0)
    draws = [generator.integers(0, 2, len(SPEAKERS)) for _ in range(DRAWS)]
    (mean,) = mean_of_draws([[score(hits)] for hits in draws])
    assert mean.value == pytest.approx(np.mean(draws))
    assert (mean.n, mean.note) == (DRAWS * len(SPEAKERS), "mean of 5 draws")


def test_a_score_is_compared_with_the_mean_of_the_draws() -> None:
    generator = np.random.default_rng(1)
    draws = [generator.integers(0, 2, len(SPEAKERS)) for _ in range(DRAWS)]
    (mean,) = mean_of_draws([[score(hits)] for hits in draws])
    own = score(np.ones(len(SPEAKERS), np.int64))
    assert mean.counts is not None and own.counts is not None
    gain = paired_difference(as_often(dict(own.counts), dict(mean.counts)), dict(mean.counts))
    assert gain.difference == pytest.approx(1 - np.mean(draws))
    assert as_often(dict(own.counts), dict(own.counts)) == own.counts


def test_of_trials_the_first_draw_is_kept() -> None:
    ranks = [0.1, 0.9, 0.5]
    counts = trial_counts(["a", "b", "c"], ["b", "c", "a"], [0, 1, 0], ranks)
    one = score(np.ones(len(SPEAKERS), np.int64), metric="eer", counts=counts, n=3)
    assert list(mean_of_draws([[one]] * DRAWS)) == [one]


def test_the_first_draw_has_the_seed_of_the_run() -> None:
    assert draw_seeds(7)[0] == 7 and len(set(draw_seeds(7) + draw_seeds(8))) == 2 * DRAWS
