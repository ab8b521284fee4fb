"""Layer curves: test scores over layers, one panel per question.

On the axis ``index`` a numbered layer stands at its number, `conv` at -1, and `final`, which is not
the output of a block, apart from the line at N + 1. On ``depth`` a layer stands at its relative
depth, so that models of different depths end at the same place; `conv` and `final` stand apart from
0 and 1. A model of one layer is a dashed line across the panel, with its interval at the right.
"""

import logging
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.data.conditions.grammar import CLEAN
from probe.errors import ProbeError, listed
from probe.measures.choice_shares import MOST_CHOICES
from probe.measures.metrics import metric_of
from probe.records import COMBINED, QUESTION
from probe.reporting.figures import style
from probe.reporting.tables.grid import SHARED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger("probe")

MOST_BESIDE_CONV = 9  # layers in a panel whose numbers leave room for the label of `conv`
APART = 0.08  # distance of `conv` and `final` from the other layers on the axis of depth
STEP = 0.03  # between the intervals of models of one layer, as a part of the axis
PANEL = [*QUESTION, "metric"]


def usual_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that are drawn unless something else is chosen.

    Other conditions are left out where a question has scores on clean audio, and detection costs
    where it has another metric; condition curves and tables show them.
    """
    for name, usual in (
        ("condition", rows["condition"] == CLEAN),
        ("metric", ~rows["metric"].map(lambda name: metric_of(name).is_cost).astype(bool)),
    ):
        usual = usual.loc[rows.index]
        others = [rows[column] for column in PANEL if column != name]
        rows = rows[usual | ~usual.groupby(others).transform("any")]
    return rows


def curve_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that curves are drawn of: scores of single layers by headline heads that have a
    value; ``flat`` says that the model has one layer.
    """
    rows = rows[~rows["layer"].isin(COMBINED)]
    n_layers = rows.groupby([*PANEL, "model", "head"])["layer"].transform("nunique")
    return rows.assign(flat=n_layers == 1)[rows["headline"] & rows["value"].notna()]


def curves_figure(rows: pd.DataFrame, axis: str = "index", width: str = "double") -> "Figure":
    """A panel per `PANEL`, a line per model (and head).

    Panels whose models all have one layer are drawn only where no panel has more.

    Args:
        rows: of `probe.reporting.scores.Scores.layers`.
        axis: ``index`` or ``depth``; see the module.
        width: one of `probe.reporting.figures.style.WIDTHS`.

    Raises:
        ProbeError: no headline head has a value of a single layer, or no layer has a depth for its
            axis.
    """
    scored_layers = sorted(set(rows["layer"][rows["headline"] & rows["value"].notna()]))
    rows = curve_rows(rows)
    if rows.empty and scored_layers:
        raise ProbeError(
            "no layer curve to draw: no single layer was scored. All scores are of "
            f"{listed(scored_layers)}; `probe table` prints them."
        )
    if rows.empty:
        raise ProbeError(
            "no test score to draw: every value is missing. The notes in table.md say why."
        )
    if axis == "depth":
        rows = _with_depth(rows)
    has_curve = ~rows.groupby(PANEL)["flat"].transform("all")
    rows = rows[has_curve] if has_curve.any() else rows
    rows = style.in_units(style.with_series(rows, PANEL))
    curves = set(rows["series"][~rows["flat"]])
    looks = style.looks(rows["series"], set(rows["series"]) - curves)
    marks: dict[str, Any] = {}
    if (rows["chosen"] & ~rows["flat"]).any():
        marks["chosen on dev"] = style.LARGE
    if (rows["in_layer_set"] & ~rows["flat"]).any():
        marks[f"{100 * MOST_CHOICES:.0f} % of resamples choose one of these"] = style.RINGED
    if (rows["layer"] == "final").any():
        marks["after the final LayerNorm"] = style.OPEN
    legend = style.legend_of(looks, marks, bool(rows["low"].notna().any()))
    questions = [cells for _, cells in rows.groupby(PANEL)]
    shared = [bool((cells["shared_speakers"] > 0).any()) for cells in questions]
    titles = [
        style.title_of(cells, rows) + (f" {SHARED}" if is_shared else "")
        for cells, is_shared in zip(questions, shared, strict=True)
    ]
    if any(shared):
        legend.append(style.remark(f"{SHARED} test speakers are in training too"))
    figure, panels = style.curve_panels(questions, titles, width, legend)
    for axes, cells in panels:
        if cells["flat"].all():
            _draw_points(axes, cells, looks)
        else:
            _draw_curves(axes, cells, looks, axis)
    return figure


