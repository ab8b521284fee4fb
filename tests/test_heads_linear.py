"""The linear probe: equal to scikit-learn, learns what is planted, stays at chance on shuffled labels."""

from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from probe.heads.linear import LinearProbe, fit_strengths
from probe.heads.speakers import DiscriminantProjection
from probe.heads.standardize import Standardizer


def planted(n: int, dim: int, n_classes: int, seed: int = 0, distance: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian classes around random centres, on features of very different scales."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((n_classes, dim)) * distance
    labels = generator.integers(n_classes, size=n)
    scales = 10.0 ** np.linspace(-3, 3, dim)
    return (centres[labels] + generator.standard_normal((n, dim))) * scales + 5 * scales, labels


@pytest.mark.parametrize(("n", "dim"), [(300, 20), (60, 200)])
@pytest.mark.parametrize("n_classes", [2, 5])
def test_equals_scikit_learn_at_the_same_penalty(n: int, dim: int, n_classes: int) -> None:
    rows, labels = planted(n, dim, n_classes, distance=0.3)
    l2 = 0.01
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (l2 * n), tol=1e-8, max_iter=10_000)).fit(rows, labels)
    probe = LinearProbe(l2, tol=1e-8, max_iter=10_000).fit(rows, labels)
    np.testing.assert_allclose(probe.predict_proba(rows), reference.predict_proba(rows), atol=2e-4)


def objective(probe: Any, rows: np.ndarray, labels: np.ndarray, l2: float) -> float:
    """What is minimised, from weights (class, dim) on the rows as they are."""
    weights = np.vstack([-probe.coef_ / 2, probe.coef_ / 2]) if len(probe.coef_) == 1 else probe.coef_
    bias = np.append(-probe.intercept_ / 2, probe.intercept_ / 2) if len(probe.coef_) == 1 else probe.intercept_
    logits = rows @ weights.T + bias
    likelihood = logits[np.arange(len(rows)), np.searchsorted(probe.classes_, labels)] - logsumexp(logits, axis=1)
    return float(-likelihood.mean() + 0.5 * (2 * l2 if len(probe.classes_) == 2 else l2) * np.square(weights).sum())


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_classes", [2, 7])
@pytest.mark.parametrize(("n", "dim"), [(2000, 40), (150, 400)])
def test_the_objective_and_the_predictions_are_scikit_learns(n: int, dim: int, n_classes: int, dtype: type) -> None:
    rows, labels = planted(n, dim, n_classes, distance=0.15)
    unseen, _ = planted(3000, dim, n_classes, seed=5, distance=0.15)
    scaler = StandardScaler().fit(rows)
    rows, unseen = scaler.transform(rows), scaler.transform(unseen)
    strengths = [1.0, 1e-3, 1e-2]
    ours = fit_strengths(rows.astype(dtype), labels, strengths, standardize=False)
    for l2, probe in zip(strengths, ours, strict=True):
        reference = LogisticRegression(C=1 / (l2 * n), tol=1e-8, max_iter=10_000).fit(rows, labels)
        expected = objective(reference, rows, labels, l2)
        assert probe.objective_ <= expected * (1 + (1e-6 if dtype is np.float64 else 1e-5))
        assert objective(probe, rows, labels, l2) == pytest.approx(probe.objective_, rel=1e-5)
        assert np.mean(probe.predict(unseen) == reference.predict(unseen)) >= 0.999


def test_ill_conditioned_rows_take_few_iterations() -> None:
    rows, labels = planted(3000, 60, 5, distance=0.2)
    mixed = (rows / rows.std(0)) * np.logspace(0, -3, 60) @ np.linalg.qr(np.random.default_rng(3).normal(size=(60, 60)))[0]
    (probe,) = fit_strengths(mixed, labels, [1e-5], standardize=False)
    reference = LogisticRegression(C=1 / (1e-5 * 3000), tol=1e-10, max_iter=50_000).fit(mixed, labels)
    assert probe.objective_ <= objective(reference, mixed, labels, 1e-5) * (1 + 1e-6)
    assert probe.n_iter_ < 60 < reference.n_iter_[0]


@parametrize_with_checks([LinearProbe()])
def test_scikit_learn_takes_it_for_an_estimator(estimator: Any, check: Any) -> None:
    check(estimator)


def test_penalty_strength_means_the_same_for_twice_the_rows() -> None:
    rows, labels = planted(100, 10, 3)
    once = LinearProbe(0.1, tol=1e-8).fit(rows, labels)
    twice = LinearProbe(0.1, tol=1e-8).fit(np.vstack([rows, rows]), np.concatenate([labels, labels]))
    np.testing.assert_allclose(once.predict_proba(rows), twice.predict_proba(rows), atol=1e-4)


def test_a_path_of_strengths_equals_single_fits() -> None:
    rows, labels = planted(80, 120, 4)
    strengths = [1e-3, 1.0, 1e-1]
    for l2, fitted in zip(strengths, fit_strengths(rows, labels, strengths, tol=1e-8), strict=True):
        assert fitted.l2 == l2
        alone = LinearProbe(l2, tol=1e-8).fit(rows, labels)
        np.testing.assert_allclose(fitted.predict_proba(rows), alone.predict_proba(rows), atol=2e-3)


def test_learns_a_planted_signal_and_not_shuffled_labels() -> None:
    rows, labels = planted(600, 30, 6)
    unseen, truth = planted(600, 30, 6, seed=1)
    assert LinearProbe(1e-2).fit(rows, labels).score(unseen, truth) > 0.95
    shuffled = np.random.default_rng(0).permutation(labels)
    chance, error = 1 / 6, 3 * np.sqrt(1 / 6 * 5 / 6 / 600)
    assert abs(LinearProbe(1e-2).fit(rows, shuffled).score(unseen, truth) - chance) < 2 * error


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 classes"):
        LinearProbe().fit(np.ones((4, 2)), ["a"] * 4)


def test_raw_features_stay_as_they_are() -> None:
    rows, labels = planted(100, 6, 3)
    probe = LinearProbe(0.1, standardize=False, max_iter=20_000, tol=1e-6).fit(rows / rows.std(), labels)
    reference = LogisticRegression(C=1 / (0.1 * 100), max_iter=20_000, tol=1e-6).fit(rows / rows.std(), labels)
    np.testing.assert_allclose(probe.predict_proba(rows / rows.std()), reference.predict_proba(rows / rows.std()), atol=1e-3)


def test_standardizer_uses_float64_statistics_and_keeps_constant_dimensions() -> None:
    rows = np.array([[1e4 + 1, 7.0], [1e4 - 1, 7.0]], np.float32).repeat(5000, axis=0)
    applied = Standardizer.of(rows, chunk_rows=999).apply(rows)
    np.testing.assert_allclose(applied[:, 0].std(), 1.0, rtol=1e-3)
    np.testing.assert_allclose(applied[:, 1], 0.0)


def test_lda_finds_the_speaker_directions_under_loud_nuisance() -> None:
    generator = np.random.default_rng(0)
    speakers = np.repeat(np.arange(20), 8)
    identity = np.random.default_rng(1).standard_normal((20, 5))[speakers]
    nuisance = 20 * generator.standard_normal((len(speakers), 5))
    rows = np.hstack([identity + 0.3 * generator.standard_normal(identity.shape), nuisance])
    projected = DiscriminantProjection.fit(rows, [f"s{speaker}" for speaker in speakers]).apply(rows)[:, :5]
    within = np.mean([projected[speakers == speaker].var(axis=0).sum() for speaker in range(20)])
    assert within < 0.2 * projected.var(axis=0).sum()
