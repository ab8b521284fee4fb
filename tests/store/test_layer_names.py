"""Layers are named as people write them."""

import pytest

from probe.errors import UsageError
from probe.store.layer_names import choose_layers, describe_layers

NUMBERS = ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("text", "final", "chosen"),
    [
        (None, True, ["0", "1", "2", "3", "4", "final"]),
        ("0-4,final", True, ["0", "1", "2", "3", "4", "final"]),
        ("final, 3 ,1-2,2", True, ["1", "2", "3", "final"]),
        ("4", True, ["4"]),
        (None, False, ["0", "1", "2", "3", "4"]),
        ("final", False, ["4"]),
        ("final,4,0", False, ["0", "4"]),
        ("2-2", False, ["2"]),
    ],
)
def test_layers_are_chosen_by_number_range_and_alias(
    text: str | None, final: bool, chosen: list[str]
) -> None:
    assert (
        choose_layers(text, NUMBERS + ["final"] * final, {} if final else {"final": "4"}, "m")
        == chosen
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("0-12", "5"),
        ("7", "7"),
        ("last", "last"),
        ("-1", "-1"),
        ("3-1", "3-1"),
        ("", ""),
        ("1,,2", ""),
        ("1-2-3", "1-2-3"),
    ],
)
def test_a_layer_that_the_model_does_not_have_is_refused_with_the_ones_it_has(
    text: str, name: str
) -> None:
    message = rf"^--layers {text}: m has no layer '{name}'; it has 0\.\.4 \(final is 4\)\.$"
    with pytest.raises(UsageError, match=message):
        choose_layers(text, NUMBERS, {"final": "4"}, "m")


def test_layers_are_described_for_people() -> None:
    assert describe_layers(["0", "1", "2", "final"], {}) == "0..2, final"
    assert describe_layers(["0", "2"], {"final": "2"}) == "0, 2 (final is 2)"
    assert describe_layers(["0"], {}) == "0"
