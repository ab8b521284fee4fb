"""Weights on disk: whole ones are found and hashed; damaged, exchanged and disguised ones are
refused before they are loaded.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from probe.errors import ProbeError, UsageError
from probe.files import sha256_of_json
from probe.models.catalogue import open_model
from probe.models.sources.weights import Weights, find_weights

TENSORS = {
    "encoder.a": torch.arange(6.0).reshape(2, 3),
    "encoder.b": torch.ones(3),
    "lm_head.bias": torch.zeros(2),
}
WHOLE = save(TENSORS, metadata={"format": "pt"})
SHA256 = hashlib.sha256(WHOLE).hexdigest()
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PARTS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 8,
}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """A folder with one whole file."""
    (tmp_path / SINGLE).write_bytes(WHOLE)
    return tmp_path


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """A folder with two files and their index."""
    (a, first), (b, second), (c, third) = TENSORS.items()
    save_file({a: first}, tmp_path / PARTS[0], metadata={"format": "pt"})
    save_file({b: second, c: third}, tmp_path / PARTS[1], metadata={"format": "pt"})
    n_bytes = sum(4 * tensor.numel() for tensor in TENSORS.values())
    weight_map = {a: PARTS[0], b: PARTS[1], c: PARTS[1]}
    (tmp_path / INDEX).write_text(
        json.dumps({"metadata": {"total_size": n_bytes}, "weight_map": weight_map})
    )
    return tmp_path


@pytest.fixture
def cached(tmp_path: Path) -> Callable[..., Path]:
    """Puts files into the layout of the hub's cache, blobs named by their sha256, and returns the
    snapshot's folder.
    """

    def put(files: dict[str, bytes]) -> Path:
        repository = tmp_path / "models--org--name"
        snapshot = repository / "snapshots" / ("0123456789" * 4)
        snapshot.mkdir(parents=True)
        (repository / "blobs").mkdir()
        for name, content in files.items():
            (repository / "blobs" / digest(content)).write_bytes(content)
            (snapshot / name).symlink_to(Path("../../blobs") / digest(content))
        return snapshot

    return put


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small wav2vec2 that opens."""
    folder = tmp_path_factory.mktemp("wav2vec2")
    torch.manual_seed(1)
    transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**SIZES)).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """One that a test may damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


@pytest.fixture
def never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where anything is loaded from the weights."""
    monkeypatch.setattr(
        transformers.PreTrainedModel, "from_pretrained", lambda *_, **__: pytest.fail("was loaded")
    )


def edit_index(folder: Path, **changes: Any) -> None:
    path = folder / INDEX
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# Whole weights


def test_one_whole_file_has_its_own_hash(single: Path) -> None:
    found = find_weights(single)
    assert found == Weights(single / SINGLE, SHA256, "")
    assert found.safetensors


def test_several_whole_files_have_the_hash_of_their_names_and_hashes(several: Path) -> None:
    whole = sha256_of_json({name: digest((several / name).read_bytes()) for name in PARTS})
    assert find_weights(several) == Weights(several / INDEX, whole, "")
    assert find_weights(several, whole) == Weights(several / INDEX, whole, "--sha256")


def test_the_hash_of_several_files_changes_with_each_of_them(several: Path) -> None:
    before = {find_weights(several).sha256}
    for name in PARTS:
        tensors = load_file(several / name)
        save_file(
            {key: tensor + 1 for key, tensor in tensors.items()},
            several / name,
            metadata={"format": "pt"},
        )
        before.add(find_weights(several).sha256)
    assert len(before) == 3


def test_safetensors_are_preferred_to_pickles_and_one_file_to_several(several: Path) -> None:
    (several / "pytorch_model.bin").write_bytes(b"not looked at")
    assert find_weights(several).file == several / INDEX
    (several / SINGLE).write_bytes(WHOLE)
    assert find_weights(several).file == several / SINGLE


