"""Everything that is examined, in the order of the screen."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from probe.doctor import corpus_checks as corpora
from probe.doctor import label_checks, libraries, machine
from probe.doctor.findings import Finding
from probe.errors import ProbeError
from probe.model_names import ModelName

if TYPE_CHECKING:
    from probe.data.corpus import Corpus
    from probe.models.encoder import ModelInfo


def examine(
    model: str | ModelName | None = None,
    corpus: str | None = None,
    to: Path = Path(),
    device: str | None = None,
) -> Iterator[Finding]:
    """Findings on this machine, and on a model and a corpus where they are named, as they are made.

    Args:
        model: as `probe.open_model` takes it; it is fetched and opened.
        corpus: a manifest, or ``librispeech:ROOT#subsets``; up to 400 audio headers are read.
        to: the folder that would receive features; 64 MB are written there and removed.
        device: ``cpu``, ``cuda``, ``cuda:1``; None takes a GPU where there is one.

    Raises:
        UsageError: a device that this machine does not have.
    """
    if device is not None:
        with contextlib.suppress(ImportError, OSError):  # a torch that does not load is found below
            from probe.models.catalogue import choose_device

            choose_device(device)
    yield from _whatever_happens("versions", libraries.versions())
    yield from _whatever_happens("devices", machine.devices(device))
    yield from _whatever_happens("decoders", machine.decoders())
    yield from _whatever_happens("hub", machine.hub())
    yield from _whatever_happens("disk", machine.disk(to))
    opened: list[ModelInfo] = []
    loaded: list[Corpus] = []
    if model is not None:
        yield from _whatever_happens("model", _open_model(model, device, opened))
    if corpus is not None:
        yield from _whatever_happens("corpus", _load_corpus(corpus, loaded))
    info = opened[0] if opened else None
    for item in loaded:
        yield from _whatever_happens("audio", corpora.audio(item, info))
        yield from _whatever_happens("text", corpora.text(item, info))
        yield from _whatever_happens("labels", label_checks.labels(item))


def _whatever_happens(topic: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """The findings, and a problem where one examination breaks; the others go on."""
    try:
        yield from findings
    except ProbeError as error:
        yield Finding(topic, "problem", str(error))
    except Exception as error:  # a broken library can raise anything, and finding it is the purpose
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
        yield Finding(
            topic,
            "problem",
            f"could not be examined ({reason}).",
            "Mend what stands above first, then ask again.",
        )


def _open_model(
    name: str | ModelName, device: str | None, opened: "list[ModelInfo]"
) -> Iterator[Finding]:
    from probe.models.catalogue import open_model
    from probe.store.layer_names import describe_layers

    info = open_model(name, device).info
    opened.append(info)
    layers = describe_layers(list(info.layers), info.aliases)
    head = f", a CTC head of {len(info.ctc['writes'])} symbols" if info.ctc else ""
    text = f"{info.id} ({info.revision}): {info.family}, layers {layers}, {info.parameters:,} parameters{head}"
    yield Finding("model", "ok", f"{text}, hears {info.rate_hz} Hz")
    for note in info.notes:
        yield Finding("model", "note", note)


def _load_corpus(source: str, loaded: "list[Corpus]") -> Iterator[Finding]:
    from probe.data.corpus import load_corpus

    loaded.append(load_corpus(source))
    yield from corpora.splits(loaded[0])
