"""The critical-difference diagram (Demsar 2006): models on an axis of mean ranks, and a bar over
those whose mean ranks are not significantly different.
"""

from typing import TYPE_CHECKING

import pandas as pd

from probe.measures.ranks import alike, critical_difference
from probe.reporting.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def ranks_figure(rows: pd.DataFrame, width: str = "double") -> "Figure":
    """A line per model with the interval of its mean rank, the best on top; bars join models that
    do not differ.

    Args:
        rows: of `probe.reporting.tables.rank_tables.rank_rows`.
    """
    n_models, n_tasks = len(rows), int(rows["n_tasks"].iloc[0])
    difference = critical_difference(n_models, n_tasks)
    groups = alike(list(rows["mean_rank"]), difference)
    height = style.LINE_HEIGHT * (1.3 * n_models + 3)
    size = style.PanelSize(widest=style.WIDTHS[width], heights=[height])
    title = f"mean rank over {n_tasks} tasks; critical difference {difference:.2f} (Nemenyi, 5 %)"
    figure, (axes,) = style.panels([title], width, size=size)
    at = list(range(n_models))
    axes.hlines(at, rows["low"], rows["high"], color=style.COLOURS[0], linewidth=0.8)
    axes.plot(rows["mean_rank"], at, "o", color=style.COLOURS[0], markersize=4)
    for number, (first, last) in enumerate(groups):
        x = n_models + 0.25 + 0.18 * number
        axes.plot([x, x], [first - 0.2, last + 0.2], color="black", linewidth=2.2)
    axes.set_yticks(at, [style.shortened(name, 34) for name in rows["model"]])
    axes.set_ylim(n_models - 0.4, -0.6)
    axes.set_xlim(0.8, n_models + 0.4 + 0.18 * len(groups))
    axes.set_xticks(range(1, n_models + 1))
    axes.set_xlabel("mean rank, 1 is the best; bars at the right: not significantly different")
    return figure
