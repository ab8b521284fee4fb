"""Open PyTorch files that hold more than weights without running their code.

A pickle names classes and functions to import and to call. PyTorch's ``weights_only`` allows those
of tensors. This module also allows two classes in fairseq's files: ``argparse.Namespace`` and
``fairseq.data.dictionary.Dictionary``; a class of ours replaces the latter, so fairseq is not
imported. Creating either has no side effects. A file with other imports is refused with their list,
which is read from the pickle without running it; the message does not repeat torch's advice to open
the file anyway.
"""

import argparse
import contextlib
import errno
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from probe.errors import ProbeError, listed
from probe.files import unread
from probe.foreign_files import refuse_foreign

# Imports of files with plain tensors.
PLAIN = re.compile(
    r"torch\.\w+Storage|torch\._utils\._rebuild_(tensor(_v2)?|parameter)|collections\.OrderedDict"
)
LEGACY_PICKLES = 5  # pickles before the weights in files of PyTorch before 1.6


class Dictionary:
    """A replacement for fairseq's class of symbols, with the stored attributes, including the list
    ``symbols``.
    """


FAIRSEQ = {
    "argparse.Namespace": argparse.Namespace,
    "fairseq.data.dictionary.Dictionary": Dictionary,
}


def open_pickle(file: Path, allowed: Mapping[str, type] = FAIRSEQ) -> Any:
    """Return the content of a file from ``torch.save``, with tensors on the CPU.

    Args:
        allowed: further imports that the file may have, with the class that replaces each.

    Raises:
        ProbeError: the file has other imports, or is not a complete PyTorch file.
    """
    try:
        with torch.serialization.safe_globals([(made, name) for name, made in allowed.items()]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # zip files, pickles and tensors raise many kinds
        is_cut = isinstance(error, OSError) and error.errno == errno.EINVAL
        if isinstance(error, OSError | MemoryError) and not is_cut:
            raise unread(file, error) from error
        if names := _imports_of(file).difference(allowed):
            cure = "docs/checkpoints.md says how to bring a file that you trust into that form"
            raise ProbeError(
                f"{file}: wants to import {listed(sorted(names), 20)}, which could run any code. "
                f"It was not run. Expected {' and '.join(['plain weights', *allowed])}. "
                f"{cure if allowed else 'Fetch them as safetensors'}."
            ) from error
        refuse_foreign(file, error)
        line = str(error).partition("\n")[0]
        has_reason = isinstance(error, RuntimeError) and "weights_only" not in line
        raise ProbeError(
            f"{file}: no file of PyTorch's, or a damaged one{f' ({line})' if has_reason else ''}. "
            "Fetch it again."
        ) from error


def _imports_of(file: Path) -> set[str]:
    """Return the names that a file's pickles import beyond those of plain tensors; for a damaged
    file, only the readable ones.
    """
    names: set[str] = set()
    # A damaged or hostile file may fail in any way; the names up to that point remain.
    with contextlib.suppress(Exception):
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                for entry in archive.namelist():
                    if entry.endswith(".pkl"):
                        with archive.open(entry) as pickle:
                            _add_imports(pickle, names)
        else:
            with file.open("rb") as pickles:
                for _ in range(LEGACY_PICKLES):
                    _add_imports(pickles, names)
    return {name for name in names if not PLAIN.fullmatch(name)}


def _add_imports(pickle: IO[bytes], names: set[str]) -> None:
    """Add the dotted names that one pickle imports, without running it."""
    memo: dict[int, Any] = {}
    pushed: list[Any] = []  # texts, and None for everything else
    for operation, argument, _ in pickletools.genops(pickle):
        if operation.name in ("GLOBAL", "INST"):
            names.add(str(argument).replace(" ", "."))
            pushed.append(None)
        elif operation.name == "STACK_GLOBAL":
            names.add(".".join(str(part or "?") for part in pushed[-2:]))
            pushed[-2:] = [None]
        elif operation.name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if argument is None else argument] = pushed[-1] if pushed else None
        elif operation.name in ("GET", "BINGET", "LONG_BINGET"):
            pushed.append(memo.get(int(argument or 0)))
        else:
            pushed.append(argument if isinstance(argument, str) else None)
