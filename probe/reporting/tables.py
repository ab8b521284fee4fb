"""Tables of records: Markdown for people, CSV and JSON for programs.

Markdown is in percent with one decimal (codelengths in bits with two); CSV and JSON hold the values of the records.
"""

import json
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from probe.files import write_atomically
from probe.measures.uncertainty import FEW_BLOCKS
from probe.reporting.cells import DASH, INTERVAL, arrow, escaped, escaped_all, markdown, percent, points
from probe.reporting.condition_curves import condition_curves
from probe.reporting.conditions import chosen_rows, first_sampling
from probe.reporting.curves import layer_curves, missing_matplotlib
from probe.reporting.det import det_curves, det_rows
from probe.reporting.domains import crossed
from probe.reporting.marks import BEST, BITS
from probe.reporting.robustness_tables import every_layer, robustness
from probe.reporting.robustness_tables import summary as summary_of
from probe.reporting.rows import budget_rows, check_comparable, layer_rows, summary_rows

__all__ = [
    "budget_rows",
    "check_comparable",
    "domain_matrices",
    "layer_rows",
    "robustness_text",
    "search_table",
    "summary_rows",
    "to_csv",
    "to_json",
    "to_markdown",
    "write_robustness",
    "write_tables",
]

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
BESIDE = ("weighted", "majority", "shuffled", "fbank", "random")
ALIGNED_RIGHT = {"layer", INTERVAL, "dev", "last (layer)", "final", "selectivity", "n", "blocks", "seeds", *BESIDE, *SHAPE}

FEW = " few"
FEW_LINE = f"\n`{FEW.strip()}`: fewer than {FEW_BLOCKS} blocks (speakers), so the interval is a rough one (docs/statistics.md).\n"
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


def to_markdown(rows: pd.DataFrame, layers: bool) -> str:
    """A Markdown table in percent, aligned for the terminal too, with the uninformative columns left out.

    Args:
        rows: of `summary_rows`, or of `layer_rows` if ``layers``.
        layers: marks the chosen layers; otherwise the best of several models is bold.
    """
    if rows.empty:
        return "No test scores.\n"
    cells: list[dict[Hashable, Any]] = rows.to_dict("records")
    bold = [False] * len(rows) if layers else list(rows["mark"] == BEST)
    metrics = list(rows["metric"])
    columns = {
        "task": escaped_all(rows["task"]),
        "corpus": escaped_all(rows["corpus"]),
        "condition": escaped_all(rows["condition"]),
        "train condition": escaped_all(rows["train_condition"]),
        "train domain": escaped_all(rows["train_domain"]),
        "test domain": escaped_all(rows["test_domain"]),
        "metric": [f"{escaped(cell['metric'])} {arrow(cell['higher_is_better'])}" for cell in cells],
        "model": escaped_all(rows["model"]),
        "head": escaped_all(rows["head"]),
        "layer": escaped_all(rows["layer"].fillna(DASH)),
        INTERVAL: [
            _interval(cell["metric"], cell["value"], cell["low"], cell["high"], is_bold)
            for cell, is_bold in zip(cells, bold, strict=True)
        ],
    }
    if layers:
        columns["dev"] = _values(metrics, rows["dev_value"])
        columns["chosen"] = ["✓" if cell["chosen"] else "" for cell in cells]
        columns |= {name: [_shape(cell[of], form) for cell in cells] for name, (of, form) in SHAPE.items()}
    else:
        columns["last (layer)"] = [
            DASH if math.isnan(cell["last_value"]) else f"{_value(cell['metric'], cell['last_value'])} ({cell['last_layer']})"
            for cell in cells
        ]
        columns["final"] = _values(metrics, rows["final_value"])
        columns["weighted"] = _values(metrics, rows["weighted_value"])
        columns |= {name: _values(metrics, rows[name]) for name in BESIDE[1:]}
        columns["selectivity"] = [_gain(cell["selectivity"], cell["selectivity_low"], cell["selectivity_high"]) for cell in cells]
    columns |= {name: [str(cell[of]) for cell in cells] for name, of in (("n", "n"), ("seeds", "n_seeds"))}
    columns["blocks"] = [f"{cell['n_blocks']}{FEW if cell['few'] else ''}" for cell in cells]
    columns["note"] = escaped_all(rows["note"])
    shown = {name: column for name, column in columns.items() if set(column) != {LEFT_OUT_IF_ALL.get(name)}}
    if len(set(columns["corpus"])) == 1:
        del shown["corpus"]
    return markdown(shown, ALIGNED_RIGHT) + (FEW_LINE if rows["few"].any() else "")


