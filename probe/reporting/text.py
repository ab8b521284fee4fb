"""How names and numbers become text: safe in every format, and rounded in one way.

Names come from files. Whatever they hold, they must stay text: they must not break a table, command
a terminal or become a formula.
"""

import html
import json
import math
import re
from collections.abc import Hashable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from probe.data.conditions.grammar import CLEAN
from probe.measures.metrics import MISSING, metric_of
from probe.records import ONE_SESSION, RECORDING, SESSION, SPEAKER, UTTERANCE

DASH = MISSING
INTERVAL = "% [95 % interval]"
SCORE_INTERVAL = "score [95 % interval]"  # where not all scores are in percent
BITS = "bits per label"  # of codelengths, which have no interval
# `probe.records.Record.block_kind` -> the word for such blocks.
BLOCKS = {
    SPEAKER: "speakers",
    ONE_SESSION: "speakers",
    SESSION: "sessions",
    RECORDING: "recordings",
    UTTERANCE: "utterances",
}
# Besides what always means something in Markdown: the end of a link's text, an entity, and _ that
# no letters or digits enclose.
LIVE = re.compile(r"[\\|<`*~]|\](?=[(\[:])|&(?=#?\w+;)|(?<!\w)_+|_+(?!\w)")
# What a spreadsheet takes for a formula, with the wide forms that it takes in Asian settings.
FORMULA = re.compile("[=+\\-@＝＋－＠]")


def percent(fraction: float) -> str:
    """A fraction in percent with one decimal; never -0.0."""
    return DASH if math.isnan(fraction) else f"{round(100 * fraction, 1) + 0.0:.1f}"


def points(difference: float) -> str:
    """A difference of fractions in points, with its sign."""
    return f"{round(100 * difference, 1) + 0.0:+.1f}"


def arrow(higher_is_better: bool) -> str:
    """An arrow in the direction that is better."""
    return "↑" if higher_is_better else "↓"


def interval_head(metrics: Iterable[str]) -> str:
    """The head of a column of scores with their intervals."""
    known = [metric_of(metric) for metric in metrics]
    if all(one.in_percent for one in known):
        return INTERVAL
    return BITS if all(one.in_bits for one in known) else SCORE_INTERVAL


def blocks_text(kind: str) -> str:
    """The word for blocks of a kind; older records and codelengths do not name it."""
    return BLOCKS.get(kind, "blocks (such as speakers)")


def units_text(metrics: Iterable[str]) -> str:
    """The units of scores in words, where not all are in percent."""
    known = [metric_of(metric) for metric in metrics]
    units = []
    if any(one.in_bits for one in known):
        units.append("codelengths are in bits per label")
    if any(one.is_cost for one in known):
        units.append("minDCF and Cllr (in bits) are printed as they are")
    if any(one.of_numbers for one in known):
        units.append("ccc, correlations and r2 are printed as they are")
        units.append("mean absolute errors are in the unit of the label")
    if any(one.in_percent for one in known):
        units.append(f"{'all else' if units else 'scores'} in percent")
    return ", ".join(units)


def metric_text(row: Mapping[Hashable, Any]) -> str:
    """The metric of a row with its arrow."""
    return f"{row['metric']} {arrow(row['higher_is_better'])}"


def layer_text(layer: Any) -> str:
    """A layer in parentheses; empty where there is none."""
    return "" if layer is None or layer != layer else f"({layer})"


def trained_on(condition: str) -> str:
    """The condition of training in words; clean audio goes without saying."""
    return "" if condition in ("", CLEAN) else f"trained on {condition}"


def one_line(text: str) -> str:
    """``text`` without line breaks and control characters: a name from a file must not rearrange a
    table or a terminal.
    """
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


@lru_cache(maxsize=1 << 16)
def escaped(text: str) -> str:
    r"""``text`` as one Markdown cell: on one line, with a backslash before ``|`` and every other
    character that Markdown would interpret.
    """
    return LIVE.sub(lambda match: "".join(f"\\{char}" for char in match[0]), one_line(text))


@lru_cache(maxsize=1 << 16)
def html_text(text: str) -> str:
    """``text`` on one line, as text in HTML."""
    return html.escape(one_line(text))


@lru_cache(maxsize=1 << 16)
def csv_text(text: str, excel_safe: bool = False) -> str:
    """``text`` on one line without control characters, as a field of a CSV.

    Args:
        excel_safe: puts an apostrophe before what a spreadsheet would take for a formula.
    """
    line = one_line(text)
    return f"'{line}" if excel_safe and FORMULA.match(line) else line


def json_text(value: object) -> str:
    """``value`` as JSON; characters that would command a terminal or turn the direction of text
    are escaped.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return "".join(char if char.isprintable() or char == "\n" else _escape(char) for char in text)


def _escape(char: str) -> str:
    return re.sub("....", r"\\u\g<0>", char.encode("utf-16-be", "surrogatepass").hex())
