"""Frame classification: a planted layer is found at its Bayes accuracy, controls are where they
must be, memory changes nothing.
"""

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from exhaustive import mostly_nightly
from planted import HOP, RATE_HZ, extracted
from runs import run
from scored import summary_rows
from small_models import write_checkpoint

from probe.cli import cli
from probe.data.corpus import load_corpus
from probe.errors import ProbeError, UsageError
from probe.evaluation.condition_plan import under
from probe.evaluation.dataset import Features, Problem
from probe.evaluation.frame_times import first_centre_s
from probe.evaluation.kinds import row_reader
from probe.evaluation.kinds.frame_questions import Question, drawn_class, questions_of
from probe.evaluation.kinds.labelled_frames import Labelled, labelled_sets
from probe.evaluation.kinds.row_reader import Chosen, StoredRows, in_store_order
from probe.evaluation.linear_search import STRENGTHS, cut, judged
from probe.evaluation.run import Run
from probe.evaluation.tasks import open_task
from probe.evaluation.trial_lists import Scope, intervals_of
from probe.extraction.extract import extract
from probe.extraction.settings import Running, Storing
from probe.heads.linear.context import stack_context
from probe.heads.linear.linear_probe import fit_strengths
from probe.heads.linear.logistic import state_bytes
from probe.pipeline import bench
from probe.records import NO_LAYER, Record, iterate_records, read_records
from probe.reporting.report.summary import answers
from probe.reporting.scores import Scores
from probe.reporting.tables.comparison import compare_models
from probe.store.feature_store import FeatureStore, Stored
from probe.store.stores import select_store

HOP_S = HOP / RATE_HZ
N_CLASSES = 4
LOGITS_BYTES = 2 * state_bytes(
    500, N_CLASSES, 8
)  # of 500 rows and two strengths; rows of 200 take more

Segments = list[tuple[str, int]]  # (label, frames)
Draw = Callable[
    [list[str], np.random.Generator], np.ndarray
]  # a frame's label each -> (frame, dim)


class World:
    """A corpus of made-up utterances in a folder, with its intervals and features."""

    def __init__(
        self, folder: Path, utterances: Sequence[tuple[str, Segments]], seed: int = 0
    ) -> None:
        """``utterances``: (split, segments) each; there are six speakers in each split. A label
        ``word:s`` is s in a word.
        """
        self.folder, self.utterances = folder, utterances
        self.manifest, self.labels = folder / "corpus.csv", folder / "phones.csv"
        self.generator = np.random.default_rng(seed)
        rows, intervals = (
            ["path,text,speaker,domain,split,duration_s"],
            ["path,start,end,label,word"],
        )
        for i, (split, segments) in enumerate(utterances):
            (folder / f"{i}.wav").touch()
            rows.append(f"{i}.wav,,{split}{i % 6},,{split},")
            first = 0
            for label, n in segments:
                word, _, sound = label.rpartition(":")
                intervals.append(
                    f"{i}.wav,{first * HOP_S:.4f},{(first + n) * HOP_S:.4f},{sound},{word}"
                )
                first += n
        self.manifest.write_text("\n".join(rows) + "\n")
        self.labels.write_text("\n".join(intervals) + "\n")

    def extract(self, layers: Mapping[str, Draw], **changed: Any) -> "World":
        """Features of every frame, drawn from its label."""
        of_frames = [
            [label for label, n in segments for _ in range(n)] for _, segments in self.utterances
        ]
        values = {
            name: [draw(labels, self.generator) for labels in of_frames]
            for name, draw in layers.items()
        }
        extracted(self.folder / "features", values, self.manifest, **changed)
        return self

    def task(self, **settings: Any) -> Path:
        """A task file."""
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        (self.folder / "own.toml").write_text("\n".join(['kind = "frames"', *lines]) + "\n")
        return self.folder / "own.toml"

    def run(
        self, to: str = "results", keywords: Mapping[str, Any] | None = None, **settings: Any
    ) -> Run:
        """Runs the kind with these settings, without a sum of layers unless they say so."""
        settings = {"weighted": False} | settings
        asked = {"labels": self.labels} | dict(keywords or {})
        return run(
            self.task(**settings),
            "planted",
            self.manifest,
            self.folder / "features",
            self.folder / to,
            **asked,
        )


def speech(
    generator: np.random.Generator, n_segments: int = 30, labels: Sequence[str] = "abcd"
) -> Segments:
    """Segments of 3 to 8 frames whose labels are drawn alike."""
    return [
        (str(generator.choice(list(labels))), int(generator.integers(3, 9)))
        for _ in range(n_segments)
    ]


def splits(
    train: int = 18, dev: int = 12, test: int = 24, seed: int = 1, **shape: Any
) -> list[tuple[str, Segments]]:
    generator = np.random.default_rng(seed)
    return [
        (name, speech(generator, **shape))
        for name, n in (("train", train), ("dev", dev), ("test", test))
        for _ in range(n)
    ]


def centres(distance: float, dim: int = 6, n: int = N_CLASSES) -> np.ndarray:
    return distance * np.random.default_rng(7).standard_normal((n, dim))


def around(means: np.ndarray, names: Sequence[str] = "abcd") -> Draw:
    """Gaussian with unit covariance around the label's mean; names of more than a letter are those
    of words with their label.
    """

    def draw(labels: list[str], generator: np.random.Generator) -> np.ndarray:
        found = [
            names.index(label if ":" in names[0] else label.rpartition(":")[2]) for label in labels
        ]
        return means[found] + generator.standard_normal((len(labels), means.shape[1]))

    return draw


def bayes_accuracy(means: np.ndarray, n: int = 400_000) -> float:
    """Of classes that are alike frequent, by Monte Carlo with their true densities."""
    generator = np.random.default_rng(5)
    labels = generator.integers(len(means), size=n)
    rows = means[labels] + generator.standard_normal((n, means.shape[1]))
    distances = np.square(means).sum(1) - 2 * rows @ means.T  # less |row|^2, of all classes alike
    return float(np.mean(distances.argmin(1) == labels))


