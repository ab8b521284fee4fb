"""Folders and ZIP archives of audio without a list: the folders say split and label.

``train/yes/1.wav`` is an utterance of split train with the label yes. Folders that all files share
say nothing. Hidden files and files that are no audio by their names are left out, and the log says
so; tables, which may be manifests, are left out only where ``folder:`` is written. With Hugging
Face's ``metadata.csv`` or ``metadata.jsonl`` beside the audio, ``audiofolder`` reads these tables
instead (https://huggingface.co/docs/datasets/audio_dataset).
"""

import dataclasses
import logging
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from probe.brief import counted
from probe.data.readers.lists import split_of, values_sha256
from probe.data.readers.reading import SPLITS, Reader, Reading, Row, Source
from probe.data.readers.table import read_table
from probe.errors import ProbeError, listed

log = logging.getLogger("probe")

ENDINGS = (
    *(".wav", ".wave", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".aifc", ".au"),
    *(".snd", ".sph", ".nist", ".wv1", ".wv2", ".caf", ".w64", ".rf64", ".mp2", ".mp4", ".m4a"),
    *(".aac", ".webm", ".wma", ".amr"),
)
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
METADATA = ("metadata.csv", "metadata.jsonl")
# Folders that systems make, as hidden as names with a point before them.
HIDDEN = ("__MACOSX", "@eaDir", "$RECYCLE.BIN")


def read_folder(source: Source) -> Reading:
    """The audio files of ``folder:ROOT`` or of its parts (``folder:ROOT#train=a,test=b``), in the
    order of their names with numbers as numbers; ROOT may be a ZIP archive.

    Raises:
        ProbeError: no such folder, no audio in it, an archive that cannot be read, folders of
            which only some have the name of a split, tables without ``folder:`` before ROOT.
    """
    root = source.path
    if not root.exists():
        raise ProbeError(f"{source.text}: {root} does not exist; expected a folder or a ZIP file.")
    everything = _names(root)
    names, others = audio_names(everything)
    if not source.text.startswith("folder:"):
        _refuse_tables(source, everything, names)
    if names and others:
        left_out = [f"{n} {name or 'without ending'}" for name, n in others.most_common()]
        log.info("%s: files that are left out: %s", root, listed(left_out))
    levels = _levels(source, names)
    rows: list[Row] = []
    for number, (name, (split, folders)) in enumerate(levels.items(), start=1):
        values = {"path": name, "split": split}
        if root.is_file():
            values |= {"path": root.name, "member": name}
        if folders:
            values["label"] = folders[0]
        rows.append(Row(f"{root} file {number}", values))
    if not rows:
        found = listed([f"{n} of {ending or 'no ending'}" for ending, n in others.most_common()])
        raise ProbeError(
            f"{source.text}: no audio files; found {found or 'nothing'}; expected names that end "
            f"in {', '.join(ENDINGS[:6])} or the like."
        )
    _say(source, [row.values for row in rows], max(len(item[1]) for item in levels.values()))
    used = {name for row in rows for name in row.values}
    columns = [name for name in ("path", "split", "label", "member") if name in used]
    folder = root.parent if root.is_file() else root
    return Reading(root.resolve().stem, values_sha256(rows, columns), folder, columns, rows)


def audio_names(names: Iterable[str]) -> tuple[list[str], Counter[str]]:
    """(names of audio files in natural order, number of other files by their ending)."""
    audio: list[str] = []
    others: Counter[str] = Counter()
    for name in names:
        ending = PurePosixPath(name).suffix.lower()
        if _is_hidden(name):
            others["hidden files"] += 1
        elif ending in ENDINGS:
            audio.append(name)
        else:
            others[ending] += 1
    return sorted(audio, key=natural), others


def _is_hidden(name: str) -> bool:
    return any(part[:1] == "." != part or part in HIDDEN for part in name.split("/"))


