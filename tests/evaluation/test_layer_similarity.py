"""Comparisons from stores to tables: planted features whose similarity is known."""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from planted import extracted as write_store
from tones import write_tones

import probe
from probe.data.corpus import load_corpus
from probe.errors import ProbeError, UsageError
from probe.evaluation.aligned_rows import MOST_GROUPS, pair_up
from probe.evaluation.dataset import Features, block_of
from probe.evaluation.layer_similarity import similarity
from probe.evaluation.similarity_sides import Comparing
from probe.measures.representations import Sample, compare
from probe.reporting.tables.similarity_tables import (
    read_similarity,
    similarity_markdown,
    write_similarity,
)
from probe.store.stores import select_store

N_UTTERANCES, N_FRAMES, DIM = 72, 14, 6
FINE = {
    "id": "fine",
    "revision": "1",
    "weights_sha256": "",
    "family": "test",
    "aliases": {},
    "rate_hz": 16_000,
    "hop_samples": 160,
}

extracted = partial(write_store, per_shard=24)  # few files: many wait for the disk
Layers = Mapping[str, Sequence[np.ndarray]]


def drawn(seed: int, dim: int = DIM, frames: int = N_FRAMES) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).standard_normal((N_UTTERANCES, frames, dim)) + 0.5)


@pytest.fixture
def manifest(tones: Callable[..., Path]) -> Path:
    return tones()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Layers]:
    """A folder with a manifest and features, and the clean layers; under ``noise`` layer 0 moves,
    1 does not, 2 is rotated and 3 is another.
    """
    folder = tmp_path_factory.mktemp("original")
    manifest = write_tones(folder, speakers=8, repetitions=3)
    clean = {str(layer): drawn(layer) for layer in range(4)}
    noise = np.random.default_rng(9).standard_normal((N_UTTERANCES, N_FRAMES, DIM))
    turn = np.linalg.qr(np.random.default_rng(8).standard_normal((DIM, DIM)))[0]
    noisy = {
        "0": [one + 1.5 * other for one, other in zip(clean["0"], noise, strict=True)],
        "1": [one + 0.01 * other for one, other in zip(clean["1"], noise, strict=True)],
        "2": [3 * one @ turn for one in clean["2"]],
        "3": drawn(33),
    }
    extracted(folder / "features", clean, manifest)
    extracted(folder / "features", noisy, manifest, condition="noise")
    return folder, clean


@pytest.fixture
def planted(original: tuple[Path, Layers], tmp_path: Path) -> tuple[Path, Path, Layers]:
    """Manifest, features and clean layers: a copy, to which a test may add."""
    shutil.copytree(original[0], tmp_path, dirs_exist_ok=True)
    return tmp_path / "tones.csv", tmp_path / "features", original[1]


def compared(planted: tuple[Path, Path, Layers], **how: Any) -> dict:
    manifest, features, _ = planted
    others = {name: how.pop(name) for name in ("conditions", "against") if name in how}
    comparing = Comparing(split="all", in_sample=True, **how)
    to = features.parent / "results"
    [path] = similarity("planted", manifest, features, to, comparing=comparing, **others)
    return json.loads(path.read_text())


def test_the_report_says_which_layer_moves_and_which_does_not(
    planted: tuple[Path, Path, Layers], command: Callable[..., CompletedProcess], tmp_path: Path
) -> None:
    manifest, features, _ = planted
    arguments = [
        "--model",
        "planted",
        "--corpus",
        manifest,
        "--from",
        features,
        "--condition",
        "noise",
        "--only",
        "all",
        "--in-sample",
    ]
    done = command("similarity", *arguments, "--to", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    assert "## planted: clean and noise (tones, all, frames)" in done.stdout
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in done.stdout.splitlines()
        if line.startswith("|")
    ]
    heading, rows = lines[0], {line[0]: line for line in lines[2:]}
    shown = {
        name: {layer: float(row[heading.index(name)].split()[0]) for layer, row in rows.items()}
        for name in heading[1:]
    }
    measures = ["cosine", "unrelated", "relative distance", "CKA", "CCA", "PWCCA", "chance"]
    assert list(shown) == measures
    for measure in ("cosine", "CKA", "CCA", "PWCCA"):
        assert shown[measure]["1"] > 0.99 > 0.8 > shown[measure]["0"] > shown[measure]["3"]
    assert shown["relative distance"]["1"] < 0.02 < 1 < shown["relative distance"]["0"]
    assert shown["cosine"]["2"] < 0.6
    assert min(shown["CKA"]["2"], shown["PWCCA"]["2"]) > 0.999
    assert abs(shown["CKA"]["3"]) < 0.03
    assert shown["PWCCA"]["3"] < shown["chance"]["3"] + 0.05
    assert abs(shown["CCA"]["3"]) < 0.1
    names = {path.name for path in (tmp_path / "results" / "similarity").iterdir()}
    assert {
        "similarity.md",
        "similarity.csv",
        "planted__clean__planted__noise__tones__frames__all.json",
    } < names
    maps = {name for name in names if name.startswith("map-")}
    assert maps == {
        f"map-conditions__planted__tones__frames__all.{ending}" for ending in ("png", "svg")
    }


