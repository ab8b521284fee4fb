"""The certificate of a model: its layers, frames, input and batch independence, measured on this
machine.

Inputs are seeded noise of several levels, so the certificate says nothing of a model's quality; it
says that what is written to a store is what the checkpoint computes.

The quick form uses utterances up to a second, the whole one mixes the shortest legal length with 20
s and goes up to 30 s.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

from probe.environment import package_versions
from probe.models import check_declared, check_frames
from probe.models.certificate import FAIL, Certificate, Finding
from probe.models.encoder import Encoder, device_name
from probe.models.plugins.adapter import Plugin

# Each check: (encoder, the same checkpoint opened afresh or None, quick) -> findings
CHECKS: tuple[Callable[[Encoder, Any, bool], Iterator[Finding]], ...] = (
    check_declared.check_weights,
    check_declared.check_reopened,
    check_declared.check_parameters,
    check_declared.check_configuration,
    check_declared.check_input,
    check_frames.check_layers,
    check_frames.check_alone,
    check_frames.check_final,
    check_frames.check_frames,
    check_frames.check_batches,
    check_frames.check_values,
    check_frames.check_ctc,
    check_frames.check_seams,
)


def check_model(
    encoder: "str | Encoder | Plugin",
    quick: bool = False,
    tick: Callable[[str], Any] = lambda _: None,
) -> Certificate:
    """Measure everything about ``encoder`` that can be measured without knowing its data.

    An encoder may have, beyond the batch contract, ``again()`` (the same checkpoint opened afresh),
    ``by_transformers(wave)`` (layer -> (frame, dim) by another way) and ``final_of(last)`` (the
    final output that follows from the last block's); without them those checks are skipped.

    Args:
        encoder: one that is open, a model's name, or an object that is a plug-in.
        quick: short utterances only, and no second copy of the model.
        tick: called with the name of each check as it begins.
    """
    if not isinstance(encoder, Encoder):
        from probe.models.catalogue import open_model

        encoder = open_model(encoder)
    began = time.monotonic()
    again = None if quick else getattr(encoder, "again", None)
    twin = again() if again else None
    findings: list[Finding] = []
    for check in CHECKS:
        name = check.__name__.removeprefix("check_")
        tick(name)
        try:
            findings += check(encoder, twin, quick)
        except Exception as error:  # an encoder that breaks its contract may fail in any way
            reason = (str(error) or type(error).__name__).splitlines()[0]
            expected = "frames of every layer, as the batch contract says"
            findings.append(Finding(name, FAIL, reason, expected))
    info = encoder.info
    return Certificate(
        model=info.id,
        revision=info.revision,
        weights_sha256=info.weights_sha256,
        implementation=encoder.implementation,
        precision=encoder.precision,
        quick=quick,
        findings=tuple(findings),
        packages=package_versions(),
        device=device_name(encoder.device),
        seconds=round(time.monotonic() - began, 2),
    )
