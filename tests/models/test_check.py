"""The certificate: a sound model passes, every planted fault fails, and no batch changes an
utterance.
"""

import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matrix
import pytest
import torch
from exhaustive import mostly_nightly
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_bundles import AFTER
from small_models import FAMILIES, OTHER_FAMILIES
from torch import Tensor

from probe.errors import ProbeError
from probe.extraction import extract as extraction
from probe.extraction.settings import Running, Storing
from probe.models import check_frames
from probe.models.catalogue import IMPLEMENTATIONS, open_model
from probe.models.certificate import FAIL, NOTE, PASS, Certificate
from probe.models.check import CHECKS, check_model
from probe.models.check_frames import BATCH, NORMALISATION
from probe.models.encoder import CONV, CTC, Encoder
from probe.models.frames import FrameGrid
from probe.models.reference import TransformersEncoder
from probe.store.stores import find_stores

Command = Callable[..., subprocess.CompletedProcess]
NAMED = (
    "facebook/wav2vec2-base",
    "facebook/wav2vec2-large-robust",
    "facebook/data2vec-audio-base",
    "facebook/data2vec-audio-large",
)
# One of other families, as small as there is.
ONE_OF_EACH = (
    "ntu-spml/distilhubert",
    "microsoft/wavlm-base",
    "microsoft/unispeech-sat-base",
    "asapp/sew-tiny-100k",
    "asapp/sew-d-tiny-100k",
    "facebook/wav2vec2-conformer-rel-pos-large",
    "facebook/wav2vec2-conformer-rope-large",
    "facebook/w2v-bert-2.0",
    "openai/whisper-small",
)


def failed(encoder: Encoder, quick: bool = True) -> set[str]:
    """Names of the checks that fail."""
    return {finding.check for finding in check_model(encoder, quick).failed}


def opened(folder: Path | str, implementation: str = "packed") -> TransformersEncoder:
    """Either implementation is a `TransformersEncoder`; the packed one copies the weights at its
    first use, faults and all.
    """
    encoder = open_model(str(folder), "cpu", implementation=implementation)
    assert isinstance(encoder, TransformersEncoder)
    return encoder


# Sound models


SOUND = [*FAMILIES, "fbank", "mfcc", "random:data2vec-audio-tiny"]
FORMS = [("packed", "fp32"), ("packed", "bf16"), ("reference", "fp32")]
SOUND_CASES = [
    (family, form, quick) for family in SOUND for form in FORMS for quick in (True, False)
]


@pytest.mark.parametrize(
    ("family", "form", "quick"),
    mostly_nightly(
        SOUND_CASES,
        [(family, FORMS[0], True) for family in SOUND]
        + [("wav2vec2 pre-LN", FORMS[0], False), ("data2vec-audio", FORMS[1], True)],
    ),
)
def test_a_sound_model_passes(
    folders: dict[str, Path], family: str, form: tuple[str, str], quick: bool
) -> None:
    certificate = check_model(
        open_model(str(folders.get(family, family)), "cpu", None, *form), quick
    )
    assert not certificate.failed
    results = {finding.check: finding.result for finding in certificate.findings}
    expected = {"layers", "frames", "batches", "values"}
    if family in FAMILIES:
        expected |= {
            "weights",
            "keys",
            "values of weights",
            "input",
            "alone",
            "normalisation",
            "final",
        }
    assert expected <= {check for check, result in results.items() if result == PASS}


def test_every_check_says_that_it_has_begun(folders: dict[str, Path]) -> None:
    begun: list[str] = []
    check_model(opened(folders["wavlm pre-LN"]), True, begun.append)
    assert len(begun) == len(CHECKS)


# Planted faults


