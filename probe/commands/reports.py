"""Reports: what is made of records."""

import gc
import json
import re
import sys
from itertools import filterfalse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from probe.commands.options import options
from probe.commands.printing import plain, print_files, print_table
from probe.errors import EXIT_FAILURE, UsageError
from probe.files import require_writable

if TYPE_CHECKING:
    import pandas as pd


@click.command()
@options("records", "every_layer", "all_heads")
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
@click.option(
    "--pivot",
    metavar="ROWS,COLUMNS",
    help="A table of any fields of the records; several joined by +.",
)
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="FIELD=VALUE[,VALUE]",
    help="Only what fits; != for what does not, * and ? in values; several times.",
)
@click.option("--sort", default="", metavar="FIELD", help="Orders the rows; -FIELD turns it round.")
@click.option(
    "--against",
    type=click.Choice(["published"]),
    help="Beside the figures of others, and how they were had.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["md", "csv", "latex", "html", "json"]),
    default="md",
    show_default=True,
)
@click.option(
    "--excel-safe",
    is_flag=True,
    help="In CSV, an apostrophe before what a spreadsheet would take for a formula.",
)
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    help="Also write table, layers, domains (md) and curves (png, svg) here.",
)
@options("axis")
@click.option(
    "--robust",
    is_flag=True,
    help="What is lost under other conditions and across domains (docs/robustness.md).",
)
@click.option(
    "--baseline",
    metavar="MODEL",
    help="That the robustness tables measure against; fbank if it is there.",
)
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
    if to is not None:
        require_writable(to)
    from probe.reporting.filters import early, kept, parse_term
    from probe.reporting.tables import files, formats
    from probe.reporting.tables.pivot import arranged, pivoted

    ways = {
        "--layers": layers and not robust,
        "--robust": robust,
        "--by": by,
        "--pivot": pivot,
        "--against": against,
    }
    asked = [name for name, given in ways.items() if given]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(asked)}: one of them at a time.")
    terms = [parse_term(text) for text in filters]
    records, late = kept(_read(*results), filter(early, terms)), list(filterfalse(early, terms))
    if show and by != "models":
        raise UsageError("--show goes with --by models.")
    if robust and (late or sort):
        raise UsageError("--robust takes neither --sort nor a --filter of scores.")
    if robust:
        text = formats.robustness(records, form, layers, baseline, all_heads, excel_safe)
    elif by:
        text = formats.in_form(
            arranged(records, by, show or ("best",), late, sort, all_heads), form, excel_safe
        )
    elif pivot:
        down, _, across = pivot.partition(",")
        text = formats.in_form(
            pivoted(records, down.split("+"), across.split("+"), late, sort, all_heads),
            form,
            excel_safe,
        )
    else:
        text = formats.scores(
            records, form, layers, bool(against), late, sort, all_heads, excel_safe
        )
    click.echo(text, nl=False)
    if to is not None:
        print_files(
            files.write_robustness(records, to, baseline)
            if robust
            else files.write_tables(records, to, axis, baseline)
        )


@click.command()
@click.argument(
    "kind",
    type=click.Choice(
        ["layers", "conditions", "domains", "similarity", "budgets", "search", "det"]
    ),
)
@options("records")
@click.option(
    "--to",
    required=True,
    type=click.Path(path_type=Path),
    help="Picture to write: .png, .svg or .pdf.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="MODEL",
    help="Only this model; may be given several times.",
)
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="TASK",
    help="Only this task; may be given several times.",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="METRIC",
    help="Only this metric; may be given several times.",
)
@click.option(
    "--condition",
    "conditions",
    multiple=True,
    metavar="CONDITION",
    help="Only this condition; several times.",
)
@options("axis")
@click.option(
    "--width",
    type=click.Choice(["single", "double"]),
    default="double",
    show_default=True,
    help="Of a two-column paper: a column (3.3 in) or the page (6.9 in).",
)
def plot(kind: str, results: tuple[Path, ...], to: Path, **options: Any) -> None:
    """Draw a figure of the records (docs/figures.md)."""
    require_writable(to.parent)
    from probe.reporting.figures import plot

    columns = {"model": "models", "task": "tasks", "metric": "metrics", "condition": "conditions"}
    only = {column: options.pop(name) for column, name in columns.items()}
    plot.plot(kind, results, to, only, **options)
    print_files([to])


