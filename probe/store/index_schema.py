"""What must hold of a store's JSON before anything is done with it: a folder may come from
anywhere.

A checksum shows damage, not intent: whoever writes an index writes its checksum too. So types,
ranges and names are checked here, and a size that an index promises is held against the size of its
file. Each refusal is one `ProbeError`.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from probe.errors import ProbeError, UsageError
from probe.store.views import parse_view

FORMAT = 1
DTYPES = {"float16": 2, "float32": 4, "int8": 1}  # of layers, with the bytes of a value
# A shard holds 256 MB by plan; audio that lasts longer than it was said to makes it larger.
USUAL_BYTES = 1 << 30
INFLATED = 16  # beyond that, values per byte of the file
LARGEST = 1 << 40
MOST_SHARDS = 1_000_000
ADVICE = "This is not what `probe extract` writes; do not use this store, or extract it again."

Types = Mapping[str, tuple[type, ...]]
INTEGER = (int,)
NUMBER = (int, float)
TEXT = (str,)
UTTERANCE = {
    "key": TEXT,
    "audio_sha256": TEXT,
    "audio_bytes": INTEGER,
    "audio_mtime_ns": INTEGER,
    "duration_s": NUMBER,
    "n_frames": INTEGER,
    "rows": INTEGER,
}
# ``others``: layer -> [frames, rows], for layers whose frames are not those of the store's first
# layer.
UTTERANCE_MORE = {
    "native_rate_hz": INTEGER,
    "ctc_text": (str, type(None)),
    "flags": (list,),
    "others": (dict,),
}
FAILURE = {"key": TEXT, "reason": TEXT, "audio_bytes": INTEGER, "audio_mtime_ns": INTEGER}
FAILURE_MORE = {"promised_s": (int, float, type(None)), "unreadable": (bool,)}
INDEX = {
    "shard": TEXT,
    "bytes": INTEGER,
    "sha256": TEXT,
    "part": (list,),
    "dtypes": (dict,),
    "utterances": (list,),
    "failures": (list,),
}
HEAD = {"requested": TEXT, "sha256": TEXT, "recipe": (dict,), "environment": (dict,)}
RECIPE = {"model": (dict,), "layers": (list,), "view": TEXT, "condition": TEXT, "audio": (dict,)}
DISTURBANCE = {"text": TEXT, "seed": (int, type(None)), "stretch": NUMBER, "steps": (list,)}
LARGEST_STRETCH = 1e6
MODEL = {
    "id": TEXT,
    "revision": TEXT,
    "weights_sha256": TEXT,
    "family": TEXT,
    "aliases": (dict,),
    "rate_hz": INTEGER,
}
ENVIRONMENT = {"packages": (dict,), "device": TEXT, "threads": INTEGER}


def checked_head(head: dict[str, Any], path: Path) -> dict[str, Any]:
    """``recipe.json`` as it is.

    Raises:
        ProbeError: another format, or an entry that is missing or of another type.
    """
    if head.get("format") != FORMAT:
        raise ProbeError(
            f"{path.parent}: store format {head.get('format')}; this version reads {FORMAT}. Extract again."
        )
    _typed(head, HEAD, path)
    recipe = head["recipe"]
    _typed(recipe, RECIPE, path, "recipe")
    _typed(recipe["model"], MODEL, path, "recipe.model")
    _typed(head["environment"], ENVIRONMENT, path, "environment")
    if "disturbance" in recipe:
        _typed(recipe["disturbance"], DISTURBANCE, path, "recipe.disturbance")
        if (
            not 1 / LARGEST_STRETCH
            <= (stretch := recipe["disturbance"]["stretch"])
            <= LARGEST_STRETCH
        ):
            raise ProbeError(
                f"{path}: recipe.disturbance.stretch is {stretch}; expected more than 0. {ADVICE}"
            )
    named = [
        item
        for item in recipe["layers"]
        if isinstance(item, list) and [type(entry) for entry in item] == [str, int]
    ]
    names = {name for name, width in named if name and "/" not in name and 0 < width <= 1 << 24}
    if not names or len(names) != len(recipe["layers"]):
        raise ProbeError(
            f"{path}: recipe.layers is no list of different names with a width each. {ADVICE}"
        )
    try:
        parse_view(recipe["view"])
    except UsageError as error:
        raise ProbeError(f"{path}: recipe.{error}") from error
    if not all(isinstance(alias, str) for alias in recipe["model"]["aliases"].values()):
        raise ProbeError(f"{path}: recipe.model.aliases names something that is no layer. {ADVICE}")
    if not _numbers(
        [recipe["model"].get("field_samples", 1)], 1, -LARGEST
    ):  # of windows that begin before the audio
        raise ProbeError(f"{path}: recipe.model.field_samples is no number of samples. {ADVICE}")
    grids = recipe["model"].get("grids", {})
    if type(grids) is not dict or not all(
        name in names and _numbers(grid, 2, 1) for name, grid in grids.items()
    ):
        raise ProbeError(
            f"{path}: recipe.model.grids has no hop and field for layers of the store. {ADVICE}"
        )
    return head


def _numbers(value: Any, n: int, least: int) -> bool:
    """Whether a value is a list of n whole numbers in range."""
    return (
        type(value) is list
        and len(value) == n
        and all(type(item) is int and least <= item <= LARGEST for item in value)
    )


def rows_in(utterance: Mapping[str, Any], layer: str) -> int:
    """Rows of an index's utterance in a layer."""
    others = utterance.get("others", {})
    return int(others[layer][1] if layer in others else utterance["rows"])


