"""The rows of the robustness tables: what each model and layer loses where the test audio is
disturbed, or the domain is another.

A score under a condition is compared with the same layer's score on clean audio, on the same
utterances and of the same training (``train_condition``); the layer is the one chosen on the dev
data of that training, as in every table. Measures and their intervals are those of
`probe.measures.degradation`; whatever is undefined has no value, and where it matters a note says
why.

Records of several samplings (seeds of training, or of the condition) may come together: the first
that all models and conditions have is what is shown, all of them give the variance (WERV).

Values are fractions; a missing value is NaN.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from probe.errors import ProbeError
from probe.measures import degradation as measures
from probe.measures.bootstrap import CONFIDENCE, Estimate, SampledScore, sample_score
from probe.measures.uncertainty import interval
from probe.records import CHOICE, NO_LAYER, WEIGHTED, chosen_layers, left_out
from probe.reporting.comparable_files import CELL, Rules, comparable, named

CLEAN = "clean"
MEAN, WORST = "(mean)", "(worst)"
DOMAIN_TASKS = (
    "domain-id",
    "condition-id",
)  # how much of the domain, or the condition, a layer still tells
COSTS = "min_dcf"  # what the names of detection costs begin with
QUESTION = ["task", "corpus", "train_condition", "metric", "head"]
# Conditions stand in one row only if these are equal, for they are compared utterance by utterance.
EQUAL_ACROSS_CONDITIONS: Rules = [
    (
        ["task", "corpus", "train_condition"],
        ["task_version", "task_sha256", "manifest_sha256", "seed"],
    ),
    (["model", "task", "corpus", "train_condition"], ["revision"]),
]
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?|(?<=[a-z_])\d+(?:\.\d+)?", re.IGNORECASE)
# Setting, as a name has it -> the value that leaves the audio as it is. Of factors the distance
# from it is that of logarithms.
NEUTRAL = {
    "pitch:": 0,
    "gain:": 0,
    "bass:": 0,
    "treble:": 0,
    "speed:": 1,
    "tempo:": 1,
    "gain:factor=": 1,
}
# The score of trials that tell nothing, or of a transcript of nothing.
CHANCE = {"eer": 0.5, "wer": 1.0, "cer": 1.0, "per": 1.0}
CONDITIONS = [
    *QUESTION,
    *[
        "model",
        "layer",
        "layer_index",
        "condition",
        "value",
        "low",
        "high",
        "loss",
        "loss_low",
        "loss_high",
    ],
    *[
        "relative",
        "relative_low",
        "relative_high",
        "margin_lost",
        "margin_lost_low",
        "margin_lost_high",
    ],
    *["chance", "chosen", "robust", "n", "n_blocks", "higher_is_better", "note"],
    *[f"{task}{end}" for task in DOMAIN_TASKS for end in ("", "_low", "_high")],
    "shared_speakers",
]


@dataclass(frozen=True)
class Place:
    """Where a score stands: the question, the model and layer, and what was heard."""

    question: tuple[Hashable, ...]
    model: str
    layer: str
    condition: str


class Scores:
    """The test scores of records that may stand side by side, by their place; each is resampled
    once.
    """

    def __init__(self, records: pd.DataFrame, all_heads: bool = False) -> None:
        """Takes the first sampling of the records.

        Raises:
            ProbeError: see `probe.reporting.comparable_files.comparable`.
        """
        records = comparable(first_sampling(records))
        records = comparable(
            records, EQUAL_ACROSS_CONDITIONS, "Run the task again under all conditions at once."
        )
        shown = (
            (records["split"] == "test")
            & (records["budget"] == "")
            & (records["headline"] | all_heads)
        )
        shown &= (
            (records["train_domain"] == "")
            & (records["metric"] != "codelength")
            & records["value"].notna()
        )
        chosen = chosen_layers(records)
        found = (
            records[shown]
            .merge(chosen, on=CHOICE, how="left")
            .sort_values([*QUESTION, "model", "layer_index", "layer", "condition"], kind="stable")
        )
        self.rows: dict[Place, dict[Hashable, Any]] = {}
        self.controls: dict[tuple[Place, str], dict[Hashable, Any]] = {}
        for row in found.to_dict("records"):
            place = Place(
                tuple(row[name] for name in QUESTION), row["model"], row["layer"], row["condition"]
            )
            if row["control"]:
                self.controls[place, row["control"]] = row
            else:
                self.rows[place] = row
        self._sampled: dict[int, SampledScore | None] = {}

    def sampled(self, row: Mapping[Hashable, Any]) -> SampledScore | None:
        """A row's resampled score; None where the record holds no counts."""
        if id(row) not in self._sampled:
            self._sampled[id(row)] = (
                sample_score(row["counts"], int(row["seed"]), None, str(row["metric"]))
                if row["counts"]
                else None
            )
        return self._sampled[id(row)]

    def at(self, place: Place, condition: str) -> dict[Hashable, Any] | None:
        """The score of the same layer under another condition."""
        return self.rows.get(Place(place.question, place.model, place.layer, condition))

    def disturbed(
        self,
    ) -> Iterator[tuple[Place, dict[Hashable, Any], dict[str, dict[Hashable, Any]]]]:
        """Every clean score that has others under a condition, with these, the milder first."""
        others: dict[Place, dict[str, dict[Hashable, Any]]] = defaultdict(dict)
        for place, row in self.rows.items():
            others[Place(place.question, place.model, place.layer, CLEAN)][place.condition] = row
        for place, under in others.items():
            clean = under.pop(CLEAN, None)
            if clean is not None and under:
                yield place, clean, {name: under[name] for name in by_severity(under)}

    def chance(self, clean: Mapping[Hashable, Any], place: Place) -> "SampledScore | float | None":
        """The best that can be had without the layer: a control of the same score, or what the
        metric gives for nothing.
        """
        none = Place(place.question, place.model, NO_LAYER, CLEAN)
        rows = [self.controls.get((none, "majority")), self.controls.get((place, "shuffled"))]
        found: list[SampledScore] = [
            score for row in rows if row is not None and (score := self.sampled(row)) is not None
        ]
        if clean["higher_is_better"]:
            return max(found, key=lambda score: score.value, default=None)
        metric = str(clean["metric"])
        return 1.0 if metric.startswith("min_dcf") else CHANCE.get(metric)


