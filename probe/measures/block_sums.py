"""Metrics that are functions of sums over blocks: concordance and correlations of numbers, and
averages over classes.

Aim: a value, and the value without any of the blocks, from a few sums for each block (speaker).
Records hold the sums in one of two forms, see `docs/records.md`:

* moments of true and predicted numbers: `moment_counts`;
* a confusion matrix for each block, without its empty cells: `class_counts`.

Definitions, with means m, variances s^2 and the covariance c over all utterances (divisor n):

* ``ccc`` 2 c / (s_x^2 + s_y^2 + (m_x - m_y)^2) (Lin 1989, "A concordance correlation coefficient
  to evaluate reproducibility", Biometrics 45); 0 where all predictions are equal;
* ``pearson`` c / (s_x s_y), as ``scipy.stats.pearsonr``; undefined where either is constant;
* ``spearman`` the same of midranks over all scored utterances, as ``scipy.stats.spearmanr``.
  Midranks are divided by the number of utterances, so that folds can be pooled. Without a block
  the midranks of the others stay as they are;
* ``r2`` 1 - mean (x - y)^2 / s_x^2, as scikit-learn's ``r2_score``; undefined where the truth is
  constant;
* ``uar`` the mean of the recalls of all classes that occur, as scikit-learn's
  ``balanced_accuracy_score``;
* ``macro_f1`` the mean of the F1 of all classes that occur or are predicted, as scikit-learn's
  ``f1_score(average="macro")``.

Conventions: sums are (row, column) float64, one row a block or a set of blocks. A value that is
undefined is NaN.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from probe.errors import ProbeError
from probe.measures.metrics import CCC, MACRO_F1, PEARSON, R2, SPEARMAN, UAR
from probe.records import hashed_block

Floats = NDArray[np.float64]
Counts = dict[str, Any]
SumMetric = Callable[[Floats], Floats]  # (row, column) sums -> (row,) values

RATIO = ("numerator", "denominator")
MOMENTS = ("n", "truth", "predicted", "truth_squares", "predicted_squares", "products")
CELLS = ("at", "true_class", "predicted_class", "n")
# A variance below this share of the mean square is a rounding error.
ROUNDING = 1e-12


def moment_counts(
    blocks: Sequence[str], truth: ArrayLike, predicted: ArrayLike, ranks: bool = False
) -> Counts:
    """Sums per block of true and predicted numbers: ``block``, and one entry a block in each of
    `MOMENTS`.

    Numbers whose mean is more than 100,000 times their spread lose digits; subtract a constant.

    Args:
        blocks: (utterance,) names of speakers.
        truth, predicted: (utterance,) finite.
        ranks: whether to take the numbers' midranks, for ``spearman``.

    Raises:
        ProbeError: lengths that differ, or a number that is not finite.
    """
    both = np.stack([np.asarray(values, np.float64) for values in (truth, predicted)])
    if both.shape != (2, len(blocks)) or not np.isfinite(both).all():
        raise ProbeError(
            f"numbers of shape {both.shape[1:]}, not all finite; expected a true and a predicted "
            f"number for each of {len(blocks)} utterances."
        )
    if ranks:
        from scipy.stats import rankdata  # its import takes a second

        both = (rankdata(both, axis=1) - (len(blocks) + 1) / 2) / len(blocks)
    x, y = both
    names, at = np.unique([hashed_block(name) for name in blocks], return_inverse=True)
    columns = (None, x, y, x * x, y * y, x * y)
    sums = [np.bincount(at, weights=column, minlength=len(names)) for column in columns]
    return {
        "block": names.tolist(),
        **{name: column.tolist() for name, column in zip(MOMENTS, sums, strict=True)},
    }


def class_counts(
    blocks: Sequence[str], truth: Sequence[str], predicted: Sequence[str], classes: Sequence[str]
) -> Counts:
    """How often each class was predicted for each class, per block: ``block`` and ``class`` (the
    names of both), and one entry a cell in each of `CELLS`, the first three positions.

    Args:
        blocks: (utterance,) names of speakers.
        truth, predicted: (utterance,) each one of ``classes``.
        classes: the names of all classes, sorted.

    Raises:
        ProbeError: lengths that differ, or a class that is none of ``classes``.
    """
    if not len(blocks) == len(truth) == len(predicted):
        raise ProbeError(
            f"{len(truth)} true and {len(predicted)} predicted classes; expected one for each of "
            f"{len(blocks)} utterances."
        )
    if unknown := {*truth, *predicted} - set(classes):
        raise ProbeError(f"class {min(unknown)!r}; expected one of the {len(classes)} classes.")
    digests = map(hashed_block, blocks)
    return _cells(Counter(zip(digests, truth, predicted, strict=True)), classes)


def pooled_classes(parts: Sequence[Counts]) -> Counts:
    """The counts of `class_counts` of several sets of utterances together."""
    cells: Counter[tuple[str, str, str]] = Counter()
    for part in parts:
        for at, true, guess, n in zip(*(part[name] for name in CELLS), strict=True):
            cells[part["block"][at], part["class"][true], part["class"][guess]] += int(n)
    return _cells(cells, list(dict.fromkeys(name for part in parts for name in part["class"])))


def _cells(cells: Counter[tuple[str, str, str]], classes: Sequence[str]) -> Counts:
    """Counts from (block, true class, predicted class) -> utterances."""
    block = sorted({digest for digest, _, _ in cells})
    places = [{name: i for i, name in enumerate(names)} for names in (block, classes, classes)]
    rows = sorted(
        (*(place[name] for place, name in zip(places, cell, strict=True)), n)
        for cell, n in cells.items()
    )
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in CELLS]
    return {"block": block, "class": list(classes), **dict(zip(CELLS, columns, strict=True))}


def block_sums(counts: Counts) -> Floats:
    """(block, column) the sums of a ratio, of moments (`MOMENTS`), or of classes: for each class
    the utterances that have it, those it is predicted for, and those of both.
    """
    if "class" not in counts:
        names = RATIO if "numerator" in counts else MOMENTS
        return np.stack([np.asarray(counts[name], np.float64) for name in names], axis=1)
    n_blocks, n_classes = len(counts["block"]), len(counts["class"])
    at, true, predicted, n = (np.asarray(counts[name], np.int64) for name in CELLS)
    sums = np.zeros((3, n_blocks, n_classes))
    np.add.at(sums[0], (at, true), n)
    np.add.at(sums[1], (at, predicted), n)
    right = true == predicted
    np.add.at(sums[2], (at[right], true[right]), n[right])
    return sums.transpose(1, 0, 2).reshape(n_blocks, 3 * n_classes)


def confusion(counts: Counts) -> NDArray[np.int64]:
    """(true class, predicted class) utterances of all blocks together."""
    _, true, predicted, n = (np.asarray(counts[name], np.int64) for name in CELLS)
    matrix = np.zeros((len(counts["class"]), len(counts["class"])), np.int64)
    np.add.at(matrix, (true, predicted), n)
    return matrix


def exact_class_metric(counts: Counts, metric: str) -> float:
    """UAR or macro-F1 of all blocks together, from exact fractions: a float sum of quotients may
    lie below a tie that an equal accuracy rounds up.

    Returns:
        NaN where there are no utterances.
    """
    matrix = confusion(counts)
    n_true, n_predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    factor, bottom = (1, n_true) if metric == UAR.name else (2, n_true + n_predicted)
    quotients = [
        Fraction(factor * int(right), int(n))
        for right, n in zip(matrix.diagonal(), bottom, strict=True)
        if n
    ]
    return float(sum(quotients) / len(quotients)) if quotients else float("nan")


def class_units(counts: Counts) -> float:
    """The independent utterances that the mean of K recalls rests on: K^2 / sum of 1 / n over the
    classes' numbers of utterances.

    So many independent utterances of one recall have the variance of a mean of recalls that are
    all equal. For two classes it is the number that an equal error rate rests on.
    """
    n = confusion(counts).sum(axis=1)
    n = n[n > 0]
    return float(len(n) ** 2 / np.sum(1 / n))


def sum_metric(counts: Counts, metric: str) -> SumMetric:
    """The function that computes a metric of these counts from sums; a ratio has one.

    Raises:
        ProbeError: these counts have no such metric.
    """
    if "numerator" in counts:
        return _ratio
    known = CLASS_METRICS if "class" in counts else MOMENT_METRICS
    if metric not in known:
        raise ProbeError(f"metric {metric!r} of sums; expected one of {', '.join(known)}.")
    return known[metric]


def _ratio(sums: Floats) -> Floats:
    return _quotient(sums[:, 0], sums[:, 1])


def _concordance(sums: Floats) -> Floats:
    mean_x, mean_y, var_x, var_y, cov = _moments(sums)
    return _quotient(2 * cov, var_x + var_y + np.square(mean_x - mean_y))


def _correlation(sums: Floats) -> Floats:
    _, _, var_x, var_y, cov = _moments(sums)
    values = _quotient(cov, np.sqrt(var_x * var_y))
    return np.clip(values, -1, 1)


def _determination(sums: Floats) -> Floats:
    _, _, var_x, _, _ = _moments(sums)
    n, _, _, x_squares, y_squares, products = sums.T
    return 1 - _quotient(_quotient(x_squares - 2 * products + y_squares, n), var_x)


def _moments(sums: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Means, variances and covariance, (row,) each; variances that are rounding errors are 0."""
    n = sums[:, 0]
    mean_x, mean_y, squares_x, squares_y, products = (_quotient(sum_, n) for sum_ in sums.T[1:])
    variances = []
    for mean, squares in ((mean_x, squares_x), (mean_y, squares_y)):
        variance = squares - np.square(mean)
        variances.append(np.where(variance > ROUNDING * squares, variance, 0.0))
    var_x, var_y = variances
    none = (var_x == 0) | (var_y == 0)
    return mean_x, mean_y, var_x, var_y, np.where(none, 0.0, products - mean_x * mean_y)


