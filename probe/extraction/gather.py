"""Rows of utterances -> shards: gathered, handed to the writer, counted."""

import logging
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from probe.data.audio import Audio
from probe.data.sound_flags import DAMAGED
from probe.errors import listed
from probe.extraction.forward import Piece
from probe.store.claims import Claims
from probe.store.feature_store import Failure, FeatureStore, Job
from probe.store.shards import ShardContent, half_if_faithful
from probe.store.views import n_rows

log = logging.getLogger("probe")
PROGRESS = (
    "{desc}: {percentage:3.0f} %|{bar}| {n:.0f} of {total:.0f} s, {speed:.1f} x real time, "
    "{remaining} left{postfix}"
)


class Bar(tqdm):
    """Progress in seconds of audio."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, bar_format=PROGRESS, **keywords)

    @property
    def format_dict(self) -> dict[str, Any]:
        """The values that `PROGRESS` may name."""
        values = super().format_dict
        return values | {"speed": values["n"] / values["elapsed"] if values["elapsed"] else 0.0}


@dataclass
class Tally:
    """What happened to the utterances of a run.

    Attributes:
        extracted: number of utterances that were extracted.
        resampled: rate in Hz -> number of utterances with this rate, which is not the model's.
        flagged: what is unusual about the sound -> number of utterances.
    """

    bar: tqdm
    rate_hz: int
    extracted: int = 0
    failures: list[Failure] = field(default_factory=list)
    resampled: Counter[int] = field(default_factory=Counter)
    flagged: Counter[str] = field(default_factory=Counter)
    _reached_s: float = 0.0  # of the present utterance
    _alike: dict[str, list[str]] = field(default_factory=dict)  # reason without numbers -> keys

    def add(self, key: str, sound: Audio) -> None:
        """Count an utterance that was extracted."""
        self.extracted += 1
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
        """Count an utterance that failed; logs the first of the reasons that differ only in
        numbers.
        """
        reason = re.sub(r"\d+", "0", failure.reason.replace(failure.key, ""))
        alike = self._alike.setdefault(reason, [])
        if not alike:
            log.warning("%s: %s", failure.key, failure.reason)
        alike.append(failure.key)
        self.failures.append(failure)
        self.bar.set_postfix(failed=len(self.failures))
        self._advance(failure.promised_s or 0.0)

    def reached(self, seconds: float) -> None:
        """Show progress within the present utterance."""
        self.bar.update(min(seconds - self._reached_s, max(0.0, self.bar.total - self.bar.n)))
        self._reached_s = seconds

    def _advance(self, seconds: float) -> None:
        self.reached(seconds)
        self._reached_s = 0.0

    def report(self) -> None:
        """Log the failures that have the reason of another one."""
        for first, *others in self._alike.values():
            if others:
                log.warning(
                    "%d more utterances failed for the same reason as %s: %s",
                    len(others),
                    first,
                    listed(others),
                )


@dataclass(frozen=True)
class Shards:
    """Where shards go.

    Attributes:
        claims: of this run, which has claimed the jobs of the shards.
        write: hands work to the writer (`probe.extraction.write_behind.Writer`); by default it is
            done at once.
        columns: of the manifest.
    """

    store: FeatureStore
    claims: Claims
    columns: Sequence[str]
    layers: Sequence[str]
    environment: Mapping[str, Any]
    write: Callable[[Callable[[], Any]], object] = operator.call

    def put(
        self,
        name: str,
        pieces: Sequence[Piece],
        failures: Sequence[Failure],
        part: tuple[int, int] = (0, 1),
    ) -> None:
        """Have a shard written, of whole utterances or of a part of a long one."""
        has_ctc = "ctc" in self.store.recipe
        rows = [dict(zip(self.layers, item.rows, strict=False)) for item in pieces]
        scales: dict[str, list[np.ndarray]] = {}
        if self.store.recipe["dtype"] == "int8":
            for position, layer in enumerate(self.layers, start=len(self.layers)):
                scales[layer] = [item.rows[position] for item in pieces]
        decoders = sorted({item.sound.decoder for item in pieces} - {""})
        content = ShardContent(
            keys=[item.utterance.key for item in pieces],
            audio_sha256=[item.sound.sha256 for item in pieces],
            frames={layer: [of_layer[layer] for of_layer in rows] for layer in self.layers},
            scales=scales,
            columns={
                column: [item.utterance.label(column) for item in pieces] for column in self.columns
            },
            recipe=self.store.recipe,
            environment={**self.environment, **({"decoders": decoders} if decoders else {})},
            part=part,
            ctc_texts=[item.text for item in pieces] if has_ctc else None,
        )
        entries = [self._entry(item, has_ctc) for item in pieces]
        self.write(lambda: self._commit(name, content, entries, failures))

    def _commit(self, name: str, *written: Any) -> None:
        self.claims.require(name.partition(".")[0])  # of the job, without the number of a part
        self.store.write_shard(name, *written)

    def _entry(self, piece: Piece, has_ctc: bool) -> dict[str, Any]:
        """What the index says of an utterance."""
        sound = piece.sound
        entry: dict[str, Any] = {
            "key": piece.utterance.key,
            "audio_sha256": sound.sha256,
            "audio_bytes": sound.file_bytes,
            "audio_mtime_ns": sound.mtime_ns,
            "duration_s": sound.duration_s,
            "native_rate_hz": sound.native_rate_hz,
            "flags": list(sound.flags),
            "n_frames": piece.n_frames[0],
            "rows": len(piece.rows[0]),
        }
        grids = self.store.recipe["model"].get("grids", {})
        others = {
            layer: [piece.n_frames[position], len(piece.rows[position])]
            for position, layer in enumerate(self.layers)
            if grids.get(layer) != grids.get(self.layers[0])
        }
        entry |= {"others": others} if others else {}
        excerpt = str(piece.utterance.excerpt)
        entry |= {"excerpt": excerpt} if excerpt else {}
        return entry | ({"ctc_text": piece.text} if has_ctc else {})


def write_job(shards: Shards, job: Job, pieces: Iterator[Piece | Failure], tally: Tally) -> None:
    """Take the pieces of a job's utterances and have its shards written, each part of a long
    utterance as soon as its rows are complete; then the claim of the job is released.
    """
    _write_job(shards, job, pieces, tally)
    shards.write(partial(shards.claims.release, job.name))


def _write_job(shards: Shards, job: Job, pieces: Iterator[Piece | Failure], tally: Tally) -> None:
    if job.parts > 1:
        _write_long(shards, job, pieces, tally)
        return
    whole: list[Piece] = []
    failures: list[Failure] = []
    for _ in job.keys:
        utterance = _next_utterance(pieces, shards.store.view, tally)
        if isinstance(utterance, Failure):
            tally.fail(utterance)
            failures.append(utterance)
        else:
            tally.add(utterance.utterance.key, utterance.sound)
            whole.append(utterance)
    shards.put(job.shard_names()[0], whole, failures)


def _next_utterance(pieces: Iterator[Piece | Failure], view: str, tally: Tally) -> Piece | Failure:
    """The next utterance in one piece."""
    rows: list[list[np.ndarray]] = []
    while isinstance(piece := next(pieces), Piece):
        rows.append(piece.rows)
        if piece.last:
            joined = [
                np.concatenate(of_layer) if len(rows) > 1 else of_layer[0]
                for of_layer in zip(*rows, strict=True)
            ]
            return replace(piece, rows=joined)
        n_done = sum(len(item[0]) for item in rows)
        tally.reached(piece.sound.duration_s * n_done / n_rows(piece.n_frames[0], view))
    return piece


def _write_long(shards: Shards, job: Job, pieces: Iterator[Piece | Failure], tally: Tally) -> None:
    """Write one utterance over several shards; the model's transcript goes with the last."""
    names, view, dtype = job.shard_names(), shards.store.view, shards.store.recipe["dtype"]
    # Of each layer, pieces of rows that are not in a part yet; `stop` rows of the first have come.
    rest: list[list[np.ndarray]] = []
    part = stop = 0
    while isinstance(piece := next(pieces), Piece):
        rest = rest or [[] for _ in piece.rows]
        for of_layer, rows in zip(rest, piece.rows, strict=True):
            of_layer.append(rows)
        stop += len(piece.rows[0])
        totals = [n_rows(count, view) for count in piece.n_frames]
        totals *= len(rest) // len(totals)  # scales have as many rows
        while part < job.parts - (not piece.last) and (part + 1) * totals[0] // job.parts <= stop:
            sizes = [(part + 1) * n // job.parts - part * n // job.parts for n in totals]
            cut = [_cut(of_layer, n, dtype) for of_layer, n in zip(rest, sizes, strict=True)]
            text = piece.text if part == job.parts - 1 else ""
            shards.put(names[part], [replace(piece, rows=cut, text=text)], [], (part, job.parts))
            del cut
            part += 1
        if piece.last:
            tally.add(piece.utterance.key, piece.sound)
            return
        tally.reached(piece.sound.duration_s * stop / totals[0])
    tally.fail(piece)
    for number, name in enumerate(names):  # also those that were written before it failed
        shards.put(name, [], [piece], (number, job.parts))


def _cut(pieces: list[np.ndarray], n_first: int, dtype: str) -> np.ndarray:
    """The first rows of a layer's pieces, which keep the others; in the form that the shard
    decides, as that may be half the size.
    """
    whole = np.concatenate(pieces)
    pieces[:] = [whole[n_first:].copy()]
    first = whole[:n_first]
    return half_if_faithful(first) if dtype == "float16" and first.dtype != np.float16 else first
