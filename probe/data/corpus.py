"""Corpora: utterances, from whatever form they have on disk, checked in one place.

A row's empty value means unknown. An ``id`` names an utterance; otherwise its path does.
"""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from probe.brief import brief, counted
from probe.data.audio_bytes import refuse_outside, sha256_of_audio
from probe.data.excerpts import EXCERPT_COLUMNS, WHOLE, Excerpt
from probe.data.path_hints import Folders, why_missing
from probe.data.readers import registry
from probe.data.readers.reading import COLUMNS, MEANINGS, SPLIT_WORDS, SPLITS, Reading, Row
from probe.data.readers.table import read_frame
from probe.data.shared_recordings import SharedRecordings, beside
from probe.data.splits import rule_of_source, split_corpus
from probe.errors import ProbeError, UtteranceError, refuse_problems
from probe.files import is_utf8, unread
from probe.garbage import uncollected
from probe.remote.paths import RemoteFolders, RemotePath, audio_path, is_url

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("probe")

NO_LABELS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True, repr=False)
class Origin:
    """What many utterances of a corpus have in common; millions of copies would fill the memory.

    Attributes:
        folder: what stands before the files in their paths, with a slash at the end, or nothing.
        place: the manifest and what it is cut into, ``corpus.csv line``, for messages.
    """

    folder: str = ""
    place: str = field(default="", compare=False)

    def __repr__(self) -> str:
        return brief(self, self.place)


MADE_HERE = Origin()


@dataclass(frozen=True, slots=True)
class Utterance:
    """One manifest row.

    Attributes:
        key: unique name in the corpus: the ``id`` column, otherwise the path as the manifest has
            it, with ``#`` and the excerpt behind it where it is not a whole file.
        file: the path of the audio file below the origin's folder; often the same text as the key.
        duration_s: seconds, those of an excerpt from its start to its end; None where the manifest
            does not say.
        extra: the manifest's further columns.
        condition: what is done to its audio.
        excerpt: the part of the file that it is.
        origin: its folder, and the manifest.
        number: of its line or entry in the manifest; None where the place has none.
    """

    key: str
    file: str
    text: str
    speaker: str
    domain: str
    split: str
    duration_s: float | None = None
    extra: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    condition: str = "clean"
    excerpt: Excerpt = WHOLE
    origin: Origin = MADE_HERE
    number: int | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        duration = "" if self.duration_s is None else f"{self.duration_s:g} s"
        return brief(
            self, self.key, self.split, self.speaker, self.domain, duration, self.condition
        )

    @property
    def path(self) -> Path:
        """The audio file. It is made on each call: a million of them would take 0.4 GB."""
        return audio_path(self.written_path)

    @property
    def written_path(self) -> str:
        """The path of the audio file as a text."""
        return self.origin.folder + self.file

    @property
    def where(self) -> str:
        """File and line of the manifest, for messages; empty where it was not read from one."""
        place = self.origin.place
        return place if self.number is None else f"{place} {self.number}"

    def audio_sha256(self) -> str:
        """The sha256 of its audio as a store has it: of the file, or of an excerpt of it.

        Raises:
            OSError: the audio cannot be read.
        """
        return self.excerpt.sha256(sha256_of_audio(self.path, self.excerpt.member))

    def label(self, column: str) -> str:
        """The value of a column, empty where unknown; ``condition`` unless the manifest has one."""
        if column in ("text", "speaker", "domain", "split"):
            return getattr(self, column)
        return self.extra.get(column, self.condition if column == "condition" else "")


def by_hash(utterances: Sequence[Utterance]) -> list[Utterance]:
    """The utterances in an order that depends on nothing but their keys."""
    return sorted(utterances, key=lambda item: hashlib.sha256(item.key.encode()).digest())


