"""What scores lose under other conditions and across domains, and what other models regain.

A score under a condition is compared with the same layer's score on clean audio, on the same
utterances and of the same training; the layer is the one chosen on the dev data of that training,
as in every table. The measures and their intervals are those of `probe.measures.degradation`. A
measure that is undefined has no value, and where it matters a note says why.

Records of several samplings (seeds of training, or of the condition) may come together: values are
those of the first sampling that all models and conditions have; all samplings give the variance
(WERV). Values are fractions; a missing value is NaN.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from probe.data.conditions.grammar import CLEAN
from probe.errors import ProbeError, listed
from probe.measures import degradation as measures
from probe.measures.intervals import CONFIDENCE
from probe.measures.metrics import ACCURACY, metric_of
from probe.measures.uncertainty import Estimate, MeasuredScore, interval
from probe.records import ACROSS_CONDITIONS, COMBINED
from probe.reporting.domain_gaps import domain_gaps
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
MEAN, WORST = "(mean)", "(worst)"
# Tasks that say how much of the domain, or of the condition, a layer still encodes.
DOMAIN_TASKS = ("domain-id", "condition-id")
VALUE = ["value", "low", "high", "n", "n_blocks"]
CONDITIONS = [
    *[*PLACE, "layer_index", "condition", "value", "low", "high"],
    *[*with_ends("loss", "relative", "margin_lost"), "chance", "chosen", "robust"],
    *["n", "n_blocks", "higher_is_better", "note", *with_ends(*DOMAIN_TASKS), "shared_speakers"],
]
NORMALISED = [
    *[*PLACE, "condition", "baseline", *with_ends("werd", "nwer", "nwerd")],
    *["samplings", *with_ends("werv"), "note"],
]
EFFECTIVE = [
    *[*ACROSS_CONDITIONS, "condition", "model", "clean", "value"],
    *[*with_ends("effective"), "note"],
]
# Records that differ in these are no samplings of one another.
SAME_QUESTION = ["manifest_sha256", "task_sha256", "trials_sha256", "revision"]


class Losses:
    """Every measure of what the models of some records lose; see the module.

    Attributes:
        baseline: the model that others are measured against; empty without one.
    """

    def __init__(self, scores: Scores, baseline: str | None = None) -> None:
        """Take ``baseline``: a model, empty for none; filter banks, if there are records of them,
        where it is left out.

        Raises:
            ProbeError: no records of the baseline.
        """
        models = sorted(set(scores.unchecked["model"]))
        if baseline and baseline not in models:
            raise ProbeError(
                f"baseline {baseline}: no records of it. There are records of: {listed(models)}."
            )
        if baseline is None:
            baseline = BASELINE if BASELINE in models else ""
        self.scores, self.baseline = scores, baseline

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

        The clean score comes first, then the conditions, the milder first, then their mean and the
        worst of them.

        ``loss`` is the degradation in the metric's unit, ``relative`` as a part of the clean score,
        ``margin_lost`` as a part of what the clean score is above chance. ``chance`` is empty where
        the clean score is significantly better than the controls (or than the metric's chance
        level), else ``at chance`` or ``unknown``. ``robust`` is ``most`` at the layer with the
        smallest mean margin lost among those above chance, and ``tied`` where the interval reaches
        down to it; it is chosen on the test scores that it describes. The worst condition's
        intervals hold for all conditions at once (Bonferroni).
        """
        rows = self._condition_rows(self.disturbed)
        if len(rows):
            rows["robust"] = _robust(rows)
        return rows

    @cached_property
    def chosen(self) -> pd.DataFrame:
        """The rows of `conditions` at the layers that dev chose, without ``robust``: these alone
        are computed.
        """
        return self._condition_rows([layer for layer in self.disturbed if layer.is_chosen])

    def _condition_rows(self, layers: Iterable[Layer]) -> pd.DataFrame:
        domain_columns = _domain_columns(self.scores)
        rows = [row | domain_columns(row) for layer in layers for row in _rows_of_layer(layer)]
        whole_numbers = dict.fromkeys(["n", "n_blocks", "shared_speakers"], "Int64")
        return pd.DataFrame(rows, columns=CONDITIONS).astype(whole_numbers)

    @cached_property
    def normalised(self) -> pd.DataFrame:
        """Speech Robust Bench's WERD, NWER, NWERD and WERV at the chosen layers, one row for each
        model and condition; columns `NORMALISED`.

        They are defined for every metric: an error rate is taken as it is, an accuracy as 1 -
        accuracy. The baseline is scored under the same condition, at the layer that dev chose for
        it; without a baseline NWER and NWERD are undefined. In the row of the mean NWER and NWERD
        are ratios of means over the conditions.
        """
        samplings = _samplings(self.scores.unchecked)
        chosen = {
            tuple(map(layer.about.get, PLACE[:-1])): layer
            for layer in self.disturbed
            if layer.is_chosen
        }
        rows = []
        for (*question, _), layer in chosen.items():
            baseline = chosen.get((*question, self.baseline))
            several = [MEAN] if len(layer.conditions) > 1 else []
            for condition in [*layer.conditions, *several]:
                names = layer.conditions if condition == MEAN else [condition]
                same = (layer.clean[name] for name in SAME_QUESTION)  # type: ignore[index]
                drawn = samplings.get((*layer.about.values(), condition, *same), [])
                werv = measures.variance(drawn) if condition != MEAN else Estimate(None)
                row = layer.about | {"condition": condition, "baseline": self.baseline}
                row |= _normalised(layer, baseline, names)
                rows.append(row | columns_of("werv", werv) | {"samplings": len(drawn)})
        return pd.DataFrame(rows, columns=NORMALISED).astype({"samplings": "Int64"})

    @cached_property
    def effective(self) -> pd.DataFrame:
        """Effective robustness of every model at its chosen layer, one row for each model and
        condition; columns `EFFECTIVE`.

        Models at chance on clean audio are left out of the line and have no value.
        """
        chosen = chosen_rows(self.conditions)
        keys = [*ACROSS_CONDITIONS, "model"]
        clean = chosen[chosen["condition"] == CLEAN].set_index(keys)
        disturbed = chosen[~chosen["condition"].isin([CLEAN, MEAN, WORST])]
        rows = []
        # A line on logit axes is of shares.
        of_numbers = disturbed["metric"].map(lambda name: metric_of(name).of_numbers).astype(bool)
        disturbed = disturbed[~of_numbers]
        for names, group in disturbed.groupby([*ACROSS_CONDITIONS, "condition"], sort=False):
            pairs = {
                row["model"]: (clean.loc[(*names[:-1], row["model"])].to_dict(), row)
                for row in group.to_dict("records")
            }
            points = {
                model: (_goodness(before), _goodness(row))
                for model, (before, row) in pairs.items()
                if before["chance"] != "at chance"
            }
            distances = measures.effective_robustness(points)
            for model, (before, row) in pairs.items():
                at_chance = Estimate(None, note="at chance on clean audio")
                estimate = distances.get(model, at_chance)
                about = {name: row[name] for name in (*ACROSS_CONDITIONS, "condition", "model")}
                about |= {"clean": before["value"], "value": row["value"], "note": estimate.note}
                rows.append(about | columns_of("effective", estimate))
        return pd.DataFrame(rows, columns=EFFECTIVE)

    @cached_property
    def groups(self) -> pd.DataFrame:
        """See `probe.reporting.worst_groups`."""
        return worst_groups(self.layers)

    @cached_property
    def gaps(self) -> pd.DataFrame:
        """See `probe.reporting.domain_gaps`."""
        return domain_gaps(self.scores, self.baseline)

    @property
    def at_chosen_layers(self) -> pd.DataFrame:
        """One row for each model and condition at the chosen layer, with all measures of it: what
        ``robustness.csv`` holds.
        """
        rows = chosen_rows(self.conditions)
        for more in (
            self.normalised.drop(columns=["layer", "note"]),
            self.effective.drop(columns=["clean", "value", "note"]),
        ):
            rows = rows.merge(more, on=[*ACROSS_CONDITIONS, "model", "condition"], how="left")
        return rows

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


