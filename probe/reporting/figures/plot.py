"""Figures of records and of comparisons of representations, by kind, of some of their models,
tasks, metrics and conditions.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from probe.errors import ProbeError, listed
from probe.records import read_records
from probe.reporting.domain_gaps import crossed
from probe.reporting.figures.budget_curves import budgets_figure
from probe.reporting.figures.condition_curves import conditions_figure
from probe.reporting.figures.det import det_figure, det_rows
from probe.reporting.figures.domain_maps import domains_figure
from probe.reporting.figures.layer_curves import curves_figure, usual_rows
from probe.reporting.figures.search_maps import search_figure
from probe.reporting.figures.style import write_figure
from probe.reporting.filters import comparable
from probe.reporting.losses import CLEAN, condition_rows
from probe.reporting.rows import budget_rows, layer_rows, summary_rows
from probe.reporting.tables.similarity_tables import read_similarity, similarity_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Kind -> the rows that it draws, of records, and the figure of these rows.
Draw = Callable[..., "Figure"]
KINDS: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], Draw]] = {
    "layers": (layer_rows, curves_figure),
    "conditions": (condition_rows, conditions_figure),
    "domains": (lambda records: summary_rows(crossed(records)), domains_figure),
    "budgets": (budget_rows, budgets_figure),
    "search": (lambda records: records, search_figure),
    "det": (det_rows, det_figure),
}
SIMILARITY = "similarity"


def plot(
    kind: str,
    sources: Sequence[Path | str],
    to: Path | str,
    models: Sequence[str] = (),
    tasks: Sequence[str] = (),
    metrics: Sequence[str] = (),
    conditions: Sequence[str] = (),
    axis: str = "index",
    width: str = "double",
) -> None:
    """Draws records (of kind ``similarity``: what `probe similarity` wrote) into one file;
    docs/figures.md shows the kinds.

    Args:
        kind: one of `KINDS`, or `SIMILARITY`.
        sources: folders of records, or files; their sub-folder ``similarity`` is found.
        to: ends in ``.png``, ``.svg`` or ``.pdf``.
        models, tasks, metrics, conditions: what is drawn; everything where empty, but see
            `probe.reporting.figures.layer_curves.usual_rows`.
        axis: of ``layers``, one of `probe.reporting.figures.layer_curves.AXES`.
        width: one of `probe.reporting.figures.style.WIDTHS`.

    Raises:
        ProbeError: nothing to read or to draw, a name that is not there, or see
            `probe.reporting.comparable_files.comparable`.
        OSError: a file cannot be read or written.
    """
    heard = [
        *conditions,
        *([CLEAN] if conditions and kind == "conditions" else []),
    ]  # what they are compared with
    of_rows = {"model": models, "task": tasks, "condition": heard}
    if kind == SIMILARITY:
        folders = [
            path / SIMILARITY if (path / SIMILARITY).is_dir() else path
            for path in map(Path, sources)
        ]
        cells = _filtered(
            read_similarity(*folders), {"model": models, "other_condition": conditions}
        )
        write_figure(lambda: similarity_figure(cells, width, metrics), Path(to))
        return
    rows_of, figure_of = KINDS[kind]
    records = _filtered(
        read_records(*sources), of_rows | ({"select_by": metrics} if kind == "search" else {})
    )
    rows = rows_of(comparable(records))
    if metrics and kind != "search":
        rows = _filtered(rows, {"metric": metrics})
    if kind == "layers" and not conditions:
        rows = usual_rows(rows)
    options = {"axis": axis} if kind == "layers" else {}
    write_figure(lambda: figure_of(rows, width=width, **options), Path(to))


def _filtered(rows: pd.DataFrame, wanted: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """The rows that have one of the wanted values in every column that is asked for.

    Raises:
        ProbeError: a value that no row has; it says which there are.
    """
    for column, values in wanted.items():
        there = sorted(set(rows[column]))
        if lacking := [value for value in values if value not in there]:
            raise ProbeError(
                f"no {column.replace('_', ' ')} {listed(lacking)} to draw. There are: {listed(there, 20) or 'none'}."
            )
        rows = rows[rows[column].isin(values)] if values else rows
    return rows
