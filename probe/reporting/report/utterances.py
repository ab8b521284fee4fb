"""The errors behind a score: the worst utterances and trials, from the outcomes beside records.

`probe run` writes the outcome of every test utterance or trial, at the layer that dev chose, into
``outcomes/`` beside its records. Outcomes hold names and transcripts of the corpus. Records hold
the hash of their outcomes; a file with another hash is left out, see `outcome_faults`.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from probe.errors import ProbeError
from probe.files import json_value, path_text
from probe.measures.transcription import character_errors, word_errors
from probe.records import Record, files_of, iterate_records, left_out, outcomes_fault, outcomes_path

WORST = 40  # outcomes of each model, task, condition, seed and head
RUN = ("task", "corpus", "condition", "train_condition", "seed")
HEAD = ("layer", "head", "train_domain", "test_domain")
QUESTION = (*RUN, *HEAD[1:])
REMEDY = "Run the task again, or give --no-outcomes."
Outcome = Mapping[str, Any]
Row = dict[str, Any]


def error_rows(folders: Iterable[Path], files: Collection[str] | None = None) -> list[Row]:
    """The worst outcomes of every file of records that has some, at most `WORST` per head, the
    worst first.

    Outcomes that cannot be read are left out, with a warning that names their file.

    Args:
        folders: folders of records, or files of them.
        files: the files of records whose outcomes are wanted; all where None.

    Returns:
        `RUN`, `HEAD`, ``model``, ``key``, ``reference``, ``hypothesis``, ``speaker``,
        ``duration_s`` (None where unknown), ``badness`` (the share that is wrong: errors per
        reference word, for a number the share of utterances with a smaller error, for a trial the
        share of trials of the other kind beyond it), ``models``
        (how many have this outcome with this seed) and ``models_wrong``.
    """
    wanted = None if files is None else {path_text(Path(file).resolve()) for file in files}
    rows: list[Row] = []
    for path, record in _with_outcomes(folders):
        outcomes = outcomes_path(path)
        is_wanted = wanted is None or path_text(path.resolve()) in wanted
        if is_wanted and outcomes.is_file() and not outcomes_fault(path, record):
            try:
                rows += _rows_of_file(outcomes, record)
            except ProbeError as error:
                left_out.warning("left out: %s", error)
    return _worst(rows)


def outcome_faults(folders: Iterable[Path]) -> list[str]:
    """Why `error_rows` leaves outcomes out; one sentence per file."""
    faults = (outcomes_fault(path, record) for path, record in _with_outcomes(folders))
    return [f"{fault}; its errors are not shown. Run the task again." for fault in faults if fault]


def _with_outcomes(folders: Iterable[Path]) -> Iterator[tuple[Path, Record]]:
    """Each file of records that has a folder of outcomes beside it, and its first record."""
    for path in (path for folder in folders for path in files_of(folder)):
        try:
            record = next(iterate_records(path), None)
        except ProbeError as error:
            left_out.warning("left out: %s", error)
            continue
        if record is not None and outcomes_path(path).parent.is_dir():
            yield path, record


def _rows_of_file(path: Path, record: Record) -> list[Row]:
    """Every outcome of one file as a row, the correct ones too."""
    by_head: dict[tuple[str, ...], list[Outcome]] = defaultdict(list)
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            outcome = json_value(line)
            by_head[tuple(str(outcome[name]) for name in HEAD)].append(outcome)
        except (ValueError, KeyError, TypeError) as error:
            raise ProbeError(f"{path} line {number}: no outcome ({error!r}). {REMEDY}") from error
    run = {name: getattr(record, name) for name in (*RUN, "model")}
    rows = []
    for head, outcomes in by_head.items():
        try:
            judge: Any = _judge_utterance
            if "enroll" in outcomes[0]:
                judge = _trial_judge(outcomes)
            elif "true_value" in outcomes[0]:
                judge = _number_judge(outcomes)
            for one in outcomes:
                about = {"speaker": one.get("speaker", ""), "duration_s": one.get("duration_s")}
                rows.append(run | dict(zip(HEAD, head, strict=True)) | about | judge(one))
        except (KeyError, TypeError, ValueError) as error:
            raise ProbeError(f"{path}: unknown kind of outcome ({error!r}). {REMEDY}") from error
    return rows


def _judge_utterance(one: Outcome) -> Row:
    """What was expected and said of an utterance, and how wrong it is."""
    row: Row = {"key": str(one["key"])}
    if "frames" in one:
        correct, frames = int(one["correct"]), int(one["frames"])
        row |= {"reference": f"{frames} frames", "hypothesis": f"{correct} correct"}
        return row | {"wrong": correct < frames, "badness": 1 - correct / max(1, frames)}
    is_transcript = "reference" in one
    names = ("reference", "hypothesis") if is_transcript else ("label", "predicted")
    reference, hypothesis = (str(one[name]) for name in names)
    wrong = reference != hypothesis
    row |= {"reference": reference, "hypothesis": hypothesis}
    row |= {"wrong": wrong, "badness": float(wrong)}
    if is_transcript and wrong:
        errors, words = word_errors(reference, hypothesis)
        letters, length = character_errors(reference, hypothesis)
        row |= {"badness": errors / max(1, words), "letters": letters / max(1, length)}
    return row


def _number_judge(outcomes: Sequence[Outcome]) -> Any:
    """A function that judges a predicted number: wrong in the half with the larger errors, as badly
    as the share of utterances with a smaller error.
    """
    errors = sorted(abs(one["predicted_value"] - one["true_value"]) for one in outcomes)

    def judge(one: Outcome) -> Row:
        error = abs(one["predicted_value"] - one["true_value"])
        badness = bisect_left(errors, error) / len(errors)
        return {
            "key": str(one["key"]),
            "reference": f"{one['true_value']:.4g}",
            "hypothesis": f"{one['predicted_value']:.4g}",
            "wrong": badness >= 0.5,
            "badness": badness,
        }

    return judge


def _trial_judge(outcomes: Sequence[Outcome]) -> Any:
    """A function that judges a trial at the threshold of the EER."""
    scores: dict[bool, list[float]] = {
        kind: sorted(float(one["score"]) for one in outcomes if bool(one["label"]) == kind)
        for kind in (False, True)
    }
    kinds = {False: "different speakers", True: "same speaker"}

    def share_below(kind: bool, score: float) -> float:
        return bisect_left(scores[kind], score) / max(1, len(scores[kind]))

    threshold = min(
        (score for of_kind in scores.values() for score in of_kind),
        key=lambda score: abs(share_below(True, score) + share_below(False, score) - 1),
    )

    def judge(one: Outcome) -> Row:
        target, score = bool(one["label"]), float(one["score"])
        beyond = 1 - share_below(False, score) if target else share_below(True, score)
        side, other = ("below" if target else "above"), kinds[not target]
        return {
            "key": f"{one['enroll']} – {one['test']}",
            "reference": kinds[target],
            "hypothesis": f"score {score:.3g}, {side} {100 * beyond:.0f} % of the {other} trials",
            "wrong": target == (score < threshold),
            "badness": beyond,
        }

    return judge


def _worst(rows: Sequence[Row]) -> list[Row]:
    """The worst of each model and question."""
    n_models = Counter(tuple(row[name] for name in (*QUESTION, "key")) for row in rows)
    wrong = [row for row in rows if row["wrong"]]
    n_wrong = Counter(tuple(row[name] for name in (*QUESTION, "key")) for row in wrong)
    for row in wrong:
        outcome = tuple(row[name] for name in (*QUESTION, "key"))
        row |= {"models_wrong": n_wrong[outcome], "models": n_models[outcome]}
    n_kept: Counter[tuple[Any, ...]] = Counter()
    kept = []
    for row in sorted(wrong, key=_worst_first):
        group = tuple(row[name] for name in (*QUESTION, "model"))
        n_kept[group] += 1
        if n_kept[group] <= WORST:
            kept.append(row)
    return kept


def _worst_first(row: Row) -> tuple[float, float, int, str]:
    return -row["badness"], -row.get("letters", 0.0), -row["models_wrong"], row["key"]
