"""LaTeX tables: no name breaks them, rows are whole, environments close, and a TeX that is
installed sets all kinds of them.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from exhaustive import mostly_nightly
from scored import arranged, layer_rows, printed, robustness_text, summary_rows
from test_grid import HOSTILE, two_tables
from test_robustness import model, shifted
from test_tables import crossing, frame, plain

from probe.reporting.tables.grid import Cell, Column, Grid, of_columns, score
from probe.reporting.tables.latex import LATEX, LONG, PREAMBLE, latex, to_latex
from probe.reporting.tables.score_tables import grid_of
from probe.reporting.text import one_line, points

PDFLATEX = shutil.which("pdflatex")
DOCUMENT = "\\documentclass{article}\n%s\n\\begin{document}\n%s\n\\end{document}\n"
COMMANDS = {
    *[
        "begin",
        "end",
        "clearpage",
        "dagger",
        "centering",
        "sisetup",
        "setlength",
        "abovetopsep",
        "tabcolsep",
        "linewidth",
        "begingroup",
        "endgroup",
    ],
    *[
        "caption",
        "toprule",
        "midrule",
        "bottomrule",
        "endhead",
        "endfirsthead",
        "endfoot",
        "multicolumn",
        "shortstack",
        "paragraph",
    ],
    *[
        "kern",
        "num",
        "textbf",
        "underline",
        "scriptsize",
        "footnotesize",
        "raggedright",
        "usepackage",
        "par",
        "smallskip",
    ],
    *["uparrow", "downarrow", "rightarrow", "checkmark", "blacklozenge", "lozenge"],
    *[
        "textless",
        "textgreater",
        "textbar",
        "textbackslash",
        "textasciicircum",
        "textasciitilde",
        "symbol",
    ],
}


def hostile(name: str, n_rows: int = 2) -> Grid:
    """A name wherever a name can stand: in a column of its own, in one that all rows share, above,
    below, beside a number.
    """
    scored = [score("wer", 0.5, 0.4, 0.6, "best", name)] * n_rows
    columns = {
        Column(name): [f"{name} {number}" for number in range(n_rows)],
        Column(f"{name} of all"): [name] * n_rows,
        Column(f"{name} rate", True, number=True): scored,
    }
    return of_columns(columns, of={"model": name}, aside=name, notes=[name])


def check_structure(text: str) -> None:
    """Environments close, every row fills all columns, braces and dollars pair up on every line, no
    character of TeX is live.
    """
    begun: list[str] = []
    n_columns = 0
    for line in text.removeprefix(f"% {PREAMBLE}\n").split("\n"):
        for what, name in re.findall(r"\\(begin|end)\{([a-z]+)\}", line):
            if what == "begin":
                begun.append(name)
            else:
                assert begun.pop() == name
        if form := re.search(r"\\begin\{(?:tabular|longtable)\}\{(.*)\}$", line):
            n_columns = len(re.findall("[lcr]", form[1].replace(r"@{\ }", "")))
        plain = line.replace(r"\\", "").replace(r"\{", "").replace(r"\}", "")
        if line.endswith(r" \\") and not line.startswith(r"\caption"):
            spans = sum(int(number) - 1 for number in re.findall(r"\\multicolumn\{(\d)\}", line))
            assert len(re.findall(r"(?<!\\)&", plain)) + 1 + spans == n_columns, line
            assert not re.match(r"\s*[\[*]", line), "would be an argument of the line's end above"
        depths = [0]
        for char in plain:
            depths.append(depths[-1] + {"{": 1, "}": -1}.get(char, 0))
        assert min(depths) == 0 == depths[-1], line
        assert not re.search(r"(?<!\\)[#%^_~]", plain), line
        assert len(re.findall(r"(?<!\\)\$", plain)) % 2 == 0, line
    assert not begun
    assert set(re.findall(r"\\([a-zA-Z]+)", text.replace(r"\\", " "))) <= COMMANDS
    assert all(char.isprintable() or char == "\n" for char in text)


def all_kinds() -> Iterator[str]:
    """LaTeX of every kind of table."""
    yield to_latex(two_tables())
    summary, layers = summary_rows(frame(*plain())), layer_rows(frame(*plain()))
    yield to_latex([grid_of(summary, layers=False), grid_of(layers, layers=True)])
    yield from (
        to_latex(arranged(frame(*plain()), by)) for by in ("models", "layers", "conditions")
    )
    yield to_latex(arranged(frame(*crossing()), "domains"))
    yield printed(frame(*plain()), "latex", published=True)
    records = frame(
        *model("org/a", [0.1, 0.85], invariant="1"), *model("fbank", [0.6]), *shifted("org/a", 0.7)
    )
    yield from (robustness_text(records, "latex", layers) for layers in (False, True))


@pytest.fixture(scope="module")
def kinds() -> list[str]:
    return list(all_kinds())


def test_every_kind_of_table_is_whole(kinds: list[str]) -> None:
    for text in kinds:
        check_structure(text)
        assert text.count(r"\midrule") > 0


@pytest.mark.parametrize("name", mostly_nightly(["name", *HOSTILE], HOSTILE[::5]))
@pytest.mark.parametrize("n_rows", [2, LONG + 1])
def test_no_name_breaks_a_table(name: str, n_rows: int) -> None:
    text = to_latex([hostile(name, n_rows), Grid((), (), {"model": name}, notes=[name])])
    check_structure(text)
    assert len(re.findall(r"\\textbf\{\\num\{50\.0\}\}", text)) == n_rows


def test_what_all_rows_share_stands_in_the_caption() -> None:
    columns = {
        Column("task"): ["digits"] * 2,
        Column("n", number=True): ["72"] * 2,
        Column("model"): ["a", "b"],
    }
    scores = {Column("x", number=True): [score("wer", 0.5)] * 2, Column("y"): ["–"] * 2}
    text = to_latex([of_columns(columns | scores, of={"metric": "wer"}, better=False)])
    assert r"\caption{wer $\downarrow$, digits, n 72}" in text
    assert r"a & \num{50.0} & -- \\" in text
    alone = to_latex([of_columns({name: cells[:1] for name, cells in (columns | scores).items()})])
    assert (
        r"digits & \num{72} & a & \num{50.0} & -- \\" in alone
        and r"\caption{Scores in percent}" in alone
    )


def test_signs_are_signs_and_no_hyphens() -> None:
    cell = Cell(points(-0.03), "[-5.0, +1.0]", aside="(-2.0)", value=-0.03)
    text = to_latex([of_columns({Column("gap"): [cell]})])
    assert r"\num{-3.0} & {\scriptsize {[}$-$5.0, +1.0{]}} ($-$2.0)" in text
    assert "retain-explicit-plus" in text
    assert latex("noise-10 a--b") == r"noise-10 a-\kern0pt-b"


def test_heads_are_broken_where_cells_are_short_and_arrows_stay() -> None:
    name = "noise:files=a.flac@10dB"
    columns = {
        Column(f"{name} error per-lettered", better=False, number=True): [score("wer", 0.5)],
        Column("a"): [name],
    }
    text = to_latex([of_columns(columns)])
    assert r"\shortstack[r]{noise:files=\\a.flac@10dB\\error\\per-lettered $\downarrow$}" in text


def test_a_long_table_breaks_over_pages_and_others_shrink() -> None:
    short, long = (to_latex([hostile("name", n_rows)]) for n_rows in (LONG, LONG + 1))
    assert r"\begin{adjustbox}{max width=\linewidth}" in short and "longtable}{" not in short
    assert r"\begin{longtable}" in long and "adjustbox}{" not in long
    assert long.count(r"\caption") == 1 and long.count(r"\midrule") == 2


def test_the_documentation_names_the_packages() -> None:
    page = (Path(__file__).parents[2] / "docs" / "table-formats.md").read_text(encoding="utf-8")
    assert PREAMBLE in page and to_latex([]) == f"% {PREAMBLE}\n"


def is_set_by_pdflatex(name: str) -> bool:
    return all(ord(char) < 0x180 or char in LATEX for char in one_line(name))


@pytest.mark.nightly
@pytest.mark.skipif(PDFLATEX is None, reason="no pdflatex here: no table was set by TeX")
def test_tex_sets_every_kind_of_table_within_the_page(kinds: list[str], tmp_path: Path) -> None:
    names = [name for name in [*HOSTILE, "✓◆◇ ↑↓→"] if is_set_by_pdflatex(name)]
    assert len(names) > len(HOSTILE) - 4
    whole = to_latex(
        [
            table
            for name in names
            for table in (hostile(name), Grid((), (), {"model": name}, notes=[name]))
        ]
    )
    long = to_latex([hostile("name", 3 * LONG)])
    body = "\n\\clearpage\n".join([*kinds, long, whole, to_latex(two_tables() * 40)])
    (tmp_path / "tables.tex").write_text(DOCUMENT % (PREAMBLE, body), encoding="utf-8")
    command = [str(PDFLATEX), "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, check=False)
    log = (tmp_path / "tables.log").read_text(encoding="utf-8", errors="replace")
    assert done.returncode == 0, log[-3000:]
    assert not [
        line
        for line in log.split("\n")
        if line.startswith(("!", "Overfull")) or "Float too large" in line
    ]
    assert "Missing character" not in log and (tmp_path / "tables.pdf").stat().st_size > 10_000
