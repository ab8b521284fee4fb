"""Datasets of Hugging Face: of the Hub, of a folder in its form, or saved by ``save_to_disk``.

Audio is never decoded by the library. Files on this disk are read where they are; other audio is
written into the cache once (`probe.data.readers.audio_cache`). Class labels become their names.
"""

import functools
import hashlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from probe.data.readers.audio_cache import cached_rows, write_audio
from probe.data.readers.columns import columns_of
from probe.data.readers.lists import split_of, values_sha256
from probe.data.readers.reading import Reader, Reading, Row, Source
from probe.data.readers.table import TableRows, table_of_records
from probe.errors import ProbeError, listed

log = logging.getLogger("probe")

NAME = re.compile(r"(?P<name>[^@:]+)(@(?P<revision>[^:]+))?(:(?P<config>.+))?")


def read_hf(source: Source) -> Reading:
    """The rows of ``hf:org/name#train,validation``; ``hf:org/name@REVISION:CONFIG#...`` names a
    revision and a configuration, ``hf:/folder#...`` a folder.

    Columns are known by their names as those of tables are. Without parts all splits are read.

    Raises:
        ProbeError: the library is not installed, the dataset cannot be read or has no column of
            audio, no such split.
    """
    library = _library(source)
    try:
        splits, fingerprint = _splits(library, source)
        rows: list[Row] = []
        columns: dict[str, None] = {"split": None}
        parts = source.parts or [("", name) for name in splits]
        if unknown := [part for _, part in parts if part not in splits]:
            raise ProbeError(
                f"{source.text}: no split {', '.join(unknown)}; found {listed(list(splits), 10)}."
            )
        for split, part in parts:
            text = f"{library.__version__} {fingerprint} {part}"
            folder, records = cached_rows(
                hashlib.sha256(text.encode()).hexdigest()[:32],
                f"{source.text} {part}",
                functools.partial(_records, library, source, splits[part]),
            )
            for record in records:
                record["path"] = str(folder / record["path"])  # absolute ones stay
            table = table_of_records(f"{source.root} {part}", "row", enumerate(records, start=1))
            reading = columns_of(table)
            columns |= dict.fromkeys(reading.names)
            implied = split or split_of(part)
            if not implied:
                raise ProbeError(
                    f"{source.text}: which split is {part}? Write train={part}, or dev or test."
                )
            rows += TableRows(table, reading, split=implied)
    except (OSError, ValueError, KeyError, ImportError, library.exceptions.DatasetsError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ProbeError(
            f"{source.text}: the library datasets cannot read it ({reason}). Name a dataset of the "
            "Hub (hf:org/name#train), or a folder of one."
        ) from error
    name = re.sub(r"[^\w.-]+", "-", source.root.rstrip("/").rpartition("/")[2])
    named = "+".join(part for _, part in source.parts)
    names = tuple(columns)
    digest = values_sha256(rows, [item for item in names if item != "path"])
    return Reading(f"{name}-{named}" if named else name, digest, Path(), names, rows)


def _library(source: Source) -> Any:
    try:
        import datasets
        import datasets.exceptions
    except ImportError as error:
        raise ProbeError(
            f"{source.text}: read with the library datasets, which is not installed. "
            "Run `pip install layerprobe[hf]`."
        ) from error
    return datasets


def _splits(library: Any, source: Source) -> tuple[dict[str, Any], str]:
    """(split -> its dataset, fingerprint) of what a source names."""
    root = Path(source.root)
    if any((root / name).is_file() for name in ("state.json", "dataset_dict.json")):
        saved = library.load_from_disk(source.root)
        splits = dict(saved) if isinstance(saved, dict) else {root.resolve().name: saved}
        fingerprints = [item._fingerprint for item in splits.values()]
        return splits, f"{root.resolve()} {' '.join(fingerprints)}"
    if root.is_dir():
        builder = library.load_dataset_builder(source.root)
    else:
        match = NAME.fullmatch(source.root)
        if match is None or source.root.startswith(("/", ".")):
            raise ProbeError(
                f"{source.text}: {source.root} does not exist; expected a folder, or org/name."
            )
        builder = library.load_dataset_builder(
            match["name"], match["config"], revision=match["revision"]
        )
    return dict(builder.as_streaming_dataset()), f"{builder.cache_dir} {builder.hash}"


def _records(library: Any, source: Source, data: Any, folder: Path) -> Iterator[dict[str, Any]]:
    """The fields of each row; its audio is written to a folder if it is no file of this disk."""

    class Undecoded(library.Audio):
        """A column of audio whose values are never decoded, for which torchcodec is not needed."""

        def encode_example(self, value: Any) -> dict[str, Any]:
            if isinstance(value, dict):
                return {"bytes": value.get("bytes"), "path": value.get("path")}
            is_path = isinstance(value, str | Path)
            return {"bytes": None, "path": str(value)} if is_path else {"bytes": value, "path": ""}

    if data.features is None:  # of a stream whose first rows have not been read
        data = data._resolve_features()
    features = data.features
    audio = [name for name, item in features.items() if isinstance(item, library.Audio)]
    if len(audio) != 1:
        raise ProbeError(
            f"{source.text}: {len(audio)} columns of audio ({listed(audio) or 'none'}); found "
            f"{listed(list(features), 20)}; expected one column of type Audio. For a column of "
            "paths save the dataset as a table (dataset.to_csv)."
        )
    names = {name: item for name, item in features.items() if _is_plain(library, item)}
    if left_out := sorted(set(features) - set(names) - set(audio)):
        log.info("%s: columns that are left out: %s", source.text, listed(left_out))
    data = data.cast_column(audio[0], Undecoded(decode=False))
    for number, row in enumerate(data.select_columns([audio[0], *names])):
        fields = {
            f"original_{name}" if name in ("path", "member") else name: _value(feature, row[name])
            for name, feature in names.items()
        }
        yield fields | {"path": _audio(source, number, row[audio[0]], folder)}


def _is_plain(library: Any, feature: Any) -> bool:
    """Whether a column has a text, a number, a class or a list of these."""
    if isinstance(feature, list):
        feature = feature[0]
    inner = getattr(feature, "feature", feature)
    return isinstance(inner, library.Value | library.ClassLabel)


def _value(feature: Any, value: Any) -> Any:
    """A value, with names in place of the numbers of classes."""
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
    if not hasattr(inner, "int2str"):
        return value
    if isinstance(value, list):
        return [_value(inner, item) for item in value]
    return "" if value is None or value < 0 else inner.int2str(value)


def _audio(source: Source, number: int, value: Any, folder: Path) -> str:
    """The path of a row's audio, which is written if it is no file of this disk."""
    path, content = (value or {}).get("path") or "", (value or {}).get("bytes")
    if content is None and path and Path(path).is_file():
        return str(Path(path).resolve())
    if content is None and "://" in path:
        import fsspec

        with fsspec.open(path, "rb") as file:
            content = file.read()
    if content is None:
        raise ProbeError(
            f"{source.text} row {number + 1}: no audio ({path or 'neither bytes nor a path'}). "
            "Remove the row, or save the dataset with its audio."
        )
    return write_audio(folder, number, content, path.partition("::")[0])


READERS = (
    Reader(
        "hf",
        "dataset of Hugging Face: org/name#train, or a folder",
        read_hf,
        lambda path: any((path / name).is_file() for name in ("state.json", "dataset_dict.json")),
    ),
)
