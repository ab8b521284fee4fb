"""A store: the shards of one model, view and condition, in
``features/<model>/<view>-<condition>-<recipe8>/``.

    recipe.json            the recipe (everything that decides a value), its hash, and the
                           environment in which the store was begun
    certificate.json       what was checked of the model (`probe.models.check`), if anything was
    ctc_head.json          the linear layer of the checkpoint's own CTC head, if it was run
    plan-00000.json        which utterances go into which shards; a later plan covers rows that were
                           appended and audio that has changed since
    shard-00000.h5/.json   a shard and its index; it counts when its index is there
    shard-00000.claim      which run writes the shard now (`probe.store.claims`)

An utterance is its key together with the sha256 of its audio, which is distinct for each excerpt of
a file. When the audio of a key changes, or the excerpt, a later shard holds the new version and the
old one stays; `FeatureStore.match` finds the version that belongs to a file.
"""

import fnmatch
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from probe.errors import ProbeError, UnreadError, listed
from probe.files import (
    contents_of,
    files_named,
    is_plain,
    read_json,
    sha256_of_file,
    statuses_in,
    unread,
    write_atomically,
    write_json,
)
from probe.garbage import uncollected
from probe.remote.paths import RemotePath, as_path
from probe.store.shards import ShardContent, merge_runs, read_rows, shard_bytes
from probe.store.side_files import (
    CTC_HEAD,
    FORMAT,
    check_numbers,
    checked_certificate,
    checked_ctc_head,
    checked_head,
    checked_index,
    checked_jobs,
    ctc_head_file,
    rows_in,
)
from probe.store.views import parse_view, pool, row_width, serves

PLAN_KEYS = 500_000  # utterances in one file of a plan: about 30 MB
SMALL_BYTES = 4 << 20  # of a remote shard that is fetched as a whole
SMALL_SHARDS = 32  # of them at the same time
BATCH = 256  # indexes that are read at the same time from a remote store


@dataclass(frozen=True)
class Job:
    """Utterances that become one shard, or a long utterance that becomes several shards."""

    number: int
    keys: tuple[str, ...]
    parts: int = 1

    @property
    def name(self) -> str:
        """The name that a run claims (`probe.store.claims`)."""
        return f"shard-{self.number:05d}"

    def shard_names(self) -> list[str]:
        """File names without their ending."""
        if self.parts == 1:
            return [self.name]
        return [f"{self.name}.{part + 1}of{self.parts}" for part in range(self.parts)]


