"""What a kind is given and what it yields.

A kind is a function ``run(task, problem, features)`` that yields scores: for every layer and head one per split, metric and test
set. It chooses on dev and reports on test.
"""

import copy
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from probe.data.corpus import Corpus, Utterance
from probe.data.intervals import IntervalSet
from probe.data.trials import Trial
from probe.errors import ProbeError, listed
from probe.evaluation.fitting import Fit, Fitting, Rows
from probe.measures.counts import value_of
from probe.store.features import FeatureStore, LayerArray, Stored
from probe.store.views import n_rows

log = logging.getLogger("probe")


@dataclass(frozen=True)
class Problem:
    """The utterances of one training and its tests.

    Attributes:
        train, dev: utterances with features.
        tests: name -> utterances; a plain task has one test set named by the empty string, domain shift one per domain.
        dev_trials: pairs for verification.
        trials: name -> pairs; a plain task has one list named by the empty string.
        intervals: labels over time, for frames.
        seed, device: of the training.
        memory_bytes: that features of one kind of row may take at a time.
        columns: of the manifest, those that can be a label.
        strict: whether a test set that cannot be scored ends the task (otherwise it gives a score without value).
        tick: called now and then with a word on what is being done.
    """

    train: Sequence[Utterance]
    dev: Sequence[Utterance]
    tests: Mapping[str, Sequence[Utterance]]
    dev_trials: Sequence[Trial] = ()
    trials: Mapping[str, Sequence[Trial]] = field(default_factory=dict)
    intervals: IntervalSet | None = None
    seed: int = 0
    device: str = "cpu"
    memory_bytes: int = 4 << 30
    columns: Sequence[str] = ()
    strict: bool = True
    tick: Callable[[str], Any] = lambda _: None


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number on its way to a record; see `probe.records.Record` for the fields of the same name."""

    layer: str
    head: str
    split: str
    metric: str
    counts: Mapping[str, Any] | None
    n: int
    higher_is_better: bool
    select_by: str
    headline: bool = True
    chosen: Mapping[str, Any] = field(default_factory=dict)
    search: Sequence[Mapping[str, Any]] = ()
    layer_weights: Mapping[str, float] = field(default_factory=dict)
    curve: Sequence[Mapping[str, Any]] = ()
    statistics: Mapping[str, float] = field(default_factory=dict)
    control: str = ""
    budget: str = ""
    n_train: int = 0
    excluded: Mapping[str, int] = field(default_factory=dict)
    note: str = ""
    train_domain: str = ""
    test_domain: str = ""
    outcomes: Sequence[Mapping[str, Any]] = ()

    @property
    def value(self) -> float | None:
        """The fraction, None where there are no counts."""
        return None if self.counts is None else value_of(dict(self.counts), self.metric)


class Features:
    """The features of one corpus in one store, as one view, projected where `fitted_on` says so."""

    def __init__(self, store: FeatureStore, view: str, corpus: Corpus) -> None:
        """Finds every utterance's stored version.

        Raises:
            ProbeError: utterances that were never extracted.
        """
        self.store, self.view = store, view
        self.layers = list(store.layers)
        self.hop_s = store.hop_s
        self.stored: dict[str, Stored] = {}
        self.failed: list[Utterance] = []
        missing: list[str] = []
        for utterance in corpus.utterances:
            found = store.match(utterance.key, utterance.path)
            if found:
                self.stored[utterance.key] = found
            elif store.failure(utterance.key, utterance.path):
                self.failed.append(utterance)
            else:
                missing.append(utterance.key)
        if missing:
            raise ProbeError(
                f"{store.path}: {len(missing)} of {len(corpus.utterances)} utterances of {corpus.name} have no features "
                f"({listed(missing, 3)}). Run `probe extract` with this corpus again; it extracts only what is missing."
            )
        self.fitting = Fitting()
        self._drawn: list[Utterance] = []
        self._fits: dict[str, Fit] = {}

    def fitted_on(self, fitting: Fitting) -> "Features":
        """The same features with statistics and projections of these training rows."""
        other = copy.copy(self)
        other.fitting, other._fits = fitting, {}
        other._drawn = fitting.drawn(lambda item: n_rows(self.stored[item.key].n_rows, self.view))
        return other

    def usable(self, utterances: Iterable[Utterance]) -> list[Utterance]:
        """Those that have features."""
        return [item for item in utterances if item.key in self.stored]

    @property
    def ctc(self) -> Mapping[str, Any]:
        """The model's own CTC head as the recipe has it; empty where it was not run."""
        return self.store.recipe.get("ctc", {})

    def read(self, layer: str, utterances: Sequence[Utterance]) -> LayerArray:
        """One layer of these utterances, in their order."""
        array = self._stored(layer, utterances)
        if layer not in self._fits and {item.key for item in self._drawn}.issubset(array.keys):
            rows = dict(zip(array.keys, array, strict=True))  # they are here: no second reading
            self._fits[layer] = self._fit(layer, lambda group: [rows[item.key] for item in group])
        return replace(array, values=self.project(layer, array.values)) if self.fitting.width else array

    def project(self, layer: str, values: np.ndarray) -> np.ndarray:
        """(row, dim) values of a layer as heads read them: (row, width) float32, or as they are where no width is set.

        Raises:
            ProbeError: the layer cannot be projected to the width.
        """
        projection = self._fitted(layer).projection if self.fitting.width else None
        return projection.apply(values) if projection else values

    def statistics(self, layer: str) -> dict[str, float]:
        """Of a layer's training rows, see `probe.measures.geometry`; nothing of what is no layer of the store."""
        return self._fitted(layer).statistics if layer in self.layers and self._drawn else {}

    def _stored(self, layer: str, utterances: Sequence[Utterance]) -> LayerArray:
        return self.stored_rows(layer, [self.stored[item.key] for item in utterances])

    def stored_rows(self, layer: str, stored: Sequence[Stored]) -> LayerArray:
        """One layer of these versions of utterances, not projected.

        Raises:
            ProbeError: some are not finite.
        """
        array = self.store.read(layer, stored, self.view)
        if not np.isfinite(array.values.sum(dtype=np.float64)) and not np.isfinite(array.values).all():
            keys = [key for key, rows in zip(array.keys, array, strict=True) if not np.isfinite(rows).all()]
            raise ProbeError(
                f"{self.store.path}: layer {layer}: {len(keys)} utterances have values that are not finite ({listed(keys, 3)}); "
                "extraction never stores such. Run `probe verify` on the store, with --repair if it finds damage."
            )
        return array

    def _fitted(self, layer: str) -> Fit:
        if layer not in self._fits:
            self._fits[layer] = self._fit(layer, lambda group: list(self._stored(layer, group)))
        return self._fits[layer]

    def _fit(self, layer: str, rows: Rows) -> Fit:
        return self.fitting.fit(layer, self._drawn, self.store.layers[layer], lambda item: self.stored[item.key].n_rows, rows)


