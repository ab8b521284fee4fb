"""Labels that seem to be one class in several spellings."""

import unicodedata
from collections import defaultdict
from collections.abc import Mapping

from probe.errors import listed


def several_spellings(name: str, frequencies: Mapping[str, int]) -> str:
    """Return a sentence that names labels which differ only by case, spaces or Unicode form; empty
    where there are none.

    Args:
        name: what the labels are, such as their column.
        frequencies: label -> how often it occurs.
    """
    spellings: dict[str, list[str]] = defaultdict(list)
    for label, n in frequencies.items():
        form = " ".join(unicodedata.normalize("NFKC", label).casefold().split())
        spellings[form].append(f"{label!r} ({n})")
    groups = [" and ".join(group) for group in spellings.values() if len(group) > 1]
    if not groups:
        return ""
    return (
        f"{name}: {listed(groups, 3)} differ only by case, spaces or Unicode form; each counts as "
        "a class of its own."
    )
