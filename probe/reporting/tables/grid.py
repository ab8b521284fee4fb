"""A table as it is printed: columns, rows of cells, and what it is of; as Markdown, CSV, HTML and
JSON.

`probe.reporting.tables.latex` writes the same tables as LaTeX. Markdown, LaTeX and HTML show what a
cell prints: the best value bold, others that may be the best underlined, its interval small. CSV
and JSON hold the values of the records. Names come from files: whatever they hold, they are text in
every format.
"""

import csv
import io
import math
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from probe.brief import brief, counted
from probe.measures.metrics import metric_of
from probe.measures.uncertainty import FEW_BLOCKS, FEWEST_BLOCKS
from probe.reporting.text import DASH, arrow, csv_text, escaped, html_text, json_text
from probe.reporting.ties import BEST, IN_SET, NOT_TESTED, NOT_TESTED_NOTE, SET

FEW = "†"
FEW_NOTE = f"{FEW} fewer than {FEW_BLOCKS} blocks (such as speakers): any interval is rough"
TOO_FEW_NOTE = (
    f"{FEW} without an interval: fewer than {FEWEST_BLOCKS} blocks (such as speakers) in test; "
    "more of them would give one"
)
SHARED = "‡"
SHARED_NOTE = (
    f"{SHARED} some or all of the speakers are in training too: the score may rest on their voices"
)
STYLE = """:root { color-scheme: light dark; }
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem; }
table { border-collapse: collapse; margin: 1rem 0 2rem; border-block: 2px solid; \
font-variant-numeric: tabular-nums; }
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
        name: its head.
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
    """What one cell prints, and the value behind it.

    Attributes:
        text: what is printed.
        interval: printed after it.
        mark: `BEST`, `IN_SET`, `NOT_TESTED` or empty, see `probe.reporting.ties`.
        aside: printed last: a layer or a gap in parentheses, a tick.
        value, low, high: as in the record; NaN where there is none, and of a name.
        few: whether the score is of fewer than `FEW_BLOCKS` blocks; `FEW` follows its interval.
        too_few: whether it is of fewer than `FEWEST_BLOCKS`, so that it has no interval.
        shared: whether speakers of the score are in training too; `SHARED` follows its interval.
    """

    text: str
    interval: str = ""
    mark: str = ""
    aside: str = ""
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    few: bool = False
    too_few: bool = False
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
        caption: its caption in LaTeX where it has no title and is not of scores.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    of: Mapping[str, str] = field(default_factory=dict)
    better: bool | None = None
    aside: str = "aside"
    notes: Sequence[str] = ()
    caption: str = ""

    def __repr__(self) -> str:
        sizes = counted(len(self.columns), "column"), counted(len(self.rows), "row")
        return brief(self, self.title, *sizes)

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
        direction = "" if self.better is None else arrow(self.better)
        return f"{', '.join(filter(None, of.values()))} {direction}".strip()

    @property
    def notes_below(self) -> list[str]:
        """The notes, and what `NOT_TESTED`, `FEW` and `SHARED` mean where a cell has them."""
        cells = [cell for row in self.rows for cell in row]
        untested = [NOT_TESTED_NOTE] if any(cell.mark == NOT_TESTED for cell in cells) else []
        shared = [SHARED_NOTE] if any(cell.shared for cell in cells) else []
        return [*self.notes, *untested, *few_notes(cells), *shared]

    @property
    def legend(self) -> list[str]:
        """What bold and underlined values are, where cells are marked so."""
        marks = {cell.mark for row in self.rows for cell in row}
        clauses = {BEST: "bold: the best", IN_SET: f"underlined: {SET}"}
        return [clause for mark, clause in clauses.items() if mark in marks]

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


def few_notes(cells: Sequence[Cell]) -> list[str]:
    """What `FEW` means, where cells have it."""
    notes = [FEW_NOTE] if any(cell.few and not cell.too_few for cell in cells) else []
    return notes + ([TOO_FEW_NOTE] if any(cell.too_few for cell in cells) else [])


def of_columns(
    columns: Mapping[Column, Iterable[Cell | str]],
    left_out: Mapping[str, str | None] | None = None,
    of: Mapping[str, str] | None = None,
    better: bool | None = None,
    aside: str = "aside",
    notes: Sequence[str] = (),
) -> Grid:
    """A grid from column -> cells or texts; the other arguments are as in `Grid`.

    Args:
        left_out: name -> text; a column of this name is left out where all its cells have this
            text.
    """
    kept: dict[Column, list[Cell]] = {}
    for column, texts in columns.items():
        cells = [Cell(text) if isinstance(text, str) else text for text in texts]
        if {cell.text for cell in cells} != {(left_out or {}).get(column.name)}:
            kept[column] = cells
    rows = tuple(zip(*kept.values(), strict=True))
    return Grid(tuple(kept), rows, of or {}, better, aside, notes)


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
    """The cell of a score, printed as its metric is, see `probe.measures.metrics.Metric.text`."""
    text = metric_of(metric).text
    is_score = not math.isnan(value)
    known = is_score and not math.isnan(low) and not math.isnan(high)
    return Cell(
        text(value),
        f"[{text(low)}, {text(high)}]" if known else "",
        mark,
        aside,
        *(value, low, high),
        few=bool(few) and is_score,
        shared=bool(shared) and is_score,
    )


def score_of(row: Mapping[Hashable, Any], mark: str = "", aside: str = "") -> Cell:
    """The cell of a row's score with its interval."""
    values = (row["metric"], row["value"], row["low"], row["high"])
    cell = score(*values, mark, aside, row["few"], row["shared_speakers"] > 0)
    too_few = cell.few and not cell.interval and row["n_blocks"] < FEWEST_BLOCKS
    return replace(cell, too_few=too_few)


