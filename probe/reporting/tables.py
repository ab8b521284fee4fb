"""Tables of records: Markdown for people, CSV and JSON for programs.

Markdown is in percent with one decimal (codelengths in bits with two); CSV and JSON hold the values of the records.
"""

import json
import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from probe.files import write_atomically
from probe.records import OWN_HEAD
from probe.reporting.curves import layer_curves, missing_matplotlib
from probe.reporting.det import det_curves, det_rows
from probe.reporting.rows import budget_rows, check_comparable, layer_rows, one_line, summary_rows

__all__ = [
    "budget_rows",
    "check_comparable",
    "domain_matrices",
    "layer_rows",
    "search_table",
    "summary_rows",
    "to_csv",
    "to_json",
    "to_markdown",
    "write_tables",
]

DASH = "–"
INTERVAL = "% [95 % interval]"
BITS = "codelength"  # the metric that is not in percent
COMPARED = ["task", "corpus", "condition", "train_condition", "metric", "train_domain", "test_domain"]
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
    "note": "",
} | dict.fromkeys(SHAPE, DASH)
BESIDE = ("weighted", "majority", "shuffled", "fbank", "random")
ALIGNED_RIGHT = {"layer", INTERVAL, "dev", "last (layer)", "final", "selectivity", "n", "blocks", *BESIDE, *SHAPE}

TABLE_HEAD = """# Scores

Test scores at the layer that is best on dev. `last` is the highest numbered layer, `final` the output after the final LayerNorm.
`weighted` is a learned sum of all layers. Baselines at the same place: `majority`, always the most frequent training label;
`shuffled`, trained on shuffled labels; `fbank` and `random`, filter banks and the same architecture with random weights.
`selectivity` is the score less that of labels drawn at random for each type. Codelengths are in bits per label, all else in percent.
Bold is the highest (↑) or lowest (↓) of the models and says nothing of significance: look at the intervals.

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
    bold = [False] * len(rows) if layers else list(_best(rows))
    metrics = list(rows["metric"])
    columns = {
        "task": _names(rows["task"]),
        "corpus": _names(rows["corpus"]),
        "condition": _names(rows["condition"]),
        "train condition": _names(rows["train_condition"]),
        "train domain": _names(rows["train_domain"]),
        "test domain": _names(rows["test_domain"]),
        "metric": [f"{escaped(cell['metric'])} {_arrow(cell['higher_is_better'])}" for cell in cells],
        "model": _names(rows["model"]),
        "head": _names(rows["head"]),
        "layer": _names(rows["layer"].fillna(DASH)),
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
    columns |= {"n": [str(cell["n"]) for cell in cells], "blocks": [str(cell["n_blocks"]) for cell in cells]}
    columns["note"] = _names(rows["note"])
    shown = {name: column for name, column in columns.items() if set(column) != {LEFT_OUT_IF_ALL.get(name)}}
    if len(set(columns["corpus"])) == 1:
        del shown["corpus"]
    return _table(shown)


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
        tables.append(f"{', '.join(_names(map(str, names)))}: every setting that was tried\n\n{_table(columns)}")
    return "\n".join(tables)


def to_csv(rows: pd.DataFrame) -> str:
    """Rows as CSV: fractions, an empty field where there is no value."""
    return rows.to_csv(index=False, lineterminator="\n")


def to_json(rows: pd.DataFrame) -> str:
    """Rows as a JSON list of objects: fractions, null where there is no value."""
    objects = rows.astype(object).where(rows.notna(), None).to_dict("records")
    return json.dumps(objects, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def domain_matrices(records: pd.DataFrame) -> str:
    """One Markdown matrix (train x test domain) per model, task and metric; empty without cross-domain records.

    Raises:
        ProbeError: see `check_comparable`.
    """
    rows = summary_rows(records)
    rows = rows[(rows["train_domain"] != "") & (rows["metric"] != BITS)]
    groups = rows.groupby(["task", "corpus", "condition", "train_condition", "metric", "model", "head"], sort=False)
    return "\n".join(_matrix(cells) for _, cells in groups)


def budget_curves(rows: pd.DataFrame) -> str:
    """One Markdown table (layer x budget) per model, task and metric, from the rows of `budget_rows`."""
    tables = []
    of_table = ["metric", "train_condition", "task", "corpus", "condition", "train_domain", "test_domain", "model", "head"]
    for names, cells in rows.groupby(of_table, sort=False):
        budgets = cells.drop_duplicates("budget").sort_values("n_train")
        columns = {"layer": _names(dict.fromkeys(cells["layer"]))}
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
        tables.append(
            f"## {', '.join(filter(None, _names(map(str, title))))} {_arrow(cells['higher_is_better'].iloc[0])}\n\n{_table(columns)}"
        )
    return "\n".join(tables)


def write_tables(records: pd.DataFrame, to: Path, axis: str = "index") -> list[Path]:
    """The files written into the folder ``to`` from records (see `probe.records.read_records`).

    ``table`` and ``layers`` as ``.md`` and ``.csv``; ``domains.md`` if a task crosses domains; ``budgets`` as ``.md`` and ``.csv`` if
    there are learning curves; ``curves.png`` and ``.svg``, and ``det.png`` and ``.svg`` of verification, if there is something to
    draw and matplotlib is installed (`missing_matplotlib` says). One of these that is left out is removed, so that no file of
    another run stands beside the new ones.

    Args:
        axis: of the curves, see `probe.reporting.curves.layer_curves`.

    Raises:
        ProbeError: see `check_comparable`.
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
    to.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        if text:
            write_atomically(to / name, text.encode())
        else:
            (to / name).unlink(missing_ok=True)
    curves, trade_offs, of_trials = (to / "curves.png", to / "curves.svg"), (to / "det.png", to / "det.svg"), det_rows(records)
    drawn = not missing_matplotlib()
    if drawn and (layers["headline"] & layers["value"].notna()).any():
        layer_curves(records, *curves, axis)
    else:
        _remove(curves)
    if drawn and len(of_trials):
        det_curves(of_trials, *trade_offs)
    else:
        _remove(trade_offs)
    return [path for path in [*(to / name for name in texts), *curves, *trade_offs] if path.exists()]


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _best(rows: pd.DataFrame) -> "pd.Series[bool]":
    """True where a row's value, as printed, is the best of several models; equal values are all best.

    A checkpoint's own head is a reference outside the contest: it was trained on other data than the probes.
    """
    rows = rows.assign(value=rows["value"].where(rows["head"] != OWN_HEAD))
    keys = [rows[name] for name in COMPARED]
    printed = (100 * rows["value"]).round(1).where(rows["metric"] != BITS, rows["value"].round(2))
    score = printed.where(rows["higher_is_better"].astype(bool), -printed)
    several = rows["model"].where(rows["value"].notna()).groupby(keys).transform("nunique") > 1
    return several & (score == score.groupby(keys).transform("max"))


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
        return _percent(there) + (f" ({_points(gap)})" if train != test and not math.isnan(gap) else "")

    columns = {"train \\ test": _names(trains), "layer": _names(layer.get(train, DASH) for train in trains)}
    columns |= {escaped(test): [shown(train, test) for train in trains] for test in tests}
    title = [first[name] for name in ("model", "task", "corpus", "condition", "head", "metric")]
    notes = [
        f"* {' → '.join(_names([cell['train_domain'], cell['test_domain']]))}: {escaped(cell['note'])}\n"
        for cell in cells
        if cell["note"]
    ]
    heading = f"## {', '.join(_names(title))} {_arrow(first['higher_is_better'])}\n\n"
    return heading + _table(columns) + ("\n" + "".join(notes) if notes else "")


