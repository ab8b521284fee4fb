"""Pretrain a very small data2vec: six narrow blocks, on two cores.

    python recipes/pretrain/pretrain.py --work FOLDER --speech FOLDER_OF_REAL_SPEECH

README.md beside this file lists the packages that must be installed, the data with their licences,
and what came out. The script runs these stages and keeps what each one made in ``--work``; called
again it goes on from there, within rounds 1 to 3 from the last multiple of 250 steps.

    speech    synthetic voices read the King James Bible; real voices are added
    round 0   the convolutions alone learn to give the log mel energies of the clean signal
    round 1   predicts to which of 100 clusters of cepstra a frame belongs
    round 2   predicts the phone of a frame, of further synthetic voices whose phones are known
    round 3   the same with few masks
    export    writes config.json, preprocessor_config.json and float16 weights

In rounds 1 and 2 about half of the frames are masked, in round 3 about a sixth. The encoder hears a
disturbed signal (another voice, noise, a room, a telephone's band) and predicts the classes of the
clean one. Clusters are of cepstra with the mean and variance of each recording removed, so that
they say little about the speaker.

Sources: W.-N. Hsu et al., HuBERT, TASLP 29 (2021), for masked prediction of clusters; A. Baevski et
al., data2vec, ICML 2022, for the encoder; S. Chen et al., WavLM, JSTSP 16 (2022), for disturbed
input with clean targets; M. Ravanelli et al., PASE+, ICASSP 2020, for spectra of the clean signal
as targets; B. van Niekerk et al., Interspeech 2021, for removing the mean of a recording before
clustering.
"""

import csv
import json
import math
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import soundfile
import soxr
import torch
import torchaudio
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.cluster import MiniBatchKMeans
from torch.nn.functional import cross_entropy
from transformers import Data2VecAudioConfig, Data2VecAudioModel, Wav2Vec2FeatureExtractor

from probe.data import synthetic

SEED = 0
RATE_HZ = 16_000
HOP = 320  # samples from frame to frame
WINDOW = 400  # samples that a frame sees
SETTINGS = Data2VecAudioConfig(
    hidden_size=160,
    num_hidden_layers=6,
    num_attention_heads=4,
    intermediate_size=576,
    conv_dim=(32, 48, 64, 96, 96, 96, 96),
    conv_pos_kernel_size=19,
    num_conv_pos_embeddings=3,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    activation_dropout=0.0,
    feat_proj_dropout=0.0,
    layerdrop=0.0,
)

# Voices of eSpeak NG: accents, and variants that sound like persons.
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029")
VARIANTS = (
    *("Alex Alicia Andrea Andy Annie Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Marco").split(),
    *("Mario Michael Mike Nguyen RicishayMax Storm Tweaky adam anika announcer antonio").split(),
    *("aunty belinda benjamin boris caleb david ed edward edward2 f1 f2 f3 f4 f5 grandma").split(),
    *("grandpa gustave iven iven2 john kaukovalta klatt klatt2 klatt4 linda m1 m2 m3 m4").split(),
    *("m5 m6 m7 m8 marcelo max michel miguel norbert pablo paul pedro quincy rob robert").split(),
    *("sandro shelby steph steph2 travis victor zac").split(),
)
FLITE = ("awb", "rms", "slt", "kal16")
FESTIVAL = ("cmu_us_slt_arctic_hts", "kal_diphone", "ked_diphone")
MASKED = {1: 0.65, 2: 0.65, 3: 0.2}  # share of the frames that spans of each round would cover
UNMASKED = {1: 0.5, 2: 1.0, 3: 4.0}  # weight of the loss at frames that are not masked
RESAMPLED = (0.87, 0.93, 1.0, 1.07, 1.14)  # factors on pitch, formants and pace


@dataclass(frozen=True)
class Sizes:
    """How much is made and how long is trained."""

    espeak: int = 150  # documents of 20 verses, about two minutes each
    flite: int = 100
    festival: int = 40
    spoken_flite: int = 140
    spoken_festival: int = 60
    klatt: int = 20
    steps_0: int = 600
    steps_1: int = 1000
    steps_2: int = 1600
    steps_3: int = 3600
    batch: int = 16
    crop: int = HOP * 127 + WINDOW - HOP  # samples: 2.54 s, 127 frames
    clusters_1: int = 100
    rate_0: float = 3e-3  # highest learning rate, of the front-end alone
    rate: float = 1e-3


