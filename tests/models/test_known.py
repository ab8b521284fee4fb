"""Names of models: the catalogue is consistent, a wrong name is answered with a near one, and no
network is waited for.
"""

import csv
import http.server
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
import transformers

from probe.errors import ProbeError
from probe.models.catalogue import offline_names, open_model
from probe.models.families import has_own_final
from probe.models.sources import configurations, hub
from probe.models.sources.known import (
    FAMILIES,
    NANO,
    SHIPPED,
    Known,
    close_names,
    known_models,
    sources_of,
)

ROWS = list(known_models().values())
FOUR = {
    "facebook/wav2vec2-base": 94_371_712,
    "facebook/wav2vec2-large-robust": 315_438_720,
    "facebook/data2vec-audio-base": 93_164_288,
    "facebook/data2vec-audio-large": 313_276_416,
}
# torchaudio's copies of these are without the convolutions' biases that the checkpoint on the hub
# has.
OTHER_BIASES = ("facebook/hubert-large-ll60k", "facebook/hubert-xlarge-ll60k")


def names(rows: list[Known]) -> list[str]:
    return [row.model for row in rows]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where the hub is asked."""
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("the hub was asked")
    )
    monkeypatch.setattr(hub, "answers", lambda *_: pytest.fail("the hub was asked"))


# The catalogue


def test_the_catalogue_has_51_checkpoints_of_every_family_a_shipped_one_and_a_tiny_one() -> None:
    assert len(ROWS) == 53
    assert [row.model for row in ROWS if row.model in SHIPPED] == [NANO]
    assert [row.model for row in ROWS if "/" not in row.model] == ["data2vec-audio-tiny"]
    assert {row.family for row in ROWS} == set(FAMILIES)
    assert sum(row.ctc for row in ROWS) == 8


def test_every_cell_of_the_catalogue_is_of_its_columns_kind() -> None:
    with Path(hub.__file__).with_name("known.csv").open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        lines = list(reader)
    assert reader.fieldnames == list(Known.__annotations__)
    assert len({line["model"].lower() for line in lines}) == len(lines)
    for line in lines:
        assert None not in line, line
        assert all(value == value.strip() for value in line.values()), line
        for column, kind in Known.__annotations__.items():
            value = line[column]
            if kind is bool:
                assert value in ("true", "false"), (line["model"], column)
            elif kind is int:
                assert value.isdecimal(), (line["model"], column)
                assert int(value) > 0
            elif column == "settings":
                assert isinstance(json.loads(value or "{}"), dict)
        assert line["certain"] in ("yes", "likely")
        assert line["norm"] in ("group", "layer", "")
        assert line["licence"] or line["model"] == "data2vec-audio-tiny"


@pytest.mark.parametrize("name", names(ROWS))
def test_a_row_gives_a_valid_configuration(name: str) -> None:
    row = known_models()[name]
    config = configurations.config_of_known(row)
    assert config.model_type == row.family
    ffn = config.encoder_ffn_dim if row.family == "whisper" else config.intermediate_size
    assert (config.num_hidden_layers, config.hidden_size, ffn) == (row.layers, row.width, row.ffn)
    assert config.num_attention_heads == row.heads
    assert row.width % row.heads == 0
    assert getattr(config, "conv_bias", row.family == "whisper") is row.conv_bias
    for key, value in row.settings.items():
        found = getattr(config, key)
        assert (list(found) if isinstance(value, list) else found) == value, key
    assert (
        has_own_final(config)
        is row.layer_names.endswith("final")
        is (row.pre_ln or row.family in ("sew", "sew-d"))
    )
    assert getattr(config, "feat_extract_norm", "") == row.norm
    if row.norm:
        assert row.pre_ln is (row.norm == "layer"), (
            "stable layer norm goes with layer-normalised convolutions"
        )
    defaults = vars(transformers.AutoConfig.for_model(row.family))
    assert set(row.config()) <= set(defaults), "no key that transformers does not know"


@pytest.mark.parametrize("name", FOUR)
def test_the_named_models_have_their_published_number_of_parameters(name: str) -> None:
    row = known_models()[name]
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(configurations.config_of_known(row))
    assert sum(weight.numel() for weight in model.parameters()) == row.parameters == FOUR[name]


@pytest.mark.parametrize("name", [row.model for row in ROWS if row.torchaudio])
def test_torchaudio_has_the_same_sizes(name: str) -> None:
    row = known_models()[name]
    sizes = getattr(torchaudio.pipelines, row.torchaudio)._params
    assert sizes["encoder_num_layers"] == row.layers
    assert sizes["encoder_embed_dim"] == row.width
    assert sizes["encoder_num_heads"] == row.heads
    assert sizes["extractor_mode"] == f"{row.norm}_norm"
    assert sizes["encoder_layer_norm_first"] is row.pre_ln
    assert sizes["encoder_ff_interm_features"] == row.ffn
    assert sizes["extractor_conv_bias"] is row.conv_bias or name in OTHER_BIASES


def test_a_row_marked_as_fine_tuned_says_on_what() -> None:
    for row in ROWS:
        assert bool(row.fine_tuned_on) is row.ctc, row.model
        assert row.pretrained_on or "/" not in row.model


def test_what_works_offline_is_what_can_be_opened() -> None:
    random = {f"random:{row.model}" for row in ROWS}
    assert set(offline_names()) == {"fbank", "mfcc", NANO, *random}


def test_a_known_model_comes_from_the_hub_its_cache_or_at_random(
    tmp_path: Path, hub_settings: Callable[..., None]
) -> None:
    hub_settings(tmp_path)
    (tmp_path / "models--facebook--wav2vec2-base").mkdir()
    known = known_models()
    assert sources_of(known["facebook/wav2vec2-base"]) == ["hub (cached)", "torchaudio", "random"]
    assert sources_of(known["facebook/wav2vec2-large"]) == ["hub", "torchaudio", "random"]
    assert sources_of(known["facebook/data2vec-audio-base"]) == ["hub", "random"]
    assert sources_of(known["data2vec-audio-tiny"]) == ["random"]
    assert sources_of(known[NANO]) == ["shipped", "random"]


# Hints


@pytest.mark.parametrize(
    ("name", "best"),
    [
        ("wav2vec2-base", "facebook/wav2vec2-base"),
        ("FACEBOOK/WAV2VEC2-BASE", "facebook/wav2vec2-base"),
        ("facebook/wav2vec2_base", "facebook/wav2vec2-base"),
        ("facebook/wavlm-base-plus", "microsoft/wavlm-base-plus"),
        ("facebok/data2vec-audio-large-960", "facebook/data2vec-audio-large-960h"),
        ("data2vec-audio-base-100", "facebook/data2vec-audio-base-100h"),
        ("hubert-xlarge", "facebook/hubert-xlarge-ll60k"),
        ("an-organisation-of-another-name/wavlm-larg", "microsoft/wavlm-large"),
        ("data2vec-audio-tine", "data2vec-audio-tiny"),
    ],
)
def test_a_near_name_is_found(name: str, best: str) -> None:
    assert close_names(name)[0] == best


@pytest.mark.parametrize("name", names(ROWS))
def test_a_name_with_one_wrong_letter_finds_its_own_row_and_a_right_one_not_itself(
    name: str,
) -> None:
    assert name in close_names(name[:-1] + "_")
    assert name in close_names(name.upper())
    assert name not in close_names(name)


@pytest.mark.parametrize(
    "name", ["", "x", "google-bert/bert-base-uncased", "nothing like it", "/", "\0"]
)
def test_a_far_name_finds_nothing(name: str) -> None:
    assert close_names(name) == []


def test_names_that_are_added_are_found_too() -> None:
    assert close_names("fbnk", ("fbank", "mfcc")) == ["fbank"]


# What cannot be opened, known by its name alone


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("prefix", ["", "random:"])
@pytest.mark.parametrize(
    ("name", "reads"),
    [
        ("facebook/data2vec-text-base", "text"),
        ("data2vec-text-base", "text"),
        ("Facebook/Data2Vec-Text-Base", "text"),
        ("someone/data2vec-text-large-tuned", "text"),
        ("facebook/data2vec-vision-base", "images"),
        ("facebook/data2vec-vision-large-ft1k", "images"),
    ],
)
def test_data2vec_of_another_modality_is_refused_by_its_name(
    name: str, reads: str, prefix: str
) -> None:
    message = (
        rf"^{name}: reads {reads}, not speech\. The speech models of this kind are called"
        r" data2vec-audio\.$"
    )
    with pytest.raises(ProbeError, match=message):
        open_model(prefix + name, "cpu")


SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            transformers.Data2VecTextConfig(**SMALL),
            r"reads text, not speech \(model type 'data2vec-text'\)",
        ),
        (
            transformers.Data2VecVisionConfig(**SMALL),
            r"reads images, not speech \(model type 'data2vec-vision'\)",
        ),
        (transformers.GPT2Config(), r"reads text, not speech \(model type 'gpt2'\)"),
        (
            transformers.Speech2TextConfig(),
            r"a speech model of type 'speech_to_text', which this version cannot open",
        ),
        (
            transformers.MoonshineConfig(),
            r"a speech model of type 'moonshine', which this version cannot open",
        ),
        (
            transformers.CLIPConfig(),
            r"no speech encoder that this version knows \(model type 'clip'\)|images",
        ),
    ],
)
def test_a_folder_of_another_kind_says_what_it_reads(
    tmp_path: Path, config: Any, says: str
) -> None:
    config.save_pretrained(tmp_path)
    for name in (str(tmp_path), f"random:{tmp_path}"):
        with pytest.raises(
            ProbeError, match=rf"{says}.*Supported: wav2vec2, data2vec-audio, hubert, wavlm"
        ):
            open_model(name, "cpu")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_a_supported_class_needs_no_row(tmp_path: Path, family: str) -> None:
    sizes = {
        **SMALL,
        "conv_dim": [8] * (13 if family.startswith("sew") else 7),
        "num_conv_pos_embedding_groups": 2,
    }
    if family == "whisper":
        sizes = {
            "d_model": 8,
            "encoder_layers": 1,
            "encoder_attention_heads": 1,
            "encoder_ffn_dim": 8,
        }
        sizes |= {"decoder_layers": 1, "decoder_attention_heads": 1, "decoder_ffn_dim": 8}
    model = transformers.AutoModel.from_config(
        transformers.AutoConfig.for_model(family, **sizes, num_conv_pos_embeddings=5)
    )
    model.save_pretrained(tmp_path)
    info = open_model(str(tmp_path), "cpu").info
    own_final = {"final": 8} if family in ("wav2vec2-conformer", "sew", "sew-d", "whisper") else {}
    assert (info.family, info.layers) == (family, {"0": 8, "1": 8} | own_final)


# The network


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a hub that takes every call and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def swallowing() -> Iterator[str]:
    """The address of a hub to which every packet is lost: a server whose queue of calls is full
    drops them.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        calls = [socket.socket() for _ in range(4)]
        for call in calls:
            call.setblocking(False)
            call.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for call in calls:
            call.close()


