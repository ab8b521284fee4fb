"""Audio that threads decode and disturb ahead of the model, in order, within a number of bytes."""

import itertools
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from probe.data.audio import Audio
from probe.data.conditions.condition import Disturbance
from probe.data.corpus import Utterance
from probe.data.guarded_decoding import Decoder
from probe.errors import UtteranceError
from probe.store.feature_store import Failure

MOST_AHEAD = 256
MEMBER_S = 30  # of a member of an archive whose duration is not known
Place = tuple[Path, str]  # of a recording: its file, and its name in an archive
# Copies in float64 that a step of a condition makes for a while, against the two of float32 that
# decoding makes.
DISTURBING = 6

Heard = tuple[Utterance, Audio | Failure]


def decoded(
    utterances: Iterable[Utterance],
    rate_hz: int,
    decoders: Sequence[Decoder],
    first_decoders: int,
    ahead_bytes: int,
    disturbance: Disturbance | None = None,
) -> Generator[Heard]:
    """Each utterance's audio, or why there is none, in order. At most `MOST_AHEAD` utterances are
    taken from ``utterances`` before their audio is asked for.

    All excerpts of a recording go to one decoder, which reads and decodes it once if they are in
    the order of time.

    Args:
        decoders: one per thread.
        first_decoders: number of decoders that work at first; one is added after each second in
            more than a tenth of which the caller waited.
        ahead_bytes: no further file is begun while this many bytes of samples wait to be taken.
        disturbance: what is done to the samples, at ``rate_hz``. Everything else about the audio
            stays that of the file.
    """
    last: dict[Place, int] = {}  # recording -> position of the last utterance that is known
    queue = _Queue(decoders, first_decoders, ahead_bytes)

    def decode(position: int, utterance: Utterance) -> Audio | Failure:
        recording = _recording(utterance)
        more_to_come = position < last[recording]
        expected_bytes = _expected_bytes(utterance, rate_hz, disturbance)
        decoder = queue.begin(position, expected_bytes, recording, more_to_come)
        n_bytes = 0
        try:
            try:
                sound = decoder.load(
                    utterance.path,
                    rate_hz,
                    utterance.duration_s,
                    excerpt=utterance.excerpt,
                    more_to_come=more_to_come,
                )
            finally:
                queue.give_back(decoder)
            if disturbance is not None:
                sound = replace(sound, samples=disturbance.apply(sound.samples, utterance.key))
            n_bytes = sound.samples.nbytes
            return sound
        except UtteranceError as error:
            return _failure(utterance, error)
        finally:
            queue.end(n_bytes - expected_bytes)

    with ThreadPoolExecutor(max_workers=len(decoders)) as threads:
        ahead: deque[tuple[Utterance, Future[Audio | Failure]]] = deque()
        rest = enumerate(utterances)

        def look_ahead(n: int) -> None:
            taken = list(itertools.islice(rest, n))
            last.update({_recording(utterance): position for position, utterance in taken})
            for position, utterance in taken:
                ahead.append((utterance, threads.submit(decode, position, utterance)))

        try:
            look_ahead(MOST_AHEAD)
            is_first = True
            while ahead:
                started = time.monotonic()
                utterance, future = ahead.popleft()
                sound = future.result()
                if not is_first:  # no thread was ahead of the first
                    queue.waited(time.monotonic() - started)
                is_first = False
                look_ahead(1)
                queue.take(sound.samples.nbytes if isinstance(sound, Audio) else 0)
                yield utterance, sound
        finally:
            queue.give_up()
            for decoder in decoders:  # also those that are stuck
                decoder.close()
            threads.shutdown(cancel_futures=True)


