"""The learned sum of layers: exact weights where they are known, a gradient that is one."""

import numpy as np
import pytest

from probe.heads.linear.linear_probe import fit_strengths
from probe.heads.linear.rows import Standardizer
from probe.heads.linear.weighted_sum import fit_weighted

STRENGTHS = (0.0, 0.03, 0.1, 0.3, 0.1, 0.0)


@pytest.fixture(scope="module")
def planted() -> tuple[list[np.ndarray], np.ndarray]:
    """Layers that hold the same signal at different strengths, each under noise of its own."""
    generator = np.random.default_rng(0)
    labels = generator.integers(12, size=900)
    centres = 2 * generator.normal(size=(12, 40))
    layers = [
        centres[labels] * strength + generator.normal(size=(900, 40)) for strength in STRENGTHS
    ]
    return [layer.astype(np.float32) for layer in layers], labels.astype(str)


def test_weights_follow_the_signal_that_each_layer_holds(
    planted: tuple[list[np.ndarray], np.ndarray],
) -> None:
    layers, labels = planted
    for probe in fit_weighted(layers, labels, [1e-3, 1e-1]):
        # with equal noise the best weights are the strengths: those of the best signal-to-noise
        # ratio
        np.testing.assert_allclose(probe.shares, np.array(STRENGTHS) / sum(STRENGTHS), atol=0.06)
        assert probe.shares.sum() == pytest.approx(1)


@pytest.mark.nightly
def test_the_weights_are_a_minimum_of_the_loss(
    planted: tuple[list[np.ndarray], np.ndarray],
) -> None:
    layers, labels = planted
    (probe,) = fit_weighted(layers, labels, [1e-2])
    rows = [Standardizer.of(layer).apply(layer) for layer in layers]

    def loss(shares: np.ndarray) -> float:
        mixed = sum(
            share * values for share, values in zip(shares / shares.sum(), rows, strict=True)
        )
        mixed = mixed / np.sqrt(np.mean(np.square(mixed)))
        return fit_strengths(mixed.astype(np.float64), labels, [1e-2], standardize=False)[
            0
        ].objective_

    best = loss(probe.shares)
    assert best == pytest.approx(probe.probe.objective_, rel=1e-5)
    for layer in range(len(layers)):
        for factor in (0.5, 1.5):
            moved = probe.shares.copy()
            moved[layer] = moved[layer] * factor + (0.02 if factor > 1 else 0)
            assert loss(moved) > best - 1e-5


def test_the_sum_reads_better_than_its_best_layer(
    planted: tuple[list[np.ndarray], np.ndarray],
) -> None:
    layers, labels = planted
    train, rest = slice(0, 600), slice(600, None)
    (probe,) = fit_weighted([layer[train] for layer in layers], labels[train], [1e-1])
    together = np.mean(probe.predict([layer[rest] for layer in layers]) == labels[rest])
    single = [
        np.mean(
            fit_strengths(layer[train], labels[train], [1e-1])[0].predict(layer[rest])
            == labels[rest]
        )
        for layer in layers
    ]
    assert together > max(single)
    log_probabilities = probe.predict_log_proba([layer[rest] for layer in layers])
    np.testing.assert_allclose(np.exp(log_probabilities).sum(axis=1), 1)
