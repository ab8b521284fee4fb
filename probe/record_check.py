"""This module checks files of records against `docs/record-fields.md`.

A record that was written by hand or by another program, or that is damaged, is found before it
stands in a table. Each line is checked alone (types, ranges, forms), its value is recomputed from
the counts, and it is compared with the other lines: a file answers one question, dev and test have
the same settings, no score stands twice, and one training has one dev score. Intervals are not
compared, because tables compute them from the counts.

A finding names the file, line and field, what was found and what was expected. A record whose types
are wrong is checked no further; a line that cannot be read is a finding too.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probe.errors import ProbeError
from probe.files import canonical_json
from probe.measures.block_sums import CELLS, MOMENTS
from probe.measures.counts import FORMS, NAMES, Counts, Form, form_of, value_of
from probe.measures.metrics import ACCURACY, METRICS, Metric, metric_of
from probe.records import (
    BLOCK_KINDS,
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
)
from probe.schema import faults

LONGEST = 80  # characters of a value in a finding
LARGEST = 2**53  # floats do not tell larger whole numbers apart
# Values differ by less between versions of numpy, which add up in another order.
TOLERANCE = 1e-9
ENTROPY = "dev_cross_entropy"  # in the settings of what it has chosen
ROUNDED = 1e-3  # shares of layers are written with six digits
CONTROLS = ("", "majority", "mean", "shuffled", "types")

ABOUT = ("model", "task", "corpus", "condition")
Faults = Iterator[tuple[str, object, str]]  # field, what was found, what was expected


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
HASH_OR_EMPTY = ("empty or 64 hex digits", lambda value: not value or HASH[1](value))
NAMED = ("not empty", bool)
# Field -> what its value must be, as docs/record-fields.md has it, and whether a value is so.
VALUES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "model": NAMED,
    "layer": NAMED,
    "layer_index": _at_least(-1),
    "depth": ("null or 0 to 1", lambda value: value is None or 0 <= value <= 1),
    "head": NAMED,
    "task": NAMED,
    "task_version": _at_least(1),
    "kind": NAMED,
    "corpus": NAMED,
    "condition": NAMED,
    "train_condition": NAMED,
    "control": _one_of(CONTROLS),
    "n_train": _at_least(0),
    "split": _one_of(("dev", "test", "train")),
    "seed": _at_least(0),
    "metric": _one_of(METRICS),
    "n": _at_least(0),
    "n_blocks": _at_least(0),
    "block_kind": _one_of(("", *BLOCK_KINDS)),
    "select_by": _one_of(METRICS),
    "excluded": ("counts of 0 or more", lambda value: min(value.values(), default=0) >= 0),
    "limit": ("null or 1 or more", lambda value: value is None or value >= 1),
    "shared_speakers": ("null or 0 or more", lambda value: value is None or value >= 0),
    "recipe": HASH,
    "task_sha256": HASH,
    "manifest_sha256": HASH,
    "trials_sha256": HASH_OR_EMPTY,
    "outcomes_sha256": HASH_OR_EMPTY,
    "audio_sha256": HASH_OR_EMPTY,
    "code": ("version and commit", lambda value: value.keys() == {"version", "commit"}),
    "seconds": _at_least(0),
}


def check_records(paths: Sequence[Path]) -> tuple[int, list[Finding]]:
    """How many lines there are, and all that is wrong with them, in the order of files and lines.

    Args:
        paths: ``.jsonl`` or ``.jsonl.gz`` files or folders of them.

    Raises:
        ProbeError: no records there, or a damaged compressed file.
    """
    findings: list[Finding] = []
    others = Others()
    n_lines = 0
    for file in (file for path in paths for file in files_of(path)):
        columns: dict[str, bytes] = {}
        lines = lines_of(file)
        findings += _faults_of_outcomes(file, lines[:1])
        for number, line in enumerate(lines, start=1):
            n_lines += 1
            findings += [
                Finding(str(file), number, field, _shown(value), expected)
                for field, value, expected in _faults_of_line(
                    line, columns, f"{file}:{number}", others
                )
            ]
    findings += others.without_dev()
    return n_lines, sorted(findings, key=lambda item: (item.file, item.line))


def _faults_of_line(line: bytes, columns: dict[str, bytes], where: str, others: "Others") -> Faults:
    try:
        record = record_of(line, columns)
    except ProbeError as error:
        yield "line", line[:LONGEST].decode(errors="replace"), f"a record: {error}"
        return
    if wrong := list(types_of(record)):
        yield from wrong
        return
    yield from values_of(record)
    yield from counts_of(record)
    yield from search_of(record)
    yield from others.contradictions(record, where)


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


def types_of(record: Record) -> Faults:
    """Fields whose value has not the type that `Record` gives them; numbers must be finite."""
    values = {**vars(record), "counts": {}}
    wrong = [(fault.key, fault.found, fault.expected) for fault in faults(Record, values)]
    yield from wrong
    for name, value in values.items():
        if type(value) is int and abs(value) > LARGEST:
            yield name, value, "a whole number of 53 bits"


def values_of(record: Record) -> Faults:
    """Fields whose value, of the right type, is out of range or contradicts another field."""
    for name, (expected, holds) in VALUES.items():
        if not holds(getattr(record, name)):
            yield name, getattr(record, name), expected
    metric = metric_of(record.metric)
    least, most = metric.lowest, metric.highest
    bounds = f"{least:g} to {most:g}" if most < math.inf else f"{least:g} or more"
    if least == -math.inf:
        bounds = f"{most:g} or less"
    value, low, high = record.value, record.low, record.high
    for name, number in (("value", value), ("low", low), ("high", high)):
        if number is not None and not least <= number <= most:
            yield name, number, f"{bounds} for {record.metric}"
    if (low is None) != (high is None) or (value is None and low is not None):
        yield "low, high", [low, high], "both or neither, and neither without a value"
    elif value is not None and low is not None and high is not None and not low <= value <= high:
        yield "value", value, f"within its interval [{low}, {high}]"
    if value is None and not record.note:
        yield "note", "", "why there is no value"
    if record.higher_is_better != metric.higher_is_better:
        expected = f"{metric.higher_is_better} for {record.metric}"
        yield "higher_is_better", record.higher_is_better, expected
    if (record.split == "train") != metric.in_bits:
        yield "split", record.split, "train for codelengths, dev or test for all else"
    if bool(record.layer_weights) != (record.layer == WEIGHTED):
        yield (
            "layer_weights",
            record.layer_weights,
            f"shares where the layer is {WEIGHTED}, and nowhere else",
        )
    elif record.layer_weights and abs(sum(record.layer_weights.values()) - 1) > ROUNDED:
        yield "layer_weights", record.layer_weights, "shares that sum to 1"
    if record.curve and not metric.in_bits:
        yield "curve", record.curve, "nothing but for a codelength"


def counts_of(record: Record) -> Faults:
    """Counts that are malformed, or that do not give the record's value."""
    counts, metric = record.counts, metric_of(record.metric)
    if not counts and record.value is None:
        return
    if fault := _form_of_counts(counts, whole=metric.counts != "amounts"):
        yield "counts", *fault
        return
    form = form_of(counts)
    n_blocks = len(counts["block"])
    if n_blocks != record.n_blocks:
        yield "n_blocks", record.n_blocks, f"{n_blocks}, the number of blocks in counts"
    for column, values in record.groups.items():
        if len(values) != n_blocks:
            yield "groups", {column: len(values)}, f"a value for each of {n_blocks} blocks"
    if form != _expected_form(metric):
        expected = f"{NAMES[_expected_form(metric)]} for {record.metric}"
        yield "counts", sorted(counts), expected
        return
    n = _scored(counts, form)
    if record.n != n and metric.counts != "errors":
        yield "n", record.n, f"{n}, by the counts"
    if metric.counts == "hits":
        pairs = zip(counts["numerator"], counts["denominator"], strict=True)
        if any(hits > total for hits, total in pairs):
            yield "counts", counts["numerator"], "at most the denominators, in an accuracy"
    yield from _recomputed(record)


