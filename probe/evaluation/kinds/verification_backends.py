"""Scoring backends of verification: what turns an utterance's rows of one layer into what scores
are computed of.

* ``cosine``: of the vectors as they are;
* ``cosine-standardised``: of vectors standardised with training statistics: without it a few large
  dimensions decide;
* ``lda``: cosine after linear discriminant analysis (`probe.heads.speaker.lda`) of standardised
  vectors;
* ``plda``: log-likelihood ratio of the two-covariance model (`probe.heads.speaker.plda`), after LDA
  or whitening and length normalisation;
* ``am-softmax``: cosine after a linear projection that was trained with AM-softmax
  (`probe.heads.speaker.network`);
* ``xvector``: cosine of SUPERB's x-vectors, trained likewise, on frames instead of pooled vectors.

The last four are fitted on training speakers that occur in no trial. A trained head comes once for
each setting; dev picks.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.data.corpus import Utterance
from probe.evaluation.dataset import Features, Problem
from probe.evaluation.tasks import Task
from probe.heads.linear.rows import Standardizer
from probe.heads.speaker.lda import LEAST_SPEAKERS, MOST_COMPONENTS, DiscriminantProjection
from probe.heads.speaker.network import Embed, LinearEmbedding, Training, XVector, train
from probe.heads.speaker.plda import TwoCovariance, Whitening

TRAINED_BACKENDS = ("am-softmax", "xvector")  # by gradient, with learning rates
ON_FRAMES = ("xvector",)
ON_SPEAKERS = {"lda": "LDA", "plda": "PLDA"} | {
    name: name for name in TRAINED_BACKENDS
}  # with their names in notes
STATISTICS_FROM = (
    500  # training utterances whose frames are standardised by; all where rows are pooled
)
MOST_COHORT = 10_000
STRETCH = 1024  # utterances that are compared with the cohort at a time

Place = tuple[str, str]
Setting = dict[str, Any]


def place_of(utterance: Utterance) -> Place:
    """What tells rows apart: one utterance may be heard under several conditions."""
    return utterance.key, utterance.condition


@dataclass(frozen=True)
class Voices:
    """Utterances as a backend sees them: the score of two is the product of their vectors plus both
    offsets.

    Attributes:
        vectors: (utterance, dim) float64.
        offsets: (utterance,) float64.
    """

    vectors: np.ndarray
    offsets: np.ndarray

    @classmethod
    def cosine(cls, rows: np.ndarray) -> "Voices":
        """Rows scaled to length 1; a zero row stays zero and scores 0 with everything."""
        wide = rows.astype(np.float64)
        return cls(
            wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-30),
            np.zeros(len(rows)),
        )

    def scores(self, enroll: Sequence[int], test: Sequence[int]) -> np.ndarray:
        """(trial,) of pairs of positions."""
        products = np.einsum("td,td->t", self.vectors[enroll], self.vectors[test])
        return products + self.offsets[enroll] + self.offsets[test]

    def against(self, cohort: "Voices", top: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each one's ``top`` highest scores with the cohort,
        (utterance,) each.
        """
        means, deviations = [], []
        for start in range(0, len(self.vectors), STRETCH):
            part = slice(start, start + STRETCH)
            scores = (
                self.vectors[part] @ cohort.vectors.T + self.offsets[part, None] + cohort.offsets
            )
            scores = (
                np.partition(scores, -top, axis=1)[:, -top:] if top < scores.shape[1] else scores
            )
            means.append(scores.mean(axis=1))
            deviations.append(scores.std(axis=1))
        return np.concatenate(means), np.maximum(np.concatenate(deviations), 1e-12)


Backend = Callable[[Sequence[Utterance]], Voices]


class LayerRows:
    """One layer's rows of utterances: (dim,) each where rows are pooled, otherwise (frame, dim)."""

    def __init__(
        self, features: Features, layer: str, utterances: Sequence[Utterance], memory_bytes: int
    ) -> None:
        """Holds the rows of ``utterances`` if they are pooled or fit into ``memory_bytes``;
        otherwise reads them when asked.
        """
        self.features, self.layer = features, layer
        self.pooled = features.view != "frames"
        width = features.fitting.width or features.store.layers[layer]
        n_bytes = 4 * width * sum(features.of(item).n_rows for item in utterances)
        held = utterances if self.pooled or n_bytes <= memory_bytes else []
        self._held = dict(zip(map(place_of, held), self._read(held), strict=True)) if held else {}

    def of(self, utterances: Sequence[Utterance]) -> list[np.ndarray]:
        """Their rows, in order."""
        return (
            [self._held[place_of(item)] for item in utterances]
            if self._held
            else self._read(utterances)
        )

    def matrix(self, utterances: Sequence[Utterance]) -> np.ndarray:
        """(row, dim) float32 of all of them."""
        rows = self.of(utterances)
        return (np.stack if self.pooled else np.concatenate)(rows).astype(np.float32)

    def _read(self, utterances: Sequence[Utterance]) -> list[np.ndarray]:
        array = self.features.read(self.layer, utterances)
        return [rows[0] for rows in array] if self.pooled else list(array)