class Padded(TransformersEncoder):
    """Runs a batch padded, as most scripts do, with or without the attention mask."""

    def __init__(self, sound: TransformersEncoder, masked: bool) -> None:
        super().__init__(sound.model, sound.info, sound.extractor)
        self.masked = masked

    @torch.inference_mode()
    def encode(
        self, waveforms: Tensor, lengths: Tensor, layers: Sequence[str]
    ) -> tuple[list[Tensor], Tensor]:
        values, mask = torch.zeros_like(waveforms), torch.zeros(waveforms.shape, dtype=torch.long)
        for i, length in enumerate(lengths.tolist()):
            wave = waveforms[i, :length].double()
            values[i, :length] = (wave - wave.mean()) / (wave.var(correction=0) + 1e-7).sqrt()
            mask[i, :length] = 1
        output = self.model(
            values, attention_mask=mask if self.masked else None, output_hidden_states=True
        )
        tapped = {str(i): frames for i, frames in enumerate(output.hidden_states)} | {
            "final": output.last_hidden_state
        }
        tapped[CONV] = self.model.feature_extractor(values).mT
        counts = torch.tensor([self.info.n_frames(length) for length in lengths.tolist()])
        cut = (torch.arange(tapped["0"].shape[1]) < counts[:, None])[:, :, None]
        return [tapped[name] * cut for name in layers], counts.repeat(len(layers), 1)


def rename(encoder: TransformersEncoder, names: dict[str, str]) -> None:
    """Answers with another layer than the one that is asked for."""
    sound = encoder.encode
    encoder.encode = lambda waves, lengths, layers: sound(
        waves, lengths, [names.get(name, name) for name in layers]
    )  # type: ignore[method-assign]


def swap_last_for_final(encoder: TransformersEncoder) -> None:
    rename(encoder, {str(encoder.model.config.num_hidden_layers): "final"})


def number_layers_from_one(encoder: TransformersEncoder) -> None:
    rename(
        encoder, dict(itertools.pairwise(name for name in encoder.info.layers if name.isdecimal()))
    )


def forget_to_normalise(encoder: TransformersEncoder) -> None:
    sound = encoder.encode

    def encode(
        waveforms: Tensor, lengths: Tensor, layers: Sequence[str]
    ) -> tuple[list[Tensor], Tensor]:
        said, encoder.info = encoder.info, replace(encoder.info, normalize=False)
        try:
            return sound(waveforms, lengths, layers)
        finally:
            encoder.info = said

    encoder.encode = encode  # type: ignore[method-assign]


def set_one_weight(value: float) -> Callable[[TransformersEncoder], None]:
    def plant(encoder: TransformersEncoder) -> None:
        with torch.no_grad():
            encoder.model.encoder.layers[1].attention.v_proj.weight[3, 5] = value

    return plant


def declare(**changes: Any) -> Callable[[TransformersEncoder], None]:
    def plant(encoder: TransformersEncoder) -> None:
        encoder.info = replace(encoder.info, **changes)

    return plant


def leave_out(layer: str) -> Callable[[TransformersEncoder], None]:
    def plant(encoder: TransformersEncoder) -> None:
        layers = {name: width for name, width in encoder.info.layers.items() if name != layer}
        encoder.info = replace(encoder.info, layers=layers)

    return plant


def miscount_frames(encoder: TransformersEncoder) -> None:
    encoder.info = replace(encoder.info, grid=FrameGrid(320, 320, 320))


def mix_rows(encoder: TransformersEncoder) -> None:
    sound = encoder.encode

    def encode(
        waveforms: Tensor, lengths: Tensor, layers: Sequence[str]
    ) -> tuple[list[Tensor], Tensor]:
        frames, counts = sound(waveforms, lengths, layers)
        return [item.flip(0) if len(item) == 2 else item for item in frames], counts

    encoder.encode = encode  # type: ignore[method-assign]


def leave_garbage(encoder: TransformersEncoder) -> None:
    sound = encoder.encode

    def encode(
        waveforms: Tensor, lengths: Tensor, layers: Sequence[str]
    ) -> tuple[list[Tensor], Tensor]:
        frames, counts = sound(waveforms, lengths, layers)
        frames = [item.clone() for item in frames]
        for item, of_layer in zip(frames, counts.tolist(), strict=True):
            for row, count in zip(item, of_layer, strict=True):
                row[count:] = 3.0
        return frames, counts

    encoder.encode = encode  # type: ignore[method-assign]


