"""The model confidence set: which of several scores of the same utterances may be the best.

Aim: a set that contains the best of the compared models (or layers) with a given probability, so
that no single winner has to be picked from noise.

Source: Hansen, Lunde & Nason 2011, "The model confidence set", Econometrica 79. While the
hypothesis of equal scores is rejected, the worst score is removed; the p-value of a score is the
largest p-value up to its removal, and the set has all scores whose p-value is above the level. The
statistic is the range, the largest difference of two scores. The paper's T_max compares with the
mean of all, and keeps bad scores as long as there are several of them; its T_R divides each
difference by an error of its own, and left out an equally good one of 20 in 27 % of simulations
with seven speakers.

Resamples are those of the wild cluster bootstrap instead of blocks of time, because utterances of
one speaker are right or wrong together: what a block (speaker) contributes is multiplied by one of
six weights (Webb 2023, "Reworking wild bootstrap-based inference for clustered errors", Canadian
Journal of Economics 56). Few blocks make the variance uncertain, so each resample is divided by the
root of a mean square with the degrees of freedom of Tukey's range test in blocks, those of a score
times the number of scores less 1.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from probe.measures.bootstrap import N_RESAMPLES
from probe.measures.counts import Counts, check_same_utterances
from probe.measures.intervals import least_error
from probe.measures.metrics import EER, metric_of
from probe.measures.uncertainty import MeasuredScore, measure

Floats = NDArray[np.float64]

LEVEL = 0.05
ROUNDING = 1e-12
# Webb's six points, with mean 0 and variance 1.
WEIGHTS = np.sqrt([0.5, 1.0, 1.5])
WEIGHTS = np.concatenate([-WEIGHTS, WEIGHTS])


def confidence_set(
    counts: Sequence[Counts], metric: str = EER.name, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> list[float]:
    """The p-value of each score; the set at a level are the scores above it.

    Args:
        counts: of the same utterances, see `probe.measures.uncertainty.measure`.
        metric: decides whether higher is better.
        seed, n_resamples: of the drawn weights.

    Raises:
        ProbeError: scores of other utterances, or without a value.
    """
    for other in counts[1:]:
        check_same_utterances(counts[0], other)
    scores = [measure(item, metric) for item in counts]
    return p_values_in_set(scores, metric_of(metric).higher_is_better, seed, n_resamples)


def p_values_in_set(
    scores: Sequence[MeasuredScore],
    higher_is_better: bool,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> list[float]:
    """As `confidence_set`, of measured scores; all are 1 if their variances are unknown."""
    if any(np.isnan(score.contributions).any() for score in scores) or len(scores) == 1:
        return [1.0] * len(scores)
    losses = np.array([score.value for score in scores]) * (-1.0 if higher_is_better else 1.0)
    gaps = losses[:, None] - losses
    moves = resampled_moves(scores, seed, n_resamples)
    drawn = moves[:, :, None] - moves[:, None, :]
    freedom = min(score.freedom for score in scores) * (len(scores) - 1)
    generator = np.random.default_rng([seed, 1])
    drawn /= np.sqrt(generator.chisquare(freedom, (n_resamples, 1, 1)) / freedom)
    return model_confidence_set(gaps, np.abs(drawn))


def resampled_moves(
    scores: Sequence[MeasuredScore], seed: int = 0, n_resamples: int = N_RESAMPLES
) -> Floats:
    """(resample, score) by how much scores of the same blocks move with other blocks and seeds; NaN
    if their variances are unknown. Equal seeds and numbers of blocks draw the same weights.

    Where two scores vary by less than `probe.measures.intervals.least_error` of no difference,
    normal noise makes up for it, so that a few utterances do not separate scores near 100 %.
    """
    moves = np.stack([score.contributions for score in scores], axis=1)
    generator = np.random.default_rng([seed, len(moves)])
    resampled: Floats = generator.choice(WEIGHTS, size=(n_resamples, len(moves))) @ moves
    of_seeds = np.stack([score.of_seeds for score in scores], axis=1)
    if len(of_seeds) > 1:
        # The multiplier bootstrap of the mean over seeds, whose few values cannot be resampled.
        noise = generator.standard_normal((n_resamples, len(of_seeds)))
        factor = 1 / np.sqrt(len(of_seeds) * (len(of_seeds) - 1))
        resampled += factor * noise @ (of_seeds - of_seeds.mean(axis=0))
    units = [score.units for score in scores]
    if all(units):
        least = least_error(0.0, min(n for n in units if n)) ** 2 / 2
        varying = np.var(resampled - resampled.mean(axis=1, keepdims=True), axis=0)
        missing = np.sqrt(np.maximum(least - varying, 0))
        resampled += missing * generator.standard_normal(resampled.shape)
    return resampled


def model_confidence_set(gaps: Floats, drawn: Floats) -> list[float]:
    """The p-value of each model.

    Args:
        gaps: (model, model) the loss of one less that of the other.
        drawn: (resample, model, model) their sizes in resamples without any true difference.
    """
    p = np.ones(len(gaps))
    left, largest = list(range(len(gaps))), 0.0
    while len(left) > 1:
        of_left = gaps[np.ix_(left, left)].max(axis=1)
        most_drawn = drawn[:, left][:, :, left].max(axis=(1, 2))
        largest = max(largest, float(np.mean(most_drawn >= of_left.max())))
        p[left.pop(int(np.argmax(of_left)))] = largest
    return p.tolist()
