"""Corpora: utterances from a CSV manifest or a LibriSpeech folder.

A manifest is UTF-8 CSV with the columns ``path,text,speaker,domain,split,duration_s`` and any
others; ``path`` is relative to the manifest, an empty value means unknown, an optional ``id``
column names utterances (otherwise the path does).
"""

import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from probe.brief import brief, counted
from probe.data.audio_bytes import refuse_outside, refuse_rows_in_quotes
from probe.data.columns import refused_columns
from probe.data.path_hints import Folders, why_missing
from probe.data.table_text import decoded_table, long_fields, refuse_other_separator
from probe.errors import ProbeError, UtteranceError

COLUMNS = ("path", "text", "speaker", "domain", "split", "duration_s")
SPLITS = ("train", "dev", "test", "noise")
LIBRISPEECH = "librispeech:"
MOST_PROBLEMS_SHOWN = 8


@dataclass(frozen=True)
class Utterance:
    """One manifest row.

    Attributes:
        key: unique name in the corpus: the ``id`` column, otherwise the path as the manifest has
            it.
        path: the audio file.
        duration_s: seconds, None where the manifest does not say.
        extra: the manifest's further columns.
        condition: under which it is heard: what is done to its audio.
    """

    key: str
    path: Path
    text: str
    speaker: str
    domain: str
    split: str
    duration_s: float | None = None
    extra: Mapping[str, str] = field(default_factory=dict)
    condition: str = "clean"

    def __repr__(self) -> str:
        duration = "" if self.duration_s is None else f"{self.duration_s:g} s"
        return brief(
            self, self.key, self.split, self.speaker, self.domain, duration, self.condition
        )

    def label(self, column: str) -> str:
        """The value of one of the manifest's columns, empty where unknown; ``condition`` too,
        unless the manifest has its own.
        """
        if column in ("text", "speaker", "domain", "split"):
            return getattr(self, column)
        return self.extra.get(column, self.condition if column == "condition" else "")


@dataclass(frozen=True)
class Corpus:
    """A manifest that has been read and found sound.

    Attributes:
        name: the manifest's stem, or the LibriSpeech subsets; with the limit where there is one,
            see `limited`.
        sha256: of the manifest's bytes (LibriSpeech: of its rows), and of the limit where there is
            one.
        utterances: in manifest order, rows of split ``noise`` left out.
        columns: names that `Utterance.label` knows here.
        folder: where the manifest lies, or the LibriSpeech tree.
        source: what it was loaded from, as it was given; empty where it was made otherwise.
    """

    name: str
    sha256: str
    utterances: tuple[Utterance, ...]
    columns: tuple[str, ...]
    folder: Path = Path()
    source: str = ""

    @property
    def further_columns(self) -> tuple[str, ...]:
        """The columns beside those that every manifest has; nothing reads one unless a task asks
        for it as a label.
        """
        return tuple(name for name in self.columns if name not in COLUMNS)

    def __repr__(self) -> str:
        counts = Counter(item.split for item in self.utterances)
        parts = ", ".join(f"{n:,} {split}" for split, n in counts.items())
        return brief(self, self.name, f"{counted(len(self.utterances), 'utterance')}: {parts}")

    def of_splits(self, splits: Collection[str] | None) -> "Corpus":
        """The rows of these splits; all where None."""
        if splits is None:
            return self
        return replace(
            self, utterances=tuple(item for item in self.utterances if item.split in splits)
        )

    def limited(self, limit: int | None) -> "Corpus":
        """At most ``limit`` utterances of each split: the same ones every time, spread over the
        manifest.

        They are the ones whose keys have the smallest hashes, so rows appended to the manifest
        displace few of them. The limit is part of the name, so that records of the whole corpus are
        never replaced. A corpus that has no more stays as it is.
        """
        if limit is None:
            return self
        taken: set[str] = set()
        left = Counter(dict.fromkeys(SPLITS, limit))
        for utterance in sorted(
            self.utterances, key=lambda item: hashlib.sha256(item.key.encode()).digest()
        ):
            if left[utterance.split] > 0:
                left[utterance.split] -= 1
                taken.add(utterance.key)
        chosen = tuple(item for item in self.utterances if item.key in taken)
        if len(chosen) == len(self.utterances):
            return self
        sha256 = hashlib.sha256(f"{self.sha256} limit {limit}".encode()).hexdigest()
        return replace(self, name=f"{self.name}:limit={limit}", sha256=sha256, utterances=chosen)


