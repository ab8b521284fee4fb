"""The number of threads with which a model on the CPU is fastest, measured in a fraction of a
second.
"""

import functools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from probe.environment import allowed_cores, cpu_quota, usable_cores
from probe.models.encoder import Encoder
from probe.models.packed.products import Product, can_pack, dtype_of

ROWS, IN, OUT = 512, 768, 3072  # a product as in a feed-forward layer
ROUNDS = 5
# Fewer threads must be this many times as fast: a program that is busy now may end.
WORTH = 1.1


@contextmanager
def computing_on(encoder: Encoder, threads: int | None, begun_with: int | None) -> Iterator[None]:
    """A block in which torch computes with a suitable number of threads; the old number returns
    after it.

    Args:
        threads: their number; None takes the store's if bits may depend on it, else that of
            ``OMP_NUM_THREADS``, else the fastest.
        begun_with: the number with which the store was begun; None if it is new.
    """
    before = torch.get_num_threads()
    if threads is None and encoder.device.type == "cpu":
        if begun_with and may_decide_bits(encoder):
            threads = begun_with
        elif encoder.implementation == "packed" and "OMP_NUM_THREADS" not in os.environ:
            threads = fastest(encoder.precision)
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def may_decide_bits(encoder: Encoder) -> bool:
    """Whether bits may depend on the number of threads: on a CPU, except in the packed form with
    oneDNN's products.
    """
    if encoder.device.type != "cpu":
        return False
    return encoder.implementation != "packed" or not can_pack(
        dtype_of(encoder.precision, encoder.device)
    )


@functools.cache
def fastest(precision: str) -> int:
    """The number of threads, of all usable cores, half and a quarter of them, that multiplies
    fastest.
    """
    usable = usable_cores(allowed_cores(), cpu_quota())
    candidates = sorted({max(1, usable // part) for part in (1, 2, 4)}, reverse=True)
    if len(candidates) == 1:
        return usable
    before = torch.get_num_threads()
    dtype = dtype_of(precision, torch.device("cpu"))
    product, rows = Product(torch.zeros(OUT, IN), None, dtype), torch.zeros(ROWS, IN, dtype=dtype)
    try:
        best, best_s = candidates[0], _seconds(product, rows, candidates[0])
        for threads in candidates[1:]:
            if (seconds := _seconds(product, rows, threads)) * WORTH < best_s:
                best, best_s = threads, seconds
    finally:
        torch.set_num_threads(before)
    return best


def _seconds(product: Product, rows: torch.Tensor, threads: int) -> float:
    """The shortest of some products, after one that wakes the threads."""
    torch.set_num_threads(threads)
    product(rows)
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        product(rows)
        times.append(time.perf_counter() - start)
    return min(times)
