"""Tables of scores: at the chosen layers, of every layer, across domains, with fewer labels.

Markdown, LaTeX and HTML are in percent with one decimal (codelengths in bits with two); CSV and
JSON hold the values of the records.
"""

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import pandas as pd

from probe.data.conditions.grammar import CLEAN
from probe.measures.comparison import AT_CHANCE
from probe.measures.metrics import metric_of
from probe.records import BY_GRADIENT, QUESTION
from probe.reporting.layer_choices import choice_notes, with_choice
from probe.reporting.scores import (
    BASELINES,
    PERCENTILE,
    Scores,
    interval_notes,
    method_notes,
    with_all_labels,
)
from probe.reporting.tables import grid
from probe.reporting.tables.grid import Cell, Column, Grid, of_columns, score, score_of
from probe.reporting.text import (
    BITS,
    DASH,
    INTERVAL,
    SCORE_INTERVAL,
    csv_text,
    escaped,
    interval_head,
    json_text,
    layer_text,
    metric_text,
    percent,
    points,
    trained_on,
    units_text,
)
from probe.reporting.ties import NOT_TESTED

Row = Mapping[Hashable, Any]
Cells = dict[str, Iterable[Cell | str]]

# Columns of every layer's features -> the column of `Scores.layers`, and how it is printed.
SHAPE = {
    "depth": ("depth", "{:.2f}"),
    "rms": ("rms", "{:.3g}"),
    "rank": ("effective_rank", "{:.0f}"),
    "anisotropy": ("anisotropy", "{:.2f}"),
    "outliers %": ("outlier_dims", "{:.1%}"),
}
OTHER_SCORES = (
    "dev",
    "chosen in %",
    "last (layer)",
    "final",
    "weighted",
    *BASELINES,
    "selectivity",
)
LEFT_OUT_IF_ALL = {
    "condition": CLEAN,
    "train condition": CLEAN,
    "train domain": "",
    "test domain": "",
    "seeds": "1",
    "chance": "",
    "seed sd": DASH,
    "note": "",
} | dict.fromkeys([*OTHER_SCORES, *SHAPE], DASH)
NUMBERS = ("n", "blocks", "seeds", "seed sd")
ALIGNED_RIGHT = {"layer", INTERVAL, SCORE_INTERVAL, BITS, *OTHER_SCORES, *NUMBERS, *SHAPE}


def to_markdown(rows: pd.DataFrame, layers: bool) -> str:
    """A Markdown table in percent, aligned for the terminal too; see `grid_of`."""
    return grid.to_markdown([grid_of(rows, layers)]) if len(rows) else "No test scores.\n"


def layers_by_question(rows: pd.DataFrame) -> str:
    """A Markdown table of every model's layers per question and metric, from the rows of
    `Scores.layers`.
    """
    questions = [group for _, group in rows.groupby([*QUESTION, "metric"], sort=False)]
    tables = [grid_of(group, True, titled=True) for group in questions]
    return grid.to_markdown(tables) or to_markdown(rows, True)


def grid_of(rows: pd.DataFrame, layers: bool, titled: bool = False) -> Grid:
    """Rows as a table in percent, with the uninformative columns left out.

    Args:
        rows: of `Scores.chosen`, or of `Scores.layers` if ``layers``.
        layers: ticks the chosen layers; otherwise the best of several models is marked.
        titled: puts the question into the title instead of columns; it is that of the first row.
    """
    cells = rows.to_dict("records")
    columns: Cells = {name.replace("_", " "): rows[name] for name in QUESTION}
    if rows["corpus"].nunique() == 1:
        del columns["corpus"]
    columns["metric"] = [metric_text(row) for row in cells]
    about: dict[str, Any] = {}
    if titled:
        columns = {}
        about = {"of": _question(cells[0]), "better": cells[0]["higher_is_better"]}
    columns |= {"model": rows["model"], "head": rows["head"]}
    columns["layer"] = rows["layer"] if layers else [with_choice(row) for row in cells]
    score_head = interval_head(rows["metric"])
    columns[score_head] = [score_of(row, "" if layers else row["mark"]) for row in cells]
    columns |= _layer_columns(cells) if layers else _chosen_columns(cells)
    columns["chance"] = [AT_CHANCE if row["chance"] == AT_CHANCE else "" for row in cells]
    columns |= {"n": map(str, rows["n"]), "seeds": map(str, rows["n_seeds"])}
    columns["seed sd"] = [seed_spread(row) for row in cells]
    columns |= {"blocks": map(str, rows["n_blocks"])}
    columns["note"] = rows["note"] if layers else [_note(row) for row in cells]
    cells_of = {
        Column(name, number=name in ALIGNED_RIGHT): column for name, column in columns.items()
    }
    is_mixed = score_head == SCORE_INTERVAL and not titled
    notes = [units_text(rows["metric"].unique())] if is_mixed else []
    notes += [*([] if layers else choice_notes(rows)), *interval_notes(rows)]
    return of_columns(cells_of, LEFT_OUT_IF_ALL, notes=notes, **about)


