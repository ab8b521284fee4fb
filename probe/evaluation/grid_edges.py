"""Settings that dev picked from the end of their grid: beyond it there may be a better one.

An end is named where it matters: the layer is better than chance on dev, and the end is better than
the value beside it by more than noise, two standard errors of the difference over the same dev
utterances. Where a search holds no standard error (CTC heads, trained backends), it is that of two
independent shares of as many dev units or trials.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from probe.errors import listed
from probe.evaluation.dataset import Score
from probe.evaluation.linear_search import DIFFERENCE_ERROR
from probe.measures.metrics import metric_of

log = logging.getLogger("probe")

TRIED = {"l2", "learning_rate", "lm_weight", "word_score"}  # what comes from a grid
KEYS = {"learning_rate": "learning_rates"}  # of a task file, where they differ
NOISE = 2.0  # standard errors


def warn_of_edges(task: str, model: str, scores: Sequence[Score]) -> None:
    """Log the layers whose setting was picked from an end of its grid that matters."""
    edges: dict[tuple[str, float, str], list[str]] = {}
    for score in scores:
        if score.split != "dev" or score.control or score.budget or score.metric != score.select_by:
            continue
        for name in sorted(TRIED & score.chosen.keys()):
            value = score.chosen[name]
            grid = sorted({entry[name] for entry in score.search if name in entry})
            if len(grid) < 2 or value not in (grid[0], grid[-1]):
                continue
            beside = grid[1] if value == grid[0] else grid[-2]
            if _is_above_chance(score, scores) and _is_better(score, name, beside):
                edge = "smallest" if value == grid[0] else "largest"
                edges.setdefault((name, value, edge), []).append(score.layer)
    for (name, value, edge), layers in edges.items():
        names = listed(list(dict.fromkeys(layers)))
        log.warning(
            "%s, %s: dev picked %s = %g, the %s of its grid, at %s %s, by more than noise. Add "
            "values beyond it in a task file: %s = [...] (docs/task-keys.md)",
            *(task, model, name, value, edge),
            "layer" if len({*layers}) == 1 else "layers",
            names,
            KEYS.get(name, name),
        )


def _is_better(score: Score, name: str, beside: float) -> bool:
    """Whether what dev picked is better by more than noise than the entry that differs from it in
    having ``beside`` as its ``name``.
    """
    settings = {key: score.chosen[key] for key in TRIED & score.chosen.keys()}
    own, other = (_entry(score.search, values) for values in (settings, settings | {name: beside}))
    if own is None or other is None:
        return True
    loss = next((key for key in score.chosen if key.startswith("dev_")), "")
    key = loss or f"dev_{score.select_by}"
    before, after = other.get(key), own.get(key)
    if before is None or after is None:
        return after is not None
    is_score = not loss and metric_of(score.select_by).higher_is_better
    gain = after - before if is_score else before - after
    error = other.get(DIFFERENCE_ERROR)
    return bool(gain > NOISE * (_error_of_shares(before, score) if error is None else error))


def _error_of_shares(share: float, score: Score) -> float:
    """The standard error of the difference of two independent shares of the units of a score."""
    n_units = sum((score.counts or {}).get("denominator", [score.n]))
    share = min(max(share, 0.0), 1.0)
    return math.sqrt(2 * share * (1 - share) / max(n_units, 1))


def _entry(
    search: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """The first entry of a search with these settings."""
    matching = (
        entry
        for entry in search
        if all(entry.get(key) == value for key, value in settings.items() if key in entry)
        and settings.keys() & entry.keys()
    )
    return next(matching, None)


def _is_above_chance(score: Score, scores: Sequence[Score]) -> bool:
    """Whether a dev score is better than knowing nothing by two standard errors of a share, or of a
    correlation, with as many utterances.
    """
    if score.value is None:
        return False
    metric = metric_of(score.metric)
    controls = [
        other.value
        for other in scores
        if (other.split, other.metric, other.train_domain, other.test_domain)
        == (score.split, score.metric, score.train_domain, score.test_domain)
        and other.control in ("majority", "mean")
        and other.value is not None
    ]
    best = max if metric.higher_is_better else min
    chance = best(controls) if controls else metric.chance
    if chance is None:
        return True
    variance = chance * (1 - chance) if metric.unit == "%" and 0 <= chance <= 1 else 1.0
    if metric.unit not in ("%", "coefficient"):
        variance = 0.0
    margin = NOISE * math.sqrt(variance / max(score.n, 1))
    gain = score.value - chance
    return (gain if metric.higher_is_better else -gain) > margin
