"""Verification trials: pairs of utterances and whether one speaker speaks both.

A trial list has one of two forms, told apart by the first line:

* CSV with the header ``enroll,test,label`` (in any order, other columns are not read);
* VoxCeleb's: ``label path1 path2`` in each line, between spaces or tabs, without a header.

Label 1 means the same speaker; utterances are named as in the manifest, or by paths relative to the
list.
"""

import hashlib
import itertools
import logging
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from probe.brief import brief, counted
from probe.data.corpus import Corpus, Utterance
from probe.data.table_text import decoded_table, refuse_other_separator, table_rows
from probe.errors import ProbeError, listed

log = logging.getLogger("probe")

COLUMNS = ("enroll", "test", "label")


@dataclass(frozen=True)
class Trial:
    """Two utterances of the corpus, and whether the speaker is the same."""

    enroll: Utterance
    test: Utterance
    target: bool

    def __repr__(self) -> str:
        said = "one speaker" if self.target else "two speakers"
        return brief(self, self.enroll.key, self.test.key, said)


@dataclass(frozen=True)
class TrialList:
    """Trials with the sha256 of the list they came from."""

    name: str
    sha256: str
    trials: tuple[Trial, ...]

    def __repr__(self) -> str:
        targets = sum(trial.target for trial in self.trials)
        return brief(
            self, self.name, counted(len(self.trials), "trial"), f"{targets:,} of one speaker"
        )


def load_trials(path: Path | str, corpus: Corpus) -> TrialList:
    """The trials in a file; one that stands there several times counts several times, with a
    warning.

    Raises:
        ProbeError: no such file, neither of the two forms, a label that is not 0 or 1, utterances
            that the corpus does not have, a pair with both labels, no target or no non-target.
    """
    path = Path(path)
    if not path.is_file():
        raise ProbeError(
            f"{path}: does not exist; expected a CSV trial list with the columns {','.join(COLUMNS)}, or lines `label path1 path2`."
        )
    content = path.read_bytes()
    by_name = {os.fspath(item.path.resolve()): item for item in corpus.utterances}
    by_name |= {item.key: item for item in corpus.utterances}
    trials: list[Trial] = []
    first_lines: dict[frozenset[str], int] = {}
    n_again = 0
    for line, label, *names in _rows(path, content):
        if label not in ("0", "1"):
            raise ProbeError(
                f"{path} line {line}: label {label!r}; expected 1 (same speaker) or 0."
            )
        ends: list[Utterance] = []
        for name in names:
            resolved = os.fspath((path.parent / name).resolve())
            found = (
                by_name.get(name) or by_name.get(os.path.normpath(name)) or by_name.get(resolved)
            )
            if found is None:
                raise ProbeError(
                    f"{path} line {line}: {name!r} is not in the corpus {corpus.name}. Name utterances as the manifest does, "
                    "or by paths relative to the list, and do not use --limit with trials."
                )
            ends.append(found)
        trial = Trial(ends[0], ends[1], label == "1")
        pair = frozenset(end.key for end in ends)
        if pair in first_lines:
            n_again += 1
            _refuse_contradiction(path, line, trial, first_lines[pair])
        first_lines.setdefault(pair, line if trial.target else -line)
        trials.append(trial)
    if n_again:
        log.warning(
            "%s: %d of %d trials stand there more than once, in this order or the other",
            path,
            n_again,
            len(trials),
        )
    n_targets = sum(trial.target for trial in trials)
    if not 0 < n_targets < len(trials):
        raise ProbeError(
            f"{path}: {n_targets} of {len(trials)} trials are targets; expected some of both kinds."
        )
    return TrialList(path.stem, hashlib.sha256(content).hexdigest(), tuple(trials))


