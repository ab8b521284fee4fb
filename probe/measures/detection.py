"""Equal error rate, detection costs and DET curve of speaker verification.

Aim: measure how well scores separate trials of one speaker (targets) from trials of two speakers
(non-targets).

Definitions: a trial is accepted when its score is at or above a threshold. Lowering the threshold
past one score after another draws the ROC, a polygon of (false acceptance rate, miss rate). Trials
of equal score are passed in one step, so the order of the trials cannot matter.

* EER (``eer``): the rate at which the polygon, interpolated linearly, crosses the diagonal. Other
  definitions in use (nearest threshold, mean of the two rates there) differ from this one, and from
  each other, by up to 2.6 points at 200 trials and 0.05 at 37,720. SUPERB uses the same definition;
  it reports the best of several checkpoints on the test trials, which this project does not.
* EER of the convex hull (``eer_hull``): where the lower convex hull of the polygon crosses; never
  above ``eer``. It is what the best monotone calibration of the scores would reach (Brummer & de
  Villiers 2013, "The BOSARIS toolkit").
* minDCF (``min_dcf_0.01``, ``min_dcf_0.05``): see `min_dcfs`. Records hold none for a list with
  fewer than 10 / prior non-targets (`why_too_short`).
* min Cllr (``min_cllr``): see `min_cllrs`; Cllr itself needs scores, see
  `probe.measures.calibration`.
* AUC (``auc``): the area under the ROC, which is the probability that a target has a higher score
  than a non-target, with ties counted half; higher is better. Equal to scikit-learn's
  ``roc_auc_score``.

Conventions: a higher score means "more likely the same speaker". Every measure depends on the
scores through their ranks alone. The functions that end in "s" measure several weightings of one
list of trials at once. They read cumulative numbers of trials, int64: ``missed`` (row, rank) are
the targets at this rank or below, ``rejected`` (row, rank) the non-targets; every row has some of
both.
"""

import functools
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import rel_entr

from probe.errors import ProbeError
from probe.measures.metrics import (
    AUC,
    CLLR,
    EER,
    EER_HULL,
    MIN_CLLR,
    MIN_DCF_01,
    MIN_DCF_05,
    metric_of,
)

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
TrialMetric = Callable[[Ints, Ints], Floats]


def eer(target: ArrayLike, scores: ArrayLike) -> float:
    """Equal error rate as a fraction; lower is better, equal scores give 0.5.

    Computed in integers with one division at the end: neither the order of trials nor a strictly
    increasing transform of the scores changes a bit of it.

    Args:
        target: (trial,) bool or 0/1, whether both utterances are of one speaker.
        scores: (trial,) finite.

    Raises:
        ProbeError: no targets or no non-targets (there is no empty case), a score that is not
            finite, lengths that differ.
    """
    return float(eers(*cumulative_trials(target, scores))[0])