def _expected_form(metric: Metric) -> Form:
    """The form of the counts of a metric's records."""
    forms: dict[str, Form] = {
        "trials": "trials",
        "moments": "moments",
        "classes": "classes",
        "influences": "influences",
    }
    return forms.get(metric.counts, "ratio")


def _scored(counts: Counts, form: Form) -> int:
    """How many utterances, words or trials were scored."""
    if form == "trials":
        return len(counts["target"])
    return int(np.sum(counts["denominator" if form == "ratio" else "n"]))


def _recomputed(record: Record) -> Faults:
    """A value that is not that of the counts."""
    try:
        value = value_of(record.counts, record.metric)
    except ProbeError as error:
        yield "counts", sorted(record.counts), f"what has a value: {error}"
        return
    close = {"rel_tol": TOLERANCE, "abs_tol": TOLERANCE}
    if record.value is None or not math.isclose(value, record.value, **close):
        yield "value", record.value, f"{value}, by the counts"


def _form_of_counts(counts: dict[str, Any], whole: bool) -> tuple[object, str] | None:
    """What is wrong with the form of counts, and what was expected."""
    try:
        form = form_of(counts)
    except ProbeError:
        return sorted(counts), "; or ".join(", ".join(sorted(keys)) for keys in FORMS.values())
    block = counts["block"]
    is_list = isinstance(block, list) and all(isinstance(name, str) for name in block)
    if not is_list or block != sorted(
        {name for name in block if re.fullmatch("[0-9a-f]{12}", name)}
    ):
        return block, "blocks of 12 hex digits, each once, in order"
    if form == "trials":
        return _form_of_trials(counts)
    if form == "ratio":
        return _form_of_sums(counts, whole)
    if form == "influences":
        return _form_of_influences(counts)
    return _form_of_moments(counts) if form == "moments" else _form_of_classes(counts)


