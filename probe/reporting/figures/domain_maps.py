"""Train x test domains as heat maps, one per model and question, each row at the layer that dev
chose in its train domain.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from probe.errors import ProbeError
from probe.reporting.figures import style
from probe.reporting.figures.heat_maps import HeatMap, maps_figure
from probe.reporting.tables.cells import DASH
from probe.reporting.ties import BITS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = ["task", "corpus", "condition", "train_condition", "metric"]


def domains_figure(rows: pd.DataFrame, width: str = "double") -> "Figure":
    """A map per question, model and head; a cell has the score in percent and below it its
    interval, in whole percent.

    Colours run from the least to the highest score of the question, so that models can be compared.

    Args:
        rows: of `probe.reporting.rows.summary_rows`, of records that
            `probe.reporting.domain_gaps.crossed` gives.

    Raises:
        ProbeError: no task crosses domains.
    """
    rows = style.in_units(
        rows[(rows["train_domain"] != "") & (rows["metric"] != BITS) & rows["value"].notna()]
    )
    if rows.empty:
        raise ProbeError(
            "no score across domains to draw: no task of these records trains on one domain and tests on another."
        )
    rows = style.with_series(rows, [*QUESTION, "train_domain", "test_domain"])
    maps: dict[str, list[HeatMap]] = {}
    for _, asked in rows.groupby(QUESTION, sort=False):
        about = style.title_of(asked.drop(columns=["train_domain", "test_domain"]), rows)
        heading = f"{about}, {style.metric_label(asked['metric'].iloc[0], asked['higher_is_better'].iloc[0])}"
        ends = (asked["value"].min(), asked["value"].max())
        maps[heading] = [
            _map(cells, str(series), ends) for series, cells in asked.groupby("series")
        ]
    if len(maps) == 1:
        [(heading, alone)] = maps.items()
        return maps_figure(alone, width, heading)
    titled = [
        replace(item, title=f"{item.title}: {heading}")
        for heading, items in maps.items()
        for item in items
    ]
    return maps_figure(titled, width)


def _map(cells: pd.DataFrame, title: str, ends: tuple[float, float]) -> HeatMap:
    """The map of one question and model."""
    layer = cells.dropna(subset="layer").groupby("train_domain")["layer"].first()
    texts = [
        f"{value:.1f}" + (f"\n{low:.0f}–{high:.0f}" if low == low else "")
        for value, low, high in zip(cells["value"], cells["low"], cells["high"], strict=True)
    ]
    place = {"index": "train_domain", "columns": "test_domain"}
    values = cells.pivot(**place, values="value").iloc[::-1]  # the first at the top, as in a table
    named = values.set_axis(
        [f"{train} ({layer[train]})" if train in layer else train for train in values.index]
    )
    shown = cells.assign(text=texts).pivot(**place, values="text").iloc[::-1].fillna(DASH)
    return HeatMap(title, named, shown, *ends, ("tested on", "trained on (layer)"))
