"""Published figures beside ours: `results/published/*.csv`, and the map that says which belongs to
which, `map.toml` there.

A figure stands beside a score only through an entry of the map, for the very checkpoint (`hub_id`),
on undisturbed audio of one domain. Random weights are not the published model. What is not certain
is shown as such.
"""

import csv
import tomllib
from collections.abc import Hashable, Iterable, Iterator, Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probe.model_names import RANDOM, unrevised
from probe.records import OWN_HEAD
from probe.reporting.scores import seed_notes
from probe.reporting.tables.grid import Cell, Column, Grid, of_columns, score
from probe.reporting.text import DASH, INTERVAL, arrow

COLUMNS = [
    "model",
    "hub_id",
    "task",
    "metric",
    "value",
    "split",
    "lm",
    "source",
    "certain",
]  # of every file
OURS = [
    "task",
    "corpus",
    "metric",
    "model",
    "head",
    "layer",
    "value",
    "low",
    "high",
    "mark",
    "n",
    "n_blocks",
    "few",
    "shared_speakers",
    "n_seeds",
    "higher_is_better",
]
ROWS = [
    *OURS,
    *[
        "score",
        "like_theirs",
        "figure",
        "split",
        "lm",
        "published",
        "printed",
        "certain",
        "differs",
        "source",
    ],
]
NOT_COMPARABLE = "not comparable"
# Which of our scores -> the column of `probe.reporting.scores.Scores.chosen`.
SCORES = {"best": "value", "weighted": "weighted_value", "final": "final_value"}


def published_folder() -> Path:
    """Where the figures lie: inside the installed package, or with the results in a checkout."""
    package = Path(__file__).resolve().parents[2]
    installed = package / "published"
    return installed if installed.is_dir() else package.parent / "results" / "published"


