"""`probe table --rank`: which questions count, intervals, the SUPERB score, the diagram."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scored import frame, record

from probe.errors import UsageError
from probe.records import Record
from probe.reporting.figures.ranks import ranks_figure
from probe.reporting.figures.style import write_figure
from probe.reporting.scores import Scores
from probe.reporting.tables import grid
from probe.reporting.tables.latex import to_latex
from probe.reporting.tables.rank_tables import rank_grid, rank_rows, superb_score


def scored(hits: Sequence[int], model: str, task: str, **changed: object) -> list[Record]:
    counts = {
        "block": [f"{i:012x}" for i in range(len(hits))],
        "numerator": list(hits),
        "denominator": [20] * len(hits),
    }
    value = sum(hits) / (20 * len(hits))
    about = {"value": value, "n_blocks": len(hits), "model": model, "task": task, **changed}
    return [record(split="dev", **about), record(split="test", counts=counts, **about)]


GOOD = [18, 17, 19, 18, 16, 19, 17, 18, 19, 17, 18, 18]
NEAR = [18, 18, 18, 17, 17, 19, 18, 17, 18, 17, 18, 18]
BAD = [12, 11, 14, 12, 10, 13, 12, 12, 15, 11, 12, 13]


def records() -> list[Record]:
    return [
        item
        for task in ("a", "b", "c")
        for model, hits in (("good", GOOD), ("near", NEAR), ("bad", BAD))
        for item in scored(hits, model, task)
    ]


def test_clear_ranks_have_narrow_intervals_and_close_models_share_theirs() -> None:
    rows = rank_rows(Scores.of(frame(*records()))).set_index("model")
    assert rows.loc["bad", ["mean_rank", "low", "high", "borda"]].tolist() == [3, 3, 3, 0]
    assert rows.loc["good", "mean_rank"] == 1 and rows.loc["near", "mean_rank"] == 2
    assert rows.loc["good", "high"] >= 1.9 and rows.loc["near", "low"] <= 1.1
    text = grid.to_markdown([rank_grid(rank_rows(Scores.of(frame(*records()))))])
    assert "over 3 tasks" in text and "Friedman" in text and "critical difference" in text
    assert "SUPERB" not in text


def test_the_caption_in_latex_says_that_these_are_ranks_and_not_percent() -> None:
    text = to_latex([rank_grid(rank_rows(Scores.of(frame(*records()))))])
    assert r"\caption{Mean ranks of models over several tasks}" in text
    assert "percent" not in text


def test_questions_that_a_model_lacks_are_left_out_and_counted() -> None:
    more = scored(BAD, "good", "d")
    scores = Scores.of(frame(*records(), *more))
    rows = rank_rows(scores)
    assert set(rows["n_tasks"]) == {3}
    assert any("1 tasks or conditions" in note for note in rank_grid(rows).notes)


def test_models_without_a_common_task_and_one_model_alone_are_refused() -> None:
    apart = [*scored(GOOD, "good", "a"), *scored(BAD, "bad", "b")]
    with pytest.raises(UsageError, match=r"no task was run with all models.*bad \(1\)"):
        rank_rows(Scores.of(frame(*apart)))
    with pytest.raises(UsageError, match="two or more models"):
        rank_rows(Scores.of(frame(*scored(GOOD, "good", "a"))))


def test_too_few_speakers_give_ranks_without_intervals() -> None:
    few = [*scored(GOOD[:3], "good", "a"), *scored(BAD[:3], "bad", "a")]
    rows = rank_rows(Scores.of(frame(*few)))
    assert rows["low"].isna().all() and list(rows["model"]) == ["good", "bad"]
    assert any("no intervals" in note for note in rank_grid(rows).notes)


def test_the_superb_score_goes_from_filter_banks_to_the_best_model() -> None:
    (_, of_ks) = scored(GOOD, "good", "superb-ks")
    rows = frame(of_ks).assign(value=0.9666)
    assert superb_score(rows) == pytest.approx(1000)
    assert superb_score(rows.assign(value=0.4138)) == pytest.approx(0)
    assert np.isnan(superb_score(rows.assign(task="word-id")))


def test_the_diagram_is_drawn(tmp_path: Path) -> None:
    rows = rank_rows(Scores.of(frame(*records())))
    write_figure(lambda: ranks_figure(rows), tmp_path / "ranks.svg")
    assert (tmp_path / "ranks.svg").read_text().startswith("<?xml")
