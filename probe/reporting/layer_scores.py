"""The scores of one layer under several conditions, and estimates as columns of a table."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from probe.data.conditions.grammar import CLEAN
from probe.data.conditions.severity import by_severity
from probe.errors import ProbeError
from probe.measures.metrics import metric_of
from probe.measures.uncertainty import Estimate, MeasuredScore, measure
from probe.records import ACROSS_CONDITIONS, BUDGET, NO_LAYER
from probe.reporting.scores import Scores

PLACE = [*ACROSS_CONDITIONS, "model", "layer"]

Row = dict[Any, Any]


class Layer:
    """The test scores of one layer by condition, of one training; each is measured once."""

    def __init__(self, place: Sequence[Any], rows: Mapping[str, Row]) -> None:
        self.about: Row = dict(zip(PLACE, place, strict=True))
        self.rows = rows
        self.clean = rows.get(CLEAN)
        self.conditions = by_severity(rows.keys() - {CLEAN})
        first = next(iter(rows.values()))
        self.higher = bool(first["higher_is_better"])
        self.is_chosen = bool(first["chosen_layer"] == self.about["layer"])
        self.chance: MeasuredScore | float | None = None
        self._measured: dict[str, MeasuredScore | None] = {}

    def measured(self, condition: str) -> MeasuredScore | None:
        """A measured score; None where the record holds no counts."""
        if condition not in self._measured:
            self._measured[condition] = measured_score(self.rows[condition])
        return self._measured[condition]

    def mean(self, conditions: Sequence[str]) -> tuple[MeasuredScore, MeasuredScore]:
        """The clean score, and the mean score over conditions.

        Raises:
            ProbeError: a record holds no counts.
        """
        clean, *scores = (self.measured(name) for name in (CLEAN, *conditions))
        known = [score for score in scores if score is not None]
        if clean is None or len(known) < len(scores):
            raise ProbeError("no counts in the record, so no interval")
        return clean, mean_of(known)


def layers_of(scores: Scores) -> list[Layer]:
    """Every layer with its scores, in the order of tables."""
    rows = scores.one_sampling.tested
    rows = rows[(rows["split"] == "test") & (rows[BUDGET] == "") & (rows["train_domain"] == "")]
    order = [*PLACE[:-1], "layer_index", "layer", "condition"]
    rows = rows[rows["value"].notna()].sort_values(order, kind="stable")
    by_place: dict[tuple[Hashable, ...], dict[str, Row]] = {}
    for row in rows.to_dict("records"):
        place = (row["control"], *(row[name] for name in PLACE))
        by_place.setdefault(place, {})[row["condition"]] = row
    layers = [Layer(place, of) for (control, *place), of in by_place.items() if not control]
    for layer in layers:
        none = tuple((layer.about | {"layer": NO_LAYER})[name] for name in PLACE)
        layer.chance = metric_of(layer.about["metric"]).chance
        if layer.higher:
            places = (("majority", *none), ("mean", *none), ("shuffled", *layer.about.values()))
            controls = [by_place.get(place, {}).get(CLEAN) for place in places]
            known = [score for row in controls if row and (score := measured_score(row))]
            layer.chance = max(known, key=lambda score: score.value, default=None)
    return layers


def measured_score(
    row: Mapping[Any, Any], over: Sequence[str] | None = None
) -> MeasuredScore | None:
    """A score with its uncertainty; None where the record holds no counts."""
    if not row["counts"]:
        return None
    return measure(row["counts"], str(row["metric"]), over)


def mean_of(scores: Sequence[MeasuredScore]) -> MeasuredScore:
    """The mean of scores of the same utterances."""
    return replace(sum(scores[1:], scores[0]) * (1 / len(scores)), scale=scores[0].scale)


def columns_of(name: str, estimate: Estimate) -> Row:
    """An estimate as three columns, NaN where there is nothing."""
    values = (estimate.value, estimate.low, estimate.high)
    ends = [np.nan if value is None else value for value in values]
    return dict(zip(with_ends(name), ends, strict=True))


def with_ends(*names: str) -> list[str]:
    """The columns of estimates: each name, and its ends."""
    return [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
