"""`Scores`: the one prepared table that every view of records reads.

It is prepared once. Files that contradict others are left out (`probe.reporting.filters`), records
of several seeds become one score, and a layer is chosen for each model, task, corpus, condition,
head, train domain and budget: the one with the best dev value of the metric ``select_by``
(`probe.records.dev_choices` decides ties). Every metric of that head is shown on test at this
layer. When a task crosses domains, the layer is chosen on the dev data of the train domain. A
control stands beside the score that it belongs to, at the same layer; a learned sum of layers
beside the chosen layer.

Values are fractions; a missing value is NaN.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from probe.brief import brief, counted
from probe.errors import ProbeError, listed
from probe.measures.comparison import paired_difference
from probe.measures.counts import Counts, as_often, several
from probe.measures.metrics import CODELENGTH, metric_of
from probe.measures.uncertainty import FEW_BLOCKS, Method, interval
from probe.model_names import RANDOM, unrevised
from probe.records import (
    BUDGET,
    BY_GRADIENT,
    CHOICE,
    NO_LAYER,
    ONE_SESSION,
    QUESTION,
    RECORDING,
    SCORE,
    SESSION,
    SPEAKER,
    UTTERANCE,
    WEIGHTED,
    chosen_layers,
    left_out,
    source_dev,
)
from probe.reporting.filters import (
    LINE,
    comparable,
    comparable_across_conditions,
    files_named,
    first_sampling,
)
from probe.reporting.layer_choices import NO_CHOICE, LayerChoices
from probe.reporting.ties import layers_marked, models_marked

Row = dict[str, Any]

WHERE = [
    *["model", "task", "corpus", "condition", "train_condition", "head", "headline"],
    *["train_domain", "test_domain", "metric", "select_by"],
]
ABOUT = [
    "n",
    "n_blocks",
    "block_kind",
    "few",
    "shared_speakers",
    "interval_method",
    "n_seeds",
    "seed_sd",
    "higher_is_better",
]
STATISTICS = ["rms", "effective_rank", "anisotropy", "outlier_dims"]
CHOSEN = [
    *[*WHERE, "layer", "layer_share", "layer_set", "value", "low", "high"],
    *["last_layer", "last_value", "final_value", "weighted_value"],
    *["majority", "mean", "shuffled"],
    *["types", "selectivity", "selectivity_low", "selectivity_high"],
    *["fbank", "random", *ABOUT, "chance", "mark", "note"],
]
LAYERS = [
    *[*WHERE, "layer", "layer_index", "value", "low", "high", "dev_value", "chosen"],
    *["layer_share", "in_layer_set", *ABOUT, "chance", "mark", "note", "depth", *STATISTICS],
]
BUDGETS = [
    *[*WHERE, "layer", "layer_index", "budget", "n_train", "value", "low", "high", "chosen"],
    *[*ABOUT, "note"],
]
BASELINES = ("majority", "mean", "shuffled", "fbank", "random")
INTERVALS_ABOUT = {
    SPEAKER: "other speakers",
    ONE_SESSION: "other speakers, each in one session",
    SESSION: "other sessions of the same speakers",
    RECORDING: "other recordings of the same speakers",
    UTTERANCE: "other utterances",
}
PERCENTILE = "percentile"
PERCENTILE_NOTE = "intervals are percentiles of a bootstrap over blocks (--interval percentile)"
TOO_FEW = "too few blocks for an interval"
FOR_ENDS = ["low", "high", "value", "counts", "metric", "split", "seed"]
CHANCE = ("majority", "mean", "shuffled")  # controls that say what chance gives
# What marks are computed from, besides the columns that are shown: `controls` are counts.
FOR_MARKS = ["counts", "seed", "controls"]


def with_all_labels(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the task itself, without controls and budgets."""
    return rows[(rows["control"] == "") & (rows[BUDGET] == "")]