def test_a_pytorch_file_alone_is_hashed_and_known_for_a_pickle(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    found = find_weights(tmp_path)
    assert found.sha256 == digest((tmp_path / "pytorch_model.bin").read_bytes())
    assert not found.safetensors


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580])
def test_a_whole_file_may_begin_with_the_bytes_of_a_pickle(tmp_path: Path, length: int) -> None:
    padding = length - int.from_bytes(WHOLE[:8], "little") - len(',"x":""')
    data = save(TENSORS, metadata={"format": "pt", "x": "x" * padding})
    assert data[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
    (tmp_path / SINGLE).write_bytes(data)
    assert find_weights(tmp_path).sha256 == digest(data)


# A hash that is given


@pytest.mark.parametrize("spelling", [SHA256, SHA256.upper()])
def test_the_right_sha256_is_named_as_compared(single: Path, spelling: str) -> None:
    assert find_weights(single, spelling) == Weights(single / SINGLE, SHA256, "--sha256")


@pytest.mark.parametrize("wrong", [SHA256[:-1], "", "sha256", "g" * 64])
def test_a_sha256_that_is_none_is_refused(single: Path, wrong: str) -> None:
    with pytest.raises(UsageError, match=f"--sha256 {wrong}: expected 64 hexadecimal digits"):
        find_weights(single, wrong)


@pytest.mark.parametrize("wrong", ["0" * 64, SHA256[:-1] + ("0" if SHA256[-1] != "0" else "1")])
def test_the_wrong_sha256_is_refused_with_both(single: Path, wrong: str) -> None:
    message = (
        rf"model\.safetensors: its sha256 is {SHA256}, but --sha256 says {wrong}\. The file is"
        r" damaged or another one"
    )
    with pytest.raises(ProbeError, match=message):
        find_weights(single, wrong)


def test_the_sha256_of_one_part_is_not_that_of_several_files(several: Path) -> None:
    with pytest.raises(
        ProbeError, match=r"index\.json: its sha256 is [0-9a-f]{64}, but --sha256 says"
    ):
        find_weights(several, digest((several / PARTS[0]).read_bytes()))


@pytest.mark.usefixtures("never_loaded")
def test_a_checkpoint_of_another_sha256_is_never_loaded(checkpoint: Path) -> None:
    with pytest.raises(ProbeError, match="but --sha256 says 00"):
        open_model(str(checkpoint), "cpu", sha256="0" * 64)


def damaged(data: bytes, bit: int | None, length: int | None) -> bytes:
    """``data`` with one bit flipped, or cut to a length."""
    if bit is None:
        return data[:length]
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def damage_of(n_bytes: int) -> st.SearchStrategy[tuple[int | None, int | None]]:
    """(bit to flip, length to cut to), one of them None."""
    bits = st.tuples(st.integers(0, 8 * n_bytes - 1), st.none())
    return st.one_of(bits, st.tuples(st.none(), st.integers(0, n_bytes - 1)))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(damage=damage_of(len(WHOLE)), upper=st.booleans())
def test_any_flipped_bit_and_any_truncation_is_refused_against_the_sha256(
    tmp_path: Path, damage: tuple[int | None, int | None], upper: bool
) -> None:
    (tmp_path / SINGLE).write_bytes(damaged(WHOLE, *damage))
    with pytest.raises(
        ProbeError,
        match=r"model\.safetensors: (its sha256 is|not a whole safetensors file|a pickle under)",
    ):
        find_weights(tmp_path, SHA256.upper() if upper else SHA256)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
@pytest.mark.usefixtures("never_loaded")
def test_a_damaged_checkpoint_is_never_loaded(
    copy: Path, checkpoint: Path, data: st.DataObject
) -> None:
    whole = (checkpoint / SINGLE).read_bytes()
    (copy / SINGLE).write_bytes(damaged(whole, *data.draw(damage_of(len(whole)))))
    with pytest.raises(ProbeError, match=r"(its sha256 is|not a whole safetensors file)"):
        open_model(str(copy), "cpu", sha256=digest(whole))


@given(length=st.integers(0, len(WHOLE) - 1))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_truncation_is_refused_without_a_hash(tmp_path: Path, length: int) -> None:
    (tmp_path / SINGLE).write_bytes(WHOLE[:length])
    with pytest.raises(
        ProbeError,
        match=rf"not a whole safetensors file \({length} bytes; .+\)\. Truncated\? Fetch it again",
    ):
        find_weights(tmp_path)


def test_bytes_after_the_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / SINGLE).write_bytes(WHOLE + b"PK\x03\x04")
    with pytest.raises(ProbeError, match="not a whole safetensors file"):
        find_weights(tmp_path)


