"""Format 4: records, one JSON line per score.

A record says everything needed to repeat, recompute and compare one number: what was measured
(model, layer, head, task, split, metric), the value with its interval, the counts it derives from
per block of utterances, the search it came from, and what it was computed with. Values are
fractions; tables turn them into percent.

Counts come in four forms, told apart by their keys:

* a ratio of sums (accuracy, WER, CER): ``block`` (hashed speaker names), ``numerator`` and
  ``denominator``, one entry a block;
* trials (EER, minDCF): ``block``, and one entry a trial in ``enroll`` and ``test`` (positions in
  ``block``), ``target`` (0 or 1) and ``rank`` (dense rank of the score, ascending). The EER depends
  on the scores through their ranks only, so nothing is lost; those of Cllr have also ``score``,
  one entry a rank, and ``calibration``, slope and offset of the log-likelihood ratio;
* moments of true and predicted numbers (concordance, correlations), see
  `probe.measures.block_sums.moment_counts`;
* influences (averages over tags), see `probe.measures.counts.influence_counts`;
* classes (averages over classes), see `probe.measures.block_sums.class_counts`.

On disk the columns in `PACKED` are text: base64 of zlib of little-endian int32, float32 or float64;
one that stood in an earlier line of the file already (the list is the same for every layer, the
ranks for every metric) is written as `SAME` and 16 digits of that text's sha256.
"""

import base64
import copy
import gzip
import hashlib
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from probe.brief import brief, figure
from probe.errors import ProbeError
from probe.files import canonical_json, json_value, path_text, sha256_of_file, write_atomically
from probe.garbage import uncollected
from probe.remote.paths import as_path

if TYPE_CHECKING:
    import pandas as pd

Content = TypeVar("Content")
# One warning for each file that a report cannot show; the command line then ends with exit code 3.
left_out = logging.getLogger("probe.left_out")

FORMAT = 4
GZIP = ".gz"  # ending of a compressed file of records
SEED_FOLDER = "seed"  # and the number of a further seed: in it are the records of that seed
# What records of earlier formats do not have; they are refused, for what they lack cannot be had
# from them.
OLDER = {
    1: "controls, budgets and statistics of layers",
    2: "condition of training and groups of speakers",
}
# Fields that records of format 3 lack, with the values that mean "unknown": such records are read
# as records of format 4.
SINCE_4: dict[str, Any] = {
    "limit": None,
    "shared_speakers": None,
    "outcomes_sha256": "",
    "arguments": {},
}
# Fields that a line has only where they are not empty, with the value that is left out.
OPTIONAL: dict[str, Any] = {"folds": [], "audio_sha256": "", "block_kind": ""}
# What blocks are.
SPEAKER, SESSION, RECORDING, UTTERANCE = "speaker", "session", "recording", "utterance"
ONE_SESSION = "speaker in one session"
BLOCK_KINDS = (SPEAKER, ONE_SESSION, SESSION, RECORDING, UTTERANCE)
OWN_HEAD = "own-ctc"
OWN_HEAD_BEAM = "own-ctc-beam"  # the same with a beam search
OWN_HEADS = (OWN_HEAD, OWN_HEAD_BEAM)
# Names that stand where a layer's does.
WEIGHTED = "weighted"  # a learned sum of all layers
PER_FOLD = "per-fold"  # of a task with folds: the layer that each of them chose
COMBINED = (WEIGHTED, PER_FOLD)  # no points of a layer curve
DEV_LOSS = "dev_cross_entropy"  # in ``chosen``: of the chosen settings; it decides ties of layers
NO_LAYER = "none"  # of a score that no feature has a part in
SEVERAL = "several"  # stands where a condition's name does


