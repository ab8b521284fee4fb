"""Robustness tables, in percent and points: of the layers that dev chose, and of every layer."""

import math
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from probe.errors import listed
from probe.measures.degradation import FEWEST_MODELS
from probe.reporting.domain_gaps import gap_rows
from probe.reporting.losses import (
    CLEAN,
    COSTS,
    DOMAIN_TASKS,
    MEAN,
    QUESTION,
    WORST,
    chosen_rows,
    condition_rows,
)
from probe.reporting.model_robustness import (
    baseline_of,
    effective_rows,
    group_rows,
    normalised_rows,
)
from probe.reporting.tables.cells import DASH, INTERVAL, escaped, percent, points
from probe.reporting.tables.grid import Cell, Column, Grid, of_columns, to_markdown

HEAD = """# Robustness

Intervals are of 95 %, by resampling speakers; what two scores share cancels in their difference. – is undefined: a note, or
docs/robustness.md, says why.

"""
LOSSES = """## Under other conditions

At the layer that is best on the dev data of the training. `loss` is what the score is worse than on clean audio, on the same
utterances: in points, as a part of the clean score, and as a part of what the clean score is above chance (100 % leaves nothing).
The worst condition is picked from several; its intervals allow for that.

"""
LAYERS = """## Which layer keeps most

The layer with the smallest mean part of its margin over chance lost. It is picked on the test scores it describes: it says where a
model is robust, not what to use. A layer at chance has nothing to lose and is never called robust.

"""
NORMALISED = """## Beside a baseline

`WERD` is the rise of the error in points, 0 at least; `NWER` the error, `NWERD` the rise, over that of {baseline} under the same
condition (the paper's reading of Speech Robust Bench; its code divides by a difficulty estimated from the audio). `WERV` is the
variance over samplings, in points squared. The error is 100 % - accuracy where the score is an accuracy.

"""
NO_BASELINE = (
    "`fbank` has no records here: name a baseline (`--baseline MODEL`) for `NWER` and `NWERD`.\n\n"
)
GAPS = """## Gaps between domains

On the test rows of the target, at the layer that is best on dev of each training. `gap` is what training on another domain costs
against training on the target; `closed` is the part of the gap of {baseline} that the model closes, with the in-domain score of the
baseline (1) and of the model (2). Below 0 is worse than the baseline, above 100 better than in-domain training. Undefined where
in-domain training is not better beyond noise: there is no gap to close. `shift` is what one training loses from its own test rows to
the target's, which are other utterances.

"""
EFFECTIVE = """## Effective robustness

How far the score under a condition lies above what the clean score predicts by a line over the other models (logit axes, each model
left out of its own line), in points of accuracy or of 100 % - error. An interval without 0: off the line of the others.

"""
GROUPS = """## Worst groups

Intervals of groups hold for all groups at once. `spread` is the best less the worst; `by chance` is its mean if the speakers were in
groups at random, or, of speakers, all equally good; `p` is how often chance spreads as far. The worst of many is low by luck too.
Groups of fewer than 4 speakers (`few`) are never the worst.

"""
LAYERS_HEAD = """# Robustness of every layer

Test scores; in parentheses the change in points against clean. `margin lost` is the mean loss as a part of what the clean score is
above chance. ✓ is the layer that dev chose, ◆ the one that keeps most of its margin, ◇ those whose interval reaches down to it.

"""
Row = Mapping[Hashable, Any]
Columns = Mapping[str, Iterable[Cell | str]]
TITLES = {MEAN: "mean", WORST: "worst"}
NUMBERS = {
    INTERVAL,
    "layer",
    "loss, points",
    "loss, % of clean",
    "margin lost %",
    "mean loss",
    *(f"{task} %" for task in DOMAIN_TASKS),
}
NUMBERS |= {
    "NWER",
    "NWERD",
    "WERD",
    "WERV",
    "in-domain",
    "gap",
    "gap, % of in-domain",
    "shift",
    "closed (1) %",
    "closed (2) %",
}
NUMBERS |= {
    "clean %",
    "under it %",
    "effective",
    "groups",
    "few",
    "best %",
    "spread",
    "by chance",
    "p",
}
NOTED = ("model", "condition", "train_domain", "test_domain", "column")
NOTHING = "No clean records with others under conditions, and not several domains."


