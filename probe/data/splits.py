"""Seeded splits and folds of a corpus, made of groups of rows that stay together.

A split is written ``BY:TRAIN/DEV/TEST``, such as ``speaker:80/10/10``: shares of the rows in
percent. Folds are written ``BY:N``, such as ``speaker:5``, or as the column that names them. ``BY``
is a column, or ``recording``, where each audio file is a group. Options may follow, each after a
colon:

* ``stratify=COLUMN``: every part gets its share of each value of this column;
* ``seed=N``: the random seed, 0 unless it is given;
* ``train=BUDGET``, of splits: only the training rows that a budget pays for (``10m``, ``1h``, or
  ``200`` utterances). A larger budget holds the rows of a smaller one.

The groups are sorted by a hash of the seed and their name, and this list is cut where the shares
end. New rows therefore move few others to another part. Rows of one audio file always stay
together, whatever the groups are. A row without a value in ``BY`` belongs to the group of its file.

Each fold is the test set once; the next fold is then the dev set, and the others are for training.
"""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from probe.brief import counted
from probe.errors import ProbeError, UsageError, listed

if TYPE_CHECKING:
    from probe.data.corpus import Corpus, Utterance

log = logging.getLogger("probe")

RECORDING = "recording"  # stands for a column: the rows of one audio file are a group
PARTS = ("train", "dev", "test")
LEAST_FOLDS = 3  # one tests, one chooses, the rest trains
SPLIT_FORM = (
    "COLUMN:TRAIN/DEV/TEST in percent, such as speaker:80/10/10, then :stratify=COLUMN, :seed=N "
    "or :train=10m"
)
FOLD_FORM = (
    "the column that names the folds, or COLUMN:N such as speaker:5, then :stratify=COLUMN or "
    ":seed=N"
)


@dataclass(frozen=True)
class Rule:
    """How rows are divided into parts.

    Attributes:
        by: the column whose values are groups, or `RECORDING`.
        shares: of train, dev and test in percent; empty for folds.
        n_folds: how many folds; 0 for splits, and where each value of ``by`` is a fold.
        stratify: the column whose values are spread over the parts; empty for none.
        seed: of the order of the groups.
        train: the budget of the training rows; empty for all of them.
    """

    by: str
    shares: tuple[float, ...] = ()
    n_folds: int = 0
    stratify: str = ""
    seed: int = 0
    train: str = ""

    def __str__(self) -> str:
        """The text that gives this rule, without default values."""
        amounts = "/".join(f"{share:g}" for share in self.shares) or str(self.n_folds or "")
        values = {"stratify": self.stratify, "seed": self.seed or "", "train": self.train}
        options = [f"{name}={value}" for name, value in values.items() if value]
        return ":".join(filter(None, [self.by, amounts, *options]))


def parse_split(text: str) -> Rule:
    """The rule of a split.

    Raises:
        UsageError: what was found and what was expected.
    """
    rule, amounts = _parsed(text, ("stratify", "seed", "train"), f"split {text!r}", SPLIT_FORM)
    numbers = amounts.split("/")
    if len(numbers) != len(PARTS) or not all(re.fullmatch(r"\d+(\.\d+)?", x) for x in numbers):
        raise UsageError(f"split {text!r}: expected {SPLIT_FORM}.")
    shares = tuple(map(float, numbers))
    if abs(sum(shares) - 100) > 1e-6 or not shares[0]:
        raise UsageError(
            f"split {text!r}: the shares {amounts} sum to {sum(shares):g}; expected shares of "
            "train, dev and test that sum to 100, with some rows for train."
        )
    return replace(rule, shares=shares)


