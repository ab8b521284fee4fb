"""Similarity measures: identities, other people's numbers, what leaving a group out gives."""

import itertools

import numpy as np
import pytest
from scipy.special import stdtrit

from probe.errors import ProbeError
from probe.measures.representations import Estimate, Sample, compare, cosine_and_distance


def linear_cka(x: np.ndarray, y: np.ndarray) -> float | None:
    return compare(Sample(x), Sample(y), with_pwcca=False).cka.value


def pwcca(x: np.ndarray, y: np.ndarray) -> float | None:
    return compare(Sample(x), Sample(y)).pwcca.value


def rotation(dim: int, generator: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(generator.standard_normal((dim, dim)))[0]


def fixed_inputs() -> tuple[np.ndarray, np.ndarray]:
    """(200, 4) and (200, 6), centred."""
    draw = np.random.RandomState(1337)
    x = draw.randn(200, 4) @ draw.randn(4, 4)
    y = x[:, :3] @ draw.randn(3, 6) + 2 * draw.randn(200, 6)
    return x - x.mean(axis=0), y - y.mean(axis=0)


def test_cka_is_the_one_that_a_published_notebook_prints() -> None:
    # google-research/google-research at 10bf941a5a06, representation_similarity/Demo.ipynb:
    # "(Debiased): 0.51346".
    draw = np.random.RandomState(1337)
    x = draw.randn(100, 10)
    y = draw.randn(100, 10) + x
    assert linear_cka(x, y) == pytest.approx(0.51346, abs=5e-6)


def test_pwcca_is_that_of_published_implementations() -> None:
    x, y = fixed_inputs()
    # ankitapasad/layerwise-analysis at c030f2aa0213, codes/tools/cca_core.py, both epsilons 1e-12:
    # weights of the narrower side, of the second where both are equally wide.
    assert pwcca(x, y) == pytest.approx(0.6170877819467111, abs=1e-6)
    assert pwcca(y, x) == pytest.approx(0.6170877819467111, abs=1e-6)
    z = y[:, :4]
    assert pwcca(z, x) == pytest.approx(0.4967590467945161, abs=1e-6)
    assert compare(Sample(x), Sample(z)).reversed_pwcca.value == pytest.approx(
        0.4967590467945161, abs=1e-6
    )
    assert abs((pwcca(x, z) or 0) - 0.4967590467945161) > 0.05
    # google/svcca at 1f3fbf19bd31, pwcca.py, agrees where the narrower side is white.
    left, _, right = np.linalg.svd(x, full_matrices=False)
    assert pwcca(left @ right, y) == pytest.approx(0.47611849246423027, abs=1e-6)


def test_a_side_is_itself_also_when_rotated_and_scaled() -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((2000, 20)) * np.geomspace(1, 0.03, 20) + 5
    turned = 3.7 * x @ rotation(20, generator) - 2
    bounds = [0, 300, 700, 1000, 1300, 1700, 2000]
    for other in (x, turned):
        found = compare(Sample(x, bounds), Sample(other, bounds))
        for estimate in (found.cka, found.pwcca, found.reversed_pwcca):
            assert (estimate.value, estimate.low, estimate.high) == pytest.approx(
                (1, 1, 1), abs=1e-5
            )


def test_any_invertible_map_keeps_the_correlations_but_not_cka() -> None:
    generator = np.random.default_rng(1)
    x, noise = generator.standard_normal((2, 3000, 8))
    y = x + noise
    mapped = y @ (generator.standard_normal((8, 8)) + np.diag(np.geomspace(1, 30, 8)))
    assert pwcca(x, mapped) == pytest.approx(pwcca(x, y), abs=1e-5)
    cka, cka_mapped = linear_cka(x, y), linear_cka(x, mapped)
    assert cka is not None and cka_mapped is not None
    assert cka - cka_mapped > 0.1


def test_independent_data_is_near_0_where_rows_are_many() -> None:
    x, y = np.random.default_rng(2).standard_normal((2, 20_000, 20))
    found = compare(Sample(x), Sample(y))
    assert abs(found.cka.value or 9) < 0.002
    assert found.pwcca.chance == pytest.approx((20 / 19_999) ** 0.5)
    assert 0 < (found.pwcca.value or 0) < found.pwcca.chance < 0.04


def test_the_estimator_is_unbiased_where_rows_are_few() -> None:
    generator = np.random.default_rng(3)
    found = [linear_cka(*generator.standard_normal((2, 40, 60))) for _ in range(60)]
    values = np.array(found, float)
    assert abs(values.mean()) < 4 * values.std() / 60**0.5 < 0.05
    assert values.min() < 0
    x, y = generator.standard_normal((2, 40, 60))
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    biased = np.sum((x.T @ y) ** 2) / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    assert biased > 0.5


def gram_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Song et al. 2012, equation 5, with Gram matrices."""
    n = len(x)
    one, other = x @ x.T, y @ y.T
    np.fill_diagonal(one, 0)
    np.fill_diagonal(other, 0)

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        trace, sums = np.sum(k * m), k.sum() * m.sum() / ((n - 1) * (n - 2))
        return (trace + sums - 2 / (n - 2) * k.sum(axis=0) @ m.sum(axis=0)) / (n * (n - 3))

    return hsic(one, other) / (hsic(one, one) * hsic(other, other)) ** 0.5


def test_leaving_out_a_group_is_computing_without_its_rows() -> None:
    generator = np.random.default_rng(4)
    x = generator.standard_normal((150, 5)) + np.repeat(
        generator.standard_normal((3, 5)), 50, axis=0
    )
    y = np.hstack([x, x[:, :2]]) + generator.standard_normal((150, 7)) + 3
    bounds = [0, 25, 40, 70, 100, 130, 150]
    found = compare(Sample(x, bounds), Sample(y, bounds))
    without = [np.delete(np.arange(150), np.arange(*pair)) for pair in itertools.pairwise(bounds)]
    for estimate, measure in ((found.cka, gram_cka), (found.pwcca, pwcca)):
        left_out = [measure(x[rows], y[rows]) for rows in without]
        half = stdtrit(5, 0.975) * np.sqrt(5 / 6 * np.sum((left_out - np.mean(left_out)) ** 2))
        assert estimate.value == pytest.approx(measure(x, y), abs=2e-6)
        assert estimate.low == pytest.approx(max(-1, estimate.value - half), abs=2e-5)
        assert estimate.high == pytest.approx(min(1, estimate.value + half), abs=2e-5)


def test_one_group_has_no_interval() -> None:
    x, y = np.random.default_rng(5).standard_normal((2, 100, 3))
    found = compare(Sample(x), Sample(y))
    assert (found.cka.low, found.cka.high, found.pwcca.low) == (None, None, None)


def test_pwcca_is_refused_where_rows_are_few() -> None:
    x, y = np.random.default_rng(6).standard_normal((2, 79, 20))
    assert compare(Sample(x), Sample(y)).pwcca == Estimate(None)
    assert compare(Sample(x), Sample(y)).cka.value is not None
    x, y = np.random.default_rng(6).standard_normal((2, 80, 20))
    assert compare(Sample(x), Sample(y)).pwcca.value is not None


def test_the_rounding_of_repeated_columns_is_no_direction() -> None:
    x, y = fixed_inputs()
    rounding = 1e-4 * np.random.default_rng(8).standard_normal((200, 6))
    assert pwcca(x, np.hstack([y, y + rounding])) == pytest.approx(pwcca(x, y), abs=1e-3)


def test_what_does_not_vary_has_no_similarity() -> None:
    x = np.random.default_rng(7).standard_normal((50, 3))
    found = compare(Sample(x), Sample(np.full((50, 3), 2.0)))
    assert (found.cka, found.pwcca) == (Estimate(None), Estimate(None))


def test_cosine_and_distance_of_known_rows() -> None:
    clean = np.array([[1.0, 0], [1, 0], [3, 4], [0, 0], [1, 1]])
    disturbed = np.array([[2.0, 0], [0, 1], [-3, -4], [1, 1], [0, 0]])
    cosine, distance = cosine_and_distance(clean, disturbed)
    assert cosine[:3] == pytest.approx([1, 0, -1])
    assert np.isnan(cosine[3:]).all()
    assert distance == pytest.approx([1, 2**0.5, 2, np.nan, 1], nan_ok=True)


def test_half_precision_does_not_overflow() -> None:
    clean = np.full((2, 1000), 3e4, np.float16)
    cosine, distance = cosine_and_distance(clean, -clean)
    assert cosine == pytest.approx([-1, -1])
    assert distance == pytest.approx([2, 2])


@pytest.mark.parametrize(
    ("x", "y", "bounds", "message"),
    [
        (np.zeros((5, 2)), np.zeros((6, 2)), [], "5 and 6 rows"),
        (np.zeros((3, 2)), np.zeros((3, 2)), [], "3 rows: expected 4"),
        (np.full((5, 2), np.nan), np.zeros((5, 2)), [], "not finite"),
        (np.zeros((5, 2)), np.zeros((5, 2)), [0, 4], "bounds from 0 to the last row"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    x: np.ndarray, y: np.ndarray, bounds: list[int], message: str
) -> None:
    with pytest.raises(ProbeError, match=message):
        compare(Sample(x, bounds), Sample(y, bounds))
