"""Adapters of a checkpoint: language adapters of the MMS models are loaded, PEFT adapters are
refused.

A checkpoint of the MMS kind (``adapter_attn_dim`` in its configuration) has small layers in every
block and a CTC head, which each language has in a file ``adapter.<language>.safetensors`` (or
``.bin``). ``target_lang`` in tokenizer_config.json or config.json names the language. This module
does what ``Wav2Vec2ForCTC.from_pretrained(folder, target_lang=...)`` does: the language's weights
replace those in the main file. They change the layers, so the hash of the weights includes them.
"""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from probe.errors import ProbeError, listed
from probe.models.sources.pickles import open_pickle

PEFT_FILE = "adapter_config.json"
TOKENIZER_FILE = "tokenizer_config.json"
OF_LANGUAGE = re.compile(r"adapter\.(.+)\.(safetensors|bin)")
INSIDE_BLOCKS, HEAD = ".adapter_layer.", "lm_head."


def language_of(folder: Path, config: Any) -> str:
    """Return the language that a checkpoint's files name; empty if they name none.

    Raises:
        ProbeError: the files name two languages, or something that is not a name.
    """
    names = {
        "config.json": getattr(config, "target_lang", None),
        TOKENIZER_FILE: _json_of(folder / TOKENIZER_FILE).get("target_lang"),
    }
    languages = {file: name for file, name in names.items() if name is not None}
    for file, name in languages.items():
        if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
            raise ProbeError(
                f"{folder / file}: target_lang is {name!r}; expected the code of a language such "
                "as 'eng'."
            )
    if len(set(languages.values())) > 1:
        sources = " and ".join(f"{name!r} ({file})" for file, name in languages.items())
        raise ProbeError(
            f"{folder}: its files name two languages as target_lang, {sources}. Expected one; "
            "correct either file."
        )
    return str(next(iter(languages.values()), ""))


def languages_beside(folder: Path) -> list[str]:
    """Return the languages that have an adapter in a folder, sorted."""
    files = folder.iterdir() if folder.is_dir() else ()
    matches = (OF_LANGUAGE.fullmatch(path.name) for path in files)
    return sorted({match[1] for match in matches if match})


def adapter_files(language: str) -> list[str]:
    """Return possible names of a language's adapter, in order of preference."""
    return [f"adapter.{language}.{ending}" for ending in ("safetensors", "bin")]


def adapter_of(folder: Path, config: Any, language: str, notes: list[str]) -> Path | None:
    """Return the file of the language's adapter, or None if none is loaded; add a note if the
    folder has adapters.
    """
    languages = languages_beside(folder)
    has_layers = getattr(config, "adapter_attn_dim", None) is not None
    files = [folder / name for name in adapter_files(language) if (folder / name).is_file()]
    if has_layers and language and files:
        notes.append(
            f"the adapter of language {language!r} is loaded ({files[0].name}), as target_lang says"
        )
        return files[0]
    if not languages:
        return None
    if not has_layers:
        notes.append(
            f"adapters of languages {listed(languages)} are not loaded: config.json has no "
            "adapter_attn_dim, so no block has a place for them"
        )
    elif language:
        notes.append(
            f"target_lang is {language!r}, which has no adapter here (there are those of "
            f"{listed(languages)}); the adapter in the main file is taken"
        )
    else:
        notes.append(
            f"adapters of {len(languages)} languages lie beside it ({listed(languages)}) and no "
            "target_lang says which; the adapter in the main file is taken. Set target_lang in "
            f"{TOKENIZER_FILE} to load one"
        )
    return None


def with_adapter(
    tensors: Mapping[str, Tensor],
    file: Path,
    expected: Collection[str],
    prefix: str,
    has_head: bool,
) -> dict[str, Tensor]:
    """Return the weights of a checkpoint, with those of a language's adapter in place of its own.

    Args:
        tensors: weights of the main file.
        expected: names of the model's weights without ``prefix``.
        prefix: possible prefix of the names.
        has_head: whether the language's CTC head will run.

    Raises:
        ProbeError: the file cannot be read, or does not hold an adapter's weights.
    """
    try:
        weights = (
            load_file(file) if file.suffix == ".safetensors" else open_pickle(file, allowed={})
        )
        adapter = {name.removeprefix(prefix): weight for name, weight in dict(weights).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ProbeError(
            f"{file}: holds no weights by their names. Fetch the file again."
        ) from error
    required = {name for name in expected if INSIDE_BLOCKS in name}
    head = {name for name in adapter if name.startswith(HEAD)}
    required |= {f"{HEAD}weight", f"{HEAD}bias"} if has_head else head
    if odd := sorted(required ^ adapter.keys()):
        raise ProbeError(
            f"{file}: {len(required - adapter.keys())} weights of the adapter are missing, and "
            f"{len(adapter.keys() - required)} have no place in this model: {listed(odd, 3)}. "
            "Fetch the file again, or check that it belongs to this checkpoint."
        )
    others = {
        name: item for name, item in tensors.items() if name.removeprefix(prefix) not in adapter
    }
    return others | adapter


def refuse_peft(folder: Path) -> None:
    """Raise if a folder holds a PEFT adapter; the message gives the commands that merge it."""
    file = folder / PEFT_FILE
    if not file.exists():
        return
    settings = _json_of(file)
    kind = str(settings.get("peft_type") or "of an unnamed kind")
    mapping = settings.get("auto_mapping")
    model_class = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    model_class = str(model_class or "AutoModel")
    base = str(settings.get("base_model_name_or_path") or "BASE")
    blank = ", with the checkpoint that it was trained on in the place of BASE"
    merged = f"{folder.resolve().name}-merged"
    extractor = "AutoFeatureExtractor"
    raise ProbeError(
        f"{file}: a PEFT adapter ({kind}) of {base}, which would change the weights of the "
        "checkpoint and is not applied here. Merge it once where peft is installed (`pip install "
        f"peft`), and name the new folder {merged}{blank if base == 'BASE' else ''}:\n"
        f'  python -c "from peft import PeftModel; '
        f"from transformers import {extractor}, {model_class}; "
        f"PeftModel.from_pretrained({model_class}.from_pretrained({base!r}), {str(folder)!r})"
        f".merge_and_unload().save_pretrained({merged!r}); "
        f'{extractor}.from_pretrained({base!r}).save_pretrained({merged!r})"\n'
        f"If the adapter is not meant, remove {PEFT_FILE} from the folder."
    )


def _json_of(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty if it cannot be read."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
