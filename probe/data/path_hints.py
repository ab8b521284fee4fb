"""Hints for files that are not where a manifest says: what is there instead, and which name was
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

# In a folder with more names the closest one is not looked for: comparing takes a microsecond each.
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
                names.setdefault(_composed(name).casefold(), []).append(name)
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
            name = part
            if not os.path.lexists(place / part):
                text = _composed(part)
                similar = self.names(place).get(text.casefold(), [])
                names = [item for item in similar if _composed(item) == text]
                if len(names) != 1:
                    return None
                name = names[0]
            place /= name
        return place if os.path.exists(place) else None  # noqa: PTH110 - Path.exists raises

    def closest(self, path: Path) -> Path | None:
        """An existing file whose path differs by case, by its extension, or by a few letters."""
        place = Path(path.anchor)
        for part in path.relative_to(path.anchor).parts:
            if os.path.lexists(place / part):
                place /= part
                continue
            names, text = self.names(place), _composed(part).casefold()
            candidates = [name for name in names if Path(name).stem == Path(text).stem]
            if text in names:
                candidates = [text]
            elif not candidates and len(names) <= MOST_NAMES:
                candidates = difflib.get_close_matches(text, names, n=1, cutoff=0.8)
            if not candidates:
                return None
            place /= names[candidates[0]][0]
        return place if os.path.isfile(place) else None  # noqa: PTH113 - Path.is_file raises


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def why_missing(path: Path, written: str, folder: Path, folders: Folders) -> str:
    """Why a file cannot be reached, and what to do; empty where it can.

    Args:
        path: the file.
        written: its name in the manifest.
        folder: what the name is relative to.
    """
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            return ""
        return f"{path} is a folder; expected an audio file. Correct it or remove the row."
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        code = getattr(error, "errno", None)
    name = written.strip()
    if scheme := re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+)://", name):
        remedy = "Download it, and name the file relative to the manifest."
        local = unquote(re.sub(r"^file://(localhost)?", "", name)).strip()
        if name.startswith("file:") and _is_file(folder / local):
            remedy = f"Write {local!r}."
        return f"{name} is a URL ({scheme[1]}); layerprobe reads files. {remedy}"
    if re.match(r"[a-zA-Z]:[\\/]", name):
        return (
            f"{name} is a path of Windows; paths are relative to the manifest. "
            "Write it relative, with slashes."
        )
    reasons = {
        errno.ELOOP: "is a loop of symbolic links. Put the file itself there.",
        errno.EACCES: "cannot be reached: permission denied for one of its folders. "
        "Have the folder opened for you.",
        errno.ENAMETOOLONG: "does not exist; its name is too long for a file. "
        "Is this another column's text?",
    }
    if code in reasons:
        return f"{path} {reasons[code]}"
    if os.path.islink(path):  # noqa: PTH114 - Path.is_symlink raises where a name is impossible
        return (
            f"{path} is a symbolic link to {path.readlink()}, which does not exist. "
            "Fetch that file or remove the row."
        )
    hint = _meant(written, folder, folders)
    return f"{path} does not exist; paths are relative to the manifest. {hint}"


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises


def _meant(written: str, folder: Path, folders: Folders) -> str:
    """Which name was probably meant, as a sentence, or what to do where nothing is like it."""
    name = written.strip()
    changes = {
        "without the spaces around it": name,
        "without the quotation marks": name.strip("'\"`“”‘’"),
        "with slashes in place of the backslashes": name.replace("\\", "/"),
        "with the home folder spelled out": os.path.expanduser(name),  # noqa: PTH111 - Path raises without a home
        "with environment variables spelled out": os.path.expandvars(name),
        "with %-codes spelled out": unquote(name),
        "without the slash at its beginning": name.lstrip("/"),
    }
    for how, changed in changes.items():
        if changed and changed != written and _is_file(folder / changed):
            return f"It exists {how}: write {changed!r}."
    for changed in dict.fromkeys((name.replace("\\", "/"), unquote(name))):
        if closest := folders.closest(Path(os.path.abspath(folder / changed))):  # noqa: PTH100 - resolves no link
            return f"Did you mean {os.path.relpath(closest, folder)!r}?"
    if name.startswith("~"):
        return "A manifest does not expand ~; write the whole path of the file."
    return "Correct it or remove the row."
