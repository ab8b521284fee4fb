"""What all pictures share: style, sizes, the looks of models, panels above one legend, writing, and
what a picture holds.

A picture is as wide as a column or a page of a two-column paper (`WIDTHS`) and has text of 7 and 8
pt at that size. Colours are those of Okabe and Ito (told apart by colour-blind readers); markers
and line styles tell the lines apart in grey. Names come from files: they are text and never
formulas, stand on one line and are shortened in the middle where they are too long.
"""

import io
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from probe.errors import ProbeError, UsageError
from probe.files import sha256_of_json, write_atomically
from probe.reporting.rows import one_line
from probe.reporting.tables.cells import arrow
from probe.reporting.ties import BITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger("probe")

WIDTHS = {"single": 3.3, "double": 6.9}  # inches
ENDINGS = ("png", "svg", "pdf")
PANEL_WIDTH, PANEL_HEIGHT, WIDEST = 2.2, 1.75, 3.45  # inches, of a panel of curves
MOST_PANELS = 24
PAGE_HEIGHT = 9.2  # inches, of a paper's text
CHARACTER_WIDTH, LINE_HEIGHT = 0.058, 0.13  # inches, of the font
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#999999"]
MARKERS = ["o", "s", "^", "D", "v", "P", "<", "X", ">"]
STYLES: list[Any] = [
    "-",
    (0, (5, 1.5)),
    (0, (1, 1)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (9, 2)),
    (0, (1, 2.5)),
]
FLAT = (0, (4, 3))
GREY = "#555555"
ENDS = ":=/+,@_-"  # characters behind which a name may be parted
SMALL = 3.0
OPEN: dict[str, Any] = {"markersize": 4.5, "markerfacecolor": "white", "markeredgewidth": 1.1}
LARGE: dict[str, Any] = {"markersize": 6, "markeredgecolor": "black", "markeredgewidth": 1.1}
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
    "lines.markersize": SMALL,
    "figure.constrained_layout.w_pad": 0.03,  # inches
    "figure.constrained_layout.h_pad": 0.03,
    "text.parse_math": False,  # a `$` in a name is a dollar
    "svg.hashsalt": "layerprobe",
    "pdf.fonttype": 42,  # publishers refuse Type 3
}


def missing_matplotlib() -> str:
    """Why nothing can be drawn, and what to do; empty where matplotlib is installed."""
    return (
        ""
        if find_spec("matplotlib")
        else "pictures need matplotlib. To get it: install layerprobe[plots]."
    )


def write_figure(make: Callable[[], "Figure"], *paths: Path) -> None:
    """Makes a figure in the house's style and writes it, in the format of each path's ending.

    Equal figures give a byte-identical SVG and PDF. Every format holds the `digest` of what is
    drawn, as its description.

    Raises:
        ProbeError: matplotlib is missing, or an ending is not one of `ENDINGS`.
        OSError: a file cannot be written.
    """
    for path in paths:
        if path.suffix[1:].lower() not in ENDINGS:
            raise UsageError(
                f"{path}: a picture ends in {', '.join(f'.{ending}' for ending in ENDINGS)}."
            )
    if reason := missing_matplotlib():
        raise ProbeError(reason)
    from matplotlib import style

    with (
        style.context(["default", STYLE]),
        warnings.catch_warnings(),
    ):  # whatever the user's matplotlibrc says
        warnings.filterwarnings(
            "ignore", message="Glyph"
        )  # a letter that the font lacks is drawn as a box
        figure = make()
        told = f"data sha256 {digest(figure)}"
        metadata = {
            "png": {"Description": told},
            "svg": {"Description": told, "Date": None},
            "pdf": {"Subject": told, "CreationDate": None},
        }
        for path in paths:
            ending, picture = path.suffix[1:].lower(), io.BytesIO()
            figure.savefig(picture, format=ending, dpi=200, metadata=metadata[ending])
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, picture.getvalue())


