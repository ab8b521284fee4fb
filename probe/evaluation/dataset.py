"""What a kind is given and what it yields.

A kind is a function ``run(task, problem, features)`` that yields scores: for every layer and head
one per split, metric and test set. It chooses on dev and reports on test.
"""

import copy
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from probe.brief import counted
from probe.data.conditions.grammar import CLEAN
from probe.data.corpus import Corpus, Utterance
from probe.data.intervals import IntervalSet
from probe.data.trials import Trial
from probe.errors import ProbeError, listed
from probe.evaluation.blocks import BY_SPEAKER, Blocks
from probe.evaluation.label_free_fits import Fit, Fitting, Rows
from probe.evaluation.progress import Progress
from probe.measures.counts import value_of
from probe.records import WEIGHTED
from probe.store.feature_store import FeatureStore, LayerArray, Stored
from probe.store.layer_names import describe_layers
from probe.store.views import n_rows, parse_view

if TYPE_CHECKING:
    from probe.evaluation.unfinished import Unfinished

log = logging.getLogger("probe")

USES = {
    "train": "heads learn from them",
    "dev": "dev chooses the settings",
    "test": "scores are of them",
}


@dataclass(frozen=True)
class Problem:
    """The utterances of one training and its tests.

    Attributes:
        train, dev: utterances with features.
        tests: name -> utterances; a plain task has one test set named by the empty string, domain
            shift one per domain, a task under several conditions one per condition.
        dev_trials: pairs for verification.
        trials: name of a test set -> its pairs.
        intervals: labels over time, for frames.
        seed, device: of the training.
        memory_bytes: that features of one kind of row may take at a time.
        columns: of the manifest, those that can be a label.
        strict: whether a test set that cannot be scored ends the task (otherwise it gives a score
            without value).
        progress: counts the work that is done.
        unfinished: keeps finished parts of the work until all of it is done; None keeps none.
        place: stands before the names of parts, where a task trains several times.
        excluded: utterances that no row is made of, by reason.
        blocks: what is resampled together.
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
    progress: Progress = field(default_factory=Progress)
    unfinished: "Unfinished | None" = None
    place: str = ""
    excluded: Mapping[str, int] = field(default_factory=dict)
    blocks: Blocks = BY_SPEAKER

    @property
    def rows(self) -> list[Utterance]:
        """All utterances, of every part."""
        return [*self.train, *self.dev, *(row for part in self.tests.values() for row in part)]

    def tallies(self, excluded: Counter[str]) -> dict[str, Counter[str]]:
        """Test set -> where what is left out of it is counted: an utterance counts once, under
        whatever conditions it is heard.
        """
        first = next((rows[0].condition for rows in self.tests.values() if rows), "")
        return {
            name: excluded if not rows or rows[0].condition == first else Counter()
            for name, rows in self.tests.items()
        }


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number on its way to a record; see `probe.records.Record` for the fields of the same
    name.

    Attributes:
        learns_other_speakers: whether the head has learned from no speaker that is scored.
        shared_speakers: the scored speakers, as records name them, that the head has learned from;
            None where that is unknown or nothing is trained. The run fills it in.
    """

    layer: str
    head: str
    split: str
    metric: str
    counts: Mapping[str, Any] | None
    n: int
    higher_is_better: bool
    select_by: str
    headline: bool = True
    learns_other_speakers: bool = False
    shared_speakers: frozenset[str] | None = None
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
    folds: Sequence[Mapping[str, Any]] = ()

    @property
    def value(self) -> float | None:
        """The fraction, None where there are no counts."""
        return None if self.counts is None else value_of(dict(self.counts), self.metric)