@dataclass(frozen=True)
class Corpus:
    """A corpus whose rows have been checked.

    Attributes:
        name: the manifest's stem, or the LibriSpeech subsets; with the limit where there is one,
            see `limited`.
        sha256: of the manifest's bytes (LibriSpeech: of its rows), and of the limit where there is
            one.
        utterances: in manifest order, rows of split ``noise`` left out.
        noise: the rows of split ``noise``.
        columns: names that `Utterance.label` knows here.
        folder: where the manifest lies, or the LibriSpeech tree.
        source: what it was loaded from, as it was written; empty where it was made otherwise.
    """

    name: str
    sha256: str
    utterances: tuple[Utterance, ...]
    columns: tuple[str, ...]
    folder: Path = Path()
    source: str = ""
    noise: tuple[Utterance, ...] = ()

    @property
    def further_columns(self) -> tuple[str, ...]:
        """Columns beyond the required ones; nothing reads one unless a task uses it as a label."""
        return tuple(name for name in self.columns if name not in COLUMNS)

    def __repr__(self) -> str:
        counts = Counter(item.split for item in self.utterances)
        parts = ", ".join(f"{n:,} {split}" for split, n in counts.items())
        return brief(self, self.name, f"{counted(len(self.utterances), 'utterance')}: {parts}")

    def of_splits(self, splits: Collection[str] | None) -> "Corpus":
        """The rows of these splits; all where None."""
        if splits is None:
            return self
        return replace(
            self, utterances=tuple(item for item in self.utterances if item.split in splits)
        )

    def limited(self, limit: int | None) -> "Corpus":
        """At most ``limit`` utterances of each split: the same ones every time, spread over the
        manifest.

        They are the ones whose keys have the smallest hashes, so rows appended to the manifest
        displace few of them. The limit is part of the name, so that records of the whole corpus are
        never replaced. A corpus that has no more stays as it is.
        """
        if limit is None:
            return self
        counts: Counter[str] = Counter()
        keys: set[str] = set()
        for utterance in by_hash(self.utterances):
            counts[utterance.split] += 1
            if counts[utterance.split] <= limit:
                keys.add(utterance.key)
        utterances = tuple(item for item in self.utterances if item.key in keys)
        if len(utterances) == len(self.utterances):
            return self
        sha256 = hashlib.sha256(f"{self.sha256} limit {limit}".encode()).hexdigest()
        return replace(
            self, name=f"{self.name}:limit={limit}", sha256=sha256, utterances=utterances
        )


class Names:
    """The utterances of a corpus by the names that lists beside it use.

    A list names an utterance as the manifest does, or by a path relative to the list's folder. An
    excerpt has its text and ``#`` behind the path: a path alone is the whole file.
    """

    def __init__(self, corpus: Corpus, folder: Path) -> None:
        self._folder = folder
        self._known = {
            "#".join(filter(None, [str(item.path.resolve()), str(item.excerpt)])): item
            for item in corpus.utterances
        }
        self._known |= {item.key: item for item in corpus.utterances}
        self._cache: dict[str, Utterance | None] = {}

    def knows(self, name: str) -> bool:
        """Whether a text is a key or the absolute path of an utterance."""
        return name in self._known

    def get(self, name: str) -> Utterance | None:
        """The utterance of a name; None where there is none."""
        if name not in self._cache:
            spellings = (name, os.path.normpath(name), str((self._folder / name).resolve()))
            matches = (self._known[item] for item in spellings if item in self._known)
            self._cache[name] = next(matches, None)
        return self._cache[name]


def load_corpus(
    source: "Path | str | pd.DataFrame", audio_root: Path | str | None = None, name: str = ""
) -> Corpus:
    """The corpus in a manifest, in another form that has a reader (``FORM:ROOT#PART,PART``), or
    in a DataFrame with the columns of a manifest.

    With ``split=RULE`` after it (``corpus.csv split=speaker:80/10/10``), a seeded split takes the
    place of the corpus' own, see `probe.data.splits`.

    Args:
        audio_root: the folder that all audio must lie in, with symbolic links resolved; nothing
            outside is looked at. The paths of a DataFrame are relative to it, otherwise to the
            working folder.
        name: of the corpus of a DataFrame, as records have it; two DataFrames in one results folder
            need two names. A corpus on disk has a name already.

    Raises:
        ProbeError: a source of another type, no rows, no such file, wrong encoding, missing
            columns, duplicate ids, the same file in two splits, unknown splits, unreadable
            durations, missing audio files, audio outside ``audio_root``; up to eight problems are
            named with their lines.
    """
    if isinstance(source, Path | str):
        if name:
            raise ProbeError(
                f"{source}: name={name!r} is for DataFrames; a corpus on disk has the name of its "
                "file or folder. Leave it out."
            )
        corpus = read_corpus(source, audio_root)
    elif hasattr(source, "iloc") and hasattr(source, "columns"):
        with uncollected():
            reading = read_frame(source, Path(audio_root or ""), name or "dataframe")
            corpus = _corpus(reading, "", audio_root)
    else:
        raise ProbeError(
            f"a {type(source).__name__} is no corpus; expected a path, FORM:ROOT#PART, or a pandas "
            "DataFrame. Make one of rows: pandas.DataFrame(rows)."
        )
    if corpus.utterances:
        return corpus
    what = corpus.source or "DataFrame"
    raise ProbeError(f"{what}: no utterances; expected rows of another split than noise.")