def panels(
    titles: Sequence[str],
    width: str,
    legend: Sequence[Any] = (),
    heading: str = "",
    least: float = PANEL_WIDTH,
    most: float = WIDEST,
    heights: Sequence[float] = (),
    margin: float = 0.35,
    highest: float = math.inf,
) -> tuple["Figure", list["Axes"]]:
    """A figure with an empty panel for each title, `MOST_PANELS` at most; its heading says how many
    are left out.

    Args:
        width: one of `WIDTHS`; a figure of few panels is narrower.
        legend: handles, which stand below the panels.
        least, most: width of a panel in inches.
        heights: of the panels in inches, without their titles; `PANEL_HEIGHT` where empty.
        margin: inches at the left of a panel, where its title does not stand.
        highest: inches that the panels may take together; those further down are left out.
    """
    from matplotlib.figure import Figure

    n = min(len(titles), MOST_PANELS)
    n_columns = min(n, max(1, int(WIDTHS[width] / least)))
    panel_width = min(WIDTHS[width] / n_columns, most)
    total = n_columns * panel_width
    folded = [fold(title, int((panel_width - margin) / CHARACTER_WIDTH), 4) for title in titles[:n]]
    lines = [slice(start, start + n_columns) for start in range(0, n, n_columns)]
    highs = [max(heights[line] or [PANEL_HEIGHT]) for line in lines]
    n_texts = [1 + max(title.count("\n") for title in folded[line]) for line in lines]
    ends = accumulate(
        high + n_text * LINE_HEIGHT for high, n_text in zip(highs, n_texts, strict=True)
    )
    n_lines = max(1, sum(end <= highest for end in ends))
    n, highs = min(n, n_lines * n_columns), highs[:n_lines]
    if n < len(titles):
        note = f"{n} of {len(titles)} panels"
        log.warning("%s are drawn. Choose what to draw by model, task, metric or condition.", note)
        heading = f"{heading} ({note})" if heading else note
    heading = fold(heading, int(total / CHARACTER_WIDTH) - 4)
    longest = max(4, int((total - 0.6) / CHARACTER_WIDTH))
    for handle in legend:
        handle.set_label(shortened(handle.get_label(), longest))
    label_width = (
        max((len(handle.get_label()) for handle in legend), default=0) * CHARACTER_WIDTH + 0.6
    )
    n_legend = max(1, min(len(legend), int(total / label_width)))
    n_beside = -(-len(legend) // n_legend) + 2 * bool(heading)
    high = sum(highs) + (sum(n_texts[:n_lines]) + n_beside) * LINE_HEIGHT + 0.05
    figure = Figure(figsize=(total, high), layout="constrained")
    grid = figure.add_gridspec(n_lines, n_columns, height_ratios=highs)
    axes = [
        figure.add_subplot(grid[divmod(place, n_columns)], title=title)
        for place, title in enumerate(folded[:n])
    ]
    if heading:
        figure.suptitle(heading)
    if legend:
        figure.legend(
            handles=legend,
            loc="outside lower center",
            ncols=n_legend,
            frameon=False,
            handlelength=3.5,
        )
    return figure, axes


def looks(series: Iterable[str], flat: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Colour, marker and line style of each series; those of ``flat`` are dashed alike."""
    return {
        name: {
            "color": COLOURS[number % len(COLOURS)],
            "marker": MARKERS[number % len(MARKERS)],
            "linestyle": FLAT if name in set(flat) else STYLES[number % len(STYLES)],
        }
        for number, name in enumerate(sorted(set(series)))
    }


def legend_of(
    lines: Mapping[str, Mapping[str, Any]],
    marks: Mapping[str, Mapping[str, Any]],
    intervals: bool = False,
) -> list[Any]:
    """Handles of the lines, of what their marks mean, and of the intervals.

    Args:
        lines: of `looks`.
        marks: meaning -> what is special about the marker.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    mark: dict[str, Any] = {"color": GREY, "linestyle": "none", "marker": "o"}
    handles: list[Any] = [Line2D([], [], label=name, **look) for name, look in lines.items()]
    handles += [Line2D([], [], label=name, **(mark | dict(look))) for name, look in marks.items()]
    return handles + (
        [Patch(color=GREY, alpha=0.2, linewidth=0, label="95 % interval")] if intervals else []
    )


def with_series(rows: pd.DataFrame, places: Sequence[str]) -> pd.DataFrame:
    """The rows with a column ``series``: the model, and the head where a model has several at one
    place.
    """
    several = rows.groupby([*places, "model"])["head"].nunique().max() > 1
    return rows.assign(series=rows["model"] + (", " + rows["head"] if several else ""))


def in_units(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with values and intervals as they are drawn: in percent, codelengths in bits."""
    scale = rows["metric"].eq(BITS).map({True: 1.0, False: 100.0})
    return rows.assign(
        **{name: rows[name].astype(float) * scale for name in ("value", "low", "high")}
    )


def metric_label(metric: str, higher_is_better: bool) -> str:
    """A metric with its unit and the direction that is better."""
    unit = "bits per label" if metric == BITS else "%"
    return f"{shortened(metric, 24)} ({unit}) {arrow(higher_is_better)}"


def title_of(cells: pd.DataFrame, rows: pd.DataFrame, more: Sequence[str] = ()) -> str:
    """What all cells of a panel share, as far as it does not go without saying or panels differ in
    it.

    Args:
        cells: of the panel.
        rows: of all panels.
        more: what the title ends in.
    """
    first = cells.iloc[0].to_dict()
    parts = [first["task"]]
    parts += [first["corpus"]] if rows["corpus"].nunique() > 1 else []
    parts += (
        [first["condition"]]
        if first.get("condition", "clean") not in ("", "clean", "several")
        else []
    )
    parts += (
        [f"trained on {first['train_condition']}"]
        if first["train_condition"] not in ("", "clean", "several")
        else []
    )
    if first.get("train_domain") and "test_domain" in cells:
        parts += [f"{first['train_domain']} → {first['test_domain']}"]
    return ", ".join([*parts, *more])


def band(axes: "Axes", x: Any, low: Any, high: Any, look: Mapping[str, Any]) -> None:
    """The interval around a line."""
    axes.fill_between(x, low, high, color=look["color"], alpha=0.12, linewidth=0)


def bars(axes: "Axes", x: Any, low: Any, high: Any, look: Mapping[str, Any]) -> None:
    """The intervals of points."""
    axes.vlines(x, low, high, color=look["color"], linewidth=0.8)


def shortened(text: str, most: int) -> str:
    """``text`` on one line, without its middle where it is longer than ``most`` characters; it may
    not begin with ``_``.
    """
    text = one_line(text)
    text = (
        f" {text}" if text.startswith("_") else text
    )  # matplotlib leaves such names out of legends
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[: most - 1 - half]}…{text[len(text) - half :]}"


def fold(text: str, width: int, most_lines: int = 3) -> str:
    """``text`` in lines of at most ``width`` characters, without its middle where it would need
    more than ``most_lines``.

    Lines end between words; a word that is longer than a line ends behind one of ``: = / + , @ _
    -`` where it can.
    """
    width = max(2, width)
    pieces_of_long = re.compile(rf"[^{ENDS}]{{0,{width - 1}}}[{ENDS}]|[^{ENDS}]{{1,{width}}}")
    for most in range(width * most_lines, 0, -1):
        lines = [""]
        for word in shortened(text, most).split():
            gap = " "
            for piece in [word] if len(word) <= width else re.findall(pieces_of_long, word):
                joined = f"{lines[-1]}{gap}{piece}" if lines[-1] else piece
                lines[-1:] = [joined] if len(joined) <= width else [lines[-1], piece]
                gap = ""
        if len(lines) <= most_lines:
            return "\n".join(lines)
    return ""


def contents(figure: "Figure") -> list[dict[str, Any]]:
    """What each panel holds, to compare pictures by: labels, and numbers rounded to 6 digits, None
    for what is missing.

    ``ticks`` are those of x and y where they are names or places of their own, ``lines`` (label, x,
    y), ``intervals`` the corners of bands and the ends of bars, ``maps`` the values of heat maps,
    ``texts`` what stands in the panel.
    """
    return [
        {
            "title": axes.get_title(),
            "axes": [axes.get_xlabel(), axes.get_ylabel()],
            "ticks": [_ticks(axis) for axis in (axes.xaxis, axes.yaxis)],
            "lines": [
                [one_line(str(line.get_label())), *map(_numbers, line.get_data())]
                for line in axes.get_lines()
            ],
            "intervals": [
                _numbers(path.vertices) for found in axes.collections for path in found.get_paths()
            ],
            "maps": [_numbers(image.get_array()) for image in axes.get_images()],
            "texts": [text.get_text() for text in axes.texts],
        }
        for axes in figure.axes
        if axes.get_label() != "<colorbar>"
    ]


def _ticks(axis: Any) -> list[str]:
    """The labels that were given to an axis; those that matplotlib makes depend on its version."""
    from matplotlib.ticker import FixedLocator

    given = isinstance(axis.get_major_locator(), FixedLocator)
    return [text.get_text() for text in axis.get_ticklabels()] if given else []


def digest(figure: "Figure") -> str:
    """sha256 of a figure's `contents`."""
    return sha256_of_json(contents(figure))


def _numbers(values: Any) -> Any:
    """Nested lists of rounded numbers."""
    array: np.ndarray = np.ma.filled(np.ma.asarray(values, float), np.nan)
    if array.ndim:
        return [_numbers(item) for item in array]
    number = float(array)
    return round(number, 6) + 0.0 if math.isfinite(number) else None
