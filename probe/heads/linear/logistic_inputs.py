"""Standardised rows on their way into products: kept in memory, or read anew in each pass."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from probe.heads.linear.rows import BLOCK_ROWS, Rows, refill


class Inputs:
    """(row, dim) standardised rows in blocks of `BLOCK_ROWS`.

    Args:
        rows: as they were given.
        mean, scale: (dim,) what is subtracted, and what the difference is divided by.
        dtype: of what comes out; float16 and float32 rows are standardised in float32.
        keep: whether to hold all rows in memory (on the device); otherwise each pass reads the
            source.
        device: where the blocks come out.
    """

    def __init__(
        self,
        rows: Rows,
        mean: np.ndarray,
        scale: np.ndarray,
        dtype: torch.dtype,
        keep: bool,
        device: str = "cpu",
    ) -> None:
        self.shape, self.dtype, self.device = rows.shape, dtype, torch.device(device)
        self._rows, self._mean, self._scale = (
            rows,
            torch.from_numpy(mean).to(dtype),
            torch.from_numpy(scale).to(dtype),
        )
        self._kept: Tensor | None = None
        self.basis: Tensor | None = None
        if keep:
            kept = torch.empty(self.shape, dtype=dtype, device=self.device)
            for start, block in self._read(kept if self.device.type == "cpu" else None):
                # On a CPU a block is already part of it.
                if self.device.type != "cpu":
                    kept[start : start + len(block)] = block
            self._kept = kept

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """(number of its first row, (row, dim) block); a block is valid until the next one."""
        if self._kept is None:
            yield from self._read(None)
        else:
            for start in range(0, self.shape[0], BLOCK_ROWS):
                yield start, self._kept[start : start + BLOCK_ROWS]

    def _read(self, into: Tensor | None) -> Iterator[tuple[int, Tensor]]:
        """Blocks from the source, standardised where they were read to: ``into``, or one block's
        memory again and again.
        """
        memory = torch.empty(BLOCK_ROWS, self.shape[1], dtype=self.dtype) if into is None else into
        array = memory.numpy()

        def room(start: int, stop: int) -> np.ndarray:
            return array[: stop - start] if into is None else array[start:stop]

        start = 0
        for filled in refill(self._rows, room):
            block = torch.from_numpy(filled).sub_(self._mean).div_(self._scale)
            yield start, block.to(self.device)
            start += len(block)

    def rotate_into_span(self) -> None:
        """Rotates kept rows, fewer than dimensions, into their span, whose ``basis`` is (dim,
        direction), orthonormal columns.

        A penalty on the weights is invariant to that, and directions that no row has carry no
        weight at an optimum. By Householder's QR, of the rows and not of their squares, which would
        lose directions that a weak penalty wants.
        """
        assert self._kept is not None, "only kept rows can be rotated"
        basis, triangle = torch.linalg.qr(self._kept.T.double())
        self._kept = triangle.T.to(self.dtype).contiguous()
        self.shape = len(self._kept), basis.shape[1]
        self.basis = basis.to(self.dtype)
