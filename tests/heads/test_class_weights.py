"""Class weights and heads of numbers, against scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils.class_weight import compute_sample_weight

from probe.heads.linear.linear_probe import Solving, balanced_weights, fit_strengths
from probe.heads.linear.ridge import fit_ridge
from probe.heads.linear.weighted_sum import fit_weighted, logistic_head, ridge_head


def rare(n_classes: int, n: int = 200, dim: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Rows and labels, of which one class in ten rows is none of the first."""
    generator = np.random.default_rng(n_classes)
    labels = np.where(generator.random(n) < 0.1, generator.integers(1, n_classes, n), 0)
    rows = generator.standard_normal((n_classes, dim))[labels]
    return rows + 1.5 * generator.standard_normal((n, dim)), labels


def test_balanced_weights_are_scikit_learn_s() -> None:
    _, labels = rare(4)
    assert balanced_weights(labels) == pytest.approx(compute_sample_weight("balanced", labels))


@pytest.mark.parametrize("n_classes", [2, 4])
def test_balanced_probes_are_scikit_learn_s(n_classes: int) -> None:
    rows, labels = rare(n_classes)
    solving = Solving(class_weight="balanced", tol=1e-12)
    for probe in fit_strengths(rows, labels, [1e-3, 1e-1], False, solving):
        other = LogisticRegression(
            C=1 / (probe.l2 * len(rows)), class_weight="balanced", tol=1e-10, max_iter=10_000
        ).fit(rows, labels)
        assert probe.predict_proba(rows) == pytest.approx(other.predict_proba(rows), abs=1e-5)
        (plain,) = fit_strengths(rows, labels, [probe.l2], False)
        assert np.abs(plain.predict_proba(rows) - probe.predict_proba(rows)).max() > 0.1


@pytest.mark.parametrize("shape", [(60, 20), (20, 60)])
def test_a_ridge_of_one_strength_is_scikit_learn_s(shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    rows, targets = generator.standard_normal(shape) + 3, generator.standard_normal(shape[0])
    probe = fit_ridge(rows, targets, 0.1)
    other = Ridge(alpha=0.1 * len(rows)).fit(rows, targets)
    assert probe.predict(rows) == pytest.approx(other.predict(rows), abs=1e-9)
    assert probe.coef_ == pytest.approx(other.coef_, abs=1e-9)


def test_a_sum_of_layers_finds_the_layer_of_the_numbers() -> None:
    generator = np.random.default_rng(1)
    layers = [generator.standard_normal((300, 8)) for _ in range(3)]
    numbers = 40 + 10 * layers[1][:, 0] + generator.standard_normal(300)
    (probe,) = fit_weighted(layers, numbers, [1e-2], ridge_head(numbers))
    assert probe.shares[1] > 0.8
    assert np.corrcoef(probe.predict(layers), numbers)[0, 1] > 0.95
    (scaled,) = fit_weighted(layers, 100 * numbers, [1e-2], ridge_head(100 * numbers))
    assert scaled.shares == pytest.approx(probe.shares, abs=1e-3)


@pytest.mark.parametrize("kind", ["ridge", "balanced"])
def test_the_gradient_of_a_head_is_that_of_its_loss(kind: str) -> None:
    """By the rows: a small move of one number changes the loss as the gradient says."""
    generator = np.random.default_rng(2)
    rows = generator.standard_normal((40, 5))
    labels = (rows[:, 0] + generator.standard_normal(40) > 1).astype(int)
    numbers = rows[:, 0] * 3 + generator.standard_normal(40)
    head, truth = ridge_head(numbers), numbers
    if kind == "balanced":
        head, truth = logistic_head(Solving(class_weight="balanced", tol=1e-14)), labels
    probe, _ = head.fit(rows, truth, 0.1, None)
    by_rows = head.errors(probe, rows, truth) @ np.atleast_2d(probe.coef_)
    moved = [rows.copy(), rows.copy()]
    moved[0][7, 0] += 1e-4
    moved[1][7, 0] -= 1e-4
    slope = (
        head.fit(moved[0], truth, 0.1, None)[1] - head.fit(moved[1], truth, 0.1, None)[1]
    ) / 2e-4
    assert slope == pytest.approx(by_rows[7, 0], rel=1e-3, abs=1e-8)