def parse_folds(text: str) -> Rule:
    """The rule of folds.

    Raises:
        UsageError: what was found and what was expected.
    """
    rule, amount = _parsed(text, ("stratify", "seed"), f"folds {text!r}", FOLD_FORM)
    if not amount:
        if rule != Rule(rule.by):
            raise UsageError(
                f"folds {text!r}: the column {rule.by} names the folds, so nothing is left to "
                f"stratify or to seed; expected {FOLD_FORM}."
            )
        return rule
    if not amount.isdecimal() or int(amount) < LEAST_FOLDS:
        raise UsageError(
            f"folds {text!r}: {amount!r} folds; expected {LEAST_FOLDS} or more, because one tests, "
            "one chooses the settings and the others train."
        )
    return replace(rule, n_folds=int(amount))


def _parsed(text: str, options: Sequence[str], where: str, form: str) -> tuple[Rule, str]:
    """The rule with its options, and what stands between the column and the options."""
    by, *words = text.split(":")
    amounts = words.pop(0) if words and "=" not in words[0] else ""
    values: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not value or name not in options or name in values:
            raise UsageError(f"{where}: {word!r} is not expected here; expected {form}.")
        values[name] = value
    seed = values.pop("seed", "0")
    if not by or not seed.isdecimal():
        raise UsageError(f"{where}: expected {form}.")
    stratify, train = values.get("stratify", ""), values.get("train", "")
    return Rule(by, stratify=stratify, seed=int(seed), train=train), amounts


def split_corpus(corpus: "Corpus", rule: str | Rule) -> "Corpus":
    """The corpus with the seeded split of a rule in place of its own.

    The rule is part of its name and its source, and the new split of its hash.

    Raises:
        UsageError: the rule cannot be read.
        ProbeError: a column is missing or empty, there are too few groups, or training does not
            reach its budget.
    """
    rule = parse_split(rule) if isinstance(rule, str) else rule
    # Test comes first in the order: its rows depend least on the other shares.
    shares = dict(zip(PARTS, rule.shares, strict=True))
    names = [name for name in reversed(PARTS) if shares[name]]
    parts, groups = _parts(corpus, rule, [shares[name] for name in names])
    if any(item.split for item in corpus.utterances):
        log.info("%s: the column split is ignored: split %s takes its place", corpus.name, rule)
    utterances = [
        replace(item, split=names[part])
        for item, part in zip(corpus.utterances, parts, strict=True)
    ]
    if rule.train:
        utterances = _within_budget(corpus.name, utterances, rule)
    group_of = {item.key: group for item, group in zip(corpus.utterances, groups, strict=True)}
    sizes = {
        name: Counter(group_of[item.key] for item in utterances if item.split == name)
        for name in reversed(names)
    }
    texts = [f"{n.total()} {name} rows of {len(n)} groups" for name, n in sizes.items()]
    log.info("%s: split %s: %s", corpus.name, rule, ", ".join(texts))
    lines = [corpus.sha256, *(f"{item.key}\t{item.split}" for item in utterances)]
    return replace(
        corpus,
        name=f"{corpus.name}:split={rule}",
        sha256=hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        utterances=tuple(utterances),
        columns=tuple(dict.fromkeys([*corpus.columns, "split"])),
        source=f"{corpus.source} split={rule}" if corpus.source else "",
    )


def rule_of_source(source: str) -> tuple[str, Rule | None]:
    """A source of a corpus without the words ``split=RULE`` behind it, and that rule."""
    match = re.fullmatch(r"(.+) split=(\S+)", source)
    return (match[1], parse_split(match[2])) if match else (source, None)


def fold_corpora(corpus: "Corpus", rule: str | Rule) -> dict[str, "Corpus"]:
    """Fold -> the corpus when this fold is the test set.

    Rows without a fold are left out, with a warning.

    Raises:
        UsageError: the rule cannot be read.
        ProbeError: a column is missing, there are too few folds, or one audio file is in two.
    """
    rule = parse_folds(rule) if isinstance(rule, str) else rule
    if rule.n_folds:
        parts, _ = _parts(corpus, rule, [1.0] * rule.n_folds)
        names, utterances = [str(part + 1) for part in range(rule.n_folds)], corpus.utterances
    else:
        names, utterances, parts = _named_folds(corpus, rule.by)
    n = len(names)
    return {
        name: replace(
            corpus,
            utterances=tuple(
                replace(item, split=("test", "dev", "train")[min((part - test) % n, 2)])
                for item, part in zip(utterances, parts, strict=True)
            ),
        )
        for test, name in enumerate(names)
    }


