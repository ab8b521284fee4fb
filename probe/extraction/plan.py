"""Which utterances go into which shards, and what that costs.

A plan is made once for the utterances that no earlier plan covers, in manifest order, and stored. A run that was interrupted
finishes its plan, so its shards are the ones an uninterrupted run would have written.
"""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from probe.data.audio import header_duration_s
from probe.data.corpus import Corpus, Utterance
from probe.models.encoder import Encoder
from probe.store.features import Failure, FeatureStore, Job

SHARD_BYTES = 256_000_000
# Pooled views are small; this bounds what an interruption loses.
SHARD_AUDIO_S = 600.0
UNKNOWN_DURATION_S = 10.0
VALUE_BYTES = 2


@dataclass(frozen=True)
class Plan:
    """What a run has to do.

    Attributes:
        present: utterances of the corpus that the store has.
        failed: recorded failures of the corpus that are not tried again.
        todo: utterances to extract.
        pending: jobs of an earlier, unfinished plan that will be finished.
        fresh: (keys, parts) of the jobs to plan anew.
        audio_s: seconds of audio to do, by the manifest or the files' headers (see `_seconds`).
        n_bytes: estimated size of the shards to come.
        free_bytes: room on the disk.
    """

    present: int
    failed: list[Failure]
    todo: list[Utterance]
    pending: list[Job]
    fresh: list[tuple[tuple[str, ...], int]]
    audio_s: float
    n_bytes: int
    free_bytes: int

    def describe(self) -> str:
        """One line for people."""
        state = (
            f"{len(self.todo)} utterances to extract ({self.audio_s / 3600:.2f} h of audio, about {human_bytes(self.n_bytes)})"
        )
        there = f", {self.present} there already" if self.present else ""
        failed = f", {len(self.failed)} failed before" if self.failed else ""
        return f"{state}{there}{failed}; {human_bytes(self.free_bytes)} free"


def make_plan(
    corpus: Corpus,
    encoder: Encoder,
    layers: Sequence[str],
    view: str,
    store: FeatureStore | None,
    root: Path,
    header_duration_s: Callable[[Path], float | None] = header_duration_s,
) -> Plan:
    """What is missing of ``corpus`` in ``store`` (None: a store that does not exist yet).

    Args:
        header_duration_s: asks a file's header how long it is.
    """
    todo: list[Utterance] = []
    failed: list[Failure] = []
    present = 0
    for utterance in corpus.utterances:
        if store and store.match(utterance.key, utterance.path):
            present += 1
        elif store and (failure := store.failure(utterance.key, utterance.path)) and not _worth_a_try(failure, utterance):
            failed.append(failure)
        else:
            todo.append(utterance)
    wanted = {utterance.key for utterance in todo}
    unfinished = [job for job in store.jobs if job.number not in store.complete] if store else []
    pending: list[Job] = []
    for job in unfinished:
        if wanted.issuperset(job.keys):
            pending.append(job)
            wanted.difference_update(job.keys)
    width = sum(encoder.info.layers[name] for name in layers)
    durations = {item.key: _seconds(item, header_duration_s) for item in todo}
    sizes = {key: utterance_values(encoder, view, width, seconds) for key, seconds in durations.items()}
    fresh = _pack([item.key for item in todo if item.key in wanted], durations, sizes)
    existing = next(folder for folder in [root, *root.absolute().parents] if folder.exists())
    n_bytes = VALUE_BYTES * sum(sizes.values())
    return Plan(present, failed, todo, pending, fresh, sum(durations.values()), n_bytes, shutil.disk_usage(existing).free)


def _seconds(utterance: Utterance, header_duration_s: Callable[[Path], float | None]) -> float:
    """Seconds to plan for: the manifest's, but the header's where those are missing or too many (samples, milliseconds)."""
    promised = utterance.duration_s
    return promised if promised and promised <= SHARD_AUDIO_S else header_duration_s(utterance.path) or UNKNOWN_DURATION_S


def _worth_a_try(failure: Failure, utterance: Utterance) -> bool:
    """Whether a failure may have gone although the audio is the same."""
    return failure.unreadable or failure.promised_s != utterance.duration_s


def utterance_values(encoder: Encoder, view: str, width: int, seconds: float) -> int:
    """Numbers that an utterance's view holds over all layers (``width`` is the sum of their widths)."""
    rows = {"mean": 1, "meanstd": 2}.get(view) or encoder.n_frames(int(seconds * encoder.info.rate_hz))
    return rows * width


def _pack(keys: Sequence[str], durations: dict[str, float], sizes: dict[str, int]) -> list[tuple[tuple[str, ...], int]]:
    """Cuts the sequence into jobs of at most `SHARD_BYTES` (as float32, the worst case) and `SHARD_AUDIO_S`."""
    jobs: list[tuple[tuple[str, ...], int]] = []
    current: list[str] = []
    n_bytes, audio_s = 0, 0.0
    for key in keys:
        size = 4 * sizes[key]
        if current and (n_bytes + size > SHARD_BYTES or audio_s + durations[key] > SHARD_AUDIO_S):
            jobs.append((tuple(current), 1))
            current, n_bytes, audio_s = [], 0, 0.0
        if size > SHARD_BYTES:
            jobs.append(((key,), math.ceil(size / SHARD_BYTES)))
        else:
            current.append(key)
            n_bytes += size
            audio_s += durations[key]
    if current:
        jobs.append((tuple(current), 1))
    return jobs


def human_bytes(n_bytes: float) -> str:
    """``n_bytes`` in the unit that suits it: 512 B, 3.1 MB, 2.40 GB."""
    for unit, size, digits in (("GB", 1e9, 2), ("MB", 1e6, 1), ("kB", 1e3, 0)):
        if n_bytes >= size:
            return f"{n_bytes / size:.{digits}f} {unit}"
    return f"{n_bytes:.0f} B"
