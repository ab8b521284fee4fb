"""Two runs, or two models, are compared score by score: what changed, by how much, and why.

The question is which scores moved further than other speakers would move them, after new code,
libraries or data, or with another model.

A is before, B is after. Scores are paired that agree in `PLACE`: test scores, and online codes, of
the task itself (no controls), each at the layer that dev chose on its own side, or layer by layer.
A difference is B - A; its interval is paired by block
(`probe.measures.comparison.paired_difference`), so both sides must be of the same utterances.
Values are fractions, and bits for codelengths. Each interval stands alone, at 95 %; verdicts hold
together, because p-values are adjusted by Holm's procedure over all differences.
"""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from probe.errors import ProbeError, listed
from probe.measures.comparison import LEVEL, Paired, holm, paired_difference
from probe.measures.counts import per_seed
from probe.measures.metrics import metric_of
from probe.measures.uncertainty import FEWEST_BLOCKS
from probe.records import BUDGET, COMBINED, QUESTION
from probe.reporting.scores import Scores
from probe.reporting.tables.grid import markdown
from probe.reporting.tables.score_tables import LEFT_OUT_IF_ALL
from probe.reporting.text import DASH, arrow, escaped, json_text

PLACE = [*QUESTION, BUDGET, "metric", "model", "head"]
WORSE, BETTER, UNCLEAR, IDENTICAL = "worse", "better", "not significantly different", "identical"
UNTESTED, UNPAIRED, ONLY_A, ONLY_B = "not tested", "not paired", "only in A", "only in B"
# What is said of B; changes stand first.
VERDICTS = (WORSE, BETTER, UNPAIRED, UNTESTED, UNCLEAR, IDENTICAL, ONLY_A, ONLY_B)
COUNTED = (IDENTICAL, ONLY_A, ONLY_B)  # on a page they are counted, not listed
COLUMNS = [
    *["verdict", *PLACE, "layer_a", "layer_b", "value_a", "value_b"],
    *["difference", "low", "high", "p", "p_adjusted"],
    *["n", "n_blocks", "higher_is_better", "note"],
]
NUMBERS = ["value_a", "value_b", "difference", "low", "high", "p", "p_adjusted"]
# What a score rests on; two models always differ in the first two.
ORIGIN = ["revision", "recipe", "task_version", "task_sha256", "manifest_sha256", "trials_sha256"]
ORIGIN += ["seed", "condition_seed", "n_train", "device"]
Row = Mapping[Hashable, Any]
SHORT = 12  # digits of a hash that are shown
HEAD = """B - A with its 95 % interval, in points (codelengths in bits). `p` decides; it is \
adjusted over all scores that are
listed (Holm): if nothing differs, at most 5 % of comparisons call any score better or worse. \
Intervals are not adjusted.
"""
RIGHT = {"A", "B", "B - A", "p", "n", "blocks", "scores"}


@dataclass(frozen=True)
class Comparison:
    """Two sides, score by score.

    Attributes:
        a, b: what they are called.
        rows: one a score, columns `COLUMNS`; changes stand first, the largest at the top.
        changes: what the paired scores rest on and is not the same: ``what``, ``a``, ``b`` and how
            many ``scores`` it is of.
        n_moved: for how many scores dev chose another layer, where both sides have several.
    """

    a: str
    b: str
    rows: pd.DataFrame
    changes: list[dict[str, Any]]
    n_moved: int = 0

    def counted(self) -> dict[str, int]:
        """Verdict -> scores."""
        tally = Counter(self.rows["verdict"])
        return {verdict: tally[verdict] for verdict in VERDICTS}

    def summary(self) -> str:
        """How many scores changed, in one line."""
        tally = self.counted()
        paired = (BETTER, WORSE, UNCLEAR, IDENTICAL)
        n_paired = sum(tally[verdict] for verdict in (*paired, UNTESTED))
        text = ", ".join(f"{tally[verdict]} {verdict}" for verdict in paired)
        others = (UNTESTED, UNPAIRED, ONLY_A, ONLY_B)
        clauses = [f"{tally[verdict]} {verdict}" for verdict in others if tally[verdict]]
        clauses += [f"dev chose another layer for {self.n_moved}"] if self.n_moved else []
        return f"{n_paired} scores compared: {'; '.join([text, *clauses])}."


