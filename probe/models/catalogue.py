"""Specs of models -> encoders; `probe.model_names` says how models are called.

``org/name@revision`` on the hub, a local folder, ``random:org/name@seed`` (the same architecture
with seeded random weights; those in ``known.csv`` need no network), ``fbank``, ``mfcc``,
``file.pt`` (`probe.models.sources.fairseq`), ``torchaudio:NAME`` (`probe.models.sources.bundles`),
plug-ins (`probe.models.plugins.loader`), those with ``random:`` before their name too.
"""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import ProbeError, UsageError
from probe.model_names import RANDOM, SPECTRAL, ModelName
from probe.models.encoder import Chunking, Encoder
from probe.models.sources.known import (
    NOT_SPEECH,
    SHIPPED,
    TORCHAUDIO,
    close_names,
    installed_plugins,
    known_models,
)

if TYPE_CHECKING:
    import torch

    from probe.models.plugins.adapter import Plugin, PluginEncoder
    from probe.models.reference import TransformersEncoder
    from probe.models.sources import configurations

IMPLEMENTATIONS = ("packed", "reference")
# Longer than any utterance that these models were trained on, and than those of the usual corpora.
LONG_S = 120.0  # of the packed form
# transformers' own attention takes tables of frames x frames x dim of a head.
REFERENCE_LONG_S = 40.0
CHUNK_S, CONTEXT_S = 20.0, 5.0


def offline_names() -> list[str]:
    """Return the names that work without a network."""
    return [*SPECTRAL, *SHIPPED, *(RANDOM + row.model for row in known_models().values())]


def open_model(
    name: "str | ModelName | Plugin",
    device: str | None = None,
    sha256: str | None = None,
    implementation: str = "packed",
    precision: str = "fp32",
    chunk_s: float = CHUNK_S,
    context_s: float = CONTEXT_S,
) -> Encoder:
    """Return the encoder that ``name`` stands for.

    Args:
        name: a model's SPEC, or NAME=SPEC; or an object that is a plug-in
            (`probe.models.plugins.adapter.Plugin`).
        device: ``cpu``, ``cuda``, ``cuda:1``; None takes a GPU where there is one.
        sha256: the expected SHA-256 of the weights, as ``probe check`` prints it.
        implementation: ``packed``, or ``reference`` for transformers' own forward. A checkpoint
            without a packed form is computed by the reference in fp32, with a note; fbank, mfcc and
            plug-ins have only one form. The encoder's ``implementation`` and ``precision`` tell
            which form it has.
        precision: ``fp32``, ``tf32`` (GPUs only) or ``bf16``, of the packed form's products.
        chunk_s, context_s: how attention over audio longer than `LONG_S` is cut, or
            `REFERENCE_LONG_S` in families without a packed form; a chunk of 0 s leaves it whole.
            Whisper cuts audio above 30 s in the same way in every form.

    Raises:
        UsageError: an unknown implementation or precision, or one that this device does not have.
        ProbeError: unknown name, not on the hub or offline, a text or vision model, missing,
            damaged or other weights.
    """
    import torch

    from probe.models.packed.products import dtype_of
    from probe.models.plugins import loader
    from probe.models.spectral import SpectralEncoder

    place = choose_device(device)
    if implementation not in IMPLEMENTATIONS:
        raise UsageError(
            f"--implementation {implementation}: expected one of {', '.join(IMPLEMENTATIONS)}."
        )
    dtype_of(precision, torch.device(place))
    chunking = Chunking(LONG_S, chunk_s, context_s) if chunk_s else None
    if implementation == "reference" and precision != "fp32":
        raise UsageError(
            f"--precision {precision}: the reference implementation computes in fp32. Use "
            "--implementation packed."
        )
    if not isinstance(name, str | ModelName):
        return _plugin(name, torch.device(place), sha256)
    model = ModelName.parse(name)
    encoder: Encoder
    if model.spec in SPECTRAL:
        if sha256 is not None:
            raise UsageError(f"--sha256: {model.spec} has no weights.")
        encoder = SpectralEncoder(model.spec, torch.device(place))
    elif loader.is_plugin(model):
        encoder = _plugin(model.spec, torch.device(place), sha256)
    else:
        source = _random if model.spec.startswith(RANDOM) else _pretrained
        encoder = _in_form(source(model.spec, place, sha256), implementation, precision, chunking)
    encoder.info = replace(encoder.info, spec=model.resolved, requested=model)
    return encoder


def _plugin(name: "str | Plugin", place: "torch.device", sha256: str | None) -> "PluginEncoder":
    """The encoder of a plug-in's name, or of an object that is one."""
    from probe.models.plugins.loader import encoder_of, open_plugin

    encoder = open_plugin(name, place) if isinstance(name, str) else encoder_of(name, place)
    digest = encoder.info.weights_sha256 or "none"
    if sha256 not in (None, digest):
        raise ProbeError(
            f"{encoder.info.id}: its weights have sha256 {digest}, --sha256 says {sha256}."
        )
    return encoder


