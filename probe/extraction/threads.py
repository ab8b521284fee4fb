"""The number of threads with which a model on the CPU is fastest, measured while it runs.

A measurement takes a fraction of a second, and another program may be busy just then. So a run
begins with all usable cores, takes fewer only when two measurements some seconds apart agree, and
measures again every minute.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from probe.environment import allowed_cores, cpu_quota, usable_cores
from probe.models.encoder import Encoder
from probe.models.packed.products import Product, can_pack, dtype_of

ROWS, IN, OUT = 512, 768, 3072  # a product as in a feed-forward layer
ROUNDS = 5
AGAIN_S = 5.0  # until a measurement that asks for another number is repeated
EVERY_S = 60.0  # between measurements otherwise
# Fewer threads must be this many times as fast: a program that is busy now may end.
WORTH = 1.1

log = logging.getLogger("probe")


@contextmanager
def computing_on(
    encoder: Encoder, threads: int | None, begun_with: int | None
) -> Iterator[Callable[[], None]]:
    """A block in which torch computes with a suitable number of threads; the old number returns
    after it. The function that it gives is called between utterances and may change the number.

    Args:
        threads: their number; None takes the store's if bits may depend on it, else that of
            ``OMP_NUM_THREADS``, else the fastest, see `ThreadChoice`.
        begun_with: the number with which the store was begun; None if it is new.
    """
    before = torch.get_num_threads()
    look: Callable[[], None] = _nothing
    if threads is None and encoder.device.type == "cpu":
        if begun_with and may_decide_bits(encoder):
            threads = begun_with
        elif encoder.implementation == "packed" and "OMP_NUM_THREADS" not in os.environ:
            choice = ThreadChoice(encoder.precision)
            threads, look = choice.threads, choice.look
    torch.set_num_threads(threads or before)
    try:
        yield look
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


def _nothing() -> None:
    pass


class ThreadChoice:
    """The number of threads of a run, see the module.

    Attributes:
        threads: the present number.
    """

    def __init__(self, precision: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.threads = usable_cores(allowed_cores(), cpu_quota())
        self._precision, self._clock, self._due, self._last = precision, clock, clock(), 0

    def look(self) -> None:
        """Measure if it is time to, and change torch's number of threads if two measurements one
        after the other ask for the same other number.
        """
        if self._clock() < self._due:
            return
        measured = fastest(self._precision)
        if measured != self.threads and measured == self._last:
            log.info("the model computes on %d threads instead of %d", measured, self.threads)
            self.threads = measured
            torch.set_num_threads(measured)
        self._last = measured
        self._due = self._clock() + (EVERY_S if measured == self.threads else AGAIN_S)


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
