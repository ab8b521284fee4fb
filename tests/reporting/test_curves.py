"""Layer curves: what is drawn is what the records say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scored import scored
from test_tables import crossing, curve, frame, plain

from probe.errors import ProbeError
from probe.evaluation.layer_depth import depth_of
from probe.reporting.figures.layers import curves_figure, usual_rows
from probe.reporting.figures.style import missing_matplotlib
from probe.reporting.scores import Scores
from probe.reporting.tables.files import write_tables

if missing_matplotlib():
    pytest.skip(missing_matplotlib(), allow_module_level=True)


def layers_of(records: pd.DataFrame) -> pd.DataFrame:
    return Scores.of(records).layers()


def drawn(figure: Any, panel: int = 0) -> dict[str, tuple[list[float], list[float]]]:
    """(x, y) of every line of a panel that has points, by its label."""
    lines = figure.axes[panel].get_lines()
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in lines
        if len(line.get_xdata())
    }


def legend(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_plotted_points_are_the_test_values_in_percent() -> None:
    figure = curves_figure(layers_of(frame(*curve([0.5, 0.9, 0.6], [0.25, 0.75, 0.5]))))
    assert drawn(figure) == {"org/a": ([0, 1, 2], [25, 75, 50]), "org/a | chosen": ([1], [75])}
    band: Any = figure.axes[0].collections[0].get_paths()[0].vertices
    assert {(round(x), round(y)) for x, y in band} == {
        (0, 20),
        (0, 30),
        (1, 70),
        (1, 80),
        (2, 45),
        (2, 55),
    }


def test_conv_stands_before_the_layers_and_final_apart_from_the_line() -> None:
    figure = curves_figure(
        layers_of(frame(*curve([0.1, 0.2, 0.3, 0.9], [0.1, 0.2, 0.3, 0.4], "conv 0 1 final")))
    )
    assert drawn(figure) == {
        "org/a": ([-1, 0, 1], [10, 20, 30]),
        "org/a | final": ([2], [40]),
        "org/a | chosen": ([2], [40]),
    }
    labels = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert labels == ["conv", "0", "1", "2"]


def test_the_label_of_conv_stands_lower_where_layers_are_many() -> None:
    scores = [0.1] * 14
    names = " ".join(["conv", *map(str, range(13))])
    figure = curves_figure(layers_of(frame(*curve(scores, scores, names))))
    assert figure.axes[0].get_xticklabels()[0].get_text() == "\nconv"


def test_a_model_of_one_layer_is_a_horizontal_line_across_the_panel() -> None:
    figure = curves_figure(
        layers_of(frame(*curve([0.5] * 3, [0.5] * 3), *curve([0.2], [0.25], "0", model="fbank")))
    )
    line = next(line for line in figure.axes[0].get_lines() if line.get_label() == "fbank")
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([0, pytest.approx(2.06)], [25, 25])
    assert line.is_dashed()
    bar = figure.axes[0].collections[-1].get_paths()[0].vertices
    assert bar.tolist() == [
        [pytest.approx(2.06), pytest.approx(20)],
        [pytest.approx(2.06), pytest.approx(30)],
    ]


def test_models_of_one_layer_alone_are_points_beside_each_other() -> None:
    figure = curves_figure(
        layers_of(frame(*(item for name in "ab" for item in curve([0.2], [0.25], "0", model=name))))
    )
    assert drawn(figure) == {"a": ([0], [25]), "b": ([1], [25])}


def test_codelengths_are_drawn_in_bits() -> None:
    bits: dict[str, Any] = {
        "metric": "codelength",
        "higher_is_better": False,
        "low": 1.5,
        "high": 3.0,
    }
    codes = [item for item in curve([2.5] * 3, [2.5, 2.25, 2.0], **bits) if item.split == "test"]
    figure = curves_figure(layers_of(frame(*curve([0.5] * 3, [0.5] * 3), *codes)))
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "accuracy (%) ↑",
        "codelength\n(bits per label) ↓",
    ]
    assert drawn(figure, 1)["org/a"][1] == [2.5, 2.25, 2.0]


def test_usually_conditions_and_detection_costs_are_left_to_other_pictures() -> None:
    costs: dict[str, Any] = {
        "metric": "min_dcf_0.01",
        "higher_is_better": False,
        "select_by": "eer",
    }
    eer = costs | {"metric": "eer"}
    records = [
        item
        for heard in ("clean", "telephone")
        for item in curve([0.5] * 3, [0.5] * 3, condition=heard)
    ]
    records += [
        *curve([0.5] * 3, [0.5] * 3, task="verify", **eer),
        *curve([0.5] * 3, [0.5] * 3, task="verify", **costs),
    ]
    records += curve([0.5] * 3, [0.5] * 3, task="noisy", condition="telephone")
    rows = layers_of(frame(*records))
    shown = usual_rows(rows)[["task", "condition", "metric"]].drop_duplicates().to_numpy().tolist()
    assert shown == [
        ["digits", "clean", "accuracy"],
        ["noisy", "telephone", "accuracy"],
        ["verify", "clean", "eer"],
    ]
    left = usual_rows(rows[rows["metric"] != "eer"])
    assert ["verify", "min_dcf_0.01"] in left[["task", "metric"]].to_numpy().tolist(), (
        "costs alone are drawn"
    )


def test_one_value_left_of_many_layers_stays_a_point() -> None:
    figure = curves_figure(
        layers_of(
            frame(
                *curve([0.5, None, None], [0.5, None, None]),
                *curve([0.2] * 3, [0.2] * 3, model="b"),
            )
        )
    )
    assert drawn(figure)["org/a"] == ([0], [50])


def test_layers_stand_at_their_number_where_only_some_were_run() -> None:
    figure = curves_figure(layers_of(frame(*curve([0.1, 0.2, 0.3], [0.1, 0.2, 0.3], "4 8 12"))))
    assert drawn(figure)["org/a"][0] == [4, 8, 12]


def deep(n: int, layers: str, **changed: Any) -> list[Any]:
    """A curve of a model of ``n`` blocks."""
    values = [0.1 * (place + 1) for place in range(len(layers.split()))]
    return [
        replace(item, depth=depth_of(item.layer, n))
        for item in curve(values, values, layers, **changed)
    ]


def test_on_the_axis_of_depth_models_end_at_one_place_and_final_stands_apart() -> None:
    records = [
        *deep(4, "conv 0 1 2 4"),
        *deep(8, "0 4 8 final", model="org/b"),
        *curve([0.2], [0.25], "0", model="fbank"),
    ]
    figure = curves_figure(layers_of(frame(*records)), "depth")
    lines = drawn(figure)
    assert lines["org/a"][0] == [-0.08, 0, 0.25, 0.5, 1]
    assert lines["org/b"] == ([0, 0.5, 1], pytest.approx([10, 20, 30]))
    assert lines["org/b | final"] == ([1.08], pytest.approx([40]))
    assert lines["fbank"][0] == pytest.approx([-0.08, 1.08 + 0.03 * 1.16])
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [
        "\nconv",
        "0",
        "0.25",
        "0.5",
        "0.75",
        "1",
    ]
    assert axes.get_xlabel() == "relative depth"


def test_models_without_depth_are_named_and_none_is_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    flat = [*curve([0.2], [0.25], "0", model="fbank")]
    figure = curves_figure(
        layers_of(frame(*deep(2, "0 1 2"), *curve([0.5] * 3, [0.5] * 3, model="org/b"), *flat)),
        "depth",
    )
    assert set(drawn(figure)) == {"org/a", "org/a | chosen", "fbank"}
    assert caplog.messages == ["not drawn because the number of blocks is unknown: org/b"]
    with pytest.raises(ProbeError, match=r"no layer has a relative depth: .*--axis index"):
        curves_figure(layers_of(frame(*curve([0.5] * 3, [0.5] * 3), *flat)), "depth")


def test_there_is_a_panel_per_task_and_metric() -> None:
    figure = curves_figure(layers_of(frame(*plain())))
    titles = [(axes.get_title(), axes.get_ylabel()) for axes in figure.axes]
    assert titles == [
        ("connected, strings", "cer (%) ↓"),
        ("connected, strings", "wer (%) ↓"),
        ("digits, spoken-digits", "accuracy (%) ↑"),
    ]
    marks = ["chosen on dev", "after the final LayerNorm", "95 % interval"]
    assert legend(figure) == ["fbank", "org/a", "org/b", *marks]


def test_across_domains_there_is_a_panel_per_train_and_test_domain() -> None:
    figure = curves_figure(layers_of(frame(*crossing())))
    titles = ["emotion, far → far", "emotion, read → far", "emotion, read → read"]
    assert [axes.get_title() for axes in figure.axes] == titles
    assert drawn(figure, 1) == {"org/a": ([0, 1, 2], [40, 60, 75]), "org/a | chosen": ([1], [60])}


def test_more_panels_than_a_page_holds_are_left_out_and_it_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    records = [item for n in range(30) for item in curve([0.5] * 3, [0.5] * 3, task=f"t{n:02}")]
    figure = curves_figure(layers_of(frame(*records)))
    assert len(figure.axes) == 24 and figure.get_suptitle() == "24 of 30 panels"
    assert "24 of 30 panels are drawn" in caplog.text


def test_heads_are_told_apart_where_several_are_headlines() -> None:
    figure = curves_figure(
        layers_of(frame(*curve([0.5] * 3, [0.5] * 3), *curve([0.6] * 3, [0.6] * 3, head="mlp")))
    )
    assert legend(figure)[:2] == ["org/a, linear", "org/a, mlp"]


def test_a_learned_sum_alone_has_tables_but_no_curve(tmp_path: Path) -> None:
    """As of SUPERB's heads; `probe bench` and `probe table` ended without a table."""
    record = {"layer": "weighted", "layer_index": 99, "head": "superb"}
    records = frame(*(scored([5] * 12, split=split, **record) for split in ("dev", "test")))
    names = {path.name for path in write_tables(records, tmp_path)}
    assert "table.md" in names and not {"curves.png", "curves.svg"} & names
    assert "50.0 [" in (tmp_path / "table.md").read_text()
    with pytest.raises(ProbeError, match=r"no single layer was scored. All scores are of weighted"):
        curves_figure(usual_rows(layers_of(records)))


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ProbeError, match="no test score to draw"):
        curves_figure(layers_of(frame(*curve([None] * 3, [None] * 3))))