def load_corpus(source: Path | str, audio_root: Path | str | None = None) -> Corpus:
    """The corpus in a CSV manifest or, with ``librispeech:ROOT#subset,subset``, in a LibriSpeech
    folder.

    Args:
        audio_root: the folder that all audio must lie in, with symbolic links resolved; nothing
            outside is looked at.

    Raises:
        ProbeError: no such file, wrong encoding, missing columns, duplicate ids, the same file in
            two splits, unknown splits, unreadable durations, missing audio files, audio outside
            ``audio_root``; up to eight problems are named with their lines.
    """
    text = os.fspath(source)
    root = None if audio_root is None else Path(audio_root)
    if root is not None and not root.is_dir():
        raise ProbeError(
            f"--audio-root {root}: not a folder; expected the one that holds all audio."
        )
    if text.startswith(LIBRISPEECH):
        corpus = _librispeech(text)
        _refuse(
            [
                f"{item.key}: {reason}"
                for item in corpus.utterances
                if (reason := _outside(item.path, root))
            ]
        )
        return replace(corpus, source=text)
    manifest = Path(text)
    content = _read_manifest(manifest)
    rows = _rows(manifest, content)
    problems: list[str] = []
    utterances = list(_utterances(manifest, rows, problems, root))
    _refuse(problems)
    speech = tuple(item for item in utterances if item.split != "noise")
    columns = (
        tuple(name for name in rows[0][1] if name not in ("path", "id", "duration_s"))
        if rows
        else ()
    )
    if not speech:
        raise ProbeError(f"{manifest}: no utterances; expected rows with split train, dev or test.")
    return Corpus(
        manifest.stem, hashlib.sha256(content).hexdigest(), speech, columns, manifest.parent, text
    )


def noise_files(manifest: Path, audio_root: Path | None = None) -> list[Path]:
    """The audio of a manifest's rows of split ``noise``.

    Raises:
        ProbeError: as `load_corpus`, or there are no such rows.
    """
    problems: list[str] = []
    utterances = list(
        _utterances(manifest, _rows(manifest, _read_manifest(manifest)), problems, audio_root)
    )
    _refuse(problems)
    if paths := [item.path for item in utterances if item.split == "noise"]:
        return paths
    raise ProbeError(
        f"{manifest}: {len(utterances)} rows, none of split noise. Put {SPLITS[-1]} into the column split."
    )


def _refuse(problems: list[str]) -> None:
    """Raises where there are any, with the first of them."""
    rest = len(problems) - MOST_PROBLEMS_SHOWN
    more = [f"... and {rest} more problems"] if rest > 0 else []
    if problems:
        raise ProbeError("\n".join(problems[:MOST_PROBLEMS_SHOWN] + more))


def _outside(path: Path, root: Path | None) -> str:
    """Why an audio file is not to be read; empty where it may be."""
    try:
        if root is not None:
            refuse_outside(Path(os.path.realpath(path)), root)
    except UtteranceError as error:
        return f"{error}. Correct it or remove the row."
    except ValueError:  # a NUL, or a name too long for a file: the check that it is there says so
        pass
    return ""


def _read_manifest(manifest: Path) -> bytes:
    if not manifest.is_file():
        found = "is a folder" if manifest.is_dir() else "does not exist"
        hint = (
            f" For a LibriSpeech folder write {LIBRISPEECH}{manifest}#dev-clean,test-clean."
            if manifest.is_dir()
            else ""
        )
        raise ProbeError(
            f"{manifest}: {found}; expected a CSV manifest with the columns {','.join(COLUMNS)}.{hint}"
        )
    return manifest.read_bytes()