def by_layer(done: Run, split: str, control: str = "") -> dict[str, Record]:
    return {
        item.layer: item for item in done.records if item.split == split and item.control == control
    }


def values(done: Run) -> list[Any]:
    return [
        (
            r.layer,
            r.split,
            r.control,
            r.value,
            r.low,
            r.high,
            r.search,
            r.chosen,
            r.counts,
            r.n_train,
        )
        for r in done.records
    ]


def test_the_planted_layer_is_found_at_its_bayes_accuracy(tmp_path: Path) -> None:
    means = centres(0.6)
    bayes = bayes_accuracy(means)
    assert 0.6 < bayes < 0.85
    layers = {"0": around(0 * means), "1": around(means), "2": around(0.5 * means)}
    done = World(tmp_path, splits()).extract(layers).run()
    dev, test = by_layer(done, "dev"), by_layer(done, "test")
    assert max(dev, key=lambda layer: dev[layer].value) == "1"
    assert test["1"].low <= bayes <= test["1"].high
    assert abs(test["1"].value - bayes) < 3 * np.sqrt(bayes * (1 - bayes) / test["1"].n)
    assert test["0"].value < 0.3 < test["2"].value < bayes - 0.1
    n_frames = {
        name: sum(n for split, segments in splits() for _, n in segments if split == name)
        for name in ("train", "test")
    }
    assert test["1"].n == sum(test["1"].counts["denominator"]) == n_frames["test"]
    assert (test["1"].n_blocks, test["1"].metric, test["1"].head) == (6, "accuracy", "linear")
    assert test["1"].n_train == n_frames["train"]
    assert [entry["l2"] for entry in test["1"].search] == list(STRENGTHS)
    best = min(test["1"].search, key=lambda entry: entry["dev_cross_entropy"])
    assert test["1"].chosen == {name: best[name] for name in ("l2", "dev_cross_entropy")}
    assert dev["1"].value == best["dev_accuracy"]
    assert {record.trials_sha256 for record in done.records} == {
        hashlib.sha256((tmp_path / "phones.csv").read_bytes()).hexdigest()
    }


def test_shuffled_labels_are_at_chance(tmp_path: Path) -> None:
    """Over several shuffles: one maps each class to one that luck made most frequent, and is far
    off chance either way.
    """
    world = World(tmp_path, splits(train=8, dev=4, test=12)).extract({"0": around(centres(2))})
    runs = [
        world.run(f"r{seed}", {"seed": seed}, controls=["shuffled"], l2=[1e-2])
        for seed in range(24)
    ]
    found = [by_layer(done, "test", "shuffled")["0"].value for done in runs]
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    assert abs(np.mean(found) - 1 / N_CLASSES) < 3 * error
    assert error < 0.06
    assert by_layer(runs[0], "test")["0"].value > 0.9
    assert len({by_layer(done, "test")["0"].value for done in runs}) == 1


def of_world(world: World, **settings: Any) -> tuple[dict[str, Labelled], list[Question]]:
    """The labelled frames, and what is asked of them."""
    corpus, task = load_corpus(world.manifest), open_task(world.task(**settings))
    features = Features(
        {"clean": select_store(world.folder / "features", "planted", "frames")}, "frames", corpus
    )
    rows = {
        split: [item for item in corpus.utterances if item.split == split]
        for split in ("train", "dev", "test")
    }
    intervals = intervals_of(task, corpus, features, world.labels)
    problem = Problem(rows["train"], rows["dev"], {"": rows["test"]}, intervals=intervals)
    sets = labelled_sets(task, problem, features, Counter())
    return sets, list(questions_of(task, sets, sorted(set(sets["train"].labels)), 3))


def test_shuffling_moves_labels_of_whole_segments(tmp_path: Path) -> None:
    world = World(tmp_path, splits(4, 4, 4)).extract({"0": around(centres(1))})
    sets, (real, control) = of_world(world, controls=["shuffled"])
    for name in ("train", "dev"):
        segments = sets[name].segments
        assert len(sets[name].labels) == 4 * 30  # frames of one interval are one segment
        first = np.unique(segments, return_index=True)[1]
        for question in (real, control):
            targets = question.targets[name]
            assert np.array_equal(targets, targets[first][segments])  # one label a segment
        before, after = real.targets[name][first], control.targets[name][first]
        assert sorted(before) == sorted(after) and np.mean(before == after) < 0.5
    assert np.array_equal(real.targets["test "], control.targets["test "])


def test_types_tell_a_layer_that_knows_them_from_one_that_knows_the_label(tmp_path: Path) -> None:
    words = [f"w{i:02}:{'abcd'[i % 4]}" for i in range(24)]
    shape = {"labels": words, "n_segments": 40}
    of_word = centres(4, 30, 24)
    layers = {"label": around(centres(4)), "word": around(of_word, words)}
    world = World(tmp_path, splits(10, 8, 8, **shape)).extract(layers)
    done = world.run(controls=["types"], types="word")
    real, control = by_layer(done, "test"), by_layer(done, "test", "types")
    assert min(real["label"].value, real["word"].value, control["word"].value) > 0.97
    assert control["label"].value < 0.75  # six words share a label, and draw one of four each
    frames = real["word"].n
    assert control["word"].n == 5 * frames
    assert control["word"].note == (
        f"{frames} of {frames} frames are of types that training has; mean of 5 draws"
    )
    assert real["word"].note == ""


