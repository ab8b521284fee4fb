"""Audio, decoded and disturbed by threads ahead of the model, in order, as much as a number of
bytes allows.
"""

import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from probe.data.audio import Audio
from probe.data.conditions.condition import Disturbance
from probe.data.corpus import Utterance
from probe.data.guarded_decoding import Decoder
from probe.errors import UtteranceError
from probe.store.feature_store import Failure

MOST_AHEAD = 256
# Copies in float64 that a step of a condition makes for a while, against the two of float32 that
# decoding makes.
DISTURBING = 6


def decoded(
    utterances: Sequence[Utterance],
    rate_hz: int,
    decoders: Sequence[Decoder],
    at_first: int,
    ahead_bytes: int,
    disturbance: Disturbance | None = None,
) -> Generator[tuple[Utterance, Audio | Failure]]:
    """Each utterance's audio, or why there is none, in order.

    Args:
        decoders: one per thread.
        at_first: of them; after each second in more than a tenth of which the caller waited there
            is one more.
        ahead_bytes: no further file is begun while so many bytes of samples wait to be taken.
        disturbance: what is done to the samples, at ``rate_hz``. All else about the audio stays
            that of the file.
    """
    idle = list(decoders)
    room = threading.Condition()
    allowed, active = at_first, 0
    begun = taken = waiting_bytes = 0
    given_up = False

    def may_begin(position: int) -> bool:
        # The one that is wanted next is always decoded, whatever waits behind it.
        return (
            position == begun
            and active < allowed
            and (waiting_bytes < ahead_bytes or position == taken)
        )

    def decode(position: int) -> Audio | Failure:
        nonlocal active, begun, waiting_bytes
        expected_bytes = _expected_bytes(utterances[position], rate_hz, disturbance)
        with room:
            room.wait_for(lambda: given_up or may_begin(position))
            if given_up:
                raise CancelledError
            begun, active = begun + 1, active + 1
            waiting_bytes += expected_bytes
            decoder = idle.pop()
            room.notify_all()
        utterance = utterances[position]
        found: Audio | Failure | None = None
        try:
            found = decoder.load(utterance.path, rate_hz, utterance.duration_s)
            if disturbance is not None:
                found = replace(found, samples=disturbance.apply(found.samples, utterance.key))
        except UtteranceError as error:
            n_bytes, mtime_ns = seen(utterance.path)
            unreadable = isinstance(error.__cause__, OSError | MemoryError) and mtime_ns != -1
            found = Failure(
                utterance.key, str(error), n_bytes, mtime_ns, utterance.duration_s, unreadable
            )
        finally:
            with room:
                active -= 1
                waiting_bytes += _n_bytes(found) - expected_bytes
                idle.append(decoder)
                room.notify_all()
        return found

    with ThreadPoolExecutor(max_workers=len(decoders)) as threads:
        ahead = deque(
            threads.submit(decode, position) for position in range(min(MOST_AHEAD, len(utterances)))
        )
        waited_s, since = 0.0, time.monotonic()
        try:
            for position, utterance in enumerate(utterances):
                asked = time.monotonic()
                found = ahead.popleft().result()
                now = time.monotonic()
                waited_s += now - asked if position else 0.0  # nobody was ahead of the first
                if now - since > 1:
                    if waited_s > (now - since) / 10:
                        allowed = min(allowed + 1, len(decoders))
                    waited_s, since = 0.0, now
                if position + MOST_AHEAD < len(utterances):
                    ahead.append(threads.submit(decode, position + MOST_AHEAD))
                with room:
                    waiting_bytes -= _n_bytes(found)
                    taken = position + 1
                    room.notify_all()
                yield utterance, found
        finally:
            with room:
                given_up = True
                room.notify_all()
            for decoder in decoders:  # also those that are stuck
                decoder.close()
            threads.shutdown(cancel_futures=True)


def _expected_bytes(utterance: Utterance, rate_hz: int, disturbance: Disturbance | None) -> int:
    """What decoding takes for a while: its samples, once in blocks and once joined; a condition,
    several times as float64.
    """
    samples = (
        utterance.duration_s * rate_hz if utterance.duration_s else max(0, seen(utterance.path)[0])
    )
    factor = 1.0 if disturbance is None else DISTURBING * max(1.0, disturbance.condition.stretch)
    return int(2 * 4 * samples * factor)


def _n_bytes(found: Audio | Failure | None) -> int:
    return found.samples.nbytes if isinstance(found, Audio) else 0


def seen(path: Path) -> tuple[int, int]:
    """A file's size and time of change; -1 each where it is not there."""
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns
