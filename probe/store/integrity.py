"""Verify a store: every byte of every shard, every checksum and every entry, and missing or
additional files.

Verifying works on stores that cannot be opened and changes nothing. Damage makes a reader fail or
means that data is lost. A note is useful information, such as planned shards that are not written
yet or files of a killed run.
"""

import hashlib
import json
import math
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from h5py import h5d, h5f

from probe.brief import brief, counted
from probe.errors import ProbeError, UnreadError, listed
from probe.files import canonical_json, files_named, read_json, sha256_of_file, unread
from probe.model_names import ModelName
from probe.remote.paths import as_path
from probe.remote.ranges import RangeReader
from probe.store.feature_store import Job
from probe.store.safe_hdf5 import (
    DAMAGE,
    TEXT,
    all_rows,
    chunk_rows,
    copy_rows,
    dataset_names,
    opened,
    source_of,
    system_error,
    trusted_attribute,
    trusted_dataset,
    usable_scales,
)
from probe.store.side_files import (
    CTC_HEAD,
    FORMAT,
    check_numbers,
    checked_certificate,
    checked_ctc_head,
    checked_head,
    checked_index,
    checked_jobs,
    rows_in,
)
from probe.store.views import n_rows, row_width

SLAB_BYTES = 1 << 24  # bytes read at once
SHARD_FILE = re.compile(r"(shard-\d{5,}(?:\.\d+of\d+)?)\.(?:h5|json)")
HEAD_ADVICE = (
    "The store cannot be opened without it: put a copy of it back, or move the folder aside and "
    "run `probe extract` again (an equal recipe begins an equal store)"
)
# Advice at the end of a reader's message, which the commands of a verification replace.
ADVICE = re.compile(r"\. (Remove it|This is damaged|This says nothing|`probe|Extract again).*$|\.$")


@dataclass(frozen=True)
class Finding:
    """What is wrong with one file of a store, or worth knowing of it.

    Attributes:
        file: its name in the store's folder.
        damage: whether something is lost or broken; a note otherwise.
        unread: whether the operating system does not let the file be read, so that it may be sound;
            no damage.
    """

    file: str
    problem: str
    damage: bool = True
    unread: bool = False

    @property
    def rank(self) -> int:
        """Severity: 2 for damage, 1 for a file that could not be read, 0 for a note."""
        return 2 if self.damage else int(self.unread)


@dataclass(frozen=True)
class Verification:
    """The result of verifying one store.

    Attributes:
        shards, n_bytes: that have an index and were read.
        findings: by file.
        head: ``recipe.json``; None if it cannot be used.
    """

    store: Path
    shards: int
    n_bytes: int
    findings: tuple[Finding, ...]
    head: Mapping[str, Any] | None

    def __repr__(self) -> str:
        return brief(
            self,
            self.state,
            counted(self.shards, "shard"),
            counted(len(self.findings), "finding"),
            str(self.store),
        )

    @property
    def damage(self) -> list[Finding]:
        """Findings of something that is lost or broken."""
        return [item for item in self.findings if item.damage]

    @property
    def unread(self) -> list[Finding]:
        """Findings of files that could not be read and whose state is unknown."""
        return [item for item in self.findings if item.unread]

    @property
    def state(self) -> str:
        """Whether anything is damaged, or could not be read."""
        states = [f"DAMAGED, {len(self.damage)} files"] if self.damage else []
        if self.unread:
            states.append(
                f"NOT KNOWN, {len(self.unread)} files could not be read and may be sound, "
                "so remove nothing"
            )
        return "; ".join(states) or "sound"

    def commands(self) -> list[str]:
        """Shell commands that mend the damage: they remove the damaged files, each shard with its
        index, and extract what is missing again. Empty without damage, and while it is not known
        what is damaged.
        """
        if not self.damage or self.unread or self.head is None:
            return []
        names = [item.file for item in self.damage]
        for shard in {match[1] for name in names if (match := SHARD_FILE.fullmatch(name))}:
            names += [f"{shard}.h5", f"{shard}.json"]
        files = [str(path) for name in sorted(set(names)) if (path := self.store / name).exists()]
        remove = [shlex.join(["rm", *files])] if files else []
        return [*remove, extract_command(self.head, self.store.parent.parent)]

    def lines(self) -> list[str]:
        """One line for the store, one for each finding, and the commands that mend the damage."""
        size = f"{self.shards} shards, {self.n_bytes / 1e6:.1f} MB read"
        details = [
            f"{self.store / item.file}: {'' if item.rank else 'note: '}{item.problem}"
            for item in self.findings
        ]
        commands = [f"  {command}" for command in self.commands()]
        advice = ["To mend the store, run:", *commands] if commands else []
        return [f"{self.store}: {self.state}; {size}", *details, *advice]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "store": str(self.store),
            "sound": not self.damage and not self.unread,
            "shards": self.shards,
            "bytes": self.n_bytes,
            "damage": {item.file: item.problem for item in self.damage},
            "unread": {item.file: item.problem for item in self.unread},
            "notes": {item.file: item.problem for item in self.findings if not item.rank},
            "commands": self.commands(),
        }