PRE, GROUP, D2V = "wav2vec2 pre-LN", "wav2vec2 post-LN", "data2vec-audio"
# fault -> (how it is planted, families it is planted in, checks that must fail)
FAULTS: dict[str, tuple[Callable[[TransformersEncoder], Any], Sequence[str], set[str]]] = {
    "mask dropped": (
        lambda encoder: Padded(encoder, masked=False),
        [PRE, GROUP, D2V, "wavlm pre-LN"],
        {"batches"},
    ),
    "GroupNorm unmasked": (
        lambda encoder: Padded(encoder, masked=True),
        [GROUP, "hubert post-LN", "wavlm post-LN"],
        {"batches"},
    ),
    "padding leaks": (lambda encoder: Padded(encoder, masked=True), [D2V], {"batches"}),
    "last layer swapped for final": (
        swap_last_for_final,
        [PRE, "hubert pre-LN", "wavlm pre-LN"],
        {"alone", "final"},
    ),
    "layers numbered from one": (number_layers_from_one, [PRE, GROUP, D2V], {"alone"}),
    "normalisation off": (forget_to_normalise, list(FAMILIES), {"normalisation"}),
    "normalisation declared off": (
        declare(normalize=False),
        [PRE, GROUP, D2V],
        {"input", "normalisation"},
    ),
    "one weight NaN": (
        set_one_weight(float("nan")),
        [PRE, GROUP, D2V],
        {"values of weights", "values"},
    ),
    "one weight absurd": (set_one_weight(1e30), [PRE], {"values of weights"}),
    "one layer missing": (leave_out("2"), [PRE, GROUP, D2V], {"layers", "alone"}),
    "the last layer missing": (leave_out("3"), [PRE, GROUP, D2V], {"layers", "alone"}),
    "final missing": (leave_out("final"), [PRE], {"alone"}),
    "hop declared wrongly": (declare(grid=FrameGrid(160, 400, 400)), [PRE, GROUP, D2V], {"frames"}),
    "shortest length declared wrongly": (
        declare(grid=FrameGrid(320, 400, 320)),
        [PRE, GROUP],
        {"frames"},
    ),
    "rate declared wrongly": (declare(rate_hz=8000), [PRE, GROUP], {"input"}),
    "width declared wrongly": (declare(layers={str(i): 25 for i in range(4)}), [GROUP], {"layers"}),
    "frames miscounted": (miscount_frames, [PRE, GROUP], {"frames"}),
    "utterances exchanged": (mix_rows, [GROUP], {"batches"}),
    "garbage past the length": (leave_garbage, [GROUP, PRE], {"padding"}),
    "dropout left on": (lambda encoder: encoder.model.train(), [PRE, D2V], {"alone"}),
}


FAULT_CASES = [
    (fault, family, implementation)
    for fault, (_, families, _) in FAULTS.items()
    for family in families
    for implementation in IMPLEMENTATIONS
]


@pytest.mark.parametrize(
    ("fault", "family", "implementation"),
    mostly_nightly(
        FAULT_CASES, [(fault, families[0], "packed") for fault, (_, families, _) in FAULTS.items()]
    ),
)
def test_a_planted_fault_fails(
    folders: dict[str, Path], fault: str, family: str, implementation: str
) -> None:
    plant, _, expected = FAULTS[fault]
    encoder = opened(folders[family], implementation)
    faulty = plant(encoder)
    assert expected <= failed(faulty if isinstance(faulty, TransformersEncoder) else encoder)


def scale_a_block(encoder: TransformersEncoder) -> None:
    with torch.no_grad():
        encoder.model.encoder.layers[1].feed_forward.output_dense.weight.mul_(1.5)


def swap_blocks(encoder: TransformersEncoder) -> None:
    blocks = encoder.model.encoder.layers
    blocks[0], blocks[1] = blocks[1], blocks[0]


def drop_the_last_block(encoder: TransformersEncoder) -> None:
    del encoder.model.encoder.layers[-1]
    encoder.model.config.num_hidden_layers -= 1
    encoder.info = replace(encoder.info, layers={"0": 24, "1": 24, "2": 24}, aliases={"final": "2"})


def forget_what_comes_late(encoder: TransformersEncoder) -> None:
    sound = encoder.encode

    def encode(
        waveforms: Tensor, lengths: Tensor, layers: Sequence[str]
    ) -> tuple[list[Tensor], Tensor]:
        frames, counts = sound(waveforms, lengths, layers)
        return [
            torch.where(torch.arange(item.shape[1])[:, None] < 250, item, 0.0) for item in frames
        ], counts

    encoder.encode = encode  # type: ignore[method-assign]


def mix_large_batches(encoder: TransformersEncoder) -> None:
    sound = encoder.encode

    def encode(
        waveforms: Tensor, lengths: Tensor, layers: Sequence[str]
    ) -> tuple[list[Tensor], Tensor]:
        frames, counts = sound(waveforms, lengths, layers)
        return [item.flip(0) if len(item) >= 8 else item for item in frames], counts

    encoder.encode = encode  # type: ignore[method-assign]


