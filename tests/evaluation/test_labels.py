"""Controls, budgets, codes and sums of layers beside a task's own scores."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from planted import extracted
from runs import run
from scored import budget_rows, summary_rows
from test_run import PlantedEncoder
from tones import write_tones

from probe.data.label_budgets import Budget, in_drawn_order, within_budget
from probe.errors import ProbeError
from probe.evaluation.kinds.classify import drawn_labels
from probe.evaluation.linear_search import best_for_codes, best_of
from probe.evaluation.tasks import open_task
from probe.extraction.extract import extract
from probe.extraction.settings import Running, Storing
from probe.measures.counts import amount_counts, value_of
from probe.measures.uncertainty import interval
from probe.records import Record, frame_of, iterate_records, read_records
from probe.reporting.tables import grid
from probe.reporting.tables.files import write_tables
from probe.reporting.tables.score_tables import budget_grids, to_markdown
from probe.schema import checked

TASK = """kind = "classify"
label = "speaker"
l2 = [1e-3, 1e-1]
types = "text"
online_code = true
budgets = ["1/class", "2/class", "20", "3s", "10h"]
"""


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Everything beside a task on planted layers: 4 speakers, 3 words, 48 training utterances of
    0.3 s.
    """
    folder = tmp_path_factory.mktemp("labels")
    manifest = write_tones(folder)
    extract(
        PlantedEncoder(),
        manifest,
        folder / "features",
        storing=Storing(view="meanstd"),
        running=Running(check=False),
    )
    (folder / "own.toml").write_text(TASK)
    return run(
        folder / "own.toml", "planted", manifest, folder / "features", folder / "results"
    ).records


def only(records: list[Record], **wanted: object) -> list[Record]:
    return [
        record
        for record in records
        if all(getattr(record, name) == value for name, value in wanted.items())
    ]


def test_a_majority_class_needs_no_layer(records: list[Record]) -> None:
    (test,) = only(records, control="majority", split="test")
    assert (test.layer, test.layer_index, test.value, test.search) == ("none", -1, 0.25, [])


def test_a_probe_of_labels_drawn_by_type_reads_the_type(records: list[Record]) -> None:
    """Words are audible, so that a probe learns any label for each of them; selectivity tells the
    two apart.
    """
    (drawn,) = only(records, control="types", split="test", layer="1")
    (own,) = only(records, control="", budget="", split="test", layer="1", metric="accuracy")
    assert own.value == 1.0
    assert drawn.value == 1.0
    row = summary_rows(frame_of(records)).query("metric == 'accuracy'").iloc[0]
    assert (row["layer"], row["selectivity"]) == ("1", 0.0)
    (noise,) = only(records, control="types", split="test", layer="0")
    assert noise.value < 0.8


def test_drawn_labels_depend_on_the_type_alone() -> None:
    pool = ["x"] * 5 + ["y"] * 3 + ["z"]
    types = ["a", "b", "a", "", "c"]
    labels = drawn_labels(types, pool, 3)
    assert labels[0] == labels[2]
    assert drawn_labels(types[::-1], pool[::-1], 3) == labels[::-1]
    many = drawn_labels([f"t{i}" for i in range(3000)], pool, 0)
    assert many.count("x") / 3000 == pytest.approx(5 / 9, abs=0.04)
    assert many != drawn_labels([f"t{i}" for i in range(3000)], pool, 1)


def test_budgets_are_nested_and_larger_ones_are_left_out(
    records: list[Record], caplog: pytest.LogCaptureFixture
) -> None:
    found = {
        record.budget: record.n_train
        for record in only(records, split="test", layer="1", metric="accuracy", control="")
    }
    assert found == {"": 48, "1/class": 4, "2/class": 8, "20": 20, "3s": 10}
    keys, labels = [f"k{i}" for i in range(60)], [f"c{i % 5}" for i in range(60)]
    seconds = [0.5 + 0.01 * i for i in range(60)]
    for smaller, larger in (("1/class", "4/class"), ("7", "40"), ("5s", "20s")):
        few, many = (
            within_budget(budget, keys, labels, seconds, 0) for budget in (smaller, larger)
        )
        assert few is not None and many is not None
        assert set(few) < set(many)
    taken = within_budget("20s", keys, labels, seconds, 0)
    assert taken is not None
    assert 20 - 1.2 < sum(seconds[i] for i in taken) <= 20
    assert within_budget("10h", keys, labels, seconds, 0) is None
    # appended rows change the order of none of those before
    assert [i for i in in_drawn_order([*keys, "new"], 0) if i < 60] == in_drawn_order(keys, 0)


