"""Layer curves: test scores over layers, one panel per question, as PNG and SVG.

Colours are those of Okabe and Ito (told apart by colour-blind readers); markers and line styles tell the lines apart in grey.
On the axis ``index`` a numbered layer stands at its number, `conv` at -1, and `final`, which is no block's output, apart from the
line at N + 1. On ``depth`` it stands at its relative depth, so that models of different depths end at one place; `conv` and `final`
stand apart from 0 and 1.
"""

import io
import logging
import math
import textwrap
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.errors import ProbeError, listed
from probe.files import write_atomically
from probe.records import WEIGHTED
from probe.reporting.rows import layer_rows, one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger("probe")

AXES = ("index", "depth")
APART = 0.08  # of `conv` and `final` on the axis of depth
PANEL = ["task", "corpus", "condition", "train_condition", "train_domain", "metric"]
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#999999"]
MARKERS = ["o", "s", "^", "D", "v", "P", "<", "X", ">"]
STYLES = ["-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1))]
SMALL = 3.8
LARGE: dict[str, Any] = {"markersize": 7.5, "markeredgecolor": "black", "markeredgewidth": 1.3}
FLAT = (0, (4, 3))
MOST_LINES = 8
PANEL_WIDTH, PANEL_HEIGHT, MOST_COLUMNS = 3.3, 2.5, 3  # inches, inches, panels
CHARACTER_WIDTH = 0.065  # inches, of the legend's font
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "text.parse_math": False,  # a `$` in a name is a dollar
    "svg.hashsalt": "layerprobe",
}


def missing_matplotlib() -> str:
    """Why no curves can be drawn, and what to do; empty where matplotlib is installed."""
    return "" if find_spec("matplotlib") else "layer curves need matplotlib. To get it: install layerprobe[plots]."


def layer_curves(records: pd.DataFrame, to_png: Path, to_svg: Path, axis: str = "index") -> None:
    """Draws the headline heads' test scores over layers; equal records give a byte-identical SVG.

    Args:
        axis: one of `AXES`, see the module.

    Raises:
        ProbeError: matplotlib is missing, there is nothing to draw (no depth for its axis), or
            `probe.reporting.rows.check_comparable` refuses.
        OSError: a file cannot be written.
    """
    save(lambda: curves_figure(layer_rows(records), axis), to_png, to_svg)


def save(draw: Callable[[], "Figure"], to_png: Path, to_svg: Path) -> None:
    """Draws a figure in the style of this package and writes it; an equal figure gives a byte-identical SVG.

    Raises:
        ProbeError: matplotlib is missing.
        OSError: a file cannot be written.
    """
    if reason := missing_matplotlib():
        raise ProbeError(reason)
    from matplotlib import style

    with style.context(["default", STYLE]):  # whatever the user's matplotlibrc says
        figure = draw()
        for path, options in ((to_png, {"format": "png", "dpi": 200}), (to_svg, {"format": "svg", "metadata": {"Date": None}})):
            picture = io.BytesIO()
            figure.savefig(picture, **options)
            write_atomically(path, picture.getvalue())


def curves_figure(rows: pd.DataFrame, axis: str = "index") -> "Figure":
    """The figure of `layer_curves`: a panel per `PANEL`, a line per model (and head, and test domain), labelled by them.

    Panels whose models all have one layer are drawn only where no panel has more.

    Args:
        rows: of `probe.reporting.rows.layer_rows`.
        axis: one of `AXES`.

    Raises:
        ProbeError: no headline head has a value, or no layer a depth for its axis.
    """
    from matplotlib.figure import Figure

    rows = rows[(rows["layer"] != WEIGHTED) & (rows["metric"] != "codelength")]
    n_layers = rows.groupby([*PANEL, "test_domain", "model", "head"])["layer"].transform("nunique")
    rows = rows.assign(flat=n_layers == 1)[rows["headline"] & rows["value"].notna()]
    if rows.empty:
        raise ProbeError("no test score to draw: every value is missing. The notes in table.md say why.")
    if axis == "depth":
        rows = _with_depth(rows)
    curved = ~rows.groupby(PANEL)["flat"].transform("all")
    rows = rows[curved] if curved.any() else rows  # panels of points alone say nothing of layers
    heads = rows.groupby([*PANEL, "model"])["head"].nunique().max()
    rows = rows.assign(series=rows["model"] + (", " + rows["head"] if heads > 1 else ""))
    looks, domain_styles = _looks(rows), _domain_styles(rows)
    legend = _legend(rows, looks, domain_styles)

    panels = [cells for _, cells in rows.groupby(PANEL)]
    n_columns = min(MOST_COLUMNS, len(panels))
    longest = max(len(handle.get_label()) for handle in legend) * CHARACTER_WIDTH + 0.6
    width = max(PANEL_WIDTH * n_columns, longest)
    n_legend_columns = min(len(legend), int(width / longest))
    n_lines = math.ceil(len(panels) / n_columns)
    height = PANEL_HEIGHT * n_lines + 0.18 * math.ceil(len(legend) / n_legend_columns)
    figure = Figure(figsize=(width, height), layout="constrained")
    for position, cells in enumerate(panels, start=1):
        axes = figure.add_subplot(n_lines, n_columns, position)
        _draw(axes, cells, looks, domain_styles, axis)
        _title(axes, cells, rows)
    figure.legend(handles=legend, loc="outside lower center", ncols=n_legend_columns, frameon=False, handlelength=3.5)
    return figure


