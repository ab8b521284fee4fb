"""The errors behind a score: the worst utterances and trials, from the outcomes that lie beside
records.

`probe run` writes what was said of every test utterance or trial into ``outcomes/`` beside its
records, at the layer that dev chose. They hold names and transcripts of the corpus. Records name
the hash of their outcomes; a file with another hash is left out, see `outcome_faults`.
"""

import json
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from probe.errors import ProbeError
from probe.measures.transcription import character_errors, word_errors
from probe.records import Record, files_of, iterate_records, left_out, outcomes_fault, outcomes_path

WORST = 40  # of each model, task, condition, seed and head
PLACE = ("task", "corpus", "condition", "train_condition", "seed")
HEARD = ("layer", "head", "train_domain", "test_domain")
Outcome = Mapping[str, Any]


def error_rows(
    folders: Iterable[Path], files: Collection[str] | None = None
) -> list[dict[str, Any]]:
    """The worst outcomes of every file of records that has some, at most `WORST` a head, the worst
    first.

    Outcomes that cannot be read are left out, with a warning that names their file.

    Args:
        folders: folders of records, or files of them.
        files: the files of records whose outcomes are shown; all where None.

    Returns:
        `PLACE`, `HEARD`, ``model``, ``key``, ``reference``, ``hypothesis``, ``speaker``,
        ``duration_s`` (None where unknown), ``badness`` (the share that is wrong: errors per
        reference word, or of a trial how many of the other kind lie beyond it) and
        ``models_wrong``, ``models``: how many of those asked the same with this seed are wrong here
        too.
    """
    rows = []
    shown = None if files is None else {Path(file).resolve() for file in files}
    for path, record in _with_outcomes(folders):
        is_shown = shown is None or path.resolve() in shown
        if is_shown and outcomes_path(path).is_file() and not outcomes_fault(path, record):
            try:
                rows += _of_file(outcomes_path(path), record)
            except ProbeError as error:
                left_out.warning("left out: %s", error)
    return _worst(rows)


def outcome_faults(folders: Iterable[Path]) -> list[str]:
    """What is wrong with outcomes that `error_rows` leaves out; one sentence for each file."""
    faults = (outcomes_fault(path, record) for path, record in _with_outcomes(folders))
    return [f"{fault}; its errors are not shown. Run the task again." for fault in faults if fault]


def _with_outcomes(folders: Iterable[Path]) -> Iterator[tuple[Path, Record]]:
    """Each file of records that has a folder of outcomes beside it, and its first record.

    Records that were handed on without that folder have no errors to show.
    """
    for path in (path for folder in folders for path in files_of(folder)):
        try:
            record = next(iterate_records(path), None)
        except ProbeError as error:
            left_out.warning("left out: %s", error)
            continue
        if record is not None and outcomes_path(path).parent.is_dir():
            yield path, record


def _of_file(path: Path, record: Record) -> list[dict[str, Any]]:
    """Every outcome of one file as a row, the right ones too."""
    by_head: dict[tuple[str, ...], list[Outcome]] = defaultdict(list)
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            outcome = json.loads(line)
            by_head[tuple(str(outcome[name]) for name in HEARD)].append(outcome)
        except (ValueError, KeyError, TypeError) as error:
            raise ProbeError(
                f"{path} line {number}: no outcome ({error!r}). Remove the file, run the task again, or give --no-outcomes."
            ) from error
    common = {name: getattr(record, name) for name in (*PLACE, "model")}
    rows = []
    for head, outcomes in by_head.items():
        try:
            judged = _judged(outcomes)
        except (KeyError, TypeError, ValueError) as error:
            raise ProbeError(
                f"{path}: outcomes of no known kind ({error!r}). Run the task again, or give --no-outcomes."
            ) from error
        about = common | dict(zip(HEARD, head, strict=True))
        rows += [
            about | {"speaker": one.get("speaker", ""), "duration_s": one.get("duration_s")} | row
            for one, row in judged
        ]
    return rows


def _judged(outcomes: Sequence[Outcome]) -> list[tuple[Outcome, dict[str, Any]]]:
    """Each outcome with what is shown of it."""
    if "enroll" in outcomes[0]:
        return _trials(outcomes)
    return [(one, {"key": str(one["key"])} | _utterance(one)) for one in outcomes]


def _utterance(one: Outcome) -> dict[str, Any]:
    if "frames" in one:
        right, frames = int(one["correct"]), int(one["frames"])
        said = {"reference": f"{frames} frames", "hypothesis": f"{right} correct"}
        return said | {"wrong": right < frames, "badness": 1 - right / max(1, frames)}
    transcribed = "reference" in one
    reference, hypothesis = (
        str(one[name])
        for name in (("reference", "hypothesis") if transcribed else ("label", "predicted"))
    )
    row = {
        "reference": reference,
        "hypothesis": hypothesis,
        "wrong": reference != hypothesis,
        "badness": float(reference != hypothesis),
    }
    if transcribed and row["wrong"]:
        errors, words = word_errors(reference, hypothesis)
        letters, length = character_errors(reference, hypothesis)
        row |= {"badness": errors / max(1, words), "letters": letters / max(1, length)}
    return row


def _trials(outcomes: Sequence[Outcome]) -> list[tuple[Outcome, dict[str, Any]]]:
    """Trials, wrong at the threshold where misses and false acceptances are most alike."""
    scores = {
        kind: sorted(float(one["score"]) for one in outcomes if bool(one["label"]) == kind)
        for kind in (False, True)
    }

    def below(kind: bool, score: float) -> float:
        return bisect_left(scores[kind], score) / max(1, len(scores[kind]))

    threshold = min(
        (score for kind in scores.values() for score in kind),
        key=lambda at: abs(below(True, at) + below(False, at) - 1),
    )
    kinds = {False: "different speakers", True: "same speaker"}
    judged = []
    for one in outcomes:
        target, score = bool(one["label"]), float(one["score"])
        beyond = 1 - below(False, score) if target else below(True, score)
        said = f"score {score:.3g}, {'below' if target else 'above'} {100 * beyond:.0f} % of the {kinds[not target]} trials"
        row = {
            "key": f"{one['enroll']} – {one['test']}",
            "reference": kinds[target],
            "hypothesis": said,
            "badness": beyond,
        }
        judged.append((one, row | {"wrong": target == (score < threshold)}))
    return judged


def _worst(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each model and question the worst."""
    wrong: Counter[tuple[str, ...]] = Counter()
    asked: Counter[tuple[str, ...]] = Counter()
    of_question = (*PLACE, "head", "train_domain", "test_domain", "key")
    for row in rows:
        place = tuple(row[name] for name in of_question)
        asked[place] += 1
        wrong[place] += row["wrong"]
    kept: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["wrong"]:
            place = tuple(row[name] for name in of_question)
            row |= {"models_wrong": wrong[place], "models": asked[place]}
            kept[(*place[:-1], row["model"])].append(row)
    return sorted(
        (row for group in kept.values() for row in sorted(group, key=_worst_first)[:WORST]),
        key=_worst_first,
    )


def _worst_first(row: dict[str, Any]) -> tuple[float, float, int, str]:
    return -row["badness"], -row.get("letters", 0.0), -row["models_wrong"], row["key"]
