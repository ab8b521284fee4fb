"""TIMIT's labels over time: ``.PHN`` files, and the ``.WRD`` files beside them.

A line is a start and an end in samples at 16 kHz, and a label. The tiers are ``phones``, TIMIT's 61
phones as they are; ``phones39``, the 39 classes of Lee & Hon (1989) in which results are usually
given, where closures and pauses are ``sil`` and the glottal stop ``q`` has no label; and ``words``.
"""

from collections.abc import Iterator
from pathlib import Path

from probe.data.csv_tables import decoded_table
from probe.data.time_labels.interval import Interval
from probe.errors import ProbeError

RATE_HZ = 16_000
ENDING = ".phn"
# The phones of other classes than their own; all others are classes themselves.
CLASSES = {
    "ao": "aa",
    "ax": "ah",
    "ax-h": "ah",
    "axr": "er",
    "hv": "hh",
    "ix": "ih",
    "el": "l",
    "em": "m",
    "en": "n",
    "nx": "n",
    "eng": "ng",
    "zh": "sh",
    "ux": "uw",
    "q": "",
    **dict.fromkeys(("bcl", "dcl", "gcl", "pcl", "tcl", "kcl", "epi", "pau", "h#"), "sil"),
}


def read_phn(path: Path) -> dict[str, list[Interval]]:
    """Tier -> its intervals; no words where there is no ``.WRD`` file.

    Raises:
        ProbeError: a line of another form, with its number.
    """
    phones = list(_intervals(path))
    classes = [
        Interval(item.start_s, item.end_s, CLASSES.get(item.label, item.label), item.where)
        for item in phones
    ]
    tiers = {"phones": phones, "phones39": classes}
    for ending in (".WRD", ".wrd"):
        if (words := path.with_suffix(ending)).is_file():
            tiers["words"] = list(_intervals(words))
    return tiers


def _intervals(path: Path) -> Iterator[Interval]:
    text = decoded_table(path, path.read_bytes(), "a label file of TIMIT")
    for number, line in enumerate(text.splitlines(), start=1):
        if not (fields := line.split()):
            continue
        where = f"{path} line {number}"
        if len(fields) != 3 or not (fields[0].isdecimal() and fields[1].isdecimal()):
            raise ProbeError(f"{where}: {line!r}; expected `START END LABEL` in samples.")
        start_s, end_s = (int(field) / RATE_HZ for field in fields[:2])
        yield Interval(start_s, end_s, fields[2], where)
