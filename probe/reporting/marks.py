"""Which score of a table is best, and which are tied with it."""

import pandas as pd

from probe.records import OWN_HEAD

BEST, TIED = "best", "tied"
BITS = "codelength"  # the metric that is not in percent
COMPARED = ["task", "corpus", "condition", "train_condition", "metric", "train_domain", "test_domain"]


def marks(rows: pd.DataFrame) -> "pd.Series[str]":
    """`BEST` where a row's value, as printed, is the best of several models; equal values are all best. Empty elsewhere.

    A checkpoint's own head is a reference outside the contest: it was trained on other data than the probes.
    """
    rows = rows.assign(value=rows["value"].where(rows["head"] != OWN_HEAD))
    keys = [rows[name] for name in COMPARED]
    printed = (100 * rows["value"]).round(1).where(rows["metric"] != BITS, rows["value"].round(2))
    score = printed.where(rows["higher_is_better"].astype(bool), -printed)
    several = rows["model"].where(rows["value"].notna()).groupby(keys).transform("nunique") > 1
    best = several & (score == score.groupby(keys).transform("max"))
    return best.map({True: BEST, False: ""})
