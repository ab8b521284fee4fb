"""fairseq's files: every layer is that of the model they were made from; nothing in them is run;
what does not fit is refused.
"""

import argparse
import datetime
import hashlib
import io
import os
import pickle
import re
import sys
import types
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import transformers
from fairseq_files import (
    Dictionary,
    as_namespace,
    fairseq_dictionary,
    fairseq_file,
    fairseq_settings,
    fairseq_weights,
)
from safetensors.torch import save
from small_models import EXTRACTOR, FAMILIES, SIZES
from torch import Tensor
from torchaudio.models.wav2vec2.utils.import_fairseq import _map_key

from probe.errors import ProbeError, UsageError
from probe.models.catalogue import open_model
from probe.models.check import check_model
from probe.models.encoder import CTC
from probe.models.sources import pickles
from probe.models.sources.fairseq import _convolutions
from probe.models.sources.pickles import open_pickle

WAVE = 0.1 * torch.randn(9_111, generator=torch.Generator().manual_seed(5)) + 0.02
# Of whose models fairseq writes files.
WRITTEN = [family for family in FAMILIES if not family.startswith(("unispeech", "distil"))]
SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "|", "E", "T", "A"]


@pytest.fixture
def model(folders: dict[str, Path]) -> Any:
    """A wav2vec 2.0 as transformers has it."""
    return transformers.AutoModel.from_pretrained(folders["wav2vec2 post-LN"])


@pytest.fixture
def file(tmp_path: Path, model: Any) -> Path:
    """The same as fairseq writes it."""
    fairseq_file(tmp_path / "model.pt", model)
    return tmp_path / "model.pt"


def layers_of(name: Path | str) -> dict[str, Tensor]:
    """Every layer of one utterance by the reference, whose bits are transformers'."""
    encoder = open_model(str(name), "cpu", implementation="reference")
    frames, _ = encoder.encode(
        WAVE[None], torch.tensor([len(WAVE)]), list(encoder.info.every_layer)
    )
    return dict(zip(encoder.info.every_layer, frames, strict=True))


def changed(file: Path, **changes: Any) -> Path:
    """The file with other entries."""
    state = torch.load(file, weights_only=True)
    torch.save(state | changes, file)
    return file


def with_settings(file: Path, **changes: Any) -> Path:
    """The file with other settings of its model."""
    cfg = torch.load(file, weights_only=True)["cfg"]
    return changed(file, cfg=cfg | {"model": cfg["model"] | changes})


# The same layers


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("family", WRITTEN)
def test_every_layer_is_that_of_the_model_it_was_made_from(
    folders: dict[str, Path], tmp_path: Path, family: str, zipped: bool
) -> None:
    file, model = tmp_path / "model.pt", transformers.AutoModel.from_pretrained(folders[family])
    state = fairseq_file(file, model)
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    expected, found = layers_of(folders[family]), layers_of(file)
    assert found.keys() == expected.keys()
    for name, frames in expected.items():
        assert torch.equal(found[name], frames), name
    info = open_model(str(file), "cpu").info
    assert (info.id, info.family) == (file.name, model.config.model_type)
    assert not info.left_out


def as_folder_and_file(to: Path, family: str, **changes: Any) -> tuple[Path, Path]:
    """A model of a family with other settings as transformers writes it, and as fairseq does."""
    torch.manual_seed(3)
    made, settings = FAMILIES[family]
    model = transformers.AutoModel.from_config(made(**SIZES | settings | changes))
    if model.config.conv_dim[-1] == model.config.hidden_size:
        projection = model.feature_projection.projection
        torch.nn.init.eye_(projection.weight)
        torch.nn.init.zeros_(projection.bias)
    model.save_pretrained(to / "folder")
    EXTRACTOR.save_pretrained(to / "folder")
    fairseq_file(to / "model.pt", model)
    return to / "folder", to / "model.pt"


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("wavlm post-LN", {"num_buckets": 32, "max_bucket_distance": 100}, {}),
        (
            "wav2vec2 pre-LN",
            {"conv_dim": [12] * 4, "conv_kernel": [10, 3, 3, 2], "conv_stride": [4, 3, 1, 2]},
            {},
        ),
        # fairseq takes 3 where that is more than the whole by the depth.
        (
            "data2vec-audio",
            {"num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 3},
            {"conv_pos": 10},
        ),
    ],
    ids=["buckets", "strides", "kernel"],
)
def test_what_no_shape_shows_is_read(
    tmp_path: Path, family: str, changes: dict[str, Any], said: dict[str, Any]
) -> None:
    folder, file = as_folder_and_file(tmp_path, family, **changes)
    expected = layers_of(folder)
    assert all(
        torch.equal(frames, expected[name])
        for name, frames in layers_of(with_settings(file, **said)).items()
    )