def _in_form(
    reference: "TransformersEncoder", implementation: str, precision: str, chunking: Chunking | None
) -> Encoder:
    """The packed form of a reference encoder if it is requested and exists; otherwise the encoder
    itself, with a note if it was requested.

    A model with only one form cuts long audio in it, whichever form is requested.
    """
    from probe.models.families import WhisperEncoder
    from probe.models.packed.packed_encoder import PackedEncoder
    from probe.models.packed.support import without_packed_form
    from probe.models.packed.whisper import PackedWhisper

    reason = without_packed_form(reference.model.config)
    if isinstance(reference, WhisperEncoder):  # it cannot hear long audio whole
        reference.cut(chunking)
    elif reason:
        reference = reference.chunked(chunking and replace(chunking, above_s=REFERENCE_LONG_S))
    if implementation == "packed" and not reason:
        if isinstance(reference, WhisperEncoder):
            return PackedWhisper(reference, precision, reference.chunking)
        return PackedEncoder(reference, precision, chunking)
    if implementation == "packed":
        note = "computed by the reference implementation in fp32, as it has no packed form: "
        reference.info = replace(reference.info, notes=(*reference.info.notes, note + reason))
    return reference


def _pretrained(name: str, place: str, sha256: str | None) -> "TransformersEncoder":
    """The encoder of a bundle, a file, a folder or a checkpoint on the hub."""
    from probe.models.sources import checkpoints, fairseq

    if name.startswith(TORCHAUDIO):
        from probe.models.sources import bundles

        return bundles.bundle_encoder(name, place, sha256)
    if file := fairseq.file_of(name):
        return fairseq.file_encoder(file, place, sha256)
    return checkpoints.pretrained_encoder(_locate(name, weights=True), place, sha256)


def _random(name: str, place: str, sha256: str | None) -> "TransformersEncoder":
    """The encoder of a name that begins with ``random:``."""
    from probe.models.sources import checkpoints, configurations

    architecture, at, seed = name.removeprefix(RANDOM).rpartition("@")
    if not at or _is_folder(architecture + at + seed):
        architecture, seed = architecture + at + seed, ""
    if not re.fullmatch(r"\d*", seed):
        raise ProbeError(
            f"{name}: {seed!r} after @ is no seed; expected a whole number such as "
            f"{RANDOM}{architecture}@1."
        )
    folder, config, normalize = _architecture(architecture)
    location = configurations.Location(RANDOM + architecture, folder, f"seed {int(seed or 0)}")
    encoder = checkpoints.random_encoder(location, config, place, normalize)
    digest = encoder.info.weights_sha256
    if sha256 not in (None, digest):
        raise ProbeError(
            f"{name}: the weights drawn here have sha256 {digest}, --sha256 says {sha256}."
        )
    return encoder


def _architecture(name: str) -> tuple[Path, Any, bool | None]:
    """What random weights are drawn for: folder, configuration, whether waveforms are normalised
    (None: the folder says).
    """
    from probe.models.sources import configurations, fairseq

    if row := known_models().get(name):
        return Path(), configurations.config_of_known(row), row.normalize
    if name.startswith(TORCHAUDIO):
        from probe.models.sources import bundles

        return Path(), *bundles.architecture_of(name)
    if file := fairseq.file_of(name):
        return Path(), *fairseq.architecture_of(file)
    source = _locate(name, weights=False)
    return source.folder, configurations.config_of(source), None


def choose_device(device: str | None) -> str:
    """Return ``device``, or the GPU where there is one and none is named.

    Raises:
        UsageError: a device that this machine does not have.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"--device {device}: cannot be used ({reason}). Use --device cpu, or leave it out."
        ) from error
    return device


def _locate(name: str, weights: bool) -> "configurations.Location":
    """The checkpoint's folder: given, or fetched from the hub (its configuration alone without
    ``weights``).
    """
    from probe.models.sources import configurations

    if _is_folder(name):
        return configurations.Location(str(Path(name)), Path(name))
    identifier, _, revision = name.partition("@")
    if identifier in SHIPPED:
        if revision:
            raise ProbeError(
                f"{name}: {identifier} ships with layerprobe and has no revisions. Leave out "
                f"@{revision}."
            )
        return configurations.Location(identifier, SHIPPED[identifier])
    if revision and _is_folder(identifier):
        raise ProbeError(
            f"{name}: {identifier} is a folder, and only the weights that it holds now can be "
            f"opened; @{revision} names features that are stored. Leave it out."
        )
    if os.path.exists(name):  # noqa: PTH110 - as in _is_folder
        raise ProbeError(
            f"{name}: a file. Expected a folder as save_pretrained writes it (of model.safetensors "
            "the folder it lies in), or a file of fairseq's under a name that ends in .pt."
        )
    for part, reads in NOT_SPEECH.items():
        if part in identifier.lower():
            raise ProbeError(
                f"{name}: reads {reads}, not speech. The speech models of this kind are called "
                "data2vec-audio."
            )
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", identifier):
        close = close_names(name, (*SPECTRAL, *offline_names(), *installed_plugins()))
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ProbeError(
            f"model {name!r}: neither a folder nor org/name on the hub.{hint} `probe models` lists "
            f"the names that are known; {', '.join(SPECTRAL)} and {RANDOM}org/name of those work "
            "without a network."
        )
    return configurations.from_hub(identifier, revision or None, weights)


def _is_folder(name: str) -> bool:
    return os.path.isdir(name)  # noqa: PTH112 - Path.is_dir raises where the name is too long