TRIAL = Sizes(
    espeak=2,
    flite=2,
    festival=1,
    klatt=1,
    spoken_flite=2,
    spoken_festival=3,
    steps_0=20,
    steps_1=20,
    steps_2=20,
    steps_3=20,
    batch=4,
)


class Recording(NamedTuple):
    """A stretch of one voice in ``speech.npy``."""

    source: str  # klatt, espeak, flite, festival or real
    voice: str
    start: int  # sample
    stop: int


@click.command(help=__doc__.split("\n\n")[0])
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Receives all files.")
@click.option("--speech", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--trial", is_flag=True, help="Minutes instead of hours: tries the script itself.")
def main(work: Path, speech: Path, trial: bool) -> None:
    """Run the stages that are not there yet."""
    sizes = TRIAL if trial else Sizes()
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "recordings.json").exists():
        make_speech(work, speech, sizes)
    samples, recordings = read_speech(work)
    torch.manual_seed(SEED)
    first = Data2VecAudioModel(SETTINGS)
    train_front_end(work, first, samples, recordings, sizes)
    labels = targets(work / "labels1.npy", samples, recordings, cepstra, sizes.clusters_1)
    train(work, 1, first, samples, recordings, labels, sizes)
    export(first, work / "round1")

    if not (work / "phones.npy").exists():
        make_spoken(work, sizes)
    samples, recordings, labels = read_spoken(work)
    train(work, 2, first, samples, recordings, labels, sizes)
    export(first, work / "round2")
    train(work, 3, first, samples, recordings, labels, sizes)
    export(first, work / "data2vec-audio-nano")


# ------------------------------------------------------------------------------ speech


