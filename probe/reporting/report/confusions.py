"""Confusion matrices of the report: which class was predicted for which, at the chosen layer."""

from typing import Any

import numpy as np
import pandas as pd

from probe.measures.block_sums import confusion
from probe.measures.metrics import MACRO_F1, UAR
from probe.records import BUDGET, SCORE
from probe.reporting.text import one_line

MOST_CLASSES = 30  # of a matrix that can still be read


def confusions(records: pd.DataFrame, chosen: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one entry per model and question whose records hold a confusion matrix of at most
    `MOST_CLASSES` classes.

    Args:
        records: see `probe.records.read_records`; several seeds are added up.
        chosen: rows of `probe.reporting.scores.Scores.chosen`.

    Returns:
        The columns of the row of UAR (or macro-F1) without its metric, ``classes``, and ``counts``:
        one list per true class, with the utterances, intervals or frames of each predicted
        class.
    """
    with_matrix = chosen[chosen["metric"].isin([UAR.name, MACRO_F1.name])]
    place = [name for name in SCORE if name != "metric"]
    with_matrix = with_matrix.sort_values("metric", ascending=False).drop_duplicates(place)
    tested = records[
        (records["split"] == "test") & (records["control"] == "") & (records[BUDGET] == "")
    ]
    found = with_matrix[[*SCORE, "layer"]].merge(tested, on=[*SCORE, "layer"])
    entries = []
    for _, group in found.groupby(place, sort=False):
        matrices = [(item["class"], confusion(item)) for item in group["counts"] if item]
        if not matrices or any(names != matrices[0][0] for names, _ in matrices):
            continue
        names, matrix = matrices[0][0], sum(matrix for _, matrix in matrices)
        occurs = np.flatnonzero(np.asarray(matrix).sum(axis=0) + np.asarray(matrix).sum(axis=1))
        if len(occurs) <= MOST_CLASSES:
            first = group.iloc[0]
            about = {name: one_line(str(first[name])) for name in [*place, "layer"]}
            shown = np.asarray(matrix)[np.ix_(occurs, occurs)].tolist()
            classes = [one_line(names[i]) for i in occurs]
            entries.append(about | {"classes": classes, "counts": shown})
    return entries