# The hub's cache


def test_a_file_in_the_hubs_cache_is_compared_with_its_name(cached: Callable[..., Path]) -> None:
    snapshot = cached({SINGLE: WHOLE})
    assert find_weights(snapshot) == Weights(snapshot / SINGLE, SHA256, "the hub's")
    assert find_weights(snapshot, SHA256).against == "the hub's and --sha256"


@pytest.mark.parametrize("bit", [100, 8 * len(WHOLE) - 1])
def test_a_flipped_bit_in_the_hubs_cache_is_refused(cached: Callable[..., Path], bit: int) -> None:
    snapshot = cached({SINGLE: WHOLE})
    (snapshot / SINGLE).resolve().write_bytes(damaged(WHOLE, bit, None))
    message = (
        rf"(its sha256 is [0-9a-f]{{64}}, but the hub's cache says {SHA256}|not a whole safetensors"
        r" file)"
    )
    with pytest.raises(ProbeError, match=message):
        find_weights(snapshot)


def test_a_flipped_bit_in_one_of_several_cached_files_is_refused(
    several: Path, cached: Callable[..., Path]
) -> None:
    files = {name: (several / name).read_bytes() for name in PARTS}
    snapshot = cached(files)
    shutil.copy(several / INDEX, snapshot / INDEX)
    assert find_weights(snapshot).against == "the hub's"
    (snapshot / PARTS[1]).resolve().write_bytes(
        damaged(files[PARTS[1]], 8 * len(files[PARTS[1]]) - 2, None)
    )
    with pytest.raises(ProbeError, match=rf"{PARTS[1]}: its sha256 is .* but the hub's cache says"):
        find_weights(snapshot)


def test_a_flipped_bit_in_a_cached_pytorch_file_is_refused(
    cached: Callable[..., Path], tmp_path: Path
) -> None:
    torch.save(TENSORS, tmp_path / "plain.bin")
    content = (tmp_path / "plain.bin").read_bytes()
    snapshot = cached({"pytorch_model.bin": content})
    assert find_weights(snapshot).against == "the hub's"
    (snapshot / "pytorch_model.bin").resolve().write_bytes(damaged(content, 4000, None))
    with pytest.raises(
        ProbeError, match=r"pytorch_model\.bin: its sha256 is .* but the hub's cache says"
    ):
        find_weights(snapshot)


@pytest.mark.usefixtures("never_loaded")
def test_a_hub_checkpoint_with_a_flipped_bit_is_never_loaded(
    checkpoint: Path, cached: Callable[..., Path], tmp_path: Path, hub_settings: Callable[..., None]
) -> None:
    hub_settings(tmp_path, offline=True)
    whole = (checkpoint / SINGLE).read_bytes()
    snapshot = cached({name: (checkpoint / name).read_bytes() for name in ("config.json", SINGLE)})
    (snapshot / SINGLE).resolve().write_bytes(damaged(whole, 8 * len(whole) - 5, None))
    with pytest.raises(ProbeError, match=f"but the hub's cache says {digest(whole)}"):
        open_model(f"org/name@{snapshot.name}", "cpu")


@pytest.mark.parametrize("name", ["0123456789" * 4, SHA256[:63], SHA256.upper(), "model"])
def test_a_blob_that_is_not_named_by_a_sha256_is_compared_with_nothing(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / name).write_bytes(WHOLE)
    (tmp_path / SINGLE).symlink_to(tmp_path / "blobs" / name)
    assert find_weights(tmp_path) == Weights(tmp_path / SINGLE, SHA256, "")


# No weights, or not of the kind that the name promises


def test_an_empty_folder_has_no_weights(tmp_path: Path) -> None:
    with pytest.raises(
        ProbeError,
        match=r"no weights; expected one of model\.safetensors, .*, pytorch_model\.bin, ",
    ):
        find_weights(tmp_path)


