"""ABX discriminability of labelled intervals, such as phones, without training.

A and X are intervals of one label, B of another one; the triple is an error if X is nearer to B
than to A, and half an error if it is as near (Schatz et al. 2013, "Evaluating speech features with
the minimal-pair ABX task"). 50 % is chance. Within speakers all three are of one speaker; across
speakers X is of another one than A and B.

Distances are those of the ZeroSpeech challenges and of fastabx: the angle between frames divided by
pi; of sequences of frames the mean along the best path of dynamic time warping.

A cell holds the triples of two labels, A and B, of one speaker of A and B. Cells count the same
whatever their number of triples, so that frequent labels do not decide the score. ZeroSpeech takes
means over speakers first and over pairs of labels then, which gives pairs that few speakers have
more weight.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

MATRIX_BYTES = 256 << 20  # of distances between frames at a time


@dataclass(frozen=True)
class Cell:
    """The error rate of the triples of two labels.

    Attributes:
        speaker: of A and B.
        label, other: of A and X, and of B.
        error: errors per triple, from 0 to 1.
    """

    speaker: str
    label: str
    other: str
    error: float


@dataclass(frozen=True)
class Tokens:
    """Intervals of one speaker.

    Attributes:
        frames: one (frame, dim) array each; one frame where intervals are pooled.
        labels: one each.
    """

    frames: Sequence[np.ndarray]
    labels: Sequence[str]

    def places(self) -> dict[str, NDArray[np.int64]]:
        """Label -> positions of its intervals."""
        labels = np.array(self.labels)
        return {str(name): np.flatnonzero(labels == name) for name in np.unique(labels)}


def within_speakers(speakers: Mapping[str, Tokens]) -> Iterator[Cell]:
    """The cells whose A, B and X are of one speaker."""
    for name, tokens in speakers.items():
        distances = token_distances(tokens.frames, tokens.frames)
        np.fill_diagonal(distances, np.inf)  # X is another interval than A
        places = tokens.places()
        for label, of_label in places.items():
            if len(of_label) < 2:
                continue
            to_a = distances[np.ix_(of_label, of_label)]
            for other, of_other in places.items():
                if other != label:
                    to_b = distances[np.ix_(of_label, of_other)]
                    # Each X has itself among the A, as an error that never counts as one.
                    n = len(of_label) * (len(of_label) - 1) * len(of_other)
                    n_own = len(of_label) * len(of_other)
                    yield Cell(name, label, other, (_errors(to_a, to_b) - n_own) / n)


def across_speakers(speakers: Mapping[str, Tokens], most_x: int, seed: int) -> Iterator[Cell]:
    """The cells whose X is of another speaker than A and B: the mean over at most ``most_x``
    speakers of X, which are drawn for each speaker.
    """
    names = sorted(speakers)
    for position, name in enumerate(names):
        others = [other for other in names if other != name]
        order = np.random.default_rng([seed, position]).permutation(len(others))[:most_x]
        rates: dict[tuple[str, str], list[float]] = {}
        tokens = speakers[name]
        places = tokens.places()
        for x_tokens in (speakers[others[i]] for i in sorted(order)):
            distances = token_distances(x_tokens.frames, tokens.frames)
            for label, of_x in x_tokens.places().items():
                if label not in places:
                    continue
                to_a = distances[np.ix_(of_x, places[label])]
                for other, of_other in places.items():
                    if other != label:
                        to_b = distances[np.ix_(of_x, of_other)]
                        rate = _errors(to_a, to_b) / (to_a.size * len(of_other))
                        rates.setdefault((label, other), []).append(rate)
        for (label, other), values in rates.items():
            yield Cell(name, label, other, float(np.mean(values)))


def _errors(to_a: Floats, to_b: Floats) -> float:
    """Errors of all triples, from the distances of each X (row) to all A and to all B."""
    ordered = np.sort(to_b, axis=1)
    total = 0.0
    for of_x, of_b in zip(to_a, ordered, strict=True):
        nearer = np.searchsorted(of_b, of_x, side="left")
        as_near = np.searchsorted(of_b, of_x, side="right") - nearer
        total += float(nearer.sum()) + float(as_near.sum()) / 2
    return total


def token_distances(x: Sequence[np.ndarray], y: Sequence[np.ndarray]) -> Floats:
    """(x, y) float32 distances between sequences of frames, see the module.

    Args:
        x, y: (frame, dim) arrays of at least one frame.
    """
    (of_x, x_lengths), (of_y, y_lengths) = _padded(x), _padded(y)
    per_token = 4 * of_x.shape[0] * of_y.shape[0] * max(1, len(y))
    step = max(1, MATRIX_BYTES // per_token)
    parts = [
        _warped(of_x[:, i : i + step], x_lengths[i : i + step], of_y, y_lengths)
        for i in range(0, len(x), step)
    ]
    return np.concatenate(parts)


def _padded(tokens: Sequence[np.ndarray]) -> tuple[Floats, NDArray[np.int64]]:
    """(frame, token, dim) frames of length 1, and (token,) how many of them each token has."""
    lengths = np.array([len(item) for item in tokens], np.int64)
    padded = np.zeros((int(lengths.max()), len(tokens), tokens[0].shape[1]), np.float32)
    for i, item in enumerate(tokens):
        frames = item.astype(np.float32)
        norms = np.linalg.norm(frames, axis=1, keepdims=True)
        padded[: len(item), i] = frames / np.where(norms > 0, norms, 1)
    return padded, lengths


def _warped(
    x: Floats, x_lengths: NDArray[np.int64], y: Floats, y_lengths: NDArray[np.int64]
) -> Floats:
    """(x, y) costs of the best paths, divided by the number of their steps.

    Among equally good steps back, the diagonal one is taken first, then the one in y, as in the
    reference implementation of ZeroSpeech.
    """
    result = np.zeros((x.shape[1], y.shape[1]), np.float32)
    before: list[tuple[Floats, Floats]] = []  # the row of x above: cost and steps for each of y
    for i in range(len(x)):
        row: list[tuple[Floats, Floats]] = []
        for j in range(len(y)):
            cost = np.arccos(np.clip(x[i] @ y[j].T, -1, 1)) / np.float32(math.pi)
            steps = np.ones_like(cost)
            if i and j:
                (up, n_up), (left, n_left), (diagonal, n_diagonal) = (
                    before[j],
                    row[-1],
                    before[j - 1],
                )
                is_left = left <= up
                best, n_best = np.where(is_left, left, up), np.where(is_left, n_left, n_up)
                is_diagonal = diagonal <= best
                cost += np.where(is_diagonal, diagonal, best)
                steps += np.where(is_diagonal, n_diagonal, n_best)
            elif i or j:
                last, n_last = row[-1] if j else before[0]
                cost, steps = cost + last, steps + n_last
            row.append((cost, steps))
            ends = (x_lengths == i + 1)[:, None] & (y_lengths == j + 1)[None]
            result[ends] = cost[ends] / steps[ends]
        before = row
    return result