def answer_with_another_layer(encoder: TransformersEncoder) -> None:
    sound = encoder.encode
    encoder.encode = lambda waves, lengths, layers: sound(
        waves, lengths, ["1"] if len(layers) == 1 else layers
    )  # type: ignore[method-assign]


# Faults that only a second opinion on the checkpoint, or long audio, can tell.
DEEP_FAULTS: dict[str, tuple[Callable[[TransformersEncoder], Any], set[str]]] = {
    "weights of a block scaled": (scale_a_block, {"reopened", "alone"}),
    "blocks swapped": (swap_blocks, {"reopened", "alone"}),
    "the last block gone without a trace": (drop_the_last_block, {"reopened", "alone"}),
    "another hash declared": (declare(weights_sha256=64 * "0"), {"reopened"}),
    "another family declared": (declare(family="hubert"), {"reopened"}),
    "silence after 5 s": (forget_what_comes_late, {"alone"}),
    "batches of 8 mixed up": (mix_large_batches, {"batches"}),
    "another layer than the one asked for": (answer_with_another_layer, {"layers"}),
}


@pytest.mark.parametrize(
    ("family", "implementation"),
    mostly_nightly([(GROUP, "packed"), (D2V, "packed"), (GROUP, "reference")], [(GROUP, "packed")]),
)
@pytest.mark.parametrize(
    "fault",
    mostly_nightly(DEEP_FAULTS, ["blocks swapped", "another hash declared", "silence after 5 s"]),
)
def test_the_whole_form_sees_deeper(
    folders: dict[str, Path], fault: str, family: str, implementation: str
) -> None:
    plant, expected = DEEP_FAULTS[fault]
    encoder = opened(folders[family], implementation)
    plant(encoder)
    assert expected <= failed(encoder, quick=False)


@pytest.mark.parametrize("factor", [10.0, 50.0])
@pytest.mark.parametrize(
    "family",
    mostly_nightly(
        ["wavlm pre-LN", "hubert pre-LN", "wavlm post-LN", "data2vec-audio"], ["wavlm pre-LN"]
    ),
)
def test_a_sound_model_with_large_weights_passes(
    folders: dict[str, Path], tmp_path: Path, family: str, factor: float
) -> None:
    folder = Path(shutil.copytree(folders[family], tmp_path / "sharp"))
    weights = load_file(folder / "model.safetensors")
    sharp = {
        name: weight * factor if ".layers." in name else weight for name, weight in weights.items()
    }
    save_file(sharp, folder / "model.safetensors", metadata={"format": "pt"})
    assert not failed(opened(folder))


@pytest.mark.parametrize(
    ("family", "name", "value"),
    [
        ("wav2vec2-conformer relative", "num_batches_tracked", 1_500_000),
        ("hubert batch norm", "num_batches_tracked", 1_500_000),
        ("hubert batch norm", "running_var", 4e8),
        ("wav2vec2 post-LN", "masked_spec_embed", float("nan")),
    ],
)
def test_counters_variances_and_unused_vectors_are_no_absurd_weights(
    folders: dict[str, Path],
    others: dict[str, Path],
    tmp_path: Path,
    family: str,
    name: str,
    value: float,
) -> None:
    folder = Path(shutil.copytree((folders | others)[family], tmp_path / "long"))
    weights = load_file(folder / "model.safetensors")
    changed = [weight.fill_(value) for key, weight in weights.items() if key.endswith(name)]
    assert changed
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert not {"values of weights", "reopened"} & failed(opened(folder), quick=False)


def test_a_statistic_of_batch_norm_with_a_flipped_bit_fails(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders["hubert batch norm"], tmp_path / "flipped"))
    weights = load_file(folder / "model.safetensors")
    weights["encoder.pos_conv_embed.batch_norm.running_var"][1] = 1e35
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (found,) = [
        item
        for item in check_model(opened(folder), True).failed
        if item.check == "values of weights"
    ]
    assert "running_var" in found.found


def test_input_that_is_assumed_is_a_note(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders[GROUP], tmp_path / "bare"))
    (folder / "preprocessor_config.json").unlink()
    (found,) = [item for item in check_model(str(folder), True).findings if item.check == "input"]
    assert (found.result, found.expected) == (NOTE, "a preprocessor_config.json that says so")