@pytest.mark.parametrize("budget", ["", "0", "ten", "10 m", "5/clas", "-3", "1d", "1.5/class"])
def test_what_is_no_budget_is_refused(budget: str) -> None:
    with pytest.raises(ProbeError, match="10m"):
        checked(Budget, budget, "budgets")


def test_an_online_code_is_shorter_where_a_layer_holds_the_labels(records: list[Record]) -> None:
    codes = {record.layer: record for record in only(records, metric="codelength")}
    assert set(codes) == {"0", "1", "2"}
    for code in codes.values():
        assert (code.split, code.n, code.n_train, code.select_by) == ("train", 48, 48, "accuracy")
        assert code.value == value_of(code.counts)
        assert sum(part["bits"] for part in code.curve) / 48 == pytest.approx(code.value)
        assert sum(part["n"] for part in code.curve) == 48
        assert (code.low, code.high) == (None, None)
        assert code.chosen["total_kbit"] == pytest.approx(48 * code.value / 1000)
        assert code.chosen["compression"] == pytest.approx(2 / code.value)
        assert 0 < code.chosen["order_sd"] < 1
        assert code.note == (
            "4 classes: 2.00 bits by the uniform code, compression "
            f"{code.chosen['compression']:.2f}; {code.chosen['total_kbit']:.3g} kbit in total; "
            f"standard deviation over 5 orders {code.chosen['order_sd']:.2f} bits"
        )
    assert codes["1"].value < 0.7 * codes["0"].value


def test_codes_of_few_rows_are_standardised_as_all_training_rows_are(tmp_path: Path) -> None:
    """Both sides know all features; statistics of the few rows of the first portions would make the
    others wild.
    """
    generator = np.random.default_rng(0)
    splits = ["train"] * 200 + ["dev"] * 40 + ["test"] * 10
    labels = generator.integers(10, size=len(splits))
    rows = 0.3 * np.random.default_rng(7).standard_normal((10, 40))[
        labels
    ] + generator.standard_normal((len(splits), 40))
    lines = ["path,text,speaker,domain,split,duration_s"]
    for i, (split, label) in enumerate(zip(splits, labels, strict=True)):
        (tmp_path / f"{i}.wav").touch()
        lines.append(f"{i}.wav,,s{label},,{split},")
    (tmp_path / "corpus.csv").write_text("\n".join(lines) + "\n")
    extracted(
        tmp_path / "features", {"0": list(rows[:, None])}, tmp_path / "corpus.csv", view="mean"
    )
    (tmp_path / "own.toml").write_text(
        'kind = "classify"\nview = "mean"\nl2 = [1e-4, 1e-2, 1]\nonline_code = true\n'
    )
    done = run(
        tmp_path / "own.toml",
        "planted",
        tmp_path / "corpus.csv",
        tmp_path / "features",
        tmp_path / "results",
    )
    (code,) = only(done.records, metric="codelength")
    for portion in code.curve:
        assert portion["bits"] <= portion["n"] * np.log2(10) + 1
    assert code.value < np.log2(10)


def test_a_learned_sum_stands_beside_the_layers_and_is_never_the_chosen_one(
    records: list[Record],
) -> None:
    (test,) = only(records, layer="weighted", split="test")
    assert set(test.layer_weights) == {"0", "1", "2"}
    assert sum(test.layer_weights.values()) == pytest.approx(1, abs=1e-5)
    assert test.layer_weights["0"] < test.layer_weights["1"]
    row = summary_rows(frame_of(records)).query("metric == 'accuracy'").iloc[0]
    assert (row["layer"], row["weighted_value"], row["majority"]) == ("1", test.value, 0.25)