@dataclass(frozen=True, kw_only=True)
class Record:
    """One score.

    Attributes:
        model: the model as it was named on the command line.
        revision: resolved commit, seed of random weights, or version of a spectral front-end.
        layer: ``0``..``N``, ``final``, ``conv``; `WEIGHTED` for the learned sum of all;
            `PER_FOLD` for the layer that each fold chose; ``ctc`` for
            a checkpoint's own head; `NO_LAYER` for a majority class.
        layer_index: position of the layer in its model, from 0; orders tables and curves.
        depth: relative depth, from 0 (input of the first block) to 1 (output of the last); None for
            what is no single layer.
        final_layer: the layer that holds the model's final output, ``final`` or, in post-LN models,
            the last block's; empty where the store does not have it or the model has none.
        head: what was trained or the scoring backend: ``linear``, ``ctc-bilstm``,
            ``cosine-standardised`` ...; `OWN_HEADS` are the checkpoint's own, which stand beside
            the probes as a reference.
        task, task_version, kind: the question and its kind.
        corpus: name of the manifest.
        condition: what was done to the audio that the score is of; `SEVERAL` for a score over
            conditions, and where they are domains.
        train_condition: what was done to the audio that was trained and chosen on; `SEVERAL`
            likewise.
        condition_seed: of all that was drawn for the conditions that were trained, chosen and
            tested on; None where nothing was drawn, or with different seeds.
        train_domain, test_domain: empty unless the task crosses domains.
        control: empty for the task itself; what stands in its place as a baseline: ``majority``
            (always the most frequent training label), ``mean`` (always the mean of the training
            labels), ``shuffled`` (trained on shuffled labels), ``types`` (labels drawn at random
            for each type, Hewitt & Liang 2019).
        budget: the training labels that were used, such as ``10m`` or ``5/class``; empty for all.
        n_train: utterances, or frames, that were trained on; 0 where nothing was.
        split: ``dev``, ``test``, or ``train`` for an online code, which is of the training labels.
        seed: of the head's training and of the bootstrap.
        metric: ``accuracy``, ``wer``, ``cer``, ``eer``, ``min_dcf_0.01``, ``ccc``; ``codelength``
            in bits per label; ``mae`` in the label's unit.
        value: fraction, coefficient or amount, or None where the score cannot be had (``note`` says
            why).
        low, high: 95 % interval, None where there are too few blocks.
        n: utterances or trials.
        n_blocks: blocks (speakers; utterances where no speaker is known).
        counts: see the module.
        block_kind: what a block is: ``speaker``, or ``speaker in one session`` where the corpus
            names sessions and has one of each test speaker; ``session``, ``recording`` or
            ``utterance`` of one speaker where the label is the speaker; ``utterance`` where no
            speaker is known; empty in records of earlier versions, whose blocks are speakers, and
            of a codelength.
        groups: column of the manifest (``sex``, ``domain`` ...) -> its value for each of the
            counts' blocks; only columns in which every block has one value.
        higher_is_better: direction of ``metric``.
        select_by: metric whose dev value picks the layer (and the head's settings).
        headline: whether this head is the one that the model x task table shows.
        chosen: the settings picked on dev; of trials also the ``definition`` of the metric and how
            scores are ``normalised``.
        search: every setting tried, each with its dev score.
        layer_weights: layer -> share in the sum, where the layer is `WEIGHTED`.
        curve: of an online code, one entry a portion: ``n_train``, ``n`` and the ``bits`` that its
            labels cost.
        statistics: of the layer's training features, see `probe.measures.geometry`.
        excluded: utterances left out, by reason.
        limit: the most utterances that were taken of each split; None where all were.
        shared_speakers: how many of the scored speakers are among the training speakers; None where
            that is unknown, where nothing is trained, and where the label is the speaker.
        outcomes_sha256: of the file in ``outcomes/`` that belongs to this file of records; empty
            where unknown.
        arguments: what `probe.run` was called with, as text where it is a path, so that the command
            can be repeated.
        note: why there is no value, or what a reader must know.
        folds: of a task with folds, one entry for each: ``fold``, ``value``, ``n``, ``n_train`` and
            the settings ``chosen`` there; then ``search`` and ``curve`` say of which fold each
            entry is, and ``chosen`` holds what all folds share.
        recipe, task_sha256, manifest_sha256, trials_sha256: hashes of what the number rests on;
            where features of several conditions had a part in it, ``recipe`` is the hash of their
            recipes' hashes.
        audio_sha256: hash of the audio of all utterances by their names, since manifests of
            different audio can be equal; empty in records of earlier versions.
        code: version and commit; packages: versions; device; seconds.
    """

    model: str
    revision: str
    layer: str
    layer_index: int
    depth: float | None = None
    final_layer: str = ""
    head: str
    task: str
    task_version: int
    kind: str
    corpus: str
    condition: str = "clean"
    train_condition: str = "clean"
    condition_seed: int | None = None
    train_domain: str = ""
    test_domain: str = ""
    control: str = ""
    budget: str = ""
    n_train: int = 0
    split: str
    seed: int
    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int
    n_blocks: int
    counts: dict[str, Any] = field(default_factory=dict)
    block_kind: str = ""
    groups: dict[str, list[str]] = field(default_factory=dict)
    higher_is_better: bool
    select_by: str
    headline: bool = True
    chosen: dict[str, Any] = field(default_factory=dict)
    search: list[dict[str, Any]] = field(default_factory=list)
    layer_weights: dict[str, float] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)
    statistics: dict[str, float] = field(default_factory=dict)
    excluded: dict[str, int] = field(default_factory=dict)
    limit: int | None = None
    shared_speakers: int | None = None
    note: str = ""
    folds: list[dict[str, Any]] = field(default_factory=list)
    audio_sha256: str = ""
    recipe: str
    task_sha256: str
    manifest_sha256: str
    trials_sha256: str = ""
    outcomes_sha256: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    device: str = ""
    seconds: float = 0.0
    format: int = FORMAT

    def __repr__(self) -> str:
        score = f"{self.split} {self.metric} {figure(self.value)}"
        ends = "" if self.low is None else f"[{figure(self.low)}, {figure(self.high)}]"
        place = (f"layer {self.layer}", self.head, self.task, self.model)
        return brief(
            self, " ".join(filter(None, (score, ends))), str(self.control), *map(str, place)
        )