def extract_command(head: Mapping[str, Any], root: Path) -> str:
    """The command that extracts into a store again; CSV stands for the manifest."""
    recipe = head["recipe"]
    requested, revision = head["requested"], recipe["model"]["revision"]
    model_name = ModelName(requested, str(head["environment"].get("spec", requested)))
    model = model_name.text
    # On the hub, where a name may have moved on to another commit.
    is_on_hub = re.fullmatch("[0-9a-f]{40}", revision) and ":" not in model_name.spec
    if is_on_hub and not model_name.is_alias:
        model = f"{model_name.spec.partition('@')[0]}@{revision}"
    words = ["probe", "extract", "--model", model, "--corpus", "CSV", "--to", str(root)]
    words += ["--view", recipe["view"], "--layers", ",".join(name for name, _ in recipe["layers"])]
    disturbance = recipe.get("disturbance")
    if disturbance and disturbance["text"] == recipe["condition"]:
        words += ["--condition", disturbance["text"]]
    elif disturbance:
        words += ["--condition-file", "TOML", "--condition", recipe["condition"]]
    chunking = recipe.get("chunking") or {}
    options = {
        "dtype": (recipe.get("dtype"), "float16"),
        "compression": (recipe.get("compression"), "none"),
        "implementation": (recipe.get("implementation"), "packed"),
        "precision": (recipe.get("precision"), "fp32"),
        "chunk-s": (chunking.get("chunk_s"), 20),
        "context-s": (chunking.get("context_s"), 5),
        "condition-seed": (disturbance and disturbance["seed"], 0),
    }
    for name, (value, default) in options.items():
        words += [] if value in (None, default) else [f"--{name}", str(value)]
    if "chunking" in recipe and not chunking and recipe["implementation"] == "packed":
        words += ["--chunk-s", "0"]
    return shlex.join([*words, "--ctc"] if "ctc" in recipe else words)


def store_folders(path: Path | str) -> list[Path]:
    """Folders that hold a store or the rest of one: ``path`` itself, or those up to two folders
    below.

    Raises:
        ProbeError: there is none.
    """
    root = as_path(path)
    names = ("recipe.json", "plan-*.json", "shard-*.json", "shard-*.h5")
    folders = {
        item.parent
        for depth in ("", "*/", "*/*/")
        for name in names
        for item in root.glob(depth + name)
    }
    if not folders:
        raise ProbeError(
            f"{path}: no feature store here or two folders below; expected a folder that "
            "`probe extract` wrote."
        )
    return sorted(folders)


