"""Tables in every format: golden files, hostile names, arrangements, pivots, filters, published
figures.

The golden files lie in tests/golden/tables; after a wanted change rebuild them with
GOLDEN=write python -m pytest tests/reporting/test_grid.py and read the difference.
"""

import csv
import functools
import io
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from exhaustive import mostly_nightly
from scored import arranged, layers, pivoted, printed, robustness_text, summary_rows
from test_robustness import model, shifted
from test_tables import AS_GOOD, BAD, GOOD, crossing, curve, frame, plain, scored

from probe.cli import cli
from probe.errors import ProbeError, UsageError
from probe.records import Record, write_records
from probe.reporting.filters import kept, ordered, parse_term
from probe.reporting.report.page import content
from probe.reporting.scores import Scores
from probe.reporting.tables import grid, pivot, published
from probe.reporting.tables.files import in_form
from probe.reporting.tables.grid import Cell, Column, Grid, of_columns, score
from probe.reporting.tables.terminal import terminal_table
from probe.reporting.text import escaped, one_line

GOLDEN = Path(__file__).parents[1] / "golden" / "tables"
FORMS = ["md", "csv", "latex", "html", "json"]
HOSTILE = [
    "<script>alert(1)</script>",
    "</td></table><h1>x",
    "<img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "&lt;b&gt;",
    "\u202egnp.exe",
    "\u200f\u2066x\u2069",
    "a|b",
    "| --- |",
    "`code`",
    "**bold** _it_ ~~no~~",
    "[link](javascript:alert(1))",
    "two\nlines",
    "cr\rlf\r\nend",
    "\u2028sep\u2029",
    "\x1b[31mred\x1b[0m",
    "\x9b31mred",
    "\x00\x07\x7f",
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "＝1+1",
    "\\input{/etc/passwd}",
    "$\\frac{1}{0}$",
    "100% & #1 ^_~",
    "[opt]*{}",
    "}{\\end{tabular}",
    'quote",comma',
    "-- '' `` ,,",
    "\\",
    "ünï \U0001f600 \udc80",
]


def two_tables() -> list[Grid]:
    """A table with everything a cell can have, and one below it."""
    columns: dict[Column, Sequence[Cell | str]] = {
        Column("model"): ["org/a_b", "org/b"],
        Column("digits accuracy", better=True, number=True): [
            score("accuracy", 0.741, 0.70, 0.78, "best", "(3)"),
            score("accuracy", 0.735, 0.69, 0.77, "in set", "(12)"),
        ],
        Column("text wer", better=False, number=True): [score("wer", 0.1), Cell("–")],
    }
    matrix = of_columns(
        {
            Column("train \\ test"): ["read"],
            Column("far"): [score("accuracy", 0.6, aside="(+25.0)")],
        },
        of={"task": "emotion", "metric": "accuracy"},
        better=True,
        aside="gap",
        notes=["far → read: 100 % of nothing"],
    )
    return [of_columns(columns, aside="layer"), matrix]


@pytest.mark.parametrize("form", FORMS)
def test_every_format_is_as_expected(form: str) -> None:
    found = in_form(two_tables(), form)
    path = GOLDEN / f"tables.{ {'latex': 'tex'}.get(form, form) }"
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.mkdir(parents=True, exist_ok=True)
        path.write_text(found, encoding="utf-8", newline="")
    assert found == path.read_bytes().decode()


@pytest.mark.parametrize("by", ["models", "layers", "conditions", "domains"])
def test_every_arrangement_is_as_expected(by: str) -> None:
    records = crossing() if by == "domains" else plain()
    if by == "conditions":
        records += [
            replace(item, condition="telephone", value=(item.value or 0) / 2, low=None, high=None)
            for item in plain()
        ]
    found = grid.to_markdown(arranged(frame(*records), by))
    path = GOLDEN / f"by_{by}.md"
    if os.environ.get("GOLDEN") == "write":
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")


def hostile_grid(name: str) -> Grid:
    return of_columns(
        {
            Column(name): [name, name],
            Column(f"{name}2", True, number=True): [score("wer", 0.5, 0.4, 0.6, "best", name)] * 2,
        },
        of={"model": name},
        aside=name,
        notes=[name],
    )


