"""A store's features in forms that other programs read without this library.

    hdf5        a file: layers/<name> (row, dim), offsets/<name>, keys, audio_sha256 and
                manifest/<column>, named as in a shard
    npy         a folder: <name>.npy (row, dim) for each layer, which can be memory-mapped, and
                index.csv with each utterance's rows
    sentences   a file: a dataset "0", "1", ... (layer, row, dim) for each utterance, and
                sentence_to_index, JSON from keys to those names: the layout of
                contextual-repr-analysis (Liu et al. 2019), which probing code for text encoders
                reads

Values are float32, or float16 if the store has nothing else. An export is complete or absent, and
never replaces anything. It is written in blocks of one layer, so it may be larger than memory.
"""

import contextlib
import csv
import io
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from probe.errors import ProbeError, listed
from probe.files import canonical_json, free_bytes, require_writable, sync, temporary_name
from probe.store.feature_store import FeatureStore, Stored
from probe.store.layer_names import choose_layers
from probe.store.shards import LIBVER, write_utterances
from probe.store.stores import open_store

if TYPE_CHECKING:
    from probe.data.corpus import Corpus

DTYPES = ("float32", "float16")
BLOCK_BYTES = 1 << 26


@dataclass(frozen=True)
class Selection:
    """The part of a store that is exported.

    Attributes:
        stored: utterances, in the order of the export.
        layers: names, in the order of the export.
        dtype: out of `DTYPES`.
        columns: labels, one per utterance.
    """

    store: FeatureStore
    stored: Sequence[Stored]
    layers: Sequence[str]
    dtype: str = "float32"
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def offsets(self, layer: str) -> np.ndarray:
        """(utterance + 1,) int64, the rows of each utterance in a layer."""
        return np.cumsum([0, *(item.on(layer).n_rows for item in self.stored)], dtype=np.int64)

    @property
    def widths(self) -> list[int]:
        """The width of each layer."""
        return [self.store.layers[layer] for layer in self.layers]

    @property
    def n_bytes(self) -> int:
        """Size of the values."""
        n_values = sum(
            int(self.offsets(layer)[-1]) * width
            for layer, width in zip(self.layers, self.widths, strict=True)
        )
        return n_values * np.dtype(self.dtype).itemsize

    @property
    def ctc_texts(self) -> list[str] | None:
        """The transcripts of the model's CTC head; None if it was not run."""
        return [item.ctc_text or "" for item in self.stored] if "ctc" in self.store.recipe else None

    def blocks(self, layer: str) -> Iterator[tuple[slice, np.ndarray]]:
        """Consecutive utterances: which they are, and their (row, dim) of a layer in ``dtype``."""
        row_bytes = 4 * self.store.layers[layer]
        first = n_bytes = 0
        for position, item in enumerate(self.stored):
            own = row_bytes * item.on(layer).n_rows
            if n_bytes and n_bytes + own > BLOCK_BYTES:
                yield self._block(layer, slice(first, position))
                first, n_bytes = position, 0
            n_bytes += own
        yield self._block(layer, slice(first, len(self.stored)))

    def _block(self, layer: str, which: slice) -> tuple[slice, np.ndarray]:
        return which, self.store.read(layer, self.stored[which]).values.astype(
            self.dtype, copy=False
        )