def _form_of_sums(counts: dict[str, Any], whole: bool) -> tuple[object, str] | None:
    above, below = counts["numerator"], counts["denominator"]
    if not _are_amounts(above, whole) or not _are_amounts(below, True):
        return [
            above,
            below,
        ], "lists of whole numbers of 0 or more (amounts above, in a codelength)"
    lengths = [len(above), len(below), len(counts["block"])]
    return (lengths, "one entry a block") if len(set(lengths)) > 1 else None


def _are_amounts(values: object, whole: bool) -> bool:
    """Whether it is a list of finite numbers of 0 or more."""
    kinds = (int,) if whole else (int, float)
    return isinstance(values, list) and all(
        type(value) in kinds and 0 <= value <= LARGEST for value in values
    )


def _form_of_trials(counts: dict[str, Any]) -> tuple[object, str] | None:
    lengths = {name: len(counts[name]) for name in sorted(PER_TRIAL)}
    if len(set(lengths.values())) > 1:
        return lengths, "one entry a trial"
    n_blocks = len(counts["block"])
    limits = {"enroll": n_blocks, "test": n_blocks, "target": 2, "rank": math.inf}
    for name, limit in limits.items():
        column = counts[name]
        if len(column) and not (column.min() >= 0 and column.max() < limit):
            expected = "0 or more" if limit == math.inf else f"0 or more, below {limit}"
            return {name: [int(column.min()), int(column.max())]}, expected
    ranks = np.unique(counts["rank"])
    is_dense = len(ranks) and ranks[-1] == len(ranks) - 1
    if not is_dense:
        return {"rank": ranks.tolist()}, "dense ranks, 0 the lowest"
    return _form_of_scores(counts, len(ranks)) if "score" in counts else None


