"""The plug-ins of recipes/encoders against the packages' own networks, if they are installed."""

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from probe.models.catalogue import open_model
from probe.models.check import check_model

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "encoders"
PACKAGES = {"GE2E": "resemblyzer", "DistillMOS": "distillmos", "SileroVAD": "silero_vad"}
INSTALL = "pip install --no-deps -r recipes/encoders/requirements.txt"


def needs(name: str) -> Any:
    """The mark of a test that opens an encoder."""
    return pytest.mark.skipif(
        find_spec(PACKAGES[name]) is None, reason=f"{PACKAGES[name]} is missing: {INSTALL}"
    )


@pytest.fixture
def encoders(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of plug-ins, which lies in the working folder as a user's does."""
    monkeypatch.chdir(RECIPE)
    monkeypatch.syspath_prepend(str(RECIPE))
    import encoders

    with torch.no_grad():
        yield encoders
    sys.modules.pop("encoders")


def noise(n: int) -> Tensor:
    """(n,) float32, speech-like in level."""
    return 0.05 * torch.randn(n, generator=torch.Generator().manual_seed(0))


@needs("GE2E")
def test_ge2e_gives_the_embedding_of_the_packages_network(encoders: Any) -> None:
    """Resemblyzer's network is an LSTM of three layers and a linear layer, with these names."""
    plugin = encoders.GE2E().eval()
    path = encoders.package_file("resemblyzer", "pretrained.pt")
    weights = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    network = nn.Module()
    network.lstm, network.linear = nn.LSTM(40, 256, 3, batch_first=True), nn.Linear(256, 256)
    network.load_state_dict(weights, strict=False)
    layers = plugin.layers(noise(25_600))
    _, (hidden, _) = network.lstm(layers[0][None])
    for layer, state in zip(layers[1:4], hidden, strict=True):
        torch.testing.assert_close(layer[-1], state[0])
    torch.testing.assert_close(layers[4][-1], torch.relu(network.linear(hidden[-1]))[0])


@needs("DistillMOS")
def test_distill_mos_gives_the_rating_of_the_packages_network(encoders: Any) -> None:
    plugin = encoders.DistillMOS().eval()
    wave = noise(122_880)
    head = plugin.net.transformer_pool_attn
    last = plugin.layers(wave)[-1][None]
    rating = torch.sigmoid(head.pool(head.norm_trans(last.transpose(1, 2)).transpose(1, 2)))
    torch.testing.assert_close(1 + 4 * rating[0], plugin.net(wave[None]))


@needs("SileroVAD")
def test_silero_vad_gives_the_states_of_the_packages_streaming_network(encoders: Any) -> None:
    """Piece by piece, as silero_vad/tinygrad_model.py defines it."""
    plugin = encoders.SileroVAD().eval()
    path = encoders.package_file("silero_vad", "data/silero_vad_16k.safetensors")
    weights = load_file(path)
    cell = nn.LSTMCell(128, 128)
    cell.load_state_dict({key: weights[f"lstm_cell.{key}"] for key in cell.state_dict()})
    wave, state, expected = noise(5 * 512 + 100), None, []
    for start in range(0, 5 * 512, 512):
        piece = functional.pad(wave, (64, 0))[start : start + 576]
        piece = functional.pad(piece[None, None], (0, 64), mode="reflect")
        x = functional.conv1d(piece, weights["stft_conv.weight"], stride=128)
        x = (x[:, :129] ** 2 + x[:, 129:] ** 2).sqrt()
        for i, stride in zip((1, 2, 3, 4), (1, 2, 2, 1), strict=True):
            kernel, bias = weights[f"conv{i}.weight"], weights[f"conv{i}.bias"]
            x = functional.conv1d(x, kernel, bias, stride, padding=1).relu()
        state = cell(x[:, :, 0], state)
        expected.append(state[0][0])
    torch.testing.assert_close(plugin.layers(wave)[-1], torch.stack(expected))


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(name)) for name in PACKAGES])
def test_every_encoder_and_its_random_twin_keep_the_contract(encoders: Any, name: str) -> None:
    certificate = check_model(f"plugin:encoders:{name}", quick=True)
    assert not certificate.failed
    trained, twin = (open_model(f"{prefix}plugin:encoders:{name}") for prefix in ("", "random:"))
    assert trained.info.weights_sha256 != twin.info.weights_sha256
