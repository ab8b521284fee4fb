"""A checkpoint's weights on disk: which files they are, whether they are whole, and their hash.

A truncated, exchanged or damaged file is refused before anything is loaded from it. A flipped bit can be seen only against a hash:
the one that a hub's cache keeps as the file's name, or one that the user gives.
"""

import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from probe.errors import ProbeError, UsageError, listed
from probe.files import sha256_of_file, sha256_of_json

# In order of preference; the first that is there is hashed and loaded.
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
DTYPES = {"F64", "F32", "F16", "BF16", "I64", "I32", "BOOL"}  # whole numbers are counters
REVISION_DIGITS = 12  # of a hash, where it stands in the place of a commit
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # torch.save's zip, and plain pickles


@dataclass(frozen=True)
class Weights:
    """Weights that were found whole.

    Attributes:
        file: the file, or the index of several.
        sha256: of the one file, or of the names and hashes of all the files that the index lists.
        against: what the hash was compared with, in words; empty where there was nothing to compare it with.
    """

    file: Path
    sha256: str
    against: str = ""

    @property
    def safetensors(self) -> bool:
        """Whether they are safetensors files (otherwise PyTorch's, opened with ``weights_only``)."""
        return "safetensors" in self.file.name


def find_weights(folder: Path, sha256: str | None = None) -> Weights:
    """The weights in a checkpoint's folder.

    Args:
        sha256: what `Weights.sha256` must be.

    Raises:
        UsageError: ``sha256`` is none.
        ProbeError: none there, a part missing, truncated, a pickle under a safetensors name, or not the expected hash.
    """
    file = next((folder / name for name in WEIGHT_FILES if os.path.lexists(folder / name)), None)
    if file is None:
        raise ProbeError(f"{folder}: no weights; expected one of {', '.join(WEIGHT_FILES)}.")
    return hashed(file, sha256)


def hashed(file: Path, sha256: str | None = None) -> Weights:
    """Weights in one file, or those that an index lists; errors as of `find_weights`."""
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise UsageError(f"--sha256 {sha256}: expected 64 hexadecimal digits, as `probe check` prints them.")
    if not file.is_file():
        raise ProbeError(f"{file}: no file, or a link to nothing. Fetch the checkpoint again.")
    parts = parts_of(file)
    try:
        if "safetensors" in file.name:
            for part, names in parts.items():
                _refuse_unless_safetensors(part, names)
        hashes = {part: sha256_of_file(part) for part in parts}
    except OSError as error:
        raise ProbeError(
            f"{file}: the weights cannot be read ({error.strerror or error}). Fetch the checkpoint again."
        ) from error
    against = []
    for part, found in hashes.items():
        if promised := _name_in_cache(part):
            _compare(part, found, promised, "the hub's cache")
            against.append("the hub's")
    whole = hashes[file] if file in hashes else sha256_of_json({part.name: found for part, found in hashes.items()})
    if sha256 is not None:
        _compare(file, whole, sha256.lower(), "--sha256")
        against.append("--sha256")
    return Weights(file, whole, " and ".join(dict.fromkeys(against)))


def sha256_on_disk(path: Path) -> str:
    """`Weights.sha256` of a checkpoint's folder or file as it is now, without opening the model; empty where there are no weights.

    Files that did not change since they were read are not read again.

    Raises:
        ProbeError: they are there and not whole.
    """
    files = [path / name for name in WEIGHT_FILES] if path.is_dir() else [path]
    file = next((item for item in files if os.path.lexists(item)), None)
    if file is None:
        return ""
    states = [part.stat() for part in (file, *parts_of(file)) if part.is_file()]
    return _sha256_of_unchanged(file, tuple((state.st_ino, state.st_size, state.st_mtime_ns) for state in states))


@functools.lru_cache(maxsize=64)
def _sha256_of_unchanged(file: Path, states: tuple[tuple[int, int, int], ...]) -> str:
    return hashed(file).sha256


def sha256_of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Hex sha256 of weights in memory: their names and values, in the order of the names."""
    digest = hashlib.sha256()
    for key, weight in sorted(tensors.items()):
        digest.update(key.encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def parts_of(file: Path) -> Mapping[Path, set[str] | None]:
    """The files of weights: those of an index with the names of their tensors, or the file itself; errors as of `find_weights`."""
    return _parts(file) if file.name.endswith(".index.json") else {file: None}


def _parts(index: Path) -> dict[Path, set[str]]:
    """File -> names of its tensors, as an index says."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        weight_map: dict[str, str] = dict(content["weight_map"])
        promised = dict(content.get("metadata") or {}).get("total_size", 0)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProbeError(f"{index}: no index of weights ({error}). Fetch the checkpoint again.") from error
    ending = ".safetensors" if "safetensors" in index.name else ".bin"
    parts: dict[Path, set[str]] = {}
    for tensor, name in sorted(weight_map.items(), key=lambda item: (str(item[1]), item[0])):
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name) or not name.endswith(ending):
            raise ProbeError(f"{index}: {tensor} is said to be in {name!r}; expected a {ending} file beside the index.")
        parts.setdefault(index.parent / name, set()).add(tensor)
    if not parts:
        raise ProbeError(f"{index}: names no weights. Fetch the checkpoint again.")
    if missing := [part.name for part in parts if not part.is_file()]:
        raise ProbeError(f"{index}: of its {len(parts)} files {listed(missing)} missing. Fetch the checkpoint again.")
    n_bytes = sum(part.stat().st_size for part in parts)
    if isinstance(promised, int | float) and n_bytes < promised:
        raise ProbeError(
            f"{index}: promises {promised:.0f} bytes of weights, its files have {n_bytes}. Fetch the checkpoint again."
        )
    return parts


def _refuse_unless_safetensors(file: Path, names: set[str] | None) -> None:
    """Raises where a file is no whole safetensors file, or does not hold ``names``."""
    try:
        with safe_open(file, framework="pt") as tensors:
            there = set(tensors.keys())
            odd = [f"{name} ({dtype})" for name in sorted(there) if (dtype := tensors.get_slice(name).get_dtype()) not in DTYPES]
    except (SafetensorError, OSError) as error:
        with file.open("rb") as opened:
            start = opened.read(8)
        # Only now: a safetensors file begins with a length, which may have the very bytes of a pickle.
        if start.startswith(PICKLES):
            raise ProbeError(
                f"{file}: a pickle under the name of a safetensors file; a pickle can run code. It is not opened; fetch the "
                "checkpoint from where you trust it."
            ) from error
        raise ProbeError(
            f"{file}: not a whole safetensors file ({file.stat().st_size} bytes; {error}). Truncated? Fetch it again."
        ) from error
    if odd:
        raise ProbeError(f"{file}: quantised weights, which this version cannot read: {listed(odd)}. Fetch them unquantised.")
    if names is not None and there != names:
        odd = sorted(there ^ names)
        raise ProbeError(f"{file}: its tensors are not those of the index: {listed(odd)}. Fetch the checkpoint again.")


def _name_in_cache(file: Path) -> str:
    """The sha256 that a hub's cache keeps as the name of a large file; empty where the file is in no such cache."""
    target = file.resolve()
    return target.name if target.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", target.name) else ""


def _compare(file: Path, found: str, expected: str, of: str) -> None:
    if found != expected:
        raise ProbeError(
            f"{file}: its sha256 is {found}, but {of} says {expected}. The file is damaged or another one; fetch it again."
        )