@cache
def figures() -> dict[str, list[dict[str, str]]]:
    """File name -> its rows, with the columns `COLUMNS`; values are as they were published, percent
    or fractions.
    """
    found = {}
    for path in sorted(published_folder().glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            found[path.name] = list(csv.DictReader(file))
    return found


@cache
def published_map() -> dict[str, Any]:
    """The map: ``entry``, ``models`` and ``differs``, which the file itself explains."""
    return tomllib.loads((published_folder() / "map.toml").read_text(encoding="utf-8"))


def published_rows(summary: pd.DataFrame, specs: Mapping[str, str] | None = None) -> pd.DataFrame:
    """One row per score and figure that may stand beside it; columns `ROWS`.

    A score without a figure has one row, and `figure` says why. ``like_theirs`` is our score that
    is made most like theirs, named in ``score``; ``published`` a fraction, ``printed`` the same in
    percent, digit for digit as it was published.

    Args:
        summary: see `probe.reporting.scores.Scores.chosen`.
        specs: model -> what it was opened with (`probe.reporting.scores.Scores.specs`); where a model is
            not in it, its name is.
    """
    rows = [
        row
        for ours in summary.to_dict("records")
        for row in _beside(ours, (specs or {}).get(ours["model"], str(ours["model"])))
    ]
    return pd.DataFrame(rows, columns=ROWS)


def published_grid(rows: pd.DataFrame) -> Grid:
    """Rows of `published_rows` as a table, with how the protocols differ and the sources below it."""
    cells: list[dict[Hashable, Any]] = rows.to_dict("records")
    numbers = {
        name: number
        for number, name in enumerate(
            dict.fromkeys(row["figure"] for row in cells if row["differs"]), start=1
        )
    }
    columns: dict[Column, Iterable[Cell | str]] = {
        Column("task"): rows["task"],
        **({Column("corpus"): rows["corpus"]} if rows["corpus"].nunique() > 1 else {}),
        Column("metric"): [f"{row['metric']} {arrow(row['higher_is_better'])}" for row in cells],
        Column("model"): rows["model"],
        Column("head"): rows["head"],
        Column(INTERVAL, number=True): [_ours(row) for row in cells],
        Column("made like theirs %", number=True): [
            score(
                row["metric"],
                row["like_theirs"],
                aside="" if pd.isna(row["like_theirs"]) else f"({row['score']})",
            )
            for row in cells
        ],
        Column("published %", number=True): [
            Cell(row["printed"] or DASH, aside=_doubt(row["certain"]), value=row["published"])
            for row in cells
        ],
        Column("figure"): [
            f"{row['figure']} ({', '.join(filter(None, (row['split'], row['lm'])))}) [{numbers[row['figure']]}]"
            if row["differs"]
            else row["figure"]
            for row in cells
        ],
    }
    notes = []
    for name, number in numbers.items():
        there = rows[rows["figure"] == name]
        differs, sources = (list(dict.fromkeys(there[column])) for column in ("differs", "source"))
        notes.append(f"[{number}] {name}. {' '.join(differs)} Source: {'; '.join(sources)}.")
    return of_columns(columns, aside="layer", notes=[*notes, *seed_notes(rows)])


def _ours(row: dict[Hashable, Any]) -> Cell:
    layer = "" if pd.isna(row["layer"]) else f"({row['layer']})"
    return score(
        row["metric"],
        row["value"],
        row["low"],
        row["high"],
        row["mark"],
        layer,
        row["few"],
        row["shared_speakers"] > 0,
    )


def _doubt(certain: str) -> str:
    return "" if not certain or certain.startswith("yes") else f"(uncertain: {certain})"


def _beside(ours: dict[Hashable, Any], spec: str) -> Iterator[dict[Hashable, Any]]:
    """The rows of one of our scores, of a model that was opened with a spec."""
    entries = (
        []
        if (reason := _hindrance(ours, spec))
        else [entry for entry in published_map()["entry"] if _fits(entry, ours)]
    )
    model = unrevised(spec)
    found = [(entry, figure) for entry in entries for figure in _figures(entry, model)]
    for entry, figure in found:
        percent = Decimal(figure["value"]).scaleb(0 if "%" in entry["figure"] else 2)
        yield ours | {
            "score": entry["score"],
            "like_theirs": ours[SCORES[entry["score"]]],
            "figure": entry["name"],
            **{name: figure[name] for name in ("split", "lm", "source", "certain")},
            "published": float(percent.scaleb(-2)),
            "printed": format(percent, "f"),
            "differs": " ".join(
                filter(None, (entry["differs"], published_map()["differs"].get(model, "")))
            ),
        }
    if not found:
        empty = dict.fromkeys(
            ["score", "split", "lm", "source", "certain", "printed", "differs"], ""
        )
        why = reason or ("no figure of this model" if entries else NOT_COMPARABLE)
        yield ours | empty | {"like_theirs": np.nan, "published": np.nan, "figure": why}


def _hindrance(ours: dict[Hashable, Any], spec: str) -> str:
    """Why no figure may stand beside a score, whatever the map says."""
    if spec.startswith(RANDOM):
        return f"{NOT_COMPARABLE}: random weights"
    if (ours["condition"], ours["train_condition"]) != ("clean", "clean") or ours["train_domain"]:
        return f"{NOT_COMPARABLE}: conditions or domains"
    return ""


def _fits(entry: dict[str, Any], ours: dict[Hashable, Any]) -> bool:
    if (ours["task"] not in entry["tasks"]) or ours["metric"] != entry["metric"]:
        return False
    return (
        ours["head"] == entry["head"]
        if "head" in entry
        else bool(ours["headline"]) and ours["head"] != OWN_HEAD
    )


def _figures(entry: dict[str, Any], model: str) -> Iterator[dict[str, str]]:
    """The rows that an entry means, of a model."""
    theirs = published_map()["models"].get(model)
    for row in figures()[entry["file"]]:
        same = row["model"] == theirs if theirs else row["hub_id"] == model
        wanted = (row["task"], row["metric"], row["lm"]) == (
            entry["task"],
            entry["figure"],
            entry.get("lm", ""),
        )
        if same and wanted and row["split"] in entry.get("splits", [row["split"]]):
            yield row
