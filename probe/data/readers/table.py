"""Tables: text with commas, tabs, vertical bars or semicolons, JSON, Parquet, and DataFrames.

The content decides which of them a file is. Only the column of paths is compulsory;
`probe.data.readers.columns` has the names that columns may have. Layouts that are known by their
own marks: Common Voice (a column ``client_id``, audio in ``clips/``) and LJSpeech (bars without a
header, audio in ``wavs/``).
"""

import dataclasses
import hashlib
import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.data.csv_tables import (
    SEPARATORS,
    csv_records,
    decoded_table,
    header_of,
    names_in,
    refuse_comment,
    refuse_doubled,
)
from probe.data.json_tables import json_records
from probe.data.readers.columns import ALIASES, Columns, Table, columns_of, plain_name
from probe.data.readers.reading import SPLIT_WORDS, Reader, Reading, Row, Source, split_word
from probe.errors import ProbeError, listed, refuse_problems
from probe.foreign_files import HEAD_BYTES, true_form
from probe.remote.paths import RemotePath

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("probe")

ENDINGS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
# SpeechBrain's name for the folder of the audio.
DATA_ROOT = re.compile(r"(\$data_root|\$?\{data_root\})/*", re.IGNORECASE)
REPEATED = ("speaker", "domain", "split")  # columns of few different values, which are kept once
LJSPEECH = {2: ("id", "text"), 3: ("id", "raw_text", "text")}


def read_table(source: Source) -> Reading:
    """The rows of a table, or of the tables of a folder that are named after ``#``.

    Raises:
        ProbeError: no such file, wrong encoding, no column of paths, rows that cannot be read,
            columns that would change what is heard and cannot be used.
    """
    root = source.path
    files = _files(source)
    readings = [_reading(path, split, root) for path, split in files]
    if len(files) == 1 and not source.parts:
        return readings[0]
    lines = [
        f"{split} {reading.sha256}" for (_, split), reading in zip(files, readings, strict=True)
    ]
    return Reading(
        f"{root.resolve().name}-{'+'.join(path.stem for path, _ in files)}",
        hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        root,
        tuple(dict.fromkeys(name for reading in readings for name in reading.columns)),
        Rows([reading.rows for reading in readings]),
    )


def read_frame(frame: "pd.DataFrame", folder: Path, name: str) -> Reading:
    """The rows of a DataFrame; paths are relative to ``folder``, and the index is not read.

    Args:
        name: of the corpus.
    """
    table = _of_frame("DataFrame", frame)
    columns = columns_of(table)
    text = json.dumps([list(table.columns), *map(list, table.rows)])
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return Reading(name, sha256, folder, columns.names, TableRows(table, columns))