def _rows(path: Path, content: bytes) -> Iterator[tuple[int, str, str, str]]:
    """(line, label, enroll, test) of either form."""
    text = decoded_table(path, content)
    refuse_other_separator(path, text, COLUMNS)
    # Only line feeds end lines, and only spaces and tabs part fields: names may hold the other
    # characters that Python takes for both.
    lines = [line.strip(" \t\r") for line in text.split("\n")]
    first = next(filter(None, lines), "")
    if re.search("[ \t]", first) and not set(COLUMNS) & set(re.split("[ \t]*,[ \t]*", first)):
        for number, line in enumerate(lines, start=1):
            if not line:
                continue
            fields = re.split("[ \t]+", line)
            if len(fields) != 3:
                raise ProbeError(
                    f"{path} line {number}: {len(fields)} fields ({line!r}); expected `label path1 path2`. Paths with spaces "
                    f"need CSV with the header {','.join(COLUMNS)}."
                )
            yield number, fields[0], fields[1], fields[2]
        return
    header, rows = table_rows(path, text)
    if missing := [name for name in COLUMNS if name not in header]:
        raise ProbeError(
            f"{path} line 1: column {', '.join(missing)} missing; found {', '.join(header) or 'an empty file'}; expected "
            f"{','.join(COLUMNS)}, or lines `label path1 path2` without a header."
        )
    for number, row in rows:
        yield number, row["label"], row["enroll"], row["test"]


def _refuse_contradiction(path: Path, line: int, trial: Trial, first: int) -> None:
    """Raises where the same pair has the other label; ``first`` is its first line, negative where
    the label is 0 there.
    """
    if trial.target != (first > 0):
        raise ProbeError(
            f"{path} line {line}: {trial.enroll.key!r} and {trial.test.key!r} have label {int(trial.target)}, "
            f"but {int(first > 0)} in line {abs(first)}. Remove the wrong one."
        )


def draw_trials(
    utterances: Sequence[Utterance],
    n_trials: int,
    seed: int,
    taken: Collection[frozenset[str]] = frozenset(),
) -> TrialList:
    """Seeded pairs of utterances with known speakers: a third of them targets, as far as there are
    that many.

    Args:
        taken: keys of pairs that must not be drawn.

    Raises:
        ProbeError: fewer than two speakers, or no speaker with two utterances.
    """
    known = [item for item in utterances if item.speaker]
    pairs = (
        list(itertools.combinations(range(len(known)), 2))
        if len(known) <= 2000
        else _sampled_pairs(known, n_trials, seed)
    )
    pairs = (
        [(a, b) for a, b in pairs if frozenset((known[a].key, known[b].key)) not in taken]
        if taken
        else pairs
    )
    same = [pair for pair in pairs if known[pair[0]].speaker == known[pair[1]].speaker]
    other = [pair for pair in pairs if known[pair[0]].speaker != known[pair[1]].speaker]
    if not same or not other:
        speakers = sorted({item.speaker for item in known})
        raise ProbeError(
            f"no dev trials can be drawn: {len(known)} dev utterances of {len(speakers)} speakers ({listed(speakers)}); expected two "
            "speakers at least, one of them with two utterances. Give a list with --dev-trials."
        )
    generator = np.random.default_rng(seed)
    chosen = [
        kind[i]
        for kind, n in ((same, max(1, n_trials // 3)), (other, n_trials - n_trials // 3))
        for i in sorted(generator.permutation(len(kind))[:n])
    ]
    trials = tuple(
        Trial(known[a], known[b], known[a].speaker == known[b].speaker) for a, b in chosen
    )
    lines = "\n".join(f"{trial.enroll.key}\t{trial.test.key}" for trial in trials)
    return TrialList("drawn", hashlib.sha256(lines.encode()).hexdigest(), trials)


def _sampled_pairs(known: Sequence[Utterance], n_trials: int, seed: int) -> list[tuple[int, int]]:
    """Pairs for corpora with too many to list: neighbours of one speaker, and random ones."""
    generator = np.random.default_rng(seed)
    order = sorted(range(len(known)), key=lambda i: known[i].speaker)
    neighbours = [(min(a, b), max(a, b)) for a, b in itertools.pairwise(order)]
    drawn = generator.integers(len(known), size=(4 * n_trials, 2))
    return sorted({*neighbours, *((int(min(a, b)), int(max(a, b))) for a, b in drawn if a != b)})
