"""Tar archives of audio, WebDataset's shards among them.

Files of one sample have one name before their endings: ``utt1.flac``, ``utt1.json``, ``utt1.cls``
(https://github.com/webdataset/webdataset). A ``.txt`` file is the text, the fields of ``.json``
become columns, and ``.cls`` is the column label; ``utt1.speaker.txt`` is the column speaker. Names
may have points: the audio says what the name is. Nothing is unpacked.
"""

import dataclasses
import itertools
import json
import logging
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from probe.data.readers.columns import columns_of
from probe.data.readers.folders import audio_names, natural
from probe.data.readers.lists import split_of, values_sha256
from probe.data.readers.reading import Reader, Reading, Row, Source
from probe.data.readers.table import TableRows, table_of_records
from probe.errors import ProbeError, listed, refuse_problems
from probe.foreign_files import HEAD_BYTES, true_form

log = logging.getLogger("probe")

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
MOST_BYTES = 1 << 20  # of a text or of JSON
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
OWN_NAMES = ("path", "member")


@dataclasses.dataclass(frozen=True)
class Shard:
    """A tar archive, its name relative to the folder of the corpus, and its split."""

    path: Path
    name: str
    split: str


def read_tars(source: Source) -> Reading:
    """The audio in ``tar:FILE.tar``, ``tar:shard-{000000..000010}.tar``, all tars of a folder, or
    in ``tar:FOLDER#train=shard-{0..7}.tar,test=other``: parts are tars or beginnings of names.

    Raises:
        ProbeError: no such archive, one that is compressed or ends too early, no audio, members
            that cannot be read; up to eight problems are named.
    """
    folder, shards = _shards(source)
    columns: dict[str, None] = {}
    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    for shard in shards:
        records = [*_records(shard, left_out)]
        if records:
            table = table_of_records(str(shard.path), "sample", records)
            reading = columns_of(table)
            columns |= dict.fromkeys(reading.names)
            rows += TableRows(table, reading, split=shard.split)
    if not rows:
        raise ProbeError(
            f"{source.text}: no audio in {listed([shard.name for shard in shards]) or 'no tars'}; "
            "expected tar archives with audio files."
        )
    if left_out:
        says = listed([f"{n} {name}" for name, n in left_out.most_common()])
        log.info("%s: members that are left out: %s", source.text, says)
    if any(shard.split for shard in shards):
        columns["split"] = None
    stem = shards[0].path.stem if len(shards) == 1 else folder.resolve().name
    sha256 = values_sha256(rows, tuple(columns))
    return Reading(stem, sha256, folder, tuple(columns), rows)


def expanded(pattern: str) -> list[str]:
    """The names of a pattern with braces, as a shell expands them.

    >>> expanded("a-{08..10}.tar"), expanded("{x,y}.tar")
    (['a-08.tar', 'a-09.tar', 'a-10.tar'], ['x.tar', 'y.tar'])
    """
    match = RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last, words = match.groups()
    if words is None:
        width = len(first) if first.startswith("0") else 0
        inner = [f"{number:0{width}}" for number in range(int(first), int(last) + 1)]
    else:
        inner = words.split(",")
    before, behind = pattern[: match.start()], pattern[match.end() :]
    return [name for item in inner for name in expanded(before + item + behind)]


def _shards(source: Source) -> tuple[Path, list[Shard]]:
    """The folder that names are relative to, and the archives."""
    root = source.path
    if root.is_dir():
        parts = list(source.parts) or [("", ".")]
        named = [(split, name) for split, part in parts for name in _names(source, root, part)]
    else:
        root = root.parent
        named = [("", name) for name in expanded(source.path.name)]
    for _, name in named:
        if not (root / name).is_file():
            near = sorted((path.name for path in root.glob("*.tar*")), key=natural)
            raise ProbeError(
                f"{source.text}: {root / name} does not exist; found {listed(near) or 'no tars'}."
            )

    def implied(path: Path) -> str:
        return split_of(path.stem) or split_of(path.parent.name)

    return root, [Shard(root / name, name, split or implied(Path(name))) for split, name in named]