class Features:
    """The features of one corpus as one view, projected where `fitted_on` says so: of one store for
    each condition.

    An utterance's features are those of the condition that it is heard under
    (`probe.data.corpus.Utterance.condition`).
    """

    def __init__(self, stores: Mapping[str, FeatureStore], view: str, corpus: Corpus) -> None:
        """Finds every utterance's stored version.

        Args:
            stores: condition -> its store.

        Raises:
            ProbeError: stores of different layers.
        """
        self.stores, self.view = dict(stores), view
        self.store = next(iter(stores.values()))
        self.layers = list(self.store.layers)
        self.hop_s = self.store.hop_s(self.layers[0])
        self.condition = next(iter(stores))
        self.stored: dict[tuple[str, str], Stored] = {}
        self.failed: list[Utterance] = []
        for condition, store in stores.items():
            self._find(condition, store, corpus)
        self.fitting = Fitting()
        self._drawn: list[Utterance] = []
        self._fits: dict[str, Fit] = {}

    def _find(self, condition: str, store: FeatureStore, corpus: Corpus) -> None:
        if store.layers != self.store.layers:
            raise ProbeError(
                f"{store.path}: layers {listed(list(store.layers))}; {self.store.path} has "
                f"{listed(self.layers)}. Extract all "
                "conditions with the same --layers."
            )
        for utterance in corpus.utterances:
            place = (utterance.key, utterance.path, str(utterance.excerpt))
            if stored := store.match(*place, utterance.audio_sha256):
                self.stored[condition, utterance.key] = stored
            elif store.failure(*place):
                self.failed.append(replace(utterance, condition=condition))

    def require(self, corpus: str, utterances: Iterable[Utterance]) -> None:
        """Refuses rows, as they are heard, that were never extracted; those whose extraction failed
        are known.

        Raises:
            ProbeError: which and how many.
        """
        wanted = {(item.condition, item.key) for item in utterances}
        known = self.stored.keys() | {(item.condition, item.key) for item in self.failed}
        for condition, store in self.stores.items():
            missing = sorted(key for name, key in wanted - known if name == condition)
            if missing:
                n = sum(name == condition for name, _ in wanted)
                option = "" if condition == CLEAN else f" --condition {condition}"
                raise ProbeError(
                    f"{store.path}: {len(missing)} of {n} utterances of {corpus} have no features "
                    f"({listed(missing, 3)}). "
                    f"Run `probe extract{option}` with this corpus again; it "
                    "extracts only what is missing."
                )

    def fitted_on(self, fitting: Fitting) -> "Features":
        """The same features with statistics and projections of these training rows."""
        other = copy.copy(self)
        other.fitting, other._fits = fitting, {}
        other._drawn = fitting.drawn(lambda item: n_rows(self.of(item).n_rows, self.view))
        return other

    def on_grids(self) -> "list[Features]":
        """The same features, of those layers together whose frames stand alike, the most layers
        first.

        Where rows are no frames, all layers stand alike.
        """
        grids = self.store.recipe["model"].get("grids", {})
        alike: dict[tuple[int, ...], list[str]] = {}
        for layer in self.layers:
            alike.setdefault(
                tuple(grids.get(layer, ())) if parse_view(self.view)[0] == "frames" else (), []
            ).append(layer)
        if len(alike) == 1:
            return [self]
        return [self._of_layers(layers) for layers in sorted(alike.values(), key=len, reverse=True)]

    def _of_layers(self, layers: list[str]) -> "Features":
        other = copy.copy(self)
        other.layers, other.hop_s = layers, self.store.hop_s(layers[0])
        other.stored = {place: item.on(layers[0]) for place, item in self.stored.items()}
        return other

    def of(self, utterance: Utterance) -> Stored:
        """What is stored of an utterance, as it is heard."""
        return self.stored[utterance.condition, utterance.key]

    @property
    def keyed(self) -> dict[str, Stored]:
        """Key -> what is stored under the first condition."""
        return {
            key: stored
            for (condition, key), stored in self.stored.items()
            if condition == self.condition
        }

    def usable(self, utterances: Iterable[Utterance]) -> list[Utterance]:
        """Those that have features."""
        return [item for item in utterances if (item.condition, item.key) in self.stored]

    @property
    def ctc(self) -> Mapping[str, Any]:
        """The model's own CTC head as the recipe has it; empty where it was not run."""
        return self.store.recipe.get("ctc", {})

    def read(self, layer: str, utterances: Sequence[Utterance]) -> LayerArray:
        """One layer of these utterances, in their order."""
        array = self._stored(layer, utterances)
        if layer not in self._fits:
            rows = {
                (item.condition, item.key): rows
                for item, rows in zip(utterances, array, strict=True)
            }
            if all(
                (item.condition, item.key) in rows for item in self._drawn
            ):  # they are here: no second reading
                self._fits[layer] = self._fit(
                    layer, lambda group: [rows[item.condition, item.key] for item in group]
                )
        return (
            replace(array, values=self.project(layer, array.values))
            if self.fitting.width
            else array
        )

    def whole_rows(self, layer: str, utterances: Sequence[Utterance]) -> list[np.ndarray]:
        """The (row, dim) stored rows of each utterance, neither pooled nor projected."""
        rows: list[np.ndarray] = [np.zeros(0)] * len(utterances)
        for condition, store in self.stores.items():
            places = [i for i, item in enumerate(utterances) if item.condition == condition]
            stored = [self.of(utterances[i]) for i in places]
            for i, values in zip(places, store.read(layer, stored), strict=True):
                rows[i] = values
        return rows

    def project(self, layer: str, values: np.ndarray) -> np.ndarray:
        """(row, dim) values of a layer as heads read them: (row, width) float32, or as they are
        where no width is set.

        Raises:
            ProbeError: the layer cannot be projected to the width.
        """
        projection = self._fitted(layer).projection if self.fitting.width else None
        return projection.apply(values) if projection else values

    def statistics(self, layer: str) -> dict[str, float]:
        """Of a layer's training rows, see `probe.measures.geometry`; nothing of what is no layer of
        the store.
        """
        return self._fitted(layer).statistics if layer in self.layers and self._drawn else {}

    def _stored(self, layer: str, utterances: Sequence[Utterance]) -> LayerArray:
        """Rows as they are stored; of each condition's store in one reading."""
        places: dict[str, list[int]] = {}
        for i, item in enumerate(utterances):
            places.setdefault(item.condition, []).append(i)
        if len(places) < 2:
            return self.stored_rows(layer, [self.of(item) for item in utterances], *places)
        rows: list[np.ndarray] = [np.zeros(0)] * len(utterances)
        for condition, positions in places.items():
            for i, values in zip(
                positions,
                self.stored_rows(layer, [self.of(utterances[i]) for i in positions], condition),
                strict=True,
            ):
                rows[i] = values
        offsets = np.cumsum([0, *map(len, rows)])
        return LayerArray(np.concatenate(rows), offsets, [item.key for item in utterances])

    def stored_rows(
        self, layer: str, stored: Sequence[Stored], condition: str | None = None
    ) -> LayerArray:
        """One layer of these versions of utterances under a condition (the first where None), not
        projected.

        Raises:
            ProbeError: some are not finite.
        """
        store = self.stores[condition or self.condition]
        array = store.read(layer, stored, self.view)
        if (
            not np.isfinite(array.values.sum(dtype=np.float64))
            and not np.isfinite(array.values).all()
        ):
            keys = [
                key
                for key, rows in zip(array.keys, array, strict=True)
                if not np.isfinite(rows).all()
            ]
            raise ProbeError(
                f"{store.path}: layer {layer}: {len(keys)} utterances have values that are not "
                f"finite ({listed(keys, 3)}); "
                "extraction never stores such. Run `probe verify` on the store."
            )
        return array

    def _fitted(self, layer: str) -> Fit:
        if layer not in self._fits:
            self._fits[layer] = self._fit(layer, lambda group: list(self._stored(layer, group)))
        return self._fits[layer]

    def _fit(self, layer: str, rows: Rows) -> Fit:
        return self.fitting.fit(
            layer, self._drawn, self.store.layers[layer], lambda item: self.of(item).n_rows, rows
        )