def test_a_type_has_one_drawn_label_in_every_split_and_neighbours_are_the_usual_type(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, splits(6, 6, 6, labels="aab")).extract({"0": around(centres(1), "ab")})
    sets, (_, control) = of_world(world, controls=["types"])
    drawn: dict[str, set[int]] = {}
    for name, item in sets.items():
        for segment, target in zip(item.segments, control.targets[name], strict=True):
            drawn.setdefault(item.types[segment], set()).add(int(target))
    assert {len(found) for found in drawn.values()} == {1}
    assert {"a\ta\ta", "a\tb\ta"} <= set(drawn)
    shares = np.array([1, 4])  # counts 1 and 3
    assert [drawn_class(str(i), shares, 3) for i in range(8)] == [1, 0, 1, 1, 1, 0, 1, 0]
    assert np.mean([drawn_class(str(i), shares, 0) for i in range(4000)]) == pytest.approx(
        0.75, abs=0.03
    )


def test_types_that_all_draw_one_label_give_no_value_and_say_so(tmp_path: Path) -> None:
    one_word = [(split, [("w:a", 5), ("w:b", 5)]) for split in ("train", "dev", "test")]
    done = (
        World(tmp_path, one_word)
        .extract({"0": around(centres(1), "ab")})
        .run(controls=["types"], types="word")
    )
    record = by_layer(done, "test", "types")["0"]
    assert record.value is None
    assert record.note.startswith("control types: all training frames drew one label")


def test_the_majority_stands_beside_every_task(tmp_path: Path) -> None:
    utterances = [(split, [("a", 6), ("b", 4)]) for split in ("train", "dev", "test")]
    done = World(tmp_path, utterances).extract({"0": around(centres(1), "ab")}).run()
    for split in ("dev", "test"):
        record = by_layer(done, split, "majority")[NO_LAYER]
        assert (record.value, record.head, record.layer_index, record.headline) == (
            0.6,
            "linear",
            -1,
            True,
        )
        assert (record.note, record.n_train) == ("always 'a'", 10)
    (line,) = (tmp_path / "results" / "outcomes").glob("*.jsonl")
    assert '"correct":' in line.read_text() and '"majority"' not in line.read_text()


def test_neighbours_help_where_the_signal_lies_in_them(tmp_path: Path) -> None:
    utterances = [
        (split, [(label, 1) for label in np.random.default_rng(i).choice(list("abcd"), 200)])
        for i, split in enumerate(["train", "dev", "test"] * 3)
    ]
    own = around(centres(1.5))
    world = World(tmp_path, utterances).extract(
        {"0": lambda labels, generator: own([labels[-1], *labels[:-1]], generator)}
    )
    found = {
        context: by_layer(world.run(f"c{context}", context=context), "test")["0"].value
        for context in (0, 1)
    }
    assert found[0] < 0.35 and found[1] > 0.85


@pytest.mark.parametrize("context", mostly_nightly([0, 2], [0]))
def test_memory_changes_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, context: int
) -> None:
    world = World(tmp_path, splits(7, 5, 5)).extract(
        {"0": around(centres(0.1, 200)), "1": around(1e-6 * centres(1, 200))}
    )
    settings = {
        "context": context,
        "controls": ["shuffled", "types"],
        "max_frames": 500,
        "l2": [1e-1, 1.0],
    }
    monkeypatch.setattr(row_reader, "LEAST_READ_BYTES", 0)
    n_rows: list[int] = []
    read = FeatureStore.read
    monkeypatch.setattr(
        FeatureStore,
        "read",
        lambda *a: n_rows.append(sum(item.n_rows for item in a[2])) or read(*a),
    )
    whole = world.run("whole", **settings)
    n_whole, most_whole = len(n_rows), max(n_rows)
    n_rows.clear()
    small = world.run("small", {"memory_bytes": 2 * LOGITS_BYTES}, **settings)
    assert values(whole) == values(small)
    assert len(n_rows) > 10 * n_whole and most_whole > 60
    assert (
        sum(n >= 60 for n in n_rows) <= 2 * 7
    )  # whole training utterances, once a layer, for its statistics


@pytest.mark.parametrize("context", [0, 1, 3])
@pytest.mark.parametrize("memory_bytes", [1, 700, 5000, 1 << 30])
@pytest.mark.parametrize("hold", [True, False])
def test_rows_are_those_of_the_store_however_they_are_read(
    tmp_path: Path, context: int, memory_bytes: int, hold: bool
) -> None:
    world = World(tmp_path, splits(5, 1, 1, n_segments=4)).extract(
        {"0": around(centres(1))}, dtype="float32"
    )
    corpus = load_corpus(world.manifest)
    features = Features(
        {"clean": select_store(tmp_path / "features", "planted", "frames")}, "frames", corpus
    )
    utterances = [corpus.utterances[i] for i in in_store_order(features, corpus.utterances)]
    generator = np.random.default_rng(0)
    n_frames = [features.of(item).n_rows for item in utterances]
    wanted = [np.flatnonzero(generator.random(n) < 0.4) for n in n_frames]
    wanted[2] = wanted[2][:0]
    wanted[3] = np.sort(
        generator.integers(n_frames[3], size=n_frames[3])
    )  # some frames several times, as many rows as frames
    wanted[4] = np.repeat(np.arange(n_frames[4]), 2)
    expected = np.concatenate(
        [
            stack_context(features.read("0", [item]).values, context)[frames]
            for item, frames in zip(utterances, wanted, strict=True)
        ]
    )
    chosen = [Chosen(item, frames) for item, frames in zip(utterances, wanted, strict=True)]
    rows = StoredRows(features, "0", chosen, context, memory_bytes, hold)
    for _ in range(2):
        found = np.concatenate(list(rows.blocks()))
        assert found.shape == rows.shape
        assert np.array_equal(found, expected)
    assert (rows._held is not None) == (hold and expected.nbytes <= memory_bytes)


