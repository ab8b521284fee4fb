"""Tables of records: what `probe table` prints and writes.

Markdown, LaTeX and HTML are in percent with one decimal (codelengths in bits with two); CSV and
JSON hold the values of the records.
"""

import logging
import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.files import write_atomically
from probe.reporting.domain_gaps import crossed
from probe.reporting.figures.conditions import conditions_figure
from probe.reporting.figures.det import det_figure, det_rows
from probe.reporting.figures.layers import curves_figure, usual_rows
from probe.reporting.figures.style import missing_matplotlib, write_figure
from probe.reporting.filters import comparable
from probe.reporting.losses import CONDITIONS, GAPS, GROUPS, Losses, chosen_rows
from probe.reporting.rows import BUDGETS, LAYERS, SUMMARY, budget_rows, layer_rows, summary_rows
from probe.reporting.scores import Scores
from probe.reporting.tables import grid
from probe.reporting.tables.cells import DASH, INTERVAL, arrow, escaped, points
from probe.reporting.tables.grid import Cell, Column, Grid, csv_text, json_text, of_columns, score
from probe.reporting.tables.robustness_tables import HEAD as ROBUSTNESS_HEAD
from probe.reporting.tables.robustness_tables import LAYERS_HEAD as ROBUSTNESS_LAYERS_HEAD
from probe.reporting.tables.robustness_tables import every_layer
from probe.reporting.tables.robustness_tables import summary as summary_of
from probe.reporting.ties import BITS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "budget_rows",
    "domain_matrices",
    "layer_rows",
    "search_table",
    "summary_rows",
    "to_csv",
    "to_json",
    "to_markdown",
    "write_robustness",
    "write_tables",
]

log = logging.getLogger("probe")

# Columns of every layer's features -> the column of `layer_rows`, and how it is printed.
SHAPE = {
    "depth": ("depth", "{:.2f}"),
    "rms": ("rms", "{:.3g}"),
    "rank": ("effective_rank", "{:.0f}"),
    "anisotropy": ("anisotropy", "{:.2f}"),
    "outliers %": ("outlier_dims", "{:.1%}"),
}
LEFT_OUT_IF_ALL = {
    "condition": "clean",
    "train condition": "clean",
    "train domain": "",
    "test domain": "",
    "dev": DASH,
    "last (layer)": DASH,
    "final": DASH,
    "weighted": DASH,
    "majority": DASH,
    "shuffled": DASH,
    "selectivity": DASH,
    "fbank": DASH,
    "random": DASH,
    "seeds": "1",
    "note": "",
} | dict.fromkeys(SHAPE, DASH)
NAMES = ("task", "corpus", "condition", "train_condition", "train_domain", "test_domain")
BESIDE = ("weighted", "majority", "shuffled", "fbank", "random")
ALIGNED_RIGHT = {
    "layer",
    INTERVAL,
    "dev",
    "last (layer)",
    "final",
    "selectivity",
    "n",
    "blocks",
    "seeds",
    *BESIDE,
    *SHAPE,
}

TABLE_HEAD = """# Scores

Test scores at the layer that is best on dev. `last` is the highest numbered layer, `final` the output after the final LayerNorm.
`weighted` is a learned sum of all layers. Baselines at the same place: `majority`, always the most frequent training label;
`shuffled`, trained on shuffled labels; `fbank` and `random`, filter banks and the same architecture with random weights.
`selectivity` is the score less that of labels drawn at random for each type. Codelengths are in bits per label, all else in percent.
Bold is the highest (↑) or lowest (↓) of the models; `mark` in the CSV says which are tied with it: not shown to be worse.

"""
LAYERS_HEAD = """# Scores of every layer

Test scores, beside them the dev score by which the layer marked ✓ was chosen (or, for another metric, its own dev score).

"""
BUDGETS_HEAD = """# With fewer labels

Test scores of every layer, one column per budget of training labels; in parentheses how many utterances or frames that is. ✓ marks
the layer that is best on dev with that budget.

"""
SHAPE_HEAD = """`depth` is relative, 1 the last block. Of a layer's training rows, in the task's view: `rms`, effective `rank`,
`anisotropy` (mean cosine of two rows), `outliers` (dimensions whose rms is above the others' by three standard deviations).

"""
DOMAINS_HEAD = """# Across domains

Test scores in percent: one row per train domain, at the layer that is best on the dev data of that domain; in parentheses the
gap to the in-domain score of the row, in points, positive where the score is worse out of domain.

"""

