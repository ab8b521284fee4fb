"""Learning curves: test scores over the number of training examples, each at the layer that was
best on dev with that number.
"""

import math
from typing import TYPE_CHECKING

import pandas as pd

from probe.errors import ProbeError
from probe.records import QUESTION
from probe.reporting.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CLOSEST = 0.16  # distance of two labels, as a part of the axis


def budgets_figure(rows: pd.DataFrame, width: str = "double") -> "Figure":
    """A panel per question, a line per model (and head), on a logarithmic axis.

    Args:
        rows: of `probe.reporting.scores.Scores.budgets`.

    Raises:
        ProbeError: nothing was trained on a part of the labels.
    """
    rows = rows[rows["chosen"] & rows["value"].notna() & (rows["n_train"] > 0)]
    if rows.empty:
        raise ProbeError(
            "no learning curve to draw: no task trained on a part of the labels "
            "(`budgets` in a task file)."
        )
    rows = style.in_units(style.with_series(rows, [*QUESTION, "metric", "budget"]))
    looks = style.looks(rows["series"])
    legend = style.legend_of(looks, {}, bool(rows["low"].notna().any()))
    questions = [cells for _, cells in rows.groupby([*QUESTION, "metric"], sort=False)]
    titles = [style.title_of(cells, rows) for cells in questions]
    figure, panels = style.curve_panels(questions, titles, width, legend)
    for axes, cells in panels:
        for series, line in cells.sort_values("n_train").groupby("series"):
            style.curve(axes, line, "n_train", str(series), looks[str(series)])
        axes.set_xscale("log")
        _label_budgets(axes, cells)
        axes.set_xlabel("training examples")
    return figure


def _label_budgets(axes: "Axes", cells: pd.DataFrame) -> None:
    """Label numbers of examples with their budgets, from the largest on, where there is room."""
    names = cells.drop_duplicates("n_train").set_index("n_train")["budget"]
    room = CLOSEST * math.log(max(names.index) / min(names.index))
    labelled: list[int] = []
    for n in sorted(names.index, reverse=True):
        if not labelled or math.log(labelled[-1] / n) >= room:
            labelled.append(int(n))
    labelled.reverse()
    axes.set_xticks(labelled, [f"{n}\n{style.shortened(names[n] or 'all', 10)}" for n in labelled])
    axes.minorticks_off()
