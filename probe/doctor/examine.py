"""All examinations, in the order of the screen."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from probe.doctor import machine
from probe.doctor.findings import Finding, Findings
from probe.errors import ProbeError
from probe.model_names import ModelName


def examine(
    model: str | ModelName | None = None, to: Path = Path(), device: str | None = None
) -> Iterator[Finding]:
    """Yield findings about this machine, and about a model if one is given.

    Args:
        model: as `probe.open_model` takes it; it is fetched and opened.
        to: the folder for features; 64 MB are written there and removed.
        device: ``cpu``, ``cuda`` or ``cuda:1``; None takes a GPU if there is one.

    Raises:
        UsageError: this machine does not have the device.
    """
    if device is not None:
        with contextlib.suppress(ImportError, OSError):  # `versions` reports a broken torch
            from probe.models.catalogue import choose_device

            choose_device(device)
    yield from _guarded("versions", machine.versions())
    yield from _guarded("devices", machine.devices(device))
    yield from _guarded("decoders", machine.decoders())
    yield from _guarded("hub", machine.hub())
    yield from _guarded("disk", machine.disk(to))
    if model is not None:
        yield from _guarded("model", _open_model(model, device))


def _guarded(topic: str, examination: Findings) -> Findings:
    """The findings of one examination; if it breaks, a problem, and the rest goes on."""
    try:
        yield from examination
    except ProbeError as error:
        yield Finding(topic, "problem", str(error))
    except Exception as error:  # a broken library can raise anything
        reason = f"{type(error).__name__}: {(str(error) or 'no reason given').splitlines()[0]}"
        yield Finding(
            topic,
            "problem",
            f"could not be examined ({reason}).",
            "Fix the problems above first, then run the doctor again.",
        )


def _open_model(name: str | ModelName, device: str | None) -> Findings:
    """Open the model."""
    from probe.models.catalogue import open_model
    from probe.store.layer_names import describe_layers

    info = open_model(name, device).info
    layers = describe_layers(list(info.layers), info.aliases)
    head = f", a CTC head of {len(info.ctc['writes'])} symbols" if info.ctc else ""
    text = (
        f"{info.id} ({info.revision}): {info.family}, layers {layers}, {info.parameters:,} "
        f"parameters{head}, expects {info.rate_hz} Hz"
    )
    yield Finding("model", "ok", text)
    for note in info.notes:
        yield Finding("model", "note", note)
