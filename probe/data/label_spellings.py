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
    groups = spellings(frequencies)
    if not groups:
        return ""
    return (
        f"{name}: {listed(groups, 3)} differ only by case, spaces or Unicode form; each counts as "
        "a class of its own."
    )


def spellings(frequencies: Mapping[str, int]) -> list[str]:
    """The groups of texts, with their frequencies, that are equal but for case, spaces and Unicode
    form.
    """
    by_form: dict[str, list[str]] = defaultdict(list)
    for text, n in frequencies.items():
        form = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
        by_form[form].append(f"{text!r} ({n})")
    return [" and ".join(group) for group in by_form.values() if len(group) > 1]