@dataclass(frozen=True)
class Material:
    """What the backends of one layer are fitted on.

    Attributes:
        rows: of the layer.
        train: utterances that statistics are taken of.
        unseen: training utterances of speakers that occur in no trial.
        speakers: of ``unseen``, or shuffled ones.
    """

    rows: LayerRows
    train: Sequence[Utterance]
    unseen: Sequence[Utterance]
    speakers: Sequence[str]


def why_none(backend: str, material: Material) -> str:
    """Why the backend cannot be had, or nothing."""
    if backend != "cosine" and not material.train:
        return "no training rows to take statistics from"
    if backend not in ON_SPEAKERS:
        return ""
    n_speakers = len(set(material.speakers))
    if n_speakers < LEAST_SPEAKERS:
        return (
            f"{n_speakers} training speakers occur in no trial; {ON_SPEAKERS[backend]} needs "
            f"{LEAST_SPEAKERS}"
        )
    if len(material.speakers) <= n_speakers:
        return f"one utterance per training speaker; {ON_SPEAKERS[backend]} needs several"
    return ""


def fitted(
    backend: str, task: Task[Any], problem: Problem, material: Material
) -> Iterator[tuple[Setting, Backend]]:
    """The backend with every setting that dev picks from; good until the next one is asked for."""
    if backend in TRAINED_BACKENDS:
        yield from _trained(backend, task, problem, material)
    else:
        yield {}, _closed_form(backend, task, material)


def n_steps_of(backend: str, task: Task[Any], n_utterances: int) -> int:
    """How many steps a backend takes on ``n_utterances`` whose speakers it learns; 1 where it is
    fitted in one go.
    """
    if backend not in TRAINED_BACKENDS:
        return 1
    settings = task.settings
    return len(settings.learning_rates) * settings.epochs * -(-n_utterances // settings.batch_size)


def _closed_form(backend: str, task: Task[Any], material: Material) -> Backend:
    """A backend without settings to pick from."""
    matrix = material.rows.matrix
    if backend == "cosine":
        return lambda utterances: Voices.cosine(matrix(utterances))
    scaler = Standardizer.of(matrix(material.train))
    if backend == "cosine-standardised":
        return lambda utterances: Voices.cosine(scaler.apply(matrix(utterances)))
    rows = scaler.apply(matrix(material.unseen))
    if backend == "lda" or task.settings.plda_input == "lda":
        project: Callable[[np.ndarray], np.ndarray] = DiscriminantProjection.fit(
            rows, material.speakers
        ).apply
    else:
        project = Whitening.fit(
            rows, min(MOST_COMPONENTS, len(rows) - len(set(material.speakers)))
        ).apply
    if backend == "lda":
        return lambda utterances: Voices.cosine(project(scaler.apply(matrix(utterances))))
    model = TwoCovariance.fit(of_equal_length(project(rows)), material.speakers)
    return lambda utterances: Voices(
        *model.embed(of_equal_length(project(scaler.apply(matrix(utterances)))))
    )


def _trained(
    backend: str, task: Task[Any], problem: Problem, material: Material
) -> Iterator[tuple[Setting, Backend]]:
    """A trained head with every learning rate and number of epochs."""
    chosen = task.settings
    frames = backend == "xvector"
    scaler = Standardizer.of(
        material.rows.matrix(
            _some(material.train, STATISTICS_FROM, problem.seed) if frames else material.train
        )
    )
    dim = len(scaler.mean)

    def scaled(utterances: Sequence[Utterance]) -> list[np.ndarray]:
        return [scaler.apply(rows) for rows in material.rows.of(utterances)]

    def voices(embed: Embed, utterances: Sequence[Utterance]) -> Voices:
        return Voices.cosine(embed(scaled([item])[0] for item in utterances))

    training = Training(
        learning_rates=chosen.learning_rates,
        epochs=chosen.epochs,
        batch_size=chosen.batch_size,
        scale=chosen.scale,
        margin=chosen.margin,
        crop_frames=round(chosen.crop_s / material.rows.features.hop_s) if frames else 0,
    )
    for setting, embed in train(
        lambda: (XVector if frames else LinearEmbedding)(dim, chosen.embedding),
        lambda positions: scaled([material.unseen[i] for i in positions]),
        material.speakers,
        training,
        problem.seed,
        problem.device,
        problem.progress.step,
    ):
        yield setting, functools.partial(voices, embed)


def cohort_of(unseen: Sequence[Utterance], seed: int) -> list[Utterance]:
    """The utterances that scores are normalised with."""
    return _some(unseen, MOST_COHORT, seed)


def _some(utterances: Sequence[Utterance], most: int, seed: int) -> list[Utterance]:
    """All, or ``most`` drawn at random, in their order."""
    if len(utterances) <= most:
        return list(utterances)
    return [
        utterances[i]
        for i in sorted(np.random.default_rng(seed).permutation(len(utterances))[:most])
    ]


def of_equal_length(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to length sqrt(dim), as those of a standard normal distribution have
    (Garcia-Romero & Espy-Wilson 2011).
    """
    return Voices.cosine(rows).vectors * np.sqrt(rows.shape[1])
