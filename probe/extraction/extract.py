"""Audio -> features of every layer, in one forward pass: decoded ahead, computed together, written
behind, shard after shard.
"""

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from probe.brief import brief
from probe.data import audio
from probe.data.conditions.condition import Condition, Disturbance, open_condition, parse_condition
from probe.data.conditions.grammar import CLEAN
from probe.data.corpus import Corpus, load_corpus
from probe.data.guarded_decoding import TIMEOUT_S, Decoder
from probe.environment import allowed_cores, code_version, package_versions
from probe.errors import ProbeError, UsageError, listed
from probe.extraction.certificate_cache import keep_certificate, kept_certificate
from probe.extraction.forward import FEWEST_ROWS, Wanted, encoded
from probe.extraction.gather import Shards, Tally, write_job
from probe.extraction.plan import SHARD_BYTES, VALUE_BYTES, Plan, human_bytes, make_plan
from probe.extraction.read_ahead import decoded
from probe.extraction.threads import computing_on, may_decide_bits
from probe.extraction.write_behind import Writer
from probe.files import read_json, require_writable
from probe.model_names import RANDOM, ModelName, own_name
from probe.models.catalogue import CHUNK_S, CONTEXT_S, open_model
from probe.models.check import check_model
from probe.models.encoder import Encoder, device_name
from probe.models.plugins.adapter import Plugin
from probe.store.feature_store import Failure, FeatureStore
from probe.store.layer_names import choose_layers
from probe.store.stores import create_store, discard_store, store_path
from probe.store.views import parse_view

log = logging.getLogger("probe")

# What shards take: one is gathered, one waits, and one is written, with copies of its layers.
SHARDS_BYTES = 4 * SHARD_BYTES
LEAST_BYTES = SHARDS_BYTES + 500_000_000
USUAL_BYTES = 4_000_000_000
AHEAD_BYTES = 256_000_000
MOST_DECODERS = 16
COMPRESSIONS = ("none", "gzip")
# What a frame hears in most families; a recipe names it where it is another.
USUAL_FIELD_MS = 25
PROGRESS = "{desc}: {percentage:3.0f} %|{bar}| {n:.0f} of {total:.0f} s, {speed:.1f} x real time, {remaining} left{postfix}"


class Bar(tqdm):
    """Progress in seconds of audio."""

    @property
    def format_dict(self) -> dict[str, Any]:
        """What `PROGRESS` may name."""
        found = super().format_dict
        return found | {"speed": found["n"] / found["elapsed"] if found["elapsed"] else 0.0}