def described(scores: Iterable[Score], features: Features) -> Iterator[Score]:
    """The scores, each with the statistics of its layer's training rows where it has none yet."""
    for score in scores:
        yield (
            score
            if score.statistics or score.train_domain
            else replace(score, statistics=features.statistics(score.layer))
        )


@dataclass(frozen=True)
class LayerSum:
    """The layers that a learned sum is trained on.

    Attributes:
        layers: in the order of the store.
        note: which layers are left out, and why; empty where all are summed.
    """

    layers: list[str]
    note: str

    def fields(self, shares: np.ndarray) -> dict[str, Any]:
        """What its scores have, from the share of each layer."""
        weights = {
            layer: round(float(share), 6) for layer, share in zip(self.layers, shares, strict=True)
        }
        return {"layer": WEIGHTED, "layer_weights": weights, "note": self.note}


def layer_sum(
    task: str, features: Features, widths: Mapping[str, int], n_rows: int, memory_bytes: int
) -> LayerSum | None:
    """The layers of one width that most layers have; None where they are no sum, and the log says
    why.

    Of widths that equally many layers have, the largest is taken.

    Args:
        features: their layers are those that can be summed; others of the store have other frames.
        widths: layer -> numbers in one of its rows, as heads read them.
        n_rows: rows of each layer that are held together, as float32.
    """
    width, n_layers = _widest(widths)
    if len(widths) == 1:
        return None
    why = _too_large(width, n_layers, n_rows, memory_bytes)
    if n_layers == 1:
        texts = listed([f"{name} {size}" for name, size in widths.items()])
        why = f"no two layers have the same width: {texts}"
    if why:
        names = describe_layers(list(widths), {})
        log.warning("%s: no weighted sum of layers %s: %s", task, names, why)
        return None
    return _sum_of(features, widths, width)