@pytest.mark.parametrize("name", mostly_nightly(HOSTILE, HOSTILE[::5]))
def test_no_name_breaks_markdown_or_a_terminal(name: str) -> None:
    text = grid.to_markdown([hostile_grid(name)])
    lines = [line for line in text.split("\n") if line.startswith("|")]
    bars = [line.replace("\\\\", "").replace("\\|", "").count("|") for line in lines]
    assert len(lines) == 4 and bars == [3] * 4
    assert all(char.isprintable() or char == "\n" for char in text)
    assert not re.search(r"(?<!\\)<(?!/?ins>)", text.replace("\\\\", ""))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("![x](http://t.example/p.png)", r"![x\](http://t.example/p.png)"),
        ("[best](http://e.example)", r"[best\](http://e.example)"),
        ("[[a]](u) [b][c] [d]: e", r"[[a]\](u) [b\][c] [d\]: e"),
        ("_u_ __v__ x_ _y", r"\_u\_ \_\_v\_\_ x\_ \_y"),
        ("*_w_*", r"\*\_w\_\*"),
        ("~~s~~", r"\~\~s\~\~"),
        ("&lt;b&gt; &#60;i&#x3e; R&D", r"\&lt;b\&gt; \&#60;i\&#x3e; R&D"),
        (
            "min_dcf_0.01 doing_the_dishes a__b 95 % [1, 2] (3)",
            "min_dcf_0.01 doing_the_dishes a__b 95 % [1, 2] (3)",
        ),
    ],
)
def test_names_are_text_in_markdown_and_stay_readable(name: str, shown: str) -> None:
    assert escaped(name) == shown


@pytest.mark.parametrize("name", mostly_nightly(HOSTILE, HOSTILE[::5]))
def test_no_name_breaks_csv(name: str) -> None:
    for excel_safe in (False, True):
        text = grid.to_csv([hostile_grid(name)], excel_safe)
        assert all(char.isprintable() or char == "\n" for char in text)
        rows = list(csv.reader(io.StringIO(text)))
        assert len(rows) == 3 and len({len(row) for row in rows}) == 1
        if excel_safe:
            assert not any(re.match("[=+\\-@\t\r＝＋－＠]", field) for row in rows for field in row)


def test_numbers_are_no_formulas() -> None:
    table = of_columns(
        {Column("x", number=True): [Cell("-3.0", value=-0.03)], Column("y"): ["-3.0"]}
    )
    assert grid.to_csv([table], excel_safe=True) == "x,y\n-0.03,'-3.0\n"
    assert grid.to_csv([table]) == "x,y\n-0.03,-3.0\n"


PAGE = {
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "h2",
    "table",
    "caption",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
}
PAGE |= {"strong", "u", "small", "ul", "li"}


class Tags(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, attrs))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("name", mostly_nightly(HOSTILE, HOSTILE[::5]))
def test_no_name_breaks_html(name: str) -> None:
    page = Tags()
    page.feed(grid.to_html([hostile_grid(name)], title=name))
    usual = Tags()
    usual.feed(grid.to_html([hostile_grid("name")], title="name"))
    assert page.seen == usual.seen and not page.open
    assert one_line(name) in page.text


def test_pages_fit_small_screens_and_leave_room_for_notes() -> None:
    page = grid.to_html(two_tables())
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert "td:last-child:not(:first-child, .number) { min-width: 30ch; }" in page


def test_every_kind_of_page_is_whole() -> None:
    records = Scores.of(frame(*plain()))
    robust = frame(*model("org/a", [0.1, 0.85], invariant="1"), *shifted("org/<b>", 0.7))
    pages = [printed(records, "html", layers) for layers in (False, True)]
    pages += [in_form(arranged(records, by), "html") for by in ("models", "layers", "conditions")]
    pages += [printed(frame(*crossing()), "html"), printed(records, "html", published=True)]
    pages += [robustness_text(robust, "html", layers) for layers in (False, True)]
    for text in pages:
        page = Tags()
        page.feed(text)
        assert not page.open and {tag for tag, _ in page.seen} <= PAGE
        heads = [row.count("<th") for row in text.split("\n") if row.startswith("<tr><th")]
        for n_columns, table in zip(heads, text.split("</thead>")[1:], strict=True):
            body = table.partition("</table>")[0].split("\n")[2:-1]
            assert body[-1] == "</tbody>" and {row.count("<td") for row in body[:-1]} == {n_columns}
        assert heads and all(n > 1 for n in heads)