def test_tables_show_what_stands_beside(records: list[Record], tmp_path: Path) -> None:
    text = to_markdown(summary_rows(frame_of(records)), layers=False)
    head = [cell.strip() for cell in text.splitlines()[0].strip("|").split("|")]
    lines = [
        dict(zip(head, map(str.strip, line.strip("|").split("|")), strict=True))
        for line in text.splitlines()[2:]
        if line.startswith("|")
    ]
    assert [line["metric"] for line in lines] == ["accuracy ↑", "codelength ↓"]
    assert (lines[0]["majority"], lines[0]["selectivity"][:4], lines[1]["majority"]) == (
        "25.0",
        "+0.0",
        "–",
    )
    (code,) = only(records, metric="codelength", layer="1")
    assert lines[1]["score [95 % interval]"].startswith(f"{code.value:.2f}")
    assert "compression" in lines[1]["note"] and "over 5 orders" in lines[1]["note"]
    curves = grid.to_markdown(budget_grids(budget_rows(frame_of(records))))
    assert "1/class (4) | 2/class (8) | 3s (10) | 20 (20) | all (48)" in " ".join(curves.split())
    assert [line.split("|")[1].strip() for line in curves.splitlines()[4:] if "|" in line] == [
        "0",
        "1",
        "2",
        "weighted",
    ]
    written = {path.name for path in write_tables(frame_of(records), tmp_path)}
    assert {"budgets.md", "budgets.csv"} <= written


def test_baselines_of_other_models_stand_beside(records: list[Record]) -> None:
    from dataclasses import replace

    others = [
        replace(record, model=name, arguments={})
        for name in ("fbank", "random:planted")
        for record in records
    ]
    rows = (
        summary_rows(frame_of([*records, *others])).query("metric == 'accuracy'").set_index("model")
    )
    assert rows.loc["planted", "fbank"] == rows.loc["fbank", "value"]
    assert rows.loc["planted", "random"] == rows.loc["random:planted", "value"]
    assert np.isnan(rows.loc["fbank", "fbank"])
    assert np.isnan(rows.loc["fbank", "random"])


def test_amounts_are_means_with_intervals() -> None:
    counts = amount_counts(list("abcdef"), [1.5, 2.5, 9.0, 3.0, 4.0, 4.0])
    assert value_of(counts) == 4.0
    assert interval(amount_counts(list("abcdef"), [0.5] * 6), "mae") is None
    low, high = interval(counts, "mae") or (0, 0)
    assert 0 <= low < 4.0 < high
    assert high > 5
    with pytest.raises(ProbeError, match="finite"):
        amount_counts(["a"], [float("inf")])


def test_records_of_controls_are_read_back(records: list[Record], tmp_path: Path) -> None:
    from probe.records import write_records

    write_records(tmp_path / "own.jsonl", records)
    again = read_records(tmp_path)
    assert (
        again["control"].value_counts().to_dict()
        == frame_of(records)["control"].value_counts().to_dict()
    )


def gaussians(
    folder: Path, distance: float, sizes: dict[str, int], layers: tuple[float, ...]
) -> tuple[Path, float]:
    """A manifest of utterances of one frame in four Gaussian classes, of which each layer holds a
    share, and the Bayes accuracy.

    There are eight speakers in each split, who say all classes.
    """
    generator = np.random.default_rng(3)
    centres = distance * np.random.default_rng(7).standard_normal((4, 6))
    lines, labels = ["path,text,speaker,domain,split,duration_s"], []
    for split, n in sizes.items():
        for i in range(n):
            labels.append(int(generator.integers(4)))
            (folder / f"{split}{i}.wav").touch()
            lines.append(f"{split}{i}.wav,w{labels[-1]},{split}{i % 8},,{split},")
    (folder / "corpus.csv").write_text("\n".join(lines) + "\n")
    noise = generator.standard_normal((len(layers), len(labels), 6))
    values = {
        str(k): list((share * centres[labels] + noise[k])[:, None])
        for k, share in enumerate(layers)
    }
    extracted(folder / "features", values, folder / "corpus.csv", per_shard=1000)
    truth = generator.integers(4, size=400_000)
    rows = centres[truth] + generator.standard_normal((len(truth), 6))
    nearest = (np.square(centres).sum(1) - 2 * rows @ centres.T).argmin(1)
    return folder / "corpus.csv", float(np.mean(nearest == truth))


