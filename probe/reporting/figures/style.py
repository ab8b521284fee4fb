"""What all figures share: style, sizes, the looks of models, panels above one legend, and files.

A figure is as wide as a column or a page of a two-column paper (`WIDTHS`) and has text of 7 to 8 pt
at that size. The colours are those of Okabe and Ito, which colour-blind readers can distinguish;
markers and line styles distinguish the lines in grey. Names from files are drawn as plain text,
never as formulas; they stand on one line and lose their middle where they are too long.
"""

import io
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from probe.data.conditions.grammar import CLEAN
from probe.errors import ProbeError, UsageError
from probe.files import sha256_of_json, write_atomically
from probe.measures.metrics import metric_of
from probe.records import SEVERAL
from probe.reporting.text import arrow, one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger("probe")

WIDTHS = {"single": 3.3, "double": 6.9}  # inches
ENDINGS = ("png", "svg", "pdf")
PANEL_WIDTH, PANEL_HEIGHT = 2.2, 1.75  # inches, of a panel of curves
MOST_PANELS = 24
MOST_BESIDE_AXIS = 24  # characters of a label that stand beside the y axis of such a panel
PAGE_HEIGHT = 9.2  # inches, of a paper's text
CHARACTER_WIDTH, LINE_HEIGHT = 0.058, 0.13  # inches, of the font
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#999999"]
MARKERS = "os^DvP<X>"
DASHED = (0, (4, 3))
DASHES = ((5, 1.5), (1, 1), (6, 1.5, 1, 1.5), (3, 1, 1, 1, 1, 1), (9, 2), (1, 2.5))
STYLES: list[Any] = ["-", *((0, dashes) for dashes in DASHES)]
GREY = "#555555"
BREAKS = ":=/+,@_-"  # a long name may be broken after these characters
OPEN: dict[str, Any] = {"markersize": 4.5, "markerfacecolor": "white", "markeredgewidth": 1.1}
RINGED: dict[str, Any] = {"markersize": 7, "markerfacecolor": "none", "markeredgewidth": 0.8}
LARGE: dict[str, Any] = {"markersize": 6, "markeredgecolor": "black", "markeredgewidth": 1.1}
NO_LINE: dict[str, Any] = {"linestyle": "none"}
STYLE = {
    "font.size": 7,
    "axes.titlesize": 7.5,
    "figure.titlesize": 8,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "axes.titlepad": 4,
    "axes.labelpad": 2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.0,
    "lines.markersize": 3.0,
    "figure.constrained_layout.w_pad": 0.03,  # inches
    "figure.constrained_layout.h_pad": 0.03,
    "text.parse_math": False,  # a `$` in a name is a dollar
    "svg.hashsalt": "layerprobe",
    "pdf.fonttype": 42,  # publishers refuse Type 3
}
Look = dict[str, Any]


@dataclass(frozen=True)
class PanelSize:
    """The size of the panels of a figure, in inches.

    Attributes:
        narrowest, widest: limits of a panel's width.
        heights: one per panel, without its title; `PANEL_HEIGHT` for all where empty.
        margin: width at the left of a panel that its title leaves free.
        page: height that all panels may take; panels further down are left out.
    """

    narrowest: float = PANEL_WIDTH
    widest: float = 3.45
    heights: Sequence[float] = ()
    margin: float = 0.35
    page: float = math.inf


def missing_matplotlib() -> str:
    """Why nothing can be drawn and what to do; empty where matplotlib is installed."""
    if find_spec("matplotlib"):
        return ""
    return "figures need matplotlib. To get it: install layerprobe[plots]."


def write_figure(make: Callable[[], "Figure"], *paths: Path) -> None:
    """Make a figure in the common style and write it in the format of each path's ending.

    Equal figures give byte-identical SVG and PDF files. Every file has the figure's `digest` in its
    description.

    Raises:
        ProbeError: matplotlib is missing, or an ending is not one of `ENDINGS`.
        OSError: a file cannot be written.
    """
    for path in paths:
        if path.suffix[1:].lower() not in ENDINGS:
            expected = ", ".join(f".{ending}" for ending in ENDINGS)
            raise UsageError(f"{path}: the name of a figure must end in {expected}.")
    if reason := missing_matplotlib():
        raise ProbeError(reason)
    from matplotlib import style

    # The defaults make the figure independent of the user's matplotlibrc.
    with style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a missing letter is drawn as a box
        figure = make()
        description = f"data sha256 {digest(figure)}"
        metadata = {
            "png": {"Description": description},
            "svg": {"Description": description, "Date": None},
            "pdf": {"Subject": description, "CreationDate": None},
        }
        for path in paths:
            ending, file = path.suffix[1:].lower(), io.BytesIO()
            figure.savefig(file, format=ending, dpi=200, metadata=metadata[ending])
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, file.getvalue())


