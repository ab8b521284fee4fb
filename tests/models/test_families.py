"""Families with a front-end, a frame rate or a final output of their own: layers are transformers'
own, frames where they say.
"""

import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import soundfile
import torch
import transformers
from click.testing import CliRunner
from exhaustive import mostly_nightly
from mending import mend
from runs import run
from scored import layer_rows, summary_rows
from small_models import EXTRACTOR, EXTRACTORS, FAMILIES, OTHER_FAMILIES
from torch import Tensor

from probe.cli import cli
from probe.data.corpus import load_corpus
from probe.errors import ProbeError, UsageError
from probe.evaluation.dataset import Features
from probe.evaluation.frame_times import first_centre_s
from probe.extraction.extract import extract, recipe_of
from probe.extraction.settings import Running, Storing
from probe.files import read_json, sha256_of_json, write_json
from probe.models.catalogue import open_model
from probe.models.check import check_model
from probe.models.encoder import CONV, CTC, Chunking, Encoder, greedy_text, pieces_of
from probe.models.reference import TransformersEncoder
from probe.records import NO_LAYER, WEIGHTED, frame_of
from probe.store.export import export
from probe.store.feature_store import FeatureStore
from probe.store.integrity import verify_store
from probe.store.stores import open_store

RATE_HZ = 16_000
SEW_LAYERS = ["conv", "0", "1", "2", "3", "final"]


def noise(n_samples: int, seed: int = 0) -> Tensor:
    """Noise with an offset."""
    return 0.05 * torch.randn(n_samples, generator=torch.Generator().manual_seed(seed)) + 0.01


def encode(encoder: Encoder, wave: Tensor, *layers: str) -> dict[str, Tensor]:
    """Layer -> (frame, dim); every layer where none is named."""
    names = list(layers or encoder.info.every_layer)
    frames, _ = encoder.encode(wave[None], torch.tensor([len(wave)]), names)
    return {name: item[0] for name, item in zip(names, frames, strict=True)}


# Layers


@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_a_sound_checkpoint_passes_its_check_and_says_how_it_is_computed(
    others: dict[str, Path], family: str
) -> None:
    encoder = open_model(str(others[family]), "cpu")
    is_packed = encoder.implementation == "packed"
    assert is_packed == (family == "whisper")
    assert is_packed != any("no packed form: model_type is" in note for note in encoder.info.notes)
    certificate = check_model(encoder, quick=True)
    assert not certificate.failed
    passed = {finding.check for finding in certificate.findings if finding.result == "pass"}
    assert passed >= {
        "weights",
        "values of weights",
        "input",
        "layers",
        "alone",
        "normalisation",
        "final",
        "frames",
        "batches",
        "values",
    }


@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_every_layer_is_the_whole_library_s_own(others: dict[str, Path], family: str) -> None:
    wave = noise(20_250)
    found = encode(open_model(str(others[family]), "cpu"), wave)
    model = transformers.AutoModel.from_pretrained(others[family]).eval()
    inputs = EXTRACTORS.get(family, EXTRACTOR)(
        wave.numpy(), sampling_rate=RATE_HZ, return_tensors="pt"
    )
    with torch.inference_mode():
        output = (model.encoder if family == "whisper" else model)(
            **inputs, output_hidden_states=True
        )
    for i in range(3):
        expected = output.hidden_states[i][0, : len(found[str(i)])]
        assert torch.allclose(found[str(i)], expected, atol=1e-4), f"layer {i}"
    final = found.get("final", found["3"])
    assert torch.allclose(final, output.last_hidden_state[0, : len(final)], atol=1e-4)
    if family == "w2v-bert 2.0":
        assert len(final) == int(inputs.attention_mask.sum()) < inputs.attention_mask.shape[1], (
            "an odd number of 10 ms frames"
        )
    if family == "whisper":
        with torch.inference_mode():
            assert torch.allclose(model.encoder.layer_norm(found["3"]), final, atol=1e-5)
        positions = model.encoder.embed_positions.weight[: len(final)]
        assert torch.allclose(found["0"] - positions, found[CONV], atol=1e-5)