@pytest.mark.parametrize("family", ["wav2vec2 post-LN", "hubert pre-LN", "wavlm pre-LN"])
def test_a_front_end_as_wide_as_the_encoder_needs_no_projection(
    tmp_path: Path, family: str
) -> None:
    folder, file = as_folder_and_file(tmp_path, family, conv_dim=[12] * 6 + [24])
    expected = layers_of(folder)
    named = torch.load(file, weights_only=True)["model"]
    bias = named.pop("post_extract_proj.bias")
    del named["post_extract_proj.weight"]
    assert all(
        torch.equal(frames, expected[name])
        for name, frames in layers_of(changed(file, model=named)).items()
    )
    with pytest.raises(ProbeError, match="1 of the encoder's weights missing"):
        open_model(str(changed(file, model=named | {"post_extract_proj.bias": bias})), "cpu")


def test_a_width_that_the_weights_do_not_have_costs_no_memory(file: Path) -> None:
    named = torch.load(file, weights_only=True)["model"]
    del named["post_extract_proj.weight"], named["post_extract_proj.bias"]
    wide = with_settings(
        changed(file, model=named),
        encoder_embed_dim=10**7,
        conv_feature_layers=f"[({10**7}, 10, 5)]",
    )
    with pytest.raises(ProbeError, match="of another shape"):
        open_model(str(wide), "cpu")


def test_of_data2vec_a_missing_projection_is_missed(tmp_path: Path) -> None:
    _, file = as_folder_and_file(tmp_path, "data2vec-audio", conv_dim=[12] * 6 + [24])
    named = torch.load(file, weights_only=True)["model"]
    del named["post_extract_proj.weight"], named["post_extract_proj.bias"]
    with pytest.raises(ProbeError, match="2 of the encoder's weights missing"):
        open_model(str(changed(file, model=named)), "cpu")


@pytest.mark.parametrize(
    "family", [name for name in FAMILIES if name.startswith(("wav2vec2", "hubert p"))]
)
def test_the_names_in_the_test_files_are_those_that_torchaudio_knows_of_fairseq(
    folders: dict[str, Path], family: str
) -> None:
    model = transformers.AutoModel.from_pretrained(folders[family])
    named = {_map_key(name): weight for name, weight in fairseq_weights(model).items()}
    prefixes = ("encoder.transformer.", "encoder.feature_projection.", "feature_extractor.")
    assert all(name is None or name.startswith(prefixes) for name in named)
    assert len(named) == len(model.state_dict())


@pytest.mark.parametrize("how", ["args", "cfg", "flat cfg"])
def test_a_configuration_may_be_a_namespace_of_2020_a_mapping_or_flat(
    file: Path, model: Any, how: str
) -> None:
    expected = layers_of(file)
    flat = fairseq_settings(model.config) | {"normalize": True, "arch": "wav2vec2"}
    if how == "args":
        changed(file, args=as_namespace(flat), cfg=None)
    elif how == "flat cfg":
        changed(file, cfg=flat)
    for name, frames in layers_of(file).items():
        assert torch.equal(frames, expected[name]), name


@pytest.mark.parametrize("namespace", [True, False])
def test_of_a_fine_tuned_file_the_encoder_and_its_head_are_taken(
    tmp_path: Path, file: Path, model: Any, namespace: bool
) -> None:
    expected = layers_of(file)
    torch.manual_seed(2)
    head = {
        "w2v_encoder.proj.weight": torch.randn(len(SYMBOLS), 24),
        "w2v_encoder.proj.bias": torch.randn(len(SYMBOLS)),
    }
    tuned = {
        f"w2v_encoder.w2v_model.{name}": weight for name, weight in fairseq_weights(model).items()
    } | head
    settings = fairseq_settings(model.config)
    inner: Any = (
        as_namespace(settings | {"normalize": True})
        if namespace
        else {"model": settings, "task": {"normalize": True}}
    )
    cfg = {
        "model": {"_name": "wav2vec_ctc", "w2v_path": "elsewhere.pt", "w2v_args": inner},
        "task": {"normalize": True},
    }
    with fairseq_dictionary():
        dictionary = {"target_dictionary": Dictionary(SYMBOLS)}
        fairseq_file(tmp_path / "tuned.pt", model, model=tuned, cfg=cfg, task_state=dictionary)
    for name, frames in layers_of(tmp_path / "tuned.pt").items():
        assert torch.equal(frames, expected[name]), name
    encoder = open_model(str(tmp_path / "tuned.pt"), "cpu", implementation="reference")
    assert encoder.info.ctc["writes"] == ("", "", "", "", " ", "E", "T", "A")
    (scores,), _ = encoder.encode(WAVE[None], torch.tensor([len(WAVE)]), [CTC])
    by_hand = expected["3"] @ head["w2v_encoder.proj.weight"].T + head["w2v_encoder.proj.bias"]
    torch.testing.assert_close(scores, by_hand)


@pytest.fixture
def tuned(file: Path, model: Any) -> Path:
    """The file fine-tuned with CTC."""
    state, head = (
        torch.load(file, weights_only=True),
        {"weight": torch.randn(len(SYMBOLS), 24), "bias": torch.zeros(len(SYMBOLS))},
    )
    named = {f"w2v_encoder.w2v_model.{name}": weight for name, weight in state["model"].items()}
    named |= {f"w2v_encoder.proj.{part}": weight for part, weight in head.items()}
    of_model = {
        "_name": "wav2vec_ctc",
        "w2v_args": state["cfg"],
        "blank_weight": 0.0,
        "blank_mode": "add",
    }
    with fairseq_dictionary():
        dictionary = {"target_dictionary": Dictionary(SYMBOLS)}
        changed(
            file,
            model=named,
            cfg={"model": of_model, "task": {"normalize": True}},
            task_state=dictionary,
        )
    return file


def loaded(file: Path) -> dict[str, Any]:
    """What is in a fine-tuned file."""
    with fairseq_dictionary():
        return torch.load(file, weights_only=False)


def saved(file: Path, state: dict[str, Any]) -> Path:
    """A fine-tuned file with what is in it."""
    with fairseq_dictionary():
        torch.save(state, file)
    return file


def test_of_a_mixed_file_the_fine_tuned_encoder_is_taken(tuned: Path) -> None:
    expected, state = layers_of(tuned), loaded(tuned)
    beside = {
        name.removeprefix("w2v_encoder.w2v_model."): 2 * weight
        for name, weight in state["model"].items()
    }
    mixed = saved(tuned, state | {"model": beside | state["model"]})
    assert all(torch.equal(frames, expected[name]) for name, frames in layers_of(mixed).items())
    assert "encoder.layers.0.fc1.bias" in open_model(str(mixed), "cpu").info.left_out


@pytest.mark.parametrize(("weight", "mode"), [(50.0, "add"), (-3, "set")])
def test_a_head_whose_blank_is_changed_afterwards_is_not_run(
    tuned: Path, weight: float, mode: str
) -> None:
    assert open_model(str(tuned), "cpu").info.ctc
    state = loaded(tuned)
    state["cfg"]["model"] |= {"blank_weight": weight, "blank_mode": mode}
    info = open_model(str(saved(tuned, state)), "cpu").info
    assert not info.ctc
    assert info.left_out == ("w2v_encoder.proj.bias", "w2v_encoder.proj.weight")
    assert (
        f"its CTC head is not run: fairseq changes its blank afterwards (blank_weight {weight},"
        f" blank_mode {mode!r})" in info.notes
    )


