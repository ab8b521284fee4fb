"""Find a checkpoint's weights on disk, check that they are complete, and hash them.

The module refuses a truncated, exchanged or damaged file before anything is loaded from it. Only a
hash detects a flipped bit: the one that a hub's cache uses as the file's name, or one that the user
gives.
"""

import errno
import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from probe.errors import ProbeError, UsageError, listed
from probe.files import sha256_of_file, sha256_of_json, unread
from probe.foreign_files import refuse_foreign
from probe.models.sources import adapters
from probe.models.sources.pickles import open_pickle

# Names of weight files in order of preference; the first existing one is hashed and loaded.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# Names of a variant's files (``save_pretrained(variant="fp16")``), which are used if there are no
# others.
VARIANT = re.compile(
    r"(model(?P<v1>\.[\w-]+)\.safetensors|model\.safetensors\.index(?P<v2>\.[\w-]+)\.json"
    r"|pytorch_model(?P<v3>\.[\w-]+)\.bin|pytorch_model\.bin\.index(?P<v4>\.[\w-]+)\.json)"
)
PART = re.compile(r".+-\d{5}-of-\d{5}\.\w+")
INDEX = re.compile(r"\.index(\.[\w-]+)?\.json$")
# Endings of files that may hold a model's weights, and files with such endings that a training run
# also leaves in the folder.
WEIGHT_ENDINGS = (
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt"),
    *(".h5", ".msgpack", ".gguf", ".onnx"),
)
OF_TRAINING = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state|random_states|adapter\.).*"
)
DTYPES = {"F64", "F32", "F16", "BF16", "I64", "I32", "BOOL"}  # integers are counters
REVISION_DIGITS = 12  # digits of a hash that replaces a commit
PICKLES = (
    b"PK\x03\x04",
    b"\x80\x02",
    b"\x80\x03",
    b"\x80\x04",
    b"\x80\x05",
)  # zip and plain pickles


@dataclass(frozen=True)
class Weights:
    """Weight files that are complete.

    Attributes:
        file: the weight file, or the index of several files.
        sha256: hash of the file, or of the names and hashes of all files in the index.
        against: the sources of expected hashes, in words; empty without any.
        overrides: further files, such as an adapter's, whose weights replace some of these; the
            hash covers all of them.
    """

    file: Path
    sha256: str
    against: str = ""
    overrides: tuple[Path, ...] = ()

    @property
    def safetensors(self) -> bool:
        """Whether the files are safetensors; otherwise they are PyTorch's, read with
        ``weights_only``.
        """
        return "safetensors" in self.file.name

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the weights of ``file`` by their names in the file.

        Raises:
            ProbeError: the file is not PyTorch's, would run code, or holds something other than
                weights.
        """
        read: dict[str, torch.Tensor] = {}
        for part in parts_of(self.file):
            content = load_file(part) if self.safetensors else open_pickle(part, allowed={})
            read |= _named_weights(part, content)
        return read

    def notes(self) -> list[str]:
        """Return sentences for the user on the choice of the file."""
        notes, name = [], self.file.name
        if VARIANT.fullmatch(name):
            notes.append(
                f"its weights come from a variant, {name}, as there is no file without one"
            )
        read = {path.name for path in (self.file, *parts_of(self.file), *self.overrides)}
        others = [other for other in _weight_files_in(self.file.parent) if other not in read]
        if others:
            notes.append(f"{name} is read; other weights beside it are not: {listed(others)}")
        return notes


def find_weights(
    folder: Path, sha256: str | None = None, overrides: Sequence[Path] = ()
) -> Weights:
    """Return the weights in a checkpoint's folder.

    Args:
        sha256: expected `Weights.sha256`.
        overrides: see `Weights`.

    Raises:
        UsageError: ``sha256`` is not a SHA-256.
        ProbeError: the folder has no weights, a part is missing or truncated, a pickle has a
            safetensors name, or the hash differs.
    """
    return hashed(_main_file(folder), sha256, overrides)


def _main_file(folder: Path) -> Path:
    """Return the weight file of a folder, or the index that lists its parts.

    Raises:
        ProbeError: there is no such file, or only those of several variants.
    """
    if files := [folder / name for name in WEIGHT_FILES if os.path.lexists(folder / name)]:
        return files[0]
    matches = [match for path in folder.iterdir() if (match := VARIANT.fullmatch(path.name))]
    of_variant: dict[str, str] = {}
    for match in sorted(matches, key=lambda match: "safetensors" not in match[0]):
        if not PART.fullmatch(match[0]):
            of_variant.setdefault(next(filter(None, match.groups()[1:])), match[0])
    if len(of_variant) == 1:
        return folder / next(iter(of_variant.values()))
    if of_variant:
        raise ProbeError(
            f"{folder}: weights of {len(of_variant)} variants, {listed([*of_variant.values()])}. "
            "Give the one that is meant the name without it."
        )
    names = _weight_files_in(folder)
    if parts := [name for name in names if PART.fullmatch(name)]:
        raise ProbeError(
            f"{folder}: {len(parts)} parts of weights ({listed(parts, 2)}) without the index that "
            f"lists them. Fetch the file {WEIGHT_FILES[1]} (or {WEIGHT_FILES[3]}) too."
        )
    others = f" It has {listed(names)}, which cannot be read here." if names else ""
    raise ProbeError(f"{folder}: no weights; expected one of {', '.join(WEIGHT_FILES)}.{others}")


def _weight_files_in(folder: Path) -> list[str]:
    """Return the sorted names of the files in a folder that may hold a model's weights."""
    names = (path.name for path in folder.iterdir() if path.suffix in WEIGHT_ENDINGS)
    return sorted(name for name in names if not OF_TRAINING.fullmatch(name))


