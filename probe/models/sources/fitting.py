"""Check that weights are finite and fit a configuration."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probe.errors import ProbeError, listed
from probe.models.sources import adapters
from probe.models.sources.known import UNUSED

# Unexpected weights with such names belong to the encoder, so the configuration does not describe
# it.
INSIDE = re.compile(
    r"(^|\.)(encoder\.(layers?|layer_norm|pos_conv_embed|upsample)|feature_extractor\.conv_layers"
    r"|feature_projection)\."
    r"|^(layers|layer_norm|conv[12]|embed_positions)\."  # of Whisper's encoder, which stands alone
)


def encoder_weights(model: Any) -> dict[str, Tensor]:
    """Return the weights of a model by the names of its encoder's class; they share memory with the
    model.
    """
    prefix = f"{model.base_model_prefix}."
    return {name.removeprefix(prefix): weight for name, weight in model.state_dict().items()}


def refuse_other_weights(
    file: Path, config: Any, loading: dict[str, Any], inside: re.Pattern[str] = INSIDE
) -> list[str]:
    """Raise if the encoder's weights do not fit the configuration; return the unusable weights of a
    CTC head.

    Args:
        loading: transformers' report, with names of weights.
        inside: pattern of unexpected weights that belong to the encoder.
    """
    mismatched = loading["mismatched_keys"]
    absent, absent_in_head = _by_part(loading["missing_keys"])
    wrong, wrong_in_head = _by_part(
        (item if isinstance(item, str) else str(item[0]) for item in mismatched), unused=()
    )
    if absent or wrong:
        raise ProbeError(
            f"{file}: {len(absent)} of the encoder's weights missing, {len(wrong)} of another "
            f"shape: {listed(absent + wrong)}. They would be random; is this a "
            f"{config.model_type} checkpoint?"
        )
    if left_over := sorted(filter(inside.search, loading["unexpected_keys"])):
        raise ProbeError(
            f"{file}: {len(left_over)} weights of the encoder have no place in the model that its "
            f"configuration describes ({config.num_hidden_layers} blocks): {listed(left_over)}. "
            "One of the two is not this checkpoint's."
        )
    return absent_in_head + wrong_in_head


def refuse_non_finite(file: Path, model: Any) -> list[str]:
    """Raise if a weight of the encoder is not finite; return the non-finite weights of a CTC
    head.
    """
    weights = model.state_dict().items()
    faulty, of_head = _by_part(name for name, weight in weights if not torch.isfinite(weight).all())
    if faulty:
        raise ProbeError(
            f"{file}: NaN or infinite weights in {listed(faulty)}. Fetch the file again."
        )
    return of_head


def _by_part(
    names: Iterator[str] | Sequence[str], unused: Sequence[str] = UNUSED
) -> tuple[list[str], list[str]]:
    """Return the names of the encoder's weights, without unused ones, and those of a head."""
    every = sorted(names)
    of_head = [name for name in every if name.startswith(adapters.HEAD)]
    others = [name for name in every if name not in of_head]
    return [name for name in others if name.rpartition(".")[2] not in unused], of_head