def _note(row: Row) -> str:
    """The note of a row, after a mark that neither bold nor underlined type shows."""
    return "; ".join(filter(None, (NOT_TESTED if row["mark"] == NOT_TESTED else "", row["note"])))


def seed_spread(row: Row) -> Cell:
    """The standard deviation over seeds, in the unit of the score; ``one seed`` where there is
    a single one of a head whose score depends on the seed.
    """
    if not math.isnan(row["seed_sd"]):
        return Cell(metric_of(row["metric"]).text(row["seed_sd"]), value=row["seed_sd"])
    single = row["n_seeds"] == 1 and row["head"] in BY_GRADIENT and not math.isnan(row["value"])
    return Cell("one seed" if single else DASH)


def _layer_columns(cells: list[dict[Hashable, Any]]) -> Cells:
    columns: Cells = {"dev": [score(row["metric"], row["dev_value"]) for row in cells]}
    columns["chosen"] = ["✓" if row["chosen"] else "" for row in cells]
    columns["chosen in %"] = [
        Cell(percent(row["layer_share"]), value=row["layer_share"]) for row in cells
    ]
    known = {head: of for head, of in SHAPE.items() if cells and of[0] in cells[0]}
    for head, (name, form) in known.items():
        columns[head] = [
            Cell(DASH if math.isnan(value) else form.format(value).removesuffix("%"), value=value)
            for value in (row[name] for row in cells)
        ]
    return columns


def _chosen_columns(cells: list[dict[Hashable, Any]]) -> Cells:
    names = {"final": "final_value", "weighted": "weighted_value"}
    names |= {name: name for name in BASELINES}
    columns: Cells = {
        "last (layer)": [
            score(row["metric"], row["last_value"], aside=layer_text(row["last_layer"]))
            if pd.notna(row["last_value"])
            else Cell(DASH)
            for row in cells
        ]
    }
    for head, name in names.items():
        columns[head] = [score(row["metric"], row[name]) for row in cells]
    columns["selectivity"] = [_selectivity(row) for row in cells]
    return columns


def _selectivity(row: Row) -> Cell:
    value, low, high = (row[f"selectivity{end}"] for end in ("", "_low", "_high"))
    if math.isnan(value):
        return Cell(DASH)
    interval = "" if math.isnan(low) else f"[{points(low)}, {points(high)}]"
    return Cell(points(value), interval, value=value, low=low, high=high)


def _question(row: Row) -> dict[str, str]:
    """The question of a row, as a table's title has it."""
    return {name: row[name] for name in ("task", "corpus", "condition")} | {
        "train_condition": trained_on(row["train_condition"]),
        "domains": " → ".join(filter(None, (row["train_domain"], row["test_domain"]))),
        "metric": row["metric"],
    }


def search_table(records: pd.DataFrame) -> str:
    """Every setting that was tried with its dev scores, the chosen one marked ✓, as Markdown; empty
    without a search.
    """
    rows = with_all_labels(records[records["split"] == "dev"])
    rows = rows[rows["search"].map(len) > 0].sort_values("layer_index", kind="stable")
    tables = []
    for names, group in rows.groupby(["model", "task", "head"], sort=False):
        lines: list[dict[str, str]] = []
        for row in group.drop_duplicates(["layer", "train_domain"]).to_dict("records"):
            of_folds = {item["fold"]: item["chosen"] for item in row["folds"]}
            for entry in row["search"]:
                choice = of_folds.get(entry.get("fold"), row["chosen"])
                shared = entry.keys() & choice.keys()
                is_chosen = all(entry[name] == choice[name] for name in shared)
                lines.append(
                    {"train domain": row["train_domain"], "layer": row["layer"]}
                    | {
                        name: value if isinstance(value, str) else f"{value:.4g}"
                        for name, value in entry.items()
                    }
                    | {"picked": "✓" if is_chosen else ""}
                )
        columns = {
            Column(name, number=name in ALIGNED_RIGHT): [line.get(name, "") for line in lines]
            for name in lines[0]
        }
        table = grid.to_markdown([of_columns(columns, {"train domain": ""})])
        title = escaped(", ".join(map(str, names)))
        tables.append(f"{title}: every setting that was tried\n\n{table}")
    return "\n".join(tables)


def domain_grids(scores: Scores, layers: bool = False) -> list[Grid]:
    """One matrix (train x test domain) per model, task and metric, with the gap to the in-domain
    score beside each score.

    Conditions are domains where a task was trained under several, see
    `probe.reporting.scores.crossed`.

    Args:
        layers: a matrix of every layer instead of one at the layers that dev chose.
    """
    by = ["task", "corpus", "condition", "train_condition", "metric", "model", "head"]
    groups = scores.domains(layers).groupby([*by, "layer"] if layers else by, sort=False)
    return [_matrix(rows) for _, rows in groups]


