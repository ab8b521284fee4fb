"""Linear layers whose result for a row does not depend on the other rows.

On a CPU a weight is brought once into the layout that oneDNN's kernels read (torch's own inductor
uses the same two operators), with bias and GELU in the same pass; on some processors that is twice
as fast as ``F.linear`` in float32. Elsewhere it is ``F.linear``.

A product of few rows takes other kernels than one of many, and gives other bits: measured from 1 to
10 rows with ``F.linear``, at 1 row with oneDNN. So none has fewer than `FEWEST_ROWS`; above that a
row's bits are its own, whatever the number of rows and threads. On Intel's processors, threads of
``F.linear`` divide a row, so a CPU without oneDNN computes on one thread.

A CPU without bfloat16 products multiplies in bfloat16 one number after the other, 20 times
slower than in float32. There, the same rounded numbers are multiplied in float32, which gives the
same values up to the order of summation and is as fast as ``fp32``.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from probe.errors import UsageError

FEWEST_ROWS = 16
PRECISIONS = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


def dtype_of(precision: str, device: torch.device) -> torch.dtype:
    """Return what products compute in; ``tf32`` is float32 with products that a GPU rounds to 10
    bits.

    Raises:
        UsageError: an unknown precision, or ``tf32`` without a GPU.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision}: expected one of {', '.join(PRECISIONS)}.")
    if precision == "tf32" and device.type != "cuda":
        raise UsageError(
            f"--precision tf32: only GPUs have it, not {device.type}. Use fp32 or bf16."
        )
    return PRECISIONS[precision]


@contextmanager
def exactly(precision: str) -> Iterator[None]:
    """Whatever the program has set, float32 products are float32 ones, or tf32 where that is the
    precision.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def on_one_thread() -> Iterator[None]:
    """A block in which torch computes on one thread. Several add up the squares of a weight norm in
    another order and give other bits.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Product:
    """A linear layer, with a GELU after it if asked for."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
        gelu: bool = False,
        parts: int = 1,
        packed: bool = True,
    ) -> None:
        """Copies what it needs.

        Args:
            weight: (out, in) float32; bias: (out,) float32 or None.
            dtype: of the product and its result.
            parts: sums over so many parts of the columns one after the other, in float32 alone:
                oneDNN adds up a row in one go, and rounding grows with the root of its length.
            packed: False takes ``F.linear`` even where oneDNN could be had.
        """
        self.dtype, self.gelu, self.n_out = dtype, gelu, len(weight)
        self._inner = inner_dtype(dtype, weight.device)
        weight = weight.detach().to(dtype).to(self._inner)
        self.bias = None if bias is None else bias.detach().to(dtype).to(self._inner)
        self.packed = packed and weight.device.type == "cpu" and can_pack(self._inner)
        if self.packed:
            columns = weight.chunk(parts if dtype == torch.float32 else 1, dim=1)
            reorder = torch.ops.mkldnn._reorder_linear_weight
            self.parts = [reorder(part.contiguous(), None) for part in columns]
            self.columns = [part.shape[1] for part in columns]
        else:
            self.weight = weight.clone()

    def __call__(self, rows: Tensor) -> Tensor:
        """(rows, in) of any float dtype, also an overlapping view -> (rows, out) in the product's
        dtype.
        """
        n_rows = len(rows)
        rows = rows.to(self.dtype).to(self._inner)
        if n_rows < FEWEST_ROWS:
            rows = F.pad(rows, (0, 0, 0, FEWEST_ROWS - n_rows))
        return self._multiplied(rows, n_rows).to(self.dtype)

    def _multiplied(self, rows: Tensor, n_rows: int) -> Tensor:
        """The first ``n_rows`` rows of the product in its inner dtype."""
        if not self.packed:
            alone = on_one_thread() if rows.device.type == "cpu" else nullcontext()
            with alone:
                product = F.linear(rows, self.weight, self.bias)[:n_rows]
            return _gelu(product) if self.gelu else product
        multiply = torch.ops.mkldnn._linear_pointwise
        if len(self.parts) == 1:
            # GELU without approximation.
            after, algorithm = ("gelu", "none") if self.gelu else ("none", "")
            return multiply(rows, self.parts[0], self.bias, after, [], algorithm)[:n_rows]
        biases = [self.bias, *[None] * (len(self.parts) - 1)]
        pieces = zip(rows.split(self.columns, dim=1), self.parts, biases, strict=True)
        products = (multiply(piece, part, bias, "none", [], "") for piece, part, bias in pieces)
        product = sum(products)[:n_rows]
        return _gelu(product) if self.gelu else product


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this torch and this processor have oneDNN's products on reordered weights in
    ``dtype``.
    """
    operators = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available() or not hasattr(operators, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or bool(operators._is_mkldnn_bf16_supported())


def inner_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return what numbers that are rounded to ``dtype`` are multiplied in: float32 on a CPU without
    instructions for ``dtype``.
    """
    return torch.float32 if device.type == "cpu" and not can_pack(dtype) else dtype


class Norm:
    """A LayerNorm, always in float32."""

    def __init__(self, module: torch.nn.LayerNorm) -> None:
        self.module = module

    def __call__(self, rows: Tensor) -> Tensor:
        """(rows, dim) of any float dtype -> the same in float32."""
        module = self.module
        return F.layer_norm(
            rows.float(), module.normalized_shape, module.weight, module.bias, module.eps
        )


def _gelu(values: Tensor) -> Tensor:
    """GELU without approximation, computed in float32.

    On some processors torch's bfloat16 GELU rounds the last elements of an array, which fill no
    vector, in another way, so that a row's bits would depend on the rows beside it.
    """
    return F.gelu(values.float()).to(values.dtype)
