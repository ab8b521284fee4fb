"""Printing that commands share, and how commands end. Data goes to stdout, the rest to stderr."""

import itertools
import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from probe.errors import EXIT_FAILURE, EXIT_SOME_FAILED, listed

if TYPE_CHECKING:
    import pandas as pd

    from probe.extraction.extract import Extraction

GAP = "  "
NARROWEST = 12


def terminal_width() -> int | None:
    """Return the columns of the terminal that stdout is, or None where it is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_json(value: Any) -> None:
    """Print indented JSON."""
    from probe.reporting.text import json_text

    click.echo(json_text(value), nl=False)


def print_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], optional: Sequence[str] = ()
) -> None:
    """Print aligned columns.

    On a terminal that is too narrow, ``optional`` columns are left out, the last one first; then
    the widest cells continue on further lines.
    """
    width = terminal_width() or sys.maxsize
    table = [list(head), *map(list, rows)]
    for name in reversed(optional):
        if _total(_widths(table)) > width:
            index = table[0].index(name)
            table = [row[:index] + row[index + 1 :] for row in table]
    widths = _widths(table)
    while _total(widths) > width and max(widths) > NARROWEST:
        widths[widths.index(max(widths))] -= 1
    for row in table:
        cells = [
            textwrap.wrap(plain(cell), n, break_on_hyphens=False) or [""]
            for cell, n in zip(row, widths, strict=True)
        ]
        for line in itertools.zip_longest(*cells, fillvalue=""):
            padded = (cell.ljust(n) for cell, n in zip(line, widths, strict=True))
            click.echo(GAP.join(padded).rstrip())


def _widths(table: Sequence[Sequence[str]]) -> list[int]:
    return [max(1, *map(len, column)) for column in zip(*table, strict=True)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def print_facts(facts: dict[str, Any]) -> None:
    """Print a name and a value on each line; on a terminal, long values continue below."""
    indent = max(map(len, facts)) + len(GAP)
    for name, value in facts.items():
        text = f"{name:<{indent}}{plain(str(value))}"
        width = terminal_width()
        click.echo(textwrap.fill(text, width, subsequent_indent=" " * indent) if width else text)


def print_scores(records: "pd.DataFrame", all_heads: bool = False) -> None:
    """Print the scores at the chosen layers: a table for the terminal, Markdown into a file."""
    from probe.reporting.scores import Scores
    from probe.reporting.tables import files
    from probe.reporting.tables.terminal import terminal_table

    scores, width = Scores.of(records, all_heads), terminal_width()
    text = terminal_table(scores, width) if width else files.scores(scores, "md")
    click.echo(text, nl=False)


def print_extractions(extractions: "list[Extraction]", dry_run: bool, form: str) -> None:
    """Print a line per store: its folder, or the plan for it, or both as JSON."""
    for item in extractions:
        if form == "json":
            click.echo(json.dumps(item.summary(), ensure_ascii=False))
        elif dry_run:
            click.echo(f"{item.store}: {item.plan.describe()}")
            for line in item.plan.describe_choices():
                click.echo(f"  {line}")
        else:
            click.echo(str(item.store))
            click.echo(
                f"{item.extracted} extracted, {item.plan.present} there already, "
                f"{len(item.failures)} failed",
                err=True,
            )


def print_files(files: Sequence[Path]) -> None:
    """Name written files on stderr, and say why there is no picture if there is none."""
    from probe.reporting.figures.style import missing_matplotlib

    for path in files:
        click.echo(str(path), err=True)
    if reason := missing_matplotlib():
        click.echo(reason, err=True)


def exit_with_failures(
    failed: dict[str, list[str]], refused: Sequence[str] = (), was_said: bool = False
) -> None:
    """Name what failed; exit with 1 if something was refused and with 3 if utterances failed.

    Args:
        was_said: whether the last lines of the log are the reasons for what was refused.
    """
    for name, keys in failed.items():
        click.echo(plain(f"{name}: {len(keys)} utterances failed: {listed(keys, 20)}"), err=True)
    for reason in () if was_said else refused:
        click.echo(plain(f"not done: {reason}"), err=True)
    if refused:
        sys.exit(EXIT_FAILURE)
    if failed:
        sys.exit(EXIT_SOME_FAILED)


def plain(text: str) -> str:
    """Return ``text`` with control characters escaped, except for line ends."""
    return "".join(
        char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text
    )
