"""Which utterances go into which shards, and what that costs.

A plan is made once for the utterances that no earlier plan covers, in manifest order, and stored. A
run that was interrupted finishes its plan, so its shards are the ones an uninterrupted run would
have written.
"""

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np

from probe.brief import brief, counted, human_bytes
from probe.data.audio import header_duration_s
from probe.data.corpus import Corpus, Utterance
from probe.data.excerpts import Excerpt
from probe.extraction.settings import SHARD_BYTES, VALUE_BYTES, Content
from probe.files import UNLIMITED, free_bytes
from probe.models.encoder import Encoder
from probe.models.frames import FrameGrid
from probe.store.feature_store import Failure, FeatureStore, Job
from probe.store.views import VIEWS, n_rows, row_width

# Pooled views are small; this bounds what an interruption loses, in seconds of audio that the model
# computes.
SHARD_AUDIO_S = 600.0
UNKNOWN_DURATION_S = 10.0
BLOCK = 1 << 16  # utterances whose numbers are Python's at a time
# An utterance's entry in an index, its key and the manifest's columns aside; a shard's recipe,
# environment and structure.
INDEX_BYTES = 430
SHARD_HEAD_BYTES = 16_000


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
        n_frames: frames they will give in the first layer.
        n_bytes: estimated size of the shards to come.
        free_bytes: room on the disk; `UNLIMITED` on object storage.
        choices: (view, dtype, number of layers) -> about how many bytes that would take, largest
            first.
    """

    present: int
    failed: list[Failure]
    todo: list[Utterance]
    pending: list[Job]
    fresh: list[tuple[tuple[str, ...], int]]
    audio_s: float
    n_frames: int
    n_bytes: int
    free_bytes: int
    choices: Mapping[tuple[str, str, int], int]

    def __repr__(self) -> str:
        todo = f"{counted(len(self.todo), 'utterance')} to extract, {human_bytes(self.n_bytes)}"
        return brief(
            self, todo, f"{self.present} present before", f"{len(self.failed)} failed before"
        )

    def describe(self) -> str:
        """One line for people."""
        state = (
            f"{len(self.todo)} utterances to extract ({self.audio_s / 3600:.2f} h of audio, "
            f"{self.n_frames} frames, about {human_bytes(self.n_bytes)})"
        )
        present = f", {self.present} there already" if self.present else ""
        failed = f", {len(self.failed)} failed before" if self.failed else ""
        free = "" if self.free_bytes == UNLIMITED else f"; {human_bytes(self.free_bytes)} free"
        return f"{state}{present}{failed}{free}"

    def describe_choices(self, most_bytes: float | None = None) -> list[str]:
        """Other choices with their sizes, largest first: those with all layers, or those of at most
        ``most_bytes``.
        """
        n_layers = max(n for *_, n in self.choices)
        lines = []
        for (view, dtype, n), size in self.choices.items():
            if n == n_layers if most_bytes is None else size <= most_bytes:
                fewer = "" if n == n_layers else f", {n} of the {n_layers} layers"
                lines.append(f"--view {view} --dtype {dtype}{fewer}: {human_bytes(size)}")
        return lines


def make_plan(
    corpus: Corpus,
    encoder: Encoder,
    content: Content,
    store: FeatureStore | None,
    root: Path,
    header_duration_s: Callable[[Path, Excerpt], float | None] = header_duration_s,
    stretch: float = 1.0,
) -> Plan:
    """What is missing of ``corpus`` in ``store`` (None: a store that does not exist yet).

    Args:
        header_duration_s: asks a file's header how long an excerpt of it is.
        stretch: how many times as long a condition makes the audio.
    """
    layers, view, dtype = content.layers, content.view, content.dtype
    todo, failed, present = _sorted_out(corpus, store)
    pending = _pending(store, todo)
    seconds = np.fromiter(
        (_seconds(item, header_duration_s) for item in todo), np.float64, len(todo)
    )
    n_samples = (seconds * stretch * encoder.info.rate_hz).astype(np.int64)
    # Millions of utterances have some thousand different lengths.
    lengths, repeats = np.unique(n_samples, return_counts=True)
    of_length = _places(lengths, n_samples)
    total_samples = int(n_samples.sum())
    del n_samples
    counts = lengths.tolist()
    frames = np.array([encoder.info.n_frames(count, layers[0]) for count in counts], np.int64)
    stored = [stored_values(encoder, layers, view, count) for count in counts]
    sizes = np.array(stored, np.int64)
    computed_s = _computed_s(encoder, seconds, counts, of_length)
    planned = {key for job in pending for key in job.keys}
    fresh = _pack(todo, planned, computed_s, sizes, of_length)
    entries = _entry_bytes(corpus, todo, len(layers)) + SHARD_HEAD_BYTES * (
        len(pending) + len(fresh)
    )
    n_bytes = entries + VALUE_BYTES[dtype] * int(sizes @ repeats)
    if dtype == "int8":
        rows = np.array([stored_rows(encoder, layers, view, count) for count in counts], np.int64)
        n_bytes += 4 * int(rows @ repeats)
    choices = _choices(encoder, layers, len(todo), total_samples, entries)
    return Plan(
        present,
        failed,
        todo,
        pending,
        fresh,
        sum(itertools.chain.from_iterable(map(np.ndarray.tolist, np.array_split(seconds, 100)))),
        int(frames @ repeats),
        n_bytes,
        free_bytes(root),
        choices,
    )


def _sorted_out(
    corpus: Corpus, store: FeatureStore | None
) -> tuple[list[Utterance], list[Failure], int]:
    """(utterances to extract, failures that are not tried again, number of those that are there)"""
    if store is None or not (store.utterances or store.failures):
        return list(corpus.utterances), [], 0
    todo: list[Utterance] = []
    failed: list[Failure] = []
    present = 0
    for utterance in corpus.utterances:
        place = (utterance.key, utterance.path, str(utterance.excerpt))
        if store.match(*place, utterance.audio_sha256):
            present += 1
        elif (failure := store.failure(*place)) and not _worth_a_try(failure, utterance):
            failed.append(failure)
        else:
            todo.append(utterance)
    return todo, failed, present


def _pending(store: FeatureStore | None, todo: Sequence[Utterance]) -> list[Job]:
    """The jobs of earlier plans that hold only utterances to extract."""
    unfinished = [job for job in store.jobs if job.number not in store.complete] if store else []
    rest = {item.key for item in todo} if unfinished else set()
    pending: list[Job] = []
    for job in unfinished:
        if rest.issuperset(job.keys):
            pending.append(job)
            rest.difference_update(job.keys)
    return pending


def _seconds(
    utterance: Utterance, header_duration_s: Callable[[Path, Excerpt], float | None]
) -> float:
    """Seconds to plan for: the manifest's, but the header's where those are missing or too many
    (samples, milliseconds).
    """
    promised = utterance.excerpt.duration_s or utterance.duration_s
    return (
        promised
        if promised and promised <= SHARD_AUDIO_S
        else header_duration_s(utterance.path, utterance.excerpt) or UNKNOWN_DURATION_S
    )


def _computed_s(
    encoder: Encoder, seconds: np.ndarray, counts: Sequence[int], of_length: np.ndarray
) -> np.ndarray:
    """(utterance,) seconds of audio that the model computes for each: its own, or more where the
    model pads every input.

    An encoder that pads its inputs has a method ``padded_samples(n_samples)``, which is a pure
    function.

    Args:
        seconds: (utterance,) of their own.
        counts: the different numbers of samples.
        of_length: (utterance,) positions in ``counts``.
    """
    padded_samples = getattr(encoder, "padded_samples", None)
    if padded_samples is None:
        return seconds
    padded = [padded_samples(count) / encoder.info.rate_hz for count in counts]
    return np.array(padded, np.float64)[of_length]


def _worth_a_try(failure: Failure, utterance: Utterance) -> bool:
    """Whether a failure may have gone although the audio is the same."""
    return failure.unreadable or failure.promised_s != utterance.duration_s


def stored_values(encoder: Encoder, layers: Sequence[str], view: str, n_samples: int) -> int:
    """Numbers that the layers of an utterance's view hold."""
    return sum(
        n_rows(grid.n_frames(n_samples), view) * sum(row_width(width, view) for width in widths)
        for grid, widths in _widths(encoder, tuple(layers)).items()
    )