def export(
    store: str | Path | FeatureStore,
    to: str | Path,
    form: str = "hdf5",
    *,
    layers: str | None = None,
    dtype: str = "float32",
    corpus: "Corpus | None" = None,
    tick: Callable[[int, int], Any] = lambda _done, _all: None,
) -> list[str]:
    """Write features of a store for other programs.

    Args:
        store: open, or its folder.
        to: a new file; a new folder for ``npy``.
        form: ``hdf5``, ``npy`` or ``sentences``.
        layers: such as ``0-12,final``; all where None.
        dtype: ``float32``, or ``float16`` where all of these layers are stored so.
        corpus: whose utterances are exported, with its columns; all of the store where None.
        tick: called with the bytes of each block of values, and those of all.

    Returns:
        Utterances of the corpus of which the store has no features.

    Raises:
        ProbeError: ``to`` exists, the disk is too small, the store does not have this form, or a
            shard is damaged.
        OSError: the disk cannot be written; nothing is left of the export.
    """
    opened = store if isinstance(store, FeatureStore) else open_store(store)
    stored, columns, missing = [versions[-1] for versions in opened.utterances.values()], {}, []
    if corpus is not None:
        versions = {
            item.key: opened.match(item.key, item.path, str(item.excerpt), item.audio_sha256)
            for item in corpus.utterances
        }
        rows = [item for item in corpus.utterances if versions[item.key]]
        stored = [version for version in versions.values() if version]
        columns = {column: [item.label(column) for item in rows] for column in corpus.columns}
        missing = [key for key, version in versions.items() if version is None]
    names = choose_layers(layers, list(opened.layers), opened.aliases, str(opened.path))
    selection = Selection(opened, stored, names, dtype, columns)
    _write(selection, Path(to), form, lambda n_bytes: tick(n_bytes, selection.n_bytes))
    return missing


def _write(selection: Selection, to: Path, form: str, tick: Callable[[int], Any]) -> None:
    """Write under a temporary name, then rename."""
    _check(selection, to, form)
    temporary = temporary_name(to)
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        FORMS[form](selection, temporary, tick)
        if os.path.lexists(to):
            raise ProbeError(f"{to}: something else was put there meanwhile, and is not replaced.")
        temporary.rename(to)
        sync(to.parent)
    except OSError as error:
        text = (
            f"{error.strerror}, {selection.n_bytes} bytes and more to write, {free_bytes(to)} free"
        )
        raise OSError(error.errno, text, str(to)) from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)


def _check(selection: Selection, to: Path, form: str) -> None:
    """Refuse what cannot be exported, before anything is written."""
    store, widths = selection.store, dict(zip(selection.layers, selection.widths, strict=True))
    if os.path.lexists(to):
        raise ProbeError(
            f"{to}: is there already, and an export replaces nothing. "
            "Remove it, or name another --to."
        )
    if not selection.stored:
        raise ProbeError(f"{store.path}: no utterances to export. Run `probe extract` first.")
    if form == "sentences" and len(set(widths.values())) > 1:
        of_layers = ", ".join(f"{layer} has {width}" for layer, width in widths.items())
        raise ProbeError(
            f"{store.path}: sentences need layers of one width; {of_layers}. "
            "Choose among them with --layers."
        )
    rows = {tuple(selection.offsets(layer).tolist()): layer for layer in selection.layers}
    if form != "hdf5" and len(rows) > 1:
        raise ProbeError(
            f"{store.path}: {form} needs layers with equally many frames; "
            f"{' and '.join(rows.values())} differ. "
            "Choose among them with --layers, or --format hdf5."
        )
    shards = {shard for item in selection.stored for shard, *_ in item.pieces}
    bent = [
        layer
        for layer in selection.layers
        if any(store.dtypes[shard][layer] != "float16" for shard in shards)
    ]
    if selection.dtype == "float16" and bent:
        raise ProbeError(
            f"{store.path}: layer {listed(bent)} is not stored as float16, which would change "
            "values. Use float32."
        )
    require_writable(to.parent)
    if selection.n_bytes > (free := free_bytes(to)):
        raise ProbeError(
            f"{to}: {selection.n_bytes} bytes to write, {free} free. "
            "Use another disk or fewer --layers."
        )


def _write_hdf5(selection: Selection, path: Path, tick: Callable[[int], Any]) -> None:
    with _new_hdf5(path, selection) as (file, disk):
        stored = selection.stored
        audio = [item.audio_sha256 for item in stored]
        write_utterances(
            file, [item.key for item in stored], audio, selection.columns, selection.ctc_texts
        )
        for layer, width in zip(selection.layers, selection.widths, strict=True):
            offsets = selection.offsets(layer)
            file.create_dataset(f"offsets/{layer}", data=offsets, track_times=False)
            values = file.create_dataset(
                f"layers/{layer}", (offsets[-1], width), selection.dtype, track_times=False
            )
            for which, rows in selection.blocks(layer):
                values[offsets[which.start] : offsets[which.stop]] = rows
                disk.check()
                tick(rows.nbytes)