def det_curve(target: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """False acceptance and miss rates at every threshold: (point,) each, one more than there are
    different scores.

    From accepting everything, (1, 0), to rejecting everything, (0, 1).

    Raises:
        ProbeError: see `eer`.
    """
    missed, rejected = (
        np.concatenate([[0], counts[0]]) for counts in cumulative_trials(target, scores)
    )
    return (rejected[-1] - rejected) / rejected[-1], missed / missed[-1]


def cumulative_trials(target: ArrayLike, scores: ArrayLike) -> tuple[Ints, Ints]:
    """``missed`` and ``rejected`` with one row, (1, rank) each; see the module.

    Raises:
        ProbeError: see `eer`.
    """
    is_target, ranks = ranked(target, scores)
    n_ranks = int(ranks.max(initial=-1)) + 1
    missed, rejected = (
        np.cumsum(np.bincount(ranks[kind], minlength=n_ranks)) for kind in (is_target, ~is_target)
    )
    n_targets = int(is_target.sum())
    if not 0 < n_targets < len(ranks):
        raise ProbeError(
            f"{n_targets} target and {len(ranks) - n_targets} non-target trials: a detection "
            "measure needs both. Check the trial list, and whether the utterances of one kind were "
            "left out."
        )
    return missed[None], rejected[None]


def ranked(target: ArrayLike, scores: ArrayLike) -> tuple[Bools, Ints]:
    """Targets as bool, and dense ranks of the scores from 0 for the lowest: (trial,) each; ties
    share a rank.

    Raises:
        ProbeError: lengths that differ, a target that is not 0 or 1, a score that is not finite.
    """
    kinds, values = np.asarray(target), np.asarray(scores)
    if kinds.ndim != 1 or kinds.shape != values.shape:
        raise ProbeError(
            f"targets of shape {kinds.shape}, scores of shape {values.shape}; expected one of each "
            "per trial."
        )
    if not np.isin(kinds, (0, 1)).all():
        raise ProbeError(
            "targets: found values other than 0 and 1; are targets and scores exchanged?"
        )
    finite = np.isfinite(values)
    if not finite.all():
        first = int(np.argmin(finite))
        raise ProbeError(
            f"trial {first} (counted from 0): its score is {values[first]}; {np.sum(~finite)} of "
            f"{len(values)} scores are not finite. Look at the embeddings of its two utterances: a "
            "zero vector has no cosine."
        )
    return kinds.astype(bool), np.unique(values, return_inverse=True)[1].astype(np.int64)


def eers(missed: Ints, rejected: Ints) -> Floats:
    """(row,) equal error rates."""
    n_targets, n_others, rows = missed[:, -1], rejected[:, -1], np.arange(len(missed))

    def at(rank: Ints) -> tuple[Ints, Ints]:
        """Targets missed when the ranks up to this one are rejected, and the gap, (row,) each; rank
        -1 rejects none.

        The gap is the miss rate less the false acceptance rate, times n_targets * n_others: it
        rises from -1 times that at rank -1 to 1 times that at the last rank.
        """
        missed_at, rejected_at = (
            np.where(rank < 0, 0, counts[rows, rank]) for counts in (missed, rejected)
        )
        return missed_at, missed_at * n_others + rejected_at * n_targets - n_targets * n_others

    below, crossing = np.full(len(rows), -1), np.full(len(rows), missed.shape[1] - 1)
    while (crossing - below > 1).any():  # the gap is negative below, and not at the crossing
        middle = (below + crossing) // 2
        crossed = at(middle)[1] >= 0
        below, crossing = np.where(crossed, below, middle), np.where(crossed, middle, crossing)
    columns = (values.tolist() for rank in (below, crossing) for values in at(rank))
    # Python's integers do not overflow.
    return np.array(
        [
            (missed_before * (after - before) - before * (missed_after - missed_before))
            / (n * (after - before))
            for missed_before, before, missed_after, after, n in zip(
                *columns, n_targets.tolist(), strict=True
            )
        ]
    )


def hull_eers(missed: Ints, rejected: Ints) -> Floats:
    """(row,) equal error rates of the ROC's lower convex hull."""
    corners = (np.cumsum(pools, axis=1)[:, None] for pools in _pools(missed, rejected))
    return np.array([eers(*of_row)[0] for of_row in corners])


def min_cllrs(missed: Ints, rejected: Ints) -> Floats:
    """(row,) the lowest Cllr (`probe.measures.calibration`) that an increasing function of the
    scores reaches on these trials, in bits; lower is better, and never above 1.

    In a pool with a share h of all targets and a share f of all non-targets every trial has the
    log-likelihood ratio log(h / f), so that the cost is the sum over pools of

        (h * log2(1 + f / h) + f * log2(1 + h / f)) / 2

    (Brummer & du Preez 2006, section 5).
    """
    values = []
    for targets, others in _pools(missed, rejected):
        hits, alarms = targets / targets.sum(), others / others.sum()
        nats = rel_entr(hits, hits + alarms) + rel_entr(alarms, hits + alarms)
        values.append(-nats.sum() / (2 * np.log(2)))
    return np.clip(values, 0.0, 1.0)  # rounding


def _pools(missed: Ints, rejected: Ints) -> Iterator[Ints]:
    """For each row, (2, pool) targets and non-targets in pools of adjacent ranks, pooled until the
    share of targets rises from pool to pool: their ends are the corners of the ROC's lower convex
    hull.
    """
    # Imported here, because tables of other metrics need not wait for it.
    from sklearn.isotonic import isotonic_regression

    for both in np.diff(np.stack([missed, rejected], axis=1), prepend=0):
        kinds = both[:, both.sum(axis=0) > 0]
        total = kinds.sum(axis=0)
        share = isotonic_regression(kinds[0] / total, sample_weight=total)
        first_of_pool = np.flatnonzero(np.append(True, np.diff(share) > 0))
        yield np.add.reduceat(kinds, first_of_pool, axis=1)


def min_dcfs(
    missed: Ints, rejected: Ints, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0
) -> Floats:
    """(row,) minimum normalised detection costs; lower is better, and never above 1, the cost of a
    system without any knowledge.

    The cost is the minimum over all thresholds, including those that accept or reject everything,
    of

        (c_miss * p_target * miss rate + c_fa * (1 - p_target) * false acceptance rate)
        / min(c_miss * p_target, c_fa * (1 - p_target))

    NIST normalises by the better of the two decisions that ignore the scores. VoxCeleb's figures
    have c_miss = c_fa = 1, with p_target 0.01 (papers) or 0.05 (the challenge since 2019).

    Args:
        missed, rejected: see the module.
        p_target: prior probability of a target, in (0, 1).
        c_miss, c_fa: costs of a miss and of a false acceptance, > 0.
    """
    miss, false_alarm = c_miss * p_target, c_fa * (1 - p_target)
    n_others = rejected[:, -1:]
    cost = miss * (missed / missed[:, -1:]) + false_alarm * ((n_others - rejected) / n_others)
    # Rejecting all is in ``cost``, accepting all is not.
    trivial = min(miss, false_alarm)
    return np.minimum(cost.min(axis=1), trivial) / trivial


def why_too_short(metric: str, n_others: int) -> str:
    """Why a list with so many non-target trials has no value of a metric; empty where it has one.

    At the minimum detection cost at most a share p / (1 - p) of the non-targets is accepted, p
    being the prior: rejecting all trials costs 1. With fewer than 10 / p non-targets about ten
    accepted trials at most decide.
    """
    least = metric_of(metric).least_others
    if n_others >= least:
        return ""
    return f"{n_others:,} non-target trials; {metric} needs {least:,}"


def areas(missed: Ints, rejected: Ints) -> Floats:
    """(row,) areas under the ROC."""
    targets, others = (np.diff(counts, axis=1, prepend=0) for counts in (missed, rejected))
    twice = (targets * (2 * rejected - others)).sum(axis=1)
    values: Floats = twice / (2 * missed[:, -1] * rejected[:, -1])
    return values


TRIAL_METRICS: dict[str, TrialMetric] = {
    EER.name: eers,
    EER_HULL.name: hull_eers,
    MIN_DCF_01.name: functools.partial(min_dcfs, p_target=0.01),
    MIN_DCF_05.name: functools.partial(min_dcfs, p_target=0.05),
    MIN_CLLR.name: min_cllrs,
    AUC.name: areas,
}
_COST = (
    "minimum over thresholds of (p * miss rate + (1 - p) * false acceptance rate) / min(p, 1 - p), "
    "p = {}, both costs 1"
)
# The definition of each metric as a record states it.
DEFINITIONS = {
    EER.name: "linear interpolation of the ROC",
    EER_HULL.name: "convex hull of the ROC",
    MIN_DCF_01.name: _COST.format(0.01),
    MIN_DCF_05.name: _COST.format(0.05),
    CLLR.name: "mean of log2(1 + exp(-l)) over targets and log2(1 + exp(l)) over non-targets, "
    "l = slope * score + offset, by logistic regression on dev",
    MIN_CLLR.name: "the same with the best increasing function of the scores as l",
}
