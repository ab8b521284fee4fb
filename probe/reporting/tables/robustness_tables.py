"""Robustness tables, in percent and points: of the layers that dev chose, and of every layer."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from probe.data.conditions.grammar import CLEAN
from probe.errors import listed
from probe.measures.degradation import FEWEST_MODELS
from probe.measures.metrics import metric_of
from probe.records import ACROSS_CONDITIONS
from probe.reporting.layer_scores import Row
from probe.reporting.losses import DOMAIN_TASKS, MEAN, WORST, Losses, chosen_rows
from probe.reporting.tables.grid import Cell, Column, Grid, of_columns, to_markdown
from probe.reporting.text import DASH, INTERVAL, escaped, interval_head, percent, points, trained_on

HEAD = """# Robustness

Intervals are of 95 %, by resampling speakers; what two scores share cancels in their difference. \
– is undefined: a note, or
docs/robustness.md, says why.

"""
LOSSES = """## Under other conditions

At the layer that is best on the dev data of the training. `loss` is what the score is worse than \
on clean audio, on the same
utterances: in points, as a part of the clean score, and as a part of what the clean score is \
above chance (100 % leaves nothing).
The worst condition is picked from several; its intervals allow for that.

"""
LAYERS = """## Which layer keeps most

The layer with the smallest mean part of its margin over chance lost. It is picked on the test \
scores it describes: it says where a
model is robust, not what to use. A layer at chance has nothing to lose and is never called robust.

"""
NORMALISED = """## Beside a baseline

