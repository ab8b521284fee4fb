"""DET curves: what is drawn is what the trials say."""

from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_tables import curve, frame

from probe.measures.counts import trial_counts, value_of
from probe.records import Record, read_records, write_records
from probe.reporting.figures.det import det_figure, det_rows
from probe.reporting.figures.style import missing_matplotlib, write_figure
from probe.reporting.scores import Scores
from probe.reporting.tables.files import write_tables

if missing_matplotlib():
    pytest.skip(missing_matplotlib(), allow_module_level=True)

EER: dict[str, Any] = {
    "metric": "eer",
    "select_by": "eer",
    "higher_is_better": False,
    "kind": "verify",
    "head": "cosine",
}


def counts(shift: float, seed: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    target = np.arange(400) < 200
    return trial_counts(
        [f"s{i % 9}" for i in range(400)],
        ["x"] * 400,
        target,
        generator.normal(size=400) + shift * target,
    )


def verified(shift: float, **changed: Any) -> list[Record]:
    """Layer 1 is the best on dev and the one whose trials differ."""
    made = list(curve([0.4, 0.1, 0.3], [0.4, 0.2, 0.1], **EER, **changed))
    for item in made:
        item.counts.update(counts(shift if item.layer == "1" else 0.0))
    return [Record(**{**item.__dict__, "counts": dict(item.counts)}) for item in made]


def trials_of(records: pd.DataFrame) -> pd.DataFrame:
    return det_rows(Scores.of(records))


def lines(figure: Any, panel: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    return [tuple(map(np.asarray, line.get_data())) for line in figure.axes[panel].get_lines()]  # type: ignore[misc]


def test_the_line_holds_every_threshold_on_normal_deviate_axes_and_the_marker_the_eer() -> None:
    rows = trials_of(frame(*verified(2.0)))
    assert list(rows["layer"]) == ["1"]
    (x, y), (marker_x, marker_y), _ = lines(det_figure(rows))
    normal = NormalDist()
    rank, target = np.array(rows["counts"][0]["rank"]), np.array(rows["counts"][0]["target"], bool)
    for i in (100, 200, 300):
        accepted, missed = np.mean(rank[~target] >= i), np.mean(rank[target] < i)
        assert normal.cdf(x[i]) == pytest.approx(accepted if 0 < accepted < 1 else normal.cdf(x[i]))
        assert normal.cdf(y[i]) == pytest.approx(missed if 0 < missed < 1 else normal.cdf(y[i]))
    assert len(x) == len(set(rank.tolist())) + 1
    assert marker_x == marker_y == pytest.approx(normal.inv_cdf(value_of(rows["counts"][0])))


def test_gaussian_scores_of_equal_variance_give_a_straight_line_of_slope_minus_one() -> None:
    generator = np.random.default_rng(3)
    target = np.arange(40_000) < 20_000
    many = trial_counts(
        ["a"] * 40_000, ["b"] * 40_000, target, generator.normal(size=40_000) + 1.5 * target
    )
    rows = trials_of(frame(*verified(2.0)))
    rows["counts"] = [many]
    (x, y), *_ = lines(det_figure(rows))
    inner = (np.abs(x) < 1.3) & (np.abs(y) < 1.3)
    assert np.polyfit(x[inner], y[inner], 1) == pytest.approx([-1, -1.5], abs=0.05)


@pytest.mark.parametrize(("shift", "corner"), [(50.0, 0), (-50.0, 1)])
def test_trials_without_any_error_or_with_errors_alone_are_drawn(shift: float, corner: int) -> None:
    rows = trials_of(frame(*verified(shift)))
    assert value_of(rows["counts"][0]) == (0 if shift > 0 else 1)
    figure = det_figure(rows)
    _, (x, y), _ = lines(figure)
    assert x == y == pytest.approx(figure.axes[0].get_xlim()[corner])


def test_models_share_a_panel_and_lists_have_their_own() -> None:
    other = {"test_domain": "noisy"}
    records = [
        *verified(2.0),
        *verified(1.0, model="b"),
        *(r for r in verified(0.5, **other) if r.split == "test"),
    ]
    figure = det_figure(trials_of(frame(*records)))
    assert [axes.get_title() for axes in figure.axes] == [
        "digits, spoken-digits",
        "digits, spoken-digits, noisy",
    ]
    assert [len(axes.get_lines()) for axes in figure.axes] == [5, 3]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["b", "org/a", "EER"]
    styles = {line.get_linestyle() for line in figure.legends[0].get_lines()[:2]}
    assert len(styles) == 2, "told apart in grey"


def test_controls_other_metrics_other_heads_and_dev_are_not_drawn() -> None:
    hidden = [
        *verified(2.0, control="shuffled"),
        *(Record(**{**r.__dict__, "metric": "min_dcf_0.01"}) for r in verified(2.0)),
        *(Record(**{**r.__dict__, "head": "lda", "headline": False}) for r in verified(2.0)),
    ]
    rows = trials_of(frame(*hidden, *verified(2.0)))
    assert len(rows) == 1
    assert rows.iloc[0][["split", "control", "metric", "head"]].tolist() == [
        "test",
        "",
        "eer",
        "cosine",
    ]


def test_pictures_are_written_beside_the_tables_and_removed_where_there_are_no_trials(
    tmp_path: Path,
) -> None:
    write_records(tmp_path / "r" / "a.jsonl", verified(2.0))
    written = write_tables(read_records(tmp_path / "r"), tmp_path / "t")
    assert {tmp_path / "t" / "det.png", tmp_path / "t" / "det.svg"} <= set(written)
    write_figure(
        lambda: det_figure(trials_of(read_records(tmp_path / "r"))), tmp_path / "again.svg"
    )
    assert (tmp_path / "again.svg").read_bytes() == (tmp_path / "t" / "det.svg").read_bytes()
    write_tables(frame(*curve([0.5] * 3, [0.5] * 3)), tmp_path / "t")
    assert not list((tmp_path / "t").glob("det.*"))