def make_speech(work: Path, speech: Path, sizes: Sizes) -> None:
    """Write all recordings, one after another, to ``speech.npy`` (16 kHz, int16)."""
    verses = bible()
    recordings: list[Recording] = []
    parts: list[NDArray[np.int16]] = []
    place = 0

    def keep(source: str, voice: str, x: NDArray[np.float32]) -> None:
        nonlocal place
        x = x / (np.abs(x).max() + 1e-9) * 0.9
        parts.append((x * 32767).astype(np.int16))
        recordings.append(Recording(source, voice, place, place + len(x)))
        place += len(x)

    plan = [
        source
        for source in ("klatt", "espeak", "flite", "festival")
        for _ in range(getattr(sizes, source))
    ]

    def document(number: int) -> tuple[str, NDArray[np.float32]]:
        rng = np.random.default_rng([SEED, number])
        if plan[number] == "klatt":
            return babble(rng)
        text = " ".join(verses[i] for i in rng.choice(len(verses), 20, replace=False))
        return say(plan[number], text, rng)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for number, (voice, x) in enumerate(pool.map(document, range(len(plan)))):
            keep(plan[number], voice, x)
            print(f"{number + 1}/{len(plan)} {voice}: {len(x) / RATE_HZ:.0f} s", flush=True)
    clips: dict[str, list[NDArray[np.float32]]] = {}
    with (speech / "speakers_disjoint.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["split"] == "train":
                x, rate_hz = soundfile.read(speech / row["path"], dtype="float32")
                clips.setdefault(row["speaker"], []).append(resampled(x, rate_hz, RATE_HZ))
    for speaker, pieces in clips.items():
        for factor in RESAMPLED:
            x = resampled(np.concatenate(pieces), RATE_HZ, RATE_HZ / factor)
            keep("real", f"{speaker}*{factor}", x)
    np.save(work / "speech.npy", np.concatenate(parts))
    (work / "recordings.json").write_text(json.dumps(recordings))


def bible() -> list[str]:
    """The 31,102 verses of the King James Bible without their places."""
    output = subprocess.run(
        ["bible", "-f", "gen1:1-rev22:21"], capture_output=True, text=True, check=True
    ).stdout
    return [line.split(" ", 1)[1] for line in output.splitlines() if " " in line]


def babble(rng: np.random.Generator) -> tuple[str, NDArray[np.float32]]:
    """A minute of syllables by a speaker of the demo's synthesiser whom the demo does not have."""
    speaker = synthetic.make_speakers(rng)[rng.integers(synthetic.N_SPEAKERS)]
    vowels, consonants = "aeiou", "lmnsftk"
    words = [
        "".join(
            str(rng.choice(list(consonants))) + str(rng.choice(list(vowels)))
            for _ in range(rng.integers(1, 5))
        )
        for _ in range(80)
    ]
    spoken = [synthetic.record(synthetic.speak(word, speaker, rng), rng) for word in words]
    return f"klatt {speaker.pitch_hz:.0f} Hz", np.concatenate(spoken).astype(np.float32)


def say(source: str, text: str, rng: np.random.Generator) -> tuple[str, NDArray[np.float32]]:
    """``text`` in a voice of ``source`` that ``rng`` draws, resampled to sound like another one."""
    factor = float(rng.uniform(0.85, 1.18)) if source != "espeak" else 1.0
    with tempfile.TemporaryDirectory() as folder:
        written, heard = Path(folder, "text"), Path(folder, "sound.wav")
        written.write_text(text)
        if source == "espeak":
            voice = f"{rng.choice(ACCENTS)}+{rng.choice(VARIANTS)}"
            pitch, pace = str(rng.integers(25, 76)), str(rng.integers(130, 196))
            command = [
                "espeak-ng",
                "-v",
                voice,
                "-p",
                pitch,
                "-s",
                pace,
                "-f",
                written,
                "-w",
                heard,
            ]
        elif source == "flite":
            voice = str(rng.choice(FLITE))
            pace = f"duration_stretch={factor * rng.uniform(0.85, 1.15):.3f}"
            command = ["flite", "-voice", voice, "--setf", pace, "-f", written, "-o", heard]
        else:
            voice = str(rng.choice(FESTIVAL))
            command = ["text2wave", "-eval", f"(voice_{voice})", "-o", heard, written]
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
        x, rate_hz = soundfile.read(heard, dtype="float32")
    return f"{voice}*{factor:.2f}", resampled(x, rate_hz, RATE_HZ / factor)


PHONES = (
    *("pau aa ae ah ao aw ax ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy").split(),
    *("p r s sh t th uh uw v w y z zh").split(),
)
SAME = {"axr": "er", "dx": "t", "brth": "pau", "h#": "pau", "ssil": "pau", "hv": "hh", "el": "l"}


# Samples, their rate, and the end of each phone in seconds.
Said = tuple[NDArray[np.float32], int, list[tuple[float, str]]]


class Spoken(NamedTuple):
    """A recording whose phones are known: samples, and a code of `PHONES` for each frame."""

    voice: str
    samples: NDArray[np.float32]
    phones: NDArray[np.uint8]


def make_spoken(work: Path, sizes: Sizes) -> None:
    """Write recordings of flite and Festival with the phone of each frame."""
    verses = bible()
    plan = ["flite"] * sizes.spoken_flite + ["festival"] * sizes.spoken_festival

    def document(number: int) -> Spoken:
        rng = np.random.default_rng([SEED, 2, number])
        text = [verses[i] for i in rng.choice(len(verses), 20, replace=False)]
        return spoken(plan[number], text, rng)

    parts, phones, recordings, place = [], [], [], 0
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for number, (voice, x, of_frames) in enumerate(pool.map(document, range(len(plan)))):
            x = x / (np.abs(x).max() + 1e-9) * 0.9
            parts.append((x * 32767).astype(np.int16))
            phones.append(of_frames)
            recordings.append(Recording(plan[number], voice, place, place + len(x)))
            place += len(x)
            print(f"{number + 1}/{len(plan)} {voice}: {len(x) / RATE_HZ:.0f} s", flush=True)
    np.save(work / "spoken.npy", np.concatenate(parts))
    (work / "spoken.json").write_text(json.dumps(recordings))
    np.save(work / "phones.npy", np.concatenate(phones))


def read_spoken(work: Path) -> tuple[NDArray[np.int16], list[Recording], list[NDArray[np.int64]]]:
    """What `make_spoken` wrote."""
    recordings = [Recording(*row) for row in json.loads((work / "spoken.json").read_text())]
    counts = [n_frames(one.stop - one.start) for one in recordings]
    labels = np.split(np.load(work / "phones.npy").astype(np.int64), np.cumsum(counts)[:-1])
    return np.load(work / "spoken.npy", mmap_mode="r"), recordings, labels


def spoken(source: str, text: list[str], rng: np.random.Generator) -> Spoken:
    """``text`` in a voice of ``source`` that ``rng`` draws, resampled to sound like another one."""
    factor = float(np.exp(rng.uniform(np.log(0.8), np.log(1.25))))
    voice = str(rng.choice(FLITE if source == "flite" else FESTIVAL))
    with tempfile.TemporaryDirectory() as folder:
        if source == "flite":
            x, rate_hz, ends = flite(voice, text, factor * rng.uniform(0.85, 1.15), Path(folder))
        else:
            x, rate_hz, ends = festival(voice, text, factor, Path(folder))
    x = resampled(x, rate_hz, RATE_HZ / factor)
    bounds = np.array([end for end, _ in ends]) / factor * RATE_HZ
    centres = np.arange(n_frames(len(x))) * HOP + WINDOW / 2
    codes = np.array([PHONES.index(SAME.get(phone, phone)) for _, phone in ends], dtype=np.uint8)
    places = np.searchsorted(bounds, centres).clip(max=len(ends) - 1)
    return Spoken(f"{voice}*{factor:.2f}", x, codes[places])


def flite(voice: str, text: list[str], stretch: float, folder: Path) -> Said:
    """``text`` said by flite, which prints the end of each phone, sentence by sentence."""
    written, heard = folder / "text", folder / "sound.wav"
    written.write_text(" ".join(text))
    options = ["--setf", f"duration_stretch={stretch:.3f}", "-psdur", "-f", written, "-o", heard]
    command = ["flite", "-voice", voice, *options]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    ends: list[tuple[float, str]] = []
    for line in output.splitlines():
        start = ends[-1][0] if ends else 0.0
        pairs = [pair.rpartition(":") for pair in line.split()]
        ends += [(start + float(end), phone) for phone, _, end in pairs]
    return *soundfile.read(heard, dtype="float32"), ends


def festival(voice: str, text: list[str], stretch: float, folder: Path) -> Said:
    """``text`` said by Festival, which writes the end of each phone, verse by verse."""
    script = [f"(voice_{voice})", f"(Parameter.set 'Duration_Stretch {stretch:.3f})"]
    for number, verse in enumerate(text):
        words = verse.replace('"', "").replace("\\", "")
        script += [
            f'(set! said (utt.synth (Utterance Text "{words}")))',
            f'(utt.save.segs said "{folder}/{number}.seg")',
            f'(utt.save.wave said "{folder}/{number}.wav")',
        ]
    program = folder / "program.scm"
    program.write_text("\n".join(script))
    subprocess.run(["festival", "-b", program], check=True, capture_output=True)
    pieces, ends, seconds, rate_hz = [], list[tuple[float, str]](), 0.0, 0
    for number in range(len(text)):
        x, rate_hz = soundfile.read(folder / f"{number}.wav", dtype="float32")
        lines = (folder / f"{number}.seg").read_text().splitlines()[1:]
        rows = [line.split() for line in lines if len(line.split()) == 3]
        if 0.97 < len(x) / rate_hz / float(rows[-1][0]) < 1.03:
            ends += [(seconds + float(end), phone) for end, _, phone in rows]
            pieces.append(x)
            seconds += len(x) / rate_hz
    return np.concatenate(pieces), rate_hz, ends


def resampled(x: NDArray[np.float32], rate_hz: float, to_hz: float) -> NDArray[np.float32]:
    """``x`` at ``to_hz``."""
    return x if rate_hz == to_hz else soxr.resample(x, rate_hz, to_hz)


def read_speech(work: Path) -> tuple[NDArray[np.int16], list[Recording]]:
    """What `make_speech` wrote."""
    rows = json.loads((work / "recordings.json").read_text())
    return np.load(work / "speech.npy", mmap_mode="r"), [Recording(*row) for row in rows]


def normalised(x: torch.Tensor) -> torch.Tensor:
    """``x`` with mean 0 and variance 1 along time, the last axis."""
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5)


