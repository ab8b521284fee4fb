"""Shows how much of a task's training is done: a bar on a terminal, elsewhere a line now and then.

A kind counts its work in steps of its own, such as epochs of heads: it announces them with
`Progress.add` before it takes them with `Progress.step`. Steps that are spared (early stopping,
layers that an interrupted run has finished) are taken back by a negative `add`, so that they do not
make the work look faster than it is.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from tqdm import tqdm

log = logging.getLogger("probe")

LINES_S = 30.0  # between two lines where there is no terminal
BAR_S = 0.5  # between two pictures of the bar
BAR = "{desc}: {percentage:3.0f} %|{bar}| {elapsed} gone{postfix}"


class Progress:
    """Counts steps and estimates the time that is left.

    Attributes:
        done: steps that were taken.
        total: steps that were announced.
        text: what is being done.
    """

    def __init__(
        self,
        show: Callable[["Progress"], Any] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts the clock.

        Args:
            show: called after every change.
            clock: gives seconds.
        """
        self.done, self.total, self.text = 0, 0, ""
        self._show, self._clock = show, clock
        self._parts, self._begun = 1, 0
        self._start = clock()

    def split(self, n_parts: int) -> None:
        """Announces that the part of the work that begins now is made of ``n_parts`` parts, about
        equally long.
        """
        self._parts += n_parts - 1

    def begin(self) -> None:
        """Begins the next part."""
        self._begun += 1

    def add(self, total: int) -> None:
        """Announces steps; a negative number takes them back."""
        self.total += total
        self._show(self)

    def step(self, n: int = 1) -> None:
        """Counts ``n`` steps; 0 says that the work goes on."""
        self.done += n
        self._show(self)

    @property
    def mark(self) -> tuple[int, int]:
        """Where the work stands, for `settle`."""
        return self.done, self.total

    def settle(self, mark: tuple[int, int], n_announced: int) -> None:
        """Corrects the total: what was done since ``mark`` is all that ``n_announced`` steps came
        to.
        """
        done, total = mark
        self.add(total - n_announced + self.done - done - self.total)

    def note(self, text: str) -> None:
        """Says what is being done."""
        self.text = text
        self._show(self)

    @property
    def expected(self) -> int:
        """All steps; parts that have not begun count as much as the others on average."""
        return max(self.done, round(self.total * max(1, self._parts / max(1, self._begun))))

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest takes at the speed so far; None before the first step."""
        return self.elapsed_s * (self.expected - self.done) / self.done if self.done else None

    @property
    def left(self) -> str:
        """The time that is left, in words."""
        return (
            "time left unknown" if self.left_s is None else f"about {_duration(self.left_s)} left"
        )

    def __str__(self) -> str:
        share = 100 * self.done // max(1, self.expected)
        doing = f", {self.text}" if self.text else ""
        return (
            f"{share} %, {self.done} of {self.expected} steps{doing}, {_duration(self.elapsed_s)} "
            f"gone, {self.left}"
        )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def progress_of(
    title: str, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
) -> Iterator[Progress]:
    """A `Progress` that is shown on ``stream`` (stderr) until the block ends; nothing is shown
    where only warnings are logged.

    Args:
        title: stands before it.
        clock: gives seconds.
    """
    stream = stream or sys.stderr
    if log.level > logging.INFO:
        yield Progress(clock=clock)
    elif not stream.isatty():
        yield Progress(_Lines(title, stream, clock), clock)
    else:
        with tqdm(desc=title, file=stream, bar_format=BAR, total=1, mininterval=0) as bar:
            drawn = _Bar(bar, clock)
            progress = Progress(drawn, clock)
            yield progress
            drawn.draw(progress)


class _Lines:
    """Prints a line every `LINES_S` at most."""

    def __init__(self, title: str, stream: TextIO, clock: Callable[[], float]) -> None:
        self.title, self.stream, self.clock, self.last_s = title, stream, clock, clock()

    def __call__(self, progress: Progress) -> None:
        if self.clock() - self.last_s >= LINES_S:
            self.last_s = self.clock()
            print(f"{self.title}: {progress}", file=self.stream, flush=True)


class _Bar:
    """Draws the bar anew every `BAR_S` at most."""

    def __init__(self, bar: tqdm, clock: Callable[[], float]) -> None:
        self.bar, self.clock, self.last_s = bar, clock, -BAR_S

    def __call__(self, progress: Progress) -> None:
        if self.clock() - self.last_s >= BAR_S:
            self.last_s = self.clock()
            self.draw(progress)

    def draw(self, progress: Progress) -> None:
        """Draws the bar as it is now."""
        self.bar.total, self.bar.n = max(1, progress.expected), progress.done
        self.bar.set_postfix_str(
            ", ".join(filter(None, [progress.left, progress.text])), refresh=False
        )
        self.bar.refresh()
