"""The catalogue of known checkpoints: ``known.csv``, one row each. It loads no heavy library.

``certain`` is ``yes`` where the row was read in a primary source (``remark`` names what was not)
and ``likely`` where it was not. A row decides random weights and the expectations of
`probe.models.check`; a checkpoint's own files decide everything else.
"""

import csv
import difflib
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Families (transformers' ``model_type``) that can be opened.
FAMILIES = (
    *("wav2vec2", "data2vec-audio", "hubert", "wavlm", "unispeech", "unispeech-sat"),
    *("wav2vec2-conformer", "sew", "sew-d", "wav2vec2-bert", "whisper"),
)
# Those whose configuration says whether a final LayerNorm follows the last block.
PRE_OR_POST_LN = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat")
# Those whose blocks see frames joined in pairs; ``final`` is brought back to the rate of the
# front-end after the last of them.
SQUEEZED = ("sew", "sew-d")
# How the names of torchaudio's bundles begin.
TORCHAUDIO = "torchaudio:"
# Weights that are used in training alone (the vector that masked frames are replaced with); they
# may be missing, or hold anything.
UNUSED = ("masked_spec_embed",)
# Siblings of speech models in name only: part of the name -> what they read.
NOT_SPEECH = {"data2vec-text": "text", "data2vec-vision": "images"}


@dataclass(frozen=True)
class Known:
    """One row of ``known.csv``.

    Attributes:
        model: name on the hub; without a slash: an architecture that exists with random weights
            only.
        family: transformers' ``model_type``.
        layers, width, heads, ffn: number of blocks, and their sizes.
        norm: ``group`` or ``layer`` normalisation in the convolutional front-end; empty where the
            family has no choice.
        pre_ln: whether a final LayerNorm follows the last block ("stable layer norm"; always in
            Conformer and Whisper).
        conv_bias: whether the front-end's convolutions have a bias.
        settings: further keys of the configuration.
        parameters: of the encoder without any head, exact.
        normalize: whether waveforms are brought to zero mean and unit variance.
        ctc: whether a trained CTC head comes with it.
        pretrained_on, fine_tuned_on: data, in words.
        licence: of the weights; ``unverified`` where its text was not seen.
        torchaudio: torchaudio's bundle of the same weights; empty where there is none.
        certain: ``yes`` or ``likely``.
        remark: what is odd or not certain.
    """

    model: str
    family: str
    layers: int
    width: int
    heads: int
    ffn: int
    norm: str
    pre_ln: bool
    conv_bias: bool
    settings: dict[str, Any]
    parameters: int
    normalize: bool
    ctc: bool
    pretrained_on: str
    fine_tuned_on: str
    licence: str
    torchaudio: str
    certain: str
    remark: str

    @property
    def layer_names(self) -> str:
        """Names of its layers for people; ``final`` where it is a layer of its own."""
        return f"0..{self.layers}" + (", final" if self.pre_ln or self.family in SQUEEZED else "")

    def config(self) -> dict[str, Any]:
        """Return the configuration's keys that differ between checkpoints of the family, by
        transformers' names.
        """
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        if self.family == "whisper":
            names = ("d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim")
        sizes = (self.width, self.layers, self.heads, self.ffn)
        config: dict[str, Any] = dict(zip(names, sizes, strict=True))
        if self.family not in ("whisper", "wav2vec2-bert"):
            config["conv_bias"] = self.conv_bias
        if self.norm:
            config["feat_extract_norm"] = self.norm
        if self.family in PRE_OR_POST_LN:
            config["do_stable_layer_norm"] = self.pre_ln
        return config | self.settings


@functools.cache
def known_models() -> dict[str, Known]:
    """Name -> row, in the file's order."""
    read: dict[Any, Callable[[str], Any]] = {
        int: int,
        bool: "true".__eq__,
        str: str,
        dict[str, Any]: lambda text: json.loads(text or "{}"),
    }
    kinds = Known.__annotations__.items()
    with (Path(__file__).parent / "known.csv").open(encoding="utf-8", newline="") as file:
        entries = csv.DictReader(file)
        rows = [Known(**{key: read[kind](row[key]) for key, kind in kinds}) for row in entries]
    return {row.model: row for row in rows}


def close_names(name: str, others: tuple[str, ...] = ()) -> list[str]:
    """Return known names that are similar to ``name``, best first, in any case and with or without
    the organisation.
    """
    known = {candidate.lower(): candidate for candidate in (*others, *known_models())}
    known |= {candidate.rpartition("/")[2].lower(): candidate for candidate in known_models()}
    matches = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.6)
    matches += difflib.get_close_matches(name.rpartition("/")[2].lower(), known, n=3, cutoff=0.75)
    return [item for item in dict.fromkeys(known[match] for match in matches) if item != name]
