"""Layers against labels and their vectors: phones are planted in one layer alone."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from planted import extracted
from words import HOP_S, N_FRAMES, WORDS, write_words

from probe.errors import ProbeError, UsageError
from probe.evaluation.layer_similarity import similarity
from probe.evaluation.similarity_sides import Comparing
from probe.reporting.tables.similarity_tables import read_similarity, similarity_markdown


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `words.write_words`."""
    return write_words(tmp_path_factory.mktemp("words"))


def compared(world: Path, to: Path, **how: Any) -> dict[str, Any]:
    others = {name: how.pop(name) for name in ("conditions", "against") if name in how}
    how = dict[str, Any]({"labels": world / "phones.csv", "split": "all"}) | how
    [path] = similarity(
        *("planted", world / "corpus.csv", world / "features", to),
        comparing=Comparing(**how),
        **others,
    )
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def cells_of(content: dict[str, Any]) -> dict[str, Any]:
    return {cell["layer"]: cell for cell in content["cells"]}


def test_the_planted_layer_has_the_highest_cca_and_information(
    world: Path, tmp_path: Path, command: Callable[..., CompletedProcess[str]]
) -> None:
    arguments = ["--model", "planted", "--corpus", world / "corpus.csv", "--only", "all"]
    arguments += ["--from", world / "features", "--labels", world / "phones.csv"]
    done = command("similarity", *arguments, "--to", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "## planted and phones (corpus, all, interval)" in done.stdout
    assert "288 labelled intervals; 24 utterances, 9 speakers in 9 groups" in done.stdout
    content = json.loads(
        (
            tmp_path / "similarity" / "planted__clean__phones__clean__corpus__interval__all.json"
        ).read_text()
    )
    assert content["form"] == "labels" and content["other"]["labels"] == 3
    noise, planted = (cells_of(content)[layer] for layer in "01")
    assert planted["cca"]["low"] > 0.6 and planted["mi"]["low"] > 0.3
    assert noise["cca"]["low"] < 0 < noise["cca"]["high"] and abs(noise["cca"]["value"]) < 0.2
    assert noise["mi"]["value"] - noise["mi"]["chance"] < 0.03
    for measure in ("cca", "mi"):
        assert planted[measure]["value"] > noise[measure]["value"] + 0.3
    frame = read_similarity(tmp_path / "similarity")
    assert frame["mi_chance"].notna().all() and frame["pwcca"].notna().all()
    heading = similarity_markdown(frame).splitlines()[4]
    columns = ["layer", "CCA", "PWCCA", "chance", "MI", "MI chance"]
    assert [cell.strip() for cell in heading.split("|")[1:-1]] == columns


def test_words_are_the_intervals_of_their_tier_and_thirds_lie_inside(
    world: Path, tmp_path: Path
) -> None:
    words = compared(world, tmp_path, tier="word")
    assert words["other"]["name"] == "word" and words["other"]["labels"] == len(WORDS)
    assert words["n_rows"] <= 24 * 4
    whole, third = (
        cells_of(compared(world, tmp_path, view=view)) for view in ("interval", "interval:third")
    )
    assert whole["1"]["cca"]["value"] > third["1"]["cca"]["value"] > 0.3  # three frames, then one


def test_vectors_of_labels_are_the_other_side(world: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    np.save(tmp_path / "random.npy", generator.standard_normal((3, 2)))
    (tmp_path / "random.txt").write_text("a\nb\nz\n")
    content = compared(world, tmp_path, vectors=tmp_path / "random.npy")
    assert (content["form"], content["other"]["name"]) == ("vectors", "random")
    assert content["left_out"]["rows of labels without a vector"] > 50
    assert "mi" not in content["cells"][0] and "units" not in content["settings"]
    cells = cells_of(content)
    assert cells["1"]["cca"]["value"] > 0.5 > 0.3 > cells["0"]["cca"]["value"]
    # Two labels in any order lie on a line, so their vectors say no more than which label it is.
    assert cells["1"]["cca"]["chance"] == pytest.approx(cells["1"]["cca"]["value"], abs=0.02)
    text = similarity_markdown(read_similarity(tmp_path / "similarity"))
    assert "CCA chance" in text


def test_vectors_that_the_layer_follows_are_above_vectors_in_random_order(
    world: Path, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    names = [f"w{i}" for i in range(20)]
    vectors = generator.standard_normal((20, 3))
    lines = [line.split(",") for line in (world / "phones.csv").read_text().splitlines()[1:]]
    numbers = np.arange(len(lines)) % 20
    rows = [
        f"{world}/{','.join(line[:3])},{names[n]}" for line, n in zip(lines, numbers, strict=True)
    ]
    (tmp_path / "w.csv").write_text("\n".join(["path,start,end,label", *rows]) + "\n")
    frames = generator.standard_normal((24, N_FRAMES, 6))
    for line, n in zip(lines, numbers, strict=True):
        first = round(float(line[1]) / HOP_S)
        # The first three dimensions follow the vectors, the others only tell labels apart.
        own = [*vectors[n], *np.random.default_rng([9, n]).standard_normal(3)]
        frames[int(line[0].split(".")[0]), first : first + 3] += own
    extracted(tmp_path / "features", {"0": list(frames)}, world / "corpus.csv", dtype="float32")
    for name, values in (("true", vectors), ("other", np.roll(vectors, 7, axis=0))):
        np.save(tmp_path / f"{name}.npy", values)
        (tmp_path / f"{name}.txt").write_text("\n".join(names) + "\n")
        [path] = similarity(
            *("planted", world / "corpus.csv", tmp_path / "features", tmp_path),
            comparing=Comparing(
                labels=tmp_path / "w.csv", vectors=tmp_path / f"{name}.npy", split="all"
            ),
        )
        [cell] = json.loads(path.read_text())["cells"]
        assert (cell["cca"]["value"] > cell["cca"]["chance"]) == (name == "true")
        assert cell["cca"]["chance"] > 0.1


def test_labels_have_equal_shares_of_the_sample(world: Path, tmp_path: Path) -> None:
    content = compared(world, tmp_path, n_sample=90)
    assert content["n_rows"] == content["n_sampled"] == 90
    assert content["left_out"] == {"rows beyond 30 of one label": 288 - 90}
    assert content == compared(world, tmp_path, n_sample=90)
    assert content["cells"] != compared(world, tmp_path, n_sample=90, seed=1)["cells"]
    rare = (world / "phones.csv").read_text().replace(",a,", ",x,", 9).replace(",b,", ",sil,", 5)
    (tmp_path / "rare.csv").write_text(rare.replace("\n", f"\n{world}/")[: -len(f"{world}/")])
    left_out = compared(world, tmp_path, labels=tmp_path / "rare.csv")["left_out"]
    assert left_out == {"rows of labels with fewer than 10 rows, or beyond 500": 9, "silence": 5}


def test_intervals_are_rows_of_models_and_conditions_too(world: Path, tmp_path: Path) -> None:
    content = compared(world, tmp_path, against="planted")
    assert (content["form"], content["view"]) == ("models", "interval")
    assert (content["n_rows"], content["n_utterances"]) == (288, 24)
    cells = {(cell["layer"], cell["other_layer"]): cell for cell in content["cells"]}
    assert cells["1", "1"]["cca"]["value"] == pytest.approx(1, abs=1e-3)
    assert "pwcca" not in cells["0", "1"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"view": "mean"}, "--view mean: expected --labels together with the view interval"),
        ({"labels": None, "view": "interval"}, "--view interval: expected --labels together"),
        ({"labels": None, "tier": "word"}, "--tier: has a meaning with --labels only"),
        ({"labels": None, "vectors": "x.npy"}, "--vectors: has a meaning with --labels only"),
        ({"against": "planted", "vectors": "x.npy"}, "--vectors: compares layers with the vectors"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(
    world: Path, tmp_path: Path, how: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        compared(world, tmp_path, **how)


def test_too_few_rows_and_silence_are_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="0 rows of 0 labels can be compared"):
        compared(world, tmp_path, tier="word", split="dev", limit=1)
    lines = (world / "phones.csv").read_text().splitlines()
    quiet = [lines[0], *(f"{world}/{line.split(',')[0]},0,0.2,sil," for line in lines[1::12])]
    (tmp_path / "quiet.csv").write_text("\n".join(quiet) + "\n")
    with pytest.raises(ProbeError, match=r"all 24 labels of split all are silence \(sil, sp, spn"):
        compared(world, tmp_path, labels=tmp_path / "quiet.csv")