class Scores:
    """Records that may stand in one table, prepared once, when they are first needed; see the
    module.

    Attributes:
        unchecked: the records as they were read, of the heads that are shown.
        method: of the intervals of scores, see `probe.measures.uncertainty.interval`.
    """

    def __init__(
        self,
        unchecked: pd.DataFrame,
        check: Callable[[pd.DataFrame], pd.DataFrame] = comparable,
        method: Method = "speakers",
    ) -> None:
        """Use `of`."""
        self.unchecked, self._check, self.method = unchecked, check, method

    @classmethod
    def of(
        cls, records: pd.DataFrame, all_heads: bool = False, method: Method = "speakers"
    ) -> "Scores":
        """The scores of records; a warning names each file that contradicts the others.

        Args:
            records: see `probe.records.read_records`.
            all_heads: shows every head instead of the headline ones.
            method: of the intervals of scores, see `probe.measures.uncertainty.interval`;
                differences have one method.

        Raises:
            ProbeError: there are no records.
        """
        if records.empty:
            raise ProbeError("the files hold no records. Run `probe run` or `probe bench` again.")
        return cls(records if all_heads else records[records["headline"]], method=method)

    def __repr__(self) -> str:
        numbers = {name: self.unchecked[name].nunique() for name in ("model", "task")}
        numbers["record"] = len(self.unchecked)
        return brief(self, *(counted(n, noun) for noun, n in numbers.items()))

    def _repr_html_(self) -> str:
        """The scores at the chosen layers, for a notebook."""
        return self.chosen().to_html()

    @cached_property
    def records(self) -> pd.DataFrame:
        """The records that may stand together, one for each seed."""
        return self._check(self.unchecked)

    @cached_property
    def specs(self) -> dict[str, str]:
        """Model -> the spec that it was opened with, which is not its name where the user chose
        one; the name where no record says.
        """
        firsts = self.records.drop_duplicates("model")
        return {
            str(model): str(arguments.get("model", model)).removeprefix(f"{model}=")
            for model, arguments in zip(firsts["model"], firsts["arguments"], strict=True)
        }

    @cached_property
    def merged(self) -> pd.DataFrame:
        """One row for each score: the records with their seeds merged.

        Values are floats, NaN where there is no finite one. Intervals are computed from the counts,
        whatever version wrote them; dev scores have none. Besides the fields of a record
        there are ``chosen_layer`` (missing without a dev score), ``n_seeds``, ``seed_sd`` (the
        standard deviation over seeds), and ``few``: whether the blocks are fewer than `FEW_BLOCKS`,
        so that the interval is approximate; a codelength, whose blocks are of training, has none.
        """
        merged = _over_seeds(self.records)
        ends = [self._ends(row) for row in _dicts(merged, FOR_ENDS)]
        low, high = np.array(ends, np.float64).reshape(-1, 2).T
        low, high = (np.where(np.isfinite(end), end, np.nan) for end in (low, high))
        values = merged["value"].astype(float).replace([np.inf, -np.inf], np.nan)
        bare = values.notna() & np.isnan(low) & merged["counts"].astype(bool)
        bare &= (merged["note"] == "") & (merged["split"] == "test")
        scales = merged["metric"].map(lambda name: metric_of(name).interval_scale)
        bare &= scales != "none"
        in_bits = merged["metric"].map(lambda name: metric_of(name).in_bits)
        few = (merged["n_blocks"] > 0) & (merged["n_blocks"] < FEW_BLOCKS) & ~in_bits
        shared = merged["shared_speakers"].astype(float)
        note = merged["note"].mask(bare, TOO_FEW)
        merged = merged.assign(
            value=values,
            low=low,
            high=high,
            note=note,
            few=few,
            shared_speakers=shared,
            interval_method=self.method,
        )
        return merged.merge(chosen_layers(merged), on=CHOICE, how="left")

    def _ends(self, row: Row) -> tuple[float, float]:
        if pd.isna(row["value"]) or row["split"] == "dev":
            return np.nan, np.nan
        if not row["counts"]:
            return row["low"], row["high"]
        ends = interval(row["counts"], row["metric"], method=self.method, seed=row["seed"])
        return ends or (np.nan, np.nan)

    @cached_property
    def layer_choices(self) -> LayerChoices:
        """How sure the chosen layers are."""
        return LayerChoices(self.merged)

    @cached_property
    def tested(self) -> pd.DataFrame:
        """The rows of `merged` that are reported: test scores, and online codelengths, which are of
        the training labels; controls and budgets among them.
        """
        rows = self.merged
        return rows[(rows["split"] == "test") | (rows["metric"] == CODELENGTH.name)]

    @cached_property
    def one_sampling(self) -> "Scores":
        """The scores of one seed and one condition seed, which conditions can be compared with
        utterance by utterance: see `probe.reporting.filters.first_sampling`. Their intervals have
        the method of the losses, whatever that of the other scores is.
        """
        first = first_sampling(self.unchecked)
        return Scores(first, comparable_across_conditions)

    @cached_property
    def first_seed(self) -> "Scores":
        """The scores of each question's first seed alone."""
        by = ["task", "corpus", "condition"]
        first = self.records["seed"] == self.records.groupby(by)["seed"].transform("min")
        return self if first.all() else Scores(self.records[first], method=self.method)

    @cached_property
    def across_domains(self) -> "Scores":
        """The scores with conditions as domains, where a model was trained under several: see
        `crossed`.
        """
        crossing = crossed(self.records)
        return self if crossing is self.records else Scores(crossing, method=self.method)

    def chosen(self) -> pd.DataFrame:
        """One row for each `SCORE` that was trained on all labels, at the layer chosen on dev;
        columns `CHOSEN`.

        ``layer_share`` is the share of resamples of the dev blocks that choose this layer, and
        ``layer_set`` the smallest set of layers that 90 % of them choose from: see
        `probe.reporting.layer_choices`.
        ``majority``, ``shuffled`` and ``types`` are controls at this layer (see
        `probe.records.Record`); ``selectivity`` is the value less ``types``, with its interval;
        ``fbank`` and ``random`` are the values of these models in the same place: filter banks, and
        the architecture with random weights. ``last_layer`` is the highest numbered layer that was
        run; ``final_value`` that of the model's final output, which in post-LN models is the last
        block's. A score without a value keeps its row and its note. ``chance`` and ``mark`` are
        those of `probe.reporting.ties`.
        """
        return self.chosen_with_counts[CHOSEN].copy()

    @cached_property
    def chosen_with_counts(self) -> pd.DataFrame:
        """The rows of `chosen` with the columns `FOR_MARKS` too."""
        tested = self.tested[self.tested[BUDGET] == ""].sort_values("layer_index", kind="stable")
        cells: dict[tuple[object, ...], list[Row]] = defaultdict(list)
        columns = {*SCORE, "control", "chosen_layer", "final_layer", "counts", "seed"}
        for row in _dicts(tested, columns | (set(CHOSEN) & set(tested))):
            cells[tuple(row[name] for name in SCORE)].append(row)
        rows = [
            _chosen_row(cell) for cell in cells.values() if any(not row["control"] for row in cell)
        ]
        self._attach_baselines(rows)
        for row in rows:
            self._attach_choice(row)
        table = _in_order(pd.DataFrame(rows, columns=[*CHOSEN, *FOR_MARKS]))
        return models_marked(table)

    def _attach_choice(self, row: Row) -> None:
        """Put beside a layer how sure its choice is."""
        choice = self.layer_choices.of(row | {BUDGET: ""})
        has_layer = not pd.isna(row["layer"])
        row["layer_share"] = choice.shares.get(row["layer"], np.nan)
        row["layer_set"] = choice.set_text if has_layer else NO_CHOICE

    def _attach_baselines(self, rows: Sequence[Row]) -> None:
        """Put the values of filter banks and of random weights beside the rows of other models."""
        values: dict[tuple[object, ...], float] = {}
        for name_of in (lambda row: self.specs[row["model"]], lambda row: row["model"]):
            values |= {(name_of(row), *_contest(row)): row["value"] for row in rows}
        for row in rows:
            spec, contest = self.specs[row["model"]], _contest(row)
            twins = [RANDOM + name for name in (row["model"], spec, unrevised(spec))]
            row["fbank"] = np.nan if spec == "fbank" else values.get(("fbank", *contest), np.nan)
            known = (values[twin, *contest] for twin in twins if (twin, *contest) in values)
            row["random"] = next(known, np.nan)

    def layers(self, marked: bool = True) -> pd.DataFrame:
        """One row for each `SCORE` that was trained on all labels, and layer; columns `LAYERS`.

        ``dev_value`` is the dev score of the same layer and metric, in the train domain where the
        task crosses domains; ``chosen`` marks the layer that `chosen` shows, ``layer_share``
        is the share of resamples of the dev blocks that choose this layer, and ``in_layer_set``
        whether it is one of the smallest set that 90 % of them choose from; ``mark`` the best of
        the model's layers on test and others that may be: it describes, and chooses nothing.
        `STATISTICS` are those of the record, see `probe.measures.geometry`.

        Args:
            marked: whether layers are compared; without, ``mark`` and ``chance`` are empty, in a
                third of the time.
        """
        same = [*CHOICE, "control", "metric", "layer"]
        dev = source_dev(self.merged)[[*same, "value"]].rename(columns={"value": "dev_value"})
        rows = with_all_labels(self.tested).merge(dev, on=same, how="left")
        statistics = {
            name: [of.get(name, np.nan) for of in rows["statistics"]] for name in STATISTICS
        }
        choices = [self.layer_choices.of(row) for row in _dicts(rows, CHOICE)]
        layers = list(zip(choices, rows["layer"], strict=True))
        rows = rows.assign(
            **statistics,
            layer_share=[choice.shares.get(layer, np.nan) for choice, layer in layers],
            in_layer_set=[layer in choice.likely for choice, layer in layers],
            chosen=rows["layer"] == rows["chosen_layer"],
            depth=rows["depth"].astype(float),
            controls=self._controls_of(rows),
            chance="",
            mark="",
        )
        rows = _in_order(rows[[*LAYERS, *FOR_MARKS]], "layer_index")
        return (layers_marked(rows) if marked else rows)[LAYERS]

    def _controls_of(self, rows: pd.DataFrame) -> "pd.Series[Any]":
        """The counts of each row's controls of `CHANCE`, at its layer or of no layer."""
        controls: dict[tuple[object, ...], list[Counts]] = defaultdict(list)
        tested = self.tested[self.tested["control"].isin(CHANCE) & (self.tested[BUDGET] == "")]
        for row in _dicts(tested, [*SCORE, "layer", "counts"]):
            if row["counts"]:
                controls[tuple(row[name] for name in (*SCORE, "layer"))].append(row["counts"])
        counts = [
            [*controls.get((*place, layer), []), *controls.get((*place, NO_LAYER), [])]
            for *place, layer in rows[[*SCORE, "layer"]].itertuples(index=False, name=None)
        ]
        return pd.Series(counts, index=rows.index, dtype=object)

    def budgets(self) -> pd.DataFrame:
        """Learning curves: one row for each `SCORE`, layer and budget of what was also trained on
        some of the labels; columns `BUDGETS`.

        ``budget`` is empty where all labels were used; ``chosen`` marks the layer that is best on
        dev with this budget. Smaller budgets come first.
        """
        rows = self.tested[(self.tested["control"] == "") & (self.tested["split"] == "test")]
        by = [rows[name] for name in SCORE]
        rows = rows[rows[BUDGET].ne("").groupby(by).transform("any")]
        rows = rows.assign(chosen=rows["layer"] == rows["chosen_layer"])
        return _in_order(rows[BUDGETS], "layer_index", "n_train")

    def domains(self, layers: bool = False) -> pd.DataFrame:
        """The rows of `chosen`, or of `layers`, whose task crosses domains, without codelengths."""
        scores = self.across_domains
        if not (scores.records["train_domain"] != "").any():
            return pd.DataFrame(columns=LAYERS if layers else CHOSEN)
        rows = scores.layers() if layers else scores.chosen()
        return rows[(rows["train_domain"] != "") & (rows["metric"] != CODELENGTH.name)]


