"""The columns of tables: which of them say what, under the names that toolkits give them.

`ALIASES` has the names of columns that are taken as they are. Columns of times, channels and
changes of the sound are known by the words of their names, however these are joined
(``segment_startMs``): they are used, or refused by name, and never ignored, because a column that
is ignored gives wrong features. Sources: NeMo (``audio_filepath, offset, duration``), SpeechBrain
(``ID, wav, spk_id, wrd``), Common Voice (``client_id, path, sentence``), Hugging Face
(``file_name, transcription``).
"""

import functools
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from probe.errors import ProbeError, listed, refuse_problems

# Meaning -> names without regard to case, the one that is preferred first.
ALIASES = {
    "path": (
        *("path", "audio_filepath", "audio_filename", "audio_file", "audio_path", "file_name"),
        *("filename", "filepath", "file_path", "wav", "wav_path", "audio", "file"),
    ),
    "id": ("id", "utt_id", "utterance_id", "uttid", "utt"),
    "text": ("text", "transcript", "transcription", "sentence", "normalized_text", "wrd"),
    "speaker": ("speaker", "speaker_id", "speakerid", "spk_id", "spk", "client_id"),
    "domain": ("domain",),
    "split": ("split",),
    "member": ("member",),
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Meaning -> words of the names of its columns.
WORDS = {
    "start": _words("start begin beginning onset offset from tmin xmin"),
    "end": _words("end ending stop finish to tmax xmax"),
    "duration_s": _words("duration dur"),
    "channel": _words("channel chan ch"),
    "channels": _words("channels"),
    "change": _words("gain volume speed tempo"),
}
USED = ("start", "end", "duration_s", "channel")
UNITS = {
    **dict.fromkeys(_words("s sec secs second seconds"), Decimal(1)),
    **dict.fromkeys(_words("ms msec millisecond milliseconds"), Decimal("0.001")),
}
# Words that may stand beside those: of what it is.
OF_WHAT = _words(
    "time times timestamp timestamps at segment seg utt utterance clip audio wav speech recording "
    "rec file source turn cut chunk"
)
# Words that leave open which part of a file is meant, or in which unit.
UNCLEAR = _words("sample samples frame frames position pos index idx id trim vad crop db factor")
# Numbers, also with a unit, and times such as 0:01:02.5.
NUMBER = re.compile(
    r"[-+]?(\d+:)*(\d+[.,]?\d*|[.,]\d+)(e[-+]?\d+)?\s*(s|sec|ms|x|%|db)?", re.IGNORECASE
)
CHANNEL = re.compile(
    r"\[?\d+(\.0*)?(\s*[,;]\s*\d+)*\]?|[ablr]|left|right|(ch|channel)\s*\d+", re.IGNORECASE
)
# What a column says that is not used, and what to do.
REFUSALS = {
    "change": (
        "a change of the sound",
        "layerprobe reads whole files or parts of them as they are. Change the files, or name a "
        "condition with --condition (docs/conditions.md), and remove the column",
    ),
    "channels": (
        "several channels or their number",
        "layerprobe reads one channel or the mean of all. Call the column channel if each value is "
        "the channel to read, counted from 1, or n_channels if it is their number",
    ),
    "unclear": (
        "a part of a file in an unknown unit",
        "layerprobe reads whole files or parts of them, in seconds. Write seconds (samples divided "
        "by the sampling rate) into columns start and end, and remove the column",
    ),
}
MOST_DIGITS = 15  # before or behind the point of a number of seconds
ROUNDED_S = Decimal("0.1")  # by which a duration may differ: toolkits write few digits


@dataclass(frozen=True)
class Table:
    """Rows of text.

    Attributes:
        file: its name, for messages.
        columns: the names.
        rows: the values.
        numbers: of the place of each row.
        unit: of the places: ``line``, ``entry`` or ``row``.
        header: the number of the line with the names.
    """

    file: str
    columns: Sequence[str]
    rows: list[Sequence[str]]
    numbers: Sequence[int]
    unit: str = "line"
    header: int = 1

    def where(self, index: int) -> str:
        """File and place of a row."""
        return f"{self.file} {self.unit} {self.numbers[index]}"


@dataclass(frozen=True)
class Column:
    """A column of times or channels.

    Attributes:
        index: its place in a row.
        name: as the table has it.
        meaning: one of `USED`.
        unit_s: seconds of its unit.
    """

    index: int
    name: str
    meaning: str
    unit_s: Decimal

    def text(self, row: Sequence[str]) -> str:
        """The value in seconds, or the channel; a column that has our own name is not changed.

        Raises:
            ValueError: no number, in words.
        """
        text = row[self.index].strip()
        if not text or self.name == self.meaning or self.meaning == "channel":
            return text
        value = _decimal(text)
        if value is None:
            raise ValueError(
                f"{self.name} {text!r}; expected seconds such as 3.25, or nothing. If the column "
                f"is a label, rename it to label_{self.name}"
            )
        return text if self.unit_s == 1 else _text(value * self.unit_s)


@dataclass(frozen=True)
class Columns:
    """What the columns of a table say.

    Attributes:
        plain: name -> index of the values that are taken as they are.
        times: meaning -> the columns of times or channels that have it.
    """

    plain: Mapping[str, int]
    times: Mapping[str, Sequence[Column]]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the values of each row: meanings, and the names of labels."""
        return (*self.plain, *self.times)

    @functools.cached_property
    def _cells(self) -> Callable[[Sequence[str]], Sequence[str]]:
        indices = [*self.plain.values()]
        if len(indices) == 1:
            return lambda row: [row[indices[0]]]
        return operator.itemgetter(*indices)

    def values(self, row: Sequence[str]) -> dict[str, str]:
        """The values of a row by their names.

        Raises:
            ValueError: times that are no numbers or contradict each other, in words.
        """
        values = dict(zip(self.plain, self._cells(row), strict=True))
        if self.times:
            values |= _part(
                {meaning: _agreed(columns, row) for meaning, columns in self.times.items()}
            )
        return values


def columns_of(table: Table) -> Columns:
    """What the columns of a table say.

    Raises:
        ProbeError: no column of paths, or columns that would change what is heard and cannot be
            used: each with the first line that it has a value on.
    """
    plain: dict[str, int] = {}
    for meaning, aliases in ALIASES.items():
        names = [name for alias in aliases for name in table.columns if plain_name(name) == alias]
        if names:
            plain[meaning] = table.columns.index(names[0])
    if "path" not in plain:
        where = f"{table.file} line {table.header}" if table.unit == "line" else table.file
        raise ProbeError(
            f"{where}: no column of paths; found "
            f"{listed(list(table.columns), 20) or 'an empty file'}; expected path (or one of "
            f"{', '.join(ALIASES['path'][1:])}), and as far as they are known text, speaker, "
            "domain, split, duration_s, start, end, channel, id and any labels. Add or rename a "
            "column."
        )
    times: dict[str, list[Column]] = {}
    problems = []
    for index, name in enumerate(table.columns):
        if index in plain.values():
            continue
        meaning, unit_s = meaning_of(name)
        if name not in USED and next(_matches(table, index, meaning), None) is None:
            plain[name] = index
        elif meaning in USED and unit_s is not None:
            times.setdefault(meaning, []).append(Column(index, name, meaning, unit_s))
        else:
            problems.append(_refusal(table, index, meaning if unit_s else "unclear", meaning))
    refuse_problems(problems)
    if [*times] == ["duration_s"] and len(times["duration_s"]) == 1:
        (column,) = times["duration_s"]
        if column.unit_s == 1:  # of whole files: nothing to be made of it
            plain["duration_s"], times = column.index, {}
    return Columns(plain, times)


def meaning_of(column: str) -> tuple[str, Decimal | None]:
    """The meaning of a column of times, channels or changes by the words of its name (`WORDS`), and
    the seconds of its unit, None where that is unclear; an empty meaning for a label.
    """
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", column)
    words = set(re.split(r"[\W_]+", parts.lower())) - {""}
    for meaning, own in WORDS.items():
        rest = words - own
        if len(rest) < len(words) and rest <= OF_WHAT | UNCLEAR | UNITS.keys():
            units = [UNITS[word] for word in rest if word in UNITS]
            return meaning, None if rest & UNCLEAR else (units or [Decimal(1)])[0]
    return "", None


def plain_name(name: str) -> str:
    """A name of a column in small letters, with underscores between words."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _matches(table: Table, index: int, meaning: str) -> Iterator[int]:
    """The rows in which a column has a value of such a meaning."""
    if meaning:
        pattern = CHANNEL if meaning in ("channel", "channels") else NUMBER
        yield from (i for i, row in enumerate(table.rows) if pattern.fullmatch(row[index].strip()))


def _refusal(table: Table, index: int, reason: str, meaning: str) -> str:
    """Why a column is refused, with the first row that has such a value."""
    numbers = list(_matches(table, index, meaning))
    name, value = table.columns[index], table.rows[numbers[0]][index].strip()
    says, remedy = REFUSALS[reason]
    return (
        f"{table.where(numbers[0])}: column {name} names {says} ({value!r}), in {len(numbers)} of "
        f"{len(table.rows)} rows; {remedy}. If the column is a label, rename it to label_{name}."
    )


def _agreed(columns: Sequence[Column], row: Sequence[str]) -> str:
    """The value that the columns of one meaning have in common; empty where none has any."""
    if len(columns) == 1:
        return columns[0].text(row)
    texts = [(column, text) for column in columns if (text := column.text(row))]
    for column, text in texts[1:]:
        first, first_text = texts[0]
        if (_decimal(text) or text) != (_decimal(first_text) or first_text):
            raise ValueError(
                f"{first.name} {row[first.index]!r} and {column.name} {row[column.index]!r} "
                f"contradict each other as {column.meaning}. Remove one of the columns, or rename "
                f"it to label_{column.name} if it is a label"
            )
    return texts[0][1] if texts else ""


def _part(texts: dict[str, str]) -> dict[str, str]:
    """Start, end and duration made complete: a duration beside a start ends the part, or else is
    that of the part or of the whole file.

    Raises:
        ValueError: they contradict each other, in words.
    """
    if not (texts.get("start") or texts.get("end")):
        return texts
    start = _decimal(texts.get("start", "")) or Decimal(0)
    end, duration = (_decimal(texts.get(meaning, "")) for meaning in ("end", "duration_s"))
    if end is None and duration is not None:
        return texts | {"end": _text(start + duration)}
    if end is None or end <= start:  # `Excerpt` says what is wrong
        return texts
    length = end - start
    if duration is not None:
        tolerance = max(ROUNDED_S, duration / 100)
        if abs(duration - length) > tolerance and duration < end - tolerance:
            raise ValueError(
                f"duration {duration} is neither that of the part from {start} to {end} nor that "
                "of a file that holds it; expected seconds. Are start and end in samples? Divide "
                "them by the sampling rate"
            )
    return texts | {"duration_s": _text(length)}


def _decimal(text: str) -> Decimal | None:
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value if value.is_finite() and abs(value.adjusted()) < MOST_DIGITS else None


def _text(seconds: Decimal) -> str:
    return format(seconds.normalize(), "f")