# Name of a file that may be left out -> how it begins where it is written.
BEGINNINGS = {
    "domains.md": DOMAINS_HEAD,
    "budgets.md": BUDGETS_HEAD,
    "budgets.csv": ",".join(BUDGETS[: BUDGETS.index("few")]),
    "robustness.md": ROBUSTNESS_HEAD,
    "robustness_layers.md": ROBUSTNESS_LAYERS_HEAD,
    "robustness.csv": ",".join(CONDITIONS[: CONDITIONS.index("shared_speakers")]),
    "robustness_layers.csv": ",".join(CONDITIONS[: CONDITIONS.index("shared_speakers")]),
    "robustness_gaps.csv": ",".join(GAPS),
    "robustness_groups.csv": ",".join(GROUPS),
}


def to_markdown(rows: pd.DataFrame, layers: bool) -> str:
    """A Markdown table in percent, aligned for the terminal too; see `grid_of`."""
    return grid.to_markdown([grid_of(rows, layers)]) if len(rows) else "No test scores.\n"


def layers_by_question(rows: pd.DataFrame) -> str:
    """A Markdown table of every model's layers per question and metric, from the rows of
    `layer_rows`.
    """
    questions = [cells for _, cells in rows.groupby([*NAMES, "metric"], sort=False)]
    return grid.to_markdown(
        [grid_of(cells, True, titled=True) for cells in questions]
    ) or to_markdown(rows, True)


def grid_of(rows: pd.DataFrame, layers: bool, titled: bool = False) -> Grid:
    """Rows as a table in percent, with the uninformative columns left out.

    Args:
        rows: of `summary_rows`, or of `layer_rows` if ``layers``.
        layers: ticks the chosen layers; otherwise the best of several models is marked.
        titled: what is asked stands in the title instead of columns; it is that of the first row.
    """
    cells: list[dict[Hashable, Any]] = rows.to_dict("records")
    metrics = list(rows["metric"])
    marks = [""] * len(rows) if layers else list(rows["mark"])
    columns: dict[str, Iterable[Cell | str]] = {
        name.replace("_", " "): rows[name] for name in NAMES
    }
    columns["metric"] = [f"{cell['metric']} {arrow(cell['higher_is_better'])}" for cell in cells]
    columns |= {"model": rows["model"], "head": rows["head"], "layer": rows["layer"].fillna(DASH)}
    columns[INTERVAL] = [
        score(
            *(cell["metric"], cell["value"], cell["low"], cell["high"], mark),
            few=cell["few"],
            shared=cell["shared_speakers"] > 0,
        )
        for cell, mark in zip(cells, marks, strict=True)
    ]
    if layers:
        columns["dev"] = _values(metrics, rows["dev_value"])
        columns["chosen"] = ["✓" if cell["chosen"] else "" for cell in cells]
        columns |= {
            name: [_shape(cell[of], form) for cell in cells] for name, (of, form) in SHAPE.items()
        }
    else:
        columns["last (layer)"] = [
            score(
                cell["metric"],
                cell["last_value"],
                aside="" if math.isnan(cell["last_value"]) else f"({cell['last_layer']})",
            )
            for cell in cells
        ]
        columns["final"] = _values(metrics, rows["final_value"])
        columns["weighted"] = _values(metrics, rows["weighted_value"])
        columns |= {name: _values(metrics, rows[name]) for name in BESIDE[1:]}
        columns["selectivity"] = [
            _gain(cell["selectivity"], cell["selectivity_low"], cell["selectivity_high"])
            for cell in cells
        ]
    columns |= {"n": map(str, rows["n"]), "seeds": map(str, rows["n_seeds"])}
    columns["blocks"] = map(str, rows["n_blocks"])
    columns["note"] = rows["note"]
    if rows["corpus"].nunique() == 1:
        del columns["corpus"]
    about: dict[str, Any] = {}
    if titled:
        columns = {
            name: column
            for name, column in columns.items()
            if name.replace(" ", "_") not in (*NAMES, "metric")
        }
        about = {"of": _question(cells[0]), "better": cells[0]["higher_is_better"]}
    named = {Column(name, number=name in ALIGNED_RIGHT): column for name, column in columns.items()}
    return of_columns(named, LEFT_OUT_IF_ALL, **about)


def _question(row: Mapping[Hashable, Any]) -> dict[str, str]:
    """What is asked, as a table's title has it."""
    heard = row["train_condition"]
    return {name: row[name] for name in ("task", "corpus", "condition")} | {
        "train_condition": "" if heard == "clean" else f"trained on {heard}",
        "domains": " → ".join(filter(None, (row["train_domain"], row["test_domain"]))),
        "metric": row["metric"],
    }