def _said(world: World, one: Chosen) -> list[str]:
    """The label of each frame of an utterance."""
    return [
        label
        for label, n in world.utterances[int(one.utterance.key.removesuffix(".wav"))][1]
        for _ in range(n)
    ]


def test_utterances_are_read_where_they_lie_and_in_long_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, splits(9, 3, 3, n_segments=4)).extract({"0": around(centres(1))})
    corpus = load_corpus(world.manifest)
    features = Features(
        {"clean": select_store(tmp_path / "features", "planted", "frames")}, "frames", corpus
    )
    places = [
        features.of(corpus.utterances[i]).pieces[0]
        for i in in_store_order(features, corpus.utterances)
    ]
    assert places == sorted(places) and places[0] != features.of(corpus.utterances[0]).pieces[0]
    for item in of_world(world)[0].values():
        stored = [features.of(one.utterance).pieces for one in item.chosen]
        assert stored == sorted(stored)
        assert [item.labels[segment] for segment in item.segments] == [
            label for one in item.chosen for label in _said(world, one)
        ]
    n_reads = []
    read = FeatureStore.read
    monkeypatch.setattr(FeatureStore, "read", lambda *a: n_reads.append(len(a[2])) or read(*a))
    utterances = [corpus.utterances[i] for i in in_store_order(features, corpus.utterances)]
    chosen = [Chosen(item, np.arange(features.of(item).n_rows)) for item in utterances]
    list(StoredRows(features, "0", chosen, 0, 1 << 30, False).blocks())
    assert n_reads == [15]
    monkeypatch.setattr(row_reader, "READ_BYTES", 4 * 12 * 100)  # 100 frames and their rows
    n_reads.clear()
    list(StoredRows(features, "0", chosen, 0, 1 << 30, False).blocks())
    assert 3 < len(n_reads) < 10


def test_judging_does_not_depend_on_where_blocks_end() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=9000)
    rows = (centres(1, 40, 3)[labels] + generator.standard_normal((9000, 40))).astype(np.float32)
    probes = fit_strengths(rows[:500], labels[:500], [1e-3, 1e-1])
    unknown = np.where(np.arange(9000) % 7 == 0, 5, labels)
    expected = judged(probes, [rows], unknown)
    for size in (999, 4096, 5000):
        blocks = [rows[:1], rows[1:1], *(rows[i : i + size] for i in range(1, 9000, size))]
        for (hits, scores), (hits_2, scores_2) in zip(
            expected, judged(probes, blocks, unknown), strict=True
        ):
            assert np.array_equal(hits, hits_2) and np.array_equal(scores, scores_2, equal_nan=True)
    hits, scores = expected[0]
    assert np.array_equal(hits, (probes[0].predict(rows) == unknown)) and not hits[::7].any()
    assert np.isnan(scores[::7]).all() and np.isfinite(scores).sum() == (unknown < 3).sum()
    assert [len(block) for block in cut([rows[:10], rows[10:25]], 10)] == [10, 10, 5]


@pytest.mark.parametrize(
    ("n_frames", "samples", "hop", "expected"),
    [
        ([1, 49, 50], [400, 16_000, 16_100], 320, 200),  # wav2vec2: frame 0 hears samples 0 to 400
        ([1, 98], [400, 16_000], 160, 200),  # 25 ms windows every 10 ms
        (
            [49, 49],
            [48 * 320 + 380, 49 * 320 + 379],
            320,
            190,
        ),  # a field of 380: its lengths allow no other
        ([49, 49], [48 * 320 + 320, 49 * 320 + 319], 320, 160),  # padded: as many frames as hops
        ([49, 10], [16_000, 16_000], 320, 200),  # no field explains both
    ],
)
def test_a_frame_s_time_follows_from_the_lengths_in_the_store(
    n_frames: list[int], samples: list[int], hop: int, expected: int
) -> None:
    class Item:
        def __init__(self, n: int, length: int) -> None:
            self.n_frames, self.duration_s = n, length / RATE_HZ

    class Fake:
        stored = {  # noqa: RUF012
            ("clean", str(i)): Item(n, length)
            for i, (n, length) in enumerate(zip(n_frames, samples, strict=True))
        }

        layers = ("0",)
        store = SimpleNamespace(
            recipe={"model": {"rate_hz": RATE_HZ, "hop_samples": hop}}, field_s=lambda _layer: None
        )
        stores = {"clean": SimpleNamespace(stretch=1), "slow": SimpleNamespace(stretch=2)}  # noqa: RUF012

    Fake.stored["slow", "0"] = Item(99, 16_000)  # says nothing: its frames are of a longer sound
    assert first_centre_s(Fake()) * RATE_HZ == expected  # type: ignore[arg-type]


def test_a_frame_has_the_label_at_its_time(tmp_path: Path) -> None:
    world = World(tmp_path, splits(2, 2, 2)).extract({"0": around(centres(1))})
    world.labels.write_text(
        "path,start,end,label\n"
        + "".join(
            f"{i}.wav,0,0.055,a\n{i}.wav,0.055,0.0749,b\n{i}.wav,0.0749,0.1,\n{i}.wav,0.2,0.2151,b\n"
            for i in range(6)
        )
    )
    sets, (question,) = of_world(world)
    item = sets["train"]
    # frames at 0.015, 0.035, 0.055 (a start belongs to its interval), 0.075 (in the ignored one),
    # ... 0.215
    assert [[item.labels[s] for s in item.segments[item.owners == i]] for i in (0, 1)] == [
        ["a", "a", "b", "b"]
    ] * 2
    assert [list(one.frames) for one in item.chosen] == [[0, 1, 2, 10]] * 2
    assert list(question.targets["train"]) == [0, 0, 1, 1] * 2


