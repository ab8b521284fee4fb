"""Condition curves: test scores at the chosen layers over conditions from mild to severe, as PNG and SVG.

A panel per question and family of conditions: the clean score stands at the left, then the conditions that differ by one number only
(`probe.reporting.conditions.families`), evenly spaced. Conditions that are alone share a panel, as points. Colours, markers and line
styles are those of `probe.reporting.curves`.
"""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.errors import ProbeError
from probe.reporting.conditions import CLEAN, COSTS, MEAN, QUESTION, WORST, chosen_rows, families
from probe.reporting.curves import (
    CHARACTER_WIDTH,
    COLOURS,
    MARKERS,
    MOST_COLUMNS,
    PANEL_HEIGHT,
    PANEL_WIDTH,
    SMALL,
    STYLES,
    write_figure,
)
from probe.reporting.rows import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SINGLE = "single conditions"
LONGEST_LEVEL = 7  # characters of a label on the axis; longer ones are slanted
LONGEST_NAME = 24
APART = 0.1  # of models that stand at one condition


def condition_curves(rows: pd.DataFrame, to_png: Path, to_svg: Path) -> None:
    """Draws scores over conditions; equal rows give a byte-identical SVG.

    Args:
        rows: of `probe.reporting.conditions.condition_rows`.

    Raises:
        ProbeError: matplotlib is missing, or there is nothing to draw.
        OSError: a file cannot be written.
    """
    write_figure(lambda: conditions_figure(rows), to_png, to_svg)


def conditions_figure(rows: pd.DataFrame) -> "Figure":
    """The figure of `condition_curves`.

    Raises:
        ProbeError: no chosen layer has a score under a condition.
    """
    from matplotlib.figure import Figure

    rows = chosen_rows(rows)
    rows = rows[~rows["condition"].isin([MEAN, WORST]) & rows["value"].notna() & ~rows["metric"].str.startswith(COSTS)]
    panels = [
        (names, group, family, members)
        for names, group in rows.groupby(QUESTION, sort=False)
        for family, members in _panels(group["condition"])
    ]
    if not panels:
        raise ProbeError("no score under a condition at a chosen layer. The notes in table.md say why.")
    looks = {
        model: {"color": COLOURS[n % len(COLOURS)], "marker": MARKERS[n % len(MARKERS)], "linestyle": STYLES[n % len(STYLES)]}
        for n, model in enumerate(sorted(set(rows["model"])))
    }
    n_columns = min(MOST_COLUMNS, len(panels))
    longest = max(map(len, looks)) * CHARACTER_WIDTH + 0.6
    width = max(PANEL_WIDTH * n_columns, longest)
    n_lines, n_legend = -(-len(panels) // n_columns), min(len(looks) + 1, max(1, int(width / longest)))
    figure = Figure(figsize=(width, PANEL_HEIGHT * n_lines + 0.18 * -(-(len(looks) + 1) // n_legend)), layout="constrained")
    for position, (names, group, family, members) in enumerate(panels, start=1):
        axes = figure.add_subplot(n_lines, n_columns, position)
        _draw(axes, group, family, members, looks)
        _title(axes, names, family, rows, bool(group["higher_is_better"].iloc[0]))
    figure.legend(
        handles=_legend(looks, bool(rows["low"].notna().any())),
        loc="outside lower center",
        ncols=n_legend,
        frameon=False,
        handlelength=3.5,
    )
    return figure


def _panels(conditions: pd.Series) -> list[tuple[str, list[str]]]:
    """Families, and the conditions that are alone together."""
    found = families(set(conditions) - {CLEAN})
    alone = [name for members in found.values() if len(members) == 1 for name in members]
    together = [(family, members) for family, members in found.items() if len(members) > 1]
    return together + ([(SINGLE, alone)] if alone else [])


def _draw(axes: "Axes", group: pd.DataFrame, family: str, members: list[str], looks: dict[str, dict[str, Any]]) -> None:
    """The lines, or points, of one panel."""
    place = {name: x for x, name in enumerate([CLEAN, *members])}
    n_models = group["model"].nunique()
    for number, (model, line) in enumerate(group[group["condition"].isin(place)].groupby("model")):
        line = line.assign(x=line["condition"].map(place)).sort_values("x")
        x, y, low, high = line["x"], 100 * line["value"], 100 * line["low"], 100 * line["high"]
        look = looks[str(model)] | {"markersize": SMALL, "linewidth": 1.2, "label": str(model)}
        if family == SINGLE:
            x = x + APART * (number - (n_models - 1) / 2)
            axes.vlines(x, low, high, color=look["color"], linewidth=1)
            axes.plot(x, y, **(look | {"linestyle": "none"}))
        else:
            axes.fill_between(x, low, high, color=look["color"], alpha=0.1, linewidth=0)
            axes.plot(x, y, **look)
    shown = [CLEAN, *(_tick(name, family) for name in members)]
    slanted: dict[str, Any] = {"rotation": 30, "ha": "right"} if max(map(len, shown)) > LONGEST_LEVEL else {}
    axes.set_xticks(list(place.values()), shown, **slanted)


def _tick(condition: str, family: str) -> str:
    """The number in which a condition differs from its family, with what follows it; a condition that is alone, whole."""
    before, _, after = family.partition("#")
    if family == SINGLE or "#" not in family:
        name = one_line(condition)
        return name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}"  # its end has the level
    unit = after if after.isalpha() or after == "%" else ""
    return one_line(condition[len(before) : len(condition) - len(after)] + unit)


def _title(axes: "Axes", names: tuple[Any, ...], family: str, rows: pd.DataFrame, higher_is_better: bool) -> None:
    task, corpus, heard, metric, head = map(str, names)
    parts = [task, *([corpus] if rows["corpus"].nunique() > 1 else []), *([f"trained on {heard}"] if heard != CLEAN else [])]
    parts += [head] if rows.groupby(["task", "metric"])["head"].nunique().max() > 1 else []
    axes.set_title(textwrap.fill(one_line(f"{', '.join(parts)}: {family.replace('#', '…')}"), 44))
    axes.set_ylabel(one_line(f"{metric} (%) {'↑' if higher_is_better else '↓'}"))


def _legend(looks: dict[str, dict[str, Any]], has_intervals: bool) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Line2D([], [], label=one_line(model), markersize=SMALL, linewidth=1.2, **look) for model, look in looks.items()
    ]
    return handles + ([Patch(color="#555555", alpha=0.2, linewidth=0, label="95 % interval")] if has_intervals else [])
