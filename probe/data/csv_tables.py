"""CSV tables that people write: manifests, intervals, lists of trials. UTF-8, commas, a header;
fields may be of any length.
"""

import csv
import io
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from probe.errors import ProbeError
from probe.foreign_files import HEAD_BYTES, true_form

SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "vertical bars"}

Rows = list[tuple[int, dict[str, str]]]  # the line that each begins on, column -> value


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
    if form:
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
            f"{path} line {line}: a NUL character; is this a CSV file (or UTF-16)? "
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
    """The columns and rows of a table; rows without any value are left out.

    Args:
        expected: required columns.
        is_utterance: whether a text names an utterance, as a field of each row does.
        remedy: what to do where a column is missing.

    Raises:
        ProbeError: another separator, a missing or doubled column, a row with too few or too many
            fields, a double quote that was never closed.
    """
    _refuse_other_separator(path, text, expected)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: Rows = []
    line = 1  # where the row begins; a quoted field may span several lines
    limit = csv.field_size_limit(sys.maxsize)  # the default is shorter than an hour's transcript
    try:
        columns = [name.strip() for name in next(reader, [])]
        _check_columns(path, columns, expected, remedy)
        line = reader.line_num + 1
        for values in reader:
            where = f"{path} line {line}"
            if any(values):
                if len(values) != len(columns):
                    raise ProbeError(
                        f"{where}: {len(values)} fields; the header has {len(columns)}. "
                        "Put text that contains commas in double quotes."
                    )
                _refuse_rows_in_quotes(where, values, is_utterance)
                rows.append((line, dict(zip(columns, values, strict=True))))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ProbeError(
            f"{path} line {line}: not readable as CSV ({error}). Check the double quotes."
        ) from error
    finally:
        csv.field_size_limit(limit)
    return columns, rows


def _refuse_other_separator(path: Path, text: str, expected: Sequence[str]) -> None:
    """Raises where the header has the expected columns, but not between commas."""
    header = next(iter(text.splitlines()), "")

    def names(separator: str) -> set[str]:
        return {name.strip().strip('"') for name in header.split(separator)}

    if set(expected) <= names(","):
        return
    for separator, word in SEPARATORS.items():
        if set(expected) & names(separator) - {header.strip()}:
            raise ProbeError(
                f"{path} line 1: the columns are separated by {word}; expected commas. Save the "
                "file with commas, and with double quotes around text that contains commas."
            )


def _check_columns(
    path: Path, columns: Sequence[str], expected: Sequence[str], remedy: str
) -> None:
    if missing := [name for name in expected if name not in columns]:
        raise ProbeError(
            f"{path} line 1: column {', '.join(missing)} missing; "
            f"found {', '.join(columns) or 'an empty file'}; "
            f"expected {','.join(expected)} and any others. {remedy}"
        )
    if twice := sorted(name for name, count in Counter(columns).items() if count > 1):
        raise ProbeError(
            f"{path} line 1: column {', '.join(twice)} occurs twice. Rename one of them."
        )


def _refuse_rows_in_quotes(
    where: str, values: Sequence[str], is_utterance: Callable[[str], bool]
) -> None:
    """Raises where a field spans several lines, and a later one names an utterance."""
    for line in (line for value in values for line in value.splitlines()[1:]):
        if any(is_utterance(field.strip(' "')) for field in line.split(",") if field):
            raise ProbeError(
                f"{where}: a quoted field continues to the row {line[:60]!r}; expected its closing "
                'double quote before. Close it, or write a quote that is part of a text as "" '
                "within a quoted field."
            )
