"""Several trainings of one question: the records of all seeds become one, their mean.

The layer is then chosen by the mean of the dev scores. The interval holds the variation over blocks
and over seeds, see `probe.measures.uncertainty`.
"""

from collections.abc import Hashable
from typing import Any

import pandas as pd

from probe.errors import ProbeError, listed
from probe.measures.counts import several
from probe.measures.uncertainty import interval
from probe.records import CHOICE, left_out
from probe.reporting.comparable_files import named

SCORE = [*CHOICE, "test_domain", "metric", "control", "layer", "split"]
QUESTION = ["task", "corpus", "condition"]


def over_seeds(records: pd.DataFrame) -> pd.DataFrame:
    """One record per score, with ``n_seeds``; ``value`` is the mean over seeds, ``counts`` those of
    all.

    A value that one seed does not have is missing, and a note names the seed. Seeds that were
    scored on different utterances (dev trials that are drawn by the seed, say) have a mean but no
    interval. Scores that not all seeds of their question have are left out with a warning.
    """
    if not records.duplicated(SCORE).any():
        return records.assign(n_seeds=1)
    expected = records.groupby(QUESTION)["seed"].transform("nunique")
    found = records.groupby(SCORE, dropna=False)["seed"].transform("nunique")
    if (short := records[found < expected]).size:
        left_out.warning(
            "%d scores are not there with every seed and are left out: %s. They are in %s. Run the same seeds and layers for all models.",
            *(len(short), listed([_place(row) for row in short.to_dict("records")]), named(short)),
        )
        records = records[found == expected]
    ordered = records.sort_values("seed", kind="stable")
    rows = [
        _mean(group.to_dict("records"))
        for _, group in ordered.groupby(SCORE, sort=False, dropna=False)
    ]
    return pd.DataFrame(rows, columns=[*records.columns, "n_seeds"])


def _place(row: dict[Hashable, Any]) -> str:
    return f"{row['model']}, {row['task']}, {row['condition']}, layer {row['layer']}, {row['split']}: only seed {row['seed']}"


def _mean(rows: list[dict[Hashable, Any]]) -> dict[Hashable, Any]:
    """The record of several seeds."""
    made = {**rows[0], "n_seeds": len(rows), "low": None, "high": None, "counts": {}}
    lacking = [row for row in rows if pd.isna(row["value"])]
    if lacking:
        return made | {
            "value": None,
            "note": lacking[0]["note"] or f"no value with seed {lacking[0]['seed']}",
        }
    made["value"] = sum(row["value"] for row in rows) / len(rows)
    if not all(row["counts"] for row in rows):
        return made
    try:
        made["counts"] = several([row["counts"] for row in rows])
    except ProbeError:
        return made | {
            "note": rows[0]["note"]
            or "the seeds were scored on different utterances, so no interval"
        }
    if rows[0]["split"] != "dev":
        ends = interval(made["counts"], int(rows[0]["seed"]), metric=str(rows[0]["metric"]))
        made |= dict(zip(("low", "high"), ends, strict=True)) if ends else {}
    return made