def noise_rows(manifest: Path, audio_root: Path | None = None) -> tuple[Utterance, ...]:
    """A manifest's rows of split ``noise``.

    Raises:
        ProbeError: as `load_corpus`, or there are no such rows.
    """
    corpus = read_corpus(manifest, audio_root)
    if corpus.noise:
        return corpus.noise
    raise ProbeError(
        f"{manifest}: {len(corpus.utterances)} rows, none of split noise. Put noise into the "
        "column split."
    )


def read_corpus(source: Path | str, audio_root: Path | str | None = None) -> Corpus:
    """As `load_corpus`, but a corpus may have nothing but rows of split ``noise``."""
    text, rule = rule_of_source(os.fspath(source))
    with uncollected():
        corpus = _corpus(registry.read(text), text, audio_root)
    return split_corpus(corpus, rule) if rule else corpus


def _corpus(reading: Reading, source: str, audio_root: Path | str | None) -> Corpus:
    root = None if audio_root is None else Path(audio_root)
    if root is not None and not root.is_dir():
        raise ProbeError(
            f"--audio-root {root}: not a folder; expected the one that holds all audio."
        )
    problems: list[str] = []
    bar = tqdm(
        reading.rows, desc=f"check {reading.name}", unit="row", delay=1, leave=False, disable=None
    )
    with bar as rows:
        utterances = list(_checked(rows, reading.folder, root, problems))
    refuse_problems(problems)
    if not utterances:
        raise ProbeError(
            f"{source or 'DataFrame'}: no rows; expected one for each utterance, below the "
            "names of the columns where it is a table."
        )
    unlabelled = ("path", "id", "duration_s", *EXCERPT_COLUMNS)
    columns = tuple(name for name in reading.columns if name not in unlabelled)
    noise = tuple(item for item in utterances if item.split == "noise")
    speech = tuple(item for item in utterances if item.split != "noise")
    return Corpus(reading.name, reading.sha256, speech, columns, reading.folder, source, noise)


def _checked(
    rows: Iterable[Row], folder: Path, root: Path | None, problems: list[str]
) -> Iterator[Utterance]:
    """Utterances of the rows; what is wrong with a row is appended to ``problems``."""
    first_where: dict[str, str] = {}  # of each key
    shared = SharedRecordings()
    folders = Folders(root)
    objects = RemoteFolders()
    base = f"{folder}/"
    is_remote = isinstance(folder, RemotePath)
    splits = {"", *SPLITS}
    durations: dict[float | None, float | None] = {}  # each once: a million take 32 MB
    origins: dict[tuple[str, str], Origin] = {}
    for where, values in rows:
        written = values["path"]
        if not written.strip():
            problems.append(f"{where}: path is empty. Name an audio file or remove the row.")
            continue
        if not is_utf8("".join(values.values())):
            odd = [name for name, value in values.items() if not is_utf8(value)]
            problems.append(
                f"{where}: {odd[0]} {values[odd[0]]!r} is not UTF-8. Rename the file or folder, or "
                "correct the row."
            )
            continue
        file = os.path.normpath(written if written.startswith("/") else base + written)
        reason = ""
        if is_url(written) or (is_remote and not written.startswith("/")):
            file = real = _joined(written if is_url(written) else base + written)
            reason = _missing_object(file, root, objects)
        elif not (real := folders.real_file(file)):
            file, real, reason = _unusual_audio(folder, written, root, folders)
        part = _excerpt(where, values, problems)
        excerpt = part or WHOLE
        # A part that is unknown has no name.
        key = values.get("id") or (_name(written, part) if part else where)
        split = values.get("split", "")
        if split not in splits:
            expected = ", ".join(SPLIT_WORDS)
            problems.append(f"{where}: split {split!r}; expected one of {expected}.")
        if (first := first_where.setdefault(key, where)) is not where:
            remedy = (
                "give it another value in the column of ids"
                if values.get("id")
                else "distinguish them in a column id"
            )
            problems.append(
                f"{where}: id {key!r} occurs on {beside(first, where)} already. Remove one row, or "
                f"{remedy}."
            )
        if part:
            shared.add(where, real, split, part, written)
        if reason:
            problems.append(f"{where}: {reason}")
        duration_s = _duration(where, values.get("duration_s", ""), problems) or excerpt.duration_s
        extra = NO_LABELS
        if not values.keys() <= MEANINGS:
            extra = {name: value for name, value in values.items() if name not in MEANINGS}
        name = file.removeprefix(base)
        common = base if len(name) < len(file) else ""
        place, number = _numbered(where)
        yield Utterance(
            key,
            key if name == key else name,
            values.get("text", ""),
            values.get("speaker", ""),
            values.get("domain", ""),
            split,
            durations.setdefault(duration_s, duration_s),
            extra,
            excerpt=excerpt,
            origin=origins.get((common, place))
            or origins.setdefault((common, place), Origin(common, place)),
            number=number,
        )
    problems.extend(shared.problems())
    if not problems and (note := shared.note()):
        log.warning(note)


