"""Discrete units: k-means over frames, and how much they say of the labels of the frames.

The measures are those of HuBERT (Hsu et al. 2021, "HuBERT: self-supervised speech representation
learning by masked prediction of hidden units", section IV.C), of frames with a label y (a phone)
and a unit z; all are fractions, and higher is better:

    phone purity    the mean over frames of p(y*(z) | z), with the most frequent label y* of a unit
    cluster purity  the mean over frames of p(z*(y) | y), with the most frequent unit z* of a label
    PNMI            I(y; z) / H(y), the share of the uncertainty of the label that the unit removes

The probabilities are frequencies in the frames that are scored. The phone purity and the PNMI of
more units are never lower on average, so only equal numbers of units can be compared.

MI-phone and MI-word (Pasad et al. 2021, arXiv 2107.04734) are the PNMI of labelled intervals, with
units that were fitted to other rows (`held_out_information`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.measures.representations import Estimate, estimate_of

Ints = NDArray[np.int64]
BATCH_ROWS = 10_000  # HuBERT's
N_SHUFFLES = 10  # of the labels, for the chance level of the information
ROUNDING = 1e-12  # keeps the mean of information from being above 1 by rounding


def fit_units(rows: np.ndarray, n_units: int, seed: int) -> Any:
    """scikit-learn's k-means of (frame, dim) rows in mini-batches, started by k-means++ as
    HuBERT's; at most as many units as there are different rows.
    """
    from sklearn.cluster import MiniBatchKMeans  # imported in half a second

    model = MiniBatchKMeans(
        n_units,
        init="k-means++",
        batch_size=BATCH_ROWS,
        max_no_improvement=100,
        n_init=5,
        random_state=seed,
        reassignment_ratio=0.0,
    )
    return model.fit(rows.astype(np.float32))


@dataclass(frozen=True)
class UnitScores:
    """What each frame contributes.

    Attributes:
        phone_hits: (frame,) bool, whether its label is the most frequent one of its unit.
        cluster_hits: (frame,) bool, whether its unit is the most frequent one of its label.
        information: (frame,) what its unit says of labels, as a share of their entropy: the
            divergence of p(y | z) from p(y), divided by H(y). Its mean is the PNMI.
    """

    phone_hits: NDArray[np.bool_]
    cluster_hits: NDArray[np.bool_]
    information: NDArray[np.float64]


def score_units(units: Ints, labels: Sequence[str]) -> UnitScores:
    """The measures of (frame,) units and their labels.

    All labels alike have no entropy; the information is 0 then.
    """
    _, y = np.unique(np.asarray(labels), return_inverse=True)
    _, z = np.unique(units, return_inverse=True)
    joint = np.zeros((z.max() + 1, y.max() + 1))
    np.add.at(joint, (z, y), 1)
    of_label, of_unit = joint.sum(axis=0) / len(y), joint / joint.sum(axis=1, keepdims=True)
    entropy = -float((of_label * np.log(of_label)).sum())
    ratios = np.divide(of_unit, of_label, out=np.ones_like(of_unit), where=of_unit > 0)
    divergence = (of_unit * np.log(ratios)).sum(axis=1).clip(min=0)
    information = divergence / entropy if entropy > 0 else np.zeros_like(divergence)
    information *= 1 - ROUNDING
    return UnitScores(
        joint.argmax(axis=1)[z] == y, joint.argmax(axis=0)[y] == z, np.asarray(information[z])
    )


def held_out_information(
    rows: np.ndarray,
    labels: Sequence[str],
    parts: Ints,
    n_units: int,
    bounds: Sequence[int],
    seed: int,
) -> Estimate:
    """The share of the entropy of labels that units remove which were fitted to other rows.

    The rows of even parts have units that were fitted to the rows of odd parts, and the other way
    round; the value is the mean of both. ``chance`` is the value of shuffled labels with the same
    units: counting finds information in any table with few rows for each cell.

    Args:
        rows: (row, dim) float.
        labels, parts: (row,) of each row.
        bounds: (group + 1,) of the groups of rows that a jackknife over the scored rows leaves out;
            the units stay as they are.
    """
    y, groups = np.asarray(labels), np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    generator = np.random.default_rng([seed, len(y)])
    values, chances = [], []
    for half in (0, 1):
        scored = parts % 2 == half
        units = fit_units(rows[~scored], n_units, seed).predict(rows[scored].astype(np.float32))
        of_rows, of_groups = y[scored], groups[scored]

        left_out = [of_groups != group for group in range(len(bounds) - 1)]
        values.append(
            [
                _information(units, of_rows),
                *(_information(units[kept], of_rows[kept]) for kept in left_out),
            ]
        )
        shuffles = [generator.permutation(of_rows) for _ in range(N_SHUFFLES)]
        chances.append(np.mean([_information(units, labels) for labels in shuffles]))
    return estimate_of([*map(float, np.mean(values, axis=0))], float(np.mean(chances)))


def _information(units: Ints, labels: np.ndarray) -> float:
    if not len(units):
        return 0.0
    return float(score_units(units, labels.tolist()).information.mean())
