"""Kaldi's data directories: ``wav.scp``, ``segments``, ``text``, ``utt2spk`` and their like.

Source: https://kaldi-asr.org/doc/data_prep.html. ``reco2file_and_channel`` says the side of a call;
it selects a channel unless each side has an audio file of its own. The fifth field of ``segments``
counts the channels of what is read from 0: of a command that writes one channel, this is 0. Any
other file ``utt2NAME`` or ``spk2NAME`` becomes a column NAME.
"""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from probe.data.readers.lists import lines_of, split_of, split_of_part, values_sha256
from probe.data.readers.pipes import MEAN, sound_of
from probe.data.readers.reading import COLUMNS, MEANINGS, Reader, Reading, Row, Source
from probe.errors import ProbeError, listed, refuse_problems

log = logging.getLogger("probe")

EXCERPTS = ("id", "start", "end", "channel")
# Files whose names look like columns of labels; they repeat or measure what others say.
NO_LABELS = ("spk2utt", "utt2spk", "utt2dur", "utt2num_frames", "utt2uniq", "utt2utt")
SIDES = {"a": "1", "b": "2", "1": "1", "2": "2"}
FIX = "Correct it, or run utils/fix_data_dir.sh"

Table = dict[str, tuple[str, str]]  # id -> file and line, rest of the line


@dataclass(frozen=True)
class Recording:
    """An entry of ``wav.scp``.

    Attributes:
        path: of the audio file.
        channel: of it, counted from 1; empty for the mean of all.
        is_one_channel: whether a command chooses a channel, or mixes all into one.
    """

    where: str
    path: str
    channel: str
    is_one_channel: bool


def read_kaldi(source: Source) -> Reading:
    """The utterances of the data directories in ``kaldi:ROOT#train,dev=PART``, or of one directory.

    Raises:
        ProbeError: no such directory, a part of no clear split, wrong encoding, ids that occur
            twice or in one of the files only, commands that are not understood; up to eight
            problems are named with their lines.
    """
    root = source.path
    parts = [(split_of_part(source, split, part), part) for split, part in source.parts]
    if not parts:
        parts = [(split_of(Path(os.path.abspath(root)).name), "")]  # noqa: PTH100 - resolves no link
    problems: list[str] = []
    rows: list[Row] = []
    names: dict[str, None] = {}
    for split, part in parts:
        folder = root / part
        if not (folder / "wav.scp").is_file():
            raise ProbeError(_no_directory(source, folder))
        labels = _labels(folder, problems)
        names |= dict.fromkeys(name for name in labels if name not in COLUMNS)
        rows += _rows(folder, root, {"split": split, "part": part}, labels, problems)
    refuse_problems(problems)
    columns = (*COLUMNS, *EXCERPTS, *(["part"] if source.parts else []), *names)
    name = "kaldi-" + "+".join(part.strip("/").replace("/", "-") for _, part in source.parts)
    stem = Path(os.path.abspath(root)).name  # noqa: PTH100 - resolves no link
    name = name if source.parts else f"kaldi-{stem}"
    return Reading(name, values_sha256(rows, columns), root, columns, rows)


def _no_directory(source: Source, folder: Path) -> str:
    below = sorted(path.parent.name for path in source.path.glob("*/wav.scp"))
    remedy = (
        f"Name parts of {source.path}: {source.text.partition('#')[0]}#{','.join(below[:3])}."
        if below
        else "Name a data directory, or parts of the folder that holds several: kaldi:data#train."
    )
    return f"{source.text}: no wav.scp in {folder}; found {listed(below) or 'none'}. {remedy}"


def _table(path: Path, problems: list[str]) -> Table:
    """The lines of a file by their first word; no lines where it does not exist."""
    table: Table = {}
    for where, line in lines_of(path) if path.is_file() else ():
        key, _, rest = line.partition(" ")
        if "\t" in line:
            key, rest = (*re.split("[ \t]+", line, maxsplit=1), "")[:2]
        rest = rest.lstrip(" ")
        if key in table:
            line_text = table[key][0].rpartition(" ")[2]
            problems.append(f"{where}: {key!r} occurs on line {line_text} already. {FIX}.")
        table.setdefault(key, (where, rest))
    return table


