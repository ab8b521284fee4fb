"""Names of models -> encoders.

``org/name@revision`` on the hub, a local folder, ``random:org/name@seed`` (the same architecture with seeded random weights; the
configurations in ``architectures.json`` are built in, so these need no network), ``fbank``, ``mfcc``.
"""

import difflib
import json
import os
import re
from pathlib import Path
from typing import Any

from probe.errors import ProbeError, UsageError
from probe.models.encoder import Encoder

SPECTRAL = ("fbank", "mfcc")
RANDOM = "random:"


def architectures() -> dict[str, dict[str, Any]]:
    """Built-in configurations: name -> ``model_type``, ``parameters`` (exact), ``config``."""
    return json.loads((Path(__file__).parent / "architectures.json").read_text(encoding="utf-8"))


def model_names() -> list[str]:
    """Names that work without a network."""
    return [*SPECTRAL, *(RANDOM + name for name in architectures())]


def open_model(name: str, device: str | None = None) -> Encoder:
    """The encoder that ``name`` stands for.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1``; None takes a GPU where there is one.

    Raises:
        ProbeError: unknown name, not on the hub or offline, a text or vision model, missing or damaged weights.
    """
    import torch

    from probe.models import checkpoints
    from probe.models.spectral import SpectralEncoder

    place = choose_device(device)
    if name in SPECTRAL:
        return SpectralEncoder(name, torch.device(place))
    if name.startswith(RANDOM):
        architecture, _, seed = name.removeprefix(RANDOM).partition("@")
        if not re.fullmatch(r"\d*", seed):
            raise ProbeError(f"{name}: {seed!r} after @ is no seed; expected a whole number such as {RANDOM}{architecture}@1.")
        identifier = RANDOM + architecture
        if built_in := architectures().get(architecture):
            return checkpoints.random_encoder(identifier, checkpoints.built_in_config(built_in), int(seed or 0), place)
        location, notes = _locate(architecture, weights=False), list[str]()
        config, wanted = checkpoints.config_of(location), checkpoints.input_of(location, notes)
        return checkpoints.random_encoder(identifier, config, int(seed or 0), place, wanted, notes)
    location = _locate(name, weights=True)
    return checkpoints.pretrained_encoder(location, place)


def choose_device(device: str | None) -> str:
    """``device``, or the GPU where there is one and none is named.

    Raises:
        ProbeError: a device that this machine does not have.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {device}: cannot be used ({reason}). Use --device cpu, or leave it out.") from error
    return device


def _locate(name: str, weights: bool) -> Any:
    """The checkpoint's folder: given, or fetched from the hub (its configuration alone without ``weights``)."""
    from probe.models import checkpoints

    if os.path.isdir(name):  # noqa: PTH112 - Path.is_dir raises where the name is too long for a file
        return checkpoints.Location(str(Path(name)), Path(name), "local")
    identifier, _, revision = name.partition("@")
    if os.path.exists(name) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", identifier):  # noqa: PTH110 - as above
        close = difflib.get_close_matches(
            name, [*model_names(), *(item for item in architectures() if "/" in item)], n=1, cutoff=0.5
        )
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ProbeError(
            f"model {name!r}: neither a folder nor org/name on the hub.{hint} Known without a network: {', '.join(model_names())}."
        )
    return checkpoints.from_hub(identifier, revision or None, weights)
