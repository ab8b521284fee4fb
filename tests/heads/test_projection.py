"""Projections to a common width: what they keep, what is equal for every model, what is refused."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from probe.errors import ProbeError
from probe.heads.linear.projection import Projection, fit_projection, orthonormal


def fitted(rows: np.ndarray, how: str = "pca", width: int = 4, seed: int = 0) -> Projection:
    return fit_projection(how, width, seed, len(rows), rows.mean(axis=0), np.cov(rows.T, bias=True))


def test_principal_components_are_those_of_sklearn() -> None:
    rows = np.random.default_rng(0).normal(5, np.arange(1, 13), (200, 12))
    projection, reference = fitted(rows), PCA(4, svd_solver="full").fit(rows)
    found, expected = projection.apply(rows), reference.transform(rows)
    assert np.abs(found) == pytest.approx(np.abs(expected), rel=1e-3, abs=1e-3)
    assert projection.variance == pytest.approx(reference.explained_variance_ratio_.sum())
    largest = projection.weights[np.abs(projection.weights).argmax(axis=0), range(4)]
    assert (largest > 0).all()


def test_a_planted_direction_is_kept() -> None:
    generator = np.random.default_rng(1)
    signal = np.repeat([-1.0, 1.0], 100)
    rows = generator.standard_normal((200, 64)) + 4 * np.outer(signal, orthonormal(64, 1, 0))
    first = fitted(rows, width=1).apply(rows)[:, 0]
    assert abs(np.corrcoef(first, signal)[0, 1]) > 0.95


@pytest.mark.parametrize("dim", [768, 1024])
def test_a_random_projection_keeps_distances_on_average_whatever_the_width(dim: int) -> None:
    rows = np.random.default_rng(2).standard_normal((40, dim)) + 100
    mapped = fitted(rows, "random", 256).apply(rows).astype(np.float64)
    assert mapped.shape == (40, 256)
    pairs = np.triu_indices(40, 1)
    squares = [np.square(x[pairs[0]] - x[pairs[1]]).sum(axis=1) for x in (mapped, rows)]
    ratio = squares[0] / squares[1]
    assert ratio.mean() == pytest.approx(1, abs=0.03)
    assert ratio.std() < 0.15


def test_a_random_projection_looks_at_no_data_and_its_seed_decides() -> None:
    generator = np.random.default_rng(3)
    one, other = (fitted(generator.standard_normal((20, 16)) + i, "random") for i in range(2))
    assert (one.weights == other.weights).all() and not one.mean.any()
    assert not np.allclose(
        one.weights, fitted(generator.standard_normal((20, 16)), "random", seed=1).weights
    )
    assert orthonormal(16, 16, 0).T @ orthonormal(16, 16, 0) == pytest.approx(np.eye(16), abs=1e-12)
    # Not turned by a library's choice of signs: each column to the side of its Gaussian one, the
    # first along it.
    assert (
        np.einsum(
            "dw,dw->w",
            orthonormal(16, 8, 0),
            np.random.default_rng([0, 16, 8]).standard_normal((16, 8)),
        )
        > 0
    ).all()
    assert orthonormal(3, 1, 0)[:, 0] == pytest.approx([-0.24053955, 0.95809402, 0.15555248])


def test_rows_are_projected_alike_in_chunks_of_any_size() -> None:
    rows = np.random.default_rng(4).standard_normal((50, 8)).astype(np.float16)
    projection = fitted(rows.astype(np.float64))
    assert projection.apply(rows, chunk_rows=7) == pytest.approx(projection.apply(rows), abs=1e-5)
    assert projection.apply(rows[:0]).shape == (0, 4)


def test_what_cannot_be_projected_is_refused_with_both_numbers() -> None:
    rows = np.random.default_rng(5).standard_normal((10, 16))
    with pytest.raises(
        ProbeError, match=r"16 dimensions cannot be projected to 17\. Set project to 16 or less"
    ):
        fitted(rows, "random", 17)
    with pytest.raises(
        ProbeError, match="10 training rows have 9 principal components, 12 are asked for"
    ):
        fitted(rows, "pca", 12)
    assert fitted(rows, "random", 12).apply(rows).shape == (10, 12)
    assert fitted(np.ones((10, 16)), "pca").variance is None
