"""What `probe table` prints, in the format that is asked for."""

from collections.abc import Sequence

import pandas as pd

from probe.reporting.filters import Term, kept, ordered
from probe.reporting.losses import Losses, first_sampling
from probe.reporting.rows import layer_rows, specs_of, summary_rows
from probe.reporting.scores import Scores
from probe.reporting.tables import files, grid, robustness_tables
from probe.reporting.tables.grid import Grid
from probe.reporting.tables.latex import to_latex
from probe.reporting.tables.published import published_grid, published_rows


def scores(
    records: pd.DataFrame,
    form: str,
    layers: bool = False,
    published: bool = False,
    terms: Sequence[Term] = (),
    sort: str = "",
    all_heads: bool = False,
    excel_safe: bool = False,
) -> str:
    """The scores at the chosen layers, or of every layer if ``layers``, or beside published
    figures.

    CSV and JSON hold the rows of `summary_rows`, `layer_rows` or `published_rows`; the others show
    them, with the domain matrices below the chosen layers' where all rows are shown.

    Args:
        records: see `probe.records.read_records`.
        form: ``md``, ``csv``, ``latex``, ``html`` or ``json``.
        terms, sort: see `probe.reporting.filters`.

    Raises:
        ProbeError: see `probe.reporting.comparable_files.comparable`.
        UsageError: an unknown field, or no row is left.
    """
    rows = layer_rows(records, all_heads) if layers else summary_rows(records, all_heads)
    rows = ordered(kept(rows, terms), sort)
    if published:
        rows = published_rows(rows, specs_of(records))
    if form in ("csv", "json"):
        return files.to_csv(rows, excel_safe) if form == "csv" else files.to_json(rows)
    if form == "md" and rows.empty:
        return files.to_markdown(rows, layers)
    if published:
        return in_form([published_grid(rows)], form)
    matrices = [] if layers or terms else files.domain_grids(records)
    return in_form([files.grid_of(rows, layers), *matrices], form)


def robustness(
    records: pd.DataFrame,
    form: str,
    layers: bool = False,
    baseline: str | None = None,
    all_heads: bool = False,
    excel_safe: bool = False,
) -> str:
    """The robustness tables at the chosen layers, or of every layer, with a domain matrix each, if
    ``layers``.

    CSV and JSON hold the rows of `probe.reporting.tables.robustness_tables.Robustness`: of
    conditions, or where there are none of domains. Records may be of several samplings (seeds).

    Args:
        records: see `probe.records.read_records`.
        form: ``md``, ``csv``, ``latex``, ``html`` or ``json``.
        baseline: see `probe.reporting.model_robustness.baseline_of`.

    Raises:
        ProbeError: see `probe.reporting.tables.robustness_tables.robustness`.
    """
    found = Losses(Scores.of(records, all_heads), baseline)
    if form in ("csv", "json"):
        rows = found.conditions if layers else found.at_chosen_layers
        if rows.empty and not found.empty:
            rows = (
                files.domain_rows(first_sampling(records), layers=True)
                if layers
                else found.gaps_and_groups
            )
        return files.to_csv(rows, excel_safe) if form == "csv" else files.to_json(rows)
    matrices = files.domain_grids(first_sampling(records), layers=True) if layers else []
    if form == "md":
        texts = [
            robustness_tables.every_layer(found) if layers else "",
            files.domains_text(matrices),
        ]
        return "\n".join(filter(None, texts)) or robustness_tables.summary(found)
    shown = (
        [*robustness_tables.layer_grids(found), *matrices]
        if layers
        else robustness_tables.summary_grids(found)
    )
    return in_form(shown or [Grid((), (), notes=[robustness_tables.NOTHING])], form)


def in_form(grids: Sequence[Grid], form: str, excel_safe: bool = False) -> str:
    """Tables as ``md``, ``csv``, ``latex``, ``html`` or ``json``."""
    if form == "csv":
        return grid.to_csv(grids, excel_safe)
    return {"md": grid.to_markdown, "latex": to_latex, "html": grid.to_html, "json": grid.to_json}[
        form
    ](grids)