@pytest.mark.parametrize(
    "family",
    [
        "wav2vec2 post-LN",
        "data2vec-audio",
        "hubert pre-LN",
        "wavlm post-LN",
        "unispeech-sat post-LN",
    ],
)
@pytest.mark.parametrize("implementation", ["packed", "reference"])
def test_conv_is_what_the_front_end_gives_before_it_is_projected(
    folders: dict[str, Path], family: str, implementation: str
) -> None:
    encoder = open_model(str(folders[family]), "cpu", implementation=implementation)
    wave = noise(7777)
    found = encode(encoder, wave, CONV)[CONV]
    model = transformers.AutoModel.from_pretrained(folders[family]).eval()
    with torch.inference_mode():
        expected = model.feature_extractor(
            EXTRACTOR(wave.numpy(), sampling_rate=RATE_HZ, return_tensors="pt").input_values
        )[0].T
    assert found.shape == (24, 12)
    assert float((found - expected).abs().max()) <= 2e-5 * float(expected.square().mean().sqrt())
    assert torch.equal(encode(encoder, wave, "2", CONV, "0")[CONV], found), (
        "whatever else is asked for"
    )


# Frames


@pytest.mark.parametrize(
    ("family", "counts"),
    [
        # samples -> frames of the numbered layers
        ("sew", {719: 0, 720: 1, 1039: 1, 1359: 1, 1360: 2, 16_000: 24, 480_000: 749}),
        ("sew-d", {719: 0, 720: 1, 16_000: 24}),
        ("w2v-bert 2.0", {559: 0, 560: 1, 879: 1, 880: 2, 16_000: 49, 480_000: 1499}),
        ("whisper", {0: 0, 1: 1, 320: 1, 321: 2, 16_000: 50, 480_000: 1500, 480_001: 1501}),
        ("wav2vec2-conformer rotary", {399: 0, 400: 1, 16_000: 49}),
    ],
)
def test_frames_for_a_length(others: dict[str, Path], family: str, counts: dict[int, int]) -> None:
    encoder = open_model(str(others[family]), "cpu")
    assert {n: encoder.info.n_frames(n) for n in counts} == counts
    for n in (n for n, count in counts.items() if 0 < count < 30):
        assert len(encode(encoder, noise(n), "2")["2"]) == counts[n]


@pytest.mark.parametrize("n_samples", [1040, 1359, 1360, 16_000])
def test_sew_comes_back_to_the_frames_of_its_front_end(
    others: dict[str, Path], n_samples: int
) -> None:
    encoder = open_model(str(others["sew"]), "cpu")
    found = encode(encoder, noise(n_samples))
    whole, half = 1 + (n_samples - 400) // 320, (1 + (n_samples - 400) // 320) // 2
    assert list(found) == SEW_LAYERS
    assert [len(found[name]) for name in SEW_LAYERS] == [whole, half, half, half, half, whole]
    assert found["final"][: 2 * half].any(dim=1).all()
    assert not found["final"][2 * half :].any(), "a frame that no pair has"
    assert [encoder.info.n_frames(n_samples, name) for name in SEW_LAYERS] == [
        len(found[name]) for name in SEW_LAYERS
    ]


@pytest.mark.parametrize(
    ("family", "layer"),
    [
        *((family, CONV) for family in ("sew", "whisper", "wav2vec2-conformer relative")),
        *(
            (family, "0")
            for family in ("sew", "w2v-bert 2.0", "whisper", "wav2vec2-conformer relative")
        ),
    ],
)
def test_frames_stand_in_the_middle_of_what_they_hear(
    others: dict[str, Path], family: str, layer: str
) -> None:
    encoder = open_model(str(others[family]), "cpu")
    assert isinstance(encoder, TransformersEncoder)
    if family == "sew":  # its positions, which reach far and are added to the pairs
        encoder.model.encoder.pos_conv_embed.register_forward_hook(
            lambda _module, _inputs, output: 0 * output
        )
    grid = encoder.info.other_grids.get(layer, encoder.info.grid)
    wave, off = noise(32_000), []
    before = encode(encoder, wave, layer)[layer]
    for at in range(8000, 24_000, 1337):
        clicked = wave.clone()
        clicked[at - 2 : at + 2] += torch.tensor([0.5, -0.5, 0.5, -0.5])
        moved = (encode(encoder, clicked, layer)[layer] - before).norm(dim=1)
        heard = torch.nonzero(moved > 0.3 * moved.max())
        off.append(float(heard[0] + heard[-1]) / 2 * grid.hop_samples + grid.field_samples / 2 - at)
    assert abs(float(np.median(off))) < grid.hop_samples / 4, off


# Whisper's windows


