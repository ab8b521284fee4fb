"""Files of records against what `docs/records.md` says of them.

Aim: a record that was written by hand, by another program, or damaged, is found before it stands in
a table. Each line is looked at alone (types, ranges, forms), recomputed (value and interval from
the counts), and held against the others: one question a file, dev and test from the same settings,
no score twice, one dev score for one training.

Conventions: a finding names file, line and field, what was found and what was expected. A record
whose types are wrong is looked at no further; a line that cannot be read is a finding too.
"""

import json
import math
import re
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import numpy as np

from probe.errors import ProbeError
from probe.files import canonical_json
from probe.measures.counts import is_trials, value_of
from probe.measures.detection import TRIAL_METRICS
from probe.measures.uncertainty import interval
from probe.records import (
    CHOICE,
    IDENTITY,
    PER_TRIAL,
    WEIGHTED,
    Record,
    files_of,
    iterate_records,
    lines_of,
    outcomes_fault,
    outcomes_path,
    readable,
    record_of,
    write_records,
)

LONGEST = 80  # of what is shown of a value
LARGEST = 2**53  # whole numbers above are not told apart by floats
TOLERANCE = (
    1e-9  # of values and intervals, which another version of numpy may add up in another order
)
ROUNDED = 1e-3  # shares of layers are written with six digits

KINDS = ("classify", "frames", "transcribe", "verify", "shift")
CONTROLS = ("", "majority", "shuffled", "types")
# Metric -> the most that it can be. Of these only the accuracy is better when higher.
HIGHEST = {
    "accuracy": 1.0,
    "wer": math.inf,
    "cer": math.inf,
    "per": math.inf,
    "codelength": math.inf,
} | dict.fromkeys(TRIAL_METRICS, 1.0)

ABOUT = ("model", "task", "corpus", "condition")
Told = Iterator[tuple[str, object, str]]  # field, what was found, what was expected


@dataclass(frozen=True)
class Finding:
    """What is wrong with one field of one line; lines count from 1."""

    file: str
    line: int
    field: str
    found: str
    expected: str

    def __str__(self) -> str:
        return (
            f"{self.file}:{self.line}: {self.field}: found {self.found}; expected {self.expected}"
        )


def _one_of(names: Iterable[str]) -> tuple[str, Callable[[Any], bool]]:
    known = tuple(names)
    return "one of " + ", ".join(name or "(empty)" for name in known), lambda value: value in known


def _at_least(least: float) -> tuple[str, Callable[[Any], bool]]:
    return f"{least} or more", lambda value: value >= least


HASH = ("64 hex digits", lambda value: re.fullmatch("[0-9a-f]{64}", value) is not None)
NAMED = ("not empty", bool)
# Field -> what its value must be, as docs/records.md has it, and whether a value is so.
VALUES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "model": NAMED,
    "layer": NAMED,
    "layer_index": _at_least(-1),
    "depth": ("null or 0 to 1", lambda value: value is None or 0 <= value <= 1),
    "head": NAMED,
    "task": NAMED,
    "task_version": _at_least(1),
    "kind": _one_of(KINDS),
    "corpus": NAMED,
    "condition": NAMED,
    "train_condition": NAMED,
    "control": _one_of(CONTROLS),
    "n_train": _at_least(0),
    "split": _one_of(("dev", "test", "train")),
    "seed": _at_least(0),
    "metric": _one_of(HIGHEST),
    "n": _at_least(0),
    "n_blocks": _at_least(0),
    "select_by": _one_of(HIGHEST),
    "excluded": ("counts of 0 or more", lambda value: min(value.values(), default=0) >= 0),
    "limit": ("null or 1 or more", lambda value: value is None or value >= 1),
    "shared_speakers": ("null or 0 or more", lambda value: value is None or value >= 0),
    "recipe": HASH,
    "task_sha256": HASH,
    "manifest_sha256": HASH,
    "trials_sha256": (
        "empty or 64 hex digits",
        lambda value: re.fullmatch("([0-9a-f]{64})?", value) is not None,
    ),
    "outcomes_sha256": (
        "empty or 64 hex digits",
        lambda value: re.fullmatch("([0-9a-f]{64})?", value) is not None,
    ),
    "code": ("version and commit", lambda value: value.keys() == {"version", "commit"}),
    "seconds": _at_least(0),
}