class _Queue:
    """Which file may be begun next, by which decoder."""

    def __init__(self, decoders: Sequence[Decoder], first_decoders: int, ahead_bytes: int) -> None:
        self._idle = list(decoders)
        self._n_decoders, self._ahead_bytes = len(decoders), ahead_bytes
        self._allowed = first_decoders
        self._holders: dict[Place, Decoder] = {}  # of recordings of which more is to come
        self._changed = threading.Condition()
        self._begun = self._taken = self._waiting_bytes = self._active = 0
        self._given_up = False
        self._waited_s, self._since = 0.0, time.monotonic()

    def begin(
        self, position: int, expected_bytes: int, recording: Place, more_to_come: bool
    ) -> Decoder:
        """Wait for the turn of a position, and for the decoder that holds its recording if there is
        one; returns a decoder.

        Raises:
            CancelledError: nobody wants the audio any more.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._given_up or self._may_begin(position, recording))
            if self._given_up:
                raise CancelledError
            self._begun += 1
            self._active += 1
            self._waiting_bytes += expected_bytes
            decoder = self._decoder_for(recording)
            self._holders = {
                place: holder
                for place, holder in self._holders.items()
                if place != recording and holder is not decoder
            }
            if more_to_come:
                self._holders[recording] = decoder
            self._idle.remove(decoder)
            self._changed.notify_all()
            return decoder

    def _may_begin(self, position: int, recording: Place) -> bool:
        # The next one to be taken is always decoded, however much waits behind it.
        has_room = self._waiting_bytes < self._ahead_bytes or position == self._taken
        holder = self._holders.get(recording)
        is_free = holder is None or holder in self._idle
        return position == self._begun and self._active < self._allowed and has_room and is_free

    def _decoder_for(self, recording: Place) -> Decoder:
        """The decoder that holds a recording, or else one that holds nothing, or else the one that
        was not used for longest.
        """
        if recording in self._holders:
            return self._holders[recording]
        holders = list(self._holders.values())
        return next((item for item in reversed(self._idle) if item not in holders), self._idle[0])

    def give_back(self, decoder: Decoder) -> None:
        """A decoder has done its work."""
        with self._changed:
            self._idle.append(decoder)
            self._changed.notify_all()

    def end(self, more_bytes: int) -> None:
        """The audio is ready and takes more bytes than expected, or fewer."""
        with self._changed:
            self._active -= 1
            self._waiting_bytes += more_bytes
            self._changed.notify_all()

    def take(self, n_bytes: int) -> None:
        """The caller takes the next sound."""
        with self._changed:
            self._waiting_bytes -= n_bytes
            self._taken += 1
            self._changed.notify_all()

    def waited(self, seconds: float) -> None:
        """Let one more decoder work if the caller waited too long in the last second."""
        self._waited_s += seconds
        elapsed_s = time.monotonic() - self._since
        if elapsed_s > 1:
            if self._waited_s > elapsed_s / 10:
                self._allowed = min(self._allowed + 1, self._n_decoders)
            self._waited_s, self._since = 0.0, time.monotonic()

    def give_up(self) -> None:
        """End all that wait for their turn."""
        with self._changed:
            self._given_up = True
            self._changed.notify_all()


def _failure(utterance: Utterance, error: UtteranceError) -> Failure:
    n_bytes, mtime_ns = _size_and_time(utterance.path)
    unreadable = isinstance(error.__cause__, OSError | MemoryError) and mtime_ns != -1
    state = (n_bytes, mtime_ns, utterance.duration_s, unreadable)
    return Failure(utterance.key, str(error), *state, str(utterance.excerpt))


def _recording(utterance: Utterance) -> Place:
    return utterance.path, utterance.excerpt.member


def _expected_bytes(utterance: Utterance, rate_hz: int, disturbance: Disturbance | None) -> int:
    """Bytes that decoding takes for a while: the samples twice, in blocks and joined; a condition
    takes several times as much, in float64.
    """
    if seconds := utterance.excerpt.duration_s or utterance.duration_s:
        samples = seconds * rate_hz
    elif utterance.excerpt.member:
        samples = float(MEMBER_S * rate_hz)
    else:
        samples = float(max(0, _size_and_time(utterance.path)[0]))
    factor = 1.0
    if disturbance is not None:
        factor = DISTURBING * max(1.0, disturbance.condition.stretch)
    return int(2 * 4 * samples * factor)


def _size_and_time(path: Path) -> tuple[int, int]:
    """A file's size and time of change; -1 each if it is not there."""
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns
