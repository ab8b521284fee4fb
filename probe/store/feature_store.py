"""A store: the shards of one model, view and condition, under
``features/<model>/<view>-<condition>-<recipe8>/``.

    recipe.json            the recipe (everything that decides a value), its hash, the environment it was begun in
    certificate.json       what was checked of the model (`probe.models.check`), if anything was
    plan-00000.json        which utterances go into which shards; a later plan covers rows appended or audio changed since
    shard-00000.h5/.json   a shard and its index; it counts when its index is there

An utterance is its key together with its audio's sha256. When the audio of a key changes, a later
shard holds the new version and the old one stays; `FeatureStore.match` finds the version that
belongs to a file.
"""

import hashlib
import itertools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from probe.environment import require_posix
from probe.errors import ProbeError, listed
from probe.files import (
    files_named,
    read_json,
    sha256_of_file,
    unread,
    unwritable,
    write_atomically,
    write_json,
)
from probe.store.shards import ShardContent, merge_runs, read_rows, shard_bytes
from probe.store.side_files import (
    FORMAT,
    check_numbers,
    checked_certificate,
    checked_head,
    checked_index,
    checked_jobs,
    rows_in,
)
from probe.store.views import parse_view, pool, row_width, serves

log = logging.getLogger("probe")


@dataclass(frozen=True)
class Job:
    """Utterances that become one shard, or a long utterance that becomes several (ranges of its
    frames).
    """

    number: int
    keys: tuple[str, ...]
    parts: int = 1

    def shard_names(self) -> list[str]:
        """File names without their ending."""
        if self.parts == 1:
            return [f"shard-{self.number:05d}"]
        return [f"shard-{self.number:05d}.{part + 1}of{self.parts}" for part in range(self.parts)]


@dataclass(frozen=True)
class Stored:
    """One version of an utterance in a store: where its rows lie, and which audio they came from.

    Frames and rows are those of the store's first layer, and of all layers without an entry in
    ``others``.

    Attributes:
        native_rate_hz: the audio file's own rate; 0 in stores of earlier versions.
        flags: what is unusual about the sound (silence, clipped ...); None in stores of earlier
            versions.
        ctc_text: the greedy transcript of the model's own CTC head, where it was run.
        others: layer -> the same with its frames and rows.
    """

    key: str
    audio_sha256: str
    audio_bytes: int
    audio_mtime_ns: int
    duration_s: float
    n_frames: int
    native_rate_hz: int = 0
    flags: tuple[str, ...] | None = None
    ctc_text: str | None = None
    pieces: tuple[tuple[str, int, int], ...] = ()  # (shard, first row, stop row), one per part
    others: Mapping[str, "Stored"] = field(default_factory=dict)

    def on(self, layer: str) -> "Stored":
        """The same as it is stored of a layer."""
        return self.others.get(layer, self)

    @property
    def n_rows(self) -> int:
        """Rows in the store: the frames, or 1 in a pooled view."""
        if len(self.pieces) == 1:
            return self.pieces[0][2] - self.pieces[0][1]
        return sum(stop - first for _, first, stop in self.pieces)


@dataclass(frozen=True)
class LayerArray:
    """One layer of some utterances, packed.

    Attributes:
        values: (row, dim) float16 or float32 (stored int8 is read as float32); rows of utterance i
            are ``values[offsets[i]:offsets[i + 1]]``.
        offsets: (utterance + 1,) int64.
        keys: utterance ids, in order.
    """

    values: np.ndarray
    offsets: np.ndarray
    keys: list[str]

    def __repr__(self) -> str:
        """One short line."""
        rows, width = self.values.shape
        return (
            f"LayerArray({len(self.keys)} utterances, {rows} rows of {width}, {self.values.dtype})"
        )

    def __iter__(self) -> Iterator[np.ndarray]:
        """Each utterance's (row, dim), without a copy."""
        return (
            self.values[start:stop]
            for start, stop in zip(self.offsets[:-1], self.offsets[1:], strict=True)
        )


