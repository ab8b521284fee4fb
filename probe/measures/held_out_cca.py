"""Projection-weighted CCA on rows that the directions were not fitted to.

The protocol is that of Pasad et al. (2021, arXiv 2107.04734; 2023, arXiv 2211.03929; their code:
ankitapasad/layerwise-analysis). The rows are divided into `N_PARTS` parts, each label evenly. In
each of `N_TRIALS` trials one part is dev, another is test, and the remaining eight are training
rows; no part is dev or test twice. For every epsilon, directions are fitted on the training rows;
the epsilon with the highest PWCCA on dev gives the PWCCA on test; the value is the mean over the
trials. Values of unrelated sets are near 0 and may be below it.

X is (row, dim of X), Y is (row, dim of Y). With A and B the covariances of the training rows, and a
and b the largest entries of each, the directions are the singular vectors U and V of
(A + epsilon a)^-1/2 X'Y (B + epsilon b)^-1/2. On dev and on test, both sides are centred, and r_i
is the correlation of the variates x_i and y_i, with its sign. The weights of PWCCA (Morcos et al.
2018, arXiv 1806.05759) are a_i = sum_j |p_i . z_j| over the columns z_j of the narrower side (of X
where both are equally wide), with p the variates of that side after orthonormalisation (QR).

This differs from the published code in three points. Axes whose variance is below
`probe.measures.representations.EPSILON` of the largest are left out: they are the rounding of
stored features, and the one that a set of one-hot rows lacks. One epsilon serves both sides, and
the epsilons reach further up (`EPSILONS`); the code draws six of nine pairs from 1e-11 to 1e-9,
which regularise nothing at the precision of stored features. Its addition of the columns' means to
the variates is left out; it changes nothing where the rows are centred.

Intervals are of the fitted directions, as those of a trained probe are: a jackknife over the groups
of the test rows, see `probe.measures.representations`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe.errors import ProbeError
from probe.measures.representations import EPSILON, Estimate, Sample, estimate_of

N_PARTS, N_TRIALS = 10, 3
EPSILONS = (1e-10, 1e-4, 1e-2, 1e-1, 1.0)


def parts_of(labels: Sequence[str], seed: int) -> NDArray[np.int64]:
    """(row,) the part of each row, 0 to `N_PARTS` - 1, drawn at random.

    Args:
        labels: (row,) each label is spread evenly over the parts, so one with `N_PARTS` rows or
            more is in every part; rows without labels have equal ones.
    """
    generator = np.random.default_rng([seed, len(labels)])
    numbers = np.unique(np.asarray(labels, str), return_inverse=True)[1]
    order = np.lexsort((generator.random(len(numbers)), numbers))
    parts = np.zeros(len(numbers), np.int64)
    parts[order] = generator.permutation(N_PARTS)[np.arange(len(order)) % N_PARTS]
    return parts


@dataclass(frozen=True)
class _Axes:
    """One side in one trial.

    Attributes:
        mean: (dim,) of the training rows.
        axes: (dim, axis) principal axes of the training rows, unit columns.
        variances: (axis,) along them.
        largest: the largest entry of the covariance.
        held_out: the dev rows and the test rows, each (row, dim) and centred.
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor
    largest: float
    held_out: tuple[Tensor, Tensor]

    def whitening(self, epsilon: float) -> Tensor:
        """(dim, axis) the map to whitened axes."""
        return self.axes / (self.variances + epsilon * self.largest).sqrt()


class HeldOutSide:
    """One side of a comparison: rows, their parts, and what is fitted to the training rows of each
    trial.
    """

    def __init__(self, sample: Sample, parts: NDArray[np.int64]) -> None:
        """Take the rows of a sample and the part of each.

        Raises:
            ProbeError: other numbers of rows and parts.
        """
        if len(sample.values) != len(parts):
            raise ProbeError(f"{len(sample.values)} rows and {len(parts)} parts: expected as many.")
        self.sample, self.parts = sample, parts

    def rows(self, part: int) -> Tensor:
        """(row, dim) float64 of a part."""
        return self.sample.values[torch.from_numpy(self.parts == part)].double()

    @cached_property
    def trials(self) -> list[_Axes]:
        """What is fitted in each trial."""
        parts = [self.rows(part) for part in range(N_PARTS)]
        scatters, sums = [rows.T @ rows for rows in parts], [rows.sum(dim=0) for rows in parts]
        trials = []
        for dev, test in map(_held_out_parts, range(N_TRIALS)):
            used = [part for part in range(N_PARTS) if part not in (dev, test)]
            n = sum(len(parts[part]) for part in used)
            mean = torch.stack([sums[part] for part in used]).sum(dim=0) / max(1, n)
            scatter = torch.stack([scatters[part] for part in used]).sum(dim=0)
            covariance = (scatter - n * torch.outer(mean, mean)) / max(1, n - 1)
            variances, axes = torch.linalg.eigh(covariance)
            kept = (variances >= EPSILON * variances[-1]) & (variances > 0)
            held_out = tuple(_centred(parts[part]) for part in (dev, test))
            trials.append(
                _Axes(
                    mean,
                    axes[:, kept],
                    variances[kept],
                    float(covariance.diagonal().max()),
                    (held_out[0], held_out[1]),
                )
            )
        return trials


