"""Equal error rate, minimum detection cost and DET curve of speaker verification.

Aim: how well scores tell trials of one speaker (targets) from trials of two speakers (non-targets).

Definitions: a trial is accepted when its score is at or above a threshold; lowering the threshold
past one score after another draws the ROC, a polygon of (false acceptance rate, miss rate). Trials
of equal score are passed in one step, so that the order of the trials cannot matter.

* EER (``eer``): the rate at which the polygon, interpolated linearly, crosses the diagonal. Other
  definitions in use (nearest threshold, mean of the two rates there) differ from this one, and from
  each other, by up to 2.6 points at 200 trials and 0.05 at 37,720.
* EER of the convex hull (``eer_hull``): where the lower convex hull of the polygon crosses; never
  above ``eer``. It is what the best monotone calibration of the scores would reach (Brummer & de
  Villiers 2013, "The BOSARIS toolkit").
* minDCF (``min_dcf_0.01``, ``min_dcf_0.05``): see `min_dcf`.

Conventions: a higher score means "more likely the same speaker"; arrays are (trial,), or (rank,)
numbers of trials at each score in ascending order. Every measure depends on the scores through
their ranks alone.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from probe.errors import ProbeError
from probe.measures.metrics import EER, EER_HULL, MIN_DCF_01, MIN_DCF_05

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def eer(target: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Equal error rate as a fraction; lower is better, 0.5 is what equal scores give, above 0.5 the
    scores point the wrong way.

    Computed in integers with one division at the end: it does not depend on the order of trials,
    nor on a strictly increasing transform of the scores, in any bit. SUPERB (sklearn's
    ``roc_curve``, then a root finder) uses the same definition and agrees to the root finder's
    tolerance; it reports the best of several checkpoints on the test trials, which this does not.

    Args:
        target: (trial,) bool or 0/1, whether both utterances are of one speaker.
        scores: (trial,) finite.
        weights: (trial,) whole numbers >= 0, how many times each trial counts; once each by
            default.

    Raises:
        ProbeError: no targets or no non-targets (there is no empty case), a score that is not
            finite, lengths that differ, weights that are negative or not whole.
    """
    return eer_of_ranks(*_counted(target, scores, weights))


def min_dcf(
    target: ArrayLike,
    scores: ArrayLike,
    p_target: float,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
    weights: ArrayLike | None = None,
) -> float:
    """Minimum normalised detection cost; lower is better, 1 is what a system without any knowledge
    gets, never above 1.

    The minimum over all thresholds, accepting all and rejecting all among them, of

        (c_miss * p_target * miss rate + c_fa * (1 - p_target) * false acceptance rate)
        / min(c_miss * p_target, c_fa * (1 - p_target))

    NIST's normalisation: by the better of the two decisions that look at no score. VoxCeleb's
    figures have c_miss = c_fa = 1, with p_target 0.01 (papers) or 0.05 (the challenge since 2019).

    Args:
        target, scores, weights: see `eer`.
        p_target: prior probability of a target, in (0, 1).
        c_miss, c_fa: costs of a miss and of a false acceptance, > 0.

    Raises:
        ProbeError: see `eer`; a prior or cost out of range.
    """
    return min_dcf_of_ranks(
        *_counted(target, scores, weights), p_target=p_target, c_miss=c_miss, c_fa=c_fa
    )


