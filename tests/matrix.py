"""The matrix of docs/certificate.md: how nearly every family is what it should be, measured by the
tests that hold its bounds.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from probe.models import check_frames
from probe.models.certificate import Finding
from probe.models.encoder import CTC, Encoder

MODELS_PAGE = Path(__file__).resolve().parent.parent / "docs" / "certificate.md"
MARK = "<!-- matrix -->"
# Relative L2 of a layer, and the largest error of a value over the layer's rms: against the
# original code, and in batches.
PARITY, LARGEST, COMPANY = 1e-5, 3e-5, 1e-4


def documented() -> dict[str, list[str]]:
    """Name -> the figures of its line in the page."""
    lines = MODELS_PAGE.read_text(encoding="utf-8").split(MARK)[1].strip().splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: figures for name, *figures in rows}


def apart(
    encoder: Encoder, original: Callable[[Tensor], Mapping[str, Tensor]], waves: Iterable[Tensor]
) -> tuple[float, float]:
    """How far utterances, each alone, are from the original code: the worst relative L2 of a layer,
    and the worst of a value.

    Args:
        encoder: every layer of it is compared, under all its names, and its CTC head where it has
            one.
        original: (time,) -> layer -> (frame, dim), of the same layers and names.
        waves: (time,) each.
    """
    names = [*encoder.info.every_layer, *([CTC] if encoder.info.ctc else [])]
    errors = []
    for wave in waves:
        frames, _ = encoder.encode(wave[None], torch.tensor([len(wave)]), names)
        found = {name: item[0].double() for name, item in zip(names, frames, strict=True)}
        found |= {alias: found[layer] for alias, layer in encoder.info.aliases.items()}
        expected = original(wave)
        assert expected.keys() == found.keys()
        for name, there in expected.items():
            error, rms = found[name] - there, there.double().square().mean().sqrt()
            errors.append(
                (float(error.square().mean().sqrt() / rms), float(error.abs().max() / rms))
            )
    return max(l2 for l2, _ in errors), max(largest for _, largest in errors)


def in_batches(encoder: Encoder) -> float:
    """The largest error of a value of an utterance in the batches of the whole certificate, against
    itself alone.
    """
    return figure_of(list(check_frames.check_batches(encoder, None, False)))


def figure_of(findings: Iterable[Finding]) -> float:
    """What the check of batches found."""
    (found,) = [finding for finding in findings if finding.check == "batches"]
    return float(found.found.split()[0])


def hold(name: str, l2: float, largest: float, batches: float) -> None:
    """Holds what `apart` and `in_batches` gave, and the page's line, to the bounds.

    GOLDEN=write puts the figures there, those of a new name last.
    """
    measured, rows = (l2, largest, batches), documented()
    if os.environ.get("GOLDEN") == "write":
        rows[name] = [f"{figure:.1e}" if figure else "0" for figure in measured]
        before, table, after = MODELS_PAGE.read_text(encoding="utf-8").split(MARK)
        lines = [
            *table.strip().splitlines()[:2],
            *(f"| {' | '.join([key, *row])} |" for key, row in rows.items()),
        ]
        MODELS_PAGE.write_text(
            f"{before}{MARK}\n" + "\n".join(lines) + f"\n{MARK}{after}", encoding="utf-8"
        )
    for figures in (measured, rows[name]):
        assert all(
            float(figure) <= bound
            for figure, bound in zip(figures, (PARITY, LARGEST, COMPANY), strict=True)
        ), figures