def test_cosine_and_distance_are_of_all_frames(planted: tuple[Path, Path, Layers]) -> None:
    found = compared(planted, conditions=["noise"], n_sample=50)
    assert (found["n_rows"], found["n_sampled"]) == (N_UTTERANCES * N_FRAMES, 50)
    assert (found["n_utterances"], found["n_blocks"], found["n_groups"]) == (N_UTTERANCES, 8, 8)
    stores = [
        select_store(planted[1], "planted", "frames", condition).layer("0")
        for condition in ("clean", "noise")
    ]
    clean, noisy = (array.values.astype(float) for array in stores)
    lengths = np.linalg.norm(clean, axis=1)
    cosine = np.sum(clean * noisy, axis=1) / lengths / np.linalg.norm(noisy, axis=1)
    cell = found["cells"][0]
    assert cell["cosine"]["value"] == pytest.approx(cosine.mean(), rel=1e-5)
    assert cell["distance"]["value"] == pytest.approx(
        np.mean(np.linalg.norm(noisy - clean, axis=1) / lengths), rel=1e-5
    )
    units = clean / lengths[:, None]
    assert cell["cosine"]["unrelated"] == pytest.approx(
        (units @ units.T)[~np.eye(len(units), dtype=bool)].mean(), rel=1e-4
    )
    for measure in ("cosine", "distance", "cka"):
        assert cell[measure]["low"] < cell[measure]["value"] < cell[measure]["high"], measure


def test_a_cosine_below_0_has_an_interval_around_it(planted: tuple[Path, Path, Layers]) -> None:
    manifest, features, clean = planted
    generator = np.random.default_rng(0)
    turned = [
        (0.3 * generator.normal(size=one.shape) - one).astype(np.float32) for one in clean["0"]
    ]
    extracted(features, {"0": turned}, manifest, condition="upside-down")
    cosine = compared(planted, conditions=["upside-down"])["cells"][0]["cosine"]
    assert -1 <= cosine["low"] < cosine["value"] < cosine["high"] < -0.8


def test_equal_input_gives_equal_bytes_whatever_the_memory(
    planted: tuple[Path, Path, Layers], tmp_path: Path
) -> None:
    manifest, features, _ = planted

    def bytes_of(to: str, **how: Any) -> list[bytes]:
        rows = Comparing(split="all", layers="0-2", **how)
        paths = [
            *similarity(
                "planted", manifest, features, tmp_path / to, conditions=["noise"], comparing=rows
            ),
            *similarity("planted", manifest, features, tmp_path / to, comparing=rows),
        ]
        return [path.read_bytes() for path in paths]

    first = bytes_of("a", n_sample=300)
    assert bytes_of("b", n_sample=300) == first
    assert bytes_of("c", n_sample=300, memory_bytes=30_000) == first
    assert bytes_of("d", n_sample=300, seed=1) != first
    texts = b"".join(first).decode()
    assert not re.search(r"wav|near-|\bs[0-7]\b", texts)
    assert str(tmp_path) not in texts


