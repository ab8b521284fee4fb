"""Folders of stores: make a store for a recipe, find the one that serves a model and a view."""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from probe.errors import ProbeError, listed
from probe.files import file_name, sha256_of_json, write_json
from probe.model_names import RANDOM, ModelName, own_name
from probe.remote.paths import as_path
from probe.store.feature_store import FeatureStore, Stored, bytes_of_shards
from probe.store.side_files import CTC_HEAD, FORMAT
from probe.store.views import serves

KEEP_ONE = "Keep one of them here; another --to holds the others"
# Entries of a recipe's model in which stores of one model are equal, whatever layers they hold.
IDENTITY = ("revision", "weights_sha256", "normalize", "settings")


def create_store(
    root: Path, requested: str | ModelName, recipe: dict[str, Any], environment: dict[str, Any]
) -> FeatureStore:
    """The store of a recipe below ``root``, which is begun if there is none.

    Args:
        requested: the name of the model, which names the folder of a new store if it is an alias.
    """
    sha256 = sha256_of_json(recipe)
    model_name = ModelName.parse(requested)
    path = store_path(root, recipe, model_name.name if model_name.is_alias else None)
    if not (path / "recipe.json").exists():
        path.mkdir(parents=True, exist_ok=True)
        head = {"format": FORMAT, "requested": model_name.name, "sha256": sha256, "recipe": recipe}
        write_json(
            path / "recipe.json",
            head | {"environment": environment | {"spec": model_name.resolved}},
        )
    return FeatureStore(path)


def discard_store(path: Path) -> None:
    """Remove the files of a store without a plan, while this run has the claim to plan it."""
    for name in ("recipe.json", "certificate.json", CTC_HEAD):
        (path / name).unlink(missing_ok=True)


def remove_empty(path: Path, root: Path | None = None) -> None:
    """Remove the folder of a store, that of its model, and ``root``, if nothing is in them."""
    with contextlib.suppress(OSError):
        path.rmdir()
        path.parent.rmdir()
        if root is not None:
            root.rmdir()


def store_path(root: Path, recipe: dict[str, Any], alias: str | None = None) -> Path:
    """``root/<model>/<view>-<condition>-<recipe8>``; if the store of this recipe exists, its path,
    whatever its model is called.

    Args:
        alias: the user's name of the model; None takes its id.
    """
    name = (
        f"{file_name(recipe['view'])}-{file_name(recipe['condition'])}-{sha256_of_json(recipe)[:8]}"
    )
    path = as_path(root) / file_name(alias or recipe["model"]["id"]) / name
    if (path / "recipe.json").exists():
        return path
    return next((item.parent for item in sorted(as_path(root).glob(f"*/{name}/recipe.json"))), path)


def find_stores(path: Path | str) -> list[FeatureStore]:
    """The store at ``path``, or all stores beneath it, in the order of their paths."""
    root = as_path(path)
    return [
        FeatureStore(item.parent)
        for item in sorted(
            [*root.glob("recipe.json"), *root.glob("*/recipe.json"), *root.glob("*/*/recipe.json")]
        )
    ]


def open_store(path: Path | str, layer: str | None = None) -> Any:
    """The store at ``path``, or with ``layer`` that layer of all its utterances.

    Args:
        path: a store's folder, or a folder above with just one store in it.

    Returns:
        A `FeatureStore`, or a `LayerArray` (values, offsets, keys).

    Raises:
        ProbeError: no store there, or several.
    """
    stores = find_stores(path)
    if len(stores) != 1:
        paths = listed([str(store.path) for store in stores]) or "none"
        raise ProbeError(
            f"{path}: expected one feature store, found {paths}. "
            "Name the folder that holds recipe.json."
        )
    return stores[0] if layer is None else stores[0].layer(layer)