# What a score is of. Scores that agree in these and in the metric answer one question, and may be
# compared.
QUESTION = ["task", "corpus", "condition", "train_condition", "train_domain", "test_domain"]
# What gave the answer.
SYSTEM = ["model", "head"]
# One score, at whatever layer; with `BUDGET` where records of several budgets stand together.
SCORE = [*QUESTION, *SYSTEM, "metric"]
BUDGET = "budget"
# What scores agree in that are compared across conditions, at one model and layer.
ACROSS_CONDITIONS = ["task", "corpus", "train_condition", "metric", "head"]
# A layer is chosen once for all records that agree in these.
CHOICE = [
    *["model", "task", "corpus", "condition", "train_condition"],
    *["head", "train_domain", "budget"],
]
PER_TRIAL = {"enroll", "test", "target", "rank"}
# Columns of counts that are written as text -> their type. They are written and read in this order,
# since a column may repeat another one of the same line.
PACKED = {
    **dict.fromkeys(sorted(PER_TRIAL), "<i4"),
    **dict.fromkeys(("at", "true_class", "predicted_class", "n"), "<i4"),
    **dict.fromkeys(("truth", "predicted", "truth_squares"), "<f8"),
    **dict.fromkeys(("predicted_squares", "products"), "<f8"),
    "score": "<f4",
}
SAME = "sha256:"
# Records that agree in these are answers to one question.
IDENTITY = [
    *("format", "model", "revision", "task_sha256", "manifest_sha256", "audio_sha256"),
    *("seed", "recipe"),
]
# Heads that are trained by gradient, whose scores depend on the seed.
BY_GRADIENT = ("ctc-linear", "ctc-mlp", "ctc-bilstm", "am-softmax", "xvector", "superb")
NAMES = [item.name for item in fields(Record)]
FIELDS = set(NAMES)
SINGLE = {
    str: (str,),
    int: (int,),
    bool: (bool,),
    float: (float, int),
    float | None: (float, int, type(None)),
    int | None: (int, type(None)),
}
LARGEST = 2**63 - 1
# The types of the fields that are single values.
KINDS = {item.name: SINGLE[item.type] for item in fields(Record) if item.type in SINGLE}  # type: ignore[index]


