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
# A folder is listed when more files are looked for in it: a listing costs less than asking for
# each file, above all over a network, but a folder may hold many more files than a manifest.
FEW_FILES = 16


class Folders:
    """The names in folders, each folder read once.

    Args:
        root: where regular files are asked for; None for everywhere.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._names: dict[Path, dict[str, list[str]]] = {}
        self._places: dict[str, _Place] = {}
        self._root = "" if root is None else _with_slash(os.path.realpath(root))

    def real_file(self, path: str) -> str:
        """The path of a regular file with the symbolic links before its name resolved; empty where
        it is anything else, such as a link, or lies outside of the root.
        """
        start = path.rfind("/") + 1
        folder, name = path[:start], path[start:]
        place = self._places.get(folder)
        if place is None:
            place = self._places[folder] = _Place(folder)
        if not (place.has_file(name) and place.real.startswith(self._root)):
            return ""
        return path if place.real == folder else place.real + name

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


class _Place:
    """A folder whose regular files are asked for by name.

    Attributes:
        real: its path with symbolic links resolved and a slash behind it.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._n_asked = 0
        self._files: set[str] | None = None
        try:
            self.real = _with_slash(os.path.realpath(folder or "."))
        except (OSError, ValueError):  # a NUL, or a name too long: there are no files
            self.real, self._files = "", set()

    def has_file(self, name: str) -> bool:
        """Whether a name is that of a regular file, and not of a link or a folder."""
        if self._files is None:
            self._n_asked += 1
            try:
                if self._n_asked <= FEW_FILES:
                    return stat.S_ISREG(os.lstat(self._folder + name).st_mode)
                with os.scandir(self._folder or ".") as entries:
                    self._files = {
                        item.name for item in entries if item.is_file(follow_symlinks=False)
                    }
            except (OSError, ValueError):
                if self._n_asked > FEW_FILES:  # a folder that cannot be listed
                    self._files = set()
                return False
        return name in self._files


def _with_slash(folder: str) -> str:
    return folder if folder.endswith("/") else f"{folder}/"


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
            is_absolute = name.startswith("/")
            meant = str(closest) if is_absolute else os.path.relpath(closest, folder)
            return f"Did you mean {meant!r}?"
    if name.startswith("~"):
        return "A manifest does not expand ~; write the whole path of the file."
    return "Correct it or remove the row."