@pytest.mark.parametrize("name", mostly_nightly(HOSTILE, HOSTILE[::5]))
def test_no_name_breaks_json(name: str) -> None:
    text = grid.to_json([hostile_grid(name)])
    assert all(char.isprintable() or char == "\n" for char in text)
    assert json.loads(text)[0]["of"]["model"] == name


@pytest.mark.parametrize("form", mostly_nightly(FORMS, ["md"]))
def test_whole_commands_survive_hostile_records(form: str, tmp_path: Path) -> None:
    records: list[Record] = []
    for number, name in enumerate(HOSTILE[:-1]):
        made = curve(
            [0.5, 0.6],
            [0.5, 0.6],
            "0 1",
            model=f"{name}{number}",
            task=name,
            corpus=name,
            note=name,
            head=name,
        )
        records += made
    write_records(tmp_path / "a.jsonl", records)
    for options in (
        [],
        ["--every-layer"],
        ["--by", "models"],
        ["--by", "layers"],
        ["--by", "conditions"],
        ["--published"],
    ):
        done = CliRunner().invoke(
            cli, ["table", "--from", str(tmp_path), "--format", form, "--excel-safe", *options]
        )
        assert done.exit_code == 0, done.output
        assert all(char.isprintable() or char == "\n" for char in done.stdout)


def cells(found: Grid) -> dict[tuple[str, str], str]:
    return {
        (row[0].text, column.name): f"{cell.text}{cell.aside}"
        for row in found.rows
        for column, cell in zip(found.columns[1:], row[1:], strict=True)
    }


def test_models_beside_tasks_are_at_the_layer_that_dev_chose() -> None:
    (found,) = arranged(frame(*plain()), "models")
    assert cells(found)["org/a", "digits accuracy"] == "74.0(1)"
    assert cells(found)["fbank", "connected wer"] == "–"
    assert [column.better for column in found.columns] == [None, False, False, True]


def test_final_weighted_and_baselines_stand_below_the_best() -> None:
    records = [
        *curve([0.6, 0.9], [0.6, 0.8], "0 1"),
        *curve([0.7], [0.75], "weighted", final_layer="1"),
    ]
    records += curve([0.6], [0.1], "none", control="majority", final_layer="1")
    records += [
        replace(item, layer="0", value=0.55) for item in curve([0.6], [0.55], "0", model="fbank")
    ]
    (found,) = arranged(frame(*records), "models", show=["best", "final", "weighted", "baselines"])
    told = {(row[0].text, row[1].text): row[2].text for row in found.rows}
    assert told == {
        ("fbank", "best"): "55.0",
        ("fbank", "final"): "55.0",
        ("org/a", "best"): "80.0",
        ("org/a", "final"): "80.0",
        ("org/a", "weighted"): "75.0",
        ("org/a", "majority"): "10.0",
        ("org/a", "fbank"): "55.0",
    }
    assert all(
        row[2].interval for row in found.rows if row[1].text in ("best", "final", "weighted")
    )


def test_ties_are_underlined_and_the_best_is_bold() -> None:
    assert "**74.1** [70.0, 78.0] (3)" in grid.to_markdown(two_tables())
    assert "<ins>73.5</ins> [69.0, 77.0] (12)" in grid.to_markdown(two_tables())
    assert "<u>73.5</u> <small>[69.0, 77.0]</small> (12)" in grid.to_html(two_tables(), page=False)


def of_four(**changed: Any) -> pd.DataFrame:
    """Scores of 4 speakers and two seeds, beside a task of 40 and one."""
    small: dict[str, Any] = {"n_blocks": 4, "task": "verify"} | changed
    both = [
        replace(item, seed=seed)
        for item in curve([0.5, 0.9], [0.5, 0.8], "0 1", **small)
        for seed in (0, 1)
    ]
    return frame(*both, *curve([0.5, 0.9], [0.5, 0.7], "0 1"))


