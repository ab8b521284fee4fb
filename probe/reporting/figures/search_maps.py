"""The search as heat maps: dev scores of every layer (up) and learning rate or penalty (across),
with what dev picked.
"""

from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.errors import ProbeError
from probe.records import source_dev
from probe.reporting.figures import style
from probe.reporting.figures.heat_maps import HeatMap, maps_figure
from probe.reporting.tables.cells import DASH
from probe.reporting.ties import BITS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SETTINGS = ("learning_rate", "l2")
QUESTION = [
    "task",
    "corpus",
    "train_condition",
    "train_domain",
    "head",
]  # whatever is tested, the search is of the training


def search_figure(records: pd.DataFrame, width: str = "double") -> "Figure":
    """A map per question and model, dev scores in percent, as many as a page holds; models of one
    layer share one, a row each.

    Of entries that differ in something else too (epochs, a decoder's weights) the best is shown.
    Heads for which one setting was tried are left out.

    Args:
        records: see `probe.records.read_records`.

    Raises:
        ProbeError: no record holds a search over several settings.
    """
    tried = source_dev(records)
    tried = tried[(tried["control"] == "") & (tried["budget"] == "") & (tried["metric"] != BITS)]
    tried = tried[tried["search"].map(_setting) != ""].drop_duplicates(
        [*QUESTION, "model", "layer"]
    )
    tried = tried.sort_values([*QUESTION, "model", "layer_index"], ignore_index=True)
    if tried.empty:
        raise ProbeError(
            "no search to draw: no record holds dev scores of several learning rates or penalties."
        )
    flat = tried.groupby([*QUESTION, "model"])["layer"].transform("nunique") == 1
    tried = tried.assign(
        shown=tried["model"].where(~flat, ""), row=tried["layer"].where(~flat, tried["model"])
    )
    maps = [
        _map(cells, tried) for _, cells in tried.groupby([flat, *QUESTION, "shown"])
    ]  # the small ones last
    return maps_figure(maps, width, highest=style.PAGE_HEIGHT)


def _setting(search: list[dict[str, Any]]) -> str:
    """The setting of which several values were tried; empty without one."""
    return next(
        (name for name in SETTINGS if len({entry[name] for entry in search if name in entry}) > 1),
        "",
    )


def _map(cells: pd.DataFrame, tried: pd.DataFrame) -> HeatMap:
    """The map of one question and model."""
    first = cells.iloc[0].to_dict()
    setting, score = _setting(first["search"]), f"dev_{first['select_by']}"
    best = max if first["higher_is_better"] else min
    found: dict[str, dict[float, float]] = {}
    for row, search in zip(cells["row"], cells["search"], strict=True):
        scores = found.setdefault(row, {})
        for entry in search:
            value = entry.get(score)
            if setting in entry and value is not None:
                scores[entry[setting]] = best(scores.get(entry[setting], 100 * value), 100 * value)
    values = pd.DataFrame.from_dict(found, orient="index", dtype=float).sort_index(axis=1)
    places = {value: place for place, value in enumerate(values.columns)}
    chosen = [places.get(entry.get(setting)) for entry in cells["chosen"]]
    texts = values.map(lambda value: f"{value:.1f}" if value == value else DASH)
    model = f"{first['shown']}: " if first["shown"] else ""
    domain = [f"trained on {first['train_domain']}"] if first["train_domain"] else []
    heads = [first["head"]] if tried.groupby("task")["head"].nunique().max() > 1 else []
    metric = "dev " + style.metric_label(first["select_by"], first["higher_is_better"])
    title = f"{model}{style.title_of(cells.drop(columns=['condition', 'test_domain']), tried, [*domain, *heads, metric])}"
    ends = (float(values.min().min()), float(values.max().max()))
    picked = [(row, column) for row, column in enumerate(chosen) if column is not None]
    values.columns = [f"{value:g}" for value in values.columns]
    return HeatMap(
        title, values, texts, *ends, (setting.replace("_", " "), "layer" if model else ""), picked
    )
