"""The recording that stays open between the excerpts of it that are asked for."""

from dataclasses import dataclass
from pathlib import Path

from probe.data.audio import Audio, Recording, state_of
from probe.data.audio_bytes import Deadline, status_of
from probe.data.excerpts import WHOLE, Excerpt
from probe.errors import UtteranceError

Place = tuple[Path, str]  # a file, and the name of a member where it is an archive


@dataclass
class Recordings:
    """Loads audio, and holds the last recording open as long as more of it is to come.

    Args:
        root: the folder that every file must lie in.
    """

    root: Path | None = None
    _place: Place | None = None
    _open: Recording | None = None
    # Why the recording could not be opened, so that it is not read again for each excerpt.
    _refusal: tuple[Place, tuple[int, ...], str] | None = None

    def load(
        self,
        path: Path,
        rate_hz: int,
        duration_s: float | None = None,
        *,
        excerpt: Excerpt = WHOLE,
        more_to_come: bool = False,
        deadline: Deadline | None = None,
    ) -> Audio:
        """As `probe.data.audio.load_audio`; a file that has changed is read again.

        Args:
            more_to_come: whether further excerpts of the recording will be asked for.
        """
        recording = self._opened((path, excerpt.member), deadline)
        try:
            audio = recording.load(rate_hz, excerpt, duration_s, deadline)
        except UtteranceError as error:
            # Time is over between two blocks, so the next excerpt goes on from there.
            is_intact = error.__cause__ is None or isinstance(error.__cause__, TimeoutError)
            if not more_to_come or isinstance(error.__cause__, MemoryError):
                self.close()
            elif not is_intact:
                recording.reopen()
            raise
        if not more_to_come:
            self.close()
        return audio

    def _opened(self, place: Place, deadline: Deadline | None) -> Recording:
        path, member = place
        state = state_of(status_of(path, self.root))
        if self._refusal is not None and self._refusal[:2] == (place, state):
            raise UtteranceError(self._refusal[2])
        if self._open is None or (self._place, state_of(self._open.status)) != (place, state):
            self.close()
            try:
                self._open = Recording(path, member, self.root, deadline)
            except UtteranceError as error:
                if not isinstance(error.__cause__, OSError | MemoryError):
                    self._refusal = (place, state, str(error))
                raise
            self._place = place
        return self._open

    def close(self) -> None:
        """Release the recording."""
        if self._open is not None:
            self._open.close()
        self._open = self._place = self._refusal = None
