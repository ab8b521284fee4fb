"""Two runs, or two models, score by score: what changed, by how much, and what may have changed it.

Aim: after new code, libraries, data or another model, which scores moved further than other
speakers would move them.

Conventions: A is before, B is after. Scores are paired that agree in `PLACE`: test scores, and
online codes, of the task itself (no controls), each at the layer that dev chose on its own side, or
layer by layer. A difference is B - A; its interval and the probability of improvement are taken
over the same resampled blocks (`probe.measures.comparison.paired_difference`), so both sides must
be of the same utterances. Values are fractions, bits for codelengths. Intervals are each its own,
at 95 %; verdicts hold together: p-values are adjusted by Holm's procedure over all differences of a
comparison.
"""

import json
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from probe.errors import ProbeError, listed
from probe.measures.comparison import LEVEL, Paired, holm, paired_difference
from probe.records import CHOICE, chosen_layers
from probe.reporting.filters import comparable
from probe.reporting.tables.cells import (
    DASH,
    arrow,
    escaped,
    escaped_all,
    markdown,
    percent,
    points,
)
from probe.reporting.tables.files import LEFT_OUT_IF_ALL, to_csv
from probe.reporting.ties import BITS

PLACE = [
    *["task", "corpus", "condition", "train_condition", "train_domain", "test_domain"],
    *["budget", "metric", "model", "head"],
]
WORSE, BETTER, UNCLEAR, IDENTICAL = "worse", "better", "not told apart", "identical"
UNPAIRED, ONLY_A, ONLY_B = "not paired", "only in A", "only in B"
# What is said of B, what changed before what did not.
VERDICTS = (WORSE, BETTER, UNPAIRED, UNCLEAR, IDENTICAL, ONLY_A, ONLY_B)
COUNTED = (IDENTICAL, ONLY_A, ONLY_B)  # on a page they are counted, not listed
COLUMNS = [
    *[
        "verdict",
        *PLACE,
        "layer_a",
        "layer_b",
        "value_a",
        "value_b",
        "difference",
        "low",
        "high",
        "p",
        "p_adjusted",
    ],
    *["probability", "n", "n_blocks", "higher_is_better", "note"],
]
# What a score rests on; of two models the first two differ by themselves.
ORIGIN = ["revision", "recipe", "task_version", "task_sha256", "manifest_sha256", "trials_sha256"]
ORIGIN += ["seed", "condition_seed", "n_train", "device"]
Row = Mapping[Hashable, Any]
SHORT = 12  # digits of a hash that are shown


@dataclass(frozen=True)
class Comparison:
    """Two sides, score by score.

    Attributes:
        a, b: what they are called.
        rows: one a score, columns `COLUMNS`; what changed stands first, largest differences before
            others.
        changes: what the paired scores rest on and is not the same: ``what``, ``a``, ``b`` and how
            many ``scores`` it is of.
    """

    a: str
    b: str
    rows: pd.DataFrame
    changes: list[dict[str, Any]]

    def counted(self) -> dict[str, int]:
        """Verdict -> scores."""
        tally = Counter(self.rows["verdict"])
        return {verdict: tally[verdict] for verdict in VERDICTS}

    def summary(self) -> str:
        """How many scores changed, in one line."""
        tally = self.counted()
        n_paired = sum(tally[verdict] for verdict in (WORSE, BETTER, UNCLEAR, IDENTICAL))
        moved = int(
            (self.rows["layer_a"].notna() & self.rows["layer_b"].notna() & _moved(self.rows)).sum()
        )
        said = [f"{tally[verdict]} {verdict}" for verdict in (BETTER, WORSE, UNCLEAR, IDENTICAL)]
        rest = [
            f"{tally[verdict]} {verdict}"
            for verdict in (UNPAIRED, ONLY_A, ONLY_B)
            if tally[verdict]
        ]
        rest += [f"dev chose another layer for {moved}"] if moved else []
        return (
            f"{n_paired} scores compared: {', '.join(said)}{''.join(f'; {text}' for text in rest)}."
        )


def compare_runs(
    a: str, before: pd.DataFrame, b: str, after: pd.DataFrame, layers: bool, all_heads: bool
) -> Comparison:
    """Two sets of records (see `probe.records.read_records`), model by model.

    Args:
        a, b: what they are called.
        layers: every layer with the layer of its name, instead of those that dev chose.
        all_heads: every head and backend instead of the headline ones.

    Raises:
        ProbeError: see `probe.reporting.comparable_files.comparable`.
    """
    return _compared(a, before, b, after, layers, all_heads, ORIGIN)


def compare_models(
    records: pd.DataFrame, a: str, b: str, layers: bool, all_heads: bool
) -> Comparison:
    """Two models of one set of records; arguments and errors as of `compare_runs`.

    Raises:
        ProbeError: a model that is not there.
    """
    there = sorted(set(records["model"]))
    if missing := [name for name in (a, b) if name not in there]:
        raise ProbeError(f"no records of {listed(missing)}; there are some of {listed(there, 20)}.")
    before, after = (
        records[records["model"] == name].assign(model=between(a, b)) for name in (a, b)
    )
    return _compared(a, before, b, after, layers, all_heads, ORIGIN[2:])


