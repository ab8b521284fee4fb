"""The order of conditions by severity, from their names."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable

NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?|(?<=[a-z_])\d+(?:\.\d+)?", re.IGNORECASE)
# For each setting in a name, the value that leaves the audio unchanged. Distances of factors are
# taken between logarithms.
NEUTRAL = {
    "pitch:": 0,
    "gain:": 0,
    "bass:": 0,
    "treble:": 0,
    "speed:": 1,
    "tempo:": 1,
    "gain:factor=": 1,
}


def by_severity(conditions: Iterable[str]) -> list[str]:
    """Return the conditions in order: those that differ only in one number are adjacent, the milder
    first (see `families`).
    """
    return [name for family in families(conditions).values() for name in family]


def families(conditions: Iterable[str]) -> dict[str, list[str]]:
    """Return families of conditions, the milder first, by their name with ``#`` in place of the one
    number in which the members differ.

    A level after ``@`` is a signal-to-noise ratio, so a higher one is milder. If a setting has a
    `NEUTRAL` value, values closer to it are milder; for other numbers, smaller values are. A
    condition without relatives forms its own family.
    """
    names = sorted(set(conditions))
    members: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for name in names:
        for number in re.finditer(NUMBER, name):
            before, after = name[: number.start()], name[number.end() :]
            severity = _severity(before, float(number[0]))
            members[f"{before}#{after}"].append((severity, name))
    by_family: dict[str, list[str]] = {}
    placed: set[str] = set()
    for family, ranked in sorted(members.items(), key=lambda item: (-len(item[1]), item[0])):
        free = [name for _, name in sorted(ranked) if name not in placed]
        if len(free) > 1:
            by_family[family] = free
            placed |= set(free)
    by_family |= {name: [name] for name in names if name not in placed}
    return dict(sorted(by_family.items()))


def _severity(before: str, number: float) -> float:
    """Return the severity of a number; ``before`` is the part of the condition's name in front of
    it.
    """
    neutral = NEUTRAL.get(before.rpartition("+")[2])
    if neutral is None:
        return -number if before.endswith("@") else number
    if not neutral:
        return abs(number)
    return abs(math.log(number)) if number > 0 else math.inf