@pytest.fixture
def short_whisper(tmp_path: Path) -> Path:
    """A Whisper that hears 2 s."""
    config_class, settings = OTHER_FAMILIES["whisper"]
    torch.manual_seed(1)
    transformers.AutoModel.from_config(
        config_class(**settings, max_source_positions=100)
    ).save_pretrained(tmp_path)
    transformers.WhisperFeatureExtractor(chunk_length=2).save_pretrained(tmp_path)
    return tmp_path


def test_long_audio_is_heard_in_windows_with_context(short_whisper: Path) -> None:
    encoder = open_model(str(short_whisper), "cpu", chunk_s=1.2, context_s=0.4)
    wave = noise(5 * RATE_HZ + 77)
    found = encode(encoder, wave)
    assert {len(frames) for frames in found.values()} == {251}
    # Kept: 60 frames each, seen with 20 on both sides as far as there is audio.
    for kept_from, kept_to, start, stop in [
        (0, 60, 0, 80),
        (60, 120, 40, 140),
        (120, 180, 100, 200),
        (180, 240, 160, 251),
        (240, 251, 220, 251),
    ]:
        alone = encode(encoder, wave[start * 320 : stop * 320])
        for layer, frames in found.items():
            assert torch.equal(
                frames[kept_from:kept_to], alone[layer][kept_from - start : kept_to - start]
            ), (layer, kept_from)
    encoder.rows = 100
    pieces = list(pieces_of(encoder, [wave, wave[:640]], ["2"]))
    assert [len(piece[0]) for piece in pieces] == [60, 60, 60, 60, 11, 2], (
        "never more than a window in memory"
    )
    assert torch.equal(torch.cat([piece[0] for piece in pieces[:5]]), found["2"])
    assert recipe_of(encoder, ["0"])["chunking"] == {
        "above_s": 2.0,
        "chunk_s": 1.2,
        "context_s": 0.4,
    }
    whole = wave[: 2 * RATE_HZ]
    assert not torch.equal(encode(encoder, whole)["3"][60:], found["3"][60:100]), (
        "2 s are one window"
    )


@pytest.mark.parametrize(
    ("chunk_s", "context_s", "found"),
    [(0.0, 0.4, "--chunk-s 0"), (1.5, 0.4, "windows of 2.3 s"), (20.0, 5.0, "windows of 30 s")],
)
def test_windows_that_it_cannot_hear_are_refused(
    short_whisper: Path, chunk_s: float, context_s: float, found: str
) -> None:
    with pytest.raises(UsageError, match=rf"{found}.*it hears 2 s at a time"):
        open_model(str(short_whisper), "cpu", chunk_s=chunk_s, context_s=context_s)


def test_shards_of_whisper_hold_as_much_audio_as_it_computes_and_no_more(
    short_whisper: Path, tmp_path: Path, shards_of: Callable[..., None]
) -> None:
    seconds = [0.2] * 7 + [
        2.5,
        0.2,
    ]  # 2.5 s are three windows of 1.2 s, and each costs 2 s of computing
    lines = ["path,text,speaker,domain,split,duration_s"]
    for number, duration_s in enumerate(seconds):
        soundfile.write(
            tmp_path / f"{number}.wav", noise(int(duration_s * RATE_HZ), number).numpy(), RATE_HZ
        )
        lines.append(f"{number}.wav,one,ann,near,train,{duration_s}")
    (tmp_path / "corpus.csv").write_text("\n".join(lines) + "\n")
    shards_of(audio_s=6.0)
    encoder = open_model(str(short_whisper), "cpu", chunk_s=1.2, context_s=0.4)
    done = extract(
        encoder,
        tmp_path / "corpus.csv",
        tmp_path / "features",
        storing=Storing(view="mean"),
        running=Running(check=False),
    )
    assert [job.keys for job in FeatureStore(done.store).jobs] == [
        ("0.wav", "1.wav", "2.wav"),
        ("3.wav", "4.wav", "5.wav"),
        ("6.wav",),
        ("7.wav",),
        ("8.wav",),
    ]


def test_the_usual_windows_of_whisper_are_30_s(others: dict[str, Path]) -> None:
    chunking = open_model(str(others["whisper"]), "cpu").chunking
    assert chunking is not None
    assert (chunking.above_s, chunking.chunk_s, chunking.context_s) == (30.0, 20.0, 5.0)


# Loading


