"""Robustness tables, in percent and points: of the layers that dev chose, and of every layer."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from probe.data.conditions.grammar import CLEAN
from probe.measures.metrics import metric_of
from probe.measures.uncertainty import FEWEST_BLOCKS
from probe.records import ACROSS_CONDITIONS
from probe.reporting.further_measures import MEAN
from probe.reporting.layer_scores import Row
from probe.reporting.losses import DOMAIN_TASKS, Losses
from probe.reporting.tables.grid import Cell, Column, Grid, of_columns, to_markdown
from probe.reporting.text import DASH, INTERVAL, escaped, interval_head, percent, points, trained_on

HEAD = """# Robustness

Test scores at the layer that is best on the dev data of the training, with 95 % intervals by \
speaker. docs/robustness.md defines every measure; a note says why a value is missing (–).

"""
LOSSES = """## Under other conditions

`loss` is how much worse the score is than on clean audio, on the same utterances: in points, and \
as a part of the clean score. `mean` is the mean over the conditions. A model `at chance` on clean \
audio has nothing to lose.

"""
FURTHER = """`margin lost` is the loss as a part of what the clean score is above chance. `WERD` \
is the rise of the error, at least 0; `NWER` and `NWERD` are the error and its rise divided by \
those of the baseline, {baseline}; `WERV` is the variance over samplings in points squared. \
`effective` is the effective robustness in points.

"""
GAPS = """## Gaps between domains

On the test rows of the target domain. `gap` is what training on another domain costs against \
training on the target. `shift` is what one training loses from its own test rows to those of the \
target, which are other utterances.

"""
RECOVERED = """`gap recovered` (ours) is the part of the gap of the baseline, {baseline}, that the \
model recovers, with the in-domain score of the baseline (1) and of the model (2).

"""
GROUPS = """## Worst groups

The intervals hold for all groups at once. Groups of fewer than {fewest} speakers (`few`) are \
never the worst. The worst of many groups is also low by chance.

"""
SPREAD = """`spread` is the best group less the worst, `by chance` its mean if speakers were in \
groups at random or all equally good, and `p` how often chance spreads groups as far.

"""
LAYERS_HEAD = """# Robustness of every layer

Test scores; in parentheses the change in points against clean audio. ✓ marks the layer that dev \
chose.

"""
MARKS_HEAD = """`margin lost` is the mean loss as a part of what the clean score is above chance. \
◆ marks the layer that loses the smallest part, ◇ those whose interval reaches down to it. Both \
are chosen on the test scores that they describe.