def compare_runs(a: str, before: Scores, b: str, after: Scores, layers: bool) -> Comparison:
    """Two sets of scores, model by model.

    Args:
        a, b: what they are called.
        layers: every layer with the layer of its name, instead of those that dev chose.

    Raises:
        ProbeError: no score is in both.
    """
    return _compared(a, before, b, after, layers, ORIGIN)


def compare_models(scores: Scores, a: str, b: str, layers: bool) -> Comparison:
    """Two models of one set of scores; arguments as of `compare_runs`.

    Raises:
        ProbeError: a model without records, or no score is in both.
    """
    records = scores.unchecked
    models = sorted(set(records["model"]))
    if missing := [name for name in (a, b) if name not in models]:
        raise ProbeError(
            f"no records of {listed(missing)}; there are records of: {listed(models, 20)}."
        )
    before, after = (
        Scores(records[records["model"] == name].assign(model=_between(a, b))) for name in (a, b)
    )
    return _compared(a, before, b, after, layers, ORIGIN[2:])


def _between(a: str, b: str) -> str:
    """The name in the column of models where two are compared."""
    return f"{a} → {b}"


def _compared(
    a: str, before: Scores, b: str, after: Scores, layers: bool, origin: list[str]
) -> Comparison:
    sides = [_score_at(scores, layers) for scores in (before, after)]
    if not set(sides[0]) & set(sides[1]):
        raise ProbeError(_nothing_shared(a, sides[0], b, sides[1]))
    rows: list[dict[str, Any]] = []
    changes: Counter[tuple[str, str, str]] = Counter()
    n_moved = 0
    for place in sorted({**sides[0], **sides[1]}):
        one, other = (side.get(place) for side in sides)
        rows.append(dict(zip(PLACE, place, strict=False)) | _row(one, other))
        if one and other:
            changes.update(_changes(one, other, origin))
            had_choice = one["has_choice"] and other["has_choice"]
            n_moved += bool(had_choice and one["layer"] != other["layer"])
    table = pd.DataFrame(judged(rows), columns=COLUMNS).astype(dict.fromkeys(NUMBERS, float))
    order = table.assign(
        verdict=table["verdict"].map(VERDICTS.index), difference=-table["difference"].abs()
    )
    order = order.sort_values(["verdict", "difference"], kind="stable")
    listed_changes = [
        {"what": what, "a": old, "b": new, "scores": n}
        for (what, old, new), n in sorted(changes.items())
    ]
    rows_in_order = table.loc[order.index].reset_index(drop=True)
    return Comparison(a, b, rows_in_order, listed_changes, n_moved)


def _nothing_shared(
    a: str, before: Mapping[tuple[str, ...], Row], b: str, after: Mapping[tuple[str, ...], Row]
) -> str:
    """The error of two sides without a common score; it names the fields that share no value."""
    apart = []
    for name, in_a, in_b in zip(PLACE, *(_values(side) for side in (before, after)), strict=False):
        if not in_a & in_b:
            texts = [listed(sorted(filter(None, values))) or "none" for values in (in_a, in_b)]
            apart.append(f"{name} {texts[0]} in A, {texts[1]} in B")
    differing = "; ".join(apart) or f"no score agrees in all of {listed(PLACE, len(PLACE))}"
    return f"{a} and {b} have no score in common, so nothing is compared: {differing}."


def _values(places: Mapping[tuple[str, ...], Row]) -> list[set[str]]:
    """The values of each field of the places."""
    return [set(values) for values in zip(*places, strict=True)] or [set() for _ in PLACE]


def _score_at(scores: Scores, layers: bool) -> dict[tuple[str, ...], Row]:
    """Place -> score that is compared; ``value`` is None where no layer was chosen, and
    ``has_choice`` says whether one was chosen among several.
    """
    rows = scores.tested[scores.tested["control"] == ""]
    single = rows["layer"].mask(rows["layer"].isin(COMBINED))
    n_layers = single.groupby([rows[name] for name in PLACE]).transform("nunique")
    rows = rows.assign(has_choice=(n_layers > 1) & rows["chosen_layer"].notna())
    names = [*PLACE, "layer"] if layers else PLACE
    if not layers:
        unchosen = rows["chosen_layer"].isna()
        rows = rows.assign(value=rows["value"].mask(unchosen))
        first = unchosen & ~rows.duplicated(PLACE)
        rows = rows[(rows["layer"] == rows["chosen_layer"]) | first]
    return {tuple(str(row[name]) for name in names): row for row in rows.to_dict("records")}


