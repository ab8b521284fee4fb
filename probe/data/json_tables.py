"""JSON tables: an object per line (NeMo), a list of objects, or an object of objects by their ids
(SpeechBrain).
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from probe.errors import ProbeError

EXPECTED = (
    "an object of fields per line, a list of such objects, or an object that has them by their ids"
)


def json_records(path: Path, text: str) -> tuple[str, Iterator[tuple[int, dict[str, Any]]]]:
    """``line`` or, in a document of one value, ``entry``; and (its number, fields) of each record.

    Raises:
        ProbeError: text that is not JSON, another value than an object, a name that occurs twice,
            with the line; the iterator raises it too.
    """
    first, _, rest = text.strip().partition("\n")
    is_document = first.startswith("[") or first == "{"
    if not is_document and not rest.strip():
        is_document = _is_by_id(_parsed(path, 1, first))
    if not is_document:
        return "line", _of_lines(path, text)
    document = _parsed(path, 0, text)
    if _is_by_id(document):
        document = [{"id": name} | fields for name, fields in document.items()]
    if not isinstance(document, list):
        raise ProbeError(f"{path}: other values than objects; expected {EXPECTED}.")
    return "entry", _of_list(path, document)


def _of_list(path: Path, records: Sequence[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, record in enumerate(records, start=1):
        yield number, _fields(f"{path} entry {number}", record)


def _of_lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = tqdm(
        text.split("\n"), desc=f"read {path.name}", unit="line", delay=1, leave=False, disable=None
    )
    for number, line in enumerate(lines, start=1):
        if line and not line.isspace():
            yield number, _fields(f"{path} line {number}", _parsed(path, number, line))


def _is_by_id(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(fields, dict) for fields in value.values())
    )


def _fields(where: str, record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise ProbeError(f"{where}: {str(record)[:60]!r} is no object; expected {EXPECTED}.")
    return record


def _parsed(path: Path, line: int, text: str) -> Any:
    """The value of one line, or of the whole text where ``line`` is 0."""
    try:
        return DECODER.decode(text)
    except json.JSONDecodeError as error:
        place = f"line {line or error.lineno}"
        raise ProbeError(
            f"{path} {place}: not JSON ({error.msg} at character {error.colno}); expected "
            f"{EXPECTED}. Correct the line."
        ) from error
    except _DoubledError as error:
        where = f"{path} line {line}" if line else f"{path}"
        raise ProbeError(f"{where}: {error} occurs twice. Rename or remove one of them.") from error
    except RecursionError as error:
        raise ProbeError(
            f"{path}: objects within objects, too deep; expected {EXPECTED}."
        ) from error


class _DoubledError(Exception):
    """A name that occurs twice in one object."""


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise _DoubledError(repr(next(name for name in names if names.count(name) > 1)))
    return record


DECODER = json.JSONDecoder(object_pairs_hook=_without_doubles)  # making one takes as long as a line