class DictConfig:
    """Stands in for omegaconf's configuration, of which it has what docs/checkpoints.md needs."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content

    @staticmethod
    def is_config(what: Any) -> bool:
        return isinstance(what, DictConfig)

    @staticmethod
    def to_container(config: "DictConfig", enum_to_str: bool) -> dict[str, Any]:
        return config.content


def test_the_scripts_of_the_documentation_bring_files_into_the_form_that_is_read(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    to_plain, with_pretrained = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    module = types.ModuleType("omegaconf")
    module.OmegaConf = DictConfig  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "omegaconf", module)
    monkeypatch.chdir(tmp_path)
    expected, state = layers_of(tuned), loaded(tuned)
    state["extra_state"] = {"val_loss": numpy.float64(3.25)}
    model = state["cfg"]["model"]
    torch.save({"cfg": model["w2v_args"], "model": {}}, "pretrained.pt")
    model["w2v_args"] = None
    saved(Path("checkpoint.pt"), state | {"cfg": DictConfig(state["cfg"])})
    with pytest.raises(
        ProbeError, match=r"wants to import .*numpy\.dtype, test_fairseq\.DictConfig, which"
    ):
        open_model("checkpoint.pt", "cpu")
    with fairseq_dictionary():
        exec(to_plain, {})
    with pytest.raises(
        ProbeError,
        match=(
            r"without the settings of the pretrained one \(w2v_args None\)\. .*docs/checkpoints\.md"
            r" says how"
        ),
    ):
        open_model("plain.pt", "cpu")
    with fairseq_dictionary():
        exec(with_pretrained, {})
    assert all(
        torch.equal(frames, expected[name]) for name, frames in layers_of("whole.pt").items()
    )
    assert open_model("whole.pt", "cpu").info.ctc["writes"] == ("", "", "", "", " ", "E", "T", "A")


def test_a_head_without_its_dictionary_is_left_out_and_noted(file: Path, model: Any) -> None:
    tuned: dict[str, Any] = {
        f"w2v_encoder.w2v_model.{name}": weight for name, weight in fairseq_weights(model).items()
    }
    tuned |= {
        "w2v_encoder.proj.weight": torch.zeros(8, 24),
        "w2v_encoder.proj.bias": torch.zeros(8),
    }
    info = open_model(str(changed(file, model=tuned)), "cpu").info
    assert not info.ctc
    assert info.left_out == ("w2v_encoder.proj.bias", "w2v_encoder.proj.weight")
    assert "its CTC head is not run: the file holds no dictionary of its 8 symbols" in info.notes


def test_what_is_for_pretraining_is_left_out_and_noted(file: Path) -> None:
    state = torch.load(file, weights_only=True)
    pretraining = ["final_proj.bias", "label_embs_concat", "project_q.weight", "quantizer.vars"]
    named = (
        state["model"]
        | {name: torch.zeros(2) for name in pretraining}
        | {"_ema": {"layers": torch.zeros(2)}}
    )
    info = open_model(str(changed(file, model=named)), "cpu").info
    assert info.left_out == ("_ema", *pretraining)
    assert any(
        "5 weights that the encoder has no place for were left out: _ema" in note
        for note in info.notes
    )


def test_half_precision_becomes_single(file: Path, model: Any) -> None:
    halves = {name: weight.half() for name, weight in fairseq_weights(model).items()}
    encoder = open_model(str(changed(file, model=halves)), "cpu", implementation="reference")
    assert {weight.dtype for weight in encoder.model.parameters()} == {torch.float32}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("task", "mode", "normalize"), [(True, "default", True), (False, "layer_norm", False)]
)
def test_the_task_says_whether_waveforms_are_normalised(
    tmp_path: Path, folders: dict, task: bool, mode: str, normalize: bool
) -> None:
    family = "wav2vec2 post-LN" if mode == "default" else "wav2vec2 pre-LN"
    fairseq_file(
        tmp_path / "model.pt",
        transformers.AutoModel.from_pretrained(folders[family]),
        normalize=task,
    )
    info = open_model(str(tmp_path / "model.pt"), "cpu").info
    assert info.normalize is normalize
    assert not info.notes


@pytest.mark.parametrize(
    ("family", "normalize"), [("wav2vec2 post-LN", False), ("wav2vec2 pre-LN", True)]
)
def test_where_nothing_says_so_it_is_assumed_from_the_front_end_and_noted(
    tmp_path: Path, folders: dict[str, Path], family: str, normalize: bool
) -> None:
    file, model = tmp_path / "model.pt", transformers.AutoModel.from_pretrained(folders[family])
    fairseq_file(file, model, cfg={"model": fairseq_settings(model.config)})
    encoder = open_model(str(file), "cpu")
    assert encoder.info.normalize is normalize
    assert [
        finding.result
        for finding in check_model(encoder, quick=True).findings
        if finding.check == "input"
    ] == ["note"]


# Checks, hashes, random twins


@pytest.mark.parametrize("family", ["data2vec-audio", "wavlm post-LN"])
def test_a_file_passes_every_check(folders: dict[str, Path], tmp_path: Path, family: str) -> None:
    fairseq_file(tmp_path / "model.pt", transformers.AutoModel.from_pretrained(folders[family]))
    certificate = check_model(open_model(str(tmp_path / "model.pt"), "cpu"))
    assert not certificate.failed
    assert {item.check: item.result for item in certificate.findings}["reopened"] == "pass"


def test_the_sha256_is_that_of_the_file_and_is_asked_for_before_it_is_opened(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert open_model(str(file), "cpu", digest).info.weights_sha256 == digest
    monkeypatch.setattr(
        "probe.models.sources.fairseq.open_pickle", lambda _: pytest.fail("was opened")
    )
    with pytest.raises(ProbeError, match="its sha256 is"):
        open_model(str(file), "cpu", "0" * 64)
    with pytest.raises(UsageError, match="expected 64 hexadecimal digits"):
        open_model(str(file), "cpu", "0")


def test_random_weights_of_the_same_architecture(file: Path) -> None:
    given, drawn = open_model(str(file), "cpu").info, open_model(f"random:{file}@3", "cpu").info
    assert (drawn.layers, drawn.normalize, drawn.family) == (
        given.layers,
        given.normalize,
        given.family,
    )
    assert (drawn.id, drawn.revision) == (f"random:{file.name}", "seed 3")
    assert drawn.weights_sha256 != given.weights_sha256


# Nothing is run


class Mark:
    """Makes a folder when it is unpickled by a reader that runs what it reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_hostile_pickle_is_never_run_and_what_it_wanted_is_listed(
    tmp_path: Path, file: Path, form: str, protocol: int
) -> None:
    state, made = torch.load(file, weights_only=True), tmp_path / "made"
    hostile = state | {"extra_state": {"bad": Mark(made), "worse": Fraction(1, 3)}}
    torch.save(
        hostile, file, pickle_protocol=protocol, _use_new_zipfile_serialization=form == "zip"
    )
    with pytest.raises(
        ProbeError,
        match=(
            r"wants to import fractions\.Fraction, \w+\.mkdir, which could run any code\. It"
            r" was not"
        ),
    ):
        open_model(str(file), "cpu")
    assert not made.exists()
    torch.load(file, weights_only=False)
    assert made.exists(), "it would have been run"


