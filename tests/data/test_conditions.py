"""Conditions: levels, lengths and delays as promised, the same samples whatever the order, and
words for what cannot be done.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from mending import mend
from scipy.signal import correlate, lfilter

from probe.cli import cli
from probe.data.conditions.condition import (
    Condition,
    Disturbance,
    declared_conditions,
    distinct,
    open_condition,
    parse_condition,
)
from probe.data.conditions.effects import EFFECTS, MP3_RATES_HZ, Effect, File, Word
from probe.data.conditions.filters import simulated_response
from probe.data.conditions.grammar import PRESETS
from probe.data.conditions.loudness import active_rms, decibels, rms
from probe.data.corpus import load_corpus
from probe.errors import ProbeError, UsageError, UtteranceError
from probe.evaluation.run import Run
from probe.evaluation.tasks import Task
from probe.evaluation.trial_lists import Scope
from probe.extraction.extract import Extraction, extract, recipe_of
from probe.extraction.settings import Decoding, Extracting, Running, Storing
from probe.files import sha256_of_json
from probe.models.catalogue import open_model
from probe.pipeline import bench
from probe.store.integrity import verify_store
from probe.store.stores import describe_store, open_store, select_store

RATE_HZ = 16_000
CODECS = (
    "telephone",
    "telephone:a",
    "gsm",
    "mp3:0.75",
    "mp3:0.9",
    "mp3:0.5,rate=24000",
    "opus:0.9",
    "opus:0.5,rate=48000",
    "vorbis:0.9",
)
PLAIN = [effect.example for effect in EFFECTS.values() if not effect.needs]


def voice(seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    """Noise with the slope and, roughly, the syllables of speech."""
    generator = np.random.default_rng(seed)
    n_samples = int(seconds * RATE_HZ)
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * np.arange(n_samples) / RATE_HZ)
    return (
        lfilter([1], [1, -0.9], generator.standard_normal(n_samples)) * syllables * 0.03
    ).astype(np.float32)


def tone(hz: float, seconds: float = 1.0) -> np.ndarray:
    """A sine at a fifth of full scale."""
    return (0.2 * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE_HZ)) / RATE_HZ)).astype(
        np.float32
    )


def opened(text: str, **how: object) -> Disturbance:
    """A condition that is not clean, open at 16 kHz."""
    corpus = how.pop("corpus", None)
    found = open_condition(parse_condition(text, **how), RATE_HZ, corpus)  # type: ignore[arg-type]
    assert found is not None
    return found


def heard(text: str, samples: np.ndarray, key: str = "a", **how: object) -> np.ndarray:
    """What a condition makes of samples."""
    return opened(text, **how).apply(samples, key)


def strength(samples: np.ndarray, hz: float) -> float:
    """Amplitude of a frequency in the middle of (time,) samples."""
    middle = samples[len(samples) // 4 : -len(samples) // 4].astype(np.float64)
    window = np.hanning(len(middle))
    wave = np.exp(-2j * np.pi * hz * np.arange(len(middle)) / RATE_HZ)
    return float(2 * abs(np.sum(middle * window * wave)) / window.sum())


@pytest.fixture
def noises(tmp_path: Path) -> Path:
    """A manifest of two noise files, one of them 30 dB too quiet, and a row of speech."""
    generator = np.random.default_rng(1)
    soundfile.write(
        tmp_path / "hum.wav", 0.1 * generator.standard_normal(48_000), RATE_HZ, subtype="FLOAT"
    )
    soundfile.write(
        tmp_path / "quiet.wav", 0.003 * generator.standard_normal(6_000), RATE_HZ, subtype="FLOAT"
    )
    soundfile.write(tmp_path / "word.wav", voice(0.5), RATE_HZ)
    rows = [
        "hum.wav,,,hum,noise,3.0",
        "quiet.wav,,,quiet,noise,0.375",
        "word.wav,one,s1,near,test,0.5",
    ]
    manifest = tmp_path / "noise.csv"
    manifest.write_text("\n".join(["path,text,speaker,domain,split,duration_s", *rows]) + "\n")
    return manifest


@pytest.fixture
def talkers(tmp_path: Path) -> Path:
    """Four speakers with a frequency each, 1000 to 4000 Hz; the files of split test sound 250 Hz
    higher.
    """
    lines = ["path,text,speaker,domain,split,duration_s"]
    for number in range(4):
        for split, higher in (("train", 0), ("train2", 0), ("test", 250)):
            name = f"s{number}-{split}.wav"
            loudness = 0.1 + number  # babble makes them equal
            soundfile.write(
                tmp_path / name,
                loudness / 4 * tone(1000 * (number + 1) + higher, 0.7),
                RATE_HZ,
                subtype="FLOAT",
            )
            lines.append(f"{name},x,s{number},near,{split.rstrip('2')},0.7")
    manifest = tmp_path / "talkers.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


# Levels


@pytest.mark.parametrize("snr_db", [-5, 0, 10, 30])
@pytest.mark.parametrize("kind", ["white", "pink", "babble", "babble,talkers=1", "files"])
def test_the_snr_after_mixing_is_the_one_asked_for(
    kind: str, snr_db: int, noises: Path, talkers: Path
) -> None:
    kind = "files=noise.csv" if kind == "files" else kind
    disturbance = opened(
        f"noise:{kind}@{snr_db}dB", folder=noises.parent, corpus=load_corpus(talkers)
    )
    for key in ("s0-test.wav", "s1-test.wav", "s2-test.wav"):
        speech = voice(1.3, seed=len(key))
        added = disturbance.apply(speech, key).astype(np.float64) - speech
        assert decibels(rms(speech) / rms(added)) == pytest.approx(snr_db, abs=0.02)


def test_active_speech_is_louder_than_speech_with_pauses() -> None:
    speech = voice(8.0)
    padded = np.concatenate([speech, np.zeros(2 * len(speech), np.float32)])
    active = decibels(active_rms(padded, RATE_HZ))
    assert active == pytest.approx(decibels(active_rms(speech, RATE_HZ)), abs=0.5)
    assert active == pytest.approx(decibels(rms(padded)) + 4.77, abs=1.0)
    assert decibels(active_rms(padded / 1000, RATE_HZ)) == pytest.approx(active - 60, abs=0.3)
    added = heard("noise:white,active@10dB", padded) - padded
    assert decibels(active_rms(padded, RATE_HZ) / rms(added)) == pytest.approx(10, abs=0.02)
    assert active_rms(np.zeros(1000), RATE_HZ) == 0
    noisy = np.concatenate(
        [speech, 0.01 * voice(16.0, seed=1)]
    )  # pauses that are not digital silence
    for gain_db in (0, 20, 40, 60, 100):
        assert decibels(active_rms(noisy * 10 ** (gain_db / 20), RATE_HZ)) == pytest.approx(
            active + gain_db, abs=0.3
        )


def test_pink_noise_falls_by_three_decibels_per_octave() -> None:
    speech = voice(8.0)
    spectrum = np.abs(np.fft.rfft(heard("noise:pink@0dB", speech) - speech)) ** 2
    frequencies = np.fft.rfftfreq(len(speech), 1 / RATE_HZ)
    octaves = [
        spectrum[(low <= frequencies) & (frequencies < 2 * low)].sum() for low in (125, 500, 2000)
    ]
    assert 10 * np.log10(octaves) == pytest.approx([10 * np.log10(octaves[0])] * 3, abs=0.7)


def test_a_short_noise_file_is_repeated_without_a_click(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "hum.wav", tone(50, 0.135), RATE_HZ, subtype="FLOAT")
    speech = voice(2.0)
    added = heard("noise:files=hum.wav@0dB", speech, folder=tmp_path) - speech
    steps = np.abs(np.diff(added)).max() / np.abs(added).max()
    assert steps < 0.04  # of the hum itself 0.02; its bare ends lie 1 apart


def test_babble_is_of_other_speakers_and_of_train_only(talkers: Path) -> None:
    disturbance = opened("noise:babble,talkers=3@0dB", corpus=load_corpus(talkers))
    for number in range(4):
        speech = voice(1.0)
        added = disturbance.apply(speech, f"s{number}-test.wav") - speech
        found = [strength(added, hz) for hz in (1000, 2000, 3000, 4000)]
        others = found[:number] + found[number + 1 :]
        assert found[number] < 0.02 * min(others)
        assert max(others) < 1.3 * min(others), "each talker is as loud as the others"
        assert max(strength(added, hz + 250) for hz in (1000, 2000, 3000, 4000)) < 0.02 * min(
            others
        )


def test_babble_needs_speakers(talkers: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.csv"
    alone.write_text(
        "path,text,speaker,domain,split,duration_s\ns0-train.wav,,s0,near,train,0.7\ns1-train.wav,,,near,test,0.7\n"
    )
    with pytest.raises(
        ProbeError, match="noise:babble needs two speakers; the column speaker names s0"
    ):
        opened("noise:babble@0dB", corpus=load_corpus(alone))
    with pytest.raises(ProbeError, match="babble needs a corpus"):
        opened("noise:babble@0dB")
    two = tmp_path / "two.csv"
    two.write_text(alone.read_text() + "s2-train.wav,,s2,near,test,0.7\n")
    disturbance = opened("noise:babble@0dB", corpus=load_corpus(two))
    assert len(disturbance.apply(voice(0.5), "s2-train.wav")) == RATE_HZ // 2
    for key, reason in (
        ("s0-train.wav", "only s0 is in the pool"),
        ("s1-train.wav", "its speaker is unknown"),
    ):
        with pytest.raises(UtteranceError, match=reason):
            disturbance.apply(voice(0.5), key)


# Lengths, delays, and what each effect does


@pytest.mark.parametrize(
    "text", PLAIN + [f"srb:{name}:{severity}" for name in PRESETS for severity in (1, 2, 3, 4)]
)
def test_every_effect_and_preset_keeps_its_promise_on_the_length(text: str) -> None:
    disturbance = opened(text)
    for n_samples in (401, 12_345):
        speech = voice(1.0)[:n_samples]
        before = speech.copy()
        found = disturbance.apply(speech, "a")
        assert found.dtype == np.float32
        assert len(found) == round(n_samples * disturbance.condition.stretch)
        assert np.array_equal(speech, before), "the samples that came in are somebody else's"
        assert np.array_equal(found, disturbance.apply(speech, "a"))
        if n_samples == len(found) == 12_345:
            assert np.array_equal(found, before) == (text == "clip")


@pytest.mark.parametrize(
    "text",
    [
        *CODECS,
        "resample:8000",
        "lowpass:3000",
        "bandpass:300,high=3400",
        "reverb:rt60=0.3",
        "clip:below=6",
    ],
)
@pytest.mark.parametrize("n_samples", [5_000, 30_123])
def test_nothing_is_delayed(text: str, n_samples: int) -> None:
    speech = voice(2.0)[:n_samples].astype(np.float64)
    found = heard(text, speech.astype(np.float32))
    lag = int(np.argmax(correlate(found, speech, mode="full"))) - (n_samples - 1)
    assert lag == 0


@pytest.mark.parametrize("rate_hz", MP3_RATES_HZ)
@pytest.mark.parametrize("compression", [0.5, 0.83, 0.99])
def test_mp3_delays_nothing_with_and_without_a_tag(rate_hz: int, compression: float) -> None:
    speech = voice(0.7)
    found = heard(f"mp3:{compression},rate={rate_hz}", speech)
    assert int(np.argmax(correlate(found, speech, mode="full"))) == len(speech) - 1


def test_a_loud_room_leaves_the_direct_sound_where_it_was() -> None:
    click = np.zeros(RATE_HZ, np.float32)
    click[4000] = 0.5
    for key in "abcdefgh":
        found = heard("reverb:rt60=0.5,drr=-30", click, key)
        assert int(np.argmax(np.abs(found) > 1e-4)) == 4000


def test_levels_are_what_the_documentation_says() -> None:
    speech = voice(2.0)
    level = decibels(rms(speech))
    assert decibels(rms(heard("gain:-20", speech))) == pytest.approx(level - 20, abs=1e-3)
    assert decibels(rms(heard("gain:factor=10", speech))) == pytest.approx(level + 20, abs=1e-3)
    assert decibels(rms(heard("reverb:rt60=0.5", speech))) == pytest.approx(level, abs=1e-3)
    assert np.abs(heard("gain:60dB+clip", speech)).max() == 1
    peak = np.abs(speech).max()
    assert np.abs(heard("clip:below=6dB", speech)).max() == pytest.approx(peak * 10**-0.3, rel=1e-6)
    white = np.random.default_rng(0).normal(0, 0.1, 3 * RATE_HZ)
    assert [
        decibels(rms(heard(f"chorus:{ms}", white)) / rms(white)) for ms in (5, 30, 50, 90, 500)
    ] == pytest.approx([-2.7] * 5, abs=0.25)
    for text in CODECS:
        assert decibels(rms(heard(text, 0.5 * tone(1000)))) == pytest.approx(
            decibels(rms(0.5 * tone(1000))), abs=0.5
        )


def test_a_telephone_carries_300_to_3400_hz() -> None:
    for text in ("telephone", "telephone:a", "gsm"):
        assert strength(heard(text, tone(1000)), 1000) == pytest.approx(0.2, rel=0.1)
        assert max(strength(heard(text, tone(hz)), hz) for hz in (150, 3700, 6000)) < 0.01
    assert len(np.unique(heard("telephone+resample:8000", tone(1000)))) > 256


@pytest.mark.parametrize(
    ("text", "kept", "lost"),
    [("lowpass:2000", 1800, 2200), ("highpass:2000", 2200, 1800), ("resample:4000", 1500, 2200)],
)
def test_filters_cut_where_they_say(text: str, kept: float, lost: float) -> None:
    assert strength(heard(text, tone(kept)), kept) == pytest.approx(0.2, rel=0.01)
    assert strength(heard(text, tone(lost)), lost) < 0.2 * 2e-3
    assert np.array_equal(heard("lowpass:8000", voice()), voice()), (
        "there is nothing above half the rate"
    )


def response_db(text: str, *frequencies_hz: float) -> list[float]:
    """What a linear condition does to frequencies."""
    click = np.zeros(8 * RATE_HZ, np.float32)
    click[len(click) // 2] = 1
    spectrum = np.abs(np.fft.rfft(heard(text, click).astype(np.float64)))
    return [max(-200.0, decibels(spectrum[round(8 * hz)])) for hz in frequencies_hz]


@pytest.mark.parametrize(
    ("text", "edges", "kept", "lost"),
    [
        ("lowpass:50", [50], [0, 25], [75, 150, 4000]),
        ("lowpass:100", [100], [0, 50], [150, 4000]),
        ("lowpass:7999", [7999], [4000, 7998], [7999.5, 8000]),
        ("highpass:50", [50], [75, 4000, 8000], [0, 25]),
        ("highpass:100", [100], [150, 8000], [0, 50]),
        ("highpass:7900", [7900], [8000], [0, 4000, 7800]),
        ("highpass:7999", [7999], [8000], [0, 4000, 7998]),
        ("bandpass:80,high=3400", [80, 3400], [160, 1000, 3320], [0, 3480, 8000]),
        ("bandpass:1000,high=1050", [1000, 1050], [1025], [0, 975, 1075, 8000]),
        ("bandpass:150,high=7000", [150, 7000], [225, 6925], [0, 75, 7075, 8000]),
        ("bandpass:300,high=3400", [300, 3400], [400, 3300], [0, 200, 3500, 8000]),
    ],
)
def test_every_edge_between_0_and_half_the_rate_cuts(
    text: str, edges: list[float], kept: list[float], lost: list[float]
) -> None:
    assert response_db(text, *edges) == pytest.approx([-6.02] * len(edges), abs=0.1)
    assert response_db(text, *kept) == pytest.approx([0] * len(kept), abs=0.05)
    assert max(response_db(text, *lost)) < -57


def test_an_edge_at_half_the_rate_keeps_or_leaves_nothing() -> None:
    speech = voice(0.5)
    assert np.array_equal(heard("lowpass:7999.5", speech), speech)
    assert np.array_equal(heard("bandpass:300,high=9000", speech), heard("highpass:300", speech))
    with pytest.raises(UtteranceError, match="nothing but silence"):
        heard("highpass:7999.5", speech)


@pytest.mark.parametrize(
    ("text", "far", "near"),
    [("bass:20dB", 4000, 20), ("treble:20dB", 100, 7900), ("treble:-12dB", 100, 7900)],
)
def test_shelves_lift_one_side_only(text: str, far: float, near: float) -> None:
    gain_db = float(text.split(":")[1].removesuffix("dB"))
    assert decibels(strength(heard(text, tone(far, 2)), far) / 0.2) == pytest.approx(0, abs=0.5)
    assert decibels(strength(heard(text, tone(near, 2)), near) / 0.2) == pytest.approx(
        gain_db, abs=1.5
    )


@pytest.mark.parametrize("rt60_s", [0.2, 0.6, 1.5])
def test_a_simulated_room_decays_in_the_time_asked_for(rt60_s: float) -> None:
    response = simulated_response(rt60_s, 0.0, RATE_HZ, np.random.default_rng(0))
    left_db = 10 * np.log10(
        np.cumsum(response[::-1] ** 2)[::-1] / np.sum(response**2)
    )  # Schroeder (1965)
    at = [int(np.argmax(left_db < level)) / RATE_HZ for level in (-5, -25)]
    assert 3 * (at[1] - at[0]) == pytest.approx(rt60_s, rel=0.1)
    assert np.sum(response[1:] ** 2) == pytest.approx(1.0)


def test_a_measured_room_is_convolved_from_its_direct_sound_on(tmp_path: Path) -> None:
    response = np.zeros(900)
    response[[300, 700]] = 0.5, 0.25
    soundfile.write(tmp_path / "room.wav", response, RATE_HZ, subtype="FLOAT")
    speech = voice(1.0)
    expected = speech + 0.5 * np.pad(speech, (400, 0))[: len(speech)]
    found = heard("reverb:files=room.wav", speech, folder=tmp_path)
    assert found == pytest.approx(expected * (rms(speech) / rms(expected)), abs=1e-6)


def test_packets_are_lost_as_often_and_as_long_as_asked() -> None:
    ones = np.ones(20 * 16 * 20_000, np.float32)
    for text, share, burst in (
        ("loss:40%", 0.4, 1 / 0.6),
        ("loss:20,burst=4", 0.2, 4.0),
        ("loss:30,burst=1,packet=20", 0.3, 1.0),
    ):
        lost = 1 - heard(text, ones).reshape(-1, 320)
        assert np.array_equal(lost.min(axis=1), lost.max(axis=1)), "packets are lost as a whole"
        lost = lost[:, 0]
        assert lost.mean() == pytest.approx(share, rel=0.05)
        begun = np.count_nonzero(np.diff(lost) > 0)
        assert lost.sum() / begun == pytest.approx(burst, rel=0.08)


def test_speed_moves_the_pitch_tempo_keeps_it_and_pitch_keeps_the_length() -> None:
    wave = tone(500, 2.0)
    for text, hz, length in (
        ("speed:1.25", 625, 0.8),
        ("speed:0.5", 250, 2),
        ("tempo:1.5", 500, 1 / 1.5),
        ("tempo:0.5", 500, 2),
        ("pitch:12", 1000, 1),
        ("pitch:-3", 500 * 2**-0.25, 1),
    ):
        found = heard(text, wave)
        assert len(found) == round(len(wave) * length)
        assert strength(found, hz) == pytest.approx(0.2, rel=0.15), text


@pytest.mark.parametrize(
    ("text", "within_s"),
    [
        ("speed:1.25", 0.001),
        ("speed:0.75", 0.001),
        ("tempo:2", 0.02),
        ("tempo:1.5", 0.02),
        ("tempo:0.5", 0.02),
    ],
)
def test_events_move_by_the_stretch(text: str, within_s: float) -> None:
    disturbance = opened(text)
    for second in (0.4, 1.1, 1.7):
        wave = 1e-4 * voice(2.0)
        at = int(second * RATE_HZ)
        wave[at : at + 400] += tone(900)[:400]
        begins = np.argmax(np.abs(disturbance.apply(wave, "a")) > 0.1) / RATE_HZ
        assert begins / disturbance.condition.stretch == pytest.approx(second, abs=within_s)


def test_steps_are_done_in_order() -> None:
    speech = voice(1.0)
    assert np.array_equal(
        heard("gain:30dB+clip", speech), np.clip(heard("gain:30dB", speech), -1, 1)
    )
    assert not np.array_equal(heard("clip+gain:30dB", speech), heard("gain:30dB+clip", speech))
    assert parse_condition("speed:2+tempo:0.5+speed:1.25").stretch == pytest.approx(0.8)


# Draws


def test_draws_depend_on_utterance_seed_and_place_and_on_no_level() -> None:
    speech = voice(0.5)
    noise = heard("noise:white@0dB", speech) - speech
    assert not np.allclose(noise, heard("noise:white@0dB", speech, key="b") - speech, atol=1e-3)
    assert not np.allclose(noise, heard("noise:white@0dB", speech, seed=1) - speech, atol=1e-3)
    after_gain = heard("gain:0dB+noise:white@0dB", speech) - speech
    assert not np.allclose(noise, after_gain, atol=1e-3), "another position draws anew"
    assert heard("noise:white@20dB", speech) - speech == pytest.approx(noise / 10, abs=1e-6)


def test_draws_are_the_same_on_every_machine() -> None:
    lost = (
        1
        - heard("loss:50,packet=1", np.ones(40 * 16, np.float32), key="speaker/1.wav", seed=7)[::16]
    )
    assert "".join(str(int(item)) for item in lost) == "1101111000000000111011110000111001000000"


# Recipes


def test_a_recipe_names_what_decides_samples_and_nothing_else(noises: Path, talkers: Path) -> None:
    def recipe(text: str, **how: object) -> str:
        return sha256_of_json(
            opened(text, folder=noises.parent, corpus=load_corpus(talkers), **how).recipe
        )

    texts = (
        "noise:white@10dB",
        "noise:white@11dB",
        "noise:white,active@10dB",
        "noise:babble@10dB",
        "noise:files=noise.csv@10dB",
    )
    assert len(
        {recipe(text) for text in texts} | {recipe(text, seed=1) for text in texts}
    ) == 2 * len(texts)
    assert recipe("telephone") == recipe("telephone:mu") == recipe("telephone", seed=1), (
        "nothing is drawn"
    )
    before = recipe("noise:files=noise.csv@10dB")
    sounds = opened("noise:files=noise.csv@10dB", folder=noises.parent)
    soundfile.write(noises.parent / "hum.wav", voice(3.0), RATE_HZ, subtype="FLOAT")
    assert recipe("noise:files=noise.csv@10dB") != before
    assert str(noises.parent) not in json.dumps(sounds.recipe)
    assert opened("opus").recipe["steps"][0]["libsndfile"] == soundfile.__libsndfile_version__


def test_clean_audio_has_the_recipe_it_always_had() -> None:
    recipe = recipe_of(open_model("fbank", None), ["0"])
    assert (
        sha256_of_json(recipe) == "8a03689aadbed464bfb68ce73ab9e2fae127e94545f7f405994f7833b8cdac65"
    )
    assert parse_condition("clean") == Condition("clean", "clean", (), 0)
    assert open_condition(parse_condition(" clean "), RATE_HZ) is None


# Words


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "0 characters; expected such as clean"),
        ("x" * 2000, "2000 characters"),
        ("nois:white@10dB", "no effect 'nois'. Did you mean 'noise'"),
        ("noise:whit@10dB", "no kind of noise. Did you mean 'noise:white'"),
        ("noise@10dB", "no kind of noise"),
        ("noise:white", "lacks snr; expected such as noise:white@10dB"),
        ("noise:white@", "snr of noise:white is ''; expected a number from -50dB to 100dB"),
        ("noise:white@nan", "snr of noise:white is 'nan'"),
        ("noise:white@inf", "snr of noise:white is 'inf'"),
        ("noise:white@1e99dB", "is '1e99dB'"),
        ("noise:white@10Hz", "is '10Hz'"),
        ("noise:white@10dB@20dB", "is '10dB@20dB'"),
        ("noise:white,snr=10", "has no setting 'snr'"),
        ("noise:white,loud@10dB", "has no setting 'white'|has no setting 'loud'|is 'loud'"),
        ("noise:babble,talker=3@10dB", "Did you mean 'talkers'"),
        ("noise:babble,talkers=2.5@10dB", "a whole number from 1 to 20"),
        ("noise:babble,talkers=3,talkers=4@10dB", "talkers occurs twice"),
        ("noise:files@10dB", "files without a value"),
        ("noise:files=@10dB", "no file"),
        ("reverb:rt60", "rt60 without a value"),
        (
            "reverb:rt60=-1",
            "rt60 of reverb:rt60 is '-1'; expected a number from 0.05 to 10 \\(s\\)",
        ),
        ("reverb:rt60=1e9", "is '1e9'"),
        ("reverb:rt60=0.6@3", "has no level after @"),
        ("speed:0", "factor of speed is '0'"),
        ("telephone:c", "telephone has no setting|law of telephone is 'c'"),
        ("telephone++clip", "nothing between two signs"),
        ("telephone+", "nothing between two signs"),
        ("telephone:,", "nothing between two signs"),
        ("clean+telephone", "clean stands alone"),
        ("bandpass:3400,high=300", "low is not below high by 1 Hz"),
        ("bandpass:300,high=300.5", "low is not below high by 1 Hz"),
        ("mp3:0.5,rate=9000", "has no 9000 Hz"),
        ("loss:90,burst=2", "mean number of packets lost in a row"),
        ("srb:bas:1", "Did you mean 'bass'"),
        ("srb:rir:1", "no preset 'rir' that needs no other data or model"),
        ("srb:bass", "severity ''"),
        ("srb:bass:5", "severity '5'"),
        ("srb:bass:1:1", "expected srb:bass:1 to srb:bass:4"),
        ("+".join(["clip"] * 21), "21 steps; expected at most 20"),
    ],
)
def test_what_cannot_be_understood_is_said(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_condition(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Noise:White@10.0", "noise:white@10dB"),
        (" reverb:rt60=0.60s + telephone:mu ", "reverb:rt60=0.6+telephone"),
        ("noise:babble,active,talkers=6@-5dB", "noise:babble,active@-5dB"),
        ("noise:files=sounds/noise.csv@10dB", "noise:files=noise.csv@10dB"),
        ("telephone:law=A", "telephone:a"),
        ("gain:-0", "gain:0dB"),
        ("SRB:Bass:1+clip", "srb:bass:1+clip"),
    ],
)
def test_texts_that_mean_the_same_have_one_name(text: str, name: str) -> None:
    assert parse_condition(text).name == name
    assert parse_condition(name).name == name


def test_a_name_tells_conditions_apart() -> None:
    generator = np.random.default_rng(0)

    def word(effect: Effect, key: str) -> str:
        parameter = effect.parameters[key]
        if isinstance(parameter, File):
            return f"{key}=a=b .csv"
        if isinstance(parameter, Word):
            return f"{key}={generator.choice(parameter.choices)}"
        value = generator.choice(
            [
                parameter.lowest,
                parameter.highest,
                generator.uniform(parameter.lowest, parameter.highest),
            ]
        )
        return f"{key}={int(value) if parameter.whole else np.format_float_positional(value)}"

    for name, effect in EFFECTS.items():
        kind = name.partition(":")[2]
        first = [kind] if kind and kind not in effect.parameters else []
        n_understood = 0
        for _ in range(60):
            keys = sorted(effect.parameters.keys() - {effect.level}, key=lambda key: key != kind)
            text = ":".join(
                filter(
                    None,
                    [
                        name.partition(":")[0],
                        ",".join([*first, *(word(effect, key) for key in keys)]),
                    ],
                )
            )
            text += "@" + word(effect, effect.level).partition("=")[2] if effect.level else ""
            try:
                condition = parse_condition(text)
            except UsageError:  # settings that do not go together
                continue
            n_understood += 1
            assert parse_condition(condition.name).steps == condition.steps, text
        assert n_understood > 5, name
    assert parse_condition("gain:1.00000000001").steps == parse_condition("gain:1").steps


def test_a_preset_is_its_steps() -> None:
    assert np.array_equal(
        heard("srb:echo:2", voice()), heard("echo:250,decay=0.375+gain:factor=0.72+clip", voice())
    )
    assert all(len(severities) == 4 for severities in PRESETS.values())


def test_silence_and_bad_sounds_are_refused(tmp_path: Path, noises: Path) -> None:
    with pytest.raises(UtteranceError, match="silent: it has no level"):
        heard("noise:white@10dB", np.zeros(1000, np.float32))
    assert not heard("telephone+reverb:rt60=0.5", np.zeros(1000, np.float32)).any()
    with pytest.raises(UtteranceError, match="nothing is left of its 1 samples"):
        heard("speed:4", np.ones(1, np.float32))
    with pytest.raises(UtteranceError, match="no finite numbers under gain:100dB"):
        heard("gain:100dB", np.full(10, 3e38, np.float32))
    soundfile.write(tmp_path / "silent.wav", np.zeros(1000), RATE_HZ)
    with pytest.raises(ProbeError, match=r"silent\.wav: silent"):
        opened("noise:files=silent.wav@10dB", folder=tmp_path)
    soundfile.write(tmp_path / "click.wav", np.ones(400), RATE_HZ)
    with pytest.raises(
        ProbeError, match=r"click\.wav: 25 ms of sound; expected at least 0\.1 s of noise"
    ):
        opened("noise:files=click.wav@10dB", folder=tmp_path)
    soundfile.write(tmp_path / "offset.wav", np.full(8000, 0.5), RATE_HZ)
    with pytest.raises(ProbeError, match=r"offset\.wav: one value throughout"):
        opened("noise:files=offset.wav@10dB", folder=tmp_path)
    assert opened("reverb:files=click.wav", folder=tmp_path).sounds[0] is not None
    with pytest.raises(ProbeError, match=r"gone\.wav: cannot be read"):
        opened("noise:files=gone.wav@10dB", folder=tmp_path)
    with pytest.raises(ProbeError, match=r"gone\.csv: does not exist"):
        opened("reverb:files=gone.csv", folder=tmp_path)
    noises.write_text(noises.read_text().replace(",noise,", ",train,"))
    with pytest.raises(ProbeError, match="3 rows, none of split noise"):
        opened("noise:files=noise.csv@10dB", folder=tmp_path)


def test_conditions_are_declared_in_toml(noises: Path) -> None:
    file = noises.parent / "heard.toml"
    file.write_text(
        '[conditions]\nkitchen = "noise:files=noise.csv@10dB"\nphone = '
        '"reverb:rt60=0.3+telephone"\n'
    )
    declared = declared_conditions(file, seed=3)
    assert {name: item.text for name, item in declared.items()} == {
        "kitchen": "noise:files=noise.csv@10dB",
        "phone": "reverb:rt60=0.3+telephone",
    }
    with pytest.raises(UsageError, match=r"kitchn.*Declared names: kitchen, phone\."):
        parse_condition("kitchn", declared=declared)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert declared_conditions(file, seed=3) == declared
    kitchen = parse_condition("kitchen", declared=declared)
    assert (kitchen.name, kitchen.seed) == ("kitchen", 3)
    assert open_condition(kitchen, RATE_HZ) is not None, "paths start from the file's folder"
    for content, message in (
        ("x = 1", "found x; expected only a table"),
        ('x = 1\n[conditions]\na = "telephone"', "found x, conditions; expected only"),
        ("[conditions]", "found conditions; expected only a table .* that has lines"),
        ('[conditions]\nclean = "telephone"', "'clean' is no name"),
        ('[conditions]\nnoise = "telephone"', "'noise' is no name"),
        ("[conditions]\na = 1", "a is 1; expected a text"),
        ('[conditions]\na = "telefone"', "heard.toml, a: .*Did you mean 'telephone'"),
        ("[conditions", "cannot be read as TOML"),
    ):
        file.write_text(content)
        with pytest.raises(ProbeError, match=message):
            declared_conditions(file)


# Extraction


def features(done: Extraction) -> dict[str, bytes]:
    """Key -> the bytes of its frames."""
    layer = open_store(done.store, "0")
    return {key: rows.tobytes() for key, rows in zip(layer.keys, layer, strict=True)}


@pytest.mark.parametrize(
    "text", ["noise:babble,talkers=2@5dB", "reverb:rt60=0.3+telephone+noise:pink@10dB+loss:10"]
)
def test_features_do_not_depend_on_order_threads_or_limit(
    text: str, tones: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = tones(words=2, repetitions=3)
    head, *rows = manifest.read_text().splitlines()
    backwards = manifest.with_name("backwards.csv")
    backwards.write_text("\n".join([head, *reversed(rows)]) + "\n")
    corpus = load_corpus(manifest)
    whole = extract(
        "fbank",
        corpus,
        tmp_path / "1",
        condition=text,
        running=Running(check=False),
        decoding=Decoding(workers=1),
    )
    many = extract(
        "fbank",
        corpus,
        tmp_path / "4",
        condition=text,
        running=Running(check=False),
        decoding=Decoding(workers=4),
    )
    other = extract(
        "fbank",
        load_corpus(backwards),
        tmp_path / "b",
        condition=text,
        running=Running(check=False),
        decoding=Decoding(workers=4),
    )
    few = extract(
        "fbank",
        corpus,
        tmp_path / "l",
        condition=text,
        storing=Storing(limit=3),
        running=Running(check=False),
    )
    assert len(features(whole)) == len(rows)
    assert features(whole) == features(many) == features(other)
    assert whole.store.name == many.store.name == other.store.name == few.store.name
    assert features(few).items() < features(whole).items()
    clean = extract("fbank", corpus, tmp_path / "1", running=Running(check=False))
    assert not features(clean).items() & features(whole).items()


def test_a_store_says_what_was_done_and_is_chosen_by_it(
    tones: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = tones(words=1, repetitions=3)
    for text, seed in (
        ("clean", 0),
        ("tempo:0.5", 0),
        ("noise:white@10dB", 0),
        ("noise:white@10dB", 1),
    ):
        done = extract(
            "fbank",
            manifest,
            tmp_path / "f",
            condition=parse_condition(text, seed=seed),
            running=Running(check=False),
        )
        assert done.plan.n_frames == sum(
            item[-1].n_frames for item in open_store(done.store).utterances.values()
        )
    slow = select_store(tmp_path / "f", "fbank", "frames", "tempo:0.5")
    assert slow.recipe["condition"] == "tempo:0.5"
    assert slow.recipe["disturbance"]["stretch"] == 2
    assert describe_store(slow)["disturbed by"] == "tempo:0.5, 2 times as long"
    clean = select_store(tmp_path / "f", "fbank", "frames")
    assert "disturbance" not in clean.recipe
    assert "disturbed by" not in describe_store(clean)
    n_frames = (
        {item[-1].n_frames for item in clean.utterances.values()},
        {item[-1].n_frames for item in slow.utterances.values()},
    )
    assert n_frames == ({28}, {58})
    with pytest.raises(
        ProbeError, match=r"2 stores of fbank under noise:white@10dB: .* their seed differ"
    ):
        select_store(tmp_path / "f", "fbank", "frames", "noise:white@10dB")
    with pytest.raises(ProbeError, match="--condition telephone --corpus"):
        select_store(tmp_path / "f", "fbank", "frames", "telephone")


def test_an_utterance_without_a_level_is_a_named_failure(
    tones: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = tones(words=1, repetitions=3)
    soundfile.write(manifest.parent / "near-0-1-1.wav", np.zeros(4800), RATE_HZ)
    done = extract(
        "fbank",
        manifest,
        tmp_path / "f",
        condition="noise:white@10dB",
        running=Running(check=False),
    )
    assert [(item.key, item.reason) for item in done.failures] == [
        ("near-0-1-1.wav", "silent: it has no level that a signal-to-noise ratio could be of")
    ]
    assert done.extracted == 11


def test_a_damaged_store_of_a_condition_is_mended_to_the_same_bytes(
    tones: Callable[..., Path], noises: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tones(words=1, repetitions=3)
    for text in ("noise:babble,talkers=2@5dB+telephone", f"noise:files={noises}@5dB"):
        done = extract(
            "fbank",
            manifest,
            tmp_path / "f",
            condition=parse_condition(text, seed=3),
            running=Running(check=False),
        )
        shard = done.store / "shard-00000.h5"
        content = shard.read_bytes()
        shard.write_bytes(content[:1000] + bytes(8) + content[1008:])
        assert verify_store(done.store).damage
        monkeypatch.chdir(noises.parent)  # where the command finds the condition's files
        mend(done.store, manifest)
        assert shard.read_bytes() == content


def test_bench_extracts_every_condition(
    tones: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def asks(task: Task, *_: object) -> Run:
        asked.append(task.settings.conditions)
        return Run([], [], [])

    monkeypatch.setattr("probe.evaluation.engine_jobs.run", asks)
    done = bench(
        ["fbank"],
        ["word-id"],
        tones(words=2),
        tmp_path,
        scope=Scope(conditions=["clean", "telephone"]),
        extracting=Extracting(running=Running(check=False)),
    )
    assert [open_store(item.store).recipe["condition"] for item in done.extractions] == [
        "clean",
        "telephone",
    ]
    bench(
        ["fbank"],
        ["word-id"],
        tones(words=2),
        tmp_path,
        extracting=Extracting(running=Running(check=False)),
    )
    assert asked == [("clean", "telephone"), ("clean",)]


def test_the_command_takes_conditions(tones: Callable[..., Path], tmp_path: Path) -> None:
    manifest, declared = tones(words=1, repetitions=3), tmp_path / "heard.toml"
    declared.write_text('[conditions]\nphone = "telephone"\nhall = "reverb:rt60=2"\n')
    line = [
        "extract",
        "--model",
        "fbank",
        "--corpus",
        str(manifest),
        "--to",
        str(tmp_path / "f"),
        "--no-check",
    ]
    both = CliRunner().invoke(
        cli,
        [*line, "--condition", "clean", "--condition", "phone", "--condition-file", str(declared)],
    )
    assert both.exit_code == 0, both.output
    all_of_it = CliRunner().invoke(
        cli, [*line, "--condition-file", str(declared), "--condition-seed", "5"]
    )
    assert all_of_it.exit_code == 0, all_of_it.output
    names = sorted(
        path.parent.name.rsplit("-", 1)[0] for path in (tmp_path / "f").glob("*/*/recipe.json")
    )
    assert names == ["frames-clean", "frames-hall", "frames-phone"]
    wrong = CliRunner().invoke(cli, [*line, "--condition", "telefone"])
    assert isinstance(wrong.exception, UsageError)


def test_noise_that_is_shipped_too_quiet_is_scaled(speech: Path) -> None:
    corpus = load_corpus(speech / "sentences_disjoint.csv")
    disturbance = opened("noise:files=noise.csv@10dB", folder=speech)
    assert disturbance.sounds[0] is not None
    assert max(decibels(rms(disturbance.sounds[0].load(number))) for number in range(3)) < -30
    for utterance in corpus.utterances[:4]:
        samples = soundfile.read(utterance.path, dtype="float32")[0]
        added = disturbance.apply(samples, utterance.key).astype(np.float64) - samples
        assert decibels(rms(samples) / rms(added)) == pytest.approx(10, abs=0.1)


def test_one_name_for_different_files_is_refused(tmp_path: Path) -> None:
    """A condition's name has a file's name and not its folder."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    texts = [f"noise:files={tmp_path / folder / 'n.wav'}@10dB" for folder in "ab"]
    first, other = map(parse_condition, texts)
    assert list(distinct([first, first])) == [first.name] == [other.name]
    with pytest.raises(
        UsageError, match=r"noise:files=n\.wav@10dB: means different files or seeds"
    ):
        distinct([first, other])


def test_an_utterance_of_which_only_silence_is_left_is_refused() -> None:
    condition = open_condition(parse_condition("loss:100%"), RATE_HZ)
    assert condition is not None
    with pytest.raises(UtteranceError, match="nothing but silence is left of it under loss:100"):
        condition.apply(np.ones(8000, np.float32), "a")
    assert not condition.apply(np.zeros(8000, np.float32), "a").any()  # it was silent before
