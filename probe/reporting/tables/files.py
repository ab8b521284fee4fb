"""What `probe table` prints, and the files that it writes."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from probe.files import write_atomically
from probe.reporting.domain_gaps import GAPS
from probe.reporting.figures.conditions import conditions_figure
from probe.reporting.figures.det import det_figure, det_rows
from probe.reporting.figures.layers import curve_rows, curves_figure, usual_rows
from probe.reporting.figures.style import missing_matplotlib, write_figure
from probe.reporting.filters import Term, kept, ordered
from probe.reporting.losses import CONDITIONS, Losses
from probe.reporting.scores import BUDGETS, Scores
from probe.reporting.tables import grid, robustness_tables
from probe.reporting.tables.grid import Grid
from probe.reporting.tables.latex import to_latex
from probe.reporting.tables.published import published_grid, published_rows
from probe.reporting.tables.score_tables import (
    SHAPE,
    budget_grids,
    domain_grids,
    grid_of,
    layers_by_question,
    to_csv,
    to_json,
    to_markdown,
)
from probe.reporting.worst_groups import GROUPS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("probe")

TABLE_HEAD = """# Scores

Test scores at the layer that is best on dev. `last` is the highest numbered layer, `final` the \
output after the final LayerNorm.
`weighted` is a learned sum of all layers. Baselines at the same place: {constant};
`shuffled`, trained on shuffled labels; `fbank` and `random`, filter banks and the same \
architecture with random weights.
`selectivity` is the score less that of labels drawn at random for each type.
Bold is the highest (↑) or lowest (↓) of the models; underlined models are in the 95 % model \
confidence set (`in set` in the column `mark` of the CSV): they may be the best as well.
Models that are `not tested` against each other (fewer than six blocks, or a metric without an \
interval) have no mark.

"""
LAYERS_HEAD = """# Scores of every layer

Test scores, beside them the dev score by which the layer marked ✓ was chosen (or, for another \
metric, its own dev score).

"""
BUDGETS_HEAD = """# With fewer labels

Test scores of every layer, one column per budget of training labels; in parentheses how many \
utterances or frames that is. ✓ marks
the layer that is best on dev with that budget.

"""
SHAPE_HEAD = """`depth` is relative, 1 the last block. Of a layer's training rows, in the task's \
view: `rms`, effective `rank`,
`anisotropy` (mean cosine of two rows){outliers}.

"""
OUTLIERS = (
    """, `outliers` (dimensions whose rms is above the others' by three standard deviations)"""
)
# The columns of layers that `all_measures` adds.
ON_REQUEST = ["outlier_dims"]

DOMAINS_HEAD = """# Across domains

Test scores in percent: one row per train domain, at the layer that is best on the dev data of \
that domain; in parentheses the
gap to the in-domain score of the row, in points, positive where the score is worse out of domain.

"""

# Name of a file that may be left out -> how it begins where it is written.
BEGINNINGS = {
    "domains.md": DOMAINS_HEAD,
    "budgets.md": BUDGETS_HEAD,
    "budgets.csv": ",".join(BUDGETS[: BUDGETS.index("few")]),
    "robustness.md": robustness_tables.HEAD,
    "robustness_layers.md": robustness_tables.LAYERS_HEAD,
    "robustness.csv": ",".join(CONDITIONS[: CONDITIONS.index("shared_speakers")]),
    "robustness_layers.csv": ",".join(CONDITIONS[: CONDITIONS.index("shared_speakers")]),
    "robustness_gaps.csv": ",".join(GAPS),
    "robustness_groups.csv": ",".join(GROUPS),
}