def test_a_plain_pickle_and_another_name_for_it_are_not_run_either(tmp_path: Path) -> None:
    file, made = tmp_path / "model.pt", tmp_path / "made"
    file.write_bytes(pickle.dumps(Mark(made)))
    with pytest.raises(ProbeError, match="wants to import"):
        open_model(str(file), "cpu")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps(Mark(made)))
        archive.writestr("model/version", "3")
    with pytest.raises(
        ProbeError, match=r"wants to import \w+\.mkdir, .*docs/checkpoints\.md says"
    ):
        open_model(str(file), "cpu")
    assert not made.exists()


def test_a_class_of_omegaconf_is_listed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "omegaconf.dictconfig"
    of_omegaconf = type("DictConfig", (), {"__module__": name})
    module = types.ModuleType(name)
    module.DictConfig = of_omegaconf  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    monkeypatch.setitem(sys.modules, name, module)
    changed(file, cfg=of_omegaconf())
    with pytest.raises(
        ProbeError, match=r"wants to import omegaconf\.dictconfig\.DictConfig, which"
    ):
        open_model(str(file), "cpu")


@pytest.mark.parametrize(
    "wanted",
    [datetime.timedelta(1), os.system, Fraction(1, 3)],
    ids=["timedelta", "system", "Fraction"],
)
def test_nothing_else_is_imported(tmp_path: Path, wanted: Any) -> None:
    torch.save({"model": {}, "wanted": wanted}, tmp_path / "a.pt")
    with pytest.raises(
        ProbeError,
        match=r"wants to import \w+\.(timedelta|system|Fraction), which could run any code",
    ):
        open_pickle(tmp_path / "a.pt")


