"""Measures of robustness that tables show on request: the margin over chance that is lost, Speech
Robust Bench's measures and effective robustness.

`probe.measures.degradation` defines them and names their sources. They need controls, a baseline
model, several samplings or at least five models, and few readers know them; the loss in points
and the relative loss (`probe.reporting.losses`) need nothing but the scores.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from probe.data.conditions.grammar import CLEAN
from probe.errors import ProbeError
from probe.measures import degradation as measures
from probe.measures.metrics import metric_of
from probe.measures.uncertainty import Estimate
from probe.records import ACROSS_CONDITIONS, COMBINED
from probe.reporting.layer_scores import PLACE, Layer, Row, columns_of, with_ends
from probe.reporting.scores import with_all_labels

MEAN = "(mean)"
MARGIN = with_ends("margin_lost")
NORMALISED = [
    *[*PLACE, "condition", "baseline", *with_ends("werd", "nwer", "nwerd")],
    *["samplings", *with_ends("werv"), "note"],
]
EFFECTIVE = [*ACROSS_CONDITIONS, "condition", "model", *with_ends("effective"), "note"]
# Records that differ in these are no samplings of one another.
SAME_QUESTION = ["manifest_sha256", "task_sha256", "trials_sha256", "revision"]


def robust_marks(rows: pd.DataFrame) -> "pd.Series[str]":
    """``most`` on all rows of the layer with the smallest mean margin lost among those above
    chance, and ``tied`` where the interval reaches down to it.

    The layer is chosen on the test scores that it describes.

    Args:
        rows: of `probe.reporting.losses.Losses.conditions`, with `MARGIN`.
    """
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


def normalised(layers: Sequence[Layer], baseline: str, records: pd.DataFrame) -> pd.DataFrame:
    """Speech Robust Bench's WERD, NWER, NWERD and WERV, one row for each model and condition;
    columns `NORMALISED`.

    They are defined for every metric: an error rate is taken as it is, an accuracy as 1 - accuracy.
    The baseline is scored under the same condition, at the layer that dev chose for it; without a
    baseline NWER and NWERD are undefined. In the row of the mean NWER and NWERD are ratios of means
    over the conditions.

    Args:
        layers: those that dev chose.
        baseline: a model; empty for none.
        records: of all samplings, for the variance.
    """
    samplings = _samplings(records)
    by_question = {tuple(map(layer.about.get, PLACE[:-1])): layer for layer in layers}
    rows = []
    for (*question, _), layer in by_question.items():
        of_baseline = by_question.get((*question, baseline))
        several = [MEAN] if len(layer.conditions) > 1 else []
        for condition in [*layer.conditions, *several]:
            names = layer.conditions if condition == MEAN else [condition]
            same = (layer.clean[name] for name in SAME_QUESTION)  # type: ignore[index]
            drawn = samplings.get((*layer.about.values(), condition, *same), [])
            werv = measures.variance(drawn) if condition != MEAN else Estimate(None)
            row = layer.about | {"condition": condition, "baseline": baseline}
            row |= _normalised(layer, of_baseline, names)
            rows.append(row | columns_of("werv", werv) | {"samplings": len(drawn)})
    return pd.DataFrame(rows, columns=NORMALISED).astype({"samplings": "Int64"})


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


def effective(chosen: pd.DataFrame) -> pd.DataFrame:
    """Effective robustness, one row for each model and condition; columns `EFFECTIVE`.

    Models at chance on clean audio are left out of the line and have no value.

    Args:
        chosen: see `probe.reporting.losses.Losses.chosen`.
    """
    keys = [*ACROSS_CONDITIONS, "model"]
    clean = chosen[chosen["condition"] == CLEAN].set_index(keys)
    disturbed = chosen[~chosen["condition"].isin([CLEAN, MEAN])]
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
        for model, (_, row) in pairs.items():
            at_chance = Estimate(None, note="at chance on clean audio")
            estimate = distances.get(model, at_chance)
            about = {name: row[name] for name in (*ACROSS_CONDITIONS, "condition", "model")}
            note = f"effective robustness: {estimate.note}" if estimate.note else ""
            rows.append(about | {"note": note} | columns_of("effective", estimate))
    return pd.DataFrame(rows, columns=EFFECTIVE)


def _goodness(row: Mapping[Any, Any]) -> float:
    return float(row["value"] if row["higher_is_better"] else 1 - row["value"])


def merged(chosen: pd.DataFrame, *tables: pd.DataFrame) -> pd.DataFrame:
    """The rows of `probe.reporting.losses.Losses.chosen` with the columns of `normalised` and
    `effective`, and the notes of all.
    """
    rows, keys = chosen, [*ACROSS_CONDITIONS, "model", "condition"]
    for table in tables:
        more = table.drop(columns="layer", errors="ignore").rename(columns={"note": "more"})
        rows = rows.merge(more, on=keys, how="left")
        pairs = zip(rows["note"], rows.pop("more").fillna(""), strict=True)
        rows["note"] = ["; ".join(dict.fromkeys(filter(None, pair))) for pair in pairs]
    return rows
