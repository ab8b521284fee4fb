"""Arrangements of scores: what the rows are, what the columns are, and a table for each value of
the rest.

All are one pivot of long rows, in which a cell holds one score or is refused.
"""

import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from probe.data.conditions.grammar import CLEAN
from probe.errors import ProbeError, UsageError, listed
from probe.measures.metrics import metric_of
from probe.records import NO_LAYER, QUESTION, SCORE, WEIGHTED
from probe.reporting.filters import FIELDS, Term, check_fields, kept, ordered, text_of
from probe.reporting.scores import BASELINES, PERCENTILE, Scores, method_notes, seed_notes
from probe.reporting.tables.grid import Cell, Column, Grid, of_columns, score_of
from probe.reporting.tables.score_tables import domain_grids
from probe.reporting.text import DASH, layer_text, metric_text, trained_on

CONTEST = [*QUESTION, "head", "metric"]
SHOWN = ("best", "final", "weighted", "baselines")
# What the rows are -> fields of rows, of columns, and of tables.
ARRANGEMENTS = {
    "models": (["model", "score"], CONTEST, []),
    "layers": (["layer"], CONTEST, ["model"]),
    "conditions": (["condition"], ["model"], [name for name in CONTEST if name != "condition"]),
}
SELF_EVIDENT = {"", CLEAN}
DOMAINS = ("train_domain", "test_domain")  # both are shown, whatever they are called
# Values that say what they are without the name of their field.
SPEAKING = {"score", "model", "kind", "budget", "control", "split", *CONTEST}
# Fields whose values may stand side by side only where they are named.
ALONE = [
    *["task_version", "task_sha256", "manifest_sha256", "trials_sha256"],
    *["seed", "recipe", "revision"],
]
# The fields that tell scores apart; the others follow from these.
DISTINGUISHING = {*SCORE, "layer", "split", "control", "budget", "seed", "condition_seed"}
AT_CHOSEN_LAYER = {"layer", "layer_index", "depth"}
USUAL = {"split": "test", "control": "", "budget": ""}

Row = Mapping[Hashable, Any]
Place = tuple[str, ...]


def arranged(
    scores: Scores,
    by: str,
    show: Sequence[str] = ("best",),
    terms: Sequence[Term] = (),
    sort: str = "",
) -> list[Grid]:
    """Tables with ``models``, ``layers``, ``conditions`` or train ``domains`` as rows.

    Models stand beside tasks, layers beside tasks (a table per model), conditions beside models,
    train beside test domains. Scores are at the layer that is best on dev, which stands in
    parentheses; of layers, it is ticked. Detection costs and codelengths are shown where a term
    names the metric.

    Args:
        show: for models: ``best``, ``final`` (the model's final output), ``weighted`` (the learned
            sum of layers), ``baselines``.
        terms: rows are left out that do not fit; see `probe.reporting.filters`.
        sort: field that orders the rows, see `probe.reporting.filters.ordered`.

    Raises:
        ProbeError: a cell would hold two scores.
        UsageError: an unknown field, or no score is left.
    """
    if by == "domains":
        if terms or sort:
            raise UsageError(
                "--by domains takes no --filter of scores and no --sort; "
                "--pivot train_domain,test_domain does."
            )
        return domain_grids(scores)
    down, across, per = ARRANGEMENTS[by]
    if by == "layers":
        rows = scores.layers(marked=False)
        rows = rows.assign(aside=np.where(rows["chosen"], "✓", ""))
    else:
        rows = _shown(scores, show)
        rows = rows.assign(aside=rows["layer"].map(layer_text))
    rows = _main_metrics(rows, [term.field for term in terms])
    down = [name for name in down if name != "score" or list(show) != ["best"]]
    aside = "chosen" if by == "layers" else "layer"
    return pivot(ordered(kept(rows, terms), sort), down, across, per, aside)


