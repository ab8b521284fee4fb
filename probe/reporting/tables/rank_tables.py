"""`probe table --rank`: models over several tasks, by mean rank, Borda count and SUPERB score.

Only questions that all models answered count; see `probe.measures.ranks` for the measures.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from probe.errors import UsageError, listed
from probe.measures import ranks as measures
from probe.measures.confidence_set import resampled_moves
from probe.measures.metrics import CODELENGTH, metric_of
from probe.measures.uncertainty import measure
from probe.records import OWN_HEADS, QUESTION
from probe.reporting.scores import Scores
from probe.reporting.tables.grid import Cell, Column, Grid, of_columns
from probe.reporting.tables.published import published_map
from probe.reporting.text import DASH

RANKS = ["model", "mean_rank", "low", "high", "borda", "superb", "n_tasks"]
Row = Mapping[Hashable, Any]


def rank_rows(scores: Scores) -> pd.DataFrame:
    """One row for each model, the lowest mean rank first; columns `RANKS`.

    ``low`` and ``high`` are 2.5 and 97.5 % of the mean ranks with resampled speakers, NaN where a
    task has too few of them. ``superb`` is the SUPERB score over the `superb-*` tasks among the
    tasks, NaN without any.

    Raises:
        UsageError: fewer than two models, no common question, or several heads of a model.
    """
    rows = _common_rows(scores.chosen_with_counts)
    models = sorted(set(rows["model"]))
    questions = [cells.sort_values("model") for _, cells in rows.groupby(QUESTION, sort=False)]
    tasks = [", ".join(cells.iloc[0][["task", "corpus"]]) for cells in questions]
    signs = np.array([1 if cells["higher_is_better"].iloc[0] else -1 for cells in questions])
    goodness = signs[:, None] * np.stack([cells["value"].to_numpy(float) for cells in questions])
    ranks = measures.task_ranks(goodness, tasks)
    mean_ranks = ranks.mean(axis=0)
    moves = np.stack([_moves(cells) for cells in questions], axis=1)
    low = high = np.full(len(models), np.nan)
    if not np.isnan(moves).any():
        drawn = measures.task_ranks(goodness + signs[:, None] * moves, tasks).mean(axis=1)
        low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
        low, high = np.minimum(low, mean_ranks), np.maximum(high, mean_ranks)
    table = pd.DataFrame(
        {
            "model": models,
            "mean_rank": mean_ranks,
            "low": low,
            "high": high,
            "borda": measures.borda_counts(ranks),
            "superb": [superb_score(rows[rows["model"] == model]) for model in models],
            "n_tasks": len(ranks),
        }
    )
    table.attrs["friedman_p"] = measures.friedman_p(ranks)
    table.attrs["n_left_out"] = int(rows.attrs["n_left_out"])
    return table.sort_values(["mean_rank", "model"], ignore_index=True)


def superb_score(rows: pd.DataFrame) -> float:
    """The SUPERB score of one model's rows: 0 is SUPERB's filter banks, 1000 its best model of each
    task; the mean over the tasks whose two figures are known, NaN without any.

    Source: Feng et al. 2023, "SUPERB @ SLT 2022", arXiv 2210.08634.
    """
    anchors = published_map()["superb_anchors"]
    parts = [
        1000 * (metric_of(row["metric"]).scale * row["value"] - worst) / (best - worst)
        for row in rows.to_dict("records")
        if row["task"] in anchors
        for worst, best in [anchors[row["task"]]]
    ]
    return float(np.mean(parts)) if parts else np.nan


def rank_grid(rows: pd.DataFrame) -> Grid:
    """Rows of `rank_rows` as a table; the notes say which mean ranks differ."""
    cells: Sequence[Row] = rows.to_dict("records")
    n_tasks = int(rows["n_tasks"].iloc[0])
    columns = {
        Column("model"): list(rows["model"]),
        Column("mean rank [95 % interval]", False, True): [_mean_rank(row) for row in cells],
        Column("Borda count", True, True): [_number(row["borda"], "{:g}") for row in cells],
        Column("SUPERB score", True, True): [_number(row["superb"], "{:.0f}") for row in cells],
    }
    table = of_columns(columns, {"SUPERB score": DASH}, notes=_notes(rows, n_tasks))
    return replace(table, caption="Mean ranks of models over several tasks")


def _notes(rows: pd.DataFrame, n_tasks: int) -> list[str]:
    difference = measures.critical_difference(len(rows), n_tasks)
    notes = [f"over {n_tasks} {'task' if n_tasks == 1 else 'tasks'}"]
    if not np.isnan(p := rows.attrs["friedman_p"]):
        notes.append(f"Friedman's test of equal ranks: p = {p:.2g}")
    names = list(rows["model"])
    groups = [
        listed(names[first : last + 1], 30)
        for first, last in measures.alike(list(rows["mean_rank"]), difference)
    ]
    alike = f"; not significantly different: {'; '.join(groups)}" if groups else ""
    notes.append(f"critical difference of mean ranks (Nemenyi, 5 %): {difference:.2f}{alike}")
    if rows["low"].isna().any():
        notes.append("no intervals: a task has too few speakers, or models have other utterances")
    if n_left_out := rows.attrs["n_left_out"]:
        notes.append(f"{n_left_out} tasks or conditions that not all models have are left out")
    if rows["superb"].notna().any():
        notes.append(
            "SUPERB score: 0 is the filter banks of SUPERB's leaderboard, 1000 its best model; "
            "over the superb-* tasks of these records, whose deviations `probe tasks` lists"
        )
    return notes


def _common_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The scores in the metrics that choose layers, of questions that all models answered."""
    rows = rows[rows["metric"].eq(rows["select_by"]) & rows["value"].notna()]
    rows = rows[(rows["metric"] != CODELENGTH.name) & ~rows["head"].isin(OWN_HEADS)]
    repeated = rows[rows.duplicated([*QUESTION, "model"])]
    if len(repeated):
        first = repeated.iloc[0]
        raise UsageError(
            f"--rank: {first['model']} has several heads on {first['task']}. Choose one of them "
            "with --filter head=NAME."
        )
    n_models = rows["model"].nunique()
    if n_models < 2:
        raise UsageError("--rank needs the scores of two or more models.")
    is_common = rows.groupby(QUESTION)["model"].transform("nunique") == n_models
    if not is_common.any():
        of_models = rows.groupby("model")["task"].nunique()
        counts = listed([f"{model} ({n})" for model, n in of_models.items()], 30)
        raise UsageError(
            "--rank: no task was run with all models. Choose models with --filter model=NAME,NAME. "
            f"Models and their numbers of tasks: {counts}."
        )
    common = rows[is_common].reset_index(drop=True)
    common.attrs["n_left_out"] = int(rows[~is_common].groupby(QUESTION).ngroups)
    return common


def _moves(cells: pd.DataFrame) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """(resample, model) see `probe.measures.confidence_set.resampled_moves`; one row of NaN where
    there are no counts of the same utterances.
    """
    n_resamples = 1000
    unknown = np.full((n_resamples, len(cells)), np.nan)
    if not all(cells["counts"]):
        return unknown
    scores = [measure(*pair) for pair in zip(cells["counts"], cells["metric"], strict=True)]
    if len({(score.utterances, len(score.of_seeds)) for score in scores}) > 1:
        return unknown
    return resampled_moves(scores, int(cells["seed"].iloc[0]), n_resamples)


def _mean_rank(row: Row) -> Cell:
    value, low, high = row["mean_rank"], row["low"], row["high"]
    interval = "" if np.isnan(low) else f"[{low:.2f}, {high:.2f}]"
    return Cell(f"{value:.2f}", interval, value=value, low=low, high=high)


def _number(value: float, form: str) -> Cell:
    return Cell(DASH if np.isnan(value) else form.format(value), value=value)
