"""Equal error rate of speaker verification.

Aim: one number for how well scores tell trials of one speaker (targets) from trials of two speakers (non-targets).

Definition: a trial is accepted when its score is at or above a threshold; lowering the threshold past one score after another
draws the ROC, a polygon of (false acceptance rate, miss rate). The EER is the rate at which the polygon crosses the diagonal.
Trials of equal score are passed in one step, so that the order of the trials cannot matter. The polygon is interpolated linearly;
other definitions in use (nearest threshold, mean of the two rates there, convex hull) differ from this one, and from each other,
by up to 2.6 points at 200 trials and 0.05 at 37,720.

Conventions: a higher score means "more likely the same speaker"; arrays are (trial,).
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from probe.errors import ProbeError

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def eer(target: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Equal error rate as a fraction; lower is better, 0.5 is what equal scores give, above 0.5 the scores point the wrong way.

    Computed in integers with one division at the end: it does not depend on the order of trials, nor on a strictly increasing
    transform of the scores, in any bit. SUPERB (sklearn's ``roc_curve``, then a root finder) uses the same definition and
    agrees to the root finder's tolerance; it reports the best of several checkpoints on the test trials, which this does not.

    Args:
        target: (trial,) bool or 0/1, whether both utterances are of one speaker.
        scores: (trial,) finite.
        weights: (trial,) whole numbers >= 0, how many times each trial counts; once each by default.

    Raises:
        ProbeError: no targets or no non-targets (there is no empty case), a score that is not finite, lengths that differ,
            weights that are negative or not whole.
    """
    is_target, ranks = ranked(target, scores)
    counted = np.ones(len(ranks), np.int64) if weights is None else np.asarray(weights)
    if counted.shape != ranks.shape or counted.dtype.kind not in "biu" or (counted < 0).any():
        raise ProbeError(
            f"weights: found {counted.dtype} of shape {counted.shape}; "
            f"expected a whole number >= 0 for each of {len(ranks)} trials."
        )
    n_ranks = int(ranks.max(initial=-1)) + 1
    return eer_of_ranks(per_rank(ranks, counted * is_target, n_ranks), per_rank(ranks, counted * ~is_target, n_ranks))


def ranked(target: ArrayLike, scores: ArrayLike) -> tuple[Bools, Ints]:
    """Targets as bool, and dense ranks of the scores: 0 for the lowest, ties share one, none is left out. Both (trial,).

    Raises:
        ProbeError: lengths that differ, a target that is not 0 or 1, a score that is not finite.
    """
    kinds, values = np.asarray(target), np.asarray(scores)
    if kinds.ndim != 1 or kinds.shape != values.shape:
        raise ProbeError(f"targets of shape {kinds.shape}, scores of shape {values.shape}; expected one of each per trial.")
    if not np.isin(kinds, (0, 1)).all():
        raise ProbeError("targets: found values other than 0 and 1; are targets and scores exchanged?")
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
    """The EER of trials that are sorted already: what a bootstrap calls a thousand times.

    Args:
        targets: (rank,) int64 >= 0, target trials at each rank, ascending; a rank without a trial does no harm.
        others: (rank,) int64 >= 0, non-target trials likewise.

    Raises:
        ProbeError: no targets or no non-targets.
    """
    n_targets, n_others = int(targets.sum()), int(others.sum())
    if not n_targets or not n_others:
        raise ProbeError(
            f"{n_targets} target and {n_others} non-target trials: the EER needs both. Check the trial list, "
            "and whether the utterances of one kind were left out."
        )
    # With ranks 0..r rejected, missed[r] / n_targets is the miss rate and 1 - rejected[r] / n_others the false acceptance rate.
    # gap[r] is miss rate - false acceptance rate, times n_targets * n_others: it rises from -1 (before rank 0) to 1 times that.
    missed, rejected = np.cumsum(targets), np.cumsum(others)
    gap = missed * n_others + rejected * n_targets - n_targets * n_others
    crossing = int(np.searchsorted(gap, 0))
    before = int(gap[crossing - 1]) if crossing else -n_targets * n_others
    step = int(gap[crossing]) - before
    missed_before = int(missed[crossing] - targets[crossing])
    return (missed_before * step - before * int(targets[crossing])) / (n_targets * step)