class Rows:
    """The rows of several tables, one after the other."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __iter__(self) -> Iterator[Row]:
        for part in self._parts:
            yield from part


@dataclasses.dataclass(frozen=True)
class TableRows:
    """The rows of one table, made one at a time.

    Attributes:
        prefix: folder before each path that is not absolute, empty or with a slash behind it.
        split: of the rows that have none.
        is_split_sure: whether a row of another split is a mistake.
    """

    table: Table
    columns: Columns
    prefix: str = ""
    split: str = ""
    is_split_sure: bool = False

    def __len__(self) -> int:
        return len(self.table.rows)

    def __iter__(self) -> Iterator[Row]:
        problems: list[str] = []
        splits: dict[str, str] = {}  # word -> our name of the split
        repeated = [name for name in REPEATED if name in self.columns.names]
        rows = self.table.rows
        place = f"{self.table.file} {self.table.unit}"
        for index, number in enumerate(self.table.numbers):
            cells, rows[index] = rows[index], ()  # they are read once: the corpus keeps its own
            where = f"{place} {number}"
            try:
                values = self.columns.values(cells)
            except ValueError as error:
                problems.append(f"{where}: {error}.")
                continue
            written = values["path"]
            if self.prefix or written.startswith(("$", "{")):
                values["path"] = self._path(written)
            word = values.get("split", "")
            if word not in splits:
                splits[word] = split_word(word) or self.split
            split = values["split"] = splits[word]
            for name in repeated:
                values[name] = sys.intern(values[name])
            if self.is_split_sure and split != self.split:
                problems.append(
                    f"{where}: split {word!r}, but the corpus was named with {self.split}= for "
                    "this table. Leave that out, or correct the row."
                )
            yield Row(where, values)
        refuse_problems(problems)
        renamed = [f"{word} as {ours}" for word, ours in splits.items() if word not in ("", ours)]
        if renamed:
            log.info("%s: splits are read under our names: %s", self.table.file, listed(renamed))

    def _path(self, written: str) -> str:
        if match := DATA_ROOT.match(written):
            root = os.environ.get("DATA_ROOT", "")
            return os.path.join(root, written[match.end() :])  # noqa: PTH118 - text
        return written if not self.prefix or written.startswith("/") else self.prefix + written


def _files(source: Source) -> list[tuple[Path, str]]:
    """(table, split that was named for it) of a source."""
    root = source.path
    if isinstance(root, RemotePath) or (root.is_file() and not source.parts):
        return [(root, "")]
    if not root.is_dir():
        problem = "is a file and has no parts" if root.is_file() else "does not exist"
        raise ProbeError(
            f"{source.text}: {root} {problem}; expected a table, or FOLDER#TABLE,TABLE."
        )
    if not source.parts and (root / "metadata.csv").is_file():
        return [(root / "metadata.csv", "")]
    tables = sorted(item.name for item in root.iterdir() if item.suffix.lower() in ENDINGS)
    files = []
    for split, part in source.parts:
        names = (
            [part]
            if (root / part).is_file()
            else [name for name in tables if Path(name).stem == part]
        )
        if len(names) != 1:
            problem = f"{part} may be {listed(names)}" if names else f"{part} not found"
            raise ProbeError(
                f"{source.text}: {problem} in {root}; found {listed(tables, 10) or 'no tables'}. "
                "Write FOLDER#TABLE,TABLE or FOLDER#SPLIT=TABLE with names of tables."
            )
        files.append((root / names[0], split))
    if not files:
        raise ProbeError(
            f"{source.text}: {root} is a folder; found {listed(tables, 10) or 'no tables'}. Write "
            "which of them are meant: FOLDER#train,dev,test, or FOLDER#train=TABLE,test=TABLE."
        )
    return files


def _reading(path: Path, split: str, root: Path) -> Reading:
    """The rows of one table; paths are relative to its folder, and become relative to ``root`` if
    that is a folder.
    """
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    table, place = _table(path, content)
    del content
    columns = columns_of(table)
    folder = path.parent
    name = folder.resolve().name if place or root.is_dir() else path.stem
    if not place and _has_clips(path, table):
        place = "clips"
    if root.is_dir():
        place = os.path.normpath(os.path.join(os.path.relpath(folder, root), place))  # noqa: PTH118
        folder = root
    prefix = "" if place in ("", ".") else f"{place}/"
    implied = split or (SPLIT_WORDS.get(path.stem.lower(), "") if root.is_dir() else "")
    rows = TableRows(table, columns, prefix, implied, bool(split))
    names = columns.names
    if implied and "split" not in names:
        names = (*names, "split")
    return Reading(name, sha256, folder, names, rows)


def _has_clips(path: Path, table: Table) -> bool:
    """Whether a table is Common Voice's, whose paths are relative to ``clips/`` beside it."""
    return "client_id" in table.columns and (path.parent / "clips").is_dir()