def search_table(records: pd.DataFrame) -> str:
    """Every setting that was tried with its dev scores, the one that dev picked marked ✓, as Markdown; empty without a search."""
    of_task = (records["split"] == "dev") & (records["control"] == "") & (records["budget"] == "")
    tried = records[of_task & (records["search"].map(len) > 0)].sort_values("layer_index", kind="stable")
    tables = []
    for names, group in tried.groupby(["model", "task", "head"], sort=False):
        lines = []
        for row in group.drop_duplicates(["layer", "train_domain"]).to_dict("records"):
            where = {"train domain": row["train_domain"], "layer": row["layer"]}
            for entry in row["search"]:
                picked = all(entry.get(name) == value for name, value in row["chosen"].items() if name in entry)
                lines.append(where | {name: f"{value:.4g}" for name, value in entry.items()} | {"picked": "✓" if picked else ""})
        columns = {name: [escaped(str(line.get(name, ""))) for line in lines] for name in lines[0]}
        if not any(columns["train domain"]):
            del columns["train domain"]
        tables.append(
            f"{', '.join(escaped_all(map(str, names)))}: every setting that was tried\n\n{markdown(columns, ALIGNED_RIGHT)}"
        )
    return "\n".join(tables)


def to_csv(rows: pd.DataFrame) -> str:
    """Rows as CSV: fractions, an empty field where there is no value."""
    return rows.to_csv(index=False, lineterminator="\n")


