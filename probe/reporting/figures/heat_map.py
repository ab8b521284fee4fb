"""Heat maps: numbers as colours and, where there is room, as text.

Two kinds are drawn here, train x test domains and the search of every layer;
`probe.reporting.tables.similarity_tables` draws a third.

The colours are those of matplotlib's `cividis`: they differ in lightness, so readers in grey and
colour-blind readers see the same order, and lighter is always the higher number. Missing values are
white.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.errors import ProbeError
from probe.measures.metrics import CODELENGTH, metric_of
from probe.records import source_dev
from probe.reporting.figures import style
from probe.reporting.scores import Scores, with_all_labels
from probe.reporting.text import DASH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = "cividis"
DARK = 0.55  # share of the colours that have white numbers
MOST_COLUMNS, MOST_CELLS = 8, 250  # of a map with numbers
CELL = (0.3, 0.14)  # inches, of a cell with a number of one line
SMALL_CELL = 0.11
COLOUR_BAR = 0.45  # inches, beside a map without numbers
LEAST_WIDTH = 1.2  # inches, of all columns
LONGEST = 20  # characters of a name beside a map
CHOSEN = {"marker": "s", "markersize": 6, "markerfacecolor": "none", "markeredgecolor": "black"}
DOMAINS = ["task", "corpus", "condition", "train_condition", "metric"]  # what a map shares
SEARCH = ["task", "corpus", "train_condition", "train_domain", "head"]  # what a search depends on
SETTINGS = ("learning_rate", "l2")


@dataclass(frozen=True)
class HeatMap:
    """One panel.

    Attributes:
        values: numbers, NaN where there is none; the index names the rows from below.
        texts: of `values`, the texts of the cells.
        least, most: the ends of the colours.
        axes: labels of x and y.
        chosen: (row, column) positions of the cells that are marked.
    """

    title: str
    values: pd.DataFrame
    texts: pd.DataFrame
    least: float
    most: float
    axes: tuple[str, str]
    chosen: Sequence[tuple[int, int]] = ()

    @property
    def has_texts(self) -> bool:
        """Whether there is room for the texts."""
        return self.values.shape[1] <= MOST_COLUMNS and self.values.size <= MOST_CELLS

    @property
    def margin(self) -> float:
        """Inches that the names of the rows take."""
        return _longest(self.values.index) + 0.35

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches that the map needs, without its title."""
        n_rows, n_columns = self.values.shape
        upright = _upright(self.values.columns)
        below = _longest(self.values.columns) if upright else style.LINE_HEIGHT
        width, height, right = SMALL_CELL, SMALL_CELL, COLOUR_BAR
        if self.has_texts:
            texts = [text.split("\n") for text in self.texts.to_numpy().ravel()]
            lines = [line for lines in texts for line in lines]
            lines += [] if upright else _names(self.values.columns)
            longest = max(map(len, lines), default=0)
            width = max(CELL[0], longest * style.CHARACTER_WIDTH + 0.06)
            height = max([CELL[1], *(len(lines) * style.LINE_HEIGHT for lines in texts)])
            right = 0.0
        width = max(n_columns * width, LEAST_WIDTH) + right
        return self.margin + width, below + n_rows * height + 0.3


def maps_figure(
    maps: Sequence[HeatMap], width: str = "double", heading: str = "", page: float = math.inf
) -> "Figure":
    """A panel per map; for ``width`` and ``page`` see `probe.reporting.figures.style`."""
    marks = {"picked on dev": CHOSEN} if any(item.chosen for item in maps) else {}
    widest = max(item.size[0] for item in maps)
    heights = [item.size[1] for item in maps]
    size = style.PanelSize(widest, widest, heights, max(item.margin for item in maps), page)
    titles = [item.title for item in maps]
    figure, panels = style.panels(titles, width, style.legend_of({}, marks), heading, size)
    for axes, item in zip(panels, maps, strict=False):
        _draw(axes, item)
    return figure