def check_records(paths: Sequence[Path]) -> tuple[int, list[Finding]]:
    """How many lines there are, and all that is wrong with them, in the order of files and lines.

    Args:
        paths: ``.jsonl`` files or folders of them.

    Raises:
        ProbeError: no records there.
    """
    findings: list[Finding] = []
    others, intervals = Others(), Intervals()
    n_lines = 0
    for file in (file for path in paths for file in files_of(path)):
        columns: dict[str, np.ndarray] = {}
        lines = lines_of(file)
        findings += _faults_of_outcomes(file, lines[:1])
        for number, line in enumerate(lines, start=1):
            n_lines += 1
            findings += [
                Finding(str(file), number, field, _shown(found), expected)
                for field, found, expected in _faults_of_line(
                    line, columns, f"{file}:{number}", others, intervals
                )
            ]
    findings += others.without_dev()
    return n_lines, sorted(findings, key=lambda item: (item.file, item.line))


def renew_intervals(paths: Sequence[Path]) -> tuple[int, int]:
    """Writes the files anew with the intervals that this version makes of their counts; nothing
    else changes.

    Returns:
        Records, and those whose interval was another.

    Raises:
        ProbeError: no file can be read, see `probe.records.readable`.
        OSError: a file cannot be written.
    """
    intervals, n_records, n_changed = Intervals(), 0, 0
    files = [file for path in paths for file in files_of(path)]
    for file, before in readable(files, lambda file: list(iterate_records(file))):
        after = [intervals.renewed(record) for record in before]
        changed = sum(
            (old.low, old.high) != (new.low, new.high)
            for old, new in zip(before, after, strict=True)
        )
        if changed:
            write_records(file, after)
        n_records, n_changed = n_records + len(before), n_changed + changed
    return n_records, n_changed


def _faults_of_line(
    line: bytes,
    columns: dict[str, np.ndarray],
    where: str,
    others: "Others",
    intervals: "Intervals",
) -> Told:
    try:
        record = record_of(line, columns)
    except ProbeError as error:
        yield "line", line[:LONGEST].decode(errors="replace"), f"a record: {error}"
        return
    wrong = [*types_of(record)]
    yield from wrong
    if not wrong:
        yield from values_of(record)
        yield from counts_of(record, intervals)
        yield from search_of(record)
        yield from others.told(record, where)


def _faults_of_outcomes(file: Path, first: Sequence[bytes]) -> Iterator[Finding]:
    """Outcomes that are not those of the records beside them; all lines must name the hash of the
    first.

    Records that were handed on without the folder of outcomes have none to be held against.
    """
    try:
        record = next((record_of(line, {}) for line in first), None)
    except ProbeError:
        return
    if record is None or not outcomes_path(file).parent.is_dir():
        return
    if fault := outcomes_fault(file, record):
        expected = "the file of this sha256 in outcomes/; run the task again"
        yield Finding(
            str(file), 1, "outcomes_sha256", f"{record.outcomes_sha256}, but {fault}", expected
        )


def types_of(record: Record) -> Told:
    """Fields whose value has not the type that `Record` gives them; numbers must be finite."""
    for item in fields(Record):
        value = getattr(record, item.name)
        if item.name != "counts" and not _is(value, item.type):
            yield item.name, value, type_name(item.type)


def type_name(kind: Any) -> str:
    """A field's type as docs/records.md writes it, in the words of JSON."""
    arguments = get_args(kind)
    if isinstance(kind, types.UnionType):
        return " or ".join(map(type_name, arguments))
    if get_origin(kind) is list:
        return f"list of {type_name(arguments[0])}"
    if get_origin(kind) is dict:
        return "object" if arguments[1] is Any else f"object of {type_name(arguments[1])}"
    return {
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true or false",
        type(None): "null",
    }[kind]