def _labels(folder: Path, problems: list[str]) -> dict[str, Table]:
    """Column -> utterance -> value, from ``utt2spk`` and every other ``utt2NAME``, ``spk2NAME``."""
    speakers = _table(folder / "utt2spk", problems)
    labels = {"speaker": speakers} if (folder / "utt2spk").is_file() else {}
    for path in sorted([*folder.glob("utt2*"), *folder.glob("spk2*")]):
        kind, _, name = path.name.partition("2")
        if path.name in NO_LABELS or "." in name or not path.is_file():
            continue
        if name in MEANINGS and name != "domain":
            problems.append(f"{path}: the column {name} has a meaning. Rename the file.")
            continue
        table = _table(path, problems)
        if kind == "spk":
            table = {
                utterance: table.get(speaker, (where, ""))
                for utterance, (where, speaker) in speakers.items()
            }
        labels[name] = table
    return labels


def _rows(
    folder: Path, root: Path, same: dict[str, str], labels: dict[str, Table], problems: list[str]
) -> Iterator[Row]:
    """The rows of one data directory."""
    root = Path(os.path.abspath(root))  # noqa: PTH100 - resolves no link
    recordings = dict(_recordings(folder, problems))
    texts = _table(folder / "text", problems)
    if (folder / "segments").is_file():
        segments = dict(_segments(folder / "segments", recordings, problems))
    else:
        segments = {name: (item.where, name, "", "", "") for name, item in recordings.items()}
    for file, table in (("text", texts), ("utt2spk", labels.get("speaker", {}))):
        problems += [
            f"{where}: {utterance!r} has no audio in segments or wav.scp. {FIX}."
            for utterance, (where, _) in table.items()
            if utterance not in segments
        ]
        problems += [
            f"{where}: {utterance!r} is not in {folder / file}. {FIX}."
            for utterance, (where, *_) in segments.items()
            if utterance not in table and (folder / file).is_file()
        ]
    same = dict.fromkeys(COLUMNS, "") | same
    prefix = f"{root}{os.sep}"
    for utterance, (where, recording, start, end, channel) in segments.items():
        if recording not in recordings:
            continue  # it is among the problems
        audio = recordings[recording]
        values = {
            **same,
            "id": utterance,
            "path": audio.path.removeprefix(prefix),
            "text": texts.get(utterance, ("", ""))[1],
            "start": start,
            "end": end,
            "channel": channel or audio.channel,
        }
        for name, table in labels.items():
            values[name] = table.get(utterance, ("", ""))[1]
        yield Row(where, values)


def _segments(
    path: Path, recordings: dict[str, Recording], problems: list[str]
) -> Iterator[tuple[str, tuple[str, str, str, str, str]]]:
    """Utterance -> where, recording, start, end and channel."""
    for utterance, (where, rest) in _table(path, problems).items():
        fields = rest.split()
        if len(fields) not in (3, 4) or (len(fields) == 4 and not fields[3].isdecimal()):
            problems.append(
                f"{where}: {utterance} {rest}; expected `utterance recording start end`, with "
                f"seconds, and perhaps a channel counted from 0. {FIX}."
            )
            continue
        recording, start, end, *channels = fields
        if recording not in recordings:
            problems.append(f"{where}: the recording {recording!r} is not in wav.scp. {FIX}.")
        if re.fullmatch(r"-1(\.0*)?", end):  # to the end of the file, as extract-segments has it
            end = ""
        channel = str(int(channels[0]) + 1) if channels else ""
        if recording in recordings and recordings[recording].is_one_channel:
            if channel not in ("", "1"):
                problems.append(
                    f"{where}: channel {channels[0]}, counted from 0; the command of {recording!r} "
                    f"in wav.scp writes one channel, which is 0. {FIX}."
                )
            channel = ""  # the one that the command writes
        yield utterance, (where, recording, start, end, channel)


