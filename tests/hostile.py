"""Damaged audio for tests: small files of every common format, and what is done to them."""

import io
import struct

import numpy as np
import soundfile

RATE_HZ = 16_000
# Name -> container, coding, rate, channels.
FORMATS = {
    "wav": ("WAV", "PCM_16", RATE_HZ, 1),
    "float wav": ("WAV", "FLOAT", 44_100, 2),
    "mu-law wav": ("WAV", "ULAW", 8000, 1),
    "flac": ("FLAC", "PCM_16", RATE_HZ, 2),
    "mp3": ("MP3", "MPEG_LAYER_III", RATE_HZ, 1),
    "ogg": ("OGG", "VORBIS", RATE_HZ, 1),
    "opus": ("OGG", "OPUS", 48_000, 1),
    "aiff": ("AIFF", "PCM_16", RATE_HZ, 1),
}
# Sizes, rates and counts that no honest header has, and bits that are NaN and infinity as floats.
ABSURD = [
    0,
    1,
    2,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x10000,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFE,
    0xFFFF_FFFF,
    0x7FC0_0000,
    0x7F80_0000,
]


def speechlike(
    seconds: float, rate_hz: int = RATE_HZ, channels: int = 1, seed: int = 0
) -> np.ndarray:
    """(time, channel) float32: a tone in noise, no digital silence, no clipping."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    noise = 0.05 * generator.standard_normal((len(time), channels))
    return (0.2 * np.sin(2 * np.pi * 220 * time)[:, None] + noise).astype(np.float32)


def small_files(seconds: float = 0.4) -> dict[str, bytes]:
    """A sound file of each format."""
    files = {}
    for name, (container, coding, rate_hz, channels) in FORMATS.items():
        content = io.BytesIO()
        soundfile.write(
            content,
            speechlike(seconds, rate_hz, channels),
            rate_hz,
            format=container,
            subtype=coding,
        )
        files[name] = content.getvalue()
    return files


def mutated(content: bytes, generator: np.random.Generator) -> bytes:
    """A file with one to three things done to it: bytes flipped, cut off, spliced, overwritten, its
    header forged.
    """
    data = bytearray(content)
    for _ in range(generator.integers(1, 4)):
        if len(data) < 8:
            break
        what = generator.integers(6)
        place = int(generator.integers(len(data)))
        if what == 0:  # flip bits
            for position in generator.integers(len(data), size=generator.integers(1, 30)):
                data[position] ^= 1 << int(generator.integers(8))
        elif what == 1:  # cut
            del data[place:]
        elif what == 2:  # take a piece out, or put it in twice
            piece = data[place : place + int(generator.integers(1, 400))]
            if generator.integers(2):
                data[place:place] = piece
            else:
                del data[place : place + len(piece)]
        elif what == 3:  # forge a number in the header, in either byte order
            number = ABSURD[int(generator.integers(len(ABSURD)))]
            form = ("<I", ">I", "<H", ">H", "<Q", ">Q")[int(generator.integers(6))]
            size = struct.calcsize(form)
            position = int(generator.integers(min(128, len(data) - size + 1)))
            struct.pack_into(form, data, position, number & (1 << 8 * size) - 1)
        elif what == 4:  # NaN and its like among the samples
            for position in 4 * generator.integers(len(data) // 4, size=5):
                struct.pack_into(
                    "<I", data, int(position), 0x7F80_0000 + int(generator.integers(1 << 23))
                )
        else:  # a stretch of one byte
            data[place : place + int(generator.integers(1, 200))] = (
                bytes([int(generator.integers(256))]) * 50
            )
    return bytes(data)