class Stored(NamedTuple):
    """One version of an utterance in a store: where its rows are, and which audio they came from.

    Frames and rows are those of the first layer, and of all layers without an entry in ``others``.

    Attributes:
        native_rate_hz: the audio file's own rate; 0 in stores of earlier versions.
        flags: what is unusual about the sound (silence, clipped ...); None in stores of earlier
            versions.
        ctc_text: the greedy transcript of the model's own CTC head, if it was run.
        pieces: (shard, first row, stop row), one per part.
        others: layer -> the same utterance with the frames and rows of this layer.
        excerpt: the part of the audio file that it is; empty for a whole file.
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
    pieces: tuple[tuple[str, int, int], ...] = ()
    others: Mapping[str, "Stored"] = {}
    excerpt: str = ""

    def on(self, layer: str) -> "Stored":
        """The utterance in a layer."""
        return self.others.get(layer, self)

    @property
    def n_rows(self) -> int:
        """Rows in the store: the frames, or 1 in a pooled view."""
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
    """An utterance that could not be used, and why; it counts as long as its audio is the same.

    Attributes:
        audio_bytes, audio_mtime_ns: size and time of change of the file; -1 if it was missing.
        promised_s: duration in the manifest, which may have been the mistake.
        unreadable: the memory or the operating system failed, so it is worth another try.
        excerpt: the part of the file that was meant; empty for a whole file.
    """

    key: str
    reason: str
    audio_bytes: int
    audio_mtime_ns: int
    promised_s: float | None = None
    unreadable: bool = False
    excerpt: str = ""

    @property
    def entry(self) -> dict[str, Any]:
        """What an index says of it."""
        return {name: value for name, value in asdict(self).items() if name != "excerpt" or value}


class FeatureStore:
    """Reads and extends one store.

    Attributes:
        path: its folder.
        recipe: everything that decides a value.
        environment: versions, CPU and threads with which it was begun.
        requested: the name of its model (`probe.model_names`).
        spec: what opened its model.
        layers: layer -> width of the stored rows, in order.
        aliases: such as ``final`` -> ``12``.
        utterances: key -> versions, oldest first.
        failures: key -> the newest recorded failure.
        dtypes, offsets: shard -> layer -> dtype, and (utterance + 1,) int64 rows by its index.
        sha256s, sizes: shard -> hash and number of its bytes, by its index.
    """

    def __init__(self, path: Path) -> None:
        self.path = as_path(path)
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
        self.offsets: dict[str, dict[str, np.ndarray]] = {}
        self.sha256s: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        self.refresh()

    def __repr__(self) -> str:
        widths = [str(width) for width in sorted(set(self.layers.values()))]
        width = " or ".join(filter(None, [", ".join(widths[:-1]), widths[-1]]))
        stored = {dtype for of_shard in self.dtypes.values() for dtype in of_shard.values()}
        dtypes = " and ".join(sorted(stored or {self.recipe.get("dtype", "float16")}))
        return (
            f"FeatureStore({self.path}, {len(self.keys)} utterances, "
            f"{len(self.layers)} layers of {width}, {dtypes})"
        )

    @property
    def keys(self) -> list[str]:
        """Ids of all utterances, in the order they were stored."""
        return list(self.utterances)

    @property
    def stretch(self) -> float:
        """Duration of the disturbed audio, in durations of the file: 1 unless the condition changes
        the speed.
        """
        return float(self.recipe.get("disturbance", {}).get("stretch", 1.0))

    def hop_s(self, layer: str) -> float:
        """Seconds from one stored frame of a layer to the next."""
        kind, n = parse_view(self.view)
        model = self.recipe["model"]
        hop, _ = model.get("grids", {}).get(layer, (model["hop_samples"], 0))
        return float((n if kind == "frames" else 1) * hop / model["rate_hz"])

    def field_s(self, layer: str) -> float | None:
        """Seconds of audio that one frame of a layer's front-end covers, if the recipe says so;
        frame 0 is centred at half of it.
        """
        model = self.recipe["model"]
        _, field_samples = model.get("grids", {}).get(layer, (0, model.get("field_samples")))
        return None if field_samples is None else float(field_samples / model["rate_hz"])

    def layer(
        self, name: str, keys: Sequence[str] | None = None, view: str | None = None
    ) -> LayerArray:
        """One layer of all utterances, or of ``keys`` in their order.

        Args:
            view: a view that this store can serve; None takes the store's own.

        Raises:
            ProbeError: no such layer, unknown keys, a view this store cannot serve, a damaged
                shard.
        """
        selection = self.keys if keys is None else list(keys)
        unknown = [key for key in selection if key not in self.utterances]
        if unknown:
            raise ProbeError(
                f"{self.path}: no features of {listed(unknown)}. Run `probe extract` with the "
                "manifest that has them."
            )
        return self.read(name, [self.utterances[key][-1] for key in selection], view)

    def read(self, name: str, stored: Sequence[Stored], view: str | None = None) -> LayerArray:
        """One layer of exactly these versions of utterances (see `match`), in their order."""
        layer = self.aliases.get(str(name), str(name))
        if layer not in self.layers:
            raise self._without_layer(str(name))
        stored = [item.on(layer) for item in stored]
        offsets = np.cumsum([0, *(item.n_rows for item in stored)], dtype=np.int64)
        # Shard -> (row in the shard, stop row, row in the result).
        shards: dict[str, list[tuple[int, int, int]]] = {}
        for item, start in zip(stored, offsets, strict=False):
            position = int(start)
            for shard, first, stop in item.pieces:
                shards.setdefault(shard, []).append((first, stop, position))
                position += stop - first
        halves = all(self.dtypes[shard][layer] == "float16" for shard in shards)
        values = _room(
            self.path, (int(offsets[-1]), self.layers[layer]), np.float16 if halves else np.float32
        )
        for shard, content in self._contents(list(shards)):
            form = (self.offsets[shard][layer], self.dtypes[shard][layer], self.sha256s[shard])
            place, runs = self.path / f"{shard}.h5", merge_runs(shards[shard])
            read_rows(place, layer, runs, values, *form, content)
        array = LayerArray(values, offsets, [item.key for item in stored])
        return array if view in (None, self.view) else self._derived(array, str(view))

    def _contents(self, shards: Sequence[str]) -> Iterator[tuple[str, bytes | OSError | None]]:
        """Each shard with its content if it is remote and small: ten requests for parts of it would
        take longer than it takes as a whole, and many whole ones are fetched at the same time.
        """
        if not isinstance(self.path, RemotePath):
            yield from ((shard, None) for shard in shards)
            return
        for start in range(0, len(shards), SMALL_SHARDS):
            batch = shards[start : start + SMALL_SHARDS]
            small = [shard for shard in batch if self.sizes[shard] <= SMALL_BYTES]
            contents = contents_of([self.path / f"{shard}.h5" for shard in small])
            known = dict(zip(small, contents, strict=True))
            yield from ((shard, known.get(shard)) for shard in batch)

    def _without_layer(self, name: str) -> ProbeError:
        blocks = self.aliases.get("final", "")
        advice = (
            f"Extract with --layers {name}, if the model has such a layer, or name one of these."
        )
        if name.isdecimal() and blocks.isdecimal() and int(name) > int(blocks):
            advice = f"The model has {blocks} blocks; name one of these."
        known = ", ".join(self.layers)
        return ProbeError(f"{self.path}: layer {name} asked for; the store holds {known}. {advice}")

    def _derived(self, array: LayerArray, view: str) -> LayerArray:
        if serves(self.view, view) is None:
            raise ProbeError(
                f"{self.path}: holds {self.view}, which cannot give {view}. "
                f"Extract with --view {view}."
            )
        if self.view == "meanstd":
            means = array.values[:, : array.values.shape[1] // 2]
            return LayerArray(means, array.offsets, array.keys)
        if view == "frames":
            return array  # every k-th of them
        rows = [pool(frames, view) for frames in array]
        offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        empty = np.empty((0, row_width(array.values.shape[1], view)), np.float32)
        return LayerArray(np.concatenate(rows) if rows else empty, offsets, array.keys)

    def match(
        self, key: str, path: Path, excerpt: str = "", audio_sha256: Callable[[], str] | None = None
    ) -> Stored | None:
        """The stored version of an utterance whose audio is the file ``path``, or None.

        A file with the size and time of change that it had at extraction counts as unchanged;
        otherwise its sha256 decides (no version matches a file that cannot be read). If the file is
        gone, the one stored version is taken.

        Args:
            excerpt: the part of the file that is meant; other parts never match.
            audio_sha256: asks for the sha256 of what is meant, and raises ``OSError`` where it
                cannot be read; that of the whole file where None.

        Raises:
            ProbeError: the file is gone and several versions are stored.
        """
        versions = [item for item in self.utterances.get(key, []) if item.excerpt == excerpt]
        if not versions:
            return None
        try:
            status = path.stat()
        except OSError as error:
            if len(versions) == 1:
                return versions[0]
            raise ProbeError(
                f"{self.path}: {key} is stored in {len(versions)} versions, and {path} cannot tell "
                f"which is meant ({error.strerror}). Put the audio in its place."
            ) from None
        for item in reversed(versions):
            if (item.audio_bytes, item.audio_mtime_ns) == (status.st_size, status.st_mtime_ns):
                return item
        same_size = [item for item in versions if item.audio_bytes == status.st_size]
        try:
            digest = (audio_sha256 or partial(sha256_of_file, path))() if same_size else ""
        except OSError:
            return None
        return next((item for item in reversed(same_size) if item.audio_sha256 == digest), None)

    def failure(self, key: str, path: Path, excerpt: str = "") -> Failure | None:
        """The recorded failure of an utterance whose audio is still the file that failed, and the
        same excerpt of it.
        """
        failure = self.failures.get(key)
        if failure is None or failure.excerpt != excerpt:
            return None
        try:
            status = path.stat()
        except OSError:
            return failure
        state = (failure.audio_bytes, failure.audio_mtime_ns)
        return failure if state == (status.st_size, status.st_mtime_ns) else None

    @property
    def certificate(self) -> dict[str, Any]:
        """The content of ``certificate.json``; empty if nothing was checked."""
        path = self.path / "certificate.json"
        return checked_certificate(read_json(path), path) if path.exists() else {}

    def write_certificate(self, certificate: Mapping[str, Any]) -> None:
        """Write a certificate beside the recipe, in place of an earlier one."""
        write_json(self.path / "certificate.json", certificate)

    @property
    def ctc_head(self) -> np.ndarray | None:
        """(symbol, dim + 1) float32, the weights of the checkpoint's own CTC head with the bias
        behind each row; None where it was not run or is not kept.
        """
        path = self.path / CTC_HEAD
        return checked_ctc_head(read_json(path), path) if path.exists() else None

    def write_ctc_head(self, head: np.ndarray) -> None:
        """Write the checkpoint's own CTC head, (symbol, dim + 1), beside the recipe."""
        write_json(self.path / CTC_HEAD, ctc_head_file(head))

    def refresh(self) -> None:
        """Read the plans and the indexes of complete shards again."""
        with uncollected():
            self._refresh()

    def _refresh(self) -> None:
        self.utterances.clear()
        self.failures.clear()
        self.jobs: list[Job] = []
        files = statuses_in(self.path)  # first: what is complete later is not asked for
        for name in sorted(files):
            if fnmatch.fnmatchcase(name, "plan-*.json"):
                path = self.path / name
                jobs = checked_jobs(read_json(path), path)
                self.jobs += [
                    Job(item["number"], tuple(item["keys"]), item["parts"]) for item in jobs
                ]
        check_numbers([job.number for job in self.jobs], self.path)
        self.complete: set[int] = set()
        indexes = self._indexes(files)
        for job in self.jobs:
            if parts := _whole(job, [index for _ in range(job.parts) if (index := next(indexes))]):
                self.complete.add(job.number)
                self._take_in(parts)

    def failures_of(self, job: Job) -> list[Failure] | None:
        """The failures of a job that is complete on the disk now; None if it is not."""
        parts = self._parts(job)
        return None if parts is None else [Failure(**item) for item in parts[0]["failures"]]

    def _parts(self, job: Job) -> list[dict[str, Any]] | None:
        """The indexes of a job's shards; None if it is not complete.

        Parts of a long utterance count together, and only if they come from the same audio.
        """
        return _whole(job, [index for name in job.shard_names() if (index := self._index(name))])

    def _indexes(self, files: Mapping[str, os.stat_result]) -> Iterator[dict[str, Any] | None]:
        """The index of each shard of each job, in their order; None where it is not complete.

        Args:
            files: in the store. What differs from them is read again by itself.
        """
        names = [name for job in self.jobs for name in job.shard_names()]
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            paths = {name: self.path / f"{name}.json" for name in batch if f"{name}.json" in files}
            plain = [path for path in paths.values() if is_plain(files[path.name])]
            contents = dict(zip(plain, contents_of(plain), strict=True))
            for name in batch:
                path = paths.get(name)
                if path is None:
                    yield None
                    continue
                try:
                    index = checked_index(read_json(path, contents.get(path)), path, self.layers)
                except UnreadError:
                    raise
                except ProbeError:
                    yield self._index(name)
                    continue
                shard = files.get(f"{name}.h5")
                is_whole = not index["bytes"] or (shard and shard.st_size == index["bytes"])
                yield index if is_whole else self._index(name)

    def _index(self, name: str) -> dict[str, Any] | None:
        """A shard's index; None if the shard is not complete.

        A run that writes the shard again removes the index first, so an index that is not there any
        more says nothing about the shard.
        """
        path = self.path / f"{name}.json"
        if not path.exists():
            return None
        try:
            index = checked_index(read_json(path), path, self.layers)
        except UnreadError:
            raise
        except ProbeError:
            if not path.exists():
                return None
            raise
        if index["bytes"]:
            shard = self.path / f"{name}.h5"
            try:
                n_bytes = shard.stat().st_size
            except FileNotFoundError:
                n_bytes = -1
            except OSError as error:
                raise unread(shard, error) from error
            if n_bytes != index["bytes"]:
                if not path.exists() or read_json(path) != index:
                    return self._index(name)
                raise ProbeError(
                    f"{shard}: missing or not the {index['bytes']} bytes its index names. "
                    f"Remove {path.name} and extract again."
                )
        return index

    def _take_in(self, parts: list[dict[str, Any]]) -> None:
        """Add the utterances of one shard, or of the parts of a long utterance."""
        first = parts[0]["utterances"]
        others = list(first[0].get("others", {})) if first else []
        bounds: list[dict[str, list[int]]] = []  # of each part, layer ("" for most) -> offsets
        for part in parts:
            bounds.append({})
            rows = (item["rows"] for item in part["utterances"])
            bounds[-1][""] = [0, *itertools.accumulate(rows)]
            for layer in others:
                rows = (rows_in(item, layer) for item in part["utterances"])
                bounds[-1][layer] = [0, *itertools.accumulate(rows)]
            offsets = {layer: np.array(rows, np.int64) for layer, rows in bounds[-1].items()}
            name = part["shard"]
            self.offsets[name] = dict.fromkeys(self.layers, offsets[""]) | {
                layer: offsets[layer] for layer in others
            }
            self.dtypes[name], self.sha256s[name] = part["dtypes"], part["sha256"]
            self.sizes[name] = part["bytes"]
        places = [(part["shard"], of_part) for part, of_part in zip(parts, bounds, strict=True)]
        for position, item in enumerate(first):  # this index is read by nobody else
            frames = item.pop("others", None)
            del item["rows"]
            if "flags" in item:
                item["flags"] = tuple(item["flags"])
            if "ctc_text" in item:
                item["ctc_text"] = parts[-1]["utterances"][position].get("ctc_text")
            stored = Stored(**item, pieces=_pieces(places, "", position))
            if frames:
                on = {
                    layer: stored._replace(n_frames=n, pieces=_pieces(places, layer, position))
                    for layer, (n, _) in frames.items()
                }
                stored = stored._replace(others=on)
            self.utterances.setdefault(stored.key, []).append(stored)
            self.failures.pop(stored.key, None)
        for item in parts[0]["failures"]:
            self.failures[item["key"]] = Failure(**item)

    def add_plan(self, jobs: Sequence[tuple[tuple[str, ...], int]]) -> list[Job]:
        """Write a plan for (keys, number of parts) each and return its jobs, which continue the
        numbers of those before; a plan of millions of utterances is several files.
        """
        first = max((job.number for job in self.jobs), default=-1) + 1
        planned = [Job(first + index, keys, parts) for index, (keys, parts) in enumerate(jobs)]
        plans = [path.stem.removeprefix("plan-") for path in files_named(self.path, "plan-*.json")]
        for number, part in enumerate(_cut(planned), max(map(int, plans), default=-1) + 1):
            entries = [vars(job) for job in part]
            write_json(self.path / f"plan-{number:05d}.json", {"format": FORMAT, "jobs": entries})
        self.jobs += planned
        return planned

    def write_shard(
        self,
        name: str,
        content: ShardContent,
        utterances: Sequence[Mapping[str, Any]],
        failures: Sequence[Failure],
    ) -> int:
        """Write a shard and then its index, each atomically; returns the shard's bytes (0 if every
        utterance failed).

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
            "failures": [failure.entry for failure in failures],
        }
        write_json(self.path / f"{name}.json", index)
        if not data:  # a part may have been written before the utterance failed
            (self.path / f"{name}.h5").unlink(missing_ok=True)
        return len(data)


def bytes_of_shards(folder: Path) -> int:
    """Bytes of all shards in a store's folder."""
    files = statuses_in(folder).items()
    return sum(status.st_size for name, status in files if fnmatch.fnmatchcase(name, "shard-*.h5"))