def test_every_other_frame_lies_twice_as_far_apart(tmp_path: Path) -> None:
    world = World(tmp_path, [(split, [("a", 6), ("b", 4)]) for split in ("train", "dev", "test")])
    every_other = [np.ones((5, 2)) for _ in world.utterances]
    extracted(tmp_path / "features", {"0": every_other}, world.manifest, stride=2, view="frames:2")
    sets, (question,) = of_world(world)
    assert list(question.targets["train"]) == [0] * 6 + [1] * 4
    # centres at 12.5, 52.5, 92.5, 132.5 and 172.5 ms; frames of the grid at 15, 35, 55 ... 195 ms
    assert list(sets["train"].chosen[0].frames) == [0, 1, 1, 2, 2, 3, 3, 4, 4, 4]


@pytest.mark.parametrize(
    ("hop_ms", "field_ms", "n_frames", "expected"),
    [
        (
            10,
            25,
            18,
            [0, 2, 4, 6, 8, 10, 12, 14, 16, 17],
        ),  # spectral: 12.5, 32.5 ...; the last stands at 182.5 ms
        (20, 25, 9, [0, 1, 2, 3, 4, 5, 6, 7, 8, 8]),  # wav2vec2: 12.5, 32.5 ...
        (20, 0, 10, [1, 2, 3, 4, 5, 6, 7, 8, 9, 9]),  # Whisper: 0, 20, 40 ...
        (20, 30, 9, [0, 1, 2, 3, 4, 5, 6, 7, 8, 8]),  # on the grid itself
        (
            20,
            10,
            9,
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 8],
        ),  # 5, 25 ...: halfway, where the earlier one is taken
        (40, 45, 5, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]),  # SEW's blocks: 22.5, 62.5 ...
    ],
)
def test_models_of_any_hop_and_field_answer_for_the_same_frames(
    tmp_path: Path, hop_ms: int, field_ms: int, n_frames: int, expected: list[int]
) -> None:
    world = World(tmp_path, [(split, [("a", 6), ("b", 4)]) for split in ("train", "dev", "test")])
    model = {
        "id": "planted",
        "revision": "1",
        "weights_sha256": "",
        "family": "test",
        "aliases": {},
        "rate_hz": RATE_HZ,
    }
    model |= {"hop_samples": 16 * hop_ms, "field_samples": 16 * field_ms}
    extracted(
        tmp_path / "features",
        {"0": [np.ones((n_frames, 2)) for _ in world.utterances]},
        world.manifest,
        model=model,
    )
    sets, (question,) = of_world(world)
    for name, item in sets.items():
        assert list(question.targets[name]) == [0] * 6 + [1] * 4
        assert list(item.chosen[0].frames) == expected


def test_a_condition_that_changes_the_speed_moves_the_frames_and_not_their_number(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, [(split, [("a", 6), ("b", 4)]) for split in ("train", "dev", "test")])
    corpus, task = load_corpus(world.manifest), open_task(world.task())
    (tmp_path / "clean").mkdir()
    extracted(
        tmp_path / "clean", {"0": [np.ones((10, 2)) for _ in world.utterances]}, world.manifest
    )
    clean = select_store(tmp_path / "clean", "planted", "frames")
    features = Features({"clean": clean}, "frames", corpus)
    slow = SimpleNamespace(stretch=2.0)
    features.stores["slow"] = slow  # type: ignore[assignment]
    for key, stored in features.keyed.items():
        long = stored._replace(pieces=(("x", 0, 19),))
        features.stored["slow", key] = long
    tests = {
        name: [under(item, name) for item in corpus.utterances if item.split == "test"]
        for name in ("clean", "slow")
    }
    rows = {
        split: [item for item in corpus.utterances if item.split == split]
        for split in ("train", "dev")
    }
    problem = Problem(
        rows["train"],
        rows["dev"],
        tests,
        intervals=intervals_of(task, corpus, features, world.labels),
    )
    sets = labelled_sets(task, problem, features, Counter())
    assert list(sets["test clean"].chosen[0].frames) == list(range(10))
    # 30, 70, 110 ms ... of the longer audio; centres at 12.5 + 20 i ms
    assert list(sets["test slow"].chosen[0].frames) == [1, 3, 5, 7, 9, 11, 13, 15, 17, 18]
    assert list(sets["test slow"].segments) == list(sets["test clean"].segments)