def test_the_whole_form_finds_what_the_quick_one_finds(folders: dict[str, Path]) -> None:
    encoder = opened(folders[GROUP])
    assert failed(Padded(encoder, masked=True), quick=False) == {"batches"}
    forget_to_normalise(encoder)
    assert failed(encoder, quick=False) >= {"normalisation"}


def test_a_padded_batch_with_a_mask_is_right_for_layer_norm_models(
    folders: dict[str, Path],
) -> None:
    for family in ("wav2vec2 pre-LN", "hubert pre-LN"):
        assert not failed(Padded(opened(folders[family]), masked=True), quick=False)


def test_an_encoder_that_breaks_the_contract_is_a_finding_and_no_crash(
    folders: dict[str, Path],
) -> None:
    encoder = opened(folders[GROUP])
    sound = encoder.encode
    encoder.encode = lambda waveforms, lengths, layers: sound(waveforms[:1], lengths[:1], layers)  # type: ignore[method-assign]
    (finding,) = check_model(encoder, True).failed
    assert finding.check == "batches"
    assert "3 utterances, 5 layers: frames of shapes (1, " in finding.found


def test_values_beyond_float16_are_noted_and_infinite_ones_fail(folders: dict[str, Path]) -> None:
    encoder = opened(folders[GROUP])
    sound = encoder.encode
    for factor, result in ((1e6, NOTE), (float("inf"), FAIL)):

        def encode(
            waves: Tensor, lengths: Tensor, layers: Sequence[str], factor: float = factor
        ) -> tuple[list[Tensor], Tensor]:
            frames, counts = sound(waves, lengths, layers)
            return [factor * item for item in frames], counts

        encoder.encode = encode  # type: ignore[method-assign]
        (found,) = [item for item in check_model(encoder, True).findings if item.check == "values"]
        assert found.result == result


def test_parameters_are_compared_with_the_catalogue_by_name_and_by_shape() -> None:
    encoder = open_model("random:data2vec-audio-tiny", "cpu")
    for identifier in ("random:data2vec-audio-tiny", "/some/folder"):
        encoder.info = replace(encoder.info, id=identifier)
        (found,) = [
            item for item in check_model(encoder, True).findings if item.check == "parameters"
        ]
        assert (found.result, found.expected) == (PASS, "208,128 as data2vec-audio-tiny (yes)")
    encoder.info = replace(encoder.info, parameters=208_127)
    assert not failed(encoder), (
        "a model of the same shape may differ in what the catalogue does not hold"
    )
    encoder.info = replace(encoder.info, id="random:data2vec-audio-tiny")
    assert failed(encoder) == {"parameters"}


def test_a_configuration_that_the_weights_fit_but_the_catalogue_does_not_know_is_noted() -> None:
    encoder = open_model("random:data2vec-audio-tiny", "cpu")
    assert isinstance(encoder, TransformersEncoder)
    for heads, result in ((4, PASS), (2, NOTE)):
        encoder.model.config.num_attention_heads = heads
        (found,) = [
            item for item in check_model(encoder, True).findings if item.check == "configuration"
        ]
        assert found.result == result
    assert (found.found, found.expected) == (
        "num_attention_heads 2",
        "num_attention_heads 4 in the catalogue (yes)",
    )


def test_a_ctc_head_is_checked_against_its_vocabulary(folders: dict[str, Path]) -> None:
    encoder = opened(folders[PRE])
    encoder._head = torch.nn.Linear(24, 5)
    encoder.info = replace(
        encoder.info, ctc={"writes": ("", "a", "b", "c", " "), "alphabet": " abc"}
    )
    assert encoder.encode(torch.randn(1, 2000), torch.tensor([2000]), [CTC])[0][0].shape == (
        1,
        6,
        5,
    )
    assert not failed(encoder)
    encoder.info = replace(encoder.info, ctc={"writes": ("", "a"), "alphabet": "a"})
    assert failed(encoder) == {"CTC head"}


# Random compositions

LENGTHS = st.one_of(
    st.integers(400, 1200),
    st.integers(400, 16_000),
    st.sampled_from([400, 719, 720, 48_000, 320_000]),
)


@pytest.mark.parametrize("family", mostly_nightly(FAMILIES, [PRE, GROUP, D2V]))
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lengths=st.lists(LENGTHS, min_size=2, max_size=5), seed=st.integers(0, 2**31), data=st.data()
)
def test_no_composition_of_a_batch_changes_an_utterance(
    folders: dict[str, Path], family: str, lengths: list[int], seed: int, data: st.DataObject
) -> None:
    encoder = opened(folders[family])
    generator = torch.Generator().manual_seed(seed)
    waves = [0.1 * torch.randn(n, generator=generator) + 0.02 for n in lengths]
    alone = [check_frames.encode(encoder, [wave]) for wave in waves]
    order = data.draw(st.permutations(range(len(waves))))
    frames, n_frames = check_frames.encode(encoder, [waves[i] for i in order])
    for layer, of_layer in enumerate(frames):
        for position, i in enumerate(order):
            count = encoder.info.n_frames(lengths[i])
            assert int(n_frames[layer, position]) == int(alone[i][1][layer, 0]) == count
            assert check_frames.error_of(of_layer[position, :count], alone[i][0][layer][0]) <= BATCH
            assert not of_layer[position, count:].any()


# The command


def test_check_with_a_folder_without_such_stores_says_so(command: Command, tmp_path: Path) -> None:
    done = command("check", "fbank", "--quick", "--to", tmp_path / "none")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no store of these weights of fbank here" in done.stderr


def test_check_prints_a_table_and_ends_with_0(command: Command) -> None:
    done = command("check", "random:data2vec-audio-tiny")
    assert done.returncode == 0, done.stderr
    for word in (
        "weights",
        "batches",
        "alone against 6 batches",
        "1 + (samples - 400) // 320",
        "bitwise equal",
    ):
        assert word in done.stdout
    assert re.search(r"random:data2vec-audio-tiny: check: \d+ passed, in [\d.]+ s on ", done.stdout)