def to_json(rows: pd.DataFrame) -> str:
    """Rows as a JSON list of objects: fractions, null where there is no value."""
    objects = rows.astype(object).where(rows.notna(), None).to_dict("records")
    return json.dumps(objects, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def domain_matrices(records: pd.DataFrame, layers: bool = False) -> str:
    """One Markdown matrix (train x test domain) per model, task and metric; empty without cross-domain records.

    Conditions are domains where a task was trained under several, see `probe.reporting.domains.crossed`.

    Args:
        layers: a matrix of every layer instead of one at the layers that dev chose.

    Raises:
        ProbeError: see `check_comparable`.
    """
    records = crossed(records)
    rows = layer_rows(records) if layers else summary_rows(records)
    rows = rows[(rows["train_domain"] != "") & (rows["metric"] != BITS)]
    places = ["task", "corpus", "condition", "train_condition", "metric", "model", "head", *(["layer"] if layers else [])]
    return "\n".join(_matrix(cells) for _, cells in rows.groupby(places, sort=False))


def robustness_text(
    records: pd.DataFrame, form: str, layers: bool = False, baseline: str | None = None, all_heads: bool = False
) -> str:
    """The robustness tables as ``md``, ``csv`` or ``json``; of every layer, with a domain matrix each, if ``layers``.

    Records may be of several samplings (seeds).

    Raises:
        ProbeError: see `probe.reporting.robustness_tables.robustness`.
    """
    found = robustness(records, baseline, all_heads)
    if form != "md":
        return (to_csv if form == "csv" else to_json)(found.layers if layers else found.chosen)
    if not layers:
        return summary_of(found)
    matrices = domain_matrices(first_sampling(records), layers=True)
    parts = [every_layer(found), DOMAINS_HEAD + matrices if matrices else ""]
    return "\n".join(filter(None, parts)) or summary_of(found)


def budget_curves(rows: pd.DataFrame) -> str:
    """One Markdown table (layer x budget) per model, task and metric, from the rows of `budget_rows`."""
    tables = []
    of_table = ["metric", "train_condition", "task", "corpus", "condition", "train_domain", "test_domain", "model", "head"]
    for names, cells in rows.groupby(of_table, sort=False):
        budgets = cells.drop_duplicates("budget").sort_values("n_train")
        columns = {"layer": escaped_all(dict.fromkeys(cells["layer"]))}
        for budget, n_train in zip(budgets["budget"], budgets["n_train"], strict=True):
            there = cells[cells["budget"] == budget].set_index("layer")
            columns[f"{escaped(budget) or 'all'} ({n_train})"] = [
                (_value(str(names[0]), there["value"][layer]) + (" ✓" if there["chosen"][layer] else ""))
                if layer in there.index
                else DASH
                for layer in columns["layer"]
            ]
        metric, heard, *title = names
        title = [*title, metric, "" if heard == "clean" else f"trained on {heard}"]
        heading = f"## {', '.join(filter(None, escaped_all(map(str, title))))} {arrow(cells['higher_is_better'].iloc[0])}"
        tables.append(f"{heading}\n\n{markdown(columns, ALIGNED_RIGHT)}")
    return "\n".join(tables)


def write_tables(records: pd.DataFrame, to: Path, axis: str = "index", baseline: str | None = None) -> list[Path]:
    """The files written into the folder ``to`` from records (see `probe.records.read_records`).

    ``table`` and ``layers`` as ``.md`` and ``.csv``; ``domains.md`` if a task crosses domains; ``budgets`` as ``.md`` and ``.csv`` if
    there are learning curves; ``robustness`` as ``.md`` and ``.csv``, with ``robustness_layers``, ``robustness_gaps.csv`` and
    ``robustness_groups.csv``, if there are several conditions or domains; ``curves.png`` and ``.svg``, ``det.png`` and ``.svg`` of
    verification, and ``robustness.png`` and ``.svg``, if there is something to draw and matplotlib is installed
    (`missing_matplotlib` says). One of these that is left out is removed, so that no file of another run stands beside the new ones.

    Args:
        axis: of the curves, see `probe.reporting.curves.layer_curves`.
        baseline: of the robustness tables, see `probe.reporting.robustness.baseline_of`.

    Raises:
        ProbeError: see `check_comparable`, and `probe.reporting.conditions.check_conditions`.
        OSError: a file cannot be written.
    """
    summary, layers, domains, budgets = summary_rows(records), layer_rows(records), domain_matrices(records), budget_rows(records)
    has_shape = bool(layers[[column for column, _ in SHAPE.values()]].notna().any(axis=None))
    texts = {
        "table.md": TABLE_HEAD + to_markdown(summary, layers=False),
        "table.csv": to_csv(summary),
        "layers.md": LAYERS_HEAD + SHAPE_HEAD * has_shape + to_markdown(layers, layers=True),
        "layers.csv": to_csv(layers),
        "domains.md": DOMAINS_HEAD + domains if domains else "",
        "budgets.md": BUDGETS_HEAD + budget_curves(budgets) if len(budgets) else "",
        "budgets.csv": to_csv(budgets) if len(budgets) else "",
    }
    curves, trade_offs = [[to / f"{name}.png", to / f"{name}.svg"] for name in ("curves", "det")]
    there, of_trials = bool((layers["headline"] & layers["value"].notna()).any()), det_rows(records)
    return [
        *_write(to, texts, curves, there, lambda: layer_curves(records, curves[0], curves[1], axis)),
        *_write(to, {}, trade_offs, len(of_trials) > 0, lambda: det_curves(of_trials, trade_offs[0], trade_offs[1])),
        *write_robustness(records, to, baseline),
    ]


def write_robustness(records: pd.DataFrame, to: Path, baseline: str | None = None) -> list[Path]:
    """The files of the robustness tables: those of `write_tables` that are named so. Records may be of several samplings (seeds).

    Raises:
        ProbeError: see `probe.reporting.robustness_tables.robustness`.
        OSError: a file cannot be written.
    """
    found = robustness(records, baseline)
    texts = {
        "robustness.md": "" if found.empty else summary_of(found),
        "robustness.csv": to_csv(found.chosen) if len(found.layers) else "",
        "robustness_layers.md": every_layer(found),
        "robustness_layers.csv": to_csv(found.layers) if len(found.layers) else "",
        "robustness_gaps.csv": to_csv(found.gaps) if len(found.gaps) else "",
        "robustness_groups.csv": "" if found.empty or found.groups.empty else to_csv(found.groups),
    }
    pictures = [to / "robustness.png", to / "robustness.svg"]
    there = len(chosen_rows(found.layers)) > 0
    return _write(to, texts, pictures, there, lambda: condition_curves(found.layers, pictures[0], pictures[1]))


def _write(to: Path, texts: Mapping[str, str], pictures: Sequence[Path], there: bool, draw: Callable[[], None]) -> list[Path]:
    """The files that are written: texts that are not empty, pictures if there is something to draw and to draw with.

    The others are removed.
    """
    to.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        if text:
            write_atomically(to / name, text.encode())
        else:
            (to / name).unlink(missing_ok=True)
    if there and not missing_matplotlib():
        draw()
    else:
        for path in pictures:
            path.unlink(missing_ok=True)
    return [path for path in [*(to / name for name in texts), *pictures] if path.exists()]


def _matrix(rows: pd.DataFrame) -> str:
    """The matrix of one model, task and metric, with the reasons of empty cells below it."""
    cells: list[dict[Hashable, Any]] = rows.to_dict("records")
    first = cells[0]
    value = {(cell["train_domain"], cell["test_domain"]): cell["value"] for cell in cells}
    layer = {cell["train_domain"]: cell["layer"] for cell in cells if pd.notna(cell["layer"])}
    trains, tests = sorted({train for train, _ in value}), sorted({test for _, test in value})
    sign = 1 if first["higher_is_better"] else -1

    def shown(train: str, test: str) -> str:
        there, at_home = value.get((train, test), math.nan), value.get((train, train), math.nan)
        gap = sign * (at_home - there)
        return percent(there) + (f" ({points(gap)})" if train != test and not math.isnan(gap) else "")

    columns = {"train \\ test": escaped_all(trains), "layer": escaped_all(layer.get(train, DASH) for train in trains)}
    columns |= {escaped(test): [shown(train, test) for train in trains] for test in tests}
    title = list(filter(None, (first[name] for name in ("model", "task", "corpus", "condition", "head", "metric"))))
    notes = [
        f"* {' → '.join(escaped_all([cell['train_domain'], cell['test_domain']]))}: {escaped(cell['note'])}\n"
        for cell in cells
        if cell["note"]
    ]
    heading = f"## {', '.join(escaped_all(title))} {arrow(first['higher_is_better'])}\n\n"
    return heading + markdown(columns, ALIGNED_RIGHT) + ("\n" + "".join(notes) if notes else "")


def _interval(metric: str, value: float, low: float, high: float, bold: bool) -> str:
    shown = f"**{_value(metric, value)}**" if bold else _value(metric, value)
    if any(map(math.isnan, (value, low, high))):
        return shown
    return f"{shown} [{_value(metric, low)}, {_value(metric, high)}]"


def _gain(value: float, low: float, high: float) -> str:
    """A difference in points."""
    if math.isnan(value):
        return DASH
    return points(value) + ("" if math.isnan(low) else f" [{points(low)}, {points(high)}]")


def _values(metrics: Sequence[str], values: Iterable[float]) -> list[str]:
    return [_value(metric, value) for metric, value in zip(metrics, values, strict=True)]


def _value(metric: str, value: float) -> str:
    """Bits of a codelength, percent of everything else."""
    return f"{value:.2f}" if metric == BITS and not math.isnan(value) else percent(value)


def _shape(value: float, form: str) -> str:
    return DASH if math.isnan(value) else form.format(value).removesuffix("%")
