"""The order of conditions by severity, from their names."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable

NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?|(?<=[a-z_])\d+(?:\.\d+)?", re.IGNORECASE)
# Setting, as a name has it -> the value that leaves the audio as it is. For factors the distance
# from it is that of logarithms.
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
    """Conditions in order: those that differ by one number only stand together, the milder first
    (see `families`).
    """
    return [name for family in families(conditions).values() for name in family]


def families(conditions: Iterable[str]) -> dict[str, list[str]]:
    """Conditions by family: the name with ``#`` for the one number in which its members differ ->
    the members, the milder first.

    A level after ``@`` is a signal-to-noise ratio, so more is milder. Where a setting has a
    `NEUTRAL` value, nearer to it is milder; of every other number less is. A condition without
    relatives is a family of its own under its own name.
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
    """How far a number disturbs; ``before`` is the part of the condition's name in front of it."""
    neutral = NEUTRAL.get(before.rpartition("+")[2])
    if neutral is None:
        return -number if before.endswith("@") else number
    if not neutral:
        return abs(number)
    return abs(math.log(number)) if number > 0 else math.inf
