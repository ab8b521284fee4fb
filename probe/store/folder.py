"""Folders of stores: making a store for a recipe, and finding the one that serves a model and a view."""

import contextlib
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from probe.errors import ProbeError, listed
from probe.files import file_name, sha256_of_json, write_json
from probe.store.entries import FORMAT
from probe.store.features import FeatureStore, Stored
from probe.store.views import serves


def create_store(root: Path, requested: str, recipe: dict[str, Any], environment: dict[str, Any]) -> FeatureStore:
    """The store of a recipe beneath ``root``, begun if it is not there yet."""
    sha256 = sha256_of_json(recipe)
    path = store_path(root, recipe)
    if not (path / "recipe.json").exists():
        path.mkdir(parents=True, exist_ok=True)
        head = {"format": FORMAT, "requested": requested, "sha256": sha256, "recipe": recipe, "environment": environment}
        write_json(path / "recipe.json", head)
    return FeatureStore(path)


def discard_store(path: Path) -> None:
    """Removes a store in which nothing was ever planned, while no other run writes into it."""
    for name in ("recipe.json", "certificate.json", "lock"):
        (path / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something else is in there
        path.rmdir()
        path.parent.rmdir()


def store_path(root: Path, recipe: dict[str, Any]) -> Path:
    """``root/<model>/<view>-<condition>-<recipe8>``."""
    name = f"{file_name(recipe['view'])}-{file_name(recipe['condition'])}-{sha256_of_json(recipe)[:8]}"
    return Path(root) / file_name(recipe["model"]["id"]) / name


def find_stores(path: Path | str) -> list[FeatureStore]:
    """The store at ``path``, or all stores beneath it, in the order of their paths."""
    root = Path(path)
    return [
        FeatureStore(item.parent)
        for item in sorted([*root.glob("recipe.json"), *root.glob("*/recipe.json"), *root.glob("*/*/recipe.json")])
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
        found = listed([str(store.path) for store in stores]) or "none"
        raise ProbeError(f"{path}: expected one feature store, found {found}. Name the folder that holds recipe.json.")
    return stores[0] if layer is None else stores[0].layer(layer)


def select_store(root: Path, model: str, view: str, condition: str = "clean", keys: Collection[str] = ()) -> FeatureStore:
    """The store beneath ``root`` that serves ``view`` of ``model``.

    Of several: the one with the most of ``keys``; then one that was asked for by just this name (``random:org/name`` has one per
    seed); then the view itself rather than a richer one; then the most layers; then one with transcripts of the model's CTC head.

    Raises:
        ProbeError: none, or several that differ in more than their layers.
    """
    everything = find_stores(root)
    model = os.path.normpath(model)  # a folder may be named with ./ or a slash at its end
    identifier, _, revision = model.partition("@")
    stores = [store for store in everything if model in (os.path.normpath(store.requested), store.recipe["model"]["id"])]
    if not stores and revision:
        stores = [
            s for s in everything if s.recipe["model"]["id"] == identifier and s.recipe["model"]["revision"].startswith(revision)
        ]
    usable = [store for store in stores if serves(store.view, view) is not None and store.recipe["condition"] == condition]
    if not usable:
        there = sorted({f"{store.requested} ({store.view}, {store.recipe['condition']})" for store in everything})
        heard = "" if condition == "clean" else f" --condition {condition}"
        raise ProbeError(
            f"{root}: no features of {model} that give {view} ({condition}); found {listed(there) or 'no store'}. "
            f"Run `probe extract --model {model} --view {view}{heard} --corpus ... --to {root}`."
        )

    def rank(store: FeatureStore) -> tuple[int, bool, int, int, bool]:
        missing = sum(key not in store.utterances for key in keys)
        renamed, detour = os.path.normpath(store.requested) != model, serves(store.view, view) or 0
        return missing, renamed, detour, -len(store.layers), "ctc" not in store.recipe

    best = min(map(rank, usable))
    usable = [store for store in usable if rank(store) == best]
    if len(usable) > 1:
        differing = sorted(
            name for name in usable[0].recipe["model"] if usable[0].recipe["model"][name] != usable[1].recipe["model"].get(name)
        )
        raise ProbeError(
            f"{root}: {len(usable)} stores of {model} serve {view}: {listed([store.path.name for store in usable])}; "
            f"they differ in {', '.join(differing) or 'the recipe'}. Name the revision ({model}@...) or remove one."
        )
    return usable[0]


def describe_store(store: FeatureStore) -> dict[str, str]:
    """What is inside a store, for people: one line per entry."""
    recipe = store.recipe
    model = recipe["model"]
    newest = [versions[-1] for versions in store.utterances.values()]
    seconds = sum(item.duration_s for item in newest)
    n_bytes = sum(path.stat().st_size for path in store.path.glob("shard-*.h5"))
    widths = sorted(set(store.layers.values()))
    dtypes = sorted({dtype for of_shard in store.dtypes.values() for dtype in of_shard.values()})
    aliases = "".join(f" ({alias} is {layer})" for alias, layer in store.aliases.items())
    pending = [job for job in store.jobs if job.number not in store.complete]
    threads = store.environment["threads"]
    rates = Counter(item.native_rate_hz for item in newest)
    described = {
        "store": str(store.path),
        "model": f"{model['id']} {model['revision']}, {model['family']}",
        "weights": model["weights_sha256"] or "none",
        "view": f"{store.view}, condition {recipe['condition']}",
        "layers": f"{', '.join(store.layers)}{aliases}",
        "width": ", ".join(map(str, widths)),
        "dtype": ", ".join(dtypes) or "-",
        "utterances": f"{len(newest)} ({seconds / 3600:.2f} h, {sum(item.n_frames for item in newest)} frames)",
        "shards": f"{len(store.dtypes)} complete, {sum(job.parts for job in pending)} planned and missing; {n_bytes / 1e6:.1f} MB",
        "recipe": store.recipe_sha256,
        "audio": f"{model['rate_hz']} Hz, {', '.join(f'{key} {value}' for key, value in recipe['audio'].items())}",
        "rates": ", ".join(f"{n} at {rate or 'unknown'} Hz" for rate, n in sorted(rates.items())) or "-",
        "sound": _sound(newest),
        "ctc head": f"{len(recipe['ctc']['writes'])} symbols, greedy transcripts" if "ctc" in recipe else "not run",
        "checked": _checked(store.certificate),
        "begun with": ", ".join(f"{name} {version}" for name, version in store.environment["packages"].items()),
        "begun on": store.environment["device"] + (f", {threads} threads" if threads else ""),
        "failures": str(len(store.failures)),
    }
    return described | {f"  {key}": failure.reason for key, failure in store.failures.items()}


def _sound(stored: Sequence[Stored]) -> str:
    """What is unusual about the sound of these utterances, in one line: counts, and the first three of each kind."""
    keys: dict[str, list[str]] = {}
    for item in stored:
        for flag in item.flags or ():
            keys.setdefault(flag, []).append(item.key)
    parts = [f"{flag} {len(of_flag)} ({listed(of_flag, 3)})" for flag, of_flag in sorted(keys.items())]
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
