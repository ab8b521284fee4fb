"""One shard against its index: every byte, every checksum, every entry."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from h5py import h5d, h5f

from probe.errors import ProbeError, UnreadError
from probe.files import canonical_json, sha256_of_file, unread
from probe.store.index_schema import FORMAT, rows_in
from probe.store.safe_hdf5 import (
    DAMAGE,
    TEXT,
    all_rows,
    chunk_rows,
    copy_rows,
    dataset_names,
    opened,
    system_error,
    trusted_attribute,
    trusted_dataset,
    usable_scales,
)

SLAB_BYTES = 1 << 24  # read at once


def shard_problems(
    path: Path,
    index: Mapping[str, Any],
    recipe: Mapping[str, Any] | None,
    layers: Mapping[str, int],
) -> list[str]:
    """What is wrong with a shard, in words; nothing where all is well.

    Reads the file twice: its bytes for the sha256 and, where that is right, every chunk of every
    dataset through HDF5.

    Args:
        index: of the shard, with the right types (see `probe.store.index_schema`).
        recipe: of the store; None where it is not known.
        layers: layer -> width of the stored rows.

    Raises:
        UnreadError: the operating system does not let it be read.
    """
    try:
        if not path.is_file():
            return ["missing"]
        n_bytes = path.stat().st_size
        if n_bytes != index["bytes"]:
            return [f"has {n_bytes} bytes; its index names {index['bytes']}"]
        if sha256_of_file(path) != index["sha256"]:
            return ["its bytes do not have the sha256 in its index"]
    except OSError as error:
        raise unread(path, error) from error
    found: list[str] = []
    try:
        with opened(path, SLAB_BYTES) as file:
            found += _differences(file, path, index, recipe, layers)
            for name in dataset_names(file, path):
                found += _unreadable(file, name, path)
    except UnreadError:
        raise
    except ProbeError as error:
        found.append(str(error).removeprefix(f"{path}: "))
    except DAMAGE as error:
        found.append(f"cannot be read as HDF5 ({error})")
    return list(dict.fromkeys(found))


def _unreadable(file: h5f.FileID, name: str, path: Path) -> Iterator[str]:
    """Reads a dataset whole, a slab at a time."""
    group = name.partition("/")[0]
    dtypes = {
        "layers": ["float16", "float32", "int8"],
        "scales": ["float32"],
        "offsets": ["int64"],
    }.get(group, [TEXT])
    try:
        values = trusted_dataset(file, name, path, dtypes)
        for slab in slabs(values):
            if slab.dtype.kind == "f" and not np.isfinite(slab).all():
                yield f"{name} has values that are not finite"
                return
    except ProbeError as error:
        yield str(error).removeprefix(f"{path}: ")
    except DAMAGE as error:
        if system_error(error) is not None:
            raise
        yield f"{name} cannot be read ({error})"


def slabs(values: h5d.DatasetID, slab_bytes: int = SLAB_BYTES) -> Iterator[np.ndarray]:
    """A dataset's values in pieces of whole chunks of rows, of about ``slab_bytes``."""
    row_bytes = max(1, values.dtype.itemsize * math.prod(values.shape[1:]))
    step = max(1, slab_bytes // (row_bytes * chunk_rows(values))) * chunk_rows(values)
    for start in range(0, values.shape[0], step):
        slab = np.empty((min(step, values.shape[0] - start), *values.shape[1:]), values.dtype)
        copy_rows(values, start, start + len(slab), slab)
        yield slab


def _differences(
    file: h5f.FileID,
    path: Path,
    index: Mapping[str, Any],
    recipe: Mapping[str, Any] | None,
    layers: Mapping[str, int],
) -> Iterator[str]:
    """Where a shard's contents are not what its index and its store say.

    Raises:
        ProbeError: a dataset that is not to be trusted, or has another form.
    """
    utterances = index["utterances"]
    texts = {
        "keys": [item["key"] for item in utterances],
        "audio_sha256": [item["audio_sha256"] for item in utterances],
    }
    if any(item.get("ctc_text") is not None for item in utterances):
        texts["ctc_text"] = [item.get("ctc_text") or "" for item in utterances]
    for name, expected in texts.items():
        stored = all_rows(trusted_dataset(file, name, path, [TEXT], (len(utterances),)))
        different = [
            i
            for i, (one, other) in enumerate(zip(stored, expected, strict=True))
            if one != other.encode()
        ]
        if different:
            yield f"{name} differs from its index at utterance {different[0]} and {len(different) - 1} others"
    n_rows: dict[str, int] = {}
    for layer, dtype in index["dtypes"].items():
        offsets = np.cumsum([0, *(rows_in(item, layer) for item in utterances)], dtype=np.int64)
        rows = n_rows[layer] = int(offsets[-1])
        trusted_dataset(
            file, f"layers/{layer}", path, [dtype], (rows, layers[layer]) if layers else None
        )
        if dtype == "int8":
            yield from _unlike_scales(
                all_rows(trusted_dataset(file, f"scales/{layer}", path, ["float32"], (rows,))),
                layer,
            )
        bounds = all_rows(trusted_dataset(file, f"offsets/{layer}", path, ["int64"], offsets.shape))
        if bounds[0] != 0 or (np.diff(bounds) < 0).any() or bounds[-1] != rows:
            yield f"offsets/{layer} do not rise from 0 to the {rows} rows"
        elif (bounds != offsets).any():
            yield f"offsets/{layer} divide the rows in another way than its index"
    yield from _other_attributes(file, path, index, recipe)
    names = list(dataset_names(file, path))
    for name in names:
        group, _, rest = name.partition("/")
        if group in ("layers", "offsets", "scales") and rest not in index["dtypes"]:
            yield f"{name} is not in its index"
        elif group == "scales":
            trusted_dataset(file, name, path, ["float32"], (n_rows[rest],))
        elif group == "manifest":
            trusted_dataset(file, name, path, [TEXT], (len(utterances),))


def _unlike_scales(scales: np.ndarray, layer: str) -> Iterator[str]:
    """Whether values times these scales are no numbers."""
    if not usable_scales(scales):
        yield f"scales/{layer} are not all finite numbers from 0 on"


def _other_attributes(
    file: h5f.FileID, path: Path, index: Mapping[str, Any], recipe: Mapping[str, Any] | None
) -> Iterator[str]:
    """Attributes that are not what the index and the store say."""
    stored = {
        name: trusted_attribute(file, name, path)
        for name in ("format", "recipe", "part", "environment")
    }
    if stored["format"].tolist() != FORMAT:
        yield f"is of another format than {FORMAT}"
    if recipe is not None and stored["recipe"].tolist() != canonical_json(recipe).encode():
        yield "holds another recipe than the store"
    if stored["part"].tolist() != index["part"]:
        yield f"is part {stored['part'].tolist()}; its index says {index['part']}"
    try:
        json.loads(stored["environment"].tolist())
    except (TypeError, ValueError, RecursionError):
        yield "has no environment as JSON"