def _table(path: Path, content: bytes) -> tuple[Table, str]:
    """The table in a file, and the folder beside it that its paths are relative to."""
    if content.startswith(b"PAR1"):
        return _parquet(path, io.BytesIO(content) if isinstance(path, RemotePath) else path), ""
    is_json = true_form(content[:HEAD_BYTES])[0] == "JSON"
    text = decoded_table(path, content, "a JSON table" if is_json else "a CSV table")
    del content
    if is_json or text.lstrip().startswith("["):
        return table_of_records(str(path), *json_records(path, text)), ""
    number, header = header_of(text)
    separators = [
        separator
        for separator in SEPARATORS
        if {plain_name(name) for name in names_in(header, separator)} & set(ALIASES["path"])
    ]
    if not separators and (ending := _ending(path, header)):
        return _ljspeech(path, text, ending), "wavs"
    if not separators:
        refuse_comment(f"{path} line {number}", header)
    most = max(SEPARATORS, key=header.count)  # the columns that were found are named
    separator = separators[0] if separators else most

    def is_file(name: str) -> bool:
        try:
            return (path.parent / name).is_file()
        except (OSError, ValueError):  # a name may be any text
            return False

    readings, errors = {}, []
    for is_quoted in (True, False) if separator != "," and '"' in text else (True,):
        try:
            readings[is_quoted] = csv_records(path, text, separator, is_file, is_quoted)
        except ProbeError as error:
            errors.append(error)
    if not readings:
        raise errors[0]
    # Common Voice has texts that begin with a quote. A reading that joins lines swallows rows.
    is_quoted = max(readings, key=lambda item: len(readings[item][1]))
    columns, records = readings[is_quoted]
    if not is_quoted:
        log.info("%s: its double quotes are characters of texts, not around fields", path)
    numbers, rows = [line for line, _ in records], [values for _, values in records]
    return Table(str(path), columns, list(rows), numbers, header=number), ""


def _ending(path: Path, header: str) -> str:
    """The ending of the audio that the first line names, where it is LJSpeech's; else empty."""
    fields = header.split("|")
    if len(fields) not in LJSPEECH or "/" in fields[0]:
        return ""
    endings = (".wav", ".flac", ".mp3", ".ogg")
    files = [path.parent / "wavs" / f"{fields[0]}{ending}" for ending in endings]
    return next((file.suffix for file in files if file.is_file()), "")