def test_whisper_leaves_its_decoder_out_and_says_so(others: dict[str, Path]) -> None:
    info = open_model(str(others["whisper"]), "cpu").info
    assert info.left_out
    assert all("decoder" in name for name in info.left_out)
    assert (
        info.notes[0]
        == f"its decoder was left out ({len(info.left_out)} weights); layers are those of the"
        " encoder"
    )


@pytest.mark.parametrize(
    "head",
    [transformers.WhisperForConditionalGeneration, transformers.WhisperForAudioClassification],
)
def test_whisper_with_any_head_gives_the_same_encoder(
    others: dict[str, Path], tmp_path: Path, head: Any
) -> None:
    plain = transformers.AutoModel.from_pretrained(others["whisper"])
    model = head(plain.config)
    encoder = model.model.encoder if hasattr(model, "model") else model.encoder
    encoder.load_state_dict(plain.encoder.state_dict())
    model.save_pretrained(tmp_path)
    EXTRACTORS["whisper"].save_pretrained(tmp_path)
    wave = noise(3000)
    expected = encode(open_model(str(others["whisper"]), "cpu"), wave)
    for name, frames in encode(open_model(str(tmp_path), "cpu"), wave).items():
        assert torch.equal(frames, expected[name])


def test_weights_of_an_encoder_with_more_blocks_are_refused(
    others: dict[str, Path], tmp_path: Path
) -> None:
    for family, name in (
        ("whisper", "layers.2."),
        ("sew-d", "encoder.encoder.layer.2."),
        ("sew", "encoder.layers.2."),
    ):
        folder = shutil.copytree(others[family], tmp_path / family)
        config = transformers.AutoConfig.from_pretrained(folder)
        config.num_hidden_layers = 2
        config.save_pretrained(folder)
        with pytest.raises(
            ProbeError,
            match=rf"weights of the encoder have no place in the model .*\(2 blocks\): .*{name}",
        ):
            open_model(str(folder), "cpu")


@pytest.mark.parametrize(
    ("family", "setting"),
    [
        ("whisper", {"feature_size": 128}),
        ("w2v-bert 2.0", {"stride": 4}),
        ("whisper", {"dither": 0.1}),
    ],
)
def test_a_preprocessor_that_is_another_model_s_is_refused(
    others: dict[str, Path], tmp_path: Path, family: str, setting: dict[str, Any]
) -> None:
    folder = shutil.copytree(others[family], tmp_path / "model")
    type(EXTRACTORS[family])(**setting).save_pretrained(folder)
    (name, value), *_ = setting.items()
    with pytest.raises(
        ProbeError, match=rf"its preprocessor has .*{name} {value}; this model takes "
    ):
        open_model(str(folder), "cpu")


def test_log_mel_energies_that_are_assumed_are_noted_and_the_same(
    others: dict[str, Path], tmp_path: Path
) -> None:
    for family in ("whisper", "w2v-bert 2.0"):
        folder = shutil.copytree(others[family], tmp_path / family)
        (folder / "preprocessor_config.json").unlink()
        assumed, said = open_model(str(folder), "cpu"), open_model(str(others[family]), "cpu")
        assert "the log-mel energies that the family was trained with are assumed" in " ".join(
            assumed.info.notes
        )
        assert assumed.info.settings == said.info.settings
        wave = noise(4000)
        assert torch.equal(encode(assumed, wave, "1")["1"], encode(said, wave, "1")["1"])