def _numbered(where: str) -> tuple[str, int | None]:
    """A place without the number at its end, and the number; None where it does not end in one."""
    place, _, number = where.rpartition(" ")
    is_number = number.isascii() and number.isdigit() and (number[0] != "0" or number == "0")
    return (place, int(number)) if is_number and len(number) < 12 else (where, None)


def _name(written: str, part: Excerpt) -> str:
    """The name of a row without an id: its path, and the part of the file that it is."""
    path = _joined(written) if is_url(written) else os.path.normpath(written)
    return path if part is WHOLE else "#".join(filter(None, [path, str(part)]))


def _joined(url: str) -> str:
    """A URL without ``..`` and the like in it."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{os.path.normpath(rest)}"


def _missing_object(url: str, root: Path | None, objects: RemoteFolders) -> str:
    """Why remote audio cannot be used; empty where it can."""
    if root is not None:
        return f"{url} is remote, and --audio-root allows only files in {root}. Leave it out."
    try:
        if objects.has_file(audio_path(url)):
            return ""
    except ProbeError as error:
        return str(error)
    except OSError as error:
        raise unread(audio_path(url), error) from error
    return (
        f"{url} does not exist; paths are relative to the manifest. Correct it or remove the row."
    )


def _unusual_audio(
    folder: Path, written: str, root: Path | None, folders: Folders
) -> tuple[str, str, str]:
    """The path of what a row names and `Folders.real_file` does not know, the same with symbolic
    links resolved, and why it cannot be used, empty where it can.
    """
    path = _audio_path(folder, written, folders)
    try:
        real = os.path.realpath(path)
    except ValueError:  # a NUL: `why_missing` says so
        real = str(path)
    if reason := _outside(path, root):
        return str(path), real, f"{written} {reason}"
    return str(path), real, why_missing(path, written, folder, folders)


def _excerpt(where: str, values: Mapping[str, str], problems: list[str]) -> Excerpt | None:
    """The part of the file that a row names; None where that is wrong."""
    if not any(map(values.get, EXCERPT_COLUMNS)):
        return WHOLE
    try:
        return Excerpt.of_columns(values)
    except ValueError as error:
        problems.append(f"{where}: {error}.")
        return None


def _outside(path: Path, root: Path | None) -> str:
    """Why an audio file must not be read; empty where it may be."""
    try:
        if root is not None:
            refuse_outside(Path(os.path.realpath(path)), root)
    except UtteranceError as error:
        return f"{error}. Correct it or remove the row."
    except ValueError:  # a NUL, or a name too long for a file: `why_missing` says so
        pass
    return ""


def _audio_path(folder: Path, written: str, folders: Folders) -> Path:
    """The file that a row names, or else the one with the same text in other bytes."""
    path = Path(os.path.normpath(folder / written))
    if os.path.lexists(path):
        return path
    # `link/../a.wav` is beside what the link leads to, which normpath does not know.
    as_written = folder / written
    return as_written if os.path.exists(as_written) else folders.same_text(path) or path  # noqa: PTH110 - Path.exists raises


def _duration(where: str, text: str, problems: list[str]) -> float | None:
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if 0 < value < float("inf"):
        return value
    problems.append(
        f"{where}: duration_s {text!r}; expected seconds such as 3.25, or nothing where unknown."
    )
    return None