"""
NOTED = ("model", "condition", "train_domain", "test_domain", "column")
NOTHING = "No clean records with others under conditions, and not several domains."
# Parts of a score, whatever its unit.
SHARES = {"relative", "margin_lost", "recovered_first", "recovered_second"}
MARKS = {"most": "◆", "tied": "◇"}


def _ratio(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"


def _points_squared(value: float) -> str:
    return _ratio(1e4 * value)


ALIGNED_RIGHT = {"layer", "groups", "few", "p"}  # text that is aligned like numbers
# Head of a column -> the column of rows, and how its numbers are printed; None for text.
Form = Callable[[float], str] | None
Columns = Mapping[str, tuple[str, Form]]
TEXT: Form = None


def _texts(*names: str) -> Columns:
    return {name: (name, TEXT) for name in names}


LOSS_COLUMNS: Columns = {
    **_texts("model", "layer", "condition"),
    INTERVAL: ("value", percent),
    "loss, points": ("loss", points),
    "loss, % of clean": ("relative", percent),
    "margin lost %": ("margin_lost", percent),
    "WERD": ("werd", points),
    "NWER": ("nwer", _ratio),
    "NWERD": ("nwerd", _ratio),
    "WERV": ("werv", _points_squared),
    "effective": ("effective", points),
    "chance": ("chance", TEXT),
}
GAP_COLUMNS: Columns = {
    "condition": ("condition", TEXT),
    "trained on": ("train_domain", TEXT),
    "target": ("test_domain", TEXT),
    **_texts("model", "layer"),
    INTERVAL: ("value", percent),
    "in-domain": ("in_domain", percent),
    "gap": ("gap", points),
    "gap, % of in-domain": ("relative", percent),
    "shift": ("shift", points),
    "gap recovered (1) %": ("recovered_first", percent),
    "gap recovered (2) %": ("recovered_second", percent),
}
GROUP_COLUMNS: Columns = {
    **_texts("model", "condition", "column"),
    "groups": ("n_groups", TEXT),
    "few": ("n_few", TEXT),
    "worst": ("worst", TEXT),
    INTERVAL: ("worst", percent),
    "best": ("best", TEXT),
    "best %": ("best_value", percent),
    "spread": ("spread", points),
    "by chance": ("by_chance", points),
    "p": ("probability", TEXT),
}


def summary(losses: Losses) -> str:
    """The Markdown of ``robustness.md``: every measure at the layers that dev chose."""
    if losses.empty:
        return f"{NOTHING}\n"
    return HEAD + "\n".join(head + to_markdown(grids, "###") for head, grids in _sections(losses))


def summary_grids(losses: Losses) -> list[Grid]:
    """The tables of `summary`, each with the measure in its title."""
    return [
        replace(grid, of={"measure": head.partition("\n")[0].removeprefix("## "), **grid.of})
        for head, grids in _sections(losses)
        for grid in grids
    ]


def every_layer(losses: Losses) -> str:
    """The Markdown of ``robustness_layers.md``: see `layer_grids`; empty without several
    conditions.
    """
    grids = layer_grids(losses)
    head = LAYERS_HEAD + (MARKS_HEAD if losses.all_measures else "")
    return head + to_markdown(grids) if grids else ""


def layer_grids(losses: Losses) -> list[Grid]:
    """One table (layer x condition) per model and question."""
    grids = []
    for _, rows in _main(losses.conditions).groupby([*ACROSS_CONDITIONS, "model"], sort=False):
        of_layer: dict[str, dict[str, Row]] = {}
        for row in rows.to_dict("records"):
            of_layer.setdefault(str(row["layer"]), {})[row["condition"]] = row
        by_layer = list(of_layer.values())
        first = [next(iter(of.values())) for of in by_layer]
        means = [of.get(MEAN) for of in by_layer]
        names = [name for name in dict.fromkeys(rows["condition"]) if name != MEAN]
        columns: dict[Column, Sequence[Cell | str]] = {
            Column("layer", number=True): list(of_layer),
            Column("marks"): [_marks(row) for row in first],
        }
        for name in names:
            columns[Column(name, number=True)] = [_with_loss(of.get(name)) for of in by_layer]
        measures: list[tuple[str, str, Form, Sequence[Row | None]]] = [
            ("mean loss", "loss", points, means),
            *([("margin lost %", "margin_lost", percent, means)] if losses.all_measures else []),
            *((f"{task} %", task, percent, first) for task in DOMAIN_TASKS),
        ]
        for head, name, form, of_rows in measures:
            columns[Column(head, number=True)] = [_cell(row, name, form) for row in of_rows]
        columns[Column("chance")] = [row["chance"] or DASH for row in first]
        empty = dict.fromkeys((column.name for column in columns), DASH)
        grids.append(of_columns(columns, empty, aside="change", **_about(rows, "model")))
    return grids


def _main(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that Markdown shows: detection costs repeat what the EER says and are in the CSV
    files alone.
    """
    is_cost = rows["metric"].map(lambda metric: metric_of(metric).is_cost).astype(bool)
    return rows[~is_cost]


def _sections(losses: Losses) -> Iterator[tuple[str, list[Grid]]]:
    """A heading with its explanation in Markdown, and the tables below it; those that hold
    something.
    """
    baseline = f"`{escaped(losses.baseline)}`" if losses.baseline else "which has no records here"
    sections = [
        (LOSSES, FURTHER, losses.at_chosen_layers, LOSS_COLUMNS),
        (GAPS, RECOVERED, losses.gaps, GAP_COLUMNS),
        (GROUPS, SPREAD, losses.groups, GROUP_COLUMNS),
    ]
    for head, further, rows, columns in sections:
        if grids := _tables(_main(rows), columns):
            text = head + (further if losses.all_measures else "")
            yield text.format(baseline=baseline, fewest=FEWEST_BLOCKS), grids


