"""The catalogue of known checkpoints: ``known.csv``, one row each. It loads no heavy library.

``certain`` is ``yes`` if a primary source confirms the row (``remark`` names exceptions), otherwise
``likely``. A row decides random weights and the expectations of `probe.models.check`; a
checkpoint's own files decide everything else.
"""

import csv
import difflib
import functools
import importlib.metadata
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
# Families whose configuration says whether a final LayerNorm follows the last block.
PRE_OR_POST_LN = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat")
# Families whose blocks read frames joined in pairs; after the last block, ``final`` returns to the
# rate of the front-end.
SQUEEZED = ("sew", "sew-d")
# Entry points that name plug-ins, which `probe.models.plugins.loader` opens.
GROUP = "probe.models"
# Prefix of the names of torchaudio's bundles.
TORCHAUDIO = "torchaudio:"
# The trained model whose files are in this package; `recipes/pretrain` says how it was made.
NANO = "layerprobe/data2vec-audio-nano"
# Models in this package -> the folders of their files.
SHIPPED = {NANO: Path(__file__).parent.parent / "shipped" / "data2vec-audio-nano"}
# Weights that only training uses (the vector that replaces masked frames); they may be missing or
# have any values.
UNUSED = ("masked_spec_embed",)
# Models with names similar to speech models: a part of the name, and their input.
NOT_SPEECH = {"data2vec-text": "text", "data2vec-vision": "images"}


@dataclass(frozen=True)
class Known:
    """One row of ``known.csv``.

    Attributes:
        model: name on the hub; a name without a slash is an architecture that exists only with
            random weights.
        family: transformers' ``model_type``.
        layers, width, heads, ffn: number of blocks, and their sizes.
        norm: ``group`` or ``layer`` normalisation in the convolutional front-end; empty if the
            family has no choice.
        pre_ln: whether a final LayerNorm follows the last block ("stable layer norm"; always in
            Conformer and Whisper).
        conv_bias: whether the front-end's convolutions have a bias.
        settings: further keys of the configuration.
        parameters: exact number of parameters of the encoder without a head.
        normalize: whether waveforms are normalised to zero mean and unit variance.
        ctc: whether the checkpoint has a trained CTC head.
        pretrained_on, fine_tuned_on: training data, in words.
        licence: licence of the weights; ``unverified`` if its text was not checked.
        torchaudio: torchaudio's bundle of the same weights; empty if there is none.
        certain: ``yes`` or ``likely``.
        remark: peculiarities and uncertainties.
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
        """The names of the layers for display, with ``final`` if it is a separate layer."""
        return f"0..{self.layers}" + (", final" if self.pre_ln or self.family in SQUEEZED else "")

    def config(self) -> dict[str, Any]:
        """Return the configuration's keys that differ between checkpoints of the family, with
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
    """Return the rows by name, in the order of the file."""
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


def sources_of(row: Known) -> list[str]:
    """Return the sources of a known checkpoint: ``shipped`` if its files are in this package,
    otherwise ``hub`` (``hub (cached)`` if files of it are in the cache) and ``torchaudio`` (as
    ``torchaudio:`` and the bundle's name); ``random``.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    if row.model in SHIPPED:
        return ["shipped", "random"]
    is_cached = (Path(HF_HUB_CACHE) / f"models--{row.model.replace('/', '--')}").is_dir()
    hub = ["hub (cached)" if is_cached else "hub"] if "/" in row.model else []
    return [*hub, *(["torchaudio"] if row.torchaudio else []), "random"]


def close_names(name: str, others: tuple[str, ...] = ()) -> list[str]:
    """Return known names that are similar to ``name``, best first, ignoring case and the
    organisation.
    """
    known = {candidate.lower(): candidate for candidate in (*others, *known_models())}
    known |= {candidate.rpartition("/")[2].lower(): candidate for candidate in known_models()}
    matches = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.6)
    matches += difflib.get_close_matches(name.rpartition("/")[2].lower(), known, n=3, cutoff=0.75)
    return [item for item in dict.fromkeys(known[match] for match in matches) if item != name]


def installed_plugins() -> dict[str, list[str]]:
    """Return the factories that installed packages give each name; there should be one."""
    factories: dict[str, list[str]] = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        factories[entry.name] = list(dict.fromkeys([*factories.get(entry.name, []), entry.value]))
    return factories
