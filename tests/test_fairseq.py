"""fairseq's files: every layer is that of the model they were made from; nothing in them is run; what does not fit is refused."""

import hashlib
import os
import pickle
import sys
import types
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from fairseq_files import Dictionary, as_namespace, fairseq_dictionary, fairseq_file, fairseq_settings, fairseq_weights
from small_models import EXTRACTOR, FAMILIES, SIZES
from torch import Tensor
from torchaudio.models.wav2vec2.utils.import_fairseq import _map_key

from probe.errors import ProbeError, UsageError
from probe.models.catalogue import open_model
from probe.models.check import check_model
from probe.models.encoder import CTC
from probe.models.fairseq import _convolutions
from probe.models.pickles import open_pickle

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
    """Every layer of one utterance, by the reference implementation, whose bits are transformers'."""
    encoder = open_model(str(name), "cpu", implementation="reference")
    frames, _ = encoder.encode(WAVE[None], torch.tensor([len(WAVE)]), list(encoder.info.every_layer))
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
    assert (info.id, info.family) == (str(file), model.config.model_type)
    assert not info.left_out


def test_what_no_shape_shows_of_a_wavlm_is_read(tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = transformers.WavLMConfig(**SIZES | FAMILIES["wavlm post-LN"][1] | {"num_buckets": 32, "max_bucket_distance": 100})
    model = transformers.WavLMModel(config)
    model.save_pretrained(tmp_path / "folder")
    EXTRACTOR.save_pretrained(tmp_path / "folder")
    fairseq_file(tmp_path / "model.pt", model)
    expected = layers_of(tmp_path / "folder")
    assert all(torch.equal(frames, expected[name]) for name, frames in layers_of(tmp_path / "model.pt").items())


@pytest.mark.parametrize("family", [name for name in FAMILIES if name.startswith(("wav2vec2", "hubert p"))])
def test_the_names_in_the_test_files_are_those_that_torchaudio_knows_of_fairseq(folders: dict[str, Path], family: str) -> None:
    model = transformers.AutoModel.from_pretrained(folders[family])
    named = {_map_key(name): weight for name, weight in fairseq_weights(model).items()}
    prefixes = ("encoder.transformer.", "encoder.feature_projection.", "feature_extractor.")
    assert all(name is None or name.startswith(prefixes) for name in named)
    assert len(named) == len(model.state_dict())


@pytest.mark.parametrize("how", ["args", "cfg", "flat cfg"])
def test_a_configuration_may_be_a_namespace_of_2020_a_mapping_or_flat(file: Path, model: Any, how: str) -> None:
    expected = layers_of(file)
    flat = fairseq_settings(model.config) | {"normalize": True, "arch": "wav2vec2"}
    if how == "args":
        changed(file, args=as_namespace(flat), cfg=None)
    elif how == "flat cfg":
        changed(file, cfg=flat)
    for name, frames in layers_of(file).items():
        assert torch.equal(frames, expected[name]), name


@pytest.mark.parametrize("namespace", [True, False])
def test_of_a_fine_tuned_file_the_encoder_and_its_head_are_taken(tmp_path: Path, file: Path, model: Any, namespace: bool) -> None:
    expected = layers_of(file)
    torch.manual_seed(2)
    head = {"w2v_encoder.proj.weight": torch.randn(len(SYMBOLS), 24), "w2v_encoder.proj.bias": torch.randn(len(SYMBOLS))}
    tuned = {f"w2v_encoder.w2v_model.{name}": weight for name, weight in fairseq_weights(model).items()} | head
    settings = fairseq_settings(model.config)
    inner: Any = as_namespace(settings | {"normalize": True}) if namespace else {"model": settings, "task": {"normalize": True}}
    cfg = {"model": {"_name": "wav2vec_ctc", "w2v_path": "elsewhere.pt", "w2v_args": inner}, "task": {"normalize": True}}
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


def test_a_head_without_its_dictionary_is_left_out_and_noted(file: Path, model: Any) -> None:
    tuned: dict[str, Any] = {f"w2v_encoder.w2v_model.{name}": weight for name, weight in fairseq_weights(model).items()}
    tuned |= {"w2v_encoder.proj.weight": torch.zeros(8, 24), "w2v_encoder.proj.bias": torch.zeros(8)}
    info = open_model(str(changed(file, model=tuned)), "cpu").info
    assert not info.ctc
    assert info.left_out == ("w2v_encoder.proj.bias", "w2v_encoder.proj.weight")
    assert "its CTC head is not run: the file holds no dictionary of its 8 symbols" in info.notes


def test_what_is_for_pretraining_is_left_out_and_noted(file: Path) -> None:
    state = torch.load(file, weights_only=True)
    pretraining = ["final_proj.bias", "label_embs_concat", "project_q.weight", "quantizer.vars"]
    named = state["model"] | {name: torch.zeros(2) for name in pretraining} | {"_ema": {"layers": torch.zeros(2)}}
    info = open_model(str(changed(file, model=named)), "cpu").info
    assert info.left_out == ("_ema", *pretraining)
    assert any("5 weights that the encoder has no place for were left out: _ema" in note for note in info.notes)


def test_half_precision_becomes_single(file: Path, model: Any) -> None:
    halves = {name: weight.half() for name, weight in fairseq_weights(model).items()}
    encoder = open_model(str(changed(file, model=halves)), "cpu", implementation="reference")
    assert {weight.dtype for weight in encoder.model.parameters()} == {torch.float32}  # type: ignore[attr-defined]


@pytest.mark.parametrize(("task", "mode", "normalize"), [(True, "default", True), (False, "layer_norm", False)])
def test_the_task_says_whether_waveforms_are_normalised(
    tmp_path: Path, folders: dict, task: bool, mode: str, normalize: bool
) -> None:
    family = "wav2vec2 post-LN" if mode == "default" else "wav2vec2 pre-LN"
    fairseq_file(tmp_path / "model.pt", transformers.AutoModel.from_pretrained(folders[family]), normalize=task)
    info = open_model(str(tmp_path / "model.pt"), "cpu").info
    assert info.normalize is normalize
    assert not info.notes


@pytest.mark.parametrize(("family", "normalize"), [("wav2vec2 post-LN", False), ("wav2vec2 pre-LN", True)])
def test_where_nothing_says_so_it_is_assumed_from_the_front_end_and_noted(
    tmp_path: Path, folders: dict[str, Path], family: str, normalize: bool
) -> None:
    file, model = tmp_path / "model.pt", transformers.AutoModel.from_pretrained(folders[family])
    fairseq_file(file, model, cfg={"model": fairseq_settings(model.config)})
    encoder = open_model(str(file), "cpu")
    assert encoder.info.normalize is normalize
    assert [finding.result for finding in check_model(encoder, quick=True).findings if finding.check == "input"] == ["note"]


# Checks, hashes, random twins


@pytest.mark.parametrize("family", ["data2vec-audio", "wavlm post-LN"])
def test_a_file_passes_every_check(folders: dict[str, Path], tmp_path: Path, family: str) -> None:
    fairseq_file(tmp_path / "model.pt", transformers.AutoModel.from_pretrained(folders[family]))
    certificate = check_model(open_model(str(tmp_path / "model.pt"), "cpu"))
    assert not certificate.failed
    assert {item.check: item.result for item in certificate.findings}["reopened"] == "pass"


def test_the_sha256_is_that_of_the_file_and_is_asked_for_before_it_is_opened(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert open_model(str(file), "cpu", digest).info.weights_sha256 == digest
    monkeypatch.setattr("probe.models.fairseq.open_pickle", lambda _: pytest.fail("was opened"))
    with pytest.raises(ProbeError, match="its sha256 is"):
        open_model(str(file), "cpu", "0" * 64)
    with pytest.raises(UsageError, match="expected 64 hexadecimal digits"):
        open_model(str(file), "cpu", "0")


def test_random_weights_of_the_same_architecture(file: Path) -> None:
    given, drawn = open_model(str(file), "cpu").info, open_model(f"random:{file}@3", "cpu").info
    assert (drawn.layers, drawn.normalize, drawn.family) == (given.layers, given.normalize, given.family)
    assert (drawn.id, drawn.revision) == (f"random:{file}", "seed 3")
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
def test_a_hostile_pickle_is_never_run_and_what_it_wanted_is_listed(tmp_path: Path, file: Path, form: str, protocol: int) -> None:
    state, made = torch.load(file, weights_only=True), tmp_path / "made"
    hostile = state | {"extra_state": {"bad": Mark(made), "worse": Fraction(1, 3)}}
    torch.save(hostile, file, pickle_protocol=protocol, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(
        ProbeError, match=r"wants to import fractions\.Fraction, \w+\.mkdir, which could run any code\. It was not"
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
    with pytest.raises(ProbeError, match=r"wants to import \w+\.mkdir, .*docs/models\.md says"):
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
    with pytest.raises(ProbeError, match=r"wants to import omegaconf\.dictconfig\.DictConfig, which"):
        open_model(str(file), "cpu")


def test_what_is_stored_of_a_dictionary_is_data_alone(tmp_path: Path) -> None:
    with fairseq_dictionary():
        torch.save({"dictionary": Dictionary(SYMBOLS)}, tmp_path / "a.pt")
    found = open_pickle(tmp_path / "a.pt")["dictionary"]
    assert type(found).__module__ == "probe.models.pickles"
    assert found.symbols == SYMBOLS


@pytest.mark.parametrize("kept", [0, 3, 100, 0.5, 0.99])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_file_is_refused_in_one_line(file: Path, kept: float, zipped: bool) -> None:
    torch.save(torch.load(file, weights_only=True), file, _use_new_zipfile_serialization=zipped)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(ProbeError, match=r"no whole file of PyTorch's \([^\n]*\)\. Fetch it again\.$"):
        open_model(str(file), "cpu")


# What does not fit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda named: named.pop("encoder.layers.1.fc1.bias"), r"1 of the encoder's weights missing, 0 of another shape"),
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
        (lambda named: named.update({"encoder.odd": "text"}), r"encoder\.odd are no arrays of weights"),
    ],
)
def test_weights_that_do_not_fit_are_refused(file: Path, edit: Callable[[dict], object], message: str) -> None:
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
        ({"encoder_attention_heads": None}, "has encoder_attention_heads None; expected a value of type int"),
        ({"encoder_attention_heads": 5}, "no model can be made from its configuration"),
        ({"encoder_attention_heads": 0}, "no model can be made from its configuration"),
        ({"layer_norm_first": "False"}, "has layer_norm_first 'False'; expected a value of type bool"),
        ({"activation_fn": "relu"}, "has activation_fn 'relu'; this version can read 'gelu'"),
        ({"layer_type": "conformer"}, "has layer_type 'conformer'; this version can read 'transformer'"),
        ({"extractor_mode": "other"}, "has extractor_mode 'other'"),
        ({"extractor_mode": "layer_norm"}, "of the encoder's weights missing"),
        ({"conv_bias": True}, "7 of the encoder's weights missing"),
        ({"conv_feature_layers": "__import__('os').getcwd()"}, "expected a list such as"),
        ({"conv_feature_layers": "[(512, 10, 5)] * 64 * 64"}, "expected a list such as"),
        ({"conv_feature_layers": "[(512, 10)]"}, "expected a list such as"),
        ({"conv_feature_layers": "[(512, 10, 0)]"}, "expected a list such as"),
        ({"sample_rate": 8000}, "has sample_rate 8000; this version can read 16000"),
    ],
)
def test_a_configuration_that_does_not_suffice_is_refused(file: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        open_model(str(with_settings(file, **settings)), "cpu")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([1], "is a list; expected a checkpoint of fairseq's"),
        ({"state_dict": {}}, "holds state_dict; expected a checkpoint of fairseq's, with cfg"),
        ({"model": {}}, "no configuration; expected cfg or args"),
        ({"model": {}, "cfg": {"model": {"encoder_layers": 0}}}, "its weights 0 blocks"),
    ],
)
def test_another_kind_of_file_is_refused(tmp_path: Path, state: Any, message: str) -> None:
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(ProbeError, match=message):
        open_model(str(tmp_path / "other.pt"), "cpu")


def test_a_file_that_is_not_there_is_not_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
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