def markdown(columns: Mapping[str, Sequence[str]], numbers: Container[str] = ()) -> str:
    """Aligned Markdown; the cells are escaped already.

    Args:
        columns: header -> cells.
        numbers: headers of columns that are aligned to the right.
    """
    lines = [list(columns), *zip(*columns.values(), strict=True)]
    return _aligned(lines, [name in numbers for name in columns])


def _aligned(lines: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """Markdown with aligned columns, from the head and the rows."""
    widths = [max(3, *map(len, cells)) for cells in zip(*lines, strict=True)]
    head, *rows = [
        [
            cell.rjust(width) if to_the_right else cell.ljust(width)
            for cell, width, to_the_right in zip(line, widths, right, strict=True)
        ]
        for line in lines
    ]
    rule = [
        "-" * (width - 1) + (":" if to_the_right else "-")
        for width, to_the_right in zip(widths, right, strict=True)
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in [head, rule, *rows])


def to_markdown(grids: Sequence[Grid], heading: str = "##") -> str:
    """Aligned Markdown, each title a ``heading``; `<ins>` underlines."""
    return "\n".join(_markdown_of(grid, heading) for grid in grids)


def _markdown_of(grid: Grid, heading: str) -> str:
    rows = [
        [_marked(cell, "**{}**", "<ins>{}</ins>", "{}", escaped) for cell in row]
        for row in grid.rows
    ]
    head = [escaped(column.head) for column in grid.columns]
    right = [column.number for column in grid.columns]
    title = f"{heading} {escaped(grid.title)}\n" if grid.title else ""
    table = _aligned([head, *rows], right) if grid.columns else ""
    notes = "".join(f"* {escaped(note)}\n" for note in [*_legend(grid), *grid.notes_below])
    return "\n".join(filter(None, (title, table, notes)))


def _legend(grid: Grid) -> list[str]:
    """The legend as one sentence, where others than the best are marked."""
    return ["; ".join(grid.legend)] if len(grid.legend) > 1 else []


def _marked(cell: Cell, best: str, in_set: str, small: str, safe: Callable[[str], str]) -> str:
    """A cell in a format's bold or underline, then its interval in small type, then the aside."""
    text = {BEST: best, IN_SET: in_set}.get(cell.mark, "{}").format(safe(cell.text))
    interval = small.format(safe(cell.spread)) if cell.spread else ""
    return " ".join(filter(None, (text, interval, safe(cell.aside))))


def to_csv(grids: Sequence[Grid], excel_safe: bool = False) -> str:
    """One CSV of all tables: what each is of, then its columns; of scores the fraction, ``low``,
    ``high``, ``mark``, ``few``, aside.

    Args:
        excel_safe: puts an apostrophe before text that a spreadsheet would take for a formula.
    """
    lines = [line for grid in grids for line in _csv_lines(grid)]
    names = list(dict.fromkeys(name for line in lines for name in line))
    rows: list[list[object]] = [[" ".join(filter(None, name)) for name in names]]
    rows += [[line.get(name) for name in names] for line in lines]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(
        [csv_text(value, excel_safe) if isinstance(value, str) else value for value in row]
        for row in rows
    )
    return out.getvalue()


def _csv_lines(grid: Grid) -> Iterator[dict[tuple[str, str], object]]:
    """The rows: (column, part of it) -> value, None where there is none."""
    columns = [
        (column.name, _csv_parts(cells, grid.aside))
        for column, cells in zip(grid.columns, grid.by_column, strict=True)
    ]
    of: dict[tuple[str, str], object] = {(name, ""): value for name, value in grid.of.items()}
    for number in range(len(grid.rows)):
        yield of | {
            (name, part): values[number]
            for name, parts in columns
            for part, values in parts.items()
        }


def _csv_parts(cells: Sequence[Cell], aside: str) -> dict[str, list[object]]:
    """Part of a column -> its value in every row; parts that no cell has are left out."""
    if all(math.isnan(cell.value) for cell in cells):
        texts = [" ".join(filter(None, (cell.text, cell.aside))) for cell in cells]
        return {
            "": [
                None if cell.text == DASH else text for cell, text in zip(cells, texts, strict=True)
            ]
        }
    parts: dict[str, list[object]] = {
        "": [None if math.isnan(cell.value) else cell.value for cell in cells]
    }
    if any(cell.interval for cell in cells):
        parts["low"] = [cell.low if cell.interval else None for cell in cells]
        parts["high"] = [cell.high if cell.interval else None for cell in cells]
    optional: dict[str, list[Any]] = {
        "mark": [cell.mark for cell in cells],
        "few": [cell.few for cell in cells],
        "shared speakers": [cell.shared for cell in cells],
        aside: [cell.aside.strip("()") for cell in cells],
    }
    return parts | {name: values for name, values in optional.items() if any(values)}


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
                "rows": [[_json_cell(cell, grid.aside) for cell in row] for row in grid.rows],
                "notes": grid.notes_below,
            }
            for grid in grids
        ]
    )


