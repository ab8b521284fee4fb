"""Finds the readers of corpora, which are in every module of this folder that has ``READERS``."""

import functools
import importlib
import logging
import pkgutil
import re
from collections.abc import Mapping
from pathlib import Path

from probe.data.readers.reading import SPLITS, Reader, Reading, Source
from probe.errors import ProbeError, listed
from probe.files import unread
from probe.remote.paths import is_url

log = logging.getLogger("probe")


@functools.cache
def readers() -> dict[str, Reader]:
    """Form -> reader."""
    names = [item.name for item in pkgutil.iter_modules([__file__.rpartition("/")[0]])]
    modules = [
        importlib.import_module(f"{__package__}.{name}") for name in names if name != "registry"
    ]
    return {item.form: item for module in modules for item in getattr(module, "READERS", ())}


def read(text: str) -> Reading:
    """The rows of the corpus that a source names.

    Raises:
        ProbeError: no such form, a path of no or of several forms, or what the reader raises.
    """
    form, colon, rest = text.partition(":")
    known = readers()
    if is_url(text):
        return _remote(Source(text, text), known)
    if colon and form in known:
        return known[form].read(source_of(text, rest))
    if colon and re.fullmatch("[a-z][a-z0-9-]*", form) and not Path(text).exists():
        raise ProbeError(
            f"{text}: {form!r} is no form of corpora; expected {', '.join(known)}, or a path."
        )
    source = source_of(text, text)
    matches: list[Reader] = []
    for is_general in (False, True):
        candidates = [reader for reader in known.values() if reader.is_general == is_general]
        matches = matches or [item for item in candidates if item.recognises(source.path)]
    if len(matches) != 1:
        raise ProbeError(_refusal(source, [reader.form for reader in matches]))
    (reader,) = matches
    if reader.form != "csv":
        log.info("%s: read as %s (%s)", text, reader.form, reader.title)
    return reader.read(source)


def _remote(source: Source, known: Mapping[str, Reader]) -> Reading:
    """The rows of a table on object storage."""
    path = source.path
    form = {".json": "jsonl", ".jsonl": "jsonl", ".parquet": "parquet"}.get(path.suffix.lower())
    if form is None and path.suffix.lower() not in (".csv", ".tsv"):
        raise ProbeError(
            f"{source.text}: of the forms of corpora, a table can lie on object storage; expected "
            "the URL of one that ends in .csv, .tsv, .jsonl, .json or .parquet."
        )
    try:
        return known[form or "csv"].read(source)
    except FileNotFoundError as error:
        raise ProbeError(f"{path}: does not exist ({error.strerror}).") from error
    except OSError as error:
        raise unread(path, error) from error


def source_of(text: str, rest: str) -> Source:
    """A source whose form was taken off; ``#`` begins its parts unless a path has that name."""
    root, hash_sign, parts_text = rest.rpartition("#")
    if not hash_sign or Path(rest).exists():
        return Source(text, rest)
    parts: list[tuple[str, str]] = []
    for part in filter(None, map(str.strip, parts_text.split(","))):
        split, equals, name = part.partition("=")
        if equals and split not in SPLITS:
            raise ProbeError(f"{text}: {split!r} in {part!r}; expected one of {', '.join(SPLITS)}.")
        parts.append((split, name) if equals else ("", part))
    return Source(text, root, tuple(dict.fromkeys(parts)))


def _refusal(source: Source, forms: list[str]) -> str:
    path = source.path
    if not path.exists():
        return f"{path}: does not exist; expected a manifest or a folder of a corpus."
    if path.is_dir() and not any(path.iterdir()):
        return f"{path}: the folder is empty; expected a manifest or a folder of a corpus."
    if forms:
        return (
            f"{source.text}: may be of the forms {listed(forms)}. Write the one that is meant "
            f"before it, such as {forms[0]}:{source.text}."
        )
    return (
        f"{source.text}: its form is not clear. Write one of {', '.join(readers())} and a colon "
        "before it; docs/data.md says what each form is."
    )
