"""Arrangements of scores: what stands in the rows, what in the columns, and a table for each value
of the rest.

All are one pivot of long rows, in which a cell holds one score or is refused.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from probe.errors import ProbeError, UsageError, listed
from probe.measures.uncertainty import FEW_BLOCKS
from probe.records import CHOICE, NO_LAYER, WEIGHTED, chosen_layers
from probe.reporting.filters import FIELDS, Term, check_fields, comparable, kept, ordered, text_of
from probe.reporting.losses import COSTS
from probe.reporting.rows import layer_rows, seed_notes, summary_rows
from probe.reporting.tables.cells import DASH, arrow
from probe.reporting.tables.files import domain_grids
from probe.reporting.tables.grid import Cell, Column, Grid, of_columns, score
from probe.reporting.ties import BITS

QUESTION = [
    "task",
    "corpus",
    "condition",
    "train_condition",
    "train_domain",
    "test_domain",
    "head",
    "metric",
]
BASELINES = ("majority", "shuffled", "fbank", "random")
SHOWN = ("best", "final", "weighted", "baselines")
# What the rows are -> fields of rows, of columns, and of tables.
ARRANGEMENTS = {
    "models": (["model", "score"], QUESTION, []),
    "layers": (["layer"], QUESTION, ["model"]),
    "conditions": (["condition"], ["model"], [name for name in QUESTION if name != "condition"]),
}
SELF_EVIDENT = {"", "clean"}
DOMAINS = ("train_domain", "test_domain")  # of which both are told, whatever they are called
# Values that say what they are without the name of their field.
SPEAKING = {"score", "model", "kind", "budget", "control", "split", *QUESTION}
# Fields in which scores may stand side by side only where they are asked for.
ALONE = [
    "task_version",
    "task_sha256",
    "manifest_sha256",
    "trials_sha256",
    "seed",
    "recipe",
    "revision",
]
# What tells scores apart; the other fields follow from these.
TELLING = {"model", *QUESTION, "layer", "split", "control", "budget", "seed", "condition_seed"}
AT_CHOSEN_LAYER = {"layer", "layer_index", "depth"}
USUAL = {"split": "test", "control": "", "budget": ""}


def arranged(
    records: pd.DataFrame,
    by: str,
    show: Sequence[str] = ("best",),
    terms: Sequence[Term] = (),
    sort: str = "",
    all_heads: bool = False,
) -> list[Grid]:
    """Tables with ``models``, ``layers``, ``conditions`` or train ``domains`` as rows.

    Models stand beside tasks, layers beside tasks (a table per model), conditions beside models,
    train beside test domains. Scores are at the layer that is best on dev, which stands in
    parentheses; of layers, it is ticked. Detection costs and codelengths are shown where a term
    names the metric.

    Args:
        records: see `probe.records.read_records`.
        show: of models: ``best``, ``final`` (the model's final output), ``weighted`` (the learned
            sum of layers), ``baselines``.
        terms: rows are left out that do not fit; see `probe.reporting.filters`.
        sort: field that orders the rows, see `probe.reporting.filters.ordered`.

    Raises:
        ProbeError: see `comparable`; a cell would hold two scores.
        UsageError: an unknown field, or no score is left.
    """
    if by == "domains":
        if terms or sort:
            raise UsageError(
                "--by domains takes no --filter of scores and no --sort; --pivot train_domain,test_domain does."
            )
        return domain_grids(records)
    rows = (
        layer_rows(records, all_heads, marked=False)
        if by == "layers"
        else _shown(records, show, all_heads)
    )
    down, across, per = ARRANGEMENTS[by]
    rows = _main_metrics(rows, [term.field for term in terms])
    rows = rows.assign(aside=_ticks(rows) if by == "layers" else _layers(rows))
    down = [name for name in down if name != "score" or list(show) != ["best"]]
    return pivot(
        ordered(kept(rows, terms), sort), down, across, per, "chosen" if by == "layers" else "layer"
    )


def pivoted(
    records: pd.DataFrame,
    down: Sequence[str],
    across: Sequence[str],
    terms: Sequence[Term] = (),
    sort: str = "",
    all_heads: bool = False,
) -> list[Grid]:
    """A table of any fields of records.

    What neither stands in it nor in a term is as usual: scores of split test, of the task itself,
    of all labels, of the headline heads, at the layer that is best on dev, not detection costs and
    codelengths.

    Args:
        records: see `probe.records.read_records`.
        down, across: fields whose values are the rows and the columns.
        terms, sort: see `arranged`.

    Raises:
        ProbeError: see `comparable`, within each value of the fields that are asked for; a cell
            would hold two scores.
        UsageError: an unknown field, or no score is left.
    """
    check_fields([*down, *across], FIELDS, "--pivot")
    if not down or not across or set(down) & set(across):
        raise UsageError(
            "--pivot: expected ROWS,COLUMNS, each a field or several joined by +, none in both: model,task+metric."
        )
    named = {*down, *across, *(term.field for term in terms)}
    apart = [name for name in ALONE if name in named]
    parts = [part for _, part in records.groupby(apart, dropna=False)] if apart else [records]
    rows = pd.concat([_usual(part, named, all_heads) for part in parts], ignore_index=True)
    rows = _main_metrics(rows, named)
    return pivot(ordered(kept(rows, terms), sort), down, across, [], "layer")


def pivot(
    rows: pd.DataFrame, down: Sequence[str], across: Sequence[str], per: Sequence[str], aside: str
) -> list[Grid]:
    """One table per value of the fields ``per``, or one: a row per value of ``down``, a column per
    value of ``across``.

    Args:
        rows: a score each, with these fields, those of a record's value and direction, ``mark``,
            ``note`` and ``aside``.
        aside: what ``aside`` is.

    Raises:
        ProbeError: a cell would hold two scores; names what differs.
    """
    _check_cells(rows, [*per, *down, *across])
    whole = [
        name
        for name in ["model", *QUESTION]
        if name not in [*down, *across] and rows[name].nunique(dropna=False) == 1
    ]
    of = list(per) or whole
    groups = rows.groupby(of, sort=False, dropna=False) if of else [((), rows)]
    return [
        _grid(
            group, list(down), list(across), dict(zip(of, map(text_of, names), strict=True)), aside
        )
        for names, group in groups
    ]


def _grid(
    rows: pd.DataFrame, down: list[str], across: list[str], of: dict[str, str], aside: str
) -> Grid:
    """One table."""
    at = {
        (tuple(row[name] for name in down), tuple(row[name] for name in across)): row
        for row in rows.assign(
            **{name: rows[name].map(text_of) for name in [*down, *across]}
        ).to_dict("records")
    }
    lines, heads = _distinct(rows, down), _distinct(rows, across)
    told = {
        first: [
            name
            for name in across
            if name in (across[0], "metric", *DOMAINS) or there[name].nunique(dropna=False) > 1
        ]
        for first, there in rows.groupby(rows[across[0]].map(text_of))
    }
    names = {head: _label(dict(zip(across, head, strict=True)), told[head[0]]) for head in heads}
    same = rows["higher_is_better"].nunique() == 1 and "metric" not in [*down, *across]
    columns: dict[Column, Iterable[Cell | str]] = {
        Column(name.replace("_", " "), number=name == "layer"): [
            _with_arrow(rows, name, line[number]) for line in lines
        ]
        for number, name in enumerate(down)
    }
    for head in heads:
        cells = [at.get((line, head)) for line in lines]
        better = {bool(cell["higher_is_better"]) for cell in cells if cell}
        columns[
            Column(names[head], None if same or len(better) > 1 else better.pop(), number=True)
        ] = [_cell(cell) if cell else Cell(DASH) for cell in cells]
    notes = [
        f"{_label(dict(zip(down, line, strict=True)), down)}, {names[head]}: {row['note']}"
        for (line, head), row in at.items()
        if row["note"] and math.isnan(row["value"])
    ]
    notes += seed_notes(rows)
    notes += ["codelength in bits per label"] * bool((rows["metric"] == BITS).any())
    title = {
        name: value
        for name, value in of.items()
        if value not in SELF_EVIDENT or (value and name in DOMAINS)
    }
    title |= (
        {"train_condition": f"trained on {title['train_condition']}"}
        if "train_condition" in title
        else {}
    )
    return of_columns(
        columns,
        of=title,
        better=bool(rows["higher_is_better"].iloc[0]) if same else None,
        aside=aside,
        notes=notes,
    )


def _distinct(rows: pd.DataFrame, names: list[str]) -> list[tuple[str, ...]]:
    """The values of some fields, each once, in the order of the rows; layers from below."""
    values = (
        rows.sort_values("layer_index", kind="stable")
        if "layer" in names and "layer_index" in rows
        else rows
    )
    return list(values[names].drop_duplicates().map(text_of).itertuples(index=False, name=None))


def _cell(row: dict[Hashable, Any]) -> Cell:
    return score(
        row["metric"],
        row["value"],
        row["low"],
        row["high"],
        row["mark"],
        row["aside"] if not math.isnan(row["value"]) else "",
        row["few"],
        row["shared_speakers"] > 0,
    )


def _label(values: dict[str, str], told: Sequence[str]) -> str:
    """The values of some fields, as text."""
    forms = {"train_condition": "trained on {}", "test_domain": "→ {}"}
    shown = [
        forms.get(name, "{}").format(values[name])
        if name in SPEAKING
        else f"{name.replace('_', ' ')} {values[name] or DASH}"
        for name in told
        if name not in SPEAKING or values[name]
    ]
    return " ".join(shown) or DASH


def _with_arrow(rows: pd.DataFrame, name: str, value: str) -> str:
    if name != "metric":
        return value or DASH
    return f"{value} {arrow(bool(rows.loc[rows['metric'] == value, 'higher_is_better'].iloc[0]))}"


def _check_cells(rows: pd.DataFrame, keys: Sequence[str]) -> None:
    """Refuses rows of which two would stand in one cell."""
    twice = rows[rows.duplicated(list(keys), keep=False)]
    if twice.empty:
        return
    _, cell = next(iter(twice.groupby(list(keys), sort=False, dropna=False)))
    differing = [name for name in FIELDS if name in cell and cell[name].map(text_of).nunique() > 1]
    differing = [name for name in differing if name in TELLING] or differing
    said = [
        f"{name} ({listed(list(dict.fromkeys(cell[name].map(text_of))))})" for name in differing
    ]
    where = ", ".join(f"{name} {text_of(cell[name].iloc[0]) or DASH}" for name in keys)
    example = (
        f"--filter {differing[0]}={text_of(cell[differing[0]].iloc[0])}"
        if differing
        else "--filter"
    )
    raise ProbeError(
        f"one cell ({where}) would hold {len(cell)} scores, which differ in {'; '.join(said) or 'nothing but their value'}. "
        f"Name what differs in --pivot, or keep one with {example}."
    )


def _shown(records: pd.DataFrame, show: Sequence[str], all_heads: bool) -> pd.DataFrame:
    """Rows of `summary_rows` with the column ``score``, and other scores in their place: see
    `arranged`.
    """
    check_fields(show, SHOWN, "--show")
    summary = summary_rows(records, all_heads)
    layers = (
        layer_rows(records, all_heads, marked=False)
        if {"final", "weighted"} & set(show)
        else summary[:0]
    )
    unmarked = summary.assign(low=np.nan, high=np.nan, mark="", layer=None, note="")
    found = {
        "best": lambda: summary,
        "final": lambda: layers.merge(_final_layers(records), on=["model", *QUESTION, "layer"]),
        "weighted": lambda: layers[layers["layer"] == WEIGHTED].assign(layer=None),
    } | {name: lambda name=name: unmarked.assign(value=summary[name]) for name in BASELINES}
    names = [name for asked in show for name in (BASELINES if asked == "baselines" else [asked])]
    rows = pd.concat([found[name]().assign(score=name) for name in names], ignore_index=True)
    has_any = rows["value"].notna().groupby([rows["model"], rows["score"]]).transform("any") | (
        rows["score"] == "best"
    )
    order = {model: number for number, model in enumerate(dict.fromkeys(summary["model"]))}
    return rows[has_any].sort_values(
        "model", key=lambda column: column.map(order), kind="stable", ignore_index=True
    )


def _final_layers(records: pd.DataFrame) -> pd.DataFrame:
    final = records[(records["layer"] == records["final_layer"]) & (records["split"] == "test")]
    return final[["model", *QUESTION, "layer"]].drop_duplicates()


def _usual(records: pd.DataFrame, named: set[str], all_heads: bool) -> pd.DataFrame:
    """Records that can stand side by side, as usual in what is not named: see `pivoted`."""
    records = comparable(records)
    chosen, compared = chosen_layers(records), records
    for name, value in USUAL.items():
        if name not in named:
            records = records[records[name] == value]
    if not all_heads and "headline" not in named:
        records = records[records["headline"]]
    rows = records.assign(
        **{
            name: records[name].astype(float).replace([np.inf, -np.inf], np.nan)
            for name in ("value", "low", "high")
        },
        few=(records["n_blocks"] > 0) & (records["n_blocks"] < FEW_BLOCKS),
        shared_speakers=records["shared_speakers"].astype(float),
        n_seeds=1,
    )
    if named & AT_CHOSEN_LAYER:
        return rows.assign(aside="", mark="")
    rows = rows.merge(chosen, on=CHOICE, how="left")
    rows = rows[
        (rows["layer"] == rows["chosen_layer"])
        | ((rows["layer"] == NO_LAYER) & (rows["control"] != ""))
    ]
    rows = rows.assign(aside=_layers(rows), mark="")
    if named & USUAL.keys():
        return rows
    marked = summary_rows(compared, all_heads)[["model", *QUESTION, "mark"]]
    return (
        rows.drop(columns="mark")
        .merge(marked, on=["model", *QUESTION], how="left")
        .fillna({"mark": ""})
    )


def _main_metrics(rows: pd.DataFrame, named: Iterable[str]) -> pd.DataFrame:
    return rows if "metric" in named else rows[~rows["metric"].str.startswith((COSTS, BITS))]


def _ticks(rows: pd.DataFrame) -> list[str]:
    return ["✓" if chosen else "" for chosen in rows["chosen"]]


def _layers(rows: pd.DataFrame) -> list[str]:
    return ["" if pd.isna(layer) else f"({layer})" for layer in rows["layer"]]
