"""Robustness of models at the layers that dev chose: against a baseline, against the other models,
and of the worst group.

`probe.reporting.losses` says what is compared with what; the measures are those of
`probe.measures.degradation`.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from probe.errors import ProbeError, listed
from probe.measures import degradation as measures
from probe.measures.bootstrap import Estimate, SampledScore
from probe.measures.groups import Groups, compare_blocks, compare_groups
from probe.reporting.losses import (
    CLEAN,
    MEAN,
    QUESTION,
    WORST,
    Place,
    Scores,
    by_severity,
    chosen_rows,
    columns_of,
    is_chosen,
    mean_of,
)

BASELINE = "fbank"
NORMALISED = [
    *QUESTION,
    *[
        "model",
        "layer",
        "condition",
        "baseline",
        "werd",
        "werd_low",
        "werd_high",
        "nwer",
        "nwer_low",
        "nwer_high",
    ],
    *["nwerd", "nwerd_low", "nwerd_high", "samplings", "werv", "werv_low", "werv_high", "note"],
]
SAME_QUESTION = [
    "manifest_sha256",
    "task_sha256",
    "trials_sha256",
    "revision",
]  # or scores are no samplings of one another
EFFECTIVE = [
    *QUESTION,
    "condition",
    "model",
    "clean",
    "value",
    "effective",
    "effective_low",
    "effective_high",
    "note",
]
GROUPS = [
    *QUESTION,
    *[
        "model",
        "layer",
        "condition",
        "column",
        "n_groups",
        "n_few",
        "worst",
        "worst_value",
        "worst_low",
        "worst_high",
    ],
    *[
        "best",
        "best_value",
        "spread",
        "spread_low",
        "spread_high",
        "by_chance",
        "probability",
        "note",
    ],
]


def baseline_of(records: pd.DataFrame, wanted: str | None) -> str:
    """The model that others are measured against: the one that is wanted, or `BASELINE` where it is
    there; else empty.

    Raises:
        ProbeError: no records of the wanted one.
    """
    models = sorted(set(records["model"]))
    if wanted is not None and wanted not in models:
        raise ProbeError(
            f"baseline {wanted}: no records of it; there are {listed(models)}. Name one of these."
        )
    return wanted if wanted is not None else BASELINE if BASELINE in models else ""


def normalised_rows(records: pd.DataFrame, baseline: str, all_heads: bool = False) -> pd.DataFrame:
    """Speech Robust Bench's WERD, NWER, NWERD and WERV at the chosen layers, one row per model and
    condition; columns `NORMALISED`.

    Of every metric: an error rate is taken as it is, an accuracy as 1 - accuracy. The baseline is
    heard under the same condition, at the layer that dev chose for it. In the row of the mean NWER
    and NWERD are ratios of means over the conditions.

    Args:
        records: as of `condition_rows`.
        baseline: a model, see `baseline_of`; NWER and NWERD are undefined without.

    Raises:
        ProbeError: see `Scores`.
    """
    scores = Scores(records, all_heads)
    samplings = _samplings(records)
    chosen = {
        (place.question, place.model): found
        for found in scores.disturbed()
        if is_chosen(place := found[0], found[1])
    }
    rows = []
    for (question, model), (place, clean, others) in chosen.items():
        beside = chosen.get((question, baseline))
        conditions = [*others, *([MEAN] if len(others) > 1 else [])]
        for name in conditions:
            about = dict(zip(QUESTION, question, strict=True)) | {
                "model": model,
                "layer": place.layer,
                "condition": name,
            }
            names = list(others) if name == MEAN else [name]
            made = _normalised(scores, clean, others, beside, names)
            asked = (clean[what] for what in SAME_QUESTION)
            drawn = samplings.get((*question, model, place.layer, name, *asked), [])
            werv = measures.variance(drawn) if name != MEAN else Estimate(None)
            made |= columns_of("werv", werv) | {"samplings": len(drawn), "baseline": baseline}
            rows.append(about | made)
    return pd.DataFrame(rows, columns=NORMALISED).astype({"samplings": "Int64"})


def _normalised(
    scores: Scores,
    clean: dict[Hashable, Any],
    others: dict[str, dict[Hashable, Any]],
    beside: tuple[Place, dict[Hashable, Any], dict[str, dict[Hashable, Any]]] | None,
    names: Sequence[str],
) -> dict[str, Any]:
    """WERD, NWER and NWERD over some conditions, means where they are several."""
    higher = bool(clean["higher_is_better"])
    try:
        reference, score = means_over(scores, clean, others, names)
        loss = measures.degradation(reference, score, higher)
        found = columns_of("werd", loss.estimate().at_least(0))
        if beside is not None and beside[1] is clean:
            return found | {"note": ""}  # the baseline beside itself
        if beside is None or any(name not in beside[2] for name in names):
            return found | {"note": "no score of the baseline"}
        its_reference, its_score = means_over(scores, beside[1], beside[2], names)
        its_loss = measures.degradation(its_reference, its_score, higher)
        nwer = measures.normalised_error(score, its_score, higher)
        nwerd = measures.normalised_degradation(loss, its_loss)
        notes = [
            f"{what}: {item.note}" for what, item in (("NWER", nwer), ("NWERD", nwerd)) if item.note
        ]
        return (
            found
            | columns_of("nwer", nwer)
            | columns_of("nwerd", nwerd)
            | {"note": "; ".join(notes)}
        )
    except ProbeError as error:
        return {"note": str(error).partition(":")[0]}


def means_over(
    scores: Scores,
    clean: dict[Hashable, Any],
    others: dict[str, dict[Hashable, Any]],
    names: Sequence[str],
) -> tuple[SampledScore, SampledScore]:
    """The clean score, and the mean score over conditions."""
    reference, found = scores.sampled(clean), [scores.sampled(others[name]) for name in names]
    there = [score for score in found if score is not None]
    if reference is None or len(there) < len(found):
        raise ProbeError("no counts in the record, so no interval")
    return reference, mean_of(there)


def _samplings(records: pd.DataFrame) -> dict[tuple[Hashable, ...], list[float]]:
    """The values of every sampling (seed and condition seed) by question, model, layer, condition
    and `SAME_QUESTION`.
    """
    shown = records[
        (records["split"] == "test") & (records["control"] == "") & (records["budget"] == "")
    ]
    shown = shown[(shown["train_domain"] == "") & shown["value"].notna()]
    keys = [*QUESTION, "model", "layer", "condition", *SAME_QUESTION]
    sampling = ["seed", "condition_seed"]
    shown = shown.sort_values([*keys, *sampling, "recipe"]).drop_duplicates([*keys, *sampling])
    return {
        tuple(names): [float(value) for value in group["value"]]
        for names, group in shown.groupby(keys)
    }


def effective_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Effective robustness of every model at its chosen layer, one row per model and condition;
    columns `EFFECTIVE`.

    Models at chance on clean audio are left out of the line and have no value.

    Args:
        rows: of `condition_rows`.
    """
    found = []
    shown = chosen_rows(rows)
    clean_of = {
        (*(row[name] for name in QUESTION), row["model"]): row
        for row in shown.to_dict("records")
        if row["condition"] == CLEAN
    }
    disturbed = shown[~shown["condition"].isin([CLEAN, MEAN, WORST])]
    for names, group in disturbed.groupby([*QUESTION, "condition"], sort=False):
        cells = {
            row["model"]: (row, clean_of[(*names[:-1], row["model"])])
            for row in group.to_dict("records")
        }
        points = {
            model: (_goodness(clean), _goodness(row))
            for model, (row, clean) in cells.items()
            if clean["chance"] != "at chance"
        }
        told = measures.effective_robustness(points)
        for model, (row, clean) in cells.items():
            estimate = told.get(model, Estimate(None, note="at chance on clean audio"))
            about = dict(zip([*QUESTION, "condition"], names, strict=True)) | {
                "model": model,
                "note": estimate.note,
            }
            found.append(
                about
                | {"clean": clean["value"], "value": row["value"]}
                | columns_of("effective", estimate)
            )
    return pd.DataFrame(found, columns=EFFECTIVE)


