"""One-vs-rest logistic regression."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from probe.heads.linear.tagging import fit_tag_strengths

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("n_rows", "dim"), [(300, 10), (40, 60)])
def test_each_class_is_scikit_learns_logistic_regression(n_rows: int, dim: int) -> None:
    rows = RNG.standard_normal((n_rows, dim)) * np.logspace(-2, 1, dim) + 3
    labels = rows @ RNG.standard_normal((dim, 3)) / 10 + RNG.standard_normal((n_rows, 3))
    targets = (labels > np.median(labels, axis=0) + 0.5).astype(float)
    for probe in fit_tag_strengths(rows, targets, [1.0, 0.1], standardize=False):
        assert probe.converged_
        for k in range(3):
            other = LogisticRegression(
                C=1 / (probe.l2 * n_rows), solver="newton-cholesky", tol=1e-9
            )
            other.fit(rows, targets[:, k])
            odds = other.decision_function(rows)
            np.testing.assert_allclose(probe.predict(rows)[:, k], odds, atol=2e-3)


def test_soft_labels_are_rows_with_both_labels_and_their_weights() -> None:
    rows, shares = RNG.standard_normal((200, 4)), RNG.random((200, 1))
    (probe,) = fit_tag_strengths(rows, shares, [0.1], standardize=False)
    other = LogisticRegression(C=1 / (0.1 * 200), tol=1e-9, solver="newton-cholesky")
    twice = np.repeat([1, 0], 200)
    other.fit(np.vstack([rows, rows]), twice, np.concatenate([shares, 1 - shares]).ravel())
    np.testing.assert_allclose(probe.predict(rows)[:, 0], other.decision_function(rows), atol=1e-3)


def test_standardised_rows_do_not_depend_on_their_unit() -> None:
    rows, targets = RNG.standard_normal((100, 5)), RNG.integers(2, size=(100, 2))
    units = np.array([1e-3, 1.0, 1e3, 10.0, 0.1])
    one, other = (
        fit_tag_strengths(values, targets, [0.01])[0].predict(values)
        for values in (rows, rows * units)
    )
    np.testing.assert_allclose(one, other, atol=1e-3)


def test_a_class_that_all_rows_have_or_none_gets_its_share() -> None:
    targets = np.stack([np.ones(50), np.zeros(50), RNG.integers(2, size=50)], axis=1)
    (probe,) = fit_tag_strengths(RNG.standard_normal((50, 3)), targets, [0.1])
    assert not probe.coef_[:2].any()
    np.testing.assert_allclose(probe.intercept_[:2], [np.log(50.5 / 0.5), np.log(0.5 / 50.5)])
    assert probe.coef_[2].any()


@pytest.mark.parametrize(
    ("targets", "strengths", "message"),
    [
        (np.full((5, 2), 1.5), [1.0], "targets from 0 to 1"),
        (np.zeros((4, 2)), [1.0], "for 5 rows"),
        (np.zeros((5, 2)), [0.0], "all above 0"),
    ],
)
def test_wrong_input_is_refused(targets: np.ndarray, strengths: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_tag_strengths(np.zeros((5, 2)), targets, strengths)