def scores(
    records: Scores,
    form: str,
    layers: bool = False,
    published: bool = False,
    terms: Sequence[Term] = (),
    sort: str = "",
    excel_safe: bool = False,
    all_measures: bool = False,
) -> str:
    """The scores at the chosen layers, or of every layer if ``layers``, or beside published
    figures.

    CSV and JSON hold the rows of `Scores.chosen`, `Scores.layers` or `published_rows`; the others
    show them, with the domain matrices below the chosen layers' where all rows are shown.

    Args:
        form: ``md``, ``csv``, ``latex``, ``html`` or ``json``.
        terms, sort: see `probe.reporting.filters`.
        all_measures: shows the outlier dimensions of every layer too.

    Raises:
        UsageError: an unknown field, or no row is left.
    """
    rows = records.layers() if layers else records.chosen()
    rows = ordered(kept(rows, terms), sort)
    if layers and not all_measures:
        rows = rows.drop(columns=ON_REQUEST)
    if published:
        rows = published_rows(rows, records.specs)
    if form in ("csv", "json"):
        return to_csv(rows, excel_safe) if form == "csv" else to_json(rows)
    if form == "md" and rows.empty:
        return to_markdown(rows, layers)
    if published:
        return in_form([published_grid(rows)], form)
    matrices = [] if layers or terms else domain_grids(records)
    return in_form([grid_of(rows, layers), *matrices], form)


def robustness(losses: Losses, form: str, layers: bool = False, excel_safe: bool = False) -> str:
    """The robustness tables at the chosen layers, or of every layer, with a domain matrix each, if
    ``layers``.

    CSV and JSON hold the rows of `Losses`: of conditions, or where there are none of domains.

    Args:
        form: ``md``, ``csv``, ``latex``, ``html`` or ``json``.
    """
    sampling = losses.scores.one_sampling
    if form in ("csv", "json"):
        rows = losses.conditions if layers else losses.at_chosen_layers
        if rows.empty and not losses.empty:
            rows = sampling.domains(layers=True) if layers else losses.gaps_and_groups
        return to_csv(rows, excel_safe) if form == "csv" else to_json(rows)
    matrices = domain_grids(sampling, layers=True) if layers else []
    if form == "md":
        texts = [robustness_tables.every_layer(losses), domains_text(matrices)] if layers else []
        return "\n".join(filter(None, texts)) or robustness_tables.summary(losses)
    tables = robustness_tables.summary_grids(losses)
    if layers:
        tables = [*robustness_tables.layer_grids(losses), *matrices]
    return in_form(tables or [Grid((), (), notes=[robustness_tables.NOTHING])], form)


def in_form(grids: Sequence[Grid], form: str, excel_safe: bool = False) -> str:
    """Tables as ``md``, ``csv``, ``latex``, ``html`` or ``json``."""
    if form == "csv":
        return grid.to_csv(grids, excel_safe)
    forms = {"md": grid.to_markdown, "latex": to_latex, "html": grid.to_html, "json": grid.to_json}
    return forms[form](grids)


def _table_head(rows: pd.DataFrame) -> str:
    """What stands above the scores at the chosen layers."""
    constant = "`majority`, always the most frequent training label"
    if rows["mean"].notna().any():
        constant += "; `mean`, always the mean of the training labels"
    return TABLE_HEAD.format(constant=constant)


def domains_text(grids: Sequence[Grid]) -> str:
    """The Markdown of ``domains.md`` from `domain_grids`; empty without any."""
    return DOMAINS_HEAD + grid.to_markdown(grids) if grids else ""