def first_sampling(records: pd.DataFrame) -> pd.DataFrame:
    """The records of each task's first seed and condition seed that all models and conditions have;
    equal scores stand once.

    What nothing was drawn for goes with every condition seed. Where there is no such sampling, the
    one stays that most models and conditions have; the files of the others are left out with a
    warning.
    """
    if records.empty:
        return records
    kept = pd.concat(
        [_first_of(names, of_task) for names, of_task in records.groupby(["task", "corpus"])]
    ).sort_index()
    return kept.drop_duplicates([*CELL, "control", "layer", "split", "recipe", "value"])


def _first_of(names: Iterable[Hashable], records: pd.DataFrame) -> pd.DataFrame:
    """The records of a task's first sampling."""
    places = [records[name] for name in ("model", "condition", "train_condition")]
    samplings: list[tuple[int, str, pd.DataFrame]] = []
    for seed, of_seed in records.groupby("seed"):
        for drawn in sorted(of_seed["condition_seed"].dropna().unique()) or [None]:
            here = (records["seed"] == seed) & (
                records["condition_seed"].isna() | (records["condition_seed"] == drawn)
            )
            has_some = here.groupby(places).any()
            if has_some.all():
                return records[here]
            name = f"seed {seed}{'' if drawn is None else f', condition seed {drawn:.0f}'}"
            samplings.append((int(has_some.sum()), name, records[here]))
    n_places, name, kept = max(samplings, key=lambda item: item[0])
    task, corpus = names
    left_out.warning(
        "task %s, corpus %s: no seed and condition seed that all models and conditions have. %s stays, which %d of %d have. "
        "Left out: %s. Extract and run all with one --condition-seed and --seed, or keep the records in separate folders.",
        *(task, corpus, name, n_places, len(has_some), named(records.drop(index=kept.index))),
    )
    return kept


def by_severity(conditions: Iterable[str]) -> list[str]:
    """Conditions in order: families that differ by one number only stand together, the milder first
    (see `families`).
    """
    return [name for family in families(conditions).values() for name in family]


def families(conditions: Iterable[str]) -> dict[str, list[str]]:
    """Conditions by family: the name with ``#`` for the one number in which its members differ ->
    the members, the milder first.

    A level after ``@`` is a signal-to-noise ratio, so more is milder. Where a setting has a
    `NEUTRAL` value, nearer to it is; of every other number less is. A condition that is alone is
    its own family under its own name.
    """
    names = sorted(set(conditions))
    masked = [
        (f"{name[: at.start()]}#{name[at.end() :]}", name, at)
        for name in names
        for at in re.finditer(NUMBER, name)
    ]
    members: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for family, name, at in masked:
        members[family].append((_severity(name[: at.start()], float(at[0])), name))
    found: dict[str, list[str]] = {}
    placed: set[str] = set()
    for family, ranked in sorted(members.items(), key=lambda item: (-len(item[1]), item[0])):
        free = [name for _, name in sorted(ranked) if name not in placed]
        if len(free) > 1:
            found[family] = free
            placed |= set(free)
    found |= {name: [name] for name in names if name not in placed}
    return dict(sorted(found.items()))


