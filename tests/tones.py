"""A small corpus of tones."""

from pathlib import Path

import numpy as np
import soundfile

RATE_HZ = 16_000


def write_tones(
    folder: Path,
    words: int = 3,
    speakers: int = 4,
    repetitions: int = 6,
    domains: tuple[str, ...] = ("near",),
) -> Path:
    """Writes one pitch per word and one overtone per speaker, 0.3 s each under noise, and returns
    the manifest.
    """
    generator = np.random.default_rng(0)
    lines = ["path,text,speaker,domain,split,duration_s,room"]
    splits = ["train"] * (repetitions - 2) + ["dev", "test"]
    for domain in domains:
        for word in range(words):
            for speaker in range(speakers):
                for repetition, split in enumerate(splits):
                    time = np.arange(int(0.3 * RATE_HZ)) / RATE_HZ
                    wave = np.sin(2 * np.pi * (300 + 400 * word) * time) + np.sin(
                        2 * np.pi * (2500 + 500 * speaker) * time
                    )
                    wave = 0.1 * wave + 0.01 * generator.standard_normal(len(time))
                    name = f"{domain}-{word}-{speaker}-{repetition}.wav"
                    soundfile.write(folder / name, wave, RATE_HZ)
                    text = ("ba", "do", "ke", "mu")[word]
                    lines.append(f"{name},{text},s{speaker},{domain},{split},0.3,room{word % 2}")
    manifest = folder / "tones.csv"
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return manifest
