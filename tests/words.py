"""A corpus of words whose phones are Gaussian, with its labels over time and its features."""

from pathlib import Path

import numpy as np
from planted import HOP, RATE_HZ, extracted

HOP_S = HOP / RATE_HZ
SPLITS = ["train"] * 12 + ["dev"] * 6 + ["test"] * 6
N_FRAMES = 40
WORDS = ["aba", "cab", "bac", "abc"]


def write_words(tmp_path: Path, speakers: str = "own") -> Path:
    """The folder, with a corpus of four words an utterance; phones stand apart in layer 1 alone.

    Args:
        speakers: ``own`` of each split, or ``shared`` by all.
    """
    generator = np.random.default_rng(3)
    means = {name: 1.5 * generator.standard_normal(4) for name in "abc"}
    rows, intervals = ["path,text,speaker,domain,split,duration_s"], ["path,start,end,label,word"]
    layers: dict[str, list[np.ndarray]] = {"0": [], "1": []}
    for i, split in enumerate(SPLITS):
        (tmp_path / f"{i}.wav").touch()
        rows.append(f"{i}.wav,,{split if speakers == 'own' else ''}{i % 3},,{split},")
        frames = generator.standard_normal((N_FRAMES, 4))
        layers["0"].append(frames.copy())
        for j, word in enumerate(generator.choice(WORDS, 4)):
            for k, phone in enumerate(word):
                first = 10 * j + 3 * k
                intervals.append(
                    f"{i}.wav,{first * HOP_S:.4f},{(first + 3) * HOP_S:.4f},{phone},{word}"
                )
                frames[first : first + 3] += means[phone]
        layers["1"].append(frames)
    (tmp_path / "corpus.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "phones.csv").write_text("\n".join(intervals) + "\n")
    extracted(tmp_path / "features", layers, tmp_path / "corpus.csv", dtype="float32")
    return tmp_path
