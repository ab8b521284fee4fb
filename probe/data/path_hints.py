"""Names of files that are not where a manifest says: what is there instead, and which name was
probably meant.
"""

import difflib
import errno
import os
import re
import stat
import unicodedata
from pathlib import Path
from urllib.parse import unquote

# Beyond so many names in a folder the closest one is not looked for: comparing takes a microsecond
# for each.
MOST_NAMES = 100_000


class Folders:
    """The names in folders, each folder read once."""

    def __init__(self) -> None:
        self._names: dict[Path, dict[str, list[str]]] = {}

    def names(self, folder: Path) -> dict[str, list[str]]:
        """Names in a folder by their plain form: Unicode composed, case folded."""
        if folder not in self._names:
            try:
                listing = os.listdir(folder)  # noqa: PTH208 - names only, not paths
            except (OSError, ValueError):
                listing = []
            names: dict[str, list[str]] = {}
            for name in sorted(listing):
                names.setdefault(_plain(name), []).append(name)
            self._names[folder] = names
        return self._names[folder]

    def same_text(self, path: Path) -> Path | None:
        """The file whose path reads the same and has other bytes: accents composed or decomposed
        (NFC, NFD).

        A manifest from macOS has decomposed names, and no editor shows the difference.
        """
        if os.fspath(path).isascii():
            return None
        place = Path(path.anchor)
        for part in path.relative_to(path.anchor).parts:
            if not os.path.lexists(place / part):
                alike = [
                    name
                    for name in self.names(place).get(_plain(part), [])
                    if _composed(name) == _composed(part)
                ]
                if len(alike) != 1:
                    return None
                part = alike[0]
            place /= part
        return place if os.path.exists(place) else None  # noqa: PTH110 - Path.exists raises

    def closest(self, path: Path) -> Path | None:
        """An existing file whose path differs from ``path`` by case, by its ending, or by a few
        letters.
        """
        place = Path(path.anchor)
        for part in path.relative_to(path.anchor).parts:
            if os.path.lexists(place / part):
                place /= part
                continue
            names, wanted = self.names(place), _plain(part)
            near = (
                [wanted]
                if wanted in names
                else [name for name in names if Path(name).stem == Path(wanted).stem]
            )
            if not near and len(names) <= MOST_NAMES:
                near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.8)
            if not near:
                return None
            place /= names[near[0]][0]
        return place if os.path.isfile(place) else None  # noqa: PTH113 - Path.is_file raises


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def why_missing(path: Path, written: str, folder: Path, folders: Folders) -> str:
    """Why a file cannot be reached, and what to do; empty where it can.

    Args:
        path: the file, as it was looked for.
        written: its name in the manifest.
        folder: what the name is relative to.
    """
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            return f"{path} is a folder; expected an audio file. Correct it or remove the row."
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if scheme := re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+)://", written.strip()):
            return f"{written.strip()} is a URL ({scheme[1]}); layerprobe reads files. {_without_scheme(written, folder)}"
        if re.match(r"[a-zA-Z]:[\\/]", written.strip()):
            return f"{written.strip()} is a path of Windows; paths are relative to the manifest. Write it relative, with slashes."
        code = getattr(error, "errno", None)
        if code == errno.ELOOP:
            return f"{path} is a loop of symbolic links. Put the file itself there."
        if code == errno.EACCES:
            return f"{path} cannot be reached: permission denied for one of its folders. Have the folder opened for you."
        if code == errno.ENAMETOOLONG:
            return f"{path} does not exist; its name is too long for a file. Is this another column's text?"
        if os.path.islink(path):  # noqa: PTH114 - Path.is_symlink raises where a name is impossible
            target = path.readlink()
            return f"{path} is a symbolic link to {target}, which does not exist. Fetch that file or remove the row."
        return f"{path} does not exist; paths are relative to the manifest. {_meant(written, folder, folders)}"
    return ""


def _without_scheme(written: str, folder: Path) -> str:
    local = unquote(re.sub(r"^\s*file://(localhost)?", "", written)).strip()
    if written.strip().startswith("file:") and os.path.isfile(folder / local):  # noqa: PTH113 - Path.is_file raises
        return f"Write {local!r}."
    return "Download it, and name the file relative to the manifest."


def _meant(written: str, folder: Path, folders: Folders) -> str:
    """Which name was probably meant, as a sentence, or what to do where nothing like it is there."""
    changes = {
        "without the spaces around it": written.strip(),
        "without the quotation marks": written.strip().strip("'\"`“”‘’"),
        "with slashes in place of the backslashes": written.strip().replace("\\", "/"),
        "with the home folder spelled out": os.path.expanduser(written.strip()),  # noqa: PTH111 - Path raises without a home
        "with environment variables spelled out": os.path.expandvars(written.strip()),
        "with %-codes spelled out": unquote(written.strip()),
        "without the slash at its beginning": written.strip().lstrip("/"),
    }
    for how, name in changes.items():
        if name and name != written and os.path.isfile(folder / name):  # noqa: PTH113 - Path.is_file raises
            return f"It exists {how}: write {name!r}."
    for name in dict.fromkeys((written.strip().replace("\\", "/"), unquote(written.strip()))):
        if closest := folders.closest(Path(os.path.abspath(folder / name))):  # noqa: PTH100 - resolves no link
            return f"Did you mean {os.path.relpath(closest, folder)!r}?"
    if written.strip().startswith("~"):
        return "A manifest does not expand ~; write the whole path of the file."
    return "Correct it or remove the row."