def hashed_block(name: str) -> str:
    """The name under which a speaker (or utterance) stands in a record: 12 hex digits of its
    sha256.
    """
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def write_records(
    path: Path, records: Sequence[Record], outcomes: bytes | None = None
) -> Path | None:
    """Write one JSON line per record, replacing ``path`` atomically.

    Two files cannot be replaced at once. The outcomes come first, and the records name their
    hash: whoever reads the pair sees that it belongs together, or that it does not.

    Args:
        outcomes: content of the file at `outcomes_path`, whose sha256 the records name;
            None leaves that file as it is.

    Returns:
        The copy of the records that stood there, if they answered another question (`IDENTITY`);
        a re-run replaces them.
    """
    written: dict[str, str] = {}
    lines = [canonical_json(_written(record, written)) + "\n" for record in records]
    path.parent.mkdir(parents=True, exist_ok=True)
    copy = _keep_others(path, records)
    if outcomes is not None:
        outcomes_path(path).parent.mkdir(exist_ok=True)
        write_atomically(outcomes_path(path), outcomes)
    write_atomically(path, "".join(lines).encode())
    return copy


def _written(record: Record, written: dict[str, str]) -> dict[str, Any]:
    """The fields of a line, see `_packed`."""
    values = {**asdict(record), "counts": _packed(record.counts, written)}
    return {name: value for name, value in values.items() if value or name not in OPTIONAL}


def outcomes_path(path: Path) -> Path:
    """Where the outcomes that belong to a file of records lie."""
    return path.parent / "outcomes" / path.name.removesuffix(GZIP)


def sha256_of_outcomes(path: Path) -> str | None:
    """The sha256 of the outcomes beside a file of records; None where there are none.

    Raises:
        OSError: the outcomes cannot be read.
    """
    outcomes = outcomes_path(path)
    return sha256_of_file(outcomes) if outcomes.is_file() else None


def outcomes_fault(path: Path, record: Record) -> str:
    """Why the outcomes beside a file of records are not those of one of its records.

    Returns:
        Empty where they are, and where the record does not know the hash of its outcomes.

    Raises:
        OSError: the outcomes cannot be read.
    """
    actual = sha256_of_outcomes(path)
    if record.outcomes_sha256 in ("", actual):
        return ""
    place = f"outcomes/{path.name}"
    if actual is None:
        return f"{place} is missing"
    return f"{place} is damaged or belongs to other records: its sha256 is {actual[:8]}..."


def _packed(counts: Mapping[str, Any], written: dict[str, str]) -> dict[str, Any]:
    """Counts as they are written.

    Args:
        written: name -> text of the columns that the file has already; receives those of these
            counts.
    """
    packed = dict(counts)
    for column in filter(counts.__contains__, PACKED):
        array = np.asarray(counts[column], PACKED[column])
        text = base64.b64encode(zlib.compress(array.tobytes(), 9)).decode()
        name = _name_of(text)
        packed[column] = name if name in written else text
        written[name] = text
    return packed


