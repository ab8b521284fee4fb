"""Rows of utterances -> shards: gathered, handed to the writer, counted."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from probe.data.audio import Audio
from probe.data.corpus import Utterance
from probe.data.sound_flags import DAMAGED
from probe.errors import listed
from probe.extraction.forward import Piece
from probe.store.feature_store import Failure, FeatureStore, Job
from probe.store.shards import ShardContent, half_if_faithful
from probe.store.views import n_rows

log = logging.getLogger("probe")


@dataclass
class Tally:
    """What happened to the utterances of a run.

    Attributes:
        resampled: rate in Hz -> utterances that had it and not the model's.
        flagged: what is unusual about the sound -> utterances.
    """

    bar: tqdm
    rate_hz: int
    failures: list[Failure] = field(default_factory=list)
    resampled: Counter[int] = field(default_factory=Counter)
    flagged: Counter[str] = field(default_factory=Counter)
    _shown_s: float = 0.0  # of the present utterance
    _alike: dict[str, list[str]] = field(default_factory=dict)  # reason but for its numbers -> keys

    def add(self, key: str, sound: Audio) -> None:
        """An utterance that was extracted."""
        self.flagged.update(sound.flags)
        if DAMAGED in sound.flags:  # libmpg123 says so too, but not of which file
            log.warning(
                "%s: damaged frames in the middle, which the decoder skips; fetch the file again",
                key,
            )
        if sound.native_rate_hz != self.rate_hz:
            self.resampled[sound.native_rate_hz] += 1
        self._advance(sound.duration_s)

    def fail(self, failure: Failure) -> None:
        """An utterance that could not be; of reasons that differ in numbers alone the first is
        logged, the rest counted.
        """
        alike = self._alike.setdefault(
            re.sub(r"\d+", "0", failure.reason.replace(failure.key, "")), []
        )
        if not alike:
            log.warning("%s: %s", failure.key, failure.reason)
        alike.append(failure.key)
        self.failures.append(failure)
        self.bar.set_postfix(failed=len(self.failures))
        self._advance(failure.promised_s or 0.0)

    def reached(self, seconds: float) -> None:
        """So much of the present utterance is there."""
        self.bar.update(min(seconds - self._shown_s, max(0.0, self.bar.total - self.bar.n)))
        self._shown_s = seconds

    def _advance(self, seconds: float) -> None:
        self.reached(seconds)
        self._shown_s = 0.0

    def report(self, where: Path) -> None:
        """Says what was unusual."""
        for first, *others in self._alike.values():
            if others:
                log.warning(
                    "%d more utterances failed for the same reason as %s: %s",
                    len(others),
                    first,
                    listed(others),
                )
        for rate_hz, n in sorted(self.resampled.items()):
            lost = f"; nothing above {rate_hz // 2} Hz is in them" if rate_hz < self.rate_hz else ""
            log.info("%d utterances resampled from %d to %d Hz%s", n, rate_hz, self.rate_hz, lost)
        if self.flagged:
            counts = ", ".join(f"{flag} {n}" for flag, n in sorted(self.flagged.items()))
            log.info(
                "%s: unusual sound, extracted nevertheless: %s (`probe show` names them)",
                where,
                counts,
            )


@dataclass(frozen=True)
class Extracted:
    """An utterance, or a part of a long one; rows as in `Piece`."""

    utterance: Utterance
    sound: Audio
    n_frames: Sequence[int]
    rows: Sequence[np.ndarray]
    text: str = ""


@dataclass(frozen=True)
class Shards:
    """Where shards go.

    Attributes:
        write: has something done, see `probe.extraction.write_behind.Writer`.
        columns: of the manifest.
    """

    store: FeatureStore
    write: Callable[[Callable[[], Any]], None]
    columns: Sequence[str]
    layers: Sequence[str]
    environment: Mapping[str, Any]

    def put(
        self,
        name: str,
        done: Sequence[Extracted],
        failures: Sequence[Failure],
        part: tuple[int, int] = (0, 1),
    ) -> None:
        """Has a shard written."""
        ctc = "ctc" in self.store.recipe
        grids = self.store.recipe["model"].get("grids", {})
        others = [
            number
            for number, layer in enumerate(self.layers)
            if grids.get(layer) != grids.get(self.layers[0])
        ]
        content = ShardContent(
            keys=[item.utterance.key for item in done],
            audio_sha256=[item.sound.sha256 for item in done],
            frames={
                layer: [item.rows[number] for item in done]
                for number, layer in enumerate(self.layers)
            },
            scales={
                layer: [item.rows[number] for item in done]
                for number, layer in enumerate(self.layers, start=len(self.layers))
                if self.store.recipe["dtype"] == "int8"
            },
            columns={
                column: [item.utterance.label(column) for item in done] for column in self.columns
            },
            recipe=self.store.recipe,
            environment=self.environment,
            part=part,
            ctc_texts=[item.text for item in done] if ctc else None,
        )
        index = [
            {
                "key": item.utterance.key,
                "audio_sha256": item.sound.sha256,
                "audio_bytes": item.sound.file_bytes,
                "audio_mtime_ns": item.sound.mtime_ns,
                "duration_s": item.sound.duration_s,
                "native_rate_hz": item.sound.native_rate_hz,
                "flags": list(item.sound.flags),
                "n_frames": item.n_frames[0],
                "rows": len(item.rows[0]),
            }
            | (
                {"others": {self.layers[i]: [item.n_frames[i], len(item.rows[i])] for i in others}}
                if others
                else {}
            )
            | ({"ctc_text": item.text} if ctc else {})
            for item in done
        ]
        self.write(lambda: self.store.write_shard(name, content, index, failures))


def write_job(shards: Shards, job: Job, pieces: Iterator[Piece | Failure], tally: Tally) -> None:
    """Takes the pieces of a job's utterances and has its shards written; a long utterance's parts
    as soon as each is there.
    """
    if job.parts > 1:
        _write_long(shards, job, pieces, tally)
        return
    done: list[Extracted] = []
    failures: list[Failure] = []
    for _ in job.keys:
        found = _gathered(pieces, shards.store.view, tally)
        if isinstance(found, Failure):
            tally.fail(found)
            failures.append(found)
        else:
            tally.add(found.utterance.key, found.sound)
            done.append(found)
    shards.put(job.shard_names()[0], done, failures)


def _gathered(pieces: Iterator[Piece | Failure], view: str, tally: Tally) -> Extracted | Failure:
    """The next utterance, whole."""
    rows: list[list[np.ndarray]] = []
    while isinstance(piece := next(pieces), Piece):
        rows.append(piece.rows)
        if piece.last:
            return Extracted(
                piece.utterance, piece.sound, piece.n_frames, _joined(rows), piece.text
            )
        tally.reached(
            piece.sound.duration_s
            * sum(len(item[0]) for item in rows)
            / n_rows(piece.n_frames[0], view)
        )
    return piece


def _joined(rows: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Pieces of (row, dim) per layer, one after the other."""
    return [
        np.concatenate(of_layer) if len(of_layer) > 1 else of_layer[0]
        for of_layer in zip(*rows, strict=True)
    ]


