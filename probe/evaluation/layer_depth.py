"""Relative depth of a layer: 0 the input of the first block, 1 the output of the last, so that
models of any depth share an axis.

``final`` stands at 1, as the last block does: no block is between them. ``conv``, ``ctc``, a sum of
layers and the one layer of a spectral front-end have no depth.
"""

from collections.abc import Mapping
from typing import Any

from probe.model_names import RANDOM
from probe.models.sources.known import known_models


def n_blocks(recipe: Mapping[str, Any]) -> int | None:
    """How many blocks a recipe's model has; None where nothing says.

    The alias of ``final`` names the last block of a post-LN model. Of other models `known_models`
    says it by name. Of the rest, which are pre-LN models from a folder or unknown by name, it is
    the highest numbered layer, if ``final`` and every number from 0 on are there: such a store was
    hardly cut. (One of ``--layers 0-3,final`` would be misjudged.)
    """
    model = recipe["model"]
    if model["aliases"].get("final", "").isdecimal():
        return int(model["aliases"]["final"])
    known = known_models().get(model["id"].removeprefix(RANDOM))
    if known is not None and known.family == model["family"]:
        return known.layers
    names = [name for name, _ in recipe["layers"]]
    numbers = sorted(int(name) for name in names if name.isdecimal())
    whole = "final" in names and len(numbers) > 1 and numbers == list(range(len(numbers)))
    return numbers[-1] if whole else None


def depth_of(layer: str, blocks: int | None) -> float | None:
    """Relative depth of a layer in a model of so many blocks; None where it has none."""
    if not blocks:
        return None
    if layer == "final":
        return 1.0
    return int(layer) / blocks if layer.isdecimal() else None