def _with_depth(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that have a place on the axis of depth: models of one layer, and those whose number of blocks is known."""
    known = rows.groupby([*PANEL, "model", "head"])["depth"].transform("count") > 0
    if not (known & ~rows["flat"]).any():
        raise ProbeError(
            "no layer has a relative depth: the records are older than it, or nothing says how many blocks the models have. Draw "
            "over the numbers of layers (--axis index)."
        )
    if lacking := sorted(set(rows[~known & ~rows["flat"]]["model"])):
        log.warning("not drawn, nothing says how many blocks they have: %s", listed(lacking))
    return rows[known | rows["flat"]]


def _draw(axes: "Axes", cells: pd.DataFrame, looks: dict[str, dict[str, Any]], domain_styles: dict[str, Any], axis: str) -> None:
    """The lines of one panel."""
    cells = pd.concat([line.assign(x=_positions(line, axis)) for _, line in cells.groupby(["series", "test_domain"])])
    left, right = cells["x"].min(), max(cells["x"].max(), 1)
    tests = _shown_domains(cells)
    for (series, test), line in cells[cells["test_domain"].isin(tests)].groupby(["series", "test_domain"]):
        name = " | ".join(filter(None, [str(series), str(test)]))
        look = looks[str(series)] | ({"linestyle": domain_styles[str(test)]} if test else {})
        if cells["flat"].all():
            _point(axes, line, name, look)
        elif line["flat"].all():
            _block_line(axes, pd.concat([line, line]).assign(x=[left, right]), name, look)
        else:
            _block_line(axes, line[line["layer"] != "final"].sort_values("x"), name, look)
            _marks(axes, line, name, look)
    if cells["flat"].all():
        axes.set_xticks([])
        axes.margins(x=0.3)
    elif axis == "depth":
        _depth_ticks(axes, cells)
    else:
        _ticks(axes, left, right)


def _point(axes: "Axes", line: pd.DataFrame, name: str, look: dict[str, Any]) -> None:
    """A model of one layer among models of one layer: a point with its interval, beside those drawn before."""
    x = [len(axes.containers)]
    axes.errorbar(x, 100 * line["value"], label=name, **(look | {"linestyle": "none"}))
    bars = axes.vlines(x, 100 * line["low"], 100 * line["high"], color=look["color"], linewidth=1.2)
    bars.set_linestyle(look["linestyle"])


def _block_line(axes: "Axes", line: pd.DataFrame, name: str, look: dict[str, Any]) -> None:
    axes.fill_between(line["x"], 100 * line["low"], 100 * line["high"], color=look["color"], alpha=0.1, linewidth=0)
    axes.plot(line["x"], 100 * line["value"], label=name, **look)


def _marks(axes: "Axes", line: pd.DataFrame, name: str, look: dict[str, Any]) -> None:
    """The open marker of layer `final` with its interval, and the large marker of the chosen layer."""
    final, chosen = line[line["layer"] == "final"], line[line["chosen"]]
    hollow = look | {"linestyle": "none", "markerfacecolor": "white"}
    axes.vlines(final["x"], 100 * final["low"], 100 * final["high"], color=look["color"], linewidth=0.8)
    axes.plot(final["x"], 100 * final["value"], label=f"{name} | final", **hollow)
    large = (hollow if (chosen["layer"] == "final").any() else look) | LARGE | {"linestyle": "none"}
    axes.plot(chosen["x"], 100 * chosen["value"], label=f"{name} | chosen", zorder=5, **large)


def _positions(line: pd.DataFrame, axis: str) -> pd.Series:
    """Where the layers of one line stand on the x axis."""
    layers = line["layer"]
    if axis == "depth":
        return layers.map({"conv": -APART, "final": 1 + APART}).fillna(line["depth"])
    numbers = pd.to_numeric(layers, errors="coerce")
    after = numbers.max() + 1 if numbers.notna().any() else 0
    return numbers.fillna(layers.map({"conv": -1, "final": after}))


def _ticks(axes: "Axes", left: float, right: float) -> None:
    step = next(step for step in (1, 2, 4, 8, 16, 10**6) if right / step <= 8)
    numbers = list(range(0, int(right) + 1, step))
    conv = [-1] if left < 0 else []  # a line lower than the numbers, which are near
    axes.set_xticks(conv + numbers, [*("\nconv" for _ in conv), *map(str, numbers)])
    axes.set_xlabel("layer")


def _depth_ticks(axes: "Axes", cells: pd.DataFrame) -> None:
    conv = {-APART: "\nconv"} if (cells["layer"] == "conv").any() else {}
    places = conv | {quarter / 4: f"{quarter / 4:g}" for quarter in range(5)}
    axes.set_xticks(list(places), list(places.values()))
    axes.set_xlabel("relative depth")


def _title(axes: "Axes", cells: pd.DataFrame, rows: pd.DataFrame) -> None:
    """What all cells of the panel share, as far as other panels differ in it."""
    panel = cells.iloc[0].to_dict()
    parts = [panel["task"]]
    parts += [panel["corpus"]] if rows["corpus"].nunique() > 1 else []
    parts += [panel["condition"]] if (rows["condition"] != "clean").any() else []
    parts += [f"trained on {panel['train_domain']}"] if panel["train_domain"] else []
    shown, there = len(_shown_domains(cells)), cells["test_domain"].nunique()
    fewer = f"\n({shown} of {there} test domains)" if shown < there else ""
    axes.set_title(textwrap.fill(one_line(", ".join(parts)), 44) + fewer)
    axes.set_ylabel(one_line(f"{panel['metric']} (%) {'↑' if panel['higher_is_better'] else '↓'}"))


def _looks(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Colour, marker and line style of each series, the same in all panels."""
    looks = {}
    plain = (rows["test_domain"] == "").all()
    for number, (series, line) in enumerate(rows.groupby("series")):
        style = FLAT if line["flat"].all() else STYLES[number % len(STYLES)]
        looks[str(series)] = {
            "color": COLOURS[number % len(COLOURS)],
            "marker": MARKERS[number % len(MARKERS)],
            "linestyle": style if plain else "-",  # across domains the style is the test domain's
            "linewidth": 1.2,
            "markersize": SMALL,
        }
    return looks


def _domain_styles(rows: pd.DataFrame) -> dict[str, Any]:
    domains = sorted(set(rows["test_domain"]) - {""})
    return {domain: STYLES[number % len(STYLES)] for number, domain in enumerate(domains)}


def _shown_domains(cells: pd.DataFrame) -> list[str]:
    """Test domains of a panel, the train domain first, as many as `MOST_LINES` lines allow."""
    tests = sorted(set(cells["test_domain"]), key=lambda test: (test != cells["train_domain"].iloc[0], test))
    return tests[: max(1, MOST_LINES // cells["series"].nunique())]


def _legend(rows: pd.DataFrame, looks: dict[str, dict[str, Any]], domain_styles: dict[str, Any]) -> list[Any]:
    """Handles: the series, the test domains, and what the marks mean."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    mark: dict[str, Any] = {"color": "#555555", "linestyle": "none", "marker": "o"}
    handles: list[Any] = [Line2D([], [], label=one_line(series), **look) for series, look in looks.items()]
    handles += [
        Line2D([], [], color="#555555", linestyle=style, label=one_line(f"tested on {domain}"))
        for domain, style in domain_styles.items()
    ]
    if (rows["chosen"] & ~rows["flat"]).any():
        handles.append(Line2D([], [], label="chosen on dev", **LARGE, **mark))
    if (rows["layer"] == "final").any():
        handles.append(Line2D([], [], label="after the final LayerNorm", markersize=SMALL, markerfacecolor="white", **mark))
    if rows["low"].notna().any():
        handles.append(Patch(color="#555555", alpha=0.2, linewidth=0, label="95 % interval"))
    return handles
