"""The sides of a comparison of representations: which rows of which stores are compared.

A side is the layers of one model under one condition. Its rows are those of a view, or, with labels
over time, the labelled intervals: ``interval`` is the mean of the frames of each (see
`probe.evaluation.interval_rows`), ``interval:third`` of those in its middle third, the usual rows
for phones (Pasad et al. 2021, arXiv 2107.04734).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe.data.corpus import Corpus, Utterance
from probe.data.intervals import LABEL, NO_INTERVALS, IntervalSet, LabelledInterval, load_intervals
from probe.data.time_labels.files import TIER
from probe.errors import ProbeError, UsageError, listed
from probe.evaluation.condition_plan import heard
from probe.evaluation.dataset import Features
from probe.evaluation.interval_rows import labelled_rows, with_intervals
from probe.evaluation.kind import TimeLabelSettings
from probe.evaluation.layer_depth import n_blocks
from probe.evaluation.model_stores import name_of, stores_under
from probe.measures.representations import LEAST_ROWS
from probe.model_names import ModelName
from probe.store.layer_names import choose_layers
from probe.store.views import parse_view, row_width

log = logging.getLogger("probe")

READ_BYTES = 64 << 20  # of features at a time, or less where memory is short
INTERVAL, THIRD = "interval", "interval:third"
SILENCES = ("", "sil", "sp", "spn")  # labels of nothing that is said


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """Which rows and layers are compared, and with how much memory.

    Attributes:
        split: of the manifest, or ``all``.
        view: ``frames``, a pooled view (``mean``, ``meanstd``, ``segments:n``), or with labels
            ``interval`` or ``interval:third``; where it is left out, ``interval`` with labels, else
            ``frames``.
        labels: over time, a file or a folder (see `probe.data.intervals`).
        tier: the one with the labels; ``phones`` where it is left out.
        vectors: of labels, see `probe.data.label_vectors`.
        layers: of the model, such as ``0-12,final``; of another model all are compared.
        n_sample: rows, or pairs of rows, for all measures but cosine and distance.
        in_sample: whether to take PWCCA on the rows that it is fitted to, too.
        seed: random seed for samples, parts, units and the bootstrap.
        limit: at most this many utterances of each split.
        memory_bytes: for features that are held at a time.
    """

    split: str = "test"
    view: str | None = None
    labels: Path | str | None = None
    tier: str | None = None
    vectors: Path | str | None = None
    layers: str | None = None
    n_sample: int = 20_000
    in_sample: bool = False
    seed: int = 0
    limit: int | None = None
    memory_bytes: int = 4_000_000_000

    def __post_init__(self) -> None:
        if self.of_intervals != bool(self.labels):
            given = f"--view {self.view}" if self.view else "--labels"
            raise UsageError(
                f"{given}: expected --labels together with the view {INTERVAL} or {THIRD}. Leave "
                "--view out, or give --labels."
            )
        for name in ("tier", "vectors"):
            if getattr(self, name) and not self.labels:
                raise UsageError(f"--{name}: has a meaning with --labels only. Give them too.")
        if not self.of_intervals and parse_view(self.rows)[0] == "frames" != self.rows:
            raise UsageError(
                f"--view {self.view}: expected frames (a store with a stride serves it), mean, "
                f"meanstd, segments:n, or with --labels {INTERVAL} or {THIRD}."
            )
        if self.n_sample < LEAST_ROWS:
            raise UsageError(
                f"--sample {self.n_sample}: expected {LEAST_ROWS} rows or more; CCA needs "
                "thousands."
            )

    @property
    def rows(self) -> str:
        """The view that is compared."""
        return self.view or (INTERVAL if self.labels else "frames")

    @property
    def of_intervals(self) -> bool:
        """Whether rows are labelled intervals."""
        return self.rows in (INTERVAL, THIRD)


COMPARING = Comparing()


@dataclass(frozen=True)
class Side:
    """Layers of one model under one condition."""

    model: str
    features: Features
    layers: list[str]

    @property
    def condition(self) -> str:
        """What was done to the audio."""
        return self.features.store.recipe["condition"]

    def width(self, layer: str) -> int:
        """Numbers in a row of a layer, in the view of the comparison."""
        store = self.features.store
        dim = store.layers[layer] // row_width(1, store.view)
        return row_width(dim, self.features.view)

    def described(self) -> dict[str, Any]:
        """What the file says of this side."""
        store = self.features.store
        return {
            "name": self.model,
            "spec": store.spec,
            "blocks": n_blocks(store.recipe),
            "revision": store.recipe["model"]["revision"],
            "condition": self.condition,
            "recipe": store.recipe_sha256,
            "layers": self.layers,
            "widths": list(map(self.width, self.layers)),
            "hop_s": round(self.features.hop_s, 9),
        }


class Sides:
    """Opens the sides of comparisons of one corpus."""

    def __init__(self, corpus: Corpus, folder: Path, comparing: Comparing) -> None:
        """Take a corpus and the folder of its stores.

        Raises:
            UsageError: the corpus has no such split.
        """
        self.corpus = corpus.limited(comparing.limit)
        self.folder, self.comparing = folder, comparing
        self.settings = TimeLabelSettings(tier=comparing.tier or TIER, ignore=SILENCES)
        self.intervals: IntervalSet | None = None
        self.left_out: dict[str, int] = {}
        splits = sorted({item.split for item in self.corpus.utterances})
        if comparing.split not in (*splits, "all"):
            raise UsageError(
                f"--only {comparing.split}: {corpus.name} has {', '.join(splits)}; expected one of "
                "them, or all."
            )
        self.utterances = [
            item for item in self.corpus.utterances if comparing.split in (item.split, "all")
        ]

    def side(self, model: ModelName, condition: str, wanted: str | None) -> Side:
        """The wanted layers of a model whose frames are aligned with each other.

        Raises:
            ProbeError: features are missing, or labels cannot be used.
        """
        view = "frames" if self.comparing.of_intervals else self.comparing.rows
        keys = [item.key for item in self.corpus.utterances]
        store = stores_under(self.folder, model, view, [condition], keys)[condition]
        name = name_of(model, store)
        of_model = Features({condition: store}, view, self.corpus)
        as_heard = heard(self.utterances, condition)
        of_model.require(self.corpus.name, as_heard)
        layers = set(choose_layers(wanted, list(store.layers), store.aliases, name))
        part = max(of_model.on_grids(), key=lambda part: len(layers.intersection(part.layers)))
        if apart := layers.difference(part.layers):
            log.warning(
                "%s: layers %s have other frames than the rest and are left out; select them with "
                "--layers",
                *(name, listed([layer for layer in store.layers if layer in apart])),
            )
        if self.comparing.labels:
            usable = part.usable(as_heard)
            if self.intervals is None:  # lengths are those of the audio, whatever its speed
                durations_s = {
                    item.key: part.of(item).duration_s / store.stretch for item in usable
                }
                self.intervals = load_intervals(
                    self.comparing.labels, self.corpus, durations_s, self.settings.tier
                )
            part = with_intervals(part, self._intervals_of(usable))
        return Side(name, part, [layer for layer in store.layers if layer in layers - apart])

    def rows(self) -> Sequence[Utterance]:
        """What has a row on the sides that were opened: utterances, or labelled intervals.

        Raises:
            ProbeError: all intervals are silence.
        """
        if self.intervals is None:
            return self.utterances
        rows = self._intervals_of(self.utterances)
        kept = [row for row in rows if row.label(LABEL)]
        n_without = sum(item.key not in self.intervals.spans for item in self.utterances)
        counts = {NO_INTERVALS: n_without, "silence": len(rows) - len(kept)}
        self.left_out = {reason: n for reason, n in counts.items() if n}
        if not kept:
            raise ProbeError(
                f"{self.comparing.labels}: all {len(rows)} labels of split {self.comparing.split} "
                f"are silence ({', '.join(SILENCES[1:])}, or empty); expected phones or words. "
                "Name another tier with --tier."
            )
        return kept

    def _intervals_of(self, utterances: Sequence[Utterance]) -> list[LabelledInterval]:
        assert self.intervals is not None
        third = self.comparing.rows == THIRD
        return labelled_rows(utterances, self.intervals.spans, self.settings, third)
