"""Which records may stand in one table.

Models are compared on one version of a task, one manifest, one list of trials and the same seeds; a
model's scores on a task rest on one recipe and one revision; no score stands twice. Files that
contradict others are left out whole, each with a warning that names it, and the rest is shown. Of
two values that contradict each other the one stays that most models have; among equals the one that
most files have, then the one of the newest file, then the first.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probe.errors import ProbeError, listed
from probe.records import CHOICE, left_out

MOST_NAMED = 20
CELL = [*CHOICE, "test_domain", "metric"]
SCORE = [*CELL, "control", "layer", "split", "seed"]
# What one run wrote; of records that no file holds, what one run would have written.
HOLDER = ["file", "model", "task", "corpus", "condition", "train_condition", "seed"]
SEEDS = "set of seeds"
Rules = Sequence[tuple[list[str], list[str]]]
EQUAL_WITHIN: Rules = [
    (["task", "corpus", "condition"], ["task_version", "task_sha256", "manifest_sha256", SEEDS]),
    # dev and test may have a list of trials each, and dev trials may be drawn by the seed
    (["task", "corpus", "condition", "seed", "split"], ["trials_sha256"]),
    (["model", "task", "corpus", "condition", "train_condition"], ["recipe", "revision"]),
]
# The columns of these; all layers of a model agree in them.
QUESTION = [
    *[
        "model",
        "task",
        "corpus",
        "condition",
        "train_condition",
        "seed",
        "split",
        "task_version",
        "task_sha256",
    ],
    *["manifest_sha256", "trials_sha256", "recipe", "revision"],
]
STAYS = "stays: most models have it, or most files, or the newest file"
REMEDY = "Run the tasks again for all of these models, or keep the records in separate folders."


def comparable(
    records: pd.DataFrame, rules: Rules = EQUAL_WITHIN, remedy: str = REMEDY
) -> pd.DataFrame:
    """The records without the files that contradict others (see the module); the same object where
    nothing is left out.

    Args:
        records: see `probe.records.read_records`.
        rules: columns that records must be equal in where they are equal in others.
        remedy: what the warnings advise.

    Raises:
        ProbeError: there are no records.
    """
    if records.empty:
        raise ProbeError("the files hold no records. Run `probe run` or `probe bench` again.")
    if "file" not in records:
        records = records.assign(file="")
    every = records[[*dict.fromkeys([*HOLDER, *QUESTION])]].drop_duplicates()
    kept = every
    while (fault := next(differing(_with_seeds(kept), rules), None)) is not None:
        within, values, what, group = fault
        value = _staying(group, what)
        others = group[group[what].map(lambda item, value=value: item != value)]
        place = ", ".join(f"{name} {item}" for name, item in zip(within, values, strict=True))
        left_out.warning(
            "%s: %s differs: %s. %s %s. Left out: %s. %s",
            *(place, what, _holders(group, what), _short(value), STAYS, named(others), remedy),
        )
        kept = kept[~_held_by(kept, others)]
    return _once(records if kept is every else records[_held_by(records, kept)])


def _once(records: pd.DataFrame) -> pd.DataFrame:
    """The records, each score once: of files that hold the same score the newest stays, and in one
    file the first.
    """
    twice = records[records.duplicated(SCORE, keep=False)]
    if twice.empty:
        return records
    parts = sorted(
        (part for _, part in twice.groupby(HOLDER, sort=False)),
        key=lambda part: _written(part["file"].iloc[0]),
        reverse=True,
    )
    scores: set[tuple[Any, ...]] = set()
    older: list[pd.DataFrame] = []
    for part in parts:
        own = set(part[SCORE].itertuples(index=False, name=None))
        if own & scores:
            older.append(part)
        scores |= own
    if older:
        lines = pd.concat(older)
        left_out.warning(
            "%d scores stand twice. The newest file stays. Left out: %s. Remove the file that is not wanted.",
            *(len(lines[SCORE].drop_duplicates()), named(lines)),
        )
        records = records[~_held_by(records, lines)]
    again = records.duplicated(SCORE)
    if again.any():
        left_out.warning(
            "%d scores stand twice in one file, of %s; the first of each is shown. Remove the other lines.",
            *(again.sum(), named(records[again])),
        )
    return records[~again]


def differing(
    records: pd.DataFrame, rules: Rules
) -> Iterator[tuple[list[str], tuple[Any, ...], str, pd.DataFrame]]:
    """What records break of the rules that records equal in these columns must be equal in those.

    Yields:
        The columns that they are equal in, their values there, a column in which they differ, and
        they themselves.
    """
    for within, equal in rules:
        if not records[[*within, *equal]].drop_duplicates().duplicated(within).any():
            continue  # as ever; to look into thousands of groups takes seconds
        for values, group in records.groupby(within):
            for what in equal:
                if group[what].nunique(dropna=False) > 1:
                    yield within, values, what, group


def _staying(records: pd.DataFrame, what: str) -> object:
    """The value of a column that stays, see the module."""
    groups = records.groupby(what, sort=False, dropna=False)
    return max(groups, key=lambda item: _strength(item[1]))[0]


def _strength(records: pd.DataFrame) -> tuple[int, int, int]:
    """Models, files, and when the newest file was written."""
    files = records[HOLDER].drop_duplicates()
    return records["model"].nunique(), len(files), max(map(_written, files["file"].unique()))


def _written(file: str) -> int:
    """When a file was written, in nanoseconds; 0 of none."""
    try:
        return Path(file).stat().st_mtime_ns if file else 0
    except OSError:
        return 0


def _held_by(records: pd.DataFrame, holders: pd.DataFrame) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Which records are of one of the holders."""
    return pd.MultiIndex.from_frame(records[HOLDER]).isin(
        pd.MultiIndex.from_frame(holders[HOLDER].drop_duplicates())
    )


def _with_seeds(records: pd.DataFrame) -> pd.DataFrame:
    """The records, with the seeds that a record's model has on its question, in words."""
    asked = ["model", "task", "corpus", "condition", "train_condition"]
    seeds = records.groupby(asked)["seed"].agg(
        lambda found: ", ".join(map(str, sorted(set(found))))
    )
    return records.assign(
        **{SEEDS: records[asked].merge(seeds.rename(SEEDS), left_on=asked, right_index=True)[SEEDS]}
    )


def named(records: pd.DataFrame) -> str:
    """The files of records; where no file holds them, the records of which models they are."""
    files = records["file"] if "file" in records else records["model"].map(lambda _: "")
    names = [
        file or f"the records of {model}"
        for file, model in zip(files, records["model"], strict=True)
    ]
    return listed(list(dict.fromkeys(names)), MOST_NAMED)


def _holders(records: pd.DataFrame, what: str) -> str:
    """The different values of a column, each with the models that have it."""
    return "; ".join(
        f"{_short(value)} ({listed(sorted(set(group['model'])))})"
        for value, group in records.groupby(what, dropna=False)
    )


def _short(value: object) -> str:
    text = str(value) or "none"
    return text[:8] if re.fullmatch("[0-9a-f]{32,}", text) else text