def _tables(rows: pd.DataFrame, columns: Columns) -> list[Grid]:
    """One table per question, with the notes of its rows below it; columns that the rows lack, or
    that are empty, are left out.
    """
    grids = []
    columns = {head: of for head, of in columns.items() if of[0] in rows}
    for _, group in rows.groupby(ACROSS_CONDITIONS, sort=False):
        cells = _without_single_means(group).to_dict("records")
        cells_of = {
            Column(_head(head, group), number=form is not TEXT or head in ALIGNED_RIGHT): [
                _cell(row, name, form) for row in cells
            ]
            for head, (name, form) in columns.items()
        }
        empty = dict.fromkeys(columns, DASH)
        grids.append(of_columns(cells_of, empty, notes=_notes(cells), **_about(group)))
    return grids


def _without_single_means(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows without the mean where each model has one condition."""
    is_mean = rows["condition"] == MEAN
    n_conditions = (~is_mean & (rows["condition"] != CLEAN)).sum()
    return rows if n_conditions > rows["model"].nunique() else rows[~is_mean]


def _notes(cells: Sequence[Row]) -> list[str]:
    """Each note once, with the rows that it is about."""
    places: dict[str, list[str]] = {}
    for row in cells:
        if row["note"]:
            names = [_text(row, name) for name in NOTED if row.get(name)]
            places.setdefault(row["note"], []).append(", ".join(n for n in names if n != DASH))
    return [f"{'; '.join(of_note)}: {note}" for note, of_note in places.items()]


def _head(head: str, rows: pd.DataFrame) -> str:
    return interval_head(rows["metric"]) if head == INTERVAL else head


def _about(rows: pd.DataFrame, *fields: str) -> dict[str, Any]:
    """What a table of rows of one question (and of one value of each field) is of; training on
    clean audio goes without saying.
    """
    first = rows.iloc[0]
    names = (*fields, *ACROSS_CONDITIONS)
    of = {name: str(first[name]) for name in names if first[name] not in ("", CLEAN)}
    if "train_condition" in of:
        of["train_condition"] = trained_on(of["train_condition"])
    better = bool(first["higher_is_better"]) if "higher_is_better" in rows else None
    return {"of": of, "better": better}


def _title(rows: pd.DataFrame, *fields: str) -> str:
    return Grid((), (), **_about(rows, *fields)).title


def _marks(row: Row) -> str:
    return ("✓" if row["chosen"] else "") + MARKS.get(row.get("robust", ""), "")


def _with_loss(row: Row | None) -> Cell:
    if row is None or math.isnan(row["value"]):
        return Cell(DASH)
    change = -row["loss"] if row["higher_is_better"] else row["loss"]
    metric = metric_of(row["metric"])
    aside = "" if math.isnan(change) else f"({metric.difference_text(change)})"
    return Cell(metric.text(row["value"]), aside=aside, value=row["value"], shared=_is_shared(row))


def _is_shared(row: Row) -> bool:
    """Whether speakers of the score are in training too."""
    shared = row.get("shared_speakers")
    return shared is not None and not pd.isna(shared) and shared > 0


def _cell(row: Row | None, name: str, form: Form) -> Cell:
    """A text, or a value with its interval."""
    if row is None:
        return Cell(DASH)
    if form is TEXT:
        return Cell(_text(row, name))
    metric = metric_of(row["metric"])
    if (metric.of_numbers or metric.is_cost) and name not in SHARES:
        own: dict[Form, Form] = {percent: metric.text, points: metric.difference_text}
        form = own.get(form, form) or form
    of_score = name in ("value", "worst")
    value = row["worst_value"] if name == "worst" else row[name]
    if pd.isna(value):
        return Cell(DASH)
    before = {"value": "", "worst": "worst_"}.get(name, f"{name}_")
    low, high = (row.get(f"{before}{end}", math.nan) for end in ("low", "high"))
    interval = "" if pd.isna(low) or pd.isna(high) else f"[{form(low)}, {form(high)}]"
    shared = of_score and _is_shared(row)
    return Cell(form(value), interval, value=value, low=low, high=high, shared=shared)


def _text(row: Row, name: str) -> str:
    text: str = DASH if pd.isna(row[name]) else str(row[name])
    if name == "chance" and text == "unknown" and "margin_lost" not in row:
        return DASH  # it matters for margins alone
    if name == "probability" and text != DASH:
        return f"{row[name]:.3f}"
    if name != "condition":
        return text or DASH
    if "train_domain" in row:
        return DASH if text in ("", CLEAN) else text
    return "mean" if text == MEAN else text