def _write_long(shards: Shards, job: Job, pieces: Iterator[Piece | Failure], tally: Tally) -> None:
    """One utterance over several shards, each as soon as its rows are there; the model's transcript
    goes with the last.
    """
    names, view = job.shard_names(), shards.store.view
    held: list[
        list[np.ndarray]
    ] = []  # of each layer, pieces of rows that are not in a part yet; `stop` of its first are there
    part = stop = 0
    while isinstance(piece := next(pieces), Piece):
        held = held or [[] for _ in piece.rows]
        for of_layer, rows in zip(held, piece.rows, strict=True):
            of_layer.append(rows)
        stop += len(piece.rows[0])
        totals = [n_rows(count, view) for count in piece.n_frames] * (
            len(held) // len(piece.n_frames)
        )  # of scales too
        total = totals[0]
        while part < job.parts - (not piece.last) and (part + 1) * total // job.parts <= stop:
            sizes = [(part + 1) * own // job.parts - part * own // job.parts for own in totals]
            cut = [
                _cut(of_layer, size, shards.store.recipe["dtype"])
                for of_layer, size in zip(held, sizes, strict=True)
            ]
            text = piece.text if part == job.parts - 1 else ""
            shards.put(
                names[part],
                [Extracted(piece.utterance, piece.sound, piece.n_frames, cut, text)],
                [],
                (part, job.parts),
            )
            del cut
            part += 1
        if piece.last:
            tally.add(piece.utterance.key, piece.sound)
            return
        tally.reached(piece.sound.duration_s * stop / total)
    tally.fail(piece)
    for number, name in enumerate(names):  # those that were written before it failed too
        shards.put(name, [], [piece], (number, job.parts))


def _cut(pieces: list[np.ndarray], n_rows: int, dtype: str) -> np.ndarray:
    """The first rows of a layer's pieces, which keep the others; in the form that the shard
    decides, as that may be half the size.
    """
    whole = np.concatenate(pieces)
    pieces[:] = [whole[n_rows:].copy()]
    return (
        half_if_faithful(whole[:n_rows])
        if dtype == "float16" and whole.dtype != np.float16
        else whole[:n_rows]
    )