# ------------------------------------------------------------------------------ targets


def targets(path, samples, recordings, features, n_clusters) -> list[NDArray[np.int64]]:
    """The cluster of each frame of each recording; kept in ``path``."""
    if not path.exists():
        rng = np.random.default_rng(SEED)
        vectors = [whole(features, samples[one.start : one.stop]) for one in recordings]
        stack = np.concatenate(vectors)
        kmeans = MiniBatchKMeans(n_clusters, batch_size=8192, n_init=3, random_state=SEED)
        kmeans.fit(stack[rng.choice(len(stack), min(len(stack), 200_000), replace=False)])
        print(f"{path.name}: {len(stack)} frames, inertia {kmeans.inertia_:.0f}", flush=True)
        labels = [kmeans.predict(one).astype(np.uint8) for one in vectors]
        np.save(path, np.concatenate(labels))
    counts = [n_frames(one.stop - one.start) for one in recordings]
    return np.split(np.load(path).astype(np.int64), np.cumsum(counts)[:-1])


def n_frames(n_samples: int) -> int:
    """The number of frames of ``n_samples``."""
    return (n_samples - WINDOW) // HOP + 1


@torch.no_grad()
def whole(features, samples: NDArray[np.int16]) -> NDArray[np.float32]:
    """The features of a recording, (frame, width), each dimension with mean 0 and variance 1."""
    x = torch.from_numpy(samples.astype(np.float32) / 32768)
    pieces, length = [], 500  # frames at a time
    for first in range(0, n_frames(len(x)), length):
        stop = min(first + length, n_frames(len(x)))
        piece = x[first * HOP : (stop - 1) * HOP + WINDOW]
        pieces.append(features(piece)[: stop - first])
    return normalised(torch.cat(pieces).T).T.contiguous().numpy()


