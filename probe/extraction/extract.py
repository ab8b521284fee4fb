"""Audio -> features of every layer, in one forward pass. Threads decode ahead of the model and
write behind it, shard after shard.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from probe.brief import brief, human_bytes
from probe.data import audio
from probe.data.conditions.condition import Condition, Disturbance, open_condition, parse_condition
from probe.data.conditions.grammar import CLEAN
from probe.data.corpus import Corpus, Utterance, load_corpus
from probe.data.guarded_decoding import Decoder
from probe.engines.share import Part, Share
from probe.environment import allowed_cores, code_version, package_versions
from probe.errors import ProbeError, UsageError, listed
from probe.extraction.certificate_cache import keep_certificate, kept_certificate
from probe.extraction.forward import FEWEST_ROWS, encoded
from probe.extraction.gather import Bar, Shards, Tally
from probe.extraction.plan import Plan, make_plan
from probe.extraction.read_ahead import Heard, decoded
from probe.extraction.settings import SHARDS_BYTES, Content, Decoding, Running, Storing
from probe.extraction.shared_jobs import Pieces, SharedJobs
from probe.extraction.threads import computing_on, may_decide_bits
from probe.files import UNLIMITED, read_json, require_writable
from probe.model_names import RANDOM, ModelName, own_name
from probe.models.catalogue import open_model
from probe.models.check import check_model
from probe.models.encoder import Encoder, ModelInfo, device_name
from probe.models.plugins.adapter import Plugin
from probe.remote.paths import as_path
from probe.store.claims import PLAN, Claims
from probe.store.feature_store import Failure, FeatureStore, Job
from probe.store.layer_names import choose_layers
from probe.store.stores import create_store, discard_store, remove_empty, store_path

log = logging.getLogger("probe")

AHEAD_BYTES = 256_000_000
MOST_DECODERS = 16
# Field of a frame in most families; a recipe names any other field.
USUAL_FIELD_MS = 25
STORING, RUNNING, DECODING = Storing(), Running(), Decoding()


@dataclass(frozen=True)
class Extraction:
    """What a run did.

    Attributes:
        store: folder of the store, which may not exist after a dry run.
        plan: what there was to do.
        failures: all utterances of the corpus without features, from this run and earlier ones.
        extracted: number of utterances that this run extracted.
        resampled: rate in Hz -> number of utterances of this run that were resampled from it.
        flagged: what is unusual about the sound -> number of utterances of this run.
        rate_hz: the model's.
        seconds: wall time of the extraction itself.
        shards: names of the planned shards that an engine's workers have to write.
    """

    store: Path
    plan: Plan
    failures: list[Failure]
    extracted: int
    seconds: float
    resampled: Mapping[int, int] = field(default_factory=dict)
    flagged: Mapping[str, int] = field(default_factory=dict)
    rate_hz: int = 0
    shards: Sequence[str] = ()

    def __repr__(self) -> str:
        extracted = f"{self.extracted} of {len(self.plan.todo)} extracted"
        present = f"{self.plan.present} present before"
        failed = f"{len(self.failures)} failed" if self.failures else ""
        return brief(self, extracted, present, failed, str(self.store))

    def log_sound(self) -> None:
        """Log what is unusual about the sound of the utterances."""
        for rate_hz, n in sorted(self.resampled.items()):
            lost = f"; nothing above {rate_hz // 2} Hz is in them" if rate_hz < self.rate_hz else ""
            log.info("%d utterances resampled from %d to %d Hz%s", n, rate_hz, self.rate_hz, lost)
        if self.flagged:
            counts = ", ".join(f"{flag} {n}" for flag, n in sorted(self.flagged.items()))
            text = "%s: unusual sound, extracted nevertheless: %s (`probe show` names them)"
            log.info(text, self.store, counts)

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
            "free_bytes": self.plan.free_bytes if self.plan.free_bytes < UNLIMITED else None,
            "extracted": self.extracted,
            "resampled": {str(rate_hz): n for rate_hz, n in self.resampled.items()},
            "failures": {failure.key: failure.reason for failure in self.failures},
        }


def extract(
    model: str | ModelName | Encoder | Plugin,
    corpus: str | Path | Corpus,
    to: str | Path,
    *,
    condition: str | Condition | Disturbance = CLEAN,
    storing: Storing = STORING,
    running: Running = RUNNING,
    decoding: Decoding = DECODING,
    dry_run: bool = False,
) -> Extraction:
    """Write the missing features of a corpus into the store of this model, view and recipe below
    ``to``. Several runs may write into one store at the same time and share the work.

    Args:
        model: SPEC or NAME=SPEC (see `probe.model_names`), an open encoder, or a plug-in object.
        corpus: a manifest, ``librispeech:ROOT#subsets``, or a loaded corpus.
        to: the folder of all stores.
        condition: what is done to the audio: a text (``docs/conditions.md``), a parsed condition
            (which has a seed), or one that is open at the model's rate.
        storing: what is stored, of which utterances, in which form.
        running: how the model runs.
        decoding: how audio files are read.
        dry_run: only make the plan.

    Returns:
        What was done; its ``failures`` name the utterances that could not be used.

    Raises:
        ProbeError: the corpus, the condition, the model or the disk cannot be used, or the model
            fails its check or has no CTC head.
    """
    if dry_run and not storing.share.is_whole:
        raise UsageError(
            f"--shard {storing.share}: --dry-run plans for all shares. Leave one of them out."
        )
    if isinstance(condition, str):
        condition = parse_condition(condition)
    whole = corpus if isinstance(corpus, Corpus) else load_corpus(corpus, decoding.audio_root)
    corpus = whole.limited(storing.limit).of_splits(storing.splits)
    if storing.splits is not None and not corpus.utterances:
        raise UsageError(
            f"{corpus.name}: no rows of split {' or '.join(sorted(storing.splits))}; "
            "nothing to extract."
        )
    audio_folder = None if decoding.audio_root is None else Path(decoding.audio_root)
    root = as_path(to)
    is_new = not root.exists()
    # A complete store may lie in a folder that cannot be written.
    if not dry_run and not any(root.glob("*/*/recipe.json")):
        require_writable(root)
    encoder = model if isinstance(model, Encoder) else open_encoder(model, running)
    info = encoder.info
    spec = info.spec or info.id
    name = info.requested or ModelName(own_name(spec), spec)
    for note in info.notes:
        log.info("%s: %s", name.name, note)
    layers = choose_layers(
        storing.layers, list(info.every_layer), info.aliases, info.id, list(info.layers)
    )
    if storing.ctc and not info.ctc:
        raise _without_ctc_head(name.name, info)
    disturbance = condition if isinstance(condition, Disturbance) else None
    if isinstance(condition, Condition):
        disturbance = open_condition(condition, info.rate_hz, whole, audio_folder)
    if disturbance is not None and disturbance.rate_hz != info.rate_hz:
        raise UsageError(
            f"{name.name}: wants {info.rate_hz} Hz; "
            f"the condition was opened at {disturbance.rate_hz} Hz."
        )
    recipe = recipe_of(encoder, layers, storing, disturbance)
    n_decoders = decoding.workers or min(MOST_DECODERS, allowed_cores())
    decoders = [
        Decoder(audio_folder, decoding.isolate, decoding.timeout_s) for _ in range(n_decoders)
    ]
    path = store_path(root, recipe, name.name if name.is_alias else None)
    begun = FeatureStore(path) if (path / "recipe.json").exists() else None
    content = storing.content(layers)
    job = _Job(corpus, encoder, content, root, decoders, disturbance, storing.share)
    refusal = None if dry_run else _refusal(path)
    if dry_run or refusal:
        with decoders[0]:
            plan = job.plan(begun)
        if refusal and plan.todo:
            raise refusal
        if refusal:
            log.info("%s: %s", path, plan.describe())
        return Extraction(path, plan, plan.failed if refusal else [], 0, 0.0)
    with ExitStack() as stack:
        for decoder in decoders:
            stack.enter_context(decoder)
        stack.callback(remove_empty, path, root if is_new else None)
        claims = stack.enter_context(Claims(path, running.dead_hosts))
        claims.sweep()
        rest = job.plan(begun) if begun and begun.jobs else None
        if rest is None or rest.fresh:  # one run begins the store and plans; the others wait
            claims.wait_for(PLAN)
            rest = None
            begun = FeatureStore(path) if (path / "recipe.json").exists() else None
        threads = begun.environment["threads"] if begun else None
        look = stack.enter_context(computing_on(encoder, running.threads, threads))
        certificate = None
        if running.check:
            named = isinstance(model, str | ModelName)
            certificate = _certified(path.parent, encoder, recipe, named)
        store = create_store(root, name, recipe, environment_of(encoder))
        if certificate is not None and store.certificate != certificate:
            store.write_certificate(certificate)
        head = getattr(encoder, "ctc_head", None) if storing.ctc else None
        if head is not None and store.ctc_head is None:
            store.write_ctc_head(head)
        rest_bytes = running.memory_bytes - SHARDS_BYTES
        row_bytes = 4 * sum(info.every_layer[layer] for layer in layers)
        # Twice the frames of all layers of a batch.
        encoder.rows = min(encoder.rows, max(FEWEST_ROWS, rest_bytes // 4 // row_bytes))
        ahead_bytes = min(AHEAD_BYTES, rest_bytes // 2)
        workers = decoding.workers or 1
        job = replace(job, first_decoders=workers, ahead_bytes=ahead_bytes, between=look)
        return job.write(store, claims, rest)


def open_encoder(model: str | ModelName | Plugin, running: Running) -> Encoder:
    """The encoder that a name or a plug-in object stands for, in the form that ``running`` asks
    for.
    """
    form = (running.implementation, running.precision, running.chunk_s, running.context_s)
    return open_model(model, running.device, running.sha256, *form)


def _without_ctc_head(name: str, info: ModelInfo) -> ProbeError:
    if info.id.startswith(RANDOM):
        return ProbeError(
            f"{name}: random weights have no CTC head. "
            "Leave --ctc out, or name a fine-tuned checkpoint."
        )
    why = next((note for note in info.notes if "CTC head" in note), "its class has none")
    return ProbeError(
        f"{name}: no CTC head can be run ({why}). Leave --ctc out, or name a fine-tuned "
        "checkpoint, such as those of `probe models` with CTC under what they were trained on."
    )


def _refusal(folder: Path) -> ProbeError | None:
    """Why the folder of a store cannot be written; None if it can."""
    try:
        require_writable(folder)
    except ProbeError as error:
        return error
    return None


def recipe_of(
    encoder: Encoder,
    layers: Sequence[str],
    storing: Storing = STORING,
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
        "view": storing.stored_view,
        "condition": disturbance.condition.name if disturbance else CLEAN,
        "audio": dict(audio.SETTINGS),
        "implementation": encoder.implementation,
        "precision": encoder.precision,
        "dtype": storing.dtype,
        "chunking": asdict(encoder.chunking) if encoder.chunking else None,
    }
    recipe |= {"disturbance": disturbance.recipe} if disturbance else {}
    recipe |= {"ctc": dict(info.ctc)} if storing.ctc else {}
    recipe |= {"compression": storing.compression} if storing.compression != "none" else {}
    return recipe


def _certified(
    stores: Path, encoder: Encoder, recipe: Mapping[str, Any], named: bool
) -> dict[str, Any]:
    """The certificate of an encoder: from a store in this folder with the same libraries and
    device, from the user's cache, or a new one.

    Args:
        named: whether it was opened by its name; objects have no entry in the cache, since their
            code is not known.

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
    for certificate in sorted(before, key=lambda item: item["quick"]):
        if certificate["passed"] and now.items() <= certificate.items():
            return certificate
    decides = {**now, "model": recipe["model"], "chunking": recipe["chunking"]}
    if named and (cached_certificate := kept_certificate(decides)):
        return cached_certificate
    outcome = check_model(encoder, quick=True)
    log.info("%s: %s", encoder.info.id, outcome.summary())
    if outcome.failed:
        failures = "".join(
            f"\n  {item.check}: {item.found}; expected {item.expected}" for item in outcome.failed
        )
        raise ProbeError(
            f"{encoder.info.id}: its features cannot be trusted, {len(outcome.failed)} checks "
            f"failed:{failures}\n`probe check` shows all of them; --no-check extracts nevertheless."
        )
    if named:
        keep_certificate(decides, outcome.as_json())
    return outcome.as_json()