def _unpacked(counts: Mapping[str, Any], read: dict[str, bytes]) -> dict[str, Any]:
    """Counts as they are read: arrays instead of text.

    Args:
        read: name -> bytes of the columns that stood in the file so far; receives those of these
            counts.

    Raises:
        ValueError, zlib.error: a text that `_packed` did not write, or the name of one that is not
            in an earlier line.
    """
    unpacked = dict(counts)
    for column in filter(counts.__contains__, PACKED):
        text = counts[column]
        if not text.startswith(SAME):
            read[_name_of(text)] = zlib.decompress(base64.b64decode(text, validate=True))
        elif text not in read:
            raise ValueError(f"{column} is {text}, which no earlier line of the file holds")
        content = read[text if text.startswith(SAME) else _name_of(text)]
        unpacked[column] = np.frombuffer(content, PACKED[column])
    return unpacked


def _name_of(text: str) -> str:
    """What stands for a text that the file has already."""
    return SAME + hashlib.sha256(text.encode()).hexdigest()[:16]


def _keep_others(path: Path, records: Sequence[Record]) -> Path | None:
    """Copy records of another question, and their outcomes: ``x.jsonl`` to ``x.jsonl.<hash>.old``.

    They are copied, not moved: a run that is killed here leaves the records in their place.
    """
    if not path.exists():
        return None
    content = path.read_bytes()
    try:
        before = Record(**_values_of(content.partition(b"\n")[0], {}))
    except ProbeError:
        before = None
    identity = attrgetter(*IDENTITY)
    if before and records and identity(before) == identity(records[0]):
        return None
    outcomes, ending = outcomes_path(path), f".{hashlib.sha256(content).hexdigest()[:8]}.old"
    copy, outcomes_copy = (item.with_name(item.name + ending) for item in (path, outcomes))
    # Outcomes of an unknown hash may be a later run's, if an earlier copy of them is there.
    is_known = outcomes.is_file() and not outcomes_copy.exists()
    if before and is_known and not outcomes_fault(path, before):
        write_atomically(outcomes_copy, outcomes.read_bytes())
    write_atomically(copy, content)
    return copy


def iterate_records(path: Path | str) -> Iterator[Record]:
    """Records of one file or of every one in a folder, in the order of file names and lines.

    Args:
        path: see `files_of`.

    Raises:
        ProbeError: nothing there, a line that is no record, or one of another format version.
    """
    return (Record(**values) for values in _values(path))


def _values(path: Path | str) -> Iterator[dict[str, Any]]:
    """The fields of `iterate_records`' records."""
    for file in files_of(path):
        columns: dict[str, bytes] = {}
        for number, line in enumerate(lines_of(file), start=1):
            try:
                values = _values_of(line, columns)
            except ProbeError as error:
                raise ProbeError(f"{file} line {number}: {error}") from error
            yield values


def files_of(path: Path | str) -> list[Path]:
    """The file itself, or every ``.jsonl`` and ``.jsonl.gz`` file in a folder, in the order of
    names, then those in its folders of further seeds, such as ``seed1``.

    Raises:
        ProbeError: nothing there, or a file both plain and compressed.
    """
    path = as_path(path)
    files = [path]
    if path.is_dir():
        folders = [path, *sorted(path.glob(f"{SEED_FOLDER}[0-9]*/"))]
        files = [
            file
            for folder in folders
            for file in sorted([*folder.glob("*.jsonl"), *folder.glob(f"*.jsonl{GZIP}")])
        ]
        for compressed in (file for file in files if file.suffix == GZIP):
            if compressed.with_suffix("") in files:
                raise ProbeError(
                    f"{compressed}: the same records also stand uncompressed beside it, in "
                    f"{compressed.with_suffix('').name}. Remove the older file."
                )
    if not files or not files[0].exists():
        below = path / "results"
        advice = f" Did you mean {below}?" if any(below.glob("*.jsonl")) else ""
        found = "no records (*.jsonl) in this folder" if path.is_dir() else "does not exist"
        raise ProbeError(
            f"{path}: {found}; expected a folder that `probe run` wrote, or results/ in a folder "
            f"of `probe bench`.{advice}"
        )
    return files


