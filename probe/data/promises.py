"""What a manifest says of a recording (duration, start, end, channel), compared with its audio."""

from probe.data.excerpts import Excerpt
from probe.errors import UtteranceError

# Manifests round durations to a tenth of a second at worst.
TOLERANCE_S, TOLERANCE_SHARE = 0.1, 0.01


def sample_bounds(excerpt: Excerpt, rate_hz: int) -> tuple[int, int | None]:
    """Return the first sample and the one behind the last, None where that is the file's end.

    Raises:
        UtteranceError: not a whole sample between them.
    """
    first = round(excerpt.start_s * rate_hz)
    if excerpt.end_s is None:
        return first, None
    stop = round(excerpt.end_s * rate_hz)
    if stop <= first:
        raise UtteranceError(
            f"start {excerpt.start_s:g} and end {excerpt.end_s:g} s have no sample at {rate_hz} Hz "
            "between them; expected a longer excerpt"
        )
    return first, stop


def refuse_channel(excerpt: Excerpt, channels: int) -> None:
    """Raise an `UtteranceError` where a recording of so many channels lacks the excerpt's."""
    if excerpt.channel is not None and excerpt.channel > channels:
        expected = "1" if channels == 1 else f"1 to {channels}"
        raise UtteranceError(
            f"channel {excerpt.channel} is named, but the recording has {channels}; expected "
            f"{expected}, counted from 1"
        )


def refuse_beyond(excerpt: Excerpt, first: int, n_samples: int, rate_hz: int) -> None:
    """Raise an `UtteranceError` where an excerpt begins or ends behind the last of ``n_samples`` of
    a recording.
    """
    seconds = n_samples / rate_hz
    times = [("start", excerpt.start_s, first and first >= n_samples)]
    if excerpt.end_s is not None:
        times.append(("end", excerpt.end_s, excerpt.end_s > seconds + TOLERANCE_S))
    for name, value, is_beyond in times:
        if is_beyond:
            guess = "correct it or remove the row; is it of another recording?"
            if value > 500 * seconds:
                guess = "is this column in samples or milliseconds?"
            raise UtteranceError(
                f"{name} is {value:g} s in the manifest, the recording lasts {seconds:g} s; {guess}"
            )


def compare_durations(seconds: float, promised_s: float) -> None:
    """Raise an `UtteranceError` where audio is not as long as promised."""
    if abs(seconds - promised_s) <= max(TOLERANCE_S, TOLERANCE_SHARE * promised_s):
        return
    guess = "is the manifest from another version of the file?"
    if promised_s > 500 * seconds:
        guess = "is this column in samples?"
    elif promised_s > seconds:
        guess = "is the file truncated?"
    raise UtteranceError(
        f"duration_s is {promised_s:g} in the manifest, the audio lasts {seconds:g} s; {guess}"
    )
