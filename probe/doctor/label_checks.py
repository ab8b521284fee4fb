"""The labels of a corpus: one spelling per class, known, and shared between splits where the
question needs it.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from probe.doctor.findings import Finding
from probe.errors import listed

if TYPE_CHECKING:
    from probe.data.corpus import Corpus

# (split, value) of each utterance.
Rows = list[tuple[str, str]]


def labels(corpus: "Corpus") -> Iterator[Finding]:
    """What is to be known about each column's values: speaker, domain, and others whose values come
    back.
    """
    names = [name for name in corpus.columns if name != "split"]
    columns = {
        name: [(item.split, item.label(name)) for item in corpus.utterances] for name in names
    }
    columns = {
        name: rows
        for name, rows in columns.items()
        if name in ("speaker", "domain") or _comes_back(rows)
    }
    sizes = {
        name: len({value for _, value in rows if value.strip()}) for name, rows in columns.items()
    }
    variants = list(_variants(columns))
    counts = ", ".join(f"{name} {size}" for name, size in sizes.items())
    clean = "" if variants else "; none differ by case or spaces only"
    yield Finding("labels", "ok", f"different values: {counts}{clean}")
    yield from variants
    yield from _empty(columns, sizes)
    yield from _constant(columns, sizes)
    yield from _speakers(columns.get("speaker", []))
    yield from _rare({name: rows for name, rows in columns.items() if sizes[name] > 1})


def _comes_back(rows: Rows) -> bool:
    """Whether a column looks like classes: each value is there twice on average."""
    values = [value for _, value in rows if value.strip()]
    return 2 * len(set(values)) <= len(values)


def _variants(columns: Mapping[str, Rows]) -> Iterator[Finding]:
    for name, rows in columns.items():
        spellings: dict[str, Counter[str]] = defaultdict(Counter)
        for _, value in rows:
            if value.strip():
                spellings[" ".join(unicodedata.normalize("NFKC", value).casefold().split())][
                    value
                ] += 1
        groups = [
            " and ".join(f"{value!r} ({count})" for value, count in group.most_common())
            for group in spellings.values()
            if len(group) > 1
        ]
        if groups:
            text = f"{name}: {listed(groups, 3)} differ only by case, spaces or Unicode form; each counts as a class of its own."
            yield Finding("labels", "problem", text, "Write each class in one way.")


def _empty(columns: Mapping[str, Rows], sizes: Mapping[str, int]) -> Iterator[Finding]:
    counts = {name: sum(not value.strip() for _, value in rows) for name, rows in columns.items()}
    some = [
        f"{name} {count} of {len(columns[name])}"
        for name, count in counts.items()
        if count and sizes[name]
    ]
    if some:
        advice = "Empty means unknown: tasks on the column leave these out. Fill them in where they are known."
        yield Finding("labels", "note", f"empty values: {', '.join(some)}.", advice)
    if sizes.get("speaker") == 0:
        advice = "Fill in the column speaker: without it, intervals take utterances as independent and come out too narrow."
        yield Finding("labels", "note", "no speaker is known.", advice)


def _constant(columns: Mapping[str, Rows], sizes: Mapping[str, int]) -> Iterator[Finding]:
    single = [
        f"{name} {next(value for _, value in columns[name] if value.strip())!r}"
        for name, n in sizes.items()
        if n == 1
    ]
    single += [f"{name} (empty)" for name, n in sizes.items() if n == 0 and name != "speaker"]
    if single:
        text = f"the same throughout: {', '.join(single)}."
        yield Finding(
            "labels",
            "note",
            text,
            "Nothing needs doing, unless you want to ask for it, or to compare domains.",
        )


def _speakers(rows: Rows) -> Iterator[Finding]:
    """Whether train and test share speakers."""
    train, test = (
        {value for split, value in rows if split == wanted and value.strip()}
        for wanted in ("train", "test")
    )
    shared = train & test
    if not train or not test:
        return
    if not shared:
        text = f"none of the {len(test)} test speakers is in train: right for every task but speaker-id, which needs them there"
        yield Finding("labels", "ok", text)
        return
    text = f"{len(shared)} of the {len(test)} test speakers are in train: speaker-id wants all of them there, all other tasks none."
    which = "It suits speaker-id" if shared == test else "It suits neither"
    yield Finding(
        "labels",
        "note",
        text,
        f"{which}; for other tasks split by speaker, or known voices make scores too good.",
    )


def _rare(columns: Mapping[str, Rows]) -> Iterator[Finding]:
    """Classes that train lacks or has once; not of columns that the splits keep apart altogether,
    as speakers often are.
    """
    absent, single = list[str](), list[str]()
    for name, rows in columns.items():
        train = Counter(value for split, value in rows if split == "train" and value.strip())
        others = {value for split, value in rows if split != "train" and value.strip()}
        if others and not others & set(train):
            continue
        if unseen := sorted(others - set(train)):
            absent.append(f"{name} {listed([repr(value) for value in unseen], 3)}")
        if once := sorted(value for value, count in train.items() if count == 1):
            single.append(f"{name} {listed([repr(value) for value in once], 3)}")
    if absent:
        advice = "A classifier can never name them: move some of their utterances to train, or leave the class out."
        yield Finding(
            "labels", "note", f"in dev or test but not in train: {'; '.join(absent)}.", advice
        )
    if single:
        advice = "One example teaches little: add more, or leave the class out."
        yield Finding(
            "labels", "note", f"a single training utterance: {'; '.join(single)}.", advice
        )