# Stores of layers on several grids


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """A manifest of noise of several lengths."""
    lines = ["path,text,speaker,domain,split,duration_s"]
    for i in range(8):
        n_samples = 4000 + 777 * i
        soundfile.write(tmp_path / f"{i}.wav", noise(n_samples, i).numpy(), RATE_HZ)
        split = ("train", "train", "train", "train", "dev", "dev", "test", "test")[i]
        lines.append(f"{i}.wav,{'ab'[i % 2]},s{i % 2},,{split},{n_samples / RATE_HZ}")
    (tmp_path / "sounds.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "sounds.csv"


@pytest.mark.parametrize(
    "form",
    [{}, {"dtype": "int8"}, {"view": "frames:2"}, {"view": "segments:3"}, {"view": "meanstd"}],
)
@pytest.mark.parametrize("shard_bytes", [256_000_000, 6_000])
def test_a_store_holds_each_layer_at_its_own_rate(
    others: dict[str, Path],
    sounds: Path,
    tmp_path: Path,
    form: dict[str, str],
    shard_bytes: int,
    shards_of: Callable[..., None],
) -> None:
    shards_of(shard_bytes)
    encoder = open_model(str(others["sew"]), "cpu")
    names = (
        SEW_LAYERS if shard_bytes > 6_000 else SEW_LAYERS[1:]
    )  # the first layer has more frames than others, or fewer
    done = extract(
        encoder,
        sounds,
        tmp_path / "f",
        storing=Storing(layers=",".join(names), **form),
        running=Running(check=False),
    )
    store = open_store(tmp_path / "f")
    assert done.failures == []
    assert list(store.layers) == names
    assert store.recipe["model"]["grids"] == {
        name: [320, 400] for name in names if not name.isdecimal()
    }
    assert store.recipe["model"]["field_samples"] == 720
    if shard_bytes < 256_000_000 and not form:
        assert any(job.parts > 1 for job in store.jobs)
    step = 2 if form.get("view") == "frames:2" else 1
    assert store.hop_s("final") == pytest.approx(0.02 * step)
    assert store.hop_s("1") == pytest.approx(0.04 * step)
    verified = verify_store(store.path)
    assert not verified.damage, verified.lines()
    for i, key in enumerate(store.keys):
        direct = encode(
            encoder, torch.from_numpy(soundfile.read(sounds.parent / key, dtype="float32")[0])
        )
        for layer, expected in ((name, direct[name]) for name in names):
            (found,) = store.layer(
                layer, [key], "mean" if form.get("view") == "meanstd" else form.get("view")
            )
            if form.get("view") in ("segments:3", "meanstd"):
                n = 3 if form["view"] == "segments:3" else 1
                bounds = np.arange(n + 1) * len(expected) // n
                expected = torch.stack(
                    [expected[a:b].mean(0) for a, b in itertools.pairwise(bounds)]
                )
            else:
                expected = expected[::step]
                assert store.utterances[key][-1].on(layer).n_frames == encoder.info.n_frames(
                    4000 + 777 * i, layer
                )
            np.testing.assert_allclose(
                found, expected, atol=0.03 if "dtype" in form else 4e-3, rtol=2e-3
            )


def test_a_store_of_one_rate_says_nothing_of_others(
    others: dict[str, Path], folders: dict[str, Path], sounds: Path, tmp_path: Path
) -> None:
    extract(
        open_model(str(others["sew"]), "cpu"),
        sounds,
        tmp_path / "f",
        storing=Storing(layers="0-3"),
        running=Running(check=False),
    )
    store = open_store(tmp_path / "f")
    assert "grids" not in store.recipe["model"]
    assert not store.utterances["0.wav"][-1].others
    of_before = {
        "id",
        "revision",
        "weights_sha256",
        "family",
        "aliases",
        "rate_hz",
        "hop_samples",
        "normalize",
        "settings",
    }
    encoder = open_model(str(folders["wav2vec2 post-LN"]), "cpu")
    recipe = recipe_of(encoder, list(encoder.info.layers))
    assert set(recipe["model"]) == of_before, (
        "a further entry would be another hash, and another store"
    )
    assert [name for name, _ in recipe["layers"]] == ["0", "1", "2", "3"]


def test_a_layer_deeper_than_the_model_is_not_advised(
    folders: dict[str, Path], sounds: Path, tmp_path: Path
) -> None:
    done = extract(
        str(folders["wav2vec2 post-LN"]),
        sounds,
        tmp_path,
        storing=Storing(view="mean"),
        running=Running(check=False),
    )
    with pytest.raises(
        ProbeError,
        match=r"layer 9 asked for; the store holds 0, 1, 2, 3\. The model has 3 blocks; name one",
    ):
        open_store(done.store.parent.parent).layer("9")


def test_conv_is_extracted_where_it_is_asked_for_and_comes_first(
    folders: dict[str, Path], sounds: Path, tmp_path: Path
) -> None:
    model = str(folders["wavlm pre-LN"])
    for layers, names in (
        (None, ["0", "1", "2", "3", "final"]),
        ("final,conv,0", ["conv", "0", "final"]),
    ):
        extract(
            model,
            sounds,
            tmp_path / str(layers),
            storing=Storing(layers=layers, view="meanstd"),
            running=Running(check=False),
        )
        assert list(open_store(tmp_path / str(layers)).layers) == names
    done = run("speaker-id", model, sounds, tmp_path / "final,conv,0", tmp_path / "r")
    rows = layer_rows(frame_of(done.records))
    assert list(rows["layer"])[:2] == ["conv", "0"]
    with pytest.raises(
        UsageError, match=r"has no layer 'convolution'; it has conv, 0\.\.3, final\."
    ):
        extract(model, sounds, tmp_path / "none", storing=Storing(layers="convolution"))


@pytest.mark.parametrize(
    "family",
    mostly_nightly(
        ["sew", "sew-d", "w2v-bert 2.0", "wav2vec2-conformer rotary"], ["sew", "w2v-bert 2.0"]
    ),
)
def test_a_checkpoint_s_own_ctc_head_reads_the_frames_of_its_final_output(
    others: dict[str, Path], sounds: Path, tmp_path: Path, family: str
) -> None:
    folder, tokens = tmp_path / "ctc", ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDE"]
    torch.manual_seed(3)
    model = transformers.AutoModelForCTC.from_config(
        transformers.AutoConfig.from_pretrained(others[family])
    ).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(50)
    model.save_pretrained(folder)
    EXTRACTORS.get(family, EXTRACTOR).save_pretrained(folder)
    (folder / "vocab.json").write_text(
        json.dumps({token: number for number, token in enumerate(tokens)}), encoding="utf-8"
    )
    transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    assert not check_model(open_model(str(folder), "cpu"), quick=True).failed
    extract(
        str(folder), sounds, tmp_path / "f", storing=Storing(ctc=True), running=Running(check=False)
    )
    store, texts = open_store(tmp_path / "f"), set()
    for key in store.keys:
        wave = soundfile.read(sounds.parent / key, dtype="float32")[0]
        inputs = EXTRACTORS.get(family, EXTRACTOR)(wave, sampling_rate=RATE_HZ, return_tensors="pt")
        with torch.inference_mode():
            best = model(**inputs).logits[0].argmax(-1).tolist()
        n_frames = open_model(str(folder), "cpu").info.n_frames(len(wave), CTC)
        text = greedy_text(best[:n_frames], ["", "", "", "", " ", *"ABCDE"])
        assert store.utterances[key][-1].ctc_text == text
        texts.add(text)
    assert len(texts) > 1


def test_an_export_has_each_layer_s_rows_and_forms_of_one_rate_refuse(
    others: dict[str, Path], sounds: Path, tmp_path: Path
) -> None:
    extract(
        open_model(str(others["sew"]), "cpu"), sounds, tmp_path / "f", running=Running(check=False)
    )
    store = open_store(tmp_path / "f")
    export(store, tmp_path / "all.h5")
    with h5py.File(tmp_path / "all.h5") as file:
        for layer in store.layers:
            expected = store.layer(layer)
            np.testing.assert_array_equal(file[f"offsets/{layer}"][:], expected.offsets)
            np.testing.assert_array_equal(
                file[f"layers/{layer}"][:], expected.values.astype(np.float32)
            )
        assert file["offsets/0"][-1] < file["offsets/final"][-1]
    for form in ("npy", "sentences"):
        with pytest.raises(
            ProbeError,
            match=(
                rf"{form} needs layers with equally many frames; .*3 and final differ\..*--layers"
            ),
        ):
            export(store, tmp_path / form, form)
        export(store, tmp_path / form, form, layers="0-3")


@pytest.mark.parametrize(
    "others_entry",
    [{}, {"final": [3]}, {"final": [-1, 2]}, {"nowhere": [3, 3]}, {"final": ["3", 3]}, "final"],
)
def test_a_manipulated_count_of_another_layer_is_refused(
    others: dict[str, Path], sounds: Path, tmp_path: Path, others_entry: Any
) -> None:
    extract(
        open_model(str(others["sew"]), "cpu"), sounds, tmp_path / "f", running=Running(check=False)
    )
    folder = open_store(tmp_path / "f").path
    index = read_json(folder / "shard-00000.json")
    index["utterances"][1]["others"] = others_entry
    write_json(
        folder / "shard-00000.json",
        {name: value for name, value in index.items() if name != "checksum"},
    )
    with pytest.raises(
        ProbeError, match=r"shard-00000\.json: .*(others|other layers|other frames)"
    ):
        open_store(tmp_path / "f")


@pytest.mark.parametrize(
    "entry",
    [
        {"grids": {"final": [0, 400]}},
        {"grids": {"7": [320, 400]}},
        {"grids": [1]},
        {"field_samples": "720"},
        {"field_samples": 720.0},
    ],
)
def test_a_manipulated_grid_is_refused(
    others: dict[str, Path], sounds: Path, tmp_path: Path, entry: dict[str, Any]
) -> None:
    extract(
        open_model(str(others["sew"]), "cpu"),
        sounds,
        tmp_path / "f",
        storing=Storing(view="mean"),
        running=Running(check=False),
    )
    path = open_store(tmp_path / "f").path / "recipe.json"
    head = read_json(path)
    head["recipe"]["model"] |= entry
    write_json(
        path,
        {"sha256": sha256_of_json(head["recipe"])}
        | {k: v for k, v in head.items() if k not in ("sha256", "checksum")},
    )
    with pytest.raises(ProbeError, match=rf"recipe\.model\.{next(iter(entry))}"):
        open_store(tmp_path / "f")


def test_tasks_on_frames_take_each_layer_with_its_own_times(
    others: dict[str, Path], sounds: Path, tmp_path: Path
) -> None:
    model = str(others["sew"])
    extract(
        model,
        sounds,
        tmp_path / "f",
        storing=Storing(layers="conv,0-3,final"),
        running=Running(check=False),
    )
    features = Features({"clean": open_store(tmp_path / "f")}, "frames", load_corpus(sounds))
    parts = features.on_grids()
    assert [part.layers for part in parts] == [["0", "1", "2", "3"], ["conv", "final"]]
    assert [part.hop_s for part in parts] == pytest.approx([0.04, 0.02])
    assert [first_centre_s(part) for part in parts] == pytest.approx([0.0225, 0.0125])
    utterance = load_corpus(sounds).utterances[3]
    assert [part.of(utterance).n_rows for part in parts] == [9, 19]

    lines = ["path,start,end,label"]
    for item in load_corpus(sounds).utterances:
        half = (item.duration_s or 0) / 2
        lines += [f"{item.key},0,{half},x", f"{item.key},{half},{2 * half},y"]
    (tmp_path / "phones.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = run(
        "phone-frames",
        model,
        sounds,
        tmp_path / "f",
        tmp_path / "r",
        labels=tmp_path / "phones.csv",
    )
    tests = [record for record in done.records if record.split == "test"]
    assert {record.layer for record in tests if not record.control} >= set(SEW_LAYERS)
    assert len([record for record in tests if record.layer == NO_LAYER]) == 1, (
        "the majority comes once"
    )
    n_frames = sum(math.ceil((4000 + 777 * i) / 320 - 0.75) for i in (6, 7))
    assert {record.n for record in tests} == {n_frames}, (
        "layers of any hop are scored on the same frames"
    )
    (summed,) = [record for record in tests if record.layer == WEIGHTED]
    assert set(summed.layer_weights) == {"0", "1", "2", "3"}
    assert (
        summed.note
        == "a sum of the 4 layers 24 wide; left out: conv (other frames), final (other frames)"
    )


def test_similarity_keeps_to_layers_on_one_grid(
    others: dict[str, Path], sounds: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = str(others["sew"])
    extract(model, sounds, tmp_path / "f", running=Running(check=False))
    done = CliRunner().invoke(
        cli,
        [
            "similarity",
            "--model",
            model,
            "--corpus",
            str(sounds),
            "--from",
            str(tmp_path / "f"),
            "--to",
            str(tmp_path),
            "--only",
            "all",
        ],
    )
    assert done.exit_code == 0, done.output
    assert "layers final have other frames than the rest and are left out" in caplog.text


# Long audio


@pytest.mark.parametrize("family", [family for family in OTHER_FAMILIES if family != "whisper"])
def test_the_transformer_sees_long_audio_in_windows(others: dict[str, Path], family: str) -> None:
    whole = open_model(str(others[family]), "cpu")
    assert whole.chunking == Chunking(40.0, 20.0, 5.0)
    encoder, wave, given = whole.chunked(Chunking(1.0, 0.8, 0.24)), noise(41_637), []
    hook = encoder.model.encoder.register_forward_pre_hook(
        lambda _, inputs: given.append(inputs[0])
    )
    found = encode(encoder, wave)
    hook.remove()
    (hidden,) = given
    assert hidden.shape[1] == 129
    with torch.inference_mode():
        kept = [  # 40 frames of 20 ms, heard with 12 around them
            encoder.model.encoder(hidden[:, max(0, start - 12) : start + 52]).last_hidden_state[
                0, min(start, 12) :
            ][:40]
            for start in range(0, 129, 40)
        ]
    assert torch.equal(found.get("final", found["3"]), torch.cat(kept))
    uncut = encode(whole, wave)
    assert [len(item) for item in found.values()] == [len(item) for item in uncut.values()]
    torch.testing.assert_close(found["0"], uncut["0"], rtol=0, atol=1e-5)
    assert not torch.allclose(found["3"], uncut["3"], rtol=0, atol=1e-3)
    assert torch.equal(encode(encoder, wave[:16_000])["3"], encode(whole, wave[:16_000])["3"]), (
        "up to 1 s it is left whole"
    )


@pytest.mark.parametrize("family", ["sew", "whisper"])
def test_a_store_of_a_family_with_one_form_is_mended_by_the_commands_of_verify(
    others: dict[str, Path], tones: Any, tmp_path: Path, family: str
) -> None:
    corpus = tones(words=1, speakers=1, repetitions=2)
    store = extract(str(others[family]), corpus, tmp_path / "f", storing=Storing(view="mean")).store
    (shard,) = store.glob("*.h5")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    mend(store, corpus)
    assert shard.read_bytes() == whole
    named = open_model(str(others[family]), "cpu", implementation="reference")
    assert named.chunking == open_model(str(others[family]), "cpu").chunking


# From recordings to tables


def frames_expected(family: str, layer: str, n_samples: int) -> int:
    """How many frames a layer of a family has, by the strides and kernels of its front-end as
    published.
    """
    if (
        family == "whisper"
    ):  # mel frames every 160 samples, every second one is kept, the first of them centred at 0
        return sum(320 * i < n_samples for i in range(1500))
    if family == "w2v-bert 2.0":  # windows of 400 samples every 160, in pairs
        return (1 + (n_samples - 400) // 160) // 2
    for kernel, stride in ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)):
        n_samples = (n_samples - kernel) // stride + 1
    return n_samples // 2 if family.startswith("sew") and layer.isdecimal() else n_samples


@pytest.mark.parametrize(
    "family",
    mostly_nightly(
        [*OTHER_FAMILIES, "wav2vec2 pre-LN", "unispeech-sat post-LN", "distilhubert"],
        ["wav2vec2 pre-LN", "sew", "whisper"],
    ),
)
def test_real_speech_goes_from_extraction_to_a_table(
    speech: Path, others: dict[str, Path], folders: dict[str, Path], tmp_path: Path, family: str
) -> None:
    corpus = load_corpus(speech / "digits_shared.csv")
    texts = sorted({item.text for item in corpus.utterances})[:2]
    lines = ["path,text,speaker,domain,split,duration_s"]
    for split, text in (
        ("train", texts[0]),
        ("train", texts[1]),
        ("dev", texts[0]),
        ("test", texts[1]),
    ):
        item = next(item for item in corpus.utterances if (item.split, item.text) == (split, text))
        lines.append(f"{item.path},{item.text},{item.speaker},,{split},")
    (tmp_path / "few.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    folder = str((folders | others)[family])
    done = extract(folder, tmp_path / "few.csv", tmp_path / "f", running=Running(device="cpu"))
    assert (done.extracted, done.failures) == (4, [])
    store = open_store(tmp_path / "f")
    heard = {key: versions[-1] for key, versions in store.utterances.items()}
    samples = {
        item.key: 2 * soundfile.info(item.path).frames
        for item in load_corpus(tmp_path / "few.csv").utterances
    }  # 8 kHz
    assert heard.keys() == samples.keys()
    for key, n_samples in samples.items():
        for layer in store.layers:
            assert heard[key].on(layer).n_rows == frames_expected(family, layer, n_samples)
    result = run("word-id", folder, tmp_path / "few.csv", tmp_path / "f", tmp_path / "r")
    table = summary_rows(frame_of(result.records))
    assert set(table["n"]) == {1, 2}, "the test utterance, and the codelength of those of training"
    assert set(store.layers) <= {record.layer for record in result.records}


def test_every_family_has_a_small_checkpoint() -> None:
    from probe.models.sources.known import FAMILIES as TYPES

    small = {config_class.model_type for config_class, _ in (FAMILIES | OTHER_FAMILIES).values()}
    assert small == set(TYPES)
