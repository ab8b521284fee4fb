"""What readers of folders share: lists that are no tables, splits by name, hashes of rows."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from probe.data.csv_tables import decoded_table
from probe.data.readers.reading import SPLIT_WORDS, SPLITS, Row, Source
from probe.errors import ProbeError

# These words name a split where they are the whole name: `cv-corpus` is no dev set.
WHOLE_NAMES = ("tr", "cv")


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """(file and line, text) of each line that has any.

    Only line feeds end lines: transcripts may hold the other characters that Python takes for ends.

    Raises:
        ProbeError: no such file, another format, which is named, or another encoding than UTF-8.
    """
    if not path.is_file():
        raise ProbeError(f"{path}: does not exist; expected a text file in UTF-8.")
    text = decoded_table(path, path.read_bytes(), "a text file in UTF-8")
    name = str(path)
    for number, line_text in enumerate(text.split("\n"), start=1):
        if stripped := line_text.strip(" \t\r"):
            yield f"{name} line {number}", stripped


def split_of(name: str) -> str:
    """The split that a name has a word for; empty where it has none or words for several.

    >>> split_of("dev-clean"), split_of("eval2000"), split_of("train_dev"), split_of("cv_corpus")
    ('dev', 'test', '', '')
    """
    whole = name.lower()
    if whole in SPLIT_WORDS:
        return SPLIT_WORDS[whole]
    words = {word for word in re.findall("[a-z]+", whole) if word not in WHOLE_NAMES}
    splits = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    return splits.pop() if len(splits) == 1 else ""


def split_of_part(source: Source, split: str, part: str) -> str:
    """The split of a part: as it was written, or by the part's name.

    Raises:
        ProbeError: neither says it.
    """
    if found := split or split_of(part.rstrip("/").rpartition("/")[2]):
        return found
    raise ProbeError(
        f"{source.text}: the name of the part {part!r} has no word for one split; expected one of "
        f"{', '.join(SPLITS)}. Write train={part}, or whichever split it is."
    )


def values_sha256(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """The hash of rows, whose paths count only where they have no id.

    The same corpus in another folder keeps its hash.
    """
    digest = hashlib.sha256()
    names_with_id = [name for name in columns if name != "path"]
    for row in rows:
        values: Mapping[str, str] = row.values
        names = names_with_id if values.get("id") else columns
        digest.update(json.dumps([values.get(name, "") for name in names]).encode() + b"\n")
    return digest.hexdigest()
