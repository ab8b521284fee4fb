"""Kind ``cluster``: discrete units of every layer, by k-means over frames, and what they say of the
labels of the frames.

The units are fitted on the training frames that have a label, without it, and given to every frame
of dev and test. Frames are those of the grid of kind ``frames``, so every model is scored on the
same ones. Metrics (`probe.measures.units`): PNMI, which chooses the layer on dev, phone purity and
cluster purity, all as HuBERT's; higher is better. Counts are per speaker: the share of the labels'
entropy that a frame's unit removes, and hits.

With ``units_to`` the units of all frames, at the layer's own frame rate, are written as fairseq
reads them: ``<units_to>/<model>/<layer>/<split>.km`` with a line for each utterance and
``<split>.keys`` with their names.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from probe.data.corpus import Utterance
from probe.evaluation.dataset import Features, Problem, Score, block_of
from probe.evaluation.kind import Kind, Main, TimeLabelSettings
from probe.evaluation.kinds.labelled_frames import Labelled, check_labels, labelled_sets
from probe.evaluation.kinds.row_reader import StoredRows
from probe.evaluation.questions import Answers
from probe.evaluation.tasks import Task
from probe.files import file_name
from probe.measures.counts import amount_counts, ratio_counts
from probe.measures.metrics import CLUSTER_PURITY, PHONE_PURITY, PNMI
from probe.measures.units import fit_units, score_units

log = logging.getLogger("probe")

HEAD = "k-means"


class Settings(TimeLabelSettings):
    """See docs/task-keys.md."""

    n_units: int = Field(100, ge=2, le=100_000)
    max_frames: int = Field(200_000, ge=0, le=10**10)
    grid_ms: float = Field(20.0, ge=1, le=1000)
    units_to: str = ""

    @property
    def view(self) -> str:
        """Always whole frames."""
        return "frames"

    def hashed(self) -> dict[str, Any]:
        """See `probe.evaluation.kind.Settings`; where units are written decides no score."""
        return {key: value for key, value in super().hashed().items() if key != "units_to"}


def run(task: Task[Settings], problem: Problem, features: Features) -> Iterator[Score]:
    """Scores of every layer on dev and on each test set.

    Raises:
        ProbeError: no labelled frames in a split, one label only, or fewer training frames than
            units.
    """
    excluded: Counter[str] = Counter()
    sets = labelled_sets(task, problem, features, excluded)
    common = {"excluded": dict(excluded), "n_train": len(sets["train"].owners)}

    def score(_: str, layer: str, __: None) -> Iterator[Score]:
        model = fit_units(_rows(features, layer, sets["train"], problem), n_units, problem.seed)
        if task.settings.units_to:
            _write(Path(task.settings.units_to), problem, features, layer, model)
        about = {**common, "layer": layer, "chosen": {"n_units": n_units}}
        for name, item in sets.items():
            if name != "train":
                yield from _scores(about, name, item, model, features, problem)
        problem.progress.step()

    n_units = min(task.settings.n_units, len(sets["train"].owners))
    if n_units < task.settings.n_units:
        log.warning("%s: %d units, one for each training frame", task.name, n_units)
    answers = Answers([HEAD], name=str, n_steps=lambda _: 1, read=lambda _: None, score=score)
    yield from answers.scores(problem, features.layers)


def _rows(features: Features, layer: str, item: Labelled, problem: Problem) -> np.ndarray:
    """(row, dim) float32 frames."""
    rows = StoredRows(features, layer, item.chosen, 0, problem.memory_bytes, hold=False)
    blocks = [block.astype(np.float32) for block in rows.blocks()]
    return np.concatenate([np.zeros((0, rows.shape[1]), np.float32), *blocks])


def _scores(
    about: Mapping[str, Any],
    name: str,
    item: Labelled,
    model: Any,
    features: Features,
    problem: Problem,
) -> Iterator[Score]:
    """The three measures of a set of frames."""
    split, _, test = name.partition(" ")
    common = {**about, "head": HEAD, "split": split, "test_domain": test, "n": len(item.owners)}
    common |= {"select_by": PNMI.name, "higher_is_better": True}
    if not len(item.owners):
        yield Score(**common, metric=PNMI.name, counts=None, note="no labelled frames")
        return
    units = model.predict(_rows(features, str(about["layer"]), item, problem)).astype(np.int64)
    scores = score_units(units, [item.labels[i] for i in item.segments])
    speakers = [block_of(one.utterance) for one in item.chosen]
    blocks = [speakers[i] for i in item.owners]
    counts = amount_counts(blocks, scores.information)
    yield Score(**common, metric=PNMI.name, counts=counts)
    for metric, hits in ((PHONE_PURITY, scores.phone_hits), (CLUSTER_PURITY, scores.cluster_hits)):
        counts = ratio_counts(blocks, hits, np.ones(len(hits), np.int64))
        yield Score(**common, metric=metric.name, counts=counts, headline=False)


def _write(folder: Path, problem: Problem, features: Features, layer: str, model: Any) -> None:
    """Writes the units of all frames of every utterance."""
    place = folder / file_name(features.store.path.parent.name) / file_name(layer)
    place.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Sequence[Utterance]] = {"train": problem.train, "dev": problem.dev}
    parts |= {"-".join(filter(None, ["test", name])): rows for name, rows in problem.tests.items()}
    for name, rows in parts.items():
        lines = []
        for row in rows:
            frames = features.read(layer, [row]).values
            lines.append(" ".join(map(str, model.predict(frames.astype(np.float32)))))
        (place / f"{file_name(name)}.km").write_text("".join(f"{line}\n" for line in lines))
        keys = "".join(f"{row.key}\n" for row in rows)
        (place / f"{file_name(name)}.keys").write_text(keys, encoding="utf-8")


KIND = Kind(
    "cluster",
    Settings,
    run,
    check_labels,
    lambda _: Main(HEAD, PNMI.name, PNMI.name, higher_is_better=True),
    metrics=(PNMI.name, PHONE_PURITY.name, CLUSTER_PURITY.name),
    needs=frozenset({"labels"}),
    by_domain=True,
)