@pytest.mark.nightly
def test_the_planted_layer_is_read_at_its_bayes_accuracy(tmp_path: Path) -> None:
    manifest, bayes = gaussians(
        tmp_path, 0.6, {"train": 3000, "dev": 1000, "test": 3000}, (0.0, 0.5, 1.0, 0.7)
    )
    task = tmp_path / "own.toml"
    task.write_text('kind = "classify"\nlabel = "text"\nview = "mean"\n')
    done = run(task, "planted", manifest, tmp_path / "features", tmp_path / "results").records
    found = {record.layer: record for record in only(done, split="test", control="")}
    assert 0.6 < bayes < 0.85
    assert found["2"].low <= bayes <= found["2"].high
    assert abs(found["2"].value - bayes) < 3 * np.sqrt(bayes * (1 - bayes) / 3000)
    assert max(found["1"].value, found["3"].value) < found["2"].value - 0.05
    assert summary_rows(frame_of(done)).iloc[0]["layer"] == "2"
    # equal noise in all layers: the best sum has them by their share of the signal
    shares = found["weighted"].layer_weights
    assert [shares[layer] for layer in "0123"] == pytest.approx(
        [0, 0.5 / 2.2, 1 / 2.2, 0.7 / 2.2], abs=0.08
    )


@pytest.mark.nightly
def test_shuffled_labels_are_at_chance_over_seeds(tmp_path: Path) -> None:
    manifest, _ = gaussians(tmp_path, 0.6, {"train": 120, "dev": 60, "test": 400}, (1.0,))
    task = tmp_path / "own.toml"
    task.write_text(
        'kind = "classify"\nlabel = "text"\nview = "mean"\nl2 = [1e-2]\nweighted = false\n'
        'controls = ["shuffled"]\n'
    )
    values = []
    for seed in range(
        24
    ):  # one run says little: a probe that knows the classes gives a whole class one wrong name
        done = run(
            task, "planted", manifest, tmp_path / "features", tmp_path / "results", seed=seed
        ).records
        values += [record.value for record in only(done, split="test", control="shuffled")]
    assert abs(np.mean(values) - 0.25) < 3 * np.std(values, ddof=1) / np.sqrt(len(values))


