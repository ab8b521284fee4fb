"""What scores lose under other conditions and across domains.

A score under a condition is compared with the same layer's score on clean audio, on the same
utterances and of the same training; the layer is the one chosen on the dev data of that training,
as in every table. The measures and their intervals are those of `probe.measures.degradation`. A
measure that is undefined has no value, and where it matters a note says why.

`probe.reporting.further_measures` has what is computed only on request. Records of several
samplings (seeds of training, or of the condition) may come together: values are those of the first
sampling that all models and conditions have. Values are fractions; a missing value is NaN.
"""

from collections.abc import Callable, Hashable, Iterable
from functools import cached_property

import pandas as pd

from probe.data.conditions.grammar import CLEAN
from probe.errors import ProbeError, listed
from probe.measures import degradation as measures
from probe.measures.comparison import beside_chance
from probe.measures.metrics import ACCURACY
from probe.measures.uncertainty import Estimate, MeasuredScore
from probe.reporting import further_measures
from probe.reporting.domain_gaps import domain_gaps
from probe.reporting.further_measures import MARGIN, MEAN
from probe.reporting.layer_scores import (
    PLACE,
    Layer,
    Row,
    columns_of,
    layers_of,
    mean_of,
    with_ends,
)
from probe.reporting.scores import Scores, with_all_labels
from probe.reporting.worst_groups import worst_groups

BASELINE = "fbank"
# Tasks that say how much of the domain, or of the condition, a layer still encodes.
DOMAIN_TASKS = ("domain-id", "condition-id")
VALUE = ["value", "low", "high", "n", "n_blocks"]
CONDITIONS = [
    *[*PLACE, "layer_index", "condition", "value", "low", "high", *with_ends("loss", "relative")],
    *["chance", "chosen", "n", "n_blocks", "higher_is_better", "note", *with_ends(*DOMAIN_TASKS)],
    "shared_speakers",
]


class Losses:
    """Every measure of what the models of some records lose; see the module.

    Attributes:
        all_measures: whether to compute those of `probe.reporting.further_measures` too.
        baseline: the model that others are measured against in some of these; empty without one.
    """

    def __init__(
        self, scores: Scores, all_measures: bool = False, baseline: str | None = None
    ) -> None:
        """Take ``baseline``: a model, empty for none; filter banks, if there are records of them,
        where it is left out.

        Raises:
            ProbeError: no records of the baseline, or no measure that uses it.
        """
        if baseline and not all_measures:
            raise ProbeError(f"baseline {baseline}: only all_measures use a baseline.")
        models = sorted(set(scores.unchecked["model"]))
        if baseline and baseline not in models:
            raise ProbeError(
                f"baseline {baseline}: no records of it. There are records of: {listed(models)}."
            )
        if baseline is None:
            baseline = BASELINE if BASELINE in models else ""
        self.scores, self.all_measures, self.baseline = scores, all_measures, baseline

    @property
    def empty(self) -> bool:
        """Whether the records hold neither several conditions nor several domains."""
        return self.conditions.empty and self.gaps.empty

    @cached_property
    def layers(self) -> list[Layer]:
        """Every layer with its scores, in the order of tables."""
        return layers_of(self.scores)

    @cached_property
    def disturbed(self) -> list[Layer]:
        """The layers with a clean score and others under a condition."""
        return [layer for layer in self.layers if layer.clean is not None and layer.conditions]

    @cached_property
    def conditions(self) -> pd.DataFrame:
        """One row for each `PLACE` and condition; columns `CONDITIONS`.

        The clean score comes first, then the conditions, the milder first, then their mean.

        ``loss`` is the degradation in the metric's unit, ``relative`` as a part of the clean score.
        ``chance`` is empty where the clean score is significantly better than the controls (or than
        the metric's chance level), else ``at chance`` or ``unknown``. With all measures the columns
        `probe.reporting.further_measures.MARGIN` and ``robust`` follow, see `robust_marks` there.
        """
        rows = self._condition_rows(self.disturbed)
        if self.all_measures:
            rows["robust"] = further_measures.robust_marks(rows)
        return rows

    @cached_property
    def chosen(self) -> pd.DataFrame:
        """The rows of `conditions` at the layers that dev chose, without ``robust``: these alone
        are computed.
        """
        return self._condition_rows(self._chosen_layers)

    @property
    def _chosen_layers(self) -> list[Layer]:
        return [layer for layer in self.disturbed if layer.is_chosen]

    def _condition_rows(self, layers: Iterable[Layer]) -> pd.DataFrame:
        columns = [*CONDITIONS, *(MARGIN if self.all_measures else [])]
        domain_columns = _domain_columns(self.scores)
        rows = [
            row | domain_columns(row)
            for layer in layers
            for row in _rows_of_layer(layer, self.all_measures)
        ]
        whole_numbers = dict.fromkeys(["n", "n_blocks", "shared_speakers"], "Int64")
        return pd.DataFrame(rows, columns=columns).astype(whole_numbers)

    @cached_property
    def normalised(self) -> pd.DataFrame:
        """See `probe.reporting.further_measures.normalised`."""
        return further_measures.normalised(
            self._chosen_layers, self.baseline, self.scores.unchecked
        )

    @cached_property
    def effective(self) -> pd.DataFrame:
        """See `probe.reporting.further_measures.effective`."""
        return further_measures.effective(self.chosen)

    @cached_property
    def groups(self) -> pd.DataFrame:
        """See `probe.reporting.worst_groups`."""
        return worst_groups(self.layers, self.all_measures)

    @cached_property
    def gaps(self) -> pd.DataFrame:
        """See `probe.reporting.domain_gaps`."""
        return domain_gaps(self.scores, self.baseline if self.all_measures else None)

    @property
    def at_chosen_layers(self) -> pd.DataFrame:
        """One row for each model and condition at the chosen layer, with all measures of it: what
        ``robustness.csv`` holds.
        """
        if not self.all_measures:
            return self.chosen
        return further_measures.merged(self.chosen, self.normalised, self.effective)

    @property
    def gaps_and_groups(self) -> pd.DataFrame:
        """The rows of both, told apart by the column ``table``; a column that only one has is empty
        in the other.
        """
        tables = [
            rows.astype(object).assign(table=name)
            for name, rows in (("gaps", self.gaps), ("groups", self.groups))
        ]
        rows = pd.concat(tables, ignore_index=True)
        return rows[["table", *rows.columns.drop("table")]]