def are_weights(entries: Mapping) -> bool:
    """Whether every entry of a mapping is a tensor."""
    return all(isinstance(item, torch.Tensor) for item in entries.values())


def _named_weights(file: Path, content: object) -> dict[str, torch.Tensor]:
    """Return the content of a file if it is weights by their names.

    Raises:
        ProbeError: the content is something else; the message says how to save the weights alone.
    """
    entries: Mapping = content if isinstance(content, Mapping) else {}
    if isinstance(content, Mapping) and are_weights(content):
        return dict(content)
    holds = listed(sorted(map(str, entries))) if entries else f"a {type(content).__name__}"
    for name, item in entries.items():
        if isinstance(item, Mapping) and item and are_weights(item):
            raise ProbeError(
                f"{file}: holds {holds}; expected the weights alone. Save them so: "
                f"`state = torch.load({file.name!r}, weights_only=True); "
                f"torch.save(state[{str(name)!r}], {file.name!r})`."
            )
    raise ProbeError(
        f"{file}: holds {holds}; expected weights by their names, as save_pretrained writes them."
    )


def hashed(file: Path, sha256: str | None = None, overrides: Sequence[Path] = ()) -> Weights:
    """Return the weights of one file or of an index; see `find_weights` for errors."""
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise UsageError(
            f"--sha256 {sha256}: expected 64 hexadecimal digits, as `probe check` prints them."
        )
    if not file.is_file():
        raise ProbeError(f"{file}: no file, or a link to nothing. Fetch the checkpoint again.")
    parts = {**parts_of(file), **dict.fromkeys(overrides)}
    try:
        for part, names in parts.items():
            if part.suffix == ".safetensors":
                _refuse_unless_safetensors(part, names)
        hashes = {part: sha256_of_file(part) for part in parts}
    except OSError as error:
        raise unread(file, error) from error
    against = []
    for part, digest in hashes.items():
        if promised := _name_in_cache(part):
            _compare(part, digest, promised, "the hub's cache")
            against.append("the hub's")
    whole = hashes[file] if list(hashes) == [file] else ""
    whole = whole or sha256_of_json({part.name: digest for part, digest in hashes.items()})
    if sha256 is not None:
        _compare(file, whole, sha256.lower(), "--sha256")
        against.append("--sha256")
    return Weights(file, whole, " and ".join(dict.fromkeys(against)), tuple(overrides))


def sha256_on_disk(path: Path) -> str:
    """Return the current `Weights.sha256` of a checkpoint's folder or file without opening the
    model; empty without weights.

    Unchanged files are not read again.

    Raises:
        ProbeError: the weights are incomplete.
    """
    file, overrides = path, []
    if path.is_dir():
        has_main = any(os.path.lexists(path / name) for name in WEIGHT_FILES)
        if not has_main and not _weight_files_in(path):
            return ""
        file, overrides = _main_file(path), _adapters_in(path)
    states = [part.stat() for part in (file, *parts_of(file), *overrides) if part.is_file()]
    state = tuple((item.st_ino, item.st_size, item.st_mtime_ns) for item in states)
    return _sha256_of_unchanged(file, tuple(overrides), state)