@click.command()
@click.argument("runs", nargs=-1, metavar="[A B]", type=click.Path(path_type=Path))
@click.option(
    "--from",
    "results",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder of records of two --model.",
)
@click.option(
    "--model",
    "names",
    multiple=True,
    metavar="NAME",
    help="Given twice: compare these models of --from.",
)
@options("every_layer", "all_heads")
@click.option(
    "--format", "form", type=click.Choice(["md", "csv", "json"]), default="md", show_default=True
)
@click.option(
    "--fail-on",
    type=click.Choice(["worse"]),
    help="Exit with 1 where a score of B is significantly worse.",
)
def compare(
    runs: tuple[Path, ...],
    results: tuple[Path, ...],
    names: tuple[str, ...],
    layers: bool,
    all_heads: bool,
    form: str,
    fail_on: str | None,
) -> None:
    """Compare two folders of records, or two models of one, score by score: what changed, by how
    much, and why it may have.
    """
    if not (len(runs) == 2 and not results and not names) and not (
        not runs and results and len(names) == 2
    ):
        raise UsageError(
            "compare: give two folders of records, A and B; or --from a folder and --model twice."
        )
    from probe.reporting.tables import comparison as comparing

    if runs:
        a, b = runs
        found = comparing.compare_runs(str(a), _read(a), str(b), _read(b), layers, all_heads)
    else:
        found = comparing.compare_models(_read(*results), names[0], names[1], layers, all_heads)
    printed = {
        "md": comparing.to_markdown,
        "csv": lambda found: comparing.to_csv(found.rows),
        "json": comparing.to_json,
    }
    click.echo(plain(printed[form](found)), nl=False)
    if form != "md":
        click.echo(plain(found.summary()), err=True)
    if fail_on and found.counted()[fail_on]:
        sys.exit(EXIT_FAILURE)


@click.command()
@click.argument(
    "paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path)
)
@click.option(
    "--check",
    is_flag=True,
    help="Validate and recompute every line (docs/records.md); exit with 1 on a finding.",
)
@click.option(
    "--renew",
    is_flag=True,
    help="Take the intervals anew from the counts, as this version makes them.",
)
@click.option(
    "--export",
    "form",
    type=click.Choice(["hf"]),
    help="Write the Hugging Face Hub's evaluation results and card snippets.",
)
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    help="Folder that --export writes, a folder for each model.",
)
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    metavar="CORPUS=ORG/NAME",
    help="A corpus' dataset on the Hub, for --export.",
)
@click.option("--json", "as_json", is_flag=True, help="What is there, or the findings, as JSON.")
def records(
    paths: tuple[Path, ...],
    check: bool,
    renew: bool,
    form: str | None,
    to: Path | None,
    datasets: tuple[str, ...],
    as_json: bool,
) -> None:
    """List what files of records hold, check them, renew their intervals, or export their scores."""
    if (form is None) != (to is None) or (datasets and not form):
        raise UsageError("records: --export needs --to, --to and --dataset need --export.")
    if check + renew + (form is not None) > 1:
        raise UsageError("records: --check, --renew and --export are three commands.")
    if form and to:
        require_writable(to)
        _export(paths, to, datasets)
    elif check:
        _check(paths, as_json)
    elif renew:
        from probe.record_check import renew_intervals

        n_records, n_changed = renew_intervals(paths)
        click.echo(f"{n_records} records, {n_changed} intervals renewed", err=True)
    else:
        _list(paths, as_json)


def _list(paths: tuple[Path, ...], as_json: bool) -> None:
    from probe.record_check import contents

    files = contents(paths)
    if as_json:
        click.echo(json.dumps(files, indent=2))
        return
    lines = [[plain(str(value)) for value in file.values()] for file in files]
    print_table(list(files[0]), lines)
    tasks, models = ({file[name] for file in files} for name in ("task", "model"))
    total = sum(file["records"] for file in files)
    click.echo(
        f"{len(files)} files, {total} records, {len(models)} models, {len(tasks)} tasks", err=True
    )


def _check(paths: tuple[Path, ...], as_json: bool) -> None:
    from probe.record_check import check_records

    n_lines, findings = check_records(paths)
    if as_json:
        click.echo(json.dumps([vars(finding) for finding in findings], indent=2))
    for finding in [] if as_json else findings:
        click.echo(plain(str(finding)).replace("\n", "\\n"))
    click.echo(f"{n_lines} records, {len(findings)} findings", err=True)
    if findings:
        sys.exit(EXIT_FAILURE)


def _export(paths: tuple[Path, ...], to: Path, datasets: tuple[str, ...]) -> None:
    from probe.reporting.tables.model_card import REPOSITORY, write_cards

    if odd := [text for text in datasets if not re.fullmatch(f".+={REPOSITORY}", text)]:
        raise UsageError(
            f"--dataset {odd[0]!r}: expected CORPUS=ORG/NAME, a manifest's name and its dataset on the Hub."
        )
    written, left_out = write_cards(
        _read(*paths), to, dict(text.rsplit("=", 1) for text in datasets)
    )
    for line in (*written, *(f"left out: {reason}" for reason in left_out)):
        click.echo(plain(str(line)), err=True)


@click.command()
@options("records")
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="The page.",
)
@click.option(
    "--outcomes/--no-outcomes",
    default=True,
    help="Show the worst utterances, with keys, speakers and transcripts.",
)
@click.option(
    "--title", default="layerprobe report", show_default=True, metavar="TEXT", help="Of the page."
)
def report(results: tuple[Path, ...], to: Path, outcomes: bool, title: str) -> None:
    """Write one HTML page with everything: the answer in words, tables, layer curves, errors, how
    to repeat it.
    """
    require_writable(to.parent)
    from probe.reporting.report.page import write_report

    click.echo(str(write_report(_read(*results), to, results, outcomes, title)))


def _read(*paths: Path) -> "pd.DataFrame":
    """The records of a command, kept to its end."""
    from probe.records import read_records

    records = read_records(*paths)
    gc.freeze()  # or else the first collection walks all these objects, for a second or more, to find that they are in use
    return records