def chosen_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Of the rows of `Losses.conditions` those at the layer that dev chose."""
    return rows[rows["chosen"].astype(bool)].reset_index(drop=True)


def _rows_of_layer(layer: Layer, with_margin: bool) -> list[Row]:
    """The rows of one layer under every condition, and of their mean."""
    clean, reference = layer.rows[CLEAN], layer.measured(CLEAN)
    level = beside_chance(reference, layer.chance, layer.higher)
    about = layer.about | {
        "layer_index": clean["layer_index"],
        "chosen": layer.is_chosen,
        "higher_is_better": layer.higher,
        "chance": level,
        "note": "",
        "shared_speakers": clean["shared_speakers"],
    }

    def columns(loss: MeasuredScore, clean: MeasuredScore) -> Row:
        row = columns_of("loss", loss.estimate())
        row |= columns_of("relative", measures.ratio(loss, clean))
        if with_margin and layer.chance is not None and not level:
            margin = measures.margin_lost(loss, clean, layer.chance, layer.higher)
            row |= columns_of("margin_lost", margin)
        return row

    scores = {
        name: about | {"condition": name} | {key: row[key] for key in VALUE}
        for name, row in layer.rows.items()
    }
    rows = [scores[CLEAN]]
    measured: dict[str, tuple[MeasuredScore, MeasuredScore]] = {}
    for name in layer.conditions:
        row, score = scores[name], layer.measured(name)
        try:
            if reference is None or score is None:
                plain = (clean["value"] - row["value"]) * (1 if layer.higher else -1)
                row |= columns_of("loss", Estimate(plain))
                row["note"] = "no counts in the record, so no interval"
            else:
                loss = measures.degradation(reference, score, layer.higher)
                measured[name] = score, loss
                row |= columns(loss, reference)
        except ProbeError as error:
            row["note"] = str(error).partition(":")[0]
        rows.append(row)
    if reference is not None and len(measured) == len(layer.conditions):
        score, loss = (mean_of(parts) for parts in zip(*measured.values(), strict=True))
        value, low, high = columns_of("value", score.estimate()).values()
        of_mean = {"condition": MEAN, "value": value, "low": low, "high": high}
        rows.append(about | of_mean | columns(loss, reference))
    return rows


def _domain_columns(scores: Scores) -> Callable[[Row], Row]:
    """A function from a row to the columns of `DOMAIN_TASKS`: how well its layer tells domains, or
    conditions, apart.
    """
    rows = with_all_labels(scores.unchecked)
    is_tested = rows["task"].isin(DOMAIN_TASKS) & (rows["metric"] == ACCURACY.name)
    is_tested &= (rows["split"] == "test") & (rows["train_domain"] == "")
    rows = rows[is_tested & rows["headline"]]
    order = ["other", "corpus", "condition", "seed"]
    rows = rows.assign(other=rows["condition"] != CLEAN).sort_values(order, kind="stable")
    score_at: dict[tuple[Hashable, ...], Row] = {}
    for row in rows.to_dict("records"):
        for corpus in (row["corpus"], ""):
            score_at.setdefault((row["task"], row["model"], row["layer"], corpus), row)

    def columns(row: Row) -> Row:
        values: Row = {}
        for task in DOMAIN_TASKS:
            of_layer = (task, row["model"], row["layer"])
            score = score_at.get((*of_layer, row["corpus"])) or score_at.get((*of_layer, ""))
            if score is not None and task != row["task"]:
                estimate = Estimate(score["value"], score["low"], score["high"])
                values |= columns_of(task, estimate)
        return values

    return columns