@pytest.mark.parametrize("name", [SINGLE, "pytorch_model.bin", INDEX])
def test_what_is_no_file_is_refused_and_nothing_else_taken_instead(
    tmp_path: Path, name: str
) -> None:
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    for make in (Path.mkdir, os.mkfifo, lambda path: path.symlink_to(tmp_path / "pruned")):
        (tmp_path / name).unlink(missing_ok=True)
        make(tmp_path / name)
        with pytest.raises(
            ProbeError, match=rf"{name}: no file, or a link to nothing\. Fetch the checkpoint again"
        ):
            find_weights(tmp_path)
        if (tmp_path / name).is_dir():
            (tmp_path / name).rmdir()


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file whose reading fails")
@pytest.mark.parametrize("name", [SINGLE, "pytorch_model.bin"])
def test_a_disk_that_fails_is_named_with_the_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/proc/self/mem")
    with pytest.raises(
        ProbeError, match=rf"{name}: cannot be read now \(Input/output error\).*remove nothing"
    ):
        find_weights(tmp_path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5, "zip"])
@pytest.mark.usefixtures("never_loaded")
def test_a_pickle_under_the_name_of_safetensors_is_refused(copy: Path, protocol: int | str) -> None:
    if protocol == "zip":
        torch.save(TENSORS, copy / SINGLE)
    else:
        torch.save(
            TENSORS,
            copy / SINGLE,
            pickle_protocol=int(protocol),
            _use_new_zipfile_serialization=False,
        )
    with pytest.raises(
        ProbeError, match="a pickle under the name of a safetensors file; a pickle can run code"
    ):
        open_model(str(copy), "cpu")


@pytest.mark.parametrize("content", [b"", b"weights" * 9, b"\xff" * 64])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SINGLE).write_bytes(content)
    with pytest.raises(ProbeError, match=rf"not a whole safetensors file \({len(content)} bytes; "):
        find_weights(tmp_path)


# An index


@pytest.mark.parametrize("total", [0, 4 * 11, 4.0 * 11, None, "many"])
def test_an_index_may_promise_no_more_than_there_is(several: Path, total: Any) -> None:
    edit_index(several, metadata={"total_size": total})
    assert find_weights(several).file == several / INDEX


@pytest.mark.parametrize("total", [10**6, 1e6])
def test_files_smaller_than_the_index_promises_are_refused(several: Path, total: float) -> None:
    edit_index(several, metadata={"total_size": total})
    there = sum((several / name).stat().st_size for name in PARTS)
    with pytest.raises(
        ProbeError,
        match=rf"index\.json: promises 1000000 bytes of weights, its files have {there}\. Fetch",
    ):
        find_weights(several)


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "/etc/model.safetensors",
        "sub/model.safetensors",
        "model.bin",
        "model",
        "",
        3,
        None,
        ["a"],
    ],
)
def test_an_index_may_name_only_safetensors_beside_it(several: Path, name: Any) -> None:
    weight_map = json.loads((several / INDEX).read_text())["weight_map"]
    edit_index(several, weight_map=weight_map | {"encoder.b": name})
    with pytest.raises(
        ProbeError,
        match=r"encoder\.b is said to be in .*; expected a \.safetensors file beside the index",
    ):
        find_weights(several)


def test_an_index_of_pytorch_files_may_not_name_another_kind(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin.index.json").write_text(
        json.dumps({"weight_map": {"a": "model.safetensors"}})
    )
    with pytest.raises(
        ProbeError,
        match=r"a is said to be in 'model\.safetensors'; expected a \.bin file beside the index",
    ):
        find_weights(tmp_path)


@pytest.mark.parametrize("gone", [[0], [1], [0, 1]])
def test_a_part_that_is_missing_is_named(several: Path, gone: list[int]) -> None:
    for i in gone:
        (several / PARTS[i]).unlink()
    names = ", ".join(PARTS[i] for i in gone)
    with pytest.raises(
        ProbeError,
        match=rf"index\.json: of its 2 files {names} missing\. Fetch the checkpoint again",
    ):
        find_weights(several)