def _severity(before: str, number: float) -> float:
    """How far a number disturbs, to order by; ``before`` is what stands before it in the
    condition's name.
    """
    neutral = NEUTRAL.get(before.rpartition("+")[2])
    if neutral is None:
        return -number if before.endswith("@") else number
    if not neutral:
        return abs(number)
    return abs(math.log(number)) if number > 0 else math.inf


def condition_rows(records: pd.DataFrame, all_heads: bool = False) -> pd.DataFrame:
    """One row per `QUESTION`, model, layer and condition; columns `CONDITIONS`.

    The clean score comes first, then the conditions, the milder first, then their mean and the
    worst of them.

    ``loss`` is the degradation in the metric's unit, ``relative`` as a part of the clean score,
    ``margin_lost`` as a part of what the clean score is above chance. ``chance`` is empty where the
    clean score is shown to be better than the controls (or than what the metric gives for nothing),
    else ``at chance`` or ``unknown``. ``robust`` is ``most`` at the layer with the smallest mean
    margin lost among those above chance, ``tied`` where the interval reaches down to it; it is
    picked on the test scores it describes. The worst condition's intervals hold for all conditions
    at once (Bonferroni).

    Args:
        records: see `probe.records.read_records`; of several samplings the first is taken.
        all_heads: shows every head instead of the headline ones.

    Raises:
        ProbeError: see `Scores`.
    """
    scores = Scores(records, all_heads)
    left = _domain_left(records)
    rows = [
        row | left(row)
        for place, clean, others in scores.disturbed()
        for row in _rows_of_layer(scores, place, clean, others)
    ]
    found = pd.DataFrame(rows, columns=CONDITIONS).astype(
        dict.fromkeys(["n", "n_blocks", "shared_speakers"], "Int64")
    )
    if len(found):
        found["robust"] = _robust(found)
    return found


def chosen_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Of the rows of `condition_rows` those at the layer that dev chose."""
    return rows[rows["chosen"].astype(bool)].reset_index(drop=True)


def _rows_of_layer(
    scores: Scores, place: Place, clean: dict[Hashable, Any], others: dict[str, dict[Hashable, Any]]
) -> list[dict[str, Any]]:
    """The rows of one layer under every condition."""
    higher, reference, chance = (
        bool(clean["higher_is_better"]),
        scores.sampled(clean),
        scores.chance(clean, place),
    )
    level = _chance_level(reference, chance, higher)
    about = dict(zip(QUESTION, place.question, strict=True)) | {
        "model": place.model,
        "layer": place.layer,
    }
    about |= {
        "layer_index": clean["layer_index"],
        "chosen": clean["chosen_layer"] == place.layer,
        "higher_is_better": higher,
    }
    about |= {"chance": level, "note": "", "shared_speakers": clean["shared_speakers"]}
    rows = [
        about
        | {name: clean[name] for name in ("condition", "value", "low", "high", "n", "n_blocks")}
    ]
    losses: dict[str, SampledScore] = {}
    for name, row in others.items():
        made = about | {
            key: row[key] for key in ("condition", "value", "low", "high", "n", "n_blocks")
        }
        plain = (clean["value"] - row["value"]) * (1 if higher else -1)
        score = scores.sampled(row)
        try:
            if reference is None or score is None:
                made |= columns_of("loss", Estimate(plain)) | {
                    "note": "no counts in the record, so no interval"
                }
            else:
                losses[name] = measures.degradation(reference, score, higher)
                made |= _losses(losses[name], reference, chance, higher, level)
        except ProbeError as error:
            made |= {"note": str(error).partition(":")[0]}
        rows.append(made)
    if reference is not None and len(losses) == len(others):
        mean = mean_of(list(losses.values()))
        value = _value(
            (reference - mean if higher else reference + mean).estimate(), 1.0 if higher else np.inf
        )
        rows.append(
            about | {"condition": MEAN} | value | _losses(mean, reference, chance, higher, level)
        )
        worst = max(losses, key=lambda name: losses[name].value)
        row = others[worst]
        simultaneous = 1 - (1 - CONFIDENCE) / len(losses)
        ends = interval(
            row["counts"], int(row["seed"]), confidence=simultaneous, metric=str(row["metric"])
        ) or (np.nan, np.nan)
        there = {key: row[key] for key in ("value", "n", "n_blocks")} | {
            "low": ends[0],
            "high": ends[1],
            "note": worst,
        }
        rows.append(
            about
            | {"condition": WORST}
            | there
            | _losses(losses[worst], reference, chance, higher, level, simultaneous)
        )
    return rows


def _value(estimate: Estimate, most: float) -> dict[str, Any]:
    """A score as columns, its ends no further than a score can be."""
    ends = [
        np.nan if end is None else min(max(end, 0.0), most) for end in (estimate.low, estimate.high)
    ]
    return {"value": estimate.value, "low": ends[0], "high": ends[1]}


def _losses(
    loss: SampledScore,
    clean: SampledScore,
    chance: "SampledScore | float | None",
    higher: bool,
    level: str,
    confidence: float = CONFIDENCE,
) -> dict[str, Any]:
    """What is lost, in points, of the clean score, and of what it has above chance."""
    points, relative = loss.estimate(confidence), measures.ratio(loss, clean, confidence)
    margin = (
        Estimate(None)
        if chance is None or level
        else measures.margin_lost(loss, clean, chance, higher, confidence)
    )
    return (
        columns_of("loss", points)
        | columns_of("relative", relative)
        | columns_of("margin_lost", margin)
    )


def mean_of(scores: Sequence[SampledScore]) -> SampledScore:
    """The mean of scores of the same utterances."""
    total = scores[0]
    for score in scores[1:]:
        total = total + score
    return total * (1 / len(scores))


def _chance_level(
    clean: "SampledScore | None", chance: "SampledScore | float | None", higher: bool
) -> str:
    """Whether a layer's clean score is told from what chance gives."""
    if clean is None or chance is None:
        return "unknown"
    above = (
        measures.degradation(clean, chance, higher)
        if isinstance(chance, SampledScore)
        else (clean - chance) * (1 if higher else -1)
    )
    found = above.estimate()
    return "unknown" if found.low is None else "" if found.low > 0 else "at chance"