def test_models_of_different_frame_rates_are_compared_and_the_better_one_is_best(
    tones: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = tones(words=2, speakers=6, repetitions=3)
    lines = ["path,start,end,label"]
    for row in (line.split(",") for line in manifest.read_text().splitlines()[1:]):
        lines += [f"{row[0]},0,0.143,{row[1]}", f"{row[0]},0.143,0.29,{row[2]}"]
    labels = tmp_path / "halves.csv"
    labels.write_text("\n".join(lines) + "\n")
    write_checkpoint("wav2vec2 post-LN", tmp_path / "small")
    small = str(tmp_path / "small")
    (tmp_path / "own.toml").write_text('kind = "frames"\nl2 = [1e-2]\nweighted = false\n')
    for model in ("fbank", small):
        extract(
            model,
            manifest,
            tmp_path / "features",
            storing=Storing(layers="0,2" if model == small else None),
            running=Running(check=False),
        )
        run(
            tmp_path / "own.toml",
            model,
            manifest,
            tmp_path / "features",
            tmp_path / "results",
            labels=labels,
        )
    records = read_records(tmp_path / "results")
    for split, of_split in records.groupby("split"):
        assert (
            len({json.dumps([item["block"], item["denominator"]]) for item in of_split["counts"]})
            == 1
        ), split
        assert set(of_split["n"]) == {12 * 14}
    assert records["n_train"].nunique() == 1
    majority = records[(records["control"] == "majority") & (records["split"] == "test")]
    assert majority["value"].nunique() == 1

    rows = summary_rows(records)
    best = rows.loc[rows["value"].idxmax(), "model"]
    assert dict(zip(rows["model"], rows["mark"], strict=True))[best] == "best"
    assert not rows["note"].str.contains("other utterances").any()
    (answer,) = answers(rows)
    assert best in answer["set"] and answer["lead"][1].startswith(best)
    (row,) = compare_models(
        Scores.of(records), "fbank", str(rows["model"][rows["model"] != "fbank"].iloc[0]), False
    ).rows.to_dict("records")
    assert row["verdict"] in ("better", "worse", "not significantly different") and row["p"] >= 0


SPLITS_OF_ONE = ["train", "dev", "test"]


def test_what_is_left_out_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    utterances = [
        (split, [("a", 5), ("sil", 3), ("b", 5), ("", 2)]) for split in ["train", "dev", "test"] * 2
    ]
    utterances[5] = ("test", [("a", 5), ("c", 4)])
    world = World(tmp_path, utterances).extract(
        {"0": lambda labels, generator: generator.standard_normal((len(labels), 3))}
    )
    rows = [row for row in world.labels.read_text().splitlines() if not row.startswith("3.wav")]
    world.labels.write_text(
        "\n".join(row for row in rows if not row.startswith("4.wav,0.0000")) + "\n"
    )
    done = world.run(ignore=["", "sil"], max_frames=7)
    assert done.records[0].excluded == {
        "no intervals": 1,
        "frames in no interval": 5,
        "frames with an ignored label": 4 * 5,
        "frames beyond max_frames": 3,
    }
    test = by_layer(done, "test")["0"]
    assert (test.n, test.n_train) == (19, 7)
    assert test.note == "4 frames with labels that training does not have: 'c'"
    assert by_layer(done, "test", "majority")[NO_LAYER].note.endswith(test.note)
    assert "no intervals for 1 utterances, they are left out: 3.wav" in caplog.text


@pytest.mark.parametrize("silence", ["SIL", "<sil>", "<SIL>", "Sil"])
def test_silence_is_left_out_however_it_is_written(tmp_path: Path, silence: str) -> None:
    utterances = [(split, [("a", 5), (silence, 3), ("b", 5)]) for split in SPLITS_OF_ONE]
    world = World(tmp_path, utterances).extract(
        {"0": lambda labels, generator: generator.standard_normal((len(labels), 3))}
    )
    record = world.run(ignore=["", "sil"]).records[0]
    assert record.excluded == {"frames with an ignored label": 3 * 3} and record.n == 10


def test_labels_over_time_in_two_spellings_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    utterances = [(split, [("a", 5), ("A", 3), ("b", 5), ("", 2)]) for split in SPLITS_OF_ONE]
    world = World(tmp_path, utterances).extract(
        {"0": lambda labels, generator: generator.standard_normal((len(labels), 3))}
    )
    world.run()
    (text,) = [line for line in caplog.messages if "Unicode form" in line]
    assert "'a' (3) and 'A' (3) differ only by case" in text


def test_drawn_training_frames_are_the_same_every_time_and_others_with_another_seed(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, splits(6, 3, 3)).extract({"0": around(centres(0.5))})
    first, again = (world.run(name, max_frames=100) for name in "ab")
    other = world.run("c", {"seed": 1}, max_frames=100)
    assert values(first) == values(again)
    assert first.records[-1].n_train == other.records[-1].n_train == 100
    assert by_layer(first, "dev")["0"].search != by_layer(other, "dev")["0"].search


def test_a_split_without_labels_and_a_single_label_are_refused(tmp_path: Path) -> None:
    world = World(tmp_path, splits(2, 2, 2)).extract({"0": around(centres(1))})
    everything = world.labels.read_text().splitlines()

    def refused(keep: Callable[[list[str]], bool], message: str, **settings: Any) -> None:
        world.labels.write_text(
            "\n".join([everything[0], *(row for row in everything[1:] if keep(row.split(",")))])
            + "\n"
        )
        with pytest.raises(ProbeError, match=message):
            world.run(**settings)

    refused(lambda row: row[0] not in ("0.wav", "1.wav"), "own: no train rows with labelled frames")
    refused(lambda row: row[0] not in ("2.wav", "3.wav"), "own: no dev rows with labelled frames")
    no_test = (
        "own: no test rows with labelled frames: none of the 2 test rows has any. Give it to some "
        "of them"
    )
    refused(lambda row: row[0] not in ("4.wav", "5.wav"), no_test)
    refused(
        lambda row: row[3] == "a",
        "own: all training frames have the label 'a'; expected two labels or more",
    )
    refused(
        lambda row: True,
        "phones.csv line 1: column sentence missing; found path, start, end, label, word; expected "
        "path,start,end,label,sentence and any others. The task asks for types = 'sentence'",
        types="sentence",
    )


def test_the_labels_come_from_the_task_or_the_command_line(tmp_path: Path) -> None:
    world = World(tmp_path, splits(2, 2, 2)).extract({"0": around(centres(1))})
    named = world.run("named", {"labels": None}, labels="phones.csv")
    given = world.run("given")
    assert [r.counts for r in named.records] == [r.counts for r in given.records]
    with pytest.raises(
        UsageError,
        match=r"own: needs --labels, a CSV file with the columns path,start,end,label, a CTM or "
        r"RTTM file, or a folder of",
    ):
        world.run("none", {"labels": None})
    with pytest.raises(UsageError, match=r"phone-frames: needs --labels"):
        bench(["mfcc"], ["phone-frames"], world.manifest, tmp_path / "out")
    with pytest.raises(ProbeError, match=r"nowhere.csv: does not exist; expected a CSV file"):
        world.run("none", {"labels": tmp_path / "nowhere.csv"})


def test_a_limit_is_no_reason_for_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path, splits(4, 4, 4)).extract({"0": around(centres(1))})
    with caplog.at_level(logging.WARNING):
        world.run("limited", {"limit": 2}, l2=[1e-2])
    assert "phones" not in caplog.text


