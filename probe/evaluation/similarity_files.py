"""The files of comparisons of representations, JSON with sorted keys.

A file, ``results/similarity/<model>__<condition>__<other>__<other
condition>__<corpus>__<view>__<split>.json``, holds no name of an utterance or a speaker:

    format               1
    form                 conditions, models, layers, labels or vectors
    model                name, spec, blocks (how many the model has; null where unknown), revision,
                         condition, recipe (sha256), layers, widths, hop_s
    other                the same of the other side; of labels: name, condition, sha256, labels
                         (their number), widths, and of vectors vectors_sha256
    corpus, manifest_sha256, split, view
    alignment            how rows were aligned
    n_rows, n_sampled    pairs of rows, and those in the sample
    n_utterances, n_blocks, n_groups    blocks are speakers; groups are those of the jackknife
    left_out             reason -> utterances or rows
    settings             seed, sample, epsilon, least_ratio, safe_ratio; parts, trials and epsilons
                         of CCA; of labels units
    notes                what a reader must know
    cells                one per pair of layers: layer, other_layer, and per measure value, low,
                         high (null where undefined): cka, cca (with the epsilons that dev chose,
                         and of vectors chance), pwcca (with chance), mi (with chance), and of
                         conditions distance and cosine (with unrelated, the mean of two clean rows)
    code, packages
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from probe.brief import counted
from probe.data.corpus import Utterance
from probe.data.intervals import LabelledInterval
from probe.environment import code_version, package_versions
from probe.evaluation.aligned_rows import Pairs
from probe.evaluation.dataset import block_of
from probe.evaluation.similarity_sides import Side, Sides
from probe.files import file_name, write_atomically
from probe.measures.held_out_cca import EPSILONS, N_PARTS, N_TRIALS, HeldOutValue
from probe.measures.representations import EPSILON, LEAST_RATIO, SAFE_RATIO, Estimate, enough_rows
from probe.measures.uncertainty import FEWEST_BLOCKS

FORMAT = 1
LONGEST_STEM = 200
LABELLED = ("labels", "vectors")  # forms with labels on the other side
Cell = dict[str, Any]


def file_content(
    sides: Sides, form: str, a: Side, other: Mapping[str, Any], pairs: Pairs
) -> dict[str, Any]:
    """What every file holds beside its cells; the caller adds ``cells`` and may add settings.

    Args:
        form: conditions, models, layers, labels or vectors.
        other: what the file says of the other side.
    """
    comparing = sides.comparing
    # One-hot rows have a direction less than labels.
    widths = max(map(a.width, a.layers)), max(other["widths"]) - (form == "labels")
    return {
        "format": FORMAT,
        "form": form,
        "model": a.described(),
        "other": dict(other),
        "corpus": sides.corpus.name,
        "manifest_sha256": sides.corpus.sha256,
        "split": comparing.split,
        "view": comparing.rows,
        "alignment": pairs.alignment,
        "n_rows": pairs.n_rows,
        "n_sampled": pairs.n_sampled,
        "n_utterances": len({_utterance_of(item) for item in pairs.utterances}),
        "n_blocks": len({block_of(item) for item in pairs.utterances}),
        "n_groups": pairs.n_groups,
        "settings": {
            "seed": comparing.seed,
            "sample": comparing.n_sample,
            "epsilon": EPSILON,
            "least_ratio": LEAST_RATIO,
            "safe_ratio": SAFE_RATIO,
            "parts": N_PARTS,
            "trials": N_TRIALS,
            "epsilons": list(EPSILONS),
        },
        "notes": _notes(pairs, comparing.in_sample or form in LABELLED, widths),
        "left_out": sides.left_out | pairs.left_out,
        "code": code_version(),
        "packages": package_versions(),
    }


def _utterance_of(row: Utterance) -> str:
    whole = row.source if isinstance(row, LabelledInterval) else None
    return (whole or row).key


def _notes(pairs: Pairs, in_sample: bool, widths: tuple[int, int]) -> list[str]:
    """Whether rows or speakers are too few for layers of these widths."""
    notes, n_rows, widest = [], pairs.n_sampled, max(widths)
    if (n_of_part := n_rows // N_PARTS) <= min(widths):
        notes.append(
            f"no CCA of two sides that both have {n_of_part} dimensions or more: {n_rows} rows, "
            f"expected more than {N_PARTS} per dimension of the narrower side"
        )
    if in_sample and not enough_rows(n_rows, widest):
        notes.append(
            f"no PWCCA of layers wider than {n_rows // LEAST_RATIO}: {n_rows} rows, expected "
            f"{LEAST_RATIO} per dimension"
        )
    elif in_sample and n_rows < SAFE_RATIO * widest:
        notes.append(
            f"PWCCA is too high: {n_rows} rows of up to {widest} dimensions, {SAFE_RATIO} "
            "per dimension are safer (see its chance)"
        )
    if pairs.n_groups < FEWEST_BLOCKS:
        speakers = counted(pairs.n_groups, "speaker")
        notes.append(f"no intervals: {speakers}, expected {FEWEST_BLOCKS} or more")
    return notes


def written(content: Mapping[str, Any], results: Path) -> Path:
    """Write a file, and return its path."""
    sides = (content["model"], content["other"])
    names = [side[name] for side in sides for name in ("name", "condition")]
    names += [content[name] for name in ("corpus", "view", "split")]
    stem = "__".join(map(file_name, names))
    stem = stem if len(stem) <= LONGEST_STEM else file_name(stem)
    path = results / "similarity" / f"{stem}.json"
    form: Any = {"sort_keys": True, "indent": 1, "ensure_ascii": False, "allow_nan": False}
    text = json.dumps(content, **form)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (text + "\n").encode())
    return path


def interval_of(estimate: Estimate) -> dict[str, float | None]:
    """Value and ends."""
    return {name: rounded(getattr(estimate, name)) for name in ("value", "low", "high")}


def with_chance(estimate: Estimate) -> dict[str, float | None]:
    """Value, ends and chance."""
    return {name: rounded(value) for name, value in asdict(estimate).items()}


def of_cca(result: HeldOutValue) -> Cell:
    """Value, ends and the epsilons that dev chose."""
    return interval_of(result.estimate) | {"epsilons": list(result.epsilons)}


def rounded(value: float | None) -> float | None:
    """To 6 digits, beyond which the order of summation decides."""
    return None if value is None else float(f"{value:.6g}")