@pytest.mark.parametrize("by", ["models", "layers", "conditions"])
def test_scores_of_few_blocks_and_means_of_seeds_are_told_in_every_format(by: str) -> None:
    grids = arranged(of_four(), by)
    shown = {form: in_form(grids, form) for form in FORMS}
    for form in ("md", "html", "latex"):
        dagger = {"latex": r"$\dagger$"}.get(form, "†")
        assert (
            re.search(re.escape(dagger) + r" without an interval: fewer than 6", shown[form])
            and "mean of 2 seeds" in shown[form]
        )
        assert shown[form].count(dagger) == (3 if by == "layers" else 2)  # below the table once
    told = [
        cell
        for table in json.loads(shown["json"])
        for row in table["rows"]
        for cell in row
        if cell.get("few")
    ]
    assert {cell["value"] for cell in told} == ({0.5, 0.8} if by == "layers" else {0.8})
    rows = list(csv.DictReader(io.StringIO(shown["csv"])))
    assert [
        value for row in rows for name, value in row.items() if name.endswith(" few") and value
    ] == ["True"] * len(told)


@pytest.mark.parametrize("form", FORMS)
def test_percentile_intervals_are_named_in_every_format(form: str) -> None:
    records = frame(*(item for n in (5, 6) for item in layers([n], [n], model=f"org/{n}")))
    usual, percentile = Scores.of(records), Scores.of(records, method="percentile")
    for shown in (
        lambda scores: printed(scores, form),
        lambda scores: printed(scores, form, layers=True),
        lambda scores: printed(scores, form, published=True),
        lambda scores: in_form(arranged(scores, "models"), form),
        lambda scores: in_form(pivot.pivoted(scores, ["model", "seed"], ["task"]), form),
    ):
        assert "percentile" in shown(percentile) and "percentile" not in shown(usual)
    assert "bootstrap" in terminal_table(percentile) and "bootstrap" not in terminal_table(usual)


@pytest.mark.parametrize("table", ["--rank", "--robust"])
def test_the_method_of_intervals_is_refused_where_it_would_be_ignored(table: str) -> None:
    command = ["table", "--from", "results", "--interval", "percentile", table]
    done = CliRunner().invoke(cli, command)
    assert isinstance(done.exception, UsageError)
    assert f"those of {table} have one method" in str(done.exception)


def test_few_blocks_are_told_by_pivots_matrices_and_beside_published_figures() -> None:
    records = of_four(n_blocks=19)
    (found,) = pivoted(records[records["seed"] == 0], ["model"], ["task"])
    assert {cell.value: cell.few for cell in found.rows[0][1:]} == {0.8: True, 0.7: False}
    assert not any(
        cell.few
        for cell in pivoted(of_four(n_blocks=20).query("seed == 0"), ["model"], ["task"])[0].rows[0]
    )
    assert "80.0 † (1)" in printed(records, "md", published=True)
    assert set(json.loads(printed(records, "json", published=True))[0]) >= {
        "few",
        "n_blocks",
        "n",
        "n_seeds",
    }
    (matrix,) = arranged(frame(*(replace(item, n_blocks=4) for item in crossing())), "domains")
    assert matrix.rows[0][2].few and not matrix.rows[0][3].few  # the second has no value


def test_latex_says_what_its_marks_mean() -> None:
    hits = {"a": GOOD, "b": AS_GOOD, "c": BAD}
    rivals = [item for name, of_model in hits.items() for item in scored(of_model, model=name)]
    text = in_form(arranged(frame(*rivals), "models"), "latex")
    assert r"\caption{Scores in percent {[}95 \% interval{]}}" in text
    assert (
        r"Bold: the best; underlined: in the 95 \% model confidence set; in parentheses: the layer."
        in text
    )


def test_both_domains_are_told_also_where_one_is_called_clean() -> None:
    ways = [("clean", "clean"), ("clean", "far"), ("far", "clean"), ("far", "far")]
    records = [
        item
        for way in ways
        for item in curve([0.5], [0.5], "0", train_domain=way[0], test_domain=way[1], task="shift")
    ]
    titles = [table.title for table in arranged(frame(*records), "conditions")]
    assert titles == [
        f"shift, spoken-digits, {train} → {test}, linear, accuracy ↑" for train, test in ways
    ]
    (found,) = arranged(frame(*records), "models")
    assert [column.name for column in found.columns[1:]] == [
        f"shift {train} → {test} accuracy" for train, test in ways
    ]