def test_a_part_with_other_tensors_than_the_index_says_is_refused(several: Path) -> None:
    weight_map = json.loads((several / INDEX).read_text())["weight_map"]
    edit_index(several, weight_map={**weight_map, "encoder.b": PARTS[0]})
    with pytest.raises(
        ProbeError, match=rf"{PARTS[0]}: its tensors are not those of the index: encoder\.b\. Fetch"
    ):
        find_weights(several)
    edit_index(
        several,
        weight_map={name: part for name, part in weight_map.items() if name != "lm_head.bias"},
    )
    with pytest.raises(
        ProbeError,
        match=rf"{PARTS[1]}: its tensors are not those of the index: lm_head\.bias\. Fetch",
    ):
        find_weights(several)


def test_exchanged_parts_are_refused(several: Path) -> None:
    first, second = ((several / name).read_bytes() for name in PARTS)
    (several / PARTS[0]).write_bytes(second)
    (several / PARTS[1]).write_bytes(first)
    with pytest.raises(ProbeError, match="its tensors are not those of the index"):
        find_weights(several)


@pytest.mark.parametrize("kept", [0, 7, 60])
def test_a_truncated_part_is_refused(several: Path, kept: int) -> None:
    edit_index(several, metadata={})
    (several / PARTS[1]).write_bytes((several / PARTS[1]).read_bytes()[:kept])
    with pytest.raises(
        ProbeError, match=rf"{PARTS[1]}: not a whole safetensors file \({kept} bytes"
    ):
        find_weights(several)


def test_a_pickle_among_the_parts_is_refused(several: Path) -> None:
    torch.save(TENSORS, several / PARTS[1])
    with pytest.raises(
        ProbeError, match=rf"{PARTS[1]}: a pickle under the name of a safetensors file"
    ):
        find_weights(several)


@pytest.mark.parametrize(
    "content",
    [
        *(
            "",
            "{",
            "[]",
            "3",
            "null",
            '{"metadata": {}}',
            '{"weight_map": null}',
            '{"weight_map": [1]}',
            "[" * 100_000,
        ),
        *('{"weight_map": {}, "metadata": "x"}', '{"weight_map": {}, "metadata": [1]}'),
    ],
)
def test_a_damaged_index_is_refused(several: Path, content: str) -> None:
    (several / INDEX).write_text(content)
    with pytest.raises(
        ProbeError, match=r"index\.json: no index of weights \(.+\)\. Fetch the checkpoint again"
    ):
        find_weights(several)


def test_an_index_that_is_no_text_is_refused(several: Path) -> None:
    (several / INDEX).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProbeError, match="no index of weights"):
        find_weights(several)


def test_an_index_of_nothing_is_refused(several: Path) -> None:
    edit_index(several, weight_map={})
    with pytest.raises(ProbeError, match=r"index\.json: names no weights"):
        find_weights(several)


# Files of one checkpoint that contradict each other


def test_fewer_blocks_than_the_weights_have_are_refused(copy: Path) -> None:
    edit_config(copy, num_hidden_layers=1)
    message = (
        r"16 weights of the encoder have no place in the model that its configuration describes \(1"
        r" blocks\): encoder\.layers\.1"
    )
    with pytest.raises(ProbeError, match=message):
        open_model(str(copy), "cpu")


def test_more_blocks_than_the_weights_have_are_refused(copy: Path) -> None:
    edit_config(copy, num_hidden_layers=3)
    with pytest.raises(
        ProbeError, match=r"16 of the encoder's weights missing, .*encoder\.layers\.2\."
    ):
        open_model(str(copy), "cpu")


def test_convolution_biases_that_the_config_does_not_have_are_refused(copy: Path) -> None:
    tensors = load_file(copy / SINGLE)
    biases = {f"feature_extractor.conv_layers.{i}.conv.bias": torch.ones(8) for i in range(7)}
    save_file(tensors | biases, copy / SINGLE, metadata={"format": "pt"})
    with pytest.raises(
        ProbeError,
        match=(
            r"7 weights of the encoder have no place"
            r" .*feature_extractor\.conv_layers\.0\.conv\.bias"
        ),
    ):
        open_model(str(copy), "cpu")
    edit_config(copy, conv_bias=True)
    assert open_model(str(copy), "cpu").info.notes == ()


