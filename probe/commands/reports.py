"""Reports: what is made of records."""

from pathlib import Path

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
@click.option("--from", "results", multiple=True, required=True, type=click.Path(path_type=Path), help="Folder of records.")
@click.option("--to", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True, help="The page.")
@click.option("--outcomes/--no-outcomes", default=True, help="Show the worst utterances, with keys, speakers and transcripts.")
@click.option("--title", default="layerprobe report", show_default=True, metavar="TEXT", help="Of the page.")
def report(results: tuple[Path, ...], to: Path, outcomes: bool, title: str) -> None:
    """Write one HTML page with everything: the answer in words, tables, layer curves, errors, how to repeat it."""
    from probe.records import read_records
    from probe.reporting.report import write_report

    click.echo(str(write_report(read_records(*results), to, results, outcomes, title)))