def _write_sentences(selection: Selection, path: Path, tick: Callable[[int], Any]) -> None:
    offsets = selection.offsets(selection.layers[0])
    with _new_hdf5(path, selection) as (file, disk):
        for position, item in enumerate(selection.stored):
            shape = (
                len(selection.layers),
                item.on(selection.layers[0]).n_rows,
                selection.widths[0],
            )
            file.create_dataset(str(position), shape, selection.dtype, track_times=False)
        for number, layer in enumerate(selection.layers):
            for which, rows in selection.blocks(layer):
                bounds = offsets[which.start : which.stop + 1] - offsets[which.start]
                for position, (first, stop) in enumerate(
                    itertools.pairwise(bounds), start=which.start
                ):
                    file[str(position)][number] = rows[first:stop]
                disk.check()
                tick(rows.nbytes)
        index = json.dumps(
            {item.key: str(position) for position, item in enumerate(selection.stored)},
            ensure_ascii=False,
        )
        file.create_dataset(
            "sentence_to_index", data=[index], dtype=h5py.string_dtype(), track_times=False
        )


def _write_npy(selection: Selection, path: Path, tick: Callable[[int], Any]) -> None:
    stored, offsets = selection.stored, selection.offsets(selection.layers[0])
    path.mkdir()
    for layer, width in zip(selection.layers, selection.widths, strict=True):
        with (path / f"{layer}.npy").open("xb") as file:
            shape = (int(offsets[-1]), width)
            head = {"descr": np.dtype(selection.dtype).str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, head)
            for _, rows in selection.blocks(layer):
                file.write(rows.data)
                tick(rows.nbytes)
    columns: dict[str, Sequence[Any]] = {
        "key": [item.key for item in stored],
        "first_row": offsets[:-1].tolist(),
        "stop_row": offsets[1:].tolist(),
        "duration_s": [item.duration_s for item in stored],
        "n_frames": [item.on(selection.layers[0]).n_frames for item in stored],
        "audio_sha256": [item.audio_sha256 for item in stored],
    }
    columns |= {"ctc_text": selection.ctc_texts} if selection.ctc_texts is not None else {}
    for name, texts in selection.columns.items():
        while name in columns:
            name = f"manifest_{name}"
        columns[name] = texts
    with (path / "index.csv").open("x", encoding="utf-8", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    (path / "recipe.json").write_text(canonical_json(selection.store.recipe), encoding="utf-8")
    for written in [*path.iterdir(), path]:
        sync(written)


FORMS: dict[str, Callable[[Selection, Path, Callable[[int], Any]], None]] = {
    "hdf5": _write_hdf5,
    "npy": _write_npy,
    "sentences": _write_sentences,
}


class _Disk(io.FileIO):
    """A new file for HDF5, which does not survive an error of the disk: the first error is kept,
    and nothing is written after it.
    """

    error: BaseException | None = None

    def write(self, data: Any, /) -> int:
        """Writes all of ``data``."""
        rest = memoryview(data)
        try:
            while rest and self.error is None:
                rest = rest[super().write(rest) :]
        except BaseException as error:  # Ctrl-C too: HDF5 would make something else of it
            self.error = error
        return len(data)

    def truncate(self, size: int | None = None, /) -> int:
        """Makes the file ``size`` bytes long."""
        try:
            return super().truncate(size) if self.error is None else size or 0
        except BaseException as error:
            self.error = error
            return size or 0

    def check(self) -> None:
        """Raises the error that was kept."""
        if self.error is not None:
            raise self.error


@contextlib.contextmanager
def _new_hdf5(path: Path, selection: Selection) -> Iterator[tuple[h5py.File, _Disk]]:
    """A new file with the recipe; on the disk at the end."""
    with _Disk(path, "x+") as disk:
        try:
            with h5py.File(disk, "w", libver=LIBVER) as file:
                file.attrs["recipe"] = np.bytes_(canonical_json(selection.store.recipe).encode())
                yield file, disk
        finally:
            disk.check()
        os.fsync(disk.fileno())
