"""Cases of a parametrised test of which a few run by default and the rest under the marker
``nightly``.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def mostly_nightly(cases: Iterable[Any], by_default: Sequence[Any]) -> list[Any]:
    """All cases, marked ``nightly`` unless they are among ``by_default``."""
    every = list(cases)
    assert all(case in every for case in by_default)
    return [
        case if case in by_default else pytest.param(*as_values(case), marks=pytest.mark.nightly)
        for case in every
    ]


def as_values(case: Any) -> tuple[Any, ...]:
    """The arguments of one case."""
    return case if isinstance(case, tuple) else (case,)
