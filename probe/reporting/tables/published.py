"""Published figures beside ours: `results/published/*.csv`, and the map of which figure belongs to
which score, `map.toml` there.

A figure stands beside a score only through an entry of the map, for the same checkpoint (`hub_id`),
on undisturbed audio of one domain. Random weights are not the published model. Uncertain figures
are marked.
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

from probe.data.conditions.grammar import CLEAN
from probe.model_names import RANDOM, unrevised
from probe.protocols import protocols
from probe.records import OWN_HEADS
from probe.reporting.scores import method_notes, seed_notes
from probe.reporting.tables.grid import Cell, Column, Grid, of_columns, score, score_of
from probe.reporting.text import DASH, interval_head, layer_text, metric_text

# Columns of every file.
COLUMNS = ["model", "hub_id", "task", "metric", "value", "split", "lm", "source", "certain"]
OURS = [
    *["task", "corpus", "metric", "model", "head", "layer", "value", "low", "high", "mark"],
    *["n", "n_blocks", "few", "shared_speakers", "interval_method", "n_seeds"],
    "higher_is_better",
]
ROWS = [
    *[*OURS, "score", "like_theirs", "figure", "split", "lm"],
    *["published", "printed", "certain", "differs", "source"],
]
NOT_COMPARABLE = "not comparable"
# Name of our score -> its column in `probe.reporting.scores.Scores.chosen`.
SCORES = {"best": "value", "weighted": "weighted_value", "final": "final_value"}
Row = dict[Hashable, Any]


def published_folder() -> Path:
    """The folder of the figures: in the installed package, or with the results in a checkout."""
    package = Path(__file__).resolve().parents[2]
    installed = package / "published"
    return installed if installed.is_dir() else package.parent / "results" / "published"


@cache
def figures() -> dict[str, list[dict[str, str]]]:
    """File name -> its rows, with the columns `COLUMNS`; values are as they were published, percent
    or fractions.
    """
    of_files = {}
    for path in sorted(published_folder().glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            of_files[path.name] = list(csv.DictReader(file))
    return of_files


@cache
def published_map() -> dict[str, Any]:
    """The map: ``entry``, ``models`` and ``differs``, which the file itself explains."""
    return tomllib.loads((published_folder() / "map.toml").read_text(encoding="utf-8"))


def published_rows(summary: pd.DataFrame, specs: Mapping[str, str] | None = None) -> pd.DataFrame:
    """One row per score and figure that may stand beside it; columns `ROWS`.

    A score without a figure has one row, and ``figure`` says why. ``like_theirs`` is our score
    whose protocol is closest to theirs, named in ``score``; ``published`` a fraction, ``printed``
    the same in percent with the digits of the publication.

    Args:
        summary: see `probe.reporting.scores.Scores.chosen`.
        specs: model -> the spec that it was opened with (`probe.reporting.scores.Scores`), or else
            its name.
    """
    specs = specs or {}
    rows = [
        row
        for ours in summary.to_dict("records")
        for row in _beside(ours, specs.get(ours["model"], str(ours["model"])))
    ]
    return pd.DataFrame(rows, columns=ROWS)


def published_grid(rows: pd.DataFrame) -> Grid:
    """Rows of `published_rows` as a table, with the differences of protocols and the sources
    below it.
    """
    cells: list[Row] = rows.to_dict("records")
    figures_below = dict.fromkeys(row["figure"] for row in cells if row["differs"])
    numbers = {name: number for number, name in enumerate(figures_below, start=1)}
    columns: dict[Column, Iterable[Cell | str]] = {Column("task"): rows["task"]}
    if rows["corpus"].nunique() > 1:
        columns[Column("corpus")] = rows["corpus"]
    columns |= {
        Column("metric"): [metric_text(row) for row in cells],
        Column("model"): rows["model"],
        Column("head"): rows["head"],
        Column(interval_head(rows["metric"]), number=True): map(_our_score, cells),
        Column("made like theirs %", number=True): map(_like_theirs, cells),
        Column("published %", number=True): map(_published, cells),
        Column("figure"): [_figure_name(row, numbers) for row in cells],
    }
    notes = []
    for name, number in numbers.items():
        group = rows[rows["figure"] == name]
        differs, sources = (list(dict.fromkeys(group[column])) for column in ("differs", "source"))
        notes.append(f"[{number}] {name}. {' '.join(differs)} Source: {'; '.join(sources)}.")
    return of_columns(
        columns, aside="layer", notes=[*notes, *method_notes(rows), *seed_notes(rows)]
    )


def _our_score(row: Row) -> Cell:
    return score_of(row, row["mark"], layer_text(row["layer"]))


def _like_theirs(row: Row) -> Cell:
    name: str = "" if pd.isna(row["like_theirs"]) else f"({row['score']})"
    return score(row["metric"], row["like_theirs"], aside=name)


def _published(row: Row) -> Cell:
    certain = row["certain"]
    doubt = f"(uncertain: {certain})" if certain and not certain.startswith("yes") else ""
    return Cell(row["printed"] or DASH, aside=doubt, value=row["published"])


def _figure_name(row: Row, numbers: Mapping[str, int]) -> str:
    if not row["differs"]:
        return row["figure"]
    about = ", ".join(filter(None, (row["split"], row["lm"])))
    return f"{row['figure']} ({about}) [{numbers[row['figure']]}]"


def _beside(ours: Row, spec: str) -> Iterator[Row]:
    """The rows of one of our scores, for a model that was opened with ``spec``."""
    reason, model = _hindrance(ours, spec), unrevised(spec)
    entries = [] if reason else [item for item in published_map()["entry"] if _fits(item, ours)]
    figures_of = [(entry, figure) for entry in entries for figure in _figures(entry, model)]
    for entry, figure in figures_of:
        percent = Decimal(figure["value"]).scaleb(0 if "%" in entry["figure"] else 2)
        differs = differences(entry), published_map()["differs"].get(model, "")
        yield ours | {
            "score": entry["score"],
            "like_theirs": ours[SCORES[entry["score"]]],
            "figure": entry["name"],
            **{name: figure[name] for name in ("split", "lm", "source", "certain")},
            "published": float(percent.scaleb(-2)),
            "printed": format(percent, "f"),
            "differs": " ".join(filter(None, differs)),
        }
    if not figures_of:
        empty = dict.fromkeys(
            ["score", "split", "lm", "source", "certain", "printed", "differs"], ""
        )
        reason = reason or ("no figure of this model" if entries else NOT_COMPARABLE)
        yield ours | empty | {"like_theirs": np.nan, "published": np.nan, "figure": reason}


def _hindrance(ours: Row, spec: str) -> str:
    """Why no figure may stand beside a score, whatever the map says; empty where one may."""
    if spec.startswith(RANDOM):
        return f"{NOT_COMPARABLE}: random weights"
    if (ours["condition"], ours["train_condition"]) != (CLEAN, CLEAN) or ours["train_domain"]:
        return f"{NOT_COMPARABLE}: conditions or domains"
    return ""


def _fits(entry: Mapping[str, Any], ours: Row) -> bool:
    """Whether an entry of the map is about a score."""
    if ours["task"] not in entry["tasks"] or ours["metric"] != entry["metric"]:
        return False
    if "head" in entry:
        return ours["head"] == entry["head"]
    return bool(ours["headline"]) and ours["head"] not in OWN_HEADS


def differences(entry: Mapping[str, Any]) -> str:
    """In what our scores differ from an entry's figures: its own words, or else the deviations of
    the protocols of its tasks.
    """
    if "differs" in entry:
        return str(entry["differs"])
    known = [protocols()[task].deviations for task in entry["tasks"]]
    return " ".join(dict.fromkeys(sentence for sentences in known for sentence in sentences))


def _figures(entry: Mapping[str, Any], model: str) -> Iterator[dict[str, str]]:
    """The figures of a model that an entry of the map names."""
    name = entry.get("models", {}).get(model) or published_map()["models"].get(model)
    key = (entry["task"], entry["figure"], entry.get("lm", ""))
    for row in figures()[entry["file"]]:
        same_model = row["model"] == name if name else row["hub_id"] == model
        same_figure = (row["task"], row["metric"], row["lm"]) == key
        if same_model and same_figure and row["split"] in entry.get("splits", [row["split"]]):
            yield row