def lines_of(file: Path) -> list[bytes]:
    """The lines of a file of records: those of bytes, for a name may hold U+2028 and its like,
    where lines of text end too.

    Raises:
        ProbeError: a compressed file is damaged.
    """
    content = file.read_bytes()
    if file.suffix == GZIP:
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ProbeError(
                f"{file}: no gzip file, or a damaged one ({error}). Copy it again."
            ) from error
    return content.splitlines()


def record_of(line: bytes, columns: dict[str, bytes]) -> Record:
    """The record in a line. Of its values nothing is known yet, see `probe.record_check`.

    Args:
        columns: name -> bytes of columns of counts that stood in earlier lines of the file;
            receives those of this line.

    Raises:
        ProbeError: no record, one of another format version, with other fields, or with counts that
            cannot be read.
    """
    return Record(**_values_of(line, columns))


def _values_of(line: bytes, columns: dict[str, bytes]) -> dict[str, Any]:
    try:
        values = json_value(line)
    except (ValueError, RecursionError) as error:
        raise ProbeError(f"not JSON ({error}). Remove the file and run its task again.") from error
    version = values.get("format") if isinstance(values, dict) else None
    if version is None:
        raise ProbeError(
            "this line is JSON, but no record: it has no field `format`. "
            "Move the file out of the folder."
        )
    values = copy.deepcopy(OPTIONAL) | values
    if version == 3 and values.keys() == FIELDS - SINCE_4.keys():
        values |= SINCE_4 | {"format": FORMAT}
    elif version != FORMAT:
        lacks = OLDER.get(version) if isinstance(version, int) else None
        why = f": format {version} has no {lacks}" if lacks else ""
        raise ProbeError(
            f"record format {version}; this version reads {FORMAT}. Run its task again{why}."
        )
    if values.keys() != FIELDS:
        odd = sorted(values.keys() ^ FIELDS)
        raise ProbeError(f"fields {odd} missing or unknown. Run its task again.")
    try:
        counts = _unpacked(values["counts"], columns)
    except (ValueError, TypeError, AttributeError, zlib.error) as error:
        raise ProbeError(f"its counts cannot be read ({error}). Run its task again.") from error
    return {**values, "counts": counts}


def read_records(*paths: Path | str) -> "pd.DataFrame":
    """A tidy table with one row per record: the fields of `Record` as columns, and ``file``, which
    the record was read from. All texts are UTF-8, because pandas with pyarrow accepts no others.

    A file that cannot be read (damaged, of an older format, no records at all) is left out, with a
    warning that names it.

    Args:
        paths: ``.jsonl`` or ``.jsonl.gz`` files or folders of them; a file that several of them
            name is read once.

    Raises:
        ProbeError: there are no files, or none of them can be read: see `iterate_records`; a field
            has another type than `Record`'s, or a whole number has more than 64 bits.
    """
    files = {file.resolve(): file for path in paths for file in files_of(path)}
    with uncollected():
        columns: dict[str, list[Any]] = {name: [] for name in (*NAMES, "file")}
        for file, part in readable(files.values(), lambda file: _columns(_values(file))):
            for name, column in part.items():
                columns[name].extend(column)
            columns["file"].extend([path_text(file)] * len(part["format"]))
        return _frame(columns)


def readable(
    files: Iterable[Path], read: Callable[[Path], Content]
) -> Iterator[tuple[Path, Content]]:
    """The content of every file that ``read`` can read; a warning names each of the others.

    Raises:
        ProbeError: there are files, and none can be read.
    """
    faults: list[str] = []
    n_read = 0
    for file in files:
        try:
            content = read(file)
        except (ProbeError, OSError) as error:
            is_ours = isinstance(error, ProbeError)
            reason = str(error) if is_ours else str(error.strerror or error)  # type: ignore[union-attr]
            faults.append(reason if str(file) in reason else f"{file}: {reason}")
            continue
        n_read += 1
        yield file, content
    if faults and not n_read:
        raise ProbeError("\n".join(faults))
    for fault in faults:
        left_out.warning("left out: %s", fault)


