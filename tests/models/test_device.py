"""What holds on every device: packed against transformers in every precision, batches, memory,
heads.

These tests run on a GPU where there is one, on the device in ``PROBE_TEST_DEVICE`` if that is set,
and are skipped otherwise: `benchmarks/gpu.sh` runs them, its dry form on the CPU.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import FAMILIES
from torch import Tensor

from probe.extraction.extract import extract
from probe.extraction.settings import Running, Storing
from probe.heads.ctc.ctc_probe import CTCProbe, CTCTraining
from probe.heads.ctc.modules import HeadSettings
from probe.heads.linear.linear_probe import Solving, fit_strengths
from probe.models.catalogue import open_model
from probe.models.packed.packed_encoder import PackedForm
from probe.store.stores import open_store

DEVICE = os.environ.get("PROBE_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "")
pytestmark = pytest.mark.skipif(not DEVICE, reason="no GPU, and PROBE_TEST_DEVICE is not set")
# Relative L2 of a layer, against transformers and against the utterance alone.
BOUNDS = {"fp32": 5e-6, "tf32": 1e-2, "bf16": 3e-2}  # also of a single frame
PRECISIONS = [name for name in BOUNDS if name != "tf32" or DEVICE.startswith("cuda")]
LENGTHS = (400, 16_037, 80_000, 719, 33_333)


def noise(n_samples: int) -> Tensor:
    generator = torch.Generator().manual_seed(n_samples)
    return (0.1 * torch.randn(n_samples, generator=generator) + 0.02).to(DEVICE)


def apart(found: Tensor, expected: Tensor) -> float:
    """Relative L2."""
    assert found.shape == expected.shape
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def opened(folder: Path, precision: str) -> PackedForm:
    encoder = open_model(str(folder), DEVICE, precision=precision)
    assert isinstance(encoder, PackedForm)
    return encoder


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", [*FAMILIES, "whisper"])
def test_packed_frames_are_those_of_transformers_alone_and_in_company(
    folders: dict[str, Path], others: dict[str, Path], family: str, precision: str
) -> None:
    encoder = opened((folders | others)[family], precision)
    waves, names = [noise(n) for n in LENGTHS], list(encoder.info.every_layer)
    packed, offsets = encoder.encode_packed(waves, names)
    for number, wave in enumerate(waves):
        expected = encoder.by_transformers(wave)
        alone, _ = encoder.encode_packed([wave], names)
        span = slice(int(offsets[number]), int(offsets[number + 1]))
        for name, of_all, frames in zip(names, packed, alone, strict=True):
            assert frames.device.type == torch.device(DEVICE).type
            assert apart(frames, expected[name]) <= BOUNDS[precision]
            assert apart(of_all[span], frames) <= BOUNDS[precision]


def test_memory_that_does_not_suffice_halves_the_rows(
    folders: dict[str, Path],
    tones: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    corpus = tones(words=1, speakers=2, repetitions=2)
    encoder = opened(folders["wav2vec2 pre-LN"], "fp32")
    storing, running = Storing(view="frames"), Running(check=False)
    expected = extract(encoder, corpus, tmp_path / "whole", storing=storing, running=running)
    most, pieces = encoder.rows // 2, type(encoder).pieces

    def short_of_memory(
        self: PackedForm, waves: Sequence[Tensor], layers: Sequence[str]
    ) -> Iterator[list[Tensor]]:
        if self.rows > most:
            torch.empty(2**55, device=DEVICE)  # the device's own error
        yield from pieces(self, waves, layers)

    monkeypatch.setattr(type(encoder), "pieces", short_of_memory)
    done = extract(encoder, corpus, tmp_path / "halved", storing=storing, running=running)
    assert (encoder.rows, done.failures) == (most, [])
    stores = [open_store(item.store) for item in (expected, done)]
    one, other = (
        store.read("3", [versions[-1] for versions in store.utterances.values()]).values
        for store in stores
    )
    np.testing.assert_allclose(one, other, rtol=0, atol=2e-3)


def test_linear_probes_reach_the_objective_of_the_cpu() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 5, 2_000)
    rows = generator.normal(size=(2_000, 24)).astype(np.float32) + labels[:, None] * 0.2
    fits = [
        fit_strengths(rows, labels, [1e-3, 1e-1], solving=Solving(device=device))
        for device in ("cpu", DEVICE)
    ]
    for one, other in zip(*fits, strict=True):
        np.testing.assert_allclose(one.coef_, other.coef_, rtol=0, atol=5e-3)


@pytest.mark.parametrize("head", ["linear", "bilstm"])
def test_ctc_heads_learn_a_planted_text(head: str) -> None:
    generator = np.random.default_rng(0)
    codes = generator.standard_normal((3, 16))
    texts = ["".join("ab"[i] for i in generator.integers(0, 2, 6)) for _ in range(24)]
    frames = []
    for text in texts:
        symbols = np.array([part for c in text for part in ("ab".index(c), 2)])
        rows = codes[np.repeat(symbols, 2)] + 0.1 * generator.standard_normal((24, 16))
        frames.append(rows.astype(np.float16))
    training = CTCTraining([3e-2], epochs=12, batch_size=8)
    probe = CTCProbe(HeadSettings(head, hidden=8), training, device=DEVICE)
    probe.fit(frames[:16], texts[:16], frames[16:], texts[16:])
    assert min(item["dev_cer"] for item in probe.search_) < 0.2