@dataclass(frozen=True)
class Robustness:
    """All rows of the robustness tables: see `probe.reporting.losses`, `.domains` and
    `.robustness`.
    """

    layers: pd.DataFrame
    normalised: pd.DataFrame
    effective: pd.DataFrame
    gaps: pd.DataFrame
    groups: pd.DataFrame
    baseline: str

    @property
    def empty(self) -> bool:
        """Whether the records hold neither several conditions nor several domains."""
        return self.layers.empty and self.gaps.empty

    @property
    def of_main_metrics(self) -> "Robustness":
        """What Markdown shows: detection costs say what the EER says, and stand in the CSV files
        alone.
        """
        layers, normalised, effective, gaps, groups = (
            rows[~rows["metric"].str.startswith(COSTS)] if len(rows) else rows
            for rows in (self.layers, self.normalised, self.effective, self.gaps, self.groups)
        )
        return Robustness(layers, normalised, effective, gaps, groups, self.baseline)

    @property
    def gaps_and_groups(self) -> pd.DataFrame:
        """The rows of both, with the column ``table`` that tells them apart; a column that only one
        has is empty in the other.
        """
        told = [
            rows.astype(object).assign(table=name)
            for name, rows in (("gaps", self.gaps), ("groups", self.groups))
        ]
        rows = pd.concat(told, ignore_index=True)
        return rows[["table", *rows.columns.drop("table")]]

    @property
    def chosen(self) -> pd.DataFrame:
        """One row per model and condition at the chosen layer, with all measures of it: what
        ``robustness.csv`` holds.
        """
        rows = chosen_rows(self.layers)
        for more in (
            self.normalised.drop(columns=["layer", "note"]),
            self.effective.drop(columns=["clean", "value", "note"]),
        ):
            rows = rows.merge(more, on=[*QUESTION, "model", "condition"], how="left")
        return rows


def robustness(
    records: pd.DataFrame, baseline: str | None = None, all_heads: bool = False
) -> Robustness:
    """Every measure of the records.

    Args:
        records: see `probe.records.read_records`.
        baseline: a model; `fbank` where left out, if there are records of it.
        all_heads: every head instead of the headline ones.

    Raises:
        ProbeError: records that cannot stand side by side, or no records of the baseline.
    """
    beside = baseline_of(records, baseline)
    layers = condition_rows(records, all_heads)
    return Robustness(
        layers,
        normalised_rows(records, beside, all_heads),
        effective_rows(layers),
        gap_rows(records, beside, all_heads),
        group_rows(records, all_heads),
        beside,
    )


def summary(found: Robustness) -> str:
    """The Markdown of ``robustness.md``: every measure at the layers that dev chose."""
    if found.empty:
        return f"{NOTHING}\n"
    return HEAD + "\n".join(head + to_markdown(grids, "###") for head, grids in _sections(found))


def summary_grids(found: Robustness) -> list[Grid]:
    """The tables of `summary`, each with the measure in its title."""
    named = [
        (head.partition("\n")[0].removeprefix("## "), grids) for head, grids in _sections(found)
    ]
    return [
        replace(grid, of={"measure": measure, **grid.of})
        for measure, grids in named
        for grid in grids
    ]


def every_layer(found: Robustness) -> str:
    """The Markdown of ``robustness_layers.md``: see `layer_grids`; empty without several
    conditions.
    """
    grids = layer_grids(found)
    return LAYERS_HEAD + to_markdown(grids) if grids else ""


