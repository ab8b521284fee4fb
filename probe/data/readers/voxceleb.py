"""VoxCeleb1 as it is unpacked, with the split for identification.

Source: https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html. ``iden_split.txt`` has lines ``1
id10001/1zcIwhmdeo4/00001.wav``; 1 is train, 2 dev and 3 test. Utterances are named as there, which
is also how the trial lists name them. ``vox1_meta.csv`` gives gender and nationality where it lies
beside.

``voxceleb:ROOT#verification`` divides the same utterances by speakers instead, for trial lists: the
40 speakers of VoxCeleb1's test set are test, and every twelfth of the other speakers is dev.
"""

from pathlib import Path

from probe.data.readers.lists import lines_of, values_sha256
from probe.data.readers.reading import COLUMNS, Reader, Reading, Row, Source
from probe.errors import ProbeError, listed, refuse_problems

LIST = "iden_split.txt"
META = "vox1_meta.csv"
SPLITS = {"1": "train", "2": "dev", "3": "test"}
VERIFICATION = "verification"
TESTED = range(10270, 10310)  # numbers of the speakers of the test set
DEV_EVERY = 12
# Folders of speakers, depending on how the archives were unpacked.
FOLDERS = (
    "wav",
    "dev/wav",
    "test/wav",
    "vox1_dev_wav/wav",
    "vox1_test_wav/wav",
    "dev",
    "test",
    ".",
)


def read_voxceleb(source: Source) -> Reading:
    """The utterances of the list in ``voxceleb:ROOT`` (or ``voxceleb:ROOT#LIST``, another of the
    same form), or of its list by speakers (``voxceleb:ROOT#verification``).

    Raises:
        ProbeError: no list, lines of another form, speakers whose folder is not there, utterances
            that occur twice; up to eight problems are named with their lines.
    """
    root = source.path
    names = [part for _, part in source.parts] or [LIST]
    if len(names) > 1 or any(split for split, _ in source.parts):
        raise ProbeError(
            f"{source.text}: expected one list, whose lines say the split of each utterance. Write "
            f"voxceleb:ROOT#{LIST}."
        )
    by_speakers = names == [VERIFICATION]
    path = _list(source, LIST if by_speakers else names[0])
    speakers = {
        item.name: folder
        for folder in reversed(FOLDERS)
        for item in ((root / folder).glob("*") if (root / folder).is_dir() else ())
        if item.is_dir()
    }
    labels = _labels(root)
    rows: dict[str, Row] = {}
    problems: list[str] = []
    for where, line in lines_of(path):
        number, _, name = (part.strip() for part in line.replace("\t", " ").partition(" "))
        parts = name.split("/")
        if number not in SPLITS or len(parts) != 3:
            problems.append(
                f"{where}: {line!r}; expected `1 speaker/video/number.wav` with 1 (train), 2 (dev) "
                "or 3 (test). Fetch the list again from VoxCeleb's page."
            )
        elif name in rows:
            line_text = rows[name].where.rpartition(" ")[2]
            problems.append(f"{where}: {name} occurs on line {line_text} already. Remove one.")
        elif parts[0] not in speakers:
            problems.append(
                f"{where}: no folder of {parts[0]} in {root}; expected it in {', '.join(FOLDERS)}. "
                "Unpack both archives there (vox1_dev_wav.zip and vox1_test_wav.zip)."
            )
        else:
            gender, nationality = labels.get(parts[0], ("", ""))
            values = {
                **dict.fromkeys(COLUMNS, ""),
                "id": name,
                "path": f"{speakers[parts[0]]}/{name}",
                "speaker": parts[0],
                "split": _split(parts[0]) if by_speakers else SPLITS[number],
                "video": parts[1],
                "gender": gender,
                "nationality": nationality,
            }
            rows[name] = Row(where, values)
    refuse_problems(problems)
    columns = (*COLUMNS, "id", "video", *(("gender", "nationality") if labels else ()))
    items = list(rows.values())
    corpus = f"voxceleb1-{VERIFICATION}" if by_speakers else "voxceleb1"
    return Reading(corpus, values_sha256(items, columns), root, columns, items)


def _split(speaker: str) -> str:
    """The split of a speaker for verification."""
    number = int("".join(filter(str.isdecimal, speaker)) or 0)
    if number in TESTED:
        return "test"
    return "train" if number % DEV_EVERY else "dev"


def _list(source: Source, name: str) -> Path:
    candidates = [source.path / name, source.path / "meta" / name]
    for path in candidates:
        if path.is_file():
            return path
    near = sorted(path.name for path in source.path.glob("*.txt"))
    raise ProbeError(
        f"{source.text}: {candidates[0]} does not exist; found {listed(near) or 'no .txt'}. Put "
        f"{LIST} from VoxCeleb's page (metadata, dataset split for identification) beside wav/."
    )


def _labels(root: Path) -> dict[str, tuple[str, str]]:
    """Speaker -> gender and nationality; none where the table is not there."""
    path = next((item for item in (root / META, root / "meta" / META) if item.is_file()), None)
    rows = [line.split("\t") for _, line in lines_of(path)] if path else []
    return {fields[0]: (fields[2], fields[3]) for fields in rows[1:] if len(fields) > 3}


READERS = (
    Reader(
        "voxceleb",
        f"VoxCeleb1 with {LIST}",
        read_voxceleb,
        lambda path: any((path / name).is_file() for name in (LIST, f"meta/{LIST}")),
    ),
)
