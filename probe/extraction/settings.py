"""Settings of an extraction, in three groups that travel together: what is stored, how the model
runs, how audio is decoded.

`probe.extraction.extract.extract` and `probe.pipeline.bench` take them; the command line has the
same defaults. Each class checks its values when it is built.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from probe.brief import human_bytes
from probe.data.guarded_decoding import TIMEOUT_S
from probe.engines.engine import Engine
from probe.engines.share import WHOLE, Part, Share
from probe.errors import UsageError
from probe.models.catalogue import CHUNK_S, CONTEXT_S
from probe.store.views import parse_view

SHARD_BYTES = 256_000_000
VALUE_BYTES = {"float16": 2, "float32": 4, "int8": 1}
COMPRESSIONS = ("none", "gzip")
# Memory for shards: one is gathered, one waits, and one is written, with copies of its layers.
SHARDS_BYTES = 4 * SHARD_BYTES
LEAST_BYTES = SHARDS_BYTES + 500_000_000


@dataclass(frozen=True, kw_only=True)
class Storing:
    """What a store keeps, of which utterances, and in which form.

    Attributes:
        view: ``frames``, ``frames:k``, ``segments:n``, ``mean`` or ``meanstd``
            (`probe.store.views`).
        stride: keeps every ``stride``-th frame; only with the view ``frames``.
        layers: a list such as ``conv,0-12,final``; None means all layers but ``conv``.
        dtype: ``float16`` (float32 for a layer that float16 would change by more than its
            rounding), ``float32``, or ``int8`` (with a scale per row; the error is at most a 254th
            of the row's largest value).
        compression: ``none``, or ``gzip`` with shuffling, which is smaller and slower.
        ctc: also keep the greedy transcripts of the checkpoint's own CTC head.
        limit: take at most this many utterances of each split.
        splits: take only the rows of these splits; None means all rows.
        share: write only the shards of this share; others are left to other runs.
    """

    view: str = "frames"
    stride: int = 1
    layers: str | None = None
    dtype: str = "float16"
    compression: str = "none"
    ctc: bool = False
    limit: int | None = None
    splits: Collection[str] | None = None
    share: Share | Part = WHOLE

    def __post_init__(self) -> None:
        parse_view(self.view)
        _require("dtype", self.dtype, VALUE_BYTES)
        _require("compression", self.compression, COMPRESSIONS)
        _require_positive("stride", self.stride)
        _require_positive("limit", self.limit)
        if self.stride > 1 and self.view != "frames":
            raise UsageError(
                f"--stride {self.stride}: only --view frames has a stride, not {self.view}."
            )
        parse_view(self.stored_view)

    @property
    def stored_view(self) -> str:
        """The view with its stride: ``frames:k`` for ``frames`` with a stride."""
        return f"{self.view}:{self.stride}" if self.stride > 1 else self.view

    def content(self, layers: Sequence[str]) -> "Content":
        """What a store keeps of each utterance, with the names of the layers."""
        return Content(layers, self.stored_view, self.dtype, self.ctc)


@dataclass(frozen=True)
class Content:
    """What is kept of each utterance; with ``ctc`` also the transcript of the model's CTC head."""

    layers: Sequence[str]
    view: str
    dtype: str = "float16"
    ctc: bool = False


@dataclass(frozen=True, kw_only=True)
class Running:
    """How the model runs.

    Attributes:
        device: ``cpu``, ``cuda`` or ``cuda:1``; None takes a GPU if there is one.
        implementation: ``packed``, or ``reference`` for transformers' own forward.
        precision: ``fp32``, ``tf32`` or ``bf16``, of the packed form's products.
        chunk_s: attention window for long audio, in seconds; 0 disables chunking.
        context_s: extra context on each side of a window, in seconds.
        threads: threads that a model on the CPU computes with; None takes the fastest number
            (`probe.extraction.threads`).
        memory_bytes: memory for audio, frames and shards together, beyond libraries and the model.
        sha256: expected SHA-256 of the weights.
        dead_hosts: other hosts whose runs are known to have ended; what they had claimed is taken
            over at once (`probe.store.claims`).
        check: run the short form of `probe.models.check` before the first utterance, unless these
            weights passed it on this machine before.

    An encoder that is already open keeps its own device, form, precision and chunking.
    """

    device: str | None = None
    implementation: str = "packed"
    precision: str = "fp32"
    chunk_s: float = CHUNK_S
    context_s: float = CONTEXT_S
    threads: int | None = None
    memory_bytes: int = 4_000_000_000
    sha256: str | None = None
    dead_hosts: Collection[str] = ()
    check: bool = True

    def __post_init__(self) -> None:
        _require_positive("threads", self.threads)
        if self.memory_bytes < LEAST_BYTES:
            raise UsageError(
                f"--memory {human_bytes(self.memory_bytes)}: expected at least "
                f"{human_bytes(LEAST_BYTES)}; shards take most of it."
            )


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How audio files are read.

    Attributes:
        audio_root: the folder that all audio must lie in, with symbolic links resolved.
        isolate: decode in child processes; a crash of the decoder then loses one utterance.
        timeout_s: an utterance whose decoding takes longer has failed.
        workers: threads that decode, or processes with ``isolate``; None starts with one and adds
            more while the model waits for them.
    """

    audio_root: str | Path | None = None
    isolate: bool = False
    timeout_s: float = TIMEOUT_S
    workers: int | None = None

    def __post_init__(self) -> None:
        _require_positive("workers", self.workers)
        if not self.timeout_s > 0:
            raise UsageError(f"decoding timeout {self.timeout_s} s: expected more than 0 s.")


def _require(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise UsageError(f"{name} {value!r}: expected one of {', '.join(choices)}.")


def _require_positive(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise UsageError(f"{name} {value}: expected a whole number from 1.")


@dataclass(frozen=True, kw_only=True)
class Extracting:
    """All settings of an extraction, as `probe.pipeline.bench` takes them.

    Attributes:
        engine: whose workers extract and train; None means this process.
    """

    storing: Storing = Storing()
    running: Running = Running()
    decoding: Decoding = Decoding()
    engine: Engine | None = None


EXTRACTING = Extracting()