def _mean_recall(sums: Floats) -> Floats:
    n_true, _, n_right = _of_classes(sums)
    return _mean_of_classes(n_right, n_true)


def _mean_f1(sums: Floats) -> Floats:
    n_true, n_predicted, n_right = _of_classes(sums)
    return _mean_of_classes(2 * n_right, n_true + n_predicted)


def _of_classes(sums: Floats) -> Floats:
    """(3, row, class)"""
    return sums.reshape(len(sums), 3, -1).transpose(1, 0, 2)


def _mean_of_classes(top: Floats, bottom: Floats) -> Floats:
    """(row,) the mean of quotients over classes where there is one."""
    quotients = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
    return _quotient(quotients.sum(axis=1), (bottom > 0).sum(axis=1).astype(np.float64))


def _quotient(top: Floats, bottom: Floats) -> Floats:
    """NaN where nothing is to divide by."""
    return np.divide(top, bottom, out=np.full_like(top, np.nan, np.float64), where=bottom > 0)


MOMENT_METRICS: dict[str, SumMetric] = {
    CCC.name: _concordance,
    PEARSON.name: _correlation,
    SPEARMAN.name: _correlation,
    R2.name: _determination,
}
CLASS_METRICS: dict[str, SumMetric] = {UAR.name: _mean_recall, MACRO_F1.name: _mean_f1}
