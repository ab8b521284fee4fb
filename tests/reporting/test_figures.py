"""Figures: each kind shows what the records say, in the size of a paper, whatever names they hold.

What is drawn of synthetic records lies in tests/golden/figures as numbers; after a wanted change
rebuild it with GOLDEN=write python -m pytest tests/reporting/test_figures.py and read the
difference.
"""

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from exhaustive import mostly_nightly
from test_curves import curve, frame, layers_of, legend
from test_det import verified
from test_tables import crossing, plain

from probe.cli import cli
from probe.commands.reports import plot as command
from probe.errors import ProbeError, UsageError
from probe.records import read_records, write_records
from probe.reporting.figures import plot, style
from probe.reporting.figures.budgets import budgets_figure
from probe.reporting.figures.conditions import conditions_figure
from probe.reporting.figures.det import det_figure, det_rows
from probe.reporting.figures.heat_map import domains_figure, search_figure
from probe.reporting.figures.layers import curves_figure
from probe.reporting.figures.style import (
    contents,
    digest,
    fold,
    missing_matplotlib,
    shortened,
    write_figure,
)
from probe.reporting.losses import Losses
from probe.reporting.scores import Scores
from probe.reporting.tables.files import write_tables
from probe.reporting.tables.similarity_tables import read_similarity, similarity_figure

if missing_matplotlib():
    pytest.skip(missing_matplotlib(), allow_module_level=True)

GOLDEN = Path(__file__).parents[1] / "golden" / "figures"
HOSTILE = "_a $\\frac{1$ <script>alert(1)</script>&\n\x1b[31m\u202e " + "x" * 200


def scores_of(*records: Any) -> Scores:
    return Scores.of(frame(*records))


def conditions_of(records: pd.DataFrame) -> pd.DataFrame:
    return Losses(Scores.of(records)).chosen


def budgets_of(records: pd.DataFrame) -> pd.DataFrame:
    return Scores.of(records).budgets()


def domains_of(records: pd.DataFrame) -> pd.DataFrame:
    return Scores.of(records).domains()


def heard(**changed: Any) -> list[Any]:
    """One model on clean audio, under noise of two levels and on the telephone."""
    rates = {"clean": 0.9, "noise:white@10dB": 0.6, "noise:white@20dB": 0.8, "telephone": 0.7}
    return [
        item
        for name, rate in rates.items()
        for item in curve([rate] * 3, [rate] * 3, condition=name, **changed)
    ]


def budgeted(**changed: Any) -> list[Any]:
    """All labels and a part; with few labels dev prefers another layer."""
    few: dict[str, Any] = {"budget": "5/class", "n_train": 50} | changed
    return [
        *curve([0.3, 0.2, 0.1], [0.35, 0.2, 0.1], **few),
        *curve([0.5, 0.9, 0.6], [0.5, 0.8, 0.6], n_train=800, **changed),
    ]


def searched(name: str = "org/a") -> list[Any]:
    """A search over three penalties, of which dev picked the second, and one of a model of one
    layer.
    """

    def tried(layer: int) -> list[dict[str, Any]]:
        return [
            {"l2": l2, "dev_accuracy": (n + layer) / 10, "iterations": 9}
            for n, l2 in enumerate((1e-4, 0.01, 1.0))
        ]

    records = [*curve([0.5] * 3, [0.5] * 3, model=name), *curve([0.5], [0.5], "0", model="fbank")]
    for item in records:
        item.search.extend(tried(item.layer_index))
        item.chosen["l2"] = 0.01
    return records


