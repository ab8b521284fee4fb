"""Corpora as CSV manifests.

A manifest is UTF-8 CSV with the columns ``path,text,speaker,domain,split,duration_s`` and any
others. Columns that promise a part of a file, a single channel or a gain are refused: toolkits have
such columns (NeMo: ``offset`` and ``duration``; Kaldi: ``start`` and ``end``; lhotse: ``channel``),
and a column that is ignored gives wrong features.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from probe.data.csv_tables import Rows, decoded_table, table_rows
from probe.data.readers.reading import COLUMNS, Reader, Reading, Row, Source
from probe.errors import ProbeError, refuse_problems


@dataclass(frozen=True)
class Promise:
    """A group of columns, by what they would have layerprobe do.

    Attributes:
        words: a column belongs to the group if its name is one of these, beside words that only say
            of what or in which unit.
        values: a pattern of the values that would do it; a column of other values is a label.
        meaning: what the values say, in a message.
        remedy: what to do.
    """

    words: frozenset[str]
    values: re.Pattern[str]
    meaning: str
    remedy: str


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Numbers, also with a unit, and times such as 0:01:02.5.
NUMBER = re.compile(
    r"[-+]?(\d+:)*(\d+[.,]?\d*|[.,]\d+)(e[-+]?\d+)?\s*(s|sec|ms|x|%|db)?", re.IGNORECASE
)
CHANNEL = re.compile(
    r"\[?\d+(\s*[,;]\s*\d+)*\]?|[ablr]|left|right|(ch|channel)\s*\d+", re.IGNORECASE
)
PROMISES = (
    Promise(
        _words(
            "start begin beginning onset offset from to end ending stop finish tmin tmax xmin xmax"
        ),
        NUMBER,
        "a part of a file",
        "Cut each part into a file of its own and remove the column",
    ),
    Promise(
        _words("duration dur"),
        NUMBER,
        "how much of a file is meant",
        "Put the length of the whole file into duration_s, in seconds, and remove this column; "
        "cut parts into files of their own",
    ),
    Promise(
        _words("channel channels chan ch"),
        CHANNEL,
        "a channel of a file",
        "Split the channels into files of their own and remove the column",
    ),
    Promise(
        _words("gain volume speed tempo"),
        NUMBER,
        "a change of the sound",
        "Change the files, or name a condition with --condition (docs/conditions.md), and remove "
        "the column",
    ),
)
# Words beside those of a promise: of what, and in which unit. A column with any other word in its
# name is a label.
NEUTRAL_WORDS = _words(
    "s sec secs second seconds ms msec millisecond milliseconds sample samples frame frames "
    "time times timestamp timestamps at position pos index idx id segment seg utt utterance clip "
    "chunk cut audio wav speech recording rec file source turn vad trim crop db factor"
)


def read_manifest(source: Source) -> Reading:
    """The rows of a CSV manifest.

    Raises:
        ProbeError: no such file, wrong encoding, missing columns, rows that are not CSV, columns
            that would change what is heard.
    """
    path = source.path
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise ProbeError(
            f"{path}: {problem}; expected a CSV manifest with the columns {','.join(COLUMNS)}."
        )

    def is_file(name: str) -> bool:
        try:
            return (path.parent / name).is_file()
        except (OSError, ValueError):  # a name may be any text
            return False

    content = path.read_bytes()
    remedy = "Add the column and leave it empty where a value is unknown."
    columns, rows = table_rows(path, decoded_table(path, content), COLUMNS, is_file, remedy)
    refuse_problems([f"{path} line {line}: {reason}" for line, reason in refused_columns(rows)])
    sha256 = hashlib.sha256(content).hexdigest()
    corpus_rows = [Row(f"{path} line {line}", values) for line, values in rows]
    return Reading(path.stem, sha256, path.parent, columns, corpus_rows)


def promise_of(column: str) -> Promise | None:
    """The group of a column's name, however its words are joined (``segment_startMs``)."""
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", column)
    words = set(re.split(r"[\W_]+", parts.lower())) - {""}
    for promise in PROMISES:
        if words & promise.words and words <= promise.words | NEUTRAL_WORDS:
            return promise
    return None


def refused_columns(rows: Rows) -> Iterator[tuple[int, str]]:
    """(first line, reason) of each column that would change what is heard."""
    for column in rows[0][1] if rows else ():
        promise = promise_of(column)
        if promise is None or column == "duration_s":  # it is compared with the audio
            continue
        values = [(line, row[column].strip()) for line, row in rows]
        matches = [(line, value) for line, value in values if promise.values.fullmatch(value)]
        if matches:
            line, value = matches[0]
            yield (
                line,
                f"column {column} names {promise.meaning} ({value!r}), in {len(matches)} of "
                f"{len(rows)} rows; layerprobe reads whole files and averages their channels. "
                f"{promise.remedy}. If the column is a label, rename it to label_{column}.",
            )


READERS = (
    Reader(
        "csv",
        "table with a header and the column path",
        read_manifest,
        lambda path: path.is_file() and path.suffix.lower() == ".csv",
    ),
)
