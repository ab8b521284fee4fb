"""Cells of Markdown tables: numbers as percent and points, names that cannot break a table, columns
in line.
"""

import math
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import lru_cache

from probe.reporting.rows import one_line

DASH = "–"
INTERVAL = "% [95 % interval]"
# Besides what always means something: the end of a link's text, an entity, and _ that no letters or
# digits enclose.
LIVE = re.compile(r"[\\|<`*~]|\](?=[(\[:])|&(?=#?\w+;)|(?<!\w)_+|_+(?!\w)")


def markdown(columns: Mapping[str, Sequence[str]], numbers: Container[str] = ()) -> str:
    """Aligned Markdown; the cells are escaped already.

    Args:
        columns: header -> cells.
        numbers: headers of columns that are aligned to the right.
    """
    return aligned(
        list(columns),
        list(zip(*columns.values(), strict=True)),
        [name in numbers for name in columns],
    )


def aligned(head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[bool]) -> str:
    """Aligned Markdown from rows of escaped cells; ``right`` says which columns are aligned to the
    right.
    """
    lines = [head, *rows]
    widths = [max(3, *map(len, cells)) for cells in zip(*lines, strict=True)]
    rule = [
        "-" * (width - 1) + ":" if is_right else "-" * width
        for width, is_right in zip(widths, right, strict=True)
    ]
    padded = [
        [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(line, widths, right, strict=True)
        ]
        for line in lines
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in [padded[0], rule, *padded[1:]])


def percent(fraction: float) -> str:
    """A fraction in percent with one decimal."""
    return (
        DASH if math.isnan(fraction) else f"{round(100 * fraction, 1) + 0.0:.1f}"
    )  # + 0.0: no "-0.0"


def points(gap: float) -> str:
    """A difference of fractions in points, with its sign."""
    return f"{round(100 * gap, 1) + 0.0:+.1f}"


def arrow(higher_is_better: bool) -> str:
    """Which way is better."""
    return "↑" if higher_is_better else "↓"


def escaped_all(values: Iterable[str]) -> list[str]:
    """Texts as cells, see `escaped`."""
    return [escaped(value) for value in values]


@lru_cache(maxsize=1 << 16)
def escaped(text: str) -> str:
    r"""``text`` as one Markdown cell: on one line, ``|`` and what else has a meaning there behind a
    backslash.
    """
    return LIVE.sub(lambda found: "".join(f"\\{char}" for char in found[0]), one_line(text))