def frame_of(records: Iterable[Record]) -> "pd.DataFrame":
    """Records as a table like that of `read_records`, one row each; ``file`` is empty."""
    columns: dict[str, Sequence[Any]] = dict(_columns(vars(record) for record in records))
    return _frame(columns | {"file": [""] * len(columns["format"])})


def _columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """Field -> its values in all rows.

    Raises:
        ProbeError: see `_check_types`.
    """
    columns = list(zip(*map(itemgetter(*NAMES), rows), strict=True)) or [()] * len(NAMES)
    for name, column in zip(NAMES, columns, strict=True):
        _check_types(name, column)
    return dict(zip(NAMES, columns, strict=True))


def _frame(columns: Mapping[str, Sequence[Any]]) -> "pd.DataFrame":
    import pandas as pd

    # pyarrow, with which pandas keeps texts where it is installed, would copy every text.
    with pd.option_context("mode.string_storage", "python"):
        return pd.DataFrame({name: _shared(column) for name, column in columns.items()})


def _check_types(name: str, column: Sequence[Any]) -> None:
    """Refuse values that no table could be made of: of another type than the field's, whole numbers
    of more than 64 bits.
    """
    kinds = {*KINDS.get(name, ())}
    if not kinds:
        return
    wrong = [value for value in column if type(value) not in kinds]
    if int in kinds:
        wrong += [value for value in column if type(value) is int and abs(value) > LARGEST]
    if wrong:
        expected = " or ".join(sorted(kind.__name__ for kind in kinds))
        raise ProbeError(
            f"records: found {str(wrong[0])[:40]!r} in the field {name}; expected {expected}. "
            "`probe records PATH --check` names the line."
        )


def _shared(column: Sequence[Any]) -> Sequence[Any]:
    """The column with one object for all texts that are equal: grouping by it takes a sixth of the
    time, and memory is saved.
    """
    if not column or not isinstance(column[0], str):
        return column
    texts: dict[str, str] = {}
    return [texts.setdefault(value, value) if isinstance(value, str) else value for value in column]


def source_dev(records: "pd.DataFrame") -> "pd.DataFrame":
    """The dev records on which layers are chosen: those of the train domain itself."""
    return records[
        (records["split"] == "dev") & (records["train_domain"] == records["test_domain"])
    ]


def dev_choices(records: "pd.DataFrame") -> "pd.DataFrame":
    """The dev scores that layers are chosen by, the best of each `CHOICE` first, with ``dev_loss``.

    They are those of the metric ``select_by``. Of equal ones the one with the lower `DEV_LOSS` is
    better (infinite where a record has none), and then the lower layer. Controls are no candidates,
    and the weighted sum is chosen only if it is all there is. Of a task with folds `PER_FOLD` comes
    first.
    """
    dev = source_dev(records)
    dev = dev[(dev["metric"] == dev["select_by"]) & dev["value"].notna() & (dev["control"] == "")]
    is_sum = dev["layer"] == WEIGHTED
    loss = dev["value"].where(~dev["higher_is_better"].astype(bool), -dev["value"])
    loss = loss.where(dev["layer"] != PER_FOLD, -np.inf).where(~is_sum, np.inf)
    dev_loss = [chosen.get(DEV_LOSS, np.inf) for chosen in dev["chosen"]]
    dev = dev.assign(loss=loss, dev_loss=dev_loss)
    return dev.sort_values(["loss", "dev_loss", "layer_index"]).drop(columns="loss")


def chosen_layers(records: "pd.DataFrame") -> "pd.DataFrame":
    """One row per `CHOICE` that has a dev score, with the best layer in ``chosen_layer``, see
    `dev_choices`.
    """
    best = dev_choices(records).drop_duplicates(CHOICE)
    return best[[*CHOICE, "layer"]].rename(columns={"layer": "chosen_layer"})
