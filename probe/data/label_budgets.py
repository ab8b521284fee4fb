"""Parts of the training labels: the same ones every time, each inside the next larger one."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator

SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def in_drawn_order(keys: Sequence[str], seed: int) -> list[int]:
    """Positions of ``keys`` in a random order that depends on each key and the seed alone: what is
    appended moves nothing.
    """
    return sorted(
        range(len(keys)), key=lambda i: hashlib.sha256(f"{seed} {keys[i]}".encode()).digest()
    )


def _checked(budget: str, form: str, known: str) -> str:
    if not re.fullmatch(form, budget):
        raise ValueError(known)
    return budget


TIMES = r"[1-9]\d*(\.\d+)?[smh]"
KNOWN = "seconds, minutes or hours (30s, 10m, 1h), or utterances (200)"
# A part of the training data: of utterances, or also of utterances of each label (``5/class``).
UtteranceBudget = Annotated[
    str, AfterValidator(lambda text: _checked(text, rf"{TIMES}|[1-9]\d*", KNOWN))
]
Budget = Annotated[
    str,
    AfterValidator(
        lambda text: _checked(
            text, rf"{TIMES}|[1-9]\d*(/class)?", f"{KNOWN}, or utterances of each label (5/class)"
        )
    ),
]


def within_budget(
    budget: str, keys: Sequence[str], labels: Sequence[str], durations_s: Sequence[float], seed: int
) -> list[int] | None:
    """Positions of the utterances that a budget pays for, ascending; None where that is all of
    them.

    Utterances are taken in one drawn order, so that a larger budget of the same unit holds all of a
    smaller one. A budget of time ends before the utterance that would exceed it.
    """
    taken: list[int] = []
    spent = 0.0
    of_label: Counter[str] = Counter()
    unit = budget[-1] if budget[-1] in SECONDS else ""
    amount = float(budget.removesuffix("/class").removesuffix(unit))
    for i in in_drawn_order(keys, seed):
        if budget.endswith("/class"):
            of_label[labels[i]] += 1
            pays = of_label[labels[i]] <= amount
        else:
            spent += durations_s[i] / SECONDS[unit] if unit else 1
            pays = spent <= amount + 1e-9
        if pays:
            taken.append(i)
        elif not budget.endswith("/class"):
            break
    return sorted(taken) if len(taken) < len(keys) else None