def crossed(records: pd.DataFrame) -> pd.DataFrame:
    """The records, with conditions as domains where a model was trained on a task under several;
    the same object where none was.

    These have the training's condition as train domain and the test's as test domain; their own
    ``condition`` is empty. A training's dev scores, which are repeated for every test condition,
    are kept once.
    """
    by = [records[name] for name in ("model", "task", "corpus", "head")]
    several_trainings = records["train_condition"].groupby(by).transform("nunique") > 1
    is_moved = several_trainings & (records["train_domain"] == "")
    if not is_moved.any():
        return records
    crossing = records[is_moved]
    is_test = crossing["split"] == "test"
    crossing = crossing.assign(
        train_domain=crossing["train_condition"],
        test_domain=crossing["condition"].where(is_test, crossing["train_condition"]),
        **dict.fromkeys(["condition", "train_condition", "recipe"], ""),
    )
    dev = crossing[~is_test].drop_duplicates([*LINE, "seed"])
    return pd.concat([records[~is_moved], crossing[is_test], dev], ignore_index=True)


def interval_notes(rows: pd.DataFrame) -> list[str]:
    """Sentences on what the intervals of rows are about, with tasks where these differ."""
    known = rows[rows["low"].notna() & (rows["block_kind"] != "")]
    notes = []
    for kind, group in known.groupby("block_kind"):
        tasks = f" ({listed(sorted(set(group['task'])), 20)})" if len(group) < len(known) else ""
        notes.append(f"intervals are about {INTERVALS_ABOUT[str(kind)]}{tasks}")
    return [*notes, *method_notes(rows)]