N_MELS = 40
MEL = torchaudio.transforms.MelSpectrogram(
    RATE_HZ, n_fft=WINDOW, hop_length=HOP, n_mels=N_MELS, center=False
)
MFCC = torchaudio.transforms.MFCC(
    RATE_HZ,
    n_mfcc=13,
    melkwargs={"n_fft": WINDOW, "hop_length": HOP, "n_mels": 40, "center": False},
)


def cepstra(x: torch.Tensor) -> torch.Tensor:
    """13 cepstra of ``x`` with their first and second differences, (frame, 39)."""
    static = MFCC(x)
    first = torchaudio.functional.compute_deltas(static)
    return torch.cat([static, first, torchaudio.functional.compute_deltas(first)]).T


# ------------------------------------------------------------------------------ training


def train_front_end(work, net, samples, recordings, sizes: Sizes) -> None:
    """Train the convolutions of ``net`` in place to give the clean log mel energies of a frame."""
    kept = work / "state0.pt"
    if kept.exists():
        net.load_state_dict(torch.load(kept, weights_only=True))
        return
    norm, linear = net.feature_projection.layer_norm, torch.nn.Linear(SETTINGS.conv_dim[-1], N_MELS)
    parameters = [*net.feature_extractor.parameters(), *norm.parameters(), *linear.parameters()]
    optimiser = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.0)
    weights = shares(recordings)
    nothing = [np.zeros(n_frames(one.stop - one.start), dtype=np.int64) for one in recordings]
    net.train()
    net.feature_extractor.compile()
    losses, since = [], time.time()
    for step in range(sizes.steps_0):
        rng = np.random.default_rng([SEED, 0, step])
        torch.manual_seed(SEED + 1000 * step)
        for group in optimiser.param_groups:
            group["lr"] = sizes.rate_0 * min(1, (step + 1) / 30) * cosine(step / sizes.steps_0)
        x, _ = batch(samples, recordings, nothing, weights, sizes, rng)
        energies = (MEL(x) + 1e-5).log().transpose(1, 2)
        mean, sd = energies.mean((1, 2), keepdim=True), energies.std((1, 2), keepdim=True)
        told = net.feature_extractor(normalised(disturbed(x, rng))).transpose(1, 2)
        loss = (linear(norm(told)) - (energies - mean) / sd).square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            log(work, 0, step + 1, float(np.mean(losses)), 0.0, time.time() - since)
            losses = []
    torch.save(net.state_dict(), kept)


