"""Which ends of a grid are named, on searches made by hand."""

import logging
from typing import Any

import numpy as np
import pytest

from probe.evaluation.dataset import Score
from probe.evaluation.grid_edges import warn_of_edges
from probe.evaluation.linear_search import difference_error
from probe.measures.counts import ratio_counts

GRID = [1e-6, 1e-5, 1e-4]


def score(entropies: list[float], error: float, hits: int = 90, **fields: Any) -> Score:
    """A dev score of 100 utterances whose search has one dev cross-entropy for each strength."""
    best = min(range(len(GRID)), key=lambda i: entropies[i])
    search = [
        {"l2": l2, "dev_cross_entropy": loss, "dev_difference_error": error * (i != best)}
        for i, (l2, loss) in enumerate(zip(GRID, entropies, strict=True))
    ]
    about = {"layer": "3", "split": "dev", "metric": "accuracy", "select_by": "accuracy"}
    return Score(
        **{**about, "higher_is_better": True, "head": "linear"},
        chosen={"l2": GRID[best], "dev_cross_entropy": entropies[best]},
        search=search,
        counts=ratio_counts(["ann"], [hits], [100]),
        n=100,
        **fields,
    )


MAJORITY = score([0.7, 0.7, 0.7], 0.0, hits=50, control="majority")


@pytest.mark.parametrize(
    ("scores", "end"),
    [
        ([score([0.1, 0.2, 0.3], 0.01), MAJORITY], "1e-06, the smallest"),
        ([score([0.3, 0.2, 0.1], 0.01), MAJORITY], "0.0001, the largest"),
        ([score([0.2, 0.1, 0.3], 0.01), MAJORITY], ""),  # no end
        ([score([0.1, 0.2, 0.3], 0.06), MAJORITY], ""),  # within noise
        ([score([0.1, 0.2, 0.3], 0.01, hits=55), MAJORITY], ""),  # at chance
    ],
)
def test_an_end_of_a_grid_is_named_where_it_matters(
    scores: list[Score], end: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "probe"):
        warn_of_edges("word-id", "mfcc", scores)
    assert [message for message in caplog.messages if "of its grid" in message] == [
        f"word-id, mfcc: dev picked l2 = {end} of its grid, at layer 3, by more than noise. Add "
        "values beyond it in a task file: l2 = [...] (docs/task-keys.md)"
    ] * bool(end)


@pytest.mark.parametrize(("beside", "named"), [(0.5, True), (0.21, False)])
def test_without_a_standard_error_the_ends_of_learning_rates_count_as_shares(
    beside: float, named: bool, caplog: pytest.LogCaptureFixture
) -> None:
    search = [
        {"learning_rate": rate, "dev_cer": error}
        for rate, error in ((0.3, 0.2), (0.1, beside), (0.03, 0.9))
    ]
    about = {"layer": "0", "split": "dev", "metric": "cer", "select_by": "cer"}
    one = Score(
        **{**about, "higher_is_better": False, "head": "ctc-linear"},
        chosen={"learning_rate": 0.3},
        search=search,
        counts=ratio_counts(["ann"], [60], [300]),
        n=40,
    )
    with caplog.at_level(logging.WARNING, "probe"):
        warn_of_edges("asr-ctc", "mfcc", [one])
    assert any("learning_rate = 0.3" in message for message in caplog.messages) == named
    assert any("learning_rates = [...]" in message for message in caplog.messages) == named


def test_the_error_of_a_difference_takes_the_rows_of_an_owner_together() -> None:
    losses = np.random.default_rng(0).normal(size=200)
    each = difference_error(losses, np.zeros(200))
    assert each == pytest.approx(losses.std() / np.sqrt(200))
    doubled = np.repeat(losses, 2)  # every row twice tells nothing new
    assert difference_error(doubled, np.zeros(400), np.repeat(np.arange(200), 2)) == pytest.approx(
        each
    )