def test_two_classes_are_allowed_while_a_file_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(torch.serialization.get_safe_globals())
    within: list[Any] = []
    monkeypatch.setattr(
        "torch.load", lambda *_, **__: within.extend(torch.serialization.get_safe_globals())
    )
    open_pickle(tmp_path / "a.pt")
    assert {name: made for made, name in set(within) - before} == {
        "argparse.Namespace": argparse.Namespace,
        "fairseq.data.dictionary.Dictionary": pickles.Dictionary,
    }
    assert set(torch.serialization.get_safe_globals()) == before


def test_what_is_stored_of_a_dictionary_is_data_alone(tmp_path: Path) -> None:
    with fairseq_dictionary():
        torch.save({"dictionary": Dictionary(SYMBOLS)}, tmp_path / "a.pt")
    found = open_pickle(tmp_path / "a.pt")["dictionary"]
    assert type(found).__module__ == "probe.models.sources.pickles"
    assert found.symbols == SYMBOLS


@pytest.mark.parametrize("kept", [0, 3, 100, 0.5, 0.99])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_file_is_refused_in_one_line(file: Path, kept: float, zipped: bool) -> None:
    torch.save(torch.load(file, weights_only=True), file, _use_new_zipfile_serialization=zipped)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(
        ProbeError,
        match=r"no file of PyTorch's, or a damaged one( \([^\n]*\))?\. Fetch it again\.$",
    ):
        open_model(str(file), "cpu")


def as_script() -> bytes:
    """A file that torch takes for a program of TorchScript."""
    stream = io.BytesIO()
    torch.save({}, stream)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("archive/constants.pkl", pickle.dumps(()))
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"hello\n", pickle.dumps([1, 2]), save({"a": torch.zeros(2)}), as_script()],
    ids=["text", "list", "safetensors", "script"],
)
def test_what_is_no_file_of_pytorchs_is_refused_without_torchs_advice(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(
        ProbeError, match=r"a\.pt: no file of PyTorch's, or a damaged one\. Fetch it again\.$"
    ):
        open_model(str(tmp_path / "a.pt"), "cpu")


# What does not fit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda named: named.pop("encoder.layers.1.fc1.bias"),
            r"1 of the encoder's weights missing, 0 of another shape",
        ),
        (
            lambda named: named.update({"post_extract_proj.bias": torch.zeros(3)}),
            "0 of the encoder's weights missing, 1 of another shape",
        ),
        (
            lambda named: named.update({"encoder.layers.0.adapter.weight": torch.zeros(2)}),
            "1 weights of the encoder have no place",
        ),
        (
            lambda named: named.update({"something.else": torch.zeros(2)}),
            r"1 weights of the encoder have no place.*something\.else",
        ),
        (
            lambda named: named.update({"layer_norm.bias": torch.full((12,), torch.nan)}),
            "NaN or infinite weights in feature_projection",
        ),
        (
            lambda named: named.update({"encoder.odd": "text"}),
            r"encoder\.odd are no arrays of weights",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    file: Path, edit: Callable[[dict], object], message: str
) -> None:
    named = torch.load(file, weights_only=True)["model"]
    edit(named)
    with pytest.raises(ProbeError, match=message):
        open_model(str(changed(file, model=named)), "cpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder_layers": 4}, "has encoder_layers 4, its weights 3 blocks"),
        ({"encoder_layers": 10**9}, "has encoder_layers 1000000000, its weights 3 blocks"),
        ({"encoder_embed_dim": 10**6}, "of another shape"),
        (
            {"encoder_attention_heads": None},
            "has encoder_attention_heads None; expected a value of type int",
        ),
        ({"encoder_attention_heads": 5}, "no model can be made from its configuration"),
        ({"encoder_attention_heads": 0}, "no model can be made from its configuration"),
        (
            {"layer_norm_first": "False"},
            "has layer_norm_first 'False'; expected a value of type bool",
        ),
        ({"activation_fn": "relu"}, "has activation_fn 'relu'; this version can read 'gelu'"),
        (
            {"layer_type": "conformer"},
            "has layer_type 'conformer'; this version can read 'transformer'",
        ),
        ({"extractor_mode": "other"}, "has extractor_mode 'other'"),
        ({"extractor_mode": "layer_norm"}, "of the encoder's weights missing"),
        ({"conv_bias": True}, "7 of the encoder's weights missing"),
        ({"conv_feature_layers": "__import__('os').getcwd()"}, "expected a list such as"),
        ({"conv_feature_layers": "[(512, 10, 5)] * 64 * 64"}, "expected a list such as"),
        ({"conv_feature_layers": "[(512, 10)]"}, "expected a list such as"),
        ({"conv_feature_layers": "[(512, 10, 0)]"}, "expected a list such as"),
        ({"sample_rate": 8000}, "has sample_rate 8000; this version can read 16000"),
        ({"quantize_input": True}, "has quantize_input True; this version can read False"),
        ({"crop_seq_to_multiple": 4}, "has crop_seq_to_multiple 4; this version can read 1"),
    ],
)
def test_a_configuration_that_does_not_suffice_is_refused(
    file: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ProbeError, match=message):
        open_model(str(with_settings(file, **settings)), "cpu")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([1], "is a list; expected a checkpoint of fairseq's"),
        ({"state_dict": {}}, "holds state_dict; expected a checkpoint of fairseq's, with cfg"),
        ({"model": {}}, "no configuration; expected cfg or args"),
        (
            {"model": {}, "cfg": {"model": {"_name": "wav2vec"}}},
            "a model of kind 'wav2vec'; none of its weights are blocks",
        ),
        (
            {"model": {"blocks.0.norm1.bias": torch.zeros(2)}, "args": {"arch": "data2vec_multi"}},
            "a model of kind 'data2vec_multi'; none of",
        ),
    ],
)
def test_another_kind_of_file_is_refused(tmp_path: Path, state: Any, message: str) -> None:
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(ProbeError, match=message):
        open_model(str(tmp_path / "other.pt"), "cpu")


