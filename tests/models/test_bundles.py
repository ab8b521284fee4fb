"""torchaudio's bundles: every layer is that of its own ``extract_features``, and every weight of
the real ones has its place.
"""

import os
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import matrix
import pytest
import torch
import torchaudio
import transformers
from exhaustive import mostly_nightly
from small_bundles import AFTER, small_bundle
from torch import Tensor
from torchaudio.pipelines._wav2vec2.utils import _get_model

from probe.errors import ProbeError
from probe.models.catalogue import open_model
from probe.models.check import check_model
from probe.models.encoder import CONV, CTC
from probe.models.sources import bundles as module
from probe.models.sources import hub

REAL = module.bundles()
# Levels. Normalisation matters: an offset, and so quiet that what is added to the variance counts.
WAVES = (0.1, 0.003)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of torch hub's with the files of small bundles in it, as torchaudio has them."""
    folder = tmp_path_factory.mktemp("torch") / "hub"
    (folder / "checkpoints").mkdir(parents=True)
    torch.manual_seed(4)
    for name in AFTER:
        bundle = small_bundle(name)
        unused = len(
            getattr(bundle, "_remove_aux_axis", ())
        )  # symbols in the file that torchaudio leaves out
        n_symbols = bundle._params["aux_num_out"]
        model = _get_model(
            bundle._model_type, bundle._params | {"aux_num_out": n_symbols and n_symbols + unused}
        )
        state = {
            key: weight + 0.1 * torch.randn(weight.shape)
            for key, weight in model.state_dict().items()
        }
        torch.save(state, folder / "checkpoints" / bundle._path)
    return folder