@dataclass(frozen=True)
class Failure:
    """An utterance that could not be used, and why; counts for as long as its audio is the same.

    Attributes:
        audio_bytes, audio_mtime_ns: size and time of change of the file, -1 where it was not there.
        promised_s: duration in the manifest, which may have been the mistake.
        unreadable: memory or the operating system failed and not the file that was there: worth
            another try.
    """

    key: str
    reason: str
    audio_bytes: int
    audio_mtime_ns: int
    promised_s: float | None = None
    unreadable: bool = False


class FeatureStore:
    """Reads and extends one store.

    Attributes:
        path: its folder.
        recipe: everything that decides a value.
        environment: versions, CPU and threads that it was begun with.
        requested: what its model is called (`probe.model_names`).
        spec: what its model was opened as.
        layers: layer -> width of the stored rows, in order.
        aliases: ``final`` -> ``12`` and its like.
        utterances: key -> versions, oldest first.
        failures: key -> recorded failure, newest.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        head = checked_head(read_json(self.path / "recipe.json"), self.path / "recipe.json")
        self.recipe: dict[str, Any] = head["recipe"]
        self.recipe_sha256: str = head["sha256"]
        self.environment: dict[str, Any] = head["environment"]
        self.requested: str = head["requested"]
        self.spec = str(self.environment.get("spec", self.requested))
        self.view: str = self.recipe["view"]
        self.layers = {name: row_width(width, self.view) for name, width in self.recipe["layers"]}
        self.aliases: dict[str, str] = self.recipe["model"]["aliases"]
        self.utterances: dict[str, list[Stored]] = {}
        self.failures: dict[str, Failure] = {}
        self.dtypes: dict[str, dict[str, str]] = {}
        self.offsets: dict[
            str, dict[str, np.ndarray]
        ] = {}  # shard -> layer -> (utterance + 1,) rows by its index
        self.sha256s: dict[str, str] = {}
        self.refresh()

    def __repr__(self) -> str:
        """One short line."""
        widths = [str(width) for width in sorted(set(self.layers.values()))]
        width = " or ".join(filter(None, [", ".join(widths[:-1]), widths[-1]]))
        stored = {dtype for of_shard in self.dtypes.values() for dtype in of_shard.values()}
        dtypes = " and ".join(sorted(stored or {self.recipe.get("dtype", "float16")}))
        return f"FeatureStore({self.path}, {len(self.keys)} utterances, {len(self.layers)} layers of {width}, {dtypes})"

    # --- reading
    # -----------------------------------------------------------------------------------------------------------------

    @property
    def keys(self) -> list[str]:
        """Ids of all utterances, in the order they were stored."""
        return list(self.utterances)

    @property
    def stretch(self) -> float:
        """How many times as long as the file the audio is that was heard: 1 unless the condition
        changes its speed.
        """
        return float(self.recipe.get("disturbance", {}).get("stretch", 1.0))

    def hop_s(self, layer: str) -> float:
        """Seconds from one stored frame of a layer to the next."""
        kind, n = parse_view(self.view)
        model = self.recipe["model"]
        hop, _ = model.get("grids", {}).get(layer, (model["hop_samples"], 0))
        return float((n if kind == "frames" else 1) * hop / model["rate_hz"])

    def field_s(self, layer: str) -> float | None:
        """Seconds of audio that one frame of a layer's front-end hears, if the recipe says so:
        frame 0 is centred at half of it.
        """
        model = self.recipe["model"]
        field_samples = (
            model["grids"][layer][1]
            if layer in model.get("grids", {})
            else model.get("field_samples")
        )
        return None if field_samples is None else float(field_samples / model["rate_hz"])

    def layer(
        self, name: str, keys: Sequence[str] | None = None, view: str | None = None
    ) -> LayerArray:
        """One layer of all utterances, or of ``keys`` in their order.

        Args:
            view: a view that this store can serve; the store's own where None.

        Raises:
            ProbeError: no such layer, unknown keys, a view this store cannot serve, a damaged
                shard.
        """
        chosen = self.keys if keys is None else list(keys)
        unknown = [key for key in chosen if key not in self.utterances]
        if unknown:
            raise ProbeError(
                f"{self.path}: no features of {listed(unknown)}. Run `probe extract` with the manifest that has them."
            )
        return self.read(name, [self.utterances[key][-1] for key in chosen], view)

    def read(self, name: str, stored: Sequence[Stored], view: str | None = None) -> LayerArray:
        """One layer of exactly these versions of utterances (see `match`), in their order."""
        layer = self.aliases.get(str(name), str(name))
        if layer not in self.layers:
            known = ", ".join(self.layers)
            blocks = self.aliases.get("final", "")
            deeper = str(name).isdecimal() and blocks.isdecimal() and int(name) > int(blocks)
            advice = f"Extract with --layers {name}, if the model has such a layer, or name one of these."
            advice = f"The model has {blocks} blocks; name one of these." if deeper else advice
            raise ProbeError(
                f"{self.path}: layer {name} asked for; the store holds {known}. {advice}"
            )
        stored = [item.on(layer) for item in stored]
        offsets = np.concatenate([[0], np.cumsum([item.n_rows for item in stored])]).astype(
            np.int64
        )
        shards: dict[
            str, list[tuple[int, int, int]]
        ] = {}  # shard -> (row in the shard, stop row, row in the result)
        for item, start in zip(stored, offsets, strict=False):
            position = int(start)
            for shard, first, stop in item.pieces:
                shards.setdefault(shard, []).append((first, stop, position))
                position += stop - first
        halves = all(self.dtypes[shard][layer] == "float16" for shard in shards)
        values = _room(
            self.path, (int(offsets[-1]), self.layers[layer]), np.float16 if halves else np.float32
        )
        for shard, pieces in shards.items():
            form = (self.offsets[shard][layer], self.dtypes[shard][layer], self.sha256s[shard])
            read_rows(self.path / f"{shard}.h5", layer, merge_runs(pieces), values, *form)
        array = LayerArray(values, offsets, [item.key for item in stored])
        return array if view in (None, self.view) else self._derived(array, str(view))

    def _derived(self, array: LayerArray, view: str) -> LayerArray:
        if serves(self.view, view) is None:
            raise ProbeError(
                f"{self.path}: holds {self.view}, which cannot give {view}. Extract with --view {view}."
            )
        if self.view == "meanstd":
            return LayerArray(
                array.values[:, : array.values.shape[1] // 2], array.offsets, array.keys
            )
        if view == "frames":
            return array  # every k-th of them
        rows = [pool(frames, view) for frames in array]
        offsets = np.concatenate([[0], np.cumsum([len(item) for item in rows])]).astype(np.int64)
        width = row_width(array.values.shape[1], view)
        return LayerArray(
            np.concatenate(rows) if rows else np.empty((0, width), np.float32), offsets, array.keys
        )

    def match(self, key: str, path: Path) -> Stored | None:
        """The stored version of an utterance whose audio is the file ``path``; None where there is
        none.

        A file with the size and time of change that were seen at extraction is taken for unchanged;
        otherwise its sha256 decides (none matches a file that cannot be read). Where the file is
        gone, the one stored version is taken.

        Raises:
            ProbeError: the file is gone and several versions are stored.
        """
        versions = self.utterances.get(key, [])
        if not versions:
            return None
        try:
            status = path.stat()
        except OSError as error:
            if len(versions) == 1:
                return versions[0]
            raise ProbeError(
                f"{self.path}: {key} is stored in {len(versions)} versions, and {path} cannot tell which is meant "
                f"({error.strerror}). Put the audio in its place."
            ) from None
        for item in reversed(versions):
            if (item.audio_bytes, item.audio_mtime_ns) == (status.st_size, status.st_mtime_ns):
                return item
        same_size = [item for item in versions if item.audio_bytes == status.st_size]
        try:
            digest = sha256_of_file(path) if same_size else ""
        except OSError:
            return None
        return next((item for item in reversed(same_size) if item.audio_sha256 == digest), None)

    def failure(self, key: str, path: Path) -> Failure | None:
        """The recorded failure of an utterance whose audio is still the file that failed."""
        found = self.failures.get(key)
        if found is None:
            return None
        try:
            status = path.stat()
        except OSError:
            return found
        return (
            found
            if (found.audio_bytes, found.audio_mtime_ns) == (status.st_size, status.st_mtime_ns)
            else None
        )

    # --- extending
    # ---------------------------------------------------------------------------------------------------------------

    @property
    def certificate(self) -> dict[str, Any]:
        """What stands in ``certificate.json``; empty where nothing was checked."""
        path = self.path / "certificate.json"
        return checked_certificate(read_json(path), path) if path.exists() else {}

    def write_certificate(self, certificate: Mapping[str, Any]) -> None:
        """Puts a certificate beside the recipe, in the place of an earlier one."""
        write_json(self.path / "certificate.json", certificate)

    def refresh(self) -> None:
        """Reads the plans and the indexes of complete shards again."""
        self.utterances.clear()
        self.failures.clear()
        self.jobs: list[Job] = []
        for path in files_named(self.path, "plan-*.json"):
            jobs = checked_jobs(read_json(path), path)
            self.jobs += [Job(item["number"], tuple(item["keys"]), item["parts"]) for item in jobs]
        check_numbers([job.number for job in self.jobs], self.path)
        self.complete: set[int] = set()
        for job in self.jobs:
            parts = [
                index for name in job.shard_names() if (index := self._index(name)) is not None
            ]
            # Parts of a long utterance count together, and only if they come from the same audio.
            if len(parts) == job.parts and all(
                _audio_of(part) == _audio_of(parts[0]) for part in parts
            ):
                self.complete.add(job.number)
                self._take_in(parts)

    def _index(self, name: str) -> dict[str, Any] | None:
        """A shard's index; None where the shard is not complete."""
        path = self.path / f"{name}.json"
        if not path.exists():
            return None
        index = checked_index(read_json(path), path, self.layers)
        if index["bytes"]:
            shard = self.path / f"{name}.h5"
            try:
                n_bytes = shard.stat().st_size
            except FileNotFoundError:
                n_bytes = -1
            except OSError as error:
                raise unread(shard, error) from error
            if n_bytes != index["bytes"]:
                raise ProbeError(
                    f"{shard}: missing or not the {index['bytes']} bytes its index names. Remove {path.name} and extract again."
                )
        return index

    def _take_in(self, parts: list[dict[str, Any]]) -> None:
        """Adds the utterances of one shard, or of the parts of a long utterance."""
        first = parts[0]
        # Layer ("" for all that are not in `others`) -> each shard with the rows at which its
        # utterances begin.
        bounds: dict[str, list[tuple[str, list[int]]]] = {}
        others = list(first["utterances"][0].get("others", {})) if first["utterances"] else []
        for part in parts:
            for layer in ("", *others):
                rows = [
                    0,
                    *itertools.accumulate(rows_in(item, layer) for item in part["utterances"]),
                ]
                bounds.setdefault(layer, []).append((part["shard"], rows))
            of_layers = {
                layer: np.array(of_layer[-1][1], np.int64) for layer, of_layer in bounds.items()
            }
            self.dtypes[part["shard"]] = part["dtypes"]
            self.offsets[part["shard"]] = {
                layer: of_layers.get(layer, of_layers[""]) for layer in self.layers
            }
            self.sha256s[part["shard"]] = part["sha256"]
        for position, item in enumerate(first["utterances"]):
            fields = {name: item[name] for name in item if name not in ("rows", "others")}
            if "flags" in fields:
                fields["flags"] = tuple(fields["flags"])
            if "ctc_text" in fields:
                fields["ctc_text"] = parts[-1]["utterances"][position].get("ctc_text")
            pieces = {
                layer: tuple(
                    [(shard, rows[position], rows[position + 1]) for shard, rows in of_layer]
                )
                for layer, of_layer in bounds.items()
            }
            stored = Stored(**fields, pieces=pieces[""])
            if others:
                frames = {layer: item["others"][layer][0] for layer in others}
                on = {
                    layer: replace(stored, n_frames=frames[layer], pieces=pieces[layer])
                    for layer in others
                }
                stored = replace(stored, others=on)
            self.utterances.setdefault(stored.key, []).append(stored)
            self.failures.pop(stored.key, None)
        for item in first["failures"]:
            failure = Failure(**item)
            self.failures[failure.key] = failure

    def add_plan(self, jobs: Sequence[tuple[tuple[str, ...], int]]) -> list[Job]:
        """Writes a plan for (keys, number of parts) each and returns its jobs, numbered on from
        those before.
        """
        first = max((job.number for job in self.jobs), default=-1) + 1
        planned = [Job(first + index, keys, parts) for index, (keys, parts) in enumerate(jobs)]
        number = 1 + max(
            (
                int(path.stem.removeprefix("plan-"))
                for path in files_named(self.path, "plan-*.json")
            ),
            default=-1,
        )
        write_json(
            self.path / f"plan-{number:05d}.json",
            {"format": FORMAT, "jobs": [asdict(job) for job in planned]},
        )
        self.jobs += planned
        return planned

    def write_shard(
        self,
        name: str,
        content: ShardContent,
        utterances: Sequence[Mapping[str, Any]],
        failures: Sequence[Failure],
    ) -> int:
        """Writes a shard and then its index, each atomically; returns the shard's bytes (0 where
        every utterance failed).

        Raises:
            OSError: see `write_atomically`.
        """
        data, dtypes = shard_bytes(content) if content.keys else (b"", {})
        # A job that is written again may have left an index, which must not stand beside another
        # shard if this run is killed here.
        (self.path / f"{name}.json").unlink(missing_ok=True)
        if data:
            write_atomically(self.path / f"{name}.h5", data)
        index = {
            "format": FORMAT,
            "shard": name,
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "part": list(content.part),
            "dtypes": dtypes,
            "utterances": list(utterances),
            "failures": [asdict(failure) for failure in failures],
        }
        write_json(self.path / f"{name}.json", index)
        if not data:
            (self.path / f"{name}.h5").unlink(
                missing_ok=True
            )  # of a part that was there before the utterance failed
        return len(data)

    def writing(self) -> AbstractContextManager[None]:
        """Keeps other runs from writing into this store meanwhile (see `writing`)."""
        return writing(self.path)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Keeps other runs from writing into the store in ``folder`` meanwhile; only warns where the
    file system has no locks.

    Raises:
        ProbeError: another run is writing, the folder cannot be written to, or the system is not
            supported.
    """
    require_posix()
    import fcntl  # only here, so that stores can be read where it is missing

    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ProbeError(
                f"{folder}: another run is writing here. Wait for it, or use another --to folder."
            ) from error
        except OSError as error:
            log.warning(
                "%s: this file system gives no lock (%s), so nothing keeps a second run from writing here meanwhile. "
                "Start one run at a time into this folder.",
                folder,
                error.strerror,
            )
        yield
    finally:
        os.close(descriptor)


def _room(folder: Path, shape: tuple[int, int], dtype: type) -> np.ndarray:
    """An array that is not filled yet."""
    try:
        return np.empty(shape, dtype)
    except (MemoryError, ValueError) as error:
        raise ProbeError(
            f"{folder}: {shape[0]} rows of {shape[1]} do not fit into memory. Read fewer keys at a time."
        ) from error


def _audio_of(index: Mapping[str, Any]) -> list[str]:
    """Which audio the rows of a shard come from."""
    return [item["audio_sha256"] for item in index["utterances"]]
