"""The rows of every table: which layer is shown, and what may stand beside what.

Selection is on dev, the report is on test. A layer is chosen per (model, task, corpus, condition,
head, train domain) by the best dev value of the metric `select_by`, ties going to the lowest layer;
every metric of that head is shown at this layer. When a task crosses domains the choice is made on
the dev data of the source (the train domain). A control stands beside the score that it belongs to,
at the same layer; a learned sum of layers beside the chosen layer. Records of several seeds are one
score, their mean (`probe.reporting.seeds`).

Values are fractions; a missing value is NaN.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from probe.errors import listed
from probe.measures.comparison import paired_difference
from probe.measures.uncertainty import FEW_BLOCKS
from probe.model_names import RANDOM, unrevised
from probe.records import CHOICE, NO_LAYER, WEIGHTED, chosen_layers, source_dev
from probe.reporting.comparable_files import CELL, comparable
from probe.reporting.seeds import over_seeds
from probe.reporting.ties import layers_marked, models_marked

Row = dict[str, Any]

WHERE = [
    *["model", "task", "corpus", "condition", "train_condition", "head", "headline"],
    *["train_domain", "test_domain", "metric", "select_by"],
]
STATISTICS = ["rms", "effective_rank", "anisotropy", "outlier_dims"]
SUMMARY = [
    *WHERE,
    *["layer", "value", "low", "high", "last_layer", "last_value", "final_value", "weighted_value"],
    *[
        "majority",
        "shuffled",
        "types",
        "selectivity",
        "selectivity_low",
        "selectivity_high",
        "fbank",
        "random",
    ],
    *["n", "n_blocks", "few", "shared_speakers", "n_seeds", "higher_is_better", "mark", "note"],
]
LAYERS = [
    *WHERE,
    *["layer", "layer_index", "value", "low", "high", "dev_value", "chosen"],
    *["n", "n_blocks", "few", "shared_speakers", "n_seeds", "higher_is_better", "mark", "note"],
    *["depth", *STATISTICS],
]
BUDGETS = [
    *WHERE,
    *["layer", "layer_index", "budget", "n_train", "value", "low", "high", "chosen"],
    *["n", "n_blocks", "few", "shared_speakers", "n_seeds", "higher_is_better", "note"],
]
TOO_FEW = "too few blocks for an interval"
COMPARED_BY = ["counts", "seed"]  # what marks are made of, beside the columns that are shown


def summary_rows(records: pd.DataFrame, all_heads: bool = False) -> pd.DataFrame:
    """One row per `CELL` that was trained on all labels, of split `test`, at the layer chosen on
    dev; columns `SUMMARY`.

    Online codes, which are of the training labels, stand here too. ``majority``, ``shuffled`` and
    ``types`` are controls at this layer (see `probe.records.Record`); ``selectivity`` is the value
    less ``types``, with its interval; ``fbank`` and ``random`` the values of these models in the
    same place: filter banks, and the architecture with random weights. ``last_layer`` is the
    highest numbered layer that was run; ``final_value`` is that of the model's final output, which
    in post-LN models is the last block's; missing where it was not run. A cell without a value
    keeps its row and its note. ``mark`` is that of `probe.reporting.ties`, ``few`` says that the
    blocks are fewer than `FEW_BLOCKS`, so that the interval is a rough one; a note, that there is
    none.

    Args:
        records: see `probe.records.read_records`.
        all_heads: shows every head instead of the headline ones.

    Raises:
        ProbeError: see `probe.reporting.comparable_files.comparable`.
    """
    records = _checked(records)
    shown = _reported(records, all_heads)
    shown = (
        shown[shown["budget"] == ""]
        .merge(chosen_layers(records), on=CHOICE, how="left")
        .sort_values("layer_index", kind="stable")
    )
    cells: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in _dicts(
        shown,
        [
            *CELL,
            "control",
            "chosen_layer",
            "final_layer",
            *(set(SUMMARY) & set(shown)),
            *COMPARED_BY,
        ],
    ):
        cells[tuple(row[name] for name in CELL)].append(row)
    rows = [
        _summary_row(cell) for cell in cells.values() if any(row["control"] == "" for row in cell)
    ]
    specs = specs_of(records)
    value_of = {(specs[row["model"]], _elsewhere(row)): row["value"] for row in rows}
    value_of |= {(row["model"], _elsewhere(row)): row["value"] for row in rows}
    for row in rows:
        spec, place = specs[row["model"]], _elsewhere(row)
        twins = [RANDOM + name for name in (row["model"], spec, unrevised(spec))]
        row["fbank"] = np.nan if spec == "fbank" else value_of.get(("fbank", place), np.nan)
        row["random"] = next(
            (value_of[twin, place] for twin in twins if (twin, place) in value_of), np.nan
        )
    table = _in_order(pd.DataFrame(rows, columns=[*SUMMARY, *COMPARED_BY]), [])
    return models_marked(table)[SUMMARY]


def layer_rows(records: pd.DataFrame, all_heads: bool = False, marked: bool = True) -> pd.DataFrame:
    """One row per `CELL` that was trained on all labels, and layer, of split `test`; columns
    `LAYERS`.

    ``dev_value`` is the dev score of the same layer and metric, in the train domain where the task
    crosses domains; ``chosen`` marks the layer that `summary_rows` shows; ``mark`` the best of the
    model's layers on test and those tied with it, which describes and chooses nothing. `STATISTICS`
    are those of the record, see `probe.measures.geometry`.

    Args:
        records: see `probe.records.read_records`.
        all_heads: shows every head instead of the headline ones.
        marked: whether layers are compared; ``mark`` is empty otherwise, in a third of the time.

    Raises:
        ProbeError: see `probe.reporting.comparable_files.comparable`.
    """
    records = _checked(records)
    same = [*CHOICE, "control", "metric", "layer"]
    dev = source_dev(records)[[*same, "value"]].rename(columns={"value": "dev_value"})
    shown = _reported(records, all_heads)
    shown = shown[(shown["budget"] == "") & (shown["control"] == "")]
    rows = shown.merge(dev, on=same, how="left").merge(
        chosen_layers(records), on=CHOICE, how="left"
    )
    rows["chosen"] = rows["layer"] == rows["chosen_layer"]
    rows = rows.assign(
        **{
            name: rows["statistics"].map(lambda found, name=name: found.get(name, np.nan))
            for name in STATISTICS
        }
    )
    rows["depth"] = rows["depth"].astype(float)
    rows["mark"] = ""
    rows = _in_order(rows[[*LAYERS, *COMPARED_BY]], ["layer_index"])
    return (layers_marked(rows) if marked else rows)[LAYERS]


def budget_rows(records: pd.DataFrame, all_heads: bool = False) -> pd.DataFrame:
    """Learning curves: one row per `CELL` and layer of what was also trained on some of the labels;
    columns `BUDGETS`.

    ``budget`` is empty where all labels were used; ``chosen`` marks the layer that is best on dev
    with this budget. Smaller budgets come first.

    Args:
        records: see `probe.records.read_records`.
        all_heads: shows every head instead of the headline ones.

    Raises:
        ProbeError: see `probe.reporting.comparable_files.comparable`.
    """
    records = _checked(records)
    shown = _reported(records, all_heads)
    shown = shown[(shown["control"] == "") & (shown["split"] == "test")]
    others = [name for name in CELL if name != "budget"]
    shown = shown[shown["budget"].ne("").groupby([shown[name] for name in others]).transform("any")]
    rows = shown.merge(chosen_layers(records), on=CHOICE, how="left")
    rows["chosen"] = rows["layer"] == rows["chosen_layer"]
    return _in_order(rows[BUDGETS], ["layer_index", "n_train"])


def specs_of(records: pd.DataFrame) -> dict[str, str]:
    """Model -> the spec that it was opened with, which is not its name where the user chose one;
    the name where nothing says.
    """
    firsts = records.drop_duplicates("model")
    return {
        str(model): str(arguments.get("model", model)).removeprefix(f"{model}=")
        for model, arguments in zip(firsts["model"], firsts["arguments"], strict=True)
    }


def _reported(records: pd.DataFrame, all_heads: bool) -> pd.DataFrame:
    """Test scores, and online codes, of the heads that are shown."""
    return records[
        ((records["split"] == "test") | (records["metric"] == "codelength"))
        & (records["headline"] | all_heads)
    ]


def _elsewhere(row: Mapping[str, object]) -> tuple[object, ...]:
    """What the rows of other models that stand beside this one agree in."""
    return tuple(row[name] for name in CELL if name not in ("model", "budget"))


def _checked(records: pd.DataFrame) -> pd.DataFrame:
    """One record per score, with float values, NaN where there is no finite one; a note where
    blocks are too few for an interval.
    """
    records = over_seeds(comparable(records))
    floats = {
        name: records[name].astype(float).replace([np.inf, -np.inf], np.nan)
        for name in ("value", "low", "high")
    }
    bare = (
        floats["value"].notna()
        & floats["low"].isna()
        & records["counts"].astype(bool)
        & (records["note"] == "")
    )
    note = records["note"].mask(bare & (records["split"] == "test"), TOO_FEW)
    return records.assign(
        **floats, note=note, few=of_few(records), shared_speakers=of_shared(records)
    )


def of_few(records: pd.DataFrame) -> "pd.Series[bool]":
    """Which scores are of fewer than `FEW_BLOCKS` blocks."""
    return (records["n_blocks"] > 0) & (records["n_blocks"] < FEW_BLOCKS)


def of_shared(records: pd.DataFrame) -> "pd.Series[float]":
    """How many speakers of each score are in training too; NaN where that is unknown."""
    return records["shared_speakers"].astype(float)


def seed_notes(rows: pd.DataFrame) -> list[str]:
    """A note per number of seeds that is not 1: what the scores are means of, and on what questions
    where the numbers differ.
    """
    asked = [
        name
        for name in ("task", "corpus", "condition", "train_condition")
        if name in rows and rows[name].nunique() > 1
    ]
    notes = []
    for n_seeds, group in rows[rows["n_seeds"] > 1].groupby("n_seeds"):
        places = group[asked].drop_duplicates().itertuples(index=False, name=None)
        where = listed([" ".join(place) for place in places], 20) if len(group) < len(rows) else ""
        notes.append(f"mean of {n_seeds} seeds{': ' * bool(where)}{where}")
    return notes


def _dicts(rows: pd.DataFrame, columns: Iterable[str]) -> list[Row]:
    """Some columns of the rows, as one dict a row: thousands of small tables would take a hundred
    times as long.
    """
    names = list(dict.fromkeys(columns))
    return [
        dict(zip(names, values, strict=True))
        for values in zip(*(rows[name].tolist() for name in names), strict=True)
    ]


def _summary_row(cell: Sequence[Row]) -> Row:
    """One row of `summary_rows` from the records of all layers, in their order, and controls."""
    layers = [row for row in cell if row["control"] == ""]
    picked = next((row for row in layers if row["layer"] == row["chosen_layer"]), None)
    shown = dict(picked or next((row for row in layers if row["layer"] != WEIGHTED), layers[0]))
    if picked is None:
        layer = shown["chosen_layer"]
        why = (
            f"no dev score of {shown['select_by']}, so no layer is chosen"
            if pd.isna(layer)
            else f"no test score at layer {layer}"
        )
        shown |= {
            "layer": None,
            "value": np.nan,
            "low": np.nan,
            "high": np.nan,
            "note": shown["note"] or why,
        }
    value_of = {row["layer"]: row["value"] for row in layers}
    last = max((layer for layer in value_of if layer.isdecimal()), key=int, default=None)
    shown |= {"weighted_value": value_of.get(WEIGHTED, np.nan)} | _controls(shown, cell)
    shown |= {
        "last_layer": last,
        "last_value": value_of.get(last, np.nan),
        "final_value": value_of.get(shown["final_layer"], np.nan),
    }
    return {name: shown.get(name, np.nan) for name in (*SUMMARY, *COMPARED_BY)}


def _controls(shown: Row, cell: Sequence[Row]) -> Row:
    """The controls that belong to a score."""
    there = {
        row["control"]: row
        for row in cell
        if row["control"]
        and row["layer"] in (shown["layer"], NO_LAYER)
        and not pd.isna(row["value"])
    }
    found = {control: row["value"] for control, row in there.items()}
    if "types" in there and not pd.isna(shown["value"]):
        gain = paired_difference(shown["counts"], there["types"]["counts"], seed=shown["seed"])
        found |= {
            "selectivity": gain.difference,
            "selectivity_low": gain.low,
            "selectivity_high": gain.high,
        }
    return found


def _in_order(rows: pd.DataFrame, then: list[str]) -> pd.DataFrame:
    """Rows sorted so that what is compared stands together, the selecting metric before the others."""
    places = ["task", "corpus", "condition", "train_condition", "train_domain", "test_domain"]
    keys = [*places, "other", "metric", "model", "head", *then]
    rows = rows.assign(other=rows["metric"] != rows["select_by"])
    return rows.sort_values(keys, kind="stable", ignore_index=True).drop(columns="other")


def one_line(text: str) -> str:
    """``text`` without line breaks and control characters: a name from a file must not rearrange a
    table or a terminal.
    """
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