def _form_of_scores(counts: dict[str, Any], n_ranks: int) -> tuple[object, str] | None:
    score, calibration = np.asarray(counts["score"]), counts["calibration"]
    if len(score) != n_ranks or not np.isfinite(score).all() or (np.diff(score) < 0).any():
        return {"score": len(score)}, f"{n_ranks} finite scores, one a rank, none below the last"
    numbers = isinstance(calibration, list) and all(type(one) is float for one in calibration)
    if not numbers or len(calibration) != 2 or not np.isfinite(calibration).all():
        return {"calibration": calibration}, "a slope and an offset"
    return None if calibration[0] >= 0 else ({"calibration": calibration}, "a slope of 0 or more")


def _form_of_moments(counts: dict[str, Any]) -> tuple[object, str] | None:
    columns = {name: counts[name] for name in MOMENTS}
    lengths = {name: len(column) for name, column in columns.items()}
    if set(lengths.values()) != {len(counts["block"])}:
        return lengths, "one entry a block"
    for name, column in columns.items():
        if not np.isfinite(column).all():
            return {name: "not finite"}, "finite sums"
    if counts["n"].min(initial=1) < 1:
        return {"n": int(counts["n"].min())}, "1 utterance or more in each block"
    return None


def _form_of_influences(counts: dict[str, Any]) -> tuple[object, str] | None:
    lengths = {name: len(counts[name]) for name in ("n", "tags", "influence")}
    if set(lengths.values()) != {len(counts["block"])}:
        return lengths, "one entry a block"
    if not _are_amounts(counts["tags"], whole=True) or min(counts["n"], default=1) < 1:
        return [counts["tags"], list(counts["n"])], "1 utterance or more, 0 tags or more a block"
    values = [counts["value"], *counts["influence"]]
    if not all(type(value) is float or (value is None and i) for i, value in enumerate(values)):
        return values, "numbers (influences may be null)"
    return None


def _form_of_classes(counts: dict[str, Any]) -> tuple[object, str] | None:
    classes = counts["class"]
    is_list = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    if not is_list or len(set(classes)) < len(classes):
        return classes, "names of classes, each once"
    lengths = {name: len(counts[name]) for name in CELLS}
    if len(set(lengths.values())) > 1:
        return lengths, "one entry a cell"
    limits = [len(counts["block"]), len(classes), len(classes), LARGEST]
    for name, limit, least in zip(CELLS, limits, (0, 0, 0, 1), strict=True):
        column = counts[name]
        if len(column) and not (column.min() >= least and column.max() < limit):
            return {name: [int(column.min()), int(column.max())]}, f"{least} to {limit - 1}"
    return None


def search_of(record: Record) -> Faults:
    """Settings that the search did not try, or that are not the best of it on dev, in each fold."""
    if not record.folds:
        yield from _search_of(record.search, record.chosen, record.select_by)
    for fold in record.folds:
        search = [entry for entry in record.search if entry.get("fold") == fold.get("fold")]
        yield from _search_of(search, fold.get("chosen", {}), record.select_by)


def _search_of(search: Sequence[dict[str, Any]], choice: dict[str, Any], select_by: str) -> Faults:
    if not search or not choice:
        return
    chosen = [entry for entry in search if _matches(entry, choice)]
    if not chosen:
        yield "chosen", choice, "an entry of the search"
        return
    by_loss = select_by == ACCURACY.name and ENTROPY in choice
    measure = ENTROPY if by_loss else f"dev_{select_by}"
    best_of = max if metric_of(select_by).higher_is_better and not by_loss else min
    known = [entry[measure] for entry in search if type(entry.get(measure)) in (int, float)]
    own = [entry[measure] for entry in chosen if type(entry.get(measure)) in (int, float)]
    if own and abs(best_of(own) - best_of(known)) > TOLERANCE:
        yield "chosen", {measure: best_of(own)}, f"the best of the search, {best_of(known)}"


def _matches(entry: dict[str, Any], chosen: dict[str, Any]) -> bool:
    """Whether the settings that both name are equal, and they name some."""
    shared = entry.keys() & chosen.keys()
    return bool(shared) and all(entry[name] == chosen[name] for name in shared)


class Others:
    """The records that were checked so far: later ones must agree with them."""

    def __init__(self) -> None:
        self._first: dict[str, Record] = {}  # of a file
        self._scores: dict[object, str] = {}  # score -> where
        # Training in a file -> its settings, where.
        self._settings: dict[object, tuple[str, str]] = {}
        self._dev: dict[object, tuple[float | None, str]] = {}  # dev score -> value, where
        # Training in a file with a test score -> where, metric.
        self._tested: dict[object, tuple[str, str]] = {}
        self._chosen_on: set[object] = set()  # trainings in a file with a dev score

    def contradictions(self, record: Record, where: str) -> Faults:
        """Fields in which a record contradicts the ones before it."""
        file = where.rpartition(":")[0]
        first = self._first.setdefault(file, record)
        for name in [*IDENTITY, "task", "corpus", "condition", "outcomes_sha256"]:
            value, expected = getattr(record, name), getattr(first, name)
            if value != expected:
                yield name, value, f"{_shown(expected)}, as in the file's first line"
        score = _values(record, [*CHOICE, *IDENTITY, *_SCORE])
        place = self._scores.setdefault(score, where)
        if place != where:
            yield "line", "a score that stands twice", f"each once; the first is {place}"
        selects = record.split == "dev" and record.metric == record.select_by
        if selects and record.train_domain == record.test_domain:  # its value may be undefined
            self._chosen_on.add(_training_of(record, file))
        if record.value is not None and record.split != "train":
            yield from self._of_one_training(record, file, where)

    def without_dev(self) -> list[Finding]:
        """Test scores of layers that have no dev score to be chosen by."""
        return [
            Finding(*_place(where), "split", "test", f"a dev score of {metric} in the same file")
            for training, (where, metric) in self._tested.items()
            if training not in self._chosen_on
        ]

    def _of_one_training(self, record: Record, file: str, where: str) -> Faults:
        training = _training_of(record, file)
        chosen = {name: value for name, value in record.chosen.items() if name != "definition"}
        settings = canonical_json(chosen)
        before, place = self._settings.setdefault(training, (settings, where))
        if before != settings:
            expected = f"{before[:LONGEST]}, as in {place}: one training has one choice"
            yield "chosen", record.chosen, expected
        if record.split == "test":
            self._tested.setdefault(training, (where, record.select_by))
            return
        names = [name for name in CHOICE if name != "condition"]
        score = _values(record, [*names, *_TRAINING, *_OF_DEV])
        value, place = self._dev.setdefault(score, (record.value, where))
        if value != record.value:
            expected = f"{value}, as in {place}: one training has one dev score"
            yield "value", record.value, f"{expected} under all conditions"


def _training_of(record: Record, file: str) -> tuple[object, ...]:
    return file, *_values(record, [*CHOICE, *_TRAINING])


def _values(record: Record, names: Iterable[str]) -> tuple[object, ...]:
    return tuple(getattr(record, name) for name in names)


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
    """For each file its place, what its first line is of, and how many records and layers it
    holds.

    Raises:
        ProbeError: no records there, or no file can be read, see `probe.records.readable`.
    """
    files = [file for path in paths for file in files_of(path)]
    contents = []
    for file, records in readable(files, lambda file: list(iterate_records(file))):
        about = {name: getattr(records[0], name) if records else "" for name in ABOUT}
        metrics = sorted({record.metric for record in records})
        contents.append(
            {
                "file": str(file),
                **about,
                "records": len(records),
                "layers": len({record.layer for record in records}),
                "metrics": ", ".join(metrics),
            }
        )
    return contents
