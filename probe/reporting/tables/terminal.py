"""The table for a terminal: one line for each task and model, cut to the width of the screen."""

import math
import textwrap
import unicodedata
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from probe.data.conditions.grammar import CLEAN
from probe.measures.comparison import AT_CHANCE
from probe.measures.metrics import metric_of
from probe.reporting.layer_choices import choice_notes, with_choice
from probe.reporting.scores import Scores, interval_notes, seed_notes
from probe.reporting.tables.grid import SHARED_NOTE, few_notes, score_of
from probe.reporting.text import DASH, metric_text, one_line
from probe.reporting.ties import IN_SET, NOT_TESTED, NOT_TESTED_NOTE, SET

NARROWEST = 10  # of a column of names
READABLE = 16  # of models beside their tasks
INDENT = "  "  # of models below their task
GAP = "  "


def terminal_table(scores: Scores, width: int = 80) -> str:
    """The scores at the chosen layers in the metric that chose them, one line for each task and
    model, and for each condition, domain and head where there are several.

    Names of models that are too long for ``width`` are shortened in the middle; where too little
    would remain of them, the task stands above its models instead.
    """
    rows = scores.chosen()
    rows = rows[rows["metric"] == rows["select_by"]]
    if rows.empty:
        return "No test scores.\n"
    cells = rows.to_dict("records")
    names = _names(rows)
    model = names.pop("model")
    names["metric"] = [metric_text(row) for row in cells]
    columns: dict[str, Sequence[str]] = {
        "model": model,
        "score": [metric_of(row["metric"]).text(row["value"]) for row in cells],
        "95 % interval": [_interval(row) for row in cells],
        "layer": [with_choice(row) for row in cells],
        "": [_mark(row) for row in cells],
    }
    in_one_line = _fitted({**names, **columns}, width, READABLE)
    if _width(in_one_line) <= width:
        lines = _lines(in_one_line)
    else:
        head, *body = _lines(_fitted(columns, width - len(INDENT), NARROWEST))
        above = [", ".join(filter(None, place)) for place in zip(*names.values(), strict=True)]
        lines = [f"{INDENT}{head}"]
        for number, line in enumerate(body):
            if number == 0 or above[number] != above[number - 1]:
                lines.append(_shortened(above[number], width))
            lines.append(f"{INDENT}{line}")
    notes = _notes(rows, width)
    return "".join(f"{line.rstrip()}\n" for line in [*lines, *notes])


def _names(rows: pd.DataFrame) -> dict[str, list[str]]:
    """The columns of names: those that tell rows of one task and model apart, besides these two."""
    trained = rows["train_condition"].where(rows["train_condition"] != CLEAN, "")
    domains = rows["train_domain"] + " → " + rows["test_domain"]
    named = rows.assign(trained=trained, domains=domains.where(rows["train_domain"] != "", ""))
    names = {name: name for name in ("corpus", "condition", "domains")}
    names |= {"trained on": "trained", "head": "head"}
    by = [rows["task"], rows["model"]]
    differing = {
        name: named[column]
        for name, column in names.items()
        if named[column].groupby(by).nunique().max() > 1
    }
    columns = {"task": rows["task"], **differing, "model": rows["model"]}
    return {name: [one_line(text) for text in column] for name, column in columns.items()}


def _mark(row: Mapping[Hashable, Any]) -> str:
    return str(row["mark"]) or (AT_CHANCE if row["chance"] == AT_CHANCE else "")


def _interval(row: Mapping[Hashable, Any]) -> str:
    return "" if math.isnan(row["value"]) else score_of(row).spread


def _fitted(
    columns: Mapping[str, Sequence[str]], width: int, narrowest: int
) -> dict[str, Sequence[str]]:
    """The columns, with models shortened so that a line fits, but not below ``narrowest``."""
    widest = max(map(_cells, columns["model"]))
    room = max(narrowest, widest - max(0, _width(columns) - width))
    return {**columns, "model": [_shortened(text, room) for text in columns["model"]]}


def _shortened(text: str, width: int) -> str:
    if _cells(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"


def _cells(text: str) -> int:
    """The columns of a terminal that a text takes."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _width(columns: Mapping[str, Sequence[str]]) -> int:
    widths = [max(map(_cells, [name, *texts])) for name, texts in columns.items()]
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _lines(columns: Mapping[str, Sequence[str]]) -> list[str]:
    rows = [list(columns), *zip(*columns.values(), strict=True)]
    widths = [max(map(_cells, texts)) for texts in zip(*rows, strict=True)]
    to_the_right = [name in ("score", "layer") for name in columns]
    return [GAP.join(map(_padded, row, widths, to_the_right)) for row in rows]


def _padded(text: str, width: int, to_the_right: bool) -> str:
    space = " " * (width - _cells(text))
    return space + text if to_the_right else text + space


def _notes(rows: pd.DataFrame, width: int) -> list[str]:
    """Sentences below the table, each once."""
    cells = [score_of(row) for row in rows.to_dict("records")]
    notes = few_notes(cells)
    notes += [SHARED_NOTE] if any(cell.shared for cell in cells) else []
    notes = [line for note in notes for line in textwrap.wrap(note, width)]
    notes += [f"{IN_SET}: {SET}"] if rows["mark"].eq(IN_SET).any() else []
    notes += textwrap.wrap(NOT_TESTED_NOTE, width) if rows["mark"].eq(NOT_TESTED).any() else []
    notes += [line for note in choice_notes(rows) for line in textwrap.wrap(note, width)]
    notes += [*interval_notes(rows), *seed_notes(rows)]
    missing = rows[rows["value"].isna()]
    notes += [
        one_line(f"{DASH} {row['model']}, {row['task']}: {row['note']}")
        for row in missing.to_dict("records")
    ]
    return list(dict.fromkeys(notes))
