"""fairseq's manifests: ``train.tsv`` with ``train.wrd``, ``train.ltr`` and ``train.phn`` beside it.

The first line of a TSV is the folder of the audio, each other line has a path and a number of
samples (https://github.com/facebookresearch/fairseq, examples/wav2vec). Line n of the other files
belongs to line n + 1 of it.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from probe.data.readers.lists import lines_of, split_of, split_of_part, values_sha256
from probe.data.readers.reading import Reader, Reading, Row, Source
from probe.errors import ProbeError, listed, refuse_problems

COLUMNS = ("path", "text", "split", "phones", "samples")


def read_fairseq(source: Source) -> Reading:
    """The utterances of ``fairseq:ROOT#train,valid`` (``ROOT/train.tsv`` ...) or of one TSV file.

    The text is that of ``.wrd``, or else the letters of ``.ltr`` joined; ``.phn`` gives the column
    phones. The number of samples becomes a column: no file says at which rate it was counted.

    Raises:
        ProbeError: no such file, lines of another form, another number of lines than in the TSV.
    """
    root = source.path
    if root.is_dir():
        known = sorted(path.stem for path in root.glob("*.tsv"))
        if not source.parts:
            raise ProbeError(
                f"{source.text}: no parts named; found {listed(known, 10) or 'no .tsv'} in {root}. "
                "Write fairseq:ROOT#train,valid."
            )
        files = [
            (split_of_part(source, split, part), root / f"{part.removesuffix('.tsv')}.tsv")
            for split, part in source.parts
        ]
    else:
        files = [(split_of(root.stem), root)]
    rows: list[Row] = []
    for split, path in files:
        rows += _rows(path, split, root if root.is_dir() else root.parent)
    used = {name for row in rows for name in row.values}
    columns = [name for name in COLUMNS if name in used]
    stem = root.resolve().stem
    name = stem if root.is_file() else f"{stem}-{'+'.join(path.stem for _, path in files)}"
    folder = root if root.is_dir() else root.parent
    return Reading(name, values_sha256(rows, columns), folder, columns, rows)


def _rows(path: Path, split: str, folder: Path) -> Iterator[Row]:
    """The rows of one TSV and the files beside it."""
    (first, head), *lines = [*lines_of(path)] or [(f"{path} line 1", "")]
    base = _base(first, head, path.parent)
    texts = {
        ending: _texts(path, ending, len(lines))
        for ending in (".wrd", ".ltr", ".phn")
        if path.with_suffix(ending).is_file()
    }
    problems: list[str] = []
    for index, (where, line) in enumerate(lines):
        name, *numbers = line.split("\t")
        if len(numbers) != 1 or not re.fullmatch(r"\s*\d+\s*", numbers[0]):
            problems.append(f"{where}: {line!r}; expected a path, a tab, and the samples.")
            continue
        if re.search(r"(:\d+){2}$", name):
            problems.append(f"{where}: {name} is a part of an archive. Unpack it and name files.")
            continue
        audio = base / name
        values = {"path": os.path.relpath(audio, folder) if audio.exists() else str(audio)}
        values |= {"split": split, "samples": numbers[0].strip()}
        if ".phn" in texts:
            values["phones"] = texts[".phn"][index]
        if ".wrd" in texts:
            values["text"] = texts[".wrd"][index]
        elif ".ltr" in texts:
            words = "".join(texts[".ltr"][index].split()).split("|")
            values["text"] = " ".join(filter(None, words))
        yield Row(where, values)
    refuse_problems(problems)


def _base(where: str, head: str, folder: Path) -> Path:
    """The folder of the audio; a relative one is looked for above the manifest."""
    if not head or "\t" in head:
        raise ProbeError(
            f"{where}: {head!r}; expected the folder of the audio alone, as fairseq's manifests "
            "begin. For a table with a header write csv: before its path."
        )
    whole = folder.resolve()
    places = [place / head for place in (whole, *whole.parents[:4])]
    return next((place for place in places if place.is_dir()), places[0])


def _texts(path: Path, ending: str, n_lines: int) -> list[str]:
    """The lines of a file beside a TSV; an empty line is an empty text."""
    file = path.with_suffix(ending)
    texts = {int(where.rpartition(" ")[2]): line for where, line in lines_of(file)}
    n = max(file.read_bytes().count(b"\n"), max(texts, default=0))
    if n != n_lines:
        raise ProbeError(
            f"{file}: {n} lines, but {path} names {n_lines} files. Make both anew from one list."
        )
    return [texts.get(number, "") for number in range(1, n + 1)]


def _recognises(path: Path) -> bool:
    files = [path] if path.suffix == ".tsv" else sorted(path.glob("*.tsv"))[:1]
    for file in files:
        if file.is_file():
            with file.open("rb") as opened:
                first, second, *_ = [*opened.read(8192).split(b"\n"), b"", b""]
            return b"\t" not in first and bool(re.fullmatch(rb"[^\t]+\t\d+\s*", second))
    return False


READERS = (Reader("fairseq", "TSV of fairseq with .wrd, .ltr, .phn", read_fairseq, _recognises),)