def test_check_of_a_faulty_checkpoint_ends_with_1(
    command: Command, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders[GROUP], tmp_path / "faulty"))
    weights = load_file(folder / "model.safetensors")
    name = "encoder.layers.1.attention.v_proj.weight"
    weights[name][3, 5] = 3e20
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    done = command("check", folder, "--quick", "--format", "json")
    assert done.returncode == 1
    found = {item["check"]: item for item in json.loads(done.stdout)["findings"]}
    assert found["values of weights"]["result"] == "FAIL"
    assert name in found["values of weights"]["found"]
    weights[name][3, 5] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    done = command("check", folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"NaN or infinite weights in {name}" in done.stderr


# Beside the stores


def test_extraction_checks_a_model_once_and_keeps_the_certificate(
    folders: dict[str, Path],
    tones: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifest, model = tones(words=1, speakers=1, repetitions=3), str(folders[PRE])
    runs: list[str] = []

    def counted(encoder: Encoder, quick: bool) -> Certificate:
        runs.append(encoder.info.weights_sha256)
        return check_model(encoder, quick)

    monkeypatch.setattr(extraction, "check_model", counted)
    for view in ("mean", "meanstd", "mean"):
        extraction.extract(model, manifest, tmp_path / "f", storing=Storing(view=view))
    assert len(runs) == 1
    stores = find_stores(tmp_path / "f")
    assert len(stores) == 2
    for store in stores:
        assert store.certificate["passed"]
        assert store.certificate["quick"]
        assert store.certificate["weights_sha256"] == store.recipe["model"]["weights_sha256"]
    monkeypatch.setattr(extraction, "package_versions", lambda: {"torch": "9.9"})
    extraction.extract(model, manifest, tmp_path / "f", storing=Storing(view="mean"))
    assert len(runs) == 2, "other libraries are checked anew"


def test_a_certificate_is_kept_for_stores_of_other_folders(
    folders: dict[str, Path],
    tones: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    manifest, model = tones(words=1, speakers=1, repetitions=3), str(folders[PRE])
    runs: list[str] = []

    def counted(encoder: Encoder, quick: bool) -> Certificate:
        runs.append(encoder.info.weights_sha256)
        return check_model(encoder, quick)

    def extracted(to: str, cache: str, model: str | Encoder = model) -> int:
        monkeypatch.setenv("PROBE_CACHE", cache)
        extraction.extract(model, manifest, tmp_path / to, storing=Storing(view="mean"))
        (store,) = find_stores(tmp_path / to)
        assert store.certificate["passed"]
        return len(runs)

    monkeypatch.setattr(extraction, "check_model", counted)
    caplog.set_level("INFO", "probe")
    cache = tmp_path / "cache"
    assert [extracted(to, str(cache)) for to in ("a", "b")] == [1, 1]
    (file,) = (cache / "certificates").glob("*.json")
    assert f"it passed this check here before; the certificate is in {file}" in caplog.text
    assert extracted("c", str(cache), opened(folders[PRE])) == 2, "an object may be other code"
    file.write_text("{")
    assert [extracted(to, str(cache)) for to in ("d", "e")] == [3, 3], "a damaged one is made again"
    assert extracted("f", "") == 4
    (tmp_path / "no-folder").write_text("")
    assert extracted("g", str(tmp_path / "no-folder")) == 5
    assert "the certificate cannot be kept for later runs" in caplog.text


def test_a_whole_certificate_goes_to_the_stores_of_these_weights_and_stays(
    command: Command, folders: dict[str, Path], tones: Callable[..., Path], tmp_path: Path
) -> None:
    manifest, model = tones(words=1, speakers=1, repetitions=3), str(folders[GROUP])
    for name in (model, "mfcc"):
        extraction.extract(name, manifest, tmp_path / "f", storing=Storing(view="mean"))
    done = command("check", model, "--to", tmp_path / "f")
    assert done.returncode == 0
    assert done.stderr.count("certificate.json") == 1
    extraction.extract(model, manifest, tmp_path / "f", storing=Storing(view="meanstd"))
    assert (
        "kept, because it holds the whole check"
        in command("check", model, "--quick", "--to", tmp_path / "f").stderr
    )
    forms = {
        (store.recipe["model"]["id"], store.certificate["quick"])
        for store in find_stores(tmp_path / "f")
    }
    assert forms == {(Path(model).name, False), ("mfcc", True)}
    assert "whole form, passed" in command("show", tmp_path / "f").stdout


def test_extraction_refuses_a_model_that_fails_its_check(
    folders: dict[str, Path], tones: Callable[..., Path], tmp_path: Path
) -> None:
    manifest, encoder = (
        tones(words=1, speakers=1, repetitions=3),
        Padded(opened(folders[GROUP]), masked=True),
    )
    with pytest.raises(
        ProbeError,
        match=r"its features cannot be trusted, 1 checks failed:\n  batches: (.|\n)*--no-check",
    ):
        extraction.extract(encoder, manifest, tmp_path / "f", storing=Storing(view="mean"))
    assert not (tmp_path / "f").exists()
    extraction.extract(
        encoder,
        manifest,
        tmp_path / "f",
        storing=Storing(view="mean"),
        running=Running(check=False),
    )
    (store,) = find_stores(tmp_path / "f")
    assert store.certificate == {}


# The page


def parity(encoder: TransformersEncoder) -> tuple[float, float]:
    """How far an encoder is from transformers, for the matrix; its preprocessor as usually called
    is held to its bound here.
    """
    waves = [
        check_frames.noise(max(n, encoder.info.grid.min_samples), n)
        for n in (400, 719, 16_037, 48_000)
    ]
    as_called = check_frames.compare(
        "", encoder, lambda wave: encoder.by_transformers(wave, exact=False), waves, NORMALISATION
    )
    assert as_called.result == PASS
    return matrix.apart(encoder, encoder.by_transformers, waves)


@pytest.mark.nightly
def test_the_matrix_of_the_models_page_holds_for_every_family(
    folders: dict[str, Path], others: dict[str, Path]
) -> None:
    for family, folder in (folders | others).items():
        encoder = opened(folder)
        matrix.hold(family, *parity(encoder), matrix.in_batches(encoder))
    bundles = [f"torchaudio {name}" for name in AFTER]
    assert list(matrix.documented()) == [*FAMILIES, *OTHER_FAMILIES, *bundles, *NAMED, *ONE_OF_EACH]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMED, *ONE_OF_EACH])
def test_models_of_full_size_pass_the_whole_check(name: str) -> None:
    encoder = opened(f"random:{name}")
    certificate = check_model(encoder)
    assert not certificate.failed
    matrix.hold(name, *parity(encoder), matrix.figure_of(certificate.findings))
    assert certificate.seconds < 300 or name not in NAMED
