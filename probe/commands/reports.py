"""Reports: what is made of records."""

from pathlib import Path
from typing import Any

import click

from probe.commands.printing import print_files


@click.command()
@click.option("--from", "results", multiple=True, required=True, type=click.Path(path_type=Path), help="Folder of records.")
@click.option("--layers", is_flag=True, help="Every layer instead of the one that dev chose.")
@click.option("--all-heads", is_flag=True, help="Every head and backend instead of the headline ones.")
@click.option("--format", "form", type=click.Choice(["md", "csv", "json"]), default="md", show_default=True)
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
    form: str,
    to: Path | None,
    axis: str,
    robust: bool,
    baseline: str | None,
) -> None:
    """Print a comparison table of the records; with --to write all tables and the layer curves."""
    from probe.records import read_records
    from probe.reporting import tables

    records = read_records(*results)
    if robust:
        click.echo(tables.robustness_text(records, form, layers, baseline, all_heads), nl=False)
        if to is not None:
            print_files(tables.write_robustness(records, to, baseline))
        return
    rows = tables.layer_rows(records, all_heads) if layers else tables.summary_rows(records, all_heads)
    printed = {
        "md": lambda: tables.to_markdown(rows, layers),
        "csv": lambda: tables.to_csv(rows),
        "json": lambda: tables.to_json(rows),
    }
    click.echo(printed[form](), nl=False)
    if form == "md" and not layers and (matrices := tables.domain_matrices(records)):
        click.echo("\n" + matrices, nl=False)
    if to is not None:
        print_files(tables.write_tables(records, to, axis, baseline))


@click.command()
@click.argument("kind", type=click.Choice(["layers", "conditions", "domains", "similarity", "budgets", "search", "det"]))
@click.option("--from", "results", multiple=True, required=True, type=click.Path(path_type=Path), help="Folder of records.")
@click.option("--to", required=True, type=click.Path(path_type=Path), help="Picture to write: .png, .svg or .pdf.")
@click.option("--model", "models", multiple=True, metavar="MODEL", help="Only this model; may be given several times.")
@click.option("--task", "tasks", multiple=True, metavar="TASK", help="Only this task; may be given several times.")
@click.option("--metric", "metrics", multiple=True, metavar="METRIC", help="Only this metric; may be given several times.")
@click.option("--condition", "conditions", multiple=True, metavar="CONDITION", help="Only this condition; several times.")
@click.option(
    "--axis",
    type=click.Choice(["index", "depth"]),
    default="index",
    show_default=True,
    help="Of layers: the layer's number, or 0 to 1 in every model.",
)
@click.option(
    "--width",
    type=click.Choice(["single", "double"]),
    default="double",
    show_default=True,
    help="Of a two-column paper: a column (3.3 in) or the page (6.9 in).",
)
def plot(kind: str, results: tuple[Path, ...], to: Path, **options: Any) -> None:
    """Draw a figure of the records (docs/figures.md)."""
    from probe.reporting import plots

    plots.plot(kind, results, to, **options)
    print_files([to])