def search_table(records: pd.DataFrame) -> str:
    """Every setting that was tried with its dev scores, the one that dev picked marked ✓, as
    Markdown; empty without a search.
    """
    of_task = (records["split"] == "dev") & (records["control"] == "") & (records["budget"] == "")
    tried = records[of_task & (records["search"].map(len) > 0)].sort_values(
        "layer_index", kind="stable"
    )
    tables = []
    for names, group in tried.groupby(["model", "task", "head"], sort=False):
        lines = []
        for row in group.drop_duplicates(["layer", "train_domain"]).to_dict("records"):
            where = {"train domain": row["train_domain"], "layer": row["layer"]}
            for entry in row["search"]:
                picked = all(
                    entry.get(name) == value
                    for name, value in row["chosen"].items()
                    if name in entry
                )
                lines.append(
                    where
                    | {name: f"{value:.4g}" for name, value in entry.items()}
                    | {"picked": "✓" if picked else ""}
                )
        columns = {
            Column(name, number=name in ALIGNED_RIGHT): [str(line.get(name, "")) for line in lines]
            for name in lines[0]
        }
        table = grid.to_markdown([of_columns(columns, {"train domain": ""})])
        tables.append(
            f"{escaped(', '.join(map(str, names)))}: every setting that was tried\n\n{table}"
        )
    return "\n".join(tables)


def to_csv(rows: pd.DataFrame, excel_safe: bool = False) -> str:
    """Rows as CSV: fractions, an empty field where there is no value; texts as
    `probe.reporting.tables.grid.csv_text` writes them.
    """
    rows = _without_unshared(rows)
    texts = rows.select_dtypes(exclude=["number", "bool"])
    safe = {
        str(name): column.map(
            lambda text: csv_text(text, excel_safe) if isinstance(text, str) else text
        )
        for name, column in texts.items()
    }
    return _ten_digits(rows).assign(**safe).to_csv(index=False, lineterminator="\n")


def to_json(rows: pd.DataFrame) -> str:
    """Rows as a JSON list of objects: fractions, null where there is no value."""
    rows = _without_unshared(rows)
    objects = _ten_digits(rows).astype(object).where(rows.notna(), None).to_dict("records")
    return json_text(objects)


