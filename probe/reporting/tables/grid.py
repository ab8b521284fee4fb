"""A table as it is printed: columns, rows of cells, and what it is of; as Markdown, CSV, HTML and
JSON.

LaTeX is made by `probe.reporting.tables.latex`. Markdown, LaTeX and HTML show what a cell prints:
the best value bold, what is tied with it underlined, its interval small. CSV and JSON hold the
values of the records. Names come from files: whatever they hold, they are text in every format.
"""

import csv
import html
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from probe.brief import brief, counted
from probe.measures.uncertainty import FEW_BLOCKS
from probe.reporting.rows import one_line
from probe.reporting.tables.cells import DASH, aligned, arrow, escaped, percent
from probe.reporting.ties import BEST, BITS, TIED

# What a spreadsheet takes for a formula, with the wide forms that it takes in Asian settings.
FORMULA = re.compile("[=+\\-@＝＋－＠]")
FEW = "†"
FEW_NOTE = f"{FEW} fewer than {FEW_BLOCKS} blocks (speakers): a rough interval, or none"
SHARED = "‡"
SHARED_NOTE = (
    f"{SHARED} some or all of the speakers are in training too: the score may rest on their voices"
)
STYLE = """:root { color-scheme: light dark; }
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem; }
table { border-collapse: collapse; margin: 1rem 0 2rem; border-block: 2px solid; font-variant-numeric: tabular-nums; }
caption { text-align: start; font-weight: 600; padding-bottom: .4rem; }
th, td { padding: .2rem .7rem; text-align: start; vertical-align: baseline; }
thead th { border-bottom: 1px solid; vertical-align: bottom; }
.number { text-align: end; }
td.number, td:first-child { white-space: nowrap; }
td:last-child:not(:first-child, .number) { min-width: 30ch; }
small { opacity: .7; }"""


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        name: what stands above it.
        better: whether higher is better; None for what is neither.
        number: whether it holds numbers, which are aligned to the right.
    """

    name: str
    better: bool | None = None
    number: bool = False

    @property
    def head(self) -> str:
        """The name with an arrow that says which way is better."""
        return self.name if self.better is None else f"{self.name} {arrow(self.better)}"


@dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
        text: what is printed.
        interval: printed after it.
        mark: see `probe.reporting.ties.marks`.
        aside: printed last: a layer or a gap in parentheses, a tick.
        value, low, high: as in the record; NaN where there is none, and of a name.
        few: whether the score is of fewer than `FEW_BLOCKS` blocks; `FEW` stands after its
            interval.
        shared: whether speakers of the score are in training too; `SHARED` stands after its
            interval.
    """

    text: str
    interval: str = ""
    mark: str = ""
    aside: str = ""
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    few: bool = False
    shared: bool = False

    @property
    def spread(self) -> str:
        """The interval, marked where it rests on few blocks or on speakers of training."""
        return self.interval + (FEW if self.few else "") + (SHARED if self.shared else "")

    def __str__(self) -> str:
        return " ".join(filter(None, (self.text, self.spread, self.aside)))

    def __repr__(self) -> str:
        return brief(self, str(self))


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        columns: from left to right; none of sentences without a table.
        rows: as many cells each.
        of: field -> value of what holds for the whole table; its title.
        better: whether higher is better, if that holds for the whole table.
        aside: what the cells' asides are.
        notes: sentences below it.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    of: Mapping[str, str] = field(default_factory=dict)
    better: bool | None = None
    aside: str = "aside"
    notes: Sequence[str] = ()

    def __repr__(self) -> str:
        return brief(
            self, self.title, counted(len(self.columns), "column"), counted(len(self.rows), "row")
        )

    def _repr_html_(self) -> str:
        """The table, for a notebook."""
        return to_html([self], page=False)

    @property
    def title(self) -> str:
        """What the table is of, domains as train → test, with an arrow that says which way is
        better.
        """
        of = dict(self.of)
        if test := of.pop("test_domain", ""):
            of["train_domain"] = f"{of.get('train_domain', '')} → {test}".strip()
        return " ".join(
            [
                ", ".join(filter(None, of.values())),
                *([] if self.better is None else [arrow(self.better)]),
            ]
        ).strip()

    @property
    def notes_below(self) -> list[str]:
        """The notes, and what `FEW` and `SHARED` mean where a cell has them."""
        cells = [cell for row in self.rows for cell in row]
        marks = (
            (FEW_NOTE, any(cell.few for cell in cells)),
            (SHARED_NOTE, any(cell.shared for cell in cells)),
        )
        return [*self.notes, *(note for note, is_used in marks if is_used)]

    @property
    def by_column(self) -> list[list[Cell]]:
        """The cells of each column."""
        return [[row[number] for row in self.rows] for number in range(len(self.columns))]

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers, also where Markdown aligns them to the left."""
        columns = zip(self.columns, self.by_column, strict=True)
        return [
            column.number or any(not math.isnan(cell.value) for cell in cells)
            for column, cells in columns
        ]


def of_columns(
    columns: Mapping[Column, Iterable[Cell | str]],
    left_out: Mapping[str, str | None] | None = None,
    **more: Any,
) -> Grid:
    """A grid from column -> cells or texts; ``more`` as in `Grid`.

    Args:
        left_out: name -> text; a column of this name is left out where all its cells have this
            text.
    """
    told = {
        column: [Cell(cell) if isinstance(cell, str) else cell for cell in cells]
        for column, cells in columns.items()
    }
    empty = left_out or {}
    told = {
        column: cells
        for column, cells in told.items()
        if {cell.text for cell in cells} != {empty.get(column.name)}
    }
    return Grid(tuple(told), tuple(zip(*told.values(), strict=True)), **more)


def score(
    metric: str,
    value: float,
    low: float = math.nan,
    high: float = math.nan,
    mark: str = "",
    aside: str = "",
    few: bool = False,
    shared: bool = False,
) -> Cell:
    """The cell of a score: bits of a codelength with two decimals, percent of everything else with
    one.
    """
    is_score = not math.isnan(value)
    interval = (
        ""
        if any(map(math.isnan, (value, low, high)))
        else f"[{printed(metric, low)}, {printed(metric, high)}]"
    )
    return Cell(
        printed(metric, value),
        interval,
        mark,
        aside,
        value,
        low,
        high,
        bool(few) and is_score,
        bool(shared) and is_score,
    )


def printed(metric: str, value: float) -> str:
    """A value as it is printed."""
    return f"{value:.2f}" if metric == BITS and not math.isnan(value) else percent(value)


def to_markdown(grids: Sequence[Grid], heading: str = "##") -> str:
    """Aligned Markdown, each title a ``heading``; `<ins>` underlines."""
    return "\n".join(_titled(grid, heading) for grid in grids)


def _titled(grid: Grid, heading: str) -> str:
    rows = [
        [_marked(cell, escaped(cell.text), "**{}**", "<ins>{}</ins>") for cell in row]
        for row in grid.rows
    ]
    table = aligned(
        [escaped(column.head) for column in grid.columns],
        rows,
        [column.number for column in grid.columns],
    )
    title = f"{heading} {escaped(grid.title)}\n\n" if grid.title else ""
    return title + "\n".join(
        filter(
            None,
            (
                table * bool(grid.columns),
                "".join(f"* {escaped(note)}\n" for note in grid.notes_below),
            ),
        )
    )


def _marked(
    cell: Cell,
    text: str,
    best: str,
    tied: str,
    small: str = "{}",
    safe: Callable[[str], str] = escaped,
) -> str:
    """A cell: its text as a format has it, in the format's bold or underline, then its interval in
    small type, then the aside.
    """
    shown = {BEST: best, TIED: tied}.get(cell.mark, "{}").format(text)
    return " ".join(
        filter(None, (shown, cell.spread and small.format(safe(cell.spread)), safe(cell.aside)))
    )


def to_csv(grids: Sequence[Grid], excel_safe: bool = False) -> str:
    """One CSV of all tables: what each is of, then its columns; of scores the fraction, ``low``,
    ``high``, ``mark``, ``few``, aside.

    Args:
        excel_safe: puts an apostrophe before text that a spreadsheet would take for a formula.
    """
    lines = [line for grid in grids for line in _csv_lines(grid)]
    names = list(dict.fromkeys(name for line in lines for name in line))
    heads = [" ".join(filter(None, name)) for name in names]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    values: list[Sequence[object]] = [
        heads,
        *([line.get(name) for name in names] for line in lines),
    ]
    writer.writerows(
        [csv_text(value, excel_safe) if isinstance(value, str) else value for value in line]
        for line in values
    )
    return out.getvalue()


def _csv_lines(grid: Grid) -> Iterator[dict[tuple[str, str], object]]:
    """The rows: (column, part of it) -> value, None where there is none."""
    parts: list[dict[str, Callable[[Cell], object]]] = []
    for cells in grid.by_column:
        part: dict[str, Callable[[Cell], object]] = {
            "": lambda cell: None if math.isnan(cell.value) else cell.value
        }
        if all(math.isnan(cell.value) for cell in cells):
            parts.append(
                {
                    "": lambda cell: (
                        None
                        if cell.text == DASH
                        else " ".join(filter(None, (cell.text, cell.aside)))
                    )
                }
            )
            continue
        if any(cell.interval for cell in cells):
            part |= {
                "low": lambda cell: cell.low if cell.interval else None,
                "high": lambda cell: cell.high if cell.interval else None,
            }
        if any(cell.mark for cell in cells):
            part["mark"] = lambda cell: cell.mark
        if any(cell.few for cell in cells):
            part["few"] = lambda cell: cell.few
        if any(cell.shared for cell in cells):
            part["shared speakers"] = lambda cell: cell.shared
        if any(cell.aside for cell in cells):
            part[grid.aside] = lambda cell: cell.aside.strip("()")
        parts.append(part)
    of: dict[tuple[str, str], object] = {(name, ""): value for name, value in grid.of.items()}
    for row in grid.rows:
        cells_of = zip(grid.columns, parts, row, strict=True)
        yield of | {
            (column.name, name): take(cell)
            for column, part, cell in cells_of
            for name, take in part.items()
        }


@lru_cache(maxsize=1 << 16)
def csv_text(text: str, excel_safe: bool = False) -> str:
    """``text`` on one line without control characters, as a field of a CSV.

    Args:
        excel_safe: puts an apostrophe before what a spreadsheet would take for a formula.
    """
    shown = one_line(text)
    return f"'{shown}" if excel_safe and FORMULA.match(shown) else shown


def to_json(grids: Sequence[Grid]) -> str:
    """A list of tables, each with ``of``, ``columns`` and ``rows`` of cells; fractions, and null
    where there is no value.
    """
    return json_text(
        [
            {
                "of": dict(grid.of),
                "columns": [
                    {"name": column.name, "higher_is_better": column.better}
                    for column in grid.columns
                ],
                "rows": [[_object(cell, grid.aside) for cell in row] for row in grid.rows],
                "notes": grid.notes_below,
            }
            for grid in grids
        ]
    )


def _object(cell: Cell, aside: str) -> dict[str, object]:
    values = {
        name: value
        for name in ("value", "low", "high")
        if not math.isnan(value := getattr(cell, name))
    }
    return (
        {"text": cell.text}
        | values
        | {
            name: told
            for name, told in (
                ("mark", cell.mark),
                ("few", cell.few),
                ("shared", cell.shared),
                (aside, cell.aside.strip("()")),
            )
            if told
        }
    )


def json_text(value: object) -> str:
    """``value`` as JSON, with what would command a terminal or turn the direction of text as
    escapes.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return "".join(char if char.isprintable() or char == "\n" else _escape(char) for char in text)


