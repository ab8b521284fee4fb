"""How similar two sets of representations are: cosine and relative distance, linear CKA, PWCCA.

docs/similarity.md defines the measures, says when their values are too high, and how they differ
from those of other code. X is (row, dim of X), Y is (row, dim of Y); row i of both belongs to the
same sound; n is the number of rows. All measures but the distance are higher where the two are more
similar.

CKA (Kornblith et al. 2019, arXiv 1905.00414) takes the unbiased estimator of HSIC (Song et al.
2012, JMLR 13), exactly and without a Gram matrix: with X and Y centred and q the squared lengths of
rows, |X'Y|^2 - n / (n - 2) sum_i qx_i qy_i + (sum qx) (sum qy) / ((n - 1) (n - 2)), times
1 / (n (n - 3)), which cancels.

PWCCA (Morcos et al. 2018, arXiv 1806.05759) is sum_i a_i r_i / sum_i a_i with the canonical
correlations r_i and a_i = sum_j |h_i . z_j| over the columns of one side Z with the variates h_i: Z
is the narrower side, and X where both are equally wide. Directions whose variance is below
`EPSILON` times the largest are the rounding of stored features and left out; no ridge is added. Of
two independent Gaussian sets the mean squared correlation is d / (n - 1), d the larger width;
`Estimate.chance` is the root of that.

Intervals come from a jackknife over groups of blocks: each group is left out once (rows are centred
and directions fitted anew), the standard error is sqrt((G - 1) / G sum_g (v_g - mean)^2), and the
interval is value +- t * se with t of Student's distribution with G - 1 degrees of freedom, 95 %.
There is none of fewer groups than scores need blocks (`probe.measures.uncertainty`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from probe.errors import ProbeError
from probe.measures.uncertainty import FEWEST_BLOCKS

EPSILON = 1e-6
LEAST_RATIO, SAFE_RATIO = 4, 10  # rows per dimension of the wider side
LEAST_ROWS = 4  # the unbiased estimator needs as many
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value and its interval.

    Attributes:
        value: None where it is not defined (a side does not vary) or refused (too few rows).
        low, high: None where groups are too few, or rows without one of them.
        chance: what independent data of this size would give at most; None where that is 0.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    chance: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Two sides compared: CKA, and PWCCA in both orders."""

    cka: Estimate
    pwcca: Estimate
    reversed_pwcca: Estimate


class Sample:
    """Rows of one side, centred, and what the jackknife needs.

    Attributes:
        values: (row, dim) float32.
        bounds: group g holds the rows ``bounds[g]`` to ``bounds[g + 1]``.
        shifts: (1 + group, dim) float64, the mean without each group; of all rows first.
        counts: (1 + group,) rows without each group; of all rows first.
    """

    def __init__(self, rows: np.ndarray, bounds: Sequence[int] = ()) -> None:
        """Take (row, dim) float.

        Args:
            bounds: (group + 1,) ascending, from 0 to the number of rows; one group where empty.

        Raises:
            ProbeError: values are not finite, or bounds do not divide the rows.
        """
        self.bounds = [int(bound) for bound in bounds] or [0, len(rows)]
        ends = self.bounds[0], self.bounds[-1]
        if rows.ndim != 2 or self.bounds != sorted(self.bounds) or ends != (0, len(rows)):
            raise ProbeError(
                f"rows of shape {rows.shape} and bounds {self.bounds}: expected (row, dim), bounds "
                "from 0 to the last row."
            )
        if not np.isfinite(rows).all():
            raise ProbeError("some values are not finite; expected finite features.")
        mean = rows.mean(axis=0, dtype=np.float64) if len(rows) else np.zeros(rows.shape[1])
        self.values = torch.from_numpy((rows - mean).astype(np.float32))
        sums = torch.stack([part.sum(dim=0) for part in self.parts()])
        self.counts = [len(rows), *(len(rows) - size for size in np.diff(self.bounds).tolist())]
        left = torch.cat([sums.sum(dim=0)[None], sums.sum(dim=0) - sums])
        self.shifts = left / torch.tensor(self.counts).clamp(min=1)[:, None]

    @property
    def width(self) -> int:
        """Dimensions."""
        return self.values.shape[1]

    def parts(self) -> list[Tensor]:
        """(row, dim) float64 of each group."""
        spans = zip(self.bounds[:-1], self.bounds[1:], strict=True)
        return [self.values[start:stop].double() for start, stop in spans]

    @cached_property
    def squares(self) -> Tensor:
        """(1 + group, row) float64: squared lengths of the rows around the mean without each group;
        0 for the rows of that group.
        """
        shifts = self.shifts
        parts = [
            (part**2).sum(dim=1)[None] - 2 * shifts @ part.T + (shifts**2).sum(dim=1)[:, None]
            for part in self.parts()
        ]
        for group, part in enumerate(parts):
            part[1 + group] = 0
        return torch.cat(parts, dim=1)

    @cached_property
    def own_hsic(self) -> list[float]:
        """HSIC of the side with itself, without each group."""
        items = zip(products_left(self, self), self.squares, self.squares, self.counts, strict=True)
        return [_hsic(*item) for item in items]

    @cached_property
    def axes(self) -> list[tuple[Tensor, Tensor]]:
        """Principal axes without each group: (axis, dim) unit rows, and the roots of their scatter
        (axis,), both float64.
        """
        axes = []
        for scatter in products_left(self, self):
            values, vectors = torch.linalg.eigh(scatter)
            kept = (values >= EPSILON * values[-1]) & (values > 0)
            axes.append((vectors.T[kept], values[kept].sqrt()))
        return axes