def pivoted(
    scores: Scores,
    down: Sequence[str],
    across: Sequence[str],
    terms: Sequence[Term] = (),
    sort: str = "",
) -> list[Grid]:
    """A table of any fields of records.

    What neither stands in it nor in a term is as usual: scores of split test, of the task itself,
    of all labels, at the layer that is best on dev, not detection costs and codelengths.

    Args:
        down, across: fields whose values are the rows and the columns.
        terms, sort: see `arranged`.

    Raises:
        ProbeError: a cell would hold two scores.
        UsageError: an unknown field, or no score is left.
    """
    check_fields([*down, *across], FIELDS, "--pivot")
    if not down or not across or set(down) & set(across):
        raise UsageError(
            "--pivot: expected ROWS,COLUMNS, each a field or several joined by +, none in both: "
            "model,task+metric."
        )
    names = {*down, *across, *(term.field for term in terms)}
    parts = [scores]
    if apart := [name for name in ALONE if name in names]:
        groups = scores.unchecked.groupby(apart, dropna=False)
        parts = [Scores.of(part, all_heads=True, method=scores.method) for _, part in groups]
    rows = pd.concat([_usual(part, names) for part in parts], ignore_index=True)
    rows = _main_metrics(rows, names)
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
    of = list(per)
    if not of:
        others = [name for name in ["model", *CONTEST] if name not in [*down, *across]]
        of = [name for name in others if rows[name].nunique(dropna=False) == 1]
    groups = rows.groupby(of, sort=False, dropna=False) if of else [((), rows)]
    return [
        _grid(
            *(group, list(down), list(across)),
            _title(dict(zip(of, names, strict=True))) | _method(group),
            aside,
        )
        for names, group in groups
    ]


def _method(rows: pd.DataFrame) -> dict[str, str]:
    """The method of intervals for the title, and so for CSV, if it is not the usual one."""
    return {"intervals": f"{PERCENTILE} intervals"} if method_notes(rows) else {}


def _title(values: Mapping[str, object]) -> dict[str, str]:
    """The fields of a whole table, without those that go without saying."""
    title = {name: text_of(value) for name, value in values.items()}
    title = {
        name: text
        for name, text in title.items()
        if text not in SELF_EVIDENT or (text and name in DOMAINS)
    }
    if "train_condition" in title:
        title["train_condition"] = trained_on(title["train_condition"])
    return title


def _grid(
    rows: pd.DataFrame, down: list[str], across: list[str], of: dict[str, str], aside: str
) -> Grid:
    """One table."""
    texts = {name: rows[name].map(text_of) for name in [*down, *across]}
    at: dict[tuple[Place, Place], dict[Hashable, Any]] = {
        (tuple(row[name] for name in down), tuple(row[name] for name in across)): row
        for row in rows.assign(**texts).to_dict("records")
    }
    lines, heads = _distinct(rows, down), _distinct(rows, across)
    labels = _column_labels(rows, across, heads)
    same_direction = rows["higher_is_better"].nunique() == 1 and "metric" not in [*down, *across]
    arrows = {row["metric"]: metric_text(row) for row in rows.to_dict("records")}
    columns: dict[Column, Iterable[Cell | str]] = {}
    for number, name in enumerate(down):
        values = [line[number] or DASH for line in lines]
        if name == "metric":
            values = [arrows[value] for value in values]
        columns[Column(name.replace("_", " "), number=name == "layer")] = values
    for head in heads:
        cells = [at.get((line, head)) for line in lines]
        directions = {bool(row["higher_is_better"]) for row in cells if row}
        better = None if same_direction or len(directions) > 1 else directions.pop()
        columns[Column(labels[head], better, number=True)] = [
            _cell(row) if row else Cell(DASH) for row in cells
        ]
    notes = [
        f"{_label(dict(zip(down, line, strict=True)), down)}, {labels[head]}: {row['note']}"
        for (line, head), row in at.items()
        if row["note"] and math.isnan(row["value"])
    ]
    units = [
        f"{metric} in {metric_of(metric).unit.replace('unit of', 'the unit of')}"
        for metric in rows["metric"].unique()
        if metric_of(metric).unit in ("bits per label", "unit of the label")
    ]
    return of_columns(
        columns,
        of=of,
        better=bool(rows["higher_is_better"].iloc[0]) if same_direction else None,
        aside=aside,
        notes=[*notes, *method_notes(rows), *seed_notes(rows), *units],
    )


def _column_labels(
    rows: pd.DataFrame, across: list[str], heads: Sequence[Place]
) -> dict[Place, str]:
    """The heads of columns in words: the fields that differ among columns of one first field."""
    first_texts = rows[across[0]].map(text_of)
    fields: dict[str, list[str]] = {}
    for first, group in rows.groupby(first_texts):
        fields[str(first)] = [
            name
            for name in across
            if name in (across[0], "metric", *DOMAINS) or group[name].nunique(dropna=False) > 1
        ]
    return {head: _label(dict(zip(across, head, strict=True)), fields[head[0]]) for head in heads}


def _distinct(rows: pd.DataFrame, names: list[str]) -> list[Place]:
    """The values of some fields, each once, in the order of the rows; layers from below."""
    if "layer" in names and "layer_index" in rows:
        rows = rows.sort_values("layer_index", kind="stable")
    values = rows[names].drop_duplicates().map(text_of)
    return list(values.itertuples(index=False, name=None))


