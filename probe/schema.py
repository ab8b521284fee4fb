"""Checks data from files against a declared form, and turns what pydantic finds into our errors.

A form is a class derived from `Schema`, a dataclass of the standard library, or a list, dict or
union of such. Types are strict: text is not a number, true is not 1, and a number with a fraction
is not a whole number (a whole number may stand for a float). A key that the form does not know is a
fault. Bounds and choices stand beside the fields (``Field(ge=1)``, ``Literal["a", "b"]``). A
validator of a form raises ``ValueError`` with the words that follow "expected".

This module loads pydantic, which takes 0.2 s: import it where files are read, not at the start of
the command line.
"""

import difflib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model

from probe.errors import ProbeError

T = TypeVar("T")

LONGEST = 80  # characters of a value in a message
# Kind of error -> what was expected; names in braces stand in the error's context.
EXPECTED = {
    "missing": "this entry",
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "dict_type": "an object",
    "mapping_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dataclass_type": "an object",
    "none_required": "null",
    "literal_error": "{expected}",
    "string_pattern_mismatch": "text of the form {pattern}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "{min_length} or more entries",
    "too_long": "at most {max_length} entries",
    "string_too_short": "{min_length} or more characters",
    "string_too_long": "at most {max_length} characters",
}


class Schema(BaseModel):
    """The base of a form: strict types, no unknown keys, finite numbers, immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Fault:
    """One entry that does not have its form.

    Attributes:
        key: where it stands, such as ``recipe.layers[2]``; empty for the whole.
        found: its value, shortened, or "nothing".
        expected: in words.
        known: the keys that are possible in its place, where it is an unknown one.
    """

    key: str
    found: str
    expected: str
    known: Sequence[str] = ()

    def __str__(self) -> str:
        if self.known:
            name = self.key.rpartition(".")[2]
            close = difflib.get_close_matches(name, self.known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            return f"unknown key {self.key!r}.{hint} Known: {', '.join(self.known)}."
        place = f"{self.key}: " if self.key else ""
        return f"{place}found {self.found}; expected {self.expected}."


def checked(form: type[T], value: object, where: object, advice: str = "") -> T:
    """Makes an object of ``form``.

    Args:
        value: a mapping, a list, or an object whose attributes are read.
        where: the file, with the line where there is one, or the object's name.
        advice: what to do, a sentence that follows the fault.

    Raises:
        ProbeError: the first fault, as ``where: key: found ...; expected ...``.
    """
    try:
        has_attributes = not isinstance(value, dict)  # dicts take less time without them
        entries: Any = _adapter(cast(Any, form)).validate_python(
            value, from_attributes=has_attributes
        )
    except ValidationError as error:
        fault = _faults_of(error, form, value)[0]
        raise ProbeError(f"{where}: {fault} {advice}".rstrip()) from None
    if not is_dataclass(form):
        return entries
    return form(**{name: getattr(entries, name) for name in entries.model_fields_set})


def faults(form: Any, value: object) -> list[Fault]:
    """Everything in which ``value`` differs from ``form``, in the order of the form's fields."""
    try:
        _adapter(form).validate_python(value)
    except ValidationError as error:
        return _faults_of(error, form, value)
    return []


@functools.cache
def _adapter(form: Any) -> TypeAdapter[Any]:
    if is_dataclass(form):
        entries: dict[str, Any] = {
            item.name: (item.type, ... if _is_required(item) else None) for item in fields(form)
        }
        form = create_model(str(form), __base__=Schema, **entries)
    return TypeAdapter(form)


def _is_required(item: Field[Any]) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _faults_of(error: ValidationError, form: Any, value: object) -> list[Fault]:
    """The faults by their keys; what the members of a union expected is joined by "or"."""
    by_key: dict[str, Fault] = {}
    for item in error.errors(include_url=False):
        kind, place = item["type"], item["loc"]
        found, context = _shown(item["input"]), item.get("ctx", {})
        if kind == "extra_forbidden":
            fault = Fault(_path(place), found, "no such key", _known(form, place[:-1]))
        elif kind == "missing":
            fault = Fault(_path(place), "nothing", EXPECTED[kind])
        else:
            words = EXPECTED.get(kind, item["msg"].removeprefix("Input should be "))
            expected = str(context["error"]) if kind == "value_error" else words.format(**context)
            fault = Fault(_path(_within(value, place, form)), found, expected)
        if other := by_key.get(fault.key):
            fault = replace(other, expected=f"{other.expected} or {fault.expected}")
        by_key[fault.key] = fault
    return list(by_key.values())


def _within(value: Any, place: Sequence[Any], form: Any) -> Sequence[str | int]:
    """The part of a place that lies in ``value``, or whose last key has a default: pydantic adds
    the names of a union's members.
    """
    for position, item in enumerate(place):
        try:
            value = value[item] if isinstance(value, Mapping | list) else getattr(value, str(item))
        except (LookupError, TypeError, AttributeError):
            is_default = place[position:] == place[-1:] and item in _known(form, place[:-1])
            return place if is_default else place[:position]
    return place


def _path(place: Sequence[str | int]) -> str:
    """``("layers", 2, "name")`` as ``layers[2].name``."""
    return "".join(
        f"[{item}]" if isinstance(item, int) else f".{item}" for item in place
    ).removeprefix(".")


def _known(form: Any, place: Sequence[str | int]) -> list[str]:
    """The keys of the form that stands at a place inside ``form``."""
    for item in place:
        inner = [one for one in get_args(form) if one not in (..., type(None))]
        form = _entries(form).get(str(item), inner[-1] if inner else form)
    return list(_entries(form))


def _entries(form: Any) -> dict[str, Any]:
    """Key -> type, of a model or a dataclass; of an optional one too."""
    for one in (form, *get_args(form)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return {name: item.annotation for name, item in one.model_fields.items()}
        if isinstance(one, type) and is_dataclass(one):
            return {item.name: item.type for item in fields(one)}
    return {}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