def _with_depth(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of models of one layer, and of those whose number of blocks is known."""
    known = rows.groupby([*PANEL, "model", "head"])["depth"].transform("count") > 0
    if not (known & ~rows["flat"]).any():
        raise ProbeError(
            "no layer has a relative depth: the records were written by an older version, or the "
            "number of blocks is unknown. Draw over the numbers of layers (--axis index)."
        )
    if lacking := sorted(set(rows[~known & ~rows["flat"]]["model"])):
        log.warning("not drawn because the number of blocks is unknown: %s", listed(lacking))
    return rows[known | rows["flat"]]


def _draw_points(axes: "Axes", cells: pd.DataFrame, looks: dict[str, dict[str, Any]]) -> None:
    """Draw models of one layer beside each other."""
    for place, (series, line) in enumerate(cells.groupby("series")):
        _draw_level(axes, [place], line, str(series), looks[str(series)] | style.NO_LINE)
    axes.set_xticks([])
    axes.margins(x=0.3)


def _draw_curves(
    axes: "Axes", cells: pd.DataFrame, looks: dict[str, dict[str, Any]], axis: str
) -> None:
    """Draw curves, and models of one layer as levels across the panel."""
    lines = [(str(series), line) for series, line in cells.groupby("series")]
    lines = [(series, line.assign(x=_positions(line, axis))) for series, line in lines]
    x = pd.concat([line["x"] for _, line in lines])
    left, right = x.min(), max(1, x.max())
    for series, line in lines:
        curve = line[~line["flat"]]
        if len(curve):
            blocks = curve[curve["layer"] != "final"].sort_values("x")
            style.curve(axes, blocks, "x", series, looks[series])
            _draw_marks(axes, curve, series, looks[series])
    levels = [(series, line) for series, line in lines if line["flat"].all()]
    for number, (series, line) in enumerate(levels, start=1):
        end = right + number * STEP * (right - left)
        look = looks[series] | {"linestyle": style.DASHED}
        _draw_level(axes, [left, end], pd.concat([line, line]), series, look)
    ticks: dict[str, float] = {}
    # Where the label of conv would run into the next number, it stands one line lower.
    if axis == "depth":
        ticks |= {"\nconv": -APART} if cells["layer"].eq("conv").any() else {}
        ticks |= {f"{quarter / 4:g}": quarter / 4 for quarter in range(5)}
    else:
        conv = "conv" if right <= MOST_BESIDE_CONV else "\nconv"
        ticks |= {conv: -1} if left < 0 else {}
        ticks |= {str(number): number for number in range(0, int(right) + 1, _tick_step(right))}
    axes.set_xlabel("relative depth" if axis == "depth" else "layer")
    axes.set_xticks(list(ticks.values()), list(ticks))


def _draw_level(
    axes: "Axes", x: list[float], line: pd.DataFrame, name: str, look: dict[str, Any]
) -> None:
    """Draw the score of a model of one layer: a marker with its interval at the last place, and
    the line that leads to it.
    """
    axes.plot(x, line["value"], label=name, markevery=[-1], **look)
    style.bars(axes, x[-1:], line[-1:], look)


def _draw_marks(axes: "Axes", line: pd.DataFrame, name: str, look: dict[str, Any]) -> None:
    """Draw the open marker of layer `final`, the large marker of the chosen layer, and rings around
    the layers that most resamples of the dev blocks choose from.
    """
    final, chosen = line[line["layer"] == "final"], line[line["chosen"]]
    point = look | style.NO_LINE
    style.bars(axes, final["x"], final, look)
    axes.plot(final["x"], final["value"], label=f"{name} | final", **(point | style.OPEN))
    if (chosen["layer"] == "final").any():
        point |= style.OPEN
    likely = line[line["in_layer_set"]]
    rings = look | style.NO_LINE | style.RINGED
    if len(likely):
        axes.plot(likely["x"], likely["value"], label=f"{name} | likely", zorder=4, **rings)
    label = f"{name} | chosen"
    axes.plot(chosen["x"], chosen["value"], label=label, zorder=5, **(point | style.LARGE))


def _positions(line: pd.DataFrame, axis: str) -> pd.Series:
    """Where the layers of one line stand on the x axis."""
    layers = line["layer"]
    if axis == "depth":
        return layers.map({"conv": -APART, "final": 1 + APART}).fillna(line["depth"])
    numbers = pd.to_numeric(layers, errors="coerce")
    after = numbers.max() + 1 if numbers.notna().any() else 0
    return numbers.fillna(layers.map({"conv": -1, "final": after}))


def _tick_step(right: float) -> int:
    return next(step for step in (1, 2, 4, 8, 16, 10**6) if right / step <= 8)
