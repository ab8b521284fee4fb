"""The synthetic corpus: one seed gives the same bytes; balanced, learnable, not trivial."""

import csv
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from scipy.signal import lfilter

from probe.data.synthetic import (
    COLUMNS,
    DOMAINS,
    RATE_HZ,
    TELEPHONE_RATE_HZ,
    WORDS,
    SyntheticCorpus,
    make_speakers,
    record,
    resonate,
    speaker_utterances,
    telephone,
    write_synthetic_corpus,
)

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SyntheticCorpus:
    return write_synthetic_corpus(tmp_path_factory.mktemp("synthetic") / "new" / "folder")


def rows_of(path: Path) -> Rows:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def spectrum(path: Path) -> NDArray[np.float64]:
    """Mean and deviation over time of the log energy in 25 bands of 160 Hz, level removed; 10 ms
    hop; (50,).
    """
    samples, rate_hz = soundfile.read(path)
    frames = np.lib.stride_tricks.sliding_window_view(samples, rate_hz // 40)[:: rate_hz // 100]
    power = np.abs(np.fft.rfft(frames * np.hanning(frames.shape[1]))) ** 2
    bands = power[:, :100].reshape(len(power), 25, 4).sum(axis=2)
    log_energy = np.log(bands / bands.mean() + 1e-4)
    return np.concatenate([log_energy.mean(axis=0), log_energy.std(axis=0)])


@pytest.fixture(scope="module")
def spectra(made: SyntheticCorpus) -> dict[str, NDArray[np.float64]]:
    return {row["path"]: spectrum(made.words.parent / row["path"]) for row in rows_of(made.words)}


def accuracy(
    spectra: dict[str, NDArray[np.float64]],
    train: Rows,
    test: Rows,
    column: str,
    shuffle_seed: int | None = None,
) -> float:
    """Accuracy on ``test`` of Gaussians with one pooled covariance fitted on ``train``."""
    x, y = (np.stack([spectra[row["path"]] for row in rows]) for rows in (train, test))
    labels = np.array([row[column] for row in train])
    if shuffle_seed is not None:
        labels = np.random.default_rng(shuffle_seed).permutation(labels)
    names, index = np.unique(labels, return_inverse=True)
    means = np.stack([x[index == place].mean(axis=0) for place in range(len(names))])
    precision = np.linalg.inv(np.cov((x - means[index]).T) + 0.05 * np.eye(x.shape[1]))
    distances = [np.einsum("nd,de,ne->n", y - mean, precision, y - mean) for mean in means]
    guesses = names[np.argmin(distances, axis=0)]
    return float(np.mean(guesses == [row[column] for row in test]))


@pytest.mark.nightly
def test_equal_seeds_give_equal_bytes_whatever_the_global_random_state(
    made: SyntheticCorpus, tmp_path: Path
) -> None:
    np.random.seed(7)
    before = np.random.get_state(legacy=False)["state"]["key"].tolist()
    write_synthetic_corpus(tmp_path)
    assert all_bytes(tmp_path) == all_bytes(made.words.parent)
    assert np.random.get_state(legacy=False)["state"]["key"].tolist() == before


@pytest.mark.nightly
def test_another_seed_gives_other_audio_under_the_same_names(
    made: SyntheticCorpus, tmp_path: Path
) -> None:
    other, one = write_synthetic_corpus(tmp_path, seed=1), made.words.parent
    assert [row["path"] for row in rows_of(other.words)] == [
        row["path"] for row in rows_of(made.words)
    ]
    audio = [name for name in all_bytes(one) if name.startswith("audio")]
    assert len(audio) == 960
    assert all((tmp_path / name).read_bytes() != (one / name).read_bytes() for name in audio)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_seed_decides_the_audio_of_each_speaker(made: SyntheticCorpus, seed: int) -> None:
    speaker = make_speakers(np.random.default_rng([seed, 0]))[3]
    for utterance in speaker_utterances(speaker, np.random.default_rng([seed, 1, 3]))[:6]:
        samples, _ = soundfile.read(made.words.parent / utterance.path, dtype="int16")
        assert np.array_equal(samples, utterance.samples) == (seed == 0)


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="non-negative"):
        write_synthetic_corpus(tmp_path, seed=-1)


def test_both_manifests_split_the_same_files(made: SyntheticCorpus) -> None:
    words, voices = rows_of(made.words), rows_of(made.voices)
    assert tuple(words[0]) == COLUMNS
    assert len(words) == len({row["path"] for row in words}) == 48 * 10 * 2
    without = [[{**row, "split": ""} for row in rows] for rows in (words, voices)]
    assert without[0] == without[1]
    assert Counter(row["sex"] for row in words) == {"f": 480, "m": 480}


def test_no_speaker_of_words_is_in_two_splits(made: SyntheticCorpus) -> None:
    rows = rows_of(made.words)
    speakers = {
        split: {row["speaker"] for row in rows if row["split"] == split}
        for split in ("train", "dev", "test")
    }
    assert [len(names) for names in speakers.values()] == [16, 8, 24]
    assert len(set.union(*speakers.values())) == 48
    cells = Counter((row["text"], row["domain"], row["split"]) for row in rows)
    assert cells == {
        (word, domain, split): len(speakers[split])
        for word, domain, split in product(WORDS, DOMAINS, speakers)
    }


def test_every_voice_is_in_all_splits_with_other_words(made: SyntheticCorpus) -> None:
    rows = rows_of(made.voices)
    cells = Counter((row["speaker"], row["domain"], row["split"]) for row in rows)
    assert len(cells) == 48 * 2 * 3 and set(cells.values()) == {6, 2}
    words = [
        {row["text"] for row in rows if row["split"] == split} for split in ("train", "dev", "test")
    ]
    assert sum(map(len, words)) == len(set.union(*words)) == len(WORDS)


