"""Whisper's packed form: the values of transformers over 30 s, the same bits in any company and for
any choice of layers, and no row more than is needed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import EXTRACTORS, OTHER_FAMILIES, write_checkpoint
from torch import Tensor

from probe.models.catalogue import open_model
from probe.models.encoder import CONV
from probe.models.packed.attention import Attention
from probe.models.packed.packed_encoder import Block
from probe.models.packed.products import Product
from probe.models.packed.whisper import FEWEST_FRAMES, TILE, PackedWhisper, WhisperNetwork

ALONE, ALONE_SHORT, ROUNDED = 2e-6, 5e-6, 2e-2  # relative L2, as in test_packed
FULL = 480_000
LAYERS = [CONV, "0", "1", "2", "3", "final"]


@pytest.fixture
def threads() -> Iterator[Any]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def opened(others: dict[str, Path], precision: str = "fp32") -> PackedWhisper:
    encoder = open_model(str(others["whisper"]), "cpu", precision=precision)
    assert isinstance(encoder, PackedWhisper)
    return encoder


def noise(n_samples: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(n_samples, generator=torch.Generator().manual_seed(seed)) + 0.02


def apart(found: Tensor, expected: Tensor) -> float:
    """Relative L2."""
    assert found.shape == expected.shape
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def alone(encoder: PackedWhisper, wave: Tensor) -> list[Tensor]:
    return encoder.encode_packed([wave], LAYERS)[0]


@pytest.mark.parametrize("n_samples", [1, 400, 16_037, FULL - 1, FULL, FULL + 16_000])
def test_every_layer_is_that_of_transformers(others: dict[str, Path], n_samples: int) -> None:
    encoder, wave = opened(others), noise(n_samples)
    expected = encoder.by_transformers(wave)
    for name, frames in zip(LAYERS, alone(encoder, wave), strict=True):
        assert frames.dtype == torch.float32
        assert apart(frames, expected[name]) <= (ALONE if n_samples > 16_000 else ALONE_SHORT)


def test_bf16_differs_by_no_more_than_its_rounding(others: dict[str, Path]) -> None:
    encoder, wave = opened(others, "bf16"), noise(48_000)
    expected = encoder.by_transformers(wave)
    for name, frames in zip(LAYERS, alone(encoder, wave), strict=True):
        assert frames.dtype == torch.float32
        least = 0 if name in (CONV, "0") else 1e-5
        assert least <= apart(frames, expected[name]) <= ROUNDED


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_neither_company_nor_threads_nor_the_choice_of_layers_change_a_bit(
    others: dict[str, Path], threads: Any, precision: str
) -> None:
    waves = [noise(n, n) for n in (1, 719, 300_000, 16_037, FULL + 320 * 77)]
    encoder = opened(others, precision)
    expected = [alone(encoder, wave) for wave in waves]
    for rows, n_threads in ((1, 2), (10**6, 1)):
        encoder.rows = rows
        threads(n_threads)
        for layers in (LAYERS, ["1"], ["2", "0"]):
            packed, offsets = encoder.encode_packed(waves, layers)
            for layer, of_layer in zip(layers, packed, strict=True):
                of_each = of_layer.split(offsets.diff().tolist())
                for frames, of_one in zip(of_each, expected, strict=True):
                    assert torch.equal(frames, of_one[LAYERS.index(layer)])


@pytest.mark.parametrize("n_samples", [1, 3_000, 90_000, 470_000, FULL])
def test_the_front_end_reads_the_audio_and_gives_the_rows_of_all_30_s(
    others: dict[str, Path], n_samples: int
) -> None:
    encoder, wave = opened(others), noise(n_samples)
    network = encoder.network
    assert isinstance(network, WhisperNetwork)
    with torch.inference_mode():
        energies, whole = encoder._first_energies(wave), encoder._energies(wave)[0]
        assert torch.equal(energies[:, :-1], whole[:, : energies.shape[1] - 1])
        n_audio = n_samples // 160 + 3
        assert energies.shape[1] <= max(FEWEST_FRAMES, n_audio + 8)
        expected = torch.nn.functional.gelu(encoder.model.conv1(whole))
        expected = torch.nn.functional.gelu(encoder.model.conv2(expected)).T
        assert network.rows(energies).shape == expected.shape
        assert apart(network.rows(energies), expected) <= 5e-7


def test_only_what_is_kept_runs_through_the_last_block_that_is_needed(
    others: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, wave = opened(others), noise(16_000)  # 50 frames
    whole = alone(encoder, wave)
    inner = {id(block.inner): number for number, block in enumerate(encoder.network.blocks, 1)}
    rows: list[tuple[int, int]] = []
    multiply = Product.__call__

    def counted(product: Product, of: Tensor) -> Tensor:
        if id(product) in inner:
            rows.append((inner[id(product)], len(of)))
        return multiply(product, of)

    monkeypatch.setattr(Product, "__call__", counted)
    for layers, expected in (
        ([CONV, "0"], []),
        (["1"], [(1, 50)]),
        (["2", "0"], [(1, 1500), (2, 50)]),
        (["final"], [(1, 1500), (2, 1500), (3, 50)]),
    ):
        rows.clear()
        frames, _ = encoder.encode_packed([wave], layers)
        assert rows == expected
        for layer, item in zip(layers, frames, strict=True):
            assert torch.equal(item, whole[LAYERS.index(layer)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_query_does_not_depend_on_the_queries_that_are_requested(
    others: dict[str, Path], dtype: torch.dtype
) -> None:
    module = opened(others).model.layers[0].self_attn
    attention, rows = Attention(module, dtype, TILE), noise(24 * 1500).view(1500, 24)
    with torch.inference_mode():
        whole = attention(rows, [1500], None)
        for span in (slice(0, 1), slice(700, 801), slice(1499, 1500), slice(1, 1500)):
            assert torch.equal(attention(rows, [1500], None, [span]), whole[span])
        of_two = attention(rows, [900, 600], None, [slice(0, 3), slice(599, 600)])
        assert torch.equal(of_two[:3], attention(rows[:900], [900], None)[:3])
        assert torch.equal(of_two[3:], attention(rows[900:], [600], None)[599:])


def test_a_block_whose_norms_come_after_gives_the_requested_rows_too(
    folders: dict[str, Path],
) -> None:
    encoder = open_model(str(folders["wav2vec2 post-LN"]), "cpu", implementation="reference")
    block = Block(encoder.model.encoder.layers[0], False, torch.float32, TILE)  # type: ignore[attr-defined]
    rows = noise(24 * 60).view(60, 24)
    with torch.inference_mode():
        whole = block(rows, [60], None)
        assert torch.equal(block(rows, [60], None, [slice(20, 50)]), whole[20:50])


def test_a_whisper_with_another_activation_is_computed_by_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config_class, settings = OTHER_FAMILIES["whisper"]
    changed = (config_class, settings | {"activation_function": "relu"})
    monkeypatch.setitem(OTHER_FAMILIES, "whisper", changed)
    write_checkpoint("whisper", tmp_path)
    EXTRACTORS["whisper"].save_pretrained(tmp_path)
    encoder = open_model(str(tmp_path), "cpu", precision="bf16")
    assert (encoder.implementation, encoder.precision) == ("reference", "fp32")
    assert encoder.info.notes[-1].endswith("activation_function is 'relu'")
