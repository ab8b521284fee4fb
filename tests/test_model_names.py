"""How models are named, and that one model has one identity however it is spelled."""

import logging
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from mending import mend
from runs import run
from safetensors.torch import load_file, save_file
from scored import frame, layers, summary_rows
from small_models import write_checkpoint

from probe.cli import cli
from probe.errors import ProbeError, UsageError
from probe.evaluation.layer_similarity import similarity
from probe.extraction.extract import extract
from probe.extraction.settings import Running, Storing
from probe.model_names import ModelName, distinct_models
from probe.models.catalogue import open_model
from probe.models.plugins.loader import is_plugin
from probe.models.sources.weights import sha256_on_disk
from probe.pipeline import bench
from probe.records import Record, iterate_records, read_records
from probe.reporting.scores import Scores
from probe.reporting.tables.model_card import write_cards
from probe.reporting.tables.published import published_rows
from probe.store.integrity import verify_store
from probe.store.stores import describe_store, find_stores, select_store

# One strength and no controls: what is scored does not matter here.
TASK = """
kind = "classify"
version = 1
description = "Which word?"
label = "text"
view = "mean"
l2 = [0.1]
controls = []
weighted = false
"""
HOOKED = """
import torch

def load(path=None):
    return torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, -1)), torch.nn.Conv1d(1, 4, 400, 320), torch.nn.GELU()
    )
"""


@pytest.fixture
def folder(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint at models/w2v2 of the working folder, to be changed."""
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "models" / "w2v2"
    made.mkdir(parents=True)
    for file in folders["wav2vec2 post-LN"].iterdir():
        (made / file.name).write_bytes(file.read_bytes())
    return made


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A small task on the words of `tones`."""
    path = tmp_path / "word.toml"
    path.write_text(TASK)
    return path


def change_weights(folder: Path) -> str:
    """Trains a checkpoint on, as it were; the first digits of its new hash."""
    weights = {
        name: weight * 1.01 for name, weight in load_file(folder / "model.safetensors").items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return sha256_on_disk(folder)[:12]


@pytest.mark.parametrize(
    ("text", "name", "spec"),
    [
        ("fbank", "fbank", "fbank"),
        ("org/name@main", "org/name@main", "org/name@main"),
        ("base=org/name@main", "base", "org/name@main"),
        ("w2v-2.0_b=torchaudio:WAV2VEC2_BASE", "w2v-2.0_b", "torchaudio:WAV2VEC2_BASE"),
        ("models/w2v2", "w2v2", "models/w2v2"),
        ("./models/../models/w2v2//", "w2v2", "./models/../models/w2v2//"),
        ("models/latest", "w2v2", "models/latest"),
        ("base=models/w2v2", "base", "models/w2v2"),
        ("random:models/w2v2", "random:w2v2", "random:models/w2v2"),
        ("random:models/w2v2@3", "random:w2v2@3", "random:models/w2v2@3"),
        ("random:org/name@0", "random:org/name", "random:org/name@0"),
        ("models/w2v2@0123456789ab", "w2v2@0123456789ab", "models/w2v2@0123456789ab"),
        ("lr=0.1", "lr=0.1", "lr=0.1"),
        ("x=lr=0.1", "x", "lr=0.1"),
        ("models/a=b", "models/a=b", "models/a=b"),
        ("plugin:mine:load@a=b", "plugin:mine:load@a=b", "plugin:mine:load@a=b"),
        ("mine=plugin:mine:load@a=b#1,2", "mine", "plugin:mine:load@a=b#1,2"),
        ("models/one.pt", "one.pt", "models/one.pt"),
        ("models/link.pt", "link.pt", "models/link.pt"),
    ],
)
def test_a_name_stands_before_the_first_equals_sign(
    folder: Path, text: str, name: str, spec: str
) -> None:
    (folder.parent / "latest").symlink_to(folder)
    (folder.parent / "one.pt").touch()
    (folder.parent / "link.pt").symlink_to(folder / "model.safetensors")
    Path("lr=0.1").mkdir()
    Path("lr=0.1/config.json").touch()
    assert ModelName.parse(text) == ModelName(name, spec)
    assert ModelName.parse(ModelName.parse(text).text) == ModelName(name, spec)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "my base=org/name",
            r"expected NAME=SPEC, with a NAME of letters, digits, '\.', '_' and '-'",
        ),
        ("=org/name", "expected NAME=SPEC"),
        ("base=", "expected NAME=SPEC"),
        ("fbank=org/name", "fbank is the name of a spectral front-end. Choose another NAME"),
        (
            "models/fbank",
            (
                "it would be called fbank, as the spectral front-end is. Give it a name of its own:"
                " --model NAME="
            ),
        ),
    ],
)
def test_a_name_that_means_something_else_is_refused(folder: Path, text: str, message: str) -> None:
    folder.rename(folder.parent / "fbank")
    with pytest.raises(UsageError, match=message):
        ModelName.parse(text)


