"""Gaps between domains: what a model loses when it was not trained on the domain it is tested on,
and what another model regains.

On the test rows of a target domain, A is a model trained on another domain and C one trained on the
target. ``gap`` is what A is worse than C. Of a baseline's gap another model closes (A - B) / (A -
C), with B trained on the other domain too, and C of the baseline in one reading, of the other model
in the second. ``shift`` compares test rows of different domains instead, of one training.

Each score is at the layer that is best on the dev data of its training domain.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from probe.errors import ProbeError
from probe.measures import degradation as measures
from probe.measures.bootstrap import Estimate, sample_score
from probe.records import CHOICE, chosen_layers
from probe.reporting.comparable_files import comparable
from probe.reporting.losses import columns_of, first_sampling

PLACE = ["task", "corpus", "condition", "train_condition", "metric", "head"]
GAPS = [
    *PLACE,
    *[
        "train_domain",
        "test_domain",
        "model",
        "layer",
        "baseline",
        "value",
        "low",
        "high",
        "in_domain",
    ],
    *[
        "in_domain_low",
        "in_domain_high",
        "gap",
        "gap_low",
        "gap_high",
        "relative",
        "relative_low",
        "relative_high",
    ],
    *["shift", "shift_low", "shift_high", "closed_first", "closed_first_low", "closed_first_high"],
    *["closed_second", "closed_second_low", "closed_second_high", "higher_is_better", "note"],
]

Row = dict[Hashable, Any]
# The scores that a gap is made of.
LACKING = {
    "A": "the baseline trained on {source}",
    "C": "the baseline trained on {target}",
    "C2": "the model trained on {target}",
    "home": "the model on the test rows of {source}",
}


def crossed(records: pd.DataFrame) -> pd.DataFrame:
    """The records, with conditions as domains where a model was trained on a task under several
    conditions.

    These have the training's condition as train domain and the test's as test domain; their own
    ``condition`` is empty. A training's dev scores, which stand beside every test condition, are
    kept once.
    """
    asked = [records[name] for name in ("model", "task", "corpus", "head")]
    several = records["train_condition"].groupby(asked).transform("nunique") > 1
    moved = records[several & (records["train_domain"] == "")]
    if moved.empty:
        return records
    dev = moved["split"] != "test"
    moved = moved.assign(
        train_domain=moved["train_condition"],
        test_domain=moved["condition"].where(~dev, moved["train_condition"]),
    )
    moved = moved.assign(condition="", train_condition="", recipe="")  # each condition has its own
    same = [*CHOICE, "test_domain", "metric", "control", "layer", "split", "seed"]
    dev = moved["split"] != "test"
    moved = pd.concat([moved[~dev], moved[dev].drop_duplicates(same)])
    return pd.concat(
        [records.drop(index=records.index[several & (records["train_domain"] == "")]), moved],
        ignore_index=True,
    )


def gap_rows(records: pd.DataFrame, baseline: str, all_heads: bool = False) -> pd.DataFrame:
    """One row per train domain, other test domain and model; columns `GAPS`.

    Args:
        records: see `probe.records.read_records`; of several samplings the first is taken.
        baseline: whose gap the others close, see `probe.reporting.model_robustness.baseline_of`.
        all_heads: shows every head instead of the headline ones.

    Raises:
        ProbeError: see `probe.reporting.comparable_files.comparable`.
    """
    records = comparable(crossed(first_sampling(records)))
    shown = (
        (records["split"] == "test")
        & (records["control"] == "")
        & (records["budget"] == "")
        & (records["train_domain"] != "")
    )
    shown &= (
        (records["headline"] | all_heads)
        & (records["metric"] != "codelength")
        & records["value"].notna()
    )
    found = records[shown].merge(chosen_layers(records), on=CHOICE)
    found = found[found["layer"] == found["chosen_layer"]].sort_values(
        [*PLACE, "train_domain", "test_domain", "model"]
    )
    keys = [*PLACE, "train_domain", "test_domain", "model"]
    score_at = {tuple(row[name] for name in keys): row for row in found.to_dict("records")}
    rows = [
        _gap_row(place, row, score_at, baseline)
        for place, row in score_at.items()
        if row["train_domain"] != row["test_domain"]
    ]
    return pd.DataFrame(rows, columns=GAPS)


def _gap_row(
    place: tuple[Hashable, ...],
    row: Row,
    score_at: Mapping[tuple[Hashable, ...], Row],
    baseline: str,
) -> dict[str, Any]:
    *asked, source, target, model = place
    at = {
        "A": score_at.get((*asked, source, target, baseline)),
        "B": row,
        "C": score_at.get((*asked, target, target, baseline)),
        "C2": score_at.get((*asked, target, target, model)),
        "home": score_at.get((*asked, source, source, model)),
    }
    higher = bool(row["higher_is_better"])
    made = {name: row[name] for name in GAPS if name in row} | {"baseline": baseline}
    notes = []

    def told(name: str, wanted: str, make: Callable[..., Estimate]) -> None:
        rows = [at[key] for key in wanted.split()]
        there = [item for item in rows if item is not None and item["counts"]]
        try:
            if len(there) == len(rows):
                over = (
                    sorted({block for item in there for block in item["counts"]["block"]})
                    if name == "shift"
                    else None
                )
                estimate = make(
                    *(
                        sample_score(item["counts"], int(row["seed"]), over, str(row["metric"]))
                        for item in there
                    )
                )
            else:
                lacking = [
                    LACKING[key].format(source=source, target=target)
                    for key in wanted.split()
                    if not at[key]
                ]
                estimate = Estimate(
                    None,
                    note=f"no score of {', '.join(lacking)}"
                    if lacking
                    else "no counts in the record",
                )
        except ProbeError as error:
            estimate = Estimate(None, note=str(error).partition(":")[0])
        made.update(columns_of(name, estimate))
        if estimate.note and estimate.note not in notes:
            notes.append(estimate.note)

    told("gap", "C2 B", lambda c, b: measures.degradation(c, b, higher).estimate())
    told("relative", "C2 B", lambda c, b: measures.relative_degradation(c, b, higher))
    told("shift", "home B", lambda home, away: measures.degradation(home, away, higher).estimate())
    if at["C2"] is not None:
        made |= {
            f"in_domain{end}": at["C2"][name]
            for end, name in (("", "value"), ("_low", "low"), ("_high", "high"))
        }
    if baseline and model != baseline:
        for name, wanted in (("closed_first", "A B C"), ("closed_second", "A B C2")):
            told(name, wanted, lambda a, b, c: measures.gap_closed(a, b, c, higher))
    return {name: made.get(name, np.nan) for name in GAPS} | {"note": "; ".join(notes)}