def _names(source: Source, root: Path, part: str) -> list[str]:
    """The archives of a part: a folder, a pattern, or the beginning of their names."""
    if (root / part).is_dir():
        paths = [*(root / part).glob("*.tar*"), *(root / part).glob("*/*.tar*")]
    elif (root / part).is_file() or RANGE.search(part):
        return expanded(part)
    else:
        paths = [*root.glob(f"{part}*.tar*")]
    names = sorted((path.relative_to(root).as_posix() for path in paths), key=natural)
    if not names:
        raise ProbeError(
            f"{source.text}: no tar archives in {root / part}; expected .tar files. Write "
            "tar:FOLDER#train=NAME with the beginning of their names."
        )
    return names


def _records(shard: Shard, left_out: Counter[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, fields) of each sample of an archive, in the order of its audio."""
    try:
        with shard.path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        form, _ = true_form(head)
        if form.startswith("compressed"):
            raise ProbeError(
                f"{shard.path}: the archive is {form}; layerprobe reads single members of plain "
                "tars. Unpack the compression (gunzip, unxz or unzstd)."
            )
        with tarfile.open(shard.path, "r:") as archive:
            yield from _samples(shard, archive, left_out)
            _refuse_rest(shard.path, archive.offset)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ProbeError(
            f"{shard.path}: not readable as a tar archive ({error}). Fetch it again."
        ) from error


def _refuse_rest(path: Path, end: int) -> None:
    """Raises where more than zeros follows the end of an archive."""
    with path.open("rb") as file:
        file.seek(end)
        if file.read(MOST_BYTES).strip(b"\0"):
            raise ProbeError(
                f"{path}: more follows the end of the archive; were two archives joined? Join them "
                "with tar --concatenate."
            )


def _samples(
    shard: Shard, archive: tarfile.TarFile, left_out: Counter[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    members = {item.name: item for item in archive if item.isfile()}
    audio = set(audio_names(members)[0])
    samples: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for name in filter(audio.__contains__, members):
        stem = name.removesuffix(PurePosixPath(name).suffix)
        if stem in samples:
            problems.append(
                f"{shard.path}: {samples[stem]['member']} and {name} are both audio of one sample. "
                "Give each sample one audio file."
            )
        samples[stem] = {"path": shard.name, "member": name}
    for name, member in members.items():
        if name in audio:
            continue
        stem, ending = _sample_of(name, samples)
        if not stem or ending.split(".")[-1] not in ("txt", "json", "cls"):
            left_out[f"without audio (.{ending})" if not stem else f"of .{ending}"] += 1
            continue
        try:
            samples[stem] |= _fields(archive, member, ending)
        except ValueError as error:
            problems.append(f"{shard.path}: {name} {error}.")
    refuse_problems(problems)
    yield from zip(itertools.count(1), samples.values(), strict=False)


def _sample_of(name: str, samples: dict[str, dict[str, Any]]) -> tuple[str, str]:
    """(sample, ending) of a member beside audio; no sample where there is none."""
    folder, slash, file = name.rpartition("/")
    parts = file.split(".")
    for n in range(len(parts) - 1, 0, -1):
        stem = folder + slash + ".".join(parts[:n])
        if stem in samples:
            return stem, ".".join(parts[n:])
    return "", parts[-1]


def _fields(archive: tarfile.TarFile, member: tarfile.TarInfo, ending: str) -> dict[str, Any]:
    """What a member beside audio says.

    Raises:
        ValueError: too long, no UTF-8, or no JSON object, in words.
    """
    if member.size > MOST_BYTES:
        raise ValueError(f"has {member.size:,} bytes; expected a text of at most {MOST_BYTES:,}")
    opened = archive.extractfile(member)
    content = opened.read() if opened else b""
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start}). Write the archive again") from error
    *names, kind = ending.split(".")
    if kind != "json":
        return {"_".join(names) or {"txt": "text", "cls": "label"}[kind]: text}
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise ValueError(f"is not JSON ({error}). Write the archive again") from error
    if not isinstance(fields, dict):
        raise ValueError(f"is {text[:40]}; expected a JSON object")
    return {f"json_{name}" if name in OWN_NAMES else name: value for name, value in fields.items()}


def _recognises(path: Path) -> bool:
    if path.is_dir():
        return any(path.glob("*.tar"))
    return path.name.endswith((".tar", *COMPRESSED)) and (
        path.is_file() or (path.parent / expanded(path.name)[0]).is_file()
    )


READERS = (
    Reader("tar", "tar archives, WebDataset's shards", read_tars, _recognises, is_general=True),
)
