"""The forms of a store's JSON files, which are checked before their entries are used.

Each file carries a checksum (`probe.files.read_json`), which shows damage. The forms show files of
another version and files that something else wrote.
"""

import base64
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field

from probe.errors import ProbeError, UsageError, listed
from probe.files import sha256_of_json
from probe.schema import Schema, checked
from probe.store.views import parse_view

FORMAT = 1
CTC_HEAD = "ctc_head.json"
ADVICE = "`probe extract` writes no such file; extract this store again."

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Pair = Annotated[list[Count], Field(min_length=2, max_length=2)]
NameAndWidth = Annotated[list[str | int], Field(min_length=2, max_length=2)]
HopAndField = Annotated[list[Positive], Field(min_length=2, max_length=2)]


class OpenForm(Schema):
    """A form that allows further keys."""

    model_config = ConfigDict(extra="ignore")


class ModelEntry(OpenForm):
    """The model in a recipe."""

    id: str
    revision: str
    weights_sha256: str
    family: str
    aliases: dict[str, str]
    rate_hz: Positive
    field_samples: int = 1  # not positive where windows begin before the audio
    grids: dict[str, HopAndField] = Field(default={})


class Disturbance(OpenForm):
    """What a recipe says of a condition."""

    text: str
    seed: int | None
    stretch: Annotated[float, Field(gt=0)]
    steps: list[Any]


class Recipe(OpenForm):
    """Everything that decides a value."""

    model: ModelEntry
    layers: Annotated[list[NameAndWidth], Field(min_length=1)]
    view: str
    condition: str
    audio: dict[str, Any]
    disturbance: Disturbance | None = None


class Environment(OpenForm):
    """What computed a store."""

    packages: dict[str, Any]
    device: str
    threads: int


class Head(OpenForm):
    """``recipe.json``."""

    format: Literal[1]
    requested: str
    sha256: Sha256
    recipe: Recipe
    environment: Environment


class Check(OpenForm):
    """One check in a certificate."""

    check: str
    result: str


class Certificate(OpenForm):
    """``certificate.json``."""

    quick: bool
    passed: bool
    findings: list[Check]


class HeadFile(OpenForm):
    """``ctc_head.json``: a linear layer, its weights row by row with the bias behind each.

    Attributes:
        shape: symbols, and dimensions of the final output + 1.
        float32: the numbers in base64, little-endian.
    """

    shape: Annotated[list[Positive], Field(min_length=2, max_length=2)]
    float32: str


class PlannedJob(OpenForm):
    """Utterances that become a shard."""

    number: Count
    keys: Annotated[list[str], Field(min_length=1)]
    parts: Positive


class PlanFile(OpenForm):
    """``plan-00000.json``."""

    format: Literal[1]
    jobs: list[PlannedJob]


class UtteranceEntry(Schema):
    """An utterance of a shard; ``others``: layer -> frames and rows, for layers whose frames are
    not those of the store's first layer.
    """

    key: str
    audio_sha256: str
    audio_bytes: int
    audio_mtime_ns: int
    duration_s: float
    n_frames: Count
    rows: Count
    native_rate_hz: int = 0
    ctc_text: str | None = None
    flags: list[str] = Field(default_factory=list)
    others: dict[str, Pair] = Field(default_factory=dict)
    excerpt: str = ""


class FailureEntry(Schema):
    """An utterance of an index without features."""

    key: str
    reason: str
    audio_bytes: int
    audio_mtime_ns: int
    promised_s: float | None = None
    unreadable: bool = False
    excerpt: str = ""


class Index(OpenForm):
    """``shard-00000.json``."""

    format: Literal[1]
    shard: str
    bytes: Count
    sha256: Sha256
    part: Pair
    dtypes: dict[str, Literal["float16", "float32", "int8"]]
    utterances: list[UtteranceEntry]
    failures: list[FailureEntry]


