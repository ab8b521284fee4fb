"""Formats that libsndfile lacks, decoded by FFmpeg through PyAV: m4a, mp4, webm, wma, aac.

The wheels of PyAV carry FFmpeg's libraries, so nothing else has to be installed. The only audio
stream is decoded from its beginning to its end, as float32 of all channels at the stream's own
rate. The silence that an encoder puts before the sound is taken off where the file says so.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np

from probe.errors import UtteranceError

# (offset, first bytes) -> FFmpeg's name of the container, so that it tries no other.
CONTAINERS = {
    (4, b"ftyp"): "mp4",
    (0, b"\x1a\x45\xdf\xa3"): "matroska",
    (0, b"\x30\x26\xb2\x75"): "asf",
    (0, b"\xff\xf1"): "aac",
    (0, b"\xff\xf9"): "aac",
}
# Of what the container promises, at worst: the last frame may be cut off, and times are rounded.
SHORT_S, SHORT_SHARE = 0.1, 0.01


def container_of(head: bytes) -> str:
    """FFmpeg's name of a file's container by its first bytes; empty where libsndfile has a try."""
    matches = (name for (place, first), name in CONTAINERS.items() if head.startswith(first, place))
    return next(matches, "")


def is_installed() -> bool:
    """Whether PyAV can be imported."""
    return _library() is not None


def _library() -> ModuleType | None:
    try:
        import av
    except ImportError:
        return None
    return av


@contextmanager
def _refusing(av: ModuleType) -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        raise UtteranceError(f"cannot be decoded: {error.strerror} (FFmpeg)") from error


class FfmpegSound:
    """A file that FFmpeg decodes, see `probe.data.sound_files.Sound`."""

    has_length, has_end, is_damaged, is_seekable = False, True, False, False

    def __init__(self, content: io.RawIOBase, container: str) -> None:
        av = _library()
        assert av is not None, "ask is_installed() first"
        self._av = av
        number = ".".join(map(str, av.library_versions["libavcodec"]))
        self.decoder = f"PyAV {av.__version__}, libavcodec {number}"
        with _refusing(av):
            self._container = av.open(content, format=container)
            streams = self._container.streams.audio
            if len(streams) != 1:
                raise UtteranceError(
                    f"{len(streams)} audio streams; expected one. "
                    "Write the one that is meant (ffmpeg -i in -map 0:a:0 out.wav)"
                )
            stream = streams[0]
            # No rate and no layout: only the form of the samples is changed.
            self._resampler = av.AudioResampler(format="fltp")
            self._frames = self._container.decode(stream)
            self._rest = np.zeros((0, 0), np.float32)
            first = next(self._frames, None)
        if first is None:
            raise UtteranceError("no samples in it (a header alone, or cut off)")
        # HE-AAC has twice the rate that its container names, so the first frame says it.
        self.rate_hz, self.channels = int(first.sample_rate), len(first.layout.channels)
        seconds = 0.0
        if stream.duration and container != "aac":  # estimated from the bit rate there
            seconds = float(stream.duration * stream.time_base)
        elif self._container.duration and container != "aac":
            seconds = self._container.duration / av.time_base
        self.n_samples = round(seconds * self.rate_hz) or None
        self._rest = self._samples(first)

    def _samples(self, frame: object) -> np.ndarray:
        """(time, channel) float32 of a decoded frame."""
        found = (getattr(frame, "sample_rate", 0), len(frame.layout.channels))  # type: ignore[attr-defined]
        if found != (self.rate_hz, self.channels):
            raise UtteranceError(
                f"changes from {self.rate_hz} Hz and {self.channels} channels to {found[0]} Hz and "
                f"{found[1]} channels. Convert it (ffmpeg -i in out.wav)"
            )
        planes = [item.to_ndarray() for item in self._resampler.resample(frame)]
        return np.ascontiguousarray(np.concatenate(planes, axis=1).T)

    def read(self, n_samples: int) -> np.ndarray:
        """(time, channel) float32: the next samples, none at the end."""
        blocks, n = [self._rest], len(self._rest)
        with _refusing(self._av):
            while n < n_samples and (frame := next(self._frames, None)) is not None:
                blocks.append(self._samples(frame))
                n += len(blocks[-1])
        samples = np.concatenate(blocks)
        self._rest = samples[n_samples:]
        return samples[:n_samples]

    def seek(self, position: int) -> None:
        """Never called: FFmpeg seeks to the nearest packet, not to a sample."""
        raise NotImplementedError

    def check_end(self, n_samples: int) -> None:
        """Raise an `UtteranceError` where so many samples are fewer than the file promises."""
        promised = self.n_samples or 0
        if n_samples < promised - max(SHORT_S * self.rate_hz, SHORT_SHARE * promised):
            raise UtteranceError(
                f"truncated: the container promises {promised} samples, {n_samples} are there"
            )

    def close(self) -> None:
        """Release the decoder."""
        self._container.close()