def _named_folds(
    corpus: "Corpus", column: str
) -> tuple[list[str], "tuple[Utterance, ...]", list[int]]:
    """Folds that a column names: their names, the rows that have one, and the fold of each."""
    _require_column(corpus, column)
    utterances = tuple(item for item in corpus.utterances if item.label(column))
    if n_rest := len(corpus.utterances) - len(utterances):
        log.warning("%s: %d rows without %s are in no fold", corpus.name, n_rest, column)
    names = sorted({item.label(column) for item in utterances}, key=_natural)
    if len(names) < LEAST_FOLDS:
        raise ProbeError(
            f"{corpus.name}: column {column} names {counted(len(names), 'fold')} "
            f"({listed(names) or 'none'}); expected {LEAST_FOLDS} or more, because one tests, one "
            f"chooses the settings and the others train. Make folds of groups, such as speaker:5."
        )
    first: dict[str, Utterance] = {}
    for item in utterances:
        other = first.setdefault(_file_of(item), item)
        if other.label(column) != item.label(column):
            raise ProbeError(
                f"{corpus.name}: {other.key} is in fold {other.label(column)} and {item.key} of "
                f"the same audio file in fold {item.label(column)}. Give all rows of a file one "
                f"{column}."
            )
    place = {name: number for number, name in enumerate(names)}
    return names, utterances, [place[item.label(column)] for item in utterances]


