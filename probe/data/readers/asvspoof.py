"""ASVspoof 2019 as it is unpacked (Wang et al. 2020), track LA or PA.

``ASVspoof2019_LA_cm_protocols`` has a list for each split with lines ``LA_0079 LA_T_1138215 - A01
spoof``: speaker, recording, environment, attack, key. Recordings that no list names, such as those
for the enrolment of speakers, are left out. Columns beside the speaker: ``key`` (``bonafide`` or
``spoof``) and ``attack`` (``A01`` to ``A19``; empty for ``bonafide``).
"""

from probe.data.readers.lists import lines_of, values_sha256
from probe.data.readers.reading import COLUMNS, Reader, Reading, Row, Source
from probe.errors import ProbeError, refuse_problems

SPLITS = {"train": ("train", "trn"), "dev": ("dev", "trl"), "test": ("eval", "trl")}
KEYS = ("bonafide", "spoof")


def read_asvspoof(source: Source) -> Reading:
    """The recordings that the three lists of ``asvspoof:ROOT`` name.

    Raises:
        ProbeError: no lists, or lines of another form; up to eight problems are named with their
            lines.
    """
    root = source.path
    tracks = [
        track for track in ("LA", "PA") if (root / f"ASVspoof2019_{track}_cm_protocols").is_dir()
    ]
    if len(tracks) != 1 or source.parts:
        raise ProbeError(
            f"{source.text}: expected one folder ASVspoof2019_LA_cm_protocols in {root}, and no "
            f"parts; found {', '.join(tracks) or 'none'}. Write asvspoof:ROOT with ROOT the folder "
            "LA that LA.zip unpacks to."
        )
    (track,) = tracks
    problems: list[str] = []
    rows: list[Row] = []
    for split, (name, form) in SPLITS.items():
        path = root / f"ASVspoof2019_{track}_cm_protocols/ASVspoof2019.{track}.cm.{name}.{form}.txt"
        for where, line in lines_of(path):
            fields = line.split()
            if len(fields) != 5 or fields[4] not in KEYS:
                problems.append(
                    f"{where}: {line!r}; expected `speaker recording environment attack key` with "
                    "the key bonafide or spoof."
                )
                continue
            speaker, recording, _, attack, key = fields
            values = {
                "id": recording,
                "path": f"ASVspoof2019_{track}_{name}/flac/{recording}.flac",
                "speaker": speaker,
                "split": split,
                "key": key,
                "attack": "" if attack == "-" else attack,
            }
            rows.append(Row(where, dict.fromkeys(COLUMNS, "") | values))
    refuse_problems(problems)
    columns = (*COLUMNS, "id", "key", "attack")
    name = f"asvspoof2019-{track.lower()}"
    return Reading(name, values_sha256(rows, columns), root, columns, rows)


READERS = (
    Reader(
        "asvspoof",
        "ASVspoof 2019, track LA or PA",
        read_asvspoof,
        lambda path: any(path.glob("ASVspoof2019_?A_cm_protocols")),
    ),
)
