"""Verification trials: pairs of utterances and whether one speaker speaks both.

A trial list has one of three forms, which its first line shows:

* CSV with the header ``enroll,test,label`` (in any order, other columns are not read);
* VoxCeleb's: ``label path1 path2`` in each line, between spaces or tabs, without a header;
* Kaldi's: ``utterance1 utterance2 target`` (or ``nontarget``) in each line.

Label 1 means the same speaker; utterances are named as in the manifest, or by paths relative to the
list.
"""

import hashlib
import itertools
import logging
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from probe.brief import brief, counted
from probe.data.corpus import Corpus, Names, Utterance
from probe.data.csv_tables import decoded_table, table_rows
from probe.errors import ProbeError, listed

log = logging.getLogger("probe")

COLUMNS = ("enroll", "test", "label")
WORDS = {"target": "1", "nontarget": "0"}  # of Kaldi's lists
MOST_LISTED = 2000  # utterances whose pairs are all listed before some are drawn


@dataclass(frozen=True)
class Trial:
    """Two utterances of the corpus, and whether the speaker is the same."""

    enroll: Utterance
    test: Utterance
    target: bool

    def __repr__(self) -> str:
        speakers = "one speaker" if self.target else "two speakers"
        return brief(self, self.enroll.key, self.test.key, speakers)


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
    """The trials in a file; one that occurs several times counts several times, with a warning.

    Raises:
        ProbeError: no such file, neither of the two forms, a label that is not 0 or 1, utterances
            that the corpus does not have, a pair with both labels, no target or no non-target.
    """
    path = Path(path)
    if not path.is_file():
        raise ProbeError(
            f"{path}: does not exist; expected a CSV trial list with the columns "
            f"{','.join(COLUMNS)}, or lines `label path1 path2` or `path1 path2 target`."
        )
    content, names = path.read_bytes(), Names(corpus, path.parent)
    trials: list[Trial] = []
    first_uses: dict[frozenset[str], tuple[int, bool]] = {}  # pair -> line, label
    for line, label, *pair in _rows(path, content, names):
        where = f"{path} line {line}"
        if label not in ("0", "1"):
            raise ProbeError(f"{where}: label {label!r}; expected 1 (same speaker) or 0.")
        enroll, test = (_utterance(names, name, where, corpus) for name in pair)
        trial = Trial(enroll, test, label == "1")
        keys = frozenset((enroll.key, test.key))
        first_line, is_target = first_uses.setdefault(keys, (line, trial.target))
        if trial.target != is_target:
            raise ProbeError(
                f"{where}: {enroll.key!r} and {test.key!r} have label {label}, "
                f"but {int(is_target)} in line {first_line}. Remove the wrong one."
            )
        trials.append(trial)
    n, n_again = len(trials), len(trials) - len(first_uses)
    if n_again:
        log.warning("%s: %d of %d trials occur more than once, in either order", path, n_again, n)
    n_targets = sum(trial.target for trial in trials)
    if not 0 < n_targets < n:
        raise ProbeError(
            f"{path}: {n_targets} of {n} trials are targets; expected some of both kinds."
        )
    return TrialList(path.stem, hashlib.sha256(content).hexdigest(), tuple(trials))


def _utterance(names: Names, name: str, where: str, corpus: Corpus) -> Utterance:
    utterance = names.get(name)
    if utterance is None:
        raise ProbeError(
            f"{where}: {name!r} is not in the corpus {corpus.name}. Name utterances as the "
            "manifest does, or by paths relative to the list, and do not use --limit with trials."
        )
    return utterance


def _rows(path: Path, content: bytes, names: Names) -> Iterator[tuple[int, str, str, str]]:
    """(line, label, enroll, test) of either form."""
    text = decoded_table(path, content)
    # Only line feeds end lines, and only spaces and tabs separate fields: names may hold the other
    # characters that Python takes for both.
    lines = [line.strip(" \t\r") for line in text.split("\n")]
    first = next(filter(None, lines), "")
    if re.search("[ \t]", first) and not set(COLUMNS) & set(re.split("[ \t]*[,\t;|][ \t]*", first)):
        yield from _lists(path, lines, is_kaldi=first.split()[-1] in WORDS)
        return
    remedy = "Or write lines `label path1 path2` without a header."
    for number, row in table_rows(path, text, COLUMNS, names.knows, remedy)[1]:
        yield number, row["label"], row["enroll"], row["test"]


def _lists(path: Path, lines: Sequence[str], is_kaldi: bool) -> Iterator[tuple[int, str, str, str]]:
    """(line, label, enroll, test) of VoxCeleb's form or Kaldi's."""
    form = "`path1 path2 target` or nontarget" if is_kaldi else "`label path1 path2`"
    for number, line in enumerate(lines, start=1):
        fields = re.split("[ \t]+", line)
        if line and (len(fields) != 3 or (is_kaldi and fields[2] not in WORDS)):
            raise ProbeError(
                f"{path} line {number}: {len(fields)} fields ({line!r}); expected {form}. Paths "
                f"with spaces need CSV with the header {','.join(COLUMNS)}."
            )
        if line and is_kaldi:
            yield number, WORDS[fields[2]], fields[0], fields[1]
        elif line:
            yield number, fields[0], fields[1], fields[2]


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
    candidates = [item for item in utterances if item.speaker]
    if len(candidates) <= MOST_LISTED:
        pairs = list(itertools.combinations(range(len(candidates)), 2))
    else:
        pairs = _sampled_pairs(candidates, n_trials, seed)
    if taken:
        pairs = [
            (a, b)
            for a, b in pairs
            if frozenset((candidates[a].key, candidates[b].key)) not in taken
        ]
    same = [pair for pair in pairs if candidates[pair[0]].speaker == candidates[pair[1]].speaker]
    other = [pair for pair in pairs if candidates[pair[0]].speaker != candidates[pair[1]].speaker]
    if not same or not other:
        speakers = sorted({item.speaker for item in candidates})
        raise ProbeError(
            f"no dev trials can be drawn: {len(candidates)} dev utterances of "
            f"{len(speakers)} speakers ({listed(speakers)}); expected two speakers at "
            f"least, one of them with two "
            "utterances. Give a list with --dev-trials."
        )
    generator = np.random.default_rng(seed)
    positions = [
        kind[i]
        for kind, n in ((same, max(1, n_trials // 3)), (other, n_trials - n_trials // 3))
        for i in sorted(generator.permutation(len(kind))[:n])
    ]
    trials = tuple(
        Trial(candidates[a], candidates[b], candidates[a].speaker == candidates[b].speaker)
        for a, b in positions
    )
    lines = "\n".join(f"{trial.enroll.key}\t{trial.test.key}" for trial in trials)
    return TrialList("drawn", hashlib.sha256(lines.encode()).hexdigest(), trials)


def _sampled_pairs(
    candidates: Sequence[Utterance], n_trials: int, seed: int
) -> list[tuple[int, int]]:
    """Pairs for corpora with too many to list: neighbours of one speaker, and random ones."""
    generator = np.random.default_rng(seed)
    order = sorted(range(len(candidates)), key=lambda i: candidates[i].speaker)
    neighbours = [(min(a, b), max(a, b)) for a, b in itertools.pairwise(order)]
    drawn = generator.integers(len(candidates), size=(4 * n_trials, 2))
    return sorted({*neighbours, *((int(min(a, b)), int(max(a, b))) for a, b in drawn if a != b)})