def _json_cell(cell: Cell, aside: str) -> dict[str, object]:
    values = {"value": cell.value, "low": cell.low, "high": cell.high}
    marks = {"mark": cell.mark, "few": cell.few, "shared": cell.shared}
    return (
        {"text": cell.text}
        | {name: value for name, value in values.items() if not math.isnan(value)}
        | {name: mark for name, mark in (marks | {aside: cell.aside.strip("()")}).items() if mark}
    )


def to_html(grids: Sequence[Grid], title: str = "Scores", page: bool = True) -> str:
    """A page of its own, or the tables alone if not ``page``."""
    tables = "".join(map(_html_table, grids))
    if not page:
        return tables
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html_text(title)}</title>\n"
        f"<style>\n{STYLE}\n</style>\n</head>\n<body>\n{tables}</body>\n</html>\n"
    )


def _html_table(grid: Grid) -> str:
    kinds = [' class="number"' if is_number else "" for is_number in grid.numeric]

    def line(tag: str, texts: Iterable[str]) -> str:
        cells = zip(texts, kinds, strict=True)
        return f"<tr>{''.join(f'<{tag}{kind}>{text}</{tag}>' for text, kind in cells)}</tr>\n"

    forms = ("<strong>{}</strong>", "<u>{}</u>", "<small>{}</small>", html_text)
    rows = [line("td", (_marked(cell, *forms) for cell in row)) for row in grid.rows]
    sentences = [*_legend(grid), *grid.notes_below]
    notes = "".join(f"<li>{html_text(note)}</li>\n" for note in sentences)
    notes = f"<ul>\n{notes}</ul>\n" if notes else ""
    title = html_text(grid.title)
    if not grid.columns:
        return (f"<h2>{title}</h2>\n" if grid.title else "") + notes
    caption = f"<caption>{title}</caption>\n" if grid.title else ""
    head = line("th", (html_text(column.head) for column in grid.columns))
    body = f"<thead>\n{head}</thead>\n<tbody>\n{''.join(rows)}</tbody>\n"
    return f"<table>\n{caption}{body}</table>\n{notes}"
