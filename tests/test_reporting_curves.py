"""Layer curves: what is drawn is what the records say."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_reporting_tables import crossing, curve, frame, plain

from probe.errors import ProbeError
from probe.evaluation.depth import depth_of
from probe.records import read_records, write_records
from probe.reporting.curves import curves_figure, layer_curves, missing_matplotlib
from probe.reporting.tables import layer_rows, write_tables

if missing_matplotlib():
    pytest.skip(missing_matplotlib(), allow_module_level=True)


def drawn(figure: Any, panel: int = 0) -> dict[str, tuple[list[float], list[float]]]:
    """(x, y) of every line of a panel that has points, by its label."""
    lines = figure.axes[panel].get_lines()
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in lines if len(line.get_xdata())}


def legend(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_plotted_points_are_the_test_values_in_percent() -> None:
    figure = curves_figure(layer_rows(frame(*curve([0.5, 0.9, 0.6], [0.25, 0.75, 0.5]))))
    assert drawn(figure) == {"org/a": ([0, 1, 2], [25, 75, 50]), "org/a | chosen": ([1], [75])}
    band: Any = figure.axes[0].collections[0].get_paths()[0].vertices
    assert {(round(x), round(y)) for x, y in band} == {(0, 20), (0, 30), (1, 70), (1, 80), (2, 45), (2, 55)}


def test_conv_stands_before_the_layers_and_final_apart_from_the_line() -> None:
    figure = curves_figure(layer_rows(frame(*curve([0.1, 0.2, 0.3, 0.9], [0.1, 0.2, 0.3, 0.4], "conv 0 1 final"))))
    assert drawn(figure) == {
        "org/a": ([-1, 0, 1], [10, 20, 30]),
        "org/a | final": ([2], [40]),
        "org/a | chosen": ([2], [40]),
    }
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["\nconv", "0", "1", "2"]


def test_a_model_of_one_layer_is_a_horizontal_line_across_the_panel() -> None:
    figure = curves_figure(layer_rows(frame(*curve([0.5] * 3, [0.5] * 3), *curve([0.2], [0.25], "0", model="fbank"))))
    assert drawn(figure)["fbank"] == ([0, 2], [25, 25])


def test_one_value_left_of_many_layers_stays_a_point() -> None:
    figure = curves_figure(
        layer_rows(frame(*curve([0.5, None, None], [0.5, None, None]), *curve([0.2] * 3, [0.2] * 3, model="b")))
    )
    assert drawn(figure)["org/a"] == ([0], [50])


def test_layers_stand_at_their_number_where_only_some_were_run() -> None:
    figure = curves_figure(layer_rows(frame(*curve([0.1, 0.2, 0.3], [0.1, 0.2, 0.3], "4 8 12"))))
    assert drawn(figure)["org/a"][0] == [4, 8, 12]


def deep(n: int, layers: str, **changed: Any) -> list[Any]:
    """A curve of a model of ``n`` blocks."""
    values = [0.1 * (place + 1) for place in range(len(layers.split()))]
    return [replace(item, depth=depth_of(item.layer, n)) for item in curve(values, values, layers, **changed)]


def test_on_the_axis_of_depth_models_end_at_one_place_and_final_stands_apart() -> None:
    records = [*deep(4, "conv 0 1 2 4"), *deep(8, "0 4 8 final", model="org/b"), *curve([0.2], [0.25], "0", model="fbank")]
    figure = curves_figure(layer_rows(frame(*records)), "depth")
    lines = drawn(figure)
    assert lines["org/a"][0] == [-0.08, 0, 0.25, 0.5, 1]
    assert lines["org/b"] == ([0, 0.5, 1], pytest.approx([10, 20, 30]))
    assert lines["org/b | final"] == ([1.08], pytest.approx([40]))
    assert lines["fbank"][0] == [-0.08, 1.08]
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["\nconv", "0", "0.25", "0.5", "0.75", "1"]
    assert axes.get_xlabel() == "relative depth"


def test_models_without_depth_are_named_and_none_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    flat = [*curve([0.2], [0.25], "0", model="fbank")]
    figure = curves_figure(layer_rows(frame(*deep(2, "0 1 2"), *curve([0.5] * 3, [0.5] * 3, model="org/b"), *flat)), "depth")
    assert set(drawn(figure)) == {"org/a", "org/a | chosen", "fbank"}
    assert caplog.messages == ["not drawn, nothing says how many blocks they have: org/b"]
    with pytest.raises(ProbeError, match=r"no layer has a relative depth: .*--axis index"):
        curves_figure(layer_rows(frame(*curve([0.5] * 3, [0.5] * 3), *flat)), "depth")


def test_there_is_a_panel_per_task_and_metric() -> None:
    figure = curves_figure(layer_rows(frame(*plain())))
    titles = [(axes.get_title(), axes.get_ylabel()) for axes in figure.axes]
    assert titles == [
        ("connected, strings", "cer (%) ↓"),
        ("connected, strings", "wer (%) ↓"),
        ("digits, spoken-digits", "accuracy (%) ↑"),
    ]
    marks = ["chosen on dev", "after the final LayerNorm", "95 % interval"]
    assert legend(figure) == ["fbank", "org/a", "org/b", *marks]


def test_across_domains_there_is_a_line_per_test_domain() -> None:
    figure = curves_figure(layer_rows(frame(*crossing())))
    assert [axes.get_title() for axes in figure.axes] == ["emotion, trained on far", "emotion, trained on read"]
    lines = drawn(figure, 1)
    assert lines["org/a | far"][1] == [40, 60, 75] and lines["org/a | far | chosen"] == ([1], [60])
    assert legend(figure)[:3] == ["org/a", "tested on far", "tested on read"]


def test_many_test_domains_are_limited_and_the_title_says_so() -> None:
    domains = [f"d{number:02}" for number in range(12)]
    records = [item for test in domains for item in curve([0.5] * 3, [0.5] * 3, train_domain="d11", test_domain=test)]
    figure = curves_figure(layer_rows(frame(*records)))
    assert figure.axes[0].get_title() == "digits, trained on d11\n(8 of 12 test domains)"
    assert "org/a | d11" in drawn(figure) and "org/a | d10" not in drawn(figure)


def test_heads_are_told_apart_where_several_are_headlines() -> None:
    figure = curves_figure(layer_rows(frame(*curve([0.5] * 3, [0.5] * 3), *curve([0.6] * 3, [0.6] * 3, head="mlp"))))
    assert legend(figure)[:2] == ["org/a, linear", "org/a, mlp"]


def test_equal_records_give_the_same_svg(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("1.png", "1.svg", "2.png", "2.svg")]
    layer_curves(frame(*plain()), *paths[:2])
    layer_curves(frame(*plain()[::-1]), *paths[2:])
    assert paths[1].read_bytes() == paths[3].read_bytes()
    assert paths[0].read_bytes().startswith(b"\x89PNG") and paths[1].read_text(encoding="utf-8").startswith("<?xml")


def test_names_are_text_and_neither_formulas_nor_markup(tmp_path: Path) -> None:
    name = "a $\\frac{1$ <script>&\n_b"
    layer_curves(frame(*curve([0.5] * 3, [0.5] * 3, model=name, task=name)), tmp_path / "a.png", tmp_path / "a.svg")
    assert "<script>" not in (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_drawing_leaves_the_settings_of_matplotlib_alone(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    layer_curves(frame(*plain()), tmp_path / "a.png", tmp_path / "a.svg")
    assert dict(matplotlib.rcParams) == before


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ProbeError, match="no test score to draw"):
        curves_figure(layer_rows(frame(*curve([None] * 3, [None] * 3))))


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ProbeError, match=r"install layerprobe\[plots\]"):
        layer_curves(frame(*plain()), tmp_path / "a.png", tmp_path / "a.svg")
    write_records(tmp_path / "results" / "a.jsonl", plain())
    names = [path.name for path in write_tables(read_records(tmp_path / "results"), tmp_path / "tables")]
    assert names == ["table.md", "table.csv", "layers.md", "layers.csv"]
    assert "layerprobe[plots]" in missing_matplotlib()