def environment_of(encoder: Encoder) -> dict[str, Any]:
    """What computes a store besides its recipe; a difference only causes a warning.

    ``threads`` is 0 if no bit depends on their number.
    """
    return {
        "packages": package_versions(),
        "code": code_version()["version"],
        "device": device_name(encoder.device),
        "threads": torch.get_num_threads() if may_decide_bits(encoder) else 0,
    }


@dataclass(frozen=True)
class _Job:
    """The utterances of a corpus for one store."""

    corpus: Corpus
    encoder: Encoder
    content: Content
    root: Path
    decoders: Sequence[Decoder]
    disturbance: Disturbance | None
    share: Share | Part
    first_decoders: int = 1
    ahead_bytes: int = AHEAD_BYTES
    between: Callable[[], None] = lambda: None  # called between utterances

    def plan(self, store: FeatureStore | None) -> Plan:
        """What is missing in the store."""
        stretch = self.disturbance.condition.stretch if self.disturbance else 1.0
        header_duration_s = self.decoders[0].header_duration_s
        return make_plan(
            self.corpus, self.encoder, self.content, store, self.root, header_duration_s, stretch
        )

    @contextmanager
    def pieces(self, utterances: Iterator[Utterance]) -> Iterator[Pieces]:
        """Decode and encode utterances; see `probe.extraction.forward.encoded`."""
        rate_hz, ahead = self.encoder.info.rate_hz, (self.first_decoders, self.ahead_bytes)
        audio_of = decoded(utterances, rate_hz, self.decoders, *ahead, self.disturbance)
        heard = map(self._heard, audio_of)
        # The generators are closed here: the garbage collector may end one in any thread, and it
        # waits for its own threads.
        with closing(audio_of), closing(encoded(heard, self.encoder, self.content)) as pieces:
            yield pieces

    def _heard(self, item: Heard) -> Heard:
        self.between()
        return item

    def write(self, store: FeatureStore, claims: Claims, plan: Plan | None) -> Extraction:
        """Extract what is missing in a store.

        Args:
            claims: of this run, among them the one to plan if ``plan`` is None.
            plan: what is missing if all of it is in a plan of the store; None makes a plan.
        """
        plan = plan or self.plan(store)
        _require_space(store, plan)
        _warn_of_other_environment(store, self.encoder)
        log.info("%s: %s", store.path, plan.describe())
        started = time.monotonic()
        jobs = plan.pending + (store.add_plan(plan.fresh) if plan.fresh else [])
        claims.release(PLAN)
        if isinstance(self.share, Part) and self.share.names is None:
            of_share = _of_share(self.share.share, jobs, store)
            shards = [job.name for job in of_share]
            return Extraction(store.path, plan, plan.failed, 0, 0.0, shards=shards)
        if not self.share.is_whole:
            jobs, plan = self._share_of(jobs, plan, store)
        name = self.encoder.info.id
        bar = Bar(total=plan.audio_s, desc=name, disable=None if plan.todo else True)
        tally = Tally(bar, self.encoder.info.rate_hz)
        of_shards = (self.corpus.columns, self.content.layers, environment_of(self.encoder))
        with bar:
            shared = SharedJobs(plan, Shards(store, claims, *of_shards), self.pieces, tally)
            failures = plan.failed + shared.write(jobs)
            # Files that failed are not always as long as planned.
            bar.update(max(0.0, bar.total - bar.n))
        tally.report()
        seconds = time.monotonic() - started
        failures += tally.failures
        sound = (tally.resampled, tally.flagged, tally.rate_hz)
        done = Extraction(store.path, plan, failures, tally.extracted, seconds, *sound)
        done.log_sound()
        return done

    def _share_of(
        self, jobs: Sequence[Job], plan: Plan, store: FeatureStore
    ) -> tuple[list[Job], Plan]:
        """The jobs of this run's share, and their plan."""
        own = _of_share(self.share, jobs, store)
        keys = {key for job in own for key in job.keys}
        utterances = tuple(item for item in plan.todo if item.key in keys)
        part = replace(self, corpus=replace(self.corpus, utterances=utterances)).plan(store)
        if isinstance(self.share, Share):
            text = "%s: share %s has %d of the %d shards to write (%.2f h of audio)"
            hours = part.audio_s / 3600
            log.info(text, store.path, self.share, len(own), len(jobs), hours)
        todo = [*utterances]
        return own, replace(part, present=plan.present, failed=plan.failed, todo=todo)


def _of_share(share: Share | Part, jobs: Sequence[Job], store: FeatureStore) -> list[Job]:
    return [job for job in jobs if share.has(f"{store.recipe_sha256} {job.name}")]


def _require_space(store: FeatureStore, plan: Plan) -> None:
    if plan.n_bytes <= plan.free_bytes:
        return
    if not store.jobs:
        discard_store(store.path)
    fitting = plan.describe_choices(plan.free_bytes)
    advice = "No view of it would fit; name another disk"
    if fitting:
        advice = f"What would fit: {listed(fitting, 4)}"
    raise ProbeError(
        f"{store.path}: about {human_bytes(plan.n_bytes)} to write, "
        f"{human_bytes(plan.free_bytes)} free. {advice}."
    )


def _warn_of_other_environment(store: FeatureStore, encoder: Encoder) -> None:
    """Log what differs from the environment in which the store was begun and may decide a bit."""
    text = "%s was begun with %s %s; now it is %s"
    for name, value in sorted(environment_of(encoder).items()):
        if store.environment.get(name) != value:
            log.warning(text, store.path, name, store.environment.get(name), value)