def _ljspeech(path: Path, text: str, ending: str) -> Table:
    """The table of LJSpeech's ``metadata.csv``: id, text as printed, normalised text."""
    lines = [
        (number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()
    ]
    names = LJSPEECH[lines[0][1].count("|") + 1]
    rows = []
    for number, line in lines:
        fields = line.split("|")
        if len(fields) != len(names):
            raise ProbeError(
                f"{path} line {number}: {len(fields)} fields between vertical bars; the first line "
                f"has {len(names)}. Remove bars from texts."
            )
        rows.append([fields[0] + ending, *fields])
    return Table(str(path), ("path", *names), list(rows), [number for number, _ in lines])


def table_of_records(file: str, unit: str, records: Iterable[tuple[int, dict[str, Any]]]) -> Table:
    """The table of JSON objects, whose fields may differ."""
    places: dict[str, int] = {}
    rows: list[list[str]] = []
    numbers: list[int] = []
    for number, fields in records:
        row = [""] * len(places)
        for name, value in fields.items():
            is_nested = isinstance(value, dict | list)
            text = value if isinstance(value, str) else _text(value)
            if is_nested and plain_name(name) in ALIASES["path"]:
                raise ProbeError(
                    f"{file} {unit} {number}: {name} is {text[:60]}; expected the path of one "
                    "file. Write path, start, end and channel as fields of their own."
                )
            if isinstance(value, dict) and _has_path(value) and not _has_path(fields):
                raise ProbeError(
                    f"{file} {unit} {number}: {name} is the object {text[:60]}; expected the path "
                    "of one file. Write path, start, end (in seconds: samples divided by the "
                    "sampling rate) and channel as fields beside the others."
                )
            index = places.setdefault(name, len(row))
            if index == len(row):
                row.append(text)
            else:
                row[index] = text
        rows.append(row)
        numbers.append(number)
    for row in rows:
        row += [""] * (len(places) - len(row))
    return Table(file, tuple(places), list(rows), numbers, unit)


def _has_path(fields: dict[str, Any]) -> bool:
    return any(plain_name(name) in ALIASES["path"] for name in fields)


def _parquet(path: Path, source: Path | io.BytesIO) -> Table:
    try:
        import pandas as pd

        frame = pd.read_parquet(source)
    except ImportError as error:
        raise ProbeError(
            f"{path}: Parquet is read with pyarrow, which is not installed. "
            "Run `pip install layerprobe[parquet]`, or save the table as CSV in UTF-8."
        ) from error
    except (OSError, ValueError) as error:  # pyarrow's errors are kinds of these
        reason = str(error).splitlines()[0]
        raise ProbeError(f"{path}: not readable as Parquet ({reason}). Write it again.") from error
    return _of_frame(str(path), frame)


def _of_frame(file: str, frame: "pd.DataFrame") -> Table:
    """The table of a DataFrame, rows counted from 1."""
    names = [str(name) for name in frame.columns]
    refuse_doubled(file, names)
    columns = []
    for index, name in enumerate(names):
        series = _without_digits_of_binary(frame.iloc[:, index])
        values = series.astype(object).where(series.notna(), None)
        if plain_name(name) in ALIASES["path"] and any(
            isinstance(value, dict | bytes) for value in values
        ):
            raise ProbeError(
                f"{file}: column {name} holds audio itself, not paths. Write the audio to files "
                "and name them in the column."
            )
        columns.append([value if type(value) is str else _text(value) for value in values])
    rows = list(zip(*columns, strict=True))
    return Table(file, names, list(rows), range(1, len(rows) + 1), "row")


def _without_digits_of_binary(series: "pd.Series[Any]") -> "pd.Series[Any]":
    """Numbers of less than 64 bits as the shortest decimals that give them: 0.1, not
    0.10000000149011612.
    """
    bits = 8 * getattr(series.dtype, "itemsize", 8)
    if getattr(series.dtype, "kind", "") != "f" or bits >= 64:
        return series
    texts = series.to_numpy(f"float{bits}", na_value=float("nan")).astype(str)
    return type(series)(texts.astype(float))


def _text(value: Any) -> str:
    """A value as a manifest has it: nothing for none, whole numbers without a point, the items of a
    list between semicolons, anything else as JSON or as its own text.
    """
    if hasattr(value, "tolist"):  # numpy's
        value = value.tolist()
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list | tuple) and not any(isinstance(v, list | dict) for v in value):
        return ";".join(_text(item) for item in value)
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _recognises(path: Path) -> bool:
    """Whether a file has the ending of a table and a column of paths; ``.csv`` always is a table.

    A folder is that of Common Voice (``clips/`` beside tables with tabs) or of LJSpeech.
    """
    if path.is_dir():
        has_clips = (path / "clips").is_dir() and any(path.glob("*.tsv"))
        return has_clips or ((path / "wavs").is_dir() and (path / "metadata.csv").is_file())
    ending = path.suffix.lower()
    if ending != ".tsv" or not path.is_file():
        return ending == ".csv" and path.is_file()
    with path.open("rb") as file:
        header = file.read(HEAD_BYTES).decode("utf-8-sig", errors="replace")
    return "\t" in header_of(header)[1]  # fairseq's first line is a folder


def _recognises_json(path: Path) -> bool:
    """Whether the beginning of a file has a field of paths; lhotse's manifests have none."""
    if path.suffix.lower() not in (".jsonl", ".json") or not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES * 16).decode("utf-8-sig", errors="replace")
    is_lhotse = re.search(r'"(recording|recording_id|sources)"\s*:', head)
    return not is_lhotse and any(f'"{name}"' in head.lower() for name in ALIASES["path"])


def _recognises_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet" and path.is_file()


READERS = (
    Reader("csv", "table with a header: commas, tabs, bars", read_table, _recognises),
    Reader("jsonl", "table in JSON, or an object per line", read_table, _recognises_json),
    Reader("parquet", "table in Parquet", read_table, _recognises_parquet),
)
