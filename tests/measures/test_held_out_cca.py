"""CCA of held-out rows: the published protocol, values of noise, and planted labels."""

import numpy as np
import pytest

from probe.errors import ProbeError
from probe.measures.held_out_cca import (
    N_PARTS,
    N_TRIALS,
    HeldOutSide,
    HeldOutValue,
    held_out_cca,
    parts_of,
)
from probe.measures.representations import Estimate, Sample, compare
from probe.measures.units import held_out_information

N = 1200
BOUNDS = list(range(0, N + 1, N // 8))


def sides(x: np.ndarray, y: np.ndarray) -> tuple[HeldOutSide, HeldOutSide]:
    parts = parts_of([""] * len(x), seed=0)
    bounds = [round(share * len(x)) for share in np.linspace(0, 1, 9)]
    return HeldOutSide(Sample(x, bounds), parts), HeldOutSide(Sample(y, bounds), parts)


def related(width: int, other: int, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Two sets that share four directions, columns of unequal scale and a mean."""
    generator = np.random.default_rng(3)
    shared = generator.standard_normal((N, 4))
    x, y = (
        shared @ generator.standard_normal((4, dim)) + noise * generator.standard_normal((N, dim))
        for dim in (width, other)
    )
    return x * np.geomspace(1, 5, width) + 3, y - 1


def published_cca(train: tuple, test: tuple, epsilon: float) -> tuple[float, float]:
    """The PWCCA that Pasad et al.'s protocol reports for one trial, weighted by each side; written
    from the description of google/svcca's algorithm: full covariance, scaled to a largest entry of
    1, symmetric inverse roots, singular vectors, QR of the variates of the scored rows.
    """
    n_x = train[0].shape[1]
    covariance = np.cov(np.hstack(train).T)
    xx, yy, xy = covariance[:n_x, :n_x], covariance[n_x:, n_x:], covariance[:n_x, n_x:]
    scales = np.abs(xx).max(), np.abs(yy).max()

    def inverse_root(matrix: np.ndarray, scale: float) -> np.ndarray:
        values, vectors = np.linalg.eigh(matrix / scale + epsilon * np.eye(len(matrix)))
        return vectors @ np.diag(values**-0.5) @ vectors.T

    roots = [inverse_root(matrix, scale) for matrix, scale in zip((xx, yy), scales, strict=True)]
    left, _, right = np.linalg.svd(roots[0] @ (xy / np.sqrt(scales[0] * scales[1])) @ roots[1])
    n = min(len(xx), len(yy))
    maps = [(left.T @ roots[0])[:n], (right @ roots[1])[:n]]
    centred = [rows - rows.mean(axis=0) for rows in test]
    variates = [along @ rows.T for along, rows in zip(maps, centred, strict=True)]
    correlations = [np.corrcoef(one, other)[0, 1] for one, other in zip(*variates, strict=True)]
    values = []
    for own, rows in zip(variates, centred, strict=True):
        weights = np.abs(np.linalg.qr(own.T)[0].T @ rows).sum(axis=1)
        values.append(float(weights @ correlations / weights.sum()))
    return values[0], values[1]


def test_the_value_is_that_of_the_published_protocol() -> None:
    x, y = related(7, 5)
    for one, other, weighted_by in ((x, y, 1), (y, x, 0), (x[:, :5], y, 0)):
        own, another = sides(one, other)
        trials = []
        for trial in range(N_TRIALS):
            dev, test = 2 * trial, 2 * trial + 1
            train = ~np.isin(own.parts, (dev, test))
            rows = [(one[chosen], other[chosen]) for chosen in (train, own.parts == test)]
            trials.append(published_cca(rows[0], rows[1], 1e-10))
        first, turned = held_out_cca(own, another, epsilons=[1e-10])
        values = np.mean(trials, axis=0)
        assert first.estimate.value == pytest.approx(values[weighted_by], abs=1e-5)
        expected = values[1 if one.shape == other.shape else weighted_by]
        assert turned.estimate.value == pytest.approx(expected, abs=1e-5)


def test_in_sample_pwcca_is_the_same_algorithm_on_its_own_rows() -> None:
    x, y = related(7, 5)
    reference = published_cca((x, y), (x, y), 0.0)
    assert compare(Sample(x), Sample(y)).pwcca.value == pytest.approx(reference[1], abs=1e-5)
    z = x[:, :5]
    found, reference = compare(Sample(z), Sample(y)), published_cca((z, y), (z, y), 0.0)
    assert found.pwcca.value == pytest.approx(reference[0], abs=1e-5)
    assert found.reversed_pwcca.value == pytest.approx(reference[1], abs=1e-5)
    assert abs(reference[0] - reference[1]) > 1e-3


def google_pwcca(x: np.ndarray, y: np.ndarray, whitened: bool) -> float:
    """The algorithm of google/svcca (cca_core.py, pwcca.py) for centred data, X the narrower side.
    Its pwcca.py takes the variates as rotations of X that was not whitened; its cca_core.py returns
    the whitened ones as the directions of CCA, and those are the paper's.
    """
    covariance = np.cov(np.hstack([x, y]).T)
    n = x.shape[1]
    roots = [
        vectors @ np.diag(values**-0.5) @ vectors.T
        for values, vectors in map(np.linalg.eigh, (covariance[:n, :n], covariance[n:, n:]))
    ]
    left, correlations, _ = np.linalg.svd(roots[0] @ covariance[:n, n:] @ roots[1])
    variates = left.T @ (roots[0] if whitened else np.eye(n)) @ x.T
    weights = np.abs(np.linalg.qr(variates.T)[0].T @ x).sum(axis=1)
    return float(weights @ correlations / weights.sum())


def test_pwcca_is_that_of_google_with_the_directions_of_the_paper() -> None:
    y, x = (side - side.mean(axis=0) for side in related(7, 5))
    found = compare(Sample(x), Sample(y)).pwcca.value
    assert found == pytest.approx(google_pwcca(x, y, whitened=True), abs=1e-5)
    assert found != pytest.approx(google_pwcca(x, y, whitened=False), abs=1e-3)
    left, _, right = np.linalg.svd(x, full_matrices=False)
    white = left @ right
    found = compare(Sample(white), Sample(y)).pwcca.value
    assert found == pytest.approx(google_pwcca(white, y, whitened=False), abs=1e-5)


def test_noise_has_a_held_out_value_near_0_where_the_in_sample_value_is_high() -> None:
    x, y = np.random.default_rng(0).standard_normal((2, N, 60))
    one, other = sides(x, y[:, :10])
    found = held_out_cca(one, other)[0].estimate
    in_sample = compare(one.sample, other.sample).pwcca.value
    assert in_sample is not None and in_sample > 0.15
    assert found.low is not None and found.high is not None
    assert found.low < 0.0 < found.high and abs(found.value or 9) < 0.05


def test_a_side_is_itself_and_the_narrower_side_decides() -> None:
    x, _ = related(12, 3)
    one, other = sides(x, x @ np.random.default_rng(1).standard_normal((12, 12)) + 5)
    for result in held_out_cca(one, other):
        assert result.estimate.value == pytest.approx(1, abs=1e-3)
        assert result.estimate.low == pytest.approx(1, abs=1e-2)
    part, whole = sides(x[:, :3], x)
    assert held_out_cca(part, whole)[0].estimate.value == pytest.approx(1, abs=1e-3)


def test_dev_chooses_more_regularisation_where_rows_are_few() -> None:
    generator = np.random.default_rng(5)
    shared = generator.standard_normal((300, 3))
    x = np.hstack([3 * shared, generator.standard_normal((300, 150))])
    one, other = sides(x, shared + 0.3 * generator.standard_normal((300, 3)))
    free = held_out_cca(one, other)[0]
    fixed = held_out_cca(one, other, epsilons=[1e-10])[0]
    assert min(free.epsilons) >= 1e-2
    assert free.estimate.value is not None and fixed.estimate.value is not None
    assert free.estimate.value > fixed.estimate.value + 0.05
    assert len(free.epsilons) == N_TRIALS


def test_every_label_is_in_every_part() -> None:
    labels = [*["a"] * 10, *["b"] * 37, *["c"] * 13]
    parts = parts_of(labels, seed=4)
    for label in "abc":
        counts = np.bincount(parts[np.array(labels) == label], minlength=N_PARTS)
        assert counts.max() - counts.min() <= 1
    assert (parts == parts_of(labels, seed=4)).all()
    assert (parts != parts_of(labels, seed=5)).any()


def test_no_value_where_a_side_does_not_vary_or_parts_are_too_small() -> None:
    x = np.random.default_rng(7).standard_normal((100, 12))
    nothing = HeldOutValue(Estimate(None))
    assert held_out_cca(*sides(x[:, :2], np.ones((100, 2)))) == (nothing, nothing)
    assert held_out_cca(*sides(x, x)) == (nothing, nothing)
    assert held_out_cca(*sides(x, x[:, :9]))[0].estimate.value is not None
    one, _ = sides(x, x)
    other = HeldOutSide(one.sample, one.parts[::-1].copy())
    with pytest.raises(ProbeError, match="other parts"):
        held_out_cca(one, other)
    with pytest.raises(ProbeError, match="100 rows and 99 parts"):
        HeldOutSide(one.sample, one.parts[1:])


def test_units_of_planted_labels_say_them_and_units_of_noise_say_chance() -> None:
    generator = np.random.default_rng(6)
    labels = np.repeat(list("abcd"), N // 4)[generator.permutation(N)]
    means = dict(zip("abcd", 6 * generator.standard_normal((4, 5)), strict=True))
    noise = generator.standard_normal((N, 5))
    planted = noise + np.stack([means[label] for label in labels])
    parts = parts_of(labels.tolist(), seed=0)
    found = held_out_information(planted, labels.tolist(), parts, 12, BOUNDS, seed=0)
    assert found.value is not None and found.value > 0.95
    found = held_out_information(noise, labels.tolist(), parts, 12, BOUNDS, seed=0)
    assert found.value is not None and found.low is not None and found.chance is not None
    assert found.low < found.chance < 0.1
    assert abs(found.value - found.chance) < 0.02
