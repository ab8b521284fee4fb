"""Whether a store is sound: every byte of every shard, every checksum, every entry, and what is
missing or left over.

Works on stores that cannot be opened; changes nothing. Damage is what a reader would stumble over
or what was lost; a note is what is worth knowing: shards that are planned and not written yet,
files of a run that was killed.
"""

import itertools
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from probe.brief import brief, counted
from probe.errors import ProbeError, UnreadError, listed
from probe.files import files_named, read_json, sha256_of_json
from probe.store.feature_store import Job
from probe.store.index_schema import (
    check_numbers,
    checked_certificate,
    checked_head,
    checked_index,
    checked_jobs,
    rows_in,
)
from probe.store.shard_check import shard_problems
from probe.store.views import n_rows, row_width

ASIDE = ".damaged"
CERTIFICATE = "certificate"
SHARD_FILE = re.compile(r"(shard-(\d{5,})(?:\.\d+of\d+)?)\.(?:h5|json)")
HEAD_ADVICE = (
    "The store cannot be opened without it: put a copy of it back, or move the folder aside and run `probe extract` again "
    "(an equal recipe begins an equal store)"
)


@dataclass(frozen=True)
class Finding:
    """What is wrong with, or to be known of, one file of a store.

    Attributes:
        file: its name in the store's folder.
        damage: whether something is lost or broken; a note otherwise.
        job: number of the job that would have to be extracted again, where there is one.
        unread: whether the operating system does not let the file be read, so that it may be sound;
            no damage.
    """

    file: str
    problem: str
    damage: bool = True
    job: int | None = None
    unread: bool = False

    @property
    def rank(self) -> int:
        """How grave it is: 2 damage, 1 a file that could not be read, 0 a note."""
        return 2 if self.damage else int(self.unread)


@dataclass(frozen=True)
class Verification:
    """What was found in one store.

    Attributes:
        shards, n_bytes: that have an index and were read.
        jobs: of the plans that could be read.
        findings: by file.
        head: ``recipe.json``; None where it cannot be used.
    """

    store: Path
    shards: int
    n_bytes: int
    jobs: tuple[Job, ...]
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
    def state(self) -> str:
        """Whether anything is damaged, or could not be read."""
        states = [f"DAMAGED, {len(self.damage)} files"] if self.damage else []
        if self.unread:
            states.append(
                f"NOT KNOWN, {len(self.unread)} files could not be read and may be sound, so remove nothing"
            )
        return "; ".join(states) or "sound"

    @property
    def unread(self) -> list[Finding]:
        """Findings of files of which nothing is known, because they could not be read."""
        return [item for item in self.findings if item.unread]

    def lines(self) -> list[str]:
        """One line for the store and one for each finding."""
        size = f"{self.shards} shards, {self.n_bytes / 1e6:.1f} MB read"
        details = [
            f"{self.store / item.file}: {'' if item.rank else 'note: '}{item.problem}"
            for item in self.findings
        ]
        return [f"{self.store}: {self.state}; {size}", *details]

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
        }


def store_folders(path: Path | str) -> list[Path]:
    """Folders that hold a store or what is left of one: ``path`` itself, or those up to two folders
    below.

    Raises:
        ProbeError: there is none.
    """
    root = Path(path)
    names = ("recipe.json", "plan-*.json", "shard-*.json", "shard-*.h5")
    found = {
        item.parent
        for depth in ("", "*/", "*/*/")
        for name in names
        for item in root.glob(depth + name)
    }
    if not found:
        raise ProbeError(
            f"{path}: no feature store here or two folders below; expected a folder that `probe extract` wrote."
        )
    return sorted(found)