def _escape(char: str) -> str:
    return re.sub("....", r"\\u\g<0>", char.encode("utf-16-be", "surrogatepass").hex())


def to_html(grids: Sequence[Grid], title: str = "Scores", page: bool = True) -> str:
    """A page that stands alone, or the tables alone if not ``page``."""
    tables = "".join(map(_html_table, grids))
    if not page:
        return tables
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{_html(title)}</title>\n'
        f"<style>\n{STYLE}\n</style>\n</head>\n<body>\n{tables}</body>\n</html>\n"
    )


def _html_table(grid: Grid) -> str:
    def line(tag: str, texts: Iterable[str]) -> str:
        return (
            "<tr>"
            + "".join(
                f"<{tag}{kind}>{text}</{tag}>" for text, kind in zip(texts, kinds, strict=True)
            )
            + "</tr>\n"
        )

    kinds = [' class="number"' if is_number else "" for is_number in grid.numeric]
    rows = [
        line(
            "td",
            (
                _marked(
                    cell,
                    _html(cell.text),
                    "<strong>{}</strong>",
                    "<u>{}</u>",
                    "<small>{}</small>",
                    _html,
                )
                for cell in row
            ),
        )
        for row in grid.rows
    ]
    notes = (
        "<ul>\n" + "".join(f"<li>{_html(note)}</li>\n" for note in grid.notes_below) + "</ul>\n"
        if grid.notes_below
        else ""
    )
    if not grid.columns:
        return f"<h2>{_html(grid.title)}</h2>\n" * bool(grid.title) + notes
    caption = f"<caption>{_html(grid.title)}</caption>\n" * bool(grid.title)
    head = line("th", (_html(column.head) for column in grid.columns))
    return f"<table>\n{caption}<thead>\n{head}</thead>\n<tbody>\n{''.join(rows)}</tbody>\n</table>\n{notes}"


@lru_cache(maxsize=1 << 16)
def _html(text: str) -> str:
    return html.escape(one_line(text))
