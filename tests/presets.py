"""Miniatures of published corpora in their true layout: noisy tones whose pitch is the label."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

RATE_HZ = 16_000


def tone(path: Path, pitch: int, voice: int = 0, seconds: float = 0.3) -> None:
    """Writes one pitch, one overtone of the voice, and noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng([pitch, voice, *f"{path.parent.name}/{path.name}".encode()])
    time = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    wave = np.sin(2 * np.pi * (300 + 400 * pitch) * time)
    wave += np.sin(2 * np.pi * (2500 + 500 * voice) * time)
    wave = 0.1 * wave + 0.01 * generator.standard_normal(len(time))
    soundfile.write(path, wave, RATE_HZ, format="FLAC" if path.suffix == ".flac" else "WAV")


def text_file(path: Path, *lines: str) -> None:
    """Writes a text of these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def speech_commands(root: Path) -> None:
    """A release with three words of two keywords, background noise, and the test set beside it."""
    release, tests = root / "speech_commands_v0.01", root / "speech_commands_test_set_v0.01"
    dev: list[str] = []
    for pitch, word in enumerate(("yes", "no", "bed")):
        for number in range(5):
            name = f"{word}/{number:08x}_nohash_0.wav"
            tone(release / name, pitch, number % 2)
            if number == 4:
                dev.append(name)
        folder = word if word != "bed" else "_unknown_"
        for number in (20, 21):
            ending = ".wav.wav" if folder == "_unknown_" else ".wav"
            tone(tests / folder / f"{number:08x}_nohash_0{ending}", pitch, number % 2)
    text_file(release / "validation_list.txt", *dev)
    tone(release / "yes/0000000f_nohash_0.wav", 0)
    text_file(release / "testing_list.txt", "yes/0000000f_nohash_0.wav")
    generator = np.random.default_rng(0)
    noise = 0.01 * generator.standard_normal(10 * RATE_HZ)
    (release / "_background_noise_").mkdir()
    soundfile.write(release / "_background_noise_/white_noise.wav", noise, RATE_HZ)
    (tests / "_silence_").mkdir()
    soundfile.write(tests / "_silence_/00000014_nohash_0.wav", noise[:RATE_HZ], RATE_HZ)


def fluent(root: Path) -> None:
    """Two actions, two objects, two locations; the tables have pandas' numbers in front."""
    for split, numbers in (("train", range(5)), ("valid", (5,)), ("test", (6, 7))):
        lines = [",path,speakerId,transcription,action,object,location"]
        for pitch, slots in enumerate(
            ("activate,lights,kitchen", "activate,music,none", "deactivate,lights,none")
        ):
            for number in numbers:
                name = f"wavs/speakers/s{number}/{pitch}.wav"
                tone(root / name, pitch, number % 3)
                lines.append(f"{len(lines) - 1},{name},s{number},Say it,{slots}")
        text_file(root / "data" / f"{split}_data.csv", *lines)


def voxceleb(root: Path) -> None:
    """Speakers of training, of dev (number 12 n) and of the test set, and a list of trials."""
    lines, names = [], []
    speakers = [*range(10001, 10013), 10020, 10032, 10270, 10271]
    for voice, number in enumerate(speakers):
        for video in range(4):
            name = f"id{number}/video{video}/00001.wav"
            tone(root / "wav" / name, 0, voice)
            lines.append(f"{(1, 1, 2, 3)[video]} {name}")
            names += [name] * (number > 10269)
    text_file(root / "iden_split.txt", *lines)
    trials = [
        f"{int(one.split('/')[0] == other.split('/')[0])} {one} {other}"
        for i, one in enumerate(names)
        for other in names[i + 1 :]
    ]
    text_file(root / "veri_test.txt", *trials)
    text_file(root / "veri_test2.txt", *trials)


def iemocap(root: Path) -> None:
    """Five sessions of two speakers with four emotions, and a turn without agreement."""
    for session in range(1, 6):
        dialog = f"Ses{session:02d}F_impro01"
        folder = root / f"Session{session}"
        lines, texts = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""], []
        emotions = ("neu", "exc", "ang", "sad", "hap", "neu", "sad", "ang", "xxx")
        for number, emotion in enumerate(emotions):
            turn = f"{dialog}_{'FM'[number % 2]}{number:03d}"
            pitch = {"neu": 0, "exc": 1, "hap": 1, "ang": 2, "sad": 3, "xxx": 0}[emotion]
            tone(folder / "sentences/wav" / dialog / f"{turn}.wav", pitch, session)
            lines += [
                f"[{number}.2901 - {number}.8000]\t{turn}\t{emotion}\t[2.5000, 2.5000, 2.5000]"
            ]
            lines += ["C-E2:\tNeutral;\t()", ""]
            texts.append(f"{turn} [{number:03d}.2901-{number:03d}.8000]: Excuse me.")
        text_file(folder / "dialog/EmoEvaluation" / f"{dialog}.txt", *lines)
        text_file(folder / "dialog/transcriptions" / f"{dialog}.txt", *texts)