def test_a_model_with_a_decoder_is_refused_with_its_kind(tuned: Path) -> None:
    state = loaded(tuned)
    state["cfg"]["model"]["_name"] = "wav2vec_seq2seq"
    named = {
        name.replace("w2v_encoder", "encoder"): weight for name, weight in state["model"].items()
    }
    with pytest.raises(
        ProbeError,
        match=(
            r"a model of kind 'wav2vec_seq2seq'; .*Expected wav2vec2, hubert, data2vec_audio or"
            r" WavLM"
        ),
    ):
        open_model(str(saved(tuned, state | {"model": named})), "cpu")


@pytest.mark.parametrize("settings", [{"layer_norm_first": True}, {"extractor_mode": "default"}])
def test_stacked_positions_in_a_model_that_is_no_data2vec_are_refused(
    folders: dict[str, Path], tmp_path: Path, settings: dict[str, Any]
) -> None:
    fairseq_file(
        tmp_path / "model.pt", transformers.AutoModel.from_pretrained(folders["data2vec-audio"])
    )
    with pytest.raises(ProbeError, match="stacked positional convolutions with layer_norm_first"):
        open_model(str(with_settings(tmp_path / "model.pt", **settings)), "cpu")


@pytest.mark.parametrize(
    "name", ["model.PT", "model.pth", "model.safetensors", "data2vec-text/model.bin"]
)
def test_a_file_under_another_name_is_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("the hub was asked")
    )
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_bytes(b"")
    for of in (name, str(tmp_path / name), f"random:{name}"):
        with pytest.raises(
            ProbeError, match=r": a file\. Expected a folder .*under a name that ends in \.pt\.$"
        ):
            open_model(of, "cpu")


def test_a_file_that_is_not_there_is_not_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("the hub was asked")
    )
    for name in ("nowhere/model.pt", f"random:{tmp_path}/model.pt@1"):
        with pytest.raises(ProbeError, match="no such file"):
            open_model(name, "cpu")


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]", 7),
        ("[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2", 7),
        ("[(512, 10, 5), (512, 8, 4)] + [(512, 4, 2)] * 3 + [(512, 1, 1)]", 6),
    ],
)
def test_the_convolutions_of_real_configurations_are_read(text: str, n: int) -> None:
    found = _convolutions(Path("x.pt"), text)
    assert found == eval(text)
    assert len(found) == n