def checked_head(head: dict[str, Any], path: Path) -> dict[str, Any]:
    """``recipe.json`` as it is.

    Raises:
        ProbeError: another format, another form, or a recipe without its hash.
    """
    if head.get("format") != FORMAT:
        raise ProbeError(
            f"{path.parent}: store format {head.get('format')}; this version reads {FORMAT}. "
            "Extract again."
        )
    checked(Head, head, path, ADVICE)
    recipe = head["recipe"]
    layers = {name for name, _ in recipe["layers"]}
    if unknown := recipe["model"].get("grids", {}).keys() - layers:
        raise ProbeError(
            f"{path}: recipe.model.grids: found {listed(sorted(unknown))}; expected layers of the "
            f"store. {ADVICE}"
        )
    try:
        parse_view(head["recipe"]["view"])
    except UsageError as error:
        raise ProbeError(f"{path}: recipe.{error}") from error
    if sha256_of_json(head["recipe"]) != head["sha256"]:
        raise ProbeError(f"{path}: the recipe does not have the sha256 beside it. Extract again.")
    return head


def checked_certificate(certificate: dict[str, Any], path: Path) -> dict[str, Any]:
    """``certificate.json`` as it is.

    Raises:
        ProbeError: another form.
    """
    checked(Certificate, certificate, path, ADVICE)
    return certificate


def ctc_head_file(head: np.ndarray) -> dict[str, Any]:
    """The content of ``ctc_head.json`` for (symbol, dim + 1) numbers."""
    numbers = np.ascontiguousarray(head, dtype="<f4").tobytes()
    return {"shape": list(head.shape), "float32": base64.b64encode(numbers).decode()}


def checked_ctc_head(content: dict[str, Any], path: Path) -> np.ndarray:
    """The (symbol, dim + 1) float32 numbers of ``ctc_head.json``.

    Raises:
        ProbeError: another form, or not as many numbers as the shape says.
    """
    form = checked(HeadFile, content, path, ADVICE)
    try:
        numbers = base64.b64decode(form.float32, validate=True)
    except ValueError as error:
        raise ProbeError(f"{path}: float32 is not base64 ({error}). {ADVICE}") from error
    n_symbols, width = form.shape
    if len(numbers) != 4 * n_symbols * width:
        raise ProbeError(
            f"{path}: {len(numbers)} bytes of numbers; expected {4 * n_symbols * width}. {ADVICE}"
        )
    return np.frombuffer(numbers, dtype="<f4").reshape(n_symbols, width)


def checked_jobs(plan: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """The jobs of a plan.

    Raises:
        ProbeError: another name, format or form.
    """
    if not re.fullmatch(r"plan-\d{5,9}", path.stem):
        raise ProbeError(f"{path}: expected a name such as plan-00000.json. Move it elsewhere.")
    checked(PlanFile, plan, path, ADVICE)
    return list(plan["jobs"])


def check_numbers(numbers: Iterable[int], folder: Path) -> None:
    """Refuse plans in which two jobs would become the same shard.

    Raises:
        ProbeError: naming the job.
    """
    job_numbers: set[int] = set()
    for number in numbers:
        if number in job_numbers:
            raise ProbeError(
                f"{folder}: two plans name job {number}, so two shards would have one name. "
                f"{ADVICE}"
            )
        job_numbers.add(number)


def checked_index(
    index: dict[str, Any], path: Path, layers: Iterable[str] | None
) -> dict[str, Any]:
    """The index of a shard as it is.

    Args:
        path: where it was read; its shard has the same name with another ending.
        layers: of the store; None if the recipe is not known.

    Raises:
        ProbeError: another format or form, the name of another shard, or other layers.
    """
    checked(Index, index, path, ADVICE)
    utterances, dtypes = index["utterances"], index["dtypes"]
    if index["shard"] != path.stem:
        raise ProbeError(
            f"{path}: is the index of {index['shard']!r}; expected {path.stem!r}. {ADVICE}"
        )
    if bool(index["bytes"]) != bool(utterances):
        raise ProbeError(
            f"{path}: {index['bytes']} bytes for {len(utterances)} utterances. {ADVICE}"
        )
    if utterances and layers is not None and dtypes.keys() != set(layers):
        raise ProbeError(
            f"{path}: layers {', '.join(dtypes)}; expected {', '.join(layers)}. {ADVICE}"
        )
    others = [item["others"].keys() for item in utterances if item.get("others")]
    if others and (len(others) < len(utterances) or any(keys != others[0] for keys in others)):
        raise ProbeError(f"{path}: utterances differ in the layers with other frames. {ADVICE}")
    return index


def rows_in(utterance: Mapping[str, Any], layer: str) -> int:
    """Rows of an index's utterance in a layer."""
    others = utterance.get("others", {})
    return int(others[layer][1] if layer in others else utterance["rows"])