def _rows(manifest: Path, content: bytes) -> list[tuple[int, dict[str, str]]]:
    """(line, column -> value) of each data row."""
    text = decoded_table(manifest, content)
    refuse_other_separator(manifest, text, COLUMNS)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    line = 1  # where the row begins; quoted text may go over several
    try:
        with long_fields():
            header = [name.strip() for name in next(reader, [])]
            _check_header(manifest, header)
            line = reader.line_num + 1
            for values in reader:
                if any(values) and len(values) != len(header):
                    raise ProbeError(
                        f"{manifest} line {line}: {len(values)} fields; the header has {len(header)}. "
                        "Put text that contains commas in double quotes."
                    )
                if any(values):
                    refuse_rows_in_quotes(
                        f"{manifest} line {line}",
                        values,
                        lambda name: _is_file(manifest.parent / name),
                    )
                    rows.append((line, dict(zip(header, values, strict=True))))
                line = reader.line_num + 1
    except csv.Error as error:
        raise ProbeError(
            f"{manifest} line {line}: not readable as CSV ({error}). Mind the double quotes."
        ) from error
    _refuse([f"{manifest} line {line}: {reason}" for line, reason in refused_columns(rows)])
    return rows


def _is_file(path: Path) -> bool:
    """Whether a path, which may be any text, names a file."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _check_header(manifest: Path, header: list[str]) -> None:
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise ProbeError(
            f"{manifest} line 1: column {', '.join(missing)} missing; found {', '.join(header) or 'an empty file'}. "
            f"Expected {','.join(COLUMNS)} and any others; add the column and leave it empty where a value is unknown."
        )
    twice = sorted(name for name, count in Counter(header).items() if count > 1)
    if twice:
        raise ProbeError(
            f"{manifest} line 1: column {', '.join(twice)} stands there twice. Rename one of them."
        )


def _utterances(
    manifest: Path, rows: list[tuple[int, dict[str, str]]], problems: list[str], root: Path | None
) -> Iterable[Utterance]:
    """Utterances of the rows; what is wrong with a row is appended to ``problems``."""
    line_of_key: dict[str, int] = {}
    first_use: dict[str, tuple[int, str]] = {}
    folders = Folders()
    for line, row in rows:
        where = f"{manifest} line {line}"
        if not row["path"].strip():
            problems.append(f"{where}: path is empty. Name an audio file or remove the row.")
            continue
        path = _audio_path(manifest.parent, row["path"], folders)
        key = row.get("id") or os.path.normpath(row["path"])
        split = row["split"]
        if split not in SPLITS:
            problems.append(f"{where}: split {split!r}; expected one of {', '.join(SPLITS)}.")
        if key in line_of_key:
            problems.append(
                f"{where}: id {key!r} stands on line {line_of_key[key]} already. Remove one row, or tell them apart in a column id."
            )
        other_line, other_split = first_use.setdefault(os.path.realpath(path), (line, split))
        if other_split != split:
            problems.append(
                f"{where}: {row['path']} is in split {split!r} here and in {other_split!r} on line {other_line}. "
                "A recording may be in one split only, otherwise the test is not a test; remove one of the rows."
            )
        if reason := _outside(path, root):
            problems.append(f"{where}: {row['path']} {reason}")
        elif reason := why_missing(path, row["path"], manifest.parent, folders):
            problems.append(f"{where}: {reason}")
        line_of_key.setdefault(key, line)
        extra = {name: value for name, value in row.items() if name not in COLUMNS and name != "id"}
        duration_s = _duration(where, row["duration_s"], problems)
        yield Utterance(
            key, path, row["text"], row["speaker"], row["domain"], split, duration_s, extra
        )


def _audio_path(folder: Path, written: str, folders: Folders) -> Path:
    """The file that a row names; where it is not there under this name, the one with the same text
    in other bytes.
    """
    path = Path(os.path.normpath(folder / written))
    if os.path.lexists(path):
        return path
    as_written = (
        folder / written
    )  # `link/../a.wav` is beside what the link leads to, which normpath does not know
    return as_written if os.path.exists(as_written) else folders.same_text(path) or path  # noqa: PTH110


def _duration(where: str, text: str, problems: list[str]) -> float | None:
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        problems.append(
            f"{where}: duration_s {text!r}; expected seconds such as 3.25, or nothing where unknown."
        )
        return None
    return value


def _librispeech(source: str) -> Corpus:
    """The subsets named after ``#``: text, speaker, domain and split from the tree's own files."""
    root_text, _, subsets_text = source.removeprefix(LIBRISPEECH).partition("#")
    root = Path(root_text)
    known = sorted(item.name for item in root.glob("*-*") if item.is_dir()) if root.is_dir() else []
    subsets = list(dict.fromkeys(name.strip() for name in subsets_text.split(",") if name.strip()))
    unknown = [name for name in subsets if name not in known]
    if not subsets or unknown:
        raise ProbeError(
            f"{source}: {'subset ' + ', '.join(unknown) + ' not found' if unknown else 'no subsets named'} in {root}; "
            f"found {', '.join(known) or 'no subsets'}. Write {LIBRISPEECH}ROOT#dev-clean,test-clean with ROOT the folder "
            "that holds dev-clean and its like."
        )
    sexes = _librispeech_sexes(root / "SPEAKERS.TXT")
    utterances: list[Utterance] = []
    for subset in subsets:
        split = subset.split("-")[0]
        if split not in SPLITS:
            raise ProbeError(
                f"{source}: subset {subset} starts with {split!r}; expected train-, dev- or test-."
            )
        domain = "other" if "other" in subset else "clean"
        found = [
            item
            for transcript in sorted((root / subset).glob("*/*/*.trans.txt"))
            for item in _transcript(transcript)
        ]
        if not found:
            raise ProbeError(
                f"{root / subset}: no */*/*.trans.txt; expected LibriSpeech's speaker/chapter folders."
            )
        for identifier, text, path in found:
            speaker = identifier.split("-")[0]
            extra = {
                "subset": subset,
                "chapter": identifier.split("-")[1],
                "sex": sexes.get(speaker, ""),
            }
            utterances.append(
                Utterance(
                    identifier,
                    path,
                    text,
                    f"ls-{speaker}",
                    f"librispeech-{domain}",
                    split,
                    None,
                    extra,
                )
            )
    rows = "\n".join(
        f"{item.key}\t{item.text}\t{item.speaker}\t{item.split}" for item in utterances
    )
    columns = ("text", "speaker", "domain", "split", "subset", "chapter", "sex")
    sha256 = hashlib.sha256(rows.encode()).hexdigest()
    return Corpus("librispeech-" + "+".join(subsets), sha256, tuple(utterances), columns, root)


def _transcript(transcript: Path) -> Iterable[tuple[str, str, Path]]:
    """(id, text, audio file) of each line of one chapter's transcript."""
    try:
        lines = transcript.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ProbeError(
            f"{transcript}: byte {error.start} is not UTF-8. Fetch the file again."
        ) from error
    for number, line in enumerate(lines, start=1):
        identifier, _, text = line.strip().partition(" ")
        path = transcript.parent / f"{identifier}.flac"
        if identifier.count("-") != 2 or not path.exists():
            raise ProbeError(
                f"{transcript} line {number}: {path.name} not found beside it; expected `speaker-chapter-number TEXT` and its flac."
            )
        yield identifier, text, path


def _librispeech_sexes(path: Path) -> dict[str, str]:
    """Speaker -> F or M, from LibriSpeech's ``SPEAKERS.TXT`` where it is there."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    fields = [
        [part.strip() for part in line.split("|")]
        for line in lines
        if line and not line.startswith(";")
    ]
    return {parts[0]: parts[1] for parts in fields if len(parts) > 1}
