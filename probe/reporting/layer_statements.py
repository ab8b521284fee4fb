"""Published statements on layers, checked against our own curves.

`results/published/layer_statements.toml` holds the statements, each a row of data with one of the
shapes below. A curve has a score for each layer, of a task (records) or of `probe similarity`
(CCA). With g the score, or 1 - g of an error, and depths from 0 to 1:

    peak     the best layer lies from ``from`` to ``to``
    drop     the last layer has less than ``share`` of the best one
    plateau  every layer from ``from`` to ``to`` has ``share`` of the best one or more
    dip      a layer between the first and the last block is below both
    rise     the last layer is above the first
    order    models from the best to the worst, with their learned sums of layers, else their chosen
             layers

A score is above (below) a level where its whole 95 % interval is; the level is a share of another
layer's score. For layers of one model, which are scored on the same rows and correlated, the
interval of one score is at least as wide as that of the difference where the correlation is 0.5
or more. A statement ``holds`` where all comparisons are as it says, ``fails`` where one is surely
not, and else there is ``not enough data``; so it is where layers or intervals are missing.
"""

import itertools
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field

from probe.data.conditions.grammar import CLEAN
from probe.model_names import unrevised
from probe.records import OWN_HEAD, WEIGHTED
from probe.reporting.tables.published import published_folder
from probe.schema import Schema, checked

FILE = "layer_statements.toml"
HOLDS, FAILS, UNDECIDED = "holds", "fails", "not enough data"
LEAST_LAYERS = 6  # of a curve that has a shape
FIRST_DEPTH = 0.1  # a curve begins at the input or at one of the first blocks
COLUMNS = ["claim", "model", "of", "verdict", "why", "source"]
Share = Annotated[float, Field(ge=0, le=1)]


class Statement(Schema):
    """One statement; the data file explains the keys."""

    id: str
    claim: str
    models: list[str]
    shape: Literal["peak", "drop", "plateau", "dip", "rise", "order"]
    source: str
    tasks: list[str] = Field(default_factory=list)
    compared: list[str] = Field(default_factory=list)
    from_depth: Annotated[float, Field(ge=0, le=1, alias="from")] = 0.0
    to_depth: Annotated[float, Field(ge=0, le=1, alias="to")] = 1.0
    share: Share = 1.0
    ours: str = ""


class _File(Schema):
    statement: list[Statement]


@dataclass(frozen=True)
class Point:
    """A score with its interval, higher is better; NaN ends where there is none."""

    depth: float
    value: float
    low: float
    high: float

    def against(self, level: float) -> int:
        """1 where the interval is above the level, -1 below, else 0."""
        return int(self.low > level) - int(self.high < level)


@dataclass(frozen=True)
class Curve:
    """The scores of one model on one question.

    Attributes:
        of: what they are of, for print.
        layers: of the numbered layers, in order.
        whole: of the learned sum, or of the chosen layer; None where there is neither.
    """

    model: str
    spec: str
    of: str
    names: frozenset[str]
    layers: Sequence[Point]
    whole: Point | None = None


@cache
def statements() -> list[Statement]:
    """The statements of the data file.

    Raises:
        ProbeError: it has another form.
    """
    path = published_folder() / FILE
    return checked(_File, tomllib.loads(path.read_text(encoding="utf-8")), path).statement


def curves_of_records(layers: pd.DataFrame, specs: Mapping[str, str]) -> list[Curve]:
    """The curves of tasks on clean audio.

    Args:
        layers: see `probe.reporting.scores.Scores.layers`.
        specs: model -> the spec that it was opened with.
    """
    rows = layers[
        layers["metric"].eq(layers["select_by"])
        & layers["condition"].eq(CLEAN)
        & layers["train_condition"].eq(CLEAN)
        & layers["train_domain"].eq("")
        & layers["headline"].astype(bool)
        & layers["head"].ne(OWN_HEAD)
        & layers["value"].notna()
    ]
    curves = []
    for key, cells in rows.groupby(["model", "task", "corpus", "head"]):
        model, task, corpus, head = map(str, key)
        of = f"{task} ({corpus}, {head}, {cells['metric'].iloc[0]})"
        points = {row["layer"]: _point(row) for row in cells.to_dict("records")}
        chosen = cells.loc[cells["chosen"].astype(bool), "layer"].tolist()
        whole = next((points[name] for name in [WEIGHTED, *chosen] if name in points), None)
        numbered = [point for name, point in points.items() if name.isdecimal()]
        spec = unrevised(specs.get(model, model))
        curves.append(Curve(model, spec, of, frozenset([f"task {task}"]), _sorted(numbered), whole))
    return curves


def curves_of_similarity(frame: pd.DataFrame) -> list[Curve]:
    """The curves of CCA of every layer with one other thing.

    Args:
        frame: see `probe.reporting.tables.similarity_tables.read_similarity`.
    """
    rows = frame[
        frame["form"].isin(["models", "labels", "vectors"])
        & frame["condition"].eq(CLEAN)
        & frame["cca"].notna()
        & frame["layer"].str.isdecimal()
    ]
    curves = []
    by = ["model", "spec", "other_model", "corpus", "view", "split"]
    for key, cells in rows.groupby(by):
        model, spec, other, *where = map(str, key)
        if cells["other_layer"].nunique() == 1:
            points = [
                _point(row | {"higher_is_better": True}, "cca") for row in cells.to_dict("records")
            ]
            of, names = f"CCA with {other} ({', '.join(where)})", frozenset([f"cca {other}"])
            curves.append(Curve(model, unrevised(spec), of, names, _sorted(points)))
    return curves