def compared(folder: Path, model: str = "org/a") -> Path:
    """What `probe similarity` would write of a model's two layers under a condition, and of a model
    with another.
    """
    shared: dict[str, Any] = {
        "format": 1,
        "corpus": "c",
        "split": "test",
        "view": "mean",
        "settings": {"seed": 0},
    }
    shared |= {
        "n_rows": 9,
        "n_sampled": 9,
        "n_utterances": 9,
        "n_blocks": 3,
        "n_groups": 3,
        "alignment": "a",
        "notes": [],
    }
    for form, other, layers in (
        ("conditions", (model, "telephone"), "01"),
        ("models", ("org/b", "clean"), "012"),
    ):
        pairs = [(one, two) for one in "01" for two in (layers if form == "models" else one)]
        cells = [
            {"layer": one, "other_layer": two, "cka": {"value": (int(one) + int(two)) / 4}}
            for one, two in pairs
        ]
        about = {
            "model": {"name": model, "condition": "clean"},
            "other": dict(zip(("name", "condition"), other, strict=True)),
        }
        folder.mkdir(exist_ok=True, parents=True)
        (folder / f"{form}.json").write_text(
            json.dumps(shared | about | {"form": form, "cells": cells}), encoding="utf-8"
        )
    return folder


def drawings(folder: Path, name: str = "org/a") -> dict[str, Callable[..., Any]]:
    """Kind -> its figure of synthetic records of a model of this name."""
    called = {"model": name}
    return {
        "layers": lambda **how: curves_figure(
            layers_of(frame(*plain(), *curve([0.5] * 3, [0.5] * 3, task=name, **called))), **how
        ),
        "conditions": lambda **how: conditions_figure(
            conditions_of(frame(*heard(**called), *heard(model="b"))), **how
        ),
        "domains": lambda **how: domains_figure(
            domains_of(frame(*crossing())).replace("org/a", name), **how
        ),
        "budgets": lambda **how: budgets_figure(budgets_of(frame(*budgeted(**called))), **how),
        "search": lambda **how: search_figure(scores_of(*searched(name)), **how),
        "det": lambda **how: det_figure(
            det_rows(Scores.of(frame(*verified(2.0, **called)))), **how
        ),
        "similarity": lambda **how: similarity_figure(
            read_similarity(compared(folder, name)), **how
        ),
    }


