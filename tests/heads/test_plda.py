"""PLDA: exact scores, planted covariances found again, better than what does not know them."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from probe.heads.speaker.lda import DiscriminantProjection
from probe.heads.speaker.plda import TwoCovariance, Whitening
from probe.measures.detection import eer

DIM = 6


def covariance(seed: int, dim: int = DIM) -> np.ndarray:
    factor = np.random.default_rng(seed).standard_normal((dim, 2 * dim))
    return factor @ factor.T / (2 * dim)


BETWEEN, WITHIN = 1.5 * covariance(1), covariance(2)
MEAN = np.linspace(-3, 3, DIM)


def drawn(n_speakers: int, n_each: list[int], seed: int) -> tuple[np.ndarray, list[str]]:
    """Rows of the planted model; speakers take turns at the numbers of utterances."""
    generator = np.random.default_rng(seed)
    counts = [n_each[k % len(n_each)] for k in range(n_speakers)]
    voices = np.repeat(generator.multivariate_normal(MEAN, BETWEEN, n_speakers), counts, axis=0)
    speakers = [f"s{k}" for k, n in enumerate(counts) for _ in range(n)]
    return voices + generator.multivariate_normal(np.zeros(DIM), WITHIN, len(voices)), speakers


def pair_scores(model: TwoCovariance, rows: np.ndarray, other: np.ndarray) -> np.ndarray:
    (one, offset), (two, offset_two) = model.embed(rows), model.embed(other)
    return np.einsum("td,td->t", one, two) + offset + offset_two


def test_scores_are_the_ratio_of_the_two_gaussians() -> None:
    one, two = np.random.default_rng(3).normal(MEAN, 1.5, (2, 40, DIM))
    total = BETWEEN + WITHIN
    both = np.concatenate([one, two], axis=1)
    means = np.tile(MEAN, 2)
    same = multivariate_normal(means, np.block([[total, BETWEEN], [BETWEEN, total]])).logpdf(both)
    different = multivariate_normal(
        means, np.block([[total, 0 * total], [0 * total, total]])
    ).logpdf(both)
    found = pair_scores(TwoCovariance.of(MEAN, BETWEEN, WITHIN), one, two)
    assert np.abs(found - (same - different)).max() < 1e-10
    assert np.std(found) > 1


@pytest.mark.parametrize("n_each", [[5], [2, 3, 12]], ids=["balanced", "unbalanced"])
def test_planted_covariances_are_found_again(n_each: list[int]) -> None:
    rows, speakers = drawn(6000, n_each, seed=4)
    model = TwoCovariance.fit(rows, speakers)
    for found, true in ((model.between, BETWEEN), (model.within, WITHIN)):
        assert np.linalg.norm(found - true) < 0.06 * np.linalg.norm(true)
    assert np.abs(model.mean - MEAN).max() < 0.1


def test_few_speakers_of_very_different_numbers_of_rows_do_not_bias_the_speakers_covariance() -> (
    None
):
    traces = [np.trace(TwoCovariance.fit(*drawn(10, [2, 40], seed)).between) for seed in range(400)]
    assert np.mean(traces) == pytest.approx(np.trace(BETWEEN), rel=0.08)


def test_plda_and_lda_reach_the_best_possible_scores_of_the_planted_model() -> None:
    rows, speakers = drawn(400, [6], seed=5)
    tested, of_speakers = drawn(300, [2], seed=6)
    one, two = tested[::2], tested[1::2]
    enroll, test = np.concatenate([one, one[:-1]]), np.concatenate([two, two[1:]])
    target = np.arange(len(enroll)) < len(one)
    assert of_speakers[0] == of_speakers[1]

    def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.einsum("td,td->t", a, b) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)

    best = eer(target, pair_scores(TwoCovariance.of(MEAN, BETWEEN, WITHIN), enroll, test))
    plda = eer(target, pair_scores(TwoCovariance.fit(rows, speakers), enroll, test))
    projection = DiscriminantProjection.fit(rows, speakers)
    lda = eer(target, cosine(projection.apply(enroll), projection.apply(test)))
    raw = eer(target, cosine(enroll, test))
    assert abs(plda - best) < 0.015
    assert plda <= lda + 0.005 < raw - 0.05


def test_one_speaker_part_without_variance_says_nothing() -> None:
    flat = BETWEEN.copy()
    flat[0], flat[:, 0] = 0, 0
    model = TwoCovariance.of(MEAN, flat, np.eye(DIM))
    rows = np.random.default_rng(7).normal(size=(20, DIM))
    moved = rows + 5 * np.eye(DIM)[0]
    assert np.allclose(
        pair_scores(model, rows, rows[::-1]), pair_scores(model, moved, rows[::-1]), atol=1e-9
    )


def test_fewer_rows_than_dimensions_still_give_a_model() -> None:
    generator = np.random.default_rng(8)
    rows, speakers = generator.standard_normal((24, 60)), [f"s{i % 12}" for i in range(24)]
    model = TwoCovariance.fit(rows, speakers)
    assert np.isfinite(pair_scores(model, rows, rows)).all()
    assert (model.spread >= 0).all()


def test_whitened_rows_have_variance_one_in_every_direction() -> None:
    rows = np.random.default_rng(9).standard_normal((500, 8)) @ covariance(3, 8) + 4
    rows[:, 7] = rows[:, 0]  # one direction less
    white = Whitening.fit(rows, 200).apply(rows)
    assert white.shape == (500, 7)
    assert np.allclose(np.cov(white.T), np.eye(7), atol=1e-6)


def test_two_utterances_a_speaker_shrink_the_utterances_covariance_far_enough() -> None:
    """Half of the residuals say what the other half said."""
    dim, n_speakers, errors = 30, 40, []
    true = np.diag(np.linspace(0.5, 1.5, dim))
    for seed in range(20):
        generator = np.random.default_rng(seed)
        voices = np.repeat(generator.standard_normal((n_speakers, dim)), 2, axis=0)
        rows = voices + generator.standard_normal(voices.shape) @ np.sqrt(true)
        model = TwoCovariance.fit(rows, [f"s{i // 2}" for i in range(len(rows))])
        errors.append(np.square(model.within - true).sum())
    assert np.mean(errors) < 4  # 8 where all rows count as independent


def test_the_speakers_covariance_is_that_of_the_scatter_and_not_of_the_shrunk_one() -> None:
    dim, n_speakers, n_each = 20, 100, 3
    generator = np.random.default_rng(10)
    rows = np.repeat(3 * generator.standard_normal((n_speakers, dim)), n_each, axis=0)
    rows = rows + generator.standard_normal(rows.shape) * np.linspace(1, 4, dim)
    model = TwoCovariance.fit(rows, [f"s{i // n_each}" for i in range(len(rows))])
    apart = rows.reshape(n_speakers, n_each, dim)
    within = sum(np.cov(of_speaker.T) for of_speaker in apart) / n_speakers
    between = np.cov(apart.mean(axis=1).T) - within / n_each
    assert np.linalg.eigvalsh(between)[0] > 0  # nothing is cut off
    assert np.allclose(model.between, between, atol=1e-8)
    assert not np.allclose(model.within, within, atol=1e-2)