def between(a: str, b: str) -> str:
    """What stands in the place of a model's name where two are compared."""
    return f"{a} → {b}"


def _compared(
    a: str,
    before: pd.DataFrame,
    b: str,
    after: pd.DataFrame,
    layers: bool,
    all_heads: bool,
    origin: list[str],
) -> Comparison:
    sides = [_scores(records, layers, all_heads) for records in (before, after)]
    rows: list[dict[str, Any]] = []
    changes: Counter[tuple[str, str, str]] = Counter()
    for place in sorted({**sides[0], **sides[1]}):
        one, other = (side.get(place) for side in sides)
        rows.append(dict(zip(PLACE, place, strict=False)) | _row(one, other))
        if one and other:
            changes.update(_changes(one, other, origin))
    table = pd.DataFrame(judged(rows), columns=COLUMNS)
    order = table.assign(
        verdict=table["verdict"].map(VERDICTS.index), difference=-table["difference"].abs()
    )
    table = table.loc[
        order.sort_values(["verdict", "difference"], kind="stable").index
    ].reset_index(drop=True)
    told = [
        {"what": what, "a": old, "b": new, "scores": n}
        for (what, old, new), n in sorted(changes.items())
    ]
    return Comparison(a, b, table, told)


def _scores(records: pd.DataFrame, layers: bool, all_heads: bool) -> dict[tuple[str, ...], Row]:
    """Place -> record of what is compared; ``value`` is None where no layer was chosen."""
    records = comparable(records)
    shown = records[
        ((records["split"] == "test") | (records["metric"] == BITS)) & (records["control"] == "")
    ]
    shown = shown[shown["headline"] | all_heads].merge(
        chosen_layers(records), on=CHOICE, how="left"
    )
    names = [*PLACE, "layer"] if layers else PLACE
    if not layers:
        without = shown["chosen_layer"].isna()
        shown = shown.assign(value=shown["value"].astype(object).where(~without, None))
        shown = shown[
            (shown["layer"] == shown["chosen_layer"]) | (without & ~shown.duplicated(PLACE))
        ]
    if len(twice := shown[shown.duplicated(names)]):
        place = ", ".join(filter(None, _place(twice.iloc[0].to_dict(), names)))
        raise ProbeError(
            f"{place}: stands twice, of seeds {sorted(set(shown['seed']))}. Compare one seed with one seed."
        )
    return {_place(row, names): row for row in shown.to_dict("records")}


def _place(row: Row, names: list[str]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in names)


def _row(a: Row | None, b: Row | None) -> dict[str, Any]:
    """One score on both sides."""
    about = b or a or {}
    row = {name: about[name] for name in ("n", "n_blocks", "higher_is_better")}
    row |= {f"layer_{side}": of["layer"] for side, of in (("a", a), ("b", b)) if of}
    row |= {f"value_{side}": _number(of["value"]) for side, of in (("a", a), ("b", b)) if of}
    if not a or not b:
        return row | {"verdict": ONLY_A if a else ONLY_B, "note": about["note"]}
    if any(np.isnan(row[name]) for name in ("value_a", "value_b")):
        return row | {"verdict": UNPAIRED, "note": a["note"] or b["note"] or "no value"}
    try:
        found = difference(a, b)
    except ProbeError as error:
        return row | {"verdict": UNPAIRED, "note": str(error).partition(":")[0]}
    row |= {"difference": found.difference, "low": _number(found.low), "high": _number(found.high)}
    if found.probability is not None:
        row["probability"] = found.probability if b["higher_is_better"] else 1 - found.probability
    shared = [int(of["shared_speakers"]) for of in (a, b) if not pd.isna(of["shared_speakers"])]
    note = f"{max(shared)} of its speakers are in training too" if any(shared) else ""
    if _same(a["counts"], b["counts"]):
        return row | {"verdict": IDENTICAL, "note": note}
    if found.p is None:
        return row | {
            "verdict": UNCLEAR,
            "note": "; ".join(filter(None, (f"too few blocks ({found.n_blocks})", note))),
        }
    return row | {"p": found.p, "note": note}


def difference(a: Row, b: Row) -> Paired:
    """B - A of two records, over the same resampled blocks.

    Raises:
        ProbeError: they are not of the same utterances.
    """
    return paired_difference(b["counts"], a["counts"], seed=int(a["seed"]), metric=str(a["metric"]))


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


def _same(a: Row, b: Row) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a)


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


def _changes(a: Row, b: Row, origin: list[str]) -> Iterator[tuple[str, str, str]]:
    """What two scores rest on and is not the same: what, in A, in B."""
    both = [
        {name: of[name] for name in origin}
        | {f"code {name}": value for name, value in of["code"].items()}
        | {f"package {name}": value for name, value in of["packages"].items()}
        for of in (a, b)
    ]
    for name in sorted({**both[0], **both[1]}):
        old, new = (_said(side.get(name)) for side in both)
        if old != new:
            yield name, old, new