def _is(value: object, kind: Any) -> bool:
    arguments = get_args(kind)
    if kind is Any:
        return True
    if get_origin(kind) in (Union, types.UnionType):
        return any(_is(value, one) for one in arguments)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_is(item, arguments[0]) for item in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(_is(item, arguments[1]) for item in value.values())
    if kind is float and isinstance(value, float):
        return math.isfinite(value)
    if kind in (int, float):
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST
    return isinstance(value, kind)


def values_of(record: Record) -> Told:
    """Fields whose value is out of range or does not go with the others'; types are right already."""
    for name, (expected, holds) in VALUES.items():
        if not holds(getattr(record, name)):
            yield name, getattr(record, name), expected
    value, low, high = record.value, record.low, record.high
    most = HIGHEST.get(record.metric, math.inf)
    for name, number in (("value", value), ("low", low), ("high", high)):
        if number is not None and not 0 <= number <= most:
            yield (
                name,
                number,
                f"0 to {most:g} for {record.metric}"
                if most < math.inf
                else f"0 or more for {record.metric}",
            )
    if (low is None) != (high is None) or (value is None and low is not None):
        yield "low, high", [low, high], "both or neither, and neither without a value"
    elif value is not None and low is not None and high is not None and not low <= value <= high:
        yield "value", value, f"within its interval [{low}, {high}]"
    if value is None and not record.note:
        yield "note", "", "why there is no value"
    if record.higher_is_better != (record.metric == "accuracy"):
        yield (
            "higher_is_better",
            record.higher_is_better,
            f"{record.metric == 'accuracy'} for {record.metric}",
        )
    if (record.split == "train") != (record.metric == "codelength"):
        yield "split", record.split, "train for codelengths, dev or test for all else"
    if bool(record.layer_weights) != (record.layer == WEIGHTED):
        yield (
            "layer_weights",
            record.layer_weights,
            f"shares where the layer is {WEIGHTED}, and nowhere else",
        )
    elif record.layer_weights and abs(sum(record.layer_weights.values()) - 1) > ROUNDED:
        yield "layer_weights", record.layer_weights, "shares that sum to 1"
    if bool(record.curve) and record.metric != "codelength":
        yield "curve", record.curve, "nothing but for a codelength"


def counts_of(record: Record, intervals: "Intervals") -> Told:
    """Counts that are malformed, or that do not give the record's value and interval."""
    counts = record.counts
    if not counts and record.value is None:
        return
    if fault := _form_of_counts(counts, whole=record.metric != "codelength"):
        yield "counts", *fault
        return
    if len(counts["block"]) != record.n_blocks:
        yield "n_blocks", record.n_blocks, f"{len(counts['block'])}, the number of blocks in counts"
    for column, values in record.groups.items():
        if len(values) != len(counts["block"]):
            yield (
                "groups",
                {column: len(values)},
                f"a value for each of {len(counts['block'])} blocks",
            )
    trials = is_trials(counts)
    if trials != (record.metric in TRIAL_METRICS):
        yield (
            "counts",
            sorted(counts),
            "trials for detection measures, a ratio of sums for all else",
        )
        return
    n = len(counts["target"]) if trials else sum(counts["denominator"])
    if record.n != n and (trials or record.metric in ("accuracy", "codelength")):
        yield "n", record.n, f"{n}, by the counts"
    if record.metric == "accuracy" and any(
        hits > of for hits, of in zip(counts["numerator"], counts["denominator"], strict=True)
    ):
        yield "counts", counts["numerator"], "at most the denominators, in an accuracy"
    try:
        value = value_of(counts, record.metric)
    except ProbeError as error:
        yield "counts", sorted(counts), f"what has a value: {error}"
        return
    if record.value is None or not math.isclose(
        value, record.value, rel_tol=TOLERANCE, abs_tol=TOLERANCE
    ):
        yield "value", record.value, f"{value}, by the counts"
        return
    if record.seed < 0:
        return
    ends = intervals.of(record) or (None, None)
    for name, found, end in (("low", record.low, ends[0]), ("high", record.high, ends[1])):
        if (found is None) != (end is None) or (
            found is not None and end is not None and abs(found - end) > TOLERANCE
        ):
            yield name, found, f"{end}, by the counts and seed {record.seed}"


