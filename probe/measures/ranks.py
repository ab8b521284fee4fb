"""Ranks of models over several tasks: mean rank, Borda count, and which mean ranks differ.

Conventions: rank 1 is the best; equal scores share the mean of their ranks. A task that was scored
under several conditions counts once: its models are ranked by their mean rank over conditions.

Sources: Friedman's test and Nemenyi's critical difference, Demsar 2006, "Statistical comparisons of
classifiers over multiple data sets", Journal of Machine Learning Research 7; intervals of ranks by
resampling, Goldstein & Spiegelhalter 1996, Journal of the Royal Statistical Society A 159; Borda
count, Colombo et al. 2022, "What are the best systems? New perspectives on NLP benchmarking".
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVEL = 0.05


def task_ranks(goodness: Floats, tasks: Sequence[str]) -> Floats:
    """(..., task, model) ranks in each task, tasks in the order of their first question.

    Args:
        goodness: (..., question, model), higher is better.
        tasks: (question,) the task of each question.
    """
    from scipy.stats import rankdata  # its import takes a second

    ranks = rankdata(-goodness, axis=-1)
    names = np.array(tasks)
    of_tasks = [ranks[..., names == name, :].mean(axis=-2) for name in dict.fromkeys(tasks)]
    return np.asarray(rankdata(np.round(np.stack(of_tasks, axis=-2), 9), axis=-1), np.float64)


def borda_counts(ranks: Floats) -> Floats:
    """(model,) the number of models that each one beats, summed over the rows of (task, model)
    ranks; half a point for a tie.
    """
    return np.asarray(ranks.shape[1] - ranks).sum(axis=0)


def friedman_p(ranks: Floats) -> float:
    """The p-value of equal mean ranks of three or more models over two or more tasks, else NaN."""
    from scipy.stats import friedmanchisquare

    n_tasks, n_models = ranks.shape
    if n_models < 3 or n_tasks < 2 or not np.ptp(ranks, axis=1).any():
        return float("nan")
    return float(friedmanchisquare(*ranks.T).pvalue)


def critical_difference(n_models: int, n_tasks: int, level: float = LEVEL) -> float:
    """Nemenyi's critical difference of mean ranks: smaller differences are not significant."""
    from scipy.stats import studentized_range

    quantile = studentized_range.ppf(1 - level, n_models, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(n_models * (n_models + 1) / (6 * n_tasks)))


def alike(mean_ranks: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """The largest groups of sorted mean ranks that differ by less than ``difference``: positions of
    the first and the last of each group of two or more.
    """
    groups: list[tuple[int, int]] = []
    for first, rank in enumerate(mean_ranks):
        last = max(i for i, other in enumerate(mean_ranks) if other - rank < difference)
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return groups