def test_convolution_biases_that_the_weights_do_not_have_are_refused(copy: Path) -> None:
    edit_config(copy, conv_bias=True)
    with pytest.raises(ProbeError, match=r"7 of the encoder's weights missing"):
        open_model(str(copy), "cpu")


def test_weights_of_another_family_are_refused(copy: Path, tmp_path: Path) -> None:
    settings = {**SIZES, "conv_pos_kernel_size": 7}
    transformers.Data2VecAudioModel(transformers.Data2VecAudioConfig(**settings)).save_pretrained(
        tmp_path / "other"
    )
    shutil.copy(tmp_path / "other" / SINGLE, copy / SINGLE)
    with pytest.raises(
        ProbeError,
        match=r"the encoder's weights missing.*is this a wav2vec2 checkpoint|cannot be loaded",
    ):
        open_model(str(copy), "cpu")


def test_an_adapter_of_peft_is_refused(copy: Path) -> None:
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": "org/name",
        "auto_mapping": {"base_model_class": "HubertModel"},
    }
    (copy / "adapter_config.json").write_text(json.dumps(settings))
    for with_config in (True, False):
        with pytest.raises(
            ProbeError, match=r"adapter_config\.json: a PEFT adapter \(LORA\) of org/name"
        ) as caught:
            open_model(str(copy), "cpu")
        assert (
            "PeftModel.from_pretrained(HubertModel.from_pretrained('org/name'),"
            f" '{copy}').merge_and_unload()" in str(caught.value)
        )
        if with_config:
            (copy / "config.json").unlink()


