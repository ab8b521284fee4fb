"""The model confidence set: the published procedure step by step and beside the package arch, its
level and its power.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from exhaustive import mostly_nightly

from probe.errors import ProbeError
from probe.measures.bootstrap import block_weights
from probe.measures.confidence_set import confidence_set, model_confidence_set
from probe.measures.counts import Counts, several


def benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_of_sets", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there for annotations
    spec.loader.exec_module(module)
    return module


coverage = benchmark()


def counts_of(numerator: list[int], each: int = 20) -> Counts:
    names = [f"s{i}" for i in range(len(numerator))]
    return {"block": names, "numerator": numerator, "denominator": [each] * len(names)}


def differences(losses: np.ndarray, resampled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(model, model) of losses and (resample, model, model) of their moves, as sizes."""
    drawn = resampled[:, :, None] - resampled[:, None, :]
    return losses[:, None] - losses, np.abs(drawn)


def test_p_values_are_those_of_the_published_procedure() -> None:
    """With a plain loop over the models that are left."""
    generator = np.random.default_rng(0)
    losses = generator.normal(0.3, 0.02, 5) + generator.normal(0, 0.2, (30, 1))
    losses = losses + generator.normal(0, 0.1, (30, 5))
    weights = np.concatenate(list(block_weights(30, 0, 500)))
    mean = losses.mean(axis=0)
    resampled = weights @ losses / 30
    expected, left, largest = np.ones(5), [0, 1, 2, 3, 4], 0.0
    while len(left) > 1:
        t, most_drawn = {}, np.zeros(500)
        for i in left:
            for j in set(left) - {i}:
                t[i, j] = mean[i] - mean[j]
                drawn = resampled[:, i] - resampled[:, j] - t[i, j]
                most_drawn = np.maximum(most_drawn, np.abs(drawn))
        largest = max(largest, np.mean(most_drawn >= max(t.values())))
        worst = max(t, key=lambda pair: t[pair])[0]
        expected[worst] = largest
        left.remove(worst)
    assert model_confidence_set(*differences(mean, resampled - mean)) == pytest.approx(expected)


@pytest.mark.parametrize("n_models", [2, 4, 9])
def test_p_values_of_the_set_are_those_of_arch(n_models: int) -> None:
    """With arch's own resamples and its statistic T_R, blocks of one point."""
    reason = "the package arch is not installed (pip install arch)"
    multiple = pytest.importorskip("arch.bootstrap", reason=reason)
    generator = np.random.default_rng(n_models)
    losses = generator.normal(0.3, 0.05, n_models) + generator.normal(0, 0.2, (40, 1))
    losses = losses + generator.normal(0, 0.1, (40, n_models))
    arch = multiple.MCS(
        losses, size=0.05, reps=500, block_size=1, method="R", bootstrap="circular", seed=1
    )
    arch.compute()
    mean = losses.mean(axis=0)
    resampled = np.stack([losses[drawn].mean(axis=0) for drawn in arch._bootstrap_indices]) - mean
    expected = arch.pvalues["Pvalue"].sort_index().to_numpy()
    assert len(set(expected)) >= min(n_models, 3)  # several steps of removal
    gaps, drawn = differences(mean, resampled)
    errors = np.sqrt(np.square(drawn).mean(axis=0)) + np.eye(n_models)
    found = model_confidence_set(gaps / errors, drawn / errors)
    assert found == pytest.approx(expected, abs=1e-12)


def test_bad_models_do_not_keep_each_other_in_the_set() -> None:
    """Two good ones and five that are 15 points worse."""
    good = coverage.accuracy(np.random.default_rng(1), 40, 2).counts
    bad = coverage.accuracy(np.random.default_rng(1), 40, 7, gap=0.15).counts[-1]
    p = confidence_set([*good, *[bad] * 5], "accuracy")
    assert max(p[2:]) <= 0.05 < max(p[:2])


@pytest.mark.parametrize("n_models", mostly_nightly([3, 12], [3]))
def test_an_equally_good_model_is_seldom_left_out(n_models: int) -> None:
    left_out, _ = coverage.left_out_of_set(12, n_models, 200)
    assert left_out <= 0.06 + 2.6 * np.sqrt(0.06 * 0.94 / 200)


def test_a_worse_model_is_left_out_and_equal_ones_stay() -> None:
    _, power = coverage.left_out_of_set(40, 5, 60, gap=0.15)
    assert power > 0.9
    corpus = coverage.accuracy(np.random.default_rng([3, 5]), 40, 5, gap=0.3)
    p = confidence_set([corpus.counts[index] for index in (4, 0, 1)], "accuracy")
    assert p[0] <= 0.05 and min(p[1:]) > 0.05


def test_the_pooled_degrees_of_freedom_find_a_worse_one_of_ten() -> None:
    """Those of a single score would find it in 15 % of corpora of 12 speakers, not in 42 %."""
    _, power = coverage.left_out_of_set(12, 10, 100, gap=0.1)
    assert power > 0.28


def test_the_best_of_errors_is_the_lowest() -> None:
    good, bad = (
        counts_of([2, 1, 3, 2, 1, 2, 0, 1, 2, 1]),
        counts_of([12, 11, 9, 14, 8, 12, 10, 13, 9, 10]),
    )
    assert (
        confidence_set([bad, good], "wer")[1] == 1 and confidence_set([bad, good], "wer")[0] < 0.01
    )
    assert confidence_set([bad, good], "accuracy")[0] == 1


def test_with_too_few_blocks_or_one_score_all_are_in() -> None:
    assert confidence_set([counts_of([1, 2, 1]), counts_of([20, 19, 20])], "accuracy") == [1, 1]
    assert confidence_set([counts_of([12, 15, 9, 18, 10, 11])], "accuracy") == [1]


def test_one_utterance_of_a_thousand_tells_no_models_apart() -> None:
    almost = [20] * 49 + [19]
    assert min(confidence_set([counts_of([20] * 50), counts_of(almost)], "accuracy")) > 0.05


def test_scores_of_other_utterances_are_refused() -> None:
    with pytest.raises(ProbeError, match=r"differ in denominator.*on the same utterances"):
        confidence_set([counts_of([1, 2, 3, 4]), counts_of([1, 2, 3, 4], each=21)], "accuracy")


def test_seeds_that_differ_widen_the_set() -> None:
    good = [16, 17, 15, 18, 16, 17, 15, 18, 16, 17]
    bad = [n - 2 for n in good]
    steady = confidence_set([several([counts_of(x)] * 3) for x in (good, bad)], "accuracy")
    moved = [[n + shift for n in bad] for shift in (-5, 0, 4)]
    unsteady = [several([counts_of(good)] * 3), several([counts_of(x) for x in moved])]
    assert steady[1] <= 0.05 < confidence_set(unsteady, "accuracy")[1]