def _form_of_counts(counts: dict[str, Any], whole: bool) -> tuple[object, str] | None:
    """What is wrong with the form of counts, and what was expected."""
    try:
        trials = is_trials(counts)
    except ProbeError:
        return sorted(counts), "block, numerator, denominator; or block, enroll, test, target, rank"
    block = counts["block"]
    if not (
        _is(block, list[str])
        and all(re.fullmatch("[0-9a-f]{12}", name) for name in block)
        and block == sorted(set(block))
    ):
        return block, "blocks of 12 hex digits, each once, in order"
    if not trials:
        above, below = counts["numerator"], counts["denominator"]
        right = _is(above, list[int] if whole else list[float]) and _is(below, list[int])
        if not right or min([0, *above, *below]) < 0:
            return [
                above,
                below,
            ], "lists of whole numbers of 0 or more (amounts above, in a codelength)"
        return (
            None
            if len(above) == len(below) == len(block)
            else ([*map(len, (above, below, block))], "one entry a block")
        )
    lengths = {name: len(counts[name]) for name in sorted(PER_TRIAL)}
    if len(set(lengths.values())) > 1:
        return lengths, "one entry a trial"
    for name, most in (
        ("enroll", len(block)),
        ("test", len(block)),
        ("target", 2),
        ("rank", math.inf),
    ):
        column = counts[name]
        if len(column) and not (column.min() >= 0 and column.max() < most):
            return {
                name: [int(column.min()), int(column.max())]
            }, f"0 or more{'' if most == math.inf else f', below {most}'}"
    ranks = np.unique(counts["rank"])
    return (
        None
        if len(ranks) and ranks[-1] == len(ranks) - 1
        else ({"rank": ranks.tolist()}, "dense ranks, 0 the lowest")
    )


def search_of(record: Record) -> Told:
    """Settings that the search did not try, or that are not the best of it on dev."""
    if not record.search or not record.chosen:
        return
    picked = [entry for entry in record.search if _matches(entry, record.chosen)]
    if not picked:
        yield "chosen", record.chosen, "an entry of the search"
        return
    measure, sign = f"dev_{record.select_by}", -1 if record.select_by == "accuracy" else 1
    losses = {
        id(entry): sign * entry[measure]
        for entry in record.search
        if _is(entry.get(measure), float)
    }
    mine = [losses[id(entry)] for entry in picked if id(entry) in losses]
    if mine and min(mine) > min(losses.values()) + TOLERANCE:
        yield (
            "chosen",
            {measure: sign * min(mine)},
            f"the best of the search, {sign * min(losses.values())}",
        )


def _matches(entry: dict[str, Any], chosen: dict[str, Any]) -> bool:
    """Whether the settings that both name are equal, and they name some."""
    shared = entry.keys() & chosen.keys()
    return bool(shared) and all(entry[name] == chosen[name] for name in shared)


class Intervals:
    """Intervals by counts, metric and seed: a training's dev scores stand in the file of every
    condition.
    """

    def __init__(self) -> None:
        self._known: dict[object, tuple[float, float] | None] = {}

    def of(self, record: Record) -> tuple[float, float] | None:
        """The interval of a record's counts."""
        columns = (
            column.tobytes() if isinstance(column, np.ndarray) else tuple(column)
            for column in record.counts.values()
        )
        key = (hash(tuple(columns)), record.metric, record.seed)
        if key not in self._known:
            self._known[key] = interval(record.counts, seed=record.seed, metric=record.metric)
        return self._known[key]

    def renewed(self, record: Record) -> Record:
        """The record with the interval of its counts, where it has a value."""
        if record.value is None or not record.counts:
            return record
        low, high = self.of(record) or (None, None)
        return replace(record, low=low, high=high)


