"""Commands that turn records into tables, figures and pages."""

import gc
import re
import sys
from dataclasses import dataclass
from itertools import filterfalse
from pathlib import Path
from typing import TYPE_CHECKING

import click

from probe.brief import counted
from probe.commands.help import command, option
from probe.commands.options import (
    PATH,
    Decorator,
    all_heads_option,
    axis_option,
    built,
    every_layer_option,
    format_option,
    records_option,
)
from probe.commands.printing import plain, print_files, print_json, print_table, terminal_width
from probe.errors import EXIT_FAILURE, UsageError
from probe.files import require_writable

if TYPE_CHECKING:
    import pandas as pd

    from probe.measures.uncertainty import Method
    from probe.reporting.filters import Term
    from probe.reporting.scores import Scores

ROWS, OUTPUT = "Rows and columns", "Output"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a table shows of records, and how."""

    every_layer: bool
    all_heads: bool
    by: str | None
    show: tuple[str, ...]
    pivot: str | None
    filters: tuple[str, ...]
    sort: str
    published: bool
    rank: bool
    robust: bool
    all_measures: bool
    baseline: str | None
    method: "Method"
    form: str | None
    excel_safe: bool

    def __post_init__(self) -> None:
        ways = {
            "--every-layer": self.every_layer and not self.robust,
            "--robust": self.robust,
            "--by": self.by,
            "--pivot": self.pivot,
            "--published": self.published,
            "--rank": self.rank,
        }
        chosen = [name for name, value in ways.items() if value]
        if len(chosen) > 1:
            raise UsageError(f"{' and '.join(chosen)}: use one of them at a time.")
        if self.method == "percentile" and (self.robust or self.rank):
            name = "--robust" if self.robust else "--rank"
            raise UsageError(
                f"--interval percentile is about the intervals of scores; those of {name} have one "
                "method (docs/statistics.md). Leave out one of them."
            )
        if self.show and self.by != "models":
            raise UsageError("--show needs --by models.")

    @property
    def terms(self) -> "tuple[list[Term], list[Term]]":
        """The filters of records, and the filters of scores: see `probe.reporting.filters`."""
        from probe.reporting.filters import early, parse_term

        terms = [parse_term(text) for text in self.filters]
        return list(filter(early, terms)), list(filterfalse(early, terms))

    @property
    def is_plain(self) -> bool:
        """Whether a row is a task and a model, as where no option says otherwise."""
        arranged = self.every_layer or self.robust or self.by or self.pivot or self.published
        return not (arranged or self.rank or self.sort)


@command()
@records_option
@built(
    "layout",
    Layout,
    every_layer_option,
    all_heads_option,
    option(
        "--by",
        type=click.Choice(["models", "layers", "conditions", "domains"]),
        group=ROWS,
        help="Rows: models (columns: tasks), layers (tasks), conditions (models) or train domains.",
    ),
    option(
        "--show",
        multiple=True,
        type=click.Choice(["best", "final", "weighted", "baselines"]),
        group=ROWS,
        help="With --by models: the layer chosen on dev, the final output, the learned sum, "
        "controls and baselines (repeatable).",
    ),
    option(
        "--pivot",
        metavar="ROWS,COLUMNS",
        group=ROWS,
        help="Table of any fields of the records; join several fields with +.",
    ),
    option(
        "--filter",
        "filters",
        multiple=True,
        metavar="FIELD=VALUE[,VALUE]",
        group=ROWS,
        help="Keep matching rows; != keeps the others, * and ? match any text (repeatable).",
    ),
    option(
        "--sort", default="", metavar="FIELD", group=ROWS, help="Sort by FIELD; -FIELD descends."
    ),
    option(
        "--published",
        is_flag=True,
        group=ROWS,
        help="Show published scores next to ours, with notes.",
    ),
    option(
        "--rank",
        is_flag=True,
        group=ROWS,
        help="Rank models over all tasks: mean rank, Borda count, SUPERB score.",
    ),
    option(
        "--robust",
        is_flag=True,
        group=ROWS,
        help="Show losses under other conditions and across domains (docs/robustness.md).",
    ),
    option(
        "--all-measures",
        is_flag=True,
        group=ROWS,
        help="Add rarely used measures: margins over chance, NWER and its kin, effective "
        "robustness, gaps recovered, spreads of groups, outlier dimensions (docs/robustness.md).",
    ),
    option(
        "--baseline",
        metavar="NAME",
        group=ROWS,
        help="Reference model of --all-measures (default: fbank).",
    ),
    option(
        "--interval",
        "method",
        type=click.Choice(["speakers", "percentile"]),
        default="speakers",
        show_default=True,
        group=ROWS,
        help="Intervals of scores: for other speakers, or percentiles of a bootstrap over speakers "
        "(docs/statistics.md).",
    ),
    format_option("text", "md", "csv", "latex", "html", "json", default=None),
    option(
        "--excel-safe",
        is_flag=True,
        group=OUTPUT,
        help="In CSV, put an apostrophe before values that a spreadsheet would read as formulas.",
    ),
)
@option(
    "--to",
    type=PATH,
    metavar="DIR",
    group=OUTPUT,
    help="Also write all tables and the layer curves into DIR.",
)
@axis_option
def table(results: tuple[Path, ...], layout: Layout, to: Path | None, axis: str) -> None:
    """Print a comparison table of records.

    By default a row is a task and a model, with the score of the layer that was chosen on dev.
    --by, --pivot and --robust arrange the scores differently; --to writes every table and the layer
    curves to files.

    \b
    Examples:
      probe table --from results/ --to tables/
      probe table --from results/ --by models --format latex
      probe table --from results/ --filter "task=asr-*" --sort -value
    """
    if to is None and axis != "index":
        raise UsageError("--axis needs --to.")
    if layout.baseline and not layout.all_measures:
        raise UsageError("--baseline needs --all-measures: the other measures use no baseline.")
    if layout.all_measures and to is None and not (layout.robust or layout.every_layer):
        raise UsageError("--all-measures needs --robust, --every-layer or --to.")
    if to is not None:
        require_writable(to)
    from probe.reporting.losses import Losses
    from probe.reporting.tables import files

    _, late = layout.terms
    if to is not None and late:
        raise UsageError(
            f"--to writes every score, but --filter {late[0]} hides some. Leave out one of them, "
            "or write the filtered table with --format csv > FILE."
        )
    scores, text = _table(results, layout)
    click.echo(text, nl=False)
    if to is not None and layout.robust:
        losses = Losses(scores, layout.all_measures, layout.baseline)
        print_files(files.write_robustness(losses, to))
    elif to is not None:
        print_files(files.write_tables(scores, to, axis, layout.all_measures, layout.baseline))


def _table(results: tuple[Path, ...], layout: Layout) -> "tuple[Scores, str]":
    """The scores of the records that the filters keep, and the table that the layout describes."""
    from probe.reporting.filters import kept
    from probe.reporting.losses import Losses
    from probe.reporting.scores import Scores
    from probe.reporting.tables import files
    from probe.reporting.tables.pivot import arranged, pivoted
    from probe.reporting.tables.terminal import terminal_table

    early, late = layout.terms
    records = kept(_read(*results), early)
    sort, excel_safe = layout.sort, layout.excel_safe
    if (layout.robust or layout.rank) and (late or sort):
        name = "--robust" if layout.robust else "--rank"
        raise UsageError(f"{name} takes neither --sort nor a --filter of scores.")
    width = terminal_width()
    form = layout.form or ("text" if width else "md")
    named = [layout.pivot or "", *(term.field for term in (*early, *late))]
    all_heads = layout.all_heads or any("headline" in name for name in named)
    scores = Scores.of(records, all_heads, layout.method)
    if form == "text" and layout.is_plain and not late:
        return scores, terminal_table(scores, width or 100)
    form = "md" if form == "text" else form
    if layout.robust:
        losses = Losses(scores, layout.all_measures, layout.baseline)
        text = files.robustness(losses, form, layout.every_layer, excel_safe)
    elif layout.rank:
        from probe.reporting.tables.rank_tables import rank_grid, rank_rows

        text = files.in_form([rank_grid(rank_rows(scores))], form, excel_safe)
    elif layout.by:
        grids = arranged(scores, layout.by, layout.show or ("best",), late, sort)
        text = files.in_form(grids, form, excel_safe)
    elif layout.pivot:
        rows, _, columns = layout.pivot.partition(",")
        grids = pivoted(scores, rows.split("+"), columns.split("+"), late, sort)
        text = files.in_form(grids, form, excel_safe)
    else:
        text = files.scores(
            scores,
            form,
            layout.every_layer,
            layout.published,
            late,
            sort,
            excel_safe,
            layout.all_measures,
        )
    return scores, text


def _only(column: str) -> Decorator:
    return option(
        f"--{column}", multiple=True, metavar="NAME", help=f"Draw only this {column} (repeatable)."
    )


@command()
@click.argument(
    "kind",
    type=click.Choice(
        ["layers", "conditions", "domains", "similarity", "budgets", "search", "det", "ranks"]
    ),
)
@records_option
@option(
    "--to", required=True, type=PATH, metavar="FILE", help="Picture to write: .png, .svg or .pdf."
)
@built("only", dict, *map(_only, ("model", "task", "metric", "condition")))
@axis_option
@option(
    "--width",
    type=click.Choice(["single", "double"]),
    default="double",
    show_default=True,
    help="Width in a two-column paper: one column (3.3 in) or the page (6.9 in).",
)
def plot(
    kind: str,
    results: tuple[Path, ...],
    to: Path,
    only: dict[str, tuple[str, ...]],
    axis: str,
    width: str,
) -> None:
    """Draw a figure of the records (see docs/figures.md).

    \b
    Examples:
      probe plot layers --from results/ --to layers.pdf --width single
      probe plot conditions --from results/ --task word-id --to conditions.svg
    """
    require_writable(to.parent)
    from probe.reporting.figures import plot

    plot.plot(kind, results, to, only, axis, width)
    print_files([to])


@command()
@click.argument("runs", nargs=-1, metavar="[A B]", type=PATH)
@option(
    "--from",
    "results",
    multiple=True,
    type=PATH,
    metavar="DIR",
    help="Folder of records of both models (repeatable).",
)
@option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="Model in the records of --from; give two.",
)
@every_layer_option
@all_heads_option
@format_option("md", "csv", "json", default="md")
@option(
    "--fail-on",
    type=click.Choice(["worse"]),
    help="Exit with 1 if a score of B is significantly worse.",
)
def compare(
    runs: tuple[Path, ...],
    results: tuple[Path, ...],
    models: tuple[str, ...],
    every_layer: bool,
    all_heads: bool,
    form: str,
    fail_on: str | None,
) -> None:
    """Compare two folders of records, or two models, score by score.

    Each score is better, worse, not significantly different or identical; the table also says what
    differs in code, libraries, recipes and seeds.

    \b
    Examples:
      probe compare before/ after/ --fail-on worse
      probe compare --from results/ --model wav2vec2-base --model fbank
    """
    from probe.reporting.scores import Scores
    from probe.reporting.tables import comparison as comparing
    from probe.reporting.tables.score_tables import to_csv

    if len(runs) == 2 and not results and not models:
        a, b = runs
        before, after = (Scores.of(_read(run), all_heads) for run in (a, b))
        comparison = comparing.compare_runs(str(a), before, str(b), after, every_layer)
    elif len(models) == 2 and results and not runs:
        scores = Scores.of(_read(*results), all_heads)
        comparison = comparing.compare_models(scores, *models, every_layer)
    else:
        raise UsageError(
            "compare: give two folders of records, A and B; or --from a folder and --model twice."
        )
    to_text = {
        "md": comparing.to_markdown,
        "csv": lambda comparison: to_csv(comparison.rows),
        "json": comparing.to_json,
    }
    click.echo(plain(to_text[form](comparison)), nl=False)
    if form != "md":
        click.echo(plain(comparison.summary()), err=True)
    if fail_on and comparison.counted()[fail_on]:
        sys.exit(EXIT_FAILURE)


@command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=PATH)
@option(
    "--check",
    is_flag=True,
    help="Recompute every value (docs/records.md); exit with 1 on a finding.",
)
@option(
    "--export",
    "target",
    type=click.Choice(["hf"]),
    help="Write evaluation results and card snippets for the Hugging Face Hub.",
)
@option("--to", type=PATH, metavar="DIR", help="Folder for --export; it gets a folder per model.")
@option(
    "--dataset",
    "datasets",
    multiple=True,
    metavar="CORPUS=ORG/NAME",
    help="Dataset of a corpus on the Hub, for --export (repeatable).",
)
@format_option("text", "json")
def records(
    paths: tuple[Path, ...],
    check: bool,
    target: str | None,
    to: Path | None,
    datasets: tuple[str, ...],
    form: str,
) -> None:
    """List, check or export files of records.

    \b
    Examples:
      probe records results/
      probe records results/ --check
      probe records results/ --export hf --to cards/
    """
    if (target is None) != (to is None) or (datasets and not target):
        raise UsageError("records: --export needs --to, --to and --dataset need --export.")
    if check and target is not None:
        raise UsageError("records: --check and --export are two commands.")
    if target and to:
        require_writable(to)
        _export(paths, to, datasets)
    elif check:
        _check(paths, form)
    else:
        _list(paths, form)


def _list(paths: tuple[Path, ...], form: str) -> None:
    from probe.record_check import contents

    files = contents(paths)
    if form == "json":
        print_json(files)
        return
    print_table(list(files[0]), [[str(value) for value in file.values()] for file in files])
    tasks, models = ({file[name] for file in files} for name in ("task", "model"))
    total = sum(file["records"] for file in files)
    numbers = {"file": len(files), "record": total, "model": len(models), "task": len(tasks)}
    click.echo(", ".join(counted(n, noun) for noun, n in numbers.items()), err=True)


def _check(paths: tuple[Path, ...], form: str) -> None:
    from probe.record_check import check_records

    n_lines, findings = check_records(paths)
    if form == "json":
        print_json([vars(finding) for finding in findings])
    for finding in [] if form == "json" else findings:
        click.echo(plain(str(finding)).replace("\n", "\\n"))
    click.echo(f"{counted(n_lines, 'record')}, {counted(len(findings), 'finding')}", err=True)
    if findings:
        sys.exit(EXIT_FAILURE)


def _export(paths: tuple[Path, ...], to: Path, datasets: tuple[str, ...]) -> None:
    from probe.reporting.tables.model_card import REPOSITORY, write_cards

    for text in datasets:
        if not re.fullmatch(f".+={REPOSITORY}", text):
            raise UsageError(
                f"--dataset {text!r}: expected CORPUS=ORG/NAME, a manifest's name and its dataset "
                "on the Hub."
            )
    written, left_out = write_cards(
        _read(*paths), to, dict(text.rsplit("=", 1) for text in datasets)
    )
    for line in (*written, *(f"left out: {reason}" for reason in left_out)):
        click.echo(plain(str(line)), err=True)


@command()
@records_option
@option(
    "--to",
    type=PATH,
    default=Path("report.html"),
    show_default=True,
    metavar="FILE",
    help="Page to write.",
)
@option(
    "--outcomes/--no-outcomes",
    default=True,
    help="Show the worst utterances, with keys, speakers and transcripts.",
)
@option(
    "--title", default="layerprobe report", show_default=True, metavar="TEXT", help="Page title."
)
def report(results: tuple[Path, ...], to: Path, outcomes: bool, title: str) -> None:
    """Write one HTML page with all results of the records.

    The page holds a summary in words, tables, layer curves, the worst utterances and the commands
    that repeat everything. It needs no network.

    \b
    Example:
      probe report --from results/ --to report.html
    """
    require_writable(to.parent)
    from probe.reporting.report.page import write_report

    click.echo(str(write_report(_read(*results), to, results, outcomes, title)))


def _read(*paths: Path) -> "pd.DataFrame":
    """Return the records of a command, which stay in memory until it ends."""
    from probe.records import read_records

    records = read_records(*paths)
    # Otherwise the first collection walks all these objects for a second or more, in vain.
    gc.freeze()
    return records
