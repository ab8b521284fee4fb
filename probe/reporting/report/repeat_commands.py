"""Commands that repeat runs, from the arguments that records hold."""

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from probe.files import canonical_json
from probe.reporting.rows import one_line

PLACEHOLDERS = "# Some records hold no arguments of their run: replace what stands in capitals, and check the rest."
# Options of `probe extract` and of `probe run` with the values that need not be said.
EXTRACTION: dict[str, Any] = {
    "layers": "",
    "view": "frames",
    "dtype": "float16",
    "compression": "none",
    "ctc": False,
    "implementation": "packed",
    "precision": "fp32",
    "chunk_s": 20.0,
    "context_s": 5.0,
    "condition": "clean",
    "condition_seed": 0,
}
RUN: dict[str, Any] = {
    "trials": None,
    "dev_trials": None,
    "labels": None,
    "device": None,
    "seed": 0,
    "limit": None,
    "memory_bytes": 4_000_000_000,
}
NAMES = {"memory_bytes": "--memory"}


def exact_commands(records: pd.DataFrame, folder_of: Mapping[str, str]) -> list[str]:
    """The commands of these records, which hold the arguments of their run, as a shell reads them;
    each once.

    Args:
        folder_of: seed -> folder of its records.
    """
    distinct = {canonical_json(arguments): arguments for arguments in records["arguments"]}
    extractions: list[str] = []
    runs: dict[
        str, tuple[dict[str, Any], list[str]]
    ] = {}  # what models are asked alike, and the models
    for _, arguments in sorted(distinct.items()):
        alike = {
            key: value for key, value in arguments.items() if key not in ("model", "extraction")
        }
        runs.setdefault(canonical_json(alike), (alike, []))[1].append(arguments["model"])
        extraction = arguments.get("extraction", {})
        words = [
            "probe",
            "extract",
            *_option("--model", extraction.get("model", arguments["model"])),
        ]
        words += [
            *_option("--corpus", arguments["corpus"]),
            "--to",
            "features/",
            *_options(extraction, EXTRACTION),
        ]
        extractions.append(_line([*words, *_options(arguments, {"limit": None})]))
    asked = [_run(*run, folder_of) for _, run in sorted(runs.items())]
    return list(dict.fromkeys([*extractions, *asked]))


def _run(arguments: Mapping[str, Any], models: Iterable[str], folder_of: Mapping[str, str]) -> str:
    """The command that asks these models."""
    words = ["probe", "run", arguments["task"]]
    for model in dict.fromkeys(models):
        words += _option("--model", model)
    words += _option("--corpus", arguments["corpus"])
    for key, value in sorted(arguments.get("overrides", {}).items()):
        words += _option(f"--{key}", value)
    conditions = arguments.get("conditions") or ["clean"]
    for name in conditions if conditions != ["clean"] else ():
        words += _option("--condition", name)
    words += _options(arguments, RUN)
    return _line([*words, "--from", "features/", "--to", folder_of[str(arguments["seed"])]])


def _options(values: Mapping[str, Any], usual: Mapping[str, Any]) -> list[str]:
    """The options whose values are not the usual ones."""
    words: list[str] = []
    for key, default in usual.items():
        value = values.get(key, default)
        if value in (default, None):
            continue
        name = NAMES.get(key, f"--{key.replace('_', '-')}")
        words += [name] if value is True else _option(name, value)
    return words


def _option(name: str, value: object) -> list[str]:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return [name, text]


def _line(words: Iterable[str]) -> str:
    return shlex.join(one_line(word) for word in words)