def log(work: Path, round_: int, step: int, loss: float, right: float, seconds: float) -> None:
    """Append a line to ``log.csv``: loss, frames predicted right in % (in round 3 those without a
    mask, before it masked ones), seconds.
    """
    with (work / "log.csv").open("a") as file:
        file.write(f"{round_},{step},{loss:.4f},{right:.2f},{seconds:.0f}\n")
    figures = f"loss {loss:.3f} right {right:.1f} % {seconds:.0f} s"
    print(f"round {round_} step {step} {figures}", flush=True)


def train(work, round_, net, samples, recordings, labels, sizes: Sizes) -> None:
    """Train ``net`` in place to predict ``labels`` at masked and other frames.

    The state is kept every 250 steps. Each step draws from a generator seeded by its number, so a
    run that goes on draws what it would have drawn without the interruption.
    """
    n_steps = (sizes.steps_1, sizes.steps_2, sizes.steps_3)[round_ - 1]
    n_classes = sizes.clusters_1 if round_ == 1 else len(PHONES)
    torch.manual_seed(SEED + round_)
    head = torch.nn.Linear(SETTINGS.hidden_size, n_classes)
    parameters = [*net.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.01)
    kept, begin = work / f"state{round_}.pt", 0
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        net.load_state_dict(state["net"])
        head.load_state_dict(state["head"])
        optimiser.load_state_dict(state["optimiser"])
        begin = state["step"]
    weights = shares(recordings)
    net.train()
    net.feature_extractor.compile()  # 1.6 times as fast on two cores
    losses, hits, since = [], [], time.time()
    for step in range(begin, n_steps):
        rng = np.random.default_rng([SEED, round_, step])
        torch.manual_seed(SEED + 1000 * step + round_)
        for group in optimiser.param_groups:
            group["lr"] = sizes.rate * min(1, (step + 1) / 300) * cosine(step / n_steps)
        x, y = batch(samples, recordings, labels, weights, sizes, rng)
        mask = torch.from_numpy(masks(*y.shape, rng, MASKED[round_]))
        hidden = net(normalised(disturbed(x, rng)), mask_time_indices=mask).last_hidden_state
        scores = head(hidden)
        loss = cross_entropy(scores[mask], y[mask])
        seen = UNMASKED[round_] * cross_entropy(scores[~mask], y[~mask])
        optimiser.zero_grad()
        (loss + seen).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        losses.append(loss.item())
        hits.append((scores.argmax(-1) == y)[mask if round_ < 3 else ~mask].float().mean().item())
        if (step + 1) % 50 == 0:
            right = 100 * float(np.mean(hits))
            log(work, round_, step + 1, float(np.mean(losses)), right, time.time() - since)
            losses, hits = [], []
        if (step + 1) % 250 == 0 or step + 1 == n_steps:
            state = {"net": net.state_dict(), "head": head.state_dict(), "step": step + 1}
            torch.save(state | {"optimiser": optimiser.state_dict()}, kept.with_suffix(".new"))
            kept.with_suffix(".new").replace(kept)
    net.eval()


def cosine(part: float) -> float:
    """From 1 down to 0.02 as ``part`` goes from 0 to 1."""
    return 0.02 + 0.98 * (1 + math.cos(math.pi * part)) / 2


def shares(recordings: list[Recording]) -> NDArray[np.float64]:
    """The probability of each recording: sources by fixed shares, by length within them."""
    share = {"klatt": 0.1, "espeak": 0.2, "flite": 0.25, "festival": 0.15, "real": 0.3}
    seconds = np.array([one.stop - one.start for one in recordings], dtype=float)
    for source, part in share.items():
        of_source = np.array([one.source == source for one in recordings])
        if not of_source.any():
            continue
        seconds[of_source] *= part / seconds[of_source].sum()
    return seconds / seconds.sum()


