"""What a notebook shows of a result is one short line, whatever the result holds."""

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scored import arranged, layers, record, scored
from test_run import PlantedEncoder
from tones import write_tones

import probe
from probe.brief import LONGEST, brief
from probe.data.conditions.audition import listen
from probe.data.intervals import load_intervals
from probe.data.trials import load_trials
from probe.evaluation.tasks import open_task
from probe.extraction.settings import Extracting, Running, Storing
from probe.records import frame_of
from probe.store.integrity import verify_store


def ours(value: object) -> Iterator[object]:
    """An object of this library, and those of this library that it holds."""
    if is_dataclass(value) and not isinstance(value, type):
        yield from (inner for item in fields(value) for inner in ours(getattr(value, item.name)))
    elif isinstance(value, Mapping):
        yield from (inner for item in value.values() for inner in ours(item))
    elif isinstance(value, list | tuple):
        yield from (inner for item in value[:3] for inner in ours(item))
    if type(value).__module__.startswith("probe."):
        yield value


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """What public functions return, of a corpus of 72 utterances."""
    folder = tmp_path_factory.mktemp("brief")
    manifest = write_tones(folder)
    task = folder / "quick.toml"
    task.write_text(
        'kind = "classify"\nlabel = "text"\nl2 = [1e-1]\ncontrols = []\nweighted = false\n'
    )
    bench = probe.bench(
        ["fbank"],
        [task],
        manifest,
        folder / "out",
        extracting=Extracting(running=Running(device="cpu")),
    )
    done = probe.run(
        task, "fbank", manifest, folder / "out" / "features", folder / "out" / "results"
    )
    corpus = probe.load_corpus(manifest)
    keys = [item.key for item in corpus.utterances]
    trials = folder / "trials.csv"
    trials.write_text(f"enroll,test,label\n{keys[0]},{keys[1]},1\n{keys[0]},{keys[-1]},0\n")
    intervals = folder / "labels.csv"
    intervals.write_text(f"path,start,end,label\n{keys[0]},0.0,0.1,a\n{keys[0]},0.1,0.2,b\n")
    store = bench.extractions[0].store
    counts = scored([5, 7, 6, 8, 4, 9], n=10).counts
    return [
        *(bench, done, corpus, open_task(task), verify_store(store)),
        *(
            load_trials(trials, corpus),
            load_intervals(intervals, corpus, dict.fromkeys(keys[:1], 0.3), beyond_s=0.01),
        ),
        *(probe.open_model("fbank"), PlantedEncoder().info, probe.check_model("fbank", quick=True)),
        listen(corpus, ["noise:white@10dB"], folder / "heard", n=1),
        probe.paired_difference(counts, counts, metric="accuracy"),
        *(probe.CTCProbe(), probe.LinearProbe(), probe.RidgeProbe()),
        probe.HookedModule(torch.nn.Sequential(torch.nn.Identity()), ["0"]),
        *arranged(frame_of(layers(test=[5, 7, 6], dev=[5, 7, 6])), "models"),
    ]


def test_results_and_what_they_hold_are_shown_on_one_short_line(results: list[object]) -> None:
    shown = {type(item).__name__: repr(item) for result in results for item in ours(result)}
    of_store = {"FeatureStore", "Job", "Failure", "Stored"}
    short = re.compile(rf"(?!.*0x[0-9a-f]{{6}}).{{1,{LONGEST}}}")  # one line, and no address
    assert [
        text for name, text in shown.items() if name not in of_store and not short.fullmatch(text)
    ] == []
    assert {
        "Bench",
        "Extraction",
        "Plan",
        "Run",
        "Record",
        "Corpus",
        "Utterance",
        "Verification",
    } <= shown.keys()
    assert {
        "Listening",
        "Example",
        "Certificate",
        "SpectralEncoder",
        "ModelInfo",
        "Task",
        "Paired",
    } <= shown.keys()


def test_the_line_says_what_matters_of_a_result(results: list[object]) -> None:
    shown = {type(item).__name__: repr(item) for result in results for item in ours(result)}
    assert shown["Run"].startswith("Run(1 file, ") and shown["Run"].endswith(
        " records, quick of fbank on tones)"
    )
    assert shown["Corpus"] == "Corpus(tones, 72 utterances: 48 train, 12 dev, 12 test)"
    assert shown["Bench"].startswith("Bench(1 extraction, ")
    assert shown["Extraction"].startswith("Extraction(72 of 72 extracted, 0 present before, ")
    assert shown["TrialList"] == "TrialList(trials, 2 trials, 1 of one speaker)"
    assert repr(record(low=0.4, high=0.61234)) == (
        "Record(test accuracy 0.5 [0.4, 0.6123], layer 0, linear, digits, org/a)"
    )


MOST_PARAMETERS = 8


def test_public_functions_take_few_parameters_and_each_has_a_name() -> None:
    long = []
    for name in probe.__all__:
        if inspect.isfunction(function := getattr(probe, name)):
            items = inspect.signature(function).parameters.values()
            open_ended = any(item.kind is inspect.Parameter.VAR_KEYWORD for item in items)
            if open_ended or len(items) > MOST_PARAMETERS:
                long.append(name)
    assert long == []


def test_a_table_is_a_table_in_a_notebook(results: list[object]) -> None:
    (grid, *_) = [
        item for item in results if hasattr(item, "_repr_html_") and type(item).__name__ == "Grid"
    ]
    assert "<table>" in grid._repr_html_()  # type: ignore[attr-defined]


def test_a_line_is_short_and_plain_whatever_the_facts_hold() -> None:
    @dataclass(frozen=True)
    class Odd:
        name: str

    text = brief(Odd("x"), "line\nend \x1b[31m" + "x" * 300)
    assert len(text) == LONGEST and text.isprintable() and text.endswith("...)")
    damaged = replace(record(), value="high", low=[1], counts={"block": np.arange(10**6)})  # type: ignore[arg-type]
    assert len(repr(damaged)) <= LONGEST


def test_paths_are_at_the_end_where_they_are_cut(tmp_path: Path) -> None:
    manifest = write_tones(tmp_path, words=2, speakers=1)
    done = probe.extract(
        PlantedEncoder(),
        manifest,
        tmp_path / ("x" * 120),
        storing=Storing(view="mean"),
        running=Running(check=False),
    )
    assert (
        repr(done).startswith("Extraction(12 of 12 extracted, 0 present before, /")
        and len(repr(done)) == LONGEST
    )
