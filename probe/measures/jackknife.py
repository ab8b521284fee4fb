"""The delete-one-block jackknife of functions of sums over blocks.

Source: Miller 1974, "The jackknife: a review", Biometrika 61; Efron & Tibshirani 1993, "An
introduction to the bootstrap", chapter 11. Blocks are left out as a whole, since utterances of one
speaker correlate.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def jackknife(sums: Floats, function: Callable[[Floats], Floats]) -> Floats:
    """(block,) by how much each block moves the value of ``function``.

    With v_i the value without block i, v their mean and B the number of blocks it is
    (B - 1) / B * (v - v_i), so that B / (B - 1) times the sum of squares is the jackknife's
    variance, and of a mean of equal blocks it is what each block contributes.

    Args:
        sums: (block, column).
        function: (row, column) -> (row,).

    Returns:
        NaN everywhere where the value without some block is undefined.
    """
    return influences(function(sums.sum(axis=0) - sums))


def influences(without: Floats) -> Floats:
    """(block,) see `jackknife`, from the (block,) values without each block."""
    n_blocks = len(without)
    moved: Floats = (n_blocks - 1) / n_blocks * (without.mean() - without)
    return moved