def layer_grids(found: Robustness) -> list[Grid]:
    """One table (layer x condition) per model and question."""
    grids = []
    for _, rows in found.of_main_metrics.layers.groupby([*QUESTION, "model"], sort=False):
        of_layer: dict[str, dict[str, Row]] = {}
        for row in rows.to_dict("records"):
            of_layer.setdefault(str(row["layer"]), {})[row["condition"]] = row
        first = [next(iter(there.values())) for there in of_layer.values()]
        means = [there.get(MEAN) for there in of_layer.values()]
        conditions = [
            name for name in dict.fromkeys(rows["condition"]) if name not in (MEAN, WORST)
        ]
        columns: Columns = {
            "layer": of_layer,
            "marks": [_marks(row) for row in first],
            **{
                name: [_with_loss(there.get(name)) for there in of_layer.values()]
                for name in conditions
            },
            "mean loss": [_points_of(row, "loss") for row in means],
            "margin lost %": [_percent_of(row, "margin_lost") for row in means],
            **{f"{task} %": [_percent_of(row, task) for row in first] for task in DOMAIN_TASKS},
            "chance": [row["chance"] or DASH for row in first],
        }
        grids.append(
            _grid(columns, {*NUMBERS, *conditions}, aside="change", **_about(rows, "model"))
        )
    return grids


def _sections(found: Robustness) -> Iterator[tuple[str, list[Grid]]]:
    """A heading with its explanation in Markdown, and the tables below it; those that hold
    something.
    """
    found = found.of_main_metrics
    baseline = f"`{escaped(found.baseline)}`" if found.baseline else "the baseline"
    sections = [
        (LOSSES, _tables(chosen_rows(found.layers), _losses)),
        (LAYERS, _sentences(_kept(found.layers))),
        (
            NORMALISED.format(baseline=baseline) + NO_BASELINE * (not found.baseline),
            _tables(found.normalised, _normalised),
        ),
        (EFFECTIVE, _effective(found.effective, found.chosen)),
        (GAPS.format(baseline=baseline), _tables(found.gaps, _gaps)),
        (GROUPS, _tables(found.groups, _groups)),
    ]
    return (section for section in sections if section[1])


def _grid(columns: Columns, numbers: Container[str] = NUMBERS, **more: Any) -> Grid:
    """A table without the columns that hold nothing."""
    named = {Column(name, number=name in numbers): cells for name, cells in columns.items()}
    return of_columns(named, dict.fromkeys(columns, DASH), **more)


def _tables(rows: pd.DataFrame, columns: Callable[[Sequence[Row]], Columns]) -> list[Grid]:
    """One table per question, with the notes of its rows below it."""
    grids = []
    for _, group in rows.groupby(QUESTION, sort=False):
        cells = group.to_dict("records")
        notes = [
            f"{', '.join(str(row[name]) for name in NOTED if row.get(name))}: {row['note']}"
            for row in cells
            if row["note"] and row.get("condition") != WORST
        ]
        grids.append(_grid(columns(cells), notes=notes, **_about(group)))
    return grids


def _sentences(lines: Sequence[str]) -> list[Grid]:
    """Sentences without a table."""
    return [Grid((), (), notes=lines)] if lines else []


def _about(rows: pd.DataFrame, *fields: str) -> dict[str, Any]:
    """What a table of rows of one question (and of one value of each field) is of; training on
    clean audio goes without saying.
    """
    first = rows.iloc[0]
    of = {name: str(first[name]) for name in (*fields, *QUESTION) if first[name] not in ("", CLEAN)}
    of |= (
        {"train_condition": f"trained on {of['train_condition']}"}
        if "train_condition" in of
        else {}
    )
    return {
        "of": of,
        "better": bool(first["higher_is_better"]) if "higher_is_better" in rows else None,
    }


def _title(rows: pd.DataFrame, *fields: str) -> str:
    return Grid((), (), **_about(rows, *fields)).title