def stored_rows(encoder: Encoder, layers: Sequence[str], view: str, n_samples: int) -> int:
    """Rows of an utterance's view in all layers together."""
    return sum(
        n_rows(grid.n_frames(n_samples), view) * len(widths)
        for grid, widths in _widths(encoder, tuple(layers)).items()
    )


def _widths(encoder: Encoder, layers: Sequence[str]) -> dict[FrameGrid, list[int]]:
    """The widths of the layers that have the same frames."""
    info, grids = encoder.info, dict[FrameGrid, list[int]]()
    every_layer = info.every_layer
    for name in layers:
        grids.setdefault(info.other_grids.get(name, info.grid), []).append(every_layer[name])
    return grids


def _entry_bytes(corpus: Corpus, todo: Sequence[Utterance], n_layers: int) -> int:
    """About what is stored of utterances besides values, in shards (texts in columns as wide as the
    longest) and in indexes.
    """
    texts = [
        map(attrgetter(column), todo)
        if column in ("text", "speaker", "domain", "split")
        else (item.label(column) for item in todo)
        for column in corpus.columns
    ]
    widths = [max(map(len, map(str.encode, column)), default=0) for column in texts]
    longest_key = max((len(item.key.encode()) for item in todo), default=0)
    return len(todo) * (sum(widths) + 2 * longest_key + 64 + 8 * n_layers + INDEX_BYTES)


