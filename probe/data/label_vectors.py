"""Vectors of labels that a user gives, such as word embeddings or linguistic properties of words.

A file has one of two forms: a NumPy array ``NAME.npy`` of (label, dim) numbers with the labels, one
a line, in ``NAME.txt`` beside it; or, with any other ending, the text form in which GloVe and
acoustic word embeddings are published: a line for each label, the label and then its numbers, with
spaces between them (a first line with two whole numbers, as word2vec writes it, is skipped).
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from probe.errors import ProbeError, listed
from probe.files import sha256_of_file, sha256_of_json, unread

FORMS = "NAME.npy with the labels in NAME.txt, or text lines `label number number ...`"


@dataclass(frozen=True)
class LabelVectors:
    """Vectors by label.

    Attributes:
        name: of the file, without its ending.
        sha256: of the file, or of both files.
        of_labels: label -> (dim,) float64.
    """

    name: str
    sha256: str
    of_labels: dict[str, np.ndarray]


def load_vectors(path: Path | str, labels: Collection[str]) -> LabelVectors:
    """The vectors of those of the labels that the file has.

    Raises:
        ProbeError: the file is missing or damaged, names a label twice, has values that are not
            finite, or has none of the labels.
    """
    path, wanted = Path(path), set(labels)
    if not path.is_file():
        raise ProbeError(f"{path}: does not exist; expected {FORMS}. Give another with --vectors.")
    folded = {label.casefold() for label in wanted}
    of_labels: dict[str, np.ndarray] = {}
    other_case: list[str] = []
    known: list[str] = []
    is_array = path.suffix == ".npy"
    for where, label, vector in _array(path) if is_array else _text(path):
        if label in of_labels:
            raise ProbeError(f"{where}: the label {label!r} comes a second time; expected it once.")
        known += [label] if len(known) < 3 else []
        if label not in wanted:
            other_case += [label] if label.casefold() in folded and len(other_case) < 3 else []
            continue
        values = _numbers(where, vector)
        if of_labels and len(values) != (dim := len(next(iter(of_labels.values())))):
            raise ProbeError(f"{where}: {len(values)} numbers; the lines before have {dim}.")
        of_labels[label] = values
    if not of_labels:
        hint = f" It has {listed(other_case)}: write labels in the same case." if other_case else ""
        raise ProbeError(
            f"{path}: has no vector for any of the {len(wanted)} labels "
            f"({listed(sorted(wanted), 3)}); its labels are {listed(known) or 'none'}, ....{hint}"
        )
    sha256 = sha256_of_file(path)
    if is_array:
        sha256 = sha256_of_json([sha256, sha256_of_file(_list_of(path))])
    return LabelVectors(path.stem, sha256, of_labels)


def _numbers(where: str, values: np.ndarray | list[str]) -> np.ndarray:
    """(dim,) float64.

    Raises:
        ProbeError: some are no finite numbers, or there are none.
    """
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except ValueError as error:
        raise ProbeError(f"{where}: {error}; expected `label number number ...`.") from None
    if not len(numbers) or not np.isfinite(numbers).all():
        raise ProbeError(f"{where}: expected one finite number or more after the label.")
    return numbers


def _list_of(path: Path) -> Path:
    return path.with_suffix(".txt")


def _array(path: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """Where, label and vector of each row of an array.

    Raises:
        ProbeError: it is no array of (label, dim), or the list has other lines.
    """
    names = _list_of(path)
    if not names.is_file():
        raise ProbeError(
            f"{names}: does not exist; expected the labels of the rows of {path.name}, one a line."
        )
    try:
        values = np.load(path, allow_pickle=False)
        labels = names.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ProbeError(f"{path}: {error}; expected a NumPy array and a UTF-8 list.") from error
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise ProbeError(
            f"{path}: {values.dtype} of shape {values.shape}; expected numbers of (label, dim)."
        )
    if len(labels) != len(values):
        raise ProbeError(
            f"{names}: {len(labels)} lines, but {path.name} has {len(values)} rows; expected one "
            "label for each row."
        )
    for number, (label, vector) in enumerate(zip(labels, values, strict=True), start=1):
        yield f"{names} line {number}", label, vector


def _text(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Where, label and numbers of each line.

    Raises:
        ProbeError: it is no UTF-8 text.
    """
    try:
        with path.open(encoding="utf-8") as file:
            dim = 0
            for number, line in enumerate(file, start=1):
                fields = line.rstrip().split(" ")
                if number == 1 and len(fields) == 2 and "".join(fields).isdigit():
                    continue
                dim = dim or len(fields) - 1
                split = max(1, len(fields) - dim)  # some published labels have spaces
                if fields[0]:
                    yield f"{path} line {number}", " ".join(fields[:split]), fields[split:]
    except OSError as error:
        raise unread(path, error) from error
    except UnicodeDecodeError as error:
        raise ProbeError(f"{path}: no UTF-8 text ({error.reason}); expected {FORMS}.") from error