def _robust(rows: pd.DataFrame) -> pd.Series:
    """``most`` and ``tied`` on all rows of the layers that keep most of their margin."""
    marks = pd.Series("", index=rows.index)
    for _, of_model in rows.groupby([*QUESTION, "model"]):
        told = of_model[(of_model["condition"] == MEAN) & (of_model["layer"] != WEIGHTED)]
        told = told[told["margin_lost"].notna() & told["margin_lost_low"].notna()].sort_values(
            ["margin_lost", "layer_index"]
        )
        if len(told) < 2:
            continue
        tied = told["layer"][told["margin_lost_low"] <= told["margin_lost"].iloc[0]]
        marks[of_model.index[of_model["layer"].isin(tied)]] = "tied"
        marks[of_model.index[of_model["layer"] == told["layer"].iloc[0]]] = "most"
    return marks


def _domain_left(records: pd.DataFrame) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """How well each layer of a model tells domains, or conditions: of a row, the columns of
    `DOMAIN_TASKS`.
    """
    told = records[
        records["task"].isin(DOMAIN_TASKS)
        & (records["metric"] == "accuracy")
        & (records["split"] == "test")
    ]
    told = told[
        (told["control"] == "")
        & (told["budget"] == "")
        & (told["train_domain"] == "")
        & told["headline"]
    ]
    told = told.assign(other=told["condition"] != CLEAN).sort_values(
        ["other", "corpus", "condition", "seed"], kind="stable"
    )
    found: dict[tuple[Hashable, ...], dict[Hashable, Any]] = {}
    for row in told.to_dict("records"):
        for corpus in (row["corpus"], ""):
            found.setdefault((row["task"], row["model"], row["layer"], corpus), row)

    def columns(row: Mapping[str, Any]) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        for task in DOMAIN_TASKS:
            places = [(task, row["model"], row["layer"], corpus) for corpus in (row["corpus"], "")]
            there = next(
                (found[place] for place in places if place in found and task != row["task"]), None
            )
            if there is not None:
                shown |= columns_of(task, Estimate(there["value"], there["low"], there["high"]))
        return shown

    return columns


def is_chosen(place: Place, clean: Mapping[Hashable, Any]) -> bool:
    """Whether a score is at the layer that dev chose."""
    return bool(clean["chosen_layer"] == place.layer)


def columns_of(name: str, estimate: Estimate) -> dict[str, Any]:
    """An estimate as three columns, NaN where there is nothing."""
    values = {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return {key: np.nan if value is None else value for key, value in values.items()}