def method_notes(rows: pd.DataFrame) -> list[str]:
    """A note where intervals are percentiles of a bootstrap instead of the usual ones."""
    is_percentile = (rows["interval_method"] == PERCENTILE) & rows["low"].notna()
    return [PERCENTILE_NOTE] if is_percentile.any() else []


def seed_notes(rows: pd.DataFrame) -> list[str]:
    """A note for each number of seeds that is not 1: that scores are means, and on what questions
    where the numbers differ. Another one where a head that is trained by gradient has one seed.
    """
    by = [name for name in QUESTION[:4] if name in rows and rows[name].nunique() > 1]
    notes = []
    for n_seeds, group in rows[rows["n_seeds"] > 1].groupby("n_seeds"):
        note = f"mean of {n_seeds} seeds"
        if len(group) < len(rows):
            places = group[by].drop_duplicates().itertuples(index=False, name=None)
            where = listed([" ".join(place) for place in places], 20)
            note += f": {where}" if where else ""
        notes.append(note)
    single = rows[(rows["n_seeds"] == 1) & rows["head"].isin(BY_GRADIENT) & rows["value"].notna()]
    if len(single):
        heads = listed(list(dict.fromkeys(single["head"])))
        notes.append(f"one seed of {heads}: another seed gives another score; see --seeds")
    return notes


