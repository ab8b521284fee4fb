"""Metrics of utterances that may have several tags: mean average precision and F1 over tags.

Definitions, per tag and then averaged over the tags that at least one utterance has:

* ``map``: average precision, the mean over a tag's utterances of the precision among all
  utterances with at least their score. Equal to scikit-learn's ``average_precision_score``; equal
  scores are passed in one step.
* ``tag_f1``: the F1 of the decisions, as scikit-learn's ``f1_score(average="macro")``.

Average precision ranks the utterances of all speakers against each other, so that it is no function
of sums over speakers. Records hold the value and by how much each speaker moves it
(`probe.measures.counts.influence_counts`), from the values without each speaker that the functions
here return.

Conventions: the value stands first in what a function returns, then the values without each block
(speaker) in the order of ``sorted(set(blocks))``. NaN stands where no utterance has any tag.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CELLS_AT_ONCE = 1 << 22  # (block, utterance with the tag) cells


def mean_average_precision(blocks: Sequence[str], has_tag: Bools, scores: Floats) -> Floats:
    """Return (1 + block,) the mean average precision, and the same without each block.

    Args:
        blocks: (utterance,) names of speakers.
        has_tag: (utterance, tag).
        scores: (utterance, tag); higher means more likely to have the tag.
    """
    names, at = np.unique(np.asarray(blocks), return_inverse=True)
    of_tags = [
        _average_precisions(at, len(names), *columns)
        for columns in zip(has_tag.T, np.asarray(scores, np.float64).T, strict=True)
    ]
    return _mean_of_tags(np.stack(of_tags))


def tag_f1(blocks: Sequence[str], has_tag: Bools, predicted: Bools) -> Floats:
    """Return (1 + block,) the macro-averaged F1 of (utterance, tag) decisions, and the same
    without each block.
    """
    names, at = np.unique(np.asarray(blocks), return_inverse=True)
    sums = []
    for cells in (has_tag, predicted, has_tag & predicted):
        of_blocks = np.zeros((len(names), has_tag.shape[1]))
        np.add.at(of_blocks, at, cells)
        sums.append(np.vstack([of_blocks.sum(axis=0), of_blocks.sum(axis=0) - of_blocks]))
    n_true, n_predicted, n_right = sums
    f1 = np.full_like(n_true, np.nan)
    np.divide(2 * n_right, n_true + n_predicted, out=f1, where=n_true > 0)
    return _mean_of_tags(f1.T)


def _average_precisions(
    at: NDArray[np.int64], n_blocks: int, has_tag: Bools, scores: Floats
) -> Floats:
    """Return (1 + block,) the average precision of one tag; NaN where no utterance has it."""
    values = np.full(1 + n_blocks, np.nan)
    tagged = np.flatnonzero(has_tag)[np.argsort(-scores[has_tag], kind="stable")]
    n_tagged = len(tagged)
    if not n_tagged:
        return values
    # The first tagged utterance, in the order of falling scores, that an utterance is counted for.
    place = np.searchsorted(-scores[tagged], -scores, side="left")
    n_all = np.cumsum(np.bincount(place, minlength=n_tagged + 1))[:-1]
    n_right = np.cumsum(np.bincount(place[has_tag], minlength=n_tagged + 1))[:-1]
    values[0] = np.mean(n_right / n_all)
    together = max(1, CELLS_AT_ONCE // (n_tagged + 1))
    for first in range(0, n_blocks, together):
        here = np.arange(first, min(first + together, n_blocks))
        rest_all, rest_right = (
            total - _counted(at[rows] - first, place[rows], len(here), n_tagged)
            for total, rows in (
                (n_all, (at >= first) & (at <= here[-1])),
                (n_right, has_tag & (at >= first) & (at <= here[-1])),
            )
        )
        kept = at[tagged] != here[:, None]
        precision = np.divide(rest_right, rest_all, out=np.zeros(kept.shape), where=kept)
        n_kept = kept.sum(axis=1)
        np.divide(
            precision.sum(axis=1), n_kept, out=values[1 + here[0] :][: len(here)], where=n_kept > 0
        )
    return values


def _counted(
    at: NDArray[np.int64], place: NDArray[np.int64], n_blocks: int, n_tagged: int
) -> NDArray[np.int64]:
    """Return (block, tagged utterance) how many utterances of the block have at least its score."""
    n_cells = n_blocks * (n_tagged + 1)
    cells = np.bincount(at * (n_tagged + 1) + place, minlength=n_cells)
    counted: NDArray[np.int64] = np.cumsum(cells.reshape(n_blocks, -1), axis=1)[:, :-1]
    return counted


def _mean_of_tags(values: Floats) -> Floats:
    """Return (row,) the means of (tag, row) values over the tags that are defined."""
    defined = ~np.isnan(values)
    n_defined = defined.sum(axis=0)
    sums = np.where(defined, values, 0.0).sum(axis=0)
    return np.divide(sums, n_defined, out=np.full(len(sums), np.nan), where=n_defined > 0)
