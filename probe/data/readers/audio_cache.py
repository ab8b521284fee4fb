"""Audio that a library holds in memory, written once into the user's cache: the rest of layerprobe
reads files.

``$XDG_CACHE_HOME/layerprobe/corpora/<fingerprint>`` (``~/.cache`` without the variable) has the
audio and ``rows.jsonl``. A folder is there as a whole or not at all.
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from probe.data.readers.folders import ENDINGS
from probe.errors import ProbeError

log = logging.getLogger("probe")

ROWS = "rows.jsonl"
BEGINNINGS = {
    b"fLaC": ".flac",
    b"RIFF": ".wav",
    b"OggS": ".ogg",
    b"ID3": ".mp3",
    b"\xff\xfb": ".mp3",
}


def cached_rows(
    fingerprint: str, title: str, make: Callable[[Path], Iterable[dict[str, Any]]]
) -> tuple[Path, list[dict[str, Any]]]:
    """The folder and rows of a corpus, made if they are not there.

    Args:
        fingerprint: of the corpus; another one is another folder.
        title: of the corpus, for the log.
        make: yields rows, and writes their audio into the folder that it is given.

    Raises:
        ProbeError: the cache cannot be written, or what ``make`` raises.
    """
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(home).expanduser() / "layerprobe" / "corpora" / fingerprint
    if not (folder / ROWS).is_file():
        log.info("%s: reading it; audio that is no file is written into %s", title, folder)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=f"{fingerprint}.", dir=folder.parent))
        except OSError as error:
            raise ProbeError(
                f"{folder}: cannot be written ({error.strerror}). Name another folder for caches "
                "in the environment variable XDG_CACHE_HOME."
            ) from error
        try:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in make(scratch))
            with (scratch / ROWS).open("w", encoding="utf-8") as file:
                file.writelines(lines)
            if not (folder / ROWS).is_file():  # another process may have been faster
                scratch.rename(folder)
        except OSError as error:
            raise ProbeError(f"{folder}: cannot be written ({error}). Is the disk full?") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    with (folder / ROWS).open(encoding="utf-8") as file:
        return folder, [json.loads(line) for line in file]


def write_audio(folder: Path, number: int, content: bytes, name: str = "") -> str:
    """Write the bytes of an audio file; returns the name of the file.

    Args:
        name: of the original file, whose ending is kept.
    """
    ending = PurePosixPath(name).suffix.lower()
    if ending not in ENDINGS:
        ending = next((end for head, end in BEGINNINGS.items() if content.startswith(head)), "")
    file = f"{number:07d}{ending or '.audio'}"
    (folder / file).write_bytes(content)
    return file
