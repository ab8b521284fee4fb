"""What records say of where their numbers come from, and the names of their file and corpus."""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from probe.data.conditions.grammar import CLEAN
from probe.data.corpus import Corpus
from probe.environment import code_version, package_versions
from probe.evaluation.condition_plan import Hearing
from probe.evaluation.tasks import Task
from probe.files import file_name, sha256_of_json
from probe.model_names import ModelName
from probe.records import SEVERAL
from probe.store.feature_store import FeatureStore

log = logging.getLogger("probe")


def provenance(
    task: Task[Any],
    model: str,
    corpus: Corpus,
    stores: Mapping[str, FeatureStore],
    hearing: Hearing,
    condition: str,
    seed: int,
    device: str,
) -> dict[str, Any]:
    """The fields that all records of a file share: what was asked of what, and what it was computed
    with.
    """
    tested = hearing.tests if condition == SEVERAL else [condition]
    parts = [stores[name] for name in (*hearing.train, *tested)]
    recipes = sorted({part.recipe_sha256 for part in parts})
    drawn = {
        part.recipe["disturbance"]["seed"] for part in parts if "disturbance" in part.recipe
    } - {None}
    store = stores[hearing.train[0]]
    final = store.aliases.get("final", "final")
    return {
        "model": model,
        "revision": store.recipe["model"]["revision"],
        "final_layer": final if final in store.layers else "",
        "task": task.name,
        "task_version": task.version,
        "kind": task.kind.name,
        "corpus": corpus.name,
        "condition": condition,
        "train_condition": hearing.train_condition,
        "condition_seed": drawn.pop() if len(drawn) == 1 else None,
        "seed": seed,
        "recipe": recipes[0] if len(recipes) == 1 else sha256_of_json(recipes),
        "task_sha256": task.sha256,
        "manifest_sha256": corpus.sha256,
        "code": code_version(),
        "packages": package_versions(),
        "device": device,
    }


def arguments_of(
    task: Task[Any], model: ModelName, corpus: Corpus, store: FeatureStore, how: Mapping[str, Any]
) -> dict[str, Any]:
    """What repeats a run: the arguments of `probe.evaluation.run.run`, and those of the extraction
    that it reads.

    Args:
        store: of the training.
        how: further arguments; paths become text.
    """
    recipe = store.recipe
    extracted = (
        model
        if store.spec in (model.resolved, model.as_path)
        else ModelName(store.requested, store.spec)
    )
    cut = recipe.get("chunking") or {"chunk_s": 0.0}
    form = {name: cut[name] for name in ("chunk_s", "context_s") if name in cut}
    form |= {name: recipe[name] for name in ("implementation", "precision") if name in recipe}
    disturbance = recipe.get("disturbance", {})
    condition = {
        "condition": disturbance.get("text", CLEAN),
        "condition_seed": disturbance.get("seed") or 0,
    }
    return {
        "task": task.spec or task.name,
        "overrides": dict(task.overrides),
        "model": model.text,
        "corpus": corpus.source,
        **{name: str(value) if isinstance(value, Path) else value for name, value in how.items()},
        "extraction": {"model": extracted.text} | extraction_of(recipe) | form | condition,
    }


def extraction_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """How `probe.extract` is asked for a recipe, its model, its form and its condition aside."""
    return {
        "layers": ",".join(name for name, _ in recipe["layers"]),
        "view": recipe["view"],
        "dtype": recipe["dtype"],
        "compression": recipe.get("compression", "none"),
        "ctc": "ctc" in recipe,
    }


def stem(fields: dict[str, Any]) -> str:
    """The name of a file of records, without its ending."""
    condition, trained = fields["condition"], fields["train_condition"]
    conditions = condition if trained in (CLEAN, condition) else f"{trained} to {condition}"
    return "__".join(
        file_name(part) for part in (fields["model"], fields["task"], fields["corpus"], conditions)
    )


def with_own_name(corpus: Corpus, results: Path) -> Corpus:
    """The corpus under a name that no records of another manifest have: ``b/test`` for
    ``b/test.csv`` where the folder holds records of ``a/test.csv``.

    A manifest that was edited in its place keeps its name.
    """
    names = _longer_names(corpus)
    name = next((item for item in names if not _is_taken(corpus, item, results)), corpus.name)
    if name != corpus.name:
        log.info(
            "%s: %s holds records of another manifest %s; records of this one have the name %s",
            *(corpus.source, results, corpus.name, name),
        )
        return replace(corpus, name=name)
    return corpus


def _longer_names(corpus: Corpus) -> Iterator[str]:
    """The name alone, and with more and more of the folders that it lies in before it."""
    folders = corpus.folder.resolve().parts[1:]
    for start in range(len(folders), -1, -1):
        yield "/".join([*folders[start:], corpus.name])


def _is_taken(corpus: Corpus, name: str, results: Path) -> bool:
    """Whether a folder has records of another manifest under a name."""
    for path in results.glob(f"*__{file_name(name)}__*.jsonl"):
        try:
            with path.open(encoding="utf-8") as file:
                record = json.loads(file.readline())
            source = record["arguments"]["corpus"]
            is_same = record["manifest_sha256"] == corpus.sha256 or record["corpus"] != name
        except (OSError, ValueError, KeyError, TypeError):  # what cannot be read is not replaced
            continue
        if not is_same and os.path.abspath(source) != os.path.abspath(corpus.source):  # noqa: PTH100
            return True
    return False