def _losses(rows: Sequence[Row]) -> Columns:
    several = sum(row["condition"] not in (CLEAN, MEAN, WORST) for row in rows) > len(
        {row["model"] for row in rows}
    )
    rows = [row for row in rows if several or row["condition"] not in (MEAN, WORST)]
    return {
        "model": [row["model"] for row in rows],
        "layer": [row["layer"] for row in rows],
        "condition": [
            f"worst: {row['note']}" if row["condition"] == WORST else _condition(row)
            for row in rows
        ],
        INTERVAL: [
            replace(_percent_of(row, "value", "low", "high"), shared=_is_shared(row))
            for row in rows
        ],
        "loss, points": [_points_of(row, "loss") for row in rows],
        "loss, % of clean": [_percent_of(row, "relative") for row in rows],
        "margin lost %": [_percent_of(row, "margin_lost") for row in rows],
        "chance": [row["chance"] or DASH for row in rows],
    }


def _kept(rows: pd.DataFrame) -> list[str]:
    """A sentence per model and question: the layer that keeps most of its margin, its equals, and
    the layers at chance.
    """
    lines = []
    for _, group in rows.groupby([*QUESTION, "model"], sort=False):
        if group["layer"].nunique() < 2:
            continue
        means = group[group["condition"] == MEAN]
        most, tied = (
            means[means["robust"] == "most"],
            list(means["layer"][means["robust"] == "tied"]),
        )
        level = {
            what: list(dict.fromkeys(group["layer"][group["chance"] == what]))
            for what in ("at chance", "unknown")
        }
        said = ["no layer can be called robust"]
        for row in most.to_dict("records"):
            said = [f"layer {row['layer']} loses {_percent_of(row, 'margin_lost')} % of its margin"]
        said += [f"not told from it: {listed(tied, 30)}"] if tied else []
        said += [f"dev chose {listed(sorted(set(group['layer'][group['chosen'].astype(bool)])))}"]
        said += (
            [f"at chance on clean audio: {listed(level['at chance'], 30)}"]
            if level["at chance"]
            else []
        )
        said += (
            [f"no control says what chance gives: {listed(level['unknown'], 30)}"]
            if level["unknown"]
            else []
        )
        lines.append(f"{_title(group, 'model')}: {'; '.join(said)}.")
    return lines


def _normalised(rows: Sequence[Row]) -> Columns:
    return {
        "model": [row["model"] for row in rows],
        "condition": [_condition(row) for row in rows],
        "WERD": [_points_of(row, "werd") for row in rows],
        "NWER": [_ratio_of(row, "nwer") for row in rows],
        "NWERD": [_ratio_of(row, "nwerd") for row in rows],
        "WERV": [_ratio_of(row, "werv", scale=1e4) for row in rows],
    }


def _gaps(rows: Sequence[Row]) -> Columns:
    return {
        "condition": [
            row["condition"] if row["condition"] not in ("", CLEAN) else DASH for row in rows
        ],
        "trained on": [row["train_domain"] for row in rows],
        "target": [row["test_domain"] for row in rows],
        "model": [row["model"] for row in rows],
        "layer": [row["layer"] for row in rows],
        INTERVAL: [_percent_of(row, "value", "low", "high") for row in rows],
        "in-domain": [_percent_of(row, "in_domain") for row in rows],
        "gap": [_points_of(row, "gap") for row in rows],
        "gap, % of in-domain": [_percent_of(row, "relative") for row in rows],
        "shift": [_points_of(row, "shift") for row in rows],
        "closed (1) %": [_percent_of(row, "closed_first") for row in rows],
        "closed (2) %": [_percent_of(row, "closed_second") for row in rows],
    }