@pytest.fixture(autouse=True)
def _small_bundles(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """These instead of the real ones, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(cache.parent))
    monkeypatch.setattr(module, "bundles", lambda: {name: small_bundle(name) for name in AFTER})
    monkeypatch.setattr(hub, "answers", lambda *_: pytest.fail("the network was asked"))
    monkeypatch.setattr(
        "torch.hub.download_url_to_file", lambda *_, **__: pytest.fail("something was fetched")
    )


def wave(rms: float) -> Tensor:
    return rms * torch.randn(9_111, generator=torch.Generator().manual_seed(5)) + rms / 5


def by_torchaudio(name: str, samples: Tensor) -> dict[str, Tensor]:
    """Every layer of one utterance by torchaudio alone; layer 0 is its first block's input."""
    bundle = small_bundle(name)
    model = bundle.get_model()
    inner = getattr(model, "model", model)
    given: list[Tensor] = []
    hook = inner.encoder.transformer.layers[0].register_forward_pre_hook(
        lambda _, inputs: given.append(inputs[0])
    )
    with torch.inference_mode():
        layers, _ = model.extract_features(samples[None])
        hook.remove()
        found = {"0": given[0]} | {str(i): frames for i, frames in enumerate(layers, start=1)}
        normed = (
            torch.nn.functional.layer_norm(samples, samples.shape)
            if bundle._normalize_waveform
            else samples
        )
        features, _ = inner.feature_extractor(normed[None], None)
        found[CONV] = features
        found["final"] = inner.encoder(features, None)
        if inner.aux is not None:
            found[CTC] = inner.aux(found["final"])
    return {key: frames[0] for key, frames in found.items()}


@pytest.mark.parametrize(
    "name", mostly_nightly(AFTER, ["WAV2VEC2_BASE", "HUBERT_LARGE", "WAVLM_BASE"])
)
def test_every_layer_is_torchaudios_own_and_the_models_page_says_how_nearly(name: str) -> None:
    found = []
    for implementation in ("reference", "packed"):
        encoder = open_model(f"torchaudio:{name}", "cpu", implementation=implementation)
        assert encoder.implementation == implementation
        found.append(matrix.apart(encoder, partial(by_torchaudio, name), map(wave, WAVES)))
    matrix.hold(f"torchaudio {name}", *map(max, *found), matrix.in_batches(encoder))


def test_a_bundle_passes_every_check() -> None:
    certificate = check_model(open_model("torchaudio:WAV2VEC2_ASR_LARGE_LV60K_960H", "cpu"))
    assert not certificate.failed
    assert {item.check: item.result for item in certificate.findings}["reopened"] == "pass"


@pytest.mark.parametrize(
    ("name", "family", "normalize"),
    [
        ("WAV2VEC2_BASE", "wav2vec2", False),
        ("HUBERT_LARGE", "hubert", True),
        ("WAVLM_LARGE", "wavlm", True),
    ],
)
def test_a_bundle_is_described(cache: Path, name: str, family: str, normalize: bool) -> None:
    info = open_model(f"torchaudio:{name}", "cpu").info
    assert (info.id, info.revision, info.family, info.normalize) == (
        f"torchaudio:{name}",
        f"{name}.pth",
        family,
        normalize,
    )
    assert info.settings.get("normalize_epsilon") == (1e-5 if normalize else None)
    assert info.weights == f"{name}.pth"
    assert not info.notes
    other = open_model(f"random:torchaudio:{name}@2", "cpu").info
    assert (other.layers, other.normalize, other.settings) == (
        info.layers,
        info.normalize,
        info.settings,
    )
    assert other.weights_sha256 != info.weights_sha256


def test_a_head_writes_the_bundles_labels() -> None:
    writes = open_model("torchaudio:WAV2VEC2_ASR_LARGE_LV60K_960H", "cpu").info.ctc["writes"]
    assert writes == (
        "",
        *(
            label.replace("|", " ")
            for label in small_bundle("WAV2VEC2_ASR_LARGE_LV60K_960H").get_labels()[1:]
        ),
    )
    assert " " in writes


# The real ones, by their shapes alone


def sizes_of(bundle: Any) -> str:
    return repr(
        sorted(
            (key, size)
            for key, size in bundle._params.items()
            if "drop" not in key and key != "aux_num_out"
        )
    )


@pytest.mark.parametrize("name", {sizes_of(bundle): name for name, bundle in REAL.items()}.values())
def test_every_weight_of_a_real_bundle_has_its_place(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "bundles", lambda: REAL)
    config, _ = module.architecture_of(f"torchaudio:{name}")
    bundle = REAL[name]
    with torch.device("meta"):
        there = _get_model(bundle._model_type, bundle._params | {"aux_num_out": None}).state_dict()
        here = transformers.AutoModel.from_config(config).state_dict()
    found = {key: weight.shape for key, weight in module._renamed(there).items()}
    assert found == {
        key: weight.shape for key, weight in here.items() if key != "masked_spec_embed"
    }


def test_all_encoders_of_torchaudio_are_known() -> None:
    kinds = torchaudio.pipelines.Wav2Vec2Bundle, torchaudio.pipelines.Wav2Vec2FABundle
    assert {
        name: item for name, item in vars(torchaudio.pipelines).items() if isinstance(item, kinds)
    } == REAL
    assert len(REAL) >= 30


# What is refused


def test_an_unknown_name_is_refused_with_a_guess() -> None:
    for prefix in ("", "random:"):
        with pytest.raises(
            ProbeError,
            match=r"Did you mean 'torchaudio:WAVLM_BASE'\? Its encoders are WAV2VEC2_BASE, ",
        ):
            open_model(f"{prefix}torchaudio:wavlm_base", "cpu")


@pytest.mark.parametrize(
    ("offline", "why"), [(True, "HF_HUB_OFFLINE is set"), (False, "there is no answer from there")]
)
def test_weights_that_are_nowhere_are_refused_with_their_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool, why: str
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(hub, "is_offline", lambda: offline)
    monkeypatch.setattr(hub, "answers", lambda *_: False)
    with pytest.raises(
        ProbeError,
        match=(
            rf"not at {tmp_path}/hub/checkpoints/WAVLM_BASE\.pth, and {why}:"
            r" https://download\.pytorch\.org"
        ),
    ):
        open_model("torchaudio:WAVLM_BASE", "cpu")


def test_a_hostile_or_damaged_file_in_the_cache_is_not_run(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file, made = tmp_path / "hub" / "checkpoints" / "WAVLM_BASE.pth", tmp_path / "made"
    file.parent.mkdir(parents=True)

    class Mark:
        def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
            return os.mkdir, (str(made),)

    whole = (cache / "checkpoints" / "WAVLM_BASE.pth").read_bytes()
    for content in (pickle.dumps(Mark()), b"", whole[:-100]):
        file.write_bytes(content)
        with pytest.raises(
            ProbeError,
            match=(
                r"cannot be fetched or read as plain weights \([^\n]+\)\. Remove it and try"
                r" again\.$"
            ),
        ) as caught:
            open_model("torchaudio:WAVLM_BASE", "cpu")
        assert "weights_only" not in str(caught.value)
    assert not made.exists()


def test_a_file_with_other_weights_is_refused(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    state = torch.load(cache / "checkpoints" / "WAVLM_BASE.pth", weights_only=True)
    state["encoder.transformer.layers.9.odd"] = state.pop(
        "encoder.transformer.layers.1.layer_norm.bias"
    )
    torch.save(state, folder / "WAVLM_BASE.pth")
    with pytest.raises(
        ProbeError,
        match=(
            r"1 of the encoder's weights missing, 0 of another shape:"
            r" encoder\.layers\.1\.layer_norm\.bias"
        ),
    ):
        open_model("torchaudio:WAVLM_BASE", "cpu")