class Others:
    """What is known of the records so far, for those that must agree with them."""

    def __init__(self) -> None:
        self._first: dict[str, Record] = {}  # of a file
        self._seen: dict[object, str] = {}  # score -> where
        self._settings: dict[
            object, tuple[str, str]
        ] = {}  # training in a file -> its settings, where
        self._dev: dict[object, tuple[float | None, str]] = {}  # dev score -> value, where
        self._tested: dict[
            object, tuple[str, str]
        ] = {}  # training in a file with a test score -> where, metric
        self._chosen_on: set[object] = set()  # trainings in a file with a dev score

    def told(self, record: Record, where: str) -> Told:
        """What does not go with the records before."""
        file = where.rpartition(":")[0]
        first = self._first.setdefault(file, record)
        for name in [*IDENTITY, "task", "corpus", "condition", "outcomes_sha256"]:
            if getattr(record, name) != getattr(first, name):
                yield (
                    name,
                    getattr(record, name),
                    f"{_shown(getattr(first, name))}, as in the file's first line",
                )
        score = tuple(getattr(record, name) for name in [*CHOICE, *IDENTITY, *_SCORE])
        if score in self._seen:
            yield (
                "line",
                "a score that stands twice",
                f"each once; the first is {self._seen[score]}",
            )
        self._seen.setdefault(score, where)
        yield from self._one_training(record, file, where)

    def without_dev(self) -> list[Finding]:
        """Test scores of layers that have no dev score to be chosen by."""
        return [
            Finding(*_place(where), "split", "test", f"a dev score of {metric} in the same file")
            for training, (where, metric) in self._tested.items()
            if training not in self._chosen_on
        ]

    def _one_training(self, record: Record, file: str, where: str) -> Told:
        training = tuple(getattr(record, name) for name in [*CHOICE, *_TRAINING])
        if record.value is None or record.split == "train":
            return
        settings = canonical_json(
            {name: value for name, value in record.chosen.items() if name != "definition"}
        )
        before, place = self._settings.setdefault((file, training), (settings, where))
        if before != settings:
            yield (
                "chosen",
                record.chosen,
                f"{before[:LONGEST]}, as in {place}: one training has one choice",
            )
        if record.split == "test":
            self._tested.setdefault((file, training), (where, record.select_by))
        elif record.metric == record.select_by and record.train_domain == record.test_domain:
            self._chosen_on.add((file, training))
        if record.split == "dev":
            asked = [name for name in CHOICE if name != "condition"]
            score = tuple(getattr(record, name) for name in [*asked, *_TRAINING, *_OF_DEV])
            value, place = self._dev.setdefault(score, (record.value, where))
            if value != record.value:
                yield (
                    "value",
                    record.value,
                    f"{value}, as in {place}: one training has one dev score under all conditions",
                )


_SCORE = ["test_domain", "metric", "control", "layer", "split"]
_TRAINING = ["control", "layer"]
_OF_DEV = ["revision", "task_sha256", "manifest_sha256", "seed", "metric", "test_domain"]


def _place(where: str) -> tuple[str, int]:
    file, _, line = where.rpartition(":")
    return file, int(line)


def _shown(value: object) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


def contents(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """What is there: of each file its place, what its first line is of, and how many records and
    layers it holds.

    Raises:
        ProbeError: no records there, or no file can be read, see `probe.records.readable`.
    """
    found = []
    files = [file for path in paths for file in files_of(path)]
    for file, records in readable(files, lambda file: list(iterate_records(file))):
        about = (
            {name: getattr(records[0], name) for name in ABOUT}
            if records
            else dict.fromkeys(ABOUT, "")
        )
        layers, metrics = (
            {getattr(record, name) for record in records} for name in ("layer", "metric")
        )
        found.append(
            {
                "file": str(file),
                **about,
                "records": len(records),
                "layers": len(layers),
                "metrics": ", ".join(sorted(metrics)),
            }
        )
    return found