def verify_store(folder: Path, tick: Callable[[int], Any] = lambda _: None) -> Verification:
    """Read everything in a store's folder.

    Args:
        tick: called with the bytes of each shard that was read.
    """
    store = _Folder(folder)
    indexes: dict[str, dict[str, Any]] = {}
    on_disk = {match[1] for path in folder.iterdir() if (match := SHARD_FILE.fullmatch(path.name))}
    planned = [name for job in store.jobs for name in job.shard_names()]
    strays = sorted(on_disk.difference(planned))
    for name in [*planned, *strays]:
        index = store.shard(name, is_planned=name not in strays)
        if index is not None:
            indexes[name] = index
            tick(index["bytes"])
    store.look_for_a_missing_plan(
        {name: indexes[name] for name in strays if name in indexes}, indexes
    )
    for job in store.jobs:
        store.job([indexes[name] for name in job.shard_names() if name in indexes], job)
    for path in sorted(folder.iterdir()):
        if re.fullmatch(r"\..*\.tmp", path.name):
            text = "temporary file of a run that was killed or is writing; nothing reads it"
            store.note(path.name, text)
    if missing := [name for name in planned if not (folder / f"{name}.json").exists()]:
        text = f"planned and missing, {len(missing)} of {len(planned)} shards"
        text += "; `probe extract` writes them"
        store.note(f"{missing[0]}.h5", text)
    findings = sorted(_merged(store.findings), key=lambda item: (-item.rank, item.file))
    n_bytes = sum(index["bytes"] for index in indexes.values())
    return Verification(folder, len(indexes), n_bytes, tuple(findings), store.head)