def _draw(axes: "Axes", item: HeatMap) -> None:
    """Draw one map, the first row at the bottom."""
    grid = item.values.to_numpy(float)
    span = max(item.most - item.least, 1e-9)
    ends: dict[str, Any] = {"vmin": item.least, "vmax": item.least + span}
    image = axes.imshow(grid, origin="lower", aspect="auto", cmap=COLOURS, **ends)
    rows, columns = _names(item.values.index), _names(item.values.columns)
    step = 1 if item.has_texts or len(rows) <= 13 else 4
    axes.set_yticks(range(0, len(rows), step), rows[::step])
    step = 1 if item.has_texts or len(columns) <= 8 else 4
    rotation = 90 if _upright(columns) else 0
    axes.set_xticks(range(0, len(columns), step), columns[::step], rotation=rotation)
    axes.set(xlabel=item.axes[0], ylabel=item.axes[1])
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    if item.has_texts:
        middle: dict[str, Any] = {"ha": "center", "va": "center", "linespacing": 1.05}
        for (row, column), text in _cells(item.texts):
            is_dark = (grid[row, column] - item.least) / span < DARK  # a missing value is not
            axes.text(column, row, text, color="white" if is_dark else "black", **middle)
    elif axes.figure is not None:
        axes.figure.colorbar(image, ax=axes, fraction=0.08, pad=0.02).outline.set_visible(False)
    for row, column in item.chosen:
        x = [column + side for side in (-0.44, 0.44, 0.44, -0.44, -0.44)]
        y = [row + side for side in (-0.44, -0.44, 0.44, 0.44, -0.44)]
        axes.plot(x, y, color="black", linewidth=1.6, label="picked")
        axes.plot(x, y, color="white", linewidth=0.6, label="picked")


def _cells(texts: pd.DataFrame) -> Iterable[tuple[tuple[int, int], str]]:
    """Each text with its position."""
    lines = enumerate(texts.to_numpy())
    return (((row, column), text) for row, line in lines for column, text in enumerate(line))


def _names(names: Iterable[Any]) -> list[str]:
    return [style.shortened(str(name), LONGEST) for name in names]


def _longest(names: Iterable[Any]) -> float:
    """Inches that the longest name takes."""
    return max(map(len, _names(names)), default=0) * style.CHARACTER_WIDTH


def _upright(names: Iterable[Any]) -> bool:
    """Whether names of columns are too long to lie."""
    return _longest(names) > CELL[0] + 0.1


def domains_figure(rows: pd.DataFrame, width: str = "double") -> "Figure":
    """A map of train x test domains per question, model and head; each row is at the layer that dev
    chose in its train domain.

    A cell has the score in percent and below it its interval, in whole percent. The colours run
    from the lowest to the highest score of the question, so that models can be compared.

    Args:
        rows: of `probe.reporting.scores.Scores.domains`.

    Raises:
        ProbeError: no task crosses domains.
    """
    rows = rows[rows["value"].notna()]
    if rows.empty:
        raise ProbeError(
            "no score across domains to draw: no task of these records trains on one domain and "
            "tests on another."
        )
    rows = style.in_units(rows)
    rows = style.with_series(rows, [*DOMAINS, "train_domain", "test_domain"])
    maps, heading = [], ""
    questions = [cells for _, cells in rows.groupby(DOMAINS, sort=False)]
    for cells in questions:
        about = style.title_of(cells.drop(columns=["train_domain", "test_domain"]), rows)
        first = cells.iloc[0]
        heading = f"{about}, {style.metric_label(first['metric'], first['higher_is_better'])}"
        ends = (cells["value"].min(), cells["value"].max())
        of_question = [_domain_map(str(name), of, ends) for name, of in cells.groupby("series")]
        if len(questions) == 1:
            return maps_figure(of_question, width, heading)
        maps += [replace(item, title=f"{item.title}: {heading}") for item in of_question]
    return maps_figure(maps, width)