def _matrix(rows: pd.DataFrame) -> Grid:
    """The matrix of one model, task and metric, with the reasons of empty cells below it."""
    cells = rows.to_dict("records")
    first = cells[0]
    at = {(row["train_domain"], row["test_domain"]): row for row in cells}
    show = with_choice if "layer_set" in rows else lambda row: str(row["layer"])
    layers = {row["train_domain"]: show(row) for row in cells if pd.notna(row["layer"])}
    trains, tests = (sorted({place[end] for place in at}) for end in (0, 1))
    sign = 1 if first["higher_is_better"] else -1
    metric = metric_of(first["metric"])

    def cell(train: str, test: str) -> Cell:
        row, in_domain = at.get((train, test)), at.get((train, train))
        if row is None:
            return Cell(DASH)
        gap = sign * (in_domain["value"] - row["value"]) if in_domain else math.nan
        aside = f"({metric.difference_text(gap)})" if train != test and not math.isnan(gap) else ""
        return score_of(row | {"low": math.nan, "high": math.nan}, aside=aside)

    columns: dict[Column, Iterable[Cell | str]] = {
        Column("train \\ test"): trains,
        Column("layer", number=True): [layers.get(train, DASH) for train in trains],
    }
    columns |= {Column(test): [cell(train, test) for train in trains] for test in tests}
    names = ("model", "task", "corpus", "condition", "head", "metric")
    return of_columns(
        columns,
        of={name: first[name] for name in names},
        better=bool(first["higher_is_better"]),
        aside="gap",
        notes=[
            *(choice_notes(rows) if "layer_set" in rows else []),
            *(
                f"{row['train_domain']} → {row['test_domain']}: {row['note']}"
                for row in cells
                if row["note"]
            ),
        ],
    )


def budget_grids(rows: pd.DataFrame) -> list[Grid]:
    """One table (layer x budget) per model, task and metric, from the rows of `Scores.budgets`; the
    layers that dev chose are ticked.
    """
    by = [
        *["metric", "train_condition", "task", "corpus", "condition"],
        *["train_domain", "test_domain", "model", "head"],
    ]
    tables = []
    for _, group in rows.groupby(by, sort=False):
        budgets = group.drop_duplicates("budget").sort_values("n_train")
        layers = list(dict.fromkeys(group["layer"]))
        at = {(row["budget"], row["layer"]): row for row in group.to_dict("records")}
        columns: dict[Column, Iterable[Cell | str]] = {Column("layer", number=True): layers}
        for budget, n_train in zip(budgets["budget"], budgets["n_train"], strict=True):
            of_budget = [at.get((budget, layer)) for layer in layers]
            columns[Column(f"{budget or 'all'} ({n_train})")] = [
                score_of(row, aside="✓" if row["chosen"] else "") if row else DASH
                for row in of_budget
            ]
        first = group.iloc[0]
        of = {name: str(first[name]) for name in (*by[2:], "metric")}
        of["train_condition"] = trained_on(first["train_condition"])
        better = bool(first["higher_is_better"])
        notes = method_notes(group)
        tables.append(of_columns(columns, of=of, better=better, aside="chosen", notes=notes))
    return tables


def to_csv(rows: pd.DataFrame, excel_safe: bool = False) -> str:
    """Rows as CSV: fractions, an empty field where there is no value; texts as
    `probe.reporting.text.csv_text` writes them.
    """
    rows = _for_export(rows)
    safe = {
        str(name): column.map(
            lambda text: csv_text(text, excel_safe) if isinstance(text, str) else text
        )
        for name, column in rows.select_dtypes(exclude=["number", "bool"]).items()
    }
    return rows.assign(**safe).to_csv(index=False, lineterminator="\n")


def to_json(rows: pd.DataFrame) -> str:
    """Rows as a JSON list of objects: fractions, null where there is no value."""
    rows = _for_export(rows)
    return json_text(rows.astype(object).where(rows.notna(), None).to_dict("records"))


def _for_export(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with ten significant digits in every float, since the last ones differ between
    processors; without the columns of shared speakers, means and kinds of blocks where no score
    has any, and of the method of intervals where it is the usual one.
    """
    if "mean" in rows and rows["mean"].isna().all():
        rows = rows.drop(columns="mean")
    if "block_kind" in rows and (rows["block_kind"] == "").all():
        rows = rows.drop(columns="block_kind")
    if "interval_method" in rows and (rows["interval_method"] != PERCENTILE).all():
        rows = rows.drop(columns="interval_method")
    if "shared_speakers" in rows:
        if (rows["shared_speakers"] > 0).any():
            rows = rows.astype({"shared_speakers": "Int64"})
        else:
            rows = rows.drop(columns="shared_speakers")
    floats = rows.select_dtypes("float64")
    rounded = {str(name): floats[name].map(lambda value: float(f"{value:.10g}")) for name in floats}
    return rows.assign(**rounded)