def cosine_and_distance(clean: np.ndarray, disturbed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and relative distance of each pair of rows.

    Args:
        clean, disturbed: (row, dim) float.

    Returns:
        (row,) float64 twice; NaN where ``clean``, or for the cosine either row, is 0.
    """
    one, other = clean.astype(np.float64), disturbed.astype(np.float64)
    lengths, lengths_other = np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.einsum("ij,ij->i", one, other) / (lengths * lengths_other)
        distance = np.linalg.norm(other - one, axis=1) / lengths
    return np.clip(cosine, -1, 1), np.where(lengths > 0, distance, np.nan)


def enough_rows(n_rows: int, width: int) -> bool:
    """Whether PWCCA of sides as wide as ``width`` at most may be taken."""
    return n_rows >= LEAST_RATIO * width


def products_left(x: Sample, y: Sample) -> list[Tensor]:
    """(dim of X, dim of Y) float64 ``X'Y``, centred: of all rows, and without each group."""
    of_groups = [one.T @ other for one, other in zip(x.parts(), y.parts(), strict=True)]
    whole = torch.stack(of_groups).sum(dim=0)
    left = [whole, *(whole - part for part in of_groups)]
    items = zip(left, x.counts, x.shifts, y.shifts, strict=True)
    return [product - count * torch.outer(one, other) for product, count, one, other in items]


def compare(x: Sample, y: Sample, with_pwcca: bool = True) -> Comparison:
    """CKA and PWCCA of two sides with the same rows in the same groups.

    Raises:
        ProbeError: other rows or groups, or fewer than `LEAST_ROWS`.
    """
    if x.bounds != y.bounds:
        raise ProbeError(
            f"{len(x.values)} and {len(y.values)} rows in {len(x.bounds) - 1} and "
            f"{len(y.bounds) - 1} groups: expected the same."
        )
    if len(x.values) < LEAST_ROWS:
        raise ProbeError(f"{len(x.values)} rows: expected {LEAST_ROWS} or more.")
    products = products_left(x, y)
    cka = estimate_of([_cka(x, y, index, product) for index, product in enumerate(products)])
    width = max(x.width, y.width)
    if not with_pwcca or not enough_rows(len(x.values), width):
        return Comparison(cka, Estimate(None), Estimate(None))
    if min(x.counts) < LEAST_RATIO * width / 2:
        products = products[:1]  # without a group there are too few rows for an interval
    pairs = [_pwcca(x, y, index, product) for index, product in enumerate(products)]
    ranks = [len(side.axes[0][1]) for side in (x, y)]
    chance = min(1.0, (max(ranks) / (len(x.values) - 1)) ** 0.5)
    one, other = (
        estimate_of([pair[side] for pair in pairs], chance if min(ranks) else None)
        for side in (0, 1)
    )
    if x.width == y.width:
        return Comparison(cka, one, other)
    narrower = one if x.width < y.width else other
    return Comparison(cka, narrower, narrower)


def _hsic(products: Tensor, squares: Tensor, squares_other: Tensor, n: int) -> float:
    """n (n - 3) times the unbiased HSIC; 0 where n is below `LEAST_ROWS`."""
    if n < LEAST_ROWS:
        return 0.0
    sums = squares.sum() * squares_other.sum() / ((n - 1) * (n - 2))
    return float((products**2).sum() - n / (n - 2) * (squares @ squares_other) + sums)


def _cka(x: Sample, y: Sample, index: int, products: Tensor) -> float | None:
    one, other = x.own_hsic[index], y.own_hsic[index]
    if one <= 0 or other <= 0:
        return None
    shared = _hsic(products, x.squares[index], y.squares[index], x.counts[index])
    return max(-1.0, min(1.0, shared / (one * other) ** 0.5))


def _pwcca(x: Sample, y: Sample, index: int, products: Tensor) -> tuple[float | None, float | None]:
    """PWCCA weighted by X and by Y."""
    (axes, roots), (axes_other, roots_other) = x.axes[index], y.axes[index]
    if not len(roots) or not len(roots_other):
        return None, None
    correlations = (axes / roots[:, None]) @ products @ (axes_other / roots_other[:, None]).T
    # Once white, float32 is enough (1e-6) and twice as fast.
    left, singular, right = torch.linalg.svd(correlations.float(), full_matrices=False)
    weights = [
        ((variates * scale.float()) @ own.float()).abs().sum(dim=1)
        for variates, scale, own in ((left.T, roots, axes), (right, roots_other, axes_other))
    ]
    one, other = (float((share @ singular.clamp(max=1)) / share.sum()) for share in weights)
    return one, other


def estimate_of(values: Sequence[float | None], chance: float | None = None) -> Estimate:
    """The first value, with a jackknife interval from the others, each without one group."""
    value, *left_out = values
    known = [item for item in left_out if item is not None]
    if value is None or len(known) < max(FEWEST_BLOCKS, len(left_out)):
        return Estimate(value, chance=chance)
    n = len(known)
    error = np.sqrt((n - 1) * np.var(known))
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2) * error)
    return Estimate(value, max(-1.0, value - half), min(1.0, value + half), chance)