def panels(
    titles: Sequence[str],
    width: str,
    legend: Sequence[Any] = (),
    heading: str = "",
    size: PanelSize = PanelSize(),
) -> tuple["Figure", list["Axes"]]:
    """A figure with an empty panel per title; its heading says how many were left out.

    Args:
        titles: `MOST_PANELS` of them are drawn at most.
        width: one of `WIDTHS`; a figure of few panels is narrower.
        legend: handles that stand below the panels.
    """
    from matplotlib.figure import Figure

    n = min(len(titles), MOST_PANELS)
    n_columns = min(n, max(1, int(WIDTHS[width] / size.narrowest)))
    panel_width = min(WIDTHS[width] / n_columns, size.widest)
    total_width = n_columns * panel_width
    title_length = int((panel_width - size.margin) / CHARACTER_WIDTH)
    folded = [fold(title, title_length, 4) for title in titles[:n]]
    heights: list[float] = []  # of the rows of panels
    total_height = 0.0
    for start in range(0, n, n_columns):
        row = slice(start, start + n_columns)
        height = max(size.heights[row] or [PANEL_HEIGHT])
        with_title = height + LINE_HEIGHT * (1 + max(title.count("\n") for title in folded[row]))
        if heights and total_height + with_title > size.page:
            break
        heights.append(height)
        total_height += with_title
    n = min(n, len(heights) * n_columns)
    if n < len(titles):
        note = f"{n} of {len(titles)} panels"
        log.warning("%s are drawn. Choose what to draw by model, task, metric or condition.", note)
        heading = f"{heading} ({note})" if heading else note
    for handle in legend:
        most = max(4, int((total_width - 0.6) / CHARACTER_WIDTH))
        handle.set_label(shortened(handle.get_label(), most))
    longest = max((len(handle.get_label()) for handle in legend), default=0)
    n_beside = max(1, min(len(legend), int(total_width / (longest * CHARACTER_WIDTH + 0.6))))
    n_lines = -(-len(legend) // n_beside) + (2 if heading else 0)
    total_height += n_lines * LINE_HEIGHT + 0.05
    figure = Figure(figsize=(total_width, total_height), layout="constrained")
    grid = figure.add_gridspec(len(heights), n_columns, height_ratios=heights)
    axes = [
        figure.add_subplot(grid[divmod(position, n_columns)], title=title)
        for position, title in enumerate(folded[:n])
    ]
    if heading:
        figure.suptitle(fold(heading, int(total_width / CHARACTER_WIDTH) - 4))
    if legend:
        place: dict[str, Any] = {"loc": "outside lower center", "ncols": n_beside}
        figure.legend(handles=legend, frameon=False, handlelength=3.5, **place)
    return figure, axes


def curve_panels(
    groups: Sequence[pd.DataFrame], titles: Sequence[str], width: str, legend: Sequence[Any]
) -> tuple["Figure", Iterator[tuple["Axes", pd.DataFrame]]]:
    """A figure with a panel per group of rows of one metric, and each panel with its group."""
    figure, axes_list = panels(titles, width, legend)
    for axes, cells in zip(axes_list, groups, strict=False):
        axes.set_ylabel(axis_label(cells["metric"].iloc[0], cells["higher_is_better"].iloc[0]))
    return figure, zip(axes_list, groups, strict=False)


def looks(series: Iterable[str], flat: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Colour, marker and line style of each series; all of ``flat`` are dashed in the same way."""
    dashed = set(flat)
    return {
        name: {
            "color": COLOURS[number % len(COLOURS)],
            "marker": MARKERS[number % len(MARKERS)],
            "linestyle": DASHED if name in dashed else STYLES[number % len(STYLES)],
        }
        for number, name in enumerate(sorted(set(series)))
    }


def legend_of(lines: dict[str, Look], marks: dict[str, Look], intervals: bool = False) -> list[Any]:
    """Handles of the lines, of the meanings of marks, and of the intervals.

    Args:
        lines: of `looks`.
        marks: meaning -> what is special about the marker.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    mark: Look = {"color": GREY, "marker": "o", **NO_LINE}
    handles: list[Any] = [Line2D([], [], label=name, **look) for name, look in lines.items()]
    handles += [Line2D([], [], label=name, **(mark | look)) for name, look in marks.items()]
    if intervals:
        handles.append(Patch(color=GREY, alpha=0.2, linewidth=0, label="95 % interval"))
    return handles


def remark(text: str) -> Any:
    """A handle of a legend that has a text only."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=text, linestyle="none")


def with_series(rows: pd.DataFrame, places: Sequence[str]) -> pd.DataFrame:
    """The rows with a column ``series``: the model, and the head where a model has several heads
    at one place.
    """
    several = rows.groupby([*places, "model"])["head"].nunique().max() > 1
    return rows.assign(series=rows["model"] + (", " + rows["head"] if several else ""))


def in_units(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with values and intervals as they are drawn: percent, and bits for codelengths."""
    scale = rows["metric"].map(lambda name: metric_of(name).scale)
    numbers = {name: rows[name].astype(float) * scale for name in ("value", "low", "high")}
    return rows.assign(**numbers)


def metric_label(metric: str, higher_is_better: bool) -> str:
    """A metric with its unit and the direction that is better."""
    unit = metric_of(metric).printed_unit
    name = shortened(metric, 24) + (f" ({unit})" if unit else "")
    return f"{name} {arrow(higher_is_better)}"


def axis_label(metric: str, higher_is_better: bool) -> str:
    """`metric_label`, with the unit on a line of its own where the axis of a panel is too short."""
    label = metric_label(metric, higher_is_better)
    return label if len(label) <= MOST_BESIDE_AXIS else label.replace(" (", "\n(")


def title_of(cells: pd.DataFrame, rows: pd.DataFrame, more: Sequence[str] = ()) -> str:
    """What all cells of a panel share, without what is obvious or the same in all panels.

    Args:
        cells: of the panel.
        rows: of all panels.
        more: what the title ends in.
    """
    first = cells.iloc[0].to_dict()
    parts = [first["task"]]
    if rows["corpus"].nunique() > 1:
        parts.append(first["corpus"])
    for name, text in (("condition", "{}"), ("train_condition", "trained on {}")):
        if first.get(name, "") not in ("", CLEAN, SEVERAL):
            parts.append(text.format(first[name]))
    if first.get("train_domain") and "test_domain" in cells:
        parts.append(f"{first['train_domain']} → {first['test_domain']}")
    return ", ".join([*parts, *more])


def curve(axes: "Axes", line: pd.DataFrame, x: str, name: str, look: Look) -> None:
    """Draw a line over the column ``x``, with its intervals as a band."""
    shade: dict[str, Any] = {"color": look["color"], "alpha": 0.12, "linewidth": 0}
    axes.fill_between(line[x], line["low"], line["high"], **shade)
    axes.plot(line[x], line["value"], label=name, **look)


def bars(axes: "Axes", x: Any, line: pd.DataFrame, look: Look) -> None:
    """Draw the intervals of points."""
    axes.vlines(x, line["low"], line["high"], color=look["color"], linewidth=0.8)


def shortened(text: str, most: int) -> str:
    """``text`` on one line, without its middle where it has more than ``most`` characters."""
    text = one_line(text)
    if text.startswith("_"):
        text = f" {text}"  # matplotlib leaves names that begin with _ out of legends
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[: most - 1 - half]}…{text[len(text) - half :]}"


def fold(text: str, width: int, most_lines: int = 3) -> str:
    """``text`` in lines of at most ``width`` characters, without its middle where it would need
    more than ``most_lines``.

    Lines end between words; a word that is longer than a line is broken after one of `BREAKS` where
    it has one.
    """
    width = max(2, width)
    piece = re.compile(rf"[^{BREAKS}]{{0,{width - 1}}}[{BREAKS}]|[^{BREAKS}]{{1,{width}}}")
    for most in range(width * most_lines, 0, -1):
        lines = [""]
        for word in shortened(text, most).split():
            gap = " "
            for part in [word] if len(word) <= width else piece.findall(word):
                joined = f"{lines[-1]}{gap}{part}" if lines[-1] else part
                lines[-1:] = [joined] if len(joined) <= width else [lines[-1], part]
                gap = ""
        if len(lines) <= most_lines:
            return "\n".join(lines)
    return ""


def contents(figure: "Figure") -> list[dict[str, Any]]:
    """What each panel holds, to compare figures by: labels, and numbers rounded to 6 digits, None
    where a number is missing.

    ``ticks`` are those of x and y that have texts of their own, ``lines`` (label, x, y),
    ``intervals`` the corners of bands and the ends of bars, ``maps`` the values of heat maps,
    ``texts`` the texts in the panel.
    """
    return [
        {
            "title": axes.get_title(),
            "axes": [axes.get_xlabel(), axes.get_ylabel()],
            "ticks": [_own_ticks(axis) for axis in (axes.xaxis, axes.yaxis)],
            "lines": [
                [one_line(str(line.get_label())), *map(_numbers, line.get_data())]
                for line in axes.get_lines()
            ],
            "intervals": [
                _numbers(path.vertices) for item in axes.collections for path in item.get_paths()
            ],
            "maps": [_numbers(image.get_array()) for image in axes.get_images()],
            "texts": [text.get_text() for text in axes.texts],
        }
        for axes in figure.axes
        if axes.get_label() != "<colorbar>"
    ]


def digest(figure: "Figure") -> str:
    """sha256 of a figure's `contents`."""
    return sha256_of_json(contents(figure))


def _own_ticks(axis: Any) -> list[str]:
    """Labels that were given to an axis; those that matplotlib makes depend on its version."""
    from matplotlib.ticker import FixedLocator

    given = isinstance(axis.get_major_locator(), FixedLocator)
    return [text.get_text() for text in axis.get_ticklabels()] if given else []


def _numbers(values: Any) -> Any:
    """Nested lists of rounded numbers."""
    array: np.ndarray = np.ma.filled(np.ma.asarray(values, float), np.nan)
    if array.ndim:
        return [_numbers(item) for item in array]
    number = float(array)
    return round(number, 6) + 0.0 if math.isfinite(number) else None