`WERD` is the rise of the error in points, 0 at least; `NWER` the error, `NWERD` the rise, over \
that of {baseline} under the same
condition (the paper's reading of Speech Robust Bench; its code divides by a difficulty estimated \
from the audio). `WERV` is the
variance over samplings, in points squared. The error is 100 % - accuracy where the score is an \
accuracy.

"""
NO_BASELINE = (
    "`fbank` has no records here: name a baseline (`--baseline MODEL`) for `NWER` and `NWERD`.\n\n"
)
GAPS = """## Gaps between domains

On the test rows of the target, at the layer that is best on dev of each training. `gap` is what \
training on another domain costs
against training on the target; `closed` is the part of the gap of {baseline} that the model \
closes, with the in-domain score of the
baseline (1) and of the model (2). Below 0 is worse than the baseline, above 100 better than \
in-domain training. Undefined where
in-domain training is not better beyond noise: there is no gap to close. `shift` is what one \
training loses from its own test rows to
the target's, which are other utterances.

"""
EFFECTIVE = """## Effective robustness

How far the score under a condition lies above what the clean score predicts by a line over the \
other models (logit axes, each model
left out of its own line), in points of accuracy or of 100 % - error. An interval without 0: off \
the line of the others.

"""
GROUPS = """## Worst groups

Intervals of groups hold for all groups at once. `spread` is the best less the worst; `by chance` \
is its mean if the speakers were in
groups at random, or, of speakers, all equally good; `p` is how often chance spreads as far. The \
worst of many is low by luck too.
Groups of fewer than 4 speakers (`few`) are never the worst.

"""
LAYERS_HEAD = """# Robustness of every layer

Test scores; in parentheses the change in points against clean. `margin lost` is the mean loss as \
a part of what the clean score is
above chance. ✓ is the layer that dev chose, ◆ the one that keeps most of its margin, ◇ those \
whose interval reaches down to it.

"""
NOTED = ("model", "condition", "train_domain", "test_domain", "column")
NOTHING = "No clean records with others under conditions, and not several domains."
# Parts of a score, whatever its unit.
SHARES = {"relative", "margin_lost", "closed_first", "closed_second"}
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
    "chance": ("chance", TEXT),
}
NORMALISED_COLUMNS: Columns = {
    **_texts("model", "condition"),
    "WERD": ("werd", points),
    "NWER": ("nwer", _ratio),
    "NWERD": ("nwerd", _ratio),
    "WERV": ("werv", _points_squared),
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
    "closed (1) %": ("closed_first", percent),
    "closed (2) %": ("closed_second", percent),
}
EFFECTIVE_COLUMNS: Columns = {
    **_texts("model", "condition"),
    "clean %": ("clean", percent),
    "under it %": ("value", percent),
    "effective": ("effective", points),
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
    return LAYERS_HEAD + to_markdown(grids) if grids else ""


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
        names = [name for name in dict.fromkeys(rows["condition"]) if name not in (MEAN, WORST)]
        columns: dict[Column, Sequence[Cell | str]] = {
            Column("layer", number=True): list(of_layer),
            Column("marks"): [_marks(row) for row in first],
        }
        for name in names:
            columns[Column(name, number=True)] = [_with_loss(of.get(name)) for of in by_layer]
        measures: list[tuple[str, str, Form, Sequence[Row | None]]] = [
            ("mean loss", "loss", points, means),
            ("margin lost %", "margin_lost", percent, means),
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
    conditions = _main(losses.conditions)
    baseline = f"`{escaped(losses.baseline)}`" if losses.baseline else "the baseline"
    no_baseline = "" if losses.baseline else NO_BASELINE
    sections = [
        (LOSSES, _loss_tables(chosen_rows(conditions))),
        (LAYERS, _sentences(_robust_layers(conditions))),
        (
            NORMALISED.format(baseline=baseline) + no_baseline,
            _tables(_main(losses.normalised), NORMALISED_COLUMNS),
        ),
        (EFFECTIVE, _effective_tables(_main(losses.effective))),
        (GAPS.format(baseline=baseline), _tables(_main(losses.gaps), GAP_COLUMNS)),
        (GROUPS, _tables(_main(losses.groups), GROUP_COLUMNS)),
    ]
    return (section for section in sections if section[1])


def _tables(rows: pd.DataFrame, columns: Columns) -> list[Grid]:
    """One table per question, with the notes of its rows below it."""
    grids = []
    for _, group in rows.groupby(ACROSS_CONDITIONS, sort=False):
        cells = group.to_dict("records")
        notes = [
            f"{', '.join(str(row[name]) for name in NOTED if row.get(name))}: {row['note']}"
            for row in cells
            if row["note"] and row.get("condition") != WORST
        ]
        cells_of = {
            Column(_head(head, group), number=form is not TEXT or head in ALIGNED_RIGHT): [
                _cell(row, name, form) for row in cells
            ]
            for head, (name, form) in columns.items()
        }
        empty = dict.fromkeys(columns, DASH)
        grids.append(of_columns(cells_of, empty, notes=notes, **_about(group)))
    return grids


def _head(head: str, rows: pd.DataFrame) -> str:
    return interval_head(rows["metric"]) if head == INTERVAL else head


def _loss_tables(rows: pd.DataFrame) -> list[Grid]:
    """The tables of losses, without mean and worst where each model has one condition."""
    tables = []
    for _, group in rows.groupby(ACROSS_CONDITIONS, sort=False):
        summed = group["condition"].isin([MEAN, WORST])
        n_conditions = (~summed & (group["condition"] != CLEAN)).sum()
        several = n_conditions > group["model"].nunique()
        tables += _tables(group if several else group[~summed], LOSS_COLUMNS)
    return tables


def _effective_tables(rows: pd.DataFrame) -> list[Grid]:
    """A sentence for each question that has too few models, and the tables of the others."""
    lines, tables = [], []
    for _, group in rows.groupby(ACROSS_CONDITIONS, sort=False):
        if group["effective"].notna().any():
            tables += _tables(group, EFFECTIVE_COLUMNS)
            continue
        n = group["model"].nunique()
        why = f"; a line needs {FEWEST_MODELS}"
        if n >= FEWEST_MODELS:
            why = ", some at chance or without a place on the axis"
        lines.append(f"{_title(group)}: undefined, {n} models{why}.")
    return [*_sentences(lines), *tables]


def _sentences(lines: Sequence[str]) -> list[Grid]:
    """Sentences without a table."""
    return [Grid((), (), notes=lines)] if lines else []


def _robust_layers(rows: pd.DataFrame) -> list[str]:
    """A sentence per model and question: the layer that keeps most of its margin, its equals, and
    the layers at chance.
    """
    lines = []
    for _, group in rows.groupby([*ACROSS_CONDITIONS, "model"], sort=False):
        if group["layer"].nunique() < 2:
            continue
        means = group[group["condition"] == MEAN].to_dict("records")
        tied = [row["layer"] for row in means if row["robust"] == "tied"]
        clauses = ["no layer can be called robust"]
        for row in means:
            if row["robust"] == "most":
                margin = _cell(row, "margin_lost", percent)
                clauses = [f"layer {row['layer']} loses {margin} % of its margin"]
        clauses += [f"not significantly different: {listed(tied, 30)}"] if tied else []
        chosen = sorted(set(group["layer"][group["chosen"].astype(bool)]))
        clauses.append(f"dev chose {listed(chosen)}")
        for level, words in (
            ("at chance", "at chance on clean audio"),
            ("unknown", "no control says what chance gives"),
        ):
            layers = list(dict.fromkeys(group["layer"][group["chance"] == level]))
            clauses += [f"{words}: {listed(layers, 30)}"] if layers else []
        lines.append(f"{_title(group, 'model')}: {'; '.join(clauses)}.")
    return lines


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
    return ("✓" if row["chosen"] else "") + MARKS.get(row["robust"], "")


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
    if name == "probability" and text != DASH:
        return f"{row[name]:.3f}"
    if name != "condition":
        return text or DASH
    if text == WORST:
        return f"worst: {row['note']}"
    if "train_domain" in row:
        return DASH if text in ("", CLEAN) else text
    return "mean" if text == MEAN else text