def test_an_adapter_that_names_no_checkpoint_says_where_to_write_it(copy: Path) -> None:
    (copy / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(
        ProbeError, match=r"-merged, with the checkpoint .* in the place of BASE:\n  python -c"
    ):
        open_model(str(copy), "cpu")


def rename_weights(folder: Path, rename: Callable[[str], str], **more: torch.Tensor) -> None:
    weights = load_file(folder / SINGLE)
    save_file(
        {rename(name): weight for name, weight in weights.items()} | more,
        folder / SINGLE,
        metadata={"format": "pt"},
    )


@pytest.mark.parametrize(
    ("rename", "said"),
    [
        (lambda name: f"module.{name}", "'module.'"),
        (lambda name: f"module.wav2vec2.{name}", "'module.'"),
        (lambda name: f"wav2vec2.module.{name}", "'wav2vec2.module.'"),
        (lambda name: f"student.{name}", "'student.'"),
        (lambda name: f"encoder.{name}", "'encoder.'"),
        (lambda name: f"_orig_mod.wav2vec2.{name}", "'_orig_mod'"),
        (
            lambda name: f"model.{name}".replace(
                "layers.0.", "layers.0._orig_mod._fsdp_wrapped_module."
            ),
            "'model.' and '_fsdp_wr",
        ),
    ],
)
def test_what_a_training_wrapper_wrote_before_names_is_left_off(
    checkpoint: Path, copy: Path, rename: Callable[[str], str], said: str
) -> None:
    rename_weights(copy, rename)
    opened, plain = open_model(str(copy), "cpu"), open_model(str(checkpoint), "cpu")
    (note,) = opened.info.notes
    assert note.startswith(f"names of its weights hold {said}")
    expected = plain.model.state_dict()  # type: ignore[attr-defined]
    weights = opened.model.state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_names_that_are_as_they_should_be_give_no_note(checkpoint: Path, copy: Path) -> None:
    rename_weights(copy, lambda name: f"wav2vec2.{name}")
    for folder in (checkpoint, copy):
        assert open_model(str(folder), "cpu").info.notes == ()


def test_two_encoders_in_one_file_are_refused(copy: Path) -> None:
    twice = {f"teacher.{name}": weight for name, weight in load_file(copy / SINGLE).items()}
    rename_weights(copy, lambda name: f"student.{name}", **twice)
    with pytest.raises(
        ProbeError, match=r"weights of 2 encoders, whose names begin with 'student\.', 'teacher\.'"
    ):
        open_model(str(copy), "cpu")


def test_an_unmerged_lora_is_refused_with_the_command(copy: Path) -> None:
    name = "encoder.layers.0.attention.q_proj"
    rename_weights(copy, lambda item: item.replace(f"{name}.", f"{name}.base_layer."))
    with pytest.raises(
        ProbeError,
        match=r"2 weights of a LoRA.*q_proj\.base_layer\.bias.*merge_and_unload\(\); model\.save",
    ):
        open_model(str(copy), "cpu")


def test_quantised_checkpoints_are_named_as_such(copy: Path) -> None:
    plain = (copy / "config.json").read_text()
    edit_config(copy, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    with pytest.raises(
        ProbeError, match=r"weights are quantised \(bitsandbytes\).*dequantize\(\)\.save_pretrained"
    ):
        open_model(str(copy), "cpu")
    (copy / "config.json").write_text(plain)
    rename_weights(copy, lambda name: name.replace("q_proj.weight", "q_proj.qweight"))
    with pytest.raises(
        ProbeError, match=r"quantised weights: encoder\.layers\.0\.attention\.q_proj\.qweight"
    ):
        open_model(str(copy), "cpu")


def test_the_state_of_a_training_is_refused_with_how_to_save_its_weights(copy: Path) -> None:
    torch.save({"epoch": 3, "state_dict": load_file(copy / SINGLE)}, copy / "pytorch_model.bin")
    (copy / SINGLE).unlink()
    with pytest.raises(
        ProbeError,
        match=r"holds epoch, state_dict; expected the weights alone.*state\['state_dict'\]",
    ):
        open_model(str(copy), "cpu")


def test_a_variant_alone_is_read_and_noted_and_beside_the_usual_file_it_is_named(
    copy: Path,
) -> None:
    shutil.copy(copy / SINGLE, copy / "model.fp16.safetensors")
    (copy / "training_args.bin").write_bytes(b"")
    assert open_model(str(copy), "cpu").info.notes == (
        "model.safetensors is read; other weights beside it are not: model.fp16.safetensors",
    )
    (copy / SINGLE).unlink()
    (note,) = open_model(str(copy), "cpu").info.notes
    assert "come from a variant, model.fp16.safetensors" in note
    shutil.copy(copy / "model.fp16.safetensors", copy / "model.ema.safetensors")
    with pytest.raises(
        ProbeError,
        match=r"weights of 2 variants, model\.ema\.safetensors, model\.fp16\.safetensors",
    ):
        open_model(str(copy), "cpu")


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_parts_without_their_index_and_files_of_other_libraries_are_named(
    copy: Path, ending: str
) -> None:
    part = {
        "safetensors": "model-00001-of-00002.safetensors",
        "bin": "pytorch_model-00001-of-00002.bin",
    }[ending]
    (copy / SINGLE).rename(copy / part)
    with pytest.raises(ProbeError, match=rf"1 parts of weights \({part}\) without the index"):
        open_model(str(copy), "cpu")
    (copy / part).rename(copy / "tf_model.h5")
    with pytest.raises(
        ProbeError,
        match=r"no weights; expected one of .* It has tf_model\.h5, which cannot be read here",
    ):
        open_model(str(copy), "cpu")


POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 377607901\n"
)
FOREIGN = [
    (POINTER, r"a Git LFS pointer, not the file itself.*git lfs pull"),
    (
        b"<!DOCTYPE html><html><body>Log in</body></html>",
        r"a web page \(HTML\), not the file itself",
    ),
    (
        b"\x1f\x8b\x08\x00" + bytes(60),
        r"compressed by gzip, not the file itself\. Unpack it with gunzip",
    ),
]


@pytest.mark.parametrize(("content", "message"), FOREIGN, ids=["lfs", "html", "gzip"])
@pytest.mark.parametrize(
    "name",
    [SINGLE, "pytorch_model.bin", INDEX, "config.json", "preprocessor_config.json", "model.pt"],
)
def test_what_stands_in_a_file_instead_is_named(
    copy: Path, name: str, content: bytes, message: str
) -> None:
    if name in ("pytorch_model.bin", INDEX):
        (copy / SINGLE).unlink()
    (copy / name).write_bytes(content)
    with pytest.raises(ProbeError, match=re.escape(name) + ": " + message):
        open_model(str(copy / name if name == "model.pt" else copy), "cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"conv_stride": [5, 2, 2, 2, 2, 2, 0]},
            r"conv_stride \[5, 2, 2, 2, 2, 2, 0\]; expected 1 or more each",
        ),
        ({"conv_kernel": [10, 3, 3, 3, 3, 2, -2]}, r"conv_kernel .*; expected 1 or more each"),
        ({"num_hidden_layers": 0}, "num_hidden_layers 0; expected 1 or more"),
        ({"auto_map": 3}, r"its config\.json cannot be used"),
        ({"quantization_config": "4bit"}, r"its config\.json cannot be used"),
        ({"model_type": []}, r"its config\.json cannot be used"),
    ],
)
def test_a_config_of_any_form_ends_in_one_line(
    copy: Path, changes: dict[str, Any], message: str
) -> None:
    edit_config(copy, **changes)
    for name in (str(copy), f"random:{copy}"):
        with pytest.raises(ProbeError, match=message) as caught:
            open_model(name, "cpu")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "x"},
        {"hidden_dropout": 3.0},
        {"num_attention_heads": 0},
        {"intermediate_size": -1},
    ],
)
def test_sizes_that_make_no_model_end_in_one_line(copy: Path, changes: dict[str, Any]) -> None:
    edit_config(copy, **changes)
    with pytest.raises(ProbeError, match=r"no model can be made from its configuration \(.+\)\.$"):
        open_model(f"random:{copy}", "cpu")
    with pytest.raises(
        ProbeError,
        match=(
            r"model\.safetensors: the weights cannot be loaded into the model that config\.json"
            r" describes \(.+\)"
        ),
    ):
        open_model(str(copy), "cpu")