def _cell(row: Row) -> Cell:
    return score_of(row, row["mark"], "" if math.isnan(row["value"]) else row["aside"])


def _label(values: Mapping[str, str], fields: Sequence[str]) -> str:
    """The values of some fields, as text."""
    forms = {"train_condition": "trained on {}", "test_domain": "→ {}"}
    texts = []
    for name in fields:
        if name not in SPEAKING:
            texts.append(f"{name.replace('_', ' ')} {values[name] or DASH}")
        elif values[name]:
            texts.append(forms.get(name, "{}").format(values[name]))
    return " ".join(texts) or DASH


def _check_cells(rows: pd.DataFrame, keys: Sequence[str]) -> None:
    """Refuse rows of which two would stand in one cell."""
    repeated = rows[rows.duplicated(list(keys), keep=False)]
    if repeated.empty:
        return
    _, cell = next(iter(repeated.groupby(list(keys), sort=False, dropna=False)))
    values = {name: list(dict.fromkeys(cell[name].map(text_of))) for name in FIELDS if name in cell}
    differing = {name: texts for name, texts in values.items() if len(texts) > 1}
    key_fields = {name: texts for name, texts in differing.items() if name in DISTINGUISHING}
    differing = key_fields or differing
    what = "; ".join(f"{name} ({listed(texts)})" for name, texts in differing.items())
    example = next((f"{name}={texts[0]}" for name, texts in differing.items()), "")
    where = ", ".join(f"{name} {text_of(cell[name].iloc[0]) or DASH}" for name in keys)
    raise ProbeError(
        f"one cell ({where}) would hold {len(cell)} scores, which differ in "
        f"{what or 'nothing but their value'}. Name what differs in --pivot, "
        f"or keep one with {f'--filter {example}'.strip()}."
    )


def _shown(scores: Scores, show: Sequence[str]) -> pd.DataFrame:
    """Rows of `Scores.chosen` with the column ``score``, and other scores in their place: see
    `arranged`.
    """
    check_fields(show, SHOWN, "--show")
    chosen = scores.chosen()
    layers = scores.layers(marked=False) if {"final", "weighted"} & set(show) else chosen[:0]
    tables = []
    for name in [one for item in show for one in (BASELINES if item == "baselines" else [item])]:
        if name == "best":
            rows = chosen
        elif name == "final":
            tested = scores.records[scores.records["split"] == "test"]
            final = tested[tested["layer"] == tested["final_layer"]]
            keys = [*SCORE, "layer"]
            rows = layers.merge(final[keys].drop_duplicates(), on=keys)
        elif name == "weighted":
            rows = layers[layers["layer"] == WEIGHTED].assign(layer=None)
        else:
            rows = chosen.assign(value=chosen[name], low=np.nan, high=np.nan)
            rows = rows.assign(mark="", layer=None, note="")
        tables.append(rows.assign(score=name))
    rows = pd.concat(tables, ignore_index=True)
    has_value = rows["value"].notna().groupby([rows["model"], rows["score"]]).transform("any")
    order = {model: number for number, model in enumerate(dict.fromkeys(chosen["model"]))}
    return rows[has_value | (rows["score"] == "best")].sort_values(
        "model", key=lambda column: column.map(order), kind="stable", ignore_index=True
    )


def _usual(scores: Scores, named: Collection[str]) -> pd.DataFrame:
    """The scores, as usual in what is not named: see `pivoted`."""
    rows = scores.merged
    for name, value in USUAL.items():
        if name not in named:
            rows = rows[rows[name] == value]
    rows = rows.assign(aside="", mark="")
    if AT_CHOSEN_LAYER & set(named):
        return rows
    is_control = (rows["layer"] == NO_LAYER) & (rows["control"] != "")
    rows = rows[(rows["layer"] == rows["chosen_layer"]) | is_control]
    rows = rows.assign(aside=rows["layer"].map(layer_text))
    if USUAL.keys() & named:
        return rows
    marks = scores.chosen()[[*SCORE, "mark"]]
    return rows.drop(columns="mark").merge(marks, on=SCORE, how="left").fillna({"mark": ""})


def _main_metrics(rows: pd.DataFrame, named: Collection[str]) -> pd.DataFrame:
    if "metric" in named:
        return rows
    metrics = rows["metric"].map(metric_of)
    hidden = metrics.map(lambda metric: metric.is_cost or metric.in_bits).astype(bool)
    return rows[~hidden]
