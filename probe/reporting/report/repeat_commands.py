"""The commands that repeat the runs of records, from the arguments that the records hold."""

import shlex
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import pandas as pd

from probe.data.conditions.grammar import CLEAN
from probe.data.conditions.severity import by_severity
from probe.files import canonical_json
from probe.records import SEVERAL
from probe.reporting.text import one_line

PLACEHOLDERS = (
    "# Some records do not hold the arguments of their run: replace the words in capitals, and "
    "check the rest."
)
# Options of `probe extract` and of `probe run` with their defaults.
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
    "condition": CLEAN,
    "condition_seed": 0,
}
RUN: dict[str, Any] = {
    "trials": None,
    "dev_trials": None,
    "labels": None,
    "device": None,
    "seed": 0,
    "seeds": None,
    "limit": None,
    "memory_bytes": 4_000_000_000,
}
LISTS = {"verify": {"trials": "TRIALS.csv"}, "frames": {"labels": "LABELS.csv"}}


def commands(records: pd.DataFrame) -> list[str]:
    """The commands that repeat the runs and make their tables; words that records do not hold are
    in capitals.

    Records of several seeds have the same file names, so each seed has a folder.
    """
    seeds = sorted(set(records["seed"]))
    folders = {seed: f"results/seed{seed}/" if len(seeds) > 1 else "results/" for seed in seeds}
    known = records["arguments"].map(lambda arguments: bool(arguments.get("corpus")))
    exact = {canonical_json(item): item for item in records[known]["arguments"]}
    lines = _command_lines([item for _, item in sorted(exact.items())], folders)
    if not known.all():
        lines += [PLACEHOLDERS, *_command_lines(_guessed(records[~known]), folders)]
    sources = shlex.join(word for folder in folders.values() for word in ("--from", folder))
    return [
        *dict.fromkeys(lines),
        f"probe table {sources} --to tables/",
        f"probe report {sources} --to report.html",
    ]


def _command_lines(runs: Iterable[Mapping[str, Any]], folders: Mapping[int, str]) -> list[str]:
    """The extractions of all runs, then the runs; runs that differ in the model only are one."""
    extract_lines: list[str] = []
    arguments_of: dict[str, Mapping[str, Any]] = {}
    models_of: dict[str, list[str]] = {}
    for arguments in runs:
        rest = {k: value for k, value in arguments.items() if k not in ("model", "extraction")}
        arguments_of[canonical_json(rest)] = rest
        models_of.setdefault(canonical_json(rest), []).append(arguments["model"])
        extraction = arguments.get("extraction", {})
        words = ["probe", "extract", "--model", extraction.get("model", arguments["model"])]
        words += ["--corpus", arguments["corpus"], "--to", "features/"]
        words += _options(extraction, EXTRACTION) + _options(arguments, {"limit": None})
        extract_lines.append(_line(words))
    run_lines = []
    for key, arguments in sorted(arguments_of.items()):
        words = ["probe", "run", arguments["task"]]
        words += [word for model in dict.fromkeys(models_of[key]) for word in ("--model", model)]
        words += ["--corpus", arguments["corpus"]]
        for name, value in sorted(arguments.get("overrides", {}).items()):
            words += [f"--{name}", str(value)]
        conditions = arguments.get("conditions") or [CLEAN]
        if conditions != [CLEAN]:
            words += [word for name in conditions for word in ("--condition", name)]
        words += [*_options(arguments, RUN), "--from", "features/"]
        run_lines.append(_line([*words, "--to", folders[arguments["seed"]]]))
    return [*extract_lines, *run_lines]


def _guessed(records: pd.DataFrame) -> list[dict[str, Any]]:
    """Arguments of runs as far as names in their records tell them."""
    runs = []
    by = ["task", "corpus", "kind", "seed", "model"]
    for names, group in records.groupby(by, sort=True):
        task, corpus, kind, seed, model = names
        name, *overrides = str(task).split(":")
        conditions = in_order([*group["condition"], *group["train_condition"]])
        run: dict[str, Any] = {"model": model, "task": name, "corpus": f"{corpus}.csv"}
        run |= {"seed": seed, "conditions": conditions, **LISTS.get(str(kind), {})}
        run["overrides"] = dict(item.partition("=")[::2] for item in overrides)
        drawn = {int(value) for value in group["condition_seed"].dropna()}
        for condition in conditions:
            extraction: dict[Hashable, Any] = {"view": "VIEW", "condition": condition}
            if condition != CLEAN:
                extraction["condition_seed"] = min(drawn, default=0)
            runs.append(run | {"extraction": extraction})
    return runs


def in_order(conditions: Iterable[str]) -> list[str]:
    """Distinct conditions, clean audio first, then the milder."""
    names = set(conditions) - {"", SEVERAL}
    return [*([CLEAN] if CLEAN in names else []), *by_severity(names - {CLEAN})]


def _options(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """The options whose values are not the defaults."""
    words: list[str] = []
    for key, default in defaults.items():
        value = values.get(key, default)
        if value in (default, None):
            continue
        name = "--memory" if key == "memory_bytes" else f"--{key.replace('_', '-')}"
        text = f"{value:g}" if isinstance(value, float) else str(value)
        words += [name] if value is True else [name, text]
    return words


def _line(words: Iterable[str]) -> str:
    return shlex.join(one_line(str(word)) for word in words)
