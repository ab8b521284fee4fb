"""Condition curves: test scores at the chosen layers over conditions from mild to severe.

There is a panel per question and family of conditions: the clean score stands at the left, then the
conditions that differ in one number only (`probe.data.conditions.severity.families`), evenly
spaced.
Conditions without a family share a panel, as points.
"""

from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.data.conditions.grammar import CLEAN
from probe.data.conditions.severity import families
from probe.errors import ProbeError
from probe.measures.metrics import metric_of
from probe.records import ACROSS_CONDITIONS
from probe.reporting.figures import style
from probe.reporting.further_measures import MEAN
from probe.reporting.losses import chosen_rows
from probe.reporting.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SINGLE = "single conditions"
MOST_WRAPPED = 4  # labels of an axis; more are drawn upright
LONGEST_NAME = 24
APART = 0.1  # distance of models at one condition


def conditions_figure(rows: pd.DataFrame, width: str = "double") -> "Figure":
    """A panel per question and family of conditions, a line, or points, per model.

    Detection costs are drawn only for questions that have no other metric.

    Args:
        rows: of `probe.reporting.losses.Losses.conditions`.
        width: one of `probe.reporting.figures.style.WIDTHS`.

    Raises:
        ProbeError: no chosen layer has a score under a condition.
    """
    rows = style.in_units(chosen_rows(rows))
    rows = rows[(rows["condition"] != MEAN) & rows["value"].notna()]
    costs = rows["metric"].map(lambda name: metric_of(name).is_cost).astype(bool)
    others = [rows[name] for name in ACROSS_CONDITIONS if name != "metric"]
    alone = costs.groupby(others).transform("all")
    rows = rows[~costs | alone]
    looks = style.looks(rows["model"])
    several_heads = rows.groupby(["task", "metric"])["head"].nunique().max() > 1
    groups, titles, families_drawn = [], [], []
    for _, cells in rows.groupby(ACROSS_CONDITIONS, sort=False):
        heads = list(cells["head"].unique()) if several_heads else []
        title = style.title_of(cells.drop(columns="condition"), rows, heads)
        for family, members in _panels(cells["condition"]):
            groups.append(cells[cells["condition"].isin([CLEAN, *members])])
            titles.append(f"{title}: {family.replace('#', '…')}")
            families_drawn.append((family, members))
    if not groups:
        raise ProbeError(
            "no score under a condition at a chosen layer. The notes in table.md say why."
        )
    legend = style.legend_of(looks, {}, bool(rows["low"].notna().any()))
    figure, panels = style.curve_panels(groups, titles, width, legend)
    for (axes, cells), (family, members) in zip(panels, families_drawn, strict=False):
        _draw(axes, cells, family, members, looks)
    return figure


def _panels(conditions: pd.Series) -> list[tuple[str, list[str]]]:
    """The families with their conditions; those of one condition are one family, `SINGLE`."""
    by_family = families(set(conditions) - {CLEAN})
    alone = [name for members in by_family.values() if len(members) == 1 for name in members]
    together = [(family, members) for family, members in by_family.items() if len(members) > 1]
    return together + ([(SINGLE, alone)] if alone else [])


def _draw(
    axes: "Axes",
    cells: pd.DataFrame,
    family: str,
    members: list[str],
    looks: dict[str, dict[str, Any]],
) -> None:
    """Draw the lines, or points, of one panel."""
    place = {name: x for x, name in enumerate([CLEAN, *members])}
    lines = list(cells.assign(x=cells["condition"].map(place)).sort_values("x").groupby("model"))
    apart = min(APART, 0.8 / len(lines))
    for number, (model, line) in enumerate(lines):
        look = looks[str(model)]
        if family == SINGLE:
            x = line["x"] + apart * (number - (len(lines) - 1) / 2)
            style.bars(axes, x, line, look)
            axes.plot(x, line["value"], label=str(model), **(look | style.NO_LINE))
        else:
            style.curve(axes, line, "x", str(model), look)
    names = [CLEAN, *(_tick(name, family) for name in members)]
    upright = len(names) > MOST_WRAPPED and max(map(len, names)) > 5
    if upright:
        names = [style.shortened(name, LONGEST_NAME) for name in names]
    else:
        names = [style.fold(name, 36 // len(names), 4) for name in names]
    axes.set_xticks(list(place.values()), names)
    axes.tick_params("x", rotation=90 if upright else 0)


def _tick(condition: str, family: str) -> str:
    """The number in which a condition differs from its family, with its unit; the whole name of a
    condition without a family.
    """
    before, _, after = family.partition("#")
    if family == SINGLE or "#" not in family:
        return one_line(condition)
    unit = after if after.isalpha() or after == "%" else ""
    return one_line(condition[len(before) : len(condition) - len(after)] + unit)