def batch(samples, recordings, labels, weights, sizes, rng):
    """Crops, (batch, time), and their labels, (batch, frame)."""
    xs, ys = [], []
    for place in rng.choice(len(recordings), sizes.batch, p=weights):
        one, n = recordings[place], n_frames(sizes.crop)
        first = rng.integers(len(labels[place]) - n + 1)
        start = one.start + first * HOP
        xs.append(samples[start : start + sizes.crop].astype(np.float32) / 32768)
        ys.append(labels[place][first : first + n])
    return torch.from_numpy(np.stack(xs)), torch.from_numpy(np.stack(ys))


def masks(n_items: int, n: int, rng, share: float, length: int = 8) -> NDArray[np.bool_]:
    """Spans of ``length`` frames at random places, (item, frame); they overlap."""
    mask = np.zeros((n_items, n), dtype=bool)
    for row in mask:
        for start in rng.choice(n - length + 1, int(share * n / length + rng.random()), False):
            row[start : start + length] = True
    return mask


def disturbed(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """``x``, (item, time), as heard elsewhere: filtered, in a room, with noise or another voice.

    Each disturbance strikes an item by its own chance; the length and the timing stay.
    """
    n_items, n = x.shape
    size = 1 << (n + RATE_HZ // 4).bit_length()
    hz = torch.fft.rfftfreq(size, 1 / RATE_HZ)
    response = torch.ones(n_items, len(hz), dtype=torch.complex64)
    noise = torch.fft.rfft(torch.randn(n_items, n), size)
    for item in range(n_items):
        if rng.random() < 0.6:  # a smooth random colour, +-8 dB at eight frequencies
            knots = np.concatenate([[0], np.geomspace(150, 8000, 7)])
            colour = np.interp(hz, knots, rng.normal(0, 5, 8).clip(-8, 8))
            response[item] *= torch.from_numpy(10 ** (colour / 20)).float()
        if rng.random() < 0.3:  # a room: the sound, then a decaying tail
            delay = np.arange(int(0.25 * RATE_HZ))
            tail = rng.standard_normal(len(delay)) * np.exp(
                -delay / RATE_HZ * 6.9 / rng.uniform(0.1, 0.5)
            )
            tail *= rng.uniform(0.1, 0.6) / np.sqrt((tail**2).sum())
            tail[:32] = 0
            tail[0] = 1
            response[item] *= torch.fft.rfft(torch.from_numpy(tail).float(), size)
        slope = rng.uniform(0, 1.2)
        noise[item] *= (hz.clamp_min(50) / 1000) ** -slope
    y = torch.fft.irfft(torch.fft.rfft(x, size) * response, size)[:, :n]
    noise = torch.fft.irfft(noise, size)[:, :n]
    other = y.roll(1, 0)
    for item in range(n_items):
        level = y[item].square().mean().sqrt()
        if rng.random() < 0.5:
            added, snr_db = noise[item], rng.uniform(5, 30)
        elif rng.random() < 0.3:
            added, snr_db = other[item], rng.uniform(5, 20)
        else:
            continue
        y[item] += added * level / (added.square().mean().sqrt() + 1e-9) * 10 ** (-snr_db / 20)
    telephone = torch.from_numpy(rng.random(n_items) < 0.15)
    if telephone.any():
        spectrum = torch.fft.rfft(y[telephone])
        band = torch.fft.rfftfreq(n, 1 / RATE_HZ)
        spectrum[:, (band < 300) | (band > 3400)] = 0
        y[telephone] = torch.fft.irfft(spectrum, n)
    return y


def export(net: Data2VecAudioModel, folder: Path) -> None:
    """Write ``net`` as an ordinary checkpoint folder with float16 weights."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: one.half().contiguous() for name, one in net.state_dict().items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    net.config.architectures = ["Data2VecAudioModel"]
    net.config.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False).save_pretrained(folder)


if __name__ == "__main__":
    main()