def _domain_map(title: str, cells: pd.DataFrame, ends: tuple[float, float]) -> HeatMap:
    layer = cells.dropna(subset="layer").groupby("train_domain")["layer"].first()
    metric = metric_of(cells["metric"].iloc[0])
    as_it_is = metric.of_numbers or metric.is_cost
    value, end = (metric.decimals(0), metric.decimals(0)) if as_it_is else (1, 0)
    texts = cells["value"].map(f"{{:.{value}f}}".format)
    interval = cells["low"].map(f"\n{{:.{end}f}}".format)
    interval += cells["high"].map(f"–{{:.{end}f}}".format)
    texts += interval.where(cells["low"].notna(), "")
    place = {"index": "train_domain", "columns": "test_domain"}
    # The first row is drawn at the top, as in a table.
    values = cells.pivot(**place, values="value").iloc[::-1]
    names = [f"{train} ({layer[train]})" if train in layer else train for train in values.index]
    cell_texts = cells.assign(text=texts).pivot(**place, values="text").iloc[::-1].fillna(DASH)
    axes = ("tested on", "trained on (layer)")
    return HeatMap(title, values.set_axis(names), cell_texts, *ends, axes)


def search_figure(scores: Scores, width: str = "double") -> "Figure":
    """Dev scores of every layer (up) and learning rate or penalty (across), with the
    choice of dev: a map per question and model, as many as a page holds.

    Models of one layer share a map, a row each. Of settings that differ in something else too
    (epochs, a decoder's weights) the best is shown, of several folds the mean. Heads with one
    setting are left out.

    Raises:
        ProbeError: no record holds a search over several settings.
    """
    rows = with_all_labels(source_dev(scores.records))
    rows = rows[rows["metric"] != CODELENGTH.name]
    rows = rows[rows["search"].map(_setting) != ""].drop_duplicates([*SEARCH, "model", "layer"])
    rows = rows.sort_values([*SEARCH, "model", "layer_index"], ignore_index=True)
    if rows.empty:
        raise ProbeError(
            "no search to draw: no record holds dev scores of several learning rates or penalties."
        )
    flat = rows.groupby([*SEARCH, "model"])["layer"].transform("nunique") == 1
    model, row = rows["model"].where(~flat, ""), rows["layer"].where(~flat, rows["model"])
    rows = rows.assign(model=model, row=row)
    # The maps of models of one layer come last.
    maps = [_search_map(cells, rows) for _, cells in rows.groupby([flat, *SEARCH, "model"])]
    return maps_figure(maps, width, page=style.PAGE_HEIGHT)


def _setting(search: list[dict[str, Any]]) -> str:
    """The setting of which several values were tried; empty where there is none."""
    values = {name: {entry[name] for entry in search if name in entry} for name in SETTINGS}
    return next((name for name in SETTINGS if len(values[name]) > 1), "")


def _search_map(cells: pd.DataFrame, rows: pd.DataFrame) -> HeatMap:
    first = cells.iloc[0].to_dict()
    setting, score = _setting(first["search"]), f"dev_{first['select_by']}"
    metric = metric_of(first["select_by"])
    entries = pd.DataFrame(
        [
            (row, entry[setting], entry.get("fold", ""), metric.scale * entry[score])
            for row, search in zip(cells["row"], cells["search"], strict=True)
            for entry in search
            if setting in entry and entry.get(score) is not None
        ],
        columns=["row", "setting", "fold", "score"],
    )
    scores = entries.groupby(["row", "setting", "fold"])["score"]
    best = scores.max() if first["higher_is_better"] else scores.min()
    best = best.groupby(["row", "setting"]).mean()  # over folds
    values = best.unstack().reindex(cells["row"].unique())
    columns = {value: column for column, value in enumerate(values.columns)}
    chosen = [
        (row, columns[choice[setting]])
        for row, choice in enumerate(cells["chosen"])
        if choice.get(setting) in columns
    ]
    several_heads = rows.groupby("task")["head"].nunique().max() > 1
    more = [f"trained on {first['train_domain']}"] if first["train_domain"] else []
    more += [first["head"]] if several_heads else []
    more.append("dev " + style.metric_label(first["select_by"], first["higher_is_better"]))
    title = style.title_of(cells.drop(columns=["condition", "test_domain"]), rows, more)
    texts = values.map(
        lambda value: DASH if math.isnan(value) else f"{value:.{metric.decimals(value)}f}"
    )
    return HeatMap(
        f"{first['model']}: {title}" if first["model"] else title,
        values.set_axis([f"{value:g}" for value in values.columns], axis="columns"),
        texts,
        values.min().min(),
        values.max().max(),
        (setting.replace("_", " "), "layer" if first["model"] else ""),
        chosen,
    )
