"""CSV tables that people write: manifests, intervals, lists of trials. UTF-8 with a header, and
fields of any length.
"""

import csv
import io
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from probe.errors import ProbeError
from probe.foreign_files import HEAD_BYTES, true_form

SEPARATORS = {",": "commas", "\t": "tabs", "|": "vertical bars", ";": "semicolons"}
MOST_CHARACTERS = 100_000  # of a header
BLOCK = 1 << 20  # characters that are split into lines at a time

Rows = list[tuple[int, dict[str, str]]]  # the line that each begins on, column -> value
Records = list[tuple[int, list[str]]]  # the line that each begins on, values


def decoded_table(path: Path, content: bytes, expected: str = "a CSV table") -> str:
    """The text of a table.

    Args:
        expected: what the file should be, for messages.

    Raises:
        ProbeError: another format, which is named; another encoding; NUL characters.
    """
    form, remedy = true_form(content[:HEAD_BYTES])
    if form == "JSON":  # manifests of NeMo, lhotse and SpeechBrain
        remedy = "Save it as CSV in UTF-8"
    if form and not (form == "JSON" and form in expected):
        raise ProbeError(f"{path}: the file is {form}; expected {expected}. {remedy}.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        byte = f"{content[error.start]:#04x}"
        raise ProbeError(
            f"{path} line {line}: byte {byte} is not UTF-8. Save the file as UTF-8."
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ProbeError(
            f"{path} line {line}: a NUL character; is this {expected} (or UTF-16)? "
            "Save it as UTF-8 text."
        )
    return text


def table_rows(
    path: Path,
    text: str,
    expected: Sequence[str],
    is_utterance: Callable[[str], bool],
    remedy: str = "Add the column.",
) -> tuple[list[str], Rows]:
    """The columns and rows of a table with commas; rows without any value are left out.

    Args:
        expected: required columns.
        is_utterance: whether a text names an utterance, as a field of each row does.
        remedy: what to do where a column is missing.

    Raises:
        ProbeError: another separator, a missing or doubled column, a row with too few or too many
            fields, a double quote that was never closed.
    """
    number, header = header_of(text)
    columns = names_in(header, ",")
    if missing := [name for name in expected if name not in columns]:
        refuse_comment(f"{path} line {number}", header)
        _refuse_other_separator(f"{path} line {number}", header, expected)
        raise ProbeError(
            f"{path} line {number}: column {', '.join(missing)} missing; "
            f"found {', '.join(columns) or 'an empty file'}; "
            f"expected {','.join(expected)} and any others. {remedy}"
        )
    columns, records = csv_records(path, text, ",", is_utterance)
    return columns, [(line, dict(zip(columns, values, strict=True))) for line, values in records]


def csv_records(
    path: Path,
    text: str,
    separator: str,
    is_utterance: Callable[[str], bool],
    is_quoted: bool = True,
) -> tuple[list[str], Records]:
    """The columns and records of a table; records without any value are left out.

    Args:
        is_utterance: whether a text names an utterance, as a field of each record does.
        is_quoted: whether double quotes enclose fields; otherwise they are characters like others.

    Raises:
        ProbeError: a doubled column, a record with too few or too many fields, a double quote that
            was never closed.
    """
    lines = itertools.chain.from_iterable(_blocks(path, text))
    reader = csv.reader(
        lines,
        strict=True,
        delimiter=separator,
        quoting=csv.QUOTE_MINIMAL if is_quoted else csv.QUOTE_NONE,
    )
    records: Records = []
    line, n_lines = 1, 0  # where the record begins; a quoted field may span several lines
    limit = csv.field_size_limit(sys.maxsize)  # the default is shorter than an hour's transcript
    try:
        columns: list[str] = []
        while not any(columns) and (names := next(reader, None)) is not None:
            line = n_lines + 1
            columns, n_lines = [name.strip() for name in names], reader.line_num
        refuse_doubled(f"{path} line {line}", columns)
        n_columns = len(columns)
        line = n_lines = reader.line_num + 1
        for values in reader:
            if any(values):
                if len(values) != n_columns:
                    what = SEPARATORS[separator]
                    raise ProbeError(
                        f"{path} line {line}: {len(values)} fields; the header has {n_columns}. "
                        + (
                            f"Put text that contains {what} in double quotes."
                            if is_quoted
                            else f"Remove {what} from texts."
                        )
                    )
                if reader.line_num > n_lines:
                    _refuse_rows_in_quotes(f"{path} line {line}", values, separator, is_utterance)
                records.append((line, values))
            line = n_lines = reader.line_num + 1
    except csv.Error as error:
        raise ProbeError(
            f"{path} line {line}: not readable as CSV ({error}). Check the double quotes."
        ) from error
    finally:
        csv.field_size_limit(limit)
    return columns, records


def _blocks(path: Path, text: str) -> Iterator[io.StringIO]:
    """The text in files of whole lines, which take four bytes per character each."""
    start = 0
    with tqdm(
        desc=f"read {path.name}",
        total=len(text),
        unit="B",
        unit_scale=True,
        delay=1,
        leave=False,
        disable=None,
    ) as bar:
        while start < len(text):
            stop = text.find("\n", start + BLOCK) + 1 or len(text)
            yield io.StringIO(text[start:stop], newline="")
            bar.update(stop - start)
            start = stop


def header_of(text: str) -> tuple[int, str]:
    """(number, text without its end) of the first line of a table that has any value."""
    lines = io.StringIO(text[:MOST_CHARACTERS], newline=None)
    blank = " ".join(SEPARATORS)
    numbered = ((n, line.rstrip("\n")) for n, line in enumerate(lines, start=1))
    return next(((n, line) for n, line in numbered if line.strip(blank)), (1, ""))


def names_in(header: str, separator: str) -> list[str]:
    """The names in a header."""
    names = next(csv.reader([header[:MOST_CHARACTERS]], delimiter=separator), [])
    return [name.strip() for name in names]


def refuse_comment(where: str, header: str) -> None:
    """Raises where a line without the names of columns begins with ``#``."""
    if header.lstrip().startswith("#"):
        raise ProbeError(
            f"{where}: {header.strip()[:60]!r} is a comment; expected the names of the columns. "
            "Remove the line, or the # before the names."
        )


def refuse_doubled(where: str, columns: Sequence[str]) -> None:
    """Raises where a column occurs twice."""
    if twice := sorted(name for name, count in Counter(columns).items() if count > 1):
        raise ProbeError(f"{where}: column {', '.join(twice)} occurs twice. Rename one of them.")


def _refuse_other_separator(where: str, header: str, expected: Sequence[str]) -> None:
    """Raises where the header has the expected columns, but not between commas."""
    for separator, word in SEPARATORS.items():
        if separator != "," and set(expected) & set(names_in(header, separator)) - {header.strip()}:
            raise ProbeError(
                f"{where}: the columns are separated by {word}; expected commas. Save the "
                "file with commas, and with double quotes around text that contains commas."
            )


def _refuse_rows_in_quotes(
    where: str, values: Sequence[str], separator: str, is_utterance: Callable[[str], bool]
) -> None:
    """Raises where a field spans several lines, and a later one names an utterance."""
    for line in (line for value in values for line in value.splitlines()[1:]):
        if any(is_utterance(field.strip(' "')) for field in line.split(separator) if field):
            raise ProbeError(
                f"{where}: a quoted field continues to the row {line[:60]!r}; expected its closing "
                'double quote before. Close it, or write a quote that is part of a text as "" '
                "within a quoted field."
            )