def test_a_home_folder_is_found_behind_a_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for text in ("~/models/w2v2", "base=~/models/w2v2"):
        assert ModelName.parse(text).path == str(folder.resolve())
    assert open_model("random:~/models/w2v2", "cpu").info.id == "random:w2v2"


def test_two_models_of_one_name_are_refused_and_two_spellings_are_one(
    folder: Path, tmp_path: Path
) -> None:
    write_checkpoint("hubert post-LN", tmp_path / "other" / "w2v2")
    assert len(distinct_models(["models/w2v2", "./models/w2v2/", str(folder)])) == 1
    assert (
        len(
            distinct_models(
                ["models/w2v2", "b=other/w2v2", "random:models/w2v2", "random:models/w2v2@0"]
            )
        )
        == 3
    )
    with pytest.raises(
        UsageError,
        match=r"models/w2v2 and other/w2v2: both would be called w2v2\. .* w2v2-2=other/w2v2",
    ):
        bench(["models/w2v2", "other/w2v2"], ["word-id"], "missing.csv", tmp_path / "out")


def test_every_spelling_of_a_folder_is_one_model(
    folder: Path, tones: Callable[..., Path], task: Path, tmp_path: Path
) -> None:
    corpus = tones(words=2, speakers=2)
    Path("link").symlink_to(folder)
    first = extract("models/w2v2", corpus, tmp_path / "features", storing=Storing(view="meanstd"))
    for spelling in ("./models/w2v2/", str(folder), "link", "base=models/w2v2"):
        again = extract(spelling, corpus, tmp_path / "features", storing=Storing(view="meanstd"))
        assert (again.store, again.extracted) == (first.store, 0)
    for spelling, name in (("link", "w2v2"), ("base=./models/w2v2/", "base")):
        done = run(task, spelling, corpus, tmp_path / "features", tmp_path / "results")
        assert done.path.name.startswith(f"{name}__") and done.records[0].model == name
    assert first.store.parent == tmp_path / "features" / "w2v2"
    moved = folder.rename(tmp_path / "renamed")
    assert (
        run(task, str(moved), corpus, tmp_path / "features", tmp_path / "results").records[0].model
        == "renamed"
    )
    assert (
        extract(
            open_model(str(moved), "cpu"),
            corpus,
            tmp_path / "features",
            storing=Storing(view="meanstd"),
        ).store.parent.name
        == "renamed"
    )
    Path("link").unlink()
    gone = run(task, "models/w2v2", corpus, tmp_path / "features", tmp_path / "others").records[0]
    assert (gone.model, gone.arguments["model"]) == ("w2v2", "models/w2v2")