def det_curve(target: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """False acceptance and miss rates at every threshold: (point,) each, one more than there are
    different scores.

    From accepting everything, (1, 0), to rejecting everything, (0, 1).

    Raises:
        ProbeError: see `eer`.
    """
    targets, others = _counted(target, scores, None)
    _check_both_kinds(targets, others)
    missed, rejected = (np.concatenate([[0], np.cumsum(kind)]) for kind in (targets, others))
    return (rejected[-1] - rejected) / rejected[-1], missed / missed[-1]


def _counted(target: ArrayLike, scores: ArrayLike, weights: ArrayLike | None) -> tuple[Ints, Ints]:
    """Target and non-target trials at each rank."""
    is_target, ranks = ranked(target, scores)
    counted = np.ones(len(ranks), np.int64) if weights is None else np.asarray(weights)
    if counted.shape != ranks.shape or counted.dtype.kind not in "biu" or (counted < 0).any():
        raise ProbeError(
            f"weights: found {counted.dtype} of shape {counted.shape}; expected a whole number >= 0 for each of {len(ranks)} trials."
        )
    n_ranks = int(ranks.max(initial=-1)) + 1
    return per_rank(ranks, counted * is_target, n_ranks), per_rank(
        ranks, counted * ~is_target, n_ranks
    )


def ranked(target: ArrayLike, scores: ArrayLike) -> tuple[Bools, Ints]:
    """Targets as bool, and dense ranks of the scores: 0 for the lowest, ties share one, none is
    left out. Both (trial,).

    Raises:
        ProbeError: lengths that differ, a target that is not 0 or 1, a score that is not finite.
    """
    kinds, values = np.asarray(target), np.asarray(scores)
    if kinds.ndim != 1 or kinds.shape != values.shape:
        raise ProbeError(
            f"targets of shape {kinds.shape}, scores of shape {values.shape}; expected one of each per trial."
        )
    if not np.isin(kinds, (0, 1)).all():
        raise ProbeError(
            "targets: found values other than 0 and 1; are targets and scores exchanged?"
        )
    finite = np.isfinite(values)
    if not finite.all():
        first = int(np.argmin(finite))
        raise ProbeError(
            f"trial {first} (counted from 0): its score is {values[first]}; {np.sum(~finite)} of {len(values)} scores are not "
            "finite. Look at the embeddings of its two utterances: a zero vector has no cosine."
        )
    return kinds.astype(bool), np.unique(values, return_inverse=True)[1].astype(np.int64)


def per_rank(ranks: Ints, weights: NDArray[Any], n_ranks: int) -> Ints:
    """How many trials stand at each rank, (rank,); ``ranks`` and ``weights`` are (trial,)."""
    return np.bincount(ranks, weights, n_ranks).astype(np.int64)


def eer_of_ranks(targets: Ints, others: Ints) -> float:
    """The EER of trials that are sorted already.

    Args:
        targets: (rank,) int64 >= 0, target trials at each rank, ascending; a rank without a trial
            does no harm.
        others: (rank,) int64 >= 0, non-target trials likewise.

    Raises:
        ProbeError: no targets or no non-targets.
    """
    _check_both_kinds(targets, others)
    return float(eers(np.cumsum(targets)[None], np.cumsum(others)[None])[0])


def eers(missed: Ints, rejected: Ints) -> Floats:
    """EERs of several counts of one list of trials, (row,).

    Args:
        missed: (row, rank) target trials at this rank or below; some in every row.
        rejected: (row, rank) non-target trials likewise.
    """
    n_targets, n_others, rows = missed[:, -1], rejected[:, -1], np.arange(len(missed))

    def at(rank: Ints) -> tuple[Ints, Ints]:
        """Missed targets with the ranks up to this one rejected, and the gap, (row,) each; rank -1:
        with none rejected.

        missed / n_targets is the miss rate, 1 - rejected / n_others the false acceptance rate. The
        gap is what the first is above the second, times n_targets * n_others: it rises from -1
        times that at rank -1 to 1 times that at the last.
        """
        missed_at, rejected_at = (
            np.where(rank < 0, 0, sums[rows, rank]) for sums in (missed, rejected)
        )
        return missed_at, missed_at * n_others + rejected_at * n_targets - n_targets * n_others

    below, crossing = np.full(len(rows), -1), np.full(len(rows), missed.shape[1] - 1)
    while (crossing - below > 1).any():  # the gap is negative below, and not at the crossing
        middle = (below + crossing) // 2
        crossed = at(middle)[1] >= 0
        below, crossing = np.where(crossed, below, middle), np.where(crossed, middle, crossing)
    sides = zip(
        *(values.tolist() for rank in (below, crossing) for values in at(rank)),
        n_targets.tolist(),
        strict=True,
    )
    # In Python's whole numbers, which do not overflow.
    return np.array(
        [
            (missed_before * (after - before) - before * (missed_after - missed_before))
            / (n * (after - before))
            for missed_before, before, missed_after, after, n in sides
        ]
    )


def eer_of_hull(targets: Ints, others: Ints) -> float:
    """The EER of the ROC's lower convex hull; arguments and errors as in `eer_of_ranks`.

    Pooling adjacent ranks until the share of targets rises from pool to pool leaves the hull's
    corners; the EER is that of the pools.
    """
    from sklearn.isotonic import (
        isotonic_regression,
    )  # here: tables of other metrics need not wait for it

    total = targets + others
    there = total > 0
    targets, others, total = targets[there], others[there], total[there]
    _check_both_kinds(targets, others)
    share = isotonic_regression(targets / total, sample_weight=total)
    pool = np.cumsum(np.diff(share, prepend=share[0]) > 0)
    return eer_of_ranks(per_rank(pool, targets, pool[-1] + 1), per_rank(pool, others, pool[-1] + 1))


def min_dcf_of_ranks(
    targets: Ints, others: Ints, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0
) -> float:
    """`min_dcf` of trials that are sorted already; ``targets`` and ``others`` as in `eer_of_ranks`."""
    if not (0 < p_target < 1 and c_miss > 0 and c_fa > 0):
        raise ProbeError(
            f"p_target {p_target}, c_miss {c_miss}, c_fa {c_fa}: expected a prior between 0 and 1 and costs above 0."
        )
    _check_both_kinds(targets, others)
    return float(
        min_dcfs(np.cumsum(targets)[None], np.cumsum(others)[None], p_target, c_miss, c_fa)[0]
    )


def min_dcfs(
    missed: Ints, rejected: Ints, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0
) -> Floats:
    """`min_dcf` of several counts of one list of trials, (row,); arguments as in `eers`."""
    miss, false_alarm = c_miss * p_target, c_fa * (1 - p_target)
    n_others = rejected[:, -1:]
    cost = miss * (missed / missed[:, -1:]) + false_alarm * ((n_others - rejected) / n_others)
    trivial = min(
        miss, false_alarm
    )  # reject all, which is in ``cost``, or accept all, which is not
    return np.minimum(cost.min(axis=1), trivial) / trivial


def _check_both_kinds(targets: Ints, others: Ints) -> tuple[int, int]:
    """How many target and non-target trials there are."""
    n_targets, n_others = int(targets.sum()), int(others.sum())
    if not n_targets or not n_others:
        raise ProbeError(
            f"{n_targets} target and {n_others} non-target trials: a detection measure needs both. Check the trial list, "
            "and whether the utterances of one kind were left out."
        )
    return n_targets, n_others


# Metric of a record -> its value from target and non-target trials at each rank.
METRICS: dict[str, Callable[[Ints, Ints], float]] = {
    EER.name: eer_of_ranks,
    EER_HULL.name: eer_of_hull,
    MIN_DCF_01.name: functools.partial(min_dcf_of_ranks, p_target=0.01),
    MIN_DCF_05.name: functools.partial(min_dcf_of_ranks, p_target=0.05),
}
# The same of several counts at once, where it can be had at once.
MANY: dict[str, Callable[[Ints, Ints], Floats]] = {
    EER.name: eers,
    MIN_DCF_01.name: functools.partial(min_dcfs, p_target=0.01),
    MIN_DCF_05.name: functools.partial(min_dcfs, p_target=0.05),
}
_COST = "minimum over thresholds of (p * miss rate + (1 - p) * false acceptance rate) / min(p, 1 - p), p = {}, both costs 1"
# The same, as a record states it.
DEFINITIONS = {
    EER.name: "linear interpolation of the ROC",
    EER_HULL.name: "convex hull of the ROC",
    MIN_DCF_01.name: _COST.format(0.01),
    MIN_DCF_05.name: _COST.format(0.05),
}