def test_every_letter_occurs_in_two_words() -> None:
    assert min(Counter(letter for word in WORDS for letter in set(word)).values()) >= 2


def test_sounds_spell_the_word_and_lie_within_it(made: SyntheticCorpus) -> None:
    durations = {row["path"]: float(row["duration_s"]) for row in rows_of(made.words)}
    sounds = rows_of(made.sounds)
    spelled: dict[str, str] = {}
    ends: dict[str, float] = {}
    for sound in sounds:
        start, end, path = float(sound["start"]), float(sound["end"]), sound["path"]
        assert ends.get(path, start) == start < end < durations[path]
        spelled[path], ends[path] = spelled.get(path, "") + sound["label"], end
    assert spelled == {row["path"]: row["text"] for row in rows_of(made.words)}


def test_fricatives_are_where_the_sounds_say(made: SyntheticCorpus) -> None:
    """The share of energy above 3 kHz within an s against that within the vowel after it."""
    high: dict[str, list[float]] = {"s": [], "o": []}
    for sound in rows_of(made.sounds):
        if sound["path"].endswith(("-sola.flac",)) and sound["label"] in high:
            samples, _ = soundfile.read(made.words.parent / sound["path"])
            piece = samples[
                round(float(sound["start"]) * RATE_HZ) : round(float(sound["end"]) * RATE_HZ)
            ]
            power = np.abs(np.fft.rfft(piece)) ** 2
            high[sound["label"]].append(power[len(power) * 3 // 8 :].sum() / power.sum())
    assert len(high["s"]) == len(high["o"]) == 48
    assert np.quantile(high["s"], 0.1) > 0.6 > 0.2 > np.quantile(high["o"], 0.9)


def test_files_are_what_the_manifests_say(made: SyntheticCorpus) -> None:
    for row in rows_of(made.words):
        info = soundfile.info(made.words.parent / row["path"])
        rate_hz = RATE_HZ if row["domain"] == "clean" else TELEPHONE_RATE_HZ
        assert (info.samplerate, info.channels, info.subtype) == (rate_hz, 1, "PCM_16")
        assert row["duration_s"] == f"{info.frames / rate_hz:.4f}"
        assert 0.3 <= info.frames / rate_hz <= 0.9


def test_audio_is_neither_clipped_nor_silent(made: SyntheticCorpus) -> None:
    for row in rows_of(made.words):
        samples, _ = soundfile.read(made.words.parent / row["path"])
        assert np.abs(samples).max() < 0.95
        assert np.sqrt(np.mean(samples**2)) > 0.005


def test_telephone_has_next_to_nothing_below_200_hz(made: SyntheticCorpus) -> None:
    low: dict[str, list[float]] = {domain: [] for domain in DOMAINS}
    for row in rows_of(made.words):
        samples, rate_hz = soundfile.read(made.words.parent / row["path"])
        power = np.abs(np.fft.rfft(samples)) ** 2
        low[row["domain"]].append(power[: 200 * len(samples) // rate_hz].sum() / power.sum())
    assert np.median(low["telephone"]) < 0.01 < 0.05 < np.median(low["clean"])


def test_resonators_that_stand_still_are_ordinary_filters() -> None:
    source = np.random.default_rng(0).standard_normal(50 * 80)
    centres_hz = np.array([500.0, 1500.0, 2500.0, 3500.0])
    expected = source
    for centre_hz in centres_hz:
        poles = np.exp(
            (-np.pi * (50 + centre_hz / 25) + 2j * np.pi * centre_hz * np.array([1, -1])) / RATE_HZ
        )
        denominator = np.real(np.poly(poles))
        expected = lfilter([denominator.sum()], denominator, expected)
    np.testing.assert_allclose(resonate(source, np.tile(centres_hz, (50, 1))), expected, atol=1e-10)


def test_words_and_speakers_can_be_learned_and_shuffled_labels_cannot(
    made: SyntheticCorpus, spectra: dict[str, NDArray[np.float64]]
) -> None:
    for manifest, column, floor, chance in (
        (made.words, "text", 0.7, 1 / 10),
        (made.voices, "speaker", 0.3, 1 / 48),
    ):
        rows = rows_of(manifest)
        train, test = (
            [row for row in rows if row["split"] == split] for split in ("train", "test")
        )
        learned, *shuffled = (
            accuracy(spectra, train, test, column, seed) for seed in (None, *range(10))
        )
        assert floor < learned
        assert abs(np.mean(shuffled) - chance) < 0.06


def test_words_learned_on_clean_speech_suffer_over_the_telephone(
    made: SyntheticCorpus, spectra: dict[str, NDArray[np.float64]]
) -> None:
    rows = rows_of(made.words)
    train = [row for row in rows if row["split"] == "train" and row["domain"] == "clean"]
    tests = {
        domain: [row for row in rows if row["split"] == "test" and row["domain"] == domain]
        for domain in DOMAINS
    }
    scores = {domain: accuracy(spectra, train, test, "text") for domain, test in tests.items()}
    assert scores["clean"] > scores["telephone"] + 0.2
    assert scores["telephone"] > 1 / 10 + 0.05


def test_loud_speech_is_made_quieter_before_it_can_clip() -> None:
    rng = np.random.default_rng(0)
    pulse = 0.01 * rng.standard_normal(RATE_HZ)
    pulse[RATE_HZ // 2] = 5.0
    for samples in (record(pulse, rng), telephone(10 * pulse, rng)):
        assert 0.85 < np.abs(samples).max() < 0.95
