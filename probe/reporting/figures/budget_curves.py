"""Learning curves: test scores over the number of training examples, each at the layer that dev
chose with that budget.
"""

import math
from typing import TYPE_CHECKING

import pandas as pd

from probe.errors import ProbeError
from probe.reporting.figures import style
from probe.reporting.figures.layer_curves import PANEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CLOSEST = 0.16  # of two labels, as a part of the axis


def budgets_figure(rows: pd.DataFrame, width: str = "double") -> "Figure":
    """A panel per question, a line per model (and head); numbers of examples stand at their
    logarithm.

    Args:
        rows: of `probe.reporting.rows.budget_rows`.

    Raises:
        ProbeError: nothing was trained on a part of the labels.
    """
    rows = rows[rows["chosen"] & rows["value"].notna() & (rows["n_train"] > 0)]
    if rows.empty:
        raise ProbeError(
            "no learning curve to draw: nothing was trained on a part of the labels (`budgets` in a task)."
        )
    rows = style.in_units(style.with_series(rows, [*PANEL, "budget"]))
    looks = style.looks(rows["series"])
    legend = style.legend_of(looks, {}, bool(rows["low"].notna().any()))
    questions = [cells for _, cells in rows.groupby(PANEL, sort=False)]
    figure, panels = style.panels(
        [style.title_of(cells, rows) for cells in questions], width, legend
    )
    for axes, cells in zip(panels, questions, strict=False):
        for series, line in cells.sort_values("n_train").groupby("series"):
            style.band(axes, line["n_train"], line["low"], line["high"], looks[str(series)])
            axes.plot(line["n_train"], line["value"], label=str(series), **looks[str(series)])
        axes.set_xscale("log")
        _ticks(axes, cells)
        axes.set_xlabel("training examples")
        axes.set_ylabel(
            style.metric_label(cells["metric"].iloc[0], cells["higher_is_better"].iloc[0])
        )
    return figure


def _ticks(axes: "Axes", cells: pd.DataFrame) -> None:
    """The numbers of examples with their budgets, as far as there is room from the largest on."""
    names = cells.drop_duplicates("n_train").set_index("n_train")["budget"]
    shown: list[int] = []
    for n in sorted(names.index, reverse=True):
        if not shown or math.log(shown[-1] / n) >= CLOSEST * math.log(
            max(names.index) / min(names.index)
        ):
            shown.append(int(n))
    shown.reverse()
    axes.set_xticks(shown, [f"{n}\n{style.shortened(names[n] or 'all', 10)}" for n in shown])
    axes.minorticks_off()