def test_layers_among_themselves_are_a_matrix(planted: tuple[Path, Path, Layers]) -> None:
    found = compared(planted, layers="0-2")
    assert found["form"] == "layers"
    cell = {(item["layer"], item["other_layer"]): item for item in found["cells"]}
    assert list(cell) == [(one, other) for one in "012" for other in "012"]
    for layer in "012":
        assert (
            cell[layer, layer]["cka"]["value"]
            == cell[layer, layer]["pwcca"]["value"]
            == pytest.approx(1, abs=1e-5)
        )
    assert cell["0", "1"]["cka"] == cell["1", "0"]["cka"]
    assert cell["0", "1"]["pwcca"] != cell["1", "0"]["pwcca"]
    assert abs(cell["0", "1"]["cka"]["value"]) < 0.03


def test_a_longer_hop_belongs_to_the_mean_of_the_frames_around_it(
    planted: tuple[Path, Path, Layers],
) -> None:
    manifest, features, _ = planted
    fine = drawn(50, frames=2 * N_FRAMES + 1)
    coarse = [
        np.stack([item[max(0, 2 * i - 1) : 2 * i + 2].mean(axis=0) for i in range(N_FRAMES)])
        for item in fine
    ]
    extracted(features, {"0": fine}, manifest, model=FINE)
    extracted(features, {"0": coarse}, manifest, model=FINE | {"id": "coarse", "hop_samples": 320})
    for model, against in (("coarse", "fine"), ("fine", "coarse")):
        [path] = similarity(
            model,
            manifest,
            features,
            features.parent,
            against=against,
            comparing=Comparing(split="all"),
        )
        found = json.loads(path.read_text())
        assert (found["form"], found["n_rows"]) == ("models", N_UTTERANCES * N_FRAMES)
        assert found["alignment"] == "mean of the frames within half the longer hop"
        assert found["cells"][0]["cka"]["value"] > 0.9999


def test_models_are_compared_under_the_same_condition(planted: tuple[Path, Path, Layers]) -> None:
    manifest, features, clean = planted
    extracted(
        features,
        clean,
        manifest,
        model=FINE | {"id": "other", "hop_samples": 320},
        condition="noise",
    )
    [path] = similarity(
        "planted",
        manifest,
        features,
        features.parent,
        against="other",
        conditions=["noise"],
        comparing=Comparing(split="all"),
    )
    found = json.loads(path.read_text())
    assert (found["form"], found["model"]["condition"], found["other"]["condition"]) == (
        "models",
        "noise",
        "noise",
    )
    assert found["cells"][5]["cka"]["value"] > 0.99  # layer 1 did not move
    assert "### " not in similarity_markdown(read_similarity(path))
    assert "## planted and other, both noise (tones, all, frames)" in similarity_markdown(
        read_similarity(path)
    )


def test_a_changed_speed_is_aligned_by_share(planted: tuple[Path, Path, Layers]) -> None:
    manifest, features, clean = planted
    twice = {
        layer: [np.repeat(item, 2, axis=0) for item in items] for layer, items in clean.items()
    }
    extracted(features, twice, manifest, condition="half-speed")
    found = compared(planted, conditions=["half-speed"])
    assert found["alignment"].startswith("nearest share")
    assert found["n_rows"] == N_UTTERANCES * N_FRAMES
    assert all(
        cell["distance"]["value"] == 0 and cell["cka"]["value"] == pytest.approx(1)
        for cell in found["cells"]
    )


def test_half_the_speed_may_have_a_frame_more_than_twice_as_many(
    planted: tuple[Path, Path, Layers],
) -> None:
    manifest, features, clean = planted
    longer = {
        layer: [np.repeat(item, [*[2] * (N_FRAMES - 1), 3], axis=0) for item in items]
        for layer, items in clean.items()
    }
    extracted(features, longer, manifest, condition="tempo:0.5")
    assert compared(planted, conditions=["tempo:0.5"])["n_rows"] == N_UTTERANCES * N_FRAMES


def test_lengths_that_cannot_be_of_the_same_sound_are_refused_by_name(
    planted: tuple[Path, Path, Layers],
) -> None:
    manifest, features, clean = planted
    short = {
        layer: [item[: 4 if i == 3 else None] for i, item in enumerate(items)]
        for layer, items in clean.items()
    }
    extracted(features, short, manifest, condition="cut")
    with pytest.raises(
        ProbeError,
        match=r"1 utterances have rows .*: near-0-1-0\.wav \(14 and 4\) rows\. Extract both",
    ):
        compared(planted, conditions=["cut"])
    extracted(features, short, manifest, model=FINE | {"id": "other", "hop_samples": 320})
    with pytest.raises(
        ProbeError, match=r"1 utterances have rows .*: near-0-1-0\.wav \(14 and 4\)"
    ):
        compared(planted, against="other")