def _recordings(folder: Path, problems: list[str]) -> Iterator[tuple[str, Recording]]:
    """Id -> recording, for each line of ``wav.scp``."""
    recordings: dict[str, Recording] = {}
    for name, (where, entry) in _table(folder / "wav.scp", problems).items():
        try:
            path, channel = sound_of(entry) if entry.endswith("|") else (entry, "")
        except ValueError as error:
            problems.append(
                f"{where}: the command {entry!r} {error}; layerprobe runs no commands, it reads "
                "the files of sph2pipe, flac, sox, ffmpeg and cat where they only change the "
                "format. Run it once, and name the file that it writes."
            )
            continue
        if re.search(r"\.ark(:\d+)?$|:\d+$", path):
            problems.append(
                f"{where}: {path} is a place in an archive of Kaldi; expected an audio file. Write "
                "the audio into files (wav-copy scp:wav.scp scp,p:out.scp)."
            )
        elif not path or path == "-":
            problems.append(f"{where}: {name!r} has no audio file. {FIX}.")
        else:
            is_one = channel != ""
            channel = "" if channel == MEAN else channel
            recordings[name] = Recording(where, path, channel, is_one)
    base = _base(folder, [item.path for item in recordings.values()])
    sides = _sides(folder, recordings, problems)
    for name, item in recordings.items():
        path = os.path.normpath(base / item.path)
        channel = item.channel if item.is_one_channel else sides.get(name, "")
        yield name, replace(item, path=path, channel=channel)


def _base(folder: Path, paths: list[str]) -> Path:
    """The folder that paths are relative to: recipes run one or more levels above the data."""
    relative = next((path for path in paths if not os.path.isabs(path)), "")  # noqa: PTH117 - text
    whole = Path(os.path.abspath(folder))  # noqa: PTH100 - resolves no link
    for place in (whole, *whole.parents[:4]) if relative else ():
        if (place / relative).is_file():
            log.info("%s: paths are relative to %s", folder / "wav.scp", place)
            return place
    return whole


def _sides(folder: Path, recordings: dict[str, Recording], problems: list[str]) -> dict[str, str]:
    """Recording -> channel, where the sides of a call are channels of one file."""
    sides: dict[str, str] = {}
    files: dict[str, set[str]] = defaultdict(set)
    originals: dict[str, str] = {}
    table = _table(folder / "reco2file_and_channel", problems)
    for name, (where, rest) in table.items():
        fields = rest.split()
        if len(fields) != 2 or fields[1].lower() not in SIDES:
            problems.append(
                f"{where}: {name} {rest}; expected `recording file A`, or B, 1 or 2. {FIX}."
            )
        elif name in recordings:
            originals[name], sides[name] = fields[0], SIDES[fields[1].lower()]
            files[fields[0]].add(recordings[name].path)

    def is_own(name: str) -> bool:  # the recording has an audio file of its own
        return len(files[originals[name]]) > 1 or (
            originals[name] != name == Path(recordings[name].path).stem
        )

    sides = {name: side for name, side in sides.items() if not is_own(name)}
    for name, side in sides.items():
        item = recordings[name]
        if item.is_one_channel and side != (item.channel or "1"):  # a mean may be of one channel
            written = f"channel {item.channel}" if item.channel else "the mean of all channels"
            problems.append(
                f"{table[name][0]}: {name!r} is channel {side}, counted from 1, but its command in "
                f"wav.scp writes {written}. {FIX}."
            )
    return sides


READERS = (
    Reader(
        "kaldi",
        "data directory of Kaldi, or folder with #train,dev,test",
        read_kaldi,
        lambda path: (path / "wav.scp").is_file() or any(path.glob("*/wav.scp")),
    ),
)
