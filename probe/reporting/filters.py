"""Which records, and which rows of a table, are shown: ``FIELD=VALUE`` terms, and names of fields.

A term on what a question is (model, task, condition, seed ...) leaves records out before a layer is
chosen and models are compared. A term on a score (metric, layer, budget, value ...) leaves rows of
the table out, and changes no other row.
"""

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import get_origin

import pandas as pd

from probe.errors import UsageError, listed
from probe.records import Record

# Fields of a record that hold one value.
FIELDS = [item.name for item in fields(Record) if get_origin(item.type) not in (dict, list)]
OF_SCORES = {
    *[
        "layer",
        "layer_index",
        "depth",
        "final_layer",
        "test_domain",
        "control",
        "budget",
        "n_train",
        "split",
        "metric",
    ],
    *[
        "value",
        "low",
        "high",
        "n",
        "n_blocks",
        "higher_is_better",
        "select_by",
        "headline",
        "note",
        "seconds",
    ],
}
OF_QUESTIONS = [name for name in FIELDS if name not in OF_SCORES]


@dataclass(frozen=True)
class Term:
    """What a field must, or must not, be.

    Attributes:
        field: name of a field or column.
        patterns: texts in which ``*``, ``?`` and ``[...]`` stand for others; one of them is enough.
        negated: none of them may fit.
    """

    field: str
    patterns: tuple[str, ...]
    negated: bool

    def __str__(self) -> str:
        return f"{self.field}{'!=' if self.negated else '='}{','.join(self.patterns)}"


def early(term: Term) -> bool:
    """Whether a term is on what a question is, and leaves records out, not rows."""
    return term.field in OF_QUESTIONS


def parse_term(text: str) -> Term:
    """The term in ``FIELD=VALUE[,VALUE]`` or ``FIELD!=VALUE[,VALUE]``.

    Raises:
        UsageError: it is none.
    """
    found = re.fullmatch(r"(\w+)(!?)=(.*)", text, flags=re.DOTALL)
    if not found:
        raise UsageError(
            f"--filter {text!r}: expected FIELD=VALUE[,VALUE] or FIELD!=VALUE, such as model=facebook/*,fbank."
        )
    return Term(found[1], tuple(found[3].split(",")), bool(found[2]))


def kept(frame: pd.DataFrame, terms: Iterable[Term]) -> pd.DataFrame:
    """The rows that all terms fit.

    Raises:
        UsageError: a field that is none of the columns, or nothing is left.
    """
    for term in terms:
        check_fields([term.field], list(frame.columns), "--filter")
        texts = frame[term.field].map(text_of)
        fitting = {
            text
            for text in texts.unique()
            if any(fnmatchcase(text, pattern) for pattern in term.patterns)
        }
        shown = frame[texts.isin(fitting) != term.negated]
        if shown.empty:
            there = sorted(texts.unique())
            close = difflib.get_close_matches(term.patterns[0], there, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise UsageError(
                f"--filter {term}: nothing is left. {term.field} is one of: {listed(there, 20)}.{hint}"
            )
        frame = shown
    return frame


def check_fields(names: Sequence[str], known: Sequence[str], option: str) -> None:
    """Refuses names that are not known.

    Raises:
        UsageError: names the nearest one, and all.
    """
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise UsageError(f"{option}: no field {name!r}.{hint} Fields: {', '.join(known)}.")


def ordered(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Rows sorted by a field, numbers as numbers, layers from below; ``-FIELD`` turns the order
    round. Missing values come last.

    Raises:
        UsageError: no such field.
    """
    if not by:
        return rows
    name = by.removeprefix("-")
    check_fields([name], list(rows.columns), "--sort")
    name = "layer_index" if name == "layer" and "layer_index" in rows else name
    numbers = pd.to_numeric(rows[name], errors="coerce")
    by_number = bool((numbers.notna() | rows[name].isna()).all())
    key = numbers if by_number else rows[name].map(text_of)
    return rows.loc[key.sort_values(kind="stable", ascending=not by.startswith("-")).index]


def text_of(value: object) -> str:
    """A field's value as it is written in a term; empty where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool) or type(value).__name__ == "bool_":
        return str(bool(value)).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