def _without_unshared(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with whole numbers of shared speakers; without that column where no score has any."""
    if "shared_speakers" not in rows:
        return rows
    if not (rows["shared_speakers"] > 0).any():
        return rows.drop(columns="shared_speakers")
    return rows.astype({"shared_speakers": "Int64"})


def _ten_digits(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with ten significant digits in every float: the last ones differ between processors, and
    a table should not.
    """
    floats = rows.select_dtypes("float64")
    return rows.assign(
        **{
            str(name): column.map(lambda value: float(f"{value:.10g}"))
            for name, column in floats.items()
        }
    )


def domain_matrices(records: pd.DataFrame, layers: bool = False) -> str:
    """`domain_grids` as Markdown; empty without cross-domain records."""
    return grid.to_markdown(domain_grids(records, layers))


def domain_grids(records: pd.DataFrame, layers: bool = False) -> list[Grid]:
    """One matrix (train x test domain) per model, task and metric, with the gap to the score at
    home beside each score.

    Conditions are domains where a task was trained under several, see
    `probe.reporting.domain_gaps.crossed`.

    Args:
        layers: a matrix of every layer instead of one at the layers that dev chose.

    Raises:
        ProbeError: see `probe.reporting.comparable_files.comparable`.
    """
    rows = domain_rows(records, layers)
    places = [
        "task",
        "corpus",
        "condition",
        "train_condition",
        "metric",
        "model",
        "head",
        *(["layer"] if layers else []),
    ]
    return [_matrix(cells) for _, cells in rows.groupby(places, sort=False)]


def domain_rows(records: pd.DataFrame, layers: bool = False) -> pd.DataFrame:
    """The rows of `domain_grids`: those of `summary_rows` or `layer_rows` that cross domains,
    without codelengths.
    """
    records = crossed(records)
    records = records[records["train_domain"] != ""]
    if records.empty:
        return pd.DataFrame(columns=LAYERS if layers else SUMMARY)
    rows = layer_rows(records) if layers else summary_rows(records)
    return rows[rows["metric"] != BITS]


def domains_text(grids: Sequence[Grid]) -> str:
    """The Markdown of ``domains.md`` from `domain_grids`; empty without any."""
    return DOMAINS_HEAD + grid.to_markdown(grids) if grids else ""


def budget_grids(rows: pd.DataFrame) -> list[Grid]:
    """One table (layer x budget) per model, task and metric, from the rows of `budget_rows`; the
    layers that dev chose are ticked.
    """
    tables = []
    of_table = [
        "metric",
        "train_condition",
        "task",
        "corpus",
        "condition",
        "train_domain",
        "test_domain",
        "model",
        "head",
    ]
    for names, cells in rows.groupby(of_table, sort=False):
        budgets = cells.drop_duplicates("budget").sort_values("n_train")
        layers = list(dict.fromkeys(cells["layer"]))
        columns: dict[Column, Iterable[Cell | str]] = {Column("layer", number=True): layers}
        for budget, n_train in zip(budgets["budget"], budgets["n_train"], strict=True):
            there = {
                row["layer"]: row for row in cells[cells["budget"] == budget].to_dict("records")
            }
            columns[Column(f"{budget or 'all'} ({n_train})")] = [
                score(
                    *(
                        str(names[0]),
                        row["value"],
                        row["low"],
                        row["high"],
                        "",
                        "✓" if row["chosen"] else "",
                    ),
                    few=row["few"],
                    shared=row["shared_speakers"] > 0,
                )
                if (row := there.get(layer))
                else DASH
                for layer in layers
            ]
        of = dict(zip(of_table, map(str, names), strict=True))
        heard = of.pop("train_condition")
        of = {name: of[name] for name in of_table[2:]} | {"metric": of["metric"]}
        tables.append(
            of_columns(
                columns,
                of=of | {"train_condition": "" if heard == "clean" else f"trained on {heard}"},
                better=bool(cells["higher_is_better"].iloc[0]),
                aside="chosen",
            )
        )
    return tables


def write_tables(
    records: pd.DataFrame, to: Path, axis: str = "index", baseline: str | None = None
) -> list[Path]:
    """The files written into the folder ``to`` from records (see `probe.records.read_records`).

    ``table`` and ``layers`` as ``.md`` and ``.csv``; ``domains.md`` if a task crosses domains;
    ``budgets`` as ``.md`` and ``.csv`` if there are learning curves; ``robustness`` as ``.md`` and
    ``.csv``, with ``robustness_layers``, ``robustness_gaps.csv`` and ``robustness_groups.csv``, if
    there are several conditions or domains; ``curves.png`` and ``.svg``, ``det.png`` and ``.svg``
    of verification, and ``robustness.png`` and ``.svg``, if there is something to draw and
    matplotlib is installed (`missing_matplotlib` says). One of these that is left out is removed if
    an earlier run wrote it, so that none stands beside the new ones; a file of this name that
    begins otherwise is left with a warning.

    Args:
        axis: of the curves, see `probe.reporting.figures.layers`.
        baseline: of the robustness tables, see `probe.reporting.model_robustness.baseline_of`.

    Raises:
        ProbeError: there are no records.
        OSError: a file cannot be written.
    """
    found = Losses(Scores.of(records), baseline)  # it takes its own choice of several samplings
    records = comparable(records)
    summary, layers, domains, budgets = (
        summary_rows(records),
        layer_rows(records),
        domain_grids(records),
        budget_rows(records),
    )
    has_shape = bool(layers[[column for column, _ in SHAPE.values()]].notna().any(axis=None))
    texts = {
        "table.md": TABLE_HEAD + to_markdown(summary, layers=False),
        "table.csv": to_csv(summary),
        "layers.md": LAYERS_HEAD + SHAPE_HEAD * has_shape + layers_by_question(layers),
        "layers.csv": to_csv(layers),
        "domains.md": domains_text(domains),
        "budgets.md": BUDGETS_HEAD + grid.to_markdown(budget_grids(budgets))
        if len(budgets)
        else "",
        "budgets.csv": to_csv(budgets) if len(budgets) else "",
    }
    curves, trade_offs = [[to / f"{name}.png", to / f"{name}.svg"] for name in ("curves", "det")]
    there, of_trials = bool((layers["headline"] & layers["value"].notna()).any()), det_rows(records)
    return [
        *_write(to, texts, curves, there, lambda: curves_figure(usual_rows(layers), axis)),
        *_write(to, {}, trade_offs, len(of_trials) > 0, lambda: det_figure(of_trials)),
        *_write_robustness(found, to),
    ]


def write_robustness(records: pd.DataFrame, to: Path, baseline: str | None = None) -> list[Path]:
    """The files of the robustness tables: those of `write_tables` that are named so. Records may be
    of several samplings (seeds).

    Raises:
        ProbeError: see `probe.reporting.tables.robustness_tables.robustness`.
        OSError: a file cannot be written.
    """
    return _write_robustness(Losses(Scores.of(records), baseline), to)


def _write_robustness(found: Losses, to: Path) -> list[Path]:
    texts = {
        "robustness.md": "" if found.empty else summary_of(found),
        "robustness.csv": to_csv(found.at_chosen_layers) if len(found.conditions) else "",
        "robustness_layers.md": every_layer(found),
        "robustness_layers.csv": to_csv(found.conditions) if len(found.conditions) else "",
        "robustness_gaps.csv": to_csv(found.gaps) if len(found.gaps) else "",
        "robustness_groups.csv": "" if found.empty or found.groups.empty else to_csv(found.groups),
    }
    pictures = [to / "robustness.png", to / "robustness.svg"]
    there = len(chosen_rows(found.conditions)) > 0
    return _write(to, texts, pictures, there, lambda: conditions_figure(found.conditions))


def _write(
    to: Path,
    texts: Mapping[str, str],
    pictures: Sequence[Path],
    there: bool,
    draw: Callable[[], "Figure"],
) -> list[Path]:
    """The files that are written: texts that are not empty, pictures if there is something to draw
    and to draw with.

    The others are removed where they are `_ours`.
    """
    to.mkdir(parents=True, exist_ok=True)
    written = [to / name for name, text in texts.items() if text]
    for path in written:
        write_atomically(path, texts[path.name].encode())
    if there and not missing_matplotlib():
        write_figure(draw, *pictures)
        written += pictures
    for path in {*(to / name for name in texts), *pictures}.difference(written):
        if _ours(path):
            path.unlink()
        elif path.exists():
            log.warning(
                "%s: not of these records, and not one of this program's files as it writes them now: left as it is",
                path,
            )
    return written


def _ours(path: Path) -> bool:
    """Whether a file begins as those do that `write_tables` writes under this name; of a picture,
    whether it has our digest.
    """
    if not path.is_file():
        return False
    content = path.read_bytes()
    if path.suffix in (".png", ".svg"):
        return re.search(rb"data sha256 [0-9a-f]{64}", content) is not None
    return content.startswith(BEGINNINGS[path.name].encode())


def _matrix(rows: pd.DataFrame) -> Grid:
    """The matrix of one model, task and metric, with the reasons of empty cells below it."""
    cells: list[dict[Hashable, Any]] = rows.to_dict("records")
    first = cells[0]
    at = {(cell["train_domain"], cell["test_domain"]): cell for cell in cells}
    layer = {cell["train_domain"]: cell["layer"] for cell in cells if pd.notna(cell["layer"])}
    trains, tests = sorted({train for train, _ in at}), sorted({test for _, test in at})
    sign = 1 if first["higher_is_better"] else -1

    def value(train: str, test: str) -> float:
        return at[train, test]["value"] if (train, test) in at else math.nan

    def shown(train: str, test: str) -> Cell:
        there, gap = value(train, test), sign * (value(train, train) - value(train, test))
        aside = f"({points(gap)})" if train != test and not math.isnan(gap) else ""
        cell = at.get((train, test), {"few": False, "shared_speakers": 0})
        return score(
            first["metric"], there, aside=aside, few=cell["few"], shared=cell["shared_speakers"] > 0
        )

    columns: dict[Column, Iterable[Cell | str]] = {
        Column("train \\ test"): trains,
        Column("layer", number=True): [layer.get(train, DASH) for train in trains],
    }
    return of_columns(
        columns | {Column(test): [shown(train, test) for train in trains] for test in tests},
        of={
            name: first[name] for name in ("model", "task", "corpus", "condition", "head", "metric")
        },
        better=bool(first["higher_is_better"]),
        aside="gap",
        notes=[
            f"{cell['train_domain']} → {cell['test_domain']}: {cell['note']}"
            for cell in cells
            if cell["note"]
        ],
    )


def _gain(value: float, low: float, high: float) -> Cell:
    """A difference in points."""
    if math.isnan(value):
        return Cell(DASH)
    return Cell(
        points(value),
        "" if math.isnan(low) else f"[{points(low)}, {points(high)}]",
        value=value,
        low=low,
        high=high,
    )


def _values(metrics: Sequence[str], values: Iterable[float]) -> list[Cell]:
    return [score(metric, value) for metric, value in zip(metrics, values, strict=True)]


def _shape(value: float, form: str) -> Cell:
    return Cell(DASH if math.isnan(value) else form.format(value).removesuffix("%"), value=value)