def librispeech(root: Path) -> None:
    """LibriSpeech below LibriSpeech/ and as the root itself, and Libri-Light's limited subsets."""
    subsets = {"train-clean-100": 6}
    subsets |= dict.fromkeys(("dev-clean", "test-clean", "dev-other", "test-other"), 2)
    for place in (root, root / "LibriSpeech"):
        for number, (subset, n_texts) in enumerate(subsets.items()):
            _chapter(place / subset / f"{100 + number}/1", f"{100 + number}-1", n_texts)
    for fold in range(6):
        for kind in ("clean", "other"):
            number = 200 + 2 * fold + (kind == "other")
            folder = root / f"librispeech_finetuning/1h/{fold}/{kind}/{number}/1"
            _chapter(folder, f"{number}-1", 3)
    _chapter(root / "librispeech_finetuning/9h/clean/300/1", "300-1", 3)
    text_file(root / "lexicon.txt", "GO G OW1", "NO N OW1", "GONE G AO1 N")


def _chapter(folder: Path, name: str, n_texts: int) -> None:
    texts = [("GO", "NO", "GO NO")[number % 3] for number in range(n_texts)]
    for number, _ in enumerate(texts):
        tone(folder / f"{name}-{number:04d}.flac", number % 3, seconds=0.4)
    lines = [f"{name}-{number:04d} {text}" for number, text in enumerate(texts)]
    text_file(folder / f"{name}.trans.txt", *lines)


def common_voice(root: Path) -> None:
    """Two accents, and clips whose speakers named none."""
    accents = ("United States English", "England English", "")
    for split, n_clips in (("train", 18), ("dev", 6), ("test", 6)):
        lines = ["client_id\tpath\tsentence\tup_votes\tage\tgender\taccents\tlocale"]
        for number in range(n_clips):
            name = f"common_voice_en_{split}{number}.wav"
            tone(root / "en/clips" / name, number % 2, number % 3, seconds=0.4)
            speaker, accent = f"{split}{number % 6}", accents[number % 3]
            sentence = ("Go.", "No!")[number % 2]
            lines.append(f"{speaker}\t{name}\t{sentence}\t2\t\t\t{accent}\ten")
        text_file(root / "en" / f"{split}.tsv", *lines)


def timit(root: Path) -> None:
    """A speaker of training, of the dev set, of the core test set, and one of neither."""
    speakers = {"TRAIN": ("FCJF0", "MDAC0"), "TEST": ("FAKS0", "MDAB0", "MABC0")}
    for half, names in speakers.items():
        for speaker in names:
            for sentence in ("SA1", "SI1027", "SX37", "SX127"):
                stem = root / half / "DR1" / speaker / sentence
                tone(stem.with_suffix(".WAV"), 0, len(speaker), seconds=0.4)
                text_file(stem.with_suffix(".TXT"), "0 6400 She had.")
                text_file(
                    stem.with_suffix(".PHN"),
                    *("0 1600 h#", "1600 3200 ix", "3200 3840 q", "3840 5000 tcl", "5000 6400 zh"),
                )
                text_file(stem.with_suffix(".WRD"), "1600 6400 she")


def asvspoof(root: Path) -> None:
    """Both keys in each split, and a recording that no list names."""
    for split, form, attack in (
        ("train", "trn", "A01"),
        ("dev", "trl", "A02"),
        ("eval", "trl", "A07"),
    ):
        lines = []
        for number in range(12):
            recording = f"LA_{split[0].upper()}_{number:07d}"
            key = ("bonafide", "spoof")[number % 2]
            folder = root / f"ASVspoof2019_LA_{split}/flac"
            tone(folder / f"{recording}.flac", number % 2, number % 3)
            lines.append(f"LA_{number % 6:04d} {recording} - {attack if number % 2 else '-'} {key}")
        text_file(
            root / "ASVspoof2019_LA_cm_protocols" / f"ASVspoof2019.LA.cm.{split}.{form}.txt", *lines
        )
    tone(root / "ASVspoof2019_LA_eval/flac/LA_E_9999999.flac", 0)


# The word of a corpus' form -> what writes its miniature.
MINIATURES: dict[str, Callable[[Path], None]] = {
    "speechcommands": speech_commands,
    "fluent": fluent,
    "voxceleb": voxceleb,
    "iemocap": iemocap,
    "librispeech": librispeech,
    "csv": common_voice,
    "timit": timit,
    "asvspoof": asvspoof,
}