def test_a_pivot_shows_any_fields() -> None:
    records = frame(
        *plain(), *(replace(item, seed=1, value=(item.value or 0) / 2) for item in plain())
    )
    terms = [parse_term("task=digits"), parse_term("model!=fbank")]
    (found,) = pivoted(records, ["layer"], ["seed", "model"], terms)
    assert (
        cells(found)["1", "seed 0 org/a"] == "74.0" and cells(found)["1", "seed 1 org/a"] == "37.0"
    )
    assert [row[0].text for row in found.rows] == ["0", "1", "2", "final"]
    (mean,) = pivoted(records, ["layer"], ["model"], terms)
    assert cells(mean)["1", "org/a"] == "55.5" and mean.notes == ["mean of 2 seeds"]


def test_a_cell_that_would_hold_two_scores_is_refused_and_what_differs_is_named() -> None:
    with pytest.raises(
        ProbeError,
        match=r"one cell \(model org/a, task connected\) would hold 2 scores, .* metric "
        r"\(cer, wer\)",
    ):
        pivoted(frame(*plain()), ["model"], ["task"])
    with pytest.raises(
        ProbeError, match=r"differ in layer \(0, 1, 2\); split \(dev, test\).*--filter layer=0"
    ):
        pivoted(
            frame(*plain()),
            ["model"],
            [["task", "metric"][0]],
            [parse_term("split=*"), parse_term("layer=*")],
        )