def _adapters_in(folder: Path) -> list[Path]:
    """Return the language adapter that a checkpoint's folder is opened with, if any."""
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = SimpleNamespace(**settings)
    except (
        OSError,
        ValueError,
        TypeError,
        RecursionError,
    ):  # the fault is reported when the model is opened
        return []
    adapter = adapters.adapter_of(folder, config, adapters.language_of(folder, config), [])
    return [adapter] if adapter else []


@functools.lru_cache(maxsize=64)
def _sha256_of_unchanged(
    file: Path, overrides: tuple[Path, ...], state: tuple[tuple[int, int, int], ...]
) -> str:
    return hashed(file, overrides=overrides).sha256


def sha256_of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the hex sha256 of weights in memory: names and values, in the order of the names."""
    digest = hashlib.sha256()
    for key, weight in sorted(tensors.items()):
        digest.update(key.encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def parts_of(file: Path) -> Mapping[Path, set[str] | None]:
    """Return the weight files: those of an index with the names of their tensors, or the file
    itself; see `find_weights` for errors.
    """
    return _parts(file) if INDEX.search(file.name) else {file: None}


def _parts(index: Path) -> dict[Path, set[str]]:
    """Return the names of the tensors of each file in an index."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        weight_map: dict[str, str] = dict(content["weight_map"])
        promised = dict(content.get("metadata") or {}).get("total_size", 0)
    except OSError as error:
        raise unread(index, error) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        refuse_foreign(index, error)
        raise ProbeError(
            f"{index}: no index of weights ({error}). Fetch the checkpoint again."
        ) from error
    ending = ".safetensors" if "safetensors" in index.name else ".bin"
    parts: dict[Path, set[str]] = {}
    for tensor, name in sorted(weight_map.items(), key=lambda item: (str(item[1]), item[0])):
        if not isinstance(name, str) or not re.fullmatch(rf"[\w.-]+\{ending}", name):
            raise ProbeError(
                f"{index}: {tensor} is said to be in {name!r}; expected a {ending} file beside the "
                "index."
            )
        parts.setdefault(index.parent / name, set()).add(tensor)
    if not parts:
        raise ProbeError(f"{index}: names no weights. Fetch the checkpoint again.")
    if missing := [part.name for part in parts if not part.is_file()]:
        raise ProbeError(
            f"{index}: of its {len(parts)} files {listed(missing)} missing. Fetch the checkpoint "
            "again."
        )
    n_bytes = sum(part.stat().st_size for part in parts)
    if isinstance(promised, int | float) and n_bytes < promised:
        raise ProbeError(
            f"{index}: promises {promised:.0f} bytes of weights, its files have {n_bytes}. Fetch "
            "the checkpoint again."
        )
    return parts


def _refuse_unless_safetensors(file: Path, names: set[str] | None) -> None:
    """Raise if a file is not a complete safetensors file, or does not hold ``names``."""
    try:
        with safe_open(file, framework="pt") as tensors:
            dtypes = {name: tensors.get_slice(name).get_dtype() for name in sorted(tensors.keys())}
    except (SafetensorError, OSError) as error:
        with file.open("rb") as opened:
            start = opened.read(8)
        # This check comes second: a safetensors file begins with a length, which may have the bytes
        # of a pickle.
        if start.startswith(PICKLES):
            raise ProbeError(
                f"{file}: a pickle under the name of a safetensors file; a pickle can run code. It "
                "is not opened; fetch the checkpoint from where you trust it."
            ) from error
        # An empty file is invalid for mmap.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        refuse_foreign(file, error)
        raise ProbeError(
            f"{file}: not a whole safetensors file ({file.stat().st_size} bytes; {error}). "
            "Truncated? Fetch it again."
        ) from error
    if odd := [f"{name} ({dtype})" for name, dtype in dtypes.items() if dtype not in DTYPES]:
        raise ProbeError(
            f"{file}: quantised weights, which this version cannot read: {listed(odd)}. Fetch them "
            "unquantised."
        )
    if names is not None and (odd := sorted(dtypes.keys() ^ names)):
        raise ProbeError(
            f"{file}: its tensors are not those of the index: {listed(odd)}. Fetch the checkpoint "
            "again."
        )


def _name_in_cache(file: Path) -> str:
    """Return the SHA-256 that a hub's cache uses as the name of a large file; empty if the file is
    not in such a cache.
    """
    target = file.resolve()
    is_hash = target.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", target.name)
    return target.name if is_hash else ""


def _compare(file: Path, digest: str, expected: str, of: str) -> None:
    if digest != expected:
        raise ProbeError(
            f"{file}: its sha256 is {digest}, but {of} says {expected}. The file is damaged or "
            "another one; fetch it again."
        )
