"""Packed execution: the values of transformers, the same bits in any company, flat memory over long
audio.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from exhaustive import mostly_nightly
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_models import FAMILIES, write_checkpoint
from torch import Tensor

from probe.errors import UsageError
from probe.extraction.extract import recipe_of
from probe.models import check_frames
from probe.models.catalogue import open_model
from probe.models.encoder import CTC, Chunking
from probe.models.packed import frontend, products
from probe.models.packed.attention import PositionBias
from probe.models.packed.frontend import patch_statistics
from probe.models.packed.packed_encoder import PackedEncoder, Window
from probe.models.packed.positional import Convolution
from probe.models.packed.products import FEWEST_ROWS, Product
from probe.models.packed.support import without_packed_form
from probe.models.reference import TransformersEncoder
from probe.models.sources.known import known_models

# Relative L2 per layer against transformers. In float32 both are further from the truth for a
# single frame, where norms amplify most.
ALONE, ALONE_SHORT, ROUNDED = 2e-6, 5e-6, 2e-2
PRE, GROUP, D2V, WAVLM = "wav2vec2 pre-LN", "wav2vec2 post-LN", "data2vec-audio", "wavlm pre-LN"


def opened(folder: Path, precision: str = "fp32", **chunking: float) -> PackedEncoder:
    reference = open_model(str(folder), "cpu", implementation="reference")
    assert isinstance(reference, TransformersEncoder)
    return PackedEncoder(
        reference,
        precision,
        Chunking(**({"above_s": 0.0, "context_s": 5.0} | chunking)) if chunking else None,
    )


def noise(n_samples: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(n_samples, generator=torch.Generator().manual_seed(seed)) + 0.02


def apart(found: Tensor, expected: Tensor) -> float:
    """Relative L2."""
    assert found.shape == expected.shape
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def alone(encoder: PackedEncoder, wave: Tensor) -> list[Tensor]:
    return encoder.encode_packed([wave], list(encoder.info.layers))[0]


@pytest.fixture
def threads() -> Iterator[Any]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# Values


@pytest.mark.parametrize("n_samples", [400, 719, 16_037, 80_000])
@pytest.mark.parametrize("family", mostly_nightly(FAMILIES, [PRE, GROUP, D2V, "wavlm pre-LN"]))
def test_every_layer_is_that_of_transformers(
    folders: dict[str, Path], family: str, n_samples: int
) -> None:
    encoder, wave = opened(folders[family]), noise(n_samples)
    expected = encoder.by_transformers(wave)
    for name, frames in zip(encoder.info.layers, alone(encoder, wave), strict=True):
        assert frames.dtype == torch.float32
        assert apart(frames, expected[name]) <= (ALONE if n_samples > 16_000 else ALONE_SHORT)


@pytest.mark.parametrize("family", mostly_nightly(FAMILIES, [PRE, GROUP, D2V, "wavlm pre-LN"]))
def test_bf16_differs_by_no_more_than_its_rounding(folders: dict[str, Path], family: str) -> None:
    encoder, wave = opened(folders[family], "bf16"), noise(48_000)
    expected = encoder.by_transformers(wave)
    for name, frames in zip(encoder.info.layers, alone(encoder, wave), strict=True):
        assert frames.dtype == torch.float32
        assert 1e-4 < apart(frames, expected[name]) <= ROUNDED


def test_plain_products_give_the_same_values_where_onednn_cannot_be_had(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "can_pack", lambda dtype: False)
    for family in FAMILIES:
        encoder, wave = opened(folders[family]), noise(16_037)
        expected = encoder.by_transformers(wave)
        for name, frames in zip(encoder.info.layers, alone(encoder, wave), strict=True):
            assert apart(frames, expected[name]) <= ALONE


def test_the_ctc_head_runs_on_the_final_output(folders: dict[str, Path]) -> None:
    for family in (PRE, GROUP):
        encoder, wave = opened(folders[family]), noise(8_000)
        encoder._head = torch.nn.Linear(24, 5)
        (scores,), _ = encoder.encode_packed([wave], [CTC])
        assert apart(scores, encoder.by_transformers(wave)[CTC]) <= ALONE_SHORT


def test_a_layer_alone_is_the_same_and_runs_no_later_block(folders: dict[str, Path]) -> None:
    encoder, wave = opened(folders[PRE]), noise(5_000)
    whole = dict(zip(encoder.info.layers, alone(encoder, wave), strict=True))
    assert encoder._network is not None
    run: list[int] = []
    for number, block in enumerate(encoder._network.blocks, start=1):
        encoder._network.blocks[number - 1] = lambda *arguments, n=number, b=block: (
            run.append(n) or b(*arguments)
        )  # type: ignore[misc, call-overload]
    for layers, blocks in ((["0"], []), (["1"], [1]), (["2", "0"], [1, 2]), (["final"], [1, 2, 3])):
        run.clear()
        found = encoder.encode_packed([wave], layers)[0]
        assert run == blocks
        assert all(
            torch.equal(frames, whole[name]) for name, frames in zip(layers, found, strict=True)
        )


def test_weights_and_global_settings_stay_as_they_were(folders: dict[str, Path]) -> None:
    for family in FAMILIES:
        encoder = opened(folders[family], "bf16")
        before = {name: weight.clone() for name, weight in encoder.model.state_dict().items()}
        torch.set_float32_matmul_precision("medium")
        try:
            alone(encoder, noise(2_000))
            assert torch.get_float32_matmul_precision() == "medium"
        finally:
            torch.set_float32_matmul_precision("highest")
        after = encoder.model.state_dict()
        assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_a_program_that_allows_less_precision_does_not_decide_ours(
    folders: dict[str, Path],
) -> None:
    encoder, wave = opened(folders[GROUP]), noise(16_000)
    before = alone(encoder, wave)
    assert encoder._network is not None
    sound, seen = encoder._network.front_end, set()

    def front_end(wave: Tensor) -> Tensor:
        seen.add(torch.get_float32_matmul_precision())
        return sound(wave)

    encoder._network.front_end = front_end  # type: ignore[assignment]
    torch.set_float32_matmul_precision("medium")
    try:
        after = alone(encoder, wave)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == {"highest"}
    assert all(map(torch.equal, before, after))


# Company

LENGTHS = st.one_of(
    st.just(400),
    st.integers(400, 1_200),
    st.integers(400, 16_000),
    st.sampled_from([401, 719, 720, 40_000]),
)


@pytest.mark.parametrize("family", mostly_nightly(FAMILIES, [PRE, GROUP, D2V]))
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lengths=st.lists(LENGTHS, min_size=2, max_size=5),
    seed=st.integers(0, 2**31),
    precision=st.sampled_from(["fp32", "bf16"]),
    n_threads=st.permutations([1, 2, 3]),
)
def test_neither_company_nor_threads_change_a_bit(
    folders: dict[str, Path],
    threads: Any,
    family: str,
    lengths: list[int],
    seed: int,
    precision: str,
    n_threads: list[int],
) -> None:
    encoder = opened(folders[family], precision)
    waves = [noise(n, seed + index) for index, n in enumerate(lengths)]
    names = list(encoder.info.layers)
    threads(n_threads[0])
    expected = [alone(encoder, wave) for wave in waves]
    threads(n_threads[1])
    packed, offsets = encoder.encode_packed(waves, names)
    padded, n_frames = encoder.encode(
        torch.nn.utils.rnn.pad_sequence(waves, True), torch.tensor(lengths), names
    )
    assert offsets.tolist()[-1] == len(packed[0])
    for layer, of_layer in enumerate(packed):
        for i, frames in enumerate(of_layer.split(offsets.diff().tolist())):
            assert len(frames) == encoder.info.n_frames(lengths[i]) == n_frames[layer, i]
            assert torch.equal(frames, expected[i][layer])
            assert torch.equal(padded[layer][i, : len(frames)], frames)
            assert not padded[layer][i, len(frames) :].any()


@pytest.mark.parametrize("family", [PRE, GROUP, D2V, "wavlm post-LN"])
def test_the_number_of_threads_that_prepare_the_weights_changes_no_bit(
    folders: dict[str, Path], threads: Any, family: str
) -> None:
    wave = noise(16_000)
    of_each = []
    for n_threads in (1, 2, 3):
        threads(n_threads)
        of_each.append(alone(opened(folders[family]), wave))
        assert torch.get_num_threads() == n_threads
    for layers in of_each[1:]:
        assert all(map(torch.equal, layers, of_each[0]))


def test_neither_groups_nor_the_place_in_one_change_a_bit(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    waves = [noise(n, n) for n in (400, 16_000, 719, 48_000, 5_000, 400)]
    for family in FAMILIES:
        encoder = opened(folders[family])
        whole, _ = encoder.encode_packed(waves, list(encoder.info.layers))
        for rows in (1, 20, 60, 151):
            monkeypatch.setattr("probe.models.packed.packed_encoder.ROWS", {"cpu": rows})
            assert all(
                map(torch.equal, encoder.encode_packed(waves, list(encoder.info.layers))[0], whole)
            )
        monkeypatch.undo()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("packed", [True, False])
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    width=st.sampled_from([8, 12, 24, 40, 72, 512, 768, 1536]),
    wide=st.sampled_from([8, 10, 24, 33, 40, 72, 512, 2304]),
    rows=st.lists(st.integers(1, 130), min_size=2, max_size=6),
    gelu=st.booleans(),
    n_threads=st.sampled_from([1, 2]),
)
def test_a_row_of_a_product_does_not_depend_on_the_others(
    threads: Any,
    dtype: torch.dtype,
    packed: bool,
    width: int,
    wide: int,
    rows: list[int],
    gelu: bool,
    n_threads: int,
) -> None:
    generator = torch.Generator().manual_seed(width * wide)
    weight, bias = (
        torch.randn(wide, width, generator=generator),
        torch.randn(wide, generator=generator),
    )
    product = Product(weight, bias, dtype, gelu, parts=2, packed=packed)
    inner = products.inner_dtype(dtype, weight.device)
    assert product.packed == (packed and products.can_pack(inner))
    values = torch.randn(sum(rows), width, generator=generator)
    threads(3 - n_threads)
    together = product(values)
    threads(n_threads)
    with torch.inference_mode():
        for part, expected in zip(values.split(rows), together.split(rows), strict=True):
            assert torch.equal(product(part), expected)
    linear = F.linear(values.double(), weight.double(), bias.double())
    assert apart(together, F.gelu(linear) if gelu else linear) <= (
        2e-2 if dtype == torch.bfloat16 else 2e-6
    )


def test_products_have_a_fewest_number_of_rows() -> None:
    seen: list[int] = []
    product = Product(torch.eye(8), None, torch.float32, packed=False)
    sound = F.linear

    def counted(rows: Tensor, *weights: Any) -> Tensor:
        seen.append(len(rows))
        return sound(rows, *weights)

    F.linear = counted  # type: ignore[assignment]
    try:
        assert product(torch.ones(1, 8)).shape == (1, 8)
        assert product(torch.ones(40, 8)).shape == (40, 8)
    finally:
        F.linear = sound
    assert seen == [FEWEST_ROWS, 40]


# Parts


@pytest.mark.parametrize("n_frames", [1, 5, 48, 130, 700])
@pytest.mark.parametrize(("kernel", "groups"), [(128, 4), (19, 2), (8, 4), (7, 1)])
def test_a_convolution_by_fourier_transform_is_the_convolution(
    n_frames: int, kernel: int, groups: int
) -> None:
    torch.manual_seed(1)
    module = torch.nn.Conv1d(24, 24, kernel, padding=kernel // 2, groups=groups)
    frames = torch.randn(n_frames, 24)
    with torch.inference_mode():
        expected = module.double()(frames.double().T[None])[0].T[:n_frames]
        assert apart(Convolution(module.float())(frames), expected) <= 5e-7


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_statistics_of_patches_are_exact(offset: float, monkeypatch: pytest.MonkeyPatch) -> None:
    wave = noise(5_003) + offset
    patches = wave.double().unfold(0, 10, 5)
    for block in (7, 2**16):
        monkeypatch.setattr(frontend, "BLOCK", block)
        mean, covariance = patch_statistics(wave, 10, 5)
        assert apart(mean, patches.mean(0)) <= 1e-14
        assert apart(covariance, torch.cov(patches.T, correction=0)) <= 1e-9


def test_position_bias_is_that_of_transformers(folders: dict[str, Path]) -> None:
    attention = opened(folders[WAVLM]).model.encoder.layers[0].attention
    with torch.inference_mode():
        expected, row = attention.compute_bias(2_000, 2_000), PositionBias(attention)(2_000)
    assert torch.equal(row[:, 1_999:], expected[:, 0])
    assert torch.equal(row[:, :2_000].flip(1), expected[:, :, 0])


# Long audio


@pytest.mark.parametrize("family", mostly_nightly(FAMILIES, [PRE, GROUP, D2V]))
def test_tiles_of_any_size_give_layer_0(
    folders: dict[str, Path], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, wave = opened(folders[family]), noise(100_000)
    whole = encoder.encode_packed([wave], ["0"])[0][0]
    for tile in (16, 37, 10_000):
        monkeypatch.setattr(frontend, "TILE", tile)
        monkeypatch.setattr("probe.models.packed.positional.BLOCKS", tile)
        assert apart(encoder.encode_packed([wave], ["0"])[0][0], whole) <= 1e-7


@pytest.mark.parametrize("family", mostly_nightly(FAMILIES, [PRE, GROUP, D2V]))
def test_chunks_longer_than_the_audio_change_no_bit(folders: dict[str, Path], family: str) -> None:
    wave = noise(48_000)
    whole = alone(opened(folders[family]), wave)
    assert all(
        map(torch.equal, alone(opened(folders[family], chunk_s=3.0, context_s=0.0), wave), whole)
    )
    assert all(
        map(torch.equal, alone(opened(folders[family], chunk_s=1.0, context_s=2.0), wave), whole)
    )


@pytest.mark.parametrize("family", mostly_nightly(FAMILIES, [PRE, GROUP, D2V]))
def test_chunks_are_approximate_and_context_helps(folders: dict[str, Path], family: str) -> None:
    wave = noise(160_000)
    names = list(opened(folders[family]).info.layers)
    whole = dict(zip(names, alone(opened(folders[family]), wave), strict=True))
    errors = []
    for context_s in (0.0, 1.0, 3.0):
        chunked = dict(
            zip(
                names,
                alone(opened(folders[family], chunk_s=2.0, context_s=context_s), wave),
                strict=True,
            )
        )
        assert torch.equal(chunked["0"], whole["0"])
        errors.append(apart(chunked["3"], whole["3"]))
    assert 1e-5 < errors[2] < errors[1] < errors[0] < 0.5


def test_windows_keep_every_frame_once_and_know_their_neighbours(folders: dict[str, Path]) -> None:
    encoder = opened(folders[GROUP], chunk_s=2.0, context_s=0.5)
    windows = list(encoder._windows([250, 1, 100]))
    assert [tuple(window) for window in windows] == [
        (0, 125, 0, 100),
        (75, 225, 100, 200),
        (175, 250, 200, 250),
        (250, 251, 250, 251),
        (251, 351, 251, 351),
    ]


def test_chunked_company_changes_no_bit(folders: dict[str, Path]) -> None:
    waves = [noise(n, n) for n in (100_000, 400, 33_000)]
    for family in FAMILIES:
        encoder = opened(folders[family], chunk_s=1.0, context_s=0.5)
        packed, offsets = encoder.encode_packed(waves, list(encoder.info.layers))
        for i, wave in enumerate(waves):
            assert all(
                torch.equal(of[offsets[i] : offsets[i + 1]], frames)
                for of, frames in zip(packed, alone(encoder, wave), strict=True)
            )


def test_pieces_are_the_frames_a_few_thousand_at_a_time(folders: dict[str, Path]) -> None:
    encoder, wave = opened(folders[GROUP], chunk_s=20.0), noise(16_000 * 90)
    pieces = list(encoder.pieces([wave], ["0", "3"]))
    assert len(pieces) > 2
    assert max(len(frames) for frames, _ in pieces) <= 2_048
    whole, _ = encoder.encode_packed([wave], ["0", "3"])
    for layer, frames in enumerate(whole):
        assert torch.equal(torch.cat([piece[layer] for piece in pieces]), frames)


# What is chosen


def test_the_packed_form_in_fp32_is_the_default_and_the_recipe_says_so(
    folders: dict[str, Path],
) -> None:
    recipes = []
    for form in ({}, {"implementation": "reference"}, {"precision": "bf16"}):
        encoder = open_model(str(folders[GROUP]), "cpu", **form)  # type: ignore[arg-type]
        recipe = recipe_of(encoder, ["0"])
        assert (recipe["implementation"], recipe["precision"]) == (
            encoder.implementation,
            encoder.precision,
        )
        recipes.append((encoder.implementation, encoder.precision))
    assert recipes == [("packed", "fp32"), ("reference", "fp32"), ("packed", "bf16")]


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        (GROUP, {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        (PRE, {"feat_extract_activation": "gelu_new"}, "feat_extract_activation is 'gelu_new'"),
        (PRE, {"adapter_attn_dim": 4}, "adapter_attn_dim is 4"),
    ],
)
def test_what_has_no_packed_form_is_computed_by_the_reference(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    changes: dict[str, Any],
    reason: str,
) -> None:
    config_class, own = FAMILIES[family]
    monkeypatch.setitem(FAMILIES, family, (config_class, own | changes))
    write_checkpoint(family, tmp_path)
    encoder = open_model(str(tmp_path), "cpu", precision="bf16")
    assert (encoder.implementation, encoder.precision) == ("reference", "fp32")
    (note,) = [note for note in encoder.info.notes if "no packed form" in note]
    assert note.endswith(reason)


def test_an_option_that_is_not_known_counts_where_it_is_not_at_its_default(
    folders: dict[str, Path],
) -> None:
    config = opened(folders[GROUP]).model.config

    class Later(type(config)):  # type: ignore[misc]
        rotary: bool = False

    later = Later(
        **{name: value for name, value in config.to_dict().items() if name != "model_type"}
    )
    assert without_packed_form(later) == ""
    later.rotary = True
    assert without_packed_form(later) == "rotary is True, an option that this version does not know"
    config.of_another_program = "ignored, as transformers ignores it"
    assert without_packed_form(config) == ""


def test_catalogued_checkpoints_have_a_packed_form_where_their_family_has_one() -> None:
    from probe.models.sources.configurations import config_of_known

    without = {
        row.family for row in known_models().values() if without_packed_form(config_of_known(row))
    }
    assert without == {"wav2vec2-conformer", "sew", "sew-d", "wav2vec2-bert"}


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"implementation": "fast"}, "--implementation fast: expected one of packed, reference"),
        ({"precision": "fp16"}, "--precision fp16: expected one of fp32, tf32, bf16"),
        ({"precision": "tf32"}, "--precision tf32: only GPUs have it, not cpu"),
        (
            {"implementation": "reference", "precision": "bf16"},
            "--precision bf16: the reference implementation computes in fp32",
        ),
    ],
)
def test_a_form_that_cannot_be_is_refused(
    folders: dict[str, Path], form: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        open_model(str(folders[GROUP]), "cpu", **form)  # type: ignore[arg-type]


def test_chunks_of_nothing_are_refused(folders: dict[str, Path]) -> None:
    for chunking in ({"chunk_s": 0.0}, {"chunk_s": 20.0, "context_s": -1.0}):
        with pytest.raises(UsageError, match=r"expected more than 0 s .*, and 0 s or more"):
            opened(folders[GROUP], **chunking)


# Full size

NAMED = (
    "facebook/wav2vec2-base",
    "facebook/wav2vec2-large-robust",
    "facebook/data2vec-audio-base",
    "facebook/data2vec-audio-large",
    "facebook/hubert-large-ll60k",
    "microsoft/wavlm-base",
    "microsoft/wavlm-large",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_true_sizes_agree_with_transformers_and_in_company(name: str, threads: Any) -> None:
    waves = [noise(n, n) for n in (64_000, 400, 33_333)]
    for precision in ("fp32", "bf16"):
        encoder = open_model(f"random:{name}", "cpu", precision=precision)
        assert isinstance(encoder, PackedEncoder)
        names = list(encoder.info.layers)
        threads(2)
        packed, offsets = encoder.encode_packed(waves, names)
        threads(1)
        for i, wave in enumerate(waves):
            expected = encoder.by_transformers(wave)
            bound = ROUNDED if precision == "bf16" else ALONE if len(wave) > 16_000 else ALONE_SHORT
            for layer, (of_layer, by_itself) in enumerate(
                zip(packed, alone(encoder, wave), strict=True)
            ):
                frames = of_layer[offsets[i] : offsets[i + 1]]
                assert torch.equal(frames, by_itself)
                assert apart(frames, expected[names[layer]]) <= bound


def test_the_certificate_looks_at_the_seams_of_long_audio(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = opened(folders[PRE], chunk_s=2.0, context_s=0.5)
    assert [item.result for item in check_frames.check_seams(encoder, None, False)] == ["pass"]
    windows = PackedEncoder._windows

    def one_beside(self: PackedEncoder, n_frames: Sequence[int]) -> Iterator[Window]:
        for window in windows(self, n_frames):
            back = int(window.kept_from > window.start)
            yield window._replace(kept_from=window.kept_from - back, kept_to=window.kept_to - back)

    monkeypatch.setattr(PackedEncoder, "_windows", one_beside)
    (finding,) = check_frames.check_seams(encoder, None, False)
    assert finding.result == "FAIL"
    assert list(check_frames.check_seams(encoder.chunked(None), None, False)) == []