@pytest.fixture
def closed() -> str:
    """The address of a port where nobody listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_settings: Callable[..., None]
) -> Callable[[str], Path]:
    """Sets the hub's address, waits half a second for it, and returns an empty cache."""

    def set_up(address: str) -> Path:
        hub_settings(tmp_path / "hub", offline=False, endpoint=address)
        monkeypatch.setattr(hub, "TIMEOUT_S", 0.5)
        return tmp_path / "hub"

    return set_up


@pytest.mark.parametrize("kind", ["silent", "swallowing", "closed"])
@pytest.mark.parametrize("name", ["org/name", "random:org/name@3", "org/name@" + "0123456789" * 4])
def test_a_hub_that_does_not_answer_is_given_up_in_time(
    request: pytest.FixtureRequest, at: Callable[[str], Path], kind: str, name: str
) -> None:
    at(request.getfixturevalue(kind))
    outcome: list[BaseException] = []

    def attempt() -> None:
        try:
            open_model(name, "cpu")
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(
        target=attempt, daemon=True
    )  # a hang would otherwise be one of all tests
    start = time.monotonic()
    thread.start()
    thread.join(10)
    assert outcome, "still waiting after 10 s"
    assert time.monotonic() - start < 4
    assert isinstance(outcome[0], ProbeError), outcome[0]
    assert "not in the cache, and the hub cannot be reached" in str(outcome[0])
    assert "\n" not in str(outcome[0])


