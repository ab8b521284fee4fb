"""Layer curves: test scores over layers, one panel per question.

On the axis ``index`` a numbered layer stands at its number, `conv` at -1, and `final`, which is no
block's output, apart from the line at N + 1. On ``depth`` it stands at its relative depth, so that
models of different depths end at one place; `conv` and `final` stand apart from 0 and 1. A model of
one layer is a dashed line across the panel, with its interval at the right.
"""

import logging
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.errors import ProbeError, listed
from probe.records import WEIGHTED
from probe.reporting.figures import style
from probe.reporting.losses import COSTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger("probe")

AXES = ("index", "depth")
APART = 0.08  # of `conv` and `final` on the axis of depth
STEP = 0.03  # between the intervals of models of one layer, as a part of the axis
PANEL = ["task", "corpus", "condition", "train_condition", "train_domain", "test_domain", "metric"]


def usual_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that are drawn where nothing else is asked for.

    Of a question that was asked on clean audio the other conditions are left out, and of one that
    has another metric the detection costs: condition curves and tables have them.
    """
    for name, is_usual in (
        ("condition", "clean".__eq__),
        ("metric", lambda metric: not metric.startswith(COSTS)),
    ):
        usual = rows[name].map(is_usual).astype(bool)
        others = [rows[column] for column in PANEL if column != name]
        rows = rows[usual | ~usual.groupby(others).transform("any")]
    return rows


def curves_figure(rows: pd.DataFrame, axis: str = "index", width: str = "double") -> "Figure":
    """A panel per `PANEL`, a line per model (and head), labelled by them.

    Panels whose models all have one layer are drawn only where no panel has more.

    Args:
        rows: of `probe.reporting.rows.layer_rows`.
        axis: one of `AXES`, see the module.
        width: one of `probe.reporting.figures.style.WIDTHS`.

    Raises:
        ProbeError: no headline head has a value, or no layer a depth for its axis.
    """
    rows = rows[rows["layer"] != WEIGHTED]
    n_layers = rows.groupby([*PANEL, "model", "head"])["layer"].transform("nunique")
    rows = rows.assign(flat=n_layers == 1)[rows["headline"] & rows["value"].notna()]
    if rows.empty:
        raise ProbeError(
            "no test score to draw: every value is missing. The notes in table.md say why."
        )
    if axis == "depth":
        rows = _with_depth(rows)
    curved = ~rows.groupby(PANEL)["flat"].transform("all")
    rows = rows[curved] if curved.any() else rows  # panels of points alone say nothing of layers
    rows = style.in_units(style.with_series(rows, PANEL))
    curves = set(rows["series"][~rows["flat"]])
    looks = style.looks(rows["series"], set(rows["series"]) - curves)
    chosen = {"chosen on dev": style.LARGE} if (rows["chosen"] & ~rows["flat"]).any() else {}
    final = {"after the final LayerNorm": style.OPEN} if (rows["layer"] == "final").any() else {}
    legend = style.legend_of(looks, chosen | final, bool(rows["low"].notna().any()))
    questions = [cells for _, cells in rows.groupby(PANEL)]
    figure, panels = style.panels(
        [style.title_of(cells, rows) for cells in questions], width, legend
    )
    for axes, cells in zip(panels, questions, strict=False):
        _draw(axes, cells, looks, axis)
    return figure


def _with_depth(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that have a place on the axis of depth: models of one layer, and those whose number
    of blocks is known.
    """
    known = rows.groupby([*PANEL, "model", "head"])["depth"].transform("count") > 0
    if not (known & ~rows["flat"]).any():
        raise ProbeError(
            "no layer has a relative depth: the records are older than it, or nothing says how many blocks the models have. Draw "
            "over the numbers of layers (--axis index)."
        )
    if lacking := sorted(set(rows[~known & ~rows["flat"]]["model"])):
        log.warning("not drawn, nothing says how many blocks they have: %s", listed(lacking))
    return rows[known | rows["flat"]]


def _draw(axes: "Axes", cells: pd.DataFrame, looks: dict[str, dict[str, Any]], axis: str) -> None:
    """The lines of one panel."""
    axes.set_ylabel(style.metric_label(cells["metric"].iloc[0], cells["higher_is_better"].iloc[0]))
    if cells["flat"].all():
        for place, (series, line) in enumerate(cells.groupby("series")):
            _point(axes, [place], line, str(series), looks[str(series)] | {"linestyle": "none"})
        axes.set_xticks([])
        axes.margins(x=0.3)
        return
    cells = pd.concat(
        [line.assign(x=_positions(line, axis)) for _, line in cells.groupby("series")]
    )
    left, right = cells["x"].min(), max(cells["x"].max(), 1)
    for series, line in cells[~cells["flat"]].groupby("series"):
        look = looks[str(series)]
        blocks = line[line["layer"] != "final"].sort_values("x")
        style.band(axes, blocks["x"], blocks["low"], blocks["high"], look)
        axes.plot(blocks["x"], blocks["value"], label=str(series), **look)
        _marks(axes, line, str(series), look)
    for place, (series, line) in enumerate(cells[cells["flat"]].groupby("series"), start=1):
        end = right + place * STEP * (right - left)
        _point(
            axes,
            [left, end],
            pd.concat([line, line]),
            str(series),
            looks[str(series)] | {"linestyle": style.FLAT},
        )
    if axis == "depth":
        _depth_ticks(axes, cells)
    else:
        _ticks(axes, left, right)


def _point(
    axes: "Axes", x: list[float], line: pd.DataFrame, name: str, look: dict[str, Any]
) -> None:
    """The score of a model of one layer: a marker with its interval at the last place, and the line
    that leads to it.
    """
    axes.plot(x, line["value"], label=name, markevery=[-1], **look)
    style.bars(axes, x[-1:], line["low"][-1:], line["high"][-1:], look)


def _marks(axes: "Axes", line: pd.DataFrame, name: str, look: dict[str, Any]) -> None:
    """The open marker of layer `final` with its interval, and the large marker of the chosen layer."""
    final, chosen = line[line["layer"] == "final"], line[line["chosen"]]
    hollow = look | style.OPEN | {"linestyle": "none"}
    style.bars(axes, final["x"], final["low"], final["high"], look)
    axes.plot(final["x"], final["value"], label=f"{name} | final", **hollow)
    large = (
        (hollow if (chosen["layer"] == "final").any() else look)
        | style.LARGE
        | {"linestyle": "none"}
    )
    axes.plot(chosen["x"], chosen["value"], label=f"{name} | chosen", zorder=5, **large)


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
