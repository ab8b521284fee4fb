"""Audio, decoded by threads ahead of the model, in order, as much as a number of bytes allows."""

import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from probe.data.audio import Audio
from probe.data.corpus import Utterance
from probe.data.decoder import Decoder
from probe.errors import UtteranceError
from probe.store.features import Failure

MOST_AHEAD = 256


def decoded(
    utterances: Sequence[Utterance], rate_hz: int, decoders: Sequence[Decoder], at_first: int, ahead_bytes: int
) -> Generator[tuple[Utterance, Audio | Failure]]:
    """Each utterance's audio, or why there is none, in order.

    Args:
        decoders: one per thread.
        at_first: of them; after each second in more than a tenth of which the caller waited there is one more.
        ahead_bytes: no further file is begun while so many bytes of samples wait to be taken.
    """
    idle: queue.SimpleQueue[Decoder] = queue.SimpleQueue()
    resting = list(decoders)
    for _ in range(at_first):
        idle.put(resting.pop())
    room = threading.Condition()
    waiting_bytes = taken = 0
    given_up = False

    def decode(position: int) -> Audio | Failure:
        nonlocal waiting_bytes
        with room:
            # The one that is wanted next is always decoded, whatever waits behind it.
            room.wait_for(lambda: waiting_bytes < ahead_bytes or position == taken or given_up)
        utterance, decoder = utterances[position], idle.get()
        found: Audio | Failure
        try:
            found = decoder.load(utterance.path, rate_hz, utterance.duration_s)
        except UtteranceError as error:
            n_bytes, mtime_ns = seen(utterance.path)
            unreadable = isinstance(error.__cause__, OSError) and mtime_ns != -1
            found = Failure(utterance.key, str(error), n_bytes, mtime_ns, utterance.duration_s, unreadable)
        finally:
            idle.put(decoder)
        with room:
            waiting_bytes += _n_bytes(found)
        return found

    with ThreadPoolExecutor(max_workers=len(decoders)) as threads:
        ahead = deque(threads.submit(decode, position) for position in range(min(MOST_AHEAD, len(utterances))))
        waited_s, since = 0.0, time.monotonic()
        try:
            for position, utterance in enumerate(utterances):
                asked = time.monotonic()
                found = ahead.popleft().result()
                now = time.monotonic()
                waited_s += now - asked if position else 0.0  # nobody was ahead of the first
                if now - since > 1:
                    if resting and waited_s > (now - since) / 10:
                        idle.put(resting.pop())
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
            threads.shutdown(cancel_futures=True)


def _n_bytes(found: Audio | Failure) -> int:
    return found.samples.nbytes if isinstance(found, Audio) else 0


def seen(path: Path) -> tuple[int, int]:
    """A file's size and time of change; -1 each where it is not there."""
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns
