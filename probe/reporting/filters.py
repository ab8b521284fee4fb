"""Which records, and which rows of a table, are shown.

`comparable` leaves out files that contradict others. Models are compared on one version of a task,
one manifest, one list of trials and the same seeds; a model's scores on a task rest on one recipe
and one revision; no score appears twice. Of two values that contradict each other, the one stays
that most models have; among equals the one that most files have, then the one of the newest file,
then the first. Each file that is left out is named in a warning.

A term ``FIELD=VALUE`` on what a question is (model, task, condition, seed ...) leaves out records
before a layer is chosen and models are compared. A term on a score (metric, layer, budget, value
...) leaves out rows of the table and changes no other row.
"""

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any, get_origin

import pandas as pd

from probe.errors import UsageError, listed
from probe.records import BUDGET, SCORE, Record, left_out
from probe.remote.paths import as_path

MOST_NAMED = 20
LINE = [*SCORE, BUDGET, "control", "layer", "split"]  # tells the scores of one seed apart
# What one run wrote; of records that no file holds, what one run would have written.
HOLDER = ["file", "model", "task", "corpus", "condition", "train_condition", "seed"]
SEEDS = "set of seeds"
Rules = Sequence[tuple[list[str], list[str]]]
# Records that are equal in the first columns must be equal in the second ones.
EQUAL_WITHIN: Rules = [
    (["task", "corpus", "condition"], ["task_version", "task_sha256", "manifest_sha256", SEEDS]),
    # dev and test may have a list of trials each, and dev trials may be drawn by the seed
    (["task", "corpus", "condition", "seed", "split"], ["trials_sha256"]),
    (["model", "task", "corpus", "condition", "train_condition"], ["recipe", "revision"]),
]
# Conditions are compared utterance by utterance, so these must be equal too.
EQUAL_ACROSS_CONDITIONS: Rules = [
    (
        ["task", "corpus", "train_condition"],
        ["task_version", "task_sha256", "manifest_sha256", "seed"],
    ),
    (["model", "task", "corpus", "train_condition"], ["revision"]),
]
ORIGIN = [
    *["split", "task_version", "task_sha256", "manifest_sha256", "trials_sha256"],
    *["recipe", "revision"],
]
STAYS = "stays: most models have it, or most files, or the newest file"
REMEDY = "Run the tasks again for all of these models, or keep the records in separate folders."
# Fields of a record that hold one value.
FIELDS = [item.name for item in fields(Record) if get_origin(item.type) not in (dict, list)]
OF_SCORES = {
    *["layer", "layer_index", "depth", "final_layer", "test_domain", "control", "budget"],
    *["n_train", "split", "metric", "value", "low", "high", "n", "n_blocks"],
    *["higher_is_better", "select_by", "headline", "note", "seconds"],
}


def comparable(
    records: pd.DataFrame, rules: Rules = EQUAL_WITHIN, remedy: str = REMEDY
) -> pd.DataFrame:
    """The records without the files that contradict others (see the module); the same object where
    nothing is left out.

    Args:
        records: see `probe.records.read_records`.
        rules: columns that records must be equal in where they are equal in others.
        remedy: what the warnings advise.
    """
    if "file" not in records:
        records = records.assign(file="")
    lines = records[list(dict.fromkeys([*HOLDER, *ORIGIN]))].drop_duplicates()
    kept = lines
    while (fault := next(_contradictions(_with_seeds(kept), rules), None)) is not None:
        place, column, group = fault
        groups = group.groupby(column, sort=False, dropna=False)
        value = max(groups, key=lambda item: _strength(item[1]))[0]
        others = group[group[column] != value]
        holders = "; ".join(
            f"{_short(other)} ({listed(sorted(set(of_other['model'])))})"
            for other, of_other in group.groupby(column, dropna=False)
        )
        left_out.warning(
            "%s: %s differs: %s. %s %s. Left out: %s. %s",
            *(place, column, holders, _short(value), STAYS, files_named(others), remedy),
        )
        kept = kept[~_held_by(kept, others)]
    return _once(records if kept is lines else records[_held_by(records, kept)])


def comparable_across_conditions(records: pd.DataFrame) -> pd.DataFrame:
    """As `comparable`, and equal in what scores under different conditions must agree in."""
    remedy = "Run the task again under all conditions at once."
    return comparable(comparable(records), EQUAL_ACROSS_CONDITIONS, remedy)


def _contradictions(records: pd.DataFrame, rules: Rules) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """The breaches of rules: a place in words, the column that differs there, the records."""
    for within, equal in rules:
        if not records[[*within, *equal]].drop_duplicates().duplicated(within).any():
            continue  # the usual case; looking into thousands of groups takes seconds
        for values, group in records.groupby(within):
            place = ", ".join(f"{name} {value}" for name, value in zip(within, values, strict=True))
            for column in equal:
                if group[column].nunique(dropna=False) > 1:
                    yield place, column, group


def _once(records: pd.DataFrame) -> pd.DataFrame:
    """The records with each score once: of files that hold the same score the newest stays, and in
    one file the first line.
    """
    score = [*LINE, "seed"]
    repeated = records[records.duplicated(score, keep=False)]
    if repeated.empty:
        return records
    parts = sorted(
        (part for _, part in repeated.groupby(HOLDER, sort=False)),
        key=lambda part: _time_written(part["file"].iloc[0]),
        reverse=True,
    )
    newest: set[tuple[Any, ...]] = set()
    older: list[pd.DataFrame] = []
    for part in parts:
        own = set(part[score].itertuples(index=False, name=None))
        if own & newest:
            older.append(part)
        newest |= own
    if older:
        lines = pd.concat(older)
        left_out.warning(
            "%d scores appear twice. The newest file stays. Left out: %s. "
            "Remove the file that is not wanted.",
            *(len(lines[score].drop_duplicates()), files_named(lines)),
        )
        records = records[~_held_by(records, lines)]
    again = records.duplicated(score)
    if again.any():
        left_out.warning(
            "%d scores appear twice in one file, of %s; the first of each is shown. "
            "Remove the other lines.",
            *(again.sum(), files_named(records[again])),
        )
    return records[~again]


def _strength(records: pd.DataFrame) -> tuple[int, int, int]:
    """Models, files, and the time of the newest file: the larger stays."""
    files = records[HOLDER].drop_duplicates()
    return records["model"].nunique(), len(files), max(map(_time_written, files["file"].unique()))


def _time_written(file: str) -> int:
    """The time of a file in nanoseconds; 0 without a file."""
    try:
        return as_path(file).stat().st_mtime_ns if file else 0
    except OSError:
        return 0


def _held_by(records: pd.DataFrame, holders: pd.DataFrame) -> Any:
    """(record,) bool: which records belong to one of the holders."""
    return pd.MultiIndex.from_frame(records[HOLDER]).isin(
        pd.MultiIndex.from_frame(holders[HOLDER].drop_duplicates())
    )


def _with_seeds(records: pd.DataFrame) -> pd.DataFrame:
    """The records, with the seeds of their model and question in words."""
    by = ["model", "task", "corpus", "condition", "train_condition"]
    seeds = records.groupby(by)["seed"].agg(lambda of: ", ".join(map(str, sorted(set(of)))))
    return records.join(seeds.rename(SEEDS), on=by)


def files_named(records: pd.DataFrame) -> str:
    """The files of records; the models where no file holds them."""
    files = records["file"] if "file" in records else [""] * len(records)
    names = [
        file or f"the records of {model}"
        for file, model in zip(files, records["model"], strict=True)
    ]
    return listed(list(dict.fromkeys(names)), MOST_NAMED)


def _short(value: object) -> str:
    text = str(value) or "none"
    return text[:8] if re.fullmatch("[0-9a-f]{32,}", text) else text


def first_sampling(records: pd.DataFrame) -> pd.DataFrame:
    """The records of each task's first seed and condition seed that all models and conditions have;
    equal scores appear once.

    Records for which nothing was drawn go with every condition seed. Where no sampling is complete,
    the one stays that most models and conditions have; the files of the others are left out with a
    warning.
    """
    if records.empty:
        return records
    parts = [_first_of(group) for _, group in records.groupby(["task", "corpus"])]
    return pd.concat(parts).sort_index().drop_duplicates([*LINE, "recipe", "value"])


def _first_of(records: pd.DataFrame) -> pd.DataFrame:
    """The records of a task's first sampling."""
    places = [records[name] for name in ("model", "condition", "train_condition")]
    samplings: list[tuple[int, str, pd.DataFrame]] = []
    for seed, of_seed in records.groupby("seed"):
        for drawn in sorted(of_seed["condition_seed"].dropna().unique()) or [None]:
            is_drawn = records["condition_seed"].isna() | (records["condition_seed"] == drawn)
            in_sampling = (records["seed"] == seed) & is_drawn
            covered = in_sampling.groupby(places).any()
            if covered.all():
                return records[in_sampling]
            name = f"seed {seed}" + ("" if drawn is None else f", condition seed {drawn:.0f}")
            samplings.append((int(covered.sum()), name, records[in_sampling]))
    n_places, name, kept = max(samplings, key=lambda item: item[0])
    left_out.warning(
        "task %s, corpus %s: no seed and condition seed that all models and conditions have. "
        "%s stays, which %d of %d have. Left out: %s. Extract and run all with one "
        "--condition-seed and --seed, or keep the records in separate folders.",
        *(records["task"].iloc[0], records["corpus"].iloc[0], name, n_places, len(covered)),
        files_named(records.drop(index=kept.index)),
    )
    return kept


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
    return term.field in FIELDS and term.field not in OF_SCORES


def parse_term(text: str) -> Term:
    """The term in ``FIELD=VALUE[,VALUE]`` or ``FIELD!=VALUE[,VALUE]``.

    Raises:
        UsageError: it is none.
    """
    match = re.fullmatch(r"(\w+)(!?)=(.*)", text, flags=re.DOTALL)
    if not match:
        raise UsageError(
            f"--filter {text!r}: expected FIELD=VALUE[,VALUE] or FIELD!=VALUE, "
            "such as model=facebook/*,fbank."
        )
    return Term(match[1], tuple(match[3].split(",")), bool(match[2]))


def kept(frame: pd.DataFrame, terms: Iterable[Term]) -> pd.DataFrame:
    """The rows that all terms fit.

    Raises:
        UsageError: a field that is none of the columns, or nothing is left.
    """
    for term in terms:
        check_fields([term.field], list(frame.columns), "--filter")
        texts = frame[term.field].map(text_of)
        matches = texts.map(
            lambda text, term=term: any(fnmatchcase(text, p) for p in term.patterns)
        )
        rows = frame[matches != term.negated]
        if rows.empty:
            values = sorted(texts.unique())
            raise UsageError(
                f"--filter {term}: nothing is left. {term.field} is one of: "
                f"{listed(values, 20)}.{_did_you_mean(term.patterns[0], values)}"
            )
        frame = rows
    return frame


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def check_fields(names: Sequence[str], known: Sequence[str], option: str) -> None:
    """Refuses names that are not known.

    Raises:
        UsageError: names the nearest one, and all.
    """
    for name in names:
        if name not in known:
            hint = _did_you_mean(name, known)
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
