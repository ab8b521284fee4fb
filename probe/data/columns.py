"""Columns of a manifest that would change which samples are heard, if layerprobe did what they say.

Toolkits have manifests with parts of files, single channels or gains (NeMo: ``offset`` and
``duration``; Kaldi: ``start`` and ``end``; lhotse: ``channel``). Such a column is refused by name,
since a column that is ignored gives wrong features.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Promise:
    """A group of columns, by what they would have layerprobe do.

    Attributes:
        words: a column belongs to the group if its name is one of these, beside words that only say
            of what or in which unit.
        values: a pattern of the values that would do it; a column of other values is a label.
        meaning: what the values say, in a message.
        remedy: what to do.
    """

    words: frozenset[str]
    values: re.Pattern[str]
    meaning: str
    remedy: str


# Numbers, also with a unit, and times such as 0:01:02.5.
NUMBER = re.compile(
    r"[-+]?(\d+:)*(\d+[.,]?\d*|[.,]\d+)(e[-+]?\d+)?\s*(s|sec|ms|x|%|db)?", re.IGNORECASE
)
CHANNEL = re.compile(
    r"\[?\d+(\s*[,;]\s*\d+)*\]?|[ablr]|left|right|(ch|channel)\s*\d+", re.IGNORECASE
)
PROMISES = (
    Promise(
        frozenset(
            [
                "start",
                "begin",
                "beginning",
                "onset",
                "offset",
                "from",
                "to",
                "end",
                "ending",
                "stop",
                "finish",
                "tmin",
                "tmax",
                "xmin",
                "xmax",
            ]
        ),
        NUMBER,
        "a part of a file",
        "Cut each part into a file of its own and remove the column",
    ),
    Promise(
        frozenset(("duration", "dur")),
        NUMBER,
        "how much of a file is meant",
        "Put the length of the whole file into duration_s, in seconds, and remove this column; cut parts into files of their own",
    ),
    Promise(
        frozenset(["channel", "channels", "chan", "ch"]),
        CHANNEL,
        "a channel of a file",
        "Split the channels into files of their own and remove the column",
    ),
    Promise(
        frozenset(["gain", "volume", "speed", "tempo"]),
        NUMBER,
        "a change of the sound",
        "Change the files, or name a condition with --condition (docs/conditions.md), and remove the column",
    ),
)
# Words beside those of a promise: of what, and in which unit. A column with any other word in its
# name is a label.
BESIDE = frozenset(
    [
        "s",
        "sec",
        "secs",
        "second",
        "seconds",
        "ms",
        "msec",
        "millisecond",
        "milliseconds",
        "sample",
        "samples",
        "frame",
        "frames",
        "time",
        "times",
        "timestamp",
        "timestamps",
        "at",
        "position",
        "pos",
        "index",
        "idx",
        "id",
        "segment",
        "seg",
        "utt",
        "utterance",
        "clip",
        "chunk",
        "cut",
        "audio",
        "wav",
        "speech",
        "recording",
        "rec",
        "file",
        "source",
        "turn",
        "vad",
        "trim",
        "crop",
        "db",
        "factor",
    ]
)


def promise_of(column: str) -> Promise | None:
    """The group that a column's name belongs to, however its words are joined (``startTime``,
    ``segment_start_ms``).
    """
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", column)
    words = set(re.split(r"[\W_]+", parts.lower())) - {""}
    for promise in PROMISES:
        if words & promise.words and words <= promise.words | BESIDE:
            return promise
    return None


def refused_columns(rows: Sequence[tuple[int, dict[str, str]]]) -> Iterator[tuple[int, str]]:
    """(line, why the column is refused) of each column that would change what is heard, at the
    first row in which it would.
    """
    for column in rows[0][1] if rows else ():
        promise = promise_of(column)
        if promise is None or column == "duration_s":  # it is compared with the audio
            continue
        meant = [
            (line, row[column].strip())
            for line, row in rows
            if promise.values.fullmatch(row[column].strip())
        ]
        if meant:
            line, value = meant[0]
            yield (
                line,
                f"column {column} names {promise.meaning} ({value!r}), in {len(meant)} of {len(rows)} rows; layerprobe reads "
                f"whole files and averages their channels. {promise.remedy}. If the column is a label, rename it to "
                f"label_{column}.",
            )
