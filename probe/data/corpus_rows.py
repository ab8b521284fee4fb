"""What a reader of corpora returns: rows as they are written, before anything is checked.

Readers (`probe.data.manifest`, `probe.data.librispeech`) know a form on disk;
`probe.data.corpus` checks the rows of all of them in one place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

COLUMNS = ("path", "text", "speaker", "domain", "split", "duration_s")


@dataclass(frozen=True)
class Row:
    """One utterance.

    Attributes:
        where: file and line, for messages.
        values: column -> text, of `COLUMNS` and any others; ``path`` is relative to the folder of
            the corpus, empty means unknown, and ``id`` (optional) names the utterance.
    """

    where: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class Reading:
    """All rows of a corpus.

    Attributes:
        name: of the corpus, as records have it.
        sha256: of what was read.
        folder: that paths are relative to.
        columns: of the rows.
    """

    name: str
    sha256: str
    folder: Path
    columns: Sequence[str]
    rows: Sequence[Row]