def _table(columns: Mapping[str, Sequence[str]]) -> str:
    """Aligned Markdown; the cells are escaped already."""
    lines = [list(columns), *map(list, zip(*columns.values(), strict=True))]
    right = [name in ALIGNED_RIGHT for name in columns]
    widths = [max(3, *map(len, cells)) for cells in zip(*lines, strict=True)]
    rule = ["-" * (width - 1) + ":" if is_right else "-" * width for width, is_right in zip(widths, right, strict=True)]
    padded = [
        [cell.rjust(width) if is_right else cell.ljust(width) for cell, width, is_right in zip(line, widths, right, strict=True)]
        for line in lines
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in [padded[0], rule, *padded[1:]])


def _interval(metric: str, value: float, low: float, high: float, bold: bool) -> str:
    shown = f"**{_value(metric, value)}**" if bold else _value(metric, value)
    if any(map(math.isnan, (value, low, high))):
        return shown
    return f"{shown} [{_value(metric, low)}, {_value(metric, high)}]"


def _gain(value: float, low: float, high: float) -> str:
    """A difference in points."""
    if math.isnan(value):
        return DASH
    return _points(value) + ("" if math.isnan(low) else f" [{_points(low)}, {_points(high)}]")


def _values(metrics: Sequence[str], values: Iterable[float]) -> list[str]:
    return [_value(metric, value) for metric, value in zip(metrics, values, strict=True)]


def _value(metric: str, value: float) -> str:
    """Bits of a codelength, percent of everything else."""
    return f"{value:.2f}" if metric == BITS and not math.isnan(value) else _percent(value)


def _arrow(higher_is_better: bool) -> str:
    return "↑" if higher_is_better else "↓"


def _percent(fraction: float) -> str:
    return DASH if math.isnan(fraction) else f"{round(100 * fraction, 1) + 0.0:.1f}"  # + 0.0: no "-0.0"


def _shape(value: float, form: str) -> str:
    return DASH if math.isnan(value) else form.format(value).removesuffix("%")


def _points(gap: float) -> str:
    return f"{round(100 * gap, 1) + 0.0:+.1f}"


def _names(values: Iterable[str]) -> list[str]:
    return [escaped(value) for value in values]


def escaped(text: str) -> str:
    r"""``text`` as one Markdown cell: on one line, ``|`` and what else has a meaning there behind a backslash."""
    return re.sub(r"([\\|<`*])", r"\\\1", one_line(text))
