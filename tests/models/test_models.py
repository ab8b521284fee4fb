"""Models: every layer is transformers' own, batch mates change nothing, and a checkpoint that would
lie is refused.

Checkpoints are small transformers models with seeded random weights, written by
``save_pretrained``.
"""

import argparse
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio
import transformers
from exhaustive import mostly_nightly
from safetensors.torch import load_file, save_file
from small_models import EXTRACTOR, FAMILIES, SIZES
from torch import Tensor

from probe.errors import ProbeError
from probe.models.catalogue import choose_device, offline_names, open_model
from probe.models.encoder import Encoder
from probe.models.frames import FrameGrid
from probe.models.sources import checkpoints, configurations
from probe.models.sources.known import known_models

# Families that tests of every family run by default.
FEW = ["wav2vec2 post-LN", "wav2vec2 pre-LN", "data2vec-audio"]
LENGTHS = (6000, 400, 9111, 2000, 719)
KERNELS = [(10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)]


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A wav2vec2 checkpoint that a test may damage."""
    return Path(shutil.copytree(folders["wav2vec2 post-LN"], tmp_path / "checkpoint"))


@pytest.fixture
def offline(tmp_path: Path, hub_settings: Callable[..., None]) -> Path:
    """An empty hub cache, and no network."""
    hub_settings(tmp_path / "hub", offline=True)
    return tmp_path / "hub"


def waves(*lengths: int) -> list[Tensor]:
    """Noise with an offset and another level each, so that normalisation matters."""
    generator = torch.Generator().manual_seed(3)
    return [
        0.02 * (i + 1) * torch.randn(length, generator=generator) + 0.03
        for i, length in enumerate(lengths)
    ]


def encode(encoder: Encoder, *alone: Tensor) -> tuple[list[Tensor], Tensor]:
    """Every layer of a batch whose padding is garbage, as nothing may read it."""
    batch = torch.full((len(alone), max(map(len, alone))), 77.0)
    for row, wave in zip(batch, alone, strict=True):
        row[: len(wave)] = wave
    return encoder.encode(
        batch, torch.tensor([len(wave) for wave in alone]), list(encoder.info.layers)
    )


def error_of(found: Tensor, expected: Tensor) -> float:
    """The largest error relative to the largest expected value."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def edit_weights(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


# Layers


