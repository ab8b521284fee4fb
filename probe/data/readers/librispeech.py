"""LibriSpeech as it is unpacked: text, speaker, domain and split from the tree's own files."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from probe.data.readers.reading import COLUMNS, Reader, Reading, Row, Source
from probe.errors import ProbeError

SPLITS = ("train", "dev", "test")


def read_librispeech(source: Source) -> Reading:
    """The rows of the subsets named after ``#`` in ``librispeech:ROOT#subset,subset``.

    Raises:
        ProbeError: no such subset, or files that are not LibriSpeech's.
    """
    root = source.path
    known = sorted(item.name for item in root.glob("*-*") if item.is_dir()) if root.is_dir() else []
    subsets = [name for _, name in source.parts]
    unknown = [name for name in subsets if name not in known]
    if not subsets or unknown:
        problem = f"subset {', '.join(unknown)} not found" if unknown else "no subsets named"
        raise ProbeError(
            f"{source.text}: {problem} in {root}; found {', '.join(known) or 'no subsets'}. Write "
            "librispeech:ROOT#dev-clean,test-clean with ROOT the folder that holds dev-clean and "
            "its like."
        )
    sexes = _sexes(root / "SPEAKERS.TXT")
    rows: list[Row] = []
    for subset in subsets:
        if subset.split("-")[0] not in SPLITS:
            raise ProbeError(
                f"{source.text}: subset {subset} starts with {subset.split('-')[0]!r}; "
                "expected train-, dev- or test-."
            )
        transcripts = sorted((root / subset).glob("*/*/*.trans.txt"))
        if not transcripts:
            raise ProbeError(
                f"{root / subset}: no */*/*.trans.txt; "
                "expected LibriSpeech's speaker/chapter folders."
            )
        for transcript in transcripts:
            rows += _chapter(root, subset, transcript, sexes)
    lines = [
        "\t".join(row.values[column] for column in ("id", "text", "speaker", "split"))
        for row in rows
    ]
    sha256 = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    columns = (*COLUMNS, "subset", "chapter", "sex")
    return Reading("librispeech-" + "+".join(subsets), sha256, root, columns, rows)


def _chapter(root: Path, subset: str, transcript: Path, sexes: dict[str, str]) -> Iterator[Row]:
    """The rows of one chapter's transcript."""
    try:
        lines = transcript.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ProbeError(
            f"{transcript}: byte {error.start} is not UTF-8. Fetch the file again."
        ) from error
    for number, line in enumerate(lines, start=1):
        where = f"{transcript} line {number}"
        identifier, _, text = line.strip().partition(" ")
        path = transcript.parent / f"{identifier}.flac"
        if identifier.count("-") != 2 or not path.exists():
            raise ProbeError(
                f"{where}: {path.name} not found beside it; "
                "expected `speaker-chapter-number TEXT` and its flac."
            )
        speaker, chapter, _ = identifier.split("-")
        values = {
            "id": identifier,
            "path": str(path.relative_to(root)),
            "text": text,
            "speaker": f"ls-{speaker}",
            "domain": f"librispeech-{'other' if 'other' in subset else 'clean'}",
            "split": subset.split("-")[0],
            "duration_s": "",
            "subset": subset,
            "chapter": chapter,
            "sex": sexes.get(speaker, ""),
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
    return any(path.glob("dev-clean/*/*/*.trans.txt")) if path.is_dir() else False


READERS = (
    Reader("librispeech", "LibriSpeech folder with #subset,subset", read_librispeech, _recognises),
)
