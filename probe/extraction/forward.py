"""Decoded audio -> rows of a view, several utterances in a pass of the model, in order."""

import itertools
import logging
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probe.data.audio import Audio
from probe.data.corpus import Utterance
from probe.errors import UtteranceError
from probe.extraction.pooling import Pooling, as_stored
from probe.extraction.settings import Content
from probe.models.encoder import CTC, Encoder, greedy_text, out_of_memory, pieces_of
from probe.store.feature_store import Failure

log = logging.getLogger("probe")

FEWEST_ROWS = 256
NO_ROOM = "does not fit into the device's memory; --chunk-s takes less, or another --device"


@dataclass(frozen=True)
class Piece:
    """Rows of an utterance.

    Attributes:
        n_frames: of the whole utterance in each layer.
        rows: of each layer, the rows that follow the piece before, in the form of
            `probe.extraction.pooling.as_stored`.
        last: whether the utterance ends here.
        text: with the last piece, the transcript of the model's CTC head; empty if it is not run.
    """

    utterance: Utterance
    sound: Audio
    n_frames: Sequence[int]
    rows: list[np.ndarray]
    last: bool
    text: str = ""


def encoded(
    audio_of: Iterable[tuple[Utterance, Audio | Failure]], encoder: Encoder, content: Content
) -> Generator[Piece | Failure]:
    """The pieces of each utterance, or its failure, which may come after some of its pieces.

    The number of utterances that are computed together decides no value; it shrinks if the device's
    memory does not suffice.
    """
    batch: list[tuple[Utterance, Audio | Failure]] = []
    n_rows = 0
    for utterance, sound in audio_of:
        batch.append((utterance, _long_enough(utterance, sound, encoder)))
        n_rows += encoder.info.n_frames(len(sound.samples)) if isinstance(sound, Audio) else 0
        if n_rows >= encoder.rows:
            yield from _of_batch(batch, encoder, content)
            batch, n_rows = [], 0
    yield from _of_batch(batch, encoder, content)


def _long_enough(utterance: Utterance, sound: Audio | Failure, encoder: Encoder) -> Audio | Failure:
    info = encoder.info
    if isinstance(sound, Failure) or len(sound.samples) >= info.grid.min_samples:
        return sound
    n_samples = len(sound.samples)
    seconds = n_samples / info.rate_hz
    reason = f"too short: {n_samples} samples at {info.rate_hz} Hz ({seconds:.4f} s); "
    return failure_of(
        utterance, sound, reason + f"{info.id} needs at least {info.grid.min_samples}"
    )


def failure_of(utterance: Utterance, sound: Audio, reason: str, again: bool = False) -> Failure:
    """A failure that is not the decoder's; ``again``: it is not the audio's and worth a retry."""
    state = (sound.file_bytes, sound.mtime_ns, utterance.duration_s, again)
    return Failure(utterance.key, reason, *state, str(utterance.excerpt))


def _of_batch(
    batch: Sequence[tuple[Utterance, Audio | Failure]], encoder: Encoder, content: Content
) -> Iterator[Piece | Failure]:
    sounds = [sound for _, sound in batch if isinstance(sound, Audio)]
    waves = [torch.from_numpy(sound.samples).to(encoder.device) for sound in sounds]
    layers = [*content.layers, CTC] if content.ctc else content.layers
    stretches = _stretches(encoder, waves, layers)
    for utterance, sound in batch:
        if isinstance(sound, Failure):
            yield sound
        else:
            yield from _of_utterance(utterance, sound, next(stretches), encoder, content)
    next(stretches, None)  # to its end