def _rows_of_layer(layer: Layer) -> list[Row]:
    """The rows of one layer under every condition."""
    clean, reference = layer.rows[CLEAN], layer.measured(CLEAN)
    level = _chance_level(reference, layer.chance, layer.higher)
    about = layer.about | {
        "layer_index": clean["layer_index"],
        "chosen": layer.is_chosen,
        "higher_is_better": layer.higher,
        "chance": level,
        "note": "",
        "shared_speakers": clean["shared_speakers"],
    }
    scores = {
        name: about | {"condition": name} | {key: row[key] for key in VALUE}
        for name, row in layer.rows.items()
    }
    rows = [scores[CLEAN]]
    losses: dict[str, MeasuredScore] = {}
    for name in layer.conditions:
        row, score = scores[name], layer.measured(name)
        try:
            if reference is None or score is None:
                plain = (clean["value"] - row["value"]) * (1 if layer.higher else -1)
                row |= columns_of("loss", Estimate(plain))
                row["note"] = "no counts in the record, so no interval"
            else:
                losses[name] = measures.degradation(reference, score, layer.higher)
                row |= _loss_columns(layer, losses[name], level)
        except ProbeError as error:
            row["note"] = str(error).partition(":")[0]
        rows.append(row)
    if reference is not None and len(losses) == len(layer.conditions):
        rows += [about | extra for extra in _mean_and_worst(layer, reference, losses, level)]
    return rows


