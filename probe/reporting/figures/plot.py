"""`probe plot`: one figure of records, or of comparisons of representations, by kind."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.data.conditions.grammar import CLEAN
from probe.errors import ProbeError, listed
from probe.records import read_records
from probe.reporting.figures.budgets import budgets_figure
from probe.reporting.figures.conditions import conditions_figure
from probe.reporting.figures.det import det_figure, det_rows
from probe.reporting.figures.heat_map import domains_figure, search_figure
from probe.reporting.figures.layers import curves_figure, usual_rows
from probe.reporting.figures.ranks import ranks_figure
from probe.reporting.figures.style import write_figure
from probe.reporting.losses import Losses
from probe.reporting.scores import Scores
from probe.reporting.tables.rank_tables import rank_rows
from probe.reporting.tables.similarity_tables import read_similarity, similarity_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Kind -> the rows of scores that it draws, and the figure of these rows.
KINDS: dict[str, tuple[Callable[[Scores], Any], Callable[..., "Figure"]]] = {
    "layers": (lambda scores: scores.layers(marked=False), curves_figure),
    "conditions": (lambda scores: Losses(scores).chosen, conditions_figure),
    "domains": (Scores.domains, domains_figure),
    "budgets": (Scores.budgets, budgets_figure),
    "search": (lambda scores: scores, search_figure),
    "det": (det_rows, det_figure),
    "ranks": (rank_rows, ranks_figure),
}
SIMILARITY = "similarity"


def plot(
    kind: str,
    sources: Sequence[Path | str],
    to: Path | str,
    only: Mapping[str, Sequence[str]] | None = None,
    axis: str = "index",
    width: str = "double",
) -> None:
    """Draw records, or for ``similarity`` the files of `probe similarity`, into one file;
    docs/figures.md shows the kinds.

    Args:
        kind: one of `KINDS`, or `SIMILARITY`.
        sources: folders of records, or files; their sub-folder ``similarity`` is found.
        to: ends in ``.png``, ``.svg`` or ``.pdf``.
        only: column (``model``, ``task``, ``metric``, ``condition``) -> the values that are drawn;
            all where empty, but see `probe.reporting.figures.layers.usual_rows`.
        axis: for ``layers``, ``index`` or ``depth``.
        width: one of `probe.reporting.figures.style.WIDTHS`.

    Raises:
        ProbeError: there is nothing to read or to draw, or no record has a value.
        OSError: a file cannot be read or written.
    """
    chosen = {column: list(values) for column, values in (only or {}).items() if values}
    conditions, metrics = chosen.get("condition", []), chosen.pop("metric", [])
    if kind == SIMILARITY:
        folders = [Path(source) for source in sources]
        folders = [path / SIMILARITY if (path / SIMILARITY).is_dir() else path for path in folders]
        columns = {"model": chosen.get("model", []), "other_condition": conditions}
        cells = _filtered(read_similarity(*folders), columns)
        write_figure(lambda: similarity_figure(cells, width, metrics), Path(to))
        return
    if kind == "conditions" and conditions:
        chosen["condition"] = [*conditions, CLEAN]
    if kind == "search":
        chosen["select_by"] = metrics
    rows_of, figure_of = KINDS[kind]
    rows = rows_of(Scores.of(_filtered(read_records(*sources), chosen)))
    if kind not in ("search", "ranks"):
        rows = _filtered(rows, {"metric": metrics})
    if kind == "layers" and not conditions:
        rows = usual_rows(rows)
    options = {"axis": axis} if kind == "layers" else {}
    write_figure(lambda: figure_of(rows, width=width, **options), Path(to))


def _filtered(rows: pd.DataFrame, chosen: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """The rows that have one of the chosen values in every column.

    Raises:
        ProbeError: no row has a value; the message lists those that there are.
    """
    for column, values in chosen.items():
        if not values:
            continue
        known = sorted(set(rows[column]))
        if unknown := [value for value in values if value not in known]:
            name, available = column.replace("_", " "), listed(known, 20) or "none"
            raise ProbeError(f"no {name} {listed(unknown)} to draw. Available: {available}.")
        rows = rows[rows[column].isin(values)]
    return rows
