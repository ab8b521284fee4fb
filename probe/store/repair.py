"""What a repair does to files: sets damaged shards aside, rebuilds plans, and removes what it has
set aside once it is back.

The features themselves are extracted again by stage 1 (`probe.pipeline.repair` chains the two). A
damaged shard keeps its name with ``.damaged`` behind it until a sound one is in its place and holds
all that it held; so a crash anywhere loses nothing.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from probe.errors import ProbeError, UnreadError
from probe.files import files_named, read_json, write_json
from probe.store.feature_store import FeatureStore, Job
from probe.store.index_schema import FORMAT, checked_index
from probe.store.integrity import ASIDE, Verification, files_aside
from probe.store.safe_hdf5 import DAMAGE, TEXT, all_rows, opened, trusted_dataset


def jobs_to_repair(found: Verification) -> list[Job]:
    """Jobs with damage, and those of an earlier repair that was interrupted."""
    damaged = {item.job for item in found.damage}
    aside = files_aside(found.store)
    return [
        job
        for job in found.jobs
        if job.number in damaged or any(name in aside for name in job.shard_names())
    ]


def is_back(found: Verification, job: Job) -> bool:
    """Whether nothing is wrong with a job but files that were set aside."""
    whole = all((found.store / f"{name}.json").exists() for name in job.shard_names())
    return whole and all(item.job != job.number for item in found.damage)


def held(folder: Path, job: Job) -> set[tuple[str, str]] | None:
    """(key, sha256 of the audio) of all that a job's shards hold or held; None where no file of
    them tells.

    Raises:
        UnreadError: the operating system does not let one of them be read.
    """
    told = False
    aside = files_aside(folder)
    found: set[tuple[str, str]] = set()
    for name in job.shard_names():
        files = [folder / f"{name}.json", folder / f"{name}.h5", *aside.get(name, [])]
        contents = [
            item for path in files if path.is_file() and (item := _held_by(path, name)) is not None
        ]
        told = (
            told
            or bool(contents)
            or not any(".h5" in path.suffixes and path.is_file() for path in files)
        )
        found.update(*contents)
    return found if told else None


def _held_by(path: Path, name: str) -> set[tuple[str, str]] | None:
    """What one index or shard holds; None where it cannot be read."""
    try:
        if ".h5" not in path.suffixes:
            index = checked_index(read_json(path), path.with_name(f"{name}.json"), None)
            return {(item["key"], item["audio_sha256"]) for item in index["utterances"]}
        with opened(path) as file:
            keys = all_rows(trusted_dataset(file, "keys", path, [TEXT]))
            audio = all_rows(trusted_dataset(file, "audio_sha256", path, [TEXT], keys.shape))
            return {
                (key.decode(), sha256.decode())
                for key, sha256 in zip(np.ravel(keys), np.ravel(audio), strict=True)
            }
    except UnreadError:
        raise
    except (ProbeError, *DAMAGE):
        return None


def set_aside(folder: Path, name: str) -> None:
    """Renames a shard's files, or the one of that name; the index first, so that the shard counts
    as not extracted yet.
    """
    for path in (folder / f"{name}.json", folder / f"{name}.h5"):
        if path.exists():
            aside, number = path.with_name(path.name + ASIDE), 1
            while aside.exists():  # from an earlier repair that was interrupted
                number += 1
                aside = path.with_name(f"{path.name}.{number}{ASIDE}")
            path.rename(aside)


def remove_aside(folder: Path, name: str) -> None:
    """Removes what was set aside; an index last, because it tells what its shard holds."""
    for path in reversed(files_aside(folder).get(name, [])):
        if not path.is_dir():  # somebody else's
            path.unlink()


def lost(folder: Path, job: Job) -> list[str]:
    """Keys of what a job's files set aside hold and the store does not; all keys where nobody can
    tell what they hold.
    """
    store = FeatureStore(folder)
    before = held(folder, job)
    if before is None:
        return [key for key in job.keys if key not in store.utterances]
    there = {
        (item.key, item.audio_sha256) for versions in store.utterances.values() for item in versions
    }
    return sorted({key for key, _ in before - there})


def rebuild_plans(found: Verification, order: Sequence[str]) -> list[str]:
    """Writes plans that are damaged or gone anew, from the indexes of their shards; returns their
    names without ending.

    Jobs without a shard are in no plan then; the next extraction plans them anew.

    Args:
        order: keys in the manifest's order, which is how failed utterances stood among the others.
    """
    rank = {key: position for position, key in enumerate(order)}
    damaged = {item.file for item in found.damage}
    if not any(name.startswith("plan-") for name in damaged):
        return []
    known = {job.number for job in found.jobs}
    numbers = {
        int(match[1])
        for path in files_named(found.store, "shard-*.json")
        if (match := re.match(r"shard-(\d{5,})\.", path.name))
    }
    last = max(
        (int(path.stem.removeprefix("plan-")) for path in files_named(found.store, "plan-*.json")),
        default=-1,
    )
    rebuilt: list[str] = []
    for name in [f"plan-{number:05d}" for number in range(last + 2)]:
        path = found.store / f"{name}.json"
        if path.exists() and path.name not in damaged:
            continue
        before, after = _neighbours(path)
        first = max(_numbers(before), default=-1) + 1
        stop = min(_numbers(after), default=max(numbers, default=-1) + 1)
        jobs = [
            _job(found.store, number, rank)
            for number in sorted(numbers - known)
            if first <= number < stop
        ]
        entries = [asdict(job) for job in jobs if job is not None]
        if entries or path.exists():
            set_aside(found.store, name)
            write_json(path, {"format": FORMAT, "jobs": entries})
            rebuilt.append(name)
            known |= {item["number"] for item in entries}
    return rebuilt


def _neighbours(path: Path) -> tuple[list[Path], list[Path]]:
    """The plans before and after a plan."""
    plans = files_named(path.parent, "plan-*.json")
    return [item for item in plans if item.name < path.name], [
        item for item in plans if item.name > path.name
    ]


def _numbers(plans: list[Path]) -> list[int]:
    """Numbers of all jobs of those plans that can be read."""
    numbers: list[int] = []
    for path in plans:
        try:
            numbers += [job["number"] for job in read_json(path)["jobs"]]
        except (ProbeError, KeyError, TypeError):
            continue
    return numbers


def _job(folder: Path, number: int, order: Mapping[str, int]) -> Job | None:
    """The job that became these shards; None where no index of them can be read."""
    for path in files_named(folder, f"shard-{number:05d}*.json"):
        try:
            index = checked_index(read_json(path), path, None)
        except ProbeError:
            continue
        keys = [item["key"] for entries in ("utterances", "failures") for item in index[entries]]
        if index["failures"]:
            keys.sort(key=lambda key: order.get(key, len(order)))
        return Job(number, tuple(keys), index["part"][1])
    return None