def _mean_and_worst(
    layer: Layer, reference: MeasuredScore, losses: Mapping[str, MeasuredScore], level: str
) -> list[Row]:
    mean = mean_of(list(losses.values()))
    known = [score for name in losses if (score := layer.measured(name)) is not None]
    of_mean = {"condition": MEAN} | columns_of("value", mean_of(known).estimate())
    of_mean |= {end: of_mean.pop(f"value_{end}") for end in ("low", "high")}
    worst = max(losses, key=lambda name: losses[name].value)
    simultaneous = 1 - (1 - CONFIDENCE) / len(losses)
    row = layer.rows[worst]
    ends = interval(row["counts"], str(row["metric"]), simultaneous)
    low, high = ends or (np.nan, np.nan)
    of_worst = {key: row[key] for key in VALUE}
    of_worst |= {"condition": WORST, "low": low, "high": high, "note": worst}
    return [
        of_mean | _loss_columns(layer, mean, level),
        of_worst | _loss_columns(layer, losses[worst], level, simultaneous),
    ]


def _loss_columns(
    layer: Layer, loss: MeasuredScore, level: str, confidence: float = CONFIDENCE
) -> Row:
    """A loss in points, as a part of the clean score, and of what it has above chance."""
    clean, margin = layer.measured(CLEAN), Estimate(None)
    assert clean is not None
    if layer.chance is not None and not level:
        margin = measures.margin_lost(loss, clean, layer.chance, layer.higher, confidence)
    return (
        columns_of("loss", loss.estimate(confidence))
        | columns_of("relative", measures.ratio(loss, clean, confidence))
        | columns_of("margin_lost", margin)
    )


def _chance_level(
    clean: MeasuredScore | None, chance: MeasuredScore | float | None, higher: bool
) -> str:
    """Whether a layer's clean score is significantly better than chance."""
    if clean is None or chance is None:
        return "unknown"
    if isinstance(chance, MeasuredScore):
        above = measures.degradation(clean, chance, higher)
    else:
        above = (clean - chance) * (1 if higher else -1)
    low = above.estimate().low
    if low is None:
        return "unknown"
    return "" if low > 0 else "at chance"


def _robust(rows: pd.DataFrame) -> "pd.Series[str]":
    """``most`` and ``tied`` on all rows of the layers that keep most of their margin."""
    marks = pd.Series("", index=rows.index)
    for _, of_model in rows.groupby([*ACROSS_CONDITIONS, "model"]):
        means = of_model[(of_model["condition"] == MEAN) & ~of_model["layer"].isin(COMBINED)]
        means = means[means["margin_lost"].notna() & means["margin_lost_low"].notna()]
        means = means.sort_values(["margin_lost", "layer_index"])
        if len(means) < 2:
            continue
        tied = means["layer"][means["margin_lost_low"] <= means["margin_lost"].iloc[0]]
        marks[of_model.index[of_model["layer"].isin(tied)]] = "tied"
        marks[of_model.index[of_model["layer"] == means["layer"].iloc[0]]] = "most"
    return marks


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


def _normalised(layer: Layer, baseline: Layer | None, names: Sequence[str]) -> Row:
    """WERD, NWER and NWERD over some conditions, means where they are several."""
    try:
        reference, score = layer.mean(names)
        loss = measures.degradation(reference, score, layer.higher)
        row = columns_of("werd", loss.estimate().at_least(0))
        if baseline is layer:
            return row | {"note": ""}
        if baseline is None or not set(names) <= baseline.rows.keys():
            return row | {"note": "no score of the baseline"}
        its_reference, its_score = baseline.mean(names)
        its_loss = measures.degradation(its_reference, its_score, layer.higher)
        nwer = measures.normalised_error(score, its_score, layer.higher)
        nwerd = measures.normalised_degradation(loss, its_loss)
    except ProbeError as error:
        return {"note": str(error).partition(":")[0]}
    named = (("NWER", nwer), ("NWERD", nwerd))
    notes = [f"{name}: {estimate.note}" for name, estimate in named if estimate.note]
    row |= columns_of("nwer", nwer) | columns_of("nwerd", nwerd)
    return row | {"note": "; ".join(notes)}


def _samplings(records: pd.DataFrame) -> dict[tuple[Hashable, ...], list[float]]:
    """The values of every sampling (seed and condition seed) by `PLACE`, condition and
    `SAME_QUESTION`.
    """
    rows = with_all_labels(records)
    is_tested = (rows["split"] == "test") & (rows["train_domain"] == "") & rows["value"].notna()
    keys, sampling = [*PLACE, "condition", *SAME_QUESTION], ["seed", "condition_seed"]
    rows = rows[is_tested].sort_values([*keys, *sampling, "recipe"])
    rows = rows.drop_duplicates([*keys, *sampling])
    return {
        tuple(names): [float(value) for value in group["value"]]
        for names, group in rows.groupby(keys)
    }


def _goodness(row: Mapping[Any, Any]) -> float:
    return float(row["value"] if row["higher_is_better"] else 1 - row["value"])