def _point(row: Mapping[Any, Any], name: str = "") -> Point:
    value, low, high = (float(row[key]) for key in _ends(name))
    if not row["higher_is_better"]:
        value, low, high = 1 - value, 1 - high, 1 - low
    return Point(float(row["depth"]), value, low, high)


def _ends(name: str) -> tuple[str, str, str]:
    return (name, f"{name}_low", f"{name}_high") if name else ("value", "low", "high")


def _sorted(points: Iterable[Point]) -> list[Point]:
    return sorted(points, key=lambda point: point.depth)


def verdicts(curves: Sequence[Curve]) -> pd.DataFrame:
    """The verdict on each statement and curve that it is about; columns `COLUMNS`.

    A statement of models that were scored, but not on its question, is not shown.
    """
    rows = [row for statement in statements() for row in _rows(statement, curves)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _rows(statement: Statement, curves: Sequence[Curve]) -> Iterator[dict[str, str]]:
    names = {f"task {name}" for name in statement.tasks}
    names |= {f"cca {name}" for name in statement.compared}
    meant = [item for item in curves if item.spec in statement.models and names & item.names]
    about = {"claim": statement.claim, "source": statement.source}
    if statement.ours:
        about["source"] += f" (ours: {statement.ours})"
    if statement.shape != "order":
        for curve in meant:
            verdict, why = verdict_of(statement, curve.layers)
            yield about | {"model": curve.model, "of": curve.of, "verdict": verdict, "why": why}
        return
    for of in dict.fromkeys(item.of for item in meant):
        by_model = {item.spec: item for item in meant if item.of == of}
        ranked = [by_model[name] for name in statement.models if name in by_model]
        if len(ranked) > 1:
            verdict, why = _order([item.whole for item in ranked])
            models = " > ".join(item.model for item in ranked)
            yield about | {"model": models, "of": of, "verdict": verdict, "why": why}


def verdict_of(statement: Statement, points: Sequence[Point]) -> tuple[str, str]:
    """Whether the layers of a curve have the shape of a statement, and the reason in words."""
    if lack := _lack(points):
        return UNDECIDED, lack
    best, last = max(points, key=lambda point: point.value), points[-1]
    inside = [item for item in points if statement.from_depth <= item.depth <= statement.to_depth]
    if statement.shape in ("peak", "plateau") and not inside:
        return UNDECIDED, "no layer in this part"
    if statement.shape == "peak":
        outside = [item for item in points if item not in inside]
        if not outside:
            return UNDECIDED, "no layer elsewhere"
        rival = max(outside, key=lambda item: item.value)
        top = max(inside, key=lambda item: item.value)
        words = f"best in this part {_of(top)}, elsewhere {_of(rival)}"
        return _all([-rival.against(top.value)]), words
    if statement.shape == "plateau":
        level, lowest = statement.share * best.value, min(inside, key=lambda item: item.value)
        others = [item.against(level) for item in inside if item is not best]
        return _all(others), f"lowest {_of(lowest)}, {statement.share:g} of the best {level:.3f}"
    if statement.shape == "drop":
        level = statement.share * best.value
        words = f"last {_of(last)}, {statement.share:g} of the best {level:.3f}"
        return _all([-last.against(level)]), words
    first, *between = points[:-1]
    if statement.shape == "dip":
        first, *between = [item for item in points[:-1] if item.depth > 0]
        lowest = min(between, key=lambda item: item.value)
        words = f"first block {_of(first)}, lowest {_of(lowest)}, last {_of(last)}"
        return _all([end.against(lowest.value) for end in (first, last)]), words
    return _all([last.against(first.value)]), f"first {_of(first)}, last {_of(last)}"


def _lack(points: Sequence[Point]) -> str:
    """What a curve lacks; empty where it can have a shape."""
    if any(item.depth != item.depth for item in points):
        return "the number of blocks of the model is unknown"
    ends = [points[0].depth, points[-1].depth] if points else [1.0, 0.0]
    if len(points) < LEAST_LAYERS or ends[0] > FIRST_DEPTH or ends[1] < 1:
        return f"{len(points)} layers; expected {LEAST_LAYERS} or more, from the first to the last"
    if any(item.low != item.low or item.high != item.high for item in points):
        return "some layers have no interval"
    return ""


def _order(scores: Sequence[Point | None]) -> tuple[str, str]:
    known = [item for item in scores if item is not None and item.low == item.low]
    if len(known) < len(scores):
        return UNDECIDED, "some models have no score with an interval"
    pairs = itertools.pairwise(known)
    words = " > ".join(f"{item.value:.3f}" for item in known)
    return _all([better.against(worse.value) for better, worse in pairs]), words


def _all(signs: Sequence[int]) -> str:
    """What comparisons say together, each 1 as stated, -1 surely not, 0 undecided."""
    if -1 in signs:
        return FAILS
    return HOLDS if all(sign == 1 for sign in signs) else UNDECIDED


def _of(point: Point) -> str:
    return f"{point.value:.3f} at depth {point.depth:.2f}"
