"""CSV files that people write: manifests, intervals, lists of trials. UTF-8, commas, a header;
fields may be of any length.
"""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from probe.errors import ProbeError
from probe.foreign_files import HEAD_BYTES, true_form

SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "vertical bars"}


def decoded_table(path: Path, content: bytes) -> str:
    """The text of a table.

    Raises:
        ProbeError: another format, which is named; another encoding; NUL characters.
    """
    what, remedy = true_form(content[:HEAD_BYTES])
    if what == "JSON":  # manifests of NeMo, lhotse and SpeechBrain
        remedy = "Save it as CSV in UTF-8"
    if what:
        raise ProbeError(f"{path}: the file is {what}; expected a CSV table. {remedy}.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ProbeError(
            f"{path} line {line}: byte {content[error.start]:#04x} is not UTF-8. Save the file as UTF-8."
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ProbeError(
            f"{path} line {line}: a NUL character; is this a CSV file (or UTF-16)? Save it as UTF-8 text."
        )
    return text


def refuse_other_separator(path: Path, text: str, expected: Sequence[str]) -> None:
    """Raises where the header has the expected columns, but not between commas."""
    header = next(iter(text.splitlines()), "")
    if set(expected) <= _names(header, ","):
        return
    for separator, name in SEPARATORS.items():
        if set(expected) & _names(header, separator) - {header.strip()}:
            raise ProbeError(
                f"{path} line 1: the columns are separated by {name}; expected commas. Save the file with commas, and with double "
                "quotes around text that contains commas."
            )


def _names(header: str, separator: str) -> set[str]:
    return {name.strip().strip('"') for name in header.split(separator)}


@contextmanager
def long_fields() -> Iterator[None]:
    """Lets `csv` read fields of any length: its own limit of 131,072 characters is shorter than an
    hour's transcript may be.
    """
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def table_rows(path: Path, text: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """(columns, (line, column -> value) of each data row); a row's line is the one it ends on,
    missing values are empty.

    Raises:
        ProbeError: what cannot be read as CSV.
    """
    with long_fields():
        try:
            reader = csv.DictReader(io.StringIO(text, newline=""), restval="", strict=True)
            rows = [(reader.line_num, row) for row in reader]
        except csv.Error as error:
            raise ProbeError(
                f"{path}: not readable as UTF-8 CSV ({error}). Mind the double quotes."
            ) from error
    return list(reader.fieldnames or []), rows