def _row(a: Row | None, b: Row | None) -> dict[str, Any]:
    """One score on both sides."""
    about = b or a or {}
    row = {name: about[name] for name in ("n", "n_blocks", "higher_is_better")}
    for side, score in (("a", a), ("b", b)):
        if score:
            row |= {f"layer_{side}": score["layer"], f"value_{side}": score["value"]}
    if not a or not b:
        return row | {"verdict": ONLY_A if a else ONLY_B, "note": about["note"]}
    if any(pd.isna(row[name]) for name in ("value_a", "value_b")):
        return row | {"verdict": UNPAIRED, "note": a["note"] or b["note"] or "no value"}
    try:
        gain = difference(a, b)
    except ProbeError as error:
        return row | {"verdict": UNPAIRED, "note": str(error).partition(":")[0]}
    row |= {"difference": gain.difference, "low": gain.low, "high": gain.high}
    shared = max((int(n) for n in (a["shared_speakers"], b["shared_speakers"]) if n > 0), default=0)
    notes = [f"{shared} of its speakers are in training too"] if shared else []
    if _same(a["counts"], b["counts"]):
        row["verdict"] = IDENTICAL
    elif gain.p is None:
        row["verdict"] = UNTESTED
        notes = [_why_untested(str(b["metric"]), gain.n_blocks), *notes]
    else:
        row["p"] = gain.p
    return row | {"note": "; ".join(notes)}


def _why_untested(metric: str, n_blocks: int) -> str:
    if metric_of(metric).interval_scale == "none":
        return "no interval of this metric"
    return f"too few blocks ({n_blocks})" if n_blocks < FEWEST_BLOCKS else "no standard error"


def difference(a: Row, b: Row) -> Paired:
    """B - A of two records, paired by block.

    Raises:
        ProbeError: they are not of the same utterances.
    """
    return paired_difference(b["counts"], a["counts"], str(a["metric"]))


