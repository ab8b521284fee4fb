"""Condition curves: test scores at the chosen layers over conditions from mild to severe.

A panel per question and family of conditions: the clean score stands at the left, then the
conditions that differ by one number only (`probe.reporting.losses.families`), evenly spaced.
Conditions that are alone share a panel, as points.
"""

from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.errors import ProbeError
from probe.reporting.figures import style
from probe.reporting.losses import CLEAN, COSTS, MEAN, QUESTION, WORST, chosen_rows, families
from probe.reporting.rows import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SINGLE = "single conditions"
MOST_WRAPPED = 4  # labels of an axis; more stand upright
LONGEST_NAME = 24
APART = 0.1  # of models that stand at one condition


def conditions_figure(rows: pd.DataFrame, width: str = "double") -> "Figure":
    """A panel per question and family of conditions, a line, or points, per model.

    Detection costs are drawn only of questions that have no other metric.

    Args:
        rows: of `probe.reporting.losses.condition_rows`.
        width: one of `probe.reporting.figures.style.WIDTHS`.

    Raises:
        ProbeError: no chosen layer has a score under a condition.
    """
    rows = style.in_units(chosen_rows(rows))
    rows = rows[~rows["condition"].isin([MEAN, WORST]) & rows["value"].notna()]
    costs = rows["metric"].map(lambda metric: metric.startswith(COSTS)).astype(bool)
    rows = rows[
        ~costs
        | costs.groupby([rows[name] for name in QUESTION if name != "metric"]).transform("all")
    ]
    found = [
        (group, family, members)
        for _, group in rows.groupby(QUESTION, sort=False)
        for family, members in _panels(group["condition"])
    ]
    if not found:
        raise ProbeError(
            "no score under a condition at a chosen layer. The notes in table.md say why."
        )
    looks = style.looks(rows["model"])
    several = rows.groupby(["task", "metric"])["head"].nunique().max() > 1
    titles = [
        f"{style.title_of(group.drop(columns='condition'), rows, names if several else [])}: {family.replace('#', '…')}"
        for group, family, _ in found
        for names in [list(group["head"].unique())]
    ]
    legend = style.legend_of(looks, {}, bool(rows["low"].notna().any()))
    figure, panels = style.panels(titles, width, legend)
    for axes, (group, family, members) in zip(panels, found, strict=False):
        _draw(axes, group, family, members, looks)
    return figure


def _panels(conditions: pd.Series) -> list[tuple[str, list[str]]]:
    """Families, and the conditions that are alone together."""
    found = families(set(conditions) - {CLEAN})
    alone = [name for members in found.values() if len(members) == 1 for name in members]
    together = [(family, members) for family, members in found.items() if len(members) > 1]
    return together + ([(SINGLE, alone)] if alone else [])


def _draw(
    axes: "Axes",
    group: pd.DataFrame,
    family: str,
    members: list[str],
    looks: dict[str, dict[str, Any]],
) -> None:
    """The lines, or points, of one panel."""
    place = {name: x for x, name in enumerate([CLEAN, *members])}
    apart = min(APART, 0.8 / group["model"].nunique())
    first = -apart * (group["model"].nunique() - 1) / 2
    for number, (model, line) in enumerate(group[group["condition"].isin(place)].groupby("model")):
        line = line.assign(x=line["condition"].map(place)).sort_values("x")
        look = looks[str(model)]
        if family == SINGLE:
            x = line["x"] + first + apart * number
            style.bars(axes, x, line["low"], line["high"], look)
            axes.plot(x, line["value"], label=str(model), **(look | {"linestyle": "none"}))
        else:
            style.band(axes, line["x"], line["low"], line["high"], look)
            axes.plot(line["x"], line["value"], label=str(model), **look)
    shown = [CLEAN, *(_tick(name, family) for name in members)]
    upright = len(shown) > MOST_WRAPPED and max(map(len, shown)) > 5
    labels = [
        style.shortened(name, LONGEST_NAME) if upright else style.fold(name, 36 // len(shown), 4)
        for name in shown
    ]
    axes.set_xticks(list(place.values()), labels)
    axes.tick_params("x", rotation=90 * upright)
    axes.set_ylabel(style.metric_label(group["metric"].iloc[0], group["higher_is_better"].iloc[0]))


def _tick(condition: str, family: str) -> str:
    """The number in which a condition differs from its family, with what follows it; a condition
    that is alone, whole.
    """
    before, _, after = family.partition("#")
    if family == SINGLE or "#" not in family:
        return one_line(condition)
    unit = after if after.isalpha() or after == "%" else ""
    return one_line(condition[len(before) : len(condition) - len(after)] + unit)