@pytest.mark.parametrize(
    ("down", "across", "message"),
    [
        (
            ["modle"],
            ["task"],
            r"--pivot: no field 'modle'\. Did you mean 'model'\? Fields: model, revision, layer",
        ),
        (["model"], [""], "--pivot: no field ''"),
        (["model"], ["model"], "expected ROWS,COLUMNS"),
        (["counts"], ["task"], "no field 'counts'"),
    ],
)
def test_wrong_fields_of_a_pivot_are_answered(
    down: list[str], across: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        pivoted(frame(*plain()), down, across)


@pytest.mark.parametrize(
    ("text", "models"),
    [
        ("model=org/a", {"org/a"}),
        ("model=org/a,fbank", {"org/a", "fbank"}),
        ("model=org/*", {"org/a", "org/b"}),
        ("model!=org/*", {"fbank"}),
        ("layer=1", {"org/a", "org/b"}),
        ("value=0.74", {"org/a"}),
    ],
)
def test_filters_keep_what_fits(text: str, models: set[str]) -> None:
    rows = summary_rows(frame(*plain()))
    assert set(kept(rows[rows["task"] == "digits"], [parse_term(text)])["model"]) == models


def test_wrong_filters_are_answered() -> None:
    rows = summary_rows(frame(*plain()))
    for text, message in [
        ("model", "expected FIELD=VALUE"),
        ("modl=x", "no field 'modl'. Did you mean 'model'?"),
        (
            "model=fbnk",
            "nothing is left. model is one of: fbank, org/a, org/b. Did you mean 'fbank'?",
        ),
    ]:
        with pytest.raises(UsageError, match=re.escape(message)):
            kept(rows, [parse_term(text)])


def test_sorting_knows_numbers_and_layers() -> None:
    rows = pd.DataFrame(
        {
            "layer": ["10", "2", "final"],
            "layer_index": [10, 2, 11],
            "model": ["a", "c", "b"],
            "value": [0.1, None, 0.3],
        }
    )
    assert list(ordered(rows, "layer")["layer"]) == ["2", "10", "final"]
    assert list(ordered(rows, "-model")["model"]) == ["c", "b", "a"]
    assert list(ordered(rows, "-value")["model"]) == ["b", "a", "c"]
    with pytest.raises(UsageError, match="Did you mean 'model'"):
        ordered(rows, "modle")


def test_a_filter_of_metrics_does_not_change_the_chosen_layer(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", plain())
    asked = ["table", "--from", str(tmp_path), "--format", "json"]
    whole = json.loads(CliRunner().invoke(cli, asked).stdout)
    some = json.loads(CliRunner().invoke(cli, [*asked, "--filter", "metric=wer"]).stdout)
    assert some == [row for row in whole if row["metric"] == "wer"] and some


@pytest.mark.parametrize("term", ["metric=wer", "metric!=wer", "layer=1"])
@pytest.mark.parametrize("arrangement", [[], ["--by", "models"], ["--every-layer"]])
def test_files_of_all_scores_are_not_written_beside_a_filtered_table(
    tmp_path: Path, term: str, arrangement: list[str]
) -> None:
    write_records(tmp_path / "results" / "a.jsonl", plain())
    asked = ["table", "--from", str(tmp_path / "results"), *arrangement]
    done = CliRunner().invoke(cli, [*asked, "--filter", term, "--to", str(tmp_path / "tables")])
    assert isinstance(done.exception, UsageError) and f"--filter {term}" in str(done.exception)
    assert not (tmp_path / "tables").exists()


def test_a_filter_of_models_holds_for_the_files_too(tmp_path: Path) -> None:
    write_records(tmp_path / "results" / "a.jsonl", plain())
    asked = ["table", "--from", str(tmp_path / "results"), "--to", str(tmp_path / "tables")]
    done = CliRunner().invoke(cli, [*asked, "--filter", "model=fbank"])
    assert done.exit_code == 0, done.output
    models = set(pd.read_csv(tmp_path / "tables" / "layers.csv")["model"])
    assert models == {"fbank"}


def compared(**changed: Any) -> dict[Any, Any]:
    model: dict[str, Any] = {"model": "facebook/wav2vec2-base", "task": "speaker-id"} | changed
    records = [
        *curve([0.5, 0.9], [0.5, 0.8], "0 1", **model),
        *curve([0.6], [0.7], "weighted", final_layer="1", **model),
    ]
    return published.published_rows(summary_rows(frame(*records))).iloc[0].to_dict()


def test_a_published_figure_stands_beside_the_score_digit_for_digit() -> None:
    row = compared()
    assert (row["printed"], row["published"], row["figure"], row["certain"]) == (
        "75.18",
        0.7518,
        "SUPERB SID",
        "yes",
    )
    assert (row["value"], row["score"], row["like_theirs"]) == (0.8, "weighted", 0.7)
    assert compared(model="facebook/wav2vec2-base@" + "1" * 40)["printed"] == "75.18"
    assert (
        compared(model="fbank")["printed"] == "20.0582"
        and "deltas" in compared(model="fbank")["differs"]
    )


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"model": "random:facebook/wav2vec2-base"}, "not comparable: random weights"),
        ({"task": "gender-id"}, "not comparable"),
        ({"task": "speaker-id+mean"}, "not comparable"),
        ({"condition": "telephone"}, "not comparable: conditions or domains"),
        ({"model": "org/wav2vec2-base"}, "no figure of this model"),
    ],
)
def test_what_is_not_the_published_model_or_question_stands_alone(
    changed: dict[str, Any], why: str
) -> None:
    row = compared(**changed)
    assert (row["figure"], row["printed"]) == (why, "") and math.isnan(row["published"])


def test_uncertain_figures_are_shown_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    row = compared(task="speaker-id", model="microsoft/wavlm-base")
    assert row["certain"] == "secondary"
    text = grid.to_markdown([published.published_grid(pd.DataFrame([row]))])
    assert f"{row['printed']} (uncertain: secondary)" in text
    assert row["differs"] in text and row["source"] in text


def published_figures() -> Iterator[tuple[str, dict[str, str]]]:
    for name, rows in published.figures().items():
        for row in rows:
            yield name, row


def test_published_figures_have_one_schema_a_source_and_a_certainty() -> None:
    assert len(published.figures()) == 5
    for name, row in published_figures():
        assert list(row) == published.COLUMNS, name
        assert row["source"] and row["certain"].split()[0] in (
            "yes",
            "secondary",
            "derived",
            "no",
        ), (name, row)
        assert math.isfinite(float(row["value"])), (name, row)


