"""Statistics, relative depth and projections in a run: of training rows alone, of every layer once,
equal for every width.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from runs import quick, run
from test_run import PlantedEncoder, trial_list

from probe.data.corpus import load_corpus
from probe.errors import ProbeError
from probe.evaluation import label_free_fits
from probe.evaluation.dataset import Features
from probe.evaluation.label_free_fits import Fitting
from probe.evaluation.layer_depth import depth_of, n_blocks
from probe.evaluation.tasks import open_task
from probe.extraction.extract import extract
from probe.extraction.settings import Running, Storing
from probe.measures.geometry import Geometry
from probe.records import Record
from probe.store.feature_store import FeatureStore
from probe.store.stores import select_store


class WideEncoder(PlantedEncoder):
    """The planted layers, each of its dimensions twice: 48 wide, and ``final`` is layer 2."""

    info = replace(
        PlantedEncoder.info, id="wide", layers={"0": 48, "1": 48, "2": 48}, aliases={"final": "2"}
    )

    def encode(self, waveforms, lengths, layers):  # type: ignore[no-untyped-def]
        found, counts = super().encode(waveforms, lengths, layers)
        return [frames.repeat(1, 1, 2) for frames in found], counts


def extracted(manifest: Path, encoder: PlantedEncoder | None = None, view: str = "meanstd") -> Path:
    folder = manifest.parent / "features"
    extract(
        encoder or PlantedEncoder(),
        manifest,
        folder,
        storing=Storing(view=view),
        running=Running(check=False),
    )
    return folder


def opened(manifest: Path, view: str = "meanstd", model: str = "planted", **how: Any) -> Features:
    corpus = load_corpus(manifest)
    features = Features(
        {"clean": select_store(manifest.parent / "features", model, view)}, view, corpus
    )
    return features.fitted_on(Fitting(split_of(manifest, "train"), **how))


def split_of(manifest: Path, split: str) -> list[Any]:
    return [item for item in load_corpus(manifest).utterances if item.split == split]


def by_layer(records: list[Record]) -> dict[str, dict[str, float]]:
    found = {record.layer: record.statistics for record in records}
    assert all(record.statistics == found[record.layer] for record in records)
    assert found.pop("none", {}) == found.pop("weighted", {}) == {}  # no layers of the store
    return found


def test_a_records_statistics_are_those_of_its_layers_training_rows(
    tones: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = tones()
    task = quick("word-id")
    records = run(task, "planted", manifest, extracted(manifest), tmp_path / "results").records
    store = select_store(tmp_path / "features", "planted", "meanstd")
    keys = [item.key for item in split_of(manifest, "train")]
    for layer, statistics in by_layer(records).items():
        geometry = Geometry()
        geometry.add(store.layer(layer, keys).values)
        assert statistics == pytest.approx(geometry.statistics(), rel=1e-5)
        assert statistics.keys() == {"rms", "effective_rank", "anisotropy", "outlier_dims"}
    assert {record.depth for record in records} == {
        None
    }  # nothing says how many blocks the model has


def test_every_kind_gives_every_layer_its_statistics_and_depth(
    tones: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = tones(words=2, repetitions=4, domains=("near", "far"))
    features = extracted(manifest, WideEncoder(), "frames")
    (tmp_path / "short.toml").write_text(
        'kind = "transcribe"\nepochs = 1\nlearning_rates = 0.01\nproject = 8\n'
    )
    rows = [
        (f"near-0-{a}-3.wav", f"near-1-{b}-3.wav", int(a == b)) for a in range(4) for b in range(4)
    ]
    trials = trial_list(manifest.parent / "trials.csv", rows)
    for task in (tmp_path / "short.toml", "speaker-verify", quick("domain-shift")):
        listed = trials if task == "speaker-verify" else None
        records = run(task, "wide", manifest, features, tmp_path / "results", trials=listed).records
        records = [record for record in records if record.layer not in ("none", "weighted")]
        assert all(record.statistics["rms"] > 0 for record in records)
        assert {(record.layer, record.depth) for record in records} == {
            ("0", 0.0),
            ("1", 0.5),
            ("2", 1.0),
        }
    sources = {record.train_domain: record.statistics for record in records if record.layer == "1"}
    assert sources["near"] != sources["far"]  # each trained on rows of its own


def test_training_rows_that_are_here_are_not_read_again(
    tones: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tones()
    features, reads, read = extracted(manifest), [], FeatureStore.read
    monkeypatch.setattr(
        FeatureStore,
        "read",
        lambda store, layer, *rest: reads.append(layer) or read(store, layer, *rest),
    )
    run(open_task("word-id", {"project": 8}), "planted", manifest, features, tmp_path / "results")
    assert reads == ["0", "1", "2"] * 2, "once for the layers and once for their sum"


def test_rows_are_drawn_by_utterance_up_to_a_bound_and_memory_decides_nothing(
    tones: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tones()
    extracted(manifest, view="frames")
    whole, small = (
        opened(manifest, "frames", memory_bytes=n).statistics("1") for n in (1 << 30, 1000)
    )
    assert whole == pytest.approx(small, rel=1e-5)
    monkeypatch.setattr(label_free_fits, "MOST_ROWS", 100)
    taken: list[int] = []
    add = Geometry.add
    monkeypatch.setattr(
        Geometry, "add", lambda self, rows: taken.append(len(rows)) or add(self, rows)
    )
    some, other, again = (
        opened(manifest, "frames", seed=seed).statistics("1") for seed in (0, 1, 0)
    )
    assert sum(taken) == 300
    assert some == again != other and some != whole
    assert some["rms"] == pytest.approx(whole["rms"], rel=0.1)


def louder(manifest: Path, *splits: str) -> None:
    """Replaces the audio of these splits by loud noise."""
    for number, item in enumerate(item for split in splits for item in split_of(manifest, split)):
        soundfile.write(item.path, np.random.default_rng(number).uniform(-0.9, 0.9, 4800), 16_000)


@pytest.mark.parametrize("how", ["pca", "random"])
def test_dev_and_test_rows_have_no_part_in_a_projection(
    tones: Callable[..., Path], how: str
) -> None:
    manifest = tones()
    extracted(manifest)
    train = split_of(manifest, "train")
    before = opened(manifest, width=8, how=how)
    kept, statistics = before.read("1", train).values, before.statistics("1")
    louder(manifest, "dev", "test")
    extracted(manifest)
    after = opened(manifest, width=8, how=how)
    after.read("1", split_of(manifest, "test"))  # what is read first does not matter either
    assert (after.read("1", train).values == kept).all()
    assert after.statistics("1") == statistics
    louder(manifest, "train")
    extracted(manifest)
    changed = opened(manifest, width=8, how=how)
    assert changed.statistics("1")["projected_variance"] != statistics["projected_variance"]


@pytest.mark.nightly
def test_models_of_different_widths_are_read_at_one_width(
    tones: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = tones()
    extracted(manifest)
    extracted(manifest, WideEncoder())
    train = split_of(manifest, "train")
    narrow, wide = opened(manifest, width=12), opened(manifest, model="wide", width=12)
    assert (
        narrow.read("1", train).values.shape
        == wide.read("1", train).values.shape
        == (len(train), 12)
    )
    # Twice the same dimensions: components of sqrt(2) the length, the same share of variance.
    assert np.abs(wide.read("1", train).values) == pytest.approx(
        2**0.5 * np.abs(narrow.read("1", train).values), abs=2e-2
    )
    assert wide.statistics("1")["projected_variance"] == pytest.approx(
        narrow.statistics("1")["projected_variance"], rel=1e-3
    )
    for how in ("pca", "random"):
        task = quick("word-id", project=12, projection=how)
        records = run(task, "wide", manifest, tmp_path / "features", tmp_path / "results").records
        assert {r.value for r in records if (r.layer, r.split, r.control) == ("1", "test", "")} == {
            1.0
        }
        assert all(0 < found["projected_variance"] <= 1 for found in by_layer(records).values())


def test_values_that_are_streamed_are_projected_alike(tones: Callable[..., Path]) -> None:
    manifest = tones()
    extracted(manifest)
    train = split_of(manifest, "train")
    features, off = opened(manifest, width=8), opened(manifest)
    raw = off.read("1", train).values
    assert (features.project("1", raw) == features.read("1", train).values).all()
    assert off.project("1", raw) is raw
    assert (
        features.statistics("ctc")
        == features.statistics("weighted")
        == features.statistics("none")
        == {}
    )


def test_a_width_that_a_layer_does_not_have_is_refused_with_both_numbers(
    tones: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = tones(repetitions=4)
    features = extracted(manifest)
    for settings, message in (
        (
            {"project": 49},
            "layer 0: 48 dimensions cannot be projected to 49. Set project to 48 or less.",
        ),
        (
            {"project": 30},
            "layer 0: 24 training rows have 23 principal components, 30 are asked for. Set "
            "project to less, or",
        ),
    ):
        with pytest.raises(ProbeError, match=message):
            run(open_task("word-id", settings), "planted", manifest, features, tmp_path / "results")
    with pytest.raises(ProbeError, match=r"layer 0: no training rows to fit project = 8 on\."):
        opened(manifest, width=8).fitted_on(Fitting((), 8)).read("0", split_of(manifest, "test"))


def test_a_projection_is_part_of_the_question_and_one_that_is_off_is_not(tmp_path: Path) -> None:
    plain, random = open_task("word-id"), open_task("word-id", {"projection": "random"})
    projected, other = (
        open_task("word-id", {"project": 8}),
        open_task("word-id", {"project": 8, "projection": "random"}),
    )
    assert plain.sha256 == random.sha256
    assert len({plain.sha256, projected.sha256, other.sha256}) == 3
    assert other.name == "word-id:project=8:projection=random"
    shifted = open_task("domain-shift", {"project": 8})
    assert shifted.of is not None and shifted.of.settings.project == 8
    with pytest.raises(
        ProbeError, match=r"word-id\.toml: projection: found 'lda'; expected 'pca' or 'random'"
    ):
        open_task("word-id", {"projection": "lda"})
    with pytest.raises(ProbeError, match=r"word-id\.toml: project: found -1; expected 0 or more"):
        open_task("word-id", {"project": -1})


def recipe(model: str, layers: str, family: str = "wav2vec2", final: str = "") -> dict[str, Any]:
    aliases = {"final": final} if final else {}
    return {
        "model": {"id": model, "family": family, "aliases": aliases},
        "layers": [[name, 8] for name in layers.split()],
    }


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            recipe("folder/x", "3 6", final="12"),
            12,
        ),  # post-LN: the alias says it, whatever was extracted
        (recipe("facebook/wav2vec2-large-robust", "0 6 final"), 24),
        (recipe("random:facebook/wav2vec2-large-robust", "6"), 24),
        (recipe("folder/x", "0 1 2 3 final"), 3),
        (recipe("folder/x", "0 1 3 final"), None),
        (recipe("folder/x", "0 1 2 3"), None),
        (recipe("mfcc", "0", "spectral"), None),
    ],
)
def test_the_number_of_blocks_is_known_or_none(found: dict[str, Any], expected: int | None) -> None:
    assert n_blocks(found) == expected


def test_depth_runs_from_the_first_blocks_input_to_the_last_ones_output() -> None:
    assert [depth_of(layer, 12) for layer in ("0", "3", "12", "final")] == [0, 0.25, 1, 1]
    assert [depth_of(layer, 12) for layer in ("conv", "ctc", "weighted", "none")] == [None] * 4
    assert depth_of("0", None) is None