def files_aside(folder: Path) -> dict[str, list[Path]]:
    """Files that a repair has set aside, by their name without ending; an index before its shard."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob(f"*{ASIDE}"), reverse=True):
        if match := re.fullmatch(rf"(.+?)\.(?:json|h5)(?:\.\d+)?{re.escape(ASIDE)}", path.name):
            found.setdefault(match[1], []).append(path)
    return found


def verify_store(folder: Path, tick: Callable[[int], Any] = lambda _: None) -> Verification:
    """Reads everything in a store's folder.

    Args:
        tick: called with the bytes of each shard that was read.
    """
    findings: list[Finding] = []
    head = _head(folder, findings)
    recipe = head["recipe"] if head else None
    layers = (
        {name: row_width(width, recipe["view"]) for name, width in recipe["layers"]}
        if recipe
        else {}
    )
    if (path := folder / f"{CERTIFICATE}.json").exists():
        _json(path, checked_certificate, findings)
    jobs = _jobs(folder, findings)
    of_shard = {name: job for job in jobs for name in job.shard_names()}
    indexes: dict[str, dict[str, Any]] = {}
    stray: list[Finding] = []
    n_bytes = 0
    for name in [*of_shard, *sorted(_shard_names(folder) - of_shard.keys())]:
        job = of_shard.get(name)
        index = _shard(folder, name, recipe, layers, job, findings if job else stray)
        if index is not None:
            indexes[name] = index
            n_bytes += index["bytes"]
            tick(index["bytes"])
    strays = _strays(folder, indexes, of_shard, stray)
    no_wonder = any(item.file.startswith("plan-") or item.unread for item in findings)
    findings += [replace(item, damage=item.damage and not no_wonder) for item in strays]
    aside = files_aside(folder)
    for job in jobs:
        findings += _job(folder, job, indexes, aside, recipe["view"] if recipe else "")
    findings += _leftovers(folder)
    missing = [name for name in of_shard if not (folder / f"{name}.json").exists()]
    if missing:
        text = f"planned and missing, {len(missing)} of {len(of_shard)} shards; `probe extract` writes them"
        findings.append(Finding(f"{missing[0]}.h5", text, damage=False))
    findings = sorted(_merged(findings), key=lambda item: (-item.rank, item.file))
    return Verification(folder, len(indexes), n_bytes, tuple(jobs), tuple(findings), head)


def _head(folder: Path, findings: list[Finding]) -> dict[str, Any] | None:
    """``recipe.json``, or None with a finding."""
    path = folder / "recipe.json"
    try:
        head = checked_head(read_json(path), path)
        if sha256_of_json(head["recipe"]) != head["sha256"]:
            raise ProbeError("the recipe does not have the sha256 that stands beside it")
        return head
    except UnreadError as error:
        findings.append(_not_read(error, path))
    except ProbeError as error:
        findings.append(Finding(path.name, f"{_short(error, path)}. {HEAD_ADVICE}"))
    return None


def _json(
    path: Path,
    check: Callable[[dict[str, Any], Path], Any],
    findings: list[Finding],
    job: int | None = None,
) -> Any:
    """A JSON file that passes a check, or None with a finding."""
    try:
        return check(read_json(path), path)
    except UnreadError as error:
        findings.append(_not_read(error, path))
    except ProbeError as error:
        findings.append(Finding(path.name, _short(error, path), job=job))
    return None


def _not_read(error: UnreadError, path: Path) -> Finding:
    """The finding of a file that cannot be read for a reason that is not in the file."""
    return Finding(path.name, _short(error, path), damage=False, unread=True)


def _short(error: ProbeError, path: Path) -> str:
    """An error without the name of its file and without advice that verifying replaces."""
    text = str(error).removeprefix(f"{path}: ").removeprefix(f"{path.parent}: ")
    return re.sub(
        r"\.( Remove it and run.*| This is not what.*| This says nothing.*| Extract again\.)?$",
        "",
        text,
    )


def _jobs(folder: Path, findings: list[Finding]) -> list[Job]:
    """The jobs of all plans that can be read; of jobs with one number, the first."""
    jobs: list[Job] = []
    for path in files_named(folder, "plan-*.json"):
        entries = _json(path, checked_jobs, findings) or []
        fresh = [Job(item["number"], tuple(item["keys"]), item["parts"]) for item in entries]
        try:
            check_numbers([(job.number, job.parts) for job in [*jobs, *fresh]], folder)
            jobs += fresh
        except ProbeError as error:
            findings.append(Finding(path.name, _short(error, path)))
    return jobs


def _shard(
    folder: Path,
    name: str,
    recipe: Mapping[str, Any] | None,
    layers: Mapping[str, int],
    job: Job | None,
    findings: list[Finding],
) -> dict[str, Any] | None:
    """The index of a shard, which was read whole; None where there is none that can be used."""
    path, number = folder / f"{name}.json", job.number if job else None
    if not path.exists():
        if (folder / f"{name}.h5").exists():
            text = "has no index and counts for nothing; a run wrote it and was interrupted, or is writing"
            findings.append(Finding(f"{name}.h5", text, damage=False))
        return None
    index = _json(
        path, lambda value, where: checked_index(value, where, layers or None), findings, number
    )
    if index is None:
        return None
    shard = folder / f"{name}.h5"
    try:
        if index["bytes"] and (problems := shard_problems(shard, index, recipe, layers)):
            findings.append(Finding(shard.name, "; ".join(problems), job=number))
    except UnreadError as error:
        findings.append(_not_read(error, shard))
    return index


def _shard_names(folder: Path) -> set[str]:
    """Names of all shards of which there is any file."""
    return {match[1] for path in folder.iterdir() if (match := SHARD_FILE.fullmatch(path.name))}


def _strays(
    folder: Path,
    indexes: Mapping[str, dict[str, Any]],
    planned: Container[str],
    found: list[Finding],
) -> Iterator[Finding]:
    """What is to be said of shards that no plan names: a plan is missing where nothing else holds
    what they hold.

    Args:
        found: what is wrong with them; nothing reads them, so none of it is damage.
    """
    text = "no plan that can be read names this shard, so nothing reads it"
    for item in found:
        yield replace(
            item, problem=f"{item.problem}; {text}" if item.damage else item.problem, damage=False
        )
    strays = [name for name in indexes if name not in planned]
    if not strays:
        return

    def held(names: Iterable[str]) -> set[tuple[str, str]]:
        return {
            (item["key"], item["audio_sha256"])
            for name in names
            for item in indexes[name]["utterances"]
        }

    only_there = held(strays) - held(indexes.keys() - strays)
    numbers = (f"plan-{number:05d}.json" for number in itertools.count())
    plan = next(name for name in numbers if not (folder / name).exists())
    yield Finding(
        plan, f"missing: {listed(strays)} are in no plan that can be read", damage=bool(only_there)
    )


def _job(
    folder: Path, job: Job, indexes: Mapping[str, dict[str, Any]], aside: Container[str], view: str
) -> Iterator[Finding]:
    """What is wrong with the parts of a job together."""
    names = job.shard_names()
    parts = [indexes[name] for name in names if name in indexes]
    for part in parts:
        keys = [item["key"] for entries in ("utterances", "failures") for item in part[entries]]
        if sorted(keys) != sorted(job.keys):
            text = f"holds {len(keys)} utterances or failures that are not the {len(job.keys)} of its plan"
            yield Finding(f"{part['shard']}.json", text, job=job.number)
            return
    if lacking := [
        name for name in names if name in aside and not (folder / f"{name}.json").exists()
    ]:
        yield Finding(
            f"{lacking[0]}.h5", "set aside by a repair that did not bring it back", job=job.number
        )
    if len(parts) != job.parts:
        return
    audio = [[item["audio_sha256"] for item in part["utterances"]] for part in parts]
    if any(other != audio[0] for other in audio):
        yield Finding(
            f"{names[0]}.json",
            "its parts come from different audio; not used until extracted again",
            damage=False,
        )
        return
    for position, item in enumerate(parts[0]["utterances"]):
        for layer, n_frames in {
            "": item["n_frames"],
            **{name: n for name, (n, _) in item.get("others", {}).items()},
        }.items():
            rows = sum(rows_in(part["utterances"][position], layer) for part in parts)
            expected = n_rows(n_frames, view) if view else rows
            if rows != expected:
                of = f" of layer {layer}" if layer else ""
                yield Finding(
                    f"{names[0]}.json",
                    f"{item['key']} has {rows} rows{of}; expected {expected}",
                    job=job.number,
                )
                return


def _leftovers(folder: Path) -> Iterator[Finding]:
    """Files that no reader looks at."""
    for path in sorted(folder.iterdir()):
        if re.fullmatch(r"\..*\.tmp", path.name):
            yield Finding(
                path.name,
                "temporary file of a run that was killed or is writing; nothing reads it",
                damage=False,
            )
        elif path.name.endswith(ASIDE):
            yield Finding(
                path.name,
                "set aside by a repair; remove it once nothing in it is missed",
                damage=False,
            )


def _merged(findings: list[Finding]) -> list[Finding]:
    """One finding a file; the graver hides the others."""
    merged: dict[str, Finding] = {}
    for item in findings:
        known = merged.get(item.file)
        if known is None or item.rank > known.rank:
            merged[item.file] = item
        elif item.rank == known.rank and item.problem not in known.problem:
            job = item.job if known.job is None else known.job
            merged[item.file] = replace(known, problem=f"{known.problem}; {item.problem}", job=job)
    return list(merged.values())