def select_store(
    root: Path,
    model: str | ModelName,
    view: str,
    condition: str = "clean",
    keys: Collection[str] = (),
    sha256: str = "",
) -> FeatureStore:
    """The store below ``root`` that serves ``view`` of ``model``.

    Several stores are ranked: first the number of ``keys`` that they have; then whether the model
    has this very name; then the view itself before a richer one; then the number of layers; then
    transcripts of the model's CTC head. Stores of different weights, revisions, seeds or hooks are
    refused, and so are stores with equally many keys whose audio was disturbed differently (another
    seed, other noise).

    Args:
        sha256: of the weights in the folder or file that the model's spec names, or of the file
            that is a plug-in's argument; only stores with the same hash serve.

    Raises:
        ProbeError: none, none of these weights, or several that differ in more than their layers.
    """
    model_name = ModelName.parse(model)
    everything = find_stores(root)
    stores = stores_of(everything, model_name, root, sha256)
    usable = [
        store
        for store in stores
        if serves(store.view, view) is not None and store.recipe["condition"] == condition
    ]
    if not usable:
        wanted = "" if condition == "clean" else f" --condition {condition}"
        present = sorted(
            {
                f"{store.requested} ({store.view}, {store.recipe['condition']})"
                for store in everything
            }
        )
        raise ProbeError(
            f"{root}: no features of {model_name.spec} that give {view} ({condition}); "
            f"found {listed(present) or 'no store'}. Run `probe extract --model {model_name.text} "
            f"--view {view}{wanted} --corpus ... --to {root}`."
        )

    def rank(store: FeatureStore) -> tuple[int, bool, int, int, bool]:
        missing = sum(key not in store.utterances for key in keys)
        renamed, detour = store.requested != model_name.name, serves(store.view, view) or 0
        return missing, renamed, detour, -len(store.layers), "ctc" not in store.recipe

    fewest = min(rank(store)[0] for store in usable)
    usable = [store for store in usable if rank(store)[0] == fewest]
    if differing := _differing([store.recipe.get("disturbance", {}) for store in usable]):
        raise ProbeError(
            f"{root}: {len(usable)} stores of {model_name.spec} under {condition}: "
            f"{listed([store.path.name for store in usable])}; "
            f"their {', '.join(differing)} differ. {KEEP_ONE}."
        )
    best = min(map(rank, usable))
    usable = [store for store in usable if rank(store) == best]
    if len(usable) > 1:
        differing = _differing([store.recipe["model"] for store in usable]) or _differing(
            [store.recipe for store in usable]
        )
        raise ProbeError(
            f"{root}: {len(usable)} stores of {model_name.spec} serve {view}: "
            f"{listed([str(store.path) for store in usable])}; they differ in "
            f"{', '.join(differing) or 'nothing'}. {KEEP_ONE}."
        )
    return usable[0]


def stores_of(
    stores: Sequence[FeatureStore], model_name: ModelName, root: Path, sha256: str = ""
) -> list[FeatureStore]:
    """The stores of one model: of one revision, the same weights, settings and hooks.

    Args:
        sha256: see `select_store`.

    Raises:
        ProbeError: the name may mean several models, or no store has these weights.
    """
    called = [store for store in stores if _is_called(store, model_name)]
    if sha256:
        # The same weights serve, whatever the name of their folder.
        candidates = called if model_name.argument else stores
        same = [store for store in candidates if _sha256_of(store, model_name) == sha256]
        if called and not same:
            raise ProbeError(_changed(called, model_name, root, sha256))
        called = same
    deciding = [
        name for name in IDENTITY if name != "revision" or not sha256 or model_name.argument
    ]
    if len(_alike(called, deciding)) > 1:
        called = [store for store in called if _is_exactly(store, model_name)] or called
    if len(kinds := _alike(called, deciding)) > 1:
        models = [of_kind[0].recipe["model"] for of_kind in kinds]
        differing = [name for name in _differing(models) if name in deciding]
        ways = [_way_to_name(of_kind[0]) for of_kind in kinds]
        places = [f"{way} ({of_kind[0].path})" for way, of_kind in zip(ways, kinds, strict=True)]
        advice = "Name one of them with --model"
        if len(set(ways)) < len(ways):
            advice = KEEP_ONE
        raise ProbeError(
            f"{root}: {len(kinds)} stores of different models are called {model_name.spec}; they "
            f"differ in {', '.join(differing)}. {advice}: {listed(places, 10)}."
        )
    return called


def _is_called(store: FeatureStore, model_name: ModelName) -> bool:
    """Whether a store is of this model, as far as names tell."""
    model = store.recipe["model"]
    spec, _, hooks = model_name.resolved.partition("#")
    if _is_exactly(store, model_name):
        return True
    if spec.startswith(RANDOM):
        architecture, _, seed = spec.partition("@")
        return (
            model["id"] == architecture
            and model["revision"] == f"seed {int(seed) if seed.isdecimal() else 0}"
        )
    if hooks:
        return model["id"] == spec and model["revision"].endswith(f", hooks {hooks}")
    if revision := model_name.revision:
        unrevised = model_name.spec.removesuffix(f"@{revision}")
        names = {unrevised, own_name(unrevised)}
        return not names.isdisjoint((model["id"], store.requested)) and model[
            "revision"
        ].startswith(revision)
    return model["id"] == own_name(model_name.spec)


def _is_exactly(store: FeatureStore, model_name: ModelName) -> bool:
    """Whether a store was extracted for this very spec, or has this very name."""
    if store.spec in (model_name.resolved, model_name.as_path):
        return True
    return not model_name.is_alias and os.path.normpath(model_name.spec) == os.path.normpath(
        store.requested
    )


def _alike(stores: Sequence[FeatureStore], deciding: Sequence[str]) -> list[list[FeatureStore]]:
    """The stores, grouped by these entries of their models."""
    kinds: dict[str, list[FeatureStore]] = {}
    for store in stores:
        model = store.recipe["model"]
        kinds.setdefault(sha256_of_json([model.get(name) for name in deciding]), []).append(store)
    return list(kinds.values())


def _way_to_name(store: FeatureStore) -> str:
    """The value of ``--model`` that means only this store, if there is one."""
    model = store.recipe["model"]
    # "local" was the revision of every folder in earlier versions.
    if re.fullmatch("[0-9a-f]{12,40}|local", model["revision"]):
        return f"{model['id']}@{model['revision'][:12]}"
    return store.requested


