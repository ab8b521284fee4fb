"""Online codes: what labels cost when a probe predicts them."""

import numpy as np
import pytest

from probe.heads.linear.codelength import FRACTIONS, online_code


def test_a_code_of_known_probabilities_costs_their_logarithms() -> None:
    labels = ["a", "b"] * 8

    def learn(known: np.ndarray, sent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert known.tolist() == list(range(len(known)))
        assert sent[0] == len(known)
        sure = np.where(np.array(labels)[sent][:, None] == np.array(["a", "b"]), 0.75, 0.25)
        return np.array(["a", "b"]), np.log(sure)

    portions = online_code(labels, learn, (0.125, 0.25, 0.5, 1.0))
    assert [(portion.n_train, len(portion.bits)) for portion in portions] == [
        (0, 2),
        (2, 2),
        (4, 4),
        (8, 8),
    ]
    assert portions[0].bits.tolist() == [1.0, 1.0]
    for portion in portions[1:]:  # each label bears its share of the bit that names the code
        np.testing.assert_allclose(portion.bits, -np.log2(0.75) + 1 / len(portion.bits))


def test_classes_that_were_not_seen_share_what_is_left() -> None:
    labels = ["a", "b", "c", "a", "d", "c"]
    portions = online_code(
        labels,
        lambda known, sent: (np.array(["a", "b"]), np.log(np.full((len(sent), 2), 0.5))),
        (0.34, 1.0),
    )
    # two labels seen, two classes not seen: a mass of 2 / 4 is theirs, the rest is the probe's
    np.testing.assert_allclose(2.0 ** -(portions[1].bits - 1 / 4), [0.25, 0.25, 0.25, 0.25])
    assert portions[0].bits.tolist() == [2.0, 2.0]


def test_no_portion_costs_more_than_the_uniform_code_and_the_bit_that_names_it() -> None:
    labels = ["a", "b"] * 8

    def learn(known: np.ndarray, sent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sure = np.full((len(sent), 2), np.log(0.9))
        if 8 in sent:  # of one portion the probe is sure of what is wrong, once
            sure[0, ["a", "b"].index(labels[sent[0]])] = -1318 * np.log(2)
        return np.array(["a", "b"]), sure

    portions = online_code(labels, learn, (0.125, 0.25, 0.5, 1.0))
    assert [portion.bits.sum() for portion in portions] == pytest.approx(
        [2, 1 + 2 * 0.152, 1 + 4 * 0.152, 8 + 1], abs=1e-3
    )


def test_a_probe_is_asked_only_once_it_can_know_two_classes() -> None:
    labels = ["a"] * 40 + ["b"] * 24
    asked: list[int] = []

    def learn(known: np.ndarray, sent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(len(known))
        return np.array(["a", "b"]), np.log(np.full((len(sent), 2), 0.5))

    portions = online_code(labels, learn)
    assert asked == []
    assert sum(portion.bits.sum() for portion in portions) == len(labels), (
        "no bit names the only code that there is"
    )
    assert sum(len(portion.bits) for portion in portions) == len(labels)


@pytest.mark.parametrize("n", [2, 7, 5000])
def test_every_label_is_sent_once_whatever_their_number(n: int) -> None:
    labels = [("a", "b")[i % 2] for i in range(n)]
    portions = online_code(
        labels, lambda known, sent: (np.array(["a", "b"]), np.log(np.full((len(sent), 2), 0.5)))
    )
    assert sum(len(portion.bits) for portion in portions) == n
    assert len(portions) <= len(FRACTIONS)