def test_the_command_line_runs_the_ready_task(tmp_path: Path) -> None:
    world = World(tmp_path, splits(3, 3, 3)).extract(
        {"0": around(centres(1)), "1": around(centres(2))}
    )
    arguments = [
        "run",
        "phone-frames",
        "--model",
        "planted",
        "--corpus",
        world.manifest,
        "--labels",
        world.labels,
    ]
    arguments += ["--from", tmp_path / "features", "--to", tmp_path / "results", "--device", "cpu"]
    done = CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "phone-frames" in done.output
    (path,) = (tmp_path / "results").glob("*.jsonl")
    assert {(r.kind, r.control) for r in iterate_records(path)} == {
        ("frames", ""),
        ("frames", "majority"),
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"controls": ["random"]}, "found 'random'; expected 'majority', 'shuffled' or 'types'"),
        ({"context": -1}, "context: found -1; expected 0 or more"),
        ({"max_frames": -1}, "max_frames: found -1; expected 0 or more"),
        ({"grid_ms": 0}, r"own.toml: grid_ms: found 0; expected 1\.0 or more"),
        ({"tiers": "phones"}, r"unknown key 'tiers'. Did you mean 'tier'\?"),
        ({"ignore": [3]}, r"ignore\[0\]: found 3; expected text"),
    ],
)
def test_faulty_settings_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    world = World(tmp_path, splits(1, 1, 1))
    with pytest.raises(ProbeError, match=message):
        open_task(world.task(**settings))


def test_a_part_of_an_utterance_in_several_shards_is_cut_from_the_right_ones() -> None:
    whole = Stored("a", "", 0, 0, 1.0, 12, pieces=(("x", 3, 8), ("y", 0, 4), ("z", 7, 10)))
    rows = [(shard, row) for shard, first, stop in whole.pieces for row in range(first, stop)]
    for first in range(12):
        for stop in range(first + 1, 13):
            part = row_reader.part_of(whole, first, stop)
            assert all(start < end for _, start, end in part.pieces)
            assert [
                (shard, row) for shard, start, end in part.pieces for row in range(start, end)
            ] == rows[first:stop]