class _Folder:
    """A store's folder while it is verified."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.findings: list[Finding] = []
        self.head: dict[str, Any] | None = self._json("recipe.json", checked_head, HEAD_ADVICE)
        self.recipe: dict[str, Any] | None = self.head and self.head["recipe"]
        self.layers: dict[str, int] = {}
        if self.recipe:
            view = self.recipe["view"]
            self.layers = {name: row_width(width, view) for name, width in self.recipe["layers"]}
        if (folder / "certificate.json").exists():
            self._json("certificate.json", checked_certificate)
        if (folder / CTC_HEAD).exists():
            self._json(CTC_HEAD, checked_ctc_head)
        self.jobs: list[Job] = []
        for path in files_named(folder, "plan-*.json"):
            entries = self._json(path.name, checked_jobs) or []
            try:
                check_numbers(
                    [*(job.number for job in self.jobs), *(e["number"] for e in entries)], folder
                )
            except ProbeError as error:
                self.damage(path.name, error)
                continue
            self.jobs += [
                Job(item["number"], tuple(item["keys"]), item["parts"]) for item in entries
            ]

    def damage(self, file: str, problem: str | ProbeError) -> None:
        """Note damage; an error loses the name of the file and the advice at its end."""
        text = str(problem)
        for place in (self.folder / file, self.folder):
            text = text.removeprefix(f"{place}: ")
        self.findings.append(Finding(file, ADVICE.sub("", text)))

    def note(self, file: str, problem: str) -> None:
        """Add a note, which is not damage."""
        self.findings.append(Finding(file, problem, damage=False))

    def unread(self, file: str, error: UnreadError) -> None:
        """Note a file that cannot be read for a reason that is not in the file."""
        self.damage(file, error)
        self.findings[-1] = replace(self.findings[-1], damage=False, unread=True)

    def _json(
        self, file: str, check: Callable[[dict[str, Any], Path], Any], advice: str = ""
    ) -> Any:
        """A JSON file that passes a check, or None with a finding."""
        path = self.folder / file
        try:
            return check(read_json(path), path)
        except UnreadError as error:
            self.unread(file, error)
        except ProbeError as error:
            self.damage(file, error)
            if advice:
                item = self.findings[-1]
                self.findings[-1] = replace(item, problem=f"{item.problem}. {advice}")
        return None

    def shard(self, name: str, is_planned: bool) -> dict[str, Any] | None:
        """The index of a shard, all of which was read; None if no index can be used."""
        before = len(self.findings)
        path, shard = self.folder / f"{name}.json", self.folder / f"{name}.h5"
        index = None
        if path.exists():
            layers = list(self.layers) or None
            index = self._json(path.name, lambda value, where: checked_index(value, where, layers))
        elif shard.exists():
            text = "has no index and counts for nothing; a run was interrupted, or is writing"
            self.note(shard.name, text)
        if index is not None and index["bytes"]:
            try:
                problems = shard_problems(shard, index, self.recipe, self.layers)
                if problems:
                    self.damage(shard.name, "; ".join(problems))
            except UnreadError as error:
                self.unread(shard.name, error)
        if not is_planned:
            text = "no plan that can be read names this shard, so nothing reads it"
            self.findings[before:] = [
                replace(
                    item,
                    problem=f"{item.problem}; {text}" if item.damage else item.problem,
                    damage=False,
                )
                for item in self.findings[before:]
            ]
        return index

    def look_for_a_missing_plan(
        self, strays: Mapping[str, dict[str, Any]], indexes: Mapping[str, dict[str, Any]]
    ) -> None:
        """Name the next plan as missing if only shards without a plan hold some utterance."""
        if not strays:
            return
        rest = _versions(index for name, index in indexes.items() if name not in strays)
        is_lost = bool(_versions(strays.values()) - rest)
        is_known = any(item.file.startswith("plan-") or item.unread for item in self.findings)
        number = len(files_named(self.folder, "plan-*.json"))
        text = f"missing: {listed(list(strays))} are in no plan that can be read"
        self.findings.append(
            Finding(f"plan-{number:05d}.json", text, damage=is_lost and not is_known)
        )

    def job(self, parts: list[dict[str, Any]], job: Job) -> None:
        """Name what is wrong with the parts of a job together."""
        for part in parts:
            keys = [item["key"] for entries in ("utterances", "failures") for item in part[entries]]
            if sorted(keys) != sorted(job.keys):
                text = f"holds {len(keys)} utterances or failures that are not the "
                text += f"{len(job.keys)} of its plan"
                self.damage(f"{part['shard']}.json", text)
                return
        if len(parts) != job.parts:
            return
        file = f"{parts[0]['shard']}.json"
        audio = [[item["audio_sha256"] for item in part["utterances"]] for part in parts]
        if any(other != audio[0] for other in audio):
            self.note(file, "its parts come from different audio; not used until extracted again")
            return
        for position, item in enumerate(parts[0]["utterances"] if self.recipe else []):
            frames = {"": item["n_frames"]}
            frames |= {layer: n for layer, (n, _) in item.get("others", {}).items()}
            for layer, n_frames in frames.items():
                rows = sum(rows_in(part["utterances"][position], layer) for part in parts)
                expected = n_rows(n_frames, self.recipe["view"]) if self.recipe else rows
                if rows != expected:
                    of_layer = f" of layer {layer}" if layer else ""
                    self.damage(
                        file, f"{item['key']} has {rows} rows{of_layer}; expected {expected}"
                    )
                    return


def _versions(indexes: Iterable[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """Key and sha256 of the audio of all utterances."""
    return {
        (item["key"], item["audio_sha256"]) for index in indexes for item in index["utterances"]
    }


def _merged(findings: list[Finding]) -> list[Finding]:
    """Return one finding per file; the most severe one hides the others."""
    merged: dict[str, Finding] = {}
    for item in findings:
        known = merged.get(item.file)
        if known is None or item.rank > known.rank:
            merged[item.file] = item
        elif item.rank == known.rank and item.problem not in known.problem:
            merged[item.file] = replace(known, problem=f"{known.problem}; {item.problem}")
    return list(merged.values())


def shard_problems(
    path: Path,
    index: Mapping[str, Any],
    recipe: Mapping[str, Any] | None,
    layers: Mapping[str, int],
) -> list[str]:
    """What is wrong with a shard, in words; empty for a sound one.

    Reads the file twice (a remote one once, into memory): its bytes for the sha256 and, if that is
    right, every chunk of every dataset through HDF5.

    Args:
        index: of the shard, as `probe.store.side_files.checked_index` gives it.
        recipe: of the store; None if it is not known.
        layers: layer -> width of the stored rows; empty if the recipe is not known.

    Raises:
        UnreadError: the operating system does not let it be read.
    """
    try:
        if not path.is_file():
            return ["missing"]
        n_bytes = path.stat().st_size
        if n_bytes != index["bytes"]:
            return [f"has {n_bytes} bytes; its index names {index['bytes']}"]
        source = source_of(path)
        if isinstance(source, RangeReader):  # over the network once
            source.fetch([(0, n_bytes)])
            sha256 = hashlib.sha256(source.range(0, n_bytes)).hexdigest()
        else:
            sha256 = sha256_of_file(path)
        if sha256 != index["sha256"]:
            return ["its bytes do not have the sha256 in its index"]
    except OSError as error:
        raise unread(path, error) from error
    problems: list[str] = []
    try:
        with opened(source, SLAB_BYTES) as file:
            problems += _differences(file, path, index, recipe, layers)
            for name in dataset_names(file):
                problems += _unreadable(file, name, path)
    except UnreadError:
        raise
    except ProbeError as error:
        problems.append(str(error).removeprefix(f"{path}: "))
    except DAMAGE as error:
        problems.append(f"cannot be read as HDF5 ({error})")
    return list(dict.fromkeys(problems))


def _unreadable(file: h5f.FileID, name: str, path: Path) -> Iterator[str]:
    """Read all of a dataset, a slab at a time, and say what cannot be read."""
    dtypes = {
        "layers": ["float16", "float32", "int8"],
        "scales": ["float32"],
        "offsets": ["int64"],
    }.get(name.partition("/")[0], [TEXT])
    try:
        for slab in slabs(trusted_dataset(file, name, path, dtypes)):
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
    """Where a shard's contents differ from its index and its store.

    Raises:
        ProbeError: a dataset of another form.
    """
    utterances = index["utterances"]
    texts = {name: [item[name] for item in utterances] for name in ("key", "audio_sha256")}
    if any(item.get("ctc_text") is not None for item in utterances):
        texts["ctc_text"] = [item.get("ctc_text") or "" for item in utterances]
    for entry, expected in texts.items():
        name = "keys" if entry == "key" else entry
        stored = all_rows(trusted_dataset(file, name, path, [TEXT], (len(utterances),)))
        if list(stored) != [text.encode() for text in expected]:
            yield f"{name} differs from its index"
    for layer, dtype in index["dtypes"].items():
        offsets = np.cumsum([0, *(rows_in(item, layer) for item in utterances)], dtype=np.int64)
        rows = int(offsets[-1])
        shape = (rows, layers[layer]) if layers else None
        trusted_dataset(file, f"layers/{layer}", path, [dtype], shape)
        if dtype == "int8":
            scales = trusted_dataset(file, f"scales/{layer}", path, ["float32"], (rows,))
            if not usable_scales(all_rows(scales)):
                yield f"scales/{layer} are not all finite numbers from 0 on"
        bounds = trusted_dataset(file, f"offsets/{layer}", path, ["int64"], offsets.shape)
        if (all_rows(bounds) != offsets).any():
            yield f"offsets/{layer} divide the rows in another way than its index"
    attributes = {
        name: trusted_attribute(file, name, path).tolist()
        for name in ("format", "recipe", "part", "environment")
    }
    if attributes["format"] != FORMAT:
        yield f"is of another format than {FORMAT}"
    if recipe is not None and attributes["recipe"] != canonical_json(recipe).encode():
        yield "holds another recipe than the store"
    if attributes["part"] != index["part"]:
        yield f"is part {attributes['part']}; its index says {index['part']}"
    try:
        json.loads(attributes["environment"])
    except (TypeError, ValueError, RecursionError):
        yield "has no environment as JSON"