def checked_certificate(certificate: dict[str, Any], path: Path) -> dict[str, Any]:
    """``certificate.json`` as it is.

    Raises:
        ProbeError: an entry is missing or of another type.
    """
    _typed(certificate, {"quick": (bool,), "passed": (bool,), "findings": (list,)}, path)
    for position, finding in enumerate(certificate["findings"]):
        _typed(finding, {"check": TEXT, "result": TEXT}, path, f"findings[{position}]")
    return certificate


def checked_jobs(plan: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """The jobs of a plan.

    Raises:
        ProbeError: another format, an entry of another type, no keys or some twice, an absurd
            number.
    """
    if not re.fullmatch(r"plan-\d{5,9}", path.stem):
        raise ProbeError(f"{path}: expected a name such as plan-00000.json. Move it elsewhere.")
    jobs = plan.get("jobs")
    if plan.get("format") != FORMAT or not isinstance(jobs, list):
        raise ProbeError(
            f"{path}: format {plan.get('format')}; expected a plan of format {FORMAT}. {ADVICE}"
        )
    for position, job in enumerate(jobs):
        where = f"jobs[{position}]"
        _typed(job, {"number": INTEGER, "keys": (list,), "parts": INTEGER}, path, where)
        keys = job["keys"]
        if not 0 <= job["number"] < LARGEST or not 1 <= job["parts"] <= MOST_SHARDS:
            raise ProbeError(
                f"{path}: {where} has number {job['number']} and {job['parts']} parts. {ADVICE}"
            )
        if not keys or not all(type(key) is str for key in keys) or len(set(keys)) != len(keys):
            raise ProbeError(f"{path}: {where}.keys is no list of different ids. {ADVICE}")
    return jobs


def check_numbers(jobs: Iterable[tuple[int, int]], folder: Path) -> None:
    """Refuses plans, as (number, parts) of each job, in which two jobs would become the same shard,
    or far too many.

    Raises:
        ProbeError: naming the job.
    """
    seen: set[int] = set()
    n_shards = 0
    for number, parts in jobs:
        n_shards += parts
        if number in seen:
            raise ProbeError(
                f"{folder}: two plans name job {number}, so two shards would have one name. {ADVICE}"
            )
        if n_shards > MOST_SHARDS:
            raise ProbeError(f"{folder}: the plans name more than {MOST_SHARDS} shards. {ADVICE}")
        seen.add(number)


def checked_index(
    index: dict[str, Any], path: Path, layers: Mapping[str, int] | None
) -> dict[str, Any]:
    """The index of a shard as it is.

    Args:
        path: where it was read; its shard has the same name with another ending.
        layers: layer -> width of the stored rows; None where the recipe is not known.

    Raises:
        ProbeError: another format, a name that is not the file's, an entry of another type or out
            of range, more rows than a file of its size can hold.
    """
    if index.get("format") != FORMAT:
        raise ProbeError(
            f"{path}: format {index.get('format')}; this version reads {FORMAT}. {ADVICE}"
        )
    _typed(index, INDEX, path)
    n_bytes, utterances, dtypes = index["bytes"], index["utterances"], index["dtypes"]
    if index["shard"] != path.stem:
        raise ProbeError(
            f"{path}: is the index of {index['shard']!r}; expected {path.stem!r}. {ADVICE}"
        )
    if (
        not re.fullmatch("[0-9a-f]{64}", index["sha256"])
        or not 0 <= n_bytes <= LARGEST
        or bool(n_bytes) != bool(utterances)
    ):
        raise ProbeError(
            f"{path}: {n_bytes} bytes with sha256 {index['sha256'][:80]!r} for {len(utterances)} utterances. {ADVICE}"
        )
    _check_part(index["part"], path)
    _all_typed(utterances, UTTERANCE, UTTERANCE_MORE, path, "utterances")
    _all_typed(index["failures"], FAILURE, FAILURE_MORE, path, "failures")
    rows = [item["rows"] for item in utterances]
    for name, values in (("rows", rows), ("n_frames", [item["n_frames"] for item in utterances])):
        if utterances and not 0 <= min(values) <= max(values) <= LARGEST:
            raise ProbeError(
                f"{path}: {name} from {min(values)} to {max(values)} in one utterance. {ADVICE}"
            )
    if layers is None:
        layers = dict.fromkeys(dtypes, 1)
    known = all(type(dtype) is str and dtype in DTYPES for dtype in dtypes.values())
    if utterances and not (known and dtypes.keys() == layers.keys()):
        found = ", ".join(f"{layer} {dtype}" for layer, dtype in dtypes.items())
        raise ProbeError(
            f"{path}: layers {found}; expected {', '.join(layers)}, each one of {', '.join(DTYPES)}. {ADVICE}"
        )
    others = utterances[0].get("others", {}).keys() if utterances else ()
    for item in utterances if others or any("others" in item for item in utterances) else ():
        found = item.get("others", {})
        if (
            found.keys() != others
            or not others <= dtypes.keys()
            or not all(_numbers(n, 2, 0) for n in found.values())
        ):
            raise ProbeError(
                f"{path}: {item['key'][:80]!r} has no frames and rows of the other layers {', '.join(others)}. {ADVICE}"
            )
    rows_of = {
        name: sum(rows_in(item, name) for item in utterances) if name in others else sum(rows)
        for name in dtypes
    }
    promised = (
        sum(rows_of[name] * layers[name] * DTYPES[dtypes[name]] for name in dtypes)
        if utterances
        else 0
    )
    if promised > max(USUAL_BYTES, INFLATED * n_bytes):
        raise ProbeError(
            f"{path}: promises {promised} bytes of values in a file of {n_bytes}. {ADVICE}"
        )
    return index


def _check_part(part: list[Any], path: Path) -> None:
    """Refuses (index, count) that do not belong to a shard of this name."""
    named = re.fullmatch(r"shard-\d+(?:\.(\d+)of(\d+))?", path.stem)
    expected = [int(named[1]) - 1, int(named[2])] if named and named[1] else [0, 1]
    if part != expected or any(type(item) is not int for item in part):
        raise ProbeError(
            f"{path}: is part {part}; expected {expected} of a shard of this name. {ADVICE}"
        )


def _all_typed(items: list[Any], needed: Types, more: Types, path: Path, where: str) -> None:
    """Like `_typed` for every item; those alike in names and types are looked at once."""
    alike: set[tuple[tuple[str, ...], tuple[type, ...]]] = set()
    for position, item in enumerate(items):
        if type(item) is dict and (form := (tuple(item), tuple(map(type, item.values())))) in alike:
            continue
        _typed(item, needed, path, f"{where}[{position}]")
        for name in item.keys() - needed.keys():
            if type(item[name]) not in more.get(name, ()):
                expected = (
                    f"expected {_names(more[name])}"
                    if name in more
                    else "this version knows no such entry"
                )
                raise ProbeError(
                    f"{path}: {where}[{position}].{name} is {str(item[name])[:80]!r}; {expected}. {ADVICE}"
                )
        alike.add(form)


def _typed(value: Any, needed: Types, path: Path, where: str = "") -> None:
    """Refuses a value that is no object, lacks an entry, or has one of another type."""
    if type(value) is not dict:
        raise ProbeError(f"{path}: {where} is no object but {type(value).__name__}. {ADVICE}")
    for name, types in needed.items():
        if type(value.get(name)) not in types:  # bool is no int here
            place = f"{where}.{name}".lstrip(".")
            raise ProbeError(
                f"{path}: {place} is {str(value.get(name, 'missing'))[:80]!r}; expected {_names(types)}. {ADVICE}"
            )


def _names(types: tuple[type, ...]) -> str:
    """Types in words."""
    words = {
        int: "a whole number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "an object",
        bool: "true or false",
    }
    return " or ".join(words.get(item, "nothing") for item in types)