def test_no_one_waits_longer_than_ten_seconds_for_the_hub() -> None:
    assert hub.TIMEOUT_S <= 9


@pytest.mark.parametrize("kind", ["silent", "closed"])
def test_a_cached_model_opens_while_the_hub_is_silent(
    request: pytest.FixtureRequest, at: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    cache = at(request.getfixturevalue(kind))
    sizes = {
        **SMALL,
        "conv_dim": [8] * 7,
        "num_conv_pos_embeddings": 5,
        "num_conv_pos_embedding_groups": 2,
    }
    transformers.HubertModel(transformers.HubertConfig(**sizes)).save_pretrained(tmp_path / "model")
    commit = "0123456789" * 4
    shutil.copytree(tmp_path / "model", cache / "models--org--name" / "snapshots" / commit)
    (cache / "models--org--name" / "refs").mkdir()
    (cache / "models--org--name" / "refs" / "main").write_text(commit)
    for name in ("org/name", f"org/name@{commit}"):
        assert open_model(name, "cpu").info.revision == commit


@pytest.mark.parametrize(
    "name", ["facebook/wav2vec2-bas", "facebook/wav2vec2-bas@v9", "random:facebook/wav2vec2-bas"]
)
def test_a_mirror_without_a_first_page_is_asked_and_its_no_believed(
    at: Callable[[str], Path], name: str
) -> None:
    asked: list[str] = []

    class Mirror(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(405)
            self.end_headers()

        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at(f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(
            ProbeError,
            match=r"not on the hub, or it needs a login\. Did you mean 'facebook/wav2vec2-base'\?",
        ):
            open_model(name, "cpu")
        server.shutdown()
    assert any(path.startswith("/api/models/facebook/wav2vec2-bas") for path in asked)


def test_a_near_name_is_offered_where_the_hub_cannot_be_reached(
    at: Callable[[str], Path], closed: str
) -> None:
    at(closed)
    for name in (
        "facebook/wav2vec2-bas",
        "random:facebook/wav2vec2-bas",
        "facebook/wav2vec2-bas@main",
    ):
        with pytest.raises(
            ProbeError,
            match=(
                r"the hub cannot be reached\. Did you mean 'facebook/wav2vec2-base'\? Connect once"
            ),
        ):
            open_model(name, "cpu")
    with pytest.raises(ProbeError, match="cannot be reached") as caught:
        open_model("facebook/wav2vec2-base", "cpu")
    assert "Did you mean" not in str(caught.value), "the name is right"


def test_the_weights_of_a_text_model_are_not_even_fetched(
    at: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at("http://hub.invalid")
    fetched: list[str] = []

    def fetch(*_: Any, allow_patterns: list[str], **__: Any) -> str:
        fetched.extend(allow_patterns)
        transformers.BertConfig(**SMALL).save_pretrained(tmp_path / "snapshot")
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    monkeypatch.setattr(hub, "answers", lambda *_: True)
    with pytest.raises(ProbeError, match=r"org/bert: reads text, not speech"):
        open_model("org/bert", "cpu")
    assert "config.json" in fetched
    assert not [pattern for pattern in fetched if "model" in pattern]