def _room(folder: Path, shape: tuple[int, int], dtype: type) -> np.ndarray:
    try:
        return np.empty(shape, dtype)
    except (MemoryError, ValueError) as error:
        raise ProbeError(
            f"{folder}: {shape[0]} rows of {shape[1]} do not fit into memory. "
            "Read fewer keys at a time."
        ) from error


def _pieces(
    places: Sequence[tuple[str, Mapping[str, Sequence[int]]]], layer: str, position: int
) -> tuple[tuple[str, int, int], ...]:
    """`Stored.pieces` of an utterance in a layer.

    Args:
        places: of each part its shard, and the bounds of the utterances' rows in each layer.
    """
    return tuple(
        [(shard, rows[layer][position], rows[layer][position + 1]) for shard, rows in places]
    )


def _cut(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs in parts of about `PLAN_KEYS` utterances."""
    parts: list[list[Job]] = [[]]
    n_keys = 0
    for job in jobs:
        if n_keys >= PLAN_KEYS:
            parts.append([])
            n_keys = 0
        parts[-1].append(job)
        n_keys += len(job.keys)
    return parts


def _whole(job: Job, parts: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The indexes of a job's shards if the job is complete with them."""
    is_whole = len(parts) == job.parts and all(map(partial(_same_audio, parts[0]), parts))
    return parts if is_whole else None


def _same_audio(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    first, second = (
        [item["audio_sha256"] for item in index["utterances"]] for index in (one, other)
    )
    return first == second
