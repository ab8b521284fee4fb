"""Shards are written by a thread while the model goes on; one may wait, then the model does."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Self

# Time that an interrupted run gives to shards that are already computed; then they are lost as if
# it had been killed.
GRACE_S = 5.0


class Writer:
    """Does work in order, in a thread. A context manager: leaving it waits until all is done.

    The next call raises what a piece of work has raised, and nothing after it is done. When an
    exception leaves the block, work that takes longer than `GRACE_S` is given up.
    """

    def __init__(self) -> None:
        self._work: queue.Queue[Callable[[], Any] | None] = queue.Queue(maxsize=1)
        self._error: BaseException | None = None
        self._dropped = False
        self._thread = threading.Thread(target=self._serve, name="writer", daemon=True)
        self._thread.start()

    def __call__(self, work: Callable[[], Any]) -> None:
        """Have ``work`` done; waits while other work is already waiting."""
        self._check()
        self._work.put(work)

    def _serve(self) -> None:
        while True:
            work = self._work.get()
            if work is None:
                return
            if self._error is None and not self._dropped:
                try:
                    work()
                except BaseException as error:  # raised where the run goes on
                    self._error = error
            del work  # with the arrays in it

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._give_up()
            return
        try:
            self._work.put(None)
            self._thread.join()
        except BaseException:  # interrupted while the last shards are written
            self._give_up()
            raise
        self._check()

    def _give_up(self) -> None:
        """Wait for the work that is there, but no longer than `GRACE_S`."""
        end = time.monotonic() + GRACE_S
        with contextlib.suppress(queue.Full):
            self._work.put(None, timeout=GRACE_S)
        self._thread.join(max(0.0, end - time.monotonic()))
        self._dropped = True
