"""What several commands print, and how they end."""

import itertools
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from probe.errors import EXIT_FAILURE, EXIT_SOME_FAILED, listed

if TYPE_CHECKING:
    from probe.data.conditions.condition import Condition
    from probe.extraction.extract import Extraction


def conditions_of(texts: Sequence[str], file: Path | None, seed: int) -> "list[Condition]":
    """The conditions that ``--condition`` names, else all that the TOML file declares, else clean
    audio; each once.
    """
    from probe.data.conditions.condition import declared_conditions, distinct, parse_condition

    declared = declared_conditions(file, seed) if file else {}
    found = [
        parse_condition(text, seed=seed, declared=declared)
        for text in texts or list(declared) or ["clean"]
    ]
    return list(distinct(found).values())


def print_table(head: list[str], rows: list[list[str]], widest: int = 1000) -> None:
    """Prints columns side by side, each as wide as its widest cell; cells wider than ``widest`` go
    over several lines.
    """
    table = [
        [textwrap.wrap(cell, widest, break_on_hyphens=False) or [""] for cell in row]
        for row in [head, *rows]
    ]
    widths = [
        max(len(line) for cell in cells for line in cell) for cells in zip(*table, strict=True)
    ]
    for row in table:
        for line in itertools.zip_longest(*row, fillvalue=""):
            click.echo(
                "  ".join(
                    cell.ljust(width) for cell, width in zip(line, widths, strict=True)
                ).rstrip()
            )


def print_extractions(done: "list[Extraction]", dry_run: bool, as_json: bool) -> None:
    """A line per store: where, and what was done or is to do."""
    for item in done:
        if as_json:
            click.echo(json.dumps(item.summary(), ensure_ascii=False))
        elif dry_run:
            click.echo(f"{item.store}: {item.plan.describe()}")
            for line in item.plan.describe_choices():
                click.echo(f"  {line}")
        else:
            click.echo(str(item.store))
            click.echo(
                f"{item.extracted} extracted, {item.plan.present} there already, {len(item.failures)} failed",
                err=True,
            )


def finish_bench(done: Any, to: Path, as_json: bool) -> None:
    """Prints the table of a bench and where everything is."""
    if not as_json and (to / "table.md").exists():
        click.echo((to / "table.md").read_text(encoding="utf-8"), nl=False)
        if (to / "domains.md").exists():
            click.echo("\n" + (to / "domains.md").read_text(encoding="utf-8"), nl=False)
        if (to / "robustness.md").exists():
            click.echo(f"what is lost under which condition: {to / 'robustness.md'}", err=True)
    print_files(done.files)


def print_files(files: list[Path]) -> None:
    """Names the files on stderr, and says why there is no picture where there is none."""
    from probe.reporting.figures.style import missing_matplotlib

    for path in files:
        click.echo(str(path), err=True)
    if reason := missing_matplotlib():
        click.echo(reason, err=True)


def exit_with_failures(unusable: dict[str, list[str]], refused: list[str] | None = None) -> None:
    """Exits with 1 where something was refused, with 3 where utterances failed; names them."""
    for where, keys in unusable.items():
        click.echo(plain(f"{where}: {len(keys)} utterances failed: {listed(keys, 20)}"), err=True)
    for reason in refused or []:
        click.echo(f"not done: {reason}", err=True)
    if refused:
        sys.exit(EXIT_FAILURE)
    if unusable:
        sys.exit(EXIT_SOME_FAILED)


def plain(text: str) -> str:
    """``text`` with control characters written as escapes, but for ends of lines."""
    return "".join(
        char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text
    )
