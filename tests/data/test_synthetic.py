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
    return {row["path"]: spectrum(made.corpus.parent / row["path"]) for row in rows_of(made.corpus)}


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
    assert all_bytes(tmp_path) == all_bytes(made.corpus.parent)
    assert np.random.get_state(legacy=False)["state"]["key"].tolist() == before


@pytest.mark.nightly
def test_another_seed_gives_other_audio_under_the_same_names(
    made: SyntheticCorpus, tmp_path: Path
) -> None:
    other, one = write_synthetic_corpus(tmp_path, seed=1), made.corpus.parent
    assert [row["path"] for row in rows_of(other.corpus)] == [
        row["path"] for row in rows_of(made.corpus)
    ]
    audio = [name for name in all_bytes(one) if name.startswith("audio")]
    assert len(audio) == 576
    assert all((tmp_path / name).read_bytes() != (one / name).read_bytes() for name in audio)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_seed_decides_the_audio_of_each_speaker(made: SyntheticCorpus, seed: int) -> None:
    speaker = make_speakers(np.random.default_rng([seed, 0]))[3]
    for utterance in speaker_utterances(speaker, 3, np.random.default_rng([seed, 1, 3]))[:6]:
        samples, _ = soundfile.read(made.corpus.parent / utterance.path, dtype="int16")
        assert np.array_equal(samples, utterance.samples) == (seed == 0)


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="non-negative"):
        write_synthetic_corpus(tmp_path, seed=-1)


def test_words_domains_and_speakers_are_balanced_over_the_splits(made: SyntheticCorpus) -> None:
    rows = rows_of(made.corpus)
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == len({row["path"] for row in rows}) == 432
    cells = Counter((row["text"], row["domain"], row["split"]) for row in rows)
    assert cells == {
        (word, domain, split): 24 if split == "train" else 6
        for word, domain, split in product(WORDS, DOMAINS, ("train", "dev", "test"))
    }
    speakers = Counter((row["speaker"], row["domain"], row["split"]) for row in rows)
    assert len(speakers) == 12 * 2 * 3
    assert set(speakers.values()) == {12, 3}
    assert Counter(row["sex"] for row in rows) == {"f": 216, "m": 216}


def test_every_letter_occurs_in_two_words() -> None:
    assert min(Counter(letter for word in WORDS for letter in set(word)).values()) >= 2


def test_verification_adds_unheard_speakers_to_the_training_rows(made: SyntheticCorpus) -> None:
    corpus, verification = rows_of(made.corpus), rows_of(made.verification)
    speakers = {
        split: {row["speaker"] for row in verification if row["split"] == split}
        for split in ("train", "dev", "test")
    }
    assert [row for row in verification if row["split"] == "train"] == [
        row for row in corpus if row["split"] == "train"
    ]
    assert speakers["train"] == {row["speaker"] for row in corpus}
    assert [len(names) for names in speakers.values()] == [12, 4, 4]
    assert len(set.union(*speakers.values())) == 20
    for split in ("dev", "test"):
        assert Counter(row["sex"] for row in verification if row["split"] == split) == {
            "f": 36,
            "m": 36,
        }


@pytest.mark.parametrize("split", ["dev", "test"])
def test_trials_pair_rows_of_their_split_and_tell_the_truth(
    made: SyntheticCorpus, split: str
) -> None:
    trials = rows_of(made.dev_trials if split == "dev" else made.trials)
    rows = {row["path"]: row for row in rows_of(made.verification) if row["split"] == split}
    pairs = [(rows[trial["enroll"]], rows[trial["test"]]) for trial in trials]
    assert [trial["label"] for trial in trials] == [
        str(int(one["speaker"] == other["speaker"])) for one, other in pairs
    ]
    assert all(
        one["text"] == other["text"] and one["domain"] == other["domain"] for one, other in pairs
    )
    assert (
        len({frozenset((one["path"], other["path"])) for one, other in pairs}) == len(trials) == 210
    )
    assert Counter(trial["label"] for trial in trials) == {"1": 70, "0": 140}
    assert sum(one["sex"] != other["sex"] for one, other in pairs) == 40


def test_files_are_what_the_manifests_say(made: SyntheticCorpus) -> None:
    for row in rows_of(made.corpus) + rows_of(made.verification):
        info = soundfile.info(made.corpus.parent / row["path"])
        rate_hz = RATE_HZ if row["domain"] == "clean" else TELEPHONE_RATE_HZ
        assert (info.samplerate, info.channels, info.subtype) == (rate_hz, 1, "PCM_16")
        assert row["duration_s"] == f"{info.frames / rate_hz:.4f}"
        assert 0.3 <= info.frames / rate_hz <= 0.9


def test_audio_is_neither_clipped_nor_silent(made: SyntheticCorpus) -> None:
    for row in rows_of(made.corpus) + rows_of(made.verification):
        samples, _ = soundfile.read(made.corpus.parent / row["path"])
        assert np.abs(samples).max() < 0.95
        assert np.sqrt(np.mean(samples**2)) > 0.005


def test_telephone_has_next_to_nothing_below_200_hz(made: SyntheticCorpus) -> None:
    low: dict[str, list[float]] = {domain: [] for domain in DOMAINS}
    for row in rows_of(made.corpus):
        samples, rate_hz = soundfile.read(made.corpus.parent / row["path"])
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
    rows = rows_of(made.corpus)
    train, test = ([row for row in rows if row["split"] == split] for split in ("train", "test"))
    for column, floor, chance in (("text", 0.8, 1 / 6), ("speaker", 0.5, 1 / 12)):
        learned, *shuffled = (
            accuracy(spectra, train, test, column, seed) for seed in (None, *range(10))
        )
        assert floor < learned
        assert abs(np.mean(shuffled) - chance) < 0.06


def test_words_learned_on_clean_speech_suffer_over_the_telephone(
    made: SyntheticCorpus, spectra: dict[str, NDArray[np.float64]]
) -> None:
    rows = rows_of(made.corpus)
    train = [row for row in rows if row["split"] == "train" and row["domain"] == "clean"]
    tests = {
        domain: [row for row in rows if row["split"] == "test" and row["domain"] == domain]
        for domain in DOMAINS
    }
    scores = {domain: accuracy(spectra, train, test, "text") for domain, test in tests.items()}
    assert scores["clean"] > scores["telephone"] + 0.2
    assert scores["telephone"] > 1 / 6 + 0.05


def test_loud_speech_is_made_quieter_before_it_can_clip() -> None:
    rng = np.random.default_rng(0)
    pulse = 0.01 * rng.standard_normal(RATE_HZ)
    pulse[RATE_HZ // 2] = 5.0
    for samples in (record(pulse, rng), telephone(10 * pulse, rng)):
        assert 0.85 < np.abs(samples).max() < 0.95