@dataclass(frozen=True)
class Extraction:
    """What a run did.

    Attributes:
        store: folder of the store, which may not exist after a dry run.
        plan: what there was to do.
        failures: every utterance of the corpus without features, of this run and of earlier ones.
        extracted: utterances extracted by this run.
        resampled: rate in Hz -> utterances of this run whose audio had that rate and not the
            model's.
        seconds: wall time of the extraction itself.
    """

    store: Path
    plan: Plan
    failures: list[Failure]
    extracted: int
    seconds: float
    resampled: Mapping[int, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        failed = f"{len(self.failures)} failed" if self.failures else ""
        extracted = f"{self.extracted} of {len(self.plan.todo)} extracted"
        return brief(
            self, extracted, f"{self.plan.present} present before", failed, str(self.store)
        )

    def summary(self) -> dict[str, Any]:
        """The store and the plan in plain values, for JSON."""
        return {
            "store": str(self.store),
            "utterances": len(self.plan.todo),
            "present": self.plan.present,
            "failed_before": len(self.plan.failed),
            "hours": round(self.plan.audio_s / 3600, 4),
            "frames": self.plan.n_frames,
            "bytes": self.plan.n_bytes,
            "free_bytes": self.plan.free_bytes,
            "extracted": self.extracted,
            "resampled": {str(rate_hz): n for rate_hz, n in self.resampled.items()},
            "failures": {failure.key: failure.reason for failure in self.failures},
        }


def extract(
    model: str | ModelName | Encoder | Plugin,
    corpus: str | Path | Corpus,
    to: str | Path,
    *,
    layers: str | None = None,
    view: str = "frames",
    condition: str | Condition | Disturbance = CLEAN,
    condition_seed: int = 0,
    dtype: str = "float16",
    compression: str = "none",
    device: str | None = None,
    limit: int | None = None,
    splits: Collection[str] | None = None,
    dry_run: bool = False,
    requested: str | ModelName | None = None,
    ctc: bool = False,
    check: bool = True,
    sha256: str | None = None,
    audio_root: str | Path | None = None,
    isolate_decode: bool = False,
    decode_timeout_s: float = TIMEOUT_S,
    workers: int | None = None,
    threads: int | None = None,
    memory_bytes: int = USUAL_BYTES,
    implementation: str = "packed",
    precision: str = "fp32",
    chunk_s: float = CHUNK_S,
    context_s: float = CONTEXT_S,
) -> Extraction:
    """Writes what is missing of a corpus' features into the store of this model, view and recipe
    beneath ``to``.

    Args:
        model: SPEC or NAME=SPEC (see `probe.model_names`), an encoder that is open, or an object
            that is a plug-in.
        corpus: a manifest, ``librispeech:ROOT#subsets``, or a corpus that is loaded.
        to: the folder of all stores.
        layers: such as ``conv,0-12,final``; all but ``conv`` where None.
        view: ``frames``, ``frames:k``, ``segments:n``, ``mean`` or ``meanstd``
            (`probe.store.views`).
        condition: what is done to the audio: a text (``docs/conditions.md``), or one that is
            parsed, or opened at the model's rate.
        condition_seed: of its random draws, where it is a text.
        dtype: ``float16`` (float32 for a layer that it would bend), ``float32``, ``int8`` (with a
            scale per row: an error of at most a 254th of the row's largest value).
        compression: ``none``, or ``gzip`` with shuffling: smaller and slower.
        limit: at most so many utterances of each split.
        splits: whose rows are extracted; all where None.
        dry_run: only the plan.
        requested: how an open encoder was named, as SPEC or NAME=SPEC; as it was opened where None.
        ctc: also runs the checkpoint's own CTC head and keeps its greedy transcript of every
            utterance.
        check: runs the short form of `probe.models.check` before the first utterance, unless these
            weights passed it here before.
        sha256: what the weights must have; only together with a name.
        audio_root: the folder that all audio must lie in, with symbolic links resolved.
        isolate_decode: decodes in a child process, so that a crash of the decoder costs one
            utterance.
        decode_timeout_s: for decoding one file; an utterance that takes longer has failed.
        workers: threads that decode (with ``isolate_decode``, processes); where None, one, and more
            while the model waits for them.
        threads: that a model on the CPU computes with; the fastest where None (see
            `probe.extraction.threads`).
        memory_bytes: for audio, frames and shards together, beyond what libraries and the model
            take.
        implementation, precision, chunk_s, context_s: see `probe.models.catalogue.open_model`; only
            together with a name.

    Returns:
        What was done; its ``failures`` name the utterances that could not be used.

    Raises:
        ProbeError: the corpus, the condition, the model or the disk will not do, the model fails
            its check or has no CTC head, or another run writes into the store.
    """
    parse_view(view)
    if dtype not in VALUE_BYTES or compression not in COMPRESSIONS:
        raise UsageError(
            f"dtype {dtype!r}, compression {compression!r}: expected one of {', '.join(VALUE_BYTES)}, and of {', '.join(COMPRESSIONS)}."
        )
    if isinstance(condition, str):
        condition = parse_condition(condition, seed=condition_seed)
    whole = corpus if isinstance(corpus, Corpus) else load_corpus(corpus, audio_root)
    corpus = whole.limited(limit).of_splits(splits)
    if splits is not None and not corpus.utterances:
        raise UsageError(
            f"{corpus.name}: no rows of split {' or '.join(sorted(splits))}; nothing to extract."
        )
    audio_folder = None if audio_root is None else Path(audio_root)
    root = Path(to)
    if not dry_run and not any(
        root.glob("*/*/recipe.json")
    ):  # what is complete already may lie where nothing can be written
        require_writable(root)
    encoder = model
    if not isinstance(encoder, Encoder):
        encoder = open_model(encoder, device, sha256, implementation, precision, chunk_s, context_s)
    info = encoder.info
    given = requested or (model if isinstance(model, str | ModelName) else None)
    opened_as = info.spec or info.id
    asked = ModelName.parse(given) if given else ModelName(own_name(opened_as), opened_as)
    for note in encoder.info.notes:
        log.info("%s: %s", asked.name, note)
    if memory_bytes < LEAST_BYTES:
        raise UsageError(
            f"--memory {human_bytes(memory_bytes)}: expected at least {human_bytes(LEAST_BYTES)}; shards take most of it."
        )
    names = choose_layers(layers, list(info.every_layer), info.aliases, info.id, list(info.layers))
    if ctc and not encoder.info.ctc:
        if encoder.info.id.startswith(RANDOM):
            raise ProbeError(
                f"{asked.name}: random weights have no CTC head. Leave --ctc out, or name a fine-tuned checkpoint."
            )
        why = next(
            (note for note in encoder.info.notes if "CTC head" in note), "its class has none"
        )
        raise ProbeError(
            f"{asked.name}: no CTC head can be run ({why}). Leave --ctc out, or name a fine-tuned checkpoint, such as those of "
            "`probe models` with CTC under what they were trained on."
        )
    disturbance = condition if isinstance(condition, Disturbance) else None
    if isinstance(condition, Condition):
        disturbance = open_condition(condition, encoder.info.rate_hz, whole, audio_folder)
    if disturbance is not None and disturbance.rate_hz != encoder.info.rate_hz:
        raise UsageError(
            f"{asked.name}: wants {encoder.info.rate_hz} Hz; the condition was opened at {disturbance.rate_hz} Hz."
        )
    recipe = recipe_of(encoder, names, view, ctc, dtype, compression, disturbance)
    n_decoders = workers or min(MOST_DECODERS, allowed_cores())
    decoders = [Decoder(audio_folder, isolate_decode, decode_timeout_s) for _ in range(n_decoders)]
    path = store_path(root, recipe, asked.name if asked.is_alias else None)
    begun = FeatureStore(path) if (path / "recipe.json").exists() else None
    refusal = None if dry_run else _refusal(path)
    if dry_run or refusal:
        with decoders[0] as decoder:
            stretch = disturbance.condition.stretch if disturbance else 1.0
            plan = make_plan(
                corpus, encoder, names, view, dtype, begun, root, decoder.header_duration_s, stretch
            )
        if refusal and plan.todo:
            raise refusal
        if refusal:
            log.info("%s: %s", path, plan.describe())
        return Extraction(path, plan, plan.failed if refusal else [], 0, 0.0)
    with ExitStack() as stack:
        stack.enter_context(
            computing_on(encoder, threads, begun.environment["threads"] if begun else None)
        )
        certificate = (
            _certified(path.parent, encoder, recipe, isinstance(model, str | ModelName))
            if check
            else None
        )
        store = create_store(root, asked, recipe, environment_of(encoder))
        if certificate is not None and store.certificate != certificate:
            store.write_certificate(certificate)
        for decoder in decoders:
            stack.enter_context(decoder)
        rest_bytes = memory_bytes - SHARDS_BYTES
        row_bytes = 4 * sum(info.every_layer[name] for name in names)
        encoder.rows = min(
            encoder.rows, max(FEWEST_ROWS, rest_bytes // 4 // row_bytes)
        )  # twice a batch's frames of all layers
        ahead_bytes = min(AHEAD_BYTES, rest_bytes // 2)
        return _run(
            store,
            corpus,
            encoder,
            names,
            view,
            root,
            decoders,
            workers or 1,
            ahead_bytes,
            disturbance,
        )


def _refusal(folder: Path) -> ProbeError | None:
    """Why nothing can be written into the folder of a store; None where something can."""
    try:
        require_writable(folder)
    except ProbeError as error:
        return error
    return None


def recipe_of(
    encoder: Encoder,
    layers: Sequence[str],
    view: str,
    ctc: bool = False,
    dtype: str = "float16",
    compression: str = "none",
    disturbance: Disturbance | None = None,
) -> dict[str, Any]:
    """Everything that decides a stored value, as it is hashed."""
    info = encoder.info
    model = {
        "id": info.id,
        "revision": info.revision,
        "weights_sha256": info.weights_sha256,
        "family": info.family,
        "aliases": dict(info.aliases),
        "rate_hz": info.rate_hz,
        "hop_samples": info.grid.hop_samples,
        "normalize": info.normalize,
        "settings": dict(info.settings),
    }
    if info.grid.field_samples * 1000 != USUAL_FIELD_MS * info.rate_hz:
        model["field_samples"] = info.grid.field_samples
    others = {name: grid for name, grid in info.other_grids.items() if name in layers}
    if grids := {name: [at.hop_samples, at.field_samples] for name, at in others.items()}:
        model["grids"] = grids
    recipe = {
        "model": model,
        "layers": [[name, info.every_layer[name]] for name in layers],
        "view": view,
        "condition": disturbance.condition.name if disturbance else CLEAN,
        "audio": dict(audio.SETTINGS),
        "implementation": encoder.implementation,
        "precision": encoder.precision,
        "dtype": dtype,
        "chunking": asdict(encoder.chunking) if encoder.chunking else None,
    }
    recipe |= {"disturbance": disturbance.recipe} if disturbance else {}
    recipe |= {"ctc": dict(info.ctc)} if ctc else {}
    return recipe | ({"compression": compression} if compression != "none" else {})


def _certified(
    stores: Path, encoder: Encoder, recipe: Mapping[str, Any], named: bool
) -> dict[str, Any]:
    """The certificate of an encoder: one that a store in this folder has from the same libraries
    and device, one that the user's cache has, or a new one.

    Args:
        named: whether it was opened by its name; of an object nobody can tell whether it is the
            same code.

    Raises:
        ProbeError: the model fails its check.
    """
    now = {
        "revision": encoder.info.revision,
        "weights_sha256": encoder.info.weights_sha256,
        "implementation": encoder.implementation,
        "precision": encoder.precision,
        "packages": package_versions(),
        "device": device_name(encoder.device),
    }
    before = [read_json(path) for path in sorted(stores.glob("*/certificate.json"))]
    for there in sorted(before, key=lambda item: item["quick"]):
        if there["passed"] and all(there.get(name) == value for name, value in now.items()):
            return there
    decides = {**now, "model": recipe["model"], "chunking": recipe["chunking"]}
    if named and (kept := kept_certificate(decides)):
        return kept
    certificate = check_model(encoder, quick=True)
    log.info("%s: %s", encoder.info.id, certificate.summary())
    if certificate.failed:
        failures = "".join(
            f"\n  {item.check}: {item.found}; expected {item.expected}"
            for item in certificate.failed
        )
        raise ProbeError(
            f"{encoder.info.id}: its features cannot be trusted, {len(certificate.failed)} checks failed:{failures}\n"
            "`probe check` shows all of them; --no-check extracts nevertheless."
        )
    if named:
        keep_certificate(decides, certificate.as_json())
    return certificate.as_json()


def environment_of(encoder: Encoder) -> dict[str, Any]:
    """What a store is computed with besides its recipe; a difference warns and extracts nothing
    again.

    ``threads`` is 0 where no bit depends on their number.
    """
    return {
        "packages": package_versions(),
        "code": code_version()["version"],
        "device": device_name(encoder.device),
        "threads": torch.get_num_threads() if may_decide_bits(encoder) else 0,
    }


def _run(
    store: FeatureStore,
    corpus: Corpus,
    encoder: Encoder,
    layers: Sequence[str],
    view: str,
    root: Path,
    decoders: Sequence[Decoder],
    at_first: int,
    ahead_bytes: int,
    disturbance: Disturbance | None,
) -> Extraction:
    with store.writing():
        store.refresh()
        stretch = disturbance.condition.stretch if disturbance else 1.0
        plan = make_plan(
            corpus,
            encoder,
            layers,
            view,
            store.recipe["dtype"],
            store,
            root,
            decoders[0].header_duration_s,
            stretch,
        )
        if plan.n_bytes > plan.free_bytes:
            if not store.jobs:
                discard_store(store.path)
            fitting = plan.describe_choices(plan.free_bytes)
            raise ProbeError(
                f"{store.path}: about {human_bytes(plan.n_bytes)} to write, {human_bytes(plan.free_bytes)} free. "
                f"{'What would fit: ' + listed(fitting, 4) if fitting else 'No view of it would fit; name another disk'}."
            )
        _warn_of_other_environment(store, encoder)
        log.info("%s: %s", store.path, plan.describe())
        started = time.monotonic()
        jobs = plan.pending + (store.add_plan(plan.fresh) if plan.fresh else [])
        utterances = {item.key: item for item in plan.todo}
        ordered = [utterances[key] for job in jobs for key in job.keys]
        bar = Bar(
            total=plan.audio_s,
            desc=encoder.info.id,
            bar_format=PROGRESS,
            disable=None if plan.todo else True,
        )
        tally = Tally(bar, encoder.info.rate_hz)
        wanted = Wanted(layers, view, store.recipe["dtype"], "ctc" in store.recipe)
        # Closed here: a generator that waits for the garbage collector may be ended by any thread,
        # and waits for its own.
        with (
            bar,
            Writer() as write,
            closing(
                decoded(ordered, encoder.info.rate_hz, decoders, at_first, ahead_bytes, disturbance)
            ) as audio_of,
            closing(encoded(audio_of, encoder, wanted)) as pieces,
        ):
            shards = Shards(store, write, corpus.columns, layers, environment_of(encoder))
            for job in jobs:
                write_job(shards, job, pieces, tally)
            next(pieces, None)  # to its end
            bar.update(
                max(0.0, bar.total - bar.n)
            )  # files that failed are not always as long as was thought
        tally.report(store.path)
        extracted = len(plan.todo) - len(tally.failures)
        seconds = time.monotonic() - started
        return Extraction(
            store.path, plan, plan.failed + tally.failures, extracted, seconds, tally.resampled
        )


def _warn_of_other_environment(store: FeatureStore, encoder: Encoder) -> None:
    """Says what differs from the environment the store was begun in, as far as it may decide a bit."""
    before, now = store.environment, environment_of(encoder)
    for name in sorted(now):
        if before.get(name) != now.get(name):
            log.warning(
                "%s was begun with %s %s; now it is %s",
                store.path,
                name,
                before.get(name),
                now.get(name),
            )
