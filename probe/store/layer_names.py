"""Names of layers, as people write them."""

import re
from collections.abc import Mapping, Sequence

from probe.errors import UsageError, listed


def choose_layers(
    text: str | None,
    layers: Sequence[str],
    aliases: Mapping[str, str],
    owner: str,
    usual: Sequence[str] | None = None,
) -> list[str]:
    """Layer names out of a specification such as ``conv,0-12,final``; None means the usual ones,
    all of them unless that is given.

    An alias stands for its layer; what is named twice comes once, in the order of ``layers``.

    Args:
        owner: whose layers they are, for messages.

    Raises:
        UsageError: a name or a range that is not among them.
    """
    if text is None:
        return list(layers if usual is None else usual)
    selection: set[str] = set()
    for part in (item.strip() for item in text.split(",")):
        match = re.fullmatch(r"(\d+)-(\d+)", part)
        names = (
            [str(index) for index in range(int(match[1]), int(match[2]) + 1)] if match else [part]
        )
        for name in names or [part]:
            layer = aliases.get(name, name)
            if layer not in layers:
                description = describe_layers(layers, aliases)
                raise UsageError(
                    f"--layers {text}: {owner} has no layer {name!r}; it has {description}."
                )
            selection.add(layer)
    return [name for name in layers if name in selection]


def describe_layers(layers: Sequence[str], aliases: Mapping[str, str]) -> str:
    """Layer names for people: ``0..12 (final is 12)``."""
    numbers = [name for name in layers if name.isdigit()]
    contiguous = len(numbers) > 1 and [int(name) for name in numbers] == list(
        range(int(numbers[0]), int(numbers[-1]) + 1)
    )
    parts = [f"{numbers[0]}..{numbers[-1]}"] if contiguous else numbers
    before = list(layers[: layers.index(numbers[0]) if numbers else 0])
    parts = [
        *before,
        *parts,
        *(name for name in layers if not name.isdigit() and name not in before),
    ]
    same = listed([f"{alias} is {layer}" for alias, layer in aliases.items() if layer in layers], 3)
    return ", ".join(parts) + (f" ({same})" if same else "")