def _held_out_parts(trial: int) -> tuple[int, int]:
    """The dev part and the test part."""
    return 2 * trial, 2 * trial + 1


@dataclass(frozen=True)
class HeldOutValue:
    """PWCCA on test rows, and the epsilon that dev chose in each trial (empty without a value)."""

    estimate: Estimate
    epsilons: tuple[float, ...] = ()


def held_out_cca(
    x: HeldOutSide, y: HeldOutSide, epsilons: Sequence[float] = EPSILONS
) -> tuple[HeldOutValue, HeldOutValue]:
    """PWCCA on held-out rows, the mean over the trials with its interval.

    Args:
        x, y: the same rows in the same parts and groups.
        epsilons: shares of the largest entry of each covariance; dev chooses one.

    Returns:
        The value of the sides in this order, and in the other: weights are of the narrower side, or
        of the first where both are equally wide. There is no value where a side does not vary, or
        where a part has no more rows than the narrower side has directions.

    Raises:
        ProbeError: other parts.
    """
    if not np.array_equal(x.parts, y.parts):
        raise ProbeError("the sides have other parts: expected the same rows in the same parts.")
    products = [x.rows(part).T @ y.rows(part) for part in range(N_PARTS)]
    whole = torch.stack(products).sum(dim=0)
    groups = np.repeat(np.arange(len(x.sample.bounds) - 1), np.diff(x.sample.bounds))
    widths = x.sample.width, y.sample.width
    weighting = [0, 1] if widths[0] == widths[1] else [int(widths[0] > widths[1])]
    results: dict[int, list[list[float]]] = {side: [] for side in weighting}
    chosen: dict[int, list[float]] = {side: [] for side in weighting}
    for number, sides in enumerate(zip(x.trials, y.trials, strict=True)):
        dev, test = _held_out_parts(number)
        n_directions = min(side.axes.shape[1] for side in sides)
        if not n_directions or min(len(rows) for rows in sides[0].held_out) <= n_directions:
            return HeldOutValue(Estimate(None)), HeldOutValue(Estimate(None))
        n = int((~np.isin(x.parts, (dev, test))).sum())
        product = whole - products[dev] - products[test]
        product = (product - n * torch.outer(sides[0].mean, sides[1].mean)) / max(1, n - 1)
        fits = [_directions(sides, product, epsilon) for epsilon in epsilons]
        of_dev = [_Variates(sides, fit, 0) for fit in fits]
        of_test = groups[x.parts == test]
        for side in weighting:
            scores = [variates.pwcca(variates.weights(side)) for variates in of_dev]
            best = int(np.argmax(scores))
            variates = _Variates(sides, fits[best], 1)
            weights = variates.weights(side)
            left_out = [
                variates.pwcca(weights, torch.from_numpy(of_test != group))
                for group in range(groups.max() + 1)
            ]
            results[side].append([variates.pwcca(weights), *left_out])
            chosen[side].append(epsilons[best])
    values = [
        HeldOutValue(
            estimate_of(list(map(float, np.mean(results[side], axis=0)))), tuple(chosen[side])
        )
        for side in weighting
    ]
    return values[0], values[-1]


def _directions(
    sides: tuple[_Axes, _Axes], product: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """(dim, direction) of both sides."""
    one, other = (side.whitening(epsilon) for side in sides)
    # Once white, float32 is enough and twice as fast.
    left, _, right = torch.linalg.svd((one.T @ product @ other).float(), full_matrices=False)
    return one @ left.double(), other @ right.T.double()


class _Variates:
    """Held-out rows, and their variates along fitted directions."""

    def __init__(
        self, sides: tuple[_Axes, _Axes], directions: tuple[Tensor, Tensor], split: int
    ) -> None:
        # To choose on dev, float32 is enough and twice as fast.
        dtype = torch.float64 if split else torch.float32
        self.rows = [side.held_out[split].to(dtype) for side in sides]
        self.pair = [
            own @ along.to(dtype) for own, along in zip(self.rows, directions, strict=True)
        ]

    def weights(self, side: int) -> Tensor:
        """(direction,) the share of each direction in the columns of a side; their sum is 1."""
        basis = torch.linalg.qr(self.pair[side])[0]
        shares = (basis.T @ self.rows[side]).abs().sum(dim=1)
        return shares / shares.sum()

    def pwcca(self, weights: Tensor, kept: Tensor | None = None) -> float:
        """The weighted mean of the correlations, of all rows or of those that are kept."""
        one, other = (side if kept is None else _centred(side[kept]) for side in self.pair)
        scales = ((one**2).sum(dim=0) * (other**2).sum(dim=0)).sqrt()
        correlations = torch.where(scales > 0, (one * other).sum(dim=0) / scales, 0.0)
        return float(weights @ correlations)


def _centred(rows: Tensor) -> Tensor:
    return rows - rows.mean(dim=0) if len(rows) else rows
