"""One shard: packed arrays of every layer, built in memory and written in one piece.

    layers/<name>      (frame, dim) for frames, (utterance, dim) for pooled views; float16 (float32
                       for a layer that float16 would change by more than its rounding), float32 or
                       int8, as the recipe says
    scales/<name>      (frame,) float32 beside int8: a value is ``layers * scales``
    offsets/<name>     (utterance + 1,) int64, rows of each utterance in layers/<name>
    keys               (utterance,) fixed-length bytes, UTF-8
    audio_sha256       (utterance,) 64 bytes of hex
    ctc_text           (utterance,) fixed-length bytes: the transcript of the model's own CTC head,
                       if it was run; of a long utterance's parts the last has it
    manifest/<column>  (utterance,) fixed-length bytes: a copy for people; programs do not read it
    attributes         format, recipe, environment (JSON as fixed-length bytes), part (which part of
                       a long utterance)

Plain h5py opens it. Every array is chunked with Fletcher-32 checksums and the file is in the 1.10
format, whose metadata carries checksums too, so a damaged value is an error and never a number.
Nothing has a variable length: HDF5 keeps such data in a heap without checksums, and reading a
damaged heap may never end. Equal input gives equal bytes.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from probe.errors import ProbeError
from probe.files import canonical_json, sha256_of_file
from probe.remote.ranges import RangeReader
from probe.store.safe_hdf5 import (
    ADVICE,
    DAMAGE,
    all_rows,
    chunk_rows,
    copy_rows,
    fetch_rows,
    opened,
    source_of,
    trusted_dataset,
    usable_scales,
)
from probe.store.side_files import FORMAT

LIBVER = ("v110", "v110")
CHUNK_BYTES = 1 << 20
# float16 rounds a normal value by 2.8e-4 on average; more means overflow, or values in its
# subnormal range.
FLOAT16_ERROR = 1e-3


@dataclass(frozen=True)
class ShardContent:
    """What goes into a shard.

    Attributes:
        keys: one per utterance.
        audio_sha256: one per utterance.
        frames: layer -> one (row, dim) array per utterance: float32, int8 with ``scales``, or
            float16 if that is faithful.
        columns: the manifest's columns, one value per utterance.
        recipe, environment: as JSON goes into the attributes.
        part: (index, count) of a long utterance's ranges of frames; (0, 1) otherwise.
        ctc_texts: one per utterance, or None if no CTC head was run.
        scales: beside int8, layer -> one (row,) float32 array per utterance.
    """

    keys: Sequence[str]
    audio_sha256: Sequence[str]
    frames: Mapping[str, Sequence[np.ndarray]]
    columns: Mapping[str, Sequence[str]]
    recipe: Mapping[str, object]
    environment: Mapping[str, object]
    part: tuple[int, int] = (0, 1)
    ctc_texts: Sequence[str] | None = None
    scales: Mapping[str, Sequence[np.ndarray]] | None = None


def shard_bytes(content: ShardContent) -> tuple[bytes, dict[str, str]]:
    """The HDF5 file's bytes, and the dtype each layer was stored with."""
    dtypes: dict[str, str] = {}
    gzip = content.recipe.get("compression") == "gzip"
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=LIBVER) as file:
        file.attrs["format"] = FORMAT
        file.attrs["recipe"] = np.bytes_(canonical_json(content.recipe).encode())
        file.attrs["environment"] = np.bytes_(canonical_json(content.environment).encode())
        file.attrs["part"] = content.part
        for name, arrays in content.frames.items():
            packed = np.concatenate(list(arrays))
            if content.scales:
                _write(file, f"scales/{name}", np.concatenate(list(content.scales[name])), gzip)
            if content.recipe.get("dtype", "float16") == "float16" and packed.dtype != np.float16:
                packed = half_if_faithful(packed)
            dtypes[name] = str(packed.dtype)
            offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
            _write(file, f"layers/{name}", packed, gzip)
            _write(file, f"offsets/{name}", offsets)
        write_utterances(
            file, content.keys, content.audio_sha256, content.columns, content.ctc_texts
        )
    return buffer.getvalue(), dtypes


def write_utterances(
    file: h5py.File,
    keys: Sequence[str],
    audio_sha256: Sequence[str],
    columns: Mapping[str, Sequence[str]],
    ctc_texts: Sequence[str] | None,
) -> None:
    """Write the keys, hashes, transcripts and columns; see `ShardContent`."""
    _write(file, "keys", _fixed_bytes(keys))
    _write(file, "audio_sha256", _fixed_bytes(audio_sha256))
    if ctc_texts is not None:
        _write(file, "ctc_text", _fixed_bytes(ctc_texts))
    for column, texts in columns.items():
        name = "manifest/" + (column.replace("/", "_").strip(".") or "_")
        while name in file:
            name += "_"
        _write(file, name, _fixed_bytes(texts))


def half_if_faithful(values: np.ndarray) -> np.ndarray:
    """``values`` as float16 if that changes them by no more than its rounding, else as they are.

    Decided for a whole layer of a shard by each dimension's relative L2 error: overflow makes it
    infinite, a tiny scale (float16 is subnormal below 6e-5) makes it large. Nothing is ever
    clipped.
    """
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
        error = _norms(half.astype(np.float32) - values)
    return half if np.all(error <= FLOAT16_ERROR * _norms(values)) else values