def test_bench_extracts_frames_and_asks_which_sound_they_are(
    tones: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = tones(words=2, speakers=2, repetitions=4)
    rows = [line.split(",") for line in manifest.read_text().splitlines()[1:]]
    labels = tmp_path / "sounds.csv"
    labels.write_text(
        "path,start,end,label\n" + "".join(f"{row[0]},0,0.3,{row[1]}\n" for row in rows)
    )
    done = bench(["mfcc"], ["phone-frames"], manifest, tmp_path / "out", scope=Scope(labels=labels))
    assert not done.refused
    (path,) = (tmp_path / "out" / "results").glob("*.jsonl")
    (record,) = [r for r in iterate_records(path) if (r.split, r.control) == ("test", "")]
    assert record.value > 0.95
    assert record.n == 4 * 15, "every 20 ms of 0.3 s"
    features = Features(
        {"clean": select_store(tmp_path / "out" / "features", "mfcc", "frames")},
        "frames",
        load_corpus(manifest),
    )
    assert first_centre_s(features) == 0.0125


def test_frames_are_projected_where_they_are_read(tmp_path: Path) -> None:
    world = World(tmp_path, splits()).extract({"0": around(centres(1.2))})
    whole, narrow = (
        by_layer(world.run(), "test")["0"],
        by_layer(world.run("narrow", project=1), "test")["0"],
    )
    assert narrow.statistics["projected_variance"] < 1
    assert whole.value - 0.1 > narrow.value > 0.3


def test_fewer_utterances_of_labelled_frames_read_less(tmp_path: Path) -> None:
    world = World(tmp_path, splits()).extract({"0": around(centres(0.3, 40))})
    done = world.run(budgets=["2", "12s", "10h"])
    found = {
        item.budget: item for item in done.records if (item.split, item.control) == ("test", "")
    }
    assert list(found) == ["", "2", "12s"]
    of_two = sorted(
        sum(n for _, n in segments) for split, segments in world.utterances if split == "train"
    )
    assert sum(of_two[:2]) <= found["2"].n_train <= sum(of_two[-2:])
    assert found["2"].n_train < found["12s"].n_train < found[""].n_train
    assert found["2"].value < found[""].value
    assert found["2"].n == found[""].n


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    world = World(tmp_path, splits(4, 2, 2))
    spoiled = iter([float("nan")] + [0.0] * 7)

    def draw(labels: list[str], generator: np.random.Generator) -> np.ndarray:
        rows = around(centres(0.6))(labels, generator)
        rows[2, 3] += next(spoiled)
        return rows

    world.extract({"0": draw}, dtype="float32")
    with pytest.raises(
        ProbeError,
        match=r"layer 0: 1 utterances have values that are not finite \(0.wav\).*probe verify",
    ):
        world.run()


def test_a_learned_sum_of_layers_reads_frames_better_than_any_of_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    means = centres(0.45)
    world = World(tmp_path, splits()).extract(
        {"0": around(0 * means), "1": around(means), "2": around(means)}
    )
    done = world.run(l2=[1e-2, 1e-1], context=1, weighted=True)
    test = by_layer(done, "test")
    assert test["weighted"].value > max(test["1"].value, test["2"].value)
    shares = test["weighted"].layer_weights
    assert [shares[layer] for layer in "012"] == pytest.approx([0, 0.5, 0.5], abs=0.1)
    assert test["weighted"].n == test["1"].n and not test["1"].layer_weights
    alone = by_layer(world.run("alone", l2=[1e-2, 1e-1], context=1), "test")
    assert "weighted" not in alone and alone["1"].value == test["1"].value
    world.run("small", {"memory_bytes": 1 << 16}, l2=[1e-1], max_frames=300, weighted=True)
    assert ": all layers take" in caplog.text


def test_layers_of_another_width_are_left_out_of_the_sum_and_the_note_names_them(
    tmp_path: Path,
) -> None:
    wide = around(centres(0.45, 8))
    world = World(tmp_path, splits(6, 3, 3)).extract(
        {"conv": wide, "0": around(centres(0.45)), "1": around(centres(0.45))}
    )
    test = by_layer(world.run(l2=[1e-1], weighted=True), "test")
    assert set(test["weighted"].layer_weights) == {"0", "1"}
    assert test["weighted"].note == "a sum of the 2 layers 6 wide; left out: conv (8 wide)"
    assert test["conv"].note == ""


def test_speech_is_found_from_speaker_turns_that_overlap(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    utterances = [
        (split, speech(generator, labels=["nonspeech", "speech"]))
        for split in ["train"] * 6 + ["dev", "test"] * 3
    ]
    world = World(tmp_path, utterances)
    world.extract({"0": around(centres(3, n=2), ["nonspeech", "speech"])})
    turns = []
    for line in world.labels.read_text().splitlines()[1:]:
        path, start, end, label, _ = line.split(",")
        middle = (float(start) + float(end)) / 2
        if label == "speech":
            for name, first, last in (
                ("a", float(start), middle + 0.01),
                ("b", middle, float(end)),
            ):
                turns.append(
                    f"SPEAKER {Path(path).stem} 1 {first} {last - first} <NA> <NA> {name} <NA> <NA>"
                )
    (tmp_path / "turns.rttm").write_text("\n".join(turns))
    done = world.run(keywords={"labels": tmp_path / "turns.rttm"}, derive="speech")
    test = by_layer(done, "test")["0"]
    assert test.value > 0.9
    frames = sum(n for split, segments in utterances for _, n in segments if split == "test")
    assert abs(test.n - frames) <= 6, "every frame has a label, to the end of the audio"
    assert by_layer(done, "test", "majority")[NO_LAYER].value < 0.7


def test_shuffled_derived_labels_do_not_depend_on_how_turns_are_cut(tmp_path: Path) -> None:
    long, short = [("x", 30), ("y", 2)], [("x", 10), ("y", 2), ("x", 10), ("z", 2), ("x", 10)]
    utterances = [(split, (long + short) * 3) for split in ["train", "dev", "test"] * 3]
    world = World(tmp_path, utterances).extract(
        {"0": lambda labels, generator: generator.standard_normal((len(labels), 3))}
    )
    rows = world.labels.read_text().splitlines()
    turns = [row for row in rows if ",x," in row or row.startswith("path")]
    world.labels.write_text("\n".join(turns) + "\n")
    sets, (real, control) = of_world(world, derive="speech", controls=["shuffled"])
    for name in ("train", "dev"):
        before, after = real.targets[name], control.targets[name]
        assert np.bincount(before).tolist() == np.bincount(after).tolist()
        segments = sets[name].segments
        assert any(len({*after[segments == i]}) > 1 for i in range(len(sets[name].labels)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"collar_ms": 100}, "collar_ms: found 100; expected no collar without derive = 'change'"),
        (
            {"derive": "speech", "controls": ["types"]},
            "derive: found 'speech'; expected no derived labels with types",
        ),
        ({"derive": "change", "types": "word"}, "expected no derived labels with types"),
        ({"derive": "vad"}, "derive: found 'vad'; expected '', 'speech' or 'change'"),
    ],
)
def test_settings_of_derived_labels_that_do_not_agree_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    world = World(tmp_path, splits(1, 1, 1))
    with pytest.raises(ProbeError, match=re.escape(message)):
        open_task(world.task(**settings))


def test_rare_changes_of_speaker_are_scored_by_the_mean_of_recalls(tmp_path: Path) -> None:
    utterances = [(split, [("a", 60), ("b", 60)]) for split in ["train"] * 6 + ["dev", "test"] * 3]
    world = World(tmp_path, utterances)
    starts = {i: 30 + 7 * i for i in range(len(utterances))}
    turns = []
    for i, start in starts.items():
        for name, first, last in (("a", 0, start), ("b", start, 120)):
            times = f"{first * HOP_S:.4f} {(last - first) * HOP_S:.4f}"
            turns.append(f"SPEAKER {i} 1 {times} <NA> <NA> {name} <NA> <NA>")
    (tmp_path / "turns.rttm").write_text("\n".join(turns))
    numbers = iter(range(len(utterances)))

    def draw(labels: list[str], generator: np.random.Generator) -> np.ndarray:
        rows = generator.standard_normal((len(labels), 4))
        start = starts[next(numbers)]
        rows[start - 3 : start + 3, 0] += 2.5
        return rows

    world.extract({"0": draw})
    settings = {"derive": "change", "metric": "uar", "class_weight": "balanced", "l2": [1e-2]}
    settings["controls"] = ["majority", "shuffled"]
    done = world.run(keywords={"labels": tmp_path / "turns.rttm"}, **settings)
    test = {(item.control, item.metric): item for item in done.records if item.split == "test"}
    assert test["", "uar"].value > 0.8
    assert test["majority", "uar"].value == 0.5 and test["majority", "accuracy"].value > 0.9
    assert {item.select_by for item in done.records} == {"uar"}
    cells = test["", "uar"].counts
    assert sum(cells["n"]) == test["", "uar"].n and cells["class"] == ["change", "same"]
    for item in done.records:
        one_draw = item.control != "shuffled"  # its value is the mean of five draws
        if one_draw and item.split == "dev" and item.metric == "uar" and item.search:
            assert item.value == pytest.approx(item.search[0]["dev_uar"])
    with pytest.raises(ProbeError, match="expected 'accuracy' without derive"):
        open_task(world.task(metric="uar"))