def test_features_of_older_weights_serve_only_when_they_are_named(
    folder: Path,
    tones: Callable[..., Path],
    task: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    corpus, features, results = (
        tones(words=2, speakers=2),
        tmp_path / "features",
        tmp_path / "results",
    )
    old = sha256_on_disk(folder)[:12]
    extract("models/w2v2", corpus, features, storing=Storing(view="meanstd"))
    run(task, "models/w2v2", corpus, features, results)
    new = change_weights(folder)
    for spelling in ("models/w2v2", "base=models/w2v2"):
        with pytest.raises(
            ProbeError,
            match=(
                rf"models/w2v2 were extracted from weights {old} .*now has {new}\. Extract again"
                rf" .*--model w2v2@{old}"
            ),
        ):
            run(task, spelling, corpus, features, results)
    with pytest.raises(ProbeError, match=f"extracted from weights {old}"):
        similarity("models/w2v2", corpus, features, results)
    assert run(task, f"w2v2@{old}", corpus, features, results).records[0].revision == old
    assert run(task, f"models/w2v2@{old[:6]}", corpus, features, results).records[0].revision == old
    extract("models/w2v2", corpus, features, storing=Storing(view="meanstd"))
    with caplog.at_level(logging.WARNING, "probe"):
        assert run(task, "models/w2v2", corpus, features, results).records[0].revision == new
    assert (
        "revision of the model; they are kept as" in caplog.text
        and "--model NAME=SPEC" in caplog.text
    )
    assert run(task, f"old=w2v2@{old}", corpus, features, results).records[0].model == "old"
    with pytest.raises(
        ProbeError,
        match=(
            rf"2 stores of different models are called w2v2; they differ in revision(?=.*w2v2@{old}"
            rf" ).*w2v2@{new}"
        ),
    ):
        run(task, "w2v2", corpus, features, results)
    table = summary_rows(read_records(results))
    assert set(table["model"]) == {"w2v2", "old", f"w2v2@{old}", f"w2v2@{old[:6]}"}


def test_a_chosen_name_stands_in_everything_that_is_written(
    folder: Path,
    tones: Callable[..., Path],
    task: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    corpus = tones(words=2, speakers=2)
    line = (
        "bench --model base=models/w2v2 --model untrained=random:models/w2v2 --task word.toml"
        " --to out"
    )
    cli([*line.split(), "--corpus", str(corpus), "--device", "cpu"], standalone_mode=False)
    assert sorted(path.name for path in Path("out/features").iterdir()) == ["base", "untrained"]
    assert {path.name.partition("__")[0] for path in Path("out/results").glob("*.jsonl")} == {
        "base",
        "untrained",
    }
    rows = summary_rows(read_records("out/results")).set_index("model")
    assert rows.loc["base", "random"] == rows.loc["untrained", "value"]
    capsys.readouterr()
    cli(["table", "--from", "out/results", "--format", "latex"], standalone_mode=False)
    texts = [capsys.readouterr().out, *(path.read_text() for path in Path("out").glob("table.*"))]
    assert len(texts) == 3 and all("base" in text and "w2v2" not in text for text in texts)
    [store] = find_stores("out/features/base")
    described = describe_store(store)
    assert (described["model"], described["opened as"]) == ("base, wav2vec2", str(folder))
    assert select_store(Path("out/features"), "base", "mean").path == store.path
    (store.path / "shard-00000.h5").write_bytes(b"damaged")
    mend(store.path, corpus)
    assert verify_store(store.path).state == "sound"


def test_what_is_known_of_a_model_is_known_under_a_chosen_name(tmp_path: Path) -> None:
    def scores(model: str, spec: str, revision: str, hits: int) -> list[Record]:
        about = {
            "model": model,
            "arguments": {"model": spec},
            "revision": revision,
            "task": "speaker-id",
        }
        return layers([hits, hits], [hits, hits], **about)

    records = frame(
        *scores("base", "facebook/wav2vec2-base@main", "1" * 40, 7),
        *scores("twin", "random:facebook/wav2vec2-base", "seed 0", 4),
        *scores("banks", "fbank", "1", 5),
        *scores("w2v2", "models/w2v2", "0123456789ab", 6),
    )
    rows = summary_rows(records).set_index("model")
    value = rows["value"]
    assert (rows.loc["base", "random"], rows.loc["base", "fbank"]) == (
        value["twin"],
        value["banks"],
    )
    assert rows.loc[["twin", "w2v2"], "random"].isna().all() and math.isnan(
        rows.loc["banks", "fbank"]
    )
    published = published_rows(rows.reset_index(), Scores.of(records).specs).set_index("model")
    assert (published.loc["base", "printed"], published.loc["banks", "printed"]) == (
        "75.18",
        "20.0582",
    )
    assert "random weights" in published.loc["twin", "figure"]
    written, left_out = write_cards(records, tmp_path, {"spoken": "org/spoken"})
    assert (
        'name: "facebook/wav2vec2-base"'
        in next(path for path in written if path.suffix == ".md").read_text()
    )
    reasons = [
        "random weights are a baseline",
        "a baseline, no model of the Hub",
        "of revision '0123456789ab', no commit of the Hub",
    ]
    assert sorted(left_out) == sorted(
        f"{name}: {why}" for name, why in zip(("twin", "banks", "w2v2"), reasons, strict=True)
    )


def test_hooks_decide_which_store_of_a_plugin_is_read(
    tones: Callable[..., Path], task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("hooked_example.py").write_text(HOOKED)
    corpus, name = tones(words=2, speakers=2), "plugin:hooked_example:load"

    def line(text: str) -> None:
        cli([*text.split(), "--corpus", str(corpus)], standalone_mode=False)

    common = f"--model {name} --from features --to results --device cpu"
    line(f"extract --model {name} --hook 1 --to features --view meanstd")
    line(f"run word.toml {common}")
    with pytest.raises(ProbeError, match="no features of plugin:hooked_example:load#2"):
        line(f"run word.toml {common} --hook 2")
    line(f"extract --model {name} --hook 1 --hook 2 --to features --view meanstd")
    with pytest.raises(
        ProbeError, match=rf"they differ in revision\. Name one .*(?=.*{name}#1 ).*{name}#1,2 "
    ):
        line(f"run word.toml {common}")
    with pytest.raises(ProbeError, match="they differ in revision"):
        line(f"similarity {common.removesuffix(' --device cpu')} --view meanstd")
    line(f"run word.toml {common} --hook 1")
    line(f"run word.toml {common.replace(name, 'both=' + name)} --hook 1 --hook 2")
    line(f"similarity {common.removesuffix(' --device cpu')} --hook 1 --view meanstd --only all")
    scored = {(record.model, record.layer) for record in iterate_records("results")}
    layers_of = {
        model: {layer for name, layer in scored if name == model and layer.isdecimal()}
        for model, _ in scored
    }
    assert layers_of == {name: {"1"}, f"{name}#1": {"1"}, "both": {"1", "2"}}


def test_the_file_that_is_a_plugins_argument_must_be_the_one_of_the_features(
    tones: Callable[..., Path], task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "argued_example.py").write_text(HOOKED)
    (tmp_path / "weights=1.bin").write_text("one")
    corpus, name = (
        tones(words=2, speakers=2),
        f"plugin:argued_example:load@{tmp_path / 'weights=1.bin'}#1",
    )
    extract(name, corpus, tmp_path / "features", storing=Storing(view="meanstd"))
    run(task, f"mine={name}", corpus, tmp_path / "features", tmp_path / "results")
    (tmp_path / "weights=1.bin").write_text("two")
    with pytest.raises(ProbeError, match=r"weights=1\.bin now has [0-9a-f]{12}\. Extract again"):
        run(task, name, corpus, tmp_path / "features", tmp_path / "results")


def test_a_store_that_names_a_plugin_behind_a_name_runs_nothing() -> None:
    assert is_plugin("mine=plugin:hooked_example:load")
    assert not is_plugin("plug=org/name")


def test_seeds_of_random_weights_are_not_taken_for_each_other(
    tones: Callable[..., Path], task: Path, tmp_path: Path
) -> None:
    corpus = tones(words=2, speakers=2)
    extract(
        "random:data2vec-audio-tiny@1",
        corpus,
        tmp_path / "features",
        storing=Storing(view="meanstd"),
        running=Running(check=False),
    )
    with pytest.raises(
        ProbeError,
        match=r"no features of random:data2vec-audio-tiny .*found random:data2vec-audio-tiny@1",
    ):
        run(task, "random:data2vec-audio-tiny", corpus, tmp_path / "features", tmp_path / "results")
    zero = extract(
        "random:data2vec-audio-tiny@0",
        corpus,
        tmp_path / "features",
        storing=Storing(view="meanstd"),
        running=Running(check=False),
    )
    for spelling in ("random:data2vec-audio-tiny", "random:data2vec-audio-tiny@0"):
        assert select_store(tmp_path / "features", spelling, "mean").path == zero.store


def test_the_untrained_twin_of_a_folder_has_a_name_and_records_of_its_own(
    folder: Path, tones: Callable[..., Path], task: Path, tmp_path: Path
) -> None:
    corpus = tones(words=2, speakers=2)
    for name in ("models/w2v2", "random:models/w2v2"):
        extract(
            name,
            corpus,
            tmp_path / "features",
            storing=Storing(view="meanstd"),
            running=Running(check=False),
        )
        run(task, name, corpus, tmp_path / "features", tmp_path / "results")
    names = {record.model for record in iterate_records(tmp_path / "results")}
    assert names == {"w2v2", "random:w2v2"}
    folder.rename(folder.parent / "elsewhere")
    run(task, f"random:{folder}", corpus, tmp_path / "features", tmp_path / "gone")
    assert {record.model for record in iterate_records(tmp_path / "gone")} == {"random:w2v2"}
