"""The summary in words: per task the best model and its layer, what is tied with it, what is near chance.

Nothing is decided here: layers are those that dev chose, marks those of `probe.reporting.marks`.
"""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from probe.errors import listed
from probe.records import OWN_HEAD
from probe.reporting.cells import percent
from probe.reporting.conditions import CHANCE, CLEAN, COSTS, by_severity
from probe.reporting.marks import BEST, BITS, TIED
from probe.reporting.rows import one_line

FEW_BLOCKS = 20  # below it a reader is told to mind the intervals
QUESTION = ["task", "corpus", "train_condition", "metric"]
PLACE = ["condition", "train_domain", "test_domain"]
Row = Mapping[Hashable, Any]


def answers(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """One entry per task, corpus and training, in the order of the rows.

    Args:
        rows: of `probe.reporting.rows.summary_rows`.

    Returns:
        ``title`` and ``about``, and ``lines``: each a list of (text, whether it is emphasised), the clean score first.
    """
    main = rows[(rows["metric"] == rows["select_by"]) & (rows["metric"] != BITS) & rows["value"].notna()]
    found = []
    for (task, corpus, trained, metric), group in main.groupby(QUESTION, sort=False):
        way = "higher" if group["higher_is_better"].iloc[0] else "lower"
        heard = [] if trained == CLEAN else [f"trained on {one_line(trained)}"]
        n, blocks = int(group["n"].max()), int(group["n_blocks"].max())
        about = "; ".join([f"{metric}, {way} is better", *heard, f"{one_line(corpus)}: {n} scored, {blocks} blocks"])
        lines = [_line(place, cells) for place, cells in _places(group)]
        if blocks < FEW_BLOCKS:
            lines.append([(f"{blocks} speakers or other blocks are few: the intervals are wide and differences uncertain.", False)])
        found.append({"title": one_line(task), "about": one_line(about), "lines": lines})
    return found


def near_chance(row: Row) -> bool:
    """Whether a score's interval reaches what its controls, or its metric, give for nothing; without any of these it is not said."""
    if row["higher_is_better"]:
        known = [row[name] for name in ("majority", "shuffled") if not math.isnan(row[name])]
        end = row["value"] if math.isnan(row["low"]) else row["low"]
        return bool(known) and end <= max(known)
    none = 1.0 if row["metric"].startswith(COSTS) else CHANCE.get(row["metric"])
    end = row["value"] if math.isnan(row["high"]) else row["high"]
    return none is not None and end >= none


def score_text(row: Row) -> str:
    """A score in percent with its interval."""
    ends = "" if math.isnan(row["low"]) else f" [{percent(row['low'])}, {percent(row['high'])}]"
    return f"{percent(row['value'])} %{ends}"


def _places(group: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], list[dict[Hashable, Any]]]]:
    """The rows of one question by `PLACE`, clean audio first, then the milder conditions."""
    rank = {name: number for number, name in enumerate([CLEAN, *by_severity(set(group["condition"]) - {CLEAN})])}
    ordered = group.assign(rank=group["condition"].map(rank)).sort_values("rank", kind="stable")
    for place, cells in ordered.groupby(PLACE, sort=False):
        yield place, cells.to_dict("records")


def _line(place: tuple[str, str, str], cells: Sequence[Row]) -> list[tuple[str, bool]]:
    """What a reader wants to know of one place."""
    condition, source, target = map(one_line, place)
    heard = [] if condition in (CLEAN, "") else [condition]
    told = [] if not source else [f"within {source}" if source == target else f"{source} to {target}"]
    where = "".join(f"{text}: " for text in [", ".join(heard + told)] if text)
    contest = [row for row in cells if row["head"] != OWN_HEAD]
    best = [row for row in contest if row["mark"] == BEST] or contest[:1]
    if not best:
        return [(f"{where}only checkpoints' own heads: {listed([_named(row) for row in cells])}", False)]
    first = best[0]
    names = listed([_named(row) for row in best], 30)
    verb = "was asked alone" if len(contest) == 1 else "is best" if len(best) == 1 else "are best"
    said = f" {verb}: {score_text(first)}."
    if not _missing(first["last_layer"]) and first["last_layer"] != first["layer"] and not math.isnan(first["last_value"]):
        said += f" Its last layer, {one_line(first['last_layer'])}: {percent(first['last_value'])} %."
    said += _others(first, [row for row in contest if row not in best])
    return [(where, False), (names, True), (said, False)]


def _others(first: Row, others: Sequence[Row]) -> str:
    tied = [f"{_named(row)} {percent(row['value'])} %" for row in others if row["mark"] == TIED]
    sign = -1 if first["higher_is_better"] else 1
    behind = sorted((row for row in others if row["mark"] != TIED), key=lambda row: sign * row["value"])
    chance = [_named(row) for row in [first, *others] if near_chance(row)]
    said = f" Not told apart from it: {listed(tied, 30)}." if tied else ""
    said += f" Then {_named(behind[0])}: {score_text(behind[0])}." if behind else ""
    return said + (f" Near chance: {listed(chance, 30)}." if chance else "")


def _named(row: Row) -> str:
    layer = "" if _missing(row["layer"]) else f" (layer {one_line(str(row['layer']))})"
    return one_line(row["model"]) + layer


def _missing(value: object) -> bool:
    return value is None or value != value
