"""One visit to every row: products, losses and errors of all problems while a block of rows is hot.

Shapes: n rows, d dimensions, s strengths, c classes. Weights stand with their bias in the last row:
(s, d + 1, c).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from probe.heads.linear.logistic_inputs import Inputs
from probe.heads.linear.rows import BLOCK_ROWS

SMALLEST_PROBABILITY = (
    1e-30  # below it a float32 probability loses digits, and its logarithm with them
)


@dataclass
class Logits:
    """What is kept of every row: (n, s, c) logits, and by how much the last direction moved them."""

    now: Tensor
    moved: Tensor

    @classmethod
    def at(cls, bias: Tensor, n_rows: int) -> "Logits":
        """Every row at the bias (s, c)."""
        return cls(bias.repeat(n_rows, 1, 1), bias.new_empty(n_rows, *bias.shape))

    def keep(self, kept: list[int]) -> None:
        """Goes on with some of the problems only."""
        self.moved = self.moved.new_empty(0)  # its memory serves the copy
        self.now = self.now[:, kept]
        self.moved = torch.empty_like(self.now)


def cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(row, s, c) logits, (row,) classes -> summed losses (s,) float64; errors (row, s, c),
    probabilities less the truth.
    """
    errors = logits.softmax(2)
    truth = targets[:, None, None].expand(-1, logits.shape[1], 1)
    right = errors.gather(2, truth)
    losses = -right.log()
    if (rare := right < SMALLEST_PROBABILITY).any():
        losses = torch.where(
            rare, logits.logsumexp(2, keepdim=True) - logits.gather(2, truth), losses
        )
    errors.scatter_(2, truth, right - 1)
    return losses.sum((0, 2), dtype=torch.float64), errors


def visit(
    inputs: Inputs,
    targets: Tensor,
    logits: Logits,
    direction: Tensor | None,
    factor: torch.dtype,
    rested: Callable[[], None],
) -> tuple[Tensor, Tensor]:
    """Moves all logits by a whole step along ``direction``; gives mean cross-entropy (s,) float64
    and its gradient (s, d + 1, c).

    Args:
        direction: None leaves the logits where they are.
        factor: what the factors of products are rounded to; products of less than the rows'
            precision are added up in the rows'.
        rested: called after each block.
    """
    _, n_strengths, n_classes = logits.now.shape
    n_rows, dim = inputs.shape
    wide = (
        None if direction is None else direction[:, :-1].transpose(0, 1).reshape(dim, -1).to(factor)
    )
    bias = None if direction is None else direction[:, -1].flatten()
    total = torch.zeros(n_strengths, dtype=torch.float64, device=inputs.device)
    back = torch.zeros(dim, n_strengths * n_classes, dtype=inputs.dtype, device=inputs.device)
    of_bias = torch.zeros(n_strengths * n_classes, dtype=inputs.dtype, device=inputs.device)
    for start, block in inputs.blocks():
        here = slice(start, start + len(block))
        factors, now = block.to(factor), logits.now[here]
        if wide is not None and bias is not None:
            moved = logits.moved[here]
            torch.add(factors @ wide, bias, out=moved.flatten(1))
            now += moved
        losses, errors = cross_entropy(now, targets[here])
        total += losses
        of_bias += errors.flatten(1).sum(0)
        if factor == inputs.dtype:
            back.addmm_(factors.T, errors.flatten(1))
        else:
            back += factors.T @ errors.flatten(1).to(factor)
        rested()
    gradient = torch.cat([back, of_bias[None]]).div_(n_rows)
    return total / n_rows, gradient.view(dim + 1, n_strengths, n_classes).transpose(0, 1)


def slopes(targets: Tensor, logits: Logits, further: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy and its slope, (s,) float64 each, where the last direction is gone
    ``further`` (s,) than now.
    """
    n_rows = len(targets)
    total, steep = (
        torch.zeros_like(further, dtype=torch.float64),
        torch.zeros_like(further, dtype=torch.float64),
    )
    for start in range(0, n_rows, BLOCK_ROWS):
        here = slice(start, start + BLOCK_ROWS)
        moved = logits.moved[here]
        losses, errors = cross_entropy(
            logits.now[here] + moved * further.to(moved.dtype)[:, None], targets[here]
        )
        total += losses
        steep += (errors * moved).sum((0, 2)).double()
    return total / n_rows, steep / n_rows


def shift(logits: Logits, further: Tensor) -> None:
    """Goes ``further`` (s,) along the last direction."""
    for start in range(0, len(logits.now), BLOCK_ROWS):
        here = slice(start, start + BLOCK_ROWS)
        logits.now[here] += logits.moved[here] * further.to(logits.now.dtype)[:, None]