def _said(value: object) -> str:
    """A value as text; what pandas has made of a missing whole number is none, and of the others a
    float.
    """
    if value is None or (isinstance(value, float) and np.isnan(value)) or value == "":
        return "none"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _moved(rows: pd.DataFrame) -> "pd.Series[bool]":
    return rows["layer_a"] != rows["layer_b"]


def to_markdown(found: Comparison) -> str:
    """A page: the summary, what changed in what scores rest on, the scores; those that are
    identical or alone are counted.
    """
    rows = found.rows[~found.rows["verdict"].isin(COUNTED)]
    parts = [
        f"# Comparison\n\nA: {escaped(found.a)}  \nB: {escaped(found.b)}\n",
        f"{found.summary()}\n",
        _changed(found.changes),
        f"## Scores\n\n{HEAD}\n{_table(found, rows)}" if len(rows) else "",
        *(_places(found.rows, verdict) for verdict in COUNTED),
    ]
    return "\n".join(filter(None, parts))


HEAD = """B - A with its 95 % interval, in points (codelengths in bits). `p` decides, adjusted for all that are listed (Holm): where
nothing differs in truth, any is called better or worse in at most 5 % of comparisons. Intervals are not adjusted. `improved` is the
share of resamples in which B is better.
"""
RIGHT = {"A", "B", "B - A", "p", "improved", "n", "blocks", "scores"}


def _changed(changes: list[dict[str, Any]]) -> str:
    if not changes:
        return "Recipes, tasks, code, packages and seeds are the same.\n"
    columns = {
        name: escaped_all(_short(str(item[key])) for item in changes)
        for name, key in _CHANGED.items()
    }
    return f"## What the scores rest on\n\n{markdown(columns, RIGHT)}"


_CHANGED = {"what": "what", "in A": "a", "in B": "b", "scores": "scores"}


def _short(text: str) -> str:
    return text[:SHORT] if len(text) in (40, 64) and set(text) <= set("0123456789abcdef") else text


def _table(found: Comparison, rows: pd.DataFrame) -> str:
    cells: list[dict[Hashable, Any]] = rows.to_dict("records")
    columns = {name.replace("_", " "): escaped_all(rows[name]) for name in PLACE}
    columns |= {
        "metric": [
            f"{escaped(cell['metric'])} {arrow(cell['higher_is_better'])}" for cell in cells
        ],
        "layer": [_layers(cell["layer_a"], cell["layer_b"]) for cell in cells],
        "A": [_value(cell["metric"], cell["value_a"]) for cell in cells],
        "B": [_value(cell["metric"], cell["value_b"]) for cell in cells],
        "B - A": [_difference(cell) for cell in cells],
        "p": [_p(cell["p_adjusted"]) for cell in cells],
        "improved": [percent(cell["probability"]) for cell in cells],
        "n": [str(cell["n"]) for cell in cells],
        "blocks": [str(cell["n_blocks"]) for cell in cells],
        "note": escaped_all(rows["note"]),
    }
    columns = {"verdict": list(rows["verdict"])} | columns
    left_out = LEFT_OUT_IF_ALL | {"budget": "", "model": escaped(between(found.a, found.b))}
    shown = {
        name: column for name, column in columns.items() if set(column) != {left_out.get(name)}
    }
    return markdown(shown, RIGHT)


def _layers(a: object, b: object) -> str:
    return escaped(str(b)) if a == b else f"{escaped(str(a))} → {escaped(str(b))}"


def _value(metric: str, value: float) -> str:
    return f"{value:.2f}" if metric == BITS and not np.isnan(value) else percent(value)


def _difference(cell: Row) -> str:
    if np.isnan(cell["difference"]):
        return DASH
    told = [
        f"{cell[name]:+.2f}" if cell["metric"] == BITS else points(cell[name])
        for name in ("difference", "low", "high")
    ]
    return told[0] if np.isnan(cell["low"]) else f"{told[0]} [{told[1]}, {told[2]}]"


def _p(value: float) -> str:
    return DASH if np.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _places(rows: pd.DataFrame, verdict: str) -> str:
    """How many scores have this verdict, a line for each model, task, corpus and condition."""
    names = rows[rows["verdict"] == verdict][["model", "task", "corpus", "condition"]]
    lines = [
        f"* {', '.join(escaped_all(place))}: {n}\n"
        for place, n in Counter(names.itertuples(index=False, name=None)).items()
    ]
    return f"## {verdict[0].upper()}{verdict[1:]}\n\n{''.join(lines)}" if lines else ""


def to_json(found: Comparison) -> str:
    """Everything, for programs: fractions, null where there is no value."""
    rows = found.rows.astype(object).where(found.rows.notna(), None).to_dict("records")
    sides = {
        "a": found.a,
        "b": found.b,
        "summary": found.counted(),
        "changes": found.changes,
        "rows": rows,
    }
    return json.dumps(sides, indent=2, allow_nan=False) + "\n"


__all__ = [
    "Comparison",
    "compare_models",
    "compare_runs",
    "difference",
    "to_csv",
    "to_json",
    "to_markdown",
]