def test_what_is_finished_is_not_trained_again(
    tones: Callable[..., Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    at_commit: Callable[[str], None],
) -> None:
    at_commit("c")
    manifest = tones()
    extract(
        PlantedEncoder(),
        manifest,
        tmp_path / "features",
        storing=Storing(view="meanstd"),
        running=Running(check=False),
    )
    task = tmp_path / "quick.toml"
    task.write_text(
        'kind = "classify"\nlabel = "text"\nl2 = [1e-1]\ncontrols = []\nweighted = false\n'
    )

    def trains(**changed: object) -> bool:
        caplog.clear()
        with caplog.at_level("INFO"):
            done = run(
                task,
                "planted",
                manifest,
                tmp_path / "features",
                tmp_path / "results",
                again=False,
                **changed,
            )  # type: ignore[arg-type]
        assert done.records
        return "there already" not in caplog.text

    assert trains()
    before = (tmp_path / "results").glob("*.jsonl").__next__().stat().st_mtime_ns
    assert not trains()
    assert (tmp_path / "results").glob("*.jsonl").__next__().stat().st_mtime_ns == before
    assert trains(seed=1)
    assert not trains(seed=1)
    at_commit("d")
    assert trains(seed=1)
    at_commit("d+")
    assert trains(seed=1)
    assert trains(seed=1)  # code with changes has no version
    at_commit("d")
    assert trains(seed=1)
    (manifest.parent / "near-0-0-0.wav").write_bytes(
        (manifest.parent / "near-0-0-1.wav").read_bytes()
    )
    extract(
        PlantedEncoder(),
        manifest,
        tmp_path / "features",
        storing=Storing(view="meanstd"),
        running=Running(check=False),
    )
    assert trains(seed=1)  # other features
    path = next((tmp_path / "results").glob("*.jsonl"))
    path.write_bytes(path.read_bytes()[:-50])
    assert trains(seed=1)  # a damaged file
    (outcomes,) = (tmp_path / "results" / "outcomes").glob("*.jsonl")
    content = outcomes.read_bytes()
    assert {record.outcomes_sha256 for record in iterate_records(path)} == {
        hashlib.sha256(content).hexdigest()
    }
    outcomes.unlink()
    assert trains(seed=1)  # outcomes that were lost
    assert outcomes.read_bytes() == content
    assert not trains(seed=1)
    outcomes.write_bytes(content.replace(b'"predicted"', b'"predictet"', 1))
    assert trains(seed=1)  # outcomes of other records


def test_types_that_cannot_be_are_refused_or_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = write_tones(tmp_path)
    extract(
        PlantedEncoder(),
        manifest,
        tmp_path / "features",
        storing=Storing(view="meanstd"),
        running=Running(check=False),
    )
    task = tmp_path / "own.toml"
    task.write_text(
        'kind = "classify"\nlabel = "speaker"\nl2 = [1e-1]\ntypes = "domain"\nweighted = false\n'
    )
    done = run(
        task, "planted", manifest, tmp_path / "features", tmp_path / "results"
    )  # one type: it draws one label
    assert {record.control for record in done.records} == {"", "majority", "shuffled"}
    assert "control types: all types drew one label" in caplog.text
    manifest.write_text(manifest.read_text().replace(",near,", ",,", 3))
    with pytest.raises(
        ProbeError,
        match=r"types: 3 utterances have no domain \(near-0-0-0.wav, near-0-0-1.wav, "
        r"near-0-0-2.wav\)",
    ):
        run(task, "planted", manifest, tmp_path / "features", tmp_path / "results")


def test_a_code_is_paid_by_probabilities_and_picks_its_strength_by_them() -> None:
    right = {"dev_uar": 0.9, "dev_cross_entropy": 0.5}
    sure = {"dev_uar": 0.8, "dev_cross_entropy": 0.3}
    assert (best_of([right, sure], "uar"), best_for_codes([right, sure])) == (0, 1)


def test_where_accuracy_is_the_metric_dev_picks_the_strength_of_the_lowest_cross_entropy() -> None:
    lucky = {"dev_accuracy": 0.9, "dev_cross_entropy": 0.5}
    sure = {"dev_accuracy": 0.8, "dev_cross_entropy": 0.3}
    equal = {"dev_accuracy": 0.85, "dev_cross_entropy": 0.3}
    assert best_of([lucky, sure, equal]) == 2


@pytest.mark.parametrize(
    "key",
    ["l2 = [1e-2, 1e-1, 1e-2]", 'budgets = ["5", "5"]', 'controls = ["shuffled", "shuffled"]'],
)
def test_a_list_that_names_something_twice_is_refused(tmp_path: Path, key: str) -> None:
    (tmp_path / "own.toml").write_text(f'kind = "classify"\n{key}\n')
    name = key.split()[0]
    with pytest.raises(
        ProbeError, match=rf"own.toml: {name}: found \[.*\]; expected each entry once"
    ):
        open_task(tmp_path / "own.toml")


def test_layers_of_another_width_are_left_out_of_the_sum_and_the_note_names_them(
    tmp_path: Path,
) -> None:
    manifest = write_tones(tmp_path, words=2, speakers=2, repetitions=4)
    generator = np.random.default_rng(0)
    layers = {
        name: list(generator.standard_normal((16, 1, width)))
        for name, width in (("conv", 3), ("0", 5), ("1", 5))
    }
    extracted(tmp_path / "features", layers, manifest, view="mean")
    (tmp_path / "own.toml").write_text('kind = "classify"\nview = "mean"\nl2 = [1e-1]\n')
    done = run(
        tmp_path / "own.toml", "planted", manifest, tmp_path / "features", tmp_path / "results"
    )
    (test,) = only(done.records, layer="weighted", split="test")
    assert set(test.layer_weights) == {"0", "1"}
    assert test.note == "a sum of the 2 layers 5 wide; left out: conv (3 wide)"