def _over_seeds(records: pd.DataFrame) -> pd.DataFrame:
    """One record for each score, with ``n_seeds`` and ``seed_sd``; ``value`` is the mean over
    seeds, ``counts`` those of all.

    A value that one seed does not have is missing, and a note names the seed. Seeds that were
    scored on different utterances (dev trials that are drawn by the seed, say) have a mean but no
    interval. Scores that not all seeds of their question have are left out with a warning.
    """
    if not records.duplicated(LINE).any():
        return records.assign(n_seeds=1, seed_sd=np.nan)
    expected = records.groupby(["task", "corpus", "condition"])["seed"].transform("nunique")
    n_seeds = records.groupby(LINE, dropna=False)["seed"].transform("nunique")
    if (incomplete := records[n_seeds < expected]).size:
        places = [
            f"{row['model']}, {row['task']}, {row['condition']}, layer {row['layer']}, "
            f"{row['split']}: only seed {row['seed']}"
            for row in incomplete.to_dict("records")
        ]
        left_out.warning(
            "%d scores do not exist for every seed and are left out: %s. They are in %s. "
            "Run the same seeds and layers for all models.",
            *(len(incomplete), listed(places), files_named(incomplete)),
        )
        records = records[n_seeds == expected]
    groups = records.sort_values("seed", kind="stable").groupby(LINE, sort=False, dropna=False)
    rows = [_mean([*map(dict, group.to_dict("records"))]) for _, group in groups]
    return pd.DataFrame(rows, columns=[*records.columns, "n_seeds", "seed_sd"])