def whole_sum(
    task: str, features: Features, widths: Mapping[str, int], n_rows: int, memory_bytes: int
) -> LayerSum:
    """As `layer_sum`, for a task that has no other score: one layer is a sum of one.

    Raises:
        ProbeError: the layers do not fit into memory.
    """
    width, n_layers = _widest(widths)
    if why := _too_large(width, n_layers, n_rows, memory_bytes):
        raise ProbeError(
            f"{task}: no weighted sum of {counted(n_layers, 'layer')}: {why}. Give more --memory, "
            "or fewer layers or utterances."
        )
    return _sum_of(features, widths, width)


def summed_layers(names: Sequence[str]) -> list[str]:
    """The layers that SUPERB sums, out of those of a store; all where none has a number.

    >>> summed_layers(["conv", "0", "1", "2", "final"])
    ['0', '1', 'final']
    """
    numbered = sorted((name for name in names if name.isdecimal()), key=int)
    if not numbered:
        return list(names)
    return [*numbered[:-1], "final"] if "final" in names else numbered


def _widest(widths: Mapping[str, int]) -> tuple[int, int]:
    """The width of a sum, and how many layers have it."""
    return max(Counter(widths.values()).items(), key=lambda item: (item[1], item[0]))


def _too_large(width: int, n_layers: int, n_rows: int, memory_bytes: int) -> str:
    """Why layers cannot be held together; empty where they can."""
    n_bytes = 4 * n_rows * width * n_layers
    if n_bytes <= memory_bytes:
        return ""
    memory = f"--memory is {memory_bytes / 1e9:.1f} GB"
    return f"all layers take {n_bytes / 1e9:.1f} GB as float32, {memory}"


def _sum_of(features: Features, widths: Mapping[str, int], width: int) -> LayerSum:
    left_out = [f"{name} ({size} wide)" for name, size in widths.items() if size != width]
    left_out += [f"{name} (other frames)" for name in features.store.layers if name not in widths]
    names = [name for name, size in widths.items() if size == width]
    note = (
        f"a sum of the {len(names)} layers {width} wide; left out: {', '.join(left_out)}"
        if left_out
        else ""
    )
    return LayerSum(names, note)


def block_of(utterance: Utterance) -> str:
    """What is resampled together: the speaker, or the utterance alone where no speaker is known."""
    return BY_SPEAKER.of(utterance)


def shuffled(labels: Sequence[Any], seed: int) -> list[Any]:
    """The same labels in a random order: a control that only leaks and luck can beat."""
    return [labels[i] for i in np.random.default_rng([seed, len(labels)]).permutation(len(labels))]


def labelled(
    utterances: Sequence[Utterance], column: str, excluded: Counter[str]
) -> list[Utterance]:
    """Utterances whose ``column`` is not empty; the rest is counted in ``excluded``."""
    rows = [item for item in utterances if item.label(column)]
    if len(rows) < len(utterances):
        excluded[f"no {column}"] += len(utterances) - len(rows)
    return rows


def refuse_empty(
    task: str, what: str, splits: Mapping[str, tuple[Sequence[object], Sequence[object]]]
) -> None:
    """Refuses splits in which nothing is left to train on, to choose on or to score.

    Args:
        what: every row needs, such as the column of the label.
        splits: name -> its rows with features, and those of them that have ``what``.

    Raises:
        ProbeError: names the first such split, and says what its rows lack.
    """
    for split, (rows, kept) in splits.items():
        if not kept:
            raise ProbeError(f"{task}: {lacking(split, len(rows), what)}")


def lacking(split: str, n_rows: int, what: str) -> str:
    """A sentence that says that a split has no rows at all, or none with what a task needs, and
    what to do.
    """
    use = USES[split.split()[0]]
    if n_rows:
        return (
            f"no {split} rows with {what}: none of the {n_rows} {split} rows has any. Give it to "
            f"some of them; {use}."
        )
    return (
        f"no {split} rows. Give some rows split {split.split()[0]} in the manifest, or make a "
        f"split with --split, such as --split recording:60/20/20 (docs/splits.md); {use}."
    )