def _effective(rows: pd.DataFrame, chosen: pd.DataFrame) -> list[Grid]:
    """A sentence for each question that has too few models, and the tables of the others."""
    groups = [group for _, group in rows.groupby(QUESTION, sort=False)]
    told = [group for group in groups if group["effective"].notna().any()]
    n_models = chosen.groupby(QUESTION)["model"].nunique()
    lines = []
    for group in groups:
        if group["effective"].isna().all():
            n = n_models[tuple(group.iloc[0][QUESTION])]
            why = (
                "some at chance or without a place on the axis"
                if n >= FEWEST_MODELS
                else f"a line needs {FEWEST_MODELS}"
            )
            lines.append(
                f"{_title(group)}: undefined, {n} models{',' if n >= FEWEST_MODELS else ';'} {why}."
            )
    return [*_sentences(lines), *(grid for group in told for grid in _tables(group, _distances))]


def _distances(rows: Sequence[Row]) -> Columns:
    return {
        "model": [row["model"] for row in rows],
        "condition": [_condition(row) for row in rows],
        "clean %": [_percent_of(row, "clean") for row in rows],
        "under it %": [_percent_of(row, "value") for row in rows],
        "effective": [_points_of(row, "effective") for row in rows],
    }


def _groups(rows: Sequence[Row]) -> Columns:
    def of(name: str, row: Row) -> str:
        return DASH if pd.isna(row[name]) else str(row[name])

    return {
        "model": [row["model"] for row in rows],
        "condition": [_condition(row) for row in rows],
        "column": [row["column"] for row in rows],
        "groups": [str(row["n_groups"]) for row in rows],
        "few": [str(row["n_few"]) for row in rows],
        "worst": [of("worst", row) for row in rows],
        INTERVAL: [_percent_of(row, "worst_value", "worst_low", "worst_high") for row in rows],
        "best": [of("best", row) for row in rows],
        "best %": [_percent_of(row, "best_value") for row in rows],
        "spread": [_points_of(row, "spread") for row in rows],
        "by chance": [_points_of(row, "by_chance") for row in rows],
        "p": [
            f"{row['probability']:.3f}" if pd.notna(row["probability"]) else DASH for row in rows
        ],
    }


def _condition(row: Row) -> str:
    return TITLES.get(row["condition"]) or str(row["condition"])


def _marks(row: Row) -> str:
    return ("✓" if row["chosen"] else "") + {"most": "◆", "tied": "◇"}.get(row["robust"], "")


def _with_loss(row: Row | None) -> Cell:
    if row is None or math.isnan(row["value"]):
        return Cell(DASH)
    loss = (
        ""
        if math.isnan(row["loss"])
        else f"({points(-row['loss'] if row['higher_is_better'] else row['loss'])})"
    )
    return Cell(percent(row["value"]), aside=loss, value=row["value"], shared=_is_shared(row))


def _is_shared(row: Row) -> bool:
    """Whether speakers of the score are in training too."""
    return not pd.isna(row["shared_speakers"]) and row["shared_speakers"] > 0


def _points_of(row: Row | None, name: str) -> Cell:
    return _shown(row, points, name)


def _percent_of(row: Row | None, name: str, low: str = "", high: str = "") -> Cell:
    return _shown(row, percent, name, low, high)


def _ratio_of(row: Row, name: str, scale: float = 1) -> Cell:
    return _shown(row, lambda value: f"{round(scale * value, 2) + 0.0:.2f}", name)


def _shown(
    row: Row | None, form: Callable[[float], str], name: str, low: str = "", high: str = ""
) -> Cell:
    """A value with its interval, from the columns ``low`` and ``high``, or from those that are
    named after the value's.
    """
    if row is None or pd.isna(row[name]):
        return Cell(DASH)
    ends = [row.get(end, math.nan) for end in (low or f"{name}_low", high or f"{name}_high")]
    interval = "" if any(map(pd.isna, ends)) else f"[{', '.join(map(form, ends))}]"
    return Cell(form(row[name]), interval, "", "", row[name], *ends)
