"""Detection error trade-off (DET) curves of verification, one panel per list of trials.

Miss rate over false acceptance rate, both on normal-deviate axes (Martin et al. 1997): Gaussian
scores of equal variance give a straight line. A line belongs to the headline head on test, at the
layer that dev chose, and is drawn from the trials' ranks in the record. A marker stands where it
crosses the diagonal: the EER by linear interpolation of the rates, so it is not always on the line.
Rates of 0 lie outside the panel; the marker of an EER beyond the axes stands in its corner.
"""

from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from probe.data.conditions.grammar import CLEAN
from probe.errors import ProbeError
from probe.measures.counts import value_of
from probe.measures.detection import det_curve
from probe.measures.metrics import metric_of
from probe.reporting.figures import style
from probe.reporting.scores import Scores, with_all_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = ["task", "corpus", "condition", "train_condition", "test_domain"]
TICKS = [0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8]
HIGHEST = 0.8
WIDEST = 3.3  # inches, of a panel
EER = {"markerfacecolor": "white", "markersize": 4.5}


def det_rows(scores: Scores) -> pd.DataFrame:
    """The scores that are drawn: one per model, headline head and list of test trials, of the
    first seed.
    """
    rows = with_all_labels(scores.first_seed.tested)
    is_drawn = rows["metric"].map(lambda name: metric_of(name).is_eer).astype(bool)
    is_drawn &= rows["headline"] & rows["value"].notna()
    rows = rows[is_drawn & (rows["layer"] == rows["chosen_layer"])]
    return rows.sort_values([*PANEL, "model", "head"], ignore_index=True)


def det_figure(rows: pd.DataFrame, width: str = "double") -> "Figure":
    """A panel per `PANEL`, a line per model, or per model and head where a model has several.

    Args:
        rows: of `det_rows`.
        width: one of `probe.reporting.figures.style.WIDTHS`.

    Raises:
        ProbeError: there are no rows.
    """
    if rows.empty:
        raise ProbeError("no trials to draw: no record of verification (`eer`) at a chosen layer.")
    rows = style.with_series(rows, PANEL)
    looks = {name: look | EER for name, look in style.looks(rows["series"]).items()}
    legend = style.legend_of(looks, {"EER": EER})
    groups = [cells for _, cells in rows.groupby(PANEL)]
    titles = [
        ", ".join(value for value in cells[PANEL].iloc[0] if value not in ("", CLEAN))
        for cells in groups
    ]
    n_columns = min(len(groups), int(style.WIDTHS[width] / style.PANEL_WIDTH))
    # The two axes are alike, so panels are nearly square.
    height = min(WIDEST, style.WIDTHS[width] / n_columns) - 0.05
    size = style.PanelSize(widest=WIDEST, heights=[height] * len(groups))
    figure, panels = style.panels(titles, width, legend, size=size)
    for axes, cells in zip(panels, groups, strict=False):
        _draw(axes, cells, looks)
    return figure


def _draw(axes: "Axes", cells: pd.DataFrame, looks: dict[str, dict[str, Any]]) -> None:
    """Draw the lines, the diagonal, and the markers where they cross."""
    counts = dict(zip(cells["series"], cells["counts"], strict=True))
    curves = {name: det_curve(item["target"], item["rank"]) for name, item in counts.items()}
    lowest = min(rates[rates > 0].min() for curve in curves.values() for rates in curve)
    left = max(tick for tick in TICKS if tick <= max(lowest, TICKS[0]))
    for name, curve in curves.items():
        rates = (_deviates(np.clip(rates, left / 2, 1 - left / 2)) for rates in curve)
        axes.plot(*rates, label=name, **(looks[name] | {"marker": ""}))
    for name, item in counts.items():
        eer = _deviates(np.clip([value_of(item)], left, HIGHEST))
        look = looks[name] | style.NO_LINE
        axes.plot(eer, eer, label=f"{name} | EER", zorder=5, clip_on=False, **look)
    low, high = _deviates(np.array([left, HIGHEST]))
    axes.plot([low, high], [low, high], color="#999999", linewidth=0.6, zorder=0)
    ticks = [tick for tick in TICKS if left <= tick <= HIGHEST]
    for name, axis in (("false acceptance rate (%)", axes.xaxis), ("miss rate (%)", axes.yaxis)):
        axis.set_ticks(_deviates(np.array(ticks)), [f"{100 * tick:g}" for tick in ticks])
        axis.set_label_text(name)
    axes.set(xlim=(low, high), ylim=(low, high))


def _deviates(rates: np.ndarray) -> np.ndarray:
    """Quantiles of the normal distribution."""
    return np.array([NormalDist().inv_cdf(float(rate)) for rate in rates])