def _natural(text: str) -> list[str | int]:
    """Sorts ``fold10`` behind ``fold9``."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]


def _parts(corpus: "Corpus", rule: Rule, shares: Sequence[float]) -> tuple[list[int], list[str]]:
    """The part of each row, and its group.

    Raises:
        ProbeError: a column is missing or empty, or there are fewer groups than parts.
    """
    groups = _groups(corpus, rule.by)
    strata = [""] * len(groups)
    if rule.stratify:
        _require_column(corpus, rule.stratify)
        strata = [item.label(rule.stratify) for item in corpus.utterances]
    sizes = Counter(groups)
    if len(sizes) < len(shares):
        raise ProbeError(
            f"{corpus.name}: {rule}: {len(sizes)} groups by {rule.by} "
            f"({listed(sorted(sizes)[:5])}); expected {len(shares)} or more, one for each part. "
            "Divide by another column, or by recording."
        )
    order = _order(sizes, _most_common(groups, strata), rule.seed)
    part_of = dict(zip(order, _cut([sizes[group] for group in order], shares), strict=True))
    return [part_of[group] for group in groups], groups


def _order(sizes: Mapping[str, int], strata: Mapping[str, str], seed: int) -> list[str]:
    """The groups by their hash, with each stratum spread evenly over the whole list."""
    by_hash = sorted(sizes, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    totals: Counter[str] = Counter()
    for group, size in sizes.items():
        totals[strata[group]] += size
    passed: Counter[str] = Counter()
    position: dict[str, float] = {}
    for group in by_hash:
        stratum = strata[group]
        position[group] = (passed[stratum] + sizes[group] / 2) / totals[stratum]
        passed[stratum] += sizes[group]
    return sorted(by_hash, key=lambda group: position[group])


def _cut(sizes: Sequence[int], shares: Sequence[float]) -> list[int]:
    """The part of each group: a group is in the part that its middle falls into, and every part has
    one group or more.
    """
    n_groups, n_parts = len(sizes), len(shares)
    middles = np.cumsum(sizes) - np.asarray(sizes) / 2
    ends = np.cumsum(shares)[:-1] / sum(shares) * sum(sizes)
    starts = [0, *np.searchsorted(middles, ends).tolist()]
    for part in range(1, n_parts):
        starts[part] = max(starts[part], starts[part - 1] + 1)
    for part in range(1, n_parts):
        starts[part] = min(starts[part], n_groups - (n_parts - part))
    parts: list[int] = (np.searchsorted(starts, np.arange(n_groups), side="right") - 1).tolist()
    return parts


def _most_common(groups: Sequence[str], strata: Sequence[str]) -> dict[str, str]:
    """Group -> the value that most of its rows have, the first in the alphabet of equals."""
    counts: dict[str, Counter[str]] = {}
    for group, stratum in zip(groups, strata, strict=True):
        counts.setdefault(group, Counter())[stratum] += 1
    return {
        group: min(counter, key=lambda name: (-counter[name], name))
        for group, counter in counts.items()
    }


def _groups(corpus: "Corpus", by: str) -> list[str]:
    """The group of each row: rows with one value of a column or one audio file are in one group,
    and so are all rows that a chain of such pairs connects.
    """
    is_column = by in corpus.columns
    if by != RECORDING or is_column:
        _require_column(corpus, by)
    values = [item.label(by) if is_column else "" for item in corpus.utterances]
    if is_column and (n_empty := values.count("")):
        log.warning(
            "%s: %d rows have no %s; each of their audio files is a group of its own",
            *(corpus.name, n_empty, by),
        )
    leader: dict[tuple[str, str], tuple[str, str]] = {}

    def lead(name: tuple[str, str]) -> tuple[str, str]:
        while leader.setdefault(name, name) != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    files = [("file", _file_of(item)) for item in corpus.utterances]
    for file, value in zip(files, values, strict=True):
        if value:
            leader[lead(file)] = lead(("value", value))
    leaders = [lead(file) for file in files]
    names: dict[tuple[str, str], tuple[bool, str]] = {}  # values stand before keys
    for one, value, item in zip(leaders, values, corpus.utterances, strict=True):
        name = (not value, value or item.key)
        names[one] = min(names.get(one, name), name)
    return [names[one][1] for one in leaders]


def _file_of(utterance: "Utterance") -> str:
    """Names an audio file, which may be a member of an archive."""
    return f"{utterance.path}#{utterance.excerpt.member}"


def _require_column(corpus: "Corpus", column: str) -> None:
    """Refuses a column that is missing or empty.

    Raises:
        ProbeError: names the columns that there are.
    """
    if column not in corpus.columns:
        raise ProbeError(
            f"{corpus.name}: no column {column!r} to divide the rows by; it has "
            f"{', '.join(corpus.columns)}, and {RECORDING} stands for the audio file."
        )
    if not any(item.label(column) for item in corpus.utterances):
        raise ProbeError(
            f"{corpus.name}: column {column} is empty in all {len(corpus.utterances)} rows. Fill "
            f"it, or divide by {RECORDING}."
        )


def _within_budget(name: str, utterances: Sequence["Utterance"], rule: Rule) -> list["Utterance"]:
    """The rows without the training rows that a budget does not pay for.

    Raises:
        ProbeError: training has less than the budget, or a duration is unknown.
    """
    from probe.data.label_budgets import UtteranceBudget, within_budget
    from probe.schema import checked

    budget: str = checked(UtteranceBudget, rule.train, f"{name}: split {rule}")
    train = [item for item in utterances if item.split == "train"]
    unknown = [item.key for item in train if item.duration_s is None]
    if unknown and not budget.isdecimal():
        raise ProbeError(
            f"{name}: split {rule}: {len(unknown)} training rows have no duration_s "
            f"({listed(unknown, 3)}). Fill the column, or count utterances, such as train=200."
        )
    keys, lengths_s = [item.key for item in train], [item.duration_s or 0.0 for item in train]
    positions = within_budget(budget, keys, keys, lengths_s, rule.seed)
    if positions is None:
        amount = f"{len(train)} utterances"
        if not unknown:
            amount += f" and {sum(lengths_s) / 60:.1f} minutes"
        raise ProbeError(
            f"{name}: split {rule}: training has only {amount}. Give a smaller budget, or leave "
            "train= out."
        )
    kept = {train[i].key for i in positions}
    return [item for item in utterances if item.split != "train" or item.key in kept]