def _norms(values: np.ndarray) -> np.ndarray:
    """(row, dim) -> (dim,) L2 norms."""
    return np.sqrt(np.einsum("rd,rd->d", values, values, dtype=np.float64))


def _write(file: h5py.File, name: str, values: np.ndarray, gzip: bool = False) -> None:
    # A part of a long utterance that turned out short; HDF5 has no chunks without rows.
    if not len(values):
        file.create_dataset(name, data=values, track_times=False)
        return
    n_chunks = max(1, math.ceil(values.nbytes / CHUNK_BYTES))
    # Chunks have equal sizes, as the last one takes the room of a whole one.
    rows = math.ceil(len(values) / n_chunks)
    packed = {"compression": "gzip", "compression_opts": 4, "shuffle": True} if gzip else {}
    file.create_dataset(
        name,
        data=values,
        chunks=(rows, *values.shape[1:]),
        fletcher32=True,
        track_times=False,
        **packed,
    )


def _fixed_bytes(values: Sequence[str]) -> np.ndarray:
    """(n,) fixed-length UTF-8; PyTables and old readers know no variable-length strings."""
    encoded = [value.encode() for value in values]
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", max(1, *map(len, encoded))))


def merge_runs(pieces: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Pieces (first row, stop row, row of the result) in file order, with those that adjoin on both
    sides merged.
    """
    runs: list[tuple[int, int, int]] = []
    for first, stop, position in sorted(pieces):
        if runs and runs[-1][1] == first and runs[-1][2] + first - runs[-1][0] == position:
            runs[-1] = (runs[-1][0], stop, runs[-1][2])
        else:
            runs.append((first, stop, position))
    return runs


def read_rows(
    path: Path,
    layer: str,
    runs: Sequence[tuple[int, int, int]],
    into: np.ndarray,
    offsets: np.ndarray,
    dtype: str,
    sha256: str,
    content: bytes | OSError | None = None,
) -> None:
    """Copy rows of a layer into ``into``: each run is (first row, stop row, first row of ``into``).

    Args:
        offsets: (utterance + 1,) int64, the shard's rows by its index.
        dtype: of the layer, by the index.
        sha256: of the shard, by the index; compared if Fletcher-32 is not enough.
        content: of a remote shard that was fetched as a whole, or why it cannot be read.

    Raises:
        ProbeError: not a shard, damaged, or of another form than the index says (see
            `probe.store.safe_hdf5`).
        UnreadError: the operating system does not let it be read.
    """
    try:
        source = source_of(path, content)
        with opened(source, 16 * CHUNK_BYTES) as file:
            n_rows = int(offsets[-1])
            values = trusted_dataset(
                file, f"layers/{layer}", path, [dtype], (n_rows, *into.shape[1:])
            )
            bounds = trusted_dataset(file, f"offsets/{layer}", path, ["int64"], offsets.shape)
            stored = np.empty_like(offsets)
            copy_rows(bounds, 0, len(stored), stored)
            if (stored != offsets).any():
                raise ProbeError(
                    f"{path}: offsets/{layer} divides the rows in another way than the index. "
                    "Extract again."
                )
            scales = None
            if dtype == "int8":
                scales = all_rows(
                    trusted_dataset(file, f"scales/{layer}", path, ["float32"], (n_rows,))
                )
                if not usable_scales(scales):
                    raise ProbeError(
                        f"{path}: scales/{layer} are not all finite numbers from 0 on. {ADVICE}"
                    )
            if isinstance(source, RangeReader) and content is None:
                fetch_rows(source, values, runs)
            blank = False
            step = chunk_rows(values)
            for first, stop, position in runs:
                rows = into[position : position + stop - first]
                if scales is not None:
                    whole = np.empty(rows.shape, np.int8)
                    copy_rows(values, first, stop, whole)
                    blank = blank or _some_blank(whole, first, step)
                    np.multiply(whole, scales[first:stop, None], out=rows)
                else:
                    copy_rows(values, first, stop, rows)
                blank = blank or _some_blank(rows, first, step)
            if blank and sha256_of_file(path) != sha256:
                raise OSError("its bytes do not have the sha256 in its index")
    except DAMAGE as error:
        raise ProbeError(
            f"{path}: damaged or not readable ({error}). "
            "Remove it with its .json and run `probe extract` again."
        ) from error


def _some_blank(rows: np.ndarray, first: int, step: int) -> bool:
    """Whether some chunk may be blank: all its bytes 0 or all 255, checksum included, which
    Fletcher-32 takes for sound.

    A file that lost a block looks like this. One row of each chunk tells: it is 0 or NaN (int8: 0
    or -1).

    Args:
        rows: (row, dim) from row ``first`` of the dataset on.
        step: rows in a chunk.
    """
    for looked_at in (rows[:1], rows[step - first % step :: step]):
        if rows.dtype == np.int8:
            if ((looked_at == 0) | (looked_at == -1)).all(axis=1).any():
                return True
        elif not (looked_at.any(axis=1).all() and np.isfinite(looked_at).all()):
            return True
    return False
