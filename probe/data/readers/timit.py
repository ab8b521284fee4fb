"""TIMIT as it is unpacked (Garofolo et al. 1993, LDC93S1).

``TRAIN/DR1/FCJF0/SI1027.WAV`` lies beside ``.TXT``, ``.WRD`` and ``.PHN``; names may be small, and
audio that was converted may end in ``.WAV.wav``. Split test is the core test set of 24 speakers,
dev the 50 speakers of Halberstadt's development set (as in Kaldi's recipe), both of ``TEST``. The
two sentences that every speaker reads (``SA1``, ``SA2``) and the other speakers of ``TEST`` are
left out, as is usual.

Give the root to ``--labels`` too: it reads the phones from the ``.PHN`` files
(`probe.data.time_labels.timit`).
"""

import re
from collections.abc import Iterator
from pathlib import Path

from probe.data.readers.lists import lines_of, values_sha256
from probe.data.readers.reading import COLUMNS, Reader, Reading, Row, Source
from probe.errors import ProbeError


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


CORE = _names(
    "mdab0 mwbt0 felc0 mtas1 mwew0 fpas0 mjmp0 mlnt0 fpkt0 mlll0 mtls0 fjlm0 mbpm0 mklt0 "
    "fnlp0 mcmj0 mjdh0 fmgd0 mgrt0 mnjm0 fdhc0 mjln0 mpam0 fmld0"
)
DEVELOPMENT = _names(
    "faks0 fdac1 fjem0 mgwt0 mjar0 mmdb1 mmdm2 mpdf0 fcmh0 fkms0 mbdg0 mbwm0 mcsh0 fadg0 "
    "fdms0 fedw0 mgjf0 mglb0 mrtk0 mtaa0 mtdt0 mthc0 mwjg0 fnmr0 frew0 fsem0 mbns0 mmjr0 "
    "mdls0 mdlf0 mdvc0 mers0 fmah0 fdrw0 mrcs0 mrjm4 fcal1 mmwh0 fjsj0 majc0 mjsw0 mreb0 "
    "fgjd0 fjmg0 mroa0 mteb0 mjfc0 mrjr0 fmml0 mrws1"
)
AUDIO = re.compile(r"(?P<stem>(?P<kind>s[aix])\d+)\.wav(\.wav)?", re.IGNORECASE)


def read_timit(source: Source) -> Reading:
    """The sentences of ``timit:ROOT``; ROOT is the folder that holds ``TRAIN`` and ``TEST``.

    Raises:
        ProbeError: no such folders, or no sentences in them.
    """
    root = source.path
    halves = {path.name.lower(): path for path in root.glob("*") if path.is_dir()}
    if not {"train", "test"} <= halves.keys() or source.parts:
        raise ProbeError(
            f"{source.text}: expected the folders TRAIN and TEST in {root}, and no parts. Write "
            "timit:ROOT with ROOT the folder TIMIT of the LDC's archive."
        )
    rows = [row for half in ("train", "test") for row in _sentences(root, halves[half], half)]
    if not rows:
        raise ProbeError(
            f"{source.text}: no sentences (DR1/SPEAKER/SI1027.WAV) in {root}; expected TIMIT."
        )
    columns = (*COLUMNS, "id", "sex", "dialect")
    return Reading("timit", values_sha256(rows, columns), root, columns, rows)


def _sentences(root: Path, folder: Path, half: str) -> Iterator[Row]:
    for path in sorted(folder.glob("*/*/*")):
        speaker = path.parent.name.lower()
        split = half if half == "train" else _split(speaker)
        name = AUDIO.fullmatch(path.name)
        if not name or name["kind"].lower() == "sa" or not split:
            continue
        dialect = path.parent.parent.name.upper()
        values = {
            "id": (path.parent / name["stem"]).relative_to(root).as_posix(),
            "path": path.relative_to(root).as_posix(),
            "text": _text(path.parent, name["stem"]),
            "speaker": speaker,
            "split": split,
            "sex": speaker[0].upper(),
            "dialect": dialect,
        }
        yield Row(str(path), dict.fromkeys(COLUMNS, "") | values)


def _split(speaker: str) -> str:
    if speaker in CORE:
        return "test"
    return "dev" if speaker in DEVELOPMENT else ""


def _text(folder: Path, stem: str) -> str:
    """The sentence, without the two numbers before it; empty where the file is not there."""
    paths = [folder / f"{stem}{ending}" for ending in (".TXT", ".txt")]
    for path in paths:
        if path.is_file():
            return " ".join(line.split(maxsplit=2)[-1] for _, line in lines_of(path))
    return ""


READERS = (
    Reader(
        "timit",
        "TIMIT, with --labels of the same root",
        read_timit,
        lambda path: any(path.glob("[Tt][Rr][Aa][Ii][Nn]/[Dd][Rr]1")),
    ),
)