def _goodness(row: Mapping[Hashable, Any]) -> float:
    return float(row["value"] if row["higher_is_better"] else 1 - row["value"])


def group_rows(records: pd.DataFrame, all_heads: bool = False) -> pd.DataFrame:
    """The worst and the best group at the chosen layers, one row per condition and column of
    groups; columns `GROUPS`.

    Groups are the speakers, and the values of each manifest column that is the same within every
    speaker.

    Args:
        records: as of `condition_rows`; one condition is enough.

    Raises:
        ProbeError: see `Scores`.
    """
    scores = Scores(records, all_heads)
    rows = []
    order = {
        name: rank
        for rank, name in enumerate(
            [CLEAN, *by_severity({place.condition for place in scores.rows} - {CLEAN})]
        )
    }
    for place, row in sorted(
        scores.rows.items(),
        key=lambda item: (item[0].question, item[0].model, order[item[0].condition]),
    ):
        if not row["counts"] or not is_chosen(place, row):
            continue
        counts, higher, seed = row["counts"], bool(row["higher_is_better"]), int(row["seed"])
        # A trial has two speakers; where there is a block for each utterance, no speaker is known.
        if "target" not in counts and len(counts["block"]) < row["n"]:
            rows.append(
                _group_row(place, "speaker", compare_blocks(counts, counts["block"], higher, seed))
            )
        for column, labels in sorted((row["groups"] or {}).items()):
            if len(set(labels) - {""}) > 1 and column != "speaker":
                rows.append(
                    _group_row(
                        place,
                        column,
                        compare_groups(counts, labels, higher, seed, str(row["metric"])),
                    )
                )
    return pd.DataFrame(rows, columns=GROUPS)


def _group_row(place: Place, column: str, found: Groups) -> dict[str, Any]:
    row = dict(zip(QUESTION, place.question, strict=True)) | {
        "model": place.model,
        "layer": place.layer,
    }
    row |= {
        "condition": place.condition,
        "column": column,
        "n_groups": len(found.all),
        "note": found.spread.note,
    }
    row["n_few"] = sum(group.few for group in found.all) if column != "speaker" else 0
    if found.worst is not None and found.best is not None:
        row |= {
            "worst": found.worst.name,
            "best": found.best.name,
            "best_value": found.best.estimate.value,
        }
        row |= {
            f"worst_{name}": value
            for name, value in vars(found.worst.estimate).items()
            if name != "note"
        }
    return (
        row
        | columns_of("spread", found.spread)
        | {"by_chance": found.by_chance, "probability": found.probability}
    )