def _mean(rows: Sequence[Mapping[Any, Any]]) -> Row:
    """The record of several seeds."""
    first = rows[0]
    mean = {
        **first,
        "n_seeds": len(rows),
        "seed_sd": np.nan,
        "low": None,
        "high": None,
        "counts": {},
    }
    missing = [row for row in rows if pd.isna(row["value"])]
    if missing:
        note = missing[0]["note"] or f"no value with seed {missing[0]['seed']}"
        return mean | {"value": None, "note": note}
    mean["value"] = sum(row["value"] for row in rows) / len(rows)
    if len(rows) > 1:
        mean["seed_sd"] = float(np.std([row["value"] for row in rows], ddof=1))
    if not all(row["counts"] for row in rows):
        return mean
    try:
        mean["counts"] = several([row["counts"] for row in rows])
    except ProbeError:
        note = first["note"] or "the seeds were scored on different utterances, so no interval"
        return mean | {"note": note}
    return mean


def _dicts(rows: pd.DataFrame, columns: Iterable[str]) -> list[Row]:
    """Some columns of the rows, as one dict a row: thousands of small tables would take a hundred
    times as long.
    """
    names = list(columns)
    values = zip(*(rows[name].tolist() for name in names), strict=True)
    return [dict(zip(names, of_row, strict=True)) for of_row in values]


def _contest(row: Mapping[str, object]) -> tuple[object, ...]:
    """What the scores of other models that are compared with this one agree in."""
    return tuple(row[name] for name in SCORE if name != "model")


def _chosen_row(cell: Sequence[Row]) -> Row:
    """One row of `Scores.chosen` from the rows of all layers, in their order, and controls."""
    layers = [row for row in cell if row["control"] == ""]
    chosen = next((row for row in layers if row["layer"] == row["chosen_layer"]), None)
    if chosen is not None:
        row = dict(chosen)
    else:
        row = dict(next((row for row in layers if row["layer"] != WEIGHTED), layers[0]))
        layer = row["chosen_layer"]
        why = f"no test score at layer {layer}"
        if pd.isna(layer):
            why = f"no dev score of {row['select_by']}, so no layer is chosen"
        row |= dict.fromkeys(["value", "low", "high"], np.nan)
        row |= {"layer": None, "note": row["note"] or why}
    value_of = {row["layer"]: row["value"] for row in layers}
    last = max((layer for layer in value_of if layer.isdecimal()), key=int, default=None)
    row |= {
        "last_layer": last,
        "last_value": value_of.get(last, np.nan),
        "final_value": value_of.get(row["final_layer"], np.nan),
        "weighted_value": value_of.get(WEIGHTED, np.nan),
        **_controls(row, cell),
    }
    return {name: row.get(name, np.nan) for name in (*CHOSEN, *FOR_MARKS)}


def _controls(score: Row, cell: Sequence[Row]) -> Row:
    """The values of the controls of a score, and its selectivity."""
    controls = {
        row["control"]: row
        for row in cell
        if row["control"] and row["layer"] in (score["layer"], NO_LAYER) and pd.notna(row["value"])
    }
    values: Row = {control: row["value"] for control, row in controls.items()}
    values["controls"] = [
        row["counts"] for name, row in controls.items() if name in CHANCE and row["counts"]
    ]
    if "types" in controls and not pd.isna(score["value"]):
        types = controls["types"]["counts"]
        own = as_often(score["counts"], types)
        gain = paired_difference(own, types, score["metric"])
        values |= {
            "selectivity": gain.difference,
            "selectivity_low": gain.low,
            "selectivity_high": gain.high,
        }
    return values


def _in_order(rows: pd.DataFrame, *then: str) -> pd.DataFrame:
    """Rows sorted so that what is compared stands together, the selecting metric before others."""
    keys = [*QUESTION, "other", "metric", "model", "head", *then]
    rows = rows.assign(other=rows["metric"] != rows["select_by"])
    return rows.sort_values(keys, kind="stable", ignore_index=True).drop(columns="other")
