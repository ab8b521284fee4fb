"""ABX errors equal fastabx, and a count of all triples."""

import itertools
import math

import numpy as np
import pytest

from probe.measures.abx import Cell, Tokens, across_speakers, token_distances, within_speakers

LABELS = {"a": 3, "b": 3, "c": 2}


@pytest.fixture
def speakers() -> dict[str, Tokens]:
    """Three speakers with eight intervals of one to five frames each."""
    generator = np.random.default_rng(7)
    made = {}
    for place, name in enumerate("pqr"):
        frames, labels = [], []
        for shift, (label, n) in enumerate(LABELS.items()):
            for _ in range(n):
                values = generator.standard_normal((int(generator.integers(1, 6)), 5))
                frames.append(values + 0.6 * shift + 0.3 * place)
                labels.append(label)
        made[name] = Tokens(frames, labels)
    return made


def published(cells: list[Cell]) -> float:
    """The mean over speakers of each pair of labels, then over pairs."""
    pairs: dict[tuple[str, str], list[float]] = {}
    for cell in cells:
        pairs.setdefault((cell.label, cell.other), []).append(cell.error)
    return float(np.mean([np.mean(values) for values in pairs.values()]))


def test_errors_equal_those_of_fastabx(speakers: dict[str, Tokens]) -> None:
    """fastabx 0.9.0: the same intervals as an item file, angular distance, any context."""
    within = list(within_speakers(speakers))
    assert published(within) == pytest.approx(0.42592593282461166, abs=1e-6)
    across = list(across_speakers(speakers, most_x=9, seed=0))
    assert published(across) == pytest.approx(0.4081790049870809, abs=1e-6)
    errors = {(cell.speaker, cell.label, cell.other): cell.error for cell in within}
    assert errors["p", "a", "b"] == pytest.approx(0.388889, abs=1e-6)
    assert errors["p", "c", "a"] == 0.5 and errors["p", "c", "b"] == 1


def naive_distance(x: np.ndarray, y: np.ndarray) -> float:
    """The recursion of dynamic time warping with its path, a pair at a time."""
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y)]
    angles = np.arccos(np.clip(unit[0] @ unit[1].T, -1, 1)) / math.pi
    paths: dict[tuple[int, int], tuple[float, int]] = {}
    for i, j in itertools.product(range(len(x)), range(len(y))):
        before = [(i - 1, j - 1), (i, j - 1), (i - 1, j)]
        costs = [paths[place] for place in before if place in paths]
        cost, n = min(costs, key=lambda item: item[0], default=(0.0, 0))
        paths[i, j] = (cost + angles[i, j], n + 1)
    cost, n = paths[len(x) - 1, len(y) - 1]
    return cost / n


def test_distances_are_those_of_dynamic_time_warping(
    speakers: dict[str, Tokens], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = speakers["p"].frames, speakers["q"].frames
    expected = [[naive_distance(one, other) for other in y] for one in x]
    whole = token_distances(x, y)
    assert whole == pytest.approx(np.array(expected), abs=1e-5)
    monkeypatch.setattr("probe.measures.abx.MATRIX_BYTES", 1)
    assert token_distances(x, y) == pytest.approx(whole, abs=1e-6)


def test_ties_are_half_an_error_and_an_interval_is_not_compared_with_itself() -> None:
    same = np.array([[1.0, 0.0]])
    tokens = {"p": Tokens([same, same, same], ["a", "a", "b"])}
    (cell,) = within_speakers(tokens)  # b has one interval: no X
    assert (cell.label, cell.other, cell.error) == ("a", "b", 0.5)
    apart = {"p": Tokens([same, same, np.array([[0.0, 1.0]])], ["a", "a", "b"])}
    assert [cell.error for cell in within_speakers(apart)] == [0]


def test_speakers_of_x_are_drawn_by_the_seed(speakers: dict[str, Tokens]) -> None:
    drawn = [list(across_speakers(speakers, most_x=1, seed=seed)) for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1] and any(drawn[0] != other for other in drawn[2:])
