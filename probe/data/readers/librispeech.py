"""LibriSpeech and Libri-Light's limited subsets as they are unpacked: text, speaker, domain and
split from the tree's own files.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from probe.data.readers.lists import lines_of
from probe.data.readers.reading import COLUMNS, Reader, Reading, Row, Source
from probe.errors import ProbeError

SPLITS = ("train", "dev", "test")
# The subsets of Libri-Light (arXiv:1912.07875, section 3.2) -> folders of librispeech_finetuning;
# all of them are for training.
LIMITED = {"10min": ("1h/0",), "1h": ("1h",), "10h": ("1h", "9h")}


def read_librispeech(source: Source) -> Reading:
    """The rows of the subsets named after ``#`` in ``librispeech:ROOT#subset,subset``.

    A subset is a folder of the root, such as ``dev-clean`` or ``librispeech_finetuning/1h``, or one
    of ``10min``, ``1h`` and ``10h`` in Libri-Light's folder ``librispeech_finetuning``.

    Raises:
        ProbeError: no such subset, or files that are not LibriSpeech's.
    """
    root = source.path
    known = sorted(_subsets(root))
    problem = "" if source.parts else "no subsets named"
    if unknown := [
        name for _, name in source.parts if not all(map(Path.is_dir, _folders(root, name)))
    ]:
        problem = f"subset {', '.join(unknown)} not found"
    if problem:
        raise ProbeError(
            f"{source.text}: {problem} in {root}; found {', '.join(known) or 'no subsets'}. Write "
            "librispeech:ROOT#dev-clean,test-clean with ROOT the folder that holds dev-clean and "
            "its like."
        )
    sexes = _sexes(root / "SPEAKERS.TXT")
    rows: list[Row] = []
    for split, subset in source.parts:
        same = {"split": split or _split(source, subset), "subset": subset}
        for folder in _folders(root, subset):
            transcripts = sorted(folder.rglob("*.trans.txt"))
            if not transcripts:
                raise ProbeError(
                    f"{folder}: no */*/*.trans.txt; expected LibriSpeech's speaker/chapter folders."
                )
            for transcript in transcripts:
                rows += _chapter(root, transcript, same, sexes)
    lines = [
        "\t".join(row.values[column] for column in ("id", "text", "speaker", "split"))
        for row in rows
    ]
    sha256 = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    name = "librispeech-" + "+".join(name.replace("/", "-") for _, name in source.parts)
    return Reading(name, sha256, root, (*COLUMNS, "subset", "chapter", "sex"), rows)


def _subsets(root: Path) -> Iterator[str]:
    """The names of the subsets in a folder."""
    for path in root.glob("*") if root.is_dir() else ():
        if path.is_dir() and "-" in path.name:
            yield path.name
    yield from (name for name in LIMITED if all(map(Path.is_dir, _folders(root, name))))


def _folders(root: Path, subset: str) -> list[Path]:
    """The folders of a subset."""
    place, _, name = subset.rpartition("/")
    return [root / place / folder for folder in LIMITED.get(name, (name,))]


def _split(source: Source, subset: str) -> str:
    """The split of a subset by its name; Libri-Light's are for training."""
    if {"1h", "9h", *LIMITED} & set(subset.split("/")):
        return "train"
    first = subset.rpartition("/")[2].split("-")[0]
    if first not in SPLITS:
        raise ProbeError(
            f"{source.text}: subset {subset} starts with {first!r}; expected train-, dev- or test-."
            f" Write train={subset}, or whichever split it is."
        )
    return first


def _chapter(
    root: Path, transcript: Path, same: dict[str, str], sexes: dict[str, str]
) -> Iterator[Row]:
    """The rows of one chapter's transcript."""
    for where, line in lines_of(transcript):
        identifier, _, text = line.partition(" ")
        path = transcript.parent / f"{identifier}.flac"
        if identifier.count("-") != 2 or not path.exists():
            raise ProbeError(
                f"{where}: {path.name} not found beside it; "
                "expected `speaker-chapter-number TEXT` and its flac."
            )
        speaker, chapter, _ = identifier.split("-")
        is_other = "other" in same["subset"] or "other" in transcript.relative_to(root).parts
        values = {
            "id": identifier,
            "path": str(path.relative_to(root)),
            "text": text,
            "speaker": f"ls-{speaker}",
            "domain": f"librispeech-{'other' if is_other else 'clean'}",
            "duration_s": "",
            "chapter": chapter,
            "sex": sexes.get(speaker, ""),
            **same,
        }
        yield Row(where, values)


def _sexes(path: Path) -> dict[str, str]:
    """Speaker -> F or M, from ``SPEAKERS.TXT`` where the file exists."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    fields = [
        [part.strip() for part in line.split("|")]
        for line in lines
        if line and not line.startswith(";")
    ]
    return {parts[0]: parts[1] for parts in fields if len(parts) > 1}


def _recognises(path: Path) -> bool:
    return any(any(path.glob(f"{name}/*/*/*.trans.txt")) for name in ("*-*", "1h/?/*"))


READERS = (
    Reader(
        "librispeech",
        "LibriSpeech or Libri-Light limited with #dev-clean,10h",
        read_librispeech,
        _recognises,
    ),
)
