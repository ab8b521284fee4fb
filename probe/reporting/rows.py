"""Names of before, until every view reads `probe.reporting.scores.Scores`."""

import pandas as pd

from probe.reporting.scores import BUDGETS, LAYERS, Scores, seed_notes
from probe.reporting.scores import CHOSEN as SUMMARY
from probe.reporting.text import one_line

__all__ = ["BUDGETS", "LAYERS", "SUMMARY", "one_line", "seed_notes"]


def summary_rows(records: pd.DataFrame, all_heads: bool = False) -> pd.DataFrame:
    """See `Scores.chosen`."""
    return Scores.of(records, all_heads).chosen()


def layer_rows(records: pd.DataFrame, all_heads: bool = False, marked: bool = True) -> pd.DataFrame:
    """See `Scores.layers`."""
    return Scores.of(records, all_heads).layers(marked)


def budget_rows(records: pd.DataFrame, all_heads: bool = False) -> pd.DataFrame:
    """See `Scores.budgets`."""
    return Scores.of(records, all_heads).budgets()


def specs_of(records: pd.DataFrame) -> dict[str, str]:
    """See `Scores`."""
    return Scores(records, lambda checked: checked).specs
