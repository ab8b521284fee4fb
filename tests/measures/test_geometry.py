"""Statistics of a layer: direct formulas, known shapes, blocks, and what is not defined."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.measures.geometry import Geometry

ALL = {"rms", "effective_rank", "anisotropy", "outlier_dims"}


def of(*blocks: np.ndarray) -> dict[str, float]:
    geometry = Geometry()
    for block in blocks:
        geometry.add(block)
    return geometry.statistics()


def direct(rows: np.ndarray) -> dict[str, float]:
    """The definitions, word for word."""
    rows = rows.astype(np.float64)
    shares = np.linalg.eigvalsh(np.cov(rows.T, bias=True))
    shares = shares[shares > 1e-12] / shares.sum()
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = [units[i] @ units[j] for i in range(len(rows)) for j in range(len(rows)) if i != j]
    of_dims = np.sqrt(np.square(rows).mean(axis=0))
    return {
        "rms": np.sqrt(np.square(rows).mean()),
        "effective_rank": np.exp(-np.sum(shares * np.log(shares))),
        "anisotropy": np.mean(cosines),
        "outlier_dims": np.mean(of_dims > of_dims.mean() + 3 * of_dims.std()),
    }


@pytest.mark.parametrize(("n", "dim"), [(60, 20), (12, 20), (21, 20), (2, 5)])
def test_statistics_are_their_definitions(n: int, dim: int) -> None:
    rows = np.random.default_rng(n).normal(0.5, np.arange(1, dim + 1), (n, dim)).astype(np.float32)
    rows[:, 3] *= 40
    found = of(rows)
    assert found.keys() == ALL
    assert found == pytest.approx(direct(rows), rel=2e-5)
    assert found["outlier_dims"] == (1 / 20 if dim == 20 else 0)


@given(st.integers(1, 80), st.integers(1, 80), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_the_size_of_blocks_decides_nothing(first: int, second: int, seed: int) -> None:
    rows = np.random.default_rng(seed).normal(3, 2, (80, 16)).astype(np.float16)
    cuts = sorted({first, second})
    assert of(*np.split(rows, cuts)) == pytest.approx(of(rows), rel=2e-6)


def test_a_large_offset_costs_no_digits() -> None:
    rows = np.random.default_rng(0).standard_normal((400, 12))
    zero = np.zeros((1, 12))  # far from all others, and the first: the origin of the sums
    offset = rows + 1e6
    assert of(offset[:3], offset[3:])["effective_rank"] == pytest.approx(
        of(rows)["effective_rank"], rel=1e-5
    )
    far = np.concatenate([zero, offset])
    assert of(*np.split(far, [1, 50]))["effective_rank"] == pytest.approx(
        of(far)["effective_rank"], rel=1e-5
    )
    geometry = Geometry()
    for block in np.split(offset, [30, 200]):
        geometry.add(block)
    mean, covariance = geometry.moments()
    assert mean == pytest.approx(offset.mean(axis=0), rel=1e-12)
    assert covariance == pytest.approx(np.cov(rows.T, bias=True), abs=1e-6)


def test_known_shapes_have_known_numbers() -> None:
    generator = np.random.default_rng(0)
    round_ = of(generator.standard_normal((20_000, 32)))
    assert round_["effective_rank"] == pytest.approx(32, rel=0.01)
    assert round_["anisotropy"] == pytest.approx(0, abs=0.01)
    assert round_["rms"] == pytest.approx(1, rel=0.01)
    line = np.outer(generator.standard_normal(100), np.arange(1, 9))
    assert of(line)["effective_rank"] == pytest.approx(1)
    assert of(np.abs(line))["anisotropy"] == pytest.approx(1)
    opposite = np.array([[1.0, 2.0], [-1.0, -2.0]])
    assert of(opposite)["anisotropy"] == pytest.approx(-1)
    flat = generator.standard_normal((500, 50))
    assert of(flat)["outlier_dims"] == 0
    flat[:, 7] += 60  # by its mean
    flat[:, 8] *= 60  # by its deviation
    assert of(flat)["outlier_dims"] == pytest.approx(2 / 50)


@pytest.mark.parametrize("value", [1.0, 0.1, 1e8 / 3])
@pytest.mark.parametrize("n", [2, 40])
def test_equal_rows_have_a_direction_and_no_rank(value: float, n: int) -> None:
    found = of(*np.split(np.full((n, 12), value), [1]))
    assert found == {
        "rms": pytest.approx(value, rel=1e-5),
        "outlier_dims": 0,
        "anisotropy": pytest.approx(1),
    }


def test_what_is_not_defined_is_left_out_and_nothing_is_nan() -> None:
    assert of() == of(np.empty((0, 4))) == {}
    assert of(np.array([[3.0, 4.0]])) == {
        "rms": pytest.approx(12.5**0.5, rel=1e-5),
        "outlier_dims": 0,
    }
    assert of(np.zeros((5, 4))) == {"rms": 0, "outlier_dims": 0}
    some = np.concatenate([np.zeros((5, 4)), np.eye(4)[:2]])
    assert of(some)["anisotropy"] == 0  # of the two rows that have a direction
    constant = np.random.default_rng(0).standard_normal((50, 4))
    constant[:, 2] = 1 / 3
    assert of(constant)["effective_rank"] == pytest.approx(
        of(constant[:, [0, 1, 3]])["effective_rank"], rel=1e-5
    )
    for rows in (np.full((3, 4), np.nan), np.full((30, 4), np.nan)):
        assert of(rows) == {}
    json.dumps(of(constant.astype(np.float16)), allow_nan=False)
