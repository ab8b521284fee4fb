"""Codelength of the labels, given the features: the online code of Voita & Titov (2020, arXiv
2003.12298), in bits.

Both sides know, at no cost: the features of all rows, the list of classes, the
number of labels, and the dev rows with their labels. The labels are sent, in portions, and one
bit before each portion that a probe can predict. The bit says which of two codes the portion
uses: the probabilities of a probe that was trained on all portions before it, or the
uniform code, log2 of the number of classes for each label. The sender takes the shorter one (a
two-part code, Rissanen 1978; Gruenwald 2007, "The Minimum Description Length Principle", chapter
5), so no portion costs more than the uniform code and one bit: without it one label that a probe of
a few rows was sure against would outweigh all others. Voita & Titov send the first portion with the
uniform code, all others with the probe's, and no such bit.

A layer from which a probe learns the labels with few examples costs few bits; one that needs many
examples costs many, even if its last accuracy is as good. (The authors' notebook adds nats to
bits.)

A probe cannot give probability to a class it has not seen. The classes not seen so far share the
mass u / (n + u), where u is their number and n that of the labels before, so that every label can
be sent.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)

# (positions to train on, positions to predict) -> (classes it knows, (position, class) natural
# logarithms of their probabilities)
Learner = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Portion:
    """Labels that were sent together.

    Attributes:
        n_train: labels sent before, which the probe was trained on; 0 where no probe could be.
        bits: (label,) what each cost, with its share of the bit that names the code.
    """

    n_train: int
    bits: np.ndarray


def online_code(
    labels: Sequence[str], learn: Learner, fractions: Sequence[float] = FRACTIONS
) -> list[Portion]:
    """The portions that send ``labels`` in their order.

    A probe needs two classes; portions before there are two are sent with the uniform code, and
    without a bit that names it.

    Args:
        labels: in random order.
        learn: trains a probe.
        fractions: of all labels, ascending, where portions end; the last is 1.
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
    """(label,) bits under a probe that knows some of the classes."""
    n_unseen = len(classes) - len(known)
    is_known = np.isin(truth, known)
    # The classes not seen share u / (n + u).
    bits = np.full(len(truth), np.log2(max(1, n_before + n_unseen)))
    columns = np.searchsorted(known, truth[is_known])
    of_known = -log_probabilities[is_known.nonzero()[0], columns] / np.log(2)
    bits[is_known] = of_known + np.log2((n_before + n_unseen) / n_before)
    return bits