def test_pooled_views_have_a_row_per_utterance(planted: tuple[Path, Path, Layers]) -> None:
    found = compared(planted, conditions=["noise"], view="mean")
    assert (found["view"], found["n_rows"]) == ("mean", N_UTTERANCES)
    cells = {cell["layer"]: cell for cell in found["cells"]}
    assert cells["1"]["cka"]["value"] > 0.99 > 0.8 > cells["0"]["cka"]["value"]
    wide = compared(planted, conditions=["noise"], view="meanstd")
    assert wide["model"]["widths"] == [2 * DIM] * 4
    assert wide["notes"] == [
        "no CCA of two sides that both have 7 dimensions or more: 72 rows, expected more than 10 "
        "per dimension of the narrower side",
        "PWCCA is too high: 72 rows of up to 12 dimensions, 10 per dimension are safer (see its "
        "chance)",
    ]


def test_too_few_rows_leave_pwcca_out_and_say_so(planted: tuple[Path, Path, Layers]) -> None:
    found = compared(planted, conditions=["noise"], n_sample=23)
    assert found["notes"][1:] == [
        "no PWCCA of layers wider than 5: 23 rows, expected 4 per dimension"
    ]
    assert found["notes"][0].startswith("no CCA of two sides that both have 2 dimensions or more")
    assert all(
        cell["pwcca"] == {"value": None, "low": None, "high": None, "chance": None}
        and cell["cca"] == {"value": None, "low": None, "high": None, "epsilons": []}
        for cell in found["cells"]
    )
    path = next((planted[1].parent / "results" / "similarity").glob("*.json"))
    text = similarity_markdown(read_similarity(path))
    assert "PWCCA |" not in text
    assert "Note: no CCA of two sides" in text and "no PWCCA of" in text


def test_groups_are_whole_speakers_and_the_sample_is_spread(
    planted: tuple[Path, Path, Layers],
) -> None:
    manifest, features, _ = planted
    corpus = load_corpus(manifest)
    side = Features({"clean": select_store(features, "planted", "frames")}, "frames", corpus)
    many = [replace(item, speaker=f"s{i % 25}") for i, item in enumerate(corpus.utterances)]
    pairs = pair_up(side, side, many, 400, seed=0)
    sizes = np.diff(pairs.bounds)
    assert len(sizes) == MOST_GROUPS
    assert sizes.sum() == 400
    assert sizes.max() < 2 * sizes.min()
    assert {len(part) for part in pairs.sampled} <= {5, 6}  # 400 of 72 utterances
    group_of: dict[str, set[int]] = {}
    ends = np.cumsum([len(part) for part in pairs.sampled])
    for item, end in zip(pairs.utterances, ends, strict=True):
        group_of.setdefault(block_of(item), set()).add(int(np.searchsorted(pairs.bounds[1:], end)))
    assert all(len(groups) == 1 for groups in group_of.values())


def test_the_sample_of_a_layer_is_the_rows_it_names(planted: tuple[Path, Path, Layers]) -> None:
    manifest, features, _ = planted
    side, other = (
        Features(
            {condition: select_store(features, "planted", "frames", condition)},
            "frames",
            load_corpus(manifest),
        )
        for condition in ("clean", "noise")
    )
    pairs = pair_up(side, other, load_corpus(manifest).utterances, 200, seed=3)
    rows = [
        np.concatenate(
            [
                np.asarray(features_of.store.layer("0", [item.key]).values)[chosen]
                for item, chosen in zip(pairs.utterances, pairs.sampled, strict=True)
            ]
        )
        for features_of in (side, other)
    ]
    found = compared(planted, conditions=["noise"], n_sample=200, seed=3)
    cka = compare(*map(Sample, rows)).cka.value
    assert found["cells"][0]["cka"]["value"] == pytest.approx(cka, rel=1e-4)