def _choices(
    encoder: Encoder, layers: Sequence[str], n_utterances: int, n_samples: int, entries: int
) -> dict[tuple[str, str, int], int]:
    """`Plan.choices`: with all layers that were asked for, or every fourth of them; ``entries``
    bytes are the same in all.
    """
    fewer = layers[:: 4 if len(layers) > 4 else 1]
    mean_samples = -(-n_samples // max(1, n_utterances))
    sizes = {}
    for view in VIEWS:
        for dtype in VALUE_BYTES if view.startswith("frames") else ["float16"]:
            for chosen in (layers, fewer):
                n_values = n_utterances * stored_values(encoder, chosen, view, mean_samples)
                scales = (
                    4 * n_utterances * stored_rows(encoder, chosen, view, mean_samples)
                    if dtype == "int8"
                    else 0
                )
                sizes[view, dtype, len(chosen)] = entries + VALUE_BYTES[dtype] * n_values + scales
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def _places(lengths: np.ndarray, n_samples: np.ndarray) -> np.ndarray:
    """(utterance,) int32 position of each number of samples in ``lengths``; the inverse of
    `numpy.unique` would take 40 bytes for each.
    """
    places = np.empty(len(n_samples), np.int32)
    for start in range(0, len(n_samples), BLOCK):
        block = slice(start, start + BLOCK)
        places[block] = np.searchsorted(lengths, n_samples[block])
    return places


def _pack(
    todo: Sequence[Utterance],
    planned: Collection[str],
    computed_s: np.ndarray,
    sizes: np.ndarray,
    of_length: np.ndarray,
) -> list[tuple[tuple[str, ...], int]]:
    """Cuts the sequence into jobs of at most `SHARD_BYTES` (as float32, the worst case) and
    `SHARD_AUDIO_S` of computing.

    Args:
        planned: keys that are left out.
        computed_s: (utterance,) of each.
        sizes: (length,) values of an utterance of each length.
        of_length: (utterance,) positions in ``sizes``.
    """
    jobs: list[tuple[tuple[str, ...], int]] = []
    current: list[str] = []
    n_bytes, audio_s = 0, 0.0
    for start in range(0, len(todo), BLOCK):
        block = slice(start, start + BLOCK)
        items = zip(
            todo[block],
            (4 * sizes[of_length[block]]).tolist(),
            computed_s[block].tolist(),
            strict=True,
        )
        for utterance, size, seconds in items:
            key = utterance.key
            if key in planned:
                continue
            if current and (n_bytes + size > SHARD_BYTES or audio_s + seconds > SHARD_AUDIO_S):
                jobs.append((tuple(current), 1))
                current, n_bytes, audio_s = [], 0, 0.0
            if size > SHARD_BYTES:
                jobs.append(((key,), math.ceil(size / SHARD_BYTES)))
            else:
                current.append(key)
                n_bytes += size
                audio_s += seconds
    if current:
        jobs.append((tuple(current), 1))
    return jobs