@pytest.mark.parametrize("family", mostly_nightly(FAMILIES, FEW))
@pytest.mark.parametrize("length", [400, 7777])
def test_every_layer_equals_transformers_own(
    folders: dict[str, Path], family: str, length: int
) -> None:
    (wave,) = waves(length)
    encoder = open_model(str(folders[family]), "cpu")
    frames, _ = encode(encoder, wave)
    layers = dict(zip(encoder.info.layers, (item[0] for item in frames), strict=True))

    reference = transformers.AutoModel.from_pretrained(folders[family]).eval()
    last_block: list[Any] = []
    reference.encoder.layers[-1].register_forward_hook(
        lambda _module, _inputs, output: last_block.append(output)
    )
    inputs = EXTRACTOR(wave.numpy(), sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        expected = reference(inputs.input_values, output_hidden_states=True)
        normed = reference.encoder.layer_norm(layers["3"])

    for i in range(3):
        assert error_of(layers[str(i)], expected.hidden_states[i][0]) <= 1e-5, f"layer {i}"
    output = last_block[0]
    assert error_of(layers["3"], (output[0] if isinstance(output, tuple) else output)[0]) <= 1e-5
    final = layers[encoder.info.aliases.get("final", "final")]
    assert error_of(final, expected.last_hidden_state[0]) <= 1e-5
    if "pre-LN" in family:
        assert list(layers) == ["0", "1", "2", "3", "final"]
        assert encoder.info.aliases == {}
        assert error_of(normed, expected.last_hidden_state[0]) <= 1e-5
        assert error_of(layers["3"], expected.last_hidden_state[0]) > 0.1, (
            "final is a layer of its own"
        )
    else:
        assert list(layers) == ["0", "1", "2", "3"]
        assert encoder.info.aliases == {"final": "3"}


@pytest.mark.parametrize("family", mostly_nightly(FAMILIES, FEW))
def test_layers_come_in_the_order_asked_for(folders: dict[str, Path], family: str) -> None:
    encoder = open_model(str(folders[family]), "cpu")
    (wave,) = waves(3000)
    every = dict(zip(encoder.info.layers, encode(encoder, wave)[0], strict=True))
    frames, n_frames = encoder.encode(wave[None], torch.tensor([3000]), ["2", "0"])
    assert torch.equal(frames[0], every["2"])
    assert torch.equal(frames[1], every["0"])
    assert n_frames.tolist() == [[9], [9]]


def test_the_preprocessor_decides_whether_waveforms_are_normalised(copy: Path) -> None:
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(copy)
    encoder = open_model(str(copy), "cpu")
    assert not encoder.info.normalize
    (wave,) = waves(4000)
    reference = transformers.AutoModel.from_pretrained(copy).eval()
    with torch.inference_mode():
        expected = reference(wave[None]).last_hidden_state
    assert error_of(encode(encoder, wave)[0][-1], expected) <= 1e-5


def test_a_normalised_model_does_not_hear_the_level_or_the_offset(folders: dict[str, Path]) -> None:
    encoder = open_model(str(folders["wav2vec2 pre-LN"]), "cpu")
    (wave,) = waves(4000)
    for louder in (20 * wave, wave + 0.4):
        for found, expected in zip(
            encode(encoder, louder)[0], encode(encoder, wave)[0], strict=True
        ):
            assert error_of(found, expected) <= 1e-3


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_silence_gives_finite_frames(folders: dict[str, Path], value: float) -> None:
    for folder in folders.values():
        frames, _ = encode(open_model(str(folder), "cpu"), torch.full((2000,), value))
        assert all(layer.isfinite().all() for layer in frames)


# Batch mates


@pytest.mark.parametrize(
    "family", mostly_nightly([*FAMILIES, "fbank", "mfcc"], [*FEW, "fbank", "mfcc"])
)
def test_an_utterance_alone_and_in_any_batch_gives_the_same_frames(
    folders: dict[str, Path], family: str
) -> None:
    encoder = open_model(str(folders.get(family, family)), "cpu")
    several = waves(*LENGTHS)
    alone = [[layer[0] for layer in encode(encoder, wave)[0]] for wave in several]
    for order in ([0, 1, 2, 3, 4], [4, 2], [3, 1, 0]):
        frames, n_frames = encode(encoder, *(several[i] for i in order))
        assert n_frames.tolist() == [[encoder.info.n_frames(LENGTHS[i]) for i in order]] * len(
            encoder.info.layers
        )
        for layer, of_layer in enumerate(frames):
            for row, i in zip(of_layer, order, strict=True):
                valid = encoder.info.n_frames(LENGTHS[i])
                assert torch.equal(row[:valid], alone[i][layer])
                assert not row[valid:].any(), "frames past a length are 0"


@pytest.mark.parametrize("family", mostly_nightly(FAMILIES, FEW))
def test_frames_are_counted_without_running_the_model(
    folders: dict[str, Path], family: str
) -> None:
    encoder = open_model(str(folders[family]), "cpu")
    reference = transformers.AutoModel.from_pretrained(folders[family])
    lengths = [*range(400, 1100, 7), 16_000, 480_000]
    expected = reference._get_feat_extract_output_lengths(torch.tensor(lengths)).tolist()
    assert [encoder.info.n_frames(length) for length in lengths] == expected
    assert (encoder.info.grid.min_samples, encoder.info.grid.hop_samples) == (400, 320)


@pytest.mark.parametrize(
    ("n_samples", "n_frames"), [(0, 0), (1, 0), (399, 0), (400, 1), (16_000, 49), (480_000, 1499)]
)
def test_the_family_needs_400_samples_a_frame_and_320_for_each_further_one(
    n_samples: int, n_frames: int
) -> None:
    grid = FrameGrid.of_convolutions(KERNELS)
    assert grid == FrameGrid(320, 400, 400)
    assert grid.n_frames(n_samples) == n_frames


# What a checkpoint says about itself


def test_a_checkpoint_is_described(folders: dict[str, Path]) -> None:
    folder = folders["wav2vec2 pre-LN"]
    info = open_model(str(folder), "cpu").info
    assert (info.id, info.family, info.rate_hz, info.normalize) == (
        folder.name,
        "wav2vec2",
        16_000,
        True,
    )
    assert (info.revision, info.spec) == (info.weights_sha256[:12], str(folder))
    assert info.layers == {"0": 24, "1": 24, "2": 24, "3": 24, "final": 24}
    assert (
        info.weights_sha256
        == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    )
    assert info.parameters == sum(
        weight.numel() for weight in load_file(folder / "model.safetensors").values()
    )
    assert info.notes == ()


@pytest.mark.parametrize("task", ["ForCTC", "ForPreTraining"])
def test_a_checkpoint_with_a_head_gives_its_encoder_and_says_so(
    folders: dict[str, Path], tmp_path: Path, task: str
) -> None:
    encoder = transformers.AutoModel.from_pretrained(folders["wav2vec2 pre-LN"])
    model = getattr(transformers, f"Wav2Vec2{task}")(encoder.config)
    model.wav2vec2.load_state_dict(encoder.state_dict())
    model.save_pretrained(tmp_path)
    EXTRACTOR.save_pretrained(tmp_path)
    opened = open_model(str(tmp_path), "cpu")
    (note,) = opened.info.notes
    if task == "ForCTC":
        assert note == "its CTC head has no vocabulary that fits and cannot be used: no vocab.json"
    else:
        assert "weights that the encoder has no place for were left out" in note
        assert "quantizer" in note
    assert opened.info.ctc == {}
    plain = open_model(str(folders["wav2vec2 pre-LN"]), "cpu")
    assert opened.info.parameters == plain.info.parameters
    for found, expected in zip(
        encode(opened, *waves(2000))[0], encode(plain, *waves(2000))[0], strict=True
    ):
        assert torch.equal(found, expected)


def test_an_adapter_is_left_out(copy: Path) -> None:
    edit_config(copy, add_adapter=True)
    encoder = open_model(str(copy), "cpu")
    assert encode(encoder, *waves(16_000))[1].tolist() == [[49]] * 4


def test_a_head_behind_an_adapter_has_one_note(others: dict[str, Path], tmp_path: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(others["w2v-bert 2.0"], add_adapter=True)
    transformers.Wav2Vec2BertForCTC(config).save_pretrained(tmp_path)
    transformers.SeamlessM4TFeatureExtractor().save_pretrained(tmp_path)
    notes = [note for note in open_model(str(tmp_path), "cpu").info.notes if "CTC head" in note]
    assert notes == ["its CTC head is not run: it reads the output of an adapter"]


# Languages


@pytest.fixture(scope="module")
def mms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint of the MMS kind: English in the main file, Turkish in an adapter of
    another alphabet.
    """
    folder = tmp_path_factory.mktemp("mms")
    torch.manual_seed(5)
    family, settings = FAMILIES["wav2vec2 pre-LN"]
    config = family(
        **SIZES | settings | {"adapter_attn_dim": 4, "vocab_size": 4, "num_hidden_layers": 2}
    )
    model = transformers.Wav2Vec2ForCTC(config)
    model.save_pretrained(folder)
    EXTRACTOR.save_pretrained(folder)
    model.lm_head = torch.nn.Linear(24, 6)
    adapter = {name: torch.randn_like(weight) for name, weight in model._get_adapters().items()}
    save_file(adapter, folder / "adapter.tur.safetensors", metadata={"format": "pt"})
    vocabularies = {language: {"<pad>": 0, "|": 1} for language in ("eng", "tur")}
    for language, letters in (("eng", "ab"), ("tur", "xyzw")):
        vocabularies[language] |= {letter: number for number, letter in enumerate(letters, start=2)}
    (folder / "vocab.json").write_text(json.dumps(vocabularies))
    return folder


def with_language(folder: Path, to: Path, file: str, language: str) -> Path:
    """A copy whose file says which language is meant."""
    shutil.copytree(folder, to)
    content = (
        json.loads((to / file).read_text())
        if (to / file).exists()
        else {"pad_token": "<pad>", "word_delimiter_token": "|"}
    )
    (to / file).write_text(json.dumps(content | {"target_lang": language}))
    return to


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_the_adapter_of_the_language_is_loaded_as_transformers_does(
    mms: Path, tmp_path: Path, file: str, ending: str
) -> None:
    folder = with_language(mms, tmp_path / "tur", file, "tur")
    if ending == "bin":
        torch.save(load_file(folder / "adapter.tur.safetensors"), folder / "adapter.tur.bin")
        (folder / "adapter.tur.safetensors").unlink()
    encoder = open_model(str(folder), "cpu")
    assert (
        encoder.info.notes[0]
        == f"the adapter of language 'tur' is loaded (adapter.tur.{ending}), as target_lang says"
    )
    assert encoder.info.weights == f"model.safetensors and adapter.tur.{ending}"
    assert encoder.info.ctc["alphabet"] == " wxyz"
    assert encoder.info.weights_sha256 != open_model(str(mms), "cpu").info.weights_sha256
    reference = transformers.Wav2Vec2ForCTC.from_pretrained(
        folder, target_lang="tur", ignore_mismatched_sizes=True
    ).eval()
    reference.load_adapter(
        "tur"
    )  # transformers 5.24 does not by itself where config.json names the language
    (wave,) = waves(4000)
    inputs = EXTRACTOR(wave.numpy(), sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        expected = reference(inputs.input_values, output_hidden_states=True)
    frames, _ = encoder.encode(wave[None], torch.tensor([4000]), ["1", "ctc"])
    assert error_of(frames[0], expected.hidden_states[1]) <= 1e-5
    assert error_of(frames[1], expected.logits) <= 1e-5
    save_file(
        load_file(mms / "adapter.tur.safetensors") | {"lm_head.bias": torch.ones(6)},
        folder / "adapter.tur.safetensors",
    )
    assert open_model(str(folder), "cpu").info.weights_sha256 != encoder.info.weights_sha256


def test_languages_that_are_not_loaded_are_named(mms: Path, tmp_path: Path) -> None:
    notes = "; ".join(open_model(str(mms), "cpu").info.notes)
    assert "adapters of 1 languages lie beside it (tur) and no target_lang says which" in notes
    assert (
        "vocab.json has vocabularies of 2 languages (eng, tur), and no target_lang says which; set"
        " target_lang" in notes
    )
    english = open_model(
        str(with_language(mms, tmp_path / "eng", "tokenizer_config.json", "eng")), "cpu"
    )
    assert english.info.ctc["alphabet"] == " ab"
    assert (
        "target_lang is 'eng', which has no adapter here (there are those of tur)"
        in english.info.notes[0]
    )
    folder = with_language(mms, tmp_path / "two", "tokenizer_config.json", "tur")
    edit_config(folder, target_lang="eng")
    with pytest.raises(
        ProbeError, match=r"two languages as target_lang, 'eng' \(config\.json\) and 'tur'"
    ):
        open_model(str(folder), "cpu")


def test_adapters_of_a_model_without_a_place_for_them_are_named(mms: Path, copy: Path) -> None:
    shutil.copy(mms / "adapter.tur.safetensors", copy)
    assert open_model(str(copy), "cpu").info.notes == (
        (
            "adapters of languages tur are not loaded: config.json has no adapter_attn_dim, so no"
            " block has a place for them"
        ),
    )


def test_an_adapter_of_another_model_is_refused(mms: Path, tmp_path: Path) -> None:
    folder = with_language(mms, tmp_path / "odd", "config.json", "tur")
    weights = load_file(folder / "adapter.tur.safetensors")
    save_file(
        {name.replace("layers.1.", "layers.7."): weight for name, weight in weights.items()},
        folder / "adapter.tur.safetensors",
    )
    with pytest.raises(
        ProbeError,
        match=(
            r"adapter\.tur\.safetensors: 6 weights of the adapter are missing, and 6 have no place"
        ),
    ):
        open_model(str(folder), "cpu")


def test_half_precision_weights_give_single_precision_frames(copy: Path) -> None:
    edit_weights(
        copy,
        lambda weights: weights.update({name: weight.half() for name, weight in weights.items()}),
    )
    edit_config(copy, dtype="float16")
    assert {layer.dtype for layer in encode(open_model(str(copy), "cpu"), *waves(2000))[0]} == {
        torch.float32
    }


def as_bin(folder: Path, old_names: bool) -> None:
    """Turns the folder's weights into a ``pytorch_model.bin``, as the hub's first speech
    checkpoints are.
    """
    weights = load_file(folder / "model.safetensors")
    if old_names:
        new = "pos_conv_embed.conv.parametrizations.weight.original"
        weights = {
            name.replace(new + "0", "pos_conv_embed.conv.weight_g").replace(
                new + "1", "pos_conv_embed.conv.weight_v"
            ): weight
            for name, weight in weights.items()
        }
        assert "encoder.pos_conv_embed.conv.weight_g" in weights
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("old_names", [False, True])
def test_a_pytorch_model_bin_alone_is_enough(
    folders: dict[str, Path], copy: Path, old_names: bool
) -> None:
    as_bin(copy, old_names)
    opened = open_model(str(copy), "cpu")
    plain = open_model(str(folders["wav2vec2 post-LN"]), "cpu")
    assert opened.info.notes == ()
    for found, expected in zip(
        encode(opened, *waves(2000))[0], encode(plain, *waves(2000))[0], strict=True
    ):
        assert torch.equal(found, expected)


def test_weights_in_several_files_are_read_and_hashed(folders: dict[str, Path], copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    transformers.AutoModel.from_pretrained(folders["wav2vec2 post-LN"]).save_pretrained(
        copy, max_shard_size="40KB"
    )
    parts = sorted(copy.glob("model-*.safetensors"))
    assert len(parts) > 1
    opened = open_model(str(copy), "cpu")
    plain = open_model(str(folders["wav2vec2 post-LN"]), "cpu")
    assert torch.equal(encode(opened, *waves(2000))[0][-1], encode(plain, *waves(2000))[0][-1])
    name, weight = next(iter(load_file(parts[-1]).items()))
    save_file(load_file(parts[-1]) | {name: weight + 1}, parts[-1], metadata={"format": "pt"})
    assert open_model(str(copy), "cpu").info.weights_sha256 != opened.info.weights_sha256
    parts[0].unlink()
    with pytest.raises(
        ProbeError,
        match=rf"of its {len(parts)} files {parts[0].name} missing\. Fetch the checkpoint again",
    ):
        open_model(str(copy), "cpu")


# The preprocessor


def test_without_a_preprocessor_the_usual_input_is_assumed_and_said(copy: Path) -> None:
    (copy / "preprocessor_config.json").unlink()
    info = open_model(str(copy), "cpu").info
    assert (info.rate_hz, info.normalize) == (16_000, True)
    assert info.notes == (
        "no preprocessor_config.json: 16000 Hz and normalised waveforms are assumed",
    )


def test_a_preprocessor_inside_a_processor_counts(copy: Path) -> None:
    (copy / "preprocessor_config.json").unlink()
    extractor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "do_normalize": False,
        "sampling_rate": 8000,
    }
    (copy / "processor_config.json").write_text(
        json.dumps({"feature_extractor": extractor, "processor_class": "Wav2Vec2Processor"})
    )
    info = open_model(str(copy), "cpu").info
    assert (info.rate_hz, info.normalize, info.notes) == (8000, False, ())


def test_a_processor_without_a_preprocessor_does_not_count(copy: Path) -> None:
    (copy / "preprocessor_config.json").unlink()
    (copy / "processor_config.json").write_text('{"processor_class": "Wav2Vec2Processor"}')
    assert "no preprocessor_config.json" in open_model(str(copy), "cpu").info.notes[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as a preprocessor's JSON .*Fetch the file again"),
        ("[]", "cannot be read as a preprocessor's JSON"),
        ('{"sampling_rate": 0}', "sampling_rate 0; expected Hz such as 16000"),
        ('{"sampling_rate": "fast"}', "sampling_rate 'fast'; expected Hz such as 16000"),
    ],
)
def test_a_damaged_preprocessor_is_refused(copy: Path, content: str, message: str) -> None:
    (copy / "preprocessor_config.json").write_text(content)
    with pytest.raises(ProbeError, match=r"preprocessor_config\.json: " + message):
        open_model(str(copy), "cpu")


# Refusals


def test_missing_encoder_weights_are_refused_with_their_names(copy: Path) -> None:
    edit_weights(
        copy,
        lambda weights: [
            weights.pop(name) for name in list(weights) if "layers.1.attention" in name
        ],
    )
    message = (
        r"model\.safetensors: 8 of the encoder's weights missing, .*:"
        r" encoder\.layers\.1\.attention\.k_proj\.bias, .* 3 more"
    )
    with pytest.raises(
        ProbeError, match=message + r"\. They would be random; is this a wav2vec2 checkpoint\?"
    ):
        open_model(str(copy), "cpu")


def test_the_weight_for_masked_frames_may_be_missing(copy: Path) -> None:
    edit_weights(copy, lambda weights: weights.pop("masked_spec_embed"))
    assert open_model(str(copy), "cpu").info.notes == ()


def test_a_config_with_more_layers_than_weights_is_refused(copy: Path) -> None:
    edit_config(copy, num_hidden_layers=5)
    with pytest.raises(
        ProbeError, match=r"32 of the encoder's weights missing.*encoder\.layers\.3\."
    ):
        open_model(str(copy), "cpu")


def test_weights_of_another_shape_are_refused(copy: Path) -> None:
    edit_config(copy, intermediate_size=64)
    with pytest.raises(
        ProbeError, match=r"model\.safetensors: the weights cannot be loaded|of another shape"
    ):
        open_model(str(copy), "cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused(copy: Path, value: float) -> None:
    name = "encoder.layers.2.feed_forward.output_dense.weight"
    edit_weights(copy, lambda weights: weights[name].view(-1)[5].fill_(value))
    with pytest.raises(
        ProbeError, match=rf"NaN or infinite weights in {name}\. Fetch the file again"
    ):
        open_model(str(copy), "cpu")


def test_a_batch_norm_statistic_that_is_not_finite_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders["hubert batch norm"], tmp_path / "copy"))
    name = "encoder.pos_conv_embed.batch_norm.running_mean"
    edit_weights(folder, lambda weights: weights[name][0].fill_(float("nan")))
    with pytest.raises(ProbeError, match=f"NaN or infinite weights in {name}"):
        open_model(str(folder), "cpu")


def test_a_speaker_verification_checkpoint_gives_its_encoder(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    encoder = transformers.AutoModel.from_pretrained(folders["wavlm post-LN"])
    encoder.config.tdnn_dim, encoder.config.xvector_output_dim = (8, 8, 8, 8, 8), 8
    model = transformers.WavLMForXVector(encoder.config)
    model.wavlm.load_state_dict(encoder.state_dict())
    model.save_pretrained(tmp_path)
    EXTRACTOR.save_pretrained(tmp_path)
    found, expected = (
        encode(open_model(str(folder), "cpu"), *waves(2000))[0]
        for folder in (tmp_path, folders["wavlm post-LN"])
    )
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_weight_that_is_never_used_may_be_nan(folders: dict[str, Path], copy: Path) -> None:
    edit_weights(copy, lambda weights: weights["masked_spec_embed"].fill_(float("nan")))
    plain = open_model(str(folders["wav2vec2 post-LN"]), "cpu")
    assert torch.equal(
        encode(open_model(str(copy), "cpu"), *waves(2000))[0][-1],
        encode(plain, *waves(2000))[0][-1],
    )


def test_a_kind_of_attention_that_needs_another_library_is_replaced(
    folders: dict[str, Path], copy: Path
) -> None:
    edit_config(
        copy, _attn_implementation="flash_attention_2", attn_implementation="flash_attention_2"
    )
    plain = open_model(str(folders["wav2vec2 post-LN"]), "cpu")
    assert torch.equal(
        encode(open_model(str(copy), "cpu"), *waves(2000))[0][-1],
        encode(plain, *waves(2000))[0][-1],
    )


def test_quantised_weights_are_refused(copy: Path) -> None:
    edit_weights(
        copy,
        lambda weights: weights.update(
            {"masked_spec_embed": weights["masked_spec_embed"].to(torch.int8)}
        ),
    )
    with pytest.raises(
        ProbeError,
        match=r"quantised weights, which this version cannot read: masked_spec_embed \(I8\)",
    ):
        open_model(str(copy), "cpu")


def test_a_weight_of_another_shape_is_named(copy: Path) -> None:
    name = "encoder.layers.0.attention.k_proj.weight"
    edit_weights(copy, lambda weights: weights.update({name: weights[name][:, :5].clone()}))
    with pytest.raises(
        ProbeError, match=f"0 of the encoder's weights missing, 1 of another shape: {name}"
    ):
        open_model(str(copy), "cpu")


def test_no_revision_of_a_folder_can_be_opened(copy: Path) -> None:
    with pytest.raises(
        ProbeError,
        match=(
            r"@main: .*checkpoint is a folder, and only the weights that it holds now can be opened"
        ),
    ):
        open_model(f"{copy}@main", "cpu")


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_truncated_weights_are_refused(copy: Path, file: str, kept: float) -> None:
    if file == "pytorch_model.bin":
        as_bin(copy, old_names=False)
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content[: int(kept * len(content))])
    with pytest.raises(
        ProbeError,
        match=(
            rf"{file}: (not a whole safetensors file|no file of PyTorch's, or a damaged one).*Fetch"
            r" it again"
        ),
    ):
        open_model(str(copy), "cpu")


def test_a_pickle_that_runs_code_is_refused_and_not_run(copy: Path, tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "was-run",))

    (copy / "model.safetensors").unlink()
    torch.save({"masked_spec_embed": Touch()}, copy / "pytorch_model.bin")
    with pytest.raises(
        ProbeError,
        match=(
            r"pytorch_model\.bin: wants to import .*pathlib\S+, which could run any code\. It was"
            r" not run"
        ),
    ):
        open_model(str(copy), "cpu")
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            os.system,
            (
                r"wants to import \w+\.system, which could run any code\. It was not run\. Expected"
                r" plain weights\. Fetch them as"
            ),
        ),
        (argparse.Namespace(), r"wants to import argparse\.Namespace"),
        (None, r"no file of PyTorch's, or a damaged one\. Fetch it again\.$"),
    ],
    ids=["system", "namespace", "text"],
)
def test_what_torch_does_not_open_is_refused_without_its_advice(
    copy: Path, several: bool, content: Any, message: str
) -> None:
    (copy / "model.safetensors").unlink()
    part = "pytorch_model-00001-of-00001.bin" if several else "pytorch_model.bin"
    if several:
        (copy / "pytorch_model.bin.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": {"masked_spec_embed": part}})
        )
    if content is None:
        (copy / part).write_text("weights")
    else:
        torch.save({"masked_spec_embed": content}, copy / part)
    with pytest.raises(ProbeError, match=f"{part}: {message}"):
        open_model(str(copy), "cpu")


def test_a_folder_without_weights_is_refused(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(
        ProbeError,
        match=r"checkpoint: no weights; expected one of model\.safetensors, .*pytorch_model\.bin",
    ):
        open_model(str(copy), "cpu")


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    for name in (str(tmp_path), f"random:{tmp_path}"):
        with pytest.raises(
            ProbeError,
            match=r"no config\.json; expected a checkpoint folder as save_pretrained writes it",
        ):
            open_model(name, "cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "wide"}, "hidden_size.*expected int, got str"),
        ({"conv_dim": [12, 12]}, "convolutional layers is incorrect"),
        ({"model_type": None}, "model type `None`"),
        ({"model_type": "whisper9"}, "whisper9"),
    ],
)
def test_a_config_that_cannot_be_is_refused(
    copy: Path, changes: dict[str, Any], message: str
) -> None:
    edit_config(copy, **changes)
    for name in (str(copy), f"random:{copy}"):
        with pytest.raises(ProbeError, match=rf"its config\.json cannot be used \(.*{message}"):
            open_model(name, "cpu")


@pytest.mark.parametrize("content", ["{", "[1]", ""])
def test_a_config_that_is_no_json_object_is_refused(copy: Path, content: str) -> None:
    (copy / "config.json").write_text(content)
    with pytest.raises(ProbeError, match=r"its config\.json cannot be used"):
        open_model(str(copy), "cpu")


def test_a_text_model_is_refused(tmp_path: Path) -> None:
    sizes = {
        "vocab_size": 20,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
    }
    transformers.BertModel(transformers.BertConfig(**sizes)).save_pretrained(tmp_path)
    message = (
        r"reads text, not speech \(model type 'bert'\)\. Supported: wav2vec2, data2vec-audio,"
        r" hubert, wavlm"
    )
    for name in (str(tmp_path), f"random:{tmp_path}"):
        with pytest.raises(ProbeError, match=message):
            open_model(name, "cpu")


@pytest.mark.parametrize("model_type", ["brandnew", "wav2vec2"])
def test_remote_code_is_never_run(
    copy: Path, tmp_path: Path, model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on stdin"))
    code = (
        f"import pathlib; pathlib.Path({str(tmp_path / 'was-run')!r}).touch()\nclass Config:"
        " ...\nclass Model: ...\n"
    )
    (copy / "custom.py").write_text(code)
    edit_config(
        copy,
        model_type=model_type,
        auto_map={"AutoConfig": "custom.Config", "AutoModel": "custom.Model"},
    )
    for name in (str(copy), f"random:{copy}"):
        if model_type == "brandnew":
            with pytest.raises(
                ProbeError, match=r"its config\.json cannot be used .*Remote code is never run"
            ):
                open_model(name, "cpu")
        else:
            assert encode(open_model(name, "cpu"), *waves(400))[1].tolist() == [[1]] * 4
    assert not (tmp_path / "was-run").exists()


# Names


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("mfc", "mfcc"),
        ("random:data2vec-audio-tny", "data2vec-audio-tiny"),
        ("fbnak", "fbank"),
        ("wav2vec2-base", "wav2vec2-base"),
    ],
)
def test_an_unknown_name_is_refused_with_a_guess(name: str, guess: str) -> None:
    with pytest.raises(
        ProbeError, match=f"neither a folder nor org/name on the hub. Did you mean '[^']*{guess}'"
    ):
        open_model(name, "cpu")


@pytest.mark.parametrize(
    "name", ["nothing like it", "/no/such/folder", "org/name/more", "x" * 300, "../gone"]
)
def test_a_name_that_can_be_no_model_is_refused_with_the_ones_that_work(name: str) -> None:
    with pytest.raises(
        ProbeError,
        match=(
            r"neither a folder nor org/name on the hub\. `probe models` lists .*fbank, mfcc and"
            r" random:org/name"
        ),
    ):
        open_model(name, "cpu")


def test_a_weights_file_instead_of_its_folder_is_refused(copy: Path) -> None:
    with pytest.raises(
        ProbeError,
        match=(
            r"a file\. Expected a folder as save_pretrained writes it \(of model\.safetensors the"
            r" folder it lies in"
        ),
    ):
        open_model(str(copy / "model.safetensors"), "cpu")


@pytest.mark.parametrize(
    "name", ["org/name", "org/name@v1.0", "org/name@refs/pr/1", "random:org/name"]
)
def test_a_hub_model_offline_is_refused_in_one_line(offline: Path, name: str) -> None:
    with pytest.raises(
        ProbeError,
        match=(
            r"no such folder here, not in the cache, and the hub cannot be reached.*`probe models`"
        ),
    ) as caught:
        open_model(name, "cpu")
    assert str(caught.value).startswith(name.removeprefix("random:"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["org/a--b", "org/name.", "org/..", f"org/{'x' * 100}"])
def test_a_name_that_the_hub_forbids_is_not_on_the_hub(offline: Path, name: str) -> None:
    with pytest.raises(ProbeError, match="not on the hub, or it needs a login"):
        open_model(name, "cpu")


def test_a_cached_hub_model_opens_offline_with_its_commit(
    folders: dict[str, Path], offline: Path
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = offline / "models--org--name"
    shutil.copytree(folders["hubert post-LN"], repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for name in ("org/name", "org/name@main", f"org/name@{commit}"):
        info = open_model(name, "cpu").info
        assert (info.id, info.revision, info.family) == ("org/name", commit, "hubert")
    with pytest.raises(
        ProbeError,
        match="org/name@v2: no such folder here, not in the cache, and the hub cannot be reached",
    ):
        open_model("org/name@v2", "cpu")


@pytest.mark.parametrize("device", ["cuda:99", "tpu", ""])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(ProbeError, match=f"--device {device}: cannot be used .*Use --device cpu"):
        choose_device(device)


# Random weights


def test_random_weights_are_the_same_for_the_same_seed_only() -> None:
    name = "random:data2vec-audio-tiny"
    first, again, other = (
        open_model(spelling, "cpu") for spelling in (name, f"{name}@0", f"{name}@1")
    )
    assert first.info == again.info
    assert (first.info.id, first.info.revision, other.info.revision) == (name, "seed 0", "seed 1")
    assert other.info.id == name
    assert first.info.weights_sha256 != other.info.weights_sha256
    (wave,) = waves(4000)
    for a, b, c in zip(
        encode(first, wave)[0], encode(again, wave)[0], encode(other, wave)[0], strict=True
    ):
        assert torch.equal(a, b)
        assert error_of(c, a) > 0.1


def test_a_random_twin_of_a_folder_has_its_architecture_and_input_and_other_weights(
    copy: Path,
) -> None:
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(copy)
    (copy / "model.safetensors").unlink()
    twin = open_model(f"random:{copy}@3", "cpu")
    assert (twin.info.id, twin.info.revision, twin.info.family) == (
        f"random:{copy.name}",
        "seed 3",
        "wav2vec2",
    )
    assert (twin.info.normalize, twin.info.layers) == (False, {"0": 24, "1": 24, "2": 24, "3": 24})


@pytest.mark.parametrize("seed", ["x", "-1", "1.5", "main"])
def test_a_seed_that_is_none_is_refused(seed: str) -> None:
    with pytest.raises(
        ProbeError,
        match=(
            f"'{seed}' after @ is no seed; expected a whole number such as"
            " random:data2vec-audio-tiny@1"
        ),
    ):
        open_model(f"random:data2vec-audio-tiny@{seed}", "cpu")


@pytest.mark.parametrize(
    "kind", ["random", "folder", "random folder", "folder without masked_spec_embed", "mfcc"]
)
def test_opening_a_model_leaves_the_global_random_state_alone(copy: Path, kind: str) -> None:
    if "without" in kind:
        edit_weights(copy, lambda weights: weights.pop("masked_spec_embed"))
    names = {
        "random": "random:data2vec-audio-tiny@5",
        "random folder": f"random:{copy}",
        "mfcc": "mfcc",
    }
    torch.manual_seed(11)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    open_model(names.get(kind, str(copy)), "cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # type: ignore[index]


FULL_SIZE = {
    "facebook/wav2vec2-base": 94_371_712,
    "facebook/wav2vec2-large-robust": 315_438_720,
    "facebook/data2vec-audio-base": 93_164_288,
    "facebook/data2vec-audio-large": 313_276_416,
}


@pytest.mark.parametrize("name", list(known_models()))
def test_built_in_architectures_have_the_published_number_of_parameters(name: str) -> None:
    row = known_models()[name]
    with torch.device("meta"):
        model = checkpoints.made_of(configurations.config_of_known(row))
    assert sum(weight.numel() for weight in model.parameters()) == row.parameters
    assert f"random:{name}" in offline_names()


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_SIZE)
def test_built_in_architectures_extract_every_layer_at_full_size(name: str) -> None:
    encoder = open_model(f"random:{name}", "cpu")
    n_blocks = 24 if "large" in name else 12
    assert encoder.info.parameters == FULL_SIZE[name]
    assert list(encoder.info.layers)[: n_blocks + 1] == [str(i) for i in range(n_blocks + 1)]
    assert ("final" in encoder.info.layers) == ("robust" in name)
    assert (encoder.info.n_frames(399), encoder.info.grid.min_samples) == (0, 400)
    frames, n_frames = encode(encoder, *waves(400, 16_000))
    assert n_frames.tolist() == [[1, 49]] * len(encoder.info.layers)
    assert len(frames) == len(encoder.info.layers)
    for layer in frames:
        assert layer.shape == (2, 49, 1024 if "large" in name else 768)
        assert layer.isfinite().all()


# Spectral baselines


def at_rms(wave: Tensor) -> Tensor:
    return wave * 0.05 / wave.square().mean().sqrt()


@pytest.mark.parametrize(("name", "width"), [("fbank", 80), ("mfcc", 20)])
@pytest.mark.parametrize("n_samples", [400, 559, 560, 561, 719, 16_000, 16_079])
def test_spectral_frames_are_25_ms_every_10_ms_of_whole_windows(
    name: str, width: int, n_samples: int
) -> None:
    encoder = open_model(name, "cpu")
    (frames,), n_frames = encode(encoder, *waves(n_samples))
    assert frames.shape == (1, 1 + (n_samples - 400) // 160, width)
    assert n_frames.tolist() == [[encoder.info.n_frames(n_samples)]] == [[frames.shape[1]]]
    assert (frames.dtype, encoder.info.layers, encoder.info.grid.hop_samples) == (
        torch.float32,
        {"0": width},
        160,
    )


@pytest.mark.parametrize("name", ["fbank", "mfcc"])
@pytest.mark.parametrize("n_samples", [400, 1519, 1520, 1521, 16_000])
def test_spectral_frames_do_not_depend_on_the_tiles_they_are_taken_by(
    name: str, n_samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wave = torch.randn(n_samples, generator=torch.Generator().manual_seed(0)) * torch.linspace(
        1e-6, 1, n_samples
    )
    whole = encode(open_model(name, "cpu"), wave)[0][0][0]
    monkeypatch.setattr("probe.models.spectral.TILE_FRAMES", 8)
    tiled = encode(open_model(name, "cpu"), wave)[0][0][0]
    assert error_of(tiled, whole) <= 1e-6


@pytest.mark.parametrize("name", ["fbank", "mfcc"])
def test_spectral_baselines_refuse_to_count_frames_below_a_window(name: str) -> None:
    encoder = open_model(name, "cpu")
    assert [encoder.info.n_frames(n) for n in (0, 1, 239, 240, 399, 400)] == [0, 0, 0, 0, 0, 1]
    assert encoder.info.grid.min_samples == 400


def test_mfcc_is_torchaudios_after_scaling_to_rms_005() -> None:
    (wave,) = waves(8000)
    expected = torchaudio.transforms.MFCC(
        16_000,
        n_mfcc=20,
        melkwargs={
            "n_fft": 400,
            "hop_length": 160,
            "n_mels": 40,
            "f_min": 60.0,
            "f_max": 7600.0,
            "center": False,
        },
    )(at_rms(wave)).T
    assert error_of(encode(open_model("mfcc", "cpu"), wave)[0][0][0], expected) <= 1e-5


def test_fbank_is_kaldis_after_scaling_to_rms_005() -> None:
    (wave,) = waves(8000)
    expected = torchaudio.compliance.kaldi.fbank(
        at_rms(wave)[None] * 32_768, num_mel_bins=80, dither=0.0, sample_frequency=16_000
    )
    assert error_of(encode(open_model("fbank", "cpu"), wave)[0][0][0], expected) <= 1e-5


@pytest.mark.parametrize("name", ["fbank", "mfcc"])
@pytest.mark.parametrize("gain", [1e-4, 0.1, 30.0])
def test_spectral_baselines_do_not_hear_the_level(name: str, gain: float) -> None:
    encoder = open_model(name, "cpu")
    (wave,) = waves(8000)
    assert error_of(encode(encoder, gain * wave)[0][0], encode(encoder, wave)[0][0]) <= 1e-4


@pytest.mark.parametrize("name", ["fbank", "mfcc"])
@pytest.mark.parametrize(
    "wave", [torch.zeros(4000), torch.full((4000,), 0.5), torch.eye(1, 4000)[0]]
)
def test_silence_and_clicks_have_finite_spectra(name: str, wave: Tensor) -> None:
    assert encode(open_model(name, "cpu"), wave)[0][0].isfinite().all()