def judged(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, with ``p_adjusted`` and a verdict where they have a ``p``.

    Where nothing differs in truth any row is `BETTER` or `WORSE` with a probability of `LEVEL` at
    most, however many rows there are and whatever they have in common (Holm 1979).

    Args:
        rows: with ``difference`` and ``higher_is_better`` where they have ``p``.
    """
    adjusted = iter(holm([row["p"] for row in rows if "p" in row]))
    return [row | _verdict(row, next(adjusted)) if "p" in row else row for row in rows]


def _verdict(row: Mapping[str, Any], p: float) -> dict[str, Any]:
    side = BETTER if (row["difference"] > 0) == bool(row["higher_is_better"]) else WORSE
    return {"p_adjusted": p, "verdict": side if p <= LEVEL else UNCLEAR}


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two scores of the same utterances are of the same outcomes."""
    pairs = zip(per_seed(a), per_seed(b), strict=False)
    return all(np.array_equal(one[name], other[name]) for one, other in pairs for name in one)


def _changes(a: Row, b: Row, origin: list[str]) -> Iterator[tuple[str, str, str]]:
    """The differences in what two scores rest on: what, in A, in B."""
    one, other = (
        {name: row[name] for name in origin}
        | {f"code {name}": value for name, value in row["code"].items()}
        | {f"package {name}": value for name, value in row["packages"].items()}
        for row in (a, b)
    )
    for name in sorted({**one, **other}):
        old, new = _text(one.get(name)), _text(other.get(name))
        if old != new:
            yield name, old, new


def _text(value: object) -> str:
    """A value as text; pandas makes NaN of a missing whole number, and floats of the others."""
    if value is None or value == "" or (isinstance(value, float) and np.isnan(value)):
        return "none"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def to_markdown(comparison: Comparison) -> str:
    """A page: the summary, what changed in what scores rest on, the scores; those that are
    identical or on one side only are counted.
    """
    rows = comparison.rows[~comparison.rows["verdict"].isin(COUNTED)]
    parts = [
        f"# Comparison\n\nA: {escaped(comparison.a)}  \nB: {escaped(comparison.b)}\n",
        f"{comparison.summary()}\n",
        _changes_page(comparison.changes),
        f"## Scores\n\n{_head(rows)}\n{_table(comparison, rows)}" if len(rows) else "",
        *(_count_page(comparison.rows, verdict) for verdict in COUNTED),
    ]
    return "\n".join(filter(None, parts))


def _head(rows: pd.DataFrame) -> str:
    """What the numbers of the table are."""
    known = [metric_of(metric) for metric in rows["metric"].unique()]
    units = "codelengths in bits"
    if any(one.is_cost for one in known):
        units += ", minDCF and Cllr as they are"
    if any(one.of_numbers for one in known):
        units += ", ccc, correlations and r2 as they are, mae in the label's unit"
    return HEAD.replace("codelengths in bits", units)


def _changes_page(changes: list[dict[str, Any]]) -> str:
    if not changes:
        return "Recipes, tasks, code, packages and seeds are the same.\n"
    heads = {"what": "what", "in A": "a", "in B": "b", "scores": "scores"}
    columns = {
        head: [escaped(_short(str(change[name]))) for change in changes]
        for head, name in heads.items()
    }
    return f"## What the scores rest on\n\n{markdown(columns, RIGHT)}"


def _short(text: str) -> str:
    is_hash = len(text) in (40, 64) and set(text) <= set("0123456789abcdef")
    return text[:SHORT] if is_hash else text


def _table(comparison: Comparison, rows: pd.DataFrame) -> str:
    cells = rows.to_dict("records")
    metrics = [metric_of(row["metric"]) for row in cells]
    columns = {"verdict": list(rows["verdict"])}
    columns |= {name.replace("_", " "): list(map(escaped, rows[name])) for name in PLACE}
    columns |= {
        "metric": [f"{escaped(row['metric'])} {arrow(row['higher_is_better'])}" for row in cells],
        "layer": [_layers(str(row["layer_a"]), str(row["layer_b"])) for row in cells],
        "A": [metric.text(row["value_a"]) for metric, row in zip(metrics, cells, strict=True)],
        "B": [metric.text(row["value_b"]) for metric, row in zip(metrics, cells, strict=True)],
        "B - A": [_difference(row) for row in cells],
        "p": [_p(row["p_adjusted"]) for row in cells],
        "n": [str(row["n"]) for row in cells],
        "blocks": [str(row["n_blocks"]) for row in cells],
        "note": list(map(escaped, rows["note"])),
    }
    model = escaped(_between(comparison.a, comparison.b))
    left_out = LEFT_OUT_IF_ALL | {"budget": "", "model": model}
    columns = {name: texts for name, texts in columns.items() if set(texts) != {left_out.get(name)}}
    return markdown(columns, RIGHT)


def _layers(a: str, b: str) -> str:
    return escaped(b) if a == b else f"{escaped(a)} → {escaped(b)}"


def _difference(row: Row) -> str:
    text = metric_of(row["metric"]).difference_text
    if np.isnan(row["low"]):
        return text(row["difference"])
    return f"{text(row['difference'])} [{text(row['low'])}, {text(row['high'])}]"


def _p(value: float) -> str:
    if np.isnan(value):
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _count_page(rows: pd.DataFrame, verdict: str) -> str:
    """How many scores have this verdict, a line for each model, task, corpus and condition."""
    names = rows[rows["verdict"] == verdict][["model", "task", "corpus", "condition"]]
    counts = Counter(names.itertuples(index=False, name=None))
    lines = [f"* {', '.join(map(escaped, place))}: {n}\n" for place, n in counts.items()]
    return f"## {verdict[0].upper()}{verdict[1:]}\n\n{''.join(lines)}" if lines else ""


def to_json(comparison: Comparison) -> str:
    """Everything, for programs: fractions, null where there is no value."""
    rows = comparison.rows.astype(object).where(comparison.rows.notna(), None)
    return json_text(
        {
            "a": comparison.a,
            "b": comparison.b,
            "summary": comparison.counted(),
            "changes": comparison.changes,
            "rows": rows.to_dict("records"),
        }
    )