def test_one_speaker_has_values_without_intervals(manifest: Path, tmp_path: Path) -> None:
    text = re.sub(r",s\d,", ",anna,", manifest.read_text())
    manifest.write_text(text)
    clean = {"0": drawn(0)}
    extracted(tmp_path / "features", clean, manifest)
    [path] = similarity(
        "planted", manifest, tmp_path / "features", tmp_path, comparing=Comparing(split="all")
    )
    found = json.loads(path.read_text())
    assert found["notes"] == ["no intervals: 1 speaker, expected 6 or more"]
    assert found["cells"][0]["cka"] == {"value": 1.0, "low": None, "high": None}
    assert "±" not in similarity_markdown(read_similarity(path)).split("\n\n", 2)[2].replace(
        "± half", ""
    )


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        (
            {"conditions": ["reverb"]},
            ProbeError,
            r"Run `probe extract --model planted --view frames --condition reverb --corpus",
        ),
        (
            {"against": "fbank"},
            ProbeError,
            r"no features of fbank .* Run `probe extract --model fbank --view frames --corpus",
        ),
        ({"conditions": ["clean"]}, UsageError, "every condition is compared with clean"),
        ({"view": "frames:2"}, UsageError, "--view frames:2: expected frames"),
        ({"n_sample": 3}, UsageError, "--sample 3: expected 4 rows or more"),
        ({"layers": "0-9"}, UsageError, "planted has no layer '4'"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    planted: tuple[Path, Path, Layers], how: dict, error: type[ProbeError], message: str
) -> None:
    with pytest.raises(error, match=message):
        compared(planted, **how)


def test_an_unknown_split_is_refused(planted: tuple[Path, Path, Layers]) -> None:
    with pytest.raises(
        UsageError, match="--only tset: tones has dev, test, train; expected one of them, or all"
    ):
        similarity(
            "planted", planted[0], planted[1], planted[1].parent, comparing=Comparing(split="tset")
        )


def test_tables_and_maps_are_rebuilt_from_the_files_alone(
    planted: tuple[Path, Path, Layers], tmp_path: Path
) -> None:
    compared(planted, conditions=["noise"], layers="0-1")
    compared(planted, layers="0-1")
    folder = tmp_path / "results" / "similarity"
    (folder / "map-of-an-earlier-run.svg").write_text("")
    first = {path.name: path.read_bytes() for path in write_similarity(folder)}
    for name in first:
        (folder / name).unlink()
    again = {path.name: path.read_bytes() for path in write_similarity(folder)}
    assert {name for name in first if name.startswith("map-")} == {
        path.name for path in folder.glob("map-*")
    }
    assert len(first) == 6
    assert again == first
    frame = probe.read_similarity(folder)
    assert len(frame) == 2 + 4
    assert frame["pwcca_chance"].dropna().between(0, 1).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a file that `probe similarity` wrote"),
        ("[]", "not a file that `probe similarity` wrote"),
        ('{"format": 1}', r"not a file that `probe similarity` wrote \(KeyError"),
        ('{"format": 2}', "format 2; this version reads 1"),
        ('{"format": 1, "corpus": "\\ud800"}', "not a file that .*surrogates not allowed"),
    ],
)
def test_a_foreign_file_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ProbeError, match=f"a.json: {message}"):
        read_similarity(tmp_path)
    with pytest.raises(ProbeError, match=r"no \*.json there"):
        read_similarity(tmp_path / "nowhere")


def test_real_speech_is_nearer_to_its_own_layers_than_to_fbank(
    speech: Path, tmp_path: Path
) -> None:
    corpus = load_corpus(speech / "digits_shared.csv").limited(12)
    for model in ("fbank", "mfcc"):
        probe.extract(model, corpus, tmp_path / "features")
    [path] = similarity(
        "mfcc",
        corpus,
        tmp_path / "features",
        tmp_path,
        against="fbank",
        comparing=Comparing(split="all", in_sample=True),
    )
    found = json.loads(path.read_text())
    assert found["alignment"] == "mean of the frames within half the longer hop"
    cell = found["cells"][0]
    assert 0.1 < cell["cka"]["value"] < 0.99  # the same spectra, decorrelated and cut
    assert cell["pwcca"]["value"] > 0.7 > cell["pwcca"]["chance"]
    assert cell["cca"]["value"] > 0.9