def write_tables(
    records: "Scores | pd.DataFrame",
    to: Path,
    axis: str = "index",
    all_measures: bool = False,
    baseline: str | None = None,
) -> list[Path]:
    """Write all tables and figures of records into the folder ``to``; return the files.

    ``table`` and ``layers`` as ``.md`` and ``.csv``; ``domains.md`` if a task crosses domains;
    ``budgets`` as ``.md`` and ``.csv`` if there are learning curves; ``robustness`` as ``.md`` and
    ``.csv``, with ``robustness_layers``, ``robustness_gaps.csv`` and ``robustness_groups.csv``, if
    there are several conditions or domains; ``curves.png`` and ``.svg``, ``det.png`` and ``.svg``
    of verification, and ``robustness.png`` and ``.svg``, if there is something to draw and
    matplotlib is installed (`missing_matplotlib` says). One of these that is left out is removed if
    an earlier run wrote it, so that none stands beside the new ones; a file of this name that
    begins otherwise is left with a warning.

    Args:
        records: scores, or records as `probe.records.read_records` returns them.
        axis: of the curves, see `probe.reporting.figures.layers`.
        all_measures, baseline: of the robustness tables, see `probe.reporting.losses.Losses`;
            ``all_measures`` also adds the outlier dimensions of every layer.

    Raises:
        ProbeError: there are no records.
        OSError: a file cannot be written.
    """
    prepared = records if isinstance(records, Scores) else Scores.of(records)
    losses = Losses(prepared, all_measures, baseline)
    chosen, layers, budgets = prepared.chosen(), prepared.layers(), prepared.budgets()
    if not all_measures:
        layers = layers.drop(columns=ON_REQUEST)
    has_shape = bool(layers.filter([column for column, _ in SHAPE.values()]).notna().any(axis=None))
    shape_head = SHAPE_HEAD.format(outliers=OUTLIERS if all_measures else "")
    texts = {
        "table.md": _table_head(chosen) + to_markdown(chosen, layers=False),
        "table.csv": to_csv(chosen),
        "layers.md": LAYERS_HEAD + (shape_head if has_shape else "") + layers_by_question(layers),
        "layers.csv": to_csv(layers),
        "domains.md": domains_text(domain_grids(prepared)),
        "budgets.md": "",
        "budgets.csv": "",
    }
    if len(budgets):
        texts["budgets.md"] = BUDGETS_HEAD + grid.to_markdown(budget_grids(budgets))
        texts["budgets.csv"] = to_csv(budgets)
    usual = usual_rows(layers)
    curves = (lambda: curves_figure(usual, axis)) if len(curve_rows(usual)) else None
    trials = det_rows(prepared)
    trade_offs = (lambda: det_figure(trials)) if len(trials) else None
    return [
        *_write_texts(to, texts),
        *_write_pictures(to, "curves", curves),
        *_write_pictures(to, "det", trade_offs),
        *write_robustness(losses, to),
    ]


def write_robustness(losses: Losses, to: Path) -> list[Path]:
    """Write the files of the robustness tables: those of `write_tables` that are named so.

    Raises:
        OSError: a file cannot be written.
    """
    has_groups = not losses.empty and len(losses.groups)
    texts = {
        "robustness.md": "" if losses.empty else robustness_tables.summary(losses),
        "robustness.csv": to_csv(losses.at_chosen_layers) if len(losses.conditions) else "",
        "robustness_layers.md": robustness_tables.every_layer(losses),
        "robustness_layers.csv": to_csv(losses.conditions) if len(losses.conditions) else "",
        "robustness_gaps.csv": to_csv(losses.gaps) if len(losses.gaps) else "",
        "robustness_groups.csv": to_csv(losses.groups) if has_groups else "",
    }
    has_chosen = losses.conditions["chosen"].astype(bool).any()
    curves = (lambda: conditions_figure(losses.conditions)) if has_chosen else None
    return [*_write_texts(to, texts), *_write_pictures(to, "robustness", curves)]


def _write_texts(to: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write the texts that are not empty; remove the others' files where they are `_ours`."""
    to.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        if text:
            write_atomically(to / name, text.encode())
        else:
            _remove(to / name)
    return [to / name for name, text in texts.items() if text]


def _write_pictures(to: Path, name: str, draw: "Callable[[], Figure] | None") -> list[Path]:
    """Write a figure if there is one and matplotlib to draw it; else remove files that are
    `_ours`.
    """
    pictures = [to / f"{name}.png", to / f"{name}.svg"]
    if draw is not None and not missing_matplotlib():
        write_figure(draw, *pictures)
        return pictures
    for path in pictures:
        _remove(path)
    return []


def _remove(path: Path) -> None:
    if _ours(path):
        path.unlink()
    elif path.exists():
        log.warning(
            "%s: not of these records, and not one of this program's files as it writes them now: "
            "left as it is",
            path,
        )


def _ours(path: Path) -> bool:
    """Whether a file begins like those that `write_tables` writes under this name; of a picture,
    whether it has our digest.
    """
    if not path.is_file():
        return False
    content = path.read_bytes()
    if path.suffix in (".png", ".svg"):
        return re.search(rb"data sha256 [0-9a-f]{64}", content) is not None
    return content.startswith(BEGINNINGS[path.name].encode())
