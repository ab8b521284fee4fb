"""The ridge probe: equal to scikit-learn, in blocks or not."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from probe.heads.linear.ridge import RidgeProbe, fit_ridge_strengths
from probe.heads.linear.rows import ArrayRows


def planted(n: int, dim: int, n_targets: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Rows of different scales and means, and noisy linear targets with means of their own."""
    generator = np.random.default_rng(0)
    rows = (generator.normal(size=(n, dim)) @ generator.normal(size=(dim, dim)) + 3) * np.logspace(
        -2, 2, dim
    )
    weights = np.random.default_rng(1).normal(size=(dim, n_targets or 1)) / rows.std(0)[:, None]
    targets = rows @ weights + generator.normal(size=(n, n_targets or 1)) + 20
    return rows, targets if n_targets else targets[:, 0]


@parametrize_with_checks([RidgeProbe(), RidgeProbe(0.0, standardize=False)])
def test_scikit_learn_takes_it_for_an_estimator(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("n_targets", [None, 1, 3])
@pytest.mark.parametrize(("n", "dim"), [(3000, 20), (50, 80)])
def test_equals_scikit_learn_for_every_strength(n: int, dim: int, n_targets: int | None) -> None:
    rows, targets = planted(n, dim, n_targets)
    strengths = [1.0, 1e-3, 1e-1]
    scaler = StandardScaler().fit(rows)
    for l2, probe in zip(strengths, fit_ridge_strengths(rows, targets, strengths), strict=True):
        reference = Ridge(alpha=l2 * n).fit(scaler.transform(rows), targets)
        assert probe.l2 == l2
        assert probe.coef_.shape == (*targets.shape[1:], dim)
        expected = reference.predict(scaler.transform(rows)).reshape(targets.shape)
        np.testing.assert_allclose(
            probe.predict(rows), expected, rtol=0, atol=1e-6 * np.abs(expected).max()
        )
        weights = (probe.coef_ * scaler.scale_).reshape(reference.coef_.shape)
        np.testing.assert_allclose(
            weights, reference.coef_, rtol=0, atol=1e-6 * np.abs(reference.coef_).max()
        )


def test_raw_features_stay_as_they_are() -> None:
    rows, targets = planted(400, 10)
    (probe,) = fit_ridge_strengths(rows, targets, [0.3], standardize=False)
    reference = Ridge(alpha=0.3 * 400).fit(rows, targets)
    np.testing.assert_allclose(probe.coef_, reference.coef_, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("n", "dim"), [(300, 12), (20, 50)])
def test_without_a_penalty_it_is_least_squares_of_smallest_norm(n: int, dim: int) -> None:
    rows, targets = planted(n, dim)
    rows = StandardScaler().fit_transform(
        np.hstack([rows, rows[:, :3]])
    )  # the last dimensions repeat the first
    (probe,) = fit_ridge_strengths(rows, targets, [0.0], standardize=False)
    reference = LinearRegression().fit(rows, targets)
    np.testing.assert_allclose(
        probe.coef_, reference.coef_, atol=1e-6 * np.abs(reference.coef_).max()
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("n", "dim"), [(5000, 16), (60, 90)])
def test_blocks_of_any_size_give_the_same_bits_as_an_array(n: int, dim: int, dtype: type) -> None:
    rows, targets = planted(n, dim, 2)
    rows = (rows / rows.std(0)).astype(dtype)
    expected = fit_ridge_strengths(rows, targets, [0.0, 0.1])

    class Odd:
        shape = rows.shape

        def blocks(self) -> Iterator[np.ndarray]:
            yield rows[:13]
            yield from ArrayRows(rows[13:], 777).blocks()

    for found in (
        fit_ridge_strengths(Odd(), targets, [0.0, 0.1]),
        fit_ridge_strengths(ArrayRows(rows, 31), targets, [0.0, 0.1]),
    ):
        for one, other in zip(found, expected, strict=True):
            assert np.array_equal(one.coef_, other.coef_) and np.array_equal(
                one.intercept_, other.intercept_
            )


def test_constant_dimensions_have_no_weight() -> None:
    rows, targets = planted(200, 5)
    padded = np.hstack([rows, np.full((200, 1), 0.1)])
    for l2 in (0.0, 0.1):
        (plain,), (found,) = (
            fit_ridge_strengths(rows, targets, [l2]),
            fit_ridge_strengths(padded, targets, [l2]),
        )
        np.testing.assert_allclose(found.coef_[:5], plain.coef_, rtol=1e-6)
        assert abs(found.coef_[5]) < 1e-6


def test_a_negative_strength_and_a_missing_target_are_refused() -> None:
    rows, targets = planted(20, 3)
    with pytest.raises(ValueError, match=r"0 or more\. Found -1"):
        fit_ridge_strengths(rows, targets, [1.0, -1.0])
    with pytest.raises(ValueError, match=r"each of 20 rows\. Found 19"):
        fit_ridge_strengths(rows, targets[1:], [1.0])
