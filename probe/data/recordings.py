"""The recording that stays open between the excerpts of it that are asked for."""

from dataclasses import dataclass
from pathlib import Path

from probe.data.audio import Audio, Recording
from probe.data.audio_bytes import Deadline
from probe.data.excerpts import WHOLE, Excerpt
from probe.errors import UtteranceError


@dataclass
class Recordings:
    """Loads audio, and holds the last recording open as long as more of it is to come.

    Args:
        root: the folder that every file must lie in.
    """

    root: Path | None = None
    _place: tuple[Path, str] | None = None
    _open: Recording | None = None

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
        place = path, excerpt.member
        is_open = self._open is not None and place == self._place
        if self._open is None or not is_open or not self._open.is_of(path, self.root):
            self.close()
            self._open = Recording(path, excerpt.member, self.root, deadline)
            self._place = place
        try:
            audio = self._open.load(rate_hz, excerpt, duration_s, deadline)
        except UtteranceError as error:
            # Otherwise the excerpt was refused, and the decoder stands where it stood.
            if error.__cause__ is not None or not more_to_come:
                self.close()
            raise
        if not more_to_come:
            self.close()
        return audio

    def close(self) -> None:
        """Release the recording."""
        if self._open is not None:
            self._open.close()
        self._open = self._place = None
