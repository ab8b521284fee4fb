"""Tables as LaTeX: booktabs' rules, siunitx's numbers, names as text.

What is the same in every row stands in the caption. A table is shrunk to the width of the text
where it is wider; one of more than `LONG` rows breaks over pages instead. Names are written as they
are: others than Latin letters need LuaLaTeX or XeLaTeX.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

from probe.reporting.tables.grid import Cell, Grid, of_columns
from probe.reporting.text import BITS, DASH, SCORE_INTERVAL, one_line
from probe.reporting.ties import BEST, IN_SET

PREAMBLE = r"\usepackage{adjustbox,amssymb,booktabs,longtable,siunitx}"
SETTINGS = [
    r"\sisetup{detect-weight=true, mode=text, retain-explicit-plus=true}",
    r"\setlength{\abovetopsep}{1ex}",  # between the caption and the first rule
]
ASIDE = {"layer": "the layer", "gap": "the gap in points", "change": "the change in points"}
LONG = 40  # rows: about a page
MANY = 40  # tables in a row: LaTeX can hold back 52 of them
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")
MINUS = re.compile("(?<=[}( ])-(?=[0-9])")  # in what `latex` makes of an interval or a gap
NO_LIGATURE = r"\kern0pt"  # LuaLaTeX joins -{}- too
LATEX = {char: f"\\{char}" for char in "{}$&#%_"}
LATEX |= {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
# An optional argument or a star after \\, what babel makes active, a ligature.
LATEX |= {"[": "{[}", "]": "{]}", "*": "{*}", '"': r"\symbol{34}", "`": r"\symbol{96}"}
LATEX |= {"–": "--", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "→": r"$\rightarrow$"}
LATEX |= {"†": r"$\dagger$", "‡": r"$\ddagger$", "✓": r"$\checkmark$"}
LATEX |= {"◆": r"$\blacklozenge$", "◇": r"$\lozenge$"}


def to_latex(grids: Sequence[Grid]) -> str:
    """The tables, after a comment with the packages that they need. Sentences without a table are
    paragraphs.
    """
    groups = ["\n".join(map(_table, grids[i : i + MANY])) for i in range(0, len(grids), MANY)]
    return f"% {PREAMBLE}\n" + "\n\\clearpage\n".join(groups)


def _table(grid: Grid) -> str:
    grid, shared = _shared(grid)
    named = ", ".join(filter(None, [grid.title or grid.caption, *shared]))
    title = latex(named or _scores(grid))
    sentences = [*grid.notes_below, *_legend(grid)]
    notes = [rf"{{\footnotesize\raggedright {latex(note)}\par}}" for note in sentences]
    wide = [any(cell.spread or cell.aside for cell in cells) for cells in grid.by_column]
    forms = zip(grid.numeric, wide, strict=True)
    form = "".join(("r" if right else "l") + (r"@{\ }l" if two else "") for right, two in forms)
    head = [r"\toprule", " & ".join(_heads(grid, wide)) + r" \\", r"\midrule"]
    cells = [
        [text for cell, two in zip(row, wide, strict=True) for text in _cell(cell, two)]
        for row in grid.rows
    ]
    rows = [" & ".join(texts) + r" \\" for texts in cells]
    caption = rf"\caption{{{title}}}" if title else ""
    if not grid.columns:
        lines = [rf"\paragraph{{{title}}}" if title else "", *notes]
    elif len(rows) > LONG:
        start = rf"\begin{{longtable}}{{{form}}}"
        ends = [r"\endhead", r"\bottomrule", r"\endfoot"]
        lines = [r"\begingroup\scriptsize", *SETTINGS, r"\setlength{\tabcolsep}{3pt}", start]
        lines += [rf"{caption} \\" if title else "", *head, r"\endfirsthead", *head, *ends]
        lines += [*rows, r"\end{longtable}", r"\endgroup", *notes]
    else:
        starts = [r"\begin{adjustbox}{max width=\linewidth}", rf"\begin{{tabular}}{{{form}}}"]
        ends = [r"\bottomrule", r"\end{tabular}", r"\end{adjustbox}"]
        lines = [r"\begin{table}", r"\centering", *SETTINGS, caption, *starts, *head, *rows, *ends]
        lines += [r"\par\smallskip" if notes else "", *notes, r"\end{table}"]
    return "".join(f"{line}\n" for line in lines if line)


def _shared(grid: Grid) -> tuple[Grid, list[str]]:
    """The table without columns of one name in all of several rows, and these names."""
    kept, shared = {}, []
    for column, cells in zip(grid.columns, grid.by_column, strict=True):
        name = cells[0] if len(cells) > 1 and len(set(cells)) == 1 else Cell(DASH)
        if name == Cell(name.text) and name.text not in ("", DASH):
            shared.append(f"{column.name} {name.text}" if column.number else name.text)
        else:
            kept[column] = cells
    table = of_columns(kept)
    return replace(grid, columns=table.columns, rows=table.rows), shared


def _scores(grid: Grid) -> str:
    """The caption of a table without a title."""
    has_interval = any(cell.interval for row in grid.rows for cell in row)
    names = {column.name for column in grid.columns}
    unit = "" if names & {SCORE_INTERVAL, BITS} else " in percent"
    return f"Scores{unit}{' [95 % interval]' if has_interval else ''}"


def _legend(grid: Grid) -> list[str]:
    """A sentence on what bold, underlines and parentheses mean, where cells have them."""
    cells = [cell for row in grid.rows for cell in row]
    clauses = grid.legend
    if grid.aside in ASIDE and any(cell.aside.startswith("(") for cell in cells):
        clauses.append(f"in parentheses: {ASIDE[grid.aside]}")
    return ["; ".join(clauses).capitalize() + "."] if clauses else []


def _heads(grid: Grid, wide: Sequence[bool]) -> Iterator[str]:
    """The heads, broken into lines no longer than the cells below them where words allow it."""
    columns = zip(grid.columns, grid.by_column, grid.numeric, wide, strict=True)
    for column, cells, right, two in columns:
        width = max([12, *(len(str(cell)) for cell in cells)])
        lines = [latex(line) for line in _lines(column.head, width)]
        side = "r" if right else "l"
        at = "c" if two else side
        head = rf"\shortstack[{at}]{{" + r"\\".join(lines) + "}" if len(lines) > 1 else lines[0]
        yield rf"\multicolumn{{2}}{{c}}{{{head}}}" if two else head


def _lines(text: str, width: int) -> list[str]:
    """``text`` in lines of ``width`` characters, broken after spaces, slashes, colons and the like;
    arrows stay where they belong.
    """
    lines = [""]
    for piece in re.split(r"(?<=[ :=+/])(?![↑↓ ])(?<!→ )", one_line(text)):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return lines


def _cell(cell: Cell, two: bool) -> list[str]:
    """What a cell has in its one or two columns of the table."""
    text = rf"\num{{{cell.text}}}" if NUMBER.fullmatch(cell.text) else latex(cell.text)
    text = {BEST: rf"\textbf{{{text}}}", IN_SET: rf"\underline{{{text}}}"}.get(cell.mark, text)
    interval, aside = (MINUS.sub("$-$", latex(part)) for part in (cell.spread, cell.aside))
    small = rf"{{\scriptsize {interval}}}" if interval else ""
    return [text, " ".join(filter(None, (small, aside)))] if two else [text]


@lru_cache(maxsize=1 << 16)
def latex(text: str) -> str:
    """``text`` on one line, with everything that has a meaning in LaTeX as the character itself."""
    pairs = pairwise(" " + one_line(text))
    return "".join(
        (NO_LIGATURE if char == before and char in "-',`" else "") + LATEX.get(char, char)
        for before, char in pairs
    )