def described(scores: Iterable[Score], features: Features) -> Iterator[Score]:
    """The scores, each with the statistics of its layer's training rows where it has none yet."""
    for score in scores:
        yield score if score.statistics or score.train_domain else replace(score, statistics=features.statistics(score.layer))


def no_sum(task: str, widths: Mapping[str, int], n_bytes: int, memory_bytes: int) -> bool:
    """Whether a learned sum of layers cannot be trained; the log says why.

    Args:
        widths: layer -> dimensions.
        n_bytes: of all layers' rows, float32.
    """
    why = ""
    if len(widths) == 1:
        why = "the store has one layer"
    elif len(set(widths.values())) > 1:
        why = f"layers differ in width: {listed([f'{name} {width}' for name, width in widths.items()])}"
    elif n_bytes > memory_bytes:
        why = f"all layers take {n_bytes / 1e9:.1f} GB as float32, --memory is {memory_bytes / 1e9:.1f} GB"
    if why:
        log.log(logging.INFO if len(widths) == 1 else logging.WARNING, "%s: no weighted sum of layers: %s", task, why)
    return bool(why)


def block_of(utterance: Utterance) -> str:
    """What is resampled together: the speaker, or the utterance alone where no speaker is known."""
    return utterance.speaker or f"utterance {utterance.key}"


def shuffled(labels: Sequence[Any], seed: int) -> list[Any]:
    """The same labels in a random order: a control that only leaks and luck can beat."""
    return [labels[i] for i in np.random.default_rng([seed, len(labels)]).permutation(len(labels))]


def labelled(utterances: Sequence[Utterance], column: str, excluded: Counter[str]) -> list[Utterance]:
    """Utterances whose ``column`` is not empty; the rest is counted in ``excluded``."""
    kept = [item for item in utterances if item.label(column)]
    if len(kept) < len(utterances):
        excluded[f"no {column}"] += len(utterances) - len(kept)
    return kept


def refuse_empty(task: str, train: Sequence[object], dev: Sequence[object], what: str) -> None:
    """Raises where there is nothing to train or to choose on."""
    for name, rows in (("train", train), ("dev", dev)):
        if not rows:
            raise ProbeError(
                f"{task}: no {name} rows with {what}. Give some rows split {name} in the manifest; dev chooses the settings."
            )