def _of_utterance(
    utterance: Utterance,
    sound: Audio,
    frames: Iterator[list[Tensor] | str],
    encoder: Encoder,
    content: Content,
) -> Iterator[Piece | Failure]:
    """Pool an utterance's frames as they come."""
    n_frames = [encoder.info.n_frames(len(sound.samples), layer) for layer in content.layers]
    pools = [Pooling(content.view, count) for count in n_frames]
    best: list[int] = []
    failed, again = "", False
    n_seen = 0
    for of_layers in frames:  # all of them, also after a failure: others follow in the same stream
        if isinstance(of_layers, str):
            failed, again = failed or of_layers, True
        if failed or isinstance(of_layers, str):
            continue
        n_seen += len(of_layers[0])
        if content.ctc:
            best += of_layers.pop().argmax(-1).tolist()
        # A sum is not finite where a value is not, and where many are huge.
        if not torch.stack([item.sum() for item in of_layers]).isfinite().all():
            bad = [
                layer
                for layer, item in zip(content.layers, of_layers, strict=False)
                if not item.isfinite().all()
            ]
            if bad:
                failed = f"layer {bad[0]} of {encoder.info.id} gives NaN or infinite values"
                continue
        pooled = [pool.add(item) for pool, item in zip(pools, of_layers, strict=True)]
        rows = [item for item in pooled if item is not None]
        last = n_seen == n_frames[0]
        if rows:
            text = greedy_text(best, encoder.info.ctc["writes"]) if content.ctc and last else ""
            stored = as_stored(rows, content.dtype, whole=len(of_layers[0]) == n_frames[0])
            yield Piece(utterance, sound, n_frames, stored, last, text)
    if failed:
        yield failure_of(utterance, sound, failed, again)


def _stretches(
    encoder: Encoder, waves: Sequence[Tensor], layers: Sequence[str]
) -> Iterator[Iterator[list[Tensor] | str]]:
    """Each utterance's frames, (row, dim) per layer piece by piece, or the reason of a failure.

    Rows are counted in the first layer. If the layers of an encoder differ in rate, each of its
    pieces is an utterance.
    """
    counts = [encoder.info.n_frames(len(wave), layers[0]) for wave in waves]
    pieces = _retried(encoder, waves, counts, layers)
    rest: list[Tensor] = []

    def of_one(n_left: int) -> Iterator[list[Tensor] | str]:
        nonlocal rest
        while n_left:
            piece: list[Tensor] | str = rest if rest else next(pieces)
            if isinstance(piece, str):
                yield piece
                return
            current, rest = piece, []
            if len(piece[0]) > n_left:
                current, rest = [item[:n_left] for item in piece], [item[n_left:] for item in piece]
            yield list(current)
            n_left -= len(current[0])

    for count in counts:
        yield of_one(count)
    next(pieces, None)  # which checks the number of rows


def _retried(
    encoder: Encoder, waves: Sequence[Tensor], counts: Sequence[int], layers: Sequence[str]
) -> Iterator[list[Tensor] | str]:
    """`pieces_of`, which is repeated with half as many rows and one utterance at a time if the
    device's memory does not suffice. Gives a reason for an utterance that does not fit even so, or
    that the model refuses.
    """
    ends = list(itertools.accumulate(counts))
    n_done = 0  # rows that were handed on
    first = 0  # utterance that is not whole
    together = len(waves)
    while first < len(waves):
        start = ends[first] - counts[first]  # the utterance is computed again from there
        try:
            for piece in pieces_of(encoder, waves[first : first + together], layers):
                skipped = min(max(0, n_done - start), len(piece[0]))
                start += len(piece[0])
                if skipped < len(piece[0]):
                    n_done = start
                    yield [item[skipped:] for item in piece] if skipped else piece
            first += together
            continue
        except UtteranceError as error:
            # The encoder has no pieces of its own, so the utterances before this one are done.
            yield str(error)
            first = next(i for i, end in enumerate(ends) if end > n_done)
            n_done = ends[first]
            first += 1
            continue
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            log.warning("%s: %s", encoder.info.id, str(error).split("\n")[0])
        first = next((i for i, end in enumerate(ends) if end > n_done), len(waves))
        if encoder.rows > FEWEST_ROWS:
            encoder.rows //= 2
            log.warning("%s: goes on with %d frames at a time", encoder.info.id, encoder.rows)
        elif together == 1 and first < len(waves):
            yield NO_ROOM
            n_done = ends[first]
            first += 1
        together = 1
        if encoder.device.type == "cuda":
            torch.cuda.empty_cache()