def test_every_entry_of_the_map_means_figures_and_tasks_that_exist() -> None:
    from probe.protocols import ready_tasks

    for entry in published.published_map()["entry"]:
        assert (
            set(entry["tasks"]) <= set(ready_tasks())
            and entry["score"] in published.SCORES
            and published.differences(entry)
        )
        there = [row for row in published.figures()[entry["file"]] if row["task"] == entry["task"]]
        there = [
            row
            for row in there
            if row["metric"] == entry["figure"] and row["lm"] == entry.get("lm", "")
        ]
        assert {row["split"] for row in there} >= set(entry.get("splits", [])) and there, entry[
            "name"
        ]


def test_ways_to_arrange_exclude_each_other(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", plain())
    asked = ["table", "--from", str(tmp_path)]
    for options, message in [
        (
            ["--by", "models", "--pivot", "model,task"],
            "--by and --pivot: use one of them at a time",
        ),
        (["--show", "final"], "--show needs --by models"),
        (["--baseline", "mfcc"], "--baseline needs --all-measures"),
        (["--axis", "depth"], "--axis needs --to"),
    ]:
        done = CliRunner().invoke(cli, [*asked, *options])
        assert isinstance(done.exception, UsageError) and message in str(done.exception)


def test_the_pandas_examples_of_the_documentation_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "table-formats.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    counts = {"block": ["a", "b", "c"], "numerator": [9, 8, 9], "denominator": [10, 10, 10]}
    worse = counts | {"numerator": [5, 6, 4]}
    records = [*curve([0.5, 0.9], [0.5, 0.8], "0 1", model="mfcc", task="word-id", counts=counts)]
    write_records(tmp_path / "results" / "a.jsonl", records)
    write_records(
        tmp_path / "results" / "b.jsonl",
        [replace(item, model="fbank", counts=worse) for item in records],
    )
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for example in examples:
        exec(example, names)
    assert len(examples) == 3
    assert names["curves"].loc[1, ("mfcc", "word-id", "accuracy")] == 0.8
    assert names["chosen"]["fbank", "word-id", ""] == "1"
    assert names["difference"].difference == pytest.approx(11 / 30)


@functools.cache
def with_shared_speakers() -> pd.DataFrame:
    """Records of which those of org/a have speakers of training."""
    return frame(*(replace(item, shared_speakers=7 * (item.model == "org/a")) for item in plain()))


@pytest.mark.parametrize("form", mostly_nightly(["md", "html", "latex"], ["md"]))
def test_speakers_of_training_are_marked_in_every_table(form: str) -> None:
    rows = with_shared_speakers()
    scores = Scores.of(rows)
    mark = "$\\ddagger$" if form == "latex" else "‡"
    texts = [printed(scores, form, layers) for layers in (False, True)]
    texts += [in_form(arranged(scores, by), form) for by in ("models", "layers", "conditions")]
    texts.append(in_form(pivoted(rows, ["model"], ["task", "metric"]), form))
    for text in texts:
        assert text.count(mark) > 1 and "some or all of the speakers are in training too" in text


def test_speakers_of_training_are_counted_in_rows_and_marked_only_where_known() -> None:
    rows = with_shared_speakers()
    scores = Scores.of(rows)
    table = pd.read_csv(io.StringIO(printed(scores, "csv")))
    assert table.groupby("model")["shared_speakers"].max().to_dict() == {
        "fbank": 0,
        "org/a": 7,
        "org/b": 0,
    }
    assert {row.get("shared_speakers") for row in json.loads(printed(scores, "json"))} == {0, 7}
    without = Scores.of(frame(*plain()))  # of records that do not know
    for text in (printed(without, form) for form in ("md", "csv", "json")):
        assert "‡" not in text and "shared" not in text
    moved = frame(*(replace(item, shared_speakers=3) for item in crossing()))
    assert "‡" in in_form(arranged(moved, "domains"), "md")
    heard = frame(*(replace(item, shared_speakers=3) for item in model("org/a", [0.8])))
    assert "‡" in robustness_text(heard, "md") and "‡" in robustness_text(heard, "md", layers=True)
    assert {row["shared"] for row in content_rows(rows)} == {7, None}


def content_rows(records: pd.DataFrame) -> list[dict[str, Any]]:
    """The scores of the report's page, a dict each."""
    scores = content(records)["scores"]
    return [dict(zip(scores, values, strict=True)) for values in zip(*scores.values(), strict=True)]