def natural(name: str) -> list[tuple[str, int]]:
    """A key that sorts numbers within names as numbers: 2.wav before 10.wav."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", name)]


def files_below(root: Path) -> Iterator[str]:
    """The names of all files below a folder, links to folders followed once."""
    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(root, followlinks=True):
        status = Path(place).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        prefix = "" if place == str(root) else f"{Path(place).relative_to(root).as_posix()}/"
        yield from (prefix + name for name in files)


def _names(root: Path) -> list[str]:
    """The names of all files of a folder or an archive."""
    if root.is_dir():
        return list(files_below(root))
    try:
        with zipfile.ZipFile(root) as archive:
            return [item.filename for item in archive.infolist() if not item.is_dir()]
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise ProbeError(
            f"{root}: not readable as a ZIP archive ({error}); expected a folder or an archive "
            "of audio. Fetch it again, or unpack it and name the folder."
        ) from error


def _refuse_tables(source: Source, names: Sequence[str], audio: Sequence[str]) -> None:
    """Raises where tables lie with the audio that may be its manifests; a table that is named after
    an audio file is none.
    """
    stems = {name.rpartition(".")[0] for name in audio}
    tables = sorted(
        name
        for name in names
        if name.lower().endswith(TABLES)
        and not _is_hidden(name)
        and name.rpartition(".")[0] not in stems
    )
    if not tables:
        return
    paths = [source.path / name for name in tables]
    beside = [path.stem for path in paths if path.parent == paths[0].parent]
    splits = [stem for name in SPLITS for stem in beside if split_of(stem) == name]
    manifest = f"csv:{paths[0].parent}#{','.join(splits)}" if splits else f"csv:{paths[0]}"
    if source.path.is_file():
        manifest = f"the unpacked archive ({manifest})"
    raise ProbeError(
        f"{source.text}: audio, and tables that may be its manifests: {listed(tables)}. Name the "
        f"tables that are meant, such as {manifest}; or read the audio files without their texts: "
        f"folder:{source.text}."
    )


def _levels(source: Source, names: Sequence[str]) -> dict[str, tuple[str, list[str]]]:
    """Name -> (split, folders below it)."""
    if not source.parts:
        return _by_folders(source, names)
    levels: dict[str, tuple[str, list[str]]] = {}
    for split, part in source.parts:
        prefix = part.strip("/") + "/"
        inner = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        if not inner:
            folders = sorted({name.partition("/")[0] for name in names if "/" in name})
            raise ProbeError(
                f"{source.text}: no audio in the folder {part}; found the folders "
                f"{listed(folders, 10) or 'none'}."
            )
        implied = split or split_of(part)
        for name, (own, folders) in _by_folders(source, inner).items():
            if own and implied and own != implied:
                raise ProbeError(
                    f"{source.text}: {prefix}{name} lies in a folder of split {own}, within the "
                    f"part of split {implied}. Name the folders of one split only."
                )
            levels[prefix + name] = (implied or own, folders)
    return levels


def _by_folders(source: Source, names: Sequence[str]) -> dict[str, tuple[str, list[str]]]:
    """Name -> (split by the name of its folder, other folders).

    Raises:
        ProbeError: some first folders are named after splits, among them train, and some not.
    """
    folders = _without_shared([name.split("/")[:-1] for name in names])
    first = {parts[0] if parts else "" for parts in folders}
    splits = {name: split_of(name) for name in first}
    others = sorted(name or "files beside them" for name in first if not splits[name])
    if "train" in splits.values() and others:
        named = sorted(name for name in first if splits[name])
        raise ProbeError(
            f"{source.text}: the folders {listed(named)} are named after splits, but not "
            f"{listed(others)}. Say which are meant: folder:{source.root}#train={named[-1]}, ..."
        )
    if others or not names:
        return {name: ("", parts) for name, parts in zip(names, folders, strict=True)}
    rest = _without_shared([parts[1:] for parts in folders])
    return {
        name: (splits[parts[0]], inner)
        for name, parts, inner in zip(names, folders, rest, strict=True)
    }


def _without_shared(folders: list[list[str]]) -> list[list[str]]:
    """Folders of each file without the first ones that all files share and that are no split."""
    while folders and all(folders) and len({parts[0] for parts in folders}) == 1:
        if split_of(folders[0][0]):
            break
        folders = [parts[1:] for parts in folders]
    return folders


def _say(source: Source, values: Sequence[Mapping[str, str]], depth: int) -> None:
    splits = Counter(row["split"] for row in values)
    labels = {row["label"] for row in values if "label" in row}
    says = [f"{n:,} {split}" for split, n in splits.items() if split]
    if labels:
        says.append(f"column label with {counted(len(labels), 'value')} ({listed(sorted(labels))})")
    if depth > 1:
        says.append("of deeper folders only the first is the label")
    log.info("%s: %s: %s", source.text, counted(len(values), "audio file"), "; ".join(says))


def read_audiofolder(source: Source) -> Reading:
    """The tables of Hugging Face's layout: ``metadata.csv`` or ``metadata.jsonl`` with the column
    ``file_name``, in the folder or in one folder for each split.

    Raises:
        ProbeError: no such table, or what `probe.data.readers.table.read_table` raises.
    """
    root = source.path
    parts = [(split or split_of(part), f"{part.strip('/')}/") for split, part in source.parts]
    if not parts:
        folders = [""] if _metadata(root) else sorted(path.name for path in root.glob("*/"))
        parts = [(split_of(name), f"{name}/" if name else "") for name in folders]
    files = [(split, name + item) for split, name in parts for item in _metadata(root / name)]
    if not files:
        raise ProbeError(
            f"{source.text}: no {' or '.join(METADATA)} in {root} or in its folders; expected "
            "tables with a column file_name."
        )
    reading = read_table(Source(source.text, source.root, tuple(files)))
    rows = list(reading.rows)
    if (n := len(audio_names(files_below(root))[0]) - len(rows)) > 0:
        log.info("%s: %s that no table names are left out", source.text, counted(n, "audio file"))
    return dataclasses.replace(reading, name=root.resolve().name, rows=rows)


def _metadata(folder: Path) -> list[str]:
    return [name for name in METADATA if (folder / name).is_file()]


def _is_audiofolder(path: Path) -> bool:
    tables = [table for name in METADATA for table in (path / name, *path.glob(f"*/{name}"))]
    for table in tables:
        if table.is_file():
            with table.open("rb") as file:
                return b"file_name" in file.read(4096)
    return False


def _is_folder(path: Path) -> bool:
    if path.is_dir():
        names = (name for _, name in zip(range(100_000), files_below(path), strict=False))
        return any(name.lower().endswith(ENDINGS) for name in names)
    return path.suffix.lower() == ".zip" and zipfile.is_zipfile(path)


READERS = (
    Reader("folder", "folder or ZIP of audio", read_folder, _is_folder, is_general=True),
    Reader("audiofolder", "audio with metadata.csv or .jsonl", read_audiofolder, _is_audiofolder),
)
