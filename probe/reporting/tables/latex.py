"""Tables as LaTeX: booktabs' rules, siunitx's numbers, names as text.

What is the same in every row stands in the caption. A table is shrunk to the width of the text
where it is wider; one of more than `LONG` rows breaks over pages instead. Names are written as they
are: others than Latin letters need LuaLaTeX or XeLaTeX.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

from probe.reporting.tables.grid import Cell, Grid, of_columns
from probe.reporting.text import DASH, one_line
from probe.reporting.ties import BEST, TIED

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
LATEX |= {
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "✓": r"$\checkmark$",
    "◆": r"$\blacklozenge$",
    "◇": r"$\lozenge$",
}


def to_latex(grids: Sequence[Grid]) -> str:
    """The tables, after a comment with the packages that they need. Sentences without a table are
    paragraphs.
    """
    tables = [
        "\\clearpage\n" * (number % MANY == 0 < number) + _table(grid)
        for number, grid in enumerate(grids)
    ]
    return f"% {PREAMBLE}\n" + "\n".join(tables)


def _table(grid: Grid) -> str:
    grid, shared = _shared(grid)
    title = latex(", ".join(filter(None, [grid.title, *shared])) or _scores(grid))
    notes = [
        rf"{{\footnotesize\raggedright {latex(note)}\par}}"
        for note in [*grid.notes_below, *_legend(grid)]
    ]
    wide = [any(cell.spread or cell.aside for cell in cells) for cells in grid.by_column]
    form = "".join(
        ("r" if right else "l") + r"@{\ }l" * two
        for right, two in zip(grid.numeric, wide, strict=True)
    )
    head = [r"\toprule", " & ".join(_heads(grid, wide)) + r" \\", r"\midrule"]
    rows = [
        " & ".join(text for cell, two in zip(row, wide, strict=True) for text in _cell(cell, two))
        + r" \\"
        for row in grid.rows
    ]
    if not grid.columns:
        lines = [rf"\paragraph{{{title}}}" * bool(title), *notes]
    elif len(rows) > LONG:
        lines = [
            r"\begingroup\scriptsize",
            *SETTINGS,
            r"\setlength{\tabcolsep}{3pt}",
            rf"\begin{{longtable}}{{{form}}}",
        ]
        lines += [
            rf"\caption{{{title}}} \\" * bool(title),
            *head,
            r"\endfirsthead",
            *head,
            r"\endhead",
            r"\bottomrule",
            r"\endfoot",
        ]
        lines += [*rows, r"\end{longtable}", r"\endgroup", *notes]
    else:
        lines = [r"\begin{table}", r"\centering", *SETTINGS, rf"\caption{{{title}}}" * bool(title)]
        lines += [
            r"\begin{adjustbox}{max width=\linewidth}",
            rf"\begin{{tabular}}{{{form}}}",
            *head,
            *rows,
            r"\bottomrule",
        ]
        lines += [
            r"\end{tabular}",
            r"\end{adjustbox}",
            r"\par\smallskip" * bool(notes),
            *notes,
            r"\end{table}",
        ]
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
    return of_columns(
        kept, of=grid.of, better=grid.better, aside=grid.aside, notes=grid.notes
    ), shared


def _scores(grid: Grid) -> str:
    """The caption of a table without a title."""
    return "Scores in percent" + " [95 % interval]" * any(
        cell.interval for row in grid.rows for cell in row
    )


def _legend(grid: Grid) -> list[str]:
    """A sentence on what bold, underlines and parentheses mean, where cells have them."""
    cells = [cell for row in grid.rows for cell in row]
    marks, beside = {cell.mark for cell in cells}, any(cell.aside.startswith("(") for cell in cells)
    said = ["bold: the best"] * (BEST in marks) + ["underlined: not shown to be worse"] * (
        TIED in marks
    )
    said += [f"in parentheses: {ASIDE[grid.aside]}"] if beside and grid.aside in ASIDE else []
    return ["; ".join(said).capitalize() + "."] if said else []


def _heads(grid: Grid, wide: Sequence[bool]) -> Iterator[str]:
    """The heads, broken into lines no longer than the cells below them where words allow it."""
    for column, cells, right, two in zip(
        grid.columns, grid.by_column, grid.numeric, wide, strict=True
    ):
        lines = [
            latex(line)
            for line in _lines(column.head, max([12, *(len(str(cell)) for cell in cells)]))
        ]
        at = "c" if two else "r" if right else "l"
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
    shown = {BEST: rf"\textbf{{{text}}}", TIED: rf"\underline{{{text}}}"}.get(cell.mark, text)
    interval, aside = (MINUS.sub("$-$", latex(beside)) for beside in (cell.spread, cell.aside))
    return (
        [shown, " ".join(filter(None, (interval and rf"{{\scriptsize {interval}}}", aside)))]
        if two
        else [shown]
    )


@lru_cache(maxsize=1 << 16)
def latex(text: str) -> str:
    """``text`` on one line, with everything that has a meaning in LaTeX as the character itself."""
    pairs = pairwise(" " + one_line(text))
    return "".join(
        NO_LIGATURE * (char == before and char in "-',`") + LATEX.get(char, char)
        for before, char in pairs
    )