@pytest.mark.parametrize("architectures", [None, [], [3], "Wav2Vec2ForCTC", 1, ["Wav2Vec2ForCTC"]])
def test_a_claim_of_architecture_alone_gives_no_head(copy: Path, architectures: Any) -> None:
    edit_config(copy, architectures=architectures)
    assert open_model(str(copy), "cpu").info.ctc == {}


@pytest.mark.parametrize("value", ["false", None, 0, 1, []])
def test_whether_waveforms_are_normalised_must_be_said_plainly(copy: Path, value: Any) -> None:
    (copy / "preprocessor_config.json").write_text(
        json.dumps({"do_normalize": value, "sampling_rate": 16_000})
    )
    with pytest.raises(
        ProbeError, match=r"preprocessor_config\.json: do_normalize .*; expected true or false"
    ):
        open_model(str(copy), "cpu")


# Odd folders


def test_a_checkpoint_opens_through_links_from_a_folder_that_may_not_be_written(
    checkpoint: Path, tmp_path: Path
) -> None:
    expected = open_model(str(checkpoint), "cpu").info
    (tmp_path / "files").mkdir()
    for file in checkpoint.iterdir():
        (tmp_path / "files" / file.name).symlink_to(file)
    (tmp_path / "link").symlink_to(tmp_path / "files")
    (tmp_path / "files").chmod(0o555)
    before = sorted(item.name for item in (tmp_path / "files").iterdir())
    try:
        found = open_model(str(tmp_path / "link"), "cpu").info
    finally:
        (tmp_path / "files").chmod(0o755)
    assert (found.weights_sha256, found.layers, found.notes) == (
        expected.weights_sha256,
        expected.layers,
        (),
    )
    assert sorted(item.name for item in (tmp_path / "files").iterdir()) == before


@pytest.mark.parametrize("name", ["model@v1", "a@b/model", "ü b", "model.safetensors", "x" * 200])
def test_a_folder_of_any_name_opens_with_its_weights_and_at_random(
    checkpoint: Path, tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / name))
    info = open_model(str(folder), "cpu").info
    assert (info.id, info.revision, info.spec) == (
        folder.name,
        info.weights_sha256[:12],
        str(folder),
    )
    assert open_model(f"{folder}/", "cpu").info == info
    for spelling, seed in ((f"random:{folder}", 0), (f"random:{folder}@3", 3)):
        info = open_model(spelling, "cpu").info
        assert (info.id, info.revision) == (f"random:{folder.name}", f"seed {seed}")
