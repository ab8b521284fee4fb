"""Reports: what is made of records."""

from itertools import filterfalse
from pathlib import Path

import click

from probe.commands.printing import print_files
from probe.errors import UsageError


@click.command()
@click.option("--from", "results", multiple=True, required=True, type=click.Path(path_type=Path), help="Folder of records.")
@click.option("--layers", is_flag=True, help="Every layer instead of the one that dev chose.")
@click.option("--all-heads", is_flag=True, help="Every head and backend instead of the headline ones.")
@click.option(
    "--by",
    type=click.Choice(["models", "layers", "conditions", "domains"]),
    help="What the rows are: models (beside tasks), layers (beside tasks), conditions (beside models), train domains.",
)
@click.option(
    "--show",
    multiple=True,
    type=click.Choice(["best", "final", "weighted", "baselines"]),
    help="With --by models, several times: the layer that dev chose, the final output, the learned sum, controls and baselines.",
)
@click.option("--pivot", metavar="ROWS,COLUMNS", help="A table of any fields of the records; several joined by +.")
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="FIELD=VALUE[,VALUE]",
    help="Only what fits; != for what does not, * and ? in values; several times.",
)
@click.option("--sort", default="", metavar="FIELD", help="Orders the rows; -FIELD turns it round.")
@click.option("--against", type=click.Choice(["published"]), help="Beside the figures of others, and how they were had.")
@click.option("--format", "form", type=click.Choice(["md", "csv", "latex", "html", "json"]), default="md", show_default=True)
@click.option("--excel-safe", is_flag=True, help="In CSV, an apostrophe before what a spreadsheet would take for a formula.")
@click.option("--to", type=click.Path(path_type=Path), help="Also write table, layers, domains (md) and curves (png, svg) here.")
@click.option(
    "--axis",
    type=click.Choice(["index", "depth"]),
    default="index",
    show_default=True,
    help="Of the curves: the layer's number, or 0 to 1 in every model.",
)
@click.option("--robust", is_flag=True, help="What is lost under other conditions and across domains (docs/robustness.md).")
@click.option("--baseline", metavar="MODEL", help="That the robustness tables measure against; fbank if it is there.")
def table(
    results: tuple[Path, ...],
    layers: bool,
    all_heads: bool,
    by: str | None,
    show: tuple[str, ...],
    pivot: str | None,
    filters: tuple[str, ...],
    sort: str,
    against: str | None,
    form: str,
    excel_safe: bool,
    to: Path | None,
    axis: str,
    robust: bool,
    baseline: str | None,
) -> None:
    """Print a comparison table of the records; with --to write all tables and the layer curves."""
    from probe.records import read_records
    from probe.reporting import printing, tables
    from probe.reporting.arrangements import arranged, pivoted
    from probe.reporting.selection import early, kept, parse_term

    ways = {"--layers": layers and not robust, "--robust": robust, "--by": by, "--pivot": pivot, "--against": against}
    asked = [name for name, given in ways.items() if given]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(asked)}: one of them at a time.")
    terms = [parse_term(text) for text in filters]
    records, late = kept(read_records(*results), filter(early, terms)), list(filterfalse(early, terms))
    if show and by != "models":
        raise UsageError("--show goes with --by models.")
    if robust and (late or sort):
        raise UsageError("--robust takes neither --sort nor a --filter of scores.")
    if robust:
        text = tables.robustness_text(records, form, layers, baseline, all_heads, excel_safe)
    elif by:
        text = printing.in_form(arranged(records, by, show or ("best",), late, sort, all_heads), form, excel_safe)
    elif pivot:
        down, _, across = pivot.partition(",")
        text = printing.in_form(pivoted(records, down.split("+"), across.split("+"), late, sort, all_heads), form, excel_safe)
    else:
        text = printing.scores(records, form, layers, bool(against), late, sort, all_heads, excel_safe)
    click.echo(text, nl=False)
    if to is not None:
        print_files(
            tables.write_robustness(records, to, baseline) if robust else tables.write_tables(records, to, axis, baseline)
        )
