"""Names of the weights in a checkpoint, including those that training wrappers, LoRA and quantisers
write.

DataParallel, DDP, FSDP, ``torch.compile``, Lightning and most training scripts put the name of an
attribute before every name of a weight or between its parts. The module finds these additions by
comparison with the names that the encoder expects, and removes them.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from probe.errors import ProbeError, listed

# Parts of names that torch's wrappers insert anywhere and that no model uses.
WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
UNMERGED = re.compile(
    r"(^|\.)(base_layer|lora_\w+|modules_to_save|original_module|ia3_l|hada_w\w+|lokr_w\w+"
    r"|oft_\w+)(\.|$)"
)
QUANTISED = re.compile(
    r"\.(qweight|qzeros|g_idx|SCB|absmax|quant_map|quant_state\.\w+|weight_format|nested_absmax)$"
)
# Substitutions from weight-norm names of old files to those of transformers.
WEIGHT_NORM = (
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
)
DECODER = re.compile(r"(^|\.)decoder\.|^proj_out\.")
ENOUGH = 0.5  # share of the encoder's weights that must have a common prefix


def renamed(name: str, patterns: Sequence[tuple[str, str]]) -> str:
    """Return a name after all substitutions, applied in order."""
    for pattern, by in patterns:
        name = re.sub(pattern, by, name)
    return name


def convolutions(layers: Sequence[tuple[int, int, int]]) -> dict[str, Any]:
    """Return transformers' settings of a front-end of (width, kernel, stride) convolutions."""
    widths, kernels, strides = (list(column) for column in zip(*layers, strict=True))
    sizes = {"conv_dim": widths, "conv_kernel": kernels, "conv_stride": strides}
    return sizes | {"num_feat_extract_layers": len(widths)}


def unwrapped(
    file: Path, names: Collection[str], expected: Collection[str], usual: Sequence[str]
) -> tuple[dict[str, str], str]:
    """Return the name in the file for each name without the additions of a training wrapper, and a
    note on them, empty if there are none.

    Args:
        expected: names of the encoder's weights without a prefix.
        usual: usual prefixes in checkpoints of this family, longest first, including the empty
            text.

    Raises:
        ProbeError: the file holds several encoders that the usual prefixes do not distinguish, or
            two weights with one name.
    """
    plain = {name: WRAPPERS.sub("", name) for name in names}
    votes: Counter[str] = Counter()
    for name in plain.values():
        starts = [0, *(match.end() for match in re.finditer(r"\.", name))]
        votes.update([name[:start] for start in starts if name[start:] in expected][:1])
    most, enough = max(votes.values(), default=0), ENOUGH * len(expected)
    outer = ""
    if most >= enough and all(votes[prefix] < enough for prefix in usual):
        best = sorted(prefix for prefix, count in votes.items() if count == most)
        if len(best) > 1:
            raise ProbeError(
                f"{file}: holds the weights of {len(best)} encoders, whose names begin with "
                f"{listed([repr(item) for item in best])}. Save the one that is meant alone."
            )
        ending = next(item for item in usual if best[0].endswith(item))
        outer = best[0][: len(best[0]) - len(ending)]
    inner = {name: item.removeprefix(outer) for name, item in plain.items()}
    if double := [name for name, count in Counter(inner.values()).items() if count > 1]:
        raise ProbeError(
            f"{file}: two weights stand for each of {listed(sorted(double))}. Save one model alone."
        )
    wrapped = sorted({match[1] for name in names for match in WRAPPERS.finditer(name)})
    left_off = [repr(part) for part in [*([outer] if outer else []), *wrapped]]
    note = (
        f"names of its weights hold {' and '.join(left_off)}, as training wrappers write them; "
        "that was left off"
    )
    return inner, note if left_off else ""


def refuse_unmerged(file: Path, names: Collection[str]) -> None:
    """Raise if the model has a PEFT adapter that is not merged."""
    if unmerged := sorted(name for name in names if UNMERGED.search(name)):
        raise ProbeError(
            f"{file}: {len(unmerged)} weights of a LoRA, or of another adapter of PEFT, that is "
            f"not merged into the model: {listed(unmerged, 3)}. Merge it where the model was "
            "trained, and save the result: `model = model.merge_and_unload(); "
            "model.save_pretrained(FOLDER)`, with the PeftModel as `model`."
        )


def refuse_quantised_names(file: Path, names: Collection[str]) -> None:
    """Raise if a quantiser has packed the weights."""
    if packed := sorted(name for name in names if QUANTISED.search(name)):
        raise ProbeError(
            f"{file}: quantised weights: {listed(packed, 3)}. Fetch or save them unquantised."
        )


def refuse_quantised(where: str, config: Any) -> None:
    """Raise if a configuration says that its weights are quantised."""
    settings = getattr(config, "quantization_config", None)
    if not settings:
        return
    entries = settings if isinstance(settings, Mapping) else getattr(settings, "__dict__", {})
    method = str(entries.get("quant_method") or "an unnamed method")
    raise ProbeError(
        f"{where}: its config.json says that the weights are quantised "
        f"({method.removeprefix('QuantizationMethod.')}), which this version cannot read. Name the "
        "checkpoint that it was made from; or, where the library of that method is installed, save "
        "it unquantised: `AutoModel.from_pretrained(FOLDER).dequantize()"
        ".save_pretrained(NEW_FOLDER)`."
    )


def left_out_notes(names: Sequence[str]) -> list[str]:
    """Return a note for each kind of weights in a file that are not the encoder's."""
    decoder = [name for name in names if DECODER.search(name)]
    others = [name for name in names if name not in decoder]
    notes = []
    if decoder:
        notes.append(
            f"its decoder was left out ({len(decoder)} weights); layers are those of the encoder"
        )
    if others:
        notes.append(
            f"{len(others)} weights that the encoder has no place for were left out: "
            f"{listed(others)}"
        )
    return notes
