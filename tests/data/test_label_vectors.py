"""Vectors of labels: both forms of files, and every way in which they can be wrong."""

from pathlib import Path

import numpy as np
import pytest

from probe.data.label_vectors import load_vectors
from probe.errors import ProbeError


def test_an_array_with_its_labels_and_a_text_give_the_same_vectors(tmp_path: Path) -> None:
    values = np.array([[1.0, 2.5], [0.0, -1.0], [3.0, 4.0]])
    np.save(tmp_path / "agwe.npy", values)
    (tmp_path / "agwe.txt").write_text("cat\ndog\nowl\n")
    (tmp_path / "glove.vec").write_text("3 2\ncat 1 2.5\ndog 0 -1\nat home 9 9\nowl 3 4\n")
    array, text = (
        load_vectors(tmp_path / name, {"cat", "owl", "yak"}) for name in ("agwe.npy", "glove.vec")
    )
    assert (array.name, text.name) == ("agwe", "glove")
    for found in (array, text):
        assert {label: list(vector) for label, vector in found.of_labels.items()} == {
            "cat": [1, 2.5],
            "owl": [3, 4],
        }
    (tmp_path / "agwe.txt").write_text("dog\ncat\nowl\n")
    assert load_vectors(tmp_path / "agwe.npy", {"cat"}).sha256 != array.sha256


def test_a_label_with_spaces_is_one_label(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("at 1 2\nat home 3 4\n")
    assert load_vectors(tmp_path / "a.txt", {"at"}).of_labels["at"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat 1 2\ncat 1 2\n", r"a\.txt line 2: the label 'cat' comes a second time"),
        ("cat 1 2\nowl 1\n", r"a\.txt line 2: 1 numbers; the lines before have 2"),
        ("cat 1 x\n", r"a\.txt line 1: could not convert .*expected `label number"),
        ("cat 1 nan\n", r"a\.txt line 1: expected one finite number or more"),
        ("cat\n", r"a\.txt line 1: expected one finite number or more"),
        (
            "CAT 1 2\n",
            r"none of the 2 labels|no vector for any of the 2 labels .*It has CAT: write",
        ),
        ("", r"no vector for any of the 2 labels \(cat, owl\); its labels are none"),
    ],
)
def test_a_damaged_text_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(ProbeError, match=message):
        load_vectors(tmp_path / "a.txt", {"cat", "owl"})


def test_arrays_that_do_not_belong_to_their_lists_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with pytest.raises(ProbeError, match=r"a\.npy: does not exist; expected NAME\.npy with"):
        load_vectors(path, {"cat"})
    np.save(path, np.ones((2, 3)))
    with pytest.raises(
        ProbeError, match=r"a\.txt: does not exist; expected the labels of the rows"
    ):
        load_vectors(path, {"cat"})
    (tmp_path / "a.txt").write_text("cat\n")
    with pytest.raises(ProbeError, match=r"a\.txt: 1 lines, but a\.npy has 2 rows"):
        load_vectors(path, {"cat"})
    for array in (np.ones(2), np.array([["1", "2"]])):
        np.save(path, array)
        with pytest.raises(ProbeError, match=r"expected numbers of \(label, dim\)"):
            load_vectors(path, {"cat"})
    path.write_bytes(b"no array")
    with pytest.raises(ProbeError, match="expected a NumPy array and a UTF-8 list"):
        load_vectors(path, {"cat"})
    (tmp_path / "b.txt").write_bytes(b"caf\xe9 1 2\n")
    with pytest.raises(ProbeError, match="no UTF-8 text"):
        load_vectors(tmp_path / "b.txt", {"cat"})
