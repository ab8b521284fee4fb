"""Google's Speech Commands as it is unpacked (Warden 2018, arXiv:1804.03209), versions 0.01 and
0.02.

A release has a folder for each word, ``validation_list.txt`` and ``testing_list.txt``, which say
the split, and ``_background_noise_``. The test set that was published beside it has twelve folders:
ten keywords, ``_unknown_`` and ``_silence_``; some of its files end in ``.wav.wav``. Columns beside
text and speaker: ``word``, the name of the folder, and ``keyword``, one of these twelve classes.

Silence of a release is its background noise, cut into seconds: of each recording, the first 80 %
are for training, the next 10 % for dev, the last 10 % for test.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from probe.data.audio import header_duration_s
from probe.data.readers.lists import lines_of, values_sha256
from probe.data.readers.reading import COLUMNS, Reader, Reading, Row, Source
from probe.errors import ProbeError

LISTS = {"dev": "validation_list.txt", "test": "testing_list.txt"}
NOISE, SILENCE, UNKNOWN = "_background_noise_", "_silence_", "_unknown_"
KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
SPEAKER = re.compile(r"(?:^|_)([0-9a-f]{8})_nohash_")
SHARES = (("train", 0.8), ("dev", 0.9), ("test", 1.0))  # of background noise, up to here


def read_speech_commands(source: Source) -> Reading:
    """The recordings of ``speechcommands:ROOT``, a release, or of
    ``speechcommands:ROOT#RELEASE,test=TEST_SET``, folders of ROOT; with a test set of its own, the
    release's test recordings are left out.

    Raises:
        ProbeError: no such folder, no folders of words, a list that names no recording, a test set
            without ``test=``.
    """
    parts = list(source.parts) or [("", ".")]
    folders = [(split, source.path / part) for split, part in parts]
    has_test_set = any(split == "test" for split, _ in parts)
    rows: list[Row] = []
    for split, folder in folders:
        if not folder.is_dir() or not any(folder.glob("*/*.wav")):
            raise ProbeError(
                f"{source.text}: no folders of words with .wav files in {folder}; expected a "
                "release of Speech Commands as it is unpacked, or its test set."
            )
        is_release = (folder / LISTS["dev"]).is_file()
        if not (is_release or split):
            raise ProbeError(
                f"{source.text}: {folder} has no {LISTS['dev']}, so its recordings have no split. "
                "Write test= before the folder of the test set: "
                "speechcommands:ROOT#speech_commands_v0.01,test=speech_commands_test_set_v0.01."
            )
        new = _release(source.path, folder) if is_release else _test_set(source.path, folder, split)
        left_out = "test" if is_release and has_test_set else ""
        rows += [row for row in new if row.values["split"] != left_out]
    columns = (*COLUMNS, "id", "start", "end", "word", "keyword")
    root = source.path.resolve()
    name = "+".join(Path(part).name or root.name for _, part in parts)
    return Reading(name, values_sha256(rows, columns), source.path, columns, rows)


def _release(root: Path, folder: Path) -> Iterator[Row]:
    splits: dict[str, str] = {}
    for split, list_name in LISTS.items():
        for where, line in lines_of(folder / list_name):
            if not (folder / line).is_file():
                raise ProbeError(
                    f"{where}: {folder / line} does not exist. Unpack the release again."
                )
            splits[line] = split
    for path in sorted(folder.glob("*/*.wav")):
        name = path.relative_to(folder).as_posix()
        if path.parent.name != NOISE:
            yield _row(root, path, splits.get(name, "train"))
    for path in sorted((folder / NOISE).glob("*.wav")):
        yield from _seconds(root, path)


def _test_set(root: Path, folder: Path, split: str) -> Iterator[Row]:
    for path in sorted(folder.glob("*/*.wav")):
        yield _row(root, path, split)


def _row(root: Path, path: Path, split: str) -> Row:
    word = path.parent.name
    is_spoken = word not in (SILENCE, UNKNOWN)
    known = SPEAKER.search(path.name) if word != SILENCE else None
    name = path.relative_to(root).as_posix()
    values = {
        "id": name,
        "path": name,
        "split": split,
        "text": word if is_spoken else "",
        "speaker": known[1] if known else "",
        "word": word,
        "keyword": word if word in (*KEYWORDS, SILENCE) else UNKNOWN,
    }
    return Row(name, dict.fromkeys(COLUMNS, "") | values)


def _seconds(root: Path, path: Path) -> Iterator[Row]:
    """A row for each whole second of a recording of noise."""
    n_seconds = int(header_duration_s(path) or 0)
    name = path.relative_to(root).as_posix()
    for second in range(n_seconds):
        values = {
            "id": f"{name}#{second}",
            "path": name,
            "start": str(second),
            "end": str(second + 1),
            "split": next(split for split, share in SHARES if (second + 0.5) / n_seconds < share),
            "word": SILENCE,
            "keyword": SILENCE,
        }
        yield Row(f"{name} second {second + 1}", dict.fromkeys(COLUMNS, "") | values)


def _recognises(path: Path) -> bool:
    return all((path / name).is_file() for name in LISTS.values())


READERS = (
    Reader(
        "speechcommands",
        "Speech Commands, with #v0.01,test=FOLDER its test set",
        read_speech_commands,
        _recognises,
    ),
)
