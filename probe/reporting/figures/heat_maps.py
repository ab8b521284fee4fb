"""Heat maps in panels: numbers as colours and, where there is room, as text.

The colours are those of matplotlib's `cividis`: they differ in lightness, so grey and colour-blind
readers see the same order, and lighter is always the higher number. What is missing is white.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.reporting.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = "cividis"
MOST_COLUMNS, MOST_CELLS = 8, 250  # of a map with numbers
CELL = (0.3, 0.14)  # inches, of a cell with a number of one line
SMALL_CELL = 0.11
BAR = 0.45  # inches, of the scale beside a map without numbers
LEAST_WIDTH = 1.2  # inches, of the cells
LONGEST = 20  # characters of a name beside a map
PICKED = {"marker": "s", "markersize": 6, "markerfacecolor": "none", "markeredgecolor": "black"}
DARK = 0.55  # of the colours; darker ones have white numbers


@dataclass(frozen=True)
class HeatMap:
    """One panel.

    Attributes:
        values: numbers, with names of the rows (from below) as index and of the columns as columns;
            NaN where there is none.
        texts: of `values`, what stands in the cells; empty where nothing does.
        least, most: the ends of the colours.
        picked: (row, column) positions of the cells that are marked.
    """

    title: str
    values: pd.DataFrame
    texts: pd.DataFrame
    least: float
    most: float
    axes: tuple[str, str]
    picked: Sequence[tuple[int, int]] = field(default=())

    @property
    def labelled(self) -> bool:
        """Whether there is room for numbers."""
        return self.values.shape[1] <= MOST_COLUMNS and self.values.size <= MOST_CELLS

    @property
    def margin(self) -> float:
        """Inches that its names take at the left."""
        return _longest(self.values.index) + 0.35

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches that the map needs, without its title."""
        texts = (
            [text.split("\n") for text in self.texts.to_numpy().ravel()] if self.labelled else []
        )
        wide, high = SMALL_CELL, SMALL_CELL
        if self.labelled:
            lying = [] if _upright(self.values.columns) else _names(self.values.columns)
            written = [*lying, *(line for lines in texts for line in lines)]
            wide = max([CELL[0], *(len(text) * style.CHARACTER_WIDTH + 0.06 for text in written)])
            high = max([CELL[1], *(len(lines) * style.LINE_HEIGHT for lines in texts)])
        below = (
            _longest(self.values.columns) if _upright(self.values.columns) else style.LINE_HEIGHT
        )
        n_rows, n_columns = self.values.shape
        right = max(n_columns * wide, LEAST_WIDTH) + (0 if self.labelled else BAR)
        return self.margin + right, below + n_rows * high + 0.3


def maps_figure(
    maps: Sequence[HeatMap], width: str = "double", heading: str = "", highest: float = math.inf
) -> "Figure":
    """A panel per map; for ``width`` and ``highest`` see `probe.reporting.figures.style.panels`."""
    legend = style.legend_of(
        {}, {"picked on dev": PICKED} if any(item.picked for item in maps) else {}
    )
    widest = max(item.size[0] for item in maps)
    heights = [item.size[1] for item in maps]
    margin = max(item.margin for item in maps)
    titles = [item.title for item in maps]
    figure, panels = style.panels(
        titles, width, legend, heading, widest, widest, heights, margin, highest
    )
    for axes, item in zip(panels, maps, strict=False):
        _draw(axes, item)
    return figure


def _draw(axes: "Axes", item: HeatMap) -> None:
    """One map, the first row at the bottom."""
    grid = item.values.to_numpy(float)
    span = max(item.most - item.least, 1e-9)
    image = axes.imshow(
        grid, origin="lower", aspect="auto", cmap=COLOURS, vmin=item.least, vmax=item.least + span
    )
    rows, columns = _names(item.values.index), _names(item.values.columns)
    step = 1 if item.labelled or len(rows) <= 13 else 4
    axes.set_yticks(range(0, len(rows), step), rows[::step])
    step = 1 if item.labelled or len(columns) <= 8 else 4
    axes.set_xticks(range(0, len(columns), step), columns[::step], rotation=90 * _upright(columns))
    axes.set(xlabel=item.axes[0], ylabel=item.axes[1])
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    if not item.labelled and axes.figure is not None:
        axes.figure.colorbar(image, ax=axes, fraction=0.08, pad=0.02).outline.set_visible(False)
    for row, line in enumerate(item.texts.to_numpy() if item.labelled else []):
        for column, text in enumerate(line):
            dark = (grid[row, column] - item.least) / span < DARK  # a missing value is not dark
            axes.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                color="white" if dark else "black",
                linespacing=1.05,
            )
    for row, column in item.picked:
        axes.plot(*_outline(row, column), color="black", linewidth=1.6, label="picked")
        axes.plot(*_outline(row, column), color="white", linewidth=0.6, label="picked")


def _outline(row: int, column: int) -> tuple[list[float], list[float]]:
    """The edge of a cell."""
    x, y, half = [-1, 1, 1, -1, -1], [-1, -1, 1, 1, -1], 0.44
    return [column + half * at for at in x], [row + half * at for at in y]


def _names(names: Iterable[Any]) -> list[str]:
    return [style.shortened(str(name), LONGEST) for name in names]


def _longest(names: Iterable[Any]) -> float:
    """Inches that the longest name takes."""
    return max(map(len, _names(names)), default=0) * style.CHARACTER_WIDTH


def _upright(names: Iterable[Any]) -> bool:
    """Whether names of columns are too long to lie."""
    return _longest(names) > CELL[0] + 0.1
