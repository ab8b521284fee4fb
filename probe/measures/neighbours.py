"""The label of the nearest neighbours, without training."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Strings = NDArray[np.str_]


def neighbour_labels(
    references: np.ndarray,
    labels: Strings,
    queries: np.ndarray,
    speakers: tuple[Strings, Strings],
    sizes: Sequence[int],
) -> dict[int, Strings]:
    """The most frequent label among the k nearest references of other speakers, by cosine
    distance, for each k of ``sizes``, of equally frequent ones the first in alphabetical order;
    equal to scikit-learn's `KNeighborsClassifier`.

    Args:
        references: (reference, dim) with their (reference,) labels.
        queries: (query, dim).
        speakers: of the references and of the queries; references of a query's own speaker are left
            out.

    Returns:
        k -> (query,) labels, empty where no other speaker has references; if there are fewer than k
        references, all of them count.
    """
    from sklearn.neighbors import KNeighborsClassifier  # imported in half a second

    known, asked = speakers
    found = {k: np.full(len(queries), "", object) for k in sizes}
    for speaker in np.unique(asked):
        others, own = known != speaker, asked == speaker
        if not others.any():
            continue
        for k in sizes:
            model = KNeighborsClassifier(
                min(k, int(others.sum())), metric="cosine", algorithm="brute"
            )
            found[k][own] = model.fit(references[others], labels[others]).predict(queries[own])
    return {k: np.array(values, str) for k, values in found.items()}
