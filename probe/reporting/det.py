"""Detection error trade-off (DET) curves of verification, one panel per list of trials, as PNG and SVG.

Miss rate over false acceptance rate, both on normal-deviate axes (Martin et al. 1997): Gaussian scores of equal variance give a
straight line. A line is of the headline head on test, at the layer that dev chose, and is drawn from the trials' ranks in the record.
Where it crosses the diagonal stands a marker: the EER by linear interpolation of the rates, so not always on the line. Rates of 0
leave the picture at its edge.
"""

import textwrap
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from probe.measures.counts import value_of
from probe.measures.verification import det_curve
from probe.records import CHOICE, chosen_layers
from probe.reporting.curves import COLOURS, MARKERS, SMALL, STYLES, write_figure
from probe.reporting.rows import check_comparable, one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = ("eer", "eer_hull")  # those whose records stand for the trials
PANEL = ["task", "corpus", "condition", "train_condition", "test_domain"]
TICKS = [0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8]
HIGHEST = 0.8
LONGEST_TITLE = 44  # characters of a line
SIZE, MOST_COLUMNS = 3.3, 3  # inches of a panel, panels


def det_rows(records: pd.DataFrame) -> pd.DataFrame:
    """The records that are drawn: one per model, headline head and list of test trials, of the first seed.

    Raises:
        ProbeError: see `probe.reporting.rows.check_comparable`.
    """
    check_comparable(records)
    records = records[records["seed"] == records.groupby(["task", "corpus", "condition"])["seed"].transform("min")]
    shown = (
        records["metric"].isin(METRICS) & (records["split"] == "test") & (records["control"] == "") & (records["budget"] == "")
    )
    rows = records[shown & records["headline"] & records["value"].notna()].merge(chosen_layers(records), on=CHOICE)
    return rows[rows["layer"] == rows["chosen_layer"]].sort_values([*PANEL, "model", "head"], ignore_index=True)


def det_curves(rows: pd.DataFrame, to_png: Path, to_svg: Path) -> None:
    """Draws the rows of `det_rows`; equal rows give a byte-identical SVG.

    Raises:
        ProbeError: matplotlib is missing.
        OSError: a file cannot be written.
    """
    write_figure(lambda: det_figure(rows), to_png, to_svg)


def det_figure(rows: pd.DataFrame) -> "Figure":
    """The figure of `det_curves`: a panel per `PANEL`, a line per model, or per model and head where a model has several."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    several = rows.groupby([*PANEL, "model"])["head"].nunique().max() > 1
    rows = rows.assign(series=rows["model"] + (", " + rows["head"] if several else ""))
    looks: dict[str, dict[str, Any]] = {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": STYLES[i % len(STYLES)],
            "marker": MARKERS[i % len(MARKERS)],
            "linewidth": 1.2,
            "markersize": SMALL + 2,
        }
        for i, name in enumerate(sorted(set(rows["series"])))
    }
    panels = list(rows.groupby(PANEL))
    n_columns = min(MOST_COLUMNS, len(panels))
    n_lines = -(-len(panels) // n_columns)
    figure = Figure(figsize=(max(4.2, SIZE * n_columns), SIZE * n_lines + 0.18 * len(looks)), layout="constrained")
    for position, (names, cells) in enumerate(panels, start=1):
        axes = figure.add_subplot(n_lines, n_columns, position, box_aspect=1)
        curves = {row["series"]: det_curve(row["counts"]["target"], row["counts"]["rank"]) for row in cells.to_dict("records")}
        lowest = min(rates[rates > 0].min() for curve in curves.values() for rates in curve)
        left = max(tick for tick in [TICKS[0], *TICKS] if tick <= max(lowest, TICKS[0]))
        for series, curve in curves.items():
            look = looks[series]
            axes.plot(*(_deviates(np.clip(rates, left / 2, 1 - left / 2)) for rates in curve), **(look | {"marker": ""}))
        for row in cells.to_dict("records"):
            eer = _deviates(np.array([value_of(row["counts"])]))
            axes.plot(eer, eer, **(looks[row["series"]] | {"linestyle": "none", "markerfacecolor": "white"}), zorder=5)
        low, high = _deviates(np.array([left, HIGHEST]))
        axes.plot([low, high], [low, high], color="#999999", linewidth=0.6, zorder=0)
        ticks = [tick for tick in TICKS if left <= tick <= HIGHEST]
        for name, axis in (("false acceptance rate (%)", axes.xaxis), ("miss rate (%)", axes.yaxis)):
            axis.set_ticks(_deviates(np.array(ticks)), [f"{100 * tick:g}" for tick in ticks])
            axis.set_label_text(name)
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        title = one_line(", ".join(str(name) for name in names if name not in ("", "clean")))
        axes.set_title(textwrap.fill(title, LONGEST_TITLE))
    handles = [Line2D([], [], label=one_line(series), **(look | {"markerfacecolor": "white"})) for series, look in looks.items()]
    handles.append(Line2D([], [], label="EER", color="#555555", linestyle="none", marker="o", markerfacecolor="white"))
    figure.legend(handles=handles, loc="outside lower center", ncols=1, frameon=False, handlelength=3.5)
    return figure


def _deviates(rates: np.ndarray) -> np.ndarray:
    """Quantiles of the normal distribution."""
    normal = NormalDist()
    return np.array([normal.inv_cdf(float(rate)) for rate in rates])
