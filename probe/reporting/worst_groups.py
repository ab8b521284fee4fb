"""Which group of speakers a model serves worst, and on request how far its groups lie apart."""

from collections.abc import Sequence

import pandas as pd

from probe.data.conditions.grammar import CLEAN
from probe.data.conditions.severity import by_severity
from probe.measures.groups import Groups, compare_blocks, compare_groups
from probe.measures.metrics import metric_of
from probe.reporting.layer_scores import PLACE, Layer, Row, columns_of, with_ends

GROUPS = [
    *[*PLACE, "condition", "column", "n_groups", "n_few"],
    *["worst", "worst_value", "worst_low", "worst_high", "note"],
]
SPREAD = ["best", "best_value", *with_ends("spread"), "by_chance", "probability"]


def worst_groups(layers: Sequence[Layer], with_spread: bool = False) -> pd.DataFrame:
    """The worst group at the chosen layers, one row for each condition and column of groups;
    columns `GROUPS`.

    Groups are the speakers, and the values of each manifest column that is the same within
    every speaker. One condition is enough.

    Args:
        with_spread: adds the best group and how far both lie apart, columns `SPREAD`.
    """
    every = {name for layer in layers for name in layer.rows}
    order = {name: rank for rank, name in enumerate([CLEAN, *by_severity(every - {CLEAN})])}
    scored = [
        (layer, row)
        for layer in layers
        for row in layer.rows.values()
        if layer.is_chosen and row["counts"]
    ]
    scored.sort(key=lambda item: (*map(item[0].about.get, PLACE[:-1]), order[item[1]["condition"]]))
    rows = [row for layer, score in scored for row in _group_rows(layer, score, with_spread)]
    return pd.DataFrame(rows, columns=[*GROUPS, *(SPREAD if with_spread else [])])


def _group_rows(layer: Layer, row: Row, with_spread: bool) -> list[Row]:
    """The rows of one score: for its speakers, and for each column that groups them."""
    counts, metric = row["counts"], str(row["metric"])
    seed = int(row["seed"]) if with_spread else None
    groups: dict[str, Groups] = {}
    # A trial has two speakers; where there is a block for each utterance, no speaker is known.
    if not metric_of(metric).of_trials and len(counts["block"]) < row["n"]:
        groups["speaker"] = compare_blocks(counts, counts["block"], layer.higher, seed, metric)
    for column, names in sorted((row["groups"] or {}).items()):
        if len(set(names) - {""}) > 1 and column != "speaker":
            groups[column] = compare_groups(counts, names, layer.higher, seed, metric)
    about = layer.about | {"condition": row["condition"]}
    return [about | {"column": name} | _group_columns(name, of) for name, of in groups.items()]


def _group_columns(column: str, groups: Groups) -> Row:
    n_few = sum(group.few for group in groups.all) if column != "speaker" else 0
    row: Row = {"n_groups": len(groups.all), "n_few": n_few, "note": groups.spread.note}
    if groups.worst is not None and groups.best is not None:
        worst = groups.worst.estimate
        row |= {"worst": groups.worst.name, "best": groups.best.name}
        row |= {"worst_value": worst.value, "worst_low": worst.low, "worst_high": worst.high}
        row["best_value"] = groups.best.estimate.value
    row |= columns_of("spread", groups.spread)
    return row | {"by_chance": groups.by_chance, "probability": groups.probability}
