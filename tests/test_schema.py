"""Data from files against a declared form."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationInfo, field_validator

from probe.errors import ProbeError
from probe.schema import Schema, checked, faults


class Layer(Schema):
    name: str
    width: Annotated[int, Field(ge=1, le=512)] = 1


class Store(Schema):
    rate: float = 1.0
    view: Literal["mean", "frames"] = "mean"
    main: Layer | None = None
    layers: tuple[Layer, ...] = Field((), strict=False)
    counts: dict[str, float] | None = None
    stride: int | str | None = None


class Pair(Schema):
    units: str = "letters"
    lexicon: str = Field("", validate_default=True)

    @field_validator("lexicon")
    @classmethod
    def _with_phones(cls, name: str, info: ValidationInfo) -> str:
        if info.data["units"] == "phones" and not name:
            raise ValueError("a file")
        return name


class Pairs(Schema):
    pairs: dict[str, Pair]


@dataclass
class Line:
    n: int
    note: str = ""


@pytest.mark.parametrize(
    ("form", "value", "expected"),
    [
        (Store, {"rate": "1"}, ["rate: found '1'; expected a number."]),
        (Store, {"rate": True}, ["rate: found True; expected a number."]),
        (Store, {"rate": float("nan")}, ["rate: found nan; expected a finite number."]),
        (Store, {"view": "max"}, ["view: found 'max'; expected 'mean' or 'frames'."]),
        (
            *(Store, {"layers": [{"name": "0", "width": 600}]}),
            ["layers[0].width: found 600; expected at most 512."],
        ),
        (Store, {"counts": {"int": "3"}}, ["counts.int: found '3'; expected a number."]),
        (Store, {"stride": 1.5}, ["stride: found 1.5; expected a whole number or text."]),
        (Store, {"main": {"name": 1}}, ["main.name: found 1; expected text."]),
        (Store, {"main": {}}, ["main.name: found nothing; expected this entry."]),
        (Pair, {"units": "phones"}, ["lexicon: found ''; expected a file."]),
        (
            *(Pairs, {"pairs": {"a": {"units": "phones"}}}),
            ["pairs.a.lexicon: found ''; expected a file."],
        ),
        (Store, [1], ["found [1]; expected an object."]),
        (
            *(Store, {"raet": 1.0}),
            [
                "unknown key 'raet'. Did you mean 'rate'? "
                "Known: rate, view, main, layers, counts, stride."
            ],
        ),
        (
            *(Store, {"layers": [{"name": "0", "widht": 1}]}),
            ["unknown key 'layers[0].widht'. Did you mean 'width'? Known: name, width."],
        ),
        (
            *(Line, {"n": 1.0, "note": "", "x": 0}),
            ["n: found 1.0; expected a whole number.", "unknown key 'x'. Known: n, note."],
        ),
        (Store, {"rate": 1, "stride": None, "layers": [{"name": "0"}]}, []),
        (Line, {"n": 1}, []),
    ],
)  # fmt: skip
def test_a_fault_names_the_key_what_was_found_and_what_is_expected(
    form: Any, value: Any, expected: list[str]
) -> None:
    assert [str(fault) for fault in faults(form, value)] == expected


def test_a_refusal_names_the_place_and_the_advice() -> None:
    with pytest.raises(
        ProbeError, match=r"^x.json: main.width: found 0; expected 1 or more. Mend it.$"
    ):
        checked(Store, {"main": {"name": "0", "width": 0}}, "x.json", "Mend it.")


def test_checked_data_become_an_object_of_their_form() -> None:
    class Plugin:
        name = "0"
        width = 4

    assert checked(Layer, Plugin(), "plugin") == Layer(name="0", width=4)
    assert checked(Line, {"n": 3}, "line 1") == Line(3, "")
    assert checked(list[Layer], [{"name": "1"}], "x.json") == [Layer(name="1")]
