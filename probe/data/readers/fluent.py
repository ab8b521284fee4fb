"""Fluent Speech Commands as it is unpacked (Lugosch et al. 2019, arXiv:1904.03670).

``data/train_data.csv``, ``valid_data.csv`` and ``test_data.csv`` name the recordings below the
root, with speaker, transcript and the slots ``action``, ``object`` and ``location``; the column
``intent`` has all three, such as ``activate|lights|kitchen``.
"""

import dataclasses

from probe.data.readers.reading import Reader, Reading, Row, Source
from probe.data.readers.table import read_table
from probe.errors import ProbeError

FOLDER = "data"
TABLES = {"train": "train_data.csv", "dev": "valid_data.csv", "test": "test_data.csv"}
SLOTS = ("action", "object", "location")


def read_fluent(source: Source) -> Reading:
    """The rows of the three tables of ``fluent:ROOT``.

    Raises:
        ProbeError: parts are named, a table is not there or has not these columns, or what
            `probe.data.readers.table.read_table` raises.
    """
    if source.parts:
        raise ProbeError(
            f"{source.text}: Fluent Speech Commands has no parts; write fluent:{source.root}."
        )
    parts = tuple((split, f"{FOLDER}/{name}") for split, name in TABLES.items())
    reading = read_table(Source(source.text, source.root, parts))
    rows = [_row(row) for row in reading.rows]
    columns = (*reading.columns, "intent")
    return dataclasses.replace(reading, name="fluent", columns=columns, rows=rows)


def _row(row: Row) -> Row:
    """A row with its intent, and with a path from the root."""
    if missing := [name for name in (*SLOTS, "speaker") if name not in row.values]:
        raise ProbeError(
            f"{row.where}: no column {', '.join(missing)}; expected those of Fluent Speech "
            "Commands: path, speakerId, transcription, action, object, location."
        )
    path = row.values["path"].removeprefix(f"{FOLDER}/")
    intent = "|".join(row.values[name] for name in SLOTS)
    return Row(row.where, {**row.values, "path": path, "intent": intent})


READERS = (
    Reader(
        "fluent",
        "Fluent Speech Commands",
        read_fluent,
        lambda path: all((path / FOLDER / name).is_file() for name in TABLES.values()),
    ),
)
