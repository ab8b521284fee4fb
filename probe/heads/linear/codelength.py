"""Codelength of the labels given the features, in bits: the online code of Voita & Titov (2020,
arXiv 2003.12298).

Both sides know the features of all rows, the list of classes, the number of labels, and the dev
rows with their labels, at no cost. The sender transmits the labels in portions, with one bit before
each portion that a probe can predict. The bit says which of two codes the portion uses: the
probabilities of a probe that was trained on all earlier portions, or the uniform code, which costs
log2 of the number of classes for each label. The sender takes the shorter one (a two-part code,
Rissanen 1978; Gruenwald 2007, "The Minimum Description Length Principle", chapter 5), so a portion
costs at most the uniform code and one bit. Without this choice, a single label that a probe of a
few rows confidently excluded would outweigh all others. Voita & Titov send the first portion with
the uniform code and all others with the probe's code, without such a bit.

A layer from which a probe learns the labels with few examples costs few bits; one that needs many
examples costs many, even if its last accuracy is as good. (The authors' notebook adds nats to
bits.)

A probe cannot give probability to a class that it has not seen. The unseen classes share the mass u
/ (n + u), where u is their number and n the number of earlier labels, so that every label can be
sent.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)

# A function that trains a probe: it takes the positions to train on and the positions to predict,
# and returns the classes that the probe knows and (position, class) natural logarithms of their
# probabilities.
Learner = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Portion:
    """Labels that the sender transmits together.

    Attributes:
        n_train: number of earlier labels, on which the probe was trained; 0 without a probe.
        bits: (label,) cost of each label, including its share of the bit that names the code.
    """

    n_train: int
    bits: np.ndarray


def online_code(
    labels: Sequence[str], learn: Learner, fractions: Sequence[float] = FRACTIONS
) -> list[Portion]:
    """Return the portions that send ``labels`` in their order.

    A probe needs two classes. Earlier portions use the uniform code, without a bit that names it.

    Args:
        labels: in random order.
        learn: trains a probe.
        fractions: ends of the portions as fractions of all labels, ascending; the last is 1.
    """
    truth = np.array(labels)
    classes = np.unique(truth)
    ends = sorted({max(1, round(fraction * len(truth))) for fraction in fractions})
    portions: list[Portion] = []
    for start, stop in itertools.pairwise([0, *ends]):
        positions = np.arange(start, stop)
        uniform = np.full(len(positions), np.log2(len(classes)))
        if len(np.unique(truth[:start])) < 2:
            portions.append(Portion(0, uniform))
            continue
        known, log_probabilities = learn(np.arange(start), positions)
        predicted = _bits(truth[positions], classes, known, log_probabilities, start)
        portions.append(Portion(start, min(predicted, uniform, key=np.sum) + 1 / len(positions)))
    return portions


def _bits(
    truth: np.ndarray,
    classes: np.ndarray,
    known: np.ndarray,
    log_probabilities: np.ndarray,
    n_before: int,
) -> np.ndarray:
    """Return (label,) bits under a probe that knows some of the classes."""
    n_unseen = len(classes) - len(known)
    is_known = np.isin(truth, known)
    # The unseen classes share u / (n + u).
    bits = np.full(len(truth), np.log2(max(1, n_before + n_unseen)))
    columns = np.searchsorted(known, truth[is_known])
    of_known = -log_probabilities[is_known.nonzero()[0], columns] / np.log(2)
    bits[is_known] = of_known + np.log2((n_before + n_unseen) / n_before)
    return bits