def _sha256_of(store: FeatureStore, model_name: ModelName) -> str:
    """The hash that `select_store` takes, at the time of extraction."""
    model = store.recipe["model"]
    return str(
        model.get("settings", {}).get("argument_sha256", "")
        if model_name.argument
        else model["weights_sha256"]
    )


def _changed(stores: Sequence[FeatureStore], model_name: ModelName, root: Path, sha256: str) -> str:
    """The message if a checkpoint has changed since its features were extracted."""
    before = list(dict.fromkeys(_sha256_of(store, model_name)[:12] for store in stores))
    older = f", or name the features of the older weights: --model {_way_to_name(stores[0])}"
    return (
        f"{root}: the features of {model_name.spec} were extracted from weights {listed(before)} "
        f"(sha256); {model_name.argument or model_name.spec} now has {sha256[:12]}. "
        f"Extract again with "
        f"`probe extract --model {model_name.text}`{'' if model_name.argument else older}."
    )


def _differing(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of entries that differ."""
    names = sorted({name for entry in entries for name in entry})
    return [
        name for name in names if any(entry.get(name) != entries[0].get(name) for entry in entries)
    ]


def describe_store(store: FeatureStore) -> dict[str, str]:
    """The content of a store for people: one line per entry."""
    recipe = store.recipe
    model = recipe["model"]
    newest = [versions[-1] for versions in store.utterances.values()]
    hours = sum(item.duration_s for item in newest) / 3600
    n_frames = sum(item.n_frames for item in newest)
    n_bytes = bytes_of_shards(store.path)
    dtypes = sorted({dtype for of_shard in store.dtypes.values() for dtype in of_shard.values()})
    aliases = "".join(f" ({alias} is {layer})" for alias, layer in store.aliases.items())
    n_missing = sum(job.parts for job in store.jobs if job.number not in store.complete)
    shards = f"{len(store.dtypes)} complete, {n_missing} planned and missing"
    threads = store.environment["threads"]
    rates = Counter(item.native_rate_hz for item in newest)
    audio = ", ".join(f"{key} {value}" for key, value in recipe["audio"].items())
    packages = store.environment["packages"].items()
    ctc = "not run"
    if "ctc" in recipe:
        ctc = f"{len(recipe['ctc']['writes'])} symbols, greedy transcripts"
    described = {
        "store": str(store.path),
        "model": f"{store.requested}, {model['family']}",
        "opened as": store.spec,
        "revision": model["revision"],
        "weights": model["weights_sha256"] or "none",
        "view": f"{store.view}, condition {recipe['condition']}",
        **_disturbed(recipe),
        "layers": f"{', '.join(store.layers)}{aliases}",
        "width": ", ".join(map(str, sorted(set(store.layers.values())))),
        "dtype": ", ".join(dtypes) or "-",
        "utterances": f"{len(newest)} ({hours:.2f} h, {n_frames} frames)",
        "shards": f"{shards}; {n_bytes / 1e6:.1f} MB",
        "recipe": store.recipe_sha256,
        "audio": f"{model['rate_hz']} Hz, {audio}",
        "rates": ", ".join(f"{n} at {rate or 'unknown'} Hz" for rate, n in sorted(rates.items()))
        or "-",
        "sound": _sound(newest),
        "ctc head": ctc,
        "checked": _checked(store.certificate),
        "begun with": ", ".join(f"{name} {version}" for name, version in packages),
        "begun on": store.environment["device"] + (f", {threads} threads" if threads else ""),
        "failures": str(len(store.failures)),
    }
    return described | {f"  {key}": failure.reason for key, failure in store.failures.items()}


def _disturbed(recipe: Mapping[str, Any]) -> dict[str, str]:
    """What was done to the audio; empty for clean audio."""
    if "disturbance" not in recipe:
        return {}
    done = recipe["disturbance"]
    seed = "" if done["seed"] is None else f", seed {done['seed']}"
    longer = "" if done["stretch"] == 1 else f", {done['stretch']:.4g} times as long"
    return {"disturbed by": f"{done['text']}{seed}{longer}"}


def _sound(stored: Sequence[Stored]) -> str:
    """What is unusual about the sound, in one line: counts, and the first three keys of each."""
    keys: dict[str, list[str]] = {}
    for item in stored:
        for flag in item.flags or ():
            keys.setdefault(flag, []).append(item.key)
    parts = [
        f"{flag} {len(of_flag)} ({listed(of_flag, 3)})" for flag, of_flag in sorted(keys.items())
    ]
    if unknown := sum(item.flags is None for item in stored):
        parts.append(f"{unknown} not looked at (an earlier version's)")
    return "; ".join(parts) or "nothing unusual"


def _checked(certificate: Mapping[str, Any]) -> str:
    """A certificate in one line."""
    if not certificate:
        return "no"
    form = "short form" if certificate["quick"] else "whole form"
    failed = [item["check"] for item in certificate["findings"] if item["result"] == "FAIL"]
    return f"{form}, {'FAILED ' + ', '.join(failed) if failed else 'passed'} (probe check)"
