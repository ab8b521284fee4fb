"""What a reader of corpora is, and the rows that it returns before anything is checked.

A source is written ``FORM:ROOT#PART,PART``. Parts are files or folders below the root, such as the
subsets of LibriSpeech or the folders of a Kaldi recipe; ``SPLIT=PART`` says which split a part is.
Readers know a form on disk; `probe.data.corpus` checks the rows of all of them in one place.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from probe.data.excerpts import EXCERPT_COLUMNS
from probe.remote.paths import as_path

# Columns with a meaning; only ``path`` is compulsory. Any other column can be a label.
COLUMNS = ("path", "text", "speaker", "domain", "split", "duration_s")
MEANINGS = frozenset((*COLUMNS, "id", *EXCERPT_COLUMNS))
SPLITS = ("train", "dev", "test", "noise")
# Other words for splits, as toolkits write them.
SPLIT_WORDS = {
    **{name: name for name in SPLITS},
    **dict.fromkeys(("training", "tr"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "development", "cv"), "dev"),
    **dict.fromkeys(("testing", "eval", "evaluation"), "test"),
}


def split_word(word: str) -> str:
    """The split that a word, in small letters or capitals, stands for; the word where none."""
    return SPLIT_WORDS.get(word.lower(), word)


class Row(NamedTuple):
    """One utterance.

    Attributes:
        where: file and line, for messages.
        values: column -> text; ``path`` is relative to the folder of the corpus, an empty or
            missing value means unknown, and ``id`` names the utterance.
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
        rows: read once; the iterator may raise what `Reader.read` raises.
    """

    name: str
    sha256: str
    folder: Path
    columns: Sequence[str]
    rows: Iterable[Row]


@dataclass(frozen=True)
class Source:
    """What a corpus is read from.

    Attributes:
        text: as it was written.
        root: file, folder, or name.
        parts: (split or nothing, part) for each part that was named.
    """

    text: str
    root: str
    parts: tuple[tuple[str, str], ...] = ()

    @property
    def path(self) -> Path:
        """The root as a path."""
        return as_path(self.root)


@dataclass(frozen=True)
class Reader:
    """One form of corpora.

    Attributes:
        form: the word before the colon.
        title: what the form is, for lists.
        read: returns the rows, and raises `probe.errors.ProbeError` with file, line and remedy.
        recognises: whether a path is clearly of this form, so that the word may be left out.
        is_general: whether a path that another reader recognises is of that other form.
    """

    form: str
    title: str
    read: Callable[[Source], Reading]
    recognises: Callable[[Path], bool] = lambda path: False
    is_general: bool = False