# Ranks are drawn in tests/reporting/test_rank_tables.py.
KINDS = sorted([*(plot.KINDS.keys() - {"ranks"}), plot.SIMILARITY])


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_holds_the_numbers_of_the_records(kind: str, tmp_path: Path) -> None:
    found = contents(drawings(tmp_path)[kind]())
    if kind == "det":
        found[0]["lines"] = [
            line for line in found[0]["lines"] if line[0].endswith("EER")
        ]  # the curve has its own tests
    path = GOLDEN / f"{kind}.json"
    if os.environ.get("GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert found == json.loads(path.read_text(encoding="utf-8"))


def test_domain_maps_have_the_score_and_its_interval_in_each_cell() -> None:
    axes = domains_figure(domains_of(frame(*crossing()))).axes[0]
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    assert shown == {
        (0, 1): "65.0\n60–70",
        (1, 1): "–",
        (0, 0): "60.0\n55–65",
        (1, 0): "85.0\n80–90",
    }
    assert [text.get_text() for text in axes.get_yticklabels()] == ["read (1)", "far (2)"]


def test_the_search_shows_every_dev_score_and_marks_the_pick() -> None:
    figure = search_figure(scores_of(*searched()))
    of_layers = figure.axes[0]
    assert of_layers.get_images()[0].get_array().tolist() == [
        [0, 10, 20],
        [10, 20, 30],
        [20, 30, 40],
    ]
    centres = {
        (round(sum(x[:4]) / 4, 6), round(sum(y[:4]) / 4, 6))
        for x, y in (line.get_data() for line in of_layers.get_lines())
    }
    assert centres == {(1, 0), (1, 1), (1, 2)}
    assert [text.get_text() for text in of_layers.get_xticklabels()] == ["0.0001", "0.01", "1"]
    assert [text.get_text() for text in figure.axes[1].get_yticklabels()] == ["fbank"]


def test_a_search_takes_no_more_than_a_page_and_says_what_is_left_out() -> None:
    figure = search_figure(
        scores_of(*(item for number in range(20) for item in searched(f"org/{number}"))),
        width="single",
    )
    n = len(figure.axes)
    assert 4 < n < 21 and figure.get_suptitle() == f"{n} of 21 panels"
    assert 8 < figure.get_figheight() <= style.PAGE_HEIGHT + 0.7  # heading and legend
    assert len(search_figure(scores_of(*searched()), width="single").axes) == 2


def test_budgets_stand_at_their_number_of_examples_each_at_its_own_layer() -> None:
    axes = budgets_figure(budgets_of(frame(*budgeted()))).axes[0]
    (line,) = axes.get_lines()
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([50, 800], [35, 80])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["50\n5/class", "800\nall"]


@pytest.mark.parametrize("kind", mostly_nightly(KINDS, ["conditions", "search"]))
def test_figures_fit_a_paper_and_their_text_is_legible(kind: str, tmp_path: Path) -> None:
    from matplotlib import style as styles
    from matplotlib.text import Text

    make = drawings(tmp_path)[kind]
    assert make(width="double").get_figwidth() <= 6.9
    with styles.context(["default", style.STYLE]):
        figure = make(width="single")
        assert figure.get_figwidth() <= 3.3
        assert {text.get_fontsize() for text in figure.findobj(Text) if text.get_text()} <= {
            7,
            7.5,
            8,
        }
        figure.draw_without_rendering()
        box = figure.get_tightbbox()
        assert (
            min(box.x0, box.y0, figure.get_figwidth() - box.x1, figure.get_figheight() - box.y1)
            > -0.06
        )


@pytest.mark.parametrize("kind", mostly_nightly(KINDS, ["det", "similarity"]))
def test_names_are_text_and_neither_formulas_nor_markup(kind: str, tmp_path: Path) -> None:
    svg, pdf = (tmp_path / f"a.{ending}" for ending in ("svg", "pdf"))
    write_figure(drawings(tmp_path / "similarity", HOSTILE)[kind], svg, pdf)
    text = svg.read_text(encoding="utf-8")
    assert "<script" not in text and "\x1b" not in text and "\u202e" not in text
    assert pdf.read_bytes().startswith(b"%PDF")


def test_a_name_with_an_underscore_in_front_stays_in_the_legend() -> None:
    assert (
        legend(curves_figure(layers_of(frame(*curve([0.5] * 3, [0.5] * 3, model="_a")))))[0].strip()
        == "_a"
    )


def test_series_are_told_apart_without_colour() -> None:
    looks = style.looks([f"m{n:02}" for n in range(40)])
    assert len({(str(look["linestyle"]), look["marker"]) for look in looks.values()}) == 40


@pytest.mark.parametrize("kind", mostly_nightly(["budgets", "search"], ["budgets"]))
def test_equal_records_give_equal_bytes_and_the_picture_says_what_it_holds(
    kind: str, tmp_path: Path
) -> None:
    make = drawings(tmp_path)[kind]
    paths = [tmp_path / name for name in ("1.svg", "1.pdf", "2.svg", "2.pdf", "1.png")]
    write_figure(make, *paths[:2])
    write_figure(make, *paths[2:])
    assert [path.read_bytes() for path in paths[:2]] == [path.read_bytes() for path in paths[2:4]]
    told = f"data sha256 {digest(make())}"
    assert told in paths[0].read_text(encoding="utf-8") and told.encode() in paths[4].read_bytes()
    for path in paths[:2]:
        assert not re.search(rb"CreationDate|<dc:date>", path.read_bytes())


def test_the_order_of_records_changes_nothing() -> None:
    assert digest(curves_figure(layers_of(frame(*plain())))) == digest(
        curves_figure(layers_of(frame(*plain()[::-1])))
    )
    assert digest(search_figure(scores_of(*searched()))) == digest(
        search_figure(scores_of(*searched()[::-1]))
    )


def test_another_value_gives_another_digest() -> None:
    one, two = (
        curves_figure(layers_of(frame(*curve([0.5] * 3, [0.5, value, 0.5]))))
        for value in (0.6, 0.60001)
    )
    assert digest(one) != digest(two)


def test_drawing_leaves_the_settings_of_matplotlib_alone(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    write_figure(lambda: curves_figure(layers_of(frame(*plain()))), tmp_path / "a.svg")
    assert dict(matplotlib.rcParams) == before


def test_without_matplotlib_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ProbeError, match=r"install layerprobe\[plots\]"):
        write_figure(lambda: curves_figure(layers_of(frame(*plain()))), tmp_path / "a.png")
    write_records(tmp_path / "results" / "a.jsonl", plain())
    names = [
        path.name for path in write_tables(read_records(tmp_path / "results"), tmp_path / "tables")
    ]
    assert names == ["table.md", "table.csv", "layers.md", "layers.csv"]


def test_the_command_draws_what_is_asked_for(tmp_path: Path) -> None:
    choice: Any = command.params[0].type
    assert sorted(choice.choices) == sorted([*plot.KINDS, plot.SIMILARITY])
    write_records(tmp_path / "r" / "a.jsonl", [*plain(), *heard(task="noisy")])
    compared(tmp_path / "r" / "similarity")
    arguments = ["plot", "layers", "--from", str(tmp_path / "r"), "--to", str(tmp_path / "a.svg")]
    done = CliRunner().invoke(
        cli, [*arguments, "--task", "connected", "--metric", "wer", "--model", "org/a"]
    )
    assert done.exit_code == 0, done.output
    records = read_records(tmp_path / "r")
    wanted = layers_of(records[(records["task"] == "connected") & (records["model"] == "org/a")])
    told = digest(curves_figure(wanted[wanted["metric"] == "wer"]))
    assert told in (tmp_path / "a.svg").read_text(encoding="utf-8")
    of_model = {"model": ["org/a"], "metric": ["cka"]}
    plot.plot("similarity", [tmp_path / "r"], tmp_path / "b.svg", of_model)
    under_telephone = {"condition": ["telephone"], "task": ["noisy"]}
    plot.plot("conditions", [tmp_path / "r"], tmp_path / "c.svg", under_telephone)
    rows = conditions_of(
        records[(records["task"] == "noisy") & records["condition"].isin(["clean", "telephone"])]
    )
    assert digest(conditions_figure(rows)) in (tmp_path / "c.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "asked", "error", "message"),
    [
        (
            "layers",
            {"only": {"model": ["org/x"]}},
            ProbeError,
            r"no model org/x to draw\. Available: fbank, org/a, org/b",
        ),
        (
            "layers",
            {"only": {"metric": ["eer"]}},
            ProbeError,
            r"no metric eer to draw\. Available: accuracy, cer, wer",
        ),
        (
            "similarity",
            {"only": {"metric": ["ckA"]}},
            ProbeError,
            r"no measure ckA\. Available: cosine, distance, cka, cca, pwcca",
        ),
        ("domains", {}, ProbeError, "no score across domains to draw"),
        ("budgets", {}, ProbeError, "no learning curve to draw"),
        ("search", {}, ProbeError, "no search to draw"),
        ("conditions", {}, ProbeError, "no score under a condition"),
        ("det", {}, ProbeError, "no trials to draw"),
        (
            "layers",
            {"to": "a.gif"},
            UsageError,
            r"a\.gif: the name of a figure must end in \.png, \.svg, \.pdf",
        ),
    ],
)
def test_what_cannot_be_drawn_is_said(
    kind: str, asked: dict, error: type[ProbeError], message: str, tmp_path: Path
) -> None:
    write_records(tmp_path / "r" / "a.jsonl", plain())
    compared(tmp_path / "r" / "similarity")
    with pytest.raises(error, match=message):
        plot.plot(kind, [tmp_path / "r"], **({"to": tmp_path / "a.svg"} | asked))


@pytest.mark.parametrize(
    ("text", "width", "lines", "folded"),
    [
        ("speaker-verify, speakers_disjoint", 20, 3, "speaker-verify,\nspeakers_disjoint"),
        (
            "noise:files=doing_the_dishes.flac@10dB",
            12,
            4,
            "noise:files=\ndoing_the_\ndishes.flac@\n10dB",
        ),
        ("a" * 30, 5, 2, "aaaaa\n…aaaa"),
        ("", 5, 2, ""),
    ],
)
def test_long_names_are_folded_between_words_and_shortened_in_the_middle(
    text: str, width: int, lines: int, folded: str
) -> None:
    found = fold(text, width, lines)
    assert len(found.split("\n")) <= lines and max(map(len, found.split("\n"))) <= width
    assert found == folded
    assert shortened("abcdefghij", 5) == "ab…ij"
